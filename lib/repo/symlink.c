#include "repo/symlink.h"

#include "base/str.h"

#include <string.h>

static int append_variable(const char *text, size_t len, struct lm_buf *ret)
{
	const char *colon = memmem(text, len, ":-", 2);
	CLEANUP(lm_freep) char *name = lm_str_ndup(text, colon ? (size_t)(colon - text) : len);
	if (!name)
		return -ENOMEM;
	const char *value = getenv(name);
	if (value)
		return lm_buf_str(ret, value);
	return colon ? lm_buf_append(ret, colon + 2, len - (size_t)(colon + 2 - text)) : 0;
}

int lm_symlink_expand(const char *raw, struct lm_buf *ret)
{
	for (;;) {
		const char *begin = strstr(raw, "$(");
		const char *end = begin ? strchr(begin, ')') : NULL;
		if (!end)
			return lm_buf_str(ret, raw);
		int r = lm_buf_append(ret, raw, (size_t)(begin - raw));
		if (r == 0)
			r = append_variable(begin + 2, (size_t)(end - begin - 2), ret);
		if (r < 0)
			return r;
		raw = end + 1;
	}
}
