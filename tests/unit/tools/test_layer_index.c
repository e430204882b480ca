/* Which entries of the index an image gets, and what becomes of them when layers go: in a repository of ours. */
#include "base/file.h"
#include "base/str.h"
#include "convert/layer.h"
#include "convert/layer_index.h"
#include "convert_test.h"

#include <stdlib.h>
#include <sys/stat.h>

#define FQRN "test.example.org"

struct fixture {
	char dir[32];
	struct lm_repo_keys keys;
	struct lm_storage *storage;
	struct lm_txn *txn;
	struct lm_view view;
};

#define assert_ok(call)                                               \
	do {                                                          \
		struct lm_err err = LM_ERR_INIT;                      \
		int ok_r = (call);                                    \
		if (ok_r < 0)                                         \
			fail_msg("%s: %s", #call, lm_err_text(&err)); \
	} while (0)

static void begin(struct fixture *f)
{
	assert_ok(lm_txn_begin(f->storage, &f->keys, FQRN, &f->txn, &err));
	f->view = lm_txn_view(f->txn);
}

static void commit(struct fixture *f)
{
	assert_ok(lm_txn_commit(f->txn, NULL, &err));
	lm_txn_free(STEAL(f->txn));
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct lm_manifest manifest;
	strcpy(f->dir, "/tmp/lm-index.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	CLEANUP(lm_freep) char *keys = lm_str_printf("%s/keys", f->dir);
	CLEANUP(lm_freep) char *storage = lm_str_printf("%s/storage", f->dir);
	assert_ok(lm_repo_keys_make(keys, FQRN, &f->keys, &err));
	assert_ok(lm_storage_dir_open(storage, true, &f->storage, &err));
	assert_ok(lm_repo_create(f->storage, &f->keys, FQRN, 30, 300, NULL, &manifest, &err));
	begin(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_txn_free(f->txn);
	lm_storage_free(f->storage);
	lm_repo_keys_done(&f->keys);
	assert_int_equal(lm_remove_tree(AT_FDCWD, f->dir, NULL), 0);
	free(f);
	return 0;
}

/* A digest by its number: kind says of what. */
static char *digest(char kind, unsigned number)
{
	static char texts[16][LM_DIGEST_MAX];
	static unsigned next;
	char *text = texts[next++ % 16];
	snprintf(text, LM_DIGEST_MAX, "sha256:%02x%c%061u", number & 255, kind, number);
	return text;
}

#define blob(number) digest('b', number)
#define diff(number) digest('d', number)
#define chain(number) digest('c', number)

/* A layer in the repository, which was converted with this diff id; NULL: nobody knows. */
static void put_layer(struct fixture *f, const char *layer, const char *diff_id)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(4096);
	struct lm_layer of = {0};
	char path[160];
	snprintf(path, sizeof(path), "%s/.metadata", lm_layer_path(layer).s);
	assert_ok(lm_txn_mkdirs(f->txn, lm_layer_path(layer).s, true, &err));
	assert_ok(lm_txn_mkdirs(f->txn, path, false, &err));
	snprintf(path, sizeof(path), "%s/.metadata/layers.json", lm_layer_path(layer).s);
	strcpy(of.digest, layer);
	if (!diff_id)
		return;
	strcpy(of.diff_id, diff_id);
	assert_ok(lm_layers_json(&of, NULL, 1, &text, &err));
	assert_ok(lm_txn_put_data(f->txn, path, text.data, text.len, &err));
}

struct one {
	struct lm_layer layers[8];
	struct lm_image image;
};

static void add(struct one *one, const char *layer, const char *diff_id, const char *chain_id)
{
	struct lm_layer *new = &one->layers[one->image.layer_count++];
	one->image.layers = one->layers;
	strcpy(new->digest, layer);
	strcpy(new->diff_id, diff_id);
	strcpy(new->chain_id, chain_id);
}

/* How many entries it lacked. */
static size_t enter(struct fixture *f, const struct one *one, const bool *verified, size_t *ret_doubtful)
{
	CLEANUP(lm_layer_index_plan_done) struct lm_layer_index_plan plan = {0};
	assert_ok(lm_layer_index_plan(&f->view, &one->image, verified, &plan, &err));
	assert_ok(lm_layer_index_put(f->txn, &plan, &err));
	if (ret_doubtful)
		*ret_doubtful = plan.doubtful;
	return plan.count;
}

/* NULL: there is none. Valid until the next call. */
static const char *entry(struct fixture *f, enum lm_images_index index, const char *id)
{
	static struct lm_images_digest layer;
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_err why = LM_ERR_INIT;
	int r = lm_txn_lookup(f->txn, lm_images_entry(index, id).s, &row, &why);
	if (r == -ENOENT)
		return NULL;
	assert_int_equal(r, 0);
	assert_true(S_ISLNK(row.mode));
	assert_ok(lm_images_entry_parse(row.symlink, &layer, &err));
	return layer.s;
}

static bool is_nested(struct fixture *f, const char *path)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	assert_ok(lm_txn_lookup(f->txn, path, &row, &err));
	return row.flags & (LM_ROW_MOUNTPOINT | LM_ROW_NESTED_ROOT);
}

#define assert_entry(index, id, layer) assert_string_equal(entry(f, index, id), layer)

static void test_first_stays(void **state)
{
	struct fixture *f = *state;
	struct one gzip = {0}, zstd = {0};
	size_t doubtful;
	put_layer(f, blob(1), diff(1));
	put_layer(f, blob(2), diff(2));
	put_layer(f, blob(11), diff(1));
	add(&gzip, blob(1), diff(1), diff(1));
	add(&gzip, blob(2), diff(2), chain(2));
	add(&zstd, blob(11), diff(1), diff(1));
	assert_int_equal(enter(f, &gzip, NULL, &doubtful), 4);
	assert_int_equal(doubtful, 2);
	assert_entry(LM_IMAGES_BY_CHAIN, diff(1), blob(1));
	assert_entry(LM_IMAGES_BY_DIFF, diff(1), blob(1));
	assert_entry(LM_IMAGES_BY_CHAIN, chain(2), blob(2));
	assert_entry(LM_IMAGES_BY_DIFF, diff(2), blob(2));
	assert_int_equal(enter(f, &gzip, NULL, NULL), 0);
	assert_int_equal(enter(f, &zstd, NULL, NULL), 0);
	assert_entry(LM_IMAGES_BY_DIFF, diff(1), blob(1));
	/* Gone: the next one takes its place. */
	assert_ok(lm_txn_remove(f->txn, lm_layer_path(blob(1)).s, &err));
	assert_int_equal(enter(f, &zstd, NULL, NULL), 2);
	assert_entry(LM_IMAGES_BY_CHAIN, diff(1), blob(11));
	commit(f);
	begin(f);
	assert_int_equal(enter(f, &zstd, NULL, NULL), 0);
	assert_true(is_nested(f, "/.lamella/chains"));
	assert_true(is_nested(f, "/.lamella/diffs"));
}

/* An image that calls its layer by another's diff id gets no entry for that, but those that are true. */
static void test_liar(void **state)
{
	struct fixture *f = *state;
	struct one liar = {0};
	size_t doubtful;
	put_layer(f, blob(1), diff(1));
	put_layer(f, blob(2), diff(2));
	put_layer(f, blob(3), NULL);
	add(&liar, blob(1), diff(7), diff(7));
	add(&liar, blob(2), diff(2), chain(2));
	add(&liar, blob(3), diff(3), chain(3));
	assert_int_equal(enter(f, &liar, NULL, &doubtful), 2);
	assert_int_equal(doubtful, 0);
	assert_null(entry(f, LM_IMAGES_BY_CHAIN, diff(7)));
	assert_null(entry(f, LM_IMAGES_BY_DIFF, diff(7)));
	assert_entry(LM_IMAGES_BY_CHAIN, chain(2), blob(2));
	assert_null(entry(f, LM_IMAGES_BY_DIFF, diff(3)));
	/* What was verified just now needs no file that says so. */
	assert_int_equal(enter(f, &liar, (bool[]){false, false, true}, &doubtful), 2);
	assert_entry(LM_IMAGES_BY_CHAIN, chain(3), blob(3));
}

/* Stock tools write down what the image said, and mark their layers. */
static void test_stock(void **state)
{
	struct fixture *f = *state;
	struct one image = {0};
	char path[160];
	put_layer(f, blob(1), diff(1));
	snprintf(path, sizeof(path), "%s/layerfs", lm_layer_path(blob(1)).s);
	assert_ok(lm_txn_mkdirs(f->txn, path, true, &err));
	add(&image, blob(1), diff(1), diff(1));
	assert_int_equal(enter(f, &image, NULL, NULL), 0);
}

/* A layer that comes twice is entered under one diff id and two chain ids. */
static void test_twice(void **state)
{
	struct fixture *f = *state;
	struct one image = {0};
	put_layer(f, blob(1), diff(1));
	add(&image, blob(1), diff(1), diff(1));
	add(&image, blob(1), diff(1), chain(2));
	assert_int_equal(enter(f, &image, NULL, NULL), 3);
	assert_entry(LM_IMAGES_BY_CHAIN, chain(2), blob(1));
}

/* What somebody else put there gives way. */
static void test_forged(void **state)
{
	struct fixture *f = *state;
	struct one image = {0};
	const struct lm_images_path path = lm_images_entry(LM_IMAGES_BY_DIFF, diff(1));
	char folder[64];
	snprintf(folder, sizeof(folder), "%.*s", (int)(strrchr(path.s, '/') - path.s), path.s);
	put_layer(f, blob(1), diff(1));
	assert_ok(lm_txn_mkdirs(f->txn, folder, false, &err));
	assert_ok(lm_txn_put_symlink(f->txn, path.s, "../../../etc", &err));
	add(&image, blob(1), diff(1), diff(1));
	assert_int_equal(enter(f, &image, NULL, NULL), 2);
	assert_entry(LM_IMAGES_BY_DIFF, diff(1), blob(1));
}

/* A folder becomes a catalog when it has many entries, and keeps them. */
static void test_nesting(void **state)
{
	struct fixture *f = *state;
	const struct lm_images_path path = lm_images_entry(LM_IMAGES_BY_DIFF, diff(0));
	char folder[64];
	snprintf(folder, sizeof(folder), "%.*s", (int)(strrchr(path.s, '/') - path.s), path.s);
	put_layer(f, blob(1), NULL);
	for (unsigned i = 0; i < 3 * LM_IMAGES_FOLDER_MAX; i++) {
		struct one image = {0};
		add(&image, blob(1), diff(256 * i), chain(256 * i + i)); /* diffs in one folder, chains in many */
		assert_int_equal(enter(f, &image, (bool[]){true}, NULL), 2);
		if (i % 3 == 2)
			continue; /* two images in one revision */
		commit(f);
		begin(f);
		assert_int_equal(is_nested(f, folder), i >= LM_IMAGES_FOLDER_MAX);
	}
	for (unsigned i = 0; i < 3 * LM_IMAGES_FOLDER_MAX; i++) {
		assert_entry(LM_IMAGES_BY_DIFF, diff(256 * i), blob(1));
		assert_entry(LM_IMAGES_BY_CHAIN, chain(256 * i + i), blob(1));
	}
}

static int cmp_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void forget(struct fixture *f, const struct lm_inventory *inventory, const char *const *layers, size_t count)
{
	const char *gone[8];
	memcpy(gone, layers, count * sizeof(*gone));
	qsort(gone, count, sizeof(*gone), cmp_text);
	for (size_t i = 0; i < count; i++)
		assert_ok(lm_txn_remove(f->txn, lm_layer_path(gone[i]).s, &err));
	assert_ok(lm_layer_index_forget(f->txn, inventory, gone, count, &err));
}

static void test_forget(void **state)
{
	struct fixture *f = *state;
	const struct lm_inventory none = {0};
	struct one images[40] = {0};
	const char *const gone[] = {strdup(blob(3)), strdup(blob(77)), strdup(blob(20))};
	/* Nothing is there to forget. */
	forget(f, &none, gone, 3);
	for (unsigned i = 0; i < ARRAY_LEN(images); i++) {
		put_layer(f, blob(i), NULL);
		add(&images[i], blob(i), diff(i), chain(256 * i)); /* one folder with many, many with one */
		assert_int_equal(enter(f, &images[i], (bool[]){true}, NULL), 2);
	}
	commit(f);
	begin(f);
	forget(f, &none, gone, 3);
	for (unsigned i = 0; i < ARRAY_LEN(images); i++) {
		bool left = i != 3 && i != 20;
		assert_int_equal(entry(f, LM_IMAGES_BY_DIFF, diff(i)) != NULL, left);
		assert_int_equal(entry(f, LM_IMAGES_BY_CHAIN, chain(256 * i)) != NULL, left);
	}
	for (size_t i = 0; i < ARRAY_LEN(gone); i++)
		free((char *)gone[i]);
	commit(f);
}

/* Another image has the same layer in another compression: it is found by that one from now on. */
static void test_heirs(void **state)
{
	struct fixture *f = *state;
	struct one gzip = {0};
	char config[512];
	put_layer(f, blob(1), diff(1));
	put_layer(f, blob(2), diff(2));
	put_layer(f, blob(11), diff(1));
	put_layer(f, blob(12), diff(2));
	struct lm_image parsed = {.layers = calloc(2, sizeof(struct lm_layer)), .layer_count = 2};
	snprintf(config, sizeof(config),
		"{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"%s\",\"%"
		"s\"]}}",
		diff(1), diff(2));
	assert_ok(lm_image_parse_config(&parsed, config, strlen(config), &err));
	add(&gzip, blob(1), diff(1), parsed.layers[0].chain_id);
	add(&gzip, blob(2), diff(2), parsed.layers[1].chain_id);
	assert_int_equal(enter(f, &gzip, NULL, NULL), 4);
	assert_ok(lm_txn_mkdirs(f->txn, "/.metadata/r/zstd:1", false, &err));
	assert_ok(lm_txn_put_data(f->txn, "/.metadata/r/zstd:1/config.raw", config, strlen(config), &err));
	struct lm_image_part parts[2] = {0}, unknown[1] = {0};
	strcpy(parts[0].digest, blob(11));
	strcpy(parts[1].digest, blob(12));
	strcpy(unknown[0].digest, blob(5));
	/* Of the first nothing is known but its manifest. */
	struct lm_inventory_image images[] = {
		{.name = (char *)"r/stock:1", .parts = {.layers = unknown, .layer_count = 1}},
		{.name = (char *)"r/zstd:1", .parts = {.layers = parts, .layer_count = 2}},
	};
	const struct lm_inventory inventory = {.images = images, .count = 2};
	const char *const gone[] = {blob(2)};
	forget(f, &inventory, gone, 1);
	assert_entry(LM_IMAGES_BY_DIFF, diff(1), blob(1));
	assert_entry(LM_IMAGES_BY_DIFF, diff(2), blob(12));
	assert_entry(LM_IMAGES_BY_CHAIN, parsed.layers[1].chain_id, blob(12));
	lm_image_done(&parsed);
}

static void test_layers_json(void **state)
{
	static const char *const broken[] = {"", "{}", "[]", "[{}]", "[{\"diff-digest\":1}]",
		"[{\"diff-digest\":\"sha256:12\"}]", "[{\"diff-digest\":\"../../x\"}]", "[[[["};
	for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
		CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(4096);
		char diff_id[LM_DIGEST_MAX];
		assert_int_equal(lm_buf_str(&text, broken[i]), 0);
		assert_int_equal(lm_layers_json_diff_id(&text, diff_id, NULL), -EPROTO);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layers_json),
		cmocka_unit_test_setup_teardown(test_first_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(test_liar, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stock, setup, teardown),
		cmocka_unit_test_setup_teardown(test_twice, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nesting, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forget, setup, teardown),
		cmocka_unit_test_setup_teardown(test_heirs, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
