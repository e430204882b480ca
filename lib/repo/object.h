/*
 * Objects: content-addressed files under data/.
 *
 * Name: data/XX/REST[TAG][SUFFIX]. The suffix letter says what it is and is part of the file name only.
 * Stored bytes are one zlib stream (RFC 1950) or, where a catalog row says so, the plain content.
 */
#ifndef LM_REPO_OBJECT_H
#define LM_REPO_OBJECT_H

#include "base/buf.h"
#include "repo/hash.h"

enum lm_object_kind { /* the suffix letter, 0 for none */
	LM_OBJECT_FILE = 0,
	LM_OBJECT_CATALOG = 'C',
	LM_OBJECT_CHUNK = 'P',
	LM_OBJECT_CERTIFICATE = 'X',
	LM_OBJECT_HISTORY = 'H',
	LM_OBJECT_METAINFO = 'M',
};

enum lm_compression { LM_COMPRESSION_ZLIB = 0, LM_COMPRESSION_NONE = 1 }; /* numbers as in catalog flags */

enum { LM_OBJECT_PATH_MAX = 64 };

/* "data/c3/9b37…C" into ret; returns ret. The path without "data/" is ret + 5. */
const char *lm_object_path(const struct lm_hash *hash, enum lm_object_kind kind, char ret[LM_OBJECT_PATH_MAX]);
/* ".cvmfsalt-c39b37…C", its second name in a repository whose manifest says A yes; returns ret. */
#define LM_ALTERNATIVE_PREFIX ".cvmfsalt-"
const char *lm_object_alternative_path(
	const struct lm_hash *hash, enum lm_object_kind kind, char ret[LM_OBJECT_PATH_MAX]);
/* The other way: text[0..len) is exactly HASH[SUFFIX] ("c39b37…C"); a whole path as above. 0 or -EPROTO. */
int lm_object_name_parse(const char *text, size_t len, struct lm_hash *ret, enum lm_object_kind *ret_kind) MUST_CHECK;
int lm_object_path_parse(const char *path, struct lm_hash *ret, enum lm_object_kind *ret_kind) MUST_CHECK;

/*
 * Unpacking: stored bytes go in as they arrive, content comes out through the sink, the hash is known at the end.
 *
 * Content must not be used (renamed into place, shown) before lm_unpack_finish() returned 0.  More content than
 * content_max is -EPROTO at once (zlib bombs end there; the sink never sees more than content_max), and so are over 1
 * MiB in a row that bring no content (what never ends, ends there). finish: -EBADMSG wrong hash, -EPROTO broken, cut
 * short or with bytes after its end. The hash is judged first, so a damaged transfer is always -EBADMSG. After a
 * failure of feed (also the sink's) the same code comes back from feed and finish.
 */
struct lm_unpack;
typedef int lm_sink_fn(void *arg, const void *data, size_t len, struct lm_err *err); /* 0 or negative: stops */
int lm_unpack_new(const struct lm_hash *expected, enum lm_compression compression, uint64_t content_max,
	lm_sink_fn *sink, void *arg, struct lm_unpack **ret, struct lm_err *err) MUST_CHECK;
void lm_unpack_free(struct lm_unpack *unpack);
LM_DEFINE_CLEANUP(struct lm_unpack, lm_unpack_free, lm_unpack_freep)
int lm_unpack_feed(struct lm_unpack *unpack, const void *data, size_t len, struct lm_err *err) MUST_CHECK;
int lm_unpack_finish(struct lm_unpack *unpack, uint64_t *ret_content_size, struct lm_err *err) MUST_CHECK;

/* The same for an object that lies in a file, from its beginning, whatever the position of fd. */
int lm_unpack_fd(const struct lm_hash *expected, enum lm_compression compression, int fd, uint64_t content_max,
	lm_sink_fn *sink, void *arg, uint64_t *ret_content_size, struct lm_err *err) MUST_CHECK;

/* The same for an object that is in memory: appends the content to out (whose max bounds it; -EPROTO when it passes
 * that). The hash is checked before anything is inflated. */
int lm_unpack_buf(const struct lm_hash *expected, enum lm_compression compression, const void *stored,
	size_t stored_len, struct lm_buf *out, struct lm_err *err) MUST_CHECK;

/*
 * Packing a piece of content that is in memory: appends the stored bytes to out and gives their hash. One packer
 * per thread (it keeps its compressor). -EMSGSIZE: the stored bytes do not fit into out.
 */
struct lm_packer;
int lm_packer_new(enum lm_hash_algo algo, struct lm_packer **ret, struct lm_err *err) MUST_CHECK;
void lm_packer_free(struct lm_packer *packer);
LM_DEFINE_CLEANUP(struct lm_packer, lm_packer_free, lm_packer_freep)
int lm_pack(struct lm_packer *packer, enum lm_compression compression, const void *content, size_t len,
	struct lm_buf *out, struct lm_hash *ret, struct lm_err *err) MUST_CHECK;

/*
 * The same by zlib's own compressor at its default level. Certificates and metainfo must be packed so: stock
 * replication (cvmfs_server snapshot, 2.12) unpacks these two, packs them again that way and keeps the old name, which
 * then fits no other bytes.
 */
int lm_pack_reproducible(struct lm_packer *packer, const void *content, size_t len, struct lm_buf *out,
	struct lm_hash *ret, struct lm_err *err) MUST_CHECK;

/* Packs the whole file open as fd, whatever its position, in bounded memory and writes the stored bytes to out_fd at
 * its position (catalogs and the like, zlib). */
int lm_pack_file(enum lm_hash_algo algo, int fd, int out_fd, struct lm_hash *ret, uint64_t *ret_content_size,
	struct lm_err *err) MUST_CHECK;

#endif
