#include "tree_test.h"

#include <fcntl.h>

#include "repo/manifest.h"

static struct lm_hash hash_of(uint8_t n)
{
	return (struct lm_hash){.bytes = {n, 1, 2, 3}, .set = true};
}

static uint32_t number(struct tree_rig *rig, uint8_t hash, const char *mountpoint, size_t prefix_len)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_hash h = hash_of(hash);
	uint32_t ret = 0;
	assert_ok(lm_catalogs_number(rig->catalogs, &h, mountpoint, prefix_len, LM_VIEW_PLAIN, &ret, &err), &err);
	return ret;
}

/* How many numbers stand for something: they have no gaps. */
static size_t given_out(struct lm_catalogs *catalogs)
{
	struct lm_hash hash;
	const char *mountpoint;
	uint32_t n = 0;
	while (lm_catalogs_describe(catalogs, n + 1, &hash, &mountpoint) == 0)
		n++;
	return n;
}

static void test_numbers(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	tree_rig_open(&rig, NULL);
	assert_int_equal(number(&rig, 1, "", 0), 1);
	assert_int_equal(number(&rig, 1, "/a", 0), 2);
	assert_int_equal(number(&rig, 1, "/a", 2), 3); /* a root catalog bound at /a */
	assert_int_equal(number(&rig, 2, "", 0), 4);
	assert_int_equal(number(&rig, 1, "/a", 0), 2);
	const char *mountpoint;
	struct lm_hash hash, expected = hash_of(1);
	assert_int_equal(lm_catalogs_describe(rig.catalogs, 2, &hash, &mountpoint), 0);
	assert_string_equal(mountpoint, "/a");
	assert_true(lm_hash_equal(&hash, &expected));
	assert_int_equal(lm_catalogs_describe(rig.catalogs, 5, &hash, &mountpoint), -ESTALE);
	assert_int_equal(lm_catalogs_describe(rig.catalogs, 0, &hash, &mountpoint), -ESTALE);
}

static void test_numbers_survive(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	char mountpoint[32];
	tree_rig_open(&rig, NULL);
	for (unsigned i = 0; i < 200; i++) {
		snprintf(mountpoint, sizeof(mountpoint), "/m%u\n\xff", i);
		assert_int_equal(number(&rig, (uint8_t)i, mountpoint, i % 3), i + 1);
	}
	tree_rig_reopen(&rig, 16);
	assert_int_equal(given_out(rig.catalogs), 200);
	for (unsigned i = 200; i-- > 0;) {
		snprintf(mountpoint, sizeof(mountpoint), "/m%u\n\xff", i);
		assert_int_equal(number(&rig, (uint8_t)i, mountpoint, i % 3), i + 1);
	}
}

/* Whatever a crash or a bad disk leaves of the last records: those before them stay, and numbers go on after these. */
static void test_torn_table(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	CLEANUP(lm_buf_done) struct lm_buf whole = {0};
	tree_rig_open(&rig, NULL);
	for (uint8_t i = 0; i < 5; i++)
		number(&rig, i, "/some/where", 0);
	CLEANUP(lm_freep) char *table = lm_str_printf("%s/catalogs", rig.dir);
	read_whole(table, &whole);
	size_t record = whole.len / 5;
	for (size_t cut = 0; cut <= whole.len; cut++) {
		write_file(table, whole.data, cut);
		tree_rig_reopen(&rig, 16);
		size_t left = cut / record;
		assert_int_equal(given_out(rig.catalogs), left);
		assert_int_equal(number(&rig, 77, "/new", 0), left + 1);
		tree_rig_reopen(&rig, 16);
		assert_int_equal(given_out(rig.catalogs), left + 1);
		assert_int_equal(number(&rig, 77, "/new", 0), left + 1);
	}
	for (size_t bad = 0; bad < whole.len; bad++) {
		whole.data[bad] ^= 0x10;
		write_file(table, whole.data, whole.len);
		tree_rig_reopen(&rig, 16);
		assert_int_equal(given_out(rig.catalogs), bad / record);
		whole.data[bad] ^= 0x10;
	}
}

/* The view is part of what a number stands for. */
static void test_views(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	struct lm_hash hash = hash_of(1);
	uint32_t plain, layers, again;
	tree_rig_open(&rig, NULL);
	assert_ok(lm_catalogs_number(rig.catalogs, &hash, "/a", 0, LM_VIEW_PLAIN, &plain, &err), &err);
	assert_ok(lm_catalogs_number(rig.catalogs, &hash, "/a", 0, LM_VIEW_LAYERS, &layers, &err), &err);
	assert_int_not_equal(plain, layers);
	tree_rig_reopen(&rig, 16);
	assert_ok(lm_catalogs_number(rig.catalogs, &hash, "/a", 0, LM_VIEW_LAYERS, &again, &err), &err);
	assert_int_equal(layers, again);
}

/* Two processes with one table, the old and the new one while a mount is handed over. */
static void test_two_appenders(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	CLEANUP(lm_catalogs_freep) struct lm_catalogs *other = NULL;
	struct lm_err err = LM_ERR_INIT;
	struct lm_hash hash;
	const char *mountpoint;
	tree_rig_open(&rig, NULL);
	CLEANUP(lm_freep) char *table = lm_str_printf("%s/catalogs", rig.dir);
	assert_int_equal(number(&rig, 1, "/a", 0), 1);
	assert_ok(lm_catalogs_new(rig.cache, table, 16, &other, &err), &err);
	struct tree_rig second = {.catalogs = other};
	for (uint8_t i = 2; i < 200; i++) {
		struct tree_rig *one = i % 3 ? &rig : &second, *two = i % 3 ? &second : &rig;
		assert_int_equal(number(one, i, "/a", 0), i);
		if (i % 2) { /* a number that only the other one has given out */
			struct lm_hash expected = hash_of(i);
			assert_int_equal(lm_catalogs_describe(two->catalogs, i, &hash, &mountpoint), 0);
			assert_true(lm_hash_equal(&hash, &expected));
		}
		assert_int_equal(number(two, i, "/a", 0), i);
	}
	/* One of them dies while it appends: what is torn is cut off, the other goes on. */
	CLEANUP(lm_closep) int fd = open(table, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_int_equal(write(fd, "torn", 4), 4);
	assert_int_equal(number(&second, 200, "/a", 0), 200);
	assert_int_equal(number(&rig, 200, "/a", 0), 200);
	tree_rig_reopen(&rig, 16);
	assert_int_equal(given_out(rig.catalogs), 200);
	assert_int_equal(number(&rig, 77, "/a", 0), 77);
	/* Somebody cut the table: said, not survived by giving a number twice. */
	assert_int_equal(truncate(table, 100), 0);
	uint32_t n;
	hash = hash_of(201);
	assert_int_equal(lm_catalogs_number(rig.catalogs, &hash, "/a", 0, LM_VIEW_PLAIN, &n, &err), -EIO);
	assert_int_equal(number(&rig, 77, "/a", 0), 77);
}

struct appender {
	struct lm_catalogs *catalogs;
	uint32_t numbers[250];
};

static void *append(void *arg)
{
	struct appender *appender = arg;
	struct lm_err err = LM_ERR_INIT;
	for (size_t i = 0; i < ARRAY_LEN(appender->numbers); i++) {
		struct lm_hash hash = hash_of((uint8_t)i);
		assert_ok(lm_catalogs_number(
				  appender->catalogs, &hash, "/b", 0, LM_VIEW_PLAIN, &appender->numbers[i], &err),
			&err);
	}
	return NULL;
}

static void test_appenders_race(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct appender appenders[4];
	struct lm_catalogs *catalogs[2];
	pthread_t threads[ARRAY_LEN(appenders)];
	struct lm_err err = LM_ERR_INIT;
	tree_rig_open(&rig, NULL);
	CLEANUP(lm_freep) char *table = lm_str_printf("%s/race", rig.dir);
	for (size_t i = 0; i < ARRAY_LEN(catalogs); i++)
		assert_ok(lm_catalogs_new(rig.cache, table, 16, &catalogs[i], &err), &err);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
		appenders[i].catalogs = catalogs[i % 2];
		assert_int_equal(pthread_create(&threads[i], NULL, append, &appenders[i]), 0);
	}
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 1; i < ARRAY_LEN(threads); i++)
		assert_memory_equal(appenders[0].numbers, appenders[i].numbers, sizeof(appenders[0].numbers));
	for (size_t i = 0; i < ARRAY_LEN(catalogs); i++) {
		assert_int_equal(given_out(catalogs[i]), ARRAY_LEN(appenders[0].numbers));
		lm_catalogs_free(catalogs[i]);
	}
}

static void test_need_and_open(void **state)
{
	if (!fixtures_present())
		skip();
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest manifest;
	struct lm_open_catalog *open = NULL, *again = NULL;
	struct lm_object_ref need;
	uint32_t n;
	tree_rig_open(&rig, "fixture.cern.ch");
	read_fixture("published/fixture.cern.ch.cvmfspublished.rev3", &text);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, &manifest, &err), &err);
	assert_ok(lm_catalogs_number(rig.catalogs, &manifest.catalog, "", 0, LM_VIEW_PLAIN, &n, &err), &err);
	assert_int_equal(lm_catalogs_get(rig.catalogs, n, &open, &need, &err), LM_NEED);
	assert_true(lm_hash_equal(&need.hash, &manifest.catalog));
	assert_int_equal(need.kind, LM_OBJECT_CATALOG);
	provide(&rig, &need);
	assert_ok(lm_catalogs_get(rig.catalogs, n, &open, &need, &err), &err);
	assert_int_equal(lm_catalog_revision(open->catalog), 3);
	assert_ok(lm_catalogs_get(rig.catalogs, n, &again, &need, &err), &err);
	assert_ptr_equal(open, again);
	lm_catalogs_put(rig.catalogs, open);
	lm_catalogs_put(rig.catalogs, again);
	lm_catalogs_put(rig.catalogs, NULL);
	assert_int_equal(lm_catalogs_get(rig.catalogs, n + 1, &open, &need, &err), -ESTALE);

	/* The same database where it does not belong: its own root_prefix says otherwise. */
	assert_ok(lm_catalogs_number(rig.catalogs, &manifest.catalog, "/elsewhere", 0, LM_VIEW_PLAIN, &n, &err), &err);
	assert_int_equal(lm_catalogs_get(rig.catalogs, n, &open, &need, &err), -EPROTO);
	/* As a bind mountpoint it does. */
	assert_ok(lm_catalogs_number(rig.catalogs, &manifest.catalog, "/elsewhere", 10, LM_VIEW_PLAIN, &n, &err), &err);
	assert_ok(lm_catalogs_get(rig.catalogs, n, &open, &need, &err), &err);
	lm_catalogs_put(rig.catalogs, open);
}

/* A catalog that is no database is an error each time, not a crash and not a need. */
static void test_no_catalog(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	struct lm_open_catalog *open;
	struct lm_object_ref need;
	tree_rig_open(&rig, NULL);
	uint32_t n = number(&rig, 9, "", 0);
	assert_int_equal(lm_catalogs_get(rig.catalogs, n, &open, &need, &err), LM_NEED);
	CLEANUP(lm_cache_txn_freep) struct lm_cache_txn *txn = NULL;
	assert_ok(lm_cache_begin(rig.cache, &txn, &err), &err);
	assert_ok(lm_cache_write(txn, "this is no database", 19, &err), &err);
	assert_ok(lm_cache_commit(txn, &need, &err), &err);
	assert_int_equal(lm_catalogs_get(rig.catalogs, n, &open, &need, &err), -EPROTO);
	assert_int_equal(lm_catalogs_get(rig.catalogs, n, &open, &need, &err), -EPROTO);
}

/* Threads that open the same few catalogs while only one may stay open. */
struct user {
	struct tree_rig *rig;
	uint32_t numbers[3];
};

static void *use_catalogs(void *arg)
{
	struct user *user = arg;
	struct lm_open_catalog *open;
	struct lm_object_ref need;
	struct lm_err err = LM_ERR_INIT;
	for (unsigned i = 0; i < 300; i++) {
		assert_ok(lm_catalogs_get(user->rig->catalogs, user->numbers[i % 3], &open, &need, &err), &err);
		CLEANUP(lm_row_done) struct lm_row row = {0};
		assert_ok(lm_catalog_row(open->catalog, 1, &row, &err), &err);
		lm_catalogs_put(user->rig->catalogs, open);
	}
	return NULL;
}

static void test_few_stay_open(void **state)
{
	if (!fixtures_present())
		skip();
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_err err = LM_ERR_INIT;
	struct user user = {.rig = &rig};
	tree_rig_open(&rig, "fixture.cern.ch");
	tree_rig_reopen(&rig, 1);
	for (int i = 0; i < 3; i++) {
		CLEANUP(lm_buf_done) struct lm_buf text = {0};
		CLEANUP(lm_freep) char *name = lm_str_printf("published/fixture.cern.ch.cvmfspublished.rev%d", i + 1);
		struct lm_manifest manifest;
		read_fixture(name, &text);
		assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, &manifest, &err), &err);
		assert_ok(lm_catalogs_number(
				  rig.catalogs, &manifest.catalog, "", 0, LM_VIEW_PLAIN, &user.numbers[i], &err),
			&err);
		struct lm_object_ref ref = {
			.hash = manifest.catalog, .kind = LM_OBJECT_CATALOG, .size = LM_SIZE_UNKNOWN};
		provide(&rig, &ref);
	}
	pthread_t threads[4];
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, use_catalogs, &user), 0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_numbers_survive),
		cmocka_unit_test(test_torn_table),
		cmocka_unit_test(test_views),
		cmocka_unit_test(test_two_appenders),
		cmocka_unit_test(test_appenders_race),
		cmocka_unit_test(test_need_and_open),
		cmocka_unit_test(test_no_catalog),
		cmocka_unit_test(test_few_stay_open),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
