#include "base/str.h"

#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void hex_both_ways(void **state)
{
	const uint8_t bytes[] = {0x00, 0x9f, 0xa0, 0xff};
	uint8_t back[4];
	char text[9];
	lm_hex_format(bytes, 4, text);
	assert_string_equal(text, "009fa0ff");
	assert_int_equal(lm_hex_parse(text, back, 4), 0);
	assert_memory_equal(back, bytes, 4);
	lm_hex_format(bytes, 0, text);
	assert_string_equal(text, "");
}

static void hex_refuses(void **state)
{
	uint8_t back[2];
	const char *const bad[] = {"009F", "00g0", "0 00", "000", "", "0x00"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(lm_hex_parse(bad[i], back, 2), -EPROTO);
}

static void quoting(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(100);
	assert_int_equal(lm_str_quote(&out, "a\"b\\c\n\x7f\xc3\0z", 10), 0);
	assert_string_equal(lm_buf_cstr(&out), "\"a\\\"b\\\\c\\x0a\\x7f\\xc3\\x00z\"");
}

static void quoting_is_all_or_nothing(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(8);
	assert_int_equal(lm_buf_str(&out, "x="), 0);
	assert_int_equal(lm_str_quote(&out, "12345", 5), -EMSGSIZE);
	assert_string_equal(lm_buf_cstr(&out), "x=");
	assert_int_equal(lm_str_quote(&out, "1234", 4), 0);
	assert_string_equal(lm_buf_cstr(&out), "x=\"1234\"");
}

static void unsigned_numbers(void **state)
{
	static const struct {
		const char *text;
		int r;
		uint64_t value;
	} cases[] = {
		{"0", 0, 0},
		{"007", 0, 7},
		{"18446744073709551615", 0, UINT64_MAX},
		{"18446744073709551616", -ERANGE, 0},
		{"99999999999999999999999", -ERANGE, 0},
		{"", -EPROTO, 0},
		{"-1", -EPROTO, 0},
		{"+1", -EPROTO, 0},
		{" 1", -EPROTO, 0},
		{"1 ", -EPROTO, 0},
		{"0x1", -EPROTO, 0},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint64_t value = 0;
		assert_int_equal(lm_str_u64(cases[i].text, strlen(cases[i].text), &value), cases[i].r);
		assert_true(value == cases[i].value);
	}
}

static void signed_numbers(void **state)
{
	static const struct {
		const char *text;
		int r;
		int64_t value;
	} cases[] = {
		{"-0", 0, 0},
		{"-12", 0, -12},
		{"9223372036854775807", 0, INT64_MAX},
		{"9223372036854775808", -ERANGE, 0},
		{"-9223372036854775808", 0, INT64_MIN},
		{"-9223372036854775809", -ERANGE, 0},
		{"-", -EPROTO, 0},
		{"--1", -EPROTO, 0},
		{"", -EPROTO, 0},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		int64_t value = 0;
		assert_int_equal(lm_str_i64(cases[i].text, strlen(cases[i].text), &value), cases[i].r);
		assert_true(value == cases[i].value);
	}
}

static void only_len_bytes_are_read(void **state)
{
	uint64_t value;
	assert_int_equal(lm_str_u64("123456", 3, &value), 0);
	assert_int_equal(value, 123);
}

static void starts_and_ends(void **state)
{
	assert_true(lm_str_starts("abc", "ab"));
	assert_true(lm_str_starts("abc", ""));
	assert_false(lm_str_starts("ab", "abc"));
	assert_true(lm_str_ends("abc", "bc"));
	assert_true(lm_str_ends("abc", ""));
	assert_false(lm_str_ends("bc", "abc"));
	assert_false(lm_str_ends("abc", "ab"));
}

static void prints(void **state)
{
	CLEANUP(lm_freep) char *text = lm_str_printf("%s/%d", "a", 5);
	assert_string_equal(text, "a/5");
}

static void unescapes(void **state)
{
	static const struct {
		const char *text, *wanted; /* NULL: refused */
	} cases[] = {
		{"", ""},
		{"plain/text", "plain/text"},
		{"%41%3a%7e", "A:~"},
		{"a%2Fb", "a/b"},
		{"%25%32%35", "%25"},
		{"%", NULL},
		{"%4", NULL},
		{"%4g", NULL},
		{"a%00b", NULL},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char text[32];
		strcpy(text, cases[i].text);
		bool good = lm_str_unescape(text);
		assert_true(good == !!cases[i].wanted);
		if (good)
			assert_string_equal(text, cases[i].wanted);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hex_both_ways),
		cmocka_unit_test(hex_refuses),
		cmocka_unit_test(quoting),
		cmocka_unit_test(quoting_is_all_or_nothing),
		cmocka_unit_test(unsigned_numbers),
		cmocka_unit_test(signed_numbers),
		cmocka_unit_test(only_len_bytes_are_read),
		cmocka_unit_test(starts_and_ends),
		cmocka_unit_test(prints),
		cmocka_unit_test(unescapes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
