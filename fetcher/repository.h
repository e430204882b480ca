/*
 * A repository: its trusted root, kept current, or fixed.
 *
 * A thread of its own does what may wait: manifest, certificate and whitelist by network, their signatures
 * (repo/trust.h), then the root catalog; only a root that passed everything and whose catalog is open becomes the
 * tree's root, at once and whole, and is announced when the mounts know of it. It does so at start, when the TTL has
 * passed, and when asked.
 *
 * States:
 *   starting   no root yet; the first look is under way
 *   recorded   resumed with the newest root ever accepted; the first look is under way
 *   failed     no root: the last look failed and the cache has none
 *   online     the last look said what is current
 *   offline    the last look failed: the newest root ever accepted stays
 *
 * Failed, it looks again after 5 s, then after twice as long each time up to LM_REPOSITORY_RETRY_S; offline, after that
 * or the TTL, whichever is shorter. In both it also looks when anything else of the repository could be fetched, two
 * seconds after the last look at the soonest, later each time that this was in vain.
 *
 * A root that the settings fix (lm_pin) never moves: once it is there, nothing else takes its place until the process
 * ends. By hash, it involves no signature at all: the catalog's bytes are what was asked for. By tag or date, a look
 * fetches the manifest and verifies it like any other, then the history that it names, verified by its hash, and finds
 * the tag there. Looks end with the first that succeeded.
 *
 * DIR/root holds the manifest of the newest root ever accepted (the breadcrumb): a start without network goes on from
 * there when that catalog is cached, and no older revision is ever accepted. DIR/history is the same for the histories
 * in which tags and dates were found: the newest manifest accepted is the newer of the two. DIR/certificate is the
 * certificate of the last one, so that the blacklist can be heeded without network. DIR/catalogs is the table of
 * numbers.
 */
#ifndef LM_FETCHER_REPOSITORY_H
#define LM_FETCHER_REPOSITORY_H

#include "fetcher/fetch.h"
#include "fetcher/settings.h"
#include "fetcher/tree.h"
#include "repo/manifest.h"

enum { LM_REPOSITORY_RETRY_S = 180, LM_REPOSITORY_OPEN_CATALOGS = 256 };

struct lm_repository;

struct lm_repository_root {
	uint32_t catalog; /* number of the root catalog */
	struct lm_hash hash;
	uint64_t revision, ttl_s;
	bool recorded; /* the newest one ever accepted, without a look */
};

struct lm_repository_config { /* everything must outlive the repository */
	const char *fqrn;
	struct lm_settings *settings; /* that name it; counted */
	struct lm_http *http;
	struct lm_cache *cache;
	struct lm_work *work;
	const char *dir; /* made where missing; copied */
	bool resume;	 /* first of all goes on with the newest root accepted, if it is in the cache, without a look */
	/*
	 * A root catalog became the tree's in place of `from` (0 the first time). On the repository's thread, no lock
	 * held. Announced, by status, by lm_repository_node() and to those who wait for a look, when this has returned.
	 */
	void (*on_root)(void *arg, uint32_t from, const struct lm_repository_root *root);
	void *arg;
};

int lm_repository_new(
	const struct lm_repository_config *config, struct lm_repository **ret, struct lm_err *err) MUST_CHECK;
int lm_repository_start(struct lm_repository *repository, struct lm_err *err) MUST_CHECK; /* the first look begins */

/* Waits for the end of the first look: 0 when there is a root, else why there is none. */
int lm_repository_wait(struct lm_repository *repository, struct lm_err *err) MUST_CHECK;

/* No more looks; joins the thread, which does not wait for requests that are under way. */
void lm_repository_stop(struct lm_repository *repository);
/* After stop, and after all requests and jobs ended. */
void lm_repository_free(struct lm_repository *repository);
LM_DEFINE_CLEANUP(struct lm_repository, lm_repository_free, lm_repository_freep)

/*
 * Looks for a new revision now; fn (may be NULL) is called when that look has ended, on the repository's thread, or at
 * once on the caller's when the repository is being stopped. past_caches: proxies on the way must ask the server.
 */
int lm_repository_look(struct lm_repository *repository, bool past_caches, void (*fn)(void *arg), void *arg) MUST_CHECK;

/*
 * Other settings from now on: the origin's at once, keys, blacklist and TTL with a look that begins now. What is fixed
 * by lm_pin stays. After an error nothing changed.
 */
int lm_repository_reconfigure(
	struct lm_repository *repository, struct lm_settings *settings, struct lm_err *err) MUST_CHECK;

/*
 * The tree's node of the root that was announced last: what is found from there can be found in the mounts, too. The
 * tree's own LM_NODE_ROOT may be that of a newer root, for as long as the kernel goes by the old one.
 */
uint64_t lm_repository_node(const struct lm_repository *repository);

const char *lm_repository_fqrn(const struct lm_repository *repository);
struct lm_tree *lm_repository_tree(struct lm_repository *repository);
struct lm_fetch *lm_repository_fetch(struct lm_repository *repository);
struct lm_origin *lm_repository_origin(struct lm_repository *repository);
struct lm_catalogs *lm_repository_catalogs(struct lm_repository *repository);

enum lm_repository_state {
	LM_REPOSITORY_STARTING,
	LM_REPOSITORY_FAILED,
	LM_REPOSITORY_ONLINE,
	LM_REPOSITORY_OFFLINE,
	LM_REPOSITORY_RECORDED,
};

struct lm_repository_status { /* times are monotonic */
	enum lm_repository_state state;
	int64_t state_since_ms;
	int64_t next_look_ms; /* 0: under way, or none will be: the root is fixed */
	uint64_t looks, failed_looks;
	uint64_t revision, ttl_s;
	struct lm_hash root; /* unset: none yet */
	const char *pin;     /* "tag v1" or the like; "": the root follows the repository. As long as the repository */
	bool offline;	     /* the last look failed */
	int64_t looked_ms;   /* when the last look ended; 0: not yet */
	struct lm_err last_error; /* of the last look, when it failed */
	struct lm_origin_stats origin;
	struct lm_fetch_stats fetch;
};
void lm_repository_status(struct lm_repository *repository, struct lm_repository_status *ret);

#endif
