#include "fetcher/cache_internal.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

struct lm_cache_txn {
	struct lm_cache *cache;
	int fd;
	char *name;	   /* in DIR/txn, where the file system has no O_TMPFILE */
	uint64_t len;	   /* written so far */
	uint64_t charged;  /* our part of cache->running; 0 in memory */
	uint64_t memory;   /* our part of cache->memory; 0 while on disk */
	uint32_t checksum; /* of what is written */
	bool in_memory;
	bool nameable; /* in memory: can be stored */
};

/* --- memory in the disk's place --- */

/* The folder is ours, and nobody else's: /dev/shm is everybody's. */
static int memory_dir(struct lm_cache *cache)
{
	int fd = atomic_load(&cache->memory_fd);
	struct stat st;
	if (fd >= 0)
		return fd;
	LM_LOCKED(&cache->memory_lock);
	if (atomic_load(&cache->memory_fd) >= 0)
		return atomic_load(&cache->memory_fd);
	if (mkdir(cache->memory_dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	CLEANUP(lm_closep) int dir = open(cache->memory_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0 || fstat(dir, &st) < 0)
		return -errno;
	if (st.st_uid != geteuid() || (st.st_mode & 077))
		return -EACCES;
	fd = STEAL_FD(dir);
	atomic_store(&cache->memory_fd, fd);
	return fd;
}

/* Names in memory lie in one folder: "xx" and the rest together. */
static const char *flat(const char *name, char ret[LM_OBJECT_PATH_MAX])
{
	snprintf(ret, LM_OBJECT_PATH_MAX, "%.2s%s", name, name + 3);
	return ret;
}

int cache_memory_open(struct lm_cache *cache, const char *name)
{
	char buf[LM_OBJECT_PATH_MAX];
	if (atomic_load(&cache->stored_count) == 0)
		return -ENOENT;
	int fd = openat(atomic_load(&cache->memory_fd), flat(name, buf), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

char *cache_memory_path(struct lm_cache *cache, const char *name)
{
	char buf[LM_OBJECT_PATH_MAX];
	if (atomic_load(&cache->stored_count) == 0 ||
		faccessat(atomic_load(&cache->memory_fd), flat(name, buf), F_OK, 0) < 0)
		return NULL;
	return lm_str_printf("%s/%s", cache->memory_dir, buf);
}

static bool drop_oldest(struct lm_cache *cache)
{
	LM_LOCKED(&cache->memory_lock);
	CLEANUP(lm_freep) struct stored *oldest = TAILQ_FIRST(&cache->stored);
	if (!oldest)
		return false;
	TAILQ_REMOVE(&cache->stored, oldest, entry);
	atomic_fetch_sub(&cache->stored_count, 1);
	(void)unlinkat(atomic_load(&cache->memory_fd), oldest->name, 0);
	atomic_fetch_sub(&cache->memory, oldest->bytes);
	return true;
}

void cache_memory_clear(struct lm_cache *cache)
{
	while (drop_oldest(cache))
		;
	int fd = atomic_exchange(&cache->memory_fd, -1);
	if (fd >= 0) {
		close(fd);
		(void)rmdir(cache->memory_dir); /* not empty: another process needs it, too */
	}
}

/* Takes len more bytes of the memory that all share; what was stored longest makes room. */
static int take_memory(struct lm_cache_txn *txn, uint64_t len, struct lm_err *err)
{
	struct lm_cache *cache = txn->cache;
	while (atomic_fetch_add(&cache->memory, len) + len > LM_CACHE_MEMORY_MAX) {
		atomic_fetch_sub(&cache->memory, len);
		if (!drop_oldest(cache))
			return lm_err_set(err, -ENOSPC,
				"the cache's disk can't be used, and the %d MiB of memory in its place are full",
				LM_CACHE_MEMORY_MAX >> 20);
	}
	txn->memory += len;
	return 0;
}

static int open_memory(struct lm_cache_txn *txn, int *ret, struct lm_err *err)
{
	int dir = memory_dir(txn->cache);
	*ret = dir < 0 ? -1 : openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	txn->nameable = *ret >= 0;
	if (*ret < 0)
		*ret = memfd_create("lamella-object", MFD_CLOEXEC);
	return *ret < 0 ? lm_err_sys(err, -errno, "memory for an object") : 0;
}

static void uncharge(struct lm_cache_txn *txn)
{
	atomic_fetch_sub(&txn->cache->running, txn->charged);
	txn->charged = 0;
}

static void drop_disk_file(struct lm_cache_txn *txn)
{
	lm_closep(&txn->fd);
	if (txn->name)
		unlink(txn->name);
	free(STEAL(txn->name));
	uncharge(txn);
}

/* What was written moves to memory, and the disk gets its blocks back. */
static int move_to_memory(struct lm_cache_txn *txn, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = -1;
	int r = take_memory(txn, txn->len, err);
	if (r == 0)
		r = open_memory(txn, &fd, err);
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

/* Gives the file in memory its name there; its memory is then the store's. */
static int store(struct lm_cache_txn *txn, const char *name, struct lm_err *err)
{
	struct lm_cache *cache = txn->cache;
	CLEANUP(lm_freep) struct stored *stored = calloc(1, sizeof(*stored));
	if (!stored)
		return lm_err_oom(err);
	int r = txn->nameable
			? lm_file_link(txn->fd, atomic_load(&cache->memory_fd), flat(name, stored->name), false, err)
			: -ENOSPC;
	if (r == -EEXIST)
		return 0; /* another transaction was quicker */
	if (r < 0)
		return lm_err_set(err, -ENOSPC, "the cache's disk can't be used");
	stored->bytes = txn->memory;
	txn->memory = 0;
	LM_LOCKED(&cache->memory_lock);
	TAILQ_INSERT_TAIL(&cache->stored, stored, entry);
	(void)STEAL(stored);
	atomic_fetch_add(&cache->stored_count, 1);
	return 0;
}

/* --- transactions --- */

/* What ext4 and others say of a directory that was removed. */
static bool may_be_gone(int r)
{
	return r == -ENOENT || r == -EPERM || r == -ESTALE;
}

static bool lacks_descriptors(int r)
{
	return r == -EMFILE || r == -ENFILE || r == -ENOMEM;
}

/* For file systems without O_TMPFILE: a named file, which commit renames. */
static int open_named(struct lm_cache_txn *txn)
{
	struct lm_cache *cache = txn->cache;
	txn->name = lm_str_printf("%s/txn/%d-%llx-%u", cache->dir, (int)getpid(),
		(unsigned long long)cache->start_mono_ms, atomic_fetch_add(&cache->names, 1));
	if (!txn->name)
		return -ENOMEM;
	txn->fd = open(txn->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return txn->fd < 0 ? -errno : 0;
}

static int open_disk_file(struct lm_cache_txn *txn)
{
	txn->fd = openat(txn->cache->objects_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int r = txn->fd < 0 ? -errno : 0;
	return r == -EOPNOTSUPP || r == -EISDIR || r == -EINVAL ? open_named(txn) : r;
}

int lm_cache_begin(struct lm_cache *cache, struct lm_cache_txn **ret, struct lm_err *err)
{
	CLEANUP(lm_cache_txn_freep) struct lm_cache_txn *txn = calloc(1, sizeof(*txn));
	if (!txn)
		return lm_err_oom(err);
	txn->cache = cache;
	txn->fd = -1;
	txn->checksum = cache_checksum(0, NULL, 0);
	int r = 0;
	if (lm_now_ms() < atomic_load(&cache->retry_ms)) {
		r = move_to_memory(txn, err);
	} else {
		r = open_disk_file(txn);
		if (may_be_gone(r) && cache_revive(cache) == 0)
			r = open_disk_file(txn);
		if (lacks_descriptors(r))
			r = lm_err_sys(err, r, "temporary file in %s", cache->dir);
		else if (r < 0 && cache_fault(cache, r, "begin an object") < 0)
			r = move_to_memory(txn, err);
	}
	if (r < 0)
		return lm_err_prefix(err, r, "cache");
	*ret = STEAL(txn);
	return 0;
}

static void charge(struct lm_cache_txn *txn, uint64_t upto)
{
	if (txn->in_memory || upto <= txn->charged)
		return;
	uint64_t more = upto - txn->charged;
	txn->charged = upto;
	atomic_fetch_add(&txn->cache->running, more);
	cache_spend(txn->cache, more);
}

void lm_cache_expect(struct lm_cache_txn *txn, uint64_t size)
{
	if (size != LM_SIZE_UNKNOWN)
		charge(txn, size);
}

/* What the disk does not take, with what it had taken, moves to memory. */
static int write_to_disk(struct lm_cache_txn *txn, const void *data, size_t len, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	int r = lm_pwrite_all(txn->fd, data, len, (off_t)txn->len, &why);
	if (r == 0) {
		charge(txn, txn->len + len);
		return 0;
	}
	(void)cache_fault(txn->cache, r, "write an object");
	atomic_store(&txn->cache->urgent, true);
	cache_wake(txn->cache);
	return move_to_memory(txn, err);
}

int lm_cache_write(struct lm_cache_txn *txn, const void *data, size_t len, struct lm_err *err)
{
	int r = txn->in_memory ? 0 : write_to_disk(txn, data, len, err);
	if (r == 0 && txn->in_memory) {
		r = take_memory(txn, len, err);
		if (r == 0)
			r = lm_pwrite_all(txn->fd, data, len, (off_t)txn->len, err);
	}
	if (r < 0)
		return lm_err_prefix(err, r, "cache");
	txn->checksum = cache_checksum(txn->checksum, data, len);
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

/* The record goes with the file before it has its name; durable: so does everything else. */
static int commit_to_disk(
	struct lm_cache_txn *txn, const struct lm_object_ref *ref, const char *name, struct lm_err *err)
{
	struct lm_cache *cache = txn->cache;
	const struct cache_record record = {
		.epoch = cache->epoch,
		.size = txn->len,
		.layer = lm_used_layers_id(cache->layers, ref->layer),
		.checksum = txn->checksum,
	};
	int r = cache->attributes ? cache_record_write(txn->fd, &record) : 0;
	if (r < 0)
		return lm_err_sys(err, r, "note the checksum of %s", name);
	if (lm_object_is_database(ref->kind) && fsync(txn->fd) < 0)
		return lm_err_sys(err, -errno, "fsync %s", name);
	return give_name(txn, name, err);
}

static void note_object(struct lm_cache_txn *txn, const struct lm_object_ref *ref)
{
	struct lm_cache *cache = txn->cache;
	struct lm_index_key key = cache_key(ref);
	struct stat st;
	if (fstat(txn->fd, &st) < 0)
		return; /* learned at its first use */
	/* Blocks of what is still being written out are not all counted by the file system yet. */
	uint32_t blocks = LM_MAX(cache_blocks(&st), (uint32_t)((txn->len + LM_INDEX_BLOCK - 1) / LM_INDEX_BLOCK));
	const struct lm_index_item item = {
		.used_ms = cache_now_ms(cache),
		.blocks = blocks,
		.layer = ref->layer,
		.flags = LM_INDEX_KNOWN | LM_INDEX_TRUSTED | LM_INDEX_SEEN |
			 (lm_object_is_database(ref->kind) ? LM_INDEX_DATABASE : 0),
	};
	lm_index_put(cache->index, key, &item);
	cache_note_commit(cache, key, (uint64_t)blocks * LM_INDEX_BLOCK);
	cache_pages_add(cache, ref);
	atomic_store(&cache->wrote, true);
	if (txn->len == 0)
		cache_spend(cache, LM_INDEX_BLOCK);
}

int lm_cache_commit(struct lm_cache_txn *txn, const struct lm_object_ref *ref, struct lm_err *err)
{
	struct lm_cache *cache = txn->cache;
	char buf[LM_OBJECT_PATH_MAX];
	const char *name = cache_object_name(ref, buf);
	if (!txn->in_memory) {
		struct lm_err why = LM_ERR_INIT;
		int r = commit_to_disk(txn, ref, name, &why);
		if (may_be_gone(r) && cache_revive(cache) == 0)
			r = commit_to_disk(txn, ref, name, &why);
		if (r == 0) {
			note_object(txn, ref);
			uncharge(txn);
			cache_fine(cache);
			return 0;
		}
		(void)cache_fault(cache, r, "commit an object");
		r = move_to_memory(txn, err);
		if (r < 0)
			return lm_err_prefix(err, r, "cache");
	}
	atomic_fetch_add(&cache->uncached, 1);
	return store(txn, name, err);
}

void lm_cache_txn_free(struct lm_cache_txn *txn)
{
	if (!txn)
		return;
	atomic_fetch_sub(&txn->cache->memory, txn->memory);
	drop_disk_file(txn);
	free(txn);
}
