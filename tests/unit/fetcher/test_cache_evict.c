/* What the cache gives up, what it keeps, and what it believes: eviction, pins, unclean ends, failing disks. */
#include "fetcher/cache_index.h"
#include "fetcher/cache_internal.h"
#include "fetcher/cache_layers.h"
#include "fetcher_test.h"

#include "base/clock.h"

#include <linux/magic.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

enum { SIZE = 64 << 10, MIB = 1 << 20 };

/* In the C library's place. The machine does not end here, so nothing has to be on the disk; and to wait for that means
 * to wait for all that others on the machine write. What matters is seen all the same: when it is asked for. */
static _Atomic(unsigned) syncs;
static _Atomic(bool) sync_fails;

int syncfs(int fd)
{
	atomic_fetch_add(&syncs, 1);
	errno = EIO;
	return atomic_load(&sync_fails) ? -1 : 0;
}

int fsync(int fd)
{
	return 0;
}

static struct lm_object_ref ref_of(unsigned n)
{
	struct lm_object_ref ref = {.kind = LM_OBJECT_FILE, .size = SIZE, .hash = {.set = true}};
	for (size_t i = 0; i < sizeof(ref.hash.bytes); i++)
		ref.hash.bytes[i] = (uint8_t)((n + 1) * 2654435761U >> (i % 4 * 8)) ^ (uint8_t)(i * 37);
	return ref;
}

static struct lm_cache *open_cache(const char *dir)
{
	struct lm_cache *cache;
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_cache_new(dir, &cache, &err), &err);
	return cache;
}

static void fill(uint8_t *content, unsigned n)
{
	for (size_t i = 0; i < SIZE; i++)
		content[i] = (uint8_t)((i + n) * 2654435761U >> 11);
}

static int try_put(struct lm_cache *cache, const struct lm_object_ref *ref, unsigned n)
{
	static _Thread_local uint8_t content[SIZE];
	CLEANUP(lm_cache_txn_freep) struct lm_cache_txn *txn = NULL;
	fill(content, n);
	int r = lm_cache_begin(cache, &txn, NULL);
	if (r < 0)
		return r;
	lm_cache_expect(txn, SIZE);
	r = lm_cache_write(txn, content, SIZE, NULL);
	return r < 0 ? r : lm_cache_commit(txn, ref, NULL);
}

/* Each in a millisecond of its own: that is how finely uses are told apart. */
static void put(struct lm_cache *cache, unsigned n)
{
	struct lm_object_ref ref = ref_of(n);
	int64_t now = lm_now_ms();
	assert_int_equal(try_put(cache, &ref, n), 0);
	while (lm_now_ms() == now)
		sched_yield();
}

static bool is_there(struct lm_cache *cache, unsigned n)
{
	struct lm_object_ref ref = ref_of(n);
	static uint8_t content[SIZE];
	int fd = lm_cache_open(cache, &ref);
	if (fd < 0) {
		assert_int_equal(fd, -ENOENT);
		return false;
	}
	fill(content, n);
	assert_content(fd, content, SIZE);
	return true;
}

static struct lm_cache_stats stats_of(struct lm_cache *cache)
{
	struct lm_cache_stats stats;
	lm_cache_stats(cache, &stats);
	return stats;
}

/* The housekeeper's work ends in figures; the test's time limit bounds the wait. It gets the processor meanwhile. */
#define WAIT_FOR(cache, condition)                                      \
	do {                                                            \
		struct lm_cache_stats s;                                \
		while (s = stats_of(cache), s.counting || !(condition)) \
			(void)poll(NULL, 0, 1);                         \
	} while (0)

static void limit(struct lm_cache *cache, uint64_t quota, unsigned reserve_percent)
{
	const struct lm_cache_limits limits = {.quota = quota, .reserve_percent = reserve_percent};
	lm_cache_reconfigure(cache, &limits);
}

static void test_order_and_hysteresis(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	struct lm_cache *cache = open_cache(dir);
	for (unsigned n = 0; n < 20; n++)
		put(cache, n);
	for (unsigned n = 0; n < 5; n++)
		assert_true(is_there(cache, n)); /* used: now the newest */
	limit(cache, MIB, 0);
	WAIT_FOR(cache, s.evicted > 0); /* counted when all are gone */
	struct lm_cache_stats stats = stats_of(cache);
	assert_true(stats.bytes <= MIB * 85 / 100);
	assert_int_equal(stats.objects, 13); /* not fewer than it takes */
	assert_int_equal(stats.evicted, 7);
	for (unsigned n = 0; n < 20; n++)
		assert_int_equal(is_there(cache, n), n < 5 || n >= 12);
	put(cache, 20);
	put(cache, 21); /* 15 are below the mark */
	limit(cache, MIB, 0);
	assert_int_equal(stats_of(cache).objects, 15);
	assert_int_equal(stats_of(cache).evicted, 7);
	lm_cache_free(cache);
}

/* What is open stays readable. */
static void test_open_files_stay(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_cache_freep) struct lm_cache *cache = open_cache(dir);
	struct lm_object_ref ref = ref_of(1);
	uint8_t content[SIZE];
	put(cache, 1);
	fill(content, 1);
	int fd = lm_cache_open(cache, &ref);
	limit(cache, 1, 0);
	WAIT_FOR(cache, s.objects == 0);
	assert_false(is_there(cache, 1));
	assert_content(fd, content, SIZE);
}

static void age(const char *dir)
{
	CLEANUP(lm_freep)
	char *command = lm_str_printf("i=3600; find %s/cache -type f | sort | while read -r f; do "
				      "touch -a -d \"$i seconds ago\" \"$f\"; i=$((i - 1)); done",
		dir);
	assert_int_equal(run((const char *const[]){"sh", "-c", command, NULL}), 0);
}

static void test_pins(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	struct lm_cache *cache = open_cache(dir);
	struct lm_err err = LM_ERR_INIT;
	struct lm_object_ref used = ref_of(0), kept = ref_of(1);
	const uint32_t keeper = 7, other = 8;
	for (unsigned n = 0; n < 10; n++)
		put(cache, n);
	assert_ok(lm_cache_pin(cache, &used, &err), &err);
	assert_ok(lm_cache_pin(cache, &used, &err), &err);
	lm_cache_set_keepers(cache, &keeper, 1);
	assert_true(lm_cache_keep(cache, &kept, keeper, &err) >= SIZE);
	limit(cache, 1, 0);
	WAIT_FOR(cache, s.objects == 2);
	assert_true(is_there(cache, 0) && is_there(cache, 1));
	lm_cache_unpin(cache, &used);
	assert_int_equal(stats_of(cache).pinned, 1);
	lm_cache_unpin(cache, &used);
	limit(cache, 1, 0);
	WAIT_FOR(cache, s.objects == 1);
	lm_cache_free(cache);

	/* A new process knows by the file alone; another's number is not enough. */
	cache = open_cache(dir);
	lm_cache_set_keepers(cache, &keeper, 1);
	put(cache, 2);
	limit(cache, 1, 0);
	WAIT_FOR(cache, s.objects == 1);
	assert_true(is_there(cache, 1));
	lm_cache_set_keepers(cache, &other, 1);
	WAIT_FOR(cache, s.objects == 0);
	lm_cache_free(cache);
}

static void test_clear(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_cache_freep) struct lm_cache *cache = open_cache(dir);
	struct lm_err err = LM_ERR_INIT;
	struct lm_object_ref kept = ref_of(1);
	const uint32_t keeper = 7;
	uint64_t objects, bytes;
	for (unsigned n = 0; n < 10; n++)
		put(cache, n);
	lm_cache_set_keepers(cache, &keeper, 1);
	assert_true(lm_cache_keep(cache, &kept, keeper, &err) > 0);
	lm_cache_clear(cache, false, &objects, &bytes);
	assert_int_equal(objects, 9);
	assert_int_equal(bytes, 9 * SIZE);
	assert_true(is_there(cache, 1));
	lm_cache_clear(cache, true, &objects, &bytes);
	assert_int_equal(objects, 1);
	assert_false(is_there(cache, 1));
	assert_int_equal(stats_of(cache).bytes, 0);
}

static void test_reserve(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	struct statvfs fs;
	if (geteuid() != 0 || mount("tmpfs", dir, "tmpfs", 0, "size=16m") < 0) {
		printf("skipped: no tmpfs can be mounted: %s\n", strerror(errno));
		skip();
	}
	struct lm_cache *cache = open_cache(dir);
	for (unsigned n = 0; n < 100; n++)
		put(cache, n);
	limit(cache, 0, 80);
	WAIT_FOR(cache, s.reserve && s.free >= s.reserve);
	assert_int_equal(statvfs(dir, &fs), 0);
	assert_true(fs.f_bavail * 10 >= fs.f_blocks * 8);
	assert_true(is_there(cache, 99) && !is_there(cache, 0));
	/* Commits go on within it, whatever is asked for. */
	for (unsigned n = 100; n < 400; n++)
		put(cache, n);
	assert_int_equal(stats_of(cache).uncached, 0);
	lm_cache_free(cache);
	assert_int_equal(umount(dir), 0);
}

static void test_thrash(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_cache_freep) struct lm_cache *cache = open_cache(dir);
	limit(cache, MIB, 0);
	for (unsigned n = 0; n < 40; n++)
		put(cache, n);
	WAIT_FOR(cache, s.evicted >= 20);
	assert_false(stats_of(cache).thrashing); /* what came was new */
	for (unsigned i = 0; i < 400 && !stats_of(cache).thrashing; i++)
		if (!is_there(cache, i % 40))
			put(cache, i % 40);
	struct lm_cache_stats stats = stats_of(cache);
	assert_true(stats.thrashing);
	assert_true(stats.refetched > 0 && stats.refetch_percent >= 25);
}

/* Those that age() makes the oldest. */
static bool is_among_first(unsigned n, unsigned first, unsigned count)
{
	const struct lm_object_ref ref = ref_of(n);
	unsigned before = 0;
	for (unsigned i = 0; i < count; i++) {
		const struct lm_object_ref other = ref_of(i);
		before += memcmp(other.hash.bytes, ref.hash.bytes, sizeof(ref.hash.bytes)) < 0;
	}
	return before < first;
}

/* An overlay over a layer, by a link to it as the snapshotter makes them: what was read for that layer goes last,
 * though it was used longest ago, and the cache knew it by its name alone. */
static void test_layers_in_use(void **state)
{
	static const char layer[] =
		".layers/ab/abababababababababababababababababababababababababababababababab/layerfs";
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, layer), *link = lm_str_printf("%s/link", dir);
	CLEANUP(lm_freep) char *root = lm_str_printf("%s/root", dir), *other = lm_str_printf("%s/other", dir);
	CLEANUP(lm_freep) char *options = lm_str_printf("lowerdir=%s:%s", link, other);
	CLEANUP(lm_freep) char *cache_dir = lm_str_printf("%s/c", dir);
	assert_int_equal(lm_mkdir_p(AT_FDCWD, path, 0700, NULL) + lm_mkdir_p(AT_FDCWD, root, 0700, NULL) +
				 lm_mkdir_p(AT_FDCWD, other, 0700, NULL) + symlink(path, link),
		0);
	if (geteuid() != 0 || mount("overlay", root, "overlay", MS_RDONLY, options) < 0) {
		printf("skipped: no overlay can be mounted: %s\n", strerror(errno));
		skip();
	}
	struct lm_cache *cache = open_cache(cache_dir);
	for (unsigned n = 0; n < 10; n++) {
		struct lm_object_ref ref = ref_of(n);
		ref.layer = is_among_first(n, 5, 10) ? lm_cache_layer(cache, layer) : 0;
		assert_int_equal(ref.layer != 0, is_among_first(n, 5, 10));
		assert_int_equal(try_put(cache, &ref, n), 0);
	}
	lm_cache_free(cache);
	age(cache_dir); /* in the order of their names */
	cache = open_cache(cache_dir);
	limit(cache, 6 * SIZE, 0);
	WAIT_FOR(cache, s.bytes <= 6 * SIZE * 85 / 100);
	assert_int_equal(stats_of(cache).layers_in_use, 1);
	for (unsigned n = 0; n < 10; n++)
		assert_int_equal(is_there(cache, n), is_among_first(n, 5, 10));
	lm_cache_free(cache);

	assert_int_equal(umount(root), 0);
	age(cache_dir);
	cache = open_cache(cache_dir);
	limit(cache, 2 * SIZE, 0); /* nothing else can go */
	WAIT_FOR(cache, s.bytes <= 2 * SIZE && s.layers_in_use == 0);
	lm_cache_free(cache);
}

static void test_mountinfo(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_freep) char *file = lm_str_printf("%s/mountinfo", dir);
#define DIGEST(c) #c "000000000000000000000000000000000000000000000000000000000000000"
#define LAYER(c) "/cvmfs/a.b/.layers/" #c "0/" DIGEST(c)
	static const char text[] = "1 2 0:1 / /x rw shared:1 - overlay overlay rw,lowerdir=" LAYER(1) "/layerfs:" LAYER(
		2) "/layerfs,upperdir=/u\n"
		   "1 2 0:1 / /x rw - overlay overlay rw,lowerdir+=/with\\040blank" LAYER(
			   3) ",lowerdir+=/none,workdir=/w\n"
			      "1 2 0:1 /.layers/40/" DIGEST(
				      4) "/layerfs/usr /y rw - fuse cvmfs2 rw\n"
					 "1 2 0:1 / /x rw - ext4 /dev/x rw,lowerdir=" LAYER(
						 5) "\n"
						    "1 2 0:1 / /x rw - overlay overlay "
						    "rw,lowerdir=/.layers/60/6:/x.layers/70/" DIGEST(
							    7) "\n"
							       "nonsense\n - \n1 2 3 -  - overlay\n";
	struct lm_used_layers *l = lm_used_layers_new();
	struct lm_err err = LM_ERR_INIT;
	write_file(file, text, strlen(text));
	assert_ok(lm_used_layers_refresh(l, file, &err), &err);
	assert_int_equal(lm_used_layers_used(l), 4);
	for (char c = '1'; c <= '7'; c++) {
		char path[128];
		snprintf(path, sizeof(path), ".layers/%c0/%c%063d/layerfs/etc", c, c, 0);
		uint16_t number = lm_used_layers_number(l, lm_layer_of_path(path));
		assert_true(number > 0);
		assert_int_equal(lm_used_layers_in_use(l, number), c <= '4');
	}
	/* Over a merged tree: what is noted beside it counts, what is noted nowhere does not. */
	CLEANUP(lm_freep) char *notes = lm_str_printf("%s/layers", dir);
	CLEANUP(lm_freep)
	char *trees = lm_str_printf("1 2 0:1 / /x rw - overlay overlay rw,lowerdir=%s/tree.1-2.3::/none/.layers\n"
				    "1 2 0:1 / /y rw - overlay overlay rw,lowerdir=%s/none/tree.1-2.3::/none/.layers\n",
		dir, dir);
	static const char noted[] =
		"/cvmfs/a.b/.lamella/trees/60/" DIGEST(6) "/tree\nsha256:" DIGEST(7) "\nsha256:short\n\nnonsense\n";
	write_file(notes, noted, strlen(noted));
	write_file(file, trees, strlen(trees));
	assert_ok(lm_used_layers_refresh(l, file, &err), &err);
	assert_int_equal(lm_used_layers_used(l), 2);
	for (char c = '1'; c <= '7'; c++) {
		char path[128];
		snprintf(path, sizeof(path), "%s/%c0/%c%063d/tree", c == '6' ? ".lamella/trees" : ".layers", c, c, 0);
		uint16_t number = lm_used_layers_number(l, lm_layer_of_path(path));
		assert_true(number > 0);
		assert_int_equal(lm_used_layers_in_use(l, number), c >= '6');
	}
	write_file(file, "", 0);
	assert_ok(lm_used_layers_refresh(l, file, &err), &err);
	assert_int_equal(lm_used_layers_used(l), 0);
	assert_int_equal(lm_used_layers_refresh(l, "/nonexistent", &err), -ENOENT);
	assert_int_equal(lm_layer_of_path("/.layers/a0/short"), 0);
	lm_used_layers_free(l);
}

/* The marker says that another boot had the directory in use. */
static void end_uncleanly(const char *dir)
{
	CLEANUP(lm_freep)
	char *command = lm_str_printf(
		"sed -i 's/^boot .*/boot 00000000-0000-0000-0000-000000000000/; s/^state .*/state open/' %s/boot", dir);
	assert_int_equal(run((const char *const[]){"sh", "-c", command, NULL}), 0);
}

static void test_unclean_end(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	struct lm_cache *cache = open_cache(dir);
	struct lm_object_ref good = ref_of(1), bad = ref_of(2);
	for (unsigned n = 0; n < 5; n++)
		put(cache, n);
	CLEANUP(lm_freep) char *path = lm_cache_path(cache, &bad);
	CLEANUP(lm_freep) char *bare = lm_str_printf("%s/cache/00/00000000000000000000000000000000000000", dir);
	lm_cache_free(cache);

	cache = open_cache(dir); /* after a clean end, all is believed */
	assert_false(stats_of(cache).unclean);
	assert_true(is_there(cache, 1));
	lm_cache_free(cache);

	end_uncleanly(dir);
	int fd = open(path, O_WRONLY);
	assert_int_equal(pwrite(fd, "damaged", 7, 1000), 7);
	close(fd);
	write_file(bare, "x", 1);
	cache = open_cache(dir);
	assert_true(stats_of(cache).unclean);
	assert_false(is_there(cache, 1) || is_there(cache, 2));
	fd = lm_cache_recover(cache, &good);
	assert_true(fd >= 0);
	close(fd);
	assert_true(is_there(cache, 1));
	assert_int_equal(lm_cache_recover(cache, &bad), -ENOENT);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(stats_of(cache).damaged, 1);
	put(cache, 2); /* fetched again */
	assert_true(is_there(cache, 2));
	lm_cache_free(cache);

	cache = open_cache(dir); /* what was not used stays suspect, what was is not */
	assert_true(stats_of(cache).unclean);
	assert_true(is_there(cache, 1) && is_there(cache, 2) && !is_there(cache, 3));
	struct lm_cache_check check;
	assert_int_equal(lm_cache_check(cache, NULL, NULL, &check), 0);
	assert_int_equal(check.objects, 6);
	assert_int_equal(check.unknown, 1);
	assert_int_equal(check.damaged, 0);
	assert_false(stats_of(cache).unclean);
	assert_true(is_there(cache, 3));
	lm_cache_free(cache);
}

static bool says_clean(const char *dir)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/boot", dir);
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(256);
	assert_int_equal(lm_file_read(AT_FDCWD, path, &text, NULL), 0);
	return strstr(lm_buf_cstr(&text), "state clean") != NULL;
}

/* The directory is called clean when all was written, and only then. */
static void test_clean_end(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	struct lm_cache *cache = open_cache(dir);
	put(cache, 1);
	assert_false(says_clean(dir));
	unsigned before = atomic_load(&syncs);
	atomic_store(&sync_fails, true);
	lm_cache_free(cache);
	assert_int_equal(atomic_load(&syncs), before + 1);
	assert_false(says_clean(dir));
	atomic_store(&sync_fails, false);
	cache = open_cache(dir);
	put(cache, 2);
	lm_cache_free(cache);
	assert_true(says_clean(dir));
	cache = open_cache(dir);
	assert_false(says_clean(dir));
	assert_true(is_there(cache, 1) && is_there(cache, 2));
	before = atomic_load(&syncs);
	lm_cache_free(cache);
	assert_int_equal(atomic_load(&syncs), before); /* nothing was written */
	assert_true(says_clean(dir));
}

/* A process that dies on a machine that lives leaves nothing to be verified. */
static void test_killed_process(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	pid_t child = fork();
	if (child == 0) {
		struct lm_cache *cache = open_cache(dir);
		struct lm_cache_txn *txn;
		put(cache, 1);
		_exit(lm_cache_begin(cache, &txn, NULL) == 0 && lm_cache_write(txn, "half", 4, NULL) == 0 ? 0 : 1);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	CLEANUP(lm_cache_freep) struct lm_cache *cache = open_cache(dir);
	assert_false(stats_of(cache).unclean);
	assert_true(is_there(cache, 1));
	WAIT_FOR(cache, s.objects == 1);
}

/* The one that leads evicts what the other adds. */
static void test_two_share_a_quota(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	struct lm_cache *first = open_cache(dir);
	WAIT_FOR(first, s.leads);
	struct lm_cache *second = open_cache(dir);
	limit(first, 2 * MIB, 0);
	limit(second, 2 * MIB, 0);
	for (unsigned n = 0; n < 100; n++)
		put(second, n);
	WAIT_FOR(first, s.evicted > 0 && s.bytes <= 2 * MIB);
	assert_true(is_there(second, 99));
	assert_false(is_there(second, 0));
	lm_cache_free(first);
	for (unsigned n = 100; n < 200; n++)
		put(second, n);
	WAIT_FOR(second, s.leads && s.evicted > 0 && s.bytes <= 2 * MIB);
	lm_cache_free(second);
}

static void remove_tree(const char *dir, const char *sub)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s%s", dir, sub);
	int r;
	do /* the housekeeper may make its file anew meanwhile */
		r = lm_remove_tree(AT_FDCWD, path, NULL);
	while (r == -ENOTEMPTY);
	assert_int_equal(r, 0);
}

static void test_removed_directory(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_freep) char *cache_dir = lm_str_printf("%s/sub", dir);
	struct lm_cache *cache = open_cache(cache_dir);
	static const char *const subs[] = {"/cache", ""};
	for (unsigned i = 0; i < ARRAY_LEN(subs); i++) {
		put(cache, 1);
		remove_tree(cache_dir, subs[i]);
		assert_false(is_there(cache, 1));
		put(cache, 2);
		assert_true(is_there(cache, 2));
		CLEANUP(lm_freep) char *command = lm_str_printf("test $(find %s/cache -type f | wc -l) = 1", cache_dir);
		assert_int_equal(run((const char *const[]){"sh", "-c", command, NULL}), 0);
		assert_int_equal(stats_of(cache).state, LM_CACHE_WORKS);
		WAIT_FOR(cache, s.objects == 1 && s.leads);
	}
	lm_cache_free(cache);
	cache = open_cache(cache_dir);
	assert_false(stats_of(cache).unclean);
	assert_true(is_there(cache, 2));
	lm_cache_free(cache);
}

static void test_read_only(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	if (geteuid() != 0 || mount("tmpfs", dir, "tmpfs", 0, "size=8m") < 0) {
		printf("skipped: no tmpfs can be mounted: %s\n", strerror(errno));
		skip();
	}
	struct lm_cache *cache = open_cache(dir);
	put(cache, 1);
	lm_cache_free(cache);
	assert_int_equal(mount("tmpfs", dir, "tmpfs", MS_REMOUNT | MS_RDONLY, "size=8m"), 0);
	cache = open_cache(dir);
	assert_true(is_there(cache, 1));
	put(cache, 2);
	assert_true(is_there(cache, 2)); /* in memory */
	struct lm_object_ref catalog = ref_of(3);
	catalog.kind = LM_OBJECT_CATALOG;
	assert_int_equal(try_put(cache, &catalog, 3), 0);
	CLEANUP(lm_freep) char *path = lm_cache_path(cache, &catalog);
	assert_int_equal(access(path, R_OK), 0);
	assert_int_equal(stats_of(cache).state, LM_CACHE_READ_ONLY);
	assert_int_equal(stats_of(cache).uncached, 2);
	assert_int_equal(mount("tmpfs", dir, "tmpfs", MS_REMOUNT, "size=8m"), 0);
	put(cache, 10);
	assert_int_equal(stats_of(cache).state, LM_CACHE_READ_ONLY); /* not tried again at once */
	int64_t retry_ms = atomic_load(&cache->retry_ms);
	assert_true(retry_ms > lm_now_ms() && retry_ms <= lm_now_ms() + LM_CACHE_RETRY_MS);
	atomic_store(&cache->retry_ms, lm_now_ms()); /* the pause is over */
	put(cache, 11);
	assert_int_equal(stats_of(cache).state, LM_CACHE_WORKS);
	assert_true(is_there(cache, 1) && is_there(cache, 2));
	lm_cache_free(cache);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(umount(dir), 0);
}

/* An object that can't be read has to go, even where nothing can be deleted: a copy in memory takes its place. */
static void test_drop(void **state)
{
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	if (geteuid() != 0 || mount("tmpfs", dir, "tmpfs", 0, "size=8m") < 0) {
		printf("skipped: no tmpfs can be mounted: %s\n", strerror(errno));
		skip();
	}
	struct lm_cache *cache = open_cache(dir);
	struct lm_object_ref ref = ref_of(1);
	put(cache, 1);
	lm_cache_drop(cache, &ref);
	assert_false(is_there(cache, 1));
	put(cache, 1);
	assert_true(is_there(cache, 1));
	lm_cache_free(cache);
	assert_int_equal(mount("tmpfs", dir, "tmpfs", MS_REMOUNT | MS_RDONLY, "size=8m"), 0);
	cache = open_cache(dir);
	assert_true(is_there(cache, 1));
	lm_cache_drop(cache, &ref);
	assert_false(is_there(cache, 1));
	put(cache, 1);
	assert_true(is_there(cache, 1));
	assert_int_equal(stats_of(cache).uncached, 1);
	lm_cache_free(cache);
	assert_int_equal(umount(dir), 0);
}

/* Pages of the object's file in memory; it is on the disk before, so that nothing but us decides. */
static size_t resident(struct lm_cache *cache, const struct lm_object_ref *ref)
{
	CLEANUP(lm_freep) char *path = lm_cache_path(cache, ref);
	unsigned char pages[SIZE / 4096];
	size_t count = 0;
	CLEANUP(lm_closep) int fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(sync_file_range(fd, 0, 0,
				 SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER),
		0);
	void *map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(map != MAP_FAILED);
	assert_int_equal(mincore(map, SIZE, pages), 0);
	munmap(map, SIZE);
	for (size_t i = 0; i < ARRAY_LEN(pages); i++)
		count += pages[i] & 1;
	return count;
}

/* Of what was fetched, the pages go when their time has come; a catalog's stay. */
static void test_pages(void **state)
{
	enum { COUNT = 20, PAGES = SIZE / 4096 };
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	CLEANUP(lm_cache_freep) struct lm_cache *cache = open_cache(dir);
	struct statfs fs;
	if (statfs(dir, &fs) < 0 || fs.f_type == TMPFS_MAGIC) {
		printf("skipped: the pages of a file system in memory can't be dropped\n");
		skip();
	}
	struct lm_object_ref catalog = ref_of(COUNT), refs[COUNT];
	catalog.kind = LM_OBJECT_CATALOG;
	assert_int_equal(cache_pages_wait_ms(cache), -1); /* nothing to do: nobody wakes up */
	assert_int_equal(try_put(cache, &catalog, COUNT), 0);
	assert_int_equal(cache_pages_wait_ms(cache), -1);
	for (unsigned n = 0; n < COUNT; n++) {
		refs[n] = ref_of(n);
		put(cache, n);
		assert_int_equal(resident(cache, &refs[n]), PAGES); /* which has it written */
	}
	assert_int_equal(resident(cache, &catalog), PAGES);
	int wait_ms = cache_pages_wait_ms(cache);
	assert_true(wait_ms > 0 && wait_ms <= CACHE_SETTLE_MS + 5000);
	atomic_store(&cache->settle_ms, 0);
	cache_wake(cache);
	for (unsigned n = 0; n < COUNT; n++)
		while (resident(cache, &refs[n]) > 0)
			(void)poll(NULL, 0, 1);
	assert_int_equal(resident(cache, &catalog), PAGES);
	assert_int_equal(cache_pages_wait_ms(cache), -1);
	for (unsigned n = 0; n < COUNT; n++)
		assert_true(is_there(cache, n));
}

/* --- many threads --- */

struct stress {
	struct lm_cache *cache;
	unsigned seed;
};

static void *stress(void *arg)
{
	struct stress *s = arg;
	int64_t end = lm_now_ms() + 1500;
	uint8_t content[SIZE], expected[SIZE];
	while (lm_now_ms() < end) {
		unsigned n = (unsigned)rand_r(&s->seed) % 60;
		struct lm_object_ref ref = ref_of(n);
		ref.layer = (uint16_t)(n % 3);
		bool pinned = n % 7 == 0 && lm_cache_pin(s->cache, &ref, NULL) == 0;
		int fd = lm_cache_open(s->cache, &ref);
		if (fd >= 0) {
			fill(expected, n);
			assert_int_equal(pread(fd, content, SIZE, 0), SIZE);
			assert_memory_equal(content, expected, SIZE);
			close(fd);
		} else {
			assert_int_equal(fd, -ENOENT);
			assert_int_equal(try_put(s->cache, &ref, n), 0);
		}
		if (n % 11 == 0)
			(void)stats_of(s->cache);
		if (n == 5)
			lm_cache_drop(s->cache, &ref);
		if (pinned)
			lm_cache_unpin(s->cache, &ref);
	}
	return NULL;
}

static void test_stress(void **state)
{
	enum { THREADS = 4 };
	CLEANUP(temp_dir_remove) char *dir = temp_dir();
	struct lm_cache *caches[2] = {open_cache(dir), open_cache(dir)};
	struct stress parts[THREADS];
	pthread_t threads[THREADS];
	limit(caches[0], MIB, 1);
	limit(caches[1], MIB, 1);
	for (unsigned i = 0; i < THREADS; i++) {
		parts[i] = (struct stress){.cache = caches[i % 2], .seed = i};
		assert_int_equal(pthread_create(&threads[i], NULL, stress, &parts[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < 2; i++) {
		WAIT_FOR(caches[i], s.running == 0);
		lm_cache_free(caches[i]);
	}
	struct lm_cache *cache = open_cache(dir);
	struct lm_cache_check check;
	assert_int_equal(lm_cache_check(cache, NULL, NULL, &check), 0);
	assert_int_equal(check.damaged + check.unknown, 0);
	lm_cache_free(cache);
}

/* --- the index against a simple one --- */

static bool never(void *arg, uint16_t layer)
{
	return false;
}

static void test_index(void **state)
{
	enum { KEYS = 4000 };
	struct {
		bool there;
		struct lm_index_item item;
	} *model = calloc(KEYS, sizeof(*model));
	CLEANUP(lm_index_freep) struct lm_index *index = lm_index_new(KEYS);
	unsigned seed = 1;
	for (unsigned i = 0; i < 200000; i++) {
		unsigned n = (unsigned)rand_r(&seed) % KEYS;
		struct lm_hash hash = ref_of(n).hash;
		hash.bytes[0] = (uint8_t)(n % 3); /* crowded */
		struct lm_index_key key = lm_index_key(&hash, LM_OBJECT_FILE);
		struct lm_index_item item = {0};
		switch (rand_r(&seed) % 4) {
		case 0:
		case 1:
			model[n].there = true;
			model[n].item = (struct lm_index_item){
				.used_ms = i, .blocks = n, .layer = (uint16_t)(n % 100), .flags = LM_INDEX_KNOWN};
			lm_index_put(index, key, &model[n].item);
			break;
		case 2:
			assert_int_equal(lm_index_remove(index, key, UINT64_MAX), model[n].there);
			model[n].there = false;
			break;
		default:
			assert_int_equal(lm_index_use(index, key, i, 5, never, NULL, &item), model[n].there);
			model[n].item.used_ms = i;
			model[n].item.layer = 5;
		}
		assert_int_equal(lm_index_get(index, key, &item), model[n].there);
		if (model[n].there)
			assert_memory_equal(&item, &model[n].item, sizeof(item));
	}
	struct lm_index_sums sums = lm_index_sums(index), expected = {0};
	for (unsigned n = 0; n < KEYS; n++) {
		expected.objects += model[n].there;
		expected.blocks += model[n].there ? model[n].item.blocks : 0;
	}
	assert_int_equal(sums.objects, expected.objects);
	assert_int_equal(sums.blocks, expected.blocks);
	for (unsigned folder = 0; folder < 3; folder++)
		lm_index_prune(index, (uint8_t)folder, LM_INDEX_SEEN); /* none has that */
	assert_int_equal(lm_index_sums(index).objects, 0);
	assert_int_equal(lm_index_sums(index).blocks, 0);
	free(model);
}

static void test_index_memory(void **state)
{
	enum { COUNT = 1000000 };
	CLEANUP(lm_index_freep) struct lm_index *index = lm_index_new(COUNT);
	struct lm_hash hash = {.set = true};
	const struct lm_index_item item = {.blocks = 1};
	uint64_t x = 1;
	for (unsigned n = 0; n < COUNT + 10; n++) {
		for (unsigned i = 0; i < 16; i += 8) {
			x = x * 6364136223846793005U + 1442695040888963407U;
			uint64_t mixed = x ^ x >> 29;
			memcpy(hash.bytes + i, &mixed, sizeof(mixed));
		}
		lm_index_put(index, lm_index_key(&hash, LM_OBJECT_FILE), &item);
	}
	assert_int_equal(lm_index_sums(index).objects, COUNT); /* no more than that */
	printf("%.1f bytes an object\n", (double)lm_index_memory(index) / COUNT);
	assert_true(lm_index_memory(index) <= 30 * COUNT);
}

int main(void)
{
	/* Mounts are this process's alone: what others have mounted is in use, too, and nothing is left behind. */
	if (geteuid() == 0 && (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0))
		fprintf(stderr, "mounts of other tests are seen: %s\n", strerror(errno));
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_index),
		cmocka_unit_test(test_index_memory),
		cmocka_unit_test(test_order_and_hysteresis),
		cmocka_unit_test(test_open_files_stay),
		cmocka_unit_test(test_pins),
		cmocka_unit_test(test_clear),
		cmocka_unit_test(test_reserve),
		cmocka_unit_test(test_thrash),
		cmocka_unit_test(test_mountinfo),
		cmocka_unit_test(test_layers_in_use),
		cmocka_unit_test(test_unclean_end),
		cmocka_unit_test(test_clean_end),
		cmocka_unit_test(test_killed_process),
		cmocka_unit_test(test_two_share_a_quota),
		cmocka_unit_test(test_removed_directory),
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_drop),
		cmocka_unit_test(test_pages),
		cmocka_unit_test(test_stress),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
