/* The end of a catalog's making or changing: what follows from its rows. */
#include "repo/catalog_writer_internal.h"

#include <inttypes.h>
#include <stdio.h>

/* Every row is in a directory that this catalog lists itself (16387: directory, mountpoint, bind mountpoint). */
static int check_tree(struct lm_catalog_writer *w, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(&w->db.db,
		"SELECT name FROM catalog AS c WHERE rowid <> 1 AND NOT EXISTS "
		"(SELECT 1 FROM catalog AS p INDEXED BY sqlite_autoindex_catalog_1 WHERE p.md5path_1 = c.parent_1 AND "
		"p.md5path_2 = c.parent_2 AND p.flags & 16387 = 1) LIMIT 1",
		&stmt, err);
	if (r == 0)
		r = lm_db_step(&w->db.db, stmt, err);
	if (r > 0)
		return lm_err_set(err, -EINVAL, "'%s' is in no directory of this catalog",
			(const char *)sqlite3_column_text(stmt, 0));
	return r;
}

static int set_dir_links(struct lm_catalog_writer *w, struct lm_err *err)
{
	return lm_db_exec(&w->db.db,
		"UPDATE catalog SET hardlinks = 2 + (SELECT count(*) FROM catalog AS c INDEXED BY idx_catalog_parent "
		"WHERE c.parent_1 = catalog.md5path_1 AND c.parent_2 = catalog.md5path_2 AND c.flags & 1) "
		"WHERE flags & 16387 = 1",
		err);
}

struct member {
	uint64_t rowid, digest;
	struct lm_path_hash parent;
	uint64_t hardlinks;
};

struct member_list {
	struct member *items;
	size_t count, cap;
};

static void member_list_done(struct member_list *list)
{
	free(list->items);
}

static int member_list_add(struct member_list *list, struct member member, struct lm_err *err)
{
	struct member *grown = lm_grown(list->items, list->count, &list->cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	list->items = grown;
	list->items[list->count++] = member;
	return 0;
}

static int member_read(struct lm_catalog_writer *w, sqlite3_stmt *stmt, struct member *ret, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	size_t count = 0;
	int r = lm_row_decode(&w->db, stmt, &row, err);
	if (r == 0)
		r = lm_catalog_writer_chunks(w, &row, 0, UINT64_MAX, &chunks, &count, err);
	if (r < 0)
		return r;
	uint64_t digest = lm_row_digest(&row);
	for (size_t i = 0; i < count; i++)
		digest = lm_chunk_digest(digest, &chunks[i]);
	*ret = (struct member){row.rowid, digest, row.parent, (uint64_t)row.link_group << 32 | row.link_count};
	return 0;
}

static int members_read(struct lm_catalog_writer *w, struct member_list *list, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_row_prepare(&w->db, "WHERE hardlinks > 4294967295 AND NOT flags & 1", &stmt, err);
	while (r == 0 && (r = lm_db_step(&w->db.db, stmt, err)) > 0) {
		struct member member;
		r = member_read(w, stmt, &member, err);
		if (r == 0)
			r = member_list_add(list, member, err);
	}
	return r;
}

static int member_cmp(const void *a, const void *b)
{
	const struct member *x = a, *y = b;
	uint64_t group_x = x->hardlinks >> 32, group_y = y->hardlinks >> 32;
	if (group_x != group_y)
		return group_x < group_y ? -1 : 1;
	return x->rowid < y->rowid ? -1 : x->rowid > y->rowid;
}

/* What each member of a group has to say: see "Hard links" in catalog.h. */
static uint64_t group_links(const struct member *members, size_t count)
{
	bool one_dir = true, alike = count > 1;
	for (size_t i = 1; i < count; i++) {
		one_dir &= lm_path_hash_equal(members[i].parent, members[0].parent);
		alike &= members[i].digest == members[0].digest;
	}
	if (!alike)
		return 1;
	return (members[0].hardlinks >> 32 << 32) | (one_dir ? count : 1);
}

static int set_group_links(struct lm_catalog_writer *w, struct lm_err *err)
{
	CLEANUP(member_list_done) struct member_list list = {0};
	sqlite3_stmt *stmt = NULL;
	int r = members_read(w, &list, err);
	if (r == 0)
		r = lm_writer_use(w, LM_STMT_LINKS_UPDATE, &stmt, err);
	if (r < 0 || list.count == 0)
		return r;
	qsort(list.items, list.count, sizeof(*list.items), member_cmp);
	for (size_t i = 0, next; i < list.count; i = next) {
		for (next = i + 1; next < list.count; next++)
			if (list.items[next].hardlinks >> 32 != list.items[i].hardlinks >> 32)
				break;
		uint64_t links = group_links(&list.items[i], next - i);
		for (size_t k = i; k < next && r == 0; k++) {
			if (list.items[k].hardlinks == links)
				continue;
			sqlite3_bind_int64(stmt, 1, (int64_t)list.items[k].rowid);
			sqlite3_bind_int64(stmt, 2, (int64_t)links);
			r = lm_db_run(&w->db.db, stmt, err);
		}
	}
	return r;
}

/*
 * Row ids: 1 to the number of rows, since clients set that range aside for inodes
 */

struct rowid_list {
	uint64_t *items;
	size_t count, cap;
};

static void rowid_list_done(struct rowid_list *list)
{
	free(list->items);
}

static int rowid_list_add(struct rowid_list *list, uint64_t rowid, struct lm_err *err)
{
	uint64_t *grown = lm_grown(list->items, list->count, &list->cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	list->items = grown;
	list->items[list->count++] = rowid;
	return 0;
}

/* The numbers up to rows that no row has, and as many rows that have a higher one. */
static int find_holes(struct lm_catalog_writer *w, uint64_t rows, struct rowid_list *holes, struct rowid_list *beyond,
	struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	uint64_t expected = 1;
	int r = lm_db_prepare(&w->db.db, "SELECT rowid FROM catalog NOT INDEXED ORDER BY rowid", &stmt, err);
	while (r == 0 && (r = lm_db_step(&w->db.db, stmt, err)) > 0) {
		uint64_t rowid = (uint64_t)sqlite3_column_int64(stmt, 0);
		for (r = 0; expected < LM_MIN(rowid, rows + 1) && r == 0; expected++)
			r = rowid_list_add(holes, expected, err);
		expected = rowid + 1;
		if (r == 0 && rowid > rows)
			r = rowid_list_add(beyond, rowid, err);
	}
	return r;
}

static int fill_holes(struct lm_catalog_writer *w, struct lm_err *err)
{
	CLEANUP(rowid_list_done) struct rowid_list holes = {0};
	CLEANUP(rowid_list_done) struct rowid_list beyond = {0};
	sqlite3_stmt *stmt = NULL;
	int64_t rows = 0, last = 0;
	int r = lm_db_number(&w->db.db, "SELECT count(*) FROM catalog", &rows, err);
	if (r == 0)
		r = lm_db_number(&w->db.db, "SELECT max(rowid) FROM catalog", &last, err);
	if (r < 0 || rows == last)
		return r;
	r = find_holes(w, (uint64_t)rows, &holes, &beyond, err);
	if (r == 0)
		r = lm_writer_use(w, LM_STMT_ROWID_UPDATE, &stmt, err);
	for (size_t i = 0; i < LM_MIN(holes.count, beyond.count) && r == 0; i++) {
		sqlite3_bind_int64(stmt, 1, (int64_t)beyond.items[i]);
		sqlite3_bind_int64(stmt, 2, (int64_t)holes.items[i]);
		r = lm_db_run(&w->db.db, stmt, err);
	}
	return r;
}

/*
 * Statistics and properties
 */

/* Where the sums in the file could not be trusted. */
static int recount_subtree(struct lm_catalog_writer *w, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	struct lm_counters all = {0};
	int r = lm_nested_prepare(&w->db, "nested_catalogs", "", &stmt, err);
	while (r == 0 && (r = lm_db_step(&w->db.db, stmt, err)) > 0) {
		struct lm_nested nested;
		struct lm_counters sum;
		r = lm_nested_decode(&w->db, stmt, &nested, err);
		if (r < 0)
			return r;
		r = lm_writer_child_sum(w, &nested, &sum, err);
		free(nested.path);
		if (r == 0)
			lm_counters_add(&all, &sum);
	}
	if (r == 0)
		w->subtree = all;
	return r;
}

static int store_counters(
	struct lm_catalog_writer *w, const char *prefix, struct lm_counters *counters, struct lm_err *err)
{
	sqlite3_stmt *kept;
	int r = lm_writer_use(w, LM_STMT_STATISTIC, &kept, err);
	if (r < 0)
		return r;
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = kept;
	for (size_t i = 0; i < LM_COUNTER_COUNT && r == 0; i++) {
		char name[64];
		uint64_t value = *lm_counter_at(counters, i);
		snprintf(name, sizeof(name), "%s_%s", prefix, lm_counter_names[i].name);
		if (value > INT64_MAX)
			return lm_err_set(err, -EPROTO, "%s of this and of its nested catalogs do not fit", name);
		sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
		sqlite3_bind_int64(stmt, 2, (int64_t)value);
		r = lm_db_run(&w->db.db, stmt, err);
	}
	return r;
}

static int store_props(struct lm_catalog_writer *w, const struct lm_catalog_props *props, struct lm_err *err)
{
	struct lm_db *db = &w->db.db;
	struct lm_hash_text previous = lm_hash_text(&props->previous);
	int r = lm_db_set_property_number(db, "revision", (int64_t)props->revision, err);
	if (r == 0)
		r = lm_db_set_property_number(db, "last_modified", props->last_modified_s, err);
	if (r == 0)
		r = lm_db_set_property(db, "previous_revision", props->previous.set ? previous.s : NULL, err);
	if (r < 0)
		return r;
	return props->ttl_s ? lm_db_set_property_number(db, "TTL", (int64_t)props->ttl_s, err)
			    : lm_db_set_property(db, "TTL", NULL, err);
}

/* Closes the file; one that is empty for the most part after rows went is made anew, since clients load all of it. */
static int shrink(struct lm_catalog_writer *w, struct lm_err *err)
{
	int64_t pages = 0, free_pages = 0;
	int r = lm_db_number(&w->db.db, "PRAGMA page_count", &pages, err);
	if (r == 0)
		r = lm_db_number(&w->db.db, "PRAGMA freelist_count", &free_pages, err);
	lm_writer_close_db(w);
	return r < 0 || free_pages <= pages / 2 ? r : lm_catalog_rebuild(w->path, w->db.mountpoint, err);
}

int lm_catalog_writer_finish(struct lm_catalog_writer *w, const struct lm_catalog_props *props,
	struct lm_counters *ret_self, struct lm_counters *ret_subtree, struct lm_err *err)
{
	struct lm_counters self;
	int r = lm_writer_make_parent_index(w, err);
	if (r == 0)
		r = check_tree(w, err);
	if (r == 0)
		r = set_dir_links(w, err);
	if (r == 0)
		r = set_group_links(w, err);
	if (r == 0)
		r = fill_holes(w, err);
	if (r == 0)
		r = lm_counters_count(&w->db, &self, err);
	if (r == 0 && w->recount)
		r = recount_subtree(w, err);
	if (r == 0)
		r = store_counters(w, "self", &self, err);
	if (r == 0)
		r = store_counters(w, "subtree", &w->subtree, err);
	if (r == 0)
		r = store_props(w, props, err);
	if (r == 0)
		r = lm_db_exec(&w->db.db, "COMMIT", err);
	if (r < 0)
		return lm_err_prefix(err, r, "catalog of '%s'", w->db.mountpoint);
	r = shrink(w, err);
	if (r < 0)
		return r;
	*ret_self = self;
	*ret_subtree = w->subtree;
	return 0;
}
