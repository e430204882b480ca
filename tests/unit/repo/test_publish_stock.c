/*
 * Publishing into repositories that stock tools made. Their keys are not ours: manifest and whitelist are signed anew
 * before. What was there stays as the stock client showed it, in the new revision and in the old ones.
 */
#include "repo_publish.h"

struct fixture {
	const char *fqrn, *expected;
	const char *kept[4]; /* manifests of its revisions */
};
static const struct fixture fixtures[] = {
	{"fixture.cern.ch", "expected/fixture.cern.ch.rev3.manifest", {"rev1", "rev2", "rev3"}},
	{"rmd160.fixture.cern.ch", "expected/rmd160.fixture.cern.ch.rev2.manifest", {"rev1", "rev2"}},
	{"shake128.fixture.cern.ch", "expected/shake128.fixture.cern.ch.rev2.manifest", {"rev1", "rev2"}},
	{"plain.fixture.cern.ch", "expected/plain.fixture.cern.ch.rev2.manifest", {NULL}},
	{"options.fixture.cern.ch", "expected/options.fixture.cern.ch.latest.manifest", {NULL}},
	{"unpacked.fixture.cern.ch", "expected/unpacked.fixture.cern.ch.latest.manifest", {NULL}},
};

static void list_root(struct place *place, const struct lm_hash *root, uint64_t size, struct lm_buf *ret)
{
	*ret = LM_BUF(64 << 20);
	assert_int_equal(tree_walk(place->storage, root, size, ret), 0);
}

static void list(struct place *place, struct lm_buf *ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	struct lm_manifest m;
	read_manifest(place->storage, &text);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, &m, &err), &err);
	list_root(place, &m.catalog, m.catalog_size, ret);
	assert_true(check_reflog(place->storage, &m));
}

static void compare_old_revisions(struct place *place, const struct fixture *f)
{
	for (size_t i = 0; f->kept[i]; i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_freep) char *kept = lm_str_printf("published/%s.cvmfspublished.%s", f->fqrn, f->kept[i]);
		CLEANUP(lm_freep) char *name = lm_str_printf("expected/%s.%s.manifest", f->fqrn, f->kept[i]);
		CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(0);
		CLEANUP(lm_buf_done) struct lm_buf expected = LM_BUF(0);
		CLEANUP(lm_buf_done) struct lm_buf found = {0};
		struct lm_manifest m;
		read_fixture(kept, &text);
		read_fixture(name, &expected);
		assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, &m, &err), &err);
		list_root(place, &m.catalog, m.catalog_size, &found);
		assert_listing(lm_buf_cstr(&expected), lm_buf_cstr(&found));
	}
}

static void assert_alias(struct place *place, const struct lm_hash *hash, char suffix)
{
	char target[128] = "", name[LM_OBJECT_PATH_MAX];
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/.cvmfsalt-%s%c", place->dir, lm_hash_text(hash).s, suffix);
	assert_true(readlink(path, target, sizeof(target) - 1) > 0);
	assert_string_equal(target, lm_object_path(hash, (enum lm_object_kind)suffix, name));
	assert_int_equal(access(path, R_OK), 0);
}

/* All that a publication has no reason to change. */
static void assert_kept(struct place *place, const struct lm_manifest *before, const struct lm_manifest *after)
{
	assert_int_equal(after->revision, before->revision + 1);
	assert_true(after->published_s > before->published_s);
	assert_int_equal(after->catalog.algo, before->catalog.algo);
	assert_int_equal(after->history.algo, before->catalog.algo);
	assert_int_equal(after->reflog.algo, before->catalog.algo);
	assert_int_equal(after->ttl_s, before->ttl_s);
	assert_int_equal(after->garbage_collectable, before->garbage_collectable);
	assert_int_equal(after->alternative_catalogs, before->alternative_catalogs);
	assert_true(lm_hash_equal(&after->metainfo, &before->metainfo));
	if (!after->alternative_catalogs)
		return;
	assert_alias(place, &after->catalog, 'C');
	assert_alias(place, &after->certificate, 'X');
	assert_alias(place, &after->history, 'H');
	assert_alias(place, &after->metainfo, 'M');
}

static void assert_property(struct place *place, const struct lm_hash *catalog, const char *key, const char *value)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/root", base);
	CLEANUP(lm_freep) char *found = NULL;
	struct lm_db db;
	assert_ok(lm_object_load_file(place->storage, catalog, LM_OBJECT_CATALOG, 1 << 28, path, &err), &err);
	assert_ok(lm_db_open(path, &db, &err), &err);
	assert_ok(lm_db_property(&db, key, &found, &err), &err);
	assert_string_equal(found, value);
	lm_db_close(&db);
	unlink(path);
}

static void publish_and_undo(const struct fixture *f)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_buf_done) struct lm_buf expected = LM_BUF(0);
	CLEANUP(lm_buf_done) struct lm_buf found = {0};
	struct lm_manifest before, added, removed;
	adopt(&place, f->fqrn, &before);
	read_fixture(f->expected, &expected);
	begin(&place, &txn);
	mkdirs(txn, "/zz-added/deep/er", true);
	put(txn, "/zz-added/file", "one");
	put(txn, "/zz-added/deep/er/file", "two");
	commit(&txn, &added);
	check(&place, &added, NULL);
	assert_kept(&place, &before, &added);
	assert_property(&place, &added.catalog, "previous_revision", lm_hash_text(&before.catalog).s);

	begin(&place, &txn);
	take_away(txn, "/zz-added");
	commit(&txn, &removed);
	found = LM_BUF(64 << 20);
	check(&place, &removed, &found);
	assert_listing(lm_buf_cstr(&expected), lm_buf_cstr(&found));
	assert_kept(&place, &added, &removed);
	compare_old_revisions(&place, f);
	if (strcmp(f->fqrn, "options.fixture.cern.ch") == 0) {
		assert_property(&place, &removed.catalog, "volatile", "1");
		assert_property(&place, &removed.catalog, "TTL", "900");
	}
}

static void test_publish(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(fixtures); i++)
		publish_and_undo(&fixtures[i]);
}

/*
 * Catalogs split and folded wherever, and nothing else is different
 */

enum { PATHS_MAX = 4000, ROUNDS = 2, CHANGES = 12 };

struct paths {
	char *items[PATHS_MAX];
	size_t count;
};

/* The directories of a listing whose names need no quoting, or those with markers. */
static void collect_paths(const struct lm_buf *listing, bool marked, struct paths *ret)
{
	static const char marker[] = "/.cvmfscatalog";
	*ret = (struct paths){0};
	for (const char *line = lm_buf_cstr(listing); *line && ret->count < PATHS_MAX;) {
		size_t len = strcspn(line, "\n");
		CLEANUP(lm_freep) char *copy = lm_str_ndup(line, len);
		char *path = strrchr(copy, ' ') + 1;
		if (!strchr(path, '%') && path[1] && (marked ? lm_str_ends(path, marker) : *line == 'd')) {
			path[strlen(path) - (marked ? strlen(marker) : 0)] = '\0';
			if (*path)
				ret->items[ret->count++] = strdup(path);
		}
		line += len + 1;
	}
}

static void paths_done(struct paths *paths)
{
	for (size_t i = 0; i < paths->count; i++)
		free(paths->items[i]);
}

static void rearrange(struct lm_txn *txn, const struct lm_buf *listing)
{
	CLEANUP(paths_done) struct paths dirs;
	CLEANUP(paths_done) struct paths marked;
	collect_paths(listing, false, &dirs);
	collect_paths(listing, true, &marked);
	for (unsigned i = 0; i < CHANGES; i++) {
		bool fold = marked.count > 0 && rand() % 2;
		const struct paths *from = fold ? &marked : &dirs;
		const char *dir = from->items[(size_t)rand() % from->count];
		CLEANUP(lm_freep) char *marker = lm_str_printf("%s/.cvmfscatalog", dir);
		if (fold)
			take_away(txn, marker);
		else
			mkdirs(txn, dir, true);
		if (rand() % 3 == 0) /* once more, the other way round */
			fold ? mkdirs(txn, dir, true) : take_away(txn, marker);
	}
}

static void split_and_fold(const struct fixture *f)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_buf_done) struct lm_buf expected = LM_BUF(0);
	CLEANUP(lm_buf_done) struct lm_buf listing = {0};
	struct lm_manifest manifest;
	adopt(&place, f->fqrn, &manifest);
	read_fixture(f->expected, &expected);
	drop_markers(&expected);
	list_root(&place, &manifest.catalog, 0, &listing);
	for (unsigned i = 0; i < ROUNDS; i++) {
		CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
		CLEANUP(lm_buf_done) struct lm_buf found = {0};
		begin(&place, &txn);
		rearrange(txn, &listing);
		commit(&txn, &manifest);
		lm_buf_done(&listing);
		list(&place, &listing);
		found = LM_BUF(64 << 20);
		assert_int_equal(lm_buf_append(&found, listing.data, listing.len), 0);
		drop_markers(&found);
		assert_listing(lm_buf_cstr(&expected), lm_buf_cstr(&found));
	}
}

static void test_split_and_fold(void **state)
{
	unsigned seed = (unsigned)lm_now_us();
	printf("seed %u\n", seed);
	srand(seed);
	for (size_t i = 0; i < ARRAY_LEN(fixtures); i++)
		split_and_fold(&fixtures[i]);
}

/*
 * Single changes
 */

static void test_changes(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_buf_done) struct lm_buf chunked = LM_BUF(1 << 20);
	struct lm_manifest manifest, next;
	adopt(&place, "fixture.cern.ch", &manifest);
	begin(&place, &txn);
	assert_ok(lm_txn_read(txn, "/hard/chunked1", &chunked, &err), &err);
	assert_int_equal(chunked.len, 300000);
	take_away(txn, "/hard/a");
	take_away(txn, "/hard/pair1");
	put(txn, "/hard/chunked1", "short now");
	take_away(txn, "/dirtab/y");
	put(txn, "/nested/a/hl1", "left its group");
	mkdirs(txn, "/nested/a/more/dirs", true);
	lm_buf_clear(&chunked);
	assert_ok(lm_txn_read(txn, "/hard/chunked2", &chunked, &err), &err); /* from a catalog under change */
	assert_int_equal(chunked.len, 300000);
	commit(&txn, &next);
	check(&place, &next, NULL);
	assert_int_equal(next.revision, manifest.revision + 1);
	begin(&place, &txn);
	take_away(txn, "/nested");
	commit(&txn, &next);
	check(&place, &next, NULL);
}

/*
 * Older schemas: our own repository, made to look like one
 */

static void exec(const char *path, const char *sql)
{
	sqlite3 *db = NULL;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		fail_msg("%s: %s", sql, sqlite3_errmsg(db));
	sqlite3_close(db);
}

/* Each with all before it. */
static const char *const old_schemas[] = {
	"ALTER TABLE catalog DROP COLUMN mtimens; UPDATE properties SET value = '6' WHERE key = 'schema_revision'",
	"UPDATE properties SET value = '4' WHERE key = 'schema_revision'; DELETE FROM statistics WHERE counter LIKE "
	"'%special'",
	"DROP TABLE bind_mountpoints; ALTER TABLE catalog DROP COLUMN xattr; DELETE FROM statistics WHERE counter LIKE "
	"'%xattr' OR counter LIKE '%external%'; UPDATE properties SET value = '1' WHERE key = 'schema_revision'",
	"ALTER TABLE nested_catalogs DROP COLUMN size; DELETE FROM properties WHERE key = 'schema_revision'; "
	"UPDATE properties SET value = '2.4' WHERE key = 'schema'; DELETE FROM statistics WHERE counter LIKE "
	"'%file_size' OR counter LIKE '%chunk%'",
};

/* Stores the catalog with an older schema, its nested ones first. */
static void make_old(struct place *place, const char *mountpoint, size_t schemas, struct lm_hash *hash)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/old.%zu", base, strlen(mountpoint));
	CLEANUP(lm_freep) char *below = lm_str_printf("%s/n", mountpoint);
	uint64_t size;
	assert_ok(lm_object_load_file(place->storage, hash, LM_OBJECT_CATALOG, 1 << 20, path, &err), &err);
	if (tree_sql(path, "SELECT count(*) FROM nested_catalogs") > 0) {
		struct lm_catalog *catalog = NULL;
		struct lm_nested nested;
		assert_ok(lm_catalog_open(path, mountpoint, &catalog, &err), &err);
		assert_ok(lm_catalog_nested(catalog, below, &nested, &err), &err);
		lm_catalog_close(catalog);
		make_old(place, below, schemas, &nested.hash);
		CLEANUP(lm_freep)
		char *sql = lm_str_printf("UPDATE nested_catalogs SET sha1 = '%s', size = 0 WHERE path = '%s'",
			lm_hash_text(&nested.hash).s, nested.path);
		exec(path, sql);
		free(nested.path);
	}
	for (size_t i = 0; i < schemas; i++)
		exec(path, old_schemas[i]);
	assert_ok(lm_object_store_file(place->storage, LM_HASH_SHA1, LM_OBJECT_CATALOG, path, hash, &size, &err), &err);
	unlink(path);
}

static void put_chunked(struct lm_txn *txn, const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_row row = lm_txn_new_row(S_IFREG | 0600);
	struct lm_chunk chunks[2] = {{.offset = 0, .size = 5}, {.offset = 5, .size = 5}};
	row.size = 10;
	for (size_t i = 0; i < 2; i++)
		assert_ok(
			lm_object_store(txn->storage, txn->packer, LM_OBJECT_CHUNK, "chunk", 5, &chunks[i].hash, &err),
			&err);
	assert_ok(lm_txn_put(txn, path, &row, chunks, 2, &err), &err);
}

static void test_old_schemas(void **state)
{
	for (size_t schemas = 1; schemas <= ARRAY_LEN(old_schemas); schemas++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(place_done) struct place place;
		CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
		CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(100);
		struct lm_manifest manifest;
		create(&place, &manifest);
		begin(&place, &txn);
		mkdirs(txn, "/n", true);
		mkdirs(txn, "/n/n", true);
		put(txn, "/n/file", "text");
		put_chunked(txn, "/n/chunked");
		put_chunked(txn, "/n/n/chunked");
		commit(&txn, &manifest);
		check(&place, &manifest, NULL);
		make_old(&place, "", schemas, &manifest.catalog);
		manifest.catalog_size = 0;
		sign_and_put(&place, &manifest);

		/* The root alone, then the nested one, then all. */
		begin(&place, &txn);
		put(txn, "/top", "text");
		assert_ok(lm_txn_read(txn, "/n/chunked", &content, &err), &err);
		assert_string_equal(lm_buf_cstr(&content), "chunkchunk");
		commit(&txn, &manifest);
		begin(&place, &txn);
		put(txn, "/n/file", "other text");
		commit(&txn, &manifest);
		begin(&place, &txn);
		mkdirs(txn, "/n/n/more", true);
		commit(&txn, &manifest);
		check(&place, &manifest, NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_publish),
		cmocka_unit_test(test_split_and_fold),
		cmocka_unit_test(test_changes),
		cmocka_unit_test(test_old_schemas),
	};
	if (!fixtures_present())
		return 77;
	return cmocka_run_group_tests(tests, publish_setup, publish_teardown);
}
