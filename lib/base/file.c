#include "base/file.h"

#include "base/str.h"

#include <dirent.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int lm_write_all(int fd, const void *data, size_t len, struct lm_err *err)
{
	const uint8_t *at = data;
	while (len > 0) {
		ssize_t n = write(fd, at, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return lm_err_sys(err, -errno, "write");
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

int lm_pwrite_all(int fd, const void *data, size_t len, off_t offset, struct lm_err *err)
{
	const uint8_t *at = data;
	while (len > 0) {
		ssize_t n = pwrite(fd, at, len, offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return lm_err_sys(err, -errno, "write");
		at += n;
		len -= (size_t)n;
		offset += n;
	}
	return 0;
}

int lm_pread_all(int fd, void *ret, size_t len, off_t offset, struct lm_err *err)
{
	uint8_t *at = ret;
	while (len > 0) {
		ssize_t n = pread(fd, at, len, offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return lm_err_sys(err, -errno, "read");
		if (n == 0)
			return lm_err_set(err, -ENODATA, "file ends %zu bytes early", len);
		at += n;
		len -= (size_t)n;
		offset += n;
	}
	return 0;
}

int lm_file_read(int dirfd, const char *path, struct lm_buf *buf, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return lm_err_sys(err, -errno, "open %s", path);
	for (;;) {
		/* One byte beyond the limit may be asked for only to learn that the file is too large. */
		uint8_t chunk[16 << 10];
		ssize_t n = read(fd, chunk, sizeof(chunk));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return lm_err_sys(err, -errno, "read %s", path);
		if (n == 0)
			break;
		int r = lm_buf_append(buf, chunk, (size_t)n);
		if (r == -EMSGSIZE)
			return lm_err_set(err, r, "%s is larger than %zu bytes", path, buf->max);
		if (r < 0)
			return lm_err_oom(err);
	}
	/* An empty file still gives a C string. */
	return lm_buf_append(buf, "", 0) < 0 ? lm_err_oom(err) : 0;
}

static int parent_of(const char *path, char *ret, size_t size)
{
	const char *slash = strrchr(path, '/');
	size_t len = slash ? (slash == path ? 1 : (size_t)(slash - path)) : 1;
	if (len >= size)
		return -ENAMETOOLONG;
	memcpy(ret, slash ? path : ".", len);
	ret[len] = '\0';
	return 0;
}

static void tmp_name(const char *path, char *ret, size_t size)
{
	static _Atomic(unsigned) counter;
	snprintf(ret, size, "%s.tmp.%d.%u", path, (int)getpid(), atomic_fetch_add(&counter, 1));
}

static int write_named(
	int dirfd, const char *tmp, const void *data, size_t len, mode_t mode, bool sync, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0)
		return lm_err_sys(err, -errno, "create %s", tmp);
	int r = lm_write_all(fd, data, len, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", tmp);
	if (fchmod(fd, mode) < 0)
		return lm_err_sys(err, -errno, "chmod %s", tmp);
	if (sync && fsync(fd) < 0)
		return lm_err_sys(err, -errno, "fsync %s", tmp);
	return 0;
}

int lm_file_replace(
	int dirfd, const char *path, const void *data, size_t len, mode_t mode, unsigned flags, struct lm_err *err)
{
	char tmp[PATH_MAX], parent[PATH_MAX];
	if (parent_of(path, parent, sizeof(parent)) < 0 || strlen(path) + 32 > sizeof(tmp))
		return lm_err_sys(err, -ENAMETOOLONG, "%s", path);
	tmp_name(path, tmp, sizeof(tmp));
	int r = write_named(dirfd, tmp, data, len, mode, flags & LM_FILE_SYNC, err);
	if (r == 0 && (flags & LM_FILE_EXCLUSIVE ? linkat(dirfd, tmp, dirfd, path, 0)
						 : renameat(dirfd, tmp, dirfd, path)) < 0)
		r = lm_err_sys(err, -errno, "create %s", path);
	if (r < 0 || flags & LM_FILE_EXCLUSIVE)
		unlinkat(dirfd, tmp, 0);
	if (r == 0 && flags & LM_FILE_SYNC)
		r = lm_dir_sync(dirfd, parent, err);
	return r;
}

int lm_mkdir_p(int dirfd, const char *path, mode_t mode, struct lm_err *err)
{
	char part[PATH_MAX];
	size_t len = strlen(path);
	if (len == 0 || len >= sizeof(part))
		return lm_err_set(err, -ENAMETOOLONG, "mkdir: path of %zu bytes", len);
	memcpy(part, path, len + 1);
	for (char *at = part + 1;; at++) {
		if (*at != '/' && *at != '\0')
			continue;
		char end = *at;
		*at = '\0';
		if (mkdirat(dirfd, part, mode) < 0 && errno != EEXIST)
			return lm_err_sys(err, -errno, "mkdir %s", part);
		if (!end)
			break;
		*at = end;
	}
	struct stat st;
	if (fstatat(dirfd, path, &st, 0) < 0)
		return lm_err_sys(err, -errno, "stat %s", path);
	if (!S_ISDIR(st.st_mode))
		return lm_err_sys(err, -ENOTDIR, "mkdir %s", path);
	return 0;
}

static void closedirp(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

/* Removes the content of the directory open as fd (which is consumed). dev: the file system to stay on. */
static int remove_content(int fd, dev_t dev, const char *path, struct lm_err *err)
{
	CLEANUP(closedirp) DIR *dir = fdopendir(fd);
	if (!dir) {
		int r = -errno;
		close(fd);
		return lm_err_sys(err, r, "open %s", path);
	}
	struct dirent *entry;
	while ((errno = 0, entry = readdir(dir))) {
		const char *name = entry->d_name;
		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
			continue;
		if (unlinkat(fd, name, 0) == 0 || errno == ENOENT)
			continue;
		if (errno != EISDIR && errno != EPERM)
			return lm_err_sys(err, -errno, "remove %s/%s", path, name);
		int sub = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		struct stat st;
		if (sub < 0 || fstat(sub, &st) < 0) {
			int r = -errno;
			if (sub >= 0)
				close(sub);
			return lm_err_sys(err, r, "open %s/%s", path, name);
		}
		if (st.st_dev != dev) {
			close(sub);
			return lm_err_set(err, -EBUSY, "remove %s/%s: a file system is mounted there", path, name);
		}
		int r = remove_content(sub, dev, name, err);
		if (r < 0)
			return lm_err_prefix(err, r, "%s", path);
		if (unlinkat(fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
			return lm_err_sys(err, -errno, "remove %s/%s", path, name);
	}
	return errno ? lm_err_sys(err, -errno, "list %s", path) : 0;
}

int lm_remove_tree(int dirfd, const char *path, struct lm_err *err)
{
	if (unlinkat(dirfd, path, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return lm_err_sys(err, -errno, "remove %s", path);
	int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : lm_err_sys(err, -errno, "open %s", path);
	struct stat st, parent_st;
	char parent[PATH_MAX];
	if (fstat(fd, &st) < 0 || parent_of(path, parent, sizeof(parent)) < 0 ||
		fstatat(dirfd, parent, &parent_st, 0) < 0) {
		int r = -errno;
		close(fd);
		return lm_err_sys(err, r, "stat %s", path);
	}
	if (st.st_dev != parent_st.st_dev) {
		close(fd);
		return lm_err_set(err, -EBUSY, "remove %s: a file system is mounted there", path);
	}
	int r = remove_content(fd, st.st_dev, path, err);
	if (r < 0)
		return r;
	if (unlinkat(dirfd, path, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return lm_err_sys(err, -errno, "remove %s", path);
	return 0;
}

int lm_file_tmp(int dirfd, const char *dir, struct lm_err *err)
{
	int fd = openat(dirfd, dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return lm_err_sys(err, -errno, "temporary file in %s", dir);
	return fd;
}

int lm_file_link(int fd, int dirfd, const char *path, bool replace, struct lm_err *err)
{
	char self[32], tmp[PATH_MAX];
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, self, dirfd, path, AT_SYMLINK_FOLLOW) == 0)
		return 0;
	if (errno != EEXIST || !replace)
		return lm_err_sys(err, -errno, "create %s", path);
	/* link(2) does not replace: take a name beside it and rename that. */
	if (strlen(path) + 32 > sizeof(tmp))
		return lm_err_sys(err, -ENAMETOOLONG, "%s", path);
	tmp_name(path, tmp, sizeof(tmp));
	if (linkat(AT_FDCWD, self, dirfd, tmp, AT_SYMLINK_FOLLOW) < 0)
		return lm_err_sys(err, -errno, "create %s", tmp);
	if (renameat(dirfd, tmp, dirfd, path) < 0) {
		int r = -errno;
		unlinkat(dirfd, tmp, 0);
		return lm_err_sys(err, r, "create %s", path);
	}
	return 0;
}

int lm_dir_sync(int dirfd, const char *path, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return lm_err_sys(err, -errno, "fsync %s", path);
	return 0;
}
