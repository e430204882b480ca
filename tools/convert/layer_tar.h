/* From a layer's blob or tar stream to its tree, with the content of its files packed on the way. */
#ifndef LM_TOOLS_LAYER_TAR_H
#define LM_TOOLS_LAYER_TAR_H

#include "convert/layer_tree.h"
#include "convert/packing.h"
#include "convert/progress.h"
#include "oci/source.h"

/*
 * Files of more than LM_CHUNKED_ABOVE bytes are cut into chunks of LM_CHUNK_SIZE. Jobs read a few percent of big files,
 * so chunks are small; smaller ones would cost clients that fetch them one after another too many round trips.
 * Databases of SQLite are read a page here and a page there, whatever their size: theirs are of LM_CHUNK_SIZE_DATABASE.
 */
enum { LM_CHUNK_SIZE = 256 << 10, LM_CHUNK_SIZE_DATABASE = 32 << 10, LM_CHUNKED_ABOVE = 512 << 10 };

/*
 * Reads the stream to its end. packing NULL: content is read and dropped. When this returns 0 all content is stored and
 * every inode's hashes are set; when it fails nothing of the tree is in use any more.
 */
int lm_layer_read(lm_tar_input_fn *input, void *arg, const struct lm_layer_below *below, struct lm_packing *packing,
	struct lm_layer_tree **ret, struct lm_err *err) MUST_CHECK;

struct lm_layer_blob {
	struct lm_blob *blob;
	const struct lm_layer *layer;
	struct lm_layer_meter *meter; /* NULL: nobody looks */
};

/*
 * The same from the layer's blob: inflates it on a thread of its own, and verifies its digest and its diff id. What
 * eStargz puts into a layer's root is left out (stargz.h). *ret_tar_bytes: the length of the tar.
 */
int lm_layer_read_blob(const struct lm_layer_blob *from, const struct lm_layer_below *below, struct lm_packing *packing,
	struct lm_layer_tree **ret, uint64_t *ret_tar_bytes, struct lm_err *err) MUST_CHECK;

#endif
