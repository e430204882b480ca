#include "doctor/toml.h"

#include "base/buf.h"
#include "base/str.h"

#include <string.h>

struct reader {
	const char *at, *end;
	unsigned line;
	lm_toml_fn *fn;
	void *arg;
	struct lm_err *err;
	char *path[LM_TOML_DEPTH_MAX];
	size_t table_depth; /* of path: what the last header said */
	size_t depth;
};

static void cut_path(struct reader *r, size_t depth)
{
	while (r->depth > depth)
		free(r->path[--r->depth]);
}

static int malformed(struct reader *r, const char *what)
{
	return lm_err_set(r->err, -EPROTO, "line %u: %s", r->line, what);
}

static bool is_at(const struct reader *r, const char *text)
{
	size_t len = strlen(text);
	return (size_t)(r->end - r->at) >= len && memcmp(r->at, text, len) == 0;
}

static bool take(struct reader *r, const char *text)
{
	if (!is_at(r, text))
		return false;
	r->at += strlen(text);
	return true;
}

static void skip_blanks(struct reader *r)
{
	while (r->at < r->end && (*r->at == ' ' || *r->at == '\t'))
		r->at++;
}

static void skip_comment(struct reader *r)
{
	skip_blanks(r);
	if (r->at < r->end && *r->at == '#')
		while (r->at < r->end && *r->at != '\n')
			r->at++;
}

/* Ends of lines, too. */
static void skip_space(struct reader *r)
{
	for (skip_comment(r); r->at < r->end && (*r->at == '\n' || *r->at == '\r'); skip_comment(r))
		r->line += *r->at++ == '\n';
}

static int end_of_line(struct reader *r)
{
	skip_comment(r);
	(void)take(r, "\r");
	if (r->at == r->end)
		return 0;
	if (!take(r, "\n"))
		return malformed(r, "something stands behind a value");
	r->line++;
	return 0;
}

/* --- strings --- */

/* The code behind \u or \U, as UTF-8. */
static int take_code(struct reader *r, size_t digits, struct lm_buf *ret)
{
	uint32_t code = 0;
	for (size_t i = 0; i < digits; i++, r->at++) {
		const char *hex = "0123456789abcdef", *digit;
		char c = r->at < r->end ? *r->at : '\0';
		if (!c || !(digit = strchr(hex, c >= 'A' && c <= 'F' ? c + ('a' - 'A') : c)))
			return malformed(r, "a wrong \\u in a string");
		code = code << 4 | (uint32_t)(digit - hex);
	}
	if (code == 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
		return malformed(r, "a wrong \\u in a string");
	uint8_t bytes[4];
	size_t len = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
	static const uint8_t first[] = {0, 0, 0xc0, 0xe0, 0xf0};
	for (size_t i = len; i-- > 1; code >>= 6)
		bytes[i] = (uint8_t)(0x80 | (code & 0x3f));
	bytes[0] = (uint8_t)(first[len] | code);
	return lm_buf_append(ret, bytes, len) < 0 ? lm_err_oom(r->err) : 0;
}

static int take_escape(struct reader *r, struct lm_buf *ret)
{
	static const char letters[] = "btnfre\"\\", meant[] = "\b\t\n\f\r\033\"\\";
	if (r->at == r->end)
		return malformed(r, "a string without an end");
	char c = *r->at++;
	if (c == 'u' || c == 'U')
		return take_code(r, c == 'u' ? 4 : 8, ret);
	const char *found = c ? strchr(letters, c) : NULL;
	if (!found)
		return malformed(r, "an unknown escape in a string");
	return lm_buf_append(ret, &meant[found - letters], 1) < 0 ? lm_err_oom(r->err) : 0;
}

/* Behind the quotes at its beginning, up to and with those at its end. */
static int take_string(struct reader *r, const char *quotes, struct lm_buf *ret)
{
	bool basic = quotes[0] == '"', lines = strlen(quotes) == 3;
	if (lines && take(r, "\n"))
		r->line++;
	for (;;) {
		if (take(r, quotes))
			return 0;
		if (r->at == r->end || *r->at == '\0' || (*r->at == '\n' && !lines))
			return malformed(r, "a string without an end");
		r->line += *r->at == '\n';
		char c = *r->at++;
		int e = basic && c == '\\'		? take_escape(r, ret)
			: lm_buf_append(ret, &c, 1) < 0 ? lm_err_oom(r->err)
							: 0;
		if (e < 0)
			return e;
	}
}

/* 1: there was one. */
static int take_quoted(struct reader *r, bool lines, struct lm_buf *ret)
{
	static const char *const kinds[] = {"\"\"\"", "'''", "\"", "'"};
	for (size_t i = lines ? 0 : 2; i < ARRAY_LEN(kinds); i++)
		if (take(r, kinds[i])) {
			int e = take_string(r, kinds[i], ret);
			return e < 0 ? e : 1;
		}
	return 0;
}

/* --- keys --- */

static bool is_bare(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

static int take_name(struct reader *r)
{
	CLEANUP(lm_buf_done) struct lm_buf name = LM_BUF(LM_TOML_MAX);
	skip_blanks(r);
	int e = take_quoted(r, false, &name);
	if (e < 0)
		return e;
	const char *start = r->at;
	while (e == 0 && r->at < r->end && is_bare(*r->at))
		r->at++;
	if (e == 0 && r->at == start)
		return malformed(r, "no key, where one is expected");
	if (r->depth == LM_TOML_DEPTH_MAX)
		return malformed(r, "too many tables in one another");
	char *copy = e == 1 ? strdup(lm_buf_cstr(&name)) : lm_str_ndup(start, (size_t)(r->at - start));
	if (!copy)
		return lm_err_oom(r->err);
	r->path[r->depth++] = copy;
	skip_blanks(r);
	return 0;
}

static int take_names(struct reader *r)
{
	int e = take_name(r);
	while (e == 0 && take(r, "."))
		e = take_name(r);
	return e;
}

/* --- values --- */

/* A string or a bare word. */
static int take_scalar(struct reader *r, bool in_array, bool silent)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_TOML_MAX);
	int quoted = take_quoted(r, true, &text);
	if (quoted < 0)
		return quoted;
	const char *start = r->at;
	while (!quoted && r->at < r->end && !strchr(" \t\r\n,]}#\"'[{=", *r->at))
		r->at++;
	if (!quoted && r->at == start) /* a NUL ends a word, too */
		return malformed(r, "no value, where one is expected");
	if (!quoted && lm_buf_append(&text, start, (size_t)(r->at - start)) < 0)
		return lm_err_oom(r->err);
	const struct lm_toml_value value = {
		(const char *const *)r->path, r->depth, lm_buf_cstr(&text), !quoted, in_array};
	return silent ? 0 : r->fn(r->arg, &value);
}

/* What is inside of brackets that are open, up to the last of them. */
static int pass_over(struct reader *r)
{
	for (unsigned nested = 1; nested > 0;) {
		skip_space(r);
		if (r->at == r->end)
			return malformed(r, "brackets without an end");
		char c = *r->at;
		if (c == '[' || c == '{') {
			nested++;
			r->at++;
		} else if (c == ']' || c == '}') {
			nested--;
			r->at++;
		} else if (c == ',' || c == '=' || c == '.') {
			r->at++;
		} else {
			int e = take_scalar(r, false, true);
			if (e < 0)
				return e;
		}
	}
	return 0;
}

static int take_array(struct reader *r)
{
	for (;;) {
		skip_space(r);
		if (take(r, "]"))
			return 0;
		int e = take(r, "[") || take(r, "{") ? pass_over(r) : take_scalar(r, true, false);
		if (e < 0)
			return e;
		skip_space(r);
		if (!take(r, ",") && !is_at(r, "]"))
			return malformed(r, "an array without an end");
	}
}

static int take_value(struct reader *r)
{
	skip_blanks(r);
	return take(r, "[") ? take_array(r) : take(r, "{") ? pass_over(r) : take_scalar(r, false, false);
}

/* --- lines --- */

static int take_header(struct reader *r)
{
	bool array = take(r, "[");
	cut_path(r, 0);
	int e = take_names(r);
	if (e < 0)
		return e;
	if (!take(r, array ? "]]" : "]"))
		return malformed(r, "a table's name without an end");
	r->table_depth = r->depth;
	return end_of_line(r);
}

static int take_pair(struct reader *r)
{
	int e = take_names(r);
	if (e == 0 && !take(r, "="))
		return malformed(r, "a key without a value");
	if (e == 0)
		e = take_value(r);
	cut_path(r, r->table_depth);
	return e < 0 ? e : end_of_line(r);
}

int lm_toml_read(const char *text, size_t len, lm_toml_fn *fn, void *arg, struct lm_err *err)
{
	struct reader r = {.at = text, .end = text + len, .line = 1, .fn = fn, .arg = arg, .err = err};
	int e = len > LM_TOML_MAX ? lm_err_set(err, -EPROTO, "more than %d bytes", LM_TOML_MAX) : 0;
	for (skip_space(&r); e >= 0 && r.at < r.end; skip_space(&r))
		e = take(&r, "[") ? take_header(&r) : take_pair(&r);
	cut_path(&r, 0);
	return e < 0 ? e : 0;
}

bool lm_toml_is(const struct lm_toml_value *value, const char *const *names, size_t count)
{
	bool same = value->depth == count;
	for (size_t i = 0; i < count && same; i++)
		same = !names[i] || strcmp(value->path[i], names[i]) == 0;
	return same;
}
