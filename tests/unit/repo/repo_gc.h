/* What the tests of garbage collection share: repositories with a past, what they store and what they have to. */
#ifndef LM_TESTS_REPO_GC_H
#define LM_TESTS_REPO_GC_H

#include "repo/gc.h"
#include "repo/tags.h"
#include "repo_publish.h"

enum { REVISIONS_MAX = 40 };

/*
 * Repositories
 */

/* A repository, and what all its revisions were. */
struct past {
	struct place p;
	struct lm_hash roots[REVISIONS_MAX]; /* by revision, from 1 on */
	uint64_t sizes[REVISIONS_MAX];
	unsigned revision;
};

static inline void past_open(struct past *past)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_storage_dir_open(past->p.dir, true, &past->p.storage, &err), &err);
}

static inline void past_done(struct past *past)
{
	lm_storage_free(past->p.storage);
	assert_int_equal(lm_remove_tree(AT_FDCWD, past->p.dir, NULL), 0);
	free(past->p.dir);
}

static inline void note_revision(struct past *past, const struct lm_manifest *m)
{
	assert_int_equal(m->revision, ++past->revision);
	assert_true(past->revision < REVISIONS_MAX);
	past->roots[past->revision] = m->catalog;
	past->sizes[past->revision] = m->catalog_size;
}

static inline void create_past(struct past *past)
{
	struct lm_manifest made;
	*past = (struct past){0};
	create(&past->p, &made);
	note_revision(past, &made);
}

/* A second one like it; the storage of the first keeps its lock. */
static inline void copy(const struct past *from, struct past *ret)
{
	static unsigned count;
	*ret = *from;
	ret->p.dir = lm_str_printf("%s/copied.%u", base, count++);
	assert_int_equal(run((const char *const[]){"cp", "-a", from->p.dir, ret->p.dir, NULL}), 0);
	past_open(ret);
}

static inline void commit_past(struct past *past, struct lm_txn **txn)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest made;
	assert_ok(lm_txn_commit(*txn, &made, &err), &err);
	lm_txn_freep(txn);
	note_revision(past, &made);
}

static inline void tag(struct past *past, const char *name, unsigned revision)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_history_root root;
	struct lm_tag_request request = {.name = name, .root = past->roots[revision]};
	assert_ok(lm_repo_tag_add(past->p.storage, &keys, FQRN, &request, &root, &err), &err);
}

static inline struct lm_chunk store_chunk(
	struct past *past, struct lm_packer *packer, uint64_t offset, const char *content)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_chunk chunk = {.offset = offset, .size = strlen(content)};
	assert_ok(
		lm_object_store(past->p.storage, packer, LM_OBJECT_CHUNK, content, strlen(content), &chunk.hash, &err),
		&err);
	return chunk;
}

/* A nested catalog at /big with a file of two chunks, the first of which is in every revision. sql: run on its
 * database; NULL. */
static inline void graft_chunked(struct past *past, struct lm_txn *txn, unsigned n, const char *sql)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/layer.%u", base, n);
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	CLEANUP(lm_packer_freep) struct lm_packer *packer = NULL;
	struct lm_row dir = {.mode = S_IFDIR | 0755, .size = 4096}, marker = {.mode = S_IFREG | 0644};
	struct lm_counters self, subtree;
	char text[32];
	snprintf(text, sizeof(text), "second chunk %u", n);
	assert_ok(lm_packer_new(LM_HASH_SHA1, &packer, &err), &err);
	struct lm_chunk chunks[] = {store_chunk(past, packer, 0, "first"), store_chunk(past, packer, 5, text)};
	struct lm_row file = {.mode = S_IFREG | 0644, .size = 5 + strlen(text)};
	assert_ok(lm_object_store(past->p.storage, packer, LM_OBJECT_FILE, "", 0, &marker.hash, &err), &err);
	assert_ok(lm_catalog_create(path, "/big", &dir, &w, &err), &err);
	assert_ok(lm_catalog_insert(w, "/big/.cvmfscatalog", &marker, NULL, 0, &err), &err);
	assert_ok(lm_catalog_insert(w, "/big/file", &file, chunks, 2, &err), &err);
	struct lm_catalog_props props = {.revision = 1, .last_modified_s = 2000};
	assert_ok(lm_catalog_writer_finish(w, &props, &self, &subtree, &err), &err);
	if (sql) {
		struct lm_db db = {0};
		assert_ok(lm_db_open_edit(path, &db, &err), &err);
		assert_ok(lm_db_exec(&db, sql, &err), &err);
		lm_db_close(&db);
	}
	assert_ok(lm_txn_graft(txn, "/big", path, &err), &err);
	assert_int_equal(unlink(path), 0);
}

/* Random changes: some of a pool of directories, half of them nested catalogs, with files that come, change and go. */
static inline void publish_random(struct past *past)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	struct lm_err err = LM_ERR_INIT;
	begin(&past->p, &txn);
	for (unsigned i = 0; i < 12; i++) {
		char dir[32], path[64], content[32];
		unsigned d = (unsigned)rand() % 6, deep = (unsigned)rand() % 2;
		snprintf(dir, sizeof(dir), "/%u%s", d, deep ? "/deep" : "");
		snprintf(path, sizeof(path), "%s/%u", dir, (unsigned)rand() % 5);
		snprintf(content, sizeof(content), "content %u", (unsigned)rand() % 60);
		struct lm_row row;
		if (rand() % 8 == 0) {
			assert_ok(lm_txn_remove(txn, dir, &err), &err);
		} else if (rand() % 6 == 0) {
			assert_ok(lm_txn_remove(txn, path, &err), &err);
		} else {
			if (lm_txn_lookup(txn, dir, &row, NULL) == 0)
				lm_row_done(&row);
			else
				mkdirs(txn, dir, d % 2 == 0);
			put(txn, path, content);
		}
	}
	if (rand() % 3 == 0)
		graft_chunked(past, txn, (unsigned)rand() % 4, NULL);
	char serial[16];
	snprintf(serial, sizeof(serial), "%u", past->revision);
	put(txn, "/serial", serial); /* something changes always */
	commit_past(past, &txn);
}

/*
 * What is stored, and what has to be: sorted lists of paths
 */

struct names {
	char **items;
	size_t count, cap;
};

static inline void names_done(struct names *names)
{
	for (size_t i = 0; i < names->count; i++)
		free(names->items[i]);
	free(names->items);
	*names = (struct names){0};
}

static inline void names_add(struct names *names, const char *name)
{
	char **grown = lm_grown(names->items, names->count, &names->cap, sizeof(*grown));
	assert_non_null(grown);
	names->items = grown;
	names->items[names->count++] = strdup(name);
}

static inline int name_cmp(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static inline void names_sort(struct names *names)
{
	size_t kept = 0;
	if (names->count > 0)
		qsort(names->items, names->count, sizeof(*names->items), name_cmp);
	for (size_t i = 0; i < names->count; i++) {
		if (kept > 0 && strcmp(names->items[kept - 1], names->items[i]) == 0)
			free(names->items[i]);
		else
			names->items[kept++] = names->items[i];
	}
	names->count = kept;
}

static inline void assert_names(const struct names *found, const struct names *expected)
{
	size_t i = 0, k = 0;
	unsigned wrong = 0;
	while (i < found->count || k < expected->count) {
		int order = i == found->count	   ? 1
			    : k == expected->count ? -1
						   : strcmp(found->items[i], expected->items[k]);
		if (order < 0)
			print_error("left, but nothing names it: %s\n", found->items[i]);
		else if (order > 0)
			print_error("gone, but named: %s\n", expected->items[k]);
		wrong += order != 0;
		i += order <= 0;
		k += order >= 0;
	}
	assert_int_equal(wrong, 0);
}

static inline void add_object(struct names *names, const struct lm_hash *hash, enum lm_object_kind kind)
{
	char path[LM_OBJECT_PATH_MAX];
	if (hash->set)
		names_add(names, lm_object_path(hash, kind, path));
}

struct listing {
	struct names *names;
	unsigned part;
};

static inline int add_stored(void *arg, const char *name, uint64_t size)
{
	struct listing *listing = arg;
	char path[300];
	(void)size;
	snprintf(path, sizeof(path), "data/%02x/%s", listing->part, name);
	names_add(listing->names, path);
	return 0;
}

static inline void list_stored(struct lm_storage *storage, struct names *ret)
{
	struct lm_err err = LM_ERR_INIT;
	for (unsigned i = 0; i < 256; i++) {
		char dir[16];
		struct listing listing = {ret, i};
		snprintf(dir, sizeof(dir), "data/%02x", i);
		assert_ok(storage->ops->list(storage, dir, add_stored, &listing, &err), &err);
	}
	names_sort(ret);
}

/* Rows of text and number. */
static inline void add_by_sql(struct lm_db *db, const char *sql, enum lm_object_kind kind, struct names *names)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	static const char *const tags[] = {"", "-rmd160", "-shake128"};
	assert_ok(lm_db_prepare(db, sql, &stmt, &err), &err);
	int r;
	while ((r = lm_db_step(db, stmt, &err)) > 0) {
		const char *hex = (const char *)sqlite3_column_text(stmt, 0);
		char path[100];
		assert_non_null(hex);
		snprintf(path, sizeof(path), "data/%.2s/%s%s%.1s", hex, hex + 2, tags[sqlite3_column_int(stmt, 1)],
			&(const char[]){(char)kind, '\0'}[0]);
		names_add(names, path);
	}
	assert_ok(r, &err);
}

static inline bool is_stored(struct lm_storage *storage, const struct lm_hash *hash, enum lm_object_kind kind)
{
	struct lm_err err = LM_ERR_INIT;
	char path[LM_OBJECT_PATH_MAX];
	int r = storage->ops->has(storage, lm_object_path(hash, kind, path), &err);
	assert_ok(r, &err);
	return r;
}

/* Everything a root leads to, also what is gone; what bind mountpoints lead to only where it is stored. */
static inline void add_tree(struct lm_storage *storage, const struct lm_hash *hash, struct names *names)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/tree.%s", base, lm_hash_text(hash).s);
	struct lm_db db = {0};
	add_object(names, hash, LM_OBJECT_CATALOG);
	if (access(path, F_OK) == 0 || !is_stored(storage, hash, LM_OBJECT_CATALOG))
		return; /* on the way already (a knot of bind mountpoints), or gone */
	assert_ok(lm_object_load_file(storage, hash, LM_OBJECT_CATALOG, 1 << 30, path, &err), &err);
	assert_ok(lm_db_open(path, &db, &err), &err);
	add_by_sql(&db,
		"SELECT lower(hex(hash)), flags >> 8 & 7 FROM catalog WHERE hash IS NOT NULL AND length(hash) > 0",
		LM_OBJECT_FILE, names);
	add_by_sql(&db,
		"SELECT lower(hex(k.hash)), c.flags >> 8 & 7 FROM chunks k, catalog c "
		"WHERE k.md5path_1 = c.md5path_1 AND k.md5path_2 = c.md5path_2",
		LM_OBJECT_CHUNK, names);
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	assert_ok(lm_db_prepare(&db, "SELECT sha1, 0 FROM nested_catalogs UNION SELECT sha1, 1 FROM bind_mountpoints",
			  &stmt, &err),
		&err);
	while (lm_db_step(&db, stmt, &err) > 0) {
		struct lm_hash nested;
		const char *text = (const char *)sqlite3_column_text(stmt, 0);
		assert_ok(lm_hash_parse(text, strlen(text), &nested, &err), &err);
		if (sqlite3_column_int(stmt, 1) == 0 || is_stored(storage, &nested, LM_OBJECT_CATALOG))
			add_tree(storage, &nested, names);
	}
	lm_stmt_finalizep(&stmt);
	lm_db_close(&db);
	assert_int_equal(unlink(path), 0);
}

static inline void current_manifest(struct lm_storage *storage, struct lm_manifest *ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	struct lm_signed_text parts;
	assert_ok(storage->ops->get(storage, LM_MANIFEST_NAME, &text, &err), &err);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, ret, &err), &err);
	assert_ok(lm_signed_text_split(lm_buf_cstr(&text), text.len, &parts, &err), &err);
	assert_ok(lm_verify_manifest(
			  keys.cert, parts.hash_text, parts.hash_text_len, parts.signature, parts.signature_len, &err),
		&err);
}

static inline int add_ref(void *arg, const struct lm_ref *ref)
{
	if (ref->type == LM_REF_CATALOG)
		add_object(arg, &ref->hash, LM_OBJECT_CATALOG);
	return 0;
}

/* The reflog is the one that the manifest names, and lists these roots. */
static inline void assert_reflog(struct lm_storage *storage, const struct names *roots)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest m;
	CLEANUP(lm_freep) char *path = copy_out(storage, LM_REFLOG_NAME);
	CLEANUP(names_done) struct names found = {0};
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	struct lm_hash hash;
	current_manifest(storage, &m);
	read_whole(path, &text);
	assert_ok(lm_hash_data(m.reflog.algo, text.data, text.len, &hash, &err), &err);
	assert_true(lm_hash_equal(&hash, &m.reflog));
	assert_ok(lm_reflog_each(path, add_ref, &found, &err), &err);
	names_sort(&found);
	assert_names(&found, roots);
	assert_int_equal(unlink(path), 0);
}

static inline char *snapshot(const struct past *past)
{
	CLEANUP(lm_freep)
	char *command = lm_str_printf(
		"cd '%s' && find . -path ./data/txn -prune -o -name .lamella-publish.lock -o -type f -print0 | sort -z "
		"| xargs -0 sha256sum && find . -path ./data/txn -prune -o -printf '%%p %%m %%T@ %%l\\n' | grep -v -e "
		"publish.lock -e '^[.] ' -e '^[.]/data ' | sort",
		past->p.dir);
	FILE *f = popen(command, "r");
	assert_non_null(f);
	struct lm_buf all = LM_BUF(64 << 20);
	char piece[4096];
	for (size_t n; (n = fread(piece, 1, sizeof(piece), f)) > 0;)
		assert_int_equal(lm_buf_append(&all, piece, n), 0);
	assert_int_equal(pclose(f), 0);
	assert_true(all.len > 1000);
	return (char *)lm_buf_steal(&all, &(size_t){0});
}

static inline int collect(struct past *past, int64_t since_s, uint64_t revisions, bool dry_run,
	struct lm_gc_result *ret, struct lm_err *err)
{
	struct lm_gc_options options = {.keep_since_s = since_s, .keep_revisions = revisions, .dry_run = dry_run};
	return lm_repo_gc(past->p.storage, &keys, past->p.fqrn, &options, ret, err);
}

#define NOTHING_SINCE (lm_wall_s() + 100000)

/* All content is read: listings have its digest. */
static inline char *list_tree(struct lm_storage *storage, const struct lm_hash *root, uint64_t size)
{
	struct lm_buf listing = LM_BUF(16 << 20);
	assert_int_equal(tree_walk(storage, root, size, &listing), 0);
	return (char *)lm_buf_steal(&listing, &(size_t){0});
}

static inline uint64_t total(const struct lm_gc_count counts[LM_GC_KINDS])
{
	uint64_t n = 0;
	for (size_t i = 0; i < LM_GC_KINDS; i++)
		n += counts[i].objects;
	return n;
}

static inline void publish_some(struct past *past, unsigned revisions)
{
	while (past->revision < revisions)
		publish_random(past);
}

static inline int gc_setup(void **state)
{
	if (access("/dev/shm", W_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 0); /* thousands of syncs, which no test here depends on */
	return publish_setup(state);
}

#endif
