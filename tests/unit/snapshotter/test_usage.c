/* Counting trees, compared with du(1). */
#include "base/file.h"
#include "base/str.h"
#include "snapshotter/usage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static int setup(void **state)
{
	char *dir = strdup("/tmp/lm-usage.XXXXXX");
	assert_non_null(mkdtemp(dir));
	*state = dir;
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(lm_remove_tree(AT_FDCWD, *state, NULL), 0);
	free(*state);
	return 0;
}

static struct lm_usage count(const char *dir)
{
	struct lm_usage usage = {-1, -1};
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_closep) int fd = open(dir, O_RDONLY | O_DIRECTORY);
	if (lm_usage_count(fd, &usage, &err) < 0)
		fail_msg("%s", lm_err_text(&err));
	return usage;
}

static long long du(const char *dir, const char *options)
{
	char command[256];
	long long number = -1;
	snprintf(command, sizeof(command), "du -s -x %s %s", options, dir);
	FILE *pipe = popen(command, "r");
	assert_int_equal(fscanf(pipe, "%lld", &number), 1);
	pclose(pipe);
	return number;
}

static void expect_like_du(const char *dir)
{
	struct lm_usage usage = count(dir);
	assert_int_equal(usage.size_bytes, du(dir, "-B1"));
	assert_int_equal(usage.inodes, du(dir, "--inodes"));
}

static void like_du(void **state)
{
	const char *dir = *state;
	int at = open(dir, O_RDONLY | O_DIRECTORY);
	assert_int_equal(count(dir).inodes, 1);
	expect_like_du(dir);
	char *bytes = calloc(1, 100000);
	assert_int_equal(lm_file_replace(at, "a", bytes, 100000, 0600, 0, NULL), 0);
	free(bytes);
	assert_int_equal(linkat(at, "a", at, "b", 0), 0);
	assert_int_equal(mkdirat(at, "d", 0700), 0);
	assert_int_equal(linkat(at, "a", at, "d/c", 0), 0);
	assert_int_equal(symlinkat("/etc", at, "link"), 0);
	assert_int_equal(symlinkat("nowhere", at, "broken"), 0);
	assert_int_equal(mkfifoat(at, "fifo", 0600), 0);
	int sparse = openat(at, "sparse", O_CREAT | O_WRONLY, 0600);
	assert_int_equal(ftruncate(sparse, 1 << 30), 0);
	close(sparse);
	assert_int_equal(count(dir).inodes, 7);
	expect_like_du(dir);
	close(at);
}

static void deep(void **state)
{
	const char *dir = *state;
	int fd = open(dir, O_RDONLY | O_DIRECTORY);
	for (unsigned i = 0; i < 500; i++) {
		assert_int_equal(mkdirat(fd, "deeper", 0700), 0);
		int next = openat(fd, "deeper", O_RDONLY | O_DIRECTORY);
		assert_true(next >= 0);
		close(fd);
		fd = next;
	}
	assert_int_equal(count(dir).inodes, 501);
	for (unsigned i = 0; i < 600; i++) {
		assert_int_equal(mkdirat(fd, "d", 0700), 0);
		int next = openat(fd, "d", O_RDONLY | O_DIRECTORY);
		close(fd);
		fd = next;
	}
	close(fd);
	struct lm_usage usage;
	CLEANUP(lm_closep) int top = open(dir, O_RDONLY | O_DIRECTORY);
	int r = lm_usage_count(top, &usage, NULL);
	assert_true(r == -ELOOP || r == -EMFILE); /* a plain error, whichever limit comes first */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(like_du, setup, teardown),
		cmocka_unit_test_setup_teardown(deep, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
