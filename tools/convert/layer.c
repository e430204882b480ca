#include "convert/layer.h"

#include "base/clock.h"
#include "base/str.h"
#include "common.h"
#include "convert/image_json.h"
#include "convert/layer_catalog.h"
#include "convert/layer_tar.h"

#include <stdio.h>

struct conversion {
	const struct lm_layer_job *job;
	const struct lm_layer *layer;
	struct lm_layer_report *report;
};

struct lm_layer_path lm_layer_path(const char *digest)
{
	const char *hex = strchr(digest, ':') + 1;
	struct lm_layer_path path;
	snprintf(path.s, sizeof(path.s), "/.layers/%.2s/%s", hex, hex);
	return path;
}

/* --- the stream --- */

static void show_progress(void *arg, uint64_t consumed)
{
	const struct conversion *c = arg;
	lm_cli_status("%s: layer %zu of %zu: %s of %s", c->job->label, c->job->index + 1, c->job->image->layer_count,
		lm_cli_size(consumed).s, lm_cli_size(c->layer->size).s);
}

/* Looks for a path in the index-th layer below, as the transaction has it. */
static int lookup_below(void *arg, size_t index, const char *path, struct lm_row *ret, struct lm_err *err)
{
	const struct lm_layer_job *job = arg;
	const struct lm_layer *below = &job->image->layers[job->index - 1 - index];
	char full[LM_REPO_PATH_MAX + 1];
	int n = snprintf(full, sizeof(full), "%s/" LM_LAYER_ROOT "%s", lm_layer_path(below->digest).s, path);
	if ((size_t)n >= sizeof(full))
		return -ENOENT;
	struct lm_err failure = LM_ERR_INIT; /* absence is no failure: err stays untouched */
	int r = lm_txn_lookup(job->txn, full, ret, &failure);
	return r < 0 && r != -ENOENT ? lm_err_set(err, r, "%s", lm_err_text(&failure)) : r;
}

static int read_layer(struct conversion *c, struct lm_layer_tree **ret, struct lm_err *err)
{
	const struct lm_layer_job *job = c->job;
	CLEANUP(lm_blob_closep) struct lm_blob *blob = NULL;
	const struct lm_layer_below below = {.lookup = lookup_below, .arg = (void *)job, .count = job->index};
	int r = lm_source_blob(job->source, c->layer->digest, c->layer->size, &blob, err);
	if (r < 0)
		return r;
	const struct lm_layer_blob from = {blob, c->layer, show_progress, c};
	return lm_layer_read_blob(&from, &below, job->packing, ret, &c->report->tar_bytes, err);
}

/* --- the catalog --- */

static void on_loss(void *arg, const char *path, const char *what)
{
	struct conversion *c = arg;
	c->report->losses++;
	lm_cli_error("layer %s: %s: %s", c->layer->digest, path, what);
}

static int store_nested(
	void *arg, const char *mountpoint, const char *db_path, struct lm_finished *ret, struct lm_err *err)
{
	struct conversion *c = arg;
	return lm_txn_store_nested(c->job->txn, mountpoint, db_path, ret, err);
}

static int store_text(
	struct lm_packing *packing, const struct lm_buf *text, struct lm_layer_extra *extra, struct lm_err *err)
{
	extra->size = text->len;
	return lm_packing_data(packing, lm_buf_cstr(text), text->len, &extra->hash, err);
}

static int write_catalog(struct conversion *c, struct lm_layer_tree *tree, const char *db_path, struct lm_err *err)
{
	const struct lm_layer_job *job = c->job;
	struct lm_layer_extra extras[] = {
		{.path = LM_LAYER_MARKER},
		{.path = ".metadata/"},
		{.path = ".metadata/layers.json"},
		{.path = ".metadata/origin.json"},
	};
	CLEANUP(lm_buf_done) struct lm_buf layers = LM_BUF(LM_LAYER_JSON_MAX), origin = LM_BUF(LM_LAYER_JSON_MAX);
	const struct lm_buf nothing = {0};
	int r = lm_layers_json(c->layer, job->image->created, c->report->tar_bytes, &layers, err);
	if (r == 0)
		r = lm_origin_json_add(&origin, job->image->config_digest, NULL, err);
	if (r == 0)
		r = store_text(job->packing, &nothing, &extras[0], err);
	if (r == 0)
		r = store_text(job->packing, &layers, &extras[2], err);
	if (r == 0)
		r = store_text(job->packing, &origin, &extras[3], err);
	if (r < 0)
		return r;
	const struct lm_layer_path mountpoint = lm_layer_path(c->layer->digest);
	const struct lm_layer_content content = {
		.mountpoint = mountpoint.s,
		.tree = tree,
		.extras = extras,
		.extra_count = ARRAY_LEN(extras),
		.nothing = extras[0].hash,
		.time_s = lm_wall_s(),
	};
	const struct lm_layer_store store = {store_nested, c};
	const struct lm_layer_loss loss = {on_loss, c};
	struct lm_counters counters;
	r = lm_layer_catalog_write(db_path, &content, &lm_layer_limits, &store, &loss, &counters, err);
	if (r < 0)
		return r;
	c->report->files = counters.regular - (ARRAY_LEN(extras) - 1);
	c->report->file_bytes = counters.file_size - layers.len - origin.len;
	return 0;
}

/* 1: something is there; 0: nothing is. */
int lm_txn_has(struct lm_txn *txn, const char *path, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_err failure = LM_ERR_INIT;
	int r = lm_txn_lookup(txn, path, &row, &failure);
	if (r < 0 && r != -ENOENT)
		return lm_err_set(err, r, "%s", lm_err_text(&failure));
	return r == 0;
}

static int graft(struct conversion *c, struct lm_layer_tree *tree, struct lm_err *err)
{
	const struct lm_layer_job *job = c->job;
	struct lm_layer_path path = lm_layer_path(c->layer->digest);
	char parent[LM_LAYER_PATH_TEXT_MAX];
	snprintf(parent, sizeof(parent), "%.*s", (int)strlen("/.layers/xx"), path.s);
	CLEANUP(lm_freep) char *db_path = lm_str_printf("%s/layer-%s", lm_txn_scratch(job->txn), c->layer->digest + 7);
	if (!db_path)
		return lm_err_oom(err);
	int r = write_catalog(c, tree, db_path, err);
	if (r == 0)
		r = lm_txn_mkdirs(job->txn, "/.layers", true, err);
	if (r == 0)
		r = lm_txn_mkdirs(job->txn, parent, true, err);
	if (r == 0)
		r = lm_txn_graft(job->txn, path.s, db_path, err);
	(void)unlink(db_path);
	return r;
}

int lm_layer_convert(const struct lm_layer_job *job, struct lm_layer_report *ret, struct lm_err *err)
{
	struct conversion c = {.job = job, .layer = &job->image->layers[job->index], .report = ret};
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = NULL;
	struct lm_packing_stats before, after;
	int64_t start_ms = lm_now_ms();
	lm_packing_stats(job->packing, &before);
	int r = read_layer(&c, &tree, err);
	if (r == 0)
		r = graft(&c, tree, err);
	if (r < 0)
		return lm_err_prefix(err, r, "layer %s", c.layer->digest);
	lm_packing_stats(job->packing, &after);
	ret->converted = true;
	ret->objects = after.objects - before.objects;
	ret->stored_bytes = after.bytes - before.bytes;
	ret->ms = lm_now_ms() - start_ms;
	return 0;
}
