/*
 * gRPC over Unix sockets with protobuf-c messages: a server and a client around grpc core's completion queues.
 *
 * SERVER. Methods are a table; each call is read on a queue thread, then decoded and handled on one of the worker
 * threads of the method's lane, several at once; a slow handler holds up nothing but its worker, and a lane full of
 * slow handlers holds up no other lane. A handler answers its call exactly once, by lm_rpc_reply(), lm_rpc_fail() or
 * (streams) lm_rpc_send()... + lm_rpc_finish(), before it returns or later from any thread. Calls whose peer went away
 * are answered into the void, without an error.
 *
 * Refused before a handler sees it: an unknown method (UNIMPLEMENTED), a message over 16 MiB or one that takes more
 * than 64 MiB decoded (RESOURCE_EXHAUSTED), a compressed one (UNIMPLEMENTED), one that does not decode or whose strings
 * are not UTF-8 or hold a NUL, which would cut them (INVALID_ARGUMENT). At most 512 calls are in the server at once;
 * more wait in their connections.
 */
#ifndef LM_RPC_RPC_H
#define LM_RPC_RPC_H

#include "base/err.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

enum lm_rpc_code { /* gRPC status codes in use */
	LM_RPC_OK = 0,
	LM_RPC_CANCELLED = 1,
	LM_RPC_UNKNOWN = 2,
	LM_RPC_INVALID_ARGUMENT = 3,
	LM_RPC_DEADLINE_EXCEEDED = 4,
	LM_RPC_NOT_FOUND = 5,
	LM_RPC_ALREADY_EXISTS = 6,
	LM_RPC_RESOURCE_EXHAUSTED = 8,
	LM_RPC_FAILED_PRECONDITION = 9,
	LM_RPC_UNIMPLEMENTED = 12,
	LM_RPC_INTERNAL = 13,
	LM_RPC_UNAVAILABLE = 14,
};

struct lm_rpc_server;
struct lm_rpc_call;

#define LM_RPC_LANES 3
/*
 * Instead of a lane: handled by the thread that read it, which saves waking another one, a third of a short call. Only
 * for handlers that wait for nothing, neither disk nor network nor a lock that is held during either, and do not send
 * streams.
 */
#define LM_RPC_AT_ONCE LM_RPC_LANES

struct lm_rpc_method {
	const char *path; /* "/package.Service/Method" */
	const ProtobufCMessageDescriptor *request;
	void (*handle)(struct lm_rpc_call *call, void *service);
	unsigned lane; /* below LM_RPC_LANES: methods that may wait for something stay apart from those that never do;
			  or LM_RPC_AT_ONCE */
};

/* Listens on a Unix socket (a stale one is replaced, one somebody answers on is -EADDRINUSE; mode 0600). methods and
 * service must outlive the server. workers: threads of each lane in use; 0 stands for 8. */
int lm_rpc_server_new(const char *socket_path, const struct lm_rpc_method *methods, size_t count, void *service,
	unsigned workers, struct lm_rpc_server **ret, struct lm_err *err) MUST_CHECK;
/* No new calls, waits for those that run (bounded by 5 s, then cancels them), joins. Removes the socket file. */
void lm_rpc_server_free(struct lm_rpc_server *server);
LM_DEFINE_CLEANUP(struct lm_rpc_server, lm_rpc_server_free, lm_rpc_server_freep)

const ProtobufCMessage *lm_rpc_request(const struct lm_rpc_call *call); /* decoded; owned by the call */
bool lm_rpc_cancelled(struct lm_rpc_call *call);	      /* the caller went away or its deadline passed */
unsigned lm_rpc_time_left_ms(const struct lm_rpc_call *call); /* to the caller's deadline; UINT_MAX without one */
/* The first header of the name (in lower case) that came with the call, or NULL; the caller frees. */
char *lm_rpc_header(const struct lm_rpc_call *call, const char *name);

/* Each of these ends the call; the call must not be touched afterwards. */
void lm_rpc_reply(struct lm_rpc_call *call, const ProtobufCMessage *response);
void lm_rpc_fail(struct lm_rpc_call *call, enum lm_rpc_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* One message of a server stream; waits until it is on its way. -EPIPE: the caller is gone, or has not read for 30 s
 * (still finish the call); -ENOMEM, -EMSGSIZE. */
int lm_rpc_send(struct lm_rpc_call *call, const ProtobufCMessage *message) MUST_CHECK;
void lm_rpc_finish(struct lm_rpc_call *call);

/* CLIENT. Any number of threads may call at once. Connects lazily and again after a loss. */
struct lm_rpc_client;
int lm_rpc_client_new(const char *socket_path, struct lm_rpc_client **ret, struct lm_err *err) MUST_CHECK;
void lm_rpc_client_free(struct lm_rpc_client *client);
LM_DEFINE_CLEANUP(struct lm_rpc_client, lm_rpc_client_free, lm_rpc_client_freep)

/* Sent with every call from now on (request metadata, "containerd-namespace" and the like); an earlier value of that
 * key is replaced. While no call is under way. -EINVAL: grpc takes neither such a key (lower case, no "grpc-" at the
 * beginning, no "-bin" at the end) nor such a value (printable ASCII); -E2BIG: more than LM_RPC_HEADERS_MAX. */
#define LM_RPC_HEADERS_MAX 8
int lm_rpc_client_set_header(
	struct lm_rpc_client *client, const char *key, const char *value, struct lm_err *err) MUST_CHECK;

/* Blocking unary call. *ret is freed by protobuf_c_message_free_unpacked(). Returns 0; else negative: ret_code (may be
 * NULL) has the status, err the server's words. -ENOENT NOT_FOUND, -EEXIST ALREADY_EXISTS, -EINVAL, -ETIMEDOUT, -EAGAIN
 * UNAVAILABLE, -ENOSYS, -EBUSY FAILED_PRECONDITION, -EPROTO others. wait_ready: wait (within the time-out) for a server
 * that is not there yet. */
int lm_rpc_invoke(struct lm_rpc_client *client, const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, unsigned timeout_ms, bool wait_ready, ProtobufCMessage **ret,
	enum lm_rpc_code *ret_code, struct lm_err *err) MUST_CHECK;
/* The same for server streams: each message goes to fn, which owns it. A negative result of fn ends the call. */
int lm_rpc_invoke_stream(struct lm_rpc_client *client, const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, unsigned timeout_ms,
	int (*fn)(void *arg, ProtobufCMessage *message), void *arg, enum lm_rpc_code *ret_code,
	struct lm_err *err) MUST_CHECK;

/* A stream both ways, with one answer to each request. One thread; the client and the path outlive it. */
struct lm_rpc_stream;
int lm_rpc_stream_new(struct lm_rpc_client *client, const char *path, const ProtobufCMessageDescriptor *response,
	struct lm_rpc_stream **ret, struct lm_err *err) MUST_CHECK;
/* Results as of lm_rpc_invoke(); after a failure the stream can only be freed. */
int lm_rpc_stream_ask(struct lm_rpc_stream *stream, const ProtobufCMessage *request, unsigned timeout_ms,
	ProtobufCMessage **ret, enum lm_rpc_code *ret_code, struct lm_err *err) MUST_CHECK;
void lm_rpc_stream_free(struct lm_rpc_stream *stream); /* cancels it where it has not ended */
LM_DEFINE_CLEANUP(struct lm_rpc_stream, lm_rpc_stream_free, lm_rpc_stream_freep)

#endif
