/*
 * An origin: the servers of one repository and the proxies on the way, tried as the stock client tries them.
 *
 * Servers in order, the working one sticks; proxy groups with load balancing inside a group, a failing proxy is burned,
 * the next group follows when one is used up; transfer errors are retried once with back-off on the same path. Which
 * fault is whose: 5xx, 400, 404 the server's (unless a proxy error header says otherwise); 429 a connection problem;
 * other 4xx the proxy's, if there is one. A body that its consumer calls -EBADMSG is fetched once more past all caches,
 * then from the next server. Never DIRECT unless configured. A request ends in bounded time.
 */
#ifndef LM_NET_ORIGIN_H
#define LM_NET_ORIGIN_H

#include "net/http.h"

struct lm_origin;

struct lm_origin_config {
	const char *servers; /* "http://a/cvmfs/@fqrn@;http://b/cvmfs/@fqrn@" (also @org@) */
	const char *proxies; /* "http://p1:3128|http://p2:3128;DIRECT" */
	const char *fqrn;
	unsigned timeout_ms;			  /* through proxies; 0: 5 s */
	unsigned timeout_direct_ms;		  /* 0: 10 s */
	unsigned max_retries;			  /* same path, after transfer errors; stock 1 */
	unsigned backoff_init_ms, backoff_max_ms; /* 0: 2 s, 10 s */
	unsigned proxy_reset_ms, host_reset_ms;	  /* 0: 300 s, 1800 s */
};

/* -EINVAL says what is wrong with servers or proxies. http must outlive the origin. */
int lm_origin_new(struct lm_http *http, const struct lm_origin_config *config, struct lm_origin **ret,
	struct lm_err *err) MUST_CHECK;
void lm_origin_free(struct lm_origin *origin); /* after all its requests are done */
LM_DEFINE_CLEANUP(struct lm_origin, lm_origin_free, lm_origin_freep)

/* All called on the engine's thread; none may block for long. */
struct lm_origin_consumer {
	int (*begin)(void *arg, struct lm_err *err); /* a new attempt: forget earlier bytes */
	int (*data)(void *arg, const void *data, size_t len, struct lm_err *err);
	/* The body is complete: 0 accepts it. -EBADMSG: damaged, try elsewhere. Others end the request. */
	int (*end)(void *arg, struct lm_err *err);
	/* Exactly once. code: 0; -ENOENT every server says 404; -EBADMSG every server sends damaged bytes; -EIO,
	 * -ETIMEDOUT no server could be reached; what begin, data or end returned. err names repository, path, and the
	 * last fault of each kind. */
	void (*done)(void *arg, int code, const struct lm_err *err);
	void *arg;
};

/* path: below the server's base URL, e.g. "data/c3/9b…" */
int lm_origin_get(struct lm_origin *origin, const char *path, enum lm_http_priority priority, bool no_cache,
	const struct lm_origin_consumer *consumer, struct lm_err *err) MUST_CHECK;

/* Blocking, for programs: appends to body. */
int lm_origin_get_buf(struct lm_origin *origin, const char *path, struct lm_buf *body, struct lm_err *err) MUST_CHECK;

struct lm_origin_stats {
	uint64_t requests, failed, bytes; /* attempts on the wire; body bytes */
};
void lm_origin_stats(struct lm_origin *origin, struct lm_origin_stats *ret);

#endif
