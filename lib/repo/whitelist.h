/*
 * The whitelist .cvmfswhitelist: which certificates may sign manifests, until when, signed by the master key.
 */
#ifndef LM_REPO_WHITELIST_H
#define LM_REPO_WHITELIST_H

#include "repo/manifest.h"

#define LM_WHITELIST_NAME ".cvmfswhitelist"
enum { LM_WHITELIST_MAX = 64 << 10, LM_FINGERPRINTS_MAX = 256 };

struct lm_whitelist {
	int64_t created_s, expires_s; /* UTC; expiry counts to the hour: valid while now < expiry cut to the hour */
	char fqrn[LM_FQRN_MAX + 1];
	struct lm_hash fingerprints[LM_FINGERPRINTS_MAX]; /* of DER certificates */
	size_t count;
};

int lm_whitelist_parse(const char *text, size_t len, struct lm_whitelist *ret, struct lm_err *err) MUST_CHECK;
int lm_whitelist_format(const struct lm_whitelist *whitelist, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;

#endif
