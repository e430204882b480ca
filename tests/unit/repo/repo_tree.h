/* Reads a tree back from its root catalog: lists it as the fixtures do, and has it checked. */
#ifndef LM_TESTS_REPO_TREE_H
#define LM_TESTS_REPO_TREE_H

#include "repo/catalog_schema.h"
#include "repo/check.h"
#include "repo/listing.h"
#include "repo/object_store.h"
#include "repo/symlink.h"
#include "repo/xattr.h"
#include "repo_test.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <sys/stat.h>

enum { TREE_FILE_MAX = 64 << 20, TREE_GROUPS_MAX = 256 };

struct tree {
	struct lm_storage *storage;
	char *dir; /* for databases */
	unsigned files;
	struct lm_buf *listing;
	uint64_t groups[TREE_GROUPS_MAX]; /* catalog and lowest row id of the groups met */
	size_t group_count;
};

struct tree_catalog {
	struct tree *tree;
	struct lm_catalog *catalog;
	char *db_path;
	unsigned number;
};

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

static inline void tree_sha256(struct tree_catalog *c, const struct lm_row *row, char ret[65])
{
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(0);
	uint8_t digest[32];
	tree_content(c, row, &content);
	assert_int_equal(EVP_Digest(lm_buf_cstr(&content), content.len, digest, NULL, EVP_sha256(), NULL), 1);
	lm_hex_format(digest, sizeof(digest), ret);
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
	CLEANUP(lm_buf_done) struct lm_buf target = LM_BUF(1 << 16);
	struct lm_xattr xattrs[LM_XATTR_COUNT_MAX];
	char sha256[65];
	uint32_t members = 1;
	size_t at = 0;
	struct lm_listing_line line = {
		.mode = row->mode,
		.uid = row->uid,
		.gid = row->gid,
		.size = row->size,
		.mtime_s = row->mtime_s,
		.mtime_ns = row->mtime_ns,
		.group = tree_group(c, row, &members),
		.rdev = row->rdev,
		.xattrs = xattrs,
		.path = path,
	};
	line.nlink = S_ISDIR(row->mode) ? row->link_count : members;
	if (row->symlink) {
		assert_int_equal(lm_symlink_expand(row->symlink, &target), 0);
		line.target = lm_buf_cstr(&target);
		line.size = target.len;
	}
	if (S_ISREG(row->mode)) {
		tree_sha256(c, row, sha256);
		line.sha256 = sha256;
	}
	while (row->xattr && lm_xattr_next(row->xattr, row->xattr_len, &at, &xattrs[line.xattr_count]) > 0)
		line.xattr_count++;
	assert_int_equal(lm_listing_append(c->tree->listing, &line), 0);
}

static inline void tree_list_catalog(struct tree *tree, const struct lm_hash *hash, const char *path);

static inline void tree_list_dir(struct tree_catalog *c, const struct lm_row *dir, const char *path);

/* What is hidden is found by name only, so no listing shows it. */
static inline void tree_list_child(struct tree_catalog *c, const struct lm_row *row, const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf found = LM_BUF(1 << 16);
	struct lm_nested nested;
	assert_ok(lm_catalog_path_of(c->catalog, row->rowid, &found, &err), &err);
	assert_string_equal(lm_buf_cstr(&found), path);
	if (row->flags & LM_ROW_HIDDEN)
		return;
	tree_list_row(c, row, path);
	if (row->flags & LM_ROW_MOUNTPOINT) {
		assert_ok(lm_catalog_nested(c->catalog, path, &nested, &err), &err);
		tree_list_catalog(c->tree, &nested.hash, path);
		free(nested.path);
	} else if (S_ISDIR(row->mode)) {
		tree_list_dir(c, row, path);
	}
}

static inline void tree_list_dir(struct tree_catalog *c, const struct lm_row *dir, const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(tree_rows_done) struct tree_rows list = {0};
	assert_ok(lm_catalog_list(c->catalog, dir->path, 0, tree_collect, &list, &err), &err);
	if (list.count > 0)
		qsort(list.rows, list.count, sizeof(*list.rows), tree_by_name);
	for (size_t i = 0; i < list.count; i++) {
		CLEANUP(lm_freep) char *child = lm_str_printf("%s/%s", path, list.rows[i].name);
		tree_list_child(c, &list.rows[i], child);
	}
}

static inline void tree_list_catalog(struct tree *tree, const struct lm_hash *hash, const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(tree_catalog_done) struct tree_catalog c = {0};
	CLEANUP(lm_row_done) struct lm_row root = {0};
	tree_catalog_open(tree, hash, path, &c);
	assert_ok(lm_catalog_lookup(c.catalog, lm_path_hash(path, strlen(path)), &root, &err), &err);
	if (!*path)
		tree_list_row(&c, &root, "");
	tree_list_dir(&c, &root, path);
}

static inline void tree_print_finding(void *arg, const struct lm_finding *f)
{
	(void)arg;
	const char *what[] = {f->catalog ? f->catalog : "-", f->path ? f->path : "-", f->object ? f->object : "-"};
	fprintf(stderr, "%s: catalog '%s', path '%s', object %s: %s\n", lm_check_kinds[f->kind].name, what[0], what[1],
		what[2], f->text);
}

/* Has the whole tree checked; returns the number of problems, which are printed. Lists it, too, where listing is not
 * NULL. */
static inline unsigned tree_walk(
	struct lm_storage *storage, const struct lm_hash *root, uint64_t size, struct lm_buf *listing)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_check_result result;
	struct tree tree;
	tree_init(&tree, storage);
	tree.listing = listing;
	const struct lm_check_options options = {.root = root, .root_size = size, .scratch = tree.dir};
	assert_ok(lm_repo_check(storage, &options, tree_print_finding, NULL, &result, &err), &err);
	if (listing)
		tree_list_catalog(&tree, root, "");
	tree_done(&tree);
	return (unsigned)result.levels[LM_CHECK_PROBLEM];
}

#endif
