#include "base/lock.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <unistd.h>

static int self_tid(void)
{
	static _Thread_local int tid;
	if (tid == 0)
		tid = gettid();
	return tid;
}

void lm_lock_init(struct lm_lock *lock)
{
	pthread_mutex_init(&lock->mutex, NULL);
	atomic_init(&lock->owner, 0);
}

void lm_lock_done(struct lm_lock *lock)
{
	pthread_mutex_destroy(&lock->mutex);
}

void lm_lock_take(struct lm_lock *lock)
{
	int r = pthread_mutex_lock(&lock->mutex);
	assert(r == 0);
	(void)r;
	atomic_store_explicit(&lock->owner, self_tid(), memory_order_relaxed);
}

void lm_lock_release(struct lm_lock *lock)
{
	lm_lock_assert(lock);
	atomic_store_explicit(&lock->owner, 0, memory_order_relaxed);
	pthread_mutex_unlock(&lock->mutex);
}

void lm_lock_assert(const struct lm_lock *lock)
{
	assert(atomic_load_explicit(&((struct lm_lock *)lock)->owner, memory_order_relaxed) == self_tid());
}

void lm_cond_init(struct lm_cond *cond)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&cond->cond, &attr);
	pthread_condattr_destroy(&attr);
}

void lm_cond_done(struct lm_cond *cond)
{
	pthread_cond_destroy(&cond->cond);
}

void lm_cond_wait(struct lm_cond *cond, struct lm_lock *lock)
{
	lm_lock_assert(lock);
	atomic_store_explicit(&lock->owner, 0, memory_order_relaxed);
	pthread_cond_wait(&cond->cond, &lock->mutex);
	atomic_store_explicit(&lock->owner, self_tid(), memory_order_relaxed);
}

bool lm_cond_wait_ms(struct lm_cond *cond, struct lm_lock *lock, int64_t ms)
{
	struct timespec until = lm_mono_after_ms(ms);
	lm_lock_assert(lock);
	atomic_store_explicit(&lock->owner, 0, memory_order_relaxed);
	int r = pthread_cond_timedwait(&cond->cond, &lock->mutex, &until);
	atomic_store_explicit(&lock->owner, self_tid(), memory_order_relaxed);
	return r != ETIMEDOUT;
}

void lm_cond_signal(struct lm_cond *cond)
{
	pthread_cond_signal(&cond->cond);
}

void lm_cond_broadcast(struct lm_cond *cond)
{
	pthread_cond_broadcast(&cond->cond);
}
