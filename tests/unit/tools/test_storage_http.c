/* A storage over HTTP, with servers that lie. */
#include "storage_http.h"

#include "../net/liar.h"
#include "base/file.h"
#include "base/log.h"

#include <setjmp.h>
#include <stddef.h>
/* after the above */
#include <cmocka.h>

static const char content[] = "what is stored";
static char object[LM_OBJECT_PATH_MAX];
static struct liar *a, *b;
static struct lm_storage *storage;
static struct lm_err err;

/* What a server has: the object, as it is or damaged, and a file that is none. */
enum has { ALL, DAMAGED, DAMAGED_IN_CACHE, CUT_ONCE, NOTHING };

struct server {
	enum has has;
	bool cut;
};
static struct server servers[2];

static void answer(struct liar *liar, int fd, const struct liar_request *request, const char *data, size_t len)
{
	liar_say(liar, fd, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", len);
	if (strcmp(request->method, "HEAD") != 0)
		liar_send(liar, fd, data, len);
}

static enum liar_next serve(struct liar *liar, int fd, const struct liar_request *request)
{
	struct server *server = &servers[liar == b];
	const char *path = request->path + strlen("/cvmfs/test.example.org/");
	bool fresh = strcasestr(request->head, "no-cache");
	char data[sizeof(content)];
	memcpy(data, content, sizeof(data));
	if (server->has == DAMAGED || (server->has == DAMAGED_IN_CACHE && !fresh))
		data[3] ^= 1;
	if (server->has == CUT_ONCE && !server->cut) {
		server->cut = true;
		liar_say(liar, fd, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\nwhat", sizeof(content) - 1);
		return LIAR_CLOSE;
	}
	if (server->has != NOTHING && (strcmp(path, object) == 0 || strcmp(path, ".cvmfspublished") == 0))
		answer(liar, fd, request, data, sizeof(content) - 1);
	else
		liar_say(liar, fd, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
	return LIAR_KEEP;
}

static int set_up(void **state)
{
	struct lm_hash hash;
	char urls[256];
	memset(servers, 0, sizeof(servers));
	err = (struct lm_err)LM_ERR_INIT;
	a = liar_start();
	b = liar_start();
	a->hook = serve;
	b->hook = serve;
	if (lm_hash_data(LM_HASH_SHA1, content, sizeof(content) - 1, &hash, NULL) < 0)
		return -1;
	lm_object_path(&hash, LM_OBJECT_CHUNK, object);
	snprintf(urls, sizeof(urls), "%s/cvmfs/@fqrn@;%s/cvmfs/test.example.org/", a->url, b->url);
	return lm_storage_http_open(urls, NULL, "test.example.org", &storage, NULL);
}

static int tear_down(void **state)
{
	lm_storage_freep(&storage);
	liar_stop(a);
	liar_stop(b);
	return 0;
}

static int get(const char *path, struct lm_buf *ret)
{
	int r = storage->ops->get(storage, path, ret, &err);
	if (r < 0) {
		assert_int_equal(err.code, r);
		assert_non_null(strstr(err.msg, path));
	}
	return r;
}

static void assert_got(const char *path)
{
	CLEANUP(lm_buf_done) struct lm_buf got = LM_BUF(100);
	assert_int_equal(lm_buf_str(&got, "before "), 0);
	assert_int_equal(get(path, &got), 0);
	assert_string_equal(lm_buf_cstr(&got), "before what is stored");
}

static void test_get(void **state)
{
	assert_got(object);
	assert_got(".cvmfspublished");
	assert_int_equal(liar_requests(b), 0);
}

static void test_too_large(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf got = LM_BUF(8);
	assert_int_equal(get(object, &got), -EMSGSIZE);
	assert_int_equal(got.len, 0);
}

static void test_absent(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf got = LM_BUF(100);
	assert_int_equal(lm_buf_str(&got, "before"), 0);
	assert_int_equal(get("data/00/11", &got), -ENOENT);
	assert_string_equal(lm_buf_cstr(&got), "before");
	assert_int_equal(liar_requests(b), 1);
	assert_int_equal(storage->ops->has(storage, "data/00/11", &err), 0);
	assert_int_equal(storage->ops->has(storage, object, &err), 1);
	servers[0].has = NOTHING;
	assert_int_equal(storage->ops->has(storage, object, &err), 1);
	assert_got(object);
}

static void test_damaged(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf got = LM_BUF(100);
	servers[0].has = DAMAGED_IN_CACHE;
	assert_got(object);
	assert_int_equal(liar_requests(a), 2);
	assert_int_equal(liar_requests(b), 0);
	servers[0].has = DAMAGED;
	assert_got(object);
	servers[1].has = DAMAGED;
	assert_int_equal(get(object, &got), -EBADMSG);
	assert_int_equal(got.len, 0);
	assert_int_equal(get(".cvmfspublished", &got), 0); /* not ours to judge */
}

static void test_file(void **state)
{
	char text[64] = "";
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, "/tmp", NULL);
	assert_int_equal(write(fd, "before ", 7), 7);
	servers[0].has = CUT_ONCE;
	assert_int_equal(storage->ops->get_file(storage, object, fd, &err), 0);
	assert_int_equal(pread(fd, text, sizeof(text), 0), 7 + (ssize_t)sizeof(content) - 1);
	assert_string_equal(text, "before what is stored"); /* the first attempt's bytes are gone */
	assert_int_equal(storage->ops->get_file(storage, "data/00/11", fd, &err), -ENOENT);
}

/* A pipe can't be rewound: a second attempt would put bytes twice into it. */
static void test_pipe(void **state)
{
	char text[64] = "";
	int ends[2];
	assert_int_equal(pipe(ends), 0);
	CLEANUP(lm_closep) int from = ends[0];
	CLEANUP(lm_closep) int to = ends[1];
	assert_int_equal(storage->ops->get_file(storage, object, to, &err), 0);
	assert_int_equal(read(from, text, sizeof(text)), sizeof(content) - 1);
	servers[0].has = CUT_ONCE;
	assert_int_equal(storage->ops->get_file(storage, object, to, &err), -EIO);
	assert_non_null(strstr(err.msg, "can't be taken back"));
}

static int no_file(void *arg, const char *name, uint64_t size)
{
	fail();
	return 0;
}

static void test_read_only(void **state)
{
	const struct lm_storage_ops *ops = storage->ops;
	assert_int_equal(ops->put(storage, "x", "", 0, &err), -EROFS);
	assert_non_null(strstr(err.msg, "x: "));
	assert_int_equal(ops->put_file(storage, "x", 0, &err), -EROFS);
	assert_int_equal(ops->remove(storage, "x", &err), -EROFS);
	assert_int_equal(ops->alias(storage, "x", "y", &err), -EROFS);
	assert_int_equal(ops->lock(storage, NULL, &err), -EROFS);
	assert_int_equal(ops->list(storage, "data/00", no_file, NULL, &err), -ENOTSUP);
	assert_int_equal(ops->sync(storage, &err), 0);
	assert_int_equal(access(ops->scratch(storage), W_OK), 0);
	assert_int_equal(liar_requests(a) + liar_requests(b), 0);
}

static void test_lists(void **state)
{
	struct lm_storage *none = NULL;
	assert_int_equal(lm_storage_http_open("ftp://x/", NULL, "test.example.org", &none, &err), -EINVAL);
	assert_int_equal(lm_storage_http_open("", NULL, "test.example.org", &none, &err), -EINVAL);
	assert_int_equal(lm_storage_http_open("http://x/", "nonsense://", "test.example.org", &none, &err), -EINVAL);
	assert_null(none);
}

/* Several threads at once, as checkers do. */
static void *hammer(void *arg)
{
	for (unsigned i = 0; i < 50; i++) {
		struct lm_buf got = LM_BUF(100);
		if (storage->ops->get(storage, object, &got, NULL) < 0 || got.len != sizeof(content) - 1 ||
			storage->ops->has(storage, object, NULL) != 1)
			atomic_fetch_add((_Atomic(unsigned) *)arg, 1);
		lm_buf_done(&got);
	}
	return NULL;
}

static void test_threads(void **state)
{
	_Atomic(unsigned) failures = 0;
	pthread_t threads[8];
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, hammer, &failures), 0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(failures, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_get),
		TEST(test_too_large),
		TEST(test_absent),
		TEST(test_damaged),
		TEST(test_file),
		TEST(test_pipe),
		TEST(test_read_only),
		TEST(test_lists),
		TEST(test_threads),
	};
	lm_log_init("test", LM_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
