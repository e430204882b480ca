#include "base/buf.h"

#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void appends_and_terminates(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(1000);
	assert_string_equal(lm_buf_cstr(&buf), "");
	assert_int_equal(lm_buf_append(&buf, NULL, 0), 0);
	assert_int_equal(lm_buf_str(&buf, "one"), 0);
	assert_int_equal(lm_buf_append(&buf, " two!", 4), 0);
	assert_int_equal(lm_buf_printf(&buf, " %d%s", 3, "rd"), 0);
	assert_string_equal(lm_buf_cstr(&buf), "one two 3rd");
	assert_int_equal(buf.len, 11);
	lm_buf_clear(&buf);
	assert_string_equal(lm_buf_cstr(&buf), "");
	assert_int_equal(lm_buf_str(&buf, "again"), 0);
	assert_string_equal(lm_buf_cstr(&buf), "again");
}

static void maximum_is_exact(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(5);
	assert_int_equal(lm_buf_str(&buf, "12345"), 0);
	assert_int_equal(lm_buf_str(&buf, ""), 0);
	assert_int_equal(lm_buf_str(&buf, "6"), -EMSGSIZE);
	assert_int_equal(lm_buf_printf(&buf, "%c", '6'), -EMSGSIZE);
	assert_int_equal(lm_buf_reserve(&buf, SIZE_MAX), -EMSGSIZE);
	assert_string_equal(lm_buf_cstr(&buf), "12345");
	assert_int_equal(buf.len, 5);
}

static void failure_changes_nothing(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(10);
	assert_int_equal(lm_buf_str(&buf, "12345678901"), -EMSGSIZE);
	assert_null(buf.data);
	assert_int_equal(buf.len, 0);
	assert_int_equal(lm_buf_str(&buf, "123456"), 0);
	assert_int_equal(lm_buf_printf(&buf, "%s", "78901"), -EMSGSIZE);
	assert_string_equal(lm_buf_cstr(&buf), "123456");
}

static void grows_byte_by_byte(void **state)
{
	enum { BYTES = 100000 };
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(BYTES);
	for (size_t i = 0; i < BYTES; i++) {
		uint8_t byte = (uint8_t)(i * 7);
		assert_int_equal(lm_buf_append(&buf, &byte, 1), 0);
		assert_int_equal(buf.data[buf.len], 0);
	}
	for (size_t i = 0; i < BYTES; i++)
		assert_int_equal(buf.data[i], (uint8_t)(i * 7));
	assert_true(buf.cap <= BYTES);
	assert_int_equal(lm_buf_append(&buf, "x", 1), -EMSGSIZE);
}

static void reserve_keeps_content(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(1 << 20);
	assert_int_equal(lm_buf_reserve(&buf, 0), 0);
	assert_string_equal(lm_buf_cstr(&buf), "");
	assert_int_equal(lm_buf_str(&buf, "kept"), 0);
	assert_int_equal(lm_buf_reserve(&buf, 1 << 19), 0);
	assert_true(buf.cap >= (1 << 19) + 4);
	assert_string_equal(lm_buf_cstr(&buf), "kept");
}

static void steal_hands_over(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(100);
	size_t len = 7;
	assert_null(lm_buf_steal(&buf, &len));
	assert_int_equal(len, 0);
	assert_int_equal(lm_buf_append(&buf, "a\0b", 3), 0);
	CLEANUP(lm_freep) uint8_t *data = lm_buf_steal(&buf, &len);
	assert_int_equal(len, 3);
	assert_memory_equal(data, "a\0b", 4);
	assert_null(buf.data);
	assert_int_equal(lm_buf_str(&buf, "anew"), 0);
	assert_string_equal(lm_buf_cstr(&buf), "anew");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(appends_and_terminates),
		cmocka_unit_test(maximum_is_exact),
		cmocka_unit_test(failure_changes_nothing),
		cmocka_unit_test(grows_byte_by_byte),
		cmocka_unit_test(reserve_keeps_content),
		cmocka_unit_test(steal_hands_over),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
