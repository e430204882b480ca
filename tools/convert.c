#include "base/clock.h"
#include "base/str.h"
#include "commands.h"
#include "common.h"
#include "convert/access.h"
#include "convert/image.h"
#include "convert/ledger.h"
#include "convert/plan.h"
#include "convert/reporter.h"
#include "interrupt.h"
#include "source.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct options {
	const char *repo, *storage, *s3_config, *keys, *name, *platform;
	struct lm_access_options access;
	bool no_wait, dry_run, flat, no_flat, no_trees, strict, json;
	char **sources;
	size_t source_count;
};

struct report {
	struct lm_image_report *images;
	size_t image_count; /* of those that have a report */
	struct lm_converter_summary summary;
	struct lm_manifest before, after;
	int64_t ms;
};

static void report_done(struct report *report)
{
	for (size_t i = 0; i < report->image_count; i++)
		lm_image_report_done(&report->images[i]);
	free(report->images);
}

static void access_done(struct options **options)
{
	lm_access_options_done(&(*options)->access);
}

/* 0 go on, else -1 with *ret_code set. */
static int parse_options(int argc, char **argv, struct options *o, int *ret_code)
{
	const struct lm_cli_option options[] = {
		{"repo", "NAME", "the repository", .text = &o->repo},
		{"storage", "DIR", "its web root, if `lamella repo init` was run elsewhere", .text = &o->storage},
		LM_S3_CONFIG_OPTION(&o->s3_config),
		{"keys", "DIR", "its keys, likewise", .text = &o->keys},
		{"name", "REF", "publish the image as REGISTRY/REPOSITORY[:TAG] instead of its source's name",
			.text = &o->name},
		{"platform", "OS/ARCH[/VARIANT]",
			"which of an index's images (default: linux and this machine's);\n"
			"\"all\": every one, named NAME:TAG-OS-ARCH[-VARIANT]",
			.text = &o->platform},
		{"flat", NULL, "a tree for Apptainer as well, at REGISTRY/REPOSITORY:TAG (the default)",
			.flag = &o->flat},
		{"no-flat", NULL, "no such tree", .flag = &o->no_flat},
		{"no-trees", NULL, "no tree for the kernels of nodes, which else is a file below .lamella/trees",
			.flag = &o->no_trees},
		LM_ACCESS_OPTIONS(&o->access),
		{"strict", NULL, "publish nothing if an image has what the format can't hold", .flag = &o->strict},
		{"dry-run", NULL, "only say what would be fetched and published", .flag = &o->dry_run},
		{"no-wait", NULL, "fail at once if somebody else is publishing, instead of waiting for it",
			.flag = &o->no_wait},
		{"json", NULL, "what happens as JSON, an object a line; the last is the report", .flag = &o->json},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "SOURCE... --repo NAME [OPTION]...",
		.about = "Puts container images into a repository, layer by layer, all of them in one new revision.\n"
			 "SOURCE: docker://HOST[:PORT]/NAME[:TAG][@DIGEST], oci:DIR[:TAG], oci-archive:FILE[:TAG]\n"
			 "or docker-archive:FILE[:NAME[:TAG]|:@INDEX]",
		.options = options,
		.min_words = 1,
		.max_words = -1,
		.words = "SOURCE and --repo NAME are wanted",
	};
	int at = lm_cli_parse(argc, argv, &syntax, ret_code);
	if (at < 0)
		return -1;
	o->sources = argv + at;
	o->source_count = (size_t)(argc - at);
	const char *wrong = !o->repo			     ? syntax.words
			    : o->name && o->source_count > 1 ? "--name goes with a single SOURCE"
			    : o->flat && o->no_flat	     ? "--flat or --no-flat, not both"
							     : NULL;
	if (!wrong)
		return 0;
	lm_cli_error("%s", wrong);
	*ret_code = lm_cli_usage(argv[0]);
	return -1;
}

/* --- the work --- */

/* Around the work: who shows it, and what ends it. */
struct watch {
	struct lm_reporter *reporter;
	struct lm_interrupt *interrupt;
	struct lm_http *http; /* by which sources are read */
	struct lm_converter *converter;
	int signal; /* that interrupted; 0: none */
};

static void cancel(void *arg)
{
	struct watch *watch = arg;
	lm_cli_say("interrupted; a second signal ends this at once");
	lm_converter_cancel(watch->converter);
	lm_http_stop(watch->http);
}

static int convert_images(const struct options *o, bool all_platforms, struct lm_converter *converter,
	struct report *ret, struct lm_err *err)
{
	size_t each = all_platforms ? LM_IMAGES_MAX : 1;
	ret->images = calloc(o->source_count, each * sizeof(*ret->images));
	if (!ret->images)
		return lm_err_oom(err);
	for (size_t i = 0; i < o->source_count; i++) {
		struct lm_image_report *reports = &ret->images[ret->image_count];
		size_t count = 1;
		int r = all_platforms
				? lm_converter_images(converter, o->sources[i], o->name, reports, each, &count, err)
				: lm_converter_image(converter, o->sources[i], o->name, reports, err);
		if (r < 0)
			return r;
		ret->image_count += count;
	}
	return 0;
}

/* A signal before the publication keeps it from taking place; later ones don't stop it. */
static int convert_all(const struct options *o, const struct lm_converter_config *config, struct watch *watch,
	struct report *ret, struct lm_err *err)
{
	CLEANUP(lm_converter_freep) struct lm_converter *converter = NULL;
	int64_t start_ms = lm_now_ms();
	int r = lm_converter_new(config, &converter, err);
	if (r < 0)
		return r;
	watch->converter = converter;
	lm_interrupt_arm(watch->interrupt, cancel, watch);
	r = convert_images(o, config->all_platforms, converter, ret, err);
	watch->signal = lm_interrupt_hold(watch->interrupt);
	if (r == 0 && watch->signal)
		r = lm_err_set(err, -ECANCELED, "interrupted");
	ret->before = *lm_converter_base(converter);
	if (r == 0)
		r = lm_converter_publish(converter, &ret->after, err);
	lm_converter_summary(converter, &ret->summary);
	ret->ms = lm_now_ms() - start_ms;
	return r;
}

/* NULL: there is no place for one. */
static char *ledger_path(const struct lm_repo_record *record)
{
	struct lm_err err = LM_ERR_INIT;
	char *path = NULL;
	if (lm_ledger_path(record->name, record->dir, &path, &err) < 0)
		lm_cli_say("nothing is remembered for the next run: %s", lm_err_text(&err));
	return path;
}

static int choose_platform(
	const struct options *o, struct lm_converter_config *config, char **ret_words, struct lm_err *err)
{
	config->all_platforms = o->platform && strcmp(o->platform, "all") == 0;
	return lm_platform_option(config->all_platforms ? NULL : o->platform, ret_words, &config->platform, err);
}

static int run(const struct options *o, struct watch *watch, struct report *ret, struct lm_err *err)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record record = {0};
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys keys = {0};
	CLEANUP(lm_storage_freep) struct lm_storage *storage = NULL;
	CLEANUP(lm_http_freep) struct lm_http *http = NULL;
	CLEANUP(lm_freep) char *platform = NULL;
	CLEANUP(lm_freep) char *ledger = NULL;
	struct lm_access access = o->access.access;
	struct lm_converter_config config = {.strict = o->strict,
		.no_wait = o->no_wait,
		.access = &access,
		.no_flat = o->no_flat,
		.no_trees = o->no_trees,
		.progress = lm_reporter_progress(watch->reporter)};
	int r = choose_platform(o, &config, &platform, err);
	if (r == 0)
		r = lm_repo_record_load(o->repo, o->storage, o->keys, &record, err);
	if (r == 0 && !record.keys)
		r = lm_err_set(
			err, -EINVAL, "the keys of %s are neither recorded nor given by --keys DIR", record.name);
	if (r == 0)
		r = lm_repo_keys_load(record.keys, record.name, &keys, err);
	if (r == 0)
		r = lm_repo_record_open(&record, o->s3_config, false, &storage, err);
	if (r == 0)
		r = lm_http_new(&(struct lm_http_limits){0}, &http, err);
	if (r < 0)
		return r;
	config.storage = storage;
	config.keys = &keys;
	config.fqrn = record.name;
	config.ledger = ledger = ledger_path(&record);
	config.remote = lm_repo_record_remote(&record);
	access.http = watch->http = http;
	return convert_all(o, &config, watch, ret, err);
}

/* --- the report --- */

static void print_layer(const struct lm_layer_report *layer)
{
	printf("  %s  %-9s  %8s", layer->digest, layer->converted ? lm_layer_state(layer) : "is there",
		lm_cli_size(layer->blob_bytes).s);
	if (layer->converted)
		printf("  %7llu files  %8s stored  %6.1f s", (unsigned long long)layer->files,
			lm_cli_size(layer->stored_bytes).s, (double)layer->ms / 1000);
	printf("\n");
}

static double seconds(int64_t ns)
{
	return (double)ns / 1e9;
}

static void print_summary(const struct lm_converter_summary *sum)
{
	struct lm_stage_times held_up;
	enum lm_stage worst = lm_stage_bottleneck(&sum->times, &held_up);
	printf("unpacked %s, %llu files; of %s of content %s was stored already\n", lm_cli_size(sum->unpacked_bytes).s,
		(unsigned long long)sum->files, lm_cli_size(sum->content_bytes).s, lm_cli_size(sum->known_bytes).s);
	printf("seconds, all threads:");
	for (unsigned i = 0; i < LM_STAGE_WORK; i++)
		printf("%s %s %.1f", i > 0 ? "," : "", lm_stage_name(i), seconds(sum->times.ns[i]));
	printf("; slowest: %s\n", lm_stage_name(worst));
}

static void print_tree(const struct lm_tree_report *tree)
{
	if (tree->why.code)
		printf("  no tree for kernels: %s\n", lm_err_text(&tree->why));
	if (tree->made)
		printf("  tree for kernels  %llu entries  %s  %8s stored  %.1f s  and %s of large files\n",
			(unsigned long long)tree->entries, lm_cli_size(tree->bytes).s,
			lm_cli_size(tree->stored_bytes).s, (double)tree->ms / 1000, lm_cli_size(tree->content_bytes).s);
}

static int print_report(const struct report *report)
{
	const struct lm_converter_summary *sum = &report->summary;
	for (size_t i = 0; i < report->image_count; i++) {
		const struct lm_image_report *image = &report->images[i];
		printf("%s (%s%s%s)\n", image->name, image->platform ? image->platform : "",
			image->platform ? ", " : "", image->digest);
		for (size_t k = 0; k < image->layer_count; k++)
			print_layer(&image->layers[k]);
		if (image->flat.made)
			printf("  flat tree  %llu entries  %.1f s\n", (unsigned long long)image->flat.entries,
				(double)image->flat.ms / 1000);
		print_tree(&image->tree);
	}
	printf("%llu of %llu layers converted, %s read, %s stored, %.1f s\n", (unsigned long long)sum->layers_converted,
		(unsigned long long)sum->layers, lm_cli_size(sum->fetched_bytes).s, lm_cli_size(sum->stored_bytes).s,
		(double)report->ms / 1000);
	if (sum->layers_kept > 0)
		printf("%llu of these had been finished by an earlier run\n", (unsigned long long)sum->layers_kept);
	if (sum->spared_bytes > 0)
		printf("%s of content was known from before, and not compressed again\n",
			lm_cli_size(sum->spared_bytes).s);
	if (sum->layers_converted > 0)
		print_summary(sum);
	if (report->after.revision == report->before.revision)
		printf("nothing changed: revision %llu\n", (unsigned long long)report->after.revision);
	else
		printf("revision %llu published\n", (unsigned long long)report->after.revision);
	return lm_cli_flush(LM_EXIT_OK);
}

static json_t *layer_json(const struct lm_layer_report *layer)
{
	return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "digest", layer->digest, "diff_id",
		layer->diff_id, "state", lm_layer_state(layer), "blob_bytes", (json_int_t)layer->blob_bytes,
		"tar_bytes", (json_int_t)layer->tar_bytes, "files", (json_int_t)layer->files, "file_bytes",
		(json_int_t)layer->file_bytes, "objects_stored", (json_int_t)layer->objects, "bytes_stored",
		(json_int_t)layer->stored_bytes, "attributes_lost", (json_int_t)layer->losses, "seconds",
		(double)layer->ms / 1000);
}

static json_t *tree_json(const struct lm_tree_report *tree)
{
	return json_pack("{s:b, s:o, s:I, s:I, s:I, s:I, s:f}", "made", tree->made, "impossible",
		tree->why.code ? lm_cli_text_json(lm_err_text(&tree->why)) : json_null(), "entries",
		(json_int_t)tree->entries, "bytes", (json_int_t)tree->bytes, "bytes_stored",
		(json_int_t)tree->stored_bytes, "content_bytes", (json_int_t)tree->content_bytes, "seconds",
		(double)tree->ms / 1000);
}

/* NULL items make the whole NULL: memory was short, or a name is no UTF-8. */
static json_t *image_json(const struct lm_image_report *image)
{
	json_t *layers = json_array();
	for (size_t i = 0; i < image->layer_count; i++)
		if (json_array_append_new(layers, layer_json(&image->layers[i])) < 0) {
			json_decref(layers);
			return NULL;
		}
	return json_pack("{s:s, s:s, s:s, s:s, s:s?, s:{s:b, s:I, s:f}, s:o, s:o}", "source", image->source, "name",
		image->name, "digest", image->digest, "config", image->config_digest, "platform", image->platform,
		"flat", "made", image->flat.made, "entries", (json_int_t)image->flat.entries, "seconds",
		(double)image->flat.ms / 1000, "tree", tree_json(&image->tree), "layers", layers);
}

static json_t *stages_json(const struct lm_stage_times *times)
{
	struct lm_stage_times held_up;
	json_t *stages = json_object();
	(void)lm_stage_bottleneck(times, &held_up);
	for (unsigned i = 0; i < LM_STAGE_WORK; i++)
		if (json_object_set_new(stages, lm_stage_name(i),
			    json_pack("{s:f, s:f}", "seconds", seconds(times->ns[i]), "held_up",
				    seconds(held_up.ns[i]))) < 0) {
			json_decref(stages);
			return NULL;
		}
	return stages;
}

static json_t *summary_json(const struct lm_converter_summary *sum)
{
	struct lm_stage_times held_up;
	const char *worst = lm_stage_name(lm_stage_bottleneck(&sum->times, &held_up));
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:s?}", "layers",
		(json_int_t)sum->layers, "layers_converted", (json_int_t)sum->layers_converted, "layers_kept",
		(json_int_t)sum->layers_kept, "spared_bytes", (json_int_t)sum->spared_bytes, "fetched_bytes",
		(json_int_t)sum->fetched_bytes, "skipped_bytes", (json_int_t)sum->skipped_bytes, "unpacked_bytes",
		(json_int_t)sum->unpacked_bytes, "files", (json_int_t)sum->files, "content_bytes",
		(json_int_t)sum->content_bytes, "known_bytes", (json_int_t)sum->known_bytes, "objects_stored",
		(json_int_t)sum->objects, "bytes_stored", (json_int_t)sum->stored_bytes, "stages",
		stages_json(&sum->times), "bottleneck", sum->layers_converted > 0 ? worst : NULL);
}

static json_t *report_json(const struct report *report)
{
	json_t *images = json_array();
	for (size_t i = 0; i < report->image_count; i++)
		if (json_array_append_new(images, image_json(&report->images[i])) < 0) {
			json_decref(images);
			return NULL;
		}
	return json_pack("{s:s, s:s, s:I, s:b, s:s, s:f, s:o, s:o}", "event", "report", "repository",
		report->after.fqrn, "revision", (json_int_t)report->after.revision, "changed",
		report->after.revision != report->before.revision, "root_catalog",
		lm_hash_text(&report->after.catalog).s, "seconds", (double)report->ms / 1000, "summary",
		summary_json(&report->summary), "images", images);
}

/* --- what would be done --- */

/* What earlier runs have finished only the owner of the keys can know. */
struct remembered {
	struct lm_repo_record record;
	struct lm_repo_keys keys;
	char *ledger;
};

static void remembered_done(struct remembered *own)
{
	lm_repo_record_done(&own->record);
	lm_repo_keys_done(&own->keys);
	free(own->ledger);
}

static void remember(const struct options *o, struct remembered *own, struct lm_converter_config *config)
{
	const struct lm_repo_record *record = &own->record;
	struct lm_err err = LM_ERR_INIT;
	if (lm_repo_record_load(o->repo, o->storage, o->keys, &own->record, NULL) < 0 || !record->keys ||
		lm_ledger_path(record->name, record->dir, &own->ledger, NULL) < 0 || access(own->ledger, F_OK) < 0)
		return;
	if (lm_repo_keys_load(record->keys, record->name, &own->keys, &err) < 0) {
		lm_cli_say("%s: what earlier runs have finished is not known", lm_err_text(&err));
		return;
	}
	config->keys = &own->keys;
	config->ledger = own->ledger;
	config->remote = lm_repo_record_remote(record);
}

static int make_plan(const struct options *o, struct lm_plan *ret, struct lm_err *err)
{
	CLEANUP(lm_repo_source_done) struct lm_repo_source repository = {0};
	CLEANUP(remembered_done) struct remembered own = {0};
	CLEANUP(lm_http_freep) struct lm_http *http = NULL;
	CLEANUP(lm_freep) char *platform = NULL;
	struct lm_access access = o->access.access;
	struct lm_converter_config config = {.access = &access, .no_flat = o->no_flat, .no_trees = o->no_trees};
	const struct lm_repo_source_options where = {.storage = o->storage, .s3_config = o->s3_config, .keys = o->keys};
	int r = choose_platform(o, &config, &platform, err);
	if (r == 0)
		r = lm_repo_source_open(o->repo, &where, &repository, err);
	if (r == 0)
		r = lm_http_new(&(struct lm_http_limits){0}, &http, err);
	if (r < 0)
		return r;
	access.http = http;
	remember(o, &own, &config);
	return lm_plan_make(&repository, &config, o->sources, o->source_count, o->name, ret, err);
}

static const char *planned_state(const struct lm_layer_report *layer, const char *fetch, const char *present)
{
	return !layer->converted ? present : layer->kept ? "kept" : fetch;
}

static void print_planned(const struct lm_plan_image *planned)
{
	const struct lm_image_report *image = &planned->image;
	printf("%s (%s%s%s): %s%s%s%s%s\n", image->name, image->platform ? image->platform : "",
		image->platform ? ", " : "", image->digest, lm_plan_state_name(planned->state),
		planned->replaced[0] ? ", instead of " : "", planned->replaced, planned->flat ? ", flat tree" : "",
		planned->tree ? ", tree for kernels" : "");
	for (size_t i = 0; i < image->layer_count; i++)
		printf("  %s  %-9s  %8s\n", image->layers[i].digest,
			planned_state(&image->layers[i], "to fetch", "is there"),
			lm_cli_size(image->layers[i].blob_bytes).s);
}

static void print_plan(const struct lm_plan *plan)
{
	for (size_t i = 0; i < plan->count; i++)
		print_planned(&plan->images[i]);
	printf("%llu of %llu layers would be fetched, %s\n", (unsigned long long)plan->fetch_layers,
		(unsigned long long)plan->layers, lm_cli_size(plan->fetch_bytes).s);
	if (plan->kept_layers > 0)
		printf("%llu more have been finished by an earlier run\n", (unsigned long long)plan->kept_layers);
	if (plan->changed)
		printf("revision %llu would be published\n", (unsigned long long)plan->base.revision + 1);
	else
		printf("nothing would change: revision %llu\n", (unsigned long long)plan->base.revision);
}

static json_t *planned_json(const struct lm_plan_image *planned)
{
	const struct lm_image_report *image = &planned->image;
	json_t *layers = json_array();
	for (size_t i = 0; i < image->layer_count; i++)
		(void)json_array_append_new(
			layers, json_pack("{s:s, s:s, s:I}", "digest", image->layers[i].digest, "state",
					planned_state(&image->layers[i], "fetch", "present"), "blob_bytes",
					(json_int_t)image->layers[i].blob_bytes));
	return json_pack("{s:o, s:o, s:s, s:s?, s:s, s:s?, s:b, s:b, s:o}", "source", lm_cli_text_json(image->source),
		"name", lm_cli_text_json(image->name), "digest", image->digest, "platform", image->platform, "state",
		lm_plan_state_name(planned->state), "replaced", planned->replaced[0] ? planned->replaced : NULL, "flat",
		planned->flat, "tree", planned->tree, "layers", layers);
}

static json_t *plan_json(const struct lm_plan *plan)
{
	json_t *images = json_array();
	for (size_t i = 0; i < plan->count; i++)
		(void)json_array_append_new(images, planned_json(&plan->images[i]));
	return json_pack("{s:s, s:s, s:I, s:b, s:I, s:I, s:I, s:I, s:o}", "event", "plan", "repository",
		plan->base.fqrn, "revision", (json_int_t)plan->base.revision, "changed", plan->changed, "layers",
		(json_int_t)plan->layers, "kept_layers", (json_int_t)plan->kept_layers, "fetch_layers",
		(json_int_t)plan->fetch_layers, "fetch_bytes", (json_int_t)plan->fetch_bytes, "images", images);
}

/* --- the command --- */

static void report_error(struct lm_reporter *reporter, const struct lm_err *err)
{
	lm_reporter_event(
		reporter, json_pack("{s:s, s:o}", "event", "error", "message", lm_cli_text_json(lm_err_text(err))));
}

/* What is in the way may be the interruption's own doing: it is what counts. */
static void report_interruption(const struct watch *watch, const struct report *report)
{
	struct lm_err err = LM_ERR_INIT;
	(void)lm_err_set(&err, -ECANCELED,
		"interrupted: nothing is published, the repository is as it was; %llu layers are done and need not be "
		"fetched again",
		(unsigned long long)report->summary.layers_converted);
	report_error(watch->reporter, &err);
	(void)lm_cli_fail(&err);
}

static int finish(const struct options *options, struct lm_reporter *reporter, const struct report *report)
{
	if (!options->json)
		return print_report(report);
	lm_reporter_event(reporter, report_json(report));
	return lm_cli_flush(LM_EXIT_OK);
}

static int watched_run(const struct options *options, struct watch *watch)
{
	CLEANUP(report_done) struct report report = {0};
	struct lm_err err = LM_ERR_INIT;
	int r = run(options, watch, &report, &err);
	if (r == 0)
		return finish(options, watch->reporter, &report);
	if (watch->signal) {
		report_interruption(watch, &report);
		return LM_EXIT_FAILED;
	}
	report_error(watch->reporter, &err);
	return lm_cli_fail(&err);
}

static int dry_run(const struct options *options)
{
	CLEANUP(lm_plan_done) struct lm_plan plan = {0};
	CLEANUP(lm_reporter_freep) struct lm_reporter *reporter = NULL;
	struct lm_err err = LM_ERR_INIT;
	int r = lm_reporter_new(options->json, &reporter, &err);
	if (r < 0)
		return lm_cli_fail(&err);
	r = make_plan(options, &plan, &err);
	if (r < 0) {
		report_error(reporter, &err);
		return lm_cli_fail(&err);
	}
	if (options->json)
		lm_reporter_event(reporter, plan_json(&plan));
	else
		print_plan(&plan);
	return lm_cli_flush(LM_EXIT_OK);
}

static int convert(const struct options *options, int *ret_signal)
{
	CLEANUP(lm_interrupt_freep) struct lm_interrupt *interrupt = NULL;
	CLEANUP(lm_reporter_freep) struct lm_reporter *reporter = NULL;
	struct lm_err err = LM_ERR_INIT;
	int r = lm_interrupt_new(&interrupt, &err);
	if (r == 0)
		r = lm_reporter_new(options->json, &reporter, &err);
	if (r < 0)
		return lm_cli_fail(&err);
	struct watch watch = {.reporter = reporter, .interrupt = interrupt};
	int code = watched_run(options, &watch);
	*ret_signal = code == LM_EXIT_OK ? 0 : watch.signal;
	return code;
}

int lm_cmd_convert(int argc, char **argv)
{
	struct options options = {0};
	int code, number = 0;
	CLEANUP(access_done) struct options *in_use = &options;
	if (parse_options(argc, argv, in_use, &code) < 0)
		return code;
	lm_access_speak(&options.access);
	code = options.dry_run ? dry_run(&options) : convert(&options, &number);
	if (number)
		lm_interrupt_die(number);
	return code;
}
