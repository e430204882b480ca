/*
 * One repository on one server, a registry or a mirror of one: requests that bring their own authorization, renew it,
 * and are patient.
 *
 * A 401 is answered once per request. 429, 5xx and broken connections are asked again a few times, after the time that
 * the server names (up to two minutes) or a growing one. A server that still limits then (429) is -EAGAIN.
 *
 * Counted, since blobs outlive the source they were opened from. Any thread.
 */
#ifndef LM_OCI_ENDPOINT_H
#define LM_OCI_ENDPOINT_H

#include "oci/access.h"
#include "oci/source_internal.h"

struct lm_endpoint;

/* registry: HOST[:PORT] of the reference; mirror: NULL for the registry itself. */
int lm_endpoint_new(const struct lm_access *access, const char *registry, const char *repository,
	const struct lm_mirror *mirror, struct lm_endpoint **ret, struct lm_err *err) MUST_CHECK;
struct lm_endpoint *lm_endpoint_ref(struct lm_endpoint *endpoint);
void lm_endpoint_unref(struct lm_endpoint *endpoint);
LM_DEFINE_CLEANUP(struct lm_endpoint, lm_endpoint_unref, lm_endpoint_unrefp)

const char *lm_endpoint_host(const struct lm_endpoint *endpoint);

/* A manifest or index by tag or digest; not verified. */
int lm_endpoint_manifest(
	struct lm_endpoint *endpoint, const char *reference, struct lm_document *ret, struct lm_err *err) MUST_CHECK;

/* The digest that the server says a tag or digest stands for now: asked for by HEAD, so nothing is fetched. "": it does
 * not say. */
int lm_endpoint_digest(
	struct lm_endpoint *endpoint, const char *reference, char ret[LM_DIGEST_MAX], struct lm_err *err) MUST_CHECK;

/* Appends one page of the list of tags (JSON). page: NULL for the first of them, page_max tags long if the server
 * cares, else what the page before said in *ret_next (NULL: it was the last). -EPROTO: the next page is on another
 * server. */
int lm_endpoint_tags(struct lm_endpoint *endpoint, const char *page, unsigned page_max, struct lm_buf *ret,
	char **ret_next, struct lm_err *err) MUST_CHECK;

/* A blob from the byte offset on; *ret_partial: the server understood that it is to begin there. Not verified. */
struct lm_endpoint_stream;
int lm_endpoint_blob(struct lm_endpoint *endpoint, const char *digest, uint64_t offset, struct lm_endpoint_stream **ret,
	bool *ret_partial, struct lm_err *err) MUST_CHECK;
ssize_t lm_endpoint_read(struct lm_endpoint_stream *stream, void *ret, size_t len, struct lm_err *err) MUST_CHECK;
void lm_endpoint_close(struct lm_endpoint_stream *stream);
LM_DEFINE_CLEANUP(struct lm_endpoint_stream, lm_endpoint_close, lm_endpoint_closep)

#endif
