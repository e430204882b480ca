/*
 * What converting images would do, found out by reading alone: no lock is taken, nothing is written to the storage.
 *
 * Layers that an earlier run has finished, but not published, are known by the ledger, which only the owner of the
 * repository's private key can read. That all they are made of is still stored is not looked at, nor seen what another
 * publisher changes meanwhile.
 */
#ifndef LM_TOOLS_PLAN_H
#define LM_TOOLS_PLAN_H

#include "convert/image.h"
#include "source.h"

enum lm_plan_state {
	LM_PLAN_NEW,	   /* nothing has that name yet */
	LM_PLAN_REPLACED,  /* another image has it, which loses it */
	LM_PLAN_COMPLETED, /* this image has it, but layers, a tree or entries of the index are missing, or it comes
			      through another index of images */
	LM_PLAN_UNCHANGED,
};
const char *lm_plan_state_name(enum lm_plan_state state); /* "new", "replaced", … */

struct lm_plan_image {
	struct lm_image_report
		image; /* of layers "converted" says that they would be, once in all; "kept": unfetched */
	enum lm_plan_state state;
	char replaced[LM_DIGEST_MAX]; /* the manifest of the image that loses the name */
	bool flat;		      /* a flat tree would be made */
	bool tree;		      /* one for the kernels of nodes, as far as is known: chain_tree.h */
};

struct lm_plan { /* owned */
	struct lm_manifest base;
	struct lm_plan_image *images;
	size_t count;
	uint64_t layers, fetch_layers, fetch_bytes;
	uint64_t kept_layers; /* finished by an earlier run */
	bool changed;	      /* there would be a new revision */
};
void lm_plan_done(struct lm_plan *plan);

/* sources: as for lm_converter_image(). Of config: access, platform, all_platforms, no_flat, no_trees, remote; keys and
 * ledger, without which nothing is known to be kept. -EBADMSG: the repository is not validly signed. */
int lm_plan_make(struct lm_repo_source *repository, const struct lm_converter_config *config, char *const *sources,
	size_t count, const char *name, struct lm_plan *ret, struct lm_err *err) MUST_CHECK;

#endif
