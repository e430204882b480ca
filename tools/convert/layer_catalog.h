/*
 * A layer's catalogs: the nested catalog at /.layers/xx/DIGEST, written from the layer's tree, and those that hang
 * below it where the layer is large (layer_split.h).
 *
 *   .cvmfscatalog      the marker that every nested catalog has
 *   .metadata/…        the extra files
 *   opaque/…           where the layer has opaque directories and no other attributes: see layer_opaque.h
 *   layerfs/…          the tree, breadth first: the children of a directory have neighbouring row ids
 *
 * Or, of an image's flat tree (flat.h), the nested catalog at /.flat/xx/DIGEST that is the tree itself, and those
 * below.
 *
 * The markers of the catalogs inside a tree are hidden: the format demands them, containers do not see them.
 *
 * What the format can't hold is left out and reported, per name: attribute values of over 255 bytes, attributes beyond
 * the 255th. Targets of links that clients would expand ("$(NAME)") are written so that they expand to themselves.
 */
#ifndef LM_TOOLS_LAYER_CATALOG_H
#define LM_TOOLS_LAYER_CATALOG_H

#include "convert/layer_split.h"
#include "repo/images.h"
#include "repo/publish.h"

struct lm_layer_extra {
	const char *path; /* relative, its parents listed before it; a directory when it ends in a slash */
	struct lm_hash hash;
	uint64_t size;
};

struct lm_layer_loss { /* told of each loss; path is inside the layer */
	void (*fn)(void *arg, const char *path, const char *what);
	void *arg;
};

/* Stores a finished catalog that belongs at mountpoint; the file is not needed afterwards. */
struct lm_layer_store {
	int (*fn)(void *arg, const char *mountpoint, const char *db_path, struct lm_finished *ret, struct lm_err *err);
	void *arg;
};

/* What a layer's catalogs are made of. */
struct lm_layer_content {
	const char *mountpoint;
	bool flat; /* the tree begins at the mountpoint itself, where it has no name like the marker's; no extras */
	struct lm_layer_tree *tree;
	const struct lm_layer_extra *extras;
	size_t extra_count;
	struct lm_hash nothing; /* of the object of an empty file */
	int64_t time_s;		/* of all that is not in the layer */
};

/*
 * Catalogs inside the layer are handed to store, each before the one that names it; the one at the mountpoint is left
 * at db_path, which must not exist. For those inside, name.nested is used beside it. They depend on nothing but the
 * layer: the same one has the same catalogs again. *ret: what all of them hold, mountpoints counted once and hidden
 * markers not at all. The tree's groups are set.
 */
int lm_layer_catalog_write(const char *db_path, const struct lm_layer_content *content,
	const struct lm_layer_limits *limits, const struct lm_layer_store *store, const struct lm_layer_loss *loss,
	struct lm_counters *ret, struct lm_err *err) MUST_CHECK;

/* The target of a link, from that of its row: the other way round. The caller frees it; NULL: no memory. */
char *lm_layer_target(const char *raw);

#endif
