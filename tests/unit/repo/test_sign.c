/* Signing anew: what clients see at each moment, what is refused, what a failure leaves. */
#include "repo/sign.h"

#include "repo_watch.h"

#define FQRN "test.example.org"

static char *base;
static struct lm_repo_keys keys;     /* that repositories are made with */
static struct lm_repo_keys next;     /* another pair, the same master key */
static struct lm_repo_keys stranger; /* all others */
static struct lm_sign_result result; /* of the last call; large */

struct place {
	char *dir;
	struct lm_storage *storage;
};

static void place_done(struct place *place)
{
	lm_storage_free(place->storage);
	free(place->dir);
}

static void create_valid_for(struct place *ret, unsigned days)
{
	static unsigned count;
	struct lm_err err = LM_ERR_INIT;
	ret->dir = lm_str_printf("%s/repo.%u", base, count++);
	assert_ok(lm_storage_dir_open(ret->dir, true, &ret->storage, &err), &err);
	assert_ok(lm_repo_create(ret->storage, &keys, FQRN, days, 300, NULL, NULL, &err), &err);
}

static void create(struct place *ret)
{
	create_valid_for(ret, 30);
}

static int sign(struct lm_storage *storage, const struct lm_repo_keys *by, const struct lm_sign_request *request,
	struct lm_err *err)
{
	return lm_repo_sign(storage, by, FQRN, request, &result, err);
}

static void assert_valid(struct lm_storage *storage, struct lm_key *master)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest manifest;
	assert_ok(client_verdict(storage, FQRN, master, &manifest, &err), &err);
	assert_int_equal(tree_walk(storage, &manifest.catalog, manifest.catalog_size, NULL), 0);
}

static void read_whitelist(struct lm_storage *storage, struct lm_whitelist *ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	get_file(storage, LM_WHITELIST_NAME, &text);
	assert_ok(lm_whitelist_parse(lm_buf_cstr(&text), text.len, ret, &err), &err);
}

static struct lm_hash fingerprint(const struct lm_cert *cert)
{
	struct lm_hash hash;
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_cert_fingerprint(cert, LM_HASH_SHA1, &hash, &err), &err);
	return hash;
}

static bool allows(struct lm_storage *storage, const struct lm_hash *hash)
{
	static struct lm_whitelist list;
	bool found = false;
	read_whitelist(storage, &list);
	for (size_t i = 0; i < list.count; i++)
		found |= lm_hash_equal(&list.fingerprints[i], hash);
	return found;
}

/* Whether the next publisher with these keys finds its own manifest. */
static int begins(struct lm_storage *storage, const struct lm_repo_keys *by)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	struct lm_err err = LM_ERR_INIT;
	return lm_txn_begin(storage, by, FQRN, &txn, &err);
}

static void test_renew(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_buf_done) struct lm_buf manifest = {0};
	struct lm_hash other = fingerprint(stranger.cert);
	create(&place);
	get_file(place.storage, LM_MANIFEST_NAME, &manifest);
	struct lm_sign_request request = {.days = 100, .add = &other, .add_count = 1};
	int64_t now = lm_wall_s();
	assert_ok(sign(place.storage, &keys, &request, &err), &err);
	assert_false(result.manifest_signed);
	assert_in_range(result.whitelist.expires_s, now + 100 * 86400, now + 100 * 86400 + 60);
	assert_same_file(place.storage, LM_MANIFEST_NAME, &manifest);
	assert_valid(place.storage, keys.master);
	assert_true(allows(place.storage, &other));

	/* What was added stays; again is no second time. */
	request = (struct lm_sign_request){.days = 1, .add = &other, .add_count = 1};
	assert_ok(sign(place.storage, &keys, &request, &err), &err);
	assert_int_equal(result.whitelist.count, 2);
	request = (struct lm_sign_request){.days = 1, .remove = &other, .remove_count = 1};
	assert_ok(sign(place.storage, &keys, &request, &err), &err);
	assert_int_equal(result.whitelist.count, 1);
	assert_false(allows(place.storage, &other));
	assert_int_equal(sign(place.storage, &keys, &request, &err), -ENOENT);
	assert_valid(place.storage, keys.master);

	/* Only the manifest is asked for in addition: the same content, later. */
	struct lm_manifest before = result.manifest;
	request = (struct lm_sign_request){.days = 1, .manifest = true};
	assert_ok(sign(place.storage, &keys, &request, &err), &err);
	assert_true(result.manifest_signed);
	assert_int_equal(result.manifest.revision, before.revision);
	assert_true(lm_hash_equal(&result.manifest.catalog, &before.catalog));
	assert_true(result.manifest.published_s > before.published_s);
	assert_valid(place.storage, keys.master);
}

static void test_expired(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct lm_manifest manifest;
	create_valid_for(&place, 0);
	assert_int_equal(client_verdict(place.storage, FQRN, keys.master, &manifest, &err), -EKEYEXPIRED);
	struct lm_sign_request request = {.days = 30};
	assert_ok(sign(place.storage, &keys, &request, &err), &err);
	assert_valid(place.storage, keys.master);
}

static void look(void *arg)
{
	assert_valid(((struct watch *)arg)->inner, keys.master);
}

/* To another certificate and, later, away from the first one: valid for a client after each write. */
static void test_change_certificate(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct lm_hash first = fingerprint(keys.cert), second = fingerprint(next.cert);
	create(&place);
	struct watch watch = watch_storage(place.storage);
	watch.changed = look;
	watch.arg = &watch;
	struct lm_sign_request request = {.days = 30};
	assert_int_equal(begins(place.storage, &next), -EBADMSG);
	assert_ok(sign(&watch.storage, &next, &request, &err), &err);
	assert_true(watch.changes >= 4);
	assert_true(result.manifest_signed);
	assert_true(allows(place.storage, &first) && allows(place.storage, &second));
	assert_int_equal(begins(place.storage, &keys), -EBADMSG);
	assert_int_equal(begins(place.storage, &next), 0);
	request.only_ours = true;
	assert_ok(sign(&watch.storage, &next, &request, &err), &err);
	assert_false(result.manifest_signed);
	assert_false(allows(place.storage, &first));
	assert_int_equal(result.whitelist.count, 1);

	/* And back in one go. */
	assert_ok(sign(&watch.storage, &keys, &request, &err), &err);
	assert_true(result.manifest_signed);
	assert_true(allows(place.storage, &first) && !allows(place.storage, &second));
	assert_int_equal(begins(place.storage, &keys), 0);
}

static void test_faults(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct lm_sign_request request = {.days = 30, .only_ours = true};
	unsigned failures = 0;
	int r = -1;
	create(&place);
	for (unsigned at = 1; r < 0; at++) {
		struct watch watch = watch_storage(place.storage);
		watch.changed = look;
		watch.arg = &watch;
		watch.fail_at = at;
		/* Back and forth, so that there is always the whole way to go. */
		const struct lm_repo_keys *to = begins(place.storage, &keys) == 0 ? &next : &keys;
		r = sign(&watch.storage, to, &request, &err);
		assert_true(r == 0 || r == -EIO);
		failures += r < 0;
		assert_valid(place.storage, keys.master);
		if (r < 0)
			assert_ok(sign(place.storage, to, &request, &err), &err);
		assert_int_equal(begins(place.storage, to), 0);
		assert_int_equal(result.whitelist.count, 1);
	}
	assert_true(failures >= 5); /* whitelist, certificate, sync, reflog, manifest, whitelist */
}

/* One bit of the byte there, or of the last one, which is the signature's. */
static void damage(struct lm_storage *storage, const char *path, size_t at)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	get_file(storage, path, &text);
	text.data[at < text.len ? at : text.len - 1] ^= 1;
	assert_ok(storage->ops->put(storage, path, text.data, text.len, &err), &err);
}

/* Nothing that is not ours gets a signature. */
static void test_refused(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_buf_done) struct lm_buf manifest = {0}, whitelist = {0};
	struct lm_sign_request request = {.days = 30};
	struct lm_hash own = fingerprint(keys.cert);
	create(&place);
	get_file(place.storage, LM_MANIFEST_NAME, &manifest);
	get_file(place.storage, LM_WHITELIST_NAME, &whitelist);

	assert_int_equal(sign(place.storage, &stranger, &request, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "not validly signed"));
	struct lm_repo_keys mixed = {.key = keys.key, .cert = next.cert, .master = keys.master};
	assert_int_equal(sign(place.storage, &mixed, &request, &err), -EINVAL);
	mixed = (struct lm_repo_keys){.key = keys.key, .cert = keys.cert};
	assert_int_equal(sign(place.storage, &mixed, &request, &err), -EINVAL);
	request.days = 0;
	assert_int_equal(sign(place.storage, &keys, &request, &err), -EINVAL);
	request.days = LM_WHITELIST_DAYS_MAX + 1;
	assert_int_equal(sign(place.storage, &keys, &request, &err), -EINVAL);
	request = (struct lm_sign_request){.days = 30, .remove = &own, .remove_count = 1};
	assert_int_equal(sign(place.storage, &keys, &request, &err), -EINVAL);
	assert_int_equal(lm_repo_sign(place.storage, &keys, "other.example.org", &(struct lm_sign_request){.days = 1},
				 &result, &err),
		-EPROTO);
	static struct lm_hash many[LM_FINGERPRINTS_MAX];
	for (size_t i = 0; i < LM_FINGERPRINTS_MAX; i++)
		assert_int_equal(lm_hash_data(LM_HASH_SHA1, &i, sizeof(i), &many[i], NULL), 0);
	request = (struct lm_sign_request){.days = 30, .add = many, .add_count = LM_FINGERPRINTS_MAX};
	assert_int_equal(sign(place.storage, &keys, &request, &err), -EINVAL);
	assert_same_file(place.storage, LM_MANIFEST_NAME, &manifest);
	assert_same_file(place.storage, LM_WHITELIST_NAME, &whitelist);

	/* One less fits, and can be renewed. */
	request.add_count = LM_FINGERPRINTS_MAX - 1;
	assert_ok(sign(place.storage, &keys, &request, &err), &err);
	assert_int_equal(result.whitelist.count, LM_FINGERPRINTS_MAX);
	assert_ok(sign(place.storage, &keys, &(struct lm_sign_request){.days = 30}, &err), &err);
	/* But no certificate can be changed without room for both. */
	assert_int_equal(sign(place.storage, &next, &(struct lm_sign_request){.days = 30}, &err), -EINVAL);
	assert_valid(place.storage, keys.master);

	damage(place.storage, LM_MANIFEST_NAME, SIZE_MAX);
	request = (struct lm_sign_request){.days = 30, .only_ours = true};
	assert_int_equal(sign(place.storage, &keys, &request, &err), -EBADMSG);
	assert_ok(place.storage->ops->remove(place.storage, LM_MANIFEST_NAME, &err), &err);
	assert_int_equal(sign(place.storage, &keys, &request, &err), -ENOENT);
}

/* A whitelist that is damaged, lost, or another's: only the manifest's own signature counts then, and nothing is kept.
 */
static void test_lost_whitelist(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct lm_sign_request keep = {.days = 30}, anew = {.days = 30, .only_ours = true};
	create(&place);
	damage(place.storage, LM_WHITELIST_NAME, 200);
	assert_int_equal(sign(place.storage, &keys, &keep, &err), -EBADMSG);
	assert_int_equal(sign(place.storage, &next, &anew, &err), -EBADMSG); /* nor the manifest is next's */
	assert_ok(sign(place.storage, &keys, &anew, &err), &err);
	assert_valid(place.storage, keys.master);
	assert_ok(place.storage->ops->remove(place.storage, LM_WHITELIST_NAME, &err), &err);
	assert_int_equal(sign(place.storage, &keys, &keep, &err), -ENOENT);
	assert_ok(sign(place.storage, &keys, &anew, &err), &err);
	assert_valid(place.storage, keys.master);
	assert_false(result.manifest_signed);
}

/* Another master key: the one before vouches for what is there. */
static void test_change_master(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct lm_manifest manifest;
	struct lm_key *trusted[] = {stranger.key, keys.master};
	create(&place);
	struct lm_repo_keys changed = {.key = keys.key, .cert = keys.cert, .master = stranger.master};
	struct lm_sign_request request = {.days = 30, .trusted = trusted, .trusted_count = 1};
	assert_int_equal(sign(place.storage, &changed, &request, &err), -EBADMSG);
	request.trusted_count = 2;
	assert_ok(sign(place.storage, &changed, &request, &err), &err);
	assert_valid(place.storage, stranger.master);
	assert_int_equal(client_verdict(place.storage, FQRN, keys.master, &manifest, &err), -EBADMSG);
}

static void test_locked(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_storage_freep) struct lm_storage *other = NULL;
	create(&place);
	assert_ok(lm_storage_dir_open(place.dir, false, &other, &err), &err);
	assert_int_equal(sign(other, &keys, &(struct lm_sign_request){.days = 30}, &err), -EBUSY);
}

/* A whitelist with fingerprints of another kind, as mixed repositories have. */
static void test_other_algorithm(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(place_done) struct place place;
	struct lm_hash rmd;
	create(&place);
	int r = lm_cert_fingerprint(keys.cert, LM_HASH_RMD160, &rmd, &err);
	if (r == -EOPNOTSUPP)
		skip();
	assert_ok(r, &err);
	struct lm_hash sha1 = fingerprint(keys.cert);
	struct lm_sign_request request = {.days = 30, .add = &rmd, .add_count = 1};
	assert_ok(sign(place.storage, &keys, &request, &err), &err);
	assert_int_equal(result.whitelist.count, 2);
	/* Our own, under whatever name, cannot go by accident. */
	request = (struct lm_sign_request){.days = 30, .remove = &rmd, .remove_count = 1};
	assert_int_equal(sign(place.storage, &keys, &request, &err), -EINVAL);
	request.remove = &sha1;
	assert_int_equal(sign(place.storage, &keys, &request, &err), -EINVAL);
	assert_valid(place.storage, keys.master);
}

static void make_pair(struct lm_repo_keys *ret)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_key_generate(2048, &ret->key, &err), &err);
	assert_ok(lm_cert_make(ret->key, FQRN, &ret->cert, &err), &err);
}

static int setup(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	base = temp_dir();
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/keys", base);
	assert_ok(lm_repo_keys_make(dir, FQRN, &keys, &err), &err);
	make_pair(&next);
	make_pair(&stranger);
	next.master = keys.master; /* shared */
	assert_ok(lm_key_generate(2048, &stranger.master, &err), &err);
	return 0;
}

static int teardown(void **state)
{
	next.master = NULL;
	lm_repo_keys_done(&keys);
	lm_repo_keys_done(&next);
	lm_repo_keys_done(&stranger);
	temp_dir_remove(&base);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_renew),
		cmocka_unit_test(test_expired),
		cmocka_unit_test(test_change_certificate),
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_lost_whitelist),
		cmocka_unit_test(test_change_master),
		cmocka_unit_test(test_locked),
		cmocka_unit_test(test_other_algorithm),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
