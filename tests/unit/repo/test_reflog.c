/* The reflog: what is put in comes out, whoever made it; what is no reflog is refused. */
#include "repo/reflog.h"

#include "repo_test.h"

#include <sqlite3.h>

static char *dir;

static char *new_path(void)
{
	static unsigned count;
	return lm_str_printf("%s/reflog.%u", dir, count++);
}

static struct lm_hash some_hash(uint8_t n, enum lm_hash_algo algo)
{
	struct lm_hash hash = {.algo = algo, .set = true};
	memset(hash.bytes, n, sizeof(hash.bytes));
	return hash;
}

struct refs {
	struct lm_ref items[100];
	size_t count, stop;
};

static int collect(void *arg, const struct lm_ref *ref)
{
	struct refs *refs = arg;
	assert_true(refs->count < ARRAY_LEN(refs->items));
	refs->items[refs->count++] = *ref;
	return refs->count == refs->stop ? 7 : 0;
}

static void read_refs(const char *path, struct refs *ret)
{
	struct lm_err err = LM_ERR_INIT;
	*ret = (struct refs){0};
	assert_ok(lm_reflog_each(path, collect, ret, &err), &err);
}

static void test_round_trip(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = new_path();
	struct refs refs;
	const struct lm_ref added[] = {
		{some_hash(9, LM_HASH_SHA1), LM_REF_CATALOG, 1000},
		{some_hash(2, LM_HASH_RMD160), LM_REF_CERTIFICATE, -5},
		{some_hash(7, LM_HASH_SHAKE128), LM_REF_HISTORY, INT64_MAX},
		{some_hash(1, LM_HASH_SHA1), LM_REF_METAINFO, 0},
	};
	assert_ok(lm_reflog_create(path, "a.example.org", &err), &err);
	assert_int_equal(lm_reflog_create(path, "a.example.org", &err), -EEXIST);
	read_refs(path, &refs);
	assert_int_equal(refs.count, 0);
	assert_ok(lm_reflog_add(path, added, ARRAY_LEN(added), &err), &err);
	assert_ok(lm_reflog_add(path, added, 2, &err), &err); /* no second time */
	assert_ok(lm_reflog_add(path, NULL, 0, &err), &err);
	const struct lm_ref later = {added[0].hash, LM_REF_CATALOG, 2000};
	assert_ok(lm_reflog_add(path, &later, 1, &err), &err);
	read_refs(path, &refs);
	assert_int_equal(refs.count, ARRAY_LEN(added));
	for (size_t i = 0; i < refs.count; i++) {
		assert_true(lm_hash_equal(&refs.items[i].hash, &added[i].hash));
		assert_int_equal(refs.items[i].type, added[i].type);
		assert_true(refs.items[i].time_s == added[i].time_s);
	}
	refs = (struct refs){.stop = 2};
	assert_int_equal(lm_reflog_each(path, collect, &refs, &err), 7);
	assert_int_equal(refs.count, 2);

	const struct lm_hash removed[] = {added[1].hash, some_hash(77, LM_HASH_SHA1), added[3].hash};
	assert_ok(lm_reflog_remove(path, removed, ARRAY_LEN(removed), &err), &err);
	assert_ok(lm_reflog_remove(path, NULL, 0, &err), &err);
	read_refs(path, &refs);
	assert_int_equal(refs.count, 2);
	assert_true(lm_hash_equal(&refs.items[1].hash, &added[2].hash));
}

static void exec(const char *path, const char *sql)
{
	sqlite3 *db = NULL;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		fail_msg("%s: %s", sql, sqlite3_errmsg(db));
	sqlite3_close(db);
}

static void test_refused(void **state)
{
	static const struct {
		const char *sql;
		bool row; /* only reading the rows finds it */
	} cases[] = {
		{"DROP TABLE refs", false},
		{"DROP TABLE properties", false},
		{"UPDATE properties SET value = '2.0' WHERE key = 'schema'", false},
		{"DELETE FROM properties", false},
		{"PRAGMA journal_mode = WAL", false},
		{"ALTER TABLE refs RENAME TO other; CREATE VIEW refs AS SELECT * FROM other", false},
		{"INSERT INTO refs VALUES ('none', 0, 0)", true},
		{"INSERT INTO refs VALUES (NULL, 0, 0)", true},
		{"INSERT INTO refs VALUES ('0123456789012345678901234567890123456789', 4, 0)", true},
		{"INSERT INTO refs VALUES ('0123456789012345678901234567890123456789', -1, 0)", true},
		{"INSERT INTO refs VALUES ('0123456789012345678901234567890123456789', NULL, 0)", true},
		{"INSERT INTO refs VALUES ('0123456789012345678901234567890123456789C', 0, 0)", true},
	};
	const struct lm_ref ref = {some_hash(1, LM_HASH_SHA1), LM_REF_CATALOG, 1};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_freep) char *path = new_path();
		struct refs refs = {0};
		assert_ok(lm_reflog_create(path, "a.example.org", &err), &err);
		exec(path, cases[i].sql);
		int r = lm_reflog_each(path, collect, &refs, &err);
		if (r != -EPROTO)
			fail_msg("%s: %d", cases[i].sql, r);
		assert_true(lm_str_starts(err.msg, "reflog: "));
		assert_int_equal(lm_reflog_add(path, &ref, 1, &err), cases[i].row ? 0 : -EPROTO);
		assert_int_equal(lm_reflog_remove(path, &ref.hash, 1, &err), cases[i].row ? 0 : -EPROTO);
	}
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = new_path();
	assert_int_equal(lm_reflog_add(path, &ref, 1, &err), -ENOENT);
	assert_int_equal(lm_reflog_each(path, collect, NULL, &err), -ENOENT);
	assert_ok(lm_file_replace(AT_FDCWD, path, "", 0, 0600, 0, &err), &err);
	assert_int_equal(lm_reflog_add(path, &ref, 1, &err), -EPROTO);
	CLEANUP(lm_freep) char *nowhere = lm_str_printf("%s/no/where", dir);
	assert_int_equal(lm_reflog_create(nowhere, "a.example.org", &err), -ENOENT);
}

static void test_fixtures(void **state)
{
	static const char *const names[] = {"fixture.cern.ch", "rmd160.fixture.cern.ch", "shake128.fixture.cern.ch",
		"plain.fixture.cern.ch", "options.fixture.cern.ch", "unpacked.fixture.cern.ch"};
	if (!fixtures_present())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct lm_err err = LM_ERR_INIT;
		const struct lm_ref ref = {some_hash(1, LM_HASH_SHA1), LM_REF_CATALOG, 1};
		struct refs refs;
		unpack_fixture(names[i], dir);
		CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s/" LM_REFLOG_NAME, dir, names[i]);
		read_refs(path, &refs);
		size_t before = refs.count;
		assert_true(before >= 7);
		assert_int_equal(refs.items[0].type, LM_REF_CATALOG);
		assert_ok(lm_reflog_add(path, &ref, 1, &err), &err);
		read_refs(path, &refs);
		assert_int_equal(refs.count, before + 1);
		assert_true(lm_hash_equal(&refs.items[before].hash, &ref.hash));
	}
}

static int setup(void **state)
{
	dir = temp_dir();
	return 0;
}

static int teardown(void **state)
{
	temp_dir_remove(&dir);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_fixtures),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
