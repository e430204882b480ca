/* The HTTP engine against a server that lies. */
#include "net/http.h"

#include "base/clock.h"
#include "base/lock.h"
#include "liar.h"

#include <setjmp.h>
#include <stddef.h>
/* after the above */
#include <cmocka.h>

enum { CONNECT_MS = 2000, STALL_MS = 500 };

static struct lm_http *http;
static struct liar *liar;

static void make_engine(unsigned connections, unsigned per_host)
{
	struct lm_http_limits limits = {connections, per_host, "liar-test"};
	assert_int_equal(lm_http_new(&limits, &http, NULL), 0);
}

static int set_up(void **state)
{
	liar = liar_start();
	make_engine(0, 0);
	return 0;
}

static int tear_down(void **state)
{
	lm_http_free(http);
	http = NULL;
	liar_stop(liar);
	return 0;
}

static struct lm_http_request request_for(const char *url)
{
	return (struct lm_http_request){.url = url, .connect_timeout_ms = CONNECT_MS, .stall_timeout_ms = STALL_MS};
}

/* Fetches base + path; the body, as text, stays until the next call. */
static struct {
	struct lm_buf body;
	struct lm_http_result result;
	struct lm_err err;
} got = {.body = {.max = 64 << 20}};

static int get_request(struct lm_http_request *request)
{
	lm_buf_clear(&got.body);
	memset(&got.err, 0, sizeof(got.err));
	int r = lm_http_get(http, request, &got.body, &got.result, &got.err);
	if (r < 0)
		assert_true(got.err.msg[0] && got.err.code == r);
	return r;
}

static int get(const char *path)
{
	char url[512];
	snprintf(url, sizeof(url), "%s%s", liar->url, path);
	struct lm_http_request request = request_for(url);
	return get_request(&request);
}

static void assert_body_pattern(size_t size)
{
	assert_int_equal(got.body.len, size);
	for (size_t i = 0; i < size; i++)
		if (got.body.data[i] != liar_byte(i))
			fail_msg("byte %zu differs", i);
}

static void test_get(void **state)
{
	assert_int_equal(get("/ok"), 0);
	assert_string_equal(lm_buf_cstr(&got.body), "hello");
	assert_int_equal(got.result.status, 200);
	assert_int_equal(got.result.body_bytes, 5);
	assert_true(got.result.wire_bytes > 40);
	assert_true(got.result.total_us > 0);
	assert_int_equal(get("/big/3000000"), 0);
	assert_body_pattern(3000000);
	assert_int_equal(get("/chunked/1000000"), 0);
	assert_body_pattern(1000000);
	assert_int_equal(get("/chunked/0"), 0);
	assert_int_equal(get("/trailer"), 0);
	assert_string_equal(lm_buf_cstr(&got.body), "hello");
	assert_int_equal(liar_connections(liar), 1);
}

static void test_head(void **state)
{
	char url[128];
	snprintf(url, sizeof(url), "%s/big/1000", liar->url);
	struct lm_http_request request = request_for(url);
	request.method = "HEAD";
	assert_int_equal(get_request(&request), 0);
	assert_int_equal(got.body.len, 0);
	assert_int_equal(get("/ok"), 0);
	assert_int_equal(liar_connections(liar), 1);
}

static void test_statuses(void **state)
{
	static const struct {
		const char *path;
		int code;
	} cases[] = {{"/status/404", -ENOENT}, {"/status/401", -EACCES}, {"/status/403", -EACCES},
		{"/status/400", -EIO}, {"/status/429", -EIO}, {"/status/500", -EIO}, {"/status/503", -EIO},
		{"/status/304", -EIO}, {"/redirect/1", -EIO}};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(get(cases[i].path), cases[i].code);
		assert_int_equal(got.result.code, 0);
		assert_int_equal(got.body.len, 0);
		assert_non_null(strstr(got.err.msg, liar->url));
	}
	assert_int_equal(get("/status/206"), 0);
	assert_int_equal(liar_connections(liar), 1);
}

static void test_refusal_bodies(void **state)
{
	assert_int_equal(get("/status-big/404"), -ENOENT);
	assert_int_equal(got.result.status, 404);
	assert_int_equal(got.result.body_bytes, 0);
	assert_true(got.result.wire_bytes < 256 << 10);
	assert_int_equal(get("/squid/503"), -EIO);
	assert_true(got.result.proxy_error);
	assert_int_equal(get("/status-proxy/502"), -EIO);
	assert_true(got.result.proxy_error);
	assert_int_equal(get("/status/502"), -EIO);
	assert_false(got.result.proxy_error);
}

/* No wrong byte, no short body is ever taken for a success, and each lie ends quickly. */
static void test_lies(void **state)
{
	static const struct {
		const char *path;
		int code;
	} cases[] = {{"/short", -EIO}, {"/short-chunked", -EIO}, {"/unframed", -EIO}, {"/bad-length", -EIO},
		{"/two-lengths", -EIO}, {"/gzip-coded", -EIO}, {"/reset", -EIO}, {"/reset-head", -EIO},
		{"/garbage", -EIO}, {"/http09", -EIO}, {"/huge-header", -EIO}, {"/many-headers", -EIO},
		{"/endless-100", -EIO}, {"/stall-head", -ETIMEDOUT}, {"/stall-headers", -ETIMEDOUT},
		{"/stall-body", -ETIMEDOUT}, {"/drip-body", -ETIMEDOUT}, {"/drip-headers", -ETIMEDOUT}};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		int64_t begin = lm_now_ms();
		int r = get(cases[i].path);
		if (r != cases[i].code)
			fail_msg("%s: %d (%s)", cases[i].path, r, lm_err_text(&got.err));
		assert_int_equal(got.result.code, r);
		assert_false(got.result.before_connect);
		assert_non_null(strstr(got.err.msg, cases[i].path));
		assert_true(lm_now_ms() - begin < 10 * STALL_MS);
		assert_int_equal(get("/ok"), 0); /* nothing of it is left */
		assert_string_equal(lm_buf_cstr(&got.body), "hello");
	}
}

static void test_excess_bytes(void **state)
{
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(get("/long"), 0);
		assert_string_equal(lm_buf_cstr(&got.body), "hello");
		assert_int_equal(get("/big/7"), 0);
		assert_body_pattern(7);
	}
}

static void test_steady_is_not_stalled(void **state)
{
	assert_int_equal(get("/steady"), 0); /* 1.3 s, more than twice the stall time, but never slow */
	assert_int_equal(got.body.len, 65536);
}

static void test_kept_connection_dies(void **state)
{
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(get("/close"), 0);
		assert_string_equal(lm_buf_cstr(&got.body), "hello");
	}
}

static void test_connect_refused(void **state)
{
	struct liar *dead = liar_start();
	char url[128];
	snprintf(url, sizeof(url), "%s/ok", dead->url);
	liar_stop(dead);
	struct lm_http_request request = request_for(url);
	assert_int_equal(get_request(&request), -EIO);
	assert_true(got.result.before_connect);
	assert_int_equal(got.result.status, 0);
}

/* A listener whose queue is full drops what comes. */
static void test_connect_timeout(void **state)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0), fill[8];
	assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&address, len) == 0 && listen(fd, 0) == 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
	for (size_t i = 0; i < ARRAY_LEN(fill); i++) {
		fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		(void)!connect(fill[i], (struct sockaddr *)&address, len);
	}
	char url[64];
	snprintf(url, sizeof(url), "http://127.0.0.1:%u/ok", ntohs(address.sin_port));
	struct lm_http_request request = request_for(url);
	request.connect_timeout_ms = 200;
	int64_t begin = lm_now_ms();
	assert_int_equal(get_request(&request), -ETIMEDOUT);
	assert_true(got.result.before_connect);
	assert_true(lm_now_ms() - begin < 2000);
	for (size_t i = 0; i < ARRAY_LEN(fill); i++)
		close(fill[i]);
	close(fd);
}

static void test_invalid_requests(void **state)
{
	static const char *const urls[] = {"", "no url", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://",
		"http://a b/", "http://127.0.0.1:99999/", "http://127.0.0.1/\r\nX: y"};
	for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
		struct lm_http_request request = request_for(urls[i]);
		if (get_request(&request) != -EINVAL)
			fail_msg("%s: accepted", urls[i]);
	}
	struct lm_http_request request = request_for(liar->url);
	request.method = "PUT";
	assert_int_equal(get_request(&request), -EINVAL);
	request.method = NULL;
	request.proxy = "socks5://127.0.0.1:1";
	assert_int_equal(get_request(&request), -EINVAL);
	request.proxy = NULL;
	const char *const headers[] = {"X-A: b\r\nX-B: c", NULL};
	request.headers = headers;
	assert_int_equal(get_request(&request), -EINVAL);
	assert_int_equal(liar_requests(liar), 0);
}

static void test_body_limit(void **state)
{
	char url[128];
	snprintf(url, sizeof(url), "%s/big/100000", liar->url);
	struct lm_http_request request = request_for(url);
	CLEANUP(lm_buf_done) struct lm_buf small = LM_BUF(1000);
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_buf_str(&small, "before"), 0);
	assert_int_equal(lm_http_get(http, &request, &small, NULL, &err), -EMSGSIZE);
	assert_string_equal(lm_buf_cstr(&small), "before");
	assert_int_equal(get("/ok"), 0);
}

/* What the request looks like on the wire. */
static char seen_head[LIAR_HEAD];
static enum liar_next remember_head(struct liar *server, int fd, const struct liar_request *request)
{
	memcpy(seen_head, request->head, sizeof(seen_head));
	return LIAR_PASS;
}

static void test_request_headers(void **state)
{
	char url[128];
	const char *const headers[] = {"Accept: text/x-test", "Range: bytes=0-1", NULL};
	liar->hook = remember_head;
	snprintf(url, sizeof(url), "%s/ok", liar->url);
	struct lm_http_request request = request_for(url);
	request.headers = headers;
	assert_int_equal(get_request(&request), 0);
	assert_non_null(strstr(seen_head, "Accept: text/x-test\r\n"));
	assert_non_null(strstr(seen_head, "Range: bytes=0-1\r\n"));
	assert_non_null(strstr(seen_head, "User-Agent: liar-test\r\n"));
	assert_null(strcasestr(seen_head, "no-cache"));
	assert_null(strcasestr(seen_head, "Accept-Encoding"));
	request.no_cache = true;
	request.headers = NULL;
	assert_int_equal(get_request(&request), 0);
	assert_non_null(strstr(seen_head, "Cache-Control: no-cache\r\n"));
	assert_non_null(strstr(seen_head, "Pragma: no-cache\r\n"));
	assert_null(strstr(seen_head, "text/x-test")); /* a handle that is used again keeps nothing */
}

static char seen_headers[1024];
static void collect_header(void *arg, const char *name, const char *value)
{
	size_t len = strlen(seen_headers);
	snprintf(seen_headers + len, sizeof(seen_headers) - len, "%s=%s;", name, value);
}

static void test_answer_headers(void **state)
{
	char url[128];
	snprintf(url, sizeof(url), "%s/redirect/3", liar->url);
	struct lm_http_request request = request_for(url);
	request.on_header = collect_header;
	request.follow_redirects = true;
	seen_headers[0] = '\0';
	assert_int_equal(get_request(&request), 0);
	assert_string_equal(seen_headers, "content-length=5;x-test=a value;"); /* of the last answer only */
	snprintf(url, sizeof(url), "%s/early", liar->url);
	seen_headers[0] = '\0';
	assert_int_equal(get_request(&request), 0);
	assert_string_equal(seen_headers, "content-length=5;x-test=a value;");
	snprintf(url, sizeof(url), "%s/redirect/1", liar->url);
	request.follow_redirects = false;
	seen_headers[0] = '\0';
	assert_int_equal(get_request(&request), -EIO);
	assert_string_equal(seen_headers, "location=/redirect/0;x-hop=yes;content-length=3;");
	assert_int_equal(got.result.status, 302);
}

static void test_redirects(void **state)
{
	char url[512];
	struct lm_http_request request = request_for(url);
	request.follow_redirects = true;
	snprintf(url, sizeof(url), "%s/redirect/8", liar->url);
	assert_int_equal(get_request(&request), 0);
	snprintf(url, sizeof(url), "%s/redirect/9", liar->url);
	assert_int_equal(get_request(&request), -EIO);
	static const char *const bad[] = {"file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		snprintf(url, sizeof(url), "%s/redirect-to?%s", liar->url, bad[i]);
		assert_int_equal(get_request(&request), -EIO);
		assert_int_equal(got.body.len, 0);
	}
}

static void test_redirect_drops_authorization(void **state)
{
	struct liar *other = liar_start();
	char url[512];
	const char *const headers[] = {"Authorization: Bearer secret", NULL};
	liar->hook = other->hook = remember_head;
	struct lm_http_request request = request_for(url);
	request.follow_redirects = true;
	request.headers = headers;
	snprintf(url, sizeof(url), "%s/redirect-to?/ok", liar->url);
	assert_int_equal(get_request(&request), 0);
	assert_non_null(strstr(seen_head, "secret"));
	snprintf(url, sizeof(url), "%s/redirect-to?%s/ok", liar->url, other->url);
	assert_int_equal(get_request(&request), 0);
	assert_int_equal(liar_requests(other), 1);
	assert_null(strstr(seen_head, "secret"));
	lm_http_free(http); /* closes its connections */
	http = NULL;
	liar_stop(other);
}

static void test_proxy(void **state)
{
	struct lm_http_request request = request_for("http://repository.example/ok");
	request.proxy = liar->url;
	assert_int_equal(get_request(&request), 0);
	assert_string_equal(liar->log[0], "http://repository.example/ok");

	/* Passwords of a proxy stay out of messages. */
	char proxy[128];
	snprintf(proxy, sizeof(proxy), "http://user:secret@127.0.0.1:%u", liar->port);
	request.proxy = proxy;
	request.url = "http://repository.example/short";
	assert_int_equal(get_request(&request), -EIO);
	assert_null(strstr(got.err.msg, "secret"));
	assert_non_null(strstr(got.err.msg, "http://repository.example/short"));
	assert_non_null(strstr(got.err.msg, liar->url));
}

/* A proxy that refuses to make a tunnel: its answer is not the server's. */
static void test_tunnel_refused(void **state)
{
	struct lm_http_request request = request_for("https://repository.example/ok");
	request.proxy = liar->url;
	assert_int_equal(get_request(&request), -EIO);
	assert_true(got.result.before_connect);
	assert_int_equal(got.result.status, 0);
	assert_string_equal(liar->log[0], "repository.example:443");
}

/* Proxy variables point into the void. */
static void test_environment_is_ignored(void **state)
{
	setenv("http_proxy", "http://127.0.0.1:1", 1);
	setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
	assert_int_equal(get("/ok"), 0);
	setenv("no_proxy", "*", 1);
	struct lm_http_request request = request_for("http://repository.example/ok");
	request.proxy = liar->url;
	assert_int_equal(get_request(&request), 0);
	unsetenv("http_proxy");
	unsetenv("ALL_PROXY");
	unsetenv("no_proxy");
}

static void test_ipv6(void **state)
{
	struct liar *six = liar_start_on(true);
	if (!six)
		skip();
	char url[128];
	snprintf(url, sizeof(url), "%s/ok", six->url);
	struct lm_http_request request = request_for(url);
	assert_int_equal(get_request(&request), 0);
	request.url = "http://repository.example/ok";
	request.proxy = six->url;
	assert_int_equal(get_request(&request), 0);
	lm_http_free(http);
	http = NULL;
	liar_stop(six);
}

/* Requests that are not waited for one by one. */
struct flight {
	struct lm_lock lock;
	struct lm_cond cond;
	/* under lock */
	unsigned done, by_code[3]; /* 0, -ECANCELED, others */
	/* engine thread only */
	unsigned bytes, restarts;
	char order[64];
	struct lm_http_transfer *transfer;
};

static struct flight *flight_new(void)
{
	struct flight *flight = calloc(1, sizeof(*flight));
	lm_lock_init(&flight->lock);
	lm_cond_init(&flight->cond);
	return flight;
}

static void flight_free(struct flight *flight)
{
	lm_cond_done(&flight->cond);
	lm_lock_done(&flight->lock);
	free(flight);
}

static void flight_wait(struct flight *flight, unsigned n)
{
	LM_LOCKED(&flight->lock);
	while (flight->done < n)
		lm_cond_wait(&flight->cond, &flight->lock);
	assert_int_equal(flight->done, n);
}

static int flight_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct flight *flight = arg;
	flight->bytes += (unsigned)len;
	return 0;
}

static void flight_done(void *arg, const struct lm_http_result *result)
{
	struct flight *flight = arg;
	LM_LOCKED(&flight->lock);
	flight->done++;
	flight->by_code[result->code == 0 ? 0 : result->code == -ECANCELED ? 1 : 2]++;
	lm_cond_signal(&flight->cond);
}

static void launch(
	struct flight *flight, const char *path, enum lm_http_priority priority, struct lm_http_transfer **ret)
{
	char url[256];
	snprintf(url, sizeof(url), "%s%s", liar->url, path);
	struct lm_http_request request = request_for(url);
	request.stall_timeout_ms = 20000;
	request.priority = priority;
	request.on_data = flight_data;
	request.on_done = flight_done;
	request.arg = flight;
	assert_int_equal(lm_http_start(http, &request, ret, NULL), 0);
}

static void test_parallel(void **state)
{
	struct flight *flight = flight_new();
	for (unsigned i = 0; i < 200; i++)
		launch(flight, i % 2 ? "/big/70000" : "/chunked/70000", i % LM_HTTP_PRIORITIES, NULL);
	flight_wait(flight, 200);
	assert_int_equal(flight->by_code[0], 200);
	assert_int_equal(flight->bytes, 200 * 70000);
	assert_in_range(liar_connections(liar), 2, 16);
	flight_free(flight);
}

static unsigned position(const char *path)
{
	for (unsigned i = 0; i < liar->n_requests; i++)
		if (strcmp(liar->log[i], path) == 0)
			return i;
	fail_msg("%s was not asked for", path);
	return 0;
}

static void test_priorities(void **state)
{
	lm_http_free(http);
	make_engine(8, 1);
	struct flight *flight = flight_new();
	launch(flight, "/gate", LM_HTTP_BLOCKED_READ, NULL);
	liar_wait_requests(liar, 1);
	launch(flight, "/ok/prefetch1", LM_HTTP_PREFETCH, NULL);
	launch(flight, "/ok/ahead1", LM_HTTP_READ_AHEAD, NULL);
	launch(flight, "/ok/prefetch2", LM_HTTP_PREFETCH, NULL);
	launch(flight, "/ok/blocked1", LM_HTTP_BLOCKED_READ, NULL);
	launch(flight, "/ok/ahead2", LM_HTTP_READ_AHEAD, NULL);
	launch(flight, "/ok/blocked2", LM_HTTP_BLOCKED_READ, NULL);
	liar_open(liar);
	flight_wait(flight, 7);
	assert_int_equal(position("/ok/blocked1"), 1);
	assert_int_equal(position("/ok/blocked2"), 2);
	assert_int_equal(position("/ok/ahead1"), 3);
	assert_int_equal(position("/ok/ahead2"), 4);
	assert_int_equal(position("/ok/prefetch1"), 5);
	assert_int_equal(position("/ok/prefetch2"), 6);
	assert_int_equal(liar_connections(liar), 1);
	flight_free(flight);
}

/* Prefetches that never end leave room for a blocked read. */
static void test_reserve(void **state)
{
	lm_http_free(http);
	make_engine(64, 8);
	struct flight *flight = flight_new();
	for (unsigned i = 0; i < 20; i++)
		launch(flight, "/gate", LM_HTTP_PREFETCH, NULL);
	liar_wait_requests(liar, 6);
	assert_int_equal(get("/ok"), 0);
	assert_int_equal(liar_requests(liar), 7);
	liar_open(liar);
	flight_wait(flight, 20);
	flight_free(flight);
}

static void cancel_transfer(void *arg)
{
	lm_http_cancel(arg);
}

static void test_cancel(void **state)
{
	lm_http_free(http);
	make_engine(2, 2);
	struct flight *flight = flight_new();
	struct lm_http_transfer *running, *queued;
	launch(flight, "/gate", LM_HTTP_BLOCKED_READ, NULL);
	launch(flight, "/gate", LM_HTTP_BLOCKED_READ, &running);
	liar_wait_requests(liar, 2);
	launch(flight, "/ok/queued", LM_HTTP_BLOCKED_READ, &queued);
	launch(flight, "/ok/next", LM_HTTP_BLOCKED_READ, NULL);
	assert_int_equal(lm_http_call(http, 0, cancel_transfer, queued), 0);
	flight_wait(flight, 1);
	assert_int_equal(lm_http_call(http, 10, cancel_transfer, running), 0);
	flight_wait(flight, 3); /* the connection was free for the next */
	assert_int_equal(flight->by_code[1], 2);
	liar_open(liar);
	flight_wait(flight, 4);
	assert_int_equal(liar_requests(liar), 3);
	flight_free(flight);
}

static int cancel_in_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct flight *flight = arg;
	flight->bytes++;
	lm_http_cancel(flight->transfer);
	lm_http_cancel(flight->transfer);
	return 0;
}

static void remember_status(void *arg, unsigned status)
{
	struct flight *flight = arg;
	snprintf(flight->order, sizeof(flight->order), "%u", status);
}

static void cancel_in_answer(void *arg, unsigned status)
{
	struct flight *flight = arg;
	remember_status(arg, status);
	lm_http_cancel(flight->transfer);
}

static void test_cancel_in_callbacks(void **state)
{
	struct flight *flight = flight_new();
	char url[128];
	snprintf(url, sizeof(url), "%s/big/1000000", liar->url);
	struct lm_http_request request = request_for(url);
	request.on_data = cancel_in_data;
	request.on_answer = remember_status;
	request.on_done = flight_done;
	request.arg = flight;
	assert_int_equal(lm_http_start(http, &request, &flight->transfer, NULL), 0);
	flight_wait(flight, 1);
	assert_int_equal(flight->bytes, 1);
	assert_int_equal(flight->by_code[1], 1);
	assert_string_equal(flight->order, "200");
	request.on_answer = cancel_in_answer;
	assert_int_equal(lm_http_start(http, &request, &flight->transfer, NULL), 0);
	flight_wait(flight, 2);
	assert_int_equal(flight->bytes, 1);
	assert_int_equal(flight->by_code[1], 2);
	flight_free(flight);
}

static int refuse_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	return -EBADMSG;
}

static void code_done(void *arg, const struct lm_http_result *result)
{
	struct flight *flight = arg;
	flight->bytes = (unsigned)-result->code;
	snprintf(flight->order, sizeof(flight->order), "%.60s", result->err.msg);
	flight_done(arg, result);
}

static void test_receiver_refuses(void **state)
{
	struct flight *flight = flight_new();
	char url[128];
	snprintf(url, sizeof(url), "%s/big/1000000", liar->url);
	struct lm_http_request request = request_for(url);
	request.on_data = refuse_data;
	request.on_done = code_done;
	request.arg = flight;
	assert_int_equal(lm_http_start(http, &request, NULL, NULL), 0);
	flight_wait(flight, 1);
	assert_int_equal(flight->bytes, EBADMSG);
	assert_true(flight->order[0]);
	flight_free(flight);
}

static void restart_done(void *arg, const struct lm_http_result *result)
{
	struct flight *flight = arg;
	if (result->code == 0 && ++flight->restarts < 50) {
		char url[128];
		snprintf(url, sizeof(url), "%s/ok", liar->url);
		struct lm_http_request request = request_for(url);
		request.on_done = restart_done;
		request.arg = flight;
		if (lm_http_start(http, &request, NULL, NULL) == 0)
			return;
	}
	flight_done(arg, result);
}

static void test_start_in_done(void **state)
{
	struct flight *flight = flight_new();
	struct lm_http_result begin = {0};
	restart_done(flight, &begin);
	flight_wait(flight, 1);
	assert_int_equal(flight->restarts, 50);
	assert_int_equal(liar_connections(liar), 1);
	flight_free(flight);
}

static struct {
	_Atomic(unsigned) count;
	char order[8];
	int64_t at_ms[8];
} calls;

static void note_call(void *arg)
{
	unsigned n = atomic_load(&calls.count);
	calls.order[n] = *(const char *)arg;
	calls.at_ms[n] = lm_now_ms();
	atomic_store(&calls.count, n + 1);
}

static void test_calls(void **state)
{
	static char letters[] = "abcz";
	atomic_store(&calls.count, 0);
	int64_t begin = lm_now_ms();
	assert_int_equal(lm_http_call(http, 60, note_call, &letters[2]), 0);
	assert_int_equal(lm_http_call(http, 30, note_call, &letters[1]), 0);
	assert_int_equal(lm_http_call(http, 0, note_call, &letters[0]), 0);
	assert_int_equal(lm_http_call(http, 3600 * 1000, note_call, &letters[3]), 0);
	while (atomic_load(&calls.count) < 3)
		usleep(1000);
	assert_memory_equal(calls.order, "abc", 3);
	assert_true(calls.at_ms[1] - begin >= 30 && calls.at_ms[2] - begin >= 60);
	lm_http_free(http); /* calls the last one at once */
	http = NULL;
	assert_int_equal(atomic_load(&calls.count), 4);
}

static void test_free_in_flight(void **state)
{
	lm_http_free(http);
	make_engine(4, 4);
	struct flight *flight = flight_new();
	for (unsigned i = 0; i < 20; i++)
		launch(flight, "/gate", i % LM_HTTP_PRIORITIES, NULL);
	liar_wait_requests(liar, 4);
	launch(flight, "/ok/late", LM_HTTP_BLOCKED_READ, NULL);
	lm_http_free(http);
	http = NULL;
	flight_wait(flight, 21);
	assert_int_equal(flight->by_code[1], 21);
	flight_free(flight);
}

/* on_done starts another while the engine ends: refused, nothing follows. */
static void test_start_while_freed(void **state)
{
	struct flight *flight = flight_new();
	char url[128];
	snprintf(url, sizeof(url), "%s/gate", liar->url);
	struct lm_http_request request = request_for(url);
	request.stall_timeout_ms = 20000;
	request.on_done = restart_done;
	request.arg = flight;
	assert_int_equal(lm_http_start(http, &request, NULL, NULL), 0);
	liar_wait_requests(liar, 1);
	lm_http_free(http);
	http = NULL;
	flight_wait(flight, 1);
	assert_int_equal(flight->by_code[1], 1);
	flight_free(flight);
}

static struct lm_http_stream *open_stream(const char *path, int code)
{
	char url[128];
	struct lm_err err = LM_ERR_INIT;
	struct lm_http_stream *stream = NULL;
	snprintf(url, sizeof(url), "%s%s", liar->url, path);
	struct lm_http_request request = request_for(url);
	int r = lm_http_stream_open(http, &request, 1, &stream, &err);
	if (r != code)
		fail_msg("%s: %d (%s)", path, r, lm_err_text(&err));
	return stream;
}

static void read_stream(struct lm_http_stream *stream, uint64_t size, int end)
{
	uint8_t block[50000];
	struct lm_err err = LM_ERR_INIT;
	uint64_t at = 0;
	ssize_t n;
	while ((n = lm_http_stream_read(stream, block, sizeof(block), &err)) > 0)
		for (ssize_t i = 0; i < n; i++, at++)
			if (size && block[i] != liar_byte(at))
				fail_msg("byte %llu differs", (unsigned long long)at);
	assert_int_equal(n, end);
	if (end == 0)
		assert_int_equal(at, size);
	assert_int_equal(lm_http_stream_read(stream, block, sizeof(block), NULL), end);
}

static void test_stream(void **state)
{
	struct lm_http_stream *stream = open_stream("/big/5000000", 0);
	read_stream(stream, 5000000, 0);
	lm_http_stream_close(stream);
	stream = open_stream("/chunked/5000000", 0);
	read_stream(stream, 5000000, 0);
	lm_http_stream_close(stream);
	stream = open_stream("/big/0", 0);
	read_stream(stream, 0, 0);
	lm_http_stream_close(stream);
	assert_int_equal(liar_connections(liar), 1);
	assert_null(open_stream("/status/404", -ENOENT));
	assert_null(open_stream("/status/403", -EACCES));
	assert_null(open_stream("/reset-head", -EIO));
	assert_null(open_stream("/stall-head", -ETIMEDOUT));
}

static void test_stream_faults(void **state)
{
	struct lm_http_stream *stream = open_stream("/short", 0);
	read_stream(stream, 0, -EIO);
	lm_http_stream_close(stream);
	stream = open_stream("/stall-body", 0);
	read_stream(stream, 0, -ETIMEDOUT);
	lm_http_stream_close(stream);
}

/* The reader takes its time: the sender is held up, nothing is lost, nothing counts as stalled. */
static void test_stream_back_pressure(void **state)
{
	enum { SIZE = 48 << 20 };
	char path[64];
	snprintf(path, sizeof(path), "/big/%d", SIZE);
	struct lm_http_stream *stream = open_stream(path, 0);
	usleep(4 * STALL_MS * 1000);
	assert_true(atomic_load(&liar->sent) < SIZE / 2);
	assert_int_equal(get("/ok"), 0); /* the engine is free for others */
	read_stream(stream, SIZE, 0);
	lm_http_stream_close(stream);
}

static void test_stream_early_close(void **state)
{
	uint8_t byte;
	struct lm_http_stream *stream = open_stream("/big/40000000", 0);
	assert_int_equal(lm_http_stream_read(stream, &byte, 1, NULL), 1);
	lm_http_stream_close(stream);
	stream = open_stream("/stall-body", 0);
	lm_http_stream_close(stream);
	assert_int_equal(get("/ok"), 0);
}

static void test_stream_outlives_engine(void **state)
{
	uint8_t byte;
	struct lm_http_stream *stream = open_stream("/big/40000000", 0);
	assert_int_equal(lm_http_stream_read(stream, &byte, 1, NULL), 1);
	lm_http_free(http);
	http = NULL;
	ssize_t n;
	uint8_t block[10000];
	while ((n = lm_http_stream_read(stream, block, sizeof(block), NULL)) > 0)
		;
	assert_int_equal(n, -ECANCELED);
	lm_http_stream_close(stream);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_get),
		TEST(test_head),
		TEST(test_statuses),
		TEST(test_refusal_bodies),
		TEST(test_lies),
		TEST(test_excess_bytes),
		TEST(test_steady_is_not_stalled),
		TEST(test_kept_connection_dies),
		TEST(test_connect_refused),
		TEST(test_connect_timeout),
		TEST(test_invalid_requests),
		TEST(test_body_limit),
		TEST(test_request_headers),
		TEST(test_answer_headers),
		TEST(test_redirects),
		TEST(test_redirect_drops_authorization),
		TEST(test_proxy),
		TEST(test_tunnel_refused),
		TEST(test_environment_is_ignored),
		TEST(test_ipv6),
		TEST(test_parallel),
		TEST(test_priorities),
		TEST(test_reserve),
		TEST(test_cancel),
		TEST(test_cancel_in_callbacks),
		TEST(test_receiver_refuses),
		TEST(test_start_in_done),
		TEST(test_calls),
		TEST(test_free_in_flight),
		TEST(test_start_while_freed),
		TEST(test_stream),
		TEST(test_stream_faults),
		TEST(test_stream_back_pressure),
		TEST(test_stream_early_close),
		TEST(test_stream_outlives_engine),
	};
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	lm_buf_done(&got.body);
	return r;
}
