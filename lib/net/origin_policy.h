/*
 * Which server, which proxy, and what after a fault: the rules of the stock client, without network, clock or dice of
 * its own.
 *
 * The policy holds what all requests of an origin share: the server in use and the proxy in use. Each request carries a
 * struct lm_origin_try and goes
 *
 *   lm_origin_try_start() -> attempt at (server, proxy, no_cache) -> lm_origin_try_good()
 *                                         ^                       \
 *                                         '- true, after delay_ms  -> lm_origin_try_again()
 *                                                                     false: used up, lm_origin_try_code() says why
 *
 * After a fault:
 *
 *   damaged                        same path once more past the caches, then the next server
 *   transfer, timeout, overload    same path after a back-off while the request has retries left; then as below
 *   transfer, timeout, by a proxy  the proxy is burned, the next proxy; when all were tried, the next server
 *   proxy's answer                 the same, without the retry
 *   everything else                the next server
 *
 * A server is left by all requests when it fails, but only by the request itself when one object is absent or damaged
 * there; a server that has what another one had not is kept, though. Proxies: one of a group, picked at random, serves
 * all requests until it is burned; a group used up gives way to the next one, in a circle. All proxies used up, or
 * reset time over: back to the first group, nothing burned. Servers: back to the first one after their reset time.
 *
 * Not thread safe.
 */
#ifndef LM_NET_ORIGIN_POLICY_H
#define LM_NET_ORIGIN_POLICY_H

#include "base/err.h"

#include <stdbool.h>

enum { LM_ORIGIN_SERVERS_MAX = 64, LM_ORIGIN_PROXIES_MAX = 64 };

enum lm_origin_fault {
	LM_ORIGIN_FINE,
	LM_ORIGIN_TRANSFER, /* no complete answer */
	LM_ORIGIN_TIMEOUT,  /* the same, by time */
	LM_ORIGIN_OVERLOAD, /* 429 */
	LM_ORIGIN_PROXY,    /* an answer, the proxy's fault */
	LM_ORIGIN_SERVER,   /* an answer, the server's fault */
	LM_ORIGIN_ABSENT,   /* 404 */
	LM_ORIGIN_DAMAGED,  /* the consumer says so */
	LM_ORIGIN_FAULTS
};

struct lm_origin_rules {
	unsigned max_retries;
	unsigned backoff_init_ms, backoff_max_ms;
	unsigned proxy_reset_ms, host_reset_ms;
	uint32_t (*random_below)(uint32_t bound); /* 0 … bound-1 */
};

struct lm_origin_policy;

/* The lists as in struct lm_origin_config. -EINVAL names the entry that is wrong. */
int lm_origin_policy_new(const char *servers, const char *proxies, const char *fqrn,
	const struct lm_origin_rules *rules, struct lm_origin_policy **ret, struct lm_err *err) MUST_CHECK;
void lm_origin_policy_free(struct lm_origin_policy *policy);
LM_DEFINE_CLEANUP(struct lm_origin_policy, lm_origin_policy_free, lm_origin_policy_freep)

const char *lm_origin_policy_server(const struct lm_origin_policy *policy, unsigned server); /* no slash at its end */
const char *lm_origin_policy_proxy(const struct lm_origin_policy *policy, unsigned proxy);   /* NULL: direct */

struct lm_origin_try {
	/* where the next attempt goes */
	unsigned server, proxy;
	bool no_cache;
	/* private */
	bool no_cache_always;
	uint64_t servers_tried; /* bit per server that was given up */
	unsigned proxies_tried; /* with this server */
	unsigned retries, backoff_ms;
	bool absent, damaged;
	int transport; /* error of the last server that could not be had, or 0 */
};

void lm_origin_try_start(struct lm_origin_policy *policy, struct lm_origin_try *try, bool no_cache, int64_t now_ms);
bool lm_origin_try_again(struct lm_origin_policy *policy, struct lm_origin_try *try, enum lm_origin_fault fault,
	int64_t now_ms, unsigned *ret_delay_ms) MUST_CHECK;
void lm_origin_try_good(struct lm_origin_policy *policy, const struct lm_origin_try *try, int64_t now_ms);
/* -ENOENT all absent; -EBADMSG damaged (or absent) everywhere; else -EIO or -ETIMEDOUT. */
int lm_origin_try_code(const struct lm_origin_try *try);

/* What a complete answer with that status means. */
enum lm_origin_fault lm_origin_judge(unsigned status, bool proxied, bool proxy_error);
const char *lm_origin_fault_name(enum lm_origin_fault fault); /* one word, for the log */

#endif
