/* Settings that a worker of another version kept, or that were damaged since. */
#include "fetcher/settings.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is packed once is what it is packed as ever after. */
static void pack_again(const struct lm_settings *settings)
{
	CLEANUP(lm_buf_done) struct lm_buf once = LM_BUF(LM_SETTINGS_PACKED_MAX);
	CLEANUP(lm_buf_done) struct lm_buf twice = LM_BUF(LM_SETTINGS_PACKED_MAX);
	CLEANUP(lm_settings_unrefp) struct lm_settings *later = NULL;
	if (lm_settings_pack(settings, NULL, &once, NULL) < 0 || lm_settings_unpack(&once, &later, NULL) < 0 ||
		lm_settings_pack(later, NULL, &twice, NULL) < 0)
		abort();
	if (once.len != twice.len || memcmp(once.data, twice.data, once.len) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_buf_done) struct lm_buf packed = LM_BUF(LM_SETTINGS_PACKED_MAX);
	CLEANUP(lm_settings_unrefp) struct lm_settings *settings = NULL;
	if (lm_buf_append(&packed, data, size) == 0 && lm_settings_unpack(&packed, &settings, NULL) == 0)
		pack_again(settings);
	return 0;
}
