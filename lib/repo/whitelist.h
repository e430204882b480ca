/*
 * The whitelist .cvmfswhitelist: which certificates may sign manifests, until when, signed by the master key.
 *
 *   YYYYMMDDhhmmss     creation, UTC; only its length is checked
 *   EYYYYMMDDhhmmss    expiry, UTC
 *   NFQRN
 *   AB:CD:...[-TAG]    fingerprints, what follows a blank, tab or # is a comment
 *   --                 then hash and signature as in a manifest
 *
 * The lines V... (signature in a PKCS#7 file) and W... (check of a CA chain) ask for checks that are not made here:
 * such a whitelist is -EPROTO. Other lines after N that are no fingerprint allow nothing and are skipped.
 */
#ifndef LM_REPO_WHITELIST_H
#define LM_REPO_WHITELIST_H

#include "repo/manifest.h"

#define LM_WHITELIST_NAME ".cvmfswhitelist"
enum { LM_WHITELIST_MAX = 64 << 10, LM_FINGERPRINTS_MAX = 256 };

struct lm_whitelist {
	int64_t created_s; /* UTC; 0 where it is no date */
	int64_t expires_s; /* UTC */
	char fqrn[LM_FQRN_MAX + 1];
	struct lm_hash fingerprints[LM_FINGERPRINTS_MAX]; /* of DER certificates */
	size_t count;
};

/* -EPROTO, also for more than LM_WHITELIST_MAX bytes or LM_FINGERPRINTS_MAX fingerprints. */
int lm_whitelist_parse(const char *text, size_t len, struct lm_whitelist *ret, struct lm_err *err) MUST_CHECK;
/* Appends the body, "--" and the hash line (hash algorithm: that of the first fingerprint); the signature comes after
 * it. -EINVAL: what could not be read back. */
int lm_whitelist_format(const struct lm_whitelist *whitelist, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;

/* Expiry counts to the hour: valid while now is before the expiry cut to the hour. */
bool lm_whitelist_expired(const struct lm_whitelist *whitelist, int64_t now_s);

/* A line of whitelist or blacklist, comment allowed: 1 and *ret, 0 nothing but a comment, -EPROTO no fingerprint. */
int lm_fingerprint_parse(const char *line, size_t len, struct lm_hash *ret) MUST_CHECK;

#endif
