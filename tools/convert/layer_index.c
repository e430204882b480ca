#include "convert/layer_index.h"

#include "base/str.h"
#include "convert/layer.h"
#include "convert/layer_catalog.h"
#include "oci/image.h"
#include "oci/shelf.h"
#include "repo/catalog_schema.h" /* lm_grown() */

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define ROOT "/" LM_IMAGES_OURS

static const char *const tops[LM_IMAGES_INDEXES] = {
	[LM_IMAGES_BY_CHAIN] = ROOT "/" LM_IMAGES_CHAINS,
	[LM_IMAGES_BY_DIFF] = ROOT "/" LM_IMAGES_DIFFS,
};

void lm_layer_index_plan_done(struct lm_layer_index_plan *plan)
{
	free(plan->entries);
	*plan = (struct lm_layer_index_plan){0};
}

/* --- what is lacking --- */

/* 1: there is an entry, and it names a layer that is there. own: the digest of one that is. */
static int has_entry(const struct lm_view *view, const struct lm_layer_index_entry *entry, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_images_digest named;
	int r = lm_view_has(view, lm_images_entry(entry->index, entry->id.s).s, &row, err);
	if (r <= 0)
		return r;
	if (!row.symlink || lm_images_entry_parse(row.symlink, &named, NULL) < 0)
		return 0;
	return strcmp(named.s, entry->layer.s) == 0 ? 1 : lm_view_has(view, lm_layer_path(named.s).s, NULL, err);
}

static bool is_planned(const struct lm_layer_index_plan *plan, const struct lm_layer_index_entry *entry)
{
	for (size_t i = 0; i < plan->count; i++)
		if (plan->entries[i].index == entry->index && strcmp(plan->entries[i].id.s, entry->id.s) == 0)
			return true;
	return false;
}

/* 1: the layer was verified to have that diff id when it was converted; 0: it was not, or nobody knows. Stock tools,
 * who mark their layers, write down what the image said. */
static int bears_out(const struct lm_view *view, const struct lm_layer *layer, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_LAYER_JSON_MAX);
	char path[LM_LAYER_PATH_TEXT_MAX + 32], diff_id[LM_DIGEST_MAX];
	struct lm_err why = LM_ERR_INIT;
	snprintf(path, sizeof(path), "%s/" LM_IMAGES_LAYER_ROOT "/" LM_LAYER_MARKER, lm_layer_path(layer->digest).s);
	int r = lm_view_has(view, path, NULL, err);
	if (r != 0)
		return LM_MIN(r, 0);
	snprintf(path, sizeof(path), "%s/" LM_LAYER_JSON, lm_layer_path(layer->digest).s);
	r = view->read(view->arg, path, &text, &why);
	if (r == 0)
		r = lm_layers_json_diff_id(&text, diff_id, &why);
	if (r == 0)
		return strcmp(diff_id, layer->diff_id) == 0;
	bool none = r == -ENOENT || r == -EISDIR || r == -EINVAL || r == -EMSGSIZE || r == -EPROTO;
	return none ? 0 : lm_err_set(err, r, "%s: %s", path, lm_err_text(&why));
}

/* Takes entry i's ids of the image; plan has room for two more. */
static int plan_layer(const struct lm_view *view, const struct lm_image *image, size_t i, bool verified,
	struct lm_layer_index_plan *plan, struct lm_err *err)
{
	const struct lm_layer *layer = &image->layers[i];
	const char *const ids[LM_IMAGES_INDEXES] = {
		[LM_IMAGES_BY_CHAIN] = layer->chain_id,
		[LM_IMAGES_BY_DIFF] = layer->diff_id,
	};
	const size_t before = plan->count;
	int r = 0;
	for (int k = 0; k < LM_IMAGES_INDEXES && r >= 0; k++) {
		struct lm_layer_index_entry entry = {.index = (enum lm_images_index)k};
		if (!lm_images_digest_parse(ids[k], &entry.id) || !lm_images_digest_parse(layer->digest, &entry.layer))
			continue;
		r = is_planned(plan, &entry) ? 1 : has_entry(view, &entry, err);
		if (r == 0)
			plan->entries[plan->count++] = entry;
	}
	if (r >= 0 && plan->count > before && !verified) {
		r = bears_out(view, layer, err);
		if (r == 0) {
			plan->count = before;
			plan->doubtful = LM_MIN(plan->doubtful, i);
		}
	}
	return LM_MIN(r, 0);
}

int lm_layer_index_plan(const struct lm_view *view, const struct lm_image *image, const bool *verified,
	struct lm_layer_index_plan *ret, struct lm_err *err)
{
	CLEANUP(lm_layer_index_plan_done) struct lm_layer_index_plan plan = {.doubtful = image->layer_count};
	plan.entries = calloc(LM_IMAGES_INDEXES * image->layer_count + 1, sizeof(*plan.entries));
	int r = plan.entries ? 0 : lm_err_oom(err);
	for (size_t i = 0; i < image->layer_count && r == 0; i++)
		r = plan_layer(view, image, i, verified && verified[i], &plan, err);
	if (r < 0)
		return lm_err_prefix(err, r, "index of layers");
	*ret = plan;
	plan = (struct lm_layer_index_plan){0};
	return 0;
}

/* --- entries are made --- */

struct counting {
	size_t entries;
};

static int count_entry(void *arg, struct lm_row *row)
{
	struct counting *counting = arg;
	counting->entries += S_ISLNK(row->mode);
	return counting->entries >= LM_IMAGES_FOLDER_MAX;
}

/* The folder of an entry: a catalog of its own, where it has many. */
static int make_folder(struct lm_txn *txn, const char *top, const char *entry, struct lm_err *err)
{
	struct counting counting = {0};
	struct lm_images_path folder;
	struct lm_err why = LM_ERR_INIT;
	snprintf(folder.s, sizeof(folder.s), "%.*s", (int)(strrchr(entry, '/') - entry), entry);
	int r = lm_txn_mkdirs(txn, top, true, err);
	if (r < 0)
		return r;
	r = lm_txn_list(txn, folder.s, count_entry, &counting, &why);
	if (r < 0 && r != -ENOENT)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	return lm_txn_mkdirs(txn, folder.s, counting.entries >= LM_IMAGES_FOLDER_MAX, err);
}

int lm_layer_index_put(struct lm_txn *txn, const struct lm_layer_index_plan *plan, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < plan->count && r == 0; i++) {
		const struct lm_layer_index_entry *entry = &plan->entries[i];
		const struct lm_images_path path = lm_images_entry(entry->index, entry->id.s);
		r = make_folder(txn, tops[entry->index], path.s, err);
		if (r == 0)
			r = lm_txn_put_symlink(txn, path.s, lm_images_entry_target(entry->layer.s).s, err);
	}
	return r < 0 ? lm_err_prefix(err, r, "index of layers") : 0;
}

/* --- and taken away --- */

struct lost { /* entries of layers that are gone: sorted, when all are there */
	struct lm_images_path *items;
	size_t count, cap;
};

static void lost_done(struct lost *lost)
{
	free(lost->items);
}

static int cmp_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int cmp_path(const void *a, const void *b)
{
	return strcmp(((const struct lm_images_path *)a)->s, ((const struct lm_images_path *)b)->s);
}

struct scan {
	const char *const *gone;
	size_t count;
	const char *dir; /* that is being listed */
	struct lost *lost;
	char (*folders)[3];
	size_t folder_count;
	struct lm_err *err;
};

enum { FOLDERS = 256 };

static int take_folder(void *arg, struct lm_row *row)
{
	struct scan *scan = arg;
	if (S_ISDIR(row->mode) && strlen(row->name) == 2 && scan->folder_count < FOLDERS)
		memcpy(scan->folders[scan->folder_count++], row->name, 3);
	return 0;
}

static int take_entry(void *arg, struct lm_row *row)
{
	struct scan *scan = arg;
	struct lm_images_digest layer;
	const char *key = layer.s;
	if (!row->symlink || lm_images_entry_parse(row->symlink, &layer, NULL) < 0 ||
		!bsearch(&key, scan->gone, scan->count, sizeof(*scan->gone), cmp_text))
		return 0;
	struct lost *lost = scan->lost;
	struct lm_images_path *grown = lm_grown(lost->items, lost->count, &lost->cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(scan->err);
	lost->items = grown;
	int n = snprintf(grown[lost->count].s, sizeof(grown->s), "%s/%s", scan->dir, row->name);
	lost->count += (size_t)n < sizeof(grown->s); /* what has another name is no entry */
	return 0;
}

static int list(struct lm_txn *txn, const char *dir, lm_catalog_row_fn *fn, struct scan *scan)
{
	struct lm_err why = LM_ERR_INIT;
	scan->dir = dir;
	int r = lm_txn_list(txn, dir, fn, scan, &why);
	if (r == -ENOENT || r == -ENOTDIR)
		return 0;
	return r < 0 && why.code ? lm_err_set(scan->err, r, "%s: %s", dir, lm_err_text(&why)) : r;
}

static int find_lost(struct lm_txn *txn, struct scan *scan)
{
	char folders[FOLDERS][3];
	struct lm_images_path dir;
	int r = 0;
	scan->folders = folders;
	for (int i = 0; i < LM_IMAGES_INDEXES && r == 0; i++) {
		scan->folder_count = 0;
		r = list(txn, tops[i], take_folder, scan);
		for (size_t k = 0; k < scan->folder_count && r == 0; k++) {
			snprintf(dir.s, sizeof(dir.s), "%s/%.2s", tops[i], folders[k]);
			r = list(txn, dir.s, take_entry, scan);
		}
	}
	return r;
}

static bool is_lost(const struct lost *lost, const struct lm_image *image)
{
	for (size_t i = 0; i < image->layer_count; i++) {
		const struct lm_images_path chain = lm_images_entry(LM_IMAGES_BY_CHAIN, image->layers[i].chain_id),
					    diff = lm_images_entry(LM_IMAGES_BY_DIFF, image->layers[i].diff_id);
		if (bsearch(&chain, lost->items, lost->count, sizeof(chain), cmp_path) ||
			bsearch(&diff, lost->items, lost->count, sizeof(diff), cmp_path))
			return true;
	}
	return false;
}

/* 1: *ret has its layers and what the config says of them; 0: nothing is known of that. */
static int read_image(
	struct lm_txn *txn, const struct lm_inventory_image *image, struct lm_image *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf config = LM_BUF(LM_MANIFEST_JSON_MAX);
	CLEANUP(lm_freep) char *path = lm_str_printf("/" LM_SHELF_METADATA "/%s/" LM_SHELF_CONFIG, image->name);
	struct lm_err why = LM_ERR_INIT;
	ret->layers = calloc(image->parts.layer_count + 1, sizeof(*ret->layers));
	if (!path || !ret->layers)
		return lm_err_oom(err);
	int r = lm_txn_read(txn, path, &config, &why);
	for (size_t i = 0; r == 0 && i < image->parts.layer_count; i++)
		memcpy(ret->layers[i].digest, image->parts.layers[i].digest, sizeof(ret->layers[i].digest));
	ret->layer_count = image->parts.layer_count;
	if (r == 0)
		r = lm_image_parse_config(ret, lm_buf_cstr(&config), config.len, &why);
	bool none = r == -ENOENT || r == -EISDIR || r == -EINVAL || r == -EMSGSIZE || r == -EPROTO;
	return r == 0 || none ? r == 0 : lm_err_set(err, r, "%s: %s", path, lm_err_text(&why));
}

/* Layers of other images take the place of those that are gone. */
static int find_heirs(
	struct lm_txn *txn, const struct lm_inventory *inventory, const struct lost *lost, struct lm_err *err)
{
	const struct lm_view view = lm_txn_view(txn);
	int r = 0;
	for (size_t i = 0; i < inventory->count && r == 0; i++) {
		CLEANUP(lm_image_done) struct lm_image image = {0};
		CLEANUP(lm_layer_index_plan_done) struct lm_layer_index_plan plan = {0};
		r = read_image(txn, &inventory->images[i], &image, err);
		if (r <= 0 || !is_lost(lost, &image)) {
			r = LM_MIN(r, 0);
			continue;
		}
		r = lm_layer_index_plan(&view, &image, NULL, &plan, err);
		if (r == 0)
			r = lm_layer_index_put(txn, &plan, err);
	}
	return r;
}

int lm_layer_index_forget(struct lm_txn *txn, const struct lm_inventory *inventory, const char *const *gone,
	size_t count, struct lm_err *err)
{
	CLEANUP(lost_done) struct lost lost = {0};
	struct scan scan = {.gone = gone, .count = count, .lost = &lost, .err = err};
	int r = count > 0 ? find_lost(txn, &scan) : 0;
	for (size_t i = 0; i < lost.count && r == 0; i++)
		r = lm_txn_remove(txn, lost.items[i].s, err);
	if (r == 0 && lost.count > 0) {
		qsort(lost.items, lost.count, sizeof(*lost.items), cmp_path);
		r = find_heirs(txn, inventory, &lost, err);
	}
	return r < 0 ? lm_err_prefix(err, r, "index of layers") : 0;
}
