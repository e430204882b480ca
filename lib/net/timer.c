#include "net/timer.h"

#include <assert.h>
#include <stddef.h>

static bool due_before(const struct lm_timer *a, const struct lm_timer *b)
{
	return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->seq < b->seq;
}

/* Both are roots: the later one becomes the first child of the earlier one. */
static struct lm_timer *meld(struct lm_timer *a, struct lm_timer *b)
{
	if (!a || !b)
		return a ? a : b;
	if (due_before(b, a)) {
		struct lm_timer *swap = a;
		a = b;
		b = swap;
	}
	b->prev = a;
	b->next = a->child;
	if (b->next)
		b->next->prev = b;
	a->child = b;
	return a;
}

static struct lm_timer *detach(struct lm_timer *timer)
{
	timer->next = timer->prev = NULL;
	return timer;
}

/* Siblings are melded in pairs from left to right, the pairs from right to left: logarithmic in the long run. */
static struct lm_timer *meld_siblings(struct lm_timer *list)
{
	struct lm_timer *pairs = NULL, *root = NULL;
	while (list) {
		struct lm_timer *a = list, *b = list->next;
		list = b ? b->next : NULL;
		detach(a);
		struct lm_timer *pair = b ? meld(a, detach(b)) : a;
		pair->next = pairs;
		pairs = pair;
	}
	while (pairs) {
		struct lm_timer *pair = pairs;
		pairs = pair->next;
		root = meld(root, detach(pair));
	}
	return root;
}

void lm_timers_add(struct lm_timers *timers, struct lm_timer *timer, int64_t due_ms)
{
	assert(!timer->armed);
	*timer = (struct lm_timer){.due_ms = due_ms, .seq = timers->seq++, .armed = true};
	timers->first = meld(timers->first, timer);
}

void lm_timers_remove(struct lm_timers *timers, struct lm_timer *timer)
{
	if (!timer->armed)
		return;
	struct lm_timer *below = meld_siblings(timer->child);
	if (timer == timers->first) {
		timers->first = below;
	} else {
		if (timer->prev->child == timer)
			timer->prev->child = timer->next;
		else
			timer->prev->next = timer->next;
		if (timer->next)
			timer->next->prev = timer->prev;
		timers->first = meld(timers->first, below);
	}
	*timer = (struct lm_timer){0};
}
