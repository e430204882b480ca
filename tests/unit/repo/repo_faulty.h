/* A storage in front of another one whose n-th call fails, and all after it; or kills the process. */
#ifndef LM_TESTS_REPO_FAULTY_H
#define LM_TESTS_REPO_FAULTY_H

#include "repo/storage.h"
#include "repo_test.h"

#include <signal.h>

enum { FAULTY_CALLS_MAX = 2000 };

struct faulty {
	struct lm_storage storage;
	struct lm_storage *inner;
	unsigned calls, fail_at; /* until now; how many succeed */
	bool kill;
	bool changes[FAULTY_CALLS_MAX]; /* which of the calls were to change something */
	unsigned change_count;
};

static inline struct lm_storage *faulty_inner(struct lm_storage *storage)
{
	return ((struct faulty *)storage)->inner;
}

static inline int faulty_call(struct lm_storage *storage, struct lm_err *err)
{
	struct faulty *faulty = (struct faulty *)storage;
	assert_true(faulty->calls < FAULTY_CALLS_MAX);
	if (faulty->calls++ < faulty->fail_at)
		return 0;
	if (faulty->kill)
		raise(SIGKILL);
	return lm_err_set(err, -EIO, "injected");
}

static inline int faulty_change(struct lm_storage *s, struct lm_err *err)
{
	struct faulty *faulty = (struct faulty *)s;
	unsigned call = faulty->calls;
	int r = faulty_call(s, err);
	faulty->changes[call] = true;
	faulty->change_count += r == 0;
	return r;
}

static inline int faulty_has(struct lm_storage *s, const char *path, struct lm_err *err)
{
	return faulty_call(s, err) < 0 ? -EIO : faulty_inner(s)->ops->has(faulty_inner(s), path, err);
}

static inline int faulty_get(struct lm_storage *s, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	return faulty_call(s, err) < 0 ? -EIO : faulty_inner(s)->ops->get(faulty_inner(s), path, ret, err);
}

static inline int faulty_get_file(struct lm_storage *s, const char *path, int fd, struct lm_err *err)
{
	return faulty_call(s, err) < 0 ? -EIO : faulty_inner(s)->ops->get_file(faulty_inner(s), path, fd, err);
}

static inline int faulty_put(struct lm_storage *s, const char *path, const void *data, size_t len, struct lm_err *err)
{
	return faulty_change(s, err) < 0 ? -EIO : faulty_inner(s)->ops->put(faulty_inner(s), path, data, len, err);
}

static inline int faulty_put_file(struct lm_storage *s, const char *path, int fd, struct lm_err *err)
{
	return faulty_change(s, err) < 0 ? -EIO : faulty_inner(s)->ops->put_file(faulty_inner(s), path, fd, err);
}

static inline int faulty_list(
	struct lm_storage *s, const char *dir, lm_storage_list_fn *fn, void *arg, struct lm_err *err)
{
	return faulty_call(s, err) < 0 ? -EIO : faulty_inner(s)->ops->list(faulty_inner(s), dir, fn, arg, err);
}

static inline int faulty_remove(struct lm_storage *s, const char *path, struct lm_err *err)
{
	return faulty_change(s, err) < 0 ? -EIO : faulty_inner(s)->ops->remove(faulty_inner(s), path, err);
}

static inline int faulty_alias(struct lm_storage *s, const char *path, const char *target, struct lm_err *err)
{
	return faulty_change(s, err) < 0 ? -EIO : faulty_inner(s)->ops->alias(faulty_inner(s), path, target, err);
}

static inline int faulty_sync(struct lm_storage *s, struct lm_err *err)
{
	return faulty_change(s, err) < 0 ? -EIO : faulty_inner(s)->ops->sync(faulty_inner(s), err);
}

static inline const char *faulty_scratch(struct lm_storage *s)
{
	return faulty_inner(s)->ops->scratch(faulty_inner(s));
}

static inline int faulty_lock(struct lm_storage *s, const struct lm_storage_wait *wait, struct lm_err *err)
{
	return faulty_call(s, err) < 0 ? -EIO : faulty_inner(s)->ops->lock(faulty_inner(s), wait, err);
}

static const struct lm_storage_ops faulty_ops = {
	.has = faulty_has,
	.get = faulty_get,
	.get_file = faulty_get_file,
	.put = faulty_put,
	.put_file = faulty_put_file,
	.list = faulty_list,
	.remove = faulty_remove,
	.alias = faulty_alias,
	.sync = faulty_sync,
	.scratch = faulty_scratch,
	.lock = faulty_lock,
};

#endif
