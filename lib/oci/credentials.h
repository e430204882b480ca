/*
 * Who we are to a registry: what `docker login`, `podman login` and credential helpers have left for us.
 *
 * Looked for in this order, the first that knows the registry counts:
 *
 *   creds_file                                  "USER:PASSWORD" on one line, for every registry; then nothing else
 *   authfile                                    then nothing else
 *   $REGISTRY_AUTH_FILE                         then nothing else
 *   $XDG_RUNTIME_DIR/containers/auth.json       /run/containers/UID/auth.json without XDG_RUNTIME_DIR
 *   ${XDG_CONFIG_HOME:-~/.config}/containers/auth.json
 *   ${DOCKER_CONFIG:-~/.docker}/config.json
 *
 * In one file: credHelpers of the registry, then auths of the longest prefix of HOST[:PORT]/NAME, then credsStore.
 * docker.io is also known as index.docker.io and https://index.docker.io/v1/.
 *
 * Nothing is kept: files are read and helpers are asked whenever a registry wants to know.
 */
#ifndef LM_OCI_CREDENTIALS_H
#define LM_OCI_CREDENTIALS_H

#include "base/err.h"

#include <stdbool.h>

struct lm_credentials { /* where to look; strings borrowed, NULL: not given */
	const char *authfile;
	const char *creds_file;
	unsigned helper_ms; /* how long a helper may take; 0: 30 s */
};

struct lm_credential { /* strings owned; all NULL: nobody */
	char *user, *password;
	char *identity_token; /* instead of a password: to be exchanged at the realm by OAuth 2 */
};
void lm_credential_done(struct lm_credential *credential); /* overwrites it, too */

/* registry: HOST[:PORT]. 1 found, 0 nobody knows it; -EPROTO a file is damaged; -EACCES, -ETIMEDOUT a helper failed.
 * Messages name files and helpers, never what is in them. */
int lm_credentials_find(const struct lm_credentials *where, const char *registry, const char *repository,
	struct lm_credential *ret, struct lm_err *err) MUST_CHECK;

/* One file's text, for tests: as above, but helpers are named in *ret_helper (with the server to ask for) instead of
 * being asked; the caller frees both. */
struct lm_credential_helper {
	char *name, *server;
};
void lm_credential_helper_done(struct lm_credential_helper *helper);
int lm_credentials_parse(const char *json, size_t len, const char *registry, const char *repository,
	struct lm_credential *ret, struct lm_credential_helper *ret_helper, struct lm_err *err) MUST_CHECK;

/* Asks docker-credential-NAME, found by PATH, without a shell. 1, 0 or an error as above. */
int lm_credential_helper_ask(const struct lm_credential_helper *helper, unsigned limit_ms, struct lm_credential *ret,
	struct lm_err *err) MUST_CHECK;

#endif
