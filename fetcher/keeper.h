/*
 * The worker's side of its keeper (keeper_process.h): sessions and settings that outlive the worker, and what it is
 * told.
 *
 * The rest of the program need not care whether there is a keeper: all functions accept NULL, for none.
 *
 *   lm_keeper_connect() - settings - hello: the settings are right - wait_for_start - sessions... - ready - alive... -
 * end
 */
#ifndef LM_FETCHER_KEEPER_H
#define LM_FETCHER_KEEPER_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>

struct lm_keeper;

/* By the environment: *ret is NULL when this process has no keeper. The process ends with its keeper from now on.
 * Before the first thread. */
int lm_keeper_connect(struct lm_keeper **ret, struct lm_err *err) MUST_CHECK;
void lm_keeper_free(struct lm_keeper *keeper);
LM_DEFINE_CLEANUP(struct lm_keeper, lm_keeper_free, lm_keeper_freep)

/*
 * Settings in force (packed, see settings.h). After a crash the next worker goes on with them, whatever may have become
 * of the files meanwhile; another worker that was asked for reads the files, and so does one after a worker that died
 * before it was ready. Main thread.
 */
enum lm_kept_settings {
	LM_KEPT_NONE,
	LM_KEPT_SPARE,	  /* for where the files are wrong */
	LM_KEPT_IN_FORCE, /* instead of the files */
};
/* Appends them to ret. */
int lm_keeper_settings(
	struct lm_keeper *keeper, enum lm_kept_settings *ret_kind, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;
int lm_keeper_keep_settings(struct lm_keeper *keeper, const struct lm_buf *packed, struct lm_err *err) MUST_CHECK;

/* Says that the settings are right, and waits until the keeper wants this worker to take over. -ECANCELED: never. */
int lm_keeper_wait_for_start(struct lm_keeper *keeper, struct lm_err *err) MUST_CHECK;

/* Sessions (from any thread). */
struct lm_kept { /* descriptors are the receiver's */
	int fuse_fd, journal_fd;
};
/* Whether the keeper holds one that nobody has claimed yet; claiming takes its descriptors. */
bool lm_keeper_has(struct lm_keeper *keeper, const char *mountpoint);
bool lm_keeper_claim(struct lm_keeper *keeper, const char *mountpoint, struct lm_kept *ret);
/* The mountpoint of some session that is not wanted, whose descriptors are closed; NULL at the end. Main thread. */
const char *lm_keeper_unwanted(struct lm_keeper *keeper, bool (*wanted)(void *arg, const char *mountpoint), void *arg);
/* The descriptors are copied; a session that the keeper has under that name is replaced. */
int lm_keeper_store(
	struct lm_keeper *keeper, const char *mountpoint, const struct lm_kept *kept, struct lm_err *err) MUST_CHECK;
void lm_keeper_drop(struct lm_keeper *keeper, const char *mountpoint);

/* For the service manager, in sd_notify(3)'s words; without a keeper straight to it. */
void lm_keeper_notify(struct lm_keeper *keeper, const char *state);

/* The main loop: every lm_keeper_interval_ms() (-1: never) it says that all threads make progress. */
int lm_keeper_interval_ms(const struct lm_keeper *keeper);
void lm_keeper_alive(struct lm_keeper *keeper);
/* A descriptor (-1: none) that is readable when the keeper wants something; true: another worker is ready, leave. */
int lm_keeper_fd(const struct lm_keeper *keeper);
bool lm_keeper_wants_leave(struct lm_keeper *keeper);
/* Asks for another worker, as a USR2 to the keeper does. */
int lm_keeper_replace(struct lm_keeper *keeper, struct lm_err *err) MUST_CHECK;
/* This end is meant: the keeper ends, too. Otherwise it starts another worker. */
void lm_keeper_end(struct lm_keeper *keeper);

struct lm_keeper_facts {	/* constant after start */
	uint64_t worker;	/* number of this one: the keeper's start << 24, + from 1; 0: no keeper */
	uint64_t crashed;	/* number of the one that died of itself just before; 0: it did not */
	uint64_t restarts;	/* workers that ended without being asked to */
	int64_t keeper_start_s; /* wall clock */
	char last_end[256];	/* why the last worker ended; "": this is the first */
};
void lm_keeper_facts(const struct lm_keeper *keeper, struct lm_keeper_facts *ret);

#endif
