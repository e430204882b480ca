#include "repo/tags.h"

#include "repo/object_store.h"
#include "repo/publish_internal.h"

#include <inttypes.h>
#include <sys/stat.h>

static const uint64_t root_max = (uint64_t)64 << 30;

static bool is_reserved(const char *name)
{
	return strcmp(name, LM_TAG_TRUNK) == 0 || strcmp(name, LM_TAG_PREVIOUS) == 0;
}

static int check_reserved(const char *name, struct lm_err *err)
{
	return is_reserved(name) ? lm_err_set(err, -EINVAL, "the tag %s is moved by publishing only", name) : 0;
}

static bool is_showable(const char *description)
{
	for (const char *at = description; *at; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			return false;
	return true;
}

static int check_request(const struct lm_tag_request *request, struct lm_err *err)
{
	const char *description = request->description ? request->description : "";
	if (!lm_tag_name_valid(request->name))
		return lm_err_set(err, -EINVAL,
			"'%.80s' is no name for a tag: 1 to %d bytes without blanks and slashes, no leading dash",
			request->name, LM_TAG_NAME_MAX);
	if (strlen(description) > LM_TAG_DESCRIPTION_MAX || !is_showable(description))
		return lm_err_set(
			err, -EINVAL, "a description is one line of at most %d bytes", LM_TAG_DESCRIPTION_MAX);
	return check_reserved(request->name, err);
}

/* The change of the history that was made in its private copy becomes the repository's. */
static int publish_history(struct lm_txn *txn, struct lm_err *err)
{
	struct lm_manifest manifest = txn->base;
	manifest.published_s = lm_txn_now(txn);
	int r = lm_txn_store_history(txn, &manifest.history, err);
	return r < 0 ? r : lm_txn_swap_manifest(txn, &manifest, err);
}

/*
 * Which revision a request means
 */

static void unlink_freep(char **path)
{
	if (*path)
		unlink(*path);
	free(*path);
}

/* The root catalog with that hash, from the storage. ret_previous: the one before it, maybe unset. */
static int read_root(struct lm_txn *txn, const struct lm_hash *hash, struct lm_history_root *ret,
	struct lm_hash *ret_previous, struct lm_err *err)
{
	CLEANUP(unlink_freep) char *path = NULL;
	CLEANUP(lm_catalog_closep) struct lm_catalog *catalog = NULL;
	struct lm_history_root root = {.hash = *hash};
	struct stat st;
	int r = lm_txn_scratch_path(txn, "root", &path, err);
	if (r == 0)
		r = lm_object_load_file(txn->storage, hash, LM_OBJECT_CATALOG, root_max, path, err);
	if (r == 0)
		r = lm_catalog_open(path, "", &catalog, err);
	if (r == 0)
		r = lm_catalog_origin(catalog, &root.modified_s, ret_previous, err);
	if (r < 0)
		return lm_err_prefix(err, r, "root catalog %s", lm_hash_text(hash).s);
	if (stat(path, &st) < 0)
		return lm_err_sys(err, -errno, "%s", path);
	root.size = (uint64_t)st.st_size;
	root.revision = lm_catalog_revision(catalog);
	*ret = root;
	return 0;
}

/* The tag that names the wanted revision or, else, the lowest one above it. */
struct nearest {
	uint64_t wanted;
	struct lm_history_root root; /* at first that of the manifest */
};

static int take_nearer(void *arg, const struct lm_tag *tag)
{
	struct nearest *nearest = arg;
	if (tag->revision >= nearest->wanted && tag->revision < nearest->root.revision)
		nearest->root = (struct lm_history_root){tag->hash, tag->revision, tag->time_s, tag->size};
	return 0;
}

/* Walks back from the nearest tag. Numbers must fall with each step, so there is an end. */
static int find_revision(
	struct lm_txn *txn, const char *history, uint64_t wanted, struct lm_history_root *ret, struct lm_err *err)
{
	struct nearest nearest = {wanted, {.hash = txn->base.catalog, .revision = txn->base.revision}};
	int r = wanted <= txn->base.revision ? lm_history_each(history, take_nearer, &nearest, err) : -ENOENT;
	struct lm_hash at = nearest.root.hash, previous = {0};
	for (uint64_t below = UINT64_MAX; r == 0; at = previous) {
		r = at.set ? read_root(txn, &at, ret, &previous, err) : -ENOENT;
		if (r < 0 || ret->revision == wanted)
			break;
		if (ret->revision >= below)
			return lm_err_set(err, -EPROTO,
				"revision %" PRIu64 " names one as previous that is not before it", below);
		below = ret->revision;
		if (below < wanted)
			r = -ENOENT;
	}
	return r == -ENOENT ? lm_err_set(err, r, "there is no revision %" PRIu64, wanted) : r;
}

static int find_target(struct lm_txn *txn, const char *history, const struct lm_tag_request *request,
	struct lm_history_root *ret, struct lm_err *err)
{
	const struct lm_manifest *base = &txn->base;
	struct lm_hash previous;
	int r = !request->root.set && request->has_revision
			? find_revision(txn, history, request->revision, ret, err)
			: read_root(txn, request->root.set ? &request->root : &base->catalog, ret, &previous, err);
	if (r < 0)
		return r;
	/* Publishers that were killed leave such roots behind. */
	if (ret->revision > base->revision ||
		(ret->revision == base->revision && !lm_hash_equal(&ret->hash, &base->catalog)))
		return lm_err_set(err, -ENOENT, "root %s was never published", lm_hash_text(&ret->hash).s);
	if (request->root.set && request->has_revision && ret->revision != request->revision)
		return lm_err_set(
			err, -EINVAL, "root %s is revision %" PRIu64, lm_hash_text(&ret->hash).s, ret->revision);
	if (ret->modified_s == 0)
		ret->modified_s = base->published_s;
	return 0;
}

/*
 * The changes
 */

static int add(
	struct lm_txn *txn, const struct lm_tag_request *request, struct lm_history_root *ret, struct lm_err *err)
{
	const char *history;
	struct lm_history_root root;
	int r = lm_txn_history(txn, &history, err);
	if (r == 0)
		r = find_target(txn, history, request, &root, err);
	if (r < 0)
		return r;
	struct lm_tag tag = {
		.name = request->name,
		.description = request->description,
		.hash = root.hash,
		.revision = root.revision,
		.time_s = root.modified_s,
		.size = root.size,
	};
	r = lm_history_set(history, &tag, &txn->base.history, err);
	if (r == 0)
		r = publish_history(txn, err);
	if (r == 0 && ret)
		*ret = root;
	return r;
}

int lm_repo_tag_add(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const struct lm_tag_request *request, struct lm_history_root *ret, struct lm_err *err)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	int r = check_request(request, err);
	if (r == 0)
		r = lm_txn_begin(storage, keys, fqrn, &txn, err);
	if (r < 0)
		return r;
	r = add(txn, request, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "tag %s", request->name) : 0;
}

int lm_repo_tags_remove(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const char *const *names, size_t count, struct lm_err *err)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	const char *history;
	int r = 0;
	for (size_t i = 0; i < count && r == 0; i++)
		r = check_reserved(names[i], err);
	if (r == 0)
		r = lm_txn_begin(storage, keys, fqrn, &txn, err);
	if (r == 0)
		r = lm_txn_history(txn, &history, err);
	for (size_t i = 0; i < count && r == 0; i++)
		r = lm_history_remove(history, names[i], &txn->base.history, err);
	return r < 0 || count == 0 ? r : publish_history(txn, err);
}

/* The tagged root in place of the current one, as if it had been changed from that: commit then does the rest. */
static int replace_root(struct lm_txn *txn, const struct lm_history_root *tagged, struct lm_err *err)
{
	CLEANUP(lm_node_freep) struct lm_node *node = NULL;
	int r = lm_node_open(txn, NULL, "", &tagged->hash, tagged->size, &node, err);
	if (r < 0)
		return r;
	node->hash = txn->base.catalog;
	node->revision = txn->base.revision;
	node->ttl_s = txn->root->ttl_s; /* a setting, not content */
	r = lm_node_edit(node, err);
	if (r < 0)
		return r;
	lm_node_free(txn->root);
	txn->root = STEAL(node);
	return 0;
}

int lm_repo_tag_rollback(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const char *name, struct lm_manifest *ret, struct lm_err *err)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	struct lm_history_root tagged;
	const char *history;
	int r = lm_txn_begin(storage, keys, fqrn, &txn, err);
	if (r == 0)
		r = lm_txn_history(txn, &history, err);
	if (r == 0)
		r = lm_history_find(history, name, &tagged, err);
	if (r < 0)
		return r;
	if (!lm_hash_equal(&tagged.hash, &txn->base.catalog))
		r = replace_root(txn, &tagged, err);
	if (r == 0)
		r = lm_txn_commit(txn, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "going back to %s", name) : 0;
}
