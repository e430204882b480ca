/*
 * An image: its manifest and config, parsed, with the untouched bytes beside them.
 *
 * Accepted: OCI image manifest and Docker schema 2, and indexes of them (the platform is chosen). Digests of manifest
 * and config have been verified against the bytes when an lm_image exists.
 */
#ifndef LM_OCI_IMAGE_H
#define LM_OCI_IMAGE_H

#include "base/buf.h"

#include <stdbool.h>

enum lm_layer_compression { LM_LAYER_NONE, LM_LAYER_GZIP, LM_LAYER_ZSTD };
enum {
	LM_DIGEST_MAX = 72 /* "sha256:" + 64 digits + NUL */,
	LM_IMAGE_LAYERS_MAX = 512,
	LM_MANIFEST_JSON_MAX = 4 << 20
};

struct lm_layer {
	char digest[LM_DIGEST_MAX];   /* of the blob as stored */
	char diff_id[LM_DIGEST_MAX];  /* of the uncompressed tar */
	char chain_id[LM_DIGEST_MAX]; /* of this layer and those below: the OCI chain id */
	uint64_t size;		      /* of the blob */
	enum lm_layer_compression compression;
	char *media_type;
	bool stargz; /* annotated as eStargz */
};

struct lm_image {		    /* owns all it points to */
	char digest[LM_DIGEST_MAX]; /* of the manifest */
	char config_digest[LM_DIGEST_MAX];
	struct lm_buf manifest, config;	   /* untouched bytes */
	char *manifest_type, *config_type; /* media types */
	struct lm_buf index;		   /* untouched bytes of the index that names the manifest; empty: none does */
	uint64_t config_size;
	char *created;			   /* RFC 3339 from the config, NULL when missing */
	char *os, *architecture, *variant; /* from the config, NULL when not said */
	struct lm_layer *layers;	   /* bottom first */
	size_t layer_count;
};
void lm_image_done(struct lm_image *image);

struct lm_platform {
	const char *os, *architecture, *variant; /* NULL variant: the usual one */
};

/*
 * Whether a machine of platform wanted runs an image for platform offered, as containerd sees it: -1 no, 0 made for it,
 * more the further away. Names are brought into one form first (x86_64 is amd64, aarch64 is arm64, arm64/v8 is arm64,
 * amd64/v1 is amd64, arm without variant is v7); then amd64/vN runs lower N and 386, arm/vN lower N down to v5,
 * arm64/vN lower N and arm.
 */
int lm_platform_rank(const struct lm_platform *wanted, const struct lm_platform *offered);

/* One descriptor of an index. Strings owned. */
struct lm_descriptor {
	char *media_type, *ref_name; /* ref_name: annotation org.opencontainers.image.ref.name, or NULL */
	char digest[LM_DIGEST_MAX];
	uint64_t size;
	char *os, *architecture, *variant; /* NULL when not said */
};
struct lm_index {
	struct lm_descriptor *items;
	size_t count;
};
void lm_index_done(struct lm_index *index);

/*
 * Parsing. Documents larger than LM_MANIFEST_JSON_MAX, deeper or with more values than any real one, or with a key
 * twice are -EPROTO, as are layers that cannot be had from where the manifest is (foreign ones), encrypted ones, and
 * manifests of things that are no images. On failure *ret is untouched.
 */

/* media_type: as the server or descriptor said, or NULL. *ret_is_index tells which of the two to call. A document that
 * could be read as both, or that calls itself the other one, is -EPROTO. */
int lm_manifest_kind(
	const char *json, size_t len, const char *media_type, bool *ret_is_index, struct lm_err *err) MUST_CHECK;
int lm_index_parse(const char *json, size_t len, struct lm_index *ret, struct lm_err *err) MUST_CHECK;
/* Whether it is an index, and names that manifest (or index) itself. */
bool lm_index_names(const char *json, size_t len, const char *digest);
/* The media type that an index calls itself, else OCI's. The caller frees *ret. */
int lm_index_type(const char *json, size_t len, char **ret, struct lm_err *err) MUST_CHECK;
/* The descriptor that fits the platform best (lm_platform_rank), of equals the first. -ENOENT names the platforms there
 * are. An entry that names no platform is taken when it is the only one. */
int lm_index_choose(const struct lm_index *index, const struct lm_platform *platform, const struct lm_descriptor **ret,
	struct lm_err *err) MUST_CHECK;
/* First step: all but digest, manifest, config and what the config says. */
int lm_image_parse_manifest(const char *json, size_t len, struct lm_image *ret, struct lm_err *err) MUST_CHECK;
/* Second step: fills diff_id, chain_id, created, os, architecture, variant; -EPROTO when the config names another
 * number of layers. */
int lm_image_parse_config(struct lm_image *image, const char *json, size_t len, struct lm_err *err) MUST_CHECK;

/* Linux on this machine's architecture (Go's name for it). Constant strings. */
struct lm_platform lm_platform_host(void);

#endif
