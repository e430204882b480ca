/*
 * An origin: the servers of one repository and the proxies on the way, tried as the stock client tries them.
 *
 * Servers in order, the working one sticks; proxy groups with load balancing inside a group, a failing proxy is burned,
 * the next group follows when one is used up; transfer errors are retried with back-off on the same path. Which
 * fault is whose: 5xx, 400, 404 the server's (unless a proxy error header says otherwise); 429 a connection problem;
 * other 4xx the proxy's, if there is one. A body that its consumer calls -EBADMSG is fetched once more past all caches,
 * then from the next server. Never DIRECT unless configured. The rules are in origin_policy.h.
 *
 * A request ends in bounded time. With S servers, P proxies (DIRECT counts) and R retries, it makes at most
 * S * 2P + R attempts (the 2 only where bytes come damaged). An attempt connects within its time-out, then receives at
 * least 1024 bytes/s or ends within one and a half time-outs; so a consumer that refuses a body longer than it expects
 * bounds the attempt, too. Pauses before retries are at most R times the longest back-off. Time in the engine's queue,
 * waiting for other requests to end, comes on top. Defaults, two servers, one proxy that accepts and says nothing:
 * under a minute.
 *
 * A name of a proxy or server that has several addresses is one proxy or server: the addresses are tried within the
 * connect time-out.
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
	unsigned max_retries;			  /* of a request: same path, after transfer errors; stock 1 */
	unsigned backoff_init_ms, backoff_max_ms; /* 0: 2 s, 10 s */
	unsigned proxy_reset_ms, host_reset_ms;	  /* 0: 300 s, 1800 s */
};

/* -EINVAL says what is wrong with servers or proxies. Strings are copied. http must outlive the origin. */
int lm_origin_new(struct lm_http *http, const struct lm_origin_config *config, struct lm_origin **ret,
	struct lm_err *err) MUST_CHECK;
void lm_origin_free(struct lm_origin *origin); /* after all its requests are done */
LM_DEFINE_CLEANUP(struct lm_origin, lm_origin_free, lm_origin_freep)

enum {
	LM_ORIGIN_PAUSE = 1, /* of data: nothing was taken, the same bytes come again after lm_origin_resume() */
	LM_ORIGIN_LATER = 1, /* of end: lm_origin_verdict() will say */
};

/* All called on the engine's thread; none may block for long. */
struct lm_origin_consumer {
	int (*begin)(void *arg, struct lm_err *err); /* a new attempt: forget earlier bytes; may be NULL */
	int (*data)(void *arg, const void *data, size_t len, struct lm_err *err);
	/* The body is complete: 0 accepts it. -EBADMSG (of data, too): damaged, try elsewhere. Others end the request.
	 * May be NULL. */
	int (*end)(void *arg, struct lm_err *err);
	/* Exactly once, last. code: 0; -ENOENT every server says 404; -EBADMSG every server sends damaged bytes (or has
	 * nothing); -EIO, -ETIMEDOUT a server could not be had; what begin, data or end returned; -ECANCELED the engine
	 * was freed. err names repository, path, and the last fault of each kind with its URL and proxy. The origin may
	 * be freed from here on, when this was its last request. */
	void (*done)(void *arg, int code, const struct lm_err *err);
	void *arg;
	void (*woken)(void *arg); /* after lm_origin_wake(), once or more; NULL if that is not used */
};

/* path: below the server's base URL, e.g. "data/c3/9b…". Any thread. After an error nothing is called. */
int lm_origin_get(struct lm_origin *origin, const char *path, enum lm_http_priority priority, bool no_cache,
	const struct lm_origin_consumer *consumer, struct lm_err *err) MUST_CHECK;

/* The same with a handle on the request, which is valid until done() returns. */
struct lm_origin_request;
int lm_origin_start(struct lm_origin *origin, const char *path, enum lm_http_priority priority, bool no_cache,
	const struct lm_origin_consumer *consumer, struct lm_origin_request **ret, struct lm_err *err) MUST_CHECK;
/* Any thread: has woken() called soon, where the calls below are allowed. Never waits. */
void lm_origin_wake(struct lm_origin_request *request);
/* On the engine's thread: */
void lm_origin_resume(struct lm_origin_request *request);
void lm_origin_set_priority(struct lm_origin_request *request, enum lm_http_priority priority);
/* What end() left open: a code as it would have returned. Another attempt may begin, or done() be called, in here. */
void lm_origin_verdict(struct lm_origin_request *request, int code, const struct lm_err *err);

/* Whether it is there, by HEAD: as above, with data never called, and damage unknown. */
int lm_origin_head(struct lm_origin *origin, const char *path, enum lm_http_priority priority,
	const struct lm_origin_consumer *consumer, struct lm_err *err) MUST_CHECK;

/* Blocking, for programs (not on the engine's thread): appends to body, whose max bounds it (-EMSGSIZE); after
 * an error body is as before. */
int lm_origin_get_buf(struct lm_origin *origin, const char *path, struct lm_buf *body, struct lm_err *err) MUST_CHECK;

struct lm_origin_stats {
	uint64_t requests, failed, bytes; /* attempts on the wire, those of them that failed; body bytes of all */
};
void lm_origin_stats(struct lm_origin *origin, struct lm_origin_stats *ret);

#endif
