#include "inspect.h"

#include "base/file.h"
#include "base/str.h"
#include "commands.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const struct part {
	const char *name, *usage;
	int (*command)(int argc, char **argv);
	/* or, where the part has no options of its own */
	lm_inspect_fn *show;
	const char *about;
} parts[] = {
	{"manifest", "WHERE             the manifest, and whether to believe it", .show = lm_inspect_show_manifest,
		.about = "Shows a manifest, and whether a client would believe it. Exit code 1 when not."},
	{"whitelist", "WHERE            which certificates may sign, until when", .show = lm_inspect_show_whitelist,
		.about = "Shows which certificates may sign manifests, until when, and whether a client would believe "
			 "it.\n"
			 "Exit code 1 when not."},
	{"certificate", "WHERE          what signs the manifest", .show = lm_inspect_show_certificate,
		.about = "Shows the certificate that signs the manifest. Clients look at nothing of it but its "
			 "fingerprint."},
	{"catalog", "WHERE [PATH]       properties, statistics, nested catalogs, rows",
		.command = lm_cmd_inspect_catalog},
	{"object", "WHERE HASH[SUFFIX]  presence, size, hash, content", .command = lm_cmd_inspect_object},
	{"history", "WHERE              the tags", .show = lm_inspect_show_history,
		.about = "Shows the tags of a repository, newest revision first."},
	{"reflog", "WHERE               every root ever published", .show = lm_inspect_show_reflog,
		.about = "Shows what publishers noted of all they ever published, and whether the manifest knows this "
			 "very\n"
			 "file. Clients do not read it."},
	{"metainfo", "WHERE             what the repository says about itself", .show = lm_inspect_show_metainfo,
		.about = "Shows the JSON document in which a repository says who keeps it, and the like."},
	{"tree", "WHERE                 a listing of everything, with hashes of contents",
		.command = lm_cmd_inspect_tree},
};

static int print_help(void)
{
	printf("Usage:\n");
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		printf("  lamella inspect %s %s\n", parts[i].name, parts[i].usage);
	printf("\nShows what a CVMFS repository holds. WHERE is a NAME recorded here, a directory (with a slash), or\n"
	       "URLs of servers. `lamella inspect PART --help` says more.\n");
	return LM_EXIT_OK;
}

static int show_part(struct lm_inspect *i, struct lm_err *err)
{
	lm_out_begin(&i->out, i->json);
	return i->show(i, err);
}

static int run_part(const struct part *part, int argc, char **argv)
{
	struct lm_inspect i = {.show = part->show};
	const struct lm_cli_option options[] = {LM_INSPECT_OPTIONS(&i), {0}};
	const struct lm_cli_syntax syntax = {
		.synopsis = "WHERE [OPTION]...",
		.about = part->about,
		.options = options,
		.min_words = 1,
		.max_words = 1,
		.words = "one WHERE is wanted: a NAME, a directory or URLs",
	};
	return lm_inspect_run(&i, argc, argv, &syntax, show_part);
}

int lm_cmd_inspect(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
		return print_help();
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		if (strcmp(name, parts[i].name) != 0)
			continue;
		char full_name[48];
		snprintf(full_name, sizeof(full_name), "lamella inspect %s", name);
		argv[1] = full_name;
		return parts[i].command ? parts[i].command(argc - 1, argv + 1)
					: run_part(&parts[i], argc - 1, argv + 1);
	}
	lm_cli_error("inspect: \"%s\" is none of its parts", name);
	return lm_cli_usage(argv[0]);
}

int lm_inspect_run(struct lm_inspect *i, int argc, char **argv, const struct lm_cli_syntax *syntax, lm_inspect_fn *fn)
{
	struct lm_err err = LM_ERR_INIT;
	int code, at = lm_cli_parse(argc, argv, syntax, &code);
	if (at < 0)
		return code;
	i->words = argv + at + 1;
	i->word_count = argc - at - 1;
	int r = lm_repo_source_open(argv[at], &i->where, &i->source, &err);
	if (r == 0)
		r = fn(i, &err);
	if (i->out.depth > 0)
		lm_out_end(&i->out, r < 0 ? &err : NULL);
	lm_repo_source_done(&i->source);
	return r < 0 ? lm_cli_fail(&err) : i->bad ? LM_EXIT_FAILED : LM_EXIT_OK;
}

void lm_inspect_complain(struct lm_inspect *i, const char *fmt, ...)
{
	struct lm_err err = LM_ERR_INIT;
	va_list args;
	va_start(args, fmt);
	lm_err_vset(&err, -EPROTO, fmt, args);
	va_end(args);
	lm_cli_error("%s", err.msg);
	i->bad = true;
}

/* --- where, and whether to believe it --- */

void lm_inspect_show_source(struct lm_inspect *i)
{
	lm_out_word(&i->out, "repository", "%s", i->source.fqrn);
	lm_out_text(&i->out, i->source.remote ? "servers" : "directory", i->source.where, strlen(i->source.where));
}

void lm_inspect_show_verdict(struct lm_inspect *i, enum lm_verdict verdict, const struct lm_err *reason)
{
	lm_out_word(&i->out, "signatures", "%s", lm_verdict_name(verdict));
	if (verdict != LM_VALID)
		lm_out_sentence(&i->out, "reason", lm_err_text(reason));
	i->bad |= verdict == LM_INVALID;
}

int lm_inspect_manifest(struct lm_inspect *i, struct lm_manifest *ret, struct lm_err *err)
{
	struct lm_repo_source_manifest m = {0};
	int r = lm_repo_source_manifest(&i->source, &m, err);
	if (r < 0)
		return r;
	lm_inspect_show_source(i);
	lm_inspect_show_verdict(i, m.verdict, &m.reason);
	*ret = m.manifest;
	return 0;
}

/* --- which root --- */

static int find_tagged(
	struct lm_inspect *i, const struct lm_manifest *manifest, struct lm_hash *ret, struct lm_err *err)
{
	CLEANUP(lm_repo_source_dropp) char *history = NULL;
	struct lm_history_root root = {0};
	int64_t time_s = 0;
	int r = i->date ? lm_cli_time_parse(i->date, &time_s, err) : 0;
	if (r == 0 && !manifest->history.set)
		r = lm_err_set(err, -ENOENT, "%s has no history, so no tags", i->source.fqrn);
	if (r == 0)
		r = lm_repo_source_database(&i->source, &manifest->history, LM_OBJECT_HISTORY, &history, err);
	if (r == 0)
		r = i->tag ? lm_history_find(history, i->tag, &root, err) : lm_history_at(history, time_s, &root, err);
	if (r == 0)
		*ret = root.hash;
	return r;
}

static int from_manifest(struct lm_inspect *i, bool show, struct lm_hash *ret, struct lm_err *err)
{
	struct lm_repo_source_manifest m = {0};
	int r = lm_repo_source_manifest(&i->source, &m, err);
	if (r < 0)
		return r;
	if (show) {
		lm_inspect_show_source(i);
		lm_inspect_show_verdict(i, m.verdict, &m.reason);
	} else if (m.verdict == LM_INVALID) {
		lm_inspect_complain(i, "signatures are NOT VALID: %s", m.reason.msg);
	} else if (m.verdict == LM_UNCHECKED) {
		lm_cli_say("signatures are not checked: %s", m.reason.msg);
	}
	if (i->tag || i->date)
		return find_tagged(i, &m.manifest, ret, err);
	*ret = m.manifest.catalog;
	return 0;
}

int lm_inspect_root(struct lm_inspect *i, bool show, struct lm_hash *ret, struct lm_err *err)
{
	struct lm_err by_hash = LM_ERR_INIT;
	if (!!i->tag + !!i->date + !!i->root > 1)
		return lm_err_set(err, -EINVAL, "--tag, --date and --root exclude each other");
	if (!i->root)
		return from_manifest(i, show, ret, err);
	if (lm_hash_parse(i->root, strlen(i->root), ret, NULL) < 0)
		return lm_err_set(err, -EINVAL, "--root: \"%s\" is no hash", i->root);
	lm_err_set(&by_hash, -ENOTSUP, "the root is given by its hash");
	if (show) {
		lm_inspect_show_source(i);
		lm_inspect_show_verdict(i, LM_UNCHECKED, &by_hash);
	}
	return 0;
}

int lm_inspect_fetch(struct lm_inspect *i, const struct lm_hash *hash, enum lm_object_kind kind, int *ret_fd,
	uint64_t *ret_size, struct lm_err *err)
{
	char path[LM_OBJECT_PATH_MAX];
	struct stat st;
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, lm_tmp_dir(), err);
	if (fd < 0)
		return fd;
	int r = i->source.storage->ops->get_file(i->source.storage, lm_object_path(hash, kind, path), fd, err);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return lm_err_sys(err, -errno, "temporary file");
	*ret_size = (uint64_t)st.st_size;
	*ret_fd = STEAL_FD(fd);
	return 0;
}
