/*
 * Where the members of a tar lie: one pass over its headers, nothing unpacked.
 *
 * ustar, GNU (long names, numbers beyond octal) and pax (path, linkpath, size) are understood. Of several members with
 * one name the last counts. Names are told without "./" and slashes before and after.
 */
#ifndef LM_OCI_TAR_INDEX_H
#define LM_OCI_TAR_INDEX_H

#include "base/err.h"

#include <stdint.h>

struct lm_tar_index;

/* -EPROTO: damaged or cut short (the message says where), or no tar; more than 100000 members or 16 MiB of names. */
int lm_tar_index_read(int fd, struct lm_tar_index **ret, struct lm_err *err) MUST_CHECK;
void lm_tar_index_free(struct lm_tar_index *index);
LM_DEFINE_CLEANUP(struct lm_tar_index, lm_tar_index_free, lm_tar_index_freep)

struct lm_tar_place {
	uint64_t offset, size;
};

/* A regular file by name, through symbolic and hard links within the tar. -ENOENT: none, or it leads nowhere; -EPROTO:
 * something else has the name. */
int lm_tar_index_find(
	const struct lm_tar_index *index, const char *name, struct lm_tar_place *ret, struct lm_err *err) MUST_CHECK;

#endif
