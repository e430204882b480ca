/*
 * A layer's tree against its published catalogs, catalog by catalog, one of them open at a time.
 */
#include "base/str.h"
#include "convert/layer_catalog.h"
#include "convert/verify_internal.h"
#include "repo/catalog_schema.h" /* lm_grown() */
#include "repo/symlink.h"
#include "repo/xattr.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

struct mount { /* a nested catalog that is still to be compared */
	struct lm_published_top top;
	struct lm_layer_node *dir; /* where it begins */
};

struct group {		  /* what the published catalogs make of a hard-link group of the layer */
	unsigned catalog; /* in the order of comparing */
	uint64_t rowid;	  /* of its lowest member */
};

struct walk {
	struct lm_comparison *comparison;
	struct lm_layer_tree *tree;
	const char *layer_path; /* repository path of the layer's root */
	struct mount *mounts;
	size_t mount_count, mount_cap;
	struct lm_layer_node **dirs; /* of the open catalog, still to be compared */
	size_t dir_count, dir_cap;
	struct group *groups; /* by the inode's group - 1 */
	size_t group_count, group_cap;
	struct lm_catalog *catalog;
	unsigned catalog_number;
	struct lm_layer_node *dir; /* whose rows are being compared */
	struct lm_buf path;	   /* of what is being compared, in the repository */
	struct lm_err *err;
};

static void walk_done(struct walk *w)
{
	for (size_t i = 0; i < w->mount_count; i++)
		lm_published_top_done(&w->mounts[i].top);
	free(w->mounts);
	free(w->dirs);
	free(w->groups);
	lm_buf_done(&w->path);
}

#define differs(w, node, ...) lm_verify_note((w)->comparison, LM_VERIFY_DIFFERENCE, NULL, node, __VA_ARGS__)
#define lost(w, node, ...) lm_verify_note((w)->comparison, LM_VERIFY_LOSS, NULL, node, __VA_ARGS__)

/* --- rows --- */

static const char *type_name(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "a file";
	case S_IFDIR:
		return "a directory";
	case S_IFLNK:
		return "a symbolic link";
	case S_IFCHR:
		return "a character device";
	case S_IFBLK:
		return "a block device";
	case S_IFIFO:
		return "a fifo";
	default:
		return "of an unknown type";
	}
}

/* Directories for which the layer has no entry have what their place gives them. */
static const char *whose(const struct lm_layer_node *node)
{
	return node->listed || !node->parent ? "" : " (the layer has no entry for it)";
}

static void compare_attributes(struct walk *w, const struct lm_layer_node *node, const struct lm_row *row)
{
	const struct lm_layer_inode *inode = node->inode;
	if ((inode->mode & 07777) != (row->mode & 07777))
		differs(w, node, "mode %04o, published %04o%s", inode->mode & 07777, row->mode & 07777, whose(node));
	if (inode->uid != row->uid || inode->gid != row->gid)
		differs(w, node, "owner %u:%u, published %u:%u%s", inode->uid, inode->gid, row->uid, row->gid,
			whose(node));
	if (inode->mtime_s != row->mtime_s || inode->mtime_ns != row->mtime_ns)
		differs(w, node, "time %" PRId64 ".%09u, published %" PRId64 ".%09u%s", inode->mtime_s, inode->mtime_ns,
			row->mtime_s, row->mtime_ns, whose(node));
	if ((S_ISCHR(inode->mode) || S_ISBLK(inode->mode)) && inode->rdev != row->rdev)
		differs(w, node, "device %u:%u, published %u:%u", major(inode->rdev), minor(inode->rdev),
			major(row->rdev), minor(row->rdev));
}

static void compare_xattr(struct walk *w, const struct lm_layer_node *node, const struct lm_row *row,
	const struct lm_layer_xattr *x, bool fits)
{
	struct lm_xattr published;
	int r = row->xattr ? lm_xattr_find(row->xattr, row->xattr_len, x->key, &published) : -ENODATA;
	if (r == -ENODATA && !fits)
		lost(w, node, "attribute %s, a value of %zu bytes: the format does not hold it", x->key, x->value_len);
	else if (r == -ENODATA)
		differs(w, node, "attribute %s is not published", x->key);
	else if (r == 0 &&
		 (published.value_len != x->value_len || memcmp(published.value, x->value, x->value_len) != 0))
		differs(w, node, "attribute %s has another value", x->key);
}

static bool has_xattr(const struct lm_layer_inode *inode, const struct lm_xattr *xattr)
{
	const struct lm_layer_xattr *x = inode->xattrs;
	while (x && (strlen(x->key) != xattr->key_len || memcmp(x->key, xattr->key, xattr->key_len) != 0))
		x = x->next;
	return x;
}

static void compare_xattrs(struct walk *w, const struct lm_layer_node *node, const struct lm_row *row)
{
	size_t kept = 0;
	for (const struct lm_layer_xattr *x = node->inode->xattrs; x; x = x->next) {
		bool fits = x->value_len <= LM_XATTR_VALUE_MAX && kept < LM_XATTR_COUNT_MAX;
		kept += fits;
		compare_xattr(w, node, row, x, fits);
	}
	struct lm_xattr published;
	int r = 0;
	for (size_t at = 0; row->xattr && (r = lm_xattr_next(row->xattr, row->xattr_len, &at, &published)) > 0;)
		if (!has_xattr(node->inode, &published))
			differs(w, node, "attribute %.*s is published, the layer has none", (int)published.key_len,
				published.key);
	if (r < 0)
		differs(w, node, "its published attributes are malformed");
}

/* As readers see it. Some targets can't be written so that they are seen as they are (layer_catalog.h). */
static void compare_target(struct walk *w, const struct lm_layer_node *node, const struct lm_row *row)
{
	CLEANUP(lm_buf_done) struct lm_buf seen = LM_BUF(LM_SYMLINK_MAX);
	const char *target = node->inode->target, *raw = row->symlink ? row->symlink : "";
	int r = lm_symlink_expand(raw, &seen);
	if (r == 0 && strcmp(lm_buf_cstr(&seen), target) == 0)
		return;
	if (strcmp(raw, target) == 0)
		lost(w, node, "target is shown with its $(...) replaced");
	else
		differs(w, node, "target %.200s, published %.200s", target, r < 0 ? raw : lm_buf_cstr(&seen));
}

/* --- hard links --- */

/* The group that the row is a member of. members 0: it stands alone. */
static int published_group(
	struct walk *w, const struct lm_row *row, struct group *ret, uint32_t *ret_members, struct lm_err *err)
{
	struct lm_err failure = LM_ERR_INIT;
	ret->catalog = w->catalog_number;
	*ret_members = 0;
	if (row->link_group == 0)
		return 0;
	int r = lm_catalog_group(w->catalog, row->link_group, &ret->rowid, ret_members, &failure);
	return r < 0 && r != -ENOENT ? lm_err_set(err, r, "%s", lm_err_text(&failure)) : 0;
}

/* *ret_first: this is the first of the inode's names, by which its content is compared. */
static int compare_links(
	struct walk *w, const struct lm_layer_node *node, const struct lm_row *row, bool *ret_first, struct lm_err *err)
{
	struct lm_layer_inode *inode = node->inode;
	struct group group = {0};
	uint32_t members;
	int r = published_group(w, row, &group, &members, err);
	if (r < 0)
		return r;
	*ret_first = inode->group == 0;
	if (inode->names == 1 || members != inode->names) {
		if (members > 1 || inode->names > 1)
			differs(w, node, "%u names of one file, published with %u", inode->names, LM_MAX(members, 1U));
		return 0;
	}
	if (!*ret_first) {
		const struct group *known = &w->groups[inode->group - 1];
		if (known->catalog != group.catalog || known->rowid != group.rowid)
			differs(w, node, "published as a name of another file");
		return 0;
	}
	struct group *grown = lm_grown(w->groups, w->group_count, &w->group_cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	w->groups = grown;
	w->groups[w->group_count++] = group;
	inode->group = (uint32_t)w->group_count;
	return 0;
}

/* --- contents --- */

static bool is_whole(const struct lm_chunk *chunks, size_t count, uint64_t size)
{
	uint64_t at = 0;
	for (size_t i = 0; i < count; i++) {
		if (chunks[i].offset != at || chunks[i].size > size - at)
			return false;
		at += chunks[i].size;
	}
	return at == size;
}

static int compare_content(
	struct walk *w, const struct lm_layer_node *node, const struct lm_row *row, struct lm_err *err)
{
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	const struct lm_chunk whole = {.size = row->size, .hash = row->hash};
	struct lm_err failure = LM_ERR_INIT;
	size_t count = 0;
	if (row->size != node->inode->size) {
		differs(w, node, "%" PRIu64 " bytes, published %" PRIu64, node->inode->size, row->size);
		return 0;
	}
	if (row->flags & LM_ROW_EXTERNAL) {
		differs(w, node, "its content is published outside of the repository");
		return 0;
	}
	if (!(row->flags & LM_ROW_CHUNKED))
		return lm_verify_content(w->comparison, node, row, &whole, 1, err);
	int r = lm_catalog_chunks(w->catalog, row, 0, UINT64_MAX, &chunks, &count, &failure);
	if (r == -EPROTO || (r == 0 && !is_whole(chunks, count, row->size))) {
		differs(w, node, "its published chunks do not make up the file");
		return 0;
	}
	if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&failure));
	return lm_verify_content(w->comparison, node, row, chunks, count, err);
}

static int compare_row(struct walk *w, const struct lm_layer_node *node, const struct lm_row *row, struct lm_err *err)
{
	bool first = true;
	if ((node->inode->mode & S_IFMT) != (row->mode & S_IFMT)) {
		differs(w, node, "%s, published as %s", type_name(node->inode->mode), type_name(row->mode));
		return 0;
	}
	compare_attributes(w, node, row);
	compare_xattrs(w, node, row);
	if (S_ISDIR(row->mode))
		return 0;
	if (S_ISLNK(row->mode))
		compare_target(w, node, row);
	int r = compare_links(w, node, row, &first, err);
	return r == 0 && first && S_ISREG(row->mode) ? compare_content(w, node, row, err) : r;
}

/* --- directories and catalogs --- */

static int push_dir(struct walk *w, struct lm_layer_node *node, struct lm_err *err)
{
	struct lm_layer_node **grown = lm_grown(w->dirs, w->dir_count, &w->dir_cap, sizeof(struct lm_layer_node *));
	if (!grown)
		return lm_err_oom(err);
	w->dirs = grown;
	w->dirs[w->dir_count++] = node;
	return 0;
}

/* Takes over top. */
static int push_mount(struct walk *w, struct lm_published_top *top, struct lm_layer_node *node, struct lm_err *err)
{
	struct mount *grown = lm_grown(w->mounts, w->mount_count, &w->mount_cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	w->mounts = grown;
	w->mounts[w->mount_count++] = (struct mount){*top, node};
	*top = (struct lm_published_top){0};
	return 0;
}

/* w->path: of the node. */
static int set_path(struct walk *w, const struct lm_layer_node *node, struct lm_err *err)
{
	lm_buf_clear(&w->path);
	int r = lm_buf_str(&w->path, w->layer_path);
	if (r == 0)
		r = lm_verify_path(node, &w->path);
	return r < 0 ? lm_err_set(err, r, "a path that is too long") : 0;
}

/* The directory's attributes are those that the nested catalog has. */
static int enter_mount(struct walk *w, struct lm_layer_node *node, struct lm_err *err)
{
	struct lm_nested nested = {0};
	struct lm_err failure = LM_ERR_INIT;
	int r = set_path(w, node, err);
	if (r < 0)
		return r;
	r = lm_catalog_nested(w->catalog, lm_buf_cstr(&w->path), &nested, &failure);
	if (r == -ENOENT)
		differs(w, node, "the published catalog that begins here is not named");
	if (r < 0)
		return r == -ENOENT ? 0 : lm_err_set(err, r, "%s", lm_err_text(&failure));
	CLEANUP(lm_published_top_done) struct lm_published_top top = {nested.path, nested.hash};
	return push_mount(w, &top, node, err);
}

static int compare_child(struct walk *w, struct lm_row *row, struct lm_err *err)
{
	struct lm_layer_node *node = lm_layer_tree_child(w->tree, w->dir, row->name);
	if (!node || node->seen) {
		differs(w, w->dir, "%s is published %s", row->name, node ? "twice" : "and not in the layer");
		return 0;
	}
	node->seen = true;
	if (row->flags & LM_ROW_MOUNTPOINT && S_ISDIR(node->inode->mode))
		return enter_mount(w, node, err);
	int r = compare_row(w, node, row, err);
	return r == 0 && S_ISDIR(row->mode) && S_ISDIR(node->inode->mode) ? push_dir(w, node, err) : r;
}

static int on_row(void *arg, struct lm_row *row)
{
	struct walk *w = arg;
	return row->flags & LM_ROW_HIDDEN ? 0 : compare_child(w, row, w->err);
}

static int compare_dir(struct walk *w, struct lm_layer_node *dir, struct lm_err *err)
{
	struct lm_err failure = LM_ERR_INIT;
	int r = set_path(w, dir, err);
	if (r < 0)
		return r;
	w->dir = dir;
	w->err = &failure;
	r = lm_catalog_list(w->catalog, lm_path_hash(lm_buf_cstr(&w->path), w->path.len), 0, on_row, w, &failure);
	if (r == -EPROTO)
		differs(w, dir, "published with rows that make no sense: %s", lm_err_text(&failure));
	else if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&failure));
	uint64_t entries = 0;
	for (const struct lm_layer_node *node = dir->children; node; node = node->next, entries++)
		if (!node->seen)
			differs(w, node, "is not published");
	LM_LOCKED(&w->comparison->lock);
	w->comparison->part->entries += entries;
	return 0;
}

/* The row at which the catalog's part of the layer begins. */
static int compare_first(struct walk *w, struct lm_layer_node *dir, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_err failure = LM_ERR_INIT;
	int r = set_path(w, dir, err);
	if (r < 0)
		return r;
	r = lm_catalog_lookup(w->catalog, lm_path_hash(lm_buf_cstr(&w->path), w->path.len), &row, &failure);
	if (r == -ENOENT || r == -EPROTO)
		differs(w, dir, "is not published: %s", lm_err_text(&failure));
	if (r < 0)
		return r == -ENOENT || r == -EPROTO ? 0 : lm_err_set(err, r, "%s", lm_err_text(&failure));
	r = compare_row(w, dir, &row, err);
	return r == 0 && S_ISDIR(row.mode) ? push_dir(w, dir, err) : r;
}

/* Catalogs that are missing or damaged are differences as any. */
static int compare_catalog(struct walk *w, const struct mount *mount, struct lm_err *err)
{
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	struct lm_err failure = LM_ERR_INIT;
	int r = lm_repo_source_catalog(w->comparison->repo, &mount->top.hash, mount->top.path, &catalog, &failure);
	if (r == -ENOMEM)
		return lm_err_oom(err);
	if (r < 0) {
		differs(w, mount->dir, "%s", lm_err_text(&failure));
		return 0;
	}
	w->catalog = catalog;
	w->catalog_number++;
	r = compare_first(w, mount->dir, err);
	if (r == 0 && mount->dir == lm_layer_tree_root(w->tree))
		r = lm_verify_opaque(w->comparison, catalog, w->tree, mount->top.path, err);
	while (r == 0 && w->dir_count > 0)
		r = compare_dir(w, w->dirs[--w->dir_count], err);
	w->dir_count = 0;
	return r;
}

static int walk_tree(struct walk *w, const struct lm_published_top *top, struct lm_err *err)
{
	CLEANUP(lm_published_top_done) struct lm_published_top first = {strdup(top->path), top->hash};
	int r = first.path ? push_mount(w, &first, lm_layer_tree_root(w->tree), err) : lm_err_oom(err);
	while (r == 0 && w->mount_count > 0) {
		struct mount mount = w->mounts[--w->mount_count];
		r = compare_catalog(w, &mount, err);
		lm_published_top_done(&mount.top);
	}
	return r;
}

int lm_verify_tree(
	struct lm_comparison *c, struct lm_layer_tree *tree, const struct lm_published_top *top, struct lm_err *err)
{
	CLEANUP(lm_freep) char *layer_path = lm_str_printf("%s/" LM_IMAGES_LAYER_ROOT, top->path);
	CLEANUP(walk_done)
	struct walk w = {
		.comparison = c,
		.tree = tree,
		.layer_path = layer_path,
		.path = LM_BUF(LM_REPO_PATH_MAX),
	};
	if (!layer_path)
		return lm_err_oom(err);
	int r = walk_tree(&w, top, err);
	int waited = lm_verify_contents_wait(c, r < 0 ? NULL : err);
	return r < 0 ? r : waited;
}
