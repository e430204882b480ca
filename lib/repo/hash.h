/*
 * Content hashes of the CVMFS format.
 *
 * Three algorithms name objects: SHA-1, RIPEMD-160 and SHAKE128 cut to 160 bits, so a digest has 20 bytes. The
 * text form is lower-case hex plus a tag ("" / "-rmd160" / "-shake128"). MD5 names only paths (pathhash.h).
 * An object's hash is over the bytes as stored, that is over the compressed stream.
 */
#ifndef LM_REPO_HASH_H
#define LM_REPO_HASH_H

#include "base/err.h"

#include <stdbool.h>
#include <string.h>

enum lm_hash_algo { LM_HASH_SHA1 = 0, LM_HASH_RMD160 = 1, LM_HASH_SHAKE128 = 2 }; /* numbers as in catalog flags */

enum { LM_HASH_BYTES = 20, LM_HASH_TEXT_MAX = 50 /* 40 digits, the longest tag, NUL */ };

struct lm_hash {
	uint8_t bytes[LM_HASH_BYTES];
	uint8_t algo;
	bool set; /* false: "no hash"; all-zero struct */
};

/* text[0..len) is exactly a hash text: 0 or -EPROTO. */
int lm_hash_parse(const char *text, size_t len, struct lm_hash *ret, struct lm_err *err) MUST_CHECK;

/* Returns ret, filled with digits and tag. */
const char *lm_hash_format(const struct lm_hash *hash, char ret[LM_HASH_TEXT_MAX]);
struct lm_hash_text {
	char s[LM_HASH_TEXT_MAX];
};
struct lm_hash_text lm_hash_text(const struct lm_hash *hash); /* for format arguments: lm_hash_text(&h).s */

bool lm_hash_equal(const struct lm_hash *a, const struct lm_hash *b); /* also the algorithm; two unset ones are equal */
int lm_hash_cmp(const struct lm_hash *a, const struct lm_hash *b);    /* a total order, for trees */

/* Hashing while data streams by. -EOPNOTSUPP: this build of OpenSSL lacks the algorithm. */
struct lm_hasher;
int lm_hasher_new(enum lm_hash_algo algo, struct lm_hasher **ret, struct lm_err *err) MUST_CHECK;
void lm_hasher_free(struct lm_hasher *hasher);
LM_DEFINE_CLEANUP(struct lm_hasher, lm_hasher_free, lm_hasher_freep)
void lm_hasher_update(struct lm_hasher *hasher, const void *data, size_t len);
/* Once; then only restart or free. Should the cryptographic library fail, *ret is an unset hash. */
void lm_hasher_finish(struct lm_hasher *hasher, struct lm_hash *ret);
void lm_hasher_restart(struct lm_hasher *hasher); /* begins the next hash with the same algorithm */

int lm_hash_data(
	enum lm_hash_algo algo, const void *data, size_t len, struct lm_hash *ret, struct lm_err *err) MUST_CHECK;
/* Of the whole file, whatever its position. */
int lm_hash_fd(enum lm_hash_algo algo, int fd, struct lm_hash *ret, struct lm_err *err) MUST_CHECK;

#endif
