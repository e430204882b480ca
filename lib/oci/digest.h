/* SHA-256 digests as OCI writes them, "sha256:" and 64 digits: while data streams by, or of bytes in memory. */
#ifndef LM_OCI_DIGEST_H
#define LM_OCI_DIGEST_H

#include "oci/image.h"

struct lm_digester;

int lm_digester_new(struct lm_digester **ret, struct lm_err *err) MUST_CHECK;
void lm_digester_free(struct lm_digester *digester);
LM_DEFINE_CLEANUP(struct lm_digester, lm_digester_free, lm_digester_freep)
int lm_digester_update(struct lm_digester *digester, const void *data, size_t len, struct lm_err *err) MUST_CHECK;
/* Once; then only free. */
int lm_digester_finish(struct lm_digester *digester, char ret[LM_DIGEST_MAX], struct lm_err *err) MUST_CHECK;

int lm_digest_data(const void *data, size_t len, char ret[LM_DIGEST_MAX], struct lm_err *err) MUST_CHECK;

#endif
