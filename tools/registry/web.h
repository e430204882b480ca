/*
 * A registry over HTTP, for reading: what a shelf (oci/shelf.h) holds, as the OCI distribution specification has it.
 *
 * GET and HEAD only. Manifests and configs have their digests as Docker-Content-Digest and ETag. There are no blobs of
 * layers: the answer to a layer that is on the shelf says that the snapshotter provides it. Failures are the
 * specification's JSON; 503 where a repository is not mounted or can't be read.
 *
 * A thread for each connection, of which there are LM_REGISTRY_CONNECTIONS at most; one that is silent for
 * LM_REGISTRY_IDLE_S is closed.
 */
#ifndef LM_TOOLS_REGISTRY_WEB_H
#define LM_TOOLS_REGISTRY_WEB_H

#include "oci/shelf.h"

enum {
	LM_REGISTRY_CONNECTIONS = 64,
	LM_REGISTRY_IDLE_S = 10,
	LM_REGISTRY_PAGE = 1000, /* names or tags, where nothing else is asked for, and at most */
};

struct lm_registry_web;

/* address: ADDRESS:PORT, port 0: a free one. The shelf outlives the web. */
int lm_registry_web_new(
	const char *address, struct lm_shelf *shelf, struct lm_registry_web **ret, struct lm_err *err) MUST_CHECK;
void lm_registry_web_free(struct lm_registry_web *web);
LM_DEFINE_CLEANUP(struct lm_registry_web, lm_registry_web_free, lm_registry_web_freep)

/* "http://ADDRESS:PORT" */
const char *lm_registry_web_where(const struct lm_registry_web *web);

#endif
