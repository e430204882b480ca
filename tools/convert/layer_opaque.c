#include "convert/layer_opaque.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void lm_layer_opaque_done(struct lm_layer_opaque *opaque)
{
	free(opaque->nodes);
	*opaque = (struct lm_layer_opaque){0};
}

static bool is_mark(const struct lm_layer_xattr *x)
{
	return strcmp(x->key, LM_OVERLAY_OPAQUE) == 0 && x->value_len == 1 && memcmp(x->value, "y", 1) == 0;
}

bool lm_layer_is_opaque(const struct lm_layer_inode *inode)
{
	for (const struct lm_layer_xattr *x = inode->xattrs; S_ISDIR(inode->mode) && x; x = x->next)
		if (is_mark(x))
			return true;
	return false;
}

static bool has_other_attributes(const struct lm_layer_inode *inode)
{
	const struct lm_layer_xattr *x = inode->xattrs;
	return x && (x->next || !is_mark(x) || !S_ISDIR(inode->mode));
}

/* Parents before children; NULL after the last one. */
static const struct lm_layer_node *next_node(const struct lm_layer_node *node)
{
	if (node->children)
		return node->children;
	while (node && !node->next)
		node = node->parent;
	return node ? node->next : NULL;
}

static bool is_above(const struct lm_layer_node *above, const struct lm_layer_node *node)
{
	while (node && node != above)
		node = node->parent;
	return node;
}

/* A node, after those above it that are not there yet: it is what was added last that they are above of, if at all. */
static bool add(struct lm_layer_opaque *opaque, const struct lm_layer_node *node)
{
	const struct lm_layer_node *last = opaque->count > 0 ? opaque->nodes[opaque->count - 1] : NULL;
	size_t missing = 0;
	for (const struct lm_layer_node *at = node; at->parent && !is_above(at, last); at = at->parent)
		missing++;
	if (opaque->count + missing > LM_LAYER_OPAQUE_MAX)
		return false;
	opaque->count += missing;
	for (size_t i = opaque->count; missing > 0; missing--, node = node->parent)
		opaque->nodes[--i] = node;
	return true;
}

int lm_layer_opaque(struct lm_layer_tree *tree, struct lm_layer_opaque *ret, struct lm_err *err)
{
	*ret = (struct lm_layer_opaque){.nodes = calloc(LM_LAYER_OPAQUE_MAX, sizeof(*ret->nodes))};
	if (!ret->nodes)
		return lm_err_oom(err);
	const struct lm_layer_node *root = lm_layer_tree_root(tree);
	bool fits = true;
	for (const struct lm_layer_node *node = root, *hidden = NULL; node && fits; node = next_node(node)) {
		if (hidden && !is_above(hidden, node))
			hidden = NULL;
		fits = !has_other_attributes(node->inode);
		if (fits && !hidden && node != root && lm_layer_is_opaque(node->inode)) {
			hidden = node;
			fits = add(ret, node);
		}
	}
	if (!fits)
		ret->count = 0;
	return 0;
}
