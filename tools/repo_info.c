#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "common.h"
#include "repo.h"
#include "repo/history.h"
#include "repo/publish.h"
#include "repo/trust.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { PUBLIC_KEY_MAX = 64 << 10, TAGS_MAX = 20 };
#define DATABASE_MAX ((uint64_t)4 << 30)

enum verdict { VALID, INVALID, UNCHECKED };
static const char *const verdict_names[] = {"valid", "invalid", "unchecked"};

struct tag {
	char name[64]; /* cut to that */
	struct lm_hash hash;
	uint64_t revision;
	int64_t time_s;
};

struct info {
	struct lm_repo_record record;
	struct lm_storage *storage;
	struct lm_manifest manifest;
	enum verdict verdict;
	struct lm_err reason; /* of a verdict that is not VALID */
	bool have_whitelist, have_counters;
	struct lm_whitelist whitelist;
	struct lm_counters counters;
	struct tag tags[TAGS_MAX]; /* the newest ones */
	size_t tag_count, tags_shown;
	struct lm_err whitelist_err, catalog_err, history_err; /* why not; history_err.code 0: read, or none is there */
};

static void info_done(struct info *info)
{
	lm_storage_free(info->storage);
	lm_repo_record_done(&info->record);
}

/* For lm_trust_manifest(): the certificate object, or the whitelist. */
static int fetch_signed(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err)
{
	struct lm_storage *storage = arg;
	char path[LM_OBJECT_PATH_MAX] = LM_WHITELIST_NAME;
	if (certificate && certificate->set)
		lm_object_path(certificate, LM_OBJECT_CERTIFICATE, path);
	return storage->ops->get(storage, path, ret, err);
}

static int load_public_key(const struct lm_repo_record *record, struct lm_key **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(PUBLIC_KEY_MAX);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s.pub", record->keys, record->name);
	if (!path)
		return lm_err_oom(err);
	int r = lm_file_read(AT_FDCWD, path, &pem, err);
	if (r == 0)
		r = lm_key_parse_public(lm_buf_cstr(&pem), pem.len, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "public key") : 0;
}

static void verify(struct info *info, const struct lm_buf *text)
{
	CLEANUP(lm_key_freep) struct lm_key *key = NULL;
	struct lm_manifest trusted;
	info->verdict = UNCHECKED;
	if (!info->record.keys) {
		lm_err_set(&info->reason, -ENOENT, "no directory with %s.pub is known: give --keys DIR",
			info->record.name);
		return;
	}
	if (load_public_key(&info->record, &key, &info->reason) < 0)
		return;
	struct lm_trust trust = {.fqrn = info->record.name, .keys = &key, .key_count = 1, .now_s = lm_wall_s()};
	int r = lm_trust_manifest(
		&trust, (const char *)text->data, text->len, fetch_signed, info->storage, &trusted, &info->reason);
	info->verdict = r < 0 ? INVALID : VALID;
}

static int read_whitelist(struct info *info, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	int r = info->storage->ops->get(info->storage, LM_WHITELIST_NAME, &text, err);
	return r < 0 ? r : lm_whitelist_parse(lm_buf_cstr(&text), text.len, &info->whitelist, err);
}

static int write_sink(void *arg, const void *data, size_t len, struct lm_err *err)
{
	return lm_write_all(*(int *)arg, data, len, err);
}

static const char *tmp_dir(void)
{
	const char *dir = getenv("TMPDIR");
	return dir && *dir ? dir : "/tmp";
}

static void unlink_freep(char **path)
{
	if (*path && **path)
		unlink(*path);
	free(*path);
}

/* Unpacks the stored object in file `from` into file `to`, its hash checked. */
static int unpack_file(const struct lm_hash *hash, int from, int to, struct lm_err *err)
{
	CLEANUP(lm_unpack_freep) struct lm_unpack *unpack = NULL;
	CLEANUP(lm_freep) uint8_t *chunk = malloc(64 << 10);
	if (!chunk)
		return lm_err_oom(err);
	int r = lm_unpack_new(hash, LM_COMPRESSION_ZLIB, DATABASE_MAX, write_sink, &to, &unpack, err);
	off_t at = 0;
	for (ssize_t n = 1; r == 0 && n > 0; at += n) {
		n = pread(from, chunk, 64 << 10, at);
		if (n < 0)
			return lm_err_sys(err, -errno, "read");
		r = lm_unpack_feed(unpack, chunk, (size_t)n, err);
	}
	uint64_t size;
	return r < 0 ? r : lm_unpack_finish(unpack, &size, err);
}

/* A copy of a database object in a file of its own, since SQLite wants a name. It goes with *path. */
static int copy_database(
	struct info *info, const struct lm_hash *hash, enum lm_object_kind kind, char **path, struct lm_err *err)
{
	char object[LM_OBJECT_PATH_MAX];
	*path = lm_str_printf("%s/lamella.XXXXXX", tmp_dir());
	if (!*path)
		return lm_err_oom(err);
	CLEANUP(lm_closep) int fd = mkostemp(*path, O_CLOEXEC);
	if (fd < 0) {
		int r = lm_err_sys(err, -errno, "temporary file %s", *path);
		(*path)[0] = '\0'; /* nothing to remove */
		return r;
	}
	CLEANUP(lm_closep) int packed = lm_file_tmp(AT_FDCWD, tmp_dir(), err);
	if (packed < 0)
		return packed;
	int r = info->storage->ops->get_file(info->storage, lm_object_path(hash, kind, object), packed, err);
	if (r == 0)
		r = unpack_file(hash, packed, fd, err);
	return r < 0 ? lm_err_prefix(err, r, "object %s", object) : 0;
}

static int read_counters(struct info *info, struct lm_err *err)
{
	CLEANUP(unlink_freep) char *path = NULL;
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	struct lm_counters below;
	int r = copy_database(info, &info->manifest.catalog, LM_OBJECT_CATALOG, &path, err);
	if (r == 0)
		r = lm_catalog_open(path, "", &catalog, err);
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
	CLEANUP(unlink_freep) char *path = NULL;
	if (!info->manifest.history.set)
		return 0;
	int r = copy_database(info, &info->manifest.history, LM_OBJECT_HISTORY, &path, err);
	return r < 0 ? r : lm_history_each(path, keep_tag, info, err);
}

static int gather(struct info *info, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	int r = lm_storage_dir_open(info->record.dir, false, &info->storage, err);
	if (r == 0)
		r = info->storage->ops->get(info->storage, LM_MANIFEST_NAME, &text, err);
	if (r == 0)
		r = lm_manifest_parse(lm_buf_cstr(&text), text.len, &info->manifest, err);
	if (r < 0)
		return lm_err_prefix(err, r, "repository %s", info->record.name);
	verify(info, &text);
	info->have_whitelist = read_whitelist(info, &info->whitelist_err) == 0;
	info->have_counters = read_counters(info, &info->catalog_err) == 0;
	info->history_err.code = read_tags(info, &info->history_err);
	return 0;
}

struct time_text {
	char s[32];
};

static struct time_text utc(int64_t seconds)
{
	struct time_text text = {"unknown"};
	struct tm tm;
	time_t t = seconds;
	if (seconds != 0 && gmtime_r(&t, &tm))
		strftime(text.s, sizeof(text.s), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return text;
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
	printf("whitelist    %s %s\n", w->expires_s > lm_wall_s() ? "valid until" : "EXPIRED", utc(w->expires_s).s);
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
				(unsigned long long)tag->revision, utc(tag->time_s).s, lm_hash_text(&tag->hash).s);
	}
	if (info->tag_count > info->tags_shown)
		printf("             and %zu older ones\n", info->tag_count - info->tags_shown);
}

static void print_text(const struct info *info)
{
	const struct lm_manifest *m = &info->manifest;
	printf("repository   %s\n"
	       "directory    %s\n"
	       "signatures   %s%s%s\n"
	       "revision     %llu, published %s\n"
	       "root hash    %s\n"
	       "ttl          %llu s\n",
		info->record.name, info->record.dir, verdict_names[info->verdict], info->verdict == VALID ? "" : ": ",
		info->verdict == VALID ? "" : info->reason.msg, (unsigned long long)m->revision, utc(m->published_s).s,
		lm_hash_text(&m->catalog).s, (unsigned long long)m->ttl_s);
	print_whitelist(info);
	print_counters(info);
	print_tags(info);
}

/* Foreign text need not be UTF-8, which JSON insists on. */
static json_t *text_json(const char *text)
{
	CLEANUP(lm_buf_done) struct lm_buf quoted = LM_BUF(8 << 10);
	json_t *string = json_string(text);
	if (!string && lm_str_quote(&quoted, text, strlen(text)) == 0)
		string = json_string(lm_buf_cstr(&quoted));
	return string;
}

static json_t *whitelist_json(const struct info *info)
{
	if (!info->have_whitelist)
		return json_pack("{s:o}", "error", text_json(info->whitelist_err.msg));
	json_t *fingerprints = json_array();
	for (size_t i = 0; i < info->whitelist.count; i++)
		if (json_array_append_new(fingerprints, json_string(lm_hash_text(&info->whitelist.fingerprints[i]).s)) <
			0)
			break;
	return json_pack("{s:s, s:o}", "expires", utc(info->whitelist.expires_s).s, "fingerprints", fingerprints);
}

static json_t *content_json(const struct info *info)
{
	const struct lm_counters *c = &info->counters;
	if (!info->have_counters)
		return json_pack("{s:o}", "error", text_json(info->catalog_err.msg));
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "entries", (json_int_t)entries(c), "files",
		(json_int_t)c->regular, "directories", (json_int_t)c->dir, "symlinks", (json_int_t)c->symlink,
		"special", (json_int_t)c->special, "bytes", (json_int_t)c->file_size, "nested_catalogs",
		(json_int_t)c->nested);
}

static json_t *tags_json(const struct info *info)
{
	if (info->history_err.code < 0)
		return json_pack("{s:o}", "error", text_json(info->history_err.msg));
	json_t *list = json_array();
	for (size_t i = 0; i < info->tags_shown; i++) {
		const struct tag *tag = &info->tags[i];
		json_t *item = json_pack("{s:o, s:I, s:s, s:s}", "name", text_json(tag->name), "revision",
			(json_int_t)tag->revision, "time", utc(tag->time_s).s, "root_hash", lm_hash_text(&tag->hash).s);
		if (item && json_array_append_new(list, item) < 0)
			break;
	}
	return json_pack("{s:o, s:I}", "newest", list, "count", (json_int_t)info->tag_count);
}

static int print_json(const struct info *info)
{
	const struct lm_manifest *m = &info->manifest;
	json_t *root = json_pack("{s:s, s:o, s:{s:s, s:o*}, s:I, s:s, s:s, s:I, s:o, s:o, s:o}", "repository",
		info->record.name, "directory", text_json(info->record.dir), "signatures", "verdict",
		verdict_names[info->verdict], "reason", info->verdict == VALID ? NULL : text_json(info->reason.msg),
		"revision", (json_int_t)m->revision, "published", utc(m->published_s).s, "root_hash",
		lm_hash_text(&m->catalog).s, "ttl_s", (json_int_t)m->ttl_s, "whitelist", whitelist_json(info),
		"content", content_json(info), "tags", tags_json(info));
	int r = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
	json_decref(root);
	printf("\n");
	return r;
}

struct options {
	const char *name, *storage, *keys;
	bool json;
};

static int print_help(void)
{
	printf("Usage: lamella repo info NAME [OPTION]...\n"
	       "Verifies a repository's signatures and shows what it is. Exit code 1 when they are not valid.\n\n"
	       "  --storage DIR   the repository is DIR/cvmfs/NAME (default: as recorded by `lamella repo init`)\n"
	       "  --keys DIR      where NAME.pub is (default: as recorded)\n"
	       "  --json          for programs\n");
	return LM_EXIT_OK;
}

/* 0 go on, else -1 with *ret_code set. */
static int parse_options(int argc, char **argv, struct options *o, int *ret_code)
{
	static const struct option longs[] = {
		{"storage", required_argument, NULL, 's'},
		{"keys", required_argument, NULL, 'k'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	*ret_code = LM_EXIT_USAGE;
	for (int c; (c = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
		switch (c) {
		case 's':
			o->storage = optarg;
			break;
		case 'k':
			o->keys = optarg;
			break;
		case 'j':
			o->json = true;
			break;
		case 'h':
			*ret_code = print_help();
			return -1;
		default:
			lm_cli_usage(argv[0]);
			return -1;
		}
	}
	if (argc - optind != 1) {
		lm_cli_error("one NAME is wanted");
		lm_cli_usage(argv[0]);
		return -1;
	}
	o->name = argv[optind];
	return 0;
}

int lm_cmd_repo_info(int argc, char **argv)
{
	CLEANUP(info_done) struct info info = {0};
	struct options o = {0};
	struct lm_err err = LM_ERR_INIT;
	int code;
	if (parse_options(argc, argv, &o, &code) < 0)
		return code;
	int r = lm_repo_record_load(o.name, o.storage, o.keys, &info.record, &err);
	if (r == 0)
		r = gather(&info, &err);
	if (r < 0)
		return lm_cli_fail(&err);
	if (!o.json)
		print_text(&info);
	else if (print_json(&info) < 0)
		return lm_cli_fail(&(struct lm_err){-ENOMEM, "out of memory"});
	return info.verdict == INVALID || !info.have_whitelist || !info.have_counters || info.history_err.code < 0
		       ? LM_EXIT_FAILED
		       : LM_EXIT_OK;
}
