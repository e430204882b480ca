/*
 * Mounting what a snapshotter answers, as containerd does: options that are flags, the rest as data; where the data
 * comes near a page, from the directory that all lower directories have in common, by relative paths. The program is in
 * a mount namespace of its own, so nothing of it is seen outside.
 */
#ifndef LM_CONFORMANCE_MOUNTING_H
#define LM_CONFORMANCE_MOUNTING_H

#include "client.h"

/* Before any thread is started. */
int mounting_begin(struct lm_err *err) MUST_CHECK;
int mount_all(const struct mounts *mounts, const char *target, struct lm_err *err) MUST_CHECK;
int unmount(const char *target, struct lm_err *err) MUST_CHECK;

/* The value of an option of the only mount, as "upperdir"; NULL: there is none. The caller frees. */
char *mount_option(const struct mounts *mounts, const char *name);
/* The directory that is written to: the upper one of an overlay, the source of a bind. The caller frees. */
char *mount_upper(const struct mounts *mounts);

#endif
