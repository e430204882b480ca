/* What the files of publishing share: the transaction and its catalogs. */
#ifndef LM_REPO_PUBLISH_INTERNAL_H
#define LM_REPO_PUBLISH_INTERNAL_H

#include "repo/publish.h"
#include "repo/whitelist.h"

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
	bool counted; /* those, see lm_node_child_counters() */
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
	char *history, *reflog; /* private copies, NULL until asked for */
};

/* Takes the storage's lock; the transaction has neither manifest nor packer nor root yet. */
int lm_txn_new(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn, struct lm_txn **ret,
	struct lm_err *err) MUST_CHECK;
enum lm_hash_algo lm_txn_algo(const struct lm_txn *txn); /* for new objects: that of the root catalog */
/* A new name in the transaction's directory; the caller frees it. */
int lm_txn_scratch_path(struct lm_txn *txn, const char *what, char **ret, struct lm_err *err) MUST_CHECK;

/*
 * How every change of a repository ends, be it of its tree, its tags or its past:
 *
 *   lm_txn_history(), change it, lm_txn_store_history()    where tags change
 *   lm_txn_reflog(), change it                             where something leaves it
 *   lm_txn_swap_manifest()                                 the one step that readers see
 */

/* The private copy of the history, a new one where the repository has none. *ret is the transaction's. */
int lm_txn_history(struct lm_txn *txn, const char **ret, struct lm_err *err) MUST_CHECK;
/* Stores that copy as it is now. */
int lm_txn_store_history(struct lm_txn *txn, struct lm_hash *ret, struct lm_err *err) MUST_CHECK;

/*
 * The private copy of the reflog. It names what the base manifest names, whatever state the file is in: one that is
 * ahead of the manifest (see reflog.h), or that stock garbage collection has rewritten without signing the manifest
 * anew, is taken as it is and completed; one that is missing or damaged is made anew from the manifest and the tags.
 */
int lm_txn_reflog(struct lm_txn *txn, const char **ret, struct lm_err *err) MUST_CHECK;

/*
 * Takes a manifest that is complete but for certificate and reflog (a copy of the base, with what is new) and makes it
 * the current one: stores the certificate, adds root catalog, certificate, history and metainfo to the reflog, gives
 * them their second names where the manifest says so, makes everything durable, replaces the reflog, signs, replaces
 * the manifest. manifest is then what was signed. Killed between the last two: see reflog.h.
 */
int lm_txn_swap_manifest(struct lm_txn *txn, struct lm_manifest *manifest, struct lm_err *err) MUST_CHECK;

/* The time for a manifest that comes after the base. */
int64_t lm_txn_now(const struct lm_txn *txn);

/* Appends the signature over the hash line that text ends with: lm_sign_manifest or lm_sign_whitelist. */
typedef int lm_sign_fn(
	const struct lm_key *key, const char *hash_text, size_t len, struct lm_buf *ret, struct lm_err *err);
int lm_signed_text_sign(const struct lm_key *key, lm_sign_fn *sign, struct lm_buf *text, struct lm_err *err) MUST_CHECK;
/* Signs it with the master key and makes it the current one. */
int lm_txn_put_whitelist(struct lm_txn *txn, const struct lm_whitelist *list, struct lm_err *err) MUST_CHECK;

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
/* Takes a child out of the list, and hands on the children strictly below path. */
void lm_node_take(struct lm_node *up, struct lm_node *child);
void lm_node_move_children(struct lm_node *from, const char *path, struct lm_node *to);
/* The nested catalog whose mountpoint is at path in node, opened where it was not; NULL where that is something else or
 * nothing. */
int lm_node_descend(struct lm_node *node, const char *path, struct lm_node **ret, struct lm_err *err) MUST_CHECK;
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

/* Reads the database back as a client would, then stores it. foreign: made by someone else, so that the nested
 * catalogs it names might be missing. */
int lm_txn_store_catalog(struct lm_txn *txn, const char *path, const char *mountpoint, bool foreign,
	struct lm_finished *ret, struct lm_err *err) MUST_CHECK;
/* Reads a stored catalog and all below it; see lm_txn_graft_stored(). */
int lm_txn_find_stored(struct lm_txn *txn, const char *mountpoint, const struct lm_hash *hash, uint64_t size,
	const struct lm_stored *stored, struct lm_finished *ret, struct lm_err *err) MUST_CHECK;

#endif
