/*
 * What the cache knows of its objects without asking the disk: when each was last used, its size there, for which
 * layer.
 *
 * 256 tables, by the first byte of the digest like the folders, each with its lock: open addressing in the order of
 * the keys, 20 bytes an entry, grown by quarters, so a million objects take about 26 MB and a hundred thousand 2.6 MB.
 * 64 more bits of the digest stand for an object; should two ever share them, they are used and evicted together.
 *
 * It is a memory of the directory, never its master: whatever is missing here is learned again from the file. Any
 * thread may call anything; nothing waits but for a table's lock.
 */
#ifndef LM_FETCHER_CACHE_INDEX_H
#define LM_FETCHER_CACHE_INDEX_H

#include "repo/object.h"

#include <stdbool.h>

enum { LM_INDEX_FOLDERS = 256, LM_INDEX_BLOCK = 4096 /* bytes */ };

struct lm_index_key {
	uint8_t folder;
	uint64_t rest; /* never 0 */
};
struct lm_index_key lm_index_key(const struct lm_hash *hash, enum lm_object_kind kind);

enum lm_index_flags {
	LM_INDEX_KNOWN = 1,    /* the file's own record was read */
	LM_INDEX_TRUSTED = 2,  /* its content needs no verification */
	LM_INDEX_KEPT = 4,     /* a durable pin holds it */
	LM_INDEX_DATABASE = 8, /* a catalog or history */
	LM_INDEX_SEEN = 16,    /* by the scan that is under way */
};

enum { LM_INDEX_LAYER_MAX = 4095 };

struct lm_index_item {
	uint64_t used_ms; /* below 2^40 */
	uint32_t blocks;
	uint16_t layer; /* 0: none */
	uint16_t flags;
};

struct lm_index;
struct lm_index *lm_index_new(size_t objects_max); /* more are not remembered. NULL: no memory */
void lm_index_free(struct lm_index *index);
LM_DEFINE_CLEANUP(struct lm_index, lm_index_free, lm_index_freep)

/* Whether the object is known; its use is noted: the moment, and the layer, unless keep_layer. */
bool lm_index_use(struct lm_index *index, struct lm_index_key key, uint64_t now_ms, uint16_t layer,
	bool (*keep_layer)(void *arg, uint16_t layer), void *arg, struct lm_index_item *ret);
bool lm_index_get(struct lm_index *index, struct lm_index_key key, struct lm_index_item *ret);
/* Adds or replaces. Without memory, or beyond objects_max, a new one is forgotten. */
void lm_index_put(struct lm_index *index, struct lm_index_key key, const struct lm_index_item *item);
void lm_index_flag(struct lm_index *index, struct lm_index_key key, unsigned set, unsigned clear);
void lm_index_set_layer(struct lm_index *index, struct lm_index_key key, uint16_t layer);
/* Only where it was not used after `upto_ms`: true when it was removed. */
bool lm_index_remove(struct lm_index *index, struct lm_index_key key, uint64_t upto_ms);

/* With the folder's lock held; fn must not call back. It may change the flags. */
typedef void lm_index_fn(void *arg, struct lm_index_item *item);
void lm_index_each(struct lm_index *index, uint8_t folder, lm_index_fn *fn, void *arg);
/* Forgets those of the folder that lack the flag, and clears it on the others. */
void lm_index_prune(struct lm_index *index, uint8_t folder, unsigned flag);

struct lm_index_sums {
	uint64_t objects, blocks;
};
struct lm_index_sums lm_index_sums(const struct lm_index *index);
size_t lm_index_memory(struct lm_index *index); /* bytes of the tables */

#endif
