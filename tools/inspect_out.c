#include "inspect_out.h"

#include "base/str.h"
#include "common.h"
#include "repo/listing.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { KEY_COLUMNS = 28, TEXT_MAX = 64 << 20 };

static struct lm_out_level *level(struct lm_out *out)
{
	return &out->levels[out->depth - 1];
}

static void push(struct lm_out *out, enum lm_out_kind kind, const char *name)
{
	assert(out->depth < LM_OUT_DEPTH_MAX);
	out->levels[out->depth++] = (struct lm_out_level){.kind = kind, .name = name};
	out->items += kind == LM_OUT_ITEM;
}

static void end_line(struct lm_out *out)
{
	if (out->in_line)
		putchar('\n');
	out->in_line = false;
}

/* --- strings --- */

/* The length of the UTF-8 sequence that text begins with, and its character; 0: none is valid. */
static size_t utf8(const unsigned char *text, size_t len, uint32_t *ret)
{
	static const uint32_t lowest[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n = text[0] < 0x80   ? 1
		   : text[0] < 0xc2 ? 0
		   : text[0] < 0xe0 ? 2
		   : text[0] < 0xf0 ? 3
		   : text[0] < 0xf5 ? 4
				    : 0;
	if (n == 0 || n > len)
		return 0;
	uint32_t c = n == 1 ? text[0] : text[0] & (0x7fU >> n);
	for (size_t i = 1; i < n; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (text[i] & 0x3f);
	}
	if (c < lowest[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*ret = c;
	return n;
}

static void put_json_char(uint32_t c)
{
	if (c == '"' || c == '\\')
		printf("\\%c", (char)c);
	else if (c == '%')
		fputs("%25", stdout);
	else if (c >= 0x20 && c < 0x7f)
		putchar((int)c);
	else if (c < 0x10000)
		printf("\\u%04" PRIx32, c);
	else
		printf("\\u%04" PRIx32 "\\u%04" PRIx32, 0xd800 + ((c - 0x10000) >> 10),
			0xdc00 + ((c - 0x10000) & 0x3ff));
}

static void put_json_string(const char *text, size_t len)
{
	const unsigned char *at = (const unsigned char *)text, *end = at + len;
	putchar('"');
	while (at < end) {
		uint32_t c;
		size_t n = utf8(at, (size_t)(end - at), &c);
		if (n > 0)
			put_json_char(c);
		else
			printf("%%%02x", *at);
		at += LM_MAX(n, (size_t)1);
	}
	putchar('"');
}

/* --- keys --- */

static void put_json_key(struct lm_out *out, const char *key)
{
	bool line = out->items == 0 || level(out)->kind == LM_OUT_LIST; /* items are a line each */
	if (level(out)->any)
		putchar(',');
	if (line)
		printf("\n%*s", (int)(2 * out->depth), "");
	else if (level(out)->any)
		putchar(' ');
	level(out)->any = true;
	if (key)
		printf("\"%s\": ", key);
}

/* The name of a field with the objects that it is in, up to the item or the document. */
static int put_path(const struct lm_out *out, const char *key)
{
	unsigned from = out->depth;
	int len = 0;
	while (from > 1 && out->levels[from - 1].kind == LM_OUT_OBJECT)
		from--;
	for (; from < out->depth; from++)
		if (out->levels[from].name && out->levels[from].kind == LM_OUT_OBJECT)
			len += printf("%s.", out->levels[from].name);
	return len + printf("%s", key);
}

static void put_key(struct lm_out *out, const char *key)
{
	if (out->json) {
		put_json_key(out, key);
	} else if (out->items > 0) {
		putchar(' ');
		put_path(out, key);
		putchar('=');
	} else {
		int len = put_path(out, key);
		printf("%*s", LM_MAX(KEY_COLUMNS - len, 1), "");
	}
}

static void end_value(struct lm_out *out)
{
	if (!out->json && out->items == 0)
		putchar('\n');
}

/* --- structure --- */

void lm_out_begin(struct lm_out *out, bool json)
{
	*out = (struct lm_out){.json = json, .escaped = LM_BUF(TEXT_MAX)};
	push(out, LM_OUT_OBJECT, NULL);
	if (json)
		putchar('{');
}

void lm_out_object(struct lm_out *out, const char *key)
{
	if (out->json) {
		put_json_key(out, key);
		putchar('{');
	}
	push(out, LM_OUT_OBJECT, key);
}

void lm_out_list(struct lm_out *out, const char *key, const char *item)
{
	if (out->json) {
		put_json_key(out, key);
		putchar('[');
	}
	push(out, LM_OUT_LIST, item);
}

void lm_out_item(struct lm_out *out)
{
	const char *name = level(out)->name;
	if (out->json) {
		put_json_key(out, NULL);
		putchar('{');
	} else {
		end_line(out);
		printf("%*s%s", (int)(2 * out->items), "", name);
		out->in_line = true;
	}
	push(out, LM_OUT_ITEM, NULL);
}

void lm_out_close(struct lm_out *out)
{
	enum lm_out_kind kind = level(out)->kind;
	bool any = level(out)->any;
	out->depth--;
	out->items -= kind == LM_OUT_ITEM;
	if (!out->json) {
		if (kind == LM_OUT_ITEM)
			end_line(out);
		return;
	}
	if (any && (out->items == 0 ? kind != LM_OUT_ITEM : kind == LM_OUT_LIST))
		printf("\n%*s", (int)(2 * out->depth), "");
	putchar(kind == LM_OUT_LIST ? ']' : '}');
}

void lm_out_end(struct lm_out *out, const struct lm_err *error)
{
	while (out->depth > 1)
		lm_out_close(out);
	if (error && out->json)
		lm_out_sentence(out, "error", lm_err_text(error));
	lm_out_close(out);
	if (out->json)
		putchar('\n');
	lm_buf_done(&out->escaped);
}

/* --- values --- */

void lm_out_word(struct lm_out *out, const char *key, const char *fmt, ...)
{
	va_list args;
	put_key(out, key);
	fputs(out->json ? "\"" : "", stdout);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	fputs(out->json ? "\"" : "", stdout);
	end_value(out);
}

void lm_out_number(struct lm_out *out, const char *key, uint64_t number)
{
	put_key(out, key);
	printf("%" PRIu64, number);
	end_value(out);
}

void lm_out_flag(struct lm_out *out, const char *key, bool value)
{
	put_key(out, key);
	fputs(out->json ? value ? "true" : "false" : value ? "yes" : "no", stdout);
	end_value(out);
}

void lm_out_hash(struct lm_out *out, const char *key, const struct lm_hash *hash)
{
	if (hash->set)
		lm_out_word(out, key, "%s", lm_hash_text(hash).s);
}

void lm_out_time(struct lm_out *out, const char *key, int64_t seconds)
{
	if (seconds != 0)
		lm_out_word(out, key, "%s", lm_cli_time(seconds).s);
}

void lm_out_text(struct lm_out *out, const char *key, const char *text, size_t len)
{
	put_key(out, key);
	lm_buf_clear(&out->escaped);
	if (out->json)
		put_json_string(text, len);
	else if (lm_listing_escape(&out->escaped, text, len) == 0)
		fputs(lm_buf_cstr(&out->escaped), stdout);
	else
		fputs("(too long)", stdout);
	end_value(out);
}

void lm_out_sentence(struct lm_out *out, const char *key, const char *text)
{
	put_key(out, key);
	lm_buf_clear(&out->escaped);
	if (out->json)
		put_json_string(text, strlen(text));
	else if (out->items > 0 && lm_str_quote(&out->escaped, text, strlen(text)) == 0)
		fputs(lm_buf_cstr(&out->escaped), stdout);
	else
		for (const unsigned char *c = (const unsigned char *)text; *c; c++)
			putchar(*c < ' ' || *c == 0x7f ? '?' : *c);
	end_value(out);
}

void lm_out_raw(struct lm_out *out, const char *key, const char *json)
{
	put_key(out, key);
	if (!out->json)
		putchar('\n');
	fputs(json, stdout);
	end_value(out);
}
