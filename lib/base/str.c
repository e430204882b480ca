#include "base/str.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static const char digits[] = "0123456789abcdef";

void lm_hex_format(const uint8_t *bytes, size_t len, char *ret)
{
	for (size_t i = 0; i < len; i++) {
		ret[2 * i] = digits[bytes[i] >> 4];
		ret[2 * i + 1] = digits[bytes[i] & 15];
	}
	ret[2 * len] = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int lm_hex_parse(const char *text, uint8_t *ret, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		int high = hex_digit(text[2 * i]);
		int low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);
		if (low < 0)
			return -EPROTO;
		ret[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}

int lm_str_quote(struct lm_buf *out, const char *text, size_t len)
{
	size_t before = out->len;
	int r = lm_buf_str(out, "\"");
	for (size_t i = 0; i < len && r == 0; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c == '"' || c == '\\')
			r = lm_buf_printf(out, "\\%c", c);
		else if (c >= ' ' && c < 0x7f)
			r = lm_buf_append(out, &c, 1);
		else
			r = lm_buf_printf(out, "\\x%02x", c);
	}
	if (r == 0)
		r = lm_buf_str(out, "\"");
	if (r < 0 && out->data) {
		out->len = before;
		out->data[before] = '\0';
	}
	return r;
}

int lm_str_u64(const char *text, size_t len, uint64_t *ret)
{
	uint64_t value = 0;
	if (len == 0)
		return -EPROTO;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -EPROTO;
		if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
			__builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value))
			return -ERANGE;
	}
	*ret = value;
	return 0;
}

int lm_str_i64(const char *text, size_t len, int64_t *ret)
{
	bool negative = len > 0 && text[0] == '-';
	uint64_t magnitude;
	int r = lm_str_u64(text + negative, len - negative, &magnitude);
	if (r < 0)
		return r;
	if (magnitude > (uint64_t)INT64_MAX + negative)
		return -ERANGE;
	*ret = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
	return 0;
}

bool lm_str_starts(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool lm_str_ends(const char *text, const char *suffix)
{
	size_t n = strlen(text), k = strlen(suffix);
	return n >= k && memcmp(text + n - k, suffix, k) == 0;
}

char *lm_str_ndup(const char *text, size_t len)
{
	char *copy = malloc(len + 1);
	if (!copy)
		return NULL;
	memcpy(copy, text, len);
	copy[len] = '\0';
	return copy;
}

char *lm_str_printf(const char *fmt, ...)
{
	char *text;
	va_list args;
	va_start(args, fmt);
	int n = vasprintf(&text, fmt, args);
	va_end(args);
	return n < 0 ? NULL : text;
}

static int hex_value(char c)
{
	return isdigit((unsigned char)c)    ? c - '0'
	       : isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10
					    : -1;
}

bool lm_str_unescape(char *text)
{
	char *to = text;
	for (const char *from = text; *from; from++) {
		if (*from != '%') {
			*to++ = *from;
			continue;
		}
		int high = hex_value(from[1]), low = high < 0 ? -1 : hex_value(from[2]);
		if (low < 0 || (high == 0 && low == 0))
			return false;
		*to++ = (char)(high << 4 | low);
		from += 2;
	}
	*to = '\0';
	return true;
}
