/*
 * The images that repositories mounted here hold: their manifests and configs as the registry has them.
 *
 * Converters leave them beside the layers, below the root of the repository (`lamella convert`; DUCC does not):
 *
 *   .metadata/REGISTRY/REPOSITORY[:TAG]/manifest.raw    the image's manifest
 *                                       config.raw      its config
 *                                       index.raw       the index of all platforms' images, where the tag names one
 *   .layers/xx/HEX/layerfs                              the layer sha256:HEX
 *
 * What is given out by digest has that digest. What a tag means is what the repository says; so a repository is looked
 * at by its mount only, whose owner has verified the publisher's signature (anything that is not mounted by FUSE is
 * refused). Nothing is kept but where digests were found last, and each look is at the revision that is mounted then.
 *
 * Looking by digest reads the manifests of all tags of that repository, unless it was come upon before: by its tag, or
 * as the config of such a manifest.
 *
 * docker.io goes by its other names, too. Registry NULL: any of the first thousand, and the name may begin with one.
 *
 * Any thread. -ENOENT: not there; -ENOTCONN: a repository is not mounted (and no other one has it); -EIO and the like:
 * can't be read now; -EXDEV: a link leads out of the repository; -EPROTO: no manifest; -E2BIG: too many tags. What has
 * other content than its digest says is not there.
 */
#ifndef LM_OCI_SHELF_H
#define LM_OCI_SHELF_H

#include "base/texts.h"
#include "oci/reference.h"
#include "oci/source.h"

#define LM_SHELF_METADATA ".metadata"
#define LM_SHELF_MANIFEST "manifest.raw"
#define LM_SHELF_CONFIG "config.raw"
#define LM_SHELF_INDEX "index.raw"

enum { LM_SHELF_REPOSITORIES_MAX = 64, LM_SHELF_TAGS_MAX = 10000, LM_SHELF_NAMES_MAX = 100000 };

struct lm_shelf_options {
	const char *base; /* the repositories' mounts are BASE/NAME; NULL: they are given with their paths */
	const char *const *repositories; /* looked at in this order */
	size_t count;
	bool any_directory; /* not only mounts: for tests */
};

struct lm_shelf;
int lm_shelf_new(const struct lm_shelf_options *options, struct lm_shelf **ret, struct lm_err *err) MUST_CHECK;
void lm_shelf_free(struct lm_shelf *shelf);
LM_DEFINE_CLEANUP(struct lm_shelf, lm_shelf_free, lm_shelf_freep)

struct lm_shelf_name {	      /* as lm_registry_valid() and lm_repository_valid() have it */
	const char *registry; /* NULL: any */
	const char *repository;
};

struct lm_shelf_item {
	struct lm_buf text;
	char digest[LM_DIGEST_MAX];
	char *media_type;	/* of a manifest or index */
	const char *repository; /* the mounted one; the shelf's memory */
};
void lm_shelf_item_done(struct lm_shelf_item *item);

/* reference: a tag (the index where there is one, else the manifest) or the digest of either. */
int lm_shelf_manifest(struct lm_shelf *shelf, const struct lm_shelf_name *name, const char *reference,
	struct lm_shelf_item *ret, struct lm_err *err) MUST_CHECK;
int lm_shelf_config(struct lm_shelf *shelf, const struct lm_shelf_name *name, const char *digest,
	struct lm_shelf_item *ret, struct lm_err *err) MUST_CHECK;
/* Whether a repository has the layer with that blob, of whatever image. */
bool lm_shelf_has_layer(struct lm_shelf *shelf, const char *digest);

/* Sorted, each once. What can't be read now is left out, unless nothing can; what is no valid name or tag, too. */
int lm_shelf_tags(
	struct lm_shelf *shelf, const struct lm_shelf_name *name, struct lm_texts *ret, struct lm_err *err) MUST_CHECK;
/* REGISTRY/REPOSITORY of all images that have a tag. */
int lm_shelf_names(struct lm_shelf *shelf, struct lm_texts *ret, struct lm_err *err) MUST_CHECK;

/* An image as of lm_source_image(); the source has no layers. The shelf outlives it. */
int lm_shelf_source(struct lm_shelf *shelf, const struct lm_reference *reference, struct lm_source **ret,
	struct lm_err *err) MUST_CHECK;

#endif
