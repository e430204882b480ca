/*
 * A layer's catalog: the nested catalog at /.layers/xx/DIGEST, written from the layer's tree.
 *
 *   .cvmfscatalog      the marker that every nested catalog has
 *   .metadata/…        the extra files
 *   layerfs/…          the tree, breadth first: the children of a directory have neighbouring row ids
 *
 * What the format can't hold is left out and reported, per name: attribute values of over 255 bytes, attributes beyond
 * the 255th. Targets of links that clients would expand ("$(NAME)") are written so that they expand to themselves.
 */
#ifndef LM_TOOLS_LAYER_CATALOG_H
#define LM_TOOLS_LAYER_CATALOG_H

#include "convert/layer_tree.h"

#define LM_LAYER_ROOT "layerfs"

struct lm_layer_extra {
	const char *path; /* relative, its parents listed before it; a directory when it ends in a slash */
	struct lm_hash hash;
	uint64_t size;
};

struct lm_layer_loss { /* told of each loss; path is inside the layer */
	void (*fn)(void *arg, const char *path, const char *what);
	void *arg;
};

/* db_path must not exist. time_s: of all that is not in the layer. The tree's link groups are numbered. */
int lm_layer_catalog_write(const char *db_path, const char *mountpoint, struct lm_layer_tree *tree,
	const struct lm_layer_extra *extras, size_t extra_count, int64_t time_s, const struct lm_layer_loss *loss,
	struct lm_counters *ret, struct lm_err *err) MUST_CHECK;

#endif
