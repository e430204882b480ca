/* Of any text there is a holder, which is written and reads back the same, and a sentence of printable characters. */
#include "base/str.h"
#include "repo/holder.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_freep) char *text = lm_str_ndup((const char *)data, size);
	const struct lm_holder holder = lm_holder_parse(text);
	const struct lm_holder_text written = lm_holder_format(&holder);
	const struct lm_holder again = lm_holder_parse(written.s);
	assert(again.pid == holder.pid && again.since_s == holder.since_s);
	assert(strcmp(again.command, holder.command) == 0 && strcmp(again.host, holder.host) == 0);
	const struct lm_holder_text said = lm_holder_describe(&holder);
	for (const char *c = said.s; *c; c++)
		assert(*c >= ' ' && *c <= '~');
	return 0;
}
