/*
 * Pieces of content on their way into the storage: packed on all cores, in bounded memory.
 *
 *   lm_store_piece()    a buffer to fill; waits while too many bytes are on their way
 *   lm_store_put()      hands it over; its hash appears in *ret_hash, some time before lm_store_wait() returns
 *   lm_store_wait()     all is stored, or the first failure
 *
 * After a failure everything fails quickly with it. One thread hands over; the storage is used by several at once.
 */
#ifndef LM_TOOLS_STORE_H
#define LM_TOOLS_STORE_H

#include "repo/storage.h"

struct lm_store_piece { /* filled by the caller */
	size_t len;
	uint8_t data[];
};

struct lm_store_stats {
	uint64_t objects, bytes; /* new ones, bytes as stored */
	uint64_t pieces;	 /* all */
};

struct lm_store;
/* in_flight_max: bytes of content; a single piece may be larger. */
int lm_store_new(struct lm_storage *storage, enum lm_hash_algo algo, unsigned threads, size_t in_flight_max,
	struct lm_store **ret, struct lm_err *err) MUST_CHECK;
/* Waits for what is on its way: destinations of hashes must live until then. */
void lm_store_free(struct lm_store *store);
LM_DEFINE_CLEANUP(struct lm_store, lm_store_free, lm_store_freep)

int lm_store_piece(struct lm_store *store, size_t len, struct lm_store_piece **ret, struct lm_err *err) MUST_CHECK;
/* Takes ownership. */
void lm_store_put(
	struct lm_store *store, struct lm_store_piece *piece, enum lm_object_kind kind, struct lm_hash *ret_hash);
/* Instead of putting it. NULL: nothing. */
void lm_store_drop(struct lm_store *store, struct lm_store_piece *piece);
int lm_store_wait(struct lm_store *store, struct lm_err *err) MUST_CHECK;

/* Small content in one go: put and waited for. */
int lm_store_data(
	struct lm_store *store, const void *data, size_t len, struct lm_hash *ret, struct lm_err *err) MUST_CHECK;

void lm_store_stats(struct lm_store *store, struct lm_store_stats *ret);

#endif
