/* A request's path and, after a newline, its ns. What is accepted is safe to put into a path. */
#include "base/str.h"
#include "oci/reference.h"
#include "registry/request.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_part(const char *text, bool slashes)
{
	if (strstr(text, "..") || *text == '.' || *text == '/' || lm_str_ends(text, "/") || strstr(text, "//") ||
		strstr(text, "/.") || (!slashes && strchr(text, '/')))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_freep) char *text = lm_str_ndup((const char *)data, size);
	struct lm_registry_request request;
	struct lm_err err = LM_ERR_INIT;
	const char *code = NULL;
	if (!text)
		return 0;
	char *ns = strchr(text, '\n');
	if (ns)
		*ns++ = '\0';
	if (lm_registry_request_parse(text, ns, &request, &code, &err) < 0) {
		if (!code || !err.code)
			abort();
		return 0;
	}
	if (*request.ns && (!lm_registry_valid(request.ns) || strchr(request.ns, '/') || *request.ns == '.'))
		abort();
	check_part(request.name, true);
	if (strchr(request.name, ':') || strlen(request.name) > 255)
		abort();
	if ((request.kind == LM_REGISTRY_MANIFEST || request.kind == LM_REGISTRY_BLOB) != (*request.reference != '\0'))
		abort();
	if (*request.reference && !lm_digest_valid(request.reference) &&
		(request.kind == LM_REGISTRY_BLOB || !lm_tag_valid(request.reference)))
		abort();
	return 0;
}
