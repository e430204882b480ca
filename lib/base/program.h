/*
 * Other programs: start one, give it some input, gather what it prints, within a time limit.
 *
 * The program gets a process group of its own, no signal blocked, and nothing of our descriptors; whatever it has
 * started ends with the call. No shell is involved. What passes through may be secret: no copy of it stays behind in
 * memory but in the caller's buffer, which should have its room before it is filled.
 */
#ifndef LM_BASE_PROGRAM_H
#define LM_BASE_PROGRAM_H

#include "base/buf.h"

struct lm_program {
	const char *const *argv; /* NULL at the end; argv[0] without a slash is looked for in PATH */
	const char *path;	 /* what is run, where that is another file than argv[0]; NULL: argv[0] */
	const char *input;	 /* 1024 bytes at most; NULL: none */
	unsigned limit_ms;
	struct lm_buf *errors; /* gets what it prints to standard error, cut to fit; NULL: that is ours */
};

/*
 * Appends what it prints to output. 0: it ended, and *ret_status is as waitpid(2) has it. -ENOENT and others: it can't
 * be started; -ETIMEDOUT; -EMSGSIZE: it printed more than fits. The message does not name the program.
 */
int lm_program_run(
	const struct lm_program *program, struct lm_buf *output, int *ret_status, struct lm_err *err) MUST_CHECK;

#endif
