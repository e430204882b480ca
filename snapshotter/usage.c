#include "snapshotter/usage.h"

#include <dirent.h>
#include <fcntl.h>
#include <search.h>
#include <string.h>
#include <sys/stat.h>

#define DEPTH_MAX 1000 /* each level holds a descriptor */

struct count {
	struct lm_usage usage;
	dev_t device;
	void *seen; /* tree of inode numbers that have several names */
};

static int compare_inodes(const void *a, const void *b)
{
	ino_t x = *(const ino_t *)a, y = *(const ino_t *)b;
	return x < y ? -1 : x > y;
}

/* True when the inode was counted under another name before. */
static int seen_before(struct count *count, ino_t inode, struct lm_err *err)
{
	ino_t *key = malloc(sizeof(*key));
	if (!key)
		return lm_err_oom(err);
	*key = inode;
	ino_t **found = tsearch(key, &count->seen, compare_inodes);
	if (found && *found == key)
		return false;
	free(key);
	return found ? true : lm_err_oom(err);
}

static int add(struct count *count, const struct stat *st, struct lm_err *err)
{
	if (!S_ISDIR(st->st_mode) && st->st_nlink > 1) {
		int r = seen_before(count, st->st_ino, err);
		if (r != 0)
			return r < 0 ? r : 0;
	}
	count->usage.size_bytes += st->st_blocks * 512;
	count->usage.inodes++;
	return 0;
}

static int count_directory(struct count *count, int fd, unsigned depth, struct lm_err *err);

static int count_entry(struct count *count, int dir_fd, const char *name, unsigned depth, struct lm_err *err)
{
	struct stat st;
	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : lm_err_sys(err, -errno, "stat %s", name);
	if (st.st_dev != count->device)
		return 0;
	int r = add(count, &st, err);
	if (r < 0 || !S_ISDIR(st.st_mode))
		return r;
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : lm_err_sys(err, -errno, "open %s", name);
	return count_directory(count, fd, depth + 1, err);
}

/* Owns fd. */
static int count_directory(struct count *count, int fd, unsigned depth, struct lm_err *err)
{
	DIR *dir = depth > DEPTH_MAX ? NULL : fdopendir(fd);
	if (!dir) {
		int r = depth > DEPTH_MAX ? -ELOOP : -errno;
		close(fd);
		return lm_err_sys(err, r, "list a directory");
	}
	int r = 0;
	struct dirent *entry;
	while (r == 0 && (errno = 0, entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			r = count_entry(count, fd, entry->d_name, depth, err);
	if (r == 0 && errno)
		r = lm_err_sys(err, -errno, "list a directory");
	closedir(dir);
	return r;
}

int lm_usage_count(int fd, struct lm_usage *ret, struct lm_err *err)
{
	struct stat st;
	struct count count = {0};
	int own_fd = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (own_fd < 0 || fstat(own_fd, &st) < 0) {
		int r = lm_err_sys(err, -errno, "open a directory");
		lm_closep(&own_fd);
		return r;
	}
	count.device = st.st_dev;
	int r = add(&count, &st, err);
	if (r < 0)
		close(own_fd);
	else
		r = count_directory(&count, own_fd, 0, err);
	tdestroy(count.seen, free);
	if (r == 0)
		*ret = count.usage;
	return r;
}
