/*
 * HTTP client: one engine, one thread, curl-multi inside.
 *
 * lm_http_start() queues a request and returns; data and completion are delivered on the engine's thread by callbacks,
 * which must not block. HTTP/1.1 with keep-alive connections, a limit per host (the proxy, where there is one), three
 * priorities: a request of a better class leaves the queue first, and the lower two never take all connections, so that
 * a blocked read needs not wait for their ends.
 *
 * Every request ends in bounded time: connecting is limited (names are resolved in that time, too), a running transfer
 * ends with -ETIMEDOUT between one and one and a half stall times after it became slow, and lm_http_free() ends what
 * is left with -ECANCELED.
 *
 * Strict where curl is lenient: a 2xx answer tells its length or is chunked, contents are passed on as they are
 * (nothing is inflated), a short body is -EIO, a redirect never leads from https to http, the environment (proxy
 * variables) is not looked at.
 *
 * A request goes to one URL through one proxy, once. Choosing among servers and proxies is origin.h.
 */
#ifndef LM_NET_HTTP_H
#define LM_NET_HTTP_H

#include "base/buf.h"

#include <stdbool.h>

struct lm_http;
struct lm_http_transfer;

enum lm_http_priority { LM_HTTP_BLOCKED_READ, LM_HTTP_READ_AHEAD, LM_HTTP_PREFETCH, LM_HTTP_PRIORITIES };

struct lm_http_limits {
	unsigned max_connections; /* in all; 0: 64 */
	unsigned max_per_host;	  /* 0: 16 */
	const char *user_agent;	  /* NULL: "lamella/VERSION" */
};

int lm_http_new(const struct lm_http_limits *limits, struct lm_http **ret, struct lm_err *err) MUST_CHECK;
/*
 * Ends transfers with -ECANCELED and waits until all callbacks have returned; from then on requests are refused, and
 * calls run at once, still on the engine's thread. May be repeated: it waits for what was asked for since. Not from a
 * callback.
 */
void lm_http_stop(struct lm_http *http);
void lm_http_free(struct lm_http *http); /* stops, and joins the thread */
LM_DEFINE_CLEANUP(struct lm_http, lm_http_free, lm_http_freep)

struct lm_http_result {
	int code; /* 0; -EIO or -ETIMEDOUT transport; -ECANCELED; what on_data returned; an HTTP status is no error here
		   */
	unsigned status;	/* HTTP status of the answer, 0 if none came */
	bool proxy_error;	/* X-Squid-Error or Proxy-Status: …error= in the answer */
	bool before_connect;	/* failed before any byte was sent: whose fault is clear */
	uint64_t body_bytes;	/* given to on_data */
	uint64_t wire_bytes;	/* received: headers, bodies of refusals, too */
	int64_t total_us;	/* since lm_http_start(), waiting for a connection included */
	int64_t answer_us;	/* from the request on the wire to the end of the answer's header; 0: none came */
	unsigned retry_after_s; /* Retry-After of the answer, a number or a date; 0: none */
	const char *where;	/* for messages: URL and proxy without passwords; during on_done only */
	struct lm_err err;	/* message for code != 0 */
};

/* What a PUT carries: data, or the first len bytes of a file (whatever its position), read as they are sent. Both are
 * the caller's and stay as they are until on_done. The same bytes may be sent again on another connection. */
struct lm_http_upload {
	const void *data; /* NULL: of fd */
	uint64_t len;
	int fd;
};

/* Who signs a request, AWS Signature Version 4. The caller gives x-amz-content-sha256 among the headers, and a query
 * in its canonical form: sorted, each name with its "=", all but unreserved characters as %XX. Copied. */
struct lm_http_signer {
	const char *region, *service, *access_key, *secret_key;
};

struct lm_http_request {
	const char *url;
	const char *proxy;  /* "http://host:port"; NULL: none, whatever the environment says */
	const char *method; /* NULL: GET; "HEAD"; "POST" with a body, and without following redirects */
			    /* "PUT" with an upload; "DELETE" */
	const char *body;   /* of a POST; text */
	const struct lm_http_upload *upload; /* of a PUT */
	const struct lm_http_signer *signer; /* NULL: not signed */
	const char *const *headers;	     /* NULL-terminated "Name: value"; may be NULL */
	enum lm_http_priority priority;
	unsigned connect_timeout_ms; /* 0: 10 s */
	unsigned stall_timeout_ms;   /* slower than slow_bytes_per_s for that long ends it; 0: 10 s */
	unsigned slow_bytes_per_s;   /* 0: 1024 */
	bool follow_redirects;	     /* up to 8; Authorization headers are not sent on to another host */
	bool no_cache;		     /* asks caches on the way for a fresh copy */
	const char *ca_file;	     /* for https: CA bundle instead of the system's; NULL: system's */
	const char *ca_path;	     /* folder of CA certificates by hash, instead of the system's; NULL: system's */
	bool no_system_ca;	     /* only ca_file, ca_path and ca_pem are trusted */
	const char *ca_pem; /* CA certificates themselves, instead of ca_file; the system's folder stays trusted */
	const char *cert_file, *key_file; /* PEM files of a client certificate, shown to servers that ask; NULL: none */
	/* The status of the final answer, once, before its headers and body. May be NULL. */
	void (*on_answer)(void *arg, unsigned status);
	/* Body bytes of a 2xx answer; may be NULL. Bodies of other answers are read, to keep the connection.
	 * 0, or negative to end the transfer with that code. */
	int (*on_data)(void *arg, const void *data, size_t len, struct lm_err *err);
	/* Body bytes of another answer, 16 KiB at most: what the server says for a reason. May be NULL. */
	void (*on_refusal)(void *arg, const void *data, size_t len);
	/* Header lines of the final answer, name lower-case. May be NULL. */
	void (*on_header)(void *arg, const char *name, const char *value);
	/* Exactly once, last. May start other requests. */
	void (*on_done)(void *arg, const struct lm_http_result *result);
	void *arg;
};

/* Copies what the request points to. ret may be NULL; it stays valid until on_done. -EINVAL for a URL, proxy, method or
 * header that can't be used: no callback follows an error. */
int lm_http_start(struct lm_http *http, const struct lm_http_request *request, struct lm_http_transfer **ret,
	struct lm_err *err) MUST_CHECK;
/* From callbacks (of any transfer) or through lm_http_call only (engine thread); on_done follows with -ECANCELED after
 * the callback has returned, no other callback does. */
void lm_http_cancel(struct lm_http_transfer *transfer);
/* Runs fn on the engine thread soon, after at least delay_ms. For retries with back-off. After free began, fn is still
 * called (at once), so that arg can be released. */
int lm_http_call(struct lm_http *http, unsigned delay_ms, void (*fn)(void *arg), void *arg) MUST_CHECK;

/* Blocking helper for programs (not for the engine's thread; callbacks of request are replaced, except on_answer and
 * on_header, whose arg stays): body appended to body, whose max bounds it. Result's code
 * is returned, and statuses other than 2xx are made errors: 404 -ENOENT, 401/403 -EACCES, others -EIO. After an
 * error body is as before. result may be NULL; it is filled in whenever a request was started. */
int lm_http_get(struct lm_http *http, const struct lm_http_request *request, struct lm_buf *body,
	struct lm_http_result *result, struct lm_err *err) MUST_CHECK;

/* Blocking stream for big bodies, with back-pressure: at most window bytes (64 KiB at least) are held; while they are
 * not read, the connection waits and does not count as stalled. Callbacks as with lm_http_get(). One thread at a time;
 * not the engine's. An error is told after the bytes before it, and stays. Closing is allowed after lm_http_free(). */
struct lm_http_stream;
int lm_http_stream_open(struct lm_http *http, const struct lm_http_request *request, size_t window,
	struct lm_http_stream **ret,
	struct lm_err *err) MUST_CHECK; /* waits for the status line; not 2xx is an error as above */
ssize_t lm_http_stream_read(
	struct lm_http_stream *stream, void *ret, size_t len, struct lm_err *err) MUST_CHECK; /* 0 at the end */
void lm_http_stream_close(struct lm_http_stream *stream);				      /* also in the middle */
LM_DEFINE_CLEANUP(struct lm_http_stream, lm_http_stream_close, lm_http_stream_closep)

#endif
