#include "repo/reflog.h"

#include "repo/db.h"

#define SCHEMA_VERSION "1.0"

static const char schema[] =
	"CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));"
	"CREATE TABLE refs (hash TEXT, type INTEGER, timestamp INTEGER, CONSTRAINT pk_refs PRIMARY KEY (hash));";

static void db_done(struct lm_db *db)
{
	lm_db_close(db);
}

static int create(struct lm_db *db, const char *fqrn, struct lm_err *err)
{
	int r = lm_db_exec(db, "BEGIN", err);
	if (r == 0)
		r = lm_db_exec(db, schema, err);
	if (r == 0)
		r = lm_db_set_property(db, "schema", SCHEMA_VERSION, err);
	if (r == 0)
		r = lm_db_set_property_number(db, "schema_revision", 0, err);
	if (r == 0)
		r = lm_db_set_property(db, "fqrn", fqrn, err);
	return r < 0 ? r : lm_db_exec(db, "COMMIT", err);
}

int lm_reflog_create(const char *path, const char *fqrn, struct lm_err *err)
{
	CLEANUP(db_done) struct lm_db db = {0};
	int r = lm_db_create(path, &db, err);
	if (r == 0)
		r = create(&db, fqrn, err);
	return r < 0 ? lm_err_prefix(err, r, "reflog") : 0;
}

/* Later revisions of a schema only add. */
static int check_schema(struct lm_db *db, struct lm_err *err)
{
	CLEANUP(lm_freep) char *version = NULL;
	int r = lm_db_check_table(db, "properties", err);
	if (r == 0)
		r = lm_db_check_table(db, "refs", err);
	if (r == 0)
		r = lm_db_property(db, "schema", &version, err);
	if (r < 0)
		return r == -ENOENT ? -EPROTO : r;
	return strcmp(version, SCHEMA_VERSION) == 0 ? 0 : lm_err_set(err, -EPROTO, "unknown schema '%s'", version);
}

/* Runs sql, whose parameters are hash and, if it has them, type and time, for each. */
static int run_each(struct lm_db *db, const char *sql, const struct lm_ref *refs, size_t count, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(db, sql, &stmt, err);
	for (size_t i = 0; i < count && r == 0; i++) {
		struct lm_hash_text hash = lm_hash_text(&refs[i].hash);
		sqlite3_bind_text(stmt, 1, hash.s, -1, SQLITE_STATIC);
		if (sqlite3_bind_parameter_count(stmt) > 1) {
			sqlite3_bind_int(stmt, 2, (int)refs[i].type);
			sqlite3_bind_int64(stmt, 3, refs[i].time_s);
		}
		r = lm_db_run(db, stmt, err);
	}
	return r;
}

static int change(const char *path, const char *sql, const struct lm_ref *refs, size_t count, struct lm_err *err)
{
	CLEANUP(db_done) struct lm_db db = {0};
	int r = lm_db_open_edit(path, &db, err);
	if (r == 0)
		r = check_schema(&db, err);
	if (r == 0)
		r = lm_db_exec(&db, "BEGIN", err);
	if (r == 0)
		r = run_each(&db, sql, refs, count, err);
	if (r == 0)
		r = lm_db_exec(&db, "COMMIT", err);
	return r < 0 ? lm_err_prefix(err, r, "reflog") : 0;
}

int lm_reflog_add(const char *path, const struct lm_ref *refs, size_t count, struct lm_err *err)
{
	return change(path, "INSERT OR IGNORE INTO refs (hash, type, timestamp) VALUES (?1, ?2, ?3)", refs, count, err);
}

int lm_reflog_remove(const char *path, const struct lm_hash *hashes, size_t count, struct lm_err *err)
{
	CLEANUP(lm_freep) struct lm_ref *refs = calloc(count ? count : 1, sizeof(*refs));
	if (!refs)
		return lm_err_oom(err);
	for (size_t i = 0; i < count; i++)
		refs[i].hash = hashes[i];
	return change(path, "DELETE FROM refs WHERE hash = ?1", refs, count, err);
}

static int read_ref(sqlite3_stmt *stmt, struct lm_ref *ret, struct lm_err *err)
{
	const char *hash = (const char *)sqlite3_column_text(stmt, 0);
	int64_t type = sqlite3_column_int64(stmt, 1);
	if (!hash || lm_hash_parse(hash, (size_t)sqlite3_column_bytes(stmt, 0), &ret->hash, NULL) < 0)
		return lm_err_set(err, -EPROTO, "a row without a valid hash");
	if (sqlite3_column_type(stmt, 1) != SQLITE_INTEGER || type < LM_REF_CATALOG || type > LM_REF_METAINFO)
		return lm_err_set(err, -EPROTO, "%s is of no known type", hash);
	ret->type = (enum lm_ref_type)type;
	ret->time_s = sqlite3_column_int64(stmt, 2);
	return 0;
}

static int each(struct lm_db *db, lm_ref_fn *fn, void *arg, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(db, "SELECT hash, type, timestamp FROM refs ORDER BY rowid", &stmt, err);
	while (r == 0 && (r = lm_db_step(db, stmt, err)) == 1) {
		struct lm_ref ref;
		r = read_ref(stmt, &ref, err);
		int stop = r == 0 ? fn(arg, &ref) : 0;
		if (stop != 0)
			return stop;
	}
	return r < 0 ? lm_err_prefix(err, r, "reflog") : 0;
}

int lm_reflog_each(const char *path, lm_ref_fn *fn, void *arg, struct lm_err *err)
{
	CLEANUP(db_done) struct lm_db db = {0};
	int r = lm_db_open(path, &db, err);
	if (r == 0)
		r = check_schema(&db, err);
	return r < 0 ? lm_err_prefix(err, r, "reflog") : each(&db, fn, arg, err);
}
