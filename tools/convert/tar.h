/*
 * A tar reader for image layers: it reads what Go's archive/tar reads, the way Go reads it.
 *
 * A layer's tree is what containerd makes of its tar, and containerd reads tars with Go's package. General readers
 * are kinder: they take modes from ACL records, attributes from other tools' records, guess whether a hard link has a
 * body, turn unknown types into files, and don't know the headers that Go's own writer got wrong before 1.8. Each of
 * these would quietly give another tree, so the format is read here, by Go's rules:
 *
 *   formats     v7, ustar, pax, GNU (with the prefix field of old Go writers), star
 *   names       GNU long name over pax path over prefix/name; raw bytes, never converted
 *   numbers     octal or base 256; garbage in them is an error
 *   pax         of several headers before an entry the last counts, of several records of a key the last; an empty
 *               value keeps the header's; records of a global header apply to nothing
 *   sparse      GNU (type S), pax 0.0, 0.1 and 1.0; holes come out as zeros
 *   bodies      links, devices, directories and fifos have none, whatever their size field says
 *   end         two zero blocks; or one, or none at all, if the stream ends exactly at a header or inside the padding
 *               before one. A stream that ends anywhere else is cut short: -EPROTO.
 *
 * One thread. Malformed input is -EPROTO and ends the reading.
 */
#ifndef LM_TOOLS_TAR_H
#define LM_TOOLS_TAR_H

#include "base/err.h"

#include <stdint.h>
#include <sys/types.h>

enum lm_tar_type {
	LM_TAR_FILE = '0',
	LM_TAR_HARDLINK = '1',
	LM_TAR_SYMLINK = '2',
	LM_TAR_CHAR = '3',
	LM_TAR_BLOCK = '4',
	LM_TAR_DIR = '5',
	LM_TAR_FIFO = '6',
	LM_TAR_GNU_SPARSE = 'S',
	LM_TAR_GLOBAL = 'g', /* carries only a name */
};

struct lm_tar_xattr {
	const char *key; /* without "SCHILY.xattr." */
	const char *value;
	size_t value_len;
};

/* Everything it points to is valid until the next lm_tar_next(). */
struct lm_tar_entry {
	char type; /* enum lm_tar_type, or another byte as the header has it */
	const char *name;
	const char *link; /* target of hard and symbolic links */
	uint64_t size;	  /* of the content, holes included; 0 where there is none */
	int64_t mode, uid, gid;
	int64_t mtime_s; /* may be negative */
	uint32_t mtime_ns;
	int64_t dev_major, dev_minor;
	const struct lm_tar_xattr *xattrs; /* in the order of the records; a key may repeat: the last counts */
	size_t xattr_count;
};

/* Gives the next stretch of the stream, valid until the next call: its length, 0 at the end, or a negative error. */
typedef ssize_t lm_tar_input_fn(void *arg, const uint8_t **ret, struct lm_err *err);

struct lm_tar;
int lm_tar_new(lm_tar_input_fn *input, void *arg, struct lm_tar **ret, struct lm_err *err) MUST_CHECK;
void lm_tar_free(struct lm_tar *tar);
LM_DEFINE_CLEANUP(struct lm_tar, lm_tar_free, lm_tar_freep)

/* 1: the next entry (what was left of the last one's content is skipped); 0: the end of the archive. */
int lm_tar_next(struct lm_tar *tar, struct lm_tar_entry *ret, struct lm_err *err) MUST_CHECK;

/* The next bytes of the entry's content, at most len: their number, 0 at the content's end. */
ssize_t lm_tar_read(struct lm_tar *tar, void *ret, size_t len, struct lm_err *err) MUST_CHECK;

/* After the archive's end: reads the stream to its own end, so that digests over it are complete. */
int lm_tar_drain(struct lm_tar *tar, struct lm_err *err) MUST_CHECK;

#endif
