/*
 * A name in a registry, without a choice of image: which tags there are, and which digest a tag stands for now.
 *
 * Mirrors are asked first, each as source.h's registries are: credentials, certificates, patience. Any thread, several
 * at once; tokens that one call has got are used by the others.
 */
#ifndef LM_OCI_TAGS_H
#define LM_OCI_TAGS_H

#include "base/texts.h"
#include "oci/access.h"
#include "oci/image.h"

struct lm_tags;

/* registry: HOST[:PORT]; repository: a valid name (reference.h). access outlives it. */
int lm_tags_open(const char *registry, const char *repository, const struct lm_access *access, struct lm_tags **ret,
	struct lm_err *err) MUST_CHECK;
void lm_tags_free(struct lm_tags *tags);
LM_DEFINE_CLEANUP(struct lm_tags, lm_tags_free, lm_tags_freep)

/* More tags than LM_TAGS_MAX, or pages without end: -EPROTO. */
enum { LM_TAGS_MAX = 100000, LM_TAGS_PAGE = 1000 };

/* All tags that fit the pattern, sorted, each once; names that are no tags are left out. -ENOENT: no such repository.
 */
int lm_tags_list(struct lm_tags *tags, const char *pattern, struct lm_texts *ret, struct lm_err *err) MUST_CHECK;

/* What a tag or digest stands for: the digest of a manifest or index. One HEAD request; where the server does not say
 * it then, the manifest is read. Believed as it is said: who fetches the content verifies that. */
int lm_tags_digest(struct lm_tags *tags, const char *reference, char ret[LM_DIGEST_MAX], struct lm_err *err) MUST_CHECK;

/* Each * of the pattern stands for any number of characters, all else for itself: the wildcards of DUCC's recipes. */
bool lm_tag_matches(const char *pattern, const char *tag);

/* One page, {"name": …, "tags": […]}: adds those that fit, in the order they come. *ret_count: of all that the page
 * has. -EPROTO. */
int lm_tags_parse(const char *json, size_t len, const char *pattern, struct lm_texts *list, size_t *ret_count,
	struct lm_err *err) MUST_CHECK;

#endif
