/* Master public keys in files: a PEM each, NAME.pub by custom. */
#ifndef LM_TOOLS_PUBLIC_KEYS_H
#define LM_TOOLS_PUBLIC_KEYS_H

#include "repo/signature.h"

/* Errors name the file. The caller frees *ret (lm_key_free()). */
int lm_public_key_read(const char *path, struct lm_key **ret, struct lm_err *err) MUST_CHECK;

/* A growing list of what lm_public_key_read() gives; -E2BIG: it is full. */
struct lm_public_keys {
	struct lm_key *keys[64];
	size_t count;
};
int lm_public_keys_add(struct lm_public_keys *keys, const char *path, struct lm_err *err) MUST_CHECK;
/* Every *.pub of the directory; -ENOENT: there is none. */
int lm_public_keys_add_dir(struct lm_public_keys *keys, const char *dir, struct lm_err *err) MUST_CHECK;
void lm_public_keys_done(struct lm_public_keys *keys);

#endif
