/*
 * Making messages: trees on the heap, freed by protobuf_c_message_free_unpacked(). When memory is short, `failed` is
 * set, and what is missing stays empty, so that only the end has to be looked at.
 */
#ifndef LM_RPC_BUILD_H
#define LM_RPC_BUILD_H

#include "base/err.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

struct lm_message_builder {
	bool failed;
};
void *lm_message_new(struct lm_message_builder *builder, const ProtobufCMessageDescriptor *type);
/* A new element of a repeated field: lm_message_add(&builder, &type, &m->servers, &m->n_servers). NULL: no memory. */
#define lm_message_add(builder, type, array, count) lm_message_append((builder), (type), (void ***)(array), (count))
void *lm_message_append(
	struct lm_message_builder *builder, const ProtobufCMessageDescriptor *type, void ***array, size_t *count);
/* Strings may be of any origin, messages have UTF-8 only: bytes outside of printable ASCII become \xHH. */
void lm_message_text(struct lm_message_builder *builder, char **field, const char *text);

#endif
