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
	struct lm_settings *settings;
	struct lm_repository *repository;
	struct latch roots, looks;
	uint32_t from, to; /* of the last root */
	bool resume;
};

/* A root is announced after this. */
static void on_root(void *arg, uint32_t from, const struct lm_repository_root *root)
{
	struct rig *rig = arg;
	struct lm_repository_status status;
	lm_repository_status(rig->repository, &status);
	assert_int_equal(lm_tree_root(lm_repository_tree(rig->repository)), root->catalog);
	assert_int_equal(lm_repository_node(rig->repository), from ? lm_tree_node(from, 1) : LM_NODE_ROOT);
	assert_false(status.root.set && lm_hash_equal(&status.root, &root->hash));
	rig->from = from;
	rig->to = root->catalog;
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
	lm_settings_unref(STEAL(rig->settings));
	assert_ok(lm_settings_load(ARRAY_LEN(argv) - 1, (char **)argv, &rig->settings, &err), &err);
}

/* Files with settings of their own: a root that is fixed, a blacklist. */
static void more_settings(struct rig *rig, const char *option)
{
	CLEANUP(lm_freep) char *config = lm_str_printf("%s/more.conf", rig->dir);
	CLEANUP(lm_freep) char *key = fixture_path("keys/" FQRN ".pub");
	CLEANUP(lm_freep)
	char *text = lm_str_printf("CVMFS_REPOSITORIES=" FQRN "\nCVMFS_SERVER_URL='%s/cvmfs/@fqrn@'\n"
				   "CVMFS_HTTP_PROXY=DIRECT\nCVMFS_TIMEOUT_DIRECT=3\nCVMFS_BACKOFF_INIT=1\n"
				   "CVMFS_BACKOFF_MAX=1\nCVMFS_MAX_RETRIES=0\nCVMFS_PUBLIC_KEY=%s\n",
		rig->web->liar->url, key);
	CLEANUP(lm_freep) char *set = lm_str_printf("--set=%s", option);
	const char *argv[] = {"test", "--config", config, set, NULL};
	struct lm_err err = LM_ERR_INIT;
	write_file(config, text, strlen(text));
	lm_settings_unref(STEAL(rig->settings));
	assert_ok(lm_settings_load(4, (char **)argv, &rig->settings, &err), &err);
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
		rig->settings->repositories[0].servers = url_of;
	const struct lm_repository_config config = {.fqrn = FQRN,
		.settings = rig->settings,
		.http = rig->http,
		.cache = rig->cache,
		.work = rig->work,
		.dir = state,
		.resume = rig->resume,
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
	lm_settings_unref(STEAL(rig->settings));
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
	assert_int_equal(lm_repository_node(rig.repository), lm_tree_node(rig.to, 1));
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

static void assert_fixed(struct rig *rig, uint64_t expected, bool offline, const char *pin)
{
	struct lm_repository_status status;
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_repository_wait(rig->repository, &err), &err);
	lm_repository_status(rig->repository, &status);
	assert_int_equal(status.revision, expected);
	assert_int_equal(status.offline, offline);
	assert_string_equal(status.pin, pin);
}

#define NOWHERE "http://127.0.0.1:1/cvmfs/@fqrn@"
#define ROOT_1 "21cbb04a3116b679e7b39835eeaf4f32b62ef8b0"

/* By hash, tag and date: with the server, again without it, and never moved. */
static void test_fixed(void **state)
{
	static const struct {
		const char *option, *pin;
		uint64_t revision;
		bool manifest_needed;
	} cases[] = {
		{"CVMFS_ROOT_HASH=" ROOT_1, "root " ROOT_1, 1, false},
		{"CVMFS_REPOSITORY_TAG=second-release", "tag second-release", 2, true},
		{"CVMFS_REPOSITORY_DATE=2026-11-21T23:46:38Z", "date 2026-11-21T23:46:38Z", 1, true},
		{"CVMFS_REPOSITORY_DATE=2200-01-01T00:00:00Z", "date 2200-01-01T00:00:00Z", 3, true},
	};
	CLEANUP(rig_close) struct rig rig = {0};
	if (!rig_open(&rig))
		skip();
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		more_settings(&rig, cases[i].option);
		start(&rig);
		assert_fixed(&rig, cases[i].revision, false, cases[i].pin);
		size_t requests = liar_requests(rig.web->liar);
		look(&rig);
		assert_int_equal(liar_requests(rig.web->liar), requests); /* there is nothing to look for */
		assert_int_equal(rig.roots.count, i * 2 + 1);
		halt(&rig);

		start_at(&rig, NOWHERE);
		assert_fixed(&rig, cases[i].revision, cases[i].manifest_needed, cases[i].pin);
		halt(&rig);
		assert_int_equal(rig.roots.count, i * 2 + 2);
	}
	/* With nothing in the cache. */
	struct lm_err err = LM_ERR_INIT;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		forget_cache(&rig);
		more_settings(&rig, cases[i].option);
		start_at(&rig, NOWHERE);
		assert_int_equal(lm_repository_wait(rig.repository, &err), -EIO);
		halt(&rig);
	}
	more_settings(&rig, "CVMFS_REPOSITORY_TAG=none");
	start(&rig);
	assert_int_equal(lm_repository_wait(rig.repository, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "tag none"));
	halt(&rig);
	more_settings(&rig, "CVMFS_ROOT_HASH=0000000000000000000000000000000000000001");
	start(&rig);
	assert_int_equal(lm_repository_wait(rig.repository, &err), -ENOENT);
}

/* A tag that moves is followed at the next start only; what is found without the server is looked for again. */
static void test_moving_tag(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	if (!rig_open(&rig))
		skip();
	replace(&rig, ".cvmfspublished", "published/" FQRN ".cvmfspublished.rev2");
	more_settings(&rig, "CVMFS_REPOSITORY_TAG=trunk");
	start(&rig);
	assert_fixed(&rig, 2, false, "tag trunk");
	halt(&rig);

	/* The server comes back with another revision: the mount stays, the state is online again. */
	replace(&rig, ".cvmfspublished", "published/" FQRN ".cvmfspublished.rev3");
	web_spoil(rig.web, ".cvmfspublished", WEB_BROKEN, 0);
	start(&rig);
	assert_fixed(&rig, 2, true, "tag trunk");
	web_spoil(rig.web, NULL, WEB_RIGHT, 0);
	look(&rig);
	assert_fixed(&rig, 2, false, "tag trunk");
	halt(&rig);
	start(&rig);
	assert_fixed(&rig, 3, false, "tag trunk");
	halt(&rig);

	/* Never back: by tag, nor without. */
	replace(&rig, ".cvmfspublished", "published/" FQRN ".cvmfspublished.rev2");
	start(&rig);
	assert_fixed(&rig, 3, true, "tag trunk");
	halt(&rig);
	more_settings(&rig, "CVMFS_MAX_TTL=0");
	start(&rig);
	assert_int_equal(lm_repository_wait(rig.repository, &err), -ESTALE);
}

static void set_blacklist(struct rig *rig, const char *text)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/blacklist", rig->dir);
	CLEANUP(lm_freep) char *option = lm_str_printf("CVMFS_BLACKLIST=%s", path);
	write_file(path, text, strlen(text));
	more_settings(rig, option);
}

/* The blacklist counts for what was accepted before, with the server and without. */
static void test_blacklist(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	CLEANUP(lm_buf_done) struct lm_buf whitelist = {0};
	struct lm_err err = LM_ERR_INIT;
	if (!rig_open(&rig))
		skip();
	start(&rig);
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	halt(&rig);
	read_fixture("alternates/whitelist.good", &whitelist);
	const char *fingerprint = strchr(strchr(strchr(lm_buf_cstr(&whitelist), '\n') + 1, '\n') + 1, '\n') + 1;
	CLEANUP(lm_freep) char *line = lm_str_ndup(fingerprint, strcspn(fingerprint, "\n"));
	const char *const lists[] = {line, "<" FQRN " 4"};
	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		set_blacklist(&rig, lists[i]);
		start(&rig);
		assert_int_equal(lm_repository_wait(rig.repository, &err), -EKEYREJECTED);
		assert_int_equal(lm_tree_root(lm_repository_tree(rig.repository)), 0);
		halt(&rig);
		start_at(&rig, NOWHERE);
		assert_int_equal(lm_repository_wait(rig.repository, &err), -EIO);
		assert_int_equal(lm_tree_root(lm_repository_tree(rig.repository)), 0);
		halt(&rig);
	}
	set_blacklist(&rig, "<" FQRN " 3");
	start_at(&rig, NOWHERE);
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	assert_int_equal(revision(&rig), 3);
}

/* A manifest of the known catalog whose other fields are forged is taken for that catalog, and is not kept. */
static void test_forged_text_is_not_recorded(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	CLEANUP(lm_buf_done) struct lm_buf before = {0}, after = {0};
	struct lm_err err = LM_ERR_INIT;
	if (!rig_open(&rig))
		skip();
	/* Both records: of the tag's history at revision 3, of the root at revision 2. */
	replace(&rig, ".cvmfspublished", "published/" FQRN ".cvmfspublished.rev2");
	start(&rig);
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	halt(&rig);
	replace(&rig, ".cvmfspublished", "published/" FQRN ".cvmfspublished.rev3");
	more_settings(&rig, "CVMFS_REPOSITORY_TAG=trunk");
	start(&rig);
	assert_fixed(&rig, 3, false, "tag trunk");
	halt(&rig);
	CLEANUP(lm_freep) char *root = lm_str_printf("%s/state/root", rig.dir);
	read_whole(root, &before);
	/* Revision 93, with the catalog of revision 3, not signed. */
	replace(&rig, ".cvmfspublished", "alternates/published.tampered");
	more_settings(&rig, "CVMFS_MAX_TTL=0");
	start(&rig);
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	assert_int_equal(revision(&rig), 2);
	halt(&rig);
	read_whole(root, &after);
	assert_int_equal(before.len, after.len);
	assert_memory_equal(before.data, after.data, before.len);
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
/* A repository that looks where nothing is finds its root by other settings, and by worse ones keeps it. */
static void test_reconfigure(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	CLEANUP(lm_settings_unrefp) struct lm_settings *first = NULL;
	struct lm_err err = LM_ERR_INIT;
	if (!rig_open(&rig))
		skip();
	start_at(&rig, NOWHERE);
	assert_int_equal(lm_repository_wait(rig.repository, &err), -EIO);
	first = STEAL(rig.settings);
	load_settings(&rig, "keys/" FQRN ".pub");
	assert_ok(lm_repository_reconfigure(rig.repository, rig.settings, &err), &err);
	look(&rig);
	assert_int_equal(rig.roots.count, 1);
	assert_int_equal(revision(&rig), 3);
	/* Another key: the look fails, the root stays. */
	load_settings(&rig, "alternates/other.pub");
	assert_ok(lm_repository_reconfigure(rig.repository, rig.settings, &err), &err);
	look(&rig);
	struct lm_repository_status status;
	lm_repository_status(rig.repository, &status);
	assert_true(status.offline);
	assert_int_equal(revision(&rig), 3);
}

static void test_stop_in_the_middle(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	if (!rig_open(&rig))
		skip();
	CLEANUP(lm_freep) char *silent = lm_str_printf("%s/stall-head/@fqrn@", rig.web->liar->url);
	rig.web->liar->hook = NULL;
	lm_settings_unref(STEAL(rig.settings));
	load_settings(&rig, "keys/" FQRN ".pub");
	rig.settings->repositories[0].timeout_direct_ms = 60000;
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

static enum lm_repository_state state_of(struct rig *rig)
{
	struct lm_repository_status status;
	lm_repository_status(rig->repository, &status);
	return status.state;
}

/* Resumed, it serves what it served before while the first look goes on; then that counts. */
static void test_resumed(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	if (!rig_open(&rig))
		skip();
	start(&rig);
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	halt(&rig);

	rig.resume = true;
	CLEANUP(lm_freep) char *silent = lm_str_printf("%s/stall-head/@fqrn@", rig.web->liar->url);
	rig.web->liar->hook = NULL;
	unsigned requests = liar_requests(rig.web->liar);
	start_at(&rig, silent);
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	liar_wait_requests(rig.web->liar, requests + 1);
	assert_int_equal(state_of(&rig), LM_REPOSITORY_RECORDED);
	assert_int_equal(revision(&rig), 3);
	look(&rig);
	assert_int_equal(state_of(&rig), LM_REPOSITORY_OFFLINE);
	assert_int_equal(revision(&rig), 3);
	halt(&rig);

	forget_cache(&rig);
	requests = liar_requests(rig.web->liar);
	start_at(&rig, silent);
	liar_wait_requests(rig.web->liar, requests + 1);
	assert_int_equal(state_of(&rig), LM_REPOSITORY_STARTING);
}

static int take_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	return 0;
}

static void take_end(void *arg, int code, const struct lm_err *err)
{
}

static const struct lm_origin_consumer somebody = {.data = take_data, .done = take_end};

/* Offline, the first thing that can be fetched has it look again, long before its time. */
static void test_hope(void **state)
{
	CLEANUP(rig_close) struct rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	struct lm_repository_status status;
	if (!rig_open(&rig))
		skip();
	start(&rig);
	assert_ok(lm_repository_wait(rig.repository, &err), &err);
	look(&rig);
	assert_int_equal(state_of(&rig), LM_REPOSITORY_ONLINE);

	web_spoil(rig.web, "/.cvmfs", WEB_BROKEN, 0);
	look(&rig);
	lm_repository_status(rig.repository, &status);
	assert_int_equal(status.state, LM_REPOSITORY_OFFLINE);
	assert_true(status.offline);
	assert_int_equal(status.looks, 3);
	assert_int_equal(status.failed_looks, 1);
	assert_true(status.last_error.msg[0] != '\0');

	web_spoil(rig.web, NULL, WEB_RIGHT, 0);
	int64_t begin = lm_now_ms();
	assert_ok(lm_origin_get(lm_repository_origin(rig.repository), ".cvmfswhitelist", LM_HTTP_BLOCKED_READ, false,
			  &somebody, &err),
		&err);
	while (state_of(&rig) == LM_REPOSITORY_OFFLINE && lm_now_ms() - begin < 30000)
		usleep(10000); /* nothing tells of a look that nobody asked for */
	lm_repository_status(rig.repository, &status);
	assert_int_equal(status.state, LM_REPOSITORY_ONLINE);
	assert_int_equal(status.looks, 4);
	assert_true(lm_now_ms() - status.state_since_ms < 30000);
	assert_int_equal(status.last_error.code, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_look),
		cmocka_unit_test(test_verdicts),
		cmocka_unit_test(test_revisions),
		cmocka_unit_test(test_offline),
		cmocka_unit_test(test_fixed),
		cmocka_unit_test(test_moving_tag),
		cmocka_unit_test(test_blacklist),
		cmocka_unit_test(test_forged_text_is_not_recorded),
		cmocka_unit_test(test_past_caches),
		cmocka_unit_test(test_reconfigure),
		cmocka_unit_test(test_stop_in_the_middle),
		cmocka_unit_test(test_resumed),
		cmocka_unit_test(test_hope),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
