/*
 * Opaque directories without an attribute.
 *
 * overlayfs knows a directory that hides all of its name below by the attribute trusted.overlay.opaque, for which the
 * kernel asks with every look-up. Another directory right below the layer does the same without: the tree `opaque`,
 * which has a whiteout in the place of each opaque directory, and what leads there. So a layer that has no other
 * attributes can be put together with it, from a mount on which nobody asks for any.
 */
#ifndef LM_TOOLS_LAYER_OPAQUE_H
#define LM_TOOLS_LAYER_OPAQUE_H

#include "convert/layer_tree.h"

#define LM_LAYER_OPAQUE "opaque"

/* Rows that the tree may have: they are in the layer's first catalog, which everybody loads. */
enum { LM_LAYER_OPAQUE_MAX = 2000 };

struct lm_layer_opaque {
	const struct lm_layer_node **nodes; /* of the layer, each after its parent: opaque ones, and what leads there */
	size_t count;			    /* 0: the layer is as good without the tree, or can't do with it */
};

/*
 * The opaque directories of a layer but its root, which overlayfs takes for none, and those inside of others. count is
 * 0 where there are none; where anything has another attribute, too; and where the tree would have too many rows.
 */
int lm_layer_opaque(struct lm_layer_tree *tree, struct lm_layer_opaque *ret, struct lm_err *err) MUST_CHECK;
void lm_layer_opaque_done(struct lm_layer_opaque *opaque);

bool lm_layer_is_opaque(const struct lm_layer_inode *inode);

#endif
