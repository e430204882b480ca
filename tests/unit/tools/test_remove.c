/* Which trees of layers' chains go with an image: by a view that is a list of paths. */
#include "base/str.h"
#include "convert/chain_tree.h"
#include "convert/remove.h"
#include "convert_test.h"

#include <sys/stat.h>

#define L1 "sha256:1111111111111111111111111111111111111111111111111111111111111111"
#define L2 "sha256:2222222222222222222222222222222222222222222222222222222222222222"
#define C1 "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define C2 "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
enum { NOW_S = 2000000000, ENTRIES_MAX = 32 };

struct entry {
	char *path, *text; /* text NULL: a directory */
};
struct fixture {
	struct entry entries[ENTRIES_MAX];
	size_t count;
	struct lm_removal removal;
	struct lm_err err;
};

static int setup(void **state)
{
	*state = calloc(1, sizeof(struct fixture));
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	for (size_t i = 0; i < f->count; i++) {
		free(f->entries[i].path);
		free(f->entries[i].text);
	}
	lm_removal_done(&f->removal);
	free(f);
	return 0;
}

static const struct entry *find(const struct fixture *f, const char *path)
{
	for (size_t i = 0; i < f->count; i++)
		if (strcmp(f->entries[i].path, path) == 0)
			return &f->entries[i];
	return NULL;
}

/* With its parents. */
static void put(struct fixture *f, const char *path, const char *text)
{
	CLEANUP(lm_freep) char *parent = strdup(path);
	*strrchr(parent, '/') = '\0';
	if (*parent && !find(f, parent))
		put(f, parent, NULL);
	assert_true(f->count < ENTRIES_MAX);
	f->entries[f->count++] = (struct entry){strdup(path), text ? strdup(text) : NULL};
}

static int fill_row(const struct entry *entry, struct lm_row *ret)
{
	*ret = (struct lm_row){.mode = entry->text ? S_IFREG | 0644 : S_IFDIR | 0755};
	ret->name = strdup(strrchr(entry->path, '/') + 1);
	return ret->name ? 0 : -ENOMEM;
}

static int view_row(void *arg, const char *path, struct lm_row *ret, struct lm_err *err)
{
	const struct entry *entry = find(arg, path);
	return entry ? fill_row(entry, ret) : -ENOENT;
}

static int view_list(void *arg, const char *dir, lm_catalog_row_fn *fn, void *fn_arg, struct lm_err *err)
{
	const struct fixture *f = arg;
	int r = 0;
	for (size_t i = 0; i < f->count && r == 0; i++) {
		CLEANUP(lm_row_done) struct lm_row row = {0};
		const char *path = f->entries[i].path, *name = strrchr(path, '/');
		if ((size_t)(name - path) != strlen(dir) || strncmp(path, dir, strlen(dir)) != 0)
			continue;
		r = fill_row(&f->entries[i], &row);
		if (r == 0)
			r = fn(fn_arg, &row);
	}
	return r;
}

static int view_read(void *arg, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	const struct entry *entry = find(arg, path);
	return entry && entry->text ? lm_buf_str(ret, entry->text) : -ENOENT;
}

/* layers: digests in quotes, as they stand in a list. */
#define MANIFEST(config, layers) "{\"Config\":{\"Digest\":\"" config "\"},\"Layers\":[" layers "]}"
#define LAYER(digest) "{\"Digest\":\"" digest "\",\"Size\":1}"

static void put_image(struct fixture *f, const char *name, const char *manifest)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("/.metadata/%s/manifest.json", name);
	put(f, path, manifest);
}

static struct lm_chain_hex put_tree(struct fixture *f, const char *lower, const char *upper)
{
	const char *const digests[] = {lower, upper};
	struct lm_chain_hex chain;
	assert_int_equal(lm_images_chain(digests, upper ? 2 : 1, &chain, NULL), 0);
	put(f, lm_chain_path(chain.s).s, NULL);
	return chain;
}

/* What goes at once with that name. */
static void remove_name(struct fixture *f, const char *name)
{
	const struct lm_view view = {f, view_row, view_list, view_read};
	int r = lm_removal_plan(&view, &name, name ? 1 : 0, 0, NOW_S, &f->removal, &f->err);
	if (r < 0)
		print_error("%s\n", lm_err_text(&f->err));
	assert_int_equal(r, 0);
}

static void test_goes(void **state)
{
	struct fixture *f = *state;
	put_image(f, "r/a:1", MANIFEST(C1, LAYER(L1) "," LAYER(L2)));
	put_image(f, "r/b:1", MANIFEST(C2, LAYER(L1)));
	put_tree(f, L1, NULL);
	put_tree(f, L2, L1); /* the other way round: of another image */
	const struct lm_chain_hex both = put_tree(f, L1, L2);
	remove_name(f, "r/a:1");
	assert_int_equal(f->removal.tree_count, 1);
	assert_string_equal(f->removal.trees[0].s, both.s);
}

static void test_shared(void **state)
{
	struct fixture *f = *state;
	put_image(f, "r/a:1", MANIFEST(C1, LAYER(L1)));
	put_image(f, "r/b:1", MANIFEST(C2, LAYER(L1)));
	put_tree(f, L1, NULL);
	remove_name(f, "r/a:1");
	assert_int_equal(f->removal.image_count, 1);
	assert_int_equal(f->removal.tree_count, 0);
}

static void test_another_name(void **state)
{
	struct fixture *f = *state;
	put_image(f, "r/a:1", MANIFEST(C1, LAYER(L1)));
	put_image(f, "r/a:2", MANIFEST(C1, LAYER(L1)));
	put_tree(f, L1, NULL);
	remove_name(f, "r/a:1");
	assert_int_equal(f->removal.image_count, 0);
	assert_int_equal(f->removal.tree_count, 0);
}

static void test_no_tree(void **state)
{
	struct fixture *f = *state;
	put_image(f, "r/a:1", MANIFEST(C1, LAYER(L1)));
	remove_name(f, "r/a:1");
	assert_int_equal(f->removal.image_count, 1);
	assert_int_equal(f->removal.tree_count, 0);
}

#define SCHEDULED(when, config) \
	"[{\"RemoveAfter\":\"" when "\",\"Config\":{\"Digest\":\"" config "\"},\"Layers\":[" LAYER(L1) "]}]"

/* An image that waits still has it; when its time has come nobody has, and it is named once. */
static void test_waits(void **state)
{
	struct fixture *f = *state;
	put(f, "/.metadata/remove-schedule.json", SCHEDULED("2999-01-01T00:00:00Z", C2));
	put_image(f, "r/a:1", MANIFEST(C1, LAYER(L1)));
	put_tree(f, L1, NULL);
	remove_name(f, "r/a:1");
	assert_int_equal(f->removal.tree_count, 0);
}

static void test_due(void **state)
{
	struct fixture *f = *state;
	put(f, "/.metadata/remove-schedule.json", SCHEDULED("2001-01-01T00:00:00Z", C2));
	put_image(f, "r/a:1", MANIFEST(C1, LAYER(L1)));
	put_tree(f, L1, NULL);
	remove_name(f, NULL);
	assert_int_equal(f->removal.image_count, 1);
	assert_int_equal(f->removal.tree_count, 0);
	lm_removal_done(&f->removal);
	remove_name(f, "r/a:1");
	assert_int_equal(f->removal.image_count, 2);
	assert_int_equal(f->removal.tree_count, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_goes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shared, setup, teardown),
		cmocka_unit_test_setup_teardown(test_another_name, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_tree, setup, teardown),
		cmocka_unit_test_setup_teardown(test_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_due, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
