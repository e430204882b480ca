/*
 * The paths of directories that were walked through lately. A catalog finds a name by the hash of its whole path, but
 * the kernel asks for a name in a directory that it knows by number; finding the path of that one in the catalog takes
 * two reads per level above it.
 *
 * Any thread. LM_DIR_PATHS_BYTES of memory, whatever is kept: some 9,000 paths of 100 bytes. A new path takes the
 * place of those that were used longest ago among the few that share a block with it, which its number chooses.
 */
#ifndef LM_FETCHER_DIR_PATHS_H
#define LM_FETCHER_DIR_PATHS_H

#include "base/str.h"

enum { LM_DIR_PATHS_BYTES = 1 << 20, LM_DIR_PATH_MAX = 500 };

struct lm_dir_paths;
int lm_dir_paths_new(struct lm_dir_paths **ret, struct lm_err *err) MUST_CHECK;
void lm_dir_paths_free(struct lm_dir_paths *paths);

/* Appends the path: -ENOENT when it is not there, -errno of ret. */
int lm_dir_paths_get(struct lm_dir_paths *paths, uint64_t node, struct lm_buf *ret) MUST_CHECK;
/* Of a node that is there it is taken to be the same. A path of more than LM_DIR_PATH_MAX bytes is not kept. */
void lm_dir_paths_put(struct lm_dir_paths *paths, uint64_t node, const char *path);

#endif
