/*
 * Where the time of a conversion goes.
 *
 * Each thread has a clock of its own and turns it to what it begins to do: one look at the monotonic clock, which is no
 * system call, per piece of work (256 KiB of a stream, an object), none per file or read. Clocks are emptied into sums
 * where their thread holds a lock anyway.
 */
#ifndef LM_TOOLS_STAGES_H
#define LM_TOOLS_STAGES_H

#include "base/clock.h"

enum lm_stage {
	LM_STAGE_FETCH,	   /* waiting for a source's bytes, and checking their digest */
	LM_STAGE_INFLATE,  /* with the digest of what comes out */
	LM_STAGE_TAR,	   /* reading entries, building the tree */
	LM_STAGE_COMPRESS, /* with the hash of what comes out */
	LM_STAGE_STORE,	   /* objects, and asking whether they are there */
	LM_STAGE_CATALOGS,
	LM_STAGE_PUBLISH,
	LM_STAGE_WORK, /* the number of those that get anything done */
	/* The thread that reads the tar waits: */
	LM_STAGE_STARVED = LM_STAGE_WORK, /* for bytes */
	LM_STAGE_BLOCKED,		  /* until content is stored */
	LM_STAGE_IDLE,			  /* all other waiting */
	LM_STAGES,
};

struct lm_stage_times {
	int64_t ns[LM_STAGES];
};

/* Zeroed is good. One thread. */
struct lm_stage_clock {
	struct lm_stage_times times;
	enum lm_stage stage;
	int64_t since_ns; /* 0: never turned yet */
};

static inline void lm_stage_enter(struct lm_stage_clock *clock, enum lm_stage stage)
{
	int64_t now_ns = lm_now_ns();
	if (clock->since_ns)
		clock->times.ns[clock->stage] += now_ns - clock->since_ns;
	clock->since_ns = now_ns;
	clock->stage = stage;
}

static inline void lm_stage_add(const struct lm_stage_times *times, struct lm_stage_times *sum)
{
	for (unsigned i = 0; i < LM_STAGES; i++)
		sum->ns[i] += times->ns[i];
}

/* "fetch", "inflate", …; of stages below LM_STAGE_WORK. */
const char *lm_stage_name(enum lm_stage stage);

/*
 * Which stage the rest waited for: *ret says by how much each held up the thread that reads tars, which is what the
 * conversion as a whole takes, since all else runs beside it. A stage that works all the time but always ahead of the
 * reader has nothing in there. The one with the most is returned.
 */
enum lm_stage lm_stage_bottleneck(const struct lm_stage_times *times, struct lm_stage_times *ret);

/* Adds what the clock shows to sum, and empties it. */
static inline void lm_stage_empty(struct lm_stage_clock *clock, struct lm_stage_times *sum)
{
	lm_stage_add(&clock->times, sum);
	clock->times = (struct lm_stage_times){0};
}

#endif
