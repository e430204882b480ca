/* The engine: its thread, its queues, and which request is next. */
#include "net/http.h"

#include "base/clock.h"
#include "base/version.h"
#include "net/http_internal.h"

#include <assert.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum {
	CONNECTIONS_DEFAULT = 64,
	PER_HOST_DEFAULT = 16,
};

static const char stopping_text[] = "the HTTP engine is being stopped";

struct lm_http {
	/* constant after lm_http_new() */
	unsigned max_connections, max_per_host;
	char *user_agent;
	CURLM *multi;
	pthread_t thread;
	bool has_thread;

	/* under lock */
	struct lm_lock lock;
	struct lm_http_transfers inbox;
	STAILQ_HEAD(, lm_http_call) inbox_calls;
	bool woken;    /* since the inbox was taken last */
	bool stopping; /* requests are refused, calls run at once */
	bool leaving;  /* the thread ends */
	bool resting;  /* while stopping: nothing is under way, nothing was asked for since */
	struct lm_cond rest;

	/* engine thread only */
	TAILQ_HEAD(, lm_http_host) hosts; /* the one served longest ago first */
	struct lm_http_transfers running, ended;
	unsigned n_running;
	struct lm_timers timers;
	unsigned holds;
	struct lm_lookups lookups;
	CURL **idle; /* easy handles for reuse, at most max_connections */
	unsigned n_idle;
};

bool lm_http_on_engine(const struct lm_http *http)
{
	return pthread_equal(http->thread, pthread_self());
}

struct lm_lookups *lm_http_lookups(struct lm_http *http)
{
	return &http->lookups;
}

/* lock held */
static void wake(struct lm_http *http)
{
	lm_lock_assert(&http->lock);
	if (http->woken)
		return;
	http->woken = true;
	if (!lm_http_on_engine(http))
		curl_multi_wakeup(http->multi);
}

int lm_http_start(
	struct lm_http *http, const struct lm_http_request *request, struct lm_http_transfer **ret, struct lm_err *err)
{
	CLEANUP(lm_http_transfer_freep) struct lm_http_transfer *t = NULL;
	int r = lm_http_transfer_new(request, &t, err);
	if (r < 0)
		return r;
	t->http = http;
	LM_LOCKED(&http->lock);
	if (http->stopping)
		return lm_err_set(err, -ECANCELED, "%s: %s", t->where, stopping_text);
	/* Before it is let go: on_done may come at any time from then on. */
	if (ret)
		*ret = t;
	TAILQ_INSERT_TAIL(&http->inbox, t, entry);
	t = NULL;
	wake(http);
	return 0;
}

void lm_http_post(struct lm_http *http, struct lm_http_call *call, unsigned delay_ms)
{
	call->due_ms = lm_now_ms() + delay_ms;
	LM_LOCKED(&http->lock);
	STAILQ_INSERT_TAIL(&http->inbox_calls, call, entry);
	wake(http);
}

int lm_http_call(struct lm_http *http, unsigned delay_ms, void (*fn)(void *arg), void *arg)
{
	struct lm_http_call *call = calloc(1, sizeof(*call));
	if (!call)
		return -ENOMEM;
	call->fn = fn;
	call->arg = arg;
	call->allocated = true;
	lm_http_post(http, call, delay_ms);
	return 0;
}

void lm_http_watch(struct lm_http_transfer *t, int64_t after_ms)
{
	lm_timers_add(&t->http->timers, &t->stall.timer, lm_now_ms() + after_ms);
}

static void set_message(struct lm_http_transfer *t, int code, const char *fmt, va_list args)
{
	char text[CURL_ERROR_SIZE + 128];
	vsnprintf(text, sizeof(text), fmt, args);
	lm_err_set(&t->result.err, code, "%s: %s", t->where, text);
}

void lm_http_end(struct lm_http_transfer *t, int code, const char *fmt, ...)
{
	struct lm_http *http = t->http;
	if (t->state == TRANSFER_ENDED)
		return;
	if (t->state == TRANSFER_QUEUED)
		TAILQ_REMOVE(&t->host->queues[t->request.priority], t, entry);
	else if (t->state == TRANSFER_RUNNING)
		TAILQ_REMOVE(&http->running, t, entry);
	lm_timers_remove(&http->timers, &t->stall.timer);
	/* One in the inbox stays there: enqueue() looks at the state. */
	if (t->state != TRANSFER_SENT)
		TAILQ_INSERT_TAIL(&http->ended, t, entry);
	t->state = TRANSFER_ENDED;
	t->result.code = code;
	if (code < 0 && !t->result.err.msg[0]) {
		va_list args;
		va_start(args, fmt);
		set_message(t, code, fmt, args);
		va_end(args);
	}
}

void lm_http_cancel(struct lm_http_transfer *t)
{
	assert(lm_http_on_engine(t->http));
	lm_http_end(t, -ECANCELED, "canceled");
}

void lm_http_set_priority(struct lm_http_transfer *t, enum lm_http_priority priority)
{
	assert(lm_http_on_engine(t->http));
	if (t->state == TRANSFER_QUEUED)
		TAILQ_REMOVE(&t->host->queues[t->request.priority], t, entry);
	t->request.priority = priority;
	if (t->state == TRANSFER_QUEUED)
		TAILQ_INSERT_TAIL(&t->host->queues[priority], t, entry);
}

void lm_http_hold(struct lm_http *http)
{
	assert(lm_http_on_engine(http));
	http->holds++;
}

void lm_http_unhold(struct lm_http *http)
{
	assert(lm_http_on_engine(http) && http->holds > 0);
	http->holds--;
}

/* Takes over t->peer. NULL when memory is short. */
static struct lm_http_host *find_host(struct lm_http *http, struct lm_http_transfer *t)
{
	for (struct lm_http_host *host = TAILQ_FIRST(&http->hosts); host; host = TAILQ_NEXT(host, entry))
		if (strcmp(host->peer, t->peer) == 0)
			return host;
	struct lm_http_host *host = calloc(1, sizeof(*host));
	if (!host)
		return NULL;
	host->peer = STEAL(t->peer);
	for (unsigned i = 0; i < LM_HTTP_PRIORITIES; i++)
		TAILQ_INIT(&host->queues[i]);
	TAILQ_INSERT_TAIL(&http->hosts, host, entry);
	return host;
}

static void forget_host(struct lm_http *http, struct lm_http_host *host)
{
	TAILQ_REMOVE(&http->hosts, host, entry);
	free(host->peer);
	free(host);
}

static void enqueue(struct lm_http *http, struct lm_http_transfer *t, bool stopping)
{
	if (stopping)
		lm_http_end(t, -ECANCELED, "%s", stopping_text);
	else if (t->state == TRANSFER_SENT && !(t->host = find_host(http, t)))
		lm_http_end(t, -ENOMEM, "out of memory");
	if (t->state == TRANSFER_ENDED) { /* or canceled in the inbox */
		TAILQ_INSERT_TAIL(&http->ended, t, entry);
		return;
	}
	t->host->transfers++;
	t->state = TRANSFER_QUEUED;
	TAILQ_INSERT_TAIL(&t->host->queues[t->request.priority], t, entry);
}

static bool take_inbox(struct lm_http *http)
{
	struct lm_http_transfers transfers = TAILQ_HEAD_INITIALIZER(transfers);
	STAILQ_HEAD(, lm_http_call) calls = STAILQ_HEAD_INITIALIZER(calls);
	lm_lock_take(&http->lock);
	TAILQ_CONCAT(&transfers, &http->inbox, entry);
	STAILQ_CONCAT(&calls, &http->inbox_calls);
	bool stopping = http->stopping;
	http->woken = false;
	lm_lock_release(&http->lock);

	for (struct lm_http_transfer *t, *next = TAILQ_FIRST(&transfers); (t = next);) {
		next = TAILQ_NEXT(t, entry);
		enqueue(http, t, stopping);
	}
	for (struct lm_http_call *call, *next = STAILQ_FIRST(&calls); (call = next);) {
		next = STAILQ_NEXT(call, entry);
		lm_timers_add(&http->timers, &call->timer, call->due_ms);
	}
	return stopping;
}

static void run_calls(struct lm_http *http, bool all)
{
	int64_t now = lm_now_ms();
	struct lm_timer *timer;
	while ((timer = http->timers.first) && (all || timer->due_ms <= now)) {
		struct lm_http_call *call = (struct lm_http_call *)timer;
		bool allocated = call->allocated;
		lm_timers_remove(&http->timers, timer);
		call->fn(call->arg); /* one that is not ours may be gone now, or posted again */
		if (allocated)
			free(call);
	}
}

static void end_everything(struct lm_http *http)
{
	struct lm_http_transfer *t;
	while ((t = TAILQ_FIRST(&http->running)))
		lm_http_end(t, -ECANCELED, "%s", stopping_text);
	for (struct lm_http_host *host = TAILQ_FIRST(&http->hosts); host; host = TAILQ_NEXT(host, entry))
		for (unsigned i = 0; i < LM_HTTP_PRIORITIES; i++)
			while ((t = TAILQ_FIRST(&host->queues[i])))
				lm_http_end(t, -ECANCELED, "%s", stopping_text);
}

static int launch_in_curl(struct lm_http *http, struct lm_http_transfer *t)
{
	t->easy = http->n_idle ? http->idle[--http->n_idle] : curl_easy_init();
	if (!t->easy || lm_http_transfer_setup(t, http->user_agent) < 0)
		return -ENOMEM;
	return curl_multi_add_handle(http->multi, t->easy) == CURLM_OK ? 0 : -ENOMEM;
}

static void launch(struct lm_http *http, struct lm_http_transfer *t)
{
	TAILQ_REMOVE(&t->host->queues[t->request.priority], t, entry);
	TAILQ_INSERT_TAIL(&http->running, t, entry);
	t->state = TRANSFER_RUNNING;
	t->admitted = true;
	t->host->running++;
	http->n_running++;
	if (launch_in_curl(http, t) < 0)
		lm_http_end(t, -ENOMEM, "out of memory");
}

/* Of max connections this many may be in use when a request of that class is let in: the rest waits for better ones. */
static unsigned share(unsigned max, unsigned priority)
{
	return max - max * priority / 8;
}

static struct lm_http_transfer *next_of_class(struct lm_http *http, unsigned priority)
{
	if (http->n_running >= share(http->max_connections, priority))
		return NULL;
	for (struct lm_http_host *host = TAILQ_FIRST(&http->hosts); host; host = TAILQ_NEXT(host, entry)) {
		if (TAILQ_EMPTY(&host->queues[priority]) || host->running >= share(http->max_per_host, priority))
			continue;
		TAILQ_REMOVE(&http->hosts, host, entry);
		TAILQ_INSERT_TAIL(&http->hosts, host, entry);
		return TAILQ_FIRST(&host->queues[priority]);
	}
	return NULL;
}

static void launch_what_fits(struct lm_http *http)
{
	for (unsigned priority = 0; priority < LM_HTTP_PRIORITIES; priority++)
		for (struct lm_http_transfer *t; (t = next_of_class(http, priority));)
			launch(http, t);
}

static void drive_curl(struct lm_http *http)
{
	int running, left;
	curl_multi_perform(http->multi, &running);
	for (CURLMsg *msg; (msg = curl_multi_info_read(http->multi, &left));) {
		char *t = NULL;
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &t);
		lm_http_transfer_complete((struct lm_http_transfer *)t, msg->data.result);
	}
}

/* Kept for reuse only after a success: after some errors curl 7.88 holds on to its buffer and then refuses options. */
static void release_easy(struct lm_http *http, CURL *easy, bool good)
{
	if (!good || http->n_idle == http->max_connections) {
		curl_easy_cleanup(easy);
		return;
	}
	curl_easy_reset(easy);
	http->idle[http->n_idle++] = easy;
}

static void release(struct lm_http *http, struct lm_http_transfer *t)
{
	if (t->easy) {
		curl_multi_remove_handle(http->multi, t->easy);
		release_easy(http, STEAL(t->easy), t->curl_ok);
	}
	if (t->admitted) {
		t->host->running--;
		http->n_running--;
	}
	if (t->host && --t->host->transfers == 0)
		forget_host(http, t->host);
}

/* Hands the ended ones back. False: there were none. */
static bool bury(struct lm_http *http)
{
	bool any = false;
	for (struct lm_http_transfer *t; (t = TAILQ_FIRST(&http->ended)); any = true) {
		TAILQ_REMOVE(&http->ended, t, entry);
		release(http, t);
		t->result.before_connect = t->result.code < 0 && !t->connected;
		t->result.wire_bytes += t->result.body_bytes + t->dropped;
		t->result.where = t->where;
		t->result.total_us = lm_now_us() - t->started_us;
		if (t->request.on_done)
			t->request.on_done(t->request.arg, &t->result);
		lm_http_transfer_free(t);
	}
	return any;
}

static bool inbox_filled(struct lm_http *http)
{
	LM_LOCKED(&http->lock);
	return http->woken;
}

static void wait_for_work(struct lm_http *http)
{
	struct curl_waitfd fds[LM_LOOKUPS_SOCKETS];
	int64_t wait_ms = INT_MAX;
	if (http->timers.first)
		wait_ms = http->timers.first->due_ms - lm_now_ms();
	wait_ms = LM_MIN(LM_MAX(wait_ms, (int64_t)0), (int64_t)INT_MAX);
	unsigned n = lm_lookups_wait(&http->lookups, fds, &wait_ms);
	curl_multi_poll(http->multi, fds, n, (int)wait_ms, NULL);
}

/* Everything has ended: says so. True: the thread is to end, too. */
static bool at_rest(struct lm_http *http)
{
	LM_LOCKED(&http->lock);
	http->resting = !http->woken;
	lm_cond_broadcast(&http->rest);
	return http->resting && http->leaving;
}

static void *engine_main(void *arg)
{
	struct lm_http *http = arg;
	pthread_setname_np(pthread_self(), "lm-http");
	for (;;) {
		bool stopping = take_inbox(http);
		if (stopping)
			end_everything(http);
		run_calls(http, stopping);
		launch_what_fits(http);
		drive_curl(http);
		bool answered = lm_lookups_step(&http->lookups, stopping);
		/* Callbacks may have left work, and ended transfers have left connections. */
		if (bury(http) || answered || inbox_filled(http))
			continue;
		if (stopping && http->holds == 0 && at_rest(http))
			return NULL;
		wait_for_work(http);
	}
}

/* Signals are for the program's own threads. */
static int start_thread(struct lm_http *http, struct lm_err *err)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(&http->thread, NULL, engine_main, http);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		return lm_err_sys(err, -r, "start the HTTP thread");
	http->has_thread = true;
	return 0;
}

static int set_up(struct lm_http *http, const struct lm_http_limits *limits, struct lm_err *err)
{
	const char *agent = limits && limits->user_agent ? limits->user_agent : "lamella/" LM_VERSION;
	http->max_connections = limits && limits->max_connections ? limits->max_connections : CONNECTIONS_DEFAULT;
	http->max_per_host = limits && limits->max_per_host ? limits->max_per_host : PER_HOST_DEFAULT;
	http->user_agent = strdup(agent);
	http->idle = calloc(http->max_connections, sizeof(*http->idle));
	http->multi = curl_multi_init();
	if (!http->user_agent || !http->idle || !http->multi)
		return lm_err_oom(err);
	/* Connections kept for reuse. How many are in use is counted here, for the sake of the priorities. */
	curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long)http->max_connections);
	curl_multi_setopt(http->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
	return 0;
}

static CURLcode curl_ready;

static void init_curl(void)
{
	curl_ready = curl_global_init(CURL_GLOBAL_DEFAULT);
}

int lm_http_new(const struct lm_http_limits *limits, struct lm_http **ret, struct lm_err *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, init_curl);
	if (curl_ready != CURLE_OK)
		return lm_err_set(err, -EIO, "start libcurl: %s", curl_easy_strerror(curl_ready));
	CLEANUP(lm_http_freep) struct lm_http *http = calloc(1, sizeof(*http));
	if (!http)
		return lm_err_oom(err);
	lm_lock_init(&http->lock);
	lm_cond_init(&http->rest);
	TAILQ_INIT(&http->inbox);
	STAILQ_INIT(&http->inbox_calls);
	TAILQ_INIT(&http->hosts);
	TAILQ_INIT(&http->running);
	TAILQ_INIT(&http->ended);
	TAILQ_INIT(&http->lookups);
	int r = set_up(http, limits, err);
	if (r == 0)
		r = start_thread(http, err);
	if (r < 0)
		return r;
	*ret = STEAL(http);
	return 0;
}

void lm_http_stop(struct lm_http *http)
{
	if (!http || !http->has_thread)
		return;
	assert(!lm_http_on_engine(http));
	LM_LOCKED(&http->lock);
	http->stopping = true;
	http->resting = false;
	wake(http);
	while (!http->resting)
		lm_cond_wait(&http->rest, &http->lock);
}

static void join_thread(struct lm_http *http)
{
	lm_http_stop(http);
	lm_lock_take(&http->lock);
	http->leaving = true;
	wake(http);
	lm_lock_release(&http->lock);
	pthread_join(http->thread, NULL);
}

void lm_http_free(struct lm_http *http)
{
	if (!http)
		return;
	if (http->has_thread)
		join_thread(http);
	while (http->n_idle)
		curl_easy_cleanup(http->idle[--http->n_idle]);
	curl_multi_cleanup(http->multi);
	lm_cond_done(&http->rest);
	lm_lock_done(&http->lock);
	free(http->idle);
	free(http->user_agent);
	free(http);
}
