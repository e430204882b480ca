/*
 * Messages as JSON: one object per message, whose keys are the fields' names as the .proto spells them, always all of
 * them and in the order there. Numbers are numbers (64 bits, too), enums the name's part after the first "_" in lower
 * case (HOST_IN_USE: "in_use"), an absent message null. Fields of type bytes and oneofs are not for here (-EINVAL).
 * Strings are UTF-8, as protobuf says.
 */
#ifndef LM_RPC_JSON_H
#define LM_RPC_JSON_H

#include "base/buf.h"

#include <protobuf-c/protobuf-c.h>

/* Appends to out, without a line end. On failure (-ENOMEM, -EMSGSIZE, -EINVAL) out has a part of it. */
int lm_rpc_json(const ProtobufCMessage *message, struct lm_buf *out) MUST_CHECK;
/* The same with a line end. */
int lm_rpc_json_line(const ProtobufCMessage *message, struct lm_buf *out) MUST_CHECK;

#endif
