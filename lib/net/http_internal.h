/*
 * What the files of the HTTP client share: the engine (http.c), one transfer in curl's hands (http_transfer.c) and
 * whoever needs calls that can't fail (http_stream.c, origin.c).
 *
 * A transfer's way, each step on the engine's thread except the first:
 *
 *   lm_http_start()  -> TRANSFER_SENT     in the inbox
 *   enqueue()        -> TRANSFER_QUEUED   in its host's queue for its priority
 *   launch()         -> TRANSFER_RUNNING  in curl's hands, holding one of the connections
 *   lm_http_end()    -> TRANSFER_ENDED    from any of these; never inside a callback of curl's from there on
 *   bury()           on_done, freed
 */
#ifndef LM_NET_HTTP_INTERNAL_H
#define LM_NET_HTTP_INTERNAL_H

#include "base/buf.h"
#include "base/lock.h"
#include "net/http.h"
#include "net/timer.h"

#include <curl/curl.h>
#include <sys/queue.h>

/* A function for the engine's thread. Zeroed at birth, fn and arg set; belongs to the engine from lm_http_post() until
 * fn is called. */
struct lm_http_call {
	struct lm_timer timer; /* first: the heap's nodes are calls */
	STAILQ_ENTRY(lm_http_call) entry;
	int64_t due_ms;
	void (*fn)(void *arg);
	void *arg;
	bool allocated; /* by lm_http_call(): freed after the call */
};

/* lm_http_call() without the allocation. */
void lm_http_post(struct lm_http *http, struct lm_http_call *call, unsigned delay_ms);

/* on_data may return this: nothing was taken, the same bytes come again after lm_http_resume(). */
enum { LM_HTTP_PAUSE = 1 };
void lm_http_resume(struct lm_http_transfer *transfer); /* engine thread only; a transfer not paused is left alone */

/* Engine thread only. While a transfer waits for a connection, it waits among those of its new class from now on. */
void lm_http_set_priority(struct lm_http_transfer *transfer, enum lm_http_priority priority);

/* Engine thread only. As long as something is held, lm_http_free() waits: calls are going to be posted. */
void lm_http_hold(struct lm_http *http);
void lm_http_unhold(struct lm_http *http);

bool lm_http_on_engine(const struct lm_http *http); /* for asserts of ours */

/* 0 for 2xx, or the error that lm_http_get() documents. */
int lm_http_status_error(unsigned status, const char *url, struct lm_err *err) MUST_CHECK;

/* Names being looked up (resolve.c): the engine waits for their sockets, too. Engine thread only. */
enum { LM_LOOKUPS_RUNNING = 16, LM_LOOKUPS_SOCKETS = 256 };
TAILQ_HEAD(lm_lookups, lm_lookup);
struct lm_lookups *lm_http_lookups(struct lm_http *http);
bool lm_lookups_step(struct lm_lookups *lookups, bool stopping); /* true: some ended, their callbacks were called */
/* What is to be waited for, at most LM_LOOKUPS_SOCKETS, and no longer than that. */
unsigned lm_lookups_wait(struct lm_lookups *lookups, struct curl_waitfd *ret, int64_t *wait_ms);

/* A user and a password before the host are left out. Cut to fit. */
void lm_http_show_url(const char *url, char *ret, size_t size);

enum lm_http_state { TRANSFER_SENT, TRANSFER_QUEUED, TRANSFER_RUNNING, TRANSFER_ENDED };

TAILQ_HEAD(lm_http_transfers, lm_http_transfer);

/* Connections to one proxy or server. Exists while it has transfers. Engine thread only. */
struct lm_http_host {
	TAILQ_ENTRY(lm_http_host) entry;
	char *peer; /* "host:port" */
	unsigned transfers, running;
	struct lm_http_transfers queues[LM_HTTP_PRIORITIES];
};

struct lm_http_transfer {
	TAILQ_ENTRY(lm_http_transfer) entry; /* of the list that fits the state */

	/* constant after lm_http_start() */
	struct lm_http *http;
	struct lm_http_request request; /* its strings are the copies below */
	char *url, *proxy, *ca_file, *ca_path, *ca_pem, *cert_file, *key_file, *peer;
	char *body;			       /* of a POST, else NULL */
	char *where;			       /* for messages: URL and proxy without passwords */
	char *sigv4, *access_key, *secret_key; /* NULL: not signed */
	struct lm_http_upload upload;
	struct curl_slist *headers;
	bool head, put, delete, https;
	int64_t started_us, sent_us; /* sent: on engine thread only */

	/* engine thread only */
	enum lm_http_state state;
	struct lm_http_host *host;
	bool admitted; /* counted in host->running */
	CURL *easy;
	bool curl_ok;	/* curl itself met no error */
	bool connected; /* the request went out, or part of it */
	bool paused;
	struct lm_http_call stall;
	uint64_t sent;		       /* of the upload: handed to curl */
	uint64_t moved, moved_at_tick; /* bytes of all kinds, both ways */
	unsigned slow_ticks;

	/* engine thread only: the answer */
	bool answered; /* the headers of the final answer are complete */
	bool chunked, has_length, has_location;
	uint64_t length, dropped;
	struct lm_buf answer;  /* NAME NUL VALUE NUL … */
	const char *misframed; /* why the framing of the answer can't be trusted */
	char curl_text[CURL_ERROR_SIZE];
	struct lm_http_result result;
};

/* Ends the transfer from any state; the first end counts. With a message unless result.err has one already. */
void lm_http_end(struct lm_http_transfer *transfer, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* http_transfer.c */
int lm_http_transfer_new(
	const struct lm_http_request *request, struct lm_http_transfer **ret, struct lm_err *err) MUST_CHECK;
void lm_http_transfer_free(struct lm_http_transfer *transfer);
LM_DEFINE_CLEANUP(struct lm_http_transfer, lm_http_transfer_free, lm_http_transfer_freep)
int lm_http_transfer_setup(struct lm_http_transfer *transfer, const char *user_agent) MUST_CHECK; /* easy is there */
void lm_http_transfer_complete(struct lm_http_transfer *transfer, CURLcode code);		  /* curl is through */

/* http.c, for the transfer */
void lm_http_watch(struct lm_http_transfer *transfer, int64_t after_ms); /* calls transfer->stall then */

#endif
