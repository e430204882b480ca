/* The text that a user gives for an image. What is accepted is safe to put into paths, URLs and headers. */
#include "base/str.h"
#include "oci/reference.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_plain(const char *text, const char *allowed)
{
	if (strspn(text, allowed) != strlen(text) || *text == '\0')
		abort();
}

#define DIGITS "0123456789"
#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_freep) char *text = lm_str_ndup((const char *)data, size);
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	struct lm_err err = LM_ERR_INIT;
	if (!text || lm_reference_parse(text, &ref, &err) < 0)
		return 0;
	if (ref.digest && !lm_digest_valid(ref.digest))
		abort();
	if (ref.transport == LM_TRANSPORT_OCI) {
		if (!ref.path || !*ref.path || ref.registry || ref.repository || ref.digest)
			abort();
		return 0;
	}
	check_plain(ref.registry, DIGITS LOWER UPPER ".-:[]");
	check_plain(ref.repository, DIGITS LOWER "._-/");
	if (strstr(ref.repository, "..") || strstr(ref.repository, "//") || (!ref.tag && !ref.digest))
		abort();
	if (ref.tag)
		check_plain(ref.tag, DIGITS LOWER UPPER "._-");
	return 0;
}
