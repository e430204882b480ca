/*
 * The cache: verified, inflated objects as ordinary files, DIR/cache/xx/REST[TAG][SUFFIX].
 *
 * The directory is the index: nothing else says what is cached, so nothing can disagree with it. An object appears
 * whole, under its final name, by link(2) or rename(2); what a crash leaves half-written has no name (O_TMPFILE) or
 * lies in DIR/txn, which is emptied at start. A file of another size than the caller expects (a power loss cut it
 * short) counts as absent and is replaced by the next commit.
 *
 *   lm_cache_begin() - lm_cache_write()... - lm_cache_commit() - use lm_cache_txn_fd() - lm_cache_txn_free()
 *
 * Whoever commits vouches for the content: nothing is verified here. When the disk is full, a transaction goes on in
 * memory (bounded, see LM_CACHE_MEMORY_MAX); it can be read from its descriptor, but has no name and is gone with it.
 *
 * One transaction belongs to one thread at a time; everything else may be called from any thread.
 */
#ifndef LM_FETCHER_CACHE_H
#define LM_FETCHER_CACHE_H

#include "base/err.h"
#include "repo/object.h"

#include <stdbool.h>

#define LM_SIZE_UNKNOWN UINT64_MAX
enum { LM_CACHE_MEMORY_MAX = 256 << 20 }; /* bytes of all transactions that found the disk full, together */

/* An object and what its content must be; what tree.h asks for, fetch.h fetches and the cache keeps. */
struct lm_object_ref {
	struct lm_hash hash;
	enum lm_object_kind kind;
	enum lm_compression compression;
	uint64_t size;	  /* of the content; LM_SIZE_UNKNOWN where nothing trustworthy says it */
	bool alternative; /* to be fetched by its alternative name, beside data/ */
};

/* Databases are used under their name in the cache, so they must have one. */
static inline bool lm_object_is_database(enum lm_object_kind kind)
{
	return kind == LM_OBJECT_CATALOG || kind == LM_OBJECT_HISTORY;
}

struct lm_cache;

/* dir is created (0700) and locked: -EBUSY while another process has it. Counting what is there begins in the
 * background. */
int lm_cache_new(const char *dir, struct lm_cache **ret, struct lm_err *err) MUST_CHECK;
void lm_cache_free(struct lm_cache *cache); /* after its transactions; joins the counting thread */
LM_DEFINE_CLEANUP(struct lm_cache, lm_cache_free, lm_cache_freep)

/* A descriptor open for reading, owned by the caller; -ENOENT when the object is not there. */
int lm_cache_open(struct lm_cache *cache, const struct lm_object_ref *ref) MUST_CHECK;

/* Where the object's file is or would be. */
enum { LM_CACHE_NAME_MAX = LM_OBJECT_PATH_MAX };
char *lm_cache_path(const struct lm_cache *cache, const struct lm_object_ref *ref); /* malloc; NULL: no memory */

struct lm_cache_txn;
int lm_cache_begin(struct lm_cache *cache, struct lm_cache_txn **ret, struct lm_err *err) MUST_CHECK;
int lm_cache_write(struct lm_cache_txn *txn, const void *data, size_t len, struct lm_err *err) MUST_CHECK;
int lm_cache_txn_fd(const struct lm_cache_txn *txn); /* owned by the transaction; readable at any time */
/*
 * 0: the object is cached. -ENOSPC: there is no room for it on the disk; its content stays readable by the descriptor.
 * A database is made durable before it gets its name: a damaged one would be noticed late.
 */
int lm_cache_commit(struct lm_cache_txn *txn, const struct lm_object_ref *ref, struct lm_err *err) MUST_CHECK;
void lm_cache_txn_free(struct lm_cache_txn *txn); /* without commit: nothing remains */
LM_DEFINE_CLEANUP(struct lm_cache_txn, lm_cache_txn_free, lm_cache_txn_freep)

struct lm_cache_stats {
	uint64_t bytes, objects;
	bool counting;	   /* what was there at start is still being counted */
	uint64_t uncached; /* objects served from memory because the disk was full */
};
void lm_cache_stats(struct lm_cache *cache, struct lm_cache_stats *ret);

#endif
