/*
 * Signing a repository anew: a whitelist with a later expiry, another certificate, other fingerprints.
 *
 * What is there now must be validly signed, its whitelist expired or not: nothing that somebody put into the storage
 * gets a signature here. The master key's own public half vouches for it, and those of `trusted` (of a master key that
 * was changed).
 *
 * Order of the writes, so that clients can verify what they find at each moment: a whitelist that allows the old
 * certificate and the new one; the manifest, where it is not signed by our certificate yet; the whitelist without what
 * shall go. A client (or web cache) that holds an older manifest when the old fingerprint goes is refused until it gets
 * the new manifest: remove it later, when all have that, or at once when the old key was lost to somebody.
 *
 * The revision stays what it is. Comments of the whitelist are not kept.
 */
#ifndef LM_REPO_SIGN_H
#define LM_REPO_SIGN_H

#include "repo/publish.h"
#include "repo/whitelist.h"

enum { LM_WHITELIST_DAYS_MAX = 36500 };

struct lm_sign_request {
	unsigned days;		       /* from now on: 1 to LM_WHITELIST_DAYS_MAX */
	struct lm_key *const *trusted; /* more master public keys */
	size_t trusted_count;
	const struct lm_hash *add, *remove; /* fingerprints of certificates */
	size_t add_count, remove_count;
	bool only_ours; /* of the fingerprints that are there none is kept; also where the whitelist is lost or damaged
			 */
	bool manifest;	/* sign the manifest in any case */
};
struct lm_sign_result {
	struct lm_manifest manifest; /* now the current one */
	struct lm_whitelist whitelist;
	bool manifest_signed; /* anew */
};

/*
 * keys: all three. Takes the publisher's lock. -EINVAL: keys that do not belong together, days, our own fingerprint is
 * to be removed, too many; -ENOENT: no repository, or a fingerprint to be removed is not there; -EBADMSG, -EPROTO,
 * -EKEYREJECTED: what is there is not validly signed, nothing was written.
 */
int lm_repo_sign(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const struct lm_sign_request *request, struct lm_sign_result *ret, struct lm_err *err) MUST_CHECK;

#endif
