/*
 * The tree of one layer, in memory, built entry by entry as containerd unpacks a layer's tar onto the upper directory
 * of an overlay (as root, with overlay's kind of whiteouts).
 *
 * The rules, where they are not what one would expect:
 *
 *   names      cleaned lexically, then symbolic links among the parents are followed inside the layer; an entry for
 *              the root itself is passed over, so the root is 0755 root
 *   parents    missing ones are made: as the nearest layer below has them, else 0755 root
 *   again      a directory over a directory keeps children and attributes, and takes the new mode, owner and times;
 *              else the newer entry replaces the older tree
 *   .wh.NAME   becomes the character device 0:0 NAME, whatever type the entry has; NAME already in this layer is an
 *              error, a later NAME replaces it; .wh..wh..opq sets trusted.overlay.opaque=y on its directory and
 *              touches nothing else; other names with .wh. twice are whiteouts like any
 *   lowest     a layer with none below is no overlay's upper directory yet: there .wh.NAME removes NAME, and
 *              .wh..wh..opq removes what is below its directory and came without an entry of its own
 *   hard links the target's parents are followed, the target itself is not; it takes the link entry's attributes.
 *              No target, or a directory: an error
 *   chown      drops a security.capability set before, as the kernel does: a hard link entry without one loses it
 *   attributes trusted.* and what Linux has no name space for are passed over, so is user.* on what is neither a file
 *              nor a directory; malformed ones are an error
 *   ACLs       access ACLs take the permissions of the entry's mode, as chmod writes them; those that say no more than
 *              a mode are not kept
 *   times      before 1970 and from 2262 on become 1970; those of directories are set again at the end
 *
 * What containerd refuses to unpack is refused: -EPROTO, naming the entry. Old GNU sparse files are taken all the same.
 * The tree owns all it hands out until it is freed, also what later entries replaced: content may be filled in by
 * other threads. One thread applies.
 */
#ifndef LM_TOOLS_LAYER_TREE_H
#define LM_TOOLS_LAYER_TREE_H

#include "convert/tar.h"
#include "repo/catalog.h"

#define LM_OVERLAY_OPAQUE "trusted.overlay.opaque"

enum { LM_LAYER_PATH_MAX = 4095 };	    /* of a path inside the layer, as the kernel's */
#define LM_LAYER_TREE_MAX ((size_t)4 << 30) /* bytes of memory, of which a name takes about 250; more: -ENOMEM */

struct lm_layer_xattr {
	struct lm_layer_xattr *next;
	const char *key;
	void *value;
	size_t value_len;
};

/* Part of a file's content; offset and size are set by who cuts, hash by who packs. Filled in order, next != NULL only
 * where this one is full. */
struct lm_layer_chunks {
	struct lm_layer_chunks *next;
	unsigned count;
	struct lm_chunk chunks[16];
};

/* Where a catalog begins: at the first len bytes of the repository path of all that it lists. */
struct lm_layer_begin {
	const struct lm_layer_begin *up; /* of the catalog that it hangs in; NULL: that of the layer */
	size_t len;
};

struct lm_layer_inode {
	uint32_t mode; /* full st_mode */
	uint32_t uid, gid;
	uint32_t names; /* how many names lead here; 0: replaced */
	uint32_t group; /* for who writes the tree: 0 at first, see layer_split.h */
	uint32_t mtime_ns;
	int64_t mtime_s;
	uint64_t rdev;
	const char *target; /* of a symbolic link */
	struct lm_layer_xattr *xattrs;
	/* regular files */
	uint64_t size;
	struct lm_hash hash; /* of the whole, where it is not cut */
	uint8_t compression; /* enum lm_compression of the hash's object, or of the chunks: zlib at first */
	uint32_t layer;	     /* of several that were merged, the one that it comes from (merge.h) */
	uint32_t links;	     /* what overlayfs says of a merged one; 0: as many as it has names */
	const struct lm_layer_begin *begin; /* of a merged one: its catalog */
	struct lm_layer_chunks *chunks;	    /* NULL: not cut */
	struct lm_layer_chunks *last_chunks;
};

struct lm_layer_node {
	struct lm_layer_node *parent;				   /* NULL: the root */
	struct lm_layer_node *children, *last_child, *next, *prev; /* in the order of the entries */
	struct lm_layer_node *same_hash;
	struct lm_layer_inode *inode;
	bool listed;	  /* by an entry, not only as a parent */
	bool seen;	  /* for who compares the tree: false at first */
	const char *name; /* "" for the root */
	uint64_t name_hash;
};

/* The layers below, nearest first: finds the row of "/path" in one of them. -ENOENT: not there. */
typedef int lm_layer_below_fn(void *arg, size_t index, const char *path, struct lm_row *ret, struct lm_err *err);
struct lm_layer_below {
	lm_layer_below_fn *lookup;
	void *arg;
	size_t count;
};

struct lm_layer_tree;
/* below is copied; NULL or a count of 0: this is the lowest layer. */
int lm_layer_tree_new(const struct lm_layer_below *below, struct lm_layer_tree **ret, struct lm_err *err) MUST_CHECK;
void lm_layer_tree_free(struct lm_layer_tree *tree);
LM_DEFINE_CLEANUP(struct lm_layer_tree, lm_layer_tree_free, lm_layer_tree_freep)

/* *ret_file: the inode that the entry's content belongs to, NULL where the entry has none. */
int lm_layer_tree_apply(struct lm_layer_tree *tree, const struct lm_tar_entry *entry, struct lm_layer_inode **ret_file,
	struct lm_err *err) MUST_CHECK;
/* After the last entry. */
int lm_layer_tree_finish(struct lm_layer_tree *tree, struct lm_err *err) MUST_CHECK;

/* Room for the next chunk of a file; it stays where it is. */
int lm_layer_tree_add_chunk(struct lm_layer_tree *tree, struct lm_layer_inode *file, uint64_t offset, uint64_t size,
	struct lm_chunk **ret, struct lm_err *err) MUST_CHECK;

/*
 * For who builds a tree by other rules than a tar's (flat.h): a further name, which must be free, for *inode, or where
 * that is NULL for a new one of that mode, which is root's.
 */
int lm_layer_tree_add(struct lm_layer_tree *tree, struct lm_layer_node *dir, const char *name, uint32_t mode,
	struct lm_layer_inode **inode, struct lm_err *err) MUST_CHECK;
/* It stays as long as the tree. */
int lm_layer_tree_begin(struct lm_layer_tree *tree, const struct lm_layer_begin *up, size_t len,
	const struct lm_layer_begin **ret, struct lm_err *err) MUST_CHECK;
/* Mode, owner, time, size, device, hash, attributes but overlayfs's own, and target of a catalog's row; not the chunks.
 */
int lm_layer_tree_set(struct lm_layer_tree *tree, struct lm_layer_inode *inode, const struct lm_row *row,
	struct lm_err *err) MUST_CHECK;
/* Whether something is at path, links followed. */
bool lm_layer_tree_leads(struct lm_layer_tree *tree, const char *path);

struct lm_layer_node *lm_layer_tree_root(struct lm_layer_tree *tree);
/* By "/exact/path", following no links; NULL: not there. */
struct lm_layer_node *lm_layer_tree_find(struct lm_layer_tree *tree, const char *path);
struct lm_layer_node *lm_layer_tree_child(
	struct lm_layer_tree *tree, const struct lm_layer_node *dir, const char *name);

/* Takes a name (not the root) and all below it away. */
void lm_layer_tree_remove(struct lm_layer_tree *tree, struct lm_layer_node *node);

#endif
