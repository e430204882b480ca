/*
 * Images into a repository: layers that are missing are fetched and converted, all of one converter's images become one
 * new revision.
 *
 *   lm_converter_new()      begins a transaction: the publisher's lock is held until free
 *   lm_converter_image()    once for each image
 *   lm_converter_publish()  the new revision; without it the repository stays as it was, but for unreferenced objects
 *
 * What an image becomes:
 *
 *   /.layers/xx/DIGEST                       each layer, a nested catalog, see layer_catalog.h, with
 *     .metadata/layers.json, origin.json       where it comes from, and the images (configs) that use it
 *   /.flat/xx/CONFIGDIGEST                   all layers in one, for Apptainer: flat.h
 *   /.lamella/trees/xx/CHAIN/tree            the same for the kernel of a node: chain_tree.h
 *   /.lamella/chains, /.lamella/diffs        links to its layers by chain id and diff id: layer_index.h
 *   what is there by its name                manifests, and the public link to the flat tree: metadata.h
 *
 * A layer that is there is not fetched, and nothing is written that is there already in the same words. What a layer
 * takes from its place (attributes of directories for which it has no entry, whiteouts in the lowest layer) is decided
 * by the first image that brings it.
 *
 * One thread, but for lm_converter_cancel().
 */
#ifndef LM_TOOLS_IMAGE_H
#define LM_TOOLS_IMAGE_H

#include "convert/progress.h"
#include "convert/remove.h"
#include "oci/source.h"
#include "repo/publish.h"

struct lm_converter_config { /* all outlives the converter */
	struct lm_storage *storage;
	const struct lm_repo_keys *keys;
	const char *fqrn;
	const struct lm_access *access; /* to the sources */
	struct lm_platform platform;
	bool all_platforms;	      /* of each source; platform then says which of them has the plain name */
	bool strict;		      /* what the format can't hold keeps all from being published */
	struct lm_progress *progress; /* is told what happens; NULL: nobody */
	bool no_wait;		      /* for another publisher: -EBUSY */
	const char *ledger;	      /* path, see ledger.h; NULL: none */
	bool remote;		      /* asking the storage for an object costs a request */
	bool no_flat;		      /* no trees for Apptainer */
	bool no_trees;		      /* none for the kernels of nodes */
	/* How long the content of an image stays that has lost its name. 0: LM_GRACE_S; negative: it goes at once. */
	int64_t grace_s;
};

struct lm_layer_report {
	char digest[LM_DIGEST_MAX], diff_id[LM_DIGEST_MAX];
	bool converted; /* false: was there; all below is then 0, except blob_bytes */
	bool kept;	/* by a run that has not published it: converted, but nothing was fetched */
	uint64_t blob_bytes, tar_bytes;
	uint64_t files, file_bytes;	/* regular files of the layer, by name */
	uint64_t objects, stored_bytes; /* new in the storage */
	uint64_t spared_bytes;		/* of content that needed no packing, since the ledger knew it */
	uint64_t losses;
	int64_t ms;
};

const char *lm_layer_state(const struct lm_layer_report *layer); /* "present", "converted" or "kept" */

struct lm_flat_report {
	bool made;	  /* false: it was there, or none is wanted; all below is then 0 */
	uint64_t entries; /* names */
	int64_t ms;
};

struct lm_tree_report {
	bool made;		      /* false: it was there, there can be none, or none is wanted */
	struct lm_err why;	      /* code not 0: why there can be none */
	uint64_t entries;	      /* names; this and all below is 0 where none was made */
	uint64_t bytes, stored_bytes; /* of the image; of its objects that are new in the storage */
	uint64_t content_bytes;	      /* of large files, which are in it as the layers have stored them */
	int64_t ms;
};

struct lm_image_report {
	char *source, *name; /* name: REGISTRY/REPOSITORY[:TAG] */
	char *platform;	     /* OS/ARCHITECTURE[/VARIANT] by the image's config; NULL: it does not say */
	char digest[LM_DIGEST_MAX], config_digest[LM_DIGEST_MAX];
	struct lm_layer_report *layers;
	size_t layer_count;
	struct lm_flat_report flat;
	struct lm_tree_report tree;
};
void lm_image_report_done(struct lm_image_report *report);

/* "linux/arm64/v8", or with another separator; NULL: no memory, or the image does not say. The caller frees. */
char *lm_image_platform(const struct lm_image *image, char separator);
/* NAME:TAG-OS-ARCHITECTURE[-VARIANT] */
int lm_image_platform_name(const struct lm_image *image, const char *name, char **ret, struct lm_err *err) MUST_CHECK;

struct lm_converter;
int lm_converter_new(
	const struct lm_converter_config *config, struct lm_converter **ret, struct lm_err *err) MUST_CHECK;
void lm_converter_free(struct lm_converter *converter);
LM_DEFINE_CLEANUP(struct lm_converter, lm_converter_free, lm_converter_freep)

const struct lm_manifest *lm_converter_base(const struct lm_converter *converter);

/* Instead of the configuration's, for the images from now on; its strings until the last of them. */
void lm_converter_choose(
	struct lm_converter *converter, const struct lm_platform *platform, bool no_flat, bool no_trees);

/* source: as reference.h spells them. name: REGISTRY/REPOSITORY[:TAG] to publish it under, NULL: by the source. One
 * that fails leaves nothing in the revision (what it had before stays), and others may follow; where not even that can
 * be done, publishing fails. */
int lm_converter_image(struct lm_converter *converter, const char *source, const char *name,
	struct lm_image_report *ret, struct lm_err *err) MUST_CHECK;

/* The same for every platform of the source, with all_platforms. All of them are named
 * NAME:TAG-OS-ARCHITECTURE[-VARIANT]; the best for this converter's platform also NAME:TAG, under which it is in the
 * report. At most max reports. */
int lm_converter_images(struct lm_converter *converter, const char *source, const char *name,
	struct lm_image_report *ret, size_t max, size_t *ret_count, struct lm_err *err) MUST_CHECK;

/* As lm_remove_images(), in the same revision. Whatever is to stay is converted before. */
int lm_converter_remove(struct lm_converter *converter, const char *const *names, size_t count, struct lm_removal *ret,
	struct lm_err *err) MUST_CHECK;

/* Also takes away what lost its name long ago. Nothing changed: 0 with *ret = the base. */
int lm_converter_publish(struct lm_converter *converter, struct lm_manifest *ret, struct lm_err *err) MUST_CHECK;

/* From any thread: what is under way fails soon, with -ECANCELED. To end waiting for a registry, too, stop the access's
 * HTTP engine afterwards. */
void lm_converter_cancel(struct lm_converter *converter);

/* What was done so far, all images together. */
struct lm_converter_summary {
	uint64_t layers, layers_converted;
	uint64_t layers_kept; /* of those converted; what they held is counted where they were converted */
	uint64_t fetched_bytes, skipped_bytes; /* blobs of layers that were converted; that were there */
	uint64_t unpacked_bytes, files;	       /* of layers converted */
	uint64_t content_bytes;		       /* of their files, by inode, and of what describes them */
	uint64_t known_bytes;		       /* of that, what had been stored already: by them, or before */
	uint64_t spared_bytes;		       /* of this, what needed no compressing to find that out */
	uint64_t objects, stored_bytes;	       /* new, compressed */
	struct lm_stage_times times;
};
void lm_converter_summary(struct lm_converter *converter, struct lm_converter_summary *ret);

#endif
