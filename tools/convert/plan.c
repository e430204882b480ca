#include "convert/plan.h"

#include "base/str.h"
#include "common.h"
#include "convert/chain_tree.h"
#include "convert/flat.h"
#include "convert/image_name.h"
#include "convert/layer.h"
#include "convert/layer_catalog.h"
#include "convert/layer_index.h"
#include "convert/published.h"
#include "oci/digest.h"
#include "oci/shelf.h"

#include <stdio.h>
#include <string.h>

struct planning {
	const struct lm_converter_config *config;
	struct lm_published *published;
	struct lm_published_top top;
	struct lm_ledger *ledger; /* NULL: none */
	struct lm_plan *plan;
};

const char *lm_plan_state_name(enum lm_plan_state state)
{
	switch (state) {
	case LM_PLAN_NEW:
		return "new";
	case LM_PLAN_REPLACED:
		return "replaced";
	case LM_PLAN_COMPLETED:
		return "completed";
	case LM_PLAN_UNCHANGED:
		break;
	}
	return "unchanged";
}

void lm_plan_done(struct lm_plan *plan)
{
	for (size_t i = 0; i < plan->count; i++)
		lm_image_report_done(&plan->images[i].image);
	free(plan->images);
	*plan = (struct lm_plan){0};
}

/* 1: the repository has that path. */
static int has(struct planning *p, const char *path, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_err failure = LM_ERR_INIT;
	int r = lm_published_row(p->published, &p->top, path, &row, &failure);
	return r == 0 ? 1 : r == -ENOENT ? 0 : lm_err_set(err, r, "%s", lm_err_text(&failure));
}

/* --- layers --- */

static bool fetched_already(const struct lm_plan *plan, const char *digest)
{
	for (size_t i = 0; i < plan->count; i++)
		for (size_t k = 0; k < plan->images[i].image.layer_count; k++) {
			const struct lm_layer_report *layer = &plan->images[i].image.layers[k];
			if (layer->converted && strcmp(layer->digest, digest) == 0)
				return true;
		}
	return false;
}

static int plan_layer(struct planning *p, const struct lm_image *image, size_t index, struct lm_layer_report *ret,
	bool *missing, struct lm_err *err)
{
	const struct lm_layer *layer = &image->layers[index];
	char path[LM_LAYER_PATH_TEXT_MAX + 16];
	snprintf(path, sizeof(path), "%s/" LM_IMAGES_LAYER_ROOT, lm_layer_path(layer->digest).s);
	int r = has(p, path, err);
	if (r < 0)
		return r;
	*missing |= r == 0;
	ret->converted = r == 0 && !fetched_already(p->plan, layer->digest);
	ret->kept = ret->converted && lm_layer_kept(p->ledger, image, index);
	memcpy(ret->digest, layer->digest, sizeof(ret->digest));
	memcpy(ret->diff_id, layer->diff_id, sizeof(ret->diff_id));
	ret->blob_bytes = layer->size;
	bool fetch = ret->converted && !ret->kept;
	p->plan->layers++;
	p->plan->kept_layers += ret->kept;
	p->plan->fetch_layers += fetch;
	p->plan->fetch_bytes += fetch ? layer->size : 0;
	return 0;
}

/* --- names --- */

/* Which image has the name now. */
static int compare_name(struct planning *p, const struct lm_image *image, struct lm_plan_image *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf there = LM_BUF(LM_MANIFEST_JSON_MAX);
	CLEANUP(lm_freep) char *path = lm_str_printf("/" LM_SHELF_METADATA "/%s/" LM_SHELF_MANIFEST, ret->image.name);
	struct lm_err failure = LM_ERR_INIT;
	if (!path)
		return lm_err_oom(err);
	int r = lm_published_read(p->published, &p->top, path, &there, &failure);
	if (r == -ENOENT) {
		ret->state = LM_PLAN_NEW;
		return 0;
	}
	if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&failure));
	r = lm_digest_data(lm_buf_cstr(&there), there.len, ret->replaced, err);
	if (r == 0 && strcmp(ret->replaced, image->digest) == 0) {
		ret->state = LM_PLAN_UNCHANGED;
		ret->replaced[0] = '\0';
	} else {
		ret->state = LM_PLAN_REPLACED;
	}
	return r;
}

/* --- images --- */

/* 1: stock tools wrote one of the layers that are there, so that there can be no tree. */
static int has_stock_layer(struct planning *p, const struct lm_image *image, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < image->layer_count && r == 0; i++) {
		char path[LM_LAYER_PATH_TEXT_MAX + 32];
		snprintf(path, sizeof(path), "%s/" LM_IMAGES_LAYER_ROOT "/" LM_LAYER_MARKER,
			lm_layer_path(image->layers[i].digest).s);
		r = has(p, path, err);
	}
	return r;
}

/* *ret: a tree would be made. */
static int plan_tree(struct planning *p, const struct lm_image *image, bool *ret, struct lm_err *err)
{
	struct lm_layer_path path;
	if (p->config->no_trees)
		return 0;
	int r = lm_chain_tree_path(image, &path, err);
	if (r == 0)
		r = has(p, path.s, err);
	if (r == 0)
		r = has_stock_layer(p, image, err);
	*ret = r == 0;
	return LM_MIN(r, 0);
}

/* 1: some of the layers, all of which are there, are not in the index. */
static int lacks_entries(struct planning *p, const struct lm_image *image, struct lm_err *err)
{
	CLEANUP(lm_layer_index_plan_done) struct lm_layer_index_plan plan = {0};
	struct lm_published_root root = {p->published, p->top};
	const struct lm_view view = lm_published_view(&root);
	int r = lm_layer_index_plan(&view, image, NULL, &plan, err);
	return r < 0 ? r : plan.count > 0;
}

/* 1: what the name leads through, an index or none, is not what is published. */
static int has_other_index(struct planning *p, const struct lm_image *image, const char *name, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf there = LM_BUF(LM_MANIFEST_JSON_MAX);
	CLEANUP(lm_freep) char *path = lm_str_printf("/" LM_SHELF_METADATA "/%s/" LM_SHELF_INDEX, name);
	struct lm_err failure = LM_ERR_INIT;
	if (!path)
		return lm_err_oom(err);
	int r = lm_published_read(p->published, &p->top, path, &there, &failure);
	if (r < 0 && r != -ENOENT)
		return lm_err_set(err, r, "%s", lm_err_text(&failure));
	return there.len != image->index.len || memcmp(lm_buf_cstr(&there), lm_buf_cstr(&image->index), there.len) != 0;
}

static int fill_image(struct planning *p, const struct lm_image *image, struct lm_plan_image *ret, struct lm_err *err)
{
	bool missing = false;
	memcpy(ret->image.digest, image->digest, sizeof(ret->image.digest));
	memcpy(ret->image.config_digest, image->config_digest, sizeof(ret->image.config_digest));
	ret->image.platform = lm_image_platform(image, '/');
	ret->image.layers = calloc(LM_MAX(image->layer_count, (size_t)1), sizeof(*ret->image.layers));
	if (!ret->image.layers)
		return lm_err_oom(err);
	for (size_t i = 0; i < image->layer_count; i++) {
		ret->image.layer_count = i + 1;
		int r = plan_layer(p, image, i, &ret->image.layers[i], &missing, err);
		if (r < 0)
			return r;
	}
	int r = p->config->no_flat ? 1 : has(p, lm_flat_path(image->config_digest).s, err);
	ret->flat = r == 0;
	if (r >= 0)
		r = plan_tree(p, image, &ret->tree, err);
	if (r == 0)
		r = compare_name(p, image, ret, err);
	if (r == 0 && ret->state == LM_PLAN_UNCHANGED) {
		r = missing || ret->flat || ret->tree ? 1 : lacks_entries(p, image, err);
		if (r == 0)
			r = has_other_index(p, image, ret->image.name, err);
		ret->state = r > 0 ? LM_PLAN_COMPLETED : LM_PLAN_UNCHANGED;
		r = LM_MIN(r, 0);
	}
	p->plan->changed |= r == 0 && ret->state != LM_PLAN_UNCHANGED;
	return r;
}

/* Takes name. The image is in the plan from the beginning, so that its layers are seen there. */
static int plan_image(
	struct planning *p, const char *source, char *name, const struct lm_image *image, struct lm_err *err)
{
	struct lm_plan *plan = p->plan;
	struct lm_plan_image *more = reallocarray(plan->images, plan->count + 1, sizeof(*more));
	if (!more) {
		free(name);
		return lm_err_oom(err);
	}
	plan->images = more;
	struct lm_plan_image *ret = &more[plan->count++];
	*ret = (struct lm_plan_image){.image = {.name = name, .source = strdup(source)}};
	return ret->image.source ? fill_image(p, image, ret, err) : lm_err_oom(err);
}

static int plan_platforms(struct planning *p, struct lm_source *source, const struct lm_reference *ref,
	const char *text, const char *name, struct lm_err *err)
{
	CLEANUP(lm_images_done) struct lm_images images = {0};
	CLEANUP(lm_freep) char *plain = NULL;
	int r = lm_source_images(source, &images, err);
	if (r == 0)
		r = lm_image_name(ref, name, lm_source_name(source), &plain, err);
	for (size_t i = 0; r == 0 && i < images.count; i++) {
		char *own = NULL;
		r = lm_image_platform_name(&images.items[i], plain, &own, err);
		if (r == 0)
			r = plan_image(p, text, own, &images.items[i], err);
	}
	return r;
}

static int plan_source(struct planning *p, const char *text, const char *name, struct lm_err *err)
{
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	CLEANUP(lm_image_done) struct lm_image image = {0};
	char *own = NULL;
	int r = lm_reference_parse(text, &ref, err);
	if (r == 0)
		r = lm_source_open(&ref, p->config->access, &source, err);
	if (r < 0)
		return r;
	if (p->config->all_platforms)
		return plan_platforms(p, source, &ref, text, name, err);
	r = lm_source_image(source, &p->config->platform, &image, err);
	if (r == 0)
		r = lm_image_name(&ref, name, lm_source_name(source), &own, err);
	return r < 0 ? r : plan_image(p, text, own, &image, err);
}

static int read_base(struct lm_repo_source *repository, struct lm_manifest *ret, struct lm_err *err)
{
	struct lm_repo_source_manifest found = {0};
	int r = lm_repo_source_manifest(repository, &found, err);
	if (r < 0)
		return r;
	if (found.verdict == LM_INVALID)
		return lm_err_set(err, -EBADMSG, "%s: %s", repository->fqrn, lm_err_text(&found.reason));
	*ret = found.manifest;
	return 0;
}

/* Without one everything is planned as if no run had been interrupted. */
static void look_into_ledger(struct planning *p, struct lm_storage *storage)
{
	const struct lm_converter_config *config = p->config;
	struct lm_err err = LM_ERR_INIT;
	if (!config->ledger || !config->keys)
		return;
	const struct lm_ledger_owner owner = {
		storage, config->remote, config->keys->key, p->plan->base.fqrn, p->plan->base.catalog.algo};
	int r = lm_ledger_peek(config->ledger, &owner, &p->ledger, &err);
	if (r < 0 && r != -ENOENT)
		lm_cli_say("%s: what earlier runs have finished is not known", lm_err_text(&err));
}

int lm_plan_make(struct lm_repo_source *repository, const struct lm_converter_config *config, char *const *sources,
	size_t count, const char *name, struct lm_plan *ret, struct lm_err *err)
{
	CLEANUP(lm_plan_done) struct lm_plan plan = {0};
	CLEANUP(lm_published_freep) struct lm_published *published = NULL;
	CLEANUP(lm_ledger_freep) struct lm_ledger *ledger = NULL;
	int r = read_base(repository, &plan.base, err);
	if (r == 0)
		r = lm_published_new(repository, &published, err);
	char root[] = "";
	struct planning p = {config, published, {root, plan.base.catalog}, NULL, &plan};
	if (r == 0)
		look_into_ledger(&p, repository->storage);
	ledger = p.ledger;
	for (size_t i = 0; r == 0 && i < count; i++) {
		r = plan_source(&p, sources[i], name, err);
		if (r < 0)
			return lm_err_prefix(err, r, "%s", sources[i]);
	}
	if (r < 0)
		return r;
	*ret = plan;
	plan = (struct lm_plan){0};
	return 0;
}
