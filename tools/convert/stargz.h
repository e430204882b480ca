/*
 * Layers that tell lazy pullers where their files are: eStargz, and stargz before it.
 *
 * Such a layer is an ordinary one with files of its own at its root, which are not the image's: the table of contents
 * and marks of what is fetched first. Containerd's plain unpacking shows them; those for whom they are made do not, nor
 * do we. They are known by the annotation that goes with the layer, or by the blob's last bytes, an empty gzip member
 * that says where the table is (github.com/containerd/stargz-snapshotter, docs/estargz.md). A layer that is neither may
 * have files of these names, and keeps them.
 *
 * zstd:chunked keeps all that in skippable frames, which are no files.
 */
#ifndef LM_TOOLS_STARGZ_H
#define LM_TOOLS_STARGZ_H

#include "convert/layer_tree.h"

enum { LM_STARGZ_FOOTER_BYTES = 51, LM_STARGZ_OLD_FOOTER_BYTES = 47 };

struct lm_stargz_tail { /* the last bytes of a blob; zeroed at first */
	uint8_t bytes[LM_STARGZ_FOOTER_BYTES];
	size_t len;
};
void lm_stargz_note(struct lm_stargz_tail *tail, const void *data, size_t len);
bool lm_stargz_footer(const struct lm_stargz_tail *tail);

/* Takes its files out of the finished tree. */
void lm_stargz_hide(struct lm_layer_tree *tree);

#endif
