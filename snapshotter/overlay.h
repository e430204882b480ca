/*
 * What containerd has to mount to show a snapshot: one mount, a bind or an overlay, in containerd's words.
 *
 *   ACTIVE without parents   bind fs, rw            VIEW without parents   bind fs (empty), ro
 *   ACTIVE with parents      overlay                VIEW of one parent     bind the parent's fs, ro
 *                                                   VIEW of more           overlay of lower directories only
 *
 * Paths are only put together here; nothing is looked at, so a layer's file system that hangs can't hold this up.
 */
#ifndef LM_SNAPSHOTTER_OVERLAY_H
#define LM_SNAPSHOTTER_OVERLAY_H

#include "snapshotter/store.h"

#define LM_MOUNT_OPTIONS_MAX 8

struct lm_mount_options {
	bool index_off; /* keeps shared lower directories from EBUSY and ESTALE, where the kernel has the option */
	/*
	 * One device number for the whole tree, though lower and upper directories are on different file systems.
	 * Without it files of different layers seem to lie on different devices and directories on a third: tar
	 * --one-file-system leaves out every file, and two names of one file can differ in inode until it is evicted.
	 */
	bool xino_on;
	bool user_xattr; /* in a user namespace, where trusted.* can't be set */
};

/* Asks the running kernel. */
struct lm_mount_options lm_overlay_probe(void);

/* The words for them, of every overlay; ret has room for LM_MOUNT_OPTIONS_MAX. Returns how many. */
size_t lm_overlay_words(const struct lm_mount_options *options, const char **ret);

/* What a mount takes for the layers below a snapshot. */
struct lm_lower {
	bool lean; /* every remote layer of an overlay from its lean link (layout.h), with what belongs below it */
	const char *tree; /* or instead of all of them their merged tree (trees.h), mounted there; else NULL */
	const char *data; /* for it: the data-only layer */
	bool padded; /* below all of a view's its own directory, which is empty: stock clients say that names have no
			length, and an overlay without a directory of another file system believes it */
	bool mapped; /* and instead of those their clones with mapped owners, in the same order (mapped.h) */
};

struct lm_lowers {
	char **paths; /* the uppermost first */
	size_t count;
};
void lm_lowers_done(struct lm_lowers *lowers);

/* The directories below a snapshot that a mount shows; of a merged tree that is one. ret must be empty. */
int lm_overlay_lowers(const char *prefix, const struct lm_snapshot *snapshot, const struct lm_lower *lower,
	struct lm_lowers *ret, struct lm_err *err) MUST_CHECK;

struct lm_mount {
	const char *type;
	char *source;
	char *options[LM_MOUNT_OPTIONS_MAX];
	size_t n_options;
};

void lm_mount_done(struct lm_mount *mount);

/*
 * prefix: the directory of all snapshots. -EINVAL for a committed snapshot, -ENOMEM.
 */
int lm_overlay_mount(const char *prefix, const struct lm_mount_options *options, const struct lm_snapshot *snapshot,
	const struct lm_lower *lower, struct lm_mount *ret, struct lm_err *err) MUST_CHECK;

#endif
