#include "rpc/json.h"

#include "base/str.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

static int put_string(const char *text, struct lm_buf *out)
{
	int r = lm_buf_str(out, "\"");
	for (const unsigned char *c = (const unsigned char *)text; *c && r == 0; c++) {
		if (*c == '"' || *c == '\\')
			r = lm_buf_printf(out, "\\%c", *c);
		else if (*c < ' ' || *c == 0x7f)
			r = lm_buf_printf(out, "\\u%04x", *c);
		else
			r = lm_buf_append(out, c, 1);
	}
	return r < 0 ? r : lm_buf_str(out, "\"");
}

static int put_enum(const ProtobufCEnumDescriptor *descriptor, int number, struct lm_buf *out)
{
	const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(descriptor, number);
	const char *name = value ? strchr(value->name, '_') : NULL;
	if (!name)
		return lm_buf_printf(out, "%d", number);
	char text[64];
	size_t len = 0;
	for (name++; *name && len + 1 < sizeof(text); name++)
		text[len++] = (char)tolower((unsigned char)*name);
	text[len] = '\0';
	return put_string(text, out);
}

static int put_double(double number, struct lm_buf *out)
{
	return isfinite(number) ? lm_buf_printf(out, "%.17g", number) : lm_buf_str(out, "null");
}

/* One value of the field; at: where it is. */
static int put_value(const ProtobufCFieldDescriptor *field, const void *at, struct lm_buf *out)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		return lm_buf_printf(out, "%" PRId32, *(const int32_t *)at);
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		return lm_buf_printf(out, "%" PRIu32, *(const uint32_t *)at);
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		return lm_buf_printf(out, "%" PRId64, *(const int64_t *)at);
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		return lm_buf_printf(out, "%" PRIu64, *(const uint64_t *)at);
	case PROTOBUF_C_TYPE_FLOAT:
		return put_double((double)*(const float *)at, out);
	case PROTOBUF_C_TYPE_DOUBLE:
		return put_double(*(const double *)at, out);
	case PROTOBUF_C_TYPE_BOOL:
		return lm_buf_str(out, *(const protobuf_c_boolean *)at ? "true" : "false");
	case PROTOBUF_C_TYPE_ENUM:
		return put_enum(field->descriptor, *(const int *)at, out);
	case PROTOBUF_C_TYPE_STRING: {
		const char *text = *(const char *const *)at;
		return put_string(text ? text : "", out);
	}
	case PROTOBUF_C_TYPE_MESSAGE: {
		const ProtobufCMessage *message = *(const ProtobufCMessage *const *)at;
		return message ? lm_rpc_json(message, out) : lm_buf_str(out, "null");
	}
	case PROTOBUF_C_TYPE_BYTES:
		break;
	}
	return -EINVAL;
}

static size_t size_of(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	default:
		return 4;
	}
}

static int put_array(const ProtobufCFieldDescriptor *field, const uint8_t *message, struct lm_buf *out)
{
	size_t count = *(const size_t *)(message + field->quantifier_offset);
	const uint8_t *array = *(const uint8_t *const *)(message + field->offset);
	int r = lm_buf_str(out, "[");
	for (size_t i = 0; i < count && r == 0; i++) {
		if (i > 0)
			r = lm_buf_str(out, ",");
		if (r == 0)
			r = put_value(field, array + i * size_of(field->type), out);
	}
	return r < 0 ? r : lm_buf_str(out, "]");
}

int lm_rpc_json(const ProtobufCMessage *message, struct lm_buf *out)
{
	const ProtobufCMessageDescriptor *descriptor = message->descriptor;
	int r = lm_buf_str(out, "{");
	for (unsigned i = 0; i < descriptor->n_fields && r == 0; i++) {
		const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
		if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
			return -EINVAL;
		r = lm_buf_printf(out, "%s\"%s\":", i > 0 ? "," : "", field->name);
		if (r == 0 && field->label == PROTOBUF_C_LABEL_REPEATED)
			r = put_array(field, (const uint8_t *)message, out);
		else if (r == 0)
			r = put_value(field, (const uint8_t *)message + field->offset, out);
	}
	return r < 0 ? r : lm_buf_str(out, "}");
}

int lm_rpc_json_line(const ProtobufCMessage *message, struct lm_buf *out)
{
	int r = lm_rpc_json(message, out);
	return r < 0 ? r : lm_buf_str(out, "\n");
}
