#include "convert/merge.h"

#include "base/str.h"
#include "convert/layer_catalog.h"
#include "repo/xattr.h"

#include <search.h>
#include <string.h>
#include <sys/stat.h>

/* What archives call whiteouts. In layers of our own no file is named like that. */
#define MARK ".wh."
#define MARK_OPAQUE ".wh..wh..opq"
enum { MARKS_MAX = 16 << 20 }; /* bytes of their names in one directory */

/* A layer's share of a directory. */
struct part {
	const struct lm_merge_layer *layer;
	uint32_t place;		    /* of the layer among all */
	struct lm_catalog *catalog; /* that lists it */
	const struct lm_layer_begin *begin;
	unsigned number; /* of the catalog: hard-link groups are each catalog's own */
	bool opened;	 /* for this directory: to be closed after it */
	bool marks;	 /* it has whiteouts as archives have them */
};

struct link { /* a file with several names */
	unsigned catalog;
	uint64_t rowid; /* the lowest of its names */
	uint32_t names; /* in its layer */
	struct lm_layer_inode *inode;
};

struct merging {
	enum lm_merge_kind kind;
	struct lm_layer_tree *tree;
	lm_merge_open_fn *open;
	void *arg;
	struct lm_buf path; /* of the directory, inside the tree */
	struct lm_buf full; /* inside the repository */
	void *links;	    /* tsearch tree of struct link */
	unsigned catalogs;
};

/* One layer's share, while it is listed. */
struct listing {
	struct merging *m;
	struct lm_layer_node *dir;
	struct part *part;
	struct lm_buf deleted; /* names, each with its NUL */
	bool opaque;	       /* by a mark */
	struct lm_err *err;
};

static void listing_done(struct listing *list)
{
	lm_buf_done(&list->deleted);
}

/* --- rows --- */

static bool is_whiteout(uint32_t mode, uint64_t rdev)
{
	return S_ISCHR(mode) && rdev == 0;
}

static bool is_opaque(const struct lm_row *row)
{
	struct lm_xattr xattr;
	return row->xattr && lm_xattr_find(row->xattr, row->xattr_len, LM_OVERLAY_OPAQUE, &xattr) == 0 &&
	       xattr.value_len == 1 && *(const char *)xattr.value == 'y';
}

/* Of the publisher, not of the layer. */
static bool is_marker(const struct listing *list, const struct lm_row *row)
{
	if (strcmp(row->name, LM_LAYER_MARKER) != 0 && strcmp(row->name, ".cvmfsautocatalog") != 0)
		return false;
	const char *mountpoint = lm_catalog_mountpoint(list->part->catalog);
	return !list->dir->parent || strcmp(lm_buf_cstr(&list->m->full), mountpoint) == 0;
}

static int cmp_link(const void *a, const void *b)
{
	const struct link *x = a, *y = b;
	int order = (x->catalog > y->catalog) - (x->catalog < y->catalog);
	return order ? order : (x->rowid > y->rowid) - (x->rowid < y->rowid);
}

/* *ret: the file that the row is a name of, NULL where it is the only one. */
static int find_link(struct listing *list, const struct lm_row *row, struct link **ret)
{
	uint64_t rowid;
	uint32_t members;
	*ret = NULL;
	if (S_ISDIR(row->mode) || row->link_group == 0)
		return 0;
	struct lm_err why = LM_ERR_INIT;
	int r = lm_catalog_group(list->part->catalog, row->link_group, &rowid, &members, &why);
	if (r == -ENOENT || (r == 0 && members < 2))
		return 0;
	if (r < 0)
		return lm_err_set(list->err, r, "%s", lm_err_text(&why));
	CLEANUP(lm_freep) struct link *fresh = malloc(sizeof(*fresh));
	if (!fresh)
		return lm_err_oom(list->err);
	*fresh = (struct link){.catalog = list->part->number, .rowid = rowid, .names = members};
	struct link **at = tsearch(fresh, &list->m->links, cmp_link);
	if (!at)
		return lm_err_oom(list->err);
	*ret = *at;
	if (*at == fresh)
		(void)STEAL(fresh);
	return 0;
}

static int copy_chunks(struct listing *list, const struct lm_row *row, struct lm_layer_inode *inode)
{
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	size_t count = 0;
	if (!(row->flags & LM_ROW_CHUNKED))
		return 0;
	int r = lm_catalog_chunks(list->part->catalog, row, 0, UINT64_MAX, &chunks, &count, list->err);
	for (size_t i = 0; i < count && r == 0; i++) {
		struct lm_chunk *chunk;
		r = lm_layer_tree_add_chunk(list->m->tree, inode, chunks[i].offset, chunks[i].size, &chunk, list->err);
		if (r == 0)
			chunk->hash = chunks[i].hash;
	}
	return r;
}

static int copy_row(struct listing *list, struct lm_row *row, const struct link *link, struct lm_layer_inode *inode)
{
	if (row->flags & LM_ROW_EXTERNAL)
		return lm_err_set(list->err, -ENOTSUP, "%s: its content is outside of the repository", row->name);
	if (row->symlink) {
		char *target = lm_layer_target(row->symlink);
		if (!target)
			return lm_err_oom(list->err);
		free(row->symlink);
		row->symlink = target;
	}
	int r = lm_layer_tree_set(list->m->tree, inode, row, list->err);
	if (list->m->kind == LM_MERGE_CONTAINER) {
		inode->layer = list->part->place;
		inode->begin = list->part->begin;
		inode->links = link ? link->names : 0;
	} else {
		inode->mode |= S_ISDIR(row->mode) ? 0700 : S_ISREG(row->mode) ? 0600 : 0;
	}
	return r < 0 ? r : copy_chunks(list, row, inode);
}

/* A container sees such a file, and what it stands for is not done. */
static int refuse_stock(struct listing *list, const char *name)
{
	return lm_err_set(list->err, -ENOTSUP, "%s: stock tools wrote %s", name, list->part->layer->root);
}

static int take_mark(struct listing *list, const char *name)
{
	if (strcmp(name, MARK_OPAQUE) == 0) {
		list->opaque = true;
		return 0;
	}
	list->part->marks = true;
	const char *deleted = name + strlen(MARK);
	if (*deleted == '\0' || lm_str_starts(deleted, MARK))
		return 0; /* of old archives */
	int r = lm_buf_append(&list->deleted, deleted, strlen(deleted) + 1);
	return r < 0 ? lm_err_sys(list->err, r, "whiteouts") : 0;
}

/* The uppermost layer that has a name says what it is. Whiteouts are kept till all layers are listed. */
static int take_row(void *arg, struct lm_row *row)
{
	struct listing *list = arg;
	struct link *link;
	if (row->flags & LM_ROW_HIDDEN)
		return 0;
	bool marker = is_marker(list, row), mark = lm_str_starts(row->name, MARK) && !S_ISDIR(row->mode);
	if ((marker || mark) && list->m->kind == LM_MERGE_CONTAINER)
		return refuse_stock(list, row->name);
	if (marker || mark)
		return marker ? 0 : take_mark(list, row->name);
	if (lm_layer_tree_child(list->m->tree, list->dir, row->name))
		return 0;
	int r = find_link(list, row, &link);
	if (r < 0)
		return r;
	struct lm_layer_inode *inode = link ? link->inode : NULL;
	bool known = inode != NULL;
	r = lm_layer_tree_add(list->m->tree, list->dir, row->name, row->mode, &inode, list->err);
	if (r == 0 && link)
		link->inode = inode;
	return r < 0 || known ? r : copy_row(list, row, link, inode);
}

/* --- directories --- */

/* The directory's path, or its child's, as the layer has it. */
static int full_path(struct merging *m, const struct part *part, const char *prefix, const char *name,
	struct lm_path_hash *ret, struct lm_err *err)
{
	lm_buf_clear(&m->full);
	int r = lm_buf_printf(&m->full, "%s%s%s%s%s", part->layer->root, lm_buf_cstr(&m->path), name ? "/" : "", prefix,
		name ? name : "");
	if (r < 0)
		return lm_err_set(err, r == -EMSGSIZE ? -EPROTO : r, "path of over %d bytes", LM_REPO_PATH_MAX);
	*ret = lm_path_hash(lm_buf_cstr(&m->full), m->full.len);
	return 0;
}

static int apply_marks(struct listing *list)
{
	const char *at = lm_buf_cstr(&list->deleted), *end = at + list->deleted.len;
	int r = 0;
	for (; at < end && r == 0; at += strlen(at) + 1) {
		struct lm_layer_inode *whiteout = NULL;
		if (!lm_layer_tree_child(list->m->tree, list->dir, at))
			r = lm_layer_tree_add(list->m->tree, list->dir, at, S_IFCHR, &whiteout, list->err);
	}
	return r;
}

/* *ret_last: nothing of the layers below counts. */
static int list_part(
	struct merging *m, struct lm_layer_node *dir, struct part *part, bool *ret_last, struct lm_err *err)
{
	CLEANUP(listing_done)
	struct listing list = {.m = m, .dir = dir, .part = part, .deleted = LM_BUF(MARKS_MAX), .err = err};
	struct lm_path_hash path;
	int r = full_path(m, part, "", NULL, &path, err);
	if (r == 0)
		r = lm_catalog_list(part->catalog, path, 0, take_row, &list, err);
	if (r == 0)
		r = apply_marks(&list);
	*ret_last = list.opaque;
	return r;
}

static void drop_whiteouts(struct lm_layer_tree *tree, struct lm_layer_node *dir)
{
	for (struct lm_layer_node *child = dir->children, *next; child; child = next) {
		next = child->next;
		if (is_whiteout(child->inode->mode, child->inode->rdev))
			lm_layer_tree_remove(tree, child);
	}
}

static int open_nested(struct merging *m, struct part *part, struct lm_err *err)
{
	struct lm_nested nested = {0};
	struct lm_catalog *catalog;
	const struct lm_layer_begin *begin;
	int r = lm_catalog_nested(part->catalog, lm_buf_cstr(&m->full), &nested, err);
	if (r == 0)
		r = lm_layer_tree_begin(m->tree, part->begin, m->full.len, &begin, err);
	if (r == 0)
		r = m->open(m->arg, &nested, &catalog, err);
	free(nested.path);
	if (r < 0)
		return r == -ENOENT ? -EPROTO : r;
	part->catalog = catalog;
	part->begin = begin;
	part->number = ++m->catalogs;
	part->opened = true;
	return 0;
}

/* 1: a mark says that name in the layers below is deleted. */
static int is_deleted(struct merging *m, const struct part *part, const char *name, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_err why = LM_ERR_INIT;
	struct lm_path_hash path;
	if (!part->marks)
		return 0;
	int r = full_path(m, part, MARK, name, &path, err);
	if (r < 0)
		return r;
	r = lm_catalog_lookup(part->catalog, path, &row, &why);
	if (r == -ENOENT)
		return 0;
	return r < 0 ? lm_err_set(err, r, "%s", lm_err_text(&why)) : 1;
}

/* The share that a layer has in a directory below. 1: it has one, in *ret; 0: none. *ret_last: those below it have
 * none. */
static int child_part(struct merging *m, const struct part *part, const char *name, struct part *ret, bool *ret_last,
	struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_err why = LM_ERR_INIT;
	struct lm_path_hash path;
	int deleted = is_deleted(m, part, name, err);
	int r = deleted < 0 ? deleted : full_path(m, part, "", name, &path, err);
	if (r < 0)
		return r;
	*ret_last = deleted;
	r = lm_catalog_lookup(part->catalog, path, &row, &why);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	*ret_last |= !S_ISDIR(row.mode) || is_opaque(&row);
	if (!S_ISDIR(row.mode))
		return 0;
	*ret = *part;
	ret->opened = ret->marks = false;
	r = row.flags & LM_ROW_MOUNTPOINT ? open_nested(m, ret, err) : 0;
	return r < 0 ? r : 1;
}

static int merge_directory(
	struct merging *m, struct lm_layer_node *dir, struct part *parts, size_t count, struct lm_err *err);

static int merge_child(
	struct merging *m, struct lm_layer_node *child, const struct part *parts, size_t count, struct lm_err *err)
{
	CLEANUP(lm_freep) struct part *own = calloc(count, sizeof(*own));
	size_t own_count = 0, path_len = m->path.len;
	bool last = false;
	int r = own ? 0 : lm_err_oom(err);
	for (size_t i = 0; i < count && r == 0 && !last; i++) {
		r = child_part(m, &parts[i], child->name, &own[own_count], &last, err);
		if (r > 0) {
			own_count++;
			r = 0;
		}
	}
	if (r == 0 && lm_buf_printf(&m->path, "/%s", child->name) < 0)
		r = lm_err_set(err, -EPROTO, "path of over %d bytes", LM_LAYER_PATH_MAX);
	if (m->kind == LM_MERGE_CONTAINER && own_count > 1)
		child->inode->links = 1;
	if (r == 0)
		r = merge_directory(m, child, own, own_count, err);
	for (size_t i = 0; i < own_count; i++)
		if (own[i].opened)
			lm_catalog_close(own[i].catalog);
	if (m->path.data) {
		m->path.len = path_len;
		m->path.data[path_len] = '\0';
	}
	return r;
}

/* As deep as paths are long: LM_LAYER_PATH_MAX / 2 frames. */
static int merge_directory(
	struct merging *m, struct lm_layer_node *dir, struct part *parts, size_t count, struct lm_err *err)
{
	bool last = false;
	int r = 0;
	for (size_t i = 0; i < count && r == 0; i++) {
		r = list_part(m, dir, &parts[i], &last, err);
		if (last)
			count = i + 1;
	}
	drop_whiteouts(m->tree, dir);
	for (struct lm_layer_node *child = dir->children; child && r == 0; child = child->next)
		if (S_ISDIR(child->inode->mode))
			r = merge_child(m, child, parts, count, err);
	return r;
}

/* The attributes of the root are those of the uppermost layer's. */
static int merge_root(struct merging *m, struct part *parts, size_t count, struct lm_err *err)
{
	struct lm_layer_node *root = lm_layer_tree_root(m->tree);
	for (size_t i = 0; i < count; i++) {
		CLEANUP(lm_row_done) struct lm_row row = {0};
		struct lm_path_hash path = lm_path_hash(parts[i].layer->root, strlen(parts[i].layer->root));
		int r = lm_catalog_lookup(parts[i].catalog, path, &row, err);
		if (r == 0 && !S_ISDIR(row.mode))
			r = lm_err_set(err, -EPROTO, "%s is no directory", parts[i].layer->root);
		if (r == 0 && i == 0)
			r = lm_layer_tree_set(m->tree, root->inode, &row, err);
		if (r < 0)
			return r == -ENOENT ? -EPROTO : r;
		if (is_opaque(&row))
			count = i + 1;
	}
	if (m->kind == LM_MERGE_FLAT)
		root->inode->mode |= 0700;
	else if (count > 1)
		root->inode->links = 1;
	return merge_directory(m, root, parts, count, err);
}

static void merging_done(struct merging *m)
{
	lm_layer_tree_free(m->tree);
	lm_buf_done(&m->path);
	lm_buf_done(&m->full);
	tdestroy(m->links, free);
}

int lm_merge(const struct lm_merge_layer *layers, size_t count, enum lm_merge_kind kind, lm_merge_open_fn *open,
	void *arg, struct lm_layer_tree **ret, struct lm_err *err)
{
	CLEANUP(merging_done)
	struct merging m = {
		.kind = kind,
		.open = open,
		.arg = arg,
		.path = LM_BUF(LM_LAYER_PATH_MAX),
		.full = LM_BUF(LM_REPO_PATH_MAX),
	};
	CLEANUP(lm_freep) struct part *parts = calloc(count + 1, sizeof(*parts));
	int r = parts ? lm_layer_tree_new(NULL, &m.tree, err) : lm_err_oom(err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count && r == 0; i++) {
		parts[i] = (struct part){.layer = &layers[i],
			.place = (uint32_t)i,
			.catalog = layers[i].catalog,
			.number = ++m.catalogs};
		r = lm_layer_tree_begin(
			m.tree, NULL, strlen(lm_catalog_mountpoint(layers[i].catalog)), &parts[i].begin, err);
	}
	if (r == 0)
		r = merge_root(&m, parts, count, err);
	if (r < 0)
		return lm_err_prefix(err, r, "in %s", m.path.len ? lm_buf_cstr(&m.path) : "/");
	*ret = STEAL(m.tree);
	return 0;
}
