/*
 * Reading: from a read request to bytes of cached objects.
 *
 * The plan of a read (tree.h) is made once; its pieces are descriptors of cached objects, some of which may have to
 * come first. No thread waits for them: the last one to arrive answers the request.
 */
#ifndef LM_FETCHER_READ_H
#define LM_FETCHER_READ_H

#include "fetcher/fetch.h"
#include "fetcher/fuse_internal.h"

/* One for each mount; everything must outlive it. */
int lm_reader_new(struct lm_tree *tree, struct lm_fetch *fetch, struct lm_cache *cache, struct lm_reader **ret,
	struct lm_err *err) MUST_CHECK;
void lm_reader_free(struct lm_reader *reader); /* after all downloads ended, which ended the reads */
LM_DEFINE_CLEANUP(struct lm_reader, lm_reader_free, lm_reader_freep)

/* lm_op.run of a read. */
int lm_read_run(struct lm_op *op, struct lm_object_ref *ret_need, struct lm_err *err);

#endif
