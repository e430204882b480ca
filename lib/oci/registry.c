/*
 * A registry, by its HTTP API v2: /v2/NAME/manifests/REFERENCE and /v2/NAME/blobs/DIGEST.
 *
 * What a registry says about content (Docker-Content-Digest, Content-Length) is not believed: digests are computed. A
 * request that is refused is tried once more after the registry's challenge was answered.
 */
#include "base/str.h"
#include "oci/auth.h"
#include "oci/source_internal.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

enum { STALL_MS = 30000, BLOB_WINDOW = 4 << 20 };

static const char accept_manifests[] = "Accept: application/vnd.oci.image.index.v1+json, "
				       "application/vnd.oci.image.manifest.v1+json, "
				       "application/vnd.docker.distribution.manifest.list.v2+json, "
				       "application/vnd.docker.distribution.manifest.v2+json";

struct registry {
	struct lm_source source;
	/* constant after open */
	struct lm_http *http;
	char *host, *repository, *reference; /* reference: tag or digest */
	char *digest;			     /* NULL when not given */
	bool loopback;
	/* the thread that uses the source only */
	char *authorization; /* a header line, or NULL */
};

struct stream_blob {
	struct lm_blob blob;
	struct lm_http_stream *stream;
};

static void registry_free(struct lm_source *source)
{
	struct registry *registry = (struct registry *)source;
	free(registry->host);
	free(registry->repository);
	free(registry->reference);
	free(registry->digest);
	free(registry->authorization);
	free(registry);
}

/* localhost, 127.0.0.0/8, ::1; a port may follow. */
static bool is_loopback(const char *host)
{
	char name[64];
	struct in_addr v4;
	if (lm_str_starts(host, "[::1]"))
		return true;
	size_t len = strcspn(host, ":");
	if (len >= sizeof(name))
		return false;
	memcpy(name, host, len);
	name[len] = '\0';
	return strcasecmp(name, "localhost") == 0 ||
	       (inet_pton(AF_INET, name, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127);
}

static char *url_of(const struct registry *registry, const char *kind, const char *reference)
{
	/* The name people use is not that of the machine which answers. */
	const char *host = strcmp(registry->host, "docker.io") == 0 ? "registry-1.docker.io" : registry->host;
	return lm_str_printf(
		"http%s://%s/v2/%s/%s/%s", registry->loopback ? "" : "s", host, registry->repository, kind, reference);
}

struct headers {
	char *media_type, *challenge; /* owned; NULL when not said */
};

static void headers_done(struct headers *headers)
{
	free(headers->media_type);
	free(headers->challenge);
}

/* Called on the engine's thread, before lm_http_get() returns. */
static void note_header(void *arg, const char *name, const char *value)
{
	struct headers *headers = arg;
	if (strcmp(name, "content-type") == 0) {
		free(headers->media_type);
		headers->media_type = strdup(value);
	} else if (strcmp(name, "www-authenticate") == 0) {
		/* Several lines are one list. */
		char *list = headers->challenge ? lm_str_printf("%s, %s", headers->challenge, value) : strdup(value);
		free(headers->challenge);
		headers->challenge = list;
	}
}

static int get_once(struct registry *registry, const char *url, struct headers *headers, struct lm_buf *ret,
	unsigned *ret_status, struct lm_err *err)
{
	const char *lines[] = {accept_manifests, registry->authorization, NULL};
	const struct lm_http_request request = {
		.url = url,
		.headers = lines,
		.stall_timeout_ms = STALL_MS,
		.follow_redirects = true,
		.on_header = note_header,
		.arg = headers,
	};
	struct lm_http_result result = {0};
	int r = lm_http_get(registry->http, &request, ret, &result, err);
	*ret_status = result.status;
	return r;
}

static int answer_challenge(struct registry *registry, const char *challenge, struct lm_err *err)
{
	char *header;
	int r = lm_auth_answer(registry->http, challenge, registry->repository, registry->loopback, &header, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s wants to know who asks", registry->host);
	free(registry->authorization);
	registry->authorization = header;
	return 0;
}

/* A small answer, whole. 401 is answered once. */
static int get(struct registry *registry, const char *url, struct lm_document *ret, struct lm_err *err)
{
	for (bool again = false;; again = true) {
		CLEANUP(headers_done) struct headers headers = {0};
		unsigned status;
		int r = get_once(registry, url, &headers, &ret->text, &status, err);
		if (r == 0)
			ret->media_type = STEAL(headers.media_type);
		if (r != -EACCES || status != 401 || !headers.challenge || again)
			return r;
		r = answer_challenge(registry, headers.challenge, err);
		if (r < 0)
			return r;
	}
}

/* Tokens die of age while a big image is read: asks for a new one, by way of something small. */
static int renew_authorization(struct registry *registry, struct lm_err *err)
{
	CLEANUP(lm_freep) char *url = url_of(registry, "manifests", registry->reference);
	CLEANUP(lm_document_done) struct lm_document ignored = {.text = LM_BUF(LM_MANIFEST_JSON_MAX)};
	if (!url)
		return lm_err_oom(err);
	return get(registry, url, &ignored, err);
}

static int get_manifest(struct registry *registry, const char *reference, struct lm_document *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *url = url_of(registry, "manifests", reference);
	if (!url)
		return lm_err_oom(err);
	int r = get(registry, url, ret, err);
	if (r == -ENOENT)
		return lm_err_set(err, r, "%s has no %s:%s", registry->host, registry->repository, reference);
	return r;
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
		return lm_err_set(
			err, -EBADMSG, "%s: manifest %s has other content: %s", registry->host, registry->digest, seen);
	return r;
}

static int registry_manifest(
	struct lm_source *source, const char *digest, uint64_t size, struct lm_document *ret, struct lm_err *err)
{
	return get_manifest((struct registry *)source, digest, ret, err);
}

static ssize_t stream_read(struct lm_blob *blob, void *ret, size_t len, struct lm_err *err)
{
	return lm_http_stream_read(((struct stream_blob *)blob)->stream, ret, len, err);
}

static void stream_close(struct lm_blob *blob)
{
	lm_http_stream_close(((struct stream_blob *)blob)->stream);
	free(blob);
}

static const struct lm_blob_ops stream_ops = {stream_read, stream_close};

static int open_stream(struct registry *registry, const char *url, struct lm_http_stream **ret, struct lm_err *err)
{
	const char *lines[] = {registry->authorization, NULL};
	const struct lm_http_request request = {
		.url = url,
		.headers = lines,
		.stall_timeout_ms = STALL_MS,
		.follow_redirects = true,
	};
	return lm_http_stream_open(registry->http, &request, BLOB_WINDOW, ret, err);
}

static int registry_blob(
	struct lm_source *source, const char *digest, uint64_t size, struct lm_blob **ret, struct lm_err *err)
{
	struct registry *registry = (struct registry *)source;
	CLEANUP(lm_freep) char *url = url_of(registry, "blobs", digest);
	struct stream_blob *blob;
	CLEANUP(lm_http_stream_closep) struct lm_http_stream *stream = NULL;
	if (!url)
		return lm_err_oom(err);
	int r = open_stream(registry, url, &stream, err);
	if (r == -EACCES && renew_authorization(registry, NULL) == 0)
		r = open_stream(registry, url, &stream, err);
	if (r == -ENOENT)
		return lm_err_set(err, r, "%s has no blob %s of %s", registry->host, digest, registry->repository);
	if (r < 0)
		return r;
	blob = calloc(1, sizeof(*blob));
	if (!blob)
		return lm_err_oom(err);
	blob->blob.ops = &stream_ops;
	blob->stream = STEAL(stream);
	*ret = &blob->blob;
	return 0;
}

static const struct lm_source_ops registry_ops = {
	.resolve = registry_resolve,
	.manifest = registry_manifest,
	.blob = registry_blob,
	.free = registry_free,
};

int lm_registry_open(
	const struct lm_reference *reference, struct lm_http *http, struct lm_source **ret, struct lm_err *err)
{
	struct registry *registry = calloc(1, sizeof(*registry));
	if (!registry)
		return lm_err_oom(err);
	CLEANUP(lm_source_freep) struct lm_source *source = &registry->source;
	source->ops = &registry_ops;
	registry->http = http;
	registry->loopback = is_loopback(reference->registry);
	registry->host = strdup(reference->registry);
	registry->repository = strdup(reference->repository);
	registry->reference = strdup(reference->digest ? reference->digest : reference->tag);
	registry->digest = reference->digest ? strdup(reference->digest) : NULL;
	if (!registry->host || !registry->repository || !registry->reference ||
		(reference->digest && !registry->digest))
		return lm_err_oom(err);
	*ret = STEAL(source);
	return 0;
}
