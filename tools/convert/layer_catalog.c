#include "convert/layer_catalog.h"

#include "base/str.h"
#include "repo/xattr.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define LITERAL_DOLLAR "$(LAMELLA_NEVER_SET:-$)"

struct writing {
	struct lm_catalog_writer *writer;
	const struct lm_layer_loss *loss;
	struct lm_buf path; /* of the directory being listed, then of the row */
	size_t layer_at;    /* where in it the path inside the layer begins */
	struct lm_buf xattr, target;
	struct lm_chunk *chunks;
	size_t chunk_cap;
	uint32_t groups;
	/* directories that are still to be listed, in order */
	struct lm_layer_node **queue;
	size_t queue_cap, queue_len;
};

static void writing_done(struct writing *w)
{
	lm_catalog_writer_free(w->writer);
	lm_buf_done(&w->path);
	lm_buf_done(&w->xattr);
	lm_buf_done(&w->target);
	free(w->chunks);
	free(w->queue);
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

/* The row of an inode at w->path. */
static int write_inode(struct writing *w, struct lm_layer_inode *inode, struct lm_err *err)
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
		row.compression = LM_COMPRESSION_ZLIB;
	} else if (S_ISLNK(inode->mode)) {
		r = encode_target(w, inode->target, &row, err);
		if (r < 0)
			return r;
	} else {
		row.rdev = inode->rdev;
	}
	if (!S_ISDIR(inode->mode) && inode->names > 1) {
		if (inode->group == 0)
			inode->group = ++w->groups;
		row.link_group = inode->group;
		row.link_count = inode->names;
	}
	return lm_catalog_insert(w->writer, lm_buf_cstr(&w->path), &row, w->chunks, chunk_count, err);
}

static int queue_push(struct writing *w, struct lm_layer_node *node, struct lm_err *err)
{
	if (w->queue_len == w->queue_cap) {
		size_t cap = w->queue_cap ? w->queue_cap * 2 : 1024;
		struct lm_layer_node **queue = reallocarray(w->queue, cap, sizeof(struct lm_layer_node *));
		if (!queue)
			return lm_err_oom(err);
		w->queue = queue;
		w->queue_cap = cap;
	}
	w->queue[w->queue_len++] = node;
	return 0;
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

static int list_directory(struct writing *w, const struct lm_layer_node *dir, struct lm_err *err)
{
	cut_path(w, w->layer_at);
	int r = append_node_path(w, dir, err);
	size_t dir_len = w->path.len;
	for (struct lm_layer_node *child = dir->children; child && r == 0; child = child->next) {
		cut_path(w, dir_len);
		if (lm_buf_printf(&w->path, "/%s", child->name) < 0)
			return lm_err_oom(err);
		r = write_inode(w, child->inode, err);
		if (r == 0 && S_ISDIR(child->inode->mode))
			r = queue_push(w, child, err);
	}
	return r;
}

static int write_tree(struct writing *w, struct lm_layer_tree *tree, const char *mountpoint, struct lm_err *err)
{
	struct lm_layer_node *root = lm_layer_tree_root(tree);
	lm_buf_clear(&w->path);
	if (lm_buf_printf(&w->path, "%s/" LM_LAYER_ROOT, mountpoint) < 0)
		return lm_err_oom(err);
	w->layer_at = w->path.len;
	int r = write_inode(w, root->inode, err);
	if (r == 0)
		r = queue_push(w, root, err);
	for (size_t i = 0; i < w->queue_len && r == 0; i++)
		r = list_directory(w, w->queue[i], err);
	return r;
}

static int write_extra(struct writing *w, const char *mountpoint, const struct lm_layer_extra *extra, int64_t time_s,
	struct lm_err *err)
{
	bool dir = lm_str_ends(extra->path, "/");
	struct lm_row row = {
		.mode = dir ? S_IFDIR | 0755 : S_IFREG | 0644,
		.size = dir ? 4096 : extra->size,
		.hash = extra->hash,
		.algo = extra->hash.algo,
		.compression = LM_COMPRESSION_ZLIB,
		.link_count = 1,
		.mtime_s = time_s,
	};
	CLEANUP(lm_freep)
	char *path = lm_str_printf("%s/%.*s", mountpoint, (int)(strlen(extra->path) - dir), extra->path);
	if (!path)
		return lm_err_oom(err);
	return lm_catalog_insert(w->writer, path, &row, NULL, 0, err);
}

int lm_layer_catalog_write(const char *db_path, const char *mountpoint, struct lm_layer_tree *tree,
	const struct lm_layer_extra *extras, size_t extra_count, int64_t time_s, const struct lm_layer_loss *loss,
	struct lm_counters *ret, struct lm_err *err)
{
	CLEANUP(writing_done)
	struct writing w = {
		.loss = loss,
		.path = LM_BUF(2 * LM_REPO_PATH_MAX),
		.xattr = LM_BUF(LM_XATTR_BLOB_MAX),
		.target = LM_BUF(LM_SYMLINK_MAX),
	};
	const struct lm_row root = {.mode = S_IFDIR | 0755, .size = 4096, .mtime_s = time_s};
	struct lm_counters subtree;
	int r = lm_catalog_create(db_path, mountpoint, &root, &w.writer, err);
	for (size_t i = 0; i < extra_count && r == 0; i++)
		r = write_extra(&w, mountpoint, &extras[i], time_s, err);
	if (r == 0)
		r = write_tree(&w, tree, mountpoint, err);
	if (r == 0)
		r = lm_catalog_writer_finish(w.writer,
			&(struct lm_catalog_props){.revision = 1, .last_modified_s = time_s}, ret, &subtree, err);
	return r < 0 ? lm_err_prefix(err, r, "catalog %s", mountpoint) : 0;
}
