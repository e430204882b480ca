/*
 * A body read by a thread at its own pace: a ring of bytes between the engine and the reader.
 *
 * Bytes that do not fit pause the transfer; the reader has it resumed when half of the ring is free. While the transfer
 * lives, the engine does too, so what is posted under the lock before `done` is set will run.
 */
#include "net/http_internal.h"

#include <assert.h>
#include <string.h>

enum { WINDOW_MIN = 64 << 10 }; /* curl hands over up to 16 KiB at a time: all or nothing */

struct lm_http_stream {
	/* constant after open */
	struct lm_http *http;
	char *url;
	size_t window;
	void (*on_answer)(void *arg, unsigned status); /* the caller's, with their arg */
	void (*on_header)(void *arg, const char *name, const char *value);
	void *arg;
	struct lm_http_transfer *transfer; /* engine thread only, until done */

	/* under lock */
	struct lm_lock lock;
	struct lm_cond changed;
	uint8_t *ring;
	size_t head, held;
	unsigned status;
	bool done, closed;
	bool paused;	   /* bytes were refused since the last resume */
	unsigned in_calls; /* posted and not yet run */
	struct lm_http_call resume, cancel;
	int code; /* with err, when done */
	struct lm_err err;
};

static void on_answer(void *arg, unsigned status)
{
	struct lm_http_stream *s = arg;
	if (s->on_answer)
		s->on_answer(s->arg, status);
	LM_LOCKED(&s->lock);
	s->status = status;
	lm_cond_signal(&s->changed);
}

static void on_header(void *arg, const char *name, const char *value)
{
	struct lm_http_stream *s = arg;
	s->on_header(s->arg, name, value);
}

static int on_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct lm_http_stream *s = arg;
	LM_LOCKED(&s->lock);
	if (s->closed)
		return lm_err_set(err, -ECANCELED, "%s: closed by its reader", s->url);
	if (len > s->window - s->held) {
		s->paused = true;
		return LM_HTTP_PAUSE;
	}
	size_t tail = (s->head + s->held) % s->window;
	size_t first = LM_MIN(len, s->window - tail);
	memcpy(s->ring + tail, data, first);
	memcpy(s->ring, (const uint8_t *)data + first, len - first);
	s->held += len;
	lm_cond_signal(&s->changed);
	return 0;
}

static void on_done(void *arg, const struct lm_http_result *result)
{
	struct lm_http_stream *s = arg;
	LM_LOCKED(&s->lock);
	s->code = result->code;
	s->err = result->err;
	s->done = true;
	lm_cond_signal(&s->changed);
}

static void leave_call(struct lm_http_stream *s)
{
	LM_LOCKED(&s->lock);
	s->in_calls--;
	lm_cond_signal(&s->changed);
}

static bool is_done(struct lm_http_stream *s)
{
	LM_LOCKED(&s->lock);
	return s->done;
}

/* Both on the engine's thread, where done can't change in between. */
static void resume(void *arg)
{
	struct lm_http_stream *s = arg;
	if (!is_done(s))
		lm_http_resume(s->transfer);
	leave_call(s);
}

static void cancel(void *arg)
{
	struct lm_http_stream *s = arg;
	if (!is_done(s))
		lm_http_cancel(s->transfer);
	leave_call(s);
}

/* lock held */
static void post(struct lm_http_stream *s, struct lm_http_call *call, void (*fn)(void *arg))
{
	call->fn = fn;
	call->arg = s;
	s->in_calls++;
	lm_http_post(s->http, call, 0);
}

static int wait_for_answer(struct lm_http_stream *s, struct lm_err *err)
{
	LM_LOCKED(&s->lock);
	while (!s->status && !s->done)
		lm_cond_wait(&s->changed, &s->lock);
	if (s->status)
		return lm_http_status_error(s->status, s->url, err);
	if (err)
		*err = s->err;
	return s->code;
}

static int start(struct lm_http_stream *s, const struct lm_http_request *request, struct lm_err *err)
{
	struct lm_http_request own = *request;
	s->on_answer = request->on_answer;
	s->on_header = request->on_header;
	s->arg = request->arg;
	own.on_answer = on_answer;
	own.on_header = request->on_header ? on_header : NULL;
	own.on_data = on_data;
	own.on_done = on_done;
	own.arg = s;
	s->done = false;
	int r = lm_http_start(s->http, &own, &s->transfer, err);
	if (r < 0)
		s->done = true; /* nothing for the clean-up to wait for */
	return r;
}

int lm_http_stream_open(struct lm_http *http, const struct lm_http_request *request, size_t window,
	struct lm_http_stream **ret, struct lm_err *err)
{
	assert(!lm_http_on_engine(http));
	struct lm_http_stream *s = calloc(1, sizeof(*s));
	if (!s)
		return lm_err_oom(err);
	lm_lock_init(&s->lock);
	lm_cond_init(&s->changed);
	s->done = true;
	CLEANUP(lm_http_stream_closep) struct lm_http_stream *guard = s;
	s->http = http;
	s->window = LM_MAX(window, (size_t)WINDOW_MIN);
	s->ring = malloc(s->window);
	s->url = strdup(request->url);
	if (!s->ring || !s->url)
		return lm_err_oom(err);
	int r = start(s, request, err);
	if (r == 0)
		r = wait_for_answer(s, err);
	if (r < 0)
		return r;
	*ret = STEAL(guard);
	return 0;
}

/* lock held, something held */
static size_t take(struct lm_http_stream *s, void *ret, size_t len)
{
	len = LM_MIN(len, s->held);
	size_t first = LM_MIN(len, s->window - s->head);
	memcpy(ret, s->ring + s->head, first);
	memcpy((uint8_t *)ret + first, s->ring, len - first);
	s->head = (s->head + len) % s->window;
	s->held -= len;
	if (s->paused && !s->done && s->held <= s->window / 2) {
		s->paused = false;
		post(s, &s->resume, resume);
	}
	return len;
}

ssize_t lm_http_stream_read(struct lm_http_stream *s, void *ret, size_t len, struct lm_err *err)
{
	LM_LOCKED(&s->lock);
	while (len && !s->held && !s->done)
		lm_cond_wait(&s->changed, &s->lock);
	if (len && s->held)
		return (ssize_t)take(s, ret, LM_MIN(len, (size_t)SSIZE_MAX));
	if (!s->done || s->code == 0)
		return 0;
	if (err)
		*err = s->err;
	return s->code;
}

void lm_http_stream_close(struct lm_http_stream *s)
{
	if (!s)
		return;
	lm_lock_take(&s->lock);
	s->closed = true;
	if (!s->done)
		post(s, &s->cancel, cancel);
	while (!s->done || s->in_calls)
		lm_cond_wait(&s->changed, &s->lock);
	lm_lock_release(&s->lock);
	lm_cond_done(&s->changed);
	lm_lock_done(&s->lock);
	free(s->ring);
	free(s->url);
	free(s);
}
