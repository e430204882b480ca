#include "base/clock.h"
#include "base/lock.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct lm_lock lock;
static struct lm_cond cond;

static int init(void **state)
{
	lm_lock_init(&lock);
	lm_cond_init(&cond);
	return 0;
}

static int done(void **state)
{
	lm_cond_done(&cond);
	lm_lock_done(&lock);
	return 0;
}

/* Whether fn aborts; it runs in a child, whose dying words go nowhere. */
static bool aborts(void (*fn)(void))
{
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_DUMPABLE, 0);
		close(STDERR_FILENO);
		signal(SIGABRT, SIG_DFL); /* cmocka's handler would go on with the next test */
		fn();
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void assert_it(void)
{
	lm_lock_assert(&lock);
}

static void *assert_in_thread(void *arg)
{
	lm_lock_assert(&lock);
	return NULL;
}

static void take_and_assert_elsewhere(void)
{
	pthread_t thread;
	lm_lock_take(&lock);
	pthread_create(&thread, NULL, assert_in_thread, NULL);
	pthread_join(thread, NULL);
}

static void release_it(void)
{
	lm_lock_release(&lock);
}

static void knows_its_owner(void **state)
{
	assert_true(aborts(assert_it));
	assert_true(aborts(release_it));
	assert_true(aborts(take_and_assert_elsewhere));
	lm_lock_take(&lock);
	lm_lock_assert(&lock);
	lm_lock_release(&lock);
	assert_true(aborts(assert_it));
}

static void scope_ends(void **state)
{
	for (int i = 0; i < 3; i++) {
		LM_LOCKED(&lock);
		lm_lock_assert(&lock);
		if (i == 1)
			continue;
	}
	assert_true(aborts(assert_it));
}

static int counter; /* under lock */

static void *count(void *arg)
{
	for (int i = 0; i < 20000; i++) {
		LM_LOCKED(&lock);
		counter++;
	}
	return NULL;
}

static void excludes(void **state)
{
	pthread_t threads[4];
	counter = 0;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, count, NULL), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(counter, 80000);
}

static bool flag; /* under lock */

static void *raise_flag(void *arg)
{
	LM_LOCKED(&lock);
	flag = true;
	lm_cond_signal(&cond);
	return NULL;
}

static void waiting_gives_the_lock_up(void **state)
{
	pthread_t thread;
	flag = false;
	LM_LOCKED(&lock);
	assert_int_equal(pthread_create(&thread, NULL, raise_flag, NULL), 0);
	while (!flag)
		lm_cond_wait(&cond, &lock);
	lm_lock_assert(&lock);
	pthread_join(thread, NULL);
}

static void timed_waits_end(void **state)
{
	LM_LOCKED(&lock);
	int64_t start = lm_now_ms();
	assert_false(lm_cond_wait_ms(&cond, &lock, 30));
	int64_t took = lm_now_ms() - start;
	lm_lock_assert(&lock);
	assert_true(took >= 29);
	assert_false(lm_cond_wait_ms(&cond, &lock, 0));
}

static void timed_waits_are_woken(void **state)
{
	pthread_t thread;
	flag = false;
	LM_LOCKED(&lock);
	assert_int_equal(pthread_create(&thread, NULL, raise_flag, NULL), 0);
	while (!flag)
		assert_true(lm_cond_wait_ms(&cond, &lock, 60000));
	pthread_join(thread, NULL);
}

static void deadlines(void **state)
{
	struct timespec now, later;
	clock_gettime(CLOCK_MONOTONIC, &now);
	later = lm_mono_after_ms(1999);
	int64_t ns = (later.tv_sec - now.tv_sec) * 1000000000LL + later.tv_nsec - now.tv_nsec;
	assert_true(later.tv_nsec >= 0 && later.tv_nsec < 1000000000);
	assert_true(ns >= 1999000000LL && ns < 12000000000LL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(knows_its_owner, init, done),
		cmocka_unit_test_setup_teardown(scope_ends, init, done),
		cmocka_unit_test_setup_teardown(excludes, init, done),
		cmocka_unit_test_setup_teardown(waiting_gives_the_lock_up, init, done),
		cmocka_unit_test_setup_teardown(timed_waits_end, init, done),
		cmocka_unit_test_setup_teardown(timed_waits_are_woken, init, done),
		cmocka_unit_test(deadlines),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
