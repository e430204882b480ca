/* Tags of whole repositories: made, removed, gone back to, in ours and in those of stock tools, with faults. */
#include "repo/tags.h"

#include "repo/reflog.h"
#include "repo/sign.h"
#include "repo_watch.h"

#define FQRN "test.example.org"

static char *base;
static struct lm_repo_keys keys;

struct place {
	char *dir;
	struct lm_storage *storage;
};

static void place_done(struct place *place)
{
	lm_storage_free(place->storage);
	free(place->dir);
}

static void create(struct place *ret)
{
	static unsigned count;
	struct lm_err err = LM_ERR_INIT;
	*ret = (struct place){.dir = lm_str_printf("%s/repo.%u", base, count++)};
	assert_ok(lm_storage_dir_open(ret->dir, true, &ret->storage, &err), &err);
	assert_ok(lm_repo_create(ret->storage, &keys, FQRN, 30, 300, NULL, NULL, &err), &err);
}

/* A revision whose file /f says which one it is. */
static void publish(struct lm_storage *storage, const char *fqrn, struct lm_manifest *ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	char text[32];
	assert_ok(lm_txn_begin(storage, &keys, fqrn, &txn, &err), &err);
	snprintf(text, sizeof(text), "%u", (unsigned)lm_txn_base(txn)->revision + 1);
	assert_ok(lm_txn_mkdirs(txn, "/nested", true, &err), &err);
	assert_ok(lm_txn_put_data(txn, "/nested/f", text, strlen(text), &err), &err);
	assert_ok(lm_txn_commit(txn, ret, &err), &err);
}

/* Valid for a client, and nothing for a checker to find. */
static void check(struct lm_storage *storage, const char *fqrn, struct lm_manifest *ret)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(client_verdict(storage, fqrn, keys.master, ret, &err), &err);
	assert_int_equal(tree_walk(storage, &ret->catalog, ret->catalog_size, NULL), 0);
}

static void assert_content(struct lm_storage *storage, const char *expected)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_buf_done) struct lm_buf content = LM_BUF(100);
	assert_ok(lm_txn_begin(storage, &keys, FQRN, &txn, &err), &err);
	assert_ok(lm_txn_read(txn, "/nested/f", &content, &err), &err);
	assert_string_equal(lm_buf_cstr(&content), expected);
}

static void load_history(struct lm_storage *storage, const struct lm_manifest *m, char **ret)
{
	static unsigned count;
	struct lm_err err = LM_ERR_INIT;
	*ret = lm_str_printf("%s/history.%u", base, count++);
	assert_ok(lm_object_load_file(storage, &m->history, LM_OBJECT_HISTORY, 1 << 20, *ret, &err), &err);
	assert_ok(lm_history_check(*ret, m->fqrn, &err), &err);
}

static int list_one(void *arg, const struct lm_tag *tag)
{
	return lm_buf_printf(arg, "%s=%" PRIu64 " ", tag->name, tag->revision);
}

static void assert_tags(struct lm_storage *storage, const char *expected)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(10000);
	CLEANUP(lm_freep) char *history = NULL;
	struct lm_manifest m;
	check(storage, FQRN, &m);
	load_history(storage, &m, &history);
	assert_ok(lm_history_each(history, list_one, &text, &err), &err);
	assert_string_equal(lm_buf_cstr(&text), expected);
}

static int add_tag(struct lm_storage *storage, const char *name, struct lm_err *err)
{
	struct lm_tag_request request = {.name = name};
	return lm_repo_tag_add(storage, &keys, FQRN, &request, NULL, err);
}

static int remove_tag(struct lm_storage *storage, const char *name, struct lm_err *err)
{
	return lm_repo_tags_remove(storage, &keys, FQRN, &name, 1, err);
}

static int find_history(void *arg, const struct lm_ref *ref)
{
	return ref->type == LM_REF_HISTORY && lm_hash_equal(&ref->hash, arg);
}

static void test_add_and_remove(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct lm_manifest first, tagged, found;
	struct lm_history_root root, trunk;
	struct lm_tag_request request = {.name = "v1", .description = "the first"};
	create(&place);
	publish(place.storage, FQRN, &first);
	assert_ok(lm_repo_tag_add(place.storage, &keys, FQRN, &request, &root, &err), &err);
	assert_true(lm_hash_equal(&root.hash, &first.catalog));
	assert_int_equal(root.revision, 2);
	assert_int_equal(root.size, first.catalog_size);
	assert_tags(place.storage, "trunk=2 v1=2 trunk-previous=1 ");
	check(place.storage, FQRN, &tagged);
	assert_int_equal(tagged.revision, 2);
	assert_true(lm_hash_equal(&tagged.catalog, &first.catalog));
	assert_true(lm_hash_equal(&tagged.metainfo, &first.metainfo));
	assert_true(tagged.published_s > first.published_s);

	/* As the trunk's in all but its name; the reflog knows the new history. */
	CLEANUP(lm_freep) char *history = NULL;
	load_history(place.storage, &tagged, &history);
	assert_ok(lm_history_find(history, "v1", &root, &err), &err);
	assert_ok(lm_history_find(history, "trunk", &trunk, &err), &err);
	assert_int_equal(root.modified_s, trunk.modified_s);
	assert_int_equal(root.size, trunk.size);
	CLEANUP(lm_freep) char *reflog = lm_str_printf("%s/" LM_REFLOG_NAME, place.dir);
	assert_int_equal(lm_reflog_each(reflog, find_history, &tagged.history, &err), 1);
	assert_int_equal(lm_reflog_each(reflog, find_history, &first.history, &err), 1);

	assert_int_equal(add_tag(place.storage, "v1", &err), -EEXIST);
	assert_non_null(strstr(err.msg, "v1"));
	publish(place.storage, FQRN, &found);
	assert_ok(add_tag(place.storage, "v2", &err), &err);
	assert_tags(place.storage, "trunk=3 v2=3 trunk-previous=2 v1=2 ");
	assert_int_equal(remove_tag(place.storage, "v3", &err), -ENOENT);
	static const char *const some[] = {"v1", "absent"}, *const both[] = {"v1", "v2"};
	assert_int_equal(lm_repo_tags_remove(place.storage, &keys, FQRN, some, 2, &err), -ENOENT);
	assert_tags(place.storage, "trunk=3 v2=3 trunk-previous=2 v1=2 ");
	assert_ok(lm_repo_tags_remove(place.storage, &keys, FQRN, both, 2, &err), &err);
	assert_tags(place.storage, "trunk=3 trunk-previous=2 ");
	publish(place.storage, FQRN, &found);
	check(place.storage, FQRN, &found);
	assert_int_equal(found.revision, 4);
}

static void test_refused(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_buf_done) struct lm_buf before = {0};
	char *long_text = lm_str_printf("%*s", LM_TAG_DESCRIPTION_MAX + 1, "x");
	const struct lm_tag_request bad[] = {
		{.name = "trunk"},
		{.name = "trunk-previous"},
		{.name = ""},
		{.name = "a b"},
		{.name = "a/b"},
		{.name = "-x"},
		{.name = "x", .description = "two\nlines"},
		{.name = "x", .description = long_text},
	};
	create(&place);
	get_file(place.storage, LM_MANIFEST_NAME, &before);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(lm_repo_tag_add(place.storage, &keys, FQRN, &bad[i], NULL, &err), -EINVAL);
	free(long_text);
	assert_int_equal(remove_tag(place.storage, "trunk", &err), -EINVAL);
	assert_int_equal(remove_tag(place.storage, "trunk-previous", &err), -EINVAL);
	assert_int_equal(lm_repo_tag_rollback(place.storage, &keys, FQRN, "x", NULL, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "no tag x"));
	struct lm_tag_request request = {.name = "x", .root = {.set = true}};
	assert_int_equal(lm_repo_tag_add(place.storage, &keys, FQRN, &request, NULL, &err), -EIO);
	request = (struct lm_tag_request){.name = "x", .has_revision = true, .revision = 2};
	assert_int_equal(lm_repo_tag_add(place.storage, &keys, FQRN, &request, NULL, &err), -ENOENT);
	request.revision = 0;
	assert_int_equal(lm_repo_tag_add(place.storage, &keys, FQRN, &request, NULL, &err), -ENOENT);
	request.revision = UINT64_MAX;
	assert_int_equal(lm_repo_tag_add(place.storage, &keys, FQRN, &request, NULL, &err), -ENOENT);

	CLEANUP(lm_repo_keys_done) struct lm_repo_keys stranger = {0};
	assert_ok(lm_key_generate(2048, &stranger.key, &err), &err);
	assert_ok(lm_cert_make(stranger.key, FQRN, &stranger.cert, &err), &err);
	request = (struct lm_tag_request){.name = "x"};
	assert_int_equal(lm_repo_tag_add(place.storage, &stranger, FQRN, &request, NULL, &err), -EBADMSG);
	CLEANUP(lm_storage_freep) struct lm_storage *other = NULL;
	assert_ok(lm_storage_dir_open(place.dir, false, &other, &err), &err);
	assert_int_equal(lm_repo_tag_add(other, &keys, FQRN, &request, NULL, &err), -EBUSY);
	assert_same_file(place.storage, LM_MANIFEST_NAME, &before);
}

/* Revisions without a tag are found through those that have one. */
static void test_by_number(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct lm_manifest made[9];
	create(&place);
	for (unsigned i = 2; i < ARRAY_LEN(made); i++) {
		publish(place.storage, FQRN, &made[i]);
		if (i == 5)
			assert_ok(add_tag(place.storage, "five", &err), &err);
	}
	for (unsigned i = 2; i < ARRAY_LEN(made); i++) {
		char name[16];
		struct lm_history_root root;
		struct lm_tag_request request = {.name = name, .has_revision = true, .revision = i};
		snprintf(name, sizeof(name), "r%u", i);
		assert_ok(lm_repo_tag_add(place.storage, &keys, FQRN, &request, &root, &err), &err);
		assert_true(lm_hash_equal(&root.hash, &made[i].catalog));
		snprintf(name, sizeof(name), "h%u", i);
		request = (struct lm_tag_request){.name = name, .root = made[i].catalog};
		assert_ok(lm_repo_tag_add(place.storage, &keys, FQRN, &request, &root, &err), &err);
		assert_int_equal(root.revision, i);
		snprintf(name, sizeof(name), "b%u", i);
		request.has_revision = true;
		request.revision = i + 1;
		assert_int_equal(lm_repo_tag_add(place.storage, &keys, FQRN, &request, &root, &err), -EINVAL);
	}
	struct lm_manifest found;
	check(place.storage, FQRN, &found);
	assert_int_equal(found.revision, ARRAY_LEN(made) - 1);
}

static void drop_root(struct lm_storage *storage, const struct lm_hash *hash)
{
	struct lm_err err = LM_ERR_INIT;
	char path[LM_OBJECT_PATH_MAX];
	assert_ok(storage->ops->remove(storage, lm_object_path(hash, LM_OBJECT_CATALOG, path), &err), &err);
}

/* Roots that were swept, and one that a publisher stored before it was killed. */
static void test_missing_and_unpublished(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_buf_done) struct lm_buf before = {0};
	struct lm_manifest second, third, fourth;
	create(&place);
	publish(place.storage, FQRN, &second);
	assert_ok(add_tag(place.storage, "second", &err), &err);
	publish(place.storage, FQRN, &third);
	get_file(place.storage, LM_MANIFEST_NAME, &before);
	publish(place.storage, FQRN, &fourth);
	assert_ok(place.storage->ops->put(place.storage, LM_MANIFEST_NAME, before.data, before.len, &err), &err);
	struct lm_tag_request request = {.name = "x", .root = fourth.catalog};
	assert_int_equal(lm_repo_tag_add(place.storage, &keys, FQRN, &request, NULL, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "never published"));

	drop_root(place.storage, &second.catalog);
	request = (struct lm_tag_request){.name = "x", .has_revision = true, .revision = 2};
	assert_int_equal(lm_repo_tag_add(place.storage, &keys, FQRN, &request, NULL, &err), -EIO);
	request.revision = 1;
	assert_int_equal(lm_repo_tag_add(place.storage, &keys, FQRN, &request, NULL, &err), -EIO);
	assert_int_equal(lm_repo_tag_rollback(place.storage, &keys, FQRN, "second", NULL, &err), -EIO);
	assert_same_file(place.storage, LM_MANIFEST_NAME, &before);
}

static void test_rollback(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct lm_manifest second, fourth, back, found;
	create(&place);
	publish(place.storage, FQRN, &second);
	assert_ok(add_tag(place.storage, "second", &err), &err);
	publish(place.storage, FQRN, &found);
	assert_ok(add_tag(place.storage, "third", &err), &err);
	publish(place.storage, FQRN, &fourth);
	assert_ok(lm_repo_tag_rollback(place.storage, &keys, FQRN, "second", &back, &err), &err);
	assert_int_equal(back.revision, 5);
	assert_true(back.published_s > fourth.published_s);
	assert_int_equal(back.ttl_s, 300);
	assert_tags(place.storage, "trunk=5 trunk-previous=4 third=3 second=2 ");
	assert_content(place.storage, "2");
	check(place.storage, FQRN, &found);
	assert_true(lm_hash_equal(&found.catalog, &back.catalog));

	/* The new root is the old one but for when and after what it was made. */
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/root", base);
	CLEANUP(lm_catalog_closep) struct lm_catalog *root = NULL;
	struct lm_hash previous;
	int64_t modified_s;
	assert_ok(lm_object_load_file(place.storage, &back.catalog, LM_OBJECT_CATALOG, 1 << 20, path, &err), &err);
	assert_ok(lm_catalog_open(path, "", &root, &err), &err);
	assert_ok(lm_catalog_origin(root, &modified_s, &previous, &err), &err);
	assert_int_equal(lm_catalog_revision(root), 5);
	assert_int_equal(modified_s, back.published_s);
	assert_true(lm_hash_equal(&previous, &fourth.catalog));
	unlink(path);

	/* There and back again. */
	assert_ok(lm_repo_tag_rollback(place.storage, &keys, FQRN, LM_TAG_PREVIOUS, &back, &err), &err);
	assert_content(place.storage, "4");
	assert_tags(place.storage, "trunk=6 trunk-previous=5 third=3 second=2 ");
	assert_ok(lm_repo_tag_rollback(place.storage, &keys, FQRN, LM_TAG_PREVIOUS, &back, &err), &err);
	assert_content(place.storage, "2");

	/* To where it is already: no change. */
	CLEANUP(lm_buf_done) struct lm_buf before = {0};
	get_file(place.storage, LM_MANIFEST_NAME, &before);
	assert_ok(lm_repo_tag_rollback(place.storage, &keys, FQRN, LM_TAG_TRUNK, &back, &err), &err);
	assert_int_equal(back.revision, 7);
	assert_same_file(place.storage, LM_MANIFEST_NAME, &before);
	publish(place.storage, FQRN, &found);
	assert_content(place.storage, "8");
	check(place.storage, FQRN, &found);
}

/*
 * A failure at each change of the storage: the old state or the new one, and the next call goes on from there.
 */

static int do_add(struct lm_storage *storage, struct lm_err *err)
{
	return add_tag(storage, "new", err);
}
static int do_remove(struct lm_storage *storage, struct lm_err *err)
{
	return remove_tag(storage, "old", err);
}
static int do_rollback(struct lm_storage *storage, struct lm_err *err)
{
	return lm_repo_tag_rollback(storage, &keys, FQRN, "old", NULL, err);
}

static void test_faults(void **state)
{
	static const struct {
		int (*change)(struct lm_storage *storage, struct lm_err *err);
		const char *tags;
	} changes[] = {
		{do_add, "new=3 trunk=3 old=2 trunk-previous=2 "},
		{do_remove, "trunk=3 trunk-previous=2 "},
		{do_rollback, "trunk=4 trunk-previous=3 old=2 "},
	};
	for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(place_done) struct place place;
		CLEANUP(lm_buf_done) struct lm_buf before = {0};
		struct lm_manifest found;
		unsigned failures = 0;
		int r = -1;
		create(&place);
		publish(place.storage, FQRN, &found);
		assert_ok(add_tag(place.storage, "old", &err), &err);
		publish(place.storage, FQRN, &found);
		get_file(place.storage, LM_MANIFEST_NAME, &before);
		for (unsigned at = 1; r < 0; at++) {
			struct watch watch = watch_storage(place.storage);
			watch.fail_at = at;
			r = changes[i].change(&watch.storage, &err);
			failures += r < 0;
			if (r < 0) {
				assert_int_equal(r, -EIO);
				assert_same_file(place.storage, LM_MANIFEST_NAME, &before);
				check(place.storage, FQRN, &found);
			}
		}
		assert_true(failures >= 4); /* history, sync, reflog, manifest */
		assert_tags(place.storage, changes[i].tags);
	}
}

/*
 * Repositories of stock tools, taken over with keys of ours since nobody has theirs.
 */

static void take_over(const char *fqrn, struct lm_storage **ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/%s", base, fqrn);
	CLEANUP(lm_freep) char *name = lm_str_printf("keys/%s.pub", fqrn);
	CLEANUP(lm_buf_done) struct lm_buf pem = {0};
	CLEANUP(lm_key_freep) struct lm_key *theirs = NULL;
	static struct lm_sign_result result;
	read_fixture(name, &pem);
	assert_ok(lm_key_parse_public(lm_buf_cstr(&pem), pem.len, &theirs, &err), &err);
	struct lm_sign_request request = {.days = 30, .trusted = &theirs, .trusted_count = 1};
	unpack_fixture(fqrn, base);
	assert_ok(lm_storage_dir_open(dir, false, ret, &err), &err);
	assert_ok(lm_repo_sign(*ret, &keys, fqrn, &request, &result, &err), &err);
	assert_true(result.manifest_signed);
	assert_int_equal(result.whitelist.count, 2);
}

static void test_stock_tags(void **state)
{
	if (!fixtures_present())
		skip();
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_storage_freep) struct lm_storage *storage = NULL;
	CLEANUP(lm_freep) char *history = NULL;
	CLEANUP(lm_buf_done) struct lm_buf expected = {0}, found = LM_BUF(1 << 20);
	struct lm_manifest manifest;
	struct lm_history_root root;
	static const char fqrn[] = "fixture.cern.ch";
	take_over(fqrn, &storage);
	const char *old[] = {"first-release", "second-release"};
	assert_ok(lm_repo_tags_remove(storage, &keys, fqrn, old, 2, &err), &err);
	/* Found again along the chain of previous revisions. */
	struct lm_tag_request request = {.name = "one", .has_revision = true, .revision = 1};
	assert_ok(lm_repo_tag_add(storage, &keys, fqrn, &request, &root, &err), &err);
	assert_string_equal(lm_hash_text(&root.hash).s, "21cbb04a3116b679e7b39835eeaf4f32b62ef8b0");
	assert_int_equal(root.modified_s, 1795304798);
	assert_int_equal(root.size, 126976);
	assert_ok(lm_repo_tag_rollback(storage, &keys, fqrn, "one", &manifest, &err), &err);
	assert_int_equal(manifest.revision, 4);
	assert_ok(client_verdict(storage, fqrn, keys.master, &manifest, &err), &err);
	read_fixture("expected/fixture.cern.ch.rev1.manifest", &expected);
	tree_walk(storage, &manifest.catalog, manifest.catalog_size, &found);
	assert_true(expected.len == found.len && memcmp(expected.data, found.data, found.len) == 0);
	load_history(storage, &manifest, &history);
	assert_ok(lm_history_find(history, LM_TAG_PREVIOUS, &root, &err), &err);
	assert_int_equal(root.revision, 3);
	assert_ok(lm_history_find(history, "generic-2026-11-21T23:46:40Z", &root, &err), &err);
}

/* Other hashes, aliases, revisions that are no neighbours. */
static void test_stock_kinds(void **state)
{
	if (!fixtures_present())
		skip();
	static const char *const fqrns[] = {"rmd160.fixture.cern.ch", "shake128.fixture.cern.ch",
		"plain.fixture.cern.ch", "options.fixture.cern.ch", "unpacked.fixture.cern.ch"};
	for (size_t i = 0; i < ARRAY_LEN(fqrns); i++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_storage_freep) struct lm_storage *storage = NULL;
		struct lm_manifest before, after;
		struct lm_tag_request request = {.name = "new", .has_revision = true, .revision = 1};
		take_over(fqrns[i], &storage);
		assert_ok(client_verdict(storage, fqrns[i], keys.master, &before, &err), &err);
		assert_ok(lm_repo_tag_add(storage, &keys, fqrns[i], &request, NULL, &err), &err);
		assert_ok(lm_repo_tag_rollback(storage, &keys, fqrns[i], "new", NULL, &err), &err);
		assert_ok(client_verdict(storage, fqrns[i], keys.master, &after, &err), &err);
		assert_int_equal(after.revision, before.revision + 1);
		assert_int_equal(after.catalog.algo, before.catalog.algo);
		assert_int_equal(after.history.algo, before.history.algo);
		assert_int_equal(after.ttl_s, before.ttl_s);
		assert_int_equal(after.alternative_catalogs, before.alternative_catalogs);
		assert_int_equal(after.garbage_collectable, before.garbage_collectable);
	}
}

static int setup(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	base = temp_dir();
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/keys", base);
	assert_ok(lm_repo_keys_make(dir, FQRN, &keys, &err), &err);
	return 0;
}

static int teardown(void **state)
{
	lm_repo_keys_done(&keys);
	temp_dir_remove(&base);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_add_and_remove),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_by_number),
		cmocka_unit_test(test_missing_and_unpublished),
		cmocka_unit_test(test_rollback),
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_stock_tags),
		cmocka_unit_test(test_stock_kinds),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
