#include "registry/request.h"

#include "base/str.h"
#include "oci/reference.h"

#include <stdio.h>
#include <string.h>

/* Copies text and undoes its %HH. */
static int unescape(const char *text, char *ret, size_t size, struct lm_err *err)
{
	size_t len = strnlen(text, size);
	if (len == size)
		return lm_err_set(err, -EINVAL, "more than %zu characters", size - 1);
	memcpy(ret, text, len + 1);
	return lm_str_unescape(ret) ? 0 : lm_err_set(err, -EINVAL, "a %% without two digits, or a zero byte");
}

/* Cuts text at the last slash; NULL: there is none. */
static char *cut_last(char *text)
{
	char *slash = strrchr(text, '/');
	if (!slash)
		return NULL;
	*slash = '\0';
	return slash + 1;
}

static int no_path(struct lm_err *err)
{
	return lm_err_set(err, -ENOENT, "no such path; /v2/NAME/manifests/REFERENCE and the like are there");
}

static int set_name(const char *name, struct lm_registry_request *ret, const char **ret_code, struct lm_err *err)
{
	*ret_code = "NAME_INVALID";
	if (strlen(name) >= sizeof(ret->name) || !lm_repository_valid(name))
		return lm_err_set(err, -EINVAL, "this is no name of an image's repository");
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	return 0;
}

static int set_reference(
	const char *reference, struct lm_registry_request *ret, const char **ret_code, struct lm_err *err)
{
	const bool digest = lm_digest_valid(reference);
	if (ret->kind == LM_REGISTRY_BLOB || strchr(reference, ':')) {
		*ret_code = "DIGEST_INVALID";
		if (!digest)
			return lm_err_set(
				err, -EINVAL, "this is no digest: sha256: and 64 lower-case digits are wanted");
	} else {
		*ret_code = "TAG_INVALID";
		if (!lm_tag_valid(reference))
			return lm_err_set(err, -EINVAL, "this is no tag");
	}
	snprintf(ret->reference, sizeof(ret->reference), "%s", reference);
	return 0;
}

/* NAME/manifests/REFERENCE, NAME/blobs/DIGEST, NAME/tags/list; the text is cut into pieces. */
static int parse_named(char *text, struct lm_registry_request *ret, const char **ret_code, struct lm_err *err)
{
	const char *last = cut_last(text), *what = last ? cut_last(text) : NULL;
	if (!what)
		return no_path(err);
	if (strcmp(what, "manifests") == 0)
		ret->kind = LM_REGISTRY_MANIFEST;
	else if (strcmp(what, "blobs") == 0)
		ret->kind = LM_REGISTRY_BLOB;
	else if (strcmp(what, "tags") == 0 && strcmp(last, "list") == 0)
		ret->kind = LM_REGISTRY_TAGS;
	else
		return no_path(err);
	int r = set_name(text, ret, ret_code, err);
	return r < 0 || ret->kind == LM_REGISTRY_TAGS ? r : set_reference(last, ret, ret_code, err);
}

int lm_registry_request_parse(
	const char *path, const char *ns, struct lm_registry_request *ret, const char **ret_code, struct lm_err *err)
{
	struct lm_registry_request request = {.kind = LM_REGISTRY_ROOT};
	char text[LM_REGISTRY_PATH_MAX];
	*ret_code = "UNSUPPORTED";
	int r = unescape(path, text, sizeof(text), err);
	if (r < 0)
		return lm_err_prefix(err, r, "path");
	*ret_code = "NAME_INVALID";
	r = ns ? unescape(ns, request.ns, sizeof(request.ns), err) : 0;
	if (r == 0 && *request.ns && !lm_registry_valid(request.ns))
		r = lm_err_set(err, -EINVAL, "this is no HOST[:PORT]");
	if (r < 0)
		return lm_err_prefix(err, r, "ns");
	*ret_code = "UNSUPPORTED";
	if (strcmp(text, "/v2/_catalog") == 0)
		request.kind = LM_REGISTRY_CATALOG;
	else if (strcmp(text, "/v2") != 0 && strcmp(text, "/v2/") != 0)
		r = lm_str_starts(text, "/v2/") ? parse_named(text + strlen("/v2/"), &request, ret_code, err)
						: no_path(err);
	if (r == 0)
		*ret = request;
	return r;
}
