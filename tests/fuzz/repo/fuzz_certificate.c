/* A certificate as it comes out of its object; what parses is used as trust would. */
#include "repo/signature.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char text[] = "cdb2ab44327310dc70e4ab2f6eef3761e9aec18f";
	uint8_t signature[256] = {1};
	CLEANUP(lm_cert_freep) struct lm_cert *cert = NULL;
	CLEANUP(lm_key_freep) struct lm_key *key = NULL;
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(2 * LM_PEM_MAX);
	struct lm_hash fingerprint;
	if (lm_cert_parse((const char *)data, size, &cert, NULL) == 0) {
		int r = lm_cert_fingerprint(cert, LM_HASH_SHA1, &fingerprint, NULL);
		assert(r == 0 && fingerprint.set);
		r = lm_verify_manifest(cert, text, strlen(text), signature, sizeof(signature), NULL);
		assert(r < 0);
		r = lm_cert_format(cert, &pem, NULL);
		assert(r == 0);
		struct lm_cert_info info;
		r = lm_cert_info(cert, &info, NULL);
		assert(r < 0 || memchr(info.subject, '\0', sizeof(info.subject)));
	}
	if (lm_key_parse_public((const char *)data, size, &key, NULL) == 0) {
		int r = lm_verify_whitelist(key, text, strlen(text), signature, sizeof(signature), NULL);
		assert(r < 0);
	}
	return 0;
}
