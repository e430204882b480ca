/* `lamella rm`: images out of a repository. */
#include "base/clock.h"
#include "base/str.h"
#include "commands.h"
#include "common.h"
#include "convert/image_name.h"
#include "convert/metadata.h"
#include "convert/remove.h"
#include "source.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { GRACE_DAYS_MAX = 36500, DAY_S = 86400 };

struct options {
	const char *repo, *storage, *s3_config, *keys;
	uint64_t grace_days;
	bool now, dry_run, json;
	char **refs;
	size_t ref_count;
};

struct report {
	struct lm_removal removal;
	struct lm_manifest before, after;
};

static int parse_options(int argc, char **argv, struct options *o, int *ret_code)
{
	const struct lm_cli_option options[] = {
		{"repo", "NAME", "the repository", .text = &o->repo},
		{"storage", "DIR", "its web root, if `lamella repo init` was run elsewhere", .text = &o->storage},
		LM_S3_CONFIG_OPTION(&o->s3_config),
		{"keys", "DIR", "its keys, likewise", .text = &o->keys},
		{"grace", "DAYS", "how long what only these images have is still there (default: 30)",
			.number = &o->grace_days, .max = GRACE_DAYS_MAX},
		{"now", NULL, "not at all: it goes with the names", .flag = &o->now},
		{"dry-run", NULL, "only say what would happen", .flag = &o->dry_run},
		{"json", NULL, "the report as JSON", .flag = &o->json},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "[REF...] --repo NAME [OPTION]...",
		.about = "Takes the names of images out of a repository, and after a time of grace layers and trees "
			 "that\n"
			 "no other image has, all in one new revision. REF: a name as `lamella images` lists it, or\n"
			 "docker://HOST/NAME:TAG. Without a REF, what is due goes.",
		.options = options,
		.max_words = -1,
		.words = "--repo NAME is wanted",
	};
	o->grace_days = LM_GRACE_S / DAY_S;
	int at = lm_cli_parse(argc, argv, &syntax, ret_code);
	if (at < 0)
		return -1;
	o->refs = argv + at;
	o->ref_count = (size_t)(argc - at);
	if (o->repo)
		return 0;
	lm_cli_error("%s", syntax.words);
	*ret_code = lm_cli_usage(argv[0]);
	return -1;
}

/* --- names --- */

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

/* What `lamella convert REF` calls the image; any other text is a name as it is. */
static int parse_name(const char *text, char **ret, struct lm_err *err)
{
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	if (!lm_str_starts(text, "docker://")) {
		*ret = strdup(text);
		return *ret ? 0 : lm_err_oom(err);
	}
	int r = lm_reference_parse(text, &ref, err);
	return r < 0 ? r : lm_image_name(&ref, NULL, NULL, ret, err);
}

static int parse_names(const struct options *o, struct names *ret, struct lm_err *err)
{
	int r = 0;
	ret->items = calloc(o->ref_count + 1, sizeof(*ret->items));
	if (!ret->items)
		return lm_err_oom(err);
	for (size_t i = 0; i < o->ref_count && r == 0; i++) {
		r = parse_name(o->refs[i], &ret->items[i], err);
		ret->count += r == 0;
	}
	return r;
}

/* --- the work --- */

static int64_t grace_s(const struct options *o)
{
	return o->now ? 0 : (int64_t)o->grace_days * DAY_S;
}

/* Takes no lock, needs no keys but the public one. */
static int dry_run(const struct options *o, const struct names *names, struct report *ret, struct lm_err *err)
{
	CLEANUP(lm_repo_source_done) struct lm_repo_source source = {0};
	CLEANUP(lm_published_freep) struct lm_published *published = NULL;
	const struct lm_repo_source_options where = {.storage = o->storage, .s3_config = o->s3_config, .keys = o->keys};
	struct lm_repo_source_manifest found;
	int r = lm_repo_source_open(o->repo, &where, &source, err);
	if (r == 0)
		r = lm_repo_source_manifest(&source, &found, err);
	if (r == 0 && found.verdict == LM_INVALID)
		r = lm_err_set(err, -EBADMSG, "repository %s: %s", source.fqrn, lm_err_text(&found.reason));
	if (r == 0)
		r = lm_published_new(&source, &published, err);
	if (r < 0)
		return r;
	struct lm_published_root root = {published, {(char *)"", found.manifest.catalog}};
	const struct lm_view view = lm_published_view(&root);
	ret->before = ret->after = found.manifest;
	return lm_removal_plan(
		&view, (const char *const *)names->items, names->count, grace_s(o), lm_wall_s(), &ret->removal, err);
}

static int publish(const struct options *o, const struct lm_repo_record *record, const struct names *names,
	struct report *ret, struct lm_err *err)
{
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys keys = {0};
	CLEANUP(lm_storage_freep) struct lm_storage *storage = NULL;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	int r = lm_repo_keys_load(record->keys, record->name, &keys, err);
	if (r == 0)
		r = lm_repo_record_open(record, o->s3_config, false, &storage, err);
	if (r == 0)
		r = lm_txn_begin(storage, &keys, record->name, &txn, err);
	if (r < 0)
		return r;
	ret->before = *lm_txn_base(txn);
	r = lm_remove_images(txn, (const char *const *)names->items, names->count, grace_s(o), &ret->removal, err);
	return r < 0 ? r : lm_txn_commit(txn, &ret->after, err);
}

static int run(const struct options *o, struct report *ret, struct lm_err *err)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record record = {0};
	CLEANUP(names_done) struct names names = {0};
	int r = parse_names(o, &names, err);
	if (r < 0 || o->dry_run)
		return r < 0 ? r : dry_run(o, &names, ret, err);
	r = lm_repo_record_load(o->repo, o->storage, o->keys, &record, err);
	if (r == 0 && !record.keys)
		r = lm_err_set(
			err, -EINVAL, "the keys of %s are neither recorded nor given by --keys DIR", record.name);
	return r < 0 ? r : publish(o, &record, &names, ret, err);
}

/* --- the report --- */

static int print_text(const struct report *report, bool dry)
{
	const struct lm_removal *removal = &report->removal;
	uint64_t bytes = 0;
	for (size_t i = 0; i < removal->name_count; i++)
		printf("%s\n", removal->names[i]);
	for (size_t i = 0; i < removal->image_count; i++) {
		const struct lm_removed *image = &removal->images[i];
		const char *name = image->name ? image->name : image->config;
		if (image->after_s)
			printf("  %s: what only it has goes after %s\n", name, lm_cli_time(image->after_s).s);
		else
			printf("  %s: what only it has goes now\n", name);
	}
	for (size_t i = 0; i < removal->layer_count; i++) {
		printf("  %s  %8s\n", removal->layers[i].digest, lm_cli_size(removal->layers[i].size).s);
		bytes += removal->layers[i].size;
	}
	printf("%zu names, %zu layers of %s, %zu flat trees, %zu trees for kernels %s\n", removal->name_count,
		removal->layer_count, lm_cli_size(bytes).s, removal->flat_count, removal->tree_count,
		dry ? "would go" : "removed");
	if (dry)
		printf("nothing was changed\n");
	else if (report->after.revision == report->before.revision)
		printf("nothing changed: revision %" PRIu64 "\n", report->after.revision);
	else
		printf("revision %" PRIu64 " published; `lamella repo gc` frees the space\n", report->after.revision);
	return lm_cli_flush(LM_EXIT_OK);
}

static int append(json_t *list, json_t *item)
{
	return json_array_append_new(list, item);
}

static json_t *report_json(const struct report *report, bool dry)
{
	const struct lm_removal *removal = &report->removal;
	json_t *names = json_array(), *images = json_array(), *layers = json_array(), *flats = json_array(),
	       *trees = json_array();
	int r = 0;
	for (size_t i = 0; i < removal->name_count; i++)
		r |= append(names, lm_cli_text_json(removal->names[i]));
	for (size_t i = 0; i < removal->image_count; i++) {
		const struct lm_removed *image = &removal->images[i];
		r |= append(images, json_pack("{s:s, s:o?, s:s?}", "config", image->config, "name",
					    image->name ? lm_cli_text_json(image->name) : NULL, "after",
					    image->after_s ? lm_cli_time(image->after_s).s : NULL));
	}
	for (size_t i = 0; i < removal->layer_count; i++)
		r |= append(layers, json_pack("{s:s, s:I}", "digest", removal->layers[i].digest, "bytes",
					    (json_int_t)removal->layers[i].size));
	for (size_t i = 0; i < removal->flat_count; i++)
		r |= append(flats, json_string(removal->flats[i]));
	for (size_t i = 0; i < removal->tree_count; i++)
		r |= append(trees, json_string(removal->trees[i].s));
	json_t *json = json_pack("{s:s, s:I, s:b, s:b, s:o, s:o, s:o, s:o, s:o}", "repository", report->after.fqrn,
		"revision", (json_int_t)report->after.revision, "changed",
		report->after.revision != report->before.revision, "dry_run", dry, "names", names, "images", images,
		"layers", layers, "flat", flats, "trees", trees);
	if (r == 0)
		return json;
	json_decref(json);
	return NULL;
}

static void report_done(struct report *report)
{
	lm_removal_done(&report->removal);
}

int lm_cmd_rm(int argc, char **argv)
{
	struct options o = {0};
	int code;
	if (parse_options(argc, argv, &o, &code) < 0)
		return code;
	CLEANUP(report_done) struct report report = {0};
	struct lm_err err = LM_ERR_INIT;
	if (run(&o, &report, &err) < 0)
		return lm_cli_fail(&err);
	return o.json ? lm_cli_print_json(report_json(&report, o.dry_run)) : print_text(&report, o.dry_run);
}
