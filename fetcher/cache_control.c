#include "fetcher/cache_control.h"

#include "base/clock.h"
#include "fetcher/status.h"

typedef Lamella__Fetcher__V1__PinRequest PinRequest;
typedef Lamella__Fetcher__V1__PinStatus PinStatus;
typedef Lamella__Fetcher__V1__PinsResponse PinsResponse;

enum { PROGRESS_MS = 500 };

static void fail(struct lm_rpc_call *call, const struct lm_err *err)
{
	enum lm_rpc_code code = LM_RPC_UNKNOWN;
	switch (err->code) {
	case -ENOENT:
		code = LM_RPC_NOT_FOUND;
		break;
	case -EINVAL:
		code = LM_RPC_INVALID_ARGUMENT;
		break;
	case -ENOSPC:
	case -ENOMEM:
		code = LM_RPC_RESOURCE_EXHAUSTED;
		break;
	case -ECANCELED:
	case -EIO:
	case -ETIMEDOUT:
		code = LM_RPC_UNAVAILABLE;
		break;
	}
	lm_rpc_fail(call, code, "%s", lm_err_text(err));
}

static void fill_pin(struct lm_message_builder *b, PinStatus *m, const struct lm_pin_status *status)
{
	lm_message_text(b, &m->repository, status->fqrn);
	lm_message_text(b, &m->path, status->path);
	m->objects = status->objects;
	m->bytes = status->bytes;
	m->complete = status->complete;
	lm_message_text(b, &m->error, status->err.code < 0 ? lm_err_text(&status->err) : "");
}

/* Non-zero: nobody listens any more. */
static int send_pin(void *arg, const struct lm_pin_status *status)
{
	struct lm_rpc_call *call = arg;
	struct lm_message_builder b = {0};
	PinStatus *m = lm_message_new(&b, &lamella__fetcher__v1__pin_status__descriptor);
	if (!m)
		return -ENOMEM;
	fill_pin(&b, m, status);
	int r = b.failed ? -ENOMEM : lm_rpc_cancelled(call) ? -ECANCELED : lm_rpc_send(call, &m->base);
	protobuf_c_message_free_unpacked(&m->base, NULL);
	return r;
}

void lm_control_pin(struct lm_rpc_call *call, struct lm_pins *pins)
{
	const PinRequest *request = (const PinRequest *)lm_rpc_request(call);
	struct lm_err err = LM_ERR_INIT;
	int r = lm_pins_add(pins, request->repository, request->path, send_pin, call, &err);
	if (r < 0 && err.code < 0)
		fail(call, &err);
	else
		lm_rpc_finish(call);
}

void lm_control_unpin(struct lm_rpc_call *call, struct lm_pins *pins)
{
	const PinRequest *request = (const PinRequest *)lm_rpc_request(call);
	Lamella__Fetcher__V1__UnpinResponse response = LAMELLA__FETCHER__V1__UNPIN_RESPONSE__INIT;
	struct lm_err err = LM_ERR_INIT;
	if (lm_pins_remove(pins, request->repository, request->path, &response.bytes, &err) < 0)
		fail(call, &err);
	else
		lm_rpc_reply(call, &response.base);
}

struct pin_list {
	struct lm_message_builder builder;
	PinsResponse *response;
};

static void add_pin(void *arg, const struct lm_pin_status *status)
{
	struct pin_list *list = arg;
	PinStatus *m = lm_message_add(&list->builder, &lamella__fetcher__v1__pin_status__descriptor,
		&list->response->pins, &list->response->n_pins);
	if (m)
		fill_pin(&list->builder, m, status);
}

void lm_control_pins(struct lm_rpc_call *call, struct lm_pins *pins, struct lm_cache *cache)
{
	struct pin_list list = {0};
	list.response = lm_message_new(&list.builder, &lamella__fetcher__v1__pins_response__descriptor);
	if (list.response) {
		list.response->bytes_max = lm_cache_keep_max(cache);
		lm_pins_each(pins, add_pin, &list);
	}
	if (list.builder.failed)
		lm_rpc_fail(call, LM_RPC_RESOURCE_EXHAUSTED, "out of memory");
	else
		lm_rpc_reply(call, &list.response->base);
	if (list.response)
		protobuf_c_message_free_unpacked(&list.response->base, NULL);
}

void lm_control_clear(struct lm_rpc_call *call, struct lm_cache *cache)
{
	typedef Lamella__Fetcher__V1__ClearCacheRequest Request;
	Lamella__Fetcher__V1__ClearCacheResponse response = LAMELLA__FETCHER__V1__CLEAR_CACHE_RESPONSE__INIT;
	lm_cache_clear(cache, ((const Request *)lm_rpc_request(call))->all, &response.objects, &response.bytes);
	lm_rpc_reply(call, &response.base);
}

struct verification {
	struct lm_rpc_call *call;
	int64_t next_ms;
};

static int send_check(struct lm_rpc_call *call, const struct lm_cache_check *check, bool complete)
{
	Lamella__Fetcher__V1__VerifyCacheProgress m = LAMELLA__FETCHER__V1__VERIFY_CACHE_PROGRESS__INIT;
	m.objects = check->objects;
	m.bytes = check->bytes;
	m.damaged = check->damaged;
	m.unknown = check->unknown;
	m.complete = complete;
	return lm_rpc_send(call, &m.base);
}

static int on_checked(void *arg, const struct lm_cache_check *so_far)
{
	struct verification *v = arg;
	int64_t now = lm_now_ms();
	if (now < v->next_ms)
		return 0;
	v->next_ms = now + PROGRESS_MS;
	return lm_rpc_cancelled(v->call) ? -ECANCELED : send_check(v->call, so_far, false);
}

void lm_control_verify(struct lm_rpc_call *call, struct lm_cache *cache)
{
	struct verification v = {.call = call, .next_ms = lm_now_ms() + PROGRESS_MS};
	struct lm_cache_check check;
	struct lm_err err = LM_ERR_INIT;
	int r = lm_cache_check(cache, on_checked, &v, &check);
	if (r == 0)
		r = send_check(call, &check, true);
	if (r < 0) {
		(void)lm_err_sys(&err, r, "not all could be verified");
		fail(call, &err);
	} else {
		lm_rpc_finish(call);
	}
}
