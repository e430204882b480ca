#include "convert/inventory.h"

#include "base/str.h"
#include "oci/json.h"
#include "oci/shelf.h"
#include "repo/catalog_schema.h" /* lm_grown() */

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define METADATA "/" LM_SHELF_METADATA
enum { DEPTH_MAX = 64, NAMES_MAX = 64 << 20, PLATFORMS_MAX = 256 };

/* --- views --- */

static int txn_row(void *arg, const char *path, struct lm_row *ret, struct lm_err *err)
{
	return lm_txn_lookup(arg, path, ret, err);
}

static int txn_list(void *arg, const char *dir, lm_catalog_row_fn *fn, void *fn_arg, struct lm_err *err)
{
	return lm_txn_list(arg, dir, fn, fn_arg, err);
}

static int txn_read(void *arg, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	return lm_txn_read(arg, path, ret, err);
}

struct lm_view lm_txn_view(struct lm_txn *txn)
{
	return (struct lm_view){txn, txn_row, txn_list, txn_read};
}

static int published_row(void *arg, const char *path, struct lm_row *ret, struct lm_err *err)
{
	struct lm_published_root *root = arg;
	return lm_published_row(root->published, &root->top, path, ret, err);
}

static int published_list(void *arg, const char *dir, lm_catalog_row_fn *fn, void *fn_arg, struct lm_err *err)
{
	struct lm_published_root *root = arg;
	return lm_published_list(root->published, &root->top, dir, fn, fn_arg, err);
}

static int published_read(void *arg, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	struct lm_published_root *root = arg;
	return lm_published_read(root->published, &root->top, path, ret, err);
}

struct lm_view lm_published_view(struct lm_published_root *root)
{
	return (struct lm_view){root, published_row, published_list, published_read};
}

int lm_view_has(const struct lm_view *view, const char *path, struct lm_row *ret, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_err why = LM_ERR_INIT;
	int r = view->row(view->arg, path, &row, &why);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	if (ret) {
		*ret = row;
		row = (struct lm_row){0};
	}
	return 1;
}

/* --- images --- */

static void image_done(struct lm_inventory_image *image)
{
	free(image->name);
	free(image->link);
	lm_image_parts_done(&image->parts);
	lm_buf_done(&image->text);
	for (size_t i = 0; i < image->platform_count; i++)
		free(image->platforms[i]);
	free(image->platforms);
}

void lm_inventory_done(struct lm_inventory *inventory)
{
	for (size_t i = 0; i < inventory->count; i++)
		image_done(&inventory->images[i]);
	free(inventory->images);
	*inventory = (struct lm_inventory){0};
}

static int cmp_image(const void *a, const void *b)
{
	const struct lm_inventory_image *x = a, *y = b;
	return strcmp(x->name, y->name);
}

struct lm_inventory_image *lm_inventory_find(const struct lm_inventory *inventory, const char *name)
{
	const struct lm_inventory_image key = {.name = (char *)name};
	return inventory->count > 0 ? bsearch(&key, inventory->images, inventory->count, sizeof(key), cmp_image) : NULL;
}

static int read_manifest(const struct lm_view *view, struct lm_inventory_image *image, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *json = NULL;
	CLEANUP(lm_freep) char *path = lm_str_printf(METADATA "/%s/manifest.json", image->name);
	image->text = LM_BUF(LM_MANIFEST_JSON_MAX);
	int r = path ? view->read(view->arg, path, &image->text, err) : lm_err_oom(err);
	if (r < 0)
		return r;
	r = lm_json_load("manifest.json", lm_buf_cstr(&image->text), image->text.len, &json, &image->why);
	if (r == 0)
		r = lm_image_parts_read(json, &image->parts, &image->why);
	return r == -ENOMEM ? lm_err_oom(err) : 0;
}

static int read_platforms(const struct lm_view *view, struct lm_inventory_image *image, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_LAYER_JSON_MAX);
	CLEANUP(lm_freep) char *path = lm_str_printf(METADATA "/%s/platforms.json", image->name);
	int r = path ? view->read(view->arg, path, &text, err) : lm_err_oom(err);
	if (r < 0)
		return r;
	CLEANUP(lm_json_freep) json_t *list = json_loadb(lm_buf_cstr(&text), text.len, 0, NULL);
	size_t count = json_array_size(list);
	if (!json_is_array(list) || count > PLATFORMS_MAX)
		return lm_err_set(err, -EPROTO, "%s: no list of names", path);
	image->platforms = calloc(count + 1, sizeof(*image->platforms));
	if (!image->platforms)
		return lm_err_oom(err);
	for (size_t i = 0; i < count; i++) {
		const char *name = json_string_value(json_array_get(list, i));
		if (!name)
			return lm_err_set(err, -EPROTO, "%s: no list of names", path);
		if (!(image->platforms[image->platform_count++] = strdup(name)))
			return lm_err_oom(err);
	}
	return 0;
}

/* "/NAME", or where the name has no tag the first "/NAME:DIGEST". */
struct link_search {
	const char *name; /* without the directory */
	char *found;
};

static int match_link(void *arg, struct lm_row *row)
{
	struct link_search *search = arg;
	size_t len = strlen(search->name);
	if (!S_ISLNK(row->mode) || strncmp(row->name, search->name, len) != 0 ||
		!lm_str_starts(row->name + len, ":sha256:"))
		return 0;
	search->found = strdup(row->name);
	return 1;
}

static int find_link(const struct lm_view *view, struct lm_inventory_image *image, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	CLEANUP(lm_freep) char *path = lm_str_printf("/%s", image->name);
	const char *base = path ? strrchr(path, '/') + 1 : NULL;
	int r = path ? lm_view_has(view, path, &row, err) : lm_err_oom(err);
	if (r > 0 && S_ISLNK(row.mode))
		image->link = STEAL(path);
	if (r < 0 || image->link || strchr(base, ':'))
		return r < 0 ? r : 0;
	CLEANUP(lm_freep) char *dir = lm_str_ndup(path, (size_t)(base - 1 - path));
	struct link_search search = {.name = base};
	r = dir ? lm_view_has(view, dir, NULL, err) : lm_err_oom(err);
	if (r > 0)
		r = view->list(view->arg, dir, match_link, &search, err);
	if (search.found)
		image->link = lm_str_printf("%s/%s", dir, search.found);
	free(search.found);
	return r < 0 ? r : 0;
}

static int add_image(const struct lm_view *view, const char *name, int64_t when_s, bool platforms,
	struct lm_inventory *ret, struct lm_err *err)
{
	struct lm_inventory_image *grown = lm_grown(ret->images, ret->count, &ret->cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	ret->images = grown;
	struct lm_inventory_image *image = &grown[ret->count];
	*image = (struct lm_inventory_image){.name = strdup(name), .when_s = when_s};
	if (!image->name)
		return lm_err_oom(err);
	ret->count++;
	int r = read_manifest(view, image, err);
	if (r == 0 && platforms)
		r = read_platforms(view, image, err);
	return r < 0 ? r : find_link(view, image, err);
}

/* --- the walk --- */

struct directory {
	struct lm_buf dirs; /* names, each with its NUL */
	bool image, platforms;
	int64_t when_s;
};

static void directory_done(struct directory *dir)
{
	lm_buf_done(&dir->dirs);
}

static int note_row(void *arg, struct lm_row *row)
{
	struct directory *dir = arg;
	if (S_ISDIR(row->mode))
		return lm_buf_append(&dir->dirs, row->name, strlen(row->name) + 1);
	if (S_ISREG(row->mode) && strcmp(row->name, "manifest.json") == 0) {
		dir->image = true;
		dir->when_s = row->mtime_s;
	}
	dir->platforms |= S_ISREG(row->mode) && strcmp(row->name, "platforms.json") == 0;
	return 0;
}

/* An image's directory may have others below it: one without a tag is named like their repository's beginning. */
static int walk(
	const struct lm_view *view, const char *path, unsigned depth, struct lm_inventory *ret, struct lm_err *err)
{
	CLEANUP(directory_done) struct directory dir = {.dirs = LM_BUF(NAMES_MAX)};
	if (depth == DEPTH_MAX)
		return lm_err_set(err, -EPROTO, "%s: deeper than names of images are", path);
	int r = view->list(view->arg, path, note_row, &dir, err);
	if (r == 0 && dir.image && depth > 0)
		r = add_image(view, path + sizeof(METADATA), dir.when_s, dir.platforms, ret, err);
	const char *at = lm_buf_cstr(&dir.dirs), *end = at + dir.dirs.len;
	for (; r == 0 && at < end; at += strlen(at) + 1) {
		CLEANUP(lm_freep) char *child = lm_str_printf("%s/%s", path, at);
		r = child ? walk(view, child, depth + 1, ret, err) : lm_err_oom(err);
	}
	return r;
}

int lm_inventory_read(const struct lm_view *view, struct lm_inventory *ret, struct lm_err *err)
{
	CLEANUP(lm_inventory_done) struct lm_inventory inventory = {0};
	int r = lm_view_has(view, METADATA, NULL, err);
	if (r > 0)
		r = walk(view, METADATA, 0, &inventory, err);
	if (r < 0)
		return lm_err_prefix(err, r, "images");
	if (inventory.count > 0)
		qsort(inventory.images, inventory.count, sizeof(*inventory.images), cmp_image);
	*ret = inventory;
	inventory = (struct lm_inventory){0};
	return 0;
}
