/* The tag database: real ones, of every schema revision, damaged ones; what writers leave behind. */
#include "repo/history.h"

#include "repo/db.h"
#include "repo/object_store.h"
#include "repo_test.h"

#include <inttypes.h>

#define FQRN "test.example.org"

static char *dir;

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

/* A new name in the test's directory. Valid until the fourth call after. */
static const char *new_path(void)
{
	static char paths[4][256];
	static unsigned count;
	char *path = paths[count % 4];
	snprintf(path, sizeof(paths[0]), "%s/h%u.db", dir, count++);
	return path;
}

static struct lm_hash hash_of(unsigned number)
{
	struct lm_hash hash;
	assert_int_equal(lm_hash_data(LM_HASH_SHA1, &number, sizeof(number), &hash, NULL), 0);
	return hash;
}

static const struct lm_hash none;

static struct lm_history_root root_of(unsigned revision)
{
	return (struct lm_history_root){hash_of(revision), revision, 1000 + 10 * (int64_t)revision, 4096 * revision};
}

static struct lm_tag tag_of(const char *name, unsigned revision)
{
	struct lm_history_root root = root_of(revision);
	return (struct lm_tag){.name = name,
		.description = "one of ours",
		.hash = root.hash,
		.revision = root.revision,
		.time_s = root.modified_s,
		.size = root.size};
}

static void assert_root(const struct lm_history_root *found, unsigned revision)
{
	struct lm_history_root root = root_of(revision);
	assert_true(lm_hash_equal(&found->hash, &root.hash));
	assert_int_equal(found->revision, root.revision);
	assert_int_equal(found->modified_s, root.modified_s);
	assert_int_equal(found->size, root.size);
}

/* SQL into a database, past the reader. */
static void sql(const char *path, const char *text)
{
	sqlite3 *db;
	char *why = NULL;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	if (sqlite3_exec(db, text, NULL, NULL, &why) != SQLITE_OK)
		fail_msg("%s: %s", text, why);
	sqlite3_close(db);
}

static const char *make(const char *text)
{
	const char *path = new_path();
	sql(path, text);
	return path;
}

static int64_t number(const char *path, const char *text)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_db db;
	int64_t value;
	assert_ok(lm_db_open(path, &db, &err), &err);
	assert_ok(lm_db_number(&db, text, &value, &err), &err);
	lm_db_close(&db);
	return value;
}

/* "name revision branch; ..." in the order of lm_history_each(). */
static int list_one(void *arg, const struct lm_tag *tag)
{
	return lm_buf_printf(arg, "%s %" PRIu64 ";", tag->name, tag->revision);
}

static void assert_tags(const char *path, const char *expected)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(1 << 16);
	assert_ok(lm_history_each(path, list_one, &text, &err), &err);
	assert_string_equal(lm_buf_cstr(&text), expected);
}

static const char *new_history(void)
{
	struct lm_err err = LM_ERR_INIT;
	const char *path = new_path();
	assert_ok(lm_history_create(path, FQRN, &err), &err);
	return path;
}

static void advance(const char *path, unsigned revision)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_history_root root = root_of(revision);
	assert_ok(lm_history_advance(path, &root, &none, &err), &err);
}

static void test_trunk_moves(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	const char *path = new_history();
	struct lm_history_root found;
	assert_tags(path, "");
	assert_int_equal(lm_history_create(path, FQRN, &err), -EEXIST);
	advance(path, 1);
	assert_tags(path, "trunk 1;");
	advance(path, 2);
	assert_tags(path, "trunk 2;trunk-previous 1;");
	advance(path, 3);
	assert_tags(path, "trunk 3;trunk-previous 2;");
	assert_ok(lm_history_find(path, LM_TAG_TRUNK, &found, &err), &err);
	assert_root(&found, 3);
	assert_ok(lm_history_find(path, LM_TAG_PREVIOUS, &found, &err), &err);
	assert_root(&found, 2);
	assert_ok(lm_history_check(path, FQRN, &err), &err);
	assert_int_equal(lm_history_check(path, "other.example.org", &err), -EPROTO);
	assert_int_equal(number(path, "SELECT count(*) FROM tags WHERE name = 'trunk' AND description = 'current HEAD' "
				      "AND branch = '' AND channel = 0 AND size = 12288"),
		1);
	assert_int_equal(number(path, "SELECT count(*) FROM tags WHERE description = 'default undo target'"), 1);
	assert_int_equal(number(path, "SELECT count(*) FROM properties WHERE key = 'previous_revision'"), 0);
}

static void test_set_and_remove(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	const char *path = new_history();
	struct lm_history_root found;
	struct lm_hash previous = hash_of(77);
	struct lm_tag tag = tag_of("release", 1), later = tag_of("release", 2);
	advance(path, 1);
	assert_ok(lm_history_set(path, &tag, &previous, &err), &err);
	assert_tags(path, "release 1;trunk 1;");
	CLEANUP(lm_freep)
	char *query = lm_str_printf("SELECT count(*) FROM properties WHERE key = 'previous_revision' AND value = '%s'",
		lm_hash_text(&previous).s);
	assert_int_equal(number(path, query), 1);
	advance(path, 2);
	assert_ok(lm_history_find(path, "release", &found, &err), &err);
	assert_root(&found, 1);
	assert_int_equal(lm_history_find(path, "Release", &found, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "no tag Release"));
	assert_ok(lm_history_remove(path, "release", &none, &err), &err);
	assert_tags(path, "trunk 2;trunk-previous 1;");
	assert_int_equal(lm_history_find(path, "release", &found, &err), -ENOENT);

	const char *other = new_history();
	assert_ok(lm_history_set(other, &tag, &none, &err), &err);
	assert_int_equal(lm_history_set(other, &later, &none, &err), -EEXIST);
	assert_non_null(strstr(err.msg, "there is a tag release already"));
	assert_int_equal(lm_history_remove(new_history(), "release", &none, &err), -ENOENT);
}

static void test_by_date(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	const char *path = new_history();
	struct lm_history_root found;
	for (unsigned i = 1; i <= 5; i++) {
		CLEANUP(lm_freep) char *name = lm_str_printf("t%u", i);
		struct lm_tag tag = tag_of(name, i);
		assert_ok(lm_history_set(path, &tag, &none, &err), &err);
	}
	assert_int_equal(lm_history_at(path, 1009, &found, &err), -ENOENT);
	assert_ok(lm_history_at(path, 1010, &found, &err), &err);
	assert_root(&found, 1);
	assert_ok(lm_history_at(path, 1019, &found, &err), &err);
	assert_root(&found, 1);
	assert_ok(lm_history_at(path, 1040, &found, &err), &err);
	assert_root(&found, 4);
	assert_ok(lm_history_at(path, INT64_MAX, &found, &err), &err);
	assert_root(&found, 5);
	/* Other branches have times of their own. */
	sql(path, "INSERT INTO branches VALUES ('b', '', 5); UPDATE tags SET branch = 'b' WHERE name = 't5'");
	assert_ok(lm_history_at(path, INT64_MAX, &found, &err), &err);
	assert_root(&found, 4);
	assert_ok(lm_history_find(path, "t5", &found, &err), &err);
	assert_root(&found, 5);
}

static int stop_at_second(void *arg, const struct lm_tag *tag)
{
	return ++*(int *)arg == 2 ? 42 : 0;
}

static void test_callback_stops(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	const char *path = new_history();
	int calls = 0;
	advance(path, 1);
	advance(path, 2);
	assert_int_equal(lm_history_each(path, stop_at_second, &calls, &err), 42);
	assert_int_equal(calls, 2);
}

/* As stock publishers made them over the years. */
#define PROPERTIES(revision)                                                                          \
	"CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));" \
	"INSERT INTO properties VALUES ('schema', '1.0'), ('fqrn', '" FQRN "'), ('schema_revision', " revision ");"
#define RECYCLE_BIN "CREATE TABLE recycle_bin (hash TEXT, flags INTEGER, CONSTRAINT pk_hash PRIMARY KEY (hash));"
#define TAGS(more)                                                                                       \
	"CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER," \
	" description TEXT" more ", CONSTRAINT pk_tags PRIMARY KEY (name));"
#define BRANCHES                                                                                           \
	"CREATE TABLE branches (branch TEXT, parent TEXT, initial_revision INTEGER, CONSTRAINT pk_branch " \
	"PRIMARY KEY (branch)); INSERT INTO branches VALUES ('', NULL, 0);"
#define ROW(name, revision, time, more)                                                                        \
	"INSERT INTO tags VALUES ('" name "', '21cbb04a3116b679e7b39835eeaf4f32b62ef8b0', " revision ", " time \
	", 0, ''" more ");"

static const char *const schemas[] = {
	PROPERTIES("0") TAGS("") ROW("old", "1", "1010", "") ROW("trunk", "2", "1020", ""),
	PROPERTIES("1") TAGS(", size INTEGER") ROW("old", "1", "1010", ", NULL") ROW("trunk", "2", "1020", ", 7"),
	PROPERTIES("2") TAGS(", size INTEGER") RECYCLE_BIN ROW("old", "1", "1010", ", NULL")
		ROW("trunk", "2", "1020", ", 7"),
	PROPERTIES("3") TAGS(", size INTEGER, branch TEXT") RECYCLE_BIN BRANCHES ROW("old", "1", "1010", ", NULL, ''")
		ROW("trunk", "2", "1020", ", 7, ''"),
};

static void test_old_schemas(void **state)
{
	for (unsigned i = 0; i < ARRAY_LEN(schemas); i++) {
		struct lm_err err = LM_ERR_INIT;
		struct lm_history_root found;
		const char *path = make(schemas[i]);
		struct lm_tag tag = tag_of("new", 2);
		assert_tags(path, "trunk 2;old 1;");
		assert_ok(lm_history_at(path, 1015, &found, &err), &err);
		assert_int_equal(found.revision, 1);
		assert_int_equal(found.size, 0);
		assert_ok(lm_history_find(path, "trunk", &found, &err), &err);
		assert_int_equal(found.size, i == 0 ? 0 : 7);
		assert_ok(lm_history_check(path, FQRN, &err), &err);
		assert_int_equal(number(path, "SELECT value FROM properties WHERE key = 'schema_revision'"), i);

		advance(path, 3);
		assert_ok(lm_history_set(path, &tag, &none, &err), &err);
		assert_tags(path, "trunk 3;new 2;trunk-previous 2;old 1;");
		assert_int_equal(number(path, "SELECT value FROM properties WHERE key = 'schema_revision'"), 3);
		assert_int_equal(number(path, "SELECT count(*) FROM tags WHERE branch = ''"), 4);
		assert_int_equal(
			number(path, "SELECT count(*) FROM branches WHERE branch = '' AND initial_revision = 0"), 1);
		assert_int_equal(number(path, "SELECT count(*) FROM recycle_bin"), 0);
		assert_ok(lm_history_at(path, 1015, &found, &err), &err);
		assert_int_equal(found.revision, 1);
		assert_ok(lm_history_check(path, FQRN, &err), &err);
	}
}

static void test_newer_schema(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_history_root root = root_of(3);
	const char *path = make(PROPERTIES("4") TAGS(", size INTEGER, branch TEXT, more TEXT")
			RECYCLE_BIN BRANCHES ROW("trunk", "2", "1020", ", 7, '', 'x'"));
	assert_tags(path, "trunk 2;");
	assert_int_equal(lm_history_advance(path, &root, &none, &err), -ENOTSUP);
	assert_tags(path, "trunk 2;");
}

#define RIGHT_ROW ROW("good", "1", "1010", ", 1, ''")
#define RIGHT TAGS(", size INTEGER, branch TEXT") RECYCLE_BIN BRANCHES RIGHT_ROW
#define INSERT(values) "INSERT INTO tags VALUES (" values ");"
#define HASH "'21cbb04a3116b679e7b39835eeaf4f32b62ef8b0'"

static void test_damaged(void **state)
{
	static const char *const bad[] = {
		"CREATE TABLE other (a)",
		PROPERTIES("3"),		      /* no tags */
		PROPERTIES("3") TAGS("") RECYCLE_BIN, /* too few columns */
		PROPERTIES("'x'") RIGHT,
		PROPERTIES("'-1'") RIGHT,
		PROPERTIES("3") RIGHT "UPDATE properties SET value = '2.0' WHERE key = 'schema'",
		PROPERTIES("3") RIGHT "DELETE FROM properties WHERE key = 'schema'",
		PROPERTIES("3") RIGHT "UPDATE properties SET value = 'other' WHERE key = 'fqrn'",
		PROPERTIES("3") RIGHT "DELETE FROM properties WHERE key = 'fqrn'",
		PROPERTIES("3") RIGHT INSERT("NULL, " HASH ", 2, 3, 0, '', 1, ''"),
		PROPERTIES("3") RIGHT INSERT("'', " HASH ", 2, 3, 0, '', 1, ''"),
		PROPERTIES("3") RIGHT INSERT("x'6100', " HASH ", 2, 3, 0, '', 1, ''"),
		PROPERTIES("3") RIGHT INSERT("CAST(x'610062' AS TEXT), " HASH ", 2, 3, 0, '', 1, ''"),
		PROPERTIES("3") RIGHT INSERT("'a', NULL, 2, 3, 0, '', 1, ''"),
		PROPERTIES("3") RIGHT INSERT("'a', '21cb', 2, 3, 0, '', 1, ''"),
		PROPERTIES("3") RIGHT INSERT("'a', " HASH ", NULL, 3, 0, '', 1, ''"),
		PROPERTIES("3") RIGHT INSERT("'a', " HASH ", 'x', 3, 0, '', 1, ''"),
		PROPERTIES("3") RIGHT INSERT("'a', " HASH ", 2, x'00', 0, '', 1, ''"),
		PROPERTIES("3") RIGHT INSERT("'a', " HASH ", 2, 3, 0, x'00', 1, ''"),
		PROPERTIES("3") RIGHT INSERT("'a', " HASH ", 2, 3, 0, '', -1, ''"),
		PROPERTIES("3") RIGHT INSERT("'a', " HASH ", 2, 3, 0, '', 'x', ''"),
		PROPERTIES("3") RIGHT INSERT("'a', " HASH ", 2, 3, 0, '', 1, x'00'"),
		PROPERTIES("3") RIGHT "PRAGMA journal_mode = WAL",
		PROPERTIES("3") "CREATE TABLE t (name); CREATE VIEW tags AS SELECT * FROM t",
		PROPERTIES("3") RIGHT "CREATE TRIGGER x AFTER INSERT ON tags BEGIN DELETE FROM tags; END",
		/* names that may come twice, a name that is computed */
		PROPERTIES("3") "CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel "
				"INTEGER, description TEXT, size INTEGER, branch TEXT);" RIGHT_ROW,
		PROPERTIES("3") "CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel "
				"INTEGER, description TEXT, size INTEGER, branch TEXT, PRIMARY KEY (name, "
				"hash));" RIGHT_ROW,
		PROPERTIES("3") "CREATE TABLE tags (name TEXT PRIMARY KEY, hash TEXT, revision INTEGER, timestamp "
				"INTEGER, "
				"channel INTEGER, description TEXT, size INTEGER, branch TEXT AS (hash));",
		/* a hash that may become a number */
		PROPERTIES("3") "CREATE TABLE tags (name TEXT PRIMARY KEY, hash NUMERIC, revision INTEGER, timestamp "
				"INTEGER, "
				"channel INTEGER, description TEXT, size INTEGER, branch TEXT);",
		PROPERTIES("3") "CREATE TABLE tags (name TEXT PRIMARY KEY, hash TEXT, revision, timestamp INTEGER, "
				"channel INTEGER, description TEXT, size INTEGER, branch TEXT);",
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct lm_err err = LM_ERR_INIT;
		const char *path = make(bad[i]);
		int r = lm_history_check(path, FQRN, &err);
		if (r != -EPROTO)
			fail_msg("%zu: %d (%s): %s", i, r, lm_err_text(&err), bad[i]);
		assert_true(lm_str_starts(err.msg, "history: "));
		assert_null(strstr(err.msg, "history: history"));
	}
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_history_check(new_path(), FQRN, &err), -ENOENT);
	assert_ok(lm_history_check(make(PROPERTIES("3") RIGHT), FQRN, &err), &err);
}

/* Whatever bytes are wrong: an answer, and never one that a writer then spreads. */
static void test_flipped_bytes(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf file = {0};
	const char *good = make(PROPERTIES("3") RIGHT "PRAGMA journal_mode = DELETE"), *path = new_path();
	struct lm_history_root root = root_of(9), found;
	unsigned refused = 0;
	read_whole(good, &file);
	for (size_t at = 0; at < file.len; at += at < 200 ? 1 : 61) {
		file.data[at] ^= 0xff;
		assert_ok(lm_file_replace(AT_FDCWD, path, file.data, file.len, 0600, 0, &err), &err);
		file.data[at] ^= 0xff;
		int r = lm_history_find(path, "good", &found, &err);
		assert_true(r <= 0);
		refused += lm_history_check(path, FQRN, &err) < 0;
		r = lm_history_advance(path, &root, &none, &err);
		if (r == 0)
			assert_ok(lm_history_find(path, LM_TAG_TRUNK, &found, &err), &err);
	}
	assert_true(refused > 20);
	for (size_t len = 0; len < file.len; len += 511) {
		assert_ok(lm_file_replace(AT_FDCWD, path, file.data, len, 0600, 0, &err), &err);
		assert_int_equal(lm_history_check(path, FQRN, &err), -EPROTO);
		assert_int_equal(lm_history_advance(path, &root, &none, &err), -EPROTO);
	}
}

static void test_names(void **state)
{
	char longest[LM_TAG_NAME_MAX + 2];
	memset(longest, 'a', sizeof(longest));
	longest[LM_TAG_NAME_MAX + 1] = '\0';
	assert_false(lm_tag_name_valid(longest));
	longest[LM_TAG_NAME_MAX] = '\0';
	assert_true(lm_tag_name_valid(longest));
	static const char *const good[] = {
		"a", "v1.0", "generic-2026-11-21T23:46:40Z", "...", "Gr\xc3\xb6\xc3\x9f", "a-"};
	static const char *const bad[] = {"", ".", "..", "a b", "a\tb", "a\n", " a", "a/b", "-a", "a\x7f", "\x01"};
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_true(lm_tag_name_valid(good[i]));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(lm_tag_name_valid(bad[i]));
}

static const struct {
	const char *fqrn, *history; /* object that its manifest names */
	const char *tag;	    /* one of them */
	unsigned revision;
	const char *root;
	unsigned newest;
} fixtures[] = {
	{"fixture.cern.ch", "737ce714609efef2a5e882e2f94a670648b464aa", "second-release", 2,
		"bde36c5585757daafee33ff3f246b65a7cfa2cf1", 3},
	{"options.fixture.cern.ch", "ab1888aa88ed6ddf3952beaf985227630135dff5", "two", 3,
		"0cedda40dcfe46775ce48c8b5500afb81e769cf1", 4},
	{"rmd160.fixture.cern.ch", "d235506a7fae2655d4fc06263e5b607e5789c105-rmd160", "one", 1,
		"b7ef3630898db67385b325264ebd55b3d58c49d1-rmd160", 2},
	{"shake128.fixture.cern.ch", "567859c2cf7525c63760852d1ca8527be2fb1426-shake128", "one", 1,
		"1d839d7f630e0bf737f46949efbff7775ae024b7-shake128", 2},
	{"unpacked.fixture.cern.ch", "53ab9785db8faa538f33b4422e60f2462f277686", "ducc-1795304846349784490", 11,
		"ca5e10f747e72bc370cbb7a917dada75645e5b4d", 28},
};

static void test_fixtures(void **state)
{
	if (!fixtures_present())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(fixtures); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_storage_freep) struct lm_storage *storage = NULL;
		CLEANUP(lm_freep) char *repo = lm_str_printf("%s/%s", dir, fixtures[i].fqrn);
		struct lm_hash object;
		struct lm_history_root found, by_date;
		const char *path = new_path();
		unpack_fixture(fixtures[i].fqrn, dir);
		assert_ok(lm_storage_dir_open(repo, false, &storage, &err), &err);
		assert_ok(lm_hash_parse(fixtures[i].history, strlen(fixtures[i].history), &object, &err), &err);
		assert_ok(lm_object_load_file(storage, &object, LM_OBJECT_HISTORY, 1 << 20, path, &err), &err);
		assert_ok(lm_history_check(path, fixtures[i].fqrn, &err), &err);
		assert_ok(lm_history_find(path, fixtures[i].tag, &found, &err), &err);
		assert_string_equal(lm_hash_text(&found.hash).s, fixtures[i].root);
		assert_int_equal(found.revision, fixtures[i].revision);
		assert_true(found.size > 0);
		assert_ok(lm_history_at(path, found.modified_s, &by_date, &err), &err);
		assert_true(by_date.revision >= found.revision && by_date.modified_s <= found.modified_s);
		assert_int_equal(lm_history_at(path, 1000, &by_date, &err), -ENOENT);
		assert_ok(lm_history_find(path, LM_TAG_TRUNK, &found, &err), &err);
		assert_int_equal(found.revision, fixtures[i].newest);

		advance(path, fixtures[i].newest + 1);
		assert_ok(lm_history_find(path, LM_TAG_PREVIOUS, &found, &err), &err);
		assert_int_equal(found.revision, fixtures[i].newest);
		assert_ok(lm_history_find(path, fixtures[i].tag, &found, &err), &err);
		assert_string_equal(lm_hash_text(&found.hash).s, fixtures[i].root);
		assert_ok(lm_history_check(path, fixtures[i].fqrn, &err), &err);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_trunk_moves),
		TEST(test_set_and_remove),
		TEST(test_by_date),
		TEST(test_callback_stops),
		TEST(test_old_schemas),
		TEST(test_newer_schema),
		TEST(test_damaged),
		TEST(test_flipped_bytes),
		TEST(test_names),
		TEST(test_fixtures),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
