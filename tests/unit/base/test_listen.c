#include "base/file.h"
#include "base/listen.h"
#include "base/str.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static char dir[] = "/tmp/lamella-listen.XXXXXX";
static char path[64];

static int make_dir(void **state)
{
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/socket", dir);
	return 0;
}

static int drop_dir(void **state)
{
	return lm_remove_tree(AT_FDCWD, dir, NULL);
}

static bool can_connect(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path, path);
	CLEANUP(lm_closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
}

static void test_unix(void **state)
{
	struct lm_listen a = LM_LISTEN_INIT, b = LM_LISTEN_INIT;
	struct lm_err err = LM_ERR_INIT;
	struct stat st;
	assert_int_equal(lm_listen_unix(path, &a, &err), 0);
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_true(can_connect());
	assert_int_equal(lm_listen_unix(path, &b, &err), -EADDRINUSE);
	assert_int_equal(b.fd, -1);
	assert_non_null(strstr(err.msg, path));
	lm_listen_done(&a);
	assert_int_equal(lstat(path, &st), -1);
	lm_listen_done(&a); /* once more does nothing */
}

static void test_stale(void **state)
{
	struct lm_listen a = LM_LISTEN_INIT, b = LM_LISTEN_INIT;
	struct stat st;
	assert_int_equal(lm_listen_unix(path, &a, NULL), 0);
	close(a.fd); /* as if its process had died */
	a.fd = -1;
	assert_false(can_connect());
	assert_int_equal(lm_listen_unix(path, &b, NULL), 0);
	assert_true(can_connect());
	lm_listen_done(&a);
	assert_int_equal(lstat(path, &st), 0);
	lm_listen_done(&b);
}

/* The end of an older server must not take its successor's name away. */
static void test_successor(void **state)
{
	struct lm_listen a = LM_LISTEN_INIT, b = LM_LISTEN_INIT;
	assert_int_equal(lm_listen_unix(path, &a, NULL), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(lm_listen_unix(path, &b, NULL), 0);
	lm_listen_done(&a);
	assert_true(can_connect());
	lm_listen_done(&b);
	assert_false(can_connect());
}

static void test_in_the_way(void **state)
{
	struct lm_listen a = LM_LISTEN_INIT;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_file_replace(AT_FDCWD, path, "x", 1, 0600, 0, NULL), 0);
	assert_int_equal(lm_listen_unix(path, &a, &err), -EEXIST);
	char longer[200];
	memset(longer, 'x', sizeof(longer) - 1);
	longer[0] = '/';
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(lm_listen_unix(longer, &a, &err), -ENAMETOOLONG);
	assert_int_equal(lm_listen_unix("/nonexistent/dir/socket", &a, &err), -ENOENT);
	assert_int_equal(a.fd, -1);
}

static void test_tcp(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	static const char *const wrong[] = {"", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536",
		"127.0.0.1:-1", ":80", "::1:80", "[]:1"};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		assert_int_equal(lm_listen_tcp(wrong[i], &err), -EINVAL);
	int fd = lm_listen_tcp("127.0.0.1:0", &err);
	assert_true(fd >= 0);
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
	assert_int_equal(address.ss_family, AF_INET);
	char wanted[64], *url = lm_listen_url(fd);
	snprintf(wanted, sizeof(wanted), "http://127.0.0.1:%u", ntohs(((struct sockaddr_in *)&address)->sin_port));
	assert_string_equal(url, wanted);
	free(url);
	close(fd);
	assert_null(lm_listen_url(-1));
	assert_int_equal(lm_listen_tcp("192.0.2.1:1", &err), -EADDRNOTAVAIL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_unix, make_dir, drop_dir),
		cmocka_unit_test_setup_teardown(test_stale, make_dir, drop_dir),
		cmocka_unit_test_setup_teardown(test_successor, make_dir, drop_dir),
		cmocka_unit_test_setup_teardown(test_in_the_way, make_dir, drop_dir),
		cmocka_unit_test(test_tcp),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
