/* The catalogs of a transaction: opened where something is looked up, made writable where something changes. */
#include "repo/publish_internal.h"

#include "base/str.h"
#include "repo/catalog_schema.h"
#include "repo/object_store.h"

#include <sys/stat.h>

static const uint64_t catalog_max = (uint64_t)64 << 30;

enum { STORED_DEPTH_MAX = 64 };

void lm_node_free(struct lm_node *node)
{
	while (node && node->children) {
		struct lm_node *child = node->children;
		node->children = child->next;
		lm_node_free(child);
	}
	if (!node)
		return;
	lm_catalog_close(node->reader);
	lm_catalog_writer_free(node->writer);
	if (node->path)
		unlink(node->path);
	free(node->path);
	free(node->mountpoint);
	free(node);
}

int lm_node_new(
	struct lm_txn *txn, struct lm_node *up, const char *mountpoint, struct lm_node **ret, struct lm_err *err)
{
	CLEANUP(lm_node_freep) struct lm_node *node = calloc(1, sizeof(*node));
	if (!node)
		return lm_err_oom(err);
	node->txn = txn;
	node->up = up;
	node->mountpoint = strdup(mountpoint);
	if (!node->mountpoint)
		return lm_err_oom(err);
	int r = lm_txn_scratch_path(txn, "catalog", &node->path, err);
	if (r == 0)
		*ret = STEAL(node);
	return r;
}

void lm_node_add(struct lm_node *up, struct lm_node *child)
{
	child->next = up->children;
	up->children = child;
}

int lm_node_open(struct lm_txn *txn, struct lm_node *up, const char *mountpoint, const struct lm_hash *hash,
	uint64_t size, struct lm_node **ret, struct lm_err *err)
{
	CLEANUP(lm_node_freep) struct lm_node *node = NULL;
	int r = lm_node_new(txn, up, mountpoint, &node, err);
	if (r == 0)
		r = lm_object_load_file(
			txn->storage, hash, LM_OBJECT_CATALOG, size ? size : catalog_max, node->path, err);
	if (r == 0)
		r = lm_catalog_open(node->path, mountpoint, &node->reader, err);
	if (r == 0)
		r = lm_catalog_counters(node->reader, &node->self, &node->subtree, err);
	if (r < 0)
		return r;
	node->hash = *hash;
	node->revision = lm_catalog_revision(node->reader);
	node->ttl_s = up ? 0 : lm_catalog_ttl(node->reader);
	*ret = STEAL(node);
	return 0;
}

struct lm_node *lm_node_child(const struct lm_node *node, const char *mountpoint)
{
	for (struct lm_node *child = node->children; child; child = child->next)
		if (strcmp(child->mountpoint, mountpoint) == 0)
			return child;
	return NULL;
}

void lm_node_take(struct lm_node *up, struct lm_node *child)
{
	struct lm_node **at = &up->children;
	while (*at != child)
		at = &(*at)->next;
	*at = child->next;
	child->next = NULL;
}

void lm_node_move_children(struct lm_node *from, const char *path, struct lm_node *to)
{
	for (struct lm_node *child = from->children, *next; child; child = next) {
		next = child->next;
		if (!lm_repo_path_below(child->mountpoint, path))
			continue;
		lm_node_take(from, child);
		child->up = to;
		lm_node_add(to, child);
	}
}

static bool at_or_below(const char *path, const char *dir)
{
	size_t len = strlen(dir);
	return strncmp(path, dir, len) == 0 && (path[len] == '\0' || path[len] == '/');
}

void lm_node_forget_below(struct lm_node *node, const char *path)
{
	for (struct lm_node **at = &node->children; *at;) {
		struct lm_node *child = *at;
		if (!at_or_below(child->mountpoint, path)) {
			at = &child->next;
			continue;
		}
		*at = child->next;
		lm_node_free(child);
	}
}

int lm_node_row(struct lm_node *node, const char *path, struct lm_row *ret, struct lm_err *err)
{
	return node->writer ? lm_catalog_writer_lookup(node->writer, path, ret, err)
			    : lm_catalog_lookup(node->reader, lm_path_hash(path, strlen(path)), ret, err);
}

int lm_node_chunks(
	struct lm_node *node, const struct lm_row *row, struct lm_chunk **ret, size_t *ret_count, struct lm_err *err)
{
	return node->writer ? lm_catalog_writer_chunks(node->writer, row, 0, UINT64_MAX, ret, ret_count, err)
			    : lm_catalog_chunks(node->reader, row, 0, UINT64_MAX, ret, ret_count, err);
}

/*
 * The counters that a catalog had at begin. Schemas before revision 5 lack some: those come from the rows, down to
 * where the counters are whole. That is done when somebody asks, and in any case before the file is changed.
 */

struct recount {
	struct lm_node *node;
	struct lm_counters subtree;
	struct lm_err *err;
};

static int count_node(struct lm_node *node, struct lm_err *err);

static int add_nested(void *arg, const struct lm_nested *nested)
{
	struct recount *at = arg;
	CLEANUP(lm_node_freep) struct lm_node *child = NULL;
	int r = lm_node_open(at->node->txn, at->node, nested->path, &nested->hash, nested->size, &child, at->err);
	if (r == 0)
		r = count_node(child, at->err);
	if (r < 0)
		return r;
	lm_counters_add(&at->subtree, &child->self);
	lm_counters_add(&at->subtree, &child->subtree);
	return 0;
}

static int count_rows(struct lm_node *node, struct lm_err *err)
{
	CLEANUP(lm_catalog_db_done) struct lm_catalog_db db = {0};
	int r = lm_db_open(node->path, &db.db, err);
	if (r == 0)
		r = lm_catalog_db_check(&db, node->mountpoint, err);
	return r < 0 ? r : lm_counters_count(&db, &node->self, err);
}

static int count_node(struct lm_node *node, struct lm_err *err)
{
	struct recount below = {.node = node, .err = err};
	if (node->counted || !node->reader)
		return 0;
	if (lm_catalog_schema(node->reader) < LM_SCHEMA_HAS_ALL_COUNTERS) {
		int r = count_rows(node, err);
		if (r == 0)
			r = lm_catalog_nested_each(node->reader, add_nested, &below, err);
		if (r < 0)
			return r;
		node->subtree = below.subtree;
	}
	node->counted = true;
	return 0;
}

int lm_node_child_counters(void *arg, const struct lm_nested *nested, struct lm_counters *ret_self,
	struct lm_counters *ret_subtree, struct lm_err *err)
{
	struct lm_node *up = arg;
	CLEANUP(lm_node_freep) struct lm_node *opened = NULL;
	struct lm_node *known = lm_node_child(up, nested->path);
	int r = 0;
	if (!known || !lm_hash_equal(&known->hash, &nested->hash)) {
		r = lm_node_open(up->txn, up, nested->path, &nested->hash, nested->size, &opened, err);
		known = opened;
	}
	if (r == 0)
		r = count_node(known, err);
	if (r < 0)
		return r;
	*ret_self = known->self;
	*ret_subtree = known->subtree;
	return 0;
}

int lm_node_edit(struct lm_node *node, struct lm_err *err)
{
	if (!node->writer) {
		int r = node->up ? count_node(node, err) : 0; /* nobody asks about the root */
		if (r < 0)
			return r;
		lm_catalog_close(STEAL(node->reader));
		r = lm_catalog_edit(node->path, node->mountpoint, &node->writer, err);
		if (r < 0)
			return r;
		lm_catalog_writer_set_child_fn(node->writer, lm_node_child_counters, node);
	}
	for (struct lm_node *at = node; at; at = at->up)
		at->changed = true;
	return 0;
}

static void nested_done(struct lm_nested *nested)
{
	free(nested->path);
}

int lm_node_descend(struct lm_node *node, const char *path, struct lm_node **ret, struct lm_err *err)
{
	*ret = lm_node_child(node, path);
	if (*ret)
		return 0;
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_err why = LM_ERR_INIT;
	int r = lm_node_row(node, path, &row, &why);
	if (r == -ENOENT || (r == 0 && !(row.flags & LM_ROW_MOUNTPOINT)))
		return 0;
	CLEANUP(nested_done) struct lm_nested nested = {0};
	if (r == 0)
		r = node->writer ? lm_catalog_writer_nested(node->writer, path, &nested, &why)
				 : lm_catalog_nested(node->reader, path, &nested, &why);
	if (r < 0)
		return lm_err_set(err, r == -ENOENT ? -EPROTO : r, "%s", lm_err_text(&why));
	struct lm_node *child = NULL;
	r = lm_node_open(node->txn, node, path, &nested.hash, nested.size, &child, err);
	if (r < 0)
		return r;
	lm_node_add(node, child);
	*ret = child;
	return 0;
}

int lm_txn_owner(struct lm_txn *txn, const char *path, struct lm_node **ret, struct lm_err *err)
{
	if (!txn->root || (!txn->root->reader && !txn->root->writer))
		return lm_err_set(err, -EINVAL, "the transaction is over");
	if (strlen(path) > LM_REPO_PATH_MAX)
		return lm_err_set(err, -ENAMETOOLONG, "path of %zu bytes", strlen(path));
	char dir[LM_REPO_PATH_MAX + 1];
	struct lm_node *node = txn->root;
	for (size_t i = 1; *path && path[i]; i++) {
		if (path[i] != '/')
			continue;
		memcpy(dir, path, i);
		dir[i] = '\0';
		struct lm_node *child;
		int r = lm_node_descend(node, dir, &child, err);
		if (r < 0)
			return r;
		if (child)
			node = child;
	}
	*ret = node;
	return 0;
}

int lm_txn_find(
	struct lm_txn *txn, const char *path, struct lm_node **ret_owner, struct lm_row *ret, struct lm_err *err)
{
	int r = lm_txn_owner(txn, path, ret_owner, err);
	if (r < 0)
		return r;
	r = lm_node_row(*ret_owner, path, ret, err);
	return r == -ENOENT ? lm_err_set(err, r, "%s is not in the repository", path) : r;
}

void lm_finished_done(struct lm_finished *finished)
{
	lm_row_done(&finished->root);
	*finished = (struct lm_finished){0};
}

struct stored_check {
	struct lm_storage *storage;
	struct lm_err *err;
};

static int check_stored(void *arg, const struct lm_nested *nested)
{
	struct stored_check *check = arg;
	char path[LM_OBJECT_PATH_MAX];
	int r = check->storage->ops->has(
		check->storage, lm_object_path(&nested->hash, LM_OBJECT_CATALOG, path), check->err);
	if (r == 0)
		return lm_err_set(check->err, -EINVAL, "its nested catalog '%s' is not stored", nested->path);
	return r < 0 ? r : 0;
}

int lm_txn_store_catalog(struct lm_txn *txn, const char *path, const char *mountpoint, bool foreign,
	struct lm_finished *ret, struct lm_err *err)
{
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	CLEANUP(lm_row_done) struct lm_row marker = {0};
	CLEANUP(lm_freep) char *marker_path = lm_str_printf("%s/" LM_CATALOG_MARKER, mountpoint);
	if (!marker_path)
		return lm_err_oom(err);
	struct stored_check check = {txn->storage, err};
	int r = lm_catalog_open(path, mountpoint, &catalog, err);
	if (r == 0)
		r = lm_catalog_lookup(catalog, lm_path_hash(mountpoint, strlen(mountpoint)), &ret->root, err);
	if (r == 0)
		r = lm_catalog_counters(catalog, &ret->self, &ret->subtree, err);
	if (r == 0 && foreign)
		r = lm_catalog_nested_each(catalog, check_stored, &check, err);
	if (r < 0)
		return r;
	if (*mountpoint) {
		r = lm_catalog_lookup(catalog, lm_path_hash(marker_path, strlen(marker_path)), &marker, err);
		if (r == -ENOENT || (r == 0 && !S_ISREG(marker.mode)))
			return lm_err_set(err, -EINVAL, "it has no file %s", LM_CATALOG_MARKER);
		if (r < 0)
			return r;
	}
	return lm_object_store_file(
		txn->storage, lm_txn_algo(txn), LM_OBJECT_CATALOG, path, &ret->hash, &ret->size, err);
}

/*
 * Catalogs that are stored already
 */

struct stored_walk {
	struct lm_txn *txn;
	const struct lm_stored *stored;
	const char *mountpoint; /* of the catalog that is being read */
	unsigned depth;
	struct lm_err *err;
};

static int find_object(const struct stored_walk *walk, const struct lm_hash *hash, enum lm_object_kind kind)
{
	char path[LM_OBJECT_PATH_MAX];
	int r = walk->stored->fn(walk->stored->arg, hash, kind, walk->err);
	if (r == 0)
		return lm_err_set(walk->err, -ENOENT, "%s is not stored", lm_object_path(hash, kind, path));
	return LM_MIN(r, 0);
}

/* Catalogs of our own have one algorithm throughout. */
static int find_content(void *arg, enum lm_object_kind kind, const uint8_t digest[LM_HASH_BYTES])
{
	const struct stored_walk *walk = arg;
	struct lm_hash hash = {.algo = (uint8_t)lm_txn_algo(walk->txn), .set = true};
	memcpy(hash.bytes, digest, sizeof(hash.bytes));
	return find_object(walk, &hash, kind);
}

static int find_nested(void *arg, const struct lm_nested *nested);

/* *ret stays open. */
static int find_catalog(const struct stored_walk *up, const char *mountpoint, const struct lm_hash *hash, uint64_t size,
	struct lm_node **ret)
{
	struct stored_walk walk = *up;
	CLEANUP(lm_node_freep) struct lm_node *node = NULL;
	walk.mountpoint = mountpoint;
	if (walk.depth++ == STORED_DEPTH_MAX)
		return lm_err_set(walk.err, -EPROTO, "catalogs are nested over %d deep", STORED_DEPTH_MAX);
	int r = find_object(&walk, hash, LM_OBJECT_CATALOG);
	if (r == 0)
		r = lm_node_open(walk.txn, NULL, mountpoint, hash, size, &node, walk.err);
	if (r == 0)
		r = lm_catalog_objects_each(node->reader, find_content, &walk, walk.err);
	if (r == 0)
		r = lm_catalog_nested_each(node->reader, find_nested, &walk, walk.err);
	if (r == 0)
		*ret = STEAL(node);
	return r;
}

static int find_nested(void *arg, const struct lm_nested *nested)
{
	const struct stored_walk *walk = arg;
	CLEANUP(lm_node_freep) struct lm_node *node = NULL;
	if (!lm_repo_path_below(nested->path, walk->mountpoint))
		return lm_err_set(
			walk->err, -EPROTO, "nested catalog '%s' is not below '%s'", nested->path, walk->mountpoint);
	return find_catalog(walk, nested->path, &nested->hash, nested->size, &node);
}

int lm_txn_find_stored(struct lm_txn *txn, const char *mountpoint, const struct lm_hash *hash, uint64_t size,
	const struct lm_stored *stored, struct lm_finished *ret, struct lm_err *err)
{
	const struct stored_walk walk = {.txn = txn, .stored = stored, .err = err};
	CLEANUP(lm_node_freep) struct lm_node *node = NULL;
	int r = find_catalog(&walk, mountpoint, hash, size, &node);
	if (r == 0)
		r = lm_catalog_lookup(node->reader, lm_path_hash(mountpoint, strlen(mountpoint)), &ret->root, err);
	if (r < 0)
		return r;
	ret->hash = *hash;
	ret->size = size;
	ret->self = node->self;
	ret->subtree = node->subtree;
	return 0;
}
