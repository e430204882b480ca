/* Programs that print, fail, hang, talk too much, or are not there. */
#include "base/clock.h"
#include "base/program.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { LIMIT_MS = 20000, SHORT_MS = 200, OUTPUT_MAX = 4096 };

static int run(const char *script, const char *input, unsigned limit_ms, struct lm_buf *output, struct lm_buf *errors,
	int *ret_status, struct lm_err *err)
{
	const char *const argv[] = {"sh", "-c", script, NULL};
	const struct lm_program program = {.argv = argv, .input = input, .limit_ms = limit_ms, .errors = errors};
	return lm_program_run(&program, output, ret_status, err);
}

static void prints(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf output = LM_BUF(OUTPUT_MAX), errors = LM_BUF(OUTPUT_MAX);
	int status = -1;
	assert_int_equal(
		run("read x; echo got $x; echo bad >&2; exit 3", "word\n", LIMIT_MS, &output, &errors, &status, NULL),
		0);
	assert_string_equal(lm_buf_cstr(&output), "got word\n");
	assert_string_equal(lm_buf_cstr(&errors), "bad\n");
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 3);
	assert_int_equal(run("kill -9 $$", NULL, LIMIT_MS, &output, NULL, &status, NULL), 0);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == 9);
	/* No input is an end at once. */
	assert_int_equal(run("cat", NULL, LIMIT_MS, &output, NULL, &status, NULL), 0);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void cuts_errors(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf output = LM_BUF(OUTPUT_MAX), errors = LM_BUF(10);
	int status;
	assert_int_equal(run("echo 0123456789abcdef >&2", NULL, LIMIT_MS, &output, &errors, &status, NULL), 0);
	assert_string_equal(lm_buf_cstr(&errors), "0123456789");
}

static void fails(void **state)
{
	static const struct {
		const char *script;
		unsigned limit_ms;
		int r;
	} cases[] = {
		{"head -c 100000 /dev/zero", LIMIT_MS, -EMSGSIZE}, {"sleep 100", SHORT_MS, -ETIMEDOUT},
		{"sleep 100 & echo x", SHORT_MS, -ETIMEDOUT}, /* who holds the pipe is killed, too */
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_buf_done) struct lm_buf output = LM_BUF(OUTPUT_MAX);
		struct lm_err err = LM_ERR_INIT;
		int status;
		int64_t start_ms = lm_now_ms();
		assert_int_equal(
			run(cases[i].script, NULL, cases[i].limit_ms, &output, NULL, &status, &err), cases[i].r);
		assert_int_equal(err.code, cases[i].r);
		assert_true(lm_now_ms() - start_ms < LIMIT_MS);
	}
}

static void absent(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf output = LM_BUF(OUTPUT_MAX);
	const char *const argv[] = {"/nonexistent/program", NULL};
	const struct lm_program program = {.argv = argv, .limit_ms = LIMIT_MS};
	struct lm_err err = LM_ERR_INIT;
	int status;
	assert_int_equal(lm_program_run(&program, &output, &status, &err), -ENOENT);
	assert_int_equal(err.code, -ENOENT);
}

static void other_name(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf output = LM_BUF(OUTPUT_MAX);
	const char *const argv[] = {"another", "-c", "echo $0", NULL};
	const struct lm_program program = {.argv = argv, .path = "/bin/sh", .limit_ms = LIMIT_MS};
	int status;
	assert_int_equal(lm_program_run(&program, &output, &status, NULL), 0);
	assert_string_equal(lm_buf_cstr(&output), "another\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(prints), cmocka_unit_test(cuts_errors),
		cmocka_unit_test(fails), cmocka_unit_test(absent), cmocka_unit_test(other_name)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
