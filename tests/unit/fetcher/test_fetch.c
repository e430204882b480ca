#include "fetcher_test.h"

#include "base/clock.h"

#define FQRN "test.example.org"
enum { MANY = 200 };

struct rig {
	char *dir; /* DIR/cvmfs/FQRN is the repository, DIR/cache the cache */
	struct web *web;
	struct lm_http *http;
	struct lm_cache *cache;
	struct lm_work *work;
	struct lm_origin *origin;
	struct lm_fetch *fetch;
};

static void rig_open(struct rig *rig)
{
	struct lm_err err = LM_ERR_INIT;
	const struct lm_http_limits limits = {0};
	rig->dir = temp_dir();
	rig->web = web_start(rig->dir);
	CLEANUP(lm_freep) char *cache = lm_str_printf("%s/cache", rig->dir);
	CLEANUP(lm_freep) char *url = lm_str_printf("%s/cvmfs/@fqrn@", rig->web->liar->url);
	const struct lm_origin_config config = {.servers = url,
		.proxies = "DIRECT",
		.fqrn = FQRN,
		.timeout_direct_ms = 2000,
		.backoff_init_ms = 1,
		.backoff_max_ms = 1};
	assert_ok(lm_cache_new(cache, &rig->cache, &err), &err);
	assert_ok(lm_work_new("test", 4, 100, &rig->work, &err), &err);
	assert_ok(lm_http_new(&limits, &rig->http, &err), &err);
	assert_ok(lm_origin_new(rig->http, &config, &rig->origin, &err), &err);
	assert_ok(lm_fetch_new(rig->cache, rig->origin, rig->work, 1 << 30, &rig->fetch, &err), &err);
}

static void rig_close(struct rig *rig)
{
	lm_http_free(rig->http);
	lm_work_free(rig->work);
	lm_fetch_free(rig->fetch);
	lm_origin_free(rig->origin);
	lm_cache_free(rig->cache);
	web_stop(&rig->web);
	temp_dir_remove(&rig->dir);
}

struct result {
	struct latch latch;
	int code, fd;
	struct lm_err err;
};

static void on_result(void *arg, int code, int fd, const struct lm_err *err)
{
	struct result *result = arg;
	result->code = code;
	result->fd = code == 0 ? dup(fd) : -1;
	if (code < 0)
		result->err = *err;
	latch_add(&result->latch);
}

/* Fetches and waits: the code; *ret_fd on success. */
static int fetch(struct rig *rig, const struct lm_object_ref *ref, int *ret_fd, struct lm_err *err)
{
	struct result result = {.latch = LATCH_INIT, .fd = -1};
	int r = lm_fetch_object(rig->fetch, ref, LM_HTTP_BLOCKED_READ, on_result, &result, ret_fd, err);
	if (r != LM_FETCH_LATER)
		return r;
	latch_wait(&result.latch, 1);
	*ret_fd = result.fd;
	if (result.code < 0)
		*err = result.err;
	return result.code;
}

static void test_fetch_then_cached(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	int fd = -1;
	rig_open(&rig);
	struct lm_object_ref ref = put_object(rig.dir, FQRN, LM_OBJECT_FILE, "some content", 12);
	assert_ok(fetch(&rig, &ref, &fd, &err), &err);
	assert_content(fd, "some content", 12);
	unsigned requests = liar_requests(rig.web->liar);
	assert_int_equal(lm_fetch_object(rig.fetch, &ref, LM_HTTP_PREFETCH, on_result, NULL, &fd, &err), 0);
	assert_content(fd, "some content", 12);
	assert_int_equal(liar_requests(rig.web->liar), requests);
	struct lm_fetch_stats stats;
	lm_fetch_stats(rig.fetch, &stats);
	assert_int_equal(stats.files, 1);
	assert_int_equal(stats.failed, 0);
}

/* However many want it, it is fetched once. */
static void test_one_download(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct result results[MANY];
	struct lm_err err = LM_ERR_INIT;
	rig_open(&rig);
	uint8_t *content = malloc(3 << 20);
	for (size_t i = 0; i < 3 << 20; i++)
		content[i] = (uint8_t)(i * i >> 7);
	struct lm_object_ref ref = put_object(rig.dir, FQRN, LM_OBJECT_CHUNK, content, 3 << 20);
	for (size_t i = 0; i < MANY; i++) {
		results[i] = (struct result){.latch = LATCH_INIT, .fd = -1};
		int r = lm_fetch_object(
			rig.fetch, &ref, LM_HTTP_BLOCKED_READ, on_result, &results[i], &results[i].fd, &err);
		assert_true(r >= 0);
		if (r == 0)
			latch_add(&results[i].latch);
	}
	for (size_t i = 0; i < MANY; i++) {
		latch_wait(&results[i].latch, 1);
		assert_int_equal(results[i].code, 0);
		assert_content(results[i].fd, content, 3 << 20);
	}
	assert_int_equal(liar_requests(rig.web->liar), 1);
	free(content);
}

static void test_damage_once_is_repaired(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	int fd = -1;
	rig_open(&rig);
	struct lm_object_ref ref = put_object(rig.dir, FQRN, LM_OBJECT_FILE, "to be damaged", 13);
	web_spoil(rig.web, "/data/", WEB_DAMAGED, 1);
	assert_ok(fetch(&rig, &ref, &fd, &err), &err);
	assert_content(fd, "to be damaged", 13);
	assert_int_equal(liar_requests(rig.web->liar), 2);
}

/* What can't be had says why, leaves nothing, is not asked for again at once, and can be had when the network is back.
 */
static void test_failures(void **state)
{
	static const struct {
		enum web_mode mode;
		int code;
		const char *content;
	} failures[] = {{WEB_DAMAGED, -EBADMSG, "hard"}, {WEB_ABSENT, -ENOENT, "to"}, {WEB_BROKEN, -EIO, "get"},
		{WEB_LONGER, -EBADMSG, "at"}};
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_object_ref refs[ARRAY_LEN(failures)];
	rig_open(&rig);
	int fd = -1;
	for (size_t i = 0; i < ARRAY_LEN(failures); i++) {
		struct lm_err err = LM_ERR_INIT, again = LM_ERR_INIT;
		const char *content = failures[i].content;
		char name[LM_OBJECT_PATH_MAX];
		refs[i] = put_object(rig.dir, FQRN, LM_OBJECT_FILE, content, strlen(content));
		lm_object_path(&refs[i].hash, refs[i].kind, name);
		web_spoil(rig.web, "/data/", failures[i].mode, 0);
		assert_int_equal(fetch(&rig, &refs[i], &fd, &err), failures[i].code);
		if (!strstr(err.msg, name) || !strstr(err.msg, FQRN))
			fail_msg("\"%s\" does not name %s and " FQRN, err.msg, name);
		assert_int_equal(lm_cache_open(rig.cache, &refs[i]), -ENOENT);
		unsigned requests = liar_requests(rig.web->liar);
		assert_int_equal(fetch(&rig, &refs[i], &fd, &again), failures[i].code);
		assert_string_equal(again.msg, err.msg);
		assert_int_equal(liar_requests(rig.web->liar), requests);
	}
	struct lm_err err = LM_ERR_INIT;
	struct lm_fetch_stats stats;
	lm_fetch_stats(rig.fetch, &stats);
	assert_int_equal(stats.failed, ARRAY_LEN(failures));
	assert_int_equal(stats.refused, ARRAY_LEN(failures));
	const size_t last = ARRAY_LEN(failures) - 1;
	assert_true(lm_hash_equal(&stats.last_failure.ref.hash, &refs[last].hash));
	assert_int_equal(stats.last_failure.code, failures[last].code);
	assert_non_null(strstr(stats.last_failure.err.msg, FQRN));
	assert_true(stats.last_failure.ago_ms >= 0 && stats.last_failure.ago_ms < 60000);
	web_spoil(rig.web, NULL, WEB_RIGHT, 0);
	lm_fetch_recover(rig.fetch);
	for (size_t i = 0; i < ARRAY_LEN(failures); i++) {
		assert_ok(fetch(&rig, &refs[i], &fd, &err), &err);
		assert_content(fd, failures[i].content, strlen(failures[i].content));
	}
}

static void on_later(void *arg)
{
	latch_add(arg);
}

static void test_later(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct latch latch = LATCH_INIT;
	rig_open(&rig);
	int64_t begin = lm_now_ms();
	assert_int_equal(lm_fetch_later(rig.fetch, 30, on_later, &latch), 0);
	latch_wait(&latch, 1);
	assert_true(lm_now_ms() - begin >= 30);
}

/* After an unclean end of the machine whoever asks does not read the object to verify it: a job does. */
struct verified {
	struct result result;
	pthread_t thread;
};

static void on_verified(void *arg, int code, int fd, const struct lm_err *err)
{
	struct verified *verified = arg;
	verified->thread = pthread_self();
	on_result(&verified->result, code, fd, err);
}

static void end_uncleanly(struct rig *rig)
{
	struct lm_err err = LM_ERR_INIT;
	const struct lm_http_limits limits = {0};
	CLEANUP(lm_freep) char *cache = lm_str_printf("%s/cache", rig->dir);
	CLEANUP(lm_freep)
	char *command = lm_str_printf("sed -i 's/^boot .*/boot 0/; s/^state .*/state open/' %s/boot", cache);
	CLEANUP(lm_freep) char *url = lm_str_printf("%s/cvmfs/@fqrn@", rig->web->liar->url);
	const struct lm_origin_config config = {.servers = url, .proxies = "DIRECT", .fqrn = FQRN};
	lm_http_free(STEAL(rig->http));
	lm_work_drain(rig->work);
	lm_fetch_free(STEAL(rig->fetch));
	lm_origin_free(STEAL(rig->origin));
	lm_cache_free(STEAL(rig->cache));
	assert_int_equal(run((const char *const[]){"sh", "-c", command, NULL}), 0);
	assert_ok(lm_cache_new(cache, &rig->cache, &err), &err);
	assert_ok(lm_http_new(&limits, &rig->http, &err), &err);
	assert_ok(lm_origin_new(rig->http, &config, &rig->origin, &err), &err);
	assert_ok(lm_fetch_new(rig->cache, rig->origin, rig->work, 1 << 30, &rig->fetch, &err), &err);
}

static void test_verified_by_a_job(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	struct lm_object_ref refs[2];
	static const char *const contents[] = {"of the earlier boot", "damaged in the end"};
	int fd = -1;
	rig_open(&rig);
	for (size_t i = 0; i < 2; i++) {
		refs[i] = put_object(rig.dir, FQRN, LM_OBJECT_FILE, contents[i], strlen(contents[i]));
		assert_ok(fetch(&rig, &refs[i], &fd, &err), &err);
		close(fd);
	}
	end_uncleanly(&rig);
	if (!lm_cache_has_suspects(rig.cache)) {
		printf("skipped: no extended attributes here\n");
		skip();
	}
	CLEANUP(lm_freep) char *path = lm_cache_path(rig.cache, &refs[1]);
	write_file(path, "damaged by the end", strlen(contents[1])); /* without attributes, too */
	unsigned requests = liar_requests(rig.web->liar);
	for (size_t i = 0; i < 2; i++) {
		struct verified verified = {.result = {.latch = LATCH_INIT, .fd = -1}};
		assert_int_equal(
			lm_fetch_object(rig.fetch, &refs[i], LM_HTTP_BLOCKED_READ, on_verified, &verified, &fd, &err),
			LM_FETCH_LATER);
		latch_wait(&verified.result.latch, 1);
		assert_int_equal(verified.result.code, 0);
		assert_false(pthread_equal(verified.thread, pthread_self()));
		assert_content(verified.result.fd, contents[i], strlen(contents[i]));
		assert_int_equal(liar_requests(rig.web->liar), requests + i); /* only the damaged one is fetched */
	}
}

/* The hash fits, but the catalog that names the object is wrong about its size: never shown. */
static void test_wrong_size(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	rig_open(&rig);
	struct lm_object_ref ref = put_object(rig.dir, FQRN, LM_OBJECT_FILE, "twelve bytes", 12);
	struct lm_object_ref shorter = ref, longer = ref, any = ref;
	int fd = -1;
	shorter.size = 11;
	longer.size = 13;
	any.size = LM_SIZE_UNKNOWN;
	struct lm_err err = LM_ERR_INIT;
	assert_true(fetch(&rig, &shorter, &fd, &err) < 0);
	assert_int_equal(fetch(&rig, &longer, &fd, &err), -EPROTO);
	assert_int_equal(lm_cache_open(rig.cache, &any), -ENOENT);
	assert_ok(fetch(&rig, &ref, &fd, &err), &err);
	assert_content(fd, "twelve bytes", 12);
	assert_true(fetch(&rig, &longer, &fd, &err) < 0);
	assert_ok(fetch(&rig, &ref, &fd, &err), &err); /* the right one is still there */
	assert_content(fd, "twelve bytes", 12);
}

static void test_empty_object(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	int fd = -1;
	rig_open(&rig);
	struct lm_object_ref ref = put_object(rig.dir, FQRN, LM_OBJECT_FILE, "", 0);
	assert_ok(fetch(&rig, &ref, &fd, &err), &err);
	assert_content(fd, "", 0);
}

/* The engine ends in the middle: everybody who waits hears of it. */
static void test_stop_in_the_middle(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct result results[20];
	struct lm_err err = LM_ERR_INIT;
	rig_open(&rig);
	/* The server takes the request and says nothing. */
	rig.web->liar->hook = NULL;
	struct lm_object_ref ref = {.hash = {.bytes = {1}, .set = true}, .kind = LM_OBJECT_FILE, .size = 5};
	CLEANUP(lm_freep) char *url = lm_str_printf("%s/gate", rig.web->liar->url);
	lm_fetch_free(rig.fetch);
	lm_origin_free(rig.origin);
	const struct lm_origin_config config = {.servers = url, .proxies = "DIRECT", .fqrn = FQRN};
	assert_ok(lm_origin_new(rig.http, &config, &rig.origin, &err), &err);
	assert_ok(lm_fetch_new(rig.cache, rig.origin, rig.work, 1 << 30, &rig.fetch, &err), &err);
	for (size_t i = 0; i < ARRAY_LEN(results); i++) {
		results[i] = (struct result){.latch = LATCH_INIT, .fd = -1};
		ref.hash.bytes[1] = (uint8_t)(i / 2);
		assert_int_equal(lm_fetch_object(rig.fetch, &ref, LM_HTTP_BLOCKED_READ, on_result, &results[i],
					 &results[i].fd, &err),
			LM_FETCH_LATER);
	}
	lm_http_free(STEAL(rig.http));
	for (size_t i = 0; i < ARRAY_LEN(results); i++) {
		latch_wait(&results[i].latch, 1);
		assert_int_equal(results[i].code, -ECANCELED);
	}
}

/* An object asked for without anybody waiting just gets into the cache. */
static void test_read_ahead(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	int fd = -1;
	rig_open(&rig);
	struct lm_object_ref ref = put_object(rig.dir, FQRN, LM_OBJECT_CHUNK, "next", 4);
	int r = lm_fetch_object(rig.fetch, &ref, LM_HTTP_READ_AHEAD, NULL, NULL, NULL, &err);
	assert_int_equal(r, LM_FETCH_LATER);
	assert_ok(fetch(&rig, &ref, &fd, &err), &err); /* joins it */
	assert_content(fd, "next", 4);
	assert_int_equal(liar_requests(rig.web->liar), 1);
	assert_int_equal(lm_fetch_object(rig.fetch, &ref, LM_HTTP_READ_AHEAD, NULL, NULL, NULL, &err), 0);
}

/* The origin of the rig becomes one that answers "hello" when the gate opens. */
static struct lm_object_ref close_gate(struct rig *rig, unsigned timeout_ms)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_object_ref ref = {.kind = LM_OBJECT_FILE, .compression = LM_COMPRESSION_NONE, .size = 5};
	assert_ok(lm_hash_data(LM_HASH_SHA1, "hello", 5, &ref.hash, &err), &err);
	rig->web->liar->hook = NULL;
	CLEANUP(lm_freep) char *url = lm_str_printf("%s/gate", rig->web->liar->url);
	const struct lm_origin_config config = {.servers = url, .proxies = "DIRECT", .fqrn = FQRN};
	lm_fetch_free(rig->fetch);
	lm_origin_free(rig->origin);
	assert_ok(lm_origin_new(rig->http, &config, &rig->origin, &err), &err);
	assert_ok(lm_fetch_new(rig->cache, rig->origin, rig->work, 1 << 30, &rig->fetch, &err), &err);
	if (timeout_ms)
		lm_fetch_set_timeout(rig->fetch, timeout_ms);
	return ref;
}

struct seen {
	unsigned count;
	struct lm_fetch_download last;
};

static void see(void *arg, const struct lm_fetch_download *download)
{
	struct seen *seen = arg;
	seen->count++;
	seen->last = *download;
}

static void assert_under_way(struct rig *rig, unsigned waiters, enum lm_http_priority priority)
{
	struct seen seen = {0};
	assert_int_equal(lm_fetch_describe(rig->fetch, see, &seen), 0);
	assert_int_equal(seen.count, 1);
	assert_int_equal(seen.last.waiters, waiters);
	assert_int_equal(seen.last.priority, priority);
	assert_true(seen.last.age_ms >= 0);
}

/* A download is as urgent as those who wait for it. */
static void test_priority_follows_the_waiters(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct result results[2] = {{.latch = LATCH_INIT, .fd = -1}, {.latch = LATCH_INIT, .fd = -1}};
	struct lm_err err = LM_ERR_INIT;
	struct lm_fetch_stats stats;
	struct seen seen = {0};
	int fd;
	rig_open(&rig);
	struct lm_object_ref ref = close_gate(&rig, 0), other = ref;
	assert_int_equal(lm_fetch_ahead(rig.fetch, &ref), 0);
	assert_under_way(&rig, 0, LM_HTTP_READ_AHEAD);
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(
			lm_fetch_object(rig.fetch, &ref, LM_HTTP_BLOCKED_READ, on_result, &results[i], &fd, &err),
			LM_FETCH_LATER);
		assert_under_way(&rig, (unsigned)i + 1, LM_HTTP_BLOCKED_READ);
	}
	lm_fetch_used(rig.fetch, &ref);
	lm_fetch_used(rig.fetch, &ref);
	lm_fetch_leave(rig.fetch, &ref, &results[0]);
	lm_fetch_leave(rig.fetch, &ref, &results[0]); /* once is enough */
	assert_under_way(&rig, 2, LM_HTTP_BLOCKED_READ);
	lm_fetch_leave(rig.fetch, &ref, &results[1]);
	assert_under_way(&rig, 2, LM_HTTP_READ_AHEAD);
	other.hash.bytes[0] ^= 1;
	lm_fetch_leave(rig.fetch, &other, &results[1]);
	liar_open(rig.web->liar);
	for (size_t i = 0; i < 2; i++) {
		latch_wait(&results[i].latch, 1);
		assert_int_equal(results[i].code, 0);
		assert_content(results[i].fd, "hello", 5);
	}
	assert_int_equal(lm_fetch_describe(rig.fetch, see, &seen), 0);
	assert_int_equal(seen.count, 0);
	lm_fetch_stats(rig.fetch, &stats);
	assert_int_equal(stats.merged, 2);
	assert_int_equal(stats.left, 2);
	assert_int_equal(stats.ahead, 1);
	assert_int_equal(stats.ahead_used, 1);
	assert_int_equal(stats.downloads, 0);
	assert_int_equal(stats.waiters, 0);
	uint64_t ended = 0;
	for (size_t i = 0; i < LM_FETCH_LATENCIES; i++)
		ended += stats.latency[i];
	assert_int_equal(ended, 1);
}

/* Nobody waits for ever, but the download goes on, and whoever comes later joins it. */
static void test_patience(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct result early = {.latch = LATCH_INIT, .fd = -1}, late = {.latch = LATCH_INIT, .fd = -1};
	struct lm_err err = LM_ERR_INIT;
	struct lm_fetch_stats stats;
	struct lm_fetch_slow slow[LM_FETCH_SLOWEST];
	int fd;
	rig_open(&rig);
	struct lm_object_ref ref = close_gate(&rig, 50);
	assert_int_equal(
		lm_fetch_object(rig.fetch, &ref, LM_HTTP_BLOCKED_READ, on_result, &early, &fd, &err), LM_FETCH_LATER);
	latch_wait(&early.latch, 1);
	assert_int_equal(early.code, -ETIMEDOUT);
	assert_under_way(&rig, 0, LM_HTTP_READ_AHEAD);
	lm_fetch_set_timeout(rig.fetch, LM_FETCH_TIMEOUT_MS);
	assert_int_equal(
		lm_fetch_object(rig.fetch, &ref, LM_HTTP_BLOCKED_READ, on_result, &late, &fd, &err), LM_FETCH_LATER);
	assert_int_equal(lm_fetch_slowest(rig.fetch, slow), 0);
	liar_open(rig.web->liar);
	latch_wait(&late.latch, 1);
	assert_int_equal(late.code, 0);
	assert_content(late.fd, "hello", 5);
	assert_int_equal(liar_requests(rig.web->liar), 1);
	lm_fetch_stats(rig.fetch, &stats);
	assert_int_equal(stats.timeouts, 1);
	assert_int_equal(lm_fetch_slowest(rig.fetch, slow), 1);
	assert_true(lm_hash_equal(&slow[0].ref.hash, &ref.hash));
	assert_true(slow[0].took_ms >= 50);
	assert_int_equal(slow[0].code, 0);
}

/* A body of many windows, inflated by jobs while it arrives. */
static void test_big_object(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	const size_t size = 8 << 20;
	int fd = -1;
	rig_open(&rig);
	CLEANUP(lm_freep) uint8_t *content = malloc(size);
	assert_non_null(content);
	uint32_t random = 1;
	for (size_t i = 0; i < size; i++)
		content[i] = (uint8_t)((random = random * 1664525 + 1013904223) >> 24) & (i & 1 ? 0xff : 0x0f);
	struct lm_object_ref ref = put_object(rig.dir, FQRN, LM_OBJECT_CHUNK, content, size);
	web_spoil(rig.web, "/data/", WEB_DAMAGED,
		1); /* in its middle, so that the second attempt meets the first's jobs */
	assert_ok(fetch(&rig, &ref, &fd, &err), &err);
	assert_content(fd, content, size);
	assert_int_equal(liar_requests(rig.web->liar), 2);
}

/* Databases, whose size nothing tells, may inflate so far and no further. */
static void test_database_limit(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	struct lm_cache_stats stats;
	int fd = -1;
	rig_open(&rig);
	lm_fetch_free(STEAL(rig.fetch));
	assert_ok(lm_fetch_new(rig.cache, rig.origin, rig.work, 1 << 20, &rig.fetch, &err), &err);
	CLEANUP(lm_freep) char *zeros = calloc(1, (1 << 20) + 1);
	static const enum lm_object_kind kinds[] = {LM_OBJECT_CATALOG, LM_OBJECT_HISTORY};
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		struct lm_object_ref fits = put_object(rig.dir, FQRN, kinds[i], zeros, 1 << 20);
		struct lm_object_ref more = put_object(rig.dir, FQRN, kinds[i], zeros, (1 << 20) + 1);
		fits.size = more.size = LM_SIZE_UNKNOWN;
		assert_ok(fetch(&rig, &fits, &fd, &err), &err);
		assert_content(fd, zeros, 1 << 20);
		assert_int_equal(fetch(&rig, &more, &fd, &err), -EBADMSG);
		assert_non_null(strstr(err.msg, "more content than the 1048576 bytes"));
	}
	lm_cache_stats(rig.cache, &stats);
	assert_int_equal(stats.objects, ARRAY_LEN(kinds)); /* nothing of what was refused is left */
}

/* The alternative name is another place for the same object. */
static void test_alternative(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	char name[LM_OBJECT_PATH_MAX];
	int fd = -1;
	rig_open(&rig);
	struct lm_object_ref ref = put_object(rig.dir, FQRN, LM_OBJECT_CATALOG, "catalog", 7);
	CLEANUP(lm_freep)
	char *usual =
		lm_str_printf("%s/cvmfs/" FQRN "/%s", rig.dir, lm_object_path(&ref.hash, LM_OBJECT_CATALOG, name));
	CLEANUP(lm_freep)
	char *other = lm_str_printf(
		"%s/cvmfs/" FQRN "/%s", rig.dir, lm_object_alternative_path(&ref.hash, LM_OBJECT_CATALOG, name));
	assert_true(lm_str_starts(name, ".cvmfsalt-") && lm_str_ends(name, "C"));
	assert_int_equal(rename(usual, other), 0);
	assert_int_equal(fetch(&rig, &ref, &fd, &err), -ENOENT);
	ref.alternative = true;
	assert_ok(fetch(&rig, &ref, &fd, &err), &err);
	assert_content(fd, "catalog", 7);
	ref.alternative = false;
	assert_ok(fetch(&rig, &ref, &fd, &err), &err); /* one object in the cache */
	assert_content(fd, "catalog", 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fetch_then_cached),
		cmocka_unit_test(test_one_download),
		cmocka_unit_test(test_damage_once_is_repaired),
		cmocka_unit_test(test_failures),
		cmocka_unit_test(test_later),
		cmocka_unit_test(test_verified_by_a_job),
		cmocka_unit_test(test_wrong_size),
		cmocka_unit_test(test_empty_object),
		cmocka_unit_test(test_stop_in_the_middle),
		cmocka_unit_test(test_read_ahead),
		cmocka_unit_test(test_priority_follows_the_waiters),
		cmocka_unit_test(test_patience),
		cmocka_unit_test(test_big_object),
		cmocka_unit_test(test_database_limit),
		cmocka_unit_test(test_alternative),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
