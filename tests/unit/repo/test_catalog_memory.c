/* The n-th allocation fails, for each n: -ENOMEM comes back, nothing is torn or leaked, and the next try works. */
#include "repo/publish.h"
#include "repo_memory.h"
#include "repo_tree.h"

#if !MEMORY_TESTED

int main(void)
{
	printf("skipped: the sanitizer owns malloc\n");
	return 77;
}

#else

static char *dir;
static struct lm_repo_keys keys;
static struct lm_storage *storage;

static int make(const char *path, struct lm_err *err)
{
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	struct lm_row root = {.mode = S_IFDIR | 0755};
	struct lm_row file = {.mode = S_IFREG | 0644, .size = 3, .link_group = 1, .hash = {.set = true}};
	struct lm_counters self = {0}, subtree = {0};
	struct lm_catalog_props props = {.revision = 1};
	unlink(path);
	int r = lm_catalog_create(path, "", &root, &w, err);
	if (r == 0)
		r = lm_catalog_insert(w, "/a", &file, NULL, 0, err);
	if (r == 0)
		r = lm_catalog_insert(w, "/b", &file, NULL, 0, err);
	if (r == 0)
		r = lm_catalog_insert(w, "/d", &root, NULL, 0, err);
	if (r == 0)
		r = lm_catalog_set_nested(w, "/n", &file.hash, 1, &root, &self, &subtree, err);
	if (r == 0)
		r = lm_catalog_remove(w, "/d", err);
	return r < 0 ? r : lm_catalog_writer_finish(w, &props, &self, &subtree, err);
}

static int count_row(void *arg, struct lm_row *row)
{
	++*(unsigned *)arg;
	return 0;
}

static int count_nested(void *arg, const struct lm_nested *nested)
{
	++*(unsigned *)arg;
	return 0;
}

static int use(const char *path, struct lm_err *err)
{
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = NULL;
	CLEANUP(lm_row_done) struct lm_row row = {0};
	CLEANUP(lm_buf_done) struct lm_buf full = LM_BUF(LM_REPO_PATH_MAX);
	unsigned rows = 0, nested = 0;
	uint64_t first;
	uint32_t members = 0;
	int r = lm_catalog_open(path, "", &c, err);
	if (r == 0)
		r = lm_catalog_lookup(c, lm_path_hash("/b", 2), &row, err);
	if (r == 0)
		r = lm_catalog_path_of(c, row.rowid, &full, err);
	if (r == 0)
		r = lm_catalog_list(c, lm_path_hash("", 0), 0, count_row, &rows, err);
	if (r == 0)
		r = lm_catalog_nested_each(c, count_nested, &nested, err);
	if (r == 0)
		r = lm_catalog_group(c, row.link_group, &first, &members, err);
	if (r == 0 && (rows != 3 || nested != 1 || members != 2))
		r = lm_err_set(err, -EPROTO, "%u rows, %u nested, %u members", rows, nested, members);
	return r;
}

static void check_made(const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(use(path, &err), &err);
	assert_int_equal(tree_sql(path, "SELECT count(counter) FROM statistics"), 2 * LM_COUNTER_COUNT);
	assert_int_equal(tree_sql(path, "SELECT count(*) FROM properties WHERE key || value IS NOT NULL"), 4);
}

static void test_catalog(void **state)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/catalog", dir);
	int (*const steps[])(const char *, struct lm_err *) = {make, use};
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		unsigned failures = 0;
		for (long n = 0;; n++) {
			struct lm_err err = LM_ERR_INIT;
			failed = false;
			allocations_left = n;
			int r = steps[i](path, &err);
			allocations_left = -1;
			if (!failed) {
				assert_ok(r, &err);
				break;
			}
			if (r < 0 && r != -ENOMEM)
				fail_msg("allocation %ld: %d: %s", n, r, err.msg);
			/* SQLite can do without some of its memory: then nothing may be missing. */
			if (r == 0)
				check_made(path);
			failures += r < 0;
		}
		printf("%u failures\n", failures);
		assert_true(failures > 30);
	}
}

static int publish(unsigned n, struct lm_err *err)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	char text[32];
	snprintf(text, sizeof(text), "%u", n);
	int r = lm_txn_begin(storage, &keys, "a.example.org", &txn, err);
	if (r == 0)
		r = lm_txn_mkdirs(txn, "/a/b", true, err);
	if (r == 0)
		r = lm_txn_put_data(txn, "/a/b/c", text, strlen(text), err);
	return r < 0 ? r : lm_txn_commit(txn, NULL, err);
}

/* A sample of them: most are inside OpenSSL, which reports what it likes. */
static void test_publish(void **state)
{
	unsigned published = 0;
	for (long n = 0; published == 0; n += 1 + n / 25) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_buf_done) struct lm_buf before = LM_BUF(LM_MANIFEST_MAX);
		CLEANUP(lm_buf_done) struct lm_buf after = LM_BUF(LM_MANIFEST_MAX);
		assert_ok(storage->ops->get(storage, LM_MANIFEST_NAME, &before, &err), &err);
		failed = false;
		allocations_left = n;
		int r = publish((unsigned)n, &err);
		allocations_left = -1;
		assert_ok(storage->ops->get(storage, LM_MANIFEST_NAME, &after, &err), &err);
		bool same = before.len == after.len && memcmp(before.data, after.data, after.len) == 0;
		assert_int_equal(same, r < 0);
		struct lm_manifest manifest;
		assert_ok(lm_manifest_parse(lm_buf_cstr(&after), after.len, &manifest, &err), &err);
		assert_int_equal(tree_walk(storage, &manifest.catalog, manifest.catalog_size, NULL), 0);
		published = !failed;
	}
}

static int setup(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest manifest;
	dir = temp_dir();
	CLEANUP(lm_freep) char *repo = lm_str_printf("%s/repo", dir);
	assert_ok(lm_repo_keys_make(dir, "a.example.org", &keys, &err), &err);
	assert_ok(lm_storage_dir_open(repo, true, &storage, &err), &err);
	assert_ok(lm_repo_create(storage, &keys, "a.example.org", 1, 240, NULL, &manifest, &err), &err);
	return 0;
}

static int teardown(void **state)
{
	lm_storage_free(storage);
	lm_repo_keys_done(&keys);
	temp_dir_remove(&dir);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_catalog),
		cmocka_unit_test(test_publish),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}

#endif
