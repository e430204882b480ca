/* The target of an index's entry: what is read as a link to a layer is the one text that links to it. And names of
 * rows: what is read as one is the one name of these halves. */
#include "repo/images.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lm_images_digest layer;
	char *target = malloc(size + 1);
	assert(target);
	memcpy(target, data, size);
	target[size] = '\0';
	int r = lm_images_entry_parse(target, &layer, NULL);
	assert(r == 0 || r == -EPROTO);
	if (r == 0) {
		assert(lm_images_digest_parse(layer.s, NULL));
		assert(strcmp(lm_images_entry_target(layer.s).s, target) == 0);
	}
	int64_t halves[LM_IMAGES_ROW_MAX];
	size_t count = lm_images_row_parse(target, halves);
	assert(count <= LM_IMAGES_ROW_MAX);
	assert(count == 0 || strcmp(lm_images_row(halves, count).s, target) == 0);
	free(target);
	return 0;
}
