#include "convert/layer_catalog.h"

#include "base/str.h"
#include "convert/layer_opaque.h"
#include "repo/xattr.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LITERAL_DOLLAR "$(LAMELLA_NEVER_SET:-$)"

struct writing {
	struct lm_catalog_writer *writer;
	const struct lm_layer_loss *loss;
	struct lm_buf path; /* of the directory being listed, then of the row */
	size_t layer_at;    /* where in it the path inside the layer begins */
	struct lm_buf xattr, target;
	struct lm_chunk *chunks;
	size_t chunk_cap;
	const struct lm_layer_content *content;
	const struct lm_layer_store *store;
	struct lm_layer_split split;
	struct lm_finished *stored; /* by number of part */
	char *nested_path;	    /* for the database of a part inside the layer */
};

static void writing_done(struct writing *w)
{
	lm_catalog_writer_free(w->writer);
	lm_buf_done(&w->path);
	lm_buf_done(&w->xattr);
	lm_buf_done(&w->target);
	free(w->chunks);
	for (size_t i = 0; w->stored && i < w->split.count; i++)
		lm_finished_done(&w->stored[i]);
	free(w->stored);
	lm_layer_split_done(&w->split);
	if (w->nested_path)
		(void)unlink(w->nested_path);
	free(w->nested_path);
}

static void report_loss(struct writing *w, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void report_loss(struct writing *w, const char *fmt, ...)
{
	char what[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(what, sizeof(what), fmt, args);
	va_end(args);
	w->loss->fn(w->loss->arg, lm_buf_cstr(&w->path) + w->layer_at, what);
}

static int encode_xattrs(struct writing *w, const struct lm_layer_inode *inode, struct lm_row *row, struct lm_err *err)
{
	struct lm_xattr attrs[LM_XATTR_COUNT_MAX];
	size_t count = 0;
	for (const struct lm_layer_xattr *x = inode->xattrs; x; x = x->next) {
		if (x->value_len > LM_XATTR_VALUE_MAX)
			report_loss(w, "attribute %s left out: its value has %zu bytes, the format holds %d", x->key,
				x->value_len, LM_XATTR_VALUE_MAX);
		else if (count == LM_XATTR_COUNT_MAX)
			report_loss(w, "attribute %s left out: the format holds %d", x->key, LM_XATTR_COUNT_MAX);
		else
			attrs[count++] = (struct lm_xattr){x->key, strlen(x->key), x->value, x->value_len};
	}
	if (count == 0)
		return 0;
	lm_buf_clear(&w->xattr);
	int r = lm_xattr_encode(attrs, count, &w->xattr, err);
	row->xattr = w->xattr.data;
	row->xattr_len = w->xattr.len;
	return r;
}

/* The chunks of a file in one array, which the writer keeps. */
static int gather_chunks(struct writing *w, const struct lm_layer_inode *inode, size_t *ret_count, struct lm_err *err)
{
	size_t count = 0;
	for (const struct lm_layer_chunks *c = inode->chunks; c; c = c->next) {
		if (count + c->count > w->chunk_cap) {
			size_t cap = LM_MAX(w->chunk_cap * 2, (size_t)256);
			struct lm_chunk *chunks = reallocarray(w->chunks, cap, sizeof(*chunks));
			if (!chunks)
				return lm_err_oom(err);
			w->chunks = chunks;
			w->chunk_cap = cap;
		}
		memcpy(w->chunks + count, c->chunks, c->count * sizeof(*c->chunks));
		count += c->count;
	}
	*ret_count = count;
	return 0;
}

/*
 * Clients put an environment variable's value in the place of each $(NAME) in a link's target. The format has no way to
 * quote it, but a default for what is not set: $(NAME:-text). So "$(" is written as such a "$" and a "(".
 */
static int encode_target(struct writing *w, const char *target, struct lm_row *row, struct lm_err *err)
{
	lm_buf_clear(&w->target);
	const char *at = target;
	int r = 0;
	for (const char *dollar; r == 0 && (dollar = strstr(at, "$(")); at = dollar + 1) {
		r = lm_buf_append(&w->target, at, (size_t)(dollar - at));
		if (r == 0)
			r = lm_buf_str(&w->target, strchr(dollar, ')') ? LITERAL_DOLLAR : "$");
	}
	if (r == 0)
		r = lm_buf_str(&w->target, at);
	if (r == -EMSGSIZE) {
		report_loss(w, "target is shown with its $(...) replaced: written otherwise it is too long");
		lm_buf_clear(&w->target);
		r = lm_buf_str(&w->target, target);
	}
	row->symlink = (char *)lm_buf_cstr(&w->target);
	row->size = w->target.len;
	return r < 0 ? lm_err_oom(err) : 0;
}

char *lm_layer_target(const char *raw)
{
	char *target = strdup(raw);
	for (char *at = target; at && (at = strstr(at, LITERAL_DOLLAR)); at++) {
		const char *rest = at + strlen(LITERAL_DOLLAR);
		*at = '$';
		memmove(at + 1, rest, strlen(rest) + 1);
	}
	return target;
}

/* The row of an inode at w->path; what it points to is the writing's. */
static int make_row(struct writing *w, const struct lm_layer_inode *inode, struct lm_row *ret, size_t *ret_chunks,
	struct lm_err *err)
{
	struct lm_row row = {
		.mode = inode->mode,
		.uid = inode->uid,
		.gid = inode->gid,
		.mtime_s = inode->mtime_s,
		.mtime_ns = inode->mtime_ns,
		.link_count = 1,
	};
	size_t chunk_count = 0;
	int r = encode_xattrs(w, inode, &row, err);
	if (r == 0)
		r = gather_chunks(w, inode, &chunk_count, err);
	if (r < 0)
		return r;
	if (S_ISDIR(inode->mode)) {
		row.size = 4096;
	} else if (S_ISREG(inode->mode)) {
		row.size = inode->size;
		row.hash = inode->hash;
		row.algo = chunk_count > 0 ? w->chunks[0].hash.algo : inode->hash.algo;
		row.compression = inode->compression;
	} else if (S_ISLNK(inode->mode)) {
		r = encode_target(w, inode->target, &row, err);
		if (r < 0)
			return r;
	} else {
		row.rdev = inode->rdev;
	}
	if (!S_ISDIR(inode->mode) && inode->names > 1) {
		row.link_group = inode->group;
		row.link_count = inode->names;
	}
	*ret = row;
	*ret_chunks = chunk_count;
	return 0;
}

static int write_inode(struct writing *w, const struct lm_layer_inode *inode, struct lm_err *err)
{
	struct lm_row row;
	size_t chunk_count;
	int r = make_row(w, inode, &row, &chunk_count, err);
	return r < 0 ? r : lm_catalog_insert(w->writer, lm_buf_cstr(&w->path), &row, w->chunks, chunk_count, err);
}

/* Adds "/a/b" of a node to w->path. */
static int append_node_path(struct writing *w, const struct lm_layer_node *node, struct lm_err *err)
{
	char text[LM_REPO_PATH_MAX];
	size_t at = sizeof(text);
	for (; node->parent; node = node->parent) {
		size_t len = strlen(node->name);
		if (at < len + 1)
			return lm_err_set(err, -EPROTO, "path of over %d bytes", LM_REPO_PATH_MAX);
		at -= len;
		memcpy(text + at, node->name, len);
		text[--at] = '/';
	}
	return lm_buf_append(&w->path, text + at, sizeof(text) - at) < 0 ? lm_err_oom(err) : 0;
}

static void cut_path(struct writing *w, size_t len)
{
	w->path.len = len;
	w->path.data[len] = '\0';
}

static int path_of(struct writing *w, const struct lm_layer_node *node, struct lm_err *err)
{
	cut_path(w, w->layer_at);
	return append_node_path(w, node, err);
}

/* The row at w->path of a directory in which another part begins. */
static int write_mountpoint(struct writing *w, const struct lm_finished *part, struct lm_err *err)
{
	return lm_catalog_set_nested(w->writer, lm_buf_cstr(&w->path), &part->hash, part->size, &part->root,
		&part->self, &part->subtree, err);
}

static int list_directory(struct writing *w, const struct lm_layer_node *dir, struct lm_err *err)
{
	int r = path_of(w, dir, err);
	size_t dir_len = w->path.len;
	for (struct lm_layer_node *child = dir->children; child && r == 0; child = child->next) {
		cut_path(w, dir_len);
		if (lm_buf_printf(&w->path, "/%s", child->name) < 0)
			return lm_err_oom(err);
		bool mountpoint = S_ISDIR(child->inode->mode) && child->inode->group;
		r = mountpoint ? write_mountpoint(w, &w->stored[child->inode->group], err)
			       : write_inode(w, child->inode, err);
	}
	return r;
}

static int list_part(struct writing *w, const struct lm_layer_part *part, struct lm_err *err)
{
	int r = 0;
	for (size_t i = 0; i < part->count && r == 0; i++)
		r = list_directory(w, part->dirs[i], err);
	return r;
}

static int write_extra(struct writing *w, const struct lm_layer_extra *extra, struct lm_err *err)
{
	bool dir = lm_str_ends(extra->path, "/");
	struct lm_row row = {
		.mode = dir ? S_IFDIR | 0755 : S_IFREG | 0644,
		.size = dir ? 4096 : extra->size,
		.hash = extra->hash,
		.algo = extra->hash.algo,
		.compression = LM_COMPRESSION_ZLIB,
		.link_count = 1,
		.mtime_s = w->content->time_s,
	};
	CLEANUP(lm_freep)
	char *path = lm_str_printf("%s/%.*s", w->content->mountpoint, (int)(strlen(extra->path) - dir), extra->path);
	if (!path)
		return lm_err_oom(err);
	return lm_catalog_insert(w->writer, path, &row, NULL, 0, err);
}

static int finish(struct writing *w, int64_t time_s, struct lm_counters *ret_self, struct lm_counters *ret_subtree,
	struct lm_err *err)
{
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *writer = STEAL(w->writer);
	const struct lm_catalog_props props = {.revision = 1, .last_modified_s = time_s};
	return lm_catalog_writer_finish(writer, &props, ret_self, ret_subtree, err);
}

/* In the place of the layer's opaque directories (layer_opaque.h); nothing where that can't be all of its attributes.
 */
static int write_opaque(struct writing *w, struct lm_err *err)
{
	const struct lm_layer_content *content = w->content;
	const struct lm_row dir = {.mode = S_IFDIR | 0755, .size = 4096, .mtime_s = content->time_s, .link_count = 1};
	const struct lm_row whiteout = {.mode = S_IFCHR, .mtime_s = content->time_s, .link_count = 1};
	CLEANUP(lm_layer_opaque_done) struct lm_layer_opaque opaque;
	int r = lm_layer_opaque(content->tree, &opaque, err);
	if (r < 0 || opaque.count == 0)
		return r;
	cut_path(w, 0);
	if (lm_buf_printf(&w->path, "%s/" LM_LAYER_OPAQUE, content->mountpoint) < 0)
		return lm_err_oom(err);
	size_t len = w->path.len;
	r = lm_catalog_insert(w->writer, lm_buf_cstr(&w->path), &dir, NULL, 0, err);
	for (size_t i = 0; i < opaque.count && r == 0; i++) {
		const struct lm_layer_node *node = opaque.nodes[i];
		cut_path(w, len);
		r = append_node_path(w, node, err);
		if (r == 0)
			r = lm_catalog_insert(w->writer, lm_buf_cstr(&w->path),
				lm_layer_is_opaque(node->inode) ? &whiteout : &dir, NULL, 0, err);
	}
	cut_path(w, 0);
	if (lm_buf_printf(&w->path, "%s/" LM_IMAGES_LAYER_ROOT, content->mountpoint) < 0)
		return lm_err_oom(err);
	return r;
}

/* What is above the root of the layer's tree, and that. */
static int begin_layer(struct writing *w, const char *db_path, struct lm_err *err)
{
	const struct lm_layer_content *content = w->content;
	const struct lm_row root = {.mode = S_IFDIR | 0755, .size = 4096, .mtime_s = content->time_s};
	int r = lm_catalog_create(db_path, content->mountpoint, &root, &w->writer, err);
	for (size_t i = 0; i < content->extra_count && r == 0; i++)
		r = write_extra(w, &content->extras[i], err);
	if (r == 0)
		r = write_opaque(w, err);
	cut_path(w, w->layer_at);
	return r < 0 ? r : write_inode(w, lm_layer_tree_root(content->tree)->inode, err);
}

/* A catalog whose root is that directory of the tree, at w->path. */
static int begin_tree(struct writing *w, const char *db_path, const struct lm_layer_node *dir, struct lm_err *err)
{
	struct lm_row root;
	size_t no_chunks;
	int r = make_row(w, dir->inode, &root, &no_chunks, err);
	if (r == 0)
		r = lm_catalog_create(db_path, lm_buf_cstr(&w->path), &root, &w->writer, err);
	if (r < 0)
		return r;
	const struct lm_hash *nothing = &w->content->nothing;
	const struct lm_row marker = {
		.mode = S_IFREG | 0644,
		.flags = LM_ROW_HIDDEN,
		.hash = *nothing,
		.algo = nothing->algo,
		.compression = LM_COMPRESSION_ZLIB,
		.link_count = 1,
		.mtime_s = dir->inode->mtime_s,
	};
	if (lm_buf_str(&w->path, "/" LM_LAYER_MARKER) < 0)
		return lm_err_oom(err);
	return lm_catalog_insert(w->writer, lm_buf_cstr(&w->path), &marker, NULL, 0, err);
}

/* The catalog at the mountpoint. */
static int write_top(struct writing *w, const char *db_path, struct lm_counters *ret, struct lm_err *err)
{
	const struct lm_layer_content *content = w->content;
	struct lm_counters subtree;
	cut_path(w, w->layer_at);
	int r = content->flat ? begin_tree(w, db_path, lm_layer_tree_root(content->tree), err)
			      : begin_layer(w, db_path, err);
	if (r == 0)
		r = list_part(w, &w->split.parts[0], err);
	if (r == 0)
		r = finish(w, content->time_s, ret, &subtree, err);
	if (r < 0)
		return r;
	lm_counters_add(ret, &subtree);
	ret->dir -= w->split.count - 1;
	ret->regular -= w->split.count - !content->flat;
	return 0;
}

/* A catalog inside the layer, stored. */
static int write_part(struct writing *w, size_t number, struct lm_err *err)
{
	const struct lm_layer_part *part = &w->split.parts[number];
	const struct lm_layer_node *dir = part->dirs[0];
	struct lm_counters self, subtree;
	int r = path_of(w, dir, err);
	if (r == 0)
		r = begin_tree(w, w->nested_path, dir, err);
	if (r == 0)
		r = list_part(w, part, err);
	if (r == 0)
		r = finish(w, dir->inode->mtime_s, &self, &subtree, err);
	if (r == 0)
		r = path_of(w, dir, err);
	if (r == 0)
		r = w->store->fn(w->store->arg, lm_buf_cstr(&w->path), w->nested_path, &w->stored[number], err);
	if (r == 0 && unlink(w->nested_path) < 0)
		return lm_err_sys(err, -errno, "remove %s", w->nested_path);
	return r;
}

static int prepare(struct writing *w, const char *db_path, const struct lm_layer_limits *limits, struct lm_err *err)
{
	if (lm_buf_printf(&w->path, "%s%s", w->content->mountpoint, w->content->flat ? "" : "/" LM_IMAGES_LAYER_ROOT) <
		0)
		return lm_err_oom(err);
	w->layer_at = w->path.len;
	int r = lm_layer_split(w->content->tree, limits, &w->split, err);
	if (r < 0)
		return r;
	w->stored = calloc(w->split.count, sizeof(*w->stored));
	w->nested_path = lm_str_printf("%s.nested", db_path);
	return w->stored && w->nested_path ? 0 : lm_err_oom(err);
}

int lm_layer_catalog_write(const char *db_path, const struct lm_layer_content *content,
	const struct lm_layer_limits *limits, const struct lm_layer_store *store, const struct lm_layer_loss *loss,
	struct lm_counters *ret, struct lm_err *err)
{
	CLEANUP(writing_done)
	struct writing w = {
		.content = content,
		.store = store,
		.loss = loss,
		.path = LM_BUF(2 * LM_REPO_PATH_MAX),
		.xattr = LM_BUF(LM_XATTR_BLOB_MAX),
		.target = LM_BUF(LM_SYMLINK_MAX),
	};
	int r = prepare(&w, db_path, limits, err);
	for (size_t i = r == 0 ? w.split.count - 1 : 0; i > 0 && r == 0; i--)
		r = write_part(&w, i, err);
	if (r == 0)
		r = write_top(&w, db_path, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "catalog %s", content->mountpoint) : 0;
}
