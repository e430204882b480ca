/* What parses can be written and reads back the same. */
#include "repo/manifest.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lm_manifest m, again;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX), twice = LM_BUF(LM_MANIFEST_MAX);
	if (lm_manifest_parse((const char *)data, size, &m, NULL) < 0)
		return 0;
	int r = lm_manifest_format(&m, &text, NULL);
	assert(r == 0);
	r = lm_manifest_parse((const char *)text.data, text.len, &again, NULL);
	assert(r == 0 && lm_hash_equal(&m.catalog, &again.catalog) && strcmp(m.fqrn, again.fqrn) == 0);
	r = lm_manifest_format(&again, &twice, NULL);
	assert(r == 0 && twice.len == text.len && memcmp(twice.data, text.data, text.len) == 0);
	return 0;
}
