/*
 * Durable pins: subtrees of repositories that are to be in the cache, whole, and stay there.
 *
 * A pin is a directory or file of a repository (a layer is /.layers/XX/DIGEST). DIR/pins lists them; each has a number,
 * which the objects that it holds have in their records (lm_cache_keep), so that nothing has to be walked to know at a
 * start what must not be evicted. All pins together hold at most the share that the cache gives them.
 *
 * A thread walks the subtrees, with catalogs and contents, some fetches at a time, in the background of all else: when
 * a pin is made, and whenever the repository gets a root: at a start (for what had not come before), by a new revision.
 * Objects of older revisions stay held until the pin is given up. A pin whose first walk fails is given up at once.
 *
 * Any thread may call.
 */
#ifndef LM_FETCHER_PINS_H
#define LM_FETCHER_PINS_H

#include "fetcher/repository.h"

enum { LM_PINS_MAX = LM_CACHE_KEEPERS_MAX, LM_PINS_FETCHES = 16 };

struct lm_pins;

struct lm_pins_config { /* repositories are copied; what they point to, and the cache, must outlive the pins */
	struct lm_cache *cache;
	const char *dir; /* of the list */
	struct lm_repository *const *repositories;
	size_t repository_count;
};
int lm_pins_new(const struct lm_pins_config *config, struct lm_pins **ret, struct lm_err *err) MUST_CHECK;
/* Ends the walk under way and all waiting; before that of the HTTP engine. */
void lm_pins_stop(struct lm_pins *pins);
void lm_pins_free(struct lm_pins *pins); /* after the end of all downloads and jobs */
LM_DEFINE_CLEANUP(struct lm_pins, lm_pins_free, lm_pins_freep)

/* The repository has a new root. Cheap. */
void lm_pins_root_changed(struct lm_pins *pins, const char *fqrn);

struct lm_pin_status {
	const char *fqrn, *path; /* as long as the pin */
	uint64_t objects, bytes; /* held, on disk; while it is walked: found held so far */
	bool complete;
	struct lm_err err; /* code 0: complete or under way */
};
/*
 * Makes a pin, or walks one again, and waits for the end of its walk. fqrn "" stands for the one repository that has
 * the path. progress (may be NULL) is called now and then, without a lock; non-zero: stop waiting (the walk goes on).
 * -ENOENT no such repository or path; -ENOSPC too many, or too large; -EINVAL; the errors of fetching.
 */
typedef int lm_pin_progress_fn(void *arg, const struct lm_pin_status *status);
int lm_pins_add(struct lm_pins *pins, const char *fqrn, const char *path, lm_pin_progress_fn *progress, void *arg,
	struct lm_err *err) MUST_CHECK;
/* -ENOENT: there is none. */
int lm_pins_remove(
	struct lm_pins *pins, const char *fqrn, const char *path, uint64_t *ret_bytes, struct lm_err *err) MUST_CHECK;
/* fn must not call back. */
void lm_pins_each(struct lm_pins *pins, void (*fn)(void *arg, const struct lm_pin_status *status), void *arg);

#endif
