#include "fetcher_test.h"

#include "base/version.h"
#include "fetcher/control.h"
#include "fetcher/layers.h"
#include "fetcher/metrics.h"
#include "fetcher/web.h"
#include "net/exposition.h"
#include "net/pages.h"

#include <netinet/in.h>
#include <sys/un.h>

struct rig { /* a node without repositories, as far as a web can tell */
	char *dir, *socket;
	struct lm_cache *cache;
	struct lm_layers *layers;
	struct lm_control_config config;
	struct lm_web *web;
};

static void rig_open(struct rig *rig)
{
	struct lm_err err = LM_ERR_INIT;
	*rig = (struct rig){.dir = temp_dir()};
	CLEANUP(lm_freep) char *cache = lm_str_printf("%s/cache", rig->dir);
	CLEANUP(lm_freep) char *control = lm_str_printf("%s/run/fetcher.sock", rig->dir);
	assert_ok(lm_cache_new(cache, &rig->cache, &err), &err);
	assert_ok(lm_layers_new(&rig->layers, &err), &err);
	rig->config = (struct lm_control_config){.cache = rig->cache, .layers = rig->layers};
	rig->socket = lm_pages_socket_beside(control, "metrics");
	assert_true(lm_str_ends(rig->socket, "/run/fetcher-metrics.sock"));
	assert_ok(lm_web_new(rig->socket, "", &rig->config, &rig->web, &err), &err);
}

static void rig_close(struct rig *rig)
{
	lm_web_free(rig->web);
	lm_layers_free(rig->layers);
	lm_cache_free(rig->cache);
	free(rig->socket);
	temp_dir_remove(&rig->dir);
}

static int connect_to(const struct rig *rig)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path, rig->socket);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* The whole answer to a request, whose connection is to be closed. The caller frees. */
static char *ask(const struct rig *rig, const char *method, const char *path, const char *body)
{
	CLEANUP(lm_closep) int fd = connect_to(rig);
	CLEANUP(lm_freep)
	char *request = lm_str_printf("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
		method, path, strlen(body), body);
	assert_int_equal(lm_write_all(fd, request, strlen(request), NULL), 0);
	CLEANUP(lm_buf_done) struct lm_buf answer = LM_BUF(1 << 20);
	char part[4096];
	ssize_t n;
	while ((n = read(fd, part, sizeof(part))) > 0)
		assert_int_equal(lm_buf_append(&answer, part, (size_t)n), 0);
	return (char *)lm_buf_steal(&answer, NULL);
}

static void assert_answer(
	const struct rig *rig, const char *method, const char *path, const char *status, const char *part)
{
	CLEANUP(lm_freep) char *answer = ask(rig, method, path, "");
	assert_non_null(answer);
	if (!lm_str_starts(answer, status) || !strstr(answer, part))
		fail_msg("%s %s: %s", method, path, answer);
}

static void test_pages(void **state)
{
	CLEANUP(rig_close) struct rig rig;
	rig_open(&rig);
	assert_answer(
		&rig, "GET", "/metrics", "HTTP/1.1 200", "\nlamella_fetcher_info{version=\"" LM_VERSION "\"} 1\n");
	assert_answer(&rig, "GET", "/metrics", "HTTP/1.1 200", "Content-Type: " LM_EXPOSITION_TYPE "\r\n");
	assert_answer(&rig, "GET", "/healthz", "HTTP/1.1 200", "\r\n\r\n{\"healthy\":true,\"problems\":[]}\n");
	assert_answer(&rig, "GET", "/status", "HTTP/1.1 200", "\r\n\r\n{\"repositories\":[],\"version\":\"" LM_VERSION);
	assert_answer(&rig, "GET", "/status?x=y", "HTTP/1.1 200", "Cache-Control: no-store");
	assert_answer(&rig, "GET", "/", "HTTP/1.1 404", "404 Not Found\n");
	assert_answer(&rig, "GET", "/metrics/", "HTTP/1.1 404", "404 Not Found\n");
	assert_answer(&rig, "PUT", "/metrics", "HTTP/1.1 405", "Allow: GET, HEAD\r\n");
	CLEANUP(lm_freep) char *head = ask(&rig, "HEAD", "/metrics", "");
	assert_true(lm_str_starts(head, "HTTP/1.1 200"));
	assert_true(lm_str_ends(head, "\r\n\r\n"));
	CLEANUP(lm_freep) char *post = ask(&rig, "POST", "/metrics", "a=b&c=d");
	assert_true(lm_str_starts(post, "HTTP/1.1 405"));
}

/* Clients that say nothing take up no more than their share: those who come after them wait or are sent away. */
static void test_silent_clients(void **state)
{
	CLEANUP(rig_close) struct rig rig;
	int fds[4 * LM_PAGES_CONNECTIONS];
	rig_open(&rig);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		fds[i] = connect_to(&rig);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		close(fds[i]);
	assert_answer(&rig, "GET", "/healthz", "HTTP/1.1 200", "true");
	int open_at_the_end = connect_to(&rig);
	lm_web_free(STEAL(rig.web)); /* does not wait for it */
	close(open_at_the_end);
	assert_int_equal(access(rig.socket, F_OK), -1);
}

static void test_address(void **state)
{
	CLEANUP(rig_close) struct rig rig;
	struct lm_err err = LM_ERR_INIT;
	struct lm_web *other = NULL;
	rig_open(&rig);
	assert_int_equal(lm_web_new(rig.socket, NULL, &rig.config, &other, &err), -EADDRINUSE);
	assert_int_equal(lm_web_new(NULL, "nonsense", &rig.config, &other, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "nonsense"));
	assert_ok(lm_web_new(NULL, "127.0.0.1:0", &rig.config, &other, &err), &err);
	lm_web_free(other);
	assert_answer(&rig, "GET", "/healthz", "HTTP/1.1 200", "true");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pages),
		cmocka_unit_test(test_silent_clients),
		cmocka_unit_test(test_address),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
