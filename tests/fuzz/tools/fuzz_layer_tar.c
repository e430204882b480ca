/* Any bytes as a layer's tar: reading ends, the tree stays one, nothing leads out of it. */
#include "convert/layer_tar.h"

#include <assert.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *data;
	size_t left;
};

/* Stretches of uneven lengths, so that fields lie across their ends. */
static ssize_t read_input(void *arg, const uint8_t **ret, struct lm_err *err)
{
	struct input *input = arg;
	size_t n = LM_MIN(input->left, (size_t)701);
	*ret = input->data;
	input->data += n;
	input->left -= n;
	return (ssize_t)n;
}

/* A layer below in which every other path is a directory or a link. */
static int lookup(void *arg, size_t index, const char *path, struct lm_row *ret, struct lm_err *err)
{
	size_t len = strlen(path);
	assert(len > 0 && path[0] == '/' && path[len - 1] != '/');
	if (len % 3 == 0)
		return -ENOENT;
	*ret = (struct lm_row){.mode = (len % 3 == 1 ? S_IFDIR : S_IFLNK) | 0755};
	ret->name = strdup("");
	ret->symlink = len % 3 == 2 ? strdup("../x") : NULL;
	return ret->name ? 0 : -ENOMEM;
}

static size_t check_directory(const struct lm_layer_node *dir)
{
	size_t names = 0;
	const struct lm_layer_node *last = NULL;
	for (const struct lm_layer_node *node = dir->children; node; last = node, node = node->next) {
		assert(node->parent == dir && node->prev == last && node->inode->names > 0);
		assert(node->name[0] != '\0' && !strchr(node->name, '/') && strcmp(node->name, ".") != 0 &&
			strcmp(node->name, "..") != 0 && strlen(node->name) <= LM_NAME_MAX);
		assert(S_ISDIR(node->inode->mode) || !node->children);
		assert(!S_ISDIR(node->inode->mode) || node->inode->names == 1);
		assert(S_ISLNK(node->inode->mode) == (node->inode->target != NULL));
		names += 1 + check_directory(node);
	}
	assert(dir->last_child == last);
	return names;
}

static void read_tar(const uint8_t *data, size_t size)
{
	struct input input = {data, size};
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = NULL;
	const struct lm_layer_below below = {.lookup = lookup, .count = size % 3}; /* 0: the lowest layer */
	if (lm_layer_read(read_input, &input, &below, NULL, &tree, &err) < 0)
		return;
	assert(input.left == 0);
	(void)check_directory(lm_layer_tree_root(tree));
}

/* Makes the checksum right of each block that looks like a header. */
static void repair(uint8_t *data, size_t size)
{
	for (uint8_t *block = data; size - (size_t)(block - data) >= 512; block += 512) {
		if (memcmp(block + 257, "ustar", 5) != 0)
			continue;
		unsigned sum = 0;
		memset(block + 148, ' ', 8);
		for (int i = 0; i < 512; i++)
			sum += block[i];
		for (int i = 5; i >= 0; i--, sum /= 8)
			block[148 + i] = (uint8_t)('0' + sum % 8);
	}
}

/* As it is, and so that a mutation is not stopped by a checksum. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_freep) uint8_t *copy = malloc(size + 1);
	if (!copy)
		return 0;
	read_tar(data, size);
	if (size > 0)
		memcpy(copy, data, size);
	repair(copy, size);
	read_tar(copy, size);
	return 0;
}
