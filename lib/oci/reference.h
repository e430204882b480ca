/*
 * Image sources as skopeo spells them.
 *
 *   docker://HOST[:PORT]/NAME[:TAG][@DIGEST]    a registry (no HOST: docker.io, NAME without slash: library/NAME)
 *   oci:DIR[:TAG]                               an OCI image layout
 *   oci-archive:FILE[:TAG]                      the same in a tar
 *   docker-archive:FILE[:NAME[:TAG]|:@INDEX]    what `docker save` writes
 */
#ifndef LM_OCI_REFERENCE_H
#define LM_OCI_REFERENCE_H

#include "base/err.h"

#include <stdbool.h>

enum lm_transport {
	LM_TRANSPORT_DOCKER,
	LM_TRANSPORT_OCI,
	LM_TRANSPORT_OCI_ARCHIVE,
	LM_TRANSPORT_DOCKER_ARCHIVE,
};

struct lm_reference { /* strings owned; NULL where not given */
	enum lm_transport transport;
	char *registry;	  /* host[:port]; docker, and docker-archive with a NAME */
	char *repository; /* name without host; likewise */
	char *path;	  /* directory or file; not with docker */
	char *tag;	  /* docker: "latest" filled in when neither tag nor digest is given */
	char *digest;	  /* "sha256:…" */
	char *index;	  /* docker-archive: decimal digits */
};
int lm_reference_parse(const char *text, struct lm_reference *ret, struct lm_err *err) MUST_CHECK; /* -EINVAL */
void lm_reference_done(struct lm_reference *reference);

/* localhost, 127.0.0.0/8 or [::1]; a port may follow. */
bool lm_host_is_loopback(const char *host);

/* Whether the text is such a part of a reference: safe in paths, URLs and headers then. */
bool lm_registry_valid(const char *text);   /* HOST[:PORT] */
bool lm_repository_valid(const char *text); /* NAME without its host */
bool lm_tag_valid(const char *text);

/* "sha256:" and 64 lower-case digits. */
bool lm_digest_valid(const char *digest);

#endif
