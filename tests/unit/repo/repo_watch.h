/* A storage in front of another one: looks at the repository, as a client would, after each change, or fails at one. */
#ifndef LM_TESTS_REPO_WATCH_H
#define LM_TESTS_REPO_WATCH_H

#include "base/clock.h"
#include "repo/trust.h"
#include "repo_tree.h"

struct watch {
	struct lm_storage storage;
	struct lm_storage *inner;
	unsigned changes;
	unsigned fail_at; /* the number of the change that is -EIO (and not made); 0: none */
	void (*changed)(void *arg);
	void *arg;
};

static inline struct lm_storage *watch_inner(struct lm_storage *s)
{
	return ((struct watch *)s)->inner;
}

static inline int watch_before(struct lm_storage *s, struct lm_err *err)
{
	struct watch *w = (struct watch *)s;
	return ++w->changes == w->fail_at ? lm_err_set(err, -EIO, "made to fail") : 0;
}

static inline int watch_after(struct lm_storage *s, int r)
{
	struct watch *w = (struct watch *)s;
	if (r == 0 && w->changed)
		w->changed(w->arg);
	return r;
}

static inline int watch_has(struct lm_storage *s, const char *path, struct lm_err *err)
{
	return watch_inner(s)->ops->has(watch_inner(s), path, err);
}
static inline int watch_get(struct lm_storage *s, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	return watch_inner(s)->ops->get(watch_inner(s), path, ret, err);
}
static inline int watch_get_file(struct lm_storage *s, const char *path, int fd, struct lm_err *err)
{
	return watch_inner(s)->ops->get_file(watch_inner(s), path, fd, err);
}
static inline int watch_put(struct lm_storage *s, const char *path, const void *data, size_t len, struct lm_err *err)
{
	int r = watch_before(s, err);
	return r < 0 ? r : watch_after(s, watch_inner(s)->ops->put(watch_inner(s), path, data, len, err));
}
static inline int watch_put_file(struct lm_storage *s, const char *path, int fd, struct lm_err *err)
{
	int r = watch_before(s, err);
	return r < 0 ? r : watch_after(s, watch_inner(s)->ops->put_file(watch_inner(s), path, fd, err));
}
static inline int watch_list(
	struct lm_storage *s, const char *dir, lm_storage_list_fn *fn, void *arg, struct lm_err *err)
{
	return watch_inner(s)->ops->list(watch_inner(s), dir, fn, arg, err);
}
static inline int watch_remove(struct lm_storage *s, const char *path, struct lm_err *err)
{
	int r = watch_before(s, err);
	return r < 0 ? r : watch_after(s, watch_inner(s)->ops->remove(watch_inner(s), path, err));
}
static inline int watch_alias(struct lm_storage *s, const char *path, const char *target, struct lm_err *err)
{
	int r = watch_before(s, err);
	return r < 0 ? r : watch_after(s, watch_inner(s)->ops->alias(watch_inner(s), path, target, err));
}
static inline int watch_sync(struct lm_storage *s, struct lm_err *err)
{
	int r = watch_before(s, err);
	return r < 0 ? r : watch_inner(s)->ops->sync(watch_inner(s), err);
}
static inline const char *watch_scratch(struct lm_storage *s)
{
	return watch_inner(s)->ops->scratch(watch_inner(s));
}
static inline int watch_lock(struct lm_storage *s, const struct lm_storage_wait *wait, struct lm_err *err)
{
	return watch_inner(s)->ops->lock(watch_inner(s), wait, err);
}

static inline struct watch watch_storage(struct lm_storage *inner)
{
	static const struct lm_storage_ops ops = {
		.has = watch_has,
		.get = watch_get,
		.get_file = watch_get_file,
		.put = watch_put,
		.put_file = watch_put_file,
		.list = watch_list,
		.remove = watch_remove,
		.alias = watch_alias,
		.sync = watch_sync,
		.scratch = watch_scratch,
		.lock = watch_lock,
	};
	return (struct watch){.storage.ops = &ops, .inner = inner};
}

static inline int client_fetch(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err)
{
	struct lm_storage *storage = arg;
	char path[LM_OBJECT_PATH_MAX];
	return storage->ops->get(storage,
		certificate->set ? lm_object_path(certificate, LM_OBJECT_CERTIFICATE, path) : LM_WHITELIST_NAME, ret,
		err);
}

/* What a client without a cache, with this master key, says of the repository. */
static inline int client_verdict(struct lm_storage *storage, const char *fqrn, struct lm_key *master,
	struct lm_manifest *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	struct lm_trust trust = {.fqrn = fqrn, .keys = &master, .key_count = 1, .now_s = lm_wall_s()};
	int r = storage->ops->get(storage, LM_MANIFEST_NAME, &text, err);
	return r < 0 ? r : lm_trust_manifest(&trust, lm_buf_cstr(&text), text.len, client_fetch, storage, ret, err);
}

static inline void get_file(struct lm_storage *storage, const char *path, struct lm_buf *ret)
{
	struct lm_err err = LM_ERR_INIT;
	*ret = LM_BUF(1 << 20);
	assert_ok(storage->ops->get(storage, path, ret, &err), &err);
}

static inline void assert_same_file(struct lm_storage *storage, const char *path, const struct lm_buf *before)
{
	CLEANUP(lm_buf_done) struct lm_buf after = {0};
	get_file(storage, path, &after);
	assert_int_equal(after.len, before->len);
	assert_memory_equal(after.data, before->data, after.len);
}

#endif
