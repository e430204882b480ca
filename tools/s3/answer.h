/*
 * What an S3 server says in XML: errors and listings. Anything may come; documents with a type declaration (the way to
 * entities) are refused, and nothing grows with the input.
 */
#ifndef LM_TOOLS_S3_ANSWER_H
#define LM_TOOLS_S3_ANSWER_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { LM_S3_KEY_MAX = 1024 /* bytes, S3's own limit */, LM_S3_TOKEN_MAX = 2048 };

struct lm_s3_error {
	char code[64];	   /* "NoSuchKey"; "" where there was none */
	char message[256]; /* cut to fit */
};
/* <Error>, on its own, is what ret becomes: 0; -ENOENT where the text is another document or none at all. */
int lm_s3_error_parse(const char *text, size_t len, struct lm_s3_error *ret);

typedef int lm_s3_object_fn(void *arg, const char *key, uint64_t size);

struct lm_s3_page {
	bool more;		     /* ask again with the token */
	char token[LM_S3_TOKEN_MAX]; /* continuation */
};
/* One page of ListObjectsV2: fn for each object, in their order; what it returns, if not 0, ends it and is returned.
 * -EPROTO. */
int lm_s3_page_parse(const char *text, size_t len, lm_s3_object_fn *fn, void *arg, struct lm_s3_page *ret,
	struct lm_err *err) MUST_CHECK;

#endif
