/* Merged trees, as far as they need no image: what is mounted below a snapshot's directory goes with it, and what is no
 * image leaves nothing behind. */
#include "snapshotter/trees.h"

#include "base/file.h"
#include "snapshotter/layout.h"
#include "snapshotter/mountpoints.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cmocka.h>

struct fixture {
	char dir[64], snapshot[96];
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
	snprintf(f->snapshot, sizeof(f->snapshot), "%s/snapshots/7", f->dir);
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

/* For this process alone, and gone with it. */
static bool can_mount(void)
{
	static int result = 1;
	if (result > 0)
		result = unshare(CLONE_NEWNS) == 0 && mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 ? 0 : -1;
	if (result < 0)
		print_message("needs the right to mount\n");
	return result == 0;
}

static char *mount_at(const struct fixture *f, const char *name, char *ret, size_t size)
{
	snprintf(ret, size, "%s/%s", f->snapshot, name);
	assert_int_equal(mkdir(ret, 0700), 0);
	assert_int_equal(mount("none", ret, "tmpfs", 0, NULL), 0);
	return ret;
}

static void test_probe(void **state)
{
	struct fixture *f = *state;
	if (!can_mount())
		skip();
	int r = lm_trees_probe(f->dir, &f->err);
	assert_true(r == 0 || r == -ENOTSUP); /* it is the kernel's to say */
	if (r < 0)
		print_message("here: %s\n", lm_err_text(&f->err));
	/* Nothing is left: the fixture's directory can be taken away, and has what it had. */
	assert_int_equal(access(f->snapshot, F_OK), 0);
}

static int detach_trees(const char *dir, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = lm_mountpoints_open(dir, err);
	return fd < 0 ? fd : lm_mountpoints_detach(fd, dir, LM_TREES_PREFIX, err);
}

static void test_detached(void **state)
{
	struct fixture *f = *state;
	char first[160], second[160], other[160];
	if (!can_mount())
		skip();
	mount_at(f, "tree.0-1.2", first, sizeof(first));
	mount_at(f, "tree.0-2.2", second, sizeof(second));
	assert_int_equal(mount("none", second, "tmpfs", 0, NULL), 0); /* twice */
	snprintf(other, sizeof(other), "%s/tree.0-3.2", f->snapshot); /* of a boot that was before */
	assert_int_equal(mkdir(other, 0700), 0);
	assert_int_equal(detach_trees(f->snapshot, &f->err), 0);
	assert_int_equal(access(first, F_OK), -1);
	assert_int_equal(access(second, F_OK), -1);
	assert_int_equal(access(other, F_OK), -1);
	assert_int_equal(detach_trees(f->snapshot, &f->err), 0);
	assert_int_equal(detach_trees("/nonexistent", &f->err), -ENOENT);
}

static void test_removed_with_its_snapshot(void **state)
{
	struct fixture *f = *state;
	char tree[160], inside[192];
	if (!can_mount())
		skip();
	mount_at(f, "tree.0-1.2", tree, sizeof(tree));
	snprintf(inside, sizeof(inside), "%s/file", tree);
	CLEANUP(lm_closep) int fd = open(inside, O_RDWR | O_CREAT | O_CLOEXEC, 0600); /* in use */
	assert_true(fd >= 0);
	assert_int_equal(lm_layout_remove(f->layout, 7, &f->err), 0);
	assert_int_equal(access(f->snapshot, F_OK), -1);
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_nlink, 1); /* what was mounted is as it was */
}

static void test_no_image(void **state)
{
	struct fixture *f = *state;
	char image[96];
	CLEANUP(lm_freep) char *mountpoint = NULL;
	if (!can_mount())
		skip();
	snprintf(image, sizeof(image), "%s/image", f->dir);
	assert_int_equal(lm_trees_mount(f->snapshot, image, &mountpoint, &f->err), -ENOENT);
	CLEANUP(lm_closep) int fd = open(image, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, 64 << 10), 0);
	int r = lm_trees_mount(f->snapshot, image, &mountpoint, &f->err);
	if (r == -ENOENT && access("/dev/loop-control", F_OK) < 0) {
		print_message("no loop devices here\n");
		skip();
	}
	assert_true(r < 0);
	assert_null(mountpoint);
	assert_non_null(strstr(lm_err_text(&f->err), image));
	assert_int_equal(lm_layout_remove(f->layout, 7, &f->err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_probe, setup, teardown),
		cmocka_unit_test_setup_teardown(test_detached, setup, teardown),
		cmocka_unit_test_setup_teardown(test_removed_with_its_snapshot, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_image, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
