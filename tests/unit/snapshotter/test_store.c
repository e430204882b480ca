/* The table of snapshots: what may be done, what survives, and what happens to a broken database. */
#include "base/file.h"
#include "base/str.h"
#include "snapshotter/store.h"

#include <pthread.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

struct fixture {
	char dir[32], path[64];
	struct lm_store *store;
	struct lm_labels labels;
};

static void open_store(struct fixture *f)
{
	struct lm_err err = LM_ERR_INIT;
	if (lm_store_open(f->path, true, &f->store, &err) < 0)
		fail_msg("%s", lm_err_text(&err));
}

static void reopen(struct fixture *f)
{
	lm_store_close(STEAL(f->store));
	open_store(f);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->dir, "/tmp/lm-store.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/store.db", f->dir);
	open_store(f);
	assert_int_equal(lm_labels_set(&f->labels, "l", "1"), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_store_close(f->store);
	lm_labels_done(&f->labels);
	assert_int_equal(lm_remove_tree(AT_FDCWD, f->dir, NULL), 0);
	free(f);
	return 0;
}

static int create(struct fixture *f, const char *key, const char *parent, enum lm_kind kind, const char *ref)
{
	int64_t id;
	assert_int_equal(lm_store_reserve(f->store, &id, NULL), 0);
	struct lm_store_new new = {
		.id = id, .plugin = "p", .key = key, .parent = parent, .kind = kind, .labels = &f->labels};
	if (ref) {
		new.layer_digest = "sha256:d";
		new.layer_path = "/layers/d";
		new.layer_ref = ref;
	}
	int r = lm_store_create(f->store, &new, NULL, NULL);
	lm_store_release(f->store, id);
	return r;
}

static const struct lm_snapshot *get(struct fixture *f, const char *key)
{
	const struct lm_snapshot *s = lm_store_get(f->store, "p", key);
	assert_non_null(s);
	return s;
}

static int commit(struct fixture *f, const char *key, const char *name, const char *parent)
{
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *s = lm_store_get(f->store, "p", key);
	struct lm_store_commit c = {.id = s ? s->id : 0,
		.plugin = "p",
		.key = key,
		.name = name,
		.parent = parent,
		.labels = &f->labels,
		.usage = {4096, 7}};
	return lm_store_commit(f->store, &c, NULL);
}

static void life(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(create(f, "a", "", LM_ACTIVE, NULL), 0);
	assert_int_equal(create(f, "a", "", LM_ACTIVE, NULL), -EEXIST);
	assert_int_equal(create(f, "b", "none", LM_ACTIVE, NULL), -ENOENT);
	assert_int_equal(create(f, "b", "a", LM_ACTIVE, NULL), -EINVAL);
	assert_int_equal(commit(f, "none", "c", ""), -ENOENT);
	assert_int_equal(commit(f, "a", "a", ""), -EEXIST);
	assert_int_equal(commit(f, "a", "c", ""), 0);
	assert_null(lm_store_get(f->store, "p", "a"));
	assert_int_equal(commit(f, "c", "d", ""), -EBUSY);
	assert_int_equal(create(f, "b", "c", LM_VIEW, NULL), 0);
	assert_int_equal(commit(f, "b", "d", ""), -EBUSY);
	assert_int_equal(lm_store_remove(f->store, "p", "c", NULL), -EBUSY);
	assert_int_equal(lm_store_remove(f->store, "p", "none", NULL), -ENOENT);
	assert_int_equal(lm_store_remove(f->store, "q", "b", NULL), -ENOENT);
	for (unsigned pass = 0; pass < 2; pass++) {
		CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *b = get(f, "b");
		assert_int_equal(b->kind, LM_VIEW);
		assert_string_equal(b->parent->key, "c");
		assert_int_equal(b->parent->kind, LM_COMMITTED);
		assert_int_equal(b->parent->usage.inodes, 7);
		assert_int_equal(b->parent->usage.size_bytes, 4096);
		assert_string_equal(lm_labels_get(&b->labels, "l"), "1");
		assert_true(b->created_ns > 0 && b->created_ns == b->updated_ns);
		reopen(f); /* all of it is on disk, and a held record stays as it is */
	}
	assert_int_equal(lm_store_remove(f->store, "p", "b", NULL), 0);
	assert_int_equal(lm_store_remove(f->store, "p", "c", NULL), 0);
	reopen(f);
	struct lm_snapshot_list list;
	assert_int_equal(lm_store_list(f->store, NULL, &list, NULL), 0);
	assert_int_equal(list.count, 0);
	lm_snapshot_list_done(&list);
}

static void layers(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(create(f, "@1", "", LM_COMMITTED, "chain1"), 0);
	assert_int_equal(create(f, "@2", "", LM_COMMITTED, "chain1"), -EEXIST);
	assert_int_equal(create(f, "@2", "@1", LM_COMMITTED, "chain1"), 0); /* another parent */
	assert_int_equal(create(f, "@3", "@1", LM_COMMITTED, "chain2"), 0);
	for (unsigned pass = 0; pass < 2; pass++) {
		CLEANUP(lm_snapshot_unrefp)
		const struct lm_snapshot *s = lm_store_get_layer(f->store, "p", "chain2", "@1");
		assert_non_null(s);
		assert_string_equal(s->key, "@3");
		assert_string_equal(s->layer_path, "/layers/d");
		assert_null(lm_store_get_layer(f->store, "p", "chain2", ""));
		assert_null(lm_store_get_layer(f->store, "p", "chain2", "none"));
		assert_null(lm_store_get_layer(f->store, "q", "chain1", ""));
		reopen(f);
	}
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *s = get(f, "@3");
	assert_int_equal(lm_store_set_layer_path(f->store, s, "/elsewhere", NULL), 0);
	assert_string_equal(s->layer_path, "/layers/d");
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *now = get(f, "@3");
	assert_string_equal(now->layer_path, "/elsewhere");
	assert_string_equal(lm_labels_get(&now->labels, "l"), "1");
	assert_int_equal(lm_store_remove(f->store, "p", "@3", NULL), 0);
	assert_int_equal(lm_store_set_layer_path(f->store, s, "/x", NULL), -ENOENT);
	assert_null(lm_store_get_layer(f->store, "p", "chain2", "@1"));
	assert_int_equal(create(f, "@4", "@1", LM_COMMITTED, "chain2"), 0);
}

/* A parent that comes with the commit. */
static void late_parent(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(create(f, "x", "", LM_ACTIVE, NULL), 0);
	assert_int_equal(create(f, "y", "", LM_ACTIVE, NULL), 0);
	assert_int_equal(commit(f, "x", "cx", "none"), -ENOENT);
	assert_int_equal(commit(f, "x", "cx", "y"), -EBUSY);
	assert_int_equal(commit(f, "y", "cy", ""), 0);
	assert_int_equal(commit(f, "x", "cx", "cy"), 0); /* cy has the larger id */
	assert_int_equal(create(f, "z", "cx", LM_ACTIVE, NULL), 0);
	assert_int_equal(commit(f, "z", "cz", "cy"), -EINVAL);
	assert_int_equal(commit(f, "z", "cz", "cx"), 0);
	assert_int_equal(lm_store_remove(f->store, "p", "cy", NULL), -EBUSY);
	reopen(f);
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *s = get(f, "cz");
	assert_string_equal(s->parent->parent->key, "cy");
}

static int set_label(const struct lm_labels *old, void *arg, struct lm_labels *ret, struct lm_err *err)
{
	int r = lm_labels_copy(old, ret);
	return r < 0 ? r : lm_labels_set(ret, arg, "new");
}

static int refuse(const struct lm_labels *old, void *arg, struct lm_labels *ret, struct lm_err *err)
{
	return lm_err_set(err, -EINVAL, "no");
}

static void updates(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(create(f, "a", "", LM_ACTIVE, NULL), 0);
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *before = get(f, "a");
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *after = NULL;
	assert_int_equal(lm_store_update(f->store, "p", "a", set_label, (void *)"k", &after, NULL), 0);
	assert_int_equal(lm_store_update(f->store, "p", "a", refuse, NULL, &after, NULL), -EINVAL);
	assert_int_equal(lm_store_update(f->store, "p", "none", set_label, (void *)"k", NULL, NULL), -ENOENT);
	assert_null(lm_labels_get(&before->labels, "k"));
	assert_string_equal(lm_labels_get(&after->labels, "k"), "new");
	assert_true(after->updated_ns > before->updated_ns);
	assert_int_equal(after->created_ns, before->created_ns);
	reopen(f);
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *read = get(f, "a");
	assert_int_equal(read->labels.count, 2);
	assert_int_equal(read->updated_ns, after->updated_ns);
}

/* Names are opaque, and apart by plugin; a list is sorted and one view. */
static void names(void **state)
{
	struct fixture *f = *state;
	static const char *const keys[] = {
		"k8s.io/4/extract-54239874-t08x sha256:4c84", "a'b\"c;--", "%s", "\xc3\xa4 \xe2\x82\xac"};
	char *huge = calloc(1, 100001);
	memset(huge, 'h', 100000);
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		assert_int_equal(create(f, keys[i], "", LM_ACTIVE, NULL), 0);
	assert_int_equal(create(f, huge, "", LM_ACTIVE, NULL), 0);
	struct lm_store_new other = {
		.id = 1000, .plugin = "q", .key = "%s", .parent = "", .kind = LM_ACTIVE, .labels = &f->labels};
	assert_int_equal(lm_store_create(f->store, &other, NULL, NULL), 0);
	other.key = "child";
	other.parent = keys[0]; /* another plugin's */
	other.id = 1001;
	assert_int_equal(lm_store_create(f->store, &other, NULL, NULL), -ENOENT);
	reopen(f);
	struct lm_snapshot_list list, all;
	assert_int_equal(lm_store_list(f->store, "p", &list, NULL), 0);
	assert_int_equal(lm_store_list(f->store, NULL, &all, NULL), 0);
	assert_int_equal(list.count, 5);
	assert_int_equal(all.count, 6);
	for (size_t i = 1; i < list.count; i++)
		assert_true(strcmp(list.items[i - 1]->key, list.items[i]->key) < 0);
	assert_int_equal(lm_store_remove(f->store, "p", huge, NULL), 0);
	assert_string_equal(list.items[2]->key, huge);
	lm_snapshot_list_done(&list);
	lm_snapshot_list_done(&all);
	free(huge);
}

static void ids(void **state)
{
	struct fixture *f = *state;
	int64_t first, second, third;
	assert_int_equal(lm_store_reserve(f->store, &first, NULL), 0);
	assert_int_equal(create(f, "a", "", LM_ACTIVE, NULL), 0);
	CLEANUP(lm_freep) int64_t *used = NULL;
	size_t n = 0;
	assert_int_equal(lm_store_ids(f->store, &used, &n, NULL), 0);
	assert_int_equal(n, 2);
	assert_int_equal(used[0], first);
	lm_store_release(f->store, first);
	/* Not even the id of the last one is used again, nor after a restart. */
	assert_int_equal(lm_store_remove(f->store, "p", "a", NULL), 0);
	assert_int_equal(lm_store_reserve(f->store, &second, NULL), 0);
	assert_int_equal(second, used[1] + 1);
	reopen(f);
	assert_int_equal(lm_store_reserve(f->store, &third, NULL), 0);
	assert_true(third > used[1]);
	lm_store_reserve_from(f->store, 5000);
	assert_int_equal(lm_store_reserve(f->store, &third, NULL), 0);
	assert_int_equal(third, 5000);
}

static void sql(struct fixture *f, const char *text)
{
	sqlite3 *db;
	char *message = NULL;
	assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
	if (sqlite3_exec(db, text, NULL, NULL, &message) != SQLITE_OK)
		fail_msg("%s: %s", text, message);
	sqlite3_close(db);
}

static void expect_refused(struct fixture *f, int r, const char *words)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_store_open(f->path, true, &f->store, &err), r);
	if (!strstr(err.msg, words))
		fail_msg("%s: %s is missing", err.msg, words);
	assert_null(f->store);
}

static void contradictions(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(create(f, "a", "", LM_ACTIVE, NULL), 0);
	assert_int_equal(commit(f, "a", "c", ""), 0);
	assert_int_equal(create(f, "d", "c", LM_ACTIVE, NULL), 0);
	lm_store_close(STEAL(f->store));
	sql(f, "UPDATE snapshots SET parent = 1 WHERE key = 'c'");
	expect_refused(f, -EUCLEAN, "its own ancestor");
	sql(f, "UPDATE snapshots SET parent = 77 WHERE key = 'c'");
	expect_refused(f, -EUCLEAN, "no committed parent");
	sql(f, "UPDATE snapshots SET parent = NULL, layer_ref = 'x' WHERE key = 'c'");
	expect_refused(f, -EUCLEAN, "incomplete");
	sql(f, "UPDATE snapshots SET layer_ref = NULL WHERE key = 'c'; PRAGMA user_version = 99");
	expect_refused(f, -EPROTO, "version 99");
	sql(f, "PRAGMA user_version = 1; PRAGMA application_id = 5");
	expect_refused(f, -EUCLEAN, "not a store");
	sql(f, "PRAGMA application_id = 1282233203; ALTER TABLE labels RENAME TO slabel");
	expect_refused(f, -EUCLEAN, "no such table");
	sql(f, "ALTER TABLE slabel RENAME TO labels");
	open_store(f);
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *d = get(f, "d");
	assert_string_equal(d->parent->key, "c");
}

/* Refused, and left as it is; aside it never takes the name of another one. */
static void corruption(void **state)
{
	struct fixture *f = *state;
	for (unsigned i = 0; i < 200; i++) {
		char key[32];
		snprintf(key, sizeof(key), "key-%u", i);
		assert_int_equal(create(f, key, "", LM_ACTIVE, NULL), 0);
	}
	lm_store_close(STEAL(f->store));
	int fd = open(f->path, O_WRONLY);
	char rubbish[8192];
	memset(rubbish, 0x5a, sizeof(rubbish));
	assert_int_equal(pwrite(fd, rubbish, sizeof(rubbish), 8192), sizeof(rubbish));
	close(fd);
	for (unsigned i = 0; i < 3; i++) {
		CLEANUP(lm_freep) char *kept = NULL;
		expect_refused(f, -EUCLEAN, "error code 11");
		assert_int_equal(access(f->path, F_OK), 0);
		assert_int_equal(lm_store_move_aside(f->path, &kept, NULL), 0);
		assert_int_equal(access(f->path, F_OK), -1);
		assert_int_equal(access(kept, F_OK), 0);
		assert_int_equal(rename(kept, f->path), 0);
		assert_int_equal(lm_file_replace(AT_FDCWD, kept, "", 0, 0600, 0, NULL), 0);
	}
	assert_int_equal(lm_file_replace(AT_FDCWD, f->path, rubbish, sizeof(rubbish), 0600, 0, NULL), 0);
	expect_refused(f, -EUCLEAN, "not a database");
	CLEANUP(lm_freep) char *kept = NULL;
	CLEANUP(lm_freep) char *none = NULL;
	assert_int_equal(lm_store_move_aside(f->path, &kept, NULL), 0);
	assert_int_equal(lm_store_move_aside(f->path, &none, NULL), 0);
	assert_null(none);
	assert_int_equal(lm_store_open(f->path, false, &f->store, NULL), -EIO);
	open_store(f);
}

/* The clock goes back, but what is later has the later time. */
static void later_is_later(void **state)
{
	struct fixture *f = *state;
	struct lm_store_new new = {.id = 5,
		.plugin = "p",
		.key = "a",
		.parent = "",
		.created_ns = INT64_C(4000000000) * 1000000000,
		.kind = LM_ACTIVE,
		.labels = &f->labels};
	const struct lm_snapshot *updated = NULL;
	assert_int_equal(lm_store_create(f->store, &new, NULL, NULL), 0);
	assert_int_equal(lm_store_update(f->store, "p", "a", set_label, (void *)"k", &updated, NULL), 0);
	assert_int_equal(updated->updated_ns, new.created_ns + 1);
	lm_snapshot_unref(updated);
	assert_int_equal(commit(f, "a", "c", ""), 0);
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *c = get(f, "c");
	assert_int_equal(c->updated_ns, new.created_ns + 2);
	/* Only on the very parent that was meant. */
	new = (struct lm_store_new){.id = 6,
		.plugin = "p",
		.key = "b",
		.parent = "c",
		.parent_id = 4,
		.kind = LM_ACTIVE,
		.labels = &f->labels};
	assert_int_equal(lm_store_create(f->store, &new, NULL, NULL), -ENOENT);
	new.parent_id = 5;
	assert_int_equal(lm_store_create(f->store, &new, NULL, NULL), 0);
}

struct worker {
	struct fixture *f;
	unsigned number;
	pthread_t thread;
};

static void *make_and_drop(void *arg)
{
	struct worker *w = arg;
	for (unsigned i = 0; i < 20; i++) {
		char key[32], name[32];
		snprintf(key, sizeof(key), "%u-%u", w->number, i);
		snprintf(name, sizeof(name), "c%u-%u", w->number, i);
		assert_int_equal(create(w->f, key, "base", LM_ACTIVE, NULL), 0);
		assert_int_equal(commit(w->f, key, name, ""), 0);
		struct lm_snapshot_list list;
		assert_int_equal(lm_store_list(w->f->store, "p", &list, NULL), 0);
		for (size_t k = 0; k < list.count; k++)
			assert_true(list.items[k]->parent || strcmp(list.items[k]->key, "base") == 0);
		lm_snapshot_list_done(&list);
		if (i % 2)
			assert_int_equal(lm_store_remove(w->f->store, "p", name, NULL), 0);
	}
	return NULL;
}

static void threads(void **state)
{
	struct fixture *f = *state;
	struct worker workers[8];
	assert_int_equal(create(f, "b", "", LM_ACTIVE, NULL), 0);
	assert_int_equal(commit(f, "b", "base", ""), 0);
	for (unsigned i = 0; i < ARRAY_LEN(workers); i++) {
		workers[i] = (struct worker){f, i, 0};
		assert_int_equal(pthread_create(&workers[i].thread, NULL, make_and_drop, &workers[i]), 0);
	}
	for (unsigned i = 0; i < ARRAY_LEN(workers); i++)
		pthread_join(workers[i].thread, NULL);
	for (unsigned pass = 0; pass < 2; pass++) {
		struct lm_snapshot_list list;
		assert_int_equal(lm_store_list(f->store, "p", &list, NULL), 0);
		assert_int_equal(list.count, 1 + 8 * 10);
		lm_snapshot_list_done(&list);
		reopen(f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(life, setup, teardown),
		cmocka_unit_test_setup_teardown(layers, setup, teardown),
		cmocka_unit_test_setup_teardown(late_parent, setup, teardown),
		cmocka_unit_test_setup_teardown(updates, setup, teardown),
		cmocka_unit_test_setup_teardown(names, setup, teardown),
		cmocka_unit_test_setup_teardown(ids, setup, teardown),
		cmocka_unit_test_setup_teardown(contradictions, setup, teardown),
		cmocka_unit_test_setup_teardown(corruption, setup, teardown),
		cmocka_unit_test_setup_teardown(later_is_later, setup, teardown),
		cmocka_unit_test_setup_teardown(threads, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
