/*
 * The tree that a container sees, as an EROFS image (erofs/erofs.h): a node mounts it as the uppermost lower directory
 * of an overlay whose data-only layer is the repository's /.layers. Large files have their content in the image
 * (chain_content.h), so that the kernel reads them as it reads files of its own disks. All others have a redirect into
 * their layer there: to where a catalog begins, most often "/xx/HEX", and a name that leads to the file from there
 * (LM_IMAGES_ROW in repo/images.h), so that a file costs one look-up, however deep it lies; of several names of one
 * file, the first that the tree has.
 */
#ifndef LM_TOOLS_CHAIN_IMAGE_H
#define LM_TOOLS_CHAIN_IMAGE_H

#include "convert/chain_content.h"
#include "convert/layer_tree.h"
#include "erofs/erofs.h"

struct lm_chain_image {
	uint64_t bytes; /* of the image, without contents, which begin there */
	uint64_t names; /* in the tree, but for its root */
	struct lm_chain_content content;
};
void lm_chain_image_done(struct lm_chain_image *image);

/*
 * What image is made of a tree: counted up with each change of merge.c, chain_image.c, chain_content.c or lib/erofs
 * that makes other bytes of some tree. The image's volume is called "lamella form N"; before there were forms it had no
 * name. Form 1 had redirects for all files; in forms 1 and 2 they were paths in the layer, and databases had them
 * always.
 */
enum { LM_CHAIN_IMAGE_FORM = 3 };

/* The form of the image that begins with head, 0 before there were any; -EPROTO: that can't be said. */
int lm_chain_image_form(const uint8_t head[LM_EROFS_HEAD], unsigned *ret, struct lm_err *err) MUST_CHECK;

/*
 * tree: by lm_merge() with LM_MERGE_CONTAINER; its inodes' groups are used. digests: of the layers, the lowest first.
 * algo: of what names the pieces. fd: an empty file, which gets all but contents. Equal trees make equal bytes and
 * contents. *ret is the caller's to release, after a failure, too. -ENOTSUP: the tree has what such an image can't
 * hold; err names it.
 */
int lm_chain_image_write(struct lm_layer_tree *tree, const char *const *digests, size_t count, enum lm_hash_algo algo,
	int fd, struct lm_chain_image *ret, struct lm_err *err) MUST_CHECK;

#endif
