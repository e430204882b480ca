/* An origin with real requests: servers and proxies that lie. */
#include "net/origin.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"
#include "liar.h"
#include "namer.h"

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

/* A request that is waited for: engine's thread, until done. */
static struct {
	int code;
	struct lm_lock lock;
	struct lm_cond cond;
	bool done;
} waiting;

static int get_begin(void *arg, struct lm_err *e)
{
	lm_buf_clear(&body);
	return 0;
}

static int get_data(void *arg, const void *data, size_t len, struct lm_err *e)
{
	int r = lm_buf_append(&body, data, len);
	return r < 0 ? lm_err_set(e, r, "more than %zu bytes", body.max) : 0;
}

static void get_done(void *arg, int code, const struct lm_err *e)
{
	waiting.code = code;
	if (code < 0)
		err = *e;
	LM_LOCKED(&waiting.lock);
	waiting.done = true;
	lm_cond_signal(&waiting.cond);
}

static int get_and_wait(const char *path)
{
	static const struct lm_origin_consumer consumer = {.begin = get_begin, .data = get_data, .done = get_done};
	lm_lock_init(&waiting.lock);
	lm_cond_init(&waiting.cond);
	waiting.done = false;
	int r = lm_origin_get(origin, path, LM_HTTP_BLOCKED_READ, false, &consumer, &err);
	if (r == 0) {
		lm_lock_take(&waiting.lock);
		while (!waiting.done)
			lm_cond_wait(&waiting.cond, &waiting.lock);
		lm_lock_release(&waiting.lock);
		r = waiting.code;
	}
	lm_cond_done(&waiting.cond);
	lm_lock_done(&waiting.lock);
	if (r < 0)
		lm_buf_clear(&body);
	return r;
}

static int get(const char *path)
{
	lm_buf_clear(&body);
	memset(&err, 0, sizeof(err));
	int r = get_and_wait(path);
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
	struct lm_origin_consumer consumer = {
		consumer_begin, consumer_data, consumer_end, consumer_done, c, NULL, NULL};
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
	struct lm_origin_consumer consumer = {
		consumer_begin, consumer_data, consumer_end, consumer_done, c, NULL, NULL};
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

static void make_config(struct lm_origin_config config)
{
	config.fqrn = "repo.example.org";
	config.timeout_ms = config.timeout_direct_ms = config.timeout_ms ? config.timeout_ms : 500;
	config.backoff_init_ms = config.backoff_max_ms = 5;
	lm_origin_freep(&origin);
	if (lm_origin_new(http, &config, &origin, &err) < 0)
		fail_msg("%s", err.msg);
}

struct seen {
	const char *url;
	struct lm_origin_place place;
	char name[128], error[256];
	unsigned count;
};

static void see(void *arg, const struct lm_origin_place *place)
{
	struct seen *seen = arg;
	seen->count++;
	if (strcmp(place->url, seen->url) != 0)
		return;
	seen->place = *place;
	snprintf(seen->name, sizeof(seen->name), "%s", place->name);
	snprintf(seen->error, sizeof(seen->error), "%s", place->error);
}

static struct seen describe(const char *url)
{
	struct seen seen = {.url = url};
	assert_int_equal(lm_origin_describe(origin, see, &seen), 0);
	return seen;
}

/* Then the fallback proxies, and never DIRECT beside them. */
static void test_fallback(void **state)
{
	char proxies[256];
	snprintf(proxies, sizeof(proxies), "%s;DIRECT", dead_url());
	make_config((struct lm_origin_config){.servers = a->url, .proxies = proxies, .fallback_proxies = proxy->url});
	assert_int_equal(get("ok"), 0);
	assert_int_equal(liar_requests(a), 0);
	assert_int_equal(liar_requests(proxy), 1);
	struct seen seen = describe(proxy->url);
	assert_int_equal(seen.count, 3);
	assert_true(seen.place.fallback);
	assert_int_equal(seen.place.state, LM_ORIGIN_IN_USE);
	assert_int_equal(seen.place.requests, 1);
	assert_int_equal(seen.place.bytes, 5);
}

static void test_shard(void **state)
{
	char proxies[256], path[32];
	snprintf(proxies, sizeof(proxies), "%s|%s", a->url, b->url);
	make_config((struct lm_origin_config){.servers = "http://s", .proxies = proxies, .proxy_shard = true});
	for (unsigned i = 0; i < 40; i++) {
		snprintf(path, sizeof(path), "ok%u", i / 2);
		assert_int_equal(get(path), 0);
	}
	assert_true(liar_requests(a) > 0 && liar_requests(b) > 0);
	assert_int_equal(liar_requests(a) % 2 + liar_requests(b) % 2, 0); /* a path always takes the same one */
}

static struct namer *namer;

static int set_up_names(void **state)
{
	namer = namer_start();
	return set_up(state);
}

static int tear_down_names(void **state)
{
	int r = tear_down(state);
	namer_stop(namer);
	return r;
}

/* A name whose first address is dead: 127.0.0.2 at the port of a liar that listens at 127.0.0.1 only. */
static void test_addresses(void **state)
{
	char proxies[128];
	namer_say(namer, "127.0.0.2 127.0.0.1 ::1", 1);
	snprintf(proxies, sizeof(proxies), "http://user:secret@" NAMER_NAME ":%u", proxy->port);
	make_config((struct lm_origin_config){.servers = "http://s", .proxies = proxies, .dns_server = namer->address});
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(get("ok"), 0);
	struct seen seen = describe(proxy->url);
	assert_int_equal(seen.count, 3); /* a server and two addresses: those of the other family are not needed */
	assert_int_equal(seen.place.state, LM_ORIGIN_IN_USE);
	assert_int_equal(seen.place.requests, 5);
	assert_true(strstr(seen.name, "http://" NAMER_NAME ":") == seen.name);
	assert_null(strstr(seen.name, "secret"));
	assert_int_equal(atomic_load(&namer->questions), 2); /* A and AAAA, once: 60 s at least */
}

static void test_preferred_family(void **state)
{
	char proxies[128];
	namer_say(namer, "127.0.0.1 ::1", 1);
	snprintf(proxies, sizeof(proxies), "http://" NAMER_NAME ":%u", proxy->port);
	make_config((struct lm_origin_config){
		.servers = "http://s", .proxies = proxies, .dns_server = namer->address, .ip_family = 6});
	assert_int_equal(get("ok"), -EIO);
	assert_non_null(strstr(err.msg, "http://[::1]:"));
	namer_say(namer, "127.0.0.1", 1); /* only those there are */
	make_config((struct lm_origin_config){
		.servers = "http://s", .proxies = proxies, .dns_server = namer->address, .ip_family = 6});
	assert_int_equal(get("ok"), 0);
}

static void test_few_addresses(void **state)
{
	char proxies[128];
	namer_say(namer, "127.0.0.2 127.0.0.3 127.0.0.4 127.0.0.5", 1);
	snprintf(proxies, sizeof(proxies), "http://" NAMER_NAME ":%u", proxy->port);
	make_config((struct lm_origin_config){
		.servers = "http://s", .proxies = proxies, .dns_server = namer->address, .max_proxy_ips = 3});
	assert_int_equal(get("ok"), -EIO);
	assert_int_equal(describe("x").count, 4);
}

/* No name server: the system's resolver has its try, and in bounded time that is all. */
static void test_name_server_gone(void **state)
{
	namer->silent = true;
	make_config((struct lm_origin_config){.servers = "http://s",
		.proxies = "http://" NAMER_NAME ":1",
		.fallback_proxies = proxy->url,
		.dns_server = namer->address,
		.dns_timeout_ms = 100});
	int64_t begin = lm_now_ms();
	assert_int_equal(get("ok"), 0);
	assert_true(lm_now_ms() - begin < 3000);
	assert_int_equal(liar_requests(proxy), 1);
}

static void test_engine_freed_in_look_up(void **state)
{
	static struct consumer c;
	namer->silent = true;
	consumer_init(&c);
	make_config((struct lm_origin_config){.servers = "http://s",
		.proxies = "http://" NAMER_NAME ":1",
		.dns_server = namer->address,
		.dns_timeout_ms = 60 * 1000});
	consumer_start(&c, "ok", false);
	while (atomic_load(&namer->questions) == 0)
		usleep(1000);
	lm_http_freep(&http);
	assert_int_equal(consumer_wait(&c, 1), -ECANCELED);
	consumer_release(&c);
}

/* Answers questions of the Geo API by hook_arg; anything else as a liar does. */
static enum liar_next geo(struct liar *liar, int fd, const struct liar_request *request)
{
	const char *answer = liar->hook_arg;
	if (!strstr(request->path, "/api/v1.0/geo/"))
		return LIAR_PASS;
	liar_say(liar, fd, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(answer), answer);
	return LIAR_KEEP;
}

static void wait_for_first(const char *url)
{
	while (describe(url).place.state != LM_ORIGIN_IN_USE)
		usleep(1000);
}

static void test_geo(void **state)
{
	char servers[256];
	snprintf(servers, sizeof(servers), "%s;%s", a->url, b->url);
	a->hook_arg = b->hook_arg = "2,1\n";
	a->hook = b->hook = geo;
	make_config((struct lm_origin_config){.servers = servers, .proxies = "DIRECT", .use_geoapi = true});
	assert_int_equal(get("ok"), 0);
	wait_for_first(b->url);
	unsigned before = liar_requests(b);
	assert_int_equal(get("ok"), 0);
	assert_int_equal(liar_requests(b), before + 1);
	assert_int_equal(liar_requests(a) + liar_requests(b), 3); /* asked once */
}

/* Nonsense from one, silence from the other: the order stays. */
static void test_geo_fails(void **state)
{
	a->hook_arg = "2,2\n";
	b->hook_arg = "<html>";
	a->hook = b->hook = geo;
	char servers[256];
	snprintf(servers, sizeof(servers), "%s;%s", a->url, b->url);
	make_config((struct lm_origin_config){.servers = servers, .proxies = "DIRECT", .use_geoapi = true});
	assert_int_equal(get("ok"), 0);
	liar_wait_requests(b, 1);
	assert_int_equal(get("ok"), 0);
	liar_wait_requests(a, 3);
	assert_int_equal(describe(a->url).place.state, LM_ORIGIN_IN_USE);
}

static enum liar_next keep_head(struct liar *liar, int fd, const struct liar_request *request)
{
	snprintf((char *)liar->hook_arg, 1024, "%.1000s", request->head);
	return LIAR_PASS;
}

static void test_info_header(void **state)
{
	static char head[1024];
	struct consumer c;
	a->hook_arg = head;
	a->hook = keep_head;
	make_config((struct lm_origin_config){.servers = a->url, .proxies = "DIRECT", .send_info_header = true});
	assert_int_equal(get("ok"), 0);
	assert_non_null(strstr(head, "\r\ncvmfs-info: ok\r\n"));
	consumer_init(&c);
	struct lm_origin_consumer consumer = {.begin = consumer_begin,
		.data = consumer_data,
		.end = consumer_end,
		.done = consumer_done,
		.arg = &c,
		.info = "/a b\r\nX: \xc3\xa4%"};
	assert_int_equal(lm_origin_get(origin, "ok", LM_HTTP_BLOCKED_READ, false, &consumer, NULL), 0);
	assert_int_equal(consumer_wait(&c, 1), 0);
	assert_non_null(strstr(head, "\r\ncvmfs-info: /a%20b%0D%0AX:%20%C3%A4%25\r\n"));
	consumer_release(&c);
	make_ab("DIRECT");
	assert_int_equal(get("ok"), 0);
	assert_null(strstr(head, "cvmfs-info"));
}

static void test_redirects(void **state)
{
	make_config((struct lm_origin_config){.servers = a->url, .proxies = "DIRECT"});
	assert_int_equal(get("redirect/2"), -EIO);
	make_config((struct lm_origin_config){.servers = a->url, .proxies = "DIRECT", .follow_redirects = true});
	assert_int_equal(get("redirect/2"), 0);
}

static void test_low_speed(void **state)
{
	make_config((struct lm_origin_config){
		.servers = a->url, .proxies = "DIRECT", .low_speed_limit = 1 << 20, .timeout_ms = 200});
	assert_int_equal(get("steady"), -ETIMEDOUT); /* 50 KiB/s */
	make_config((struct lm_origin_config){.servers = a->url, .proxies = "DIRECT", .timeout_ms = 200});
	assert_int_equal(get("steady"), 0);
}

static enum liar_next busy_once(struct liar *liar, int fd, const struct liar_request *request)
{
	if (liar_requests(liar) > 1)
		return LIAR_PASS;
	liar_say(liar, fd, "HTTP/1.1 %s\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", liar->hook_arg);
	return LIAR_KEEP;
}

/* The one server there is says when to come back. */
static void test_retry_after(void **state)
{
	struct lm_origin_config config = {.servers = a->url,
		.proxies = "DIRECT",
		.fqrn = "repo.example.org",
		.max_retries = 1,
		.backoff_init_ms = 1,
		.backoff_max_ms = 2000};
	a->hook_arg = "503 Busy";
	a->hook = busy_once;
	assert_int_equal(lm_origin_new(http, &config, &origin, NULL), 0);
	int64_t begin = lm_now_ms();
	assert_int_equal(get("ok"), 0);
	assert_in_range(lm_now_ms() - begin, 1000, 1900);
	assert_int_equal(liar_requests(a), 2);
}

/* Requests that fail again and again are told so later and later. */
static void test_failure_pause(void **state)
{
	struct lm_origin_stats stats;
	int64_t begin = lm_now_ms();
	make_refuse(a, "500 Broken");
	make_config((struct lm_origin_config){.servers = a->url, .proxies = "DIRECT", .failure_pause_max_ms = 100});
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(get("ok"), -EIO);
	assert_in_range(lm_now_ms() - begin, 32 + 64 + 100 + 100 + 100, 2000);
	lm_origin_stats(origin, &stats);
	assert_true(stats.offline);
	assert_int_equal(stats.given_up, 5);
	a->hook = NULL;
	begin = lm_now_ms();
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(get("nowhere"), -ENOENT); /* that is an answer */
	assert_int_equal(get("ok"), 0);
	assert_true(lm_now_ms() - begin < 300);
	lm_origin_stats(origin, &stats);
	assert_false(stats.offline);
}

static void test_reconfigure(void **state)
{
	struct consumer c;
	struct lm_origin_config config = {.servers = b->url, .proxies = "DIRECT", .fqrn = "repo.example.org"};
	consumer_init(&c);
	make_ab("DIRECT");
	consumer_start(&c, "gate", false);
	liar_wait_requests(a, 1);
	assert_int_equal(lm_origin_reconfigure(origin, &config, &err), 0);
	assert_int_equal(get("ok"), 0);
	assert_int_equal(liar_requests(b), 1);
	liar_open(a);
	assert_int_equal(consumer_wait(&c, 1), 0); /* by the old rules */
	assert_int_equal(liar_requests(a), 1);
	config.proxies = "";
	assert_int_equal(lm_origin_reconfigure(origin, &config, &err), -EINVAL);
	config = (struct lm_origin_config){.servers = b->url, .proxies = "DIRECT", .fqrn = "other.example.org"};
	assert_int_equal(lm_origin_reconfigure(origin, &config, &err), -EINVAL);
	assert_int_equal(get("ok"), 0);
	assert_int_equal(describe(b->url).place.requests, 2);
	consumer_release(&c);
}

static void test_check(void **state)
{
	struct lm_origin_config config = {.servers = "http://a", .proxies = "DIRECT", .fqrn = "repo.example.org"};
	assert_int_equal(lm_origin_check(&config, &err), 0);
	config.dns_server = "somewhere";
	assert_int_equal(lm_origin_check(&config, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "somewhere"));
	config.dns_server = "";
	config.ip_family = 5;
	assert_int_equal(lm_origin_check(&config, &err), -EINVAL);
}

/* Requests, descriptions and reconfigurations from many threads at once. */
static _Atomic(bool) enough;

static void *stir(void *arg)
{
	struct lm_origin_config config = {.servers = a->url, .proxies = "DIRECT", .fqrn = "repo.example.org"};
	for (unsigned i = 0; !enough; i++) {
		config.servers = i % 2 ? b->url : a->url;
		assert_int_equal(lm_origin_reconfigure(origin, &config, NULL), 0);
		assert_int_equal(describe("x").count, 2);
	}
	return NULL;
}

static void test_stir(void **state)
{
	enum { N = 200 };
	static struct consumer c[N];
	pthread_t thread;
	make_ab("DIRECT");
	enough = false;
	assert_int_equal(pthread_create(&thread, NULL, stir, NULL), 0);
	for (unsigned i = 0; i < N; i++) {
		consumer_init(&c[i]);
		consumer_start(&c[i], i % 3 ? "ok" : "nowhere", false);
	}
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(consumer_wait(&c[i], 1), i % 3 ? 0 : -ENOENT);
		consumer_release(&c[i]);
	}
	enough = true;
	pthread_join(thread, NULL);
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

#define NAMES(fn) cmocka_unit_test_setup_teardown(fn, set_up_names, tear_down_names)
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
		TEST(test_fallback),
		TEST(test_shard),
		NAMES(test_addresses),
		NAMES(test_preferred_family),
		NAMES(test_few_addresses),
		NAMES(test_name_server_gone),
		NAMES(test_engine_freed_in_look_up),
		TEST(test_geo),
		TEST(test_geo_fails),
		TEST(test_info_header),
		TEST(test_redirects),
		TEST(test_low_speed),
		TEST(test_retry_after),
		TEST(test_failure_pause),
		TEST(test_reconfigure),
		TEST(test_check),
		TEST(test_stir),
		TEST(test_engine_freed),
	};
	lm_log_init("test_origin", LM_LOG_ERROR);
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	lm_buf_done(&body);
	return r;
}
