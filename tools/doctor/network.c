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
#include "repo/object.h"
#include "repo/trust.h"

#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
	WAYS_MAX = 256,
	KEYS_MAX = 64,
	KEY_FILE_MAX = 1 << 20,
	CERTIFICATE_MAX = 2 * LM_PEM_MAX,
	BLACKLIST_MAX = 1 << 20
};
enum { SECOND_MS = 1000 };
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

/* Of one repository. */
struct network {
	struct lm_doctor *doctor;
	const json_t *settings;
	const char *fqrn;
	struct lm_http *http; /* borrowed */
	struct lm_origin_lists *lists;
	struct lm_key *keys[KEYS_MAX];
	size_t key_count;
	struct lm_buf blacklist;
	struct way ways[WAYS_MAX];
	size_t way_count;
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
	for (size_t i = 0; i < n->key_count; i++)
		lm_key_free(n->keys[i]);
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

static bool is_yes(const struct network *n, const char *key)
{
	const char *value = setting(n, key);
	return strcasecmp(value, "yes") == 0 || strcasecmp(value, "on") == 0 || strcasecmp(value, "true") == 0 ||
	       strcmp(value, "1") == 0;
}

/* --- keys --- */

static int add_key(struct network *n, const char *path, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(KEY_FILE_MAX);
	if (n->key_count == KEYS_MAX)
		return lm_err_set(err, -E2BIG, "more than %d public keys", KEYS_MAX);
	int r = lm_file_read(AT_FDCWD, path, &pem, err);
	if (r == 0)
		r = lm_key_parse_public(lm_buf_cstr(&pem), pem.len, &n->keys[n->key_count], err);
	if (r < 0)
		return lm_err_prefix(err, r, "public key %s", path);
	n->key_count++;
	return 0;
}

static int add_key_list(struct network *n, const char *list, struct lm_err *err)
{
	CLEANUP(lm_freep) char *copy = strdup(list);
	char *save = NULL;
	int r = copy ? 0 : lm_err_oom(err);
	for (char *path = copy ? strtok_r(copy, ":", &save) : NULL; path && r == 0; path = strtok_r(NULL, ":", &save))
		r = add_key(n, path, err);
	return r;
}

static int add_key_dir(struct network *n, const char *dir, struct lm_err *err)
{
	CLEANUP(globfree) glob_t found = {0};
	CLEANUP(lm_freep) char *pattern = lm_str_printf("%s/*.pub", dir);
	int r = 0;
	if (!pattern)
		return lm_err_oom(err);
	if (glob(pattern, 0, NULL, &found) != 0)
		return lm_err_set(err, -ENOENT, "%s: no public key (*.pub) is there", dir);
	for (size_t i = 0; r == 0 && i < found.gl_pathc; i++)
		r = add_key(n, found.gl_pathv[i], err);
	return r;
}

/* Those that the fetcher said it takes. */
static int load_trust(struct network *n, struct lm_err *err)
{
	const char *from = json_string_value(json_object_get(n->settings, "keys_from"));
	const char *blacklist = setting(n, "CVMFS_BLACKLIST");
	int r = from && strcmp(from, "CVMFS_KEYS_DIR") == 0 ? add_key_dir(n, setting(n, "CVMFS_KEYS_DIR"), err)
							    : add_key_list(n, setting(n, "CVMFS_PUBLIC_KEY"), err);
	if (r == 0 && json_is_true(json_object_get(n->settings, "blacklist")))
		r = lm_file_read(AT_FDCWD, *blacklist ? blacklist : STOCK_BLACKLIST, &n->blacklist, err);
	return r;
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
	return r < 0 ? lm_err_set(err, r, "more than %zu bytes", way->body.max) : 0;
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

static void try_all(struct network *n)
{
	for (unsigned p = 0; p < n->lists->n_proxies; p++) {
		if (is_hidden(&n->lists->proxies[p])) {
			lm_doctor_found(
				n->doctor, LM_DOCTOR_PROXY_PASSWORD, "%s for %s", n->lists->proxies[p].shown, n->fqrn);
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

struct verifying {
	struct network *network;
	const struct way *way;
	struct lm_buf whitelist; /* as it came */
};

static int fetch_signed(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err)
{
	struct verifying *v = arg;
	struct lm_http_request request;
	char object[LM_OBJECT_PATH_MAX];
	bool whitelist = !certificate || !certificate->set;
	size_t before = ret->len;
	CLEANUP(lm_freep)
	char *url = lm_str_printf("%s/%s", v->network->lists->servers[v->way->server],
		whitelist ? LM_WHITELIST_NAME : lm_object_path(certificate, LM_OBJECT_CERTIFICATE, object));
	if (!url)
		return lm_err_oom(err);
	request_of(v->network, v->way, url, &request);
	int r = lm_http_get(v->network->http, &request, ret, NULL, err);
	if (r == 0 && whitelist)
		r = lm_buf_append(&v->whitelist, ret->data + before, ret->len - before);
	return r;
}

static void tell_distrust(const struct network *n, const char *server, const struct lm_err *err)
{
	bool transport = err->code == -EIO || err->code == -ETIMEDOUT || err->code == -ENOENT || err->code == -EACCES;
	lm_doctor_found(n->doctor,
		err->code == -EKEYEXPIRED ? LM_DOCTOR_WHITELIST_EXPIRED
		: transport		  ? LM_DOCTOR_SERVER_FAILS
					  : LM_DOCTOR_UNTRUSTED,
		"%s: %s", server, lm_err_text(err));
}

/* 0, or it was told. */
static int verify(struct network *n, const struct way *way, struct lm_manifest *ret, int64_t *ret_expires_s)
{
	struct verifying v = {.network = n, .way = way, .whitelist = LM_BUF(LM_WHITELIST_MAX)};
	const struct lm_trust trust = {.fqrn = n->fqrn,
		.keys = n->keys,
		.key_count = n->key_count,
		.now_s = lm_wall_s(),
		.blacklist = n->blacklist.len ? lm_buf_cstr(&n->blacklist) : NULL};
	struct lm_whitelist whitelist;
	struct lm_err err = LM_ERR_INIT;
	int r = lm_trust_manifest(&trust, lm_buf_cstr(&way->body), way->body.len, fetch_signed, &v, ret, &err);
	if (r < 0)
		tell_distrust(n, n->lists->servers[way->server], &err);
	else if (lm_whitelist_parse(lm_buf_cstr(&v.whitelist), v.whitelist.len, &whitelist, NULL) == 0)
		*ret_expires_s = whitelist.expires_s;
	lm_buf_done(&v.whitelist);
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
	for (unsigned s = 0; s < n->lists->n_servers; s++) {
		const struct way *way = best_way(n, (int)s, -1);
		struct lm_manifest manifest;
		int64_t until_s = INT64_MAX;
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

/* Appends how far servers' clocks are ahead. */
static void note_clocks(const struct network *n, int64_t *ahead_s, size_t max, size_t *count)
{
	for (size_t i = 0; i < n->way_count && *count < max; i++)
		if (n->ways[i].code == 0 && n->ways[i].date_s)
			ahead_s[(*count)++] = n->ways[i].ahead_s;
}

int64_t lm_doctor_clock_behind(const int64_t *ahead_s, size_t count)
{
	int64_t nearest = 0;
	for (size_t i = 0; i < count; i++)
		if (i == 0 || llabs(ahead_s[i]) < llabs(nearest))
			nearest = ahead_s[i];
	return llabs(nearest) < LM_DOCTOR_CLOCK_S ? 0 : nearest;
}

static void tell_unreachable(struct network *n)
{
	const struct way *way = best_way(n, -1, -1);
	if (!way)
		lm_doctor_found(n->doctor, LM_DOCTOR_UNREACHABLE, "%s: no way could be tried", n->fqrn);
	for (size_t i = 0; i < n->way_count; i++)
		lm_doctor_found(n->doctor, LM_DOCTOR_UNREACHABLE, "%s by %s: %s", n->fqrn,
			proxy_name(n, n->ways[i].proxy), lm_err_text(&n->ways[i].err));
}

static int look_at(struct network *n, int64_t *ahead_s, size_t max, size_t *count, struct lm_err *err)
{
	int r = lm_origin_lists_parse(setting(n, "CVMFS_SERVER_URL"), setting(n, "CVMFS_HTTP_PROXY"),
		setting(n, "CVMFS_FALLBACK_PROXY"), n->fqrn, &n->lists, err);
	if (r == 0)
		r = load_trust(n, err);
	if (r < 0)
		return r;
	try_all(n);
	note_clocks(n, ahead_s, max, count);
	const struct way *best = best_way(n, -1, -1);
	bool hidden = n->way_count < (size_t)n->lists->n_servers * n->lists->n_proxies;
	if (!best && hidden) /* said already */
		return 0;
	if (!best || best->code < 0) {
		tell_unreachable(n);
		return 0;
	}
	tell_failures(n);
	judge(n);
	return 0;
}

static int look_at_repository(struct lm_doctor *doctor, struct lm_http *http, const json_t *settings, int64_t *ahead_s,
	size_t max, size_t *count, struct lm_err *err)
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
	return n->fqrn ? look_at(n, ahead_s, max, count, err) : lm_err_set(err, -EPROTO, "a repository without a name");
}

void lm_doctor_network(struct lm_doctor *doctor)
{
	enum { CLOCKS_MAX = 1024 };
	int64_t ahead_s[CLOCKS_MAX];
	size_t count = 0;
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
		if (look_at_repository(
			    doctor, http, json_array_get(repositories, i), ahead_s, CLOCKS_MAX, &count, &err) < 0)
			lm_doctor_found(doctor, LM_DOCTOR_UNREACHABLE, "%s", lm_err_text(&err));
	int64_t behind_s = lm_doctor_clock_behind(ahead_s, count);
	if (behind_s)
		lm_doctor_found(doctor, LM_DOCTOR_CLOCK, "it is %lld s %s by the nearest of %zu answers",
			(long long)llabs(behind_s), behind_s > 0 ? "behind" : "ahead", count);
	else if (count > 0)
		lm_doctor_saw(doctor, LM_DOCTOR_NETWORK, "the clock agrees with the servers'");
}
