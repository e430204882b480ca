/* Mapped owners: what the labels say, and what the clones show. */
#include "snapshotter/mapped.h"

#include "base/file.h"
#include "snapshotter/mountpoints.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cmocka.h>

static void test_ranges(void **state)
{
	static const char *const wrong[] = {"", ",", ":", "::", "0", "0:1", "0:1:", "0:1:2:3", "0:1:2,", ",0:1:2",
		"0:1:2,,3:4:5", "0:1:0", "-1:0:1", "+0:1:2", " 0:1:2", "0:1:2 ", "a:1:2", "0:1:4294967296",
		"4294967295:0:1", "0:4294967295:1", "1:2:4294967295", "0x0:1:2"};
	static struct lm_mapped_ranges ranges;
	uint32_t host;
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		struct lm_err err = LM_ERR_INIT;
		if (lm_mapped_parse(wrong[i], &ranges, &err) != -EINVAL)
			fail_msg("taken: \"%s\"", wrong[i]);
		assert_non_null(strstr(err.msg, "INSIDE:HOST:LENGTH"));
	}
	assert_int_equal(lm_mapped_parse("5:7:1,0:100000:5,6:200000:4294767295", &ranges, NULL), 0);
	assert_int_equal(ranges.count, 3);
	assert_true(lm_mapped_host(&ranges, 0, &host) && host == 100000);
	assert_true(lm_mapped_host(&ranges, 4, &host) && host == 100004);
	assert_true(lm_mapped_host(&ranges, 5, &host) && host == 7);
	assert_true(lm_mapped_host(&ranges, 4294767300, &host) && host == 4294967294);
	assert_false(lm_mapped_host(&ranges, 4294967295, &host));
	assert_int_equal(lm_mapped_parse("1:2:3", &ranges, NULL), 0);
	assert_false(lm_mapped_host(&ranges, 0, &host));
}

static void test_too_many_ranges(void **state)
{
	static char text[16 * (LM_MAPPED_RANGES_MAX + 1)];
	static struct lm_mapped_ranges ranges;
	struct lm_err err = LM_ERR_INIT;
	size_t len = 0;
	for (int i = 0; i < LM_MAPPED_RANGES_MAX; i++)
		len += (size_t)sprintf(text + len, "%s%d:%d:1", i ? "," : "", i, 1000 + i);
	assert_int_equal(lm_mapped_parse(text, &ranges, NULL), 0);
	assert_int_equal(ranges.count, LM_MAPPED_RANGES_MAX);
	sprintf(text + len, ",9999:9999:1");
	assert_int_equal(lm_mapped_parse(text, &ranges, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "340"));
}

struct fixture {
	char dir[64], snapshot[96], one[96], two[96];
	struct lm_mapped_ranges uids, gids;
	struct lm_err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->dir, "/tmp/lamella-test-XXXXXX");
	*state = f;
	if (!mkdtemp(f->dir))
		return -1;
	snprintf(f->snapshot, sizeof(f->snapshot), "%s/7", f->dir);
	snprintf(f->one, sizeof(f->one), "%s/one", f->dir);
	snprintf(f->two, sizeof(f->two), "%s/two", f->dir);
	if (mkdir(f->snapshot, 0700) < 0 || mkdir(f->one, 0700) < 0 || mkdir(f->two, 0700) < 0)
		return -1;
	return lm_mapped_parse("0:100000:1000", &f->uids, NULL) < 0 ? -1
								    : lm_mapped_parse("0:200000:1000", &f->gids, NULL);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_closep) int fd = lm_mountpoints_open(f->snapshot, NULL);
	int r = fd < 0 ? fd : lm_mountpoints_detach(fd, f->snapshot, LM_MAPPED_PREFIX, NULL);
	if (r == 0)
		r = lm_remove_tree(AT_FDCWD, f->dir, NULL);
	free(f);
	return r;
}

/* For this process alone, and gone with it. */
static bool can_mount(struct fixture *f)
{
	static int result = 1;
	if (result > 0)
		result = unshare(CLONE_NEWNS) == 0 && mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 ? 0 : -1;
	if (result < 0)
		print_message("needs the right to mount\n");
	return result == 0;
}

static bool can_map(struct fixture *f)
{
	if (!can_mount(f))
		return false;
	int r = lm_mapped_probe(f->dir, &f->err);
	assert_true(r == 0 || r == -EBUSY); /* it is the kernel's to say */
	if (r < 0)
		print_message("here: %s\n", lm_err_text(&f->err));
	return r == 0;
}

static int map(struct fixture *f, const char *first, const char *second)
{
	const char *sources[] = {first, second};
	return lm_mapped_mount(f->snapshot, sources, second ? 2 : 1, &f->uids, &f->gids, &f->err);
}

static struct stat look(const struct fixture *f, const char *name)
{
	char path[160];
	struct stat st;
	snprintf(path, sizeof(path), "%s/%s", f->snapshot, name);
	if (stat(path, &st) < 0)
		fail_msg("%s: %s", path, strerror(errno));
	return st;
}

static void test_owners(void **state)
{
	struct fixture *f = *state;
	char link[128];
	if (!can_map(f))
		skip();
	assert_int_equal(chown(f->two, 7, 8), 0);
	snprintf(link, sizeof(link), "%s/link", f->dir); /* as layers are */
	assert_int_equal(symlink(f->two, link), 0);
	assert_int_equal(map(f, f->one, link), 0);
	struct stat first = look(f, "mapped.0"), second = look(f, "mapped.1"), source;
	assert_int_equal(first.st_uid, 100000);
	assert_int_equal(first.st_gid, 200000);
	assert_int_equal(second.st_uid, 100007);
	assert_int_equal(second.st_gid, 200008);
	assert_int_equal(stat(f->two, &source), 0);
	assert_int_equal(source.st_uid, 7);
}

/* What is there stays; what is of another directory makes way, and what uses it keeps it. */
static void test_again(void **state)
{
	struct fixture *f = *state;
	char path[160];
	if (!can_map(f))
		skip();
	assert_int_equal(map(f, f->one, f->two), 0);
	snprintf(path, sizeof(path), "%s/mapped.0", f->snapshot);
	CLEANUP(lm_closep) int used = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct statx before, after;
	assert_int_equal(statx(AT_FDCWD, path, 0, STATX_MNT_ID, &before), 0);
	assert_int_equal(map(f, f->one, f->two), 0);
	assert_int_equal(statx(AT_FDCWD, path, 0, STATX_MNT_ID, &after), 0);
	assert_int_equal(before.stx_mnt_id, after.stx_mnt_id);
	assert_int_equal(map(f, f->two, NULL), 0);
	struct stat shown = look(f, "mapped.0"), source, kept;
	assert_int_equal(stat(f->two, &source), 0);
	assert_int_equal(shown.st_ino, source.st_ino);
	snprintf(path, sizeof(path), "%s/mapped.1", f->snapshot);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(fstat(used, &kept), 0);
	assert_int_equal(kept.st_uid, 100000);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	char path[160];
	if (!can_map(f))
		skip();
	/* Not every file system can; nothing of the attempt is left. */
	assert_int_equal(lm_mapped_probe("/proc/self", &f->err), -EBUSY);
	assert_non_null(strstr(f->err.msg, "the file system of /proc/self can't have its ids mapped"));
	assert_int_equal(map(f, f->one, "/proc/self"), -EBUSY);
	assert_non_null(strstr(f->err.msg, "/proc/self"));
	snprintf(path, sizeof(path), "%s/mapped.0", f->snapshot);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(lm_mapped_probe("/nonexistent", &f->err), -ENOENT);
	assert_int_equal(map(f, "/nonexistent", NULL), -ENOENT);
	assert_int_equal(lm_mapped_parse("0:1:10,5:100:10", &f->uids, NULL), 0); /* they overlap */
	assert_int_equal(map(f, f->one, NULL), -EINVAL);
	assert_non_null(strstr(f->err.msg, "ranges"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_too_many_ranges),
		cmocka_unit_test_setup_teardown(test_owners, setup, teardown),
		cmocka_unit_test_setup_teardown(test_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
