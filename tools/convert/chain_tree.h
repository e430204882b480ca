/*
 * The tree of an image for the kernel of a node:
 *
 *   /.lamella/trees/xx/CHAIN/tree      the layers one upon the other, as an EROFS image (chain_image.h)
 *
 * CHAIN names the layers and their order (repo/images.h): images of the same layers have one tree. It is a file as any,
 * alone in a nested catalog: the image in pieces of LM_CHUNK_SIZE, then those of the large files' contents, which the
 * layers have stored (chain_content.h); or one object, where there are none of these and the image is small. It is made
 * of the layers' catalogs (merge.h), nothing is fetched. Equal layers make equal objects: all times that are not in the
 * layers are 0.
 *
 * There is no tree of an image with a layer that DUCC wrote, since its whiteouts are files that only our mounts know
 * how to show, nor with a file whose content is outside of the repository, which is in no layer's directory for sure.
 */
#ifndef LM_TOOLS_CHAIN_TREE_H
#define LM_TOOLS_CHAIN_TREE_H

#include "convert/layer.h"

/* "/.lamella/trees/xx/CHAIN". */
int lm_chain_tree_path(const struct lm_image *image, struct lm_layer_path *ret, struct lm_err *err) MUST_CHECK;
/* The same by the chain's name. */
struct lm_layer_path lm_chain_path(const char *chain);

struct lm_chain_tree_job {
	struct lm_txn *txn;
	struct lm_storage *storage;
	struct lm_packing *packing;
	const struct lm_image *image; /* its layers are in the transaction */
};
/* Makes the tree, unless it is there. 0 also where there can be none, which the report says. */
int lm_chain_tree_make(const struct lm_chain_tree_job *job, struct lm_tree_report *ret, struct lm_err *err) MUST_CHECK;

#endif
