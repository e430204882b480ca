/*
 * The history: the database of tags that names revisions, object H of a manifest.
 *
 * Two tags are kept by publishers: trunk is the newest revision, trunk-previous the one before. Others are left as they
 * are. Works on private files: after a failure the file is worthless.
 */
#ifndef LM_REPO_HISTORY_H
#define LM_REPO_HISTORY_H

#include "repo/hash.h"

struct lm_history_root {
	struct lm_hash hash; /* of the root catalog */
	uint64_t revision;
	int64_t modified_s; /* its last_modified */
	uint64_t size;	    /* of its database */
};

/* An empty history in a new file (-EEXIST). */
int lm_history_create(const char *path, const char *fqrn, struct lm_err *err) MUST_CHECK;

/* Moves trunk to root and trunk-previous to where trunk was. previous: the history object that the file was unpacked
 * from, unset for a new one. -ENOTSUP: a schema of another revision. */
int lm_history_advance(const char *path, const struct lm_history_root *root, const struct lm_hash *previous,
	struct lm_err *err) MUST_CHECK;

struct lm_tag { /* strings valid during the call */
	const char *name, *description;
	struct lm_hash hash; /* of the root catalog */
	uint64_t revision;
	int64_t time_s;
};
typedef int lm_tag_fn(void *arg, const struct lm_tag *tag);
/* The tags, newest first, up to the callback's stop (non-zero return, which is then returned). Read only; names and
 * descriptions are foreign text. */
int lm_history_each(const char *path, lm_tag_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;

#endif
