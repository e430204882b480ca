#include "repo/trust.h"

#include "base/str.h"
#include "repo/object.h"

enum { OBJECT_MAX = LM_PEM_MAX + 1024 }; /* a certificate as stored: zlib may grow what does not shrink */

/* Printed hash of a manifest or whitelist against its text: everything that is signed hangs on this line. */
static int check_printed_hash(const char *text, const struct lm_signed_text *split, struct lm_err *err)
{
	struct lm_hash printed, actual;
	int r = lm_hash_parse(split->hash_text, split->hash_text_len, &printed, err);
	if (r < 0)
		return lm_err_prefix(err, r, "printed hash");
	r = lm_hash_data(printed.algo, text, split->body_len, &actual, err);
	if (r < 0)
		return r;
	if (!lm_hash_equal(&printed, &actual))
		return lm_err_set(err, -EBADMSG, "the printed hash is %s, that of the text %s",
			lm_hash_text(&printed).s, lm_hash_text(&actual).s);
	return 0;
}

/* What needs nothing but the manifest itself and what is known already. */
static int check_fields(const struct lm_trust *trust, const struct lm_manifest *m, struct lm_err *err)
{
	if (strcmp(m->fqrn, trust->fqrn) != 0)
		return lm_err_set(err, -EPROTO, "it is of repository %s", m->fqrn[0] ? m->fqrn : "(no name)");
	if (strcmp(m->root_path, LM_MANIFEST_ROOT_PATH) != 0)
		return lm_err_set(err, -EPROTO, "root path %s is not that of the repository's root", m->root_path);
	if (trust->known && m->published_s < trust->known->published_s)
		return lm_err_set(err, -ESTALE, "published at %lld, before the known root at %lld",
			(long long)m->published_s, (long long)trust->known->published_s);
	return 0;
}

static int fetch_certificate(
	const struct lm_hash *hash, lm_trust_fetch_fn *fetch, void *arg, struct lm_cert **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf stored = LM_BUF(OBJECT_MAX);
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX);
	if (!hash->set)
		return lm_err_set(err, -EPROTO, "the manifest names none");
	int r = fetch(arg, hash, &stored, err);
	if (r == 0)
		r = lm_unpack_buf(hash, LM_COMPRESSION_ZLIB, stored.data, stored.len, &pem, err);
	if (r == 0)
		r = lm_cert_parse(lm_buf_cstr(&pem), pem.len, ret, err);
	return r;
}

static int check_manifest_signature(const char *text, size_t len, const struct lm_cert *cert, struct lm_err *err)
{
	struct lm_signed_text split;
	int r = lm_signed_text_split(text, len, &split, err);
	if (r == 0)
		r = check_printed_hash(text, &split, err);
	if (r == 0)
		r = lm_verify_manifest(
			cert, split.hash_text, split.hash_text_len, split.signature, split.signature_len, err);
	return r;
}

static int check_master_signature(const struct lm_trust *trust, const struct lm_signed_text *split, struct lm_err *err)
{
	for (size_t i = 0; i < trust->key_count; i++) {
		struct lm_err reason = LM_ERR_INIT;
		int r = lm_verify_whitelist(trust->keys[i], split->hash_text, split->hash_text_len, split->signature,
			split->signature_len, &reason);
		if (r != -EBADMSG)
			return r < 0 ? lm_err_set(err, r, "%s", reason.msg) : 0;
	}
	return lm_err_set(err, -EBADMSG, "the signature is by none of %zu master keys", trust->key_count);
}

static int check_whitelist(const struct lm_trust *trust, const struct lm_whitelist *whitelist, const char *text,
	size_t len, struct lm_err *err)
{
	if (lm_whitelist_expired(whitelist, trust->now_s))
		return lm_err_set(err, -EKEYEXPIRED, "expired at %lld, now is %lld", (long long)whitelist->expires_s,
			(long long)trust->now_s);
	if (strcmp(whitelist->fqrn, trust->fqrn) != 0)
		return lm_err_set(err, -EPROTO, "it is of repository %s", whitelist->fqrn);
	struct lm_signed_text split;
	int r = lm_signed_text_split(text, len, &split, err);
	if (r == 0)
		r = check_printed_hash(text, &split, err);
	if (r == 0)
		r = check_master_signature(trust, &split, err);
	return r;
}

int lm_trust_whitelist(
	const struct lm_trust *trust, const char *text, size_t len, struct lm_whitelist *ret, struct lm_err *err)
{
	int r = lm_whitelist_parse(text, len, ret, err);
	if (r < 0)
		return r;
	r = check_whitelist(trust, ret, text, len, err);
	return r < 0 ? lm_err_prefix(err, r, "whitelist") : 0;
}

static int fetch_whitelist(
	const struct lm_trust *trust, lm_trust_fetch_fn *fetch, void *arg, struct lm_whitelist *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	int r = fetch(arg, &(struct lm_hash){0}, &text, err);
	if (r < 0)
		return lm_err_prefix(err, r, "whitelist");
	return lm_trust_whitelist(trust, lm_buf_cstr(&text), text.len, ret, err);
}

/* One line of a blacklist. */
struct ban {
	struct lm_hash fingerprint; /* unset: a ban of revisions */
	char fqrn[LM_FQRN_MAX + 1];
	uint64_t below;
};

/* "<FQRN REVISION" */
static int parse_revision_ban(const char *line, size_t len, struct ban *ret)
{
	const char *blank = memchr(line, ' ', len);
	size_t name_len = blank ? (size_t)(blank - line) - 1 : 0;
	if (name_len == 0 || name_len > LM_FQRN_MAX)
		return -EPROTO;
	memcpy(ret->fqrn, line + 1, name_len);
	return lm_str_u64(blank + 1, len - name_len - 2, &ret->below);
}

/* 1: one more in *ret, 0: end. Lines that cannot be understood are refused, since they were meant to forbid something.
 */
static int next_ban(const char **at, struct ban *ret, struct lm_err *err)
{
	while (**at) {
		const char *line = *at;
		size_t len = strcspn(line, "\n");
		*at += len + (line[len] == '\n');
		while (len > 0 && strchr(" \t\r", line[len - 1]))
			len--;
		*ret = (struct ban){0};
		int r = len > 0 && line[0] == '<' ? parse_revision_ban(line, len, ret)
						  : lm_fingerprint_parse(line, len, &ret->fingerprint);
		if (r < 0)
			return lm_err_set(err, -EPROTO, "blacklist: neither fingerprint nor revision: %.*s",
				(int)LM_MIN(len, (size_t)80), line);
		if (r > 0 || ret->fqrn[0])
			return 1;
	}
	return 0;
}

/* 1 or 0. */
static int fingerprint_is(const struct lm_cert *cert, const struct lm_hash *wanted, struct lm_err *err)
{
	struct lm_hash actual;
	int r = lm_cert_fingerprint(cert, wanted->algo, &actual, err);
	return r < 0 ? r : lm_hash_equal(&actual, wanted);
}

static int check_not_banned(const struct lm_trust *trust, const struct lm_cert *cert, struct lm_err *err)
{
	struct ban ban;
	const char *at = trust->blacklist ? trust->blacklist : "";
	int r;
	while ((r = next_ban(&at, &ban, err)) > 0) {
		r = ban.fingerprint.set ? fingerprint_is(cert, &ban.fingerprint, err) : 0;
		if (r > 0)
			return lm_err_set(err, -EKEYREJECTED, "its fingerprint is blacklisted");
		if (r < 0)
			return r;
	}
	return r;
}

static int check_certificate(const struct lm_trust *trust, const struct lm_cert *cert,
	const struct lm_whitelist *whitelist, struct lm_err *err)
{
	int r = check_not_banned(trust, cert, err);
	for (size_t i = 0; r == 0 && i < whitelist->count; i++)
		r = fingerprint_is(cert, &whitelist->fingerprints[i], err);
	if (r < 0)
		return r;
	return r ? 0 : lm_err_set(err, -EKEYREJECTED, "its fingerprint is not on the whitelist");
}

int lm_trust_revision(const struct lm_trust *trust, uint64_t revision, struct lm_err *err)
{
	struct ban ban;
	const char *at = trust->blacklist ? trust->blacklist : "";
	int r;
	while ((r = next_ban(&at, &ban, err)) > 0)
		if (!ban.fingerprint.set && strcmp(ban.fqrn, trust->fqrn) == 0 && revision < ban.below)
			return lm_err_set(err, -EKEYREJECTED, "revision %llu is blacklisted, as all below %llu",
				(unsigned long long)revision, (unsigned long long)ban.below);
	return r;
}

static int has_banned_fingerprints(const struct lm_trust *trust, struct lm_err *err)
{
	struct ban ban;
	const char *at = trust->blacklist ? trust->blacklist : "";
	int r;
	while ((r = next_ban(&at, &ban, err)) > 0)
		if (ban.fingerprint.set)
			break;
	return r;
}

/* A root is taken when it is newer than the known one, or the very same. */
static int check_newer(const struct lm_manifest *known, const struct lm_manifest *m, struct lm_err *err)
{
	if (!known || m->revision > known->revision)
		return 0;
	if (m->revision == known->revision && (m->revision == 0 || lm_hash_equal(&m->catalog, &known->catalog)))
		return 0;
	return lm_err_set(err, -ESTALE, "revision %llu is not above the known %llu", (unsigned long long)m->revision,
		(unsigned long long)known->revision);
}

int lm_trust_again(const struct lm_trust *trust, const struct lm_manifest *accepted, lm_trust_fetch_fn *fetch,
	void *arg, struct lm_err *err)
{
	CLEANUP(lm_cert_freep) struct lm_cert *cert = NULL;
	int r = has_banned_fingerprints(trust, err);
	if (r > 0)
		r = fetch_certificate(&accepted->certificate, fetch, arg, &cert, err);
	if (r == 0 && cert)
		r = check_not_banned(trust, cert, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s: certificate", trust->fqrn);
	r = lm_trust_revision(trust, accepted->revision, err);
	return r < 0 ? lm_err_prefix(err, r, "%s", trust->fqrn) : 0;
}

static int check_signatures(const struct lm_trust *trust, const struct lm_manifest *m, const char *text, size_t len,
	lm_trust_fetch_fn *fetch, void *arg, struct lm_err *err)
{
	CLEANUP(lm_cert_freep) struct lm_cert *cert = NULL;
	struct lm_whitelist whitelist;
	int r = fetch_certificate(&m->certificate, fetch, arg, &cert, err);
	if (r < 0)
		return lm_err_prefix(err, r, "certificate");
	r = check_manifest_signature(text, len, cert, err);
	if (r < 0)
		return lm_err_prefix(err, r, "manifest");
	r = fetch_whitelist(trust, fetch, arg, &whitelist, err);
	if (r < 0)
		return r;
	r = check_certificate(trust, cert, &whitelist, err);
	return r < 0 ? lm_err_prefix(err, r, "certificate") : 0;
}

int lm_trust_manifest(const struct lm_trust *trust, const char *text, size_t len, lm_trust_fetch_fn *fetch, void *arg,
	struct lm_manifest *ret, struct lm_err *err)
{
	struct lm_manifest manifest;
	int r = lm_manifest_parse(text, len, &manifest, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", trust->fqrn);
	r = check_fields(trust, &manifest, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s: manifest", trust->fqrn);

	const struct lm_manifest *known = trust->known;
	if (known && known->certificate.set && lm_hash_equal(&known->catalog, &manifest.catalog)) {
		manifest = *known; /* the new text's other fields are unchecked */
		r = lm_trust_again(trust, known, fetch, arg, err);
		if (r < 0)
			return r;
	} else {
		r = check_signatures(trust, &manifest, text, len, fetch, arg, err);
		if (r < 0)
			return lm_err_prefix(err, r, "%s", trust->fqrn);
		r = check_newer(known, &manifest, err);
		if (r < 0)
			return lm_err_prefix(err, r, "%s: manifest", trust->fqrn);
		r = lm_trust_revision(trust, manifest.revision, err);
		if (r < 0)
			return lm_err_prefix(err, r, "%s", trust->fqrn);
	}
	*ret = manifest;
	return 0;
}
