#include "fetcher/cache_internal.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"

#include <dirent.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

enum { EPOCH_2020_S = 1577836800 };

const char *cache_object_name(const struct lm_object_ref *ref, char ret[LM_OBJECT_PATH_MAX])
{
	return lm_object_path(&ref->hash, ref->kind, ret) + strlen("data/");
}

/* --- time and size --- */

uint64_t cache_now_ms(const struct lm_cache *cache)
{
	return (uint64_t)(cache->start_wall_ms + (lm_now_ms() - cache->start_mono_ms));
}

/* A file from the future (the clock was wrong then, or is now) counts as used now. */
uint64_t cache_time_of(const struct lm_cache *cache, const struct timespec *wall)
{
	int64_t ms = (wall->tv_sec - EPOCH_2020_S) * 1000 + wall->tv_nsec / 1000000;
	return ms < 0 ? 0 : LM_MIN((uint64_t)ms, cache_now_ms(cache));
}

uint32_t cache_blocks(const struct stat *st)
{
	uint64_t blocks = ((uint64_t)st->st_blocks * 512 + LM_INDEX_BLOCK - 1) / LM_INDEX_BLOCK;
	return (uint32_t)LM_MIN(LM_MAX(blocks, UINT64_C(1)), (uint64_t)UINT32_MAX); /* an empty file has an inode */
}

/* --- faults --- */

static enum lm_cache_state state_of(int code)
{
	switch (code) {
	case -ENOSPC:
	case -EDQUOT:
		return LM_CACHE_FULL;
	case -EROFS:
	case -EACCES:
	case -EPERM:
		return LM_CACHE_READ_ONLY;
	case -ENOENT:
	case -ESTALE:
	case -ENOTDIR:
		return LM_CACHE_GONE;
	default:
		return LM_CACHE_BROKEN;
	}
}

const char *lm_cache_state_text(enum lm_cache_state state)
{
	static const char *const texts[] = {"works", "full", "read-only", "gone", "broken"};
	return texts[state];
}

int cache_fault(struct lm_cache *cache, int r, const char *what)
{
	enum lm_cache_state state = state_of(r);
	unsigned missed;
	atomic_fetch_add(&cache->faults, 1);
	/* A full disk may have room for the next object; other faults do not end so quickly. */
	if (state != LM_CACHE_FULL)
		atomic_store(&cache->retry_ms, lm_now_ms() + LM_CACHE_RETRY_MS);
	lm_lock_take(&cache->lock);
	cache->state = state;
	cache->state_errno = r;
	lm_lock_release(&cache->lock);
	if (lm_log_limit_pass(&cache->fault_log, CACHE_LOG_INTERVAL_MS, &missed))
		lm_log(LM_LOG_WARN, "the cache's disk can't be used: served from memory meanwhile",
			LM_KV("cache", "%s", cache->dir), LM_KV("state", "%s", lm_cache_state_text(state)),
			LM_KV("what", "%s", what), LM_KV("cause", "%s", strerror(-r)), LM_KV("more", "%u", missed));
	return r;
}

void cache_fine(struct lm_cache *cache)
{
	lm_lock_take(&cache->lock);
	enum lm_cache_state before = cache->state;
	cache->state = LM_CACHE_WORKS;
	cache->state_errno = 0;
	lm_lock_release(&cache->lock);
	if (before == LM_CACHE_WORKS)
		return;
	atomic_store(&cache->retry_ms, 0);
	if (lm_log_limit_pass(&cache->full_log, CACHE_LOG_INTERVAL_MS, NULL))
		lm_log(LM_LOG_INFO, "the cache's disk takes objects again", LM_KV("cache", "%s", cache->dir),
			LM_KV("was", "%s", lm_cache_state_text(before)));
}

/* --- the directory --- */

/* Moves what fd is to the number *at, so that nobody who uses that number notices. */
static void put_fd(int fd, int *at)
{
	if (*at < 0) {
		*at = fd;
		return;
	}
	(void)dup3(fd, *at, O_CLOEXEC);
	close(fd);
}

static int open_dir(int at, const char *path, int *ret, struct lm_err *err)
{
	int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return lm_err_sys(err, -errno, "open %s", path);
	put_fd(fd, ret);
	return 0;
}

/* *ret_alone: nobody else is there; they wait then until we share. */
static int lock_dir(struct lm_cache *cache, bool *ret_alone, struct lm_err *err)
{
	*ret_alone = flock(cache->dir_fd, LOCK_EX | LOCK_NB) == 0;
	if (!*ret_alone && flock(cache->dir_fd, LOCK_SH) < 0)
		return lm_err_sys(err, -errno, "lock %s", cache->dir);
	return 0;
}

/* Where objects go that the disk does not take: named for DIR, so that what a killed process left is found. */
static int name_memory_dir(struct lm_cache *cache, struct lm_err *err)
{
	struct stat st;
	if (fstat(cache->dir_fd, &st) < 0)
		return lm_err_sys(err, -errno, "stat %s", cache->dir);
	cache->memory_dir = lm_str_printf("/dev/shm/lamella-%u-%llx-%llx", (unsigned)geteuid(),
		(unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
	return cache->memory_dir ? 0 : lm_err_oom(err);
}

static int make_dirs(struct lm_cache *cache, bool *ret_alone, struct lm_err *err)
{
	struct lm_err ignored = LM_ERR_INIT;
	int made = lm_mkdir_p(AT_FDCWD, cache->dir, 0700, err);
	if (made < 0)
		return made;
	int r = open_dir(AT_FDCWD, cache->dir, &cache->dir_fd, err);
	if (r == 0)
		r = lock_dir(cache, ret_alone, err);
	/* Left by processes that died. On a read-only disk it stays. */
	if (r == 0 && *ret_alone)
		(void)!lm_remove_tree(cache->dir_fd, "txn", &ignored);
	if (r == 0)
		(void)!lm_mkdir_p(cache->dir_fd, "txn", 0700, &ignored);
	if (r == 0)
		r = lm_mkdir_p(cache->dir_fd, "cache", 0700, err);
	return r == 0 ? open_dir(cache->dir_fd, "cache", &cache->objects_fd, err) : r;
}

int cache_revive(struct lm_cache *cache)
{
	struct lm_err err = LM_ERR_INIT;
	struct stat st;
	bool alone;
	LM_LOCKED(&cache->revive_lock);
	if (fstat(cache->objects_fd, &st) == 0 && st.st_nlink > 0)
		return 0; /* another thread was quicker */
	int r = make_dirs(cache, &alone, &err);
	if (r == 0)
		r = cache_boot_write(cache, "open", &err);
	(void)flock(cache->dir_fd, LOCK_SH);
	if (r < 0)
		return r;
	lm_log(LM_LOG_WARN, "the cache's directory was removed, and made again", LM_KV("cache", "%s", cache->dir));
	atomic_store(&cache->rescan, true);
	cache_wake(cache);
	return 0;
}

static void init_locks(struct lm_cache *cache)
{
	lm_lock_init(&cache->lock);
	lm_lock_init(&cache->memory_lock);
	lm_lock_init(&cache->revive_lock);
	lm_lock_init(&cache->ghost_lock);
	lm_lock_init(&cache->fresh_lock);
	TAILQ_INIT(&cache->stored);
}

static int64_t wall_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return LM_MAX((now.tv_sec - EPOCH_2020_S) * INT64_C(1000) + now.tv_nsec / 1000000, INT64_C(0));
}

int lm_cache_new(const char *dir, struct lm_cache **ret, struct lm_err *err)
{
	CLEANUP(lm_cache_freep) struct lm_cache *cache = calloc(1, sizeof(*cache));
	bool alone;
	if (!cache)
		return lm_err_oom(err);
	cache->dir_fd = cache->objects_fd = cache->wake_fd = cache->watch_fd = cache->leader_fd = -1;
	atomic_init(&cache->memory_fd, -1);
	atomic_init(&cache->settle_ms, CACHE_SETTLE_MS);
	init_locks(cache);
	cache->start_mono_ms = lm_now_ms();
	cache->start_wall_ms = wall_ms();
	cache->index = lm_index_new(LM_CACHE_OBJECTS_MAX);
	cache->layers = lm_used_layers_new();
	cache->dir = strdup(dir);
	if (!cache->index || !cache->layers || !cache->dir)
		return lm_err_oom(err);
	int r = make_dirs(cache, &alone, err);
	if (r == 0)
		r = name_memory_dir(cache, err);
	if (r == 0 && alone)
		(void)!lm_remove_tree(AT_FDCWD, cache->memory_dir, NULL);
	if (r == 0)
		r = cache_boot_begin(cache, alone, err);
	if (r == 0 && alone && flock(cache->dir_fd, LOCK_SH) < 0)
		r = lm_err_sys(err, -errno, "lock %s", dir);
	if (r == 0)
		r = cache_evict_start(cache, err);
	if (r < 0)
		return lm_err_prefix(err, r, "cache");
	*ret = STEAL(cache);
	return 0;
}

void lm_cache_free(struct lm_cache *cache)
{
	if (!cache)
		return;
	bool started = cache->housekeeper_runs;
	cache_evict_stop(cache);
	if (started && flock(cache->dir_fd, LOCK_EX | LOCK_NB) == 0)
		cache_boot_end(cache);
	cache_memory_clear(cache);
	tdestroy(cache->pinned, free);
	lm_closep(&cache->objects_fd);
	lm_closep(&cache->dir_fd);
	lm_index_free(cache->index);
	lm_used_layers_free(cache->layers);
	lm_lock_done(&cache->lock);
	lm_lock_done(&cache->memory_lock);
	lm_lock_done(&cache->revive_lock);
	lm_lock_done(&cache->ghost_lock);
	lm_lock_done(&cache->fresh_lock);
	free(cache->fresh);
	free(cache->ghosts);
	free(cache->memory_dir);
	free(cache->dir);
	free(cache);
}

static int walk_folder(struct lm_cache *cache, const struct cache_walk *walk, uint8_t folder)
{
	char name[64];
	snprintf(name, sizeof(name), "%02x", folder);
	int fd = openat(cache->objects_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int code = fd < 0 ? -errno : 0;
	CLEANUP(lm_closedirp) DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir && code != -ENOENT) { /* without the folder there is nothing in it */
		code = code ? code : -errno;
		lm_closep(&fd);
		(void)cache_fault(cache, code, "read a folder");
		return 0;
	}
	struct dirent *entry;
	errno = 0;
	while (dir && (entry = readdir(dir))) {
		struct cache_place place = {.folder_fd = fd, .name = entry->d_name};
		int len = snprintf(name, sizeof(name), "%02x%s", folder, entry->d_name);
		if (len < (int)sizeof(name) && lm_object_name_parse(name, (size_t)len, &place.hash, &place.kind) == 0) {
			place.key = lm_index_key(&place.hash, place.kind);
			int r = walk->fn(walk->arg, &place);
			if (r != 0)
				return r;
		}
		errno = 0;
	}
	if (dir && errno)
		(void)cache_fault(cache, -errno, "read a folder");
	else if (walk->end)
		walk->end(walk->arg, folder);
	return 0;
}

int cache_walk(struct lm_cache *cache, const struct cache_walk *walk)
{
	int r = 0;
	for (unsigned folder = 0; folder < LM_INDEX_FOLDERS && r == 0 && !atomic_load(&cache->stop); folder++) {
		if (walk->begin)
			walk->begin(walk->arg, (uint8_t)folder);
		r = walk_folder(cache, walk, (uint8_t)folder);
	}
	return r == 0 && atomic_load(&cache->stop) ? -ECANCELED : r;
}

/* --- reading --- */

static bool keep_layer(void *arg, uint16_t layer)
{
	return lm_used_layers_in_use(arg, layer);
}

/* Notes the use; whether the object may be used at all. */
static bool admit(struct lm_cache *cache, const struct lm_object_ref *ref, int fd, const struct stat *st)
{
	struct lm_index_key key = cache_key(ref);
	struct lm_index_item item;
	uint64_t now = cache_now_ms(cache);
	if (!lm_index_use(cache->index, key, now, ref->layer, keep_layer, cache->layers, &item)) {
		item = (struct lm_index_item){
			.used_ms = now,
			.blocks = cache_blocks(st),
			.layer = ref->layer,
			.flags = LM_INDEX_SEEN | (lm_object_is_database(ref->kind) ? LM_INDEX_DATABASE : 0),
		};
		lm_index_put(cache->index, key, &item);
	}
	if (!(item.flags & LM_INDEX_KNOWN))
		cache_learn(cache, key, fd, (uint64_t)st->st_size, &item);
	if (!(item.flags & LM_INDEX_TRUSTED))
		return false;
	if (lm_wall_s() - st->st_atim.tv_sec > CACHE_USE_PERSIST_S) {
		const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
		(void)futimens(fd, times); /* read-only: the order is lost with the process */
	}
	return true;
}

static int open_in_memory(struct lm_cache *cache, const char *name)
{
	int fd = cache_memory_open(cache, name);
	atomic_fetch_add_explicit(fd < 0 ? &cache->misses : &cache->hits, 1, memory_order_relaxed);
	return fd;
}

static int missed(struct lm_cache *cache, const struct lm_object_ref *ref, const char *name, int code)
{
	if (code == -EMFILE || code == -ENFILE || code == -ENOMEM)
		return code;
	if (code == -ENOENT)
		(void)lm_index_remove(cache->index, cache_key(ref), UINT64_MAX);
	else if (code != -ELOOP)
		(void)cache_fault(cache, code, "open an object");
	return open_in_memory(cache, name);
}

int lm_cache_open(struct lm_cache *cache, const struct lm_object_ref *ref)
{
	char buf[LM_OBJECT_PATH_MAX];
	struct stat st;
	const char *name = cache_object_name(ref, buf);
	CLEANUP(lm_closep) int fd = openat(cache->objects_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0)
		return missed(cache, ref, name, -errno);
	bool fits = S_ISREG(st.st_mode) && (ref->size == LM_SIZE_UNKNOWN || (uint64_t)st.st_size == ref->size);
	if (!fits || !admit(cache, ref, fd, &st)) /* one that could not be deleted may have a better copy there */
		return open_in_memory(cache, name);
	atomic_fetch_add_explicit(&cache->hits, 1, memory_order_relaxed);
	return STEAL_FD(fd);
}

char *lm_cache_path(const struct lm_cache *cache, const struct lm_object_ref *ref)
{
	char buf[LM_OBJECT_PATH_MAX];
	const char *name = cache_object_name(ref, buf);
	char *path = cache_memory_path((struct lm_cache *)cache, name);
	return path ? path : lm_str_printf("%s/cache/%s", cache->dir, name);
}

uint16_t lm_cache_layer(struct lm_cache *cache, const char *path)
{
	return lm_used_layers_number(cache->layers, lm_layer_of_path(path));
}

/* --- pins of this process --- */

struct pin {
	struct lm_index_key key;
	unsigned count;
};

static int cmp_pin(const void *a, const void *b)
{
	const struct lm_index_key *x = &((const struct pin *)a)->key, *y = &((const struct pin *)b)->key;
	int r = (x->folder > y->folder) - (x->folder < y->folder);
	return r ? r : (x->rest > y->rest) - (x->rest < y->rest);
}

int lm_cache_pin(struct lm_cache *cache, const struct lm_object_ref *ref, struct lm_err *err)
{
	CLEANUP(lm_freep) struct pin *fresh = calloc(1, sizeof(*fresh));
	if (!fresh)
		return lm_err_oom(err);
	fresh->key = cache_key(ref);
	LM_LOCKED(&cache->lock);
	struct pin **at = tsearch(fresh, &cache->pinned, cmp_pin);
	if (!at)
		return lm_err_oom(err);
	if (*at == fresh) {
		(void)STEAL(fresh);
		cache->pinned_count++;
	}
	(*at)->count++;
	return 0;
}

void lm_cache_unpin(struct lm_cache *cache, const struct lm_object_ref *ref)
{
	const struct pin key = {.key = cache_key(ref)};
	LM_LOCKED(&cache->lock);
	struct pin **at = tfind(&key, &cache->pinned, cmp_pin), *pin = at ? *at : NULL;
	if (!pin || --pin->count > 0)
		return;
	tdelete(pin, &cache->pinned, cmp_pin);
	cache->pinned_count--;
	free(pin);
}

bool cache_is_pinned(struct lm_cache *cache, struct lm_index_key key)
{
	const struct pin wanted = {.key = key};
	lm_lock_assert(&cache->lock);
	return tfind(&wanted, &cache->pinned, cmp_pin) != NULL;
}

/* --- limits and figures --- */

const char *lm_cache_dir(const struct lm_cache *cache)
{
	return cache->dir;
}

void lm_cache_reconfigure(struct lm_cache *cache, const struct lm_cache_limits *limits)
{
	lm_lock_take(&cache->lock);
	cache->limits = *limits;
	lm_lock_release(&cache->lock);
	cache_wake(cache);
}

void lm_cache_keep_bytes(struct lm_cache *cache, uint64_t bytes)
{
	LM_LOCKED(&cache->lock);
	cache->kept_bytes = bytes;
}

void lm_cache_stats(struct lm_cache *cache, struct lm_cache_stats *ret)
{
	bool scanned = atomic_load(&cache->scanned); /* asked first: the sums are then complete */
	struct lm_index_sums sums = lm_index_sums(cache->index);
	*ret = (struct lm_cache_stats){
		.bytes = sums.blocks * LM_INDEX_BLOCK,
		.objects = sums.objects,
		.capacity = atomic_load(&cache->capacity),
		.reserve = atomic_load(&cache->reserve),
		.free = atomic_load(&cache->disk_free),
		.running = atomic_load(&cache->running),
		.memory = atomic_load(&cache->memory),
		.index_memory = lm_index_memory(cache->index),
		.layers_in_use = lm_used_layers_used(cache->layers),
		.hits = atomic_load(&cache->hits),
		.misses = atomic_load(&cache->misses),
		.commits = atomic_load(&cache->commits),
		.evicted = atomic_load(&cache->evicted),
		.evicted_bytes = atomic_load(&cache->evicted_bytes),
		.uncached = atomic_load(&cache->uncached),
		.verified = atomic_load(&cache->verified),
		.damaged = atomic_load(&cache->damaged),
		.faults = atomic_load(&cache->faults),
		.counting = !scanned,
		.leads = atomic_load(&cache->leads),
		.unclean = atomic_load(&cache->unclean),
	};
	lm_lock_take(&cache->lock);
	ret->quota = cache->limits.quota;
	ret->kept_bytes = cache->kept_bytes;
	ret->pinned = cache->pinned_count;
	ret->state = cache->state;
	ret->state_errno = cache->state_errno;
	lm_lock_release(&cache->lock);
	cache_thrash(cache, ret);
}
