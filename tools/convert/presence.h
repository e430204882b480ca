/*
 * Whether an object is in the storage, for those who ask about many.
 *
 * In a directory that is a look at its name each time. Elsewhere it would be a request each time, so the objects are
 * listed instead, those of data/XX together, once they were asked for more than a few times; how many digests are kept
 * is bounded, and what is not listed is asked for. The caller holds the publisher's lock: nobody collects garbage
 * meanwhile, so what was there stays there. "Not there" may be out of date, and whoever stores the object finds out.
 *
 * Any thread.
 */
#ifndef LM_TOOLS_PRESENCE_H
#define LM_TOOLS_PRESENCE_H

#include "repo/storage.h"

struct lm_presence;
/* remote: asking about an object costs a request. The storage outlives it. */
int lm_presence_new(struct lm_storage *storage, bool remote, struct lm_presence **ret, struct lm_err *err) MUST_CHECK;
void lm_presence_free(struct lm_presence *presence);
LM_DEFINE_CLEANUP(struct lm_presence, lm_presence_free, lm_presence_freep)

/* 1 there, 0 not, negative: not known. */
int lm_presence_ask(struct lm_presence *presence, const struct lm_hash *hash, enum lm_object_kind kind,
	struct lm_err *err) MUST_CHECK;
/* It was stored just now. */
void lm_presence_note(struct lm_presence *presence, const struct lm_hash *hash, enum lm_object_kind kind);

#endif
