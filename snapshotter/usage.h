/* What a directory tree takes on disk, as du(1) counts: blocks, and each inode once however many names it has. */
#ifndef LM_SNAPSHOTTER_USAGE_H
#define LM_SNAPSHOTTER_USAGE_H

#include "snapshotter/store.h"

/*
 * The tree at the open directory fd, the directory itself included; stays on its file system, follows no links. What
 * vanishes meanwhile is not counted. -ELOOP: nested deeper than 1000 directories.
 */
int lm_usage_count(int fd, struct lm_usage *ret, struct lm_err *err) MUST_CHECK;

#endif
