#include "base/buf.h"

#include <stdio.h>
#include <string.h>

void lm_buf_done(struct lm_buf *buf)
{
	free(buf->data);
	buf->data = NULL;
	buf->len = buf->cap = 0;
}

void lm_buf_clear(struct lm_buf *buf)
{
	buf->len = 0;
	if (buf->data)
		buf->data[0] = '\0';
}

int lm_buf_reserve(struct lm_buf *buf, size_t more)
{
	if (more > buf->max || buf->len > buf->max - more)
		return -EMSGSIZE;
	size_t want = buf->len + more;
	if (buf->data && want <= buf->cap)
		return 0;
	size_t cap = buf->cap > buf->max / 2 ? buf->max : LM_MAX(buf->cap * 2, (size_t)64);
	cap = LM_MIN(LM_MAX(cap, want), buf->max);
	uint8_t *data = realloc(buf->data, cap + 1);
	if (!data)
		return -ENOMEM;
	data[buf->len] = '\0';
	buf->data = data;
	buf->cap = cap;
	return 0;
}

int lm_buf_append(struct lm_buf *buf, const void *data, size_t len)
{
	int r = lm_buf_reserve(buf, len);
	if (r < 0)
		return r;
	if (len)
		memcpy(buf->data + buf->len, data, len);
	buf->len += len;
	buf->data[buf->len] = '\0';
	return 0;
}

int lm_buf_str(struct lm_buf *buf, const char *s)
{
	return lm_buf_append(buf, s, strlen(s));
}

int lm_buf_printf(struct lm_buf *buf, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	int n = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (n < 0)
		return -EINVAL;
	int r = lm_buf_reserve(buf, (size_t)n);
	if (r < 0)
		return r;
	va_start(args, fmt);
	vsnprintf((char *)buf->data + buf->len, (size_t)n + 1, fmt, args);
	va_end(args);
	buf->len += (size_t)n;
	return 0;
}

const char *lm_buf_cstr(const struct lm_buf *buf)
{
	return buf->data ? (const char *)buf->data : "";
}

uint8_t *lm_buf_steal(struct lm_buf *buf, size_t *ret_len)
{
	if (ret_len)
		*ret_len = buf->len;
	uint8_t *data = STEAL(buf->data);
	buf->len = buf->cap = 0;
	return data;
}
