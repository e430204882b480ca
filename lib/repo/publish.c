#include "repo/publish.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "repo/history.h"
#include "repo/object_store.h"
#include "repo/whitelist.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#define MARKER ".cvmfscatalog" /* an empty file in the root of every nested catalog; nowhere else */
#define MASTER_REPLICA ".cvmfs_master_replica"

static const uint64_t catalog_max = (uint64_t)64 << 30;
static const uint64_t history_max = (uint64_t)4 << 30;

/* A catalog that the transaction has looked into. */
struct node {
	struct lm_txn *txn;
	struct node *up;	      /* the catalog it is nested in, NULL for the root */
	struct node *children, *next; /* those that were opened or made */
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
	struct node *root;
};

static enum lm_hash_algo algo_of(const struct lm_txn *txn)
{
	return txn->base.catalog.set ? txn->base.catalog.algo : LM_HASH_SHA1;
}

static int scratch_path(struct lm_txn *txn, const char *what, char **ret, struct lm_err *err)
{
	*ret = lm_str_printf("%s/%s.%u", txn->scratch, what, txn->files++);
	return *ret ? 0 : lm_err_oom(err);
}

/*
 * Catalogs
 */

static void node_free(struct node *node)
{
	while (node && node->children) {
		struct node *child = node->children;
		node->children = child->next;
		node_free(child);
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
LM_DEFINE_CLEANUP(struct node, node_free, node_freep)

static int node_new(struct lm_txn *txn, struct node *up, const char *mountpoint, struct node **ret, struct lm_err *err)
{
	CLEANUP(node_freep) struct node *node = calloc(1, sizeof(*node));
	if (!node)
		return lm_err_oom(err);
	node->txn = txn;
	node->up = up;
	node->mountpoint = strdup(mountpoint);
	if (!node->mountpoint)
		return lm_err_oom(err);
	int r = scratch_path(txn, "catalog", &node->path, err);
	if (r == 0)
		*ret = STEAL(node);
	return r;
}

static void node_add(struct node *up, struct node *child)
{
	child->next = up->children;
	up->children = child;
}

/* Fetches the catalog and opens it for reading. */
static int node_open(struct lm_txn *txn, struct node *up, const char *mountpoint, const struct lm_hash *hash,
	uint64_t size, struct node **ret, struct lm_err *err)
{
	CLEANUP(node_freep) struct node *node = NULL;
	int r = node_new(txn, up, mountpoint, &node, err);
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

static struct node *node_child(const struct node *node, const char *mountpoint)
{
	for (struct node *child = node->children; child; child = child->next)
		if (strcmp(child->mountpoint, mountpoint) == 0)
			return child;
	return NULL;
}

static bool at_or_below(const char *path, const char *dir)
{
	size_t len = strlen(dir);
	return strncmp(path, dir, len) == 0 && (path[len] == '\0' || path[len] == '/');
}

/* Drops what was opened at path or below, after that went out of the catalog. */
static void node_forget_below(struct node *node, const char *path)
{
	for (struct node **at = &node->children; *at;) {
		struct node *child = *at;
		if (!at_or_below(child->mountpoint, path)) {
			at = &child->next;
			continue;
		}
		*at = child->next;
		node_free(child);
	}
}

static int node_row(struct node *node, const char *path, struct lm_row *ret, struct lm_err *err)
{
	return node->writer ? lm_catalog_writer_lookup(node->writer, path, ret, err)
			    : lm_catalog_lookup(node->reader, lm_path_hash(path, strlen(path)), ret, err);
}

static int node_chunks(
	struct node *node, const struct lm_row *row, struct lm_chunk **ret, size_t *ret_count, struct lm_err *err)
{
	return node->writer ? lm_catalog_writer_chunks(node->writer, row, 0, UINT64_MAX, ret, ret_count, err)
			    : lm_catalog_chunks(node->reader, row, 0, UINT64_MAX, ret, ret_count, err);
}

/* The counters that a nested catalog had at begin, for the writer of the one above. */
static int child_counters(void *arg, const struct lm_nested *nested, struct lm_counters *ret_self,
	struct lm_counters *ret_subtree, struct lm_err *err)
{
	struct node *up = arg;
	const struct node *known = node_child(up, nested->path);
	CLEANUP(node_freep) struct node *opened = NULL;
	if (!known || !lm_hash_equal(&known->hash, &nested->hash)) {
		int r = node_open(up->txn, up, nested->path, &nested->hash, nested->size, &opened, err);
		if (r < 0)
			return r;
		known = opened;
	}
	*ret_self = known->self;
	*ret_subtree = known->subtree;
	return 0;
}

static int node_edit(struct node *node, struct lm_err *err)
{
	if (!node->writer) {
		lm_catalog_close(STEAL(node->reader));
		int r = lm_catalog_edit(node->path, node->mountpoint, &node->writer, err);
		if (r < 0)
			return r;
		lm_catalog_writer_set_child_fn(node->writer, child_counters, node);
	}
	for (struct node *at = node; at; at = at->up)
		at->changed = true;
	return 0;
}

static void nested_done(struct lm_nested *nested)
{
	free(nested->path);
}

/* The nested catalog whose mountpoint is at path in node; NULL where path is something else or not there. */
static int node_descend(struct node *node, const char *path, struct node **ret, struct lm_err *err)
{
	*ret = node_child(node, path);
	if (*ret)
		return 0;
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_err why = LM_ERR_INIT;
	int r = node_row(node, path, &row, &why);
	if (r == -ENOENT || (r == 0 && !(row.flags & LM_ROW_MOUNTPOINT)))
		return 0;
	CLEANUP(nested_done) struct lm_nested nested = {0};
	if (r == 0)
		r = node->writer ? lm_catalog_writer_nested(node->writer, path, &nested, &why)
				 : lm_catalog_nested(node->reader, path, &nested, &why);
	if (r < 0)
		return lm_err_set(err, r == -ENOENT ? -EPROTO : r, "%s", lm_err_text(&why));
	struct node *child = NULL;
	r = node_open(node->txn, node, path, &nested.hash, nested.size, &child, err);
	if (r < 0)
		return r;
	node_add(node, child);
	*ret = child;
	return 0;
}

/* The catalog that holds the row of path: the deepest one whose mountpoint is above it. */
static int owner_of(struct lm_txn *txn, const char *path, struct node **ret, struct lm_err *err)
{
	if (!txn->root || (!txn->root->reader && !txn->root->writer))
		return lm_err_set(err, -EINVAL, "the transaction is over");
	if (strlen(path) > LM_REPO_PATH_MAX)
		return lm_err_set(err, -ENAMETOOLONG, "path of %zu bytes", strlen(path));
	char dir[LM_REPO_PATH_MAX + 1];
	struct node *node = txn->root;
	for (size_t i = 1; *path && path[i]; i++) {
		if (path[i] != '/')
			continue;
		memcpy(dir, path, i);
		dir[i] = '\0';
		struct node *child;
		int r = node_descend(node, dir, &child, err);
		if (r < 0)
			return r;
		if (child)
			node = child;
	}
	*ret = node;
	return 0;
}

static int find(struct lm_txn *txn, const char *path, struct node **ret_owner, struct lm_row *ret, struct lm_err *err)
{
	int r = owner_of(txn, path, ret_owner, err);
	if (r < 0)
		return r;
	r = node_row(*ret_owner, path, ret, err);
	return r == -ENOENT ? lm_err_set(err, r, "%s is not in the repository", path) : r;
}

/*
 * Beginning
 */

void lm_txn_free(struct lm_txn *txn)
{
	if (!txn)
		return;
	node_free(txn->root);
	lm_packer_free(txn->packer);
	/* What can't be removed now the next transaction removes. */
	int r = txn->scratch ? lm_remove_tree(AT_FDCWD, txn->scratch, NULL) : 0;
	(void)r;
	free(txn->scratch);
	free(txn);
}

/* Under the storage's lock: what a publisher that was killed left in the directory is nobody's. */
static int make_scratch(struct lm_txn *txn, struct lm_err *err)
{
	txn->scratch = lm_str_printf("%s/publish.%s", txn->storage->ops->scratch(txn->storage), txn->fqrn);
	if (!txn->scratch)
		return lm_err_oom(err);
	int r = lm_remove_tree(AT_FDCWD, txn->scratch, err);
	return r < 0 ? r : lm_mkdir_p(AT_FDCWD, txn->scratch, 0700, err);
}

static int txn_new(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn, struct lm_txn **ret,
	struct lm_err *err)
{
	if (!lm_fqrn_valid(fqrn))
		return lm_err_set(err, -EINVAL, "'%s' is no name for a repository", fqrn);
	int r = storage->ops->lock(storage, err);
	if (r < 0)
		return r;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = calloc(1, sizeof(*txn));
	if (!txn)
		return lm_err_oom(err);
	txn->storage = storage;
	txn->keys = keys;
	snprintf(txn->fqrn, sizeof(txn->fqrn), "%s", fqrn);
	r = make_scratch(txn, err);
	if (r == 0)
		*ret = STEAL(txn);
	return r;
}

/* The manifest must be our own: signed by the key that will sign the next one. */
static int check_base(struct lm_txn *txn, const struct lm_buf *text, struct lm_err *err)
{
	struct lm_signed_text parts;
	struct lm_hash printed, actual;
	int r = lm_signed_text_split(lm_buf_cstr(text), text->len, &parts, err);
	if (r == 0)
		r = lm_hash_parse(parts.hash_text, parts.hash_text_len, &printed, err);
	if (r == 0)
		r = lm_hash_data(printed.algo, text->data, parts.body_len, &actual, err);
	if (r < 0)
		return r;
	if (!lm_hash_equal(&printed, &actual))
		return lm_err_set(err, -EBADMSG, "its hash is wrong");
	r = lm_verify_manifest(
		txn->keys->cert, parts.hash_text, parts.hash_text_len, parts.signature, parts.signature_len, err);
	if (r == 0)
		r = lm_manifest_parse(lm_buf_cstr(text), text->len, &txn->base, err);
	if (r < 0)
		return r;
	if (strcmp(txn->base.fqrn, txn->fqrn) != 0)
		return lm_err_set(err, -EINVAL, "it is of '%s'", txn->base.fqrn);
	if (txn->base.reflog.set)
		return lm_err_set(err, -ENOTSUP, "it has a reflog, which only stock tools can keep up");
	return 0;
}

static int read_base(struct lm_txn *txn, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	int r = txn->storage->ops->get(txn->storage, LM_MANIFEST_NAME, &text, err);
	if (r == 0)
		r = check_base(txn, &text, err);
	return r < 0 ? lm_err_prefix(err, r, "manifest of %s", txn->fqrn) : 0;
}

int lm_txn_begin(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn, struct lm_txn **ret,
	struct lm_err *err)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	int r = txn_new(storage, keys, fqrn, &txn, err);
	if (r == 0)
		r = read_base(txn, err);
	if (r == 0)
		r = lm_packer_new(algo_of(txn), &txn->packer, err);
	if (r == 0)
		r = node_open(txn, NULL, "", &txn->base.catalog, txn->base.catalog_size, &txn->root, err);
	if (r < 0)
		return r;
	txn->root->revision = txn->base.revision; /* the root's is the repository's */
	*ret = STEAL(txn);
	return 0;
}

const struct lm_manifest *lm_txn_base(const struct lm_txn *txn)
{
	return &txn->base;
}

/*
 * Reading
 */

int lm_txn_lookup(struct lm_txn *txn, const char *path, struct lm_row *ret, struct lm_err *err)
{
	struct node *owner;
	return find(txn, path, &owner, ret, err);
}

static int read_chunks(struct node *node, const struct lm_row *row, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	size_t count = 0;
	int r = node_chunks(node, row, &chunks, &count, err);
	for (size_t i = 0; i < count && r == 0; i++) {
		size_t before = ret->len;
		r = lm_object_load(node->txn->storage, &chunks[i].hash, LM_OBJECT_CHUNK, row->compression, ret, err);
		if (r == 0 && ret->len - before != chunks[i].size)
			r = lm_err_set(err, -EPROTO, "a chunk has another size than its catalog says");
	}
	return r;
}

static int read_file(struct lm_txn *txn, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct node *owner;
	int r = find(txn, path, &owner, &row, err);
	if (r < 0)
		return r;
	if (!S_ISREG(row.mode))
		return lm_err_set(err, S_ISDIR(row.mode) ? -EISDIR : -EINVAL, "no file");
	if (row.flags & LM_ROW_EXTERNAL)
		return lm_err_set(err, -ENOTSUP, "its content is outside of the repository");
	if (row.size > ret->max - ret->len)
		return lm_err_set(err, -EMSGSIZE, "%" PRIu64 " bytes are too many", row.size);
	size_t before = ret->len;
	r = row.flags & LM_ROW_CHUNKED
		    ? read_chunks(owner, &row, ret, err)
		    : lm_object_load(txn->storage, &row.hash, LM_OBJECT_FILE, row.compression, ret, err);
	if (r == 0 && ret->len - before != row.size)
		r = lm_err_set(err, -EPROTO, "it has another size than its catalog says");
	return r;
}

int lm_txn_read(struct lm_txn *txn, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	size_t before = ret->len;
	int r = read_file(txn, path, ret, err);
	if (r == 0)
		return 0;
	if (ret->data) {
		ret->len = before;
		ret->data[before] = '\0';
	}
	return r == -ENOENT ? r : lm_err_prefix(err, r, "%s", path);
}

/*
 * Changing
 */

static struct lm_row new_row(uint32_t mode)
{
	return (struct lm_row){.mode = mode, .mtime_s = lm_wall_s(), .link_count = 1};
}

/* Markers come and go with their catalogs only. */
static int check_change(const char *path, struct lm_err *err)
{
	const char *slash = strrchr(path, '/');
	if (path[0] != '/' || !slash[1])
		return lm_err_set(err, -EINVAL, "'%s' is no path in a repository", path);
	if (strcmp(slash + 1, MARKER) == 0)
		return lm_err_set(err, -EINVAL, "%s: only nested catalogs have that file", path);
	return 0;
}

static int check_parent(struct lm_txn *txn, const char *path, struct lm_err *err)
{
	CLEANUP(lm_freep) char *dir = strndup(path, (size_t)(strrchr(path, '/') - path));
	if (!dir)
		return lm_err_oom(err);
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct node *owner;
	int r = find(txn, dir, &owner, &row, err);
	if (r == 0 && !S_ISDIR(row.mode))
		r = lm_err_set(err, -ENOTDIR, "%s is no directory", dir);
	return r;
}

static bool same_file(const struct lm_row *a, const struct lm_row *b)
{
	return a->mode == b->mode && a->uid == b->uid && a->gid == b->gid && a->flags == b->flags &&
	       lm_hash_equal(&a->hash, &b->hash) && a->compression == b->compression && a->xattr_len == b->xattr_len &&
	       a->link_group == b->link_group &&
	       strcmp(a->symlink ? a->symlink : "", b->symlink ? b->symlink : "") == 0;
}

/* Writes a file or link, unless it is there already. */
static int put(struct lm_txn *txn, const char *path, struct lm_row *row, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row old = {0};
	struct node *owner;
	int r = check_parent(txn, path, err);
	if (r == 0)
		r = owner_of(txn, path, &owner, err);
	if (r < 0)
		return r;
	struct lm_err why = LM_ERR_INIT;
	r = node_row(owner, path, &old, &why);
	if (r < 0 && r != -ENOENT)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	if (r == 0 && S_ISDIR(old.mode))
		return lm_err_set(err, -EISDIR, "%s is a directory", path);
	row->flags = LM_ROW_FILE | (S_ISLNK(row->mode) ? LM_ROW_SYMLINK : 0);
	if (r == 0 && same_file(&old, row))
		return 0;
	r = node_edit(owner, err);
	return r < 0 ? r : lm_catalog_put(owner->writer, path, row, NULL, 0, err);
}

int lm_txn_put_data(struct lm_txn *txn, const char *path, const void *data, size_t len, struct lm_err *err)
{
	struct lm_row row = new_row(S_IFREG | 0644);
	row.size = len;
	int r = check_change(path, err);
	if (r == 0)
		r = lm_object_store(txn->storage, txn->packer, LM_OBJECT_FILE, data, len, &row.hash, err);
	return r < 0 ? r : put(txn, path, &row, err);
}

int lm_txn_put_symlink(struct lm_txn *txn, const char *path, const char *target, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = new_row(S_IFLNK | 0777);
	row.symlink = strdup(target);
	if (!row.symlink)
		return lm_err_oom(err);
	int r = check_change(path, err);
	return r < 0 ? r : put(txn, path, &row, err);
}

/* A catalog for the directory at path, which owner lists as an empty ordinary one. */
static int make_nested(struct node *owner, const char *path, const struct lm_row *row, struct lm_err *err)
{
	struct lm_txn *txn = owner->txn;
	CLEANUP(node_freep) struct node *node = NULL;
	CLEANUP(lm_freep) char *marker_path = lm_str_printf("%s/" MARKER, path);
	struct lm_row marker = new_row(S_IFREG | 0644);
	int r = marker_path ? node_new(txn, owner, path, &node, err) : lm_err_oom(err);
	if (r == 0)
		r = lm_object_store(txn->storage, txn->packer, LM_OBJECT_FILE, "", 0, &marker.hash, err);
	if (r == 0)
		r = lm_catalog_create(node->path, path, row, &node->writer, err);
	if (r == 0)
		r = lm_catalog_insert(node->writer, marker_path, &marker, NULL, 0, err);
	if (r < 0)
		return r;
	node->changed = true;
	lm_catalog_writer_set_child_fn(node->writer, child_counters, node);
	node_add(owner, STEAL(node));
	return 0;
}

static int make_dir(struct lm_txn *txn, const char *path, bool nested, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row old = {0};
	struct node *owner;
	struct lm_err why = LM_ERR_INIT;
	int r = find(txn, path, &owner, &old, &why);
	if (r < 0 && r != -ENOENT)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	if (r == 0 && !S_ISDIR(old.mode))
		return lm_err_set(err, -ENOTDIR, "%s is no directory", path);
	if (r == 0 && nested && !(old.flags & LM_ROW_MOUNTPOINT) && !node_child(owner, path))
		return lm_err_set(err, -EEXIST, "%s is an ordinary directory already", path);
	if (r == 0)
		return 0;
	struct lm_row row = new_row(S_IFDIR | 0755);
	row.size = 4096;
	r = node_edit(owner, err);
	if (r == 0)
		r = lm_catalog_insert(owner->writer, path, &row, NULL, 0, err);
	return r == 0 && nested ? make_nested(owner, path, &row, err) : r;
}

int lm_txn_mkdirs(struct lm_txn *txn, const char *path, bool nested, struct lm_err *err)
{
	if (!*path)
		return 0; /* the root is there and a catalog */
	int r = check_change(path, err);
	if (r < 0)
		return r;
	CLEANUP(lm_freep) char *dir = strdup(path);
	if (!dir)
		return lm_err_oom(err);
	for (char *at = dir + 1; r == 0; at++) {
		if (*at != '/' && *at != '\0')
			continue;
		bool last = *at == '\0';
		*at = '\0';
		r = make_dir(txn, dir, last && nested, err);
		if (last)
			break;
		*at = '/';
	}
	return r;
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

/* What a catalog above needs to know of a finished one. */
struct finished {
	struct lm_hash hash;
	uint64_t size;
	struct lm_row root;
	struct lm_counters self, subtree;
};

static void finished_done(struct finished *finished)
{
	lm_row_done(&finished->root);
}

/* Reads the database back as a client would, then stores it. foreign: made by someone else. */
static int store_catalog(struct lm_txn *txn, const char *path, const char *mountpoint, bool foreign,
	struct finished *ret, struct lm_err *err)
{
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	CLEANUP(lm_row_done) struct lm_row marker = {0};
	CLEANUP(lm_freep) char *marker_path = lm_str_printf("%s/" MARKER, mountpoint);
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
			return lm_err_set(err, -EINVAL, "it has no file %s", MARKER);
		if (r < 0)
			return r;
	}
	return lm_object_store_file(txn->storage, algo_of(txn), LM_OBJECT_CATALOG, path, &ret->hash, &ret->size, err);
}

int lm_txn_graft(struct lm_txn *txn, const char *path, const char *db_path, struct lm_err *err)
{
	CLEANUP(finished_done) struct finished child = {0};
	struct node *owner;
	int r = check_change(path, err);
	if (r == 0)
		r = check_parent(txn, path, err);
	if (r == 0)
		r = owner_of(txn, path, &owner, err);
	if (r == 0)
		r = store_catalog(txn, db_path, path, true, &child, err);
	if (r == 0)
		r = node_edit(owner, err);
	if (r == 0)
		r = lm_catalog_set_nested(
			owner->writer, path, &child.hash, child.size, &child.root, &child.self, &child.subtree, err);
	if (r < 0)
		return lm_err_prefix(err, r, "catalog for %s", path);
	node_forget_below(owner, path);
	return 0;
}

int lm_txn_remove(struct lm_txn *txn, const char *path, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct node *owner;
	struct lm_err why = LM_ERR_INIT;
	int r = check_change(path, &why);
	if (r == 0)
		r = find(txn, path, &owner, &row, &why);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		r = node_edit(owner, &why);
	if (r == 0)
		r = lm_catalog_remove(owner->writer, path, &why);
	if (r < 0)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	node_forget_below(owner, path);
	return 0;
}

/*
 * Committing
 */

static int commit_node(struct node *node, int64_t now_s, struct finished *ret, struct lm_err *err);

static int commit_children(struct node *node, int64_t now_s, struct lm_err *err)
{
	for (struct node *child = node->children; child; child = child->next) {
		if (!child->changed)
			continue;
		CLEANUP(finished_done) struct finished done = {0};
		int r = commit_node(child, now_s, &done, err);
		if (r == 0)
			r = node_edit(node, err);
		if (r == 0)
			r = lm_catalog_set_nested(node->writer, child->mountpoint, &done.hash, done.size, &done.root,
				&done.self, &done.subtree, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int commit_node(struct node *node, int64_t now_s, struct finished *ret, struct lm_err *err)
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
	return store_catalog(node->txn, node->path, node->mountpoint, false, ret, err);
}

static int store_history(
	struct lm_txn *txn, const struct lm_history_root *root, struct lm_hash *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = NULL;
	uint64_t size;
	int r = scratch_path(txn, "history", &path, err);
	if (r < 0)
		return r;
	r = txn->base.history.set
		    ? lm_object_load_file(txn->storage, &txn->base.history, LM_OBJECT_HISTORY, history_max, path, err)
		    : lm_history_create(path, txn->fqrn, err);
	if (r == 0)
		r = lm_history_advance(path, root, &txn->base.history, err);
	return r < 0 ? r : lm_object_store_file(txn->storage, algo_of(txn), LM_OBJECT_HISTORY, path, ret, &size, err);
}

static int store_certificate(struct lm_txn *txn, struct lm_hash *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX);
	int r = lm_cert_format(txn->keys->cert, &pem, err);
	return r < 0 ? r
		     : lm_object_store(txn->storage, txn->packer, LM_OBJECT_CERTIFICATE, pem.data, pem.len, ret, err);
}

/* Appends the signature over the hash line that text ends with. */
static int sign(const struct lm_key *key,
	int (*sign_hash)(const struct lm_key *, const char *, size_t, struct lm_buf *, struct lm_err *),
	struct lm_buf *text, struct lm_err *err)
{
	struct lm_signed_text parts;
	int r = lm_signed_text_split(lm_buf_cstr(text), text->len, &parts, err);
	if (r < 0)
		return r;
	char hash[LM_HASH_TEXT_MAX]; /* a copy, since the text moves when it grows */
	if (parts.hash_text_len >= sizeof(hash))
		return lm_err_set(err, -EPROTO, "hash of %zu digits", parts.hash_text_len);
	memcpy(hash, parts.hash_text, parts.hash_text_len);
	return sign_hash(key, hash, parts.hash_text_len, text, err);
}

/* The one step that readers see. All that the manifest names is durable before. */
static int swap_manifest(struct lm_txn *txn, const struct lm_manifest *manifest, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	int r = lm_manifest_format(manifest, &text, err);
	if (r == 0)
		r = sign(txn->keys->key, lm_sign_manifest, &text, err);
	if (r == 0)
		r = txn->storage->ops->sync(txn->storage, err);
	return r < 0 ? r : txn->storage->ops->put(txn->storage, LM_MANIFEST_NAME, text.data, text.len, err);
}

static int commit(struct lm_txn *txn, struct lm_manifest *ret, struct lm_err *err)
{
	CLEANUP(finished_done) struct finished root = {0};
	struct lm_manifest manifest = txn->base;
	manifest.published_s = LM_MAX(lm_wall_s(), txn->base.published_s + 1);
	int r = commit_node(txn->root, manifest.published_s, &root, err);
	if (r < 0)
		return r;
	manifest.catalog = root.hash;
	manifest.catalog_size = root.size;
	manifest.ttl_s = txn->root->ttl_s;
	manifest.revision = txn->root->revision + 1;
	manifest.alternative_catalogs = false;
	struct lm_history_root trunk = {root.hash, manifest.revision, manifest.published_s, root.size};
	r = store_history(txn, &trunk, &manifest.history, err);
	if (r == 0)
		r = store_certificate(txn, &manifest.certificate, err);
	if (r == 0)
		r = swap_manifest(txn, &manifest, err);
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

static int put_whitelist(struct lm_txn *txn, unsigned days, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	CLEANUP(lm_freep) struct lm_whitelist *list = calloc(1, sizeof(*list));
	if (!list)
		return lm_err_oom(err);
	list->created_s = lm_wall_s();
	list->expires_s = list->created_s + (int64_t)days * 86400;
	list->count = 1;
	memcpy(list->fqrn, txn->fqrn, sizeof(list->fqrn));
	int r = lm_cert_fingerprint(txn->keys->cert, algo_of(txn), &list->fingerprints[0], err);
	if (r == 0)
		r = lm_whitelist_format(list, &text, err);
	if (r == 0)
		r = sign(txn->keys->master, lm_sign_whitelist, &text, err);
	return r < 0 ? r : txn->storage->ops->put(txn->storage, LM_WHITELIST_NAME, text.data, text.len, err);
}

static int make_root(struct lm_txn *txn, uint64_t ttl_s, struct lm_err *err)
{
	struct lm_row row = new_row(S_IFDIR | 0755);
	row.size = 4096;
	int r = node_new(txn, NULL, "", &txn->root, err);
	if (r == 0)
		r = lm_catalog_create(txn->root->path, "", &row, &txn->root->writer, err);
	if (r < 0)
		return r;
	txn->root->ttl_s = ttl_s;
	txn->root->changed = true;
	memcpy(txn->base.fqrn, txn->fqrn, sizeof(txn->base.fqrn));
	return 0;
}

static int create_repo(
	struct lm_txn *txn, unsigned whitelist_days, uint64_t ttl_s, struct lm_manifest *ret, struct lm_err *err)
{
	static const char replica_note[] = "This repository may be replicated.\n";
	struct lm_storage *storage = txn->storage;
	int r = storage->ops->has(storage, LM_MANIFEST_NAME, err);
	if (r > 0)
		return lm_err_set(err, -EEXIST, "there is a repository already");
	if (r == 0)
		r = lm_packer_new(algo_of(txn), &txn->packer, err);
	if (r == 0)
		r = make_root(txn, ttl_s, err);
	if (r == 0)
		r = put_whitelist(txn, whitelist_days, err);
	if (r == 0)
		r = storage->ops->put(storage, MASTER_REPLICA, replica_note, sizeof(replica_note) - 1, err);
	return r < 0 ? r : commit(txn, ret, err);
}

int lm_repo_create(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	unsigned whitelist_days, uint64_t ttl_s, struct lm_manifest *ret, struct lm_err *err)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	if (!keys->key || !keys->cert || !keys->master)
		return lm_err_set(err, -EINVAL, "making %s takes its key, certificate and master key", fqrn);
	struct lm_manifest manifest;
	int r = txn_new(storage, keys, fqrn, &txn, err);
	if (r == 0)
		r = create_repo(txn, whitelist_days, ttl_s, &manifest, err);
	if (r < 0)
		return lm_err_prefix(err, r, "making %s", fqrn);
	if (ret)
		*ret = manifest;
	return 0;
}
