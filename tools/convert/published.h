/*
 * Paths of a published revision, over as many nested catalogs as it takes: for those who read a repository without
 * mounting it. Catalogs are fetched and verified when a path leads there, the last ones stay open.
 *
 * One thread per struct; several may read one source, whose storage they share.
 */
#ifndef LM_TOOLS_PUBLISHED_H
#define LM_TOOLS_PUBLISHED_H

#include "source.h"

struct lm_published_top { /* where reading begins: a revision's root, or a nested catalog in it */
	char *path;	  /* of its mountpoint; owned */
	struct lm_hash hash;
};
void lm_published_top_done(struct lm_published_top *top);

struct lm_published;
int lm_published_new(struct lm_repo_source *source, struct lm_published **ret, struct lm_err *err) MUST_CHECK;
void lm_published_free(struct lm_published *published);
LM_DEFINE_CLEANUP(struct lm_published, lm_published_free, lm_published_freep)

/* The row at "/path", which is top's mountpoint or below it; of a mountpoint the one that the nested catalog has.
 * -ENOENT: not there. */
int lm_published_row(struct lm_published *published, const struct lm_published_top *top, const char *path,
	struct lm_row *ret, struct lm_err *err) MUST_CHECK;
/* The rows of a directory, as lm_catalog_list() gives them; the callback asks for nothing. -ENOENT: it is not there. */
int lm_published_list(struct lm_published *published, const struct lm_published_top *top, const char *dir,
	lm_catalog_row_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;
/* The nested catalog that begins at exactly this path. -ENOENT: none does. */
int lm_published_nested(struct lm_published *published, const struct lm_published_top *top, const char *path,
	struct lm_published_top *ret, struct lm_err *err) MUST_CHECK;
/* Appends the content of a regular file. -ENOENT; -EPROTO: no such file, or more than ret->max. */
int lm_published_read(struct lm_published *published, const struct lm_published_top *top, const char *path,
	struct lm_buf *ret, struct lm_err *err) MUST_CHECK;

#endif
