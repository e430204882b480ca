#include "base/str.h"
#include "rpc/rpc_internal.h"

#include <grpc/grpc_security.h>
#include <string.h>

struct lm_rpc_client {
	grpc_channel *channel;
	grpc_metadata headers[LM_RPC_HEADERS_MAX];
	size_t header_count;
};

int lm_rpc_client_new(const char *socket_path, struct lm_rpc_client **ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *target = lm_str_printf("unix:%s", socket_path);
	CLEANUP(lm_freep) struct lm_rpc_client *client = calloc(1, sizeof(*client));
	if (!client || !target)
		return lm_err_oom(err);
	/* A server on the same machine: look for it often, and let no other client's back-off or proxy decide. */
	grpc_arg args[] = {
		{.type = GRPC_ARG_STRING,
			.key = (char *)GRPC_ARG_DEFAULT_AUTHORITY,
			.value.string = (char *)"localhost"},
		lm_rpc_int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, LM_RPC_MESSAGE_MAX),
		lm_rpc_int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, LM_RPC_MESSAGE_MAX),
		lm_rpc_int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100),
		/* In grpc 1.51 no pause, but the time an attempt to connect may take. */
		lm_rpc_int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000),
		lm_rpc_int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500),
		lm_rpc_int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
		lm_rpc_int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
		lm_rpc_int_arg(GRPC_ARG_ENABLE_RETRIES, 0),
		lm_rpc_int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
		lm_rpc_int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
	};
	grpc_channel_args channel_args = {ARRAY_LEN(args), args};
	lm_rpc_library_init();
	grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
	client->channel = grpc_channel_create(target, credentials, &channel_args);
	grpc_channel_credentials_release(credentials);
	*ret = STEAL(client);
	return 0;
}

void lm_rpc_client_free(struct lm_rpc_client *client)
{
	if (!client)
		return;
	for (size_t i = 0; i < client->header_count; i++) {
		grpc_slice_unref(client->headers[i].key);
		grpc_slice_unref(client->headers[i].value);
	}
	grpc_channel_destroy(client->channel);
	grpc_shutdown();
	free(client);
}

int lm_rpc_client_set_header(struct lm_rpc_client *client, const char *key, const char *value, struct lm_err *err)
{
	const grpc_metadata header = {grpc_slice_from_copied_string(key), grpc_slice_from_copied_string(value)};
	size_t i = 0;
	while (i < client->header_count && !grpc_slice_eq(client->headers[i].key, header.key))
		i++;
	int r = lm_str_starts(key, "grpc-") || grpc_is_binary_header(header.key) ||
				!grpc_header_key_is_legal(header.key) ||
				!grpc_header_nonbin_value_is_legal(header.value)
			? lm_err_set(err, -EINVAL, "a header of that name and value can't be sent: %s", key)
		: i == LM_RPC_HEADERS_MAX ? lm_err_set(err, -E2BIG, "more than %d headers", LM_RPC_HEADERS_MAX)
					  : 0;
	const grpc_metadata unused = r < 0 ? header : client->headers[i];
	const bool replaced = i < client->header_count;
	if (r == 0) {
		client->headers[i] = header;
		client->header_count += !replaced;
	}
	if (r < 0 || replaced) {
		grpc_slice_unref(unused.key);
		grpc_slice_unref(unused.value);
	}
	return r;
}

static int errno_of(grpc_status_code code)
{
	switch (code) {
	case GRPC_STATUS_OK:
		return 0;
	case GRPC_STATUS_NOT_FOUND:
		return -ENOENT;
	case GRPC_STATUS_ALREADY_EXISTS:
		return -EEXIST;
	case GRPC_STATUS_INVALID_ARGUMENT:
		return -EINVAL;
	case GRPC_STATUS_DEADLINE_EXCEEDED:
		return -ETIMEDOUT;
	case GRPC_STATUS_UNAVAILABLE:
		return -EAGAIN;
	case GRPC_STATUS_UNIMPLEMENTED:
		return -ENOSYS;
	case GRPC_STATUS_FAILED_PRECONDITION:
		return -EBUSY;
	default:
		return -EPROTO;
	}
}

/* One call on the wire, with a completion queue of its own: the calling thread does the waiting. */
struct exchange {
	grpc_completion_queue *queue;
	grpc_call *call;
	grpc_byte_buffer *request, *response;
	grpc_metadata_array headers, trailers;
	grpc_status_code status;
	grpc_slice details;
};

static void exchange_done(struct exchange *x)
{
	if (x->call)
		grpc_call_unref(x->call);
	grpc_completion_queue_shutdown(x->queue);
	grpc_completion_queue_destroy(x->queue);
	grpc_byte_buffer_destroy(x->request);
	grpc_byte_buffer_destroy(x->response);
	grpc_metadata_array_destroy(&x->headers);
	grpc_metadata_array_destroy(&x->trailers);
	grpc_slice_unref(x->details);
}

static gpr_timespec after_ms(unsigned timeout_ms)
{
	return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
}

static void exchange_open(struct exchange *x, struct lm_rpc_client *client, const char *path, gpr_timespec deadline)
{
	*x = (struct exchange){.status = GRPC_STATUS_UNKNOWN, .details = grpc_empty_slice()};
	grpc_metadata_array_init(&x->headers);
	grpc_metadata_array_init(&x->trailers);
	x->queue = grpc_completion_queue_create_for_pluck(NULL);
	grpc_slice method = grpc_slice_from_copied_string(path);
	x->call = grpc_channel_create_call(
		client->channel, NULL, GRPC_PROPAGATE_DEFAULTS, x->queue, method, NULL, deadline, NULL);
	grpc_slice_unref(method);
}

static int exchange_init(struct exchange *x, struct lm_rpc_client *client, const char *path,
	const ProtobufCMessage *request, unsigned timeout_ms, struct lm_err *err)
{
	exchange_open(x, client, path, after_ms(timeout_ms));
	return lm_rpc_pack(request, &x->request, err);
}

/* The op that begins a call. */
static grpc_op send_headers(struct lm_rpc_client *client, bool wait_ready)
{
	return (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA,
		.flags = wait_ready ? GRPC_INITIAL_METADATA_WAIT_FOR_READY : 0,
		.data.send_initial_metadata = {.count = client->header_count, .metadata = client->headers}};
}

/* And the one that ends it. */
static grpc_op receive_status(struct exchange *x)
{
	return (grpc_op){.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
		.data.recv_status_on_client = {
			.trailing_metadata = &x->trailers, .status = &x->status, .status_details = &x->details}};
}

/* Until the server's own status is known, whatever goes wrong went wrong here. */
static void presume_internal(enum lm_rpc_code *ret_code)
{
	if (ret_code)
		*ret_code = LM_RPC_INTERNAL;
}

/* True when the batch went well; a false one is explained by the status. */
static bool wait_for(struct exchange *x, void *tag)
{
	return grpc_completion_queue_pluck(x->queue, tag, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).success;
}

static int start(struct exchange *x, const grpc_op *ops, size_t count, void *tag, struct lm_err *err)
{
	grpc_call_error error = grpc_call_start_batch(x->call, ops, count, tag, NULL);
	return error == GRPC_CALL_OK
		       ? 0
		       : lm_err_set(err, -EPROTO, "call not started: %s", grpc_call_error_to_string(error));
}

static int exchange_result(const struct exchange *x, const char *path, enum lm_rpc_code *ret_code, struct lm_err *err)
{
	if (ret_code)
		*ret_code = (enum lm_rpc_code)x->status;
	if (x->status == GRPC_STATUS_OK)
		return 0;
	int len = (int)LM_MIN(GRPC_SLICE_LENGTH(x->details), (size_t)LM_ERR_MAX);
	return lm_err_set(err, errno_of(x->status), "%s: %.*s (status %d)", path, len,
		(const char *)GRPC_SLICE_START_PTR(x->details), (int)x->status);
}

static int unpack_response(struct exchange *x, const char *path, const ProtobufCMessageDescriptor *response,
	ProtobufCMessage **ret, enum lm_rpc_code *ret_code, struct lm_err *err)
{
	if (!x->response)
		return lm_err_set(err, -EPROTO, "%s: answered without a message", path);
	int r = lm_rpc_unpack(x->response, response, ret, err);
	if (r == 0)
		return 0;
	presume_internal(ret_code);
	return lm_err_prefix(err, -EPROTO, "%s", path);
}

int lm_rpc_invoke(struct lm_rpc_client *client, const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, unsigned timeout_ms, bool wait_ready, ProtobufCMessage **ret,
	enum lm_rpc_code *ret_code, struct lm_err *err)
{
	presume_internal(ret_code);
	CLEANUP(exchange_done) struct exchange x;
	int r = exchange_init(&x, client, path, request, timeout_ms, err);
	if (r < 0)
		return r;
	grpc_op ops[] = {
		send_headers(client, wait_ready),
		{.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = x.request},
		{.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
		{.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &x.headers},
		{.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &x.response},
		receive_status(&x),
	};
	r = start(&x, ops, ARRAY_LEN(ops), &x, err);
	if (r < 0)
		return r;
	(void)wait_for(&x, &x);
	r = exchange_result(&x, path, ret_code, err);
	return r < 0 ? r : unpack_response(&x, path, response, ret, ret_code, err);
}

/* Receives until the stream ends: 0, or the first failure of decoding or fn. */
static int receive_all(struct exchange *x, const char *path, const ProtobufCMessageDescriptor *response,
	int (*fn)(void *arg, ProtobufCMessage *message), void *arg, enum lm_rpc_code *ret_code, struct lm_err *err)
{
	for (;;) {
		grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &x->response};
		int r = start(x, &op, 1, &x->response, err);
		if (r < 0)
			return r;
		if (!wait_for(x, &x->response) || !x->response)
			return 0;
		ProtobufCMessage *message = NULL;
		r = unpack_response(x, path, response, &message, ret_code, err);
		if (r < 0)
			return r;
		grpc_byte_buffer_destroy(STEAL(x->response));
		r = fn(arg, message);
		if (r < 0)
			return lm_err_set(err, r, "%s: stopped by its caller", path);
	}
}

int lm_rpc_invoke_stream(struct lm_rpc_client *client, const char *path, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, unsigned timeout_ms,
	int (*fn)(void *arg, ProtobufCMessage *message), void *arg, enum lm_rpc_code *ret_code, struct lm_err *err)
{
	presume_internal(ret_code);
	CLEANUP(exchange_done) struct exchange x;
	int r = exchange_init(&x, client, path, request, timeout_ms, err);
	if (r < 0)
		return r;
	/* The status is asked for apart: its batch ends when the call does, whatever became of the others. */
	grpc_op status = receive_status(&x);
	grpc_op opening[] = {
		send_headers(client, false),
		{.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = x.request},
		{.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
		{.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &x.headers},
	};
	r = start(&x, &status, 1, &x.status, err);
	if (r < 0)
		return r;
	int failed = start(&x, opening, ARRAY_LEN(opening), &x.request, err);
	if (failed == 0) {
		(void)wait_for(&x, &x.request);
		failed = receive_all(&x, path, response, fn, arg, ret_code, err);
	}
	if (failed < 0)
		grpc_call_cancel(x.call, NULL);
	(void)wait_for(&x, &x.status);
	return failed < 0 ? failed : exchange_result(&x, path, ret_code, err);
}

/* --- streams both ways --- */

struct lm_rpc_stream {
	struct lm_rpc_client *client;
	const char *path;
	const ProtobufCMessageDescriptor *response;
	struct exchange x;
	bool begun; /* the batch for the status is under way */
	bool ended; /* and came back */
};

int lm_rpc_stream_new(struct lm_rpc_client *client, const char *path, const ProtobufCMessageDescriptor *response,
	struct lm_rpc_stream **ret, struct lm_err *err)
{
	struct lm_rpc_stream *stream = calloc(1, sizeof(*stream));
	if (!stream)
		return lm_err_oom(err);
	stream->client = client;
	stream->path = path;
	stream->response = response;
	/* Each answer has a time of its own: the whole may take as long as it goes on. */
	exchange_open(&stream->x, client, path, gpr_inf_future(GPR_CLOCK_MONOTONIC));
	*ret = stream;
	return 0;
}

static void stream_end(struct lm_rpc_stream *stream)
{
	if (stream->begun && !stream->ended)
		(void)wait_for(&stream->x, &stream->x.status);
	stream->ended = true;
}

void lm_rpc_stream_free(struct lm_rpc_stream *stream)
{
	if (!stream)
		return;
	grpc_call_cancel(stream->x.call, NULL);
	stream_end(stream);
	exchange_done(&stream->x);
	free(stream);
}

/* The first time with what begins the call. */
static int stream_start(struct lm_rpc_stream *stream, struct lm_err *err)
{
	struct exchange *x = &stream->x;
	grpc_op status = receive_status(x);
	grpc_op ops[] = {
		{.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = x->request},
		{.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &x->response},
		send_headers(stream->client, false),
		{.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &x->headers},
	};
	if (stream->begun)
		return start(x, ops, 2, &x->request, err);
	int r = start(x, &status, 1, &x->status, err);
	stream->begun = r == 0;
	return r < 0 ? r : start(x, ops, ARRAY_LEN(ops), &x->request, err);
}

int lm_rpc_stream_ask(struct lm_rpc_stream *stream, const ProtobufCMessage *request, unsigned timeout_ms,
	ProtobufCMessage **ret, enum lm_rpc_code *ret_code, struct lm_err *err)
{
	struct exchange *x = &stream->x;
	presume_internal(ret_code);
	grpc_byte_buffer_destroy(STEAL(x->request));
	grpc_byte_buffer_destroy(STEAL(x->response));
	int r = lm_rpc_pack(request, &x->request, err);
	if (r == 0)
		r = stream_start(stream, err);
	if (r < 0)
		return r;
	bool late = grpc_completion_queue_pluck(x->queue, &x->request, after_ms(timeout_ms), NULL).type ==
		    GRPC_QUEUE_TIMEOUT;
	if (late) {
		grpc_call_cancel(x->call, NULL);
		(void)wait_for(x, &x->request);
	}
	if (!late && x->response)
		return unpack_response(x, stream->path, stream->response, ret, ret_code, err);
	stream_end(stream);
	if (late)
		x->status = GRPC_STATUS_DEADLINE_EXCEEDED;
	r = exchange_result(x, stream->path, ret_code, err);
	return r < 0 ? r : lm_err_set(err, -EPROTO, "%s: ended without an answer", stream->path);
}
