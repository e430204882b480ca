/*
 * What a client asks a registry for: the paths of the OCI distribution specification.
 *
 *   /v2/                            that this is a registry
 *   /v2/_catalog                    names
 *   /v2/NAME/tags/list              tags
 *   /v2/NAME/manifests/REFERENCE    a manifest or index by tag or digest
 *   /v2/NAME/blobs/DIGEST           a blob
 *
 * and ?ns=HOST[:PORT], by which containerd tells a mirror whose images it means.
 */
#ifndef LM_TOOLS_REGISTRY_REQUEST_H
#define LM_TOOLS_REGISTRY_REQUEST_H

#include "base/err.h"

enum {
	LM_REGISTRY_PATH_MAX = 1024,
	LM_REGISTRY_NAME_MAX = 256,
	LM_REGISTRY_REFERENCE_MAX = 136,
};

enum lm_registry_kind {
	LM_REGISTRY_ROOT,
	LM_REGISTRY_CATALOG,
	LM_REGISTRY_TAGS,
	LM_REGISTRY_MANIFEST,
	LM_REGISTRY_BLOB,
};

struct lm_registry_request {
	enum lm_registry_kind kind;
	char ns[LM_REGISTRY_NAME_MAX];		   /* "": not said */
	char name[LM_REGISTRY_NAME_MAX];	   /* "": of ROOT and CATALOG */
	char reference[LM_REGISTRY_REFERENCE_MAX]; /* of MANIFEST a tag or digest, of BLOB a digest */
};

/* path and ns as they were sent, with their %HH; ns NULL: not said. What is accepted is safe to put into a path. On
 * failure *ret_code is the specification's word for it ("NAME_INVALID" and the like): -ENOENT no such path, -EINVAL. */
int lm_registry_request_parse(const char *path, const char *ns, struct lm_registry_request *ret, const char **ret_code,
	struct lm_err *err) MUST_CHECK;

#endif
