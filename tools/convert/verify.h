/*
 * A published image against the image it was made from: metadata byte by byte, layers entry by entry.
 *
 * Each layer's blob is streamed again (digest and diff id verified) and its tree built by the converter's own rules,
 * with the content of files hashed instead of packed. That tree is compared with the published catalogs: names, types,
 * modes, owners, times, attributes, hard links, targets, devices, sizes, and content: every object that the catalogs
 * name is read, verified and unpacked, and its content hashed. Nothing the repository says about content is believed.
 *
 * A tree of the layers for the kernels of nodes, where there is one, is made again of the published catalogs and
 * compared byte by byte, as part of the metadata. One of another form (chain_image.h) is only read.
 *
 * What the format can't hold is a loss and no difference; it is known since the image was published. A layer that is
 * twice in an image is compared once. What a layer takes from its place (layer_tree.h) is what this image gives it; a
 * layer that came with another image may differ in that.
 *
 * Memory is bounded by the trees of the layers that are compared at a time; chunks of content are small.
 */
#ifndef LM_TOOLS_VERIFY_H
#define LM_TOOLS_VERIFY_H

#include "oci/source.h"
#include "source.h"

enum { LM_VERIFY_SHOWN_MAX = 20 }; /* findings that are kept, of each part */

enum lm_verify_kind {
	LM_VERIFY_DIFFERENCE,
	LM_VERIFY_LOSS,
	LM_VERIFY_UNCOMPARED, /* what another version of this program made, in a way that this one does not know */
};

struct lm_verify_finding { /* owned */
	char *path;	   /* inside the layer or the image's metadata */
	char *text;
	enum lm_verify_kind kind;
};

struct lm_verify_part {		    /* the metadata, or a layer */
	char digest[LM_DIGEST_MAX]; /* "": metadata */
	struct lm_verify_finding findings[LM_VERIFY_SHOWN_MAX];
	size_t shown;
	uint64_t differences, losses, uncompared; /* all of them */
	uint64_t entries, bytes;		  /* compared; bytes: of content */
	int64_t ms;
};

struct lm_verify_result {
	struct lm_verify_part *parts; /* metadata, then the layers, bottom first */
	size_t count;
	uint64_t differences, losses, uncompared;
};
void lm_verify_result_done(struct lm_verify_result *result);

struct lm_verify_config {
	struct lm_repo_source *repo;
	struct lm_hash root; /* of the revision */
	struct lm_source *source;
	const struct lm_image *image;
	const char *name; /* REGISTRY/REPOSITORY[:TAG], as published */
};

/* Differences are no error: 0. Errors: the image can't be had, or the repository can't be read (single objects that
 * can't be had are differences). Work is said by lm_cli_status() on the way. */
int lm_verify_image(const struct lm_verify_config *config, struct lm_verify_result *ret, struct lm_err *err) MUST_CHECK;

#endif
