#include "base/file.h"
#include "base/str.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The state is a descriptor of a fresh directory. */
static char dir_path[] = "/tmp/lamella-file.XXXXXX";
static int dir_fd;

static int make_dir(void **state)
{
	strcpy(dir_path + strlen(dir_path) - 6, "XXXXXX");
	if (!mkdtemp(dir_path))
		return -1;
	dir_fd = open(dir_path, O_RDONLY | O_DIRECTORY);
	return dir_fd < 0 ? -1 : 0;
}

static int drop_dir(void **state)
{
	close(dir_fd);
	return lm_remove_tree(AT_FDCWD, dir_path, NULL);
}

static unsigned count_entries(const char *path)
{
	unsigned n = 0;
	int fd = openat(dir_fd, path, O_RDONLY | O_DIRECTORY);
	DIR *dir = fdopendir(fd);
	assert_non_null(dir);
	for (struct dirent *entry; (entry = readdir(dir));)
		n += entry->d_name[0] != '.';
	closedir(dir);
	return n;
}

static void assert_content(const char *path, const char *content)
{
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(1000);
	assert_int_equal(lm_file_read(dir_fd, path, &buf, NULL), 0);
	assert_string_equal(lm_buf_cstr(&buf), content);
}

static int put(const char *path, const char *content, unsigned flags)
{
	return lm_file_replace(dir_fd, path, content, strlen(content), 0644, flags, NULL);
}

static void replaces_whole_files(void **state)
{
	struct stat st;
	assert_int_equal(put("a", "one", 0), 0);
	assert_int_equal(put("a", "second", LM_FILE_SYNC), 0);
	assert_content("a", "second");
	mode_t old = umask(077);
	assert_int_equal(lm_file_replace(dir_fd, "a", NULL, 0, 0640, 0, NULL), 0);
	umask(old);
	assert_content("a", "");
	assert_int_equal(fstatat(dir_fd, "a", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(count_entries("."), 1);
}

static void exclusive_refuses(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(put("a", "one", LM_FILE_EXCLUSIVE | LM_FILE_SYNC), 0);
	assert_int_equal(lm_file_replace(dir_fd, "a", "two", 3, 0644, LM_FILE_EXCLUSIVE, &err), -EEXIST);
	assert_content("a", "one");
	assert_int_equal(count_entries("."), 1);
}

static void failed_replace_leaves_nothing(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	char longer[PATH_MAX];
	assert_int_equal(lm_file_replace(dir_fd, "none/a", "x", 1, 0644, 0, &err), -ENOENT);
	assert_int_equal(mkdirat(dir_fd, "d", 0755), 0);
	assert_int_equal(lm_file_replace(dir_fd, "d", "x", 1, 0644, 0, &err), -EISDIR);
	assert_int_equal(count_entries("."), 1);
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(lm_file_replace(dir_fd, longer, "x", 1, 0644, 0, &err), -ENAMETOOLONG);
}

static void reads_up_to_the_limit(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(10);
	assert_int_equal(put("a", "12345", 0), 0);
	assert_int_equal(lm_file_read(dir_fd, "a", &buf, &err), 0);
	assert_int_equal(lm_file_read(dir_fd, "a", &buf, &err), 0);
	assert_string_equal(lm_buf_cstr(&buf), "1234512345");
	assert_int_equal(lm_file_read(dir_fd, "a", &buf, &err), -EMSGSIZE);
	assert_string_equal(lm_buf_cstr(&buf), "1234512345");
	assert_int_equal(lm_file_read(dir_fd, "none", &buf, &err), -ENOENT);
	assert_int_equal(lm_file_read(dir_fd, ".", &buf, &err), -EISDIR);
	assert_string_equal(lm_buf_cstr(&buf), "1234512345");
}

static void failed_read_gives_back_what_it_appended(void **state)
{
	enum { BYTES = 40000 };
	CLEANUP(lm_freep) char *data = calloc(1, BYTES);
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(BYTES);
	assert_int_equal(lm_file_replace(dir_fd, "big", data, BYTES, 0644, 0, NULL), 0);
	assert_int_equal(lm_buf_str(&buf, "x"), 0);
	assert_int_equal(lm_file_read(dir_fd, "big", &buf, NULL), -EMSGSIZE);
	assert_int_equal(buf.len, 1);
	assert_string_equal(lm_buf_cstr(&buf), "x");
}

static void whole_reads_and_writes(void **state)
{
	char text[7] = "";
	CLEANUP(lm_closep) int fd = openat(dir_fd, "a", O_RDWR | O_CREAT, 0644);
	assert_int_equal(lm_write_all(fd, "abc", 3, NULL), 0);
	assert_int_equal(lm_pwrite_all(fd, "DEF", 3, 3, NULL), 0);
	assert_int_equal(lm_pread_all(fd, text, 6, 0, NULL), 0);
	assert_string_equal(text, "abcDEF");
	assert_int_equal(lm_pread_all(fd, text, 6, 1, NULL), -ENODATA);
	assert_int_equal(lm_pread_all(fd, text, 0, 100, NULL), 0);
	assert_int_equal(lm_write_all(-1, "x", 1, NULL), -EBADF);
	assert_int_equal(lm_pwrite_all(-1, "x", 1, 0, NULL), -EBADF);
	assert_int_equal(lm_pread_all(-1, text, 1, 0, NULL), -EBADF);
}

static void full_device(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_closep) int fd = open("/dev/full", O_WRONLY);
	if (fd < 0)
		skip();
	assert_int_equal(lm_write_all(fd, "x", 1, &err), -ENOSPC);
	assert_string_equal(err.msg, "write: No space left on device");
}

static void makes_directories(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct stat st;
	assert_int_equal(lm_mkdir_p(dir_fd, "a/b//c/", 0750, &err), 0);
	assert_int_equal(lm_mkdir_p(dir_fd, "a/b/c", 0700, &err), 0);
	assert_int_equal(lm_mkdir_above(dir_fd, "a/d/socket", 0700, &err), 0);
	assert_int_equal(faccessat(dir_fd, "a/d", F_OK, 0), 0);
	assert_int_equal(faccessat(dir_fd, "a/d/socket", F_OK, 0), -1);
	assert_int_equal(lm_mkdir_above(dir_fd, "socket", 0700, &err), 0);
	assert_int_equal(fstatat(dir_fd, "a/b/c", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0750);
	assert_int_equal(lm_mkdir_p(dir_fd, "/", 0700, &err), 0);
	assert_int_equal(lm_mkdir_p(AT_FDCWD, dir_path, 0700, &err), 0);
	assert_int_equal(put("a/f", "", 0), 0);
	assert_int_equal(lm_mkdir_p(dir_fd, "a/f", 0700, &err), -ENOTDIR);
	assert_int_equal(lm_mkdir_p(dir_fd, "a/f/g", 0700, &err), -ENOTDIR);
	assert_int_equal(lm_mkdir_p(dir_fd, "", 0700, &err), -ENAMETOOLONG);
}

static void removes_trees(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_mkdir_p(dir_fd, "keep", 0755, &err), 0);
	assert_int_equal(put("keep/f", "x", 0), 0);
	assert_int_equal(lm_mkdir_p(dir_fd, "t/a/b", 0755, &err), 0);
	assert_int_equal(put("t/a/f", "x", 0), 0);
	assert_int_equal(symlinkat("../keep", dir_fd, "t/link"), 0);
	assert_int_equal(symlinkat("t", dir_fd, "outer"), 0);
	assert_int_equal(lm_remove_tree(dir_fd, "outer", &err), 0);
	assert_int_equal(faccessat(dir_fd, "t/a/f", F_OK, 0), 0);
	assert_int_equal(lm_remove_tree(dir_fd, "t", &err), 0);
	assert_int_equal(lm_remove_tree(dir_fd, "t", &err), 0);
	assert_content("keep/f", "x");
	assert_int_equal(lm_remove_tree(dir_fd, "keep/f", &err), 0);
	assert_int_equal(count_entries("keep"), 0);
	assert_int_equal(count_entries("."), 1);
	assert_int_equal(lm_remove_tree(dir_fd, "keep/none/x", &err), 0);
}

/* Deeper than descriptors or path names go, with files on the way. */
static void removes_deep_trees(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	int at = dup(dir_fd);
	for (int i = 0; i < 3000; i++) {
		assert_int_equal(mkdirat(at, "deep", 0755), 0);
		if (i % 100 == 0)
			assert_int_equal(lm_file_replace(at, "f", "x", 1, 0644, 0, &err), 0);
		int next = openat(at, "deep", O_RDONLY | O_DIRECTORY);
		assert_true(next >= 0);
		close(at);
		at = next;
	}
	close(at);
	assert_int_equal(lm_remove_tree(dir_fd, "deep", &err), 0);
	assert_int_equal(faccessat(dir_fd, "deep", F_OK, 0), -1);
	assert_int_equal(unlinkat(dir_fd, "f", 0), 0);
}

static void removal_stops_at_mounts(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/t/sub/m", dir_path);
	assert_int_equal(lm_mkdir_p(dir_fd, "t/sub/m", 0755, &err), 0);
	if (mount("none", path, "tmpfs", 0, "size=64k") < 0)
		skip();
	assert_int_equal(put("t/sub/m/kept", "x", 0), 0);
	int inner = lm_remove_tree(dir_fd, "t", &err);
	int outer = lm_remove_tree(dir_fd, "t/sub/m", NULL);
	int kept = faccessat(dir_fd, "t/sub/m/kept", F_OK, 0);
	assert_int_equal(umount(path), 0);
	assert_int_equal(inner, -EBUSY);
	assert_int_equal(outer, -EBUSY);
	assert_int_equal(kept, 0);
	assert_non_null(strstr(err.msg, "a file system is mounted there"));
}

static void temporary_files(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_closep) int fd = lm_file_tmp(dir_fd, ".", &err);
	if (fd == -EOPNOTSUPP)
		skip();
	assert_true(fd >= 0);
	assert_int_equal(lm_write_all(fd, "content", 7, &err), 0);
	assert_int_equal(count_entries("."), 0);
	assert_int_equal(lm_file_link(fd, dir_fd, "a", false, &err), 0);
	assert_content("a", "content");
	assert_int_equal(lm_file_link(fd, dir_fd, "a", false, &err), -EEXIST);
	assert_int_equal(put("b", "old", 0), 0);
	assert_int_equal(lm_file_link(fd, dir_fd, "b", true, &err), 0);
	assert_content("b", "content");
	assert_int_equal(lm_file_link(fd, dir_fd, "none/b", true, &err), -ENOENT);
	assert_int_equal(mkdirat(dir_fd, "d", 0755), 0);
	assert_int_equal(lm_file_link(fd, dir_fd, "d", true, &err), -EISDIR);
	assert_int_equal(count_entries("."), 3);
	assert_int_equal(lm_file_tmp(dir_fd, "none", &err), -ENOENT);
}

static void syncs_directories(void **state)
{
	assert_int_equal(lm_dir_sync(dir_fd, ".", NULL), 0);
	assert_int_equal(lm_dir_sync(dir_fd, "none", NULL), -ENOENT);
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make_dir, drop_dir)

static void opens_beneath(void **state)
{
	assert_int_equal(mkdirat(dir_fd, "in", 0755), 0);
	assert_int_equal(lm_file_replace(dir_fd, "in/file", "x", 1, 0644, 0, NULL), 0);
	assert_int_equal(lm_file_replace(dir_fd, "out", "x", 1, 0644, 0, NULL), 0);
	assert_int_equal(symlinkat("../out", dir_fd, "in/link"), 0);
	assert_int_equal(symlinkat("/etc/passwd", dir_fd, "in/absolute"), 0);
	CLEANUP(lm_closep) int in = lm_open_beneath(dir_fd, "in", O_DIRECTORY);
	assert_true(in >= 0);
	CLEANUP(lm_closep) int file = lm_open_beneath(in, "./../in/file", 0);
	assert_int_equal(file, -EXDEV);
	file = lm_open_beneath(in, "file", O_PATH);
	assert_true(file >= 0);
	assert_int_equal(lm_open_beneath(in, "link", 0), -EXDEV);
	assert_int_equal(lm_open_beneath(in, "absolute", 0), -EXDEV);
	assert_int_equal(lm_open_beneath(in, "/etc/passwd", 0), -EXDEV);
	assert_int_equal(lm_open_beneath(in, "none", 0), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_DIR(replaces_whole_files),
		IN_DIR(exclusive_refuses),
		IN_DIR(failed_replace_leaves_nothing),
		IN_DIR(reads_up_to_the_limit),
		IN_DIR(failed_read_gives_back_what_it_appended),
		IN_DIR(whole_reads_and_writes),
		cmocka_unit_test(full_device),
		IN_DIR(makes_directories),
		IN_DIR(opens_beneath),
		IN_DIR(removes_trees),
		IN_DIR(removes_deep_trees),
		IN_DIR(removal_stops_at_mounts),
		IN_DIR(temporary_files),
		IN_DIR(syncs_directories),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
