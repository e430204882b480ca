#include "base/lock.h"
#include "base/work.h"

#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* A gate that holds a job until it is opened, and lets the test wait for it. */
struct gate {
	struct lm_lock lock;
	struct lm_cond cond;
	bool entered, open;
};

static void gate_init(struct gate *gate)
{
	lm_lock_init(&gate->lock);
	lm_cond_init(&gate->cond);
	gate->entered = gate->open = false;
}

static void gate_done(struct gate *gate)
{
	lm_cond_done(&gate->cond);
	lm_lock_done(&gate->lock);
}

static void wait_at_gate(void *arg)
{
	struct gate *gate = arg;
	LM_LOCKED(&gate->lock);
	gate->entered = true;
	lm_cond_broadcast(&gate->cond);
	while (!gate->open)
		lm_cond_wait(&gate->cond, &gate->lock);
}

static void wait_for_entry(struct gate *gate)
{
	LM_LOCKED(&gate->lock);
	while (!gate->entered)
		lm_cond_wait(&gate->cond, &gate->lock);
}

static void open_gate(struct gate *gate)
{
	LM_LOCKED(&gate->lock);
	gate->open = true;
	lm_cond_broadcast(&gate->cond);
}

enum { JOBS = 1000 };

static struct {
	int order[JOBS];
	_Atomic(int) count;
} done;

static void note(void *arg)
{
	int at = done.count++;
	done.order[at] = *(int *)arg;
}

static void one_thread_keeps_the_order(void **state)
{
	static int numbers[JOBS];
	CLEANUP(lm_work_freep) struct lm_work *work = NULL;
	done.count = 0;
	assert_int_equal(lm_work_new("order", 1, 3, &work, NULL), 0);
	for (int i = 0; i < JOBS; i++) {
		numbers[i] = i;
		/* Both ways in share the queue; a queue that grew has to keep the order too. */
		if (i % 2)
			assert_int_equal(lm_work_post(work, note, &numbers[i]), 0);
		else
			lm_work_submit(work, note, &numbers[i]);
	}
	lm_work_drain(work);
	assert_int_equal(done.count, JOBS);
	for (int i = 0; i < JOBS; i++)
		assert_int_equal(done.order[i], i);
}

static void many_threads_run_all(void **state)
{
	int number = 0;
	CLEANUP(lm_work_freep) struct lm_work *work = NULL;
	done.count = 0;
	assert_int_equal(lm_work_new("many", 4, 8, &work, NULL), 0);
	for (int i = 0; i < JOBS; i++)
		lm_work_submit(work, note, &number);
	lm_work_drain(work);
	assert_int_equal(done.count, JOBS);
	lm_work_drain(work); /* of nothing */
}

static void drain_waits_for_what_runs(void **state)
{
	int number = 0;
	struct gate gate;
	CLEANUP(lm_work_freep) struct lm_work *work = NULL;
	gate_init(&gate);
	done.count = 0;
	assert_int_equal(lm_work_new("drain", 2, 8, &work, NULL), 0);
	lm_work_submit(work, wait_at_gate, &gate);
	lm_work_submit(work, note, &number);
	wait_for_entry(&gate);
	open_gate(&gate);
	lm_work_drain(work);
	assert_int_equal(done.count, 1);
	gate_done(&gate);
}

static void free_runs_the_queue(void **state)
{
	int number = 0;
	struct gate gate;
	struct lm_work *work;
	gate_init(&gate);
	done.count = 0;
	assert_int_equal(lm_work_new("free", 1, 100, &work, NULL), 0);
	lm_work_submit(work, wait_at_gate, &gate);
	wait_for_entry(&gate);
	for (int i = 0; i < 50; i++)
		lm_work_submit(work, note, &number);
	assert_int_equal(done.count, 0);
	open_gate(&gate);
	lm_work_free(work);
	assert_int_equal(done.count, 50);
	gate_done(&gate);
}

struct chain {
	struct lm_work *work;
	int left, ran;
};

static void next_in_chain(void *arg)
{
	struct chain *chain = arg;
	chain->ran++;
	if (chain->left-- > 0)
		assert_int_equal(lm_work_post(chain->work, next_in_chain, chain), 0);
}

static void jobs_may_post(void **state)
{
	struct chain chain = {.left = 500};
	assert_int_equal(lm_work_new("chain", 2, 1, &chain.work, NULL), 0);
	lm_work_submit(chain.work, next_in_chain, &chain);
	lm_work_drain(chain.work);
	assert_int_equal(chain.ran, 501);
	chain.left = 100;
	chain.ran = 0;
	lm_work_submit(chain.work, next_in_chain, &chain);
	lm_work_free(chain.work); /* what jobs post is part of the queue */
	assert_int_equal(chain.ran, 101);
}

static void post_ignores_the_limit(void **state)
{
	int number = 0;
	struct gate gate;
	CLEANUP(lm_work_freep) struct lm_work *work = NULL;
	gate_init(&gate);
	done.count = 0;
	assert_int_equal(lm_work_new("post", 1, 2, &work, NULL), 0);
	lm_work_submit(work, wait_at_gate, &gate);
	wait_for_entry(&gate);
	for (int i = 0; i < 100; i++)
		assert_int_equal(lm_work_post(work, note, &number), 0);
	open_gate(&gate);
	lm_work_drain(work);
	assert_int_equal(done.count, 100);
	gate_done(&gate);
}

struct submitter {
	struct lm_work *work;
	struct gate gate;
	int number;
	_Atomic(bool) through;
};

static void *submit_one(void *arg)
{
	struct submitter *s = arg;
	lm_work_submit(s->work, note, &s->number);
	s->through = true;
	return NULL;
}

static void submit_waits_for_room(void **state)
{
	struct submitter s = {0};
	pthread_t thread;
	gate_init(&s.gate);
	done.count = 0;
	assert_int_equal(lm_work_new("full", 1, 1, &s.work, NULL), 0);
	lm_work_submit(s.work, wait_at_gate, &s.gate);
	wait_for_entry(&s.gate);
	lm_work_submit(s.work, note, &s.number); /* fills the queue */
	assert_int_equal(pthread_create(&thread, NULL, submit_one, &s), 0);
	usleep(20000);
	assert_false(s.through);
	open_gate(&s.gate);
	pthread_join(thread, NULL);
	lm_work_free(s.work);
	assert_int_equal(done.count, 2);
	gate_done(&s.gate);
}

static void cores(void **state)
{
	assert_true(lm_work_cores() >= 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_thread_keeps_the_order),
		cmocka_unit_test(many_threads_run_all),
		cmocka_unit_test(drain_waits_for_what_runs),
		cmocka_unit_test(free_runs_the_queue),
		cmocka_unit_test(jobs_may_post),
		cmocka_unit_test(post_ignores_the_limit),
		cmocka_unit_test(submit_waits_for_room),
		cmocka_unit_test(cores),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
