/* Ranges of ids are text from a socket: whatever is taken has a host's id for each id of each range. */
#include "base/str.h"
#include "snapshotter/mapped.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct lm_mapped_ranges ranges;
	CLEANUP(lm_freep) char *text = lm_str_ndup((const char *)data, size);
	if (!text || lm_mapped_parse(text, &ranges, NULL) < 0)
		return 0;
	assert(ranges.count > 0 && ranges.count <= LM_MAPPED_RANGES_MAX);
	for (size_t i = 0; i < ranges.count; i++) {
		const struct lm_mapped_range *range = &ranges.items[i];
		uint32_t host;
		assert(lm_mapped_host(&ranges, range->inside, &host));
		assert(lm_mapped_host(&ranges, range->inside + (range->length - 1), &host));
	}
	return 0;
}
