/* What the files of the cache share: cache.c (directory, objects, pins), cache_txn.c (transactions, memory in the
 * disk's place), cache_record.c (epochs, checksums, durable pins), cache_evict.c (counting and eviction), cache_pages.c
 * (pages of what was just fetched). */
#ifndef LM_FETCHER_CACHE_INTERNAL_H
#define LM_FETCHER_CACHE_INTERNAL_H

#include "base/lock.h"
#include "base/log.h"
#include "fetcher/cache.h"
#include "fetcher/cache_index.h"
#include "fetcher/cache_layers.h"

#include <sys/queue.h>
#include <sys/stat.h>

enum { CACHE_LOG_INTERVAL_MS = 60000, CACHE_USE_PERSIST_S = 3600, CACHE_SETTLE_MS = 35 * 1000 };

struct stored { /* an object in memory, named in the memory folder */
	TAILQ_ENTRY(stored) entry;
	uint64_t bytes;
	char name[LM_OBJECT_PATH_MAX];
};

struct ghost { /* of an evicted object */
	uint32_t key;
	uint32_t evicted_s; /* monotonic; 0: free */
};

struct lm_cache {
	/* constant after new */
	char *dir, *memory_dir;
	uint64_t epoch;
	bool attributes; /* the file system has extended ones */
	struct lm_index *index;
	struct lm_used_layers *layers;
	int64_t start_wall_ms, start_mono_ms;

	/* The number of each stays while the cache lives: a directory made anew takes over the old one's number. */
	int dir_fd;	/* DIR, with a shared lock */
	int objects_fd; /* DIR/cache */

	_Atomic(unsigned) names; /* for temporary names */
	_Atomic(bool) unclean, wrote;
	_Atomic(uint64_t) memory;  /* bytes held outside the disk */
	_Atomic(uint64_t) running; /* bytes of transactions on disk, as if complete */
	_Atomic(uint64_t) hits, misses, commits, uncached, verified, damaged, faults;

	struct lm_lock lock;
	/* under lock */
	struct lm_cache_limits limits;
	enum lm_cache_state state;
	int state_errno;
	void *pinned; /* tsearch tree of struct pin */
	size_t pinned_count;
	uint32_t keepers[LM_CACHE_KEEPERS_MAX];
	size_t keeper_count;
	uint64_t kept_bytes;
	_Atomic(int64_t) retry_ms; /* not before then is the disk tried again; 0: it works */
	struct lm_log_limit fault_log, full_log, damage_log, pinned_log, thrash_log;

	struct lm_lock memory_lock;
	/* under memory_lock */
	TAILQ_HEAD(, stored) stored; /* the oldest first */
	_Atomic(size_t) stored_count;
	_Atomic(int) memory_fd; /* -1: not needed so far */

	struct lm_lock revive_lock; /* held while the directory is made anew */

	struct lm_lock fresh_lock;
	/* under fresh_lock */
	struct cache_fresh *fresh; /* ring; NULL: empty */
	size_t fresh_first, fresh_count;
	_Atomic(int64_t) settle_ms; /* CACHE_SETTLE_MS */

	/* Eviction: cache_evict.c. */
	pthread_t housekeeper;
	bool housekeeper_runs;
	int wake_fd, watch_fd;
	int leader_fd; /* housekeeper's */
	_Atomic(bool) stop, leads, scanned, rescan, urgent;
	_Atomic(int64_t) credit; /* bytes that may come before the housekeeper has to look */
	_Atomic(uint64_t) capacity, reserve, disk_free;
	_Atomic(uint64_t) evicted, evicted_bytes;
	struct lm_lock ghost_lock;
	/* under ghost_lock */
	struct ghost *ghosts;
	int64_t window_ms; /* when the window of these began */
	uint64_t window_bytes, window_refetched;
	unsigned refetch_percent; /* of the last full window */
	int64_t judged_ms;	  /* when it ended */
	uint64_t refetched, refetched_bytes;
};

/* --- cache.c --- */

const char *cache_object_name(const struct lm_object_ref *ref, char ret[LM_OBJECT_PATH_MAX]);
static inline struct lm_index_key cache_key(const struct lm_object_ref *ref)
{
	return lm_index_key(&ref->hash, ref->kind);
}
uint64_t cache_now_ms(const struct lm_cache *cache); /* the index's clock: milliseconds since 2020, never back */
uint64_t cache_time_of(const struct lm_cache *cache, const struct timespec *wall);
uint32_t cache_blocks(const struct stat *st);

/* A failure of the disk: the state, and a line in the log now and then. Returns r. */
int cache_fault(struct lm_cache *cache, int r, const char *what);
void cache_fine(struct lm_cache *cache); /* the disk took an object */
/* Makes the directory anew where it is gone: 0 when there is one again. */
int cache_revive(struct lm_cache *cache);
bool cache_is_pinned(struct lm_cache *cache, struct lm_index_key key); /* lock held */

/* Every object on the disk, folder by folder. fn: non-zero stops and is returned. begin and end (may be NULL) are
 * called around a folder; end is not after a folder that could not be read to its end. */
struct cache_place {
	int folder_fd;
	const char *name; /* in the folder */
	struct lm_hash hash;
	enum lm_object_kind kind;
	struct lm_index_key key;
};
struct cache_walk {
	int (*fn)(void *arg, const struct cache_place *place);
	void (*begin)(void *arg, uint8_t folder);
	void (*end)(void *arg, uint8_t folder);
	void *arg;
};
int cache_walk(struct lm_cache *cache, const struct cache_walk *walk);

/* --- cache_txn.c --- */

int cache_memory_open(struct lm_cache *cache, const char *name);   /* -ENOENT */
char *cache_memory_path(struct lm_cache *cache, const char *name); /* NULL: not there, or no memory */
void cache_memory_clear(struct lm_cache *cache);		   /* at the end */

/* --- cache_record.c --- */

struct cache_record { /* user.lamella */
	uint64_t epoch, size, layer;
	uint32_t checksum;
	uint32_t keepers[8];
	unsigned keeper_count;
};
enum { CACHE_RECORD_KEEPERS = 8 };
uint32_t cache_checksum(uint32_t so_far, const void *data, size_t len);
int cache_record_read(int fd, struct cache_record *ret); /* 0; -ENODATA none or not ours; others */
int cache_record_read_at(const char *path, struct cache_record *ret);
int cache_record_write(int fd, const struct cache_record *record) MUST_CHECK;
bool cache_record_kept(struct lm_cache *cache, const struct cache_record *record); /* by a pin that is set */
/* What an object's file says about itself goes to the index. size: of the file. */
void cache_learn(struct lm_cache *cache, struct lm_index_key key, int fd, uint64_t size, struct lm_index_item *item);
/* 0: its content is what was committed, and it is now of our epoch; -EBADMSG; -ENODATA: nothing says so; others. */
int cache_verify(struct lm_cache *cache, int fd, uint64_t size);

/* DIR/boot. alone: no other process uses the directory. */
int cache_boot_begin(struct lm_cache *cache, bool alone, struct lm_err *err);
int cache_boot_write(struct lm_cache *cache, const char *state, struct lm_err *err) MUST_CHECK; /* "open", "clean" */
void cache_boot_end(struct lm_cache *cache);

/* --- cache_pages.c --- */

void cache_pages_add(struct lm_cache *cache, const struct lm_object_ref *ref); /* it was committed */
/* The housekeeper's: in how long there is something to drop (-1: nothing); drops it. */
int cache_pages_wait_ms(struct lm_cache *cache);
void cache_pages_drop(struct lm_cache *cache);

/* --- cache_evict.c --- */

int cache_evict_start(struct lm_cache *cache, struct lm_err *err);
void cache_evict_stop(struct lm_cache *cache);
void cache_spend(struct lm_cache *cache, uint64_t bytes); /* so much more is on the disk */
void cache_wake(struct lm_cache *cache);
void cache_note_commit(struct lm_cache *cache, struct lm_index_key key, uint64_t bytes);
void cache_thrash(struct lm_cache *cache, struct lm_cache_stats *ret); /* fills in what concerns that */
void cache_note_evicted(struct lm_cache *cache, struct lm_index_key key);

#endif
