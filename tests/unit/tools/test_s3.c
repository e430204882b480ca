/* A storage in a bucket: its settings, what servers say, and servers that fail. Signatures are the end-to-end test's.
 */
#include "s3/storage.h"

#include "../net/liar.h"
#include "base/file.h"
#include "base/str.h"
#include "repo/manifest.h"
#include "s3/answer.h"
#include "s3/config.h"

#include <setjmp.h>
#include <stddef.h>
#include <sys/stat.h>
/* after the above */
#include <cmocka.h>

static char dir[64], file[128];
static struct lm_err err;

static void write_config(const char *text)
{
	assert_int_equal(lm_file_replace(AT_FDCWD, file, text, strlen(text), 0600, 0, &err), 0);
}

static int make_dir(void **state)
{
	strcpy(dir, "/tmp/lamella-s3.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(file, sizeof(file), "%s/s3.conf", dir);
	setenv("TMPDIR", dir, 1);
	static const char *const names[] = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
		"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		unsetenv(names[i]);
	err = (struct lm_err)LM_ERR_INIT;
	return 0;
}

static int remove_dir(void **state)
{
	return lm_remove_tree(AT_FDCWD, dir, NULL);
}

/* --- settings --- */

#define KEYS "CVMFS_S3_ACCESS_KEY=a\nCVMFS_S3_SECRET_KEY='s/e+c'\n"

static void assert_base(const char *url, const char *text, const char *wanted)
{
	CLEANUP(lm_s3_config_done) struct lm_s3_config c = {0};
	write_config(text);
	int r = lm_s3_config_load(url, file, &c, &err);
	if (r < 0)
		fail_msg("%s: %s", url, err.msg);
	assert_string_equal(c.base_url, wanted);
	assert_string_equal(c.secret_key, "s/e+c");
}

static void test_where(void **state)
{
	CLEANUP(lm_s3_config_done) struct lm_s3_config c = {0};
	assert_base("s3://b/p", KEYS "CVMFS_S3_HOST=h.org\n", "http://b.h.org:80");
	assert_base("s3://b/p", KEYS "CVMFS_S3_HOST=h.org\nCVMFS_S3_USE_HTTPS=true\n", "https://b.h.org:443");
	assert_base(
		"s3://b", KEYS "CVMFS_S3_HOST=h\nCVMFS_S3_PORT=9000\nCVMFS_S3_DNS_BUCKETS=false\n", "http://h:9000/b");
	assert_base("s3://b/p", KEYS "CVMFS_S3_REGION=eu-west-1\n", "https://b.s3.eu-west-1.amazonaws.com");
	setenv("AWS_ENDPOINT_URL", "https://e:1/", 1);
	assert_base("s3://b/p", KEYS, "https://e:1/b");
	setenv("AWS_ACCESS_KEY_ID", "k", 1);
	setenv("AWS_SECRET_ACCESS_KEY", "x", 1);
	setenv("AWS_SESSION_TOKEN", "t", 1);
	assert_int_equal(lm_s3_config_load("s3://b/p/q/", NULL, &c, &err), 0);
	assert_string_equal(c.prefix, "p/q");
	assert_string_equal(c.region, "us-east-1");
	assert_string_equal(c.session_token, "t");
	assert_true(c.peek && c.connections == 32 && c.retries == 20 && c.timeout_s == 60);
}

static void test_bad_settings(void **state)
{
	static const struct {
		const char *url, *text;
		int code;
	} cases[] = {
		{"s3://", KEYS, -EINVAL},
		{"s3:///p", KEYS, -EINVAL},
		{"s3://b?x/p", KEYS, -EINVAL},
		{"s3://b/a//c", KEYS, -EINVAL},
		{"s3://b/../c", KEYS, -EINVAL},
		{"s3://b/a c", KEYS, -EINVAL},
		{"http://b/p", KEYS, -EINVAL},
		{"s3://b/p", "CVMFS_S3_ACCESS_KEY=a\n", -EINVAL},
		{"s3://b/p", "", -EINVAL},
		{"s3://b/p", KEYS "CVMFS_S3_BUCKET=other\n", -EINVAL},
		{"s3://b/p", KEYS "CVMFS_S3_HOST=h/x\n", -EINVAL},
		{"s3://b/p", KEYS "CVMFS_S3_HOST=h\nCVMFS_S3_PORT=99999\n", -EINVAL},
		{"s3://b/p", KEYS "CVMFS_S3_FLAVOR=azure\n", -EINVAL},
		{"s3://b/p", KEYS "CVMFS_S3_REGION=a:b\n", -EINVAL},
		{"s3://b/p", KEYS "CVMFS_S3_X_AMZ_ACL='a b'\n", -EINVAL},
		{"s3://b/p", KEYS "CVMFS_S3_PEEK_BEFORE_PUT=perhaps\n", -EINVAL},
		{"s3://b/p", "$(echo)\n", -EPROTO},
	};
	struct lm_s3_config c;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		write_config(cases[i].text);
		if (lm_s3_config_load(cases[i].url, file, &c, &err) != cases[i].code || strstr(err.msg, "s/e+c"))
			fail_msg("%s %s: %s", cases[i].url, cases[i].text, err.msg);
	}
	write_config(KEYS);
	assert_int_equal(chmod(file, 0644), 0);
	assert_int_equal(lm_s3_config_load("s3://b/p", file, &c, &err), -EPERM);
	assert_int_equal(lm_s3_config_load("s3://b/p", "/nonexistent", &c, &err), -ENOENT);
}

/* --- answers --- */

static int add_name(void *arg, const char *key, uint64_t size)
{
	char *names = arg;
	sprintf(names + strlen(names), "%s=%llu ", key, (unsigned long long)size);
	return strcmp(key, "stop") == 0 ? 5 : 0;
}

#define OBJECT(key, size) "<Contents><Key>" key "</Key><Size>" size "</Size></Contents>"
#define PAGE(inner) "<ListBucketResult xmlns='x'>" inner "</ListBucketResult>"

static int parse_page(const char *text, char names[256], struct lm_s3_page *page)
{
	names[0] = '\0';
	return lm_s3_page_parse(text, strlen(text), add_name, names, page, &err);
}

static void test_pages(void **state)
{
	static const char *const bad[] = {"", "<a/>", "<ListBucketResult>", PAGE("<Contents><Key>k</Key></Contents>"),
		PAGE(OBJECT("k", "-1")), PAGE(OBJECT("", "1")), PAGE("<IsTruncated>true</IsTruncated>"),
		"<!DOCTYPE x>" PAGE(""), "<!DOCTYPE x [<!ENTITY e 'k'>]>" PAGE(OBJECT("&e;", "1")),
		PAGE("<Contents><Key>a</Key><Key>b</Key><Size>1</Size></Contents>"),
		"<a><a><a><a><a><a><a><a><a></a></a></a></a></a></a></a></a></a>"};
	struct lm_s3_page page;
	char names[256];
	assert_int_equal(parse_page(PAGE(OBJECT("a&amp;b", "1") OBJECT("c", "20")), names, &page), 0);
	assert_string_equal(names, "a&b=1 c=20 ");
	assert_false(page.more);
	assert_int_equal(
		parse_page(PAGE("<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"),
			names, &page),
		0);
	assert_true(page.more);
	assert_string_equal(page.token, "t");
	assert_int_equal(parse_page(PAGE(OBJECT("a", "1") OBJECT("stop", "2") OBJECT("b", "3")), names, &page), 5);
	assert_string_equal(names, "a=1 stop=2 ");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (parse_page(bad[i], names, &page) != -EPROTO)
			fail_msg("accepted: %s", bad[i]);
}

static void test_errors(void **state)
{
	struct lm_s3_error error;
	static const char text[] = "<Error><Code>SlowDown</Code><Message>Slower</Message></Error>";
	assert_int_equal(lm_s3_error_parse(text, sizeof(text) - 1, &error), 0);
	assert_string_equal(error.code, "SlowDown");
	assert_string_equal(error.message, "Slower");
	assert_int_equal(lm_s3_error_parse(text, 40, &error), 0); /* cut */
	assert_string_equal(error.message, "");
	assert_int_equal(lm_s3_error_parse("<html/>", 7, &error), -ENOENT);
	assert_int_equal(lm_s3_error_parse("", 0, &error), -ENOENT);
}

/* --- servers that fail --- */

static struct liar *liar;
static struct lm_storage *storage;
static struct {
	_Atomic(unsigned) failures; /* of PUTs that are still to come */
	_Atomic(unsigned) puts, heads, deletes, gets;
	_Atomic(const char *) refusal; /* "STATUS CODE": of everything, for good */
	_Atomic(bool) there, changed;
	char condition[128];
} server;

static const char object_path[] = "data/12/3456789012345678901234567890123456789a";

/* liar reads heads only. */
static void drain(int fd, const struct liar_request *request)
{
	const char *length = strcasestr(request->head, "Content-Length:");
	char piece[4096];
	for (long left = length ? atol(length + 15) : 0; left > 0;) {
		ssize_t n = recv(fd, piece, LM_MIN((size_t)left, sizeof(piece)), 0);
		if (n <= 0)
			return;
		left -= n;
	}
}

static enum liar_next refuse(int fd, const char *refusal)
{
	char text[256];
	int len = snprintf(text, sizeof(text), "<Error><Code>%s</Code><Message>because</Message></Error>", refusal + 4);
	liar_say(liar, fd, "HTTP/1.1 %.3s X\r\nContent-Length: %d\r\n\r\n%s", refusal, len, text);
	return LIAR_KEEP;
}

static enum liar_next serve(struct liar *from, int fd, const struct liar_request *request)
{
	bool put = strcmp(request->method, "PUT") == 0, head = strcmp(request->method, "HEAD") == 0;
	drain(fd, request);
	if (put)
		server.puts++;
	else if (head)
		server.heads++;
	else if (strcmp(request->method, "DELETE") == 0)
		server.deletes++;
	else
		server.gets++;
	const char *condition = strcasestr(request->head, "If-Match:");
	if (put)
		snprintf(server.condition, sizeof(server.condition), "%.*s",
			(int)strcspn(condition ? condition : "", "\r"), condition ? condition : "");
	if (server.refusal && !head)
		return refuse(fd, server.refusal);
	if (put && server.failures > 0) {
		unsigned left = server.failures--;
		return left % 3 == 0 ? LIAR_CLOSE : refuse(fd, left % 3 == 1 ? "503 SlowDown" : "400 RequestTimeout");
	}
	if (put && condition && server.changed)
		return refuse(fd, "412 PreconditionFailed");
	if (strcmp(request->method, "DELETE") == 0)
		liar_say(from, fd, "HTTP/1.1 204 X\r\n\r\n");
	else if (put)
		liar_say(from, fd, "HTTP/1.1 200 OK\r\nETag: \"2\"\r\nContent-Length: 0\r\n\r\n");
	else if (!server.there)
		liar_say(from, fd, "HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n");
	else
		liar_say(from, fd, "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 3\r\n\r\n%s", head ? "" : "abc");
	return LIAR_KEEP;
}

static int set_up(void **state)
{
	char text[512];
	memset(&server, 0, sizeof(server));
	if (make_dir(state) < 0)
		return -1;
	liar = liar_start();
	liar->hook = serve;
	snprintf(text, sizeof(text),
		KEYS "CVMFS_S3_HOST=127.0.0.1\nCVMFS_S3_PORT=%u\nCVMFS_S3_DNS_BUCKETS=no\n"
		     "CVMFS_S3_MAX_RETRIES=6\nCVMFS_S3_MAX_NUMBER_OF_PARALLEL_CONNECTIONS=4\n",
		liar->port);
	write_config(text);
	int r = lm_storage_s3_open("s3://b/p", file, &storage, &err);
	if (r == 0)
		lm_storage_s3_hurry(storage, 1000);
	return r;
}

static int tear_down(void **state)
{
	lm_storage_freep(&storage);
	liar_stop(liar);
	return remove_dir(state);
}

static void test_put_is_repeated(void **state)
{
	server.failures = 5;
	assert_int_equal(storage->ops->put(storage, object_path, "abc", 3, &err), 0);
	assert_int_equal(storage->ops->sync(storage, &err), 0);
	assert_int_equal(server.puts, 6);
	assert_int_equal(server.heads, 1);
}

static void test_what_is_there_is_not_put(void **state)
{
	server.there = true;
	assert_int_equal(storage->ops->put(storage, object_path, "abc", 3, &err), 0);
	assert_int_equal(storage->ops->sync(storage, &err), 0);
	assert_int_equal(server.puts, 0);
}

static void test_asked_once(void **state)
{
	assert_int_equal(storage->ops->has(storage, object_path, &err), 0);
	assert_int_equal(storage->ops->put(storage, object_path, "abc", 3, &err), 0);
	assert_int_equal(storage->ops->sync(storage, &err), 0);
	assert_int_equal(server.heads, 1);
	assert_int_equal(server.puts, 1);
}

static void test_failure_behind_is_told(void **state)
{
	server.refusal = "403 AccessDenied";
	assert_int_equal(storage->ops->put(storage, object_path, "abc", 3, &err), 0);
	assert_int_equal(storage->ops->put(storage, LM_MANIFEST_NAME, "m", 1, &err), -EACCES);
	assert_int_equal(storage->ops->sync(storage, &err), -EACCES);
	if (!strstr(err.msg, "s3://b/p/data/12/") || !strstr(err.msg, "AccessDenied: because"))
		fail_msg("%s", err.msg);
	assert_int_equal(storage->ops->sync(storage, &err), 0); /* told once */
	assert_int_equal(server.puts, 1);
}

static void test_gives_up(void **state)
{
	server.failures = 1000;
	assert_int_equal(storage->ops->put(storage, ".cvmfswhitelist", "w", 1, &err), -EIO);
	assert_true(server.puts >= 7); /* curl asks again by itself where a kept connection was closed */
	assert_non_null(strstr(err.msg, "tried 7 times"));
}

static void test_get(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(16), small = LM_BUF(2);
	assert_int_equal(storage->ops->get(storage, object_path, &buf, &err), -ENOENT);
	server.there = true;
	assert_int_equal(storage->ops->get(storage, object_path, &buf, &err), 0);
	assert_string_equal(lm_buf_cstr(&buf), "abc");
	assert_int_equal(storage->ops->get(storage, object_path, &small, &err), -EMSGSIZE);
	assert_int_equal(small.len, 0);
	assert_int_equal(storage->ops->has(storage, object_path, &err), 1);
	server.refusal = "404 NoSuchBucket";
	assert_int_equal(storage->ops->get(storage, object_path, &buf, &err), -ENXIO); /* not: no such object */
	assert_int_equal(storage->ops->get(storage, "../x", &buf, &err), -EINVAL);
	assert_int_equal(storage->ops->get(storage, "data/a b", &buf, &err), -EINVAL);
}

static void test_manifest_on_condition(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf buf = LM_BUF(16);
	server.there = true;
	assert_int_equal(storage->ops->get(storage, LM_MANIFEST_NAME, &buf, &err), 0);
	assert_int_equal(storage->ops->put(storage, LM_MANIFEST_NAME, "new", 3, &err), 0);
	assert_string_equal(server.condition, "If-Match: \"1\"");
	assert_int_equal(storage->ops->put(storage, LM_MANIFEST_NAME, "newer", 5, &err), 0);
	assert_string_equal(server.condition, "If-Match: \"2\"");
	server.changed = true;
	assert_int_equal(storage->ops->put(storage, LM_MANIFEST_NAME, "newest", 6, &err), -EBUSY);
	/* The answer was lost, and the next try finds our own: it says "abc". */
	assert_int_equal(storage->ops->put(storage, LM_MANIFEST_NAME, "abc", 3, &err), 0);
}

static void test_remove_behind(void **state)
{
	for (unsigned i = 0; i < 50; i++) {
		char path[64];
		snprintf(path, sizeof(path), "data/12/%038x", i);
		assert_int_equal(storage->ops->remove(storage, path, &err), 0);
	}
	assert_int_equal(storage->ops->sync(storage, &err), 0);
	assert_int_equal(server.deletes, 50);
}

static void test_files(void **state)
{
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, dir, &err);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 9 << 20), 0); /* too large to be sent behind */
	server.failures = 2;
	assert_int_equal(storage->ops->put_file(storage, object_path, fd, &err), 0);
	assert_int_equal(server.puts, 3);
	assert_int_equal(ftruncate(fd, (off_t)6 << 30), 0);
	assert_int_equal(storage->ops->put_file(storage, object_path, fd, &err), -EFBIG);
	server.there = true;
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(storage->ops->get_file(storage, object_path, fd, &err), 0);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 3);
}

static void test_free_in_the_middle(void **state)
{
	server.failures = 1000;
	for (unsigned i = 0; i < 6; i++) {
		char path[64];
		snprintf(path, sizeof(path), "data/12/%038x", i);
		int r = storage->ops->put(storage, path, "abc", 3, &err);
		assert_true(r == 0 || r == -EIO);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_where, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_bad_settings, make_dir, remove_dir),
		cmocka_unit_test(test_pages),
		cmocka_unit_test(test_errors),
		cmocka_unit_test_setup_teardown(test_put_is_repeated, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_what_is_there_is_not_put, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_asked_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_failure_behind_is_told, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_gives_up, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_get, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_manifest_on_condition, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_remove_behind, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_files, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_free_in_the_middle, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
