/*
 * The cache: verified, inflated objects as ordinary files, DIR/cache/xx/REST[TAG][SUFFIX].
 *
 * The directory is the index: nothing else says what is cached, so nothing can disagree with it. An object appears
 * whole, under its final name, by link(2) or rename(2); what a crash leaves half-written has no name (O_TMPFILE) or
 * lies in DIR/txn, which is emptied when nobody uses the directory. A file of another size than the caller expects
 * counts as absent and is replaced by the next commit.
 *
 *   lm_cache_begin() - lm_cache_write()... - lm_cache_commit() - use lm_cache_txn_fd() - lm_cache_txn_free()
 *
 * Whoever commits vouches for the content: what is committed is not verified here.
 *
 * SEVERAL PROCESSES may use one directory: each adds, reads, and holds a shared lock on DIR. One of them, whoever holds
 * DIR/leader, also evicts. The others tell it when they have added much (by touching that file, which it watches), and
 * one of them takes its place when it is gone.
 *
 * EVICTION is least recently used first, on a thread that commits wake: it begins at LM_CACHE_START_PERCENT of the
 * capacity and ends at LM_CACHE_LOW_PERCENT. The capacity is the quota, or less where the file system would have less
 * than the reserve free for others (inodes likewise). Running downloads count as if they were complete. In this order:
 *
 *   1. what is not mentioned below, by last use
 *   2. what was last read for a layer that a running container has mounted (cache_layers.h)
 *   3. what was used in the last LM_CACHE_JUST_USED_MS, of either kind, when the capacity itself is exceeded
 *   never: what is pinned, by lm_cache_pin() (in use in this process) or by a durable pin (pins.h)
 *
 * Whoever has an object open keeps it. A read that the kernel answers from its page cache is not a use: we do not hear
 * of it, and eviction does not hurt it. Last uses are remembered in memory (cache_index.h) to the millisecond, and on
 * disk as the file's atime to the hour, from which a new process learns the order.
 *
 * AFTER A CRASH. DIR/boot names the boot (of the machine) in which the directory is in use, and the epoch, a random
 * number. Each file has the epoch, a checksum and its layer in the attribute user.lamella. When a process ends, the
 * page cache stays, and all is well. When the machine ends without the last process having said that everything is on
 * the disk, files may be torn although they have their names: the next start draws a new epoch, and a file of another
 * epoch is absent for lm_cache_open() until lm_cache_recover() has verified it and given it the new one. A damaged one
 * is deleted. On file systems without such attributes everything is dropped then.
 *
 * FAULTS. Disk full, read-only, damaged, directory removed: objects go to memory instead (files in a folder of
 * /dev/shm, at most LM_CACHE_MEMORY_MAX, the oldest make room), are found there like anywhere, and the disk is tried
 * again: at once when it was full, else after LM_CACHE_RETRY_MS. A directory that was removed is made again.
 *
 * MEMORY OF THE KERNEL. What mounts have answered with is among their own pages, so those of the cache's files are
 * dropped: of what is fetched, once the kernel has written them (cache_pages.c).
 *
 * One transaction belongs to one thread at a time; everything else may be called from any thread. Nothing but begin,
 * write, commit and what says so waits for the disk.
 */
#ifndef LM_FETCHER_CACHE_H
#define LM_FETCHER_CACHE_H

#include "base/err.h"
#include "repo/object.h"

#include <stdbool.h>

#define LM_SIZE_UNKNOWN UINT64_MAX
enum {
	LM_CACHE_MEMORY_MAX = 128 << 20, /* bytes of all objects in memory, together */
	LM_CACHE_START_PERCENT = 95,
	LM_CACHE_LOW_PERCENT = 85,
	LM_CACHE_JUST_USED_MS = 2000,
	LM_CACHE_RETRY_MS = 5000,
	LM_CACHE_OBJECTS_MAX = 4 << 20, /* more are evicted as if they were beyond the quota; bounds our memory */
};

/* An object and what its content must be; what tree.h asks for, fetch.h fetches and the cache keeps. */
struct lm_object_ref {
	struct lm_hash hash;
	enum lm_object_kind kind;
	enum lm_compression compression;
	uint64_t size;	  /* of the content; LM_SIZE_UNKNOWN where nothing trustworthy says it */
	bool alternative; /* to be fetched by its alternative name, beside data/ */
	uint16_t layer;	  /* lm_cache_layer() of what it is read for; 0: nothing that containers mount */
};

/* Databases are used under their name in the cache, so they must have one. */
static inline bool lm_object_is_database(enum lm_object_kind kind)
{
	return kind == LM_OBJECT_CATALOG || kind == LM_OBJECT_HISTORY;
}

struct lm_cache;

/* dir is created (0700) where missing. Learning what is there begins in the background. No limits yet. */
int lm_cache_new(const char *dir, struct lm_cache **ret, struct lm_err *err) MUST_CHECK;
void lm_cache_free(struct lm_cache *cache); /* after its transactions; the last process makes all durable */
LM_DEFINE_CLEANUP(struct lm_cache, lm_cache_free, lm_cache_freep)

const char *lm_cache_dir(const struct lm_cache *cache);

struct lm_cache_limits {
	uint64_t quota;		  /* bytes; 0: none */
	unsigned reserve_percent; /* of the file system's size and inodes */
	unsigned pins_percent;	  /* of the capacity: how much durable pins may hold; 0: LM_CACHE_PINS_PERCENT */
};
enum { LM_CACHE_PINS_PERCENT = 50 };
void lm_cache_reconfigure(struct lm_cache *cache, const struct lm_cache_limits *limits); /* takes effect at once */

/* A descriptor open for reading, owned by the caller; -ENOENT when the object is not there (or not usable yet, see
 * recover); -EMFILE, -ENFILE, -ENOMEM. */
int lm_cache_open(struct lm_cache *cache, const struct lm_object_ref *ref) MUST_CHECK;

/* The same for an object that open does not find: verifies one of another epoch. Reads the file, so it may wait. */
int lm_cache_recover(struct lm_cache *cache, const struct lm_object_ref *ref) MUST_CHECK;
/* Whether recover may find more than open. */
bool lm_cache_has_suspects(const struct lm_cache *cache);

/* The object's content can't be read or is wrong: it is deleted. */
void lm_cache_drop(struct lm_cache *cache, const struct lm_object_ref *ref);

/* The number, for lm_object_ref, of the layer that a path in a repository lies in; 0: none. */
uint16_t lm_cache_layer(struct lm_cache *cache, const char *path);

/* Counted; what is pinned is not evicted by this process (another one's user of it has it open). */
int lm_cache_pin(struct lm_cache *cache, const struct lm_object_ref *ref, struct lm_err *err) MUST_CHECK;
void lm_cache_unpin(struct lm_cache *cache, const struct lm_object_ref *ref);

/*
 * Durable pins are numbers; pins.h says what they stand for. keep: the cached object is held by this pin, also after a
 * restart; its bytes on disk, or -ENOENT, -EOPNOTSUPP (no attributes there), -ENOSPC (too many pins of one object). A
 * pin counts only while it is among the set ones.
 */
enum { LM_CACHE_KEEPERS_MAX = 64 };
int64_t lm_cache_keep(
	struct lm_cache *cache, const struct lm_object_ref *ref, uint32_t keeper, struct lm_err *err) MUST_CHECK;
void lm_cache_set_keepers(struct lm_cache *cache, const uint32_t *keepers, size_t count);
void lm_cache_keep_bytes(struct lm_cache *cache, uint64_t bytes); /* for the statistics: what pins hold */
uint64_t lm_cache_keep_max(struct lm_cache *cache);		  /* how many bytes they may hold */

/* Reads every object against its checksum, deleting the damaged ones; waits. fn (may be NULL) hears of the progress. */
struct lm_cache_check {
	uint64_t objects, bytes, damaged, unknown /* without a checksum, deleted, too */;
};
typedef int lm_cache_check_fn(void *arg, const struct lm_cache_check *so_far); /* non-zero: stop, and return that */
int lm_cache_check(struct lm_cache *cache, lm_cache_check_fn *fn, void *arg, struct lm_cache_check *ret) MUST_CHECK;
/* Deletes what is not pinned; all: also what durable pins hold. Waits. */
void lm_cache_clear(struct lm_cache *cache, bool all, uint64_t *ret_objects, uint64_t *ret_bytes);

/* Where the object's file is or would be. */
enum { LM_CACHE_NAME_MAX = LM_OBJECT_PATH_MAX };
char *lm_cache_path(const struct lm_cache *cache, const struct lm_object_ref *ref); /* malloc; NULL: no memory */

struct lm_cache_txn;
int lm_cache_begin(struct lm_cache *cache, struct lm_cache_txn **ret, struct lm_err *err) MUST_CHECK;
/* How large the content will be, as far as one knows: counted at once. */
void lm_cache_expect(struct lm_cache_txn *txn, uint64_t size);
int lm_cache_write(struct lm_cache_txn *txn, const void *data, size_t len, struct lm_err *err) MUST_CHECK;
int lm_cache_txn_fd(const struct lm_cache_txn *txn); /* owned by the transaction; readable at any time */
/*
 * 0: the object can be opened. -ENOSPC: there is no room for it anywhere; its content stays readable by the descriptor.
 * A database is made durable before it gets its name: a damaged one would be noticed late.
 */
int lm_cache_commit(struct lm_cache_txn *txn, const struct lm_object_ref *ref, struct lm_err *err) MUST_CHECK;
void lm_cache_txn_free(struct lm_cache_txn *txn); /* without commit: nothing remains */
LM_DEFINE_CLEANUP(struct lm_cache_txn, lm_cache_txn_free, lm_cache_txn_freep)

enum lm_cache_state { LM_CACHE_WORKS, LM_CACHE_FULL, LM_CACHE_READ_ONLY, LM_CACHE_GONE, LM_CACHE_BROKEN };
const char *lm_cache_state_text(enum lm_cache_state state); /* "works", "full", "read-only", "gone", "broken" */

struct lm_cache_stats {
	uint64_t bytes, objects; /* on disk, in whole blocks */
	uint64_t quota;		 /* 0: none */
	uint64_t capacity;	 /* what may be used now: quota and reserve together; UINT64_MAX: no limit */
	uint64_t reserve, free;	 /* of the file system, bytes: to be left free, and free */
	uint64_t running;	 /* bytes of running downloads, as if complete */
	uint64_t memory;	 /* bytes of objects in memory */
	uint64_t index_memory;	 /* bytes of our knowledge about the objects */
	uint64_t kept_bytes;	 /* held by durable pins */
	uint64_t pinned;	 /* objects in use in this process */
	unsigned layers_in_use;	 /* mounted by running containers, when last evicted */
	uint64_t hits, misses;	 /* of lm_cache_open() */
	uint64_t commits, evicted, evicted_bytes;
	uint64_t refetched, refetched_bytes; /* committed again within an hour of their eviction */
	uint64_t uncached;		     /* objects that went to memory because of a fault */
	uint64_t verified, damaged;	     /* after an unclean end of the machine, and by checks */
	uint64_t faults;		     /* operations of the disk that failed */
	enum lm_cache_state state;
	int state_errno;	  /* of the last fault, while the state is not "works" */
	bool counting;		  /* what was there at start is still being counted */
	bool leads;		  /* this process evicts */
	bool unclean;		  /* files of another epoch are verified before use */
	bool thrashing;		  /* a good part of what is fetched was evicted shortly before */
	unsigned refetch_percent; /* of the bytes committed in the last minutes */
};
void lm_cache_stats(struct lm_cache *cache, struct lm_cache_stats *ret);

#endif
