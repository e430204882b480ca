#include "repo/sign.h"

#include "base/clock.h"
#include "repo/object_store.h"
#include "repo/publish_internal.h"
#include "repo/trust.h"

enum { DAY_S = 86400 };

/*
 * What is there
 */

struct present {
	struct lm_cert *cert; /* that the manifest is signed by */
	struct lm_whitelist whitelist;
};

static void present_done(struct present *present)
{
	lm_cert_free(present->cert);
}

static int fetch_signed(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err)
{
	struct lm_storage *storage = arg;
	char path[LM_OBJECT_PATH_MAX] = LM_WHITELIST_NAME;
	if (certificate->set)
		lm_object_path(certificate, LM_OBJECT_CERTIFICATE, path);
	return storage->ops->get(storage, path, ret, err);
}

/* As a client checks it, but for the whitelist's expiry: that is to be cured. */
static int check_chain(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const struct lm_sign_request *request, struct lm_manifest *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	CLEANUP(lm_freep) struct lm_key **masters = calloc(request->trusted_count + 1, sizeof(struct lm_key *));
	if (!masters)
		return lm_err_oom(err);
	masters[0] = keys->master;
	for (size_t i = 0; i < request->trusted_count; i++)
		masters[i + 1] = request->trusted[i];
	struct lm_trust trust = {
		.fqrn = fqrn, .keys = masters, .key_count = request->trusted_count + 1, .now_s = INT64_MIN};
	int r = storage->ops->get(storage, LM_MANIFEST_NAME, &text, err);
	return r < 0 ? r : lm_trust_manifest(&trust, lm_buf_cstr(&text), text.len, fetch_signed, storage, ret, err);
}

static int read_whitelist(struct lm_storage *storage, struct lm_whitelist *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	int r = storage->ops->get(storage, LM_WHITELIST_NAME, &text, err);
	return r < 0 ? r : lm_whitelist_parse(lm_buf_cstr(&text), text.len, ret, err);
}

static int read_cert(struct lm_storage *storage, const struct lm_hash *hash, struct lm_cert **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX);
	int r = lm_object_load(storage, hash, LM_OBJECT_CERTIFICATE, LM_COMPRESSION_ZLIB, &pem, err);
	return r < 0 ? r : lm_cert_parse(lm_buf_cstr(&pem), pem.len, ret, err);
}

static int read_present(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const struct lm_sign_request *request, struct present *ret, struct lm_err *err)
{
	struct lm_manifest manifest;
	int r = check_chain(storage, keys, fqrn, request, &manifest, err);
	if (r == 0)
		r = read_whitelist(storage, &ret->whitelist, err);
	return r < 0 ? r : read_cert(storage, &manifest.certificate, &ret->cert, err);
}

/* Verdicts on signed text, not failures of the machine. */
static bool is_verdict(int r)
{
	return r == -ENOENT || r == -EBADMSG || r == -EPROTO || r == -EKEYREJECTED;
}

/* Begins with the certificate that the manifest is signed by now, and goes on with the one it shall be signed by. */
static int begin(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const struct present *present, struct lm_txn **ret, struct lm_err *err)
{
	struct lm_repo_keys now = {.key = keys->key, .cert = present->cert ? present->cert : keys->cert};
	int r = lm_txn_begin(storage, &now, fqrn, ret, err);
	if (r == 0)
		(*ret)->keys = keys;
	return r;
}

static int open_present(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const struct lm_sign_request *request, struct present *ret, struct lm_txn **ret_txn, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	int r = storage->ops->lock(storage, NULL, err);
	if (r < 0)
		return r;
	r = read_present(storage, keys, fqrn, request, ret, &why);
	if (r == 0)
		return begin(storage, keys, fqrn, ret, ret_txn, err);
	/* Without a whitelist to build on, a manifest that our own key has signed is known to be ours. */
	if (is_verdict(r) && request->only_ours && begin(storage, keys, fqrn, ret, ret_txn, NULL) == 0)
		return 0;
	return lm_err_set(err, r, "what is there is not validly signed: %s", lm_err_text(&why));
}

/*
 * Fingerprints
 */

static int add_fingerprint(struct lm_whitelist *list, const struct lm_hash *fingerprint, struct lm_err *err)
{
	for (size_t i = 0; i < list->count; i++)
		if (lm_hash_equal(&list->fingerprints[i], fingerprint))
			return 0;
	if (list->count == LM_FINGERPRINTS_MAX)
		return lm_err_set(err, -EINVAL, "more than %d fingerprints", LM_FINGERPRINTS_MAX);
	list->fingerprints[list->count++] = *fingerprint;
	return 0;
}

/* Whether it is one of the certificate's: 1 or 0. */
static int is_of(const struct lm_hash *fingerprint, const struct lm_cert *cert, struct lm_err *err)
{
	struct lm_hash own;
	int r = lm_cert_fingerprint(cert, fingerprint->algo, &own, err);
	return r < 0 ? r : lm_hash_equal(&own, fingerprint);
}

static int allow(struct lm_whitelist *list, const struct lm_cert *cert, enum lm_hash_algo algo, struct lm_err *err)
{
	struct lm_hash own;
	int r = 0;
	for (size_t i = 0; i < list->count && r == 0; i++)
		r = is_of(&list->fingerprints[i], cert, err);
	if (r != 0)
		return r < 0 ? r : 0;
	r = lm_cert_fingerprint(cert, algo, &own, err);
	return r < 0 ? r : add_fingerprint(list, &own, err);
}

static int remove_fingerprint(
	struct lm_whitelist *list, const struct lm_hash *fingerprint, const struct lm_cert *ours, struct lm_err *err)
{
	struct lm_hash_text text = lm_hash_text(fingerprint);
	int r = is_of(fingerprint, ours, err);
	if (r < 0)
		return r;
	if (r > 0)
		return lm_err_set(err, -EINVAL, "fingerprint %s is that of the certificate in use", text.s);
	for (size_t i = 0; i < list->count; i++) {
		if (!lm_hash_equal(&list->fingerprints[i], fingerprint))
			continue;
		list->count--;
		memmove(&list->fingerprints[i], &list->fingerprints[i + 1],
			(list->count - i) * sizeof(list->fingerprints[0]));
		return 0;
	}
	return lm_err_set(err, -ENOENT, "fingerprint %s is not on the whitelist", text.s);
}

/* The list as it shall be in the end. */
static int make_list(struct lm_txn *txn, const struct present *present, const struct lm_sign_request *request,
	struct lm_whitelist *ret, struct lm_err *err)
{
	const struct lm_cert *ours = txn->keys->cert;
	enum lm_hash_algo algo = lm_txn_algo(txn);
	int r = 0;
	*ret = (struct lm_whitelist){.created_s = lm_wall_s()};
	ret->expires_s = ret->created_s + (int64_t)request->days * DAY_S;
	memcpy(ret->fqrn, txn->fqrn, sizeof(ret->fqrn));
	for (size_t i = 0; i < present->whitelist.count && !request->only_ours && r == 0; i++)
		r = add_fingerprint(ret, &present->whitelist.fingerprints[i], err);
	for (size_t i = 0; i < request->remove_count && r == 0; i++)
		r = remove_fingerprint(ret, &request->remove[i], ours, err);
	if (ret->count > 0)
		algo = ret->fingerprints[0].algo;
	if (r == 0)
		r = allow(ret, ours, algo, err);
	for (size_t i = 0; i < request->add_count && r == 0; i++)
		r = add_fingerprint(ret, &request->add[i], err);
	return r;
}

/*
 * The writes
 */

int lm_txn_put_whitelist(struct lm_txn *txn, const struct lm_whitelist *list, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	int r = lm_whitelist_format(list, &text, err);
	if (r == 0)
		r = lm_signed_text_sign(txn->keys->master, lm_sign_whitelist, &text, err);
	return r < 0 ? r : txn->storage->ops->put(txn->storage, LM_WHITELIST_NAME, text.data, text.len, err);
}

static int sign_manifest(struct lm_txn *txn, struct lm_manifest *ret, struct lm_err *err)
{
	ret->published_s = lm_txn_now(txn);
	return lm_txn_swap_manifest(txn, ret, err);
}

static int write_all(
	struct lm_txn *txn, const struct present *present, struct lm_sign_result *result, struct lm_err *err)
{
	CLEANUP(lm_freep) struct lm_whitelist *both = malloc(sizeof(*both));
	if (!both)
		return lm_err_oom(err);
	*both = result->whitelist;
	int r = 0;
	if (result->manifest_signed && present->cert)
		r = allow(both, present->cert, both->fingerprints[0].algo, err);
	if (r == 0)
		r = lm_txn_put_whitelist(txn, both, err);
	if (r == 0 && result->manifest_signed)
		r = sign_manifest(txn, &result->manifest, err);
	if (r == 0 && both->count != result->whitelist.count)
		r = lm_txn_put_whitelist(txn, &result->whitelist, err);
	return r;
}

static int sign(struct lm_txn *txn, const struct present *present, const struct lm_sign_request *request,
	struct lm_sign_result *ret, struct lm_err *err)
{
	struct lm_hash used;
	int r = make_list(txn, present, request, &ret->whitelist, err);
	if (r == 0)
		r = lm_cert_fingerprint(present->cert ? present->cert : txn->keys->cert, LM_HASH_SHA1, &used, err);
	if (r == 0)
		r = is_of(&used, txn->keys->cert, err);
	if (r < 0)
		return r;
	ret->manifest = txn->base;
	ret->manifest_signed = request->manifest || r == 0;
	return write_all(txn, present, ret, err);
}

static int check_request(const struct lm_repo_keys *keys, const struct lm_sign_request *request, struct lm_err *err)
{
	if (!keys->key || !keys->cert || !keys->master)
		return lm_err_set(err, -EINVAL, "that takes key, certificate and master key");
	if (!lm_cert_matches_key(keys->cert, keys->key))
		return lm_err_set(err, -EINVAL, "the certificate belongs to another key");
	if (request->days < 1 || request->days > LM_WHITELIST_DAYS_MAX)
		return lm_err_set(err, -EINVAL, "a whitelist is valid for 1 to %d days", LM_WHITELIST_DAYS_MAX);
	return 0;
}

int lm_repo_sign(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const struct lm_sign_request *request, struct lm_sign_result *ret, struct lm_err *err)
{
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(present_done) struct present present = {0};
	int r = check_request(keys, request, err);
	if (r == 0)
		r = open_present(storage, keys, fqrn, request, &present, &txn, err);
	if (r == 0)
		r = sign(txn, &present, request, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "signing %s", fqrn) : 0;
}
