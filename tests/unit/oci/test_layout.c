#include "fixture.h"

#include <sys/stat.h>

static struct fixture fixture;
static char text[128];

static int make(void **state)
{
	fixture_make(&fixture);
	return 0;
}

static int drop(void **state)
{
	fixture_drop(&fixture);
	return 0;
}

static const char *tagged(const char *tag)
{
	snprintf(text, sizeof(text), "oci:%s%s%s", fixture.dir, tag ? ":" : "", tag ? tag : "");
	return text;
}

static int try(const char *tag, const struct lm_platform *platform, struct lm_err *err)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	return fixture_get(NULL, tagged(tag), platform, &image, NULL, err);
}

static void overwrite(const char *digest, const void *data, size_t len)
{
	char path[96];
	fixture_blob_path(digest, path);
	fixture_write(&fixture, path, data, len);
}

static void by_tag(void **state)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(fixture_get(NULL, tagged("one"), NULL, &image, &source, &err), 0);
	fixture_check(&fixture, 0, &image);
	assert_string_equal(image.architecture, "amd64");
	assert_int_equal(image.index.len, 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(
			fixture_read(source, image.layers[i].digest, image.layers[i].size, &err), FIXTURE_LAYER_BYTES);
}

static void through_an_index(void **state)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	struct lm_err err = LM_ERR_INIT;
	char digest[LM_DIGEST_MAX];
	assert_int_equal(fixture_get(NULL, tagged("multi"), &fixture_amd64, &image, NULL, &err), 0);
	fixture_check(&fixture, 0, &image);
	assert_int_equal(lm_digest_data(image.index.data, image.index.len, digest, NULL), 0);
	assert_string_equal(digest, fixture.index);
	const char *index = lm_buf_cstr(&image.index);
	assert_true(lm_index_names(index, image.index.len, fixture.images[1].manifest));
	assert_false(lm_index_names(index, image.index.len, fixture.index));
	assert_false(lm_index_names(index, image.index.len - 1, fixture.images[1].manifest));
	lm_image_done(&image);
	assert_int_equal(fixture_get(NULL, tagged("multi"), &fixture_arm64, &image, NULL, &err), 0);
	fixture_check(&fixture, 1, &image);
	lm_image_done(&image);
	const struct lm_platform sparc = {"linux", "sparc64", NULL};
	assert_int_equal(try("multi", &sparc, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "linux/arm64/v8"));
}

static void single_image_of_another_platform(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(try("other", NULL, &err), 0); /* taken for what it is */
	assert_int_equal(try("other", &fixture_arm64, &err), 0);
	assert_int_equal(try("other", &fixture_amd64, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "linux/arm64, not linux/amd64"));
}

static void without_a_tag(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(try(NULL, NULL, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "(tags: one, other, multi)"));
	assert_int_equal(try("none", NULL, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "no tag \"none\" (tags: one, other, multi)"));

	char index[1000];
	snprintf(index, sizeof(index), "{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"%s\",\"size\":%zu}]}",
		fixture.images[0].manifest, fixture.images[0].manifest_size);
	fixture_write(&fixture, "index.json", index, strlen(index));
	assert_int_equal(try(NULL, NULL, &err), 0);
	assert_int_equal(try("one", NULL, &err), -ENOENT);

	snprintf(index, sizeof(index),
		"{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"%s\",\"size\":%zu},{\"digest\":\"%s\",\"size\":%zu,"
		"\"annotations\":{\"org.opencontainers.image.ref.name\":\"latest\"}}]}",
		fixture.images[0].manifest, fixture.images[0].manifest_size, fixture.images[1].manifest,
		fixture.images[1].manifest_size);
	fixture_write(&fixture, "index.json", index, strlen(index));
	CLEANUP(lm_image_done) struct lm_image image = {0};
	assert_int_equal(fixture_get(NULL, tagged(NULL), NULL, &image, NULL, &err), 0);
	fixture_check(&fixture, 1, &image);
}

static void one_tag_for_two_platforms(void **state)
{
	char index[1000];
	struct lm_err err = LM_ERR_INIT;
	snprintf(index, sizeof(index),
		"{\"schemaVersion\":2,\"manifests\":["
		"{\"digest\":\"%s\",\"size\":%zu,\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"},"
		"\"annotations\":{\"org.opencontainers.image.ref.name\":\"t\"}},"
		"{\"digest\":\"%s\",\"size\":%zu,\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\",\"variant\":"
		"\"v8\"},"
		"\"annotations\":{\"org.opencontainers.image.ref.name\":\"t\"}}]}",
		fixture.images[0].manifest, fixture.images[0].manifest_size, fixture.images[1].manifest,
		fixture.images[1].manifest_size);
	fixture_write(&fixture, "index.json", index, strlen(index));
	CLEANUP(lm_image_done) struct lm_image image = {0};
	assert_int_equal(fixture_get(NULL, tagged("t"), &fixture_arm64, &image, NULL, &err), 0);
	fixture_check(&fixture, 1, &image);
}

static void no_layouts(void **state)
{
	CLEANUP(lm_freep) char *version = lm_str_printf("%s/oci-layout", fixture.dir);
	struct lm_image image;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(fixture_get(NULL, "oci:/nonexistent/x", NULL, &image, NULL, &err), -ENOENT);
	assert_int_equal(fixture_get(NULL, "oci:/etc/passwd", NULL, &image, NULL, &err), -ENOTDIR);
	fixture_write(&fixture, "oci-layout", "{\"imageLayoutVersion\":\"2.0.0\"}", 30);
	assert_int_equal(try("one", NULL, &err), -EPROTO);
	fixture_write(&fixture, "oci-layout", "{}", 2);
	assert_int_equal(try("one", NULL, &err), -EPROTO);
	assert_int_equal(unlink(version), 0);
	assert_int_equal(try("one", NULL, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "is no OCI image layout"));
	fixture_write(&fixture, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}", 30);
	fixture_write(&fixture, "index.json", "{}", 2);
	assert_int_equal(try("one", NULL, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "index.json"));
}

static void damaged_documents(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *wrong = calloc(1, fixture.images[0].manifest_size);
	overwrite(fixture.images[0].manifest, wrong, fixture.images[0].manifest_size);
	assert_int_equal(try("one", NULL, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, fixture.images[0].manifest));
	overwrite(fixture.images[0].manifest, "{}", 2);
	assert_int_equal(try("one", NULL, &err), -EBADMSG);
	overwrite(fixture.images[1].config, "{}", 2);
	assert_int_equal(try("other", NULL, &err), -EBADMSG);
}

static void damaged_layers(void **state)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	CLEANUP(lm_freep) char *bytes = calloc(1, FIXTURE_LAYER_BYTES + 1);
	char path[96];
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(fixture_get(NULL, tagged("one"), NULL, &image, &source, &err), 0);
	const char *digest = image.layers[0].digest;
	overwrite(digest, bytes, FIXTURE_LAYER_BYTES);
	assert_int_equal(fixture_read(source, digest, FIXTURE_LAYER_BYTES, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "has other content"));
	overwrite(digest, bytes, FIXTURE_LAYER_BYTES - 1);
	assert_int_equal(fixture_read(source, digest, FIXTURE_LAYER_BYTES, &err), -EBADMSG);
	overwrite(digest, bytes, FIXTURE_LAYER_BYTES + 1);
	assert_int_equal(fixture_read(source, digest, FIXTURE_LAYER_BYTES, &err), -EBADMSG);
	fixture_blob_path(digest, path);
	CLEANUP(lm_freep) char *full = lm_str_printf("%s/%s", fixture.dir, path);
	assert_int_equal(unlink(full), 0);
	assert_int_equal(fixture_read(source, digest, FIXTURE_LAYER_BYTES, &err), -ENOENT);
	assert_int_equal(mkfifo(full, 0600), 0);
	assert_int_equal(fixture_read(source, digest, FIXTURE_LAYER_BYTES, &err), -EPROTO);
	assert_int_equal(fixture_read(source, "sha256:../../x", 5, &err), -EINVAL);
}

/* The file may grow or shrink while it is read: what was opened with the right size is still counted. */
static void layer_changes_while_it_is_read(void **state)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	CLEANUP(lm_blob_closep) struct lm_blob *blob = NULL;
	char path[96], byte;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(fixture_get(NULL, tagged("one"), NULL, &image, &source, &err), 0);
	assert_int_equal(lm_source_blob(source, image.layers[1].digest, image.layers[1].size, &blob, &err), 0);
	assert_int_equal(lm_blob_read(blob, &byte, 1, &err), 1);
	fixture_blob_path(image.layers[1].digest, path);
	CLEANUP(lm_freep) char *full = lm_str_printf("%s/%s", fixture.dir, path);
	assert_int_equal(truncate(full, 1000), 0);
	ssize_t n = 1;
	for (char piece[512]; n > 0;)
		n = lm_blob_read(blob, piece, sizeof(piece), &err);
	assert_int_equal(n, -EBADMSG);
	assert_non_null(strstr(err.msg, "ends after 1000 of 300000 bytes"));
}

static void indexes_in_indexes(void **state)
{
	char digest[LM_DIGEST_MAX], index[1000];
	size_t size = fixture.index_size;
	struct lm_err err = LM_ERR_INIT;
	strcpy(digest, fixture.index);
	for (unsigned depth = 1; depth <= 4; depth++) {
		snprintf(index, sizeof(index), "{\"schemaVersion\":2,\"manifests\":[{\"digest\":\"%s\",\"size\":%zu}]}",
			digest, size);
		fixture_write(&fixture, "index.json", index, strlen(index));
		assert_int_equal(try(NULL, &fixture_amd64, &err), depth <= 3 ? 0 : -EPROTO);
		fixture_blob(&fixture, index, strlen(index), digest);
		size = strlen(index);
	}
	assert_non_null(strstr(err.msg, "deep"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(by_tag),
		TEST(through_an_index),
		TEST(single_image_of_another_platform),
		TEST(without_a_tag),
		TEST(one_tag_for_two_platforms),
		TEST(no_layouts),
		TEST(damaged_documents),
		TEST(damaged_layers),
		TEST(layer_changes_while_it_is_read),
		TEST(indexes_in_indexes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
