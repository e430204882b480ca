/*
 * A FUSE session: the mount, the threads that receive its requests, and what is needed for another process to go on
 * with it when this one ends, in whatever way.
 *
 * What outlives the process is held by the keeper (keeper.h): the descriptor of /dev/fuse and the journal of requests
 * (journal.h). Opening a session takes it over where the keeper has it, and mounts where not. Taking over means: the
 * INIT request is processed again, since libfuse's answers depend on it (its reply is not sent: the kernel had one),
 * then all requests left in the journal. Where the journal is of another version, the kernel is asked to send again
 * what it has no answer for (Linux 6.9 and later).
 *
 * The features asked for at INIT are those of the process that mounted; a later one must live with them.
 *
 * SIGUSR1 is used inside the process (to wake threads at the end) and must not be blocked.
 *
 *   lm_session_open() - lm_session_start() - lm_session_stop() or lm_session_leave() - lm_session_free()
 */
#ifndef LM_FETCHER_SESSION_H
#define LM_FETCHER_SESSION_H

#include "base/err.h"
#include "base/work.h"
#include "fetcher/fuse_internal.h"
#include "fetcher/keeper.h"

struct lm_session;

struct lm_session_config { /* everything pointed to must outlive the session */
	const char *mountpoint;
	const char *source; /* what the mount is said to be of: a constant */
	const struct fuse_lowlevel_ops *operations;
	void *user;		  /* see lm_session_user() */
	struct lm_keeper *keeper; /* or NULL */
	unsigned threads;
	/* Clones of the mount may show other owners, where the kernel can (Linux 6.12). Then requests name no caller.
	 */
	bool map_owners;
	/* fn(arg) on some thread after that long, or sooner when this process ends, but before the session is freed. 0,
	 * or a negative errno. */
	int (*later)(void *user, unsigned delay_ms, lm_work_fn *fn, void *arg);
	/* The mount is gone though nobody here asked for it; on a thread of the session, which must not stop it itself.
	 */
	void (*on_end)(void *user);
};

/* Mounts, or takes over; requests may come from the next call on. */
int lm_session_open(const struct lm_session_config *config, struct lm_session **ret, struct lm_err *err) MUST_CHECK;
int lm_session_start(struct lm_session *session, struct lm_err *err) MUST_CHECK;

/* Unmounts (lazily, and cutting off its users, where it is in use), joins the threads. Parked requests remain. */
void lm_session_stop(struct lm_session *session);
/* Instead of stop: joins the threads and leaves the mount, with what was not answered, to the next process. No error is
 * answered any more. */
void lm_session_leave(struct lm_session *session);
/* After stop or leave, and after the last answer. */
void lm_session_free(struct lm_session *session);
LM_DEFINE_CLEANUP(struct lm_session, lm_session_free, lm_session_freep)

bool lm_session_resumed(const struct lm_session *session);
struct fuse_session *lm_session_fuse(const struct lm_session *session); /* for notifications */
void *lm_session_user(fuse_req_t req);
void *lm_session_user_of_init(void *userdata); /* for the init operation, which has no request */

/* The number of the request that this thread is processing. Who answers with data later keeps it. */
uint64_t lm_session_request(void);
/* fuse_reply_data() and fuse_reply_iov() know it by themselves, but for what libfuse splices. When the data can't be
 * read the answer is an error, and fn is called before that is sent: the kernel may ask again at once. */
typedef void lm_session_unreadable_fn(void *arg);
void lm_session_reply_data(
	fuse_req_t req, uint64_t request, struct fuse_bufvec *data, lm_session_unreadable_fn *fn, void *arg);

/* Whether some thread of it made progress, or none had anything to do, since the last call. One caller. */
bool lm_session_progress(struct lm_session *session);

struct lm_session_stats {
	bool resumed;
	unsigned waiting;  /* requests taken and not answered */
	uint64_t replayed; /* requests taken over from the last process */
	uint64_t given_up; /* of these, answered EIO because they had been in hand in several crashes */
};
void lm_session_stats_add(struct lm_session *session, struct lm_session_stats *sum);

#endif
