/*
 * The index of layers by chain id and diff id (repo/images.h): entries for the layers of an image.
 *
 * An image says by itself what the diff ids of its layers are, and nothing stops it from calling its layer by the diff
 * id of somebody else's. So a layer is entered only under the diff id that was verified when it was converted, which
 * its own .metadata/layers.json says, and never where stock tools wrote it. A chain id ends in the diff id, so that is
 * enough for both.
 *
 * An entry that names a layer which is there stays as it is: whatever layer has that diff id will do.
 */
#ifndef LM_TOOLS_LAYER_INDEX_H
#define LM_TOOLS_LAYER_INDEX_H

#include "convert/image.h"
#include "convert/inventory.h"
#include "repo/images.h"

struct lm_layer_index_entry {
	enum lm_images_index index;
	struct lm_images_digest id, layer;
};
struct lm_layer_index_plan {
	struct lm_layer_index_entry *entries; /* that are lacking; each once */
	size_t count;
	size_t doubtful; /* the first layer that is not what the image calls it; the number of layers: there is none */
};
void lm_layer_index_plan_done(struct lm_layer_index_plan *plan); /* for CLEANUP */

/*
 * What the index lacks of an image whose layers are all there. image needs its layers' digests, diff ids and chain ids
 * only. verified[i]: the diff id of layer i was verified just now; NULL: that of none was.
 */
int lm_layer_index_plan(const struct lm_view *view, const struct lm_image *image, const bool *verified,
	struct lm_layer_index_plan *ret, struct lm_err *err) MUST_CHECK;
/* Makes these entries. */
int lm_layer_index_put(struct lm_txn *txn, const struct lm_layer_index_plan *plan, struct lm_err *err) MUST_CHECK;

/*
 * After layers were taken out of the transaction: the entries that name one of them go, or name another layer of the
 * same diff id that an image of the inventory has. gone: digests, sorted by strcmp(). Reads the whole index.
 */
int lm_layer_index_forget(struct lm_txn *txn, const struct lm_inventory *inventory, const char *const *gone,
	size_t count, struct lm_err *err) MUST_CHECK;

#endif
