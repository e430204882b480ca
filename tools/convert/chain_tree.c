#include "convert/chain_tree.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "convert/chain_image.h"
#include "convert/layer_catalog.h"
#include "convert/layer_tar.h"
#include "convert/merge.h"
#include "repo/images.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TREES "/" LM_IMAGES_OURS "/" LM_IMAGES_TREES

struct lm_layer_path lm_chain_path(const char *chain)
{
	struct lm_layer_path path;
	snprintf(path.s, sizeof(path.s), TREES "/%.2s/%s", chain, chain);
	return path;
}

/* Of the image's layers, the lowest first. The caller frees the list. */
static int digests_of(const struct lm_image *image, const char ***ret, struct lm_err *err)
{
	const char **digests = calloc(image->layer_count + 1, sizeof(*digests));
	if (!digests)
		return lm_err_oom(err);
	for (size_t i = 0; i < image->layer_count; i++)
		digests[i] = image->layers[i].digest;
	*ret = digests;
	return 0;
}

int lm_chain_tree_path(const struct lm_image *image, struct lm_layer_path *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) const char **digests = NULL;
	struct lm_chain_hex chain;
	int r = digests_of(image, &digests, err);
	if (r == 0)
		r = lm_images_chain(digests, image->layer_count, &chain, err);
	if (r == 0)
		*ret = lm_chain_path(chain.s);
	return r;
}

/* --- the file --- */

struct file {
	int fd;
	struct lm_chain_image image;
	struct lm_chunk *chunks; /* one that is the whole file, where that is small */
	size_t count;
	size_t own; /* so many of them are of the image, the first ones; the rest of contents */
};

static void file_done(struct file *file)
{
	lm_closep(&file->fd);
	lm_chain_image_done(&file->image);
	free(file->chunks);
}

static uint64_t file_size(const struct file *file)
{
	return file->image.bytes + file->image.content.bytes;
}

static bool is_whole(const struct file *file)
{
	return file_size(file) <= LM_CHUNKED_ABOVE;
}

/* Gone with the descriptor. */
static int open_scratch(const struct lm_chain_tree_job *job, int *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/tree", lm_txn_scratch(job->txn));
	if (!path)
		return lm_err_oom(err);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return lm_err_sys(err, -errno, "create %s", path);
	(void)unlink(path);
	*ret = fd;
	return 0;
}

static int write_image(const struct lm_chain_tree_job *job, struct file *file, struct lm_err *err)
{
	CLEANUP(lm_layer_tree_freep) struct lm_layer_tree *tree = NULL;
	CLEANUP(lm_freep) const char **digests = NULL;
	int r = digests_of(job->image, &digests, err);
	if (r == 0)
		r = lm_merge_image(job->txn, job->storage, job->image, LM_MERGE_CONTAINER, &tree, err);
	return r < 0 ? r
		     : lm_chain_image_write(tree, digests, job->image->layer_count, lm_txn_base(job->txn)->catalog.algo,
			       file->fd, &file->image, err);
}

static int cut(struct file *file, struct lm_err *err)
{
	const uint64_t bytes = file->image.bytes, each = is_whole(file) ? bytes : LM_CHUNK_SIZE;
	const struct lm_chain_content *content = &file->image.content;
	file->own = (size_t)((bytes + each - 1) / each);
	file->count = file->own + content->count;
	file->chunks = calloc(file->count, sizeof(*file->chunks));
	if (!file->chunks)
		return lm_err_oom(err);
	for (size_t i = 0; i < file->own; i++) {
		file->chunks[i].offset = i * each;
		file->chunks[i].size = LM_MIN(each, bytes - i * each);
	}
	for (size_t i = file->own; i < file->count; i++) {
		file->chunks[i] = content->chunks[i - file->own];
		file->chunks[i].offset += bytes;
	}
	return 0;
}

struct zeros { /* by their number */
	struct lm_hash hash;
	bool asked;
};

static int put_zeros(struct lm_packing *packing, size_t size, struct zeros *zeros, struct lm_err *err)
{
	struct lm_packing_piece *piece;
	if (zeros->asked)
		return 0;
	int r = lm_packing_piece(packing, size, &piece, err);
	if (r < 0)
		return r;
	memset(piece->data, 0, size);
	lm_packing_put(packing, piece, LM_OBJECT_CHUNK, &zeros->hash);
	zeros->asked = true;
	return 0;
}

/* Those between contents, each piece of one length once. */
static int store_zeros(struct lm_packing *packing, struct file *file, struct lm_err *err)
{
	CLEANUP(lm_freep) struct zeros *zeros = calloc(LM_EROFS_BLOCK + 1, sizeof(*zeros));
	if (!zeros)
		return lm_err_oom(err);
	int r = 0;
	for (size_t i = file->own; i < file->count && r == 0; i++)
		if (!file->chunks[i].hash.set)
			r = put_zeros(packing, (size_t)file->chunks[i].size, &zeros[file->chunks[i].size], err);
	int stored = lm_packing_wait(packing, r < 0 ? NULL : err);
	for (size_t i = file->own; i < file->count; i++)
		if (!file->chunks[i].hash.set)
			file->chunks[i].hash = zeros[file->chunks[i].size].hash;
	return r < 0 ? r : stored;
}

static int store_piece(struct lm_packing *packing, const struct file *file, struct lm_chunk *chunk, struct lm_err *err)
{
	struct lm_packing_piece *piece = NULL;
	int r = lm_packing_piece(packing, (size_t)chunk->size, &piece, err);
	if (r == 0)
		r = lm_pread_all(file->fd, piece->data, (size_t)chunk->size, (off_t)chunk->offset, err);
	if (r < 0)
		lm_packing_drop(packing, piece);
	else
		lm_packing_put(packing, piece, is_whole(file) ? LM_OBJECT_FILE : LM_OBJECT_CHUNK, &chunk->hash);
	return r;
}

static int store(struct lm_packing *packing, struct file *file, struct lm_err *err)
{
	int r = cut(file, err);
	for (size_t i = 0; r == 0 && i < file->own; i++)
		r = store_piece(packing, file, &file->chunks[i], err);
	int stored = lm_packing_wait(packing, r < 0 ? NULL : err);
	if (r == 0)
		r = stored;
	return r < 0 ? r : store_zeros(packing, file, err);
}

/* --- its catalog --- */

static int insert(struct lm_catalog_writer *writer, const char *dir, const char *name, const struct lm_row *row,
	const struct lm_chunk *chunks, size_t count, struct lm_err *err)
{
	char path[LM_LAYER_PATH_TEXT_MAX + 32];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return lm_catalog_insert(writer, path, row, chunks, count, err);
}

static int fill(const struct file *file, const struct lm_hash *nothing, struct lm_catalog_writer *writer,
	const char *dir, struct lm_err *err)
{
	const bool whole = is_whole(file);
	const struct lm_row marker = {
		.mode = S_IFREG | 0644,
		.flags = LM_ROW_HIDDEN,
		.hash = *nothing,
		.algo = nothing->algo,
		.compression = LM_COMPRESSION_ZLIB,
		.link_count = 1,
	};
	struct lm_row tree = {
		.mode = S_IFREG | 0444,
		.size = file_size(file),
		.algo = file->chunks[0].hash.algo,
		.compression = LM_COMPRESSION_ZLIB,
		.link_count = 1,
	};
	if (whole)
		tree.hash = file->chunks[0].hash;
	int r = insert(writer, dir, LM_LAYER_MARKER, &marker, NULL, 0, err);
	return r < 0 ? r : insert(writer, dir, LM_IMAGES_TREE, &tree, file->chunks, whole ? 0 : file->count, err);
}

static int write_catalog(const struct file *file, const struct lm_hash *nothing, const char *dir, const char *db_path,
	struct lm_err *err)
{
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *writer = NULL;
	const struct lm_row root = {.mode = S_IFDIR | 0755, .size = 4096};
	const struct lm_catalog_props props = {.revision = 1};
	struct lm_counters self, subtree;
	int r = lm_catalog_create(db_path, dir, &root, &writer, err);
	if (r == 0)
		r = fill(file, nothing, writer, dir, err);
	return r < 0 ? r : lm_catalog_writer_finish(writer, &props, &self, &subtree, err);
}

static int make_parents(const struct lm_chain_tree_job *job, const struct lm_layer_path *path, struct lm_err *err)
{
	char parent[LM_LAYER_PATH_TEXT_MAX];
	snprintf(parent, sizeof(parent), "%.*s", (int)strlen(TREES "/xx"), path->s);
	int r = lm_txn_mkdirs(job->txn, TREES, true, err);
	return r < 0 ? r : lm_txn_mkdirs(job->txn, parent, false, err);
}

static int graft(const struct lm_chain_tree_job *job, const struct lm_layer_path *path, const struct file *file,
	struct lm_err *err)
{
	CLEANUP(lm_freep) char *db_path = lm_str_printf("%s/tree-catalog", lm_txn_scratch(job->txn));
	struct lm_hash nothing;
	if (!db_path)
		return lm_err_oom(err);
	int r = lm_packing_data(job->packing, "", 0, &nothing, err);
	if (r == 0)
		r = write_catalog(file, &nothing, path->s, db_path, err);
	if (r == 0)
		r = make_parents(job, path, err);
	if (r == 0)
		r = lm_txn_graft(job->txn, path->s, db_path, err);
	(void)unlink(db_path);
	return r;
}

/* --- both --- */

static int make(const struct lm_chain_tree_job *job, const struct lm_layer_path *path, struct lm_tree_report *report,
	struct lm_err *err)
{
	CLEANUP(file_done) struct file file = {.fd = -1};
	struct lm_err why = LM_ERR_INIT;
	int r = open_scratch(job, &file.fd, err);
	if (r < 0)
		return r;
	r = write_image(job, &file, &why);
	if (r == -ENOTSUP) {
		report->why = why;
		return 0;
	}
	if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	r = store(job->packing, &file, err);
	if (r == 0)
		r = graft(job, path, &file, err);
	report->made = r == 0;
	report->entries = file.image.names;
	report->bytes = file.image.bytes;
	report->content_bytes = file.image.content.bytes;
	return r;
}

int lm_chain_tree_make(const struct lm_chain_tree_job *job, struct lm_tree_report *ret, struct lm_err *err)
{
	struct lm_tree_report report = {0};
	struct lm_packing_stats before, after;
	struct lm_layer_path path;
	int64_t start_ms = lm_now_ms();
	int r = lm_chain_tree_path(job->image, &path, err);
	if (r == 0)
		r = lm_txn_has(job->txn, path.s, err);
	if (r == 0) {
		lm_packing_stats(job->packing, &before);
		r = make(job, &path, &report, err);
		lm_packing_stats(job->packing, &after);
		report.stored_bytes = after.bytes - before.bytes;
		report.ms = report.made ? lm_now_ms() - start_ms : 0;
	}
	if (r < 0)
		return lm_err_prefix(err, r, "tree of the layers");
	*ret = report;
	return 0;
}
