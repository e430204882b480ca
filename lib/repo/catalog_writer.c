#include "repo/catalog_writer_internal.h"

#include "base/buf.h"
#include "repo/xattr.h"

#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <sys/stat.h>

static const char *const stmt_sql[LM_STMT_COUNT] = {
	[LM_STMT_INSERT] =
		"INSERT INTO catalog (rowid, md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, "
		"mtime, mtimens, flags, name, symlink, uid, gid, xattr) "
		"VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
	[LM_STMT_UPDATE] =
		"UPDATE catalog SET hardlinks = ?6, hash = ?7, size = ?8, mode = ?9, mtime = ?10, mtimens = ?11, "
		"flags = ?12, symlink = ?14, uid = ?15, gid = ?16, xattr = ?17 WHERE rowid = ?1",
	[LM_STMT_DELETE] = "DELETE FROM catalog WHERE md5path_1 = ?1 AND md5path_2 = ?2",
	[LM_STMT_CHUNK_INSERT] =
		"INSERT INTO chunks (md5path_1, md5path_2, offset, size, hash) VALUES (?1, ?2, ?3, ?4, ?5)",
	[LM_STMT_CHUNKS_DELETE] = "DELETE FROM chunks WHERE md5path_1 = ?1 AND md5path_2 = ?2",
	[LM_STMT_CHUNKS] = LM_CHUNKS_SELECT,
	[LM_STMT_CHILDREN] = "SELECT md5path_1, md5path_2 FROM catalog INDEXED BY idx_catalog_parent "
			     "WHERE parent_1 = ?1 AND parent_2 = ?2",
	[LM_STMT_NESTED_INSERT] = "INSERT INTO nested_catalogs (path, sha1, size) VALUES (?1, ?2, ?3)",
	[LM_STMT_NESTED_DELETE] = "DELETE FROM nested_catalogs WHERE path = ?1",
	[LM_STMT_BINDS_DELETE] = "DELETE FROM bind_mountpoints WHERE path >= ?1 AND path < ?2",
	[LM_STMT_LINKS_UPDATE] = "UPDATE catalog SET hardlinks = ?2 WHERE rowid = ?1",
	[LM_STMT_ROWID_UPDATE] = "UPDATE catalog SET rowid = ?2 WHERE rowid = ?1",
	[LM_STMT_STATISTIC] = "INSERT OR REPLACE INTO statistics (counter, value) VALUES (?1, ?2)",
};

/* A nested catalog named by this writer. */
struct child {
	char *path;
	struct lm_counters sum; /* self and subtree */
};

int lm_writer_use(struct lm_catalog_writer *w, enum lm_writer_stmt id, sqlite3_stmt **ret, struct lm_err *err)
{
	int r = w->stmts[id] ? 0 : lm_db_prepare(&w->db.db, stmt_sql[id], &w->stmts[id], err);
	*ret = w->stmts[id];
	return r;
}

/*
 * Rows
 */

static int lookup(struct lm_catalog_writer *w, struct lm_path_hash path, struct lm_row *ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = w->by_path;
	lm_bind_path(stmt, path);
	int r = lm_db_step(&w->db.db, stmt, err);
	if (r < 0)
		return r;
	return r == 0 ? lm_err_set(err, -ENOENT, "no such row") : lm_row_decode(&w->db, stmt, ret, err);
}

int lm_catalog_writer_lookup(struct lm_catalog_writer *w, const char *path, struct lm_row *ret, struct lm_err *err)
{
	return lookup(w, lm_path_hash(path, strlen(path)), ret, err);
}

int lm_catalog_writer_list(
	struct lm_catalog_writer *w, const char *path, lm_catalog_row_fn *fn, void *arg, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_writer_make_parent_index(w, err);
	if (r == 0)
		r = lm_row_prepare(&w->db, LM_ROW_BY_PARENT, &stmt, err);
	if (r < 0)
		return r;
	lm_bind_path(stmt, lm_path_hash(path, strlen(path)));
	sqlite3_bind_int64(stmt, 3, 0);
	while ((r = lm_db_step(&w->db.db, stmt, err)) > 0) {
		CLEANUP(lm_row_done) struct lm_row row = {0};
		r = lm_row_decode(&w->db, stmt, &row, err);
		if (r == 0)
			r = fn(arg, &row);
		if (r != 0)
			return r;
	}
	return r;
}

static int check_content(const struct lm_row *row, const struct lm_chunk *chunks, size_t count, struct lm_err *err)
{
	if (!S_ISREG(row->mode))
		return count > 0 || row->hash.set ? lm_err_set(err, -EINVAL, "content of something that is no file")
						  : 0;
	if (count == 0 && !row->hash.set)
		return lm_err_set(err, -EINVAL, "file without a content hash");
	uint64_t at = 0;
	for (size_t i = 0; i < count; i++) {
		if (chunks[i].offset != at || chunks[i].size == 0 || chunks[i].size > row->size - at)
			return lm_err_set(err, -EINVAL, "chunks that do not follow one another");
		if (!chunks[i].hash.set || chunks[i].hash.algo != row->algo)
			return lm_err_set(err, -EINVAL, "chunk with another kind of hash");
		at += chunks[i].size;
	}
	if (count > 0 && at != row->size)
		return lm_err_set(err, -EINVAL, "chunks of %" PRIu64 " of %" PRIu64 " bytes", at, row->size);
	if (count > 0 && row->hash.set && row->hash.algo != row->algo)
		return lm_err_set(err, -EINVAL, "chunks and bulk object with different kinds of hash");
	return 0;
}

static int check_row(const struct lm_row *row, struct lm_err *err)
{
	if (row->mode > 0177777 || lm_row_type_flags(row->mode) == 0)
		return lm_err_set(err, -EINVAL, "unknown type in mode 0%o", row->mode);
	size_t target = row->symlink ? strlen(row->symlink) : 0;
	if (S_ISLNK(row->mode) && (target == 0 || target > LM_SYMLINK_MAX))
		return lm_err_set(err, -EINVAL, "link target of %zu bytes", target);
	if (row->size > INT64_MAX || row->rdev > INT64_MAX || row->mtime_ns > 999999999)
		return lm_err_set(err, -EINVAL, "size, device or time out of range");
	if (row->link_group > LM_GROUP_MAX)
		return lm_err_set(err, -EINVAL, "hard-link group %" PRIu32, row->link_group);
	if (row->xattr_len > LM_XATTR_BLOB_MAX)
		return lm_err_set(err, -EINVAL, "attributes of %zu bytes", row->xattr_len);
	return 0;
}

static int64_t stored_size(const struct lm_row *row)
{
	switch (row->mode & S_IFMT) {
	case S_IFCHR:
	case S_IFBLK:
		return (int64_t)row->rdev;
	case S_IFLNK:
		return (int64_t)strlen(row->symlink);
	case S_IFREG:
	case S_IFDIR:
		return (int64_t)row->size;
	default:
		return 0;
	}
}

/* Link counts are the caller's for mountpoints only: the others are put right by finish. */
static int64_t stored_links(const struct lm_row *row, uint32_t flags)
{
	if (flags & LM_ROW_DIR)
		return flags & (LM_ROW_MOUNTPOINT | LM_ROW_BIND) ? row->link_count : 2;
	return (int64_t)((uint64_t)row->link_group << 32 | 1);
}

static int64_t stored_flags(const struct lm_row *row, uint32_t flags, bool chunked)
{
	if (!chunked && !row->hash.set)
		return flags;
	uint32_t algo = chunked ? row->algo : row->hash.algo;
	return flags | (chunked ? LM_ROW_CHUNKED : 0) | algo << LM_ROW_ALGO_SHIFT |
	       (uint32_t)row->compression << LM_ROW_COMPRESSION_SHIFT;
}

static int write_chunks(struct lm_catalog_writer *w, struct lm_path_hash path, const struct lm_chunk *chunks,
	size_t count, struct lm_err *err)
{
	sqlite3_stmt *stmt;
	int r = count > 0 ? lm_writer_use(w, LM_STMT_CHUNK_INSERT, &stmt, err) : 0;
	for (size_t i = 0; i < count && r == 0; i++) {
		lm_bind_path(stmt, path);
		sqlite3_bind_int64(stmt, 3, (int64_t)chunks[i].offset);
		sqlite3_bind_int64(stmt, 4, (int64_t)chunks[i].size);
		sqlite3_bind_blob(stmt, 5, chunks[i].hash.bytes, LM_HASH_BYTES, SQLITE_STATIC);
		r = lm_db_run(&w->db.db, stmt, err);
	}
	return r;
}

/* Writes a row by INSERT or UPDATE, both of which have the same parameters. more_flags: what is not in the mode. */
static int write_row(struct lm_catalog_writer *w, enum lm_writer_stmt id, uint64_t rowid, const char *path,
	const struct lm_row *row, uint32_t more_flags, const struct lm_chunk *chunks, size_t count, struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *reset = NULL;
	sqlite3_stmt *stmt;
	int r = lm_writer_use(w, id, &stmt, err);
	if (r < 0)
		return r;
	reset = stmt;
	size_t len = strlen(path);
	size_t name = len > 0 ? lm_repo_path_name(path) : 0;
	struct lm_path_hash self = lm_path_hash(path, len);
	struct lm_path_hash parent = len > 0 ? lm_path_hash(path, name - 1) : (struct lm_path_hash){0, 0};
	uint32_t flags = lm_row_type_flags(row->mode) | more_flags;

	sqlite3_bind_int64(stmt, 1, (int64_t)rowid);
	sqlite3_bind_int64(stmt, 2, self.a);
	sqlite3_bind_int64(stmt, 3, self.b);
	sqlite3_bind_int64(stmt, 4, parent.a);
	sqlite3_bind_int64(stmt, 5, parent.b);
	sqlite3_bind_int64(stmt, 6, stored_links(row, flags));
	if (row->hash.set)
		sqlite3_bind_blob(stmt, 7, row->hash.bytes, LM_HASH_BYTES, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 8, stored_size(row));
	sqlite3_bind_int64(stmt, 9, row->mode);
	sqlite3_bind_int64(stmt, 10, row->mtime_s);
	sqlite3_bind_int64(stmt, 11, row->mtime_ns);
	sqlite3_bind_int64(stmt, 12, stored_flags(row, flags, count > 0));
	sqlite3_bind_text(stmt, 13, path + name, (int)(len - name), SQLITE_STATIC);
	sqlite3_bind_text(stmt, 14, S_ISLNK(row->mode) ? row->symlink : "", -1, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 15, row->uid);
	sqlite3_bind_int64(stmt, 16, row->gid);
	if (row->xattr_len > 0)
		sqlite3_bind_blob(stmt, 17, row->xattr, (int)row->xattr_len, SQLITE_STATIC);
	r = lm_db_run(&w->db.db, stmt, err);
	if (w->last_group >= 0)
		w->last_group = LM_MAX(w->last_group, (int64_t)row->link_group);
	return r < 0 ? r : write_chunks(w, self, chunks, count, err);
}

int lm_writer_insert_row(struct lm_catalog_writer *w, const char *path, const struct lm_row *row, uint32_t more_flags,
	const struct lm_chunk *chunks, size_t count, struct lm_err *err)
{
	int r = write_row(w, LM_STMT_INSERT, w->next_rowid, path, row, more_flags, chunks, count, err);
	if (r == -EEXIST)
		return lm_err_set(err, r, "it is there already");
	w->next_rowid += r == 0;
	return r;
}

static int check_path(const struct lm_catalog_writer *w, const char *path, struct lm_err *err)
{
	if (!lm_repo_path_valid(path) || !lm_repo_path_below(path, w->db.mountpoint))
		return lm_err_set(err, -EINVAL, "no path in the catalog of '%s'", w->db.mountpoint);
	return 0;
}

uint32_t lm_row_own_flags(const struct lm_row *row)
{
	uint32_t flags = row->flags & LM_ROW_HIDDEN;
	return S_ISREG(row->mode) ? flags | (row->flags & (LM_ROW_EXTERNAL | LM_ROW_DIRECT_IO)) : flags;
}

int lm_catalog_insert(struct lm_catalog_writer *w, const char *path, const struct lm_row *row,
	const struct lm_chunk *chunks, size_t chunk_count, struct lm_err *err)
{
	int r = check_path(w, path, err);
	if (r == 0)
		r = check_row(row, err);
	if (r == 0)
		r = check_content(row, chunks, chunk_count, err);
	if (r == 0)
		r = lm_writer_insert_row(w, path, row, lm_row_own_flags(row), chunks, chunk_count, err);
	return r < 0 ? lm_err_prefix(err, r, "'%s'", path) : 0;
}

int lm_catalog_writer_new_group(struct lm_catalog_writer *w, uint32_t *ret, struct lm_err *err)
{
	if (w->last_group < 0) {
		int r = lm_db_number(
			&w->db.db, "SELECT max(hardlinks >> 32) FROM catalog WHERE NOT flags & 1", &w->last_group, err);
		if (r < 0)
			return r;
	}
	if (w->last_group >= LM_GROUP_MAX)
		return lm_err_set(err, -EPROTO, "the numbers of hard-link groups are used up");
	*ret = (uint32_t)++w->last_group;
	return 0;
}

/*
 * Nested catalogs and their counters
 */

static int child_cmp(const void *a, const void *b)
{
	return strcmp(((const struct child *)a)->path, ((const struct child *)b)->path);
}

static void child_free(void *p)
{
	struct child *child = p;
	if (child)
		free(child->path);
	free(child);
}

static void counters_sub(struct lm_counters *sum, const struct lm_counters *less)
{
	struct lm_counters copy = *less;
	for (size_t i = 0; i < LM_COUNTER_COUNT; i++)
		*lm_counter_at(sum, i) -= *lm_counter_at(&copy, i);
}

static int child_remember(
	struct lm_catalog_writer *w, const char *path, const struct lm_counters *sum, struct lm_err *err)
{
	struct child *child = calloc(1, sizeof(*child));
	if (!child)
		return lm_err_oom(err);
	child->path = strdup(path);
	child->sum = *sum;
	if (!child->path || !tsearch(child, &w->children, child_cmp)) {
		child_free(child);
		return lm_err_oom(err);
	}
	return 0;
}

int lm_writer_child_sum(
	struct lm_catalog_writer *w, const struct lm_nested *nested, struct lm_counters *ret, struct lm_err *err)
{
	struct child key = {.path = nested->path};
	struct child **found = tfind(&key, &w->children, child_cmp);
	if (found) {
		*ret = (*found)->sum;
		return 0;
	}
	if (!w->child_fn)
		return lm_err_set(err, -EINVAL, "nobody knows the counters of nested catalog '%s'", nested->path);
	struct lm_counters self, subtree;
	int r = w->child_fn(w->child_arg, nested, &self, &subtree, err);
	if (r < 0)
		return r;
	lm_counters_add(&self, &subtree);
	*ret = self;
	return 0;
}

static void child_forget(struct lm_catalog_writer *w, const char *path)
{
	struct child key = {.path = (char *)path};
	struct child **found = tfind(&key, &w->children, child_cmp);
	if (!found)
		return;
	struct child *child = *found;
	tdelete(&key, &w->children, child_cmp);
	child_free(child);
}

int lm_writer_nested_first(
	struct lm_catalog_writer *w, const char *low, const char *high, struct lm_nested *ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = w->nested_from;
	sqlite3_bind_text(stmt, 1, low, -1, SQLITE_STATIC);
	sqlite3_bind_text(stmt, 2, high, -1, SQLITE_STATIC);
	int r = lm_db_step(&w->db.db, stmt, err);
	if (r < 0)
		return r;
	return r == 0 ? -ENOENT : lm_nested_decode(&w->db, stmt, ret, err);
}

int lm_writer_nested_delete(struct lm_catalog_writer *w, const struct lm_nested *nested, struct lm_err *err)
{
	struct lm_counters sum;
	sqlite3_stmt *kept;
	int r = lm_writer_child_sum(w, nested, &sum, err);
	if (r == 0)
		r = lm_writer_use(w, LM_STMT_NESTED_DELETE, &kept, err);
	if (r < 0)
		return r;
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = kept;
	sqlite3_bind_text(stmt, 1, nested->path, -1, SQLITE_STATIC);
	r = lm_db_run(&w->db.db, stmt, err);
	if (r < 0)
		return r;
	child_forget(w, nested->path);
	counters_sub(&w->subtree, &sum);
	return 0;
}

int lm_writer_nested_insert(
	struct lm_catalog_writer *w, const struct lm_nested *nested, const struct lm_counters *sum, struct lm_err *err)
{
	sqlite3_stmt *kept;
	int r = lm_writer_use(w, LM_STMT_NESTED_INSERT, &kept, err);
	if (r < 0)
		return r;
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = kept;
	struct lm_hash_text text = lm_hash_text(&nested->hash);
	sqlite3_bind_text(stmt, 1, nested->path, -1, SQLITE_STATIC);
	sqlite3_bind_text(stmt, 2, text.s, -1, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 3, (int64_t)nested->size);
	r = lm_db_run(&w->db.db, stmt, err);
	if (r == 0)
		r = child_remember(w, nested->path, sum, err);
	if (r == 0)
		lm_counters_add(&w->subtree, sum);
	return r;
}

static int binds_drop_range(struct lm_catalog_writer *w, const char *low, const char *high, struct lm_err *err)
{
	sqlite3_stmt *kept;
	int r = lm_writer_use(w, LM_STMT_BINDS_DELETE, &kept, err);
	if (r < 0)
		return r;
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = kept;
	sqlite3_bind_text(stmt, 1, low, -1, SQLITE_STATIC);
	sqlite3_bind_text(stmt, 2, high, -1, SQLITE_STATIC);
	return lm_db_run(&w->db.db, stmt, err);
}

static int nested_drop_range(struct lm_catalog_writer *w, const char *low, const char *high, struct lm_err *err)
{
	struct lm_nested nested;
	int r;
	while ((r = lm_writer_nested_first(w, low, high, &nested, err)) == 0) {
		CLEANUP(lm_freep) char *path = nested.path;
		(void)path; /* used by nothing but its end, which clang takes for no use */
		r = lm_writer_nested_delete(w, &nested, err);
		if (r < 0)
			return r == -ENOENT ? -EPROTO : r;
	}
	return r < 0 && r != -ENOENT ? r : binds_drop_range(w, low, high, err);
}

/* Entries at path and below it. In byte order, what is below comes between "path/" and "path0". */
static int nested_drop(struct lm_catalog_writer *w, const char *path, struct lm_err *err)
{
	char low[LM_REPO_PATH_MAX + 2], high[LM_REPO_PATH_MAX + 2];
	snprintf(high, sizeof(high), "%s\x01", path);
	int r = nested_drop_range(w, path, high, err);
	if (r < 0)
		return r;
	snprintf(low, sizeof(low), "%s/", path);
	snprintf(high, sizeof(high), "%s0", path);
	return nested_drop_range(w, low, high, err);
}

int lm_catalog_writer_nested(struct lm_catalog_writer *w, const char *path, struct lm_nested *ret, struct lm_err *err)
{
	char high[LM_REPO_PATH_MAX + 2];
	if (!lm_repo_path_valid(path))
		return lm_err_set(err, -EINVAL, "'%s' is no path in a repository", path);
	snprintf(high, sizeof(high), "%s\x01", path);
	int r = lm_writer_nested_first(w, path, high, ret, err);
	return r == -ENOENT ? lm_err_set(err, r, "no nested catalog at '%s'", path) : r;
}

void lm_catalog_writer_set_child_fn(struct lm_catalog_writer *w, lm_catalog_child_fn *fn, void *arg)
{
	w->child_fn = fn;
	w->child_arg = arg;
}

/*
 * Removing
 */

struct hash_list {
	struct lm_path_hash *items;
	size_t count, cap;
};

static void hash_list_done(struct hash_list *list)
{
	free(list->items);
}

static int hash_list_add(struct hash_list *list, struct lm_path_hash hash, struct lm_err *err)
{
	struct lm_path_hash *grown = lm_grown(list->items, list->count, &list->cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	list->items = grown;
	list->items[list->count++] = hash;
	return 0;
}

int lm_writer_make_parent_index(struct lm_catalog_writer *w, struct lm_err *err)
{
	int r = w->indexed ? 0 : lm_db_exec(&w->db.db, lm_catalog_parent_index, err);
	if (r == 0)
		w->indexed = true;
	return r;
}

static int add_children(
	struct lm_catalog_writer *w, struct lm_path_hash dir, struct hash_list *list, struct lm_err *err)
{
	sqlite3_stmt *kept;
	int r = lm_writer_use(w, LM_STMT_CHILDREN, &kept, err);
	if (r < 0)
		return r;
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = kept;
	lm_bind_path(stmt, dir);
	while (r == 0 && (r = lm_db_step(&w->db.db, stmt, err)) > 0) {
		struct lm_path_hash child = {sqlite3_column_int64(stmt, 0), sqlite3_column_int64(stmt, 1)};
		r = hash_list_add(list, child, err);
	}
	return r;
}

static int delete_by_path(
	struct lm_catalog_writer *w, enum lm_writer_stmt id, struct lm_path_hash path, struct lm_err *err)
{
	sqlite3_stmt *stmt;
	int r = lm_writer_use(w, id, &stmt, err);
	if (r < 0)
		return r;
	lm_bind_path(stmt, path);
	return lm_db_run(&w->db.db, stmt, err);
}

/* All rows below a directory. A row that is gone has no children listed again, so this ends whatever the rows say. */
/* Above all that there are: numbers of rows that went are used again. */
static int find_next_rowid(struct lm_catalog_writer *w, struct lm_err *err)
{
	int64_t last = 0;
	int r = lm_db_number(&w->db.db, "SELECT max(rowid) FROM catalog", &last, err);
	if (r == 0)
		w->next_rowid = (uint64_t)last + 1;
	return r;
}

int lm_writer_remove_below(struct lm_catalog_writer *w, const char *path, struct lm_err *err)
{
	CLEANUP(hash_list_done) struct hash_list list = {0};
	int r = nested_drop(w, path, err);
	if (r == 0)
		r = lm_writer_make_parent_index(w, err);
	if (r == 0)
		r = add_children(w, lm_path_hash(path, strlen(path)), &list, err);
	while (r == 0 && list.count > 0) {
		struct lm_path_hash row = list.items[--list.count];
		r = delete_by_path(w, LM_STMT_CHUNKS_DELETE, row, err);
		if (r == 0)
			r = delete_by_path(w, LM_STMT_DELETE, row, err);
		if (r == 0 && sqlite3_changes(w->db.db.sqlite) > 0)
			r = add_children(w, row, &list, err);
	}
	return r < 0 ? r : find_next_rowid(w, err);
}

static int remove_path(struct lm_catalog_writer *w, const char *path, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	int r = lm_catalog_writer_lookup(w, path, &row, err);
	if (r < 0)
		return r;
	if (S_ISDIR(row.mode))
		r = lm_writer_remove_below(w, path, err);
	if (r == 0)
		r = delete_by_path(w, LM_STMT_CHUNKS_DELETE, row.path, err);
	return r < 0 ? r : delete_by_path(w, LM_STMT_DELETE, row.path, err);
}

int lm_catalog_remove(struct lm_catalog_writer *w, const char *path, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	int r = check_path(w, path, &why);
	if (r == 0)
		r = remove_path(w, path, &why);
	return r == 0 || r == -ENOENT ? 0 : lm_err_set(err, r, "'%s': %s", path, why.msg);
}

/*
 * Replacing
 */

int lm_writer_replace(struct lm_catalog_writer *w, const char *path, const struct lm_row *row, uint32_t more_flags,
	bool dir_stays, const struct lm_chunk *chunks, size_t chunk_count, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row old = {0};
	struct lm_err why = LM_ERR_INIT;
	int r = lm_catalog_writer_lookup(w, path, &old, &why);
	if (r == -ENOENT)
		return lm_writer_insert_row(w, path, row, more_flags, chunks, chunk_count, err);
	if (r < 0)
		return lm_err_set(err, r, "%s", why.msg);
	if (S_ISDIR(old.mode) && S_ISDIR(row->mode) && dir_stays && old.flags & (LM_ROW_MOUNTPOINT | LM_ROW_BIND))
		return lm_err_set(err, -EBUSY, "is the mountpoint of a nested catalog");
	if (S_ISDIR(old.mode) && !(S_ISDIR(row->mode) && dir_stays))
		r = lm_writer_remove_below(w, path, err);
	if (r == 0)
		r = delete_by_path(w, LM_STMT_CHUNKS_DELETE, old.path, err);
	return r < 0 ? r : write_row(w, LM_STMT_UPDATE, old.rowid, path, row, more_flags, chunks, chunk_count, err);
}

int lm_catalog_put(struct lm_catalog_writer *w, const char *path, const struct lm_row *row,
	const struct lm_chunk *chunks, size_t chunk_count, struct lm_err *err)
{
	bool is_root = strcmp(path, w->db.mountpoint) == 0;
	uint32_t flags = lm_row_own_flags(row) | (is_root && *path ? LM_ROW_NESTED_ROOT : 0);
	int r = is_root ? 0 : check_path(w, path, err);
	if (r == 0 && is_root && !S_ISDIR(row->mode))
		r = lm_err_set(err, -EINVAL, "the root of a catalog is a directory");
	if (r == 0)
		r = check_row(row, err);
	if (r == 0)
		r = check_content(row, chunks, chunk_count, err);
	if (r == 0)
		r = lm_writer_replace(w, path, row, flags, true, chunks, chunk_count, err);
	return r < 0 ? lm_err_prefix(err, r, "'%s'", path) : 0;
}

int lm_catalog_set_nested(struct lm_catalog_writer *w, const char *path, const struct lm_hash *hash, uint64_t size,
	const struct lm_row *root, const struct lm_counters *self, const struct lm_counters *subtree,
	struct lm_err *err)
{
	struct lm_nested nested = {.path = (char *)path, .hash = *hash, .size = size};
	struct lm_counters sum = *self;
	lm_counters_add(&sum, subtree);

	int r = check_path(w, path, err);
	if (r == 0)
		r = check_row(root, err);
	if (r == 0 && !S_ISDIR(root->mode))
		r = lm_err_set(err, -EINVAL, "the root of a catalog is a directory");
	if (r == 0)
		r = lm_writer_replace(
			w, path, root, LM_ROW_MOUNTPOINT | (root->flags & LM_ROW_HIDDEN), false, NULL, 0, err);
	if (r == 0)
		r = lm_writer_nested_insert(w, &nested, &sum, err);
	return r < 0 ? lm_err_prefix(err, r, "'%s'", path) : 0;
}

int lm_catalog_writer_chunks(struct lm_catalog_writer *w, const struct lm_row *row, uint64_t offset, uint64_t len,
	struct lm_chunk **ret, size_t *ret_count, struct lm_err *err)
{
	sqlite3_stmt *stmt;
	int r = lm_writer_use(w, LM_STMT_CHUNKS, &stmt, err);
	return r < 0 ? r : lm_chunks_read(&w->db.db, stmt, row, offset, len, ret, ret_count, err);
}

/*
 * Beginning and end
 */

static struct lm_catalog_writer *writer_new(const char *path)
{
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = calloc(1, sizeof(*w));
	if (!w)
		return NULL;
	w->last_group = -1;
	w->path = strdup(path);
	return w->path ? STEAL(w) : NULL;
}

static int prepare_kept(struct lm_catalog_writer *w, struct lm_err *err)
{
	int r = lm_row_prepare(&w->db, LM_ROW_BY_PATH, &w->by_path, err);
	return r < 0 ? r
		     : lm_nested_prepare(&w->db, "nested_catalogs",
			       "WHERE path >= ?1 AND path < ?2 ORDER BY path LIMIT 1", &w->nested_from, err);
}

static int create(struct lm_catalog_writer *w, const char *mountpoint, const struct lm_row *root, struct lm_err *err)
{
	if (!lm_repo_path_valid(mountpoint))
		return lm_err_set(err, -EINVAL, "no path in a repository");
	if (!S_ISDIR(root->mode))
		return lm_err_set(err, -EINVAL, "the root of a catalog is a directory");
	int r = check_row(root, err);
	if (r < 0)
		return r;
	w->db.revision = LM_SCHEMA_REVISION;
	w->db.root = lm_path_hash(mountpoint, strlen(mountpoint));
	w->db.mountpoint = strdup(mountpoint);
	if (!w->db.mountpoint)
		return lm_err_oom(err);
	r = lm_db_create(w->path, &w->db.db, err);
	if (r == 0)
		r = lm_db_exec(&w->db.db, "BEGIN", err);
	if (r == 0)
		r = lm_db_exec(&w->db.db, lm_catalog_tables, err);
	if (r == 0)
		r = prepare_kept(w, err);
	if (r == 0)
		r = lm_db_set_property(&w->db.db, "schema", LM_SCHEMA_VERSION, err);
	if (r == 0)
		r = lm_db_set_property_number(&w->db.db, "schema_revision", LM_SCHEMA_REVISION, err);
	if (r == 0 && *mountpoint)
		r = lm_db_set_property(&w->db.db, "root_prefix", mountpoint, err);
	if (r == 0)
		r = write_row(w, LM_STMT_INSERT, 1, mountpoint, root,
			(*mountpoint ? LM_ROW_NESTED_ROOT : 0) | (root->flags & LM_ROW_HIDDEN), NULL, 0, err);
	w->next_rowid = 2;
	return r;
}

int lm_catalog_create(const char *path, const char *mountpoint, const struct lm_row *root,
	struct lm_catalog_writer **ret, struct lm_err *err)
{
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = writer_new(path);
	if (!w)
		return lm_err_oom(err);
	int r = create(w, mountpoint, root, err);
	if (r < 0)
		return lm_err_prefix(err, r, "catalog of '%s'", mountpoint);
	*ret = STEAL(w);
	return 0;
}

static int open_checked(struct lm_catalog_writer *w, const char *mountpoint, struct lm_err *err)
{
	int r = lm_db_open_edit(w->path, &w->db.db, err);
	return r < 0 ? r : lm_catalog_db_check(&w->db, mountpoint, err);
}

/* Older schemas are brought up to date first. */
static int open_current(struct lm_catalog_writer *w, const char *mountpoint, struct lm_err *err)
{
	int r = open_checked(w, mountpoint, err);
	if (r < 0 || w->db.revision == LM_SCHEMA_REVISION)
		return r;
	lm_catalog_db_done(&w->db);
	w->recount = true;
	r = lm_catalog_rebuild(w->path, mountpoint, err);
	return r < 0 ? r : open_checked(w, mountpoint, err);
}

static int edit(struct lm_catalog_writer *w, const char *mountpoint, struct lm_err *err)
{
	int r = open_current(w, mountpoint, err);
	if (r == 0)
		r = lm_db_exec(&w->db.db, "BEGIN", err);
	if (r == 0)
		r = prepare_kept(w, err);
	if (r == 0)
		r = find_next_rowid(w, err);
	struct lm_counters self;
	return r < 0 || w->recount ? r : lm_counters_read(&w->db, &self, &w->subtree, err);
}

int lm_catalog_edit(const char *path, const char *mountpoint, struct lm_catalog_writer **ret, struct lm_err *err)
{
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = writer_new(path);
	if (!w)
		return lm_err_oom(err);
	int r = edit(w, mountpoint, err);
	if (r < 0)
		return lm_err_prefix(err, r, "catalog of '%s'", mountpoint);
	*ret = STEAL(w);
	return 0;
}

void lm_writer_close_db(struct lm_catalog_writer *w)
{
	for (size_t i = 0; i < LM_STMT_COUNT; i++)
		lm_stmt_finalizep(&w->stmts[i]);
	lm_stmt_finalizep(&w->by_path);
	lm_stmt_finalizep(&w->nested_from);
	lm_db_close(&w->db.db);
}

void lm_catalog_writer_free(struct lm_catalog_writer *w)
{
	if (!w)
		return;
	lm_writer_close_db(w);
	lm_catalog_db_done(&w->db);
	tdestroy(w->children, child_free);
	free(w->path);
	free(w);
}
