/* What an S3 server says in XML: the first byte chooses whether it is read as an error or as a page of a listing. */
#include "s3/answer.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int count_object(void *arg, const char *key, uint64_t size)
{
	unsigned *left = arg;
	size_t len = strlen(key);
	assert(len > 0 && len <= LM_S3_KEY_MAX);
	return (*left)-- == 0 ? 7 : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lm_s3_error error;
	struct lm_s3_page page;
	struct lm_err err = LM_ERR_INIT;
	if (size == 0)
		return 0;
	const char *text = (const char *)data + 1;
	if (data[0] == 'E') {
		if (lm_s3_error_parse(text, size - 1, &error) == 0)
			assert(error.code[0] && strlen(error.code) < sizeof(error.code) &&
				strlen(error.message) < sizeof(error.message));
		return 0;
	}
	unsigned left = data[0];
	int r = lm_s3_page_parse(text, size - 1, count_object, &left, &page, &err);
	assert(r == 0 || r == 7 || (r < 0 && err.msg[0]));
	if (r == 0)
		assert(!page.more || (page.token[0] && strlen(page.token) < sizeof(page.token)));
	return 0;
}
