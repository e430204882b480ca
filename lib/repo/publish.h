/*
 * Publishing: a transaction that changes the tree of a repository and ends in one atomic swap of the manifest.
 *
 *   lm_txn_begin(storage, keys, fqrn)   takes the publisher's lock, opens the current root (verified by its own key)
 *   lm_txn_mkdirs / put* / graft / remove    change catalogs in private copies; content objects are stored at once
 *   lm_txn_commit()   nested catalogs bottom-up, root, history, certificate, reflog, then the manifest
 *   lm_txn_free()     without commit: the repository is as it was
 *
 * One thread uses a transaction (objects may be put into the storage by others meanwhile). Only catalogs on changed
 * paths are copied and rewritten. Storage and keys must outlive the transaction. Whatever is referenced is stored
 * before what refers to it, and the manifest last: a publisher that dies leaves the old revision, and at most objects
 * that nobody names and a reflog that is ahead of the manifest (see reflog.h).
 *
 * Repositories made by stock tools are published into as they are: hash algorithm, TTL, flags and properties of the
 * root, metainfo, second names of objects, tags and reflog stay; catalogs of older schemas are brought up to date when
 * they are changed.
 */
#ifndef LM_REPO_PUBLISH_H
#define LM_REPO_PUBLISH_H

#include "repo/catalog.h"
#include "repo/manifest.h"
#include "repo/repo_keys.h"
#include "repo/storage.h"

/* A new repository: whitelist (valid whitelist_days), certificate, metainfo (JSON text of at most LM_METAINFO_MAX
 * bytes, NULL: one with the name alone), empty root catalog, history, reflog, leave to replicate it, first manifest;
 * garbage may be collected. -EEXIST where one is. */
enum { LM_METAINFO_MAX = 64 << 10 };
int lm_repo_create(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	unsigned whitelist_days, uint64_t ttl_s, const char *metainfo, struct lm_manifest *ret,
	struct lm_err *err) MUST_CHECK;

/* Takes the storage's lock (-EBUSY). -ENOENT: no repository there. -EBADMSG: its manifest is not signed by our key, or
 * an object is damaged. */
struct lm_txn;
int lm_txn_begin(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn, struct lm_txn **ret,
	struct lm_err *err) MUST_CHECK;
void lm_txn_free(struct lm_txn *txn);
LM_DEFINE_CLEANUP(struct lm_txn, lm_txn_free, lm_txn_freep)

const struct lm_manifest *lm_txn_base(const struct lm_txn *txn); /* the manifest that was current at begin */
/* A directory of its own, for databases that are to be grafted: goes with it, or when the next one begins. */
const char *lm_txn_scratch(const struct lm_txn *txn);

/* Looks through nested catalogs. -ENOENT. */
int lm_txn_lookup(struct lm_txn *txn, const char *path, struct lm_row *ret, struct lm_err *err) MUST_CHECK;
/* Appends a small file's content (zlib or plain, chunked or not), its hash checked. -EISDIR, -EINVAL: no file;
 * -EMSGSIZE: more than ret->max. */
int lm_txn_read(struct lm_txn *txn, const char *path, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;

/* The rows of the directory at path, as lm_catalog_list() gives them, those of the markers too. The callback must not
 * change the transaction. -ENOENT, -ENOTDIR. */
int lm_txn_list(struct lm_txn *txn, const char *path, lm_catalog_row_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;
/* The nested catalog that begins at path as it is stored: without what this transaction has changed inside since it
 * began, or since the catalog was grafted. -ENOENT: none begins there, or it is not stored yet. The caller frees
 * ret->path. */
int lm_txn_nested(struct lm_txn *txn, const char *path, struct lm_nested *ret, struct lm_err *err) MUST_CHECK;

/* Directories up to and including path, 0755 root now, where missing (-ENOTDIR where something else is); nested: make
 * the last one a nested catalog with its .cvmfscatalog marker. What an ordinary directory holds already moves into that
 * catalog; hard-link groups are then split into those inside and those outside. */
int lm_txn_mkdirs(struct lm_txn *txn, const char *path, bool nested, struct lm_err *err) MUST_CHECK;
/* A small file, 0644 root; replaces another file (-EISDIR). Its directory must exist (-ENOENT, -ENOTDIR). What is there
 * already with the same content is left as it is. */
int lm_txn_put_data(struct lm_txn *txn, const char *path, const void *data, size_t len, struct lm_err *err) MUST_CHECK;
int lm_txn_put_symlink(struct lm_txn *txn, const char *path, const char *target, struct lm_err *err) MUST_CHECK;
/*
 * Any row, as lm_catalog_put() takes it (rowid, path, parent, name and the flags of type and nesting are filled in):
 * its content, or chunks, must be stored already. A directory that is there keeps what it holds and takes over the
 * attributes, the roots of nested catalogs and of the repository ("") included; it gives way to nothing but a directory
 * (-EISDIR), all else to anything. Same directory, marker and already-there rules as above.
 *
 * link_group is a number within the catalog that holds the path. lm_txn_new_group() gives one that is free there;
 * members must be put with equal attributes and content, or they become files of their own at commit.
 */
int lm_txn_put(struct lm_txn *txn, const char *path, const struct lm_row *row, const struct lm_chunk *chunks,
	size_t count, struct lm_err *err) MUST_CHECK;
int lm_txn_new_group(struct lm_txn *txn, const char *path, uint32_t *ret, struct lm_err *err) MUST_CHECK;
/* What a catalog needs to know of a finished one that is nested in it: lm_catalog_set_nested(). */
struct lm_finished {
	struct lm_hash hash;
	uint64_t size;
	struct lm_row root;
	struct lm_counters self, subtree;
};
void lm_finished_done(struct lm_finished *finished); /* for CLEANUP */

/* Packs and stores a finished catalog (as for graft) that another one is going to name, which is then grafted or stored
 * itself. -EINVAL as there. */
int lm_txn_store_nested(struct lm_txn *txn, const char *path, const char *db_path, struct lm_finished *ret,
	struct lm_err *err) MUST_CHECK;
/* Hangs a finished catalog (made by lm_catalog_create() with this mountpoint, closed, at db_path) into the tree,
 * replacing what is there: packs and stores it. Parent directories must exist. -EINVAL: it lacks its marker or names
 * nested catalogs that are not stored. */
int lm_txn_graft(struct lm_txn *txn, const char *path, const char *db_path, struct lm_err *err) MUST_CHECK;
/*
 * The same with a catalog that an earlier transaction has stored, whether that was committed or not; size: of its
 * database.
 * It and all that are nested in it are read, and everything that they name is asked for. -ENOENT: some of it is not in
 * the storage any more; -EBADMSG, -EPROTO: a catalog is damaged. The tree is then as it was.
 */
typedef int lm_stored_fn(void *arg, const struct lm_hash *hash, enum lm_object_kind kind, struct lm_err *err);
struct lm_stored { /* says whether an object is stored: 1, 0, or negative */
	lm_stored_fn *fn;
	void *arg;
};
int lm_txn_graft_stored(struct lm_txn *txn, const char *path, const struct lm_hash *hash, uint64_t size,
	const struct lm_stored *stored, struct lm_err *err) MUST_CHECK;
/* With all that is below; absent: 0. Removing the marker .cvmfscatalog of a nested catalog folds that into the catalog
 * above: the directory stays, and all it holds. */
int lm_txn_remove(struct lm_txn *txn, const char *path, struct lm_err *err) MUST_CHECK;

/* Nothing changed: 0 with *ret = the base. ret may be NULL. Afterwards, also after a failure, only lm_txn_free(). */
int lm_txn_commit(struct lm_txn *txn, struct lm_manifest *ret, struct lm_err *err) MUST_CHECK;

#endif
