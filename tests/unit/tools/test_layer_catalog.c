#include "base/file.h"
#include "base/str.h"
#include "convert/image_json.h"
#include "convert/layer_catalog.h"
#include "convert/layer_opaque.h"
#include "convert/layer_tar.h"
#include "convert_test.h"
#include "repo/object_store.h"
#include "repo/xattr.h"

#include <jansson.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define MOUNTPOINT "/.layers/ab/abcd"
#define LAYER MOUNTPOINT "/layerfs"

struct fixture {
	char dir[64], db[80];
	struct lm_storage *storage;
	struct lm_packing *packing;
	struct lm_buf tar, losses;
	struct lm_layer_tree *tree;
	struct lm_catalog *catalog;
	struct lm_counters counters;
	struct lm_layer_limits limits;
	struct nested {
		char path[256];
		struct lm_catalog *catalog;
		struct lm_hash hash;
	} nested[8]; /* in the order in which they were stored */
	size_t nested_count;
	struct lm_err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->tar = LM_BUF(64 << 20);
	f->losses = LM_BUF(1 << 20);
	f->limits = lm_layer_limits;
	strcpy(f->dir, "/tmp/lamella-test-XXXXXX");
	*state = f;
	if (!mkdtemp(f->dir) || lm_storage_dir_open(f->dir, true, &f->storage, NULL) < 0 ||
		lm_packing_new(f->storage, LM_HASH_SHAKE128, 2, 1 << 20, &f->packing, NULL) < 0)
		return -1;
	snprintf(f->db, sizeof(f->db), "%s/db", f->dir);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_catalog_close(f->catalog);
	for (size_t i = 0; i < f->nested_count; i++)
		lm_catalog_close(f->nested[i].catalog);
	lm_layer_tree_free(f->tree);
	lm_packing_free(f->packing);
	lm_storage_free(f->storage);
	lm_buf_done(&f->tar);
	lm_buf_done(&f->losses);
	int r = lm_remove_tree(AT_FDCWD, f->dir, NULL);
	free(f);
	return r;
}

static void on_loss(void *arg, const char *path, const char *what)
{
	struct fixture *f = arg;
	assert_int_equal(lm_buf_printf(&f->losses, "%s: %s\n", path, what), 0);
}

static int nothing(void *arg, size_t index, const char *path, struct lm_row *ret, struct lm_err *err)
{
	return -ENOENT;
}

/* As a transaction does, and keeps the catalog open. */
static int store_nested(
	void *arg, const char *mountpoint, const char *db_path, struct lm_finished *ret, struct lm_err *err)
{
	struct fixture *f = arg;
	assert_true(f->nested_count < ARRAY_LEN(f->nested));
	struct nested *nested = &f->nested[f->nested_count++];
	char copy[96];
	snprintf(nested->path, sizeof(nested->path), "%s", mountpoint);
	snprintf(copy, sizeof(copy), "%s/nested-%zu", f->dir, f->nested_count);
	int r = lm_object_store_file(
		f->storage, LM_HASH_SHAKE128, LM_OBJECT_CATALOG, db_path, &ret->hash, &ret->size, err);
	if (r == 0)
		r = lm_object_load_file(f->storage, &ret->hash, LM_OBJECT_CATALOG, 1 << 20, copy, err);
	if (r == 0)
		r = lm_catalog_open(copy, mountpoint, &nested->catalog, err);
	if (r == 0)
		r = lm_catalog_lookup(nested->catalog, lm_path_hash(mountpoint, strlen(mountpoint)), &ret->root, err);
	nested->hash = ret->hash;
	return r < 0 ? r : lm_catalog_counters(nested->catalog, &ret->self, &ret->subtree, err);
}

static struct nested *nested_at(struct fixture *f, const char *path)
{
	for (size_t i = 0; i < f->nested_count; i++)
		if (strcmp(f->nested[i].path, path) == 0)
			return &f->nested[i];
	fail_msg("no catalog at %s", path);
	return NULL;
}

/* Tree to catalogs; the one at the top is then open for reading. */
static void write_catalogs(struct fixture *f, int64_t time_s)
{
	struct lm_layer_extra extras[] = {
		{.path = ".cvmfscatalog"}, {.path = ".metadata/"}, {.path = ".metadata/x", .size = 3}};
	assert_int_equal(lm_packing_data(f->packing, "", 0, &extras[0].hash, NULL), 0);
	assert_int_equal(lm_packing_data(f->packing, "abc", 3, &extras[2].hash, NULL), 0);
	const struct lm_layer_content content = {
		.mountpoint = MOUNTPOINT,
		.tree = f->tree,
		.extras = extras,
		.extra_count = ARRAY_LEN(extras),
		.nothing = extras[0].hash,
		.time_s = time_s,
	};
	const struct lm_layer_store store = {store_nested, f};
	const struct lm_layer_loss loss = {on_loss, f};
	int r = lm_layer_catalog_write(f->db, &content, &f->limits, &store, &loss, &f->counters, &f->err);
	if (r == 0)
		r = lm_catalog_open(f->db, MOUNTPOINT, &f->catalog, &f->err);
	if (r < 0)
		print_error("%s\n", f->err.msg);
	assert_int_equal(r, 0);
}

static void convert(struct fixture *f)
{
	struct tm_input input = {&f->tar, 0, 65536};
	tm_end(&f->tar);
	const struct lm_layer_below below = {.lookup = nothing, .count = 1};
	int r = lm_layer_read(tm_read, &input, &below, f->packing, &f->tree, &f->err);
	if (r < 0)
		print_error("%s\n", f->err.msg);
	assert_int_equal(r, 0);
	write_catalogs(f, 1234);
}

static struct lm_row row_at(struct fixture *f, const char *path)
{
	struct lm_row row = {0};
	int r = lm_catalog_lookup(f->catalog, lm_path_hash(path, strlen(path)), &row, &f->err);
	if (r < 0)
		print_error("%s: %s\n", path, f->err.msg);
	assert_int_equal(r, 0);
	return row;
}

/* Of a file of LM_CHUNKED_ABOVE + 100 bytes. */
static void expect_chunks(struct fixture *f, const char *path, size_t size)
{
	CLEANUP(lm_row_done) struct lm_row row = row_at(f, path);
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	size_t count;
	assert_false(row.hash.set);
	assert_int_equal(lm_catalog_chunks(f->catalog, &row, 0, UINT64_MAX, &chunks, &count, &f->err), 0);
	assert_int_equal(count, LM_CHUNKED_ABOVE / size + 1);
	for (size_t i = 0; i < count; i++) {
		assert_int_equal(chunks[i].offset, i * size);
		assert_int_equal(chunks[i].size, i + 1 < count ? size : 100);
		assert_int_equal(chunks[i].hash.algo, LM_HASH_SHAKE128);
	}
}

static void test_rows(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_buf_done) struct lm_buf pax = LM_BUF(1 << 20);
	CLEANUP(lm_freep) uint8_t *big = calloc(1, LM_CHUNKED_ABOVE + 100);
	tm_record(&pax, "mtime", "1600000000.5", 12);
	tm_record(&pax, "SCHILY.xattr.user.k", "v", 1);
	tm_extension(&f->tar, 'x', &pax);
	tm_file(&f->tar, (struct tm_header){.name = "a/file", .mode = 04755, .uid = 1, .gid = 2}, "hello", 5);
	tm_file(&f->tar, (struct tm_header){.name = "a/big"}, big, LM_CHUNKED_ABOVE + 100);
	memcpy(big, "SQLite format 3", 16);
	tm_file(&f->tar, (struct tm_header){.name = "a/database"}, big, LM_CHUNKED_ABOVE + 100);
	big[15] = ' ';
	tm_file(&f->tar, (struct tm_header){.name = "a/no-database"}, big, LM_CHUNKED_ABOVE + 100);
	tm_block(&f->tar, (struct tm_header){.name = "link", .type = '2', .link = "\xff/x"});
	tm_block(&f->tar, (struct tm_header){.name = "dev", .type = '3', .major = 10, .minor = 300});
	tm_block(&f->tar, (struct tm_header){.name = "fifo", .type = '6'});
	tm_block(&f->tar, (struct tm_header){.name = "a/.wh.gone"});
	tm_block(&f->tar, (struct tm_header){.name = "a/.wh..wh..opq"});
	convert(f);

	CLEANUP(lm_row_done) struct lm_row file = row_at(f, LAYER "/a/file");
	assert_int_equal(file.mode, S_IFREG | 04755);
	assert_int_equal(file.uid, 1);
	assert_int_equal(file.gid, 2);
	assert_int_equal(file.size, 5);
	assert_int_equal(file.mtime_s, 1600000000);
	assert_int_equal(file.mtime_ns, 500000000);
	assert_int_equal(file.hash.algo, LM_HASH_SHAKE128);
	assert_int_equal(file.link_group, 0);
	struct lm_xattr x;
	assert_int_equal(lm_xattr_find(file.xattr, file.xattr_len, "user.k", &x), 0);

	expect_chunks(f, LAYER "/a/big", LM_CHUNK_SIZE);
	expect_chunks(f, LAYER "/a/database", LM_CHUNK_SIZE_DATABASE);
	expect_chunks(f, LAYER "/a/no-database", LM_CHUNK_SIZE);

	CLEANUP(lm_row_done) struct lm_row link = row_at(f, LAYER "/link");
	assert_string_equal(link.symlink, "\xff/x");
	assert_int_equal(link.size, 3);
	CLEANUP(lm_row_done) struct lm_row dev = row_at(f, LAYER "/dev");
	assert_int_equal(dev.rdev, makedev(10, 300));
	CLEANUP(lm_row_done) struct lm_row fifo = row_at(f, LAYER "/fifo");
	assert_true(S_ISFIFO(fifo.mode));
	CLEANUP(lm_row_done) struct lm_row gone = row_at(f, LAYER "/a/gone");
	assert_int_equal(gone.mode, 020000);
	assert_int_equal(gone.rdev, 0);
	CLEANUP(lm_row_done) struct lm_row dir = row_at(f, LAYER "/a");
	assert_int_equal(lm_xattr_find(dir.xattr, dir.xattr_len, LM_OVERLAY_OPAQUE, &x), 0);
	assert_int_equal(dir.size, 4096);

	CLEANUP(lm_row_done) struct lm_row root = row_at(f, MOUNTPOINT);
	assert_int_equal(root.rowid, 1);
	assert_int_equal(root.mtime_s, 1234);
	CLEANUP(lm_row_done) struct lm_row marker = row_at(f, MOUNTPOINT "/.cvmfscatalog");
	assert_int_equal(marker.size, 0);
	CLEANUP(lm_row_done) struct lm_row extra = row_at(f, MOUNTPOINT "/.metadata/x");
	assert_int_equal(extra.size, 3);
	assert_int_equal(f->counters.regular, 6);
	assert_int_equal(f->counters.special, 3);
	assert_int_equal(f->counters.chunked, 3);
	assert_int_equal(f->losses.len, 0);
}

/* A client that expands what is written gets what the layer has. */
static void test_targets_with_variables(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *target, *written;
	} links[] = {
		{"$(X)/a", "$(LAMELLA_NEVER_SET:-$)(X)/a"},
		{"a$(X)$(Y:-z)", "a$(LAMELLA_NEVER_SET:-$)(X)$(LAMELLA_NEVER_SET:-$)(Y:-z)"},
		{"a)$(X", "a)$(X"},
		{"$X$$(y)", "$X$$(LAMELLA_NEVER_SET:-$)(y)"},
		{"$", "$"},
	};
	char name[2] = "0";
	for (size_t i = 0; i < ARRAY_LEN(links); i++, name[0]++)
		tm_block(&f->tar, (struct tm_header){.name = name, .type = '2', .link = links[i].target});
	CLEANUP(lm_freep) char *longest = malloc(4096);
	memset(longest, 'x', 4095);
	memcpy(longest, "$(X)", 4);
	longest[4095] = '\0';
	tm_pax(&f->tar, "linkpath", longest);
	tm_block(&f->tar, (struct tm_header){.name = "long", .type = '2'});
	convert(f);
	for (size_t i = 0; i < ARRAY_LEN(links); i++) {
		char path[64];
		snprintf(path, sizeof(path), LAYER "/%zu", i);
		CLEANUP(lm_row_done) struct lm_row row = row_at(f, path);
		assert_string_equal(row.symlink, links[i].written);
		assert_int_equal(row.size, strlen(links[i].written));
	}
	CLEANUP(lm_row_done) struct lm_row row = row_at(f, LAYER "/long");
	assert_string_equal(row.symlink, longest);
	assert_non_null(strstr(lm_buf_cstr(&f->losses), "/long: target"));
}

/* Groups may have members in several directories; what had only one name left is no group. */
static void test_link_groups(void **state)
{
	struct fixture *f = *state;
	tm_file(&f->tar, (struct tm_header){.name = "a/1"}, "x", 1);
	tm_block(&f->tar, (struct tm_header){.name = "a/2", .type = '1', .link = "a/1"});
	tm_block(&f->tar, (struct tm_header){.name = "b/3", .type = '1', .link = "a/2"});
	tm_file(&f->tar, (struct tm_header){.name = "alone"}, "x", 1);
	tm_block(&f->tar, (struct tm_header){.name = "gone", .type = '1', .link = "alone"});
	tm_file(&f->tar, (struct tm_header){.name = "gone"}, "y", 1);
	tm_block(&f->tar, (struct tm_header){.name = "s1", .type = '2', .link = "x"});
	tm_block(&f->tar, (struct tm_header){.name = "s2", .type = '1', .link = "s1"});
	convert(f);
	CLEANUP(lm_row_done)
	struct lm_row r1 = row_at(f, LAYER "/a/1"), r2 = row_at(f, LAYER "/a/2"), r3 = row_at(f, LAYER "/b/3"),
		      alone = row_at(f, LAYER "/alone"), s1 = row_at(f, LAYER "/s1"), s2 = row_at(f, LAYER "/s2");
	assert_int_not_equal(r1.link_group, 0);
	assert_int_equal(r1.link_group, r2.link_group);
	assert_int_equal(r1.link_group, r3.link_group);
	assert_int_equal(alone.link_group, 0);
	assert_int_not_equal(s1.link_group, 0);
	assert_int_not_equal(s1.link_group, r1.link_group);
	assert_int_equal(s1.link_group, s2.link_group);
	uint64_t first;
	uint32_t members;
	assert_int_equal(lm_catalog_group(f->catalog, r1.link_group, &first, &members, NULL), 0);
	assert_int_equal(members, 3);
}

static int note_rowid(void *arg, struct lm_row *row)
{
	uint64_t **next = arg;
	*(*next)++ = row->rowid;
	return 0;
}

static void test_children_are_neighbours(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = {"a/x/1", "b/1", "a/2", "c", "a/x/2", "b/2", "a/3"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		tm_file(&f->tar, (struct tm_header){.name = names[i]}, "", 0);
	convert(f);
	static const char *const dirs[] = {LAYER, LAYER "/a", LAYER "/a/x", LAYER "/b"};
	static const size_t counts[] = {3, 3, 2, 2};
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
		uint64_t rowids[8], *next = rowids;
		assert_int_equal(
			lm_catalog_list(f->catalog, lm_path_hash(dirs[i], strlen(dirs[i])), 0, note_rowid, &next, NULL),
			0);
		assert_int_equal(next - rowids, counts[i]);
		for (size_t k = 1; k < counts[i]; k++)
			assert_int_equal(rowids[k], rowids[k - 1] + 1);
	}
}

static void test_losses(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_buf_done) struct lm_buf pax = LM_BUF(1 << 20);
	char value[300], key[64];
	memset(value, 'v', sizeof(value));
	tm_record(&pax, "SCHILY.xattr.user.fits", value, 255);
	tm_record(&pax, "SCHILY.xattr.user.long", value, 256);
	tm_extension(&f->tar, 'x', &pax);
	tm_file(&f->tar, (struct tm_header){.name = "a"}, "", 0);
	tm_block(&f->tar, (struct tm_header){.name = "b", .type = '1', .link = "a"});
	lm_buf_clear(&pax);
	for (int i = 0; i < 257; i++) {
		snprintf(key, sizeof(key), "SCHILY.xattr.user.%d", i);
		tm_record(&pax, key, "", 0);
	}
	tm_extension(&f->tar, 'x', &pax);
	tm_file(&f->tar, (struct tm_header){.name = "many"}, "", 0);
	/* What is not there any more is no loss. */
	tm_extension(&f->tar, 'x', &pax);
	tm_file(&f->tar, (struct tm_header){.name = "replaced"}, "", 0);
	tm_file(&f->tar, (struct tm_header){.name = "replaced"}, "", 0);
	convert(f);
	const char *text = lm_buf_cstr(&f->losses);
	assert_non_null(
		strstr(text, "/a: attribute user.long left out: its value has 256 bytes, the format holds 255\n"));
	assert_non_null(strstr(text, "/b: attribute user.long left out"));
	assert_non_null(strstr(text, "/many: attribute user.255 left out"));
	assert_non_null(strstr(text, "/many: attribute user.256 left out"));
	assert_null(strstr(text, "/replaced"));
	CLEANUP(lm_row_done) struct lm_row a = row_at(f, LAYER "/a");
	struct lm_xattr x;
	assert_int_equal(lm_xattr_find(a.xattr, a.xattr_len, "user.fits", &x), 0);
	assert_int_equal(x.value_len, 255);
	assert_int_equal(lm_xattr_find(a.xattr, a.xattr_len, "user.long", &x), -ENODATA);
	CLEANUP(lm_row_done) struct lm_row many = row_at(f, LAYER "/many");
	assert_int_equal(lm_xattr_find(many.xattr, many.xattr_len, "user.254", &x), 0);
}

static struct lm_row nested_row(struct fixture *f, struct nested *nested, const char *path)
{
	struct lm_row row = {0};
	assert_int_equal(lm_catalog_lookup(nested->catalog, lm_path_hash(path, strlen(path)), &row, &f->err), 0);
	return row;
}

static void add_files(struct fixture *f, const char *dir, int count)
{
	char name[64];
	for (int i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "%s/%d", dir, i);
		tm_file(&f->tar, (struct tm_header){.name = name}, "x", 1);
	}
}

static void test_catalogs_inside(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_buf_done) struct lm_buf pax = LM_BUF(1 << 20);
	f->limits = (struct lm_layer_limits){.whole = 10, .least = 8, .joined = 0};
	tm_record(&pax, "SCHILY.xattr.user.k", "v", 1);
	tm_extension(&f->tar, 'x', &pax);
	tm_block(&f->tar, (struct tm_header){.name = "a/", .type = '5', .mode = 0700, .uid = 7, .mtime = 99});
	add_files(f, "a", 8);
	add_files(f, "a/deep/down", 9);
	add_files(f, "small", 5);
	convert(f);

	/* The innermost one first. */
	assert_int_equal(f->nested_count, 2);
	assert_string_equal(f->nested[0].path, LAYER "/a/deep/down");
	assert_string_equal(f->nested[1].path, LAYER "/a");
	struct nested *a = &f->nested[1];
	struct lm_nested named;
	assert_int_equal(lm_catalog_nested(f->catalog, LAYER "/a", &named, NULL), 0);
	assert_true(lm_hash_equal(&named.hash, &a->hash));
	free(named.path);
	assert_int_equal(lm_catalog_nested(a->catalog, LAYER "/a/deep/down", &named, NULL), 0);
	assert_true(lm_hash_equal(&named.hash, &f->nested[0].hash));
	free(named.path);

	/* Both rows of the directory say the same. */
	CLEANUP(lm_row_done)
	struct lm_row mountpoint = row_at(f, LAYER "/a"), root = nested_row(f, a, LAYER "/a"),
		      marker = nested_row(f, a, LAYER "/a/.cvmfscatalog"), file = nested_row(f, a, LAYER "/a/7");
	struct lm_xattr x;
	assert_int_equal(mountpoint.flags, LM_ROW_DIR | LM_ROW_MOUNTPOINT);
	assert_int_equal(root.flags, LM_ROW_DIR | LM_ROW_NESTED_ROOT);
	assert_int_equal(root.rowid, 1);
	assert_int_equal(mountpoint.mode, S_IFDIR | 0700);
	assert_int_equal(root.mode, mountpoint.mode);
	assert_int_equal(mountpoint.uid, 7);
	assert_int_equal(mountpoint.mtime_s, root.mtime_s);
	assert_int_equal(mountpoint.link_count, 3);
	assert_int_equal(root.link_count, 3);
	assert_int_equal(lm_xattr_find(mountpoint.xattr, mountpoint.xattr_len, "user.k", &x), 0);
	assert_int_equal(lm_xattr_find(root.xattr, root.xattr_len, "user.k", &x), 0);
	assert_int_equal(marker.flags, LM_ROW_FILE | LM_ROW_HIDDEN);
	assert_int_equal(file.size, 1);
	struct lm_row none;
	assert_int_equal(
		lm_catalog_lookup(f->catalog, lm_path_hash(LAYER "/a/7", strlen(LAYER "/a/7")), &none, NULL), -ENOENT);

	/* Counted as if they were one: 3 of the layer's own; /, /.metadata, /layerfs, a, deep, down, small. */
	struct lm_counters self, subtree;
	assert_int_equal(f->counters.regular, 2 + 8 + 9 + 5);
	assert_int_equal(f->counters.dir, 7);
	assert_int_equal(f->counters.nested, 2);
	assert_int_equal(f->counters.file_size, 3 + 8 + 9 + 5);
	assert_int_equal(lm_catalog_counters(f->catalog, &self, &subtree, NULL), 0);
	assert_int_equal(self.nested, 1);
	assert_int_equal(subtree.nested, 1);
	assert_int_equal(subtree.regular, 8 + 9 + 2);
}

/* What is in nested catalogs depends on the layer alone. */
static void test_catalogs_inside_repeat(void **state)
{
	struct fixture *f = *state;
	f->limits = (struct lm_layer_limits){.whole = 0, .least = 4, .joined = 0};
	add_files(f, "a", 5);
	add_files(f, "b", 5);
	convert(f);
	assert_int_equal(f->nested_count, 2);
	lm_catalog_close(STEAL(f->catalog));
	assert_int_equal(unlink(f->db), 0);
	write_catalogs(f, 999999);
	assert_int_equal(f->nested_count, 4);
	assert_true(lm_hash_equal(&f->nested[0].hash, &f->nested[2].hash));
	assert_true(lm_hash_equal(&nested_at(f, LAYER "/a")->hash, &f->nested[3].hash));
}

/* A store that fails ends it, and nothing is left beside. */
static int store_fails(
	void *arg, const char *mountpoint, const char *db_path, struct lm_finished *ret, struct lm_err *err)
{
	return lm_err_set(err, -ENOSPC, "no room");
}

static void test_catalogs_inside_fail(void **state)
{
	struct fixture *f = *state;
	add_files(f, "a", 5);
	convert(f);
	const struct lm_layer_limits limits = {.whole = 0, .least = 4, .joined = 0};
	const struct lm_layer_content content = {.mountpoint = MOUNTPOINT, .tree = f->tree};
	const struct lm_layer_store store = {store_fails, NULL};
	const struct lm_layer_loss loss = {on_loss, f};
	CLEANUP(lm_freep) char *db = lm_str_printf("%s/other", f->dir);
	CLEANUP(lm_freep) char *nested = lm_str_printf("%s.nested", db);
	struct lm_hash hash;
	assert_int_equal(lm_packing_data(f->packing, "", 0, &hash, NULL), 0);
	struct lm_layer_content with_marker = content;
	with_marker.nothing = hash;
	struct lm_counters counters;
	assert_int_equal(lm_layer_catalog_write(db, &with_marker, &limits, &store, &loss, &counters, &f->err), -ENOSPC);
	assert_int_equal(access(nested, F_OK), -1);
}

/* --- the JSON files beside the tree --- */

#define D "sha256:"
#define H(c) c c c c c c c c c c c c c c c c
#define A D H("aaaa")
#define B D H("bbbb")

static void test_layers_json(void **state)
{
	const struct lm_layer layer = {.digest = A, .diff_id = B};
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(10000);
	assert_int_equal(lm_layers_json(&layer, "2026-01-02T03:04:05Z", 12345, &text, NULL), 0);
	assert_string_equal(lm_buf_cstr(&text),
		"[\n {\n  \"id\": \"" H("bbbb") "\",\n  \"created\": \"2026-01-02T03:04:05Z\",\n"
						"  \"compressed-diff-digest\": \"" A "\",\n  \"diff-digest\": \"" B
						"\",\n  \"diff-size\": 12345\n }\n]");
}

static void test_origin_json(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(10000);
	bool changed = false;
	assert_int_equal(lm_origin_json_add(&text, A, &changed, NULL), 0);
	assert_true(changed);
	assert_string_equal(lm_buf_cstr(&text), "{\"origin\":[\"" A "\"]}");
	assert_int_equal(lm_origin_json_add(&text, B, &changed, NULL), 0);
	assert_true(changed);
	assert_string_equal(lm_buf_cstr(&text), "{\"origin\":[\"" A "\",\"" B "\"]}");
	assert_int_equal(lm_origin_json_add(&text, A, &changed, NULL), 0);
	assert_false(changed);
	static const char *const bad[] = {"x", "{}", "[]", "{\"origin\":{}}"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		lm_buf_clear(&text);
		tm_append(&text, bad[i], strlen(bad[i]));
		assert_int_equal(lm_origin_json_add(&text, A, &changed, NULL), -EPROTO);
	}
}

static void test_manifest_json(void **state)
{
	struct lm_layer layer = {.digest = B, .size = 7, .media_type = (char *)"layer/type"};
	const struct lm_image image = {.config_digest = A,
		.config_size = 5,
		.manifest_type = (char *)"manifest/type",
		.config_type = (char *)"config/type",
		.layers = &layer,
		.layer_count = 1};
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(10000);
	assert_int_equal(lm_manifest_json(&image, &text, NULL), 0);
	assert_string_equal(lm_buf_cstr(&text),
		"{\"SchemaVersion\":2,\"MediaType\":\"manifest/type\",\"Config\":{\"MediaType\":\"config/"
		"type\",\"Size\":5,"
		"\"Digest\":\"" A "\"},\"Layers\":[{\"MediaType\":\"layer/type\",\"Size\":7,\"Digest\":\"" B "\"}]}");
}

static bool is_there(struct fixture *f, const char *path)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_err err = LM_ERR_INIT;
	int r = lm_catalog_lookup(f->catalog, lm_path_hash(path, strlen(path)), &row, &err);
	assert_true(r == 0 || r == -ENOENT);
	return r == 0;
}

static int count_whiteout(void *arg, struct lm_row *row)
{
	unsigned *counts = arg;
	assert_true(row->rdev == 0);
	counts[row->mode == S_IFCHR]++;
	assert_true(row->mode == S_IFCHR || row->mode == (S_IFDIR | 0755));
	return 0;
}

/* What is in a directory below the opaque tree: directories and whiteouts. */
static void expect_opaque(struct fixture *f, const char *path, unsigned dirs, unsigned whiteouts)
{
	unsigned counts[2] = {0};
	assert_int_equal(
		lm_catalog_list(f->catalog, lm_path_hash(path, strlen(path)), 0, count_whiteout, counts, &f->err), 0);
	assert_int_equal(counts[false], dirs);
	assert_int_equal(counts[true], whiteouts);
}

#define OPAQUE MOUNTPOINT "/opaque"

static void test_opaque_tree(void **state)
{
	struct fixture *f = *state;
	static const char *const marked[] = {"", "z/", "a/b/c/", "a/b/d/", "a/b/c/inside/", "a/e/", "f/"};
	char name[64];
	tm_block(&f->tar, (struct tm_header){.name = "a/b/file"});
	for (size_t i = 0; i < ARRAY_LEN(marked); i++) {
		snprintf(name, sizeof(name), "%s.wh..wh..opq", marked[i]);
		tm_block(&f->tar, (struct tm_header){.name = name});
	}
	tm_block(&f->tar, (struct tm_header){.name = "g/plain"});
	convert(f);
	expect_opaque(f, OPAQUE, 1, 2);
	expect_opaque(f, OPAQUE "/a", 1, 1);
	expect_opaque(f, OPAQUE "/a/b", 0, 2);
	static const char *const whiteouts[] = {"/z", "/f", "/a/e", "/a/b/c", "/a/b/d"};
	for (size_t i = 0; i < ARRAY_LEN(whiteouts); i++) {
		snprintf(name, sizeof(name), OPAQUE "%s", whiteouts[i]);
		CLEANUP(lm_row_done) struct lm_row row = row_at(f, name);
		assert_int_equal(row.mode, S_IFCHR);
	}
	/* The layer itself is as it would be without. */
	struct lm_xattr x;
	CLEANUP(lm_row_done) struct lm_row row = row_at(f, LAYER "/a/b/c/inside");
	assert_int_equal(lm_xattr_find(row.xattr, row.xattr_len, LM_OVERLAY_OPAQUE, &x), 0);
}

/* Attributes beside the mark, of the same directory and of another name. */
static void test_no_opaque_tree(void **state)
{
	for (int k = 0; k < 3; k++) {
		void *own;
		assert_int_equal(setup(&own), 0);
		struct fixture *f = own;
		CLEANUP(lm_buf_done) struct lm_buf pax = LM_BUF(1 << 20);
		tm_record(&pax, "SCHILY.xattr.user.k", "v", 1);
		if (k > 0)
			tm_extension(&f->tar, 'x', &pax);
		tm_block(&f->tar, (struct tm_header){.name = k == 1 ? "d" : "e", .type = '5'});
		if (k > 0)
			tm_block(&f->tar, (struct tm_header){.name = "d/.wh..wh..opq"});
		convert(f);
		assert_false(is_there(f, OPAQUE));
		assert_int_equal(teardown(&own), 0);
	}
}

static void test_large_opaque_tree(void **state)
{
	for (int more = 0; more < 2; more++) {
		void *own;
		assert_int_equal(setup(&own), 0);
		struct fixture *f = own;
		char name[64];
		/* The directory above them is one row, too. */
		for (int i = 1; i < LM_LAYER_OPAQUE_MAX + more; i++) {
			snprintf(name, sizeof(name), "above/d%d/.wh..wh..opq", i);
			tm_block(&f->tar, (struct tm_header){.name = name});
		}
		convert(f);
		assert_int_equal(is_there(f, OPAQUE), !more);
		if (!more)
			expect_opaque(f, OPAQUE "/above", 0, LM_LAYER_OPAQUE_MAX - 1);
		assert_int_equal(teardown(&own), 0);
	}
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_rows),
		TEST(test_targets_with_variables),
		TEST(test_link_groups),
		TEST(test_children_are_neighbours),
		TEST(test_losses),
		TEST(test_catalogs_inside),
		TEST(test_catalogs_inside_repeat),
		TEST(test_catalogs_inside_fail),
		TEST(test_opaque_tree),
		cmocka_unit_test(test_no_opaque_tree),
		cmocka_unit_test(test_large_opaque_tree),
		cmocka_unit_test(test_layers_json),
		cmocka_unit_test(test_origin_json),
		cmocka_unit_test(test_manifest_json),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
