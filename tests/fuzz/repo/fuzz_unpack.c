/*
 * The first byte chooses compression and size of the pieces, the rest is a stored object, with its right hash. The
 * two ways to unpack (streaming by zlib, whole by libdeflate) must agree on whatever both accept.
 */
#include "repo/object.h"

#include <assert.h>

enum { CONTENT_MAX = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int sink(void *arg, const void *data, size_t len, struct lm_err *err)
{
	int r = lm_buf_append(arg, data, len);
	assert(r == 0); /* never more than was allowed */
	return 0;
}

static int stream(const struct lm_hash *hash, enum lm_compression compression, const uint8_t *data, size_t size,
	size_t piece, struct lm_buf *out)
{
	CLEANUP(lm_unpack_freep) struct lm_unpack *unpack = NULL;
	int r = lm_unpack_new(hash, compression, CONTENT_MAX, sink, out, &unpack, NULL);
	for (size_t at = 0; r == 0 && at < size; at += piece)
		r = lm_unpack_feed(unpack, data + at, LM_MIN(piece, size - at), NULL);
	uint64_t content_size = 0;
	if (r == 0)
		r = lm_unpack_finish(unpack, &content_size, NULL);
	assert(r < 0 || content_size == out->len);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	enum lm_compression compression = data[0] & 1 ? LM_COMPRESSION_NONE : LM_COMPRESSION_ZLIB;
	size_t piece = (size_t)1 << (data[0] >> 1 & 15);
	struct lm_hash hash, wrong;
	CLEANUP(lm_buf_done) struct lm_buf streamed = LM_BUF(CONTENT_MAX), whole = LM_BUF(CONTENT_MAX);
	if (lm_hash_data(LM_HASH_SHA1, data + 1, size - 1, &hash, NULL) < 0)
		return 0;
	int r1 = stream(&hash, compression, data + 1, size - 1, piece, &streamed);
	int r2 = lm_unpack_buf(&hash, compression, data + 1, size - 1, &whole, NULL);
	if (r1 == 0 && r2 == 0)
		assert(streamed.len == whole.len && (whole.len == 0 || !memcmp(streamed.data, whole.data, whole.len)));
	assert(r2 == 0 || whole.len == 0);
	wrong = hash;
	wrong.bytes[0] ^= 1;
	lm_buf_clear(&streamed);
	int r3 = stream(&wrong, compression, data + 1, size - 1, piece, &streamed);
	assert(r3 == -EBADMSG ||
		(r3 == -EPROTO && r1 == -EPROTO)); /* the latter: a bomb ends before its hash is known */
	return 0;
}
