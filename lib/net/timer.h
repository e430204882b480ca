/*
 * Timers ordered by due time: a pairing heap whose nodes live inside their owners, so that arming one can't fail.
 *
 * Equal due times keep the order in which they were armed. Not thread safe.
 */
#ifndef LM_NET_TIMER_H
#define LM_NET_TIMER_H

#include <stdbool.h>
#include <stdint.h>

struct lm_timer {
	int64_t due_ms;
	uint64_t seq;
	struct lm_timer *child, *next, *prev; /* prev: the parent for a first child, else the sibling before */
	bool armed;
};

struct lm_timers {
	struct lm_timer *first; /* due next; NULL: none armed */
	uint64_t seq;
};

/* timer is not armed (zeroed at its birth). */
void lm_timers_add(struct lm_timers *timers, struct lm_timer *timer, int64_t due_ms);
void lm_timers_remove(struct lm_timers *timers, struct lm_timer *timer); /* one that is not armed is left alone */

#endif
