#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"
#include "base/work.h"
#include "rpc/rpc_internal.h"

#include <assert.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define CALLS_MAX 512	      /* in the server at once; more are left in their connections */
#define DEFAULT_WORKERS 8     /* of each lane */
#define SHUTDOWN_WAIT_MS 5000 /* for calls that run, before they are cancelled */
#define SEND_WAIT_MS 30000    /* for a stream's reader to take a message */
#define DETAILS_MAX 1024      /* bytes of a status text */

/*
 * A call's way, with the function of each step:
 *
 *   offered    request_next()     a call object waits for grpc to put a call into it
 *   new        on_new()           its method is looked up, its message asked for, its end listened for
 *   read       on_read()          handed to the lane of its method, or handled
 *   handled    handle_call()      decoded; the handler answers now or later: finish()
 *   done       on_done()          the status is on its way (or the peer is gone)
 *   closed     on_closed()        grpc says that nothing more comes, and whether it was cancelled before its end
 *
 * done and closed come in either order; each gives up one of the two references.
 */
struct event {
	void (*fn)(struct lm_rpc_call *call, bool ok);
	struct lm_rpc_call *call;
};

struct lm_rpc_call {
	struct lm_rpc_server *server;
	_Atomic(int) references;
	grpc_call *grpc;
	grpc_call_details details;
	grpc_metadata_array metadata;
	const struct lm_rpc_method *method;
	grpc_byte_buffer *received;
	ProtobufCMessage *request;
	_Atomic(bool) cancelled;
	int grpc_cancelled;
	/* used by whoever answers */
	grpc_byte_buffer *outgoing;
	bool headers_sent;
	/* under lock: a message of a stream being sent */
	struct lm_lock lock;
	struct lm_cond sent;
	bool sending, send_ok;

	struct event new, read, send, done, closed;
};

struct lm_rpc_server {
	/* constant after lm_rpc_server_new() */
	const struct lm_rpc_method *methods;
	size_t method_count;
	void *service;
	grpc_server *grpc;
	grpc_server_credentials *credentials;
	grpc_completion_queue *queue;
	struct lm_rpc_listener *listener;
	struct lm_work *lanes[LM_RPC_LANES];
	pthread_t thread;
	bool started;
	struct event shutdown;
	_Atomic(uint64_t) batches; /* see begin() */
	/* under lock */
	struct lm_lock lock;
	struct lm_cond idle;
	unsigned calls; /* taken in and not yet freed */
	bool offered;	/* a call object waits in grpc */
	bool stopping, shut;
};

static void request_next(struct lm_rpc_server *server);

/*
 * The tag of a batch to be started. grpc orders what was done before a batch before its completion; the counter, read
 * by the queue's thread, says the same to tools that do not see into grpc.
 */
static void *begin(struct lm_rpc_server *server, struct event *event)
{
	atomic_fetch_add_explicit(&server->batches, 1, memory_order_release);
	return event;
}

static void call_free(struct lm_rpc_call *call)
{
	if (call->request)
		protobuf_c_message_free_unpacked(call->request, NULL);
	grpc_byte_buffer_destroy(call->received);
	grpc_byte_buffer_destroy(call->outgoing);
	grpc_metadata_array_destroy(&call->metadata);
	grpc_call_details_destroy(&call->details);
	if (call->grpc)
		grpc_call_unref(call->grpc);
	lm_cond_done(&call->sent);
	lm_lock_done(&call->lock);
	free(call);
}

static void call_unref(struct lm_rpc_call *call)
{
	if (atomic_fetch_sub(&call->references, 1) > 1)
		return;
	struct lm_rpc_server *server = call->server;
	call_free(call);
	lm_lock_take(&server->lock);
	server->calls--;
	lm_cond_signal(&server->idle);
	lm_lock_release(&server->lock);
	request_next(server);
}

/* Answering. */

static void close_call(struct lm_rpc_call *call, grpc_status_code code, const char *details, grpc_byte_buffer *response)
{
	grpc_op ops[3] = {0};
	size_t count = 0;
	if (!call->headers_sent)
		ops[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
	grpc_byte_buffer_destroy(call->outgoing);
	call->outgoing = response;
	if (response) {
		ops[count].op = GRPC_OP_SEND_MESSAGE;
		ops[count++].data.send_message.send_message = response;
	}
	grpc_slice text = grpc_slice_from_copied_string(details);
	ops[count].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
	ops[count].data.send_status_from_server.status = code;
	ops[count++].data.send_status_from_server.status_details = &text;
	grpc_call_error error = grpc_call_start_batch(call->grpc, ops, count, begin(call->server, &call->done), NULL);
	grpc_slice_unref(text);
	assert(error == GRPC_CALL_OK); /* anything else: answered twice */
	(void)error;
}

void lm_rpc_fail(struct lm_rpc_call *call, enum lm_rpc_code code, const char *fmt, ...)
{
	char details[DETAILS_MAX];
	va_list args;
	va_start(args, fmt);
	vsnprintf(details, sizeof(details), fmt, args);
	va_end(args);
	close_call(call, (grpc_status_code)code, details, NULL);
}

void lm_rpc_reply(struct lm_rpc_call *call, const ProtobufCMessage *response)
{
	struct lm_err err = LM_ERR_INIT;
	grpc_byte_buffer *buffer = NULL;
	if (lm_rpc_pack(response, &buffer, &err) < 0)
		lm_rpc_fail(call, LM_RPC_RESOURCE_EXHAUSTED, "%s", lm_err_text(&err));
	else
		close_call(call, GRPC_STATUS_OK, "", buffer);
}

void lm_rpc_finish(struct lm_rpc_call *call)
{
	close_call(call, GRPC_STATUS_OK, "", NULL);
}

int lm_rpc_send(struct lm_rpc_call *call, const ProtobufCMessage *message)
{
	grpc_byte_buffer *buffer = NULL;
	int r = lm_rpc_pack(message, &buffer, NULL);
	if (r < 0)
		return r;
	grpc_op ops[2] = {0};
	size_t count = 0;
	if (!call->headers_sent)
		ops[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
	call->headers_sent = true;
	ops[count].op = GRPC_OP_SEND_MESSAGE;
	ops[count++].data.send_message.send_message = buffer;
	grpc_byte_buffer_destroy(call->outgoing);
	call->outgoing = buffer;

	lm_lock_take(&call->lock);
	call->sending = true;
	lm_lock_release(&call->lock);
	grpc_call_error error = grpc_call_start_batch(call->grpc, ops, count, begin(call->server, &call->send), NULL);
	assert(error == GRPC_CALL_OK);
	(void)error;
	LM_LOCKED(&call->lock);
	int64_t until_ms = lm_now_ms() + SEND_WAIT_MS;
	while (call->sending && lm_now_ms() < until_ms)
		(void)lm_cond_wait_ms(&call->sent, &call->lock, until_ms - lm_now_ms());
	if (call->sending)
		grpc_call_cancel(call->grpc, NULL);
	while (call->sending)
		lm_cond_wait(&call->sent, &call->lock);
	return call->send_ok && !atomic_load(&call->cancelled) ? 0 : -EPIPE;
}

static void on_sent(struct lm_rpc_call *call, bool ok)
{
	LM_LOCKED(&call->lock);
	call->sending = false;
	call->send_ok = ok;
	lm_cond_signal(&call->sent);
}

static void on_done(struct lm_rpc_call *call, bool ok)
{
	call_unref(call);
}

static void on_closed(struct lm_rpc_call *call, bool ok)
{
	atomic_store(&call->cancelled, call->grpc_cancelled != 0);
	call_unref(call);
}

/* Reading. */

static void handle_call(void *arg)
{
	struct lm_rpc_call *call = arg;
	struct lm_err err = LM_ERR_INIT;
	int r = lm_rpc_unpack(call->received, call->method->request, &call->request, &err);
	grpc_byte_buffer_destroy(STEAL(call->received));
	if (r == 0)
		call->method->handle(call, call->server->service);
	else if (r == -EOPNOTSUPP)
		lm_rpc_fail(call, LM_RPC_UNIMPLEMENTED, "%s", lm_err_text(&err));
	else if (r == -EPROTO)
		lm_rpc_fail(call, LM_RPC_INVALID_ARGUMENT, "%s", lm_err_text(&err));
	else
		lm_rpc_fail(call, LM_RPC_RESOURCE_EXHAUSTED, "%s", lm_err_text(&err));
}

static void on_read(struct lm_rpc_call *call, bool ok)
{
	if (!ok || !call->received)
		lm_rpc_fail(call, LM_RPC_INVALID_ARGUMENT, "no message came with the call");
	else if (call->method->lane == LM_RPC_AT_ONCE)
		handle_call(call);
	else if (lm_work_post(call->server->lanes[call->method->lane], handle_call, call) < 0)
		lm_rpc_fail(call, LM_RPC_RESOURCE_EXHAUSTED, "out of memory");
}

static const struct lm_rpc_method *find_method(const struct lm_rpc_server *server, grpc_slice path)
{
	for (size_t i = 0; i < server->method_count; i++)
		if (grpc_slice_str_cmp(path, server->methods[i].path) == 0)
			return &server->methods[i];
	return NULL;
}

static void on_new(struct lm_rpc_call *call, bool ok)
{
	struct lm_rpc_server *server = call->server;
	lm_lock_take(&server->lock);
	server->offered = false;
	if (ok)
		server->calls++;
	lm_cond_signal(&server->idle);
	lm_lock_release(&server->lock);
	if (!ok) { /* the server is being shut down */
		call_free(call);
		return;
	}
	request_next(server);
	grpc_op closed = {
		.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &call->grpc_cancelled};
	grpc_call_error error = grpc_call_start_batch(call->grpc, &closed, 1, begin(call->server, &call->closed), NULL);
	assert(error == GRPC_CALL_OK);
	call->method = find_method(server, call->details.method);
	if (!call->method) {
		lm_rpc_fail(call, LM_RPC_UNIMPLEMENTED, "no such method");
		return;
	}
	grpc_op read = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->received};
	error = grpc_call_start_batch(call->grpc, &read, 1, begin(call->server, &call->read), NULL);
	assert(error == GRPC_CALL_OK);
	(void)error;
}

static struct lm_rpc_call *call_new(struct lm_rpc_server *server)
{
	struct lm_rpc_call *call = calloc(1, sizeof(*call));
	if (!call)
		return NULL;
	call->server = server;
	atomic_init(&call->references, 2);
	grpc_call_details_init(&call->details);
	grpc_metadata_array_init(&call->metadata);
	lm_lock_init(&call->lock);
	lm_cond_init(&call->sent);
	call->new = (struct event){.fn = on_new, .call = call};
	call->read = (struct event){.fn = on_read, .call = call};
	call->send = (struct event){.fn = on_sent, .call = call};
	call->done = (struct event){.fn = on_done, .call = call};
	call->closed = (struct event){.fn = on_closed, .call = call};
	return call;
}

/* Offers grpc the place for one more call, unless there is one, or as many run as may. */
static void request_next(struct lm_rpc_server *server)
{
	LM_LOCKED(&server->lock);
	if (server->offered || server->stopping || server->calls >= CALLS_MAX)
		return;
	/* Without memory now, the end of any call in the server tries again. */
	struct lm_rpc_call *call = call_new(server);
	if (!call)
		return;
	grpc_call_error error = grpc_server_request_call(server->grpc, &call->grpc, &call->details, &call->metadata,
		server->queue, server->queue, begin(call->server, &call->new));
	assert(error == GRPC_CALL_OK);
	(void)error;
	server->offered = true;
}

/* What a handler may ask about its call. */

const ProtobufCMessage *lm_rpc_request(const struct lm_rpc_call *call)
{
	return call->request;
}

bool lm_rpc_cancelled(struct lm_rpc_call *call)
{
	return atomic_load(&call->cancelled);
}

char *lm_rpc_header(const struct lm_rpc_call *call, const char *name)
{
	for (size_t i = 0; i < call->metadata.count; i++) {
		const grpc_metadata *header = &call->metadata.metadata[i];
		if (grpc_slice_str_cmp(header->key, name) == 0)
			return lm_str_ndup(
				(const char *)GRPC_SLICE_START_PTR(header->value), GRPC_SLICE_LENGTH(header->value));
	}
	return NULL;
}

unsigned lm_rpc_time_left_ms(const struct lm_rpc_call *call)
{
	gpr_timespec deadline = gpr_convert_clock_type(call->details.deadline, GPR_CLOCK_MONOTONIC);
	if (gpr_time_cmp(deadline, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0)
		return UINT_MAX;
	int32_t left = gpr_time_to_millis(gpr_time_sub(deadline, gpr_now(GPR_CLOCK_MONOTONIC)));
	return left > 0 ? (unsigned)left : 0;
}

/* The server itself. */

static void *queue_thread(void *arg)
{
	struct lm_rpc_server *server = arg;
	pthread_setname_np(pthread_self(), "rpc-queue");
	for (;;) {
		grpc_event event = grpc_completion_queue_next(server->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
		if (event.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		struct event *step = event.tag;
		(void)atomic_load_explicit(&server->batches, memory_order_acquire);
		if (step == &server->shutdown) {
			LM_LOCKED(&server->lock);
			server->shut = true;
			lm_cond_signal(&server->idle);
		} else {
			step->fn(step->call, event.success != 0);
		}
	}
}

static void on_accepted(void *arg, int fd)
{
	struct lm_rpc_server *server = arg;
	grpc_server_add_channel_from_fd(server->grpc, fd, server->credentials);
}

static void make_grpc_server(struct lm_rpc_server *server)
{
	grpc_arg args[] = {
		lm_rpc_int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, LM_RPC_MESSAGE_MAX),
		lm_rpc_int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, LM_RPC_MESSAGE_MAX),
		lm_rpc_int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, CALLS_MAX),
		/* A local client may ping as it likes: cutting it off for that would only cost its calls. */
		lm_rpc_int_arg(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0),
		/* Inflating has no limit of its own in grpc; nobody compresses on a Unix socket. */
		lm_rpc_int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
	};
	grpc_channel_args channel_args = {ARRAY_LEN(args), args};
	server->grpc = grpc_server_create(&channel_args, NULL);
	server->credentials = grpc_insecure_server_credentials_create();
	server->queue = grpc_completion_queue_create_for_next(NULL);
	grpc_server_register_completion_queue(server->grpc, server->queue, NULL);
}

static int start_lanes(struct lm_rpc_server *server, unsigned workers, struct lm_err *err)
{
	for (size_t i = 0; i < server->method_count; i++) {
		unsigned lane = server->methods[i].lane;
		assert(lane <= LM_RPC_AT_ONCE);
		if (lane == LM_RPC_AT_ONCE || server->lanes[lane])
			continue;
		char name[12];
		snprintf(name, sizeof(name), "rpc-lane%u", lane);
		int r = lm_work_new(name, workers ? workers : DEFAULT_WORKERS, CALLS_MAX, &server->lanes[lane], err);
		if (r < 0)
			return r;
	}
	return 0;
}

int lm_rpc_server_new(const char *socket_path, const struct lm_rpc_method *methods, size_t count, void *service,
	unsigned workers, struct lm_rpc_server **ret, struct lm_err *err)
{
	CLEANUP(lm_rpc_server_freep) struct lm_rpc_server *server = calloc(1, sizeof(*server));
	if (!server)
		return lm_err_oom(err);
	lm_rpc_library_init();
	lm_lock_init(&server->lock);
	lm_cond_init(&server->idle);
	server->methods = methods;
	server->method_count = count;
	server->service = service;
	int r = start_lanes(server, workers, err);
	if (r < 0)
		return r;
	make_grpc_server(server);
	r = -pthread_create(&server->thread, NULL, queue_thread, server);
	if (r < 0)
		return lm_err_sys(err, r, "start the queue's thread");
	server->started = true;
	grpc_server_start(server->grpc);
	request_next(server);
	r = lm_rpc_listen(socket_path, on_accepted, server, &server->listener, err);
	if (r < 0)
		return r;
	*ret = STEAL(server);
	return 0;
}

static bool wait_idle(struct lm_rpc_server *server, int64_t until_ms)
{
	LM_LOCKED(&server->lock);
	while (server->calls > 0 || server->offered || !server->shut) {
		int64_t left = until_ms - lm_now_ms();
		if (left <= 0)
			return false;
		(void)lm_cond_wait_ms(&server->idle, &server->lock, LM_MIN(left, SHUTDOWN_WAIT_MS));
	}
	return true;
}

/* grpc ends the connections when their calls are over; handlers end in their own time, but hear of the cancellation. */
static void drain(struct lm_rpc_server *server)
{
	lm_lock_take(&server->lock);
	server->stopping = true;
	lm_lock_release(&server->lock);
	grpc_server_shutdown_and_notify(server->grpc, server->queue, begin(server, &server->shutdown));
	if (wait_idle(server, lm_now_ms() + SHUTDOWN_WAIT_MS))
		return;
	grpc_server_cancel_all_calls(server->grpc);
	(void)wait_idle(server, INT64_MAX);
}

void lm_rpc_server_free(struct lm_rpc_server *server)
{
	if (!server)
		return;
	lm_rpc_listener_free(server->listener);
	if (server->started)
		drain(server);
	for (unsigned i = 0; i < LM_RPC_LANES; i++)
		lm_work_free(server->lanes[i]);
	if (server->grpc) {
		grpc_completion_queue_shutdown(server->queue);
		if (server->started)
			pthread_join(server->thread, NULL);
		grpc_server_destroy(server->grpc);
		grpc_completion_queue_destroy(server->queue);
		grpc_server_credentials_release(server->credentials);
	}
	lm_cond_done(&server->idle);
	lm_lock_done(&server->lock);
	free(server);
	grpc_shutdown();
}
