/*
 * Where a repository is written: an interface, and its implementation over a local directory.
 *
 * Objects appear complete or not at all. Calls may come from several threads at once, except as noted.
 */
#ifndef LM_REPO_STORAGE_H
#define LM_REPO_STORAGE_H

#include "base/buf.h"
#include "repo/object.h"

struct lm_storage {
	const struct lm_storage_ops *ops;
};
/* One file of a directory; size 0 for aliases. Non-zero stops the listing and is returned. It may remove the file. */
typedef int lm_storage_list_fn(void *arg, const char *name, uint64_t size);

/* For who is ready to wait for the publisher's lock. */
struct lm_storage_wait {
	void (*waiting)(void *arg, const char *holder); /* once, before the wait: a sentence that says who has it */
	void *arg;
};

struct lm_storage_ops {
	/* 1 there, 0 not, negative on failure. */
	int (*has)(struct lm_storage *storage, const char *path, struct lm_err *err);
	/* Appends the file; -ENOENT; -EMSGSIZE. */
	int (*get)(struct lm_storage *storage, const char *path, struct lm_buf *ret, struct lm_err *err);
	/* Writes the file's content to fd at its position; -ENOENT. */
	int (*get_file)(struct lm_storage *storage, const char *path, int fd, struct lm_err *err);
	/* Creates or replaces it, atomically and (save for what is content-addressed: see sync) durably.
	 * Content-addressed paths, those below data/, that exist already are left as they are. */
	int (*put)(struct lm_storage *storage, const char *path, const void *data, size_t len, struct lm_err *err);
	/* The same from a file (its whole content, whatever its position). */
	int (*put_file)(struct lm_storage *storage, const char *path, int fd, struct lm_err *err);
	/* The files (and aliases) of one directory such as "data/3f", in no order, without those below; "": the top. An
	 * absent directory has none. */
	int (*list)(struct lm_storage *storage, const char *dir, lm_storage_list_fn *fn, void *arg, struct lm_err *err);
	/* Takes a file (or alias) away; absent: 0. Content-addressed ones may be there, and their failure told, until
	 * sync. */
	int (*remove)(struct lm_storage *storage, const char *path, struct lm_err *err);
	/* A second name, in the top directory, for an object; replaces what has that name, atomically and durably. */
	int (*alias)(struct lm_storage *storage, const char *path, const char *target, struct lm_err *err);
	/* All that was put (or removed) before is durable when this returns, or that failed; called before the manifest
	 * is swapped. */
	int (*sync)(struct lm_storage *storage, struct lm_err *err);
	/* A directory on a local file system for temporary files of the publisher. */
	const char *(*scratch)(struct lm_storage *storage);
	/* One publisher at a time: waits for the others, or where wait is NULL: -EBUSY names who holds it. Released by
	 * lm_storage_free() and when the process dies; 0 where this storage holds it already. Temporary files of
	 * writers that died are removed. One thread only. */
	int (*lock)(struct lm_storage *storage, const struct lm_storage_wait *wait, struct lm_err *err);
	void (*free)(struct lm_storage *storage);
};
static inline void lm_storage_free(struct lm_storage *storage)
{
	if (storage)
		storage->ops->free(storage);
}
LM_DEFINE_CLEANUP(struct lm_storage, lm_storage_free, lm_storage_freep)

/* The repository's own directory (the one that holds .cvmfspublished). create: make it and data/00..ff, data/txn. */
int lm_storage_dir_open(const char *dir, bool create, struct lm_storage **ret, struct lm_err *err) MUST_CHECK;

#endif
