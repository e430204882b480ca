/* Under which name an image is published: REGISTRY/REPOSITORY[:TAG], its directory below /.metadata. */
#ifndef LM_TOOLS_IMAGE_NAME_H
#define LM_TOOLS_IMAGE_NAME_H

#include "oci/reference.h"

/*
 * name: what the user says (checked), or NULL; own: the name by which an archive knows the image, or NULL. Else it is
 * by the reference; a layout without names is localhost/DIRECTORY:TAG, an archive localhost/FILE:TAG without its
 * suffixes. The caller frees *ret.
 */
int lm_image_name(
	const struct lm_reference *ref, const char *name, const char *own, char **ret, struct lm_err *err) MUST_CHECK;

#endif
