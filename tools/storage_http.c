#include "storage_http.h"

#include "base/file.h"
#include "base/lock.h"
#include "net/origin.h"
#include "source.h"

struct http_storage {
	struct lm_storage storage;
	struct lm_http *http;
	struct lm_origin *origin;
};

static struct http_storage *of(struct lm_storage *storage)
{
	return (struct http_storage *)storage;
}

/* One request, and its caller who waits for it. */
struct request {
	/* engine thread, until done */
	struct lm_buf *buf; /* where bytes go, from buf_start on; NULL: to fd, from fd_start on */
	size_t buf_start;
	int fd;
	off_t fd_start; /* -1: no way back, for a pipe */
	uint64_t received;
	struct lm_hash expected; /* unset: not an object */
	struct lm_hasher *hasher;
	int code;
	struct lm_err err;
	/* under lock */
	struct lm_lock lock;
	struct lm_cond cond;
	bool done;
};

static void request_init(struct request *r)
{
	*r = (struct request){.fd = -1};
	lm_lock_init(&r->lock);
	lm_cond_init(&r->cond);
}

static void request_done(struct request *r)
{
	lm_hasher_free(r->hasher);
	lm_cond_done(&r->cond);
	lm_lock_done(&r->lock);
}

static void forget_buf(struct request *r)
{
	r->buf->len = r->buf_start;
	if (r->buf->data)
		r->buf->data[r->buf_start] = '\0';
}

static int forget_file(struct request *r, struct lm_err *err)
{
	if (r->received == 0)
		return 0;
	if (r->fd_start < 0)
		return lm_err_set(err, -EIO, "a transfer broke off, and what it wrote can't be taken back");
	if (ftruncate(r->fd, r->fd_start) < 0 || lseek(r->fd, r->fd_start, SEEK_SET) < 0)
		return lm_err_sys(err, -errno, "starting over");
	return 0;
}

static int on_begin(void *arg, struct lm_err *err)
{
	struct request *request = arg;
	int r = 0;
	if (request->buf)
		forget_buf(request);
	else if (request->fd >= 0)
		r = forget_file(request, err);
	request->received = 0;
	if (request->hasher)
		lm_hasher_restart(request->hasher);
	return r;
}

static int on_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct request *request = arg;
	request->received += len;
	if (request->hasher)
		lm_hasher_update(request->hasher, data, len);
	if (request->received > LM_STORAGE_HTTP_MAX)
		return lm_err_set(err, -EMSGSIZE, "more than %llu bytes", (unsigned long long)LM_STORAGE_HTTP_MAX);
	if (!request->buf)
		return lm_write_all(request->fd, data, len, err);
	int r = lm_buf_append(request->buf, data, len);
	if (r == -EMSGSIZE)
		return lm_err_set(err, r, "more than %zu bytes", request->buf->max - request->buf_start);
	return r < 0 ? lm_err_oom(err) : 0;
}

static int on_end(void *arg, struct lm_err *err)
{
	struct request *request = arg;
	struct lm_hash actual;
	if (!request->hasher)
		return 0;
	lm_hasher_finish(request->hasher, &actual);
	if (!lm_hash_equal(&actual, &request->expected))
		return lm_err_set(err, -EBADMSG, "the bytes have hash %s", lm_hash_text(&actual).s);
	return 0;
}

static void on_done(void *arg, int code, const struct lm_err *err)
{
	struct request *request = arg;
	request->code = code;
	request->err = *err;
	LM_LOCKED(&request->lock);
	request->done = true;
	lm_cond_signal(&request->cond);
}

static int finish(struct request *request, struct lm_err *err)
{
	LM_LOCKED(&request->lock);
	while (!request->done)
		lm_cond_wait(&request->cond, &request->lock);
	if (request->code < 0 && err)
		*err = request->err;
	return request->code;
}

static struct lm_origin_consumer consumer(struct request *request)
{
	return (struct lm_origin_consumer){on_begin, on_data, on_end, on_done, request};
}

static int get(struct lm_storage *storage, const char *path, struct request *request, struct lm_err *err)
{
	enum lm_object_kind kind;
	struct lm_origin_consumer c = consumer(request);
	int r = 0;
	if (lm_object_path_parse(path, &request->expected, &kind) == 0)
		r = lm_hasher_new(request->expected.algo, &request->hasher, err);
	if (r == 0)
		r = lm_origin_get(of(storage)->origin, path, LM_HTTP_BLOCKED_READ, false, &c, err);
	return r < 0 ? r : finish(request, err);
}

static int http_get(struct lm_storage *storage, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(request_done) struct request request;
	request_init(&request);
	request.buf = ret;
	request.buf_start = ret->len;
	int r = get(storage, path, &request, err);
	if (r < 0)
		forget_buf(&request);
	return r;
}

static int http_get_file(struct lm_storage *storage, const char *path, int fd, struct lm_err *err)
{
	CLEANUP(request_done) struct request request;
	request_init(&request);
	request.fd = fd;
	request.fd_start = lseek(fd, 0, SEEK_CUR);
	return get(storage, path, &request, err);
}

static int http_has(struct lm_storage *storage, const char *path, struct lm_err *err)
{
	CLEANUP(request_done) struct request request;
	struct lm_err reason = LM_ERR_INIT;
	request_init(&request);
	struct lm_origin_consumer c = consumer(&request);
	int r = lm_origin_head(of(storage)->origin, path, LM_HTTP_BLOCKED_READ, &c, err);
	if (r < 0)
		return r;
	r = finish(&request, &reason);
	if (r == -ENOENT)
		return 0;
	return r < 0 ? lm_err_set(err, r, "%s", reason.msg) : 1;
}

static int read_only(const char *path, struct lm_err *err)
{
	return lm_err_set(err, -EROFS, "%s: nothing can be changed by way of a web server", path);
}

static int http_put(struct lm_storage *storage, const char *path, const void *data, size_t len, struct lm_err *err)
{
	return read_only(path, err);
}

static int http_put_file(struct lm_storage *storage, const char *path, int fd, struct lm_err *err)
{
	return read_only(path, err);
}

static int http_remove(struct lm_storage *storage, const char *path, struct lm_err *err)
{
	return read_only(path, err);
}

static int http_alias(struct lm_storage *storage, const char *path, const char *target, struct lm_err *err)
{
	return read_only(path, err);
}

static int http_list(struct lm_storage *storage, const char *dir, lm_storage_list_fn *fn, void *arg, struct lm_err *err)
{
	return lm_err_set(err, -ENOTSUP, "%s: a web server does not tell what it holds", dir);
}

static int http_sync(struct lm_storage *storage, struct lm_err *err)
{
	return 0;
}

static const char *http_scratch(struct lm_storage *storage)
{
	return lm_tmp_dir();
}

static int http_lock(struct lm_storage *storage, const struct lm_storage_wait *wait, struct lm_err *err)
{
	return lm_err_set(err, -EROFS, "a repository can't be changed by way of a web server");
}

static void http_free(struct lm_storage *storage)
{
	struct http_storage *s = of(storage);
	lm_http_free(s->http); /* first: it ends what runs */
	lm_origin_free(s->origin);
	free(s);
}

static const struct lm_storage_ops http_ops = {
	.has = http_has,
	.get = http_get,
	.get_file = http_get_file,
	.put = http_put,
	.put_file = http_put_file,
	.list = http_list,
	.remove = http_remove,
	.alias = http_alias,
	.sync = http_sync,
	.scratch = http_scratch,
	.lock = http_lock,
	.free = http_free,
};

int lm_storage_http_open(
	const char *servers, const char *proxies, const char *fqrn, struct lm_storage **ret, struct lm_err *err)
{
	struct lm_origin_config config = {
		.servers = servers, .proxies = proxies ? proxies : "DIRECT", .fqrn = fqrn, .max_retries = 1};
	struct http_storage *s = calloc(1, sizeof(*s));
	if (!s)
		return lm_err_oom(err);
	s->storage.ops = &http_ops;
	CLEANUP(lm_storage_freep) struct lm_storage *storage = &s->storage;
	int r = lm_http_new(&(struct lm_http_limits){0}, &s->http, err);
	if (r == 0)
		r = lm_origin_new(s->http, &config, &s->origin, err);
	if (r < 0)
		return r;
	*ret = STEAL(storage);
	return 0;
}
