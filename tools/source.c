#include "source.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "s3/config.h"
#include "s3/storage.h"
#include "storage_http.h"

#include <stdio.h>
#include <string.h>

void lm_repo_source_done(struct lm_repo_source *source)
{
	lm_public_keys_done(&source->keys);
	lm_storage_free(source->storage);
	free(source->fqrn);
	free(source->where);
	*source = (struct lm_repo_source){0};
}

/* --- public keys --- */

static int add_keys(struct lm_repo_source *source, const char *dir, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s.pub", dir, source->fqrn);
	if (!path)
		return lm_err_oom(err);
	return access(path, F_OK) == 0 ? lm_public_keys_add(&source->keys, path, err)
				       : lm_public_keys_add_dir(&source->keys, dir, err);
}

/* Keys that are given must be readable; those that are only recorded need not be. */
static int load_keys(
	struct lm_repo_source *source, const struct lm_repo_source_options *o, const char *recorded, struct lm_err *err)
{
	if (o->key)
		return lm_public_keys_add(&source->keys, o->key, err);
	if (o->keys)
		return add_keys(source, o->keys, err);
	if (recorded)
		(void)add_keys(source, recorded, &source->keys_err);
	else
		lm_err_set(&source->keys_err, -ENOENT, "no public key of %s is known: give --key FILE or --keys DIR",
			source->fqrn);
	return 0;
}

/* --- where it is --- */

static bool is_url(const char *where)
{
	return lm_str_starts(where, "http://") || lm_str_starts(where, "https://") || lm_s3_is_url(where);
}

int lm_repo_record_open(const struct lm_repo_record *record, const char *s3_config, bool create,
	struct lm_storage **ret, struct lm_err *err)
{
	return lm_repo_record_remote(record)
		       ? lm_storage_s3_open(record->dir, s3_config ? s3_config : record->s3_config, ret, err)
		       : lm_storage_dir_open(record->dir, create, ret, err);
}

/* The last component of the first URL or of a directory: a copy. */
static char *last_component(const char *where)
{
	size_t len = is_url(where) ? strcspn(where, ";") : strlen(where);
	while (len > 0 && where[len - 1] == '/')
		len--;
	size_t start = len;
	while (start > 0 && where[start - 1] != '/')
		start--;
	return lm_str_ndup(where + start, len - start);
}

static int find_name(const char *where, const char *given, char **ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *name = NULL;
	CLEANUP(lm_freep) char *real = given || is_url(where) ? NULL : realpath(where, NULL);
	if (!given && !real && !is_url(where))
		return lm_err_sys(err, -errno, "%s", where);
	name = given ? strdup(given) : last_component(real ? real : where);
	if (!name)
		return lm_err_oom(err);
	if (!lm_fqrn_valid(name))
		return lm_err_set(err, -EINVAL, "\"%s\" is no name of a repository: give --name NAME", name);
	*ret = STEAL(name);
	return 0;
}

/* The keys of a repository that is recorded under that name, or NULL. */
static int recorded_keys(const char *name, char **ret, struct lm_err *err)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record record = {0};
	if (lm_repo_record_load(name, NULL, NULL, &record, NULL) == 0)
		*ret = STEAL(record.keys);
	return 0;
}

static int open_place(const char *where, const struct lm_repo_source_options *o, struct lm_repo_source *ret,
	char **ret_keys, struct lm_err *err)
{
	if (o->storage)
		return lm_err_set(err, -EINVAL, "--storage goes with a NAME, not with %s", where);
	int r = find_name(where, o->name, &ret->fqrn, err);
	if (r == 0)
		r = recorded_keys(ret->fqrn, ret_keys, err);
	if (r < 0)
		return r;
	ret->where = strdup(where);
	if (!ret->where)
		return lm_err_oom(err);
	ret->remote = is_url(where);
	if (lm_s3_is_url(where))
		return lm_storage_s3_open(where, o->s3_config, &ret->storage, err);
	return ret->remote ? lm_storage_http_open(where, o->proxy, ret->fqrn, &ret->storage, err)
			   : lm_storage_dir_open(where, false, &ret->storage, err);
}

static int open_record(const char *name, const struct lm_repo_source_options *o, struct lm_repo_source *ret,
	char **ret_keys, struct lm_err *err)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record record = {0};
	if (o->name)
		return lm_err_set(err, -EINVAL, "--name goes with a directory or URL; \"%s\" is a name already", name);
	int r = lm_repo_record_load(name, o->storage, o->keys, &record, err);
	if (r == 0)
		r = lm_repo_record_open(&record, o->s3_config, false, &ret->storage, err);
	if (r < 0)
		return r;
	ret->remote = lm_repo_record_remote(&record);
	ret->fqrn = STEAL(record.name);
	ret->where = STEAL(record.dir);
	*ret_keys = STEAL(record.keys);
	return 0;
}

int lm_repo_source_open(
	const char *where, const struct lm_repo_source_options *options, struct lm_repo_source *ret, struct lm_err *err)
{
	CLEANUP(lm_repo_source_done) struct lm_repo_source source = {0};
	CLEANUP(lm_freep) char *keys = NULL;
	bool place = is_url(where) || strchr(where, '/') || strcmp(where, ".") == 0 || strcmp(where, "..") == 0;
	if (options->key && options->keys)
		return lm_err_set(err, -EINVAL, "--key and --keys exclude each other");
	int r = place ? open_place(where, options, &source, &keys, err)
		      : open_record(where, options, &source, &keys, err);
	source.manifest = options->manifest;
	source.whitelist = options->whitelist;
	if (r == 0)
		r = load_keys(&source, options, keys, err);
	if (r < 0)
		return r;
	*ret = source;
	source = (struct lm_repo_source){0};
	return 0;
}

/* --- what it says --- */

const char *lm_verdict_name(enum lm_verdict verdict)
{
	static const char *const names[] = {"valid", "invalid", "unchecked"};
	return names[verdict];
}

static int read_text(
	struct lm_repo_source *source, const char *file, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	return file ? lm_file_read(AT_FDCWD, file, ret, err)
		    : source->storage->ops->get(source->storage, path, ret, err);
}

int lm_repo_source_manifest_text(struct lm_repo_source *source, struct lm_buf *ret, struct lm_err *err)
{
	return read_text(source, source->manifest, LM_MANIFEST_NAME, ret, err);
}

int lm_repo_source_whitelist_text(struct lm_repo_source *source, struct lm_buf *ret, struct lm_err *err)
{
	return read_text(source, source->whitelist, LM_WHITELIST_NAME, ret, err);
}

int lm_repo_source_fetch_signed(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err)
{
	struct lm_repo_source *source = arg;
	char path[LM_OBJECT_PATH_MAX];
	if (!certificate || !certificate->set)
		return lm_repo_source_whitelist_text(source, ret, err);
	return source->storage->ops->get(
		source->storage, lm_object_path(certificate, LM_OBJECT_CERTIFICATE, path), ret, err);
}

struct lm_trust lm_repo_source_trust(const struct lm_repo_source *source)
{
	return (struct lm_trust){
		.fqrn = source->fqrn, .keys = source->keys.keys, .key_count = source->keys.count, .now_s = lm_wall_s()};
}

int lm_repo_source_judge(struct lm_repo_source *source, const struct lm_buf *text, struct lm_repo_source_manifest *ret,
	struct lm_err *err)
{
	struct lm_trust trust = lm_repo_source_trust(source);
	struct lm_manifest trusted;
	ret->verdict = LM_INVALID;
	int r = lm_manifest_parse(lm_buf_cstr(text), text->len, &ret->manifest, &ret->reason);
	if (r < 0)
		return lm_err_set(err, r, "repository %s: %s", source->fqrn, ret->reason.msg);
	if (source->keys.count == 0) {
		ret->verdict = LM_UNCHECKED;
		ret->reason = source->keys_err;
	} else if (lm_trust_manifest(&trust, lm_buf_cstr(text), text->len, lm_repo_source_fetch_signed, source,
			   &trusted, &ret->reason) == 0) {
		ret->verdict = LM_VALID;
	}
	return 0;
}

int lm_repo_source_manifest(struct lm_repo_source *source, struct lm_repo_source_manifest *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	int r = lm_repo_source_manifest_text(source, &text, err);
	if (r < 0)
		return lm_err_prefix(err, r, "repository %s", source->fqrn);
	return lm_repo_source_judge(source, &text, ret, err);
}

/* --- databases --- */

const char *lm_tmp_dir(void)
{
	const char *dir = getenv("TMPDIR");
	return dir && *dir ? dir : "/var/tmp";
}

void lm_repo_source_dropp(char **path)
{
	if (*path)
		unlink(*path);
	free(*path);
	*path = NULL;
}

static int write_sink(void *arg, const void *data, size_t len, struct lm_err *err)
{
	return lm_write_all(*(int *)arg, data, len, err);
}

static int fill_database(
	struct lm_repo_source *source, const struct lm_hash *hash, enum lm_object_kind kind, int fd, struct lm_err *err)
{
	char object[LM_OBJECT_PATH_MAX];
	CLEANUP(lm_closep) int packed = lm_file_tmp(AT_FDCWD, lm_tmp_dir(), err);
	if (packed < 0)
		return packed;
	int r = source->storage->ops->get_file(source->storage, lm_object_path(hash, kind, object), packed, err);
	if (r < 0)
		return r;
	uint64_t size;
	r = lm_unpack_fd(hash, LM_COMPRESSION_ZLIB, packed, LM_DATABASE_MAX, write_sink, &fd, &size, err);
	return r < 0 ? lm_err_prefix(err, r, "%s", object) : 0;
}

int lm_tmp_named(char **ret_path, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/lamella.XXXXXX", lm_tmp_dir());
	if (!path)
		return lm_err_oom(err);
	int fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return lm_err_sys(err, -errno, "temporary file %s", path);
	*ret_path = STEAL(path);
	return fd;
}

int lm_repo_source_database(struct lm_repo_source *source, const struct lm_hash *hash, enum lm_object_kind kind,
	char **ret_path, struct lm_err *err)
{
	CLEANUP(lm_repo_source_dropp) char *path = NULL;
	CLEANUP(lm_closep) int fd = lm_tmp_named(&path, err); /* SQLite wants a name */
	int r = fd < 0 ? fd : fill_database(source, hash, kind, fd, err);
	if (r == 0)
		*ret_path = STEAL(path);
	return r;
}

int lm_repo_source_catalog(struct lm_repo_source *source, const struct lm_hash *hash, const char *mountpoint,
	struct lm_catalog **ret, struct lm_err *err)
{
	CLEANUP(lm_repo_source_dropp) char *path = NULL;
	int r = lm_repo_source_database(source, hash, LM_OBJECT_CATALOG, &path, err);
	if (r == 0)
		r = lm_catalog_open(path, mountpoint, ret, err); /* which keeps the file open */
	return r < 0 ? lm_err_prefix(err, r, "catalog %s", lm_hash_text(hash).s) : 0;
}
