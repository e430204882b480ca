/* What client and server share: messages to and from grpc's byte buffers, the library's start and end, the socket. */
#ifndef LM_RPC_RPC_INTERNAL_H
#define LM_RPC_RPC_INTERNAL_H

#include "rpc/rpc.h"

#include <grpc/grpc.h>

#define LM_RPC_MESSAGE_MAX (16 << 20)
#define LM_RPC_DECODED_MAX (64 << 20)

/* grpc_init() with its log quiet (shown at debug level only); one grpc_shutdown() for each. */
void lm_rpc_library_init(void);

/* grpc's arguments are not const, though it does not write to them. */
static inline grpc_arg lm_rpc_int_arg(const char *key, int value)
{
	return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

/* -EMSGSIZE over LM_RPC_MESSAGE_MAX, -ENOMEM. The caller destroys the buffer. */
int lm_rpc_pack(const ProtobufCMessage *message, grpc_byte_buffer **ret, struct lm_err *err) MUST_CHECK;

/*
 * *ret is freed by protobuf_c_message_free_unpacked(). -EPROTO: does not decode, or has strings that are not UTF-8 or
 * hold a NUL;
 * -EMSGSIZE: too large, before or after decoding; -EOPNOTSUPP: compressed.
 */
int lm_rpc_unpack(grpc_byte_buffer *buffer, const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **ret,
	struct lm_err *err) MUST_CHECK;

/*
 * LISTENING SOCKET. grpc binds a Unix path by itself, but then the umask of the whole process decides who may connect,
 * a live server's socket is taken away, and an old server's end unlinks its successor's. So connections are accepted
 * here, on one thread, and handed over one by one.
 */
struct lm_rpc_listener;
/* accepted() owns the descriptor and is called on the listener's thread. */
int lm_rpc_listen(const char *path, void (*accepted)(void *arg, int fd), void *arg, struct lm_rpc_listener **ret,
	struct lm_err *err) MUST_CHECK;
/* Joins the thread; removes the socket file if it is still ours. */
void lm_rpc_listener_free(struct lm_rpc_listener *listener);
LM_DEFINE_CLEANUP(struct lm_rpc_listener, lm_rpc_listener_free, lm_rpc_listener_freep)

#endif
