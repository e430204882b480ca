/*
 * A registry, by its HTTP API v2: /v2/NAME/manifests/REFERENCE and /v2/NAME/blobs/DIGEST.
 *
 * What a registry says about content (Docker-Content-Digest, Content-Length) is not believed: digests are computed. A
 * request that is refused is tried once more after the registry's challenge was answered. A blob whose connection
 * breaks is gone on with where it broke.
 */
#include "base/str.h"
#include "oci/auth.h"
#include "oci/source_internal.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
	STALL_MS = 30000,
	BLOB_WINDOW = 4 << 20,
	RESUMPTIONS_MAX = 3, /* in a row, without PROGRESS_MIN bytes between them */
	PROGRESS_MIN = 1 << 20,
};

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

/* A blob that is being read. Has all it needs to ask for its rest, since another thread may read it. */
struct stream_blob {
	struct lm_blob blob;
	struct lm_http *http;
	char *url, *authorization; /* authorization: NULL when none */
	struct lm_http_stream *stream;
	unsigned status; /* of the last answer */
	unsigned resumptions;
	uint64_t resumed_at;
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

static void stream_close(struct lm_blob *blob)
{
	struct stream_blob *b = (struct stream_blob *)blob;
	lm_http_stream_close(b->stream);
	free(b->url);
	free(b->authorization);
	free(b);
}

static void stream_closep(struct stream_blob **b)
{
	if (*b)
		stream_close(&(*b)->blob);
}

/* Called on the engine's thread, before lm_http_stream_open() returns. */
static void note_status(void *arg, unsigned status)
{
	((struct stream_blob *)arg)->status = status;
}

/* Asks for the blob from the first byte that has not been seen. */
static int open_stream(struct stream_blob *b, struct lm_err *err)
{
	char range[48];
	const char *lines[3] = {0};
	size_t count = 0;
	if (b->authorization)
		lines[count++] = b->authorization;
	if (b->blob.seen > 0) {
		snprintf(range, sizeof(range), "Range: bytes=%llu-", (unsigned long long)b->blob.seen);
		lines[count++] = range;
	}
	const struct lm_http_request request = {
		.url = b->url,
		.headers = lines,
		.stall_timeout_ms = STALL_MS,
		.follow_redirects = true,
		.on_answer = note_status,
		.arg = b,
	};
	return lm_http_stream_open(b->http, &request, BLOB_WINDOW, &b->stream, err);
}

/* After a connection broke. False: the rest can't be had, and the break is what the reader is told. */
static bool resume(struct stream_blob *b)
{
	if (b->blob.seen - b->resumed_at >= PROGRESS_MIN)
		b->resumptions = 0;
	while (b->blob.seen > 0 && b->resumptions < RESUMPTIONS_MAX) {
		b->resumptions++;
		b->resumed_at = b->blob.seen;
		lm_http_stream_closep(&b->stream);
		int r = open_stream(b, NULL);
		if (r == 0)
			return b->status == 206; /* 200: the server began anew */
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
		ssize_t n = lm_http_stream_read(b->stream, ret, len, &broken);
		if (n >= 0)
			return n;
		if ((n != -EIO && n != -ETIMEDOUT) || !resume(b))
			return lm_err_set(err, (int)n, "%s", broken.msg);
	}
}

static const struct lm_blob_ops stream_ops = {stream_read, stream_close};

static int set_authorization(struct stream_blob *b, const struct registry *registry, struct lm_err *err)
{
	free(b->authorization);
	b->authorization = registry->authorization ? strdup(registry->authorization) : NULL;
	return registry->authorization && !b->authorization ? lm_err_oom(err) : 0;
}

static int registry_blob(
	struct lm_source *source, const char *digest, uint64_t size, struct lm_blob **ret, struct lm_err *err)
{
	struct registry *registry = (struct registry *)source;
	CLEANUP(stream_closep) struct stream_blob *b = calloc(1, sizeof(*b));
	if (!b)
		return lm_err_oom(err);
	b->blob.ops = &stream_ops;
	b->http = registry->http;
	b->url = url_of(registry, "blobs", digest);
	if (!b->url)
		return lm_err_oom(err);
	int r = set_authorization(b, registry, err);
	if (r == 0)
		r = open_stream(b, err);
	if (r == -EACCES && renew_authorization(registry, NULL) == 0) {
		r = set_authorization(b, registry, err);
		if (r == 0)
			r = open_stream(b, err);
	}
	if (r == -ENOENT)
		return lm_err_set(err, r, "%s has no blob %s of %s", registry->host, digest, registry->repository);
	if (r < 0)
		return r;
	*ret = &STEAL(b)->blob;
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
