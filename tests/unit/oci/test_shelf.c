/* Images by the files beside a repository's mount: names, digests, what is damaged, stale, missing or hostile. */
#include "fixture.h"
#include "oci/shelf.h"

#include <dirent.h>
#include <dlfcn.h>
#include <sys/stat.h>

#define ZERO "sha256:0000000000000000000000000000000000000000000000000000000000000000"
#define HOST "reg.example.org:5000"

static struct fixture fixture; /* whose blobs are copied */
static char base[64];

static bool lists_fail;

/* In place of the C library's: directories that can't be read to their end. */
struct dirent *readdir(DIR *dir)
{
	static struct dirent *(*real)(DIR * dir);
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "readdir64");
	if (!lists_fail)
		return real(dir);
	errno = EIO;
	return NULL;
}

static char *read_blob(const char *digest, size_t *ret_len)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(1 << 20);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/blobs/sha256/%s", fixture.dir, digest + strlen("sha256:"));
	assert_int_equal(lm_file_read(AT_FDCWD, path, &text, NULL), 0);
	return (char *)lm_buf_steal(&text, ret_len);
}

static void put(const char *repository, const char *image, const char *file, const void *data, size_t len)
{
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/%s/.metadata/%s", base, repository, image);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, file);
	assert_int_equal(lm_mkdir_p(AT_FDCWD, dir, 0755, NULL), 0);
	assert_int_equal(lm_file_replace(AT_FDCWD, path, data, len, 0644, 0, NULL), 0);
}

static void put_blob(const char *repository, const char *image, const char *file, const char *digest)
{
	size_t len;
	CLEANUP(lm_freep) char *data = read_blob(digest, &len);
	put(repository, image, file, data, len);
}

static void put_image(const char *repository, const char *image, unsigned n, bool index)
{
	put_blob(repository, image, "manifest.raw", fixture.images[n].manifest);
	put_blob(repository, image, "config.raw", fixture.images[n].config);
	if (index)
		put_blob(repository, image, "index.raw", fixture.index);
}

static int make(void **state)
{
	fixture_make(&fixture);
	snprintf(base, sizeof(base), "/tmp/lamella-shelf.XXXXXX");
	assert_non_null(mkdtemp(base));
	put_image("a.org", HOST "/group/tool:v1", 0, false);
	put_image("a.org", HOST "/group/tool:multi", 0, true);
	put_image("a.org", HOST "/group/tool:multi-linux-arm64-v8", 1, true);
	put_image("a.org", HOST "/group/toolbox:v9", 1, false);
	put_image("a.org", HOST "/bare", 1, false);
	put_image("a.org", "registry.hub.docker.com/library/alpine:3", 0, false);
	put_image("b.org", HOST "/group/tool:second", 1, false);
	put("a.org", HOST "/ducc:v1", "manifest.json", "{}", 2);
	/* What nobody can ask for by name. */
	put("a.org", HOST "/group/No Name:v1", "manifest.raw", "{}", 2);
	put("a.org", HOST "/group/tool:no tag", "manifest.raw", "{}", 2);
	put("a.org", "no%host/tool:v1", "manifest.raw", "{}", 2);
	return 0;
}

static int drop(void **state)
{
	fixture_drop(&fixture);
	return lm_remove_tree(AT_FDCWD, base, NULL);
}

static struct lm_shelf *shelf_of(const char *first, const char *second)
{
	const char *names[] = {first, second};
	const struct lm_shelf_options options = {
		.base = base, .repositories = names, .count = second ? 2 : 1, .any_directory = true};
	struct lm_shelf *shelf = NULL;
	assert_int_equal(lm_shelf_new(&options, &shelf, NULL), 0);
	return shelf;
}

/* The digest of what a reference gives, or the error. */
static int get(struct lm_shelf *shelf, const char *registry, const char *repository, const char *reference,
	const char *expected)
{
	CLEANUP(lm_shelf_item_done) struct lm_shelf_item item = {0};
	struct lm_err err = LM_ERR_INIT;
	char seen[LM_DIGEST_MAX];
	const struct lm_shelf_name name = {registry, repository};
	int r = lm_shelf_manifest(shelf, &name, reference, &item, &err);
	if (r < 0) {
		assert_true(err.code == r && *err.msg);
		return r;
	}
	assert_int_equal(lm_digest_data(item.text.data, item.text.len, seen, NULL), 0);
	assert_string_equal(seen, item.digest);
	assert_string_equal(seen, expected);
	assert_string_equal(
		item.media_type, strcmp(expected, fixture.index) == 0 ? FIXTURE_INDEX_TYPE : FIXTURE_MANIFEST_TYPE);
	return 0;
}

static int get_config(struct lm_shelf *shelf, const char *repository, const char *digest)
{
	CLEANUP(lm_shelf_item_done) struct lm_shelf_item item = {0};
	const struct lm_shelf_name name = {HOST, repository};
	return lm_shelf_config(shelf, &name, digest, &item, NULL);
}

static void by_tag_and_digest(void **state)
{
	CLEANUP(lm_shelf_freep) struct lm_shelf *shelf = shelf_of("a.org", "b.org");
	const char *one = fixture.images[0].manifest, *other = fixture.images[1].manifest;
	for (unsigned i = 0; i < 2; i++) { /* the second time by what is remembered */
		assert_int_equal(get(shelf, HOST, "group/tool", "v1", one), 0);
		assert_int_equal(get(shelf, HOST, "group/tool", "multi", fixture.index), 0);
		assert_int_equal(get(shelf, HOST, "group/tool", "second", other), 0);
		assert_int_equal(get(shelf, HOST, "group/tool", one, one), 0);
		assert_int_equal(get(shelf, HOST, "group/tool", other, other), 0);
		assert_int_equal(get(shelf, HOST, "group/tool", fixture.index, fixture.index), 0);
		assert_int_equal(get(shelf, HOST, "bare", other, other), 0);
		assert_int_equal(get_config(shelf, "group/tool", fixture.images[0].config), 0);
		assert_int_equal(get_config(shelf, "group/tool", fixture.images[1].config), 0);
	}
	assert_int_equal(get(shelf, HOST, "group/tool", "v2", NULL), -ENOENT);
	assert_int_equal(get(shelf, HOST, "group/tool", ZERO, NULL), -ENOENT);
	assert_int_equal(get(shelf, HOST, "group", "v1", NULL), -ENOENT);
	assert_int_equal(get(shelf, HOST, "group/toolbox", one, NULL), -ENOENT); /* it is another's */
	assert_int_equal(get(shelf, HOST, "bare", one, NULL), -ENOENT);
	assert_int_equal(get(shelf, HOST, "bare", "latest", NULL), -ENOENT);
	assert_int_equal(get(shelf, HOST, "ducc", "v1", NULL), -ENOENT);
	assert_int_equal(get_config(shelf, "group/toolbox", fixture.images[0].config), -ENOENT);
	assert_int_equal(get_config(shelf, "group/tool", one), -ENOENT); /* no config */
}

static void names(void **state)
{
	CLEANUP(lm_shelf_freep) struct lm_shelf *shelf = shelf_of("a.org", NULL);
	const char *one = fixture.images[0].manifest;
	assert_int_equal(get(shelf, "docker.io", "library/alpine", "3", one), 0);
	assert_int_equal(get(shelf, "registry-1.docker.io", "library/alpine", one, one), 0);
	assert_int_equal(get(shelf, NULL, "library/alpine", "3", one), 0);
	assert_int_equal(get(shelf, NULL, "registry.hub.docker.com/library/alpine", one, one), 0);
	assert_int_equal(get(shelf, NULL, "group/tool", "v1", one), 0);
	assert_int_equal(get(shelf, "other.example.org", "group/tool", "v1", NULL), -ENOENT);
	assert_int_equal(get(shelf, HOST, "library/alpine", "3", NULL), -ENOENT);
}

static void lists(void **state)
{
	CLEANUP(lm_shelf_freep) struct lm_shelf *shelf = shelf_of("a.org", "b.org");
	CLEANUP(lm_texts_done) struct lm_texts tags = {0}, all = {0}, none = {0};
	const struct lm_shelf_name tool = {NULL, "group/tool"}, ducc = {HOST, "ducc"};
	assert_int_equal(lm_shelf_tags(shelf, &tool, &tags, NULL), 0);
	assert_int_equal(tags.count, 4);
	assert_string_equal(tags.items[0], "multi");
	assert_string_equal(tags.items[2], "second");
	assert_string_equal(tags.items[3], "v1");
	assert_int_equal(lm_shelf_tags(shelf, &ducc, &none, NULL), -ENOENT);
	assert_int_equal(lm_shelf_names(shelf, &all, NULL), 0);
	assert_int_equal(all.count, 4);
	assert_string_equal(all.items[0], HOST "/ducc");
	assert_string_equal(all.items[1], HOST "/group/tool");
	assert_string_equal(all.items[3], "registry.hub.docker.com/library/alpine");
}

/* A repository that is away is no failure of a list; the caller's error stays as it was. */
static void lists_of_some(void **state)
{
	CLEANUP(lm_shelf_freep) struct lm_shelf *shelf = shelf_of("gone.org", "b.org");
	CLEANUP(lm_shelf_freep) struct lm_shelf *none = shelf_of("gone.org", NULL);
	CLEANUP(lm_texts_done) struct lm_texts tags = {0}, all = {0};
	const struct lm_shelf_name tool = {HOST, "group/tool"};
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_shelf_tags(shelf, &tool, &tags, &err), 0);
	assert_int_equal(lm_shelf_names(shelf, &all, &err), 0);
	assert_true(tags.count == 1 && all.count == 1);
	assert_int_equal(err.code, 0);
	lm_texts_done(&tags);
	assert_int_equal(lm_shelf_tags(none, &tool, &tags, &err), -ENOTCONN);
	assert_int_equal(lm_shelf_names(none, &tags, &err), -ENOTCONN);
	assert_non_null(strstr(lm_err_text(&err), "gone.org is not mounted"));
}

/* What could not be looked for is not said to be absent. */
static void unreadable(void **state)
{
	CLEANUP(lm_shelf_freep) struct lm_shelf *shelf = shelf_of("a.org", NULL);
	CLEANUP(lm_texts_done) struct lm_texts list = {0};
	const struct lm_shelf_name tool = {HOST, "group/tool"};
	lists_fail = true;
	int by_tag = get(shelf, HOST, "group/tool", "v1", fixture.images[0].manifest);
	int by_digest = get(shelf, HOST, "group/tool", ZERO, NULL);
	int anywhere = get(shelf, NULL, "group/tool", "v1", NULL);
	int tags = lm_shelf_tags(shelf, &tool, &list, NULL);
	int names = lm_shelf_names(shelf, &list, NULL);
	lists_fail = false;
	assert_int_equal(by_tag, 0);
	assert_int_equal(by_digest, -EIO);
	assert_int_equal(anywhere, -EIO);
	assert_int_equal(tags, -EIO);
	assert_int_equal(names, -EIO);
}

/* What was remembered is hashed like all else. */
static void damaged(void **state)
{
	CLEANUP(lm_shelf_freep) struct lm_shelf *shelf = shelf_of("b.org", NULL);
	const char *other = fixture.images[1].manifest;
	size_t len;
	CLEANUP(lm_freep) char *manifest = read_blob(other, &len), *text = lm_str_printf("%s ", manifest);
	assert_int_equal(get(shelf, HOST, "group/tool", other, other), 0);
	put("b.org", HOST "/group/tool:second", "manifest.raw", text, len + 1);
	assert_int_equal(get(shelf, HOST, "group/tool", other, NULL), -ENOENT);
	put("b.org", HOST "/group/tool:second", "manifest.raw", "{\"schemaVersion\":2", 18);
	assert_int_equal(get(shelf, HOST, "group/tool", "second", NULL), -EPROTO);
	put("b.org", HOST "/group/tool:second", "config.raw", "{}", 2);
	assert_int_equal(get_config(shelf, "group/tool", fixture.images[1].config), -ENOENT);
	put_image("b.org", HOST "/group/tool:second", 1, false);
	assert_int_equal(get(shelf, HOST, "group/tool", other, other), 0);
}

/* An index that does not name the manifest beside it was left behind. */
static void stale_index(void **state)
{
	CLEANUP(lm_shelf_freep) struct lm_shelf *shelf = shelf_of("b.org", NULL);
	const char *other = fixture.images[1].manifest;
	CLEANUP(lm_freep)
	char *text = lm_str_printf(
		"{\"schemaVersion\":2,\"mediaType\":\"" FIXTURE_INDEX_TYPE
		"\",\"manifests\":[{\"mediaType\":\"" FIXTURE_MANIFEST_TYPE "\",\"digest\":\"" ZERO "\",\"size\":2}]}");
	put("b.org", HOST "/group/tool:second", "index.raw", text, strlen(text));
	assert_int_equal(get(shelf, HOST, "group/tool", "second", other), 0);
	put("b.org", HOST "/group/tool:second", "index.raw", "junk", 4);
	assert_int_equal(get(shelf, HOST, "group/tool", "second", other), 0);
	put_blob("b.org", HOST "/group/tool:second", "index.raw", fixture.index);
	assert_int_equal(get(shelf, HOST, "group/tool", "second", fixture.index), 0);
}

static void as_a_source(void **state)
{
	CLEANUP(lm_shelf_freep) struct lm_shelf *shelf = shelf_of("a.org", NULL);
	static const struct {
		const char *text;
		const struct lm_platform *platform;
		int image; /* or the error */
	} cases[] = {
		{"docker://" HOST "/group/tool:v1", NULL, 0},
		{"docker://" HOST "/group/tool:multi", &fixture_amd64, 0},
		{"docker://" HOST "/group/tool:multi", &fixture_arm64, 1},
		{"docker://" HOST "/group/tool:v1", &fixture_arm64, -ENOENT},
		{"docker://alpine:3", NULL, 0},
		{"docker://" HOST "/group/tool:v2", NULL, -ENOENT},
		{"docker://" HOST "/group/tool@" ZERO, NULL, -ENOENT},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_reference_done) struct lm_reference ref = {0};
		CLEANUP(lm_source_freep) struct lm_source *source = NULL;
		CLEANUP(lm_image_done) struct lm_image image = {0};
		assert_int_equal(lm_reference_parse(cases[i].text, &ref, NULL), 0);
		assert_int_equal(lm_shelf_source(shelf, &ref, &source, NULL), 0);
		int r = lm_source_image(source, cases[i].platform, &image, NULL);
		assert_int_equal(r, LM_MIN(cases[i].image, 0));
		if (r == 0)
			fixture_check(&fixture, (unsigned)cases[i].image, &image);
		if (r == 0 && strstr(cases[i].text, "multi"))
			assert_int_equal(image.index.len, fixture.index_size);
	}
}

/* Links lead nowhere outside, other files than plain ones are not read, and a directory is no mount. */
static void hostile(void **state)
{
	CLEANUP(lm_shelf_freep) struct lm_shelf *shelf = shelf_of("a.org", NULL);
	CLEANUP(lm_shelf_freep) struct lm_shelf *strict = NULL;
	CLEANUP(lm_freep) char *link = lm_str_printf("%s/a.org/.metadata/" HOST "/link:v1", base);
	CLEANUP(lm_freep) char *target = lm_str_printf("%s/b.org/.metadata/" HOST "/group/tool:second", base);
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/a.org/.metadata/" HOST "/fifo:v1", base);
	CLEANUP(lm_freep) char *fifo = lm_str_printf("%s/manifest.raw", dir);
	assert_int_equal(symlink(target, link), 0);
	assert_int_equal(get(shelf, HOST, "link", "v1", NULL), -EXDEV);
	assert_int_equal(mkdir(dir, 0755), 0);
	assert_int_equal(mkfifo(fifo, 0644), 0);
	assert_int_equal(get(shelf, HOST, "fifo", "v1", NULL), -EPROTO);
	assert_int_equal(unlink(link), 0);
	assert_int_equal(lm_remove_tree(AT_FDCWD, dir, NULL), 0);

	static const char *const bad[] = {"", ".", "..", "a/b", "../a"};
	const char *repositories[] = {"a.org"};
	struct lm_shelf_options options = {.base = base, .repositories = repositories, .count = 1};
	assert_int_equal(lm_shelf_new(&options, &strict, NULL), 0);
	assert_int_equal(get(strict, HOST, "group/tool", "v1", NULL), -ENOTCONN);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct lm_shelf *none = NULL;
		repositories[0] = bad[i];
		assert_int_equal(lm_shelf_new(&options, &none, NULL), -EINVAL);
	}
	options.count = 0;
	struct lm_shelf *none = NULL;
	assert_int_equal(lm_shelf_new(&options, &none, NULL), -EINVAL);
}

static void layers(void **state)
{
	CLEANUP(lm_shelf_freep) struct lm_shelf *shelf = shelf_of("a.org", "b.org");
	const char *digest = fixture.images[0].layers[0];
	CLEANUP(lm_freep)
	char *dir = lm_str_printf(
		"%s/b.org/.layers/%.2s/%s/layerfs", base, digest + strlen("sha256:"), digest + strlen("sha256:"));
	assert_false(lm_shelf_has_layer(shelf, digest));
	assert_int_equal(lm_mkdir_p(AT_FDCWD, dir, 0755, NULL), 0);
	assert_true(lm_shelf_has_layer(shelf, digest));
	assert_false(lm_shelf_has_layer(shelf, ZERO));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(by_tag_and_digest),
		cmocka_unit_test(names),
		cmocka_unit_test(lists),
		cmocka_unit_test(lists_of_some),
		cmocka_unit_test(unreadable),
		cmocka_unit_test(damaged),
		cmocka_unit_test(stale_index),
		cmocka_unit_test(as_a_source),
		cmocka_unit_test(hostile),
		cmocka_unit_test(layers),
	};
	return cmocka_run_group_tests(tests, make, drop);
}
