/*
 * Where an image comes from: one interface over registries, layouts and archives.
 *
 * A source is used by one thread at a time, except that blobs opened from it may be read by other threads.
 */
#ifndef LM_OCI_SOURCE_H
#define LM_OCI_SOURCE_H

#include "net/http.h"
#include "oci/access.h"
#include "oci/image.h"
#include "oci/reference.h"

struct lm_source;
struct lm_blob;

/* access: for docker sources; NULL does for others. Loopback registries for which no CA certificates are kept are
 * spoken to by plain HTTP, others by https. */
int lm_source_open(const struct lm_reference *reference, const struct lm_access *access, struct lm_source **ret,
	struct lm_err *err) MUST_CHECK;
void lm_source_free(struct lm_source *source);
LM_DEFINE_CLEANUP(struct lm_source, lm_source_free, lm_source_freep)

/* Manifest (through an index by platform) and config, digests verified. platform NULL: this machine's, in an index; an
 * image that stands alone is then taken for what it is. -ENOENT no such name, tag or platform; -EBADMSG a digest does
 * not fit; -EPROTO no image that is understood; -EACCES the registry refuses. */
int lm_source_image(struct lm_source *source, const struct lm_platform *platform, struct lm_image *ret,
	struct lm_err *err) MUST_CHECK;

/* Every image there is below the reference's name, in the order of its index (which may hold indexes); of what is no
 * image, entries for the platform unknown/unknown are left out (attestations). -EPROTO: more than LM_IMAGES_MAX. */
enum { LM_IMAGES_MAX = 64 };
struct lm_images { /* owned */
	struct lm_image *items;
	size_t count;
};
void lm_images_done(struct lm_images *images);
int lm_source_images(struct lm_source *source, struct lm_images *ret, struct lm_err *err) MUST_CHECK;

/* REGISTRY/REPOSITORY:TAG by which an archive knows the image; NULL: it does not say. After lm_source_image(s). */
const char *lm_source_name(const struct lm_source *source);

/* A blob as stored. Its digest and size are verified while it is read: the read that would return the end (0) returns
 * -EBADMSG instead when they do not fit. Blobs may outlive their source. Errors stay: what failed once fails again. */
int lm_source_blob(struct lm_source *source, const char *digest, uint64_t size, struct lm_blob **ret,
	struct lm_err *err) MUST_CHECK;
ssize_t lm_blob_read(struct lm_blob *blob, void *ret, size_t len, struct lm_err *err) MUST_CHECK;
void lm_blob_close(struct lm_blob *blob);
LM_DEFINE_CLEANUP(struct lm_blob, lm_blob_close, lm_blob_closep)

#endif
