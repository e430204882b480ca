#include "fetcher/crossings.h"

void lm_crossings_init(struct lm_crossings *crossings)
{
	lm_lock_init(&crossings->lock);
}

void lm_crossings_done(struct lm_crossings *crossings)
{
	lm_lock_done(&crossings->lock);
}

/* Halves of hashes are spread as they are. */
static struct lm_crossing *slot(struct lm_crossings *crossings, uint32_t from, int64_t half)
{
	return &crossings->items[((uint64_t)half + from) % LM_CROSSINGS_MAX];
}

uint64_t lm_crossings_get(struct lm_crossings *crossings, uint32_t from, int64_t half)
{
	LM_LOCKED(&crossings->lock);
	const struct lm_crossing *item = slot(crossings, from, half);
	return item->from == from && item->half == half ? item->node : 0;
}

void lm_crossings_put(struct lm_crossings *crossings, uint32_t from, int64_t half, uint64_t node)
{
	LM_LOCKED(&crossings->lock);
	*slot(crossings, from, half) = (struct lm_crossing){from, half, node};
}
