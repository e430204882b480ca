/*
 * Checking whole repositories: stock ones are clean in every revision; what is wrong with manifests, signatures,
 * histories, reflogs and objects is named; faults of the storage end in a verdict.
 */
#include "repo_forge.h"

#include "base/work.h"
#include "repo/tags.h"

#include <dirent.h>

static struct lm_work *work;

static int setup(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	publish_setup(state);
	assert_ok(lm_work_new("check", 2, 4, &work, &err), &err);
	return 0;
}

static int teardown(void **state)
{
	lm_work_free(work);
	return publish_teardown(state);
}

/*
 * Fixtures
 */

static void load_fixture_key(const char *name, struct lm_key **ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf pem = {0};
	read_fixture(name, &pem);
	assert_ok(lm_key_parse_public(lm_buf_cstr(&pem), pem.len, ret, &err), &err);
}

static void check_fixture(const char *dir, const char *fqrn, struct lm_check_options *options, struct verdict *ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_storage_freep) struct lm_storage *storage = NULL;
	CLEANUP(lm_key_freep) struct lm_key *key = NULL;
	CLEANUP(lm_freep) char *key_name = lm_str_printf("keys/%s.pub", fqrn);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, fqrn);
	load_fixture_key(key_name, &key);
	assert_ok(lm_storage_dir_open(path, false, &storage, &err), &err);
	*ret = (struct verdict){.text = LM_BUF(1 << 20)};
	options->fqrn = fqrn;
	options->keys = &key;
	options->key_count = 1;
	options->now_s = lm_wall_s();
	options->expiry_warning_s = 7 * 86400;
	options->scratch = base;
	assert_ok(lm_repo_check(storage, options, verdict_add, ret, &ret->result, &err), &err);
}

static const char *const fixtures[] = {"fixture.cern.ch", "options.fixture.cern.ch", "plain.fixture.cern.ch",
	"rmd160.fixture.cern.ch", "shake128.fixture.cern.ch", "unpacked.fixture.cern.ch"};

static char *unpack_all(void)
{
	char *dir = lm_str_printf("%s/fixtures", base);
	if (mkdir(dir, 0755) == 0)
		for (size_t i = 0; i < ARRAY_LEN(fixtures); i++)
			unpack_fixture(fixtures[i], dir);
	return dir;
}

static void test_fixtures(void **state)
{
	if (!fixtures_present())
		skip();
	CLEANUP(lm_freep) char *dir = unpack_all();
	for (size_t i = 0; i < ARRAY_LEN(fixtures); i++) {
		/* Links that stock tools took from the tar files of two layers have size 0. */
		uint64_t kinds = strcmp(fixtures[i], "unpacked.fixture.cern.ch") == 0 ? BIT(TOLERATED) : 0;
		CLEANUP(verdict_done) struct verdict v;
		struct lm_check_options options = {.objects = true, .tags = true, .work = work};
		check_fixture(dir, fixtures[i], &options, &v);
		assert_verdict(&v, fixtures[i], kinds, NULL);
		assert_true(v.result.roots >= 2 && v.result.catalogs >= v.result.roots);
		assert_true(v.result.rows > 20 && v.result.objects > 20 && v.result.object_bytes > 1000);
	}
}

static void copy_file(const char *from, const char *to)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf data = {0};
	read_whole(from, &data);
	assert_ok(lm_file_replace(AT_FDCWD, to, data.data, data.len, 0644, 0, &err), &err);
}

/* Each revision as it was published, by the manifest that was kept. The reflog went on since. */
static void test_kept_manifests(void **state)
{
	if (!fixtures_present())
		skip();
	CLEANUP(lm_freep) char *published = fixture_path("published");
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/kept", base);
	unsigned count = 0;
	DIR *list = opendir(published);
	assert_non_null(list);
	assert_int_equal(mkdir(dir, 0755), 0);
	for (struct dirent *entry; (entry = readdir(list));) {
		const char *end = strstr(entry->d_name, ".cvmfspublished");
		if (!end)
			continue;
		CLEANUP(lm_freep) char *fqrn = lm_str_ndup(entry->d_name, (size_t)(end - entry->d_name));
		CLEANUP(lm_freep) char *from = lm_str_printf("%s/%s", published, entry->d_name);
		CLEANUP(lm_freep) char *to = lm_str_printf("%s/%s/" LM_MANIFEST_NAME, dir, fqrn);
		CLEANUP(lm_freep) char *reflog = lm_str_printf("%s/%s/" LM_REFLOG_NAME, dir, fqrn);
		CLEANUP(verdict_done) struct verdict v;
		struct lm_check_options options = {.objects = true, .work = work};
		unpack_fixture(fqrn, dir);
		copy_file(from, to);
		unlink(reflog);
		check_fixture(dir, fqrn, &options, &v);
		assert_verdict(&v, entry->d_name, BIT(TOLERATED), "names a reflog that is not here");
		assert_int_equal(v.result.levels[LM_CHECK_NOTE], 1);
		count++;
	}
	closedir(list);
	assert_true(count >= 8);
}

/* Whatever a client refuses is a problem, and what it accepts is none. */
static void test_alternates(void **state)
{
	static const struct {
		const char *file;
		uint64_t kinds; /* 0: clean */
	} list[] = {
		{"whitelist.good", 0},
		{"whitelist.two-fingerprints", 0},
		{"whitelist.expires-2100", 0},
		{"whitelist.expired", BIT(WHITELIST)},
		{"whitelist.bad-hash", BIT(WHITELIST)},
		{"whitelist.bad-signature", BIT(WHITELIST)},
		{"whitelist.other-name", BIT(WHITELIST)},
		{"whitelist.other-fingerprint", BIT(WHITELIST)},
		{"whitelist.wrong-master-key", BIT(WHITELIST)},
		{"published.resigned-good", 0},
		{"published.unknown-fields", 0},
		{"published.truncated", BIT(MANIFEST)},
		{"published.missing-catalog-hash", BIT(MANIFEST)},
		{"published.bad-signature", BIT(SIGNATURE)},
		{"published.signed-by-other-key", BIT(SIGNATURE)},
		{"published.tampered", BIT(SIGNATURE)},
		{"published.other-name", BIT(MANIFEST)},
		{"published.wrong-root-path", BIT(MANIFEST)},
	};
	if (!fixtures_present())
		skip();
	for (size_t i = 0; i < ARRAY_LEN(list); i++) {
		CLEANUP(lm_freep) char *dir = lm_str_printf("%s/alternate.%zu", base, i);
		CLEANUP(lm_freep) char *name = lm_str_printf("alternates/%s", list[i].file);
		CLEANUP(lm_freep) char *from = fixture_path(name);
		CLEANUP(lm_freep)
		char *to = lm_str_printf("%s/fixture.cern.ch/%s", dir,
			lm_str_starts(list[i].file, "whitelist") ? LM_WHITELIST_NAME : LM_MANIFEST_NAME);
		CLEANUP(verdict_done) struct verdict v;
		struct lm_check_options options = {0};
		assert_int_equal(mkdir(dir, 0755), 0);
		unpack_fixture("fixture.cern.ch", dir);
		copy_file(from, to);
		check_fixture(dir, "fixture.cern.ch", &options, &v);
		if (list[i].kinds ? !(v.kinds & list[i].kinds) || v.result.levels[LM_CHECK_PROBLEM] == 0
				  : v.result.levels[LM_CHECK_PROBLEM] > 0)
			fail_msg("%s: found:\n%s", list[i].file, lm_buf_cstr(&v.text));
	}
}

/*
 * Repositories of ours
 */

static void make(struct place *place, struct lm_manifest *ret)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	create(place, ret);
	begin(place, &txn);
	mkdirs(txn, "/n", true);
	put(txn, "/file", "content");
	put(txn, "/n/file", "more");
	commit(&txn, ret);
	begin(place, &txn);
	put(txn, "/second", "second");
	commit(&txn, ret);
}

static void look(struct place *place, const char *what, uint64_t kinds, const char *text)
{
	CLEANUP(verdict_done) struct verdict v;
	struct lm_check_options options = {0};
	verdict_of(place->storage, &options, &v);
	assert_verdict(&v, what, kinds, text);
}

static void put_text(struct place *place, const char *name, const char *text)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(place->storage->ops->put(place->storage, name, text, strlen(text), &err), &err);
}

static void drop(struct place *place, const char *name)
{
	CLEANUP(lm_freep) char *path = file_of(place, name);
	assert_int_equal(unlink(path), 0);
}

static void test_own(void **state)
{
	CLEANUP(place_done) struct place place;
	struct lm_manifest m;
	CLEANUP(verdict_done) struct verdict v = {0};
	struct lm_check_options options = {.objects = true, .tags = true, .work = work};
	make(&place, &m);
	verdict_of(place.storage, &options, &v);
	assert_verdict(&v, "own", 0, NULL);
	assert_int_equal(v.result.roots, 2);
	assert_int_equal(v.result.catalogs, 3); /* the nested one is that of both */
	drop(&place, ".cvmfs_master_replica");
	look(&place, "replica", BIT(REPLICA), ".cvmfs_master_replica");
}

/* A signed whitelist of ours with this expiry, name and fingerprint. */
static void put_other_whitelist(struct place *place, int64_t expires_s, const char *fqrn, uint8_t first_byte)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	CLEANUP(lm_freep) struct lm_whitelist *list = calloc(1, sizeof(*list));
	list->created_s = lm_wall_s();
	list->expires_s = expires_s;
	list->count = 1;
	snprintf(list->fqrn, sizeof(list->fqrn), "%s", fqrn);
	assert_ok(lm_cert_fingerprint(keys.cert, LM_HASH_SHA1, &list->fingerprints[0], &err), &err);
	list->fingerprints[0].bytes[0] ^= first_byte;
	assert_ok(lm_whitelist_format(list, &text, &err), &err);
	assert_ok(lm_signed_text_sign(keys.master, lm_sign_whitelist, &text, &err), &err);
	assert_ok(place->storage->ops->put(place->storage, LM_WHITELIST_NAME, text.data, text.len, &err), &err);
}

static void test_whitelist(void **state)
{
	CLEANUP(place_done) struct place place;
	struct lm_manifest m;
	make(&place, &m);
	int64_t now = lm_wall_s(), later = now + 30 * 86400;
	put_other_whitelist(&place, now + 2 * 86400, FQRN, 0);
	look(&place, "soon", BIT(WHITELIST_EXPIRY), "in 4");
	put_other_whitelist(&place, now - 86400, FQRN, 0);
	look(&place, "expired", BIT(WHITELIST), "it expired at");
	put_other_whitelist(&place, later, "other.example.org", 0);
	look(&place, "other name", BIT(WHITELIST), "'other.example.org', not '" FQRN "'");
	put_other_whitelist(&place, later, FQRN, 1);
	look(&place, "other fingerprint", BIT(WHITELIST), "is not on it");
	put_text(&place, LM_WHITELIST_NAME, "nonsense");
	look(&place, "nonsense", BIT(WHITELIST), "whitelist");
	drop(&place, LM_WHITELIST_NAME);
	look(&place, "none", BIT(WHITELIST), "not in the storage");

	/* Without a key there is no telling who signed it. */
	CLEANUP(verdict_done) struct verdict v = {.text = LM_BUF(1 << 20)};
	struct lm_err err = LM_ERR_INIT;
	struct lm_check_options options = {.now_s = now, .scratch = base};
	put_other_whitelist(&place, later, FQRN, 0);
	assert_ok(lm_repo_check(place.storage, &options, verdict_add, &v, &v.result, &err), &err);
	assert_verdict(&v, "no key", BIT(UNVERIFIED), "no public key");
}

static void test_manifest(void **state)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	struct lm_manifest m, forged;
	make(&place, &m);
	read_manifest(place.storage, &text);

	forged = m;
	forged.catalog_size++;
	sign_and_put(&place, &forged);
	look(&place, "B", BIT(CATALOG_SIZE), "what names it says");
	forged = m;
	forged.revision = 9;
	sign_and_put(&place, &forged);
	look(&place, "S", BIT(PROPERTY) | BIT(TRUNK), "what names this root says 9");
	forged = m;
	snprintf(forged.fqrn, sizeof(forged.fqrn), "other.example.org");
	sign_and_put(&place, &forged);
	look(&place, "N", BIT(MANIFEST) | BIT(HISTORY) | BIT(REFLOG), "it is that of repository 'other.example.org'");
	forged = m;
	forged.published_s = 0;
	sign_and_put(&place, &forged);
	look(&place, "T", BIT(TOLERATED), "no time");
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = file_of(&place, LM_MANIFEST_NAME);
	assert_ok(lm_file_replace(AT_FDCWD, path, text.data, text.len, 0644, 0, &err), &err);
	look(&place, "as it was", 0, NULL);
	flip(path, (off_t)text.len - 1);
	look(&place, "signature", BIT(SIGNATURE), "signature -|-|.cvmfspublished");
	flip(path, (off_t)text.len - 1);
	flip(path, (off_t)(strstr(lm_buf_cstr(&text), "\nD") - lm_buf_cstr(&text)) + 2);
	look(&place, "changed", BIT(SIGNATURE) | BIT(TOLERATED), "the printed hash is");
	put_text(&place, LM_MANIFEST_NAME, "nonsense");
	look(&place, "nonsense", BIT(MANIFEST), NULL);
	drop(&place, LM_MANIFEST_NAME);

	struct lm_check_result result;
	struct lm_check_options options = {.scratch = base};
	assert_int_equal(lm_repo_check(place.storage, &options, verdict_add, NULL, &result, &err), -ENOENT);
}

/* The certificate, the metainfo and the second names of objects. */
static void test_beside(void **state)
{
	CLEANUP(place_done) struct place place;
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest m, forged;
	make(&place, &m);
	CLEANUP(lm_freep) char *certificate = object_file(&place, &m.certificate, LM_OBJECT_CERTIFICATE);
	CLEANUP(lm_freep) char *metainfo = object_file(&place, &m.metainfo, LM_OBJECT_METAINFO);
	CLEANUP(lm_freep) char *away = lm_str_printf("%s/away", base);
	flip(certificate, 20);
	look(&place, "certificate", BIT(CERTIFICATE), "certificate -|-|data/");
	flip(certificate, 20);
	assert_int_equal(rename(certificate, away), 0);
	look(&place, "no certificate", BIT(CERTIFICATE) | BIT(REFLOG_OBJECT), "not in the storage");
	assert_int_equal(rename(away, certificate), 0);
	flip(metainfo, 9);
	look(&place, "metainfo", BIT(METAINFO), "metainfo -|-|data/");
	flip(metainfo, 9);

	CLEANUP(lm_packer_freep) struct lm_packer *packer = NULL;
	assert_ok(lm_packer_new(LM_HASH_SHA1, &packer, &err), &err);
	forged = m;
	assert_ok(lm_object_store(place.storage, packer, LM_OBJECT_METAINFO, "{]", 2, &forged.metainfo, &err), &err);
	sign_and_put(&place, &forged);
	look(&place, "no JSON", BIT(METAINFO) | BIT(REFLOG), "it is no JSON object: ");
	assert_ok(lm_object_store(place.storage, packer, LM_OBJECT_METAINFO, "[]", 2, &forged.metainfo, &err), &err);
	sign_and_put(&place, &forged);
	look(&place, "no object", BIT(METAINFO) | BIT(REFLOG), "it is no JSON object");

	/* Right by itself, but not what stock replication would make of the same content. */
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(1 << 16);
	CLEANUP(lm_buf_done) struct lm_buf stored = LM_BUF(1 << 16);
	char name[LM_OBJECT_PATH_MAX];
	assert_int_equal(lm_buf_str(&text, "{\"description\":\""), 0);
	for (unsigned i = 0; i < 2000; i++)
		assert_int_equal(lm_buf_printf(&text, "%x ", i * i % 251), 0);
	assert_int_equal(lm_buf_str(&text, "\"}"), 0);
	assert_ok(lm_pack(packer, LM_COMPRESSION_ZLIB, text.data, text.len, &stored, &forged.metainfo, &err), &err);
	lm_object_path(&forged.metainfo, LM_OBJECT_METAINFO, name);
	assert_ok(place.storage->ops->put(place.storage, name, stored.data, stored.len, &err), &err);
	sign_and_put(&place, &forged);
	look(&place, "packed by others", BIT(REPACKED) | BIT(REFLOG), "not packed by zlib");
	assert_ok(
		lm_object_store(place.storage, packer, LM_OBJECT_METAINFO, text.data, text.len, &forged.metainfo, &err),
		&err);
	sign_and_put(&place, &forged);
	look(&place, "packed by zlib", BIT(REFLOG), NULL);

	forged = m;
	forged.alternative_catalogs = true;
	sign_and_put(&place, &forged);
	look(&place, "no second names", BIT(ALTERNATIVE), "alternative-name -|-|.cvmfsalt-");
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	begin(&place, &txn);
	put(txn, "/third", "third");
	commit(&txn, &forged);
	look(&place, "second names", 0, NULL);
	lm_object_alternative_path(&forged.history, LM_OBJECT_HISTORY, name);
	drop(&place, name);
	put_text(&place, name, "something else");
	look(&place, "another thing", BIT(ALTERNATIVE), "it holds something else");
}

/*
 * History and reflog
 */

static void forge_history(struct place *place, const struct lm_manifest *clean, const char *sql)
{
	struct lm_manifest m = *clean;
	uint64_t size;
	CLEANUP(unlink_freep) char *path = unpack_database(place->storage, &clean->history, LM_OBJECT_HISTORY);
	run_sql(path, sql);
	store_database(place->storage, path, LM_OBJECT_HISTORY, &m.history, &size);
	sign_and_put(place, &m);
}

#define ANY_HASH "0123456789012345678901234567890123456789"

static void test_history(void **state)
{
	static const struct {
		const char *what, *sql;
		uint64_t kinds;
		const char *text;
	} list[] = {
		{"no hash", "UPDATE tags SET hash = 'x' WHERE name = 'trunk-previous'", BIT(TAG), "'x' is no hash"},
		{"no name", "UPDATE tags SET name = '' WHERE name = 'trunk-previous'", BIT(TAG), "empty or has blanks"},
		{"blank", "UPDATE tags SET name = 'a b' WHERE name = 'trunk-previous'", BIT(TAG), "'a b'"},
		{"newer than all", "UPDATE tags SET revision = 99 WHERE name = 'trunk-previous'", BIT(TAG),
			"names revision 99, the newest one is 3"},
		{"no time", "UPDATE tags SET timestamp = NULL WHERE name = 'trunk-previous'", BIT(TAG), "no time"},
		{"root gone", "UPDATE tags SET hash = '" ANY_HASH "' WHERE name = 'trunk-previous'", BIT(TAG),
			"tag -|trunk-previous|data/01/"},
		{"no branch", "UPDATE tags SET branch = 'b' WHERE name = 'trunk-previous'", BIT(TAG),
			"on branch 'b', which"},
		{"before its branch", "UPDATE branches SET initial_revision = 3", BIT(TAG), "which begins at 3"},
		{"unused branch", "INSERT INTO branches VALUES ('b', '', 1)", BIT(BRANCH), "branch 'b' has no tag"},
		{"branch of nothing",
			"INSERT INTO branches VALUES ('b', 'c', 1); UPDATE tags SET branch = 'b' WHERE name = "
			"'trunk-previous'",
			BIT(BRANCH), "branch 'c', which is not there"},
		{"trunk elsewhere", "UPDATE tags SET revision = 2 WHERE name = 'trunk'", BIT(TRUNK),
			"trunk names revision 2"},
		{"no trunk", "DELETE FROM tags WHERE name = 'trunk'", BIT(TRUNK), "no tag trunk"},
		{"another repository", "UPDATE properties SET value = 'x' WHERE key = 'fqrn'", BIT(HISTORY),
			"repository 'x'"},
		{"schema", "UPDATE properties SET value = '9' WHERE key = 'schema'", BIT(HISTORY), "unknown schema"},
		{"no tags", "DROP TABLE tags", BIT(HISTORY), "tags"},
		{"recycle bin", "INSERT INTO recycle_bin VALUES ('x', 1)", BIT(TOLERATED), "recycle bin"},
	};
	CLEANUP(place_done) struct place place;
	struct lm_manifest m;
	make(&place, &m);
	for (size_t i = 0; i < ARRAY_LEN(list); i++) {
		forge_history(&place, &m, list[i].sql);
		look(&place, list[i].what, list[i].kinds | BIT(REFLOG), list[i].text);
	}
	sign_and_put(&place, &m);
	CLEANUP(lm_freep) char *object = object_file(&place, &m.history, LM_OBJECT_HISTORY);
	flip(object, 50);
	look(&place, "damaged", BIT(HISTORY), "history -|-|data/");
	flip(object, 50);
	assert_int_equal(unlink(object), 0);
	look(&place, "missing", BIT(HISTORY) | BIT(REFLOG_OBJECT), "not in the storage");
}

/* With the reflog changed and, if asked, named by its new hash. */
static void forge_reflog(struct place *place, const struct lm_manifest *clean, const char *sql, bool sign)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest m = *clean;
	CLEANUP(lm_buf_done) struct lm_buf data = {0};
	CLEANUP(lm_freep) char *path = file_of(place, LM_REFLOG_NAME);
	run_sql(path, sql);
	read_whole(path, &data);
	if (sign)
		assert_ok(lm_hash_data(LM_HASH_SHA1, data.data, data.len, &m.reflog, &err), &err);
	sign_and_put(place, &m);
}

static void test_reflog(void **state)
{
	static const struct {
		const char *what, *sql;
		uint64_t kinds;
		const char *text;
	} list[] = {
		{"unchanged", "SELECT 1", 0, NULL},
		{"root gone", "INSERT INTO refs VALUES ('" ANY_HASH "', 0, 0)", BIT(REFLOG_OBJECT), "data/01/"},
		{"that again", "DELETE FROM refs WHERE hash = '" ANY_HASH "'", 0, NULL},
		{"type", "INSERT INTO refs VALUES ('" ANY_HASH "', 7, 0)", BIT(REFLOG), "of type 7"},
		{"that again", "DELETE FROM refs WHERE hash = '" ANY_HASH "'", 0, NULL},
		{"no hash", "INSERT INTO refs VALUES ('x', 0, 0)", BIT(REFLOG), "'x' of type 0"},
		{"that again", "DELETE FROM refs WHERE hash = 'x'", 0, NULL},
		{"no certificate", "DELETE FROM refs WHERE type = 1", BIT(REFLOG), "lacks the manifest's certificate"},
		{"no roots", "DELETE FROM refs WHERE type = 0", BIT(REFLOG), "lacks the manifest's root catalog"},
		{"no table", "DROP TABLE refs", BIT(REFLOG), "refs"},
	};
	CLEANUP(place_done) struct place place;
	struct lm_manifest m;
	make(&place, &m);
	for (size_t i = 0; i < ARRAY_LEN(list); i++) {
		forge_reflog(&place, &m, list[i].sql, true);
		look(&place, list[i].what, list[i].kinds, list[i].text);
	}
	place_done(&place);
	make(&place, &m);
	forge_reflog(&place, &m, "UPDATE refs SET timestamp = 1", false);
	look(&place, "not signed anew", BIT(REFLOG), "the manifest says");
	m.reflog = (struct lm_hash){0};
	sign_and_put(&place, &m);
	look(&place, "no Y", BIT(REFLOG), "field Y");
	put_text(&place, LM_REFLOG_NAME, "nonsense");
	look(&place, "nonsense", BIT(REFLOG), "database of 8 bytes");
	drop(&place, LM_REFLOG_NAME);
	look(&place, "none", 0, NULL);
}

/*
 * Objects and storages
 */

static void test_damage(void **state)
{
	CLEANUP(place_done) struct place place;
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	struct lm_manifest m;
	struct lm_row row;
	make(&place, &m);
	begin(&place, &txn);
	assert_ok(lm_txn_lookup(txn, "/n/file", &row, &err), &err);
	lm_txn_freep(&txn);
	CLEANUP(lm_freep) char *object = object_file(&place, &row.hash, LM_OBJECT_FILE);
	CLEANUP(lm_freep) char *root = object_file(&place, &m.catalog, LM_OBJECT_CATALOG);
	lm_row_done(&row);
	for (unsigned pool = 0; pool < 2; pool++) {
		struct lm_check_options read = {.objects = true, .work = pool ? work : NULL}, ask = {.work = read.work};
		CLEANUP(verdict_done) struct verdict before = {0};
		CLEANUP(verdict_done) struct verdict after = {0};
		flip(object, 4);
		verdict_of(place.storage, &ask, &before);
		assert_verdict(&before, "not read", 0, NULL);
		verdict_of(place.storage, &read, &after);
		assert_verdict(&after, "read", BIT(OBJECT_DAMAGED), "object-damaged /n|/n/file|data/");
		flip(object, 4);
	}
	flip(root, 40);
	look(&place, "root", BIT(CATALOG_DAMAGED), "catalog-damaged ||data/");
	flip(root, 40);
	assert_int_equal(unlink(object), 0);
	look(&place, "missing", BIT(OBJECT_MISSING), "object-missing /n|/n/file|data/");
	assert_int_equal(unlink(root), 0);
	look(&place, "no root", BIT(CATALOG_MISSING) | BIT(TAG), "catalog-missing ||data/");
}

/* Larger than what is read into memory. */
static void test_large_object(void **state)
{
	enum { SIZE = 9 << 20 };
	CLEANUP(place_done) struct place place;
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_freep) uint8_t *data = malloc(SIZE);
	CLEANUP(verdict_done) struct verdict v = {0};
	CLEANUP(verdict_done) struct verdict after = {0};
	struct lm_check_options options = {.objects = true};
	struct lm_manifest m;
	struct lm_row row;
	uint64_t x = 88172645463325252u;
	for (size_t i = 0; i < SIZE; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		data[i] = (uint8_t)x;
	}
	make(&place, &m);
	begin(&place, &txn);
	assert_ok(lm_txn_put_data(txn, "/large", data, SIZE, &err), &err);
	assert_ok(lm_txn_lookup(txn, "/large", &row, &err), &err);
	commit(&txn, &m);
	verdict_of(place.storage, &options, &v);
	assert_verdict(&v, "large", 0, NULL);
	assert_true(v.result.object_bytes > SIZE);
	CLEANUP(lm_freep) char *object = object_file(&place, &row.hash, LM_OBJECT_FILE);
	lm_row_done(&row);
	flip(object, SIZE / 2);
	verdict_of(place.storage, &options, &after);
	assert_verdict(&after, "damaged", BIT(OBJECT_DAMAGED), "|/large|data/");
}

/* A storage that passes on calls but for objects of files, which it can't read. */
struct failing {
	struct lm_storage storage;
	struct lm_storage *real;
};

static int failing_has(struct lm_storage *storage, const char *path, struct lm_err *err)
{
	struct lm_storage *real = ((struct failing *)storage)->real;
	size_t len = strlen(path);
	if (lm_str_starts(path, "data/") && path[len - 1] <= 'f')
		return lm_err_set(err, -EIO, "%s: the disk is broken", path);
	return real->ops->has(real, path, err);
}

static int failing_get(struct lm_storage *storage, const char *path, struct lm_buf *ret, struct lm_err *err)
{
	struct lm_storage *real = ((struct failing *)storage)->real;
	return real->ops->get(real, path, ret, err);
}

static int failing_get_file(struct lm_storage *storage, const char *path, int fd, struct lm_err *err)
{
	struct lm_storage *real = ((struct failing *)storage)->real;
	return real->ops->get_file(real, path, fd, err);
}

static const struct lm_storage_ops failing_ops = {.has = failing_has, .get = failing_get, .get_file = failing_get_file};

/* Few failures are findings; a storage that goes on failing ends the check. */
static void test_failing_storage(void **state)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(verdict_done) struct verdict v = {0};
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest m;
	make(&place, &m);
	struct failing failing = {.storage = {&failing_ops}, .real = place.storage};
	struct lm_check_options options = {0};
	verdict_of(&failing.storage, &options, &v);
	assert_verdict(&v, "failing", BIT(OBJECT_UNREADABLE), "the disk is broken");

	begin(&place, &txn);
	for (unsigned i = 0; i < 200; i++) {
		char path[32];
		snprintf(path, sizeof(path), "/many%u", i);
		put(txn, path, path);
	}
	commit(&txn, &m);
	for (unsigned pool = 0; pool < 2; pool++) {
		struct lm_check_options given = {.scratch = base, .work = pool ? work : NULL, .root = &m.catalog};
		struct verdict all = {.text = LM_BUF(1 << 20)};
		assert_int_equal(lm_repo_check(&failing.storage, &given, verdict_add, &all, &all.result, &err), -EIO);
		assert_non_null(strstr(err.msg, "the storage failed 100 times"));
		verdict_done(&all);
	}
	struct lm_check_options nowhere = {.scratch = "/nonexistent", .root = &m.catalog};
	assert_int_equal(lm_repo_check(place.storage, &nowhere, verdict_add, &v, &v.result, &err), -ENOENT);
}

/* Which trees are walked. */
static void test_choice(void **state)
{
	CLEANUP(place_done) struct place place;
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest m;
	struct lm_history_root previous;
	make(&place, &m);
	CLEANUP(unlink_freep) char *history = unpack_database(place.storage, &m.history, LM_OBJECT_HISTORY);
	assert_ok(lm_history_find(history, LM_TAG_PREVIOUS, &previous, &err), &err);

	CLEANUP(verdict_done) struct verdict by_tag = {0};
	struct lm_check_options tag = {.tag = LM_TAG_PREVIOUS};
	verdict_of(place.storage, &tag, &by_tag);
	assert_verdict(&by_tag, "tag", 0, NULL);
	assert_int_equal(by_tag.result.roots, 1);
	assert_int_equal(by_tag.result.rows, 6);
	CLEANUP(verdict_done) struct verdict by_root = {0};
	struct lm_check_options root = {.root = &previous.hash, .root_size = previous.size};
	verdict_of(place.storage, &root, &by_root);
	assert_verdict(&by_root, "root", 0, NULL);
	assert_int_equal(by_root.result.rows, 6);

	struct verdict none = {.text = LM_BUF(1 << 20)};
	struct lm_check_options no_tag = {.tag = "no-such", .scratch = base};
	assert_int_equal(lm_repo_check(place.storage, &no_tag, verdict_add, &none, &none.result, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "'no-such'"));
	verdict_done(&none);
	root.root_size++;
	CLEANUP(verdict_done) struct verdict size = {0};
	verdict_of(place.storage, &root, &size);
	assert_verdict(&size, "size", BIT(CATALOG_SIZE), NULL);
}

static void count_finding(void *arg, const struct lm_finding *finding)
{
	++*(unsigned *)arg;
}

static void count_tick(void *arg, const struct lm_check_result *so_far)
{
	++*(unsigned *)arg;
	assert_true(so_far->rows < 20);
}

/* All are counted, some are told. */
static void test_limit(void **state)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest m;
	struct lm_check_result result;
	unsigned told = 0, ticks = 0;
	make(&place, &m);
	begin(&place, &txn);
	for (unsigned i = 0; i < 9; i++) {
		char path[32];
		snprintf(path, sizeof(path), "/many%u", i);
		put(txn, path, path);
	}
	commit(&txn, &m);
	forge_catalog(&place, &m, "", "UPDATE catalog SET hardlinks = 0 WHERE name LIKE 'many%'", NULL);
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	read_manifest(place.storage, &text);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, &m, &err), &err);
	struct lm_check_options options = {
		.root = &m.catalog, .scratch = base, .kind_max = 4, .progress = count_tick, .progress_arg = &ticks};
	assert_ok(lm_repo_check(place.storage, &options, count_finding, &told, &result, &err), &err);
	assert_int_equal(told, 4);
	assert_int_equal(result.kinds[LM_CHECK_HARD_LINK], 9);
	assert_int_equal(result.levels[LM_CHECK_PROBLEM], 9);
	assert_true(ticks > 0);
}

/* Each kind has a name of its own and says what to do. */
static void test_kinds(void **state)
{
	for (size_t i = 0; i < LM_CHECK_KIND_COUNT; i++) {
		assert_non_null(lm_check_kinds[i].name);
		assert_non_null(lm_check_kinds[i].advice);
		for (size_t j = 0; j < i; j++)
			assert_string_not_equal(lm_check_kinds[i].name, lm_check_kinds[j].name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fixtures),
		cmocka_unit_test(test_kept_manifests),
		cmocka_unit_test(test_alternates),
		cmocka_unit_test(test_own),
		cmocka_unit_test(test_whitelist),
		cmocka_unit_test(test_manifest),
		cmocka_unit_test(test_beside),
		cmocka_unit_test(test_history),
		cmocka_unit_test(test_reflog),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_large_object),
		cmocka_unit_test(test_failing_storage),
		cmocka_unit_test(test_choice),
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_kinds),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
