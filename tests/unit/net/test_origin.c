/* An origin with real requests: servers and proxies that lie. */
#include "net/origin.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"
#include "liar.h"

#include <setjmp.h>
#include <stddef.h>
/* after the above */
#include <cmocka.h>

static struct lm_http *http;
static struct lm_origin *origin;
static struct liar *a, *b, *proxy;
static struct lm_buf body = {.max = 1 << 20};
static struct lm_err err;

static int set_up(void **state)
{
	struct lm_http_limits limits = {.max_per_host = 8};
	a = liar_start();
	b = liar_start();
	proxy = liar_start();
	return lm_http_new(&limits, &http, NULL);
}

static int tear_down(void **state)
{
	lm_origin_freep(&origin);
	lm_http_freep(&http);
	liar_stop(a);
	liar_stop(b);
	liar_stop(proxy);
	return 0;
}

/* Short time-outs, no pauses worth the name. */
static void make(const char *servers, const char *proxies)
{
	struct lm_origin_config config = {
		.servers = servers,
		.proxies = proxies,
		.fqrn = "repo.example.org",
		.timeout_ms = 500,
		.timeout_direct_ms = 500,
		.max_retries = 1,
		.backoff_init_ms = 5,
		.backoff_max_ms = 5,
	};
	lm_origin_freep(&origin);
	assert_int_equal(lm_origin_new(http, &config, &origin, NULL), 0);
}

/* a, then b; proxied by proxies ("DIRECT" for none) */
static void make_ab(const char *proxies)
{
	char servers[256];
	snprintf(servers, sizeof(servers), "%s;%s/", a->url, b->url);
	make(servers, proxies);
}

static int get(const char *path)
{
	lm_buf_clear(&body);
	memset(&err, 0, sizeof(err));
	int r = lm_origin_get_buf(origin, path, &body, &err);
	if (r < 0) {
		assert_int_equal(err.code, r);
		assert_non_null(strstr(err.msg, "repo.example.org"));
		assert_non_null(strstr(err.msg, path));
	}
	return r;
}

static const char *dead_url(void)
{
	static char url[64];
	struct liar *dead = liar_start();
	snprintf(url, sizeof(url), "%s", dead->url);
	liar_stop(dead);
	return url;
}

/* Answers every request with hook_arg as the status line's end and no body. */
static enum liar_next refuse(struct liar *liar, int fd, const struct liar_request *request)
{
	liar_say(liar, fd, "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n", liar->hook_arg);
	return LIAR_KEEP;
}

static void make_refuse(struct liar *liar, const char *status)
{
	liar->hook_arg = status;
	liar->hook = refuse;
}

static enum liar_next reset_all(struct liar *liar, int fd, const struct liar_request *request)
{
	liar_reset(fd);
	return LIAR_CLOSE;
}

static enum liar_next stall_all(struct liar *liar, int fd, const struct liar_request *request)
{
	liar_wait(liar, fd, -1);
	return LIAR_CLOSE;
}

static void test_get(void **state)
{
	struct lm_origin_stats stats;
	make_ab("DIRECT");
	assert_int_equal(get("ok"), 0);
	assert_string_equal(lm_buf_cstr(&body), "hello");
	assert_int_equal(get("big/500000"), 0);
	assert_int_equal(body.len, 500000);
	assert_int_equal(liar_requests(a), 2);
	assert_int_equal(liar_requests(b), 0);
	assert_int_equal(liar_connections(a), 1);
	lm_origin_stats(origin, &stats);
	assert_int_equal(stats.requests, 2);
	assert_int_equal(stats.failed, 0);
	assert_int_equal(stats.bytes, 500005);
}

static void test_too_big(void **state)
{
	make_ab("DIRECT");
	assert_int_equal(get("big/2000000"), -EMSGSIZE);
	assert_int_equal(liar_requests(b), 0);
}

static void test_server_fails_over(void **state)
{
	struct lm_origin_stats stats;
	make_refuse(a, "503 Busy");
	make_ab("DIRECT");
	assert_int_equal(get("ok"), 0);
	assert_int_equal(get("ok"), 0);
	assert_int_equal(liar_requests(a), 1); /* the other one sticks */
	assert_int_equal(liar_requests(b), 2);
	lm_origin_stats(origin, &stats);
	assert_int_equal(stats.requests, 3);
	assert_int_equal(stats.failed, 1);
}

static void test_server_down(void **state)
{
	char servers[256];
	snprintf(servers, sizeof(servers), "%s;%s", dead_url(), b->url);
	make(servers, "DIRECT");
	assert_int_equal(get("ok"), 0);
	assert_int_equal(liar_requests(b), 1);
}

static void test_transport_faults(void **state)
{
	liar_hook *const hooks[] = {reset_all, stall_all};
	for (size_t i = 0; i < ARRAY_LEN(hooks); i++) {
		unsigned before = liar_requests(a);
		a->hook = hooks[i];
		make_ab("DIRECT");
		assert_int_equal(get("ok"), 0);
		assert_string_equal(lm_buf_cstr(&body), "hello"); /* nothing of the first attempt */
		assert_int_equal(liar_requests(a), before + 2);	  /* one retry */
	}
}

static void test_short_body_fails_over(void **state)
{
	make_ab("DIRECT");
	assert_int_equal(get("short"), -EIO);
	assert_int_equal(liar_requests(a), 2);
	assert_int_equal(liar_requests(b), 1);
	assert_int_equal(body.len, 0);
	assert_non_null(strstr(err.msg, b->url));
}

static void test_absent(void **state)
{
	make_ab("DIRECT");
	assert_int_equal(get("nowhere"), -ENOENT);
	assert_int_equal(liar_requests(a), 1);
	assert_int_equal(liar_requests(b), 1);
	assert_int_equal(get("ok"), 0);
	assert_int_equal(liar_requests(a), 2);
	make_refuse(a, "404 Not Found");
	assert_int_equal(get("ok"), 0);
	make_refuse(b, "500 Broken");
	assert_int_equal(get("ok"), -EIO); /* it might be there */
}

static void test_all_down(void **state)
{
	char servers[256];
	int n = snprintf(servers, sizeof(servers), "%s", dead_url());
	snprintf(servers + n, sizeof(servers) - (size_t)n, ";%s", dead_url());
	make(servers, "DIRECT");
	int64_t begin = lm_now_ms();
	assert_int_equal(get("ok"), -EIO);
	assert_true(lm_now_ms() - begin < 4000);
	a->hook = b->hook = stall_all;
	make_ab("DIRECT");
	begin = lm_now_ms();
	assert_int_equal(get("ok"), -ETIMEDOUT);
	assert_true(lm_now_ms() - begin < 6000);
}

/* The message has the last fault of each kind. */
static void test_message(void **state)
{
	a->hook = stall_all;
	make_refuse(b, "500 Broken");
	make_ab("DIRECT");
	assert_int_equal(get("data/ab/cdef"), -EIO);
	assert_non_null(strstr(err.msg, "repository repo.example.org: data/ab/cdef: "));
	assert_non_null(strstr(err.msg, a->url));
	assert_non_null(strstr(err.msg, "slower than"));
	assert_non_null(strstr(err.msg, b->url));
	assert_non_null(strstr(err.msg, "HTTP status 500"));
}

static void test_overload(void **state)
{
	make_refuse(a, "429 Slow Down");
	make_ab("DIRECT");
	assert_int_equal(get("ok"), 0);
	assert_int_equal(liar_requests(a), 2); /* again after a pause, then elsewhere */
	assert_int_equal(liar_requests(b), 1);
}

static void test_through_proxy(void **state)
{
	make("http://stratum.example/cvmfs/@fqrn@", proxy->url);
	make("http://stratum.example", proxy->url);
	assert_int_equal(get("ok"), 0);
	assert_string_equal(proxy->log[0], "http://stratum.example/ok");
	assert_int_equal(get("status/403"), -EIO);
	assert_non_null(strstr(err.msg, "http://stratum.example/status/403"));
	assert_non_null(strstr(err.msg, proxy->url));
}

static void test_proxy_fails_over(void **state)
{
	char proxies[256];
	snprintf(proxies, sizeof(proxies), "%s;%s", dead_url(), proxy->url);
	make("http://stratum.example", proxies);
	assert_int_equal(get("ok"), 0);
	assert_int_equal(liar_requests(proxy), 1);
	/* An answer that is the proxy's fault burns it, too; no way around it is taken that was not configured. */
	make_refuse(proxy, "403 Forbidden");
	assert_int_equal(get("ok"), -EIO);
	make_refuse(proxy, "503 X\r\nX-Squid-Error: ERR_DNS_FAIL 0");
	assert_int_equal(get("ok"), -EIO);
	assert_non_null(strstr(err.msg, "an error of the proxy"));
	assert_int_equal(liar_requests(a) + liar_requests(b), 0);
}

static void test_direct_when_configured(void **state)
{
	char proxies[256];
	snprintf(proxies, sizeof(proxies), "%s;DIRECT", dead_url());
	make(a->url, proxies);
	assert_int_equal(get("ok"), 0);
	assert_int_equal(liar_requests(a), 1);
	make(a->url, dead_url());
	assert_int_equal(get("ok"), -EIO);
	assert_int_equal(liar_requests(a), 1);
}

/* A consumer that knows what it wants. */
struct consumer {
	struct lm_lock lock;
	struct lm_cond cond;
	/* under lock */
	unsigned done;
	int code;
	char msg[LM_ERR_MAX];
	/* engine thread only */
	unsigned begins, ends;
	char bytes[64];
	size_t len;
	const char *want;
	int begin_code, data_code, end_code;
};

static int consumer_begin(void *arg, struct lm_err *error)
{
	struct consumer *c = arg;
	c->begins++;
	c->len = 0;
	return c->begin_code;
}

static int consumer_data(void *arg, const void *data, size_t len, struct lm_err *error)
{
	struct consumer *c = arg;
	if (c->data_code)
		return lm_err_set(error, c->data_code, "refused by test");
	if (len > sizeof(c->bytes) - c->len)
		return -EMSGSIZE;
	memcpy(c->bytes + c->len, data, len);
	c->len += len;
	return 0;
}

static int consumer_end(void *arg, struct lm_err *error)
{
	struct consumer *c = arg;
	c->ends++;
	if (c->end_code)
		return lm_err_set(error, c->end_code, "refused by test");
	if (c->len != strlen(c->want) || memcmp(c->bytes, c->want, c->len) != 0)
		return lm_err_set(error, -EBADMSG, "wrong bytes");
	return 0;
}

static void consumer_done(void *arg, int code, const struct lm_err *error)
{
	struct consumer *c = arg;
	LM_LOCKED(&c->lock);
	c->done++;
	c->code = code;
	snprintf(c->msg, sizeof(c->msg), "%s", error->msg);
	lm_cond_signal(&c->cond);
}

static void consumer_init(struct consumer *c)
{
	*c = (struct consumer){.want = "hello"};
	lm_lock_init(&c->lock);
	lm_cond_init(&c->cond);
}

static void consumer_release(struct consumer *c)
{
	lm_cond_done(&c->cond);
	lm_lock_done(&c->lock);
}

static void consumer_start(struct consumer *c, const char *path, bool no_cache)
{
	struct lm_origin_consumer consumer = {consumer_begin, consumer_data, consumer_end, consumer_done, c};
	assert_int_equal(lm_origin_get(origin, path, LM_HTTP_BLOCKED_READ, no_cache, &consumer, NULL), 0);
}

static int consumer_wait(struct consumer *c, unsigned n)
{
	LM_LOCKED(&c->lock);
	while (c->done < n)
		lm_cond_wait(&c->cond, &c->lock);
	assert_int_equal(c->done, n);
	return c->code;
}

static enum liar_next poisoned_cache(struct liar *liar, int fd, const struct liar_request *request)
{
	if (strcasestr(request->head, "Cache-Control: no-cache"))
		return LIAR_PASS;
	liar_say(liar, fd, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nevil!");
	return LIAR_KEEP;
}

static enum liar_next damage(struct liar *liar, int fd, const struct liar_request *request)
{
	liar_say(liar, fd, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nevil!");
	return LIAR_KEEP;
}

static void test_poisoned_proxy(void **state)
{
	struct consumer c;
	consumer_init(&c);
	proxy->hook = poisoned_cache;
	make("http://stratum.example", proxy->url);
	consumer_start(&c, "ok", false);
	assert_int_equal(consumer_wait(&c, 1), 0);
	assert_int_equal(c.begins, 2);
	assert_int_equal(c.ends, 2);
	consumer_start(&c, "ok", true);
	assert_int_equal(consumer_wait(&c, 2), 0);
	assert_int_equal(c.begins, 3);
	consumer_release(&c);
}

static void test_damaged(void **state)
{
	struct consumer c;
	consumer_init(&c);
	a->hook = damage;
	make_ab("DIRECT");
	consumer_start(&c, "ok", false);
	assert_int_equal(consumer_wait(&c, 1), 0);
	assert_int_equal(liar_requests(a), 2);
	assert_int_equal(liar_requests(b), 1);
	b->hook = damage;
	consumer_start(&c, "ok", false);
	assert_int_equal(consumer_wait(&c, 2), -EBADMSG);
	assert_non_null(strstr(c.msg, "wrong bytes"));
	assert_non_null(strstr(c.msg, a->url));
	consumer_release(&c);
}

static void head(struct consumer *c, const char *path)
{
	struct lm_origin_consumer consumer = {consumer_begin, consumer_data, consumer_end, consumer_done, c};
	assert_int_equal(lm_origin_head(origin, path, LM_HTTP_BLOCKED_READ, &consumer, NULL), 0);
}

static void test_head(void **state)
{
	struct consumer c;
	consumer_init(&c);
	c.want = "";
	c.data_code = -ENOSPC; /* no data comes */
	make_ab("DIRECT");
	head(&c, "ok");
	assert_int_equal(consumer_wait(&c, 1), 0);
	assert_int_equal(liar_connections(a), 1);
	make_refuse(a, "404 Not Found");
	head(&c, "ok");
	assert_int_equal(consumer_wait(&c, 2), 0); /* the next server has it */
	make_refuse(b, "404 Not Found");
	head(&c, "ok");
	assert_int_equal(consumer_wait(&c, 3), -ENOENT);
	make_refuse(b, "503 Busy");
	head(&c, "ok");
	assert_int_equal(consumer_wait(&c, 4), -EIO);
	consumer_release(&c);
}

static void test_damage_seen_in_data(void **state)
{
	struct consumer c;
	consumer_init(&c);
	c.data_code = -EBADMSG;
	make_ab("DIRECT");
	consumer_start(&c, "big/100000", false);
	assert_int_equal(consumer_wait(&c, 1), -EBADMSG);
	assert_int_equal(c.begins, 4);
	assert_int_equal(c.ends, 0);
	assert_non_null(strstr(c.msg, "refused by test"));
	consumer_release(&c);
}

static void test_consumer_ends_it(void **state)
{
	struct consumer c;
	consumer_init(&c);
	make_ab("DIRECT");
	c.end_code = -ENOSPC;
	consumer_start(&c, "ok", false);
	assert_int_equal(consumer_wait(&c, 1), -ENOSPC);
	assert_non_null(strstr(c.msg, "refused by test"));
	c.data_code = -ENOSPC;
	consumer_start(&c, "ok", false);
	assert_int_equal(consumer_wait(&c, 2), -ENOSPC);
	c.begin_code = -EINTR;
	consumer_start(&c, "ok", false);
	assert_int_equal(consumer_wait(&c, 3), -EINTR);
	assert_int_equal(liar_requests(a), 2);
	assert_int_equal(liar_requests(b), 0);
	consumer_release(&c);
}

static void test_bad_path(void **state)
{
	make_ab("DIRECT");
	assert_int_equal(get("a b"), -EINVAL);
	assert_int_equal(get("a\r\nb"), -EINVAL);
	assert_int_equal(liar_requests(a), 0);
}

static void test_bad_config(void **state)
{
	struct lm_origin_config config = {.servers = "nonsense", .proxies = "DIRECT", .fqrn = "repo.example.org"};
	struct lm_origin *none = NULL;
	assert_int_equal(lm_origin_new(http, &config, &none, &err), -EINVAL);
	assert_null(none);
}

static void test_parallel(void **state)
{
	enum { N = 100 };
	static struct consumer c[N];
	char servers[256];
	snprintf(servers, sizeof(servers), "%s;%s", dead_url(), b->url);
	make(servers, "DIRECT");
	for (unsigned i = 0; i < N; i++) {
		consumer_init(&c[i]);
		consumer_start(&c[i], "ok", false);
	}
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(consumer_wait(&c[i], 1), 0);
		consumer_release(&c[i]);
	}
	assert_int_equal(liar_requests(b), N);
}

/* Queued, on the wire, and in a pause before a retry: all end, once. */
static void test_engine_freed(void **state)
{
	struct lm_origin_config config = {
		.servers = a->url,
		.proxies = "DIRECT",
		.fqrn = "repo.example.org",
		.max_retries = 3,
		.backoff_init_ms = 3600 * 1000,
		.backoff_max_ms = 3600 * 1000,
	};
	enum { N = 30 };
	static struct consumer c[N];
	assert_int_equal(lm_origin_new(http, &config, &origin, NULL), 0);
	for (unsigned i = 0; i < N; i++) {
		consumer_init(&c[i]);
		consumer_start(&c[i], i < 5 ? "reset-head" : "gate", false);
	}
	liar_wait_requests(a, 5 + 8);
	lm_http_freep(&http);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(consumer_wait(&c[i], 1), -ECANCELED);
		assert_non_null(strstr(c[i].msg, "repo.example.org"));
		consumer_release(&c[i]);
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_get),
		TEST(test_too_big),
		TEST(test_server_fails_over),
		TEST(test_server_down),
		TEST(test_transport_faults),
		TEST(test_short_body_fails_over),
		TEST(test_absent),
		TEST(test_all_down),
		TEST(test_message),
		TEST(test_overload),
		TEST(test_through_proxy),
		TEST(test_proxy_fails_over),
		TEST(test_direct_when_configured),
		TEST(test_poisoned_proxy),
		TEST(test_damaged),
		TEST(test_head),
		TEST(test_damage_seen_in_data),
		TEST(test_consumer_ends_it),
		TEST(test_bad_path),
		TEST(test_bad_config),
		TEST(test_parallel),
		TEST(test_engine_freed),
	};
	lm_log_init("test_origin", LM_LOG_ERROR);
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	lm_buf_done(&body);
	return r;
}
