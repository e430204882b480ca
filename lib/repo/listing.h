/*
 * The listing of a tree: text by which two trees are compared, whether they were read from catalogs or from a mount.
 *
 * One line per file, in the order of a walk that visits names sorted as bytes, a directory before what is in it:
 *
 *   type mode uid gid size mtime nlink hlgroup rdev sha256 target xattrs path
 *
 * type is one of f d l p c b s; mode four octal digits; mtime seconds, dot, nine digits; hlgroup a number that the
 * files of one inode share, "-" where there is one name only and for directories; rdev MAJOR:MINOR of devices; sha256
 * of the content of regular files; xattrs NAME=HEX joined by commas, sorted by name. "-" stands for what a file has
 * not. In target, names of attributes and path, bytes outside 0x21..0x7e, "%", "," and "=" are written %xx.
 */
#ifndef LM_REPO_LISTING_H
#define LM_REPO_LISTING_H

#include "repo/xattr.h"

#include <sys/types.h>

struct lm_listing_line {
	uint32_t mode; /* full st_mode */
	uint32_t uid, gid;
	uint64_t size;
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint64_t nlink;
	unsigned group;		 /* 0: none */
	dev_t rdev;		 /* of devices */
	const char *sha256;	 /* of regular files: digits, or a word where it could not be read */
	const char *target;	 /* NULL: none */
	struct lm_xattr *xattrs; /* sorted here */
	size_t xattr_count;
	const char *path; /* "" is the root */
};
/* Appends the line with its newline: 0, -ENOMEM, -EMSGSIZE. */
int lm_listing_append(struct lm_buf *out, const struct lm_listing_line *line) MUST_CHECK;

/* Appends text as the listing writes it; nothing is "-". */
int lm_listing_escape(struct lm_buf *out, const char *text, size_t len) MUST_CHECK;

char lm_listing_type(uint32_t mode); /* '?' for none of the seven */

#endif
