/*
 * Opening the store, and making it again where it is damaged: corrupt, cut short, empty, missing, of a later version,
 * contradicting itself, or older than the directories are, as after the loss of its log or with a copy of last week.
 *
 * A store in order is opened, and each directory gets the record (record.h) that its row says. A damaged one is moved
 * aside, and a new one is made of the records. Running containers do not notice, and containerd finds the snapshots
 * that it knows. A directory that can't have a row (no record that can be read, an ancestor without one, content that
 * is gone, a name that a later one has) is kept: layout.h. It is never deleted, and each start says how many there are.
 *
 * What a record is worth after a power loss: it is on disk with its directory, before the row. So there may be
 *
 * - A record and no row: of a Prepare that was not answered, or of a snapshot removed and not yet cleaned up. With the
 *   store in order such a directory is dropped. Without it the snapshot comes back, and does no harm: it is whole,
 *   since its record is made last; nobody knows its name, and containerd's next garbage collection removes it.
 * - A record older than its row: those of Commit and Update are written after the answer and synced by whatever syncs
 *   next, or by the kernel, within seconds. With the store in order it is written again at the start. Without it a
 *   layer is again the active snapshot that it was: containerd, which does not know that any more, removes it, and
 *   pulls the layer when it is wanted next.
 * - Never a record newer than its row: where one is found, the store has lost what it had.
 */
#ifndef LM_SNAPSHOTTER_REBUILD_H
#define LM_SNAPSHOTTER_REBUILD_H

#include "snapshotter/layout.h"
#include "snapshotter/store.h"

struct lm_rebuilt {
	bool damaged;	  /* and made again */
	size_t snapshots; /* of the new store, then */
	size_t kept;	  /* directories that no row names and nobody deletes, from this time or before */
};

/*
 * The store of these directories; all that happens is logged. Ids of theirs are not given out again. -EPROTO: the store
 * is of a later version, and no record can be read either; nothing was changed. Other failures: of the disk or memory;
 * a damaged store may be moved aside then, and the next start goes on with the records.
 */
int lm_rebuild_open(const char *path, struct lm_layout *layout, struct lm_store **ret, struct lm_rebuilt *ret_what,
	struct lm_err *err) MUST_CHECK;

#endif
