/* `lamella inspect catalog`: one catalog, as its database has it. */
#include "base/str.h"
#include "inspect.h"
#include "repo/catalog_schema.h"
#include "repo/listing.h"
#include "repo/xattr.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

struct look {
	struct lm_inspect i; /* first */
	const char *hash;
	bool rows;
	struct lm_catalog *catalog;
};

/* --- which one --- */

struct search {
	const char *path;
	struct lm_nested *found;
	struct lm_err *err;
};

static int is_on_the_way(void *arg, const struct lm_nested *nested)
{
	struct search *search = arg;
	if (strcmp(nested->path, search->path) != 0 && !lm_repo_path_below(search->path, nested->path))
		return 0;
	*search->found = *nested;
	search->found->path = strdup(nested->path);
	return search->found->path ? 1 : lm_err_oom(search->err);
}

/* From the root catalog down to the one that holds path; *hash is the root's, then that one's. */
static int descend(struct look *look, const char *path, struct lm_hash *hash, struct lm_err *err)
{
	CLEANUP(lm_freep) char *mountpoint = strdup("");
	int r = mountpoint ? 1 : lm_err_oom(err);
	while (r > 0) {
		struct lm_nested next = {0};
		struct search search = {path, &next, err};
		lm_catalog_closep(&look->catalog);
		r = lm_repo_source_catalog(&look->i.source, hash, mountpoint, &look->catalog, err);
		if (r == 0 && strcmp(path, mountpoint) != 0)
			r = lm_catalog_nested_each(look->catalog, is_on_the_way, &search, err);
		if (r > 0 && !lm_repo_path_below(next.path, mountpoint)) {
			r = lm_err_set(err, -EPROTO, "catalog %s names one at %s, which is not below it",
				lm_hash_text(hash).s, next.path);
			free(next.path);
		} else if (r > 0) {
			*hash = next.hash;
			free(mountpoint);
			mountpoint = next.path;
		}
	}
	return r;
}

static int check_path(struct lm_catalog *catalog, const char *path, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	int r = lm_catalog_lookup(catalog, lm_path_hash(path, strlen(path)), &row, err);
	return r == -ENOENT ? lm_err_set(err, r, "%s is not in the repository", *path ? path : "/") : r;
}

/* --hash HASH, or the catalog that holds PATH. */
static int open_catalog(struct look *look, struct lm_err *err)
{
	struct lm_err reason = LM_ERR_INIT;
	const char *path = look->i.word_count > 0 ? look->i.words[0] : "";
	struct lm_hash hash;
	int r;
	path = strcmp(path, "/") == 0 ? "" : path;
	if (look->hash) {
		if (look->i.word_count > 0 || look->i.tag || look->i.date || look->i.root)
			return lm_err_set(
				err, -EINVAL, "--hash names a catalog; no PATH, --tag, --date or --root goes with it");
		if (lm_hash_parse(look->hash, strcspn(look->hash, "C"), &hash, NULL) < 0)
			return lm_err_set(err, -EINVAL, "--hash: \"%s\" is no hash", look->hash);
		lm_inspect_show_source(&look->i);
		lm_err_set(&reason, -ENOTSUP, "the catalog is given by its hash");
		lm_inspect_show_verdict(&look->i, LM_UNCHECKED, &reason);
		r = lm_repo_source_catalog(&look->i.source, &hash, NULL, &look->catalog, err);
	} else {
		if (!lm_repo_path_valid(path))
			return lm_err_set(
				err, -EINVAL, "\"%s\" is no path in a repository: it begins with a slash", path);
		r = lm_inspect_root(&look->i, true, &hash, err);
		if (r == 0)
			r = descend(look, path, &hash, err);
		if (r == 0)
			r = check_path(look->catalog, path, err);
	}
	if (r == 0)
		lm_out_hash(&look->i.out, "catalog", &hash);
	return r;
}

/* --- what it says --- */

static int show_property(void *arg, const char *key, const char *value)
{
	struct lm_out *out = arg;
	lm_out_item(out);
	lm_out_text(out, "key", key, strlen(key));
	lm_out_text(out, "value", value, strlen(value));
	lm_out_close(out);
	return 0;
}

static void show_counters(struct lm_out *out, const char *name, struct lm_counters *counters)
{
	lm_out_object(out, name);
	for (size_t k = 0; k < LM_COUNTER_COUNT; k++)
		lm_out_number(out, lm_counter_names[k].name, *lm_counter_at(counters, k));
	lm_out_close(out);
}

static int show_nested(void *arg, const struct lm_nested *nested)
{
	struct lm_out *out = arg;
	lm_out_item(out);
	lm_out_text(out, "path", nested->path, strlen(nested->path));
	lm_out_hash(out, "catalog", &nested->hash);
	lm_out_number(out, "bytes", nested->size);
	lm_out_close(out);
	return 0;
}

static const struct {
	uint32_t flag;
	const char *name;
} flag_names[] = {
	{LM_ROW_DIR, "dir"},
	{LM_ROW_MOUNTPOINT, "mountpoint"},
	{LM_ROW_FILE, "file"},
	{LM_ROW_SYMLINK, "symlink"},
	{LM_ROW_SPECIAL, "special"},
	{LM_ROW_NESTED_ROOT, "nested-root"},
	{LM_ROW_CHUNKED, "chunked"},
	{LM_ROW_EXTERNAL, "external"},
	{LM_ROW_BIND, "bind"},
	{LM_ROW_HIDDEN, "hidden"},
	{LM_ROW_DIRECT_IO, "direct-io"},
};

/* "dir+mountpoint", what has no name as a number. */
static void show_flags(struct lm_out *out, uint32_t flags)
{
	char text[256] = "";
	size_t len = 0;
	for (size_t k = 0; k < ARRAY_LEN(flag_names); k++)
		if (flags & flag_names[k].flag) {
			len += (size_t)snprintf(
				text + len, sizeof(text) - len, "%s%s", len ? "+" : "", flag_names[k].name);
			flags &= ~flag_names[k].flag;
		}
	if (flags || len == 0)
		snprintf(text + len, sizeof(text) - len, "%s%" PRIu32, len ? "+" : "", flags);
	lm_out_word(out, "flags", "%s", text);
}

static void show_xattrs(struct look *look, const struct lm_row *row)
{
	struct lm_out *out = &look->i.out;
	struct lm_xattr attr;
	size_t at = 0;
	int r;
	lm_out_list(out, "xattrs", "xattr");
	while ((r = lm_xattr_next(row->xattr, row->xattr_len, &at, &attr)) > 0) {
		char hex[2 * LM_XATTR_VALUE_MAX + 1];
		lm_hex_format(attr.value, attr.value_len, hex);
		lm_out_item(out);
		lm_out_text(out, "name", attr.key, attr.key_len);
		lm_out_word(out, "hex", "%s", hex);
		lm_out_close(out);
	}
	lm_out_close(out);
	if (r < 0)
		lm_inspect_complain(&look->i, "row %" PRIu64 ": its attributes make no sense", row->rowid);
}

static void show_chunks(struct look *look, const struct lm_row *row)
{
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	struct lm_out *out = &look->i.out;
	struct lm_err err = LM_ERR_INIT;
	size_t count = 0;
	if (lm_catalog_chunks(look->catalog, row, 0, UINT64_MAX, &chunks, &count, &err) < 0)
		lm_inspect_complain(&look->i, "row %" PRIu64 ": %s", row->rowid, err.msg);
	lm_out_list(out, "chunks", "chunk");
	for (size_t k = 0; k < count; k++) {
		lm_out_item(out);
		lm_out_number(out, "offset", chunks[k].offset);
		lm_out_number(out, "size", chunks[k].size);
		lm_out_hash(out, "hash", &chunks[k].hash);
		lm_out_close(out);
	}
	lm_out_close(out);
}

static void show_kind(struct lm_out *out, const struct lm_row *row)
{
	if (row->hash.set || row->flags & LM_ROW_CHUNKED)
		lm_out_word(out, "compression", "%s", row->compression == LM_COMPRESSION_ZLIB ? "zlib" : "none");
	lm_out_hash(out, "hash", &row->hash);
	if (S_ISCHR(row->mode) || S_ISBLK(row->mode))
		lm_out_word(out, "rdev", "%u:%u", major(row->rdev), minor(row->rdev));
	if (row->symlink)
		lm_out_text(out, "target", row->symlink, strlen(row->symlink));
}

static void show_path(struct look *look, const struct lm_row *row)
{
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(LM_REPO_PATH_MAX + 1);
	struct lm_err err = LM_ERR_INIT;
	if (lm_catalog_path_of(look->catalog, row->rowid, &path, &err) < 0)
		lm_inspect_complain(&look->i, "%s (named %s)", lm_err_text(&err), row->name);
	else
		lm_out_text(&look->i.out, "path", path.len ? lm_buf_cstr(&path) : "/", LM_MAX(path.len, (size_t)1));
}

/* As the digits of the md5: the numbers are its halves, little-endian. */
static void show_path_hash(struct lm_out *out, const char *key, struct lm_path_hash hash)
{
	uint8_t bytes[16];
	char hex[33];
	for (unsigned k = 0; k < 8; k++) {
		bytes[k] = (uint8_t)((uint64_t)hash.a >> 8 * k);
		bytes[8 + k] = (uint8_t)((uint64_t)hash.b >> 8 * k);
	}
	lm_hex_format(bytes, sizeof(bytes), hex);
	lm_out_word(out, key, "%s", hex);
}

static void show_row(struct look *look, const struct lm_row *row)
{
	struct lm_out *out = &look->i.out;
	lm_out_number(out, "id", row->rowid);
	show_path(look, row);
	lm_out_text(out, "name", row->name, strlen(row->name));
	show_path_hash(out, "path_md5", row->path);
	show_path_hash(out, "parent_md5", row->parent);
	lm_out_word(out, "type", "%c", lm_listing_type(row->mode));
	show_flags(out, row->flags);
	lm_out_word(out, "mode", "%06o", row->mode);
	lm_out_number(out, "uid", row->uid);
	lm_out_number(out, "gid", row->gid);
	lm_out_number(out, "size", row->size);
	lm_out_word(out, "mtime", "%" PRId64 ".%09" PRIu32, row->mtime_s, row->mtime_ns);
	lm_out_number(out, "links", row->link_count);
	lm_out_number(out, "link_group", row->link_group);
	show_kind(out, row);
	if (row->xattr)
		show_xattrs(look, row);
	if (row->flags & LM_ROW_CHUNKED)
		show_chunks(look, row);
}

static int show_any_row(void *arg, int64_t rowid, struct lm_row *row, const struct lm_err *bad)
{
	struct look *look = arg;
	lm_out_item(&look->i.out);
	if (row) {
		show_row(look, row);
	} else {
		lm_out_word(&look->i.out, "id", "%" PRId64, rowid);
		lm_out_sentence(&look->i.out, "error", bad->msg);
		lm_inspect_complain(&look->i, "row %" PRId64 ": %s", rowid, bad->msg);
	}
	lm_out_close(&look->i.out);
	return 0;
}

/* The rest is shown even where one piece is damaged. */
static void survive(struct look *look, int r, struct lm_err *err)
{
	if (r < 0)
		lm_inspect_complain(&look->i, "%s", lm_err_text(err));
	*err = (struct lm_err)LM_ERR_INIT;
}

static void show_lists(struct look *look, struct lm_err *err)
{
	struct lm_out *out = &look->i.out;
	lm_out_list(out, "properties", "property");
	survive(look, lm_catalog_properties_each(look->catalog, show_property, out, err), err);
	lm_out_close(out);
	lm_out_list(out, "nested", "nested");
	survive(look, lm_catalog_nested_each(look->catalog, show_nested, out, err), err);
	lm_out_close(out);
	lm_out_list(out, "binds", "bind");
	survive(look, lm_catalog_binds_each(look->catalog, show_nested, out, err), err);
	lm_out_close(out);
	if (!look->rows)
		return;
	lm_out_list(out, "rows", "row");
	survive(look, lm_catalog_each(look->catalog, show_any_row, look, err), err);
	lm_out_close(out);
}

static int show_catalog(struct lm_inspect *i, struct lm_err *err)
{
	struct look *look = (struct look *)i;
	struct lm_counters self = {0}, subtree = {0};
	lm_out_begin(&i->out, i->json);
	int r = open_catalog(look, err);
	if (r < 0)
		return r;
	const char *mountpoint = lm_catalog_mountpoint(look->catalog);
	lm_out_text(&i->out, "mountpoint", *mountpoint ? mountpoint : "/", LM_MAX(strlen(mountpoint), (size_t)1));
	r = lm_catalog_counters(look->catalog, &self, &subtree, err);
	survive(look, r, err);
	if (r == 0) {
		show_counters(&i->out, "self", &self);
		show_counters(&i->out, "subtree", &subtree);
	}
	show_lists(look, err);
	return 0;
}

int lm_cmd_inspect_catalog(int argc, char **argv)
{
	struct look look = {0};
	const struct lm_cli_option options[] = {
		{"rows", NULL, "also every row with all its fields", .flag = &look.rows},
		{"hash", "HASH", "the catalog with this hash, wherever it belongs", .text = &look.hash},
		LM_INSPECT_ROOT_OPTIONS(&look.i),
		LM_INSPECT_OPTIONS(&look.i),
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "WHERE [PATH] [OPTION]...",
		.about = "Shows the catalog that holds PATH (default: the root catalog): where PATH is the place of a "
			 "nested\n"
			 "catalog, that one.",
		.options = options,
		.min_words = 1,
		.max_words = 2,
		.words = "WHERE is wanted, and at most one PATH",
	};
	int code = lm_inspect_run(&look.i, argc, argv, &syntax, show_catalog);
	lm_catalog_close(look.catalog);
	return code;
}
