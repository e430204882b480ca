#include "repo/object_store.h"

#include "base/file.h"

/* What zlib may add to content that does not shrink. */
static size_t stored_max(size_t content)
{
	return content + content / 1000 + 1024;
}

int lm_object_store(struct lm_storage *storage, struct lm_packer *packer, enum lm_object_kind kind, const void *data,
	size_t len, struct lm_hash *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf stored = LM_BUF(stored_max(len));
	char path[LM_OBJECT_PATH_MAX];
	struct lm_hash hash;
	int r = kind == LM_OBJECT_CERTIFICATE || kind == LM_OBJECT_METAINFO
			? lm_pack_reproducible(packer, data, len, &stored, &hash, err)
			: lm_pack(packer, LM_COMPRESSION_ZLIB, data, len, &stored, &hash, err);
	if (r == 0)
		r = storage->ops->put(storage, lm_object_path(&hash, kind, path), stored.data, stored.len, err);
	if (r == 0)
		*ret = hash;
	return r;
}

int lm_object_store_file(struct lm_storage *storage, enum lm_hash_algo algo, enum lm_object_kind kind, const char *path,
	struct lm_hash *ret, uint64_t *ret_size, struct lm_err *err)
{
	CLEANUP(lm_closep) int from = open(path, O_RDONLY | O_CLOEXEC);
	if (from < 0)
		return lm_err_sys(err, -errno, "open %s", path);
	CLEANUP(lm_closep) int packed = lm_file_tmp(AT_FDCWD, storage->ops->scratch(storage), err);
	if (packed < 0)
		return packed;
	char name[LM_OBJECT_PATH_MAX];
	struct lm_hash hash;
	uint64_t size;
	int r = lm_pack_file(algo, from, packed, &hash, &size, err);
	if (r == 0)
		r = storage->ops->put_file(storage, lm_object_path(&hash, kind, name), packed, err);
	if (r < 0)
		return r;
	*ret = hash;
	*ret_size = size;
	return 0;
}

/* Absence is no answer here: something names the object. As -ENOENT it would read as "no such file" further up. */
static int missing(int code, const char *path, struct lm_err *err)
{
	return code == -ENOENT ? lm_err_set(err, -EIO, "%s is missing from the storage", path) : code;
}

int lm_object_load(struct lm_storage *storage, const struct lm_hash *hash, enum lm_object_kind kind,
	enum lm_compression compression, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf stored = LM_BUF(stored_max(ret->max - ret->len));
	char path[LM_OBJECT_PATH_MAX];
	int r = storage->ops->get(storage, lm_object_path(hash, kind, path), &stored, err);
	if (r < 0)
		return missing(r, path, err);
	r = lm_unpack_buf(hash, compression, lm_buf_cstr(&stored), stored.len, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "%s", path) : 0;
}

static int write_content(void *arg, const void *data, size_t len, struct lm_err *err)
{
	return lm_write_all(*(int *)arg, data, len, err);
}

int lm_object_load_file(struct lm_storage *storage, const struct lm_hash *hash, enum lm_object_kind kind,
	uint64_t content_max, const char *path, struct lm_err *err)
{
	char name[LM_OBJECT_PATH_MAX];
	CLEANUP(lm_closep) int packed = lm_file_tmp(AT_FDCWD, storage->ops->scratch(storage), err);
	if (packed < 0)
		return packed;
	int r = storage->ops->get_file(storage, lm_object_path(hash, kind, name), packed, err);
	if (r < 0)
		return missing(r, name, err);
	CLEANUP(lm_closep) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return lm_err_sys(err, -errno, "create %s", path);
	uint64_t size;
	r = lm_unpack_fd(hash, LM_COMPRESSION_ZLIB, packed, content_max, write_content, &fd, &size, err);
	if (r == 0)
		return 0;
	unlink(path);
	return lm_err_prefix(err, r, "%s", name);
}
