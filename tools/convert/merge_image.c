#include "base/str.h"
#include "convert/layer.h"
#include "convert/merge.h"
#include "repo/images.h"
#include "repo/object_store.h"

#include <stdio.h>
#include <unistd.h>

static const uint64_t catalog_max = (uint64_t)64 << 30;

struct layers { /* the uppermost first */
	struct lm_txn *txn;
	struct lm_storage *storage;
	struct lm_merge_layer *items;
	char (*roots)[LM_LAYER_PATH_TEXT_MAX + 16];
	size_t count;
	unsigned opened;
};

static void layers_done(struct layers *layers)
{
	for (size_t i = 0; i < layers->count; i++)
		lm_catalog_close(layers->items[i].catalog);
	free(layers->items);
	free(layers->roots);
}

/* A catalog that was stored just now and is not there may have failed on its way: the storage says so when asked. */
static int load(struct lm_storage *storage, const struct lm_nested *nested, const char *path, struct lm_err *err)
{
	struct lm_err late = LM_ERR_INIT;
	int r = lm_object_load_file(
		storage, &nested->hash, LM_OBJECT_CATALOG, nested->size ? nested->size : catalog_max, path, err);
	int late_r = r < 0 ? storage->ops->sync(storage, &late) : 0;
	return late_r < 0 ? lm_err_set(err, late_r, "%s", lm_err_text(&late)) : r;
}

/* The file is gone at once: the open catalog is enough. */
static int open_catalog(void *arg, const struct lm_nested *nested, struct lm_catalog **ret, struct lm_err *err)
{
	struct layers *layers = arg;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/merge.%u", lm_txn_scratch(layers->txn), layers->opened++);
	if (!path)
		return lm_err_oom(err);
	int r = load(layers->storage, nested, path, err);
	if (r < 0)
		return r;
	r = lm_catalog_open(path, nested->path, ret, err);
	(void)unlink(path);
	return r;
}

/* Replaces a catalog that lists what is above the layer's root by the one that begins there, if there is one. */
static int descend(struct layers *layers, const char *root, struct lm_catalog **catalog, struct lm_err *err)
{
	struct lm_nested nested = {0};
	struct lm_catalog *below = NULL;
	struct lm_err why = LM_ERR_INIT;
	int r = lm_catalog_nested(*catalog, root, &nested, &why);
	if (r == -ENOENT)
		return 0;
	r = r < 0 ? lm_err_set(err, r, "%s", lm_err_text(&why)) : open_catalog(layers, &nested, &below, err);
	free(nested.path);
	if (r < 0)
		return r;
	lm_catalog_close(*catalog);
	*catalog = below;
	return 0;
}

/* The catalog that lists the layer's root: it begins above that, or with it in layers that DUCC wrote. */
static int open_layer(
	struct layers *layers, const char *digest, const char *root, struct lm_catalog **ret, struct lm_err *err)
{
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	struct lm_nested nested = {0};
	struct lm_err why = LM_ERR_INIT;
	int r = lm_txn_nested(layers->txn, lm_layer_path(digest).s, &nested, &why);
	if (r == -ENOENT)
		r = lm_txn_nested(layers->txn, root, &nested, &why);
	if (r < 0)
		return lm_err_set(err, r == -ENOENT ? -EPROTO : r, "layer %s has no catalog of its own: %s", digest,
			lm_err_text(&why));
	r = open_catalog(layers, &nested, &catalog, err);
	free(nested.path);
	if (r == 0)
		r = descend(layers, root, &catalog, err);
	if (r == 0)
		*ret = STEAL(catalog);
	return r;
}

static int open_layers(struct layers *layers, const struct lm_image *image, struct lm_err *err)
{
	layers->items = calloc(image->layer_count + 1, sizeof(*layers->items));
	layers->roots = calloc(image->layer_count + 1, sizeof(*layers->roots));
	if (!layers->items || !layers->roots)
		return lm_err_oom(err);
	int r = 0;
	for (size_t i = image->layer_count; i > 0 && r == 0; i--) {
		const char *digest = image->layers[i - 1].digest;
		char *root = layers->roots[layers->count];
		struct lm_catalog *catalog = NULL;
		snprintf(root, sizeof(*layers->roots), "%s/" LM_IMAGES_LAYER_ROOT, lm_layer_path(digest).s);
		r = open_layer(layers, digest, root, &catalog, err);
		if (r == 0)
			layers->items[layers->count++] = (struct lm_merge_layer){catalog, root};
	}
	return r;
}

int lm_merge_image(struct lm_txn *txn, struct lm_storage *storage, const struct lm_image *image,
	enum lm_merge_kind kind, struct lm_layer_tree **ret, struct lm_err *err)
{
	CLEANUP(layers_done) struct layers layers = {.txn = txn, .storage = storage};
	int r = open_layers(&layers, image, err);
	return r < 0 ? r : lm_merge(layers.items, layers.count, kind, open_catalog, &layers, ret, err);
}
