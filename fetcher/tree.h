/*
 * The tree of one repository, in terms of node numbers: what FUSE asks for, computed from catalogs.
 *
 * A node number says itself where its row is: catalog number (24 bits, catalogs.h) and row id (40 bits). So there is no
 * table of nodes, nothing to forget, and a number means the same for ever. LM_NODE_ROOT is row 1 of whichever catalog
 * is the current root; all that hangs below it by an unchanged catalog keeps its numbers when a new revision arrives.
 * A nested catalog's directory is row 1 of the nested catalog, not the mountpoint row of its parent. The members of a
 * hard-link group share one number, that of the lowest row.
 *
 * LAYERS. Below the name LM_TREE_LAYERS of the root, which no directory lists, the repository's directory .layers is
 * seen a second time, for overlayfs, by LM_VIEW_LAYERS of its catalogs: deletions as archives spell them (whiteout.h)
 * become character devices 0:0 and trusted.overlay.opaque, publishers' markers are hidden, all else is as it is. These
 * are nodes of their own. A name of the repository's own in that place can't be reached.
 *
 * ROWS. In a directory where a catalog begins, each regular file of that catalog and of those below it has another
 * name, by which merged trees call it (LM_IMAGES_ROW in repo/images.h); no directory lists these.
 *
 * Operations never wait: one that lacks a catalog returns LM_NEED and says in *ret_need which object; it has done
 * nothing, and is called again when the object is in the cache. Other results: 0, or
 *
 *   -ENOENT, -ENOTDIR, -EISDIR, -EINVAL, -ENODATA, -ENAMETOOLONG   the answer to the question asked
 *   -EPROTO a row or catalog is malformed; -EOPNOTSUPP external file; -ESTALE no such node; -ENOMEM, -EIO, ...
 *
 * Any thread may call anything.
 */
#ifndef LM_FETCHER_TREE_H
#define LM_FETCHER_TREE_H

#include "base/buf.h"
#include "fetcher/catalogs.h"

#include <sys/stat.h>

enum { LM_NODE_ROOT = 1 };
#define LM_TREE_LAYERS ".lamella-layers"

struct lm_tree;

int lm_tree_new(struct lm_catalogs *catalogs, struct lm_tree **ret, struct lm_err *err) MUST_CHECK;
void lm_tree_free(struct lm_tree *tree);
LM_DEFINE_CLEANUP(struct lm_tree, lm_tree_free, lm_tree_freep)

/* The number of the current root catalog; 0 before the first was set (operations are -EIO until then). */
void lm_tree_set_root(struct lm_tree *tree, uint32_t catalog_number);
uint32_t lm_tree_root(struct lm_tree *tree);

/* The node of a row. */
uint64_t lm_tree_node(uint32_t catalog_number, uint64_t rowid);

struct lm_entry {
	uint64_t node;
	struct stat attr; /* st_ino is the node */
};

int lm_tree_lookup(struct lm_tree *tree, uint64_t parent, const char *name, struct lm_entry *ret,
	struct lm_object_ref *ret_need, struct lm_err *err) MUST_CHECK;
int lm_tree_getattr(struct lm_tree *tree, uint64_t node, struct stat *ret, struct lm_object_ref *ret_need,
	struct lm_err *err) MUST_CHECK;
/* Appends the target, variables replaced. */
int lm_tree_readlink(struct lm_tree *tree, uint64_t node, struct lm_buf *ret, struct lm_object_ref *ret_need,
	struct lm_err *err) MUST_CHECK;

/*
 * Entries from cursor (0: the beginning) on, "." and ".." first, hidden ones left out. next is the cursor behind the
 * entry. fn returns non-zero to stop; the entry at hand then was not taken. Malformed rows are passed over; a listing
 * that reaches the end is then -EPROTO, with what was wrong with the first one.
 */
typedef int lm_tree_dirent_fn(void *arg, const char *name, const struct lm_entry *entry, uint64_t next);
int lm_tree_readdir(struct lm_tree *tree, uint64_t node, uint64_t cursor, lm_tree_dirent_fn *fn, void *arg,
	struct lm_object_ref *ret_need, struct lm_err *err) MUST_CHECK;

struct lm_piece {
	struct lm_object_ref ref;
	uint64_t offset; /* inside the object's content */
	size_t len;
};
enum { LM_READ_PIECES_MAX = 1024 };
struct lm_read_plan {
	struct lm_piece *pieces; /* in order, without gaps; none at or beyond the end of the file */
	size_t count;
};
void lm_read_plan_done(struct lm_read_plan *plan);

/* What of which objects makes up [offset, offset + len) of a file. */
int lm_tree_read_plan(struct lm_tree *tree, uint64_t node, uint64_t offset, size_t len, struct lm_read_plan *ret,
	struct lm_object_ref *ret_need, struct lm_err *err) MUST_CHECK;

/*
 * The chunks of a file that begin in [from, to), the first max of them; none where it has no chunks.
 *
 * The file of a merged tree is many files one after the other (convert/chain_content.h), each of which ends with chunks
 * of at most LM_CHUNK_END bytes: the list ends with them, and *ret_stop is where the next one begins. 0: there is no
 * such end. Of an ordinary file only the last chunk is as small.
 */
enum { LM_CHUNK_END = 4096 };
int lm_tree_chunks(struct lm_tree *tree, uint64_t node, uint64_t from, uint64_t to, struct lm_object_ref *ret,
	size_t max, size_t *ret_count, uint64_t *ret_stop, struct lm_object_ref *ret_need,
	struct lm_err *err) MUST_CHECK;

/* Appends the value: -ENODATA when the file has no such attribute. */
int lm_tree_getxattr(struct lm_tree *tree, uint64_t node, const char *name, struct lm_buf *ret,
	struct lm_object_ref *ret_need, struct lm_err *err) MUST_CHECK;
/* Appends the names, each with its NUL; trusted: also the trusted.* ones. */
int lm_tree_listxattr(struct lm_tree *tree, uint64_t node, bool trusted, struct lm_buf *ret,
	struct lm_object_ref *ret_need, struct lm_err *err) MUST_CHECK;

/* Whether nothing in the node's catalog and those below it has an extended attribute, by what their statistics say. */
int lm_tree_is_lean(
	struct lm_tree *tree, uint64_t node, bool *ret, struct lm_object_ref *ret_need, struct lm_err *err) MUST_CHECK;

/* Appends the node's path in the repository ("/" for the root), as far as it can be said with what is open. For logs.
 */
void lm_tree_path(struct lm_tree *tree, uint64_t node, struct lm_buf *ret);

/*
 * Which names in the root directory lead somewhere else in root catalog `to` than in `from` (hidden ones count, too):
 * what the kernel must be told to forget. All else keeps its node and stays valid: what an old root led to can still
 * be used by whoever is in there. from 0: a root that nobody knows any more; then all names in `to` (those that are in
 * it no more can't be told).
 */
typedef void lm_tree_name_fn(void *arg, const char *name);
int lm_tree_root_changes(struct lm_tree *tree, uint32_t from, uint32_t to, lm_tree_name_fn *fn, void *arg,
	struct lm_object_ref *ret_need, struct lm_err *err) MUST_CHECK;

#endif
