#include "snapshotter/rebuild.h"

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "snapshotter/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Directories without a row that calls under way can leave, at most: more than there are threads for calls. */
#define HALF_MADE_MAX 64

/* What is known of a directory. */
struct found {
	int64_t id;
	bool has_record;
	struct lm_record record;
	struct lm_err why; /* code not 0: why it can't be in the store */
};

struct rebuild {
	const char *path;
	struct lm_layout *layout;
	struct found *items; /* ascending ids */
	size_t count;
	struct lm_buf text; /* of one record at a time */
};

static void rebuild_done(struct rebuild *b)
{
	for (size_t i = 0; i < b->count; i++)
		lm_record_done(&b->items[i].record);
	free(b->items);
	lm_buf_done(&b->text);
}

static int compare_found(const void *a, const void *b)
{
	const struct found *x = a, *y = b;
	return x->id < y->id ? -1 : x->id > y->id;
}

static struct found *find(const struct rebuild *b, int64_t id)
{
	struct found wanted = {.id = id};
	return b->count ? bsearch(&wanted, b->items, b->count, sizeof(wanted), compare_found) : NULL;
}

static int list_directories(struct rebuild *b, struct lm_err *err)
{
	CLEANUP(lm_freep) int64_t *ids = NULL;
	size_t n = 0;
	int r = lm_layout_ids(b->layout, &ids, &n, err);
	if (r < 0)
		return r;
	b->items = calloc(n + 1, sizeof(*b->items));
	if (!b->items)
		return lm_err_oom(err);
	for (; b->count < n; b->count++)
		b->items[b->count].id = ids[b->count];
	qsort(b->items, n, sizeof(*b->items), compare_found);
	return 0;
}

/* Reads the directory's record. What is wrong with that is noted; what is wrong with us is the caller's. */
static int read_record(struct rebuild *b, struct found *f, struct lm_err *err)
{
	f->why = (struct lm_err)LM_ERR_INIT;
	lm_buf_clear(&b->text);
	int r = lm_layout_get_record(b->layout, f->id, &b->text, &f->why);
	if (r == 0)
		r = lm_record_parse(b->text.data, b->text.len, &f->record, &f->why);
	if (r == -ENOENT)
		(void)lm_err_set(&f->why, r, "it has no record");
	if (r == 0 && f->record.snapshot.id != f->id) {
		r = lm_err_set(&f->why, -EPROTO, "its record is that of %" PRId64, f->record.snapshot.id);
		lm_record_done(&f->record);
	}
	f->has_record = r == 0;
	return r == -ENOMEM || r == -EMFILE || r == -ENFILE ? lm_err_set(err, r, "%s", lm_err_text(&f->why)) : 0;
}

/* --- a store that opens: is it that of the directories? --- */

/* The rows of the store, by id. */
struct rows {
	struct lm_snapshot_list list;
};

static void rows_done(struct rows *rows)
{
	lm_snapshot_list_done(&rows->list);
}

static int compare_rows(const void *a, const void *b)
{
	const struct lm_snapshot *x = *(const struct lm_snapshot *const *)a, *y = *(const struct lm_snapshot *const *)b;
	return x->id < y->id ? -1 : x->id > y->id;
}

static int rows_read(struct lm_store *store, struct rows *ret, struct lm_err *err)
{
	int r = lm_store_list(store, NULL, &ret->list, err);
	if (r == 0)
		qsort(ret->list.items, ret->list.count, sizeof(*ret->list.items), compare_rows);
	return r;
}

static const struct lm_snapshot *row_of(const struct rows *rows, int64_t id)
{
	const struct lm_snapshot wanted = {.id = id}, *key = &wanted;
	const struct lm_snapshot **found = rows->list.count ? bsearch(&key, rows->list.items, rows->list.count,
								      sizeof(*rows->list.items), compare_rows)
							    : NULL;
	return found ? *found : NULL;
}

static int wrong_time(const struct rebuild *b, const char *what, int64_t id, struct lm_err *err)
{
	return lm_err_set(err, -EUCLEAN, "store: %s is older than the snapshots: %s %" PRId64, b->path, what, id);
}

/* Without a record that is right everything works, as long as the store does. */
static void write_record(struct rebuild *b, int64_t id, const struct lm_buf *text)
{
	struct lm_err why = LM_ERR_INIT;
	if (lm_layout_put_record(b->layout, id, text, &why) < 0)
		lm_log(LM_LOG_WARN, "record of a snapshot not written", LM_KV("reason", "%s", lm_err_text(&why)));
}

/* The record follows the row, unless it is newer. */
static int check_row(struct rebuild *b, struct found *f, const struct lm_snapshot *row, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_RECORD_MAX_BYTES);
	int r = lm_record_format(row, &row->labels, &text, err);
	if (r == 0)
		r = read_record(b, f, err);
	if (r < 0)
		return r;
	if (f->has_record && f->record.snapshot.updated_ns > row->updated_ns)
		return wrong_time(b, "it does not know the last change of", f->id, err);
	if (!f->has_record || b->text.len != text.len || memcmp(b->text.data, text.data, text.len) != 0)
		write_record(b, f->id, &text);
	return lm_layout_unkeep(b->layout, f->id, err);
}

/*
 * A directory without a row is a left-over, and will be dropped. If its id is none that the store has given out, then
 * nobody got an answer about it, so it can't have been mounted or written, and there can't be many.
 */
static int check_leftover(
	const struct rebuild *b, const struct found *f, int64_t last_id, unsigned *count, struct lm_err *err)
{
	if (f->id <= last_id)
		return 0;
	if (lm_layout_is_used(b->layout, f->id))
		return wrong_time(b, "it does not know", f->id, err);
	return ++*count > HALF_MADE_MAX ? wrong_time(b, "it does not know many before", f->id, err) : 0;
}

/* A record is only replaced by that of a row that is at least as new, so a store that is not believed in the end has
 * not done any harm. */
static int check_store(struct rebuild *b, struct lm_store *store, struct lm_err *err)
{
	CLEANUP(rows_done) struct rows rows = {0};
	unsigned half_made = 0;
	int64_t last_id = lm_store_last_id(store);
	int r = rows_read(store, &rows, err);
	for (size_t i = 0; i < b->count && r == 0; i++) {
		struct found *f = &b->items[i];
		const struct lm_snapshot *row = row_of(&rows, f->id);
		if (!row && !lm_layout_is_kept(b->layout, f->id))
			r = check_leftover(b, f, last_id, &half_made, err);
	}
	for (size_t i = 0; i < b->count && r == 0; i++) {
		const struct lm_snapshot *row = row_of(&rows, b->items[i].id);
		if (row)
			r = check_row(b, &b->items[i], row, err);
	}
	return r;
}

/* SQLite takes an empty file for a new database, and drops the log beside it. */
static int check_file(const struct rebuild *b, struct lm_err *err)
{
	struct stat st;
	if (b->count == 0)
		return 0;
	if (stat(b->path, &st) < 0)
		return errno == ENOENT ? lm_err_set(err, -EUCLEAN, "store: %s is missing", b->path)
				       : lm_err_sys(err, -errno, "%s", b->path);
	return st.st_size == 0 ? lm_err_set(err, -EUCLEAN, "store: %s is empty", b->path) : 0;
}

/* *ret is set, too, with a store that can be read but is not that of the directories. */
static int open_checked(struct rebuild *b, struct lm_store **ret, struct lm_err *err)
{
	int r = check_file(b, err);
	if (r == 0)
		r = lm_store_open(b->path, b->count == 0, ret, err);
	return r == 0 ? check_store(b, *ret, err) : r;
}

/* --- making it again --- */

static int record_of_row(struct found *f, const struct lm_snapshot *row, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_RECORD_MAX_BYTES);
	int r = lm_record_format(row, &row->labels, &text, err);
	if (r == 0)
		r = lm_record_parse(text.data, text.len, &f->record, err);
	f->has_record = r == 0;
	return r;
}

/* old: what is left of the store, for directories that have no record; or NULL. */
static int read_records(struct rebuild *b, struct lm_store *old, struct lm_err *err)
{
	CLEANUP(rows_done) struct rows rows = {0};
	int r = old ? rows_read(old, &rows, err) : 0;
	for (size_t i = 0; i < b->count && r == 0; i++) {
		struct found *f = &b->items[i];
		lm_record_done(&f->record);
		r = read_record(b, f, err);
		const struct lm_snapshot *row = row_of(&rows, f->id);
		if (r < 0 || f->has_record || !row)
			continue;
		r = record_of_row(f, row, err);
		f->why = (struct lm_err)LM_ERR_INIT;
	}
	return r;
}

static bool good(const struct found *f)
{
	return !f->why.code;
}

static size_t count_good(const struct rebuild *b)
{
	size_t n = 0;
	for (size_t i = 0; i < b->count; i++)
		n += good(&b->items[i]);
	return n;
}

/* Content that is gone can't be shown; a link can be made again. */
static void check_content(struct rebuild *b)
{
	for (size_t i = 0; i < b->count; i++) {
		struct found *f = &b->items[i];
		if (good(f) && !f->record.snapshot.layer_digest && !lm_layout_is_whole(b->layout, f->id, false))
			(void)lm_err_set(&f->why, -ENOENT, "its directory fs is gone");
	}
}

static int compare_names(const void *a, const void *b)
{
	const struct found *x = *(struct found *const *)a, *y = *(struct found *const *)b;
	int order = strcmp(x->record.snapshot.plugin, y->record.snapshot.plugin);
	if (order == 0)
		order = strcmp(x->record.snapshot.key, y->record.snapshot.key);
	return order ? order : compare_found(x, y);
}

static const char *layer_of(const struct found *f)
{
	return f->record.snapshot.layer_ref ? f->record.snapshot.layer_ref : "";
}

static int compare_layers(const void *a, const void *b)
{
	const struct found *x = *(struct found *const *)a, *y = *(struct found *const *)b;
	int order = strcmp(x->record.snapshot.plugin, y->record.snapshot.plugin);
	if (order == 0)
		order = strcmp(layer_of(x), layer_of(y));
	if (order == 0)
		order = x->record.parent < y->record.parent ? -1 : x->record.parent > y->record.parent;
	return order ? order : compare_found(x, y);
}

static bool same_name(const struct found *x, const struct found *y)
{
	return strcmp(x->record.snapshot.plugin, y->record.snapshot.plugin) == 0 &&
	       strcmp(x->record.snapshot.key, y->record.snapshot.key) == 0;
}

static bool same_layer(const struct found *x, const struct found *y)
{
	return *layer_of(x) && strcmp(x->record.snapshot.plugin, y->record.snapshot.plugin) == 0 &&
	       strcmp(layer_of(x), layer_of(y)) == 0 && x->record.parent == y->record.parent;
}

/* A name is free again when its snapshot is gone, so the last one that was made is the one that was there last. */
static int check_unique(struct rebuild *b, int (*compare)(const void *a, const void *b),
	bool (*same)(const struct found *x, const struct found *y), struct lm_err *err)
{
	size_t n = 0;
	CLEANUP(lm_freep) struct found **sorted = calloc(b->count + 1, sizeof(struct found *));
	if (!sorted)
		return lm_err_oom(err);
	for (size_t i = 0; i < b->count; i++)
		if (good(&b->items[i]))
			sorted[n++] = &b->items[i];
	qsort(sorted, n, sizeof(*sorted), compare);
	for (size_t i = 1; i < n; i++)
		if (same(sorted[i - 1], sorted[i]))
			(void)lm_err_set(&sorted[i - 1]->why, -EEXIST, "%" PRId64 " is of the same name and later",
				sorted[i]->id);
	return 0;
}

static const struct found *parent_of(const struct rebuild *b, const struct found *f)
{
	return f->record.parent ? find(b, f->record.parent) : NULL;
}

static bool ends_above(const struct rebuild *b, const struct found *f)
{
	size_t steps = 0;
	for (; f; f = parent_of(b, f))
		if (steps++ > b->count)
			return false;
	return true;
}

/* Until nothing changes: each that goes takes its children along. */
static void check_parents(struct rebuild *b)
{
	bool changed = true;
	for (size_t i = 0; i < b->count; i++)
		if (good(&b->items[i]) && !ends_above(b, &b->items[i]))
			(void)lm_err_set(&b->items[i].why, -ELOOP, "it is its own ancestor");
	while (changed) {
		changed = false;
		for (size_t i = 0; i < b->count; i++) {
			struct found *f = &b->items[i];
			const struct found *parent = parent_of(b, f);
			if (!good(f) || !f->record.parent)
				continue;
			if (parent && good(parent) && parent->record.snapshot.kind == LM_COMMITTED &&
				strcmp(parent->record.snapshot.plugin, f->record.snapshot.plugin) == 0)
				continue;
			(void)lm_err_set(
				&f->why, -ENOENT, "its parent %" PRId64 " is not there, or none", f->record.parent);
			changed = true;
		}
	}
}

static int keep_others(struct rebuild *b, struct lm_err *err)
{
	for (size_t i = 0; i < b->count; i++) {
		const struct found *f = &b->items[i];
		int r = good(f) ? lm_layout_unkeep(b->layout, f->id, err)
				: lm_layout_keep(b->layout, f->id, lm_err_text(&f->why), err);
		if (r < 0)
			return r;
		if (!good(f))
			lm_log(LM_LOG_WARN, "directory kept, nothing names it",
				LM_KV("directory", "%s/%" PRId64, lm_layout_prefix(b->layout), f->id),
				LM_KV("snapshot", "%s", f->has_record ? f->record.snapshot.key : "unknown"),
				LM_KV("reason", "%s", lm_err_text(&f->why)));
	}
	return 0;
}

static int sync_root(const char *path, struct lm_err *err)
{
	CLEANUP(lm_freep) char *dir = strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;
	if (!dir)
		return lm_err_oom(err);
	if (slash)
		*slash = '\0';
	return lm_dir_sync(AT_FDCWD, slash ? dir : ".", err);
}

/* Makes the new store beside the old one, which then gives up its name. */
static int replace_store(struct rebuild *b, const struct lm_err *why, struct lm_err *err)
{
	size_t n = 0;
	CLEANUP(lm_freep) char *made = lm_str_printf("%s.new", b->path), *aside = NULL;
	CLEANUP(lm_freep) const struct lm_record **records = calloc(b->count + 1, sizeof(struct lm_record *));
	if (!made || !records)
		return lm_err_oom(err);
	for (size_t i = 0; i < b->count; i++)
		if (good(&b->items[i]))
			records[n++] = &b->items[i].record;
	if (unlink(made) < 0 && errno != ENOENT)
		return lm_err_sys(err, -errno, "remove %s", made);
	int r = lm_store_make(made, records, n, err);
	if (r == 0)
		r = lm_store_move_aside(b->path, &aside, err);
	if (r < 0)
		return r;
	if (rename(made, b->path) < 0)
		return lm_err_sys(err, -errno, "rename %s", made);
	lm_log(LM_LOG_ERROR, "the store was damaged and is made again", LM_KV("reason", "%s", lm_err_text(why)),
		LM_KV("moved_to", "%s", aside ? aside : "nowhere, it was missing"), LM_KV("snapshots", "%zu", n),
		LM_KV("directories_kept", "%zu", b->count - n));
	return sync_root(b->path, err);
}

static int rebuild(struct rebuild *b, struct lm_store **old, const struct lm_err *why, struct lm_err *err)
{
	int r = read_records(b, *old, err);
	lm_store_close(STEAL(*old));
	if (r < 0)
		return r;
	if (why->code == -EPROTO && b->count > 0 && count_good(b) == 0)
		return lm_err_set(
			err, -EPROTO, "%s, nor can it read what the snapshots' directories say", lm_err_text(why));
	check_content(b);
	r = check_unique(b, compare_names, same_name, err);
	if (r == 0)
		r = check_unique(b, compare_layers, same_layer, err);
	if (r < 0)
		return r;
	check_parents(b);
	r = keep_others(b, err);
	return r == 0 ? replace_store(b, why, err) : r;
}

static size_t count_kept(const struct rebuild *b)
{
	size_t n = 0;
	for (size_t i = 0; i < b->count; i++)
		n += lm_layout_is_kept(b->layout, b->items[i].id);
	return n;
}

int lm_rebuild_open(const char *path, struct lm_layout *layout, struct lm_store **ret, struct lm_rebuilt *ret_what,
	struct lm_err *err)
{
	CLEANUP(rebuild_done)
	struct rebuild b = {.path = path, .layout = layout, .text = LM_BUF(LM_RECORD_MAX_BYTES)};
	CLEANUP(lm_store_closep) struct lm_store *store = NULL;
	struct lm_rebuilt what = {0};
	struct lm_err why = LM_ERR_INIT;
	int r = list_directories(&b, err);
	if (r < 0)
		return r;
	r = open_checked(&b, &store, &why);
	if (r < 0 && r != -EUCLEAN && r != -EPROTO)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	if (r < 0) {
		what.damaged = true;
		r = rebuild(&b, &store, &why, err);
		if (r == 0)
			r = lm_store_open(path, false, &store, err);
		if (r < 0)
			return r;
		what.snapshots = count_good(&b);
	}
	if (b.count > 0)
		lm_store_reserve_from(store, b.items[b.count - 1].id + 1);
	what.kept = count_kept(&b);
	if (what.kept > 0)
		lm_log(LM_LOG_WARN, "directories are kept that nothing names", LM_KV("count", "%zu", what.kept),
			LM_KV("below", "%s", lm_layout_prefix(layout)));
	*ret = STEAL(store);
	*ret_what = what;
	return 0;
}
