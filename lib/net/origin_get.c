/* A request to an origin that its caller waits for. */
#include "net/http_internal.h"
#include "net/origin.h"

#include <assert.h>

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
	assert(!lm_http_on_engine(lm_origin_http(origin)));
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
