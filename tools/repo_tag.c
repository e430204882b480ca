/* lamella repo tag: tags of a repository, and going back to one. */
#include "repo/tags.h"

#include "base/str.h"
#include "common.h"
#include "repo.h"
#include "source.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* What it takes to change a repository. */
struct publisher {
	struct lm_repo_record record;
	struct lm_repo_keys keys;
	struct lm_storage *storage;
};

struct where {
	const char *storage, *s3_config, *keys;
};
#define WHERE_OPTIONS(w)                                                                                     \
	{"storage", "DIR", "the repository is DIR/cvmfs/NAME (default: as recorded by `lamella repo init`)", \
		.text = &(w)->storage},                                                                      \
		LM_S3_CONFIG_OPTION(&(w)->s3_config),                                                        \
	{                                                                                                    \
		"keys", "DIR", "where NAME.key and NAME.crt are (default: as recorded)", .text = &(w)->keys  \
	}

static void publisher_done(struct publisher *p)
{
	lm_storage_free(p->storage);
	lm_repo_keys_done(&p->keys);
	lm_repo_record_done(&p->record);
}

static int publisher_open(const char *name, const struct where *where, struct publisher *ret, struct lm_err *err)
{
	int r = lm_repo_record_load(name, where->storage, where->keys, &ret->record, err);
	if (r == 0 && !ret->record.keys)
		r = lm_err_set(err, -EINVAL, "the manifest is signed anew: give --keys DIR with %s.key and %s.crt",
			name, name);
	if (r == 0)
		r = lm_repo_keys_load(ret->record.keys, ret->record.name, &ret->keys, err);
	return r < 0 ? r : lm_repo_record_open(&ret->record, where->s3_config, false, &ret->storage, err);
}

/*
 * add
 */

static int parse_root(void *arg, const char *value, struct lm_err *err)
{
	return lm_hash_parse(value, strlen(value), arg, NULL) < 0
		       ? lm_err_set(err, -EINVAL, "--root %s: the hash of a root catalog is wanted", value)
		       : 0;
}

static int parse_revision(void *arg, const char *value, struct lm_err *err)
{
	struct lm_tag_request *request = arg;
	request->has_revision = true;
	return lm_str_u64(value, strlen(value), &request->revision) < 0
		       ? lm_err_set(err, -EINVAL, "--revision %s: a number is wanted", value)
		       : 0;
}

static int run_add(int argc, char **argv)
{
	CLEANUP(publisher_done) struct publisher publisher = {0};
	struct lm_tag_request request = {0};
	struct lm_history_root root;
	struct where where = {0};
	struct lm_err err = LM_ERR_INIT;
	int code;
	const struct lm_cli_option options[] = {
		{"description", "TEXT", "one line about it", .text = &request.description},
		{"root", "HASH", "of the root catalog of the revision to name (default: the current one)",
			.parse = parse_root, .parse_arg = &request.root},
		{"revision", "N", "the number of the revision to name", .parse = parse_revision, .parse_arg = &request},
		WHERE_OPTIONS(&where),
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "NAME TAG [OPTION]...",
		.about = "Names a revision: clients can mount it by that name, and garbage collection keeps it.",
		.options = options,
		.min_words = 2,
		.max_words = 2,
		.words = "NAME and TAG are wanted",
	};
	int at = lm_cli_parse(argc, argv, &syntax, &code);
	if (at < 0)
		return code;
	request.name = argv[at + 1];
	int r = publisher_open(argv[at], &where, &publisher, &err);
	if (r == 0)
		r = lm_repo_tag_add(publisher.storage, &publisher.keys, publisher.record.name, &request, &root, &err);
	if (r < 0)
		return lm_cli_fail(&err);
	printf("Tag %s: revision %" PRIu64 ", root %s\n", request.name, root.revision, lm_hash_text(&root.hash).s);
	return LM_EXIT_OK;
}

/*
 * remove
 */

static int run_remove(int argc, char **argv)
{
	CLEANUP(publisher_done) struct publisher publisher = {0};
	struct where where = {0};
	struct lm_err err = LM_ERR_INIT;
	int code;
	const struct lm_cli_option options[] = {WHERE_OPTIONS(&where), {0}};
	const struct lm_cli_syntax syntax = {
		.synopsis = "NAME TAG... [OPTION]...",
		.about =
			"Removes tags, all of them or none. What no tag names may go with the next garbage collection.",
		.options = options,
		.min_words = 2,
		.max_words = -1,
		.words = "NAME and at least one TAG are wanted",
	};
	int at = lm_cli_parse(argc, argv, &syntax, &code);
	if (at < 0)
		return code;
	int r = publisher_open(argv[at], &where, &publisher, &err);
	if (r == 0)
		r = lm_repo_tags_remove(publisher.storage, &publisher.keys, publisher.record.name,
			(const char *const *)argv + at + 1, (size_t)(argc - at - 1), &err);
	return r < 0 ? lm_cli_fail(&err) : LM_EXIT_OK;
}

/*
 * rollback
 */

static int run_rollback(int argc, char **argv)
{
	CLEANUP(publisher_done) struct publisher publisher = {0};
	struct lm_manifest manifest;
	struct where where = {0};
	struct lm_err err = LM_ERR_INIT;
	int code;
	const struct lm_cli_option options[] = {WHERE_OPTIONS(&where), {0}};
	const struct lm_cli_syntax syntax = {
		.synopsis = "NAME [TAG] [OPTION]...",
		.about =
			"Publishes the content of a tagged revision as a new one. All tags stay, so it can be undone:\n"
			"without TAG it is trunk-previous, the revision before the current one.",
		.options = options,
		.min_words = 1,
		.max_words = 2,
		.words = "NAME and, if need be, one TAG are wanted",
	};
	int at = lm_cli_parse(argc, argv, &syntax, &code);
	if (at < 0)
		return code;
	const char *tag = argc - at == 2 ? argv[at + 1] : LM_TAG_PREVIOUS;
	int r = publisher_open(argv[at], &where, &publisher, &err);
	if (r == 0)
		r = lm_repo_tag_rollback(
			publisher.storage, &publisher.keys, publisher.record.name, tag, &manifest, &err);
	if (r < 0)
		return lm_cli_fail(&err);
	printf("Revision %" PRIu64 ", root %s\n", manifest.revision, lm_hash_text(&manifest.catalog).s);
	return LM_EXIT_OK;
}

/*
 * list
 */

static int print_tag(void *arg, const struct lm_tag *tag)
{
	CLEANUP(lm_buf_done) struct lm_buf name = LM_BUF(4 * strlen(tag->name) + 2);
	CLEANUP(lm_buf_done) struct lm_buf description = LM_BUF(4 * strlen(tag->description) + 2);
	int r = lm_str_quote(&name, tag->name, strlen(tag->name));
	if (r == 0)
		r = lm_str_quote(&description, tag->description, strlen(tag->description));
	if (r < 0)
		return r;
	printf("%-10" PRIu64 " %s  %s  %s  %s\n", tag->revision, lm_cli_time(tag->time_s).s, lm_hash_text(&tag->hash).s,
		lm_buf_cstr(&name), lm_buf_cstr(&description));
	return 0;
}

static int append_tag(void *arg, const struct lm_tag *tag)
{
	json_t *item = json_pack("{s:o, s:I, s:s, s:s, s:I, s:o, s:o}", "name", lm_cli_text_json(tag->name), "revision",
		(json_int_t)tag->revision, "time", lm_cli_time(tag->time_s).s, "root_hash", lm_hash_text(&tag->hash).s,
		"size", (json_int_t)tag->size, "branch", lm_cli_text_json(tag->branch), "description",
		lm_cli_text_json(tag->description));
	return item && json_array_append_new(arg, item) == 0 ? 0 : -ENOMEM;
}

static int list_text(const char *history, struct lm_err *err)
{
	printf("%-10s %-20s  %-40s  %s\n", "revision", "time", "root", "name, description");
	return history ? lm_history_each(history, print_tag, NULL, err) : 0;
}

static int list_json(const struct lm_repo_source *source, const struct lm_repo_source_manifest *signed_manifest,
	const char *history, struct lm_err *err)
{
	json_t *list = json_array();
	int r = !list ? -ENOMEM : history ? lm_history_each(history, append_tag, list, err) : 0;
	json_t *root = json_pack("{s:s, s:s, s:o}", "repository", source->fqrn, "signatures",
		lm_verdict_name(signed_manifest->verdict), "tags", list);
	if (r == 0)
		r = root && json_dumpf(root, stdout, JSON_INDENT(2)) == 0 ? 0 : lm_err_oom(err);
	json_decref(root);
	printf("\n");
	return r;
}

static int list(const char *place, const struct lm_repo_source_options *options, bool json, struct lm_err *err)
{
	CLEANUP(lm_repo_source_done) struct lm_repo_source source = {0};
	CLEANUP(lm_repo_source_dropp) char *history = NULL;
	struct lm_repo_source_manifest signed_manifest;
	int r = lm_repo_source_open(place, options, &source, err);
	if (r == 0)
		r = lm_repo_source_manifest(&source, &signed_manifest, err);
	if (r < 0)
		return r;
	if (signed_manifest.verdict != LM_VALID)
		lm_cli_error("signatures %s: %s", lm_verdict_name(signed_manifest.verdict), signed_manifest.reason.msg);
	if (signed_manifest.manifest.history.set)
		r = lm_repo_source_database(
			&source, &signed_manifest.manifest.history, LM_OBJECT_HISTORY, &history, err);
	if (r == 0)
		r = json ? list_json(&source, &signed_manifest, history, err) : list_text(history, err);
	return r < 0 ? r : signed_manifest.verdict == LM_INVALID;
}

static int run_list(int argc, char **argv)
{
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
		.about = "Lists the tags, newest revision first. Exit code 1 when the signatures are not valid.\n"
			 "WHERE is a NAME recorded here, a directory (with a slash: ./DIR), or URLs of servers.",
		.options = options,
		.min_words = 1,
		.max_words = 1,
		.words = "one WHERE is wanted: a NAME, a directory or a URL",
	};
	int at = lm_cli_parse(argc, argv, &syntax, &code);
	if (at < 0)
		return code;
	int r = list(argv[at], &where, json, &err);
	return r < 0 ? lm_cli_fail(&err) : r > 0 ? LM_EXIT_FAILED : LM_EXIT_OK;
}

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *usage;
} parts[] = {
	{"add", run_add, "NAME TAG           name a revision"},
	{"list", run_list, "WHERE             list the tags"},
	{"remove", run_remove, "NAME TAG...     remove tags"},
	{"rollback", run_rollback, "NAME [TAG]    publish what a tag names as a new revision"},
};

static int print_help(void)
{
	printf("Usage:\n");
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		printf("  lamella repo tag %s %s\n", parts[i].name, parts[i].usage);
	printf("\n`lamella repo tag PART --help` says more.\n");
	return LM_EXIT_OK;
}

int lm_cmd_repo_tag(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
		return print_help();
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		if (strcmp(name, parts[i].name) != 0)
			continue;
		char full_name[40];
		snprintf(full_name, sizeof(full_name), "%s %s", argv[0], name);
		argv[1] = full_name;
		return parts[i].run(argc - 1, argv + 1);
	}
	lm_cli_error("repo tag: \"%s\" is none of its parts", name);
	return lm_cli_usage(argv[0]);
}
