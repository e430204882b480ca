/*
 * Keeps repositories as a wish list wants them.
 *
 * A round:
 *
 *   1  wildcards are expanded by the registries' lists of tags
 *   2  each image is asked for by one HEAD request: which digest does its tag stand for now? (a few at a time)
 *   3  those that are new are converted, all of one repository in one revision: lm_converter_image()
 *   4  what nobody wishes for any more is noted, and with prune taken away after the grace period
 *
 * An image that fails keeps what it had, is said, and is tried again later (state.h); the others go on. A registry that
 * is down or limits (429) is left alone for the rest of the round. A revision that takes long is published in parts, so
 * that what is done is there: after PUBLISH_AFTER_S, and when a notification wants to come between.
 *
 * One thread calls; lm_syncer_stop() and lm_syncer_lock() are for others.
 */
#ifndef LM_TOOLS_SYNCER_H
#define LM_TOOLS_SYNCER_H

#include "base/lock.h"
#include "oci/access.h"
#include "sync/inbox.h"
#include "sync/state.h"

struct lm_syncer_config { /* all outlives the syncer */
	const struct lm_access *access;
	const char *storage, *keys, *s3_config; /* instead of what is recorded; NULL: that */
	struct lm_sync_state *state;
	struct lm_inbox *inbox; /* asked between images; NULL: none */
	bool prune;
	bool patient; /* images that failed lately are left alone for a while */
};

/* Counted since the start. */
struct lm_sync_counters {
	uint64_t rounds, checks, failed_checks, lists;
	uint64_t images_published, failed_images, images_retired, revisions;
	uint64_t layers_converted, layers_present, fetched_bytes, stored_bytes;
	uint64_t list_reads, failed_list_reads;
	int64_t started_s, round_end_s, round_ms; /* of the last round */
	bool list_wrong;			  /* the list's file is; the one read before is in force */
	uint64_t bad_wishes;			  /* lines of the list in force that can't be understood */
	uint64_t converting;			  /* 1 while an image is converted */
};

/* What one call did. */
struct lm_round_report {
	size_t images, failed, published, retired, revisions, repos_failed;
};

struct lm_syncer;
int lm_syncer_new(const struct lm_syncer_config *config, struct lm_syncer **ret, struct lm_err *err) MUST_CHECK;
void lm_syncer_free(struct lm_syncer *syncer);
LM_DEFINE_CLEANUP(struct lm_syncer, lm_syncer_free, lm_syncer_freep)

/* One round. Failures of images and repositories are said and noted, and counted in *ret; what is returned is that the
 * round itself could not be: -ENOMEM, -ECANCELED after lm_syncer_stop(), or the state can't be written. */
int lm_syncer_round(struct lm_syncer *syncer, const struct lm_wishlist *list, struct lm_round_report *ret,
	struct lm_err *err) MUST_CHECK;
/* The same for these tags only, at once, whatever happened to them before. Marks those that are early. */
int lm_syncer_pushed(struct lm_syncer *syncer, const struct lm_wishlist *list, struct lm_pushed *pushed,
	struct lm_round_report *ret, struct lm_err *err) MUST_CHECK;

/* From any thread: nothing more is begun, what is converted right now ends; what is complete is published. */
void lm_syncer_stop(struct lm_syncer *syncer);

/* Guards the configuration's state and the counters: hold it to read them from another thread. */
struct lm_lock *lm_syncer_lock(struct lm_syncer *syncer);
struct lm_sync_counters *lm_syncer_counters(struct lm_syncer *syncer);

#endif
