/* A layer as it is published against the same layer as it comes from elsewhere, changed. */
#include "base/file.h"
#include "base/str.h"
#include "convert/chain_image.h"
#include "convert/chain_tree.h"
#include "convert/layer_catalog.h"
#include "convert/layer_tar.h"
#include "convert/merge.h"
#include "convert/verify_internal.h"
#include "convert_test.h"
#include "repo/object_store.h"

#include <fcntl.h>
#include <sys/stat.h>

#define MOUNTPOINT "/.layers/ab/abcd"

struct fixture {
	char dir[64];
	struct lm_repo_source repo;
	struct lm_packing *packing, *hashing;
	struct lm_published_top top;
	struct lm_buf tar;
	struct lm_layer_limits limits;
	struct lm_verify_part part;
	struct lm_err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->tar = LM_BUF(64 << 20);
	f->limits = lm_layer_limits;
	strcpy(f->dir, "/tmp/lamella-test-XXXXXX");
	*state = f;
	return !mkdtemp(f->dir) || lm_storage_dir_open(f->dir, true, &f->repo.storage, NULL) < 0 ||
	       lm_packing_new(f->repo.storage, LM_HASH_SHA1, 2, 1 << 20, &f->packing, NULL) < 0 ||
	       lm_packing_new(NULL, LM_HASH_SHA1, 2, 1 << 20, &f->hashing, NULL) < 0;
}

static void forget_findings(struct fixture *f)
{
	for (size_t i = 0; i < f->part.shown; i++) {
		free(f->part.findings[i].path);
		free(f->part.findings[i].text);
	}
	f->part = (struct lm_verify_part){0};
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	forget_findings(f);
	lm_published_top_done(&f->top);
	lm_packing_free(f->hashing);
	lm_packing_free(f->packing);
	lm_storage_free(f->repo.storage);
	lm_buf_done(&f->tar);
	int r = lm_remove_tree(AT_FDCWD, f->dir, NULL);
	free(f);
	return r;
}

static int nothing(void *arg, size_t index, const char *path, struct lm_row *ret, struct lm_err *err)
{
	return -ENOENT;
}

/* The tree of f->tar, which is then empty again. */
static struct lm_layer_tree *read_tar(struct fixture *f, struct lm_packing *packing)
{
	struct tm_input input = {&f->tar, 0, 65536};
	const struct lm_layer_below below = {.lookup = nothing, .count = 1};
	struct lm_layer_tree *tree = NULL;
	tm_end(&f->tar);
	int r = lm_layer_read(tm_read, &input, &below, packing, &tree, &f->err);
	if (r < 0)
		print_error("%s\n", f->err.msg);
	assert_int_equal(r, 0);
	lm_buf_clear(&f->tar);
	return tree;
}

static int store_nested(
	void *arg, const char *mountpoint, const char *db_path, struct lm_finished *ret, struct lm_err *err)
{
	struct fixture *f = arg;
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	int r = lm_object_store_file(
		f->repo.storage, LM_HASH_SHA1, LM_OBJECT_CATALOG, db_path, &ret->hash, &ret->size, err);
	if (r == 0)
		r = lm_catalog_open(db_path, mountpoint, &catalog, err);
	if (r == 0)
		r = lm_catalog_lookup(catalog, lm_path_hash(mountpoint, strlen(mountpoint)), &ret->root, err);
	return r < 0 ? r : lm_catalog_counters(catalog, &ret->self, &ret->subtree, err);
}

static void no_loss(void *arg, const char *path, const char *what)
{
}

static void publish(struct fixture *f)
{
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = read_tar(f, f->packing);
	struct lm_layer_extra marker = {.path = LM_LAYER_MARKER};
	struct lm_counters counters;
	char db[80];
	uint64_t size;
	snprintf(db, sizeof(db), "%s/db", f->dir);
	assert_int_equal(lm_packing_data(f->packing, "", 0, &marker.hash, NULL), 0);
	const struct lm_layer_content content = {
		.mountpoint = MOUNTPOINT, .tree = tree, .extras = &marker, .extra_count = 1, .nothing = marker.hash};
	const struct lm_layer_store store = {store_nested, f};
	const struct lm_layer_loss loss = {no_loss, NULL};
	assert_int_equal(lm_layer_catalog_write(db, &content, &f->limits, &store, &loss, &counters, &f->err), 0);
	lm_published_top_done(&f->top);
	f->top.path = strdup(MOUNTPOINT);
	assert_int_equal(lm_object_store_file(
				 f->repo.storage, LM_HASH_SHA1, LM_OBJECT_CATALOG, db, &f->top.hash, &size, &f->err),
		0);
	assert_int_equal(unlink(db), 0);
}

/* What is in f->tar now against what is published. */
static int compare(struct fixture *f)
{
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = read_tar(f, f->hashing);
	CLEANUP(lm_work_freep) struct lm_work *work = NULL;
	forget_findings(f);
	assert_int_equal(lm_work_new("content", 2, 4, &work, NULL), 0);
	struct lm_comparison c = {.repo = &f->repo, .work = work, .part = &f->part};
	lm_lock_init(&c.lock);
	lm_cond_init(&c.all_done);
	int r = lm_verify_tree(&c, tree, &f->top, &f->err);
	lm_cond_done(&c.all_done);
	lm_lock_done(&c.lock);
	return r;
}

static void show(const struct fixture *f)
{
	for (size_t i = 0; i < f->part.shown; i++)
		print_error("  %s %s: %s\n", f->part.findings[i].kind == LM_VERIFY_LOSS ? "lost" : "differs",
			f->part.findings[i].path, f->part.findings[i].text);
}

static void expect_equal(struct fixture *f, uint64_t entries)
{
	assert_int_equal(compare(f), 0);
	show(f);
	assert_int_equal(f->part.differences, 0);
	assert_int_equal(f->part.losses, 0);
	assert_int_equal(f->part.entries, entries);
}

static bool found(const struct fixture *f, const char *path, const char *text)
{
	for (size_t i = 0; i < f->part.shown; i++)
		if (strcmp(f->part.findings[i].path, path) == 0 && strstr(f->part.findings[i].text, text))
			return true;
	return false;
}

/* Exactly one difference. */
static void expect_difference(struct fixture *f, const char *path, const char *text)
{
	assert_int_equal(compare(f), 0);
	if (f->part.differences != 1 || !found(f, path, text)) {
		print_error("wanted: %s: %s\n", path, text);
		show(f);
	}
	assert_int_equal(f->part.differences, 1);
	assert_true(found(f, path, text));
	assert_int_equal(f->part.losses, 0);
}

/* --- what is changed in the second tar --- */

struct change {
	const char *path, *text; /* of the finding */
	void (*patch)(struct tm_header *entries);
};

enum { TOP, FILE_A, LINK_A, SYM, DEV, FIFO, GONE, FILE_B, LINK_B, COUNT };

static void base(struct tm_header ret[COUNT])
{
	static const struct tm_header entries[COUNT] = {
		[TOP] = {.name = "dir", .type = '5', .mode = 0755, .mtime = 5},
		[FILE_A] = {.name = "dir/a", .mode = 0644, .uid = 1, .gid = 2, .mtime = 7},
		[LINK_A] = {.name = "link", .type = '1', .link = "dir/a", .uid = 1, .gid = 2, .mtime = 7},
		[SYM] = {.name = "sym", .type = '2', .link = "$(X)/a"},
		[DEV] = {.name = "dev", .type = '3', .major = 1, .minor = 3},
		[FIFO] = {.name = "fifo", .type = '6'},
		[GONE] = {.name = ".wh.gone"},
		[FILE_B] = {.name = "b", .mode = 0600},
		[LINK_B] = {.name = "dir/b2", .type = '1', .link = "b", .mode = 0600},
	};
	memcpy(ret, entries, sizeof(entries));
}

static void add_entries(struct fixture *f, const struct tm_header *entries)
{
	for (size_t i = 0; i < COUNT; i++) {
		if (!entries[i].name)
			continue;
		if (i == FILE_A || i == FILE_B)
			tm_file(&f->tar, entries[i], i == FILE_A ? "aaaa" : "bbbb", 4);
		else
			tm_block(&f->tar, entries[i]);
	}
}

#define PATCH(name, statement)                \
	static void name(struct tm_header *e) \
	{                                     \
		statement;                    \
	}
PATCH(mode, e[TOP].mode = 0700)
PATCH(set_uid, e[FIFO].mode = 04644)
PATCH(owner, e[SYM].uid = 5)
PATCH(group, e[DEV].gid = 6)
PATCH(time_of_dir, e[TOP].mtime = 6)
PATCH(target, e[SYM].link = "$(Y)/a")
PATCH(device, e[DEV].minor = 4)
PATCH(type, e[FIFO].type = '2'; e[FIFO].link = "x")
PATCH(missing, e[FIFO].name = "fifo2")
PATCH(whiteout, e[GONE].name = ".wh.gone2")
PATCH(more_links, e[FIFO] = ((struct tm_header){
			  .name = "link3", .type = '1', .link = "dir/a", .mode = 0644, .uid = 1, .gid = 2, .mtime = 7}))

static void test_rows(void **state)
{
	static const struct change changes[] = {
		{"/dir", "mode 0700, published 0755", mode},
		{"/fifo", "mode 4644, published 0644", set_uid},
		{"/sym", "owner 5:0, published 0:0", owner},
		{"/dev", "owner 0:6, published 0:0", group},
		{"/dir", "time 6.000000000, published 5.000000000", time_of_dir},
		{"/sym", "target $(Y)/a, published $(X)/a", target},
		{"/dev", "device 1:4, published 1:3", device},
		{"/fifo", "a symbolic link, published as a fifo", type},
	};
	struct fixture *f = *state;
	struct tm_header entries[COUNT];
	base(entries);
	add_entries(f, entries);
	publish(f);
	add_entries(f, entries);
	expect_equal(f, 9);
	for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
		base(entries);
		changes[i].patch(entries);
		add_entries(f, entries);
		expect_difference(f, changes[i].path, changes[i].text);
	}
}

static void test_names(void **state)
{
	struct fixture *f = *state;
	struct tm_header entries[COUNT];
	base(entries);
	add_entries(f, entries);
	publish(f);
	base(entries);
	missing(entries);
	add_entries(f, entries);
	assert_int_equal(compare(f), 0);
	assert_int_equal(f->part.differences, 2);
	assert_true(found(f, "/", "fifo is published and not in the layer"));
	assert_true(found(f, "/fifo2", "is not published"));
	base(entries);
	whiteout(entries);
	add_entries(f, entries);
	assert_int_equal(compare(f), 0);
	assert_int_equal(f->part.differences, 2);
	assert_true(found(f, "/gone2", "is not published"));
}

static void test_links(void **state)
{
	struct fixture *f = *state;
	struct tm_header entries[COUNT];
	base(entries);
	entries[FIFO].name = NULL;
	add_entries(f, entries);
	publish(f);
	more_links(entries);
	add_entries(f, entries);
	assert_int_equal(compare(f), 0);
	assert_true(found(f, "/dir/a", "3 names of one file, published with 2"));
	assert_true(found(f, "/link", "3 names of one file, published with 2"));
	assert_true(found(f, "/link3", "is not published"));
	assert_int_equal(f->part.differences, 3);
	/* The same numbers of names, paired otherwise; attributes and contents are those of the other then, too. */
	base(entries);
	entries[FIFO].name = NULL;
	entries[LINK_B].name = "link";
	entries[LINK_A].name = "dir/b2";
	add_entries(f, entries);
	assert_int_equal(compare(f), 0);
	assert_true(found(f, "/b", "published as a name of another file"));
	assert_true(found(f, "/dir/b2", "published as a name of another file"));
}

static void add_attribute(struct fixture *f, const char *key, const void *value, size_t len)
{
	CLEANUP(lm_buf_done) struct lm_buf records = LM_BUF(1 << 20);
	tm_record(&records, key, value, len);
	tm_extension(&f->tar, 'x', &records);
	tm_file(&f->tar, (struct tm_header){.name = "file"}, "x", 1);
}

static void test_attributes(void **state)
{
	struct fixture *f = *state;
	static const char long_value[300] = "x";
	add_attribute(f, "SCHILY.xattr.user.k", "v\0w", 3);
	publish(f);
	add_attribute(f, "SCHILY.xattr.user.k", "v\0w", 3);
	expect_equal(f, 1);
	add_attribute(f, "SCHILY.xattr.user.k", "v\0x", 3);
	expect_difference(f, "/file", "attribute user.k has another value");
	add_attribute(f, "mtime", "0.5", 3);
	assert_int_equal(compare(f), 0);
	assert_true(found(f, "/file", "attribute user.k is published, the layer has none"));
	assert_true(found(f, "/file", "time 0.500000000, published 0.000000000"));
	add_attribute(f, "SCHILY.xattr.user.l", long_value, sizeof(long_value));
	publish(f);
	add_attribute(f, "SCHILY.xattr.user.l", long_value, sizeof(long_value));
	assert_int_equal(compare(f), 0);
	assert_int_equal(f->part.differences, 0);
	assert_int_equal(f->part.losses, 1);
	assert_true(found(f, "/file", "attribute user.l, a value of 300 bytes: the format does not hold it"));
	add_attribute(f, "SCHILY.xattr.user.l", "short", 5);
	expect_difference(f, "/file", "attribute user.l is not published");
}

/* --- contents --- */

enum { BIG = LM_CHUNKED_ABOVE + 3 * LM_CHUNK_SIZE + 100 };

static uint8_t *noise(size_t len)
{
	uint8_t *data = malloc(len);
	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)(i * 2654435761U >> 13);
	return data;
}

static void add_contents(struct fixture *f, const uint8_t *data)
{
	static const size_t sizes[] = {0, 1, 1000, LM_CHUNK_SIZE, LM_CHUNKED_ABOVE, LM_CHUNKED_ABOVE + 1, BIG};
	char name[2] = "0";
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++, name[0]++)
		tm_file(&f->tar, (struct tm_header){.name = name}, data, sizes[i]);
}

static void test_contents(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_freep) uint8_t *data = noise(BIG);
	add_contents(f, data);
	publish(f);
	add_contents(f, data);
	expect_equal(f, 7);
	assert_int_equal(f->part.bytes, 1001 + LM_CHUNK_SIZE + 2 * LM_CHUNKED_ABOVE + 1 + BIG);
	data[BIG - 1] ^= 1; /* the last chunk of the last file only */
	add_contents(f, data);
	expect_difference(f, "/6", "content differs within");
	data[0] ^= 1;
	add_contents(f, data);
	assert_int_equal(compare(f), 0);
	assert_int_equal(f->part.differences, 7); /* all but the empty one, two chunks of the last one */
	tm_file(&f->tar, (struct tm_header){.name = "0"}, "x", 1);
	assert_int_equal(compare(f), 0);
	assert_true(found(f, "/0", "1 bytes, published 0"));
}

/* Objects are found by their names: the storage is spoilt behind the catalogs' back. */
static void test_damaged_objects(void **state)
{
	struct fixture *f = *state;
	struct lm_hash hash;
	CLEANUP(lm_packer_freep) struct lm_packer *packer = NULL;
	CLEANUP(lm_buf_done) struct lm_buf packed = LM_BUF(1 << 20);
	char object[LM_OBJECT_PATH_MAX], path[160];
	tm_file(&f->tar, (struct tm_header){.name = "file"}, "content", 7);
	publish(f);
	assert_int_equal(lm_packer_new(LM_HASH_SHA1, &packer, NULL), 0);
	assert_int_equal(lm_pack(packer, LM_COMPRESSION_ZLIB, "content", 7, &packed, &hash, NULL), 0);
	snprintf(path, sizeof(path), "%s/%s", f->dir, lm_object_path(&hash, LM_OBJECT_FILE, object));
	packed.data[packed.len - 1] ^= 1;
	assert_int_equal(lm_file_replace(AT_FDCWD, path, packed.data, packed.len, 0644, 0, NULL), 0);
	tm_file(&f->tar, (struct tm_header){.name = "file"}, "content", 7);
	expect_difference(f, "/file", lm_hash_text(&hash).s);
	assert_int_equal(unlink(path), 0);
	tm_file(&f->tar, (struct tm_header){.name = "file"}, "content", 7);
	expect_difference(f, "/file", object + 5);
	snprintf(path, sizeof(path), "%s/%s", f->dir, lm_object_path(&f->top.hash, LM_OBJECT_CATALOG, object));
	assert_int_equal(unlink(path), 0);
	tm_file(&f->tar, (struct tm_header){.name = "file"}, "content", 7);
	expect_difference(f, "/", lm_hash_text(&f->top.hash).s);
}

/* Layers in several catalogs. */
static void test_nested(void **state)
{
	struct fixture *f = *state;
	f->limits = (struct lm_layer_limits){.whole = 10, .least = 10, .joined = 10};
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 100; i++) {
			char name[64];
			snprintf(name, sizeof(name), "d%d/e%d/f%d", i / 50, i / 10, i);
			tm_file(&f->tar, (struct tm_header){.name = name, .mode = round == 2 && i == 77 ? 0600 : 0644},
				name, strlen(name));
		}
		tm_block(&f->tar, (struct tm_header){.name = "d1", .type = '5', .mode = 0711});
		if (round == 0)
			publish(f);
		else if (round == 1)
			expect_equal(f, 112);
		else
			expect_difference(f, "/d1/e7/f77", "mode 0600, published 0644");
	}
}

static void mark(struct fixture *f, const char *dir)
{
	char name[64];
	snprintf(name, sizeof(name), "%s/.wh..wh..opq", dir);
	tm_block(&f->tar, (struct tm_header){.name = name});
}

/* What stands beside the layer for its opaque directories. */
static void test_opaque(void **state)
{
	struct fixture *f = *state;
	mark(f, "a/b");
	mark(f, "c");
	publish(f);
	mark(f, "a/b");
	mark(f, "c");
	expect_equal(f, 3);

	/* Elsewhere: the mark and the tree, each for itself; e is not published either. */
	mark(f, "a/b");
	mark(f, "e");
	assert_int_equal(compare(f), 0);
	assert_true(found(f, "/e", "the tree of opaque directories beside the layer lacks it"));
	assert_false(found(f, "/a/b", "the tree of"));
	assert_false(found(f, "/", "entries instead of"));

	/* One too many. */
	mark(f, "a/b");
	tm_block(&f->tar, (struct tm_header){.name = "c", .type = '5', .mode = 0755});
	assert_int_equal(compare(f), 0);
	assert_true(found(f, "/", "has 3 entries instead of 2"));

	/* None at all where there must be none, since there is another attribute. */
	tm_pax(&f->tar, "SCHILY.xattr.user.k", "v");
	tm_block(&f->tar, (struct tm_header){.name = "f"});
	mark(f, "a/b");
	publish(f);
	tm_pax(&f->tar, "SCHILY.xattr.user.k", "v");
	tm_block(&f->tar, (struct tm_header){.name = "f"});
	mark(f, "a/b");
	expect_equal(f, 3);
}

/* All are counted, the first ones kept. */
static void test_many(void **state)
{
	struct fixture *f = *state;
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 3 * LM_VERIFY_SHOWN_MAX; i++) {
			char name[16];
			snprintf(name, sizeof(name), "%d", i);
			tm_block(&f->tar, (struct tm_header){.name = name, .uid = (uint64_t)round});
		}
		if (round == 0)
			publish(f);
	}
	assert_int_equal(compare(f), 0);
	assert_int_equal(f->part.differences, 3 * LM_VERIFY_SHOWN_MAX);
	assert_int_equal(f->part.shown, LM_VERIFY_SHOWN_MAX);
}

/* --- the tree of all layers --- */

struct pieces { /* of its file: the image is the first one, then zeros, then a large file and zeros */
	struct lm_chunk chunks[16];
	size_t count;
	uint64_t size;
};

static void put_piece(struct fixture *f, const void *data, size_t len, struct lm_hash *ret)
{
	struct lm_packing_piece *piece;
	assert_int_equal(lm_packing_piece(f->packing, len, &piece, NULL), 0);
	memcpy(piece->data, data, len);
	lm_packing_put(f->packing, piece, LM_OBJECT_CHUNK, ret);
	assert_int_equal(lm_packing_wait(f->packing, NULL), 0);
}

static void make_pieces(struct fixture *f, struct pieces *ret)
{
	static const char *const digests[] = {"sha256:abcd"};
	static const uint8_t zeros[4096];
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = NULL;
	CLEANUP(lm_chain_image_done) struct lm_chain_image image = {0};
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, f->dir, NULL);
	uint8_t bytes[16384];
	assert_int_equal(lm_repo_source_catalog(&f->repo, &f->top.hash, f->top.path, &catalog, &f->err), 0);
	const struct lm_merge_layer layer = {catalog, MOUNTPOINT "/layerfs"};
	assert_int_equal(lm_merge(&layer, 1, LM_MERGE_CONTAINER, NULL, NULL, &tree, &f->err), 0);
	assert_int_equal(lm_chain_image_write(tree, digests, 1, LM_HASH_SHA1, fd, &image, &f->err), 0);
	assert_true(image.bytes <= sizeof(bytes) && image.content.count < ARRAY_LEN(ret->chunks));
	assert_int_equal(lm_pread_all(fd, bytes, image.bytes, 0, &f->err), 0);

	*ret = (struct pieces){.chunks = {{.size = image.bytes}}, .count = 1 + image.content.count};
	ret->size = image.bytes + image.content.bytes;
	put_piece(f, bytes, image.bytes, &ret->chunks[0].hash);
	for (size_t i = 1; i < ret->count; i++) {
		ret->chunks[i] = image.content.chunks[i - 1];
		ret->chunks[i].offset += image.bytes;
		if (!ret->chunks[i].hash.set)
			put_piece(f, zeros, ret->chunks[i].size, &ret->chunks[i].hash);
	}
}

static void store_catalog(
	struct fixture *f, struct lm_catalog_writer *writer, const char *path, struct lm_hash *ret, uint64_t *ret_size)
{
	const struct lm_catalog_props props = {.revision = 1};
	struct lm_counters self, subtree;
	assert_int_equal(lm_catalog_writer_finish(writer, &props, &self, &subtree, &f->err), 0);
	lm_catalog_writer_free(writer);
	assert_int_equal(
		lm_object_store_file(f->repo.storage, LM_HASH_SHA1, LM_OBJECT_CATALOG, path, ret, ret_size, &f->err),
		0);
	assert_int_equal(unlink(path), 0);
}

/* A root catalog whose tree of the layer is made of these pieces. */
static void publish_tree(struct fixture *f, const char *chain, const struct pieces *pieces, struct lm_hash *ret)
{
	const struct lm_row dir = {.mode = S_IFDIR | 0755, .size = 4096};
	const struct lm_row file = {.mode = S_IFREG | 0444, .size = pieces->size};
	const struct lm_counters counters = {.regular = 1, .dir = 1};
	struct lm_catalog_writer *writer;
	struct lm_hash nested;
	uint64_t size;
	CLEANUP(lm_freep) char *db = lm_str_printf("%s/chain-db", f->dir);
	CLEANUP(lm_freep) char *tree = lm_str_printf("%s/tree", chain);
	assert_int_equal(lm_catalog_create(db, chain, &dir, &writer, &f->err), 0);
	assert_int_equal(lm_catalog_insert(writer, tree, &file, pieces->chunks, pieces->count, &f->err), 0);
	store_catalog(f, writer, db, &nested, &size);

	assert_int_equal(lm_catalog_create(db, "", &dir, &writer, &f->err), 0);
	for (const char *end = chain; *end; end = strchrnul(end + 1, '/')) {
		CLEANUP(lm_freep) char *path = lm_str_ndup(chain, (size_t)(end - chain));
		assert_true(end == chain || lm_catalog_insert(writer, path, &dir, NULL, 0, &f->err) == 0);
	}
	assert_int_equal(lm_catalog_insert(writer, chain, &dir, NULL, 0, &f->err), 0);
	assert_int_equal(
		lm_catalog_set_nested(writer, chain, &nested, size, &dir, &counters, &(struct lm_counters){0}, &f->err),
		0);
	store_catalog(f, writer, db, ret, &size);
}

/* What is said of a tree of these pieces; NULL: that it is equal. */
static void chain_is(struct fixture *f, const struct pieces *pieces, const char *text)
{
	struct lm_layer layer = {.digest = "sha256:abcd"};
	const struct lm_image image = {.layers = &layer, .layer_count = 1};
	CLEANUP(lm_published_freep) struct lm_published *published = NULL;
	struct lm_comparison c = {.repo = &f->repo, .part = &f->part};
	struct lm_published_top root = {.path = (char *)""};
	struct lm_layer_path chain;
	forget_findings(f);
	assert_int_equal(lm_chain_tree_path(&image, &chain, &f->err), 0);
	publish_tree(f, chain.s, pieces, &root.hash);
	assert_int_equal(lm_published_new(&f->repo, &published, &f->err), 0);
	lm_lock_init(&c.lock);
	assert_int_equal(lm_verify_chain(&c, published, &root, &f->top, &image, &f->err), 0);
	lm_lock_done(&c.lock);
	if (f->part.differences != (text != NULL) || (text && !strstr(f->part.findings[0].text, text)))
		show(f);
	assert_int_equal(f->part.differences, text != NULL);
	assert_true(!text || strstr(f->part.findings[0].text, text));
	assert_int_equal(f->part.entries, 1);
}

static void test_chain(void **state)
{
	enum { LARGE = 600000, IMAGE = 0, ZEROS = 1, FIRST = 2, LAST = 4, END = 5 };
	struct fixture *f = *state;
	struct pieces good, bad;
	CLEANUP(lm_freep) uint8_t *large = malloc(LARGE);
	for (size_t i = 0; i < LARGE; i++)
		large[i] = (uint8_t)(i * i >> 8);
	tm_file(&f->tar, (struct tm_header){.name = "large"}, large, LARGE);
	tm_file(&f->tar, (struct tm_header){.name = "small"}, "small", 5);
	publish(f);
	make_pieces(f, &good);
	assert_int_equal(good.chunks[ZEROS].size, 4096);
	assert_int_equal(good.chunks[LAST].size, LARGE % LM_CHUNK_SIZE);
	chain_is(f, &good, NULL);

	bad = good;
	bad.chunks[LAST].hash = bad.chunks[FIRST].hash;
	chain_is(f, &bad, "another piece of a large file");
	bad = good;
	bad.chunks[FIRST].size -= 4096;
	bad.chunks[FIRST + 1].offset -= 4096;
	bad.chunks[FIRST + 1].size += 4096;
	chain_is(f, &bad, "another piece of a large file");
	bad = good;
	CLEANUP(lm_freep) uint8_t *not_zeros = calloc(1, 4096);
	not_zeros[4095] = 1;
	put_piece(f, not_zeros, 4096, &bad.chunks[ZEROS].hash);
	chain_is(f, &bad, "other than zeros");
	bad = good;
	put_piece(f, large, good.chunks[IMAGE].size, &bad.chunks[IMAGE].hash);
	chain_is(f, &bad, "differs from offset 0 on");
	bad = good;
	bad.size -= bad.chunks[--bad.count].size;
	chain_is(f, &bad, "bytes instead of");
	bad = good;
	bad.chunks[END].size += bad.chunks[END + 1].size;
	memmove(&bad.chunks[END + 1], &bad.chunks[END + 2], sizeof(bad.chunks[0]) * (bad.count - END - 2));
	bad.count--;
	chain_is(f, &bad, "in other pieces");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_rows, setup, teardown),
		cmocka_unit_test_setup_teardown(test_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_links, setup, teardown),
		cmocka_unit_test_setup_teardown(test_attributes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_contents, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_objects, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nested, setup, teardown),
		cmocka_unit_test_setup_teardown(test_opaque, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chain, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
