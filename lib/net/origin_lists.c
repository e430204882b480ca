#include "net/origin_lists.h"

#include "base/str.h"
#include "net/http_internal.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <curl/curl.h>
#include <string.h>
#include <strings.h>

enum { URL_MAX = 2048 };

LM_DEFINE_CLEANUP(CURLU, curl_url_cleanup, urlp)

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

/* shown: the text for messages. */
static int check_url(const char *text, const char *what, const char *shown, struct lm_err *err)
{
	if (!lm_str_starts(text, "http://") && !lm_str_starts(text, "https://"))
		return lm_err_set(err, -EINVAL, "%s \"%s\": neither http:// nor https://", what, shown);
	CLEANUP(urlp) CURLU *url = curl_url();
	if (!url)
		return lm_err_oom(err);
	CURLUcode code = curl_url_set(url, CURLUPART_URL, text, 0);
	if (code == CURLUE_OUT_OF_MEMORY)
		return lm_err_oom(err);
	return code ? lm_err_set(err, -EINVAL, "%s \"%s\": %s", what, shown, curl_url_strerror(code)) : 0;
}

static int add_server(struct lm_origin_lists *lists, const char *text, const char *fqrn, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf url = LM_BUF(URL_MAX);
	if (lists->n_servers == LM_ORIGIN_SERVERS_MAX)
		return lm_err_set(err, -EINVAL, "more than %d servers", LM_ORIGIN_SERVERS_MAX);
	int r = expand(&url, text, fqrn);
	if (r == -EMSGSIZE)
		return lm_err_set(err, -EINVAL, "server %u: more than %d bytes", lists->n_servers + 1, URL_MAX);
	if (r < 0)
		return lm_err_oom(err);
	while (url.len && url.data[url.len - 1] == '/')
		url.data[--url.len] = '\0';
	char shown[256];
	lm_http_show_url(text, shown, sizeof(shown));
	r = check_url(lm_buf_cstr(&url), "server", shown, err);
	if (r == 0)
		lists->servers[lists->n_servers++] = (char *)lm_buf_steal(&url, NULL);
	return r;
}

static int parse_servers(struct lm_origin_lists *lists, const char *text, const char *fqrn, struct lm_err *err)
{
	CLEANUP(lm_freep) char *list = strdup(text ? text : "");
	if (!list)
		return lm_err_oom(err);
	for (char *save, *item = strtok_r(list, ";,", &save); item; item = strtok_r(NULL, ";,", &save)) {
		item = trim(item);
		int r = *item ? add_server(lists, item, fqrn, err) : 0;
		if (r < 0)
			return r;
	}
	return lists->n_servers ? 0 : lm_err_set(err, -EINVAL, "no server is named");
}

/* Everything up to the last "@" may be a password, however wrong the rest is. */
static char *without_password(const char *url)
{
	const char *host = strstr(url, "://"), *at = strrchr(url, '@');
	host = host ? host + 3 : url;
	return lm_str_printf("%.*s%s", (int)(host - url), url, at && at >= host ? at + 1 : host);
}

char *lm_url_host(const char *text)
{
	CLEANUP(urlp) CURLU *url = curl_url();
	char *part = NULL;
	if (!url)
		return NULL;
	CURLUcode code = curl_url_set(url, CURLUPART_URL, text, 0);
	if (code == CURLUE_OK)
		code = curl_url_get(url, CURLUPART_HOST, &part, 0);
	if (code == CURLUE_OUT_OF_MEMORY)
		return NULL;
	char *host = strdup(part ? part : "");
	curl_free(part);
	return host;
}

static bool is_address(const char *host)
{
	struct in_addr v4;
	return host[0] == '[' || inet_pton(AF_INET, host, &v4) == 1;
}

char *lm_origin_proxy_at(const char *text, const char *address, bool v6)
{
	CLEANUP(urlp) CURLU *url = curl_url();
	CLEANUP(lm_freep) char *host = v6 ? lm_str_printf("[%s]", address) : strdup(address);
	char *whole = NULL;
	if (!url || !host || curl_url_set(url, CURLUPART_URL, text, 0) != CURLUE_OK ||
		curl_url_set(url, CURLUPART_HOST, host, 0) != CURLUE_OK ||
		curl_url_get(url, CURLUPART_URL, &whole, 0) != CURLUE_OK)
		return NULL;
	size_t len = strlen(whole);
	char *copy = lm_str_ndup(whole, len && whole[len - 1] == '/' ? len - 1 : len);
	curl_free(whole);
	return copy;
}

static int fill_proxy(struct lm_origin_proxy *proxy, const char *text, struct lm_err *err)
{
	if (strcasecmp(text, "DIRECT") == 0)
		return (proxy->shown = strdup("DIRECT")) ? 0 : lm_err_oom(err);
	if (strcasecmp(text, "auto") == 0)
		return lm_err_set(err, -EINVAL,
			"proxy \"auto\": programs that find proxies (PAC, WPAD) are not run; name the proxies");
	proxy->url = lm_str_printf("%s%s", strstr(text, "://") ? "" : "http://", text);
	if (!proxy->url || !(proxy->shown = without_password(proxy->url)))
		return lm_err_oom(err);
	if (strlen(proxy->url) > URL_MAX)
		return lm_err_set(err, -EINVAL, "proxy: more than %d bytes", URL_MAX);
	int r = check_url(proxy->url, "proxy", proxy->shown, err);
	if (r < 0)
		return r;
	CLEANUP(lm_freep) char *host = lm_url_host(proxy->url);
	if (!host)
		return lm_err_oom(err);
	if (!is_address(host) && lm_str_starts(proxy->url, "http://"))
		proxy->host = STEAL(host);
	return 0;
}

static void drop_proxy(struct lm_origin_proxy *proxy)
{
	free(proxy->url);
	free(proxy->shown);
	free(proxy->host);
	*proxy = (struct lm_origin_proxy){0};
}

static int add_proxy(struct lm_origin_lists *lists, const char *text, bool no_direct, struct lm_err *err)
{
	if (no_direct && strcasecmp(text, "DIRECT") == 0) {
		lists->direct_dropped = true;
		return 0;
	}
	if (lists->n_proxies == LM_ORIGIN_PROXIES_MAX)
		return lm_err_set(err, -EINVAL, "more than %d proxies", LM_ORIGIN_PROXIES_MAX);
	struct lm_origin_proxy *proxy = &lists->proxies[lists->n_proxies];
	proxy->group = lists->n_groups;
	int r = fill_proxy(proxy, text, err);
	if (r < 0)
		drop_proxy(proxy);
	else
		lists->n_proxies++;
	return r;
}

static int parse_proxies(struct lm_origin_lists *lists, const char *text, bool no_direct, struct lm_err *err)
{
	CLEANUP(lm_freep) char *list = strdup(text ? text : "");
	if (!list)
		return lm_err_oom(err);
	for (char *save, *group = strtok_r(list, ";", &save); group; group = strtok_r(NULL, ";", &save)) {
		unsigned before = lists->n_proxies;
		for (char *save2, *item = strtok_r(group, "|", &save2); item; item = strtok_r(NULL, "|", &save2)) {
			item = trim(item);
			int r = *item ? add_proxy(lists, item, no_direct, err) : 0;
			if (r < 0)
				return r;
		}
		lists->n_groups += lists->n_proxies > before;
	}
	return 0;
}

/* Anything but DIRECT. */
static bool names_proxy(const char *text)
{
	for (size_t len; text && *text; text += len + (text[len] != '\0')) {
		while (isspace((unsigned char)*text))
			text++;
		len = strcspn(text, ";|");
		size_t used = len;
		while (used && isspace((unsigned char)text[used - 1]))
			used--;
		if (used && (used != strlen("DIRECT") || strncasecmp(text, "DIRECT", used) != 0))
			return true;
	}
	return false;
}

static int parse(struct lm_origin_lists *lists, const char *servers, const char *proxies, const char *fallback,
	const char *fqrn, struct lm_err *err)
{
	bool has_fallback = names_proxy(fallback);
	int r = parse_servers(lists, servers, fqrn, err);
	if (r == 0)
		r = parse_proxies(lists, proxies, has_fallback, err);
	if (r == 0 && lists->n_proxies == 0 && !lists->direct_dropped)
		r = lm_err_set(err, -EINVAL, "no proxy is named (DIRECT means none is wanted)");
	lists->first_fallback = lists->n_groups;
	if (r == 0 && has_fallback) {
		bool dropped = lists->direct_dropped;
		r = parse_proxies(lists, fallback, true, err);
		lists->direct_dropped = dropped;
	}
	return r;
}

int lm_origin_lists_parse(const char *servers, const char *proxies, const char *fallback, const char *fqrn,
	struct lm_origin_lists **ret, struct lm_err *err)
{
	CLEANUP(lm_origin_lists_freep) struct lm_origin_lists *lists = calloc(1, sizeof(*lists));
	if (!lists)
		return lm_err_oom(err);
	int r = parse(lists, servers, proxies, fallback, fqrn, err);
	if (r < 0)
		return lm_err_prefix(err, r, "repository %s", fqrn);
	*ret = STEAL(lists);
	return 0;
}

void lm_origin_lists_free(struct lm_origin_lists *lists)
{
	if (!lists)
		return;
	for (unsigned i = 0; i < lists->n_servers; i++)
		free(lists->servers[i]);
	for (unsigned i = 0; i < lists->n_proxies; i++)
		drop_proxy(&lists->proxies[i]);
	free(lists);
}

void lm_origin_order_init(struct lm_origin_order *order)
{
	for (unsigned i = 0; i < LM_ORIGIN_SERVERS_MAX; i++)
		order->servers[i] = (uint8_t)i;
	for (unsigned i = 0; i < LM_ORIGIN_PROXIES_MAX; i++)
		order->fallback[i] = (uint8_t)i;
}

static const struct lm_origin_proxy *first_of_group(const struct lm_origin_lists *lists, unsigned group)
{
	const struct lm_origin_proxy *proxy = lists->proxies;
	while (proxy->group != group)
		proxy++;
	return proxy;
}

static int add_host(struct lm_buf *out, const char *url)
{
	CLEANUP(lm_freep) char *host = lm_url_host(url);
	return host ? lm_buf_printf(out, "%s,", host) : -ENOMEM;
}

char *lm_geo_question(const struct lm_origin_lists *lists, const char *who)
{
	CLEANUP(lm_buf_done)
	struct lm_buf out = LM_BUF((LM_ORIGIN_SERVERS_MAX + LM_ORIGIN_PROXIES_MAX + 2) * URL_MAX);
	int r = lm_buf_printf(&out, "api/v1.0/geo/%s/", who);
	for (unsigned i = 0; r == 0 && i < lists->n_servers; i++)
		r = add_host(&out, lists->servers[i]);
	if (r == 0 && lists->first_fallback < lists->n_groups)
		r = lm_buf_str(&out, "+PXYSEP+,");
	for (unsigned group = lists->first_fallback; r == 0 && group < lists->n_groups; group++)
		r = add_host(&out, first_of_group(lists, group)->url);
	if (r < 0)
		return NULL;
	out.data[--out.len] = '\0'; /* the last comma */
	return (char *)lm_buf_steal(&out, NULL);
}

/* A number at *text, moved behind it and the comma after it; 0 when there is none. */
static unsigned next_number(const char **text, const char *end)
{
	unsigned number = 0;
	const char *at = *text;
	while (at < end && isdigit((unsigned char)*at) && number < 1000)
		number = number * 10 + (unsigned)(*at++ - '0');
	if (at < end && *at == ',' && at + 1 < end)
		at++;
	*text = at;
	return number;
}

int lm_geo_answer(const struct lm_origin_lists *lists, const char *text, size_t len, struct lm_origin_order *ret)
{
	struct lm_origin_order order;
	bool seen[LM_ORIGIN_SERVERS_MAX + LM_ORIGIN_PROXIES_MAX + 1] = {false};
	unsigned groups = lists->n_groups - lists->first_fallback, n_servers = 0, n_fallback = 0;
	unsigned all = lists->n_servers + (groups ? groups + 1 : 0);
	const char *end = text + len;
	while (end > text && isspace((unsigned char)end[-1]))
		end--;
	lm_origin_order_init(&order);
	for (unsigned i = 0; i < all; i++) {
		unsigned number = next_number(&text, end);
		if (number < 1 || number > all || seen[number - 1])
			return -EPROTO;
		seen[number - 1] = true;
		if (number <= lists->n_servers)
			order.servers[n_servers++] = (uint8_t)(number - 1);
		else if (number > lists->n_servers + 1)
			order.fallback[n_fallback++] = (uint8_t)(number - lists->n_servers - 2);
	}
	if (text != end)
		return -EPROTO;
	*ret = order;
	return 0;
}
