/*
 * `lamella inspect tree`: everything in a revision, as a listing (repo/listing.h).
 *
 * The walk keeps a stack of directories, each with the names and row ids of its entries, sorted. What is held in memory
 * is thus the names on the way to where the walk is, and one open catalog per level of nesting.
 */
#include "base/str.h"
#include "inspect.h"
#include "oci/digest.h"
#include "repo/catalog_schema.h"
#include "repo/listing.h"
#include "repo/object_store.h"
#include "repo/symlink.h"

#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum {
	ENTRIES_MAX = 8 << 20,	    /* of one directory */
	NESTING_MAX = 256,	    /* catalogs that are open at a time */
	IN_MEMORY_MAX = 1 << 20,    /* contents up to here are not put into a file first */
	CHUNK_WINDOW_MAX = 1 << 30, /* of a file whose chunks are asked for at a time */
	LINE_MAX_BYTES = 1 << 20,
};

struct name {
	uint64_t rowid;
	size_t at; /* where it begins in the level's names */
};

/* A directory on the way. */
struct level {
	struct lm_catalog *catalog;
	unsigned catalog_number; /* in the order of opening */
	bool opened_here;	 /* the catalog is closed with this level */
	struct name *entries;
	size_t count, cap, next;
	struct lm_buf names;
	size_t path_len; /* of the directory */
};

struct look {
	struct lm_inspect i; /* first */
	bool raw, hidden, no_content;

	struct level *levels;
	size_t depth, cap;
	unsigned catalogs, nesting; /* opened so far; open now */
	struct lm_buf path, line;
	void *groups; /* tsearch tree of struct group */
	unsigned group_count;
};

/* --- hard links --- */

struct group {
	unsigned catalog_number;
	uint64_t rowid; /* the lowest of its members */
	unsigned number;
};

static int cmp_group(const void *a, const void *b)
{
	const struct group *x = a, *y = b;
	int order = (x->catalog_number > y->catalog_number) - (x->catalog_number < y->catalog_number);
	return order ? order : (x->rowid > y->rowid) - (x->rowid < y->rowid);
}

/* The group's number, given out in the order of the walk. */
static int group_number(struct look *look, unsigned catalog_number, uint64_t rowid, unsigned *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) struct group *fresh = malloc(sizeof(*fresh));
	if (!fresh)
		return lm_err_oom(err);
	*fresh = (struct group){catalog_number, rowid, look->group_count + 1};
	struct group **at = tsearch(fresh, &look->groups, cmp_group);
	if (!at)
		return lm_err_oom(err);
	*ret = (*at)->number;
	if (*at == fresh) {
		look->group_count++;
		(void)STEAL(fresh);
	}
	return 0;
}

/* As clients show them: members that differ are files of their own, and a count of 1 in a group leaves counting to us.
 */
static int find_links(struct look *look, const struct lm_row *row, struct lm_listing_line *line, struct lm_err *err)
{
	const struct level *level = &look->levels[look->depth - 1];
	uint64_t lowest;
	uint32_t members;
	line->nlink = LM_MAX(row->link_count, 1U);
	if (S_ISDIR(row->mode) || row->link_group == 0)
		return 0;
	int r = lm_catalog_group(level->catalog, row->link_group, &lowest, &members, err);
	if (r == -ENOENT)
		line->nlink = 1;
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if (row->link_count <= 1)
		line->nlink = members;
	return line->nlink > 1 ? group_number(look, level->catalog_number, lowest, &line->group, err) : 0;
}

/* --- contents --- */

static int digest_sink(void *arg, const void *data, size_t len, struct lm_err *err)
{
	return lm_digester_update(arg, data, len, err);
}

/* One object of exactly that many bytes of content. */
static int digest_object(struct look *look, const struct lm_hash *hash, enum lm_object_kind kind,
	const struct lm_row *row, uint64_t size, struct lm_digester *digester, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(LM_MIN(size, (uint64_t)IN_MEMORY_MAX));
	CLEANUP(lm_closep) int fd = -1;
	uint64_t stored, found;
	int r;
	if (size <= IN_MEMORY_MAX) {
		r = lm_object_load(look->i.source.storage, hash, kind, row->compression, &content, err);
		found = content.len;
		if (r == 0)
			r = lm_digester_update(digester, lm_buf_cstr(&content), content.len, err);
	} else {
		r = lm_inspect_fetch(&look->i, hash, kind, &fd, &stored, err);
		if (r == 0)
			r = lm_unpack_fd(hash, row->compression, fd, size, digest_sink, digester, &found, err);
	}
	if (r == 0 && found != size)
		r = lm_err_set(err, -EPROTO, "object %s has %" PRIu64 " bytes, %" PRIu64 " are expected",
			lm_hash_text(hash).s, found, size);
	return r;
}

/* The chunks are asked for by and by: there may be millions. */
static int digest_chunks(struct look *look, const struct lm_row *row, struct lm_digester *digester, struct lm_err *err)
{
	struct lm_catalog *catalog = look->levels[look->depth - 1].catalog;
	int r = 0;
	for (uint64_t at = 0; r == 0 && at < row->size;) {
		CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
		size_t count = 0;
		r = lm_catalog_chunks(catalog, row, at, CHUNK_WINDOW_MAX, &chunks, &count, err);
		for (size_t k = 0; k < count && r == 0; k++) {
			r = digest_object(look, &chunks[k].hash, LM_OBJECT_CHUNK, row, chunks[k].size, digester, err);
			at = chunks[k].offset + chunks[k].size;
		}
		if (r == 0 && count == 0)
			r = lm_err_set(err, -EPROTO, "it has no chunks from byte %" PRIu64 " on", at);
	}
	return r;
}

static int digest_file(struct look *look, const struct lm_row *row, char ret[LM_DIGEST_MAX], struct lm_err *err)
{
	CLEANUP(lm_digester_freep) struct lm_digester *digester = NULL;
	int r = lm_digester_new(&digester, err);
	if (r == 0)
		r = row->flags & LM_ROW_CHUNKED
			    ? digest_chunks(look, row, digester, err)
			    : digest_object(look, &row->hash, LM_OBJECT_FILE, row, row->size, digester, err);
	return r < 0 ? r : lm_digester_finish(digester, ret, err);
}

static const char *shown_path(const struct look *look)
{
	return look->path.len ? lm_buf_cstr(&look->path) : "/";
}

/* 64 digits, or a word: "error" (said), "external" (kept elsewhere), "-" (not asked for). */
static const char *content_hash(struct look *look, const struct lm_row *row, char buf[LM_DIGEST_MAX])
{
	struct lm_err err = LM_ERR_INIT;
	if (!S_ISREG(row->mode) || look->no_content)
		return "-";
	if (row->flags & LM_ROW_EXTERNAL)
		return "external";
	if (digest_file(look, row, buf, &err) == 0)
		return buf + strlen("sha256:");
	lm_inspect_complain(&look->i, "%s: %s", shown_path(look), lm_err_text(&err));
	return "error";
}

/* --- lines --- */

static int decode_xattrs(struct look *look, const struct lm_row *row, struct lm_xattr *ret, size_t *ret_count)
{
	size_t at = 0;
	int r = 0;
	*ret_count = 0;
	while (row->xattr && (r = lm_xattr_next(row->xattr, row->xattr_len, &at, &ret[*ret_count])) > 0)
		++*ret_count;
	if (r < 0) {
		*ret_count = 0; /* as clients do */
		lm_inspect_complain(&look->i, "%s: its attributes make no sense", shown_path(look));
	}
	return r;
}

static void print_json(struct look *look, const struct lm_listing_line *line)
{
	struct lm_out *out = &look->i.out;
	const char *path = shown_path(look);
	lm_out_item(out);
	lm_out_text(out, "path", path, strlen(path));
	lm_out_word(out, "type", "%c", lm_listing_type(line->mode));
	lm_out_word(out, "mode", "%04o", line->mode & 07777);
	lm_out_number(out, "uid", line->uid);
	lm_out_number(out, "gid", line->gid);
	lm_out_number(out, "size", line->size);
	lm_out_word(out, "mtime", "%" PRId64 ".%09" PRIu32, line->mtime_s, line->mtime_ns);
	lm_out_number(out, "links", line->nlink);
	if (line->group)
		lm_out_number(out, "link_group", line->group);
	if (S_ISCHR(line->mode) || S_ISBLK(line->mode))
		lm_out_word(out, "rdev", "%u:%u", major(line->rdev), minor(line->rdev));
	if (S_ISREG(line->mode))
		lm_out_word(out, "sha256", "%s", line->sha256);
	if (line->target)
		lm_out_text(out, "target", line->target, strlen(line->target));
	if (line->xattr_count > 0) {
		lm_out_list(out, "xattrs", "xattr");
		for (size_t k = 0; k < line->xattr_count; k++) {
			char hex[2 * LM_XATTR_VALUE_MAX + 1];
			lm_hex_format(line->xattrs[k].value, line->xattrs[k].value_len, hex);
			lm_out_item(out);
			lm_out_text(out, "name", line->xattrs[k].key, line->xattrs[k].key_len);
			lm_out_word(out, "hex", "%s", hex);
			lm_out_close(out);
		}
		lm_out_close(out);
	}
	lm_out_close(out);
}

static int print_line(struct look *look, const struct lm_listing_line *line, struct lm_err *err)
{
	if (look->i.json) {
		print_json(look, line);
		return 0;
	}
	lm_buf_clear(&look->line);
	if (lm_listing_append(&look->line, line) < 0)
		return lm_err_oom(err);
	fwrite(look->line.data, 1, look->line.len, stdout);
	return 0;
}

static int list_row(struct look *look, const struct lm_row *row, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf target = LM_BUF(LINE_MAX_BYTES / 4);
	struct lm_xattr xattrs[LM_XATTR_COUNT_MAX];
	char digest[LM_DIGEST_MAX];
	bool device = S_ISCHR(row->mode) || S_ISBLK(row->mode);
	struct lm_listing_line line = {
		.mode = row->mode,
		.uid = row->uid,
		.gid = row->gid,
		.size = device ? 0 : row->size,
		.mtime_s = row->mtime_s,
		.mtime_ns = row->mtime_ns,
		.rdev = row->rdev,
		.xattrs = xattrs,
		.path = lm_buf_cstr(&look->path),
	};
	int r = find_links(look, row, &line, err);
	if (r < 0)
		return r;
	if (row->symlink) {
		r = look->raw ? lm_buf_str(&target, row->symlink) : lm_symlink_expand(row->symlink, &target);
		if (r < 0)
			return lm_err_sys(err, r, "its target");
		line.target = lm_buf_cstr(&target);
		line.size = look->raw ? row->size : target.len;
	}
	(void)decode_xattrs(look, row, xattrs, &line.xattr_count);
	line.sha256 = content_hash(look, row, digest);
	return print_line(look, &line, err);
}

/* --- the walk --- */

static void pop(struct look *look)
{
	struct level *level = &look->levels[--look->depth];
	if (level->opened_here) {
		lm_catalog_close(level->catalog);
		look->nesting--;
	}
	free(level->entries);
	lm_buf_done(&level->names);
}

static int keep_entry(void *arg, struct lm_row *row)
{
	struct level *level = arg;
	struct name *grown = lm_grown(level->entries, level->count, &level->cap, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	level->entries = grown;
	if (level->count == ENTRIES_MAX)
		return -E2BIG;
	level->entries[level->count++] = (struct name){row->rowid, level->names.len};
	return lm_buf_append(&level->names, row->name, strlen(row->name) + 1);
}

static int by_name(const void *a, const void *b, void *names)
{
	return strcmp((char *)names + ((const struct name *)a)->at, (char *)names + ((const struct name *)b)->at);
}

/* The directory at look->path becomes the place where the walk is. Malformed rows are named and left out. */
static int push(struct look *look, struct lm_catalog *catalog, bool opened_here, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	struct level *grown = lm_grown(look->levels, look->depth, &look->cap, sizeof(*grown));
	if (!grown) {
		if (opened_here)
			lm_catalog_close(catalog);
		return lm_err_oom(err);
	}
	look->levels = grown;
	struct level *level = &look->levels[look->depth];
	*level = (struct level){.catalog = catalog,
		.catalog_number = opened_here ? ++look->catalogs : level[-1].catalog_number,
		.opened_here = opened_here,
		.names = LM_BUF((size_t)ENTRIES_MAX * (LM_NAME_MAX + 1)),
		.path_len = look->path.len};
	look->depth++;
	look->nesting += opened_here;
	struct lm_path_hash hash = lm_path_hash(lm_buf_cstr(&look->path), look->path.len);
	int r = lm_catalog_list(catalog, hash, 0, keep_entry, level, &why);
	if (r == -E2BIG)
		return lm_err_set(err, r, "%s has more than %d entries", shown_path(look), ENTRIES_MAX);
	if (r == -ENOMEM)
		return lm_err_oom(err);
	if (r < 0)
		lm_inspect_complain(&look->i, "%s: %s", shown_path(look), lm_err_text(&why));
	if (level->count > 0)
		qsort_r(level->entries, level->count, sizeof(*level->entries), by_name, level->names.data);
	return 0;
}

static int enter_nested(struct look *look, struct lm_err *err)
{
	struct lm_catalog *parent = look->levels[look->depth - 1].catalog, *catalog;
	struct lm_nested nested = {0};
	if (look->nesting == NESTING_MAX)
		return lm_err_set(err, -EPROTO, "catalogs nested deeper than %d", NESTING_MAX);
	int r = lm_catalog_nested(parent, lm_buf_cstr(&look->path), &nested, err);
	if (r == 0)
		r = lm_repo_source_catalog(&look->i.source, &nested.hash, nested.path, &catalog, err);
	free(nested.path);
	return r < 0 ? r : push(look, catalog, true, err);
}

static int enter(struct look *look, const struct lm_row *row, struct lm_err *err)
{
	if (row->flags & LM_ROW_MOUNTPOINT)
		return enter_nested(look, err);
	if (!S_ISDIR(row->mode) || row->flags & LM_ROW_BIND)
		return 0;
	return push(look, look->levels[look->depth - 1].catalog, false, err);
}

/* Damage is said and passed over; what else is an error ends the walk. */
static int visit(struct look *look, uint64_t rowid, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_err why = LM_ERR_INIT;
	int r = lm_catalog_row(look->levels[look->depth - 1].catalog, rowid, &row, &why);
	if (r == 0 && !lm_path_hash_equal(row.path, lm_path_hash(lm_buf_cstr(&look->path), look->path.len)))
		r = lm_err_set(&why, -EPROTO, "its path hash is that of another path");
	if (r == 0 && row.flags & LM_ROW_HIDDEN && !look->hidden)
		return 0;
	if (r == 0)
		r = list_row(look, &row, &why);
	if (r == 0)
		r = enter(look, &row, &why);
	if (r == -ENOMEM || r == -ENOSPC || r == -E2BIG || r == -EMFILE)
		return lm_err_set(err, r, "%s: %s", shown_path(look), lm_err_text(&why));
	if (r < 0)
		lm_inspect_complain(&look->i, "%s: %s", shown_path(look), lm_err_text(&why));
	return 0;
}

static int visit_next(struct look *look, struct lm_err *err)
{
	struct level *level = &look->levels[look->depth - 1];
	look->path.len = level->path_len;
	if (level->next == level->count) {
		pop(look);
		return 0;
	}
	const struct name *entry = &level->entries[level->next++];
	const char *name = (const char *)level->names.data + entry->at;
	if (lm_buf_printf(&look->path, "/%s", name) < 0) {
		lm_inspect_complain(&look->i, "%s: a path longer than %d bytes", shown_path(look), LM_REPO_PATH_MAX);
		return 0;
	}
	return visit(look, entry->rowid, err);
}

static int walk(struct look *look, const struct lm_hash *root, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_catalog *catalog = NULL;
	int r = lm_repo_source_catalog(&look->i.source, root, "", &catalog, err);
	if (r == 0)
		r = push(look, catalog, true, err);
	if (r == 0)
		r = lm_catalog_lookup(catalog, lm_path_hash("", 0), &row, err);
	if (r == 0)
		r = list_row(look, &row, err);
	while (r == 0 && look->depth > 0)
		r = visit_next(look, err);
	while (look->depth > 0)
		pop(look);
	return r;
}

static int show_tree(struct lm_inspect *i, struct lm_err *err)
{
	struct look *look = (struct look *)i;
	struct lm_hash root;
	if (i->json)
		lm_out_begin(&i->out, true);
	int r = lm_inspect_root(i, i->json, &root, err);
	if (r < 0)
		return r;
	if (!i->json)
		return walk(look, &root, err);
	lm_out_hash(&i->out, "root_catalog", &root);
	lm_out_list(&i->out, "tree", "file");
	r = walk(look, &root, err);
	lm_out_close(&i->out);
	return r;
}

int lm_cmd_inspect_tree(int argc, char **argv)
{
	struct look look = {.path = LM_BUF(LM_REPO_PATH_MAX), .line = LM_BUF(LINE_MAX_BYTES)};
	const struct lm_cli_option options[] = {
		{"raw", NULL, "targets of symbolic links as they are stored, variables and all", .flag = &look.raw},
		{"hidden", NULL, "also what is hidden", .flag = &look.hidden},
		{"no-content", NULL, "read no files: \"-\" instead of the hashes of their contents",
			.flag = &look.no_content},
		LM_INSPECT_ROOT_OPTIONS(&look.i),
		LM_INSPECT_OPTIONS(&look.i),
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "WHERE [OPTION]...",
		.about = "Lists everything in a revision (default: the newest), a line per file, in the order of a "
			 "sorted\n"
			 "walk:\n"
			 "  type mode uid gid size mtime nlink hlgroup rdev sha256 target xattrs path\n"
			 "lamella(1) describes the fields. A verdict that is not \"valid\" is said on standard error.",
		.options = options,
		.min_words = 1,
		.max_words = 1,
		.words = "one WHERE is wanted",
	};
	int code = lm_inspect_run(&look.i, argc, argv, &syntax, show_tree);
	tdestroy(look.groups, free);
	free(look.levels);
	lm_buf_done(&look.path);
	lm_buf_done(&look.line);
	return code;
}
