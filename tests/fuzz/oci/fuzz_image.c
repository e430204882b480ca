/* What a registry sends: an index, a manifest, or a manifest, NUL and config. */
#include "oci/image.h"
#include "oci/reference.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_index(const char *text, size_t len)
{
	CLEANUP(lm_index_done) struct lm_index index = {0};
	const struct lm_platform platform = {"linux", "amd64", NULL};
	const struct lm_descriptor *chosen;
	CLEANUP(lm_freep) char *type = NULL;
	struct lm_err err = LM_ERR_INIT;
	if ((lm_index_type(text, len, &type, &err) == 0) != (type != NULL))
		abort();
	if (lm_index_parse(text, len, &index, &err) < 0)
		return;
	for (size_t i = 0; i < index.count; i++)
		if (!lm_digest_valid(index.items[i].digest))
			abort();
	if (lm_index_choose(&index, &platform, &chosen, &err) == 0 &&
		(chosen < index.items || chosen >= index.items + index.count))
		abort();
}

static void try_image(const char *text, size_t len, const char *config, size_t config_len)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	struct lm_err err = LM_ERR_INIT;
	if (lm_image_parse_manifest(text, len, &image, &err) < 0)
		return;
	if (image.layer_count > LM_IMAGE_LAYERS_MAX || !lm_digest_valid(image.config_digest) || !image.manifest_type)
		abort();
	bool complete = lm_image_parse_config(&image, config, config_len, &err) == 0;
	for (size_t i = 0; i < image.layer_count; i++) {
		const struct lm_layer *layer = &image.layers[i];
		if (!layer->media_type || !lm_digest_valid(layer->digest))
			abort();
		if (complete && (!lm_digest_valid(layer->diff_id) || !lm_digest_valid(layer->chain_id)))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data;
	const char *nul = size ? memchr(text, '\0', size) : NULL;
	size_t len = nul ? (size_t)(nul - text) : size;
	bool is_index;
	struct lm_err err = LM_ERR_INIT;
	(void)!lm_manifest_kind(text, len, NULL, &is_index, &err);
	try_index(text, len);
	try_image(text, len, nul ? nul + 1 : text, nul ? size - len - 1 : len);
	return 0;
}
