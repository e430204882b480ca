#include "erofs/erofs_internal.h"

#include "base/file.h"

#include <endian.h>
#include <string.h>
#include <sys/stat.h>

#define MAGIC UINT32_C(0xe0f5e1e2)
#define NO_BLOCK UINT32_MAX /* of a chunk that is a hole */

enum {
	BUFFER = 1 << 20,
	COMPAT_CHECKSUM = 1,
	COMPAT_MTIME = 2, /* times are of the last modification, not of the last change */
	INCOMPAT_CHUNKED = 4,
	EXTENDED = 1, /* 64-byte inodes */
	LAYOUT_SHIFT = 1,
	VOLUME = 64, /* where the superblock has it */
};

/* Collects bytes. After a failure, r, all that is put is dropped. */
struct out {
	int fd, r;
	struct lm_err *err;
	uint8_t *buffer;
	size_t used;
	uint64_t at; /* offset of what is put next */
};

static void out_done(struct out *out)
{
	free(out->buffer);
}

static void flush(struct out *out)
{
	if (out->r == 0)
		out->r = lm_write_all(out->fd, out->buffer, out->used, out->err);
	out->used = 0;
}

static void put(struct out *out, const void *data, size_t len)
{
	const uint8_t *bytes = data;
	out->at += len;
	while (len > 0) {
		size_t piece = LM_MIN(len, BUFFER - out->used);
		memcpy(out->buffer + out->used, bytes, piece);
		out->used += piece;
		bytes += piece;
		len -= piece;
		if (out->used == BUFFER)
			flush(out);
	}
}

static void put_zeros(struct out *out, uint64_t until)
{
	static const uint8_t zeros[BLOCK];
	while (out->at < until)
		put(out, zeros, (size_t)LM_MIN(until - out->at, (uint64_t)BLOCK));
}

static void put_block_end(struct out *out)
{
	put_zeros(out, (out->at + BLOCK - 1) / BLOCK * BLOCK);
}

static void set16(uint8_t *at, uint16_t value)
{
	value = htole16(value);
	memcpy(at, &value, sizeof(value));
}

static void set32(uint8_t *at, uint32_t value)
{
	value = htole32(value);
	memcpy(at, &value, sizeof(value));
}

static void set64(uint8_t *at, uint64_t value)
{
	value = htole64(value);
	memcpy(at, &value, sizeof(value));
}

static uint32_t get32(const uint8_t *at)
{
	uint32_t value;
	memcpy(&value, at, sizeof(value));
	return le32toh(value);
}

/*
 * The first block
 */

/* Castagnoli's, begun with all bits set as usual, but not inverted at the end. */
static uint32_t crc32c(const uint8_t *data, size_t len)
{
	uint32_t crc = UINT32_MAX;
	for (size_t i = 0; i < len; i++) {
		crc ^= data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ UINT32_C(0x82f63b78) : crc >> 1;
	}
	return crc;
}

static uint64_t nid_of(const struct lm_erofs_inode *inode)
{
	return inode->at / SLOT;
}

/*
 * 0 magic, 4 checksum, 8 compatible features, 12 bits of a block, 14 root, 16 number of inodes, 24 time (0) of compact
 * inodes, 36 blocks, 40 first block of inodes (0: their numbers are offsets / 32), 44 that of shared attributes (0:
 * the same), 48 uuid, 64 volume's name, 80 incompatible features. The checksum is over the rest of the block, too.
 */
static void put_super(struct out *out, const struct lm_erofs *erofs, const struct lm_erofs_layout *layout)
{
	uint8_t block[BLOCK] = {0}, *super = block + SUPER_AT;
	set32(super, MAGIC);
	set32(super + 8, COMPAT_CHECKSUM | COMPAT_MTIME);
	super[12] = BLOCK_BITS;
	set16(super + 14, (uint16_t)nid_of(&erofs->inodes[0])); /* the first inode: it fits */
	set64(super + 16, layout->count);
	set32(super + 36, layout->all_blocks);
	memcpy(super + VOLUME, erofs->volume, sizeof(erofs->volume));
	set32(super + 80, INCOMPAT_CHUNKED);
	lm_erofs_shared_attribute(block + SHARED_AT);
	set32(super + 4, crc32c(super, BLOCK - SUPER_AT));
	put(out, block, sizeof(block));
}

int lm_erofs_set_volume(struct lm_erofs *erofs, const char *name, struct lm_err *err)
{
	size_t len = strlen(name);
	if (len > sizeof(erofs->volume))
		return lm_err_set(err, -EINVAL, "a volume's name of %zu bytes", len);
	memset(erofs->volume, 0, sizeof(erofs->volume));
	memcpy(erofs->volume, name, len);
	return 0;
}

int lm_erofs_volume(const uint8_t head[LM_EROFS_HEAD], struct lm_erofs_volume *ret, struct lm_err *err)
{
	uint8_t super[BLOCK - SUPER_AT];
	memcpy(super, head + SUPER_AT, sizeof(super));
	uint32_t magic = get32(super), checksum = get32(super + 4);
	set32(super + 4, 0);
	if (magic != MAGIC)
		return lm_err_set(err, -EPROTO, "no EROFS image");
	if (crc32c(super, sizeof(super)) != checksum)
		return lm_err_set(err, -EPROTO, "the checksum of the superblock is wrong");
	memcpy(ret->name, super + VOLUME, LM_EROFS_VOLUME_MAX);
	ret->name[LM_EROFS_VOLUME_MAX] = '\0';
	return 0;
}

/*
 * Directories
 */

static uint8_t dirent_type(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return 1;
	case S_IFDIR:
		return 2;
	case S_IFCHR:
		return 3;
	case S_IFBLK:
		return 4;
	case S_IFIFO:
		return 5;
	case S_IFSOCK:
		return 6;
	default:
		return 7; /* S_IFLNK */
	}
}

/* The block that begins with *entry; the length used. An entry: number of the inode, offset of the name, type, 0. */
static size_t make_block(const struct lm_erofs *erofs, uint32_t *entry, uint8_t ret[BLOCK])
{
	uint32_t at = *entry;
	size_t used;
	uint32_t count = lm_erofs_directory_block(erofs, entry, &used);
	size_t name_at = count * (size_t)DIRENT_SIZE;
	memset(ret, 0, BLOCK);
	for (uint32_t i = 0; i < count; i++, at = erofs->entries[at].next) {
		const struct lm_erofs_entry *from = &erofs->entries[at];
		const struct lm_erofs_inode *inode = &erofs->inodes[from->inode];
		uint8_t *dirent = ret + i * (size_t)DIRENT_SIZE;
		set64(dirent, nid_of(inode));
		set16(dirent + 8, (uint16_t)name_at);
		dirent[10] = dirent_type(inode->mode);
		memcpy(ret + name_at, from->name, from->name_len);
		name_at += from->name_len;
	}
	return used;
}

/* The blocks of a directory that are not inline, or what is. */
static void put_directory(
	struct out *out, const struct lm_erofs *erofs, const struct lm_erofs_inode *inode, bool inline_part)
{
	uint8_t block[BLOCK];
	for (uint32_t entry = inode->entries; entry != NO_ENTRY;) {
		size_t used = make_block(erofs, &entry, block);
		bool is_inline = inode->layout == FLAT_INLINE && entry == NO_ENTRY;
		if (is_inline == inline_part)
			put(out, block, is_inline ? used : BLOCK);
	}
}

/*
 * Inodes
 */

static void put_attributes(struct out *out, const struct lm_erofs_inode *inode)
{
	uint8_t header[ATTRS_HEADER + sizeof(uint32_t)] = {0};
	if (inode->attrs_len == 0)
		return;
	header[4] = inode->redirected; /* how many are shared */
	set32(header + ATTRS_HEADER, SHARED_AT / sizeof(uint32_t));
	put(out, header, ATTRS_HEADER + (inode->redirected ? sizeof(uint32_t) : 0));
	put(out, inode->attrs, inode->attrs_len);
}

static void put_holes(struct out *out, const struct lm_erofs_inode *inode)
{
	uint8_t hole[CHUNK_ENTRY];
	set32(hole, NO_BLOCK);
	for (uint32_t n = lm_erofs_chunks(inode->size); n > 0; n--)
		put(out, hole, sizeof(hole));
}

/* Where the content is: by type of the file. */
static uint32_t inode_content(const struct lm_erofs_inode *inode)
{
	if (inode->layout == CHUNK_BASED)
		return lm_erofs_chunk_bits(inode->size);
	if (S_ISDIR(inode->mode) || S_ISLNK(inode->mode) || inode->content)
		return inode->block;
	return inode->rdev; /* 0 of all but devices */
}

/*
 * 0 layout, 2 length of the attributes, 4 mode, 8 size, 16 content, 20 number for 32-bit programs, 24 uid, 28 gid,
 * 32 mtime, 40 its nanoseconds, 44 links. Attributes follow, then what is inline, or chunks.
 */
static void put_inode(
	struct out *out, const struct lm_erofs *erofs, const struct lm_erofs_inode *inode, uint32_t number)
{
	uint8_t bytes[INODE_SIZE] = {0};
	size_t attrs_size = lm_erofs_attrs_size(inode);
	put_zeros(out, inode->at);
	set16(bytes, (uint16_t)(EXTENDED | inode->layout << LAYOUT_SHIFT));
	if (attrs_size > 0)
		set16(bytes + 2, (uint16_t)(1 + (attrs_size - ATTRS_HEADER) / 4));
	set16(bytes + 4, (uint16_t)inode->mode);
	set64(bytes + 8, inode->size);
	set32(bytes + 16, inode_content(inode));
	set32(bytes + 20, number);
	set32(bytes + 24, inode->uid);
	set32(bytes + 28, inode->gid);
	set64(bytes + 32, (uint64_t)inode->mtime_s);
	set32(bytes + 40, inode->mtime_ns);
	set32(bytes + 44, inode->shown_links ? inode->shown_links : inode->links);
	put(out, bytes, sizeof(bytes));
	put_attributes(out, inode);
	if (inode->layout == CHUNK_BASED)
		put_holes(out, inode);
	else if (S_ISDIR(inode->mode))
		put_directory(out, erofs, inode, true);
	else if (inode->layout == FLAT_INLINE)
		put(out, inode->target, inode->size);
}

static void put_blocks(struct out *out, const struct lm_erofs *erofs, const struct lm_erofs_inode *inode)
{
	if (S_ISDIR(inode->mode))
		put_directory(out, erofs, inode, false);
	else if (S_ISLNK(inode->mode) && inode->layout == FLAT_PLAIN)
		put(out, inode->target, inode->size);
	put_block_end(out);
}

int lm_erofs_write(struct lm_erofs *erofs, int fd, uint64_t *ret_size, struct lm_err *err)
{
	CLEANUP(lm_erofs_layout_done) struct lm_erofs_layout layout = {0};
	CLEANUP(out_done) struct out out = {.fd = fd, .err = err};
	if (erofs->written)
		return lm_err_set(err, -EINVAL, "the image is written already");
	erofs->written = true;
	int r = lm_erofs_lay_out(erofs, &layout, err);
	if (r < 0)
		return lm_err_prefix(err, r, "EROFS image");
	out.buffer = malloc(BUFFER);
	if (!out.buffer)
		return lm_err_oom(err);

	put_super(&out, erofs, &layout);
	for (uint32_t i = 0; i < layout.count; i++)
		put_inode(&out, erofs, &erofs->inodes[layout.order[i]], i + 1);
	put_block_end(&out);
	for (uint32_t i = 0; i < layout.count; i++)
		put_blocks(&out, erofs, &erofs->inodes[layout.order[i]]);
	flush(&out);
	if (out.r < 0)
		return lm_err_prefix(err, out.r, "EROFS image");
	*ret_size = out.at;
	return 0;
}
