#include "convert/verify.h"
#include "base/clock.h"
#include "base/str.h"
#include "commands.h"
#include "common.h"
#include "convert/access.h"
#include "convert/image_name.h"
#include "source.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct options {
	const char *repo, *url, *name, *platform;
	struct lm_repo_source_options where;
	struct lm_access_options access;
	bool json;
	const char *source;
};

struct report {
	struct lm_image image;
	char *name;
	struct lm_manifest manifest;
	struct lm_verify_result result;
	int64_t ms;
};

static void report_done(struct report *report)
{
	lm_image_done(&report->image);
	free(report->name);
	lm_verify_result_done(&report->result);
}

static void options_done(struct options *o)
{
	lm_access_options_done(&o->access);
}

/* 0 go on, else -1 with *ret_code set. */
static int parse_options(int argc, char **argv, struct options *o, int *ret_code)
{
	const struct lm_cli_option options[] = {
		{"repo", "NAME", "the repository: a NAME recorded here, or a directory (with a slash: ./DIR)",
			.text = &o->repo},
		{"url", "URL", "read NAME from these web servers (several: separated by \";\"), as clients do",
			.text = &o->url},
		{"storage", "DIR", "NAME is DIR/cvmfs/NAME (default: as recorded by `lamella repo init`)",
			.text = &o->where.storage},
		LM_S3_CONFIG_OPTION(&o->where.s3_config),
		{"keys", "DIR", "directory of master public keys: NAME.pub, or all *.pub (default: as recorded)",
			.text = &o->where.keys},
		{"key", "FILE", "one master public key", .text = &o->where.key},
		{"proxy", "LIST", "proxies as in CVMFS_HTTP_PROXY, with --url (default: DIRECT)",
			.text = &o->where.proxy},
		{"name", "REF", "the image is published as REGISTRY/REPOSITORY[:TAG] (default: by SOURCE)",
			.text = &o->name},
		{"platform", "OS/ARCH[/VARIANT]", "which of an index's images (default: linux and this machine's)",
			.text = &o->platform},
		LM_ACCESS_OPTIONS(&o->access),
		{"json", NULL, "for programs", .flag = &o->json},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "SOURCE --repo NAME [OPTION]...",
		.about = "Compares a published image with the image at SOURCE (as for `lamella convert`), layer by "
			 "layer,\n"
			 "entry by entry, byte by byte. All blobs are fetched, all objects are read.\n"
			 "Exit code 0: they are equal, but for what the format can't hold; 1: they differ, or could "
			 "not be\n"
			 "compared.",
		.options = options,
		.min_words = 1,
		.max_words = 1,
		.words = "one SOURCE and --repo NAME are wanted",
	};
	int at = lm_cli_parse(argc, argv, &syntax, ret_code);
	if (at < 0)
		return -1;
	o->source = argv[at];
	if (o->repo)
		return 0;
	lm_cli_error("%s", syntax.words);
	*ret_code = lm_cli_usage(argv[0]);
	return -1;
}

/* --- the work --- */

static int open_repository(
	struct options *o, struct lm_repo_source *ret, struct lm_manifest *ret_manifest, struct lm_err *err)
{
	struct lm_repo_source_manifest found = {0};
	if (o->url)
		o->where.name = o->repo;
	int r = lm_repo_source_open(o->url ? o->url : o->repo, &o->where, ret, err);
	if (r == 0)
		r = lm_repo_source_manifest(ret, &found, err);
	if (r < 0)
		return r;
	if (found.verdict == LM_INVALID)
		return lm_err_set(err, -EBADMSG, "repository %s: %s", ret->fqrn, lm_err_text(&found.reason));
	if (found.verdict == LM_UNCHECKED)
		lm_cli_error("the signature of %s is not checked: %s", ret->fqrn, lm_err_text(&found.reason));
	*ret_manifest = found.manifest;
	return 0;
}

static int open_image(
	struct options *o, struct lm_http *http, struct lm_source **ret, struct report *report, struct lm_err *err)
{
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	CLEANUP(lm_freep) char *words = NULL;
	struct lm_platform platform;
	o->access.access.http = http;
	int r = lm_platform_option(o->platform, &words, &platform, err);
	if (r == 0)
		r = lm_reference_parse(o->source, &ref, err);
	if (r == 0)
		r = lm_source_open(&ref, &o->access.access, ret, err);
	if (r == 0)
		r = lm_source_image(*ret, &platform, &report->image, err);
	if (r == 0)
		r = lm_image_name(&ref, o->name, lm_source_name(*ret), &report->name, err);
	return r < 0 ? lm_err_prefix(err, r, "%s", o->source) : 0;
}

static int run(struct options *o, struct report *report, struct lm_err *err)
{
	CLEANUP(lm_repo_source_done) struct lm_repo_source repo = {0};
	CLEANUP(lm_http_freep) struct lm_http *http = NULL;
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	int64_t start_ms = lm_now_ms();
	int r = open_repository(o, &repo, &report->manifest, err);
	if (r == 0)
		r = lm_http_new(&(struct lm_http_limits){0}, &http, err);
	if (r == 0)
		r = open_image(o, http, &source, report, err);
	if (r < 0)
		return r;
	const struct lm_verify_config config = {
		.repo = &repo,
		.root = report->manifest.catalog,
		.source = source,
		.image = &report->image,
		.name = report->name,
	};
	r = lm_verify_image(&config, &report->result, err);
	report->ms = lm_now_ms() - start_ms;
	return r;
}

/* --- the report --- */

/* Foreign bytes on a line of ours. */
static void print_escaped(const char *text)
{
	for (const char *at = text; *at; at++) {
		unsigned char c = (unsigned char)*at;
		printf(c < 0x20 || c >= 0x7f ? "\\x%02x" : "%c", c);
	}
}

static void print_part(const struct lm_verify_part *part)
{
	printf("%s: %" PRIu64 " entries, %s", part->digest[0] ? part->digest : "metadata", part->entries,
		lm_cli_size(part->bytes).s);
	if (part->digest[0])
		printf(", %.1f s", (double)part->ms / 1000);
	printf(part->differences ? ": %" PRIu64 " differences\n" : ": equal\n", part->differences);
	for (size_t i = 0; i < part->shown; i++) {
		const struct lm_verify_finding *finding = &part->findings[i];
		static const char *const words[] = {
			[LM_VERIFY_DIFFERENCE] = "differs",
			[LM_VERIFY_LOSS] = "lost",
			[LM_VERIFY_UNCOMPARED] = "not compared",
		};
		printf("  %s ", words[finding->kind]);
		print_escaped(finding->path);
		printf(": ");
		print_escaped(finding->text);
		printf("\n");
	}
	const uint64_t all = part->differences + part->losses + part->uncompared;
	if (all > part->shown)
		printf("  and %" PRIu64 " more\n", all - part->shown);
}

static void print_report(const struct report *report)
{
	const struct lm_verify_result *result = &report->result;
	printf("%s (%s), revision %" PRIu64 " of %s\n", report->name, report->image.digest, report->manifest.revision,
		report->manifest.fqrn);
	for (size_t i = 0; i < result->count; i++)
		print_part(&result->parts[i]);
	if (result->differences)
		printf("%" PRIu64 " differences", result->differences);
	else
		printf("equal");
	printf(", %" PRIu64 " losses that the format does not hold", result->losses);
	if (result->uncompared)
		printf(", %" PRIu64 " files not compared", result->uncompared);
	printf(", %.1f s\n", (double)report->ms / 1000);
}

static json_t *findings_json(const struct lm_verify_part *part)
{
	static const char *const names[] = {
		[LM_VERIFY_DIFFERENCE] = "difference",
		[LM_VERIFY_LOSS] = "loss",
		[LM_VERIFY_UNCOMPARED] = "uncompared",
	};
	json_t *list = json_array();
	for (size_t i = 0; i < part->shown; i++) {
		const struct lm_verify_finding *f = &part->findings[i];
		if (json_array_append_new(list, json_pack("{s:s, s:o, s:o}", "kind", names[f->kind], "path",
							lm_cli_text_json(f->path), "text", lm_cli_text_json(f->text))) <
			0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *part_json(const struct lm_verify_part *part)
{
	return json_pack("{s:s*, s:b, s:I, s:I, s:I, s:I, s:I, s:f, s:o}", "digest",
		part->digest[0] ? part->digest : NULL, "equal", part->differences == 0, "entries",
		(json_int_t)part->entries, "bytes", (json_int_t)part->bytes, "differences",
		(json_int_t)part->differences, "losses", (json_int_t)part->losses, "uncompared",
		(json_int_t)part->uncompared, "seconds", (double)part->ms / 1000, "findings", findings_json(part));
}

/* NULL: no memory. */
static json_t *report_json(const struct options *o, const struct report *report)
{
	const struct lm_verify_result *result = &report->result;
	json_t *layers = json_array();
	for (size_t i = 1; i < result->count; i++)
		if (json_array_append_new(layers, part_json(&result->parts[i])) < 0) {
			json_decref(layers);
			return NULL;
		}
	return json_pack("{s:o, s:s, s:s, s:s, s:I, s:b, s:I, s:I, s:I, s:f, s:o, s:o}", "source",
		lm_cli_text_json(o->source), "name", report->name, "digest", report->image.digest, "repository",
		report->manifest.fqrn, "revision", (json_int_t)report->manifest.revision, "equal",
		result->differences == 0, "differences", (json_int_t)result->differences, "losses",
		(json_int_t)result->losses, "uncompared", (json_int_t)result->uncompared, "seconds",
		(double)report->ms / 1000, "metadata", part_json(&result->parts[0]), "layers", layers);
}

int lm_cmd_verify(int argc, char **argv)
{
	CLEANUP(options_done) struct options options = {0};
	int code;
	if (parse_options(argc, argv, &options, &code) < 0)
		return code;
	lm_access_speak(&options.access);
	CLEANUP(report_done) struct report report = {0};
	struct lm_err err = LM_ERR_INIT;
	if (run(&options, &report, &err) < 0)
		return lm_cli_fail(&err);
	code = LM_EXIT_OK;
	if (options.json)
		code = lm_cli_print_json(report_json(&options, &report));
	else
		print_report(&report);
	return report.result.differences ? LM_EXIT_FAILED : code;
}
