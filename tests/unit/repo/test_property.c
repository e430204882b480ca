/*
 * Random trees and random edits, published round by round: whatever was asked for must come out, pass the checker, and
 * leave the revision before it as it was.
 *
 *   LM_SEED=N     where chance begins (else the clock; printed)
 *   LM_ROUNDS=N   how many (20)
 *   LM_WORK=DIR   the repository goes to DIR/storage/cvmfs/NAME, its keys to DIR/keys, and stays there; each round's
 *                 listing is then written to DIR/listing, "round N" to standard output, and a line is awaited on
 *                 standard input: somebody else looks at the revision meanwhile
 */
#include "base/clock.h"
#include "random_tree.h"
#include "repo/check.h"
#include "repo/gc.h"
#include "repo/object_store.h"
#include "repo/publish.h"
#include "repo_tree.h"

#include <inttypes.h>

#define FQRN "random.lamella.test"

enum { NODES_WANTED = 150, NODES_MAX = 400, MOVED_MAX = 60, LISTING_MAX = 16 << 20 };

struct world {
	struct rt tree;
	char *dir;
	bool watched; /* LM_WORK */
	struct lm_repo_keys keys;
	struct lm_key *public_key;
	struct lm_storage *storage;
	struct lm_txn *txn;
	unsigned databases, edits;
	bool root_put; /* its attributes are the tree's */
};

static const char *says; /* what is being done, for messages of failures */

#define must(w, call)                                                                                        \
	do {                                                                                                 \
		struct lm_err err = LM_ERR_INIT;                                                             \
		int r_ = (call);                                                                             \
		if (r_ < 0)                                                                                  \
			fail_msg("edit %u, %s: %s: %d: %s", (w)->edits, says, #call, r_, lm_err_text(&err)); \
	} while (0)

/*
 * From tree to transaction
 */

/* What the transaction made by itself (times of now) is taken over. */
static void learn(struct world *w, struct rt_node *node)
{
	CLEANUP(lm_freep) char *path = rt_path(node);
	CLEANUP(lm_row_done) struct lm_row row = {0};
	struct rt_inode *inode = node->inode;
	must(w, lm_txn_lookup(w->txn, path, &row, &err));
	assert_int_equal(row.mode & S_IFMT, inode->row.mode & S_IFMT);
	inode->row.mode = row.mode;
	inode->row.uid = row.uid;
	inode->row.gid = row.gid;
	inode->row.mtime_s = row.mtime_s;
	inode->row.mtime_ns = row.mtime_ns;
	if (S_ISREG(row.mode))
		assert_int_equal(inode->row.size, row.size);
	inode->row.size = row.size;
	inode->row.hash = row.hash;
	inode->row.algo = row.algo;
	inode->row.compression = row.compression;
	free(inode->row.xattr);
	inode->row.xattr = STEAL(row.xattr);
	inode->row.xattr_len = row.xattr_len;
}

static uint32_t group_of(struct world *w, const struct rt_node *node)
{
	CLEANUP(lm_freep) char *path = rt_path(node);
	CLEANUP(lm_row_done) struct lm_row row = {0};
	must(w, lm_txn_lookup(w->txn, path, &row, &err));
	return row.link_group;
}

static void put_row(struct world *w, const struct rt_node *node, uint32_t group)
{
	const struct rt_inode *inode = node->inode;
	CLEANUP(lm_freep) char *path = rt_path(node);
	struct lm_row row = inode->row;
	row.link_group = group;
	must(w, lm_txn_put(w->txn, path, &row, inode->chunks, inode->chunk_count, &err));
	if (node == w->tree.root)
		w->root_put = true;
}

/* All names of an inode, as a group where there are several. */
static void put_inode(struct world *w, struct rt_inode *inode)
{
	uint32_t group = 0;
	if (inode->count > 1) {
		CLEANUP(lm_freep) char *path = rt_path(inode->names[0]);
		must(w, lm_txn_new_group(w->txn, path, &group, &err));
	}
	for (size_t i = 0; i < inode->count; i++)
		put_row(w, inode->names[i], group);
}

/* One more name, which may join the group that is there. */
static void put_link(struct world *w, struct rt_node *node)
{
	struct rt_inode *inode = node->inode;
	struct rt_node *other = inode->names[0] == node ? inode->names[1] : inode->names[0];
	uint32_t group = inode->count > 2 ? group_of(w, other) : 0;
	if (group && rt_chance(&w->tree, 50))
		put_row(w, node, group);
	else
		put_inode(w, inode);
}

static void make_marker(struct world *w, struct rt_node *dir)
{
	struct rt_inode *inode = rt_inode_new();
	inode->row.mode = S_IFREG | 0644;
	rt_set_content(&w->tree, inode, (const uint8_t *)"", 0, 1, false);
	rt_attach(&w->tree, dir, rt_node_new(&w->tree, MARKER, inode));
	dir->catalog = true;
}

/* Makes a directory that was put the root of a catalog. */
static void split_off(struct world *w, struct rt_node *dir)
{
	CLEANUP(lm_freep) char *path = rt_path(dir);
	must(w, lm_txn_mkdirs(w->txn, path, true, &err));
	learn(w, rt_kid(dir, MARKER));
}

/* A subtree of the tree that the transaction has not got. */
static void put_all(struct world *w, struct rt_node *node)
{
	if (rt_is_marker(node))
		return;
	put_row(w, node, 0);
	if (node->catalog)
		split_off(w, node);
	for (size_t i = 0; i < node->count; i++)
		put_all(w, node->kids[i]);
}

/* Groups of what was put by put_all(), once all of them are there. */
static void put_groups(struct world *w, struct rt_node *top)
{
	size_t count;
	CLEANUP(lm_freep) struct rt_node **all = rt_all(top, &count);
	for (size_t i = 0; i < count; i++) {
		struct rt_inode *inode = all[i]->inode;
		if (inode->count > 1 && !rt_is_dir(all[i]))
			put_inode(w, inode);
	}
}

/*
 * Choosing
 */

typedef bool fit_fn(const struct rt_node *node);

static struct rt_node *choose(struct world *w, fit_fn *fit)
{
	size_t count, fitting = 0;
	CLEANUP(lm_freep) struct rt_node **all = rt_all(w->tree.root, &count);
	for (size_t i = 0; i < count; i++)
		if (fit(all[i]))
			all[fitting++] = all[i];
	return fitting ? all[rt_below(&w->tree, (unsigned)fitting)] : NULL;
}

static bool fits_dir(const struct rt_node *node)
{
	CLEANUP(lm_freep) char *path = rt_path(node);
	return rt_is_dir(node) && rt_depth(node) < RT_DEPTH_MAX && strlen(path) < RT_PATH_MAX;
}
static bool fits_any(const struct rt_node *node)
{
	return node->up && !rt_is_marker(node);
}
static bool fits_leaf(const struct rt_node *node)
{
	return fits_any(node) && !rt_is_dir(node);
}
static bool fits_linkable(const struct rt_node *node)
{
	return fits_leaf(node) && !(node->inode->row.flags & LM_ROW_HIDDEN);
}
static bool fits_plain_dir(const struct rt_node *node)
{
	return node->up && rt_is_dir(node) && !node->catalog;
}
static bool fits_catalog(const struct rt_node *node)
{
	return node->up && node->catalog;
}
static bool fits_attributes(const struct rt_node *node)
{
	return !rt_is_marker(node);
}
static bool fits_movable(const struct rt_node *node)
{
	return fits_any(node) && rt_size(node) <= MOVED_MAX;
}

/*
 * Edits
 */

static struct rt_node *grow(struct world *w, struct rt_node *dir, mode_t type)
{
	char name[256];
	rt_random_name(&w->tree, dir, name);
	struct rt_node *node = rt_node_new(&w->tree, name, rt_random_inode(&w->tree, type));
	if (rt_chance(&w->tree, 4))
		node->inode->row.flags |= LM_ROW_HIDDEN;
	rt_attach(&w->tree, dir, node);
	return node;
}

static void edit_add(struct world *w)
{
	put_inode(w, grow(w, choose(w, fits_dir), rt_random_type(&w->tree))->inode);
}

/* Links within a catalog: a second name for one of the subtree's files. */
static void grow_link(struct world *w, struct rt_node *dir, struct rt_inode *inode)
{
	char name[256];
	rt_random_name(&w->tree, dir, name);
	rt_attach(&w->tree, dir, rt_node_new(&w->tree, name, inode));
}

/* A subtree, in the tree only. */
static void grow_subtree(struct world *w, struct rt_node *dir, unsigned depth)
{
	struct rt_node *last = NULL;
	for (unsigned n = 1 + rt_below(&w->tree, 6); n > 0; n--) {
		bool deeper = depth > 0 && fits_dir(dir) && rt_chance(&w->tree, 30);
		struct rt_node *node = grow(w, dir, deeper ? S_IFDIR : rt_random_type(&w->tree));
		if (rt_is_dir(node)) {
			if (rt_chance(&w->tree, 15))
				make_marker(w, node);
			if (depth > 0 && fits_dir(node))
				grow_subtree(w, node, depth - 1);
		} else if (!(node->inode->row.flags & LM_ROW_HIDDEN)) {
			last = node;
		}
		if (last && rt_chance(&w->tree, 10))
			grow_link(w, dir, last->inode);
	}
}

static void edit_add_subtree(struct world *w)
{
	struct rt_node *top = grow(w, choose(w, fits_dir), S_IFDIR);
	grow_subtree(w, top, 1 + rt_below(&w->tree, 3));
	put_all(w, top);
	put_groups(w, top);
}

static void edit_link(struct world *w)
{
	struct rt_node *node = choose(w, fits_linkable), *dir = choose(w, fits_dir);
	for (int i = 0; node && i < 10 && rt_catalog_of_kids(dir) != rt_catalog(node); i++)
		dir = choose(w, fits_dir);
	if (!node || rt_catalog_of_kids(dir) != rt_catalog(node))
		return;
	grow_link(w, dir, node->inode);
	put_link(w, dir->kids[dir->count - 1]);
}

static void edit_remove(struct world *w)
{
	struct rt_node *node = choose(w, fits_any);
	if (!node)
		return;
	CLEANUP(lm_freep) char *path = rt_path(node);
	must(w, lm_txn_remove(w->txn, path, &err));
	must(w, lm_txn_remove(w->txn, path, &err)); /* absent: nothing to do */
	rt_remove(&w->tree, node);
}

/* Another content, target or device, in all names. */
static void edit_content(struct world *w)
{
	struct rt_node *node = choose(w, fits_leaf);
	if (!node)
		return;
	struct rt_inode *inode = node->inode;
	if (S_ISREG(inode->row.mode))
		rt_random_content(&w->tree, inode);
	else if (S_ISLNK(inode->row.mode))
		rt_random_target(&w->tree, inode);
	put_inode(w, inode);
}

/* A file becomes something else, or a directory. */
static void edit_type(struct world *w)
{
	struct rt_node *node = choose(w, fits_leaf);
	if (!node)
		return;
	struct rt_inode *inode = rt_random_inode(&w->tree, rt_random_type(&w->tree));
	rt_inode_unname(node);
	rt_inode_name(inode, node);
	put_row(w, node, 0);
}

/* A directory gives way only when it is told to go. */
static void edit_dir_to_file(struct world *w)
{
	struct lm_err why = LM_ERR_INIT;
	struct rt_node *node = choose(w, fits_plain_dir);
	if (!node)
		return;
	CLEANUP(lm_freep) char *path = rt_path(node);
	struct rt_inode *inode = rt_random_inode(&w->tree, S_IFREG);
	assert_int_equal(lm_txn_put(w->txn, path, &inode->row, inode->chunks, inode->chunk_count, &why), -EISDIR);
	assert_int_equal(lm_txn_put_data(w->txn, path, "x", 1, &why), -EISDIR);
	must(w, lm_txn_remove(w->txn, path, &err));
	struct rt_node *file = rt_node_new(&w->tree, node->name, inode), *dir = node->up;
	rt_remove(&w->tree, node);
	rt_attach(&w->tree, dir, file);
	put_row(w, file, 0);
}

static void edit_attributes(struct world *w)
{
	struct rt_node *node = choose(w, fits_attributes);
	rt_random_attributes(&w->tree, &node->inode->row);
	put_inode(w, node->inode);
}

static void edit_split(struct world *w)
{
	struct rt_node *dir = choose(w, fits_plain_dir);
	if (!dir)
		return;
	make_marker(w, dir);
	split_off(w, dir);
	rt_split_links(&w->tree);
}

static void edit_join(struct world *w)
{
	struct rt_node *dir = choose(w, fits_catalog);
	if (!dir)
		return;
	struct rt_node *marker = rt_kid(dir, MARKER);
	CLEANUP(lm_freep) char *path = rt_path(marker);
	must(w, lm_txn_remove(w->txn, path, &err));
	rt_remove(&w->tree, marker);
	dir->catalog = false;
}

static void edit_rename(struct world *w)
{
	char name[256];
	struct rt_node *node = choose(w, fits_movable), *dir = choose(w, fits_dir);
	if (!node || rt_below_or_same(dir, node) || rt_depth(dir) + rt_size(node) > 40)
		return;
	CLEANUP(lm_freep) char *from = rt_path(node);
	rt_random_name(&w->tree, dir, name);
	must(w, lm_txn_remove(w->txn, from, &err));
	rt_detach(node);
	free(node->name);
	node->name = strdup(name);
	rt_attach(&w->tree, dir, node);
	rt_split_links(&w->tree);
	put_all(w, node);
	put_groups(w, node);
}

static void edit_mkdirs(struct world *w)
{
	struct rt_node *dir = choose(w, fits_dir), *first = NULL;
	bool nested = rt_chance(&w->tree, 30);
	char name[256];
	for (unsigned n = 1 + rt_below(&w->tree, 3); n > 0 && fits_dir(dir); n--) {
		struct rt_inode *inode = rt_inode_new();
		inode->row.mode = S_IFDIR;
		rt_random_name(&w->tree, dir, name);
		struct rt_node *node = rt_node_new(&w->tree, name, inode);
		rt_attach(&w->tree, dir, node);
		first = first ? first : node;
		dir = node;
	}
	if (nested)
		make_marker(w, dir);
	CLEANUP(lm_freep) char *path = rt_path(dir);
	must(w, lm_txn_mkdirs(w->txn, path, nested, &err));
	for (struct rt_node *node = dir; node != first->up; node = node->up)
		learn(w, node);
	if (nested)
		learn(w, rt_kid(dir, MARKER));
}

/* The short ways, which give owners, modes and times themselves. */
static void edit_put_data(struct world *w)
{
	struct rt_node *dir = choose(w, fits_dir);
	char name[256];
	rt_random_name(&w->tree, dir, name);
	struct rt_inode *inode = rt_inode_new();
	struct rt_node *node = rt_node_new(&w->tree, name, inode);
	rt_attach(&w->tree, dir, node);
	CLEANUP(lm_freep) char *path = rt_path(node);
	if (rt_chance(&w->tree, 50)) {
		inode->row.mode = S_IFREG;
		rt_set_content(&w->tree, inode, (const uint8_t *)name, strlen(name), 1000, false);
		must(w, lm_txn_put_data(w->txn, path, name, strlen(name), &err));
	} else {
		inode->row.mode = S_IFLNK;
		rt_set_target(inode, "to/here", "to/here");
		must(w, lm_txn_put_symlink(w->txn, path, "to/here", &err));
	}
	learn(w, node);
}

static void edit_wrong(struct world *w)
{
	struct lm_err err = LM_ERR_INIT;
	struct rt_node *dir = choose(w, fits_dir), *leaf = choose(w, fits_leaf);
	CLEANUP(lm_freep) char *above = rt_path(dir), *path = lm_str_printf("%s/no-such-name/x", above);
	assert_int_equal(lm_txn_put_data(w->txn, path, "x", 1, &err), -ENOENT);
	if (!leaf)
		return;
	CLEANUP(lm_freep) char *file = rt_path(leaf), *below = lm_str_printf("%s/x", file);
	assert_int_equal(lm_txn_put_data(w->txn, below, "x", 1, &err), -ENOTDIR);
	assert_int_equal(lm_txn_mkdirs(w->txn, below, true, &err), -ENOTDIR);
}

/*
 * Whole layers: catalogs made beside the transaction and hung in
 */

static void insert_level(struct world *w, struct lm_catalog_writer *writer, struct rt_node *dir, uint32_t *groups);
static void write_catalog(struct world *w, struct rt_node *dir, const char *file, struct lm_counters *ret_self,
	struct lm_counters *ret_subtree);

static void insert_nested(struct world *w, struct lm_catalog_writer *writer, struct rt_node *dir, const char *path)
{
	CLEANUP(lm_freep) char *file = lm_str_printf("%s/child.%u", w->dir, w->databases++);
	struct lm_counters self, subtree;
	struct lm_hash hash;
	uint64_t size;
	write_catalog(w, dir, file, &self, &subtree);
	must(w, lm_object_store_file(w->storage, LM_HASH_SHA1, LM_OBJECT_CATALOG, file, &hash, &size, &err));
	must(w, lm_catalog_set_nested(writer, path, &hash, size, &dir->inode->row, &self, &subtree, &err));
	unlink(file);
}

static uint32_t layer_group(struct rt_inode *inode, uint32_t *groups)
{
	if (inode->count > 1 && inode->number == 0)
		inode->number = ++*groups;
	return inode->number;
}

static void insert_level(struct world *w, struct lm_catalog_writer *writer, struct rt_node *dir, uint32_t *groups)
{
	for (size_t i = 0; i < dir->count; i++) {
		struct rt_node *node = dir->kids[i];
		struct rt_inode *inode = node->inode;
		CLEANUP(lm_freep) char *path = rt_path(node);
		struct lm_row row = inode->row;
		if (node->catalog) {
			/* The mountpoint says how many links the root of the nested one has. */
			row.link_count = 2;
			insert_nested(w, writer, node, path);
			continue;
		}
		row.link_group = rt_is_dir(node) ? 0 : layer_group(inode, groups);
		must(w, lm_catalog_insert(writer, path, &row, inode->chunks, inode->chunk_count, &err));
		insert_level(w, writer, node, groups);
	}
}

static void write_catalog(struct world *w, struct rt_node *dir, const char *file, struct lm_counters *ret_self,
	struct lm_counters *ret_subtree)
{
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *writer = NULL;
	CLEANUP(lm_freep) char *path = rt_path(dir);
	struct lm_catalog_props props = {.revision = 1, .last_modified_s = 1700000000};
	uint32_t groups = 0;
	dir->inode->row.link_count = 2;
	for (size_t i = 0; i < dir->count; i++)
		dir->inode->row.link_count += rt_is_dir(dir->kids[i]);
	must(w, lm_catalog_create(file, path, &dir->inode->row, &writer, &err));
	insert_level(w, writer, dir, &groups);
	must(w, lm_catalog_writer_finish(writer, &props, ret_self, ret_subtree, &err));
}

static void edit_graft(struct world *w)
{
	struct rt_node *replaced = rt_chance(&w->tree, 30) ? choose(w, fits_any) : NULL;
	struct rt_node *dir = replaced ? replaced->up : choose(w, fits_dir);
	CLEANUP(lm_freep) char *name = replaced ? strdup(replaced->name) : NULL;
	CLEANUP(lm_freep) char *file = lm_str_printf("%s/layer.%u", w->dir, w->databases++);
	struct lm_counters self, subtree;
	size_t count;
	if (replaced)
		rt_remove(&w->tree, replaced);
	struct rt_node *top = grow(w, dir, S_IFDIR);
	if (name) {
		free(top->name);
		top->name = STEAL(name);
	}
	make_marker(w, top);
	rt_random_attributes(&w->tree, &rt_kid(top, MARKER)->inode->row);
	grow_subtree(w, top, 2);
	CLEANUP(lm_freep) struct rt_node **all = rt_all(top, &count);
	for (size_t i = 0; i < count; i++)
		all[i]->inode->number = 0;
	CLEANUP(lm_freep) char *path = rt_path(top);
	write_catalog(w, top, file, &self, &subtree);
	must(w, lm_txn_graft(w->txn, path, file, &err));
	unlink(file);
}

static const struct edit {
	const char *name;
	unsigned weight;
	void (*run)(struct world *w);
} edits[] = {
	{"add", 20, edit_add},
	{"add a subtree", 8, edit_add_subtree},
	{"link", 15, edit_link},
	{"remove", 12, edit_remove},
	{"change content", 10, edit_content},
	{"change a type", 8, edit_type},
	{"directory to file", 2, edit_dir_to_file},
	{"change attributes", 12, edit_attributes},
	{"split a catalog off", 8, edit_split},
	{"join a catalog", 6, edit_join},
	{"rename", 10, edit_rename},
	{"make directories", 5, edit_mkdirs},
	{"put data", 5, edit_put_data},
	{"graft a layer", 4, edit_graft},
	{"errors", 3, edit_wrong},
};

static void edit_once(struct world *w)
{
	unsigned sum = 0, n;
	for (size_t i = 0; i < ARRAY_LEN(edits); i++)
		sum += edits[i].weight;
	n = rt_below(&w->tree, sum);
	const struct edit *edit = edits;
	for (; n >= edit->weight; edit++)
		n -= edit->weight;
	says = edit->name;
	if (getenv("LM_VERBOSE"))
		fprintf(stderr, "edit %u: %s\n", w->edits, says);
	edit->run(w);
	w->edits++;
}

/* Large trees shrink, small ones grow. */
static void edit_all(struct world *w)
{
	for (unsigned n = 1 + rt_below(&w->tree, 25); n > 0; n--)
		edit_once(w);
	says = "growing";
	while (w->tree.nodes < NODES_WANTED)
		edit_add_subtree(w);
	says = "shrinking";
	while (w->tree.nodes > NODES_MAX)
		edit_remove(w);
}

/*
 * Rounds
 */

static void print_finding(void *arg, const struct lm_finding *f)
{
	const struct lm_check_kind_info *kind = &lm_check_kinds[f->kind];
	printf("%s %s: catalog '%s' path '%s' object '%s': %s\n", lm_check_level_names[kind->level], kind->name,
		f->catalog ? f->catalog : "", f->path ? f->path : "", f->object ? f->object : "",
		f->text ? f->text : "");
}

static void check_repository(struct world *w)
{
	struct lm_check_options options = {.fqrn = FQRN,
		.keys = &w->public_key,
		.key_count = 1,
		.now_s = lm_wall_s(),
		.objects = true,
		.tags = true,
		.scratch = w->dir,
		.kind_max = 5};
	struct lm_check_result result;
	must(w, lm_repo_check(w->storage, &options, print_finding, NULL, &result, &err));
	assert_int_equal(result.levels[LM_CHECK_PROBLEM] + result.levels[LM_CHECK_WARNING], 0);
	assert_true(result.roots >= 1 && result.rows >= w->tree.nodes);
}

static void write_text(const char *dir, const char *name, const struct lm_buf *text)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, name);
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_file_replace(AT_FDCWD, path, lm_buf_cstr(text), text->len, 0644, 0, &err), &err);
}

/* As a client and as the stock checker would: the tree is the one that was asked for. */
static void check_tree(struct world *w, const struct lm_manifest *m, const struct lm_buf *wanted)
{
	CLEANUP(lm_buf_done) struct lm_buf found = LM_BUF(LISTING_MAX);
	unsigned problems = tree_walk(w->storage, &m->catalog, m->catalog_size, &found);
	if (problems > 0 || strcmp(lm_buf_cstr(&found), lm_buf_cstr(wanted)) != 0) {
		write_text(w->dir, "wanted", wanted);
		write_text(w->dir, "found", &found);
		CLEANUP(lm_freep) char *a = lm_str_printf("%s/wanted", w->dir);
		CLEANUP(lm_freep) char *b = lm_str_printf("%s/found", w->dir);
		run((const char *const[]){"diff", a, b, NULL});
		fail_msg("revision %" PRIu64 " is not what was asked for", m->revision);
	}
}

/* Edits that are given up leave nothing behind. */
static void give_up(struct world *w, const struct lm_manifest *current)
{
	struct rt_node *node = choose(w, fits_any);
	CLEANUP(lm_freep) char *path = node ? rt_path(node) : strdup("/absent");
	must(w, lm_txn_begin(w->storage, &w->keys, FQRN, &w->txn, &err));
	assert_int_equal(lm_txn_base(w->txn)->revision, current->revision);
	must(w, lm_txn_remove(w->txn, path, &err));
	must(w, lm_txn_mkdirs(w->txn, "/given/up", true, &err));
	lm_txn_free(STEAL(w->txn));
}

/* All but the last two revisions goes. Their times run ahead of the clock when several are published in a second. */
static void collect(struct world *w)
{
	struct lm_gc_options options = {.keep_since_s = lm_wall_s() + 86400};
	struct lm_gc_result result;
	says = "collect";
	must(w, lm_repo_gc(w->storage, &w->keys, FQRN, &options, &result, &err));
	assert_true(result.roots_kept >= 1 && result.roots_kept <= 2);
	assert_int_equal(result.roots_absent, 0);
}

static void publish(struct world *w, const struct lm_manifest *base, struct lm_manifest *ret)
{
	must(w, lm_txn_begin(w->storage, &w->keys, FQRN, &w->txn, &err));
	if (!w->root_put)
		put_row(w, w->tree.root, 0);
	edit_all(w);
	says = "commit";
	must(w, lm_txn_commit(w->txn, ret, &err));
	lm_txn_free(STEAL(w->txn));
	assert_int_equal(ret->revision, base->revision + !lm_hash_equal(&ret->catalog, &base->catalog));
}

/* Somebody else compares what he sees with the listing. */
static void wait_for_watcher(struct world *w, unsigned round, const struct lm_buf *listing)
{
	char line[16];
	write_text(w->dir, "listing", listing);
	printf("round %u\n", round);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		fail_msg("round %u: the watcher went away", round);
}

static unsigned number_from(const char *name, unsigned otherwise)
{
	const char *text = getenv(name);
	return text && *text ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

static void world_init(struct world *w)
{
	const char *work = getenv("LM_WORK");
	struct lm_err err = LM_ERR_INIT;
	*w = (struct world){.watched = work != NULL, .dir = work ? strdup(work) : temp_dir()};
	CLEANUP(lm_freep) char *storage = lm_str_printf("%s/storage/cvmfs/" FQRN, w->dir);
	CLEANUP(lm_freep) char *keys = lm_str_printf("%s/keys", w->dir), *pub = lm_str_printf("%s/" FQRN ".pub", keys);
	CLEANUP(lm_buf_done) struct lm_buf pem = {0};
	assert_ok(lm_mkdir_p(AT_FDCWD, storage, 0755, &err), &err);
	assert_ok(lm_storage_dir_open(storage, true, &w->storage, &err), &err);
	assert_ok(lm_repo_keys_make(keys, FQRN, &w->keys, &err), &err);
	read_whole(pub, &pem);
	assert_ok(lm_key_parse_public(lm_buf_cstr(&pem), pem.len, &w->public_key, &err), &err);
}

static void world_done(struct world *w)
{
	lm_txn_free(w->txn);
	rt_done(&w->tree);
	lm_key_free(w->public_key);
	lm_repo_keys_done(&w->keys);
	lm_storage_free(w->storage);
	if (w->watched)
		free(w->dir);
	else
		temp_dir_remove(&w->dir);
}

static void test_rounds(void **state)
{
	unsigned rounds = number_from("LM_ROUNDS", 20);
	unsigned seed = number_from("LM_SEED", (unsigned)lm_now_us());
	struct lm_manifest current, next;
	CLEANUP(lm_buf_done) struct lm_buf before = LM_BUF(LISTING_MAX);
	static struct world world;
	struct world *w = &world;
	printf("LM_SEED=%u, %u rounds\n", seed, rounds);
	fflush(stdout);
	world_init(w);
	rt_init(&w->tree, seed, w->storage);
	must(w, lm_repo_create(w->storage, &w->keys, FQRN, 30, 300, NULL, &current, &err));
	for (unsigned round = 1; round <= rounds; round++) {
		CLEANUP(lm_buf_done) struct lm_buf listing = LM_BUF(LISTING_MAX);
		publish(w, &current, &next);
		if (rt_chance(&w->tree, 20))
			collect(w);
		rt_list(&w->tree, &listing);
		check_tree(w, &next, &listing);
		if (before.len > 0)
			check_tree(w, &current, &before);
		if (rt_chance(&w->tree, 20))
			give_up(w, &next);
		check_repository(w);
		if (w->watched)
			wait_for_watcher(w, round, &listing);
		lm_buf_clear(&before);
		assert_int_equal(lm_buf_append(&before, lm_buf_cstr(&listing), listing.len), 0);
		current = next;
	}
	printf("%u edits, %" PRIu64 " revisions, %zu files in the last\n", w->edits, current.revision, w->tree.nodes);
	world_done(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_rounds)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
