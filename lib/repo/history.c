#include "repo/history.h"

#include "base/str.h"
#include "repo/db.h"

#define SCHEMA_VERSION "1.0"
enum {
	HAS_SIZE = 1,
	HAS_RECYCLE_BIN = 2,
	HAS_BRANCHES = 3,
	SCHEMA_REVISION = HAS_BRANCHES, /* what writers make */
};

#define RECYCLE_BIN_TABLE "CREATE TABLE recycle_bin (hash TEXT, flags INTEGER, CONSTRAINT pk_hash PRIMARY KEY (hash));"
#define BRANCHES_TABLE                                                                                  \
	"CREATE TABLE branches (branch TEXT, parent TEXT, initial_revision INTEGER, "                   \
	"CONSTRAINT pk_branch PRIMARY KEY (branch), FOREIGN KEY (parent) REFERENCES branches (branch)," \
	" CHECK ((branch <> '') OR (parent IS NULL)), CHECK ((branch = '') OR (parent IS NOT NULL)));"  \
	"INSERT INTO branches (branch, parent, initial_revision) VALUES ('', NULL, 0);"

static const char schema[] =
	"CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));" BRANCHES_TABLE
	"CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER, "
	"description TEXT, size INTEGER, branch TEXT, CONSTRAINT pk_tags PRIMARY KEY (name), "
	"FOREIGN KEY (branch) REFERENCES branches (branch));" RECYCLE_BIN_TABLE;

struct history {
	struct lm_db db;
	uint64_t revision; /* of the schema */
};

static void history_done(struct history *h)
{
	lm_db_close(&h->db);
}

/*
 * Opening
 */

/* "1.0", however many zeros were written. */
static bool is_version_1(const char *text)
{
	return text[0] == '1' && (text[1] == '\0' || (text[1] == '.' && strspn(text + 2, "0") == strlen(text + 2)));
}

/* Names are the key; a column of another type would turn texts that look like numbers into such. */
static int check_columns(struct lm_db *db, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(db,
		"SELECT name FROM pragma_table_info('tags') WHERE pk <> (lower(name) = 'name') OR upper(type) <> "
		"CASE WHEN lower(name) IN ('name', 'hash', 'description', 'branch') THEN 'TEXT' "
		"WHEN lower(name) IN ('revision', 'timestamp', 'size') THEN 'INTEGER' ELSE upper(type) END "
		"UNION ALL SELECT name FROM pragma_table_info('properties') WHERE upper(type) <> 'TEXT'",
		&stmt, err);
	if (r == 0)
		r = lm_db_step(db, stmt, err);
	if (r > 0) {
		const char *name = (const char *)sqlite3_column_text(stmt, 0);
		return lm_err_set(err, -EPROTO, "column %.80s is not what a history has", name ? name : "?");
	}
	return r;
}

static int check_schema(struct history *h, struct lm_err *err)
{
	CLEANUP(lm_freep) char *version = NULL;
	int r = lm_db_property(&h->db, "schema", &version, err);
	if (r == 0)
		r = lm_db_property_number(&h->db, "schema_revision", 0, &h->revision, err);
	if (r < 0)
		return r == -ENOENT ? lm_err_set(err, -EPROTO, "a database without a schema's number") : r;
	if (!is_version_1(version))
		return lm_err_set(err, -EPROTO, "schema %s is unknown", version);
	r = lm_db_check_table(&h->db, "tags", err);
	return r < 0 ? r : check_columns(&h->db, err);
}

static int open_read(const char *path, struct history *ret, struct lm_err *err)
{
	int r = lm_db_open(path, &ret->db, err);
	return r < 0 ? r : check_schema(ret, err);
}

static int with_prefix(struct lm_err *err, int r)
{
	return r < 0 ? lm_err_prefix(err, r, "history") : r;
}

/*
 * Reading
 */

/* The value as text without a NUL inside; NULL where it is none. */
static const char *column_text(sqlite3_stmt *stmt, int column)
{
	if (sqlite3_column_type(stmt, column) != SQLITE_TEXT)
		return NULL;
	const char *text = (const char *)sqlite3_column_text(stmt, column);
	return text && strlen(text) == (size_t)sqlite3_column_bytes(stmt, column) ? text : NULL;
}

/* NULL is allowed: columns that came with a later schema are NULL in older rows. */
static bool optional_text(sqlite3_stmt *stmt, int column, const char **ret)
{
	bool null = sqlite3_column_type(stmt, column) == SQLITE_NULL;
	*ret = null ? "" : column_text(stmt, column);
	return *ret;
}

static bool optional_size(sqlite3_stmt *stmt, int column, uint64_t *ret)
{
	int type = sqlite3_column_type(stmt, column);
	int64_t value = sqlite3_column_int64(stmt, column);
	*ret = (uint64_t)value;
	return (type == SQLITE_INTEGER || type == SQLITE_NULL) && value >= 0;
}

enum { NAME, HASH, REVISION, TIMESTAMP, DESCRIPTION, SIZE, BRANCH };

static int prepare(struct history *h, const char *where, sqlite3_stmt **ret, struct lm_err *err)
{
	char sql[512];
	sqlite3_snprintf(sizeof(sql), sql,
		"SELECT name, hash, revision, timestamp, description, %s, %s AS branch FROM tags %s",
		h->revision < HAS_SIZE ? "NULL" : "size", h->revision < HAS_BRANCHES ? "NULL" : "branch", where);
	return lm_db_prepare(&h->db, sql, ret, err);
}

static int read_tag(sqlite3_stmt *stmt, struct lm_tag *ret, struct lm_err *err)
{
	const char *name = column_text(stmt, NAME), *hash = column_text(stmt, HASH);
	if (!name || !*name)
		return lm_err_set(err, -EPROTO, "a tag without a name");
	ret->name = name;
	if (!hash || lm_hash_parse(hash, strlen(hash), &ret->hash, NULL) < 0)
		return lm_err_set(err, -EPROTO, "tag %.80s has no hash", name);
	if (sqlite3_column_type(stmt, REVISION) != SQLITE_INTEGER ||
		sqlite3_column_type(stmt, TIMESTAMP) != SQLITE_INTEGER)
		return lm_err_set(err, -EPROTO, "tag %.80s has no revision or no time", name);
	ret->revision = (uint64_t)sqlite3_column_int64(stmt, REVISION);
	ret->time_s = sqlite3_column_int64(stmt, TIMESTAMP);
	if (!optional_text(stmt, DESCRIPTION, &ret->description) || !optional_text(stmt, BRANCH, &ret->branch) ||
		!optional_size(stmt, SIZE, &ret->size))
		return lm_err_set(err, -EPROTO, "tag %.80s has fields of wrong types", name);
	return 0;
}

/* The first row; -ENOENT (err is not touched) where there is none. */
static int read_root(struct history *h, sqlite3_stmt *stmt, struct lm_history_root *ret, struct lm_err *err)
{
	struct lm_tag tag;
	int r = lm_db_step(&h->db, stmt, err);
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	r = read_tag(stmt, &tag, err);
	if (r == 0)
		*ret = (struct lm_history_root){tag.hash, tag.revision, tag.time_s, tag.size};
	return r;
}

/* Names are compared byte by byte, whatever collation a foreign schema has. */
static int find(struct history *h, const char *name, struct lm_history_root *ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = prepare(h, "WHERE name = ?1 COLLATE BINARY", &stmt, err);
	if (r < 0)
		return r;
	sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
	r = read_root(h, stmt, ret, err);
	return r == -ENOENT ? lm_err_set(err, r, "there is no tag %.80s", name) : r;
}

int lm_history_find(const char *path, const char *name, struct lm_history_root *ret, struct lm_err *err)
{
	CLEANUP(history_done) struct history h = {0};
	int r = open_read(path, &h, err);
	if (r == 0)
		r = find(&h, name, ret, err);
	return with_prefix(err, r);
}

static int find_at(struct history *h, int64_t time_s, struct lm_history_root *ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	/* In WHERE a column goes before a name given to a result: one that an older schema has not got must not be
	 * asked. */
	int r = prepare(h,
		h->revision < HAS_BRANCHES
			? "WHERE timestamp <= ?1 ORDER BY revision DESC, timestamp DESC LIMIT 1"
			: "WHERE ifnull(branch, '') = '' AND timestamp <= ?1 ORDER BY revision DESC, timestamp DESC "
			  "LIMIT 1",
		&stmt, err);
	if (r < 0)
		return r;
	sqlite3_bind_int64(stmt, 1, time_s);
	r = read_root(h, stmt, ret, err);
	return r == -ENOENT ? lm_err_set(err, r, "no tag is as old as that") : r;
}

int lm_history_at(const char *path, int64_t time_s, struct lm_history_root *ret, struct lm_err *err)
{
	CLEANUP(history_done) struct history h = {0};
	int r = open_read(path, &h, err);
	if (r == 0)
		r = find_at(&h, time_s, ret, err);
	return with_prefix(err, r);
}

/* *ret: what fn returned. */
static int each_tag(struct history *h, lm_tag_fn *fn, void *arg, int *ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = prepare(h, "ORDER BY revision DESC, timestamp DESC, name", &stmt, err);
	*ret = 0;
	while (r == 0 && *ret == 0 && (r = lm_db_step(&h->db, stmt, err)) == 1) {
		struct lm_tag tag;
		r = read_tag(stmt, &tag, err);
		if (r == 0)
			*ret = fn(arg, &tag);
	}
	return r;
}

int lm_history_each(const char *path, lm_tag_fn *fn, void *arg, struct lm_err *err)
{
	CLEANUP(history_done) struct history h = {0};
	int stop = 0;
	int r = open_read(path, &h, err);
	if (r == 0)
		r = each_tag(&h, fn, arg, &stop, err);
	return r < 0 ? with_prefix(err, r) : stop;
}

static int check_integrity(struct lm_db *db, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(db, "PRAGMA integrity_check(1)", &stmt, err);
	if (r == 0)
		r = lm_db_step(db, stmt, err);
	if (r < 0)
		return r;
	const char *verdict = r > 0 ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
	if (!verdict || strcmp(verdict, "ok") != 0)
		return lm_err_set(err, -EPROTO, "damaged: %s", verdict ? verdict : "no verdict");
	return 0;
}

static int check_fqrn(struct lm_db *db, const char *fqrn, struct lm_err *err)
{
	CLEANUP(lm_freep) char *found = NULL;
	if (!fqrn)
		return 0;
	int r = lm_db_property(db, "fqrn", &found, err);
	if (r < 0)
		return r == -ENOENT ? lm_err_set(err, -EPROTO, "it names no repository") : r;
	return strcmp(found, fqrn) == 0 ? 0 : lm_err_set(err, -EPROTO, "it is of repository %.80s", found);
}

static int accept_tag(void *arg, const struct lm_tag *tag)
{
	return 0;
}

static int check_file(const char *path, const char *fqrn, struct lm_err *err)
{
	CLEANUP(history_done) struct history h = {0};
	int stop, r = open_read(path, &h, err);
	if (r == 0)
		r = check_integrity(&h.db, err);
	if (r == 0)
		r = check_fqrn(&h.db, fqrn, err);
	return r < 0 ? r : each_tag(&h, accept_tag, NULL, &stop, err);
}

int lm_history_check(const char *path, const char *fqrn, struct lm_err *err)
{
	return with_prefix(err, check_file(path, fqrn, err));
}

/*
 * Writing
 */

/* What older schemas lack. */
static int upgrade(struct history *h, struct lm_err *err)
{
	int r = 0;
	if (h->revision == SCHEMA_REVISION)
		return 0;
	if (h->revision < HAS_SIZE)
		r = lm_db_exec(&h->db, "ALTER TABLE tags ADD size INTEGER", err);
	if (r == 0 && h->revision < HAS_RECYCLE_BIN)
		r = lm_db_exec(&h->db, RECYCLE_BIN_TABLE, err);
	if (r == 0 && h->revision < HAS_BRANCHES)
		r = lm_db_exec(
			&h->db, BRANCHES_TABLE "ALTER TABLE tags ADD branch TEXT; UPDATE tags SET branch = ''", err);
	if (r == 0)
		r = lm_db_set_property_number(&h->db, "schema_revision", SCHEMA_REVISION, err);
	h->revision = SCHEMA_REVISION;
	return r;
}

/* Begins the one change that a writer makes, which ends with its commit(). The reader's limits hold for the check;
 * after it nothing in the file can lead a statement astray. */
static int open_write(const char *path, struct history *ret, struct lm_err *err)
{
	int r = check_file(path, NULL, err);
	if (r == 0)
		r = lm_db_open_edit(path, &ret->db, err);
	if (r == 0)
		r = check_schema(ret, err);
	if (r < 0)
		return r;
	if (ret->revision > SCHEMA_REVISION)
		return lm_err_set(err, -ENOTSUP, "its schema of revision %llu can't be changed",
			(unsigned long long)ret->revision);
	r = lm_db_exec(&ret->db, "BEGIN", err);
	return r < 0 ? r : upgrade(ret, err);
}

static int commit(struct history *h, const struct lm_hash *previous, struct lm_err *err)
{
	int r = previous->set ? lm_db_set_property(&h->db, "previous_revision", lm_hash_text(previous).s, err) : 0;
	return r < 0 ? r : lm_db_exec(&h->db, "COMMIT", err);
}

static int create(struct history *h, const char *fqrn, struct lm_err *err)
{
	int r = lm_db_exec(&h->db, "BEGIN", err);
	if (r == 0)
		r = lm_db_exec(&h->db, schema, err);
	if (r == 0)
		r = lm_db_set_property(&h->db, "schema", SCHEMA_VERSION, err);
	if (r == 0)
		r = lm_db_set_property_number(&h->db, "schema_revision", SCHEMA_REVISION, err);
	if (r == 0)
		r = lm_db_set_property(&h->db, "fqrn", fqrn, err);
	return r < 0 ? r : lm_db_exec(&h->db, "COMMIT", err);
}

int lm_history_create(const char *path, const char *fqrn, struct lm_err *err)
{
	CLEANUP(history_done) struct history h = {0};
	int r = lm_db_create(path, &h.db, err);
	if (r == 0)
		r = create(&h, fqrn, err);
	return with_prefix(err, r);
}

static int insert(struct history *h, const struct lm_tag *tag, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(&h->db,
		"INSERT INTO tags (name, hash, revision, timestamp, channel, description, size, branch) "
		"VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7)",
		&stmt, err);
	if (r < 0)
		return r;
	struct lm_hash_text hash = lm_hash_text(&tag->hash);
	sqlite3_bind_text(stmt, 1, tag->name, -1, SQLITE_STATIC);
	sqlite3_bind_text(stmt, 2, hash.s, -1, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 3, (int64_t)tag->revision);
	sqlite3_bind_int64(stmt, 4, tag->time_s);
	sqlite3_bind_text(stmt, 5, tag->description ? tag->description : "", -1, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 6, (int64_t)tag->size);
	sqlite3_bind_text(stmt, 7, tag->branch ? tag->branch : "", -1, SQLITE_STATIC);
	return lm_db_run(&h->db, stmt, err);
}

static int move_trunk(struct history *h, const struct lm_history_root *root, struct lm_err *err)
{
	struct lm_tag trunk = {
		.name = LM_TAG_TRUNK,
		.description = "current HEAD",
		.hash = root->hash,
		.revision = root->revision,
		.time_s = root->modified_s,
		.size = root->size,
	};
	/* Without a trunk (a history that began in the middle) the tag that would go stale is removed all the same. */
	int r = lm_db_exec(&h->db,
		"DELETE FROM tags WHERE name = '" LM_TAG_PREVIOUS
		"' COLLATE BINARY; UPDATE tags SET name = '" LM_TAG_PREVIOUS
		"', description = 'default undo target' WHERE name = '" LM_TAG_TRUNK "' COLLATE BINARY",
		err);
	return r < 0 ? r : insert(h, &trunk, err);
}

int lm_history_advance(
	const char *path, const struct lm_history_root *root, const struct lm_hash *previous, struct lm_err *err)
{
	CLEANUP(history_done) struct history h = {0};
	int r = open_write(path, &h, err);
	if (r == 0)
		r = move_trunk(&h, root, err);
	if (r == 0)
		r = commit(&h, previous, err);
	return with_prefix(err, r);
}

int lm_history_set(const char *path, const struct lm_tag *tag, const struct lm_hash *previous, struct lm_err *err)
{
	CLEANUP(history_done) struct history h = {0};
	int r = open_write(path, &h, err);
	if (r == 0)
		r = insert(&h, tag, err);
	if (r == -EEXIST)
		return lm_err_set(err, r, "there is a tag %.80s already", tag->name);
	if (r == 0)
		r = commit(&h, previous, err);
	return with_prefix(err, r);
}

static int delete (struct history *h, const char *name, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(&h->db, "DELETE FROM tags WHERE name = ?1 COLLATE BINARY", &stmt, err);
	if (r < 0)
		return r;
	sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
	r = lm_db_run(&h->db, stmt, err);
	if (r == 0 && sqlite3_changes(h->db.sqlite) == 0)
		return lm_err_set(err, -ENOENT, "there is no tag %.80s", name);
	return r;
}

int lm_history_remove(const char *path, const char *name, const struct lm_hash *previous, struct lm_err *err)
{
	CLEANUP(history_done) struct history h = {0};
	int r = open_write(path, &h, err);
	if (r == 0)
		r = delete (&h, name, err);
	if (r == 0)
		r = commit(&h, previous, err);
	return with_prefix(err, r);
}

bool lm_tag_name_valid(const char *name)
{
	size_t len = strlen(name);
	if (len == 0 || len > LM_TAG_NAME_MAX || name[0] == '-' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return false;
	for (const char *at = name; *at; at++)
		if ((unsigned char)*at <= ' ' || *at == '/' || *at == 0x7f)
			return false;
	return true;
}
