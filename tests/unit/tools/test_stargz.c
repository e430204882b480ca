#include "base/file.h"
#include "base/str.h"
#include "convert/layer_tar.h"
#include "convert/stargz.h"
#include "convert_test.h"
#include "oci/digest.h"

#include <fcntl.h>
#include <sys/stat.h>

/* As stargz-snapshotter writes it (estargz.footerBytes), and the older one of crfs. */
#define GZIP_HEAD "\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
#define GZIP_END "\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"
static const char footer[] = GZIP_HEAD "\x1a\x00SG\x16\x00"
				       "00000000001f2a3bSTARGZ" GZIP_END;
static const char old_footer[] = GZIP_HEAD "\x16\x00"
					   "00000000001f2a3bSTARGZ" GZIP_END;

static bool ends_as_stargz(const char *text, size_t len, size_t piece)
{
	struct lm_stargz_tail tail = {0};
	for (size_t at = 0; at < len; at += piece)
		lm_stargz_note(&tail, text + at, LM_MIN(piece, len - at));
	return lm_stargz_footer(&tail);
}

/* In whatever pieces it comes, after whatever came before. */
static void test_footers(void **state)
{
	char text[200];
	memset(text, 'x', sizeof(text));
	assert_int_equal(sizeof(footer) - 1, LM_STARGZ_FOOTER_BYTES);
	assert_int_equal(sizeof(old_footer) - 1, LM_STARGZ_OLD_FOOTER_BYTES);
	for (size_t piece = 1; piece < sizeof(text); piece += 7) {
		memcpy(text + sizeof(text) - LM_STARGZ_FOOTER_BYTES, footer, LM_STARGZ_FOOTER_BYTES);
		assert_true(ends_as_stargz(text, sizeof(text), piece));
		assert_false(ends_as_stargz(text, sizeof(text) - 1, piece));
		memset(text, 'x', sizeof(text));
		memcpy(text + sizeof(text) - LM_STARGZ_OLD_FOOTER_BYTES, old_footer, LM_STARGZ_OLD_FOOTER_BYTES);
		assert_true(ends_as_stargz(text, sizeof(text), piece));
	}
	assert_true(ends_as_stargz(footer, LM_STARGZ_FOOTER_BYTES, 51));
	assert_false(ends_as_stargz(footer + 1, LM_STARGZ_FOOTER_BYTES - 1, 51));
	assert_false(ends_as_stargz("", 0, 1));
}

/* Each byte counts, but for the header's time, system and the like. */
static void test_near_footers(void **state)
{
	for (size_t i = 0; i < LM_STARGZ_FOOTER_BYTES; i++) {
		char text[LM_STARGZ_FOOTER_BYTES];
		memcpy(text, footer, sizeof(text));
		text[i] ^= 0x40;
		assert_int_equal(ends_as_stargz(text, sizeof(text), sizeof(text)), i >= 4 && i < 10);
	}
}

/* --- a layer as a blob --- */

struct fixture {
	char dir[64], blob[128];
	struct lm_buf tar;
	struct lm_layer layer;
	struct lm_layer_tree *tree;
	struct lm_err err;
};

static void add_file(struct fixture *f, const char *name, char type)
{
	tm_block(&f->tar, (struct tm_header){.name = name, .type = type});
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->tar = LM_BUF(1 << 20);
	strcpy(f->dir, "/tmp/lamella-test-XXXXXX");
	*state = f;
	return !mkdtemp(f->dir);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_layer_tree_free(f->tree);
	lm_buf_done(&f->tar);
	int r = lm_remove_tree(AT_FDCWD, f->dir, NULL);
	free(f);
	return r;
}

/* The tar (not compressed, so the footer stands after its end), in a layout of one blob. */
static void read_layer(struct fixture *f, const char *end, size_t end_len)
{
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	CLEANUP(lm_blob_closep) struct lm_blob *blob = NULL;
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	char path[256];
	uint64_t tar_bytes;
	tm_append(&f->tar, (uint8_t[1024]){0}, 1024);
	tm_append(&f->tar, end, end_len);
	assert_int_equal(lm_digest_data(f->tar.data, f->tar.len, f->layer.digest, NULL), 0);
	memcpy(f->layer.diff_id, f->layer.digest, LM_DIGEST_MAX);
	snprintf(path, sizeof(path), "%s/blobs/sha256", f->dir);
	assert_int_equal(lm_mkdir_p(AT_FDCWD, path, 0755, NULL), 0);
	snprintf(path, sizeof(path), "%s/blobs/sha256/%s", f->dir, f->layer.digest + 7);
	assert_int_equal(lm_file_replace(AT_FDCWD, path, f->tar.data, f->tar.len, 0644, 0, NULL), 0);
	snprintf(path, sizeof(path), "%s/oci-layout", f->dir);
	assert_int_equal(lm_file_replace(AT_FDCWD, path, "{\"imageLayoutVersion\":\"1.0.0\"}", 30, 0644, 0, NULL), 0);
	snprintf(path, sizeof(path), "oci:%s", f->dir);
	assert_int_equal(lm_reference_parse(path, &ref, NULL), 0);
	assert_int_equal(lm_source_open(&ref, NULL, &source, NULL), 0);
	assert_int_equal(lm_source_blob(source, f->layer.digest, f->tar.len, &blob, NULL), 0);
	const struct lm_layer_blob from = {.blob = blob, .layer = &f->layer};
	int r = lm_layer_read_blob(&from, NULL, NULL, &f->tree, &tar_bytes, &f->err);
	if (r < 0)
		print_error("%s\n", f->err.msg);
	assert_int_equal(r, 0);
	assert_int_equal(tar_bytes, f->tar.len);
}

static void make_entries(struct fixture *f)
{
	add_file(f, "file", '0');
	add_file(f, "sub/.prefetch.landmark", '0');
	add_file(f, "sub/stargz.index.json", '0');
	add_file(f, ".prefetch.landmark", '0');
	add_file(f, ".no.prefetch.landmark", '5');
	add_file(f, "stargz.index.json", '0');
}

static bool has(struct fixture *f, const char *path)
{
	return lm_layer_tree_find(f->tree, path) != NULL;
}

static void expect_hidden(struct fixture *f, bool hidden)
{
	assert_true(has(f, "/file"));
	assert_true(has(f, "/sub/.prefetch.landmark")); /* not at the root */
	assert_true(has(f, "/sub/stargz.index.json"));
	assert_true(has(f, "/.no.prefetch.landmark")); /* a directory */
	assert_int_equal(has(f, "/.prefetch.landmark"), !hidden);
	assert_int_equal(has(f, "/stargz.index.json"), !hidden);
}

static void test_by_annotation(void **state)
{
	struct fixture *f = *state;
	make_entries(f);
	f->layer.stargz = true;
	read_layer(f, "", 0);
	expect_hidden(f, true);
}

static void test_by_footer(void **state)
{
	struct fixture *f = *state;
	make_entries(f);
	read_layer(f, footer, LM_STARGZ_FOOTER_BYTES);
	expect_hidden(f, true);
}

static void test_other_layer(void **state)
{
	struct fixture *f = *state;
	make_entries(f);
	read_layer(f, "", 0);
	expect_hidden(f, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_footers),
		cmocka_unit_test(test_near_footers),
		cmocka_unit_test_setup_teardown(test_by_annotation, setup, teardown),
		cmocka_unit_test_setup_teardown(test_by_footer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_layer, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
