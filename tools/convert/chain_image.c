#include "convert/chain_image.h"

#include "base/str.h"
#include "convert/layer.h"
#include "repo/images.h"
#include "repo/xattr.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FORM "lamella form "

struct building {
	struct lm_erofs *erofs;
	const char *const *digests;
	size_t count;
	struct lm_chain_content *content;
	struct lm_buf path; /* of the directory, then of what is in it; inside the tree */
	struct lm_buf full; /* the same in the repository */
	struct lm_buf redirect, xattr;
	uint64_t names;
};

static void building_done(struct building *b)
{
	lm_erofs_free(b->erofs);
	lm_buf_done(&b->path);
	lm_buf_done(&b->full);
	lm_buf_done(&b->redirect);
	lm_buf_done(&b->xattr);
}

static int encode_xattrs(struct building *b, const struct lm_layer_inode *inode, struct lm_err *err)
{
	struct lm_xattr attrs[LM_XATTR_COUNT_MAX];
	size_t count = 0;
	lm_buf_clear(&b->xattr);
	for (const struct lm_layer_xattr *x = inode->xattrs; x; x = x->next) {
		if (count == LM_XATTR_COUNT_MAX)
			return lm_err_set(err, -EPROTO, "more than %d attributes", LM_XATTR_COUNT_MAX);
		attrs[count++] = (struct lm_xattr){x->key, strlen(x->key), x->value, x->value_len};
	}
	return count == 0 ? 0 : lm_xattr_encode(attrs, count, &b->xattr, err);
}

/* From the layers' directory on, the path of the outermost catalog that a name can begin at, and that name; the path of
 * the file where there is none. */
static int print_redirect(struct building *b, const struct lm_layer_begin *begin)
{
	const size_t top = strlen("/" LM_IMAGES_LAYERS);
	const char *path = lm_buf_cstr(&b->full);
	int64_t halves[LM_IMAGES_ROW_MAX];
	size_t count = 1;
	lm_buf_clear(&b->redirect);
	if (begin->len < top)
		return lm_buf_str(&b->redirect, path + top);
	halves[LM_IMAGES_ROW_MAX - 1] = lm_path_hash(path, b->full.len).a;
	for (; begin->up && begin->up->len >= top && count < LM_IMAGES_ROW_MAX; begin = begin->up)
		halves[LM_IMAGES_ROW_MAX - ++count] = lm_path_hash(path, begin->len).a;
	return lm_buf_printf(&b->redirect, "%.*s/%s", (int)(begin->len - top), path + top,
		lm_images_row(&halves[LM_IMAGES_ROW_MAX - count], count).s);
}

/* The merge counts layers from the uppermost down. */
static int make_redirect(struct building *b, const struct lm_layer_inode *inode, struct lm_err *err)
{
	const struct lm_layer_path layer = lm_layer_path(b->digests[b->count - 1 - inode->layer]);
	lm_buf_clear(&b->full);
	int r = lm_buf_printf(&b->full, "%s/" LM_IMAGES_LAYER_ROOT "%s", layer.s, lm_buf_cstr(&b->path));
	if (r == 0)
		r = print_redirect(b, inode->begin);
	return r == -EMSGSIZE ? lm_err_set(err, -ENOTSUP, "a path of %zu bytes is too long", b->path.len)
	       : r < 0	      ? lm_err_oom(err)
			      : 0;
}

/* Where the content of a file of more than 0 bytes is. */
static int place_content(
	struct building *b, const struct lm_layer_inode *inode, struct lm_erofs_attr *attr, struct lm_err *err)
{
	if (lm_chain_content_takes(b->content, inode)) {
		attr->content = true;
		return lm_chain_content_add(b->content, inode, &attr->content_at, err);
	}
	int r = make_redirect(b, inode, err);
	attr->redirect = lm_buf_cstr(&b->redirect);
	return r;
}

/* What is not yet in the image. */
static int add_inode(struct building *b, struct lm_layer_inode *inode, struct lm_err *err)
{
	uint32_t number;
	int r = encode_xattrs(b, inode, err);
	if (r < 0)
		return r;
	struct lm_erofs_attr attr = {
		.mode = inode->mode,
		.uid = inode->uid,
		.gid = inode->gid,
		.rdev = inode->rdev,
		.size = S_ISREG(inode->mode) ? inode->size : 0,
		.links = inode->links,
		.mtime_s = inode->mtime_s,
		.mtime_ns = inode->mtime_ns,
		.xattr = b->xattr.len > 0 ? b->xattr.data : NULL,
		.xattr_len = b->xattr.len,
		.target = inode->target,
	};
	if (attr.size > 0)
		r = place_content(b, inode, &attr, err);
	if (r == 0)
		r = lm_erofs_inode(b->erofs, &attr, &number, err);
	if (r == 0)
		inode->group = number + 1;
	return r;
}

static int add_child(struct building *b, struct lm_layer_node *node, struct lm_err *err)
{
	int r = node->inode->group ? 0 : add_inode(b, node->inode, err);
	b->names++;
	return r < 0 ? r
		     : lm_erofs_link(b->erofs, node->parent->inode->group - 1, node->name, node->inode->group - 1, err);
}

/* As deep as paths are long: LM_LAYER_PATH_MAX / 2 frames. After a failure the path is that of what failed. */
static int add_directory(struct building *b, struct lm_layer_node *dir, struct lm_err *err)
{
	size_t len = b->path.len;
	for (struct lm_layer_node *child = dir->children; child; child = child->next) {
		int r = lm_buf_printf(&b->path, "/%s", child->name);
		if (r < 0)
			return r == -EMSGSIZE ? lm_err_set(err, -ENOTSUP, "a path of over %d bytes", LM_LAYER_PATH_MAX)
					      : lm_err_oom(err);
		r = add_child(b, child, err);
		if (r == 0 && S_ISDIR(child->inode->mode))
			r = add_directory(b, child, err);
		if (r < 0)
			return r;
		b->path.len = len;
		b->path.data[len] = '\0';
	}
	return 0;
}

static int add_all(struct building *b, struct lm_layer_tree *tree, struct lm_err *err)
{
	struct lm_layer_node *root = lm_layer_tree_root(tree);
	int r = add_inode(b, root->inode, err);
	return r < 0 ? r : add_directory(b, root, err);
}

void lm_chain_image_done(struct lm_chain_image *image)
{
	lm_chain_content_done(&image->content);
}

int lm_chain_image_write(struct lm_layer_tree *tree, const char *const *digests, size_t count, enum lm_hash_algo algo,
	int fd, struct lm_chain_image *ret, struct lm_err *err)
{
	*ret = (struct lm_chain_image){.content.algo = algo};
	CLEANUP(building_done)
	struct building b = {
		.digests = digests,
		.count = count,
		.content = &ret->content,
		.path = LM_BUF(LM_LAYER_PATH_MAX),
		.full = LM_BUF(LM_REPO_PATH_MAX),
		.redirect = LM_BUF(LM_EROFS_TARGET_MAX),
		.xattr = LM_BUF(LM_XATTR_BLOB_MAX),
	};
	char volume[sizeof(FORM) + 16];
	snprintf(volume, sizeof(volume), FORM "%d", LM_CHAIN_IMAGE_FORM);
	int r = lm_erofs_new(&b.erofs, err);
	if (r == 0)
		r = lm_erofs_set_volume(b.erofs, volume, err);
	if (r == 0)
		r = add_all(&b, tree, err);
	if (r == -EINVAL)
		r = -ENOTSUP;
	if (r < 0)
		return lm_err_prefix(err, r, "%.512s", b.path.len ? lm_buf_cstr(&b.path) : "/");
	ret->names = b.names;
	return lm_erofs_write(b.erofs, fd, &ret->bytes, err);
}

int lm_chain_image_form(const uint8_t head[LM_EROFS_HEAD], unsigned *ret, struct lm_err *err)
{
	struct lm_erofs_volume volume;
	uint64_t form = 0;
	int r = lm_erofs_volume(head, &volume, err);
	if (r < 0)
		return r;
	const char *number = volume.name + strlen(FORM);
	if (*volume.name &&
		(!lm_str_starts(volume.name, FORM) || lm_str_u64(number, strlen(number), &form) < 0 || form == 0))
		return lm_err_set(err, -EPROTO, "its volume has another name than ours");
	*ret = (unsigned)form;
	return 0;
}
