/*
 * Catalogs are checked depth first, one database at a time. Those still to do lie in a database of our own, since a
 * catalog may name any number of others; so do those done, because later revisions name them again. In memory is only
 * the way from the root to the current one: each of these waits for the sums of what is below it.
 *
 * There are no cycles: each catalog is opened for a path strictly below that of the one that names it, and says itself
 * for which path it was made.
 */
#include "repo/check_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A catalog whose nested ones are being checked. */
struct waiting {
	char *path;
	struct lm_hash hash;
	struct lm_check_facts facts;
	struct lm_counters below; /* the sum of what was counted there */
	bool below_complete;
};

static void waiting_done(struct waiting *w)
{
	free(w->path);
}

/* What is kept of a catalog that is done: all that another reference to it is held against. */
struct done {
	struct lm_check_mount root;
	struct lm_counters sum; /* itself and below */
	uint64_t size;
	bool readable, complete;
};

struct lm_check_tree {
	char *path;
	struct lm_db db;
	sqlite3_stmt *push, *last, *pop, *find, *keep;
	struct waiting *waiting;
	size_t depth, cap;
};

static const char schema[] =
	"CREATE TABLE todo (id INTEGER PRIMARY KEY, depth INTEGER, path TEXT, hash BLOB, size INTEGER, "
	"revision INTEGER, mount BLOB);"
	"CREATE TABLE done (hash BLOB PRIMARY KEY, path TEXT, facts BLOB) WITHOUT ROWID;";

void lm_check_ref_done(struct lm_check_ref *ref)
{
	free(ref->path);
	*ref = (struct lm_check_ref){0};
}

int lm_check_mount_of(const struct lm_row *row, struct lm_check_mount *ret, struct lm_err *err)
{
	*ret = (struct lm_check_mount){.size = row->size,
		.mtime_s = row->mtime_s,
		.mtime_ns = row->mtime_ns,
		.mode = row->mode,
		.uid = row->uid,
		.gid = row->gid,
		.link_count = row->link_count};
	return row->xattr ? lm_hash_data(LM_HASH_SHA1, row->xattr, row->xattr_len, &ret->xattr, err) : 0;
}

int lm_check_tree_new(struct lm_check *check, struct lm_check_tree **ret, struct lm_err *err)
{
	struct lm_check_tree *tree = calloc(1, sizeof(*tree));
	if (!tree)
		return lm_err_oom(err);
	int r = lm_check_scratch(check, &tree->path, err);
	if (r == 0)
		r = lm_db_create(tree->path, &tree->db, err);
	if (r == 0)
		r = lm_db_exec(&tree->db, schema, err);
	if (r == 0)
		r = lm_db_exec(&tree->db, "BEGIN", err);
	if (r == 0)
		r = lm_db_prepare(&tree->db,
			"INSERT INTO todo (depth, path, hash, size, revision, mount) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
			&tree->push, err);
	if (r == 0)
		r = lm_db_prepare(&tree->db,
			"SELECT id, depth, path, hash, size, revision, mount FROM todo ORDER BY id DESC LIMIT 1",
			&tree->last, err);
	if (r == 0)
		r = lm_db_prepare(&tree->db, "DELETE FROM todo WHERE id = ?1", &tree->pop, err);
	if (r == 0)
		r = lm_db_prepare(&tree->db, "SELECT path, facts FROM done WHERE hash = ?1", &tree->find, err);
	if (r == 0)
		r = lm_db_prepare(&tree->db, "INSERT OR IGNORE INTO done (hash, path, facts) VALUES (?1, ?2, ?3)",
			&tree->keep, err);
	if (r < 0) {
		lm_check_tree_free(tree);
		return lm_err_prefix(err, r, "scratch");
	}
	*ret = tree;
	return 0;
}

void lm_check_tree_free(struct lm_check_tree *tree)
{
	if (!tree)
		return;
	sqlite3_stmt *stmts[] = {tree->push, tree->last, tree->pop, tree->find, tree->keep};
	for (size_t i = 0; i < ARRAY_LEN(stmts); i++)
		sqlite3_finalize(stmts[i]);
	lm_db_close(&tree->db);
	lm_check_dropp(&tree->path);
	for (size_t i = 0; i < tree->depth; i++)
		waiting_done(&tree->waiting[i]);
	free(tree->waiting);
	free(tree);
}

static void bind_hash(sqlite3_stmt *stmt, int parameter, const struct lm_hash *hash)
{
	sqlite3_bind_blob(stmt, parameter, hash, sizeof(*hash), SQLITE_TRANSIENT);
}

/* A struct of ours as it was bound. Only a scratch file that somebody else wrote to has another size there. */
static int column_struct(sqlite3_stmt *stmt, int column, void *ret, size_t size, struct lm_err *err)
{
	const void *blob = sqlite3_column_blob(stmt, column);
	if (!blob)
		return lm_err_oom(err);
	if (sqlite3_column_bytes(stmt, column) != (int)size)
		return lm_err_set(err, -EIO, "the scratch database was changed");
	memcpy(ret, blob, size);
	return 0;
}

int lm_check_tree_add(struct lm_check_tree *tree, const struct lm_check_ref *ref, struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = tree->push;
	sqlite3_bind_int64(stmt, 1, ref->depth);
	sqlite3_bind_text(stmt, 2, ref->path, -1, SQLITE_STATIC);
	bind_hash(stmt, 3, &ref->hash);
	sqlite3_bind_int64(stmt, 4, (int64_t)ref->size);
	sqlite3_bind_int64(stmt, 5, (int64_t)ref->revision);
	sqlite3_bind_blob(stmt, 6, &ref->mount, sizeof(ref->mount), SQLITE_STATIC);
	int r = lm_db_run(&tree->db, stmt, err);
	return r < 0 ? lm_err_prefix(err, r, "scratch") : 0;
}

/* The newest one that is still to do: 1 and *ret, 0 nothing is left. */
static int next_ref(struct lm_check_tree *tree, struct lm_check_ref *ret, struct lm_err *err)
{
	CLEANUP(lm_check_ref_done) struct lm_check_ref ref = {0};
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = tree->last;
	int r = lm_db_step(&tree->db, stmt, err);
	if (r <= 0)
		return r < 0 ? lm_err_prefix(err, r, "scratch") : 0;
	int64_t id = sqlite3_column_int64(stmt, 0);
	const char *path = (const char *)sqlite3_column_text(stmt, 2);
	ref.depth = (unsigned)sqlite3_column_int64(stmt, 1);
	ref.path = path ? strdup(path) : NULL;
	ref.size = (uint64_t)sqlite3_column_int64(stmt, 4);
	ref.revision = (uint64_t)sqlite3_column_int64(stmt, 5);
	if (!ref.path)
		return lm_err_oom(err);
	r = column_struct(stmt, 3, &ref.hash, sizeof(ref.hash), err);
	if (r == 0)
		r = column_struct(stmt, 6, &ref.mount, sizeof(ref.mount), err);
	if (r < 0)
		return r;
	sqlite3_reset(stmt);
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *pop = tree->pop;
	sqlite3_bind_int64(pop, 1, id);
	r = lm_db_run(&tree->db, pop, err);
	if (r < 0)
		return lm_err_prefix(err, r, "scratch");
	*ret = ref;
	ref = (struct lm_check_ref){0};
	return 1;
}

/* 1: done already, at *ret_path (the caller frees it). */
static int find_done(
	struct lm_check_tree *tree, const struct lm_hash *hash, char **ret_path, struct done *ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = tree->find;
	bind_hash(stmt, 1, hash);
	int r = lm_db_step(&tree->db, stmt, err);
	if (r <= 0)
		return r < 0 ? lm_err_prefix(err, r, "scratch") : 0;
	const char *path = (const char *)sqlite3_column_text(stmt, 0);
	CLEANUP(lm_freep) char *copy = path ? strdup(path) : NULL;
	if (!copy)
		return lm_err_oom(err);
	r = column_struct(stmt, 1, ret, sizeof(*ret), err);
	if (r < 0)
		return r;
	*ret_path = STEAL(copy);
	return 1;
}

static int keep_done(struct lm_check_tree *tree, const struct lm_hash *hash, const char *path, const struct done *done,
	struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = tree->keep;
	bind_hash(stmt, 1, hash);
	sqlite3_bind_text(stmt, 2, path, -1, SQLITE_STATIC);
	sqlite3_bind_blob(stmt, 3, done, sizeof(*done), SQLITE_STATIC);
	int r = lm_db_run(&tree->db, stmt, err);
	return r < 0 ? lm_err_prefix(err, r, "scratch") : 0;
}

/* What hangs below the deepest catalog that waits has this sum. */
static void add_below(struct lm_check_tree *tree, const struct done *done)
{
	if (tree->depth == 0)
		return;
	struct waiting *up = &tree->waiting[tree->depth - 1];
	lm_counters_add(&up->below, &done->sum);
	up->below_complete &= done->complete;
}

static void compare_subtree(struct lm_check *check, struct waiting *w)
{
	if (!w->facts.counters || !w->below_complete)
		return;
	for (size_t i = 0; i < LM_COUNTER_COUNT; i++) {
		uint64_t stored = *lm_counter_at(&w->facts.subtree, i), counted = *lm_counter_at(&w->below, i);
		if (stored != counted && lm_counter_names[i].since <= w->facts.schema)
			lm_check_found(check, LM_CHECK_COUNTER, LM_PLACE(w->path, w->path),
				"subtree_%s is %" PRIu64 ", the nested catalogs add up to %" PRIu64,
				lm_counter_names[i].name, stored, counted);
	}
}

/* All below the deepest one is done. */
static int finish_deepest(struct lm_check *check, struct lm_err *err)
{
	struct lm_check_tree *tree = check->tree;
	CLEANUP(waiting_done) struct waiting w = tree->waiting[--tree->depth];
	struct done done = {.root = w.facts.root,
		.size = w.facts.size,
		.sum = w.facts.self,
		.readable = true,
		.complete = w.facts.complete && w.below_complete};
	compare_subtree(check, &w);
	lm_counters_add(&done.sum, &w.below);
	add_below(tree, &done);
	return keep_done(tree, &w.hash, w.path, &done, err);
}

static int wait_for_below(
	struct lm_check_tree *tree, struct lm_check_ref *ref, const struct lm_check_facts *facts, struct lm_err *err)
{
	struct waiting *grown = lm_grown(tree->waiting, tree->depth, &tree->cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	tree->waiting = grown;
	tree->waiting[tree->depth++] = (struct waiting){
		.path = STEAL(ref->path), .hash = ref->hash, .facts = *facts, .below_complete = facts->complete};
	return 0;
}

static void check_size(struct lm_check *check, const struct lm_check_ref *ref, uint64_t size)
{
	if (ref->size != 0 && ref->size != size)
		lm_check_found(check, LM_CHECK_CATALOG_SIZE, LM_PLACE(ref->path, ref->path),
			"its database has %" PRIu64 " bytes, %s says %" PRIu64, size,
			ref->depth ? "the catalog above" : "what names it", ref->size);
}

/* Only the first field that differs: the others follow from the same mistake. */
static void check_mount(struct lm_check *check, const struct lm_check_ref *ref, const struct lm_check_mount *root)
{
	const struct lm_check_mount *up = &ref->mount;
	const struct {
		const char *what;
		int64_t up, root;
	} fields[] = {
		{"mode", up->mode, root->mode},
		{"link count", up->link_count, root->link_count},
		{"size", (int64_t)up->size, (int64_t)root->size},
		{"time", up->mtime_s, root->mtime_s},
		{"nanoseconds", up->mtime_ns, root->mtime_ns},
		{"uid", up->uid, root->uid},
		{"gid", up->gid, root->gid},
		{"presence of attributes", up->xattr.set, root->xattr.set},
	};
	if (ref->depth == 0)
		return;
	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		if (fields[i].up == fields[i].root)
			continue;
		lm_check_found(check, LM_CHECK_MOUNTPOINT, LM_PLACE(ref->path, ref->path),
			"the %s is %" PRId64 " in the row of the catalog above and %" PRId64
			" in the nested catalog's root",
			fields[i].what, fields[i].up, fields[i].root);
		return;
	}
	if (!lm_hash_equal(&up->xattr, &root->xattr))
		lm_check_found(check, LM_CHECK_MOUNTPOINT, LM_PLACE(ref->path, ref->path),
			"the attributes differ between the catalog above and the nested catalog's root");
}

/* A catalog that was checked before is held against what names it now. */
static int check_again(struct lm_check *check, const struct lm_check_ref *ref, const char *path,
	const struct done *done, struct lm_err *err)
{
	if (strcmp(ref->path, path) != 0) {
		lm_check_found(check, LM_CHECK_NESTED_TWICE, LM_PLACE(ref->path, ref->path),
			"its catalog %s is that of '%s', too, and can be only in one place", lm_hash_text(&ref->hash).s,
			path);
		add_below(check->tree, &(struct done){0});
		return 0;
	}
	if (done->readable) {
		check_size(check, ref, done->size);
		check_mount(check, ref, &done->root);
	}
	add_below(check->tree, done);
	return 0;
}

/* 1 and *ret, 0 it is none, which was reported. */
static int load_and_check(
	struct lm_check *check, const struct lm_check_ref *ref, struct lm_check_facts *ret, struct lm_err *err)
{
	CLEANUP(lm_check_dropp) char *db_path = NULL;
	char name[LM_OBJECT_PATH_MAX];
	struct lm_place place = {ref->path, ref->path, lm_object_path(&ref->hash, LM_OBJECT_CATALOG, name)};
	int r = lm_check_database(check, &ref->hash, LM_OBJECT_CATALOG, place, LM_CHECK_CATALOG_MISSING,
		LM_CHECK_CATALOG_DAMAGED, &db_path, err);
	if (r <= 0)
		return r;
	lm_check_count(check, &check->result.catalogs, 1);
	return lm_check_catalog(check, ref, db_path, ret, err);
}

static int check_ref(struct lm_check *check, struct lm_check_ref *ref, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = NULL;
	struct lm_check_tree *tree = check->tree;
	struct lm_check_facts facts = {0};
	struct done done = {0};
	int r = find_done(tree, &ref->hash, &path, &done, err);
	if (r != 0)
		return r < 0 ? r : check_again(check, ref, path, &done, err);
	if (ref->depth == 0)
		lm_check_count(check, &check->result.roots, 1);
	r = load_and_check(check, ref, &facts, err);
	if (r < 0)
		return r;
	lm_check_tick(check);
	if (r == 0) {
		add_below(tree, &done);
		return keep_done(tree, &ref->hash, ref->path, &done, err);
	}
	check_size(check, ref, facts.size);
	check_mount(check, ref, &facts.root);
	return wait_for_below(tree, ref, &facts, err);
}

int lm_check_tree_run(struct lm_check *check, struct lm_err *err)
{
	struct lm_check_tree *tree = check->tree;
	for (;;) {
		CLEANUP(lm_check_ref_done) struct lm_check_ref ref = {0};
		int r = next_ref(tree, &ref, err);
		bool more = r > 0;
		/* The nested catalogs of those as deep as this one are done: they were added later. */
		while (r >= 0 && tree->depth > (more ? ref.depth : 0))
			r = finish_deepest(check, err);
		if (r < 0 || !more)
			return r;
		r = check_ref(check, &ref, err);
		if (r < 0)
			return r;
	}
}
