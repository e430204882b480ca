#include "net/origin_setup.h"

#include <string.h>

enum {
	TIMEOUT_PROXY_MS = 5000,
	TIMEOUT_DIRECT_MS = 10000,
	BACKOFF_INIT_MS = 2000,
	BACKOFF_MAX_MS = 10000,
	PROXY_RESET_MS = 300 * 1000,
	HOST_RESET_MS = 1800 * 1000,
	DNS_MIN_TTL_S = 60,
	DNS_MAX_TTL_S = 86400,
	DNS_AGAIN_MS = 10 * 1000,  /* after a look-up that failed */
	DNS_STALE_MS = 600 * 1000, /* old addresses are used for so long while nothing newer is known */
};

static unsigned or_default(unsigned value, unsigned fallback)
{
	return value ? value : fallback;
}

static int copy_string(const char *from, char **ret, struct lm_err *err)
{
	if (from && from[0] && !(*ret = strdup(from)))
		return lm_err_oom(err);
	return 0;
}

static void copy_numbers(struct lm_origin_setup *setup, const struct lm_origin_config *config)
{
	setup->rules = (struct lm_origin_rules){
		.max_retries = config->max_retries,
		.backoff_init_ms = or_default(config->backoff_init_ms, BACKOFF_INIT_MS),
		.backoff_max_ms = or_default(config->backoff_max_ms, BACKOFF_MAX_MS),
		.proxy_reset_ms = or_default(config->proxy_reset_ms, PROXY_RESET_MS),
		.host_reset_ms = or_default(config->host_reset_ms, HOST_RESET_MS),
		.max_servers = config->max_servers,
		.shard = config->proxy_shard,
		.random_below = arc4random_uniform,
	};
	setup->use_geoapi = config->use_geoapi;
	setup->follow_redirects = config->follow_redirects;
	setup->send_info_header = config->send_info_header;
	setup->site_ca_only = config->site_ca_only;
	setup->ip_family = config->ip_family;
	setup->max_proxy_ips = LM_MIN(or_default(config->max_proxy_ips, LM_RESOLVE_MAX), (unsigned)LM_RESOLVE_MAX);
	setup->dns_min_ttl_s = or_default(config->dns_min_ttl_s, DNS_MIN_TTL_S);
	setup->dns_max_ttl_s = or_default(config->dns_max_ttl_s, DNS_MAX_TTL_S);
	setup->timeout_ms = or_default(config->timeout_ms, TIMEOUT_PROXY_MS);
	setup->timeout_direct_ms = or_default(config->timeout_direct_ms, TIMEOUT_DIRECT_MS);
	setup->low_speed_limit = config->low_speed_limit;
	setup->failure_pause_max_ms = config->failure_pause_max_ms;
}

static int copy_strings(struct lm_origin_setup *setup, const struct lm_origin_config *config, struct lm_err *err)
{
	int r = copy_string(config->dns_server, &setup->dns_server, err);
	if (r == 0)
		r = copy_string(config->ca_file, &setup->ca_file, err);
	if (r == 0)
		r = copy_string(config->ca_path, &setup->ca_path, err);
	setup->dns = (struct lm_resolve_rules){setup->dns_server, config->dns_timeout_ms, config->dns_retries};
	if (r == 0 && setup->dns_server)
		r = lm_resolve_check(&setup->dns, err);
	if (r == 0 && config->ip_family && config->ip_family != 4 && config->ip_family != 6)
		r = lm_err_set(err, -EINVAL, "IP family %u is neither 4 nor 6", config->ip_family);
	return r < 0 ? lm_err_prefix(err, r, "repository %s", config->fqrn) : 0;
}

int lm_origin_setup_new(const struct lm_origin_config *config, struct lm_origin_setup **ret, struct lm_err *err)
{
	CLEANUP(lm_origin_setup_unrefp) struct lm_origin_setup *setup = calloc(1, sizeof(*setup));
	if (!setup)
		return lm_err_oom(err);
	setup->refs = 1;
	copy_numbers(setup, config);
	int r = copy_strings(setup, config, err);
	if (r == 0)
		r = lm_origin_lists_parse(
			config->servers, config->proxies, config->fallback_proxies, config->fqrn, &setup->lists, err);
	if (r < 0)
		return r;
	setup->addresses = calloc(setup->lists->n_proxies, sizeof(*setup->addresses));
	setup->names = calloc(setup->lists->n_proxies, sizeof(*setup->names));
	if (!setup->addresses || !setup->names)
		return lm_err_oom(err);
	lm_origin_order_init(&setup->order);
	*ret = STEAL(setup);
	return 0;
}

struct lm_origin_setup *lm_origin_setup_ref(struct lm_origin_setup *setup)
{
	setup->refs++;
	return setup;
}

void lm_origin_setup_unref(struct lm_origin_setup *setup)
{
	if (!setup || --setup->refs)
		return;
	lm_origin_policy_unref(setup->policy);
	lm_origin_lists_free(setup->lists);
	free(setup->addresses);
	free(setup->names);
	free(setup->dns_server);
	free(setup->ca_file);
	free(setup->ca_path);
	free(setup);
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

/* What was found out for the same question holds on: addresses of a name, the order of the same lists. */
static void take_over_names(struct lm_origin_setup *setup, const struct lm_origin_setup *from)
{
	if (!same_text(setup->dns_server, from->dns_server) || setup->ip_family != from->ip_family ||
		setup->max_proxy_ips != from->max_proxy_ips)
		return;
	for (unsigned i = 0; i < setup->lists->n_proxies; i++) {
		for (unsigned j = 0; setup->lists->proxies[i].host && j < from->lists->n_proxies; j++) {
			if (!same_text(setup->lists->proxies[i].host, from->lists->proxies[j].host))
				continue;
			setup->addresses[i] = from->addresses[j];
			setup->names[i] = from->names[j];
			setup->names[i].looking = false;
		}
	}
}

static bool same_lists(const struct lm_origin_lists *a, const struct lm_origin_lists *b)
{
	if (a->n_servers != b->n_servers || a->n_proxies != b->n_proxies || a->first_fallback != b->first_fallback)
		return false;
	for (unsigned i = 0; i < a->n_servers; i++)
		if (strcmp(a->servers[i], b->servers[i]) != 0)
			return false;
	for (unsigned i = 0; i < a->n_proxies; i++)
		if (!same_text(a->proxies[i].url, b->proxies[i].url) || a->proxies[i].group != b->proxies[i].group)
			return false;
	return true;
}

static void take_over(struct lm_origin_setup *setup, const struct lm_origin_setup *from)
{
	take_over_names(setup, from);
	if (!setup->use_geoapi || from->geo != LM_GEO_KNOWN || !same_lists(setup->lists, from->lists))
		return;
	setup->order = from->order;
	setup->geo = LM_GEO_KNOWN;
}

static int make_policy(struct lm_origin_setup *setup, const struct lm_origin_policy *from, struct lm_err *err)
{
	struct lm_origin_policy *policy = NULL;
	int r = lm_origin_policy_new(setup->lists, setup->addresses, &setup->order, &setup->rules, from, &policy, err);
	if (r < 0)
		return r;
	lm_origin_policy_unref(setup->policy);
	setup->policy = policy;
	return 0;
}

int lm_origin_setup_start(struct lm_origin_setup *setup, const struct lm_origin_setup *from, struct lm_err *err)
{
	if (from)
		take_over(setup, from);
	return make_policy(setup, from ? from->policy : NULL, err);
}

unsigned lm_origin_setup_due(struct lm_origin_setup *setup, int64_t now_ms, uint8_t ret[LM_ORIGIN_PROXIES_MAX])
{
	unsigned n = 0;
	for (unsigned i = 0; i < setup->lists->n_proxies; i++) {
		struct lm_origin_name *name = &setup->names[i];
		if (!setup->lists->proxies[i].host || name->looking || now_ms < name->fresh_until_ms)
			continue;
		name->looking = true;
		ret[n++] = (uint8_t)i;
	}
	return n;
}

bool lm_origin_setup_waits(const struct lm_origin_setup *setup, int64_t now_ms)
{
	/* In the lists groups of fallback proxies may have another order: their names are looked up at the same time.
	 */
	unsigned group = lm_origin_policy_group(setup->policy);
	for (unsigned i = 0; i < setup->lists->n_proxies; i++) {
		const struct lm_origin_name *name = &setup->names[i];
		bool unknown = setup->addresses[i].count == 0 || now_ms >= name->stale_ms;
		if (setup->lists->proxies[i].group == group && name->looking && unknown && !name->failed)
			return true;
	}
	return false;
}

static bool has(const struct lm_addresses *all, const struct lm_address *address)
{
	for (unsigned i = 0; i < all->count; i++)
		if (strcmp(all->list[i].text, address->text) == 0)
			return true;
	return false;
}

static void swap(struct lm_address *a, struct lm_address *b)
{
	struct lm_address other = *a;
	*a = *b;
	*b = other;
}

/* Of the preferred family where it has any; not more than allowed: those that were chosen before, others at random. */
static void choose(const struct lm_origin_setup *setup, const struct lm_addresses *before, struct lm_addresses *all)
{
	bool v6 = setup->ip_family == 6, preferred = false;
	unsigned n = 0, kept = 0;
	for (unsigned i = 0; i < all->count; i++)
		preferred |= all->list[i].v6 == v6;
	for (unsigned i = 0; i < all->count; i++)
		if (!preferred || all->list[i].v6 == v6)
			all->list[n++] = all->list[i];
	for (unsigned i = 0; i < n; i++)
		if (has(before, &all->list[i]))
			swap(&all->list[kept++], &all->list[i]);
	for (unsigned i = kept; i < n; i++)
		swap(&all->list[i], &all->list[i + arc4random_uniform(n - i)]);
	all->count = LM_MIN(n, setup->max_proxy_ips);
}

static bool same_addresses(const struct lm_addresses *a, const struct lm_addresses *b)
{
	bool same = a->count == b->count;
	for (unsigned i = 0; i < a->count && same; i++)
		same = has(b, &a->list[i]);
	return same;
}

void lm_origin_setup_found(
	struct lm_origin_setup *setup, unsigned proxy, int code, const struct lm_addresses *addresses, int64_t now_ms)
{
	struct lm_origin_name *name = &setup->names[proxy];
	struct lm_addresses *known = &setup->addresses[proxy], before = *known;
	name->looking = false;
	name->failed = code < 0;
	if (code < 0) {
		name->fresh_until_ms = now_ms + DNS_AGAIN_MS;
		return;
	}
	unsigned ttl_s = LM_MIN(LM_MAX(addresses->ttl_s, setup->dns_min_ttl_s), setup->dns_max_ttl_s);
	name->fresh_until_ms = now_ms + (int64_t)ttl_s * 1000;
	name->stale_ms = name->fresh_until_ms + DNS_STALE_MS;
	*known = *addresses;
	choose(setup, &before, known);
	/* Out of memory: the old ones serve until the next time. */
	if (!same_addresses(known, &before) && make_policy(setup, setup->policy, NULL) < 0)
		*known = before;
}

bool lm_origin_setup_geo_due(struct lm_origin_setup *setup, int64_t now_ms)
{
	unsigned fallback_groups = setup->lists->n_groups - setup->lists->first_fallback;
	if (!setup->use_geoapi || setup->geo != LM_GEO_TO_ASK || now_ms < setup->geo_due_ms)
		return false;
	if (setup->lists->n_servers < 2 && fallback_groups < 2)
		return false;
	setup->geo = LM_GEO_ASKING;
	return true;
}

void lm_origin_setup_sorted(struct lm_origin_setup *setup, const struct lm_origin_order *order, int64_t now_ms)
{
	struct lm_origin_order before = setup->order;
	setup->geo = LM_GEO_TO_ASK;
	setup->geo_due_ms = now_ms + setup->rules.host_reset_ms;
	if (!order)
		return;
	setup->order = *order;
	if (make_policy(setup, setup->policy, NULL) < 0)
		setup->order = before;
	else
		setup->geo = LM_GEO_KNOWN;
}
