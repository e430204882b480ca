/* Looking at catalogs row by row, damaged ones, too. */
#include "repo/catalog.h"
#include "repo/db.h"
#include "repo_test.h"

#include <sys/stat.h>

enum { FILES = 300 };

static char *dir, *path;

static void make(const char *mountpoint)
{
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *writer = NULL;
	struct lm_err err = LM_ERR_INIT;
	struct lm_row root = {.mode = S_IFDIR | 0755}, file = {.mode = S_IFREG | 0644};
	struct lm_catalog_props props = {.revision = 7};
	struct lm_counters self, subtree;
	file.hash.set = true;
	free(path);
	path = lm_str_printf("%s/catalog", dir);
	assert_true(unlink(path) == 0 || errno == ENOENT);
	assert_ok(lm_catalog_create(path, mountpoint, &root, &writer, &err), &err);
	for (unsigned i = 0; i < FILES; i++) {
		CLEANUP(lm_freep) char *name = lm_str_printf("%s/file%u", mountpoint, i);
		assert_ok(lm_catalog_insert(writer, name, &file, NULL, 0, &err), &err);
	}
	assert_ok(lm_catalog_writer_finish(writer, &props, &self, &subtree, &err), &err);
}

static void sql(const char *text)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_db db;
	assert_ok(lm_db_open_edit(path, &db, &err), &err);
	assert_ok(lm_db_exec(&db, text, &err), &err);
	lm_db_close(&db);
}

struct seen {
	struct lm_catalog *catalog;
	unsigned good, bad, stop_after;
	int64_t last;
	bool revision;
};

static int see(void *arg, int64_t rowid, struct lm_row *row, const struct lm_err *bad)
{
	struct seen *seen = arg;
	CLEANUP(lm_row_done) struct lm_row again = {0};
	assert_true(rowid > seen->last);
	seen->last = rowid;
	assert_true(!row == !!bad);
	if (bad) {
		assert_int_equal(bad->code, -EPROTO);
		assert_true(bad->msg[0]);
		seen->bad++;
	} else {
		/* It may be asked meanwhile. */
		assert_int_equal(lm_catalog_row(seen->catalog, row->rowid, &again, NULL), 0);
		assert_string_equal(again.name, row->name);
		seen->good++;
	}
	return seen->good + seen->bad == seen->stop_after ? 42 : 0;
}

static struct seen look(unsigned stop_after, int expected)
{
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_catalog_open(path, "", &catalog, &err), &err);
	struct seen seen = {.catalog = catalog, .stop_after = stop_after, .last = INT64_MIN};
	assert_int_equal(lm_catalog_each(catalog, see, &seen, &err), expected);
	return seen;
}

static void test_all_rows(void **state)
{
	make("");
	struct seen seen = look(0, 0);
	assert_int_equal(seen.good, FILES + 1);
	assert_int_equal(seen.bad, 0);
	seen = look(100, 42);
	assert_int_equal(seen.good, 100);
}

static void test_damaged_rows(void **state)
{
	make("");
	/* At the ends of batches and in a row, in no directory, with a row id below 1. */
	sql("UPDATE catalog SET name = NULL WHERE rowid IN (64, 65, 128, 301);"
	    "UPDATE catalog SET size = 'large' WHERE rowid = 200;"
	    "UPDATE catalog SET parent_1 = 1 WHERE rowid = 100;"
	    "UPDATE catalog SET rowid = -5 WHERE rowid = 300;");
	struct seen seen = look(0, 0);
	assert_int_equal(seen.bad, 6);
	assert_int_equal(seen.good, FILES + 1 - 6);
	seen = look(1, 42);
	assert_int_equal(seen.bad, 1);
	assert_int_equal(seen.last, -5);
}

static int see_property(void *arg, const char *key, const char *value)
{
	struct seen *seen = arg;
	seen->good++;
	if (strcmp(key, "revision") == 0)
		seen->revision = strcmp(value, "7") == 0;
	return seen->good == seen->stop_after ? 42 : 0;
}

static void test_properties(void **state)
{
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	struct lm_err err = LM_ERR_INIT;
	struct seen seen = {0}, one = {.stop_after = 1};
	make("/nested/here");
	sql("INSERT INTO properties (key, value) VALUES ('mine', NULL)");
	assert_int_equal(lm_catalog_open(path, "", &catalog, &err), -EPROTO);
	assert_ok(lm_catalog_open(path, NULL, &catalog, &err), &err);
	assert_string_equal(lm_catalog_mountpoint(catalog), "/nested/here");
	assert_ok(lm_catalog_properties_each(catalog, see_property, &seen, &err), &err);
	assert_true(seen.revision);
	assert_true(seen.good >= 4);
	assert_int_equal(lm_catalog_properties_each(catalog, see_property, &one, &err), 42);
}

static void test_nonsense_place(void **state)
{
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	struct lm_err err = LM_ERR_INIT;
	make("/nested");
	sql("UPDATE properties SET value = '../up' WHERE key = 'root_prefix'");
	assert_int_equal(lm_catalog_open(path, NULL, &catalog, &err), -EPROTO);
	assert_null(catalog);
}

static int set_up(void **state)
{
	dir = temp_dir();
	return 0;
}

static int tear_down(void **state)
{
	temp_dir_remove(&dir);
	free(path);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_rows),
		cmocka_unit_test(test_damaged_rows),
		cmocka_unit_test(test_properties),
		cmocka_unit_test(test_nonsense_place),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
