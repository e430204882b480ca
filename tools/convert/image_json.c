#include "convert/image_json.h"

#include <jansson.h>
#include <string.h>

static int append(const char *data, size_t len, void *arg)
{
	return lm_buf_append(arg, data, len) < 0 ? -1 : 0;
}

/* json NULL: could not be made. */
static int dump(const json_t *json, size_t flags, struct lm_buf *ret, struct lm_err *err)
{
	if (!json)
		return lm_err_set(err, -EPROTO, "text that JSON can't hold");
	return json_dump_callback(json, append, ret, flags) < 0 ? lm_err_oom(err) : 0;
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
