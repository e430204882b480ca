#include "fetcher_test.h"

#include "fetcher/caller.h"

#include <signal.h>
#include <sys/wait.h>

static void test_statuses(void **state)
{
	static const struct {
		const char *own, *shared, *blocked, *ignored, *caught;
		bool is_ending;
	} cases[] = {
		{"0", "0", "0", "0", "0", false},
		{"0", "0", "0", "0", "4000", false},	/* handles SIGTERM, which did not come */
		{"4000", "0", "0", "0", "4000", false}, /* came, and is handled */
		{"0", "4000", "0", "0", "4000", false},
		{"0", "4000", "0", "4000", "0", false}, /* ignored */
		{"0", "4000", "4000", "0", "0", false}, /* blocked */
		{"4000", "0", "0", "0", "0", true},	/* by default */
		{"0", "4000", "0", "0", "0", true},
		{"2", "4000", "0", "0", "4000", true},		 /* SIGINT beside it */
		{"0", "4", "0", "0", "0", true},		 /* SIGQUIT */
		{"100", "0", "0", "0", "0", true},		 /* SIGKILL */
		{"0", "100", "100", "100", "100", true},	 /* which nobody is asked about */
		{"0", "0000000008410000", "0", "0", "0", false}, /* SIGCHLD, SIGURG, SIGWINCH */
		{"0", "0000000008418000", "0", "0", "0", true},	 /* and SIGSTKFLT */
		{"40000", "3a0000", "0", "0", "0", false},	 /* SIGSTOP, SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU */
		{"0", "8000000000000000", "0", "0", "0", true},
		{"0", "8000000000000000", "0", "0", "8000000000000000", false},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char text[256];
		snprintf(text, sizeof(text),
			"Name:\ta\nSigQ:\t0/1\nSigPnd:\t%s\nShdPnd:\t%s\nSigBlk:\t%s\nSigIgn:\t%s\nSigCgt:\t%s\n",
			cases[i].own, cases[i].shared, cases[i].blocked, cases[i].ignored, cases[i].caught);
		if (lm_caller_status_is_ending(text) != cases[i].is_ending)
			fail_msg("case %zu", i);
	}
	assert_false(lm_caller_status_is_ending(""));
	assert_false(lm_caller_status_is_ending("Name:\tSigPnd:\t100\n"));
}

/* Stopped, so that what is sent waits. */
static void test_processes(void **state)
{
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		for (;;)
			pause();
	}
	int status;
	assert_false(lm_caller_is_ending(child));
	assert_int_equal(kill(child, SIGSTOP), 0);
	assert_int_equal(waitpid(child, &status, WUNTRACED), child);
	assert_false(lm_caller_is_ending(child));
	assert_int_equal(kill(child, SIGWINCH), 0);
	assert_false(lm_caller_is_ending(child));
	assert_int_equal(kill(child, SIGTERM), 0);
	assert_true(lm_caller_is_ending(child));
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(lm_caller_is_ending(child)); /* gone */
	assert_true(lm_caller_is_ending(0));
	assert_false(lm_caller_is_ending(getpid()));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_statuses),
		cmocka_unit_test(test_processes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
