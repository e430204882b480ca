/*
 * Everything a running lamella-fetcher consists of, put together and taken apart in the right order.
 *
 *   lm_node_start() - lm_node_reload()... - lm_node_stop()
 *
 * A repository may be mounted twice, by the same tree and with the same node numbers: whole, as it is, and lean, where
 * the kernel is told that extended attributes can't be asked for. overlayfs asks for one with each look-up, and FUSE
 * keeps no answer, so layers that have none cost half the requests by the lean mount. So do layers with none but the
 * marks of opaque directories, beside which the converter publishes a directory of whiteouts that does the same. The
 * snapshotter takes the lean mount for chains of such layers only: over two lower file systems without a UUID,
 * overlayfs no longer finds where a copied-up file came from, and a hard link made to it in a container shows another
 * inode number than the file.
 *
 * Repositories take their first looks at the same time; each is mounted when it has a root. One that has none then is
 * mounted as soon as a later look succeeds; until then the control service says why it is not.
 */
#ifndef LM_FETCHER_NODE_H
#define LM_FETCHER_NODE_H

#include "fetcher/keeper.h"
#include "fetcher/settings.h"

struct lm_node;

/* Returns 0 when the first looks have ended and the control socket listens. With settings->require_mounts it is an
 * error, that of the first one, when a repository is not mounted then. keeper (or NULL) must outlive the node; what it
 * kept is mounted already and goes on at once, with the root that was in force, and is left to the next worker when the
 * start fails. */
int lm_node_start(
	struct lm_settings *settings, struct lm_keeper *keeper, struct lm_node **ret, struct lm_err *err) MUST_CHECK;

/* Unmounts, ends downloads, joins all threads. NULL is fine. */
void lm_node_stop(struct lm_node *node);
LM_DEFINE_CLEANUP(struct lm_node, lm_node_stop, lm_node_stopp)

/* Instead of stop: nothing is unmounted, and what is not answered is left to the next worker; the process must exit. */
void lm_node_leave(struct lm_node *node);

/*
 * Other settings: what the running parts can take is in force when this returns. Each change is logged. *ret_worker:
 * another worker is needed for the rest, and can take the mounts over. After an error some may be in force. Main
 * thread.
 */
int lm_node_reload(struct lm_node *node, struct lm_settings *settings, bool *ret_worker, struct lm_err *err) MUST_CHECK;

/*
 * Whether threads that must not hang have done something, or had nothing to do, since the last call. The engine is only
 * asked for a sign of life while requests of the kernel wait for an answer. Main thread.
 */
bool lm_node_progress(struct lm_node *node);

/* A descriptor that becomes readable when the last mount was taken away from outside. */
int lm_node_idle_fd(const struct lm_node *node);

#endif
