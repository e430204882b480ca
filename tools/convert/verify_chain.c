/*
 * The tree of the image's layers for the kernels of nodes, if it has one: made again of the published catalogs, which
 * are compared elsewhere, and compared: the image byte by byte, of large files that they are the layers' own pieces,
 * whose content is compared with these. One of another form is only read, and of that its first piece.
 */
#include "base/file.h"
#include "base/str.h"
#include "convert/chain_image.h"
#include "convert/chain_tree.h"
#include "convert/layer_catalog.h"
#include "convert/merge.h"
#include "convert/verify_internal.h"
#include "repo/object_store.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

enum { PIECE_MAX = 1 << 20 /* the converter's are smaller */ };

struct chain {
	struct lm_comparison *comparison;
	const struct lm_image *image;
	const struct lm_published_top *layers; /* bottom first */
	char *path;			       /* of the file, in the repository */
	struct lm_row row;		       /* of the file */
	struct lm_chunk *pieces;	       /* one that is the whole file, where that is small */
	size_t count;
	int fd; /* of the image that was made again, without contents */
	struct lm_chain_image made;
};

static void chain_done(struct chain *chain)
{
	lm_closep(&chain->fd);
	lm_chain_image_done(&chain->made);
	lm_row_done(&chain->row);
	free(chain->pieces);
	free(chain->path);
}

#define note(chain, kind, ...) lm_verify_note((chain)->comparison, kind, (chain)->path, NULL, __VA_ARGS__)

/* --- made again --- */

struct merging { /* the uppermost first */
	struct lm_merge_layer *items;
	const char **digests; /* the lowest first */
	size_t count;
};

static void merging_done(struct merging *m)
{
	for (size_t i = 0; i < m->count; i++) {
		lm_catalog_close(m->items[i].catalog);
		free((char *)m->items[i].root);
	}
	free(m->items);
	free(m->digests);
}

static int open_nested(void *arg, const struct lm_nested *nested, struct lm_catalog **ret, struct lm_err *err)
{
	const struct chain *chain = arg;
	return lm_repo_source_catalog(chain->comparison->repo, &nested->hash, nested->path, ret, err);
}

static int open_layers(struct chain *chain, struct merging *m, struct lm_err *err)
{
	const size_t count = chain->image->layer_count;
	int r = 0;
	m->items = calloc(count + 1, sizeof(*m->items));
	m->digests = calloc(count + 1, sizeof(*m->digests));
	if (!m->items || !m->digests)
		return lm_err_oom(err);
	for (size_t i = 0; i < count && r == 0; i++) {
		const struct lm_published_top *top = &chain->layers[count - 1 - i];
		struct lm_merge_layer *layer = &m->items[i];
		m->digests[i] = chain->image->layers[i].digest;
		layer->root = lm_str_printf("%s/" LM_IMAGES_LAYER_ROOT, top->path);
		m->count = i + 1;
		r = layer->root ? lm_repo_source_catalog(
					  chain->comparison->repo, &top->hash, top->path, &layer->catalog, err)
				: lm_err_oom(err);
	}
	return r;
}

static int make_again(struct chain *chain, struct lm_err *err)
{
	CLEANUP(merging_done) struct merging m = {0};
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = NULL;
	int r = open_layers(chain, &m, err);
	if (r == 0)
		r = lm_merge(m.items, m.count, LM_MERGE_CONTAINER, open_nested, chain, &tree, err);
	if (r == 0)
		r = chain->fd = lm_file_tmp(AT_FDCWD, lm_tmp_dir(), err);
	return r < 0 ? r
		     : lm_chain_image_write(tree, m.digests, m.count, chain->row.algo, chain->fd, &chain->made, err);
}

/* --- as it is published --- */

static int list_pieces(struct chain *chain, struct lm_catalog *catalog, struct lm_err *err)
{
	if (chain->row.flags & LM_ROW_CHUNKED)
		return lm_catalog_chunks(catalog, &chain->row, 0, UINT64_MAX, &chain->pieces, &chain->count, err);
	chain->pieces = malloc(sizeof(*chain->pieces));
	if (!chain->pieces)
		return lm_err_oom(err);
	*chain->pieces = (struct lm_chunk){.size = chain->row.size, .hash = chain->row.hash};
	chain->count = 1;
	return 0;
}

static int find_file(struct chain *chain, const struct lm_published_top *top, struct lm_err *err)
{
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	int r = lm_repo_source_catalog(chain->comparison->repo, &top->hash, top->path, &catalog, err);
	if (r == 0)
		r = lm_catalog_lookup(catalog, lm_path_hash(chain->path, strlen(chain->path)), &chain->row, err);
	if (r == 0 && (!S_ISREG(chain->row.mode) || chain->row.flags & LM_ROW_EXTERNAL))
		r = lm_err_set(err, -EPROTO, "is no file with content");
	return r < 0 ? r : list_pieces(chain, catalog, err);
}

static int load_piece(struct chain *chain, const struct lm_chunk *piece, struct lm_buf *ret, struct lm_err *err)
{
	int r = lm_object_load(chain->comparison->repo->storage, &piece->hash,
		chain->row.flags & LM_ROW_CHUNKED ? LM_OBJECT_CHUNK : LM_OBJECT_FILE, chain->row.compression, ret, err);
	return r == 0 && ret->len != piece->size
		       ? lm_err_set(err, -EBADMSG, "an object of another size than its catalog says")
		       : r;
}

/* What says nothing of its form is taken for this one, and will differ. */
static int find_form(struct chain *chain, unsigned *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf head = LM_BUF(PIECE_MAX);
	*ret = LM_CHAIN_IMAGE_FORM;
	int r = chain->count > 0 ? load_piece(chain, &chain->pieces[0], &head, err) : 0;
	if (r == 0 && head.len >= LM_EROFS_HEAD)
		(void)!lm_chain_image_form(head.data, ret, NULL);
	return r;
}

static int compare_piece(struct chain *chain, const struct lm_chunk *piece, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf theirs = LM_BUF(PIECE_MAX), ours = LM_BUF(PIECE_MAX);
	int r = load_piece(chain, piece, &theirs, err);
	if (r < 0)
		return r;
	if (lm_buf_reserve(&ours, theirs.len) < 0)
		return lm_err_oom(err);
	r = lm_pread_all(chain->fd, ours.data, theirs.len, (off_t)piece->offset, err);
	if (r == 0 && memcmp(ours.data, theirs.data, theirs.len) != 0)
		r = lm_err_set(err, -EBADMSG,
			"is not what its layers make: differs from offset %" PRIu64 " on, within %zu bytes",
			piece->offset, theirs.len);
	return r;
}

/* *known: of the last such piece, which need not be read again. */
static int compare_zeros(struct chain *chain, const struct lm_chunk *piece, struct lm_hash *known, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf theirs = LM_BUF(PIECE_MAX);
	if (known->set && memcmp(known->bytes, piece->hash.bytes, sizeof(known->bytes)) == 0)
		return 0;
	int r = load_piece(chain, piece, &theirs, err);
	for (size_t i = 0; i < theirs.len && r == 0; i++)
		if (theirs.data[i] != 0)
			r = lm_err_set(err, -EBADMSG, "has other than zeros at offset %" PRIu64, piece->offset);
	if (r == 0)
		*known = piece->hash;
	return r;
}

/* Behind the image, the pieces of large files. */
static int compare_contents(struct chain *chain, const struct lm_chunk *pieces, struct lm_err *err)
{
	const struct lm_chain_content *made = &chain->made.content;
	CLEANUP(lm_freep) struct lm_hash *zeros = calloc(LM_EROFS_BLOCK + 1, sizeof(*zeros));
	int r = zeros ? 0 : lm_err_oom(err);
	for (size_t i = 0; i < made->count && r == 0; i++) {
		const struct lm_chunk *ours = &made->chunks[i], *theirs = &pieces[i];
		if (theirs->offset != chain->made.bytes + ours->offset || theirs->size != ours->size ||
			(ours->hash.set && memcmp(ours->hash.bytes, theirs->hash.bytes, LM_HASH_BYTES) != 0))
			return lm_err_set(err, -EBADMSG,
				"is not what its layers make: another piece of a large file at offset %" PRIu64,
				theirs->offset);
		if (!ours->hash.set)
			r = compare_zeros(chain, theirs, &zeros[theirs->size], err);
	}
	return r;
}

static int compare_pieces(struct chain *chain, struct lm_err *err)
{
	const uint64_t bytes = chain->made.bytes + chain->made.content.bytes;
	size_t own = 0;
	if (chain->row.size != bytes)
		return lm_err_set(err, -EBADMSG, "is not what its layers make: %" PRIu64 " bytes instead of %" PRIu64,
			chain->row.size, bytes);
	while (own < chain->count && chain->pieces[own].offset < chain->made.bytes)
		own++;
	if (chain->count - own != chain->made.content.count || chain->row.compression != LM_COMPRESSION_ZLIB)
		return lm_err_set(err, -EBADMSG, "is not what its layers make: its large files are in other pieces");
	int r = compare_contents(chain, chain->pieces + own, err);
	for (size_t i = 0; i < own && r == 0; i++)
		r = compare_piece(chain, &chain->pieces[i], err);
	return r;
}

/* --- both --- */

static int compare(struct chain *chain, const struct lm_published_top *top, struct lm_err *err)
{
	struct lm_err failure = LM_ERR_INIT;
	unsigned form = LM_CHAIN_IMAGE_FORM;
	int r = find_file(chain, top, &failure);
	if (r == 0)
		r = find_form(chain, &form, &failure);
	if (r == 0 && form == LM_CHAIN_IMAGE_FORM)
		r = make_again(chain, &failure);
	if (r == 0 && form == LM_CHAIN_IMAGE_FORM)
		r = compare_pieces(chain, &failure);
	if (r == -ENOMEM || r == -ENOSPC || r == -EMFILE || r == -ENFILE)
		return lm_err_set(err, r, "%s", lm_err_text(&failure));
	if (r < 0)
		note(chain, LM_VERIFY_DIFFERENCE, "%s", lm_err_text(&failure));
	else if (form != LM_CHAIN_IMAGE_FORM)
		note(chain, LM_VERIFY_UNCOMPARED, "made by another version of this program: it has form %u, and not %d",
			form, LM_CHAIN_IMAGE_FORM);
	LM_LOCKED(&chain->comparison->lock);
	chain->comparison->part->entries += form == LM_CHAIN_IMAGE_FORM;
	chain->comparison->part->bytes += chain->made.bytes;
	return 0;
}

static bool all_there(const struct lm_published_top *layers, size_t count)
{
	while (count > 0 && layers[count - 1].path)
		count--;
	return count == 0;
}

int lm_verify_chain(struct lm_comparison *c, struct lm_published *published, const struct lm_published_top *root,
	const struct lm_published_top *layers, const struct lm_image *image, struct lm_err *err)
{
	CLEANUP(lm_published_top_done) struct lm_published_top top = {0};
	CLEANUP(chain_done) struct chain chain = {.comparison = c, .image = image, .layers = layers, .fd = -1};
	struct lm_err failure = LM_ERR_INIT;
	struct lm_layer_path path;
	int r = lm_chain_tree_path(image, &path, err);
	if (r < 0 || !all_there(layers, image->layer_count))
		return r;
	r = lm_published_nested(published, root, path.s, &top, &failure);
	if (r < 0)
		return r == -ENOENT ? 0 : lm_err_set(err, r, "%s", lm_err_text(&failure));
	chain.path = lm_str_printf("%s/" LM_IMAGES_TREE, path.s);
	return chain.path ? compare(&chain, &top, err) : lm_err_oom(err);
}
