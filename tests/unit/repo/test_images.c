#include "base/str.h"
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

#define ROW ".lamella-row."
#define H "04b2008fd98c1dd4"

static void test_row(void **state)
{
	static const char *const forged[] = {"", ROW, ROW "04b2008fd98c1dd", ROW H "4", ROW "04B2008FD98C1DD4",
		ROW H ".", ROW "." H, ROW H "." H ".", ROW H ".." H, ROW H "-" H, ROW "04b2008fd98c1dg4",
		ROW "-4b2008fd98c1dd4", ROW " 4b2008fd98c1dd4", "lamella-row." H, ".lamella-rows" H};
	const int64_t halves[LM_IMAGES_ROW_MAX] = {0, 1, -1, INT64_MAX, INT64_MIN, 0x04b2008fd98c1dd4};
	int64_t parsed[LM_IMAGES_ROW_MAX];
	assert_string_equal(lm_images_row(&halves[5], 1).s, ROW H);
	assert_string_equal(lm_images_row(&halves[1], 2).s, ROW "0000000000000001.ffffffffffffffff");
	for (size_t count = 1; count <= LM_IMAGES_ROW_MAX; count++) {
		assert_int_equal(lm_images_row_parse(lm_images_row(halves, count).s, parsed), count);
		assert_memory_equal(parsed, halves, count * sizeof(*halves));
	}
	CLEANUP(lm_freep) char *longer = lm_str_printf("%s." H, lm_images_row(halves, LM_IMAGES_ROW_MAX).s);
	assert_int_equal(lm_images_row_parse(longer, parsed), 0);
	for (size_t i = 0; i < ARRAY_LEN(forged); i++)
		assert_int_equal(lm_images_row_parse(forged[i], parsed), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chain),
		cmocka_unit_test(test_digest),
		cmocka_unit_test(test_entry),
		cmocka_unit_test(test_forged_entry),
		cmocka_unit_test(test_row),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
