#include "base/err.h"

#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void sets_code_and_text(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_err_set(&err, -EPROTO, "line %d", 7), -EPROTO);
	assert_int_equal(err.code, -EPROTO);
	assert_string_equal(lm_err_text(&err), "line 7");
}

static void null_is_fine(void **state)
{
	assert_int_equal(lm_err_set(NULL, -EIO, "x"), -EIO);
	assert_int_equal(lm_err_sys(NULL, -EIO, "x"), -EIO);
	assert_int_equal(lm_err_prefix(NULL, -EIO, "x"), -EIO);
	assert_int_equal(lm_err_oom(NULL), -ENOMEM);
	assert_non_null(lm_err_text(NULL));
}

static void adds_the_reason(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_err_sys(&err, -ENOENT, "open %s", "a"), -ENOENT);
	assert_string_equal(err.msg, "open a: No such file or directory");
}

static void prefixes(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	lm_err_set(&err, -EBADMSG, "wrong hash");
	assert_int_equal(lm_err_prefix(&err, -EIO, "object %s", "ab"), -EIO);
	assert_string_equal(err.msg, "object ab: wrong hash");
	assert_int_equal(err.code, -EIO);
}

static void prefixes_where_nothing_was_said(void **state)
{
	struct lm_err err = {.code = -ENOSPC};
	lm_err_prefix(&err, -ENOSPC, "cache");
	assert_string_equal(err.msg, "cache: No space left on device");
}

static void message_may_be_its_own_argument(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	lm_err_set(&err, -EIO, "inner");
	lm_err_set(&err, -EIO, "outer (%s)", err.msg);
	assert_string_equal(err.msg, "outer (inner)");
	lm_err_prefix(&err, -EIO, "[%s]", err.msg);
	assert_string_equal(err.msg, "[outer (inner)]: outer (inner)");
}

static void long_messages_are_cut(void **state)
{
	char text[2 * LM_ERR_MAX];
	struct lm_err err = LM_ERR_INIT;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	lm_err_set(&err, -EIO, "%s", text);
	assert_int_equal(strlen(err.msg), LM_ERR_MAX - 1);
	lm_err_sys(&err, -EIO, "%s", text);
	assert_int_equal(strlen(err.msg), LM_ERR_MAX - 1);
	lm_err_prefix(&err, -EIO, "front");
	assert_int_equal(strlen(err.msg), LM_ERR_MAX - 1);
	assert_memory_equal(err.msg, "front: xxx", 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sets_code_and_text),
		cmocka_unit_test(null_is_fine),
		cmocka_unit_test(adds_the_reason),
		cmocka_unit_test(prefixes),
		cmocka_unit_test(prefixes_where_nothing_was_said),
		cmocka_unit_test(message_may_be_its_own_argument),
		cmocka_unit_test(long_messages_are_cut),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
