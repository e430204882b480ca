/*
 * One catalog: a walk from its root row through the directories, then what only the whole tells: rows that no directory
 * lists, chunks and nested catalogs that nothing has, counters, hard links.
 *
 * The walk needs no memory per row. A directory is read in the order of its row ids, which must rise; a row is entered
 * only where its path hash is that of the path on which it was found, so each row is met once and a knotted database
 * ends. -EPROTO inside this file: the database itself is damaged and the rest of this catalog can't be read.
 */
#include "repo/check_internal.h"

#include "base/str.h"
#include "repo/publish_internal.h" /* LM_CATALOG_MARKER */
#include "repo/xattr.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

enum {
	ROW_IDS_MAX = 1 << 27, /* row ids up to here are kept track of, a bit each */
	ROW_IDS_SPARSE = 4096, /* unused row ids that nobody minds */
	LINKS_MAX = 4 << 20,   /* rows in hard-link groups of one catalog */
	FLAGS_KNOWN = 0x1ffff,
	FLAGS_OF_CONTENT = LM_ROW_FIELD_MASK << LM_ROW_ALGO_SHIFT | LM_ROW_FIELD_MASK << LM_ROW_COMPRESSION_SHIFT,
};

/* A directory on the way from the root to where the walk is. */
struct level {
	struct lm_path_hash hash;
	uint64_t rowid, last; /* its own; that of the child read last */
	size_t path_len;
	uint32_t subdirs, link_count;
	bool unsure; /* a row in it can't be read */
};

/* A row that is a member of a hard-link group. */
struct link {
	uint32_t group, count;
	uint64_t dir, rowid; /* of the directory; its own */
	uint64_t digest;     /* of all that members share */
};

struct scan {
	struct lm_check *check;
	const struct lm_check_ref *ref;
	const char *db_path;
	struct lm_catalog_db db;
	sqlite3_stmt *children, *any_child, *by_path, *chunks, *nested, *bind;
	struct level *levels;
	size_t depth, cap;
	struct lm_counters self; /* counted; nested: registered mountpoints */
	uint64_t mountpoints, binds;
	uint64_t rows, reported_rows; /* met; of these in check->result */
	uint8_t *met;		      /* a bit per row id; NULL where they are too many */
	uint64_t met_max;
	bool skipped; /* rows that can't be read were not counted */
	bool marker;
	struct link *links;
	size_t link_count, link_cap;
	size_t path_len;
	char path[LM_REPO_PATH_MAX + LM_NAME_MAX + 2];
};

#define HERE(s) LM_PLACE((s)->ref->path, (s)->path)
#define WHOLE(s) LM_PLACE((s)->ref->path)

static void scan_done(struct scan *s)
{
	sqlite3_stmt *stmts[] = {s->children, s->any_child, s->by_path, s->chunks, s->nested, s->bind};
	for (size_t i = 0; i < ARRAY_LEN(stmts); i++)
		sqlite3_finalize(stmts[i]);
	lm_catalog_db_done(&s->db);
	free(s->levels);
	free(s->links);
	free(s->met);
}

static int prepare(struct scan *s, struct lm_err *err)
{
	int r = lm_row_prepare(&s->db, LM_ROW_BY_PARENT, &s->children, err);
	if (r == 0)
		r = lm_db_prepare(&s->db.db,
			"SELECT rowid FROM catalog INDEXED BY idx_catalog_parent WHERE parent_1 = ?1 AND parent_2 = ?2 "
			"LIMIT 1",
			&s->any_child, err);
	if (r == 0)
		r = lm_row_prepare(&s->db, LM_ROW_BY_PATH, &s->by_path, err);
	if (r == 0)
		r = lm_db_prepare(&s->db.db,
			"SELECT offset, size, hash FROM chunks INDEXED BY sqlite_autoindex_chunks_1 "
			"WHERE md5path_1 = ?1 AND md5path_2 = ?2 ORDER BY offset, size",
			&s->chunks, err);
	if (r == 0)
		r = lm_nested_prepare(&s->db, "nested_catalogs", "WHERE path = ?1", &s->nested, err);
	if (r == 0 && s->db.revision >= LM_SCHEMA_HAS_BIND)
		r = lm_nested_prepare(&s->db, "bind_mountpoints", "WHERE path = ?1", &s->bind, err);
	return r;
}

/* Row ids met so far, so that those left over can be named. */
static int prepare_met(struct scan *s, struct lm_err *err)
{
	int64_t max = 0;
	int r = lm_db_number(&s->db.db, "SELECT max(rowid) FROM catalog", &max, err);
	if (r < 0)
		return r;
	s->met_max = max > 0 ? (uint64_t)max : 0;
	if (s->met_max > ROW_IDS_MAX)
		return 0;
	s->met = calloc(1, s->met_max / 8 + 1);
	return s->met ? 0 : lm_err_oom(err);
}

static bool was_met(const struct scan *s, uint64_t rowid)
{
	return s->met && rowid <= s->met_max && s->met[rowid / 8] & 1u << rowid % 8;
}

static void flush_rows(struct scan *s)
{
	lm_check_count(s->check, &s->check->result.rows, s->rows - s->reported_rows);
	s->reported_rows = s->rows;
	lm_check_tick(s->check);
}

static void set_met(struct scan *s, uint64_t rowid)
{
	if (s->met && rowid <= s->met_max)
		s->met[rowid / 8] |= (uint8_t)(1u << rowid % 8);
	if (++s->rows % LM_CHECK_TICK == 0)
		flush_rows(s);
}

/*
 * One row.
 */

/* What is absent must be an empty text: stock clients and tools die of NULL. */
static void check_null(struct scan *s, sqlite3_stmt *stmt)
{
	if (sqlite3_column_type(stmt, LM_COL_NAME) == SQLITE_NULL)
		lm_check_found(s->check, LM_CHECK_NULL_TEXT, HERE(s), "the name of row %lld is NULL",
			(long long)sqlite3_column_int64(stmt, LM_COL_ROWID));
	if (sqlite3_column_type(stmt, LM_COL_SYMLINK) == SQLITE_NULL)
		lm_check_found(s->check, LM_CHECK_NULL_TEXT, HERE(s),
			"the link target of row %lld is NULL; where there is none it is an empty text",
			(long long)sqlite3_column_int64(stmt, LM_COL_ROWID));
}

static void check_flags(struct scan *s, sqlite3_stmt *stmt, const struct lm_row *row, bool root)
{
	uint64_t flags = (uint64_t)sqlite3_column_int64(stmt, LM_COL_FLAGS);
	uint32_t type = lm_row_type_flags(row->mode);
	const char *wrong = NULL;
	if ((flags & LM_ROW_TYPE_FLAGS) != type)
		wrong = "the bits of the type";
	else if (!root && flags & LM_ROW_NESTED_ROOT)
		wrong = "the root of a nested catalog in the middle of this one";
	else if (root && flags & (LM_ROW_MOUNTPOINT | LM_ROW_BIND))
		wrong = "a mountpoint that is its catalog's root";
	else if (flags & LM_ROW_MOUNTPOINT && flags & LM_ROW_BIND)
		wrong = "a nested catalog and a bind mountpoint at once";
	else if (flags & LM_ROW_DIRECT_IO && !S_ISREG(row->mode))
		wrong = "direct I/O for what is no file";
	if (wrong)
		lm_check_found(s->check, LM_CHECK_FLAGS, HERE(s),
			"flags 0x%" PRIx64 " do not fit mode 0%o (the type would be 0x%x): %s", flags, row->mode, type,
			wrong);
	else if (flags & ~(uint64_t)FLAGS_KNOWN)
		lm_check_found(s->check, LM_CHECK_TOLERATED, HERE(s), "flags 0x%" PRIx64 " have bits without a meaning",
			flags);
	else if (!S_ISREG(row->mode) && flags & FLAGS_OF_CONTENT)
		lm_check_found(s->check, LM_CHECK_TOLERATED, HERE(s),
			"flags 0x%" PRIx64 " name a hash or compression for what has no content", flags);
}

/* Only files have content, only links a target. */
static void check_stray(struct scan *s, sqlite3_stmt *stmt, const struct lm_row *row)
{
	if (S_ISDIR(row->mode) && row->hash.set)
		lm_check_found(s->check, LM_CHECK_TOLERATED, HERE(s), "a directory with a content hash");
	if (!S_ISREG(row->mode) && !S_ISDIR(row->mode) && row->hash.set)
		lm_check_found(s->check, LM_CHECK_STRAY_CONTENT, HERE(s), "%s with a content hash; it would be NULL",
			S_ISLNK(row->mode) ? "a symbolic link" : "a special file");
	if (!S_ISLNK(row->mode) && sqlite3_column_bytes(stmt, LM_COL_SYMLINK) > 0)
		lm_check_found(s->check,
			S_ISREG(row->mode) || S_ISDIR(row->mode) ? LM_CHECK_TOLERATED : LM_CHECK_STRAY_CONTENT, HERE(s),
			"a link target for what is no symbolic link; it would be an empty text");
	if ((S_ISFIFO(row->mode) || S_ISSOCK(row->mode)) && sqlite3_column_int64(stmt, LM_COL_SIZE) != 0)
		lm_check_found(s->check, LM_CHECK_STRAY_CONTENT, HERE(s),
			"a fifo or socket of size %lld; it would be 0",
			(long long)sqlite3_column_int64(stmt, LM_COL_SIZE));
}

static void check_xattr(struct scan *s, const struct lm_row *row)
{
	struct lm_xattr attr;
	size_t at = 0;
	int r = 0;
	while (row->xattr && (r = lm_xattr_next(row->xattr, row->xattr_len, &at, &attr)) > 0)
		;
	if (r < 0)
		lm_check_found(s->check, LM_CHECK_XATTR, HERE(s),
			"its %zu bytes of attributes are malformed, clients show none", row->xattr_len);
}

/* Stock ingestion of tar files leaves 0. */
static void check_symlink(struct scan *s, sqlite3_stmt *stmt, const struct lm_row *row)
{
	int64_t size = sqlite3_column_int64(stmt, LM_COL_SIZE);
	if (size != (int64_t)row->size)
		lm_check_found(s->check, size == 0 ? LM_CHECK_TOLERATED : LM_CHECK_SYMLINK_SIZE, HERE(s),
			"its size is %" PRId64 ", its target has %" PRIu64 " bytes", size, row->size);
}

static int add_object(struct scan *s, const struct lm_row *row, const struct lm_hash *hash, enum lm_object_kind kind,
	uint64_t size, struct lm_err *err)
{
	const struct lm_check_object object = {.hash = *hash,
		.kind = kind,
		.compression = row->compression,
		.size = size,
		.missing = LM_CHECK_OBJECT_MISSING};
	return row->flags & LM_ROW_EXTERNAL
		       ? 0 /* it lies elsewhere */
		       : lm_check_objects_add(s->check->objects, &object, s->ref->path, s->path, err);
}

/* A chunk's columns: 1 and *ret, 0 (reported) where they make no sense. */
static int read_chunk(struct scan *s, const struct lm_row *row, struct lm_chunk *ret, struct lm_err *err)
{
	sqlite3_stmt *stmt = s->chunks;
	int64_t offset = sqlite3_column_int64(stmt, 0), size = sqlite3_column_int64(stmt, 1);
	if (sqlite3_column_type(stmt, 0) != SQLITE_INTEGER || sqlite3_column_type(stmt, 1) != SQLITE_INTEGER ||
		offset < 0 || size <= 0 || size > INT64_MAX - offset) {
		lm_check_found(
			s->check, LM_CHECK_CHUNKS, HERE(s), "a chunk of %" PRId64 " bytes at %" PRId64, size, offset);
		return 0;
	}
	if (sqlite3_column_type(stmt, 2) != SQLITE_BLOB || sqlite3_column_bytes(stmt, 2) != LM_HASH_BYTES) {
		lm_check_found(s->check, LM_CHECK_CHUNKS, HERE(s), "the chunk at %" PRId64 " has no hash", offset);
		return 0;
	}
	const void *hash = sqlite3_column_blob(stmt, 2);
	if (!hash)
		return lm_err_oom(err);
	*ret = (struct lm_chunk){
		.offset = (uint64_t)offset, .size = (uint64_t)size, .hash = {.algo = row->algo, .set = true}};
	memcpy(ret->hash.bytes, hash, LM_HASH_BYTES);
	return 1;
}

static int check_chunks(struct scan *s, const struct lm_row *row, uint64_t *digest, struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = s->chunks;
	uint64_t covered = 0, count = 0;
	struct lm_chunk last = {0}, chunk;
	bool told = false;
	int r;
	lm_bind_path(stmt, row->path);
	while ((r = lm_db_step(&s->db.db, stmt, err)) > 0) {
		s->self.chunks++;
		r = read_chunk(s, row, &chunk, err);
		if (r < 0)
			return r;
		if (r == 0) {
			told = true;
			continue;
		}
		if (count++ > 0 &&
			(chunk.offset < last.offset || (chunk.offset == last.offset && chunk.size <= last.size)))
			return lm_err_set(err, -EPROTO, "the chunks of '%s' are out of order", s->path);
		if (chunk.offset != covered && !told) {
			lm_check_found(s->check, LM_CHECK_CHUNKS, HERE(s),
				"a chunk begins at %" PRIu64 ", where the one before ends at %" PRIu64, chunk.offset,
				covered);
			told = true;
		}
		last = chunk;
		covered = chunk.offset + chunk.size;
		*digest = lm_chunk_digest(*digest, &chunk);
		r = add_object(s, row, &chunk.hash, LM_OBJECT_CHUNK, chunk.size, err);
		if (r < 0)
			return r;
	}
	if (r < 0)
		return r;
	if (count == 0 && !told)
		lm_check_found(s->check, LM_CHECK_CHUNKS, HERE(s), "it is said to be in chunks and has none");
	else if (covered != row->size && !told)
		lm_check_found(s->check, LM_CHECK_CHUNKS, HERE(s),
			"its chunks hold %" PRIu64 " bytes, its size is %" PRIu64, covered, row->size);
	lm_check_count(s->check, &s->check->result.chunks, count);
	return 0;
}

static int check_file(struct scan *s, const struct lm_row *row, uint64_t *digest, struct lm_err *err)
{
	struct lm_counters *n = &s->self;
	int r = 0;
	n->regular++;
	n->file_size += row->size;
	if (row->flags & LM_ROW_CHUNKED) {
		n->chunked++;
		n->chunked_size += row->size;
		r = check_chunks(s, row, digest, err);
	}
	if (row->flags & LM_ROW_EXTERNAL) {
		n->external++;
		n->external_file_size += row->size;
	}
	return r == 0 && row->hash.set ? add_object(s, row, &row->hash, LM_OBJECT_FILE, row->size, err) : r;
}

static int check_link(struct scan *s, const struct lm_row *row, uint64_t digest, struct lm_err *err)
{
	if (row->link_count == 0 || (row->link_count > 1 && row->link_group == 0))
		lm_check_found(s->check, LM_CHECK_HARD_LINK, HERE(s),
			"%u links in group %u; a file that stands alone has 1 and no group", row->link_count,
			row->link_group);
	if (row->link_group == 0 || s->link_count == LINKS_MAX)
		return 0;
	struct link *grown = lm_grown(s->links, s->link_count, &s->link_cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	s->links = grown;
	s->links[s->link_count++] = (struct link){.group = row->link_group,
		.count = row->link_count,
		.dir = s->levels[s->depth - 1].rowid,
		.rowid = row->rowid,
		.digest = digest};
	return 0;
}

/* Whatever its place. Directories count as one, what is in them is not looked at here. */
static int check_row(struct scan *s, sqlite3_stmt *stmt, const struct lm_row *row, bool root, struct lm_err *err)
{
	uint64_t digest = lm_row_digest(row);
	int r = 0;
	check_flags(s, stmt, row, root);
	check_stray(s, stmt, row);
	check_xattr(s, row);
	s->self.xattr += sqlite3_column_type(stmt, LM_COL_XATTR) != SQLITE_NULL;
	if (S_ISDIR(row->mode)) {
		s->self.dir++;
		if (sqlite3_column_int64(stmt, LM_COL_HARDLINKS) >> 32 != 0)
			lm_check_found(s->check, LM_CHECK_HARD_LINK, HERE(s),
				"a directory in a hard-link group; it would be 0");
		return 0;
	}
	if (S_ISREG(row->mode)) {
		r = check_file(s, row, &digest, err);
	} else if (S_ISLNK(row->mode)) {
		s->self.symlink++;
		check_symlink(s, stmt, row);
	} else {
		s->self.special++;
	}
	return r < 0 ? r : check_link(s, row, digest, err);
}

/*
 * Mountpoints.
 */

/* Reads what kept says of this path: 1 and *ret, 0 nothing is there or it makes no sense (reported). */
static int find_nested(
	struct scan *s, sqlite3_stmt *kept, enum lm_check_kind kind, struct lm_nested *ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = kept;
	struct lm_err why = LM_ERR_INIT;
	int r = 0;
	if (stmt) {
		sqlite3_bind_text(stmt, 1, s->path, -1, SQLITE_STATIC);
		r = lm_db_step(&s->db.db, stmt, err);
	}
	if (r < 0)
		return r;
	if (r == 0) {
		lm_check_found(s->check, kind, HERE(s), "a mountpoint whose catalog is named nowhere");
		return 0;
	}
	r = lm_nested_decode(&s->db, stmt, ret, &why);
	if (r == -ENOMEM)
		return lm_err_oom(err);
	if (r < 0)
		lm_check_found(s->check, kind, HERE(s), "%s", why.msg);
	return r == 0;
}

static int check_empty(struct scan *s, const struct lm_row *row, struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = s->any_child;
	lm_bind_path(stmt, row->path);
	int r = lm_db_step(&s->db.db, stmt, err);
	if (r > 0)
		lm_check_found(s->check, LM_CHECK_MOUNTPOINT_ROWS, HERE(s),
			"this catalog has rows below the mountpoint, among them row %lld; they belong into the nested "
			"one",
			(long long)sqlite3_column_int64(stmt, 0));
	return LM_MIN(r, 0);
}

static void nested_done(struct lm_nested *nested)
{
	free(nested->path);
}

static int check_mountpoint(struct scan *s, const struct lm_row *row, struct lm_err *err)
{
	CLEANUP(nested_done) struct lm_nested nested = {0};
	struct lm_check_ref ref = {.depth = s->ref->depth + 1, .path = s->path, .revision = UINT64_MAX};
	s->mountpoints++;
	int r = check_empty(s, row, err);
	if (r == 0)
		r = find_nested(s, s->nested, LM_CHECK_NESTED, &nested, err);
	if (r <= 0) {
		s->skipped |= r == 0; /* what is below can't be added up */
		return r;
	}
	s->self.nested++;
	ref.hash = nested.hash;
	ref.size = nested.size;
	r = lm_check_mount_of(row, &ref.mount, err);
	return r < 0 ? r : lm_check_tree_add(s->check->tree, &ref, err);
}

/* Another revision's tree is shown there. Nothing follows it but clients, so its root may be gone. */
static int check_bind(struct scan *s, const struct lm_row *row, struct lm_err *err)
{
	CLEANUP(nested_done) struct lm_nested nested = {0};
	s->binds++;
	int r = check_empty(s, row, err);
	if (r == 0)
		r = find_nested(s, s->bind, LM_CHECK_BIND, &nested, err);
	if (r <= 0)
		return r;
	const struct lm_check_object root = {
		.hash = nested.hash, .kind = LM_OBJECT_CATALOG, .present_only = true, .missing = LM_CHECK_TOLERATED};
	return lm_check_objects_add(s->check->objects, &root, s->ref->path, s->path, err);
}

/*
 * The walk.
 */

static int enter(struct scan *s, const struct lm_row *row, struct lm_err *err)
{
	struct level *grown = lm_grown(s->levels, s->depth, &s->cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	sqlite3_reset(s->children);
	s->levels = grown;
	s->levels[s->depth++] = (struct level){
		.hash = row->path, .rowid = row->rowid, .path_len = s->path_len, .link_count = row->link_count};
	return 0;
}

static void leave(struct scan *s)
{
	const struct level *dir = &s->levels[--s->depth];
	sqlite3_reset(s->children);
	s->path_len = dir->path_len;
	s->path[s->path_len] = '\0';
	if (!dir->unsure && dir->link_count != 2 + dir->subdirs)
		lm_check_found(s->check, LM_CHECK_LINK_COUNT, HERE(s),
			"its link count is %u; with %u subdirectories it would be %u", dir->link_count, dir->subdirs,
			2 + dir->subdirs);
}

static void check_marker(struct scan *s, const struct lm_row *row)
{
	if (strcmp(row->name, LM_CATALOG_MARKER) != 0)
		return;
	if (s->depth > 1) {
		lm_check_found(
			s->check, LM_CHECK_MARKER, HERE(s), "a marker in a directory where no nested catalog begins");
		return;
	}
	s->marker = true;
	if (!S_ISREG(row->mode))
		lm_check_found(s->check, LM_CHECK_MARKER, HERE(s), "the marker is no regular file");
	else if (s->ref->path[0] == '\0')
		lm_check_found(
			s->check, LM_CHECK_TOLERATED, HERE(s), "a marker in the root of the repository marks nothing");
}

/* A row whose path is s->path. */
static int visit(struct scan *s, sqlite3_stmt *stmt, const struct lm_row *row, struct lm_err *err)
{
	if (S_ISDIR(row->mode))
		s->levels[s->depth - 1].subdirs++;
	check_marker(s, row);
	if (!lm_path_hash_equal(row->path, lm_path_hash(s->path, s->path_len))) {
		lm_check_found(s->check, LM_CHECK_PATH_HASH, HERE(s),
			"the path hash of row %" PRIu64 " is not that of its path: look-ups do not find it",
			row->rowid);
		s->skipped |= S_ISDIR(row->mode);
		return check_row(s, stmt, row, false, err);
	}
	int r = check_row(s, stmt, row, false, err);
	if (r < 0 || !S_ISDIR(row->mode))
		return r;
	if (row->flags & LM_ROW_MOUNTPOINT)
		return check_mountpoint(s, row, err);
	return row->flags & LM_ROW_BIND ? check_bind(s, row, err) : enter(s, row, err);
}

/* The row that the walk has come to: 0 also where no sense can be made of it. */
static int visit_current(struct scan *s, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct level *dir = &s->levels[s->depth - 1];
	struct lm_err why = LM_ERR_INIT;
	int64_t rowid = sqlite3_column_int64(s->children, LM_COL_ROWID);
	if (rowid <= 0 || (uint64_t)rowid <= dir->last || was_met(s, (uint64_t)rowid))
		return lm_err_set(err, -EPROTO, "the rows of '%s' are out of order", s->path);
	dir->last = (uint64_t)rowid;
	set_met(s, dir->last);
	check_null(s, s->children);
	int r = lm_row_decode(&s->db, s->children, &row, &why);
	if (r < 0 && r != -EPROTO)
		return lm_err_set(err, r, "%s", why.msg);
	if (r < 0) {
		lm_check_found(s->check, LM_CHECK_ROW, HERE(s), "in this directory: %s", why.msg);
		s->skipped = dir->unsure = true;
		return 0;
	}
	size_t name_len = strlen(row.name);
	if (s->path_len + 1 + name_len > LM_REPO_PATH_MAX) {
		lm_check_found(s->check, LM_CHECK_ROW, HERE(s), "the path of row %" PRIu64 " is longer than %d bytes",
			row.rowid, LM_REPO_PATH_MAX);
		s->skipped = dir->unsure = true;
		return 0;
	}
	s->path[s->path_len] = '/';
	memcpy(s->path + s->path_len + 1, row.name, name_len + 1);
	s->path_len += 1 + name_len;
	size_t depth = s->depth;
	r = visit(s, s->children, &row, err);
	if (s->depth == depth) { /* not entered */
		s->path_len = s->levels[depth - 1].path_len;
		s->path[s->path_len] = '\0';
	}
	return r;
}

static int walk(struct scan *s, struct lm_err *err)
{
	int r = 0;
	while (r == 0 && s->depth > 0) {
		const struct level *dir = &s->levels[s->depth - 1];
		if (!sqlite3_stmt_busy(s->children)) {
			sqlite3_reset(s->children);
			lm_bind_path(s->children, dir->hash);
			sqlite3_bind_int64(s->children, 3, (int64_t)dir->last);
		}
		r = lm_db_step(&s->db.db, s->children, err);
		if (r > 0) {
			r = visit_current(s, err);
		} else if (r == 0) {
			leave(s);
			if (s->depth > 0) {
				s->path_len = s->levels[s->depth - 1].path_len;
				s->path[s->path_len] = '\0';
			}
		}
	}
	return r;
}

static struct lm_path_hash parent_of(const char *path)
{
	return *path ? lm_path_hash(path, lm_repo_path_name(path) - 1) : (struct lm_path_hash){0, 0};
}

static int check_root(struct scan *s, struct lm_check_facts *ret, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = s->by_path;
	lm_bind_path(stmt, s->db.root);
	int r = lm_db_step(&s->db.db, stmt, err);
	if (r == 0)
		return lm_err_set(err, -EPROTO, "its root row went away");
	if (r > 0)
		r = lm_row_decode(&s->db, stmt, &row, err);
	if (r < 0)
		return r;
	const char *name = *s->path ? s->path + lm_repo_path_name(s->path) : "";
	set_met(s, row.rowid);
	check_null(s, stmt);
	if (strcmp(row.name, name) != 0)
		lm_check_found(s->check, LM_CHECK_ROW, HERE(s),
			"its root row has another name than the mountpoint: '%s'", row.name);
	if (!lm_path_hash_equal(row.parent, parent_of(s->path)))
		lm_check_found(s->check, LM_CHECK_PATH_HASH, HERE(s), "the parent hash of the root row is not %s",
			*s->path ? "that of the directory above" : "0, 0");
	r = check_row(s, stmt, &row, true, err);
	if (r == 0)
		r = lm_check_mount_of(&row, &ret->root, err);
	return r < 0 ? r : enter(s, &row, err);
}

/*
 * What only the whole tells.
 */

/* Why no directory led to a row. */
static int why_unmet(struct scan *s, struct lm_path_hash parent, const char **ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = s->by_path;
	lm_bind_path(stmt, parent);
	int r = lm_db_step(&s->db.db, stmt, err);
	if (r < 0)
		return r;
	int64_t flags = r ? sqlite3_column_int64(stmt, LM_COL_FLAGS) : 0;
	if (r == 0)
		*ret = "its parent is not in this catalog";
	else if (!(flags & LM_ROW_DIR))
		*ret = "its parent is no directory";
	else if (flags & (LM_ROW_MOUNTPOINT | LM_ROW_BIND))
		*ret = "its parent is a mountpoint";
	else if (!was_met(s, (uint64_t)sqlite3_column_int64(stmt, LM_COL_ROWID)))
		*ret = "its parent is in no directory, either";
	else
		*ret = "the index of directories does not lead to it, or its parent's path hash is wrong";
	return 0;
}

static int report_unmet(struct scan *s, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int64_t last = INT64_MIN;
	int r = lm_db_prepare(&s->db.db,
		"SELECT rowid, parent_1, parent_2, name FROM catalog NOT INDEXED ORDER BY rowid", &stmt, err);
	while (r == 0 && (r = lm_db_step(&s->db.db, stmt, err)) > 0) {
		CLEANUP(lm_buf_done) struct lm_buf name = LM_BUF(8 * LM_NAME_MAX);
		const char *why = "";
		int64_t rowid = sqlite3_column_int64(stmt, 0);
		if (rowid <= last)
			return lm_err_set(err, -EPROTO, "the rows are out of order");
		last = rowid;
		r = 0;
		if (rowid > 0 && was_met(s, (uint64_t)rowid))
			continue;
		r = why_unmet(s, (struct lm_path_hash){sqlite3_column_int64(stmt, 1), sqlite3_column_int64(stmt, 2)},
			&why, err);
		const char *text = (const char *)sqlite3_column_text(stmt, 3);
		if (r == 0 && (!text || lm_str_quote(&name, text, (size_t)sqlite3_column_bytes(stmt, 3)) < 0))
			lm_buf_clear(&name);
		if (r == 0)
			lm_check_found(s->check, LM_CHECK_UNREACHABLE, WHOLE(s),
				"row %" PRId64 " %s is in no directory: %s", rowid, lm_buf_cstr(&name), why);
	}
	return r;
}

static int check_rows(struct scan *s, struct lm_err *err)
{
	int64_t total = 0;
	int r = lm_db_number(&s->db.db, "SELECT count(*) FROM catalog NOT INDEXED", &total, err);
	if (r < 0)
		return r;
	if (s->met_max > (uint64_t)total * 2 + ROW_IDS_SPARSE)
		lm_check_found(s->check, LM_CHECK_ROW_IDS, WHOLE(s),
			"its %" PRId64 " rows have row ids up to %" PRIu64 ": clients reserve as many inode numbers",
			total, s->met_max);
	if ((uint64_t)total == s->rows)
		return 0;
	if (s->met)
		return report_unmet(s, err);
	lm_check_found(s->check, LM_CHECK_UNREACHABLE, WHOLE(s),
		"%" PRId64 " of its %" PRId64 " rows are in no directory", total - (int64_t)s->rows, total);
	return 0;
}

/* Rows of chunks that no chunked file has. */
static int check_stray_chunks(struct scan *s, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int64_t total = 0;
	int r = lm_db_number(&s->db.db, "SELECT count(*) FROM chunks NOT INDEXED", &total, err);
	if (r < 0 || (uint64_t)total == s->self.chunks)
		return r;
	r = lm_db_prepare(&s->db.db,
		"SELECT c.rowid, (SELECT f.name FROM catalog f WHERE f.md5path_1 = c.md5path_1 AND f.md5path_2 = "
		"c.md5path_2) FROM chunks c NOT INDEXED WHERE NOT EXISTS (SELECT 1 FROM catalog f WHERE "
		"f.md5path_1 = c.md5path_1 AND f.md5path_2 = c.md5path_2 AND f.flags & 64) LIMIT 1",
		&stmt, err);
	if (r == 0)
		r = lm_db_step(&s->db.db, stmt, err);
	if (r < 0)
		return r;
	const char *name = r ? (const char *)sqlite3_column_text(stmt, 1) : NULL;
	lm_check_found(s->check, LM_CHECK_STRAY_CHUNK, WHOLE(s),
		"%" PRId64 " rows of chunks, those of chunked files are %" PRIu64
		"; the first that is none's is row %lld%s%s",
		total, s->self.chunks, r ? (long long)sqlite3_column_int64(stmt, 0) : 0LL,
		name ? ", of a file that is not said to be in chunks: " : "", name ? name : "");
	return 0;
}

/* Entries of a table of nested catalogs, or bind mountpoints, without a row that is a mountpoint. */
static int check_strays(
	struct scan *s, const char *table, uint64_t found, uint32_t flag, enum lm_check_kind kind, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	char sql[128];
	int64_t total = 0, last = INT64_MIN;
	snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s NOT INDEXED", table);
	int r = lm_db_number(&s->db.db, sql, &total, err);
	if (r < 0 || (uint64_t)total == found)
		return r;
	snprintf(sql, sizeof(sql), "SELECT path, rowid FROM %s NOT INDEXED ORDER BY rowid", table);
	r = lm_db_prepare(&s->db.db, sql, &stmt, err);
	while (r == 0 && (r = lm_db_step(&s->db.db, stmt, err)) > 0) {
		const char *path = (const char *)sqlite3_column_text(stmt, 0);
		if (sqlite3_column_int64(stmt, 1) <= last)
			return lm_err_set(err, -EPROTO, "the rows of %s are out of order", table);
		last = sqlite3_column_int64(stmt, 1);
		CLEANUP(lm_stmt_resetp) sqlite3_stmt *row = s->by_path;
		lm_bind_path(row, path ? lm_path_hash(path, strlen(path)) : (struct lm_path_hash){0, 0});
		r = lm_db_step(&s->db.db, row, err);
		if (r < 0)
			return r;
		if (r == 0 || !(sqlite3_column_int64(row, LM_COL_FLAGS) & flag))
			lm_check_found(s->check, kind, LM_PLACE(s->ref->path, path),
				"a catalog is named for this path, but %s",
				r ? "its row is no mountpoint" : "there is no such row");
		r = 0;
	}
	return r;
}

static int link_cmp(const void *a, const void *b)
{
	const struct link *x = a, *y = b;
	if (x->group != y->group)
		return x->group < y->group ? -1 : 1;
	if (x->dir != y->dir)
		return x->dir < y->dir ? -1 : 1;
	return x->rowid < y->rowid ? -1 : x->rowid > y->rowid;
}

/* Puts the path of a row into s->path, for a message. */
static void path_of_row(struct scan *s, uint64_t rowid)
{
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(LM_REPO_PATH_MAX);
	if (lm_catalog_open(s->db_path, s->ref->path, &catalog, NULL) < 0 ||
		lm_catalog_path_of(catalog, rowid, &path, NULL) < 0)
		lm_buf_clear(&path);
	snprintf(s->path, sizeof(s->path), "%s", lm_buf_cstr(&path));
}

/* The members of a group in one directory: either each counts itself alone, or all count these. */
static void check_group_dir(struct scan *s, const struct link *links, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (links[i].count == links[0].count && (links[i].count <= 1 || links[i].count == count))
			continue;
		path_of_row(s, links[i].rowid);
		lm_check_found(s->check, LM_CHECK_HARD_LINK, HERE(s),
			"its link count is %u, its group %u has %zu members in this directory", links[i].count,
			links[i].group, count);
		return;
	}
}

static void check_group(struct scan *s, const struct link *links, size_t count)
{
	for (size_t i = 0, end; i < count; i = end) {
		for (end = i; end < count && links[end].dir == links[i].dir; end++)
			;
		check_group_dir(s, links + i, end - i);
	}
	for (size_t i = 1; i < count; i++) {
		if (links[i].digest == links[0].digest)
			continue;
		path_of_row(s, links[i].rowid);
		lm_check_found(s->check, LM_CHECK_HARD_LINK, HERE(s),
			"it differs from another member of its group %u; all are one file, with one content, mode and "
			"time",
			links[i].group);
		return;
	}
}

static void check_links(struct scan *s)
{
	if (s->link_count > 0)
		qsort(s->links, s->link_count, sizeof(*s->links), link_cmp);
	for (size_t i = 0, end; i < s->link_count; i = end) {
		for (end = i; end < s->link_count && s->links[end].group == s->links[i].group; end++)
			;
		check_group(s, s->links + i, end - i);
	}
	if (s->link_count == LINKS_MAX)
		lm_check_found(s->check, LM_CHECK_UNVERIFIED, WHOLE(s),
			"more than %d hard links, the rest was not checked", LINKS_MAX);
}

static int check_counters(struct scan *s, struct lm_check_facts *ret, struct lm_err *err)
{
	struct lm_counters stored = {0};
	struct lm_err why = LM_ERR_INIT;
	int r = lm_counters_read(&s->db, &stored, &ret->subtree, &why);
	if (r < 0 && r != -EPROTO)
		return lm_err_set(err, r, "%s", why.msg);
	if (r < 0) {
		lm_check_found(s->check, LM_CHECK_COUNTER, WHOLE(s), "%s: clients refuse such a catalog", why.msg);
		return 0;
	}
	ret->counters = true;
	for (size_t i = 0; i < LM_COUNTER_COUNT && !s->skipped; i++) {
		uint64_t said = *lm_counter_at(&stored, i), counted = *lm_counter_at(&s->self, i);
		if (said != counted && lm_counter_names[i].since <= s->db.revision)
			lm_check_found(s->check, LM_CHECK_COUNTER, WHOLE(s), "self_%s is %" PRIu64 ", counted %" PRIu64,
				lm_counter_names[i].name, said, counted);
	}
	return 0;
}

/* A property that is a number. *ret stays where it is missing or none (reported). */
static int check_number(struct scan *s, const char *key, bool wanted, uint64_t *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *text = NULL;
	struct lm_err why = LM_ERR_INIT;
	int r = lm_db_property(&s->db.db, key, &text, &why);
	if (r == -ENOENT) {
		if (wanted)
			lm_check_found(s->check, LM_CHECK_TOLERATED, WHOLE(s), "no property %s", key);
		return 0;
	}
	if (r < 0 && r != -EPROTO)
		return lm_err_set(err, r, "%s", why.msg);
	if (r < 0 || lm_str_u64(text, strlen(text), ret) < 0)
		lm_check_found(
			s->check, LM_CHECK_PROPERTY, WHOLE(s), "property %s is no number: '%s'", key, text ? text : "");
	return 0;
}

static int check_previous(struct scan *s, struct lm_err *err)
{
	CLEANUP(lm_freep) char *text = NULL;
	struct lm_err why = LM_ERR_INIT;
	struct lm_hash hash;
	int r = lm_db_property(&s->db.db, "previous_revision", &text, &why);
	if (r == -ENOMEM)
		return lm_err_oom(err);
	if (r == -EPROTO || (r == 0 && *text && lm_hash_parse(text, strlen(text), &hash, NULL) < 0))
		lm_check_found(s->check, LM_CHECK_PROPERTY, WHOLE(s), "property previous_revision is no hash: '%s'",
			text ? text : "");
	return 0;
}

static int check_properties(struct scan *s, struct lm_err *err)
{
	const struct lm_check_ref *ref = s->ref;
	uint64_t revision = ref->revision, modified, ttl = s->check->manifest.ttl_s;
	bool newest = ref->depth == 0 && lm_hash_equal(&ref->hash, &s->check->manifest.catalog);
	int r = check_number(s, "revision", true, &revision, err);
	if (r == 0)
		r = check_number(s, "last_modified", true, &modified, err);
	if (r == 0)
		r = check_number(s, "TTL", false, &ttl, err);
	if (r == 0)
		r = check_previous(s, err);
	if (r < 0)
		return r;
	if (ref->revision != UINT64_MAX && revision != ref->revision)
		lm_check_found(s->check, LM_CHECK_PROPERTY, WHOLE(s),
			"property revision is %" PRIu64 ", what names this root says %" PRIu64, revision,
			ref->revision);
	if (newest && ttl != s->check->manifest.ttl_s)
		lm_check_found(s->check, LM_CHECK_TOLERATED, WHOLE(s),
			"property TTL is %" PRIu64 ", the manifest says %" PRIu64 "; clients go by the property", ttl,
			s->check->manifest.ttl_s);
	if (s->db.revision < LM_SCHEMA_REVISION)
		lm_check_found(s->check, LM_CHECK_SCHEMA, WHOLE(s), "an older revision of the schema: %u of %d",
			s->db.revision, LM_SCHEMA_REVISION);
	return 0;
}

static int check_whole(struct scan *s, struct lm_check_facts *ret, struct lm_err *err)
{
	int r = check_rows(s, err);
	if (r == 0)
		r = check_stray_chunks(s, err);
	if (r == 0)
		r = check_strays(s, "nested_catalogs", s->mountpoints, LM_ROW_MOUNTPOINT, LM_CHECK_NESTED, err);
	if (r == 0 && s->bind)
		r = check_strays(s, "bind_mountpoints", s->binds, LM_ROW_BIND, LM_CHECK_BIND, err);
	if (r == 0)
		r = check_properties(s, err);
	if (r == 0)
		r = check_counters(s, ret, err);
	if (r < 0)
		return r;
	check_links(s);
	if (s->ref->path[0] && !s->marker)
		lm_check_found(s->check, LM_CHECK_MARKER, LM_PLACE(s->ref->path, s->ref->path),
			"a nested catalog without a file " LM_CATALOG_MARKER " in its root");
	return 0;
}

static int scan_all(struct scan *s, struct lm_check_facts *ret, struct lm_err *err)
{
	int r = lm_check_integrity(s->check, &s->db.db, LM_CHECK_DATABASE, WHOLE(s), err);
	if (r == 0)
		r = prepare(s, err);
	if (r == 0)
		r = prepare_met(s, err);
	if (r == 0)
		r = check_root(s, ret, err);
	if (r == 0)
		r = walk(s, err);
	flush_rows(s);
	return r < 0 ? r : check_whole(s, ret, err);
}

/* 1: it is a catalog of this mountpoint. */
static int open_catalog(struct scan *s, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	int r = lm_db_open(s->db_path, &s->db.db, &why);
	if (r == 0)
		r = lm_catalog_db_check(&s->db, s->ref->path, &why);
	if (r == 0)
		return 1;
	if (r != -EPROTO && r != -EINVAL)
		return lm_err_set(err, r, "catalog of '%s': %s", s->ref->path, why.msg);
	lm_check_found(s->check, LM_CHECK_CATALOG_REFUSED, LM_PLACE(s->ref->path, s->ref->path), "%s", why.msg);
	return 0;
}

int lm_check_catalog(struct lm_check *check, const struct lm_check_ref *ref, const char *db_path,
	struct lm_check_facts *ret, struct lm_err *err)
{
	CLEANUP(scan_done) struct scan s = {.check = check, .ref = ref, .db_path = db_path};
	struct lm_err why = LM_ERR_INIT;
	struct stat st;
	*ret = (struct lm_check_facts){0};
	s.path_len = strlen(ref->path);
	memcpy(s.path, ref->path, s.path_len + 1);
	if (stat(db_path, &st) < 0)
		return lm_err_sys(err, -errno, "scratch file %s", db_path);
	int r = open_catalog(&s, err);
	if (r <= 0)
		return r;
	r = scan_all(&s, ret, &why);
	if (r < 0 && r != -EPROTO)
		return lm_err_set(err, r, "catalog of '%s': %s", ref->path, why.msg);
	if (r < 0)
		lm_check_found(
			check, LM_CHECK_DATABASE, WHOLE(&s), "%s; the rest of this catalog can't be checked", why.msg);
	ret->complete = r == 0 && !s.skipped;
	ret->size = (uint64_t)st.st_size;
	ret->self = s.self;
	ret->schema = s.db.revision;
	return 1;
}
