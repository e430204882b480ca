/*
 * Images out of a repository.
 *
 *   names       go at once: /.metadata/NAME and the public links. An image for several platforms goes with all its
 * names. content     is scheduled (inventory.h): layers that no other image has, the flat tree, and the tree of its
 * layers for the kernels of nodes (chain_tree.h), unless another image has exactly these. What runs in it goes on, and
 * comes to an end in its own time. When that is over, whoever changes the repository next takes it away:
 * lm_remove_due().
 *
 * Entries of the index (layer_index.h) that name a layer which goes go with it, unless another image has a layer of the
 * same diff id, which is then named instead.
 *
 * A layer is another image's if a manifest.json below /.metadata, or one on the schedule whose time has not come, names
 * it, or if its own origin.json names an image of which nothing else is known: somebody may have a use for that.
 *
 * All of it is one change of the tree, like any other. The bytes stay in the storage until `lamella repo gc` finds that
 * no kept revision names them.
 *
 * Layers are taken away only where every manifest.json can be read: -EPROTO names the one that can't.
 */
#ifndef LM_TOOLS_REMOVE_H
#define LM_TOOLS_REMOVE_H

#include "convert/inventory.h"
#include "repo/images.h"

struct lm_removed {
	char config[LM_DIGEST_MAX];
	char *name;	 /* what it was called; NULL: not known */
	int64_t after_s; /* its content stays until then; 0: it goes now */
};
struct lm_removal {
	char **names; /* that go; sorted, each once */
	size_t name_count;
	struct lm_removed *images; /* those that lose their last name, and those on the schedule whose time has come */
	size_t image_count;
	struct lm_image_part *layers; /* that go now */
	size_t layer_count;
	char (*flats)[LM_DIGEST_MAX]; /* configs whose flat trees go now */
	size_t flat_count;
	struct lm_chain_hex *trees; /* chains of layers whose trees go now */
	size_t tree_count;
};
void lm_removal_done(struct lm_removal *removal); /* for CLEANUP */

/*
 * What would happen now, with a look at nothing but the view. names: as `lamella images` shows them; -ENOENT: one is
 * not published. grace_s 0: their content goes now. now_s: what time it is.
 */
int lm_removal_plan(const struct lm_view *view, const char *const *names, size_t count, int64_t grace_s, int64_t now_s,
	struct lm_removal *ret, struct lm_err *err) MUST_CHECK;

/* Does it, in the transaction. ret may be NULL. */
int lm_remove_images(struct lm_txn *txn, const char *const *names, size_t count, int64_t grace_s,
	struct lm_removal *ret, struct lm_err *err) MUST_CHECK;
/* Only what is due. Cheap where nothing is. */
int lm_remove_due(struct lm_txn *txn, struct lm_removal *ret, struct lm_err *err) MUST_CHECK;

#endif
