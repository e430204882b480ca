/*
 * A mutex that knows its owner, and a condition variable on the monotonic clock.
 *
 * Lock order (take from top to bottom; a thread never holds two of one line):
 *
 *   snapshotter: service, store, looker  fetcher: mount, catalogs (table of open ones), catalog (one of them),
 *                                        fetch table, cache index
 *   net: stream, origin                  converter: inflate ring, store
 *   net: engine queue                    base: work queue, log
 *
 * No lock is held across network I/O or a callback into another module.
 */
#ifndef LM_BASE_LOCK_H
#define LM_BASE_LOCK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct lm_lock {
	pthread_mutex_t mutex;
	_Atomic(int) owner; /* tid, 0 when free */
};

void lm_lock_init(struct lm_lock *lock);
void lm_lock_done(struct lm_lock *lock);
void lm_lock_take(struct lm_lock *lock);
void lm_lock_release(struct lm_lock *lock);
void lm_lock_assert(const struct lm_lock *lock); /* aborts when the calling thread does not hold it */

/* LM_LOCKED(lock); holds the lock to the end of the scope. */
static inline void lm_lock_scope_end(struct lm_lock **lock)
{
	lm_lock_release(*lock);
}
static inline struct lm_lock *lm_lock_scope_begin(struct lm_lock *lock)
{
	lm_lock_take(lock);
	return lock;
}
#define LM_LOCKED_NAME2(line) lm_locked_##line
#define LM_LOCKED_NAME(line) LM_LOCKED_NAME2(line)
#define LM_LOCKED(lock)                                                                                \
	__attribute__((cleanup(lm_lock_scope_end), unused)) struct lm_lock *LM_LOCKED_NAME(__LINE__) = \
		lm_lock_scope_begin(lock)

struct lm_cond {
	pthread_cond_t cond;
};

void lm_cond_init(struct lm_cond *cond);
void lm_cond_done(struct lm_cond *cond);
void lm_cond_wait(struct lm_cond *cond, struct lm_lock *lock);
/* False when ms milliseconds passed without a wake-up. */
bool lm_cond_wait_ms(struct lm_cond *cond, struct lm_lock *lock, int64_t ms);
void lm_cond_signal(struct lm_cond *cond);
void lm_cond_broadcast(struct lm_cond *cond);

#endif
