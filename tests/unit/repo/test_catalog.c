/* The catalog writer and reader: round trips, changes, forged databases, speed. */
#include "base/clock.h"
#include "repo/storage.h"
#include "repo_tree.h"

#include <pthread.h>

static char *dir;

static char *new_path(void)
{
	static unsigned count;
	return lm_str_printf("%s/catalog.%u", dir, count++);
}

static struct lm_path_hash hash_of(const char *path)
{
	return lm_path_hash(path, strlen(path));
}

static struct lm_hash some_hash(uint8_t seed, enum lm_hash_algo algo)
{
	struct lm_hash hash = {.algo = algo, .set = true};
	memset(hash.bytes, seed, sizeof(hash.bytes));
	return hash;
}

static struct lm_row dir_row(void)
{
	return (struct lm_row){.mode = S_IFDIR | 0755, .size = 4096, .mtime_s = 1700000000};
}

static struct lm_row file_row(uint8_t seed)
{
	return (struct lm_row){.mode = S_IFREG | 0644, .size = 100, .hash = some_hash(seed, LM_HASH_SHA1)};
}

static const struct lm_catalog_props props = {.revision = 3, .last_modified_s = 1800000000};

static void create(const char *path, const char *mountpoint, struct lm_catalog_writer **ret)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_row root = dir_row();
	assert_ok(lm_catalog_create(path, mountpoint, &root, ret, &err), &err);
}

static void insert(struct lm_catalog_writer *w, const char *path, struct lm_row row)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_catalog_insert(w, path, &row, NULL, 0, &err), &err);
}

static void finish(struct lm_catalog_writer **w)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_counters self, subtree;
	assert_ok(lm_catalog_writer_finish(*w, &props, &self, &subtree, &err), &err);
	lm_catalog_writer_freep(w);
}

static struct lm_catalog *open_catalog(const char *path, const char *mountpoint)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_catalog *catalog = NULL;
	assert_ok(lm_catalog_open(path, mountpoint, &catalog, &err), &err);
	return catalog;
}

static void lookup(struct lm_catalog *catalog, const char *path, struct lm_row *ret)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_catalog_lookup(catalog, hash_of(path), ret, &err), &err);
}

static void edit(const char *path, const char *mountpoint, struct lm_catalog_writer **ret)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_catalog_edit(path, mountpoint, ret, &err), &err);
}

/* Every field of every type comes back as it was given. */
static void test_round_trip(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = new_path();
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = NULL;
	static uint8_t xattr[] = "\x01\x01\x06\x01user.xv";
	char longest[LM_NAME_MAX + 1], path_longest[LM_NAME_MAX + 32];
	char target[LM_SYMLINK_MAX + 1];
	memset(longest, 'n', LM_NAME_MAX);
	longest[LM_NAME_MAX] = '\0';
	memset(target, 't', LM_SYMLINK_MAX);
	target[LM_SYMLINK_MAX] = '\0';
	snprintf(path_longest, sizeof(path_longest), "/layer/%s", longest);
	const struct {
		const char *path;
		struct lm_row row;
	} cases[] = {
		{"/layer/plain", {.mode = S_IFREG | 06755,
					 .uid = UINT32_MAX,
					 .gid = UINT32_MAX - 1,
					 .size = UINT64_C(1) << 60,
					 .mtime_s = -1,
					 .mtime_ns = 999999999,
					 .hash = some_hash(1, LM_HASH_SHAKE128),
					 .compression = LM_COMPRESSION_NONE,
					 .xattr = xattr,
					 .xattr_len = 11}},
		{"/layer/rmd", {.mode = S_IFREG, .size = 0, .hash = some_hash(2, LM_HASH_RMD160)}},
		{"/layer/hidden", {.mode = S_IFREG | 0644, .flags = LM_ROW_HIDDEN, .hash = some_hash(3, LM_HASH_SHA1)}},
		{"/layer/external", {.mode = S_IFREG | 0644,
					    .flags = LM_ROW_EXTERNAL | LM_ROW_DIRECT_IO,
					    .size = 7,
					    .hash = some_hash(4, LM_HASH_SHA1)}},
		{"/layer/link", {.mode = S_IFLNK | 0777, .symlink = target, .mtime_s = INT64_C(1) << 40}},
		{"/layer/fifo", {.mode = S_IFIFO | 0600}},
		{"/layer/socket", {.mode = S_IFSOCK | 0600}},
		{"/layer/whiteout", {.mode = S_IFCHR}},
		{"/layer/block", {.mode = S_IFBLK | 0660, .rdev = UINT64_C(0x12345678abcdef)}},
		{"/layer/b\xff\n d", {.mode = S_IFDIR | 01777, .size = 17, .xattr = xattr, .xattr_len = 11}},
		{path_longest, {.mode = S_IFREG, .hash = some_hash(5, LM_HASH_SHA1)}},
	};
	create(path, "/layer", &w);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		assert_ok(lm_catalog_insert(w, cases[i].path, &cases[i].row, NULL, 0, &err), &err);
	finish(&w);

	c = open_catalog(path, "/layer");
	assert_string_equal(lm_catalog_mountpoint(c), "/layer");
	assert_int_equal(lm_catalog_revision(c), 3);
	assert_int_equal(lm_catalog_ttl(c), 240);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_row_done) struct lm_row row = {0};
		CLEANUP(lm_row_done) struct lm_row same = {0};
		CLEANUP(lm_buf_done) struct lm_buf back = LM_BUF(10000);
		const struct lm_row *in = &cases[i].row;
		lookup(c, cases[i].path, &row);
		assert_int_equal(row.rowid, i + 2); /* dense, in the order of insertion */
		assert_string_equal(row.name, cases[i].path + 7);
		assert_int_equal(row.mode, in->mode);
		assert_int_equal(row.uid, in->uid);
		assert_int_equal(row.gid, in->gid);
		assert_int_equal(row.size, in->symlink ? LM_SYMLINK_MAX : in->size);
		assert_int_equal(row.rdev, in->rdev);
		assert_int_equal(row.mtime_s, in->mtime_s);
		assert_int_equal(row.mtime_ns, in->mtime_ns);
		assert_true(lm_hash_equal(&row.hash, &in->hash));
		assert_int_equal(row.compression, in->compression);
		assert_int_equal(row.flags & ~LM_ROW_TYPE_FLAGS, in->flags);
		assert_int_equal(row.xattr_len, in->xattr_len);
		if (in->xattr_len)
			assert_memory_equal(row.xattr, in->xattr, in->xattr_len);
		assert_int_equal(!!row.symlink, !!in->symlink);
		if (in->symlink)
			assert_string_equal(row.symlink, in->symlink);
		assert_true(lm_path_hash_equal(row.parent, hash_of("/layer")));
		assert_int_equal(row.link_count, S_ISDIR(in->mode) ? 2 : 1);
		assert_ok(lm_catalog_row(c, row.rowid, &same, &err), &err);
		assert_string_equal(same.name, row.name);
		assert_ok(lm_catalog_path_of(c, row.rowid, &back, &err), &err);
		assert_string_equal(lm_buf_cstr(&back), cases[i].path);
	}
	struct lm_row row;
	lookup(c, "/layer", &row);
	assert_int_equal(row.rowid, 1);
	assert_int_equal(row.flags, LM_ROW_DIR | LM_ROW_NESTED_ROOT);
	assert_int_equal(row.link_count, 3);
	assert_string_equal(row.name, "layer");
	lm_row_done(&row);
	assert_int_equal(lm_catalog_lookup(c, hash_of("/layer/none"), &row, &err), -ENOENT);
	assert_int_equal(lm_catalog_row(c, 1000, &row, &err), -ENOENT);
	assert_int_equal(lm_catalog_row(c, UINT64_MAX, &row, &err), -ENOENT);
}

static void test_refused_rows(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = new_path();
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	char name[LM_NAME_MAX + 8] = "/d/";
	memset(name + 3, 'n', LM_NAME_MAX + 1);
	create(path, "/d", &w);
	static const char *const wrong[] = {
		"", "/", "/d", "/e/f", "d/f", "/d/", "/d//f", "/d/.", "/d/..", "/d/../f", "/df"};
	struct lm_row file = file_row(1);
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		assert_int_equal(lm_catalog_insert(w, wrong[i], &file, NULL, 0, &err), -EINVAL);
	assert_int_equal(lm_catalog_insert(w, name, &file, NULL, 0, &err), -EINVAL);

	struct lm_row bad[] = {{.mode = S_IFREG}, {.mode = S_IFLNK}, {.mode = 0644}, file_row(1), file_row(1),
		file_row(1), file_row(1), dir_row()};
	bad[3].mtime_ns = 1000000000;
	bad[4].size = UINT64_MAX;
	bad[5].link_group = UINT32_MAX;
	bad[6].xattr_len = LM_XATTR_BLOB_MAX + 1;
	bad[7].hash = some_hash(1, LM_HASH_SHA1);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(lm_catalog_insert(w, "/d/f", &bad[i], NULL, 0, &err), -EINVAL);

	insert(w, "/d/f", file);
	assert_int_equal(lm_catalog_insert(w, "/d/f", &file, NULL, 0, &err), -EEXIST);
	assert_non_null(strstr(err.msg, "/d/f"));
	insert(w, "/d/g", file); /* goes on */
	assert_int_equal(lm_catalog_put(w, "/d", &file, NULL, 0, &err), -EINVAL);

	/* A file in no directory, and one below a file: found at the end. */
	struct lm_counters counters;
	insert(w, "/d/f/below", file);
	assert_int_equal(lm_catalog_writer_finish(w, &props, &counters, &counters, &err), -EINVAL);
	struct lm_catalog_writer *other = NULL;
	struct lm_row root = dir_row();
	assert_int_equal(lm_catalog_create(path, "/d", &root, &other, &err), -EEXIST);
	CLEANUP(lm_freep) char *more = new_path();
	assert_int_equal(lm_catalog_create(more, "/d", &file, &other, &err), -EINVAL);
}

static void chunk_row(struct lm_row *row, struct lm_chunk *chunks, size_t count, uint64_t size)
{
	*row = (struct lm_row){.mode = S_IFREG | 0644, .size = size, .algo = LM_HASH_RMD160};
	for (size_t i = 0; i < count; i++)
		chunks[i] = (struct lm_chunk){.offset = i * 10,
			.size = LM_MIN(UINT64_C(10), size - i * 10),
			.hash = some_hash((uint8_t)i, LM_HASH_RMD160)};
}

static void test_chunks(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = new_path();
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = NULL;
	CLEANUP(lm_row_done) struct lm_row found = {0};
	struct lm_chunk chunks[5];
	struct lm_row row;
	create(path, "", &w);
	chunk_row(&row, chunks, 5, 47);
	assert_ok(lm_catalog_insert(w, "/f", &row, chunks, 5, &err), &err);
	assert_int_equal(lm_catalog_insert(w, "/g", &row, chunks, 4, &err), -EINVAL); /* too short */
	chunks[2].offset = 21;
	assert_int_equal(lm_catalog_insert(w, "/g", &row, chunks, 5, &err), -EINVAL);
	chunks[2].offset = 20;
	chunks[2].hash.algo = LM_HASH_SHA1;
	assert_int_equal(lm_catalog_insert(w, "/g", &row, chunks, 5, &err), -EINVAL);
	finish(&w);

	c = open_catalog(path, "");
	lookup(c, "/f", &found);
	assert_int_equal(found.flags, LM_ROW_FILE | LM_ROW_CHUNKED);
	assert_int_equal(found.algo, LM_HASH_RMD160);
	assert_false(found.hash.set);
	static const struct {
		uint64_t offset, len;
		size_t first, count;
	} ranges[] = {
		{0, UINT64_MAX, 0, 5},
		{0, 1, 0, 1},
		{9, 1, 0, 1},
		{9, 2, 0, 2},
		{10, 10, 1, 1},
		{10, 11, 1, 2},
		{46, 1, 4, 1},
		{40, 100, 4, 1},
		{47, 1, 0, 0},
		{1000, UINT64_MAX, 0, 0},
		{UINT64_MAX, UINT64_MAX, 0, 0},
		{5, 0, 0, 0},
		{15, 20, 1, 3},
	};
	for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
		CLEANUP(lm_freep) struct lm_chunk *list = NULL;
		size_t count = 99;
		assert_ok(lm_catalog_chunks(c, &found, ranges[i].offset, ranges[i].len, &list, &count, &err), &err);
		assert_int_equal(count, ranges[i].count);
		for (size_t k = 0; k < count; k++) {
			assert_int_equal(list[k].offset, (ranges[i].first + k) * 10);
			assert_int_equal(list[k].hash.bytes[0], ranges[i].first + k);
			assert_int_equal(list[k].hash.algo, LM_HASH_RMD160);
		}
	}
}

static void group_of(
	struct lm_catalog *c, const char *path, uint32_t expected_links, uint64_t *ret, uint32_t *ret_members)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_row_done) struct lm_row row = {0};
	lookup(c, path, &row);
	assert_int_equal(row.link_count, expected_links);
	assert_true(row.link_group > 0);
	assert_ok(lm_catalog_group(c, row.link_group, ret, ret_members, &err), &err);
}

static void test_groups(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = new_path();
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = NULL;
	struct lm_row near = file_row(1), far = file_row(2), alone = file_row(3), odd = file_row(4);
	near.link_group = 7;
	far.link_group = 8;
	alone.link_group = 9;
	odd.link_group = 10;
	create(path, "", &w);
	insert(w, "/d", dir_row()); /* row 2 */
	insert(w, "/near1", near);
	insert(w, "/far1", far);
	insert(w, "/near2", near);
	insert(w, "/d/far2", far);
	insert(w, "/near3", near);
	insert(w, "/alone", alone);
	insert(w, "/odd1", odd);
	odd.uid = 1;
	insert(w, "/odd2", odd);
	finish(&w);
	c = open_catalog(path, "");
	uint64_t first, other;
	uint32_t members;
	group_of(c, "/near3", 3, &first, &members);
	assert_int_equal(first, 3);
	assert_int_equal(members, 3);
	group_of(c, "/d/far2", 1, &first, &members);
	group_of(c, "/far1", 1, &other, &members);
	assert_int_equal(first, 4);
	assert_int_equal(other, 4);
	assert_int_equal(members, 2);
	/* One member is no group; members that differ are none; nor is what was never named. */
	struct lm_row row;
	lookup(c, "/alone", &row);
	assert_int_equal(row.link_group, 0);
	lm_row_done(&row);
	assert_int_equal(lm_catalog_group(c, 10, &first, &members, &err), -ENOENT);
	assert_int_equal(lm_catalog_group(c, 0, &first, &members, &err), -ENOENT);
	assert_int_equal(lm_catalog_group(c, 12345, &first, &members, &err), -ENOENT);
	lm_catalog_closep(&c);

	/* Members that go leave right counts behind. */
	edit(path, "", &w);
	assert_ok(lm_catalog_remove(w, "/near1", &err), &err);
	assert_ok(lm_catalog_remove(w, "/d", &err), &err);
	finish(&w);
	c = open_catalog(path, "");
	group_of(c, "/near2", 2, &first, &members);
	assert_int_equal(members, 2);
	lookup(c, "/far1", &row);
	assert_int_equal(row.link_group, 0);
	lm_row_done(&row);
}

struct paged {
	uint64_t last;
	unsigned count, stop_after;
	struct lm_catalog *catalog;
};

static int page(void *arg, struct lm_row *row)
{
	struct paged *paged = arg;
	struct lm_row again;
	assert_true(row->rowid > paged->last);
	/* The callback may ask the catalog. */
	assert_int_equal(lm_catalog_row(paged->catalog, row->rowid, &again, NULL), 0);
	assert_string_equal(again.name, row->name);
	lm_row_done(&again);
	paged->last = row->rowid;
	paged->count++;
	return paged->count % paged->stop_after == 0 ? 1 : 0;
}

static void test_list(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = new_path();
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = NULL;
	create(path, "", &w);
	insert(w, "/d", dir_row());
	insert(w, "/e", dir_row());
	for (unsigned i = 0; i < 1000; i++) {
		char name[32];
		snprintf(name, sizeof(name), i % 2 ? "/d/%u" : "/e/%u", i);
		insert(w, name, file_row(1));
	}
	finish(&w);
	c = open_catalog(path, "");
	for (unsigned step = 1; step < 600; step = step * 3 + 1) {
		struct paged paged = {.stop_after = step, .catalog = c};
		int r;
		while ((r = lm_catalog_list(c, hash_of("/d"), paged.last, page, &paged, &err)) == 1)
			;
		assert_int_equal(r, 0);
		assert_int_equal(paged.count, 500);
	}
	struct paged none = {.stop_after = 1, .catalog = c};
	assert_int_equal(lm_catalog_list(c, hash_of("/absent"), 0, page, &none, &err), 0);
	assert_int_equal(lm_catalog_list(c, hash_of("/d"), UINT64_MAX, page, &none, &err), 0);
	assert_int_equal(none.count, 0);
}

/* No statement of the reader scans or sorts. */
static void test_plans(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = new_path();
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	struct lm_db db;
	create(path, "", &w);
	finish(&w);
	assert_ok(lm_db_open(path, &db, &err), &err);
	static const char *const plans[] = {
		"EXPLAIN QUERY PLAN SELECT * FROM catalog " LM_ROW_BY_PATH,
		"EXPLAIN QUERY PLAN SELECT * FROM catalog " LM_ROW_BY_HALF,
		"EXPLAIN QUERY PLAN SELECT * FROM catalog " LM_ROW_BY_ROWID,
		"EXPLAIN QUERY PLAN SELECT * FROM catalog " LM_ROW_BY_PARENT,
		"EXPLAIN QUERY PLAN " LM_CHUNKS_SELECT,
		"EXPLAIN QUERY PLAN SELECT path FROM nested_catalogs INDEXED BY sqlite_autoindex_nested_catalogs_1 "
		"WHERE path > ?1 ORDER BY path",
	};
	for (size_t i = 0; i < ARRAY_LEN(plans); i++) {
		sqlite3_stmt *stmt = NULL;
		unsigned lines = 0;
		assert_ok(lm_db_prepare(&db, plans[i], &stmt, &err), &err);
		while (lm_db_step(&db, stmt, &err) > 0) {
			const char *line = (const char *)sqlite3_column_text(stmt, 3);
			assert_null(strstr(line, "TEMP B-TREE"));
			assert_false(lm_str_starts(line, "SCAN"));
			lines++;
		}
		assert_true(lines > 0);
		sqlite3_finalize(stmt);
	}
	lm_db_close(&db);
}

/* The schema to the letter: stock publishers copy rows by position. */
static void test_schema(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = new_path();
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	CLEANUP(lm_buf_done) struct lm_buf header = {0};
	struct lm_db db;
	create(path, "", &w);
	finish(&w);
	read_whole(path, &header);
	assert_int_equal(header.data[18], 1);
	assert_int_equal(header.data[19], 1);
	assert_int_equal(header.data[16] << 8 | header.data[17], 4096);
	assert_ok(lm_db_open(path, &db, &err), &err);
	assert_ok(lm_db_prepare(&db, "SELECT group_concat(name) FROM pragma_table_info('catalog')", &stmt, &err), &err);
	assert_int_equal(lm_db_step(&db, stmt, &err), 1);
	assert_string_equal(sqlite3_column_text(stmt, 0), "md5path_1,md5path_2,parent_1,parent_2,hardlinks,hash,size,"
							  "mode,mtime,mtimens,flags,name,symlink,uid,gid,xattr");
	sqlite3_finalize(stmt);
	stmt = NULL;
	assert_ok(lm_db_prepare(&db, "SELECT key || '=' || value FROM properties ORDER BY key", &stmt, &err), &err);
	static const char *const expected[] = {
		"last_modified=1800000000", "revision=3", "schema=2.5", "schema_revision=7"};
	for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
		assert_int_equal(lm_db_step(&db, stmt, &err), 1);
		assert_string_equal(sqlite3_column_text(stmt, 0), expected[i]);
	}
	assert_int_equal(lm_db_step(&db, stmt, &err), 0);
	sqlite3_finalize(STEAL(stmt));
	lm_db_close(&db);
}

static void counters_of(const char *path, struct lm_counters *ret_self, struct lm_counters *ret_subtree)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
	assert_ok(lm_catalog_counters(c, ret_self, ret_subtree, &err), &err);
}

static const struct lm_counters child_self = {.regular = 5, .dir = 2, .file_size = 500, .nested = 1};
static const struct lm_counters child_subtree = {.regular = 3, .dir = 1, .file_size = 30, .xattr = 2};

static int known_child(void *arg, const struct lm_nested *child, struct lm_counters *ret_self,
	struct lm_counters *ret_subtree, struct lm_err *err)
{
	++*(unsigned *)arg;
	*ret_self = child_self;
	*ret_subtree = child_subtree;
	return 0;
}

static void set_nested(struct lm_catalog_writer *w, const char *path, uint8_t seed)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_row root = dir_row();
	struct lm_hash hash = some_hash(seed, LM_HASH_SHA1);
	root.link_count = 4;
	assert_ok(lm_catalog_set_nested(w, path, &hash, 1234, &root, &child_self, &child_subtree, &err), &err);
}

/* Edited in place or made anew: the counters are the same. */
static void test_edit_like_new(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *edited = new_path();
	CLEANUP(lm_freep) char *made = new_path();
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	struct lm_chunk chunks[3];
	struct lm_row row;
	unsigned asked = 0;
	create(edited, "", &w);
	insert(w, "/stays", dir_row());
	insert(w, "/stays/file", file_row(1));
	insert(w, "/goes", dir_row());
	insert(w, "/goes/sub", dir_row());
	set_nested(w, "/goes/sub/nested", 1);
	set_nested(w, "/goes-not", 2); /* a name that only begins alike */
	set_nested(w, "/goes.neither", 3);
	chunk_row(&row, chunks, 3, 30);
	assert_ok(lm_catalog_insert(w, "/goes/chunked", &row, chunks, 3, &err), &err);
	assert_ok(lm_catalog_insert(w, "/chunked", &row, chunks, 3, &err), &err);
	finish(&w);

	edit(edited, "", &w);
	/* Nobody knows the counters of what was there before: refused before anything is changed wrongly. */
	assert_int_equal(lm_catalog_remove(w, "/goes", &err), -EINVAL);
	lm_catalog_writer_set_child_fn(w, known_child, &asked);
	assert_ok(lm_catalog_remove(w, "/goes", &err), &err);
	assert_int_equal(asked, 1);
	set_nested(w, "/goes-not", 9);
	assert_int_equal(asked, 2);
	set_nested(w, "/goes-not", 10); /* its own it knows */
	assert_int_equal(asked, 2);
	set_nested(w, "/stays/new", 4);
	assert_ok(lm_catalog_remove(w, "/stays/new", &err), &err);
	assert_int_equal(asked, 2);
	struct lm_row file = file_row(2), folder = dir_row();
	assert_ok(lm_catalog_put(w, "/chunked", &file, NULL, 0, &err), &err);
	assert_ok(lm_catalog_put(w, "/stays", &folder, NULL, 0, &err), &err);
	assert_int_equal(lm_catalog_put(w, "/goes-not", &folder, NULL, 0, &err), -EBUSY);
	assert_ok(lm_catalog_put(w, "/goes.neither", &file, NULL, 0, &err), &err);
	assert_int_equal(asked, 3);
	assert_ok(lm_catalog_remove(w, "/never/was", &err), &err);
	assert_int_equal(lm_catalog_remove(w, "", &err), -EINVAL);
	finish(&w);

	create(made, "", &w);
	insert(w, "/stays", dir_row());
	insert(w, "/stays/file", file_row(1));
	set_nested(w, "/goes-not", 10);
	insert(w, "/chunked", file);
	insert(w, "/goes.neither", file);
	finish(&w);
	struct lm_counters self[2], subtree[2];
	counters_of(edited, &self[0], &subtree[0]);
	counters_of(made, &self[1], &subtree[1]);
	assert_memory_equal(&self[0], &self[1], sizeof(self[0]));
	assert_memory_equal(&subtree[0], &subtree[1], sizeof(subtree[0]));
	assert_int_equal(subtree[0].regular, 8);
	assert_int_equal(self[0].nested, 1);
	assert_int_equal(tree_sql(edited, "SELECT count(*) FROM chunks"), 0);
	assert_int_equal(tree_sql(edited, "SELECT count(*) FROM catalog"), 6);

	CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(edited, "");
	CLEANUP(lm_row_done) struct lm_row root = {0};
	CLEANUP(lm_row_done) struct lm_row mountpoint = {0};
	lookup(c, "", &root);
	assert_int_equal(root.link_count, 4);
	lookup(c, "/goes-not", &mountpoint);
	assert_int_equal(mountpoint.flags, LM_ROW_DIR | LM_ROW_MOUNTPOINT);
	assert_int_equal(mountpoint.link_count, 4);
	struct lm_nested nested;
	assert_ok(lm_catalog_nested(c, "/goes-not", &nested, &err), &err);
	assert_int_equal(nested.hash.bytes[0], 10);
	assert_int_equal(nested.size, 1234);
	free(nested.path);
}

static int count_nested(void *arg, const struct lm_nested *nested)
{
	++*(unsigned *)arg;
	return 0;
}

static int stop_nested(void *arg, const struct lm_nested *nested)
{
	return ++*(unsigned *)arg == 100 ? -ECANCELED : 0;
}

static void test_many_nested(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = new_path();
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	unsigned count = 0;
	create(path, "", &w);
	for (unsigned i = 0; i < 256; i++) {
		char name[16];
		snprintf(name, sizeof(name), "/%02x", i);
		set_nested(w, name, 1);
	}
	finish(&w);
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
	assert_ok(lm_catalog_nested_each(c, count_nested, &count, &err), &err);
	assert_int_equal(count, 256);
	count = 0;
	assert_int_equal(lm_catalog_nested_each(c, stop_nested, &count, &err), -ECANCELED);
	assert_int_equal(count, 100);
}

/*
 * Forged databases
 */

/* Runs SQL over a good catalog, past all that guards the writer. */
static void forge(const char *path, const char *sql)
{
	sqlite3 *db = NULL;
	char *message = NULL;
	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
	if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
		fail_msg("%s: %s", sql, message);
	sqlite3_close(db);
}

/* /d (row 2), /d/f (3), /d/c chunked (4), /l (5), /n nested (6), /h1 and /h2 (7, 8) */
static char *make_victim(void)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	char *path = new_path();
	struct lm_chunk chunks[3];
	struct lm_row row, link = file_row(2);
	create(path, "", &w);
	insert(w, "/d", dir_row());
	insert(w, "/d/f", file_row(1));
	chunk_row(&row, chunks, 3, 25);
	assert_ok(lm_catalog_insert(w, "/d/c", &row, chunks, 3, &err), &err);
	insert(w, "/l", (struct lm_row){.mode = S_IFLNK | 0777, .symlink = (char *)"target"});
	set_nested(w, "/n", 1);
	link.link_group = 1;
	insert(w, "/h1", link);
	insert(w, "/h2", link);
	finish(&w);
	return path;
}

static void test_refused_databases(void **state)
{
	static const char *const forgeries[] = {
		"PRAGMA journal_mode = WAL",
		"DROP TABLE catalog",
		"DROP TABLE chunks",
		"DROP TABLE nested_catalogs",
		"DROP TABLE bind_mountpoints",
		"DROP TABLE properties",
		"DROP INDEX idx_catalog_parent",
		"ALTER TABLE catalog RENAME TO other; CREATE VIEW catalog AS SELECT * FROM other",
		"CREATE TRIGGER t AFTER INSERT ON catalog BEGIN DELETE FROM catalog; END",
		"CREATE VIRTUAL TABLE v USING fts5(x)",
		"ALTER TABLE catalog ADD COLUMN rowid",
		"ALTER TABLE catalog ADD COLUMN g AS (zeroblob(100000000))",
		"ALTER TABLE catalog DROP COLUMN gid",
		"ALTER TABLE catalog RENAME COLUMN mtimens TO ns",
		"DELETE FROM catalog WHERE rowid = 1",
		"UPDATE catalog SET rowid = 100 WHERE rowid = 1",
		"UPDATE catalog SET mode = 33188, flags = 4, hash = zeroblob(20) WHERE rowid = 1",
		"UPDATE catalog SET flags = 33 WHERE rowid = 1",
		"UPDATE properties SET value = '3.0' WHERE key = 'schema'",
		"DELETE FROM properties WHERE key = 'schema'",
		"UPDATE properties SET value = 'x' WHERE key = 'schema_revision'",
		"UPDATE properties SET value = '-1' WHERE key = 'revision'",
		"INSERT INTO properties VALUES ('root_prefix', '/elsewhere')",
		"INSERT INTO properties VALUES ('TTL', '1e9')",
		"CREATE TABLE t AS SELECT * FROM catalog; DROP TABLE catalog; CREATE TABLE catalog (md5path_1 INTEGER, "
		"md5path_2 INTEGER, parent_1 INTEGER, parent_2 INTEGER, hardlinks INTEGER, hash BLOB, size INTEGER, "
		"mode "
		"INTEGER, mtime INTEGER, mtimens INTEGER, flags INTEGER, name TEXT, symlink TEXT, uid INTEGER, gid "
		"INTEGER, "
		"xattr BLOB, PRIMARY KEY (md5path_1, md5path_2)) WITHOUT ROWID; INSERT INTO catalog SELECT * FROM t; "
		"CREATE INDEX idx_catalog_parent ON catalog (parent_1, parent_2)",
	};
	for (size_t i = 0; i < ARRAY_LEN(forgeries); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_freep) char *path = make_victim();
		CLEANUP(lm_catalog_closep) struct lm_catalog *c = NULL;
		forge(path, forgeries[i]);
		int r = lm_catalog_open(path, "", &c, &err);
		if (r != -EPROTO)
			fail_msg("%s: %d", forgeries[i], r);
		assert_true(strlen(err.msg) > 0);
	}
}

static void test_refused_files(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = make_victim();
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = NULL;
	CLEANUP(lm_buf_done) struct lm_buf data = {0};
	assert_int_equal(lm_catalog_open("/no/such/file", "", &c, &err), -ENOENT);
	assert_int_equal(lm_catalog_open(path, "/no\xff/../x", &c, &err), -EINVAL);
	read_whole(path, &data);
	static const size_t lengths[] = {0, 1, 99, 100, 4096, 8192};
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		assert_ok(lm_file_replace(AT_FDCWD, path, data.data, lengths[i], 0600, 0, &err), &err);
		assert_int_equal(lm_catalog_open(path, "", &c, &err), -EPROTO);
	}
	/* An odd name is no trouble. */
	CLEANUP(lm_freep) char *odd = lm_str_printf("%s/a?b%%41#c&mode=rw d", dir);
	assert_ok(lm_file_replace(AT_FDCWD, odd, data.data, data.len, 0600, 0, &err), &err);
	assert_ok(lm_catalog_open(odd, "", &c, &err), &err);
}

static int ignore_row(void *arg, struct lm_row *row)
{
	++*(unsigned *)arg;
	return 0;
}

/* What is wrong in one row costs that row. */
static void test_refused_content(void **state)
{
	static const char *const forgeries[] = {
		"name = NULL",
		"name = ''",
		"name = '.'",
		"name = '..'",
		"name = 'a/b'",
		"name = CAST(x'610062' AS TEXT)",
		"name = x'61'",
		"name = printf('%.*c', 256, 'n')",
		"size = -1",
		"size = 'many'",
		"size = 1.5",
		"mode = 420",
		"mode = 16877",
		"mode = 33188 + 65536 * 4",
		"mode = NULL",
		"flags = 5",
		"flags = 4 + 256 * 3",
		"flags = 4 + 2048 * 2",
		"flags = 6",
		"flags = -1",
		"hash = NULL",
		"hash = zeroblob(19)",
		"hash = 'aaaaaaaaaaaaaaaaaaaa'",
		"hardlinks = -1",
		"hardlinks = NULL",
		"mtime = 'now'",
		"mtimens = 1000000000",
		"mtimens = -1",
		"uid = -1",
		"gid = 4294967296",
		"xattr = zeroblob(200000)",
		"xattr = 'text'",
		"parent_1 = NULL",
	};
	for (size_t i = 0; i < ARRAY_LEN(forgeries); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_freep) char *path = make_victim();
		CLEANUP(lm_freep) char *sql = lm_str_printf("UPDATE catalog SET %s WHERE rowid = 3", forgeries[i]);
		CLEANUP(lm_catalog_closep) struct lm_catalog *c = NULL;
		struct lm_row row;
		unsigned listed = 0;
		forge(path, sql);
		assert_ok(lm_catalog_open(path, "", &c, &err), &err);
		int r = lm_catalog_lookup(c, hash_of("/d/f"), &row, &err);
		if (r != -EPROTO)
			fail_msg("%s: %d", forgeries[i], r);
		assert_int_equal(lm_catalog_row(c, 3, &row, &err), -EPROTO);
		/* Its brother is still there, and that one is missing is not kept quiet. */
		bool orphan = strstr(forgeries[i], "parent");
		assert_int_equal(lm_catalog_list(c, hash_of("/d"), 0, ignore_row, &listed, &err), orphan ? 0 : -EPROTO);
		assert_int_equal(listed, 1);
		lookup(c, "/d/c", &row);
		lm_row_done(&row);
	}
}

static void test_tolerated_content(void **state)
{
	static const char *const forgeries[] = {"symlink = NULL", "mtimens = NULL", "xattr = x''", "flags = 4 + 8",
		"flags = 4 + 131072", "hardlinks = 0"};
	for (size_t i = 0; i < ARRAY_LEN(forgeries); i++) {
		CLEANUP(lm_freep) char *path = make_victim();
		CLEANUP(lm_freep) char *sql = lm_str_printf("UPDATE catalog SET %s WHERE rowid = 3", forgeries[i]);
		forge(path, sql);
		CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
		CLEANUP(lm_row_done) struct lm_row row = {0};
		lookup(c, "/d/f", &row);
		assert_int_equal(row.flags, LM_ROW_FILE);
	}
}

static void half_is(struct lm_catalog *c, struct lm_path_hash path, int expected, const char *name)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_row_done) struct lm_row row = {0};
	assert_int_equal(lm_catalog_lookup_half(c, path.a, &row, &err), expected);
	assert_int_equal(row.name != NULL, expected == 0);
	if (expected == 0)
		assert_string_equal(row.name, name);
}

static void test_half(void **state)
{
	const struct lm_path_hash file = lm_path_hash("/d/f", 4), chunked = lm_path_hash("/d/c", 4);
	CLEANUP(lm_freep) char *path = make_victim();
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
	half_is(c, file, 0, "f");
	half_is(c, chunked, 0, "c");
	half_is(c, file, 0, "f");
	half_is(c, (struct lm_path_hash){file.a + 1, file.b}, -ENOENT, NULL);
	half_is(c, (struct lm_path_hash){file.a - 1, file.b}, -ENOENT, NULL);
	half_is(c, file, 0, "f");

	CLEANUP(lm_freep) char *twins = make_victim();
	CLEANUP(lm_freep)
	char *sql = lm_str_printf("UPDATE catalog SET md5path_1 = %lld WHERE rowid = 4", (long long)file.a);
	forge(twins, sql);
	CLEANUP(lm_catalog_closep) struct lm_catalog *both = open_catalog(twins, "");
	half_is(both, file, -EPROTO, NULL);
	half_is(both, chunked, -ENOENT, NULL);

	CLEANUP(lm_freep) char *nonsense = make_victim();
	forge(nonsense, "UPDATE catalog SET name = 'a/b' WHERE rowid = 3");
	CLEANUP(lm_catalog_closep) struct lm_catalog *broken = open_catalog(nonsense, "");
	half_is(broken, file, -EPROTO, NULL);
}

static void test_refused_links(void **state)
{
	static const char *const forgeries[] = {"symlink = NULL", "symlink = ''", "symlink = printf('%.*c', 4096, 't')",
		"symlink = x'61'", "symlink = CAST(x'610062' AS TEXT)"};
	for (size_t i = 0; i < ARRAY_LEN(forgeries); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_freep) char *path = make_victim();
		CLEANUP(lm_freep) char *sql = lm_str_printf("UPDATE catalog SET %s WHERE rowid = 5", forgeries[i]);
		struct lm_row row;
		forge(path, sql);
		CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
		assert_int_equal(lm_catalog_lookup(c, hash_of("/l"), &row, &err), -EPROTO);
	}
}

static void test_refused_paths(void **state)
{
	static const char *const forgeries[] = {
		/* in a circle: alone, and by two */
		"UPDATE catalog SET parent_1 = md5path_1, parent_2 = md5path_2 WHERE rowid = 2",
		"UPDATE catalog SET (parent_1, parent_2) = (SELECT md5path_1, md5path_2 FROM catalog WHERE rowid = 3) "
		"WHERE rowid = 2",
		/* into nothing; under another name; somewhere else */
		"UPDATE catalog SET parent_1 = 4711 WHERE rowid = 2",
		"UPDATE catalog SET name = 'e' WHERE rowid = 2",
		"UPDATE catalog SET (parent_1, parent_2) = (SELECT md5path_1, md5path_2 FROM catalog WHERE rowid = 1) "
		"WHERE rowid = 3",
		"UPDATE catalog SET name = 'a/b' WHERE rowid = 2",
		"UPDATE catalog SET name = NULL WHERE rowid = 2",
	};
	for (size_t i = 0; i < ARRAY_LEN(forgeries); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_freep) char *path = make_victim();
		CLEANUP(lm_buf_done) struct lm_buf found = LM_BUF(10000);
		forge(path, forgeries[i]);
		CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
		int r = lm_catalog_path_of(c, 3, &found, &err);
		if (r != -EPROTO)
			fail_msg("%s: %d %s", forgeries[i], r, lm_buf_cstr(&found));
		assert_int_equal(lm_catalog_path_of(c, 77, &found, &err), -ENOENT);
		assert_ok(lm_catalog_path_of(c, 5, &found, &err), &err);
	}
}

static void test_refused_chunks(void **state)
{
	static const char *const forgeries[] = {
		"DELETE FROM chunks WHERE offset = 0",
		"DELETE FROM chunks WHERE offset = 10",
		"DELETE FROM chunks WHERE offset = 20",
		"DELETE FROM chunks",
		"UPDATE chunks SET size = 11 WHERE offset = 0",
		"UPDATE chunks SET size = 9 WHERE offset = 0",
		"UPDATE chunks SET size = 6 WHERE offset = 20",
		"UPDATE chunks SET size = 0 WHERE offset = 10",
		"UPDATE chunks SET size = -10 WHERE offset = 10",
		"UPDATE chunks SET offset = -10 WHERE offset = 0",
		"UPDATE chunks SET size = 9223372036854775807 WHERE offset = 10",
		"UPDATE chunks SET hash = NULL WHERE offset = 10",
		"UPDATE chunks SET hash = zeroblob(21) WHERE offset = 10",
		"UPDATE chunks SET size = 'x' WHERE offset = 10",
		"INSERT INTO chunks SELECT md5path_1, md5path_2, 25, 5, hash FROM chunks WHERE offset = 0",
		"INSERT INTO chunks SELECT md5path_1, md5path_2, 10, 5, hash FROM chunks WHERE offset = 0",
		"INSERT INTO chunks SELECT md5path_1, md5path_2, 0, 10 + 1, hash FROM chunks WHERE offset = 0",
	};
	for (size_t i = 0; i < ARRAY_LEN(forgeries); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_freep) char *path = make_victim();
		CLEANUP(lm_row_done) struct lm_row row = {0};
		struct lm_chunk *chunks = NULL;
		size_t count;
		forge(path, forgeries[i]);
		CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
		lookup(c, "/d/c", &row);
		int r = lm_catalog_chunks(c, &row, 0, UINT64_MAX, &chunks, &count, &err);
		if (r != -EPROTO)
			fail_msg("%s: %d", forgeries[i], r);
		assert_null(chunks);
	}
}

static void test_refused_nested(void **state)
{
	static const char *const forgeries[] = {"path = '/n/..'", "path = ''", "path = 'n'", "path = '/n/'",
		"sha1 = 'abc'", "sha1 = NULL", "size = -1"};
	for (size_t i = 0; i < ARRAY_LEN(forgeries); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_freep) char *path = make_victim();
		CLEANUP(lm_freep) char *sql = lm_str_printf("UPDATE nested_catalogs SET %s", forgeries[i]);
		struct lm_nested nested;
		unsigned count = 0;
		forge(path, sql);
		CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
		int r = lm_catalog_nested(c, "/n", &nested, &err);
		assert_int_equal(r, strstr(forgeries[i], "path") ? -ENOENT : -EPROTO);
		assert_int_equal(lm_catalog_nested_each(c, count_nested, &count, &err), i == 1 ? 0 : -EPROTO);
		assert_int_equal(count, 0);
	}
	/* Bind mountpoints are found by name. */
	struct lm_err err = LM_ERR_INIT;
	struct lm_nested nested;
	CLEANUP(lm_freep) char *path = make_victim();
	forge(path,
		"INSERT INTO bind_mountpoints VALUES ('/.cvmfs/snap', '0123456789012345678901234567890123456789', 5)");
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
	assert_ok(lm_catalog_nested(c, "/.cvmfs/snap", &nested, &err), &err);
	free(nested.path);
}

static void test_refused_groups_and_counters(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = make_victim();
	uint64_t first;
	uint32_t members;
	forge(path, "UPDATE catalog SET mode = mode + 1 WHERE rowid = 8; DELETE FROM statistics WHERE counter = "
		    "'self_dir'");
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
	struct lm_counters self, subtree;
	assert_int_equal(lm_catalog_group(c, 1, &first, &members, &err), -ENOENT);
	assert_int_equal(lm_catalog_counters(c, &self, &subtree, &err), -EPROTO);
	lm_catalog_closep(&c);
	/* A malformed member is none. */
	forge(path, "UPDATE catalog SET size = -1 WHERE rowid = 8; INSERT INTO statistics VALUES ('self_dir', -1)");
	c = open_catalog(path, "");
	assert_ok(lm_catalog_group(c, 1, &first, &members, &err), &err);
	assert_int_equal(members, 1);
	assert_int_equal(lm_catalog_counters(c, &self, &subtree, &err), -EPROTO);
}

/* Every single byte of a small catalog turned over: no crash, no endless loop. */
static void test_flipped_bytes(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = make_victim();
	CLEANUP(lm_buf_done) struct lm_buf data = {0};
	read_whole(path, &data);
	unsigned seed = (unsigned)lm_now_us();
	printf("seed %u\n", seed);
	srand(seed);
	for (unsigned i = 0; i < 3000; i++) {
		size_t at = i < 100 ? i : (size_t)rand() % data.len;
		uint8_t old = data.data[at];
		data.data[at] = (uint8_t)rand();
		assert_ok(lm_file_replace(AT_FDCWD, path, data.data, data.len, 0600, 0, &err), &err);
		data.data[at] = old;
		CLEANUP(lm_catalog_closep) struct lm_catalog *c = NULL;
		if (lm_catalog_open(path, "", &c, &err) < 0)
			continue;
		unsigned listed = 0;
		struct lm_row row;
		uint64_t first;
		uint32_t members;
		if (lm_catalog_list(c, hash_of("/d"), 0, ignore_row, &listed, &err) == 0)
			assert_true(listed <= 2);
		for (uint64_t rowid = 0; rowid < 10; rowid++)
			if (lm_catalog_row(c, rowid, &row, &err) == 0)
				lm_row_done(&row);
		if (lm_catalog_group(c, 1, &first, &members, &err) == 0)
			assert_true(members <= 2);
	}
}

static int old_child(void *arg, const struct lm_nested *child, struct lm_counters *ret_self,
	struct lm_counters *ret_subtree, struct lm_err *err)
{
	(void)arg;
	(void)err;
	assert_string_equal(child->path, "/n");
	*ret_self = (struct lm_counters){.regular = 5, .dir = 2, .special = 1};
	*ret_subtree = (struct lm_counters){.regular = 3};
	return 0;
}

/* What SQLite says of all tables, columns and indexes. */
static char *schema_of(const char *path)
{
	sqlite3 *db = NULL;
	sqlite3_stmt *stmt = NULL;
	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	assert_int_equal(
		sqlite3_prepare_v2(db, "SELECT group_concat(sql, ';') FROM sqlite_schema", -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	char *schema = strdup((const char *)sqlite3_column_text(stmt, 0));
	sqlite3_finalize(stmt);
	sqlite3_close(db);
	return schema;
}

/* Edited, a catalog of an older schema comes out as a new one would. */
static void assert_upgraded(const char *old)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	CLEANUP(lm_buf_done) struct lm_buf data = {0};
	CLEANUP(lm_freep) char *path = new_path();
	CLEANUP(lm_freep) char *new = make_victim();
	struct lm_counters self, subtree;
	read_whole(old, &data);
	assert_ok(lm_file_replace(AT_FDCWD, path, data.data, data.len, 0600, 0, &err), &err);
	edit(path, "", &w);
	lm_catalog_writer_set_child_fn(w, old_child, NULL);
	insert(w, "/more", file_row(9));
	finish(&w);

	CLEANUP(lm_freep) char *schema = schema_of(path);
	CLEANUP(lm_freep) char *expected = schema_of(new);
	assert_string_equal(schema, expected);
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
	CLEANUP(lm_row_done) struct lm_row row = {0};
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	size_t count;
	uint64_t first;
	uint32_t members;
	assert_ok(lm_catalog_counters(c, &self, &subtree, &err), &err);
	assert_int_equal(self.regular, 5);
	assert_int_equal(self.dir, 3);
	assert_int_equal(self.chunks, 3);
	assert_int_equal(self.chunked, 1);
	assert_int_equal(subtree.regular, 8);
	assert_int_equal(subtree.special, 1);
	assert_int_equal(subtree.dir, 2);
	lookup(c, "/d/c", &row);
	assert_ok(lm_catalog_chunks(c, &row, 0, UINT64_MAX, &chunks, &count, &err), &err);
	assert_int_equal(count, 3);
	assert_ok(lm_catalog_group(c, 1, &first, &members, &err), &err);
	assert_int_equal(members, 2);
}

/* Revisions that long-lived repositories still have. */
static void test_old_schemas(void **state)
{
	static const char *const steps[] = {
		"ALTER TABLE catalog DROP COLUMN mtimens; UPDATE properties SET value = '6' WHERE key = "
		"'schema_revision'",
		"UPDATE properties SET value = '5' WHERE key = 'schema_revision'",
		"UPDATE properties SET value = '4' WHERE key = 'schema_revision'; "
		"DELETE FROM statistics WHERE counter LIKE '%special' OR counter LIKE '%chunk%' OR counter LIKE "
		"'%tree_file_size' OR counter = 'self_file_size'",
		"DROP TABLE bind_mountpoints; UPDATE properties SET value = '3' WHERE key = 'schema_revision'",
		"UPDATE properties SET value = '2' WHERE key = 'schema_revision'; "
		"DELETE FROM statistics WHERE counter LIKE '%external'",
		"ALTER TABLE catalog DROP COLUMN xattr; DELETE FROM statistics WHERE counter LIKE '%xattr'; "
		"UPDATE properties SET value = '1' WHERE key = 'schema_revision'",
		"ALTER TABLE nested_catalogs DROP COLUMN size; DELETE FROM properties WHERE key = 'schema_revision'",
		"UPDATE properties SET value = '2.4' WHERE key = 'schema'",
	};
	CLEANUP(lm_freep) char *path = make_victim();
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_row_done) struct lm_row row = {0};
		struct lm_counters self, subtree;
		struct lm_nested nested;
		forge(path, steps[i]);
		CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
		lookup(c, "/d/f", &row);
		assert_int_equal(row.size, 100);
		assert_ok(lm_catalog_counters(c, &self, &subtree, &err), &err);
		assert_int_equal(self.dir, 3);
		assert_ok(lm_catalog_nested(c, "/n", &nested, &err), &err);
		assert_int_equal(nested.size, i < 6 ? 1234 : 0);
		free(nested.path);
		assert_upgraded(path);
	}
	/* A later revision only adds. */
	CLEANUP(lm_freep) char *later = make_victim();
	forge(later, "UPDATE properties SET value = '8' WHERE key = 'schema_revision'");
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(later, "");
	assert_int_equal(lm_catalog_revision(c), 3);
}

enum { THREADS = 4, THREAD_STEPS = 300 };

/* No assert_* in here: cmocka's are for the main thread. */
static void *use_in_thread(void *arg)
{
	struct lm_catalog *c = arg;
	size_t wrong = 0;
	for (unsigned i = 0; i < THREAD_STEPS; i++) {
		struct lm_row row;
		struct lm_chunk *chunks = NULL;
		size_t count = 0;
		uint64_t first = 0;
		uint32_t members = 0;
		unsigned listed = 0;
		if (lm_catalog_lookup(c, hash_of("/d/c"), &row, NULL) < 0)
			return (void *)1;
		wrong += lm_catalog_chunks(c, &row, 0, UINT64_MAX, &chunks, &count, NULL) < 0 || count != 3;
		wrong += strcmp(row.name, "c") != 0;
		wrong += lm_catalog_list(c, hash_of("/d"), 0, ignore_row, &listed, NULL) < 0 || listed != 2;
		wrong += lm_catalog_group(c, 1, &first, &members, NULL) < 0 || first != 7 || members != 2;
		lm_row_done(&row);
		free(chunks);
	}
	return (void *)wrong;
}

static void test_threads(void **state)
{
	CLEANUP(lm_freep) char *path = make_victim();
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "");
	pthread_t threads[THREADS];
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, use_in_thread, c), 0);
	for (size_t i = 0; i < THREADS; i++) {
		void *wrong;
		assert_int_equal(pthread_join(threads[i], &wrong), 0);
		assert_null(wrong);
	}
}

static void test_speed(void **state)
{
	enum { ROWS = 200000, LOOKUPS = 100000 };
	CLEANUP(lm_freep) char *path = new_path();
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	char name[64];
	int64_t start = lm_now_us();
	create(path, "/layer", &w);
	for (unsigned i = 0; i < ROWS; i++) {
		bool folder = i % 100 == 0;
		snprintf(name, sizeof(name), folder ? "/layer/d%u" : "/layer/d%u/file%u", i / 100, i);
		insert(w, name, folder ? dir_row() : file_row((uint8_t)i));
	}
	int64_t inserted = lm_now_us();
	finish(&w);
	int64_t finished = lm_now_us();
	CLEANUP(lm_catalog_closep) struct lm_catalog *c = open_catalog(path, "/layer");
	uint64_t seed = 1;
	for (unsigned i = 0; i < LOOKUPS; i++) {
		CLEANUP(lm_row_done) struct lm_row row = {0};
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		unsigned n = (unsigned)(seed >> 33) % ROWS;
		snprintf(name, sizeof(name), n % 100 == 0 ? "/layer/d%u" : "/layer/d%u/file%u", n / 100, n);
		lookup(c, name, &row);
	}
	int64_t looked = lm_now_us();
	printf("%d rows: insert %lld ms, finish %lld ms, lookup %.2f us\n", ROWS, (long long)(inserted - start) / 1000,
		(long long)(finished - inserted) / 1000, (double)(looked - finished) / LOOKUPS);
	assert_true(finished - start < 60 * 1000000); /* far off only: sanitizers, loaded machines */
	assert_true(looked - finished < (int64_t)LOOKUPS * 1000);
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
		cmocka_unit_test(test_refused_rows),
		cmocka_unit_test(test_chunks),
		cmocka_unit_test(test_groups),
		cmocka_unit_test(test_list),
		cmocka_unit_test(test_plans),
		cmocka_unit_test(test_half),
		cmocka_unit_test(test_schema),
		cmocka_unit_test(test_edit_like_new),
		cmocka_unit_test(test_many_nested),
		cmocka_unit_test(test_refused_databases),
		cmocka_unit_test(test_refused_files),
		cmocka_unit_test(test_refused_content),
		cmocka_unit_test(test_tolerated_content),
		cmocka_unit_test(test_refused_links),
		cmocka_unit_test(test_refused_paths),
		cmocka_unit_test(test_refused_chunks),
		cmocka_unit_test(test_refused_nested),
		cmocka_unit_test(test_refused_groups_and_counters),
		cmocka_unit_test(test_flipped_bytes),
		cmocka_unit_test(test_old_schemas),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_speed),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
