/* Rows of every kind put into a repository, and nested catalogs made of directories and folded back. */
#include "repo_publish.h"

#include <sys/sysmacros.h>

static void put_row(struct lm_txn *txn, const char *path, const struct lm_row *row)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_txn_put(txn, path, row, NULL, 0, &err), &err);
}

static void lookup(struct lm_txn *txn, const char *path, struct lm_row *ret)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_txn_lookup(txn, path, ret, &err), &err);
}

static void store(struct lm_txn *txn, enum lm_object_kind kind, const char *content, struct lm_hash *ret)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_object_store(txn->storage, txn->packer, kind, content, strlen(content), ret, &err), &err);
}

static struct lm_row file_row(struct lm_txn *txn, const char *content)
{
	struct lm_row row = {.mode = S_IFREG | 0640, .uid = 7, .gid = 8, .mtime_s = -5, .mtime_ns = 6};
	row.size = strlen(content);
	store(txn, LM_OBJECT_FILE, content, &row.hash);
	return row;
}

static uint8_t xattr[] = "\x01\x01\x06\x01user.xv";
enum { XATTR_LEN = 11 };

static void put_one_of_each(struct lm_txn *txn, const char *dir)
{
	struct lm_err err = LM_ERR_INIT;
	const struct lm_row file = file_row(txn, "content");
	const struct lm_row rows[] = {
		file,
		{.mode = S_IFLNK | 0777, .symlink = (char *)"$(VAR)/target", .uid = 1},
		{.mode = S_IFIFO | 0600, .gid = UINT32_MAX},
		{.mode = S_IFSOCK | 0700},
		{.mode = S_IFCHR, .rdev = 0},
		{.mode = S_IFBLK | 0660, .rdev = makedev(300, 70000)},
		{.mode = S_IFDIR | 01777, .size = 4096, .xattr = xattr, .xattr_len = XATTR_LEN},
		{.mode = S_IFREG | 04755, .flags = LM_ROW_HIDDEN, .hash = file.hash, .size = 7},
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		CLEANUP(lm_freep) char *path = lm_str_printf("%s/%zu", dir, i);
		put_row(txn, path, &rows[i]);
	}
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/chunked", dir);
	struct lm_row chunked = file_row(txn, "onetwo");
	struct lm_chunk chunks[2] = {{.offset = 0, .size = 3}, {.offset = 3, .size = 3}};
	store(txn, LM_OBJECT_CHUNK, "one", &chunks[0].hash);
	store(txn, LM_OBJECT_CHUNK, "two", &chunks[1].hash);
	assert_ok(lm_txn_put(txn, path, &chunked, chunks, 2, &err), &err);
}

static void test_rows(void **state)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_row_done) struct lm_row row = {0};
	CLEANUP(lm_buf_done) struct lm_buf listing = LM_BUF(1 << 16);
	struct lm_manifest manifest, same;
	create(&place, &manifest);
	begin(&place, &txn);
	mkdirs(txn, "/d", false);
	mkdirs(txn, "/n", true);
	put_one_of_each(txn, "/d");
	put_one_of_each(txn, "/n");
	commit(&txn, &manifest);
	check(&place, &manifest, &listing);
	assert_non_null(strstr(lm_buf_cstr(&listing), "\nf 0640 7 8 7 -5.000000006 1 "));
	assert_non_null(strstr(lm_buf_cstr(&listing), "b 0660 0 0 0 0.000000000 1 - 300:70000 "));

	/* The same again is no change; anything else is one. */
	begin(&place, &txn);
	put_one_of_each(txn, "/d");
	put_one_of_each(txn, "/n");
	commit(&txn, &same);
	assert_true(lm_hash_equal(&manifest.catalog, &same.catalog));
	begin(&place, &txn);
	row = file_row(txn, "content");
	row.mtime_ns++;
	put_row(txn, "/d/0", &row);
	put_row(txn, "/d/1", &row); /* a file where a link was, and where a device was */
	put_row(txn, "/d/5", &row);
	put_row(txn, "/d/chunked", &row);
	commit(&txn, &same);
	assert_int_equal(same.revision, manifest.revision + 1);
	check(&place, &same, NULL);
}

/* Attributes of directories, also of those that begin catalogs. */
static void test_directories(void **state)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	static const char *const dirs[] = {"", "/d", "/n", "/n/n", "/late"};
	struct lm_manifest manifest, same;
	create(&place, &manifest);
	begin(&place, &txn);
	mkdirs(txn, "/d", false);
	mkdirs(txn, "/n", true);
	mkdirs(txn, "/n/n", true);
	put(txn, "/n/n/file", "text");
	commit(&txn, &manifest);
	for (unsigned round = 0; round < 2; round++) {
		begin(&place, &txn);
		mkdirs(txn, "/late", true); /* new in the first round */
		for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
			struct lm_row row = {.mode = S_IFDIR | 0711,
				.uid = 10,
				.size = 100 + i,
				.mtime_s = 5,
				.xattr = xattr,
				.xattr_len = XATTR_LEN};
			put_row(txn, dirs[i], &row);
		}
		commit(&txn, &same);
	}
	assert_int_equal(same.revision, manifest.revision + 1);
	check(&place, &same, NULL);
	begin(&place, &txn);
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
		CLEANUP(lm_row_done) struct lm_row row = {0};
		lookup(txn, dirs[i], &row);
		assert_int_equal(row.mode, S_IFDIR | 0711);
		assert_int_equal(row.size, 100 + i);
		assert_int_equal(row.xattr_len, XATTR_LEN);
	}
	CLEANUP(lm_row_done) struct lm_row kept = {0};
	lookup(txn, "/n/n/file", &kept);
}

static void test_refused(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	struct lm_manifest manifest;
	create(&place, &manifest);
	begin(&place, &txn);
	mkdirs(txn, "/d", false);
	mkdirs(txn, "/n", true);
	struct lm_row file = file_row(txn, "text"), odd = file, bare = file;
	put_row(txn, "/f", &file);
	odd.mode = 0644;
	bare.hash = (struct lm_hash){0};
	const struct lm_chunk hole = {.offset = 1, .size = 3, .hash = file.hash};
	const struct lm_row dir = {.mode = S_IFDIR | 0755};
	uint32_t group;
	assert_int_equal(lm_txn_put(txn, "", &file, NULL, 0, &err), -EISDIR);
	assert_int_equal(lm_txn_put(txn, "/d", &file, NULL, 0, &err), -EISDIR);
	assert_int_equal(lm_txn_put(txn, "/n", &file, NULL, 0, &err), -EISDIR);
	assert_int_equal(lm_txn_put(txn, "/none/f", &file, NULL, 0, &err), -ENOENT);
	assert_int_equal(lm_txn_put(txn, "/f/f", &file, NULL, 0, &err), -ENOTDIR);
	assert_int_equal(lm_txn_put(txn, "/d/", &file, NULL, 0, &err), -EINVAL);
	assert_int_equal(lm_txn_put(txn, "/n/.cvmfscatalog", &file, NULL, 0, &err), -EINVAL);
	assert_int_equal(lm_txn_put(txn, "/d/f", &odd, NULL, 0, &err), -EINVAL);
	assert_int_equal(lm_txn_put(txn, "/d/f", &bare, NULL, 0, &err), -EINVAL);
	assert_int_equal(lm_txn_put(txn, "/d/f", &file, &hole, 1, &err), -EINVAL);
	assert_int_equal(lm_txn_put(txn, "/d", &dir, &hole, 1, &err), -EINVAL);
	assert_int_equal(lm_txn_new_group(txn, "no", &group, &err), -EINVAL);
	assert_int_equal(lm_txn_mkdirs(txn, "/f", true, &err), -ENOTDIR);
	put_row(txn, "/f", &dir); /* a directory where a file was */
	put(txn, "/f/f", "text");
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);

	begin(&place, &txn);
	assert_ok(lm_txn_commit(txn, NULL, &err), &err);
	lm_txn_freep(&txn);
}

/*
 * Hard links
 */

static void put_group(struct lm_txn *txn, const char *content, const char *const *paths, size_t count)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_row row = file_row(txn, content);
	assert_ok(lm_txn_new_group(txn, paths[0], &row.link_group, &err), &err);
	for (size_t i = 0; i < count; i++)
		put_row(txn, paths[i], &row);
}

/* Of what the catalog of path says: the group's members in it and the stored count. */
static void assert_links(struct place *place, const char *path, uint32_t members, uint32_t count)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_node *owner;
	uint64_t first;
	uint32_t found = 1;
	begin(place, &txn);
	assert_ok(lm_txn_find(txn, path, &owner, &row, &err), &err);
	if (row.link_group)
		assert_ok(lm_catalog_group(owner->reader, row.link_group, &first, &found, &err), &err);
	if (found != members || row.link_count != count)
		fail_msg("%s: %u members, count %u", path, found, row.link_count);
}

static void test_links(void **state)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	static const char *const near[] = {"/d/a", "/d/b", "/d/c"}, *const far[] = {"/d/x", "/e/y", "/e/z"};
	struct lm_manifest manifest;
	create(&place, &manifest);
	begin(&place, &txn);
	mkdirs(txn, "/d", false);
	mkdirs(txn, "/e", false);
	put_group(txn, "near", near, 3);
	put_group(txn, "far", far, 3);
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
	assert_links(&place, "/d/b", 3, 3);
	assert_links(&place, "/d/x", 3, 1);
	assert_links(&place, "/e/z", 3, 1);

	/* Split at /e: the far group has one member here and two there, now in one directory. */
	begin(&place, &txn);
	mkdirs(txn, "/e", true);
	put_group(txn, "another", (const char *const[]){"/e/1", "/e/2"}, 2);
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
	assert_links(&place, "/d/x", 1, 1);
	assert_links(&place, "/e/z", 2, 2);
	assert_links(&place, "/e/1", 2, 2);
	assert_links(&place, "/d/a", 3, 3);

	/* Folded back: the numbers do not clash. */
	begin(&place, &txn);
	take_away(txn, "/e/.cvmfscatalog");
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
	assert_links(&place, "/d/b", 3, 3);
	assert_links(&place, "/e/y", 2, 2);
	assert_links(&place, "/e/2", 2, 2);

	/* One goes, one is changed, one joins. */
	begin(&place, &txn);
	CLEANUP(lm_row_done) struct lm_row row = {0};
	lookup(txn, "/e/1", &row);
	put_row(txn, "/d/joined", &row);
	take_away(txn, "/d/c");
	put(txn, "/e/y", "changed");
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
	assert_links(&place, "/d/b", 2, 2);
	assert_links(&place, "/e/z", 1, 1);
	assert_links(&place, "/d/joined", 3, 1);

	/* A member that differs undoes the group. */
	begin(&place, &txn);
	lm_row_done(&row);
	lookup(txn, "/d/a", &row);
	row.uid++;
	put_row(txn, "/d/a", &row);
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
	assert_links(&place, "/d/a", 1, 1);
	assert_links(&place, "/d/b", 1, 1);
}

/*
 * Nested catalogs anywhere
 */

static void assert_mountpoint(struct place *place, const char *path, bool expected)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_row_done) struct lm_row row = {0};
	begin(place, &txn);
	assert_ok(lm_txn_lookup(txn, path, &row, &err), &err);
	assert_int_equal(!!(row.flags & LM_ROW_MOUNTPOINT), expected);
}

static void test_split(void **state)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_buf_done) struct lm_buf before = LM_BUF(1 << 20);
	CLEANUP(lm_buf_done) struct lm_buf after = LM_BUF(1 << 20);
	struct lm_manifest manifest;
	create(&place, &manifest);
	begin(&place, &txn);
	mkdirs(txn, "/a/b/c/d", false);
	mkdirs(txn, "/a/b/n", true);
	mkdirs(txn, "/a/b/n/more", true);
	mkdirs(txn, "/a/b-beside", true);
	put_one_of_each(txn, "/a/b");
	put_one_of_each(txn, "/a/b/c/d");
	put_one_of_each(txn, "/a/b/n/more");
	commit(&txn, &manifest);
	check(&place, &manifest, &before);

	/* Above nested ones, beside one whose name begins alike, and changed in the same transaction. */
	begin(&place, &txn);
	mkdirs(txn, "/a/b", true);
	put(txn, "/a/b/c/new", "text");
	put(txn, "/a/b/n/more/new", "text");
	mkdirs(txn, "/a", true);
	take_away(txn, "/a/b/c/new");
	take_away(txn, "/a/b/n/more/new");
	commit(&txn, &manifest);
	check(&place, &manifest, &after);
	assert_mountpoint(&place, "/a", true);
	assert_mountpoint(&place, "/a/b", true);
	assert_mountpoint(&place, "/a/b/n", true);
	drop_markers(&before);
	drop_markers(&after);
	assert_listing(lm_buf_cstr(&before), lm_buf_cstr(&after));

	/* And back, in another order; what hung below hangs on. */
	begin(&place, &txn);
	take_away(txn, "/a/.cvmfscatalog");
	take_away(txn, "/a/b/n/.cvmfscatalog");
	take_away(txn, "/a/b/.cvmfscatalog");
	take_away(txn, "/a/b/.cvmfscatalog"); /* gone already */
	commit(&txn, &manifest);
	lm_buf_clear(&after);
	check(&place, &manifest, &after);
	assert_mountpoint(&place, "/a", false);
	assert_mountpoint(&place, "/a/b", false);
	assert_mountpoint(&place, "/a/b/n", false);
	assert_mountpoint(&place, "/a/b/n/more", true);
	drop_markers(&after);
	assert_listing(lm_buf_cstr(&before), lm_buf_cstr(&after));
}

/* A catalog made and folded within one transaction, and one that was grafted. */
static void test_fold_new(void **state)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	struct lm_manifest manifest;
	create(&place, &manifest);
	begin(&place, &txn);
	mkdirs(txn, "/n", true);
	mkdirs(txn, "/n/m", true);
	put(txn, "/n/f", "text");
	put(txn, "/n/m/f", "text");
	take_away(txn, "/n/.cvmfscatalog");
	put(txn, "/n/g", "text");
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
	assert_mountpoint(&place, "/n", false);
	assert_mountpoint(&place, "/n/m", true);
}

/* Row ids stay dense and a file that lost most of its rows becomes small. */
static void test_size(void **state)
{
	enum { FILES = 3000 };
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	struct lm_manifest manifest, small;
	create(&place, &manifest);
	begin(&place, &txn);
	mkdirs(txn, "/d", false);
	struct lm_row row = file_row(txn, "text");
	for (unsigned i = 0; i < FILES; i++) {
		char path[32];
		snprintf(path, sizeof(path), "/d/%u", i);
		put_row(txn, path, &row);
	}
	put(txn, "/last", "text");
	commit(&txn, &manifest);
	assert_true(manifest.catalog_size > FILES * 100);
	begin(&place, &txn);
	for (unsigned i = 0; i < FILES; i += 2) {
		char path[32];
		snprintf(path, sizeof(path), "/d/%u", i);
		take_away(txn, path);
	}
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
	CLEANUP(lm_row_done) struct lm_row last = {0};
	begin(&place, &txn);
	lookup(txn, "/last", &last);
	assert_true(last.rowid <= FILES / 2 + 3);
	take_away(txn, "/d");
	commit(&txn, &small);
	check(&place, &small, NULL);
	assert_true(small.catalog_size < 100000);
}

static int append_name(void *arg, struct lm_row *row)
{
	assert_int_equal(lm_buf_printf(arg, "%s ", row->name), 0);
	return strcmp(row->name, "stop") == 0 ? 7 : 0;
}

static void assert_listed(struct lm_txn *txn, const char *path, int code, const char *names)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(1 << 10);
	assert_int_equal(lm_txn_list(txn, path, append_name, &text, &err), code);
	assert_string_equal(lm_buf_cstr(&text), names);
}

/* Catalogs that nothing changed in, changed ones, new ones. */
static void test_list(void **state)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	struct lm_manifest manifest;
	struct lm_err err = LM_ERR_INIT;
	struct lm_nested before = {0}, after = {0};
	create(&place, &manifest);
	begin(&place, &txn);
	mkdirs(txn, "/d/e", false);
	mkdirs(txn, "/n", true);
	put(txn, "/n/a", "a");
	put(txn, "/n/b", "b");
	assert_listed(txn, "", 0, "d n ");
	assert_listed(txn, "/n", 0, ".cvmfscatalog a b ");
	assert_int_equal(lm_txn_nested(txn, "/n", &before, &err), -ENOENT);
	commit(&txn, &manifest);

	begin(&place, &txn);
	assert_listed(txn, "", 0, "d n ");
	assert_listed(txn, "/d", 0, "e ");
	assert_listed(txn, "/d/e", 0, "");
	assert_listed(txn, "/n", 0, ".cvmfscatalog a b ");
	assert_listed(txn, "/n/a", -ENOTDIR, "");
	assert_listed(txn, "/x", -ENOENT, "");
	assert_ok(lm_txn_nested(txn, "/n", &before, &err), &err);
	put(txn, "/n/stop", "c");
	put(txn, "/n/z", "d");
	assert_listed(txn, "/n", 7, ".cvmfscatalog a b stop ");
	assert_ok(lm_txn_nested(txn, "/n", &after, &err), &err);
	assert_true(lm_hash_equal(&before.hash, &after.hash));
	assert_int_equal(lm_txn_nested(txn, "/d", &before, &err), -ENOENT);
	free(before.path);
	free(after.path);
	commit(&txn, &manifest);
	check(&place, &manifest, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_directories),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_links),
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_fold_new),
		cmocka_unit_test(test_size),
		cmocka_unit_test(test_list),
	};
	return cmocka_run_group_tests(tests, publish_setup, publish_teardown);
}
