/*
 * The snapshots that exist: a durable table (rows.h) with a mirror in memory.
 *
 * Whoever reads, reads the mirror and never waits for the disk. A change is made durable first and shows in the mirror
 * after that, one change at a time. A record is immutable and shared by reference: what a reader holds stays as it was,
 * and a list is one consistent view. All functions may be called from any thread.
 *
 * Names are kept apart by plugin, the snapshotter name in a request: proxy plugins of several names may share a socket.
 */
#ifndef LM_SNAPSHOTTER_STORE_H
#define LM_SNAPSHOTTER_STORE_H

#include "snapshotter/labels.h"

#include <stdbool.h>
#include <sys/types.h>

struct lm_store;
struct lm_record;

#define LM_KEY_MAX_BYTES 32768 /* of a key or name; containerd's own database can't hold longer ones either */

enum lm_kind { LM_VIEW = 1, LM_ACTIVE = 2, LM_COMMITTED = 3 }; /* numbers of the wire and of the database */

struct lm_usage {
	int64_t size_bytes, inodes;
};

struct lm_snapshot {
	int64_t id; /* names its directory; never given out twice */
	char *plugin, *key;
	enum lm_kind kind;
	const struct lm_snapshot *parent; /* NULL: none. Its key, kind and layer are for good; its labels may be old. */
	struct lm_labels labels;
	int64_t created_ns, updated_ns; /* since the epoch; each change makes updated_ns larger */
	struct lm_usage usage;		/* of committed ones */
	char *layer_digest;		/* of a layer that is served remotely; else NULL */
	char *layer_path;		/* where it was served last */
	char *layer_ref;		/* its chain id */
	_Atomic(unsigned) references;	/* of the store only */
};

void lm_snapshot_unref(const struct lm_snapshot *snapshot);
LM_DEFINE_CLEANUP(const struct lm_snapshot, lm_snapshot_unref, lm_snapshot_unrefp)

/*
 * Opens the database, or makes it if it may be new. -EUCLEAN: it is damaged, is no store, or what it says can't be;
 * -EPROTO: it is of a later version. What is there stays as it is in both. rebuild.h knows what to do.
 */
int lm_store_open(const char *path, bool may_be_new, struct lm_store **ret, struct lm_err *err) MUST_CHECK;
void lm_store_close(struct lm_store *store);
LM_DEFINE_CLEANUP(struct lm_store, lm_store_close, lm_store_closep)

/* Makes a database at path, where there is none, of records, each of whose parents is one of them. -EUCLEAN as above.
 */
int lm_store_make(
	const char *path, const struct lm_record *const *records, size_t count, struct lm_err *err) MUST_CHECK;

/* Gives a database and its log names that are free, for whoever wants to look into them. *ret: the new one; NULL:
 * there was none. */
int lm_store_move_aside(const char *path, char **ret, struct lm_err *err) MUST_CHECK;

/*
 * Called with each snapshot that was changed after it was made, in the order of the changes, when that is durable; the
 * writer lock is held. To be set before there are other threads.
 */
typedef void lm_store_note_fn(void *arg, const struct lm_snapshot *snapshot);
void lm_store_set_note(struct lm_store *store, lm_store_note_fn *note, void *arg);

/* The caller unrefs; NULL: there is none. */
const struct lm_snapshot *lm_store_get(struct lm_store *store, const char *plugin, const char *key);
/* The committed remote layer for (ref, parent); parent is "" for none. */
const struct lm_snapshot *lm_store_get_layer(
	struct lm_store *store, const char *plugin, const char *ref, const char *parent);

struct lm_snapshot_list {
	const struct lm_snapshot **items; /* by key */
	size_t count;
};
void lm_snapshot_list_done(struct lm_snapshot_list *list);
/* All of a plugin, or of all plugins (NULL). */
int lm_store_list(
	struct lm_store *store, const char *plugin, struct lm_snapshot_list *ret, struct lm_err *err) MUST_CHECK;

/*
 * Making a snapshot takes two steps, so that its directory is there before its record: reserve an id, make the
 * directory, create, release the id. lm_store_ids() has reserved ids as well, so that a clean-up leaves them alone.
 */
int lm_store_reserve(struct lm_store *store, int64_t *ret, struct lm_err *err) MUST_CHECK;
void lm_store_release(struct lm_store *store, int64_t id);
/* Ids below this one are never given out: for what is found on disk at the start. */
void lm_store_reserve_from(struct lm_store *store, int64_t id);
int64_t lm_store_last_id(struct lm_store *store); /* the highest that was given out */
int lm_store_ids(struct lm_store *store, int64_t **ret, size_t *ret_count, struct lm_err *err) MUST_CHECK; /* sorted */

int64_t lm_store_now_ns(void); /* since the epoch */

struct lm_store_new {
	int64_t id;
	const char *plugin, *key, *parent; /* parent: "" for none */
	int64_t parent_id;		   /* not 0: the parent is to be this one */
	int64_t created_ns;		   /* 0: now */
	enum lm_kind kind;
	const struct lm_labels *labels;
	const char *layer_digest, *layer_path, *layer_ref; /* all or none; only with LM_COMMITTED */
};
/*
 * -EEXIST: key is taken, or the layer (ref, parent) is there; -ENOENT: no such parent; -EINVAL: it is not committed.
 * ret may be NULL.
 */
int lm_store_create(struct lm_store *store, const struct lm_store_new *new, const struct lm_snapshot **ret,
	struct lm_err *err) MUST_CHECK;

struct lm_store_commit {
	int64_t id;				  /* of the snapshot whose usage was counted */
	const char *plugin, *key, *name, *parent; /* parent: "" leaves it as it is */
	const struct lm_labels *labels;
	struct lm_usage usage;
};
/*
 * -EEXIST: name is taken; -ENOENT: no such key, or no such parent; -EBUSY: not active, or the parent is not committed;
 * -EINVAL: it has another parent.
 */
int lm_store_commit(struct lm_store *store, const struct lm_store_commit *commit, struct lm_err *err) MUST_CHECK;

/* edit() makes the new labels of the old ones (its ret is empty); called with the store's writer lock held. */
typedef int lm_store_edit_fn(const struct lm_labels *old, void *arg, struct lm_labels *ret, struct lm_err *err);
int lm_store_update(struct lm_store *store, const char *plugin, const char *key, lm_store_edit_fn *edit, void *arg,
	const struct lm_snapshot **ret, struct lm_err *err) MUST_CHECK;

/* The layer is served from another directory now. -ENOENT. */
int lm_store_set_layer_path(
	struct lm_store *store, const struct lm_snapshot *snapshot, const char *path, struct lm_err *err) MUST_CHECK;

/* -ENOENT; -EBUSY: has children. */
int lm_store_remove(struct lm_store *store, const char *plugin, const char *key, struct lm_err *err) MUST_CHECK;

#endif
