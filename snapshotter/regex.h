/*
 * Regular expressions in the syntax of RE2, which containerd's filters have (Go's package regexp), in bounded time.
 *
 * The work is done by PCRE2's breadth-first matcher: all ways to match are followed at once, so nested repetitions cost
 * no more than others. What PCRE2 has and RE2 refuses is refused here before it sees the expression: back-references,
 * look-around, atomic and conditional groups, recursion, callouts, verbs, comments, repeated repetitions (a**, a++),
 * counts over LM_REGEX_REPEAT_MAX, and escapes that Go has not or takes for something else.
 *
 * Differences that are left, all of expressions that nobody writes into a filter: \s has the vertical tab, too; octal
 * escapes have to begin with a 0; ^* and the like are refused; a class may have \d at the end of a range. Expressions
 * that take too much are refused: over LM_REGEX_MAX_BYTES, nested deeper than 250, or of more than 64 KiB compiled.
 */
#ifndef LM_SNAPSHOTTER_REGEX_H
#define LM_SNAPSHOTTER_REGEX_H

#include "base/err.h"

#define LM_REGEX_MAX_BYTES 1024
#define LM_REGEX_REPEAT_MAX 1000

struct lm_regex;

/* -EINVAL, with the reason; -ENOMEM. */
int lm_regex_compile(const char *text, struct lm_regex **ret, struct lm_err *err) MUST_CHECK;
void lm_regex_free(struct lm_regex *regex);
LM_DEFINE_CLEANUP(struct lm_regex, lm_regex_free, lm_regex_freep)

/*
 * 1: found somewhere in subject; 0: not. -E2BIG: it has more ways to match than may be followed in a text of this
 * length, about 10^8 steps in all; -EINVAL: subject is not UTF-8. Any thread may call.
 */
int lm_regex_find(const struct lm_regex *regex, const char *subject, struct lm_err *err) MUST_CHECK;

#endif
