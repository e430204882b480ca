#include "fetcher/tree.h"

#include "base/str.h"
#include "fetcher/crossings.h"
#include "fetcher/dir_paths.h"
#include "fetcher/whiteout.h"
#include "repo/images.h"
#include "repo/symlink.h"
#include "repo/xattr.h"

#include <stdatomic.h>
#include <string.h>

enum {
	ROW_BITS = 40,
	BLOCK = 4096,
	BARE_SLOTS = 32768, /* nodes seen lately that are known to have no extended attributes */
	CURSOR_DOT = 1,	    /* readdir cursors: after ".", after "..", then 2 + row id */
	CURSOR_ROWS = 2,
};

struct lm_tree {
	struct lm_catalogs *catalogs;
	struct lm_dir_paths *paths; /* as their catalog knows them */
	_Atomic(uint32_t) root;
	struct lm_crossings crossings;
	_Atomic(uint64_t) bare[BARE_SLOTS]; /* nodes; overlayfs asks for an attribute right after each look-up */
};

int lm_tree_new(struct lm_catalogs *catalogs, struct lm_tree **ret, struct lm_err *err)
{
	struct lm_tree *tree = calloc(1, sizeof(*tree));
	if (!tree)
		return lm_err_oom(err);
	int r = lm_dir_paths_new(&tree->paths, err);
	if (r < 0) {
		free(tree);
		return r;
	}
	lm_crossings_init(&tree->crossings);
	tree->catalogs = catalogs;
	*ret = tree;
	return 0;
}

void lm_tree_free(struct lm_tree *tree)
{
	if (!tree)
		return;
	lm_crossings_done(&tree->crossings);
	lm_dir_paths_free(tree->paths);
	free(tree);
}

void lm_tree_set_root(struct lm_tree *tree, uint32_t catalog_number)
{
	atomic_store(&tree->root, catalog_number);
}

uint32_t lm_tree_root(struct lm_tree *tree)
{
	return atomic_load(&tree->root);
}

/* A node with its catalog open. */
struct place {
	struct lm_tree *tree;
	struct lm_open_catalog *open;
	struct lm_catalog *catalog;
	uint64_t rowid;
};

static void place_done(struct place *place)
{
	if (place->open)
		lm_catalogs_put(place->tree->catalogs, place->open);
}

uint64_t lm_tree_node(uint32_t catalog, uint64_t rowid)
{
	return (uint64_t)catalog << ROW_BITS | rowid;
}

static int enter(struct lm_tree *tree, uint64_t node, struct place *ret, struct lm_object_ref *need, struct lm_err *err)
{
	uint32_t number = (uint32_t)(node >> ROW_BITS);
	if (node == LM_NODE_ROOT)
		number = lm_tree_root(tree);
	if (number == 0)
		return lm_err_set(err, node == LM_NODE_ROOT ? -EIO : -ESTALE, "node %llu is in no catalog",
			(unsigned long long)node);
	struct lm_open_catalog *open;
	int r = lm_catalogs_get(tree->catalogs, number, &open, need, err);
	if (r != 0)
		return r;
	*ret = (struct place){
		.tree = tree, .open = open, .catalog = open->catalog, .rowid = node & ((1ULL << ROW_BITS) - 1)};
	return 0;
}

/* Extended attributes that a node does not have: nothing of it ever changes, so this is true for ever. */

static _Atomic(uint64_t) *bare_slot(struct lm_tree *tree, uint64_t node)
{
	return &tree->bare[(node * 0x9e3779b97f4a7c15ULL >> 32) % BARE_SLOTS];
}

static void note_bare(struct lm_tree *tree, uint64_t node)
{
	atomic_store_explicit(bare_slot(tree, node), node, memory_order_relaxed);
}

static bool is_bare(struct lm_tree *tree, uint64_t node)
{
	return atomic_load_explicit(bare_slot(tree, node), memory_order_relaxed) == node;
}

/* The layers' view. */

static enum lm_whiteout whiteout_kind(const struct place *place, const struct lm_row *row, const char **ret_deleted)
{
	return place->open->view == LM_VIEW_LAYERS ? lm_whiteout_kind(row->name, row->mode, ret_deleted)
						   : LM_WHITEOUT_NONE;
}

/* The row of .wh.NAME becomes one of a device NAME. deleted points into the row's name. */
static void make_whiteout(struct lm_row *row, const char *deleted)
{
	memmove(row->name, deleted, strlen(deleted) + 1);
	free(row->xattr);
	row->xattr = NULL;
	row->xattr_len = 0;
	free(row->symlink);
	row->symlink = NULL;
	row->mode = S_IFCHR;
	row->flags = LM_ROW_FILE | LM_ROW_SPECIAL;
	row->size = row->rdev = 0;
	row->link_group = 0;
	row->link_count = 1;
	row->hash = (struct lm_hash){0};
}

static int get_row(const struct place *place, struct lm_row *ret, struct lm_err *err)
{
	const char *deleted;
	int r = lm_catalog_row(place->catalog, place->rowid, ret, err);
	if (r == 0 && whiteout_kind(place, ret, &deleted) == LM_WHITEOUT_NAME)
		make_whiteout(ret, deleted);
	return r == -ENOENT ? lm_err_set(err, -ESTALE, "catalog %s has no row %llu", place->open->mountpoint,
				      (unsigned long long)place->rowid)
			    : r;
}

static int enter_row(struct lm_tree *tree, uint64_t node, struct place *ret, struct lm_row *ret_row,
	struct lm_object_ref *need, struct lm_err *err)
{
	int r = enter(tree, node, ret, need, err);
	return r ? r : get_row(ret, ret_row, err);
}

/* Paths of directories, as their catalog knows them. */

static void remember(const struct place *place, uint64_t rowid, struct lm_buf *path)
{
	lm_dir_paths_put(place->tree->paths, lm_tree_node(place->open->number, rowid), lm_buf_cstr(path));
}

/* From the root of the catalog, which is a long way. */
static int path_by_walk(const struct place *place, uint64_t rowid, struct lm_buf *ret, struct lm_err *err)
{
	int r = lm_catalog_path_of(place->catalog, rowid, ret, err);
	if (r == 0)
		remember(place, rowid, ret);
	return r;
}

static int known_path(const struct place *place, uint64_t rowid, struct lm_buf *ret)
{
	return rowid == 1 ? lm_buf_str(ret, lm_catalog_mountpoint(place->catalog))
			  : lm_dir_paths_get(place->tree->paths, lm_tree_node(place->open->number, rowid), ret);
}

/* One level up, to a directory that is known most of the time. */
static int path_by_parent(const struct place *place, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0}, parent = {0};
	int r = lm_catalog_row(place->catalog, place->rowid, &row, err);
	if (r == 0)
		r = lm_catalog_lookup(place->catalog, row.parent, &parent, err);
	if (r == -ENOENT)
		return path_by_walk(place, place->rowid, ret, err); /* which says what is wrong */
	if (r < 0)
		return r;
	r = known_path(place, parent.rowid, ret);
	if (r == -ENOENT && (r = path_by_walk(place, parent.rowid, ret, err)) < 0)
		return r;
	if (r == 0)
		r = lm_buf_printf(ret, "/%s", row.name);
	if (r == -EMSGSIZE)
		return lm_err_set(err, -EPROTO, "catalog of '%s': row %llu: its parents form no path",
			lm_catalog_mountpoint(place->catalog), (unsigned long long)place->rowid);
	if (r < 0)
		return lm_err_oom(err);
	if (!lm_path_hash_equal(lm_path_hash(lm_buf_cstr(ret), ret->len), row.path))
		return lm_err_set(err, -EPROTO, "catalog of '%s': row %llu: its parents form another path",
			lm_catalog_mountpoint(place->catalog), (unsigned long long)place->rowid);
	remember(place, place->rowid, ret);
	return 0;
}

/* ret is empty. */
static int path_of(const struct place *place, struct lm_buf *ret, struct lm_err *err)
{
	int r = known_path(place, place->rowid, ret);
	if (r == -ENOENT)
		return path_by_parent(place, ret, err);
	return r < 0 ? lm_err_oom(err) : 0;
}

/* The path in the tree of what the catalog knows as path. */
static int outer_path(const struct place *place, const char *path, struct lm_buf *ret)
{
	int r = lm_buf_append(ret, place->open->mountpoint, place->open->prefix_len);
	return r ? r : lm_buf_str(ret, path);
}

/* Link targets. */

static int expand(const char *raw, struct lm_buf *ret, struct lm_err *err)
{
	int r = lm_symlink_expand(raw, ret);
	if (r == -EMSGSIZE)
		return lm_err_set(
			err, -ENAMETOOLONG, "link target over %zu bytes with its variables replaced", ret->max);
	return r < 0 ? lm_err_oom(err) : 0;
}

/* Attributes. */

/*
 * Which row stands for the inode, and how many names it has. Members of a hard-link group that are not alike are files
 * of their own. A stored count of 1 in a group leaves it to the reader to count the members.
 */
static int find_inode(const struct place *place, const struct lm_row *row, uint64_t *ret_rowid, nlink_t *ret_links,
	struct lm_err *err)
{
	uint64_t lowest;
	uint32_t members;
	*ret_rowid = row->rowid;
	*ret_links = LM_MAX(row->link_count, 1U);
	if (row->link_group == 0 || S_ISDIR(row->mode))
		return 0;
	int r = lm_catalog_group(place->catalog, row->link_group, &lowest, &members, err);
	if (r == -ENOENT) {
		*ret_links = 1;
		return 0;
	}
	if (r < 0)
		return r;
	*ret_rowid = lowest;
	if (row->link_count <= 1)
		*ret_links = members;
	return 0;
}

static int fill_attr(const struct lm_row *row, uint64_t node, nlink_t links, struct stat *ret, struct lm_err *err)
{
	uint64_t size = S_ISCHR(row->mode) || S_ISBLK(row->mode) ? 0 : row->size;
	if (row->symlink && strstr(row->symlink, "$(")) {
		CLEANUP(lm_buf_done) struct lm_buf target = LM_BUF(LM_SYMLINK_MAX);
		int r = expand(row->symlink, &target, err);
		if (r < 0)
			return r;
		size = target.len;
	}
	const struct timespec time = {.tv_sec = row->mtime_s, .tv_nsec = row->mtime_ns};
	*ret = (struct stat){
		.st_ino = node,
		.st_mode = row->mode,
		.st_nlink = links,
		.st_uid = row->uid,
		.st_gid = row->gid,
		.st_rdev = row->rdev,
		.st_size = (off_t)size,
		.st_blksize = BLOCK,
		.st_blocks = (blkcnt_t)((size + 511) / 512),
		.st_atim = time,
		.st_mtim = time,
		.st_ctim = time,
	};
	return 0;
}

static void nested_done(struct lm_nested *nested)
{
	free(nested->path);
}

/* Longer circles can't be made: a catalog would have to name the hash of one that names its own. If they could, they
 * would end with the longest path, or by the root_prefix of the catalogs. */
static int check_not_itself(
	const struct place *place, const struct lm_hash *nested, const char *path, struct lm_err *err)
{
	struct lm_hash own;
	const char *mountpoint;
	int r = lm_catalogs_describe(place->tree->catalogs, place->open->number, &own, &mountpoint);
	if (r == 0 && lm_hash_equal(&own, nested))
		r = lm_err_set(err, -EPROTO, "the catalog names itself at %s", path);
	return r;
}

/* The node of the catalog that hangs at path (as place's catalog knows it). */
static int cross_mountpoint(
	const struct place *place, const struct lm_row *row, const char *path, uint64_t *ret, struct lm_err *err)
{
	CLEANUP(nested_done) struct lm_nested nested = {0};
	int r = lm_catalog_nested(place->catalog, path, &nested, err);
	if (r == -ENOENT)
		return lm_err_set(err, -EPROTO, "no catalog is named for mountpoint %s", path);
	if (r == 0)
		r = check_not_itself(place, &nested.hash, path, err);
	if (r < 0)
		return r;
	CLEANUP(lm_buf_done) struct lm_buf outer = LM_BUF(LM_REPO_PATH_MAX);
	uint32_t number;
	r = outer_path(place, path, &outer);
	if (r < 0)
		return lm_err_set(err, r == -EMSGSIZE ? -ENAMETOOLONG : r, "path of mountpoint %s", path);
	/* A bind mountpoint leads to a root catalog, whose own paths begin anew. */
	size_t prefix_len = row->flags & LM_ROW_BIND ? outer.len : place->open->prefix_len;
	r = lm_catalogs_number(
		place->tree->catalogs, &nested.hash, lm_buf_cstr(&outer), prefix_len, place->open->view, &number, err);
	if (r == 0)
		*ret = lm_tree_node(number, 1);
	return r;
}

static int make_entry(
	const struct place *place, const struct lm_row *row, const char *path, struct lm_entry *ret, struct lm_err *err)
{
	if (row->rowid >> ROW_BITS)
		return lm_err_set(
			err, -EPROTO, "%s: row id %llu is out of range", path, (unsigned long long)row->rowid);
	if (S_ISDIR(row->mode) && row->flags & (LM_ROW_MOUNTPOINT | LM_ROW_BIND)) {
		int r = cross_mountpoint(place, row, path, &ret->node, err);
		return r ? r : fill_attr(row, ret->node, row->link_count, &ret->attr, err);
	}
	uint64_t rowid;
	nlink_t links;
	int r = find_inode(place, row, &rowid, &links, err);
	if (r < 0)
		return r;
	ret->node = lm_tree_node(place->open->number, rowid);
	if (!row->xattr && !(place->open->view == LM_VIEW_LAYERS && S_ISDIR(row->mode)))
		note_bare(place->tree, ret->node);
	return fill_attr(row, ret->node, links, &ret->attr, err);
}

static int child_path(struct lm_buf *path, const char *name, struct lm_err *err)
{
	int r = lm_buf_append(path, "/", 1);
	if (r == 0)
		r = lm_buf_str(path, name);
	return r < 0 ? lm_err_set(err, r == -EMSGSIZE ? -ENAMETOOLONG : r, "path of %s", name) : 0;
}

/* The row of a name, as it is stored. path: of the directory; with the name behind it when the row was found. */
static int find_name(const struct place *place, struct lm_buf *path, struct lm_path_hash parent, const char *prefix,
	const char *name, struct lm_row *ret, struct lm_err *err)
{
	size_t len = path->len, prefix_len = strlen(prefix);
	int r = child_path(path, prefix, err);
	if (r == 0 && lm_buf_str(path, name) < 0)
		r = lm_err_set(err, -ENAMETOOLONG, "path of %s", name);
	if (r == 0)
		r = lm_catalog_lookup(place->catalog, lm_path_hash(lm_buf_cstr(path), path->len), ret, err);
	if (r == 0 && (strncmp(ret->name, prefix, prefix_len) != 0 || strcmp(ret->name + prefix_len, name) != 0 ||
			      !lm_path_hash_equal(ret->parent, parent)))
		r = lm_err_set(err, -EPROTO, "the row of %s is for another name or directory", lm_buf_cstr(path));
	if (r < 0)
		path->len = len;
	return r;
}

/* In the layers' view: what is there, or else what is deleted. */
static int find_shown(const struct place *place, struct lm_buf *path, struct lm_path_hash parent, const char *name,
	struct lm_row *ret, struct lm_err *err)
{
	const char *deleted;
	size_t len = path->len;
	int r = find_name(place, path, parent, "", name, ret, err);
	if (r == 0 && whiteout_kind(place, ret, &deleted) == LM_WHITEOUT_NONE)
		return 0;
	if (r < 0 && r != -ENOENT)
		return r;
	lm_row_done(ret);
	path->len = len;
	if (strlen(name) + strlen(LM_WHITEOUT_PREFIX) > LM_NAME_MAX)
		return -ENOENT;
	r = find_name(place, path, parent, LM_WHITEOUT_PREFIX, name, ret, err);
	if (r == 0 && whiteout_kind(place, ret, &deleted) != LM_WHITEOUT_NAME)
		return -ENOENT;
	if (r == 0)
		make_whiteout(ret, deleted);
	return r;
}

/* The root directory in the layers' view, where only .layers can be reached. */
static int layers_root(struct lm_tree *tree, uint64_t *ret, struct lm_err *err)
{
	struct lm_hash hash;
	const char *mountpoint;
	uint32_t number;
	int r = lm_catalogs_describe(tree->catalogs, lm_tree_root(tree), &hash, &mountpoint);
	if (r < 0)
		return lm_err_set(err, -EIO, "there is no root catalog");
	r = lm_catalogs_number(tree->catalogs, &hash, mountpoint, 0, LM_VIEW_LAYERS, &number, err);
	if (r == 0)
		*ret = lm_tree_node(number, 1);
	return r;
}

/* Layers have nested catalogs inside, but not the files that mark those. */
static bool is_hidden_marker(const struct lm_row *row)
{
	return row->flags & LM_ROW_HIDDEN && strcmp(row->name, ".cvmfscatalog") == 0;
}

/* Names of rows: each says which catalogs to pass, and which row of the last one. */

static int find_crossing(const struct place *place, int64_t half, uint64_t *ret, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(LM_REPO_PATH_MAX);
	struct place mountpoint = *place;
	int r = lm_catalog_lookup_half(place->catalog, half, &row, err);
	if (r == 0 && !(S_ISDIR(row.mode) && row.flags & LM_ROW_MOUNTPOINT))
		r = -ENOENT;
	if (r < 0)
		return r;
	mountpoint.rowid = row.rowid;
	r = path_of(&mountpoint, &path, err);
	if (r == 0)
		r = cross_mountpoint(place, &row, lm_buf_cstr(&path), ret, err);
	if (r == 0)
		lm_crossings_put(&place->tree->crossings, place->open->number, half, *ret);
	return r;
}

static int cross(struct place *place, int64_t half, struct lm_object_ref *need, struct lm_err *err)
{
	struct place next;
	uint64_t node = lm_crossings_get(&place->tree->crossings, place->open->number, half);
	int r = node ? 0 : find_crossing(place, half, &node, err);
	if (r == 0)
		r = enter(place->tree, node, &next, need, err);
	if (r != 0)
		return r;
	place_done(place);
	*place = next;
	return 0;
}

static int lookup_row(struct lm_tree *tree, uint64_t parent, const int64_t *halves, size_t count, struct lm_entry *ret,
	struct lm_object_ref *need, struct lm_err *err)
{
	CLEANUP(place_done) struct place place = {0};
	CLEANUP(lm_row_done) struct lm_row row = {0};
	const char *deleted;
	int r = enter(tree, parent, &place, need, err);
	for (size_t i = 0; i + 1 < count && r == 0; i++)
		r = cross(&place, halves[i], need, err);
	if (r == 0)
		r = lm_catalog_lookup_half(place.catalog, halves[count - 1], &row, err);
	if (r == 0 && (!S_ISREG(row.mode) || row.flags & LM_ROW_HIDDEN ||
			      whiteout_kind(&place, &row, &deleted) != LM_WHITEOUT_NONE))
		r = -ENOENT;
	return r ? r : make_entry(&place, &row, row.name, ret, err);
}

/* Of a directory where a catalog begins. */
static bool is_row_name(uint64_t parent, const char *name, int64_t *halves, size_t *ret_count)
{
	const uint64_t row = parent & ((1ULL << ROW_BITS) - 1);
	*ret_count = row == 1 ? lm_images_row_parse(name, halves) : 0;
	return *ret_count > 0;
}

int lm_tree_lookup(struct lm_tree *tree, uint64_t parent, const char *name, struct lm_entry *ret,
	struct lm_object_ref *ret_need, struct lm_err *err)
{
	if (strlen(name) > LM_NAME_MAX)
		return lm_err_set(err, -ENAMETOOLONG, "name of %zu bytes", strlen(name));
	CLEANUP(place_done) struct place place = {0};
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(LM_REPO_PATH_MAX);
	CLEANUP(lm_row_done) struct lm_row row = {0};
	int64_t halves[LM_IMAGES_ROW_MAX];
	size_t count;
	int r = 0;
	if (is_row_name(parent, name, halves, &count)) {
		r = lookup_row(tree, parent, halves, count, ret, ret_need, err);
		if (r != -ENOENT)
			return r;
		r = 0;
	}
	if (parent == LM_NODE_ROOT && strcmp(name, LM_TREE_LAYERS) == 0) {
		r = layers_root(tree, &parent, err);
		name = LM_IMAGES_LAYERS;
	}
	if (r == 0)
		r = enter(tree, parent, &place, ret_need, err);
	if (r == 0)
		r = path_of(&place, &path, err);
	if (r != 0)
		return r;
	struct lm_path_hash parent_hash = lm_path_hash(lm_buf_cstr(&path), path.len);
	r = place.open->view == LM_VIEW_LAYERS ? find_shown(&place, &path, parent_hash, name, &row, err)
					       : find_name(&place, &path, parent_hash, "", name, &row, err);
	if (r == 0 && is_hidden_marker(&row))
		r = -ENOENT;
	if (r == 0)
		r = make_entry(&place, &row, lm_buf_cstr(&path), ret, err);
	if (r == 0 && S_ISDIR(row.mode) && !(row.flags & (LM_ROW_MOUNTPOINT | LM_ROW_BIND)))
		lm_dir_paths_put(tree->paths, ret->node, lm_buf_cstr(&path)); /* most likely walked into next */
	return r;
}

int lm_tree_getattr(
	struct lm_tree *tree, uint64_t node, struct stat *ret, struct lm_object_ref *ret_need, struct lm_err *err)
{
	CLEANUP(place_done) struct place place = {0};
	CLEANUP(lm_row_done) struct lm_row row = {0};
	int r = enter_row(tree, node, &place, &row, ret_need, err);
	if (r != 0)
		return r;
	uint64_t rowid;
	nlink_t links;
	r = find_inode(&place, &row, &rowid, &links, err);
	return r ? r : fill_attr(&row, node, links, ret, err);
}

int lm_tree_readlink(
	struct lm_tree *tree, uint64_t node, struct lm_buf *ret, struct lm_object_ref *ret_need, struct lm_err *err)
{
	CLEANUP(place_done) struct place place = {0};
	CLEANUP(lm_row_done) struct lm_row row = {0};
	int r = enter_row(tree, node, &place, &row, ret_need, err);
	if (r != 0)
		return r;
	if (!row.symlink)
		return lm_err_set(err, -EINVAL, "not a link");
	return expand(row.symlink, ret, err);
}

/* Directories. */

struct listing {
	const struct place *place;
	struct lm_buf path; /* of the directory; has an entry's name behind it for a moment */
	struct lm_path_hash hash;
	lm_tree_dirent_fn *fn;
	void *arg;
	uint64_t cursor;
	int code; /* of the first row that was passed over */
	struct lm_err *err;
};

/* Whether the layers' view has something of its own by this name, which the row of a deletion gives way to. */
static int is_shown(struct listing *l, const char *name, bool *ret, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	const char *deleted;
	size_t len = l->path.len;
	int r = find_name(l->place, &l->path, l->hash, "", name, &row, err);
	*ret = r == 0 && whiteout_kind(l->place, &row, &deleted) == LM_WHITEOUT_NONE;
	l->path.len = len;
	return r == -ENOENT ? 0 : r;
}

/* Turns the row into what the layers' view shows, if anything. */
static int show_row(struct listing *l, struct lm_row *row, bool *ret_shown, struct lm_err *err)
{
	const char *deleted;
	bool own;
	enum lm_whiteout kind = whiteout_kind(l->place, row, &deleted);
	*ret_shown = kind == LM_WHITEOUT_NONE;
	if (kind != LM_WHITEOUT_NAME)
		return 0;
	int r = is_shown(l, deleted, &own, err);
	if (r == 0 && !own) {
		make_whiteout(row, deleted);
		*ret_shown = true;
	}
	return r;
}

static int check_row(struct listing *l, const struct lm_row *row, struct lm_err *err)
{
	size_t len = l->path.len;
	int r = child_path(&l->path, row->name, err);
	if (r == 0 && !lm_path_hash_equal(row->path, lm_path_hash(lm_buf_cstr(&l->path), l->path.len)))
		r = lm_err_set(err, -EPROTO, "row %llu: its path hash is not that of %s",
			(unsigned long long)row->rowid, lm_buf_cstr(&l->path));
	l->path.len = len;
	return r;
}

static int row_entry(struct listing *l, struct lm_row *row, struct lm_entry *ret, bool *ret_shown, struct lm_err *err)
{
	size_t len = l->path.len;
	int r = check_row(l, row, err);
	if (r == 0)
		r = show_row(l, row, ret_shown, err);
	if (r < 0 || !*ret_shown)
		return r;
	r = child_path(&l->path, row->name, err);
	if (r == 0)
		r = make_entry(l->place, row, lm_buf_cstr(&l->path), ret, err);
	l->path.len = len;
	return r;
}

static int list_row(void *arg, struct lm_row *row)
{
	struct listing *l = arg;
	struct lm_entry entry;
	if (row->flags & LM_ROW_HIDDEN)
		return 0;
	bool shown = true;
	int r = row_entry(l, row, &entry, &shown, l->code ? NULL : l->err);
	if (r == 0 && !shown)
		return 0;
	if (r == -EPROTO || r == -ENAMETOOLONG) {
		l->code = l->code ? l->code : -EPROTO;
		return 0;
	}
	return r ? r : l->fn(l->arg, row->name, &entry, row->rowid + CURSOR_ROWS);
}

/* ".." only says a number, for programs that print it: the kernel finds parents by itself. */
static int list_dots(struct listing *l, uint64_t node, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_entry self = {.node = node}, parent = {.node = LM_NODE_ROOT};
	int r = get_row(l->place, &row, err);
	if (r == 0 && !S_ISDIR(row.mode))
		r = lm_err_set(err, -ENOTDIR, "not a directory");
	if (r == 0)
		r = fill_attr(&row, node, row.link_count, &self.attr, err);
	if (r == 0 && l->place->rowid != 1) {
		CLEANUP(lm_row_done) struct lm_row up = {0};
		r = lm_catalog_lookup(l->place->catalog, row.parent, &up, err);
		if (r == 0 && !(up.rowid == 1 && l->place->open->number == lm_tree_root(l->place->tree)))
			parent.node = lm_tree_node(l->place->open->number, up.rowid);
		r = r == -ENOENT ? 0 : r;
	}
	if (r < 0)
		return r;
	parent.attr = (struct stat){.st_ino = parent.node, .st_mode = S_IFDIR};
	if (l->cursor < CURSOR_DOT) {
		r = l->fn(l->arg, ".", &self, CURSOR_DOT);
		if (r == 0)
			l->cursor = CURSOR_DOT;
	}
	if (r == 0) {
		r = l->fn(l->arg, "..", &parent, CURSOR_ROWS);
		if (r == 0)
			l->cursor = CURSOR_ROWS;
	}
	return r;
}

static void listing_done(struct listing **l)
{
	lm_buf_done(&(*l)->path);
}

int lm_tree_readdir(struct lm_tree *tree, uint64_t node, uint64_t cursor, lm_tree_dirent_fn *fn, void *arg,
	struct lm_object_ref *ret_need, struct lm_err *err)
{
	CLEANUP(place_done) struct place place = {0};
	struct listing l = {
		.place = &place, .path = LM_BUF(LM_REPO_PATH_MAX), .fn = fn, .arg = arg, .cursor = cursor, .err = err};
	CLEANUP(listing_done) struct listing *owned = &l;
	int r = enter(tree, node, &place, ret_need, err);
	if (r == 0)
		r = path_of(&place, &owned->path, err);
	if (r != 0)
		return r;
	l.hash = lm_path_hash(lm_buf_cstr(&l.path), l.path.len);
	if (cursor < CURSOR_ROWS)
		r = list_dots(&l, node, err);
	if (r == 0)
		r = lm_catalog_list(place.catalog, l.hash, l.cursor - CURSOR_ROWS, list_row, &l, err);
	return r > 0 ? 0 : r < 0 ? r : l.code;
}

struct root_names {
	struct lm_tree *tree;
	uint32_t from, to;
	bool only_new; /* look at names that `from`, which may be none, does not have */
	lm_tree_name_fn *fn;
	void *arg;
};

/* The node of a name in a root directory; 0 where it is not (or can't be said). */
static uint64_t root_child(struct lm_tree *tree, uint32_t number, const char *name)
{
	struct lm_object_ref need;
	struct lm_entry entry;
	return lm_tree_lookup(tree, lm_tree_node(number, 1), name, &entry, &need, NULL) == 0 ? entry.node : 0;
}

static int compare_name(void *arg, struct lm_row *row)
{
	const struct root_names *names = arg;
	uint64_t before = names->from ? root_child(names->tree, names->from, row->name) : 0;
	bool changed = names->only_new ? before == 0 : before != root_child(names->tree, names->to, row->name);
	if (changed)
		names->fn(names->arg, row->name);
	if (changed && strcmp(row->name, LM_IMAGES_LAYERS) == 0)
		names->fn(names->arg, LM_TREE_LAYERS);
	return 0;
}

static int each_root_name(struct root_names *names, uint32_t number, struct lm_object_ref *need, struct lm_err *err)
{
	CLEANUP(place_done) struct place place = {0};
	int r = enter(names->tree, lm_tree_node(number, 1), &place, need, err);
	return r ? r : lm_catalog_list(place.catalog, lm_path_hash("", 0), 0, compare_name, names, err);
}

int lm_tree_root_changes(struct lm_tree *tree, uint32_t from, uint32_t to, lm_tree_name_fn *fn, void *arg,
	struct lm_object_ref *ret_need, struct lm_err *err)
{
	struct root_names names = {.tree = tree, .from = from, .to = to, .fn = fn, .arg = arg};
	int r = from ? each_root_name(&names, from, ret_need, err) : 0;
	if (r != 0)
		return r;
	names.only_new = true;
	return each_root_name(&names, to, ret_need, err);
}

/* Reading. */

void lm_read_plan_done(struct lm_read_plan *plan)
{
	free(plan->pieces);
	*plan = (struct lm_read_plan){0};
}

static struct lm_object_ref chunk_ref(const struct lm_row *row, const struct lm_chunk *chunk)
{
	return (struct lm_object_ref){
		.hash = chunk->hash,
		.kind = LM_OBJECT_CHUNK,
		.compression = row->compression,
		.size = chunk->size,
	};
}

static int plan_chunks(const struct place *place, const struct lm_row *row, uint64_t offset, uint64_t len,
	struct lm_read_plan *ret, struct lm_err *err)
{
	struct lm_chunk *chunks = NULL;
	size_t count = 0;
	int r = lm_catalog_chunks(place->catalog, row, offset, len, &chunks, &count, err);
	CLEANUP(lm_freep) struct lm_chunk *owned = chunks;
	if (r < 0)
		return r;
	if (count == 0 || count > LM_READ_PIECES_MAX)
		return lm_err_set(err, -EPROTO, "%zu chunks for %llu bytes", count, (unsigned long long)len);
	ret->pieces = calloc(count, sizeof(*ret->pieces));
	if (!ret->pieces)
		return lm_err_oom(err);
	ret->count = count;
	for (size_t i = 0; i < count; i++) {
		const struct lm_chunk *chunk = &owned[i];
		uint64_t begin = LM_MAX(offset, chunk->offset);
		uint64_t end = LM_MIN(offset + len, chunk->offset + chunk->size);
		if (end <= begin)
			return lm_err_set(err, -EPROTO, "chunk at %llu lies outside what was asked",
				(unsigned long long)chunk->offset);
		ret->pieces[i] = (struct lm_piece){
			.ref = chunk_ref(row, chunk), .offset = begin - chunk->offset, .len = (size_t)(end - begin)};
	}
	return 0;
}

static int plan_whole(
	const struct lm_row *row, uint64_t offset, uint64_t len, struct lm_read_plan *ret, struct lm_err *err)
{
	if (!row->hash.set)
		return lm_err_set(err, -EPROTO, "a file without content hash");
	ret->pieces = calloc(1, sizeof(*ret->pieces));
	if (!ret->pieces)
		return lm_err_oom(err);
	ret->count = 1;
	ret->pieces[0] = (struct lm_piece){
		.ref = {.hash = row->hash, .kind = LM_OBJECT_FILE, .compression = row->compression, .size = row->size},
		.offset = offset,
		.len = (size_t)len,
	};
	return 0;
}

int lm_tree_read_plan(struct lm_tree *tree, uint64_t node, uint64_t offset, size_t len, struct lm_read_plan *ret,
	struct lm_object_ref *ret_need, struct lm_err *err)
{
	CLEANUP(place_done) struct place place = {0};
	CLEANUP(lm_row_done) struct lm_row row = {0};
	CLEANUP(lm_read_plan_done) struct lm_read_plan plan = {0};
	int r = enter_row(tree, node, &place, &row, ret_need, err);
	if (r != 0)
		return r;
	if (!S_ISREG(row.mode))
		return lm_err_set(err, S_ISDIR(row.mode) ? -EISDIR : -EINVAL, "not a regular file");
	if (row.flags & LM_ROW_EXTERNAL)
		return lm_err_set(err, -EOPNOTSUPP, "external files (content at another URL) are not supported");
	if (offset < row.size && len > 0) {
		uint64_t wanted = LM_MIN(row.size - offset, (uint64_t)len);
		r = row.flags & LM_ROW_CHUNKED ? plan_chunks(&place, &row, offset, wanted, &plan, err)
					       : plan_whole(&row, offset, wanted, &plan, err);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < plan.count; i++)
		plan.pieces[i].ref.layer = place.open->layer;
	*ret = plan;
	plan = (struct lm_read_plan){0};
	return 0;
}

/* Whether chunk i is the last one of a file inside the file. */
static bool ends_inside(const struct lm_row *row, const struct lm_chunk *chunks, size_t count, size_t i)
{
	return chunks[i].size <= LM_CHUNK_END && chunks[i].offset + chunks[i].size < row->size &&
	       (i + 1 == count || chunks[i + 1].size > LM_CHUNK_END);
}

int lm_tree_chunks(struct lm_tree *tree, uint64_t node, uint64_t from, uint64_t to, struct lm_object_ref *ret,
	size_t max, size_t *ret_count, uint64_t *ret_stop, struct lm_object_ref *ret_need, struct lm_err *err)
{
	CLEANUP(place_done) struct place place = {0};
	CLEANUP(lm_row_done) struct lm_row row = {0};
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	size_t count = 0, found = 0;
	uint64_t stop = 0;
	int r = enter_row(tree, node, &place, &row, ret_need, err);
	to = LM_MIN(to, row.size);
	if (r == 0 && row.flags & LM_ROW_CHUNKED && from < to) /* all of the small ones that begin there */
		r = lm_catalog_chunks(place.catalog, &row, from,
			LM_MIN(to + 2 * (uint64_t)LM_CHUNK_END, row.size) - from, &chunks, &count, err);
	if (r != 0)
		return r;
	for (size_t i = 0; i < count && found < max && stop == 0; i++) {
		bool goes_on = i > 0 && LM_MAX(chunks[i].size, chunks[i - 1].size) <= LM_CHUNK_END;
		if (chunks[i].offset < from)
			continue;
		if (chunks[i].offset >= to && !goes_on)
			break;
		ret[found] = chunk_ref(&row, &chunks[i]);
		ret[found++].layer = place.open->layer;
		stop = ends_inside(&row, chunks, count, i) ? chunks[i].offset + chunks[i].size : 0;
	}
	*ret_count = found;
	*ret_stop = stop;
	return 0;
}

/* Extended attributes. A blob that makes no sense reads as none at all, as with the stock client. */

/* Whether a directory of the layers' view is opaque. */
static int is_opaque(const struct place *place, const struct lm_row *row, bool *ret, struct lm_err *err)
{
	*ret = false;
	if (place->open->view != LM_VIEW_LAYERS || !S_ISDIR(row->mode))
		return 0;
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(LM_REPO_PATH_MAX);
	CLEANUP(lm_row_done) struct lm_row mark = {0};
	const char *deleted;
	int r = path_of(place, &path, err);
	if (r == 0)
		r = find_name(place, &path, row->path, "", LM_WHITEOUT_OPAQUE, &mark, err);
	*ret = r == 0 && whiteout_kind(place, &mark, &deleted) == LM_WHITEOUT_ALL;
	return r == -ENOENT || r == -ENAMETOOLONG ? 0 : r;
}

int lm_tree_getxattr(struct lm_tree *tree, uint64_t node, const char *name, struct lm_buf *ret,
	struct lm_object_ref *ret_need, struct lm_err *err)
{
	if (is_bare(tree, node))
		return -ENODATA; /* what overlayfs hears about nearly every file: not worth a message */
	CLEANUP(place_done) struct place place = {0};
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_xattr attr;
	bool opaque = false;
	int r = enter_row(tree, node, &place, &row, ret_need, err);
	if (r != 0)
		return r;
	if (strcmp(name, LM_OPAQUE_XATTR) == 0)
		r = is_opaque(&place, &row, &opaque, err);
	if (r < 0)
		return r;
	if (opaque)
		attr = (struct lm_xattr){.value = (const uint8_t *)"y", .value_len = 1};
	else if (!row.xattr || lm_xattr_find(row.xattr, row.xattr_len, name, &attr) < 0)
		return -ENODATA;
	return lm_buf_append(ret, attr.value, attr.value_len) < 0 ? lm_err_oom(err) : 0;
}

static int stored_names(const struct lm_row *row, bool trusted, struct lm_buf *ret, struct lm_err *err)
{
	static const char trusted_prefix[] = "trusted.";
	struct lm_xattr attr;
	size_t at = 0, before = ret->len;
	int r;
	while ((r = lm_xattr_next(row->xattr, row->xattr_len, &at, &attr)) > 0) {
		size_t prefix = sizeof(trusted_prefix) - 1;
		if (!trusted && attr.key_len >= prefix && memcmp(attr.key, trusted_prefix, prefix) == 0)
			continue;
		if (lm_buf_append(ret, attr.key, attr.key_len) < 0 || lm_buf_append(ret, "", 1) < 0)
			return lm_err_oom(err);
	}
	if (r < 0)
		ret->len = before;
	return 0;
}

int lm_tree_listxattr(struct lm_tree *tree, uint64_t node, bool trusted, struct lm_buf *ret,
	struct lm_object_ref *ret_need, struct lm_err *err)
{
	if (is_bare(tree, node))
		return 0;
	CLEANUP(place_done) struct place place = {0};
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_xattr attr;
	bool opaque = false;
	int r = enter_row(tree, node, &place, &row, ret_need, err);
	if (r == 0 && row.xattr)
		r = stored_names(&row, trusted, ret, err);
	if (r == 0 && trusted)
		r = is_opaque(&place, &row, &opaque, err);
	if (r != 0 || !opaque)
		return r;
	if (row.xattr && lm_xattr_find(row.xattr, row.xattr_len, LM_OPAQUE_XATTR, &attr) == 0)
		return 0; /* named already */
	return lm_buf_append(ret, LM_OPAQUE_XATTR, sizeof(LM_OPAQUE_XATTR)) < 0 ? lm_err_oom(err) : 0;
}

int lm_tree_is_lean(struct lm_tree *tree, uint64_t node, bool *ret, struct lm_object_ref *ret_need, struct lm_err *err)
{
	CLEANUP(place_done) struct place place = {0};
	struct lm_counters self, below;
	int r = enter(tree, node, &place, ret_need, err);
	if (r == 0)
		r = lm_catalog_counters(place.catalog, &self, &below, err);
	if (r == 0)
		*ret = self.xattr + below.xattr == 0 && place.open->view != LM_VIEW_LAYERS;
	return r;
}

void lm_tree_path(struct lm_tree *tree, uint64_t node, struct lm_buf *ret)
{
	CLEANUP(place_done) struct place place = {0};
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(LM_REPO_PATH_MAX);
	struct lm_object_ref need;
	struct lm_hash hash;
	const char *mountpoint = "";
	if (enter(tree, node, &place, &need, NULL) == 0) {
		if (path_of(&place, &path, NULL) == 0) {
			if (place.open->prefix_len + path.len == 0)
				(void)!lm_buf_str(ret, "/");
			else
				(void)!outer_path(&place, lm_buf_cstr(&path), ret);
			return;
		}
		mountpoint = place.open->mountpoint;
	} else {
		(void)!lm_catalogs_describe(tree->catalogs, (uint32_t)(node >> ROW_BITS), &hash, &mountpoint);
	}
	(void)!lm_buf_printf(ret, "%s/...", mountpoint);
}
