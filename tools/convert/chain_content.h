/*
 * The content of large files in the file of a merged tree (chain_tree.h): behind the image of names, the very objects
 * that the layers have stored, one file after the other. Nothing is stored twice, and nothing read to make it.
 *
 * A file's content begins at a block of the image (LM_EROFS_BLOCK). Behind it are zeros up to the next block, at least
 * one byte, as pieces of their own: no more than LM_CHAIN_ZEROS_MAX, which of all files are 46 objects. A block of them
 * is before the first file, too. So a piece of at most LM_EROFS_BLOCK bytes ends each file and the names before them,
 * which the fetcher goes by (fetcher/tree.h). Files with the same pieces have them once.
 *
 * Taken are files in pieces compressed by zlib and named by the algorithm that the tree's own pieces have, since one
 * row says both for all of them. How they were cut does not matter. Each piece is some 33 bytes of the catalog, which
 * every container of the image fetches: of files whose pieces are of less than LM_CHAIN_PIECE_MIN bytes on average,
 * databases that is (layer_tar.h), the first ones are taken that have LM_CHAIN_SMALL_MAX pieces together.
 */
#ifndef LM_TOOLS_CHAIN_CONTENT_H
#define LM_TOOLS_CHAIN_CONTENT_H

#include "convert/layer_tree.h"

enum { LM_CHAIN_PIECE_MIN = 64 << 10, LM_CHAIN_SMALL_MAX = 16 << 10, LM_CHAIN_ZEROS_MAX = 3 };

/* 40 bytes for each piece, with those in the merge 80: 320 bytes for each MiB of large files. */
struct lm_chain_content {
	enum lm_hash_algo algo;	 /* set by the caller; the rest is zero at first */
	struct lm_chunk *chunks; /* without gaps, from 0 on; zeros have no hash */
	size_t count, cap;
	size_t small; /* of files with small pieces */
	uint64_t bytes;
	void *files; /* tsearch tree of those that are there; of no use when the merge is gone */
};
void lm_chain_content_done(struct lm_chain_content *content);

/* Of what was not added yet: while there is room. */
bool lm_chain_content_takes(const struct lm_chain_content *content, const struct lm_layer_inode *file);

/* Of one that it takes: *ret where it begins. The file must stay until the last one is added. */
int lm_chain_content_add(struct lm_chain_content *content, const struct lm_layer_inode *file, uint64_t *ret,
	struct lm_err *err) MUST_CHECK;

#endif
