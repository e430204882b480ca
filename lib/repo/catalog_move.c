/* Nested catalogs split off from the catalog above them and folded back into it. */
#include "repo/catalog_writer_internal.h"

#include "base/str.h"

#include <search.h>
#include <stdio.h>
#include <sys/stat.h>

/* The number that a hard-link group gets where it goes. */
struct group {
	uint32_t from, to;
};

struct move {
	struct lm_catalog_writer *from, *to;
	sqlite3_stmt *rows; /* of a directory in from */
	void *groups;	    /* tree of struct group */
	char **dirs;	    /* still to be gone through */
	size_t count, cap;
};

static void move_done(struct move *m)
{
	lm_stmt_finalizep(&m->rows);
	tdestroy(m->groups, free);
	for (size_t i = 0; i < m->count; i++)
		free(m->dirs[i]);
	free(m->dirs);
}

/* Takes ownership of path, whatever comes of it. */
static int push_dir(struct move *m, char *path, struct lm_err *err)
{
	char **grown = lm_grown(m->dirs, m->count, &m->cap, sizeof(*grown));
	if (!grown) {
		free(path);
		return lm_err_oom(err);
	}
	m->dirs = grown;
	m->dirs[m->count++] = path;
	return 0;
}

static int group_cmp(const void *a, const void *b)
{
	const struct group *x = a, *y = b;
	return x->from < y->from ? -1 : x->from > y->from;
}

static int map_group(struct move *m, uint32_t *group, struct lm_err *err)
{
	struct group key = {.from = *group};
	struct group **found = tfind(&key, &m->groups, group_cmp);
	if (!found) {
		struct group *made = malloc(sizeof(*made));
		if (!made)
			return lm_err_oom(err);
		made->from = *group;
		int r = lm_catalog_writer_new_group(m->to, &made->to, err);
		found = r == 0 ? tsearch(made, &m->groups, group_cmp) : NULL;
		if (!found) {
			free(made);
			return r < 0 ? r : lm_err_oom(err);
		}
	}
	*group = (*found)->to;
	return 0;
}

static int move_row(struct move *m, struct lm_row *row, const char *path, struct lm_err *err)
{
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	size_t count = 0;
	if (!lm_path_hash_equal(row->path, lm_path_hash(path, strlen(path))))
		return lm_err_set(err, -EPROTO, "its row is not for this path");
	int r = lm_catalog_writer_chunks(m->from, row, 0, UINT64_MAX, &chunks, &count, err);
	if (r == 0 && row->link_group)
		r = map_group(m, &row->link_group, err);
	if (r < 0)
		return r;
	uint32_t flags = row->flags & ~(uint32_t)(LM_ROW_TYPE_FLAGS | LM_ROW_CHUNKED | LM_ROW_NESTED_ROOT);
	return lm_writer_insert_row(m->to, path, row, flags, chunks, count, err);
}

/* One row of dir; a directory is gone through later. */
static int move_entry(struct move *m, const char *dir, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	int r = lm_row_decode(&m->from->db, m->rows, &row, err);
	if (r < 0)
		return r;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, row.name);
	if (!path)
		return lm_err_oom(err);
	r = strlen(path) > LM_REPO_PATH_MAX ? lm_err_set(err, -EPROTO, "a path of %zu bytes", strlen(path))
					    : move_row(m, &row, path, err);
	if (r < 0)
		return lm_err_prefix(err, r, "'%s'", path);
	return S_ISDIR(row.mode) && !(row.flags & (LM_ROW_MOUNTPOINT | LM_ROW_BIND)) ? push_dir(m, STEAL(path), err)
										     : 0;
}

static int move_dir(struct move *m, const char *dir, struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *rows = m->rows;
	lm_bind_path(rows, lm_path_hash(dir, strlen(dir)));
	sqlite3_bind_int64(rows, 3, 0);
	int r;
	while ((r = lm_db_step(&m->from->db.db, rows, err)) > 0) {
		r = move_entry(m, dir, err);
		if (r < 0)
			return r;
	}
	return r;
}

static int move_rows(struct move *m, const char *dir, struct lm_err *err)
{
	char *first = strdup(dir);
	int r = first ? lm_writer_make_parent_index(m->from, err) : lm_err_oom(err);
	if (r == 0)
		r = lm_row_prepare(&m->from->db, LM_ROW_BY_PARENT, &m->rows, err);
	if (r < 0) {
		free(first);
		return r;
	}
	r = push_dir(m, first, err);
	while (r == 0 && m->count > 0) {
		CLEANUP(lm_freep) char *at = m->dirs[--m->count];
		r = move_dir(m, at, err);
	}
	return r;
}

/* Entries below dir, which in byte order are those between "dir/" and "dir0". */
struct range {
	char low[LM_REPO_PATH_MAX + 2], high[LM_REPO_PATH_MAX + 2];
};

static int move_nested(struct move *m, const struct range *range, struct lm_err *err)
{
	struct lm_nested nested;
	int r;
	while ((r = lm_writer_nested_first(m->from, range->low, range->high, &nested, err)) == 0) {
		CLEANUP(lm_freep) char *path = nested.path;
		(void)path; /* used by nothing but its end, which clang takes for no use */
		struct lm_counters sum;
		r = lm_writer_child_sum(m->from, &nested, &sum, err);
		if (r == 0)
			r = lm_writer_nested_delete(m->from, &nested, err);
		if (r == 0)
			r = lm_writer_nested_insert(m->to, &nested, &sum, err);
		if (r < 0)
			return r == -ENOENT ? -EPROTO : r;
	}
	return r == -ENOENT ? 0 : r;
}

static int move_binds(struct move *m, const struct range *range, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *select = NULL;
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *insert = NULL;
	int r = lm_db_prepare(&m->from->db.db,
		"SELECT path, sha1, size FROM bind_mountpoints WHERE path >= ?1 AND path < ?2", &select, err);
	if (r == 0)
		r = lm_db_prepare(&m->to->db.db, "INSERT INTO bind_mountpoints (path, sha1, size) VALUES (?1, ?2, ?3)",
			&insert, err);
	if (r < 0)
		return r;
	sqlite3_bind_text(select, 1, range->low, -1, SQLITE_STATIC);
	sqlite3_bind_text(select, 2, range->high, -1, SQLITE_STATIC);
	while (r == 0 && (r = lm_db_step(&m->from->db.db, select, err)) > 0) {
		for (int i = 0; i < 3; i++)
			if (sqlite3_bind_value(insert, i + 1, sqlite3_column_value(select, i)) != SQLITE_OK)
				return lm_db_error(&m->to->db.db, "database", err);
		r = lm_db_run(&m->to->db.db, insert, err);
	}
	return r;
}

static int move_below(struct lm_catalog_writer *from, struct lm_catalog_writer *to, const char *dir, struct lm_err *err)
{
	CLEANUP(move_done) struct move m = {.from = from, .to = to};
	CLEANUP(lm_freep) struct range *range = malloc(sizeof(*range));
	if (!range)
		return lm_err_oom(err);
	snprintf(range->low, sizeof(range->low), "%s/", dir);
	snprintf(range->high, sizeof(range->high), "%s0", dir);
	int r = move_rows(&m, dir, err);
	if (r == 0)
		r = move_nested(&m, range, err);
	if (r == 0)
		r = move_binds(&m, range, err);
	return r;
}

int lm_catalog_split(struct lm_catalog_writer *w, struct lm_catalog_writer *child, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row dir = {0};
	const char *path = child->db.mountpoint;
	int r = lm_catalog_writer_lookup(w, path, &dir, err);
	if (r == 0 && !S_ISDIR(dir.mode))
		r = lm_err_set(err, -ENOTDIR, "no directory");
	if (r == 0 && dir.flags & (LM_ROW_MOUNTPOINT | LM_ROW_BIND))
		r = lm_err_set(err, -EBUSY, "is a mountpoint already");
	if (r == 0)
		r = move_below(w, child, path, err);
	if (r == 0)
		r = lm_writer_remove_below(w, path, err);
	return r < 0 ? lm_err_prefix(err, r, "splitting off '%s'", path) : 0;
}

int lm_catalog_fold(struct lm_catalog_writer *w, struct lm_catalog_writer *child, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row root = {0};
	const char *path = child->db.mountpoint;
	int r = lm_catalog_writer_lookup(child, path, &root, err);
	if (r == 0)
		r = lm_writer_replace(w, path, &root, root.flags & LM_ROW_HIDDEN, false, NULL, 0, err);
	if (r == 0)
		r = move_below(child, w, path, err);
	return r < 0 ? lm_err_prefix(err, r, "folding '%s'", path) : 0;
}
