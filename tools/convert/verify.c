#include "convert/verify.h"

#include "base/clock.h"
#include "base/str.h"
#include "common.h"
#include "convert/image_json.h"
#include "convert/layer.h"
#include "convert/layer_catalog.h"
#include "convert/layer_tar.h"
#include "convert/verify_internal.h"
#include "oci/json.h"
#include "oci/shelf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
	LAYERS_AT_A_TIME = 4,
	REMOTE_THREADS = 16, /* for contents by HTTP or from a bucket: they wait most of the time */
	IN_FLIGHT_MAX = 16 << 20,
	TEXT_MAX = 1024,
	PATH_MAX_BYTES = 64 << 10,
};

/* The whole image. */
struct verification {
	const struct lm_verify_config *config;
	struct lm_verify_result *result;
	struct lm_published_top root;
	struct lm_published_top *layers; /* path NULL: not there */
	struct lm_work *contents;
	unsigned packers; /* threads that hash a layer's content */
	/* under lock */
	struct lm_lock lock;
	struct lm_cond turn;
	unsigned running; /* layers */
	size_t done;
	int code; /* of the first layer that could not be compared */
	struct lm_err err;
};

struct layer_job {
	struct verification *v;
	size_t index;
	struct lm_blob *blob;
	struct lm_published *published; /* for the layers below */
};

void lm_verify_result_done(struct lm_verify_result *result)
{
	for (size_t i = 0; i < result->count; i++)
		for (size_t k = 0; k < result->parts[i].shown; k++) {
			free(result->parts[i].findings[k].path);
			free(result->parts[i].findings[k].text);
		}
	free(result->parts);
	*result = (struct lm_verify_result){0};
}

/* --- findings --- */

int lm_verify_path(const struct lm_layer_node *node, struct lm_buf *path)
{
	if (!node->parent)
		return 0;
	int r = lm_verify_path(node->parent, path);
	return r < 0 ? r : lm_buf_printf(path, "/%s", node->name);
}

static char *path_of(const struct lm_layer_node *node)
{
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(PATH_MAX_BYTES);
	return lm_verify_path(node, &path) < 0 ? NULL : strdup(path.len ? lm_buf_cstr(&path) : "/");
}

static void count_finding(struct lm_verify_part *part, enum lm_verify_kind kind)
{
	switch (kind) {
	case LM_VERIFY_DIFFERENCE:
		part->differences++;
		return;
	case LM_VERIFY_LOSS:
		part->losses++;
		return;
	case LM_VERIFY_UNCOMPARED:
		part->uncompared++;
		return;
	}
}

/* Findings that there is no memory to keep are counted all the same. */
void lm_verify_note(struct lm_comparison *c, enum lm_verify_kind kind, const char *path,
	const struct lm_layer_node *node, const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	LM_LOCKED(&c->lock);
	count_finding(c->part, kind);
	if (c->part->shown == LM_VERIFY_SHOWN_MAX)
		return;
	struct lm_verify_finding finding = {
		.path = path ? strdup(path) : path_of(node), .text = strdup(text), .kind = kind};
	if (finding.path && finding.text) {
		c->part->findings[c->part->shown++] = finding;
	} else {
		free(finding.path);
		free(finding.text);
	}
}

static void comparison_init(struct lm_comparison *c, struct verification *v, struct lm_verify_part *part)
{
	*c = (struct lm_comparison){.repo = v->config->repo, .work = v->contents, .part = part};
	lm_lock_init(&c->lock);
	lm_cond_init(&c->all_done);
}

static void comparison_done(struct lm_comparison *c)
{
	lm_cond_done(&c->all_done);
	lm_lock_done(&c->lock);
}

/* --- files beside image and layers --- */

/* 0: it is in text; 1: noted that it is not there, or damaged. */
static int read_file(struct lm_comparison *c, struct lm_published *published, const struct lm_published_top *top,
	const char *path, struct lm_buf *text, struct lm_err *err)
{
	struct lm_err failure = LM_ERR_INIT;
	int r = lm_published_read(published, top, path, text, &failure);
	if (r == -ENOMEM)
		return lm_err_oom(err);
	if (r < 0)
		lm_verify_note(c, LM_VERIFY_DIFFERENCE, path, NULL, "%s",
			r == -ENOENT ? "is not published" : lm_err_text(&failure));
	return r < 0;
}

static int compare_file(struct lm_comparison *c, struct lm_published *published, const struct lm_published_top *top,
	const char *path, const struct lm_buf *wanted, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_JSON_MAX);
	int r = read_file(c, published, top, path, &text, err);
	if (r != 0)
		return LM_MIN(r, 0);
	c->part->entries++;
	c->part->bytes += text.len;
	if (text.len != wanted->len || memcmp(lm_buf_cstr(&text), lm_buf_cstr(wanted), text.len) != 0)
		lm_verify_note(c, LM_VERIFY_DIFFERENCE, path, NULL, "has other content than the registry's");
	return 0;
}

/* The index that the source led through. Where it names the image alone, any will do that names that image. */
static int compare_index(
	struct lm_comparison *c, struct verification *v, struct lm_published *published, struct lm_err *err)
{
	const struct lm_image *image = v->config->image;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_JSON_MAX);
	CLEANUP(lm_freep) char *path = lm_str_printf("/" LM_SHELF_METADATA "/%s/" LM_SHELF_INDEX, v->config->name);
	struct lm_err failure = LM_ERR_INIT;
	if (!path)
		return lm_err_oom(err);
	if (image->index.len > 0)
		return compare_file(c, published, &v->root, path, &image->index, err);
	int r = lm_published_read(published, &v->root, path, &text, &failure);
	if (r == -ENOENT)
		return 0;
	if (r == -ENOMEM)
		return lm_err_oom(err);
	c->part->entries++;
	c->part->bytes += text.len;
	if (r < 0 || !lm_index_names(lm_buf_cstr(&text), text.len, image->digest))
		lm_verify_note(c, LM_VERIFY_DIFFERENCE, path, NULL, "%s",
			r < 0 ? lm_err_text(&failure) : "is an index of other images");
	return 0;
}

static int compare_metadata(struct verification *v, struct lm_published *published, struct lm_err *err)
{
	const struct lm_image *image = v->config->image;
	CLEANUP(lm_buf_done) struct lm_buf json = LM_BUF(LM_MANIFEST_JSON_MAX);
	CLEANUP(comparison_done) struct lm_comparison c;
	comparison_init(&c, v, &v->result->parts[0]);
	int r = lm_manifest_json(image, &json, err);
	const struct {
		const char *name;
		const struct lm_buf *wanted;
	} files[] = {
		{LM_SHELF_MANIFEST, &image->manifest}, {LM_SHELF_CONFIG, &image->config}, {"manifest.json", &json}};
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(files); i++) {
		CLEANUP(lm_freep)
		char *path = lm_str_printf("/" LM_SHELF_METADATA "/%s/%s", v->config->name, files[i].name);
		r = path ? compare_file(&c, published, &v->root, path, files[i].wanted, err) : lm_err_oom(err);
	}
	return r < 0 ? r : compare_index(&c, v, published, err);
}

static int compare_origin(struct lm_comparison *c, struct lm_published *published, const struct lm_published_top *top,
	const struct lm_image *image, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_LAYER_JSON_MAX);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/" LM_LAYER_ORIGIN, top->path);
	struct lm_err failure = LM_ERR_INIT;
	bool absent = false;
	if (!path)
		return lm_err_oom(err);
	int r = read_file(c, published, top, path, &text, err);
	if (r != 0)
		return LM_MIN(r, 0);
	r = lm_origin_json_add(&text, image->config_digest, &absent, &failure);
	if (r == -ENOMEM)
		return lm_err_oom(err);
	if (r < 0 || absent)
		lm_verify_note(c, LM_VERIFY_DIFFERENCE, path, NULL, "%s",
			r < 0 ? lm_err_text(&failure) : "does not name the image's config");
	return 0;
}

/* What depends on the layer alone; when it was created is by the image that came first. */
static bool same_layers_json(const struct lm_buf *published, const struct lm_buf *wanted)
{
	static const char *const keys[] = {"id", "compressed-diff-digest", "diff-digest", "diff-size"};
	CLEANUP(lm_json_freep) json_t *theirs = json_loadb(lm_buf_cstr(published), published->len, 0, NULL);
	CLEANUP(lm_json_freep) json_t *ours = json_loadb(lm_buf_cstr(wanted), wanted->len, 0, NULL);
	bool same = json_array_size(theirs) == 1;
	for (size_t i = 0; same && i < ARRAY_LEN(keys); i++)
		same = json_equal(json_object_get(json_array_get(theirs, 0), keys[i]),
			json_object_get(json_array_get(ours, 0), keys[i]));
	return same;
}

static int compare_layers_json(struct lm_comparison *c, struct lm_published *published,
	const struct lm_published_top *top, const struct lm_layer *layer, uint64_t tar_bytes, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_LAYER_JSON_MAX), wanted = LM_BUF(LM_LAYER_JSON_MAX);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/" LM_LAYER_JSON, top->path);
	if (!path)
		return lm_err_oom(err);
	int r = lm_layers_json(layer, NULL, tar_bytes, &wanted, err);
	if (r == 0)
		r = read_file(c, published, top, path, &text, err);
	if (r == 0 && !same_layers_json(&text, &wanted))
		lm_verify_note(c, LM_VERIFY_DIFFERENCE, path, NULL, "does not describe this layer");
	return LM_MIN(r, 0);
}

/* --- layers --- */

/* Looks for a path in the index-th layer below, as it is published. */
static int lookup_below(void *arg, size_t index, const char *path, struct lm_row *ret, struct lm_err *err)
{
	const struct layer_job *job = arg;
	const struct lm_published_top *below = &job->v->layers[job->index - 1 - index];
	struct lm_err failure = LM_ERR_INIT; /* absence is no failure: err stays untouched */
	CLEANUP(lm_freep)
	char *full = below->path ? lm_str_printf("%s/" LM_IMAGES_LAYER_ROOT "%s", below->path, path) : NULL;
	if (!full)
		return below->path ? lm_err_oom(err) : -ENOENT;
	int r = lm_published_row(job->published, below, full, ret, &failure);
	return r < 0 && r != -ENOENT ? lm_err_set(err, r, "%s", lm_err_text(&failure)) : r;
}

static int build_tree(struct layer_job *job, struct lm_layer_tree **ret, uint64_t *ret_tar_bytes, struct lm_err *err)
{
	CLEANUP(lm_packing_freep) struct lm_packing *packing = NULL;
	const struct lm_layer_blob from = {.blob = job->blob, .layer = &job->v->config->image->layers[job->index]};
	const struct lm_layer_below below = {.lookup = lookup_below, .arg = job, .count = job->index};
	int r = lm_packing_new(NULL, LM_HASH_SHA1, job->v->packers, IN_FLIGHT_MAX, &packing, err);
	return r < 0 ? r : lm_layer_read_blob(&from, &below, packing, ret, ret_tar_bytes, err);
}

static int compare_layer(struct layer_job *job, struct lm_err *err)
{
	struct verification *v = job->v;
	const struct lm_published_top *top = &v->layers[job->index];
	const struct lm_image *image = v->config->image;
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = NULL;
	CLEANUP(comparison_done) struct lm_comparison c;
	comparison_init(&c, v, &v->result->parts[job->index + 1]);
	uint64_t tar_bytes;
	int r = build_tree(job, &tree, &tar_bytes, err);
	if (r == 0)
		r = lm_verify_tree(&c, tree, top, err);
	if (r == 0)
		r = compare_layers_json(&c, job->published, top, &image->layers[job->index], tar_bytes, err);
	if (r == 0)
		r = compare_origin(&c, job->published, top, image, err);
	return r < 0 ? lm_err_prefix(err, r, "layer %s", image->layers[job->index].digest) : 0;
}

static void layer_job_free(struct layer_job *job)
{
	if (!job)
		return;
	lm_published_free(job->published);
	lm_blob_close(job->blob);
	free(job);
}
LM_DEFINE_CLEANUP(struct layer_job, layer_job_free, layer_job_freep)

/* Returns how many layers are done. */
static size_t end_turn(struct verification *v, int r, const struct lm_err *err)
{
	LM_LOCKED(&v->lock);
	if (r < 0 && v->code == 0) {
		v->code = r;
		v->err = *err;
	}
	v->running--;
	lm_cond_signal(&v->turn);
	return ++v->done;
}

static void run_layer(void *arg)
{
	CLEANUP(layer_job_freep) struct layer_job *job = arg;
	struct verification *v = job->v;
	struct lm_err err = LM_ERR_INIT;
	int64_t start_ms = lm_now_ms();
	int r = compare_layer(job, &err);
	v->result->parts[job->index + 1].ms = lm_now_ms() - start_ms;
	lm_cli_status(
		"%s: %zu of %zu layers compared", v->config->name, end_turn(v, r, &err), v->config->image->layer_count);
}

/* Before a blob is opened there is a thread that reads it. False: something has failed, nothing more is to be done. */
static bool wait_for_turn(struct verification *v, unsigned threads)
{
	LM_LOCKED(&v->lock);
	while (v->running == threads)
		lm_cond_wait(&v->turn, &v->lock);
	v->running += v->code == 0;
	return v->code == 0;
}

static int start_layer(struct verification *v, struct lm_work *work, size_t index, struct lm_err *err)
{
	const struct lm_layer *layer = &v->config->image->layers[index];
	CLEANUP(layer_job_freep) struct layer_job *job = calloc(1, sizeof(*job));
	if (!job)
		return lm_err_oom(err);
	job->v = v;
	job->index = index;
	int r = lm_published_new(v->config->repo, &job->published, err);
	if (r == 0)
		r = lm_source_blob(v->config->source, layer->digest, layer->size, &job->blob, err);
	if (r < 0)
		return lm_err_prefix(err, r, "layer %s", layer->digest);
	lm_work_submit(work, run_layer, STEAL(job));
	return 0;
}

static bool seen_before(const struct lm_image *image, size_t index)
{
	for (size_t i = 0; i < index; i++)
		if (strcmp(image->layers[i].digest, image->layers[index].digest) == 0)
			return true;
	return false;
}

static int compare_layers(struct verification *v, struct lm_err *err)
{
	const struct lm_image *image = v->config->image;
	unsigned cores = lm_work_cores();
	unsigned threads = LM_MIN(cores, (unsigned)LAYERS_AT_A_TIME);
	CLEANUP(lm_work_freep) struct lm_work *work = NULL; /* freed first: its jobs use v */
	int r = lm_work_new("layer", threads, threads, &work, err);
	v->packers = LM_MAX(cores / threads, 1U);
	for (size_t i = 0; r == 0 && i < image->layer_count; i++) {
		if (!v->layers[i].path || seen_before(image, i))
			continue;
		if (!wait_for_turn(v, threads))
			break;
		r = start_layer(v, work, i, err);
	}
	if (work)
		lm_work_drain(work);
	return r < 0 || v->code == 0 ? r : lm_err_set(err, v->code, "%s", lm_err_text(&v->err));
}

/* Where each layer is published; one that is not is a difference. */
static int find_layers(struct verification *v, struct lm_published *published, struct lm_err *err)
{
	const struct lm_image *image = v->config->image;
	for (size_t i = 0; i < image->layer_count; i++) {
		struct lm_err failure = LM_ERR_INIT;
		struct lm_verify_part *part = &v->result->parts[i + 1];
		struct lm_layer_path path = lm_layer_path(image->layers[i].digest);
		memcpy(part->digest, image->layers[i].digest, sizeof(part->digest));
		int r = lm_published_nested(published, &v->root, path.s, &v->layers[i], &failure);
		if (r < 0 && r != -ENOENT)
			return lm_err_set(err, r, "%s", lm_err_text(&failure));
		if (r < 0 && !seen_before(image, i)) {
			CLEANUP(comparison_done) struct lm_comparison c;
			comparison_init(&c, v, part);
			lm_verify_note(&c, LM_VERIFY_DIFFERENCE, "/", NULL, "the layer is not published");
		}
	}
	return 0;
}

static int compare_chain(struct verification *v, struct lm_published *published, struct lm_err *err)
{
	CLEANUP(comparison_done) struct lm_comparison c;
	comparison_init(&c, v, &v->result->parts[0]);
	return lm_verify_chain(&c, published, &v->root, v->layers, v->config->image, err);
}

static int verify(struct verification *v, struct lm_err *err)
{
	CLEANUP(lm_published_freep) struct lm_published *published = NULL;
	unsigned threads = v->config->repo->remote ? REMOTE_THREADS : lm_work_cores();
	int r = lm_published_new(v->config->repo, &published, err);
	if (r == 0)
		r = lm_work_new("content", threads, 4 * (size_t)threads, &v->contents, err);
	if (r == 0)
		r = compare_metadata(v, published, err);
	if (r == 0)
		r = find_layers(v, published, err);
	if (r == 0)
		r = compare_chain(v, published, err);
	return r < 0 ? r : compare_layers(v, err);
}

static void verification_done(struct verification *v)
{
	lm_work_free(v->contents);
	lm_cond_done(&v->turn);
	lm_lock_done(&v->lock);
	for (size_t i = 0; v->layers && i < v->config->image->layer_count; i++)
		lm_published_top_done(&v->layers[i]);
	free(v->layers);
}

int lm_verify_image(const struct lm_verify_config *config, struct lm_verify_result *ret, struct lm_err *err)
{
	size_t count = config->image->layer_count + 1;
	char root[] = "";
	CLEANUP(lm_verify_result_done) struct lm_verify_result result = {0};
	CLEANUP(verification_done)
	struct verification v = {.config = config, .result = &result, .root = {root, config->root}};
	lm_lock_init(&v.lock);
	lm_cond_init(&v.turn);
	v.layers = calloc(count, sizeof(*v.layers));
	result.parts = calloc(count, sizeof(*result.parts));
	if (!v.layers || !result.parts)
		return lm_err_oom(err);
	result.count = count;
	int r = verify(&v, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++) {
		result.differences += result.parts[i].differences;
		result.losses += result.parts[i].losses;
		result.uncompared += result.parts[i].uncompared;
	}
	*ret = result;
	result = (struct lm_verify_result){0};
	return 0;
}
