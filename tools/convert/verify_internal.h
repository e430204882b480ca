/* What the parts of the comparison share: verify.c (an image), verify_tree.c (a layer), verify_opaque.c (what stands
 * beside it), verify_content.c (its files), verify_chain.c (the tree of all layers). */
#ifndef LM_TOOLS_VERIFY_INTERNAL_H
#define LM_TOOLS_VERIFY_INTERNAL_H

#include "base/lock.h"
#include "base/work.h"
#include "convert/layer_tree.h"
#include "convert/published.h"
#include "convert/verify.h"

/* A part of the image that is being compared. */
struct lm_comparison {
	/* constant while it lives */
	struct lm_repo_source *repo;
	struct lm_work *work; /* compares contents; of all layers */
	/* under lock */
	struct lm_lock lock;
	struct lm_cond all_done;
	size_t pending; /* jobs of this part */
	int code;	/* of the first job that failed, as opposed to finding something */
	struct lm_err err;
	struct lm_verify_part *part;
};

/* Appends the path inside the layer; nothing for the root. */
int lm_verify_path(const struct lm_layer_node *node, struct lm_buf *path) MUST_CHECK;

/* By any thread. path NULL: node's. */
void lm_verify_note(struct lm_comparison *c, enum lm_verify_kind kind, const char *path,
	const struct lm_layer_node *node, const char *fmt, ...) PRINTF_LIKE(5, 6);

/* The layer's tree, whose hashes are lm_content_hash(), against the catalogs from top on. Contents are compared by
 * jobs; they are over when this returns. */
int lm_verify_tree(struct lm_comparison *c, struct lm_layer_tree *tree, const struct lm_published_top *top,
	struct lm_err *err) MUST_CHECK;

/* In the layer's catalog, beside the layer: the tree of its opaque directories, if there is one. */
int lm_verify_opaque(struct lm_comparison *c, struct lm_catalog *catalog, struct lm_layer_tree *tree,
	const char *mountpoint, struct lm_err *err) MUST_CHECK;

/*
 * Queues the comparison of a file's content: of the object that the row names, or of its chunks, which lie without
 * gaps. The node stays until lm_verify_contents_wait().
 */
int lm_verify_content(struct lm_comparison *c, const struct lm_layer_node *node, const struct lm_row *row,
	const struct lm_chunk *chunks, size_t count, struct lm_err *err) MUST_CHECK;
int lm_verify_contents_wait(struct lm_comparison *c, struct lm_err *err) MUST_CHECK;

/* The tree of the layers for the kernels of nodes (chain_tree.h), where there is one. layers: where they are published,
 * bottom first; nothing is compared where one is not. */
int lm_verify_chain(struct lm_comparison *c, struct lm_published *published, const struct lm_published_top *root,
	const struct lm_published_top *layers, const struct lm_image *image, struct lm_err *err) MUST_CHECK;

#endif
