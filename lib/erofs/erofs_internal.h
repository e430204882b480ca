/*
 * Shared by erofs.c (the tree), attributes.c (how extended attributes are stored), layout.c (what lies where) and
 * image.c (the bytes). Numbers of the format are those of Linux's fs/erofs/erofs_fs.h.
 *
 *   block 0            1024 zeros, superblock, the one shared attribute
 *   from block 1       inodes, each with its attributes and what is inline; its number ("nid") is its offset / 32
 *   after the inodes   blocks of directories and symbolic links that are not inline
 *   after these        contents of regular files, which are not written
 */
#ifndef LM_EROFS_EROFS_INTERNAL_H
#define LM_EROFS_EROFS_INTERNAL_H

#include "erofs/erofs.h"

#include <stdbool.h>

enum {
	BLOCK_BITS = 12,
	BLOCK = LM_EROFS_BLOCK,
	SLOT = 32, /* inodes lie at multiples of it */
	SUPER_AT = 1024,
	SUPER_SIZE = 128,
	SHARED_AT = SUPER_AT + SUPER_SIZE,
	INODES_AT = BLOCK, /* not 0: glibc's readdir() hides inode number 0 */

	INODE_SIZE = 64,
	ATTRS_HEADER = 12, /* of an inode's attributes; then the numbers of shared ones, then entries */
	ATTR_HEADER = 4,   /* of an entry */
	ATTR_ALIGN = 4,
	ATTRS_MAX = ATTRS_HEADER + 4 * (UINT16_MAX - 1), /* what the 16 bits for their size can say */
	CHUNK_ENTRY = 4,
	CHUNK_BITS_MAX = 31, /* above BLOCK_BITS */
	DIRENT_SIZE = 12,
};

enum layout { FLAT_PLAIN = 0, FLAT_INLINE = 2, CHUNK_BASED = 4 };

/* Indexes of names' prefixes */
enum {
	ATTR_USER = 1,
	ATTR_ACL_ACCESS = 2,
	ATTR_ACL_DEFAULT = 3,
	ATTR_TRUSTED = 4,
	ATTR_SECURITY = 6,
};

#define NO_ENTRY UINT32_MAX
#define NOT_PLACED UINT64_MAX

struct lm_erofs_entry {
	const char *name;
	uint32_t inode;
	uint32_t next; /* of the same directory; NO_ENTRY */
	uint8_t name_len;
};

struct lm_erofs_inode {
	uint64_t size;
	int64_t mtime_s;
	uint64_t at;	      /* offset in the image, or NOT_PLACED */
	const uint8_t *attrs; /* entries as the image has them */
	const char *target;
	uint32_t attrs_len;
	uint32_t mode, uid, gid, rdev, mtime_ns;
	uint32_t links;	      /* as counted */
	uint32_t shown_links; /* if not 0: instead */
	uint32_t block;	      /* the first one that is not inline; 0: all is */
	uint32_t entries;     /* of directories: the first one; sorted when the directory has been laid out */
	uint32_t parent;      /* of directories: the entry that names them; NO_ENTRY */
	enum layout layout : 8;
	bool redirected : 1; /* has the shared attribute */
	bool content : 1;    /* of regular files; until the layout is made, block counts from the first of contents */
};

struct lm_erofs_arena;

struct lm_erofs {
	struct lm_erofs_inode *inodes;
	struct lm_erofs_entry *entries; /* "." and ".." are among them */
	struct lm_erofs_arena *arena;
	uint32_t inode_count, entry_count;
	size_t inode_cap, entry_cap;
	uint32_t directories;
	char volume[LM_EROFS_VOLUME_MAX];
	bool written;
};

/* Memory that lives as long as the tree; NULL when there is none. */
void *lm_erofs_keep(struct lm_erofs *erofs, size_t len);

/* Translates and keeps the attributes of attr in ret. */
int lm_erofs_attributes(struct lm_erofs *erofs, const struct lm_erofs_attr *attr, struct lm_erofs_inode *ret,
	struct lm_err *err) MUST_CHECK;

/* The entry that all redirected files share; the length, a multiple of 4. */
size_t lm_erofs_shared_attribute(uint8_t ret[BLOCK - SHARED_AT]);

/* What an inode's attributes take. */
size_t lm_erofs_attrs_size(const struct lm_erofs_inode *inode);

/*
 * Regular files are chunks of BLOCK << bits bytes, each of them a hole: of the smallest size that makes it one, as
 * 32-bit kernels can't do with large ones, or of the largest.
 */
unsigned lm_erofs_chunk_bits(uint64_t size);
uint32_t lm_erofs_chunks(uint64_t size);

struct lm_erofs_layout {
	uint32_t *order; /* inodes as they lie in the image */
	uint32_t count;
	uint64_t inodes_end; /* the first block after them begins here, or up to a block later */
	uint32_t blocks;     /* of what is written */
	uint32_t all_blocks; /* with contents */
};

/* Gives each inode that the root leads to its place, its links and its layout. */
int lm_erofs_lay_out(struct lm_erofs *erofs, struct lm_erofs_layout *ret, struct lm_err *err) MUST_CHECK;
void lm_erofs_layout_done(struct lm_erofs_layout *layout);

/*
 * How many entries, from *entry on, the next block of a directory holds; *entry is the first one after them then, and
 * *ret_used the length of entries and names.
 */
uint32_t lm_erofs_directory_block(const struct lm_erofs *erofs, uint32_t *entry, size_t *ret_used);

#endif
