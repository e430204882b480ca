#include "net/origin.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "net/http_internal.h"
#include "net/origin_policy.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum {
	TIMEOUT_PROXY_MS = 5000,
	TIMEOUT_DIRECT_MS = 10000,
	BACKOFF_INIT_MS = 2000,
	BACKOFF_MAX_MS = 10000,
	PROXY_RESET_MS = 300 * 1000,
	HOST_RESET_MS = 1800 * 1000,
	FAULT_TEXT_MAX = 224, /* three kinds fit a struct lm_err */
	LOG_INTERVAL_MS = 10 * 1000,
};

struct lm_origin {
	/* constant after lm_origin_new() */
	struct lm_http *http;
	char *fqrn;
	unsigned timeout_ms, timeout_direct_ms;

	struct lm_origin_policy *policy; /* engine thread only */

	/* any thread */
	_Atomic(uint64_t) requests, failed, bytes;
	_Atomic(unsigned) in_flight;
	struct lm_log_limit log_limit;
};

/* One request, on its way from attempt to attempt. Engine thread only, after lm_origin_start(). */
struct lm_origin_request {
	struct lm_origin *origin;
	char *path;
	enum lm_http_priority priority;
	bool head, no_cache;
	struct lm_origin_consumer consumer;
	struct lm_http_call call; /* the next attempt */
	struct lm_http_call wake;
	_Atomic(bool) woken;		   /* any thread: wake is posted */
	bool finished;			   /* done() was called: there for wake only */
	bool undecided;			   /* the consumer's verdict on the body is awaited */
	struct lm_http_transfer *transfer; /* of the attempt; NULL between them */
	char *where;			   /* for messages of a late verdict */
	struct lm_origin_try try;
	bool started;
	int refused; /* what the consumer returned during the attempt */
	char faults[LM_ORIGIN_FAULTS][FAULT_TEXT_MAX];
};

static unsigned or_default(unsigned value, unsigned fallback)
{
	return value ? value : fallback;
}

int lm_origin_new(
	struct lm_http *http, const struct lm_origin_config *config, struct lm_origin **ret, struct lm_err *err)
{
	struct lm_origin_rules rules = {
		.max_retries = config->max_retries,
		.backoff_init_ms = or_default(config->backoff_init_ms, BACKOFF_INIT_MS),
		.backoff_max_ms = or_default(config->backoff_max_ms, BACKOFF_MAX_MS),
		.proxy_reset_ms = or_default(config->proxy_reset_ms, PROXY_RESET_MS),
		.host_reset_ms = or_default(config->host_reset_ms, HOST_RESET_MS),
		.random_below = arc4random_uniform,
	};
	CLEANUP(lm_origin_freep) struct lm_origin *origin = calloc(1, sizeof(*origin));
	if (!origin)
		return lm_err_oom(err);
	origin->http = http;
	origin->timeout_ms = or_default(config->timeout_ms, TIMEOUT_PROXY_MS);
	origin->timeout_direct_ms = or_default(config->timeout_direct_ms, TIMEOUT_DIRECT_MS);
	origin->fqrn = strdup(config->fqrn);
	if (!origin->fqrn)
		return lm_err_oom(err);
	int r = lm_origin_policy_new(config->servers, config->proxies, config->fqrn, &rules, &origin->policy, err);
	if (r < 0)
		return r;
	*ret = STEAL(origin);
	return 0;
}

void lm_origin_free(struct lm_origin *origin)
{
	if (!origin)
		return;
	assert(atomic_load(&origin->in_flight) == 0);
	lm_origin_policy_free(origin->policy);
	free(origin->fqrn);
	free(origin);
}

struct lm_http *lm_origin_http(const struct lm_origin *origin)
{
	return origin->http;
}

static void request_free(struct lm_origin_request *request)
{
	if (!request)
		return;
	free(request->path);
	free(request->where);
	free(request);
}
LM_DEFINE_CLEANUP(struct lm_origin_request, request_free, request_freep)

static void finish(struct lm_origin_request *request, int code, const struct lm_err *err)
{
	/* The consumer may free the origin in done(). */
	atomic_fetch_sub(&request->origin->in_flight, 1);
	request->consumer.done(request->consumer.arg, code, err);
	request->finished = true;
	if (!atomic_load(&request->woken))
		request_free(request);
}

static void finish_with(struct lm_origin_request *request, int code, struct lm_err *err)
{
	lm_err_prefix(err, code, "repository %s: %s", request->origin->fqrn, request->path);
	finish(request, code, err);
}

/* Every server was given up: the last fault of each kind, the one that decides first. */
static void finish_failed(struct lm_origin_request *request)
{
	int code = lm_origin_try_code(&request->try);
	struct lm_err err = LM_ERR_INIT;
	char text[LM_ERR_MAX] = "";
	size_t len = 0;
	for (unsigned kind = LM_ORIGIN_TRANSFER; kind < LM_ORIGIN_FAULTS && len < sizeof(text); kind++)
		if (request->faults[kind][0])
			len += (size_t)snprintf(
				text + len, sizeof(text) - len, "%s%s", len ? "; " : "", request->faults[kind]);
	lm_err_set(&err, code, "%s", text);
	finish_with(request, code, &err);
}

static void start_attempt(void *arg);

static void log_survived(struct lm_origin_request *request, enum lm_origin_fault fault,
	const struct lm_origin_try *before, unsigned delay_ms)
{
	const struct lm_origin_try *try = &request->try;
	bool other_server = try->server != before->server;
	const char *next = other_server			 ? "next server"
			   : try->proxy != before->proxy ? "next proxy"
			   : fault == LM_ORIGIN_DAMAGED	 ? "same server past the caches"
							 : "same path again";
	unsigned missed = 0;
	if (!lm_log_limit_pass(&request->origin->log_limit, LOG_INTERVAL_MS, &missed))
		return;
	lm_log(LM_LOG_WARN, "download failed, trying elsewhere", LM_KV("repository", "%s", request->origin->fqrn),
		LM_KV("path", "%s", request->path), LM_KV("fault", "%s", lm_origin_fault_name(fault)),
		LM_KV("error", "%s", request->faults[fault]), LM_KV("next", "%s", next),
		LM_KV("delay_ms", "%u", delay_ms), LM_KV("unlogged", "%u", missed));
}

static void attempt_failed(struct lm_origin_request *request, enum lm_origin_fault fault, const char *text)
{
	struct lm_origin *origin = request->origin;
	struct lm_origin_try before = request->try;
	unsigned delay_ms;
	atomic_fetch_add(&origin->failed, 1);
	snprintf(request->faults[fault], FAULT_TEXT_MAX, "%s", text);
	if (!lm_origin_try_again(origin->policy, &request->try, fault, lm_now_ms(), &delay_ms)) {
		finish_failed(request);
		return;
	}
	log_survived(request, fault, &before, delay_ms);
	if (delay_ms)
		lm_http_post(origin->http, &request->call, delay_ms);
	else
		start_attempt(request);
}

static int on_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct lm_origin_request *request = arg;
	int r = request->consumer.data(request->consumer.arg, data, len, err);
	if (r == LM_ORIGIN_PAUSE)
		return LM_HTTP_PAUSE;
	atomic_fetch_add_explicit(&request->origin->bytes, len, memory_order_relaxed);
	request->refused = r;
	return r;
}

static void heed_verdict(struct lm_origin_request *request, const char *where, int code, struct lm_err *err)
{
	struct lm_origin *origin = request->origin;
	if (code == -EBADMSG) {
		lm_err_prefix(err, code, "%s", where);
		attempt_failed(request, LM_ORIGIN_DAMAGED, err->msg);
	} else if (code < 0) {
		atomic_fetch_add(&origin->failed, 1);
		finish_with(request, code, err);
	} else {
		lm_origin_try_good(origin->policy, &request->try, lm_now_ms());
		finish(request, 0, err);
	}
}

static void judge_end(struct lm_origin_request *request, const struct lm_http_result *result)
{
	const struct lm_origin_consumer *consumer = &request->consumer;
	struct lm_err err = LM_ERR_INIT;
	int r = consumer->end ? consumer->end(consumer->arg, &err) : 0;
	if (r != LM_ORIGIN_LATER) {
		heed_verdict(request, result->where, r, &err);
		return;
	}
	free(request->where);
	request->where = strdup(result->where);
	request->undecided = true;
	lm_http_hold(request->origin->http);
}

void lm_origin_verdict(struct lm_origin_request *request, int code, const struct lm_err *err)
{
	assert(request->undecided);
	struct lm_err own = LM_ERR_INIT;
	if (err)
		own = *err;
	request->undecided = false;
	lm_http_unhold(request->origin->http);
	heed_verdict(request, request->where ? request->where : request->path, code, &own);
}

static void judge_answer(struct lm_origin_request *request, const struct lm_http_result *result)
{
	bool proxied = lm_origin_policy_proxy(request->origin->policy, request->try.proxy);
	enum lm_origin_fault fault = lm_origin_judge(result->status, proxied, result->proxy_error);
	struct lm_err err = LM_ERR_INIT;
	if (fault == LM_ORIGIN_FINE) {
		judge_end(request, result);
		return;
	}
	lm_err_set(&err, -EIO, "%s: HTTP status %u%s", result->where, result->status,
		result->proxy_error ? ", an error of the proxy" : "");
	attempt_failed(request, fault, err.msg);
}

static void on_done(void *arg, const struct lm_http_result *result)
{
	struct lm_origin_request *request = arg;
	struct lm_err err = result->err;
	request->transfer = NULL;
	if (result->code == 0) {
		judge_answer(request, result);
	} else if (request->refused == -EBADMSG) {
		lm_err_prefix(&err, -EBADMSG, "%s", result->where);
		attempt_failed(request, LM_ORIGIN_DAMAGED, err.msg);
	} else if (request->refused || result->code == -ECANCELED || result->code == -ENOMEM) {
		atomic_fetch_add(&request->origin->failed, 1);
		finish_with(request, result->code, &err);
	} else {
		bool timeout = result->code == -ETIMEDOUT;
		attempt_failed(request, timeout ? LM_ORIGIN_TIMEOUT : LM_ORIGIN_TRANSFER, lm_err_text(&err));
	}
}

static int begin_attempt(struct lm_origin_request *request, struct lm_err *err)
{
	struct lm_origin *origin = request->origin;
	const struct lm_origin_consumer *consumer = &request->consumer;
	const struct lm_origin_try *try = &request->try;
	const char *proxy = lm_origin_policy_proxy(origin->policy, try->proxy);
	unsigned timeout_ms = proxy ? origin->timeout_ms : origin->timeout_direct_ms;
	CLEANUP(lm_freep)
	char *url = lm_str_printf("%s/%s", lm_origin_policy_server(origin->policy, try->server), request->path);
	if (!url)
		return lm_err_oom(err);
	request->refused = 0;
	int r = consumer->begin ? consumer->begin(consumer->arg, err) : 0;
	if (r < 0)
		return r;
	struct lm_http_request http = {
		.url = url,
		.proxy = proxy,
		.method = request->head ? "HEAD" : NULL,
		.priority = request->priority,
		.connect_timeout_ms = timeout_ms,
		.stall_timeout_ms = timeout_ms,
		.no_cache = try->no_cache,
		.on_data = on_data,
		.on_done = on_done,
		.arg = request,
	};
	atomic_fetch_add(&origin->requests, 1);
	return lm_http_start(origin->http, &http, &request->transfer, err);
}

static void start_attempt(void *arg)
{
	struct lm_origin_request *request = arg;
	struct lm_err err = LM_ERR_INIT;
	if (!request->started)
		lm_origin_try_start(request->origin->policy, &request->try, request->no_cache, lm_now_ms());
	request->started = true;
	int r = begin_attempt(request, &err);
	if (r < 0)
		finish_with(request, r, &err);
}

static void be_woken(void *arg)
{
	struct lm_origin_request *request = arg;
	atomic_store(&request->woken, false);
	if (request->finished)
		request_free(request);
	else
		request->consumer.woken(request->consumer.arg);
}

void lm_origin_wake(struct lm_origin_request *request)
{
	if (!atomic_exchange(&request->woken, true))
		lm_http_post(request->origin->http, &request->wake, 0);
}

void lm_origin_resume(struct lm_origin_request *request)
{
	if (request->transfer)
		lm_http_resume(request->transfer);
}

void lm_origin_set_priority(struct lm_origin_request *request, enum lm_http_priority priority)
{
	request->priority = priority;
	if (request->transfer)
		lm_http_set_priority(request->transfer, priority);
}

static int start(struct lm_origin *origin, const char *path, const struct lm_origin_request *like,
	struct lm_origin_request **ret, struct lm_err *err)
{
	CLEANUP(request_freep) struct lm_origin_request *request = malloc(sizeof(*request));
	if (request)
		*request = *like;
	if (!request || !(request->path = strdup(path)))
		return lm_err_oom(err);
	request->origin = origin;
	request->call.fn = start_attempt;
	request->call.arg = request;
	request->wake.fn = be_woken;
	request->wake.arg = request;
	if (ret)
		*ret = request;
	atomic_fetch_add(&origin->in_flight, 1);
	/* The policy belongs to the engine's thread, so that is where even the first choice is made. */
	lm_http_post(origin->http, &STEAL(request)->call, 0);
	return 0;
}

int lm_origin_start(struct lm_origin *origin, const char *path, enum lm_http_priority priority, bool no_cache,
	const struct lm_origin_consumer *consumer, struct lm_origin_request **ret, struct lm_err *err)
{
	struct lm_origin_request like = {.priority = priority, .no_cache = no_cache, .consumer = *consumer};
	return start(origin, path, &like, ret, err);
}

int lm_origin_get(struct lm_origin *origin, const char *path, enum lm_http_priority priority, bool no_cache,
	const struct lm_origin_consumer *consumer, struct lm_err *err)
{
	return lm_origin_start(origin, path, priority, no_cache, consumer, NULL, err);
}

int lm_origin_head(struct lm_origin *origin, const char *path, enum lm_http_priority priority,
	const struct lm_origin_consumer *consumer, struct lm_err *err)
{
	struct lm_origin_request like = {.head = true, .priority = priority, .consumer = *consumer};
	return start(origin, path, &like, NULL, err);
}

struct get_buf {
	/* engine thread, until done */
	struct lm_buf *body;
	size_t len_before;
	struct lm_err err;
	int code;
	/* under lock */
	struct lm_lock lock;
	struct lm_cond cond;
	bool done;
};

static void forget_bytes(struct get_buf *get)
{
	get->body->len = get->len_before;
	if (get->body->data)
		get->body->data[get->len_before] = '\0';
}

static int buf_begin(void *arg, struct lm_err *err)
{
	forget_bytes(arg);
	return 0;
}

static int buf_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct get_buf *get = arg;
	int r = lm_buf_append(get->body, data, len);
	if (r == -EMSGSIZE)
		return lm_err_set(err, r, "more than %zu bytes", get->body->max - get->len_before);
	return r < 0 ? lm_err_oom(err) : 0;
}

static void buf_done(void *arg, int code, const struct lm_err *err)
{
	struct get_buf *get = arg;
	get->code = code;
	get->err = *err;
	LM_LOCKED(&get->lock);
	get->done = true;
	lm_cond_signal(&get->cond);
}

int lm_origin_get_buf(struct lm_origin *origin, const char *path, struct lm_buf *body, struct lm_err *err)
{
	assert(!lm_http_on_engine(origin->http));
	struct get_buf get = {.body = body, .len_before = body->len};
	struct lm_origin_consumer consumer = {.begin = buf_begin, .data = buf_data, .done = buf_done, .arg = &get};
	lm_lock_init(&get.lock);
	lm_cond_init(&get.cond);
	int r = lm_origin_get(origin, path, LM_HTTP_BLOCKED_READ, false, &consumer, err);
	if (r == 0) {
		lm_lock_take(&get.lock);
		while (!get.done)
			lm_cond_wait(&get.cond, &get.lock);
		lm_lock_release(&get.lock);
		r = get.code;
		if (r < 0)
			forget_bytes(&get);
		if (r < 0 && err)
			*err = get.err;
	}
	lm_cond_done(&get.cond);
	lm_lock_done(&get.lock);
	return r;
}

void lm_origin_stats(struct lm_origin *origin, struct lm_origin_stats *ret)
{
	ret->requests = atomic_load(&origin->requests);
	ret->failed = atomic_load(&origin->failed);
	ret->bytes = atomic_load(&origin->bytes);
}
