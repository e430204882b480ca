/* The n-th allocation fails, for each n: memory and database say the same afterwards, and the next try works. */
#include "../repo/repo_memory.h"

#include "base/file.h"
#include "snapshotter/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#if !MEMORY_TESTED

int main(void)
{
	printf("skipped: the sanitizer owns malloc\n");
	return 77;
}

#else

static const char *const keys[] = {"base", "a", "b", "c"};

/* What the store says of the snapshots of all keys. */
struct seen {
	struct {
		int64_t id, parent, created_ns, updated_ns, bytes;
		int64_t kind, labels;
	} snapshots[ARRAY_LEN(keys)];
};

static struct seen see(struct lm_store *store)
{
	struct seen seen = {0};
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *s = lm_store_get(store, "p", keys[i]);
		if (!s)
			continue;
		seen.snapshots[i].id = s->id;
		seen.snapshots[i].parent = s->parent ? s->parent->id : 0;
		seen.snapshots[i].created_ns = s->created_ns;
		seen.snapshots[i].updated_ns = s->updated_ns;
		seen.snapshots[i].bytes = s->usage.size_bytes;
		seen.snapshots[i].kind = s->kind;
		seen.snapshots[i].labels = (int64_t)s->labels.count;
	}
	return seen;
}

static int create(struct lm_store *store, const char *key, const char *parent)
{
	int64_t id;
	int r = lm_store_reserve(store, &id, NULL);
	if (r < 0)
		return r;
	const struct lm_labels labels = {0};
	const struct lm_store_new new = {
		.id = id, .plugin = "p", .key = key, .parent = parent, .kind = LM_ACTIVE, .labels = &labels};
	r = lm_store_create(store, &new, NULL, NULL);
	lm_store_release(store, id);
	return r;
}

static int commit(struct lm_store *store, const char *key, const char *name)
{
	CLEANUP(lm_snapshot_unrefp) const struct lm_snapshot *s = lm_store_get(store, "p", key);
	const struct lm_labels labels = {0};
	const struct lm_store_commit c = {.id = s->id,
		.plugin = "p",
		.key = key,
		.name = name,
		.parent = "",
		.labels = &labels,
		.usage = {4096, 7}};
	return lm_store_commit(store, &c, NULL);
}

static int add_label(const struct lm_labels *old, void *arg, struct lm_labels *ret, struct lm_err *err)
{
	int r = lm_labels_copy(old, ret);
	return r < 0 ? r : lm_labels_set(ret, arg, "value");
}

static int update(struct lm_store *store, const char *label)
{
	return lm_store_update(store, "p", "a", add_label, (void *)label, NULL, NULL);
}

static int create_b(struct lm_store *store)
{
	return create(store, "b", "base");
}

static int update_a(struct lm_store *store)
{
	return update(store, "second");
}

static int commit_a(struct lm_store *store)
{
	return commit(store, "a", "c");
}

static int remove_a(struct lm_store *store)
{
	return lm_store_remove(store, "p", "a", NULL);
}

static void open_store(const char *path, struct lm_store **ret)
{
	struct lm_err err = LM_ERR_INIT;
	if (lm_store_open(path, true, ret, &err) < 0)
		fail_msg("%s", lm_err_text(&err));
}

/* One try. True: an allocation failed. */
static bool try_with(int (*change)(struct lm_store *store), long n)
{
	char dir[] = "/tmp/lm-store-memory.XXXXXX", path[64];
	struct lm_store *store = NULL;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/store.db", dir);
	open_store(path, &store);
	assert_int_equal(create(store, "x", ""), 0);
	assert_int_equal(commit(store, "x", "base"), 0);
	assert_int_equal(create(store, "a", "base"), 0);
	assert_int_equal(update(store, "first"), 0); /* so that it is later than it was made */

	const struct seen before = see(store);
	failed = false;
	allocations_left = n;
	int r = change(store);
	allocations_left = -1;
	bool has_failed = failed;
	if (r != 0 && r != -ENOMEM && r != -EIO) /* SQLite calls it either */
		fail_msg("allocation %ld: %d", n, r);
	assert_true(r == 0 || has_failed);
	const struct seen after = see(store);
	if (r < 0)
		assert_memory_equal(&after, &before, sizeof(after));
	lm_store_close(STEAL(store));
	open_store(path, &store);
	const struct seen on_disk = see(store);
	assert_memory_equal(&on_disk, &after, sizeof(after));
	if (r < 0)
		assert_int_equal(change(store), 0);
	lm_store_close(store);
	assert_int_equal(lm_remove_tree(AT_FDCWD, dir, NULL), 0);
	return has_failed;
}

static void try_each(int (*change)(struct lm_store *store))
{
	long n = 0;
	while (try_with(change, n))
		n++;
	print_message("%ld failures\n", n);
	assert_true(n > 0);
}

static void test_create(void **state)
{
	try_each(create_b);
}

static void test_update(void **state)
{
	try_each(update_a);
}

static void test_commit(void **state)
{
	try_each(commit_a);
}

static void test_remove(void **state)
{
	try_each(remove_a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create),
		cmocka_unit_test(test_update),
		cmocka_unit_test(test_commit),
		cmocka_unit_test(test_remove),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
