/* Labels of a snapshot: a small sorted table of text pairs. Not thread safe; read-only ones may be shared. */
#ifndef LM_SNAPSHOTTER_LABELS_H
#define LM_SNAPSHOTTER_LABELS_H

#include "base/err.h"

#include <stdbool.h>

/* What clients send and read; see policy.h for those that name a layer. */
#define LM_LABEL_REF "containerd.io/snapshot.ref" /* chain id of the layer that is wanted */
#define LM_LABEL_UIDMAP "containerd.io/snapshot/uidmapping"
#define LM_LABEL_GIDMAP "containerd.io/snapshot/gidmapping"

/* Labels that are ours to set: what a client says under such names, in an image's annotations for example, is dropped.
 */
#define LM_LABEL_OURS "containerd.io/snapshot/lamella."
/* What we add to layers that came with a LM_LABEL_REF: how the layer is provided, and why not lazily. */
#define LM_LABEL_LAYER "containerd.io/snapshot/lamella.layer" /* "lazy" or "ordinary" */
#define LM_LABEL_REASON "containerd.io/snapshot/lamella.reason"
/* The kind of reason an ordinary one has: "unnamed", "absent", "unavailable", "unreachable", "timed-out", "local". */
#define LM_LABEL_CAUSE "containerd.io/snapshot/lamella.cause"
/* Of a lazy one: the repository it comes from, or the directory of a mount of others (places.h). */
#define LM_LABEL_SOURCE "containerd.io/snapshot/lamella.source"
/* And to containers' roots above such layers: "used", or "not used: " and why not. Of Prepare; a later mount may
 * differ. */
#define LM_LABEL_TREE "containerd.io/snapshot/lamella.tree"

/* What clients may send, and ours keep to as well. */
#define LM_LABEL_MAX_BYTES 4096	      /* key and value: containerd's own limit */
#define LM_LABELS_MAX_COUNT 1024      /* of one snapshot */
#define LM_LABELS_MAX_BYTES (1 << 20) /* of one snapshot: what one message of a List must be able to carry */

struct lm_label {
	char *key, *value;
};

struct lm_labels {
	struct lm_label *items; /* ascending keys, each once */
	size_t count;
	size_t bytes; /* of keys and values */
};

void lm_labels_done(struct lm_labels *labels);

/* A later value replaces an earlier one; an empty value is none, and takes the label away, as in containerd's own
 * stores. -ENOMEM; -EMSGSIZE beyond LM_LABELS_MAX_BYTES. Nothing changed on failure. */
int lm_labels_set(struct lm_labels *labels, const char *key, const char *value) MUST_CHECK;
void lm_labels_unset(struct lm_labels *labels, const char *key);
const char *lm_labels_get(const struct lm_labels *labels, const char *key); /* NULL: not there */

/* ret must be empty. */
int lm_labels_copy(const struct lm_labels *labels, struct lm_labels *ret) MUST_CHECK;

#endif
