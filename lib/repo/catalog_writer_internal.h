/* What the files of the catalog writer share: catalog_writer.c (rows), catalog_move.c (splitting and folding),
 * catalog_finish.c. */
#ifndef LM_REPO_CATALOG_WRITER_INTERNAL_H
#define LM_REPO_CATALOG_WRITER_INTERNAL_H

#include "repo/catalog_schema.h"

/* Statements that are prepared when first used and kept. */
enum lm_writer_stmt {
	LM_STMT_INSERT,
	LM_STMT_UPDATE,
	LM_STMT_DELETE,
	LM_STMT_CHUNK_INSERT,
	LM_STMT_CHUNKS_DELETE,
	LM_STMT_CHUNKS,
	LM_STMT_CHILDREN,
	LM_STMT_NESTED_INSERT,
	LM_STMT_NESTED_DELETE,
	LM_STMT_BINDS_DELETE,
	LM_STMT_LINKS_UPDATE,
	LM_STMT_STATISTIC,
	LM_STMT_ROWID_UPDATE,
	LM_STMT_COUNT,
};

struct lm_catalog_writer {
	struct lm_catalog_db db;
	char *path; /* of the file */
	sqlite3_stmt *stmts[LM_STMT_COUNT];
	sqlite3_stmt *by_path; /* whole rows */
	sqlite3_stmt *nested_from;
	bool indexed; /* the parent index exists; while making a catalog that can wait */
	uint64_t next_rowid;
	int64_t last_group;	    /* the highest hard-link group; -1 while nobody asked for a new one */
	struct lm_counters subtree; /* modulo 2^64 until finish */
	bool recount;		    /* the subtree counters of the file are not to be trusted: finish adds them up */
	void *children;		    /* tree of struct child by path */
	lm_catalog_child_fn *child_fn;
	void *child_arg;
};

/* A kept statement. */
int lm_writer_use(
	struct lm_catalog_writer *w, enum lm_writer_stmt id, sqlite3_stmt **ret, struct lm_err *err) MUST_CHECK;
int lm_writer_make_parent_index(struct lm_catalog_writer *w, struct lm_err *err) MUST_CHECK;
void lm_writer_close_db(struct lm_catalog_writer *w);

/* A new row at path. more_flags: what is not in the mode. -EEXIST. */
int lm_writer_insert_row(struct lm_catalog_writer *w, const char *path, const struct lm_row *row, uint32_t more_flags,
	const struct lm_chunk *chunks, size_t count, struct lm_err *err) MUST_CHECK;
/* Writes a row where something may be; what is there goes, except its row id and, for dir_stays, what is below it. */
int lm_writer_replace(struct lm_catalog_writer *w, const char *path, const struct lm_row *row, uint32_t more_flags,
	bool dir_stays, const struct lm_chunk *chunks, size_t count, struct lm_err *err) MUST_CHECK;
/* All rows and entries of nested catalogs below a directory. */
int lm_writer_remove_below(struct lm_catalog_writer *w, const char *path, struct lm_err *err) MUST_CHECK;

/* The first entry of nested_catalogs in [low, high) by path, or -ENOENT. */
int lm_writer_nested_first(struct lm_catalog_writer *w, const char *low, const char *high, struct lm_nested *ret,
	struct lm_err *err) MUST_CHECK;
/* The counters (self and subtree) of a nested catalog that this one names. */
int lm_writer_child_sum(struct lm_catalog_writer *w, const struct lm_nested *nested, struct lm_counters *ret,
	struct lm_err *err) MUST_CHECK;
/* Takes them out of the sums, or adds an entry with its counters. */
int lm_writer_nested_delete(struct lm_catalog_writer *w, const struct lm_nested *nested, struct lm_err *err) MUST_CHECK;
int lm_writer_nested_insert(struct lm_catalog_writer *w, const struct lm_nested *nested, const struct lm_counters *sum,
	struct lm_err *err) MUST_CHECK;

#endif
