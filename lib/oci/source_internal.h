/* What a kind of source implements; digests, sizes and the way through indexes are the same for all (source.c). */
#ifndef LM_OCI_SOURCE_INTERNAL_H
#define LM_OCI_SOURCE_INTERNAL_H

#include "oci/digest.h"
#include "oci/source.h"

/* A manifest or index as it came. */
struct lm_document { /* strings owned */
	struct lm_buf text;
	char *media_type; /* as announced, or NULL */
};
void lm_document_done(struct lm_document *document);

struct lm_source_ops {
	/* What the reference names. Registries fill ret; layouts know a descriptor, which goes into ret_digest and
	 * ret_size and is read by manifest(). ret_digest is "" else; a digest that the reference names has been
	 * verified. platform chooses where one tag has several images; NULL: the host's. */
	int (*resolve)(struct lm_source *source, const struct lm_platform *platform, struct lm_document *ret,
		char ret_digest[LM_DIGEST_MAX], uint64_t *ret_size, struct lm_err *err);
	/* A manifest or index by digest; the caller verifies both. */
	int (*manifest)(struct lm_source *source, const char *digest, uint64_t size, struct lm_document *ret,
		struct lm_err *err);
	/* The bytes of a blob, not verified. */
	int (*blob)(
		struct lm_source *source, const char *digest, uint64_t size, struct lm_blob **ret, struct lm_err *err);
	/* A tag by which the source itself knows the image, or NULL. May be NULL. */
	const char *(*name)(const struct lm_source *source);
	void (*free)(struct lm_source *source);
};

struct lm_source {
	const struct lm_source_ops *ops;
};

struct lm_blob_ops {
	ssize_t (*read)(struct lm_blob *blob, void *ret, size_t len, struct lm_err *err);
	void (*close)(struct lm_blob *blob);
};

struct lm_blob {
	const struct lm_blob_ops *ops;
	struct lm_digester *digester; /* this and what follows: source.c's */
	char digest[LM_DIGEST_MAX];
	uint64_t size, seen;
	int ended; /* 1 at the verified end, or the error that ended it */
};

/* access: as lm_source_open() has it, but not NULL for a registry. */
int lm_layout_open(const struct lm_reference *reference, const struct lm_access *access, struct lm_source **ret,
	struct lm_err *err) MUST_CHECK;
int lm_registry_open(const struct lm_reference *reference, const struct lm_access *access, struct lm_source **ret,
	struct lm_err *err) MUST_CHECK;
int lm_docker_archive_open(const struct lm_reference *reference, const struct lm_access *access, struct lm_source **ret,
	struct lm_err *err) MUST_CHECK;

#endif
