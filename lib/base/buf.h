/*
 * A growing byte buffer with a hard upper limit.
 *
 * There is no way to make one without a maximum, so whatever comes from network, disk or tar is bounded
 * before memory is asked for.  The data is always followed by a NUL byte that is not counted (once anything
 * was appended), so text can be used as a C string.  Not thread safe.
 */
#ifndef LM_BASE_BUF_H
#define LM_BASE_BUF_H

#include "base/err.h"

#include <stdbool.h>

struct lm_buf {
	uint8_t *data; /* NULL while nothing was ever stored */
	size_t len;
	size_t cap; /* bytes allocated, without the NUL */
	size_t max; /* append beyond this fails with -EMSGSIZE */
};

#define LM_BUF(max_bytes) ((struct lm_buf){.max = (max_bytes)})

void lm_buf_done(struct lm_buf *buf);  /* frees; the buffer is empty and usable afterwards; for CLEANUP */
void lm_buf_clear(struct lm_buf *buf); /* length 0, memory kept */

/* All return 0, -ENOMEM, or -EMSGSIZE when the maximum would be passed; on failure nothing changed. */
int lm_buf_reserve(struct lm_buf *buf, size_t more) MUST_CHECK; /* room for that many bytes after len */
int lm_buf_append(struct lm_buf *buf, const void *data, size_t len) MUST_CHECK;
int lm_buf_str(struct lm_buf *buf, const char *s) MUST_CHECK;
int lm_buf_printf(struct lm_buf *buf, const char *fmt, ...) PRINTF_LIKE(2, 3) MUST_CHECK;

/* The text as a C string, "" for an untouched buffer. Valid until the next change. */
const char *lm_buf_cstr(const struct lm_buf *buf);

/* Hands the memory (NUL-terminated) to the caller, who frees it; the buffer is empty. NULL if nothing was stored. */
uint8_t *lm_buf_steal(struct lm_buf *buf, size_t *ret_len);

#endif
