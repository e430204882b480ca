#include "base/file.h"
#include "base/work.h"
#include "convert/layer_tar.h"
#include "convert_test.h"

#include <stdatomic.h>
#include <sys/stat.h>

/* A storage in a directory of its own, whose puts can be made to fail. */
struct fixture {
	struct lm_storage storage; /* the one given to the packing: passes on to below */
	struct lm_storage *below;
	_Atomic(int) puts_left; /* then puts fail; negative: never */
	char dir[64];
	struct lm_packing *packing;
	struct lm_buf tar;
	struct lm_layer_tree *tree;
	struct lm_err err;
};

static struct fixture *of(struct lm_storage *storage)
{
	return (struct fixture *)((char *)storage - offsetof(struct fixture, storage));
}

static int has(struct lm_storage *storage, const char *path, struct lm_err *err)
{
	return of(storage)->below->ops->has(of(storage)->below, path, err);
}

static int put(struct lm_storage *storage, const char *path, const void *data, size_t len, struct lm_err *err)
{
	struct fixture *f = of(storage);
	if (f->puts_left >= 0 && atomic_fetch_sub(&f->puts_left, 1) <= 0)
		return lm_err_set(err, -ENOSPC, "no room for %s", path);
	return f->below->ops->put(f->below, path, data, len, err);
}

static const struct lm_storage_ops ops = {.has = has, .put = put};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->storage.ops = &ops;
	f->puts_left = -1;
	f->tar = LM_BUF(64 << 20);
	strcpy(f->dir, "/tmp/lamella-test-XXXXXX");
	*state = f;
	return !mkdtemp(f->dir) || lm_storage_dir_open(f->dir, true, &f->below, NULL) < 0 ||
	       lm_packing_new(&f->storage, LM_HASH_SHA1, 2, 1 << 20, &f->packing, NULL) < 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_layer_tree_free(f->tree);
	lm_packing_free(f->packing);
	lm_storage_free(f->below);
	lm_buf_done(&f->tar);
	int r = lm_remove_tree(AT_FDCWD, f->dir, NULL);
	free(f);
	return r;
}

static int try(struct fixture *f)
{
	struct tm_input input = {&f->tar, 0, 65536};
	lm_layer_tree_free(f->tree);
	f->tree = NULL;
	int r = lm_layer_read(tm_read, &input, NULL, f->packing, &f->tree, &f->err);
	if (r == 0)
		assert_int_equal(input.at, f->tar.len);
	else
		assert_null(f->tree);
	return r;
}

static void layer(struct fixture *f)
{
	int r = try(f);
	if (r < 0)
		print_error("%s\n", f->err.msg);
	assert_int_equal(r, 0);
}

static struct lm_layer_inode *at(struct fixture *f, const char *path)
{
	struct lm_layer_node *node = lm_layer_tree_find(f->tree, path);
	assert_non_null(node);
	return node->inode;
}

static void read_object(
	struct fixture *f, const struct lm_hash *hash, enum lm_object_kind kind, uint64_t size, struct lm_buf *ret)
{
	char path[LM_OBJECT_PATH_MAX];
	CLEANUP(lm_buf_done) struct lm_buf stored = LM_BUF(16 << 20);
	size_t before = ret->len;
	assert_true(hash->set);
	assert_int_equal(f->below->ops->get(f->below, lm_object_path(hash, kind, path), &stored, NULL), 0);
	assert_int_equal(lm_unpack_buf(hash, LM_COMPRESSION_ZLIB, stored.data, stored.len, ret, NULL), 0);
	assert_int_equal(ret->len - before, size);
}

/* The file's content as a reader of the repository would put it together. */
static void expect_content(struct fixture *f, const char *path, const void *want, size_t len)
{
	const struct lm_layer_inode *inode = at(f, path);
	CLEANUP(lm_buf_done) struct lm_buf got = LM_BUF(64 << 20);
	assert_int_equal(inode->size, len);
	if (!inode->chunks)
		read_object(f, &inode->hash, LM_OBJECT_FILE, len, &got);
	for (const struct lm_layer_chunks *c = inode->chunks; c; c = c->next)
		for (unsigned i = 0; i < c->count; i++) {
			assert_int_equal(c->chunks[i].offset, got.len);
			assert_in_range(c->chunks[i].size, 1, LM_CHUNK_SIZE);
			read_object(f, &c->chunks[i].hash, LM_OBJECT_CHUNK, c->chunks[i].size, &got);
		}
	assert_int_equal(got.len, len);
	if (len > 0)
		assert_memory_equal(got.data, want, len);
}

static uint8_t *noise(size_t len)
{
	uint8_t *data = malloc(len + 1);
	uint32_t x = 1;
	for (size_t i = 0; i < len; i++) {
		x = x * 1664525 + 1013904223;
		data[i] = (uint8_t)(x >> 28);
	}
	return data;
}

static void test_contents(void **state)
{
	struct fixture *f = *state;
	static const size_t sizes[] = {0, 1, 511, 512, 513, 100000, LM_CHUNK_SIZE, LM_CHUNKED_ABOVE,
		LM_CHUNKED_ABOVE + 1, 3 * LM_CHUNK_SIZE, 10 * LM_CHUNK_SIZE + 7};
	CLEANUP(lm_freep) uint8_t *data = noise(11 * LM_CHUNK_SIZE);
	char name[32];
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		snprintf(name, sizeof(name), "dir/%zu", sizes[i]);
		tm_file(&f->tar, (struct tm_header){.name = name}, data + i, sizes[i]);
	}
	tm_end(&f->tar);
	tm_append(&f->tar, data, 5000); /* what follows the end is read, but means nothing */
	layer(f);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		snprintf(name, sizeof(name), "/dir/%zu", sizes[i]);
		expect_content(f, name, data + i, sizes[i]);
		assert_int_equal(at(f, name)->chunks != NULL, sizes[i] > LM_CHUNKED_ABOVE);
	}
}

/* The same content is stored once, within a layer and over layers. */
static void test_repeated_content(void **state)
{
	struct fixture *f = *state;
	struct lm_packing_stats stats;
	tm_file(&f->tar, (struct tm_header){.name = "a"}, "same", 4);
	tm_file(&f->tar, (struct tm_header){.name = "c"}, "other", 5);
	tm_end(&f->tar);
	layer(f);
	lm_packing_stats(f->packing, &stats);
	assert_int_equal(stats.objects, 2);
	const uint64_t bytes = stats.bytes;
	layer(f);
	lm_packing_stats(f->packing, &stats);
	assert_int_equal(stats.objects, 2);
	assert_int_equal(stats.bytes, bytes);
	assert_int_equal(stats.pieces, 4);
}

static void test_replaced_content(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_freep) uint8_t *data = noise(LM_CHUNKED_ABOVE * 2);
	tm_file(&f->tar, (struct tm_header){.name = "a"}, data, LM_CHUNKED_ABOVE * 2);
	tm_file(&f->tar, (struct tm_header){.name = "a"}, "new", 3);
	tm_block(&f->tar, (struct tm_header){.name = "b", .type = '1', .link = "a"});
	tm_file(&f->tar, (struct tm_header){.name = "a"}, "newer", 5);
	layer(f);
	expect_content(f, "/a", "newer", 5);
	expect_content(f, "/b", "new", 3);
}

static void sparse_header(uint8_t *block)
{
	tm_octal(block + 386, 12, 3 * LM_CHUNK_SIZE - 1);
	tm_octal(block + 398, 12, 2);
	tm_octal(block + 483, 12, 4 * LM_CHUNK_SIZE);
}

static void test_sparse(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_freep) uint8_t *want = calloc(4, LM_CHUNK_SIZE);
	memcpy(want + 3 * LM_CHUNK_SIZE - 1, "ab", 2);
	tm_block(&f->tar,
		(struct tm_header){.name = "s", .type = 'S', .format = TM_GNU, .size = 2, .patch = sparse_header});
	tm_append(&f->tar, "ab", 2);
	tm_pad(&f->tar);
	tm_end(&f->tar);
	layer(f);
	expect_content(f, "/s", want, 4 * LM_CHUNK_SIZE);
}

static void test_cut_short(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_freep) uint8_t *data = noise(LM_CHUNKED_ABOVE * 2);
	tm_file(&f->tar, (struct tm_header){.name = "a"}, "abc", 3);
	tm_file(&f->tar, (struct tm_header){.name = "b"}, data, LM_CHUNKED_ABOVE * 2);
	const size_t whole = f->tar.len;
	static const size_t missing[] = {1, 1000, LM_CHUNKED_ABOVE, LM_CHUNKED_ABOVE * 2, LM_CHUNKED_ABOVE * 2 + 511};
	for (size_t i = 0; i < ARRAY_LEN(missing); i++) {
		f->tar.len = whole - missing[i];
		assert_int_equal(try(f), -EPROTO);
		assert_non_null(strstr(f->err.msg, "cut short"));
	}
	f->tar.len = whole; /* no zero blocks at the end: complete all the same */
	layer(f);
	expect_content(f, "/b", data, LM_CHUNKED_ABOVE * 2);
}

/* A size that is a lie costs neither memory nor time. */
static void huge_size(uint8_t *block)
{
	memset(block + 124, 0, 12);
	block[124] = 0x80;
	block[128] = 0x7f;
}

static void test_size_lies(void **state)
{
	struct fixture *f = *state;
	tm_block(&f->tar, (struct tm_header){.name = "a", .patch = huge_size});
	tm_append(&f->tar, "abc", 3);
	assert_int_equal(try(f), -EPROTO);
}

static void test_refused_entry(void **state)
{
	struct fixture *f = *state;
	tm_file(&f->tar, (struct tm_header){.name = "a"}, "abc", 3);
	tm_block(&f->tar, (struct tm_header){.name = "b", .type = '1', .link = "c"});
	tm_end(&f->tar);
	assert_int_equal(try(f), -EPROTO);
	assert_string_equal(f->err.msg, "b: hard link to c, which is not there");
}

static void test_storage_fails(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_freep) uint8_t *data = noise(8 << 20);
	tm_file(&f->tar, (struct tm_header){.name = "a"}, data, 8 << 20);
	tm_end(&f->tar);
	f->puts_left = 3;
	assert_int_equal(try(f), -ENOSPC);
	assert_non_null(strstr(f->err.msg, "no room for data/"));
	assert_int_equal(try(f), -ENOSPC); /* and stays so */
}

static ssize_t failing_input(void *arg, const uint8_t **ret, struct lm_err *err)
{
	return lm_err_set(err, -EIO, "no input");
}

static void test_input_fails(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(lm_layer_read(failing_input, NULL, NULL, f->packing, &f->tree, &f->err), -EIO);
	assert_string_equal(f->err.msg, "no input");
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_contents),
		TEST(test_repeated_content),
		TEST(test_replaced_content),
		TEST(test_sparse),
		TEST(test_cut_short),
		TEST(test_size_lies),
		TEST(test_refused_entry),
		TEST(test_storage_fails),
		TEST(test_input_fails),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
