/*
 * The uncompressed stream of a layer, made by a thread of its own that runs ahead by a bounded number of bytes.
 *
 * What the blob is compressed with is told by its first bytes, as containerd does, whatever its media type says: gzip
 * (any number of members), zstd (any number of frames), else none. The diff id is computed on the way.
 */
#ifndef LM_TOOLS_INFLATE_H
#define LM_TOOLS_INFLATE_H

#include "convert/stages.h"
#include "oci/image.h"

/* Reads the compressed stream, on the inflater's thread: bytes read, 0 at the end, or an error. */
typedef ssize_t lm_inflate_read_fn(void *arg, void *ret, size_t len, struct lm_err *err);

struct lm_inflate;
int lm_inflate_start(lm_inflate_read_fn *read, void *arg, struct lm_inflate **ret, struct lm_err *err) MUST_CHECK;
/* Also in the middle of the stream: waits for the read that is under way. */
void lm_inflate_free(struct lm_inflate *inflate);
LM_DEFINE_CLEANUP(struct lm_inflate, lm_inflate_free, lm_inflate_freep)

/*
 * The next stretch of the uncompressed stream, valid until the next call: its length, 0 at the end, or an error:
 * -EPROTO malformed or cut short, or what reading said (a blob's wrong digest, told at its end). By one thread.
 */
ssize_t lm_inflate_next(struct lm_inflate *inflate, const uint8_t **ret, struct lm_err *err) MUST_CHECK;

/* After the end: what came out in all. */
uint64_t lm_inflate_size(const struct lm_inflate *inflate);
const char *lm_inflate_digest(const struct lm_inflate *inflate);		     /* "sha256:…" */
void lm_inflate_times(const struct lm_inflate *inflate, struct lm_stage_times *sum); /* added to */
/* Any time: compressed bytes read so far. */
uint64_t lm_inflate_consumed(const struct lm_inflate *inflate);

#endif
