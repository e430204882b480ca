/*
 * Whom we trust to be a registry, and how we show who we are: certificates kept per registry, as docker and podman do.
 *
 * The first of these folders that exists counts:
 *
 *   ~/.config/containers/certs.d/HOST[:PORT]   /etc/containers/certs.d/HOST[:PORT]   /etc/docker/certs.d/HOST[:PORT]
 *
 * In it *.crt are CA certificates, trusted for this registry beside the system's; NAME.cert with NAME.key is a client
 * certificate, shown to servers that ask for one.
 */
#ifndef LM_OCI_TRUST_H
#define LM_OCI_TRUST_H

#include "net/http.h"

struct lm_trust { /* owned; NULL: nothing special */
	char *ca_pem;
	char *cert_file, *key_file;
};
void lm_trust_done(struct lm_trust *trust);

/* dir: such a folder itself, instead of the usual ones; NULL: those. No folder: 0, and all NULL. */
int lm_trust_load(const char *dir, const char *registry, struct lm_trust *ret, struct lm_err *err) MUST_CHECK;

/* The request borrows from trust, which may be NULL. */
void lm_trust_apply(const struct lm_trust *trust, struct lm_http_request *request);

#endif
