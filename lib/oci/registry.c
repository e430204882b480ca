/*
 * A registry, by its HTTP API v2: /v2/NAME/manifests/REFERENCE and /v2/NAME/blobs/DIGEST. Its mirrors are asked first.
 *
 * What a registry says about content (Docker-Content-Digest, Content-Length) is not believed: digests are computed. A
 * blob whose connection breaks is gone on with where it broke; a server that knows no ranges begins anew, and what it
 * repeats is passed over.
 */
#include "base/str.h"
#include "oci/endpoint.h"

#include <string.h>

enum {
	RESUMPTIONS_MAX = 3, /* in a row, without PROGRESS_MIN bytes between them */
	PROGRESS_MIN = 1 << 20,
};

struct registry {
	struct lm_source source;
	/* constant after open */
	char *reference;		/* tag or digest */
	char *digest;			/* NULL when not given */
	struct lm_endpoint **endpoints; /* mirrors, then the registry itself */
	size_t count;
	/* the thread that uses the source only */
	size_t first; /* the endpoint that has the image */
};

/* A blob that is being read. Has all it needs to ask for its rest, since another thread may read it. */
struct stream_blob {
	struct lm_blob blob;
	struct lm_endpoint *endpoint;
	char digest[LM_DIGEST_MAX];
	struct lm_endpoint_stream *stream;
	unsigned resumptions;
	uint64_t resumed_at;
	uint64_t repeated; /* bytes that come once more before the rest */
};

static void registry_free(struct lm_source *source)
{
	struct registry *registry = (struct registry *)source;
	for (size_t i = 0; registry->endpoints && i < registry->count; i++)
		lm_endpoint_unref(registry->endpoints[i]);
	free(registry->endpoints);
	free(registry->reference);
	free(registry->digest);
	free(registry);
}

/* Those before it did not have the image, and are not asked again. What the last, the registry itself, says is told. */
static int get_manifest(struct registry *registry, const char *reference, struct lm_document *ret, struct lm_err *err)
{
	for (;; registry->first++) {
		int r = lm_endpoint_manifest(registry->endpoints[registry->first], reference, ret, err);
		if (r == 0 || registry->first + 1 == registry->count)
			return r;
	}
}

static int registry_resolve(struct lm_source *source, const struct lm_platform *platform, struct lm_document *ret,
	char ret_digest[LM_DIGEST_MAX], uint64_t *ret_size, struct lm_err *err)
{
	struct registry *registry = (struct registry *)source;
	char seen[LM_DIGEST_MAX];
	int r = get_manifest(registry, registry->reference, ret, err);
	if (r == 0)
		r = lm_digest_data(ret->text.data, ret->text.len, seen, err);
	if (r == 0 && registry->digest && strcmp(seen, registry->digest) != 0)
		return lm_err_set(err, -EBADMSG, "%s: manifest %s has other content: %s",
			lm_endpoint_host(registry->endpoints[registry->first]), registry->digest, seen);
	return r;
}

static int registry_manifest(
	struct lm_source *source, const char *digest, uint64_t size, struct lm_document *ret, struct lm_err *err)
{
	return get_manifest((struct registry *)source, digest, ret, err);
}

static void stream_close(struct lm_blob *blob)
{
	struct stream_blob *b = (struct stream_blob *)blob;
	lm_endpoint_close(b->stream);
	lm_endpoint_unref(b->endpoint);
	free(b);
}

/* After a connection broke. False: the rest can't be had, and the break is what the reader is told. */
static bool resume(struct stream_blob *b)
{
	if (b->blob.seen - b->resumed_at >= PROGRESS_MIN)
		b->resumptions = 0;
	while (b->resumptions < RESUMPTIONS_MAX) {
		bool partial = false;
		b->resumptions++;
		b->resumed_at = b->blob.seen;
		lm_endpoint_closep(&b->stream);
		int r = lm_endpoint_blob(b->endpoint, b->digest, b->blob.seen, &b->stream, &partial, NULL);
		if (r == 0) {
			b->repeated = partial ? 0 : b->blob.seen;
			return true;
		}
		if (r != -EIO && r != -ETIMEDOUT)
			return false;
	}
	return false;
}

static ssize_t stream_read(struct lm_blob *blob, void *ret, size_t len, struct lm_err *err)
{
	struct stream_blob *b = (struct stream_blob *)blob;
	for (;;) {
		struct lm_err broken = LM_ERR_INIT;
		size_t wanted = b->repeated > 0 ? (size_t)LM_MIN(b->repeated, (uint64_t)len) : len;
		ssize_t n = lm_endpoint_read(b->stream, ret, wanted, &broken);
		if (n > 0 && b->repeated > 0)
			b->repeated -= (uint64_t)n;
		else if (n >= 0)
			return n;
		else if ((n != -EIO && n != -ETIMEDOUT) || !resume(b))
			return lm_err_set(err, (int)n, "%s", broken.msg);
	}
}

static const struct lm_blob_ops stream_ops = {stream_read, stream_close};

static int open_blob(struct lm_endpoint *e, const char *digest, struct lm_blob **ret, struct lm_err *err)
{
	bool ignored;
	struct stream_blob *b = calloc(1, sizeof(*b));
	if (!b)
		return lm_err_oom(err);
	b->blob.ops = &stream_ops;
	b->endpoint = lm_endpoint_ref(e);
	memcpy(b->digest, digest, LM_DIGEST_MAX);
	int r = lm_endpoint_blob(e, digest, 0, &b->stream, &ignored, err);
	if (r < 0)
		stream_close(&b->blob);
	else
		*ret = &b->blob;
	return r;
}

static int registry_blob(
	struct lm_source *source, const char *digest, uint64_t size, struct lm_blob **ret, struct lm_err *err)
{
	const struct registry *registry = (struct registry *)source;
	int r = -ENOENT;
	for (size_t i = registry->first; r < 0 && i < registry->count; i++)
		r = open_blob(registry->endpoints[i], digest, ret, err);
	return r;
}

static const struct lm_source_ops registry_ops = {
	.resolve = registry_resolve,
	.manifest = registry_manifest,
	.blob = registry_blob,
	.free = registry_free,
};

static int add_endpoints(struct registry *registry, const struct lm_reference *reference,
	const struct lm_access *access, struct lm_err *err)
{
	registry->endpoints = calloc(access->mirror_count + 1, sizeof(struct lm_endpoint *));
	if (!registry->endpoints)
		return lm_err_oom(err);
	int r = 0;
	for (size_t i = 0; r == 0 && i < access->mirror_count; i++)
		if (strcmp(access->mirrors[i].registry, reference->registry) == 0) {
			r = lm_endpoint_new(access, reference->registry, reference->repository, &access->mirrors[i],
				&registry->endpoints[registry->count], err);
			registry->count += r == 0;
		}
	if (r == 0)
		r = lm_endpoint_new(access, reference->registry, reference->repository, NULL,
			&registry->endpoints[registry->count], err);
	registry->count += r == 0;
	return r;
}

int lm_registry_open(const struct lm_reference *reference, const struct lm_access *access, struct lm_source **ret,
	struct lm_err *err)
{
	struct registry *registry = calloc(1, sizeof(*registry));
	if (!registry)
		return lm_err_oom(err);
	CLEANUP(lm_source_freep) struct lm_source *source = &registry->source;
	source->ops = &registry_ops;
	registry->reference = strdup(reference->digest ? reference->digest : reference->tag);
	registry->digest = reference->digest ? strdup(reference->digest) : NULL;
	if (!registry->reference || (reference->digest && !registry->digest))
		return lm_err_oom(err);
	int r = add_endpoints(registry, reference, access, err);
	if (r < 0)
		return r;
	*ret = STEAL(source);
	return 0;
}
