#include "convert/image.h"

#include "base/str.h"
#include "base/work.h"
#include "common.h"
#include "convert/chain_tree.h"
#include "convert/flat.h"
#include "convert/image_json.h"
#include "convert/image_name.h"
#include "convert/layer.h"
#include "convert/layer_catalog.h"
#include "convert/layer_index.h"
#include "convert/metadata.h"

#include <stdio.h>
#include <string.h>

enum { IN_FLIGHT_MAX = 64 << 20 };

struct lm_converter {
	struct lm_converter_config config;
	struct lm_txn *txn;
	struct lm_ledger *ledger; /* NULL: none */
	struct lm_packing *packing;
	uint64_t losses;
	/* What the image that is converted now has put into the tree: paths of layers. */
	char (*grafted)[LM_LAYER_PATH_TEXT_MAX];
	size_t grafted_count, grafted_room;
	bool broken;			     /* the tree has parts of an image that could not be taken back */
	struct lm_converter_summary summary; /* but for what the packing counts */
	struct lm_stage_clock clock;
};

void lm_image_report_done(struct lm_image_report *report)
{
	free(report->source);
	free(report->name);
	free(report->platform);
	free(report->layers);
	*report = (struct lm_image_report){0};
}

/* Under the publisher's lock. Without one everything works, at its price. */
static void use_ledger(struct lm_converter *converter, enum lm_hash_algo algo)
{
	const struct lm_converter_config *config = &converter->config;
	const struct lm_ledger_owner owner = {config->storage, config->remote, config->keys->key, config->fqrn, algo};
	struct lm_err err = LM_ERR_INIT;
	if (!config->ledger)
		return;
	int r = lm_ledger_open(config->ledger, &owner, &converter->ledger, &err);
	if (r == 0)
		r = lm_packing_use(converter->packing, converter->ledger, &err);
	if (r < 0)
		lm_cli_say("%s: going on without it", lm_err_text(&err));
}

static void tell_waiting(void *arg, const char *holder)
{
	struct lm_progress *progress = arg;
	progress->ops->waiting(progress, holder);
}

/* The transaction then finds it taken. */
static int take_lock(struct lm_converter *converter, struct lm_err *err)
{
	struct lm_storage *storage = converter->config.storage;
	const struct lm_storage_wait wait = {tell_waiting, converter->config.progress};
	return storage->ops->lock(storage, converter->config.no_wait ? NULL : &wait, err);
}

int lm_converter_new(const struct lm_converter_config *config, struct lm_converter **ret, struct lm_err *err)
{
	CLEANUP(lm_converter_freep) struct lm_converter *converter = calloc(1, sizeof(*converter));
	if (!converter)
		return lm_err_oom(err);
	converter->config = *config;
	if (!converter->config.progress)
		converter->config.progress = &lm_no_progress;
	int r = take_lock(converter, err);
	if (r == 0)
		r = lm_txn_begin(config->storage, config->keys, config->fqrn, &converter->txn, err);
	if (r < 0)
		return r;
	enum lm_hash_algo algo = lm_txn_base(converter->txn)->catalog.algo;
	r = lm_packing_new(config->storage, algo, lm_work_cores(), IN_FLIGHT_MAX, &converter->packing, err);
	if (r < 0)
		return r;
	use_ledger(converter, algo);
	*ret = STEAL(converter);
	return 0;
}

void lm_converter_free(struct lm_converter *converter)
{
	if (!converter)
		return;
	lm_packing_free(converter->packing);
	lm_ledger_free(converter->ledger);
	lm_txn_free(converter->txn);
	free(converter->grafted);
	free(converter);
}

const struct lm_manifest *lm_converter_base(const struct lm_converter *converter)
{
	return lm_txn_base(converter->txn);
}

/* --- files in the repository --- */

/* Notes in a layer that is there that this image uses it, too. */
static int add_origin(struct lm_txn *txn, const char *layer_path, const char *config, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf origin = LM_BUF(LM_LAYER_JSON_MAX);
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/" LM_LAYER_METADATA, layer_path);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/" LM_LAYER_ORIGIN, layer_path);
	if (!dir || !path)
		return lm_err_oom(err);
	bool changed = false;
	int r = lm_txn_has(txn, path, err);
	if (r > 0)
		r = lm_txn_read(txn, path, &origin, err);
	if (r == 0)
		r = lm_origin_json_add(&origin, config, &changed, err);
	if (r < 0 || !changed)
		return r;
	r = lm_txn_mkdirs(txn, dir, false, err);
	return r < 0 ? r : lm_txn_put_data(txn, path, origin.data, origin.len, err);
}

/* --- images --- */

/* A layer that the repository lacks. */
static int convert_missing(struct lm_converter *converter, struct lm_source *source, const struct lm_image *image,
	size_t index, const char *name, struct lm_layer_report *ret, struct lm_err *err)
{
	struct lm_progress *progress = converter->config.progress;
	struct lm_layer_meter meter = {
		.image = name,
		.digest = image->layers[index].digest,
		.number = index + 1,
		.count = image->layer_count,
		.size_bytes = image->layers[index].size,
	};
	const struct lm_layer_job job = {
		.txn = converter->txn,
		.storage = converter->config.storage,
		.packing = converter->packing,
		.ledger = converter->ledger,
		.source = source,
		.image = image,
		.index = index,
		.progress = progress,
		.meter = &meter,
	};
	progress->ops->layer_begin(progress, &meter);
	int r = lm_layer_convert(&job, ret, err);
	progress->ops->layer_end(progress, &meter);
	lm_stage_add(&meter.times, &converter->summary.times);
	lm_stage_empty(&meter.clock, &converter->summary.times);
	return r;
}

const char *lm_layer_state(const struct lm_layer_report *layer)
{
	return !layer->converted ? "present" : layer->kept ? "kept" : "converted";
}

static void count_layer(struct lm_converter *converter, const struct lm_layer_report *layer)
{
	struct lm_converter_summary *sum = &converter->summary;
	converter->losses += layer->losses;
	sum->layers++;
	sum->layers_converted += layer->converted;
	sum->layers_kept += layer->kept;
	*(layer->converted && !layer->kept ? &sum->fetched_bytes : &sum->skipped_bytes) += layer->blob_bytes;
	sum->unpacked_bytes += layer->kept ? 0 : layer->tar_bytes;
	sum->files += layer->kept ? 0 : layer->files;
}

/* 1: the repository has it. */
static int has_layer(struct lm_converter *converter, const struct lm_layer *layer, struct lm_err *err)
{
	char root[LM_LAYER_PATH_TEXT_MAX + 16];
	snprintf(root, sizeof(root), "%s/" LM_IMAGES_LAYER_ROOT, lm_layer_path(layer->digest).s);
	return lm_txn_has(converter->txn, root, err);
}

/* Room for one more path, before the layer is there. */
static int expect_graft(struct lm_converter *converter, struct lm_err *err)
{
	if (converter->grafted_count < converter->grafted_room)
		return 0;
	size_t room = LM_MAX(2 * converter->grafted_room, (size_t)32);
	char(*grafted)[LM_LAYER_PATH_TEXT_MAX] = realloc(converter->grafted, room * sizeof(*grafted));
	if (!grafted)
		return lm_err_oom(err);
	converter->grafted = grafted;
	converter->grafted_room = room;
	return 0;
}

static int stop_at_content(void *arg, struct lm_row *row)
{
	return strcmp(row->name, ".cvmfscatalog") == 0 ? 0 : 1;
}

/* A directory that has nothing in it but its marker. */
static int remove_empty(struct lm_txn *txn, const char *path, struct lm_err *err)
{
	int r = lm_txn_list(txn, path, stop_at_content, NULL, err);
	return r == 0 ? lm_txn_remove(txn, path, err) : LM_MIN(r, 0);
}

/* "/TOP/xx/DIGEST", and what is empty then. */
static int remove_grafted(struct lm_txn *txn, const char *path, struct lm_err *err)
{
	char parent[LM_LAYER_PATH_TEXT_MAX];
	snprintf(parent, sizeof(parent), "%s", path);
	int r = lm_txn_remove(txn, path, err);
	for (char *slash; r == 0 && (slash = strrchr(parent, '/')) != parent;) {
		*slash = '\0';
		r = remove_empty(txn, parent, err);
	}
	return r;
}

/* After an image has failed: layers and trees of theirs that it had brought go out of the repository, as if it had
 * never been asked for. What they are made of stays stored, and the ledger knows it. Where that fails nothing is
 * published.
 */
static void take_back(struct lm_converter *converter)
{
	while (converter->grafted_count > 0 && !converter->broken) {
		const char *path = converter->grafted[--converter->grafted_count];
		struct lm_err err = LM_ERR_INIT;
		if (remove_grafted(converter->txn, path, &err) < 0) {
			converter->broken = true;
			lm_cli_error("%s: can't be taken back: %s", path, lm_err_text(&err));
		}
	}
	converter->grafted_count = 0;
}

static int convert_layer(struct lm_converter *converter, struct lm_source *source, const struct lm_image *image,
	size_t index, struct lm_image_report *report, struct lm_err *err)
{
	const struct lm_layer *layer = &image->layers[index];
	struct lm_layer_report *ret = &report->layers[index];
	int r = has_layer(converter, layer, err);
	if (r == 0) {
		r = expect_graft(converter, err);
		if (r == 0)
			r = convert_missing(converter, source, image, index, report->name, ret, err);
		if (r == 0)
			memcpy(converter->grafted[converter->grafted_count++], lm_layer_path(layer->digest).s,
				LM_LAYER_PATH_TEXT_MAX);
	}
	if (r < 0)
		return r;
	count_layer(converter, ret);
	converter->config.progress->ops->layer_done(converter->config.progress, report, index);
	return 0;
}

/* Fills in what is known before a layer is looked at, and tells of the image. */
static int begin_image(struct lm_converter *converter, const struct lm_image *image, struct lm_image_report *report,
	struct lm_err *err)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < image->layer_count; i++) {
		struct lm_layer_report *layer = &report->layers[i];
		memcpy(layer->digest, image->layers[i].digest, sizeof(layer->digest));
		memcpy(layer->diff_id, image->layers[i].diff_id, sizeof(layer->diff_id));
		layer->blob_bytes = image->layers[i].size;
		size_t same = 0; /* a layer that comes twice is fetched once */
		while (strcmp(report->layers[same].digest, layer->digest) != 0)
			same++;
		int r = same < i ? 1 : has_layer(converter, &image->layers[i], err);
		if (r == 0 && lm_layer_kept(converter->ledger, image, i))
			r = 1;
		if (r < 0)
			return r;
		bytes += r == 0 ? layer->blob_bytes : 0;
	}
	converter->config.progress->ops->image(converter->config.progress, report, bytes);
	return 0;
}

/* "linux-arm64-v8", or with slashes; NULL: no memory, or the image does not say. */
char *lm_image_platform(const struct lm_image *image, char separator)
{
	if (!image->os || !image->architecture)
		return NULL;
	return lm_str_printf("%s%c%s%.*s%s", image->os, separator, image->architecture, image->variant ? 1 : 0,
		&separator, image->variant ? image->variant : "");
}

static int make_flat(struct lm_converter *converter, const struct lm_image *image, struct lm_image_report *report,
	struct lm_err *err)
{
	const struct lm_flat_job job = {converter->txn, converter->config.storage, converter->packing, image};
	int r = expect_graft(converter, err);
	if (r == 0)
		r = lm_flat_make(&job, &report->flat, err);
	if (r == 0 && report->flat.made)
		memcpy(converter->grafted[converter->grafted_count++], lm_flat_path(image->config_digest).s,
			LM_LAYER_PATH_TEXT_MAX);
	return r;
}

static int make_tree(struct lm_converter *converter, const struct lm_image *image, struct lm_image_report *report,
	struct lm_err *err)
{
	const struct lm_chain_tree_job job = {converter->txn, converter->config.storage, converter->packing, image};
	struct lm_layer_path path;
	int r = lm_chain_tree_path(image, &path, err);
	if (r == 0)
		r = expect_graft(converter, err);
	if (r == 0)
		r = lm_chain_tree_make(&job, &report->tree, err);
	if (r == 0 && report->tree.made)
		memcpy(converter->grafted[converter->grafted_count++], path.s, LM_LAYER_PATH_TEXT_MAX);
	return r;
}

/* All that can fail for reasons of the image. */
static int convert_layers(struct lm_converter *converter, struct lm_source *source, const struct lm_image *image,
	struct lm_image_report *report, struct lm_err *err)
{
	memcpy(report->digest, image->digest, sizeof(report->digest));
	memcpy(report->config_digest, image->config_digest, sizeof(report->config_digest));
	report->platform = lm_image_platform(image, '/');
	report->layers = calloc(LM_MAX(image->layer_count, 1), sizeof(*report->layers));
	if (!report->layers)
		return lm_err_oom(err);
	report->layer_count = image->layer_count;
	int r = begin_image(converter, image, report, err);
	for (size_t i = 0; r == 0 && i < image->layer_count; i++)
		r = convert_layer(converter, source, image, i, report, err);
	if (r == 0 && !converter->config.no_flat)
		r = make_flat(converter, image, report, err);
	return r < 0 || converter->config.no_trees ? r : make_tree(converter, image, report, err);
}

static int64_t grace_of(const struct lm_converter *converter)
{
	const int64_t grace_s = converter->config.grace_s;
	return grace_s == 0 ? LM_GRACE_S : LM_MAX(grace_s, (int64_t)0);
}

static int put_name(struct lm_converter *converter, const struct lm_image *image, const char *name, struct lm_err *err)
{
	int r = lm_metadata_put(converter->txn, image, name, grace_of(converter), err);
	return r < 0 ? r : lm_metadata_link(converter->txn, image, name, err);
}

/* All layers are there: what makes them an image begins here, and a failure from now on is the storage's. */
static int put_origins(struct lm_converter *converter, const struct lm_image *image,
	const struct lm_image_report *report, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < image->layer_count; i++)
		if (!report->layers[i].converted)
			r = add_origin(
				converter->txn, lm_layer_path(image->layers[i].digest).s, image->config_digest, err);
	return r;
}

/* What the index of layers lacks of the image. Of layers that were there already, what the image calls them must be
 * what they were found to be. */
static int put_index(struct lm_converter *converter, const struct lm_image *image, const struct lm_image_report *report,
	struct lm_err *err)
{
	CLEANUP(lm_layer_index_plan_done) struct lm_layer_index_plan plan = {0};
	CLEANUP(lm_freep) bool *verified = calloc(image->layer_count + 1, sizeof(*verified));
	const struct lm_view view = lm_txn_view(converter->txn);
	if (!verified)
		return lm_err_oom(err);
	for (size_t i = 0; i < image->layer_count; i++)
		verified[i] = report->layers[i].converted;
	int r = lm_layer_index_plan(&view, image, verified, &plan, err);
	if (r == 0 && plan.doubtful < image->layer_count)
		lm_cli_say("%s: layer %s is not known to have the diff id that the image says; it can be found by its "
			   "digest only",
			report->name, image->layers[plan.doubtful].digest);
	return r < 0 ? r : lm_layer_index_put(converter->txn, &plan, err);
}

static int finish_image(struct lm_converter *converter, const struct lm_image *image,
	const struct lm_image_report *report, struct lm_err *err)
{
	int r = put_origins(converter, image, report, err);
	if (r == 0)
		r = put_index(converter, image, report, err);
	if (r == 0)
		r = put_name(converter, image, report->name, err);
	converter->broken = converter->broken || r < 0;
	return r;
}

static int open_source(struct lm_converter *converter, const char *source, struct lm_reference *ret_ref,
	struct lm_source **ret, struct lm_err *err)
{
	int r = lm_reference_parse(source, ret_ref, err);
	return r < 0 ? r : lm_source_open(ret_ref, converter->config.access, ret, err);
}

static int convert_one(struct lm_converter *converter, const char *text, const char *name,
	struct lm_image_report *report, struct lm_err *err)
{
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	CLEANUP(lm_image_done) struct lm_image image = {0};
	int r = open_source(converter, text, &ref, &source, err);
	if (r == 0)
		r = lm_source_image(source, &converter->config.platform, &image, err);
	if (r == 0)
		r = lm_image_name(&ref, name, lm_source_name(source), &report->name, err);
	if (r == 0)
		r = convert_layers(converter, source, &image, report, err);
	return r < 0 ? r : finish_image(converter, &image, report, err);
}

int lm_converter_image(struct lm_converter *converter, const char *source, const char *name,
	struct lm_image_report *ret, struct lm_err *err)
{
	CLEANUP(lm_image_report_done) struct lm_image_report report = {.source = strdup(source)};
	if (!report.source)
		return lm_err_oom(err);
	converter->grafted_count = 0;
	int r = convert_one(converter, source, name, &report, err);
	if (r < 0) {
		take_back(converter);
		return lm_err_prefix(err, r, "%s", source);
	}
	*ret = report;
	report = (struct lm_image_report){0};
	return 0;
}

/* --- all platforms --- */

int lm_image_platform_name(const struct lm_image *image, const char *name, char **ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *platform = lm_image_platform(image, '-');
	if (!platform)
		return lm_err_set(err, -EPROTO, "image %s does not say which platform it is for", image->digest);
	*ret = lm_str_printf("%s%s%s", name, lm_name_tagged(name) ? "-" : ":", platform);
	return *ret ? 0 : lm_err_oom(err);
}

struct names {
	char **items;
	size_t count;
};

static void names_done(struct names *names)
{
	for (size_t i = 0; i < names->count; i++)
		free(names->items[i]);
	free(names->items);
}

static int platform_names(const struct lm_images *images, const char *name, struct names *ret, struct lm_err *err)
{
	int r = 0;
	ret->items = calloc(images->count + 1, sizeof(*ret->items));
	if (!ret->items)
		return lm_err_oom(err);
	for (size_t i = 0; r == 0 && i < images->count; i++) {
		r = lm_image_platform_name(&images->items[i], name, &ret->items[i], err);
		ret->count += r == 0;
	}
	return r;
}

/* The name without a platform. */
static int put_plain_name(struct lm_converter *converter, const struct lm_images *images, const struct names *names,
	size_t best, const char *name, struct lm_err *err)
{
	const struct lm_image *image = &images->items[best];
	if (!lm_name_tagged(name))
		return put_name(converter, image, name, err);
	int r = lm_metadata_put(converter->txn, image, name, grace_of(converter), err);
	return r < 0 ? r
		     : lm_metadata_platforms(
			       converter->txn, images->items, names->items, images->count, best, name, err);
}

/* All layers of all platforms are there. */
static int finish_each(struct lm_converter *converter, const struct lm_images *images, const struct names *names,
	size_t best, const char *name, const struct lm_image_report *reports, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < images->count; i++)
		r = put_origins(converter, &images->items[i], &reports[i], err);
	for (size_t i = 0; r == 0 && i < images->count; i++)
		r = put_index(converter, &images->items[i], &reports[i], err);
	/* First, since it may have meant another one of them, which then comes back by its own name. */
	if (r == 0 && best < images->count)
		r = put_plain_name(converter, images, names, best, name, err);
	for (size_t i = 0; r == 0 && i < images->count; i++)
		r = put_name(converter, &images->items[i], names->items[i], err);
	converter->broken = converter->broken || r < 0;
	return r;
}

static int convert_each(struct lm_converter *converter, struct lm_source *source, const struct lm_images *images,
	const char *text, const char *name, struct lm_image_report *reports, size_t *count, struct lm_err *err)
{
	CLEANUP(names_done) struct names names = {0};
	size_t best = lm_image_best(&converter->config.platform, images->items, images->count);
	int r = platform_names(images, name, &names, err);
	for (size_t i = 0; r == 0 && i < images->count; i++) {
		struct lm_image_report *report = &reports[*count];
		report->name = strdup(i == best ? name : names.items[i]);
		report->source = strdup(text);
		if (!report->name || !report->source)
			return lm_err_oom(err);
		(*count)++;
		r = convert_layers(converter, source, &images->items[i], report, err);
	}
	return r < 0 ? r : finish_each(converter, images, &names, best, name, reports, err);
}

static int convert_all(struct lm_converter *converter, const char *text, const char *name,
	struct lm_image_report *reports, size_t max, size_t *count, struct lm_err *err)
{
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	CLEANUP(lm_images_done) struct lm_images images = {0};
	CLEANUP(lm_freep) char *plain = NULL;
	int r = open_source(converter, text, &ref, &source, err);
	if (r == 0)
		r = lm_source_images(source, &images, err);
	if (r == 0 && images.count > max)
		r = lm_err_set(err, -EPROTO, "%zu images, more than %zu", images.count, max);
	if (r == 0)
		r = lm_image_name(&ref, name, lm_source_name(source), &plain, err);
	return r < 0 ? r : convert_each(converter, source, &images, text, plain, reports, count, err);
}

int lm_converter_images(struct lm_converter *converter, const char *source, const char *name,
	struct lm_image_report *ret, size_t max, size_t *ret_count, struct lm_err *err)
{
	size_t count = 0;
	memset(ret, 0, max * sizeof(*ret));
	converter->grafted_count = 0;
	int r = convert_all(converter, source, name, ret, max, &count, err);
	if (r == 0) {
		*ret_count = count;
		return 0;
	}
	take_back(converter);
	for (size_t i = 0; i < LM_MIN(count + 1, max); i++)
		lm_image_report_done(&ret[i]);
	return lm_err_prefix(err, r, "%s", source);
}

void lm_converter_choose(
	struct lm_converter *converter, const struct lm_platform *platform, bool no_flat, bool no_trees)
{
	converter->config.platform = *platform;
	converter->config.no_flat = no_flat;
	converter->config.no_trees = no_trees;
}

int lm_converter_remove(struct lm_converter *converter, const char *const *names, size_t count, struct lm_removal *ret,
	struct lm_err *err)
{
	int r = lm_remove_images(converter->txn, names, count, grace_of(converter), ret, err);
	converter->broken = converter->broken || (r < 0 && r != -ENOENT);
	return r;
}

/* What lost its name long ago. */
static int remove_due(struct lm_converter *converter, struct lm_err *err)
{
	CLEANUP(lm_removal_done) struct lm_removal removal = {0};
	int r = lm_remove_due(converter->txn, &removal, err);
	for (size_t i = 0; r == 0 && i < removal.image_count; i++)
		lm_cli_say("%s: its time is over, what only it has is removed",
			removal.images[i].name ? removal.images[i].name : removal.images[i].config);
	return r;
}

int lm_converter_publish(struct lm_converter *converter, struct lm_manifest *ret, struct lm_err *err)
{
	if (converter->config.strict && converter->losses > 0)
		return lm_err_set(err, -EPROTO,
			"nothing published: %llu attributes would be lost, and --strict is given",
			(unsigned long long)converter->losses);
	if (converter->broken)
		return lm_err_set(err, -EIO, "nothing published: an image that failed has left parts in the tree");
	const uint64_t base = lm_txn_base(converter->txn)->revision;
	converter->config.progress->ops->publishing(converter->config.progress);
	lm_stage_enter(&converter->clock, LM_STAGE_PUBLISH);
	int r = remove_due(converter, err);
	if (r == 0)
		r = lm_txn_commit(converter->txn, ret, err);
	if (r == 0 && converter->ledger && ret->revision != base)
		lm_ledger_published(converter->ledger);
	lm_stage_enter(&converter->clock, LM_STAGE_IDLE);
	lm_stage_empty(&converter->clock, &converter->summary.times);
	return r;
}

void lm_converter_cancel(struct lm_converter *converter)
{
	lm_packing_cancel(converter->packing, -ECANCELED, "interrupted");
}

void lm_converter_summary(struct lm_converter *converter, struct lm_converter_summary *ret)
{
	struct lm_packing_stats packed;
	lm_packing_stats(converter->packing, &packed);
	*ret = converter->summary;
	ret->content_bytes = packed.content_bytes;
	ret->known_bytes = packed.known_bytes;
	ret->spared_bytes = packed.spared_bytes;
	ret->objects = packed.objects;
	ret->stored_bytes = packed.bytes;
	lm_stage_add(&packed.times, &ret->times);
	/* The reader's clock goes on while it is blocked, which the packing knows of. */
	ret->times.ns[LM_STAGE_TAR] =
		LM_MAX(ret->times.ns[LM_STAGE_TAR] - packed.times.ns[LM_STAGE_BLOCKED], (int64_t)0);
}
