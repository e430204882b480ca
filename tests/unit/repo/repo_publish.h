/* What the tests of publishing share: repositories of our own and adopted ones, read back as a client and as a checker
 * would. A test file has one set of keys and one temporary directory. */
#ifndef LM_TESTS_REPO_PUBLISH_H
#define LM_TESTS_REPO_PUBLISH_H

#include "base/clock.h"
#include "repo/history.h"
#include "repo/object_store.h"
#include "repo/publish_internal.h"
#include "repo/reflog.h"
#include "repo/trust.h"
#include "repo/whitelist.h"
#include "repo_tree.h"

#define FQRN "test.example.org"

static char *base; /* a temporary directory for all tests */
static struct lm_repo_keys keys;

struct place {
	char *dir;
	struct lm_storage *storage;
	char fqrn[LM_FQRN_MAX + 1];
};

static inline int publish_setup(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	(void)state;
	base = temp_dir();
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/keys", base);
	assert_ok(lm_repo_keys_make(dir, FQRN, &keys, &err), &err);
	return 0;
}

static inline int publish_teardown(void **state)
{
	(void)state;
	lm_repo_keys_done(&keys);
	temp_dir_remove(&base);
	return 0;
}

static inline void place_init(struct place *place)
{
	static unsigned count;
	struct lm_err err = LM_ERR_INIT;
	place->dir = lm_str_printf("%s/repo.%u", base, count++);
	snprintf(place->fqrn, sizeof(place->fqrn), FQRN);
	assert_ok(lm_storage_dir_open(place->dir, true, &place->storage, &err), &err);
}

static inline void place_done(struct place *place)
{
	lm_storage_free(place->storage);
	free(place->dir);
}

static inline void create(struct place *place, struct lm_manifest *ret)
{
	struct lm_err err = LM_ERR_INIT;
	place_init(place);
	assert_ok(lm_repo_create(place->storage, &keys, place->fqrn, 30, 300, NULL, ret, &err), &err);
}

static inline void begin(struct place *place, struct lm_txn **ret)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_txn_begin(place->storage, &keys, place->fqrn, ret, &err), &err);
}

static inline void commit(struct lm_txn **txn, struct lm_manifest *ret)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_txn_commit(*txn, ret, &err), &err);
	lm_txn_freep(txn);
}

static inline void put(struct lm_txn *txn, const char *path, const char *content)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_txn_put_data(txn, path, content, strlen(content), &err), &err);
}

static inline void mkdirs(struct lm_txn *txn, const char *path, bool nested)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_txn_mkdirs(txn, path, nested, &err), &err);
}

static inline void take_away(struct lm_txn *txn, const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_txn_remove(txn, path, &err), &err);
}

/*
 * Reading back
 */

static inline int fetch_for_trust(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err)
{
	struct lm_storage *storage = arg;
	char path[LM_OBJECT_PATH_MAX];
	return storage->ops->get(storage,
		certificate->set ? lm_object_path(certificate, LM_OBJECT_CERTIFICATE, path) : LM_WHITELIST_NAME, ret,
		err);
}

static inline void read_manifest(struct lm_storage *storage, struct lm_buf *ret)
{
	struct lm_err err = LM_ERR_INIT;
	*ret = LM_BUF(LM_MANIFEST_MAX);
	assert_ok(storage->ops->get(storage, LM_MANIFEST_NAME, ret, &err), &err);
}

static inline void load_public_key(struct lm_key **ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/keys/" FQRN ".pub", base);
	CLEANUP(lm_buf_done) struct lm_buf pem = {0};
	read_whole(path, &pem);
	assert_ok(lm_key_parse_public(lm_buf_cstr(&pem), pem.len, ret, &err), &err);
}

/* The private copy that functions on files want; the caller frees its name. */
static inline char *copy_out(struct lm_storage *storage, const char *name)
{
	static unsigned count;
	struct lm_err err = LM_ERR_INIT;
	char *path = lm_str_printf("%s/copy.%u", base, count++);
	CLEANUP(lm_closep) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_ok(storage->ops->get_file(storage, name, fd, &err), &err);
	return path;
}

struct ref_search {
	struct lm_hash wanted;
	enum lm_ref_type type;
	bool found;
};

static inline int ref_compare(void *arg, const struct lm_ref *ref)
{
	struct ref_search *search = arg;
	search->found |= ref->type == search->type && lm_hash_equal(&ref->hash, &search->wanted);
	return 0;
}

static inline bool reflog_names(const char *path, const struct lm_hash *hash, enum lm_ref_type type)
{
	struct lm_err err = LM_ERR_INIT;
	struct ref_search search = {.wanted = *hash, .type = type};
	assert_ok(lm_reflog_each(path, ref_compare, &search, &err), &err);
	return search.found;
}

/* It names what the manifest names; returns whether Y is its hash. */
static inline bool check_reflog(struct lm_storage *storage, const struct lm_manifest *m)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = copy_out(storage, LM_REFLOG_NAME);
	CLEANUP(lm_buf_done) struct lm_buf data = {0};
	struct lm_hash hash;
	read_whole(path, &data);
	assert_true(m->reflog.set);
	assert_ok(lm_hash_data(m->reflog.algo, data.data, data.len, &hash, &err), &err);
	assert_true(reflog_names(path, &m->catalog, LM_REF_CATALOG));
	assert_true(reflog_names(path, &m->certificate, LM_REF_CERTIFICATE));
	assert_true(reflog_names(path, &m->history, LM_REF_HISTORY));
	assert_true(reflog_names(path, &m->metainfo, LM_REF_METAINFO));
	unlink(path);
	return lm_hash_equal(&hash, &m->reflog);
}

/* As a client: the manifest is trusted; as the checker: nothing is wrong with the tree. listing may be NULL. Returns
 * whether the reflog is the one that the manifest names: whoever was killed may have left one that is ahead. */
static inline bool check_killed(struct place *place, struct lm_manifest *ret, struct lm_buf *listing)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	CLEANUP(lm_key_freep) struct lm_key *key = NULL;
	load_public_key(&key);
	read_manifest(place->storage, &text);
	struct lm_trust trust = {.fqrn = place->fqrn, .keys = &key, .key_count = 1, .now_s = lm_wall_s()};
	assert_ok(lm_trust_manifest(&trust, lm_buf_cstr(&text), text.len, fetch_for_trust, place->storage, ret, &err),
		&err);
	assert_int_equal(tree_walk(place->storage, &ret->catalog, ret->catalog_size, listing), 0);
	return check_reflog(place->storage, ret);
}

/* All of it, with the content of every object. */
static inline void check(struct place *place, struct lm_manifest *ret, struct lm_buf *listing)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_key_freep) struct lm_key *key = NULL;
	CLEANUP(temp_dir_remove) char *scratch = temp_dir();
	struct lm_check_result result;
	assert_true(check_killed(place, ret, listing));
	load_public_key(&key);
	const struct lm_check_options options = {.fqrn = place->fqrn,
		.keys = &key,
		.key_count = 1,
		.now_s = lm_wall_s(),
		.objects = true,
		.tags = true,
		.scratch = scratch};
	assert_ok(lm_repo_check(place->storage, &options, tree_print_finding, NULL, &result, &err), &err);
	assert_int_equal(result.levels[LM_CHECK_PROBLEM], 0);
	assert_int_equal(result.levels[LM_CHECK_WARNING], 0);
}

/*
 * Repositories of others
 */

static inline void sign_and_put(struct place *place, struct lm_manifest *manifest)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX);
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(LM_MANIFEST_MAX);
	CLEANUP(lm_packer_freep) struct lm_packer *packer = NULL;
	assert_ok(lm_cert_format(keys.cert, &pem, &err), &err);
	assert_ok(lm_packer_new(manifest->catalog.algo, &packer, &err), &err);
	assert_ok(lm_object_store(place->storage, packer, LM_OBJECT_CERTIFICATE, pem.data, pem.len,
			  &manifest->certificate, &err),
		&err);
	assert_ok(lm_manifest_format(manifest, &out, &err), &err);
	assert_ok(lm_signed_text_sign(keys.key, lm_sign_manifest, &out, &err), &err);
	assert_ok(place->storage->ops->put(place->storage, LM_MANIFEST_NAME, out.data, out.len, &err), &err);
}

static inline void put_whitelist(struct place *place)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	CLEANUP(lm_freep) struct lm_whitelist *list = calloc(1, sizeof(*list));
	assert_non_null(list);
	list->created_s = lm_wall_s();
	list->expires_s = list->created_s + 86400;
	list->count = 1;
	memcpy(list->fqrn, place->fqrn, sizeof(list->fqrn));
	assert_ok(lm_cert_fingerprint(keys.cert, LM_HASH_SHA1, &list->fingerprints[0], &err), &err);
	assert_ok(lm_whitelist_format(list, &text, &err), &err);
	assert_ok(lm_signed_text_sign(keys.master, lm_sign_whitelist, &text, &err), &err);
	assert_ok(place->storage->ops->put(place->storage, LM_WHITELIST_NAME, text.data, text.len, &err), &err);
}

/* Unpacks a fixture and signs it with our keys. */
static inline void adopt(struct place *place, const char *fqrn, struct lm_manifest *ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	static unsigned count;
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/adopted.%u", base, count++);
	assert_int_equal(mkdir(dir, 0755), 0);
	unpack_fixture(fqrn, dir);
	place->dir = lm_str_printf("%s/%s", dir, fqrn);
	snprintf(place->fqrn, sizeof(place->fqrn), "%s", fqrn);
	assert_ok(lm_storage_dir_open(place->dir, false, &place->storage, &err), &err);
	read_manifest(place->storage, &text);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, ret, &err), &err);
	put_whitelist(place);
	sign_and_put(place, ret);
}

/* Says where two listings differ, not only that they do. */
static inline void assert_listing(const char *expected, const char *found)
{
	while (*expected && *expected == *found) {
		const char *end = strchr(expected, '\n');
		size_t len = end ? (size_t)(end - expected) + 1 : strlen(expected);
		if (strncmp(expected, found, len) != 0)
			break;
		expected += len;
		found += len;
	}
	if (*expected || *found)
		fail_msg("expected: %.*s\nfound:    %.*s", (int)strcspn(expected, "\n"), expected,
			(int)strcspn(found, "\n"), found);
}

/* Without the lines of markers. */
static inline void drop_markers(struct lm_buf *listing)
{
	size_t kept = 0;
	for (size_t at = 0; at < listing->len;) {
		const char *line = (const char *)listing->data + at;
		size_t len = strcspn(line, "\n") + 1;
		static const char marker[] = "/.cvmfscatalog\n";
		if (len < sizeof(marker) || strncmp(line + len - sizeof(marker) + 1, marker, sizeof(marker) - 1) != 0) {
			memmove(listing->data + kept, line, len);
			kept += len;
		}
		at += len;
	}
	listing->len = kept;
	listing->data[kept] = '\0';
}

#endif
