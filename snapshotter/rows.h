/*
 * The durable half of the store (store.h): its SQLite database, a row for each snapshot, and its labels. What a
 * function writes is on the disk when it returns, or after a failure not there at all. One thread at a time.
 *
 * -EUCLEAN: the database is damaged, or what it says can't be.
 */
#ifndef LM_SNAPSHOTTER_ROWS_H
#define LM_SNAPSHOTTER_ROWS_H

#include "snapshotter/store.h"

struct lm_rows;

/* As lm_store_open(). */
int lm_rows_open(const char *path, bool may_be_new, struct lm_rows **ret, struct lm_err *err) MUST_CHECK;
void lm_rows_close(struct lm_rows *rows);
LM_DEFINE_CLEANUP(struct lm_rows, lm_rows_close, lm_rows_closep)

/* Each row, ascending by id; all but parent, references and labels. A negative result ends it. */
typedef int lm_rows_fn(void *arg, const struct lm_snapshot *row, int64_t parent, struct lm_err *err);
int lm_rows_each(struct lm_rows *rows, lm_rows_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;
/* Each label of each, in no order. */
typedef int lm_rows_label_fn(void *arg, int64_t snapshot, const char *key, const char *value, struct lm_err *err);
int lm_rows_each_label(struct lm_rows *rows, lm_rows_label_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;
/* The highest id that was ever inserted: SQLite keeps a note of it. */
int lm_rows_last_id(struct lm_rows *rows, int64_t *ret, struct lm_err *err) MUST_CHECK;

/* A row is found by its id. */
int lm_rows_insert(struct lm_rows *rows, const struct lm_snapshot *snapshot, struct lm_err *err) MUST_CHECK;
/* Key, kind, parent, times, usage and labels are the snapshot's from now on. */
int lm_rows_commit(struct lm_rows *rows, const struct lm_snapshot *snapshot, struct lm_err *err) MUST_CHECK;
/* Labels, and the time of the change. */
int lm_rows_update(struct lm_rows *rows, const struct lm_snapshot *snapshot, struct lm_err *err) MUST_CHECK;
int lm_rows_set_layer_path(struct lm_rows *rows, const struct lm_snapshot *snapshot, struct lm_err *err) MUST_CHECK;
int lm_rows_delete(struct lm_rows *rows, const struct lm_snapshot *snapshot, struct lm_err *err) MUST_CHECK;

/* All of them or none; parents may come after their children. */
int lm_rows_insert_all(
	struct lm_rows *rows, const struct lm_record *const *records, size_t count, struct lm_err *err) MUST_CHECK;
/* No log beside the file, without which that would be nothing. Before it is closed. */
int lm_rows_to_one_file(struct lm_rows *rows, struct lm_err *err) MUST_CHECK;

#endif
