/*
 * The tree of whiteouts beside a layer (layer_opaque.h) against what the layer has. One that is not there is no
 * difference: then the layer is used with its attributes.
 */
#include "convert/layer_catalog.h"
#include "convert/layer_opaque.h"
#include "convert/verify_internal.h"

#include <string.h>
#include <sys/stat.h>

static int count_row(void *arg, struct lm_row *row)
{
	++*(size_t *)arg;
	return 0;
}

/* 0 with *ret_mode, 0 if it is not there. */
static int mode_of(struct lm_catalog *catalog, const struct lm_buf *path, uint32_t *ret_mode, uint64_t *ret_rdev,
	struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_err failure = LM_ERR_INIT;
	int r = lm_catalog_lookup(catalog, lm_path_hash(lm_buf_cstr(path), path->len), &row, &failure);
	*ret_mode = r == 0 ? row.mode : 0;
	*ret_rdev = r == 0 ? row.rdev : 0;
	return r == 0 || r == -ENOENT || r == -EPROTO ? 0 : lm_err_set(err, r, "%s", lm_err_text(&failure));
}

/* Adds what a directory holds. */
static int count_rows(struct lm_catalog *catalog, const struct lm_buf *path, size_t *count, struct lm_err *err)
{
	struct lm_err failure = LM_ERR_INIT;
	int r = lm_catalog_list(catalog, lm_path_hash(lm_buf_cstr(path), path->len), 0, count_row, count, &failure);
	if (r == -EPROTO)
		++*count; /* a row that makes no sense is one too many */
	return r == 0 || r == -EPROTO ? 0 : lm_err_set(err, r, "%s", lm_err_text(&failure));
}

static int compare_node(struct lm_comparison *c, struct lm_catalog *catalog, const struct lm_layer_node *node,
	struct lm_buf *path, size_t *published, struct lm_err *err)
{
	bool whiteout = lm_layer_is_opaque(node->inode);
	uint32_t mode;
	uint64_t rdev;
	int r = lm_verify_path(node, path) < 0 ? lm_err_oom(err) : mode_of(catalog, path, &mode, &rdev, err);
	if (r < 0)
		return r;
	if (whiteout ? (!S_ISCHR(mode) || rdev != 0) : !S_ISDIR(mode))
		lm_verify_note(c, LM_VERIFY_DIFFERENCE, NULL, node,
			"the tree of opaque directories beside the layer lacks it");
	return whiteout ? 0 : count_rows(catalog, path, published, err);
}

int lm_verify_opaque(struct lm_comparison *c, struct lm_catalog *catalog, struct lm_layer_tree *tree,
	const char *mountpoint, struct lm_err *err)
{
	CLEANUP(lm_layer_opaque_done) struct lm_layer_opaque opaque = {0};
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(2 * LM_REPO_PATH_MAX);
	size_t published = 0;
	uint32_t mode;
	uint64_t rdev;
	if (lm_buf_printf(&path, "%s/" LM_LAYER_OPAQUE, mountpoint) < 0)
		return lm_err_oom(err);
	size_t len = path.len;
	int r = mode_of(catalog, &path, &mode, &rdev, err);
	if (r < 0 || mode == 0)
		return r;
	r = lm_layer_opaque(tree, &opaque, err);
	if (r == 0)
		r = count_rows(catalog, &path, &published, err);
	for (size_t i = 0; i < opaque.count && r == 0; i++) {
		path.len = len;
		path.data[len] = '\0';
		r = compare_node(c, catalog, opaque.nodes[i], &path, &published, err);
	}
	if (r == 0 && (!S_ISDIR(mode) || opaque.count == 0 || published != opaque.count))
		lm_verify_note(c, LM_VERIFY_DIFFERENCE, NULL, lm_layer_tree_root(tree),
			"the tree of opaque directories beside the layer has %zu entries instead of %zu", published,
			opaque.count);
	return r;
}
