/* `lamella images`: what is published, or with --node what this machine has of it. */
#include "base/str.h"
#include "commands.h"
#include "common.h"
#include "convert/chain_tree.h"
#include "convert/flat.h"
#include "convert/inventory.h"
#include "oci/digest.h"
#include "oci/json.h"
#include "oci/shelf.h"
#include "snapshotter.h"
#include "source.h"
#include "sync/state.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct options {
	struct lm_repo_source_options source;
	const char *repo, *snapshotter;
	bool json, node, layers;
};

struct shown {
	const struct lm_inventory_image *image;
	char digest[LM_DIGEST_MAX]; /* "" where only DUCC's files are there */
	char *platform;		    /* NULL: not said */
	uint64_t bytes, own_bytes;  /* of the layers; of those that no other image has */
	bool flat, tree;
};

struct use { /* of a layer by an image, names aside */
	const char *layer, *config;
};

struct failing { /* what `lamella sync` could not publish as its source has it; strings owned */
	char *name, *error, *list;
	int64_t since_s;
	unsigned attempts;
	bool published; /* as it was before */
};

struct report {
	struct lm_manifest manifest;
	struct lm_inventory inventory;
	struct lm_schedule schedule;
	struct shown *shown; /* as many as the inventory has */
	struct use *uses;
	size_t use_count;
	struct failing *failing;
	size_t failing_count;
};

static void report_done(struct report *report)
{
	for (size_t i = 0; report->shown && i < report->inventory.count; i++)
		free(report->shown[i].platform);
	free(report->shown);
	free(report->uses);
	for (size_t i = 0; i < report->failing_count; i++) {
		free(report->failing[i].name);
		free(report->failing[i].error);
		free(report->failing[i].list);
	}
	free(report->failing);
	lm_schedule_done(&report->schedule);
	lm_inventory_done(&report->inventory);
}

/* --- what is shared --- */

static int cmp_use(const void *a, const void *b)
{
	const struct use *x = a, *y = b;
	int order = strcmp(x->layer, y->layer);
	return order ? order : strcmp(x->config, y->config);
}

static int gather_uses(struct report *report, struct lm_err *err)
{
	size_t count = 0;
	for (size_t i = 0; i < report->inventory.count; i++)
		count += report->inventory.images[i].parts.layer_count;
	report->uses = calloc(count + 1, sizeof(*report->uses));
	if (!report->uses)
		return lm_err_oom(err);
	for (size_t i = 0; i < report->inventory.count; i++) {
		const struct lm_image_parts *parts = &report->inventory.images[i].parts;
		for (size_t k = 0; k < parts->layer_count; k++)
			report->uses[report->use_count++] = (struct use){parts->layers[k].digest, parts->config};
	}
	if (count > 0)
		qsort(report->uses, count, sizeof(*report->uses), cmp_use);
	return 0;
}

static int cmp_layer(const void *key, const void *item)
{
	return strcmp(key, ((const struct use *)item)->layer);
}

/* No image with another config has the layer. */
static bool is_own(const struct report *report, const char *layer, const char *config)
{
	const struct use *begin = report->uses, *end = begin + report->use_count;
	const struct use *found = bsearch(layer, begin, report->use_count, sizeof(*begin), cmp_layer);
	bool own = true;
	for (const struct use *at = found; at && at >= begin && strcmp(at->layer, layer) == 0; at--)
		own &= strcmp(at->config, config) == 0;
	for (const struct use *at = found; at && at < end && strcmp(at->layer, layer) == 0; at++)
		own &= strcmp(at->config, config) == 0;
	return own;
}

/* A layer that the image has twice is counted once. */
static void add_sizes(const struct report *report, struct shown *shown)
{
	const struct lm_image_parts *parts = &shown->image->parts;
	for (size_t i = 0; i < parts->layer_count; i++) {
		size_t first = 0;
		while (strcmp(parts->layers[first].digest, parts->layers[i].digest) != 0)
			first++;
		if (first < i)
			continue;
		shown->bytes += parts->layers[i].size;
		if (is_own(report, parts->layers[i].digest, parts->config))
			shown->own_bytes += parts->layers[i].size;
	}
}

/* --- one image --- */

/* ret stays empty where DUCC has left no such file. */
static int read_beside(const struct lm_view *view, const struct lm_inventory_image *image, const char *file,
	struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("/" LM_SHELF_METADATA "/%s/%s", image->name, file);
	int r = path ? lm_view_has(view, path, NULL, err) : lm_err_oom(err);
	return r > 0 ? view->read(view->arg, path, ret, err) : r;
}

static int read_platform(const struct lm_buf *config, char **ret, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *json = NULL;
	const char *os, *architecture, *variant;
	if (lm_json_load("config", lm_buf_cstr(config), config->len, &json, NULL) < 0 ||
		lm_json_string("config", json, "os", LM_JSON_OPTIONAL, &os, NULL) < 0 ||
		lm_json_string("config", json, "architecture", LM_JSON_OPTIONAL, &architecture, NULL) < 0 ||
		lm_json_string("config", json, "variant", LM_JSON_OPTIONAL, &variant, NULL) < 0)
		return 0; /* whoever runs it will say so */
	if (!os || !architecture)
		return 0;
	*ret = lm_str_printf("%s/%s%s%s", os, architecture, variant ? "/" : "", variant ? variant : "");
	return *ret ? 0 : lm_err_oom(err);
}

/* 1: its layers have a tree for the kernels of nodes. */
static int has_tree(const struct lm_view *view, const struct lm_image_parts *parts, struct lm_err *err)
{
	struct lm_chain_hex chain;
	int r = lm_image_parts_chain(parts, &chain, err);
	return r < 0 ? r : lm_view_has(view, lm_chain_path(chain.s).s, NULL, err);
}

static int look_at(const struct lm_view *view, const struct report *report, struct shown *shown, struct lm_err *err)
{
	CLEANUP(lm_buf_done)
	struct lm_buf manifest = LM_BUF(LM_MANIFEST_JSON_MAX), config = LM_BUF(LM_MANIFEST_JSON_MAX);
	const struct lm_inventory_image *image = shown->image;
	int r = read_beside(view, image, LM_SHELF_MANIFEST, &manifest, err);
	if (r == 0)
		r = read_beside(view, image, LM_SHELF_CONFIG, &config, err);
	if (r == 0 && manifest.len > 0)
		r = lm_digest_data(manifest.data, manifest.len, shown->digest, err);
	if (r == 0 && config.len > 0)
		r = read_platform(&config, &shown->platform, err);
	if (r == 0 && *image->parts.config)
		r = lm_view_has(view, lm_flat_path(image->parts.config).s, NULL, err);
	shown->flat = r > 0;
	if (r >= 0 && *image->parts.config)
		r = has_tree(view, &image->parts, err);
	shown->tree = r > 0;
	add_sizes(report, shown);
	return LM_MIN(r, 0);
}

static int look(const struct lm_view *view, struct report *report, struct lm_err *err)
{
	int r = lm_inventory_read(view, &report->inventory, err);
	if (r == 0)
		r = lm_schedule_read(view, &report->schedule, err);
	if (r == 0)
		r = gather_uses(report, err);
	report->shown = calloc(report->inventory.count + 1, sizeof(*report->shown));
	if (r == 0 && !report->shown)
		r = lm_err_oom(err);
	for (size_t i = 0; i < report->inventory.count && r == 0; i++) {
		report->shown[i].image = &report->inventory.images[i];
		r = look_at(view, report, &report->shown[i], err);
	}
	return r;
}

/* --- what this machine's syncs say --- */

static int add_failing(struct report *report, const struct lm_sync_state *state, const struct lm_sync_image *image)
{
	struct failing *grown = reallocarray(report->failing, report->failing_count + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	report->failing = grown;
	struct failing *failing = &grown[report->failing_count++];
	*failing = (struct failing){
		.name = strdup(image->name),
		.error = strdup(image->error ? image->error : "failed"),
		.list = strdup(lm_sync_list(state)),
		.since_s = image->error_s,
		.attempts = image->failures,
		.published = *image->image,
	};
	return failing->name && failing->error && failing->list ? 0 : -ENOMEM;
}

static int on_state(void *arg, const struct lm_sync_state *state, const struct lm_err *why)
{
	struct report *report = arg;
	int r = 0;
	if (!state) {
		lm_cli_error("what a sync knows is not shown: %s", lm_err_text(why));
		return 0;
	}
	for (size_t i = 0; i < lm_sync_count(state) && r == 0; i++) {
		const struct lm_sync_image *image = lm_sync_at(state, i);
		if (image->error_s && strcmp(image->repo, report->manifest.fqrn) == 0)
			r = add_failing(report, state, image);
	}
	return r;
}

static int run(const struct options *o, struct report *report, struct lm_err *err)
{
	CLEANUP(lm_repo_source_done) struct lm_repo_source source = {0};
	CLEANUP(lm_published_freep) struct lm_published *published = NULL;
	struct lm_repo_source_manifest found;
	int r = lm_repo_source_open(o->repo, &o->source, &source, err);
	if (r == 0)
		r = lm_repo_source_manifest(&source, &found, err);
	if (r < 0)
		return r;
	if (found.verdict == LM_INVALID)
		return lm_err_set(err, -EBADMSG, "repository %s: %s", source.fqrn, lm_err_text(&found.reason));
	if (found.verdict == LM_UNCHECKED)
		lm_cli_error("the signature of %s is not checked: %s", source.fqrn, lm_err_text(&found.reason));
	report->manifest = found.manifest;
	r = lm_published_new(&source, &published, err);
	if (r < 0)
		return r;
	struct lm_published_root root = {published, {(char *)"", found.manifest.catalog}};
	const struct lm_view view = lm_published_view(&root);
	r = look(&view, report, err);
	struct lm_err why = LM_ERR_INIT;
	int told = r == 0 ? lm_sync_each(on_state, report, &why) : 0;
	if (told == -ENOMEM)
		return lm_err_oom(err);
	if (told < 0)
		lm_cli_error("what a sync knows is not shown: %s", lm_err_text(&why));
	return r;
}

/* --- the report --- */

static void print_image(const struct shown *shown, int width)
{
	const struct lm_inventory_image *image = shown->image;
	if (image->why.code) {
		printf("%-*s  %s\n", width, image->name, lm_err_text(&image->why));
		return;
	}
	printf("%-*s  %-14s  %6zu  %8s  %8s  %-4s  %-4s  %s\n", width, image->name,
		shown->platform ? shown->platform : "unknown", image->parts.layer_count, lm_cli_size(shown->bytes).s,
		lm_cli_size(shown->own_bytes).s, shown->flat && image->link ? "yes" : "no", shown->tree ? "yes" : "no",
		lm_cli_time(image->when_s).s);
}

static int print_text(const struct report *report, struct lm_err *err)
{
	int width = (int)strlen("NAME");
	for (size_t i = 0; i < report->inventory.count; i++)
		width = LM_MAX(width, (int)strlen(report->inventory.images[i].name));
	printf("%-*s  %-14s  %6s  %8s  %8s  %-4s  %-4s  %s\n", width, "NAME", "PLATFORM", "LAYERS", "SIZE", "OWN",
		"FLAT", "TREE", "PUBLISHED");
	for (size_t i = 0; i < report->inventory.count; i++)
		print_image(&report->shown[i], width);
	for (size_t i = 0; i < report->failing_count; i++) {
		const struct failing *failing = &report->failing[i];
		if (i == 0)
			printf("\nNot as their sources have them, by lamella sync:\n");
		printf("%-*s  %s  attempt %u: %s%s\n", width, failing->name, lm_cli_time(failing->since_s).s,
			failing->attempts, failing->error, failing->published ? "" : " (never published)");
	}
	for (size_t i = 0; i < lm_schedule_count(&report->schedule); i++) {
		CLEANUP(lm_schedule_item_done) struct lm_schedule_item item = {0};
		int r = lm_schedule_item(&report->schedule, i, &item, err);
		if (r < 0)
			return r;
		if (i == 0)
			printf("\nRemoved, what only they have goes after:\n");
		printf("%-*s  %.19s  %s\n", width, item.name ? item.name : "unnamed", item.parts.config,
			lm_cli_time(item.after_s == INT64_MAX ? 0 : item.after_s).s);
	}
	return 0;
}

static json_t *layers_json(const struct lm_image_parts *parts)
{
	json_t *list = json_array();
	for (size_t i = 0; i < parts->layer_count; i++)
		if (json_array_append_new(list, json_pack("{s:s, s:I}", "digest", parts->layers[i].digest, "bytes",
							(json_int_t)parts->layers[i].size)) < 0) {
			json_decref(list);
			return NULL;
		}
	return list;
}

static const char *or_null(const char *text)
{
	return *text ? text : NULL;
}

static json_t *image_json(const struct shown *shown)
{
	const struct lm_inventory_image *image = shown->image;
	json_t *platforms = json_array();
	for (size_t i = 0; i < image->platform_count; i++)
		if (json_array_append_new(platforms, lm_cli_text_json(image->platforms[i])) < 0) {
			json_decref(platforms);
			return NULL;
		}
	return json_pack("{s:o, s:s?, s:s?, s:s?, s:o, s:I, s:I, s:s, s:b, s:b, s:o?, s:o, s:s?}", "name",
		lm_cli_text_json(image->name), "digest", or_null(shown->digest), "config", or_null(image->parts.config),
		"platform", shown->platform, "layers", layers_json(&image->parts), "bytes", (json_int_t)shown->bytes,
		"own_bytes", (json_int_t)shown->own_bytes, "published", lm_cli_time(image->when_s).s, "flat",
		shown->flat && image->link, "tree", shown->tree, "link",
		image->link ? lm_cli_text_json(image->link) : NULL, "platforms", platforms, "error",
		image->why.code ? lm_err_text(&image->why) : NULL);
}

static int scheduled_json(const struct report *report, json_t **ret, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *list = json_array();
	for (size_t i = 0; i < lm_schedule_count(&report->schedule); i++) {
		CLEANUP(lm_schedule_item_done) struct lm_schedule_item item = {0};
		int r = lm_schedule_item(&report->schedule, i, &item, err);
		if (r < 0)
			return r;
		const struct lm_cli_time_text after = lm_cli_time(item.after_s == INT64_MAX ? 0 : item.after_s);
		if (json_array_append_new(list,
			    json_pack("{s:o?, s:s, s:s?, s:o}", "name", item.name ? lm_cli_text_json(item.name) : NULL,
				    "config", item.parts.config, "after", item.after_s == INT64_MAX ? NULL : after.s,
				    "layers", layers_json(&item.parts))) < 0)
			return lm_err_oom(err);
	}
	*ret = STEAL(list);
	return 0;
}

static json_t *failing_json(const struct report *report)
{
	json_t *list = json_array();
	for (size_t i = 0; i < report->failing_count; i++) {
		const struct failing *failing = &report->failing[i];
		if (json_array_append_new(list,
			    json_pack("{s:o, s:o, s:s, s:I, s:b, s:o}", "name", lm_cli_text_json(failing->name),
				    "error", lm_cli_text_json(failing->error), "failed",
				    lm_cli_time(failing->since_s).s, "attempts", (json_int_t)failing->attempts,
				    "published", failing->published, "list", lm_cli_text_json(failing->list))) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static int print_json(const struct report *report, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *images = json_array();
	CLEANUP(lm_json_freep) json_t *scheduled = NULL;
	for (size_t i = 0; i < report->inventory.count; i++)
		if (json_array_append_new(images, image_json(&report->shown[i])) < 0)
			return lm_err_oom(err);
	int r = scheduled_json(report, &scheduled, err);
	if (r < 0)
		return r;
	CLEANUP(lm_json_freep)
	json_t *json = json_pack("{s:s, s:I, s:O, s:o, s:O}", "repository", report->manifest.fqrn, "revision",
		(json_int_t)report->manifest.revision, "images", images, "failing", failing_json(report), "removed",
		scheduled);
	if (!json)
		return lm_err_oom(err);
	json_dumpf(json, stdout, JSON_INDENT(2));
	printf("\n");
	return 0;
}

int lm_cmd_images(int argc, char **argv)
{
	struct options o = {0};
	int code;
	const struct lm_cli_option options[] = {
		{"repo", "WHERE", "the repository: a NAME that is recorded here, a DIR or a URL", .text = &o.repo},
		LM_REPO_SOURCE_OPTIONS(&o.source),
		{"node", NULL, "instead: the images on this node, and how lazy they are", .flag = &o.node},
		{"layers", NULL, "with --node: and their layers", .flag = &o.layers},
		{"snapshotter", "PATH", "with --node: " LM_SNAPSHOTTER_SOCKET_HELP, .text = &o.snapshotter},
		{"json", NULL,
			"as JSON, layers and all; with --node: the StatusResponse of\n"
			"proto/lamella/snapshotter.proto",
			.flag = &o.json},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "--repo WHERE | --node [OPTION]...",
		.about = "Lists the images in the newest revision of a repository: by name, with the size of their "
			 "layers\n"
			 "as they came (OWN: of those that no other image has), and whether there are a tree for "
			 "Apptainer\n"
			 "(FLAT) and one for the kernels of nodes (TREE).\n"
			 "Then those that `lamella sync` on this machine could not bring up to date, and why.\n"
			 "With --node: the images that the snapshotter of this machine has, how many of their layers "
			 "are\n"
			 "served (LAZY, or LOSSY: without owners), were pulled since they could not be (FALLEN), or\n"
			 "were pulled since nobody asked (ORDINARY), what they take on this disk, the containers on\n"
			 "them (TREES: over merged trees), and why the lowest layer that is not lazy is not.",
		.options = options,
		.words = "--repo WHERE or --node is wanted, and nothing else",
	};
	if (lm_cli_parse(argc, argv, &syntax, &code) < 0)
		return code;
	if (o.node && !o.repo)
		return lm_snapshotter_images(o.snapshotter, o.layers, o.json);
	const char *wrong = !o.repo || o.node		? syntax.words
			    : o.layers || o.snapshotter ? "--layers and --snapshotter are for --node"
							: NULL;
	if (wrong) {
		lm_cli_error("%s", wrong);
		return lm_cli_usage(argv[0]);
	}
	CLEANUP(report_done) struct report report = {0};
	struct lm_err err = LM_ERR_INIT;
	int r = run(&o, &report, &err);
	if (r == 0)
		r = o.json ? print_json(&report, &err) : print_text(&report, &err);
	return r < 0 ? lm_cli_fail(&err) : lm_cli_flush(LM_EXIT_OK);
}
