#include "base/macros.h"
#include "repo/holder.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const char *describe(const char *text)
{
	static struct lm_holder_text said;
	const struct lm_holder holder = lm_holder_parse(text);
	said = lm_holder_describe(&holder);
	return said.s;
}

static void test_self(void **state)
{
	const struct lm_holder self = lm_holder_self();
	const struct lm_holder_text text = lm_holder_format(&self);
	const struct lm_holder back = lm_holder_parse(text.s);
	assert_int_equal(self.pid, getpid());
	assert_true(self.since_s > 1600000000);
	assert_string_equal(self.command, "repo_test_holder");
	assert_int_equal(back.pid, self.pid);
	assert_int_equal(back.since_s, self.since_s);
	assert_string_equal(back.command, self.command);
	assert_string_equal(back.host, self.host);
	char wanted[128];
	snprintf(wanted, sizeof(wanted), "process %d is publishing to this repository (repo_test_holder, since 20",
		(int)getpid());
	assert_ptr_equal(strstr(describe(text.s), wanted), describe(text.s)); /* without the host, which is here */
}

static void test_described(void **state)
{
	assert_string_equal(describe("pid=7\ncommand=lamella convert\nhost=a.example\nsince=1763791200\n"),
		"process 7 on a.example is publishing to this repository (lamella convert, since "
		"2025-11-22T06:00:00Z)");
	assert_string_equal(
		describe("id=abc\npid=7\nhost=a.example"), "process 7 on a.example is publishing to this repository");
	assert_string_equal(describe("since=1763791200\npid=7\n"),
		"process 7 is publishing to this repository (since 2025-11-22T06:00:00Z)");
}

/* Of anything there is a sentence, and nothing in it that a terminal would obey. */
static void test_nonsense(void **state)
{
	static const char *const texts[] = {"", "123\n", "pid=\ncommand\n", "pid=-3\nsince=-1\n", "xpid=4\n",
		"pid=99999999999999999999\n", "\n\n=\n"};
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		assert_string_equal(describe(texts[i]), "another process is publishing to this repository");
	assert_string_equal(describe("pid=1\ncommand=\033[2Jx\233\r\nhost=\t"),
		"process 1 on ? is publishing to this repository (?[2Jx?"
		"?)");
	char longer[4096];
	memset(longer, 'x', sizeof(longer));
	memcpy(longer, "command=", 8);
	longer[sizeof(longer) - 1] = '\0';
	assert_non_null(strstr(describe(longer), "xxx)"));
	assert_non_null(describe("since=9223372036854775807\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_self),
		cmocka_unit_test(test_described),
		cmocka_unit_test(test_nonsense),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
