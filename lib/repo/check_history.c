/* Tags, branches and the reflog: row by row past the readers, which stop at what is wrong. */
#include "repo/check_internal.h"

#include "base/file.h"
#include "base/str.h"
#include "repo/history.h"
#include "repo/reflog.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
	HISTORY_HAS_SIZE = 1, /* revisions of the schema */
	HISTORY_HAS_RECYCLE = 2,
	HISTORY_HAS_BRANCHES = 3,
};
#define HISTORY_SCHEMA "1.0"

struct history {
	struct lm_check *check;
	struct lm_db db;
	struct lm_place place;
	uint64_t revision; /* of the schema */
	bool wanted;	   /* the tag of options.tag was found */
	bool trunk;
};

static void history_done(struct history *h)
{
	lm_db_close(&h->db);
}

/* A table that is knotted into a loop comes back to row ids that were there before. */
static int check_order(sqlite3_stmt *stmt, int column, int64_t *last, struct lm_err *err)
{
	int64_t rowid = sqlite3_column_int64(stmt, column);
	if (rowid <= *last)
		return lm_err_set(err, -EPROTO, "the rows are out of order");
	*last = rowid;
	return 0;
}

/* -EPROTO: no database of a schema that is known. */
static int check_schema(struct lm_check *check, struct lm_db *db, enum lm_check_kind kind, struct lm_place place,
	uint64_t *ret_revision, struct lm_err *err)
{
	CLEANUP(lm_freep) char *version = NULL;
	CLEANUP(lm_freep) char *fqrn = NULL;
	struct lm_err why = LM_ERR_INIT;
	int r = lm_db_property(db, "schema", &version, err);
	if (r == 0)
		r = lm_db_property_number(db, "schema_revision", 0, ret_revision, err);
	if (r < 0)
		return r == -ENOENT ? -EPROTO : r;
	if (strcmp(version, HISTORY_SCHEMA) != 0)
		return lm_err_set(err, -EPROTO, "unknown schema '%s'", version);
	r = lm_db_property(db, "fqrn", &fqrn, &why);
	if (r == -ENOMEM)
		return lm_err_oom(err);
	if (check->manifest.fqrn[0] && strcmp(fqrn ? fqrn : "", check->manifest.fqrn) != 0)
		lm_check_found(check, kind, place, "it was made for repository '%s', not '%s'", fqrn ? fqrn : "",
			check->manifest.fqrn);
	return 0;
}

/*
 * History
 */

static const char *text_at(sqlite3_stmt *stmt, int column)
{
	const char *text = (const char *)sqlite3_column_text(stmt, column);
	return text ? text : "";
}

/* 1: branch is there, and begins at *ret. */
static int find_branch(struct history *h, const char *branch, int64_t *ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(&h->db, "SELECT initial_revision FROM branches WHERE branch = ?1", &stmt, err);
	if (r < 0)
		return r;
	sqlite3_bind_text(stmt, 1, branch, -1, SQLITE_STATIC);
	r = lm_db_step(&h->db, stmt, err);
	if (r > 0)
		*ret = sqlite3_column_int64(stmt, 0);
	return r;
}

static int check_branch_of(struct history *h, const char *tag, const char *branch, int64_t revision, struct lm_err *err)
{
	int64_t initial = 0;
	if (h->revision < HISTORY_HAS_BRANCHES)
		return 0;
	int r = find_branch(h, branch, &initial, err);
	if (r == 0)
		lm_check_found(h->check, LM_CHECK_TAG, h->place,
			"tag '%s' is on branch '%s', which is not in the history", tag, branch);
	else if (r > 0 && revision < initial)
		lm_check_found(h->check, LM_CHECK_TAG, h->place,
			"tag '%s' names revision %" PRId64 " of branch '%s', which begins at %" PRId64, tag, revision,
			branch, initial);
	return LM_MIN(r, 0);
}

static void check_trunk(struct history *h, const struct lm_hash *hash, uint64_t revision)
{
	const struct lm_manifest *m = &h->check->manifest;
	h->trunk = true;
	if (!lm_hash_equal(hash, &m->catalog) || revision != m->revision)
		lm_check_found(h->check, LM_CHECK_TRUNK, h->place,
			"tag trunk names revision %" PRIu64 " (%s), the newest one is %" PRIu64 " (%s)", revision,
			lm_hash_text(hash).s, m->revision, lm_hash_text(&m->catalog).s);
}

static int add_root(struct history *h, const struct lm_hash *hash, uint64_t revision, uint64_t size, struct lm_err *err)
{
	char path[] = "";
	const struct lm_check_ref ref = {.path = path, .hash = *hash, .revision = revision, .size = size};
	return lm_check_tree_add(h->check->tree, &ref, err);
}

/* Columns: name, hash, revision, timestamp, size, branch. */
static int check_tag(struct history *h, sqlite3_stmt *stmt, struct lm_err *err)
{
	const struct lm_check_options *o = h->check->options;
	const char *name = text_at(stmt, 0), *text = text_at(stmt, 1);
	int64_t revision = sqlite3_column_int64(stmt, 2), size = sqlite3_column_int64(stmt, 4);
	bool asked = o->tag && strcmp(o->tag, name) == 0;
	struct lm_hash hash;
	h->wanted |= asked;
	if (sqlite3_column_type(stmt, 0) != SQLITE_TEXT || !*name ||
		strlen(name) != (size_t)sqlite3_column_bytes(stmt, 0) || strpbrk(name, " \t\n"))
		lm_check_found(h->check, LM_CHECK_TAG, h->place, "a tag's name is empty or has blanks: '%s'", name);
	if (lm_hash_parse(text, strlen(text), &hash, NULL) < 0) {
		lm_check_found(
			h->check, LM_CHECK_TAG, h->place, "tag '%s' names no catalog: '%s' is no hash", name, text);
		return 0;
	}
	if (sqlite3_column_type(stmt, 2) != SQLITE_INTEGER || revision < 0 ||
		(uint64_t)revision > h->check->manifest.revision)
		lm_check_found(h->check, LM_CHECK_TAG, h->place,
			"tag '%s' names revision %" PRId64 ", the newest one is %" PRIu64, name, revision,
			h->check->manifest.revision);
	if (sqlite3_column_type(stmt, 3) != SQLITE_INTEGER || size < 0)
		lm_check_found(h->check, LM_CHECK_TAG, h->place, "tag '%s' has no time or a size below 0", name);
	if (strcmp(name, LM_TAG_TRUNK) == 0)
		check_trunk(h, &hash, (uint64_t)revision);
	int r = check_branch_of(h, name, text_at(stmt, 5), revision, err);
	const struct lm_check_object root = {
		.hash = hash, .kind = LM_OBJECT_CATALOG, .present_only = true, .missing = LM_CHECK_TAG};
	if (r == 0 && (o->tags || asked))
		return add_root(h, &hash, (uint64_t)revision, (uint64_t)size, err);
	return r < 0 ? r : lm_check_objects_add(h->check->objects, &root, NULL, name, err);
}

static int check_tags(struct history *h, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	char sql[160];
	int64_t last = INT64_MIN;
	snprintf(sql, sizeof(sql),
		"SELECT name, hash, revision, timestamp, %s, %s, rowid FROM tags NOT INDEXED ORDER BY rowid",
		h->revision >= HISTORY_HAS_SIZE ? "size" : "0", h->revision >= HISTORY_HAS_BRANCHES ? "branch" : "''");
	int r = lm_db_prepare(&h->db, sql, &stmt, err);
	while (r == 0 && (r = lm_db_step(&h->db, stmt, err)) > 0)
		r = check_order(stmt, 6, &last, err) < 0 ? -EPROTO : check_tag(h, stmt, err);
	if (r == 0 && !h->trunk)
		lm_check_found(
			h->check, LM_CHECK_TRUNK, h->place, "no tag " LM_TAG_TRUNK ": stock tools can't roll back");
	return r;
}

static int check_branches(struct history *h, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	if (h->revision < HISTORY_HAS_BRANCHES)
		return 0;
	int r = lm_db_prepare(&h->db,
		"SELECT branch, parent, (SELECT count(*) FROM tags t WHERE t.branch = b.branch), "
		"(SELECT count(*) FROM branches p WHERE p.branch = b.parent) FROM branches b",
		&stmt, err);
	while (r == 0 && (r = lm_db_step(&h->db, stmt, err)) > 0) {
		const char *branch = text_at(stmt, 0);
		if (*branch && sqlite3_column_int64(stmt, 2) == 0)
			lm_check_found(h->check, LM_CHECK_BRANCH, h->place, "branch '%s' has no tag", branch);
		if (*branch && sqlite3_column_int64(stmt, 3) == 0)
			lm_check_found(h->check, LM_CHECK_BRANCH, h->place,
				"branch '%s' begins at branch '%s', which is not there", branch, text_at(stmt, 1));
		r = 0;
	}
	return r;
}

static int check_recycle_bin(struct history *h, struct lm_err *err)
{
	int64_t count = 0;
	if (h->revision < HISTORY_HAS_RECYCLE)
		return 0;
	int r = lm_db_number(&h->db, "SELECT count(*) FROM recycle_bin", &count, err);
	if (r == 0 && count > 0)
		lm_check_found(h->check, LM_CHECK_TOLERATED, h->place,
			"%" PRId64 " rows in the recycle bin, which nobody reads", count);
	return r;
}

static int scan_history(struct history *h, const char *path, struct lm_err *err)
{
	int r = lm_db_open(path, &h->db, err);
	if (r == 0)
		r = lm_check_integrity(h->check, &h->db, LM_CHECK_HISTORY, h->place, err);
	if (r == 0)
		r = check_schema(h->check, &h->db, LM_CHECK_HISTORY, h->place, &h->revision, err);
	if (r == 0)
		r = check_tags(h, err);
	if (r == 0)
		r = check_branches(h, err);
	return r < 0 ? r : check_recycle_bin(h, err);
}

static int check_history(struct lm_check *check, bool *ret_wanted, struct lm_err *err)
{
	CLEANUP(history_done) struct history h = {.check = check};
	CLEANUP(lm_check_dropp) char *path = NULL;
	char name[LM_OBJECT_PATH_MAX];
	struct lm_err why = LM_ERR_INIT;
	const struct lm_hash *hash = &check->manifest.history;
	if (!hash->set)
		return 0; /* it has no tags */
	h.place.object = lm_object_path(hash, LM_OBJECT_HISTORY, name);
	int r = lm_check_database(
		check, hash, LM_OBJECT_HISTORY, h.place, LM_CHECK_HISTORY, LM_CHECK_HISTORY, &path, err);
	if (r <= 0)
		return r;
	r = scan_history(&h, path, &why);
	*ret_wanted = h.wanted;
	if (r < 0 && r != -EPROTO)
		return lm_err_set(err, r, "history: %s", why.msg);
	if (r < 0)
		lm_check_found(check, LM_CHECK_HISTORY, h.place, "%s", why.msg);
	return 0;
}

int lm_check_history(struct lm_check *check, struct lm_err *err)
{
	const char *tag = check->options->tag;
	bool found = false;
	int r = check_history(check, &found, err);
	if (r == 0 && tag && !found)
		return lm_err_set(err, -ENOENT, "no tag '%s' in the history", tag);
	return r;
}

/*
 * Reflog
 */

struct reflog {
	struct lm_check *check;
	struct lm_db db;
	bool found[LM_REF_METAINFO + 1]; /* what the manifest names, by type */
};

static void reflog_done(struct reflog *log)
{
	lm_db_close(&log->db);
}

static const struct lm_place REFLOG = {.object = LM_REFLOG_NAME};
static const enum lm_object_kind ref_kinds[] = {
	LM_OBJECT_CATALOG, LM_OBJECT_CERTIFICATE, LM_OBJECT_HISTORY, LM_OBJECT_METAINFO};
static const char *const ref_names[] = {"root catalog", "certificate", "history", "metainfo"};

static const struct lm_hash *current(const struct lm_check *check, size_t type)
{
	const struct lm_manifest *m = &check->manifest;
	const struct lm_hash *hashes[] = {&m->catalog, &m->certificate, &m->history, &m->metainfo};
	return hashes[type];
}

/* Columns: hash, type. */
static int check_reference(struct reflog *log, sqlite3_stmt *stmt, struct lm_err *err)
{
	const char *text = text_at(stmt, 0);
	int64_t type = sqlite3_column_int64(stmt, 1);
	struct lm_hash hash;
	if (lm_hash_parse(text, strlen(text), &hash, NULL) < 0 || sqlite3_column_type(stmt, 1) != SQLITE_INTEGER ||
		type < LM_REF_CATALOG || type > LM_REF_METAINFO) {
		lm_check_found(log->check, LM_CHECK_REFLOG, REFLOG,
			"'%s' of type %" PRId64 " is nothing that a reflog names", text, type);
		return 0;
	}
	log->found[type] |= lm_hash_equal(&hash, current(log->check, (size_t)type));
	const struct lm_check_object object = {
		.hash = hash, .kind = ref_kinds[type], .present_only = true, .missing = LM_CHECK_REFLOG_OBJECT};
	return lm_check_objects_add(log->check->objects, &object, NULL, NULL, err);
}

static int scan_reflog(struct reflog *log, const char *path, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	uint64_t revision;
	int64_t last = INT64_MIN;
	int r = lm_db_open(path, &log->db, err);
	if (r == 0)
		r = lm_check_integrity(log->check, &log->db, LM_CHECK_REFLOG, REFLOG, err);
	if (r == 0)
		r = check_schema(log->check, &log->db, LM_CHECK_REFLOG, REFLOG, &revision, err);
	if (r == 0)
		r = lm_db_prepare(
			&log->db, "SELECT hash, type, rowid FROM refs NOT INDEXED ORDER BY rowid", &stmt, err);
	while (r == 0 && (r = lm_db_step(&log->db, stmt, err)) > 0)
		r = check_order(stmt, 2, &last, err) < 0 ? -EPROTO : check_reference(log, stmt, err);
	if (r < 0)
		return r;
	for (size_t type = 0; type < ARRAY_LEN(ref_names); type++)
		if (!log->found[type] && current(log->check, type)->set)
			lm_check_found(log->check, LM_CHECK_REFLOG, REFLOG, "it lacks the manifest's %s %s",
				ref_names[type], lm_hash_text(current(log->check, type)).s);
	return 0;
}

/* Y is over the file as it is. */
static int check_hash(struct lm_check *check, int fd, struct lm_err *err)
{
	const struct lm_hash *said = &check->manifest.reflog;
	struct lm_hash actual = {0};
	if (!said->set) {
		lm_check_found(check, LM_CHECK_REFLOG, REFLOG, "the manifest does not name its hash (field Y)");
		return 0;
	}
	int r = lm_hash_fd(said->algo, fd, &actual, err);
	if (r == 0 && !lm_hash_equal(said, &actual))
		lm_check_found(check, LM_CHECK_REFLOG, REFLOG, "its hash is %s, the manifest says %s",
			lm_hash_text(&actual).s, lm_hash_text(said).s);
	return r;
}

int lm_check_reflog(struct lm_check *check, struct lm_err *err)
{
	CLEANUP(reflog_done) struct reflog log = {.check = check};
	CLEANUP(lm_check_dropp) char *path = NULL;
	struct lm_err why = LM_ERR_INIT;
	int r = lm_check_scratch(check, &path, err);
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return lm_err_sys(err, -errno, "create %s", path);
	r = check->storage->ops->get_file(check->storage, LM_REFLOG_NAME, fd, &why);
	if (r == -ENOENT) {
		if (check->manifest.reflog.set)
			lm_check_found(check, LM_CHECK_TOLERATED, REFLOG,
				"the manifest names a reflog that is not here, as on a copy");
		return 0;
	}
	if (r < 0)
		return lm_check_unavailable(check, r, lm_err_text(&why), LM_CHECK_REFLOG, LM_CHECK_REFLOG, REFLOG, err);
	r = check_hash(check, fd, err);
	if (r < 0)
		return r;
	r = scan_reflog(&log, path, &why);
	if (r < 0 && r != -EPROTO)
		return lm_err_set(err, r, "reflog: %s", why.msg);
	if (r < 0)
		lm_check_found(check, LM_CHECK_REFLOG, REFLOG, "%s", why.msg);
	return 0;
}
