/*
 * Pages of what was just fetched.
 *
 * What a mount has answered with is in the kernel's memory as pages of the mount, and those of the cache's file are
 * only in the way: reading drops them (read.c). But pages that were just written are dirty, and can't be dropped before
 * the kernel has written them to the disk, which it does when they are about 30 seconds old. So objects are remembered
 * when they are committed, and the housekeeper drops their pages CACHE_SETTLE_MS later: nothing is added to the way of
 * a download, the disk is not made to write earlier than it would, and whoever reads the same content by another path
 * while a job starts, or what was read ahead, finds it in memory. Databases are read from their files, so theirs stay.
 *
 * A ring remembers up to FRESH_MAX objects. When it fills up, the older ones' turn comes early (what is dirty still is
 * then written by the kernel as it pleases, and dropped when it is next read, or memory is short).
 */
#include "fetcher/cache_internal.h"

#include "base/clock.h"

#include <fcntl.h>
#include <stdlib.h>

enum {
	FRESH_MAX = 8192,
	FRESH_MANY = FRESH_MAX / 4 * 3,
	BATCH_MS = 5000, /* what becomes due within that time is dropped at once: fewer wake-ups */
};

struct cache_fresh {
	struct lm_hash hash;
	uint8_t kind;
	uint32_t committed_s; /* monotonic */
};

void cache_pages_add(struct lm_cache *cache, const struct lm_object_ref *ref)
{
	if (lm_object_is_database(ref->kind))
		return;
	lm_lock_take(&cache->fresh_lock);
	if (!cache->fresh)
		cache->fresh = calloc(FRESH_MAX, sizeof(*cache->fresh)); /* without it pages stay a while longer */
	bool wake = false;
	if (cache->fresh && cache->fresh_count < FRESH_MAX) {
		cache->fresh[(cache->fresh_first + cache->fresh_count++) % FRESH_MAX] = (struct cache_fresh){
			.hash = ref->hash,
			.kind = (uint8_t)ref->kind,
			.committed_s = (uint32_t)(lm_now_ms() / 1000),
		};
		wake = cache->fresh_count == 1 || cache->fresh_count == FRESH_MANY;
	}
	lm_lock_release(&cache->fresh_lock);
	if (wake)
		cache_wake(cache);
}

/* In how long the oldest's turn is; negative: it has come. */
static int64_t left_ms(const struct lm_cache *cache)
{
	lm_lock_assert(&cache->fresh_lock);
	return (int64_t)cache->fresh[cache->fresh_first].committed_s * 1000 + atomic_load(&cache->settle_ms) -
	       lm_now_ms();
}

int cache_pages_wait_ms(struct lm_cache *cache)
{
	LM_LOCKED(&cache->fresh_lock);
	return cache->fresh_count == 0 ? -1 : (int)LM_MAX(left_ms(cache) + BATCH_MS, (int64_t)0);
}

/* The oldest, if its turn has come, or if there are too many. */
static bool take_settled(struct lm_cache *cache, struct lm_object_ref *ret)
{
	LM_LOCKED(&cache->fresh_lock);
	if (cache->fresh_count == 0 || (left_ms(cache) > 0 && cache->fresh_count < FRESH_MANY))
		return false;
	const struct cache_fresh *oldest = &cache->fresh[cache->fresh_first];
	*ret = (struct lm_object_ref){.hash = oldest->hash, .kind = oldest->kind};
	cache->fresh_first = (cache->fresh_first + 1) % FRESH_MAX;
	if (--cache->fresh_count == 0)
		free(STEAL(cache->fresh));
	return true;
}

void cache_pages_drop(struct lm_cache *cache)
{
	struct lm_object_ref ref;
	char buf[LM_OBJECT_PATH_MAX];
	while (!atomic_load(&cache->stop) && take_settled(cache, &ref)) {
		CLEANUP(lm_closep)
		int fd = openat(cache->objects_fd, cache_object_name(&ref, buf), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd >= 0) /* else it was evicted, or has to wait until it is next read */
			(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	}
}
