/*
 * From bytes of a manifest to a trusted root: every check a client makes, in the format's order.
 *
 * lm_trust_manifest() needs no network: whoever calls it has fetched the manifest, and passes the certificate object
 * and whitelist, or asks for them through `fetch`. Nothing of a manifest may be acted on before it returned 0.
 *
 * Order: form and required fields; N is fqrn; R is the md5 of the empty path; T not older than known->published_s;
 * (same catalog as known: accepted as it is); certificate object's hash, PEM; printed hash and signature of the
 * manifest; whitelist form, expiry (now_s), N, printed hash, master signature by any key; certificate not on the
 * blacklist and on the whitelist; S above known->revision (else the known root stays: -ESTALE); revision not
 * blacklisted. Errors: -EBADMSG hash or signature; -EPROTO form, name or path; -EKEYEXPIRED whitelist expired;
 * -EKEYREJECTED certificate not allowed; -ESTALE older than what is known; fetch's own. Each message says which check,
 * of what.
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
	const char *blacklist;		 /* text of a blacklist file, or NULL: fingerprints; lines "<FQRN REVISION" */
	const struct lm_manifest *known; /* newest root this client ever accepted, or NULL */
};

/* Gives the certificate object as stored (compressed), or the whitelist (hash unset); appends to ret. */
typedef int lm_trust_fetch_fn(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err);

int lm_trust_manifest(const struct lm_trust *trust, const char *text, size_t len, lm_trust_fetch_fn *fetch, void *arg,
	struct lm_manifest *ret, struct lm_err *err) MUST_CHECK;

#endif
