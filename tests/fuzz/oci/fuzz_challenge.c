/* A registry's WWW-Authenticate header. */
#include "base/str.h"
#include "oci/auth.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_freep) char *text = lm_str_ndup((const char *)data, size);
	CLEANUP(lm_auth_challenge_done) struct lm_auth_challenge c = {0};
	struct lm_err err = LM_ERR_INIT;
	if (text && lm_auth_challenge_parse(text, &c, &err) == 0 && (!c.scheme || !*c.scheme))
		abort();
	return 0;
}
