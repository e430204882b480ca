#include "net/origin_policy.h"

#include "net/http_internal.h"

#include <stdio.h>
#include <string.h>

enum { ERROR_MAX = 224 };

/* A server or a way to servers, shared by all policies that know it. */
struct peer {
	unsigned refs;
	char *url;   /* NULL: direct */
	char *shown; /* without password */
	char *name;  /* the same as configured */
	bool burned;
	uint64_t requests, failed, bytes, latency[LM_ORIGIN_LATENCIES];
	char error[ERROR_MAX];
	int64_t error_ms;
};

struct path {
	struct peer *peer;
	uint64_t key; /* of the URL */
	unsigned group;
};

struct lm_origin_policy {
	unsigned refs;
	/* constant after lm_origin_policy_new() */
	struct lm_origin_rules rules;
	struct peer *servers[LM_ORIGIN_SERVERS_MAX];
	unsigned n_servers;
	struct path paths[LM_ORIGIN_PATHS_MAX]; /* through proxies; the members of a group side by side */
	unsigned n_paths, n_groups, first_fallback;

	/* shared by all requests */
	unsigned server;	/* in use */
	int64_t server_left_ms; /* when the first server was left */
	unsigned group;		/* in use */
	unsigned path;		/* in use, unless sharded; one of the group that is burned gives way when asked for */
	int64_t path_burned_ms; /* when the first proxy was burned */
	bool touched;		/* one was, since the last reset */
};

static void peer_unref(struct peer *peer)
{
	if (!peer || --peer->refs)
		return;
	free(peer->url);
	free(peer->shown);
	free(peer->name);
	free(peer);
}
LM_DEFINE_CLEANUP(struct peer, peer_unref, peer_unrefp)

static bool same_url(const struct peer *peer, const char *url)
{
	return peer->url && url ? strcmp(peer->url, url) == 0 : peer->url == url;
}

static struct peer *peer_new(const char *url, const char *name, const char *address)
{
	CLEANUP(peer_unrefp) struct peer *peer = calloc(1, sizeof(*peer));
	if (!peer)
		return NULL;
	peer->refs = 1;
	if ((url && !(peer->url = strdup(url))) || !(peer->name = strdup(name)))
		return NULL;
	if (!(peer->shown = address ? strdup(address) : strdup(name)))
		return NULL;
	return STEAL(peer);
}

/* FNV-1a, then mixed: the same on every node. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static uint64_t key_of(const char *text)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
	return mix(hash);
}

static bool is_usable(const struct lm_origin_policy *policy, unsigned path)
{
	return policy->paths[path].group == policy->group && !policy->paths[path].peer->burned;
}

/* The highest of all weights that the path has with the proxies: those that go or come move only their own paths. */
static bool pick_by_key(const struct lm_origin_policy *policy, uint64_t key, unsigned *ret)
{
	uint64_t best = 0;
	bool any = false;
	for (unsigned i = 0; i < policy->n_paths; i++) {
		uint64_t weight = mix(key ^ policy->paths[i].key);
		if (!is_usable(policy, i) || (any && weight <= best))
			continue;
		best = weight;
		*ret = i;
		any = true;
	}
	return any;
}

static bool pick_at_random(struct lm_origin_policy *policy)
{
	unsigned fit[LM_ORIGIN_PATHS_MAX], n = 0;
	for (unsigned i = 0; i < policy->n_paths; i++)
		if (is_usable(policy, i))
			fit[n++] = i;
	if (n)
		policy->path = fit[policy->rules.random_below(n)];
	return n > 0;
}

static bool pick(struct lm_origin_policy *policy, uint64_t key, unsigned *ret)
{
	if (policy->rules.shard)
		return pick_by_key(policy, key, ret);
	if (!is_usable(policy, policy->path) && !pick_at_random(policy))
		return false;
	*ret = policy->path;
	return true;
}

static bool is_tried(const struct lm_origin_try *try, unsigned path)
{
	return try && try->proxies_tried[path / 64] >> path % 64 & 1;
}

static void enter_group(struct lm_origin_policy *policy, unsigned group, const struct lm_origin_try *try)
{
	policy->group = group;
	for (unsigned i = 0; i < policy->n_paths; i++)
		if (policy->paths[i].group == group)
			policy->paths[i].peer->burned = is_tried(try, i);
}

/* A proxy of the group in use that is not burned; where there is none, of the next group, whatever was burned there.
 * What the request has tried is left out (NULL: nothing was tried). False: there is nothing else. */
static bool choose(struct lm_origin_policy *policy, uint64_t key, const struct lm_origin_try *try, unsigned *ret)
{
	for (unsigned i = 0; i <= policy->n_groups; i++) {
		if (pick(policy, key, ret))
			return true;
		enter_group(policy, (policy->group + 1) % policy->n_groups, try);
	}
	return false;
}

static void reset_paths(struct lm_origin_policy *policy)
{
	for (unsigned i = 0; i < policy->n_paths; i++)
		policy->paths[i].peer->burned = false;
	policy->touched = false;
	policy->group = 0;
	(void)pick_at_random(policy);
}

/* The one with this URL, of from or new; NULL when memory is short. */
static struct peer *known_server(const struct lm_origin_policy *from, const char *url)
{
	for (unsigned i = 0; from && i < from->n_servers; i++)
		if (same_url(from->servers[i], url))
			return from->servers[i];
	return NULL;
}

static struct peer *known_path(const struct lm_origin_policy *from, const char *url)
{
	for (unsigned i = 0; from && i < from->n_paths; i++)
		if (same_url(from->paths[i].peer, url))
			return from->paths[i].peer;
	return NULL;
}

static int add_server(struct lm_origin_policy *policy, const char *url, const struct lm_origin_policy *from)
{
	char shown[1024];
	struct peer *peer = known_server(from, url);
	lm_http_show_url(url, shown, sizeof(shown));
	if (peer)
		peer->refs++;
	else if (!(peer = peer_new(url, shown, NULL)))
		return -ENOMEM;
	policy->servers[policy->n_servers++] = peer;
	return 0;
}

static int add_path(struct lm_origin_policy *policy, const struct lm_origin_proxy *proxy, unsigned group,
	const struct lm_address *address, const struct lm_origin_policy *from)
{
	if (policy->n_paths == LM_ORIGIN_PATHS_MAX)
		return 0;
	CLEANUP(lm_freep) char *at = address ? lm_origin_proxy_at(proxy->url, address->text, address->v6) : NULL;
	CLEANUP(lm_freep) char *shown = address ? lm_origin_proxy_at(proxy->shown, address->text, address->v6) : NULL;
	if (address && (!at || !shown))
		return -ENOMEM;
	const char *url = at ? at : proxy->url;
	if (known_path(policy, url))
		return 0; /* written twice */
	struct peer *peer = known_path(from, url);
	if (peer)
		peer->refs++;
	else if (!(peer = peer_new(url, proxy->shown, shown)))
		return -ENOMEM;
	policy->paths[policy->n_paths++] = (struct path){peer, key_of(url ? url : ""), group};
	return 0;
}

static int add_group(struct lm_origin_policy *policy, const struct lm_origin_lists *lists,
	const struct lm_addresses *addresses, unsigned group, const struct lm_origin_policy *from)
{
	int r = 0;
	for (unsigned i = 0; i < lists->n_proxies && r == 0; i++) {
		if (lists->proxies[i].group != group)
			continue;
		unsigned count = addresses ? addresses[i].count : 0;
		if (count == 0)
			r = add_path(policy, &lists->proxies[i], policy->n_groups, NULL, from);
		for (unsigned j = 0; j < count && r == 0; j++)
			r = add_path(policy, &lists->proxies[i], policy->n_groups, &addresses[i].list[j], from);
	}
	/* Beyond LM_ORIGIN_PATHS_MAX groups may be left out as a whole. */
	if (policy->n_paths && policy->paths[policy->n_paths - 1].group == policy->n_groups)
		policy->n_groups++;
	return r;
}

static int fill(struct lm_origin_policy *policy, const struct lm_origin_lists *lists,
	const struct lm_addresses *addresses, const struct lm_origin_order *order, const struct lm_origin_policy *from)
{
	unsigned max = policy->rules.max_servers, n = max ? LM_MIN(max, lists->n_servers) : lists->n_servers;
	int r = 0;
	for (unsigned i = 0; i < n && r == 0; i++)
		r = add_server(policy, lists->servers[order->servers[i]], from);
	for (unsigned group = 0; group < lists->first_fallback && r == 0; group++)
		r = add_group(policy, lists, addresses, group, from);
	policy->first_fallback = policy->n_groups;
	for (unsigned i = 0; lists->first_fallback + i < lists->n_groups && r == 0; i++)
		r = add_group(policy, lists, addresses, lists->first_fallback + order->fallback[i], from);
	return r;
}

static unsigned first_good_group(const struct lm_origin_policy *policy)
{
	for (unsigned i = 0; i < policy->n_paths; i++)
		if (!policy->paths[i].peer->burned)
			return policy->paths[i].group;
	return 0;
}

/* The server is kept only if it is there because the first one had failed: another order is meant to be followed. */
static void go_on_from(struct lm_origin_policy *policy, const struct lm_origin_policy *from)
{
	policy->server_left_ms = from->server_left_ms;
	for (unsigned i = 0; from->server != 0 && i < policy->n_servers; i++)
		if (policy->servers[i] == from->servers[from->server])
			policy->server = i;
	policy->touched = from->touched;
	policy->path_burned_ms = from->path_burned_ms;
	policy->group = first_good_group(policy);
	(void)pick_at_random(policy);
	for (unsigned i = 0; i < policy->n_paths; i++)
		if (policy->paths[i].peer == from->paths[from->path].peer && is_usable(policy, i))
			policy->path = i;
}

int lm_origin_policy_new(const struct lm_origin_lists *lists, const struct lm_addresses *addresses,
	const struct lm_origin_order *order, const struct lm_origin_rules *rules, const struct lm_origin_policy *from,
	struct lm_origin_policy **ret, struct lm_err *err)
{
	struct lm_origin_order as_written;
	CLEANUP(lm_origin_policy_unrefp) struct lm_origin_policy *policy = calloc(1, sizeof(*policy));
	if (!policy)
		return lm_err_oom(err);
	policy->refs = 1;
	policy->rules = *rules;
	lm_origin_order_init(&as_written);
	if (fill(policy, lists, addresses, order ? order : &as_written, from) < 0)
		return lm_err_oom(err);
	if (from)
		go_on_from(policy, from);
	else
		reset_paths(policy);
	*ret = STEAL(policy);
	return 0;
}

struct lm_origin_policy *lm_origin_policy_ref(struct lm_origin_policy *policy)
{
	policy->refs++;
	return policy;
}

void lm_origin_policy_unref(struct lm_origin_policy *policy)
{
	if (!policy || --policy->refs)
		return;
	for (unsigned i = 0; i < policy->n_servers; i++)
		peer_unref(policy->servers[i]);
	for (unsigned i = 0; i < policy->n_paths; i++)
		peer_unref(policy->paths[i].peer);
	free(policy);
}

const char *lm_origin_policy_server(const struct lm_origin_policy *policy, unsigned server)
{
	return policy->servers[server]->url;
}

const char *lm_origin_policy_proxy(const struct lm_origin_policy *policy, unsigned proxy)
{
	return policy->paths[proxy].peer->url;
}

unsigned lm_origin_policy_group(const struct lm_origin_policy *policy)
{
	return policy->group;
}

static void burn(struct lm_origin_policy *policy, unsigned path, int64_t now_ms)
{
	policy->paths[path].peer->burned = true;
	if (!policy->touched)
		policy->path_burned_ms = now_ms;
	policy->touched = true;
}

static void use_server(struct lm_origin_policy *policy, unsigned server, int64_t now_ms)
{
	if (policy->server == 0)
		policy->server_left_ms = now_ms;
	policy->server = server;
}

static void reset_when_due(struct lm_origin_policy *policy, int64_t now_ms)
{
	if (policy->server != 0 && now_ms - policy->server_left_ms >= policy->rules.host_reset_ms)
		policy->server = 0;
	if (policy->touched && now_ms - policy->path_burned_ms >= policy->rules.proxy_reset_ms)
		reset_paths(policy);
}

void lm_origin_try_start(
	struct lm_origin_policy *policy, struct lm_origin_try *try, const char *path, bool no_cache, int64_t now_ms)
{
	uint64_t key = key_of(path);
	reset_when_due(policy, now_ms);
	*try = (struct lm_origin_try){
		.server = policy->server,
		.key = key,
		.no_cache = no_cache,
		.no_cache_always = no_cache,
	};
	(void)choose(policy, key, NULL, &try->proxy);
}

void lm_origin_try_hasten(struct lm_origin_try *try)
{
	try->hasty = true;
}

static void note_given_up(struct lm_origin_try *try, enum lm_origin_fault fault)
{
	try->servers_tried |= UINT64_C(1) << try->server;
	if (fault == LM_ORIGIN_ABSENT)
		try->absent = true;
	else if (fault == LM_ORIGIN_DAMAGED)
		try->damaged = true;
	else
		try->transport = fault == LM_ORIGIN_TIMEOUT ? -ETIMEDOUT : -EIO;
}

static bool next_server(
	struct lm_origin_policy *policy, struct lm_origin_try *try, enum lm_origin_fault fault, int64_t now_ms)
{
	note_given_up(try, fault);
	if (fault != LM_ORIGIN_ABSENT && fault != LM_ORIGIN_DAMAGED && policy->server == try->server)
		use_server(policy, (policy->server + 1) % policy->n_servers, now_ms);
	for (unsigned i = 0; i < policy->n_servers; i++) {
		unsigned server = (policy->server + i) % policy->n_servers;
		if (try->servers_tried >> server & 1)
			continue;
		try->server = server;
		memset(try->proxies_tried, 0, sizeof(try->proxies_tried));
		(void)choose(policy, try->key, NULL, &try->proxy);
		try->no_cache = try->no_cache_always;
		return true;
	}
	return false;
}

static bool next_proxy(
	struct lm_origin_policy *policy, struct lm_origin_try *try, enum lm_origin_fault fault, int64_t now_ms)
{
	try->proxies_tried[try->proxy / 64] |= UINT64_C(1) << try->proxy % 64;
	/* Other requests may have entered a group anew since. */
	for (unsigned i = 0; i < policy->n_paths; i++)
		if (is_tried(try, i))
			burn(policy, i, now_ms);
	if (!choose(policy, try->key, try, &try->proxy)) {
		reset_paths(policy);
		return next_server(policy, try, fault, now_ms);
	}
	try->no_cache = try->no_cache_always;
	return true;
}

/* At random first, so that the nodes of a cluster do not come back all at once; doubling after that. */
static unsigned back_off(const struct lm_origin_policy *policy, struct lm_origin_try *try)
{
	const struct lm_origin_rules *rules = &policy->rules;
	if (try->backoff_ms == 0)
		try->backoff_ms = rules->random_below(LM_MIN(rules->backoff_init_ms, UINT32_MAX - 1) + 1);
	else
		try->backoff_ms = LM_MIN(try->backoff_ms, UINT32_MAX / 2) * 2;
	try->backoff_ms = LM_MIN(try->backoff_ms, rules->backoff_max_ms);
	return try->backoff_ms;
}

static bool has_other_server(const struct lm_origin_policy *policy, const struct lm_origin_try *try)
{
	for (unsigned i = 0; i < policy->n_servers; i++)
		if (i != try->server && !(try->servers_tried >> i & 1))
			return true;
	return false;
}

static bool is_broken(enum lm_origin_fault fault)
{
	return fault == LM_ORIGIN_CONNECT || fault == LM_ORIGIN_TRANSFER || fault == LM_ORIGIN_TIMEOUT;
}

static bool is_only_way(const struct lm_origin_policy *policy)
{
	return policy->n_servers == 1 && policy->n_paths == 1;
}

static bool may_retry(const struct lm_origin_policy *policy, const struct lm_origin_try *try,
	enum lm_origin_fault fault, uint64_t retry_after_ms)
{
	if (try->hasty || try->retries >= policy->rules.max_retries || retry_after_ms > policy->rules.backoff_max_ms)
		return false;
	switch (fault) {
	case LM_ORIGIN_TRANSFER:
	case LM_ORIGIN_TIMEOUT:
	case LM_ORIGIN_OVERLOAD:
		return true;
	case LM_ORIGIN_BUSY:
		return !has_other_server(policy, try);
	case LM_ORIGIN_CONNECT:
		return is_only_way(policy);
	default:
		return false;
	}
}

static bool may_start_over(
	const struct lm_origin_policy *policy, const struct lm_origin_try *try, enum lm_origin_fault fault)
{
	if (try->hasty || try->started_over || policy->rules.max_retries == 0)
		return false;
	return !is_only_way(policy) && try->refused && !try->timed_out && is_broken(fault);
}

/* Everything was tried: once more? */
static bool start_over(struct lm_origin_policy *policy, struct lm_origin_try *try, enum lm_origin_fault fault)
{
	if (!may_start_over(policy, try, fault))
		return false;
	try->started_over = true;
	try->servers_tried = 0;
	memset(try->proxies_tried, 0, sizeof(try->proxies_tried));
	try->absent = try->damaged = false;
	try->transport = 0;
	try->server = policy->server;
	try->no_cache = try->no_cache_always;
	return choose(policy, try->key, NULL, &try->proxy);
}

static bool find_witness(const struct lm_origin_policy *policy, const struct lm_origin_try *try, unsigned *ret)
{
	bool any = false;
	for (unsigned i = 0; i < policy->n_paths; i++) {
		if (i == try->proxy || policy->paths[i].peer->burned)
			continue;
		if (!any)
			*ret = i;
		any = true;
		if (policy->paths[i].group == policy->group) {
			*ret = i;
			break;
		}
	}
	return any;
}

/* No server has it, or not undamaged, as this proxy tells: what does another one say? */
static bool ask_witness(
	const struct lm_origin_policy *policy, struct lm_origin_try *try, enum lm_origin_fault fault, bool proxied)
{
	unsigned witness;
	if (!proxied || try->hasty || try->witnessed || is_broken(fault) || fault == LM_ORIGIN_PROXY ||
		!find_witness(policy, try, &witness))
		return false;
	try->witnessed = true;
	try->suspect = try->proxy;
	try->suspect_burns = fault != LM_ORIGIN_ABSENT;
	try->servers_tried = 0;
	memset(try->proxies_tried, 0, sizeof(try->proxies_tried));
	try->server = policy->server;
	try->proxy = witness;
	try->no_cache = try->no_cache_always;
	return true;
}

bool lm_origin_try_again(struct lm_origin_policy *policy, struct lm_origin_try *try, enum lm_origin_fault fault,
	uint64_t retry_after_ms, int64_t now_ms, unsigned *ret_delay_ms)
{
	bool proxied = lm_origin_policy_proxy(policy, try->proxy);
	*ret_delay_ms = 0;
	try->timed_out |= fault == LM_ORIGIN_TIMEOUT;
	try->refused |= fault == LM_ORIGIN_CONNECT;
	if (fault == LM_ORIGIN_DAMAGED && !try->no_cache) {
		try->no_cache = true;
		return true;
	}
	if (may_retry(policy, try, fault, retry_after_ms)) {
		unsigned pause_ms = back_off(policy, try);
		*ret_delay_ms = LM_MAX(pause_ms, (unsigned)retry_after_ms);
		try->retries++;
		return true;
	}
	bool next = proxied && (is_broken(fault) || fault == LM_ORIGIN_PROXY) ? next_proxy(policy, try, fault, now_ms)
									      : next_server(policy, try, fault, now_ms);
	if (!next)
		next = ask_witness(policy, try, fault, proxied);
	if (!next && start_over(policy, try, fault)) {
		*ret_delay_ms = back_off(policy, try);
		next = true;
	}
	return next;
}

void lm_origin_try_good(struct lm_origin_policy *policy, const struct lm_origin_try *try, int64_t now_ms)
{
	if (try->servers_tried >> policy->server & 1)
		use_server(policy, try->server, now_ms);
	if (try->witnessed && try->suspect_burns && try->proxy != try->suspect)
		burn(policy, try->suspect, now_ms);
}

int lm_origin_try_code(const struct lm_origin_try *try)
{
	if (try->transport)
		return try->transport;
	return try->damaged ? -EBADMSG : -ENOENT;
}

enum lm_origin_fault lm_origin_judge(unsigned status, bool proxied, bool proxy_error, bool retry_after)
{
	if (status >= 200 && status < 300)
		return LM_ORIGIN_FINE;
	if (status == 429)
		return LM_ORIGIN_OVERLOAD;
	bool servers = status >= 500 || status < 400 || status == 400 || status == 404;
	if (proxied && (proxy_error || !servers))
		return LM_ORIGIN_PROXY;
	if (status == 503 && retry_after)
		return LM_ORIGIN_BUSY;
	return status == 404 ? LM_ORIGIN_ABSENT : LM_ORIGIN_SERVER;
}

const char *lm_origin_fault_name(enum lm_origin_fault fault)
{
	static const char *const names[LM_ORIGIN_FAULTS] = {
		"none", "connect", "transfer", "timeout", "overload", "busy", "proxy", "server", "absent", "damaged"};
	return names[fault];
}

void lm_origin_latency_add(uint64_t latency[LM_ORIGIN_LATENCIES], int64_t us)
{
	unsigned slot = 0;
	for (int64_t ms = us / 1000; ms && slot < LM_ORIGIN_LATENCIES - 1; ms /= 2)
		slot++;
	latency[slot]++;
}

static void count(struct peer *peer, bool failed, uint64_t bytes, int64_t answer_us, const char *error, int64_t now_ms)
{
	peer->requests++;
	peer->failed += failed;
	peer->bytes += bytes;
	if (answer_us)
		lm_origin_latency_add(peer->latency, answer_us);
	if (failed) {
		snprintf(peer->error, sizeof(peer->error), "%s", error);
		peer->error_ms = now_ms;
	}
}

void lm_origin_policy_count(struct lm_origin_policy *policy, const struct lm_origin_try *try,
	enum lm_origin_fault fault, uint64_t bytes, int64_t answer_us, const char *error, int64_t now_ms)
{
	bool proxied = lm_origin_policy_proxy(policy, try->proxy);
	bool failed = fault != LM_ORIGIN_FINE && fault != LM_ORIGIN_ABSENT;
	bool ways =
		fault == LM_ORIGIN_PROXY || (proxied && (fault == LM_ORIGIN_TRANSFER || fault == LM_ORIGIN_TIMEOUT));
	count(policy->servers[try->server], failed && !ways, bytes, answer_us, error, now_ms);
	count(policy->paths[try->proxy].peer, failed && ways, bytes, answer_us, error, now_ms);
}

static int copy_place(struct lm_origin_place *place, const struct peer *peer)
{
	place->requests = peer->requests;
	place->failed = peer->failed;
	place->bytes = peer->bytes;
	place->error_ms = peer->error_ms;
	memcpy(place->latency, peer->latency, sizeof(place->latency));
	place->url = strdup(peer->shown);
	place->name = strdup(peer->name);
	place->error = strdup(peer->error);
	return place->url && place->name && place->error ? 0 : -ENOMEM;
}

static unsigned left_ms(int64_t since_ms, unsigned reset_ms, int64_t now_ms)
{
	return (unsigned)LM_MAX(since_ms + (int64_t)reset_ms - now_ms, (int64_t)0);
}

static int server_place(
	const struct lm_origin_policy *policy, unsigned server, int64_t now_ms, struct lm_origin_place *ret)
{
	ret->state = server == policy->server ? LM_ORIGIN_IN_USE : LM_ORIGIN_STANDBY;
	if (server == 0 && policy->server != 0)
		ret->burned_ms = left_ms(policy->server_left_ms, policy->rules.host_reset_ms, now_ms);
	return copy_place(ret, policy->servers[server]);
}

static int path_place(const struct lm_origin_policy *policy, unsigned path, int64_t now_ms, struct lm_origin_place *ret)
{
	const struct peer *peer = policy->paths[path].peer;
	bool in_use = is_usable(policy, path) && (policy->rules.shard || path == policy->path);
	ret->proxy = true;
	ret->group = policy->paths[path].group;
	ret->fallback = ret->group >= policy->first_fallback;
	ret->state = peer->burned ? LM_ORIGIN_BURNED : in_use ? LM_ORIGIN_IN_USE : LM_ORIGIN_STANDBY;
	if (peer->burned)
		ret->burned_ms = left_ms(policy->path_burned_ms, policy->rules.proxy_reset_ms, now_ms);
	return copy_place(ret, peer);
}

int lm_origin_policy_places(
	const struct lm_origin_policy *policy, int64_t now_ms, struct lm_origin_place **ret, unsigned *ret_count)
{
	unsigned n = policy->n_servers + policy->n_paths;
	struct lm_origin_place *places = calloc(n, sizeof(*places));
	int r = places ? 0 : -ENOMEM;
	for (unsigned i = 0; i < policy->n_servers && r == 0; i++)
		r = server_place(policy, i, now_ms, &places[i]);
	for (unsigned i = 0; i < policy->n_paths && r == 0; i++)
		r = path_place(policy, i, now_ms, &places[policy->n_servers + i]);
	if (r < 0) {
		lm_origin_places_free(places, n);
		return r;
	}
	*ret = places;
	*ret_count = n;
	return 0;
}

void lm_origin_places_free(struct lm_origin_place *places, unsigned n)
{
	for (unsigned i = 0; places && i < n; i++) {
		free((char *)places[i].url);
		free((char *)places[i].name);
		free((char *)places[i].error);
	}
	free(places);
}
