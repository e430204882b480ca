/*
 * The directories of snapshots: ROOT/snapshots/ID/{fs,work}, and what record.h says of each; trees.h says what else a
 * remote layer's may hold.
 *
 * An ordinary snapshot has two real directories. A remote layer has `fs` as a symbolic link to the directory that the
 * layer is served from: nothing has to be mounted again after a restart or a reboot, lists of lower directories stay
 * short and under one prefix, and what is served elsewhere is a change of one link. Nothing here follows that link.
 * Everything made is on disk (fsync) when a function returns. Any thread may call.
 *
 * The record is an attribute of the directory, user.lamella.record, so that the fsync of the directory is its fsync,
 * too; what is too long for one (4 KiB on ext4), or where there are none, is in a file `record`. It is the last that is
 * made in a directory: one that has a record is whole.
 */
#ifndef LM_SNAPSHOTTER_LAYOUT_H
#define LM_SNAPSHOTTER_LAYOUT_H

#include "base/buf.h"

#include <stdbool.h>
#include <sys/types.h>

struct lm_layout;

struct lm_root_attributes { /* of the directory that becomes a container's / */
	mode_t mode;
	uid_t uid;
	gid_t gid;
};
#define LM_ROOT_ATTRIBUTES_DEFAULT ((struct lm_root_attributes){.mode = 0755})

/* root must be absolute and without the bytes that separate a mount's options: -EINVAL. Made if absent. */
int lm_layout_open(const char *root, struct lm_layout **ret, struct lm_err *err) MUST_CHECK;
void lm_layout_close(struct lm_layout *layout);
LM_DEFINE_CLEANUP(struct lm_layout, lm_layout_close, lm_layout_closep)

/* ROOT/snapshots */
const char *lm_layout_prefix(const struct lm_layout *layout);

/* ROOT/snapshots/ID; NULL: no memory. */
char *lm_layout_directory(const struct lm_layout *layout, int64_t id);

/* What a failed make leaves, lm_layout_remove() takes away. */
int lm_layout_make(struct lm_layout *layout, int64_t id, const struct lm_root_attributes *attributes,
	const struct lm_buf *record, struct lm_err *err) MUST_CHECK;
int lm_layout_make_link(struct lm_layout *layout, int64_t id, const char *target, const struct lm_buf *record,
	struct lm_err *err) MUST_CHECK;
/* Points the link at target, unless it does already. */
int lm_layout_relink(struct lm_layout *layout, int64_t id, const char *target, struct lm_err *err) MUST_CHECK;
/* The same for a second link, `lean`, which only mounts use that are made after this: it is not synced. */
int lm_layout_relink_lean(struct lm_layout *layout, int64_t id, const char *target, struct lm_err *err) MUST_CHECK;

/*
 * Makes a directory `opaque` beside the link, unless it is there: a copy of a tree of directories and whiteouts, which
 * belongs right below `lean`. Local, since it is asked for many names that it does not have. Not synced either: a name
 * that is made last is not on the disk before what it stands for. -EPROTO: there is something else in the tree.
 */
int lm_layout_copy_opaque(struct lm_layout *layout, int64_t id, const char *tree, struct lm_err *err) MUST_CHECK;

/* Another record, unless it is the same. Not synced: the store is, and an older record does less, but no harm. */
int lm_layout_put_record(
	struct lm_layout *layout, int64_t id, const struct lm_buf *record, struct lm_err *err) MUST_CHECK;
/* Appends it. -ENOENT: there is none; -EMSGSIZE. */
int lm_layout_get_record(struct lm_layout *layout, int64_t id, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;

/*
 * A directory that nobody can say anything about, but that may hold somebody's data, is kept: a file `kept` in it says
 * why, and whoever deletes directories that no row names passes it over.
 */
int lm_layout_keep(struct lm_layout *layout, int64_t id, const char *why, struct lm_err *err) MUST_CHECK;
bool lm_layout_is_kept(struct lm_layout *layout, int64_t id);
int lm_layout_unkeep(struct lm_layout *layout, int64_t id, struct lm_err *err) MUST_CHECK; /* absent is success */

/* Of an ordinary snapshot's fs; -ENOTDIR for a link. */
int lm_layout_root_attributes(
	struct lm_layout *layout, int64_t id, struct lm_root_attributes *ret, struct lm_err *err) MUST_CHECK;

/* Whether an ordinary snapshot's fs is there and empty. */
bool lm_layout_is_unwritten(struct lm_layout *layout, int64_t id);
/* Whether somebody has mounted or written an ordinary snapshot: overlayfs makes a directory in `work`. */
bool lm_layout_is_used(struct lm_layout *layout, int64_t id);
/* Whether `fs` is there, as a directory or as a link. */
bool lm_layout_is_whole(struct lm_layout *layout, int64_t id, bool link);

/* With what is mounted there. Absent is success. */
int lm_layout_remove(struct lm_layout *layout, int64_t id, struct lm_err *err) MUST_CHECK;

/* The ids that have directories, in no order; other names are passed over. */
int lm_layout_ids(struct lm_layout *layout, int64_t **ret, size_t *ret_count, struct lm_err *err) MUST_CHECK;

/* A descriptor of an ordinary snapshot's fs, for counting; -ENOTDIR for a link. */
int lm_layout_open_fs(struct lm_layout *layout, int64_t id, struct lm_err *err) MUST_CHECK;

#endif
