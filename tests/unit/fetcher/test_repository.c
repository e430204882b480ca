#include "fetcher_test.h"

#include "base/clock.h"
#include "fetcher/repository.h"

#define FQRN "fixture.cern.ch"

/* A repository of the fixtures behind a web server, and a fetcher's parts around it. */
struct rig {
	char *dir; /* DIR/web/cvmfs/FQRN, DIR/cache, DIR/state */
	struct web *web;
	struct lm_http *http;
	struct lm_cache *cache;
	struct lm_work *work;
	struct lm_settings settings;
	struct lm_repository *repository;
	struct latch roots, looks;
	uint32_t from, to; /* of the last root */
};

static void on_root(void *arg, uint32_t from, uint32_t to, uint64_t ttl_s)
{
	struct rig *rig = arg;
	rig->from = from;
	rig->to = to;
	latch_add(&rig->roots);
}

static void on_look(void *arg)
{
	latch_add(&((struct rig *)arg)->looks);
}

static void load_settings(struct rig *rig, const char *key_fixture)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *key = fixture_path(key_fixture);
	CLEANUP(lm_freep) char *key_option = lm_str_printf("--set=CVMFS_PUBLIC_KEY=%s", key);
	CLEANUP(lm_freep) char *url = lm_str_printf("--set=CVMFS_SERVER_URL=%s/cvmfs/@fqrn@", rig->web->liar->url);
	const char *argv[] = {"test", "--config=/dev/null", "--set=CVMFS_REPOSITORIES=" FQRN,
		"--set=CVMFS_HTTP_PROXY=DIRECT", "--set=CVMFS_TIMEOUT_DIRECT=3", "--set=CVMFS_BACKOFF_INIT=1",
		"--set=CVMFS_BACKOFF_MAX=1", "--set=CVMFS_MAX_RETRIES=0", key_option, url, NULL};
	lm_settings_done(&rig->settings);
	assert_ok(lm_settings_load(ARRAY_LEN(argv) - 1, (char **)argv, &rig->settings, &err), &err);
}

static bool rig_open(struct rig *rig)
{
	struct lm_err err = LM_ERR_INIT;
	if (!fixtures_present())
		return false;
	*rig = (struct rig){.dir = temp_dir(), .roots = LATCH_INIT, .looks = LATCH_INIT};
	CLEANUP(lm_freep) char *web = lm_str_printf("%s/web", rig->dir);
	CLEANUP(lm_freep) char *repositories = lm_str_printf("%s/web/cvmfs", rig->dir);
	assert_ok(lm_mkdir_p(AT_FDCWD, repositories, 0755, &err), &err);
	unpack_fixture(FQRN, repositories);
	rig->web = web_start(web);
	load_settings(rig, "keys/" FQRN ".pub");
	return true;
}

static void start_at(struct rig *rig, const char *url_of)
{
	struct lm_err err = LM_ERR_INIT;
	const struct lm_http_limits limits = {0};
	CLEANUP(lm_freep) char *cache = lm_str_printf("%s/cache", rig->dir);
	CLEANUP(lm_freep) char *state = lm_str_printf("%s/state", rig->dir);
	assert_ok(lm_http_new(&limits, &rig->http, &err), &err);
	assert_ok(lm_cache_new(cache, &rig->cache, &err), &err);
	assert_ok(lm_work_new("test", 2, 100, &rig->work, &err), &err);
	if (url_of)
		rig->settings.servers = url_of;
	const struct lm_repository_config config = {.fqrn = FQRN,
		.settings = &rig->settings,
		.http = rig->http,
		.cache = rig->cache,
		.work = rig->work,
		.dir = state,
		.on_root = on_root,
		.arg = rig};
	assert_ok(lm_repository_new(&config, &rig->repository, &err), &err);
	assert_ok(lm_repository_start(rig->repository, &err), &err);
}

static void start(struct rig *rig)
{
	start_at(rig, NULL);
}

static void halt(struct rig *rig)
{
	if (rig->repository)
		lm_repository_stop(rig->repository);
	lm_http_free(STEAL(rig->http));
	lm_work_free(STEAL(rig->work));
	lm_repository_free(STEAL(rig->repository));
	lm_cache_free(STEAL(rig->cache));
}

static void rig_close(struct rig *rig)
{
	halt(rig);
	web_stop(&rig->web);
	lm_settings_done(&rig->settings);
	temp_dir_remove(&rig->dir);
}

static void forget_cache(struct rig *rig)
{
	static const char *const parts[] = {"cache", "state"};
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", rig->dir, parts[i]);
		assert_int_equal(lm_remove_tree(AT_FDCWD, path, NULL), 0);
	}
}

/* Puts a file of the fixtures in place of the repository's. */
static void replace(struct rig *rig, const char *name, const char *fixture)
{
	CLEANUP(lm_buf_done) struct lm_buf data = {0};
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/web/cvmfs/" FQRN "/%s", rig->dir, name);
	read_fixture(fixture, &data);
	write_file(path, data.data, data.len);
}

static uint64_t revision(struct rig *rig)
{
	struct lm_repository_status status;
	lm_repository_status(rig->repository, &status);
	return status.revision;
}

static void look(struct rig *rig)
{
	unsigned before = rig->looks.count;
	assert_int_equal(lm_repository_look(rig->repository, true, on_look, rig), 0);
	latch_wait(&rig->looks, before + 1);
}

static void test_first_look(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	if (!rig_open(&rig))
		skip();
	start(&rig);
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	struct lm_repository_status status;
	lm_repository_status(rig.repository, &status);
	assert_int_equal(status.revision, 3);
	assert_true(status.root.set);
	assert_false(status.offline);
	assert_true(status.ttl_s > 0);
	assert_int_equal(status.fetch.catalogs, 1);
	assert_int_equal(rig.roots.count, 1);
	assert_int_equal(rig.from, 0);
	struct lm_entry entry;
	struct lm_object_ref need;
	struct lm_tree *tree = lm_repository_tree(rig.repository);
	assert_ok(lm_tree_lookup(tree, LM_NODE_ROOT, "files", &entry, &need, &err), &err);
}

/* Everything the stock client refuses is refused, with words that say why; what it accepts is accepted. */
static void test_verdicts(void **state)
{
	static const struct {
		const char *file, *fixture, *words; /* words: NULL: accepted */
	} cases[] = {
		{".cvmfswhitelist", "alternates/whitelist.good", NULL},
		{".cvmfswhitelist", "alternates/whitelist.expires-2100", NULL},
		{".cvmfswhitelist", "alternates/whitelist.two-fingerprints", NULL},
		{".cvmfswhitelist", "alternates/whitelist.expired", "expired"},
		{".cvmfswhitelist", "alternates/whitelist.other-name", "whitelist"},
		{".cvmfswhitelist", "alternates/whitelist.other-fingerprint", "whitelist"},
		{".cvmfswhitelist", "alternates/whitelist.wrong-master-key", "signature"},
		{".cvmfswhitelist", "alternates/whitelist.bad-signature", "signature"},
		{".cvmfswhitelist", "alternates/whitelist.bad-hash", "hash"},
		{".cvmfspublished", "alternates/published.resigned-good", NULL},
		{".cvmfspublished", "alternates/published.unknown-fields", NULL},
		{".cvmfspublished", "alternates/published.newer-timestamp-older-revision", NULL},
		{".cvmfspublished", "alternates/published.bad-signature", "signature"},
		{".cvmfspublished", "alternates/published.signed-by-other-key", "signature"},
		{".cvmfspublished", "alternates/published.tampered", "hash"},
		{".cvmfspublished", "alternates/published.truncated", "manifest"},
		{".cvmfspublished", "alternates/published.other-name", "manifest"},
		{".cvmfspublished", "alternates/published.wrong-root-path", "manifest"},
		{".cvmfspublished", "alternates/published.missing-catalog-hash", "manifest"},
	};
	CLEANUP(rig_close) struct rig rig = {0};
	if (!rig_open(&rig))
		skip();
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_err err = LM_ERR_INIT;
		replace(&rig, ".cvmfswhitelist", "alternates/whitelist.good");
		replace(&rig, ".cvmfspublished", "published/" FQRN ".cvmfspublished.rev3");
		replace(&rig, cases[i].file, cases[i].fixture);
		start(&rig);
		int r = lm_repository_wait(rig.repository, &err);
		if ((r < 0) != (cases[i].words != NULL))
			fail_msg("%s: %d: %s", cases[i].fixture, r, lm_err_text(&err));
		if (r < 0 && (!strstr(err.msg, FQRN) || !strstr(err.msg, cases[i].words)))
			fail_msg("%s: \"%s\" does not name " FQRN " and %s", cases[i].fixture, err.msg, cases[i].words);
		if (r < 0)
			assert_int_equal(lm_tree_root(lm_repository_tree(rig.repository)), 0);
		halt(&rig);
		forget_cache(&rig);
	}
	load_settings(&rig, "alternates/other.pub");
	replace(&rig, ".cvmfspublished", "published/" FQRN ".cvmfspublished.rev3");
	start(&rig);
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_repository_wait(rig.repository, &err), -EBADMSG);
}

/* Forward by a look, never back: not while it runs, not after a restart. */
static void test_revisions(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	struct lm_repository_status status;
	if (!rig_open(&rig))
		skip();
	replace(&rig, ".cvmfspublished", "published/" FQRN ".cvmfspublished.rev1");
	start(&rig);
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	assert_int_equal(revision(&rig), 1);
	look(&rig);
	assert_int_equal(rig.roots.count, 1); /* nothing new */

	replace(&rig, ".cvmfspublished", "published/" FQRN ".cvmfspublished.rev3");
	uint32_t first = rig.to;
	look(&rig);
	assert_int_equal(revision(&rig), 3);
	assert_int_equal(rig.roots.count, 2);
	assert_int_equal(rig.from, first);

	replace(&rig, ".cvmfspublished", "published/" FQRN ".cvmfspublished.rev2");
	look(&rig);
	lm_repository_status(rig.repository, &status);
	assert_int_equal(status.revision, 3);
	assert_true(status.offline);
	assert_int_equal(status.last_error.code, -ESTALE);

	halt(&rig);
	start(&rig);
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	assert_int_equal(revision(&rig), 3);

	replace(&rig, ".cvmfspublished", "alternates/published.newer-timestamp-older-revision");
	look(&rig);
	assert_int_equal(revision(&rig), 3);
	replace(&rig, ".cvmfspublished", "published/" FQRN ".cvmfspublished.rev3");
	look(&rig);
	lm_repository_status(rig.repository, &status);
	assert_false(status.offline);
	assert_int_equal(status.revision, 3);
}

static void test_offline(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	if (!rig_open(&rig))
		skip();
	/* Nothing known, nobody there. */
	start_at(&rig, "http://127.0.0.1:1/cvmfs/@fqrn@");
	assert_int_equal(lm_repository_wait(rig.repository, &err), -EIO);
	halt(&rig);

	load_settings(&rig, "keys/" FQRN ".pub");
	start(&rig);
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	halt(&rig);

	/* With what the cache has. */
	start_at(&rig, "http://127.0.0.1:1/cvmfs/@fqrn@");
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	struct lm_repository_status status;
	lm_repository_status(rig.repository, &status);
	assert_true(status.offline);
	assert_int_equal(status.revision, 3);
	halt(&rig);

	/* The record is damaged: as if nothing were known. */
	CLEANUP(lm_freep) char *root = lm_str_printf("%s/state/root", rig.dir);
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	read_whole(root, &text);
	text.data[1] = text.data[1] == '0' ? '1' : '0';
	write_file(root, text.data, text.len);
	start_at(&rig, "http://127.0.0.1:1/cvmfs/@fqrn@");
	assert_int_equal(lm_repository_wait(rig.repository, &err), -EIO);
}

/* A proxy's stale or damaged copy: asked once more past all caches. */
static void test_past_caches(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	if (!rig_open(&rig))
		skip();
	rig.web->past_caches_is_right = true;
	web_spoil(rig.web, ".cvmfspublished", WEB_DAMAGED, 0);
	start(&rig);
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	assert_int_equal(revision(&rig), 3);
}

/* Stopping does not wait for a server that says nothing; wishes are granted all the same. */
static void test_stop_in_the_middle(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	if (!rig_open(&rig))
		skip();
	CLEANUP(lm_freep) char *silent = lm_str_printf("%s/stall-head/@fqrn@", rig.web->liar->url);
	rig.web->liar->hook = NULL;
	lm_settings_done(&rig.settings);
	load_settings(&rig, "keys/" FQRN ".pub");
	rig.settings.timeout_direct_ms = 60000;
	start_at(&rig, silent);
	assert_int_equal(lm_repository_look(rig.repository, false, on_look, &rig), 0);
	liar_wait_requests(rig.web->liar, 1);
	int64_t begin = lm_now_ms();
	lm_repository_stop(rig.repository);
	assert_int_equal(rig.looks.count, 1);
	assert_int_equal(lm_repository_look(rig.repository, false, on_look, &rig), 0);
	assert_int_equal(rig.looks.count, 2);
	halt(&rig);
	assert_true(lm_now_ms() - begin < 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_look),
		cmocka_unit_test(test_verdicts),
		cmocka_unit_test(test_revisions),
		cmocka_unit_test(test_offline),
		cmocka_unit_test(test_past_caches),
		cmocka_unit_test(test_stop_in_the_middle),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
