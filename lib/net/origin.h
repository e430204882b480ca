/*
 * An origin: the servers of one repository and the proxies on the way, tried as the stock client tries them.
 *
 * Servers in order, the working one sticks; proxy groups with load balancing inside a group, a failing proxy is burned,
 * the next group follows when one is used up; transfer errors are retried with back-off on the same path, but a refused
 * connection is tried elsewhere at once where there is another way. Which fault is whose: 5xx, 400, 404 the server's
 * (unless a proxy error header says otherwise); 429 a connection problem; other 4xx the proxy's, if there is one. A
 * body that its consumer calls -EBADMSG is fetched once more past all caches, then from the next server. Never DIRECT
 * unless configured. The rules are in origin_policy.h.
 *
 * A request ends in bounded time. With S servers, P proxies (every address counts, DIRECT too) and R retries, it makes
 * at most S * 2P + R attempts (the 2 only where bytes come damaged); where connections are refused and R > 0, or where
 * a second proxy is asked about what the first one says of all servers, twice that. An attempt connects within its
 * time-out, then receives at the lowest speed allowed or ends within one and a half time-outs; so a consumer that
 * refuses a body longer than it expects bounds the attempt, too. Pauses before retries, and one before everything is
 * tried again, are at most the longest back-off each. Time in the engine's queue, waiting for other requests to end,
 * comes on top, and the time to look up names of proxies (bounded likewise) where none of their addresses is known.
 * Defaults, two servers, one proxy that accepts and says nothing: under a minute.
 *
 * Names of proxies are looked up again when their answers are too old, while requests go on by the old ones. Every
 * address counts as a proxy, except of https:// proxies, which have to be called by their names; a name that can't be
 * looked up is left to the system's resolver, as a proxy by that name. A server's name is one server: its addresses are
 * tried within the connect time-out.
 *
 * An origin none of whose servers could be had is offline until one answers: so long requests are not retried on the
 * same path, so that they fail sooner. Each begins at the first servers and proxies again, so the first request after
 * the fault ended succeeds.
 */
#ifndef LM_NET_ORIGIN_H
#define LM_NET_ORIGIN_H

#include "net/http.h"

struct lm_origin;

/* Strings are copied. 0, NULL and false are the defaults. */
struct lm_origin_config {
	const char *servers; /* CVMFS_SERVER_URL: "http://a/cvmfs/@fqrn@;http://b/cvmfs/@fqrn@" (also @org@) */
	const char *proxies; /* CVMFS_HTTP_PROXY: "http://p1:3128|http://[2001:db8::1]:3128;DIRECT" */
	/* CVMFS_FALLBACK_PROXY: groups after all others. DIRECT is left out of both lists where there is one. */
	const char *fallback_proxies;
	const char *fqrn;
	unsigned max_servers;	    /* CVMFS_MAX_SERVERS: the first so many, after sorting; 0: all */
	bool use_geoapi;	    /* CVMFS_USE_GEOAPI: servers and fallback proxies sorted by distance */
	bool proxy_shard;	    /* CVMFS_PROXY_SHARD: inside a group a path has its own proxy */
	unsigned ip_family;	    /* CVMFS_IPFAMILY_PREFER: of proxies' addresses, 4 or 6; 0: 4 */
	unsigned max_proxy_ips;	    /* CVMFS_MAX_IPADDR_PER_PROXY; 0: LM_RESOLVE_MAX */
	const char *dns_server;	    /* CVMFS_DNS_SERVER: for names of proxies; NULL: the system's */
	unsigned dns_timeout_ms;    /* CVMFS_DNS_TIMEOUT: of one question; 0: 3 s */
	unsigned dns_retries;	    /* CVMFS_DNS_RETRIES */
	unsigned dns_min_ttl_s;	    /* CVMFS_DNS_MIN_TTL; 0: 60 */
	unsigned dns_max_ttl_s;	    /* CVMFS_DNS_MAX_TTL; 0: 86400 */
	bool follow_redirects;	    /* CVMFS_FOLLOW_REDIRECTS */
	bool send_info_header;	    /* CVMFS_SEND_INFO_HEADER: "cvmfs-info: PATH" */
	unsigned low_speed_limit;   /* CVMFS_LOW_SPEED_LIMIT: bytes/s; 0: 1024 */
	const char *ca_file;	    /* LAMELLA_CA_FILE: a bundle */
	const char *ca_path;	    /* X509_CERT_DIR: a folder of certificates by hash */
	bool site_ca_only;	    /* CVMFS_USE_SSL_SYSTEM_CA=no: only ca_file and ca_path are trusted */
	unsigned timeout_ms;	    /* CVMFS_TIMEOUT: through proxies; 0: 5 s */
	unsigned timeout_direct_ms; /* CVMFS_TIMEOUT_DIRECT; 0: 10 s */
	unsigned max_retries;	    /* CVMFS_MAX_RETRIES: of a request: same path, after transfer errors; stock 1 */
	unsigned backoff_init_ms;   /* CVMFS_BACKOFF_INIT; 0: 2 s */
	unsigned backoff_max_ms;    /* CVMFS_BACKOFF_MAX; 0: 10 s */
	unsigned proxy_reset_ms;    /* CVMFS_PROXY_RESET_AFTER; 0: 300 s */
	unsigned host_reset_ms;	    /* CVMFS_HOST_RESET_AFTER; 0: 1800 s */
	/* Requests that fail one after the other are told so later and later, from 32 ms doubling to this. 0: at once.
	 */
	unsigned failure_pause_max_ms;
};

/* -EINVAL says what is wrong with servers or proxies, without their passwords. http must outlive the origin. */
int lm_origin_new(struct lm_http *http, const struct lm_origin_config *config, struct lm_origin **ret,
	struct lm_err *err) MUST_CHECK;
void lm_origin_free(struct lm_origin *origin); /* after all its requests are done */
LM_DEFINE_CLEANUP(struct lm_origin, lm_origin_free, lm_origin_freep)

/* fn is called after each attempt that succeeded, on the engine's thread; it must not block, nor call the origin. To be
 * set before the first request. */
void lm_origin_on_success(struct lm_origin *origin, void (*fn)(void *arg), void *arg);

/* Whether lm_origin_new() would take it. Needs no engine. */
int lm_origin_check(const struct lm_origin_config *config, struct lm_err *err) MUST_CHECK;

/* Other rules from now on; requests under way end by the old ones. What is known of servers and proxies that stay
 * (burned, in use, counters) is kept. After an error nothing changed. Any thread. fqrn must be the same. */
int lm_origin_reconfigure(
	struct lm_origin *origin, const struct lm_origin_config *config, struct lm_err *err) MUST_CHECK;

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
	const char *info;	  /* what is wanted, for the header of send_info_header; NULL: the path */
};

struct lm_http *lm_origin_http(const struct lm_origin *origin);

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

/* What administrators are shown. */

enum { LM_ORIGIN_LATENCIES = 14 }; /* the first: below 1 ms, the next: below 2 ms, 4 ms …, the last: everything else */

struct lm_origin_stats {
	uint64_t requests, failed, bytes; /* attempts on the wire, those of them that failed; body bytes of all */
	uint64_t given_up;		  /* requests that could not be had anywhere */
	uint64_t failovers;		  /* to another server or proxy */
	uint64_t past_caches;		  /* fetched once more, since what came was damaged */
	unsigned in_flight;		  /* requests not done */
	bool offline;
	uint64_t latency[LM_ORIGIN_LATENCIES]; /* from the request on the wire to its answer's header */
};
void lm_origin_stats(struct lm_origin *origin, struct lm_origin_stats *ret);

enum lm_origin_state { LM_ORIGIN_IN_USE, LM_ORIGIN_STANDBY, LM_ORIGIN_BURNED };

struct lm_origin_place {
	bool proxy;	  /* else a server */
	const char *url;  /* without password; "DIRECT" */
	const char *name; /* of a proxy: as configured, without password; the same as url unless url has its address */
	unsigned group;	  /* of a proxy, from 0 */
	bool fallback;	  /* proxy of CVMFS_FALLBACK_PROXY */
	enum lm_origin_state state;
	unsigned burned_ms;	   /* left, for a burned proxy; for servers: until the first one is asked again, or 0 */
	uint64_t requests, failed; /* attempts */
	uint64_t bytes;
	uint64_t latency[LM_ORIGIN_LATENCIES];
	const char *error; /* the last one, "" if there was none */
	int64_t error_ms;  /* when it was, lm_now_ms() */
};

/* Servers in order, then proxies in order. Calls fn on this thread, without locks; strings last until it returns.
 * -ENOMEM.
 */
int lm_origin_describe(
	struct lm_origin *origin, void (*fn)(void *arg, const struct lm_origin_place *place), void *arg) MUST_CHECK;

#endif
