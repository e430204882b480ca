/*
 * Pieces of content on their way into the storage: packed on all cores, in bounded memory. What a ledger knows is
 * neither packed nor stored again.
 *
 *   lm_packing_piece()    a buffer to fill; waits while too many bytes are on their way
 *   lm_packing_put()      hands it over; its hash appears in *ret_hash, some time before lm_packing_wait() returns
 *   lm_packing_wait()     all is stored, or the first failure
 *
 * After a failure everything fails quickly with it. One thread hands over; the storage is used by several at once.
 */
#ifndef LM_TOOLS_PACKING_H
#define LM_TOOLS_PACKING_H

#include "convert/ledger.h"
#include "convert/stages.h"
#include "repo/storage.h"

struct lm_packing_piece { /* filled by the caller */
	size_t len;
	uint8_t data[];
};

struct lm_packing_stats {
	uint64_t objects, bytes; /* new ones, bytes as stored */
	uint64_t pieces;	 /* all */
	uint64_t content_bytes;	 /* of all pieces */
	uint64_t known_bytes;	 /* of those whose content the storage had */
	uint64_t spared_bytes;	 /* of these, by the ledger, so that they were not even packed */
	struct lm_stage_times times;
};

struct lm_packing;
/*
 * The hash of content by itself, not as it is stored: SHA-256, its first 20 bytes, for comparisons (the algorithm in
 * *ret means nothing).
 */
int lm_content_hash(const void *data, size_t len, struct lm_hash *ret, struct lm_err *err) MUST_CHECK;

/* in_flight_max: bytes of content; a single piece may be larger. storage NULL: nothing is packed and stored, the hashes
 * are lm_content_hash(). */
int lm_packing_new(struct lm_storage *storage, enum lm_hash_algo algo, unsigned threads, size_t in_flight_max,
	struct lm_packing **ret, struct lm_err *err) MUST_CHECK;
/* Waits for what is on its way: destinations of hashes must live until then. */
void lm_packing_free(struct lm_packing *packing);
LM_DEFINE_CLEANUP(struct lm_packing, lm_packing_free, lm_packing_freep)

/* Before the first piece; the ledger outlives the packing. */
int lm_packing_use(struct lm_packing *packing, struct lm_ledger *ledger, struct lm_err *err) MUST_CHECK;

int lm_packing_piece(
	struct lm_packing *packing, size_t len, struct lm_packing_piece **ret, struct lm_err *err) MUST_CHECK;
/* Takes ownership. */
void lm_packing_put(
	struct lm_packing *packing, struct lm_packing_piece *piece, enum lm_object_kind kind, struct lm_hash *ret_hash);
/* What is queued is dropped, and everything fails with this error from now on. From any thread. */
void lm_packing_cancel(struct lm_packing *packing, int code, const char *why);
/* Instead of putting it. NULL: nothing. */
void lm_packing_drop(struct lm_packing *packing, struct lm_packing_piece *piece);
int lm_packing_wait(struct lm_packing *packing, struct lm_err *err) MUST_CHECK;

/* Small content in one go: put and waited for. */
int lm_packing_data(
	struct lm_packing *packing, const void *data, size_t len, struct lm_hash *ret, struct lm_err *err) MUST_CHECK;

void lm_packing_stats(struct lm_packing *packing, struct lm_packing_stats *ret);

#endif
