#include "oci/source.h"

#include "oci/source_internal.h"

#include <string.h>

enum { INDEX_DEPTH_MAX = 3 };

void lm_document_done(struct lm_document *document)
{
	lm_buf_done(&document->text);
	free(document->media_type);
	document->media_type = NULL;
}

int lm_source_open(const struct lm_reference *reference, const struct lm_access *access, struct lm_source **ret,
	struct lm_err *err)
{
	switch (reference->transport) {
	case LM_TRANSPORT_DOCKER:
		return lm_registry_open(reference, access, ret, err);
	case LM_TRANSPORT_OCI:
	case LM_TRANSPORT_OCI_ARCHIVE:
		return lm_layout_open(reference, access, ret, err);
	case LM_TRANSPORT_DOCKER_ARCHIVE:
		return lm_docker_archive_open(reference, access, ret, err);
	}
	return lm_err_set(err, -EINVAL, "no such kind of image source");
}

void lm_source_free(struct lm_source *source)
{
	if (source)
		source->ops->free(source);
}

const char *lm_source_name(const struct lm_source *source)
{
	return source->ops->name ? source->ops->name(source) : NULL;
}

int lm_source_blob(
	struct lm_source *source, const char *digest, uint64_t size, struct lm_blob **ret, struct lm_err *err)
{
	CLEANUP(lm_blob_closep) struct lm_blob *blob = NULL;
	if (!lm_digest_valid(digest))
		return lm_err_set(err, -EINVAL, "\"%.100s\" is no SHA-256 digest", digest);
	int r = source->ops->blob(source, digest, size, &blob, err);
	if (r < 0)
		return r;
	memcpy(blob->digest, digest, LM_DIGEST_MAX);
	blob->size = size;
	r = lm_digester_new(&blob->digester, err);
	if (r < 0)
		return r;
	*ret = STEAL(blob);
	return 0;
}

static int verify_end(struct lm_blob *blob, struct lm_err *err)
{
	char digest[LM_DIGEST_MAX];
	if (blob->seen != blob->size)
		return lm_err_set(err, -EBADMSG, "blob %s ends after %llu of %llu bytes", blob->digest,
			(unsigned long long)blob->seen, (unsigned long long)blob->size);
	int r = lm_digester_finish(blob->digester, digest, err);
	if (r == 0 && strcmp(digest, blob->digest) != 0)
		return lm_err_set(err, -EBADMSG, "blob %s has other content: %s", blob->digest, digest);
	return r;
}

static int verify_piece(struct lm_blob *blob, const void *data, size_t len, struct lm_err *err)
{
	if (len > blob->size - blob->seen)
		return lm_err_set(err, -EBADMSG, "blob %s goes on after %llu bytes, its size", blob->digest,
			(unsigned long long)blob->size);
	blob->seen += len;
	return lm_digester_update(blob->digester, data, len, err);
}

ssize_t lm_blob_read(struct lm_blob *blob, void *ret, size_t len, struct lm_err *err)
{
	if (blob->ended < 0)
		return lm_err_set(err, blob->ended, "blob %s has failed before", blob->digest);
	if (blob->ended > 0 || len == 0)
		return 0;
	ssize_t n = blob->ops->read(blob, ret, len, err);
	if (n < 0) {
		blob->ended = (int)n;
		return lm_err_prefix(err, blob->ended, "blob %s", blob->digest);
	}
	int r = n == 0 ? verify_end(blob, err) : verify_piece(blob, ret, (size_t)n, err);
	if (n == 0 || r < 0)
		blob->ended = r < 0 ? r : 1;
	return r < 0 ? r : n;
}

void lm_blob_close(struct lm_blob *blob)
{
	if (!blob)
		return;
	lm_digester_free(blob->digester);
	blob->ops->close(blob);
}

/* A blob that is small by its declared size, whole. */
static int read_blob(
	struct lm_source *source, const char *digest, uint64_t size, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_blob_closep) struct lm_blob *blob = NULL;
	if (size > LM_MANIFEST_JSON_MAX)
		return lm_err_set(err, -EPROTO, "%s: %llu bytes (%d are allowed)", digest, (unsigned long long)size,
			LM_MANIFEST_JSON_MAX);
	int r = lm_source_blob(source, digest, size, &blob, err);
	for (ssize_t n = 1; r == 0 && n > 0;) {
		uint8_t piece[16 << 10];
		n = lm_blob_read(blob, piece, sizeof(piece), err);
		r = n < 0 ? (int)n : lm_buf_append(ret, piece, (size_t)n);
		if (n >= 0 && r < 0)
			return lm_err_oom(err);
	}
	return r;
}

static int fetch_manifest(
	struct lm_source *source, const char *digest, uint64_t size, struct lm_document *ret, struct lm_err *err)
{
	char seen[LM_DIGEST_MAX];
	CLEANUP(lm_document_done) struct lm_document document = {.text = LM_BUF(LM_MANIFEST_JSON_MAX)};
	int r = source->ops->manifest ? source->ops->manifest(source, digest, size, &document, err)
				      : read_blob(source, digest, size, &document.text, err);
	if (r == 0)
		r = lm_digest_data(document.text.data, document.text.len, seen, err);
	if (r < 0)
		return r;
	if (strcmp(seen, digest) != 0 || document.text.len != size)
		return lm_err_set(
			err, -EBADMSG, "manifest %s has other content: %s, %zu bytes", digest, seen, document.text.len);
	lm_document_done(ret);
	*ret = document;
	document = (struct lm_document){.text = LM_BUF(0)};
	return 0;
}

/* Replaces an index by what it holds for the platform. */
static int descend(
	struct lm_source *source, const struct lm_platform *platform, struct lm_document *document, struct lm_err *err)
{
	CLEANUP(lm_index_done) struct lm_index index = {0};
	const struct lm_descriptor *chosen;
	int r = lm_index_parse((const char *)document->text.data, document->text.len, &index, err);
	if (r == 0)
		r = lm_index_choose(&index, platform, &chosen, err);
	return r < 0 ? r : fetch_manifest(source, chosen->digest, chosen->size, document, err);
}

/* What the reference names: an image's manifest or an index. */
static int fetch_top(
	struct lm_source *source, const struct lm_platform *platform, struct lm_document *document, struct lm_err *err)
{
	char digest[LM_DIGEST_MAX] = "";
	uint64_t size = 0;
	int r = source->ops->resolve(source, platform, document, digest, &size, err);
	return r == 0 && digest[0] ? fetch_manifest(source, digest, size, document, err) : r;
}

static int is_index(const struct lm_document *document, bool *ret, struct lm_err *err)
{
	return lm_manifest_kind((const char *)document->text.data, document->text.len, document->media_type, ret, err);
}

static int too_deep(struct lm_err *err)
{
	return lm_err_set(err, -EPROTO, "indexes in indexes, more than %d deep", INDEX_DEPTH_MAX);
}

/* An index in an index is not kept: what stands at the top then does not name the manifest itself. */
static int keep_index(const struct lm_document *document, unsigned depth, struct lm_buf *ret, struct lm_err *err)
{
	lm_buf_done(ret);
	*ret = LM_BUF(LM_MANIFEST_JSON_MAX);
	return depth > 0 || lm_buf_append(ret, document->text.data, document->text.len) == 0 ? 0 : lm_err_oom(err);
}

/* Gives the manifest of an image, whether an index was on the way to it, and that index. */
static int find_manifest(struct lm_source *source, const struct lm_platform *platform, struct lm_document *document,
	bool *ret_indexed, struct lm_buf *ret_index, struct lm_err *err)
{
	bool index = false;
	int r = fetch_top(source, platform, document, err);
	for (unsigned depth = 0; r == 0; depth++) {
		r = is_index(document, &index, err);
		if (r < 0 || !index) {
			*ret_indexed = depth > 0;
			return r;
		}
		if (depth == INDEX_DEPTH_MAX)
			return too_deep(err);
		r = keep_index(document, depth, ret_index, err);
		if (r == 0)
			r = descend(source, platform, document, err);
	}
	return r;
}

/* An image that stands alone is taken for what it is, unless another platform was asked for. */
static int check_platform(const struct lm_image *image, const struct lm_platform *p, struct lm_err *err)
{
	const struct lm_platform own = {image->os ? image->os : p->os,
		image->architecture ? image->architecture : p->architecture, image->variant};
	if (lm_platform_rank(p, &own) >= 0)
		return 0;
	return lm_err_set(err, -ENOENT, "the only image is for platform %s/%s%s%s, not %s/%s%s%s", own.os,
		own.architecture, own.variant ? "/" : "", own.variant ? own.variant : "", p->os, p->architecture,
		p->variant ? "/" : "", p->variant ? p->variant : "");
}

/* Takes the text of the manifest. */
static int load_image(struct lm_source *source, struct lm_document *document, struct lm_image *ret, struct lm_err *err)
{
	CLEANUP(lm_image_done) struct lm_image image = {0};
	int r = lm_image_parse_manifest((const char *)document->text.data, document->text.len, &image, err);
	if (r == 0)
		r = lm_digest_data(document->text.data, document->text.len, image.digest, err);
	if (r < 0)
		return r;
	image.manifest = document->text;
	document->text = LM_BUF(LM_MANIFEST_JSON_MAX);
	image.config = LM_BUF(LM_MANIFEST_JSON_MAX);
	r = read_blob(source, image.config_digest, image.config_size, &image.config, err);
	if (r == 0)
		r = lm_image_parse_config(&image, lm_buf_cstr(&image.config), image.config.len, err);
	if (r < 0)
		return lm_err_prefix(err, r, "image %s", image.digest);
	*ret = image;
	image = (struct lm_image){0};
	return 0;
}

int lm_source_image(
	struct lm_source *source, const struct lm_platform *platform, struct lm_image *ret, struct lm_err *err)
{
	CLEANUP(lm_document_done) struct lm_document document = {.text = LM_BUF(LM_MANIFEST_JSON_MAX)};
	CLEANUP(lm_image_done) struct lm_image image = {0};
	CLEANUP(lm_buf_done) struct lm_buf index = LM_BUF(0);
	const struct lm_platform host = lm_platform_host();
	bool indexed = false;
	int r = find_manifest(source, platform ? platform : &host, &document, &indexed, &index, err);
	if (r == 0)
		r = load_image(source, &document, &image, err);
	if (r == 0 && platform && !indexed)
		r = check_platform(&image, platform, err);
	if (r < 0)
		return r;
	*ret = image;
	ret->index = index;
	image = (struct lm_image){0};
	index = LM_BUF(0);
	return 0;
}

/* --- all images --- */

void lm_images_done(struct lm_images *images)
{
	for (size_t i = 0; i < images->count; i++)
		lm_image_done(&images->items[i]);
	free(images->items);
	*images = (struct lm_images){0};
}

/* index: the one that names it; empty: none. */
static int add_image(struct lm_source *source, struct lm_document *document, const struct lm_buf *index,
	struct lm_images *images, struct lm_err *err)
{
	struct lm_image image = {0};
	if (images->count == LM_IMAGES_MAX)
		return lm_err_set(err, -EPROTO, "an index of more than %d images", LM_IMAGES_MAX);
	int r = load_image(source, document, &image, err);
	if (r < 0)
		return r;
	image.index = LM_BUF(LM_MANIFEST_JSON_MAX);
	if (index->len > 0 && lm_buf_append(&image.index, index->data, index->len) < 0) {
		lm_image_done(&image);
		return lm_err_oom(err);
	}
	for (size_t i = 0; i < images->count; i++)
		if (strcmp(images->items[i].digest, image.digest) == 0) {
			lm_image_done(&image);
			return 0;
		}
	images->items[images->count++] = image;
	return 0;
}

static bool is_attestation(const struct lm_descriptor *d)
{
	return d->os && d->architecture && strcmp(d->os, "unknown") == 0 && strcmp(d->architecture, "unknown") == 0;
}

/* The images of an index, of those in it, or the image itself. As deep as indexes may be. top: the index at the top,
 * below it; else empty. */
static int walk(struct lm_source *source, struct lm_document *document, unsigned depth, const struct lm_buf *top,
	struct lm_images *images, struct lm_err *err)
{
	static const struct lm_buf none;
	CLEANUP(lm_index_done) struct lm_index index = {0};
	bool has_others = false;
	int r = is_index(document, &has_others, err);
	if (r < 0 || !has_others)
		return r < 0 ? r : add_image(source, document, depth == 1 ? top : &none, images, err);
	if (depth == INDEX_DEPTH_MAX)
		return too_deep(err);
	r = lm_index_parse((const char *)document->text.data, document->text.len, &index, err);
	for (size_t i = 0; r == 0 && i < index.count; i++) {
		CLEANUP(lm_document_done) struct lm_document inner = {.text = LM_BUF(LM_MANIFEST_JSON_MAX)};
		if (is_attestation(&index.items[i]))
			continue;
		r = fetch_manifest(source, index.items[i].digest, index.items[i].size, &inner, err);
		if (r == 0)
			r = walk(source, &inner, depth + 1, depth == 0 ? &document->text : &none, images, err);
	}
	return r;
}

int lm_source_images(struct lm_source *source, struct lm_images *ret, struct lm_err *err)
{
	CLEANUP(lm_document_done) struct lm_document document = {.text = LM_BUF(LM_MANIFEST_JSON_MAX)};
	CLEANUP(lm_images_done) struct lm_images images = {0};
	const struct lm_platform host = lm_platform_host();
	images.items = calloc(LM_IMAGES_MAX, sizeof(*images.items));
	if (!images.items)
		return lm_err_oom(err);
	int r = fetch_top(source, &host, &document, err);
	if (r == 0)
		r = walk(source, &document, 0, &document.text, &images, err);
	if (r < 0)
		return r;
	if (images.count == 0)
		return lm_err_set(err, -ENOENT, "the index holds no image");
	*ret = images;
	images = (struct lm_images){0};
	return 0;
}
