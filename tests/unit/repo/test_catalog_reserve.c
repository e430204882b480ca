/* With little memory set aside for pages: it is used, and what finds no room there is served all the same. */
#include "repo/catalog.h"
#include "repo_test.h"

#include <unistd.h>

enum { RESERVED = 256 << 10, ROWS = 20000, OPEN = 5, HEAP_MAX = 500 << 10 };

static int name(unsigned i, char ret[32])
{
	return snprintf(ret, 32, "/file-%u", i);
}

static void make(const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	struct lm_row root = {.mode = S_IFDIR | 0755};
	struct lm_row file = {.mode = S_IFREG | 0644, .hash = {.set = true}};
	struct lm_counters self = {0}, subtree = {0};
	struct lm_catalog_props props = {.revision = 1};
	char text[32];
	assert_ok(lm_catalog_create(path, "", &root, &w, &err), &err);
	for (unsigned i = 0; i < ROWS; i++) {
		file.size = i;
		(void)name(i, text);
		assert_ok(lm_catalog_insert(w, text, &file, NULL, 0, &err), &err);
	}
	assert_ok(lm_catalog_writer_finish(w, &props, &self, &subtree, &err), &err);
}

static void test_reserved(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/catalog", dir);
	assert_ok(lm_catalog_reserve(RESERVED, &err), &err);
	make(path);

	struct lm_catalog *open[OPEN];
	for (unsigned n = 0; n < OPEN; n++)
		assert_ok(lm_catalog_open(path, "", &open[n], &err), &err);
	for (unsigned i = 0; i < ROWS; i++) {
		CLEANUP(lm_row_done) struct lm_row row = {0};
		char text[32];
		int len = name(i, text);
		assert_ok(lm_catalog_lookup(open[i % OPEN], lm_path_hash(text, (size_t)len), &row, &err), &err);
		assert_int_equal(row.size, i);
	}
	assert_in_range(lm_catalog_memory(), 1, HEAP_MAX);
	assert_int_equal(lm_catalog_reserve(RESERVED, &err), -EALREADY);
	for (unsigned n = 0; n < OPEN; n++)
		lm_catalog_close(open[n]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_reserved)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
