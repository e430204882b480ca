/* What the files of publishing share: the transaction and its catalogs. */
#ifndef LM_REPO_PUBLISH_INTERNAL_H
#define LM_REPO_PUBLISH_INTERNAL_H

#include "repo/publish.h"

#define LM_CATALOG_MARKER ".cvmfscatalog" /* an empty file in the root of every nested catalog; nowhere else */

/* A catalog that the transaction has looked into. */
struct lm_node {
	struct lm_txn *txn;
	struct lm_node *up;		 /* the catalog it is nested in, NULL for the root */
	struct lm_node *children, *next; /* those that were opened or made */
	char *mountpoint;
	char *path;			  /* the private copy of its database */
	struct lm_catalog *reader;	  /* either this, as it was at begin, */
	struct lm_catalog_writer *writer; /* or this, since it was changed; neither once it is finished */
	bool changed;			  /* it or one below: gets a new hash at commit */

	/* at begin; unset hash: made by this transaction */
	struct lm_hash hash;
	uint64_t revision, ttl_s;
	struct lm_counters self, subtree;
};

struct lm_txn {
	struct lm_storage *storage;
	const struct lm_repo_keys *keys;
	char fqrn[LM_FQRN_MAX + 1];
	struct lm_manifest base;
	struct lm_packer *packer;
	char *scratch; /* a directory of our own */
	unsigned files;
	struct lm_node *root;
};

/* Takes the storage's lock; the transaction has neither manifest nor packer nor root yet. */
int lm_txn_new(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn, struct lm_txn **ret,
	struct lm_err *err) MUST_CHECK;
enum lm_hash_algo lm_txn_algo(const struct lm_txn *txn); /* for new objects: that of the root catalog */
/* A new name in the transaction's directory; the caller frees it. */
int lm_txn_scratch_path(struct lm_txn *txn, const char *what, char **ret, struct lm_err *err) MUST_CHECK;

/* root:root, now. */
struct lm_row lm_txn_new_row(uint32_t mode);

/* A node with neither reader nor writer; it belongs to the caller until lm_node_add(). */
int lm_node_new(struct lm_txn *txn, struct lm_node *up, const char *mountpoint, struct lm_node **ret,
	struct lm_err *err) MUST_CHECK;
void lm_node_free(struct lm_node *node); /* with its children */
LM_DEFINE_CLEANUP(struct lm_node, lm_node_free, lm_node_freep)
void lm_node_add(struct lm_node *up, struct lm_node *child);
/* Fetches the catalog and opens it for reading. size: 0 unknown. */
int lm_node_open(struct lm_txn *txn, struct lm_node *up, const char *mountpoint, const struct lm_hash *hash,
	uint64_t size, struct lm_node **ret, struct lm_err *err) MUST_CHECK;
struct lm_node *lm_node_child(const struct lm_node *node, const char *mountpoint);
/* Drops what was opened at path or below, after that went out of the catalog. */
void lm_node_forget_below(struct lm_node *node, const char *path);

int lm_node_row(struct lm_node *node, const char *path, struct lm_row *ret, struct lm_err *err) MUST_CHECK;
int lm_node_chunks(struct lm_node *node, const struct lm_row *row, struct lm_chunk **ret, size_t *ret_count,
	struct lm_err *err) MUST_CHECK;
int lm_node_edit(struct lm_node *node, struct lm_err *err) MUST_CHECK; /* gives it a writer, marks it changed */
lm_catalog_child_fn lm_node_child_counters;			       /* arg: the node whose writer asks */

/* The catalog that holds the row of path: the deepest one whose mountpoint is above it. */
int lm_txn_owner(struct lm_txn *txn, const char *path, struct lm_node **ret, struct lm_err *err) MUST_CHECK;
/* The row, too. *ret_owner is also set where there is no such row (-ENOENT). */
int lm_txn_find(struct lm_txn *txn, const char *path, struct lm_node **ret_owner, struct lm_row *ret,
	struct lm_err *err) MUST_CHECK;

/* What a catalog above needs to know of a finished one. */
struct lm_finished {
	struct lm_hash hash;
	uint64_t size;
	struct lm_row root;
	struct lm_counters self, subtree;
};
void lm_finished_done(struct lm_finished *finished);
/* Reads the database back as a client would, then stores it. foreign: made by someone else, so that the nested
 * catalogs it names might be missing. */
int lm_txn_store_catalog(struct lm_txn *txn, const char *path, const char *mountpoint, bool foreign,
	struct lm_finished *ret, struct lm_err *err) MUST_CHECK;

#endif
