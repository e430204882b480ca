#include "net/origin_policy.h"

#include "base/buf.h"
#include "base/str.h"

#include <ctype.h>
#include <curl/curl.h>
#include <string.h>
#include <strings.h>

enum { URL_MAX = 2048 };

struct proxy {
	char *url; /* NULL: direct */
	unsigned group;
	bool burned;
};

struct lm_origin_policy {
	/* constant after lm_origin_policy_new() */
	struct lm_origin_rules rules;
	char *servers[LM_ORIGIN_SERVERS_MAX];
	unsigned n_servers;
	struct proxy proxies[LM_ORIGIN_PROXIES_MAX]; /* the members of a group side by side */
	unsigned n_proxies, n_groups;

	/* shared by all requests */
	unsigned server;	 /* in use */
	int64_t server_left_ms;	 /* when the first server was left */
	unsigned proxy;		 /* in use */
	int64_t proxy_burned_ms; /* when the first proxy was burned */
	bool proxies_touched;	 /* one was, since the last reset */
};

static char *trim(char *text)
{
	while (isspace((unsigned char)*text))
		text++;
	size_t len = strlen(text);
	while (len && isspace((unsigned char)text[len - 1]))
		text[--len] = '\0';
	return text;
}

/* Appends text with @fqrn@ and @org@ (the first component of the name) replaced. */
static int expand(struct lm_buf *out, const char *text, const char *fqrn)
{
	int r = 0;
	while (*text && r == 0) {
		if (lm_str_starts(text, "@fqrn@")) {
			r = lm_buf_str(out, fqrn);
			text += strlen("@fqrn@");
		} else if (lm_str_starts(text, "@org@")) {
			r = lm_buf_append(out, fqrn, strcspn(fqrn, "."));
			text += strlen("@org@");
		} else {
			r = lm_buf_append(out, text++, 1);
		}
	}
	return r;
}

static int check_url(const char *text, const char *what, struct lm_err *err)
{
	if (!lm_str_starts(text, "http://") && !lm_str_starts(text, "https://"))
		return lm_err_set(err, -EINVAL, "%s \"%s\": neither http:// nor https://", what, text);
	CURLU *url = curl_url();
	if (!url)
		return lm_err_oom(err);
	CURLUcode code = curl_url_set(url, CURLUPART_URL, text, 0);
	curl_url_cleanup(url);
	if (code == CURLUE_OUT_OF_MEMORY)
		return lm_err_oom(err);
	return code ? lm_err_set(err, -EINVAL, "%s \"%s\": %s", what, text, curl_url_strerror(code)) : 0;
}

static int add_server(struct lm_origin_policy *policy, const char *text, const char *fqrn, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf url = LM_BUF(URL_MAX);
	if (policy->n_servers == LM_ORIGIN_SERVERS_MAX)
		return lm_err_set(err, -EINVAL, "more than %d servers", LM_ORIGIN_SERVERS_MAX);
	int r = expand(&url, text, fqrn);
	if (r == -EMSGSIZE)
		return lm_err_set(err, -EINVAL, "server \"%.64s…\": more than %d bytes", text, URL_MAX);
	if (r < 0)
		return lm_err_oom(err);
	while (url.len && url.data[url.len - 1] == '/')
		url.data[--url.len] = '\0';
	r = check_url(lm_buf_cstr(&url), "server", err);
	if (r == 0)
		policy->servers[policy->n_servers++] = (char *)lm_buf_steal(&url, NULL);
	return r;
}

static int parse_servers(struct lm_origin_policy *policy, char *list, const char *fqrn, struct lm_err *err)
{
	for (char *save, *item = strtok_r(list, ";,", &save); item; item = strtok_r(NULL, ";,", &save)) {
		item = trim(item);
		int r = *item ? add_server(policy, item, fqrn, err) : 0;
		if (r < 0)
			return r;
	}
	return policy->n_servers ? 0 : lm_err_set(err, -EINVAL, "no server is named");
}

static int add_proxy(struct lm_origin_policy *policy, const char *text, struct lm_err *err)
{
	if (policy->n_proxies == LM_ORIGIN_PROXIES_MAX)
		return lm_err_set(err, -EINVAL, "more than %d proxies", LM_ORIGIN_PROXIES_MAX);
	struct proxy *proxy = &policy->proxies[policy->n_proxies];
	proxy->group = policy->n_groups;
	if (strcasecmp(text, "DIRECT") != 0) {
		if (strcasecmp(text, "auto") == 0)
			return lm_err_set(err, -EINVAL, "proxy \"auto\": automatic configuration is not supported");
		CLEANUP(lm_freep) char *url = lm_str_printf("%s%s", strstr(text, "://") ? "" : "http://", text);
		if (!url)
			return lm_err_oom(err);
		int r = strlen(url) > URL_MAX ? lm_err_set(err, -EINVAL, "proxy: more than %d bytes", URL_MAX)
					      : check_url(url, "proxy", err);
		if (r < 0)
			return r;
		proxy->url = STEAL(url);
	}
	policy->n_proxies++;
	return 0;
}

static int parse_proxies(struct lm_origin_policy *policy, char *list, struct lm_err *err)
{
	for (char *save, *group = strtok_r(list, ";", &save); group; group = strtok_r(NULL, ";", &save)) {
		unsigned before = policy->n_proxies;
		for (char *save2, *item = strtok_r(group, "|", &save2); item; item = strtok_r(NULL, "|", &save2)) {
			item = trim(item);
			int r = *item ? add_proxy(policy, item, err) : 0;
			if (r < 0)
				return r;
		}
		policy->n_groups += policy->n_proxies > before;
	}
	return policy->n_proxies ? 0 : lm_err_set(err, -EINVAL, "no proxy is named (DIRECT means none is wanted)");
}

/* Picks one of the group that is not burned; false when there is none. */
static bool pick_proxy(struct lm_origin_policy *policy, unsigned group)
{
	unsigned fit[LM_ORIGIN_PROXIES_MAX], n = 0;
	for (unsigned i = 0; i < policy->n_proxies; i++)
		if (policy->proxies[i].group == group && !policy->proxies[i].burned)
			fit[n++] = i;
	if (n)
		policy->proxy = fit[policy->rules.random_below(n)];
	return n > 0;
}

static void reset_proxies(struct lm_origin_policy *policy)
{
	for (unsigned i = 0; i < policy->n_proxies; i++)
		policy->proxies[i].burned = false;
	policy->proxies_touched = false;
	(void)pick_proxy(policy, 0);
}

int lm_origin_policy_new(const char *servers, const char *proxies, const char *fqrn,
	const struct lm_origin_rules *rules, struct lm_origin_policy **ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *server_list = strdup(servers ? servers : "");
	CLEANUP(lm_freep) char *proxy_list = strdup(proxies ? proxies : "");
	CLEANUP(lm_origin_policy_freep) struct lm_origin_policy *policy = calloc(1, sizeof(*policy));
	if (!server_list || !proxy_list || !policy)
		return lm_err_oom(err);
	policy->rules = *rules;
	int r = parse_servers(policy, server_list, fqrn, err);
	if (r == 0)
		r = parse_proxies(policy, proxy_list, err);
	if (r < 0)
		return lm_err_prefix(err, r, "repository %s", fqrn);
	reset_proxies(policy);
	*ret = STEAL(policy);
	return 0;
}

void lm_origin_policy_free(struct lm_origin_policy *policy)
{
	if (!policy)
		return;
	for (unsigned i = 0; i < policy->n_servers; i++)
		free(policy->servers[i]);
	for (unsigned i = 0; i < policy->n_proxies; i++)
		free(policy->proxies[i].url);
	free(policy);
}

const char *lm_origin_policy_server(const struct lm_origin_policy *policy, unsigned server)
{
	return policy->servers[server];
}

const char *lm_origin_policy_proxy(const struct lm_origin_policy *policy, unsigned proxy)
{
	return policy->proxies[proxy].url;
}

/* Another request may have burned it before: then the one in use is another already. */
static void burn_proxy(struct lm_origin_policy *policy, unsigned proxy, int64_t now_ms)
{
	if (policy->proxy != proxy)
		return;
	policy->proxies[proxy].burned = true;
	if (!policy->proxies_touched)
		policy->proxy_burned_ms = now_ms;
	policy->proxies_touched = true;
	unsigned group = policy->proxies[proxy].group;
	if (pick_proxy(policy, group))
		return;
	group = (group + 1) % policy->n_groups;
	for (unsigned i = 0; i < policy->n_proxies; i++)
		if (policy->proxies[i].group == group)
			policy->proxies[i].burned = false;
	(void)pick_proxy(policy, group);
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
	if (policy->proxies_touched && now_ms - policy->proxy_burned_ms >= policy->rules.proxy_reset_ms)
		reset_proxies(policy);
}

void lm_origin_try_start(struct lm_origin_policy *policy, struct lm_origin_try *try, bool no_cache, int64_t now_ms)
{
	reset_when_due(policy, now_ms);
	*try = (struct lm_origin_try){
		.server = policy->server, .proxy = policy->proxy, .no_cache = no_cache, .no_cache_always = no_cache};
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
		try->proxy = policy->proxy;
		try->proxies_tried = 0;
		try->no_cache = try->no_cache_always;
		return true;
	}
	return false;
}

static bool next_proxy(
	struct lm_origin_policy *policy, struct lm_origin_try *try, enum lm_origin_fault fault, int64_t now_ms)
{
	burn_proxy(policy, try->proxy, now_ms);
	if (++try->proxies_tried >= policy->n_proxies) {
		reset_proxies(policy);
		return next_server(policy, try, fault, now_ms);
	}
	try->proxy = policy->proxy;
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

bool lm_origin_try_again(struct lm_origin_policy *policy, struct lm_origin_try *try, enum lm_origin_fault fault,
	int64_t now_ms, unsigned *ret_delay_ms)
{
	bool proxied = policy->proxies[try->proxy].url;
	bool transfer = fault == LM_ORIGIN_TRANSFER || fault == LM_ORIGIN_TIMEOUT;
	*ret_delay_ms = 0;
	if (fault == LM_ORIGIN_DAMAGED && !try->no_cache) {
		try->no_cache = true;
		return true;
	}
	if ((transfer || fault == LM_ORIGIN_OVERLOAD) && try->retries < policy->rules.max_retries) {
		try->retries++;
		*ret_delay_ms = back_off(policy, try);
		return true;
	}
	if (proxied && (transfer || fault == LM_ORIGIN_PROXY))
		return next_proxy(policy, try, fault, now_ms);
	return next_server(policy, try, fault, now_ms);
}

void lm_origin_try_good(struct lm_origin_policy *policy, const struct lm_origin_try *try, int64_t now_ms)
{
	if (try->servers_tried >> policy->server & 1)
		use_server(policy, try->server, now_ms);
}

int lm_origin_try_code(const struct lm_origin_try *try)
{
	if (try->transport)
		return try->transport;
	return try->damaged ? -EBADMSG : -ENOENT;
}

enum lm_origin_fault lm_origin_judge(unsigned status, bool proxied, bool proxy_error)
{
	if (status >= 200 && status < 300)
		return LM_ORIGIN_FINE;
	if (status == 429)
		return LM_ORIGIN_OVERLOAD;
	bool servers = status >= 500 || status < 400 || status == 400 || status == 404;
	if (proxied && (proxy_error || !servers))
		return LM_ORIGIN_PROXY;
	return status == 404 ? LM_ORIGIN_ABSENT : LM_ORIGIN_SERVER;
}

const char *lm_origin_fault_name(enum lm_origin_fault fault)
{
	static const char *const names[LM_ORIGIN_FAULTS] = {
		"none", "transfer", "timeout", "overload", "proxy", "server", "absent", "damaged"};
	return names[fault];
}
