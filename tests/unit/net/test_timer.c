#include "net/timer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
/* after the above */
#include <cmocka.h>

enum { N = 2000 };

static void test_order(void **state)
{
	static struct lm_timer timers[N];
	struct lm_timers heap = {0};
	unsigned seed = (unsigned)(uintptr_t)&heap;
	printf("seed %u\n", seed);
	for (unsigned round = 0; round < 20; round++) {
		unsigned armed = 0;
		for (unsigned i = 0; i < N; i++)
			lm_timers_add(&heap, &timers[i], (int64_t)(rand_r(&seed) % 500));
		for (unsigned i = 0; i < N; i++)
			if (rand_r(&seed) % 3 == 0)
				lm_timers_remove(&heap, &timers[i]);
		for (unsigned i = 0; i < N; i++)
			armed += timers[i].armed;
		int64_t last_due = -1;
		uint64_t last_seq = 0;
		for (struct lm_timer *timer; (timer = heap.first); armed--) {
			assert_true(timer->due_ms >= last_due);
			if (timer->due_ms == last_due)
				assert_true(timer->seq > last_seq);
			last_due = timer->due_ms;
			last_seq = timer->seq;
			lm_timers_remove(&heap, timer);
			assert_false(timer->armed);
		}
		assert_int_equal(armed, 0);
	}
}

static void test_remove_unarmed(void **state)
{
	struct lm_timers heap = {0};
	struct lm_timer a = {0}, b = {0};
	lm_timers_remove(&heap, &a);
	lm_timers_add(&heap, &a, 5);
	lm_timers_add(&heap, &b, 5);
	assert_ptr_equal(heap.first, &a);
	lm_timers_remove(&heap, &a);
	lm_timers_remove(&heap, &a);
	assert_ptr_equal(heap.first, &b);
	lm_timers_remove(&heap, &b);
	assert_null(heap.first);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_remove_unarmed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
