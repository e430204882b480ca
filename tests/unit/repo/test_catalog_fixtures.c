/*
 * Reads repositories made by stock tools, every catalog, and compares what they hold with what the stock client showed.
 */
#include "repo/manifest.h"
#include "repo/storage.h"
#include "repo_tree.h"

static char *dir; /* unpacked repositories */

static void load_manifest(struct lm_storage *storage, struct lm_manifest *ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	assert_ok(storage->ops->get(storage, LM_MANIFEST_NAME, &text, &err), &err);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, ret, &err), &err);
}

/* The root catalog of a revision, by following previous_revision from the newest. */
static void find_root(struct lm_storage *storage, uint64_t revision, struct lm_hash *ret)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest manifest;
	struct tree tree;
	load_manifest(storage, &manifest);
	tree_init(&tree, storage);
	*ret = manifest.catalog;
	for (uint64_t at = manifest.revision; at != revision; at--) {
		CLEANUP(tree_catalog_done) struct tree_catalog c;
		CLEANUP(lm_freep) char *text = NULL;
		struct lm_db db;
		tree_catalog_open(&tree, ret, "", &c);
		assert_int_equal(lm_catalog_revision(c.catalog), at);
		assert_ok(lm_db_open(c.db_path, &db, &err), &err);
		assert_ok(lm_db_property(&db, "previous_revision", &text, &err), &err);
		assert_ok(lm_hash_parse(text, strlen(text), ret, &err), &err);
		lm_db_close(&db);
	}
	tree_done(&tree);
}

/* Says where two listings differ, not only that they do. */
static void assert_listing(const char *expected, const char *found)
{
	while (*expected && *expected == *found) {
		const char *end = strchr(expected, '\n');
		size_t len = end ? (size_t)(end - expected) + 1 : strlen(expected);
		if (strncmp(expected, found, len) != 0)
			break;
		expected += len;
		found += len;
	}
	if (*expected || *found)
		fail_msg("expected: %.*s\nfound:    %.*s", (int)strcspn(expected, "\n"), expected,
			(int)strcspn(found, "\n"), found);
}

static void compare(const char *fqrn, uint64_t revision, const char *expected_name)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_storage_freep) struct lm_storage *storage = NULL;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, fqrn);
	CLEANUP(lm_freep) char *name = lm_str_printf("expected/%s.manifest", expected_name);
	CLEANUP(lm_buf_done) struct lm_buf expected = LM_BUF(0);
	CLEANUP(lm_buf_done) struct lm_buf found = LM_BUF(64 << 20);
	struct lm_hash root;
	assert_ok(lm_storage_dir_open(path, false, &storage, &err), &err);
	find_root(storage, revision, &root);
	read_fixture(name, &expected);
	assert_int_equal(tree_walk(storage, &root, 0, &found), 0);
	assert_listing(lm_buf_cstr(&expected), lm_buf_cstr(&found));
	assert_true(expected.len > 1000);
}

static void test_main(void **state)
{
	compare("fixture.cern.ch", 1, "fixture.cern.ch.rev1");
	compare("fixture.cern.ch", 2, "fixture.cern.ch.rev2");
	compare("fixture.cern.ch", 3, "fixture.cern.ch.rev3");
}

static void test_hashes(void **state)
{
	compare("rmd160.fixture.cern.ch", 1, "rmd160.fixture.cern.ch.rev1");
	compare("rmd160.fixture.cern.ch", 2, "rmd160.fixture.cern.ch.rev2");
	compare("shake128.fixture.cern.ch", 1, "shake128.fixture.cern.ch.rev1");
	compare("shake128.fixture.cern.ch", 2, "shake128.fixture.cern.ch.rev2");
}

static void test_plain(void **state)
{
	compare("plain.fixture.cern.ch", 1, "plain.fixture.cern.ch.rev1");
	compare("plain.fixture.cern.ch", 2, "plain.fixture.cern.ch.rev2");
}

static void test_options(void **state)
{
	compare("options.fixture.cern.ch", 4, "options.fixture.cern.ch.latest");
}

static void test_unpacked(void **state)
{
	compare("unpacked.fixture.cern.ch", 28, "unpacked.fixture.cern.ch.latest");
}

/* The properties that a client goes by. */
static void test_properties(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_storage_freep) struct lm_storage *storage = NULL;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/options.fixture.cern.ch", dir);
	CLEANUP(tree_catalog_done) struct tree_catalog c;
	struct lm_manifest manifest;
	struct tree tree;
	assert_ok(lm_storage_dir_open(path, false, &storage, &err), &err);
	load_manifest(storage, &manifest);
	tree_init(&tree, storage);
	tree_catalog_open(&tree, &manifest.catalog, "", &c);
	assert_int_equal(lm_catalog_ttl(c.catalog), 900);
	assert_int_equal(lm_catalog_revision(c.catalog), 4);
	struct lm_nested nested;
	assert_int_equal(lm_catalog_nested(c.catalog, "/nested-", &nested, &err), -ENOENT);
	assert_ok(lm_catalog_nested(c.catalog, "/nested", &nested, &err), &err);
	assert_int_equal(nested.size, 57344);
	free(nested.path);
	/* A catalog opens at its own place only. */
	struct lm_catalog *wrong = NULL;
	assert_int_equal(lm_catalog_open(c.db_path, "/nested", &wrong, &err), -EPROTO);
	assert_null(wrong);
	tree_done(&tree);
}

static int setup(void **state)
{
	static const char *const names[] = {"fixture.cern.ch", "options.fixture.cern.ch", "plain.fixture.cern.ch",
		"rmd160.fixture.cern.ch", "shake128.fixture.cern.ch", "unpacked.fixture.cern.ch"};
	dir = temp_dir();
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		unpack_fixture(names[i], dir);
	return 0;
}

static int teardown(void **state)
{
	temp_dir_remove(&dir);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_main),
		cmocka_unit_test(test_hashes),
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_unpacked),
		cmocka_unit_test(test_properties),
	};
	if (!fixtures_present())
		return 77;
	return cmocka_run_group_tests(tests, setup, teardown);
}
