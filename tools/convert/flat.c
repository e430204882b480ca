#include "convert/flat.h"

#include "base/clock.h"
#include "base/str.h"
#include "common.h"
#include "convert/apptainer.h"
#include "convert/layer_catalog.h"
#include "repo/object_store.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const uint64_t catalog_max = (uint64_t)64 << 30;

struct lm_layer_path lm_flat_path(const char *config_digest)
{
	const char *hex = strchr(config_digest, ':') + 1;
	struct lm_layer_path path;
	snprintf(path.s, sizeof(path.s), "/.flat/%.2s/%s", hex, hex);
	return path;
}

/* --- the layers --- */

struct layers { /* the uppermost first */
	const struct lm_flat_job *job;
	struct lm_flat_layer *items;
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
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/merge.%u", lm_txn_scratch(layers->job->txn), layers->opened++);
	if (!path)
		return lm_err_oom(err);
	int r = load(layers->job->storage, nested, path, err);
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
	int r = lm_txn_nested(layers->job->txn, lm_layer_path(digest).s, &nested, &why);
	if (r == -ENOENT)
		r = lm_txn_nested(layers->job->txn, root, &nested, &why);
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

static int open_layers(struct layers *layers, struct lm_err *err)
{
	const struct lm_image *image = layers->job->image;
	layers->items = calloc(image->layer_count + 1, sizeof(*layers->items));
	layers->roots = calloc(image->layer_count + 1, sizeof(*layers->roots));
	if (!layers->items || !layers->roots)
		return lm_err_oom(err);
	int r = 0;
	for (size_t i = image->layer_count; i > 0 && r == 0; i--) {
		const char *digest = image->layers[i - 1].digest;
		char *root = layers->roots[layers->count];
		struct lm_catalog *catalog = NULL;
		snprintf(root, sizeof(*layers->roots), "%s/" LM_LAYER_ROOT, lm_layer_path(digest).s);
		r = open_layer(layers, digest, root, &catalog, err);
		if (r == 0)
			layers->items[layers->count++] = (struct lm_flat_layer){catalog, root};
	}
	return r;
}

/* --- the tree --- */

static void say_loss(void *arg, const char *path, const char *what)
{
	const struct lm_flat_job *job = arg;
	lm_cli_error("flat tree of %.19s: %s: %s", job->image->config_digest, path, what);
}

static int store_nested(
	void *arg, const char *mountpoint, const char *db_path, struct lm_finished *ret, struct lm_err *err)
{
	const struct lm_flat_job *job = arg;
	return lm_txn_store_nested(job->txn, mountpoint, db_path, ret, err);
}

static int write_catalogs(const struct lm_flat_job *job, struct lm_layer_tree *tree, const char *db_path,
	struct lm_counters *ret, struct lm_err *err)
{
	const struct lm_layer_path mountpoint = lm_flat_path(job->image->config_digest);
	const struct lm_layer_store store = {store_nested, (void *)job};
	const struct lm_layer_loss loss = {say_loss, (void *)job};
	struct lm_layer_content content = {
		.mountpoint = mountpoint.s, .flat = true, .tree = tree, .time_s = lm_wall_s()};
	int r = lm_packing_data(job->packing, "", 0, &content.nothing, err);
	if (r == 0)
		r = lm_apptainer_add(tree, job->image, job->packing, content.time_s, &loss, err);
	return r < 0 ? r : lm_layer_catalog_write(db_path, &content, &lm_layer_limits, &store, &loss, ret, err);
}

static int graft(const struct lm_flat_job *job, struct lm_layer_tree *tree, struct lm_counters *ret, struct lm_err *err)
{
	const struct lm_layer_path path = lm_flat_path(job->image->config_digest);
	char parent[LM_LAYER_PATH_TEXT_MAX];
	snprintf(parent, sizeof(parent), "%.*s", (int)strlen("/.flat/xx"), path.s);
	CLEANUP(lm_freep)
	char *db_path = lm_str_printf("%s/flat-%s", lm_txn_scratch(job->txn), job->image->config_digest + 7);
	if (!db_path)
		return lm_err_oom(err);
	int r = write_catalogs(job, tree, db_path, ret, err);
	if (r == 0)
		r = lm_txn_mkdirs(job->txn, "/.flat", true, err);
	if (r == 0)
		r = lm_txn_mkdirs(job->txn, parent, false, err);
	if (r == 0)
		r = lm_txn_graft(job->txn, path.s, db_path, err);
	(void)unlink(db_path);
	return r;
}

static int make(const struct lm_flat_job *job, struct lm_counters *ret, struct lm_err *err)
{
	CLEANUP(layers_done) struct layers layers = {.job = job};
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = NULL;
	int r = open_layers(&layers, err);
	if (r == 0)
		r = lm_flat_merge(layers.items, layers.count, open_catalog, &layers, &tree, err);
	return r < 0 ? r : graft(job, tree, ret, err);
}

int lm_flat_make(const struct lm_flat_job *job, struct lm_flat_report *ret, struct lm_err *err)
{
	struct lm_counters counters;
	int64_t start_ms = lm_now_ms();
	int r = lm_txn_has(job->txn, lm_flat_path(job->image->config_digest).s, err);
	if (r > 0)
		*ret = (struct lm_flat_report){0};
	if (r != 0)
		return r < 0 ? r : 0;
	r = make(job, &counters, err);
	if (r < 0)
		return lm_err_prefix(err, r, "flat tree");
	*ret = (struct lm_flat_report){
		.made = true,
		.entries = counters.regular + counters.dir + counters.symlink + counters.special,
		.ms = lm_now_ms() - start_ms,
	};
	return 0;
}
