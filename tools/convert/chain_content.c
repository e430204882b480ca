#include "convert/chain_content.h"

#include "erofs/erofs.h"

#include <search.h>
#include <string.h>
#include <sys/stat.h>

enum { ZEROS_BASE = 16 }; /* LM_EROFS_BLOCK is its LM_CHAIN_ZEROS_MAX-th power */

struct file {
	const struct lm_layer_inode *inode;
	uint64_t at;
};

void lm_chain_content_done(struct lm_chain_content *content)
{
	free(content->chunks);
	tdestroy(content->files, free);
	*content = (struct lm_chain_content){0};
}

static bool is_named_alike(const struct lm_chain_content *content, const struct lm_layer_inode *file, size_t *ret_count)
{
	*ret_count = 0;
	for (const struct lm_layer_chunks *list = file->chunks; list; list = list->next) {
		*ret_count += list->count;
		for (unsigned i = 0; i < list->count; i++)
			if (!list->chunks[i].hash.set || list->chunks[i].hash.algo != content->algo)
				return false;
	}
	return true;
}

static bool is_small(const struct lm_layer_inode *file, size_t count)
{
	return file->size / count < LM_CHAIN_PIECE_MIN;
}

bool lm_chain_content_takes(const struct lm_chain_content *content, const struct lm_layer_inode *file)
{
	size_t count;
	if (!S_ISREG(file->mode) || !file->chunks || file->size == 0 || file->compression != LM_COMPRESSION_ZLIB)
		return false;
	return is_named_alike(content, file, &count) &&
	       (!is_small(file, count) || content->small + count <= LM_CHAIN_SMALL_MAX);
}

static int append(struct lm_chain_content *content, uint64_t size, const struct lm_hash *hash, struct lm_err *err)
{
	if (content->count == content->cap) {
		size_t cap = LM_MAX(content->cap * 2, (size_t)256);
		struct lm_chunk *chunks = reallocarray(content->chunks, cap, sizeof(*chunks));
		if (!chunks)
			return lm_err_oom(err);
		content->chunks = chunks;
		content->cap = cap;
	}
	content->chunks[content->count++] = (struct lm_chunk){.offset = content->bytes, .size = size, .hash = *hash};
	content->bytes += size;
	return 0;
}

/* Digits of the length: few objects for all lengths, few pieces for each. */
static int append_zeros(struct lm_chain_content *content, uint64_t len, struct lm_err *err)
{
	static const struct lm_hash none;
	int r = 0;
	for (uint64_t unit = LM_EROFS_BLOCK; unit > 0 && r == 0; unit /= ZEROS_BASE) {
		uint64_t piece = len / unit * unit;
		if (piece > 0)
			r = append(content, piece, &none, err);
		len -= piece;
	}
	return r;
}

static int append_file(struct lm_chain_content *content, const struct lm_layer_inode *file, struct lm_err *err)
{
	const size_t before = content->count;
	int r = 0;
	for (const struct lm_layer_chunks *list = file->chunks; list; list = list->next)
		for (unsigned i = 0; i < list->count && r == 0; i++)
			r = append(content, list->chunks[i].size, &list->chunks[i].hash, err);
	const size_t pieces = content->count - before;
	if (r == 0 && is_small(file, pieces))
		content->small += pieces;
	return r < 0 ? r : append_zeros(content, LM_EROFS_BLOCK - file->size % LM_EROFS_BLOCK, err);
}

static int cmp_chunks(const struct lm_layer_chunks *a, const struct lm_layer_chunks *b)
{
	int order = (a->count > b->count) - (a->count < b->count);
	for (unsigned i = 0; i < a->count && order == 0; i++) {
		const struct lm_chunk *x = &a->chunks[i], *y = &b->chunks[i];
		order = (x->size > y->size) - (x->size < y->size);
		if (order == 0)
			order = memcmp(x->hash.bytes, y->hash.bytes, sizeof(x->hash.bytes));
	}
	return order;
}

static int cmp_file(const void *a, const void *b)
{
	const struct lm_layer_inode *x = ((const struct file *)a)->inode, *y = ((const struct file *)b)->inode;
	int order = (x->size > y->size) - (x->size < y->size);
	const struct lm_layer_chunks *from = x->chunks, *with = y->chunks;
	for (; from && with && order == 0; from = from->next, with = with->next)
		order = cmp_chunks(from, with);
	return order ? order : (from != NULL) - (with != NULL);
}

int lm_chain_content_add(
	struct lm_chain_content *content, const struct lm_layer_inode *file, uint64_t *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) struct file *fresh = malloc(sizeof(*fresh));
	if (!fresh)
		return lm_err_oom(err);
	int r = content->count == 0 ? append_zeros(content, LM_EROFS_BLOCK, err) : 0;
	if (r < 0)
		return r;
	*fresh = (struct file){file, content->bytes};
	struct file **there = tsearch(fresh, &content->files, cmp_file);
	if (!there)
		return lm_err_oom(err);
	*ret = (*there)->at;
	if (*there != fresh)
		return 0;
	(void)STEAL(fresh);
	return append_file(content, file, err);
}
