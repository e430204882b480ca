#include "convert/layer.h"

#include "base/clock.h"
#include "base/str.h"
#include "common.h"
#include "convert/image_json.h"
#include "convert/layer_catalog.h"
#include "convert/layer_tar.h"

#include <stdio.h>

enum { KEY_MAX = 64 << 10 };

struct conversion {
	const struct lm_layer_job *job;
	const struct lm_layer *layer;
	struct lm_layer_report *report;
};

struct lm_layer_path lm_layer_path(const char *digest)
{
	const char *hex = strchr(digest, ':') + 1;
	struct lm_layer_path path;
	snprintf(path.s, sizeof(path.s), "/" LM_IMAGES_LAYERS "/%.2s/%s", hex, hex);
	return path;
}

static void nested_done(struct lm_nested *nested)
{
	free(nested->path);
}

/* --- the stream --- */

/* Looks for a path in the index-th layer below, as the transaction has it. */
static int lookup_below(void *arg, size_t index, const char *path, struct lm_row *ret, struct lm_err *err)
{
	const struct lm_layer_job *job = arg;
	const struct lm_layer *below = &job->image->layers[job->index - 1 - index];
	char full[LM_REPO_PATH_MAX + 1];
	int n = snprintf(full, sizeof(full), "%s/" LM_IMAGES_LAYER_ROOT "%s", lm_layer_path(below->digest).s, path);
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
	const struct lm_layer_blob from = {blob, c->layer, c->job->meter};
	return lm_layer_read_blob(&from, &below, job->packing, ret, &c->report->tar_bytes, err);
}

/* --- what was finished before --- */

/*
 * All that a layer's catalogs depend on, but for .metadata: itself, where it is, the layers that it was looked up in
 * for what it takes from below, and how this program makes catalogs. Raise FORM whenever the same layer comes to look
 * otherwise.
 */
enum { FORM = 1 };

static int describe(const struct lm_image *image, size_t index, struct lm_buf *ret)
{
	const struct lm_layer *layer = &image->layers[index];
	int r = lm_buf_printf(ret, "form %d, split %u %u %u, chunks %d %d %d\n%s\n%s\n%s\n", FORM,
		lm_layer_limits.whole, lm_layer_limits.least, lm_layer_limits.joined, LM_CHUNK_SIZE,
		LM_CHUNK_SIZE_DATABASE, LM_CHUNKED_ABOVE, lm_layer_path(layer->digest).s, layer->digest,
		layer->diff_id);
	for (size_t i = 0; i < index && r == 0; i++)
		r = lm_buf_printf(ret, "%s\n", image->layers[i].digest);
	return r;
}

bool lm_layer_kept(struct lm_ledger *ledger, const struct lm_image *image, size_t index)
{
	CLEANUP(lm_buf_done) struct lm_buf key = LM_BUF(KEY_MAX);
	struct lm_ledger_layer kept;
	return ledger && describe(image, index, &key) == 0 && lm_ledger_layer(ledger, lm_buf_cstr(&key), &kept) &&
	       lm_presence_ask(lm_ledger_presence(ledger), &kept.root, LM_OBJECT_CATALOG, NULL) > 0;
}

static int make_parents(const struct lm_layer_job *job, const struct lm_layer_path *path, struct lm_err *err)
{
	char parent[LM_LAYER_PATH_TEXT_MAX];
	snprintf(parent, sizeof(parent), "%.*s", (int)strlen("/" LM_IMAGES_LAYERS "/xx"), path->s);
	int r = lm_txn_mkdirs(job->txn, "/" LM_IMAGES_LAYERS, true, err);
	return r < 0 ? r : lm_txn_mkdirs(job->txn, parent, true, err);
}

static int metadata_texts(struct conversion *c, struct lm_buf *layers, struct lm_buf *origin, struct lm_err *err)
{
	const struct lm_image *image = c->job->image;
	int r = lm_layers_json(c->layer, image->created, c->report->tar_bytes, layers, err);
	return r < 0 ? r : lm_origin_json_add(origin, image->config_digest, NULL, err);
}

/* The image it was kept of need not be this one, and may never come. */
static int put_metadata(struct conversion *c, const struct lm_layer_path *path, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf layers = LM_BUF(LM_LAYER_JSON_MAX), origin = LM_BUF(LM_LAYER_JSON_MAX);
	char file[LM_LAYER_PATH_TEXT_MAX + 32];
	int r = metadata_texts(c, &layers, &origin, err);
	snprintf(file, sizeof(file), "%s/" LM_LAYER_JSON, path->s);
	if (r == 0)
		r = lm_txn_put_data(c->job->txn, file, layers.data, layers.len, err);
	snprintf(file, sizeof(file), "%s/" LM_LAYER_ORIGIN, path->s);
	return r < 0 ? r : lm_txn_put_data(c->job->txn, file, origin.data, origin.len, err);
}

static int ask_stored(void *arg, const struct lm_hash *hash, enum lm_object_kind kind, struct lm_err *err)
{
	return lm_presence_ask(arg, hash, kind, err);
}

static void report_kept(struct conversion *c, const struct lm_ledger_layer *kept)
{
	char what[64];
	c->report->kept = true;
	c->report->tar_bytes = kept->tar_bytes;
	c->report->files = kept->files;
	c->report->file_bytes = kept->file_bytes;
	c->report->losses = kept->losses;
	if (kept->losses == 0)
		return;
	snprintf(what, sizeof(what), "%llu attributes left out, in an earlier run", (unsigned long long)kept->losses);
	c->job->progress->ops->loss(c->job->progress, c->layer->digest, "/", what);
}

/* 1: the layer hangs in the tree; 0: it has to be converted. */
static int graft_kept(struct conversion *c, const char *key, struct lm_err *err)
{
	const struct lm_layer_job *job = c->job;
	const struct lm_layer_path path = lm_layer_path(c->layer->digest);
	struct lm_ledger_layer kept;
	struct lm_err why = LM_ERR_INIT;
	if (!job->ledger || !lm_ledger_layer(job->ledger, key, &kept))
		return 0;
	const struct lm_stored stored = {ask_stored, lm_ledger_presence(job->ledger)};
	int r = make_parents(job, &path, err);
	if (r < 0)
		return r;
	r = lm_txn_graft_stored(job->txn, path.s, &kept.root, kept.size, &stored, &why);
	if (r == -ENOENT) {
		lm_ledger_drop_layer(job->ledger, key);
		return 0;
	}
	if (r == -EBADMSG || r == -EPROTO)
		return lm_err_set(err, r, "kept from an earlier run, but damaged (`lamella repo gc` sweeps it): %s",
			lm_err_text(&why));
	if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	report_kept(c, &kept);
	r = put_metadata(c, &path, err);
	return r < 0 ? r : 1;
}

/* As it is stored, before anything else changes in it. */
static int keep(struct conversion *c, const char *key, struct lm_err *err)
{
	const struct lm_layer_job *job = c->job;
	CLEANUP(nested_done) struct lm_nested nested = {0};
	if (!job->ledger)
		return 0;
	int r = lm_txn_nested(job->txn, lm_layer_path(c->layer->digest).s, &nested, err);
	if (r < 0)
		return r;
	const struct lm_ledger_layer kept = {
		.root = nested.hash,
		.size = nested.size,
		.tar_bytes = c->report->tar_bytes,
		.files = c->report->files,
		.file_bytes = c->report->file_bytes,
		.losses = c->report->losses,
	};
	lm_ledger_add_layer(job->ledger, key, &kept);
	return 0;
}

/* --- the catalog --- */

static void on_loss(void *arg, const char *path, const char *what)
{
	struct conversion *c = arg;
	c->report->losses++;
	c->job->progress->ops->loss(c->job->progress, c->layer->digest, path, what);
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
		{.path = LM_LAYER_METADATA "/"},
		{.path = LM_LAYER_JSON},
		{.path = LM_LAYER_ORIGIN},
	};
	CLEANUP(lm_buf_done) struct lm_buf layers = LM_BUF(LM_LAYER_JSON_MAX), origin = LM_BUF(LM_LAYER_JSON_MAX);
	const struct lm_buf nothing = {0};
	int r = metadata_texts(c, &layers, &origin, err);
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
	CLEANUP(lm_freep) char *db_path = lm_str_printf("%s/layer-%s", lm_txn_scratch(job->txn), c->layer->digest + 7);
	if (!db_path)
		return lm_err_oom(err);
	int r = write_catalog(c, tree, db_path, err);
	if (r == 0)
		r = make_parents(job, &path, err);
	if (r == 0)
		r = lm_txn_graft(job->txn, path.s, db_path, err);
	(void)unlink(db_path);
	return r;
}

static int convert(struct conversion *c, const char *key, struct lm_err *err)
{
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = NULL;
	struct lm_layer_meter *meter = c->job->meter;
	int r = read_layer(c, &tree, err);
	if (r < 0)
		return r;
	atomic_store(&meter->phase, LM_LAYER_CATALOGED);
	lm_stage_enter(&meter->clock, LM_STAGE_CATALOGS);
	r = graft(c, tree, err);
	return r < 0 ? r : keep(c, key, err);
}

int lm_layer_convert(const struct lm_layer_job *job, struct lm_layer_report *ret, struct lm_err *err)
{
	struct conversion c = {.job = job, .layer = &job->image->layers[job->index], .report = ret};
	CLEANUP(lm_buf_done) struct lm_buf key = LM_BUF(KEY_MAX);
	struct lm_packing_stats before, after;
	int64_t start_ms = lm_now_ms();
	lm_packing_stats(job->packing, &before);
	lm_stage_enter(&job->meter->clock, LM_STAGE_CATALOGS);
	if (describe(job->image, job->index, &key) < 0)
		return lm_err_oom(err);
	int r = graft_kept(&c, lm_buf_cstr(&key), err);
	if (r == 0)
		r = convert(&c, lm_buf_cstr(&key), err);
	if (r < 0)
		return lm_err_prefix(err, r, "layer %s", c.layer->digest);
	lm_stage_enter(&job->meter->clock, LM_STAGE_IDLE);
	lm_packing_stats(job->packing, &after);
	ret->converted = true;
	ret->objects = after.objects - before.objects;
	ret->stored_bytes = after.bytes - before.bytes;
	ret->spared_bytes = after.spared_bytes - before.spared_bytes;
	ret->ms = lm_now_ms() - start_ms;
	return 0;
}
