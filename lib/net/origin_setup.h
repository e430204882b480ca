/*
 * How an origin is set up at present: its configuration, the addresses of its proxies, the order of its servers, and
 * the policy made of all that. A reconfiguration makes another one; requests keep theirs to their end.
 *
 * What changes is under the origin's lock, reference counts included.
 */
#ifndef LM_NET_ORIGIN_SETUP_H
#define LM_NET_ORIGIN_SETUP_H

#include "net/origin_policy.h"

struct lm_origin_name {
	int64_t fresh_until_ms, stale_ms; /* asked for again after the first, not trusted after the second */
	bool looking, failed;		  /* failed: the last time */
};

enum lm_origin_geo { LM_GEO_TO_ASK, LM_GEO_ASKING, LM_GEO_KNOWN };

struct lm_origin_setup {
	unsigned refs; /* under lock */

	/* constant after lm_origin_setup_new() */
	struct lm_origin_lists *lists;
	struct lm_origin_rules rules;
	struct lm_resolve_rules dns;
	char *dns_server, *ca_file, *ca_path;
	bool use_geoapi, follow_redirects, send_info_header, site_ca_only;
	unsigned ip_family, max_proxy_ips, dns_min_ttl_s, dns_max_ttl_s;
	unsigned timeout_ms, timeout_direct_ms, low_speed_limit, failure_pause_max_ms;

	/* under lock */
	struct lm_origin_policy *policy;
	struct lm_addresses *addresses; /* of each proxy in lists */
	struct lm_origin_name *names;	/* likewise */
	struct lm_origin_order order;
	enum lm_origin_geo geo;
	int64_t geo_due_ms;
};

/* With policy NULL. */
int lm_origin_setup_new(
	const struct lm_origin_config *config, struct lm_origin_setup **ret, struct lm_err *err) MUST_CHECK;
struct lm_origin_setup *lm_origin_setup_ref(struct lm_origin_setup *setup);
void lm_origin_setup_unref(struct lm_origin_setup *setup); /* NULL is left alone */
LM_DEFINE_CLEANUP(struct lm_origin_setup, lm_origin_setup_unref, lm_origin_setup_unrefp)

/* Makes the policy, going on from another setup (NULL: from nothing). */
int lm_origin_setup_start(
	struct lm_origin_setup *setup, const struct lm_origin_setup *from, struct lm_err *err) MUST_CHECK;

/* Proxies whose names are to be looked up now, by index in the lists: the caller does, each ends by
 * lm_origin_setup_found(). */
unsigned lm_origin_setup_due(struct lm_origin_setup *setup, int64_t now_ms, uint8_t ret[LM_ORIGIN_PROXIES_MAX]);
/* A request had better wait for the look-ups under way: of the group in use a name is not known, or not any more. */
bool lm_origin_setup_waits(const struct lm_origin_setup *setup, int64_t now_ms);
void lm_origin_setup_found(
	struct lm_origin_setup *setup, unsigned proxy, int code, const struct lm_addresses *addresses, int64_t now_ms);

/* Whether the Geo API is to be asked now: the caller does, it ends by lm_origin_setup_sorted() (NULL: no answer). */
bool lm_origin_setup_geo_due(struct lm_origin_setup *setup, int64_t now_ms);
void lm_origin_setup_sorted(struct lm_origin_setup *setup, const struct lm_origin_order *order, int64_t now_ms);

#endif
