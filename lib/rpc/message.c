#include "base/log.h"
#include "rpc/rpc_internal.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/support/log.h>
#include <pthread.h>
#include <string.h>

static void log_from_grpc(gpr_log_func_args *args)
{
	lm_log(LM_LOG_DEBUG, "grpc", LM_KV("severity", "%s", gpr_log_severity_string(args->severity)),
		LM_KV("text", "%s", args->message));
}

static void quiet_log(void)
{
	gpr_set_log_function(log_from_grpc);
	gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
}

void lm_rpc_library_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, quiet_log);
	grpc_init();
}

int lm_rpc_pack(const ProtobufCMessage *message, grpc_byte_buffer **ret, struct lm_err *err)
{
	size_t size = protobuf_c_message_get_packed_size(message);
	if (size > LM_RPC_MESSAGE_MAX)
		return lm_err_set(err, -EMSGSIZE, "%s of %zu bytes: at most %d can be sent", message->descriptor->name,
			size, LM_RPC_MESSAGE_MAX);
	grpc_slice slice = grpc_slice_malloc(size);
	protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
	*ret = grpc_raw_byte_buffer_create(&slice, 1);
	grpc_slice_unref(slice);
	return *ret ? 0 : lm_err_oom(err);
}

/* protobuf-c makes objects out of two bytes each, so a message's size alone does not bound what it becomes. */
struct budget {
	size_t left;
	bool exceeded;
};

static void *budget_alloc(void *data, size_t size)
{
	struct budget *budget = data;
	size_t cost = size + 2 * sizeof(void *); /* malloc's own */
	if (cost > budget->left) {
		budget->exceeded = true;
		return NULL;
	}
	budget->left -= cost;
	return malloc(size);
}

static void budget_free(void *data, void *p)
{
	(void)data;
	free(p);
}

/* RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
static bool utf8_valid(const char *text)
{
	const uint8_t *p = (const uint8_t *)text;
	while (*p) {
		unsigned more = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1 : *p >= 0xe0 && *p < 0xf0 ? 2 : 3;
		if (*p >= 0x80 && (*p < 0xc2 || *p > 0xf4))
			return false;
		uint8_t low = *p == 0xe0 ? 0xa0 : *p == 0xf0 ? 0x90 : 0x80;
		uint8_t high = *p == 0xed ? 0x9f : *p == 0xf4 ? 0x8f : 0xbf;
		p++;
		for (; more; more--, p++) {
			if (*p < low || *p > high)
				return false;
			low = 0x80;
			high = 0xbf;
		}
	}
	return true;
}

static bool strings_valid(const ProtobufCMessage *message);

static bool value_valid(ProtobufCType type, const void *value)
{
	if (type == PROTOBUF_C_TYPE_STRING)
		return !value || utf8_valid(value);
	return !value || strings_valid(value);
}

/* Our messages nest as deep as their definitions do; none contains itself. */
static bool strings_valid(const ProtobufCMessage *message)
{
	for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
		if (field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		const void *member = (const char *)message + field->offset;
		if (field->label != PROTOBUF_C_LABEL_REPEATED) {
			if (!value_valid(field->type, *(void *const *)member))
				return false;
			continue;
		}
		size_t count = *(const size_t *)((const char *)message + field->quantifier_offset);
		for (size_t k = 0; k < count; k++)
			if (!value_valid(field->type, (*(void **const *)member)[k]))
				return false;
	}
	return true;
}

/* What protobuf-c unpacked before, so it is well-formed; still nothing is read beyond the end. */
struct wire {
	const uint8_t *at, *end;
};

static uint64_t wire_number(struct wire *wire)
{
	uint64_t value = 0;
	for (unsigned shift = 0; wire->at < wire->end; shift += 7) {
		uint8_t byte = *wire->at++;
		if (shift < 64)
			value |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80)
			break;
	}
	return value;
}

static struct wire wire_bytes(struct wire *wire, uint64_t len)
{
	struct wire part = {wire->at, wire->at + LM_MIN(len, (uint64_t)(wire->end - wire->at))};
	wire->at = part.end;
	return part;
}

/* A NUL is UTF-8, but would be the end of our string, and two different keys one and the same. */
static bool strings_have_nul(const ProtobufCMessageDescriptor *descriptor, struct wire wire)
{
	while (wire.at < wire.end) {
		uint64_t tag = wire_number(&wire);
		if ((tag & 7) != PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) {
			if ((tag & 7) == PROTOBUF_C_WIRE_TYPE_VARINT)
				(void)wire_number(&wire);
			else
				(void)wire_bytes(&wire, (tag & 7) == PROTOBUF_C_WIRE_TYPE_64BIT ? 8 : 4);
			continue;
		}
		struct wire part = wire_bytes(&wire, wire_number(&wire));
		const ProtobufCFieldDescriptor *field =
			protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(tag >> 3));
		if (field && field->type == PROTOBUF_C_TYPE_STRING &&
			memchr(part.at, '\0', (size_t)(part.end - part.at)))
			return true;
		if (field && field->type == PROTOBUF_C_TYPE_MESSAGE && strings_have_nul(field->descriptor, part))
			return true;
	}
	return false;
}

static int unpack_bytes(const uint8_t *bytes, size_t len, const ProtobufCMessageDescriptor *descriptor,
	ProtobufCMessage **ret, struct lm_err *err)
{
	struct budget budget = {.left = LM_RPC_DECODED_MAX};
	ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
	ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, &allocator, len, bytes);
	if (!message && budget.exceeded)
		return lm_err_set(err, -EMSGSIZE, "%s of %zu bytes takes too much memory", descriptor->name, len);
	if (!message)
		return lm_err_set(err, -EPROTO, "%zu bytes that are not a %s", len, descriptor->name);
	const char *wrong = !strings_valid(message)					      ? "that is not UTF-8"
			    : strings_have_nul(descriptor, (struct wire){bytes, bytes + len}) ? "that has a NUL"
											      : NULL;
	if (wrong) {
		protobuf_c_message_free_unpacked(message, NULL);
		return lm_err_set(err, -EPROTO, "%s with a string %s", descriptor->name, wrong);
	}
	*ret = message;
	return 0;
}

int lm_rpc_unpack(grpc_byte_buffer *buffer, const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **ret,
	struct lm_err *err)
{
	if (buffer->type != GRPC_BB_RAW || buffer->data.raw.compression != GRPC_COMPRESS_NONE)
		return lm_err_set(err, -EOPNOTSUPP, "%s in compressed form", descriptor->name);
	if (grpc_byte_buffer_length(buffer) > LM_RPC_MESSAGE_MAX)
		return lm_err_set(err, -EMSGSIZE, "%s of %zu bytes", descriptor->name, grpc_byte_buffer_length(buffer));
	grpc_byte_buffer_reader reader;
	if (!grpc_byte_buffer_reader_init(&reader, buffer))
		return lm_err_oom(err);
	grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
	grpc_byte_buffer_reader_destroy(&reader);
	int r = unpack_bytes(GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice), descriptor, ret, err);
	grpc_slice_unref(slice);
	return r;
}
