/*
 * The layers of an image one upon the other, as overlayfs shows them, made of the layers' catalogs alone: nothing is
 * fetched or unpacked.
 *
 * Whiteouts and opaque directories are applied. Of what overlayfs takes from several layers the uppermost counts: a
 * directory's attributes are those of the uppermost layer that has it, the root's those of the uppermost layer.
 * trusted.overlay.* means nothing any more and goes. Where names of one file come from one layer and several are left,
 * they are hard links as before.
 */
#ifndef LM_TOOLS_MERGE_H
#define LM_TOOLS_MERGE_H

#include "convert/layer_tree.h"
#include "oci/image.h"
#include "repo/publish.h"

enum lm_merge_kind {
	/* For Apptainer (flat.h): files u+rw, directories u+rwx, as many links as names are left. Whiteouts may be the
	 * files with special names that layers have which DUCC wrote. */
	LM_MERGE_FLAT,
	/* What a container sees (chain_tree.h). A file's path is the one that it has in its layer. Numbers of links are
	 * those that overlayfs shows: names in the file's own layer, replaced or not, and 1 of directories that several
	 * layers have. -ENOTSUP: a layer that DUCC wrote, of which no container can see the files without what stands
	 * for whiteouts. */
	LM_MERGE_CONTAINER,
};

struct lm_merge_layer {
	struct lm_catalog *catalog; /* that lists what is in root */
	const char *root;	    /* "/.layers/xx/DIGEST/layerfs" */
};
/* Opens a nested catalog inside a layer; it is closed as soon as the walk has left it. */
typedef int lm_merge_open_fn(void *arg, const struct lm_nested *nested, struct lm_catalog **ret, struct lm_err *err);

/* layers: the uppermost first. The tree's memory is what it needs of names and chunks; catalogs are read directory by
 * directory. -EPROTO: a layer's catalogs make no sense; -ENOTSUP: a file whose content is not in the repository. */
int lm_merge(const struct lm_merge_layer *layers, size_t count, enum lm_merge_kind kind, lm_merge_open_fn *open,
	void *arg, struct lm_layer_tree **ret, struct lm_err *err) MUST_CHECK;

/* The same of an image whose layers are in the transaction. */
int lm_merge_image(struct lm_txn *txn, struct lm_storage *storage, const struct lm_image *image,
	enum lm_merge_kind kind, struct lm_layer_tree **ret, struct lm_err *err) MUST_CHECK;

#endif
