#include "repo/object.h"
#include "repo_test.h"

#include <libdeflate.h>
#include <zlib.h>

static const enum lm_hash_algo algos[] = {LM_HASH_SHA1, LM_HASH_RMD160, LM_HASH_SHAKE128};
static const enum lm_compression compressions[] = {LM_COMPRESSION_ZLIB, LM_COMPRESSION_NONE};
static const size_t sizes[] = {0, 1, 17, 4096, 65535, 65536, 65537, 300000};

/* Half noise, half text: compressible, but not to nothing. */
static uint8_t *content_of(size_t size)
{
	uint8_t *content = malloc(size ? size : 1);
	assert_non_null(content);
	uint32_t x = 1;
	for (size_t i = 0; i < size; i++) {
		x = x * 1664525 + 1013904223;
		content[i] = i % 1024 < 512 ? (uint8_t)(x >> 24) : (uint8_t)('a' + i % 7);
	}
	return content;
}

static int sink_buf(void *arg, const void *data, size_t len, struct lm_err *err)
{
	int r = lm_buf_append(arg, data, len);
	return r < 0 ? lm_err_sys(err, r, "sink") : 0;
}

/* Feeds pieces of the given size and finishes. */
static int unpack(const struct lm_hash *hash, enum lm_compression compression, const void *stored, size_t len,
	size_t piece, uint64_t max, struct lm_buf *out, struct lm_err *err)
{
	CLEANUP(lm_unpack_freep) struct lm_unpack *u = NULL;
	assert_ok(lm_unpack_new(hash, compression, max, sink_buf, out, &u, err), err);
	for (size_t at = 0; at < len; at += piece) {
		int r = lm_unpack_feed(u, (const uint8_t *)stored + at, LM_MIN(piece, len - at), err);
		if (r < 0) {
			assert_int_equal(lm_unpack_finish(u, NULL, NULL), r);
			return r;
		}
	}
	uint64_t size = 0;
	int r = lm_unpack_finish(u, &size, err);
	if (r == 0)
		assert_int_equal(size, out->len);
	return r;
}

static void round_trip(struct lm_packer *packer, enum lm_compression compression, size_t size)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) uint8_t *content = content_of(size);
	CLEANUP(lm_buf_done) struct lm_buf stored = LM_BUF(1 << 20);
	struct lm_hash hash, again;
	assert_ok(lm_pack(packer, compression, content, size, &stored, &hash, &err), &err);
	assert_ok(lm_hash_data(hash.algo, stored.data, stored.len, &again, &err), &err);
	assert_true(lm_hash_equal(&hash, &again));
	for (size_t piece = 1; piece <= (1 << 20); piece *= 1024) {
		if (piece == 1 && size > 70000)
			continue;
		CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(1 << 20);
		assert_ok(unpack(&hash, compression, stored.data, stored.len, piece, size, &out, &err), &err);
		assert_int_equal(out.len, size);
		if (size > 0)
			assert_memory_equal(out.data, content, size);
	}
	CLEANUP(lm_buf_done) struct lm_buf whole = LM_BUF(size + 2);
	assert_int_equal(lm_buf_str(&whole, "><"), 0);
	assert_ok(lm_unpack_buf(&hash, compression, stored.data, stored.len, &whole, &err), &err);
	assert_int_equal(whole.len, size + 2);
	assert_memory_equal(whole.data + 2, content, size);
}

static void test_round_trips(void **state)
{
	for (size_t a = 0; a < ARRAY_LEN(algos); a++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_packer_freep) struct lm_packer *packer = NULL;
		assert_ok(lm_packer_new(algos[a], &packer, &err), &err);
		for (size_t c = 0; c < ARRAY_LEN(compressions); c++)
			for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
				round_trip(packer, compressions[c], sizes[s]);
	}
}

static void test_paths(void **state)
{
	struct lm_hash hash;
	char path[LM_OBJECT_PATH_MAX];
	assert_int_equal(lm_hash_parse("c39b376cee68a9221393f25c7a5fb46a56ec2947", 40, &hash, NULL), 0);
	assert_string_equal(
		lm_object_path(&hash, LM_OBJECT_CATALOG, path), "data/c3/9b376cee68a9221393f25c7a5fb46a56ec2947C");
	assert_string_equal(
		lm_object_path(&hash, LM_OBJECT_FILE, path), "data/c3/9b376cee68a9221393f25c7a5fb46a56ec2947");
	hash.algo = LM_HASH_SHAKE128;
	assert_string_equal(lm_object_path(&hash, LM_OBJECT_CHUNK, path),
		"data/c3/9b376cee68a9221393f25c7a5fb46a56ec2947-shake128P");
}

static void test_names(void **state)
{
	static const char *const good[] = {"data/c3/9b376cee68a9221393f25c7a5fb46a56ec2947",
		"data/c3/9b376cee68a9221393f25c7a5fb46a56ec2947C",
		"data/c3/9b376cee68a9221393f25c7a5fb46a56ec2947-rmd160",
		"data/c3/9b376cee68a9221393f25c7a5fb46a56ec2947-shake128M"};
	static const char *const bad[] = {"", "data/", "data/c3", "data/c3/", ".cvmfspublished",
		"data/c3/9b376cee68a9221393f25c7a5fb46a56ec2947Z", "data/c3/9b376cee68a9221393f25c7a5fb46a56ec294",
		"data/c3/9b376cee68a9221393f25c7a5fb46a56ec2947CC", "data/c3.9b376cee68a9221393f25c7a5fb46a56ec2947",
		"data/C3/9b376cee68a9221393f25c7a5fb46a56ec2947", "data/txn/c39b376cee68a9221393f25c7a5fb46a56ec2947",
		"data/c3/9b376cee68a9221393f25c7a5fb46a56ec2947-shake128-and-then-something-that-is-far-too-long"};
	struct lm_hash hash;
	enum lm_object_kind kind;
	char path[LM_OBJECT_PATH_MAX];
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		assert_int_equal(lm_object_path_parse(good[i], &hash, &kind), 0);
		assert_string_equal(lm_object_path(&hash, kind, path), good[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(lm_object_path_parse(bad[i], &hash, &kind), -EPROTO);
	const char *name = "c39b376cee68a9221393f25c7a5fb46a56ec2947X and more";
	assert_int_equal(lm_object_name_parse(name, 41, &hash, &kind), 0);
	assert_int_equal(kind, LM_OBJECT_CERTIFICATE);
	assert_int_equal(lm_object_name_parse(name, 42, &hash, &kind), -EPROTO);
	assert_int_equal(lm_object_name_parse(name, 0, &hash, &kind), -EPROTO);
}

/* A stored object made by hand, with its right hash. */
struct object {
	struct lm_buf stored;
	struct lm_hash hash;
};

static void object_make(struct object *o, const void *stored, size_t len)
{
	o->stored = LM_BUF(64 << 20);
	assert_int_equal(lm_buf_append(&o->stored, stored, len), 0);
	assert_int_equal(lm_hash_data(LM_HASH_SHA1, stored, len, &o->hash, NULL), 0);
}

static void object_zlib(struct object *o, size_t content_size, const char *trailing)
{
	CLEANUP(lm_freep) uint8_t *content = calloc(1, content_size);
	uLongf len = compressBound(content_size) + 64;
	CLEANUP(lm_freep) uint8_t *stored = malloc(len);
	assert_int_equal(compress2(stored, &len, content, content_size, 9), Z_OK);
	memcpy(stored + len, trailing, strlen(trailing));
	object_make(o, stored, len + strlen(trailing));
}

static void object_done(struct object *o)
{
	lm_buf_done(&o->stored);
}

static void assert_refused(const struct object *o, uint64_t max, int code, const char *message)
{
	for (size_t piece = 1; piece <= (1 << 20); piece *= 1024) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(64 << 20);
		assert_int_equal(
			unpack(&o->hash, LM_COMPRESSION_ZLIB, o->stored.data, o->stored.len, piece, max, &out, &err),
			code);
		assert_non_null(strstr(err.msg, message));
		assert_non_null(strstr(err.msg, lm_hash_text(&o->hash).s));
		assert_true(out.len <= max);
	}
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(max);
	assert_int_equal(lm_unpack_buf(&o->hash, LM_COMPRESSION_ZLIB, o->stored.data, o->stored.len, &out, &err), code);
	assert_int_equal(out.len, 0);
	assert_string_not_equal(err.msg, "");
}

static void test_bomb(void **state)
{
	CLEANUP(object_done) struct object o;
	object_zlib(&o, 40 << 20, "");
	assert_true(o.stored.len < 50000);
	assert_refused(&o, 1 << 20, -EPROTO, "more content");
	assert_refused(&o, (40 << 20) - 1, -EPROTO, "more content");
	/* Exactly as long as expected is no bomb. */
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(64 << 20);
	assert_int_equal(
		unpack(&o.hash, LM_COMPRESSION_ZLIB, o.stored.data, o.stored.len, 4096, 40 << 20, &out, NULL), 0);
}

static void test_plain_too_long(void **state)
{
	CLEANUP(object_done) struct object o;
	object_make(&o, "0123456789", 10);
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(9);
	assert_int_equal(unpack(&o.hash, LM_COMPRESSION_NONE, o.stored.data, 10, 4, 9, &out, &err), -EPROTO);
	assert_int_equal(out.len, 8);
	lm_buf_clear(&out);
	assert_int_equal(lm_unpack_buf(&o.hash, LM_COMPRESSION_NONE, o.stored.data, 10, &out, &err), -EPROTO);
	assert_int_equal(out.len, 0);
}

/* What follows the stream, is none, or is empty blocks only, is not taken without end. */
static void test_floods(void **state)
{
	static const uint8_t empty_block[] = {0, 0, 0, 0xff, 0xff};
	struct lm_hash hash;
	assert_int_equal(lm_hash_data(LM_HASH_SHA1, "", 0, &hash, NULL), 0);
	for (int kind = 0; kind < 3; kind++) {
		CLEANUP(lm_unpack_freep) struct lm_unpack *u = NULL;
		CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(100), block = LM_BUF(65535);
		struct lm_err err = LM_ERR_INIT;
		uint8_t start[64];
		uLongf start_len = sizeof(start);
		assert_int_equal(compress(start, &start_len, (const uint8_t *)"text", 4), Z_OK);
		assert_ok(lm_unpack_new(&hash, LM_COMPRESSION_ZLIB, 100, sink_buf, &out, &u, &err), &err);
		assert_ok(lm_unpack_feed(u, start, kind == 0 ? start_len : kind == 1 ? 0 : 2, &err), &err);
		while (block.len + sizeof(empty_block) <= block.max)
			assert_ok(lm_buf_append(&block, kind == 2 ? (const void *)empty_block : "flood", 5), &err);
		uint64_t fed = 0;
		int r = 0;
		while (fed < 16 << 20 && (r = lm_unpack_feed(u, block.data, block.len, &err)) == 0)
			fed += block.len;
		assert_int_equal(r, -EPROTO);
		assert_non_null(strstr(err.msg, "no content"));
		assert_in_range(fed, 900 << 10, 1 << 20);
		assert_int_equal(lm_unpack_finish(u, NULL, NULL), -EPROTO);
	}
}

static void test_trailing_bytes(void **state)
{
	CLEANUP(object_done) struct object o;
	object_zlib(&o, 100000, "x");
	assert_refused(&o, 200000, -EPROTO, "after the end");
}

/* Any prefix of a stream: right hash of the prefix, but no whole stream. */
static void test_cut_streams(void **state)
{
	CLEANUP(object_done) struct object whole;
	object_zlib(&whole, 3000, "");
	for (size_t len = 0; len < whole.stored.len; len++) {
		CLEANUP(object_done) struct object o;
		object_make(&o, whole.stored.data, len);
		assert_refused(&o, 3000, -EPROTO, "");
	}
}

static void test_not_zlib(void **state)
{
	static const char *const bad[] = {
		"plain text", "\x1f\x8b\x08 gzip", "\x78\x9c\xff\xff\xff", "\x78\xbb\0\0\0\0\1"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		CLEANUP(object_done) struct object o;
		object_make(&o, bad[i], strlen(bad[i]));
		assert_refused(&o, 1000, -EPROTO, "");
	}
	/* A wrong checksum at the very end. */
	CLEANUP(object_done) struct object good, o;
	object_zlib(&good, 1000, "");
	good.stored.data[good.stored.len - 1] ^= 1;
	object_make(&o, good.stored.data, good.stored.len);
	assert_refused(&o, 1000, -EPROTO, "");
}

/* Whatever else is wrong with it, a transfer that was damaged is judged by its hash. */
static void test_wrong_hash_first(void **state)
{
	CLEANUP(object_done) struct object o;
	object_zlib(&o, 2000, "");
	for (size_t at = 0; at < o.stored.len; at++) {
		o.stored.data[at] ^= 0x10;
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(1 << 20);
		assert_int_equal(
			unpack(&o.hash, LM_COMPRESSION_ZLIB, o.stored.data, o.stored.len, 7, 1 << 20, &out, &err),
			-EBADMSG);
		assert_int_equal(
			lm_unpack_buf(&o.hash, LM_COMPRESSION_ZLIB, o.stored.data, o.stored.len, &out, &err), -EBADMSG);
		o.stored.data[at] ^= 0x10;
	}
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(1 << 20);
	assert_int_equal(unpack(&o.hash, LM_COMPRESSION_ZLIB, o.stored.data, o.stored.len - 1, 7, 1 << 20, &out, &err),
		-EBADMSG);
	assert_int_equal(unpack(&o.hash, LM_COMPRESSION_ZLIB, "", 0, 7, 1 << 20, &out, &err), -EBADMSG);
	/* The right bytes under the name of another algorithm. */
	o.hash.algo = LM_HASH_RMD160;
	assert_int_equal(
		lm_unpack_buf(&o.hash, LM_COMPRESSION_ZLIB, o.stored.data, o.stored.len, &out, &err), -EBADMSG);
}

/* What other writers make: every level of zlib and libdeflate, small windows, flushes inside. */
static void test_foreign_streams(void **state)
{
	CLEANUP(lm_freep) uint8_t *content = content_of(100000);
	static uint8_t stored[300000];
	for (int level = 0; level <= 9; level++) {
		for (int window = 9; window <= 15; window++) {
			z_stream z = {0};
			assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY), Z_OK);
			z.next_in = content;
			z.next_out = stored;
			z.avail_out = sizeof(stored);
			for (unsigned i = 0; i < 10; i++) {
				z.avail_in = 10000;
				deflate(&z, i % 2 ? Z_FULL_FLUSH : Z_NO_FLUSH);
			}
			assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
			CLEANUP(object_done) struct object o;
			object_make(&o, stored, z.total_out);
			deflateEnd(&z);
			struct lm_err err = LM_ERR_INIT;
			CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(100000);
			assert_ok(lm_unpack_buf(&o.hash, LM_COMPRESSION_ZLIB, o.stored.data, o.stored.len, &out, &err),
				&err);
			assert_memory_equal(out.data, content, 100000);
			lm_buf_clear(&out);
			assert_ok(unpack(&o.hash, LM_COMPRESSION_ZLIB, o.stored.data, o.stored.len, 5000, 100000, &out,
					  &err),
				&err);
			assert_memory_equal(out.data, content, 100000);
		}
	}
}

static int sink_stop(void *arg, const void *data, size_t len, struct lm_err *err)
{
	return lm_err_set(err, -ENOSPC, "no room");
}

static void test_sink_stops(void **state)
{
	CLEANUP(object_done) struct object o;
	object_zlib(&o, 2000, "");
	for (size_t c = 0; c < ARRAY_LEN(compressions); c++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_unpack_freep) struct lm_unpack *u = NULL;
		assert_ok(lm_unpack_new(&o.hash, compressions[c], 4000, sink_stop, NULL, &u, &err), &err);
		assert_int_equal(lm_unpack_feed(u, o.stored.data, o.stored.len, &err), -ENOSPC);
		assert_string_equal(err.msg, "no room");
		assert_int_equal(lm_unpack_feed(u, o.stored.data, o.stored.len, &err), -ENOSPC);
		assert_int_equal(lm_unpack_finish(u, NULL, &err), -ENOSPC);
	}
}

static void test_bad_arguments(void **state)
{
	struct lm_unpack *u = NULL;
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(100);
	struct lm_hash unset = {0}, strange = {.algo = 5, .set = true};
	assert_int_equal(lm_unpack_new(&unset, LM_COMPRESSION_ZLIB, 1, sink_buf, &out, &u, NULL), -EPROTO);
	assert_int_equal(lm_unpack_new(&strange, LM_COMPRESSION_ZLIB, 1, sink_buf, &out, &u, NULL), -EPROTO);
	assert_int_equal(lm_unpack_buf(&strange, LM_COMPRESSION_ZLIB, "", 0, &out, NULL), -EPROTO);
	strange.algo = 0;
	assert_int_equal(lm_unpack_new(&strange, 7, 1, sink_buf, &out, &u, NULL), -EPROTO);
	assert_null(u);
	struct lm_packer *packer = NULL;
	assert_int_equal(lm_packer_new(9, &packer, NULL), -EPROTO);
	assert_null(packer);
}

static void test_pack_needs_room(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_packer_freep) struct lm_packer *packer = NULL;
	CLEANUP(lm_freep) uint8_t *content = content_of(50000);
	assert_ok(lm_packer_new(LM_HASH_SHA1, &packer, &err), &err);
	struct lm_hash hash = {.algo = 9};
	for (size_t c = 0; c < ARRAY_LEN(compressions); c++) {
		CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(1000);
		assert_int_equal(lm_buf_str(&out, "before"), 0);
		assert_int_equal(lm_pack(packer, compressions[c], content, 50000, &out, &hash, &err), -EMSGSIZE);
		assert_string_equal(lm_buf_cstr(&out), "before");
		assert_int_equal(hash.algo, 9);
	}
	/* The worst case does not fit, the real one does. */
	memset(content, 0, 50000);
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(1000);
	assert_ok(lm_pack(packer, LM_COMPRESSION_ZLIB, content, 50000, &out, &hash, &err), &err);
	assert_true(out.len > 0 && out.len < 1000);
}

static void check_pack_file(const char *dir, size_t size, enum lm_hash_algo algo)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) uint8_t *content = content_of(size);
	CLEANUP(lm_closep) int in = lm_file_tmp(AT_FDCWD, dir, &err);
	CLEANUP(lm_closep) int out = lm_file_tmp(AT_FDCWD, dir, &err);
	assert_ok(lm_write_all(in, content, size, &err), &err);
	assert_ok(lm_write_all(out, "head", 4, &err), &err);
	struct lm_hash hash;
	uint64_t content_size = 0;
	assert_ok(lm_pack_file(algo, in, out, &hash, &content_size, &err), &err);
	assert_int_equal(content_size, size);

	off_t end = lseek(out, 0, SEEK_END);
	size_t len = (size_t)end - 4;
	CLEANUP(lm_freep) uint8_t *stored = malloc(len);
	assert_ok(lm_pread_all(out, stored, len, 4, &err), &err);
	CLEANUP(lm_buf_done) struct lm_buf back = LM_BUF(size);
	assert_ok(lm_unpack_buf(&hash, LM_COMPRESSION_ZLIB, stored, len, &back, &err), &err);
	assert_int_equal(back.len, size);
	if (size > 0)
		assert_memory_equal(back.data, content, size);
}

static void remove_dirp(char **dir)
{
	temp_dir_remove(dir);
}

static void test_pack_file(void **state)
{
	CLEANUP(remove_dirp) char *dir = temp_dir();
	check_pack_file(dir, 0, LM_HASH_SHA1);
	check_pack_file(dir, 1, LM_HASH_RMD160);
	check_pack_file(dir, 1 << 20, LM_HASH_SHAKE128);
	/* On both sides of the limit above which files are packed piece by piece. */
	check_pack_file(dir, 16 << 20, LM_HASH_SHA1);
	check_pack_file(dir, (16 << 20) + 1, LM_HASH_SHA1);

	struct lm_hash hash;
	CLEANUP(lm_closep) int write_only = open(dir, O_TMPFILE | O_WRONLY, 0600);
	CLEANUP(lm_closep) int out = lm_file_tmp(AT_FDCWD, dir, NULL);
	assert_int_equal(ftruncate(write_only, 17 << 20), 0);
	assert_int_equal(lm_pack_file(LM_HASH_SHA1, write_only, out, &hash, NULL, NULL), -EBADF);
	assert_int_equal(lm_pack_file(LM_HASH_SHA1, out, write_only, &hash, NULL, NULL), 0);
	assert_int_equal(lm_pack_file(LM_HASH_SHA1, -1, out, &hash, NULL, NULL), -EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trips),
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_bomb),
		cmocka_unit_test(test_plain_too_long),
		cmocka_unit_test(test_floods),
		cmocka_unit_test(test_trailing_bytes),
		cmocka_unit_test(test_cut_streams),
		cmocka_unit_test(test_not_zlib),
		cmocka_unit_test(test_wrong_hash_first),
		cmocka_unit_test(test_foreign_streams),
		cmocka_unit_test(test_sink_stops),
		cmocka_unit_test(test_bad_arguments),
		cmocka_unit_test(test_pack_needs_room),
		cmocka_unit_test(test_pack_file),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
