#include "oci/digest.h"

#include "base/str.h"

#include <openssl/evp.h>
#include <string.h>

#define PREFIX "sha256:"
enum { SHA256_BYTES = 32 };

struct lm_digester {
	EVP_MD_CTX *ctx;
};

static int failed(struct lm_err *err)
{
	return lm_err_set(err, -EIO, "SHA-256 is not available from OpenSSL");
}

int lm_digester_new(struct lm_digester **ret, struct lm_err *err)
{
	CLEANUP(lm_digester_freep) struct lm_digester *digester = calloc(1, sizeof(*digester));
	if (!digester || !(digester->ctx = EVP_MD_CTX_new()))
		return lm_err_oom(err);
	if (!EVP_DigestInit_ex(digester->ctx, EVP_sha256(), NULL))
		return failed(err);
	*ret = STEAL(digester);
	return 0;
}

void lm_digester_free(struct lm_digester *digester)
{
	if (!digester)
		return;
	EVP_MD_CTX_free(digester->ctx);
	free(digester);
}

int lm_digester_update(struct lm_digester *digester, const void *data, size_t len, struct lm_err *err)
{
	return EVP_DigestUpdate(digester->ctx, data, len) ? 0 : failed(err);
}

int lm_digester_finish(struct lm_digester *digester, char ret[LM_DIGEST_MAX], struct lm_err *err)
{
	uint8_t hash[SHA256_BYTES];
	if (!EVP_DigestFinal_ex(digester->ctx, hash, NULL))
		return failed(err);
	memcpy(ret, PREFIX, strlen(PREFIX));
	lm_hex_format(hash, sizeof(hash), ret + strlen(PREFIX));
	return 0;
}

int lm_digest_data(const void *data, size_t len, char ret[LM_DIGEST_MAX], struct lm_err *err)
{
	CLEANUP(lm_digester_freep) struct lm_digester *digester = NULL;
	int r = lm_digester_new(&digester, err);
	if (r == 0)
		r = lm_digester_update(digester, data, len, err);
	return r < 0 ? r : lm_digester_finish(digester, ret, err);
}
