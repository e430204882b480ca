/*
 * The extended attributes of a row: version byte 1, count, then per attribute key length, value length, key, value.
 *
 * At most 255 attributes, keys of 1..255 bytes without NUL and values of 0..255 bytes. An unknown version, a key out of
 * these bounds or a blob cut short reads as -EPROTO for the whole blob (a reader then shows the file without
 * attributes); bytes after the last attribute are ignored, and an empty blob has no attributes.
 */
#ifndef LM_REPO_XATTR_H
#define LM_REPO_XATTR_H

#include "base/buf.h"

enum {
	LM_XATTR_KEY_MAX = 255,
	LM_XATTR_VALUE_MAX = 255,
	LM_XATTR_COUNT_MAX = 255,
	LM_XATTR_BLOB_MAX = 2 + 255 * (2 + 255 + 255)
};

struct lm_xattr {
	const char *key; /* not NUL-terminated: points into the blob */
	size_t key_len;
	const void *value;
	size_t value_len;
};

/* Iteration: *at starts as 0 and means nothing else to the caller. 1: one more in *ret; 0: end; -EPROTO. */
int lm_xattr_next(const void *blob, size_t len, size_t *at, struct lm_xattr *ret) MUST_CHECK;

/* 0 and *ret, or -ENODATA, or -EPROTO. */
int lm_xattr_find(const void *blob, size_t len, const char *key, struct lm_xattr *ret) MUST_CHECK;

/* Appends a blob, keys in byte order (the array is sorted in place). -E2BIG (too long, too many), -EEXIST (twice the
 * same) name the key; -EINVAL: empty key or one with a NUL. No attributes: nothing is appended. */
int lm_xattr_encode(struct lm_xattr *attrs, size_t count, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;

#endif
