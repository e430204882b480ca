#include "snapshotter/rows.h"

#include "base/str.h"
#include "snapshotter/record.h"

#include <inttypes.h>
#include <sqlite3.h>
#include <string.h>

#define SCHEMA_VERSION 1
#define APPLICATION_ID 0x4c6d5373 /* "LmSs" */
#define BUSY_TIMEOUT_MS 10000	  /* somebody may look into the database with sqlite3(1) */

static const char schema[] = "CREATE TABLE snapshots("
			     " id INTEGER PRIMARY KEY AUTOINCREMENT," /* an id is never used again */
			     " plugin TEXT NOT NULL, key TEXT NOT NULL,"
			     " kind INTEGER NOT NULL CHECK(kind IN (1, 2, 3)),"
			     " parent INTEGER REFERENCES snapshots(id),"
			     " created_ns INTEGER NOT NULL, updated_ns INTEGER NOT NULL,"
			     " size_bytes INTEGER NOT NULL DEFAULT 0, inodes INTEGER NOT NULL DEFAULT 0,"
			     " layer_digest TEXT, layer_path TEXT, layer_ref TEXT,"
			     " UNIQUE(plugin, key));"
			     "CREATE INDEX snapshots_parent ON snapshots(parent);"
			     "CREATE UNIQUE INDEX snapshots_layer ON snapshots(plugin, layer_ref, ifnull(parent, 0)) "
			     "WHERE layer_ref NOT NULL;"
			     "CREATE TABLE labels("
			     " snapshot INTEGER NOT NULL REFERENCES snapshots(id) ON DELETE CASCADE,"
			     " key TEXT NOT NULL, value TEXT NOT NULL,"
			     " PRIMARY KEY(snapshot, key)) WITHOUT ROWID;";

enum statement {
	BEGIN,
	COMMIT,
	ROLLBACK,
	INSERT,
	INSERT_LABEL,
	DELETE_LABELS,
	SET_COMMITTED,
	SET_UPDATED,
	SET_LAYER_PATH,
	DELETE,
	STATEMENTS
};

static const char *const statement_text[STATEMENTS] = {
	[BEGIN] = "BEGIN IMMEDIATE",
	[COMMIT] = "COMMIT",
	[ROLLBACK] = "ROLLBACK",
	[INSERT] = "INSERT INTO snapshots(id, plugin, key, kind, parent, created_ns, updated_ns, size_bytes, inodes,"
		   " layer_digest, layer_path, layer_ref) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
	[INSERT_LABEL] = "INSERT INTO labels(snapshot, key, value) VALUES(?1, ?2, ?3)",
	[DELETE_LABELS] = "DELETE FROM labels WHERE snapshot = ?1",
	[SET_COMMITTED] = "UPDATE snapshots SET key = ?2, kind = ?3, parent = ?4, created_ns = ?5, updated_ns = ?6,"
			  " size_bytes = ?7, inodes = ?8 WHERE id = ?1",
	[SET_UPDATED] = "UPDATE snapshots SET updated_ns = ?2 WHERE id = ?1",
	[SET_LAYER_PATH] = "UPDATE snapshots SET layer_path = ?2 WHERE id = ?1",
	[DELETE] = "DELETE FROM snapshots WHERE id = ?1",
};

struct lm_rows {
	sqlite3 *db;
	sqlite3_stmt *statements[STATEMENTS];
};

static int db_error(struct lm_rows *rows, const char *doing, struct lm_err *err)
{
	int code = rows->db ? sqlite3_errcode(rows->db) : SQLITE_NOMEM;
	/* An "error" is a database without our tables, or with others by their names. */
	bool damaged = code == SQLITE_CORRUPT || code == SQLITE_NOTADB || code == SQLITE_ERROR;
	int r = code == SQLITE_FULL ? -ENOSPC : code == SQLITE_NOMEM ? -ENOMEM : damaged ? -EUCLEAN : -EIO;
	return lm_err_set(err, r, "store: %s: %s", doing, rows->db ? sqlite3_errmsg(rows->db) : "out of memory");
}

static int run(struct lm_rows *rows, enum statement which, struct lm_err *err)
{
	sqlite3_stmt *statement = rows->statements[which];
	int rc = sqlite3_step(statement);
	int r = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : db_error(rows, statement_text[which], err);
	sqlite3_reset(statement);
	sqlite3_clear_bindings(statement);
	return r;
}

/* Numbers and text that stays where it is take no memory, so binding them to a parameter that exists can't fail. */
static void bind_text(sqlite3_stmt *statement, int index, const char *text)
{
	sqlite3_bind_text(statement, index, text, -1, SQLITE_STATIC);
}

static void bind_parent(sqlite3_stmt *statement, int index, const struct lm_snapshot *parent)
{
	if (parent)
		sqlite3_bind_int64(statement, index, parent->id);
}

static int exec(struct lm_rows *rows, const char *sql, struct lm_err *err)
{
	return sqlite3_exec(rows->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(rows, sql, err);
}

static int write_labels(struct lm_rows *rows, const struct lm_snapshot *s, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < s->labels.count && r == 0; i++) {
		sqlite3_stmt *insert = rows->statements[INSERT_LABEL];
		sqlite3_bind_int64(insert, 1, s->id);
		bind_text(insert, 2, s->labels.items[i].key);
		bind_text(insert, 3, s->labels.items[i].value);
		r = run(rows, INSERT_LABEL, err);
	}
	return r;
}

static int rewrite_labels(struct lm_rows *rows, const struct lm_snapshot *s, struct lm_err *err)
{
	sqlite3_bind_int64(rows->statements[DELETE_LABELS], 1, s->id);
	int r = run(rows, DELETE_LABELS, err);
	return r < 0 ? r : write_labels(rows, s, err);
}

static int insert_row(struct lm_rows *rows, const struct lm_snapshot *s, int64_t parent, struct lm_err *err)
{
	sqlite3_stmt *insert = rows->statements[INSERT];
	sqlite3_bind_int64(insert, 1, s->id);
	bind_text(insert, 2, s->plugin);
	bind_text(insert, 3, s->key);
	sqlite3_bind_int(insert, 4, (int)s->kind);
	if (parent)
		sqlite3_bind_int64(insert, 5, parent);
	sqlite3_bind_int64(insert, 6, s->created_ns);
	sqlite3_bind_int64(insert, 7, s->updated_ns);
	sqlite3_bind_int64(insert, 8, s->usage.size_bytes);
	sqlite3_bind_int64(insert, 9, s->usage.inodes);
	bind_text(insert, 10, s->layer_digest);
	bind_text(insert, 11, s->layer_path);
	bind_text(insert, 12, s->layer_ref);
	int r = run(rows, INSERT, err);
	return r < 0 ? r : write_labels(rows, s, err);
}

static int write_created(struct lm_rows *rows, const struct lm_snapshot *s, struct lm_err *err)
{
	return insert_row(rows, s, s->parent ? s->parent->id : 0, err);
}

static int write_committed(struct lm_rows *rows, const struct lm_snapshot *s, struct lm_err *err)
{
	sqlite3_stmt *update = rows->statements[SET_COMMITTED];
	sqlite3_bind_int64(update, 1, s->id);
	bind_text(update, 2, s->key);
	sqlite3_bind_int(update, 3, (int)s->kind);
	bind_parent(update, 4, s->parent);
	sqlite3_bind_int64(update, 5, s->created_ns);
	sqlite3_bind_int64(update, 6, s->updated_ns);
	sqlite3_bind_int64(update, 7, s->usage.size_bytes);
	sqlite3_bind_int64(update, 8, s->usage.inodes);
	int r = run(rows, SET_COMMITTED, err);
	return r < 0 ? r : rewrite_labels(rows, s, err);
}

static int write_updated(struct lm_rows *rows, const struct lm_snapshot *s, struct lm_err *err)
{
	sqlite3_bind_int64(rows->statements[SET_UPDATED], 1, s->id);
	sqlite3_bind_int64(rows->statements[SET_UPDATED], 2, s->updated_ns);
	int r = run(rows, SET_UPDATED, err);
	return r < 0 ? r : rewrite_labels(rows, s, err);
}

static int write_layer_path(struct lm_rows *rows, const struct lm_snapshot *s, struct lm_err *err)
{
	sqlite3_bind_int64(rows->statements[SET_LAYER_PATH], 1, s->id);
	bind_text(rows->statements[SET_LAYER_PATH], 2, s->layer_path);
	return run(rows, SET_LAYER_PATH, err);
}

static int write_deleted(struct lm_rows *rows, const struct lm_snapshot *s, struct lm_err *err)
{
	sqlite3_bind_int64(rows->statements[DELETE], 1, s->id);
	return run(rows, DELETE, err);
}

/* Ends a transaction that has come as far as r: after a failure the database is as before. */
static int end(struct lm_rows *rows, int r, struct lm_err *err)
{
	if (r == 0)
		r = run(rows, COMMIT, err);
	if (r < 0 && !sqlite3_get_autocommit(rows->db))
		(void)run(rows, ROLLBACK, NULL);
	return r;
}

static int transact(struct lm_rows *rows,
	int (*write)(struct lm_rows *rows, const struct lm_snapshot *s, struct lm_err *err),
	const struct lm_snapshot *s, struct lm_err *err)
{
	int r = run(rows, BEGIN, err);
	return r < 0 ? r : end(rows, write(rows, s, err), err);
}

int lm_rows_insert(struct lm_rows *rows, const struct lm_snapshot *snapshot, struct lm_err *err)
{
	return transact(rows, write_created, snapshot, err);
}

int lm_rows_commit(struct lm_rows *rows, const struct lm_snapshot *snapshot, struct lm_err *err)
{
	return transact(rows, write_committed, snapshot, err);
}

int lm_rows_update(struct lm_rows *rows, const struct lm_snapshot *snapshot, struct lm_err *err)
{
	return transact(rows, write_updated, snapshot, err);
}

int lm_rows_set_layer_path(struct lm_rows *rows, const struct lm_snapshot *snapshot, struct lm_err *err)
{
	return transact(rows, write_layer_path, snapshot, err);
}

int lm_rows_delete(struct lm_rows *rows, const struct lm_snapshot *snapshot, struct lm_err *err)
{
	return transact(rows, write_deleted, snapshot, err);
}

/* Opening. */

static int read_number(struct lm_rows *rows, const char *pragma, int *ret, struct lm_err *err)
{
	sqlite3_stmt *query = NULL;
	int rc = sqlite3_prepare_v2(rows->db, pragma, -1, &query, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(query);
	if (rc == SQLITE_ROW)
		*ret = sqlite3_column_int(query, 0);
	int r = rc == SQLITE_ROW ? 0 : db_error(rows, pragma, err);
	sqlite3_finalize(query);
	return r;
}

static int make_schema(struct lm_rows *rows, struct lm_err *err)
{
	CLEANUP(lm_freep)
	char *sql = lm_str_printf("BEGIN IMMEDIATE; %s PRAGMA application_id = %d; PRAGMA user_version = %d;"
				  " COMMIT;",
		schema, APPLICATION_ID, SCHEMA_VERSION);
	if (!sql)
		return lm_err_oom(err);
	return exec(rows, sql, err);
}

/* SQLite's own look at every page and index: seconds for millions of rows, milliseconds for ours. */
static int check_integrity(struct lm_rows *rows, struct lm_err *err)
{
	sqlite3_stmt *query = NULL;
	if (sqlite3_prepare_v2(rows->db, "PRAGMA integrity_check(1)", -1, &query, NULL) != SQLITE_OK)
		return db_error(rows, "check", err);
	int r = 0;
	int rc = sqlite3_step(query);
	const char *verdict = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(query, 0) : NULL;
	if (rc != SQLITE_ROW)
		r = db_error(rows, "check", err);
	else if (!verdict)
		r = lm_err_oom(err);
	else if (strcmp(verdict, "ok") != 0)
		r = lm_err_set(err, -EUCLEAN, "store: %s", verdict);
	sqlite3_finalize(query);
	return r;
}

static int check_version(struct lm_rows *rows, const char *path, bool may_be_new, struct lm_err *err)
{
	int version = 0, application = 0;
	int r = read_number(rows, "PRAGMA user_version", &version, err);
	if (r == 0)
		r = read_number(rows, "PRAGMA application_id", &application, err);
	if (r < 0)
		return r;
	if (version == 0 && application == 0 && may_be_new)
		return make_schema(rows, err);
	if (application != APPLICATION_ID || version <= 0)
		return lm_err_set(err, -EUCLEAN, "store: %s is %s", path,
			version == 0 && application == 0 ? "empty" : "not a store of snapshots");
	return version > SCHEMA_VERSION ? lm_err_set(err, -EPROTO, "store: %s is of version %d, this program knows %d",
						  path, version, SCHEMA_VERSION)
					: check_integrity(rows, err);
}

static int prepare_statements(struct lm_rows *rows, struct lm_err *err)
{
	for (unsigned i = 0; i < STATEMENTS; i++)
		if (sqlite3_prepare_v3(rows->db, statement_text[i], -1, SQLITE_PREPARE_PERSISTENT, &rows->statements[i],
			    NULL) != SQLITE_OK)
			return db_error(rows, statement_text[i], err);
	return 0;
}

static int open_database(struct lm_rows *rows, const char *path, bool may_be_new, struct lm_err *err)
{
	/* The store keeps threads apart, so SQLite needs no lock of its own. */
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (may_be_new ? SQLITE_OPEN_CREATE : 0);
	if (sqlite3_open_v2(path, &rows->db, flags, NULL) != SQLITE_OK)
		return db_error(rows, "open", err);
	sqlite3_busy_timeout(rows->db, BUSY_TIMEOUT_MS);
	int r = exec(rows, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON", err);
	if (r == 0)
		r = check_version(rows, path, may_be_new, err);
	return r < 0 ? r : prepare_statements(rows, err);
}

int lm_rows_open(const char *path, bool may_be_new, struct lm_rows **ret, struct lm_err *err)
{
	CLEANUP(lm_rows_closep) struct lm_rows *rows = calloc(1, sizeof(*rows));
	if (!rows)
		return lm_err_oom(err);
	int r = open_database(rows, path, may_be_new, err);
	if (r < 0)
		return r;
	*ret = STEAL(rows);
	return 0;
}

void lm_rows_close(struct lm_rows *rows)
{
	if (!rows)
		return;
	for (unsigned i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(rows->statements[i]);
	sqlite3_close(rows->db);
	free(rows);
}

/* Reading. */

static int read_row(sqlite3_stmt *query, lm_rows_fn *fn, void *arg, struct lm_err *err)
{
	const struct lm_snapshot row = {
		.id = sqlite3_column_int64(query, 0),
		.plugin = (char *)sqlite3_column_text(query, 1),
		.key = (char *)sqlite3_column_text(query, 2),
		.kind = (enum lm_kind)sqlite3_column_int(query, 3),
		.created_ns = sqlite3_column_int64(query, 5),
		.updated_ns = sqlite3_column_int64(query, 6),
		.usage = {sqlite3_column_int64(query, 7), sqlite3_column_int64(query, 8)},
		.layer_digest = (char *)sqlite3_column_text(query, 9),
		.layer_path = (char *)sqlite3_column_text(query, 10),
		.layer_ref = (char *)sqlite3_column_text(query, 11),
	};
	bool remote = row.layer_digest && row.layer_path && row.layer_ref;
	bool known = row.kind == LM_VIEW || row.kind == LM_ACTIVE || row.kind == LM_COMMITTED;
	if (!row.plugin || !row.key || row.id <= 0 || !known ||
		(!remote && (row.layer_digest || row.layer_path || row.layer_ref)))
		return lm_err_set(err, -EUCLEAN, "store: record %" PRId64 " is incomplete", row.id);
	return fn(arg, &row, sqlite3_column_int64(query, 4), err);
}

int lm_rows_each(struct lm_rows *rows, lm_rows_fn *fn, void *arg, struct lm_err *err)
{
	sqlite3_stmt *query = NULL;
	int rc = sqlite3_prepare_v2(rows->db,
		"SELECT id, plugin, key, kind, parent, created_ns, updated_ns, size_bytes, inodes, layer_digest, "
		"layer_path, layer_ref FROM snapshots ORDER BY id",
		-1, &query, NULL);
	int r = rc == SQLITE_OK ? 0 : db_error(rows, "read", err);
	while (r == 0 && (rc = sqlite3_step(query)) == SQLITE_ROW)
		r = read_row(query, fn, arg, err);
	if (r == 0 && rc != SQLITE_DONE)
		r = db_error(rows, "read", err);
	sqlite3_finalize(query);
	return r;
}

static int read_label(sqlite3_stmt *query, lm_rows_label_fn *fn, void *arg, struct lm_err *err)
{
	const char *key = (const char *)sqlite3_column_text(query, 1);
	const char *value = (const char *)sqlite3_column_text(query, 2);
	return key && value ? fn(arg, sqlite3_column_int64(query, 0), key, value, err)
			    : lm_err_set(err, -EUCLEAN, "store: a label without text");
}

int lm_rows_each_label(struct lm_rows *rows, lm_rows_label_fn *fn, void *arg, struct lm_err *err)
{
	sqlite3_stmt *query = NULL;
	int rc = sqlite3_prepare_v2(rows->db, "SELECT snapshot, key, value FROM labels", -1, &query, NULL);
	int r = rc == SQLITE_OK ? 0 : db_error(rows, "read labels", err);
	while (r == 0 && (rc = sqlite3_step(query)) == SQLITE_ROW)
		r = read_label(query, fn, arg, err);
	if (r == 0 && rc != SQLITE_DONE)
		r = db_error(rows, "read labels", err);
	sqlite3_finalize(query);
	return r;
}

int lm_rows_last_id(struct lm_rows *rows, int64_t *ret, struct lm_err *err)
{
	sqlite3_stmt *query = NULL;
	int rc = sqlite3_prepare_v2(
		rows->db, "SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'snapshots'", -1, &query, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(query);
	int r = rc == SQLITE_ROW ? 0 : db_error(rows, "read the last id", err);
	if (r == 0)
		*ret = sqlite3_column_int64(query, 0);
	sqlite3_finalize(query);
	return r;
}

/* Making. */

int lm_rows_insert_all(struct lm_rows *rows, const struct lm_record *const *records, size_t count, struct lm_err *err)
{
	int r = exec(rows, "BEGIN IMMEDIATE; PRAGMA defer_foreign_keys = ON", err);
	for (size_t i = 0; i < count && r == 0; i++)
		r = insert_row(rows, &records[i]->snapshot, records[i]->parent, err);
	return end(rows, r, err);
}

int lm_rows_to_one_file(struct lm_rows *rows, struct lm_err *err)
{
	return exec(rows, "PRAGMA journal_mode = DELETE", err);
}
