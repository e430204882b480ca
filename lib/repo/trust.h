/*
 * From bytes of a manifest to a trusted root: every check a client makes, in the format's order.
 *
 * lm_trust_manifest() needs no network: whoever calls it has fetched the manifest, and passes the certificate object
 * and whitelist, or asks for them through `fetch`. Nothing of a manifest may be acted on before it returned 0.
 *
 * Where we are stricter than the stock client (2.12):
 *   - the blacklist is heeded also for a root that was accepted before and is still current, and without network;
 *     its lines that make no sense are refused, not passed over
 *   - a revision that is published again with another root catalog is refused by who knows the first one, as an older
 *     one is
 *   - known fields of a manifest must be well-formed (numbers, hashes, yes or no), keys be RSA of 1024 bits or more,
 *     certificate objects end where their zlib stream ends
 *   - a whitelist that asks for a PKCS#7 signature or a CA chain is refused, these checks being absent here
 *   - what a tag or date names is found by a manifest that is not older than those seen before
 *
 * Order: form and required fields; N is fqrn; R is the md5 of the empty path; T not older than known->published_s;
 * (same catalog as known: *ret is then *known, nothing else of the new text is used); certificate object's hash, PEM;
 * printed hash and signature of the manifest; whitelist form, expiry (now_s), N, printed hash, master signature by any
 * key; certificate not on the blacklist and on the whitelist; S above known->revision (else the known root stays:
 * -ESTALE; both 0 is taken); revision not blacklisted. Errors: -EBADMSG hash or signature; -EPROTO form, name or path,
 * also of the blacklist, whose lines are never passed over; -EKEYEXPIRED whitelist expired; -EKEYREJECTED certificate
 * or revision not allowed; -ESTALE older than what is known; fetch's own. Each message says which check, of what.
 */
#ifndef LM_REPO_TRUST_H
#define LM_REPO_TRUST_H

#include "repo/manifest.h"
#include "repo/signature.h"
#include "repo/whitelist.h"

struct lm_trust {
	const char *fqrn;
	struct lm_key *const *keys; /* master public keys */
	size_t key_count;
	int64_t now_s;
	/* Text of a blacklist file, or NULL: fingerprints and "<FQRN REVISION", which forbids lower revisions. */
	const char *blacklist;
	/* The newest root this client ever accepted, or NULL. Of a breadcrumb only catalog, published_s and revision
	 * are set: then the signatures of the same catalog are checked again, since nothing else is known of it. */
	const struct lm_manifest *known;
};

/* Gives the certificate object as stored (compressed), or the whitelist (hash unset); appends to ret. */
typedef int lm_trust_fetch_fn(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err);

int lm_trust_manifest(const struct lm_trust *trust, const char *text, size_t len, lm_trust_fetch_fn *fetch, void *arg,
	struct lm_manifest *ret, struct lm_err *err) MUST_CHECK;

/* A whitelist alone: form, expiry, name, printed hash, signature. *ret is filled in as soon as its form is right, also
 * where it is refused afterwards. */
int lm_trust_whitelist(const struct lm_trust *trust, const char *text, size_t len, struct lm_whitelist *ret,
	struct lm_err *err) MUST_CHECK;

/*
 * Whether a root that was accepted before may still be used: neither its certificate nor its revision is on the
 * blacklist. fetch is asked only for the certificate, and only where the blacklist has fingerprints.
 */
int lm_trust_again(const struct lm_trust *trust, const struct lm_manifest *accepted, lm_trust_fetch_fn *fetch,
	void *arg, struct lm_err *err) MUST_CHECK;

/* 0, or -EKEYREJECTED where the blacklist forbids this revision: for roots that come without a manifest. */
int lm_trust_revision(const struct lm_trust *trust, uint64_t revision, struct lm_err *err) MUST_CHECK;

#endif
