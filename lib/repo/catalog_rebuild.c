/* A catalog's database made anew, table by table. */
#include "repo/catalog_schema.h"

#include "base/str.h"

#include <stdio.h>

/* A table as it is read and written. The columns of a select and an insert correspond. */
struct table_copy {
	const char *select, *insert;
};

/* Values go over as they are, types included. */
static int copy_row(struct lm_db *to, sqlite3_stmt *insert, sqlite3_stmt *row, struct lm_err *err)
{
	for (int i = 0; i < sqlite3_column_count(row); i++)
		if (sqlite3_bind_value(insert, i + 1, sqlite3_column_value(row, i)) != SQLITE_OK)
			return lm_db_error(to, "database", err);
	return lm_db_run(to, insert, err);
}

static int copy_table(struct lm_db *from, struct lm_db *to, const struct table_copy *copy, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *select = NULL;
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *insert = NULL;
	int r = lm_db_prepare(from, copy->select, &select, err);
	if (r == 0)
		r = lm_db_prepare(to, copy->insert, &insert, err);
	while (r == 0 && (r = lm_db_step(from, select, err)) > 0)
		r = copy_row(to, insert, select, err);
	return r;
}

static int copy_rows(struct lm_catalog_db *from, struct lm_db *to, struct lm_err *err)
{
	char select[512];
	snprintf(select, sizeof(select),
		"SELECT rowid, md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, mtime, %s, "
		"flags & %u, name, symlink, uid, gid, %s FROM catalog NOT INDEXED ORDER BY rowid",
		from->revision >= LM_SCHEMA_HAS_MTIME_NS ? "mtimens" : "NULL", lm_schema_flags(from->revision),
		from->revision >= LM_SCHEMA_HAS_XATTR ? "xattr" : "NULL");
	static const char insert[] =
		"INSERT INTO catalog (rowid, md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, "
		"mtime, mtimens, flags, name, symlink, uid, gid, xattr) "
		"VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
	return copy_table(&from->db, to, &(struct table_copy){select, insert}, err);
}

static int copy_nested(struct lm_catalog_db *from, struct lm_db *to, struct lm_err *err)
{
	static const struct table_copy binds = {"SELECT path, sha1, size FROM bind_mountpoints ORDER BY path",
		"INSERT INTO bind_mountpoints (path, sha1, size) VALUES (?1, ?2, ?3)"};
	struct table_copy nested = {from->revision >= LM_SCHEMA_HAS_NESTED_SIZE
					    ? "SELECT path, sha1, size FROM nested_catalogs ORDER BY path"
					    : "SELECT path, sha1, 0 FROM nested_catalogs ORDER BY path",
		"INSERT INTO nested_catalogs (path, sha1, size) VALUES (?1, ?2, ?3)"};
	int r = copy_table(&from->db, to, &nested, err);
	return r < 0 || from->revision < LM_SCHEMA_HAS_BIND ? r : copy_table(&from->db, to, &binds, err);
}

static int copy_all(struct lm_catalog_db *from, struct lm_db *to, struct lm_err *err)
{
	static const struct table_copy others[] = {
		{"SELECT md5path_1, md5path_2, offset, size, hash FROM chunks ORDER BY md5path_1, md5path_2, offset",
			"INSERT INTO chunks (md5path_1, md5path_2, offset, size, hash) VALUES (?1, ?2, ?3, ?4, ?5)"},
		{"SELECT key, value FROM properties", "INSERT INTO properties (key, value) VALUES (?1, ?2)"},
		{"SELECT counter, value FROM statistics", "INSERT INTO statistics (counter, value) VALUES (?1, ?2)"},
	};
	int r = lm_db_exec(to, "BEGIN", err);
	if (r == 0)
		r = lm_db_exec(to, lm_catalog_tables, err);
	if (r == 0)
		r = copy_rows(from, to, err);
	if (r == 0)
		r = copy_nested(from, to, err);
	for (size_t i = 0; i < ARRAY_LEN(others) && r == 0; i++)
		r = copy_table(&from->db, to, &others[i], err);
	if (r == 0)
		r = lm_db_exec(to, lm_catalog_parent_index, err);
	if (r == 0)
		r = lm_db_set_property(to, "schema", LM_SCHEMA_VERSION, err);
	if (r == 0)
		r = lm_db_set_property_number(to, "schema_revision", LM_SCHEMA_REVISION, err);
	return r < 0 ? r : lm_db_exec(to, "COMMIT", err);
}

static void db_done(struct lm_db *db)
{
	lm_db_close(db);
}

static int rebuild(const char *path, const char *mountpoint, const char *to_path, struct lm_err *err)
{
	CLEANUP(lm_catalog_db_done) struct lm_catalog_db from = {0};
	CLEANUP(db_done) struct lm_db to = {0};
	int r = lm_db_open(path, &from.db, err);
	if (r == 0)
		r = lm_catalog_db_check(&from, mountpoint, err);
	if (r == 0)
		r = lm_db_create(to_path, &to, err);
	return r < 0 ? r : copy_all(&from, &to, err);
}

int lm_catalog_rebuild(const char *path, const char *mountpoint, struct lm_err *err)
{
	CLEANUP(lm_freep) char *to_path = lm_str_printf("%s.new", path);
	if (!to_path)
		return lm_err_oom(err);
	int r = rebuild(path, mountpoint, to_path, err);
	if (r == 0 && rename(to_path, path) < 0)
		r = lm_err_sys(err, -errno, "rename %s", to_path);
	if (r < 0)
		unlink(to_path);
	return r;
}
