/*
 * SQLite files that came from elsewhere (catalogs, tag databases), opened so that a forged one cannot do harm.
 *
 * Private to lib/repo. Before SQLite sees a file its header is checked (rollback journal, UTF-8). The schema may hold
 * nothing but tables and indexes, so no view, trigger or virtual table ever runs. A reader's statements get a number of
 * virtual machine steps that grows with the file, so a b-tree that is knotted into a loop ends. I/O goes through
 * read(2), not mmap: a bad disk block is then -EIO for one call, not SIGBUS for the process.
 *
 * Errors: -EPROTO the file is damaged or not what it should be, -EIO it can't be read, -ENOSPC, -ENOMEM. One thread at
 * a time uses a database.
 */
#ifndef LM_REPO_DB_H
#define LM_REPO_DB_H

#include "repo/hash.h"

#include <sqlite3.h>
#include <stdbool.h>

struct lm_db {
	sqlite3 *sqlite;
	int64_t steps_left, steps_max; /* INT64_MAX: no limit */
};

/* Page caches. That of a reader is a part of the database, with bounds that databases of 7 and of 144 MiB reach. */
enum {
	LM_DB_CACHE_READ_KIB = 96,
	LM_DB_CACHE_READ_PART = 72,
	LM_DB_CACHE_READ_MAX_KIB = 2 << 10,
	LM_DB_CACHE_WRITE_KIB = 16 << 10
};

enum { LM_DB_PAGE = 4096 }; /* bytes, of nearly all databases there are */

/* Once, before the first database of this process is opened: pages of up to LM_DB_PAGE bytes then lie in so much memory
 * set aside for them, and only those that find no room there in the heap, which pages that come and go leave full of
 * holes. When it is nearly full a reader gives up a page of its own for each new one. -EALREADY: too late. */
int lm_db_reserve(size_t bytes, struct lm_err *err) MUST_CHECK;

/* *ret must stay where it is until lm_db_close(). After a failure there is nothing to close. */
int lm_db_open(const char *path, struct lm_db *ret, struct lm_err *err) MUST_CHECK;
/* To change a private file in place, without a journal: after a failure the file is worthless. */
int lm_db_open_edit(const char *path, struct lm_db *ret, struct lm_err *err) MUST_CHECK;
int lm_db_create(const char *path, struct lm_db *ret, struct lm_err *err) MUST_CHECK; /* -EEXIST */
void lm_db_close(struct lm_db *db); /* all statements must be gone; nothing to do for a zeroed struct */

/* Sets err from SQLite's last error; returns its negative errno, never 0. */
int lm_db_error(struct lm_db *db, const char *what, struct lm_err *err);

/* SQLite is "out of memory" (-ENOMEM) over some damaged databases, too. What comes twice although there is memory is
 * damage: lm_db_open() tries twice by itself, a statement is for the caller to repeat. */
bool lm_db_memory_is_there(void);

int lm_db_exec(struct lm_db *db, const char *sql, struct lm_err *err) MUST_CHECK;
int lm_db_prepare(struct lm_db *db, const char *sql, sqlite3_stmt **ret, struct lm_err *err) MUST_CHECK;
/* 1 a row, 0 the end, or negative. */
int lm_db_step(struct lm_db *db, sqlite3_stmt *stmt, struct lm_err *err) MUST_CHECK;
/* A statement that gives no rows: steps and resets it. */
int lm_db_run(struct lm_db *db, sqlite3_stmt *stmt, struct lm_err *err) MUST_CHECK;
/* The first column of the first row as a number; a row that is missing or has NULL there gives 0. */
int lm_db_number(struct lm_db *db, const char *sql, int64_t *ret, struct lm_err *err) MUST_CHECK;

static inline void lm_stmt_finalizep(sqlite3_stmt **stmt)
{
	sqlite3_finalize(*stmt);
	*stmt = NULL;
}
/* For CLEANUP on a second pointer to a kept statement: ends its use, whatever happened. */
static inline void lm_stmt_resetp(sqlite3_stmt **stmt)
{
	if (!*stmt)
		return;
	sqlite3_reset(*stmt);
	sqlite3_clear_bindings(*stmt);
}

/* Refuses generated columns and a column that hides the row id. */
int lm_db_check_table(struct lm_db *db, const char *table, struct lm_err *err) MUST_CHECK;

/* Table properties (key, value), which all these databases have. Absent: -ENOENT. Text: the caller frees *ret. */
int lm_db_property(struct lm_db *db, const char *key, char **ret, struct lm_err *err) MUST_CHECK;
int lm_db_property_number(
	struct lm_db *db, const char *key, uint64_t absent, uint64_t *ret, struct lm_err *err) MUST_CHECK;
/* value NULL: removes it. */
int lm_db_set_property(struct lm_db *db, const char *key, const char *value, struct lm_err *err) MUST_CHECK;
int lm_db_set_property_number(struct lm_db *db, const char *key, int64_t value, struct lm_err *err) MUST_CHECK;

#endif
