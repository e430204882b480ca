/*
 * Image sources as skopeo spells them.
 *
 *   docker://HOST[:PORT]/NAME[:TAG][@DIGEST]    a registry (no HOST: docker.io, NAME without slash: library/NAME)
 *   oci:DIR[:TAG]                               an OCI image layout
 */
#ifndef LM_OCI_REFERENCE_H
#define LM_OCI_REFERENCE_H

#include "base/err.h"

#include <stdbool.h>

enum lm_transport { LM_TRANSPORT_DOCKER, LM_TRANSPORT_OCI };

struct lm_reference { /* strings owned; NULL where not given */
	enum lm_transport transport;
	char *registry;	  /* host[:port]; docker only */
	char *repository; /* name without host; docker only */
	char *path;	  /* directory; oci only */
	char *tag;	  /* docker: "latest" filled in when neither tag nor digest is given */
	char *digest;	  /* "sha256:…" */
};
int lm_reference_parse(const char *text, struct lm_reference *ret, struct lm_err *err) MUST_CHECK; /* -EINVAL */
void lm_reference_done(struct lm_reference *reference);

/* "sha256:" and 64 lower-case digits. */
bool lm_digest_valid(const char *digest);

#endif
