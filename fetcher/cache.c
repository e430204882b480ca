#include "fetcher/cache.h"

#include "base/file.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { FOLDERS = 256 };

struct lm_cache {
	char *dir;	/* constant after new */
	int dir_fd;	/* DIR, locked; constant after new */
	int objects_fd; /* DIR/cache; constant after new */
	pthread_t counter;
	bool counter_runs;

	_Atomic(bool) stop;
	_Atomic(uint64_t) memory; /* bytes held by transactions outside the disk */
	_Atomic(uint64_t) uncached;
	_Atomic(unsigned) names; /* for temporary names */

	/* A name and its share in the sums change together, so that the count at start is exact. */
	struct lm_lock lock;
	uint64_t bytes, objects; /* under lock: of folders below `counted` */
	unsigned counted;	 /* under lock */
};

struct lm_cache_txn {
	struct lm_cache *cache;
	int fd;
	char *name;	 /* in DIR/txn, where the file system has no O_TMPFILE */
	uint64_t len;	 /* written so far */
	uint64_t memory; /* our part of cache->memory; 0 while on disk */
	bool in_memory;
};

static const char *object_name(const struct lm_object_ref *ref, char ret[LM_OBJECT_PATH_MAX])
{
	return lm_object_path(&ref->hash, ref->kind, ret) + strlen("data/");
}

static int lock_dir(struct lm_cache *cache, struct lm_err *err)
{
	cache->dir_fd = open(cache->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cache->dir_fd < 0)
		return lm_err_sys(err, -errno, "open %s", cache->dir);
	if (flock(cache->dir_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		return lm_err_set(err, -EBUSY, "%s is in use by another process", cache->dir);
	return lm_err_sys(err, -errno, "lock %s", cache->dir);
}

/* Empties DIR/txn: what lies there was left by a process that died. */
static int make_dirs(struct lm_cache *cache, struct lm_err *err)
{
	static const char *const subs[] = {"cache", "txn"};
	int r = lm_mkdir_p(AT_FDCWD, cache->dir, 0700, err);
	if (r == 0)
		r = lock_dir(cache, err);
	for (size_t i = 0; i < ARRAY_LEN(subs) && r == 0; i++) {
		CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", cache->dir, subs[i]);
		if (!path)
			return lm_err_oom(err);
		if (i == 1)
			r = lm_remove_tree(AT_FDCWD, path, err);
		if (r == 0)
			r = lm_mkdir_p(AT_FDCWD, path, 0700, err);
		if (r == 0 && i == 0) {
			cache->objects_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			if (cache->objects_fd < 0)
				return lm_err_sys(err, -errno, "open %s", path);
		}
	}
	return r;
}

static void closedirp(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

static void count_folder(struct lm_cache *cache, unsigned folder)
{
	lm_lock_assert(&cache->lock);
	char name[3];
	snprintf(name, sizeof(name), "%02x", folder);
	int fd = openat(cache->objects_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return; /* made when something comes into it */
	CLEANUP(closedirp) DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		lm_log(LM_LOG_WARN, "cache folder can't be counted", LM_KV("folder", "%s/cache/%s", cache->dir, name),
			LM_KV("cause", "%s", strerror(errno)));
		if (fd >= 0)
			close(fd);
		return;
	}
	struct dirent *entry;
	struct stat st;
	while ((entry = readdir(dir)))
		if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode)) {
			cache->objects++;
			cache->bytes += (uint64_t)st.st_size;
		}
}

static void *count_objects(void *arg)
{
	struct lm_cache *cache = arg;
	for (unsigned i = 0; i < FOLDERS && !atomic_load(&cache->stop); i++) {
		LM_LOCKED(&cache->lock);
		count_folder(cache, i);
		cache->counted = i + 1;
	}
	return NULL;
}

int lm_cache_new(const char *dir, struct lm_cache **ret, struct lm_err *err)
{
	CLEANUP(lm_cache_freep) struct lm_cache *cache = calloc(1, sizeof(*cache));
	if (!cache)
		return lm_err_oom(err);
	cache->dir_fd = cache->objects_fd = -1;
	lm_lock_init(&cache->lock);
	if (!(cache->dir = strdup(dir)))
		return lm_err_oom(err);
	int r = make_dirs(cache, err);
	if (r < 0)
		return lm_err_prefix(err, r, "cache");
	r = -pthread_create(&cache->counter, NULL, count_objects, cache);
	if (r < 0)
		return lm_err_sys(err, r, "cache: thread");
	cache->counter_runs = true;
	pthread_setname_np(cache->counter, "cache count");
	*ret = STEAL(cache);
	return 0;
}

void lm_cache_free(struct lm_cache *cache)
{
	if (!cache)
		return;
	atomic_store(&cache->stop, true);
	if (cache->counter_runs)
		pthread_join(cache->counter, NULL);
	lm_closep(&cache->objects_fd);
	lm_closep(&cache->dir_fd);
	lm_lock_done(&cache->lock);
	free(cache->dir);
	free(cache);
}

int lm_cache_open(struct lm_cache *cache, const struct lm_object_ref *ref)
{
	char buf[LM_OBJECT_PATH_MAX];
	struct stat st;
	CLEANUP(lm_closep) int fd = openat(cache->objects_fd, object_name(ref, buf), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || (ref->size != LM_SIZE_UNKNOWN && (uint64_t)st.st_size != ref->size))
		return -ENOENT;
	return STEAL_FD(fd);
}

char *lm_cache_path(const struct lm_cache *cache, const struct lm_object_ref *ref)
{
	char buf[LM_OBJECT_PATH_MAX];
	return lm_str_printf("%s/cache/%s", cache->dir, object_name(ref, buf));
}

static bool means_full(int code)
{
	return code == -ENOSPC || code == -EDQUOT;
}

/* Takes len more bytes of the memory that all transactions share. */
static int take_memory(struct lm_cache_txn *txn, uint64_t len, struct lm_err *err)
{
	struct lm_cache *cache = txn->cache;
	uint64_t before = atomic_fetch_add(&cache->memory, len);
	if (before + len > LM_CACHE_MEMORY_MAX) {
		atomic_fetch_sub(&cache->memory, len);
		return lm_err_set(err, -ENOSPC,
			"the cache's disk is full, and so are the %d MiB of memory in its place",
			LM_CACHE_MEMORY_MAX >> 20);
	}
	txn->memory += len;
	return 0;
}

static void drop_disk_file(struct lm_cache_txn *txn)
{
	lm_closep(&txn->fd);
	if (txn->name)
		unlink(txn->name);
	free(STEAL(txn->name));
}

/* The disk is full: what was written moves to memory, and the disk gets its blocks back. */
static int move_to_memory(struct lm_cache_txn *txn, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = memfd_create("lamella-object", MFD_CLOEXEC);
	if (fd < 0)
		return lm_err_sys(err, -errno, "memfd_create");
	int r = take_memory(txn, txn->len, err);
	if (r < 0)
		return r;
	uint8_t chunk[16 << 10];
	for (uint64_t at = 0; at < txn->len && r == 0;) {
		size_t len = (size_t)LM_MIN(txn->len - at, sizeof(chunk));
		r = lm_pread_all(txn->fd, chunk, len, (off_t)at, err);
		if (r == 0)
			r = lm_pwrite_all(fd, chunk, len, (off_t)at, err);
		at += len;
	}
	if (r < 0)
		return r;
	drop_disk_file(txn);
	txn->fd = STEAL_FD(fd);
	txn->in_memory = true;
	return 0;
}

/* For file systems without O_TMPFILE: a named file, which commit renames. */
static int open_named(struct lm_cache_txn *txn, struct lm_err *err)
{
	txn->name = lm_str_printf("%s/txn/%u", txn->cache->dir, atomic_fetch_add(&txn->cache->names, 1));
	if (!txn->name)
		return lm_err_oom(err);
	txn->fd = open(txn->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return txn->fd < 0 ? lm_err_sys(err, -errno, "create %s", txn->name) : 0;
}

int lm_cache_begin(struct lm_cache *cache, struct lm_cache_txn **ret, struct lm_err *err)
{
	CLEANUP(lm_cache_txn_freep) struct lm_cache_txn *txn = calloc(1, sizeof(*txn));
	if (!txn)
		return lm_err_oom(err);
	txn->cache = cache;
	txn->fd = openat(cache->objects_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int r = txn->fd < 0 ? -errno : 0;
	if (r == -EOPNOTSUPP || r == -EISDIR || r == -EINVAL)
		r = open_named(txn, err);
	if (means_full(r)) /* not even an inode is left */
		r = move_to_memory(txn, err);
	else if (r < 0)
		r = lm_err_sys(err, r, "temporary file in %s", cache->dir);
	if (r < 0)
		return lm_err_prefix(err, r, "cache");
	*ret = STEAL(txn);
	return 0;
}

int lm_cache_write(struct lm_cache_txn *txn, const void *data, size_t len, struct lm_err *err)
{
	if (!txn->in_memory) {
		int r = lm_pwrite_all(txn->fd, data, len, (off_t)txn->len, err);
		if (r == 0) {
			txn->len += len;
			return 0;
		}
		if (means_full(r))
			r = move_to_memory(txn, err);
		if (r < 0)
			return lm_err_prefix(err, r, "cache");
	}
	int r = take_memory(txn, len, err);
	if (r == 0)
		r = lm_pwrite_all(txn->fd, data, len, (off_t)txn->len, err);
	if (r < 0)
		return lm_err_prefix(err, r, "cache");
	txn->len += len;
	return 0;
}

int lm_cache_txn_fd(const struct lm_cache_txn *txn)
{
	return txn->fd;
}

static int link_or_rename(struct lm_cache_txn *txn, const char *name, struct lm_err *err)
{
	if (!txn->name)
		return lm_file_link(txn->fd, txn->cache->objects_fd, name, true, err);
	if (renameat(AT_FDCWD, txn->name, txn->cache->objects_fd, name) < 0)
		return lm_err_sys(err, -errno, "rename %s to %s", txn->name, name);
	free(STEAL(txn->name));
	return 0;
}

/* Folders are made when they are needed: 256 at once would be a good part of a first start. */
static int give_name(struct lm_cache_txn *txn, const char *name, struct lm_err *err)
{
	const char folder[3] = {name[0], name[1], '\0'};
	int r = link_or_rename(txn, name, err);
	if (r != -ENOENT)
		return r;
	if (mkdirat(txn->cache->objects_fd, folder, 0700) < 0 && errno != EEXIST)
		return lm_err_sys(err, -errno, "mkdir %s/cache/%s", txn->cache->dir, folder);
	return link_or_rename(txn, name, err);
}

int lm_cache_commit(struct lm_cache_txn *txn, const struct lm_object_ref *ref, struct lm_err *err)
{
	struct lm_cache *cache = txn->cache;
	char buf[LM_OBJECT_PATH_MAX];
	const char *name = object_name(ref, buf);
	struct stat old;
	if (txn->in_memory) {
		atomic_fetch_add(&cache->uncached, 1);
		return lm_err_set(err, -ENOSPC, "the cache's disk is full");
	}
	if (lm_object_is_database(ref->kind) && fsync(txn->fd) < 0)
		return lm_err_sys(err, -errno, "cache: fsync %s", name);

	LM_LOCKED(&cache->lock);
	bool replaces = fstatat(cache->objects_fd, name, &old, AT_SYMLINK_NOFOLLOW) == 0;
	int r = give_name(txn, name, err);
	if (means_full(r))
		atomic_fetch_add(&cache->uncached, 1);
	if (r < 0)
		return lm_err_prefix(err, means_full(r) ? -ENOSPC : r, "cache");
	if (ref->hash.bytes[0] < cache->counted) {
		cache->bytes += txn->len - (replaces ? (uint64_t)old.st_size : 0);
		cache->objects += !replaces;
	}
	return 0;
}

void lm_cache_txn_free(struct lm_cache_txn *txn)
{
	if (!txn)
		return;
	atomic_fetch_sub(&txn->cache->memory, txn->memory);
	drop_disk_file(txn);
	free(txn);
}

void lm_cache_stats(struct lm_cache *cache, struct lm_cache_stats *ret)
{
	LM_LOCKED(&cache->lock);
	*ret = (struct lm_cache_stats){
		.bytes = cache->bytes,
		.objects = cache->objects,
		.counting = cache->counted < FOLDERS,
		.uncached = atomic_load(&cache->uncached),
	};
}
