#include "fetcher_test.h"

#include "fetcher/whiteout.h"

static void test_names(void **state)
{
	static const struct {
		const char *name, *deleted;
		enum lm_whiteout kind;
	} cases[] = {
		{"", NULL, LM_WHITEOUT_NONE},
		{"a", NULL, LM_WHITEOUT_NONE},
		{".wh", NULL, LM_WHITEOUT_NONE},
		{".who.a", NULL, LM_WHITEOUT_NONE},
		{"a.wh.b", NULL, LM_WHITEOUT_NONE},
		{".wh.", NULL, LM_WHITEOUT_NONE},
		{".wh..", NULL, LM_WHITEOUT_NONE},
		{".wh...", NULL, LM_WHITEOUT_NONE},
		{".wh....", "...", LM_WHITEOUT_NAME},
		{".wh.a", "a", LM_WHITEOUT_NAME},
		{".wh..a", ".a", LM_WHITEOUT_NAME},
		{".wh..wh", ".wh", LM_WHITEOUT_NAME},
		{".wh..cvmfscatalog", ".cvmfscatalog", LM_WHITEOUT_NAME},
		{".wh..wh..opq", NULL, LM_WHITEOUT_ALL},
		{".wh..wh..opq2", NULL, LM_WHITEOUT_MARKER},
		{".wh..wh.plnk", NULL, LM_WHITEOUT_MARKER},
		{".wh..wh.", NULL, LM_WHITEOUT_MARKER},
		{".cvmfscatalog", NULL, LM_WHITEOUT_MARKER},
		{".cvmfsautocatalog", NULL, LM_WHITEOUT_MARKER},
		{".cvmfscatalog2", NULL, LM_WHITEOUT_NONE},
		{".cvmfsdirtab", NULL, LM_WHITEOUT_NONE},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const char *deleted = NULL;
		assert_int_equal(lm_whiteout_kind(cases[i].name, S_IFREG | 0644, &deleted), cases[i].kind);
		if (cases[i].deleted)
			assert_string_equal(deleted, cases[i].deleted);
		else
			assert_null(deleted);
		assert_int_equal(lm_whiteout_kind(cases[i].name, S_IFDIR | 0755, &deleted), LM_WHITEOUT_NONE);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
