/* The state that a keeper leaves to its next version: message after message. */
#include "fetcher/keeper_message.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lm_message message;
	uint8_t again[LM_MESSAGE_MAX];
	int len;
	while ((len = lm_message_decode(data, size, &message, NULL)) > 0) {
		if (lm_message_encode(&message, again) != (size_t)len || memcmp(again, data, (size_t)len) != 0)
			abort();
		data += len;
		size -= (size_t)len;
	}
	return 0;
}
