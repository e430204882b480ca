#include "convert/image_json.h"

#include "oci/json.h"
#include "oci/reference.h" /* lm_digest_valid() */

#include <string.h>

/* json NULL: could not be made. */
static int dump(const json_t *json, size_t flags, struct lm_buf *ret, struct lm_err *err)
{
	if (!json)
		return lm_err_set(err, -EPROTO, "text that JSON can't hold");
	return lm_json_write(json, flags, ret) < 0 ? lm_err_oom(err) : 0;
}

static const char *hex_of(const char *digest)
{
	return strchr(digest, ':') + 1;
}

int lm_layers_json(
	const struct lm_layer *layer, const char *created, uint64_t tar_bytes, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(json_decrefp)
	json_t *json = json_pack("[{s:s, s:s, s:s, s:s, s:I}]", "id", hex_of(layer->diff_id), "created",
		created ? created : "0001-01-01T00:00:00Z", "compressed-diff-digest", layer->digest, "diff-digest",
		layer->diff_id, "diff-size", (json_int_t)tar_bytes);
	return dump(json, JSON_INDENT(1), ret, err);
}

int lm_layers_json_diff_id(const struct lm_buf *text, char ret[LM_DIGEST_MAX], struct lm_err *err)
{
	CLEANUP(json_decrefp) json_t *json = json_loadb(lm_buf_cstr(text), text->len, 0, NULL);
	const char *diff_id = json_string_value(json_object_get(json_array_get(json, 0), "diff-digest"));
	if (!diff_id || !lm_digest_valid(diff_id))
		return lm_err_set(err, -EPROTO, "layers.json: no diff-digest");
	memcpy(ret, diff_id, strlen(diff_id) + 1);
	return 0;
}

int lm_origin_json_add(struct lm_buf *text, const char *config, bool *ret_changed, struct lm_err *err)
{
	CLEANUP(json_decrefp)
	json_t *json = text->len > 0 ? json_loadb((const char *)text->data, text->len, 0, NULL)
				     : json_pack("{s:[]}", "origin");
	json_t *list = json_object_get(json, "origin");
	if (!json_is_array(list))
		return lm_err_set(err, -EPROTO, "origin.json: no list of origins");
	size_t i;
	json_t *item;
	json_array_foreach(list, i, item) {
		const char *known = json_string_value(item);
		if (known && strcmp(known, config) == 0) {
			if (ret_changed)
				*ret_changed = false;
			return 0;
		}
	}
	if (json_array_append_new(list, json_string(config)) < 0)
		return lm_err_oom(err);
	lm_buf_clear(text);
	if (ret_changed)
		*ret_changed = true;
	return dump(json, JSON_COMPACT, text, err);
}

static int origins(const struct lm_buf *text, json_t **ret, struct lm_err *err)
{
	CLEANUP(json_decrefp) json_t *json = json_loadb(lm_buf_cstr(text), text->len, 0, NULL);
	if (!json_is_array(json_object_get(json, "origin")))
		return lm_err_set(err, -EPROTO, "origin.json: no list of origins");
	*ret = STEAL(json);
	return 0;
}

int lm_origin_json_each(
	const struct lm_buf *text, int (*fn)(void *arg, const char *config), void *arg, struct lm_err *err)
{
	CLEANUP(json_decrefp) json_t *json = NULL;
	int r = origins(text, &json, err);
	size_t i;
	json_t *item;
	if (r < 0)
		return r;
	json_array_foreach(json_object_get(json, "origin"), i, item) {
		const char *config = json_string_value(item);
		if (r == 0)
			r = fn(arg, config ? config : "");
	}
	return r;
}

static bool is_among(const char *text, const char *const *list, size_t count)
{
	for (size_t i = 0; text && i < count; i++)
		if (strcmp(text, list[i]) == 0)
			return true;
	return false;
}

int lm_origin_json_remove(struct lm_buf *text, const char *const *configs, size_t count, bool *ret_changed,
	size_t *ret_left, struct lm_err *err)
{
	CLEANUP(json_decrefp) json_t *json = NULL;
	int r = origins(text, &json, err);
	if (r < 0)
		return r;
	json_t *list = json_object_get(json, "origin");
	size_t before = json_array_size(list);
	for (size_t i = before; i > 0; i--)
		if (is_among(json_string_value(json_array_get(list, i - 1)), configs, count))
			json_array_remove(list, i - 1);
	*ret_left = json_array_size(list);
	*ret_changed = *ret_left != before;
	if (!*ret_changed)
		return 0;
	lm_buf_clear(text);
	return dump(json, JSON_COMPACT, text, err);
}

static json_t *descriptor(const char *media_type, uint64_t size, const char *digest)
{
	return json_pack("{s:s, s:I, s:s}", "MediaType", media_type ? media_type : "", "Size", (json_int_t)size,
		"Digest", digest);
}

int lm_manifest_json(const struct lm_image *image, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(json_decrefp) json_t *layers = json_array();
	for (size_t i = 0; i < image->layer_count; i++) {
		const struct lm_layer *layer = &image->layers[i];
		if (json_array_append_new(layers, descriptor(layer->media_type, layer->size, layer->digest)) < 0)
			return lm_err_oom(err);
	}
	CLEANUP(json_decrefp)
	json_t *json = json_pack("{s:i, s:s, s:o, s:O}", "SchemaVersion", 2, "MediaType",
		image->manifest_type ? image->manifest_type : "", "Config",
		descriptor(image->config_type, image->config_size, image->config_digest), "Layers", layers);
	return dump(json, JSON_COMPACT, ret, err);
}

/* --- manifest.json, read --- */

void lm_image_parts_done(struct lm_image_parts *parts)
{
	free(parts->layers);
	*parts = (struct lm_image_parts){0};
}

static int copy_digest(const json_t *descriptor_json, char ret[LM_DIGEST_MAX], struct lm_err *err)
{
	const char *digest = json_string_value(json_object_get(descriptor_json, "Digest"));
	if (!digest || !lm_digest_valid(digest))
		return lm_err_set(err, -EPROTO, "manifest.json: '%.100s' is no digest", digest ? digest : "");
	memcpy(ret, digest, strlen(digest) + 1);
	return 0;
}

static bool is_foreign(const json_t *layer)
{
	const char *type = json_string_value(json_object_get(layer, "MediaType"));
	return type && (strstr(type, ".foreign.") || strstr(type, ".nondistributable."));
}

int lm_image_parts_read(const json_t *manifest, struct lm_image_parts *ret, struct lm_err *err)
{
	CLEANUP(lm_image_parts_done) struct lm_image_parts parts = {0};
	const json_t *layers = json_object_get(manifest, "Layers");
	size_t count = json_array_size(layers);
	if (count > LM_IMAGE_LAYERS_MAX)
		return lm_err_set(err, -EPROTO, "manifest.json: %zu layers", count);
	parts.layers = calloc(count + 1, sizeof(*parts.layers));
	if (!parts.layers)
		return lm_err_oom(err);
	int r = copy_digest(json_object_get(manifest, "Config"), parts.config, err);
	for (size_t i = 0; i < count && r == 0; i++) {
		const json_t *layer = json_array_get(layers, i);
		json_int_t size = json_integer_value(json_object_get(layer, "Size"));
		if (is_foreign(layer))
			continue;
		parts.layers[parts.layer_count].size = size > 0 ? (uint64_t)size : 0;
		r = copy_digest(layer, parts.layers[parts.layer_count++].digest, err);
	}
	if (r < 0)
		return r;
	*ret = parts;
	parts = (struct lm_image_parts){0};
	return 0;
}

int lm_image_parts_chain(const struct lm_image_parts *parts, struct lm_chain_hex *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) const char **digests = calloc(parts->layer_count + 1, sizeof(*digests));
	if (!digests)
		return lm_err_oom(err);
	for (size_t i = 0; i < parts->layer_count; i++)
		digests[i] = parts->layers[i].digest;
	return lm_images_chain(digests, parts->layer_count, ret, err);
}
