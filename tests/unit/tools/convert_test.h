/* For the converter's tests: tar streams made block by block, so that a test can say exactly what is in them. */
#ifndef LM_TEST_CONVERT_H
#define LM_TEST_CONVERT_H

#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct tm_header {
	const char *name, *link, *prefix;
	char type; /* 0: '0' */
	uint64_t size;
	unsigned mode; /* 0: 0644 */
	uint64_t uid, gid, mtime, major, minor;
	enum { TM_USTAR, TM_GNU, TM_V7 } format;
	bool type_nul;		       /* the type byte is NUL */
	void (*patch)(uint8_t *block); /* before the checksum */
};

static inline void tm_append(struct lm_buf *tar, const void *data, size_t len)
{
	if (lm_buf_append(tar, data, len) < 0)
		abort();
}

static inline void tm_pad(struct lm_buf *tar)
{
	static const uint8_t zeros[512];
	tm_append(tar, zeros, -tar->len % 512);
}

static inline void tm_octal(uint8_t *field, int len, uint64_t value)
{
	field[len - 1] = '\0';
	for (int i = len - 2; i >= 0; i--, value /= 8)
		field[i] = (uint8_t)('0' + value % 8);
}

static inline void tm_checksum(uint8_t *block)
{
	memset(block + 148, ' ', 8);
	unsigned sum = 0;
	for (int i = 0; i < 512; i++)
		sum += block[i];
	tm_octal(block + 148, 7, sum);
}

static inline void tm_block(struct lm_buf *tar, struct tm_header h)
{
	uint8_t block[512] = {0};
	if (h.name)
		memcpy(block, h.name, strnlen(h.name, 100));
	tm_octal(block + 100, 8, h.mode ? h.mode : 0644);
	tm_octal(block + 108, 8, h.uid);
	tm_octal(block + 116, 8, h.gid);
	tm_octal(block + 124, 12, h.size);
	tm_octal(block + 136, 12, h.mtime);
	block[156] = (uint8_t)(h.type_nul ? 0 : h.type ? h.type : '0');
	if (h.link)
		memcpy(block + 157, h.link, strnlen(h.link, 100));
	if (h.format == TM_USTAR)
		memcpy(block + 257, "ustar\00000", 8);
	else if (h.format == TM_GNU)
		memcpy(block + 257, "ustar  ", 8);
	if (h.format != TM_V7) {
		tm_octal(block + 329, 8, h.major);
		tm_octal(block + 337, 8, h.minor);
	}
	if (h.prefix)
		memcpy(block + 345, h.prefix, strnlen(h.prefix, 155));
	if (h.patch)
		h.patch(block);
	tm_checksum(block);
	tm_append(tar, block, 512);
}

static inline void tm_file(struct lm_buf *tar, struct tm_header h, const void *data, size_t len)
{
	h.size = len;
	tm_block(tar, h);
	tm_append(tar, data, len);
	tm_pad(tar);
}

/* "LEN KEY=VALUE\n" */
static inline void tm_record(struct lm_buf *records, const char *key, const void *value, size_t len)
{
	size_t body = 1 + strlen(key) + 1 + len + 1, total = body + 1;
	for (char digits[24]; total != body + (size_t)snprintf(digits, sizeof(digits), "%zu", total);)
		total = body + strlen(digits);
	if (lm_buf_printf(records, "%zu %s=", total, key) < 0)
		abort();
	tm_append(records, value, len);
	tm_append(records, "\n", 1);
}

static inline void tm_extension(struct lm_buf *tar, char type, const struct lm_buf *records)
{
	tm_file(tar, (struct tm_header){.name = "PaxHeaders/x", .type = type}, records->data, records->len);
}

/* A pax header of one record of text. */
static inline void tm_pax(struct lm_buf *tar, const char *key, const char *value)
{
	CLEANUP(lm_buf_done) struct lm_buf records = LM_BUF(1 << 20);
	tm_record(&records, key, value, strlen(value));
	tm_extension(tar, 'x', &records);
}

static inline void tm_end(struct lm_buf *tar)
{
	static const uint8_t zeros[1024];
	tm_append(tar, zeros, sizeof(zeros));
}

/* An input for the reader that gives the tar in stretches of at most `step` bytes. */
struct tm_input {
	const struct lm_buf *tar;
	size_t at, step;
};

static inline ssize_t tm_read(void *arg, const uint8_t **ret, struct lm_err *err)
{
	struct tm_input *input = arg;
	size_t n = LM_MIN(input->step, input->tar->len - input->at);
	*ret = input->tar->data + input->at;
	input->at += n;
	return (ssize_t)n;
}

#endif
