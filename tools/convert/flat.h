/*
 * The flat tree of an image: a root file system for Apptainer and Singularity, which take a directory for an image.
 *
 *   /.flat/xx/CONFIGDIGEST        the layers one upon the other, as overlayfs shows them, in a nested catalog
 *   REGISTRY/REPOSITORY:TAG       leads there: metadata.h
 *
 * It is made of the layers' catalogs alone, nothing is fetched or packed: its rows name the same objects as theirs do.
 * merge.h says how; layers may be DUCC's.
 *
 * An image of 64,000 names in 6 layers (690 MB compressed) takes 3 seconds, where its conversion takes 2 minutes, and
 * 5 MB of catalogs, as much as those of its layers: little enough to have it by default.
 *
 * It differs from what a container sees in this, as what DUCC writes does:
 *
 *   u+rw, directories u+rwx   Apptainer runs as whoever starts it. Stock clients show all files as that user's
 *                             (CVMFS_CLAIM_OWNERSHIP), who then can read and go everywhere.
 *   trusted.overlay.*         means nothing any more
 *   Apptainer's own files     apptainer.h
 *
 * Owners, times, other attributes, devices and fifos stay as they are, also where an ordinary user can't make use of
 * them (setuid, capabilities: Apptainer mounts without).
 */
#ifndef LM_TOOLS_FLAT_H
#define LM_TOOLS_FLAT_H

#include "convert/layer.h"

/* "/.flat/xx/HEX" of an image's config digest. */
struct lm_layer_path lm_flat_path(const char *config_digest);

struct lm_flat_job {
	struct lm_txn *txn;
	struct lm_storage *storage;
	struct lm_packing *packing;
	const struct lm_image *image; /* its layers are in the transaction */
};
/* Makes the tree, unless there is one of an image with that config. */
int lm_flat_make(const struct lm_flat_job *job, struct lm_flat_report *ret, struct lm_err *err) MUST_CHECK;

#endif
