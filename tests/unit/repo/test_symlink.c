#include "repo/symlink.h"
#include "repo_test.h"

static void test_expand(void **state)
{
	static const struct {
		const char *raw, *expanded;
	} cases[] = {
		{"", ""}, {"plain", "plain"}, {"$(A)", "1"}, {"x$(A)y$(A:-2)z", "x1y1z"}, {"$(UNSET)", ""},
		{"$(UNSET:-d)/e", "d/e"}, {"$(UNSET:-)", ""}, {"$(UNSET:-a:-b)", "a:-b"}, {"$(EMPTY:-d)", ""},
		{"$A $(", "$A $("}, {"$(A", "$(A"}, {"$()", ""},
		{"$($(A))", ")"}, /* the first ) ends it: the variable `$(A` is not set */
	};
	setenv("A", "1", 1);
	setenv("EMPTY", "", 1);
	unsetenv("UNSET");
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(100);
		assert_int_equal(lm_symlink_expand(cases[i].raw, &out), 0);
		assert_string_equal(lm_buf_cstr(&out), cases[i].expanded);
	}
	CLEANUP(lm_buf_done) struct lm_buf little = LM_BUF(3);
	assert_int_equal(lm_symlink_expand("1234", &little), -EMSGSIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_expand),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
