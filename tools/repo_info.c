#include "base/clock.h"
#include "base/str.h"
#include "common.h"
#include "repo.h"
#include "repo/history.h"
#include "source.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { TAGS_MAX = 20 };

struct tag {
	char name[64]; /* cut to that */
	struct lm_hash hash;
	uint64_t revision;
	int64_t time_s;
};

struct info {
	struct lm_repo_source source;
	struct lm_repo_source_manifest signed_manifest;
	bool have_whitelist, have_counters;
	struct lm_whitelist whitelist;
	struct lm_counters counters;
	struct tag tags[TAGS_MAX]; /* the newest ones */
	size_t tag_count, tags_shown;
	struct lm_err whitelist_err, catalog_err, history_err; /* why not; history_err.code 0: read, or none is there */
};

static void info_done(struct info *info)
{
	lm_repo_source_done(&info->source);
}

static int read_whitelist(struct info *info, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	int r = lm_repo_source_whitelist_text(&info->source, &text, err);
	return r < 0 ? r : lm_whitelist_parse(lm_buf_cstr(&text), text.len, &info->whitelist, err);
}

static int read_counters(struct info *info, struct lm_err *err)
{
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	struct lm_counters below;
	int r = lm_repo_source_catalog(&info->source, &info->signed_manifest.manifest.catalog, "", &catalog, err);
	if (r == 0)
		r = lm_catalog_counters(catalog, &info->counters, &below, err);
	if (r == 0)
		lm_counters_add(&info->counters, &below);
	return r;
}

static int keep_tag(void *arg, const struct lm_tag *tag)
{
	struct info *info = arg;
	if (info->tag_count++ < TAGS_MAX) {
		struct tag *kept = &info->tags[info->tags_shown++];
		snprintf(kept->name, sizeof(kept->name), "%s", tag->name);
		kept->hash = tag->hash;
		kept->revision = tag->revision;
		kept->time_s = tag->time_s;
	}
	return 0;
}

static int read_tags(struct info *info, struct lm_err *err)
{
	CLEANUP(lm_repo_source_dropp) char *path = NULL;
	const struct lm_hash *history = &info->signed_manifest.manifest.history;
	if (!history->set)
		return 0;
	int r = lm_repo_source_database(&info->source, history, LM_OBJECT_HISTORY, &path, err);
	return r < 0 ? r : lm_history_each(path, keep_tag, info, err);
}

static int gather(struct info *info, struct lm_err *err)
{
	int r = lm_repo_source_manifest(&info->source, &info->signed_manifest, err);
	if (r < 0)
		return r;
	info->have_whitelist = read_whitelist(info, &info->whitelist_err) == 0;
	info->have_counters = read_counters(info, &info->catalog_err) == 0;
	info->history_err.code = read_tags(info, &info->history_err);
	return 0;
}

static uint64_t entries(const struct lm_counters *c)
{
	return c->regular + c->symlink + c->special + c->dir;
}

static void print_counters(const struct info *info)
{
	const struct lm_counters *c = &info->counters;
	if (!info->have_counters) {
		printf("content      not readable: %s\n", info->catalog_err.msg);
		return;
	}
	printf("content      %llu entries: %llu files, %llu directories, %llu symbolic links, %llu special\n"
	       "             %s in files, %llu nested catalogs\n",
		(unsigned long long)entries(c), (unsigned long long)c->regular, (unsigned long long)c->dir,
		(unsigned long long)c->symlink, (unsigned long long)c->special, lm_cli_size(c->file_size).s,
		(unsigned long long)c->nested);
}

static void print_whitelist(const struct info *info)
{
	const struct lm_whitelist *w = &info->whitelist;
	if (!info->have_whitelist) {
		printf("whitelist    not readable: %s\n", info->whitelist_err.msg);
		return;
	}
	printf("whitelist    %s %s\n", w->expires_s > lm_wall_s() ? "valid until" : "EXPIRED",
		lm_cli_time(w->expires_s).s);
	for (size_t i = 0; i < w->count; i++)
		printf("certificate  %s\n", lm_hash_text(&w->fingerprints[i]).s);
}

static void print_tags(const struct info *info)
{
	if (info->history_err.code < 0)
		printf("tags         not readable: %s\n", info->history_err.msg);
	for (size_t i = 0; i < info->tags_shown; i++) {
		const struct tag *tag = &info->tags[i];
		CLEANUP(lm_buf_done) struct lm_buf name = LM_BUF(300);
		if (lm_str_quote(&name, tag->name, strlen(tag->name)) == 0)
			printf("%-12s %s revision %llu, %s, root %s\n", i ? "" : "tags", lm_buf_cstr(&name),
				(unsigned long long)tag->revision, lm_cli_time(tag->time_s).s,
				lm_hash_text(&tag->hash).s);
	}
	if (info->tag_count > info->tags_shown)
		printf("             and %zu older ones\n", info->tag_count - info->tags_shown);
}

static void print_text(const struct info *info)
{
	const struct lm_repo_source_manifest *s = &info->signed_manifest;
	const struct lm_manifest *m = &s->manifest;
	bool valid = s->verdict == LM_VALID;
	printf("repository   %s\n"
	       "%s    %s\n"
	       "signatures   %s%s%s\n"
	       "revision     %llu, published %s\n"
	       "root hash    %s\n"
	       "ttl          %llu s\n",
		info->source.fqrn, info->source.remote ? "servers  " : "directory", info->source.where,
		lm_verdict_name(s->verdict), valid ? "" : ": ", valid ? "" : s->reason.msg,
		(unsigned long long)m->revision, lm_cli_time(m->published_s).s, lm_hash_text(&m->catalog).s,
		(unsigned long long)m->ttl_s);
	print_whitelist(info);
	print_counters(info);
	print_tags(info);
}

static json_t *whitelist_json(const struct info *info)
{
	if (!info->have_whitelist)
		return json_pack("{s:o}", "error", lm_cli_text_json(info->whitelist_err.msg));
	json_t *fingerprints = json_array();
	for (size_t i = 0; i < info->whitelist.count; i++)
		if (json_array_append_new(fingerprints, json_string(lm_hash_text(&info->whitelist.fingerprints[i]).s)) <
			0)
			break;
	return json_pack(
		"{s:s, s:o}", "expires", lm_cli_time(info->whitelist.expires_s).s, "fingerprints", fingerprints);
}

static json_t *content_json(const struct info *info)
{
	const struct lm_counters *c = &info->counters;
	if (!info->have_counters)
		return json_pack("{s:o}", "error", lm_cli_text_json(info->catalog_err.msg));
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "entries", (json_int_t)entries(c), "files",
		(json_int_t)c->regular, "directories", (json_int_t)c->dir, "symlinks", (json_int_t)c->symlink,
		"special", (json_int_t)c->special, "bytes", (json_int_t)c->file_size, "nested_catalogs",
		(json_int_t)c->nested);
}

static json_t *tags_json(const struct info *info)
{
	if (info->history_err.code < 0)
		return json_pack("{s:o}", "error", lm_cli_text_json(info->history_err.msg));
	json_t *list = json_array();
	for (size_t i = 0; i < info->tags_shown; i++) {
		const struct tag *tag = &info->tags[i];
		json_t *item = json_pack("{s:o, s:I, s:s, s:s}", "name", lm_cli_text_json(tag->name), "revision",
			(json_int_t)tag->revision, "time", lm_cli_time(tag->time_s).s, "root_hash",
			lm_hash_text(&tag->hash).s);
		if (item && json_array_append_new(list, item) < 0)
			break;
	}
	return json_pack("{s:o, s:I}", "newest", list, "count", (json_int_t)info->tag_count);
}

static int print_json(const struct info *info)
{
	const struct lm_repo_source_manifest *s = &info->signed_manifest;
	const struct lm_manifest *m = &s->manifest;
	json_t *root = json_pack("{s:s, s:o, s:{s:s, s:o*}, s:I, s:s, s:s, s:I, s:o, s:o, s:o}", "repository",
		info->source.fqrn, info->source.remote ? "servers" : "directory", lm_cli_text_json(info->source.where),
		"signatures", "verdict", lm_verdict_name(s->verdict), "reason",
		s->verdict == LM_VALID ? NULL : lm_cli_text_json(s->reason.msg), "revision", (json_int_t)m->revision,
		"published", lm_cli_time(m->published_s).s, "root_hash", lm_hash_text(&m->catalog).s, "ttl_s",
		(json_int_t)m->ttl_s, "whitelist", whitelist_json(info), "content", content_json(info), "tags",
		tags_json(info));
	int r = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
	json_decref(root);
	printf("\n");
	return r;
}

int lm_cmd_repo_info(int argc, char **argv)
{
	CLEANUP(info_done) struct info info = {0};
	struct lm_repo_source_options where = {0};
	struct lm_err err = LM_ERR_INIT;
	bool json = false;
	int code;
	const struct lm_cli_option options[] = {
		LM_REPO_SOURCE_OPTIONS(&where),
		{"json", NULL, "for programs", .flag = &json},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "WHERE [OPTION]...",
		.about = "Verifies a repository's signatures and shows what it is. Exit code 1 when they are not "
			 "valid.\n"
			 "WHERE is a NAME recorded here, a directory (with a slash: ./DIR), or URLs of servers.",
		.options = options,
		.min_words = 1,
		.max_words = 1,
		.words = "one WHERE is wanted: a NAME, a directory or a URL",
	};
	int at = lm_cli_parse(argc, argv, &syntax, &code);
	if (at < 0)
		return code;
	int r = lm_repo_source_open(argv[at], &where, &info.source, &err);
	if (r == 0)
		r = gather(&info, &err);
	if (r < 0)
		return lm_cli_fail(&err);
	if (!json)
		print_text(&info);
	else if (print_json(&info) < 0)
		return lm_cli_fail(&(struct lm_err){-ENOMEM, "out of memory"});
	return info.signed_manifest.verdict == LM_INVALID || !info.have_whitelist || !info.have_counters ||
			       info.history_err.code < 0
		       ? LM_EXIT_FAILED
		       : LM_EXIT_OK;
}
