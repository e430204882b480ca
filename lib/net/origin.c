#include "net/origin.h"

#include "base/clock.h"
#include "base/str.h"
#include "net/origin_internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum {
	FAULT_TEXT_MAX = 224, /* three kinds fit a struct lm_err */
	LOG_INTERVAL_MS = 10 * 1000,
	PAUSE_FIRST_MS = 32,
	PAUSE_FORGET_MS = 10 * 1000, /* without a failure for so long the first pause is the first again */
	INFO_MAX = 1024,
};

/* One request, on its way from attempt to attempt. Engine thread only, after lm_origin_start(). */
struct lm_origin_request {
	TAILQ_ENTRY(lm_origin_request) entry; /* of those that wait */
	struct lm_origin *origin;
	char *path, *info;
	enum lm_http_priority priority;
	bool head, no_cache;
	struct lm_origin_consumer consumer;
	struct lm_http_call call; /* the next attempt, or the end */
	struct lm_http_call wake;
	_Atomic(bool) woken;		   /* any thread: wake is posted */
	bool finished;			   /* done() was called: there for wake only */
	bool undecided;			   /* the consumer's verdict on the body is awaited */
	struct lm_http_transfer *transfer; /* of the attempt; NULL between them */
	char *where;			   /* for messages of a late verdict */

	/* from the first attempt on */
	struct lm_origin_setup *setup;
	struct lm_origin_policy *policy;
	struct lm_origin_try try;

	/* of the attempt */
	int refused; /* what the consumer returned */
	uint64_t body_bytes, retry_after_ms;
	int64_t answer_us;

	char faults[LM_ORIGIN_FAULTS][FAULT_TEXT_MAX];
};

static void say_what_is_left_out(const struct lm_origin *origin, const struct lm_origin_setup *setup)
{
	if (setup->lists->direct_dropped)
		lm_log(LM_LOG_INFO, "DIRECT is left out, since there are fallback proxies",
			LM_KV("repository", "%s", origin->fqrn));
}

int lm_origin_check(const struct lm_origin_config *config, struct lm_err *err)
{
	CLEANUP(lm_origin_setup_unrefp) struct lm_origin_setup *setup = NULL;
	return lm_origin_setup_new(config, &setup, err);
}

int lm_origin_new(
	struct lm_http *http, const struct lm_origin_config *config, struct lm_origin **ret, struct lm_err *err)
{
	CLEANUP(lm_origin_freep) struct lm_origin *origin = calloc(1, sizeof(*origin));
	if (!origin)
		return lm_err_oom(err);
	origin->http = http;
	origin->refs = 1;
	lm_lock_init(&origin->lock);
	TAILQ_INIT(&origin->waiting);
	origin->fqrn = strdup(config->fqrn);
	if (!origin->fqrn)
		return lm_err_oom(err);
	int r = lm_origin_setup_new(config, &origin->setup, err);
	if (r == 0)
		r = lm_origin_setup_start(origin->setup, NULL, err);
	if (r < 0)
		return r;
	say_what_is_left_out(origin, origin->setup);
	*ret = STEAL(origin);
	return 0;
}

int lm_origin_reconfigure(struct lm_origin *origin, const struct lm_origin_config *config, struct lm_err *err)
{
	struct lm_origin_setup *setup = NULL;
	if (strcmp(config->fqrn, origin->fqrn) != 0)
		return lm_err_set(err, -EINVAL, "repository %s can't become repository %s", origin->fqrn, config->fqrn);
	int r = lm_origin_setup_new(config, &setup, err);
	if (r < 0)
		return r;
	say_what_is_left_out(origin, setup);
	LM_LOCKED(&origin->lock);
	r = lm_origin_setup_start(setup, origin->setup, err);
	if (r == 0) {
		struct lm_origin_setup *old = origin->setup;
		origin->setup = setup;
		setup = old;
	}
	lm_origin_setup_unref(setup);
	return r;
}

struct lm_origin *lm_origin_ref(struct lm_origin *origin)
{
	atomic_fetch_add(&origin->refs, 1);
	return origin;
}

void lm_origin_unref(struct lm_origin *origin)
{
	if (atomic_fetch_sub(&origin->refs, 1) > 1)
		return;
	lm_origin_setup_unref(origin->setup);
	lm_lock_done(&origin->lock);
	free(origin->fqrn);
	free(origin);
}

void lm_origin_free(struct lm_origin *origin)
{
	if (!origin)
		return;
	assert(atomic_load(&origin->in_flight) == 0);
	lm_origin_unref(origin);
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
	free(request->info);
	free(request->where);
	free(request);
}
LM_DEFINE_CLEANUP(struct lm_origin_request, request_free, request_freep)

static void release_setup(struct lm_origin_request *request)
{
	LM_LOCKED(&request->origin->lock);
	lm_origin_policy_unref(request->policy);
	lm_origin_setup_unref(request->setup);
}

static void finish(struct lm_origin_request *request, int code, const struct lm_err *err)
{
	release_setup(request);
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
static void finish_failed(void *arg)
{
	struct lm_origin_request *request = arg;
	int code = lm_origin_try_code(&request->try);
	struct lm_err err = LM_ERR_INIT;
	char text[LM_ERR_MAX] = "";
	size_t len = 0;
	for (unsigned kind = LM_ORIGIN_FINE + 1; kind < LM_ORIGIN_FAULTS && len < sizeof(text); kind++)
		if (request->faults[kind][0])
			len += (size_t)snprintf(
				text + len, sizeof(text) - len, "%s%s", len ? "; " : "", request->faults[kind]);
	lm_err_set(&err, code, "%s", text);
	finish_with(request, code, &err);
}

/* How long the next failure waits to be told: a program that reads again at once is not to hammer at what is broken. */
static unsigned next_pause(struct lm_origin *origin, unsigned max_ms)
{
	int64_t now = lm_now_ms();
	bool again = origin->pause_ms && now - origin->failed_ms < PAUSE_FORGET_MS;
	origin->pause_ms = LM_MIN(again ? origin->pause_ms * 2 : PAUSE_FIRST_MS, max_ms);
	origin->failed_ms = now;
	return origin->pause_ms;
}

static void give_up(struct lm_origin_request *request)
{
	struct lm_origin *origin = request->origin;
	int code = lm_origin_try_code(&request->try);
	if (code == -ENOENT) {
		finish_failed(request);
		return;
	}
	atomic_fetch_add(&origin->given_up, 1);
	if (request->try.transport)
		atomic_store(&origin->offline, true);
	unsigned pause_ms = next_pause(origin, request->setup->failure_pause_max_ms);
	if (pause_ms == 0) {
		finish_failed(request);
		return;
	}
	request->call.fn = finish_failed;
	lm_http_post(origin->http, &request->call, pause_ms);
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

static void note_survived(struct lm_origin_request *request, enum lm_origin_fault fault,
	const struct lm_origin_try *before, unsigned delay_ms)
{
	struct lm_origin *origin = request->origin;
	if (request->try.server != before->server || request->try.proxy != before->proxy)
		atomic_fetch_add(&origin->failovers, 1);
	else if (fault == LM_ORIGIN_DAMAGED)
		atomic_fetch_add(&origin->past_caches, 1);
	log_survived(request, fault, before, delay_ms);
}

/* lock held */
static void count(struct lm_origin_request *request, enum lm_origin_fault fault, const char *error, int64_t now_ms)
{
	lm_origin_policy_count(
		request->policy, &request->try, fault, request->body_bytes, request->answer_us, error, now_ms);
	if (request->answer_us)
		lm_origin_latency_add(request->origin->latency, request->answer_us);
}

static bool try_again(
	struct lm_origin_request *request, enum lm_origin_fault fault, const char *text, unsigned *ret_delay_ms)
{
	int64_t now = lm_now_ms();
	LM_LOCKED(&request->origin->lock);
	count(request, fault, text, now);
	return lm_origin_try_again(request->policy, &request->try, fault, request->retry_after_ms, now, ret_delay_ms);
}

static void attempt_failed(struct lm_origin_request *request, enum lm_origin_fault fault, const char *text)
{
	struct lm_origin *origin = request->origin;
	struct lm_origin_try before = request->try;
	unsigned delay_ms;
	atomic_fetch_add(&origin->failed, 1);
	if (fault == LM_ORIGIN_ABSENT)
		atomic_store(&origin->offline, false);
	snprintf(request->faults[fault], FAULT_TEXT_MAX, "%s", text);
	if (!try_again(request, fault, text, &delay_ms)) {
		give_up(request);
		return;
	}
	note_survived(request, fault, &before, delay_ms);
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

static void attempt_succeeded(struct lm_origin_request *request)
{
	struct lm_origin *origin = request->origin;
	int64_t now = lm_now_ms();
	atomic_store(&origin->offline, false);
	origin->pause_ms = 0;
	lm_lock_take(&origin->lock);
	count(request, LM_ORIGIN_FINE, "", now);
	lm_origin_try_good(request->policy, &request->try, now);
	lm_lock_release(&origin->lock);
	if (origin->on_success)
		origin->on_success(origin->on_success_arg);
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
		attempt_succeeded(request);
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
	bool proxied = lm_origin_policy_proxy(request->policy, request->try.proxy);
	enum lm_origin_fault fault =
		lm_origin_judge(result->status, proxied, result->proxy_error, result->retry_after_s > 0);
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
	request->body_bytes = result->body_bytes;
	request->answer_us = result->answer_us;
	request->retry_after_ms = result->retry_after_s * UINT64_C(1000);
	if (result->code == 0) {
		judge_answer(request, result);
	} else if (request->refused == -EBADMSG) {
		lm_err_prefix(&err, -EBADMSG, "%s", result->where);
		attempt_failed(request, LM_ORIGIN_DAMAGED, err.msg);
	} else if (request->refused || result->code == -ECANCELED || result->code == -ENOMEM) {
		atomic_fetch_add(&request->origin->failed, 1);
		finish_with(request, result->code, &err);
	} else {
		enum lm_origin_fault fault = result->code == -ETIMEDOUT ? LM_ORIGIN_TIMEOUT
					     : result->before_connect	? LM_ORIGIN_CONNECT
									: LM_ORIGIN_TRANSFER;
		request->retry_after_ms = 0;
		attempt_failed(request, fault, lm_err_text(&err));
	}
}

void lm_origin_fill_request(const struct lm_origin_setup *setup, const char *proxy, struct lm_http_request *request)
{
	request->connect_timeout_ms = proxy ? setup->timeout_ms : setup->timeout_direct_ms;
	request->stall_timeout_ms = request->connect_timeout_ms;
	request->slow_bytes_per_s = setup->low_speed_limit;
	request->follow_redirects = setup->follow_redirects;
	request->ca_file = setup->ca_file;
	request->ca_path = setup->ca_path;
	request->no_system_ca = setup->site_ca_only;
}

/* "cvmfs-info: " and what is wanted; bytes that a header can't have, and "%", as %XX. */
static int info_header(const struct lm_origin_request *request, struct lm_buf *out)
{
	int r = lm_buf_str(out, "cvmfs-info: ");
	for (const char *c = request->info ? request->info : request->path; *c && r == 0; c++) {
		bool plain = *c > ' ' && *c < 0x7f && *c != '%';
		r = plain ? lm_buf_append(out, c, 1) : lm_buf_printf(out, "%%%02X", (unsigned char)*c);
	}
	return r == -EMSGSIZE ? 0 : r; /* then it ends there */
}

static int begin_attempt(struct lm_origin_request *request, struct lm_err *err)
{
	struct lm_origin *origin = request->origin;
	const struct lm_origin_consumer *consumer = &request->consumer;
	const struct lm_origin_setup *setup = request->setup;
	const char *proxy = lm_origin_policy_proxy(request->policy, request->try.proxy);
	const char *server = lm_origin_policy_server(request->policy, request->try.server);
	CLEANUP(lm_buf_done) struct lm_buf info = LM_BUF(INFO_MAX);
	CLEANUP(lm_freep) char *url = lm_str_printf("%s/%s", server, request->path);
	if (!url || (setup->send_info_header && info_header(request, &info) < 0))
		return lm_err_oom(err);
	request->refused = 0;
	request->body_bytes = 0;
	request->answer_us = 0;
	int r = consumer->begin ? consumer->begin(consumer->arg, err) : 0;
	if (r < 0)
		return r;
	const char *const headers[] = {lm_buf_cstr(&info), NULL};
	struct lm_http_request http = {
		.url = url,
		.proxy = proxy,
		.method = request->head ? "HEAD" : NULL,
		.headers = setup->send_info_header ? headers : NULL,
		.priority = request->priority,
		.no_cache = request->try.no_cache,
		.on_data = on_data,
		.on_done = on_done,
		.arg = request,
	};
	lm_origin_fill_request(setup, proxy, &http);
	atomic_fetch_add(&origin->requests, 1);
	return lm_http_start(origin->http, &http, &request->transfer, err);
}

/* What is to be asked before or beside a request. */
struct errands {
	struct lm_origin_setup *setup;
	uint8_t names[LM_ORIGIN_PROXIES_MAX];
	unsigned n_names;
	bool geo;
};

/* The first choice. False: the request waits for addresses. */
static bool choose(struct lm_origin_request *request, struct errands *errands)
{
	struct lm_origin *origin = request->origin;
	int64_t now = lm_now_ms();
	LM_LOCKED(&origin->lock);
	struct lm_origin_setup *setup = errands->setup = origin->setup;
	errands->n_names = lm_origin_setup_due(setup, now, errands->names);
	errands->geo = lm_origin_setup_geo_due(setup, now);
	setup->refs += errands->n_names + errands->geo;
	if (lm_origin_setup_waits(setup, now)) {
		TAILQ_INSERT_TAIL(&origin->waiting, request, entry);
		return false;
	}
	request->setup = lm_origin_setup_ref(setup);
	request->policy = lm_origin_policy_ref(setup->policy);
	lm_origin_try_start(request->policy, &request->try, request->path, request->no_cache, now);
	if (atomic_load(&origin->offline))
		lm_origin_try_hasten(&request->try);
	return true;
}

/* The errands may end at once, and the request with them. */
static bool find_way(struct lm_origin_request *request)
{
	struct lm_origin *origin = lm_origin_ref(request->origin);
	struct errands errands;
	bool found = choose(request, &errands);
	for (unsigned i = 0; i < errands.n_names; i++)
		lm_origin_look_up(origin, errands.setup, errands.names[i]);
	if (errands.geo)
		lm_origin_ask_geo(origin, errands.setup);
	lm_origin_unref(origin);
	return found;
}

static void start_attempt(void *arg)
{
	struct lm_origin_request *request = arg;
	struct lm_err err = LM_ERR_INIT;
	if (!request->policy && !find_way(request))
		return;
	int r = begin_attempt(request, &err);
	if (r < 0)
		finish_with(request, r, &err);
}

void lm_origin_wait_over(struct lm_origin *origin)
{
	TAILQ_HEAD(, lm_origin_request) waiting = TAILQ_HEAD_INITIALIZER(waiting);
	TAILQ_CONCAT(&waiting, &origin->waiting, entry);
	for (struct lm_origin_request *request; (request = TAILQ_FIRST(&waiting));) {
		TAILQ_REMOVE(&waiting, request, entry);
		start_attempt(request);
	}
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
	if (!request || !(request->path = strdup(path)) ||
		(like->consumer.info && !(request->info = strdup(like->consumer.info))))
		return lm_err_oom(err);
	request->origin = origin;
	request->call.fn = start_attempt;
	request->call.arg = request;
	request->wake.fn = be_woken;
	request->wake.arg = request;
	if (ret)
		*ret = request;
	atomic_fetch_add(&origin->in_flight, 1);
	/* Addresses of proxies are looked up on the engine's thread, so that is where the first choice is made. */
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

static void copy_latency(struct lm_origin *origin, struct lm_origin_stats *ret)
{
	LM_LOCKED(&origin->lock);
	memcpy(ret->latency, origin->latency, sizeof(ret->latency));
}

void lm_origin_on_success(struct lm_origin *origin, void (*fn)(void *arg), void *arg)
{
	origin->on_success = fn;
	origin->on_success_arg = arg;
}

void lm_origin_stats(struct lm_origin *origin, struct lm_origin_stats *ret)
{
	ret->requests = atomic_load(&origin->requests);
	ret->failed = atomic_load(&origin->failed);
	ret->bytes = atomic_load(&origin->bytes);
	ret->given_up = atomic_load(&origin->given_up);
	ret->failovers = atomic_load(&origin->failovers);
	ret->past_caches = atomic_load(&origin->past_caches);
	ret->in_flight = atomic_load(&origin->in_flight);
	ret->offline = atomic_load(&origin->offline);
	copy_latency(origin, ret);
}

int lm_origin_describe(struct lm_origin *origin, void (*fn)(void *arg, const struct lm_origin_place *place), void *arg)
{
	struct lm_origin_place *places;
	unsigned n;
	lm_lock_take(&origin->lock);
	int r = lm_origin_policy_places(origin->setup->policy, lm_now_ms(), &places, &n);
	lm_lock_release(&origin->lock);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < n; i++)
		fn(arg, &places[i]);
	lm_origin_places_free(places, n);
	return 0;
}
