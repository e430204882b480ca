#include "convert/layer_tar.h"

#include "convert/inflate.h"
#include "convert/stargz.h"

#include <string.h>

static const char sqlite_magic[] = "SQLite format 3"; /* with its NUL: https://www.sqlite.org/fileformat.html, 1.3.1 */

/* An entry's content, whose size the reader vouches for; the beginning of a big one is looked at in advance. */
struct content {
	struct lm_tar *tar;
	uint8_t head[sizeof(sqlite_magic)];
	size_t head_len; /* not given out yet */
};

static int read_exactly(struct lm_tar *tar, uint8_t *ret, size_t len, struct lm_err *err)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = lm_tar_read(tar, ret + done, len - done, err);
		if (n < 0)
			return (int)n;
		if (n == 0)
			return lm_err_set(err, -EPROTO, "tar: content ends early");
		done += (size_t)n;
	}
	return 0;
}

static int store_piece(struct content *content, struct lm_packing *packing, size_t len, enum lm_object_kind kind,
	struct lm_hash *ret_hash, struct lm_err *err)
{
	struct lm_packing_piece *piece = NULL;
	int r = lm_packing_piece(packing, len, &piece, err);
	if (r < 0)
		return r;
	size_t head_len = content->head_len; /* a first piece is longer */
	memcpy(piece->data, content->head, head_len);
	content->head_len = 0;
	r = read_exactly(content->tar, piece->data + head_len, len - head_len, err);
	if (r < 0)
		lm_packing_drop(packing, piece);
	else
		lm_packing_put(packing, piece, kind, ret_hash);
	return r;
}

static int store_file(struct lm_tar *tar, struct lm_layer_tree *tree, struct lm_layer_inode *file,
	struct lm_packing *packing, struct lm_err *err)
{
	struct content content = {.tar = tar};
	if (file->size <= LM_CHUNKED_ABOVE)
		return store_piece(&content, packing, (size_t)file->size, LM_OBJECT_FILE, &file->hash, err);
	int r = read_exactly(tar, content.head, sizeof(content.head), err);
	content.head_len = sizeof(content.head);
	bool database = r == 0 && memcmp(content.head, sqlite_magic, sizeof(sqlite_magic)) == 0;
	uint64_t chunk_size = database ? LM_CHUNK_SIZE_DATABASE : LM_CHUNK_SIZE;
	for (uint64_t offset = 0; offset < file->size && r == 0; offset += chunk_size) {
		struct lm_chunk *chunk = NULL;
		uint64_t len = LM_MIN(chunk_size, file->size - offset);
		r = lm_layer_tree_add_chunk(tree, file, offset, len, &chunk, err);
		if (r == 0)
			r = store_piece(&content, packing, (size_t)len, LM_OBJECT_CHUNK, &chunk->hash, err);
	}
	return r;
}

/* files: counts them as they come. */
static int read_entries(struct lm_tar *tar, struct lm_layer_tree *tree, struct lm_packing *packing,
	_Atomic(uint64_t) *files, struct lm_err *err)
{
	struct lm_tar_entry entry;
	int r;
	while ((r = lm_tar_next(tar, &entry, err)) > 0) {
		struct lm_layer_inode *file;
		r = lm_layer_tree_apply(tree, &entry, &file, err);
		if (r == 0 && file && packing)
			r = store_file(tar, tree, file, packing, err);
		if (r < 0)
			return r;
		if (file)
			atomic_fetch_add_explicit(files, 1, memory_order_relaxed);
	}
	if (r == 0)
		r = lm_tar_drain(tar, err);
	return r < 0 ? r : lm_layer_tree_finish(tree, err);
}

static int read_tar(lm_tar_input_fn *input, void *arg, const struct lm_layer_below *below, struct lm_packing *packing,
	_Atomic(uint64_t) *files, struct lm_layer_tree **ret, struct lm_err *err)
{
	CLEANUP(lm_tar_freep) struct lm_tar *tar = NULL;
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = NULL;
	int r = lm_tar_new(input, arg, &tar, err);
	if (r == 0)
		r = lm_layer_tree_new(below, &tree, err);
	if (r == 0)
		r = read_entries(tar, tree, packing, files, err);
	/* Whatever happened, the pool must be done with the tree's hashes before anyone frees it. */
	int stored = packing ? lm_packing_wait(packing, r < 0 ? NULL : err) : 0;
	if (r < 0 || stored < 0)
		return r < 0 ? r : stored;
	*ret = STEAL(tree);
	return 0;
}

int lm_layer_read(lm_tar_input_fn *input, void *arg, const struct lm_layer_below *below, struct lm_packing *packing,
	struct lm_layer_tree **ret, struct lm_err *err)
{
	_Atomic(uint64_t) files = 0;
	return read_tar(input, arg, below, packing, &files, ret, err);
}

/* --- from a blob --- */

struct stream {
	const struct lm_layer_blob *from;
	struct lm_layer_meter *meter;
	struct lm_inflate *inflate;
	struct lm_stargz_tail tail; /* the inflater's thread, until it is over */
};

static ssize_t read_blob(void *arg, void *ret, size_t len, struct lm_err *err)
{
	struct stream *stream = arg;
	ssize_t n = lm_blob_read(stream->from->blob, ret, len, err);
	if (n > 0)
		lm_stargz_note(&stream->tail, ret, (size_t)n);
	return n;
}

static ssize_t next_span(void *arg, const uint8_t **ret, struct lm_err *err)
{
	struct stream *stream = arg;
	struct lm_layer_meter *meter = stream->meter;
	lm_stage_enter(&meter->clock, LM_STAGE_STARVED);
	ssize_t n = lm_inflate_next(stream->inflate, ret, err);
	lm_stage_enter(&meter->clock, LM_STAGE_TAR);
	atomic_store(&meter->fetched_bytes, lm_inflate_consumed(stream->inflate));
	if (n > 0)
		atomic_fetch_add(&meter->tar_bytes, (uint64_t)n);
	else
		atomic_store(&meter->phase, LM_LAYER_STORING);
	return n;
}

int lm_layer_read_blob(const struct lm_layer_blob *from, const struct lm_layer_below *below, struct lm_packing *packing,
	struct lm_layer_tree **ret, uint64_t *ret_tar_bytes, struct lm_err *err)
{
	struct lm_layer_meter unseen = {0};
	struct stream stream = {.from = from, .meter = from->meter ? from->meter : &unseen};
	CLEANUP(lm_inflate_freep) struct lm_inflate *inflate = NULL;
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = NULL;
	int r = lm_inflate_start(read_blob, &stream, &inflate, err);
	if (r < 0)
		return r;
	stream.inflate = inflate;
	r = read_tar(next_span, &stream, below, packing, &stream.meter->files, &tree, err);
	if (r < 0)
		return r;
	lm_inflate_times(inflate, &stream.meter->times);
	const char *seen = lm_inflate_digest(inflate), *wanted = from->layer->diff_id;
	if (strcmp(seen, wanted) != 0)
		return lm_err_set(
			err, -EBADMSG, "the image's config says diff id %s, the layer's tar has %s", wanted, seen);
	if (from->layer->stargz || lm_stargz_footer(&stream.tail))
		lm_stargz_hide(tree);
	*ret_tar_bytes = lm_inflate_size(inflate);
	*ret = STEAL(tree);
	return 0;
}
