/*
 * Where the tree of a layer is cut into nested catalogs.
 *
 * A node fetches a catalog whole, so a layer of 50,000 names in one catalog costs megabytes before the first file is
 * read. On the other hand each catalog on the way to a file is a request that waits for the one before it. So:
 *
 *   small      a layer of up to `whole` entries is one catalog
 *   upwards    a directory that holds at least `least` entries, those of its own catalogs not counted, begins a catalog
 *   downwards  one that other catalogs hang below is mostly passed through: it is joined with the one above while both
 *              together have at most `joined` entries, the uppermost first, so that the ways stay short
 *
 * An entry is a name or a chunk of a file. A directory that can't be split is larger than that, and stays whole: one
 * with many names of its own; one that a hard-link group has members in and others outside of, since a group can't be
 * in two catalogs; and one that has a file named like a catalog's marker already.
 *
 * The same tree is always cut in the same way.
 */
#ifndef LM_TOOLS_LAYER_SPLIT_H
#define LM_TOOLS_LAYER_SPLIT_H

#include "convert/layer_tree.h"

#define LM_LAYER_MARKER ".cvmfscatalog"

struct lm_layer_limits {
	uint32_t whole, least, joined;
};
/* For an image of 55,000 names in 6 layers, a shell then fetches 0.5 MB of catalogs rather than 5.7, 8 of them in
 * series rather than 6. Half of `least` and `joined` saves a quarter of that and takes 10 to 12. */
extern const struct lm_layer_limits lm_layer_limits;

struct lm_layer_part {
	struct lm_layer_node **dirs; /* whose children it lists, breadth first; the first is where it begins */
	size_t count;
};

/*
 * parts[0] begins at the tree's root, each other one after the part that holds the directory in which it begins. In the
 * tree, group is set: of what has more than one name the number of its hard-link group, of a directory the number of
 * the part that begins there, or 0.
 */
struct lm_layer_split {
	struct lm_layer_part *parts;
	size_t count;
	struct lm_layer_node **dirs; /* of all parts */
};

/* The split points into the tree. */
int lm_layer_split(struct lm_layer_tree *tree, const struct lm_layer_limits *limits, struct lm_layer_split *ret,
	struct lm_err *err) MUST_CHECK;
void lm_layer_split_done(struct lm_layer_split *split);

#endif
