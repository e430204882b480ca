#include "base/notify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

static int listen_at(const char *name, size_t len)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	memcpy(address.sun_path, name, len);
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
	return fd;
}

static void expect_state(int fd)
{
	char text[64] = "";
	assert_int_equal(lm_notify("READY=1\nSTATUS=serving", NULL), 0);
	assert_int_equal(recv(fd, text, sizeof(text) - 1, 0), 22);
	assert_string_equal(text, "READY=1\nSTATUS=serving");
}

static void path_and_abstract(void **state)
{
	char dir[] = "/tmp/lm-notify.XXXXXX", path[64], abstract[64];
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/n", dir);
	snprintf(abstract, sizeof(abstract), "@lm-notify-%d", (int)getpid());
	CLEANUP(lm_closep) int file = listen_at(path, strlen(path) + 1);
	setenv("NOTIFY_SOCKET", path, 1);
	expect_state(file);
	setenv("NOTIFY_SOCKET", abstract, 1);
	abstract[0] = '\0';
	CLEANUP(lm_closep) int hidden = listen_at(abstract, 1 + strlen(abstract + 1));
	expect_state(hidden);
	unlink(path);
	rmdir(dir);
}

static void nowhere(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(lm_notify("READY=1", &err), 0);
	setenv("NOTIFY_SOCKET", "relative", 1);
	assert_int_equal(lm_notify("READY=1", &err), -EINVAL);
	setenv("NOTIFY_SOCKET", "/nonexistent/socket", 1);
	assert_int_equal(lm_notify("READY=1", &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nonexistent/socket"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(path_and_abstract), cmocka_unit_test(nowhere)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
