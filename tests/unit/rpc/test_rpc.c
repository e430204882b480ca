/* Our client against our server, over real sockets: every kind of answer, and what happens when a side goes away. */
#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "rpc/rpc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

/* message Note { string text = 1; bytes data = 2; uint32 count = 3; repeated string list = 4; } */
struct note {
	ProtobufCMessage base;
	char *text;
	ProtobufCBinaryData data;
	uint32_t count;
	size_t n_list;
	char **list;
};

static const ProtobufCFieldDescriptor note_fields[] = {
	{"text", 1, PROTOBUF_C_LABEL_NONE, PROTOBUF_C_TYPE_STRING, 0, offsetof(struct note, text), NULL,
		&protobuf_c_empty_string, 0, 0, NULL, NULL},
	{"data", 2, PROTOBUF_C_LABEL_NONE, PROTOBUF_C_TYPE_BYTES, 0, offsetof(struct note, data), NULL, NULL, 0, 0,
		NULL, NULL},
	{"count", 3, PROTOBUF_C_LABEL_NONE, PROTOBUF_C_TYPE_UINT32, 0, offsetof(struct note, count), NULL, NULL, 0, 0,
		NULL, NULL},
	{"list", 4, PROTOBUF_C_LABEL_REPEATED, PROTOBUF_C_TYPE_STRING, offsetof(struct note, n_list),
		offsetof(struct note, list), NULL, NULL, 0, 0, NULL, NULL},
};
static const unsigned note_by_name[] = {2, 1, 3, 0};
static const ProtobufCIntRange note_ranges[] = {{1, 0}, {0, 4}};
static void note_init(ProtobufCMessage *message);
static const ProtobufCMessageDescriptor note_descriptor = {PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC, "test.Note", "Note",
	"Note", "test", sizeof(struct note), ARRAY_LEN(note_fields), note_fields, note_by_name, 1, note_ranges,
	note_init, NULL, NULL, NULL};

#define NOTE                                                                                 \
	{                                                                                    \
		.base = {&note_descriptor, 0, NULL}, .text = (char *)protobuf_c_empty_string \
	}

static void note_init(ProtobufCMessage *message)
{
	*(struct note *)message = (struct note)NOTE;
}

/* The service under test. */

struct gate {
	struct lm_lock lock;
	struct lm_cond changed;
	bool open;
	unsigned waiting;
	_Atomic(unsigned) saw_cancel;
	_Atomic(unsigned) sent;
};

static void echo(struct lm_rpc_call *call, void *service)
{
	lm_rpc_reply(call, lm_rpc_request(call));
}

static void fail_with(struct lm_rpc_call *call, void *service)
{
	const struct note *note = (const struct note *)lm_rpc_request(call);
	lm_rpc_fail(call, (enum lm_rpc_code)note->count, "because %s", note->text);
}

static void wait_gate(struct lm_rpc_call *call, void *service)
{
	struct gate *gate = service;
	lm_lock_take(&gate->lock);
	gate->waiting++;
	lm_cond_broadcast(&gate->changed);
	while (!gate->open && !lm_rpc_cancelled(call))
		(void)lm_cond_wait_ms(&gate->changed, &gate->lock, 10);
	gate->waiting--;
	lm_lock_release(&gate->lock);
	if (lm_rpc_cancelled(call))
		atomic_fetch_add(&gate->saw_cancel, 1);
	lm_rpc_reply(call, lm_rpc_request(call));
}

static void count_up(struct lm_rpc_call *call, void *service)
{
	struct gate *gate = service;
	const struct note *note = (const struct note *)lm_rpc_request(call);
	for (uint32_t i = 0; i < note->count; i++) {
		struct note answer = NOTE;
		answer.count = i;
		answer.data = note->data;
		if (lm_rpc_send(call, &answer.base) < 0) {
			atomic_fetch_add(&gate->saw_cancel, 1);
			break;
		}
		atomic_fetch_add(&gate->sent, 1);
	}
	if (note->text[0])
		lm_rpc_fail(call, LM_RPC_NOT_FOUND, "%s", note->text);
	else
		lm_rpc_finish(call);
}

static void *reply_later(void *arg)
{
	struct note answer = NOTE;
	answer.text = (char *)"later";
	lm_rpc_reply(arg, &answer.base);
	return NULL;
}

static void defer(struct lm_rpc_call *call, void *service)
{
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, reply_later, call), 0);
	pthread_detach(thread);
}

static void time_left(struct lm_rpc_call *call, void *service)
{
	struct note answer = NOTE;
	answer.count = lm_rpc_time_left_ms(call) <= 5100 && lm_rpc_time_left_ms(call) > 0;
	lm_rpc_reply(call, &answer.base);
}

static void huge(struct lm_rpc_call *call, void *service)
{
	struct note answer = NOTE;
	answer.data.len = 17 << 20;
	answer.data.data = calloc(1, answer.data.len);
	lm_rpc_reply(call, &answer.base);
	free(answer.data.data);
}

static void headers_of(struct lm_rpc_call *call, void *service)
{
	const struct note *note = (const struct note *)lm_rpc_request(call);
	struct note answer = NOTE;
	char *value = lm_rpc_header(call, note->text);
	answer.count = value != NULL;
	if (value)
		answer.text = value;
	lm_rpc_reply(call, &answer.base);
	free(value);
}

static const struct lm_rpc_method methods[] = {
	{"/test.Notes/Echo", &note_descriptor, echo, 0},
	{"/test.Notes/Fail", &note_descriptor, fail_with, 0},
	{"/test.Notes/Wait", &note_descriptor, wait_gate, 1},
	{"/test.Notes/Count", &note_descriptor, count_up, 2},
	{"/test.Notes/Defer", &note_descriptor, defer, 0},
	{"/test.Notes/TimeLeft", &note_descriptor, time_left, 0},
	{"/test.Notes/Huge", &note_descriptor, huge, 0},
	{"/test.Notes/Header", &note_descriptor, headers_of, 0},
	{"/test.Notes/AtOnce", &note_descriptor, echo, LM_RPC_AT_ONCE},
};

struct fixture {
	char dir[32], socket[64];
	struct gate gate;
	struct lm_rpc_server *server;
	struct lm_rpc_client *client;
};

static void start_server(struct fixture *f)
{
	struct lm_err err = LM_ERR_INIT;
	if (lm_rpc_server_new(f->socket, methods, ARRAY_LEN(methods), &f->gate, 0, &f->server, &err) < 0)
		fail_msg("%s", lm_err_text(&err));
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->dir, "/tmp/lm-rpc.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->socket, sizeof(f->socket), "%s/s.sock", f->dir);
	lm_lock_init(&f->gate.lock);
	lm_cond_init(&f->gate.changed);
	start_server(f);
	assert_int_equal(lm_rpc_client_new(f->socket, &f->client, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_rpc_client_free(f->client);
	lm_rpc_server_free(f->server);
	assert_int_equal(access(f->socket, F_OK), -1);
	assert_int_equal(lm_remove_tree(AT_FDCWD, f->dir, NULL), 0);
	lm_cond_done(&f->gate.changed);
	lm_lock_done(&f->gate.lock);
	free(f);
	return 0;
}

static int call_note(struct fixture *f, const char *path, const struct note *request, unsigned timeout_ms,
	struct note **ret, enum lm_rpc_code *code, struct lm_err *err)
{
	return lm_rpc_invoke(f->client, path, &request->base, &note_descriptor, timeout_ms, false,
		(ProtobufCMessage **)ret, code, err);
}

static void note_free(struct note *note)
{
	if (note)
		protobuf_c_message_free_unpacked(&note->base, NULL);
}

static void open_gate(struct fixture *f)
{
	LM_LOCKED(&f->gate.lock);
	f->gate.open = true;
	lm_cond_broadcast(&f->gate.changed);
}

static void unary(void **state)
{
	struct fixture *f = *state;
	char *list[] = {(char *)"a", (char *)"", (char *)"\xc3\xa4"};
	struct note request = NOTE, *answer = NULL;
	enum lm_rpc_code code = LM_RPC_UNKNOWN;
	request.text = (char *)"hello";
	request.n_list = ARRAY_LEN(list);
	request.list = list;
	assert_int_equal(call_note(f, "/test.Notes/Echo", &request, 5000, &answer, &code, NULL), 0);
	assert_int_equal(code, LM_RPC_OK);
	assert_string_equal(answer->text, "hello");
	assert_int_equal(answer->n_list, 3);
	assert_string_equal(answer->list[2], "\xc3\xa4");
	note_free(answer);

	assert_int_equal(call_note(f, "/test.Notes/Defer", &request, 5000, &answer, NULL, NULL), 0);
	assert_string_equal(answer->text, "later");
	note_free(answer);

	assert_int_equal(call_note(f, "/test.Notes/TimeLeft", &request, 5000, &answer, NULL, NULL), 0);
	assert_int_equal(answer->count, 1);
	note_free(answer);
}

static void errors(void **state)
{
	struct fixture *f = *state;
	static const struct {
		enum lm_rpc_code code;
		int number;
	} cases[] = {{LM_RPC_NOT_FOUND, -ENOENT}, {LM_RPC_ALREADY_EXISTS, -EEXIST}, {LM_RPC_INVALID_ARGUMENT, -EINVAL},
		{LM_RPC_FAILED_PRECONDITION, -EBUSY}, {LM_RPC_UNAVAILABLE, -EAGAIN}, {LM_RPC_UNIMPLEMENTED, -ENOSYS},
		{LM_RPC_DEADLINE_EXCEEDED, -ETIMEDOUT}, {LM_RPC_INTERNAL, -EPROTO}, {LM_RPC_UNKNOWN, -EPROTO}};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct note request = NOTE, *answer = NULL;
		struct lm_err err = LM_ERR_INIT;
		enum lm_rpc_code code = LM_RPC_OK;
		request.count = cases[i].code;
		request.text = (char *)"caf\xc3\xa9 100% \n";
		assert_int_equal(
			call_note(f, "/test.Notes/Fail", &request, 5000, &answer, &code, &err), cases[i].number);
		assert_int_equal(code, cases[i].code);
		assert_non_null(strstr(err.msg, "because caf\xc3\xa9 100% \n"));
		assert_null(answer);
	}
	struct note request = NOTE, *answer = NULL;
	enum lm_rpc_code code = LM_RPC_OK;
	assert_int_equal(call_note(f, "/test.Notes/Nothing", &request, 5000, &answer, &code, NULL), -ENOSYS);
	assert_int_equal(code, LM_RPC_UNIMPLEMENTED);
}

static void expect_header(struct fixture *f, const char *name, const char *value)
{
	struct note request = NOTE, *answer = NULL;
	request.text = (char *)name;
	assert_int_equal(call_note(f, "/test.Notes/Header", &request, 5000, &answer, NULL, NULL), 0);
	assert_int_equal(answer->count, value != NULL);
	assert_string_equal(answer->text, value ? value : "");
	note_free(answer);
}

static void headers(void **state)
{
	struct fixture *f = *state;
	struct lm_err err = LM_ERR_INIT;
	expect_header(f, "containerd-namespace", NULL);
	assert_int_equal(lm_rpc_client_set_header(f->client, "containerd-namespace", "k8s.io", NULL), 0);
	assert_int_equal(lm_rpc_client_set_header(f->client, "lease", "a b/c=d", NULL), 0);
	for (unsigned i = 0; i < 2; i++) { /* with every call */
		expect_header(f, "containerd-namespace", "k8s.io");
		expect_header(f, "lease", "a b/c=d");
		expect_header(f, "other", NULL);
	}
	static const char *const wrong[][2] = {{"Upper", "x"}, {"with space", "x"}, {"", "x"}, {"grpc-timeout", "1S"},
		{"some-bin", "x"}, {":path", "/"}, {"key", "\n"}, {"key", "\xc3\xa4"}};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		if (lm_rpc_client_set_header(f->client, wrong[i][0], wrong[i][1], &err) != -EINVAL)
			fail_msg("taken: %s: %s", wrong[i][0], wrong[i][1]);
	char key[] = "x-a";
	for (unsigned i = 2; i < LM_RPC_HEADERS_MAX; i++, key[2]++)
		assert_int_equal(lm_rpc_client_set_header(f->client, key, "x", NULL), 0);
	assert_int_equal(lm_rpc_client_set_header(f->client, key, "x", NULL), -E2BIG);
	assert_int_equal(lm_rpc_client_set_header(f->client, "lease", "another", NULL), 0);
	expect_header(f, "lease", "another");
}

static void at_once(void **state)
{
	struct fixture *f = *state;
	for (unsigned i = 0; i < 1000; i++) {
		struct note request = NOTE, *answer = NULL;
		request.count = i;
		assert_int_equal(call_note(f, "/test.Notes/AtOnce", &request, 5000, &answer, NULL, NULL), 0);
		assert_int_equal(answer->count, i);
		note_free(answer);
	}
	struct note request = NOTE, *answer = NULL;
	request.text = (char *)"\xff";
	assert_int_equal(call_note(f, "/test.Notes/AtOnce", &request, 5000, &answer, NULL, NULL), -EINVAL);
}

/* A string of the length that the field says, whatever is in it. */
static int call_text(struct fixture *f, unsigned tag, const char *bytes, size_t len, enum lm_rpc_code *code)
{
	struct note request = NOTE, *answer = NULL;
	uint8_t field_bytes[64] = {(uint8_t)len};
	memcpy(field_bytes + 1, bytes, len);
	ProtobufCMessageUnknownField field = {
		.tag = tag, .wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, .len = len + 1, .data = field_bytes};
	request.count = 7;
	request.base.n_unknown_fields = 1;
	request.base.unknown_fields = &field;
	int r = call_note(f, "/test.Notes/Echo", &request, 5000, &answer, code, NULL);
	note_free(answer);
	return r;
}

static void strings_with_nul(void **state)
{
	struct fixture *f = *state;
	enum lm_rpc_code code = LM_RPC_OK;
	static const struct {
		unsigned tag;
		const char *bytes;
		size_t len;
		int result;
	} cases[] = {
		{1, "abc", 3, 0}, {1, "", 0, 0}, {1, "a\0b", 3, -EINVAL}, {1, "\0", 1, -EINVAL},
		{4, "a\0", 2, -EINVAL}, /* repeated */
		{2, "a\0b", 3, 0},	/* bytes, not text */
		{9, "a\0b", 3, 0},	/* nobody knows it */
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		if (call_text(f, cases[i].tag, cases[i].bytes, cases[i].len, &code) != cases[i].result)
			fail_msg("case %zu", i);
		assert_int_equal(code, cases[i].result ? LM_RPC_INVALID_ARGUMENT : LM_RPC_OK);
	}
}

/* Messages that must not reach a handler. */
static void refused(void **state)
{
	struct fixture *f = *state;
	struct note request = NOTE, *answer = NULL;
	enum lm_rpc_code code = LM_RPC_OK;
	static const char *const not_utf8[] = {"\xff", "a\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80",
		"\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80"};
	for (size_t i = 0; i < ARRAY_LEN(not_utf8); i++) {
		request.text = (char *)not_utf8[i];
		assert_int_equal(call_note(f, "/test.Notes/Echo", &request, 5000, &answer, &code, NULL), -EINVAL);
		assert_int_equal(code, LM_RPC_INVALID_ARGUMENT);
	}
	/* In a repeated field, and the largest valid code points. */
	char *list[] = {(char *)"\xef\xbf\xbf\xf4\x8f\xbf\xbf", (char *)"\xfe"};
	request = (struct note)NOTE;
	request.list = list;
	request.n_list = 2;
	assert_int_equal(call_note(f, "/test.Notes/Echo", &request, 5000, &answer, NULL, NULL), -EINVAL);
	request.n_list = 1;
	assert_int_equal(call_note(f, "/test.Notes/Echo", &request, 5000, &answer, NULL, NULL), 0);
	note_free(STEAL(answer));
	/* Bytes that are another message: text = 1 as a number. */
	ProtobufCMessageUnknownField field = {.tag = 4, .wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED};
	uint8_t overlong[] = {0x7f, 'x'};
	field.data = overlong;
	field.len = sizeof(overlong);
	request = (struct note)NOTE;
	request.base.n_unknown_fields = 1;
	request.base.unknown_fields = &field;
	assert_int_equal(call_note(f, "/test.Notes/Echo", &request, 5000, &answer, &code, NULL), -EINVAL);
	/* Two bytes each on the wire, much more in memory. */
	size_t many = 4 << 20;
	char **empty = calloc(many, sizeof(*empty));
	for (size_t i = 0; i < many; i++)
		empty[i] = (char *)"";
	request = (struct note)NOTE;
	request.n_list = many;
	request.list = empty;
	assert_int_equal(call_note(f, "/test.Notes/Echo", &request, 20000, &answer, &code, NULL), -EPROTO);
	assert_int_equal(code, LM_RPC_RESOURCE_EXHAUSTED);
	free(empty);
}

static void sizes(void **state)
{
	struct fixture *f = *state;
	struct note request = NOTE, *answer = NULL;
	enum lm_rpc_code code = LM_RPC_OK;
	request.data.len = (16 << 20) - 16;
	request.data.data = malloc(17 << 20);
	memset(request.data.data, 'x', 17 << 20);
	assert_int_equal(call_note(f, "/test.Notes/Echo", &request, 20000, &answer, NULL, NULL), 0);
	assert_int_equal(answer->data.len, request.data.len);
	assert_memory_equal(answer->data.data, request.data.data, request.data.len);
	note_free(STEAL(answer));
	/* Too large to send, at either side. */
	request.data.len = (16 << 20) + 1;
	assert_int_equal(call_note(f, "/test.Notes/Echo", &request, 20000, &answer, NULL, NULL), -EMSGSIZE);
	request.data.len = 0;
	assert_int_equal(call_note(f, "/test.Notes/Huge", &request, 20000, &answer, &code, NULL), -EPROTO);
	assert_int_equal(code, LM_RPC_RESOURCE_EXHAUSTED);
	free(request.data.data);
}

struct tally {
	unsigned count, stop_at;
	bool ordered;
};

static int take_note(void *arg, ProtobufCMessage *message)
{
	struct tally *tally = arg;
	struct note *note = (struct note *)message;
	tally->ordered = tally->ordered && note->count == tally->count;
	tally->count++;
	note_free(note);
	return tally->count == tally->stop_at ? -ECANCELED : 0;
}

static int stream(struct fixture *f, struct note *request, unsigned timeout_ms, struct tally *tally,
	enum lm_rpc_code *code, struct lm_err *err)
{
	tally->ordered = true;
	return lm_rpc_invoke_stream(f->client, "/test.Notes/Count", &request->base, &note_descriptor, timeout_ms,
		take_note, tally, code, err);
}

static void streams(void **state)
{
	struct fixture *f = *state;
	struct note request = NOTE;
	enum lm_rpc_code code = LM_RPC_UNKNOWN;
	for (unsigned n = 0; n <= 1000; n += 500) {
		struct tally tally = {0};
		request.count = n;
		assert_int_equal(stream(f, &request, 20000, &tally, &code, NULL), 0);
		assert_int_equal(code, LM_RPC_OK);
		assert_int_equal(tally.count, n);
		assert_true(tally.ordered);
	}
	struct tally tally = {0};
	struct lm_err err = LM_ERR_INIT;
	request.count = 3;
	request.text = (char *)"gone";
	assert_int_equal(stream(f, &request, 20000, &tally, &code, &err), -ENOENT);
	assert_int_equal(code, LM_RPC_NOT_FOUND);
	assert_int_equal(tally.count, 3);
	assert_non_null(strstr(err.msg, "gone"));
}

/* A reader that stops early ends the sender, which otherwise could not stop in reasonable time. */
static void stream_cancelled(void **state)
{
	struct fixture *f = *state;
	uint8_t payload[10000] = {0};
	struct note request = NOTE;
	struct tally tally = {.stop_at = 5};
	request.count = UINT32_MAX;
	request.data = (ProtobufCBinaryData){sizeof(payload), payload};
	assert_int_equal(stream(f, &request, 20000, &tally, NULL, NULL), -ECANCELED);
	assert_int_equal(tally.count, 5);
	lm_rpc_server_free(STEAL(f->server));
	assert_int_equal(atomic_load(&f->gate.saw_cancel), 1);
	assert_true(atomic_load(&f->gate.sent) < 10000);
}

static void deadlines(void **state)
{
	struct fixture *f = *state;
	struct note request = NOTE, *answer = NULL;
	enum lm_rpc_code code = LM_RPC_OK;
	int64_t start_ms = lm_now_ms();
	assert_int_equal(call_note(f, "/test.Notes/Wait", &request, 200, &answer, &code, NULL), -ETIMEDOUT);
	assert_int_equal(code, LM_RPC_DEADLINE_EXCEEDED);
	assert_in_range(lm_now_ms() - start_ms, 150, 10000);
	/* The handler hears of it, though the gate never opened. */
	lm_rpc_server_free(STEAL(f->server));
	assert_int_equal(atomic_load(&f->gate.saw_cancel), 1);
}

static int ask(struct lm_rpc_stream *stream, const struct note *request, unsigned timeout_ms, struct note **ret,
	enum lm_rpc_code *code, struct lm_err *err)
{
	return lm_rpc_stream_ask(stream, &request->base, timeout_ms, (ProtobufCMessage **)ret, code, err);
}

/* Of a method that answers once. */
static void streams_both_ways(void **state)
{
	struct fixture *f = *state;
	struct note request = NOTE, *answer = NULL;
	enum lm_rpc_code code = LM_RPC_UNKNOWN;
	struct lm_err err = LM_ERR_INIT;
	struct lm_rpc_stream *stream = NULL;
	request.text = (char *)"there and back";
	assert_int_equal(lm_rpc_stream_new(f->client, "/test.Notes/Defer", &note_descriptor, &stream, NULL), 0);
	lm_rpc_stream_free(stream); /* without a word */

	assert_int_equal(lm_rpc_stream_new(f->client, "/test.Notes/Echo", &note_descriptor, &stream, NULL), 0);
	assert_int_equal(ask(stream, &request, 20000, &answer, &code, &err), 0);
	assert_string_equal(answer->text, "there and back");
	note_free(answer);
	assert_int_equal(ask(stream, &request, 20000, &answer, &code, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "ended without an answer"));
	lm_rpc_stream_free(stream);

	assert_int_equal(lm_rpc_stream_new(f->client, "/test.Notes/Fail", &note_descriptor, &stream, NULL), 0);
	request.count = LM_RPC_ALREADY_EXISTS;
	assert_int_equal(ask(stream, &request, 20000, &answer, &code, &err), -EEXIST);
	assert_int_equal(code, LM_RPC_ALREADY_EXISTS);
	assert_non_null(strstr(err.msg, "because there and back"));
	lm_rpc_stream_free(stream);

	assert_int_equal(lm_rpc_stream_new(f->client, "/test.Notes/Wait", &note_descriptor, &stream, NULL), 0);
	assert_int_equal(ask(stream, &request, 100, &answer, &code, NULL), -ETIMEDOUT);
	assert_int_equal(code, LM_RPC_DEADLINE_EXCEEDED);
	lm_rpc_stream_free(stream);
}

struct caller {
	struct fixture *f;
	const char *path;
	uint32_t count;
	int result;
	pthread_t thread;
};

static void *one_call(void *arg)
{
	struct caller *caller = arg;
	struct note request = NOTE, *answer = NULL;
	request.count = caller->count;
	caller->result = call_note(caller->f, caller->path, &request, 30000, &answer, NULL, NULL);
	if (caller->result == 0 && answer->count != caller->count)
		caller->result = -EBADMSG;
	note_free(answer);
	return NULL;
}

static void start_callers(struct fixture *f, struct caller *callers, unsigned count, const char *path)
{
	for (unsigned i = 0; i < count; i++) {
		callers[i] = (struct caller){.f = f, .path = path, .count = i, .result = -EINPROGRESS};
		assert_int_equal(pthread_create(&callers[i].thread, NULL, one_call, &callers[i]), 0);
	}
}

/* A lane whose workers are all taken: other lanes answer at once, and its own calls all come through in the end. */
static void parallel(void **state)
{
	struct fixture *f = *state;
	struct caller callers[100];
	start_callers(f, callers, ARRAY_LEN(callers), "/test.Notes/Wait");
	lm_lock_take(&f->gate.lock);
	while (f->gate.waiting < 8)
		lm_cond_wait(&f->gate.changed, &f->gate.lock);
	lm_lock_release(&f->gate.lock);
	struct note request = NOTE, *answer = NULL;
	assert_int_equal(call_note(f, "/test.Notes/Echo", &request, 5000, &answer, NULL, NULL), 0);
	note_free(answer);
	open_gate(f);
	for (unsigned i = 0; i < ARRAY_LEN(callers); i++) {
		pthread_join(callers[i].thread, NULL);
		assert_int_equal(callers[i].result, 0);
	}
}

/* More calls than the server takes in at once: the rest waits, none is lost. */
static void flood(void **state)
{
	struct fixture *f = *state;
	static struct caller callers[700];
	start_callers(f, callers, ARRAY_LEN(callers), "/test.Notes/Wait");
	open_gate(f);
	for (unsigned i = 0; i < ARRAY_LEN(callers); i++) {
		pthread_join(callers[i].thread, NULL);
		assert_int_equal(callers[i].result, 0);
	}
}

static void restart(void **state)
{
	struct fixture *f = *state;
	struct note request = NOTE, *answer = NULL;
	assert_int_equal(call_note(f, "/test.Notes/Echo", &request, 5000, &answer, NULL, NULL), 0);
	note_free(STEAL(answer));
	lm_rpc_server_free(STEAL(f->server));
	enum lm_rpc_code code = LM_RPC_OK;
	assert_int_equal(call_note(f, "/test.Notes/Echo", &request, 5000, &answer, &code, NULL), -EAGAIN);
	assert_int_equal(code, LM_RPC_UNAVAILABLE);
	/* A call that waits for the server outlasts its absence. */
	start_server(f);
	assert_int_equal(lm_rpc_invoke(f->client, "/test.Notes/Echo", &request.base, &note_descriptor, 10000, true,
				 (ProtobufCMessage **)&answer, NULL, NULL),
		0);
	note_free(answer);
}

/* A server that ends lets running calls come to their end. */
static void graceful_end(void **state)
{
	struct fixture *f = *state;
	struct caller caller;
	start_callers(f, &caller, 1, "/test.Notes/Wait");
	lm_lock_take(&f->gate.lock);
	while (f->gate.waiting < 1)
		lm_cond_wait(&f->gate.changed, &f->gate.lock);
	f->gate.open = true;
	lm_lock_release(&f->gate.lock);
	lm_rpc_server_free(STEAL(f->server));
	pthread_join(caller.thread, NULL);
	assert_int_equal(caller.result, 0);
}

static int raw_connect(const struct fixture *f)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path, f->socket);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* Whatever is written to the socket, the server stays and serves others. */
static void garbage(void **state)
{
	struct fixture *f = *state;
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	unsigned seed = (unsigned)time(NULL);
	print_message("seed %u\n", seed);
	for (unsigned round = 0; round < 200; round++) {
		CLEANUP(lm_closep) int fd = raw_connect(f);
		uint8_t bytes[512];
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)rand_r(&seed);
		if (round % 3) { /* a valid start, then frames of valid types and lengths with random contents */
			if (write(fd, preface, sizeof(preface) - 1) < 0 || write(fd, "\0\0\0\4\0\0\0\0\0", 9) < 0)
				continue;
			bytes[0] = bytes[1] = 0;
			bytes[2] = round % 3 == 1 ? 60 : bytes[2];
			bytes[3] = round % 10;
			bytes[5] = bytes[6] = bytes[7] = 0;
			bytes[8] = 1;
		}
		(void)!send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL);
	}
	CLEANUP(lm_closep) int silent = raw_connect(f);
	struct note request = NOTE, *answer = NULL;
	assert_int_equal(call_note(f, "/test.Notes/Echo", &request, 5000, &answer, NULL, NULL), 0);
	note_free(answer);
	assert_true(silent >= 0);
}

static void socket_file(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	assert_int_equal(stat(f->socket, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	/* In use. */
	struct lm_rpc_server *second = NULL;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(
		lm_rpc_server_new(f->socket, methods, ARRAY_LEN(methods), &f->gate, 1, &second, &err), -EADDRINUSE);
	assert_non_null(strstr(err.msg, f->socket));
	/* Stale: bound by someone who is gone. */
	CLEANUP(lm_freep) char *stale = NULL;
	assert_true(asprintf(&stale, "%s/stale", f->dir) > 0);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path, stale);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	assert_int_equal(lm_rpc_server_new(stale, methods, ARRAY_LEN(methods), &f->gate, 1, &second, &err), 0);
	/* A successor's socket is left alone. */
	assert_int_equal(unlink(stale), 0);
	assert_int_equal(lm_file_replace(AT_FDCWD, stale, "", 0, 0600, 0, NULL), 0);
	lm_rpc_server_free(STEAL(second));
	assert_int_equal(access(stale, F_OK), 0);
	/* Something else than a socket is not replaced, and a name must fit. */
	assert_int_equal(lm_rpc_server_new(stale, methods, ARRAY_LEN(methods), &f->gate, 1, &second, &err), -EEXIST);
	char longer[200];
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(
		lm_rpc_server_new(longer, methods, ARRAY_LEN(methods), &f->gate, 1, &second, &err), -ENAMETOOLONG);
	assert_null(second);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(unary, setup, teardown),
		cmocka_unit_test_setup_teardown(errors, setup, teardown),
		cmocka_unit_test_setup_teardown(headers, setup, teardown),
		cmocka_unit_test_setup_teardown(strings_with_nul, setup, teardown),
		cmocka_unit_test_setup_teardown(at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(refused, setup, teardown),
		cmocka_unit_test_setup_teardown(sizes, setup, teardown),
		cmocka_unit_test_setup_teardown(streams, setup, teardown),
		cmocka_unit_test_setup_teardown(stream_cancelled, setup, teardown),
		cmocka_unit_test_setup_teardown(deadlines, setup, teardown),
		cmocka_unit_test_setup_teardown(streams_both_ways, setup, teardown),
		cmocka_unit_test_setup_teardown(parallel, setup, teardown),
		cmocka_unit_test_setup_teardown(flood, setup, teardown),
		cmocka_unit_test_setup_teardown(restart, setup, teardown),
		cmocka_unit_test_setup_teardown(graceful_end, setup, teardown),
		cmocka_unit_test_setup_teardown(garbage, setup, teardown),
		cmocka_unit_test_setup_teardown(socket_file, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
