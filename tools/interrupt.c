#include "interrupt.h"

#include "base/lock.h"

#include <signal.h>

static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};

struct lm_interrupt {
	/* constant after new */
	sigset_t taken, before;
	pthread_t thread;
	bool running;
	/* under lock */
	struct lm_lock lock;
	struct lm_cond returned;
	enum { DYING, CALLING, HOLDING } mode;
	void (*fn)(void *arg);
	void *arg;
	int number; /* that came; 0: none */
	bool in_call, stopping;
};

void lm_interrupt_die(int number)
{
	sigset_t set;
	signal(number, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, number);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	raise(number);
	_exit(128 + number);
}

/* False: it is time to end. Called with the lock held. */
static bool take(struct lm_interrupt *i, int number)
{
	if (i->stopping)
		return false;
	if (i->mode == DYING || i->number)
		lm_interrupt_die(number);
	i->number = number;
	if (i->mode != CALLING)
		return true;
	i->in_call = true;
	lm_lock_release(&i->lock);
	i->fn(i->arg);
	lm_lock_take(&i->lock);
	i->in_call = false;
	lm_cond_broadcast(&i->returned);
	return true;
}

/* While fn runs, a second signal is not heard: fn must be short. */
static void *thread_main(void *arg)
{
	struct lm_interrupt *i = arg;
	int number;
	pthread_setname_np(pthread_self(), "signals");
	for (bool more = true; more;) {
		if (sigwait(&i->taken, &number) != 0)
			continue;
		LM_LOCKED(&i->lock);
		more = take(i, number);
	}
	return NULL;
}

int lm_interrupt_new(struct lm_interrupt **ret, struct lm_err *err)
{
	CLEANUP(lm_interrupt_freep) struct lm_interrupt *i = calloc(1, sizeof(*i));
	if (!i)
		return lm_err_oom(err);
	lm_lock_init(&i->lock);
	lm_cond_init(&i->returned);
	sigemptyset(&i->taken);
	for (size_t k = 0; k < ARRAY_LEN(numbers); k++) {
		struct sigaction now;
		if (sigaction(numbers[k], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
			sigaddset(&i->taken, numbers[k]);
	}
	sigaddset(&i->taken, SIGUSR2); /* by which free ends the thread */
	pthread_sigmask(SIG_BLOCK, &i->taken, &i->before);
	int r = pthread_create(&i->thread, NULL, thread_main, i);
	if (r) {
		pthread_sigmask(SIG_SETMASK, &i->before, NULL);
		return lm_err_sys(err, -r, "start thread");
	}
	i->running = true;
	*ret = STEAL(i);
	return 0;
}

void lm_interrupt_free(struct lm_interrupt *i)
{
	if (!i)
		return;
	if (i->running) {
		lm_lock_take(&i->lock);
		i->stopping = true;
		lm_lock_release(&i->lock);
		pthread_kill(i->thread, SIGUSR2);
		pthread_join(i->thread, NULL);
		pthread_sigmask(SIG_SETMASK, &i->before, NULL);
	}
	lm_cond_done(&i->returned);
	lm_lock_done(&i->lock);
	free(i);
}

void lm_interrupt_arm(struct lm_interrupt *i, void (*fn)(void *arg), void *arg)
{
	LM_LOCKED(&i->lock);
	i->mode = CALLING;
	i->fn = fn;
	i->arg = arg;
}

int lm_interrupt_hold(struct lm_interrupt *i)
{
	LM_LOCKED(&i->lock);
	i->mode = HOLDING;
	while (i->in_call)
		lm_cond_wait(&i->returned, &i->lock);
	return i->number;
}
