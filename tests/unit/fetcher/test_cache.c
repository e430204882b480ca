#include "fetcher/cache_index.h"
#include "fetcher_test.h"

#include <sys/mount.h>

static struct lm_object_ref ref_of(unsigned n, enum lm_object_kind kind, uint64_t size)
{
	struct lm_object_ref ref = {.kind = kind, .size = size, .hash = {.set = true}};
	for (size_t i = 0; i < sizeof(ref.hash.bytes); i++)
		ref.hash.bytes[i] = (uint8_t)(n * 31 + i * (n + 7));
	return ref;
}

static struct lm_cache *open_cache(const char *dir)
{
	struct lm_cache *cache;
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_cache_new(dir, &cache, &err), &err);
	return cache;
}

static void put(struct lm_cache *cache, const struct lm_object_ref *ref, const void *data, size_t len)
{
	CLEANUP(lm_cache_txn_freep) struct lm_cache_txn *txn = NULL;
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_cache_begin(cache, &txn, &err), &err);
	assert_ok(lm_cache_write(txn, data, len / 2, &err), &err);
	assert_ok(lm_cache_write(txn, (const char *)data + len / 2, len - len / 2, &err), &err);
	assert_ok(lm_cache_commit(txn, ref, &err), &err);
}

static struct lm_cache_stats counted(struct lm_cache *cache)
{
	struct lm_cache_stats stats;
	do
		lm_cache_stats(cache, &stats);
	while (stats.counting && sched_yield() == 0);
	return stats;
}

/* Events of the housekeeper have no other end to wait on; the test's time limit bounds it. */
static void wait_until(struct lm_cache *cache, bool (*holds)(const struct lm_cache_stats *stats))
{
	struct lm_cache_stats stats;
	do
		lm_cache_stats(cache, &stats);
	while (!holds(&stats) && sched_yield() == 0);
}

static bool leads(const struct lm_cache_stats *stats)
{
	return stats->leads;
}

static void test_commit_and_open(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_cache_freep) struct lm_cache *cache = open_cache(dir);
	struct lm_object_ref file = ref_of(1, LM_OBJECT_FILE, 5), chunk = ref_of(1, LM_OBJECT_CHUNK, 6);
	assert_int_equal(lm_cache_open(cache, &file), -ENOENT);
	put(cache, &file, "hello", 5);
	put(cache, &chunk, "chunky", 6); /* the same hash, another kind */
	assert_content(lm_cache_open(cache, &file), "hello", 5);
	assert_content(lm_cache_open(cache, &chunk), "chunky", 6);
	CLEANUP(lm_freep) char *path = lm_cache_path(cache, &file);
	assert_int_equal(access(path, R_OK), 0);
	struct lm_cache_stats stats = counted(cache);
	assert_int_equal(stats.objects, 2);
	assert_int_equal(stats.bytes, 2 * LM_INDEX_BLOCK);
}

static void test_abandoned_leaves_nothing(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_cache_freep) struct lm_cache *cache = open_cache(dir);
	struct lm_cache_txn *txn;
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_cache_begin(cache, &txn, &err), &err);
	assert_ok(lm_cache_write(txn, "half", 4, &err), &err);
	lm_cache_txn_free(txn);
	CLEANUP(lm_freep)
	char *command = lm_str_printf("test -z \"$(find %s -type f -not -name boot -not -name leader)\"", dir);
	assert_int_equal(run((const char *const[]){"sh", "-c", command, NULL}), 0);
}

/* A file cut short by a power loss counts as absent, and the next commit puts a whole one in its place. */
static void test_torn_object(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_cache_freep) struct lm_cache *cache = open_cache(dir);
	struct lm_object_ref ref = ref_of(2, LM_OBJECT_FILE, 10), any = ref;
	any.size = LM_SIZE_UNKNOWN;
	put(cache, &ref, "0123456789", 10);
	CLEANUP(lm_freep) char *path = lm_cache_path(cache, &ref);
	assert_int_equal(truncate(path, 3), 0);
	assert_int_equal(lm_cache_open(cache, &ref), -ENOENT);
	lm_cache_free(cache);
	cache = open_cache(dir); /* which knows only what the file says */
	assert_int_equal(lm_cache_open(cache, &any), -ENOENT);
	put(cache, &ref, "0123456789", 10);
	assert_content(lm_cache_open(cache, &ref), "0123456789", 10);
	struct lm_cache_stats stats = counted(cache);
	assert_int_equal(stats.objects, 1);
}

static void test_strange_things_are_absent(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_cache_freep) struct lm_cache *cache = open_cache(dir);
	struct lm_object_ref link = ref_of(3, LM_OBJECT_FILE, 5), folder = ref_of(4, LM_OBJECT_FILE, LM_SIZE_UNKNOWN);
	CLEANUP(lm_freep) char *link_path = lm_cache_path(cache, &link);
	CLEANUP(lm_freep) char *folder_path = lm_cache_path(cache, &folder);
	write_file(link_path, "", 0); /* makes its folder */
	assert_int_equal(unlink(link_path), 0);
	assert_int_equal(symlink("/etc/passwd", link_path), 0);
	assert_int_equal(lm_mkdir_p(AT_FDCWD, folder_path, 0700, NULL), 0);
	assert_true(lm_cache_open(cache, &link) < 0);
	assert_int_equal(lm_cache_open(cache, &folder), -ENOENT);
}

/* The directory is the index: a new process finds what the last one left, and throws away what was half-made. */
static void test_restart(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	struct lm_cache *cache = open_cache(dir);
	for (unsigned n = 0; n < 100; n++) {
		struct lm_object_ref ref = ref_of(n, LM_OBJECT_FILE, 3);
		put(cache, &ref, "abc", 3);
	}
	lm_cache_free(cache);
	CLEANUP(lm_freep) char *torn = lm_str_printf("%s/txn/7", dir);
	write_file(torn, "half", 4);

	cache = open_cache(dir);
	struct lm_object_ref fresh = ref_of(1000, LM_OBJECT_FILE, 2); /* while the count is under way */
	put(cache, &fresh, "xy", 2);
	struct lm_cache_stats stats = counted(cache);
	assert_int_equal(stats.objects, 101);
	assert_int_equal(stats.bytes, 101 * LM_INDEX_BLOCK);
	assert_int_equal(access(torn, F_OK), -1);
	for (unsigned n = 0; n < 100; n++) {
		struct lm_object_ref ref = ref_of(n, LM_OBJECT_FILE, 3);
		assert_content(lm_cache_open(cache, &ref), "abc", 3);
	}
	lm_cache_free(cache);
}

/* What one process commits the other finds; only one of them evicts, and the other takes its place. */
static void test_two_processes(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	struct lm_cache *first = open_cache(dir), *second;
	struct lm_cache_stats stats = counted(first);
	assert_true(stats.leads);
	second = open_cache(dir);
	struct lm_object_ref a = ref_of(1, LM_OBJECT_FILE, 1), b = ref_of(2, LM_OBJECT_FILE, 1);
	put(first, &a, "a", 1);
	put(second, &b, "b", 1);
	assert_content(lm_cache_open(first, &b), "b", 1);
	assert_content(lm_cache_open(second, &a), "a", 1);
	assert_false(counted(second).leads);
	lm_cache_free(first);
	const struct lm_cache_limits none = {0};
	lm_cache_reconfigure(second, &none); /* wakes it */
	wait_until(second, leads);
	assert_content(lm_cache_open(second, &a), "a", 1);
	lm_cache_free(second);
}

/* The disk is full in the middle of an object: it can be read all the same, and is gone afterwards. */
static void test_full_disk(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	struct lm_err err = LM_ERR_INIT;
	if (geteuid() != 0 || mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=1000") < 0) {
		printf("skipped: no tmpfs can be mounted: %s\n", strerror(errno));
		skip();
	}
	struct lm_cache *cache = open_cache(dir);
	struct lm_object_ref ref = ref_of(5, LM_OBJECT_FILE, 2 << 20);
	uint8_t *content = malloc(ref.size);
	for (size_t i = 0; i < ref.size; i++)
		content[i] = (uint8_t)(i * 2654435761U >> 13);
	struct lm_cache_txn *txn;
	assert_ok(lm_cache_begin(cache, &txn, &err), &err);
	for (size_t at = 0; at < ref.size; at += 4096)
		assert_ok(lm_cache_write(txn, content + at, 4096, &err), &err);
	assert_ok(lm_cache_commit(txn, &ref, &err), &err);
	assert_content(dup(lm_cache_txn_fd(txn)), content, ref.size);
	struct lm_cache_stats stats;
	lm_cache_stats(cache, &stats);
	assert_int_equal(stats.uncached, 1);
	assert_int_equal(stats.state, LM_CACHE_FULL);
	assert_int_equal(stats.memory, ref.size);
	lm_cache_txn_free(txn);
	assert_content(lm_cache_open(cache, &ref), content, ref.size); /* from memory */

	/* The disk got its blocks back: a small object finds room. */
	struct lm_object_ref little = ref_of(6, LM_OBJECT_FILE, 5);
	put(cache, &little, "hello", 5);
	assert_content(lm_cache_open(cache, &little), "hello", 5);
	lm_cache_stats(cache, &stats);
	assert_int_equal(stats.state, LM_CACHE_WORKS);
	free(content);
	lm_cache_free(cache);
	assert_int_equal(umount(dir), 0);
}

static void test_memory_is_bounded(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	struct lm_err err = LM_ERR_INIT;
	if (geteuid() != 0 || mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=1000") < 0) {
		printf("skipped: no tmpfs can be mounted: %s\n", strerror(errno));
		skip();
	}
	struct lm_cache *cache = open_cache(dir);
	struct lm_cache_txn *txn;
	enum { BLOCK = 1 << 20 };
	uint8_t *block = calloc(1, BLOCK);
	assert_ok(lm_cache_begin(cache, &txn, &err), &err);
	int r = 0;
	size_t written = 0;
	while (r == 0 && written < 2 * (size_t)LM_CACHE_MEMORY_MAX)
		if ((r = lm_cache_write(txn, block, BLOCK, &err)) == 0)
			written += BLOCK;
	assert_int_equal(r, -ENOSPC);
	assert_true(written <= LM_CACHE_MEMORY_MAX);
	lm_cache_txn_free(txn);
	assert_ok(lm_cache_begin(cache, &txn, &err), &err); /* what it held is free again */
	for (unsigned i = 0; i < 4; i++)
		assert_ok(lm_cache_write(txn, block, BLOCK, &err), &err);
	lm_cache_txn_free(txn);
	free(block);
	lm_cache_free(cache);
	assert_int_equal(umount(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_commit_and_open),
		cmocka_unit_test(test_abandoned_leaves_nothing),
		cmocka_unit_test(test_torn_object),
		cmocka_unit_test(test_strange_things_are_absent),
		cmocka_unit_test(test_restart),
		cmocka_unit_test(test_two_processes),
		cmocka_unit_test(test_full_disk),
		cmocka_unit_test(test_memory_is_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
