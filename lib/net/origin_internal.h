/* What the files of the origin share: its requests (origin.c) and what it asks on its own account (origin_ask.c). */
#ifndef LM_NET_ORIGIN_INTERNAL_H
#define LM_NET_ORIGIN_INTERNAL_H

#include "base/log.h"
#include "net/http_internal.h"
#include "net/origin_setup.h"

struct lm_origin {
	/* constant after lm_origin_new() */
	struct lm_http *http;
	char *fqrn;
	void (*on_success)(void *arg);
	void *on_success_arg;

	_Atomic(unsigned) refs; /* lm_origin_free() drops one; questions on the origin's own account have one each */

	/* under lock */
	struct lm_lock lock;
	struct lm_origin_setup *setup;
	uint64_t latency[LM_ORIGIN_LATENCIES];

	/* engine thread only */
	TAILQ_HEAD(, lm_origin_request) waiting; /* for addresses of proxies */
	unsigned pause_ms;			 /* before the next failure is told */
	int64_t failed_ms;			 /* when one was, the last time */

	/* any thread */
	_Atomic(uint64_t) requests, failed, bytes, given_up, failovers, past_caches;
	_Atomic(unsigned) in_flight;
	_Atomic(bool) offline;
	struct lm_log_limit log_limit;
};

struct lm_origin *lm_origin_ref(struct lm_origin *origin);
void lm_origin_unref(struct lm_origin *origin);

/* Engine thread only: an answer came, those who wait look again. */
void lm_origin_wait_over(struct lm_origin *origin);

/* Engine thread only, without the lock. Both take over a reference to setup. */
void lm_origin_look_up(struct lm_origin *origin, struct lm_origin_setup *setup, unsigned proxy);
void lm_origin_ask_geo(struct lm_origin *origin, struct lm_origin_setup *setup);

/* What all attempts of a setup have in common. */
void lm_origin_fill_request(const struct lm_origin_setup *setup, const char *proxy, struct lm_http_request *request);

#endif
