/* A filter is text from a socket: whatever it is, it parses or is refused, and then matches in bounded time. */
#include "base/str.h"
#include "snapshotter/filter.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_freep) char *text = lm_str_ndup((const char *)data, size);
	CLEANUP(lm_filter_freep) struct lm_filter *filter = NULL;
	CLEANUP(lm_labels_done) struct lm_labels labels = {0};
	if (!text || lm_labels_set(&labels, "a.b", "value") < 0 || lm_filter_parse(text, &filter, NULL) < 0)
		return 0;
	struct lm_snapshot snapshot = {.key = (char *)"k8s.io/1/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		.kind = LM_COMMITTED,
		.labels = labels};
	(void)!lm_filter_match(filter, &snapshot, NULL);
	return 0;
}
