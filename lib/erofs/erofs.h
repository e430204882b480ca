/*
 * EROFS images of a tree's metadata: what overlayfs takes for the uppermost lower directory when the content of regular
 * files lies in a data-only layer (Documentation/filesystems/overlayfs.rst).
 *
 * A regular file of more than 0 bytes is one of two things. Either a hole of its size, which says by two attributes
 * where its content is: trusted.overlay.metacopy, empty, and trusted.overlay.redirect, its absolute path in the
 * data-only layer. Or an ordinary file of EROFS, in one piece and not compressed, whose content lies in the image
 * behind all that is written here: where in that part, the caller says, and puts it there. Files may share it.
 *
 * Format: fs/erofs/erofs_fs.h of Linux; blocks of 4096 bytes, 64-byte ("extended") inodes, no compression, nothing that
 * Linux 5.15 does not know. Equal calls make equal bytes.
 *
 * Order of calls: lm_erofs_new(), lm_erofs_inode() for the root, then inodes, names and the volume's in any order,
 * lm_erofs_write() once. The tree is kept in memory until it is freed: about 150 bytes and the lengths of name, target,
 * redirect and attributes per file. After -ENOMEM or another error of a call the tree is as it was before. One thread
 * at a time.
 */
#ifndef LM_EROFS_EROFS_H
#define LM_EROFS_EROFS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lm_erofs;

enum {
	LM_EROFS_NAME_MAX = 255,
	LM_EROFS_TARGET_MAX = 4095, /* bytes of a symbolic link, and of a redirect */
	LM_EROFS_VOLUME_MAX = 16,
	LM_EROFS_HEAD = 4096, /* of an image: what lm_erofs_volume() looks at */
	LM_EROFS_BLOCK = 4096,
};

/* Of a regular file. The format has room for more, at 4 bytes for each 8 TiB of nothing. */
#define LM_EROFS_SIZE_MAX (UINT64_C(1) << 48)
/* Of an image, contents included: blocks have 32 bits. */
#define LM_EROFS_IMAGE_MAX (UINT64_C(1) << 44)

struct lm_erofs_attr {
	uint32_t mode; /* type and permissions */
	uint32_t uid, gid;
	uint32_t links; /* what the image says instead of the number of names; 0: that */
	uint64_t rdev;	/* of devices, as stat() has it */
	uint64_t size;	/* of regular files; that of others follows from what they are */
	int64_t mtime_s;
	uint32_t mtime_ns;
	const void *xattr; /* a blob as of repo/xattr.h; or NULL */
	size_t xattr_len;
	const char *target;   /* of symbolic links */
	const char *redirect; /* of regular files of more than 0 bytes, but of those with content */
	bool content;	      /* of regular files of more than 0 bytes: it is in the image */
	uint64_t content_at;  /* then: offset from the end of the rest, a multiple of LM_EROFS_BLOCK */
};

int lm_erofs_new(struct lm_erofs **ret, struct lm_err *err) MUST_CHECK;
void lm_erofs_free(struct lm_erofs *erofs);
LM_DEFINE_CLEANUP(struct lm_erofs, lm_erofs_free, lm_erofs_freep)

/*
 * A new inode, *ret its number for lm_erofs_link(): 0, 1, 2... The first one is the root and must be a directory. All
 * is copied. Inodes have no names yet: messages don't say which one it is.
 *
 * -EINVAL: a type that does not exist; a device number that Linux has not (12 bits and 20); a target or redirect that
 * is missing, too long, or for what has none; a redirect that is not absolute or has an empty part; content of what can
 * have none, or that does not begin with a block; a blob that is none or has a name twice, a name that Linux does not
 * store (only user., trusted., security. and something, system.posix_acl_access, system.posix_acl_default), or one that
 * the redirect needs. -EFBIG: a file of more than LM_EROFS_SIZE_MAX, content that ends behind LM_EROFS_IMAGE_MAX. Other
 * names of trusted.overlay. are stored like any.
 */
int lm_erofs_inode(
	struct lm_erofs *erofs, const struct lm_erofs_attr *attr, uint32_t *ret, struct lm_err *err) MUST_CHECK;

/*
 * Gives an inode a name, in a directory. Link counts are the number of names, of directories 2 and one for each
 * directory inside. Directories but the root have exactly one name. -EINVAL: a name that is empty, ".", "..", too long
 * or has a slash, a second name of a directory, one of the root, a name in what is no directory.
 */
int lm_erofs_link(
	struct lm_erofs *erofs, uint32_t directory, const char *name, uint32_t inode, struct lm_err *err) MUST_CHECK;

/* The volume's name, without which it has none: at most LM_EROFS_VOLUME_MAX bytes. -EINVAL: it is longer. */
int lm_erofs_set_volume(struct lm_erofs *erofs, const char *name, struct lm_err *err) MUST_CHECK;

struct lm_erofs_volume {
	char name[LM_EROFS_VOLUME_MAX + 1];
};
/* That of any image, which begins with head. -EPROTO: it is none, or its superblock is damaged. */
int lm_erofs_volume(const uint8_t head[LM_EROFS_HEAD], struct lm_erofs_volume *ret, struct lm_err *err) MUST_CHECK;

/*
 * Writes the image but for contents to an empty file (or a pipe), in pieces of a MiB from its beginning to its end;
 * *ret_size the length, a multiple of LM_EROFS_BLOCK, from which content_at counts. The superblock says blocks up to
 * the end of the last content; what lies between contents nobody shows, but the kernel reads whole blocks, so that
 * there must be something up to the end of each one's last. Once; after it, also after a failure, only lm_erofs_free().
 *
 * The inodes that a directory names lie one after the other, by name, and then those below each of its directories:
 * whoever lists one, or walks through a part of the tree, reads few pages. What the root does not lead to is left out.
 *
 * -EEXIST: a name twice in a directory; -EFBIG: more than LM_EROFS_IMAGE_MAX; -errno of writing.
 */
int lm_erofs_write(struct lm_erofs *erofs, int fd, uint64_t *ret_size, struct lm_err *err) MUST_CHECK;

#endif
