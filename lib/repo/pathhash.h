/*
 * Path hashes: how catalogs name rows.
 *
 * md5 of the absolute path inside the repository, without trailing slash; the root is the empty string. The two
 * halves are little-endian signed 64-bit numbers (columns md5path_1, md5path_2).
 */
#ifndef LM_REPO_PATHHASH_H
#define LM_REPO_PATHHASH_H

#include "base/macros.h"

#include <stdbool.h>

struct lm_path_hash {
	int64_t a, b;
};

struct lm_path_hash lm_path_hash(const char *path, size_t len);
static inline bool lm_path_hash_equal(struct lm_path_hash x, struct lm_path_hash y)
{
	return x.a == y.a && x.b == y.b;
}

#endif
