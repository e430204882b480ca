/*
 * A web server that lies, for the tests of the HTTP client: a thread per connection on a loopback port of its own.
 *
 * What it does is said by the path (of an absolute URI, too: it is its own proxy):
 *
 *   /ok[...]           200 "hello"                    /big/N             200 with N bytes of liar_byte()
 *   /chunked/N         the same in chunks             /status/N          N with a small body
 *   /status-big/N      N, 1 MiB of body               /short             promises 100 bytes, sends 10
 *   /short-chunked     no last chunk                  /long              promises 5 bytes, sends many
 *   /unframed          no length, ends by closing     /bad-length, /two-lengths, /gzip-coded
 *   /close             200, then closes without a word
 *   /reset             connection reset in the body   /reset-head        before any answer
 *   /stall-head, /stall-headers, /stall-body          nothing more comes at that point
 *   /drip-body, /drip-headers                         a byte each 20 ms, for ever
 *   /steady            1 KiB each 20 ms, 64 of them
 *   /garbage, /http09  no HTTP                        /huge-header, /many-headers, /endless-100
 *   /redirect/N        N redirects, then /ok          /redirect-to?URL   one redirect
 *   /early             103, then 200                  /trailer           chunked with a trailer
 *   /gate[...]         waits for liar_open(), then 200 "hello"
 *   /squid/N           status N with X-Squid-Error    /status-proxy/N    status N with Proxy-Status: error
 *
 * hook, when set, is asked first; it may answer by itself.
 */
#ifndef LM_TEST_LIAR_H
#define LM_TEST_LIAR_H

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LIAR_CONNECTIONS = 2048, LIAR_LOG = 4096, LIAR_HEAD = 16 << 10 };

struct liar;

struct liar_request {
	char method[16];
	char target[2048]; /* as sent */
	char path[2048];   /* without scheme and host */
	bool absolute;	   /* the target was a whole URI: we are somebody's proxy */
	char head[LIAR_HEAD];
};

enum liar_next { LIAR_PASS, LIAR_KEEP, LIAR_CLOSE };

typedef enum liar_next liar_hook(struct liar *liar, int fd, const struct liar_request *request);

struct liar {
	int fd, stop[2];
	unsigned port;
	char url[64]; /* "http://127.0.0.1:PORT" */
	_Atomic(liar_hook *) hook;
	_Atomic(const char *) hook_arg;
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t connections[LIAR_CONNECTIONS];
	unsigned n_connections, n_requests;
	char *log[LIAR_LOG]; /* targets in the order of arrival */
	bool open;
	_Atomic(uint64_t) sent;
};

struct liar_connection {
	struct liar *liar;
	int fd;
};

__attribute__((unused)) static uint8_t liar_byte(uint64_t at)
{
	return (uint8_t)(at * 31 + (at >> 9));
}

__attribute__((unused)) static bool liar_send(struct liar *liar, int fd, const void *data, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = send(fd, (const char *)data + at, len - at, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		at += (size_t)n;
		atomic_fetch_add(&liar->sent, (uint64_t)n);
	}
	return true;
}

__attribute__((unused, format(printf, 3, 4))) static bool liar_say(struct liar *liar, int fd, const char *fmt, ...)
{
	char text[8192];
	va_list args;
	va_start(args, fmt);
	int n = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return liar_send(liar, fd, text, (size_t)n);
}

/* False when the server is to end, or the peer has closed. ms < 0: until then. */
static bool liar_wait(struct liar *liar, int fd, int ms)
{
	struct pollfd fds[] = {{.fd = liar->stop[0], .events = POLLIN}, {.fd = fd, .events = POLLIN | POLLRDHUP}};
	return poll(fds, 2, ms) == 0;
}

static void liar_reset(int fd)
{
	struct linger linger = {1, 0};
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

static bool liar_body(struct liar *liar, int fd, uint64_t size, bool chunked)
{
	uint8_t block[8192];
	for (uint64_t at = 0; at < size;) {
		size_t n = size - at < sizeof(block) ? (size_t)(size - at) : sizeof(block);
		for (size_t i = 0; i < n; i++)
			block[i] = liar_byte(at + i);
		if ((chunked && !liar_say(liar, fd, "%zx\r\n", n)) || !liar_send(liar, fd, block, n) ||
			(chunked && !liar_say(liar, fd, "\r\n")))
			return false;
		at += n;
	}
	return !chunked || liar_say(liar, fd, "0\r\n\r\n");
}

static bool liar_hello(struct liar *liar, int fd)
{
	return liar_say(liar, fd, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Test:  a value \r\n\r\nhello");
}

static bool liar_drip(struct liar *liar, int fd, const char *first)
{
	liar_say(liar, fd, "%s", first);
	while (liar_wait(liar, fd, 20) && liar_say(liar, fd, "x"))
		;
	return false;
}

static bool liar_steady(struct liar *liar, int fd)
{
	uint8_t block[1024] = {0};
	liar_say(liar, fd, "HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n");
	for (unsigned i = 0; i < 64; i++)
		if (!liar_wait(liar, fd, 20) || !liar_send(liar, fd, block, sizeof(block)))
			return false;
	return true;
}

static bool liar_flood(struct liar *liar, int fd, const char *first, const char *more)
{
	liar_say(liar, fd, "%s", first);
	for (unsigned i = 0; i < 1u << 20; i++)
		if (!liar_say(liar, fd, "%s", more))
			return false;
	return false;
}

static bool liar_gate(struct liar *liar, int fd)
{
	pthread_mutex_lock(&liar->lock);
	while (!liar->open)
		pthread_cond_wait(&liar->changed, &liar->lock);
	pthread_mutex_unlock(&liar->lock);
	return liar_hello(liar, fd);
}

/* True: the connection is kept. */
static bool liar_answer(struct liar *liar, int fd, const struct liar_request *request)
{
	const char *path = request->path;
	unsigned long long n = 0;
	bool head = strcmp(request->method, "HEAD") == 0;
#define IS(text) (strncmp(path, (text), strlen(text)) == 0)
#define SAY(...) liar_say(liar, fd, __VA_ARGS__)
	if (sscanf(path, "/big/%llu", &n) == 1)
		return SAY("HTTP/1.1 200 OK\r\nContent-Length: %llu\r\n\r\n", n) &&
		       (head || liar_body(liar, fd, n, false));
	if (sscanf(path, "/chunked/%llu", &n) == 1)
		return SAY("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n") && liar_body(liar, fd, n, true);
	if (sscanf(path, "/status/%llu", &n) == 1)
		return n == 304 ? SAY("HTTP/1.1 304 X\r\n\r\n")
				: SAY("HTTP/1.1 %llu X\r\nContent-Length: 4\r\n\r\noops", n);
	if (sscanf(path, "/squid/%llu", &n) == 1)
		return SAY("HTTP/1.1 %llu X\r\nX-Squid-Error: ERR_X 0\r\nContent-Length: 0\r\n\r\n", n);
	if (sscanf(path, "/status-proxy/%llu", &n) == 1)
		return SAY("HTTP/1.1 %llu X\r\nProxy-Status: p; error=dns_error\r\nContent-Length: 0\r\n\r\n", n);
	if (sscanf(path, "/status-big/%llu", &n) == 1)
		return SAY("HTTP/1.1 %llu X\r\nContent-Length: 1048576\r\n\r\n", n) &&
		       liar_body(liar, fd, 1 << 20, false);
	if (sscanf(path, "/redirect/%llu", &n) == 1)
		return n ? SAY("HTTP/1.1 302 X\r\nLocation: /redirect/%llu\r\nX-Hop: yes\r\nContent-Length: "
			       "3\r\n\r\nhop",
				   n - 1)
			 : liar_hello(liar, fd);
	if (IS("/redirect-to?"))
		return SAY("HTTP/1.1 307 X\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", strchr(path, '?') + 1);
	if (IS("/ok"))
		return head ? SAY("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n") : liar_hello(liar, fd);
	if (IS("/gate"))
		return liar_gate(liar, fd);
	if (IS("/short-chunked"))
		return SAY("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n") && false;
	if (IS("/short"))
		return SAY("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789") && false;
	if (IS("/long"))
		return SAY("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: "
			   "4\r\n\r\nevil");
	if (IS("/unframed"))
		return SAY("HTTP/1.1 200 OK\r\n\r\nhello") && false;
	if (IS("/bad-length"))
		return SAY("HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nhello") && false;
	if (IS("/two-lengths"))
		return SAY("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nhello") && false;
	if (IS("/gzip-coded"))
		return SAY("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n") && false;
	if (IS("/close"))
		return liar_hello(liar, fd) && false;
	if (IS("/reset-head")) {
		liar_reset(fd);
		return false;
	}
	if (IS("/reset")) {
		SAY("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789");
		liar_wait(liar, fd, 50);
		liar_reset(fd);
		return false;
	}
	if (IS("/stall-headers"))
		SAY("HTTP/1.1 200 OK\r\nContent-Length: 1");
	if (IS("/stall-body"))
		SAY("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789");
	if (IS("/stall"))
		return liar_wait(liar, fd, -1);
	if (IS("/drip-body"))
		return liar_drip(liar, fd, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
	if (IS("/drip-headers"))
		return liar_drip(liar, fd, "HTTP/1.1 200 OK\r\nX-Long: ");
	if (IS("/steady"))
		return liar_steady(liar, fd);
	if (IS("/garbage"))
		return SAY("\x16\x03\x01 this is no HTTP \xff\xfe\r\n\r\nat all") && false;
	if (IS("/http09"))
		return SAY("hello") && false;
	if (IS("/huge-header"))
		return liar_flood(liar, fd, "HTTP/1.1 200 OK\r\nX-Long: ", "0123456789abcdef0123456789abcdef");
	if (IS("/many-headers"))
		return liar_flood(liar, fd, "HTTP/1.1 200 OK\r\n", "X-Again: and again\r\n");
	if (IS("/endless-100"))
		return liar_flood(liar, fd, "", "HTTP/1.1 103 Early Hints\r\nX-Early: yes\r\n\r\n");
	if (IS("/early"))
		return SAY("HTTP/1.1 103 Early Hints\r\nX-Early: yes\r\n\r\n") && liar_hello(liar, fd);
	if (IS("/trailer"))
		return SAY(
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Late: yes\r\n\r\n");
	return SAY("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
#undef SAY
#undef IS
}

/* False at the end of the connection. */
static bool liar_read_request(struct liar *liar, int fd, struct liar_request *request)
{
	size_t len = 0;
	*request = (struct liar_request){0};
	while (!strstr(request->head, "\r\n\r\n")) {
		struct pollfd fds[] = {{.fd = liar->stop[0], .events = POLLIN}, {.fd = fd, .events = POLLIN}};
		if (poll(fds, 2, -1) < 0 || fds[0].revents || len >= sizeof(request->head) - 1)
			return false;
		ssize_t n = recv(fd, request->head + len, sizeof(request->head) - 1 - len, 0);
		if (n <= 0)
			return false;
		len += (size_t)n;
	}
	if (sscanf(request->head, "%15s %2047s", request->method, request->target) != 2)
		return false;
	const char *scheme = strstr(request->target, "://");
	request->absolute = scheme && strncmp(request->target, "http", 4) == 0;
	const char *path = request->absolute ? strchr(scheme + 3, '/') : request->target;
	snprintf(request->path, sizeof(request->path), "%s", path ? path : "/");
	return true;
}

static void *liar_serve(void *arg)
{
	struct liar_connection connection = *(struct liar_connection *)arg;
	struct liar *liar = connection.liar;
	struct liar_request *request = malloc(sizeof(*request));
	free(arg);
	for (bool keep = request; keep && liar_read_request(liar, connection.fd, request);) {
		pthread_mutex_lock(&liar->lock);
		assert(liar->n_requests < LIAR_LOG);
		liar->log[liar->n_requests++] = strdup(request->target);
		pthread_cond_broadcast(&liar->changed);
		pthread_mutex_unlock(&liar->lock);
		liar_hook *hook = liar->hook;
		enum liar_next next = hook ? hook(liar, connection.fd, request) : LIAR_PASS;
		keep = next == LIAR_PASS ? liar_answer(liar, connection.fd, request) : next == LIAR_KEEP;
	}
	free(request);
	close(connection.fd);
	return NULL;
}

static void *liar_accept(void *arg)
{
	struct liar *liar = arg;
	for (;;) {
		struct pollfd fds[] = {{.fd = liar->stop[0], .events = POLLIN}, {.fd = liar->fd, .events = POLLIN}};
		if (poll(fds, 2, -1) < 0 || fds[0].revents)
			return NULL;
		struct liar_connection *connection = malloc(sizeof(*connection));
		int one = 1;
		assert(connection);
		*connection = (struct liar_connection){liar, accept4(liar->fd, NULL, NULL, SOCK_CLOEXEC)};
		assert(connection->fd >= 0 && liar->n_connections < LIAR_CONNECTIONS);
		setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		pthread_mutex_lock(&liar->lock);
		int r = pthread_create(&liar->connections[liar->n_connections++], NULL, liar_serve, connection);
		pthread_mutex_unlock(&liar->lock);
		assert(r == 0);
		(void)r;
	}
}

static int liar_bind(struct liar *liar, bool v6)
{
	struct sockaddr_in v4_address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 v6_address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr *address = v6 ? (struct sockaddr *)&v6_address : (struct sockaddr *)&v4_address;
	socklen_t len = v6 ? sizeof(v6_address) : sizeof(v4_address);
	liar->fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (liar->fd < 0 || bind(liar->fd, address, len) < 0 || listen(liar->fd, 512) < 0 ||
		getsockname(liar->fd, address, &len) < 0)
		return -errno;
	liar->port = ntohs(v6 ? v6_address.sin6_port : v4_address.sin_port);
	snprintf(liar->url, sizeof(liar->url), "http://%s:%u", v6 ? "[::1]" : "127.0.0.1", liar->port);
	return 0;
}

/* NULL where there is no IPv6 loopback. */
static struct liar *liar_start_on(bool v6)
{
	struct liar *liar = calloc(1, sizeof(*liar));
	assert(liar);
	int r = liar_bind(liar, v6);
	if (r < 0 && v6) {
		if (liar->fd >= 0)
			close(liar->fd);
		free(liar);
		return NULL;
	}
	pthread_mutex_init(&liar->lock, NULL);
	pthread_cond_init(&liar->changed, NULL);
	if (r == 0 && (pipe(liar->stop) < 0 || pthread_create(&liar->thread, NULL, liar_accept, liar) != 0))
		r = -1;
	assert(r == 0);
	return liar;
}

__attribute__((unused)) static struct liar *liar_start(void)
{
	return liar_start_on(false);
}

__attribute__((unused)) static void liar_open(struct liar *liar)
{
	pthread_mutex_lock(&liar->lock);
	liar->open = true;
	pthread_cond_broadcast(&liar->changed);
	pthread_mutex_unlock(&liar->lock);
}

__attribute__((unused)) static unsigned liar_requests(struct liar *liar)
{
	pthread_mutex_lock(&liar->lock);
	unsigned n = liar->n_requests;
	pthread_mutex_unlock(&liar->lock);
	return n;
}

__attribute__((unused)) static unsigned liar_connections(struct liar *liar)
{
	pthread_mutex_lock(&liar->lock);
	unsigned n = liar->n_connections;
	pthread_mutex_unlock(&liar->lock);
	return n;
}

__attribute__((unused)) static void liar_wait_requests(struct liar *liar, unsigned n)
{
	pthread_mutex_lock(&liar->lock);
	while (liar->n_requests < n)
		pthread_cond_wait(&liar->changed, &liar->lock);
	pthread_mutex_unlock(&liar->lock);
}

/* The server is gone, its port refuses. */
static void liar_stop(struct liar *liar)
{
	liar_open(liar);
	if (write(liar->stop[1], "", 1) != 1)
		abort();
	pthread_join(liar->thread, NULL);
	close(liar->fd);
	for (unsigned i = 0; i < liar->n_connections; i++)
		pthread_join(liar->connections[i], NULL);
	for (unsigned i = 0; i < liar->n_requests; i++)
		free(liar->log[i]);
	close(liar->stop[0]);
	close(liar->stop[1]);
	pthread_mutex_destroy(&liar->lock);
	pthread_cond_destroy(&liar->changed);
	free(liar);
}

#endif
