/*
 * Files: whole reads and writes that do not stop half-way, atomic replacement, trees.
 *
 * Paths are relative to dirfd as with openat(2) (AT_FDCWD for the current directory). All functions may be
 * called from any thread. Errors name the path.
 */
#ifndef LM_BASE_FILE_H
#define LM_BASE_FILE_H

#include "base/buf.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/types.h>

/* Read or write all len bytes, going on after EINTR and short counts. A read that meets the end early: -ENODATA. */
int lm_write_all(int fd, const void *data, size_t len, struct lm_err *err) MUST_CHECK;
int lm_pwrite_all(int fd, const void *data, size_t len, off_t offset, struct lm_err *err) MUST_CHECK;
int lm_pread_all(int fd, void *ret, size_t len, off_t offset, struct lm_err *err) MUST_CHECK;

/* Opens for reading what lies beneath the directory, whatever .. and links in the path say (Linux 5.6 or newer). flags:
 * more of open(2); O_NONBLOCK where a FIFO may be in the way. Returns the descriptor; -EXDEV: it leads outside. */
int lm_open_beneath(int dirfd, const char *path, int flags) MUST_CHECK;

/* Appends the whole file to buf: -ENOENT, -EMSGSIZE (larger than buf->max), or another errno, and buf as it was. */
int lm_file_read(int dirfd, const char *path, struct lm_buf *buf, struct lm_err *err) MUST_CHECK;

enum lm_file_flags {
	LM_FILE_SYNC = 1,      /* fsync the file before the rename and its directory after it */
	LM_FILE_EXCLUSIVE = 2, /* fail with -EEXIST where the name is taken, instead of replacing */
};

/* Creates the file under a temporary name beside the target and renames: a reader sees the old or the new one. */
int lm_file_replace(int dirfd, const char *path, const void *data, size_t len, mode_t mode, unsigned flags,
	struct lm_err *err) MUST_CHECK;

/* mkdir -p. Existing directories are left as they are. */
int lm_mkdir_p(int dirfd, const char *path, mode_t mode, struct lm_err *err) MUST_CHECK;
/* The same of the directory in which path lies. */
int lm_mkdir_above(int dirfd, const char *path, mode_t mode, struct lm_err *err) MUST_CHECK;

/* rm -rf without following links or crossing into other mounts (-EBUSY); absent is success. Any depth is fine. */
int lm_remove_tree(int dirfd, const char *path, struct lm_err *err) MUST_CHECK;

/*
 * An unlinked temporary file in directory dir. Give it a name with lm_file_link(), or close it and it is gone.
 * -EOPNOTSUPP where the file system has no O_TMPFILE (NFS).
 */
int lm_file_tmp(int dirfd, const char *dir, struct lm_err *err) MUST_CHECK; /* returns the descriptor */

/* Names an lm_file_tmp() file; replace: over an existing name, else -EEXIST. */
int lm_file_link(int fd, int dirfd, const char *path, bool replace, struct lm_err *err) MUST_CHECK;

/* For CLEANUP; NULL is none. */
void lm_closedirp(DIR **dir);

/* fsync of a directory, so that renames in it survive a power loss. */
int lm_dir_sync(int dirfd, const char *path, struct lm_err *err) MUST_CHECK;

#endif
