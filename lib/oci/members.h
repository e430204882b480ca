/*
 * The files of an image at rest, by name: those of a directory, or those of an archive.
 *
 * An archive is read in place. One that is compressed as a whole (gzip, zstd, bzip2, xz) is unpacked first, into a file
 * without a name whose size is bounded (access.h).
 */
#ifndef LM_OCI_MEMBERS_H
#define LM_OCI_MEMBERS_H

#include "oci/access.h"
#include "oci/source_internal.h"

struct lm_members;

int lm_members_dir(const char *path, struct lm_members **ret, struct lm_err *err) MUST_CHECK;
/* access may be NULL: the defaults. -EPROTO: no tar, or a damaged one; -EFBIG: unpacked it is too large. */
int lm_members_archive(
	const char *path, const struct lm_access *access, struct lm_members **ret, struct lm_err *err) MUST_CHECK;
void lm_members_free(struct lm_members *members);
LM_DEFINE_CLEANUP(struct lm_members, lm_members_free, lm_members_freep)

/* For messages. */
const char *lm_members_path(const struct lm_members *members);

/* Appends the whole of a small file. -ENOENT; -EMSGSIZE: larger than ret may become. */
int lm_members_read(
	const struct lm_members *members, const char *name, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;
/* A file to be read piece by piece, and its size. It may outlive members. */
int lm_members_open(const struct lm_members *members, const char *name, struct lm_blob **ret, uint64_t *ret_size,
	struct lm_err *err) MUST_CHECK;

#endif
