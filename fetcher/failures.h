/*
 * Objects that could not be had a moment ago, so that a job that tries again and again does not make the network do so.
 *
 * The first failure of an object is remembered for LM_FAILURES_PAUSE_MS, each further one within a minute for twice as
 * long as the one before, up to LM_FAILURES_PAUSE_MAX_MS. Few are remembered; a newer failure may push out an older
 * one. Time comes from the caller, and so does the lock.
 */
#ifndef LM_FETCHER_FAILURES_H
#define LM_FETCHER_FAILURES_H

#include "fetcher/cache.h"

enum { LM_FAILURES_MAX = 64, LM_FAILURES_PAUSE_MS = 100, LM_FAILURES_PAUSE_MAX_MS = 3200 };

struct lm_failure {
	struct lm_object_ref ref;
	int code; /* 0: none here */
	unsigned in_a_row;
	int64_t at_ms, until_ms;
	struct lm_err err;
};

struct lm_failures { /* zeroed: empty */
	unsigned count;
	struct lm_failure slots[LM_FAILURES_MAX];
};

/* Codes that say nothing of object or network (-ECANCELED, -ENOMEM, -ENOSPC) are not remembered. */
void lm_failures_add(struct lm_failures *failures, const struct lm_object_ref *ref, int code, const struct lm_err *err,
	int64_t now_ms);

/* The failure that answers a wish for the object now, or NULL. */
const struct lm_failure *lm_failures_find(
	const struct lm_failures *failures, const struct lm_object_ref *ref, int64_t now_ms);

/* An object came: it is forgotten, and so are all that failed by the network. */
void lm_failures_recover(struct lm_failures *failures, const struct lm_object_ref *ref);

void lm_failures_clear(struct lm_failures *failures);

#endif
