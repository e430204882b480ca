/*
 * Mountpoints: from a directory's name to an open /dev/fuse that is mounted there, and back.
 *
 * As root the mount is made here, with its set-user-id bits and devices in force (containers' lower layers need them)
 * and open to all users. Otherwise fusermount3 does it, with what it allows: neither of these.
 */
#ifndef LM_FETCHER_MOUNTPOINT_H
#define LM_FETCHER_MOUNTPOINT_H

#include "base/err.h"

#include <stdbool.h>

#define LM_MOUNT_SOURCE "cvmfs2"       /* what sites' probes look for */
#define LM_MOUNT_SOURCE_LEAN "lamella" /* of those that are for containers only */
#define LM_MOUNT_TYPE "fuse.lamella"

/*
 * Creates the directory where it is missing. A FUSE mount there with no process behind it any more, of whatever
 * program, is taken away, and logged; -EBUSY when a living one is there. Other file systems are mounted over.
 */
int lm_mountpoint_prepare(const char *dir, struct lm_err *err) MUST_CHECK;

/* Mounts, and returns the descriptor of /dev/fuse. source: as listed, without commas. */
int lm_mountpoint_mount(const char *dir, const char *source, struct lm_err *err) MUST_CHECK;

/*
 * Takes the mount away: whole when nobody uses it, else lazily; then its users can go on until the descriptor of
 * /dev/fuse is closed (as root: are cut off at once). Returns true when it was busy.
 */
bool lm_mountpoint_unmount(const char *dir);

#endif
