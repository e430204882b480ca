/*
 * What a repository has by an image's name, REGISTRY/REPOSITORY[:TAG]:
 *
 *   /.metadata/NAME/manifest.json      as DUCC writes it, with capitalised keys
 *   /.metadata/NAME/manifest.raw, config.raw    the registry's own bytes
 *   /.metadata/NAME/index.raw          and those of the index that NAME led to, where it did (oci/shelf.h reads them)
 *   /NAME                              link to the flat tree (flat.h), relative; NAME:DIGEST where there is no tag
 *
 * An image for several platforms is converted for each of them, under the names NAME:TAG-OS-ARCHITECTURE[-VARIANT]. One
 * name serves all of them:
 *
 *   containerd      goes by the digests of layers: whatever an index names for a node's platform is there
 *   Apptainer       /NAME leads to NAME-linux-$(CVMFS_ARCH:-x86_64), a link whose target every client completes by
 *                   itself: CVMFS_ARCH is what uname(1) calls the node's machine, as stock clients from 2.11 on set
 *                   it, older ones get what stands behind ":-". /NAME-linux-x86_64, …-aarch64 and so on lead to the
 *                   flat trees.
 *   other tools     /.metadata/NAME/ is a directory, and has the image for the converter's own platform, since stock
 *                   tools expect one image there; platforms.json beside it names those of all platforms.
 *
 * An image that loses its name to another one is put on the schedule (inventory.h), one that comes back is taken off.
 */
#ifndef LM_TOOLS_METADATA_H
#define LM_TOOLS_METADATA_H

#include "convert/inventory.h"
#include "oci/image.h"

/* How long what has lost its name stays, where nobody says otherwise: jobs that run in it go on for days. (DUCC's own
 * collector takes it away at once, unless told to wait.) */
enum { LM_GRACE_S = 30 * 86400 };

/* The files below /.metadata. grace_s: for an image that had that name until now. */
int lm_metadata_put(struct lm_txn *txn, const struct lm_image *image, const char *name, int64_t grace_s,
	struct lm_err *err) MUST_CHECK;
/* After that, for a name that means this image alone: the public link, where the image has a flat tree; else one that
 * leads to another image's goes. */
int lm_metadata_link(struct lm_txn *txn, const struct lm_image *image, const char *name, struct lm_err *err) MUST_CHECK;

/* The image that suits the platform best; count: none of them does. */
size_t lm_image_best(const struct lm_platform *platform, const struct lm_image *images, size_t count);

/* After lm_metadata_put() for the best of them. name is tagged, and images[i] is published as names[i]: platforms.json,
 * and the links for all machines. best: the image that stands for those of which nothing is known. */
int lm_metadata_platforms(struct lm_txn *txn, const struct lm_image *images, char *const *names, size_t count,
	size_t best, const char *name, struct lm_err *err) MUST_CHECK;

/* Takes all of that away: the files, the link, those for machines, and directories that are empty then. What was the
 * image's content stays. */
int lm_metadata_remove(struct lm_txn *txn, const struct lm_inventory_image *image, struct lm_err *err) MUST_CHECK;

/* NAME:TAG has a tag. */
bool lm_name_tagged(const char *name);

#endif
