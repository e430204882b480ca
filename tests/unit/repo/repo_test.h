/* What the tests of lib/repo share: cmocka, fixtures, a temporary directory, subprocesses. */
#ifndef LM_TESTS_REPO_TEST_H
#define LM_TESTS_REPO_TEST_H

#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#define assert_ok(call, err)                                                              \
	do {                                                                              \
		int r_ = (call);                                                          \
		if (r_ < 0)                                                               \
			fail_msg("%s: %d: %s", #call, r_, lm_err_text(err)); /* cmocka */ \
	} while (0)

static inline const char *source_root(void)
{
	const char *root = getenv("LM_SOURCE_ROOT");
	return root ? root : ".";
}

/* The path of a fixture; the caller frees it. */
static inline char *fixture_path(const char *name)
{
	char *path = lm_str_printf("%s/../shared/fixtures/cvmfs/%s", source_root(), name);
	assert_non_null(path);
	return path;
}

/* False, with a reason printed, where the fixtures are not. */
static inline bool fixtures_present(void)
{
	CLEANUP(lm_freep) char *path = fixture_path("alternates/VERDICTS.txt");
	if (access(path, R_OK) == 0)
		return true;
	printf("skipped: no fixtures at %s\n", path);
	return false;
}

static inline void read_whole(const char *path, struct lm_buf *ret)
{
	struct lm_err err = LM_ERR_INIT;
	*ret = LM_BUF(64 << 20);
	assert_ok(lm_file_read(AT_FDCWD, path, ret, &err), &err);
}

static inline void read_fixture(const char *name, struct lm_buf *ret)
{
	CLEANUP(lm_freep) char *path = fixture_path(name);
	read_whole(path, ret);
}

/* A new directory; remove it with temp_dir_remove(). */
static inline char *temp_dir(void)
{
	const char *base = getenv("TMPDIR");
	char *path = lm_str_printf("%s/lamella-test-XXXXXX", base ? base : "/tmp");
	assert_non_null(path);
	assert_non_null(mkdtemp(path));
	return path;
}

static inline void temp_dir_remove(char **path)
{
	if (*path)
		assert_int_equal(lm_remove_tree(AT_FDCWD, *path, NULL), 0);
	free(*path);
	*path = NULL;
}

/* Runs a program to its end: its exit code. */
static inline int run(const char *const argv[])
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Unpacks repos/FQRN.tar.gz below dir. */
static inline void unpack_fixture(const char *fqrn, const char *dir)
{
	CLEANUP(lm_freep) char *name = lm_str_printf("repos/%s.tar.gz", fqrn);
	CLEANUP(lm_freep) char *path = fixture_path(name);
	assert_int_equal(run((const char *const[]){"tar", "-xzf", path, "-C", dir, NULL}), 0);
}

#endif
