/* A request that its caller waits for. */
#include "net/http_internal.h"

#include <assert.h>

struct get {
	const struct lm_http_request *request;
	/* engine thread, until done */
	struct lm_buf *body;
	struct lm_http_result result;
	/* under lock */
	struct lm_lock lock;
	struct lm_cond cond;
	bool done;
};

static int on_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct get *get = arg;
	int r = lm_buf_append(get->body, data, len);
	if (r == -EMSGSIZE)
		return lm_err_set(err, r, "%s: more than %zu bytes", get->request->url, get->body->max);
	return r < 0 ? lm_err_oom(err) : 0;
}

static void on_answer(void *arg, unsigned status)
{
	struct get *get = arg;
	if (get->request->on_answer)
		get->request->on_answer(get->request->arg, status);
}

static void on_header(void *arg, const char *name, const char *value)
{
	struct get *get = arg;
	if (get->request->on_header)
		get->request->on_header(get->request->arg, name, value);
}

static void on_done(void *arg, const struct lm_http_result *result)
{
	struct get *get = arg;
	get->result = *result;
	get->result.where = NULL;
	LM_LOCKED(&get->lock);
	get->done = true;
	lm_cond_signal(&get->cond);
}

static int run(struct lm_http *http, struct get *get, struct lm_err *err)
{
	struct lm_http_request request = *get->request;
	request.on_data = on_data;
	request.on_answer = on_answer;
	request.on_header = on_header;
	request.on_done = on_done;
	request.arg = get;
	int r = lm_http_start(http, &request, NULL, err);
	if (r < 0)
		return r;
	LM_LOCKED(&get->lock);
	while (!get->done)
		lm_cond_wait(&get->cond, &get->lock);
	if (get->result.code == 0)
		return lm_http_status_error(get->result.status, get->request->url, err);
	if (err)
		*err = get->result.err;
	return get->result.code;
}

int lm_http_get(struct lm_http *http, const struct lm_http_request *request, struct lm_buf *body,
	struct lm_http_result *result, struct lm_err *err)
{
	assert(!lm_http_on_engine(http));
	struct get get = {.request = request, .body = body};
	lm_lock_init(&get.lock);
	lm_cond_init(&get.cond);
	size_t len_before = body->len;
	int r = run(http, &get, err);
	if (r < 0 && body->data) {
		body->len = len_before;
		body->data[len_before] = '\0';
	}
	if (result)
		*result = get.result;
	lm_cond_done(&get.cond);
	lm_lock_done(&get.lock);
	return r;
}
