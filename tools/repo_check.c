#include "base/clock.h"
#include "base/str.h"
#include "base/work.h"
#include "common.h"
#include "repo.h"
#include "repo/check.h"
#include "source.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum {
	KIND_MAX = 20,	     /* findings per kind that are shown */
	REMOTE_THREADS = 16, /* of a check by HTTP: they wait most of the time */
	QUEUE = 4,	     /* batches of objects that wait per thread */
	EXPIRY_WARNING_S = 7 * 86400,
};

struct options {
	struct lm_repo_source_options where;
	struct lm_check_options check;
	const char *root_text;
	bool json, quiet;
};

struct output {
	const struct options *options;
	json_t *findings; /* NULL: text */
};

/*
 * Text
 */

/* Foreign bytes on a line of ours. */
static void print_quoted(const char *text)
{
	CLEANUP(lm_buf_done) struct lm_buf quoted = LM_BUF(64 << 10);
	if (lm_str_quote(&quoted, text, strlen(text)) == 0)
		printf("%s", lm_buf_cstr(&quoted));
}

static void print_escaped(const char *text)
{
	for (const char *at = text; *at; at++) {
		unsigned char c = (unsigned char)*at;
		printf(c < 0x20 || c >= 0x7f ? "\\x%02x" : "%c", c);
	}
}

static void print_finding(const struct lm_finding *f)
{
	const struct lm_check_kind_info *kind = &lm_check_kinds[f->kind];
	printf("%s %s: ", lm_check_level_names[kind->level], kind->name);
	if (f->path)
		print_quoted(*f->path ? f->path : "/");
	else if (f->catalog)
		printf("catalog "), print_quoted(*f->catalog ? f->catalog : "/");
	if (f->object)
		printf("%s%s", f->path || f->catalog ? ", " : "", f->object);
	printf(": ");
	print_escaped(f->text);
	printf("\n");
}

static void print_kinds(const struct lm_check_result *result)
{
	for (size_t i = 0; i < LM_CHECK_KIND_COUNT; i++)
		if (result->kinds[i] > 0 && lm_check_kinds[i].level != LM_CHECK_NOTE)
			printf("%" PRIu64 " %s%s. %s\n", result->kinds[i], lm_check_kinds[i].name,
				result->kinds[i] > KIND_MAX ? " (not all are shown)" : "", lm_check_kinds[i].advice);
}

static void print_result(const struct lm_check_result *r, bool objects)
{
	print_kinds(r);
	printf("checked %" PRIu64 " revisions, %" PRIu64 " catalogs, %" PRIu64 " rows, %" PRIu64 " chunks, %" PRIu64
	       " objects",
		r->roots, r->catalogs, r->rows, r->chunks, r->objects);
	if (objects)
		printf(" with %s", lm_cli_size(r->object_bytes).s);
	printf(": %" PRIu64 " problems, %" PRIu64 " warnings, %" PRIu64 " notes\n", r->levels[LM_CHECK_PROBLEM],
		r->levels[LM_CHECK_WARNING], r->levels[LM_CHECK_NOTE]);
}

/*
 * JSON
 */

static json_t *text_json(const char *text)
{
	return text ? lm_cli_text_json(text) : NULL;
}

static json_t *finding_json(const struct lm_finding *f)
{
	const struct lm_check_kind_info *kind = &lm_check_kinds[f->kind];
	return json_pack("{s:s, s:s, s:o*, s:o*, s:o*, s:o*, s:s}", "level", lm_check_level_names[kind->level], "kind",
		kind->name, "catalog", text_json(f->catalog), "path", text_json(f->path), "object",
		text_json(f->object), "text", text_json(f->text), "advice", kind->advice);
}

static json_t *kinds_json(const struct lm_check_result *result)
{
	json_t *kinds = json_object();
	for (size_t i = 0; i < LM_CHECK_KIND_COUNT; i++)
		if (result->kinds[i] > 0 && json_object_set_new(kinds, lm_check_kinds[i].name,
						    json_integer((json_int_t)result->kinds[i])) < 0)
			break;
	return kinds;
}

static int print_json(const struct lm_repo_source *source, json_t *findings, const struct lm_check_result *r)
{
	json_t *root = json_pack("{s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "repository",
		source->fqrn, source->remote ? "servers" : "directory", lm_cli_text_json(source->where), "revisions",
		(json_int_t)r->roots, "catalogs", (json_int_t)r->catalogs, "rows", (json_int_t)r->rows, "chunks",
		(json_int_t)r->chunks, "objects", (json_int_t)r->objects, "object_bytes", (json_int_t)r->object_bytes,
		"problems", (json_int_t)r->levels[LM_CHECK_PROBLEM], "warnings",
		(json_int_t)r->levels[LM_CHECK_WARNING], "notes", (json_int_t)r->levels[LM_CHECK_NOTE], "kinds",
		kinds_json(r), "findings", json_incref(findings));
	int r2 = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
	json_decref(root);
	printf("\n");
	return r2;
}

/*
 * The command
 */

static void found(void *arg, const struct lm_finding *finding)
{
	struct output *out = arg;
	if (out->findings)
		(void)json_array_append_new(out->findings, finding_json(finding));
	else if (!out->options->quiet || lm_check_kinds[finding->kind].level == LM_CHECK_PROBLEM)
		print_finding(finding);
}

static void progress(void *arg, const struct lm_check_result *so_far)
{
	lm_cli_status("%" PRIu64 " catalogs, %" PRIu64 " rows, %" PRIu64 " objects, %" PRIu64 " problems",
		so_far->catalogs, so_far->rows, so_far->objects, so_far->levels[LM_CHECK_PROBLEM]);
}

static int check(struct options *o, struct lm_repo_source *source, struct lm_err *err)
{
	CLEANUP(lm_work_freep) struct lm_work *work = NULL;
	struct output out = {.options = o, .findings = o->json ? json_array() : NULL};
	struct lm_check_result result = {0};
	unsigned threads = source->remote ? REMOTE_THREADS : lm_work_cores();
	int r = lm_work_new("check", threads, QUEUE * threads, &work, err);
	if (r < 0)
		return r;
	o->check.fqrn = source->fqrn;
	o->check.keys = source->keys.keys;
	o->check.key_count = source->keys.count;
	o->check.now_s = lm_wall_s();
	o->check.expiry_warning_s = EXPIRY_WARNING_S;
	o->check.scratch = lm_tmp_dir();
	o->check.work = work;
	o->check.kind_max = KIND_MAX;
	o->check.progress = progress;
	r = lm_repo_check(source->storage, &o->check, found, &out, &result, err);
	if (r == 0 && o->json && print_json(source, out.findings, &result) < 0)
		r = lm_err_oom(err);
	else if (r == 0 && !o->json)
		print_result(&result, o->check.objects);
	json_decref(out.findings);
	return r < 0 ? r : result.levels[LM_CHECK_PROBLEM] > 0;
}

static int parse_root(const struct options *o, struct lm_hash *ret, struct lm_err *err)
{
	if (!o->root_text)
		return 0;
	if (o->check.tag || o->check.tags)
		return lm_err_set(err, -EINVAL, "--root is one tree by itself: neither --tag nor --tags go with it");
	return lm_hash_parse(o->root_text, strlen(o->root_text), ret, NULL) < 0
		       ? lm_err_set(err, -EINVAL, "--root %s is no hash", o->root_text)
		       : 0;
}

int lm_cmd_repo_check(int argc, char **argv)
{
	CLEANUP(lm_repo_source_done) struct lm_repo_source source = {0};
	struct options o = {0};
	struct lm_hash root = {0};
	struct lm_err err = LM_ERR_INIT;
	int code;
	const struct lm_cli_option options[] = {
		LM_REPO_SOURCE_OPTIONS(&o.where),
		{"objects", NULL, "read every object: its hash, and that it has the size its catalog says",
			.flag = &o.check.objects},
		{"tags", NULL, "the trees of all tags, too", .flag = &o.check.tags},
		{"tag", "TAG", "the tree of this tag instead of the newest", .text = &o.check.tag},
		{"root", "HASH", "the tree of this root catalog, and nothing else", .text = &o.root_text},
		{"quiet", NULL, "only problems, no warnings and notes", .letter = 'q', .flag = &o.quiet},
		{"json", NULL, "for programs", .flag = &o.json},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "WHERE [OPTION]...",
		.about = "Checks a repository: signatures, tags, every row of every catalog, and that all objects are "
			 "there.\n"
			 "WHERE is a NAME recorded here, a directory (with a slash: ./DIR), or URLs of servers.\n"
			 "Exit code 0: no problems, 1: problems were found, or it could not be checked.",
		.options = options,
		.min_words = 1,
		.max_words = 1,
		.words = "one WHERE is wanted: a NAME, a directory or a URL",
	};
	int at = lm_cli_parse(argc, argv, &syntax, &code);
	if (at < 0)
		return code;
	int r = parse_root(&o, &root, &err);
	o.check.root = root.set ? &root : NULL;
	if (r == 0)
		r = lm_repo_source_open(argv[at], &o.where, &source, &err);
	if (r == 0)
		r = check(&o, &source, &err);
	if (r < 0)
		return lm_cli_fail(&err);
	return lm_cli_flush(r > 0 ? LM_EXIT_FAILED : LM_EXIT_OK);
}
