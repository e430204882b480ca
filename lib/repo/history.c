#include "repo/history.h"

#include "repo/db.h"

#define SCHEMA_VERSION "1.0"
enum { SCHEMA_REVISION = 3 };

static const char schema[] =
	"CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));"
	"CREATE TABLE branches (branch TEXT, parent TEXT, initial_revision INTEGER, "
	"CONSTRAINT pk_branch PRIMARY KEY (branch), FOREIGN KEY (parent) REFERENCES branches (branch), "
	"CHECK ((branch <> '') OR (parent IS NULL)), CHECK ((branch = '') OR (parent IS NOT NULL)));"
	"CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER, "
	"description TEXT, size INTEGER, branch TEXT, CONSTRAINT pk_tags PRIMARY KEY (name), "
	"FOREIGN KEY (branch) REFERENCES branches (branch));"
	"CREATE TABLE recycle_bin (hash TEXT, flags INTEGER, CONSTRAINT pk_hash PRIMARY KEY (hash));"
	"INSERT INTO branches (branch, parent, initial_revision) VALUES ('', NULL, 0);";

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
		r = lm_db_set_property_number(db, "schema_revision", SCHEMA_REVISION, err);
	if (r == 0)
		r = lm_db_set_property(db, "fqrn", fqrn, err);
	return r < 0 ? r : lm_db_exec(db, "COMMIT", err);
}

int lm_history_create(const char *path, const char *fqrn, struct lm_err *err)
{
	CLEANUP(db_done) struct lm_db db = {0};
	int r = lm_db_create(path, &db, err);
	if (r == 0)
		r = create(&db, fqrn, err);
	return r < 0 ? lm_err_prefix(err, r, "history") : 0;
}

static int check_schema(struct lm_db *db, struct lm_err *err)
{
	CLEANUP(lm_freep) char *version = NULL;
	uint64_t revision;
	int r = lm_db_property(db, "schema", &version, err);
	if (r == 0)
		r = lm_db_property_number(db, "schema_revision", 0, &revision, err);
	if (r < 0)
		return r == -ENOENT ? -EPROTO : r;
	if (strcmp(version, SCHEMA_VERSION) != 0 || revision != SCHEMA_REVISION)
		return lm_err_set(
			err, -ENOTSUP, "its schema of revision %llu can't be changed", (unsigned long long)revision);
	return 0;
}

static int set_trunk(struct lm_db *db, const struct lm_history_root *root, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(db,
		"INSERT OR REPLACE INTO tags (name, hash, revision, timestamp, channel, description, size, branch) "
		"VALUES ('trunk', ?1, ?2, ?3, 0, 'current HEAD', ?4, '')",
		&stmt, err);
	if (r < 0)
		return r;
	struct lm_hash_text hash = lm_hash_text(&root->hash);
	sqlite3_bind_text(stmt, 1, hash.s, -1, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 2, (int64_t)root->revision);
	sqlite3_bind_int64(stmt, 3, root->modified_s);
	sqlite3_bind_int64(stmt, 4, (int64_t)root->size);
	return lm_db_run(db, stmt, err);
}

static int advance(
	struct lm_db *db, const struct lm_history_root *root, const struct lm_hash *previous, struct lm_err *err)
{
	int r = lm_db_exec(db, "BEGIN", err);
	if (r == 0)
		r = lm_db_exec(db,
			"INSERT OR REPLACE INTO tags (name, hash, revision, timestamp, channel, description, size, "
			"branch) "
			"SELECT 'trunk-previous', hash, revision, timestamp, channel, 'default undo target', size, "
			"branch "
			"FROM tags WHERE name = 'trunk'",
			err);
	if (r == 0)
		r = set_trunk(db, root, err);
	if (r == 0 && previous->set)
		r = lm_db_set_property(db, "previous_revision", lm_hash_text(previous).s, err);
	return r < 0 ? r : lm_db_exec(db, "COMMIT", err);
}

int lm_history_advance(
	const char *path, const struct lm_history_root *root, const struct lm_hash *previous, struct lm_err *err)
{
	CLEANUP(db_done) struct lm_db db = {0};
	int r = lm_db_open_edit(path, &db, err);
	if (r == 0)
		r = check_schema(&db, err);
	if (r == 0)
		r = advance(&db, root, previous, err);
	return r < 0 ? lm_err_prefix(err, r, "history") : 0;
}

static int read_tag(sqlite3_stmt *stmt, struct lm_tag *ret, struct lm_err *err)
{
	const char *name = (const char *)sqlite3_column_text(stmt, 0);
	const char *hash = (const char *)sqlite3_column_text(stmt, 1);
	const char *description = (const char *)sqlite3_column_text(stmt, 4);
	if (!name || !hash || lm_hash_parse(hash, strlen(hash), &ret->hash, NULL) < 0)
		return lm_err_set(err, -EPROTO, "a tag without a name or a valid hash");
	ret->name = name;
	ret->description = description ? description : "";
	ret->revision = (uint64_t)sqlite3_column_int64(stmt, 2);
	ret->time_s = sqlite3_column_int64(stmt, 3);
	return 0;
}

static int each_tag(struct lm_db *db, lm_tag_fn *fn, void *arg, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(db,
		"SELECT name, hash, revision, timestamp, description FROM tags ORDER BY revision DESC, timestamp DESC",
		&stmt, err);
	while (r == 0 && (r = lm_db_step(db, stmt, err)) == 1) {
		struct lm_tag tag;
		r = read_tag(stmt, &tag, err);
		if (r < 0)
			break;
		r = fn(arg, &tag);
	}
	return r;
}

int lm_history_each(const char *path, lm_tag_fn *fn, void *arg, struct lm_err *err)
{
	CLEANUP(db_done) struct lm_db db = {0};
	int r = lm_db_open(path, &db, err);
	if (r < 0)
		return lm_err_prefix(err, r, "history");
	return each_tag(&db, fn, arg, err);
}
