#include "base/texts.h"

#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void grows(void **state)
{
	CLEANUP(lm_texts_done) struct lm_texts list = {0};
	char text[8];
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(text, sizeof(text), "%u", i);
		assert_int_equal(lm_texts_add(&list, text), 0);
	}
	assert_int_equal(list.count, 1000);
	assert_string_equal(list.items[0], "0");
	assert_string_equal(list.items[999], "999");
	lm_texts_done(&list);
	assert_int_equal(list.count, 0);
	assert_int_equal(lm_texts_add(&list, "again"), 0);
	assert_string_equal(list.items[0], "again");
}

static void sorts(void **state)
{
	static const char *const given[] = {"b", "", "a", "b", "ab", "B", "a", "b"};
	static const char *const wanted[] = {"", "B", "a", "ab", "b"};
	CLEANUP(lm_texts_done) struct lm_texts list = {0};
	lm_texts_sort(&list);
	assert_int_equal(list.count, 0);
	for (size_t i = 0; i < ARRAY_LEN(given); i++)
		assert_int_equal(lm_texts_add(&list, given[i]), 0);
	lm_texts_sort(&list);
	assert_int_equal(list.count, ARRAY_LEN(wanted));
	for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
		assert_string_equal(list.items[i], wanted[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(grows), cmocka_unit_test(sorts)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
