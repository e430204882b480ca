#include "repo/db.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"

#include <ctype.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum {
	HEADER_BYTES = 100,
	HEADER_WRITE_VERSION = 18, /* 1: rollback journal, 2: write-ahead log */
	HEADER_READ_VERSION = 19,
	HEADER_ENCODING = 56, /* big-endian; 1 is UTF-8 */

	VALUE_MAX = 1 << 20,	/* bytes of one value, row or statement */
	COLUMNS_MAX = 100,	/* of a table or result; ours have 16 */
	PROGRESS_STEPS = 10000, /* the step limit is looked at that often */
	STEPS_MIN = 1000000,
};

/* SQLite's extended result codes: the primary one is the low byte. */
static int errno_of(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_IOERR:
		return rc == SQLITE_IOERR_NOMEM ? -ENOMEM : -EIO;
	case SQLITE_CANTOPEN:
	case SQLITE_PERM:
	case SQLITE_READONLY:
		return -EIO;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	case SQLITE_CONSTRAINT:
		return -EEXIST;
	default: /* SQLITE_CORRUPT, NOTADB, ERROR (no such table), TOOBIG, INTERRUPT (too many steps)... */
		return -EPROTO;
	}
}

int lm_db_error(struct lm_db *db, const char *what, struct lm_err *err)
{
	int rc = sqlite3_extended_errcode(db->sqlite), os = sqlite3_system_errno(db->sqlite);
	if ((rc & 0xff) == SQLITE_CANTOPEN && (os == EMFILE || os == ENFILE))
		return lm_err_sys(err, -os, "%s", what);
	const char *why = (rc & 0xff) == SQLITE_INTERRUPT ? "no end in sight, the database runs in circles"
							  : sqlite3_errmsg(db->sqlite);
	return lm_err_set(err, errno_of(rc), "%s: %s", what, why);
}

/* Statements of a reader that go on for more steps than the file has bytes are going round in circles. */
static int count_steps(void *arg)
{
	struct lm_db *db = arg;
	db->steps_left -= PROGRESS_STEPS;
	return db->steps_left < 0;
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int check_header(const char *path, off_t *ret_size, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return lm_err_sys(err, -errno, "open %s", path);
	struct stat st;
	if (fstat(fd, &st) < 0)
		return lm_err_sys(err, -errno, "stat %s", path);
	uint8_t header[HEADER_BYTES];
	int r = lm_pread_all(fd, header, sizeof(header), 0, err);
	if (r == -ENODATA)
		return lm_err_set(err, -EPROTO, "database of %lld bytes", (long long)st.st_size);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", path);
	if (memcmp(header, "SQLite format 3", 16) != 0)
		return lm_err_set(err, -EPROTO, "not an SQLite database");
	if (header[HEADER_WRITE_VERSION] != 1 || header[HEADER_READ_VERSION] != 1)
		return lm_err_set(err, -EPROTO, "database is not in rollback-journal mode");
	if (be32(header + HEADER_ENCODING) != 1)
		return lm_err_set(err, -EPROTO, "database is not in UTF-8");
	*ret_size = st.st_size;
	return 0;
}

/* A file name may hold bytes that mean something in an URI. */
static int make_uri(const char *path, const char *parameters, struct lm_buf *ret)
{
	int r = lm_buf_str(ret, *path == '/' ? "file://" : "file:");
	for (const char *at = path; *at && r == 0; at++) {
		unsigned char c = (unsigned char)*at;
		if (isalnum(c) || strchr("/._-", c))
			r = lm_buf_append(ret, &c, 1);
		else
			r = lm_buf_printf(ret, "%%%02x", c);
	}
	return r < 0 ? r : lm_buf_str(ret, parameters);
}

int lm_db_reserve(size_t bytes, struct lm_err *err)
{
	int header = 0; /* that SQLite keeps with each page */
	if (sqlite3_config(SQLITE_CONFIG_PCACHE_HDRSZ, &header) != SQLITE_OK)
		return lm_err_set(err, -EALREADY, "databases were opened before memory was set aside for them");
	int room = LM_DB_PAGE + ((header + 7) & ~7);
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return lm_err_oom(err);
	if (sqlite3_config(SQLITE_CONFIG_PAGECACHE, memory, room, (int)(bytes / (size_t)room)) == SQLITE_OK)
		return 0;
	munmap(memory, bytes);
	return lm_err_set(err, -EALREADY, "databases were opened before memory was set aside for them");
}

static int open_file(const char *path, const char *parameters, int flags, struct lm_db *db, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf uri = LM_BUF(3 * PATH_MAX + 64);
	int r = make_uri(path, parameters, &uri);
	if (r < 0)
		return lm_err_sys(err, r == -EMSGSIZE ? -ENAMETOOLONG : r, "%s", path);
	int rc = sqlite3_open_v2(lm_buf_cstr(&uri), &db->sqlite,
		flags | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE | SQLITE_OPEN_EXRESCODE, NULL);
	if (!db->sqlite)
		return lm_err_oom(err);
	return rc == SQLITE_OK ? 0 : lm_db_error(db, "open database", err);
}

static void set_limits(struct lm_db *db)
{
	static const struct {
		int what, value;
	} limits[] = {
		{SQLITE_LIMIT_LENGTH, VALUE_MAX},
		{SQLITE_LIMIT_SQL_LENGTH, VALUE_MAX},
		{SQLITE_LIMIT_COLUMN, COLUMNS_MAX},
		{SQLITE_LIMIT_ATTACHED, 0},
		{SQLITE_LIMIT_TRIGGER_DEPTH, 0},
		{SQLITE_LIMIT_WORKER_THREADS, 0},
	};
	for (size_t i = 0; i < ARRAY_LEN(limits); i++)
		sqlite3_limit(db->sqlite, limits[i].what, limits[i].value);
	static const struct {
		int what, value;
	} config[] = {
		{SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
		{SQLITE_DBCONFIG_ENABLE_TRIGGER, 0},
		{SQLITE_DBCONFIG_ENABLE_VIEW, 0},
		{SQLITE_DBCONFIG_ENABLE_FKEY, 0},
		{SQLITE_DBCONFIG_DQS_DDL, 0},
		{SQLITE_DBCONFIG_DQS_DML, 0},
	};
	for (size_t i = 0; i < ARRAY_LEN(config); i++)
		sqlite3_db_config(db->sqlite, config[i].what, config[i].value, NULL);
}

/* Last the defensive mode: in it SQLite turns a deaf ear to journal_mode = OFF. */
static int set_pragmas(struct lm_db *db, const char *more, unsigned cache_kib, struct lm_err *err)
{
	char sql[512];
	snprintf(sql, sizeof(sql),
		"PRAGMA cache_size = -%u; PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON; PRAGMA automatic_index = "
		"OFF; "
		"%s",
		cache_kib, more);
	int r = lm_db_exec(db, sql, err);
	sqlite3_db_config(db->sqlite, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	return r;
}

/* Row by row, since the type column of a forged schema need not tell what the statement makes. */
static int check_schema(struct lm_db *db, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(db,
		"SELECT name FROM sqlite_schema WHERE sql IS NOT NULL AND sql NOT LIKE 'CREATE TABLE %' AND "
		"sql NOT LIKE 'CREATE INDEX %' AND sql NOT LIKE 'CREATE UNIQUE INDEX %'",
		&stmt, err);
	if (r < 0)
		return r;
	r = lm_db_step(db, stmt, err);
	if (r > 0) {
		const unsigned char *name = sqlite3_column_text(stmt, 0);
		return lm_err_set(err, -EPROTO, "'%s' in the database is neither table nor index",
			name ? (const char *)name : "");
	}
	return r;
}

/* Room for the inner pages of all b-trees, and as much again for leaves that pass through: a look-up then reads its two
 * leaves, however large the database is. The leaves themselves are the kernel's to keep. */
static unsigned read_cache_kib(off_t size)
{
	off_t kib = size / 1024 / LM_DB_CACHE_READ_PART;
	return (unsigned)LM_MIN(LM_MAX(kib, (off_t)LM_DB_CACHE_READ_KIB), (off_t)LM_DB_CACHE_READ_MAX_KIB);
}

static int open_checked(const char *path, bool edit, struct lm_db *db, struct lm_err *err)
{
	off_t size = 0;
	int r = check_header(path, &size, err);
	if (r == 0)
		r = open_file(
			path, edit ? "" : "?immutable=1", edit ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY, db, err);
	if (r < 0)
		return r;
	set_limits(db);
	db->steps_max = db->steps_left = edit ? INT64_MAX : (int64_t)size + STEPS_MIN;
	if (!edit) {
		sqlite3_progress_handler(db->sqlite, PROGRESS_STEPS, count_steps, db);
		/* A store for small allocations: 48 KiB that a reader hardly uses, who prepares its statements once. */
		sqlite3_db_config(db->sqlite, SQLITE_DBCONFIG_LOOKASIDE, NULL, 0, 0);
	}
	r = edit ? set_pragmas(db,
			   "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; "
			   "PRAGMA secure_delete = ON",
			   LM_DB_CACHE_WRITE_KIB, err)
		 : set_pragmas(db, "PRAGMA query_only = ON", read_cache_kib(size), err);
	return r < 0 ? r : check_schema(db, err);
}

static int open_once(const char *path, struct lm_db *ret, struct lm_err *err)
{
	*ret = (struct lm_db){0};
	int r = open_checked(path, false, ret, err);
	if (r < 0)
		lm_db_close(ret);
	return r;
}

bool lm_db_memory_is_there(void)
{
	void *volatile probe = malloc(VALUE_MAX); /* else compilers leave both calls out */
	bool there = probe != NULL;
	free(probe);
	return there;
}

/* A forged schema with values that have no text is "out of memory" to SQLite, too: memory that is there the second time
 * was not what was missing the first. */
int lm_db_open(const char *path, struct lm_db *ret, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	int r = open_once(path, ret, &why);
	if (r == -ENOMEM && lm_db_memory_is_there())
		r = open_once(path, ret, &why);
	if (r == -ENOMEM && lm_db_memory_is_there())
		r = lm_err_set(&why, -EPROTO, "the schema of the database is damaged");
	return r < 0 ? lm_err_set(err, r, "%s", why.msg) : 0;
}

int lm_db_open_edit(const char *path, struct lm_db *ret, struct lm_err *err)
{
	*ret = (struct lm_db){0};
	int r = open_checked(path, true, ret, err);
	if (r < 0)
		lm_db_close(ret);
	return r;
}

int lm_db_create(const char *path, struct lm_db *ret, struct lm_err *err)
{
	*ret = (struct lm_db){.steps_max = INT64_MAX, .steps_left = INT64_MAX};
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return lm_err_sys(err, -errno, "create %s", path);
	close(fd);
	int r = open_file(path, "", SQLITE_OPEN_READWRITE, ret, err);
	if (r == 0) {
		set_limits(ret);
		r = set_pragmas(ret,
			"PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; "
			"PRAGMA locking_mode = EXCLUSIVE",
			LM_DB_CACHE_WRITE_KIB, err);
	}
	if (r < 0)
		lm_db_close(ret);
	return r;
}

void lm_db_close(struct lm_db *db)
{
	sqlite3_close(db->sqlite);
	*db = (struct lm_db){0};
}

int lm_db_exec(struct lm_db *db, const char *sql, struct lm_err *err)
{
	db->steps_left = db->steps_max;
	return sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : lm_db_error(db, "database", err);
}

int lm_db_prepare(struct lm_db *db, const char *sql, sqlite3_stmt **ret, struct lm_err *err)
{
	db->steps_left = db->steps_max; /* the first one reads the schema */
	int rc = sqlite3_prepare_v3(db->sqlite, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL);
	return rc == SQLITE_OK ? 0 : lm_db_error(db, "database", err);
}

int lm_db_step(struct lm_db *db, sqlite3_stmt *stmt, struct lm_err *err)
{
	if (!sqlite3_stmt_busy(stmt))
		db->steps_left = db->steps_max;
	switch (sqlite3_step(stmt)) {
	case SQLITE_ROW:
		return 1;
	case SQLITE_DONE:
		return 0;
	default:
		return lm_db_error(db, "database", err);
	}
}

int lm_db_run(struct lm_db *db, sqlite3_stmt *stmt, struct lm_err *err)
{
	int r = lm_db_step(db, stmt, err);
	sqlite3_reset(stmt);
	return r < 0 ? r : 0;
}

int lm_db_number(struct lm_db *db, const char *sql, int64_t *ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(db, sql, &stmt, err);
	if (r == 0)
		r = lm_db_step(db, stmt, err);
	if (r < 0)
		return r;
	*ret = r > 0 ? sqlite3_column_int64(stmt, 0) : 0;
	return 0;
}

/* Not by the function pragma_table_xinfo(): to make its table takes longer than all the rest. */
int lm_db_check_table(struct lm_db *db, const char *table, struct lm_err *err)
{
	enum { COL_NAME = 1, COL_HIDDEN = 6 };
	static const char *const rowids[] = {"rowid", "_rowid_", "oid"};
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	char sql[64];
	snprintf(sql, sizeof(sql), "PRAGMA table_xinfo(%s)", table);
	int r = lm_db_prepare(db, sql, &stmt, err);
	while (r == 0 && (r = lm_db_step(db, stmt, err)) > 0) {
		const char *name = (const char *)sqlite3_column_text(stmt, COL_NAME);
		bool good = name && sqlite3_column_int(stmt, COL_HIDDEN) == 0;
		for (size_t i = 0; i < ARRAY_LEN(rowids) && good; i++)
			good = strcasecmp(name, rowids[i]) != 0;
		if (!good)
			return lm_err_set(err, -EPROTO, "table %s has a column that no catalog has: '%s'", table,
				name ? name : "");
		r = 0;
	}
	return r;
}

int lm_db_property(struct lm_db *db, const char *key, char **ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(db, "SELECT value FROM properties WHERE key = ?1", &stmt, err);
	if (r < 0)
		return r;
	sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
	r = lm_db_step(db, stmt, err);
	if (r < 0)
		return r;
	if (r == 0 || sqlite3_column_type(stmt, 0) == SQLITE_NULL)
		return lm_err_set(err, -ENOENT, "no property %s", key);
	const char *text = (const char *)sqlite3_column_text(stmt, 0);
	if (!text)
		return lm_err_oom(err);
	if (strlen(text) != (size_t)sqlite3_column_bytes(stmt, 0))
		return lm_err_set(err, -EPROTO, "property %s holds a NUL byte", key);
	char *copy = strdup(text);
	if (!copy)
		return lm_err_oom(err);
	*ret = copy;
	return 0;
}

int lm_db_property_number(struct lm_db *db, const char *key, uint64_t absent, uint64_t *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *text = NULL;
	struct lm_err why = LM_ERR_INIT;
	int r = lm_db_property(db, key, &text, &why);
	if (r == -ENOENT) {
		*ret = absent;
		return 0;
	}
	if (r < 0)
		return lm_err_set(err, r, "%s", why.msg);
	if (lm_str_u64(text, strlen(text), ret) < 0)
		return lm_err_set(err, -EPROTO, "property %s is no number: '%s'", key, text);
	return 0;
}

int lm_db_set_property(struct lm_db *db, const char *key, const char *value, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(db,
		value ? "INSERT OR REPLACE INTO properties (key, value) VALUES (?1, ?2)"
		      : "DELETE FROM properties WHERE key = ?1",
		&stmt, err);
	if (r < 0)
		return r;
	sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
	if (value)
		sqlite3_bind_text(stmt, 2, value, -1, SQLITE_STATIC);
	return lm_db_run(db, stmt, err);
}

int lm_db_set_property_number(struct lm_db *db, const char *key, int64_t value, struct lm_err *err)
{
	char text[32];
	snprintf(text, sizeof(text), "%" PRId64, value);
	return lm_db_set_property(db, key, text, err);
}
