#include "repo/images.h"

#include "base/str.h"

#include <openssl/evp.h>
#include <string.h>

static int update(EVP_MD_CTX *ctx, const char *digest)
{
	return EVP_DigestUpdate(ctx, digest, strlen(digest)) && EVP_DigestUpdate(ctx, "\n", 1);
}

int lm_images_chain(const char *const *digests, size_t count, struct lm_chain_hex *ret, struct lm_err *err)
{
	uint8_t bytes[EVP_MAX_MD_SIZE];
	unsigned len = 0;
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	if (!ctx)
		return lm_err_oom(err);
	int good = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);
	for (size_t i = 0; i < count && good; i++)
		good = update(ctx, digests[i]);
	good = good && EVP_DigestFinal_ex(ctx, bytes, &len);
	EVP_MD_CTX_free(ctx);
	if (!good || 2 * len >= sizeof(ret->s))
		return lm_err_set(err, -ENOMEM, "OpenSSL's SHA-256 failed");
	lm_hex_format(bytes, len, ret->s);
	return 0;
}
