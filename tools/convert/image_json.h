/* The JSON files that DUCC's layout has beside layers and images, written as DUCC writes them. */
#ifndef LM_TOOLS_IMAGE_JSON_H
#define LM_TOOLS_IMAGE_JSON_H

#include "oci/image.h"

enum { LM_LAYER_JSON_MAX = 4 << 20 };

/* layers.json: a list with one object. created: RFC 3339 or NULL. */
int lm_layers_json(const struct lm_layer *layer, const char *created, uint64_t tar_bytes, struct lm_buf *ret,
	struct lm_err *err) MUST_CHECK;

/*
 * origin.json: {"origin":["sha256:CONFIG",…]}. Replaces the text (empty: none yet) by one that names config, too.
 * *ret_changed (may be NULL): false where it did already. -EPROTO: the text is something else.
 */
int lm_origin_json_add(struct lm_buf *text, const char *config, bool *ret_changed, struct lm_err *err) MUST_CHECK;

/* manifest.json: the manifest with capitalised keys. */
int lm_manifest_json(const struct lm_image *image, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;

#endif
