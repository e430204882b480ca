/* How a transaction ends, and how a repository begins. */
#include "repo/publish_internal.h"

#include "base/clock.h"
#include "repo/history.h"
#include "repo/object_store.h"
#include "repo/whitelist.h"

#include <stdio.h>
#include <sys/stat.h>

#define MASTER_REPLICA ".cvmfs_master_replica"

static int commit_node(struct lm_node *node, int64_t now_s, struct lm_finished *ret, struct lm_err *err);

static int commit_children(struct lm_node *node, int64_t now_s, struct lm_err *err)
{
	for (struct lm_node *child = node->children; child; child = child->next) {
		if (!child->changed)
			continue;
		CLEANUP(lm_finished_done) struct lm_finished done = {0};
		int r = commit_node(child, now_s, &done, err);
		if (r == 0)
			r = lm_node_edit(node, err);
		if (r == 0)
			r = lm_catalog_set_nested(node->writer, child->mountpoint, &done.hash, done.size, &done.root,
				&done.self, &done.subtree, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int commit_node(struct lm_node *node, int64_t now_s, struct lm_finished *ret, struct lm_err *err)
{
	struct lm_counters self, subtree;
	struct lm_catalog_props props = {
		.revision = node->revision + 1,
		.last_modified_s = now_s,
		.previous = node->hash,
		.ttl_s = node->ttl_s,
	};
	int r = commit_children(node, now_s, err);
	if (r == 0)
		r = lm_catalog_writer_finish(node->writer, &props, &self, &subtree, err);
	if (r < 0)
		return r;
	lm_catalog_writer_free(STEAL(node->writer));
	return lm_txn_store_catalog(node->txn, node->path, node->mountpoint, false, ret, err);
}

static int advance_history(
	struct lm_txn *txn, const struct lm_history_root *trunk, struct lm_hash *ret, struct lm_err *err)
{
	const char *path;
	int r = lm_txn_history(txn, &path, err);
	if (r == 0)
		r = lm_history_advance(path, trunk, &txn->base.history, err);
	return r < 0 ? r : lm_txn_store_history(txn, ret, err);
}

static int commit(struct lm_txn *txn, struct lm_manifest *ret, struct lm_err *err)
{
	CLEANUP(lm_finished_done) struct lm_finished root = {0};
	struct lm_manifest manifest = txn->base;
	manifest.published_s = lm_txn_now(txn);
	int r = commit_node(txn->root, manifest.published_s, &root, err);
	if (r < 0)
		return r;
	manifest.catalog = root.hash;
	manifest.catalog_size = root.size;
	manifest.ttl_s = txn->root->ttl_s;
	manifest.revision = txn->root->revision + 1;
	struct lm_history_root trunk = {root.hash, manifest.revision, manifest.published_s, root.size};
	r = advance_history(txn, &trunk, &manifest.history, err);
	if (r == 0)
		r = lm_txn_swap_manifest(txn, &manifest, err);
	if (r == 0)
		*ret = manifest;
	return r;
}

int lm_txn_commit(struct lm_txn *txn, struct lm_manifest *ret, struct lm_err *err)
{
	struct lm_manifest manifest = txn->base;
	int r = txn->root->changed ? commit(txn, &manifest, err) : 0;
	if (r < 0)
		return lm_err_prefix(err, r, "publishing %s", txn->fqrn);
	if (ret)
		*ret = manifest;
	return 0;
}

/*
 * Making a repository: a transaction whose root is new.
 */

static int make_whitelist(struct lm_txn *txn, unsigned days, struct lm_err *err)
{
	CLEANUP(lm_freep) struct lm_whitelist *list = calloc(1, sizeof(*list));
	if (!list)
		return lm_err_oom(err);
	list->created_s = lm_wall_s();
	list->expires_s = list->created_s + (int64_t)days * 86400;
	list->count = 1;
	memcpy(list->fqrn, txn->fqrn, sizeof(list->fqrn));
	int r = lm_cert_fingerprint(txn->keys->cert, lm_txn_algo(txn), &list->fingerprints[0], err);
	return r < 0 ? r : lm_txn_put_whitelist(txn, list, err);
}

static int make_root(struct lm_txn *txn, uint64_t ttl_s, struct lm_err *err)
{
	struct lm_row row = lm_txn_new_row(S_IFDIR | 0755);
	row.size = 4096;
	int r = lm_node_new(txn, NULL, "", &txn->root, err);
	if (r == 0)
		r = lm_catalog_create(txn->root->path, "", &row, &txn->root->writer, err);
	if (r < 0)
		return r;
	txn->root->ttl_s = ttl_s;
	txn->root->changed = true;
	memcpy(txn->base.fqrn, txn->fqrn, sizeof(txn->base.fqrn));
	txn->base.garbage_collectable = true;
	return 0;
}

static int store_metainfo(struct lm_txn *txn, const char *metainfo, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_METAINFO_MAX);
	/* A valid name needs no escapes in JSON. */
	int r = metainfo
			? lm_buf_str(&text, metainfo)
			: lm_buf_printf(&text,
				  "{\"administrator\":\"\",\"email\":\"\",\"organisation\":\"\",\"description\":\"%s\","
				  "\"url\":\"\",\"recommended-stratum0\":\"\",\"recommended-stratum1s\":[]}\n",
				  txn->fqrn);
	return r < 0 ? lm_err_sys(err, r, "metainfo")
		     : lm_object_store(txn->storage, txn->packer, LM_OBJECT_METAINFO, text.data, text.len,
			       &txn->base.metainfo, err);
}

static int create_repo(struct lm_txn *txn, unsigned whitelist_days, uint64_t ttl_s, const char *metainfo,
	struct lm_manifest *ret, struct lm_err *err)
{
	static const char replica_note[] = "This repository may be replicated.\n";
	struct lm_storage *storage = txn->storage;
	int r = storage->ops->has(storage, LM_MANIFEST_NAME, err);
	if (r > 0)
		return lm_err_set(err, -EEXIST, "there is a repository already");
	if (r == 0)
		r = lm_packer_new(lm_txn_algo(txn), &txn->packer, err);
	if (r == 0)
		r = make_root(txn, ttl_s, err);
	if (r == 0)
		r = store_metainfo(txn, metainfo, err);
	if (r == 0)
		r = make_whitelist(txn, whitelist_days, err);
	if (r == 0)
		r = storage->ops->put(storage, MASTER_REPLICA, replica_note, sizeof(replica_note) - 1, err);
	return r < 0 ? r : commit(txn, ret, err);
}

int lm_repo_create(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	unsigned whitelist_days, uint64_t ttl_s, const char *metainfo, struct lm_manifest *ret, struct lm_err *err)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	if (!keys->key || !keys->cert || !keys->master)
		return lm_err_set(err, -EINVAL, "making %s takes its key, certificate and master key", fqrn);
	struct lm_manifest manifest;
	int r = lm_txn_new(storage, keys, fqrn, &txn, err);
	if (r == 0)
		r = create_repo(txn, whitelist_days, ttl_s, metainfo, &manifest, err);
	if (r < 0)
		return lm_err_prefix(err, r, "making %s", fqrn);
	if (ret)
		*ret = manifest;
	return 0;
}
