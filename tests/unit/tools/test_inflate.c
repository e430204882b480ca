#include "convert/inflate.h"
#include "convert_test.h"

#include <openssl/evp.h>
#include <zlib.h>
#include <zstd.h>

enum { CONTENT = 6 << 20 }; /* more than the ring holds */

struct source {
	const struct lm_buf *data;
	size_t at, step;
	int fail; /* instead of the end */
};

static ssize_t read_source(void *arg, void *ret, size_t len, struct lm_err *err)
{
	struct source *source = arg;
	size_t n = LM_MIN(LM_MIN(len, source->step), source->data->len - source->at);
	if (n == 0 && source->fail)
		return lm_err_set(err, source->fail, "the source failed");
	memcpy(ret, source->data->data + source->at, n);
	source->at += n;
	return (ssize_t)n;
}

static void make_content(struct lm_buf *content, size_t len)
{
	uint32_t x = 12345;
	for (size_t i = 0; i < len / 4; i++) {
		x = x * 1664525 + 1013904223;
		uint32_t word = x >> 24; /* compresses somewhat */
		tm_append(content, &word, 4);
	}
}

static void gzip(struct lm_buf *out, const void *data, size_t len)
{
	z_stream z = {0};
	assert_int_equal(deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	size_t bound = deflateBound(&z, len);
	assert_int_equal(lm_buf_reserve(out, bound), 0);
	z.next_in = (uint8_t *)data;
	z.avail_in = (unsigned)len;
	z.next_out = out->data + out->len;
	z.avail_out = (unsigned)bound;
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	out->len += z.total_out;
	deflateEnd(&z);
}

static void zstd(struct lm_buf *out, const void *data, size_t len)
{
	size_t bound = ZSTD_compressBound(len);
	assert_int_equal(lm_buf_reserve(out, bound), 0);
	size_t n = ZSTD_compress(out->data + out->len, bound, data, len, 1);
	assert_false(ZSTD_isError(n));
	out->len += n;
}

static void expect_digest(const struct lm_buf *content, const char *digest)
{
	uint8_t bytes[32];
	char want[80] = "sha256:";
	assert_int_equal(EVP_Digest(content->data, content->len, bytes, NULL, EVP_sha256(), NULL), 1);
	for (int i = 0; i < 32; i++)
		sprintf(want + 7 + 2 * i, "%02x", bytes[i]);
	assert_string_equal(digest, want);
}

/* Inflates all of it. Returns the code; at the end content, size and digest are compared. */
static int inflate_all(const struct lm_buf *blob, size_t step, int fail, const struct lm_buf *want, struct lm_err *err)
{
	struct source source = {blob, 0, step, fail};
	CLEANUP(lm_inflate_freep) struct lm_inflate *inflater = NULL;
	CLEANUP(lm_buf_done) struct lm_buf got = LM_BUF(64 << 20);
	assert_int_equal(lm_inflate_start(read_source, &source, &inflater, err), 0);
	for (;;) {
		const uint8_t *span;
		ssize_t n = lm_inflate_next(inflater, &span, err);
		if (n < 0) {
			assert_int_equal(lm_inflate_next(inflater, &span, NULL), n); /* and stays so */
			return (int)n;
		}
		if (n == 0)
			break;
		tm_append(&got, span, (size_t)n);
	}
	assert_int_equal(got.len, want->len);
	if (want->len > 0)
		assert_memory_equal(got.data, want->data, want->len);
	assert_int_equal(lm_inflate_size(inflater), want->len);
	assert_int_equal(lm_inflate_consumed(inflater), blob->len);
	expect_digest(want, lm_inflate_digest(inflater));
	return 0;
}

typedef void compress_fn(struct lm_buf *out, const void *data, size_t len);

static void plain(struct lm_buf *out, const void *data, size_t len)
{
	tm_append(out, data, len);
}

static compress_fn *const formats[] = {plain, gzip, zstd};

static void test_formats(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(64 << 20);
	make_content(&content, CONTENT);
	for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
		CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(64 << 20);
		formats[i](&blob, content.data, content.len);
		const size_t steps[] = {1 << 20, 1000, 65537};
		for (size_t k = 0; k < ARRAY_LEN(steps); k++)
			assert_int_equal(inflate_all(&blob, steps[k], 0, &content, NULL), 0);
	}
}

static void test_small(void **state)
{
	static const char *const texts[] = {"", "a", "\x1f", "\x1f\x8b", "\x28\xb5\x2f", "abcd"};
	for (size_t t = 0; t < ARRAY_LEN(texts); t++) {
		CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(100);
		tm_append(&content, texts[t], strlen(texts[t]));
		for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
			CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(1000);
			formats[i](&blob, content.data, content.len);
			assert_int_equal(inflate_all(&blob, 1, 0, &content, NULL), 0);
		}
	}
}

static void test_several_members(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(64 << 20);
	make_content(&content, 1 << 20);
	for (size_t i = 1; i < ARRAY_LEN(formats); i++) {
		CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(64 << 20);
		formats[i](&blob, content.data, 1000);
		formats[i](&blob, NULL, 0);
		formats[i](&blob, content.data + 1000, content.len - 1000);
		assert_int_equal(inflate_all(&blob, 777, 0, &content, NULL), 0);
	}
}

static void test_skippable_frame(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(100), blob = LM_BUF(1000);
	tm_append(&content, "hello", 5);
	tm_append(&blob, "\x5f\x2a\x4d\x18\x03\0\0\0abc", 11);
	zstd(&blob, "hello", 5);
	assert_int_equal(inflate_all(&blob, 100, 0, &content, NULL), 0);
}

static void test_cut_short(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(64 << 20);
	make_content(&content, 100000);
	for (size_t i = 1; i < ARRAY_LEN(formats); i++) {
		CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(64 << 20);
		formats[i](&blob, content.data, content.len);
		const size_t whole = blob.len;
		const size_t lens[] = {5, 12, whole / 2, whole - 5, whole - 1};
		for (size_t k = 0; k < ARRAY_LEN(lens); k++) {
			struct lm_err err = LM_ERR_INIT;
			blob.len = lens[k];
			assert_int_equal(inflate_all(&blob, 1000, 0, &content, &err), -EPROTO);
			assert_non_null(strstr(err.msg, "cut short"));
		}
	}
}

static void test_damaged(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(64 << 20);
	make_content(&content, 100000);
	for (size_t i = 1; i < ARRAY_LEN(formats); i++) {
		CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(64 << 20);
		formats[i](&blob, content.data, content.len);
		tm_append(&blob, "garbage after the end", 21);
		assert_int_equal(inflate_all(&blob, 1000, 0, &content, NULL), -EPROTO);
		memset(blob.data + 100, 0xff, 200);
		assert_int_equal(inflate_all(&blob, 1000, 0, &content, NULL), -EPROTO);
	}
}

/* What the source says at its end (a blob's wrong digest) is the reader's answer, and content before it is no success.
 */
static void test_source_fails(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(64 << 20);
	make_content(&content, 100000);
	for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
		CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(64 << 20);
		struct lm_err err = LM_ERR_INIT;
		formats[i](&blob, content.data, content.len);
		assert_int_equal(inflate_all(&blob, 1000, -EBADMSG, &content, &err), -EBADMSG);
		assert_string_equal(err.msg, "the source failed");
		blob.len = 2;
		assert_int_equal(inflate_all(&blob, 1000, -EIO, &content, &err), -EIO);
	}
}

/* Freed in the middle: with a full ring, and before anything was read. */
static void test_given_up(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(64 << 20);
	make_content(&content, CONTENT);
	for (int reads = 0; reads < 3; reads++) {
		struct source source = {&content, 0, 100000, 0};
		CLEANUP(lm_inflate_freep) struct lm_inflate *inflater = NULL;
		assert_int_equal(lm_inflate_start(read_source, &source, &inflater, NULL), 0);
		for (int i = 0; i < reads; i++) {
			const uint8_t *span;
			assert_true(lm_inflate_next(inflater, &span, NULL) > 0);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_formats),
		cmocka_unit_test(test_small),
		cmocka_unit_test(test_several_members),
		cmocka_unit_test(test_skippable_frame),
		cmocka_unit_test(test_cut_short),
		cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_source_fails),
		cmocka_unit_test(test_given_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
