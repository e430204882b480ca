#include "base/file.h"
#include "base/str.h"
#include "convert/layer_split.h"
#include "convert/layer_tar.h"
#include "convert_test.h"

#include <sys/stat.h>

struct fixture {
	char dir[64];
	struct lm_storage *storage;
	struct lm_packing *packing;
	struct lm_buf tar;
	struct lm_layer_tree *tree;
	struct lm_layer_split split;
	struct lm_err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->tar = LM_BUF(64 << 20);
	strcpy(f->dir, "/tmp/lamella-test-XXXXXX");
	*state = f;
	return !mkdtemp(f->dir) || lm_storage_dir_open(f->dir, true, &f->storage, NULL) < 0 ||
	       lm_packing_new(f->storage, LM_HASH_SHA1, 1, 1 << 20, &f->packing, NULL) < 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_layer_split_done(&f->split);
	lm_layer_tree_free(f->tree);
	lm_packing_free(f->packing);
	lm_storage_free(f->storage);
	lm_buf_done(&f->tar);
	int r = lm_remove_tree(AT_FDCWD, f->dir, NULL);
	free(f);
	return r;
}

static void add_files(struct fixture *f, const char *dir, int count)
{
	char name[64];
	for (int i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "%s/%d", dir, i);
		tm_file(&f->tar, (struct tm_header){.name = name}, "", 0);
	}
}

static void add_link(struct fixture *f, const char *name, const char *to)
{
	tm_block(&f->tar, (struct tm_header){.name = name, .type = '1', .link = to});
}

static void append_path(const struct lm_layer_node *node, struct lm_buf *ret)
{
	if (!node->parent)
		return;
	append_path(node->parent, ret);
	assert_int_equal(lm_buf_printf(ret, "/%s", node->name), 0);
}

/* Each directory is in one part, those of a part hang together, and parts come after those that name them. */
static void check_split(struct fixture *f)
{
	size_t dirs = 0;
	for (size_t i = 0; i < f->split.count; i++) {
		const struct lm_layer_part *part = &f->split.parts[i];
		assert_true(part->count > 0);
		dirs += part->count;
		assert_int_equal(part->dirs[0]->inode->group, i);
		for (size_t k = 1; k < part->count; k++) {
			bool found = false;
			for (size_t at = 0; at < k; at++)
				found |= part->dirs[at] == part->dirs[k]->parent;
			assert_true(found);
			assert_int_equal(part->dirs[k]->inode->group, 0);
		}
		bool named = i == 0;
		for (size_t k = 0; k < i; k++)
			for (size_t at = 0; at < f->split.parts[k].count; at++)
				named |= f->split.parts[k].dirs[at] == part->dirs[0]->parent;
		assert_true(named);
	}
	for (size_t i = 0; i < dirs; i++)
		assert_true(S_ISDIR(f->split.dirs[i]->inode->mode));
}

/* Where the parts begin, "/a /b/c", must be as expected. */
static void expect(struct fixture *f, struct lm_layer_limits limits, const char *expected)
{
	struct tm_input input = {&f->tar, 0, 65536};
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(1 << 20);
	if (!f->tree) {
		tm_end(&f->tar);
		assert_int_equal(lm_layer_read(tm_read, &input, NULL, f->packing, &f->tree, &f->err), 0);
	}
	assert_int_equal(lm_layer_split(f->tree, &limits, &f->split, &f->err), 0);
	check_split(f);
	for (size_t i = 1; i < f->split.count; i++) {
		assert_int_equal(lm_buf_str(&text, i > 1 ? " " : ""), 0);
		append_path(f->split.parts[i].dirs[0], &text);
	}
	assert_string_equal(lm_buf_cstr(&text), expected);
}

static void test_empty(void **state)
{
	expect(*state, (struct lm_layer_limits){0, 1, 0}, "");
}

static void test_small_is_whole(void **state)
{
	struct fixture *f = *state;
	add_files(f, "a", 10);
	expect(f, (struct lm_layer_limits){.whole = 11, .least = 2}, "");
}

static void test_upwards(void **state)
{
	struct fixture *f = *state;
	add_files(f, "small", 9);
	add_files(f, "a/b/c", 9); /* /a/b has c, too: 10 */
	add_files(f, "flat", 30);
	add_files(f, "flat/less", 3);
	add_files(f, "flat/more", 12);
	expect(f, (struct lm_layer_limits){.whole = 20, .least = 10}, "/flat /a/b /flat/more");
}

static void test_joined(void **state)
{
	struct fixture *f = *state;
	add_files(f, "usr", 20);
	add_files(f, "usr/lib", 20);
	add_files(f, "usr/lib/a", 20);
	add_files(f, "usr/lib/b", 20);
	add_files(f, "usr/share", 20);
	/* 1 + 20 + 2 are /usr's; 20 + 2 more are /usr/lib's. The leaves stay. */
	expect(f, (struct lm_layer_limits){.whole = 20, .least = 10, .joined = 44},
		"/usr/lib /usr/share /usr/lib/a /usr/lib/b");
}

static void test_joined_twice(void **state)
{
	struct fixture *f = *state;
	add_files(f, "usr", 20);
	add_files(f, "usr/lib", 20);
	add_files(f, "usr/lib/a", 20);
	add_files(f, "usr/lib/b", 20);
	add_files(f, "usr/share", 20);
	expect(f, (struct lm_layer_limits){.whole = 20, .least = 10, .joined = 45}, "/usr/share /usr/lib/a /usr/lib/b");
}

/* What has members of one group is in one part, however large. */
static void test_groups(void **state)
{
	struct fixture *f = *state;
	add_files(f, "a/x/deep", 20);
	add_files(f, "a/y", 20);
	add_files(f, "b", 20);
	add_files(f, "c", 20);
	add_link(f, "a/x/deep/link", "a/y/0"); /* keeps /a/x/deep, /a/x and /a/y in /a */
	add_link(f, "b/link", "b/0");	       /* within one: nothing */
	expect(f, (struct lm_layer_limits){.whole = 20, .least = 10}, "/a /b /c");
	const struct lm_layer_node *one = lm_layer_tree_find(f->tree, "/a/x/deep/link");
	const struct lm_layer_node *two = lm_layer_tree_find(f->tree, "/b/link");
	assert_int_not_equal(one->inode->group, 0);
	assert_int_not_equal(two->inode->group, 0);
	assert_int_not_equal(one->inode->group, two->inode->group);
}

static void test_group_over_everything(void **state)
{
	struct fixture *f = *state;
	add_files(f, "a", 20);
	add_files(f, "b/c", 20);
	add_files(f, "b/d", 20);
	add_link(f, "top", "a/0");
	add_link(f, "b/c/link", "a/0");
	expect(f, (struct lm_layer_limits){.whole = 20, .least = 10}, "/b/d");
}

/* The name of the marker is taken. */
static void test_marker_inside(void **state)
{
	struct fixture *f = *state;
	add_files(f, "a/b", 20);
	tm_file(&f->tar, (struct tm_header){.name = "a/b/.cvmfscatalog"}, "mine", 4);
	expect(f, (struct lm_layer_limits){.whole = 20, .least = 10}, "/a");
}

/* The chunks of large files are rows, too. */
static void test_chunks_count(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_freep) uint8_t *big = calloc(1, LM_CHUNKED_ABOVE + 100);
	tm_file(&f->tar, (struct tm_header){.name = "a/big"}, big, LM_CHUNKED_ABOVE + 100);
	tm_file(&f->tar, (struct tm_header){.name = "b/small"}, "", 0);
	expect(f, (struct lm_layer_limits){.whole = 0, .least = 4}, "/a");
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_empty),
		TEST(test_small_is_whole),
		TEST(test_upwards),
		TEST(test_joined),
		TEST(test_joined_twice),
		TEST(test_groups),
		TEST(test_group_over_everything),
		TEST(test_marker_inside),
		TEST(test_chunks_count),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
