/* The directories of snapshots: what belongs right below a layer is copied whole, once, and only if it is what it
 * should be. */
#include "snapshotter/layout.h"

#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

struct fixture {
	char dir[64], tree[96], copy[96];
	struct lm_layout *layout;
	struct lm_err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->dir, "/tmp/lamella-test-XXXXXX");
	*state = f;
	if (!mkdtemp(f->dir) || lm_layout_open(f->dir, &f->layout, &f->err) < 0 ||
		lm_layout_make_link(f->layout, 7, "/somewhere", &(struct lm_buf){0}, &f->err) < 0)
		return -1;
	snprintf(f->tree, sizeof(f->tree), "%s/tree", f->dir);
	snprintf(f->copy, sizeof(f->copy), "%s/snapshots/7/opaque", f->dir);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_layout_close(f->layout);
	int r = lm_remove_tree(AT_FDCWD, f->dir, NULL);
	free(f);
	return r;
}

static void make(struct fixture *f, const char *name, mode_t mode)
{
	char path[160];
	snprintf(path, sizeof(path), "%s%s", f->tree, name);
	assert_int_equal(S_ISDIR(mode) ? mkdir(path, 0755) : mknod(path, mode, 0), 0);
}

static mode_t copied(struct fixture *f, const char *name)
{
	char path[160];
	struct stat st;
	snprintf(path, sizeof(path), "%s%s", f->copy, name);
	if (lstat(path, &st) < 0)
		return 0;
	assert_int_equal(st.st_rdev, 0);
	return st.st_mode & S_IFMT;
}

static int copy(struct fixture *f)
{
	return lm_layout_copy_opaque(f->layout, 7, f->tree, &f->err);
}

static void test_copied(void **state)
{
	struct fixture *f = *state;
	make(f, "", S_IFDIR);
	make(f, "/a", S_IFDIR);
	make(f, "/a/b", S_IFDIR);
	make(f, "/a/b/gone", S_IFCHR);
	make(f, "/gone", S_IFCHR);
	assert_int_equal(copy(f), 0);
	assert_int_equal(copied(f, "/a"), S_IFDIR);
	assert_int_equal(copied(f, "/a/b/gone"), S_IFCHR);
	assert_int_equal(copied(f, "/gone"), S_IFCHR);

	/* Not again: containers may be using it. */
	make(f, "/more", S_IFCHR);
	assert_int_equal(copy(f), 0);
	assert_int_equal(copied(f, "/more"), 0);
	assert_int_equal(lm_layout_remove(f->layout, 7, &f->err), 0);
	assert_int_equal(copied(f, ""), 0);
}

/* Nothing half made counts, and what a killed one left is no obstacle. */
static void test_refused(void **state)
{
	struct fixture *f = *state;
	make(f, "", S_IFDIR);
	make(f, "/a", S_IFDIR);
	make(f, "/a/file", S_IFREG);
	make(f, "/gone", S_IFCHR);
	assert_int_equal(copy(f), -EPROTO);
	assert_non_null(strstr(lm_err_text(&f->err), "file is neither a directory nor a whiteout"));
	assert_int_equal(copied(f, ""), 0);
	char path[160];
	snprintf(path, sizeof(path), "%s/a/file", f->tree);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(copy(f), 0);
	assert_int_equal(copied(f, "/gone"), S_IFCHR);
	assert_int_equal(copied(f, "/a/file"), 0);
}

static void test_deep(void **state)
{
	struct fixture *f = *state;
	make(f, "", S_IFDIR);
	int fd = open(f->tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 300; i++) {
		assert_int_equal(mkdirat(fd, "d", 0755), 0);
		int below = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(fd);
		fd = below;
	}
	close(fd);
	assert_int_equal(copy(f), -EPROTO);
	assert_int_equal(copied(f, ""), 0);
}

static void test_unwritten(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(lm_layout_make(f->layout, 8, &LM_ROOT_ATTRIBUTES_DEFAULT, &(struct lm_buf){0}, &f->err), 0);
	assert_true(lm_layout_is_unwritten(f->layout, 8));
	snprintf(f->tree, sizeof(f->tree), "%s/snapshots/8/fs", f->dir);
	make(f, "/.hidden", S_IFREG);
	assert_false(lm_layout_is_unwritten(f->layout, 8));
	assert_false(lm_layout_is_unwritten(f->layout, 7));
	assert_false(lm_layout_is_unwritten(f->layout, 9));
}

static void test_absent(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(copy(f), -ENOENT);
	assert_non_null(strstr(lm_err_text(&f->err), f->tree));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_copied, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deep, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unwritten, setup, teardown),
		cmocka_unit_test_setup_teardown(test_absent, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
