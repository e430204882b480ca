#include "repo/signature.h"

#include <limits.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <time.h>

struct lm_key {
	EVP_PKEY *pkey;
};

struct lm_cert {
	X509 *x509;
};

enum { CERT_DAYS = 3650, HASH_TEXT_MAX = 256 };

static void free_biop(BIO **bio)
{
	BIO_free(*bio);
}
static void free_pkeyp(EVP_PKEY **pkey)
{
	EVP_PKEY_free(*pkey);
}
static void free_pkey_ctxp(EVP_PKEY_CTX **ctx)
{
	EVP_PKEY_CTX_free(*ctx);
}
static void free_md_ctxp(EVP_MD_CTX **ctx)
{
	EVP_MD_CTX_free(*ctx);
}
static void free_derp(unsigned char **der)
{
	OPENSSL_free(*der);
}

/* A message with OpenSSL's own reason; leaves nothing in its queue of errors. */
static int crypto_err(struct lm_err *err, int code, const char *what)
{
	char reason[256] = "no reason given";
	unsigned long number = ERR_peek_last_error();
	if (number)
		ERR_error_string_n(number, reason, sizeof(reason));
	ERR_clear_error();
	return lm_err_set(err, code, "%s: %s", what, reason);
}

void lm_key_free(struct lm_key *key)
{
	if (!key)
		return;
	EVP_PKEY_free(key->pkey);
	free(key);
}

void lm_cert_free(struct lm_cert *cert)
{
	if (!cert)
		return;
	X509_free(cert->x509);
	free(cert);
}

static int check_rsa(EVP_PKEY *pkey, const char *what, struct lm_err *err)
{
	if (!pkey || !EVP_PKEY_is_a(pkey, "RSA"))
		return crypto_err(err, -EPROTO, what);
	int bits = EVP_PKEY_get_bits(pkey);
	if (bits < LM_KEY_BITS_MIN || bits > LM_KEY_BITS_MAX)
		return lm_err_set(err, -EPROTO, "%s: RSA with %d bits, %d to %d are allowed", what, bits,
			LM_KEY_BITS_MIN, LM_KEY_BITS_MAX);
	return 0;
}

/* Takes ownership of pkey, also on failure. */
static int key_wrap(EVP_PKEY *pkey, struct lm_key **ret, struct lm_err *err)
{
	struct lm_key *key = calloc(1, sizeof(*key));
	if (!key) {
		EVP_PKEY_free(pkey);
		return lm_err_oom(err);
	}
	key->pkey = pkey;
	*ret = key;
	return 0;
}

int lm_key_generate(unsigned bits, struct lm_key **ret, struct lm_err *err)
{
	if (bits < LM_KEY_BITS_MIN || bits > LM_KEY_BITS_MAX)
		return lm_err_set(
			err, -EINVAL, "RSA keys have %d to %d bits, not %u", LM_KEY_BITS_MIN, LM_KEY_BITS_MAX, bits);
	EVP_PKEY *pkey = EVP_RSA_gen(bits);
	if (!pkey)
		return crypto_err(err, -EIO, "cannot make a key");
	return key_wrap(pkey, ret, err);
}

/* OpenSSL would ask on the terminal. */
static int no_password(char *buf, int size, int writing, void *arg)
{
	return -1;
}

static BIO *pem_open(const char *pem, size_t len, const char *what, struct lm_err *err)
{
	if (len > LM_PEM_MAX) {
		lm_err_set(err, -EPROTO, "%s of %zu bytes, at most %d are read", what, len, LM_PEM_MAX);
		return NULL;
	}
	BIO *bio = BIO_new_mem_buf(pem, (int)len);
	if (!bio)
		crypto_err(err, -ENOMEM, what);
	return bio;
}

typedef EVP_PKEY *read_key_fn(BIO *bio, EVP_PKEY **pkey, pem_password_cb *password, void *arg);

static int key_parse(
	read_key_fn *read_key, const char *what, const char *pem, size_t len, struct lm_key **ret, struct lm_err *err)
{
	struct lm_err reason = LM_ERR_INIT;
	CLEANUP(free_biop) BIO *bio = pem_open(pem, len, what, &reason);
	if (!bio)
		return lm_err_set(err, reason.code, "%s", reason.msg);
	CLEANUP(free_pkeyp) EVP_PKEY *pkey = read_key(bio, NULL, no_password, NULL);
	int r = check_rsa(pkey, what, err);
	return r < 0 ? r : key_wrap(STEAL(pkey), ret, err);
}

int lm_key_parse_private(const char *pem, size_t len, struct lm_key **ret, struct lm_err *err)
{
	return key_parse(PEM_read_bio_PrivateKey, "not a private RSA key in PEM", pem, len, ret, err);
}

int lm_key_parse_public(const char *pem, size_t len, struct lm_key **ret, struct lm_err *err)
{
	return key_parse(PEM_read_bio_PUBKEY, "not a public RSA key in PEM", pem, len, ret, err);
}

static int append_bio(BIO *bio, struct lm_buf *ret, struct lm_err *err)
{
	char *data = NULL;
	long len = BIO_get_mem_data(bio, &data);
	int r = lm_buf_append(ret, data, (size_t)len);
	return r < 0 ? lm_err_sys(err, r, "PEM text of %ld bytes", len) : 0;
}

int lm_key_format_private(const struct lm_key *key, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(free_biop) BIO *bio = BIO_new(BIO_s_secmem());
	if (!bio || !PEM_write_bio_PrivateKey(bio, key->pkey, NULL, NULL, 0, NULL, NULL))
		return crypto_err(err, -EINVAL, "cannot write the private key");
	return append_bio(bio, ret, err);
}

int lm_key_format_public(const struct lm_key *key, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(free_biop) BIO *bio = BIO_new(BIO_s_mem());
	if (!bio || !PEM_write_bio_PUBKEY(bio, key->pkey))
		return crypto_err(err, -EIO, "cannot write the public key");
	return append_bio(bio, ret, err);
}

static bool set_serial(X509 *x509)
{
	uint64_t serial;
	if (RAND_bytes((unsigned char *)&serial, sizeof(serial)) != 1)
		return false;
	return ASN1_INTEGER_set_uint64(X509_get_serialNumber(x509), serial >> 1 | 1); /* positive, not zero */
}

static bool set_subject(X509 *x509, const char *fqrn)
{
	char cn[512];
	int len = snprintf(cn, sizeof(cn), "%s CernVM-FS Release Managers", fqrn);
	if (len < 0 || (size_t)len >= sizeof(cn))
		return false;
	/* As a plain UTF8String: the MBSTRING types refuse a CN above X.520's 64 characters, which long names exceed.
	 */
	X509_NAME *name = X509_get_subject_name(x509);
	return X509_NAME_add_entry_by_txt(name, "CN", V_ASN1_UTF8STRING, (unsigned char *)cn, len, -1, 0) &&
	       X509_set_issuer_name(x509, name);
}

static bool fill_cert(X509 *x509, EVP_PKEY *pkey, const char *fqrn)
{
	return X509_set_version(x509, X509_VERSION_3) && set_serial(x509) && set_subject(x509, fqrn) &&
	       X509_gmtime_adj(X509_getm_notBefore(x509), 0) &&
	       X509_time_adj_ex(X509_getm_notAfter(x509), CERT_DAYS, 0, NULL) && X509_set_pubkey(x509, pkey) &&
	       X509_sign(x509, pkey, EVP_sha256()) > 0;
}

int lm_cert_make(const struct lm_key *key, const char *fqrn, struct lm_cert **ret, struct lm_err *err)
{
	CLEANUP(lm_cert_freep) struct lm_cert *cert = calloc(1, sizeof(*cert));
	if (!cert)
		return lm_err_oom(err);
	cert->x509 = X509_new();
	if (!cert->x509 || !fill_cert(cert->x509, key->pkey, fqrn))
		return crypto_err(err, -EIO, "cannot make a certificate");
	*ret = STEAL(cert);
	return 0;
}

int lm_cert_parse(const char *pem, size_t len, struct lm_cert **ret, struct lm_err *err)
{
	static const char what[] = "not a certificate in PEM";
	struct lm_err reason = LM_ERR_INIT;
	CLEANUP(free_biop) BIO *bio = pem_open(pem, len, what, &reason);
	if (!bio)
		return lm_err_set(err, reason.code, "%s", reason.msg);
	CLEANUP(lm_cert_freep) struct lm_cert *cert = calloc(1, sizeof(*cert));
	if (!cert)
		return lm_err_oom(err);
	cert->x509 = PEM_read_bio_X509(bio, NULL, no_password, NULL);
	if (!cert->x509)
		return crypto_err(err, -EPROTO, what);
	int r = check_rsa(X509_get0_pubkey(cert->x509), "certificate without a usable RSA key", err);
	if (r < 0)
		return r;
	*ret = STEAL(cert);
	return 0;
}

int lm_cert_format(const struct lm_cert *cert, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(free_biop) BIO *bio = BIO_new(BIO_s_mem());
	if (!bio || !PEM_write_bio_X509(bio, cert->x509))
		return crypto_err(err, -EIO, "cannot write the certificate");
	return append_bio(bio, ret, err);
}

int lm_cert_fingerprint(const struct lm_cert *cert, enum lm_hash_algo algo, struct lm_hash *ret, struct lm_err *err)
{
	CLEANUP(free_derp) unsigned char *der = NULL;
	int len = i2d_X509(cert->x509, &der);
	if (len < 0)
		return crypto_err(err, -EIO, "cannot encode the certificate");
	return lm_hash_data(algo, der, (size_t)len, ret, err);
}

static int name_text(const X509_NAME *name, char *ret, size_t size, struct lm_err *err)
{
	CLEANUP(free_biop) BIO *bio = BIO_new(BIO_s_mem());
	if (!bio || X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253) < 0)
		return crypto_err(err, -EIO, "cannot print a name of the certificate");
	int len = BIO_read(bio, ret, (int)size - 1);
	ret[LM_MAX(len, 0)] = '\0';
	return 0;
}

static int time_of(const ASN1_TIME *time, int64_t *ret, struct lm_err *err)
{
	struct tm tm;
	if (!ASN1_TIME_to_tm(time, &tm))
		return crypto_err(err, -EPROTO, "a date of the certificate is none");
	*ret = timegm(&tm);
	return 0;
}

int lm_cert_info(const struct lm_cert *cert, struct lm_cert_info *ret, struct lm_err *err)
{
	struct lm_cert_info info = {.key_bits = (unsigned)EVP_PKEY_get_bits(X509_get0_pubkey(cert->x509))};
	int r = name_text(X509_get_subject_name(cert->x509), info.subject, sizeof(info.subject), err);
	if (r == 0)
		r = name_text(X509_get_issuer_name(cert->x509), info.issuer, sizeof(info.issuer), err);
	if (r == 0)
		r = time_of(X509_get0_notBefore(cert->x509), &info.not_before_s, err);
	if (r == 0)
		r = time_of(X509_get0_notAfter(cert->x509), &info.not_after_s, err);
	if (r == 0)
		*ret = info;
	return r;
}

bool lm_cert_matches_key(const struct lm_cert *cert, const struct lm_key *key)
{
	bool same = EVP_PKEY_eq(X509_get0_pubkey(cert->x509), key->pkey) == 1;
	ERR_clear_error();
	return same;
}

/* Room for one signature by this key behind ret->len. */
static int reserve_signature(EVP_PKEY *pkey, struct lm_buf *ret, size_t *ret_len, struct lm_err *err)
{
	*ret_len = (size_t)EVP_PKEY_get_size(pkey);
	int r = lm_buf_reserve(ret, *ret_len);
	return r < 0 ? lm_err_sys(err, r, "signature of %zu bytes", *ret_len) : 0;
}

static int commit_signature(bool signed_ok, size_t len, struct lm_buf *ret, struct lm_err *err)
{
	if (signed_ok)
		ret->len += len;
	ret->data[ret->len] = '\0';
	return signed_ok ? 0 : crypto_err(err, -EIO, "cannot sign");
}

int lm_sign_manifest(
	const struct lm_key *key, const char *hash_text, size_t len, struct lm_buf *ret, struct lm_err *err)
{
	size_t signature_len;
	int r = reserve_signature(key->pkey, ret, &signature_len, err);
	if (r < 0)
		return r;
	CLEANUP(free_md_ctxp) EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool ok = ctx && EVP_DigestSignInit(ctx, NULL, EVP_sha1(), NULL, key->pkey) == 1 &&
		  EVP_DigestSign(ctx, ret->data + ret->len, &signature_len, (const unsigned char *)hash_text, len) == 1;
	return commit_signature(ok, signature_len, ret, err);
}

int lm_verify_manifest(const struct lm_cert *cert, const char *hash_text, size_t len, const void *signature,
	size_t signature_len, struct lm_err *err)
{
	EVP_PKEY *pkey = X509_get0_pubkey(cert->x509);
	CLEANUP(free_md_ctxp) EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	if (!ctx || EVP_DigestVerifyInit(ctx, NULL, EVP_sha1(), NULL, pkey) != 1)
		return crypto_err(err, -EIO, "cannot verify the signature");
	if (EVP_DigestVerify(ctx, signature, signature_len, (const unsigned char *)hash_text, len) != 1) {
		ERR_clear_error();
		return lm_err_set(err, -EBADMSG, "the signature is not by the certificate's key");
	}
	return 0;
}

int lm_sign_whitelist(
	const struct lm_key *master, const char *hash_text, size_t len, struct lm_buf *ret, struct lm_err *err)
{
	size_t signature_len;
	int r = reserve_signature(master->pkey, ret, &signature_len, err);
	if (r < 0)
		return r;
	/* With no digest set, the padding goes around the text itself. */
	CLEANUP(free_pkey_ctxp) EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(master->pkey, NULL);
	bool ok = ctx && EVP_PKEY_sign_init(ctx) == 1 && EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PADDING) == 1 &&
		  EVP_PKEY_sign(ctx, ret->data + ret->len, &signature_len, (const unsigned char *)hash_text, len) == 1;
	return commit_signature(ok, signature_len, ret, err);
}

int lm_verify_whitelist(const struct lm_key *master_public, const char *hash_text, size_t len, const void *signature,
	size_t signature_len, struct lm_err *err)
{
	CLEANUP(free_pkey_ctxp) EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(master_public->pkey, NULL);
	if (!ctx || EVP_PKEY_verify_recover_init(ctx) != 1 || EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PADDING) != 1)
		return crypto_err(err, -EIO, "cannot verify the signature");
	uint8_t text[LM_SIGNATURE_MAX];
	size_t text_len = sizeof(text);
	bool recovered = EVP_PKEY_verify_recover(ctx, text, &text_len, signature, signature_len) == 1;
	ERR_clear_error();
	if (!recovered || text_len != len || memcmp(text, hash_text, len) != 0)
		return lm_err_set(err, -EBADMSG, "the signature is not by this master key");
	return 0;
}
