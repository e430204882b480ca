/*
 * One mounted repository: the kernel's questions, answered from tree, cache and fetch.
 *
 * A few threads receive requests. What can be answered from local catalogs and cached objects is answered there and
 * then. A request that lacks an object is parked: a small struct waits for the object's download, no thread does; the
 * download's completion goes on with it on the work queue. One for which there is no file descriptor left is parked,
 * too, and tried again for half a minute. A caller that is killed meanwhile gets EINTR at once. The
 * kernel keeps what it has been told without time-out, since catalogs and objects never change; only entries of the
 * root directory follow the repository's TTL, and are withdrawn when a new revision brings others.
 *
 * Mount and threads are the session's (session.h), which may be one that an earlier process began.
 *
 *   lm_fuse_new() mounts - lm_fuse_root_changed()... - lm_fuse_stop() unmounts - (all downloads end) - lm_fuse_free()
 */
#ifndef LM_FETCHER_FUSE_H
#define LM_FETCHER_FUSE_H

#include "fetcher/fetch.h"
#include "fetcher/keeper.h"
#include "fetcher/tree.h"

struct lm_fuse;

/* What the kernel asks for; what costs next to nothing to answer is not counted. */
enum lm_request_kind {
	LM_REQUEST_LOOKUP,
	LM_REQUEST_GETATTR,
	LM_REQUEST_READLINK,
	LM_REQUEST_GETXATTR,
	LM_REQUEST_LISTXATTR,
	LM_REQUEST_READDIR,
	LM_REQUEST_READ,
	LM_REQUEST_KINDS,
};
const char *lm_request_name(enum lm_request_kind kind); /* "lookup"... */

struct lm_fuse_stats {
	struct {
		uint64_t answered; /* errors included */
		uint64_t failed;   /* those with EIO or ENOMEM */
		uint64_t ns;	   /* from receiving to answering, together */
	} requests[LM_REQUEST_KINDS];
	uint64_t interrupted; /* their callers were ended while they waited */
	uint64_t parked;      /* that had to wait for a catalog */
	uint64_t famines;     /* that had to wait for file descriptors */
	uint64_t waiting;     /* received and not answered yet */
};

struct lm_fuse_config { /* everything pointed to must outlive the mount */
	const char *fqrn;
	const char *mountpoint;
	struct lm_tree *tree;
	struct lm_fetch *fetch;
	struct lm_cache *cache;
	struct lm_work *work;
	struct lm_keeper *keeper; /* or NULL */
	unsigned threads;
	uint64_t root_ttl_s;
	/* Extended attributes can't be asked for: the kernel, told so once, does not ask again. For what has none. */
	bool lean;
	/* The mount is gone though nobody here asked for it; on a thread of the mount, which must not stop it itself.
	 */
	void (*on_end)(void *arg);
	void *arg;
};

/* Mounts and serves. The tree must have its root. */
int lm_fuse_new(const struct lm_fuse_config *config, struct lm_fuse **ret, struct lm_err *err) MUST_CHECK;

/* The root catalog `from` (0: one that an earlier process had, and nobody knows) gave way to `to`. Never waits: a
 * thread of its own tells the kernel. */
void lm_fuse_root_changed(struct lm_fuse *fuse, uint32_t from, uint32_t to, uint64_t root_ttl_s);

/*
 * Waits until the kernel was told of all changes so far. -ETIMEDOUT: not within ms, since it holds a directory for a
 * look-up that waits for its catalog. -ECANCELED: the mount is being stopped.
 */
int lm_fuse_wait_told(struct lm_fuse *fuse, int64_t ms) MUST_CHECK;

/* Unmounts (lazily, and cutting off its users, where it is in use), joins the threads. Parked requests remain. */
void lm_fuse_stop(struct lm_fuse *fuse);

/* Instead of stop: another process goes on with the mount. Parked requests are not answered here any more. */
void lm_fuse_leave(struct lm_fuse *fuse);

void lm_fuse_stats_add(struct lm_fuse *fuse, struct lm_fuse_stats *sum);
bool lm_fuse_resumed(const struct lm_fuse *fuse);
bool lm_fuse_progress(struct lm_fuse *fuse); /* lm_session_progress() */
struct lm_session_stats;
void lm_fuse_session_stats_add(struct lm_fuse *fuse, struct lm_session_stats *sum);

/* After stop, and after all downloads ended, which ended the parked requests. */
void lm_fuse_free(struct lm_fuse *fuse);
LM_DEFINE_CLEANUP(struct lm_fuse, lm_fuse_free, lm_fuse_freep)

#endif
