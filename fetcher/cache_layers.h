/*
 * Which layers running containers use.
 *
 * What says so is the kernel's own list of mounts: an overlay whose lower directories lead into a layer (by path, or by
 * a symbolic link to it, as the snapshotter makes them), or a bind mount of a directory in one. Of an overlay over a
 * merged tree, DIR/tree.*, the layers are read in DIR/layers, where the snapshotter has written them down
 * (snapshotter/trees.h). That survives a restart of anyone, and ends with the container. Mounts in other mount
 * namespaces are not seen, nor are processes that use the repository's tree directly: what these read is old or new
 * like anything else.
 *
 * A layer is known by the first 64 bits of its digest (a tree by those of its chain's name), and in the index by a
 * small number that stays while the process lives. Any thread may call anything.
 */
#ifndef LM_FETCHER_CACHE_LAYERS_H
#define LM_FETCHER_CACHE_LAYERS_H

#include "base/err.h"

#include <stdbool.h>

struct lm_used_layers;
struct lm_used_layers *lm_used_layers_new(void); /* NULL: no memory */
void lm_used_layers_free(struct lm_used_layers *layers);

/* The layer that a path leads into (.../.layers/XX/DIGEST...), or the tree (.../.lamella/trees/XX/CHAIN...); 0: none.
 */
uint64_t lm_layer_of_path(const char *path);
uint16_t lm_used_layers_number(struct lm_used_layers *layers, uint64_t layer); /* 0: none, or too many */
uint64_t lm_used_layers_id(const struct lm_used_layers *layers, uint16_t number);
bool lm_used_layers_in_use(const struct lm_used_layers *layers, uint16_t number);

/* Reads the list of mounts anew: /proc/self/mountinfo, or another file of its form. On failure all is as it was. */
int lm_used_layers_refresh(struct lm_used_layers *layers, const char *mountinfo, struct lm_err *err) MUST_CHECK;
unsigned lm_used_layers_used(const struct lm_used_layers *layers); /* how many are in use */

#endif
