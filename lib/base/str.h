/* Text helpers: hexadecimal, quoting of foreign bytes, strict numbers, joining paths. */
#ifndef LM_BASE_STR_H
#define LM_BASE_STR_H

#include "base/buf.h"

/* Writes 2*len lower-case digits and a NUL. */
void lm_hex_format(const uint8_t *bytes, size_t len, char *ret);

/* Exactly 2*len lower-case digits (nothing after them is looked at): 0 or -EPROTO. */
int lm_hex_parse(const char *text, uint8_t *ret, size_t len) MUST_CHECK;

/* Appends "text" in double quotes; bytes outside printable ASCII, quotes and backslashes as \xHH, \", \\. */
int lm_str_quote(struct lm_buf *out, const char *text, size_t len) MUST_CHECK;

/* The whole of text[0..len) is one decimal number without sign, blank or leading plus: 0, -EPROTO or -ERANGE. */
int lm_str_u64(const char *text, size_t len, uint64_t *ret) MUST_CHECK;
int lm_str_i64(const char *text, size_t len, int64_t *ret) MUST_CHECK; /* one leading '-' allowed */

/* Undoes the %HH of URLs in place. False for bad ones and for NUL bytes. */
bool lm_str_unescape(char *text) MUST_CHECK;

bool lm_str_starts(const char *text, const char *prefix);
bool lm_str_ends(const char *text, const char *suffix);

/* A copy of text[0..len) with a NUL after it; text itself needs none. NULL when memory is short; the caller frees. */
char *lm_str_ndup(const char *text, size_t len);

/* asprintf that returns NULL when memory is short; the caller frees. */
char *lm_str_printf(const char *fmt, ...) PRINTF_LIKE(1, 2);

#endif
