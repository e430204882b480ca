/*
 * Fetching: from the name of an object to a descriptor of its verified content.
 *
 * One fetch serves one repository; all of them share a cache. An object that is cached is opened at once. One that is
 * not joins the object's one download, however many want it: each gets its callback. A download is as urgent as the
 * most urgent of those who wait for it; when all have left, it goes on as read-ahead does. What failed is not tried
 * again for a moment (failures.h): until then, wishes for it fail at once with the same words.
 *
 * A download's way: the HTTP engine's thread receives and only copies, up to LM_FETCH_WINDOW bytes, beyond which the
 * transfer pauses. Jobs on the work queue, one at a time for each download, inflate, hash and write to the cache's
 * temporary file; the last of them names the object in the cache and calls the waiters, and tells origin.h its verdict,
 * so that damaged bytes are tried elsewhere.
 *
 *   starting   in the table, the engine has not begun; after an unclean end of the machine a job first reads what the
 *              cache has of it, to verify that
 *   live       on_begin() called, once for each attempt; on_done() ends it
 *   judging    on_end() was called: a job says what the bytes are worth
 *   finished   finish(): out of the table, waiters called; freed when neither job nor engine refers to it
 */
#ifndef LM_FETCHER_FETCH_H
#define LM_FETCHER_FETCH_H

#include "base/work.h"
#include "fetcher/cache.h"
#include "net/origin.h"

struct lm_fetch;

enum {
	LM_FETCH_WINDOW = 256 << 10,	  /* bytes received and not yet inflated, of one download; twice that is held */
	LM_FETCH_AHEAD_MAX = 64 << 20,	  /* bytes of content that read-ahead may have under way in a repository */
	LM_FETCH_TIMEOUT_MS = 600 * 1000, /* default of how long anybody waits */
};

/* Everything must outlive the fetch. work runs the waiters. database_max: bytes that a catalog or history, whose size
 * nothing tells beforehand, may inflate to: its download ends there with -EPROTO. */
int lm_fetch_new(struct lm_cache *cache, struct lm_origin *origin, struct lm_work *work, uint64_t database_max,
	struct lm_fetch **ret, struct lm_err *err) MUST_CHECK;
void lm_fetch_free(struct lm_fetch *fetch); /* after its downloads ended: lm_http_free(), then lm_work_drain() */
LM_DEFINE_CLEANUP(struct lm_fetch, lm_fetch_free, lm_fetch_freep)

/* Whoever waits from now on gets -ETIMEDOUT after that long, wherever the download is (in a queue, too); the download
 * itself goes on. */
void lm_fetch_set_timeout(struct lm_fetch *fetch, unsigned timeout_ms);

/* The network is back, or so it seems: what failed may be asked for at once. */
void lm_fetch_recover(struct lm_fetch *fetch);

/*
 * Called once, on a thread of the work queue, with no lock held. code 0: fd is open on the content and valid during
 * the call only (dup it to keep it; it may be a file without a name). Else fd is -1 and err says why: -ENOENT no server
 * has it, -EBADMSG all of them send damaged bytes, -EPROTO its content is not what the catalog says, -EIO, -ETIMEDOUT,
 * -ENOSPC, -ENOMEM, -ECANCELED; -EMFILE, -ENFILE without descriptors left.
 */
typedef void lm_fetch_fn(void *arg, int code, int fd, const struct lm_err *err);

enum { LM_FETCH_LATER = 1 };
/*
 * 0: *ret_fd is a descriptor that the caller owns, fn is not called. LM_FETCH_LATER: fn will be called, possibly before
 * this returns. Negative: neither. ret_fd may be NULL with fn NULL: only see that it gets into the cache.
 * A database is only of use under its name in the cache: without room for it there, the code is -ENOSPC.
 */
int lm_fetch_object(struct lm_fetch *fetch, const struct lm_object_ref *ref, enum lm_http_priority priority,
	lm_fetch_fn *fn, void *arg, int *ret_fd, struct lm_err *err) MUST_CHECK;

/* The waiter known by arg lost interest: its fn is still called, but the download is less urgent for it. Nothing
 * happens when it is not waiting. */
void lm_fetch_leave(struct lm_fetch *fetch, const struct lm_object_ref *ref, const void *arg);

/* Read-ahead: 0 when the object is cached or under way now, -EAGAIN when too much is under way already. */
int lm_fetch_ahead(struct lm_fetch *fetch, const struct lm_object_ref *ref) MUST_CHECK;
/* For the count of what read-ahead was good for: a reader wants the object. Cheap. */
void lm_fetch_used(struct lm_fetch *fetch, const struct lm_object_ref *ref);

/* fn(arg) on a thread of the work queue after that long, or sooner when the engine ends. 0, or -ENOMEM. */
int lm_fetch_later(struct lm_fetch *fetch, unsigned delay_ms, lm_work_fn *fn, void *arg) MUST_CHECK;

/* What administrators are shown. */

enum { LM_FETCH_LATENCIES = 18 }; /* the first: below 1 ms, the next: below 2 ms, 4 ms …, the last: everything else */

struct lm_fetch_failure {
	struct lm_object_ref ref;
	int code; /* 0: there was none */
	struct lm_err err;
	int64_t ago_ms;
};

struct lm_fetch_stats {
	uint64_t files, catalogs; /* objects fetched: files and chunks; catalogs and histories */
	uint64_t bytes;		  /* of their content */
	uint64_t failed;
	uint64_t merged;		      /* wishes that joined a download under way */
	uint64_t refused;		      /* wishes that failed since the object had failed a moment before */
	uint64_t left;			      /* waiters that lost interest */
	uint64_t timeouts;		      /* waiters that waited too long */
	uint64_t ahead;			      /* objects asked for by read-ahead */
	uint64_t ahead_used;		      /* those of them that were read */
	uint64_t ahead_wasted;		      /* those of them that were not, as far as is remembered */
	unsigned downloads, waiters;	      /* now */
	uint64_t latency[LM_FETCH_LATENCIES]; /* of downloads, from the first wish to the end */
	uint64_t latency_ms;		      /* their sum */
	struct lm_fetch_failure last_failure; /* of an object */
};
void lm_fetch_stats(struct lm_fetch *fetch, struct lm_fetch_stats *ret);

struct lm_fetch_download {
	struct lm_object_ref ref;
	int64_t age_ms;
	uint64_t bytes; /* received, of this attempt */
	unsigned waiters;
	enum lm_http_priority priority;
};
/* The downloads under way. fn is called on this thread, without locks. -ENOMEM. */
int lm_fetch_describe(
	struct lm_fetch *fetch, void (*fn)(void *arg, const struct lm_fetch_download *download), void *arg) MUST_CHECK;

enum { LM_FETCH_SLOWEST = 8, LM_FETCH_LATELY_MS = 600 * 1000 };
struct lm_fetch_slow {
	struct lm_object_ref ref;
	int64_t took_ms, ago_ms;
	int code;
};
/* The slowest downloads that ended lately, the slowest first; returns how many. */
size_t lm_fetch_slowest(struct lm_fetch *fetch, struct lm_fetch_slow ret[LM_FETCH_SLOWEST]);

#endif
