#include "convert/layer_tree.h"

#include "base/str.h"
#include "convert/acl.h"
#include "repo/xattr.h"

#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum {
	ARENA_BLOCK = 256 << 10,
	BUCKETS_MIN = 1 << 10,
	LINKS_MAX = 255,
	XATTR_VALUE_MAX = 64 << 10, /* the kernel's */
};
#define ACCESS_ACL "system.posix_acl_access"
#define WHITEOUT ".wh."
#define OPAQUE_MARK ".wh..wh..opq"
/* INT64_MAX nanoseconds: the latest time that containerd sets. */
#define TIME_MAX_S INT64_C(9223372036)
#define TIME_MAX_NS 854775807

struct arena_block {
	struct arena_block *next;
	size_t used, size;
	_Alignas(16) uint8_t data[];
};

struct dir_time { /* of a directory entry, set again at the end */
	struct dir_time *next;
	const char *path;
	int64_t mtime_s;
	uint32_t mtime_ns;
};

struct lm_layer_tree {
	struct arena_block *arena;
	size_t arena_bytes;
	struct lm_layer_below below;
	struct lm_layer_node *root;
	struct lm_layer_node **buckets; /* names by (parent, name) */
	size_t bucket_count, names;
	uint64_t seed;
	struct dir_time *dir_times, **dir_times_end;
};

/* A clean path: "" or "/a/b". */
struct path {
	size_t len;
	char s[LM_LAYER_PATH_MAX + 1];
};

/* --- memory --- */

static void *arena_alloc(struct lm_layer_tree *tree, size_t size)
{
	size = (size + 15) & ~(size_t)15;
	struct arena_block *block = tree->arena;
	if (!block || block->size - block->used < size) {
		size_t room = LM_MAX(size, (size_t)ARENA_BLOCK - sizeof(*block));
		if (tree->arena_bytes + room > LM_LAYER_TREE_MAX || !(block = malloc(sizeof(*block) + room)))
			return NULL;
		tree->arena_bytes += room;
		*block = (struct arena_block){.next = tree->arena, .size = room};
		tree->arena = block;
	}
	void *p = block->data + block->used;
	block->used += size;
	return memset(p, 0, size);
}

static char *arena_copy(struct lm_layer_tree *tree, const void *data, size_t len)
{
	char *p = arena_alloc(tree, len + 1);
	if (p)
		memcpy(p, data, len);
	return p;
}

static int no_room(const struct lm_layer_tree *tree, struct lm_err *err)
{
	return lm_err_set(err, -ENOMEM, "out of memory: the tree has %zu MB", tree->arena_bytes / 1000000);
}

/* --- names --- */

static uint64_t mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product = (unsigned __int128)a * b;
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Seeded, so that nobody can make names that all fall into one bucket. */
static uint64_t hash_name(
	const struct lm_layer_tree *tree, const struct lm_layer_node *parent, const char *name, size_t len)
{
	uint64_t h = mix(tree->seed ^ (uintptr_t)parent, UINT64_C(0x9e3779b97f4a7c15));
	for (; len > 0;) {
		uint64_t word = 0;
		size_t n = LM_MIN(len, sizeof(word));
		memcpy(&word, name, n);
		h = mix(h ^ word, tree->seed ^ (UINT64_C(0xbf58476d1ce4e5b9) + n));
		name += n;
		len -= n;
	}
	return h;
}

static struct lm_layer_node *find_child(
	const struct lm_layer_tree *tree, const struct lm_layer_node *parent, const char *name, size_t len)
{
	uint64_t hash = hash_name(tree, parent, name, len);
	struct lm_layer_node *node = tree->buckets[hash & (tree->bucket_count - 1)];
	for (; node; node = node->same_hash)
		if (node->name_hash == hash && node->parent == parent && strncmp(node->name, name, len) == 0 &&
			node->name[len] == '\0')
			return node;
	return NULL;
}

static int grow_buckets(struct lm_layer_tree *tree)
{
	size_t count = tree->bucket_count * 2;
	struct lm_layer_node **buckets = calloc(count, sizeof(struct lm_layer_node *));
	if (!buckets)
		return -ENOMEM;
	for (size_t i = 0; i < tree->bucket_count; i++)
		for (struct lm_layer_node *node = tree->buckets[i], *next; node; node = next) {
			next = node->same_hash;
			struct lm_layer_node **bucket = &buckets[node->name_hash & (count - 1)];
			node->same_hash = *bucket;
			*bucket = node;
		}
	free(tree->buckets);
	tree->buckets = buckets;
	tree->bucket_count = count;
	return 0;
}

/* Gives the inode a (further) name, which must be free. */
static int add_name(struct lm_layer_tree *tree, struct lm_layer_node *parent, const char *name,
	struct lm_layer_inode *inode, struct lm_err *err)
{
	size_t len = strlen(name);
	if (len > LM_NAME_MAX)
		return lm_err_set(err, -EPROTO, "name of over %d bytes", LM_NAME_MAX);
	if (tree->names >= tree->bucket_count && grow_buckets(tree) < 0)
		return no_room(tree, err);
	struct lm_layer_node *node = arena_alloc(tree, sizeof(*node));
	if (!node || !(node->name = arena_copy(tree, name, len)))
		return no_room(tree, err);
	node->parent = parent;
	node->inode = inode;
	node->name_hash = hash_name(tree, parent, name, len);
	struct lm_layer_node **bucket = &tree->buckets[node->name_hash & (tree->bucket_count - 1)];
	node->same_hash = *bucket;
	*bucket = node;
	node->prev = parent->last_child;
	*(parent->last_child ? &parent->last_child->next : &parent->children) = node;
	parent->last_child = node;
	tree->names++;
	inode->names++;
	return 0;
}

/* Takes the name and all below it out of table and counts; their memory stays. */
static void forget(struct lm_layer_tree *tree, struct lm_layer_node *node)
{
	for (struct lm_layer_node *child = node->children; child; child = child->next)
		forget(tree, child);
	struct lm_layer_node **at = &tree->buckets[node->name_hash & (tree->bucket_count - 1)];
	while (*at != node)
		at = &(*at)->same_hash;
	*at = node->same_hash;
	tree->names--;
	node->inode->names--;
}

void lm_layer_tree_remove(struct lm_layer_tree *tree, struct lm_layer_node *node)
{
	forget(tree, node);
	*(node->prev ? &node->prev->next : &node->parent->children) = node->next;
	*(node->next ? &node->next->prev : &node->parent->last_child) = node->prev;
}

/* A new inode as root makes it in that directory. */
static struct lm_layer_inode *new_inode(struct lm_layer_tree *tree, const struct lm_layer_node *parent, uint32_t mode)
{
	struct lm_layer_inode *inode = arena_alloc(tree, sizeof(*inode));
	if (!inode)
		return NULL;
	inode->mode = mode;
	if (parent && parent->inode->mode & S_ISGID)
		inode->gid = parent->inode->gid;
	return inode;
}

static int create(struct lm_layer_tree *tree, struct lm_layer_node *parent, const char *name, uint32_t mode,
	struct lm_layer_inode **ret, struct lm_err *err)
{
	struct lm_layer_inode *inode = new_inode(tree, parent, mode);
	if (!inode)
		return no_room(tree, err);
	int r = add_name(tree, parent, name, inode, err);
	if (r == 0)
		*ret = inode;
	return r;
}

/* --- the tree --- */

int lm_layer_tree_new(const struct lm_layer_below *below, struct lm_layer_tree **ret, struct lm_err *err)
{
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = calloc(1, sizeof(*tree));
	if (!tree)
		return lm_err_oom(err);
	if (getrandom(&tree->seed, sizeof(tree->seed), 0) != (ssize_t)sizeof(tree->seed))
		return lm_err_sys(err, -errno, "getrandom");
	if (below)
		tree->below = *below;
	tree->dir_times_end = &tree->dir_times;
	tree->bucket_count = BUCKETS_MIN;
	tree->buckets = calloc(tree->bucket_count, sizeof(struct lm_layer_node *));
	tree->root = arena_alloc(tree, sizeof(*tree->root));
	if (!tree->buckets || !tree->root)
		return no_room(tree, err);
	tree->root->name = "";
	tree->root->inode = new_inode(tree, NULL, S_IFDIR | 0755);
	if (!tree->root->inode)
		return no_room(tree, err);
	tree->root->inode->names = 1;
	*ret = STEAL(tree);
	return 0;
}

void lm_layer_tree_free(struct lm_layer_tree *tree)
{
	if (!tree)
		return;
	for (struct arena_block *block = tree->arena, *next; block; block = next) {
		next = block->next;
		free(block);
	}
	free(tree->buckets);
	free(tree);
}

struct lm_layer_node *lm_layer_tree_root(struct lm_layer_tree *tree)
{
	return tree->root;
}

struct lm_layer_node *lm_layer_tree_find(struct lm_layer_tree *tree, const char *path)
{
	struct lm_layer_node *node = tree->root;
	while (node && *path == '/') {
		path++;
		size_t len = (size_t)(strchrnul(path, '/') - path);
		node = find_child(tree, node, path, len);
		path += len;
	}
	return node;
}

struct lm_layer_node *lm_layer_tree_child(struct lm_layer_tree *tree, const struct lm_layer_node *dir, const char *name)
{
	return find_child(tree, dir, name, strlen(name));
}

/* --- paths --- */

/* Goes on from path by the components of more, without looking at any tree: "." stays, ".." goes up, not beyond "". */
static int path_push(struct path *path, const char *more, struct lm_err *err)
{
	while (*more != '\0') {
		size_t len = (size_t)(strchrnul(more, '/') - more);
		if (len == 2 && memcmp(more, "..", 2) == 0) {
			while (path->len > 0 && path->s[--path->len] != '/')
				;
		} else if (len > 0 && !(len == 1 && more[0] == '.')) {
			if (path->len + 1 + len > LM_LAYER_PATH_MAX)
				return lm_err_set(err, -EPROTO, "path of over %d bytes", LM_LAYER_PATH_MAX);
			path->s[path->len++] = '/';
			memcpy(path->s + path->len, more, len);
			path->len += len;
		}
		more += len;
		more += *more == '/';
	}
	path->s[path->len] = '\0';
	return 0;
}

/* Puts the target of the link that path->s[start..end) names in its place. */
static int path_splice(struct path *path, size_t start, size_t end, const char *target, struct lm_err *err)
{
	struct path old = *path;
	path->len = target[0] == '/' ? 0 : start;
	int r = path_push(path, target, err);
	return r < 0 ? r : path_push(path, old.s + end, err);
}

/*
 * Follows the links in path, inside the layer's root. *ret: the deepest directory (or, at the path's end, whatever is
 * there); *ret_rest: what of the path does not exist below it, "" or "/x/y".
 */
static int resolve(struct lm_layer_tree *tree, struct path *path, struct lm_layer_node **ret, const char **ret_rest,
	struct lm_err *err)
{
	struct lm_layer_node *node = tree->root;
	size_t at = 0;
	for (unsigned links = 0; path->s[at] == '/';) {
		size_t end = (size_t)(strchrnul(path->s + at + 1, '/') - path->s);
		if (!S_ISDIR(node->inode->mode))
			return lm_err_set(err, -EPROTO, "%.*s is no directory", (int)at, path->s);
		struct lm_layer_node *child = find_child(tree, node, path->s + at + 1, end - at - 1);
		if (!child)
			break;
		if (S_ISLNK(child->inode->mode)) {
			if (++links > LINKS_MAX)
				return lm_err_set(err, -EPROTO, "too many symbolic links");
			int r = path_splice(path, at, end, child->inode->target, err);
			if (r < 0)
				return r;
			node = tree->root;
			at = 0;
			continue;
		}
		node = child;
		at = end;
	}
	*ret = node;
	*ret_rest = path->s + at;
	return 0;
}

/* --- attributes --- */

static struct lm_layer_xattr **find_xattr(struct lm_layer_inode *inode, const char *key)
{
	struct lm_layer_xattr **at = &inode->xattrs;
	while (*at && strcmp((*at)->key, key) != 0)
		at = &(*at)->next;
	return at;
}

static int set_xattr(struct lm_layer_tree *tree, struct lm_layer_inode *inode, const char *key, size_t key_len,
	const void *value, size_t value_len, struct lm_err *err)
{
	const char *own_key = arena_copy(tree, key, key_len);
	char *own_value = arena_copy(tree, value, value_len);
	if (!own_key || !own_value)
		return no_room(tree, err);
	struct lm_layer_xattr **at = find_xattr(inode, own_key);
	if (!*at && !(*at = arena_alloc(tree, sizeof(**at))))
		return no_room(tree, err);
	(*at)->key = own_key;
	(*at)->value = own_value;
	(*at)->value_len = value_len;
	return 0;
}

/* A capability set as the kernel takes it: version 2 has 20 bytes, version 3 24. */
static bool is_capability(const char *value, size_t len)
{
	return (len == 20 && value[3] == 2) || (len == 24 && value[3] == 3);
}

/* 1: Linux stores that attribute on such an inode; 0: containerd goes on without it; -EPROTO: it gives up. */
static int judge_xattr(const struct lm_layer_inode *inode, const struct lm_tar_xattr *xattr)
{
	size_t key_len = strlen(xattr->key);
	if (lm_str_starts(xattr->key, "trusted."))
		return 0;
	if (key_len == 0 || key_len > LM_XATTR_KEY_MAX || xattr->value_len > XATTR_VALUE_MAX)
		return -EPROTO;
	if (strcmp(xattr->key, "user.") == 0 || strcmp(xattr->key, "security.") == 0)
		return -EPROTO;
	if (lm_str_starts(xattr->key, "user."))
		return S_ISREG(inode->mode) || S_ISDIR(inode->mode);
	if (strcmp(xattr->key, "security.capability") == 0)
		return is_capability(xattr->value, xattr->value_len) ? 1 : -EPROTO;
	bool for_children = strcmp(xattr->key, "system.posix_acl_default") == 0;
	if (for_children || strcmp(xattr->key, ACCESS_ACL) == 0) {
		if (S_ISLNK(inode->mode))
			return 0;
		return for_children && !S_ISDIR(inode->mode) ? -EPROTO : lm_acl_judge(xattr->value, xattr->value_len);
	}
	return lm_str_starts(xattr->key, "security.");
}

static int take_xattrs(
	struct lm_layer_tree *tree, struct lm_layer_inode *inode, const struct lm_tar_entry *entry, struct lm_err *err)
{
	for (size_t i = 0; i < entry->xattr_count; i++) {
		const struct lm_tar_xattr *xattr = &entry->xattrs[i];
		int r = judge_xattr(inode, xattr);
		if (r < 0)
			return lm_err_set(err, r, "attribute %.64s that no file can have", xattr->key);
		if (r > 0)
			r = set_xattr(tree, inode, xattr->key, strlen(xattr->key), xattr->value, xattr->value_len, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* chown(2): an id of -1 leaves the old one, and what is no directory loses its capabilities. */
static void set_owner(struct lm_layer_inode *inode, int64_t uid, int64_t gid)
{
	if ((uint32_t)uid != UINT32_MAX)
		inode->uid = (uint32_t)uid;
	if ((uint32_t)gid != UINT32_MAX)
		inode->gid = (uint32_t)gid;
	struct lm_layer_xattr **capability = find_xattr(inode, "security.capability");
	if (*capability && !S_ISDIR(inode->mode))
		*capability = (*capability)->next;
}

static void set_mtime(struct lm_layer_inode *inode, int64_t s, uint32_t ns)
{
	bool fits = s >= 0 && (s < TIME_MAX_S || (s == TIME_MAX_S && ns <= TIME_MAX_NS));
	inode->mtime_s = fits ? s : 0;
	inode->mtime_ns = fits ? ns : 0;
}

/* chmod(2), which writes the permissions into an ACL, too. */
static void set_mode(struct lm_layer_inode *inode, uint32_t mode)
{
	inode->mode = (inode->mode & S_IFMT) | (mode & 07777);
	struct lm_layer_xattr **acl = find_xattr(inode, ACCESS_ACL);
	if (*acl && lm_acl_minimal((*acl)->value, (*acl)->value_len))
		*acl = (*acl)->next;
	else if (*acl)
		lm_acl_chmod((*acl)->value, (*acl)->value_len, mode);
}

/* In the order of containerd: owner, attributes, mode, time. */
static int take_attributes(
	struct lm_layer_tree *tree, struct lm_layer_inode *inode, const struct lm_tar_entry *entry, struct lm_err *err)
{
	set_owner(inode, entry->uid, entry->gid);
	int r = take_xattrs(tree, inode, entry, err);
	if (r < 0)
		return r;
	if (!S_ISLNK(inode->mode))
		set_mode(inode, (uint32_t)entry->mode);
	set_mtime(inode, entry->mtime_s, entry->mtime_ns);
	return 0;
}

/* --- missing parents --- */

/* Follows links in a layer below. 1: something is at path, in *ret; 0: nothing is. */
static int lookup_below(
	struct lm_layer_tree *tree, size_t index, struct path path, struct lm_row *ret, struct lm_err *err)
{
	const struct lm_layer_below *below = &tree->below;
	unsigned links = 0;
	for (size_t at = 0; path.s[at] == '/';) {
		size_t end = (size_t)(strchrnul(path.s + at + 1, '/') - path.s);
		char saved = path.s[end];
		path.s[end] = '\0';
		CLEANUP(lm_row_done) struct lm_row row = {0};
		int r = below->lookup(below->arg, index, path.s, &row, err);
		path.s[end] = saved;
		if (r == -ENOENT)
			return 0;
		if (r < 0)
			return r;
		if (S_ISLNK(row.mode)) {
			if (++links > LINKS_MAX || !row.symlink || path_splice(&path, at, end, row.symlink, NULL) < 0)
				return 0;
			at = 0;
			continue;
		}
		if (saved == '\0') {
			*ret = row;
			row = (struct lm_row){0};
			return 1;
		}
		at = end;
	}
	return 0;
}

static int copy_row(
	struct lm_layer_tree *tree, struct lm_layer_inode *inode, const struct lm_row *row, struct lm_err *err)
{
	inode->mode = S_IFDIR | (row->mode & 07777);
	inode->uid = row->uid;
	inode->gid = row->gid;
	inode->mtime_s = row->mtime_s;
	inode->mtime_ns = row->mtime_ns;
	struct lm_xattr xattr;
	for (size_t at = 0; row->xattr && lm_xattr_next(row->xattr, row->xattr_len, &at, &xattr) > 0;) {
		if (xattr.key_len >= 8 && memcmp(xattr.key, "trusted.", 8) == 0)
			continue;
		int r = set_xattr(tree, inode, xattr.key, xattr.key_len, xattr.value, xattr.value_len, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Attributes of a directory that the layer has no entry for: those of the nearest layer that has something there. */
static int inherit(
	struct lm_layer_tree *tree, struct lm_layer_inode *inode, const struct path *path, struct lm_err *err)
{
	for (size_t i = 0; i < tree->below.count; i++) {
		CLEANUP(lm_row_done) struct lm_row row = {0};
		int r = lookup_below(tree, i, *path, &row, err);
		if (r < 0)
			return r;
		if (r > 0)
			return S_ISDIR(row.mode) ? copy_row(tree, inode, &row, err) : 0;
	}
	return 0;
}

/* The directory at path, links followed, with what is missing made. */
static int make_parents(struct lm_layer_tree *tree, struct path *path, struct lm_layer_node **ret, struct lm_err *err)
{
	struct lm_layer_node *node;
	const char *rest;
	int r = resolve(tree, path, &node, &rest, err);
	if (r < 0)
		return r;
	struct path made = {.len = (size_t)(rest - path->s)};
	memcpy(made.s, path->s, made.len);
	while (*rest == '/') {
		char name[LM_NAME_MAX + 1];
		size_t len = (size_t)(strchrnul(rest + 1, '/') - rest - 1);
		if (len > LM_NAME_MAX)
			return lm_err_set(err, -EPROTO, "name of over %d bytes", LM_NAME_MAX);
		memcpy(name, rest + 1, len);
		name[len] = '\0';
		struct lm_layer_inode *inode = NULL;
		r = path_push(&made, name, err);
		if (r == 0)
			r = create(tree, node, name, S_IFDIR | 0755, &inode, err);
		if (r == 0)
			r = inherit(tree, inode, &made, err);
		if (r < 0)
			return r;
		node = node->last_child;
		rest += 1 + len;
	}
	if (!S_ISDIR(node->inode->mode))
		return lm_err_set(err, -EPROTO, "%s is no directory", path->s);
	*ret = node;
	return 0;
}

/* --- entries --- */

/* Removes what is below a directory but came with no entry of its own, and all that is below that. */
static void remove_unlisted(struct lm_layer_tree *tree, struct lm_layer_node *dir)
{
	for (struct lm_layer_node *node = dir->children, *next; node; node = next) {
		next = node->next;
		if (node->listed)
			remove_unlisted(tree, node);
		else
			lm_layer_tree_remove(tree, node);
	}
}

/* In the lowest layer: name is what is whited out, NULL for an opaque directory. */
static void remove_whited_out(struct lm_layer_tree *tree, struct lm_layer_node *parent, const char *name)
{
	struct lm_layer_node *node = name ? find_child(tree, parent, name, strlen(name)) : NULL;
	if (node)
		lm_layer_tree_remove(tree, node);
	else if (!name)
		remove_unlisted(tree, parent);
}

static int make_whiteout(struct lm_layer_tree *tree, struct lm_layer_node *parent, const char *name,
	const struct lm_tar_entry *entry, struct lm_err *err)
{
	if (find_child(tree, parent, name, strlen(name)))
		return lm_err_set(err, -EPROTO, "whiteout of what the same layer has");
	struct lm_layer_inode *inode;
	int r = create(tree, parent, name, S_IFCHR, &inode, err);
	if (r < 0)
		return r;
	set_owner(inode, entry->uid, entry->gid);
	set_mtime(inode, entry->mtime_s, entry->mtime_ns);
	return 0;
}

static int apply_whiteout(struct lm_layer_tree *tree, struct lm_layer_node *parent, const char *base,
	const struct lm_tar_entry *entry, struct lm_err *err)
{
	const char *name = strcmp(base, OPAQUE_MARK) == 0 ? NULL : base + strlen(WHITEOUT);
	if (name && (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0))
		return lm_err_set(err, -EPROTO, "whiteout of nothing");
	if (tree->below.count == 0) {
		remove_whited_out(tree, parent, name);
		return 0;
	}
	if (!name)
		return set_xattr(tree, parent->inode, LM_OVERLAY_OPAQUE, strlen(LM_OVERLAY_OPAQUE), "y", 1, err);
	return make_whiteout(tree, parent, name, entry, err);
}

static int apply_hardlink(struct lm_layer_tree *tree, struct lm_layer_node *parent, const char *base,
	const char *target, struct lm_layer_inode **ret, struct lm_err *err)
{
	const char *slash = strrchr(target, '/');
	const char *name = slash ? slash + 1 : target;
	CLEANUP(lm_freep) char *dir = lm_str_ndup(target, (size_t)(name - target));
	if (!dir)
		return lm_err_oom(err);
	struct path path = {0};
	struct lm_layer_node *node;
	const char *rest;
	int r = path_push(&path, dir, err);
	if (r == 0)
		r = resolve(tree, &path, &node, &rest, err);
	if (r < 0)
		return r;
	if (name[0] != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
		bool there = *rest == '\0' && S_ISDIR(node->inode->mode);
		node = there ? find_child(tree, node, name, strlen(name)) : NULL;
	} else if (*rest != '\0') {
		node = NULL;
	}
	if (!node)
		return lm_err_set(err, -EPROTO, "hard link to %s, which is not there", target);
	if (S_ISDIR(node->inode->mode))
		return lm_err_set(err, -EPROTO, "hard link to %s, a directory", target);
	*ret = node->inode;
	return add_name(tree, parent, base, node->inode, err);
}

static int apply_symlink(struct lm_layer_tree *tree, struct lm_layer_node *parent, const char *base, const char *target,
	struct lm_layer_inode **ret, struct lm_err *err)
{
	size_t len = strlen(target);
	if (len == 0 || len > LM_SYMLINK_MAX)
		return lm_err_set(err, -EPROTO, "symbolic link to a path of %zu bytes", len);
	int r = create(tree, parent, base, S_IFLNK | 0777, ret, err);
	if (r < 0)
		return r;
	(*ret)->target = arena_copy(tree, target, len);
	return (*ret)->target ? 0 : lm_err_oom(err);
}

/* mknod(2) takes 12 bits of major and 20 of minor number. */
static uint64_t device_number(const struct lm_tar_entry *entry)
{
	return makedev((unsigned)entry->dev_major & 0xfff, (unsigned)entry->dev_minor & 0xfffff);
}

/* Makes what the entry describes, with the name free or a directory's. *ret stays NULL where nothing is made. */
static int make_entry(struct lm_layer_tree *tree, struct lm_layer_node *parent, const char *base,
	const struct lm_tar_entry *entry, struct lm_layer_inode **ret, struct lm_err *err)
{
	struct lm_layer_node *there = find_child(tree, parent, base, strlen(base));
	int r;
	switch (entry->type) {
	case LM_TAR_DIR:
		if (!there)
			return create(tree, parent, base, S_IFDIR, ret, err);
		*ret = there->inode;
		return 0;
	case LM_TAR_FILE:
	case LM_TAR_GNU_SPARSE:
		r = create(tree, parent, base, S_IFREG, ret, err);
		if (r == 0)
			(*ret)->size = entry->size;
		return r;
	case LM_TAR_HARDLINK:
		return apply_hardlink(tree, parent, base, entry->link, ret, err);
	case LM_TAR_SYMLINK:
		return apply_symlink(tree, parent, base, entry->link, ret, err);
	case LM_TAR_CHAR:
	case LM_TAR_BLOCK:
		r = create(tree, parent, base, entry->type == LM_TAR_CHAR ? S_IFCHR : S_IFBLK, ret, err);
		if (r == 0)
			(*ret)->rdev = device_number(entry);
		return r;
	case LM_TAR_FIFO:
		return create(tree, parent, base, S_IFIFO, ret, err);
	case LM_TAR_GLOBAL:
		return 0;
	default:
		return lm_err_set(err, -EPROTO, "entry of unknown type 0x%02x", (uint8_t)entry->type);
	}
}

static int note_dir_time(
	struct lm_layer_tree *tree, const char *path, const struct lm_tar_entry *entry, struct lm_err *err)
{
	struct dir_time *note = arena_alloc(tree, sizeof(*note));
	if (!note || !(note->path = arena_copy(tree, path, strlen(path))))
		return no_room(tree, err);
	note->mtime_s = entry->mtime_s;
	note->mtime_ns = entry->mtime_ns;
	*tree->dir_times_end = note;
	tree->dir_times_end = &note->next;
	return 0;
}

static int apply_at(struct lm_layer_tree *tree, struct lm_layer_node *parent, const char *base,
	const struct lm_tar_entry *entry, struct lm_layer_inode **ret, struct lm_err *err)
{
	if (lm_str_starts(base, WHITEOUT))
		return apply_whiteout(tree, parent, base, entry, err);
	struct lm_layer_node *there = find_child(tree, parent, base, strlen(base));
	if (there && !(S_ISDIR(there->inode->mode) && entry->type == LM_TAR_DIR))
		lm_layer_tree_remove(tree, there);
	int r = make_entry(tree, parent, base, entry, ret, err);
	if (r < 0 || !*ret)
		return r;
	find_child(tree, parent, base, strlen(base))->listed = true;
	return take_attributes(tree, *ret, entry, err);
}

static int apply(struct lm_layer_tree *tree, const struct lm_tar_entry *entry, struct lm_layer_inode **ret_file,
	struct lm_err *err)
{
	struct path path = {0};
	int r = path_push(&path, entry->name, err);
	if (r < 0)
		return r;
	if (path.len == 0)
		return 0;
	CLEANUP(lm_freep) char *clean = strdup(path.s);
	if (!clean)
		return lm_err_oom(err);
	char *base = strrchr(clean, '/') + 1;
	path.len -= strlen(base) + 1;
	path.s[path.len] = '\0';

	struct lm_layer_node *parent = NULL;
	struct lm_layer_inode *inode = NULL;
	r = make_parents(tree, &path, &parent, err);
	if (r == 0)
		r = apply_at(tree, parent, base, entry, &inode, err);
	if (r == 0 && entry->type == LM_TAR_DIR && inode)
		r = note_dir_time(tree, clean, entry, err);
	if (r < 0)
		return r;
	if (inode && (entry->type == LM_TAR_FILE || entry->type == LM_TAR_GNU_SPARSE))
		*ret_file = inode;
	return 0;
}

int lm_layer_tree_apply(struct lm_layer_tree *tree, const struct lm_tar_entry *entry, struct lm_layer_inode **ret_file,
	struct lm_err *err)
{
	*ret_file = NULL;
	int r = apply(tree, entry, ret_file, err);
	return r < 0 ? lm_err_prefix(err, r, "%.512s", entry->name) : 0;
}

int lm_layer_tree_finish(struct lm_layer_tree *tree, struct lm_err *err)
{
	for (const struct dir_time *note = tree->dir_times; note; note = note->next) {
		struct path path = {0};
		struct lm_layer_node *node;
		const char *rest;
		int r = path_push(&path, note->path, err);
		if (r == 0)
			r = resolve(tree, &path, &node, &rest, err);
		if (r == 0 && *rest != '\0')
			r = lm_err_set(err, -EPROTO, "directory that a later entry took away");
		if (r < 0)
			return lm_err_prefix(err, r, "%.512s", note->path);
		set_mtime(node->inode, note->mtime_s, note->mtime_ns);
	}
	return 0;
}

/* --- by other rules --- */

int lm_layer_tree_add(struct lm_layer_tree *tree, struct lm_layer_node *dir, const char *name, uint32_t mode,
	struct lm_layer_inode **inode, struct lm_err *err)
{
	if (*inode)
		return add_name(tree, dir, name, *inode, err);
	struct lm_layer_inode *fresh = arena_alloc(tree, sizeof(*fresh));
	if (!fresh)
		return no_room(tree, err);
	fresh->mode = mode;
	int r = add_name(tree, dir, name, fresh, err);
	if (r == 0)
		*inode = fresh;
	return r;
}

static int set_xattrs(
	struct lm_layer_tree *tree, struct lm_layer_inode *inode, const struct lm_row *row, struct lm_err *err)
{
	static const char own[] = "trusted.overlay.";
	struct lm_xattr xattr;
	int r = 0;
	inode->xattrs = NULL;
	for (size_t at = 0; row->xattr && lm_xattr_next(row->xattr, row->xattr_len, &at, &xattr) > 0 && r == 0;)
		if (xattr.key_len < sizeof(own) - 1 || memcmp(xattr.key, own, sizeof(own) - 1) != 0)
			r = set_xattr(tree, inode, xattr.key, xattr.key_len, xattr.value, xattr.value_len, err);
	return r;
}

int lm_layer_tree_set(
	struct lm_layer_tree *tree, struct lm_layer_inode *inode, const struct lm_row *row, struct lm_err *err)
{
	inode->mode = row->mode;
	inode->uid = row->uid;
	inode->gid = row->gid;
	inode->mtime_s = row->mtime_s;
	inode->mtime_ns = row->mtime_ns;
	inode->rdev = row->rdev;
	inode->size = row->size;
	inode->hash = row->hash;
	inode->compression = row->compression;
	if (row->symlink && !(inode->target = arena_copy(tree, row->symlink, strlen(row->symlink))))
		return no_room(tree, err);
	return set_xattrs(tree, inode, row, err);
}

bool lm_layer_tree_leads(struct lm_layer_tree *tree, const char *path)
{
	struct path at = {0};
	struct lm_layer_node *node;
	const char *rest;
	return path_push(&at, path, NULL) == 0 && resolve(tree, &at, &node, &rest, NULL) == 0 && *rest == '\0';
}

int lm_layer_tree_begin(struct lm_layer_tree *tree, const struct lm_layer_begin *up, size_t len,
	const struct lm_layer_begin **ret, struct lm_err *err)
{
	struct lm_layer_begin *begin = arena_alloc(tree, sizeof(*begin));
	if (!begin)
		return no_room(tree, err);
	*begin = (struct lm_layer_begin){up, len};
	*ret = begin;
	return 0;
}

int lm_layer_tree_add_chunk(struct lm_layer_tree *tree, struct lm_layer_inode *file, uint64_t offset, uint64_t size,
	struct lm_chunk **ret, struct lm_err *err)
{
	struct lm_layer_chunks *last = file->last_chunks;
	if (!last || last->count == ARRAY_LEN(last->chunks)) {
		struct lm_layer_chunks *more = arena_alloc(tree, sizeof(*more));
		if (!more)
			return no_room(tree, err);
		*(last ? &last->next : &file->chunks) = more;
		last = file->last_chunks = more;
	}
	*ret = &last->chunks[last->count++];
	(*ret)->offset = offset;
	(*ret)->size = size;
	return 0;
}
