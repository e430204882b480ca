/*
 * Where images lie in a repository: DUCC's layout, and ours beside it.
 *
 *   /.layers/xx/HEX/layerfs             the layer sha256:HEX, xx its first two digits
 *   /.lamella/trees/xx/HEX/tree         the merged tree of a chain of layers as an EROFS image (erofs/erofs.h) whose
 *                                       redirects are relative to /.layers, with the content of large files behind it.
 *                                       HEX names the chain
 *
 * A chain is named by the layers' digests, the lowest first: HEX is the SHA-256 of them, each followed by a newline.
 */
#ifndef LM_REPO_IMAGES_H
#define LM_REPO_IMAGES_H

#include "base/err.h"

#include <stddef.h>

#define LM_IMAGES_LAYERS ".layers"
#define LM_IMAGES_LAYER_ROOT "layerfs"
#define LM_IMAGES_TREES ".lamella/trees"
#define LM_IMAGES_TREE "tree"

struct lm_chain_hex {
	char s[65];
};

/* digests: "sha256:…", the lowest layer's first. -ENOMEM, or what OpenSSL failed with. */
int lm_images_chain(const char *const *digests, size_t count, struct lm_chain_hex *ret, struct lm_err *err) MUST_CHECK;

#endif
