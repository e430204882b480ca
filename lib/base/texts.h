/*
 * A list of texts, which it owns. Whoever adds what others say bounds their number.
 *
 * Not thread safe.
 */
#ifndef LM_BASE_TEXTS_H
#define LM_BASE_TEXTS_H

#include "base/macros.h"

#include <stddef.h>

struct lm_texts { /* {0}: empty */
	char **items;
	size_t count, room;
};
void lm_texts_done(struct lm_texts *list); /* it is empty and usable afterwards; for CLEANUP */

/* A copy at the end. -ENOMEM: nothing has changed. */
int lm_texts_add(struct lm_texts *list, const char *text) MUST_CHECK;
/* By strcmp(), each once. */
void lm_texts_sort(struct lm_texts *list);

#endif
