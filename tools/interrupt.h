/*
 * SIGINT, SIGTERM and SIGHUP as a wish that work in progress comes to its end.
 *
 *   lm_interrupt_new()    from now on a thread of its own takes them; they still end the program at once
 *   lm_interrupt_arm()    the first one calls fn, which makes the work fail soon; a second one ends the program at once
 *   lm_interrupt_hold()   the first one is only noted: what is being done now is better brought to its end
 *
 * Whoever was interrupted cleans up, says so, and ends as the signal would have ended it: lm_interrupt_die(). Signals
 * that were ignored at the start (nohup, background jobs of a shell) stay so.
 */
#ifndef LM_TOOLS_INTERRUPT_H
#define LM_TOOLS_INTERRUPT_H

#include "base/err.h"

struct lm_interrupt;
/* By the main thread, before any other is started: they must not take the signals. */
int lm_interrupt_new(struct lm_interrupt **ret, struct lm_err *err) MUST_CHECK;
/* Signals end the program again. Not during arm's fn. */
void lm_interrupt_free(struct lm_interrupt *interrupt);
LM_DEFINE_CLEANUP(struct lm_interrupt, lm_interrupt_free, lm_interrupt_freep)

/* fn runs on the other thread, at most once, until hold has returned. */
void lm_interrupt_arm(struct lm_interrupt *interrupt, void (*fn)(void *arg), void *arg);
/* Waits for fn, where that runs. Returns the signal that came so far, or 0. */
int lm_interrupt_hold(struct lm_interrupt *interrupt);

void lm_interrupt_die(int number) __attribute__((noreturn));

#endif
