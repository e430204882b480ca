/*
 * Which catalogs were gone to lately from which, by half of the hash of the mountpoint's path (repo/images.h). A
 * catalog finds the same in several reads.
 *
 * Any thread. What is found stays true, since catalogs do not change; a new one takes the place of another.
 */
#ifndef LM_FETCHER_CROSSINGS_H
#define LM_FETCHER_CROSSINGS_H

#include "base/lock.h"

#include <stdint.h>

enum { LM_CROSSINGS_MAX = 1024 };

struct lm_crossing {
	uint32_t from; /* number of the catalog (tree.h); 0: none */
	int64_t half;
	uint64_t node; /* the directory where the other one begins */
};
struct lm_crossings {
	struct lm_lock lock;
	struct lm_crossing items[LM_CROSSINGS_MAX];
};
void lm_crossings_init(struct lm_crossings *crossings); /* of zeros */
void lm_crossings_done(struct lm_crossings *crossings);

/* 0: not known. */
uint64_t lm_crossings_get(struct lm_crossings *crossings, uint32_t from, int64_t half);
void lm_crossings_put(struct lm_crossings *crossings, uint32_t from, int64_t half, uint64_t node);

#endif
