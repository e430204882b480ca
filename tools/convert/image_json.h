/* The JSON files that DUCC's layout has beside layers and images, written as DUCC writes them. */
#ifndef LM_TOOLS_IMAGE_JSON_H
#define LM_TOOLS_IMAGE_JSON_H

#include "oci/image.h"
#include "repo/images.h"

enum { LM_LAYER_JSON_MAX = 4 << 20 };

/* layers.json: a list with one object. created: RFC 3339 or NULL. */
int lm_layers_json(const struct lm_layer *layer, const char *created, uint64_t tar_bytes, struct lm_buf *ret,
	struct lm_err *err) MUST_CHECK;
/* The diff id that a layers.json says. -EPROTO. */
int lm_layers_json_diff_id(const struct lm_buf *text, char ret[LM_DIGEST_MAX], struct lm_err *err) MUST_CHECK;

/*
 * origin.json: {"origin":["sha256:CONFIG",…]}. Replaces the text (empty: none yet) by one that names config, too.
 * *ret_changed (may be NULL): false where it did already. -EPROTO: the text is something else.
 */
int lm_origin_json_add(struct lm_buf *text, const char *config, bool *ret_changed, struct lm_err *err) MUST_CHECK;

/* The text without those of the count configs; what remains in the list is *ret_left. */
int lm_origin_json_remove(struct lm_buf *text, const char *const *configs, size_t count, bool *ret_changed,
	size_t *ret_left, struct lm_err *err) MUST_CHECK;
/* Calls fn for each config; its return other than 0 ends that and is returned. */
int lm_origin_json_each(
	const struct lm_buf *text, int (*fn)(void *arg, const char *config), void *arg, struct lm_err *err) MUST_CHECK;

/* manifest.json: the manifest with capitalised keys. */
int lm_manifest_json(const struct lm_image *image, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;

/* What a manifest.json says the image is made of; foreign layers, which are in no repository, left out. */
struct lm_image_part {
	char digest[LM_DIGEST_MAX];
	uint64_t size;
};
struct lm_image_parts {
	char config[LM_DIGEST_MAX];
	struct lm_image_part *layers;
	size_t layer_count;
};
void lm_image_parts_done(struct lm_image_parts *parts); /* for CLEANUP */
/* manifest: the parsed text. -EPROTO. */
struct json_t;
int lm_image_parts_read(const struct json_t *manifest, struct lm_image_parts *ret, struct lm_err *err) MUST_CHECK;
/* The name of the chain of its layers. */
int lm_image_parts_chain(const struct lm_image_parts *parts, struct lm_chain_hex *ret, struct lm_err *err) MUST_CHECK;

#endif
