/*
 * Repositories of ours that somebody has tampered with: databases are changed by SQL past all our writers, hashed anew
 * and signed. And what the checker says of them.
 */
#ifndef LM_TESTS_REPO_FORGE_H
#define LM_TESTS_REPO_FORGE_H

#include "repo/check.h"
#include "repo_publish.h"

#include <limits.h>

/* What a check said. */
struct verdict {
	uint64_t kinds; /* a bit each */
	struct lm_buf text;
	struct lm_check_result result;
};

static inline void verdict_done(struct verdict *v)
{
	lm_buf_done(&v->text);
}

static inline void verdict_add(void *arg, const struct lm_finding *f)
{
	struct verdict *v = arg;
	v->kinds |= UINT64_C(1) << f->kind;
	assert_int_equal(
		lm_buf_printf(&v->text, "%s %s|%s|%s: %s\n", lm_check_kinds[f->kind].name,
			f->catalog ? f->catalog : "-", f->path ? f->path : "-", f->object ? f->object : "-", f->text),
		0);
}

static inline void verdict_of(struct lm_storage *storage, struct lm_check_options *options, struct verdict *ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_key_freep) struct lm_key *key = NULL;
	load_public_key(&key);
	*ret = (struct verdict){.text = LM_BUF(1 << 20)};
	options->fqrn = FQRN;
	options->keys = &key;
	options->key_count = 1;
	options->now_s = lm_wall_s();
	options->expiry_warning_s = 7 * 86400;
	options->scratch = base;
	assert_ok(lm_repo_check(storage, options, verdict_add, ret, &ret->result, &err), &err);
}

#define BIT(kind) (UINT64_C(1) << LM_CHECK_##kind)

/* Exactly these kinds were found, and one of the findings holds this text. */
static inline void assert_verdict(const struct verdict *v, const char *what, uint64_t kinds, const char *text)
{
	if (v->kinds != kinds) {
		for (unsigned i = 0; i < LM_CHECK_KIND_COUNT; i++)
			if ((v->kinds ^ kinds) >> i & 1)
				print_message("%s %s\n",
					kinds >> i & 1 ? "not found:" : "not expected:", lm_check_kinds[i].name);
		fail_msg("%s: found:\n%s", what, lm_buf_cstr(&v->text));
	}
	if (text && !strstr(lm_buf_cstr(&v->text), text))
		fail_msg("%s: '%s' is not in:\n%s", what, text, lm_buf_cstr(&v->text));
}

/* path1('/a'), path2('/a'): the halves of a path hash. */
static inline void sql_path(sqlite3_context *context, int argc, sqlite3_value **argv)
{
	(void)argc;
	const char *path = (const char *)sqlite3_value_text(argv[0]);
	struct lm_path_hash hash = lm_path_hash(path, strlen(path));
	sqlite3_result_int64(context, sqlite3_user_data(context) ? hash.b : hash.a);
}

/* Past lm_db_open_edit(), which refuses what is to be forged. */
static inline void run_sql(const char *db_path, const char *sql)
{
	sqlite3 *db = NULL;
	char *why = NULL;
	assert_int_equal(sqlite3_open(db_path, &db), SQLITE_OK);
	sqlite3_create_function(db, "path1", 1, SQLITE_UTF8, NULL, sql_path, NULL, NULL);
	sqlite3_create_function(db, "path2", 1, SQLITE_UTF8, db, sql_path, NULL, NULL);
	if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
		fail_msg("%s: %s", sql, why);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static inline char *unpack_database(struct lm_storage *storage, const struct lm_hash *hash, enum lm_object_kind kind)
{
	static unsigned count;
	struct lm_err err = LM_ERR_INIT;
	char *path = lm_str_printf("%s/forged.%u", base, count++);
	assert_ok(lm_object_load_file(storage, hash, kind, 1 << 30, path, &err), &err);
	return path;
}

static inline void unlink_freep(char **path)
{
	if (*path)
		unlink(*path);
	free(*path);
}

static inline void store_database(
	struct lm_storage *storage, const char *path, enum lm_object_kind kind, struct lm_hash *ret, uint64_t *ret_size)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_object_store_file(storage, LM_HASH_SHA1, kind, path, ret, ret_size, &err), &err);
}

/* What to do to a database: SQL, or something that SQL can't. */
typedef void forge_fn(const char *db_path);

static inline void forge_database(const char *path, const char *sql, forge_fn *fn)
{
	if (sql)
		run_sql(path, sql);
	if (fn)
		fn(path);
}

/* Changes the catalog at mountpoint ("", "/n" or "/n/deep"), then those above, whose entry for it follows. */
static inline void forge_below(struct place *place, const struct lm_hash *hash, const char *at, const char *mountpoint,
	const char *sql, forge_fn *fn, struct lm_hash *ret, uint64_t *ret_size)
{
	CLEANUP(unlink_freep) char *path = unpack_database(place->storage, hash, LM_OBJECT_CATALOG);
	if (strcmp(at, mountpoint) == 0) {
		forge_database(path, sql, fn);
	} else {
		struct lm_err err = LM_ERR_INIT;
		struct lm_catalog *catalog = NULL;
		struct lm_nested nested;
		struct lm_hash below;
		uint64_t size;
		size_t len = LM_MIN(strlen(at) + 1, strlen(mountpoint));
		CLEANUP(lm_freep)
		char *next = lm_str_printf("%.*s", (int)(len + strcspn(mountpoint + len, "/")), mountpoint);
		assert_ok(lm_catalog_open(path, at, &catalog, &err), &err);
		assert_ok(lm_catalog_nested(catalog, next, &nested, &err), &err);
		lm_catalog_close(catalog);
		forge_below(place, &nested.hash, next, mountpoint, sql, fn, &below, &size);
		free(nested.path);
		CLEANUP(lm_freep)
		char *update = lm_str_printf("UPDATE nested_catalogs SET sha1 = '%s', size = %llu WHERE path = '%s'",
			lm_hash_text(&below).s, (unsigned long long)size, next);
		run_sql(path, update);
	}
	store_database(place->storage, path, LM_OBJECT_CATALOG, ret, ret_size);
}

/* As above, and signs the result. */
static inline void forge_catalog(
	struct place *place, const struct lm_manifest *clean, const char *mountpoint, const char *sql, forge_fn *fn)
{
	struct lm_manifest m = *clean;
	forge_below(place, &clean->catalog, "", mountpoint, sql, fn, &m.catalog, &m.catalog_size);
	sign_and_put(place, &m);
}

/* The file of the storage, for what harms it from outside. */
static inline char *file_of(struct place *place, const char *name)
{
	char *path = lm_str_printf("%s/%s", place->dir, name);
	assert_non_null(path);
	return path;
}

static inline char *object_file(struct place *place, const struct lm_hash *hash, enum lm_object_kind kind)
{
	char name[LM_OBJECT_PATH_MAX];
	return file_of(place, lm_object_path(hash, kind, name));
}

/* Turns one bit of a byte; again: as it was. */
static inline void flip(const char *path, off_t at)
{
	uint8_t byte;
	CLEANUP(lm_closep) int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

#endif
