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
 *   connect                        the same where there is no other way; else as below at once
 *   busy                           the next server; where there is none, as overload
 *   connect, transfer, timeout, by a proxy
 *                                  the proxy is burned, the next proxy; when all were tried, the next server
 *   proxy's answer                 the same, without the retry
 *   everything else                the next server
 *
 * When no server was left through a proxy, and the last fault was no broken connection, another proxy is asked for a
 * second opinion, once: what a proxy damages or refuses looks like the servers' fault. If that one delivers, the first
 * one is burned (not for a 404: caches remember these).
 *
 * When everything was tried, there are several ways, somebody had refused a connection, the last fault was a broken
 * one, and none took a whole time-out, then all is tried once more after a back-off: what was started again meanwhile
 * is found. Not without retries.
 *
 * An overloaded or busy server that says when to come back is asked not before; when that is later than the longest
 * back-off, not again.
 *
 * A server is left by all requests when it fails, but only by the request itself when one object is absent or damaged
 * there; a server that has what another one had not is kept, though. Proxies: one of a group serves all requests until
 * it is burned, picked at random; or, with rules.shard, each path has one of them, the same on all nodes, and moves
 * only while that is burned. A group used up gives way to the next one, in a circle. All proxies used up, or
 * reset time over: back to the first group, nothing burned. Servers: back to the first one after their reset time.
 *
 * A policy does not change its lists. Another one made from it, with other lists, order or addresses, goes on where
 * this one stands: places that both know (peers) share what is known of them; requests end by the policy they began
 * with.
 *
 * Not thread safe, reference counts included.
 */
#ifndef LM_NET_ORIGIN_POLICY_H
#define LM_NET_ORIGIN_POLICY_H

#include "net/origin.h"
#include "net/origin_lists.h"
#include "net/resolve.h"

enum { LM_ORIGIN_PATHS_MAX = 256 }; /* addresses of all proxies; more are left out */

enum lm_origin_fault {
	LM_ORIGIN_FINE,
	LM_ORIGIN_CONNECT,  /* no connection */
	LM_ORIGIN_TRANSFER, /* no complete answer */
	LM_ORIGIN_TIMEOUT,  /* one of these, by time */
	LM_ORIGIN_OVERLOAD, /* 429 */
	LM_ORIGIN_BUSY,	    /* 503 that says when to come back */
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
	unsigned max_servers; /* 0: all */
	bool shard;
	uint32_t (*random_below)(uint32_t bound); /* 0 … bound-1 */
};

struct lm_origin_policy;

/* addresses: of each proxy in lists, count 0 where it goes by its name; NULL: all do. order: NULL: as written. from:
 * what it goes on from; NULL: nothing. Nothing is referred to but from's peers. */
int lm_origin_policy_new(const struct lm_origin_lists *lists, const struct lm_addresses *addresses,
	const struct lm_origin_order *order, const struct lm_origin_rules *rules, const struct lm_origin_policy *from,
	struct lm_origin_policy **ret, struct lm_err *err) MUST_CHECK;
struct lm_origin_policy *lm_origin_policy_ref(struct lm_origin_policy *policy);
void lm_origin_policy_unref(struct lm_origin_policy *policy); /* NULL is left alone */
LM_DEFINE_CLEANUP(struct lm_origin_policy, lm_origin_policy_unref, lm_origin_policy_unrefp)

const char *lm_origin_policy_server(const struct lm_origin_policy *policy, unsigned server); /* no slash at its end */
const char *lm_origin_policy_proxy(const struct lm_origin_policy *policy, unsigned proxy);   /* NULL: direct */
unsigned lm_origin_policy_group(const struct lm_origin_policy *policy);			     /* of proxies, in use */

struct lm_origin_try {
	/* where the next attempt goes */
	unsigned server, proxy;
	bool no_cache;
	/* private */
	uint64_t key; /* of the path */
	bool no_cache_always;
	uint64_t servers_tried;				  /* bit per server that was given up */
	uint64_t proxies_tried[LM_ORIGIN_PATHS_MAX / 64]; /* likewise, with this server */
	unsigned retries, backoff_ms;
	bool hasty, refused, timed_out, started_over;
	unsigned suspect; /* proxy that is not believed, once witnessed */
	bool witnessed, suspect_burns;
	bool absent, damaged;
	int transport; /* error of the last server that could not be had, or 0 */
};

void lm_origin_try_start(
	struct lm_origin_policy *policy, struct lm_origin_try *try, const char *path, bool no_cache, int64_t now_ms);
void lm_origin_try_hasten(struct lm_origin_try *try); /* no retries */
/* retry_after_ms: what the answer said, or 0. */
bool lm_origin_try_again(struct lm_origin_policy *policy, struct lm_origin_try *try, enum lm_origin_fault fault,
	uint64_t retry_after_ms, int64_t now_ms, unsigned *ret_delay_ms) MUST_CHECK;
void lm_origin_try_good(struct lm_origin_policy *policy, const struct lm_origin_try *try, int64_t now_ms);
/* -ENOENT all absent; -EBADMSG damaged (or absent) everywhere; else -EIO or -ETIMEDOUT. */
int lm_origin_try_code(const struct lm_origin_try *try);

/* What a complete answer with that status means. */
enum lm_origin_fault lm_origin_judge(unsigned status, bool proxied, bool proxy_error, bool retry_after);
const char *lm_origin_fault_name(enum lm_origin_fault fault); /* one word, for the log */

/* The attempt's end, for the counters of its server and proxy, before the try moves on. answer_us: 0 without answer. */
void lm_origin_policy_count(struct lm_origin_policy *policy, const struct lm_origin_try *try,
	enum lm_origin_fault fault, uint64_t bytes, int64_t answer_us, const char *error, int64_t now_ms);
void lm_origin_latency_add(uint64_t latency[LM_ORIGIN_LATENCIES], int64_t us);

/* Copies of all places: servers, then proxies; *ret_count of them. The caller releases them. -ENOMEM. */
int lm_origin_policy_places(const struct lm_origin_policy *policy, int64_t now_ms, struct lm_origin_place **ret,
	unsigned *ret_count) MUST_CHECK;
void lm_origin_places_free(struct lm_origin_place *places, unsigned count);

#endif
