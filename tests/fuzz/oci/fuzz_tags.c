/* A page of a registry's list of tags; the first line is the pattern. */
#include "base/str.h"
#include "oci/tags.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_texts_done) struct lm_texts list = {0};
	struct lm_err err = LM_ERR_INIT;
	const uint8_t *line_end = memchr(data, '\n', size);
	size_t len = line_end ? (size_t)(line_end - data) : 0, count = 0;
	CLEANUP(lm_freep) char *pattern = lm_str_ndup((const char *)data, LM_MIN(len, (size_t)200));
	size_t skip = line_end ? len + 1 : 0;
	if (!pattern)
		return 0;
	int r = lm_tags_parse((const char *)data + skip, size - skip, pattern, &list, &count, &err);
	assert(r == 0 || (r == -EPROTO && err.msg[0]));
	for (size_t i = 0; i < list.count; i++)
		assert(lm_tag_matches(pattern, list.items[i]) && !strchr(list.items[i], '/'));
	assert(r < 0 || list.count <= count);
	return 0;
}
