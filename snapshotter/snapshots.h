/*
 * What the service does, without the wire: snapshots made, shown, committed and dropped. service.h has the whole.
 *
 * Errors: -ENOENT, -EEXIST, -EINVAL and -EBUSY as snapshots v1 means them (not found, already exists, invalid argument,
 * failed precondition), -EAGAIN unavailable. All functions may be called from any thread.
 */
#ifndef LM_SNAPSHOTTER_SNAPSHOTS_H
#define LM_SNAPSHOTTER_SNAPSHOTS_H

#include "snapshotter/overlay.h"
#include "snapshotter/service.h"

struct lm_snapshots;

int lm_snapshots_open(
	const struct lm_service_options *options, struct lm_snapshots **ret, struct lm_err *err) MUST_CHECK;
void lm_snapshots_close(struct lm_snapshots *snapshots);
LM_DEFINE_CLEANUP(struct lm_snapshots, lm_snapshots_close, lm_snapshots_closep)

struct lm_store *lm_snapshots_store(struct lm_snapshots *snapshots);
uint64_t lm_snapshots_count(const struct lm_snapshots *snapshots, enum lm_counter counter);
/* All that was asked of the fetcher, and how it went. */
struct lm_policy *lm_snapshots_policy(struct lm_snapshots *snapshots);
struct lm_snapshots_state {
	enum lm_on_miss on_miss;
	struct lm_mount_options mount_options;
	struct lm_err no_trees;	    /* code not 0: why merged trees are not used at all */
	struct lm_err no_mapping;   /* the same of containers in user namespaces */
	struct lm_err tree_failure; /* why one could not be used last; code 0: that never was */
};
void lm_snapshots_state(struct lm_snapshots *snapshots, struct lm_snapshots_state *ret);
/* One line: whether merged trees are used, why not, and why one could not be used last. */
void lm_snapshots_log_trees(struct lm_snapshots *snapshots);

/*
 * Whether a Prepare or View on parent ("" for none), for the layer that ref names (NULL or "": none), or Mounts of key,
 * has to ask the fetcher: that may take as long as it likes to. Answered from memory.
 */
bool lm_snapshots_make_asks(struct lm_snapshots *snapshots, const char *plugin, const char *parent, const char *ref);
bool lm_snapshots_mount_asks(struct lm_snapshots *snapshots, const char *plugin, const char *key);

#define LM_PLUGIN_MAX_BYTES 255

struct lm_make_request {
	const char *plugin, *key, *parent;
	enum lm_kind kind;	  /* LM_ACTIVE or LM_VIEW */
	struct lm_labels *labels; /* of the request; what we have to say about the layer is added */
	unsigned timeout_ms;	  /* of the caller */
};
/*
 * Prepare and View. -EEXIST with *ret_provided set: not a failure, but the answer that the layer named by the labels is
 * there already, as a committed snapshot of its own. Other failures leave nothing behind.
 */
int lm_snapshots_make(struct lm_snapshots *snapshots, struct lm_make_request *request, struct lm_mount *ret,
	bool *ret_provided, struct lm_err *err) MUST_CHECK;

/* -EAGAIN: a layer below is not being served now. */
int lm_snapshots_mount(struct lm_snapshots *snapshots, const char *plugin, const char *key, unsigned timeout_ms,
	struct lm_mount *ret, struct lm_err *err) MUST_CHECK;

int lm_snapshots_commit(struct lm_snapshots *snapshots, const char *plugin, const char *key, const char *name,
	const char *parent, struct lm_labels *labels, struct lm_err *err) MUST_CHECK;

int lm_snapshots_usage(struct lm_snapshots *snapshots, const char *plugin, const char *key, struct lm_usage *ret,
	struct lm_err *err) MUST_CHECK;

int lm_snapshots_remove(
	struct lm_snapshots *snapshots, const char *plugin, const char *key, struct lm_err *err) MUST_CHECK;

/* Deletes the directories that no record names and nobody is making. -EIO: not all of them; err has the first one. */
int lm_snapshots_cleanup(struct lm_snapshots *snapshots, struct lm_err *err) MUST_CHECK;

#endif
