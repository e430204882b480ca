/*
 * The content of files: published objects against the hashes of what the tar has.
 *
 * The tar's content is hashed in pieces, in which the published file may be cut otherwise. A job takes as many chunks
 * as it needs to end where a piece ends: of what this converter published, one.
 */
#include "base/file.h"
#include "convert/layer_tar.h"
#include "convert/verify_internal.h"
#include "repo/object_store.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

enum { IN_MEMORY_MAX = 1 << 20 /* objects up to here are not put into a file first */ };

/* A piece of the tar's content. */
struct piece {
	const struct lm_layer_inode *inode;
	const struct lm_layer_chunks *block; /* NULL: the whole file is one */
	unsigned index;
};

struct job {
	struct lm_comparison *comparison;
	const struct lm_layer_node *node;
	enum lm_compression compression;
	enum lm_object_kind kind;
	struct piece piece;
	uint64_t offset, size; /* of the stretch of the file */
	struct lm_buf content; /* of the piece, as far as it came */
	size_t count;
	struct lm_chunk chunks[];
};

static uint64_t piece_size(const struct piece *piece)
{
	return piece->block ? piece->block->chunks[piece->index].size : piece->inode->size;
}

static const struct lm_hash *piece_hash(const struct piece *piece)
{
	return piece->block ? &piece->block->chunks[piece->index].hash : &piece->inode->hash;
}

static void next_piece(struct piece *piece)
{
	if (!piece->block || ++piece->index < piece->block->count)
		return;
	piece->block = piece->block->next;
	piece->index = 0;
}

/* --- in the pool --- */

/* The piece is there in full. */
static int end_piece(struct job *job, struct lm_err *err)
{
	struct lm_hash hash;
	int r = lm_content_hash(job->content.data, job->content.len, &hash, err);
	if (r < 0)
		return r;
	if (memcmp(hash.bytes, piece_hash(&job->piece)->bytes, sizeof(hash.bytes)) != 0)
		return lm_err_set(err, -EBADMSG, "content differs within %zu bytes from offset %" PRIu64 " on",
			job->content.len, job->offset);
	job->offset += job->content.len;
	lm_buf_clear(&job->content);
	next_piece(&job->piece);
	return 0;
}

static int take_content(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct job *job = arg;
	for (size_t at = 0; at < len;) {
		size_t n = (size_t)LM_MIN((uint64_t)(len - at), piece_size(&job->piece) - job->content.len);
		if (lm_buf_append(&job->content, (const uint8_t *)data + at, n) < 0)
			return lm_err_oom(err);
		at += n;
		int r = job->content.len == piece_size(&job->piece) ? end_piece(job, err) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int take_small(const struct job *job, const struct lm_chunk *chunk, uint64_t *ret_size, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF((size_t)chunk->size);
	int r = lm_object_load(
		job->comparison->repo->storage, &chunk->hash, job->kind, job->compression, &content, err);
	*ret_size = content.len;
	return r < 0 ? r : take_content((void *)job, lm_buf_cstr(&content), content.len, err);
}

static int take_large(struct job *job, const struct lm_chunk *chunk, uint64_t *ret_size, struct lm_err *err)
{
	struct lm_storage *storage = job->comparison->repo->storage;
	char path[LM_OBJECT_PATH_MAX];
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, lm_tmp_dir(), err);
	if (fd < 0)
		return fd;
	int r = storage->ops->get_file(storage, lm_object_path(&chunk->hash, job->kind, path), fd, err);
	return r < 0 ? r
		     : lm_unpack_fd(&chunk->hash, job->compression, fd, chunk->size, take_content, job, ret_size, err);
}

static int compare_chunk(struct job *job, const struct lm_chunk *chunk, struct lm_err *err)
{
	uint64_t size = 0;
	int r = chunk->size <= IN_MEMORY_MAX ? take_small(job, chunk, &size, err) : take_large(job, chunk, &size, err);
	if (r == 0 && size != chunk->size)
		r = lm_err_set(err, -EBADMSG, "object %s has %" PRIu64 " bytes of content instead of %" PRIu64,
			lm_hash_text(&chunk->hash).s, size, chunk->size);
	return r;
}

static void end_job(struct lm_comparison *c, int r, const struct lm_err *err, uint64_t bytes)
{
	LM_LOCKED(&c->lock);
	if (r < 0 && c->code == 0) {
		c->code = r;
		c->err = *err;
	}
	c->part->bytes += bytes;
	if (--c->pending == 0)
		lm_cond_broadcast(&c->all_done);
}

/* An object that is missing or damaged is a difference; a machine that has no memory left is not. */
static bool is_finding(int r)
{
	return r != -ENOMEM && r != -ENOSPC && r != -EMFILE && r != -ENFILE;
}

static void run_job(void *arg)
{
	struct job *job = arg;
	struct lm_err err = LM_ERR_INIT;
	int r = 0;
	for (size_t i = 0; r == 0 && i < job->count; i++)
		r = compare_chunk(job, &job->chunks[i], &err);
	if (r < 0 && is_finding(r)) {
		lm_verify_note(job->comparison, LM_VERIFY_DIFFERENCE, NULL, job->node, "%s", lm_err_text(&err));
		r = 0;
	}
	end_job(job->comparison, r, &err, job->size);
	lm_buf_done(&job->content);
	free(job);
}

/* --- jobs --- */

/* Of chunks[0..count), which lie from piece on, those up to where a piece ends, too; *piece is then the one after it.
 */
static size_t stretch(const struct lm_chunk *chunks, size_t count, struct piece *piece, uint64_t *ret_size)
{
	uint64_t published = 0, hashed = 0;
	size_t n = 0;
	do {
		if (published <= hashed && n < count) {
			published += chunks[n++].size;
		} else {
			hashed += piece_size(piece);
			next_piece(piece);
		}
	} while (published != hashed);
	*ret_size = published;
	return n;
}

static int submit(struct lm_comparison *c, const struct lm_layer_node *node, const struct lm_row *row,
	const struct lm_chunk *chunks, size_t count, struct piece piece, uint64_t size, struct lm_err *err)
{
	struct job *job = malloc(sizeof(*job) + count * sizeof(*chunks));
	if (!job)
		return lm_err_oom(err);
	*job = (struct job){
		.comparison = c,
		.node = node,
		.compression = row->compression,
		.kind = row->flags & LM_ROW_CHUNKED ? LM_OBJECT_CHUNK : LM_OBJECT_FILE,
		.piece = piece,
		.offset = count > 0 ? chunks[0].offset : 0,
		.size = size,
		.content = LM_BUF(LM_CHUNKED_ABOVE),
		.count = count,
	};
	memcpy(job->chunks, chunks, count * sizeof(*chunks));
	lm_lock_take(&c->lock);
	c->pending++;
	lm_lock_release(&c->lock);
	lm_work_submit(c->work, run_job, job);
	return 0;
}

int lm_verify_content(struct lm_comparison *c, const struct lm_layer_node *node, const struct lm_row *row,
	const struct lm_chunk *chunks, size_t count, struct lm_err *err)
{
	struct piece piece = {.inode = node->inode, .block = node->inode->chunks};
	int r = 0;
	for (size_t at = 0; r == 0 && at < count;) {
		struct piece first = piece;
		uint64_t size;
		size_t n = stretch(chunks + at, count - at, &piece, &size);
		r = submit(c, node, row, chunks + at, n, first, size, err);
		at += n;
	}
	return r;
}

int lm_verify_contents_wait(struct lm_comparison *c, struct lm_err *err)
{
	LM_LOCKED(&c->lock);
	while (c->pending > 0)
		lm_cond_wait(&c->all_done, &c->lock);
	return c->code < 0 ? lm_err_set(err, c->code, "%s", lm_err_text(&c->err)) : 0;
}
