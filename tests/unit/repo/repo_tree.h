/*
 * Walks a published repository from its root catalog: lists it as the fixtures do, and checks every rule that the stock
 * checker enforces.
 */
#ifndef LM_TESTS_REPO_TREE_H
#define LM_TESTS_REPO_TREE_H

#include "repo/catalog_schema.h"
#include "repo/object_store.h"
#include "repo/xattr.h"
#include "repo_test.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum { TREE_FILE_MAX = 64 << 20, TREE_GROUPS_MAX = 256 };

struct tree {
	struct lm_storage *storage;
	char *dir; /* for databases */
	unsigned files;
	struct lm_buf *listing;		  /* or NULL */
	uint64_t groups[TREE_GROUPS_MAX]; /* catalog and lowest row id of the groups met */
	size_t group_count;
	unsigned problems; /* found by the checker */
};

struct tree_catalog {
	struct tree *tree;
	struct lm_catalog *catalog;
	char *db_path;
	unsigned number;
	bool has_marker;
	struct lm_counters self, below; /* counted */
	uint64_t rows;
};

#define tree_problem(tree, ...)               \
	do {                                  \
		(tree)->problems++;           \
		fprintf(stderr, __VA_ARGS__); \
		fputc('\n', stderr);          \
	} while (0)

static inline void tree_init(struct tree *tree, struct lm_storage *storage)
{
	*tree = (struct tree){.storage = storage, .dir = temp_dir()};
}

static inline void tree_done(struct tree *tree)
{
	temp_dir_remove(&tree->dir);
}

static inline void tree_catalog_open(
	struct tree *tree, const struct lm_hash *hash, const char *mountpoint, struct tree_catalog *ret)
{
	struct lm_err err = LM_ERR_INIT;
	*ret = (struct tree_catalog){.tree = tree, .number = tree->files++};
	ret->db_path = lm_str_printf("%s/%u", tree->dir, ret->number);
	assert_ok(lm_object_load_file(tree->storage, hash, LM_OBJECT_CATALOG, 1 << 30, ret->db_path, &err), &err);
	assert_ok(lm_catalog_open(ret->db_path, mountpoint, &ret->catalog, &err), &err);
}

static inline void tree_catalog_done(struct tree_catalog *c)
{
	lm_catalog_close(c->catalog);
	free(c->db_path);
}

/* A number straight from the database, past the reader. */
static inline int64_t tree_sql(const char *db_path, const char *sql)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_db db;
	int64_t value;
	assert_ok(lm_db_open(db_path, &db, &err), &err);
	assert_ok(lm_db_number(&db, sql, &value, &err), &err);
	lm_db_close(&db);
	return value;
}

struct tree_rows {
	struct lm_row *rows;
	size_t count, cap;
};

static inline int tree_collect(void *arg, struct lm_row *row)
{
	struct tree_rows *list = arg;
	struct lm_row *grown = lm_grown(list->rows, list->count, &list->cap, sizeof(*grown));
	assert_non_null(grown);
	list->rows = grown;
	list->rows[list->count++] = *row;
	*row = (struct lm_row){0};
	return 0;
}

static inline int tree_by_name(const void *a, const void *b)
{
	return strcmp(((const struct lm_row *)a)->name, ((const struct lm_row *)b)->name);
}

static inline void tree_rows_done(struct tree_rows *list)
{
	for (size_t i = 0; i < list->count; i++)
		lm_row_done(&list->rows[i]);
	free(list->rows);
}

/* As the listing shows it: $(NAME) is empty, $(NAME:-text) is text. */
static inline char *tree_expand(const char *target)
{
	struct lm_buf out = LM_BUF(1 << 16);
	for (const char *at = target; *at;) {
		const char *end = at[0] == '$' && at[1] == '(' ? strchr(at, ')') : NULL;
		if (!end) {
			assert_int_equal(lm_buf_append(&out, at++, 1), 0);
			continue;
		}
		const char *text = strstr(at, ":-");
		if (text && text < end)
			assert_int_equal(lm_buf_append(&out, text + 2, (size_t)(end - text - 2)), 0);
		at = end + 1;
	}
	assert_int_equal(lm_buf_append(&out, "", 0), 0);
	return (char *)lm_buf_steal(&out, &(size_t){0});
}

static inline void tree_quote(struct lm_buf *out, const char *text, size_t len)
{
	if (len == 0)
		assert_int_equal(lm_buf_str(out, "-"), 0);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];
		bool plain = c >= 0x21 && c <= 0x7e && c != '%' && c != ',' && c != '=';
		assert_int_equal(lm_buf_printf(out, plain ? "%c" : "%%%02x", c), 0);
	}
}

/* The whole content, which must have the size that the row says. */
static inline void tree_content(struct tree_catalog *c, const struct lm_row *row, struct lm_buf *ret)
{
	struct lm_err err = LM_ERR_INIT;
	*ret = LM_BUF(TREE_FILE_MAX);
	if (row->flags & LM_ROW_CHUNKED) {
		CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
		size_t count;
		assert_ok(lm_catalog_chunks(c->catalog, row, 0, UINT64_MAX, &chunks, &count, &err), &err);
		for (size_t i = 0; i < count; i++)
			assert_ok(lm_object_load(c->tree->storage, &chunks[i].hash, LM_OBJECT_CHUNK, row->compression,
					  ret, &err),
				&err);
	} else {
		assert_ok(lm_object_load(c->tree->storage, &row->hash, LM_OBJECT_FILE, row->compression, ret, &err),
			&err);
	}
	assert_int_equal(ret->len, row->size);
}

static inline void tree_list_sha256(struct tree_catalog *c, const struct lm_row *row)
{
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(0);
	uint8_t digest[32];
	char hex[65];
	tree_content(c, row, &content);
	assert_int_equal(EVP_Digest(lm_buf_cstr(&content), content.len, digest, NULL, EVP_sha256(), NULL), 1);
	lm_hex_format(digest, sizeof(digest), hex);
	assert_int_equal(lm_buf_str(c->tree->listing, hex), 0);
}

static inline void tree_list_xattrs(struct lm_buf *out, const struct lm_row *row)
{
	struct lm_xattr attr;
	size_t at = 0;
	unsigned count = 0;
	while (row->xattr && lm_xattr_next(row->xattr, row->xattr_len, &at, &attr) > 0) {
		assert_int_equal(lm_buf_str(out, count++ ? "," : ""), 0);
		tree_quote(out, attr.key, attr.key_len);
		assert_int_equal(lm_buf_str(out, "="), 0);
		for (size_t i = 0; i < attr.value_len; i++)
			assert_int_equal(lm_buf_printf(out, "%02x", ((const uint8_t *)attr.value)[i]), 0);
	}
	if (count == 0)
		assert_int_equal(lm_buf_str(out, "-"), 0);
}

/* The number of a hard-link group in the listing, 0 for none. */
static inline unsigned tree_group(struct tree_catalog *c, const struct lm_row *row, uint32_t *ret_members)
{
	struct lm_err err = LM_ERR_INIT;
	uint64_t lowest;
	*ret_members = 1;
	if (row->link_group == 0)
		return 0;
	assert_ok(lm_catalog_group(c->catalog, row->link_group, &lowest, ret_members, &err), &err);
	if (*ret_members == 1)
		return 0;
	uint64_t key = (uint64_t)c->number << 40 | lowest;
	size_t i = 0;
	while (i < c->tree->group_count && c->tree->groups[i] != key)
		i++;
	assert_true(i < TREE_GROUPS_MAX);
	c->tree->groups[i] = key;
	c->tree->group_count = LM_MAX(c->tree->group_count, i + 1);
	return (unsigned)i + 1;
}

static inline void tree_list_row(struct tree_catalog *c, const struct lm_row *row, const char *path)
{
	struct lm_buf *out = c->tree->listing;
	CLEANUP(lm_freep) char *target = row->symlink ? tree_expand(row->symlink) : NULL;
	static const char types[] = "?pc?d?b?f?l?s";
	uint32_t members = 1;
	unsigned group = tree_group(c, row, &members);
	assert_int_equal(lm_buf_printf(out, "%c %04o %u %u %" PRIu64 " %" PRId64 ".%09u %u ", types[row->mode >> 12],
				 row->mode & 07777, row->uid, row->gid, target ? strlen(target) : row->size,
				 row->mtime_s, row->mtime_ns, S_ISDIR(row->mode) ? row->link_count : members),
		0);
	assert_int_equal(group ? lm_buf_printf(out, "%u ", group) : lm_buf_str(out, "- "), 0);
	if (S_ISCHR(row->mode) || S_ISBLK(row->mode))
		assert_int_equal(lm_buf_printf(out, "%u:%u ", major(row->rdev), minor(row->rdev)), 0);
	else
		assert_int_equal(lm_buf_str(out, "- "), 0);
	if (S_ISREG(row->mode))
		tree_list_sha256(c, row);
	else
		assert_int_equal(lm_buf_str(out, "-"), 0);
	assert_int_equal(lm_buf_str(out, " "), 0);
	tree_quote(out, target ? target : "", target ? strlen(target) : 0);
	assert_int_equal(lm_buf_str(out, " "), 0);
	tree_list_xattrs(out, row);
	assert_int_equal(lm_buf_str(out, " "), 0);
	tree_quote(out, *path ? path : "/", strlen(*path ? path : "/"));
	assert_int_equal(lm_buf_str(out, "\n"), 0);
}

static inline void tree_count_row(struct tree_catalog *c, const struct lm_row *row)
{
	struct lm_counters *n = &c->self;
	c->rows++;
	n->dir += S_ISDIR(row->mode);
	n->symlink += S_ISLNK(row->mode);
	n->xattr += row->xattr != NULL;
	if (S_ISDIR(row->mode) || S_ISLNK(row->mode))
		return;
	if (!S_ISREG(row->mode)) {
		n->special++;
		return;
	}
	n->regular++;
	n->file_size += row->size;
	if (row->flags & LM_ROW_CHUNKED) {
		n->chunked++;
		n->chunked_size += row->size;
	}
	if (row->flags & LM_ROW_EXTERNAL) {
		n->external++;
		n->external_file_size += row->size;
	}
}

static inline void tree_check_stored(
	struct tree *tree, const struct lm_hash *hash, enum lm_object_kind kind, const char *path)
{
	char name[LM_OBJECT_PATH_MAX];
	if (tree->storage->ops->has(tree->storage, lm_object_path(hash, kind, name), NULL) != 1)
		tree_problem(tree, "%s: object %s is missing", path, name);
}

static inline void tree_check_objects(struct tree_catalog *c, const struct lm_row *row, const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	if (row->hash.set)
		tree_check_stored(c->tree, &row->hash, LM_OBJECT_FILE, path);
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	size_t count = 0;
	if (lm_catalog_chunks(c->catalog, row, 0, UINT64_MAX, &chunks, &count, &err) < 0)
		tree_problem(c->tree, "%s: %s", path, err.msg);
	if (row->flags & LM_ROW_CHUNKED && count == 0)
		tree_problem(c->tree, "%s: chunked without chunks", path);
	c->self.chunks += count;
	for (size_t i = 0; i < count; i++)
		tree_check_stored(c->tree, &chunks[i].hash, LM_OBJECT_CHUNK, path);
}

/* Members of a group found beside a row that says more than one. */
static inline void tree_check_links(
	struct tree_catalog *c, const struct tree_rows *list, const struct lm_row *row, const char *path)
{
	uint32_t found = 0;
	if (S_ISDIR(row->mode) || row->link_count <= 1)
		return;
	for (size_t i = 0; i < list->count; i++)
		found += list->rows[i].link_group == row->link_group && !S_ISDIR(list->rows[i].mode);
	if (row->link_group == 0 || found != row->link_count)
		tree_problem(
			c->tree, "%s: %u links in group %u, %u found", path, row->link_count, row->link_group, found);
}

static inline void tree_check_mountpoint(
	struct tree *tree, const struct lm_row *up, const struct lm_row *root, const char *path)
{
	if (up->size != root->size || up->mode != root->mode || up->mtime_s != root->mtime_s ||
		up->mtime_ns != root->mtime_ns || up->link_count != root->link_count || up->uid != root->uid ||
		up->gid != root->gid || up->xattr_len != root->xattr_len || strcmp(up->name, root->name) != 0)
		tree_problem(tree, "%s: mountpoint and nested root differ", path);
	if (!(root->flags & LM_ROW_NESTED_ROOT) || root->flags & LM_ROW_MOUNTPOINT)
		tree_problem(tree, "%s: flags 0x%x of the nested root", path, root->flags);
}

static inline void tree_walk_catalog(
	struct tree *tree, const struct lm_nested *self, const struct lm_row *mountpoint, struct lm_counters *ret_sum);

static inline void tree_walk_dir(struct tree_catalog *c, const struct lm_row *dir, const char *path, bool hidden);

static inline void tree_walk_nested(struct tree_catalog *c, const struct lm_row *row, const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_nested nested;
	struct lm_counters sum = {0};
	assert_ok(lm_catalog_nested(c->catalog, path, &nested, &err), &err);
	tree_walk_catalog(c->tree, &nested, row, &sum);
	lm_counters_add(&c->below, &sum);
	c->self.nested++;
	free(nested.path);
	CLEANUP(tree_rows_done) struct tree_rows list = {0};
	assert_ok(lm_catalog_list(c->catalog, row->path, 0, tree_collect, &list, &err), &err);
	if (list.count > 0)
		tree_problem(c->tree, "%s: rows below a mountpoint", path);
}

static inline void tree_visit(
	struct tree_catalog *c, const struct tree_rows *list, const struct lm_row *row, const char *path, bool hidden)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf found = LM_BUF(1 << 16);
	assert_ok(lm_catalog_path_of(c->catalog, row->rowid, &found, &err), &err);
	assert_string_equal(lm_buf_cstr(&found), path);
	hidden = hidden || row->flags & LM_ROW_HIDDEN;
	tree_check_objects(c, row, path);
	tree_check_links(c, list, row, path);
	if (strcmp(row->name, ".cvmfscatalog") == 0) {
		const char *root = lm_catalog_mountpoint(c->catalog);
		if (!*root || !lm_path_hash_equal(row->parent, lm_path_hash(root, strlen(root))))
			tree_problem(c->tree, "%s: a marker where no catalog begins", path);
		c->has_marker = true;
	}
	if (c->tree->listing && !hidden)
		tree_list_row(c, row, path);
	if (row->flags & LM_ROW_MOUNTPOINT) {
		struct lm_buf *listing = c->tree->listing;
		if (hidden)
			c->tree->listing = NULL;
		tree_count_row(c, row);
		tree_walk_nested(c, row, path);
		c->tree->listing = listing;
	} else if (S_ISDIR(row->mode)) {
		tree_walk_dir(c, row, path, hidden);
	} else {
		tree_count_row(c, row);
	}
}

/* The row itself is counted here, its children are visited. */
static inline void tree_walk_dir(struct tree_catalog *c, const struct lm_row *dir, const char *path, bool hidden)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(tree_rows_done) struct tree_rows list = {0};
	tree_count_row(c, dir);
	assert_ok(lm_catalog_list(c->catalog, dir->path, 0, tree_collect, &list, &err), &err);
	if (list.count > 0)
		qsort(list.rows, list.count, sizeof(*list.rows), tree_by_name);
	uint32_t subdirs = 0;
	for (size_t i = 0; i < list.count; i++) {
		CLEANUP(lm_freep) char *child = lm_str_printf("%s/%s", path, list.rows[i].name);
		subdirs += S_ISDIR(list.rows[i].mode);
		tree_visit(c, &list, &list.rows[i], child, hidden);
	}
	if (!(dir->flags & LM_ROW_BIND) && dir->link_count != 2 + subdirs)
		tree_problem(c->tree, "%s: %u links with %u subdirectories", path, dir->link_count, subdirs);
}

static inline void tree_compare_counters(
	struct tree_catalog *c, const char *what, struct lm_counters *stored, struct lm_counters *counted)
{
	for (size_t i = 0; i < LM_COUNTER_COUNT; i++)
		if (*lm_counter_at(stored, i) != *lm_counter_at(counted, i))
			tree_problem(c->tree, "'%s': %s_%s is %" PRIu64 ", counted %" PRIu64,
				lm_catalog_mountpoint(c->catalog), what, lm_counter_names[i].name,
				*lm_counter_at(stored, i), *lm_counter_at(counted, i));
}

static inline void tree_check_database(struct tree_catalog *c, const struct lm_nested *self)
{
	struct stat st;
	assert_int_equal(stat(c->db_path, &st), 0);
	if (self->size && self->size != (uint64_t)st.st_size)
		tree_problem(c->tree, "'%s': %" PRIu64 " bytes named, %lld there", self->path, self->size,
			(long long)st.st_size);
	if (tree_sql(c->db_path, "SELECT count(*) FROM catalog") != (int64_t)c->rows)
		tree_problem(c->tree, "'%s': rows that no directory lists", self->path);
	if (tree_sql(c->db_path, "SELECT count(*) FROM chunks") != (int64_t)c->self.chunks)
		tree_problem(c->tree, "'%s': chunks that no file has", self->path);
	if (tree_sql(c->db_path, "SELECT count(*) FROM nested_catalogs") != (int64_t)c->self.nested)
		tree_problem(c->tree, "'%s': nested catalogs without a mountpoint", self->path);
	if (tree_sql(c->db_path, "SELECT count(*) FROM statistics") != 2 * LM_COUNTER_COUNT)
		tree_problem(c->tree, "'%s': counters are missing", self->path);
	if (tree_sql(c->db_path,
		    "SELECT count(*) FROM catalog WHERE flags & 8 AND size <> length(CAST(symlink AS BLOB))") != 0)
		tree_problem(c->tree, "'%s': size of a symbolic link", self->path);
	if (tree_sql(c->db_path, "SELECT count(*) FROM catalog WHERE name IS NULL OR symlink IS NULL") != 0)
		tree_problem(c->tree, "'%s': NULL names", self->path);
}

static inline void tree_walk_catalog(
	struct tree *tree, const struct lm_nested *self, const struct lm_row *mountpoint, struct lm_counters *ret_sum)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(tree_catalog_done) struct tree_catalog c = {0};
	CLEANUP(lm_row_done) struct lm_row root = {0};
	tree_catalog_open(tree, &self->hash, self->path, &c);
	assert_ok(lm_catalog_lookup(c.catalog, lm_path_hash(self->path, strlen(self->path)), &root, &err), &err);
	if (mountpoint)
		tree_check_mountpoint(tree, mountpoint, &root, self->path);
	else if (tree->listing)
		tree_list_row(&c, &root, "");
	tree_walk_dir(&c, &root, self->path, false);
	if (mountpoint && !c.has_marker)
		tree_problem(tree, "%s: a nested catalog without a marker", self->path);
	struct lm_counters stored_self, stored_subtree;
	assert_ok(lm_catalog_counters(c.catalog, &stored_self, &stored_subtree, &err), &err);
	tree_compare_counters(&c, "self", &stored_self, &c.self);
	tree_compare_counters(&c, "subtree", &stored_subtree, &c.below);
	tree_check_database(&c, self);
	*ret_sum = c.self;
	lm_counters_add(ret_sum, &c.below);
}

/* Walks all of it; returns the number of problems, which are printed. listing may be NULL. */
static inline unsigned tree_walk(
	struct lm_storage *storage, const struct lm_hash *root, uint64_t size, struct lm_buf *listing)
{
	struct tree tree;
	struct lm_counters sum;
	struct lm_nested self = {.path = (char *)"", .hash = *root, .size = size};
	tree_init(&tree, storage);
	tree.listing = listing;
	tree_walk_catalog(&tree, &self, NULL, &sum);
	tree_done(&tree);
	return tree.problems;
}

#endif
