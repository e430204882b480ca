/*
 * Stores that are damaged in every way there is, over the directories of a small node: what comes back, what is kept,
 * and that nothing is ever lost.
 */
#include "snapshotter/rebuild.h"

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "snapshotter/record.h"

#include <dirent.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <cmocka.h>

#define PLUGIN "lamella"

struct fixture {
	char dir[40], db[64];
	struct lm_layout *layout;
	struct lm_store *store;
	struct lm_rebuilt what;
	struct lm_err err;
};

static int open_all(struct fixture *f)
{
	f->err = (struct lm_err)LM_ERR_INIT;
	return lm_rebuild_open(f->db, f->layout, &f->store, &f->what, &f->err);
}

static void note(void *arg, const struct lm_snapshot *snapshot)
{
	struct fixture *f = arg;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_RECORD_MAX_BYTES);
	assert_int_equal(lm_record_format(snapshot, &snapshot->labels, &text, NULL), 0);
	assert_int_equal(lm_layout_put_record(f->layout, snapshot->id, &text, NULL), 0);
}

static void open_well(struct fixture *f)
{
	if (open_all(f) < 0)
		fail_msg("%s", lm_err_text(&f->err));
	lm_store_set_note(f->store, note, f);
}

static void close_all(struct fixture *f)
{
	lm_store_close(STEAL(f->store));
}

static void file_name(struct fixture *f, int64_t id, const char *below, char ret[128])
{
	snprintf(ret, 128, "%s/snapshots/%d%s", f->dir, (int)id, below);
}

static bool exists(struct fixture *f, int64_t id, const char *below)
{
	char path[128];
	file_name(f, id, below, path);
	return faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void write_file(struct fixture *f, int64_t id, const char *below)
{
	char path[128];
	file_name(f, id, below, path);
	assert_int_equal(lm_file_replace(AT_FDCWD, path, "data", 4, 0600, 0, NULL), 0);
}

/* As the service does it: a directory with its record, then the row. */
static int64_t make(struct fixture *f, const char *key, const char *parent, bool layer, bool row)
{
	int64_t id;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_RECORD_MAX_BYTES);
	CLEANUP(lm_labels_done) struct lm_labels labels = {0};
	CLEANUP(lm_snapshot_unrefp)
	const struct lm_snapshot *below = *parent ? lm_store_get(f->store, PLUGIN, parent) : NULL;
	assert_int_equal(lm_store_reserve(f->store, &id, NULL), 0);
	assert_int_equal(lm_labels_set(&labels, "of", key), 0);
	struct lm_store_new new = {.id = id,
		.plugin = PLUGIN,
		.key = key,
		.parent = parent,
		.created_ns = 1000 * id,
		.kind = layer ? LM_COMMITTED : LM_ACTIVE,
		.labels = &labels,
		.layer_digest = layer ? "sha256:d" : NULL,
		.layer_path = layer ? "/layers/d" : NULL,
		.layer_ref = layer ? key : NULL};
	struct lm_snapshot preview = {.id = id,
		.plugin = (char *)PLUGIN,
		.key = (char *)key,
		.kind = new.kind,
		.parent = below,
		.created_ns = new.created_ns,
		.updated_ns = new.created_ns,
		.layer_digest = (char *)new.layer_digest,
		.layer_path = (char *)new.layer_path,
		.layer_ref = (char *)new.layer_ref};
	assert_int_equal(lm_record_format(&preview, &labels, &text, NULL), 0);
	assert_int_equal(layer ? lm_layout_make_link(f->layout, id, "/layers/d", &text, NULL)
			       : lm_layout_make(f->layout, id, &LM_ROOT_ATTRIBUTES_DEFAULT, &text, NULL),
		0);
	if (row)
		assert_int_equal(lm_store_create(f->store, &new, NULL, NULL), 0);
	lm_store_release(f->store, id);
	return id;
}

static void commit(struct fixture *f, const char *key, const char *name)
{
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *s = lm_store_get(f->store, PLUGIN, key);
	CLEANUP(lm_labels_done) struct lm_labels labels = {0};
	struct lm_store_commit c = {.id = s->id,
		.plugin = PLUGIN,
		.key = key,
		.name = name,
		.parent = "",
		.labels = &labels,
		.usage = {4096, 7}};
	assert_int_equal(lm_store_commit(f->store, &c, NULL), 0);
}

/* 1 base (layer), 2 ordinary layer on it, 3 container on that with data, 4 container on the base, not yet written. */
enum { BASE = 1, ORDINARY, CONTAINER, FRESH, ALL = FRESH };

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	lm_log_init("test", LM_LOG_ERROR);
	strcpy(f->dir, "/tmp/lm-rebuild.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->db, sizeof(f->db), "%s/store.db", f->dir);
	assert_int_equal(lm_layout_open(f->dir, &f->layout, NULL), 0);
	open_well(f);
	assert_false(f->what.damaged);
	assert_int_equal(make(f, "base", "", true, true), BASE);
	assert_int_equal(make(f, "extract", "base", false, true), ORDINARY);
	write_file(f, ORDINARY, "/fs/file");
	commit(f, "extract", "top");
	assert_int_equal(make(f, "container", "top", false, true), CONTAINER);
	write_file(f, CONTAINER, "/fs/file");
	assert_int_equal(make(f, "fresh", "base", false, true), FRESH);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	close_all(f);
	lm_layout_close(f->layout);
	int r = lm_remove_tree(AT_FDCWD, f->dir, NULL);
	free(f);
	return r;
}

static const struct lm_snapshot *get(struct fixture *f, const char *key)
{
	return lm_store_get(f->store, PLUGIN, key);
}

static size_t rows(struct fixture *f)
{
	struct lm_snapshot_list list;
	assert_int_equal(lm_store_list(f->store, NULL, &list, NULL), 0);
	size_t n = list.count;
	lm_snapshot_list_done(&list);
	return n;
}

static void expect_all(struct fixture *f)
{
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *base = get(f, "base");
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *top = get(f, "top");
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *container = get(f, "container");
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *fresh = get(f, "fresh");
	assert_true(base && top && container && fresh);
	assert_int_equal(rows(f), ALL);
	assert_int_equal(base->kind, LM_COMMITTED);
	assert_string_equal(base->layer_path, "/layers/d");
	assert_string_equal(lm_labels_get(&base->labels, "of"), "base");
	assert_int_equal(base->created_ns, 1000);
	assert_int_equal(top->kind, LM_COMMITTED);
	assert_int_equal(top->usage.size_bytes, 4096);
	assert_int_equal(top->labels.count, 0);
	assert_int_equal(top->parent->id, BASE);
	assert_int_equal(container->id, CONTAINER);
	assert_int_equal(container->kind, LM_ACTIVE);
	assert_string_equal(container->parent->key, "top");
	assert_int_equal(fresh->parent->id, BASE);
	assert_true(exists(f, CONTAINER, "/fs/file"));
}

static unsigned aside(struct fixture *f)
{
	unsigned n = 0;
	DIR *dir = opendir(f->dir);
	for (const struct dirent *d; (d = readdir(dir));)
		n += lm_str_starts(d->d_name, "store.db.corrupt-") && !lm_str_ends(d->d_name, "-wal") &&
		     !lm_str_ends(d->d_name, "-shm");
	closedir(dir);
	return n;
}

static void expect_rebuilt(struct fixture *f, unsigned kept)
{
	open_well(f);
	assert_true(f->what.damaged);
	assert_int_equal(f->what.snapshots, rows(f));
	assert_int_equal(f->what.kept, kept);
	close_all(f);
	open_well(f); /* once is enough */
	assert_false(f->what.damaged);
	assert_int_equal(f->what.kept, kept);
}

static void read_db(struct fixture *f, struct lm_buf *ret)
{
	assert_int_equal(lm_file_read(AT_FDCWD, f->db, ret, NULL), 0);
}

static void write_db(struct fixture *f, const void *data, size_t len)
{
	assert_int_equal(lm_file_replace(AT_FDCWD, f->db, data, len, 0600, 0, NULL), 0);
}

static void sql(struct fixture *f, const char *text)
{
	sqlite3 *db;
	char *message = NULL;
	assert_int_equal(sqlite3_open(f->db, &db), SQLITE_OK);
	if (sqlite3_exec(db, text, NULL, NULL, &message) != SQLITE_OK)
		fail_msg("%s: %s", text, message);
	sqlite3_close(db);
}

static void in_order(void **state)
{
	struct fixture *f = *state;
	for (unsigned i = 0; i < 3; i++) {
		close_all(f);
		open_well(f);
		assert_false(f->what.damaged);
		expect_all(f);
	}
	assert_int_equal(aside(f), 0);
}

static void missing(void **state)
{
	struct fixture *f = *state;
	close_all(f);
	assert_int_equal(unlink(f->db), 0);
	expect_rebuilt(f, 0);
	expect_all(f);
	assert_int_equal(aside(f), 0);
	assert_int_equal(make(f, "next", "top", false, true), ALL + 1);
}

static void empty_or_rubbish(void **state)
{
	struct fixture *f = *state;
	char rubbish[8192];
	memset(rubbish, 0x5a, sizeof(rubbish));
	static const size_t sizes[] = {0, 1, 15, 512, 4096, sizeof(rubbish)};
	for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
		close_all(f);
		write_db(f, rubbish, sizes[i]);
		expect_rebuilt(f, 0);
		expect_all(f);
		assert_int_equal(aside(f), i + 1);
	}
}

/* Cut anywhere: never fewer snapshots than before. */
static void truncated(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_buf_done) struct lm_buf good = LM_BUF(1 << 22);
	close_all(f);
	read_db(f, &good);
	for (size_t len = 0; len < good.len; len += len < 200 ? 37 : 1001) {
		write_db(f, good.data, len);
		open_well(f);
		expect_all(f);
		close_all(f);
	}
	open_well(f);
}

/*
 * A byte is another one: SQLite finds what is wrong with its structure and with what has an index. A number or a text
 * that has none can change unnoticed, but no snapshot is lost.
 */
static void bits(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_buf_done) struct lm_buf good = LM_BUF(1 << 22);
	unsigned damaged = 0;
	close_all(f);
	read_db(f, &good);
	for (size_t at = 0; at < good.len; at += at < 100 ? 1 : 97) {
		good.data[at] ^= 0x55;
		write_db(f, good.data, good.len);
		good.data[at] ^= 0x55;
		open_well(f);
		damaged += f->what.damaged;
		assert_int_equal(rows(f), ALL);
		CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *container = get(f, "container");
		assert_true(container && container->id == CONTAINER && container->parent->id == ORDINARY);
		assert_int_equal(f->what.kept, 0);
		close_all(f);
	}
	assert_true(damaged > 10);
	open_well(f);
}

static void contradictions(void **state)
{
	struct fixture *f = *state;
	static const char *const damages[] = {"UPDATE snapshots SET parent = 2 WHERE id = 1",
		"PRAGMA foreign_keys = OFF; UPDATE snapshots SET parent = 77 WHERE id = 2",
		"UPDATE snapshots SET parent = 3 WHERE id = 4", "UPDATE snapshots SET layer_path = NULL WHERE id = 1",
		"PRAGMA foreign_keys = OFF; INSERT INTO labels VALUES(99, 'a', 'b')",
		"DROP TABLE labels; DROP TABLE snapshots", "PRAGMA user_version = 0; PRAGMA application_id = 0",
		"PRAGMA application_id = 1", "PRAGMA user_version = 2", "PRAGMA user_version = -1"};
	for (unsigned i = 0; i < ARRAY_LEN(damages); i++) {
		close_all(f);
		sql(f, damages[i]);
		expect_rebuilt(f, 0);
		expect_all(f);
		assert_int_equal(aside(f), i + 1);
	}
}

/* The log of the database is lost, or a copy of last week was put in its place. */
static void older(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_buf_done) struct lm_buf old = LM_BUF(1 << 22);
	close_all(f);
	read_db(f, &old);
	open_well(f);
	make(f, "unpack", "base", false, true);
	commit(f, "unpack", "new-top"); /* not mounted, only committed: a newer record, were there a row */
	make(f, "later", "new-top", false, true);
	write_file(f, ALL + 2, "/work/work");
	close_all(f);
	write_db(f, old.data, old.len);
	expect_rebuilt(f, 0);
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *later = get(f, "later");
	assert_string_equal(later->parent->key, "new-top");
	assert_int_equal(rows(f), ALL + 2);
	close_all(f);
	/* A change of a row it knows. */
	lm_buf_clear(&old);
	read_db(f, &old);
	open_well(f);
	commit(f, "fresh", "committed");
	close_all(f);
	write_db(f, old.data, old.len);
	expect_rebuilt(f, 0);
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *committed = get(f, "committed");
	assert_int_equal(committed->id, FRESH);
	assert_null(get(f, "fresh"));
	/* Many that nobody had an answer about can't be either. */
	close_all(f);
	lm_buf_clear(&old);
	read_db(f, &old);
	open_well(f);
	for (unsigned i = 0; i < 100; i++) {
		char key[16];
		snprintf(key, sizeof(key), "layer-%u", i);
		make(f, key, "", true, true);
	}
	close_all(f);
	write_db(f, old.data, old.len);
	expect_rebuilt(f, 0);
	assert_int_equal(rows(f), ALL + 2 + 100);
}

/* What a kill leaves is not mistaken for that. */
static void half_made(void **state)
{
	struct fixture *f = *state;
	int64_t active = make(f, "half", "base", false, false);
	make(f, "half-layer", "", true, false);
	make(f, "removed", "base", false, true);
	write_file(f, active + 2, "/fs/file");
	assert_int_equal(lm_store_remove(f->store, PLUGIN, "removed", NULL), 0);
	close_all(f);
	open_well(f);
	assert_false(f->what.damaged);
	expect_all(f);
	/* Without the store they come back: whole, and with names that nobody knows. */
	close_all(f);
	assert_int_equal(unlink(f->db), 0);
	expect_rebuilt(f, 0);
	assert_int_equal(rows(f), ALL + 3);
}

static void set_record(struct fixture *f, int64_t id, const char *text)
{
	char path[128];
	file_name(f, id, "", path);
	if (text && setxattr(path, "user.lamella.record", text, strlen(text) + 1, 0) == 0)
		return;
	if (!text && (removexattr(path, "user.lamella.record") == 0 || errno == ENODATA || errno == EOPNOTSUPP)) {
		file_name(f, id, "/record", path);
		assert_true(unlink(path) == 0 || errno == ENOENT);
		return;
	}
	file_name(f, id, "/record", path);
	assert_int_equal(lm_file_replace(AT_FDCWD, path, text, strlen(text) + 1, 0600, 0, NULL), 0);
}

static void why_kept(struct fixture *f, int64_t id, const char *words)
{
	char path[128];
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(4096);
	file_name(f, id, "/kept", path);
	assert_int_equal(lm_file_read(AT_FDCWD, path, &text, NULL), 0);
	if (!strstr(lm_buf_cstr(&text), words))
		fail_msg("%s: %s is missing", lm_buf_cstr(&text), words);
	assert_true(lm_layout_is_kept(f->layout, id));
}

static void no_records(void **state)
{
	struct fixture *f = *state;
	close_all(f);
	set_record(f, ORDINARY, NULL);
	set_record(f, FRESH, "rubbish");
	assert_int_equal(unlink(f->db), 0);
	expect_rebuilt(f, 3);
	assert_int_equal(rows(f), 1);
	why_kept(f, ORDINARY, "no record");
	why_kept(f, CONTAINER, "parent 2 is not there");
	why_kept(f, FRESH, "cut short");
	assert_true(exists(f, CONTAINER, "/fs/file"));
	/* Their numbers are not given out, and the damage can come again. */
	assert_int_equal(make(f, "next", "base", false, true), ALL + 1);
	close_all(f);
	write_db(f, "x", 1);
	expect_rebuilt(f, 3);
	assert_int_equal(rows(f), 2);
}

/* A store that was put back takes everything up again. */
static void put_back(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_buf_done) struct lm_buf good = LM_BUF(1 << 22);
	close_all(f);
	read_db(f, &good);
	set_record(f, ORDINARY, "rubbish");
	write_db(f, "x", 1);
	expect_rebuilt(f, 2);
	close_all(f);
	write_db(f, good.data, good.len);
	open_well(f);
	assert_false(f->what.damaged);
	assert_int_equal(f->what.kept, 0);
	expect_all(f);
	close_all(f); /* and has repaired the record */
	assert_int_equal(unlink(f->db), 0);
	expect_rebuilt(f, 0);
	expect_all(f);
}

/* A store from before there were records: the first start writes them. */
static void upgrade(void **state)
{
	struct fixture *f = *state;
	close_all(f);
	for (int64_t id = BASE; id <= ALL; id++)
		set_record(f, id, NULL);
	open_well(f);
	assert_false(f->what.damaged);
	expect_all(f);
	close_all(f);
	assert_int_equal(unlink(f->db), 0);
	expect_rebuilt(f, 0);
	expect_all(f);
}

/* Of an old store that is too old, rows are taken where there is no record. */
static void old_rows(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_buf_done) struct lm_buf old = LM_BUF(1 << 22);
	close_all(f);
	read_db(f, &old);
	open_well(f);
	make(f, "later", "top", false, true);
	write_file(f, ALL + 1, "/fs/file");
	close_all(f);
	set_record(f, ORDINARY, NULL);
	write_db(f, old.data, old.len);
	expect_rebuilt(f, 0);
	assert_int_equal(rows(f), ALL + 1);
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *later = get(f, "later");
	assert_int_equal(later->parent->id, ORDINARY);
}

static void later_version(void **state)
{
	struct fixture *f = *state;
	close_all(f);
	for (int64_t id = BASE; id <= ALL; id++)
		set_record(f, id, "lamella snapshot 2");
	sql(f, "PRAGMA user_version = 2");
	assert_int_equal(open_all(f), -EPROTO);
	assert_non_null(strstr(f->err.msg, "version 2"));
	assert_int_equal(aside(f), 0);
	assert_false(exists(f, CONTAINER, "/kept"));
	sql(f, "PRAGMA user_version = 1");
	open_well(f);
	expect_all(f);
}

/* Records that say what can't be. */
static void forged_record(
	struct fixture *f, int64_t id, int64_t said, const char *key, int64_t above, enum lm_kind kind)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_RECORD_MAX_BYTES);
	struct lm_snapshot parent = {.id = above};
	struct lm_snapshot s = {.id = said,
		.plugin = (char *)PLUGIN,
		.key = (char *)key,
		.kind = kind,
		.parent = above ? &parent : NULL};
	assert_int_equal(lm_record_format(&s, &s.labels, &text, NULL), 0);
	assert_int_equal(lm_layout_put_record(f->layout, id, &text, NULL), 0);
}

static void forged(void **state)
{
	struct fixture *f = *state;
	close_all(f);
	assert_int_equal(unlink(f->db), 0);
	forged_record(f, ORDINARY, 9, "top", 1, LM_COMMITTED); /* of another directory */
	expect_rebuilt(f, 2);
	why_kept(f, ORDINARY, "that of 9");
	close_all(f);
	assert_int_equal(unlink(f->db), 0);
	forged_record(f, ORDINARY, ORDINARY, "top", CONTAINER, LM_COMMITTED); /* a circle */
	forged_record(f, CONTAINER, CONTAINER, "container", ORDINARY, LM_COMMITTED);
	expect_rebuilt(f, 2);
	why_kept(f, ORDINARY, "own ancestor");
	why_kept(f, CONTAINER, "own ancestor");
	close_all(f);
	assert_int_equal(unlink(f->db), 0);
	forged_record(f, ORDINARY, ORDINARY, "same", 0, LM_COMMITTED); /* one name twice */
	forged_record(f, CONTAINER, CONTAINER, "same", 0, LM_ACTIVE);
	forged_record(f, FRESH, FRESH, "fresh", ORDINARY, LM_ACTIVE);
	expect_rebuilt(f, 2);
	why_kept(f, ORDINARY, "3 is of the same name");
	why_kept(f, FRESH, "parent 2 is not there");
	assert_int_equal(rows(f), 2);
	close_all(f);
	assert_int_equal(unlink(f->db), 0);
	forged_record(f, FRESH, FRESH, "fresh", CONTAINER, LM_ACTIVE); /* on what is not committed */
	expect_rebuilt(f, 2);
	why_kept(f, FRESH, "parent 3 is not there");
}

static void lost_content(void **state)
{
	struct fixture *f = *state;
	char path[128];
	close_all(f);
	assert_int_equal(unlink(f->db), 0);
	file_name(f, ORDINARY, "/fs", path);
	assert_int_equal(lm_remove_tree(AT_FDCWD, path, NULL), 0);
	file_name(f, BASE, "/fs", path); /* a link is made again */
	assert_int_equal(unlink(path), 0);
	expect_rebuilt(f, 2);
	why_kept(f, ORDINARY, "fs is gone");
	assert_int_equal(rows(f), 2);
}

/* More labels than an attribute holds, and back. */
static void long_record(void **state)
{
	struct fixture *f = *state;
	char value[3000], path[128];
	memset(value, 'v', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	for (unsigned many = 50; many <= 50; many--) {
		CLEANUP(lm_labels_done) struct lm_labels labels = {0};
		for (unsigned i = 0; i < many; i++) {
			char key[16];
			snprintf(key, sizeof(key), "%u", i);
			assert_int_equal(lm_labels_set(&labels, key, value), 0);
		}
		CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_RECORD_MAX_BYTES);
		CLEANUP(lm_buf_done) struct lm_buf read = LM_BUF(LM_RECORD_MAX_BYTES);
		struct lm_snapshot s = {
			.id = FRESH, .plugin = (char *)PLUGIN, .key = (char *)"fresh", .kind = LM_ACTIVE};
		assert_int_equal(lm_record_format(&s, &labels, &text, NULL), 0);
		assert_int_equal(lm_layout_put_record(f->layout, FRESH, &text, NULL), 0);
		assert_int_equal(lm_layout_get_record(f->layout, FRESH, &read, NULL), 0);
		assert_int_equal(read.len, text.len);
		assert_memory_equal(read.data, text.data, text.len);
		file_name(f, FRESH, "", path);
		assert_true(exists(f, FRESH, "/record") != (getxattr(path, "user.lamella.record", NULL, 0) > 0));
		if (many == 50)
			assert_true(exists(f, FRESH, "/record"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(missing, setup, teardown),
		cmocka_unit_test_setup_teardown(empty_or_rubbish, setup, teardown),
		cmocka_unit_test_setup_teardown(truncated, setup, teardown),
		cmocka_unit_test_setup_teardown(bits, setup, teardown),
		cmocka_unit_test_setup_teardown(contradictions, setup, teardown),
		cmocka_unit_test_setup_teardown(older, setup, teardown),
		cmocka_unit_test_setup_teardown(half_made, setup, teardown),
		cmocka_unit_test_setup_teardown(no_records, setup, teardown),
		cmocka_unit_test_setup_teardown(put_back, setup, teardown),
		cmocka_unit_test_setup_teardown(upgrade, setup, teardown),
		cmocka_unit_test_setup_teardown(old_rows, setup, teardown),
		cmocka_unit_test_setup_teardown(later_version, setup, teardown),
		cmocka_unit_test_setup_teardown(forged, setup, teardown),
		cmocka_unit_test_setup_teardown(lost_content, setup, teardown),
		cmocka_unit_test_setup_teardown(long_record, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
