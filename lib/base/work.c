#include "base/work.h"

#include "base/lock.h"

#include <assert.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

struct job {
	lm_work_fn *fn;
	void *arg;
};

struct lm_work {
	/* constant after lm_work_new() */
	size_t queue_max;
	char name[16];
	/* under lock: a ring of jobs */
	struct lm_lock lock;
	struct lm_cond not_empty, not_full, idle;
	struct job *ring;
	size_t cap, head, count;
	unsigned running;
	uint64_t taken; /* jobs ever */
	bool stopping;
	/* used by the owner only */
	pthread_t *threads;
	unsigned n_threads;
};

/* lock held */
static int ring_grow(struct lm_work *work)
{
	size_t cap = work->cap * 2;
	struct job *ring = calloc(cap, sizeof(*ring));
	if (!ring)
		return -ENOMEM;
	for (size_t i = 0; i < work->count; i++)
		ring[i] = work->ring[(work->head + i) % work->cap];
	free(work->ring);
	work->ring = ring;
	work->cap = cap;
	work->head = 0;
	return 0;
}

/* lock held, room there */
static void ring_push(struct lm_work *work, lm_work_fn *fn, void *arg)
{
	work->ring[(work->head + work->count++) % work->cap] = (struct job){fn, arg};
	work->taken++;
	lm_cond_signal(&work->not_empty);
}

static void *thread_main(void *arg)
{
	struct lm_work *work = arg;
	pthread_setname_np(pthread_self(), work->name);
	lm_lock_take(&work->lock);
	for (;;) {
		while (work->count == 0 && !work->stopping)
			lm_cond_wait(&work->not_empty, &work->lock);
		if (work->count == 0)
			break;
		struct job job = work->ring[work->head];
		work->head = (work->head + 1) % work->cap;
		work->count--;
		work->running++;
		lm_cond_signal(&work->not_full);
		lm_lock_release(&work->lock);
		job.fn(job.arg);
		lm_lock_take(&work->lock);
		work->running--;
		if (work->running == 0 && work->count == 0)
			lm_cond_broadcast(&work->idle);
	}
	lm_lock_release(&work->lock);
	return NULL;
}

int lm_work_new(const char *name, unsigned threads, size_t queue_max, struct lm_work **ret, struct lm_err *err)
{
	assert(threads > 0 && queue_max > 0);
	CLEANUP(lm_work_freep) struct lm_work *work = calloc(1, sizeof(*work));
	if (!work)
		return lm_err_oom(err);
	lm_lock_init(&work->lock);
	lm_cond_init(&work->not_empty);
	lm_cond_init(&work->not_full);
	lm_cond_init(&work->idle);
	work->queue_max = work->cap = queue_max;
	snprintf(work->name, sizeof(work->name), "%s", name);
	work->ring = calloc(work->cap, sizeof(*work->ring));
	work->threads = calloc(threads, sizeof(*work->threads));
	if (!work->ring || !work->threads)
		return lm_err_oom(err);
	for (; work->n_threads < threads; work->n_threads++) {
		int r = pthread_create(&work->threads[work->n_threads], NULL, thread_main, work);
		if (r)
			return lm_err_sys(err, -r, "start thread %s", name);
	}
	*ret = STEAL(work);
	return 0;
}

void lm_work_free(struct lm_work *work)
{
	if (!work)
		return;
	lm_lock_take(&work->lock);
	work->stopping = true;
	lm_cond_broadcast(&work->not_empty);
	lm_lock_release(&work->lock);
	for (unsigned i = 0; i < work->n_threads; i++)
		pthread_join(work->threads[i], NULL);
	lm_cond_done(&work->idle);
	lm_cond_done(&work->not_full);
	lm_cond_done(&work->not_empty);
	lm_lock_done(&work->lock);
	free(work->threads);
	free(work->ring);
	free(work);
}

void lm_work_submit(struct lm_work *work, lm_work_fn *fn, void *arg)
{
	LM_LOCKED(&work->lock);
	while (work->count >= work->queue_max)
		lm_cond_wait(&work->not_full, &work->lock);
	ring_push(work, fn, arg);
}

int lm_work_post(struct lm_work *work, lm_work_fn *fn, void *arg)
{
	LM_LOCKED(&work->lock);
	if (work->count == work->cap && ring_grow(work) < 0)
		return -ENOMEM;
	ring_push(work, fn, arg);
	return 0;
}

void lm_work_drain(struct lm_work *work)
{
	LM_LOCKED(&work->lock);
	while (work->count > 0 || work->running > 0)
		lm_cond_wait(&work->idle, &work->lock);
}

uint64_t lm_work_taken(struct lm_work *work)
{
	LM_LOCKED(&work->lock);
	return work->taken;
}

unsigned lm_work_cores(void)
{
	cpu_set_t set;
	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	return LM_MAX(CPU_COUNT(&set), 1);
}
