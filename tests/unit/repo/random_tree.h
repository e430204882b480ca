/*
 * A random tree of files in memory: what a repository is to hold. It knows names and inodes, which directories begin
 * nested catalogs, and what its listing is; it publishes nothing itself.
 */
#ifndef LM_TESTS_RANDOM_TREE_H
#define LM_TESTS_RANDOM_TREE_H

#include "repo/catalog.h"
#include "repo/listing.h"
#include "repo/object.h"
#include "repo/storage.h"
#include "repo_test.h"

#include <openssl/evp.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define MARKER ".cvmfscatalog"

enum { RT_PATH_MAX = 2000, RT_DEPTH_MAX = 12, RT_CHUNKS_MAX = 8, RT_XATTRS_MAX = 4, RT_FILE_MAX = 512 << 10 };

struct rt_node;

/* What hard links share. */
struct rt_inode {
	struct rt_node **names;
	size_t count, cap;
	struct lm_row row; /* strings are owned; name is unused */
	char *target;	   /* of the symbolic link, expanded */
	struct lm_chunk chunks[RT_CHUNKS_MAX];
	size_t chunk_count;
	char sha256[65];
	unsigned number; /* in the listing */
};

struct rt_node {
	char *name;
	struct rt_node *up; /* NULL: the root */
	struct rt_node **kids;
	size_t count, cap;
	struct rt_inode *inode;
	bool catalog; /* a directory where one begins */
};

struct rt {
	uint64_t random;
	struct lm_storage *storage; /* content goes there */
	struct lm_packer *packers[3];
	struct rt_node *root;
	size_t nodes;
};

/*
 * Chance (splitmix64)
 */

static inline uint64_t rt_random(struct rt *t)
{
	uint64_t z = (t->random += 0x9e3779b97f4a7c15u);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static inline unsigned rt_below(struct rt *t, unsigned bound)
{
	return (unsigned)(rt_random(t) % bound);
}

static inline bool rt_chance(struct rt *t, unsigned percent)
{
	return rt_below(t, 100) < percent;
}

/*
 * Nodes
 */

static inline void rt_inode_name(struct rt_inode *inode, struct rt_node *node)
{
	if (inode->count == inode->cap) {
		inode->cap = 2 * inode->cap + 1;
		inode->names = reallocarray(inode->names, inode->cap, sizeof(*inode->names));
		assert_non_null(inode->names);
	}
	inode->names[inode->count++] = node;
	node->inode = inode;
}

/* The last name takes the inode with it. */
static inline void rt_inode_unname(struct rt_node *node)
{
	struct rt_inode *inode = node->inode;
	size_t i = 0;
	node->inode = NULL;
	while (inode->names[i] != node)
		i++;
	inode->names[i] = inode->names[--inode->count];
	if (inode->count > 0)
		return;
	lm_row_done(&inode->row);
	free(inode->target);
	free(inode->names);
	free(inode);
}

static inline struct rt_inode *rt_inode_new(void)
{
	struct rt_inode *inode = calloc(1, sizeof(*inode));
	assert_non_null(inode);
	return inode;
}

static inline struct rt_inode *rt_inode_copy(const struct rt_inode *from)
{
	struct rt_inode *inode = rt_inode_new();
	*inode = *from;
	inode->names = NULL;
	inode->count = inode->cap = 0;
	inode->row.symlink = from->row.symlink ? strdup(from->row.symlink) : NULL;
	inode->target = from->target ? strdup(from->target) : NULL;
	inode->row.xattr = NULL;
	if (from->row.xattr) {
		inode->row.xattr = malloc(from->row.xattr_len);
		assert_non_null(inode->row.xattr);
		memcpy(inode->row.xattr, from->row.xattr, from->row.xattr_len);
	}
	return inode;
}

static inline bool rt_is_dir(const struct rt_node *node)
{
	return S_ISDIR(node->inode->row.mode);
}

static inline bool rt_is_marker(const struct rt_node *node)
{
	return strcmp(node->name, MARKER) == 0;
}

static inline struct rt_node *rt_kid(const struct rt_node *dir, const char *name)
{
	for (size_t i = 0; i < dir->count; i++)
		if (strcmp(dir->kids[i]->name, name) == 0)
			return dir->kids[i];
	return NULL;
}

static inline void rt_attach(struct rt *t, struct rt_node *dir, struct rt_node *node)
{
	assert_null(rt_kid(dir, node->name));
	if (dir->count == dir->cap) {
		dir->cap = 2 * dir->cap + 4;
		dir->kids = reallocarray(dir->kids, dir->cap, sizeof(*dir->kids));
		assert_non_null(dir->kids);
	}
	dir->kids[dir->count++] = node;
	node->up = dir;
}

static inline void rt_detach(struct rt_node *node)
{
	struct rt_node *dir = node->up;
	size_t i = 0;
	while (dir->kids[i] != node)
		i++;
	dir->kids[i] = dir->kids[--dir->count];
	node->up = NULL;
}

static inline void rt_free(struct rt *t, struct rt_node *node)
{
	for (size_t i = 0; i < node->count; i++)
		rt_free(t, node->kids[i]);
	t->nodes--;
	rt_inode_unname(node);
	free(node->kids);
	free(node->name);
	free(node);
}

static inline void rt_remove(struct rt *t, struct rt_node *node)
{
	rt_detach(node);
	rt_free(t, node);
}

static inline struct rt_node *rt_node_new(struct rt *t, const char *name, struct rt_inode *inode)
{
	struct rt_node *node = calloc(1, sizeof(*node));
	assert_non_null(node);
	node->name = strdup(name);
	assert_non_null(node->name);
	rt_inode_name(inode, node);
	t->nodes++;
	return node;
}

static inline unsigned rt_depth(const struct rt_node *node)
{
	unsigned depth = 0;
	for (; node->up; node = node->up)
		depth++;
	return depth;
}

/* "" for the root. */
static inline char *rt_path(const struct rt_node *node)
{
	struct lm_buf path = LM_BUF(LM_REPO_PATH_MAX);
	const struct rt_node *up[64];
	size_t depth = 0;
	for (; node->up; node = node->up) {
		assert_true(depth < ARRAY_LEN(up));
		up[depth++] = node;
	}
	assert_int_equal(lm_buf_str(&path, ""), 0);
	while (depth > 0)
		assert_int_equal(lm_buf_printf(&path, "/%s", up[--depth]->name), 0);
	return (char *)lm_buf_steal(&path, &(size_t){0});
}

/* The catalog that lists what is in a directory. */
static inline struct rt_node *rt_catalog_of_kids(struct rt_node *dir)
{
	while (!dir->catalog)
		dir = dir->up;
	return dir;
}

/* The catalog that a node that is no directory is in. */
static inline struct rt_node *rt_catalog(struct rt_node *node)
{
	return rt_catalog_of_kids(node->up);
}

static inline bool rt_below_or_same(const struct rt_node *node, const struct rt_node *dir)
{
	while (node && node != dir)
		node = node->up;
	return node == dir;
}

/* All nodes in the order of a walk; the caller frees the array. */
static inline void rt_collect(struct rt_node *node, struct rt_node **list, size_t *count)
{
	list[(*count)++] = node;
	for (size_t i = 0; i < node->count; i++)
		rt_collect(node->kids[i], list, count);
}

static inline size_t rt_size(const struct rt_node *node)
{
	size_t size = 1;
	for (size_t i = 0; i < node->count; i++)
		size += rt_size(node->kids[i]);
	return size;
}

static inline struct rt_node **rt_all(struct rt_node *node, size_t *ret_count)
{
	struct rt_node **list = calloc(rt_size(node), sizeof(struct rt_node *));
	assert_non_null(list);
	*ret_count = 0;
	rt_collect(node, list, ret_count);
	return list;
}

/* Hard links end where a catalog does: those of an inode in other catalogs than its first get inodes of their own. */
static inline void rt_split_links(struct rt *t)
{
	size_t count;
	CLEANUP(lm_freep) struct rt_node **all = rt_all(t->root, &count);
	for (size_t i = 0; i < count; i++) {
		struct rt_inode *inode = all[i]->inode;
		if (rt_is_dir(all[i]) || inode->count < 2)
			continue;
		struct rt_node *first = rt_catalog(inode->names[0]);
		struct rt_inode *rest = NULL;
		for (size_t k = inode->count; k-- > 1;) {
			struct rt_node *node = inode->names[k];
			if (rt_catalog(node) == first)
				continue;
			if (!rest)
				rest = rt_inode_copy(inode);
			rt_inode_unname(node);
			rt_inode_name(rest, node);
		}
		if (rest)
			i--; /* it may be of two catalogs itself */
	}
}

/*
 * Random attributes and content
 */

static inline void rt_random_name(struct rt *t, const struct rt_node *dir, char ret[256])
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
	do {
		size_t len = rt_chance(t, 3) ? 255 : 1 + rt_below(t, rt_chance(t, 10) ? 60 : 8);
		bool odd = rt_chance(t, 15);
		for (size_t i = 0; i < len; i++) {
			char c = odd ? (char)(1 + rt_below(t, 255)) : plain[rt_below(t, sizeof(plain) - 1)];
			ret[i] = c == '/' ? '\n' : c;
		}
		ret[len] = '\0';
	} while (rt_kid(dir, ret) || !strcmp(ret, ".") || !strcmp(ret, "..") || !strncmp(ret, ".cvmfs", 6) ||
		 !strncmp(ret, ".wh.", 4));
}

static inline void rt_random_xattrs(struct rt *t, struct lm_row *row)
{
	static const uint8_t capability[20] = {1, 0, 0, 2, 0x20};
	char keys[RT_XATTRS_MAX][300], values[RT_XATTRS_MAX][256];
	struct lm_xattr attrs[RT_XATTRS_MAX];
	struct lm_err err = LM_ERR_INIT;
	size_t count = 0;
	free(row->xattr);
	row->xattr = NULL;
	row->xattr_len = 0;
	if (rt_chance(t, 70))
		return;
	/* The kernel has attributes of users only for files and directories. */
	bool users = S_ISREG(row->mode) || S_ISDIR(row->mode);
	for (size_t n = 1 + rt_below(t, RT_XATTRS_MAX - 1); count < n; count++) {
		size_t value_len = rt_chance(t, 10) ? 255 : rt_below(t, 20);
		int len = snprintf(keys[count], sizeof(keys[count]), "%s.%zu%.*s",
			users && rt_chance(t, 60) ? "user" : "trusted", count, rt_chance(t, 5) ? 240 : 3,
			"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
			"aaaaaa"
			"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
			"aaaaaa"
			"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
		for (size_t i = 0; i < value_len; i++)
			values[count][i] = (char)rt_random(t);
		attrs[count] = (struct lm_xattr){keys[count], (size_t)len, values[count], value_len};
	}
	if (S_ISREG(row->mode) && rt_chance(t, 30))
		attrs[count++] = (struct lm_xattr){"security.capability", 19, capability, sizeof(capability)};
	struct lm_buf blob = LM_BUF(LM_XATTR_BLOB_MAX);
	assert_ok(lm_xattr_encode(attrs, count, &blob, &err), &err);
	row->xattr = lm_buf_steal(&blob, &row->xattr_len);
}

/* Everything that chmod, chown, utimes and setfattr change. */
static inline void rt_random_attributes(struct rt *t, struct lm_row *row)
{
	static const int64_t times[] = {0, -1, 1700000000, -2208988800, 4102444800, 1ll << 40, -(1ll << 40)};
	bool link = S_ISLNK(row->mode);
	row->mode = (row->mode & S_IFMT) | (link ? 0777 : rt_chance(t, 70) ? 0755 : rt_below(t, 010000));
	row->uid = rt_chance(t, 60) ? 0 : rt_chance(t, 90) ? 1000 : UINT32_MAX - 1;
	row->gid = rt_chance(t, 60) ? 0 : rt_below(t, 100000);
	row->mtime_s = rt_chance(t, 60) ? 1600000000 + rt_below(t, 1000000) : times[rt_below(t, ARRAY_LEN(times))];
	row->mtime_ns = rt_chance(t, 50) ? 0 : rt_below(t, 1000000000);
	if (S_ISDIR(row->mode))
		row->size = rt_chance(t, 70) ? 4096 : rt_below(t, 100000);
	rt_random_xattrs(t, row);
}

static inline void rt_store(struct rt *t, const struct lm_row *row, enum lm_object_kind kind, const uint8_t *data,
	size_t len, struct lm_hash *ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf packed = LM_BUF(2 * RT_FILE_MAX);
	char path[LM_OBJECT_PATH_MAX];
	assert_ok(lm_pack(t->packers[row->algo], row->compression, data, len, &packed, ret, &err), &err);
	lm_object_path(ret, kind, path);
	assert_ok(t->storage->ops->put(t->storage, path, lm_buf_cstr(&packed), packed.len, &err), &err);
}

/* Whole, in chunks, or both ways. */
static inline void rt_set_content(
	struct rt *t, struct rt_inode *inode, const uint8_t *data, size_t len, size_t chunk_size, bool bulk)
{
	struct lm_row *row = &inode->row;
	uint8_t digest[32];
	assert_int_equal(EVP_Digest(data, len, digest, NULL, EVP_sha256(), NULL), 1);
	lm_hex_format(digest, sizeof(digest), inode->sha256);
	row->size = len;
	row->hash = (struct lm_hash){.set = false};
	inode->chunk_count = 0;
	for (size_t at = 0; len > chunk_size && at < len; at += chunk_size) {
		struct lm_chunk *chunk = &inode->chunks[inode->chunk_count++];
		*chunk = (struct lm_chunk){.offset = at, .size = LM_MIN(chunk_size, len - at)};
		rt_store(t, row, LM_OBJECT_CHUNK, data + at, chunk->size, &chunk->hash);
	}
	if (bulk || inode->chunk_count == 0)
		rt_store(t, row, LM_OBJECT_FILE, data, len, &row->hash);
}

static inline void rt_random_content(struct rt *t, struct rt_inode *inode)
{
	static const unsigned chunk_sizes[] = {4096, 10000, 65536};
	unsigned chunk = chunk_sizes[rt_below(t, ARRAY_LEN(chunk_sizes))];
	const unsigned sizes[] = {
		0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 2 * chunk + 1, 3 * chunk - 1, RT_CHUNKS_MAX * chunk - 7};
	size_t len = rt_chance(t, 60) ? rt_below(t, 3000) : sizes[rt_below(t, ARRAY_LEN(sizes))];
	CLEANUP(lm_freep) uint8_t *data = malloc(len + 1);
	assert_non_null(data);
	uint64_t word = rt_random(t);
	bool noise = rt_chance(t, 30);
	for (size_t i = 0; i < len; i++) {
		if (noise || i % 97 == 0)
			word = rt_random(t);
		data[i] = (uint8_t)(word >> (i % 8 * 8));
	}
	inode->row.algo = (uint8_t)(rt_chance(t, 70) ? LM_HASH_SHA1 : rt_below(t, 3));
	inode->row.compression = rt_chance(t, 70) ? LM_COMPRESSION_ZLIB : LM_COMPRESSION_NONE;
	rt_set_content(t, inode, data, len, chunk, rt_chance(t, 10));
}

static inline void rt_set_target(struct rt_inode *inode, const char *raw, const char *expanded)
{
	free(inode->row.symlink);
	free(inode->target);
	inode->row.symlink = strdup(raw);
	inode->target = strdup(expanded);
}

static inline void rt_random_target(struct rt *t, struct rt_inode *inode)
{
	char raw[LM_SYMLINK_MAX + 1], text[10];
	if (rt_chance(t, 15)) {
		snprintf(text, sizeof(text), "%u", rt_below(t, 1000));
		snprintf(raw, sizeof(raw), "/opt/$(RANDOM_TREE_UNSET:-%s)", text);
		char *expanded = lm_str_printf("/opt/%s", text);
		rt_set_target(inode, raw, expanded);
		free(expanded);
		return;
	}
	size_t len = rt_chance(t, 5) ? LM_SYMLINK_MAX : 1 + rt_below(t, 40);
	for (size_t i = 0; i < len; i++)
		raw[i] = "abc/. %\xff"[rt_below(t, 8)];
	raw[len] = '\0';
	rt_set_target(inode, raw, raw);
}

/* An inode of that type with everything by chance. */
static inline struct rt_inode *rt_random_inode(struct rt *t, mode_t type)
{
	struct rt_inode *inode = rt_inode_new();
	inode->row.mode = type;
	if (type == S_IFREG)
		rt_random_content(t, inode);
	if (type == S_IFLNK)
		rt_random_target(t, inode);
	if ((type == S_IFCHR && rt_chance(t, 50)) || type == S_IFBLK) /* 0:0 is a whiteout */
		inode->row.rdev = makedev(rt_below(t, 4096), rt_below(t, 1 << 20));
	rt_random_attributes(t, &inode->row);
	return inode;
}

static inline mode_t rt_random_type(struct rt *t)
{
	static const mode_t types[] = {S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK};
	unsigned n = rt_below(t, 100);
	return n < 25 ? S_IFDIR : n < 75 ? S_IFREG : n < 90 ? S_IFLNK : types[n % 4];
}

/*
 * The listing
 */

static inline int rt_by_name(const void *a, const void *b)
{
	return strcmp((*(struct rt_node *const *)a)->name, (*(struct rt_node *const *)b)->name);
}

static inline void rt_list_one(struct rt_node *node, unsigned *groups, struct lm_buf *out)
{
	struct rt_inode *inode = node->inode;
	CLEANUP(lm_freep) char *path = rt_path(node);
	struct lm_xattr attrs[RT_XATTRS_MAX];
	struct lm_listing_line line = {.mode = inode->row.mode,
		.uid = inode->row.uid,
		.gid = inode->row.gid,
		.size = inode->target ? strlen(inode->target) : inode->row.size,
		.mtime_s = inode->row.mtime_s,
		.mtime_ns = inode->row.mtime_ns,
		.rdev = inode->row.rdev,
		.sha256 = inode->sha256,
		.target = inode->target,
		.xattrs = attrs,
		.path = path};
	size_t at = 0;
	while (inode->row.xattr &&
		lm_xattr_next(inode->row.xattr, inode->row.xattr_len, &at, &attrs[line.xattr_count]) > 0)
		line.xattr_count++;
	line.nlink = inode->count;
	if (rt_is_dir(node)) {
		line.nlink = 2;
		for (size_t i = 0; i < node->count; i++)
			line.nlink += rt_is_dir(node->kids[i]);
	} else if (inode->count > 1) {
		if (inode->number == 0)
			inode->number = ++*groups;
		line.group = inode->number;
	}
	assert_int_equal(lm_listing_append(out, &line), 0);
}

/* Hidden ones and what is below them are not listed. */
static inline void rt_list_from(struct rt_node *node, unsigned *groups, struct lm_buf *out)
{
	if (node->inode->row.flags & LM_ROW_HIDDEN)
		return;
	rt_list_one(node, groups, out);
	if (node->count > 0)
		qsort(node->kids, node->count, sizeof(*node->kids), rt_by_name);
	for (size_t i = 0; i < node->count; i++)
		rt_list_from(node->kids[i], groups, out);
}

static inline void rt_list(struct rt *t, struct lm_buf *out)
{
	size_t count;
	unsigned groups = 0;
	CLEANUP(lm_freep) struct rt_node **all = rt_all(t->root, &count);
	for (size_t i = 0; i < count; i++)
		all[i]->inode->number = 0;
	rt_list_from(t->root, &groups, out);
}

/*
 * Beginning and end
 */

static inline void rt_init(struct rt *t, uint64_t seed, struct lm_storage *storage)
{
	struct lm_err err = LM_ERR_INIT;
	*t = (struct rt){.random = seed, .storage = storage};
	for (size_t i = 0; i < ARRAY_LEN(t->packers); i++)
		assert_ok(lm_packer_new((enum lm_hash_algo)i, &t->packers[i], &err), &err);
	struct rt_inode *inode = rt_inode_new();
	inode->row.mode = S_IFDIR | 0755;
	t->root = rt_node_new(t, "", inode);
	t->root->catalog = true;
}

static inline void rt_done(struct rt *t)
{
	rt_free(t, t->root);
	for (size_t i = 0; i < ARRAY_LEN(t->packers); i++)
		lm_packer_free(t->packers[i]);
}

#endif
