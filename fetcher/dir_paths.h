/*
 * The paths of directories that were walked through lately. A catalog finds a name by the hash of its whole path, but
 * the kernel asks for a name in a directory that it knows by number; finding the path of that one in the catalog takes
 * two reads per level above it.
 *
 * Any thread. LM_DIR_PATHS_MAX of them, each of at most LM_DIR_PATH_MAX bytes: about 2 MiB where paths have 100. A new
 * one takes the place of that of LM_DIR_PATHS_WAYS, chosen by its number, which was used longest ago.
 */
#ifndef LM_FETCHER_DIR_PATHS_H
#define LM_FETCHER_DIR_PATHS_H

#include "base/str.h"

enum { LM_DIR_PATHS_WAYS = 4, LM_DIR_PATHS_MAX = 16384, LM_DIR_PATH_MAX = 512 };

struct lm_dir_paths;
int lm_dir_paths_new(struct lm_dir_paths **ret, struct lm_err *err) MUST_CHECK;
void lm_dir_paths_free(struct lm_dir_paths *paths);

/* Appends the path: -ENOENT when it is not there, -errno of ret. */
int lm_dir_paths_get(struct lm_dir_paths *paths, uint64_t node, struct lm_buf *ret) MUST_CHECK;
/* Of a node that is there it is taken to be the same. Too long a path, or no memory: it is not kept. */
void lm_dir_paths_put(struct lm_dir_paths *paths, uint64_t node, const char *path);

#endif
