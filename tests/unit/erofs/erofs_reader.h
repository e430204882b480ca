/* Reads images as the kernel does, by the format's description alone, and looks at every bound. */
#ifndef LM_TESTS_EROFS_READER_H
#define LM_TESTS_EROFS_READER_H

#include "erofs_test.h"

#include <endian.h>

struct image {
	uint8_t *data;
	size_t len;
	uint64_t root, inodes;
};

struct node {
	uint64_t nid, at, size;
	uint32_t mode, uid, gid, ns, links, content, number;
	int64_t mtime;
	unsigned layout;
	size_t attrs_at, attrs_len, inline_at;
};

static inline const uint8_t *bytes_at(const struct image *image, uint64_t at, uint64_t len)
{
	assert_true(at <= image->len && len <= image->len - at);
	return image->data + at;
}

static inline uint64_t number_at(const struct image *image, uint64_t at, unsigned bytes)
{
	const uint8_t *from = bytes_at(image, at, bytes);
	uint64_t value = 0;
	for (unsigned i = bytes; i-- > 0;)
		value = value << 8 | from[i];
	return value;
}

static inline void image_done(struct image *image)
{
	free(image->data);
}

static inline void image_init(struct image *image, struct tree *tree)
{
	uint64_t size;
	CLEANUP(lm_closep) int fd = image_of(tree, &size);
	*image = (struct image){.data = malloc(size), .len = size};
	assert_ok(lm_pread_all(fd, image->data, size, 0, NULL), NULL);

	for (unsigned i = 0; i < 1024; i++)
		assert_int_equal(image->data[i], 0);
	assert_int_equal(number_at(image, 1024, 4), 0xe0f5e1e2);
	assert_int_equal(number_at(image, 1032, 4), 3); /* checksum, mtime */
	assert_int_equal(number_at(image, 1036, 1), 12);
	assert_int_equal(number_at(image, 1037, 1), 0);
	assert_int_equal(number_at(image, 1060, 4), (size + contents_end(tree)) / 4096);
	assert_int_equal(number_at(image, 1064, 4), 0); /* inodes' first block */
	assert_int_equal(number_at(image, 1068, 4), 0); /* shared attributes' */
	assert_int_equal(number_at(image, 1104, 4), 4); /* chunks */
	image->root = number_at(image, 1038, 2);
	image->inodes = number_at(image, 1040, 8);

	/* The kernel's crc32c(~0, ...), the checksum's own field taken as 0. */
	uint32_t crc = UINT32_MAX;
	for (size_t i = 1024; i < 4096; i++) {
		crc ^= i >= 1028 && i < 1032 ? 0 : image->data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (0x82f63b78 & (0U - (crc & 1)));
	}
	assert_int_equal(number_at(image, 1028, 4), crc);
}

static inline struct node node_at(const struct image *image, uint64_t nid)
{
	uint64_t at = nid * 32;
	assert_true(at >= 4096);
	assert_true(at % 4096 + 64 <= 4096);
	bytes_at(image, at, 64);
	unsigned format = (unsigned)number_at(image, at, 2), attrs = (unsigned)number_at(image, at + 2, 2);
	assert_int_equal(format & 1, 1);
	assert_true(format < 16);
	assert_int_equal(number_at(image, at + 6, 2), 0);
	assert_int_equal(number_at(image, at + 48, 8), 0);
	assert_int_equal(number_at(image, at + 56, 8), 0);
	assert_true(attrs != 1);
	struct node node = {
		.nid = nid,
		.at = at,
		.layout = format >> 1,
		.mode = (uint32_t)number_at(image, at + 4, 2),
		.size = number_at(image, at + 8, 8),
		.content = (uint32_t)number_at(image, at + 16, 4),
		.number = (uint32_t)number_at(image, at + 20, 4),
		.uid = (uint32_t)number_at(image, at + 24, 4),
		.gid = (uint32_t)number_at(image, at + 28, 4),
		.mtime = (int64_t)number_at(image, at + 32, 8),
		.ns = (uint32_t)number_at(image, at + 40, 4),
		.links = (uint32_t)number_at(image, at + 44, 4),
		.attrs_at = at + 64,
		.attrs_len = attrs ? 12 + 4 * (attrs - 1) : 0,
	};
	node.inline_at = node.attrs_at + node.attrs_len;
	if (node.layout == 2 && node.size < 4096)
		assert_int_equal(node.content, 0);
	bytes_at(image, node.inline_at, 0);
	return node;
}

/* Block i of a directory's or link's content. */
static inline const uint8_t *content_block(
	const struct image *image, const struct node *node, uint64_t i, size_t *ret_len)
{
	assert_true(node->layout == 0 || node->layout == 2);
	*ret_len = (size_t)LM_MIN(node->size - i * 4096, (uint64_t)4096);
	if (node->layout == 0 || i + 1 < (node->size + 4095) / 4096) {
		assert_true(node->content > 0);
		return bytes_at(image, (node->content + i) * 4096, 4096);
	}
	assert_true(node->inline_at % 4096 + *ret_len <= 4096);
	assert_true(node->at / 4096 == (node->inline_at + *ret_len - 1) / 4096); /* as links must be */
	return bytes_at(image, node->inline_at, *ret_len);
}

struct dirent_view {
	uint64_t nid;
	const char *name;
	size_t len;
	unsigned type, count; /* of the block */
};

/* Entry n of a block. */
static inline struct dirent_view dirent_at(const uint8_t *block, size_t len, unsigned n)
{
	unsigned names_at = block[8] | block[9] << 8;
	assert_true(names_at > 0 && names_at % 12 == 0 && names_at < len);
	struct dirent_view view = {.count = names_at / 12};
	if (n >= view.count)
		return view;
	const uint8_t *at = block + 12 * n;
	unsigned from = at[8] | at[9] << 8, to = n + 1 < view.count ? at[20] | at[21] << 8 : 0;
	assert_true(from >= names_at && from < len);
	view.name = (const char *)block + from;
	view.len = to ? to - from : strnlen(view.name, len - from);
	assert_true(view.len > 0 && view.len <= 255 && from + view.len <= len);
	assert_null(memchr(view.name, 0, view.len));
	uint64_t nid;
	memcpy(&nid, at, sizeof(nid));
	view.nid = le64toh(nid);
	view.type = at[10];
	assert_int_equal(at[11], 0);
	return view;
}

static inline int compare_names(const char *a, size_t a_len, const char *b, size_t b_len)
{
	int c = memcmp(a, b, LM_MIN(a_len, b_len));
	return c ? c : (int)a_len - (int)b_len;
}

/* By halves, blocks first: 0 if it is not there. */
static inline uint64_t find_name(const struct image *image, const struct node *dir, const char *name)
{
	size_t len, name_len = strlen(name);
	uint64_t low = 0, high = (dir->size + 4095) / 4096;
	while (high - low > 1) {
		uint64_t middle = (low + high) / 2;
		const uint8_t *block = content_block(image, dir, middle, &len);
		struct dirent_view view = dirent_at(block, len, 0);
		if (compare_names(view.name, view.len, name, name_len) <= 0)
			low = middle;
		else
			high = middle;
	}
	const uint8_t *block = content_block(image, dir, low, &len);
	unsigned from = 0, to = dirent_at(block, len, 0).count;
	while (from < to) {
		unsigned middle = (from + to) / 2;
		struct dirent_view view = dirent_at(block, len, middle);
		int c = compare_names(view.name, view.len, name, name_len);
		if (c == 0)
			return view.nid;
		if (c < 0)
			from = middle + 1;
		else
			to = middle;
	}
	return 0;
}

/* Names in order, "." and ".." in it, types; how many. */
static inline unsigned check_directory(const struct image *image, const struct node *dir, uint64_t parent)
{
	static const uint32_t types[] = {0, S_IFREG, S_IFDIR, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK, S_IFLNK};
	struct dirent_view before = {0};
	unsigned total = 0;
	for (uint64_t i = 0; i * 4096 < dir->size; i++) {
		size_t len;
		const uint8_t *block = content_block(image, dir, i, &len);
		unsigned count = dirent_at(block, len, 0).count;
		for (unsigned n = 0; n < count; n++) {
			struct dirent_view view = dirent_at(block, len, n);
			if (total++ > 0)
				assert_true(compare_names(before.name, before.len, view.name, view.len) < 0);
			before = view;
			assert_true(view.type > 0 && view.type < ARRAY_LEN(types));
			assert_int_equal(types[view.type], node_at(image, view.nid).mode & S_IFMT);
		}
	}
	assert_int_equal(find_name(image, dir, "."), dir->nid);
	assert_int_equal(find_name(image, dir, ".."), parent);
	return total;
}

/* Attributes, those of the inode before shared ones: 1 and the next of them, 0 at the end. *at is 0 at first. */
struct attr_view {
	unsigned index, name_len, value_len;
	const char *name;
	const uint8_t *value;
};

static inline int next_attr(const struct image *image, const struct node *node, size_t *at, struct attr_view *ret)
{
	if (node->attrs_len == 0)
		return 0;
	assert_true(node->attrs_len > 12);
	unsigned shared = (unsigned)number_at(image, node->attrs_at + 4, 1);
	size_t begin = 12 + 4 * shared;
	if (*at == 0)
		*at = begin;
	size_t from = node->attrs_at + *at;
	bool inside = *at < node->attrs_len;
	if (!inside) {
		size_t n = *at - node->attrs_len;
		if (n >= shared)
			return 0;
		from = 4 * number_at(image, node->attrs_at + 12 + 4 * n, 4);
		assert_true(from >= 1152 && from < 4096);
	}
	ret->name_len = (unsigned)number_at(image, from, 1);
	ret->index = (unsigned)number_at(image, from + 1, 1);
	ret->value_len = (unsigned)number_at(image, from + 2, 2);
	ret->name = (const char *)bytes_at(image, from + 4, ret->name_len);
	ret->value = bytes_at(image, from + 4 + ret->name_len, ret->value_len);
	*at += inside ? (4 + ret->name_len + ret->value_len + 3) / 4 * 4 : 1;
	if (inside)
		assert_true(*at <= node->attrs_len);
	return 1;
}

static inline bool find_attr(
	const struct image *image, const struct node *node, const char *name, size_t len, struct attr_view *ret)
{
	static const struct {
		const char *prefix;
		unsigned index;
	} prefixes[] = {{"user.", 1}, {"system.posix_acl_access", 2}, {"system.posix_acl_default", 3}, {"trusted.", 4},
		{"security.", 6}};
	for (size_t i = 0; i < ARRAY_LEN(prefixes); i++) {
		size_t skipped = strlen(prefixes[i].prefix), at = 0;
		if (len < skipped || memcmp(name, prefixes[i].prefix, skipped) != 0)
			continue;
		while (next_attr(image, node, &at, ret))
			if (ret->index == prefixes[i].index && ret->name_len == len - skipped &&
				memcmp(ret->name, name + skipped, len - skipped) == 0)
				return true;
	}
	return false;
}

#endif
