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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chain),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
