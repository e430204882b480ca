/* A layer's layers.json: what is taken for its diff id is a digest. */
#include "convert/image_json.h"
#include "oci/reference.h" /* lm_digest_valid() */

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_LAYER_JSON_MAX);
	char diff_id[LM_DIGEST_MAX];
	if (lm_buf_append(&text, data, size) < 0)
		return 0;
	int r = lm_layers_json_diff_id(&text, diff_id, NULL);
	assert(r == 0 ? lm_digest_valid(diff_id) : r == -EPROTO);
	return 0;
}
