/*
 * The keys of a repository, as files of a directory of their own:
 *
 *   NAME.key        private key that signs manifests      NAME.crt   its certificate, whose fingerprint the whitelist
 * has NAME.masterkey  private key that signs whitelists     NAME.pub   its public half, which clients have
 *
 * All PEM; private keys may be PKCS#8 or PKCS#1 (as stock tools and older OpenSSL write them) and are never written
 * with a mode wider than 0600. A private key that others have access to is refused (-EPERM).
 *
 * CHANGING KEY AND CERTIFICATE takes three steps, since the repository must be signed by the new pair at the moment
 * when publishers begin to use it. Killed in between, the steps are done again:
 *
 *   lm_repo_keys_stage()     the new pair comes to NAME.key.new and NAME.crt.new, durably
 *   lm_repo_sign()           (sign.h) the repository is signed with it
 *   lm_repo_keys_install()   NAME.key and NAME.crt become NAME.key.old and NAME.crt.old, the new ones take their places
 */
#ifndef LM_REPO_REPO_KEYS_H
#define LM_REPO_REPO_KEYS_H

#include "repo/signature.h"

struct lm_repo_keys {
	struct lm_key *key; /* signs manifests */
	struct lm_cert *cert;
	struct lm_key *master; /* signs whitelists; NULL where it is kept elsewhere */
};
void lm_repo_keys_done(struct lm_repo_keys *keys);

/* Makes the directory (0700) where missing, a key pair, certificate and master key and writes
 * NAME.{key,crt,masterkey,pub} into dir; refuses to overwrite (-EEXIST). */
int lm_repo_keys_make(const char *dir, const char *fqrn, struct lm_repo_keys *ret, struct lm_err *err) MUST_CHECK;
/* Reads NAME.key, NAME.crt and, if there, NAME.masterkey. -EINVAL: the certificate belongs to another key. */
int lm_repo_keys_load(const char *dir, const char *fqrn, struct lm_repo_keys *ret, struct lm_err *err) MUST_CHECK;

/* Reads a pair that was made elsewhere, for lm_repo_keys_stage(). ret->master is left alone. */
int lm_repo_keys_read_pair(
	const char *key_path, const char *cert_path, struct lm_repo_keys *ret, struct lm_err *err) MUST_CHECK;
/*
 * keys: with key and certificate, that pair is staged. Without them the pair that an interrupted change left staged is
 * taken, or a new one is made. keys->master is read where it is NULL and there. Nothing else of the directory changes.
 */
int lm_repo_keys_stage(const char *dir, const char *fqrn, struct lm_repo_keys *keys, struct lm_err *err) MUST_CHECK;
/* Nothing staged: 0. */
int lm_repo_keys_install(const char *dir, const char *fqrn, struct lm_err *err) MUST_CHECK;

#endif
