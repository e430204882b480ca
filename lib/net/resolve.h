/*
 * Addresses of a name, without blocking: asked of the hosts file, then of DNS, on the HTTP engine's thread.
 *
 * The system's resolv.conf and hosts files are read anew for each look-up. Other sources of nsswitch.conf are not
 * asked.
 */
#ifndef LM_NET_RESOLVE_H
#define LM_NET_RESOLVE_H

#include "net/http.h"

#include <netinet/in.h>

enum { LM_RESOLVE_MAX = 16 }; /* addresses of one name */

struct lm_address {
	char text[INET6_ADDRSTRLEN];
	bool v6;
};

struct lm_addresses {
	unsigned count, ttl_s; /* the shortest of all */
	struct lm_address list[LM_RESOLVE_MAX];
};

struct lm_resolve_rules {
	const char *server;  /* "192.0.2.53", "192.0.2.53:5353", "[2001:db8::53]:53", separated by ","; NULL: the
				system's */
	unsigned timeout_ms; /* of the first question to a server; 0: 3 s */
	unsigned retries;    /* further ones, each with more patience */
};

/* Whether that server is understood: 0 or -EINVAL. */
int lm_resolve_check(const struct lm_resolve_rules *rules, struct lm_err *err) MUST_CHECK;

/* Engine's thread only. done is called there exactly once, maybe before this returns, with 0 and at least one address,
 * or a negative errno: -ENOENT no such name, -ETIMEDOUT, -ECANCELED the engine is being stopped, -EIO others. */
void lm_resolve(struct lm_http *http, const char *name, const struct lm_resolve_rules *rules,
	void (*done)(void *arg, int code, const struct lm_addresses *addresses), void *arg);

#endif
