#include "repo/images.h"
#include "repo_test.h"

#define A "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

/* Known from sha256sum(1). */
static void test_chain(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	const char *const digests[] = {A, B}, *const turned[] = {B, A};
	struct lm_chain_hex chain, other;
	assert_ok(lm_images_chain(NULL, 0, &chain, &err), &err);
	assert_string_equal(chain.s, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	assert_ok(lm_images_chain(digests, 2, &chain, &err), &err);
	assert_string_equal(chain.s, "864f51ecf848c035c5c4549e5a7c5151e6786d7eb37a91e1cec7f674e81fa821");
	assert_ok(lm_images_chain(turned, 2, &other, &err), &err);
	assert_string_not_equal(chain.s, other.s);
	assert_ok(lm_images_chain(digests, 1, &other, &err), &err);
	assert_string_not_equal(chain.s, other.s);
}

static void test_digest(void **state)
{
	static const char *const broken[] = {"",
		"sha256:", "sha512:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", A "a",
		"sha256:Aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"sha256:../../../../../../../../../../../../../../../../../../../../../aa"};
	struct lm_images_digest digest;
	assert_true(lm_images_digest_parse(A, &digest));
	assert_string_equal(digest.s, A);
	for (size_t i = 0; i < ARRAY_LEN(broken); i++)
		assert_false(lm_images_digest_parse(broken[i], NULL));
}

#define HEX_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define TARGET_A "../../../.layers/aa/" HEX_A

static void test_entry(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_images_digest layer;
	assert_string_equal(lm_images_entry(LM_IMAGES_BY_CHAIN, A).s, "/.lamella/chains/aa/" HEX_A);
	assert_string_equal(lm_images_entry(LM_IMAGES_BY_DIFF, A).s, "/.lamella/diffs/aa/" HEX_A);
	assert_string_equal(lm_images_entry_target(A).s, TARGET_A);
	assert_ok(lm_images_entry_parse(TARGET_A, &layer, &err), &err);
	assert_string_equal(layer.s, A);
}

/* Of a publisher that wants something else to be a layer. */
static void test_forged_entry(void **state)
{
	static const char *const forged[] = {"", "/", "../../../.layers/", "../../../.layers/a", "../../../.layers/aa",
		"../../../.layers/aa/", "../../../.layers/ab/" HEX_A, "../../../.layers/aa/" HEX_A "/",
		"../../../.layers/aa/" HEX_A "/layerfs", "../../../.layers/aa/../../etc", "../../../../etc",
		"../../../.layers/AA/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		"../../.layers/aa/" HEX_A, "../../../../.layers/aa/" HEX_A, "/.layers/aa/" HEX_A,
		"../../../.lamella/chains/aa/" HEX_A, "../aa/" HEX_A, "./" TARGET_A, HEX_A, A};
	for (size_t i = 0; i < ARRAY_LEN(forged); i++) {
		struct lm_err err = LM_ERR_INIT;
		struct lm_images_digest layer = {"untouched"};
		assert_int_equal(lm_images_entry_parse(forged[i], &layer, &err), -EPROTO);
		assert_string_equal(layer.s, "untouched");
		assert_non_null(strstr(lm_err_text(&err), "is no link to a layer"));
	}
}

/* md5("") is d41d8cd98f00b204..., a number whose lowest byte comes first. */
static void test_file(void **state)
{
	static const char *const forged[] = {"", ".lamella-file.", ".lamella-file.04b2008fd98c1dd",
		".lamella-file.04b2008fd98c1dd44", ".lamella-file.04B2008FD98C1DD4", ".lamella-file.04b2008fd98c1dg4",
		".lamella-file.-4b2008fd98c1dd4", ".lamella-file. 4b2008fd98c1dd4", "lamella-file.04b2008fd98c1dd4",
		".lamella-files04b2008fd98c1dd4"};
	const int64_t halves[] = {0, 1, -1, INT64_MAX, INT64_MIN};
	int64_t half = 77;
	assert_string_equal(lm_images_file(lm_path_hash("", 0)).s, ".lamella-file.04b2008fd98c1dd4");
	for (size_t i = 0; i < ARRAY_LEN(halves); i++) {
		assert_true(lm_images_file_parse(lm_images_file((struct lm_path_hash){halves[i], 5}).s, &half));
		assert_int_equal(half, halves[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(forged); i++) {
		half = 77;
		assert_false(lm_images_file_parse(forged[i], &half));
		assert_int_equal(half, 77);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chain),
		cmocka_unit_test(test_digest),
		cmocka_unit_test(test_entry),
		cmocka_unit_test(test_forged_entry),
		cmocka_unit_test(test_file),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
