/* LAMELLA_SOURCE, and what is found of layers in a directory, as stock tools and ours have written them. */
#include "snapshotter/places.h"

#include "base/file.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	char dir[40];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->dir, "/tmp/lm-places.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(lm_remove_tree(AT_FDCWD, f->dir, NULL), 0);
	free(f);
	return 0;
}

static void grammar(void **state)
{
	static const char *const bad[] = {"", "Fetcher", "path", "path:", "path:a", "path:/a,", "path:/a,/b",
		",path:/a", "fetcher,path:/a", "path:/a,fetcher", "path:/a,path:/a", "path:/a,path:/a//", "path: /a",
		"/a"};
	struct lm_places places = {0};
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_places_parse("fetcher", &places, &err), 0);
	assert_int_equal(places.count, 0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_int_equal(lm_places_parse(bad[i], &places, &err), -EINVAL);
		assert_true(*err.msg);
		assert_int_equal(places.count, 0);
	}
	assert_int_equal(lm_places_parse("path:/cvmfs/b.example.org/,path:/cvmfs/a b:c", &places, &err), 0);
	assert_int_equal(places.count, 2);
	assert_string_equal(places.directories[0], "/cvmfs/b.example.org");
	assert_string_equal(places.directories[1], "/cvmfs/a b:c");
	lm_places_done(&places);
	assert_int_equal(lm_places_parse("path:/", &places, &err), 0);
	assert_string_equal(places.directories[0], "/");
	lm_places_done(&places);
	char many[LM_PLACES_MAX * 16 + 32] = "";
	for (int i = 0; i <= LM_PLACES_MAX; i++)
		snprintf(many + strlen(many), sizeof(many) - strlen(many), "%spath:/%d", i ? "," : "", i);
	assert_int_equal(lm_places_parse(many, &places, &err), -EINVAL);
	*strrchr(many, ',') = '\0';
	assert_int_equal(lm_places_parse(many, &places, &err), 0);
	assert_int_equal(places.count, LM_PLACES_MAX);
	lm_places_done(&places);
}

static struct lm_images_digest digest_of(unsigned number)
{
	struct lm_images_digest digest;
	snprintf(digest.s, sizeof(digest.s), "sha256:%064x", number);
	return digest;
}

static void put(const struct fixture *f, const char *path)
{
	CLEANUP(lm_freep) char *full = lm_str_printf("%s/%s", f->dir, path);
	assert_int_equal(lm_mkdir_above(AT_FDCWD, full, 0755, NULL), 0);
	assert_int_equal(lm_file_replace(AT_FDCWD, full, "x", 1, 0644, 0, NULL), 0);
}

/* top/xx/HEX/below */
static char *in_layer(const char *top, unsigned number, const char *below)
{
	struct lm_images_digest digest = digest_of(number);
	const char *hex = digest.s + strlen("sha256:");
	return lm_str_printf("%s/%.2s/%s/%s", top, hex, hex, below);
}

static void put_in_layer(const struct fixture *f, const char *top, unsigned number, const char *below)
{
	CLEANUP(lm_freep) char *path = in_layer(top, number, below);
	put(f, path);
}

static void put_entry(const struct fixture *f, enum lm_images_index index, unsigned id, const char *target)
{
	struct lm_images_digest digest = digest_of(id);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s%s", f->dir, lm_images_entry(index, digest.s).s);
	assert_int_equal(lm_mkdir_above(AT_FDCWD, path, 0755, NULL), 0);
	assert_int_equal(symlink(target, path), 0);
}

/* 0 stands for "not said". */
static int find(const struct fixture *f, unsigned digest, unsigned chain, unsigned diff, struct lm_place_layer *ret,
	struct lm_err *err)
{
	const unsigned numbers[] = {digest, chain, diff};
	struct lm_place_names names = {0};
	for (int way = 0; way < LM_PLACE_WAYS; way++)
		if (numbers[way])
			names.by[way] = digest_of(numbers[way]);
	lm_place_layer_done(ret);
	return lm_place_find(f->dir, &names, ret, err);
}

static void assert_is(const struct fixture *f, const struct lm_place_layer *layer, const char *top, unsigned number)
{
	CLEANUP(lm_freep) char *below = in_layer(top, number, "layerfs");
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", f->dir, below);
	assert_string_equal(layer->path, path);
	assert_string_equal(layer->digest.s, digest_of(number).s);
}

static void ways(void **state)
{
	struct fixture *f = *state;
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_place_layer_done) struct lm_place_layer layer = {0};
	put_in_layer(f, ".layers", 1, "layerfs/file");
	put_in_layer(f, ".layers", 2, "layerfs/file");
	put_entry(f, LM_IMAGES_BY_CHAIN, 0x11, lm_images_entry_target(digest_of(1).s).s);
	put_entry(f, LM_IMAGES_BY_DIFF, 0x22, lm_images_entry_target(digest_of(2).s).s);
	put_entry(f, LM_IMAGES_BY_DIFF, 0x23, lm_images_entry_target(digest_of(3).s).s); /* gone */
	assert_int_equal(find(f, 1, 0, 0, &layer, &err), 0);
	assert_is(f, &layer, ".layers", 1);
	assert_false(layer.marks);
	assert_true(!layer.note == (getuid() == 0)); /* files of another user's than root are noticed */
	assert_int_equal(find(f, 0, 0x11, 0, &layer, &err), 0);
	assert_is(f, &layer, ".layers", 1);
	assert_int_equal(find(f, 0, 0, 0x22, &layer, &err), 0);
	assert_is(f, &layer, ".layers", 2);
	assert_int_equal(find(f, 2, 0x11, 0, &layer, &err), 0); /* by the digest first */
	assert_is(f, &layer, ".layers", 2);
	assert_int_equal(find(f, 9, 0x11, 0x22, &layer, &err), 0);
	assert_is(f, &layer, ".layers", 1);
	assert_int_equal(find(f, 9, 0x19, 0x22, &layer, &err), 0);
	assert_is(f, &layer, ".layers", 2);
	assert_int_equal(find(f, 9, 0x22, 0x23, &layer, &err), -ENOENT);
	assert_string_equal(err.msg, f->dir);
	assert_null(layer.path);
}

static void forged(void **state)
{
	static const char *const targets[] = {"../../../../etc", "/etc", "../../../.layers/..",
		"../../../.layers/00/../..",
		"../../../.layers/00/0000000000000000000000000000000000000000000000000000000000000001/layerfs"};
	struct fixture *f = *state;
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_place_layer_done) struct lm_place_layer layer = {0};
	put_in_layer(f, ".layers", 1, "layerfs/file");
	for (unsigned i = 0; i < ARRAY_LEN(targets); i++) {
		put_entry(f, LM_IMAGES_BY_CHAIN, 0x100 + i, targets[i]);
		assert_int_equal(find(f, 0, 0x100 + i, 0, &layer, &err), -EAGAIN);
		assert_non_null(strstr(err.msg, "is no link to a layer"));
		assert_int_equal(find(f, 1, 0x100 + i, 0, &layer, &err), 0);
		assert_int_equal(find(f, 9, 0x100 + i, 0x30, &layer, &err), -EAGAIN);
	}
	CLEANUP(lm_freep)
	char *entry = lm_str_printf("%s", lm_images_entry(LM_IMAGES_BY_CHAIN, digest_of(0x50).s).s + 1);
	put(f, entry);
	assert_int_equal(find(f, 0, 0x50, 0, &layer, &err), -EAGAIN);
	/* A link, or a file, where a directory belongs, is no layer. */
	CLEANUP(lm_freep) char *folder = in_layer(".layers", 4, "layerfs");
	CLEANUP(lm_freep) char *link = lm_str_printf("%s/%s", f->dir, folder);
	assert_int_equal(lm_mkdir_above(AT_FDCWD, link, 0755, NULL), 0);
	assert_int_equal(symlink("/etc", link), 0);
	assert_int_equal(find(f, 4, 0, 0, &layer, &err), -ENOENT);
	put_in_layer(f, ".layers", 5, "layerfs");
	assert_int_equal(find(f, 5, 0, 0, &layer, &err), -ENOENT);
}

static bool go_on(void *arg)
{
	unsigned *left = arg;
	return (*left)-- > 0;
}

static void stock(void **state)
{
	struct fixture *f = *state;
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_place_layer_done) struct lm_place_layer layer = {0};
	put_in_layer(f, ".layers", 1, "layerfs/.cvmfscatalog");
	put_in_layer(f, ".layers", 1, "layerfs/.wh.directory/a/b/.whole");
	assert_int_equal(find(f, 1, 0, 0, &layer, &err), 0);
	assert_is(f, &layer, ".layers", 1);
	assert_non_null(strstr(layer.note, "stock tools"));
	assert_true(layer.marks);
	unsigned left = 100;
	CLEANUP(lm_freep) char *mark = NULL;
	assert_int_equal(lm_place_marks(layer.path, go_on, &left, &mark, &err), 0);
	assert_int_equal(left, 96); /* one for each directory */
	assert_null(mark);
	left = 2;
	assert_int_equal(lm_place_marks(layer.path, go_on, &left, &mark, &err), -ECANCELED);
	put_in_layer(f, ".layers", 1, "layerfs/x/y/.wh.gone");
	left = 100;
	assert_int_equal(lm_place_marks(layer.path, go_on, &left, &mark, &err), 1);
	assert_string_equal(mark, "/x/y/.wh.gone");
	/* Our fetcher shows it in another view. */
	put_in_layer(f, ".lamella-layers", 1, "layerfs/file");
	assert_int_equal(find(f, 1, 0, 0, &layer, &err), 0);
	assert_is(f, &layer, ".lamella-layers", 1);
	assert_false(layer.marks);
	assert_non_null(layer.note);
}

static void nothing_there(void **state)
{
	struct fixture *f = *state;
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_place_layer_done) struct lm_place_layer layer = {0};
	assert_int_equal(find(f, 1, 0, 0, &layer, &err), -ENODEV);
	assert_non_null(strstr(err.msg, "no repository with images is there"));
	struct lm_place_names names = {.by = {digest_of(1)}};
	assert_int_equal(lm_place_find("/none/there", &names, &layer, &err), -ENODEV);
	assert_string_equal(err.msg, "/none/there: No such file or directory");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grammar),
		cmocka_unit_test_setup_teardown(ways, setup, teardown),
		cmocka_unit_test_setup_teardown(forged, setup, teardown),
		cmocka_unit_test_setup_teardown(stock, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_there, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
