/*
 * Whole objects into a storage and out of it: packed on the way in, verified and unpacked on the way out. Databases go
 * by way of files, so memory stays bounded. An object that is asked for and missing is -EIO: something names it.
 */
#ifndef LM_REPO_OBJECT_STORE_H
#define LM_REPO_OBJECT_STORE_H

#include "repo/object.h"
#include "repo/storage.h"

/* A zlib object from memory; left alone where it is already. */
int lm_object_store(struct lm_storage *storage, struct lm_packer *packer, enum lm_object_kind kind, const void *data,
	size_t len, struct lm_hash *ret, struct lm_err *err) MUST_CHECK;
int lm_object_store_file(struct lm_storage *storage, enum lm_hash_algo algo, enum lm_object_kind kind, const char *path,
	struct lm_hash *ret, uint64_t *ret_size, struct lm_err *err) MUST_CHECK;

/* Appends the content, at most ret->max bytes in all. */
int lm_object_load(struct lm_storage *storage, const struct lm_hash *hash, enum lm_object_kind kind,
	enum lm_compression compression, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;
/* Unpacks a zlib object into a new file at path (removed again after a failure). */
int lm_object_load_file(struct lm_storage *storage, const struct lm_hash *hash, enum lm_object_kind kind,
	uint64_t content_max, const char *path, struct lm_err *err) MUST_CHECK;

#endif
