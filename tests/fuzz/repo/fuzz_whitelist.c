/* What parses can be written and reads back the same. */
#include "repo/whitelist.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lm_whitelist w, again;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	if (lm_whitelist_parse((const char *)data, size, &w, NULL) < 0)
		return 0;
	int r = lm_whitelist_format(&w, &text, NULL);
	assert(r == 0);
	r = lm_whitelist_parse((const char *)text.data, text.len, &again, NULL);
	assert(r == 0 && again.count == w.count && again.expires_s == w.expires_s && strcmp(again.fqrn, w.fqrn) == 0);
	for (size_t i = 0; i < w.count; i++)
		assert(lm_hash_equal(&w.fingerprints[i], &again.fingerprints[i]));
	return 0;
}
