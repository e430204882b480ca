/*
 * What the tests of the fetcher share: a web server over a directory that can be told to spoil what it sends, and the
 * parts that a fetcher is made of.
 */
#ifndef LM_TESTS_FETCHER_TEST_H
#define LM_TESTS_FETCHER_TEST_H

#include "../repo/repo_test.h"

#include "../net/liar.h"

#include "fetcher/cache.h"
#include "fetcher/fetch.h"
#include "fetcher/settings.h"
#include "repo/object.h"

#include <sys/stat.h>

/* --- a web server over DIR: http://127.0.0.1:PORT/PATH is DIR/PATH ----------------------------------------------- */

struct web {
	struct liar *liar;
	char *dir;
	pthread_mutex_t lock;
	/* under lock: what is done to files whose path contains `pattern` */
	const char *pattern;
	enum web_mode { WEB_RIGHT, WEB_DAMAGED, WEB_ABSENT, WEB_LONGER, WEB_BROKEN } mode;
	unsigned times; /* so often, then right again; 0: always */
	bool past_caches_is_right;
};

static inline enum web_mode web_mode_of(struct web *web, const struct liar_request *request)
{
	enum web_mode mode = WEB_RIGHT;
	pthread_mutex_lock(&web->lock);
	bool fresh = strcasestr(request->head, "\ncache-control: no-cache") != NULL;
	if (web->pattern && strstr(request->path, web->pattern) && !(fresh && web->past_caches_is_right)) {
		mode = web->mode;
		if (web->times > 0 && --web->times == 0)
			web->pattern = NULL;
	}
	pthread_mutex_unlock(&web->lock);
	return mode;
}

static inline enum liar_next web_hook(struct liar *liar, int fd, const struct liar_request *request)
{
	struct web *web = (struct web *)liar->hook_arg;
	if (strncmp(request->path, "/gate", 5) == 0)
		return LIAR_PASS;
	enum web_mode mode = web_mode_of(web, request);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s%s", web->dir, request->path);
	CLEANUP(lm_buf_done) struct lm_buf body = LM_BUF(64 << 20);
	if (mode == WEB_ABSENT || lm_file_read(AT_FDCWD, path, &body, NULL) < 0)
		return liar_say(liar, fd, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") ? LIAR_KEEP
												 : LIAR_CLOSE;
	if (mode == WEB_BROKEN)
		return LIAR_CLOSE;
	if (mode == WEB_DAMAGED && body.len > 0)
		body.data[body.len / 2] ^= 1;
	if (mode == WEB_LONGER)
		(void)!lm_buf_str(&body, "more");
	if (!liar_say(liar, fd, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", body.len))
		return LIAR_CLOSE;
	return liar_send(liar, fd, body.data, body.len) ? LIAR_KEEP : LIAR_CLOSE;
}

static inline struct web *web_start(const char *dir)
{
	struct web *web = calloc(1, sizeof(*web));
	assert_non_null(web);
	web->dir = strdup(dir);
	pthread_mutex_init(&web->lock, NULL);
	web->liar = liar_start();
	web->liar->hook_arg = (char *)web;
	web->liar->hook = web_hook;
	return web;
}

static inline void web_stop(struct web **web)
{
	if (!*web)
		return;
	if ((*web)->liar)
		liar_stop((*web)->liar);
	pthread_mutex_destroy(&(*web)->lock);
	free((*web)->dir);
	free(*web);
	*web = NULL;
}

static inline void web_spoil(struct web *web, const char *pattern, enum web_mode mode, unsigned times)
{
	pthread_mutex_lock(&web->lock);
	web->pattern = pattern;
	web->mode = mode;
	web->times = times;
	pthread_mutex_unlock(&web->lock);
}

/* --- objects ----------------------------------------------------------------------------------------------------- */

static inline void write_file(const char *path, const void *data, size_t len)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *dir = strdup(path);
	*strrchr(dir, '/') = '\0';
	assert_ok(lm_mkdir_p(AT_FDCWD, dir, 0755, &err), &err);
	assert_ok(lm_file_replace(AT_FDCWD, path, data, len, 0644, 0, &err), &err);
}

/* Stores content as an object below web root DIR/cvmfs/FQRN; returns what names it. */
static inline struct lm_object_ref put_object(
	const char *dir, const char *fqrn, enum lm_object_kind kind, const void *content, size_t len)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_packer *packer;
	struct lm_object_ref ref = {.kind = kind, .size = len};
	CLEANUP(lm_buf_done) struct lm_buf stored = LM_BUF(64 << 20);
	char name[LM_OBJECT_PATH_MAX];
	assert_ok(lm_packer_new(LM_HASH_SHA1, &packer, &err), &err);
	assert_ok(lm_pack(packer, LM_COMPRESSION_ZLIB, content, len, &stored, &ref.hash, &err), &err);
	lm_packer_free(packer);
	CLEANUP(lm_freep)
	char *path = lm_str_printf("%s/cvmfs/%s/%s", dir, fqrn, lm_object_path(&ref.hash, kind, name));
	write_file(path, stored.data, stored.len);
	return ref;
}

/* The descriptor is closed. */
static inline void assert_content(int fd, const void *content, size_t len)
{
	struct stat st;
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, len);
	CLEANUP(lm_freep) void *data = malloc(len + 1);
	assert_int_equal(pread(fd, data, len + 1, 0), len);
	assert_memory_equal(data, content, len);
	close(fd);
}

/* Waits for a callback on another thread. */
struct latch {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned count;
};
#define LATCH_INIT                                                                                 \
	{                                                                                          \
		.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .count = 0 \
	}

static inline void latch_add(struct latch *latch)
{
	pthread_mutex_lock(&latch->lock);
	latch->count++;
	pthread_cond_broadcast(&latch->changed);
	pthread_mutex_unlock(&latch->lock);
}

static inline void latch_wait(struct latch *latch, unsigned count)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 60;
	pthread_mutex_lock(&latch->lock);
	while (latch->count < count)
		assert_int_equal(pthread_cond_timedwait(&latch->changed, &latch->lock, &until), 0);
	pthread_mutex_unlock(&latch->lock);
}

#endif
