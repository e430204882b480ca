/*
 * Fetching: from the name of an object to a descriptor of its verified content.
 *
 * One fetch serves one repository; all of them share a cache. An object that is cached is opened at once. One that is
 * not joins the object's one download, however many want it: each gets its callback, and a download that failed leaves
 * nothing behind, so the next wish starts anew.
 *
 * States of a download: running (the HTTP engine's thread feeds it: inflate, hash, append to the cache's temporary
 * file) - ended (origin.h gave its verdict) - finishing (on the work queue: gets its name in the cache, waiters are
 * called) - gone. Inflating and writing on the engine's thread limits all downloads together to what one core
 * inflates, some 300 MB/s; naming, and all that waiters do, happens elsewhere.
 */
#ifndef LM_FETCHER_FETCH_H
#define LM_FETCHER_FETCH_H

#include "base/work.h"
#include "fetcher/cache.h"
#include "net/origin.h"

struct lm_fetch;

/* Everything must outlive the fetch. work runs the waiters. database_max: bytes that a catalog or history, whose size
 * nothing tells beforehand, may inflate to: its download ends there with -EPROTO. */
int lm_fetch_new(struct lm_cache *cache, struct lm_origin *origin, struct lm_work *work, uint64_t database_max,
	struct lm_fetch **ret, struct lm_err *err) MUST_CHECK;
void lm_fetch_free(struct lm_fetch *fetch); /* after its downloads ended: lm_http_free(), then lm_work_drain() */
LM_DEFINE_CLEANUP(struct lm_fetch, lm_fetch_free, lm_fetch_freep)

/*
 * Called once, on a thread of the work queue, with no lock held. code 0: fd is open on the content and valid during
 * the call only (dup it to keep it; it may be a file without a name). Else fd is -1 and err says why: -ENOENT no server
 * has it, -EBADMSG all of them send damaged bytes, -EPROTO its content is not what the catalog says, -EIO, -ETIMEDOUT,
 * -ENOSPC, -ENOMEM, -ECANCELED.
 */
typedef void lm_fetch_fn(void *arg, int code, int fd, const struct lm_err *err);

enum { LM_FETCH_LATER = 1 };
/*
 * 0: *ret_fd is a descriptor that the caller owns, fn is not called. LM_FETCH_LATER: fn will be called, possibly before
 * this returns. Negative: neither. ret_fd may be NULL with fn NULL: only see that it gets into the cache (read-ahead).
 * A database is only of use under its name in the cache: without room for it there, the code is -ENOSPC.
 */
int lm_fetch_object(struct lm_fetch *fetch, const struct lm_object_ref *ref, enum lm_http_priority priority,
	lm_fetch_fn *fn, void *arg, int *ret_fd, struct lm_err *err) MUST_CHECK;

struct lm_fetch_stats {
	uint64_t files, catalogs; /* objects fetched: files and chunks; catalogs and histories */
	uint64_t failed;
};
void lm_fetch_stats(struct lm_fetch *fetch, struct lm_fetch_stats *ret);

#endif
