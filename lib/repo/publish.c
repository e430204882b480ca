#include "repo/publish_internal.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "repo/catalog_schema.h"
#include "repo/object_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

enum lm_hash_algo lm_txn_algo(const struct lm_txn *txn)
{
	return txn->base.catalog.set ? txn->base.catalog.algo : LM_HASH_SHA1;
}

int lm_txn_scratch_path(struct lm_txn *txn, const char *what, char **ret, struct lm_err *err)
{
	*ret = lm_str_printf("%s/%s.%u", txn->scratch, what, txn->files++);
	return *ret ? 0 : lm_err_oom(err);
}

/*
 * Beginning
 */

void lm_txn_free(struct lm_txn *txn)
{
	if (!txn)
		return;
	lm_node_free(txn->root);
	lm_packer_free(txn->packer);
	/* What can't be removed now the next transaction removes. */
	int r = txn->scratch ? lm_remove_tree(AT_FDCWD, txn->scratch, NULL) : 0;
	(void)r;
	free(txn->history);
	free(txn->reflog);
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

int lm_txn_new(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn, struct lm_txn **ret,
	struct lm_err *err)
{
	if (!lm_fqrn_valid(fqrn))
		return lm_err_set(err, -EINVAL, "'%s' is no name for a repository", fqrn);
	int r = storage->ops->lock(storage, NULL, err);
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
	int r = lm_txn_new(storage, keys, fqrn, &txn, err);
	if (r == 0)
		r = read_base(txn, err);
	if (r == 0)
		r = lm_packer_new(lm_txn_algo(txn), &txn->packer, err);
	if (r == 0)
		r = lm_node_open(txn, NULL, "", &txn->base.catalog, txn->base.catalog_size, &txn->root, err);
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

const char *lm_txn_scratch(const struct lm_txn *txn)
{
	return txn->scratch;
}

/*
 * Reading
 */

int lm_txn_lookup(struct lm_txn *txn, const char *path, struct lm_row *ret, struct lm_err *err)
{
	struct lm_node *owner;
	return lm_txn_find(txn, path, &owner, ret, err);
}

static int read_chunks(struct lm_node *node, const struct lm_row *row, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	size_t count = 0;
	int r = lm_node_chunks(node, row, &chunks, &count, err);
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
	struct lm_node *owner;
	int r = lm_txn_find(txn, path, &owner, &row, err);
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

/* The root of a nested catalog is listed by that catalog. */
static int find_directory(struct lm_txn *txn, const char *path, struct lm_node **ret, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_node *nested = NULL;
	int r = lm_txn_find(txn, path, ret, &row, err);
	if (r == 0 && !S_ISDIR(row.mode))
		r = lm_err_set(err, -ENOTDIR, "%s is no directory", path);
	if (r == 0 && *path)
		r = lm_node_descend(*ret, path, &nested, err);
	if (r == 0 && nested)
		*ret = nested;
	return r;
}

int lm_txn_list(struct lm_txn *txn, const char *path, lm_catalog_row_fn *fn, void *arg, struct lm_err *err)
{
	struct lm_node *node;
	int r = find_directory(txn, path, &node, err);
	if (r < 0)
		return r;
	return node->writer ? lm_catalog_writer_list(node->writer, path, fn, arg, err)
			    : lm_catalog_list(node->reader, lm_path_hash(path, strlen(path)), 0, fn, arg, err);
}

int lm_txn_nested(struct lm_txn *txn, const char *path, struct lm_nested *ret, struct lm_err *err)
{
	struct lm_node *owner;
	int r = lm_txn_owner(txn, path, &owner, err);
	if (r < 0)
		return r;
	return owner->writer ? lm_catalog_writer_nested(owner->writer, path, ret, err)
			     : lm_catalog_nested(owner->reader, path, ret, err);
}

/*
 * Changing
 */

struct lm_row lm_txn_new_row(uint32_t mode)
{
	return (struct lm_row){.mode = mode, .mtime_s = lm_wall_s(), .link_count = 1};
}

static int check_path(const char *path, struct lm_err *err)
{
	const char *slash = strrchr(path, '/');
	if (path[0] != '/' || !slash[1])
		return lm_err_set(err, -EINVAL, "'%s' is no path in a repository", path);
	return 0;
}

static bool is_marker(const char *path)
{
	return strcmp(strrchr(path, '/') + 1, LM_CATALOG_MARKER) == 0;
}

/* Markers come with their catalogs only. */
static int check_change(const char *path, struct lm_err *err)
{
	int r = check_path(path, err);
	if (r == 0 && is_marker(path))
		r = lm_err_set(err, -EINVAL, "%s: only nested catalogs have that file", path);
	return r;
}

static int check_parent(struct lm_txn *txn, const char *path, struct lm_err *err)
{
	CLEANUP(lm_freep) char *dir = lm_str_ndup(path, (size_t)(strrchr(path, '/') - path));
	if (!dir)
		return lm_err_oom(err);
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_node *owner;
	int r = lm_txn_find(txn, dir, &owner, &row, err);
	if (r == 0 && !S_ISDIR(row.mode))
		r = lm_err_set(err, -ENOTDIR, "%s is no directory", dir);
	return r;
}

/* In all but size and time, which come with the content. */
static bool same_file(const struct lm_row *a, const struct lm_row *b)
{
	return a->mode == b->mode && a->uid == b->uid && a->gid == b->gid && a->flags == b->flags &&
	       lm_hash_equal(&a->hash, &b->hash) && a->compression == b->compression && a->xattr_len == b->xattr_len &&
	       (a->xattr_len == 0 || memcmp(a->xattr, b->xattr, a->xattr_len) == 0) && a->link_group == b->link_group &&
	       strcmp(a->symlink ? a->symlink : "", b->symlink ? b->symlink : "") == 0;
}

static bool same_chunks(struct lm_node *node, const struct lm_row *row, const struct lm_chunk *chunks, size_t count)
{
	CLEANUP(lm_freep) struct lm_chunk *old = NULL;
	size_t old_count = 0;
	/* What can't be read is not the same. */
	if (lm_node_chunks(node, row, &old, &old_count, NULL) < 0 || old_count != count)
		return false;
	for (size_t i = 0; i < count; i++)
		if (old[i].offset != chunks[i].offset || old[i].size != chunks[i].size ||
			!lm_hash_equal(&old[i].hash, &chunks[i].hash))
			return false;
	return true;
}

/* row->flags and chunked files' algo are those that the catalog would give. */
static bool same_row(struct lm_node *node, const struct lm_row *old, const struct lm_row *row,
	const struct lm_chunk *chunks, size_t count)
{
	return same_file(old, row) && old->rdev == row->rdev && old->mtime_s == row->mtime_s &&
	       old->mtime_ns == row->mtime_ns && (S_ISLNK(row->mode) || old->size == row->size) &&
	       same_chunks(node, old, chunks, count);
}

/* Finds the catalog for path, whose directory must exist, and what it has there: an empty row with mode 0 where that is
 * nothing. */
static int find_place(
	struct lm_txn *txn, const char *path, struct lm_node **ret_owner, struct lm_row *ret, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	int r = check_parent(txn, path, err);
	if (r == 0)
		r = lm_txn_owner(txn, path, ret_owner, err);
	if (r < 0)
		return r;
	r = lm_node_row(*ret_owner, path, ret, &why);
	return r < 0 && r != -ENOENT ? lm_err_set(err, r, "%s", lm_err_text(&why)) : 0;
}

/* Writes a file or link of our own, unless it is there already. */
static int put(struct lm_txn *txn, const char *path, struct lm_row *row, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row old = {0};
	struct lm_node *owner;
	int r = find_place(txn, path, &owner, &old, err);
	if (r < 0)
		return r;
	if (S_ISDIR(old.mode))
		return lm_err_set(err, -EISDIR, "%s is a directory", path);
	row->flags = LM_ROW_FILE | (S_ISLNK(row->mode) ? LM_ROW_SYMLINK : 0);
	if (same_file(&old, row))
		return 0;
	r = lm_node_edit(owner, err);
	return r < 0 ? r : lm_catalog_put(owner->writer, path, row, NULL, 0, err);
}

/* The attributes of a directory that begins a catalog are that catalog's. */
static int put_root(struct lm_txn *txn, struct lm_node *node, const struct lm_row *row, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row old = {0};
	int r = lm_node_row(node, node->mountpoint, &old, err);
	if (r < 0)
		return r;
	struct lm_row copy = *row;
	copy.flags = LM_ROW_DIR | (row->flags & LM_ROW_HIDDEN) | (old.flags & LM_ROW_NESTED_ROOT);
	if (same_row(node, &old, &copy, NULL, 0))
		return 0;
	r = lm_node_edit(node, err);
	return r < 0 ? r : lm_catalog_put(node->writer, node->mountpoint, row, NULL, 0, err);
}

int lm_txn_put(struct lm_txn *txn, const char *path, const struct lm_row *row, const struct lm_chunk *chunks,
	size_t count, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row old = {0};
	struct lm_node *owner, *nested;
	int r = *path ? check_change(path, err) : lm_txn_owner(txn, "", &nested, err);
	if (r == 0 && *path)
		r = find_place(txn, path, &owner, &old, err);
	if (r == 0 && *path)
		r = lm_node_descend(owner, path, &nested, err);
	if (r < 0)
		return r;
	if (!S_ISDIR(row->mode) && (!*path || S_ISDIR(old.mode)))
		return lm_err_set(err, -EISDIR, "%s is a directory", *path ? path : "/");
	if (nested)
		return put_root(txn, nested, row, err);
	struct lm_row copy = *row;
	copy.flags = lm_row_type_flags(row->mode) | lm_row_own_flags(row) | (count > 0 ? LM_ROW_CHUNKED : 0);
	if (old.mode && same_row(owner, &old, &copy, chunks, count))
		return 0;
	r = lm_node_edit(owner, err);
	return r < 0 ? r : lm_catalog_put(owner->writer, path, row, chunks, count, err);
}

int lm_txn_new_group(struct lm_txn *txn, const char *path, uint32_t *ret, struct lm_err *err)
{
	struct lm_node *owner;
	int r = check_path(path, err);
	if (r == 0)
		r = lm_txn_owner(txn, path, &owner, err);
	if (r == 0)
		r = lm_node_edit(owner, err);
	return r < 0 ? r : lm_catalog_writer_new_group(owner->writer, ret, err);
}

int lm_txn_put_data(struct lm_txn *txn, const char *path, const void *data, size_t len, struct lm_err *err)
{
	struct lm_row row = lm_txn_new_row(S_IFREG | 0644);
	row.size = len;
	int r = check_change(path, err);
	if (r == 0)
		r = lm_object_store(txn->storage, txn->packer, LM_OBJECT_FILE, data, len, &row.hash, err);
	return r < 0 ? r : put(txn, path, &row, err);
}

int lm_txn_put_symlink(struct lm_txn *txn, const char *path, const char *target, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = lm_txn_new_row(S_IFLNK | 0777);
	row.symlink = strdup(target);
	if (!row.symlink)
		return lm_err_oom(err);
	int r = check_change(path, err);
	return r < 0 ? r : put(txn, path, &row, err);
}

/* A catalog for what is below the directory at path, which owner lists as an ordinary one. */
static int make_nested(struct lm_node *owner, const char *path, const struct lm_row *row, struct lm_err *err)
{
	struct lm_txn *txn = owner->txn;
	CLEANUP(lm_node_freep) struct lm_node *node = NULL;
	CLEANUP(lm_freep) char *marker_path = lm_str_printf("%s/" LM_CATALOG_MARKER, path);
	struct lm_row marker = lm_txn_new_row(S_IFREG | 0644);
	int r = marker_path ? lm_node_new(txn, owner, path, &node, err) : lm_err_oom(err);
	if (r == 0)
		r = lm_object_store(txn->storage, txn->packer, LM_OBJECT_FILE, "", 0, &marker.hash, err);
	if (r == 0)
		r = lm_catalog_create(node->path, path, row, &node->writer, err);
	if (r == 0)
		r = lm_catalog_split(owner->writer, node->writer, err);
	if (r == 0)
		r = lm_catalog_put(node->writer, marker_path, &marker, NULL, 0, err);
	if (r < 0)
		return r;
	node->changed = true;
	lm_catalog_writer_set_child_fn(node->writer, lm_node_child_counters, node);
	lm_node_move_children(owner, path, node);
	lm_node_add(owner, STEAL(node));
	return 0;
}

static int make_dir(struct lm_txn *txn, const char *path, bool nested, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row old = {0};
	struct lm_node *owner;
	struct lm_err why = LM_ERR_INIT;
	int r = lm_txn_find(txn, path, &owner, &old, &why);
	if (r < 0 && r != -ENOENT)
		return lm_err_set(err, r, "%s", lm_err_text(&why));
	if (r == 0 && !S_ISDIR(old.mode))
		return lm_err_set(err, -ENOTDIR, "%s is no directory", path);
	if (r == 0 && (!nested || old.flags & LM_ROW_MOUNTPOINT || lm_node_child(owner, path)))
		return 0;
	if (r == 0) {
		r = lm_node_edit(owner, err);
		return r < 0 ? r : make_nested(owner, path, &old, err);
	}
	struct lm_row row = lm_txn_new_row(S_IFDIR | 0755);
	row.size = 4096;
	r = lm_node_edit(owner, err);
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

int lm_txn_store_nested(
	struct lm_txn *txn, const char *path, const char *db_path, struct lm_finished *ret, struct lm_err *err)
{
	CLEANUP(lm_finished_done) struct lm_finished stored = {0};
	int r = check_change(path, err);
	if (r == 0)
		r = lm_txn_store_catalog(txn, db_path, path, true, &stored, err);
	if (r < 0)
		return lm_err_prefix(err, r, "catalog for %s", path);
	*ret = stored;
	stored = (struct lm_finished){0};
	return 0;
}

static int hang(struct lm_txn *txn, const char *path, const struct lm_finished *child, struct lm_err *err)
{
	struct lm_node *owner;
	int r = lm_txn_owner(txn, path, &owner, err);
	if (r == 0)
		r = lm_node_edit(owner, err);
	if (r == 0)
		r = lm_catalog_set_nested(owner->writer, path, &child->hash, child->size, &child->root, &child->self,
			&child->subtree, err);
	if (r == 0)
		lm_node_forget_below(owner, path);
	return r;
}

static int check_place(struct lm_txn *txn, const char *path, struct lm_err *err)
{
	int r = check_change(path, err);
	return r < 0 ? r : check_parent(txn, path, err);
}

int lm_txn_graft(struct lm_txn *txn, const char *path, const char *db_path, struct lm_err *err)
{
	CLEANUP(lm_finished_done) struct lm_finished child = {0};
	int r = check_place(txn, path, err);
	if (r == 0)
		r = lm_txn_store_catalog(txn, db_path, path, true, &child, err);
	if (r == 0)
		r = hang(txn, path, &child, err);
	return r < 0 ? lm_err_prefix(err, r, "catalog for %s", path) : 0;
}

int lm_txn_graft_stored(struct lm_txn *txn, const char *path, const struct lm_hash *hash, uint64_t size,
	const struct lm_stored *stored, struct lm_err *err)
{
	CLEANUP(lm_finished_done) struct lm_finished child = {0};
	int r = check_place(txn, path, err);
	if (r == 0)
		r = lm_txn_find_stored(txn, path, hash, size, stored, &child, err);
	if (r == 0)
		r = hang(txn, path, &child, err);
	return r < 0 ? lm_err_prefix(err, r, "catalog for %s", path) : 0;
}

/* node: the nested catalog whose marker goes. */
static int fold(struct lm_node *node, const char *marker, struct lm_err *err)
{
	struct lm_node *up = node->up;
	int r = lm_node_edit(node, err); /* and with it all above */
	if (r == 0)
		r = lm_node_edit(up, err);
	if (r == 0)
		r = lm_catalog_remove(node->writer, marker, err);
	if (r == 0)
		r = lm_catalog_fold(up->writer, node->writer, err);
	if (r < 0)
		return r;
	lm_node_take(up, node);
	lm_node_move_children(node, node->mountpoint, up);
	lm_node_free(node);
	return 0;
}

static int remove_path(struct lm_txn *txn, const char *path, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct lm_node *owner;
	int r = check_path(path, err);
	if (r == 0)
		r = lm_txn_find(txn, path, &owner, &row, err);
	if (r < 0)
		return r;
	size_t dir = lm_repo_path_name(path) - 1;
	if (owner->up && is_marker(path) && strlen(owner->mountpoint) == dir)
		return fold(owner, path, err);
	r = lm_node_edit(owner, err);
	if (r == 0)
		r = lm_catalog_remove(owner->writer, path, err);
	if (r == 0)
		lm_node_forget_below(owner, path);
	return r;
}

int lm_txn_remove(struct lm_txn *txn, const char *path, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	int r = remove_path(txn, path, &why);
	return r == 0 || r == -ENOENT ? 0 : lm_err_set(err, r, "%s", lm_err_text(&why));
}
