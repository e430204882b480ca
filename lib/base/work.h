/*
 * A pool of worker threads with a bounded queue.
 *
 * Jobs run in the order they were submitted, each on one of the pool's threads. Threads are joined by
 * lm_work_free(), which runs what is queued first.
 */
#ifndef LM_BASE_WORK_H
#define LM_BASE_WORK_H

#include "base/err.h"

#include <stdbool.h>

struct lm_work;

typedef void lm_work_fn(void *arg);

/* name: at most 12 characters, shown as the threads' name. queue_max: jobs waiting before submit blocks. */
int lm_work_new(
	const char *name, unsigned threads, size_t queue_max, struct lm_work **ret, struct lm_err *err) MUST_CHECK;

/* Runs the queue to its end, then joins the threads. Must not be called from a job. */
void lm_work_free(struct lm_work *work);
LM_DEFINE_CLEANUP(struct lm_work, lm_work_free, lm_work_freep)

/* Queues fn(arg); waits while the queue is full. Callable from any thread that is not one of the pool's own. */
void lm_work_submit(struct lm_work *work, lm_work_fn *fn, void *arg);

/* Like submit, but never waits and may be called from a job: the queue limit does not count. -ENOMEM possible. */
int lm_work_post(struct lm_work *work, lm_work_fn *fn, void *arg) MUST_CHECK;

/* Waits until nothing is queued and nothing runs. Must not be called from a job. */
void lm_work_drain(struct lm_work *work);

/* Jobs queued ever: whether any came in between. */
uint64_t lm_work_taken(struct lm_work *work);

unsigned lm_work_cores(void); /* processors this process may use, at least 1 */

#endif
