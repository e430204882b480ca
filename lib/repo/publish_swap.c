/* How every change of a repository becomes visible: history, reflog and manifest. */
#include "repo/publish_internal.h"

#include "base/clock.h"
#include "base/file.h"
#include "repo/history.h"
#include "repo/object_store.h"
#include "repo/reflog.h"

#include <stdio.h>

enum { ALIAS_MAX = LM_OBJECT_PATH_MAX + 16, REFS_MAX = 4 };

static const uint64_t history_max = (uint64_t)4 << 30;

int64_t lm_txn_now(const struct lm_txn *txn)
{
	return LM_MAX(lm_wall_s(), txn->base.published_s + 1);
}

/*
 * History
 */

int lm_txn_history(struct lm_txn *txn, const char **ret, struct lm_err *err)
{
	const struct lm_hash *base = &txn->base.history;
	if (!txn->history) {
		CLEANUP(lm_freep) char *path = NULL;
		int r = lm_txn_scratch_path(txn, "history", &path, err);
		if (r == 0)
			r = base->set
				    ? lm_object_load_file(txn->storage, base, LM_OBJECT_HISTORY, history_max, path, err)
				    : lm_history_create(path, txn->fqrn, err);
		if (r < 0)
			return r;
		txn->history = STEAL(path);
	}
	*ret = txn->history;
	return 0;
}

int lm_txn_store_history(struct lm_txn *txn, struct lm_hash *ret, struct lm_err *err)
{
	const char *path;
	uint64_t size;
	int r = lm_txn_history(txn, &path, err);
	return r < 0 ? r
		     : lm_object_store_file(txn->storage, lm_txn_algo(txn), LM_OBJECT_HISTORY, path, ret, &size, err);
}

/*
 * Reflog
 */

/* What a manifest names and a reflog lists. */
static size_t refs_of(const struct lm_manifest *m, struct lm_ref ret[REFS_MAX])
{
	const struct lm_ref all[REFS_MAX] = {
		{m->catalog, LM_REF_CATALOG, m->published_s},
		{m->certificate, LM_REF_CERTIFICATE, m->published_s},
		{m->history, LM_REF_HISTORY, m->published_s},
		{m->metainfo, LM_REF_METAINFO, m->published_s},
	};
	size_t count = 0;
	for (size_t i = 0; i < REFS_MAX; i++)
		if (all[i].hash.set)
			ret[count++] = all[i];
	return count;
}

static int add_manifest(const char *path, const struct lm_manifest *manifest, struct lm_err *err)
{
	struct lm_ref refs[REFS_MAX];
	return lm_reflog_add(path, refs, refs_of(manifest, refs), err);
}

struct tag_refs {
	struct lm_storage *storage;
	const char *path;
	struct lm_err *err;
};

static int add_tag(void *arg, const struct lm_tag *tag)
{
	const struct tag_refs *refs = arg;
	char object[LM_OBJECT_PATH_MAX];
	int r = refs->storage->ops->has(
		refs->storage, lm_object_path(&tag->hash, LM_OBJECT_CATALOG, object), refs->err);
	if (r <= 0)
		return r;
	return lm_reflog_add(refs->path, &(struct lm_ref){tag->hash, LM_REF_CATALOG, tag->time_s}, 1, refs->err);
}

static int rebuild_reflog(struct lm_txn *txn, const char *path, struct lm_err *err)
{
	const char *history;
	struct tag_refs refs = {txn->storage, path, err};
	int r = lm_reflog_create(path, txn->fqrn, err);
	if (r < 0 || !txn->base.catalog.set)
		return r; /* empty, like the repository */
	r = lm_txn_history(txn, &history, err);
	if (r == 0)
		r = lm_history_each(history, add_tag, &refs, err);
	return r < 0 ? r : add_manifest(path, &txn->base, err);
}

static int read_reflog(struct lm_txn *txn, const char *path, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return lm_err_sys(err, -errno, "create %s", path);
	int r = txn->storage->ops->get_file(txn->storage, LM_REFLOG_NAME, fd, err);
	return r < 0 ? r : add_manifest(path, &txn->base, err);
}

int lm_txn_reflog(struct lm_txn *txn, const char **ret, struct lm_err *err)
{
	if (!txn->reflog) {
		CLEANUP(lm_freep) char *path = NULL;
		struct lm_err why = LM_ERR_INIT;
		int r = lm_txn_scratch_path(txn, "reflog", &path, &why);
		if (r == 0)
			r = read_reflog(txn, path, &why);
		if (r == -ENOENT || r == -EPROTO) {
			unlink(path);
			r = rebuild_reflog(txn, path, &why);
		}
		if (r < 0)
			return lm_err_set(err, r, "%s", lm_err_text(&why));
		txn->reflog = STEAL(path);
	}
	*ret = txn->reflog;
	return 0;
}

/* Opens the reflog as it will be and puts its hash into the manifest. */
static int finish_reflog(struct lm_txn *txn, struct lm_manifest *manifest, int *ret_fd, struct lm_err *err)
{
	const char *path;
	int r = lm_txn_reflog(txn, &path, err);
	if (r == 0)
		r = add_manifest(path, manifest, err);
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return lm_err_sys(err, -errno, "open %s", path);
	r = lm_hash_fd(manifest->catalog.algo, fd, &manifest->reflog, err);
	if (r == 0)
		*ret_fd = STEAL_FD(fd);
	return r < 0 ? lm_err_prefix(err, r, "reflog") : 0;
}

/*
 * Manifest
 */

int lm_signed_text_sign(const struct lm_key *key, lm_sign_fn *sign, struct lm_buf *text, struct lm_err *err)
{
	struct lm_signed_text parts;
	int r = lm_signed_text_split(lm_buf_cstr(text), text->len, &parts, err);
	if (r < 0)
		return r;
	char hash[LM_HASH_TEXT_MAX]; /* a copy, since the text moves when it grows */
	if (parts.hash_text_len >= sizeof(hash))
		return lm_err_set(err, -EPROTO, "hash of %zu digits", parts.hash_text_len);
	memcpy(hash, parts.hash_text, parts.hash_text_len);
	return sign(key, hash, parts.hash_text_len, text, err);
}

/* Another writer's bytes for the same certificate have another hash: those that are there stay. */
static bool certificate_stored(struct lm_txn *txn)
{
	const struct lm_hash *base = &txn->base.certificate;
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX);
	CLEANUP(lm_cert_freep) struct lm_cert *cert = NULL;
	struct lm_hash stored, own;
	return base->set &&
	       lm_object_load(txn->storage, base, LM_OBJECT_CERTIFICATE, LM_COMPRESSION_ZLIB, &pem, NULL) == 0 &&
	       lm_cert_parse(lm_buf_cstr(&pem), pem.len, &cert, NULL) == 0 &&
	       lm_cert_fingerprint(cert, LM_HASH_SHA1, &stored, NULL) == 0 &&
	       lm_cert_fingerprint(txn->keys->cert, LM_HASH_SHA1, &own, NULL) == 0 && lm_hash_equal(&stored, &own);
}

static int store_certificate(struct lm_txn *txn, struct lm_hash *ret, struct lm_err *err)
{
	if (certificate_stored(txn)) {
		*ret = txn->base.certificate;
		return 0;
	}
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX);
	int r = lm_cert_format(txn->keys->cert, &pem, err);
	return r < 0 ? r
		     : lm_object_store(txn->storage, txn->packer, LM_OBJECT_CERTIFICATE, pem.data, pem.len, ret, err);
}

/* For repositories whose data/ is protected: what a client needs before it has credentials. */
static int make_aliases(struct lm_storage *storage, const struct lm_manifest *m, struct lm_err *err)
{
	const struct {
		const struct lm_hash *hash;
		enum lm_object_kind kind;
	} objects[] = {
		{&m->catalog, LM_OBJECT_CATALOG},
		{&m->certificate, LM_OBJECT_CERTIFICATE},
		{&m->history, LM_OBJECT_HISTORY},
		{&m->metainfo, LM_OBJECT_METAINFO},
	};
	int r = 0;
	for (size_t i = 0; i < ARRAY_LEN(objects) && r == 0; i++) {
		char path[LM_OBJECT_PATH_MAX], alias[ALIAS_MAX];
		if (!objects[i].hash->set)
			continue;
		lm_object_path(objects[i].hash, objects[i].kind, path);
		/* "data/3f/..." */
		snprintf(alias, sizeof(alias), ".cvmfsalt-%.2s%s", path + 5, path + 8);
		r = storage->ops->alias(storage, alias, path, err);
	}
	return r;
}

int lm_txn_swap_manifest(struct lm_txn *txn, struct lm_manifest *manifest, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	CLEANUP(lm_closep) int reflog = -1;
	struct lm_storage *storage = txn->storage;
	int r = store_certificate(txn, &manifest->certificate, err);
	if (r == 0)
		r = finish_reflog(txn, manifest, &reflog, err);
	if (r == 0)
		r = lm_manifest_format(manifest, &text, err);
	if (r == 0)
		r = lm_signed_text_sign(txn->keys->key, lm_sign_manifest, &text, err);
	if (r == 0 && manifest->alternative_catalogs)
		r = make_aliases(storage, manifest, err);
	if (r == 0)
		r = storage->ops->sync(storage, err);
	if (r == 0)
		r = storage->ops->put_file(storage, LM_REFLOG_NAME, reflog, err);
	return r < 0 ? r : storage->ops->put(storage, LM_MANIFEST_NAME, text.data, text.len, err);
}
