/* TLS: who is trusted, and what a redirect may not do. The server is openssl's. */
#include "net/http.h"

#include "base/file.h"

#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
/* after the above */
#include <cmocka.h>

extern char **environ;

static char dir[] = "/tmp/lamella-https-XXXXXX";
static unsigned port;
static pid_t server = -1;
static struct lm_http *http;
static struct lm_err err;
static struct lm_buf body = {.max = 1 << 20};

/* Runs openssl in dir; its output goes to *ret_fd, or nowhere. */
static pid_t run_openssl(char *const argv[], int *ret_fd)
{
	int fds[2] = {-1, -1};
	pid_t pid;
	posix_spawn_file_actions_t actions;
	if (ret_fd && pipe2(fds, O_CLOEXEC) < 0)
		return -1;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addchdir_np(&actions, dir);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
	if (ret_fd)
		posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
	else
		posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	int r = posix_spawnp(&pid, "openssl", &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (ret_fd) {
		close(fds[1]);
		*ret_fd = fds[0];
	}
	return r ? -1 : pid;
}

#define WORD(text) ((char[]){text})

static bool make_certificate(void)
{
	char *const argv[] = {WORD("openssl"), WORD("req"), WORD("-x509"), WORD("-newkey"), WORD("ec"),
		WORD("-pkeyopt"), WORD("ec_paramgen_curve:P-256"), WORD("-nodes"), WORD("-keyout"), WORD("key.pem"),
		WORD("-out"), WORD("cert.pem"), WORD("-days"), WORD("2"), WORD("-subj"), WORD("/CN=test"),
		WORD("-addext"), WORD("subjectAltName=IP:127.0.0.1"), NULL};
	int status;
	pid_t pid = run_openssl(argv, NULL);
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

/* Its files are whole answers. */
static bool make_answers(int dirfd)
{
	static const char hello[] = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello";
	static const char down[] = "HTTP/1.0 302 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
	return lm_file_replace(dirfd, "hello", hello, sizeof(hello) - 1, 0600, 0, NULL) == 0 &&
	       lm_file_replace(dirfd, "down", down, sizeof(down) - 1, 0600, 0, NULL) == 0;
}

/* Waits for the line that tells the port. */
static bool read_port(int fd)
{
	FILE *file = fdopen(fd, "r");
	char line[256];
	while (file && !port && fgets(line, sizeof(line), file))
		(void)sscanf(line, "ACCEPT 127.0.0.1:%u", &port);
	/* Kept open: the server goes on writing there. */
	return port;
}

static bool start_server(void)
{
	char *const argv[] = {WORD("openssl"), WORD("s_server"), WORD("-accept"), WORD("127.0.0.1:0"), WORD("-cert"),
		WORD("cert.pem"), WORD("-key"), WORD("key.pem"), WORD("-HTTP"), NULL};
	int fd = -1;
	server = run_openssl(argv, &fd);
	return server > 0 && read_port(fd);
}

static int get(const char *host, const char *path, const char *ca_file, struct lm_http_result *result)
{
	char url[128];
	snprintf(url, sizeof(url), "https://%s:%u/%s", host, port, path);
	struct lm_http_request request = {.url = url,
		.ca_file = ca_file,
		.follow_redirects = true,
		.connect_timeout_ms = 5000,
		.stall_timeout_ms = 5000};
	lm_buf_clear(&body);
	memset(&err, 0, sizeof(err));
	return lm_http_get(http, &request, &body, result, &err);
}

static void test_own_authority(void **state)
{
	char ca[64];
	snprintf(ca, sizeof(ca), "%s/cert.pem", dir);
	if (get("127.0.0.1", "hello", ca, NULL) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(lm_buf_cstr(&body), "hello");
}

static void test_unknown_authority(void **state)
{
	struct lm_http_result result;
	assert_int_equal(get("127.0.0.1", "hello", NULL, &result), -EIO);
	assert_true(result.before_connect);
	assert_int_equal(body.len, 0);
	assert_int_equal(get("127.0.0.1", "hello", "/nowhere/cert.pem", NULL), -EIO);
}

static void test_other_name(void **state)
{
	char ca[64];
	snprintf(ca, sizeof(ca), "%s/cert.pem", dir);
	assert_int_equal(get("localhost", "hello", ca, NULL), -EIO);
}

static void test_no_way_down(void **state)
{
	char ca[64];
	snprintf(ca, sizeof(ca), "%s/cert.pem", dir);
	assert_int_equal(get("127.0.0.1", "down", ca, NULL), -EIO);
	assert_non_null(strstr(err.msg, "Protocol \"http\"")); /* refused, not tried */
}

static void clean_up(void)
{
	if (server > 0 && kill(server, SIGKILL) == 0)
		waitpid(server, NULL, 0);
	(void)!lm_remove_tree(AT_FDCWD, dir, NULL);
	lm_buf_done(&body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_own_authority),
		cmocka_unit_test(test_unknown_authority),
		cmocka_unit_test(test_other_name),
		cmocka_unit_test(test_no_way_down),
	};
	if (!mkdtemp(dir))
		return 1;
	CLEANUP(lm_closep) int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!make_certificate() || !make_answers(dirfd) || !start_server()) {
		clean_up();
		printf("skipped: no TLS server could be started with the openssl program\n");
		return 77;
	}
	int r = lm_http_new(NULL, &http, NULL);
	if (r == 0)
		r = cmocka_run_group_tests(tests, NULL, NULL);
	lm_http_free(http);
	clean_up();
	return r ? 1 : 0;
}
