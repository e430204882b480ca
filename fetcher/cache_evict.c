/*
 * The housekeeper: a thread that counts what is there and evicts.
 *
 * It sleeps until woken: by a commit that used up the credit (what may come before a limit can be near), by new limits,
 * by a disk that is full, or by another process that added much (its touch of DIR/leader), or, some time after commits,
 * to drop pages (cache_pages.c). It then takes the leader's
 * place if that is free, and, as the leader, evicts what is over. Which objects have to go is found without a list of
 * them: a histogram of last uses, refined thrice, gives the moment up to which what was not used since must go; then
 * the folders are walked, and the files that the index knows to be older are unlinked.
 */
#include "fetcher/cache_internal.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/statvfs.h>

enum {
	CREDIT_MAX = 64 << 20,
	BUCKETS = 4096,
	GHOSTS = 1 << 15,
	SOON_S = 3600,		/* fetched again within that: better not evicted */
	WINDOW_MS = 300 * 1000, /* thrash is judged over that long */
	WINDOW_MIN = 200,	/* evicted objects in memory of which something can be said */
	THRASH_PERCENT = 25,
};

void cache_wake(struct lm_cache *cache)
{
	if (cache->wake_fd >= 0)
		(void)eventfd_write(cache->wake_fd, 1);
}

void cache_spend(struct lm_cache *cache, uint64_t bytes)
{
	int64_t before = atomic_fetch_sub(&cache->credit, (int64_t)bytes);
	if (before > 0 && before <= (int64_t)bytes)
		cache_wake(cache);
}

/* --- thrash --- */

static struct ghost *ghost_of(struct lm_cache *cache, struct lm_index_key key)
{
	lm_lock_assert(&cache->ghost_lock);
	return cache->ghosts ? &cache->ghosts[key.rest % GHOSTS] : NULL;
}

static uint32_t ghost_key(struct lm_index_key key)
{
	return (uint32_t)(key.rest >> 32) ^ key.folder;
}

void cache_note_evicted(struct lm_cache *cache, struct lm_index_key key)
{
	LM_LOCKED(&cache->ghost_lock);
	if (!cache->ghosts && !(cache->ghosts = calloc(GHOSTS, sizeof(struct ghost))))
		return; /* thrash goes unnoticed */
	*ghost_of(cache, key) =
		(struct ghost){.key = ghost_key(key), .evicted_s = (uint32_t)LM_MAX(lm_now_ms() / 1000, (int64_t)1)};
}

static bool forget_ghost(struct lm_cache *cache, struct lm_index_key key)
{
	struct ghost *ghost = ghost_of(cache, key);
	if (!ghost || !ghost->evicted_s || ghost->key != ghost_key(key))
		return false;
	bool soon = (uint32_t)(lm_now_ms() / 1000) - ghost->evicted_s <= SOON_S;
	*ghost = (struct ghost){0};
	return soon;
}

static unsigned percent_of_window(const struct lm_cache *cache)
{
	return cache->window_bytes ? (unsigned)(cache->window_refetched * 100 / cache->window_bytes) : 0;
}

/* The window is judged when it is over, or as soon as it says thrash. */
static void judge(struct lm_cache *cache, int64_t now)
{
	lm_lock_assert(&cache->ghost_lock);
	bool over = now - cache->window_ms >= WINDOW_MS;
	bool thrash = percent_of_window(cache) >= THRASH_PERCENT && cache->window_bytes >= cache->evicted_bytes / 8;
	if (!over && !thrash)
		return;
	cache->refetch_percent = percent_of_window(cache);
	cache->judged_ms = now;
	if (over) {
		cache->window_bytes = cache->window_refetched = 0;
		cache->window_ms = now;
	}
}

void cache_note_commit(struct lm_cache *cache, struct lm_index_key key, uint64_t bytes)
{
	atomic_fetch_add(&cache->commits, 1);
	lm_lock_take(&cache->ghost_lock);
	if (forget_ghost(cache, key)) {
		cache->refetched++;
		cache->refetched_bytes += bytes;
		cache->window_refetched += bytes;
	}
	cache->window_bytes += bytes;
	judge(cache, lm_now_ms());
	unsigned percent = cache->refetch_percent;
	lm_lock_release(&cache->ghost_lock);
	if (percent >= THRASH_PERCENT && lm_log_limit_pass(&cache->thrash_log, WINDOW_MS, NULL))
		lm_log(LM_LOG_WARN, "the cache is too small for what is used: it evicts what is soon fetched again",
			LM_KV("cache", "%s", cache->dir), LM_KV("refetched_percent", "%u", percent),
			LM_KV("capacity", "%llu", (unsigned long long)atomic_load(&cache->capacity)));
}

void cache_thrash(struct lm_cache *cache, struct lm_cache_stats *ret)
{
	LM_LOCKED(&cache->ghost_lock);
	bool current = cache->judged_ms && lm_now_ms() - cache->judged_ms < 2 * WINDOW_MS;
	ret->refetched = cache->refetched;
	ret->refetched_bytes = cache->refetched_bytes;
	ret->refetch_percent = current ? cache->refetch_percent : 0;
	ret->thrashing = ret->refetch_percent >= THRASH_PERCENT;
}

/* --- counting --- */

static void forget_seen(void *arg, struct lm_index_item *item)
{
	item->flags &= (uint16_t)~LM_INDEX_SEEN;
}

static void begin_folder(void *arg, uint8_t folder)
{
	lm_index_each(((struct lm_cache *)arg)->index, folder, forget_seen, NULL);
}

static void end_folder(void *arg, uint8_t folder)
{
	lm_index_prune(((struct lm_cache *)arg)->index, folder, LM_INDEX_SEEN);
}

static bool is_database(const struct cache_place *place)
{
	return lm_object_is_database(place->kind);
}

/* A file that the index does not know: 0, or why it can't be looked at. */
static int learn_file(struct lm_cache *cache, const struct cache_place *place)
{
	struct lm_index_item item;
	struct stat st;
	if (fstatat(place->folder_fd, place->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (lm_index_get(cache->index, place->key, &item))
		return 0; /* committed meanwhile */
	item = (struct lm_index_item){
		.used_ms = cache_time_of(cache, &st.st_atim),
		.blocks = cache_blocks(&st),
		.flags = LM_INDEX_SEEN | (is_database(place) ? LM_INDEX_DATABASE : 0),
	};
	lm_index_put(cache->index, place->key, &item);
	return 0;
}

static int scan_one(void *arg, const struct cache_place *place)
{
	struct lm_cache *cache = arg;
	struct lm_index_item item;
	if (lm_index_get(cache->index, place->key, &item))
		lm_index_flag(cache->index, place->key, LM_INDEX_SEEN, 0);
	else
		(void)learn_file(cache, place);
	return 0;
}

static void scan(struct lm_cache *cache)
{
	const struct cache_walk walk = {.fn = scan_one, .begin = begin_folder, .end = end_folder, .arg = cache};
	atomic_store(&cache->rescan, false);
	if (cache_walk(cache, &walk) == 0)
		atomic_store(&cache->scanned, true);
}

/* --- how much --- */

struct needs {
	uint64_t bytes, objects; /* to be evicted */
	bool exceeded;		 /* the capacity itself is, not only the mark */
};

static uint64_t used_bytes(const struct lm_cache *cache)
{
	return lm_index_sums(cache->index).blocks * LM_INDEX_BLOCK + atomic_load(&cache->running);
}

static uint64_t percent(uint64_t of, unsigned percent)
{
	return of / 100 * percent + of % 100 * percent / 100;
}

/* What may be used of something of which `used` is used by us, `available` is left and `keep` is to be left. */
static uint64_t room(uint64_t used, uint64_t available, uint64_t keep)
{
	return used + available > keep ? used + available - keep : 0;
}

static void need(uint64_t used, uint64_t capacity, uint64_t *ret, bool *ret_exceeded)
{
	if (used > percent(capacity, LM_CACHE_START_PERCENT))
		*ret = used - percent(capacity, LM_CACHE_LOW_PERCENT);
	*ret_exceeded |= used > capacity;
}

static struct needs measure(struct lm_cache *cache)
{
	struct needs needs = {0};
	struct statvfs fs;
	uint64_t used = used_bytes(cache), objects = lm_index_sums(cache->index).objects;
	uint64_t capacity = UINT64_MAX, objects_max = LM_CACHE_OBJECTS_MAX;
	lm_lock_take(&cache->lock);
	struct lm_cache_limits limits = cache->limits;
	lm_lock_release(&cache->lock);
	if (limits.quota)
		capacity = limits.quota;
	if (fstatvfs(cache->objects_fd, &fs) == 0) {
		uint64_t reserve = percent((uint64_t)fs.f_blocks * fs.f_frsize, limits.reserve_percent);
		uint64_t available = (uint64_t)fs.f_bavail * fs.f_frsize;
		atomic_store(&cache->reserve, reserve);
		atomic_store(&cache->disk_free, available);
		capacity = LM_MIN(capacity, room(used, available, reserve));
		if (fs.f_files) /* some file systems have no limit */
			objects_max = LM_MIN(
				objects_max, room(objects, fs.f_favail, percent(fs.f_files, limits.reserve_percent)));
	}
	atomic_store(&cache->capacity, capacity);
	need(used, capacity, &needs.bytes, &needs.exceeded);
	need(objects, objects_max, &needs.objects, &needs.exceeded);
	return needs;
}

/* Until then nothing has to be looked at. Others fill the disk, too, so it is never very long. */
static void give_credit(struct lm_cache *cache)
{
	uint64_t used = used_bytes(cache), capacity = atomic_load(&cache->capacity);
	uint64_t start = percent(capacity, LM_CACHE_START_PERCENT);
	uint64_t credit = LM_MAX(start > used ? start - used : 0, capacity / 256 + LM_INDEX_BLOCK);
	atomic_store(&cache->credit, (int64_t)LM_MIN(credit, (uint64_t)CREDIT_MAX));
}

uint64_t lm_cache_keep_max(struct lm_cache *cache)
{
	(void)measure(cache);
	LM_LOCKED(&cache->lock);
	unsigned share = cache->limits.pins_percent ? cache->limits.pins_percent : LM_CACHE_PINS_PERCENT;
	return percent(atomic_load(&cache->capacity), share);
}

/* --- which --- */

enum rank { ORDINARY, IN_USE, JUST_USED, RANKS };

static bool has_rank(const struct lm_cache *cache, const struct lm_index_item *item, enum rank rank, uint64_t now)
{
	if (item->flags & LM_INDEX_KEPT)
		return false;
	if (item->used_ms + LM_CACHE_JUST_USED_MS > now)
		return rank == JUST_USED;
	return rank == (lm_used_layers_in_use(cache->layers, item->layer) ? IN_USE : ORDINARY);
}

struct histogram {
	struct lm_cache *cache;
	enum rank rank;
	bool by_number; /* objects count, not their bytes */
	uint64_t now, low, width, end;
	uint64_t sums[BUCKETS];
};

static void count_item(void *arg, struct lm_index_item *item)
{
	struct histogram *h = arg;
	if (item->used_ms >= h->low && item->used_ms < h->end && has_rank(h->cache, item, h->rank, h->now))
		h->sums[(item->used_ms - h->low) / h->width] +=
			h->by_number ? 1 : (uint64_t)item->blocks * LM_INDEX_BLOCK;
}

/* The moment up to which all of the rank have to go so that `wanted` go; 0: there are none. */
static uint64_t moment_for(struct histogram *h, uint64_t wanted)
{
	h->low = 0;
	h->end = h->now + 1;
	for (uint64_t upto = 0;;) {
		h->width = (h->end - h->low + BUCKETS - 1) / BUCKETS;
		memset(h->sums, 0, sizeof(h->sums));
		for (unsigned folder = 0; folder < LM_INDEX_FOLDERS; folder++)
			lm_index_each(h->cache->index, (uint8_t)folder, count_item, h);
		unsigned at = 0, last = BUCKETS;
		for (; at < BUCKETS; at++) {
			if (h->sums[at])
				last = at;
			if (h->sums[at] >= wanted)
				break;
			wanted -= h->sums[at];
		}
		if (at == BUCKETS && last == BUCKETS)
			return upto;
		if (at == BUCKETS) /* all of them, and that is not enough */
			return h->low + (last + 1) * h->width - 1;
		upto = h->low + (at + 1) * h->width - 1;
		h->low += at * h->width;
		h->end = h->low + h->width;
		if (h->width == 1)
			return h->low;
	}
}

struct eviction {
	struct lm_cache *cache;
	enum rank rank;
	bool all, kept_too; /* clearing: whatever is not pinned */
	uint64_t now, upto;
	uint64_t want_bytes, want_objects;
	uint64_t bytes, objects; /* evicted */
	uint64_t spared;	 /* of another rank, as their files said, which was not known before */
};

/* What the file says about itself, where the index came to know it by its name alone. */
static void learn_record(struct lm_cache *cache, const struct cache_place *place, struct lm_index_item *item)
{
	struct cache_record record;
	char path[4096];
	unsigned set = LM_INDEX_KNOWN;
	int len = snprintf(path, sizeof(path), "%s/cache/%02x/%s", cache->dir, place->key.folder, place->name);
	if (len < 0 || (size_t)len >= sizeof(path) || cache_record_read_at(path, &record) < 0)
		return;
	if (record.epoch != cache->epoch) /* whether it can be trusted is asked at its next use */
		set = 0;
	else
		set |= LM_INDEX_TRUSTED;
	if (cache_record_kept(cache, &record))
		set |= LM_INDEX_KEPT;
	if (item->layer == 0)
		item->layer = lm_used_layers_number(cache->layers, record.layer);
	lm_index_set_layer(cache->index, place->key, item->layer);
	lm_index_flag(cache->index, place->key, set, 0);
	item->flags |= (uint16_t)set;
}

/* With the lock of the pins where it is a database: who pins one may rely on its name from then on. */
static bool delete_object(struct lm_cache *cache, const struct cache_place *place, uint64_t upto)
{
	bool deleted = false;
	lm_lock_take(&cache->lock);
	bool pinned = cache_is_pinned(cache, place->key);
	if (!is_database(place))
		lm_lock_release(&cache->lock);
	if (!pinned && lm_index_remove(cache->index, place->key, upto))
		deleted = unlinkat(place->folder_fd, place->name, 0) == 0;
	int r = deleted || pinned ? 0 : -errno;
	if (is_database(place))
		lm_lock_release(&cache->lock);
	if (r < 0 && r != -ENOENT)
		(void)cache_fault(cache, r, "evict an object");
	return deleted;
}

static int evict_one(void *arg, const struct cache_place *place)
{
	struct eviction *e = arg;
	struct lm_cache *cache = e->cache;
	struct lm_index_item item;
	if (!lm_index_get(cache->index, place->key, &item) &&
		(learn_file(cache, place) < 0 || !lm_index_get(cache->index, place->key, &item)))
		return 0;
	if (!e->all && (item.used_ms > e->upto || !has_rank(cache, &item, e->rank, e->now)))
		return 0;
	if (!(item.flags & LM_INDEX_KNOWN))
		learn_record(cache, place, &item);
	if (e->all ? (item.flags & LM_INDEX_KEPT) && !e->kept_too : !has_rank(cache, &item, e->rank, e->now)) {
		e->spared++;
		return 0;
	}
	if (!delete_object(cache, place, e->all ? UINT64_MAX : e->upto))
		return 0;
	e->bytes += (uint64_t)item.blocks * LM_INDEX_BLOCK;
	e->objects++;
	if (e->all)
		return 0;
	cache_note_evicted(cache, place->key);
	return e->bytes >= e->want_bytes && e->objects >= e->want_objects;
}

/* One rank: until enough went or nothing more goes. Whoever was spared was counted among those that would go. */
static void evict_rank(struct eviction *e, struct histogram *h)
{
	for (bool progress = true; progress && (e->bytes < e->want_bytes || e->objects < e->want_objects);) {
		uint64_t before = e->objects + e->spared, upto = 0;
		h->rank = e->rank;
		if (e->bytes < e->want_bytes) {
			h->by_number = false;
			upto = moment_for(h, e->want_bytes - e->bytes);
		}
		if (e->objects < e->want_objects) {
			h->by_number = true;
			upto = LM_MAX(upto, moment_for(h, e->want_objects - e->objects));
		}
		e->upto = upto;
		const struct cache_walk walk = {.fn = evict_one, .arg = e};
		progress = upto && cache_walk(e->cache, &walk) >= 0 && e->objects + e->spared > before;
	}
}

static void evict(struct lm_cache *cache, const struct needs *needs)
{
	struct lm_err err = LM_ERR_INIT;
	unsigned missed;
	CLEANUP(lm_freep) struct histogram *h = calloc(1, sizeof(*h));
	if (!h)
		return; /* the next commit tries again */
	if (lm_used_layers_refresh(cache->layers, "/proc/self/mountinfo", &err) < 0)
		lm_log(LM_LOG_WARN, "which layers are in use can't be seen", LM_KV("cause", "%s", lm_err_text(&err)));
	struct eviction e = {
		.cache = cache, .now = cache_now_ms(cache), .want_bytes = needs->bytes, .want_objects = needs->objects};
	h->cache = cache;
	h->now = e.now;
	for (e.rank = ORDINARY; e.rank <= (needs->exceeded ? JUST_USED : IN_USE); e.rank++)
		evict_rank(&e, h);
	atomic_fetch_add(&cache->evicted, e.objects);
	atomic_fetch_add(&cache->evicted_bytes, e.bytes);
	if (e.objects)
		lm_log(LM_LOG_DEBUG, "evicted", LM_KV("objects", "%llu", (unsigned long long)e.objects),
			LM_KV("bytes", "%llu", (unsigned long long)e.bytes));
	else if (needs->exceeded && lm_log_limit_pass(&cache->pinned_log, CACHE_LOG_INTERVAL_MS, &missed))
		lm_log(LM_LOG_WARN, "the cache exceeds its limit, and nothing can be evicted",
			LM_KV("bytes", "%llu", (unsigned long long)used_bytes(cache)),
			LM_KV("capacity", "%llu", (unsigned long long)atomic_load(&cache->capacity)),
			LM_KV("more", "%u", missed));
}

void lm_cache_clear(struct lm_cache *cache, bool all, uint64_t *ret_objects, uint64_t *ret_bytes)
{
	struct eviction e = {.cache = cache, .all = true, .kept_too = all, .now = cache_now_ms(cache)};
	const struct cache_walk walk = {.fn = evict_one, .arg = &e};
	(void)cache_walk(cache, &walk);
	*ret_objects = e.objects;
	*ret_bytes = e.bytes;
	cache_wake(cache);
}

/* --- the thread --- */

/* Whether we lead, after taking the place where it is free. Whoever does not tells the one who does to look. */
static bool lead(struct lm_cache *cache)
{
	if (atomic_load(&cache->leads))
		return true;
	if (cache->leader_fd < 0)
		cache->leader_fd = openat(cache->dir_fd, "leader", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (cache->leader_fd < 0)
		return false; /* read-only: nothing could be evicted anyway */
	if (flock(cache->leader_fd, LOCK_EX | LOCK_NB) < 0) {
		(void)futimens(cache->leader_fd, NULL);
		return false;
	}
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/leader", cache->dir);
	if (path && cache->watch_fd >= 0)
		(void)inotify_add_watch(cache->watch_fd, path, IN_ATTRIB);
	atomic_store(&cache->leads, true);
	atomic_store(&cache->rescan, true); /* others were there before us */
	return true;
}

/* The directory was made anew: so is the file. */
static void check_leader_file(struct lm_cache *cache)
{
	struct stat st;
	if (cache->leader_fd < 0 || (fstat(cache->leader_fd, &st) == 0 && st.st_nlink > 0))
		return;
	lm_closep(&cache->leader_fd);
	atomic_store(&cache->leads, false);
}

static void look_after(struct lm_cache *cache)
{
	check_leader_file(cache);
	bool leads = lead(cache);
	if (!atomic_load(&cache->scanned) || atomic_load(&cache->rescan))
		scan(cache);
	struct needs needs = measure(cache);
	uint64_t evicted = atomic_load(&cache->evicted);
	if (atomic_exchange(&cache->urgent, false)) { /* whatever the figures say, there was no room */
		needs.exceeded = true;
		needs.bytes = LM_MAX(needs.bytes, percent(used_bytes(cache), 100 - LM_CACHE_LOW_PERCENT));
	}
	bool needed = needs.bytes || needs.objects;
	if (leads && needed) {
		evict(cache, &needs);
		(void)measure(cache);
	}
	give_credit(cache);
	/* What came meanwhile had the old credit. Once more, unless nothing more goes. */
	bool stuck = needed && atomic_load(&cache->evicted) == evicted;
	if (leads && !stuck && used_bytes(cache) > percent(atomic_load(&cache->capacity), LM_CACHE_START_PERCENT))
		cache_wake(cache);
}

/* Whether another process touched DIR/leader. */
static bool drain_watch(struct lm_cache *cache)
{
	char events[1024];
	bool any = false;
	while (cache->watch_fd >= 0 && read(cache->watch_fd, events, sizeof(events)) > 0)
		any = true;
	return any;
}

static void *keep_house(void *arg)
{
	struct lm_cache *cache = arg;
	struct pollfd fds[2] = {{.fd = cache->wake_fd, .events = POLLIN}, {.fd = cache->watch_fd, .events = POLLIN}};
	while (!atomic_load(&cache->stop)) {
		look_after(cache);
		cache_pages_drop(cache);
		int r;
		while ((r = poll(fds, ARRAY_LEN(fds), cache_pages_wait_ms(cache))) == 0)
			cache_pages_drop(cache);
		if (r < 0 && errno != EINTR)
			break;
		eventfd_t count;
		(void)eventfd_read(cache->wake_fd, &count);
		if (drain_watch(cache))
			atomic_store(&cache->rescan, true);
	}
	return NULL;
}

int cache_evict_start(struct lm_cache *cache, struct lm_err *err)
{
	atomic_store(&cache->credit, CREDIT_MAX);
	atomic_store(&cache->capacity, UINT64_MAX);
	cache->window_ms = lm_now_ms();
	cache->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (cache->wake_fd < 0)
		return lm_err_sys(err, -errno, "eventfd");
	cache->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (cache->watch_fd < 0)
		lm_log(LM_LOG_WARN, "no inotify: what other processes add to the cache is noticed late",
			LM_KV("cause", "%s", strerror(errno)));
	int r = -pthread_create(&cache->housekeeper, NULL, keep_house, cache);
	if (r < 0)
		return lm_err_sys(err, r, "thread");
	cache->housekeeper_runs = true;
	pthread_setname_np(cache->housekeeper, "cache keeper");
	return 0;
}

void cache_evict_stop(struct lm_cache *cache)
{
	atomic_store(&cache->stop, true);
	cache_wake(cache);
	if (cache->housekeeper_runs)
		pthread_join(cache->housekeeper, NULL);
	cache->housekeeper_runs = false;
	lm_closep(&cache->leader_fd);
	lm_closep(&cache->watch_fd);
	lm_closep(&cache->wake_fd);
}
