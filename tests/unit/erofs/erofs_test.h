/* What the tests of lib/erofs share: trees that remember what was asked for, and their images. */
#ifndef LM_TESTS_EROFS_TEST_H
#define LM_TESTS_EROFS_TEST_H

#include "base/file.h"
#include "base/str.h"
#include "erofs/erofs.h"
#include "repo/xattr.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

#define assert_ok(call, err)                                                              \
	do {                                                                              \
		int r_ = (call);                                                          \
		if (r_ < 0)                                                               \
			fail_msg("%s: %d: %s", #call, r_, lm_err_text(err)); /* cmocka */ \
	} while (0)

#define REDIRECT_NAME "trusted.overlay.redirect"
#define METACOPY_NAME "trusted.overlay.metacopy"

/* A name. Item 0 is the root. */
struct item {
	size_t parent;
	char *name;
	uint32_t inode;
	size_t shared;		   /* the item that was the first name of the inode */
	unsigned links;		   /* of an item that is the first name */
	struct lm_erofs_attr attr; /* its texts and blob are owned */
	uint64_t nid;		   /* for readers */
};

struct tree {
	struct lm_erofs *erofs;
	struct item *items;
	size_t count, cap;
};

static inline void tree_done(struct tree *tree)
{
	for (size_t i = 0; i < tree->count; i++) {
		struct item *item = &tree->items[i];
		free(item->name);
		free((void *)item->attr.xattr);
		free((void *)item->attr.target);
		free((void *)item->attr.redirect);
	}
	free(tree->items);
	lm_erofs_free(tree->erofs);
}

static inline void *copied(const void *data, size_t len)
{
	uint8_t *copy = data ? malloc(len + 1) : NULL;
	if (copy) {
		memcpy(copy, data, len);
		copy[len] = 0;
	}
	return copy;
}

static inline struct item *add_item(struct tree *tree, size_t parent, const char *name)
{
	if (tree->count == tree->cap) {
		tree->cap = LM_MAX(tree->cap * 2, (size_t)64);
		tree->items = reallocarray(tree->items, tree->cap, sizeof(*tree->items));
		assert_non_null(tree->items);
	}
	struct item *item = &tree->items[tree->count];
	*item = (struct item){.parent = parent, .name = strdup(name), .shared = tree->count, .links = 1};
	tree->count++;
	return item;
}

/* The number of the new item. */
static inline size_t add(struct tree *tree, size_t parent, const char *name, const struct lm_erofs_attr *attr)
{
	struct lm_err err = LM_ERR_INIT;
	size_t number = tree->count;
	struct item *item = add_item(tree, parent, name);
	assert_ok(lm_erofs_inode(tree->erofs, attr, &item->inode, &err), &err);
	if (number > 0)
		assert_ok(lm_erofs_link(tree->erofs, tree->items[parent].inode, name, item->inode, &err), &err);
	item->attr = *attr;
	item->attr.xattr = copied(attr->xattr, attr->xattr_len);
	item->attr.target = attr->target ? strdup(attr->target) : NULL;
	item->attr.redirect = attr->redirect ? strdup(attr->redirect) : NULL;
	if (S_ISDIR(attr->mode)) {
		item->links = 2;
		if (number > 0)
			tree->items[parent].links++;
	}
	return number;
}

static inline size_t add_link(struct tree *tree, size_t parent, const char *name, size_t other)
{
	struct lm_err err = LM_ERR_INIT;
	size_t number = tree->count, shared = tree->items[other].shared;
	struct item *item = add_item(tree, parent, name);
	item->shared = shared;
	item->inode = tree->items[shared].inode;
	tree->items[shared].links++;
	assert_ok(lm_erofs_link(tree->erofs, tree->items[parent].inode, name, item->inode, &err), &err);
	return number;
}

static inline size_t add_dir(struct tree *tree, size_t parent, const char *name)
{
	return add(tree, parent, name, &(struct lm_erofs_attr){.mode = S_IFDIR | 0755, .mtime_s = 1700000000});
}

static inline size_t add_file(struct tree *tree, size_t parent, const char *name, uint64_t size)
{
	return add(tree, parent, name,
		&(struct lm_erofs_attr){
			.mode = S_IFREG | 0644,
			.size = size,
			.mtime_s = 1700000001,
			.mtime_ns = 999999999,
			.redirect = size > 0 ? "/ab/cdef0123456789" : NULL,
		});
}

static inline size_t add_content(struct tree *tree, size_t parent, const char *name, uint64_t size, uint64_t at)
{
	return add(tree, parent, name,
		&(struct lm_erofs_attr){.mode = S_IFREG | 0755,
			.size = size,
			.mtime_s = 1700000002,
			.content = true,
			.content_at = at});
}

static inline size_t add_symlink(struct tree *tree, size_t parent, const char *name, const char *target)
{
	return add(tree, parent, name, &(struct lm_erofs_attr){.mode = S_IFLNK | 0777, .target = target});
}

static inline void tree_init(struct tree *tree)
{
	struct lm_err err = LM_ERR_INIT;
	*tree = (struct tree){0};
	assert_ok(lm_erofs_new(&tree->erofs, &err), &err);
	add_dir(tree, 0, "");
}

/*
 * Names that begin with prefix and take so many bytes of a directory's blocks (12 and their length each), as empty
 * files. More than 12.
 */
static inline void add_names(struct tree *tree, size_t parent, char prefix, size_t bytes)
{
	for (unsigned i = 0; bytes > 0; i++) {
		size_t take = bytes > 250 ? 101 : bytes;
		char name[256];
		memset(name, 'x', sizeof(name));
		name[0] = prefix;
		name[1] = (char)('0' + i / 10);
		name[2] = (char)('0' + i % 10);
		assert_true(take > 15);
		name[take - 12] = '\0';
		add_file(tree, parent, name, 0);
		bytes -= take;
	}
}

static inline void blob_of(struct lm_xattr *attrs, size_t count, struct lm_buf *ret)
{
	struct lm_err err = LM_ERR_INIT;
	*ret = LM_BUF(LM_XATTR_BLOB_MAX);
	assert_ok(lm_xattr_encode(attrs, count, ret, &err), &err);
}

/* A file without a name that holds the tree's image. */
static inline int image_of(struct tree *tree, uint64_t *ret_size)
{
	struct lm_err err = LM_ERR_INIT;
	int fd = memfd_create("image", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_ok(lm_erofs_write(tree->erofs, fd, ret_size, &err), &err);
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, *ret_size);
	assert_int_equal(*ret_size % 4096, 0);
	return fd;
}

/* Where the contents of the tree's files end, counted from where the first can begin; whole blocks. */
static inline uint64_t contents_end(const struct tree *tree)
{
	uint64_t end = 0;
	for (size_t i = 0; i < tree->count; i++) {
		const struct lm_erofs_attr *attr = &tree->items[i].attr;
		if (attr->content)
			end = LM_MAX(end, attr->content_at + (attr->size + 4095) / 4096 * 4096);
	}
	return end;
}

/* What is at an offset of all contents: differs from block to block, and inside of each. */
static inline void content_bytes(uint64_t at, uint8_t *ret, size_t len)
{
	for (size_t i = 0; i < len; i++)
		ret[i] = (uint8_t)((at + i) * 7 + (at + i) / 4096 * 13 + 1);
}

/* Behind an image of so many bytes. */
static inline void put_contents(int fd, uint64_t size, const struct tree *tree)
{
	uint8_t bytes[4096];
	assert_int_equal(ftruncate(fd, (off_t)(size + contents_end(tree))), 0);
	for (size_t i = 0; i < tree->count; i++) {
		const struct lm_erofs_attr *attr = &tree->items[i].attr;
		for (uint64_t at = 0; attr->content && at < attr->size; at += sizeof(bytes)) {
			content_bytes(attr->content_at + at, bytes, sizeof(bytes));
			assert_int_equal(
				pwrite(fd, bytes, sizeof(bytes), (off_t)(size + attr->content_at + at)), sizeof(bytes));
		}
	}
}

static inline void path_into(const struct tree *tree, size_t i, char *ret, size_t size)
{
	if (i == 0) {
		ret[0] = '\0';
		return;
	}
	path_into(tree, tree->items[i].parent, ret, size);
	size_t len = strlen(ret);
	assert_true(len + 1 + strlen(tree->items[i].name) < size);
	snprintf(ret + len, size - len, "%s%s", len ? "/" : "", tree->items[i].name);
}

static inline uint32_t chance(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(*state >> 33);
}

/*
 * Every kind of thing in a tree, for readers to compare
 */

static inline void add_kinds(struct tree *tree)
{
	size_t dir = add_dir(tree, 0, "kinds");
	struct lm_erofs_attr attr = {.mode = S_IFCHR | 0600, .rdev = makedev(1, 3), .uid = 1, .gid = 2};
	add(tree, dir, "null", &attr);
	attr.rdev = makedev(0xfff, 0xfffff);
	add(tree, dir, "far-device", &attr);
	attr.mode = S_IFBLK | 0660;
	attr.rdev = makedev(259, 256);
	add(tree, dir, "block", &attr);
	attr = (struct lm_erofs_attr){.mode = S_IFCHR};
	add(tree, dir, "whiteout", &attr);
	attr.mode = S_IFIFO | 0644;
	add(tree, dir, "fifo", &attr);
	attr.mode = S_IFSOCK | 0777;
	add(tree, dir, "socket", &attr);
	attr.mode = S_IFREG | S_ISUID | S_ISGID | 0755;
	attr.uid = UINT32_MAX - 1;
	attr.gid = 4000000000;
	size_t setuid = add(tree, dir, "setuid", &attr);
	add_link(tree, dir, "setuid-again", setuid);
	add_link(tree, 0, "setuid-above", setuid);
	attr.mode = S_IFDIR | S_ISVTX | 0777;
	add_dir(tree, add(tree, dir, "sticky", &attr), "in sticky");

	static const int64_t times[] = {
		0, -1, -2208988800, INT32_MAX, (int64_t)INT32_MAX + 1, 253402300799, INT64_MIN, INT64_MAX};
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		char name[32];
		snprintf(name, sizeof(name), "time%zu", i);
		add(tree, dir, name,
			&(struct lm_erofs_attr){
				.mode = S_IFREG, .mtime_s = times[i], .mtime_ns = i % 2 ? 999999999 : 1});
	}
	static const uint64_t sizes[] = {1, 4095, 4096, 4097, 8192, 1 << 20, UINT64_C(1) << 32, (UINT64_C(1) << 43) - 1,
		UINT64_C(1) << 43, (UINT64_C(1) << 43) + 1, LM_EROFS_SIZE_MAX};
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		char name[32];
		snprintf(name, sizeof(name), "size%zu", i);
		size_t file = add_file(tree, dir, name, sizes[i]);
		snprintf(name, sizeof(name), "link%zu", i);
		add_link(tree, i % 2 ? 0 : dir, name, file);
	}
}

static inline void add_names_and_targets(struct tree *tree)
{
	size_t dir = add_dir(tree, 0, "names");
	char text[4097];
	memset(text, 'n', sizeof(text));
	text[255] = '\0';
	add_file(tree, dir, text, 5);
	text[0] = '\xff';
	add_file(tree, add_dir(tree, dir, text), text, 5);
	/* On both sides of "." and ".." */
	static const char *const names[] = {
		"!", "-", "...", "..a", "\x01", "\x7f", "\x80", " ", "a", "aa", "ab", "a\xc3\xa9", "b", "\n"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		add_file(tree, dir, names[i], i % 2);

	dir = add_dir(tree, 0, "targets");
	static const size_t lengths[] = {1, 2, 31, 32, 33, 100, 1000, 3000, 4031, 4032, 4033, 4094, 4095};
	memset(text, 't', sizeof(text));
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		char name[32];
		snprintf(name, sizeof(name), "link%zu", lengths[i]);
		text[lengths[i]] = '\0';
		size_t link = add_symlink(tree, dir, name, text);
		snprintf(name, sizeof(name), "other%zu", lengths[i]);
		add_link(tree, 0, name, link);
		text[lengths[i]] = 't';
	}
}

/* Directories whose last block is about what fits beside an inode, or in a block. "." and ".." take 27 bytes. */
static const size_t directory_tails[] = {28 + 15, 3000, 4031, 4032, 4033, 4095, 4096};

static inline void add_boundaries(struct tree *tree)
{
	size_t dir = add_dir(tree, 0, "boundaries");
	for (size_t i = 0; i < ARRAY_LEN(directory_tails); i++) {
		char name[32];
		size_t tail = directory_tails[i];
		snprintf(name, sizeof(name), "one%zu", tail);
		add_names(tree, add_dir(tree, dir, name), 'a', tail - 27);
		snprintf(name, sizeof(name), "two%zu", tail);
		size_t two = add_dir(tree, dir, name);
		add_names(tree, two, 'a', 4096 - 27);
		add_names(tree, two, 'b', tail);
	}
	add_dir(tree, dir, "empty");
}

static inline void add_attributes(struct tree *tree)
{
	static const uint8_t acl[] = {2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 5, 0, 0, 0, 4, 0, 4, 0,
		255, 255, 255, 255, 16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255};
	static char keys[LM_XATTR_COUNT_MAX][LM_XATTR_KEY_MAX];
	struct lm_xattr attrs[LM_XATTR_COUNT_MAX];
	char value[LM_XATTR_VALUE_MAX], redirect[LM_EROFS_TARGET_MAX + 1];
	size_t dir = add_dir(tree, 0, "attributes");
	memset(value, 'v', sizeof(value));
	memset(redirect, 'r', sizeof(redirect));
	redirect[0] = '/';
	redirect[LM_EROFS_TARGET_MAX] = '\0';
	struct lm_erofs_attr file = {.mode = S_IFREG | 0664, .size = 77, .redirect = redirect};
	struct lm_erofs_attr other = {.mode = S_IFDIR | 0775};
	add(tree, dir, "long redirect", &file);

	/* The most there can be. */
	for (size_t i = 0; i < LM_XATTR_COUNT_MAX; i++) {
		memset(keys[i], 'k', sizeof(keys[i]));
		memcpy(keys[i], "trusted.", 8);
		keys[i][8] = (char)(i + 1);
		attrs[i] = (struct lm_xattr){keys[i], sizeof(keys[i]), value, sizeof(value)};
	}
	CLEANUP(lm_buf_done) struct lm_buf most = LM_BUF(0);
	blob_of(attrs, LM_XATTR_COUNT_MAX, &most);
	file.xattr = other.xattr = most.data;
	file.xattr_len = other.xattr_len = most.len;
	add(tree, dir, "most", &file);
	add_names(tree, add(tree, dir, "most of a directory", &other), 'm', 2000);
	other.mode = S_IFLNK | 0777;
	other.target = "target";
	add(tree, dir, "most of a link", &other);

	struct lm_xattr some[] = {
		{"user.mime_type", 14, "text/plain", 10},
		{"security.capability", 19, "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20},
		{"trusted.empty", 13, NULL, 0},
		{"system.posix_acl_access", 23, acl, sizeof(acl)},
		{"system.posix_acl_default", 24, acl, sizeof(acl)},
	};
	CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(0);
	blob_of(some, ARRAY_LEN(some), &blob); /* sorts */
	other = (struct lm_erofs_attr){.mode = S_IFDIR | 0775, .xattr = blob.data, .xattr_len = blob.len};
	add(tree, dir, "directory", &other);

	/* Inodes of all lengths, so that each part lies across the end of a block somewhere. */
	for (size_t i = 0; i < 300; i++) {
		char name[32];
		struct lm_xattr one[] = {{"user.one", 8, value, i % 255}, {"security.two", 12, value, 200}};
		CLEANUP(lm_buf_done) struct lm_buf two = LM_BUF(0);
		blob_of(one, ARRAY_LEN(one), &two);
		redirect[20 + i] = '\0';
		struct lm_erofs_attr attr = {.mode = S_IFREG | 0644,
			.size = i + 1,
			.redirect = redirect,
			.xattr = two.data,
			.xattr_len = two.len};
		snprintf(name, sizeof(name), "file%zu", i);
		add(tree, dir, name, &attr);
		attr = (struct lm_erofs_attr){.mode = S_IFREG, .xattr = two.data, .xattr_len = two.len};
		snprintf(name, sizeof(name), "empty%zu", i);
		add(tree, dir, name, &attr);
		redirect[20 + i] = 'r';
	}
}

static inline void add_chance(struct tree *tree, size_t wanted, uint64_t seed)
{
	size_t top = add_dir(tree, 0, "chance"), first = tree->count;
	for (size_t i = 0; i < wanted; i++) {
		size_t parent = chance(&seed) % 4 ? first + chance(&seed) % (tree->count - first + 1) - 1 : top;
		while (!S_ISDIR(tree->items[parent].attr.mode))
			parent = tree->items[parent].parent;
		char name[256], target[1 + 300];
		int len = snprintf(name, sizeof(name), "%zx", i);
		for (uint32_t more = chance(&seed) % 8 ? 5 : chance(&seed) % 240; more > 0; more--) {
			uint8_t c = (uint8_t)chance(&seed);
			name[len++] = c == 0 || c == '/' ? '_' : (char)c;
		}
		name[len] = '\0';
		memset(target, 'a', sizeof(target));
		target[1 + chance(&seed) % 300] = '\0';
		uint32_t kind = chance(&seed) % 8;
		if (kind == 0)
			add_dir(tree, parent, name);
		else if (kind == 1)
			add_symlink(tree, parent, name, target);
		else if (kind == 2 && !S_ISDIR(tree->items[tree->count - 1].attr.mode))
			add_link(tree, parent, name, tree->count - 1);
		else
			add_file(tree, parent, name, chance(&seed) % 2 ? chance(&seed) : 0);
	}
}

static inline void add_many(struct tree *tree, size_t count)
{
	size_t dir = add_dir(tree, 0, "many");
	for (size_t i = 0; i < count; i++) {
		char name[64];
		/* In another order than that of names. */
		snprintf(name, sizeof(name), "%05zu of a directory with many files", i * 7919 % 100000);
		add_file(tree, dir, name, i % 3);
	}
}

/* Files of all lengths about a block's, one after the other in another order than that of names, and some that share.
 */
static inline void add_contents(struct tree *tree)
{
	static const uint64_t sizes[] = {1, 4095, 4096, 4097, 8191, 8192, 3 << 20, (1 << 20) + 1};
	size_t dir = add_dir(tree, 0, "contents");
	uint64_t at = 0;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		char name[32];
		snprintf(name, sizeof(name), "%c content", (char)('z' - i));
		size_t file = add_content(tree, i % 2 ? dir : 0, name, sizes[i], at);
		name[0] = (char)('a' + i);
		add_link(tree, dir, name, file);
		at += (sizes[i] + 4096) / 4096 * 4096;
	}
	add_content(tree, dir, "shared", 3000, 4096);
	add_content(tree, dir, "far", 5000, UINT64_C(1) << 30);
}

static inline void add_everything(struct tree *tree)
{
	add_contents(tree);
	add_kinds(tree);
	add_names_and_targets(tree);
	add_boundaries(tree);
	add_attributes(tree);
	add_chance(tree, 3000, 42);
	add_many(tree, 20000);
}

#endif
