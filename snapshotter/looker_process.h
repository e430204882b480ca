/*
 * The process in which mounts of others are looked into (looker.h): a child of the snapshotter, the same program with
 * --look, so that a mount that hangs can hold up neither the snapshotter's end nor its next start. It has none of its
 * files, listens at a socket of its own, and ends when its parent does.
 *
 * One that ends is replaced; one that the kernel does not let go, since a mount holds it, first has to be gone: there
 * is never more than one.
 */
#ifndef LM_SNAPSHOTTER_LOOKER_PROCESS_H
#define LM_SNAPSHOTTER_LOOKER_PROCESS_H

#include "base/err.h"
#include "base/log.h"

struct lm_looker_process;

/* socket: its name is the caller's, whoever may listen there. source: as of LAMELLA_SOURCE, places in it. Does not wait
 * until it listens. Strings must outlive it. */
int lm_looker_process_start(const char *socket, const char *source, enum lm_log_level level,
	struct lm_looker_process **ret, struct lm_err *err) MUST_CHECK;
/* Within two seconds, whatever becomes of the child. */
void lm_looker_process_stop(struct lm_looker_process *process);
LM_DEFINE_CLEANUP(struct lm_looker_process, lm_looker_process_stop, lm_looker_process_stopp)

/* What the child does, until standard input ends. Returns an exit code only where it could not begin. */
int lm_looker_process_run(const char *socket, const char *source);

#endif
