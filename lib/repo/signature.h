/*
 * Keys, certificates and the two kinds of signatures.
 *
 * Manifest: RSASSA-PKCS1-v1_5 with SHA-1 over the ASCII hash text, by the certificate's key.
 * Whitelist: raw PKCS#1 type-1 padding of the ASCII hash text, without DigestInfo, by the master key.
 * Files of a key directory: NAME.masterkey, NAME.pub, NAME.key, NAME.crt (PEM), private ones mode 0600.
 *
 * Keys and certificates do not change after they were made, so any thread may use them. All keys are RSA, of
 * LM_KEY_BITS_MIN to LM_KEY_BITS_MAX bits: others, and text that is no PEM, are -EPROTO. A key protected by a password
 * is -EPROTO, too: nobody is ever asked for one.
 */
#ifndef LM_REPO_SIGNATURE_H
#define LM_REPO_SIGNATURE_H

#include "base/buf.h"
#include "repo/hash.h"

#include <stdbool.h>

enum {
	LM_PEM_MAX = 64 << 10, /* bytes of a key or certificate that are read */
	LM_KEY_BITS_MIN = 1024,
	LM_KEY_BITS_MAX = 16384,
	LM_SIGNATURE_MAX = LM_KEY_BITS_MAX / 8,
};

struct lm_key; /* private or public RSA key */
struct lm_cert;

void lm_key_free(struct lm_key *key);
LM_DEFINE_CLEANUP(struct lm_key, lm_key_free, lm_key_freep)
void lm_cert_free(struct lm_cert *cert);
LM_DEFINE_CLEANUP(struct lm_cert, lm_cert_free, lm_cert_freep)

int lm_key_generate(unsigned bits, struct lm_key **ret, struct lm_err *err) MUST_CHECK;
int lm_key_parse_private(const char *pem, size_t len, struct lm_key **ret, struct lm_err *err) MUST_CHECK;
int lm_key_parse_public(const char *pem, size_t len, struct lm_key **ret, struct lm_err *err) MUST_CHECK;
int lm_key_format_private(const struct lm_key *key, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;
int lm_key_format_public(const struct lm_key *key, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;

/* A self-signed certificate, CN "FQRN CernVM-FS Release Managers", valid for ten years (which no client looks at). */
int lm_cert_make(const struct lm_key *key, const char *fqrn, struct lm_cert **ret, struct lm_err *err) MUST_CHECK;
int lm_cert_parse(const char *pem, size_t len, struct lm_cert **ret, struct lm_err *err) MUST_CHECK;
int lm_cert_format(const struct lm_cert *cert, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;
/* The hash of the DER form. */
int lm_cert_fingerprint(
	const struct lm_cert *cert, enum lm_hash_algo algo, struct lm_hash *ret, struct lm_err *err) MUST_CHECK;
struct lm_cert_info {			/* for people; nothing of it is checked by any client */
	char subject[512], issuer[512]; /* RFC 2253, ASCII; cut to that */
	int64_t not_before_s, not_after_s;
	unsigned key_bits;
};
int lm_cert_info(const struct lm_cert *cert, struct lm_cert_info *ret, struct lm_err *err) MUST_CHECK;
bool lm_cert_matches_key(const struct lm_cert *cert, const struct lm_key *key);

/* hash_text: the printed hash line without its newline; it must not lie in ret, to which the signature is appended.
 * Verifying: 0 or -EBADMSG. */
int lm_sign_manifest(
	const struct lm_key *key, const char *hash_text, size_t len, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;
int lm_verify_manifest(const struct lm_cert *cert, const char *hash_text, size_t len, const void *signature,
	size_t signature_len, struct lm_err *err) MUST_CHECK;
int lm_sign_whitelist(const struct lm_key *master, const char *hash_text, size_t len, struct lm_buf *ret,
	struct lm_err *err) MUST_CHECK;
int lm_verify_whitelist(const struct lm_key *master_public, const char *hash_text, size_t len, const void *signature,
	size_t signature_len, struct lm_err *err) MUST_CHECK;

#endif
