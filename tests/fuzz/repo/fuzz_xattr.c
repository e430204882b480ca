/* What reads as attributes can be encoded, and finds the same ones again. */
#include "repo/xattr.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct lm_xattr attrs[LM_XATTR_COUNT_MAX];
	struct lm_xattr attr;
	CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(LM_XATTR_BLOB_MAX);
	size_t at = 0, count = 0;
	int r;
	while ((r = lm_xattr_next(data, size, &at, &attr)) > 0) {
		assert(count < LM_XATTR_COUNT_MAX && attr.key_len > 0);
		attrs[count++] = attr;
	}
	assert(r == 0 || count == 0); /* a damaged blob has none at all */
	r = lm_xattr_encode(attrs, count, &blob, NULL);
	assert(r == 0 || r == -EEXIST);
	for (size_t i = 0; r == 0 && i < count; i++) {
		char key[LM_XATTR_KEY_MAX + 1] = "";
		memcpy(key, attrs[i].key, attrs[i].key_len);
		r = lm_xattr_find(blob.data, blob.len, key, &attr);
		assert(r == 0 && attr.value_len == attrs[i].value_len);
		assert(memcmp(attr.value, attrs[i].value, attr.value_len) == 0);
	}
	return 0;
}
