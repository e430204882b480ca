#include "base/file.h"
#include "base/str.h"
#include "common.h"
#include "repo.h"
#include "repo/publish.h"
#include "repo/sign.h"
#include "source.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { TTL_MAX_S = 7 * 24 * 3600 };

struct options {
	const char *name, *storage, *s3_config, *keys, *meta;
	uint64_t ttl_s, whitelist_days;
};

/* 0 go on, else -1 with *ret_code set. */
static int parse_options(int argc, char **argv, struct options *o, int *ret_code)
{
	const struct lm_cli_option options[] = {
		{"storage", "DIR",
			"the root of a web server, or s3://BUCKET/PREFIX: the repository comes to DIR/cvmfs/NAME",
			.text = &o->storage},
		LM_S3_CONFIG_OPTION(&o->s3_config),
		{"keys", "DIR",
			"where its keys are kept; existing ones of that name are used. Keep it private:\n"
			"nodes need NAME.pub only",
			.text = &o->keys},
		{"ttl", "SECONDS", "how long clients may wait before they look for a new revision (default 240)",
			.number = &o->ttl_s, .min = 1, .max = TTL_MAX_S},
		{"whitelist-days", "N", "how long the whitelist is valid (default 30)", .number = &o->whitelist_days,
			.min = 1, .max = LM_WHITELIST_DAYS_MAX},
		{"meta", "FILE", "JSON object that tells people about the repository: administrator, email, url...",
			.text = &o->meta},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "NAME --storage DIR --keys DIR [OPTION]...",
		.about = "Makes a signed, empty repository that any CVMFS client can mount.",
		.options = options,
		.min_words = 1,
		.max_words = 1,
		.words = "NAME, --storage DIR and --keys DIR are wanted",
	};
	int at = lm_cli_parse(argc, argv, &syntax, ret_code);
	if (at < 0)
		return -1;
	o->name = argv[at];
	if (o->storage && o->keys)
		return 0;
	lm_cli_error("%s", syntax.words);
	*ret_code = lm_cli_usage(argv[0]);
	return -1;
}

/* Refused here, before anything was made: what is published is for programs, too. */
static int read_meta(const char *path, struct lm_buf *ret, struct lm_err *err)
{
	json_error_t why;
	int r = lm_file_read(AT_FDCWD, path, ret, err);
	if (r < 0)
		return r;
	json_t *root = json_loadb(lm_buf_cstr(ret), ret->len, 0, &why);
	if (!root)
		r = lm_err_set(err, -EINVAL, "%s:%d: %s", path, why.line, why.text);
	else if (!json_is_object(root))
		r = lm_err_set(err, -EINVAL, "%s is no JSON object", path);
	json_decref(root);
	return r;
}

/*
 * What this run has made so far, taken back in reverse unless the run succeeds.
 */
struct made {
	struct {
		char *path;
		bool tree; /* remove with all that is below it, else only when empty (directories) or as a file */
	} items[12];
	size_t count;
	bool keep;
};

static int note(struct made *made, bool tree, const char *path, struct lm_err *err)
{
	char *copy = strdup(path);
	if (!copy)
		return lm_err_oom(err);
	made->items[made->count].path = copy;
	made->items[made->count++].tree = tree;
	return 0;
}

static void undo(struct made *made)
{
	while (made->count > 0) {
		char *path = made->items[--made->count].path;
		struct lm_err err = LM_ERR_INIT;
		if (!made->keep && made->items[made->count].tree && lm_remove_tree(AT_FDCWD, path, &err) < 0)
			lm_cli_error("left behind: %s", err.msg);
		else if (!made->keep && !made->items[made->count].tree)
			(void)remove(path); /* a directory that others have put files into by now stays */
		free(path);
	}
}

/* mkdir -p that remembers the directory if it was not there. tree: all that will come into it is ours as well. */
static int make_dir(struct made *made, const char *path, mode_t mode, bool tree, struct lm_err *err)
{
	int r = access(path, F_OK) < 0 && errno == ENOENT ? note(made, tree, path, err) : 0;
	return r < 0 ? r : lm_mkdir_p(AT_FDCWD, path, mode, err);
}

static int make_dirs(struct made *made, const struct lm_repo_record *record, struct lm_err *err)
{
	CLEANUP(lm_freep) char *parent = lm_str_printf("%s/cvmfs", record->storage);
	if (!parent)
		return lm_err_oom(err);
	if (lm_repo_record_remote(record))
		return make_dir(made, record->keys, 0700, false, err);
	int r = make_dir(made, record->storage, 0755, false, err);
	if (r == 0)
		r = make_dir(made, parent, 0755, false, err);
	if (r == 0)
		r = make_dir(made, record->dir, 0755, true, err);
	return r < 0 ? r : make_dir(made, record->keys, 0700, false, err);
}

static int make_keys(
	struct made *made, const struct lm_repo_record *record, struct lm_repo_keys *ret, struct lm_err *err)
{
	static const char *const suffixes[] = {"key", "crt", "masterkey", "pub"};
	int r = lm_repo_keys_make(record->keys, record->name, ret, err);
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(suffixes); i++) {
		CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s.%s", record->keys, record->name, suffixes[i]);
		r = path ? note(made, false, path, err) : lm_err_oom(err);
	}
	return r;
}

/* Keys that are there are used: a repository may be made anew under the key that nodes know. */
static int get_keys(struct made *made, const struct lm_repo_record *record, struct lm_repo_keys *ret, bool *ret_new,
	struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s.key", record->keys, record->name);
	if (!path)
		return lm_err_oom(err);
	*ret_new = access(path, F_OK) < 0 && errno == ENOENT;
	if (*ret_new)
		return make_keys(made, record, ret, err);
	int r = lm_repo_keys_load(record->keys, record->name, ret, err);
	if (r == 0 && !ret->master)
		return lm_err_set(
			err, -ENOENT, "%s/%s.masterkey is wanted to sign the whitelist", record->keys, record->name);
	return r;
}

/* As an absolute path, since later commands are run elsewhere. */
static int record_s3_config(const struct options *o, struct lm_repo_record *record, struct lm_err *err)
{
	if (!o->s3_config)
		return 0;
	if (!lm_repo_record_remote(record))
		return lm_err_set(err, -EINVAL, "--s3-config goes with --storage s3://BUCKET/PREFIX");
	record->s3_config = realpath(o->s3_config, NULL);
	return record->s3_config ? 0 : lm_err_sys(err, -errno, "%s", o->s3_config);
}

/* A record of that name that leads to a living repository elsewhere is not replaced. */
static int check_record(const struct lm_repo_record *record, struct lm_err *err)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record old = {0};
	CLEANUP(lm_freep) char *path = NULL, *manifest = NULL;
	struct lm_err none = LM_ERR_INIT;
	int r = lm_repo_record_load(record->name, NULL, NULL, &old, &none);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return lm_err_set(err, r, "%s", none.msg);
	r = lm_repo_record_path(record->name, &path, err);
	if (r < 0)
		return r;
	manifest = lm_str_printf("%s/" LM_MANIFEST_NAME, old.dir);
	if (!manifest)
		return lm_err_oom(err);
	bool lives = lm_repo_record_remote(&old) || access(manifest, F_OK) == 0;
	if (strcmp(old.storage, record->storage) != 0 && lives)
		return lm_err_set(err, -EEXIST, "%s is recorded already, with storage %s (remove %s to forget that)",
			record->name, old.storage, path);
	return 0;
}

static bool is_empty(const char *dir)
{
	struct dirent **entries = NULL;
	int n = scandir(dir, &entries, NULL, NULL);
	for (int i = 0; i < n; i++)
		free(entries[i]);
	free(entries);
	return n >= 0 && n <= 2; /* . and .. */
}

/* A directory that is there already must be empty: nobody else's files get mixed with a repository's. */
static int check_target(const struct lm_repo_record *record, struct lm_err *err)
{
	if (lm_repo_record_remote(record))
		return 0; /* lm_repo_create() looks for a manifest; objects left over from a failure do no harm */
	CLEANUP(lm_freep) char *manifest = lm_str_printf("%s/" LM_MANIFEST_NAME, record->dir);
	if (!manifest)
		return lm_err_oom(err);
	if (access(manifest, F_OK) == 0)
		return lm_err_set(err, -EEXIST, "%s holds a repository already", record->dir);
	if (access(record->dir, F_OK) == 0 && !is_empty(record->dir))
		return lm_err_set(err, -EEXIST,
			"%s is not empty, yet holds no finished repository: remove what is there first", record->dir);
	return 0;
}

/* What lies below the storage is given to everybody who asks. */
static int check_keys_private(const struct lm_repo_record *record, struct lm_err *err)
{
	if (lm_repo_record_remote(record))
		return 0;
	CLEANUP(lm_freep) char *storage = realpath(record->storage, NULL);
	CLEANUP(lm_freep) char *keys = realpath(record->keys, NULL);
	if (!storage || !keys)
		return lm_err_sys(err, -errno, "%s", storage ? record->keys : record->storage);
	size_t len = strlen(storage);
	if (strncmp(keys, storage, len) == 0 && (keys[len] == '/' || keys[len] == '\0'))
		return lm_err_set(err, -EPERM, "keys in %s would be served to everybody with the storage %s",
			record->keys, record->storage);
	return 0;
}

static void say_made(
	const struct lm_repo_record *r, const struct options *o, bool new_keys, const struct lm_manifest *m)
{
	bool remote = lm_repo_record_remote(r);
	printf("Repository %s, revision %llu\n"
	       "  storage    %s\n"
	       "  keys       %s (%s; keep this directory private)\n"
	       "  whitelist  valid for %llu days\n\n"
	       "Next:\n"
	       "  lamella convert SOURCE --repo %s    put an image into it\n"
	       "%s%s%s"
	       "  copy %s/%s.pub to the nodes: it is what they check signatures with\n",
		r->name, (unsigned long long)m->revision, r->dir, r->keys,
		new_keys ? "made now" : "those that were there", (unsigned long long)o->whitelist_days, r->name,
		remote ? "  let everybody read what is below " : "  lamella serve ", r->storage,
		remote ? ": the bucket is its web server\n"
		       : "    serve it over HTTP; or a web server with this root\n",
		r->keys, r->name);
}

/* meta: JSON text, NULL: the default. */
static int make_repository(const struct options *o, const struct lm_repo_record *record, const char *meta,
	struct made *made, struct lm_err *err)
{
	CLEANUP(lm_repo_keys_done) struct lm_repo_keys keys = {0};
	CLEANUP(lm_storage_freep) struct lm_storage *storage = NULL;
	struct lm_manifest manifest;
	bool new_keys = false;
	int r = make_dirs(made, record, err);
	if (r == 0)
		r = check_keys_private(record, err);
	if (r == 0)
		r = get_keys(made, record, &keys, &new_keys, err);
	if (r == 0)
		r = lm_repo_record_open(record, o->s3_config, true, &storage, err);
	if (r == 0)
		r = lm_repo_create(
			storage, &keys, record->name, (unsigned)o->whitelist_days, o->ttl_s, meta, &manifest, err);
	if (r == 0)
		r = lm_repo_record_save(record, err);
	if (r < 0)
		return r;
	made->keep = true;
	say_made(record, o, new_keys, &manifest);
	return 0;
}

int lm_cmd_repo_init(int argc, char **argv)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record record = {0};
	CLEANUP(undo) struct made made = {0};
	CLEANUP(lm_buf_done) struct lm_buf meta = LM_BUF(LM_METAINFO_MAX);
	struct options o = {.ttl_s = 240, .whitelist_days = 30};
	struct lm_err err = LM_ERR_INIT;
	int code;
	if (parse_options(argc, argv, &o, &code) < 0)
		return code;
	if (!lm_fqrn_valid(o.name)) {
		lm_cli_error("\"%s\" is no name of a repository", o.name);
		return LM_EXIT_USAGE;
	}
	int r = o.meta ? read_meta(o.meta, &meta, &err) : 0;
	if (r == 0)
		r = lm_repo_record_load(o.name, o.storage, o.keys, &record, &err);
	if (r == 0)
		r = record_s3_config(&o, &record, &err);
	if (r == 0)
		r = check_record(&record, &err);
	if (r == 0)
		r = check_target(&record, &err);
	if (r == 0)
		r = make_repository(&o, &record, o.meta ? lm_buf_cstr(&meta) : NULL, &made, &err);
	return r < 0 ? lm_cli_fail(&err) : LM_EXIT_OK;
}
