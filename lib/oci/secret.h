/* Text that is nobody else's business: overwritten before it is given back. */
#ifndef LM_OCI_SECRET_H
#define LM_OCI_SECRET_H

#include "base/buf.h"

#include <string.h>

static inline void lm_secret_free(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
}
LM_DEFINE_CLEANUP(char, lm_secret_free, lm_secret_freep)

/* Give it its room by lm_buf_reserve() first: a buffer that grows leaves copies behind. */
static inline void lm_secret_buf_done(struct lm_buf *buf)
{
	if (buf->data)
		explicit_bzero(buf->data, buf->cap);
	lm_buf_done(buf);
}

#endif
