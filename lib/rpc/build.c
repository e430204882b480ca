#include "rpc/build.h"

#include "base/buf.h"

enum { TEXT_MAX = 4096 };

void *lm_message_new(struct lm_message_builder *builder, const ProtobufCMessageDescriptor *type)
{
	ProtobufCMessage *message = calloc(1, type->sizeof_message);
	if (message)
		protobuf_c_message_init(type, message);
	builder->failed |= !message;
	return message;
}

void *lm_message_append(
	struct lm_message_builder *builder, const ProtobufCMessageDescriptor *type, void ***array, size_t *count)
{
	void *message = lm_message_new(builder, type);
	void **longer = message ? reallocarray(*array, *count + 1, sizeof(void *)) : NULL;
	if (!longer) {
		free(message);
		builder->failed = true;
		return NULL;
	}
	*array = longer;
	longer[(*count)++] = message;
	return message;
}

void lm_message_text(struct lm_message_builder *builder, char **field, const char *text)
{
	if (!text || !*text)
		return;
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(TEXT_MAX);
	int r = 0;
	for (const unsigned char *c = (const unsigned char *)text; *c && r == 0; c++)
		r = *c >= ' ' && *c < 0x7f ? lm_buf_append(&out, c, 1) : lm_buf_printf(&out, "\\x%02x", *c);
	char *copy = (char *)lm_buf_steal(&out, NULL); /* longer text is cut */
	builder->failed |= !copy;
	if (copy)
		*field = copy;
}
