/* Servers and proxies: the manifest of each repository, by every configured way at once; keys and clock against what
 * comes. */
#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/str.h"
#include "common.h"
#include "doctor/doctor.h"
#include "net/http.h"
#include "net/origin_lists.h"
#include "public_keys.h"
#include "repo/object.h"
#include "repo/trust.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

enum { WAYS_MAX = 256, CLOCKS_MAX = 1024, BLACKLIST_MAX = 1 << 20, SECOND_MS = 1000 };
#define STOCK_BLACKLIST "/etc/cvmfs/blacklist"

/* One server by one proxy. */
struct way {
	struct network *network;
	unsigned server, proxy;
	/* engine's thread, until done */
	struct lm_buf body;
	struct lm_err err;
	int code;
	int64_t date_s, age_s; /* of the answer, as it says; 0: it does not */
	int64_t ahead_s;       /* of our clock, where date_s is set */
};

/* How far those of servers are ahead of ours, as each answer says. */
struct clocks {
	int64_t ahead_s[CLOCKS_MAX];
	size_t count;
};

/* Of one repository. */
struct network {
	struct lm_doctor *doctor;
	const json_t *settings;
	const char *fqrn;
	struct lm_http *http; /* borrowed */
	struct lm_origin_lists *lists;
	struct lm_public_keys keys;
	struct lm_buf blacklist;
	struct way ways[WAYS_MAX];
	size_t way_count;
	bool has_hidden; /* there are ways that can't be tried */
	struct lm_lock lock;
	struct lm_cond changed;
	size_t running; /* under lock */
};

static void network_free(struct network *n)
{
	if (!n)
		return;
	for (size_t i = 0; i < n->way_count; i++)
		lm_buf_done(&n->ways[i].body);
	lm_public_keys_done(&n->keys);
	lm_buf_done(&n->blacklist);
	lm_origin_lists_free(n->lists);
	lm_cond_done(&n->changed);
	lm_lock_done(&n->lock);
	free(n);
}
LM_DEFINE_CLEANUP(struct network, network_free, network_freep)

static const char *setting(const struct network *n, const char *key)
{
	return lm_doctor_setting_of(n->settings, key);
}

/* As base/conf.h reads it; the fetcher has refused what is neither yes nor no. */
static bool is_yes(const struct network *n, const char *key)
{
	const char *value = setting(n, key);
	return strcasecmp(value, "yes") == 0 || strcasecmp(value, "on") == 0 || strcasecmp(value, "true") == 0 ||
	       strcmp(value, "1") == 0;
}

static void tell(const struct network *n, enum lm_doctor_kind kind, const char *what, const struct lm_err *err)
{
	if (err->code == -ENOMEM)
		n->doctor->incomplete = true;
	else
		lm_doctor_found(n->doctor, kind, "%s: %s", what, lm_err_text(err));
}

/* --- requests --- */

static void request_of(const struct network *n, const struct way *way, const char *url, struct lm_http_request *ret)
{
	const char *ca_file = setting(n, "LAMELLA_CA_FILE"), *ca_dir = setting(n, "X509_CERT_DIR");
	const char *proxy = n->lists->proxies[way->proxy].url;
	unsigned timeout_ms =
		(unsigned)lm_doctor_number_of(n->settings, proxy ? "CVMFS_TIMEOUT" : "CVMFS_TIMEOUT_DIRECT") *
		SECOND_MS;
	*ret = (struct lm_http_request){
		.url = url,
		.proxy = proxy,
		.connect_timeout_ms = timeout_ms,
		.stall_timeout_ms = timeout_ms,
		.slow_bytes_per_s = LM_MAX((unsigned)lm_doctor_number_of(n->settings, "CVMFS_LOW_SPEED_LIMIT"), 1U),
		.follow_redirects = is_yes(n, "CVMFS_FOLLOW_REDIRECTS"),
		.ca_file = *ca_file ? ca_file : NULL,
		.ca_path = *ca_dir ? ca_dir : NULL,
		.no_system_ca = (*ca_file || *ca_dir) && !is_yes(n, "CVMFS_USE_SSL_SYSTEM_CA"),
	};
}

/* Sat, 31 Jan 2026 23:59:59 GMT; 0: it is no date. */
static int64_t parse_date(const char *text)
{
	struct tm tm = {0};
	const char *end = strptime(text, "%a, %d %b %Y %H:%M:%S GMT", &tm);
	return end && !*end ? (int64_t)timegm(&tm) : 0;
}

static void on_header(void *arg, const char *name, const char *value)
{
	struct way *way = arg;
	uint64_t age;
	if (strcmp(name, "date") == 0)
		way->date_s = parse_date(value);
	else if (strcmp(name, "age") == 0 && lm_str_u64(value, strlen(value), &age) == 0 && age < INT32_MAX)
		way->age_s = (int64_t)age;
}

static int on_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct way *way = arg;
	int r = lm_buf_append(&way->body, data, len);
	if (r == -EMSGSIZE)
		return lm_err_set(err, r, "more than %zu bytes", way->body.max);
	return r < 0 ? lm_err_oom(err) : 0;
}

static void on_done(void *arg, const struct lm_http_result *result)
{
	struct way *way = arg;
	struct network *n = way->network;
	way->code = result->code;
	way->err = result->err;
	if (result->code == 0 && result->status / 100 != 2)
		way->code = lm_err_set(&way->err, -EIO, "%s: HTTP status %u", result->where, result->status);
	if (way->date_s)
		way->ahead_s = way->date_s + way->age_s - lm_wall_s();
	LM_LOCKED(&n->lock);
	n->running--;
	lm_cond_broadcast(&n->changed);
}

static void start(struct network *n, struct way *way)
{
	CLEANUP(lm_freep) char *url = lm_str_printf("%s/" LM_MANIFEST_NAME, n->lists->servers[way->server]);
	struct lm_http_request request;
	if (!url) {
		way->code = lm_err_oom(&way->err);
		return;
	}
	request_of(n, way, url, &request);
	request.no_cache = true;
	request.on_header = on_header;
	request.on_data = on_data;
	request.on_done = on_done;
	request.arg = way;
	lm_lock_take(&n->lock);
	n->running++;
	lm_lock_release(&n->lock);
	struct lm_err err = LM_ERR_INIT;
	if (lm_http_start(n->http, &request, NULL, &err) < 0) { /* no callback follows; else the way is the engine's */
		way->code = err.code;
		way->err = err;
		LM_LOCKED(&n->lock);
		n->running--;
	}
}

/* The fetcher's words hide passwords, so such a proxy can't be asked. */
static bool is_hidden(const struct lm_origin_proxy *proxy)
{
	return proxy->url && strstr(proxy->url, ":***@");
}

static void prepare(struct network *n)
{
	for (unsigned p = 0; p < n->lists->n_proxies; p++) {
		const struct lm_origin_proxy *proxy = &n->lists->proxies[p];
		if (is_hidden(proxy)) {
			lm_doctor_found(n->doctor, LM_DOCTOR_PROXY_PASSWORD, "%s for %s", proxy->shown, n->fqrn);
			n->has_hidden = true;
			continue;
		}
		for (unsigned s = 0; s < n->lists->n_servers && n->way_count < WAYS_MAX; s++) {
			struct way *way = &n->ways[n->way_count++];
			*way = (struct way){.network = n, .server = s, .proxy = p, .body = LM_BUF(LM_MANIFEST_MAX)};
		}
	}
	if (n->way_count == WAYS_MAX)
		lm_doctor_saw(n->doctor, LM_DOCTOR_NETWORK, "%s: the first %d pairs of server and proxy are tried",
			n->fqrn, WAYS_MAX);
	if (*setting(n, "CVMFS_DNS_SERVER"))
		lm_doctor_saw(n->doctor, LM_DOCTOR_NETWORK,
			"%s: names of proxies are looked up as this machine does, not at CVMFS_DNS_SERVER %s", n->fqrn,
			setting(n, "CVMFS_DNS_SERVER"));
}

static void try_all(struct network *n)
{
	for (size_t i = 0; i < n->way_count; i++)
		start(n, &n->ways[i]);
	LM_LOCKED(&n->lock);
	while (n->running > 0)
		lm_cond_wait(&n->changed, &n->lock);
}

/* --- what came --- */

static const char *proxy_name(const struct network *n, unsigned proxy)
{
	return n->lists->proxies[proxy].url ? n->lists->proxies[proxy].shown : "DIRECT";
}

/* The first way of that server, or by that proxy, that worked, else the first at all; -1 stands for any. NULL: none was
 * tried.
 */
static struct way *best_way(struct network *n, int server, int proxy)
{
	struct way *first = NULL;
	for (size_t i = 0; i < n->way_count; i++) {
		struct way *way = &n->ways[i];
		if ((server >= 0 && way->server != (unsigned)server) || (proxy >= 0 && way->proxy != (unsigned)proxy))
			continue;
		if (way->code == 0)
			return way;
		if (!first)
			first = way;
	}
	return first;
}

/* Whose fault a failure is shows only where another way works. */
static void tell_failures(struct network *n)
{
	for (unsigned s = 0; s < n->lists->n_servers; s++) {
		const struct way *way = best_way(n, (int)s, -1);
		if (way && way->code < 0)
			lm_doctor_found(n->doctor, LM_DOCTOR_SERVER_FAILS, "%s", lm_err_text(&way->err));
	}
	for (unsigned p = 0; p < n->lists->n_proxies; p++) {
		const struct way *way = best_way(n, -1, (int)p);
		if (way && way->code < 0)
			lm_doctor_found(n->doctor, LM_DOCTOR_PROXY_FAILS, "%s for %s: %s", proxy_name(n, p), n->fqrn,
				lm_err_text(&way->err));
	}
}

/* --- trust --- */

static int add_keys(struct lm_public_keys *keys, const char *list, struct lm_err *err)
{
	CLEANUP(lm_freep) char *copy = strdup(list);
	char *save = NULL;
	int r = copy ? 0 : lm_err_oom(err);
	for (char *path = copy ? strtok_r(copy, ":", &save) : NULL; path && r == 0; path = strtok_r(NULL, ":", &save))
		r = lm_public_keys_add(keys, path, err);
	return r;
}

/* Those that the fetcher said it takes. */
static int load_trust(struct network *n, struct lm_err *err)
{
	const char *blacklist = setting(n, "CVMFS_BLACKLIST");
	bool in_dir = strcmp(lm_doctor_text_of(n->settings, "keys_from"), "CVMFS_KEYS_DIR") == 0;
	int r = in_dir ? lm_public_keys_add_dir(&n->keys, setting(n, "CVMFS_KEYS_DIR"), err)
		       : add_keys(&n->keys, setting(n, "CVMFS_PUBLIC_KEY"), err);
	if (r == 0 && json_is_true(json_object_get(n->settings, "blacklist")))
		r = lm_file_read(AT_FDCWD, *blacklist ? blacklist : STOCK_BLACKLIST, &n->blacklist, err);
	return r;
}

struct verifying {
	const struct network *network;
	const struct way *way;
	int64_t expires_s; /* of the whitelist that came, and may yet be refused */
};

static int fetch_signed(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err)
{
	struct verifying *v = arg;
	struct lm_http_request request;
	char object[LM_OBJECT_PATH_MAX];
	CLEANUP(lm_freep)
	char *url = lm_str_printf("%s/%s", v->network->lists->servers[v->way->server],
		certificate->set ? lm_object_path(certificate, LM_OBJECT_CERTIFICATE, object) : LM_WHITELIST_NAME);
	if (!url)
		return lm_err_oom(err);
	request_of(v->network, v->way, url, &request);
	request.no_cache = !certificate->set;
	struct lm_whitelist whitelist;
	size_t before = ret->len;
	int r = lm_http_get(v->network->http, &request, ret, NULL, err);
	if (r == 0 && !certificate->set &&
		lm_whitelist_parse((const char *)ret->data + before, ret->len - before, &whitelist, NULL) == 0)
		v->expires_s = whitelist.expires_s;
	return r;
}

static enum lm_doctor_kind kind_of(const struct lm_err *err)
{
	switch (err->code) {
	case -EKEYEXPIRED:
		return LM_DOCTOR_WHITELIST_EXPIRED;
	case -EIO:
	case -ETIMEDOUT:
	case -ENOENT:
	case -EACCES:
		return LM_DOCTOR_SERVER_FAILS;
	default:
		return LM_DOCTOR_UNTRUSTED;
	}
}

/* 0, or it was told. */
static int verify(const struct network *n, const struct way *way, struct lm_manifest *ret, int64_t *ret_expires_s)
{
	struct verifying v = {.network = n, .way = way};
	const struct lm_trust trust = {.fqrn = n->fqrn,
		.keys = n->keys.keys,
		.key_count = n->keys.count,
		.now_s = lm_wall_s(),
		.blacklist = n->blacklist.len ? lm_buf_cstr(&n->blacklist) : NULL};
	struct lm_err err = LM_ERR_INIT;
	int r = lm_trust_manifest(&trust, lm_buf_cstr(&way->body), way->body.len, fetch_signed, &v, ret, &err);
	if (r < 0)
		tell(n, kind_of(&err), n->lists->servers[way->server], &err);
	else
		*ret_expires_s = v.expires_s;
	return r;
}

static void tell_revisions(const struct network *n, const uint64_t *revisions, uint64_t newest)
{
	for (unsigned s = 0; s < n->lists->n_servers; s++)
		if (revisions[s] && revisions[s] < newest)
			lm_doctor_found(n->doctor, LM_DOCTOR_SERVER_BEHIND,
				"%s has revision %" PRIu64 ", another %" PRIu64, n->lists->servers[s], revisions[s],
				newest);
}

static unsigned good_proxies(struct network *n)
{
	unsigned good = 0;
	for (unsigned p = 0; p < n->lists->n_proxies; p++) {
		const struct way *way = best_way(n, -1, (int)p);
		good += way && way->code == 0;
	}
	return good;
}

static void judge(struct network *n)
{
	uint64_t revisions[LM_ORIGIN_SERVERS_MAX] = {0}, newest = 0;
	int64_t expires_s = INT64_MAX, now_s = lm_wall_s();
	unsigned good = 0;
	struct lm_err err = LM_ERR_INIT;
	if (load_trust(n, &err) < 0) { /* but the fetcher could */
		tell(n, LM_DOCTOR_UNTRUSTED, n->fqrn, &err);
		return;
	}
	for (unsigned s = 0; s < n->lists->n_servers; s++) {
		const struct way *way = best_way(n, (int)s, -1);
		struct lm_manifest manifest;
		int64_t until_s;
		if (!way || way->code < 0 || verify(n, way, &manifest, &until_s) < 0)
			continue;
		good++;
		revisions[s] = manifest.revision;
		newest = LM_MAX(newest, manifest.revision);
		expires_s = LM_MIN(expires_s, until_s);
	}
	tell_revisions(n, revisions, newest);
	if (expires_s - now_s < LM_DOCTOR_EXPIRY_S)
		lm_doctor_found(n->doctor, LM_DOCTOR_WHITELIST_EXPIRES, "%s, at %s", n->fqrn, lm_cli_time(expires_s).s);
	if (good > 0)
		lm_doctor_saw(n->doctor, LM_DOCTOR_NETWORK,
			"%s: %u of %u servers give revision %" PRIu64 ", signed by our keys, by %u of %u proxies",
			n->fqrn, good, n->lists->n_servers, newest, good_proxies(n), n->lists->n_proxies);
}

/* --- all of it --- */

static void note_clocks(const struct network *n, struct clocks *clocks)
{
	for (size_t i = 0; i < n->way_count && clocks->count < CLOCKS_MAX; i++)
		if (n->ways[i].code == 0 && n->ways[i].date_s)
			clocks->ahead_s[clocks->count++] = n->ways[i].ahead_s;
}

int64_t lm_doctor_clock_behind(const int64_t *ahead_s, size_t count)
{
	int64_t nearest = 0;
	for (size_t i = 0; i < count; i++)
		if (i == 0 || llabs(ahead_s[i]) < llabs(nearest))
			nearest = ahead_s[i];
	return llabs(nearest) < LM_DOCTOR_CLOCK_S ? 0 : nearest;
}

/* Nothing works. Where not all could be tried, that is not to say that nothing would. */
static void tell_unreachable(struct network *n)
{
	for (size_t i = 0; i < n->way_count; i++) {
		const struct way *way = &n->ways[i];
		CLEANUP(lm_freep) char *what = lm_str_printf("%s by %s", n->fqrn, proxy_name(n, way->proxy));
		tell(n, n->has_hidden ? LM_DOCTOR_PROXY_FAILS : LM_DOCTOR_UNREACHABLE, what ? what : n->fqrn,
			&way->err);
	}
}

static int look_at(struct network *n, struct clocks *clocks, struct lm_err *err)
{
	int r = lm_origin_lists_parse(setting(n, "CVMFS_SERVER_URL"), setting(n, "CVMFS_HTTP_PROXY"),
		setting(n, "CVMFS_FALLBACK_PROXY"), n->fqrn, &n->lists, err);
	if (r < 0)
		return r;
	prepare(n);
	try_all(n);
	note_clocks(n, clocks);
	const struct way *best = best_way(n, -1, -1);
	if (best && best->code == 0) {
		tell_failures(n);
		judge(n);
	} else {
		tell_unreachable(n);
	}
	return 0;
}

static int look_at_repository(struct lm_doctor *doctor, struct lm_http *http, const json_t *settings,
	struct clocks *clocks, struct lm_err *err)
{
	CLEANUP(network_freep) struct network *n = calloc(1, sizeof(*n));
	if (!n)
		return lm_err_oom(err);
	n->doctor = doctor;
	n->settings = settings;
	n->fqrn = json_string_value(json_object_get(settings, "name"));
	n->http = http;
	n->blacklist = LM_BUF(BLACKLIST_MAX);
	lm_lock_init(&n->lock);
	lm_cond_init(&n->changed);
	return n->fqrn ? look_at(n, clocks, err) : lm_err_set(err, -EPROTO, "a repository without a name");
}

void lm_doctor_network(struct lm_doctor *doctor)
{
	struct clocks clocks = {.count = 0};
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_http_freep) struct lm_http *http = NULL;
	if (!doctor->gathered.settings) {
		lm_doctor_saw(doctor, LM_DOCTOR_NETWORK, "not looked at: the settings are not known");
		return;
	}
	if (lm_http_new(&(struct lm_http_limits){0}, &http, &err) < 0) {
		lm_doctor_found(doctor, LM_DOCTOR_UNREACHABLE, "%s", lm_err_text(&err));
		return;
	}
	const json_t *repositories = json_object_get(doctor->gathered.settings, "repositories");
	for (size_t i = 0; i < json_array_size(repositories); i++)
		if (look_at_repository(doctor, http, json_array_get(repositories, i), &clocks, &err) < 0)
			lm_doctor_found(doctor, LM_DOCTOR_UNREACHABLE, "%s", lm_err_text(&err));
	int64_t behind_s = lm_doctor_clock_behind(clocks.ahead_s, clocks.count);
	if (behind_s)
		lm_doctor_found(doctor, LM_DOCTOR_CLOCK, "it is %lld s %s by the nearest of %zu answers",
			(long long)llabs(behind_s), behind_s > 0 ? "behind" : "ahead", clocks.count);
	else if (clocks.count > 0)
		lm_doctor_saw(doctor, LM_DOCTOR_NETWORK, "the clock agrees with the servers'");
}
