/* Questions to registries, several at a time: which tags a name has, which digest a tag stands for. */
#ifndef LM_TOOLS_SYNC_CHECK_H
#define LM_TOOLS_SYNC_CHECK_H

#include "oci/tags.h"
#include "sync/wishlist.h"

#include <stdatomic.h>

struct lm_check {
	const struct lm_wish *wish;
	const char *tag; /* NULL: the list of tags that the wish wants */

	/* the answer */
	char digest[LM_DIGEST_MAX]; /* of the tag */
	struct lm_texts tags;
	int code;	/* 0, or why there is none */
	char *error;	/* in words; NULL: memory was short */
	bool transient; /* may go better soon, and is not this image's fault */
};
void lm_check_done(struct lm_check *check);

/* Answers all of them. A registry that limits, or has failed to answer a few times in a row, is not asked again: the
 * rest of its checks fail with the same words. *stop: what is not begun is -ECANCELED. */
int lm_check_all(const struct lm_access *access, struct lm_check *checks, size_t count, const atomic_bool *stop,
	struct lm_err *err) MUST_CHECK;

#endif
