/*
 * What is mounted right below a snapshot's directory (layout.h): merged trees (trees.h), directories with mapped owners
 * (mapped.h). Such mounts outlive this process. Any thread may call.
 */
#ifndef LM_SNAPSHOTTER_MOUNTPOINTS_H
#define LM_SNAPSHOTTER_MOUNTPOINTS_H

#include "base/err.h"

#include <stdbool.h>

/* Opens the directory; whoever does the same for the same one waits until this descriptor is closed. */
int lm_mountpoints_open(const char *dir, struct lm_err *err) MUST_CHECK;

/* fd: as opened. Is something mounted at `name` in it? */
bool lm_mountpoints_has(int fd, const char *name);

/* Detaches what is mounted at names that begin with prefix, and removes these directories. What uses the mounts keeps
 * them. */
int lm_mountpoints_detach(int fd, const char *dir, const char *prefix, struct lm_err *err) MUST_CHECK;

#endif
