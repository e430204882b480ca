/*
 * A small OCI layout for tests: two images of two layers each (amd64 tagged "one", arm64 tagged "other"), and an index
 * of both tagged "multi". Layers are bytes without meaning; their digests are right. Failures end the test.
 */
#ifndef LM_TESTS_OCI_FIXTURE_H
#define LM_TESTS_OCI_FIXTURE_H

#include "base/file.h"
#include "base/str.h"
#include "oci/digest.h"
#include "oci/source.h"

#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define FIXTURE_MANIFEST_TYPE "application/vnd.oci.image.manifest.v1+json"
#define FIXTURE_INDEX_TYPE "application/vnd.oci.image.index.v1+json"

enum { FIXTURE_LAYER_BYTES = 300000 };

struct fixture {
	char dir[64];
	struct {
		char manifest[LM_DIGEST_MAX], config[LM_DIGEST_MAX], layers[2][LM_DIGEST_MAX];
		size_t manifest_size;
	} images[2]; /* amd64, arm64 */
	char index[LM_DIGEST_MAX];
	size_t index_size;
};

static inline void fixture_write(const struct fixture *f, const char *name, const void *data, size_t len)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", f->dir, name);
	assert_int_equal(lm_file_replace(AT_FDCWD, path, data, len, 0644, 0, NULL), 0);
}

static inline void fixture_blob_path(const char *digest, char ret[96])
{
	snprintf(ret, 96, "blobs/sha256/%.64s", digest + strlen("sha256:"));
}

static inline void fixture_blob(const struct fixture *f, const void *data, size_t len, char digest[LM_DIGEST_MAX])
{
	char path[96];
	assert_int_equal(lm_digest_data(data, len, digest, NULL), 0);
	fixture_blob_path(digest, path);
	fixture_write(f, path, data, len);
}

/* Layer bytes that look like nothing, the same in every run. */
static inline void fixture_layer(const struct fixture *f, unsigned seed, char digest[LM_DIGEST_MAX])
{
	CLEANUP(lm_freep) uint8_t *data = malloc(FIXTURE_LAYER_BYTES);
	uint32_t x = seed * 2654435761u + 1;
	for (size_t i = 0; i < FIXTURE_LAYER_BYTES; i++) {
		x = x * 1664525 + 1013904223;
		data[i] = (uint8_t)(x >> 24);
	}
	fixture_blob(f, data, FIXTURE_LAYER_BYTES, digest);
}

static inline void fixture_image(struct fixture *f, unsigned n, const char *arch)
{
	char *digests[] = {f->images[n].layers[0], f->images[n].layers[1]};
	for (unsigned i = 0; i < 2; i++)
		fixture_layer(f, i ? 100 + n : 1, digests[i]); /* the lower layer is shared */
	CLEANUP(lm_freep)
	char *config = lm_str_printf("{\"created\":\"2024-01-02T03:04:05Z\",\"architecture\":\"%s\",\"os\":\"linux\","
				     "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"%s\",\"%s\"]}}",
		arch, digests[0], digests[1]);
	fixture_blob(f, config, strlen(config), f->images[n].config);
	CLEANUP(lm_freep)
	char *manifest = lm_str_printf(
		"{\"schemaVersion\":2,\"mediaType\":\"" FIXTURE_MANIFEST_TYPE "\","
		"\"config\":{\"mediaType\":\"application/"
		"vnd.oci.image.config.v1+json\",\"digest\":\"%s\",\"size\":%zu},"
		"\"layers\":[{\"mediaType\":\"application/"
		"vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"%s\",\"size\":%d},"
		"{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"%s\",\"size\":%d}]}",
		f->images[n].config, strlen(config), digests[0], FIXTURE_LAYER_BYTES, digests[1], FIXTURE_LAYER_BYTES);
	f->images[n].manifest_size = strlen(manifest);
	fixture_blob(f, manifest, strlen(manifest), f->images[n].manifest);
}

static inline void fixture_make(struct fixture *f)
{
	snprintf(f->dir, sizeof(f->dir), "/tmp/lamella-oci.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	CLEANUP(lm_freep) char *blobs = lm_str_printf("%s/blobs/sha256", f->dir);
	assert_int_equal(lm_mkdir_p(AT_FDCWD, blobs, 0755, NULL), 0);
	fixture_write(f, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}", 30);
	fixture_image(f, 0, "amd64");
	fixture_image(f, 1, "arm64");
	CLEANUP(lm_freep)
	char *index = lm_str_printf("{\"schemaVersion\":2,\"mediaType\":\"" FIXTURE_INDEX_TYPE "\",\"manifests\":["
				    "{\"mediaType\":\"" FIXTURE_MANIFEST_TYPE "\",\"digest\":\"%s\",\"size\":%zu,"
				    "\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}},"
				    "{\"mediaType\":\"" FIXTURE_MANIFEST_TYPE "\",\"digest\":\"%s\",\"size\":%zu,"
				    "\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\",\"variant\":\"v8\"}}]}",
		f->images[0].manifest, f->images[0].manifest_size, f->images[1].manifest, f->images[1].manifest_size);
	f->index_size = strlen(index);
	fixture_blob(f, index, strlen(index), f->index);
	CLEANUP(lm_freep)
	char *top = lm_str_printf("{\"schemaVersion\":2,\"manifests\":["
				  "{\"mediaType\":\"" FIXTURE_MANIFEST_TYPE "\",\"digest\":\"%s\",\"size\":%zu,"
				  "\"annotations\":{\"org.opencontainers.image.ref.name\":\"one\"}},"
				  "{\"mediaType\":\"" FIXTURE_MANIFEST_TYPE "\",\"digest\":\"%s\",\"size\":%zu,"
				  "\"annotations\":{\"org.opencontainers.image.ref.name\":\"other\"}},"
				  "{\"mediaType\":\"" FIXTURE_INDEX_TYPE "\",\"digest\":\"%s\",\"size\":%zu,"
				  "\"annotations\":{\"org.opencontainers.image.ref.name\":\"multi\"}}]}",
		f->images[0].manifest, f->images[0].manifest_size, f->images[1].manifest, f->images[1].manifest_size,
		f->index, f->index_size);
	fixture_write(f, "index.json", top, strlen(top));
}

static inline void fixture_drop(struct fixture *f)
{
	assert_int_equal(lm_remove_tree(AT_FDCWD, f->dir, NULL), 0);
}

static const struct lm_platform fixture_amd64 = {"linux", "amd64", NULL}, fixture_arm64 = {"linux", "arm64", "v8"};

/* From a reference's text to the image, and the source left open where it is wanted. */
static inline int fixture_get(struct lm_http *http, const char *text, const struct lm_platform *platform,
	struct lm_image *ret, struct lm_source **ret_source, struct lm_err *err)
{
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	static struct lm_access access;
	access = (struct lm_access){.http = http, .backoff_ms = 1};
	int r = lm_reference_parse(text, &ref, err);
	if (r == 0)
		r = lm_source_open(&ref, &access, &source, err);
	if (r == 0)
		r = lm_source_image(source, platform, ret, err);
	if (r == 0 && ret_source)
		*ret_source = STEAL(source);
	return r;
}

/* Reads a blob to its end, in odd pieces: the number of bytes, or the error. */
static inline ssize_t fixture_read(struct lm_source *source, const char *digest, uint64_t size, struct lm_err *err)
{
	CLEANUP(lm_blob_closep) struct lm_blob *blob = NULL;
	ssize_t sum = 0;
	int r = lm_source_blob(source, digest, size, &blob, err);
	if (r < 0)
		return r;
	for (;;) {
		uint8_t piece[7777];
		ssize_t n = lm_blob_read(blob, piece, sizeof(piece), err);
		if (n < 0)
			assert_int_equal(lm_blob_read(blob, piece, sizeof(piece), NULL), n); /* it stays so */
		if (n == 0)
			assert_int_equal(lm_blob_read(blob, piece, sizeof(piece), NULL), 0);
		if (n <= 0)
			return n < 0 ? n : sum;
		sum += n;
	}
}

static inline void fixture_check(const struct fixture *f, unsigned n, const struct lm_image *image)
{
	char chain[LM_DIGEST_MAX], pair[2 * LM_DIGEST_MAX];
	assert_string_equal(image->digest, f->images[n].manifest);
	assert_string_equal(image->config_digest, f->images[n].config);
	assert_int_equal(image->manifest.len, f->images[n].manifest_size);
	assert_int_equal(image->layer_count, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_string_equal(image->layers[i].digest, f->images[n].layers[i]);
		assert_string_equal(image->layers[i].diff_id, f->images[n].layers[i]);
	}
	snprintf(pair, sizeof(pair), "%s %s", image->layers[0].diff_id, image->layers[1].diff_id);
	assert_int_equal(lm_digest_data(pair, strlen(pair), chain, NULL), 0);
	assert_string_equal(image->layers[1].chain_id, chain);
}

#endif
