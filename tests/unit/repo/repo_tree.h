/* Reads a tree back from its root catalog: lists it as the fixtures do, and has it checked. */
#ifndef LM_TESTS_REPO_TREE_H
#define LM_TESTS_REPO_TREE_H

#include "repo/catalog_schema.h"
#include "repo/check.h"
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
