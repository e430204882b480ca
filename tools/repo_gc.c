#include "base/clock.h"
#include "common.h"
#include "repo.h"
#include "repo/gc.h"
#include "source.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { KEEP_DAYS_MAX = 36500, DAY_S = 86400 };

struct options {
	const char *storage, *s3_config, *keys;
	uint64_t keep_days, keep_revisions;
	int64_t keep_since_s; /* with have_since: instead of keep_days */
	bool have_since, dry_run, verbose, json;
};

/* YYYY-MM-DD[THH:MM:SS][Z], UTC. */
static int parse_since(void *arg, const char *value, struct lm_err *err)
{
	struct options *o = arg;
	struct tm tm = {0};
	const char *end = strptime(value, "%Y-%m-%d", &tm);
	if (end && *end == 'T')
		end = strptime(end + 1, "%H:%M:%S", &tm);
	if (end && *end == 'Z')
		end++;
	if (!end || *end)
		return lm_err_set(err, -EINVAL,
			"--keep-since %s: a date is wanted, 2026-01-31 or 2026-01-31T23:59:59 (UTC)", value);
	o->keep_since_s = timegm(&tm);
	o->have_since = true;
	return 0;
}

static void say_note(void *arg, bool detail, const char *text)
{
	const struct options *o = arg;
	if (!detail || o->verbose)
		lm_cli_say("%s", text);
}

static void show_progress(void *arg, const struct lm_gc_progress *p)
{
	(void)arg;
	if (p->sweeping)
		lm_cli_status("sweeping: %" PRIu64 "%%, %s", p->done * 100 / p->total, lm_cli_size(p->swept_bytes).s);
	else
		lm_cli_status("reading catalogs: %" PRIu64 " of %" PRIu64 " known", p->done, p->total);
}

static struct lm_gc_count sum(const struct lm_gc_count counts[LM_GC_KINDS])
{
	struct lm_gc_count all = {0};
	for (size_t i = 0; i < LM_GC_KINDS; i++) {
		all.objects += counts[i].objects;
		all.bytes += counts[i].bytes;
	}
	return all;
}

static void print_line(const char *name, const struct lm_gc_count *kept, const struct lm_gc_count *swept)
{
	printf("%-14s %12" PRIu64 " %10s %12" PRIu64 " %10s\n", name, kept->objects, lm_cli_size(kept->bytes).s,
		swept->objects, lm_cli_size(swept->bytes).s);
}

static void print_text(const struct lm_gc_result *r, bool dry_run)
{
	struct lm_gc_count kept = sum(r->kept), swept = sum(r->swept);
	printf("%-14s %23s %23s\n", "", "kept", dry_run ? "to be swept" : "swept");
	for (size_t i = 0; i < LM_GC_KINDS; i++)
		print_line(lm_gc_kind_names[i], &r->kept[i], &r->swept[i]);
	print_line("total", &kept, &swept);
	printf("%-14s %12" PRIu64 " %10s %12" PRIu64 "\n", "revisions", r->roots_kept, "", r->roots_dropped);
	if (r->roots_absent > 0)
		printf("%" PRIu64 " revisions of the reflog are gone already\n", r->roots_absent);
	if (r->leftovers.objects > 0)
		printf("%" PRIu64 " temporary files left behind, %s\n", r->leftovers.objects,
			lm_cli_size(r->leftovers.bytes).s);
	if (r->aliases > 0)
		printf("%" PRIu64 " second names of swept objects\n", r->aliases);
	if (r->unknown.objects > 0)
		printf("%" PRIu64 " files that are no objects, %s: left alone (--verbose names them)\n",
			r->unknown.objects, lm_cli_size(r->unknown.bytes).s);
	if (dry_run)
		printf("Nothing was changed.\n");
}

static json_t *count_json(const struct lm_gc_count *count)
{
	return json_pack("{s:I, s:I}", "objects", (json_int_t)count->objects, "bytes", (json_int_t)count->bytes);
}

static json_t *counts_json(const struct lm_gc_count counts[LM_GC_KINDS])
{
	json_t *all = json_object();
	struct lm_gc_count total = sum(counts);
	int r = all ? 0 : -1;
	for (size_t i = 0; i < LM_GC_KINDS && r == 0; i++)
		r = json_object_set_new(all, lm_gc_kind_names[i], count_json(&counts[i]));
	if (r == 0)
		r = json_object_set_new(all, "total", count_json(&total));
	if (r == 0)
		return all;
	json_decref(all);
	return NULL;
}

static int print_json(const char *name, const struct lm_gc_result *r, bool dry_run)
{
	json_t *root = json_pack("{s:s, s:b, s:{s:I, s:I, s:I}, s:I, s:o, s:o, s:o, s:o, s:I, s:b}", "repository", name,
		"dry_run", dry_run, "revisions", "kept", (json_int_t)r->roots_kept, "dropped",
		(json_int_t)r->roots_dropped, "absent", (json_int_t)r->roots_absent, "catalogs_read",
		(json_int_t)r->catalogs, "kept", counts_json(r->kept), "swept", counts_json(r->swept), "unknown",
		count_json(&r->unknown), "leftovers", count_json(&r->leftovers), "aliases", (json_int_t)r->aliases,
		"resigned", r->resigned);
	int code = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
	json_decref(root);
	printf("\n");
	return code;
}

static int collect(const char *name, struct options *o, struct lm_gc_result *ret, struct lm_err *err)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record record = {0};
	CLEANUP(lm_storage_freep) struct lm_storage *storage = NULL;
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys keys = {0};
	const struct lm_gc_options options = {
		.keep_since_s = o->have_since ? o->keep_since_s : lm_wall_s() - (int64_t)o->keep_days * DAY_S,
		.keep_revisions = o->keep_revisions,
		.dry_run = o->dry_run,
		.note = say_note,
		.progress = show_progress,
		.arg = o,
	};
	int r = lm_repo_record_load(name, o->storage, o->keys, &record, err);
	if (r == 0 && !record.keys)
		r = lm_err_set(err, -EINVAL, "the manifest is signed anew: give --keys DIR with %s.key and %s.crt",
			name, name);
	if (r == 0)
		r = lm_repo_keys_load(record.keys, record.name, &keys, err);
	if (r == 0)
		r = lm_repo_record_open(&record, o->s3_config, false, &storage, err);
	return r < 0 ? r : lm_repo_gc(storage, &keys, record.name, &options, ret, err);
}

int lm_cmd_repo_gc(int argc, char **argv)
{
	struct options o = {.keep_days = LM_GC_KEEP_DAYS};
	struct lm_gc_result result;
	struct lm_err err = LM_ERR_INIT;
	int code;
	const struct lm_cli_option options[] = {
		{"keep-days", "N", "keep revisions that were current in the last N days (default 3)",
			.number = &o.keep_days, .max = KEEP_DAYS_MAX},
		{"keep-since", "DATE", "keep those that were current at DATE (UTC) or later, instead",
			.parse = parse_since, .parse_arg = &o},
		{"keep-revisions", "N", "keep the newest N revisions, too", .number = &o.keep_revisions},
		{"dry-run", NULL, "say what would be swept, and change nothing", .flag = &o.dry_run},
		{"verbose", NULL, "name every revision kept or dropped, and every file swept", .flag = &o.verbose},
		{"json", NULL, "for programs", .flag = &o.json},
		{"storage", "DIR", "the repository is DIR/cvmfs/NAME (default: as recorded by `lamella repo init`)",
			.text = &o.storage},
		LM_S3_CONFIG_OPTION(&o.s3_config),
		{"keys", "DIR", "where its keys are (default: as recorded)", .text = &o.keys},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "NAME [OPTION]...",
		.about = "Removes what no kept revision names. Kept are the current revision, the one before, all "
			 "tagged ones,\nand those that were current in the last days. Clients may go on reading.",
		.options = options,
		.min_words = 1,
		.max_words = 1,
		.words = "one NAME is wanted",
	};
	int at = lm_cli_parse(argc, argv, &syntax, &code);
	if (at < 0)
		return code;
	if (collect(argv[at], &o, &result, &err) < 0)
		return lm_cli_fail(&err);
	if (!o.json)
		print_text(&result, o.dry_run);
	else if (print_json(argv[at], &result, o.dry_run) < 0)
		return lm_cli_fail(&(struct lm_err){-ENOMEM, "out of memory"});
	return lm_cli_flush(LM_EXIT_OK);
}
