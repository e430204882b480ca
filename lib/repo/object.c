#include "repo/object.h"

#include "base/file.h"
#include "base/str.h"

#include <libdeflate.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <zlib.h>

enum {
	PACK_LEVEL = 6,	      /* of libdeflate: smaller than zlib's 6 at more than twice its speed */
	PACK_LEVEL_FILE = 12, /* of databases, which are few, and which every client loads: 2 % smaller */
	PIECE = 64 << 10,
	PACK_WHOLE_MAX = 16 << 20, /* files up to here are packed in one piece of memory */
	IDLE_MAX = 1 << 20,	   /* stored bytes in a row that bring no content: more are no object, but a flood */
};

const char *lm_object_path(const struct lm_hash *hash, enum lm_object_kind kind, char ret[LM_OBJECT_PATH_MAX])
{
	struct lm_hash_text text = lm_hash_text(hash);
	char suffix[2] = {(char)kind, '\0'};
	snprintf(ret, LM_OBJECT_PATH_MAX, "data/%.2s/%s%s", text.s, text.s + 2, suffix);
	return ret;
}

const char *lm_object_alternative_path(
	const struct lm_hash *hash, enum lm_object_kind kind, char ret[LM_OBJECT_PATH_MAX])
{
	char suffix[2] = {(char)kind, '\0'};
	snprintf(ret, LM_OBJECT_PATH_MAX, LM_ALTERNATIVE_PREFIX "%s%s", lm_hash_text(hash).s, suffix);
	return ret;
}

/*
 * States of an unpack: RUNNING -> ENDED (the zlib stream's end was seen) -> TRAILING; RUNNING -> BROKEN. In all of them
 * further bytes are only hashed, up to IDLE_MAX. A `failed` code (too much content, sink, memory) ends everything at
 * once.
 */
enum unpack_state { RUNNING, ENDED, TRAILING, BROKEN };

struct lm_unpack {
	struct lm_hash expected;
	enum lm_compression compression;
	uint64_t content_max;
	lm_sink_fn *sink;
	void *arg;
	struct lm_hasher *hasher;
	z_stream z;
	bool z_open;
	enum unpack_state state;
	uint64_t content_size, idle; /* idle: stored bytes since content came */
	int failed;
	uint8_t out[PIECE];
};

static bool compression_known(enum lm_compression compression)
{
	return compression == LM_COMPRESSION_ZLIB || compression == LM_COMPRESSION_NONE;
}

int lm_object_name_parse(const char *text, size_t len, struct lm_hash *ret, enum lm_object_kind *ret_kind)
{
	static const char kinds[] = {
		LM_OBJECT_CATALOG, LM_OBJECT_CHUNK, LM_OBJECT_CERTIFICATE, LM_OBJECT_HISTORY, LM_OBJECT_METAINFO};
	bool suffix = len > 0 && memchr(kinds, text[len - 1], sizeof(kinds));
	enum lm_object_kind kind = suffix ? (enum lm_object_kind)text[len - 1] : LM_OBJECT_FILE;
	int r = lm_hash_parse(text, len - suffix, ret, NULL);
	if (r == 0)
		*ret_kind = kind;
	return r;
}

int lm_object_path_parse(const char *path, struct lm_hash *ret, enum lm_object_kind *ret_kind)
{
	static const char root[] = "data/";
	char name[LM_OBJECT_PATH_MAX];
	size_t len = strlen(path), skip = sizeof(root) - 1;
	if (len < skip + 3 || len >= sizeof(name) || memcmp(path, root, skip) != 0 || path[skip + 2] != '/')
		return -EPROTO;
	memcpy(name, path + skip, 2);
	memcpy(name + 2, path + skip + 3, len - skip - 3);
	return lm_object_name_parse(name, len - skip - 1, ret, ret_kind);
}

static int check_arguments(const struct lm_hash *expected, enum lm_compression compression, struct lm_err *err)
{
	if (!expected->set)
		return lm_err_set(err, -EPROTO, "object without a hash");
	if (!compression_known(compression))
		return lm_err_set(err, -EPROTO, "object %s: unknown compression %u", lm_hash_text(expected).s,
			(unsigned)compression);
	return 0;
}

int lm_unpack_new(const struct lm_hash *expected, enum lm_compression compression, uint64_t content_max,
	lm_sink_fn *sink, void *arg, struct lm_unpack **ret, struct lm_err *err)
{
	int r = check_arguments(expected, compression, err);
	if (r < 0)
		return r;
	CLEANUP(lm_unpack_freep) struct lm_unpack *unpack = malloc(sizeof(*unpack));
	if (!unpack)
		return lm_err_oom(err);
	memset(unpack, 0, offsetof(struct lm_unpack, out)); /* the buffer needs no clearing */
	unpack->expected = *expected;
	unpack->compression = compression;
	unpack->content_max = content_max;
	unpack->sink = sink;
	unpack->arg = arg;
	r = lm_hasher_new(expected->algo, &unpack->hasher, err);
	if (r < 0)
		return r;
	if (compression == LM_COMPRESSION_ZLIB) {
		if (inflateInit(&unpack->z) != Z_OK)
			return lm_err_oom(err);
		unpack->z_open = true;
	}
	*ret = STEAL(unpack);
	return 0;
}

void lm_unpack_free(struct lm_unpack *unpack)
{
	if (!unpack)
		return;
	if (unpack->z_open)
		inflateEnd(&unpack->z);
	lm_hasher_free(unpack->hasher);
	free(unpack);
}

static int too_much(const struct lm_hash *hash, uint64_t max, struct lm_err *err)
{
	return lm_err_set(err, -EPROTO, "object %s: more content than the %llu bytes expected", lm_hash_text(hash).s,
		(unsigned long long)max);
}

static int emit(struct lm_unpack *unpack, const void *data, size_t len, struct lm_err *err)
{
	if (len == 0)
		return 0;
	if (len > unpack->content_max - unpack->content_size)
		return too_much(&unpack->expected, unpack->content_max, err);
	unpack->content_size += len;
	return unpack->sink(unpack->arg, data, len, err);
}

/* Inflates what z.next_in holds as far as it goes. */
static int inflate_input(struct lm_unpack *unpack, struct lm_err *err)
{
	z_stream *z = &unpack->z;
	do {
		z->next_out = unpack->out;
		z->avail_out = PIECE;
		int status = inflate(z, Z_NO_FLUSH);
		if (status == Z_MEM_ERROR)
			return lm_err_oom(err);
		int r = emit(unpack, unpack->out, PIECE - z->avail_out, err);
		if (r < 0)
			return r;
		if (status == Z_STREAM_END)
			unpack->state = ENDED;
		else if (status != Z_OK && status != Z_BUF_ERROR)
			unpack->state = BROKEN;
	} while (unpack->state == RUNNING && (z->avail_in > 0 || z->avail_out == 0));
	if (unpack->state == ENDED && z->avail_in > 0)
		unpack->state = TRAILING;
	return 0;
}

static int feed_zlib(struct lm_unpack *unpack, const uint8_t *data, size_t len, struct lm_err *err)
{
	while (len > 0 && unpack->state == RUNNING) {
		size_t piece = LM_MIN(len, (size_t)1 << 30); /* zlib counts in unsigned int */
		unpack->z.next_in = (uint8_t *)data;	     /* zlib only reads it */
		unpack->z.avail_in = (unsigned)piece;
		int r = inflate_input(unpack, err);
		if (r < 0)
			return r;
		data += piece;
		len -= piece;
	}
	if (len > 0 && unpack->state == ENDED)
		unpack->state = TRAILING;
	return 0;
}

static int refeed(const struct lm_unpack *unpack, struct lm_err *err)
{
	return lm_err_set(err, unpack->failed, "object %s: unpacking failed before", lm_hash_text(&unpack->expected).s);
}

/* Whoever sends what is no zlib stream, or one of empty blocks, could go on for ever. */
static int limit_idle(struct lm_unpack *unpack, bool content_came, size_t len, struct lm_err *err)
{
	unpack->idle = content_came ? 0 : unpack->idle + len;
	if (unpack->idle <= IDLE_MAX)
		return 0;
	return lm_err_set(err, -EPROTO, "object %s: more than %d bytes that hold no content",
		lm_hash_text(&unpack->expected).s, IDLE_MAX);
}

int lm_unpack_feed(struct lm_unpack *unpack, const void *data, size_t len, struct lm_err *err)
{
	if (unpack->failed)
		return refeed(unpack, err);
	uint64_t before = unpack->content_size;
	lm_hasher_update(unpack->hasher, data, len);
	unpack->failed = unpack->compression == LM_COMPRESSION_ZLIB ? feed_zlib(unpack, data, len, err)
								    : emit(unpack, data, len, err);
	if (unpack->failed == 0)
		unpack->failed = limit_idle(unpack, unpack->content_size > before, len, err);
	return unpack->failed;
}

static int wrong_hash(const struct lm_hash *expected, const struct lm_hash *actual, struct lm_err *err)
{
	return lm_err_set(err, -EBADMSG, "object %s: wrong bytes, their hash is %s", lm_hash_text(expected).s,
		lm_hash_text(actual).s);
}

int lm_unpack_finish(struct lm_unpack *unpack, uint64_t *ret_content_size, struct lm_err *err)
{
	static const char *const problems[] = {
		[RUNNING] = "cut short",
		[TRAILING] = "bytes after the end of its zlib stream",
		[BROKEN] = "not a zlib stream",
	};
	if (unpack->failed)
		return refeed(unpack, err);
	struct lm_hash actual;
	lm_hasher_finish(unpack->hasher, &actual);
	if (!lm_hash_equal(&actual, &unpack->expected))
		return wrong_hash(&unpack->expected, &actual, err);
	if (unpack->compression == LM_COMPRESSION_ZLIB && unpack->state != ENDED)
		return lm_err_set(
			err, -EPROTO, "object %s: %s", lm_hash_text(&unpack->expected).s, problems[unpack->state]);
	if (ret_content_size)
		*ret_content_size = unpack->content_size;
	return 0;
}

static void free_decompressorp(struct libdeflate_decompressor **d)
{
	if (*d)
		libdeflate_free_decompressor(*d);
}

/* Inflates a whole stream behind out->len without changing that; the length is not known beforehand. */
static int inflate_whole(const struct lm_hash *hash, const void *stored, size_t stored_len, struct lm_buf *out,
	size_t *ret_size, struct lm_err *err)
{
	CLEANUP(free_decompressorp) struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
	if (!d)
		return lm_err_oom(err);
	size_t max = out->max - out->len, room = LM_MIN(max, LM_MAX((size_t)PIECE, 4 * stored_len));
	for (;;) {
		int r = lm_buf_reserve(out, room);
		if (r < 0)
			return lm_err_oom(err);
		size_t used;
		switch (libdeflate_zlib_decompress_ex(
			d, stored, stored_len, out->data + out->len, room, &used, ret_size)) {
		case LIBDEFLATE_SUCCESS:
			if (used != stored_len)
				return lm_err_set(err, -EPROTO, "object %s: bytes after the end of its zlib stream",
					lm_hash_text(hash).s);
			return 0;
		case LIBDEFLATE_INSUFFICIENT_SPACE:
			if (room == max)
				return too_much(hash, max, err);
			room = room > max / 2 ? max : 2 * room;
			break;
		default:
			return lm_err_set(err, -EPROTO, "object %s: not a whole zlib stream", lm_hash_text(hash).s);
		}
	}
}

int lm_unpack_fd(const struct lm_hash *expected, enum lm_compression compression, int fd, uint64_t content_max,
	lm_sink_fn *sink, void *arg, uint64_t *ret_content_size, struct lm_err *err)
{
	CLEANUP(lm_freep) uint8_t *piece = malloc(PIECE);
	CLEANUP(lm_unpack_freep) struct lm_unpack *unpack = NULL;
	if (!piece)
		return lm_err_oom(err);
	int r = lm_unpack_new(expected, compression, content_max, sink, arg, &unpack, err);
	off_t at = 0;
	while (r == 0) {
		ssize_t n = TEMP_FAILURE_RETRY(pread(fd, piece, PIECE, at));
		if (n < 0)
			return lm_err_sys(err, -errno, "read");
		if (n == 0)
			break;
		at += n;
		r = lm_unpack_feed(unpack, piece, (size_t)n, err);
	}
	return r < 0 ? r : lm_unpack_finish(unpack, ret_content_size, err);
}

int lm_unpack_buf(const struct lm_hash *expected, enum lm_compression compression, const void *stored,
	size_t stored_len, struct lm_buf *out, struct lm_err *err)
{
	struct lm_hash actual;
	int r = check_arguments(expected, compression, err);
	if (r == 0)
		r = lm_hash_data(expected->algo, stored, stored_len, &actual, err);
	if (r < 0)
		return r;
	if (!lm_hash_equal(expected, &actual))
		return wrong_hash(expected, &actual, err);
	if (compression == LM_COMPRESSION_NONE) {
		r = lm_buf_append(out, stored, stored_len);
		return r == -EMSGSIZE ? too_much(expected, out->max - out->len, err) : r < 0 ? lm_err_oom(err) : 0;
	}
	size_t size = 0;
	r = inflate_whole(expected, stored, stored_len, out, &size, err);
	if (out->data) {
		out->len += r < 0 ? 0 : size;
		out->data[out->len] = '\0';
	}
	return r;
}

struct lm_packer {
	struct libdeflate_compressor *compressor;
	struct lm_hasher *hasher;
};

static int packer_new(enum lm_hash_algo algo, int level, struct lm_packer **ret, struct lm_err *err)
{
	CLEANUP(lm_packer_freep) struct lm_packer *packer = calloc(1, sizeof(*packer));
	if (!packer)
		return lm_err_oom(err);
	int r = lm_hasher_new(algo, &packer->hasher, err);
	if (r < 0)
		return r;
	packer->compressor = libdeflate_alloc_compressor(level);
	if (!packer->compressor)
		return lm_err_oom(err);
	*ret = STEAL(packer);
	return 0;
}

int lm_packer_new(enum lm_hash_algo algo, struct lm_packer **ret, struct lm_err *err)
{
	return packer_new(algo, PACK_LEVEL, ret, err);
}

void lm_packer_free(struct lm_packer *packer)
{
	if (!packer)
		return;
	if (packer->compressor)
		libdeflate_free_compressor(packer->compressor);
	lm_hasher_free(packer->hasher);
	free(packer);
}

/* Writes the stored bytes behind out->len without changing that. */
static int deflate_whole(
	struct lm_packer *packer, const void *content, size_t len, struct lm_buf *out, size_t *ret_stored)
{
	/* The bound is a little above the content's length; a buffer that is smaller may still do. */
	size_t room = LM_MIN(libdeflate_zlib_compress_bound(packer->compressor, len), out->max - out->len);
	int r = lm_buf_reserve(out, room);
	if (r < 0)
		return r;
	*ret_stored = libdeflate_zlib_compress(packer->compressor, content, len, out->data + out->len, room);
	return *ret_stored == 0 ? -EMSGSIZE : 0;
}

static int copy_whole(const void *content, size_t len, struct lm_buf *out, size_t *ret_stored)
{
	int r = lm_buf_reserve(out, len);
	if (r == 0 && len > 0)
		memcpy(out->data + out->len, content, len);
	*ret_stored = len;
	return r;
}

static int deflate_by_zlib(const void *content, size_t len, struct lm_buf *out, size_t *ret_stored)
{
	uLongf room = LM_MIN(compressBound(len), out->max - out->len);
	int r = lm_buf_reserve(out, room);
	if (r < 0)
		return r;
	r = compress2(out->data + out->len, &room, content, len, Z_DEFAULT_COMPRESSION);
	*ret_stored = room;
	return r == Z_OK ? 0 : r == Z_BUF_ERROR ? -EMSGSIZE : -ENOMEM;
}

/* The end of packing: r, or the hash of the stored bytes behind out->len, which then belong to out. */
static int seal(struct lm_packer *packer, int r, size_t len, size_t stored, struct lm_buf *out, struct lm_hash *ret,
	struct lm_err *err)
{
	struct lm_hash hash = {0};
	if (r == 0) {
		lm_hasher_restart(packer->hasher);
		lm_hasher_update(packer->hasher, out->data + out->len, stored);
		lm_hasher_finish(packer->hasher, &hash);
		r = hash.set ? 0 : -EIO;
	}
	if (r < 0) {
		if (out->data)
			out->data[out->len] = '\0';
		return lm_err_sys(err, r, "packing %zu bytes", len);
	}
	out->len += stored;
	out->data[out->len] = '\0';
	*ret = hash;
	return 0;
}

int lm_pack(struct lm_packer *packer, enum lm_compression compression, const void *content, size_t len,
	struct lm_buf *out, struct lm_hash *ret, struct lm_err *err)
{
	if (!compression_known(compression))
		return lm_err_set(err, -EINVAL, "unknown compression %u", (unsigned)compression);
	size_t stored = 0;
	int r = compression == LM_COMPRESSION_ZLIB ? deflate_whole(packer, content, len, out, &stored)
						   : copy_whole(content, len, out, &stored);
	return seal(packer, r, len, stored, out, ret, err);
}

int lm_pack_reproducible(struct lm_packer *packer, const void *content, size_t len, struct lm_buf *out,
	struct lm_hash *ret, struct lm_err *err)
{
	size_t stored = 0;
	int r = deflate_by_zlib(content, len, out, &stored);
	return seal(packer, r, len, stored, out, ret, err);
}

static int pack_whole_file(enum lm_hash_algo algo, int fd, size_t size, int out_fd, struct lm_hash *ret,
	uint64_t *ret_content_size, struct lm_err *err)
{
	CLEANUP(lm_packer_freep) struct lm_packer *packer = NULL;
	CLEANUP(lm_freep) uint8_t *content = malloc(size ? size : 1);
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(2 * PACK_WHOLE_MAX);
	struct lm_hash hash;
	if (!content)
		return lm_err_oom(err);
	int r = packer_new(algo, PACK_LEVEL_FILE, &packer, err);
	if (r == 0)
		r = lm_pread_all(fd, content, size, 0, err);
	if (r == 0)
		r = lm_pack(packer, LM_COMPRESSION_ZLIB, content, size, &out, &hash, err);
	if (r == 0)
		r = lm_write_all(out_fd, out.data, out.len, err);
	if (r < 0)
		return r;
	*ret = hash;
	*ret_content_size = size;
	return 0;
}

struct stream_pack {
	struct lm_hasher *hasher;
	z_stream z;
	uint8_t in[PIECE], out[PIECE];
};

static void stream_pack_freep(struct stream_pack **pack)
{
	if (!*pack)
		return;
	deflateEnd(&(*pack)->z); /* harmless where deflateInit() was not reached */
	lm_hasher_free((*pack)->hasher);
	free(*pack);
}

static int write_piece(struct stream_pack *pack, size_t len, int last, int out_fd, struct lm_err *err)
{
	z_stream *z = &pack->z;
	z->next_in = pack->in;
	z->avail_in = (unsigned)len;
	do {
		z->next_out = pack->out;
		z->avail_out = PIECE;
		deflate(z, last ? Z_FINISH : Z_NO_FLUSH); /* fails only for a stream that was not set up */
		size_t stored = PIECE - z->avail_out;
		lm_hasher_update(pack->hasher, pack->out, stored);
		int r = lm_write_all(out_fd, pack->out, stored, err);
		if (r < 0)
			return r;
	} while (z->avail_out == 0);
	return 0;
}

static int pack_stream(
	enum lm_hash_algo algo, int fd, int out_fd, struct lm_hash *ret, uint64_t *ret_content_size, struct lm_err *err)
{
	CLEANUP(stream_pack_freep) struct stream_pack *pack = calloc(1, sizeof(*pack));
	if (!pack || deflateInit(&pack->z, Z_DEFAULT_COMPRESSION) != Z_OK)
		return lm_err_oom(err);
	int r = lm_hasher_new(algo, &pack->hasher, err);
	if (r < 0)
		return r;
	off_t at = 0;
	for (ssize_t n = 1; n != 0; at += n) {
		n = TEMP_FAILURE_RETRY(pread(fd, pack->in, PIECE, at));
		if (n < 0)
			return lm_err_sys(err, -errno, "read");
		r = write_piece(pack, (size_t)n, n == 0, out_fd, err);
		if (r < 0)
			return r;
	}
	struct lm_hash hash;
	lm_hasher_finish(pack->hasher, &hash);
	if (!hash.set)
		return lm_err_set(err, -EIO, "the cryptographic library failed to hash");
	*ret = hash;
	*ret_content_size = (uint64_t)at;
	return 0;
}

int lm_pack_file(
	enum lm_hash_algo algo, int fd, int out_fd, struct lm_hash *ret, uint64_t *ret_content_size, struct lm_err *err)
{
	struct stat st;
	uint64_t size = 0;
	if (fstat(fd, &st) < 0)
		return lm_err_sys(err, -errno, "stat");
	int r = st.st_size <= PACK_WHOLE_MAX ? pack_whole_file(algo, fd, (size_t)st.st_size, out_fd, ret, &size, err)
					     : pack_stream(algo, fd, out_fd, ret, &size, err);
	if (r == 0 && ret_content_size)
		*ret_content_size = size;
	return r;
}
