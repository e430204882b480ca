#include "repo/storage.h"

#include "base/file.h"
#include "base/str.h"
#include "repo/holder.h"

#include <dirent.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

#define SCRATCH "data/txn"
#define LOCK_FILE ".lamella-publish.lock"

/* A web server of another user reads all of it, whatever the publisher's umask. */
enum { DIR_MODE = 0755, FILE_MODE = 0644 };

enum { COPY_PIECE = 128 << 10, TMP_NAME_MAX = 64, NAME_TRIES = 100 };

struct dir_storage {
	struct lm_storage storage;
	int dirfd;
	char *scratch;
	int lock_fd; /* the publisher's thread only; -1 while not locked */
	_Atomic(unsigned) counter;
};

static struct dir_storage *of(struct lm_storage *storage)
{
	return (struct dir_storage *)storage;
}

static int check_path(const char *path, struct lm_err *err)
{
	size_t len = strlen(path);
	if (len == 0 || path[0] == '/' || strstr(path, "..") || path[len - 1] == '/')
		return lm_err_set(err, -EINVAL, "storage: not a path inside a repository: %s", path);
	return 0;
}

static bool content_addressed(const char *path)
{
	return lm_str_starts(path, "data/") && !lm_str_starts(path, SCRATCH "/");
}

static int make_dir(int dirfd, const char *path, struct lm_err *err)
{
	if (mkdirat(dirfd, path, DIR_MODE) < 0)
		return errno == EEXIST ? 0 : lm_err_sys(err, -errno, "mkdir %s", path);
	/* What mkdir made of the mode is the umask's. */
	return fchmodat(dirfd, path, DIR_MODE, 0) < 0 ? lm_err_sys(err, -errno, "chmod %s", path) : 0;
}

static int make_scratch(int dirfd, struct lm_err *err)
{
	int r = make_dir(dirfd, "data", err);
	return r < 0 ? r : make_dir(dirfd, SCRATCH, err);
}

static int make_parent(int dirfd, const char *path, struct lm_err *err)
{
	char parent[PATH_MAX];
	for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
		if ((size_t)(slash - path) >= sizeof(parent))
			return lm_err_sys(err, -ENAMETOOLONG, "%s", path);
		*(char *)mempcpy(parent, path, (size_t)(slash - path)) = '\0';
		int r = make_dir(dirfd, parent, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int dir_has(struct lm_storage *storage, const char *path, struct lm_err *err)
{
	int r = check_path(path, err);
	if (r < 0)
		return r;
	if (faccessat(of(storage)->dirfd, path, F_OK, 0) == 0)
		return 1;
	return errno == ENOENT ? 0 : lm_err_sys(err, -errno, "%s", path);
}

static int dir_get(struct lm_storage *storage, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	int r = check_path(path, err);
	if (r < 0)
		return r;
	size_t before = ret->len;
	r = lm_file_read(of(storage)->dirfd, path, ret, err);
	if (r < 0 && ret->data) {
		ret->len = before;
		ret->data[before] = '\0';
	}
	return r;
}

/* Copies all of `from`, whatever its position, to `to` at its position; inside the kernel where both sides allow it. */
static int copy_all(int from, int to, struct lm_err *err)
{
	off_t at = 0;
	ssize_t n;
	while ((n = copy_file_range(from, &at, to, NULL, 1 << 30, 0)) > 0)
		;
	/* Zero at once is also the answer of some special file systems: the plain way has the last word. */
	CLEANUP(lm_freep) uint8_t *piece = malloc(COPY_PIECE);
	if (!piece)
		return lm_err_oom(err);
	for (;;) {
		n = TEMP_FAILURE_RETRY(pread(from, piece, COPY_PIECE, at));
		if (n < 0)
			return lm_err_sys(err, -errno, "read");
		if (n == 0)
			return 0;
		int r = lm_write_all(to, piece, (size_t)n, err);
		if (r < 0)
			return r;
		at += n;
	}
}

static int dir_get_file(struct lm_storage *storage, const char *path, int fd, struct lm_err *err)
{
	int r = check_path(path, err);
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int from = openat(of(storage)->dirfd, path, O_RDONLY | O_CLOEXEC);
	if (from < 0)
		return lm_err_sys(err, -errno, "%s", path);
	r = copy_all(from, fd, err);
	return r < 0 ? lm_err_prefix(err, r, "%s", path) : 0;
}

/*
 * A file in scratch: nameless where the file system can do that, so that a crash leaves nothing behind. One with a name
 * is locked by its writer as long as that lives: sweep_scratch() removes those that nobody holds.
 */
struct tmp {
	int dirfd;
	int fd;
	char name[TMP_NAME_MAX]; /* "" when nameless */
};

static void tmp_done(struct tmp *tmp)
{
	lm_closep(&tmp->fd);
	if (tmp->name[0])
		unlinkat(tmp->dirfd, tmp->name, 0);
}

#define PUT_NAME "put."
#define SWAP_NAME "swap."

static void tmp_make_name(struct dir_storage *s, const char *prefix, char ret[TMP_NAME_MAX])
{
	snprintf(ret, TMP_NAME_MAX, SCRATCH "/%s%d.%u", prefix, (int)getpid(), atomic_fetch_add(&s->counter, 1));
}

/* -EAGAIN: the name is taken, or the sweep came between making and locking the file. */
static int tmp_open_named(struct dir_storage *s, struct tmp *tmp)
{
	char name[TMP_NAME_MAX];
	struct stat st;
	tmp_make_name(s, PUT_NAME, name);
	tmp->fd = openat(s->dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE);
	if (tmp->fd < 0)
		return errno == EEXIST ? -EAGAIN : -errno;
	int r = flock(tmp->fd, LOCK_EX) < 0 || fstat(tmp->fd, &st) < 0 ? -errno : 0;
	if (r == 0 && st.st_nlink == 0) {
		lm_closep(&tmp->fd);
		return -EAGAIN;
	}
	memcpy(tmp->name, name, sizeof(name)); /* tmp_done()'s, whatever else comes */
	return r;
}

static int tmp_open_once(struct dir_storage *s, struct tmp *tmp)
{
	tmp->fd = openat(s->dirfd, SCRATCH, O_TMPFILE | O_RDWR | O_CLOEXEC, FILE_MODE);
	if (tmp->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR)
		return -errno;
	int r = -EAGAIN;
	for (unsigned i = 0; i < NAME_TRIES && r == -EAGAIN; i++)
		r = tmp_open_named(s, tmp);
	return r;
}

static int tmp_open(struct dir_storage *s, struct tmp *tmp, struct lm_err *err)
{
	*tmp = (struct tmp){.dirfd = s->dirfd, .fd = -1};
	int r = tmp_open_once(s, tmp);
	if (r == -ENOENT) {
		r = make_scratch(s->dirfd, err);
		if (r < 0)
			return r;
		r = tmp_open_once(s, tmp);
	}
	if (r < 0)
		return lm_err_sys(err, r, "temporary file in " SCRATCH);
	return fchmod(tmp->fd, FILE_MODE) < 0 ? lm_err_sys(err, -errno, "chmod") : 0;
}

/* Gives the file a (further) name. */
static int tmp_link_as(const struct tmp *tmp, const char *path)
{
	char self[32];
	snprintf(self, sizeof(self), "/proc/self/fd/%d", tmp->fd);
	int r = tmp->name[0] ? linkat(tmp->dirfd, tmp->name, tmp->dirfd, path, 0)
			     : linkat(AT_FDCWD, self, tmp->dirfd, path, AT_SYMLINK_FOLLOW);
	return r < 0 ? -errno : 0;
}

/* The name is free, or taken by the same content already. */
static int tmp_commit_object(struct tmp *tmp, const char *path, struct lm_err *err)
{
	int r = tmp_link_as(tmp, path);
	if (r == -ENOENT) {
		r = make_parent(tmp->dirfd, path, err);
		if (r < 0)
			return r;
		r = tmp_link_as(tmp, path);
	}
	return r < 0 && r != -EEXIST ? lm_err_sys(err, r, "create %s", path) : 0;
}

static int sync_parent(int dirfd, const char *path, struct lm_err *err)
{
	const char *slash = strrchr(path, '/');
	char parent[PATH_MAX];
	snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
	return lm_dir_sync(dirfd, parent, err);
}

/* A name may be left over from a dead process of the same number. */
static int tmp_give_name(struct dir_storage *s, struct tmp *tmp, struct lm_err *err)
{
	char name[TMP_NAME_MAX];
	int r = flock(tmp->fd, LOCK_EX) < 0 ? -errno : -EEXIST;
	for (unsigned i = 0; i < NAME_TRIES && r == -EEXIST; i++) {
		tmp_make_name(s, SWAP_NAME, name);
		r = tmp_link_as(tmp, name);
	}
	if (r < 0)
		return lm_err_sys(err, r, "name for a temporary file in " SCRATCH);
	memcpy(tmp->name, name, sizeof(name));
	return 0;
}

/* Durably replaces what is there. link(2) cannot replace, rename(2) can: a nameless file gets a name in scratch first.
 */
static int tmp_commit_replacing(struct dir_storage *s, struct tmp *tmp, const char *path, struct lm_err *err)
{
	if (fsync(tmp->fd) < 0)
		return lm_err_sys(err, -errno, "fsync %s", path);
	int r = tmp->name[0] ? 0 : tmp_give_name(s, tmp, err);
	if (r == 0)
		r = make_parent(tmp->dirfd, path, err);
	if (r < 0)
		return r;
	if (renameat(tmp->dirfd, tmp->name, tmp->dirfd, path) < 0)
		return lm_err_sys(err, -errno, "create %s", path);
	tmp->name[0] = '\0';
	return sync_parent(tmp->dirfd, path, err);
}

/* What is to be stored: a file, or data where fd is -1. */
struct source {
	const void *data;
	size_t len;
	int fd;
};

static int store(struct dir_storage *s, const char *path, const struct source *source, struct lm_err *err)
{
	int r = check_path(path, err);
	if (r < 0)
		return r;
	bool object = content_addressed(path);
	if (object && faccessat(s->dirfd, path, F_OK, 0) == 0)
		return 0;
	CLEANUP(tmp_done) struct tmp tmp = {.fd = -1};
	r = tmp_open(s, &tmp, err);
	if (r == 0)
		r = source->fd >= 0 ? copy_all(source->fd, tmp.fd, err)
				    : lm_write_all(tmp.fd, source->data, source->len, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", path);
	return object ? tmp_commit_object(&tmp, path, err) : tmp_commit_replacing(s, &tmp, path, err);
}

static int dir_put(struct lm_storage *storage, const char *path, const void *data, size_t len, struct lm_err *err)
{
	return store(of(storage), path, &(struct source){data, len, -1}, err);
}

static int dir_put_file(struct lm_storage *storage, const char *path, int fd, struct lm_err *err)
{
	return store(of(storage), path, &(struct source){.fd = fd}, err);
}

/* NULL with errno. */
static DIR *open_list(int dirfd, const char *path)
{
	CLEANUP(lm_closep) int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (dir)
		fd = -1; /* the stream's now */
	return dir;
}

/* Entries may go while the directory is read. */
static int list_entry(DIR *dir, const char *name, lm_storage_list_fn *fn, void *arg, struct lm_err *err)
{
	struct stat st;
	if (fstatat(dirfd(dir), name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : lm_err_sys(err, -errno, "%s", name);
	if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
		return 0;
	return fn(arg, name, S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0);
}

static int list_dir(int dirfd, const char *path, lm_storage_list_fn *fn, void *arg, struct lm_err *err)
{
	CLEANUP(lm_closedirp) DIR *dir = open_list(dirfd, path);
	if (!dir)
		return errno == ENOENT ? 0 : lm_err_sys(err, -errno, "list %s", path);
	for (;;) {
		errno = 0;
		const struct dirent *entry = readdir(dir);
		if (!entry)
			return errno ? lm_err_sys(err, -errno, "list %s", path) : 0;
		int r = list_entry(dir, entry->d_name, fn, arg, err);
		if (r != 0)
			return r;
	}
}

static int dir_list(struct lm_storage *storage, const char *dir, lm_storage_list_fn *fn, void *arg, struct lm_err *err)
{
	int r = *dir ? check_path(dir, err) : 0;
	return r < 0 ? r : list_dir(of(storage)->dirfd, *dir ? dir : ".", fn, arg, err);
}

static int dir_remove(struct lm_storage *storage, const char *path, struct lm_err *err)
{
	int r = check_path(path, err);
	if (r < 0)
		return r;
	if (unlinkat(of(storage)->dirfd, path, 0) < 0 && errno != ENOENT)
		return lm_err_sys(err, -errno, "remove %s", path);
	return 0;
}

static int dir_alias(struct lm_storage *storage, const char *path, const char *target, struct lm_err *err)
{
	struct dir_storage *s = of(storage);
	char name[TMP_NAME_MAX];
	int r = check_path(path, err);
	if (r == 0)
		r = check_path(target, err);
	if (r == 0 && strchr(path, '/'))
		r = lm_err_set(err, -EINVAL, "storage: alias %s is not in the top directory", path);
	if (r == 0)
		r = make_scratch(s->dirfd, err);
	if (r < 0)
		return r;
	tmp_make_name(s, SWAP_NAME, name);
	if (symlinkat(target, s->dirfd, name) < 0)
		return lm_err_sys(err, -errno, "symlink %s", name);
	if (renameat(s->dirfd, name, s->dirfd, path) < 0) {
		r = -errno;
		unlinkat(s->dirfd, name, 0);
		return lm_err_sys(err, r, "create %s", path);
	}
	return sync_parent(s->dirfd, path, err);
}

static int dir_sync(struct lm_storage *storage, struct lm_err *err)
{
	return syncfs(of(storage)->dirfd) < 0 ? lm_err_sys(err, -errno, "syncing the repository's file system") : 0;
}

static const char *dir_scratch(struct lm_storage *storage)
{
	return of(storage)->scratch;
}

static struct lm_holder_text describe_holder(int fd)
{
	char text[LM_HOLDER_TEXT_MAX] = "";
	struct lm_holder holder = {0};
	if (pread(fd, text, sizeof(text) - 1, 0) > 0)
		holder = lm_holder_parse(text);
	return lm_holder_describe(&holder);
}

static int write_holder(int fd, struct lm_err *err)
{
	const struct lm_holder self = lm_holder_self();
	const struct lm_holder_text text = lm_holder_format(&self);
	if (ftruncate(fd, 0) < 0)
		return lm_err_sys(err, -errno, "truncate %s", LOCK_FILE);
	int r = lm_pwrite_all(fd, text.s, strlen(text.s), 0, err);
	return r < 0 ? lm_err_prefix(err, r, "%s", LOCK_FILE) : 0;
}

/* The kernel wakes who waits. */
static int take_lock(int fd, const struct lm_storage_wait *wait, struct lm_err *err)
{
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK) {
		const struct lm_holder_text holder = describe_holder(fd);
		if (!wait)
			return lm_err_set(err, -EBUSY, "%s", holder.s);
		wait->waiting(wait->arg, holder.s);
		if (TEMP_FAILURE_RETRY(flock(fd, LOCK_EX)) == 0)
			return 0;
	}
	return lm_err_sys(err, -errno, "lock %s", LOCK_FILE);
}

/* A temporary file whose writer is dead has no lock. Aliases cannot be locked: only whoever holds ours makes them. */
static int sweep_file(void *arg, const char *name, uint64_t size)
{
	const struct dir_storage *s = arg;
	char path[NAME_MAX + sizeof(SCRATCH) + 1];
	(void)size;
	if (!lm_str_starts(name, PUT_NAME) && !lm_str_starts(name, SWAP_NAME))
		return 0;
	snprintf(path, sizeof(path), SCRATCH "/%s", name);
	CLEANUP(lm_closep) int fd = openat(s->dirfd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0 ? flock(fd, LOCK_EX | LOCK_NB) == 0 : errno == ELOOP)
		unlinkat(s->dirfd, path, 0); /* what stays, stays until the next publisher comes */
	return 0;
}

/*
 * flock(2) on a file that is never removed: the lock belongs to the open file, ends with the process however that dies,
 * and keeps apart two openings in one process, too. What is inside is for the message only.
 */
static int dir_lock(struct lm_storage *storage, const struct lm_storage_wait *wait, struct lm_err *err)
{
	struct dir_storage *s = of(storage);
	if (s->lock_fd >= 0)
		return 0;
	CLEANUP(lm_closep) int fd = openat(s->dirfd, LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, FILE_MODE);
	if (fd < 0)
		return lm_err_sys(err, -errno, "open %s", LOCK_FILE);
	int r = take_lock(fd, wait, err);
	if (r == 0)
		r = write_holder(fd, err);
	if (r == 0)
		r = make_scratch(s->dirfd, err);
	if (r == 0)
		r = list_dir(s->dirfd, SCRATCH, sweep_file, s, err);
	if (r < 0)
		return r;
	s->lock_fd = STEAL_FD(fd);
	return 0;
}

static void dir_free(struct lm_storage *storage)
{
	struct dir_storage *s = of(storage);
	lm_closep(&s->lock_fd);
	lm_closep(&s->dirfd);
	free(s->scratch);
	free(s);
}

static const struct lm_storage_ops dir_ops = {
	.has = dir_has,
	.get = dir_get,
	.get_file = dir_get_file,
	.put = dir_put,
	.put_file = dir_put_file,
	.list = dir_list,
	.remove = dir_remove,
	.alias = dir_alias,
	.sync = dir_sync,
	.scratch = dir_scratch,
	.lock = dir_lock,
	.free = dir_free,
};

static int make_layout(int dirfd, struct lm_err *err)
{
	int r = make_scratch(dirfd, err);
	for (unsigned i = 0; r == 0 && i < 256; i++) {
		char name[16];
		snprintf(name, sizeof(name), "data/%02x", i);
		r = make_dir(dirfd, name, err);
	}
	return r;
}

static int open_dir(const char *dir, bool create, struct lm_err *err)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 || errno != ENOENT || !create)
		return fd < 0 ? lm_err_sys(err, -errno, "repository directory %s", dir) : fd;
	int r = lm_mkdir_p(AT_FDCWD, dir, DIR_MODE, err);
	if (r < 0)
		return r;
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fchmod(fd, DIR_MODE) < 0) {
		r = -errno;
		lm_closep(&fd);
		return lm_err_sys(err, r, "repository directory %s", dir);
	}
	return fd;
}

int lm_storage_dir_open(const char *dir, bool create, struct lm_storage **ret, struct lm_err *err)
{
	CLEANUP(lm_closep) int dirfd = open_dir(dir, create, err);
	if (dirfd < 0)
		return dirfd;
	int r = create ? make_layout(dirfd, err) : 0;
	if (r < 0)
		return lm_err_prefix(err, r, "repository directory %s", dir);
	CLEANUP(lm_freep) char *real = realpath(dir, NULL);
	if (!real)
		return lm_err_sys(err, -errno, "repository directory %s", dir);
	CLEANUP(lm_freep) char *scratch = lm_str_printf("%s/" SCRATCH, real);
	struct dir_storage *s = scratch ? calloc(1, sizeof(*s)) : NULL;
	if (!s)
		return lm_err_oom(err);
	s->storage.ops = &dir_ops;
	s->dirfd = STEAL_FD(dirfd);
	s->scratch = STEAL(scratch);
	s->lock_fd = -1;
	*ret = &s->storage;
	return 0;
}
