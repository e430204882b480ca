/*
 * The tree that a container sees, as an EROFS image without the content of files (erofs/erofs.h): a node mounts it as
 * the uppermost lower directory of an overlay whose data-only layer is the repository's /.layers. A file's redirect is
 * "/xx/HEX/layerfs/PATH", its path in its layer there; of several names of one file, the first that the tree has.
 */
#ifndef LM_TOOLS_CHAIN_IMAGE_H
#define LM_TOOLS_CHAIN_IMAGE_H

#include "convert/layer_tree.h"
#include "erofs/erofs.h"

struct lm_chain_image {
	uint64_t bytes; /* of the file */
	uint64_t names; /* in the tree, but for its root */
};

/*
 * What image is made of a tree: counted up with each change of merge.c, chain_image.c or lib/erofs that makes other
 * bytes of some tree. The image's volume is called "lamella form N"; before there were forms it had no name.
 */
enum { LM_CHAIN_IMAGE_FORM = 1 };

/* The form of the image that begins with head, 0 before there were any; -EPROTO: that can't be said. */
int lm_chain_image_form(const uint8_t head[LM_EROFS_HEAD], unsigned *ret, struct lm_err *err) MUST_CHECK;

/*
 * tree: by lm_merge() with LM_MERGE_CONTAINER; its inodes' groups are used. digests: of the layers, the lowest first.
 * fd: an empty file. Equal trees make equal bytes. -ENOTSUP: the tree has what such an image can't hold; err names it.
 */
int lm_chain_image_write(struct lm_layer_tree *tree, const char *const *digests, size_t count, int fd,
	struct lm_chain_image *ret, struct lm_err *err) MUST_CHECK;

#endif
