#include "base/file.h"

#include "base/str.h"

#include <dirent.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>

int lm_open_beneath(int dirfd, const char *path, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned)(flags | O_RDONLY | O_CLOEXEC | (flags & O_PATH ? 0 : O_NOCTTY)),
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	int fd = (int)syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

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

static int read_to_end(int fd, const char *path, struct lm_buf *buf, struct lm_err *err)
{
	for (;;) {
		/* Read aside: the limit is passed only by a file that is too large, not by asking for its end. */
		uint8_t chunk[16 << 10];
		ssize_t n = read(fd, chunk, sizeof(chunk));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return lm_err_sys(err, -errno, "read %s", path);
		/* Also an empty file gives a C string. */
		int r = lm_buf_append(buf, chunk, (size_t)n);
		if (r == -EMSGSIZE)
			return lm_err_set(err, r, "%s is larger than %zu bytes", path, buf->max);
		if (r < 0)
			return lm_err_oom(err);
		if (n == 0)
			return 0;
	}
}

int lm_file_read(int dirfd, const char *path, struct lm_buf *buf, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	size_t before = buf->len;
	if (fd < 0)
		return lm_err_sys(err, -errno, "open %s", path);
	int r = read_to_end(fd, path, buf, err);
	if (r < 0 && buf->data) {
		buf->len = before;
		buf->data[before] = '\0';
	}
	return r;
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

/*
 * Random and not made of the process id: in containers that is often the same after a restart, and a name left by
 * a crash would be in the way.
 */
static int tmp_name(const char *path, char *ret, size_t size, struct lm_err *err)
{
	uint64_t random;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return lm_err_sys(err, -errno, "random number");
	int len = snprintf(ret, size, "%s.tmp.%016llx", path, (unsigned long long)random);
	return (size_t)len >= size ? lm_err_sys(err, -ENAMETOOLONG, "%s", path) : 0;
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
	if (parent_of(path, parent, sizeof(parent)) < 0)
		return lm_err_sys(err, -ENAMETOOLONG, "%s", path);
	int r = tmp_name(path, tmp, sizeof(tmp), err);
	if (r < 0)
		return r;
	r = write_named(dirfd, tmp, data, len, mode, flags & LM_FILE_SYNC, err);
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

int lm_mkdir_above(int dirfd, const char *path, mode_t mode, struct lm_err *err)
{
	char parent[PATH_MAX];
	if (parent_of(path, parent, sizeof(parent)) < 0)
		return lm_err_sys(err, -ENAMETOOLONG, "%s", path);
	return lm_mkdir_p(dirfd, parent, mode, err);
}

void lm_closedirp(DIR **dir)
{
	if (*dir)
		closedir(*dir);
	*dir = NULL;
}

/*
 * A tree that is being removed. Each level on the way down costs a descriptor and memory, so what lies deeper than
 * DEPTH_MAX is moved up into the top directory, which is listed again until nothing was moved.
 */
enum { DEPTH_MAX = 64 };

struct removal {
	int top;   /* borrowed */
	dev_t dev; /* the file system to stay on */
	bool moved;
};

static int remove_entry(struct removal *removal, int fd, const char *name, unsigned depth, struct lm_err *err);

/* Removes the content of the directory open as fd (which is consumed). */
static int remove_content(struct removal *removal, int fd, const char *path, unsigned depth, struct lm_err *err)
{
	CLEANUP(lm_closedirp) DIR *dir = fdopendir(fd);
	if (!dir) {
		int r = -errno;
		close(fd);
		return lm_err_sys(err, r, "open %s", path);
	}
	struct dirent *entry;
	while ((errno = 0, entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		int r = remove_entry(removal, fd, entry->d_name, depth, err);
		if (r < 0)
			return lm_err_prefix(err, r, "in %s", path);
	}
	return errno ? lm_err_sys(err, -errno, "list %s", path) : 0;
}

static int move_up(struct removal *removal, int fd, const char *name, struct lm_err *err)
{
	char moved[64];
	int r = tmp_name("lamella", moved, sizeof(moved), err);
	if (r < 0)
		return r;
	if (renameat2(fd, name, removal->top, moved, RENAME_NOREPLACE) < 0)
		return lm_err_sys(err, -errno, "move %s up", name);
	removal->moved = true;
	return 0;
}

/* Opens the directory fd/name. -ENOENT: somebody else has removed it. refused: why unlink(2) did not. */
static int open_subdirectory(dev_t dev, int fd, const char *name, int refused, struct lm_err *err)
{
	CLEANUP(lm_closep) int sub = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	if (sub < 0 && errno == ENOENT)
		return -ENOENT;
	if (sub < 0 && errno == ENOTDIR)
		return lm_err_sys(err, refused, "remove %s", name);
	if (sub < 0 || fstat(sub, &st) < 0)
		return lm_err_sys(err, -errno, "open %s", name);
	if (st.st_dev != dev)
		return lm_err_set(err, -EBUSY, "remove %s: a file system is mounted there", name);
	return STEAL_FD(sub);
}

static int remove_entry(struct removal *removal, int fd, const char *name, unsigned depth, struct lm_err *err)
{
	if (unlinkat(fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return lm_err_sys(err, -errno, "remove %s", name);
	int sub = open_subdirectory(removal->dev, fd, name, -errno, err);
	if (sub < 0)
		return sub == -ENOENT ? 0 : sub;
	if (depth == DEPTH_MAX) {
		close(sub);
		return move_up(removal, fd, name, err);
	}
	int r = remove_content(removal, sub, name, depth + 1, err);
	if (r < 0)
		return r;
	if (unlinkat(fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return lm_err_sys(err, -errno, "remove %s", name);
	return 0;
}

static int remove_top(int top, dev_t dev, const char *path, struct lm_err *err)
{
	struct removal removal = {.top = top, .dev = dev, .moved = true};
	while (removal.moved) {
		removal.moved = false;
		int fd = openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			return lm_err_sys(err, -errno, "open %s", path);
		int r = remove_content(&removal, fd, path, 1, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int lm_remove_tree(int dirfd, const char *path, struct lm_err *err)
{
	struct stat parent_st;
	char parent[PATH_MAX];
	if (unlinkat(dirfd, path, 0) == 0 || errno == ENOENT)
		return 0;
	int refused = -errno;
	if (refused != -EISDIR && refused != -EPERM)
		return lm_err_sys(err, refused, "remove %s", path);
	if (parent_of(path, parent, sizeof(parent)) < 0)
		return lm_err_sys(err, -ENAMETOOLONG, "%s", path);
	if (fstatat(dirfd, parent, &parent_st, 0) < 0)
		return lm_err_sys(err, -errno, "stat %s", parent);
	CLEANUP(lm_closep) int top = open_subdirectory(parent_st.st_dev, dirfd, path, refused, err);
	if (top < 0)
		return top == -ENOENT ? 0 : top;
	int r = remove_top(top, parent_st.st_dev, path, err);
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
	int r = tmp_name(path, tmp, sizeof(tmp), err);
	if (r < 0)
		return r;
	if (linkat(AT_FDCWD, self, dirfd, tmp, AT_SYMLINK_FOLLOW) < 0)
		return lm_err_sys(err, -errno, "create %s", tmp);
	if (renameat(dirfd, tmp, dirfd, path) < 0) {
		r = -errno;
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
