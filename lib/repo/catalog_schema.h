/*
 * What the reader and the writer of catalogs share: the schema, the counters, decoding of rows. Private to lib/repo.
 *
 * Rows, chunks and entries of nested catalogs come out checked, whoever reads them: types, ranges, names.
 */
#ifndef LM_REPO_CATALOG_SCHEMA_H
#define LM_REPO_CATALOG_SCHEMA_H

#include "repo/catalog.h"
#include "repo/db.h"

#define LM_SCHEMA_VERSION "2.5"
enum {
	LM_SCHEMA_REVISION = 7,		/* what the writer makes */
	LM_SCHEMA_HAS_NESTED_SIZE = 1,	/* first revision with nested_catalogs.size */
	LM_SCHEMA_HAS_XATTR = 2,	/* catalog.xattr and its counters */
	LM_SCHEMA_HAS_COMPRESSION = 3,	/* compression bits and external files */
	LM_SCHEMA_HAS_BIND = 4,		/* bind_mountpoints, hidden rows */
	LM_SCHEMA_HAS_ALL_COUNTERS = 5, /* special files are stored and counted */
	LM_SCHEMA_HAS_DIRECT_IO = 6,
	LM_SCHEMA_HAS_MTIME_NS = 7, /* catalog.mtimens */
};

/* Bits of the flags column that are fields of struct lm_row of their own. */
enum {
	LM_ROW_ALGO_SHIFT = 8,
	LM_ROW_COMPRESSION_SHIFT = 11,
	LM_ROW_FIELD_MASK = 7,
	LM_ROW_TYPE_FLAGS = LM_ROW_DIR | LM_ROW_FILE | LM_ROW_SYMLINK | LM_ROW_SPECIAL,
};

enum { LM_GROUP_MAX = INT32_MAX, LM_CHUNKS_MAX = 16 << 20 };

extern const char lm_catalog_tables[];	     /* SQL that makes the tables, without the parent index */
extern const char lm_catalog_parent_index[]; /* SQL that makes the parent index */

struct lm_counter_name {
	const char *name; /* without self_ or subtree_ */
	size_t offset;	  /* of the uint64_t in struct lm_counters */
	unsigned since;	  /* schema revision from which on a catalog must have it */
};
enum { LM_COUNTER_COUNT = 12 };
extern const struct lm_counter_name lm_counter_names[LM_COUNTER_COUNT];
static inline uint64_t *lm_counter_at(struct lm_counters *counters, size_t i)
{
	return (uint64_t *)((char *)counters + lm_counter_names[i].offset);
}

/* An open database that was found to be a catalog for mountpoint. */
struct lm_catalog_db {
	struct lm_db db;
	unsigned revision; /* of the schema */
	char *mountpoint;
	struct lm_path_hash root; /* of the mountpoint */
};
/* db->db is open; on failure it still is. mountpoint as for lm_catalog_open(). */
int lm_catalog_db_check(struct lm_catalog_db *db, const char *mountpoint, struct lm_err *err) MUST_CHECK;
void lm_catalog_db_done(struct lm_catalog_db *db);

/* The array with room for one more than its count items: doubled when full. NULL: no memory, it is as it was. */
void *lm_grown(void *items, size_t count, size_t *cap, size_t item_size) MUST_CHECK;

/* One component of a path: 1..255 bytes without slash or NUL, not "." or "..". */
bool lm_name_valid(const char *name, size_t len);
/* "" or "/" and valid names joined by slashes, LM_REPO_PATH_MAX bytes at most. */
bool lm_repo_path_valid(const char *path);
/* path is inside the directory dir (not dir itself). */
bool lm_repo_path_below(const char *path, const char *dir);
/* Where the last component begins, so that path[0..ret - 1) is the parent; path is not "". */
size_t lm_repo_path_name(const char *path);

/* Prepares SELECT of all columns of a row, in this order, for lm_row_decode(); where: what follows FROM catalog. */
enum lm_row_column {
	LM_COL_ROWID,
	LM_COL_PATH_1,
	LM_COL_PATH_2,
	LM_COL_PARENT_1,
	LM_COL_PARENT_2,
	LM_COL_HARDLINKS,
	LM_COL_HASH,
	LM_COL_SIZE,
	LM_COL_MODE,
	LM_COL_MTIME,
	LM_COL_MTIME_NS,
	LM_COL_FLAGS,
	LM_COL_NAME,
	LM_COL_SYMLINK,
	LM_COL_UID,
	LM_COL_GID,
	LM_COL_XATTR,
};
int lm_row_prepare(struct lm_catalog_db *db, const char *where, sqlite3_stmt **ret, struct lm_err *err) MUST_CHECK;
/* The conditions used: indexes are named, so that a database without them is refused instead of scanned. */
#define LM_ROW_BY_PATH "INDEXED BY sqlite_autoindex_catalog_1 WHERE md5path_1 = ?1 AND md5path_2 = ?2"
#define LM_ROW_BY_HALF "INDEXED BY sqlite_autoindex_catalog_1 WHERE md5path_1 = ?1 LIMIT 2"
#define LM_ROW_BY_ROWID "WHERE rowid = ?1"
#define LM_ROW_BY_PARENT \
	"INDEXED BY idx_catalog_parent WHERE parent_1 = ?1 AND parent_2 = ?2 AND rowid > ?3 ORDER BY rowid"
int lm_row_decode(
	const struct lm_catalog_db *db, sqlite3_stmt *stmt, struct lm_row *ret, struct lm_err *err) MUST_CHECK;
/* A digest of all that the members of a hard-link group share, their chunks last, in order. FNV-1a: members differ by a
 * writer's mistake, not by a forger, who could as well have made them alike. */
uint64_t lm_row_digest(const struct lm_row *row);
uint64_t lm_chunk_digest(uint64_t digest, const struct lm_chunk *chunk);
/* The flags that say the type: 0 where mode has none that a catalog knows. */
uint32_t lm_row_type_flags(uint32_t mode);
uint32_t lm_row_own_flags(const struct lm_row *row); /* those of row->flags that are the caller's when it is written */
static inline void lm_bind_path(sqlite3_stmt *stmt, struct lm_path_hash path)
{
	sqlite3_bind_int64(stmt, 1, path.a);
	sqlite3_bind_int64(stmt, 2, path.b);
}

/* Parameters: 1, 2 the path, 3 an offset. From the last chunk that begins there or before, in order. */
#define LM_CHUNKS_SELECT                                                                                      \
	"SELECT offset, size, hash FROM chunks INDEXED BY sqlite_autoindex_chunks_1 "                         \
	"WHERE md5path_1 = ?1 AND md5path_2 = ?2 AND offset >= ifnull((SELECT max(offset) FROM chunks "       \
	"INDEXED BY sqlite_autoindex_chunks_1 WHERE md5path_1 = ?1 AND md5path_2 = ?2 AND offset <= ?3), 0) " \
	"ORDER BY offset"
/* Runs a statement made of that; see lm_catalog_chunks(). */
int lm_chunks_read(struct lm_db *db, sqlite3_stmt *stmt, const struct lm_row *row, uint64_t offset, uint64_t len,
	struct lm_chunk **ret, size_t *ret_count, struct lm_err *err) MUST_CHECK;

/* Prepares a SELECT of path, hash and size from nested_catalogs or bind_mountpoints. */
int lm_nested_prepare(struct lm_catalog_db *db, const char *table, const char *where, sqlite3_stmt **ret,
	struct lm_err *err) MUST_CHECK;
int lm_nested_decode(
	const struct lm_catalog_db *db, sqlite3_stmt *stmt, struct lm_nested *ret, struct lm_err *err) MUST_CHECK;

/* The bits of the flags column that mean something in a revision of the schema. */
uint32_t lm_schema_flags(unsigned revision);

/* Makes the database file anew at the same path: with tables as stock publishers make them, schema 2.5 of revision 7,
 * and no free pages. Rows, chunks, nested catalogs, bind mountpoints, properties and counters are kept, other tables
 * and columns are not. */
int lm_catalog_rebuild(const char *path, const char *mountpoint, struct lm_err *err) MUST_CHECK;

/* The counters in the file; those that older schemas lack are 0. */
int lm_counters_read(struct lm_catalog_db *db, struct lm_counters *ret_self, struct lm_counters *ret_subtree,
	struct lm_err *err) MUST_CHECK;

/* The catalog's own counters, from its rows. */
int lm_counters_count(struct lm_catalog_db *db, struct lm_counters *ret, struct lm_err *err) MUST_CHECK;

#endif
