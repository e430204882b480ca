#include "repo/catalog_schema.h"

#include "base/lock.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

enum {
	BATCH = 64,		     /* rows read under the lock before the caller sees them */
	GROUP_MEMBERS_MAX = 4 << 20, /* of all hard-link groups of a catalog */
	TTL_DEFAULT_S = 240,
};

struct group {
	uint64_t rowid; /* the lowest one */
	uint32_t group;
	uint32_t members;
};

struct lm_catalog {
	struct lm_catalog_db db; /* constant after open, its database under lock */
	uint64_t revision, ttl_s;

	struct lm_lock lock;
	/* under lock */
	sqlite3_stmt *by_path, *by_rowid, *by_parent; /* whole rows */
	sqlite3_stmt *chunks;
	sqlite3_stmt *nested, *bind;
	sqlite3_stmt *by_half;		  /* whole rows; from here on prepared on first use */
	sqlite3_stmt *up_rowid, *up_path; /* name and parent */
	sqlite3_stmt *nested_after, *bind_after;
	struct group *groups; /* by number, those whose members agree; read on first use */
	size_t group_count;
	bool groups_read;
};

/* What is asked of most catalogs; together they also look at the columns and indexes of all tables. */
static int prepare(struct lm_catalog *c, struct lm_err *err)
{
	int r = lm_row_prepare(&c->db, LM_ROW_BY_PATH, &c->by_path, err);
	if (r == 0)
		r = lm_row_prepare(&c->db, LM_ROW_BY_ROWID, &c->by_rowid, err);
	if (r == 0)
		r = lm_row_prepare(&c->db, LM_ROW_BY_PARENT, &c->by_parent, err);
	if (r == 0)
		r = lm_db_prepare(&c->db.db, LM_CHUNKS_SELECT, &c->chunks, err);
	if (r == 0)
		r = lm_nested_prepare(&c->db, "nested_catalogs", "WHERE path = ?1", &c->nested, err);
	if (r == 0 && c->db.revision >= LM_SCHEMA_HAS_BIND)
		r = lm_nested_prepare(&c->db, "bind_mountpoints", "WHERE path = ?1", &c->bind, err);
	return r;
}

static int prepare_up(struct lm_catalog *c, const char *where, sqlite3_stmt **stmt, struct lm_err *err)
{
	if (*stmt)
		return 0;
	char sql[256];
	snprintf(sql, sizeof(sql), "SELECT md5path_1, md5path_2, parent_1, parent_2, name FROM catalog %s", where);
	return lm_db_prepare(&c->db.db, sql, stmt, err);
}

static int prepare_after(struct lm_catalog *c, const char *table, sqlite3_stmt **stmt, struct lm_err *err)
{
	return *stmt ? 0 : lm_nested_prepare(&c->db, table, "WHERE path > ?1 ORDER BY path", stmt, err);
}

int lm_catalog_open(const char *path, const char *mountpoint, struct lm_catalog **ret, struct lm_err *err)
{
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = calloc(1, sizeof(*c));
	if (!c)
		return lm_err_oom(err);
	lm_lock_init(&c->lock);
	int r = lm_db_open(path, &c->db.db, err);
	if (r == 0)
		r = lm_catalog_db_check(&c->db, mountpoint, err);
	if (r == 0)
		r = prepare(c, err);
	if (r == 0)
		r = lm_db_property_number(&c->db.db, "revision", 0, &c->revision, err);
	if (r == 0)
		r = lm_db_property_number(&c->db.db, "TTL", TTL_DEFAULT_S, &c->ttl_s, err);
	if (r < 0)
		return mountpoint ? lm_err_prefix(err, r, "catalog of '%s'", mountpoint)
				  : lm_err_prefix(err, r, "catalog");
	*ret = STEAL(c);
	return 0;
}

void lm_catalog_close(struct lm_catalog *c)
{
	if (!c)
		return;
	sqlite3_stmt *stmts[] = {c->by_path, c->by_rowid, c->by_parent, c->by_half, c->up_rowid, c->up_path, c->chunks,
		c->nested, c->nested_after, c->bind, c->bind_after};
	for (size_t i = 0; i < ARRAY_LEN(stmts); i++)
		sqlite3_finalize(stmts[i]);
	lm_catalog_db_done(&c->db);
	lm_lock_done(&c->lock);
	free(c->groups);
	free(c);
}

uint64_t lm_catalog_memory(void)
{
	return (uint64_t)sqlite3_memory_used();
}

int lm_catalog_reserve(size_t bytes, struct lm_err *err)
{
	return lm_db_reserve(bytes, err);
}

const char *lm_catalog_mountpoint(const struct lm_catalog *c)
{
	return c->db.mountpoint;
}

unsigned lm_catalog_schema(const struct lm_catalog *c)
{
	return c->db.revision;
}

uint64_t lm_catalog_revision(const struct lm_catalog *c)
{
	return c->revision;
}

uint64_t lm_catalog_ttl(const struct lm_catalog *c)
{
	return c->ttl_s;
}

/* The one row of a statement whose parameters are bound. */
static int step_row(struct lm_catalog *c, sqlite3_stmt *stmt, struct lm_row *ret, struct lm_err *err)
{
	int r = lm_db_step(&c->db.db, stmt, err);
	if (r < 0)
		return r;
	return r == 0 ? lm_err_set(err, -ENOENT, "no such row") : lm_row_decode(&c->db, stmt, ret, err);
}

int lm_catalog_lookup(struct lm_catalog *c, struct lm_path_hash path, struct lm_row *ret, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = c->by_path;
	lm_bind_path(stmt, path);
	int r = step_row(c, stmt, ret, err);
	return r < 0 && r != -ENOENT ? lm_err_prefix(err, r, "catalog of '%s'", c->db.mountpoint) : r;
}

/* The caller's row is empty after a failure, as it was before. */
static int step_only_row(struct lm_catalog *c, sqlite3_stmt *stmt, struct lm_row *ret, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	int r = step_row(c, stmt, &row, err);
	if (r == 0)
		r = lm_db_step(&c->db.db, stmt, err);
	if (r > 0)
		return lm_err_set(err, -EPROTO, "row %llu: another one's path has the same half of a hash",
			(unsigned long long)row.rowid);
	if (r < 0)
		return r;
	*ret = row;
	row = (struct lm_row){0};
	return 0;
}

int lm_catalog_lookup_half(struct lm_catalog *c, int64_t half, struct lm_row *ret, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	int r = c->by_half ? 0 : lm_row_prepare(&c->db, LM_ROW_BY_HALF, &c->by_half, err);
	if (r == 0) {
		CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = c->by_half;
		sqlite3_bind_int64(stmt, 1, half);
		r = step_only_row(c, stmt, ret, err);
	}
	return r < 0 && r != -ENOENT ? lm_err_prefix(err, r, "catalog of '%s'", c->db.mountpoint) : r;
}

int lm_catalog_row(struct lm_catalog *c, uint64_t rowid, struct lm_row *ret, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = c->by_rowid;
	sqlite3_bind_int64(stmt, 1, (int64_t)rowid);
	int r = step_row(c, stmt, ret, err);
	return r < 0 && r != -ENOENT ? lm_err_prefix(err, r, "catalog of '%s'", c->db.mountpoint) : r;
}

struct batch {
	struct lm_row rows[BATCH];
	size_t count;
	uint64_t last; /* row id read last, malformed ones too */
	bool end;
};

static void batch_clear(struct batch *batch)
{
	for (size_t i = 0; i < batch->count; i++)
		lm_row_done(&batch->rows[i]);
	batch->count = 0;
}

/* The next rows of a directory; what is wrong with the first malformed one is kept in bad. */
static int batch_read(
	struct lm_catalog *c, struct lm_path_hash parent, struct batch *batch, struct lm_err *bad, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = c->by_parent;
	lm_bind_path(stmt, parent);
	sqlite3_bind_int64(stmt, 3, (int64_t)LM_MIN(batch->last, (uint64_t)INT64_MAX));
	while (batch->count < BATCH) {
		struct lm_err why = LM_ERR_INIT;
		struct lm_row *row = &batch->rows[batch->count];
		int r = lm_db_step(&c->db.db, stmt, err);
		if (r <= 0) {
			batch->end = true;
			return r;
		}
		uint64_t rowid = (uint64_t)sqlite3_column_int64(stmt, 0);
		if (rowid <= batch->last)
			return lm_err_set(err, -EPROTO, "the rows of a directory are out of order");
		batch->last = rowid;
		r = lm_row_decode(&c->db, stmt, row, &why);
		if (r == 0)
			batch->count++;
		else if (r != -EPROTO)
			return lm_err_set(err, r, "%s", why.msg);
		else if (bad->code == 0)
			*bad = why;
	}
	return 0;
}

/* Batches, since the callback must run without the lock: it may ask the catalog for more. */
int lm_catalog_list(struct lm_catalog *c, struct lm_path_hash parent, uint64_t after, lm_catalog_row_fn *fn, void *arg,
	struct lm_err *err)
{
	CLEANUP(lm_freep) struct batch *batch = calloc(1, sizeof(*batch));
	if (!batch)
		return lm_err_oom(err);
	struct lm_err bad = LM_ERR_INIT;
	batch->last = after;
	int r = 0;
	while (r == 0 && !batch->end) {
		r = batch_read(c, parent, batch, &bad, err);
		if (r < 0)
			r = lm_err_prefix(err, r, "catalog of '%s'", c->db.mountpoint);
		for (size_t i = 0; i < batch->count && r == 0; i++)
			r = fn(arg, &batch->rows[i]);
		batch_clear(batch);
	}
	if (r == 0 && bad.code != 0)
		r = lm_err_set(err, bad.code, "catalog of '%s': %s", c->db.mountpoint, bad.msg);
	return r;
}

/* A path that is put together from its end. */
struct path_builder {
	size_t start;
	char text[LM_REPO_PATH_MAX + 1];
};

static int path_prepend(struct path_builder *path, const char *text, size_t len, struct lm_err *err)
{
	if (len > path->start)
		return lm_err_set(err, -EPROTO, "its parents form no path");
	path->start -= len;
	memcpy(path->text + path->start, text, len);
	return 0;
}

/* One step up: puts the name of the row before the path and gives its parent. Longer than any path ends the walk. */
static int walk_up(struct lm_catalog *c, sqlite3_stmt *stmt, struct path_builder *path, struct lm_path_hash *ret_self,
	struct lm_path_hash *ret_parent, struct lm_err *err)
{
	int r = lm_db_step(&c->db.db, stmt, err);
	if (r < 0)
		return r;
	if (r == 0)
		return lm_err_set(err, -ENOENT, "no such row");
	*ret_self = (struct lm_path_hash){sqlite3_column_int64(stmt, 0), sqlite3_column_int64(stmt, 1)};
	*ret_parent = (struct lm_path_hash){sqlite3_column_int64(stmt, 2), sqlite3_column_int64(stmt, 3)};
	if (lm_path_hash_equal(*ret_self, c->db.root))
		return path_prepend(path, c->db.mountpoint, strlen(c->db.mountpoint), err);
	const char *name = (const char *)sqlite3_column_text(stmt, 4);
	size_t len = (size_t)sqlite3_column_bytes(stmt, 4);
	if (!name || sqlite3_column_type(stmt, 4) != SQLITE_TEXT || !lm_name_valid(name, len))
		return lm_err_set(err, -EPROTO, "its parents form no path");
	r = path_prepend(path, name, len, err);
	return r < 0 ? r : path_prepend(path, "/", 1, err);
}

static int walk_to_root(struct lm_catalog *c, uint64_t rowid, struct path_builder *path, struct lm_err *err)
{
	struct lm_path_hash first = {0, 0}, self, parent = {0, 0};
	LM_LOCKED(&c->lock);
	int r = prepare_up(c, LM_ROW_BY_ROWID, &c->up_rowid, err);
	if (r == 0)
		r = prepare_up(c, LM_ROW_BY_PATH, &c->up_path, err);
	if (r < 0)
		return r;
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *from = c->up_rowid;
	sqlite3_bind_int64(from, 1, (int64_t)rowid);
	r = walk_up(c, from, path, &first, &parent, err);
	self = first;
	while (r == 0 && !lm_path_hash_equal(self, c->db.root)) {
		CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = c->up_path;
		lm_bind_path(stmt, parent);
		r = walk_up(c, stmt, path, &self, &parent, err);
		if (r == -ENOENT)
			r = lm_err_set(err, -EPROTO, "it has a parent that is missing");
	}
	if (r < 0)
		return r;
	struct lm_path_hash found = lm_path_hash(path->text + path->start, sizeof(path->text) - 1 - path->start);
	return lm_path_hash_equal(found, first) ? 0 : lm_err_set(err, -EPROTO, "its parents form another path");
}

int lm_catalog_path_of(struct lm_catalog *c, uint64_t rowid, struct lm_buf *ret, struct lm_err *err)
{
	struct path_builder path;
	path.start = sizeof(path.text) - 1;
	path.text[path.start] = '\0';
	int r = walk_to_root(c, rowid, &path, err);
	if (r == -ENOENT)
		return r;
	if (r < 0)
		return lm_err_prefix(err, r, "catalog of '%s': row %" PRIu64, c->db.mountpoint, rowid);
	r = lm_buf_append(ret, path.text + path.start, sizeof(path.text) - 1 - path.start);
	return r < 0 ? lm_err_sys(err, r, "path of row %" PRIu64, rowid) : 0;
}

int lm_catalog_chunks(struct lm_catalog *c, const struct lm_row *row, uint64_t offset, uint64_t len,
	struct lm_chunk **ret, size_t *ret_count, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	int r = lm_chunks_read(&c->db.db, c->chunks, row, offset, len, ret, ret_count, err);
	return r < 0 ? lm_err_prefix(err, r, "catalog of '%s': row %" PRIu64, c->db.mountpoint, row->rowid) : 0;
}

/*
 * Hard-link groups. All members must be alike, or the group does not count: they would share one inode.
 */

struct member {
	uint64_t rowid;
	uint64_t digest; /* of all that must be alike */
	uint32_t group;
};

struct members {
	struct member *items;
	size_t count, cap;
};

static void members_done(struct members *members)
{
	free(members->items);
}

static int row_digest(struct lm_catalog *c, const struct lm_row *row, uint64_t *ret, struct lm_err *err)
{
	uint64_t digest = lm_row_digest(row);
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	size_t count = 0;
	int r = lm_chunks_read(&c->db.db, c->chunks, row, 0, UINT64_MAX, &chunks, &count, err);
	for (size_t i = 0; i < count && r == 0; i++)
		digest = lm_chunk_digest(digest, &chunks[i]);
	if (r == 0)
		*ret = digest;
	return r;
}

static int members_add(struct members *members, struct member member, struct lm_err *err)
{
	if (members->count == GROUP_MEMBERS_MAX)
		return lm_err_set(err, -EPROTO, "more than %d hard links", GROUP_MEMBERS_MAX);
	struct member *grown = lm_grown(members->items, members->count, &members->cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	members->items = grown;
	members->items[members->count++] = member;
	return 0;
}

/* A malformed row is nobody's member: it can't be looked up either. */
static int members_read(struct lm_catalog *c, struct members *members, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_row_prepare(&c->db, "NOT INDEXED WHERE hardlinks > 4294967295 ORDER BY rowid", &stmt, err);
	uint64_t last = 0;
	while (r == 0 && (r = lm_db_step(&c->db.db, stmt, err)) > 0) {
		CLEANUP(lm_row_done) struct lm_row row = {0};
		struct lm_err why = LM_ERR_INIT;
		struct member member = {0};
		r = lm_row_decode(&c->db, stmt, &row, &why);
		if (r == 0 && row.rowid <= last)
			return lm_err_set(err, -EPROTO, "the rows are out of order");
		last = LM_MAX(last, row.rowid);
		if (r == 0)
			r = row_digest(c, &row, &member.digest, &why);
		if (r == -EPROTO || (r == 0 && row.link_group == 0)) {
			r = 0;
			continue;
		}
		member.rowid = row.rowid;
		member.group = row.link_group;
		r = r < 0 ? lm_err_set(err, r, "%s", why.msg) : members_add(members, member, err);
	}
	return r;
}

static int member_cmp(const void *a, const void *b)
{
	const struct member *x = a, *y = b;
	if (x->group != y->group)
		return x->group < y->group ? -1 : 1;
	return x->rowid < y->rowid ? -1 : x->rowid > y->rowid;
}

static int groups_make(struct lm_catalog *c, struct members *members, struct lm_err *err)
{
	if (members->count > 0)
		qsort(members->items, members->count, sizeof(*members->items), member_cmp);
	size_t count = 0;
	for (size_t i = 0; i < members->count; i++)
		count += i == 0 || members->items[i].group != members->items[i - 1].group;
	c->groups = calloc(LM_MAX(count, 1u), sizeof(*c->groups));
	if (!c->groups)
		return lm_err_oom(err);
	for (size_t i = 0, next; i < members->count; i = next) {
		const struct member *first = &members->items[i];
		bool alike = true;
		for (next = i; next < members->count && members->items[next].group == first->group; next++)
			alike &= members->items[next].digest == first->digest;
		if (alike)
			c->groups[c->group_count++] = (struct group){
				.group = first->group, .rowid = first->rowid, .members = (uint32_t)(next - i)};
	}
	c->groups_read = true;
	return 0;
}

static int groups_read(struct lm_catalog *c, struct lm_err *err)
{
	CLEANUP(members_done) struct members members = {0};
	int r = members_read(c, &members, err);
	if (r == 0)
		r = groups_make(c, &members, err);
	return r < 0 ? lm_err_prefix(err, r, "catalog of '%s': hard links", c->db.mountpoint) : 0;
}

static int group_cmp(const void *key, const void *element)
{
	uint32_t number = *(const uint32_t *)key;
	const struct group *group = element;
	return number < group->group ? -1 : number > group->group;
}

int lm_catalog_group(
	struct lm_catalog *c, uint32_t number, uint64_t *ret_rowid, uint32_t *ret_members, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	int r = c->groups_read ? 0 : groups_read(c, err);
	if (r < 0)
		return r;
	const struct group *group =
		c->group_count ? bsearch(&number, c->groups, c->group_count, sizeof(*c->groups), group_cmp) : NULL;
	if (!group)
		return lm_err_set(err, -ENOENT, "no hard-link group %" PRIu32 " whose members agree", number);
	*ret_rowid = group->rowid;
	*ret_members = group->members;
	return 0;
}

static int nested_at(
	struct lm_catalog *c, sqlite3_stmt *kept, const char *path, struct lm_nested *ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = kept;
	sqlite3_bind_text(stmt, 1, path, -1, SQLITE_STATIC);
	int r = lm_db_step(&c->db.db, stmt, err);
	if (r < 0)
		return r;
	return r == 0 ? lm_err_set(err, -ENOENT, "no nested catalog at '%s'", path)
		      : lm_nested_decode(&c->db, stmt, ret, err);
}

int lm_catalog_nested(struct lm_catalog *c, const char *path, struct lm_nested *ret, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	int r = nested_at(c, c->nested, path, ret, err);
	if (r == -ENOENT && c->bind)
		r = nested_at(c, c->bind, path, ret, err);
	return r < 0 && r != -ENOENT ? lm_err_prefix(err, r, "catalog of '%s'", c->db.mountpoint) : r;
}

struct nested_batch {
	struct lm_nested items[BATCH];
	size_t count;
	bool end;
};

static void nested_batch_done(struct nested_batch *batch)
{
	for (size_t i = 0; i < batch->count; i++)
		free(batch->items[i].path);
	batch->count = 0;
}

static int nested_batch_read(struct lm_catalog *c, const char *table, sqlite3_stmt **kept, const char *after,
	struct nested_batch *batch, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	int r = prepare_after(c, table, kept, err);
	if (r < 0)
		return r;
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = *kept;
	sqlite3_bind_text(stmt, 1, after, -1, SQLITE_STATIC);
	while (batch->count < BATCH) {
		struct lm_nested *item = &batch->items[batch->count];
		r = lm_db_step(&c->db.db, stmt, err);
		if (r <= 0) {
			batch->end = true;
			return r;
		}
		r = lm_nested_decode(&c->db, stmt, item, err);
		if (r < 0)
			return r;
		const char *last = batch->count > 0 ? item[-1].path : after;
		batch->count++;
		if (strcmp(item->path, last) <= 0)
			return lm_err_set(err, -EPROTO, "the nested catalogs are out of order");
	}
	return 0;
}

static int each_nested(struct lm_catalog *c, const char *table, sqlite3_stmt **stmt, lm_catalog_nested_fn *fn,
	void *arg, struct lm_err *err)
{
	CLEANUP(lm_freep) char *after = strdup("");
	bool end = false;
	int r = after ? 0 : lm_err_oom(err);
	while (r == 0 && !end) {
		CLEANUP(nested_batch_done) struct nested_batch batch = {0};
		r = nested_batch_read(c, table, stmt, after, &batch, err);
		if (r < 0)
			return lm_err_prefix(err, r, "catalog of '%s'", c->db.mountpoint);
		for (size_t i = 0; i < batch.count && r == 0; i++)
			r = fn(arg, &batch.items[i]);
		end = batch.end;
		if (batch.count > 0) {
			free(after);
			after = STEAL(batch.items[batch.count - 1].path);
		}
	}
	return r;
}

int lm_catalog_nested_each(struct lm_catalog *c, lm_catalog_nested_fn *fn, void *arg, struct lm_err *err)
{
	return each_nested(c, "nested_catalogs", &c->nested_after, fn, arg, err);
}

int lm_catalog_binds_each(struct lm_catalog *c, lm_catalog_nested_fn *fn, void *arg, struct lm_err *err)
{
	return c->bind ? each_nested(c, "bind_mountpoints", &c->bind_after, fn, arg, err) : 0;
}

/* NULL where there is none. */
static int digest_column(sqlite3_stmt *stmt, int column, const uint8_t **ret, struct lm_err *err)
{
	int type = sqlite3_column_type(stmt, column);
	int len = sqlite3_column_bytes(stmt, column);
	*ret = NULL;
	if (type == SQLITE_NULL || (type == SQLITE_BLOB && len == 0))
		return 0;
	if (type != SQLITE_BLOB || len != LM_HASH_BYTES)
		return lm_err_set(err, -EPROTO, "hash of %d bytes", len);
	*ret = sqlite3_column_blob(stmt, column);
	return *ret ? 0 : lm_err_oom(err);
}

static int each_object(struct lm_catalog *c, const char *table, enum lm_object_kind kind, lm_catalog_object_fn *fn,
	void *arg, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	char sql[64];
	snprintf(sql, sizeof(sql), "SELECT rowid, hash FROM %s NOT INDEXED", table);
	int r = lm_db_prepare(&c->db.db, sql, &stmt, err);
	while (r == 0 && (r = lm_db_step(&c->db.db, stmt, err)) > 0) {
		const uint8_t *digest;
		r = digest_column(stmt, 1, &digest, err);
		if (r < 0)
			return lm_err_prefix(err, r, "%s row %" PRId64, table, (int64_t)sqlite3_column_int64(stmt, 0));
		if (digest)
			r = fn(arg, kind, digest);
	}
	return r;
}

int lm_catalog_objects_each(struct lm_catalog *c, lm_catalog_object_fn *fn, void *arg, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	struct lm_err why = LM_ERR_INIT;
	int r = each_object(c, "catalog", LM_OBJECT_FILE, fn, arg, &why);
	if (r == 0)
		r = each_object(c, "chunks", LM_OBJECT_CHUNK, fn, arg, &why);
	if (why.code == 0)
		return r; /* the callback's */
	return lm_err_set(err, r, "catalog of '%s': %s", c->db.mountpoint, why.msg);
}

/* Forty zeros are how some writers say "none"; what is no hash at all names none either. */
static void parse_previous(const char *text, struct lm_hash *ret)
{
	static const uint8_t zeros[LM_HASH_BYTES];
	struct lm_hash hash;
	*ret = (struct lm_hash){0};
	if (lm_hash_parse(text, strlen(text), &hash, NULL) == 0 && memcmp(hash.bytes, zeros, sizeof(zeros)) != 0)
		*ret = hash;
}

int lm_catalog_origin(struct lm_catalog *c, int64_t *ret_modified_s, struct lm_hash *ret_previous, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	CLEANUP(lm_freep) char *previous = NULL;
	struct lm_err why = LM_ERR_INIT;
	uint64_t modified_s;
	int r = lm_db_property_number(&c->db.db, "last_modified", 0, &modified_s, &why);
	if (r == 0)
		r = lm_db_property(&c->db.db, "previous_revision", &previous, &why);
	if (r < 0 && r != -ENOENT)
		return lm_err_set(err, r, "catalog of '%s': %s", c->db.mountpoint, why.msg);
	*ret_modified_s = (int64_t)LM_MIN(modified_s, (uint64_t)INT64_MAX);
	parse_previous(previous ? previous : "", ret_previous);
	return 0;
}

/* The next rows up to and including a malformed one, which is what bad.code != 0 is about. */
struct any_batch {
	struct lm_row rows[BATCH];
	int64_t ids[BATCH];
	size_t count;
	struct lm_err bad;
	int64_t bad_id, last;
	bool end;
};

static int any_batch_read(struct lm_catalog *c, struct any_batch *batch, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_row_prepare(&c->db, "WHERE rowid > ?1 ORDER BY rowid", &stmt, err);
	if (r < 0)
		return r;
	sqlite3_bind_int64(stmt, 1, batch->last);
	while (batch->count < BATCH) {
		r = lm_db_step(&c->db.db, stmt, err);
		if (r <= 0) {
			batch->end = true;
			return r;
		}
		int64_t rowid = sqlite3_column_int64(stmt, LM_COL_ROWID);
		if (rowid <= batch->last)
			return lm_err_set(err, -EPROTO, "its rows are out of order");
		batch->last = rowid;
		r = lm_row_decode(&c->db, stmt, &batch->rows[batch->count], &batch->bad);
		batch->bad_id = rowid;
		if (r < 0)
			return r == -EPROTO ? 0 : lm_err_set(err, r, "%s", batch->bad.msg);
		batch->ids[batch->count++] = rowid;
	}
	return 0;
}

static void any_batch_free(struct any_batch *batch)
{
	for (size_t i = 0; batch && i < batch->count; i++)
		lm_row_done(&batch->rows[i]);
	free(batch);
}
LM_DEFINE_CLEANUP(struct any_batch, any_batch_free, any_batch_freep)

static int any_batch_tell(struct any_batch *batch, lm_catalog_any_row_fn *fn, void *arg)
{
	int r = 0;
	for (size_t i = 0; i < batch->count && r == 0; i++)
		r = fn(arg, batch->ids[i], &batch->rows[i], NULL);
	if (r == 0 && batch->bad.code != 0)
		r = fn(arg, batch->bad_id, NULL, &batch->bad);
	return r;
}

int lm_catalog_each(struct lm_catalog *c, lm_catalog_any_row_fn *fn, void *arg, struct lm_err *err)
{
	int64_t last = INT64_MIN;
	bool end = false;
	int r = 0;
	while (r == 0 && !end) {
		CLEANUP(any_batch_freep) struct any_batch *batch = calloc(1, sizeof(*batch));
		if (!batch)
			return lm_err_oom(err);
		batch->last = last;
		r = any_batch_read(c, batch, err);
		if (r < 0)
			return lm_err_prefix(err, r, "catalog of '%s'", c->db.mountpoint);
		r = any_batch_tell(batch, fn, arg);
		last = batch->last;
		end = batch->end;
	}
	return r;
}

int lm_catalog_properties_each(struct lm_catalog *c, lm_catalog_property_fn *fn, void *arg, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	struct lm_err why = LM_ERR_INIT;
	int r = lm_db_prepare(&c->db.db, "SELECT key, value FROM properties ORDER BY key", &stmt, &why);
	while (r == 0 && (r = lm_db_step(&c->db.db, stmt, &why)) > 0) {
		const char *key = (const char *)sqlite3_column_text(stmt, 0);
		const char *value = (const char *)sqlite3_column_text(stmt, 1);
		r = fn(arg, key ? key : "", value ? value : "");
	}
	if (why.code == 0)
		return r; /* the callback's */
	return lm_err_set(err, r, "catalog of '%s': %s", c->db.mountpoint, why.msg);
}

int lm_catalog_counters(
	struct lm_catalog *c, struct lm_counters *ret_self, struct lm_counters *ret_subtree, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	int r = lm_counters_read(&c->db, ret_self, ret_subtree, err);
	return r < 0 ? lm_err_prefix(err, r, "catalog of '%s'", c->db.mountpoint) : 0;
}
