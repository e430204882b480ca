#include "snapshotter/filter.h"

#include "base/buf.h"
#include "base/str.h"
#include "snapshotter/regex.h"

#include <ctype.h>
#include <string.h>

enum operator{ PRESENT, EQUAL, DIFFERENT, MATCHES };

enum field { KIND, NAME, PARENT, LABEL, UNKNOWN };

struct selector {
	enum field field;
	char *label; /* of LABEL */
	enum operator op;
	char *value;
	struct lm_regex *regex; /* of MATCHES */
};

struct lm_filter {
	struct selector *selectors;
	size_t count;
};

struct parser {
	const char *text, *at;
	struct lm_err *err;
};

static int syntax(const struct parser *p, const char *what)
{
	return lm_err_set(p->err, -EINVAL, "filter: %s at byte %td", what, p->at - p->text);
}

static void skip_blanks(struct parser *p)
{
	while (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')
		p->at++;
}

static bool is_field_byte(char c)
{
	return isascii((unsigned char)c) && (isalnum((unsigned char)c) || c == '_');
}

/* Go string literals. */

static int append_code_point(struct lm_buf *out, uint32_t c)
{
	char bytes[4];
	size_t len = 0;
	if (c < 0x80) {
		bytes[len++] = (char)c;
	} else if (c < 0x800) {
		bytes[len++] = (char)(0xc0 | c >> 6);
	} else if (c < 0x10000) {
		bytes[len++] = (char)(0xe0 | c >> 12);
		bytes[len++] = (char)(0x80 | (c >> 6 & 0x3f));
	} else {
		bytes[len++] = (char)(0xf0 | c >> 18);
		bytes[len++] = (char)(0x80 | (c >> 12 & 0x3f));
		bytes[len++] = (char)(0x80 | (c >> 6 & 0x3f));
	}
	if (c >= 0x80)
		bytes[len++] = (char)(0x80 | (c & 0x3f));
	return lm_buf_append(out, bytes, len);
}

/* digits of the base, exactly count of them. */
static int read_number(struct parser *p, unsigned base, unsigned count, uint32_t *ret)
{
	uint32_t value = 0;
	for (; count > 0; count--, p->at++) {
		int digit = isdigit((unsigned char)*p->at)    ? *p->at - '0'
			    : isxdigit((unsigned char)*p->at) ? tolower((unsigned char)*p->at) - 'a' + 10
							      : 99;
		if (digit >= (int)base)
			return syntax(p, "incomplete escape sequence");
		value = value * base + (uint32_t)digit;
	}
	*ret = value;
	return 0;
}

/* \xHH and octal are bytes, \u and \U code points. */
static int read_numeric_escape(struct parser *p, struct lm_buf *out)
{
	uint32_t value = 0;
	char kind = *p->at;
	unsigned count = kind == 'x' ? 2 : kind == 'u' ? 4 : kind == 'U' ? 8 : 3;
	if (count != 3)
		p->at++;
	int r = read_number(p, count == 3 ? 8 : 16, count, &value);
	if (r < 0)
		return r;
	if (value == 0 || (count <= 3 && value > 0xff) ||
		(count > 3 && (value > 0x10ffff || (value >= 0xd800 && value < 0xe000))))
		return syntax(p, "escape sequence of an impossible character");
	return count <= 3 ? lm_buf_append(out, &(char){(char)value}, 1) : append_code_point(out, value);
}

static int read_escape(struct parser *p, char quote, struct lm_buf *out)
{
	static const char names[] = "abfnrtv\\", meanings[] = "\a\b\f\n\r\t\v\\";
	const char *name = *p->at ? strchr(names, *p->at) : NULL;
	if (name) {
		p->at++;
		return lm_buf_append(out, &meanings[name - names], 1);
	}
	if (*p->at == quote) {
		p->at++;
		return lm_buf_append(out, &quote, 1);
	}
	if (*p->at == 'x' || *p->at == 'u' || *p->at == 'U' || (*p->at >= '0' && *p->at <= '7'))
		return read_numeric_escape(p, out);
	return syntax(p, "unknown escape sequence");
}

static int read_quoted(struct parser *p, struct lm_buf *out)
{
	char quote = *p->at++;
	while (*p->at != quote) {
		if (*p->at == '\0' || *p->at == '\n')
			return syntax(p, "quoted text without an end");
		int r;
		if (*p->at == '\\') {
			p->at++;
			r = read_escape(p, quote, out);
		} else {
			r = lm_buf_append(out, p->at++, 1);
		}
		if (r < 0)
			return r;
	}
	p->at++;
	return 0;
}

/* Selectors. */

static int read_field(struct parser *p, struct lm_buf *out)
{
	skip_blanks(p);
	if (*p->at == '"')
		return read_quoted(p, out);
	if (!is_field_byte(*p->at))
		return syntax(p, "a field's name is missing");
	int r = 0;
	while (r == 0 && is_field_byte(*p->at))
		r = lm_buf_append(out, p->at++, 1);
	return r;
}

static enum field field_of(const char *name)
{
	return strcmp(name, "kind") == 0     ? KIND
	       : strcmp(name, "name") == 0   ? NAME
	       : strcmp(name, "parent") == 0 ? PARENT
	       : strcmp(name, "labels") == 0 ? LABEL
					     : UNKNOWN;
}

static int read_fieldpath(struct parser *p, struct selector *selector)
{
	CLEANUP(lm_buf_done) struct lm_buf first = LM_BUF(LM_FILTER_MAX_BYTES), rest = LM_BUF(LM_FILTER_MAX_BYTES);
	int r = read_field(p, &first);
	for (unsigned parts = 0; r == 0; parts++) {
		if (*p->at != '.')
			break;
		p->at++;
		r = parts ? lm_buf_append(&rest, ".", 1) : 0;
		if (r == 0)
			r = read_field(p, &rest);
	}
	if (r < 0)
		return r;
	selector->field = field_of(lm_buf_cstr(&first));
	selector->label = strdup(lm_buf_cstr(&rest));
	return selector->label ? 0 : -ENOMEM;
}

static int read_operator(struct parser *p, enum operator* ret)
{
	*ret = PRESENT;
	if (*p->at == ',' || *p->at == '\0')
		return 0;
	skip_blanks(p);
	if (!*p->at || !strchr("=!~", *p->at) || p->at[1] != '=')
		return syntax(p, "an operator (==, != or ~=) or a comma is missing");
	*ret = *p->at == '=' ? EQUAL : *p->at == '!' ? DIFFERENT : MATCHES;
	p->at += 2;
	return 0;
}

static int read_value(struct parser *p, enum operator op, struct lm_buf *out)
{
	skip_blanks(p);
	if (*p->at == '"' || (op == MATCHES && (*p->at == '/' || *p->at == '|')))
		return read_quoted(p, out);
	if (*p->at && strchr("=!~./|", *p->at))
		return syntax(p, "a value that begins like an operator, a separator or a quotation has to be quoted");
	const char *start = p->at;
	while (*p->at != ',' && (unsigned char)*p->at > ' ' && *p->at != 0x7f)
		p->at++;
	if (p->at == start)
		return syntax(p, "a value is missing");
	return lm_buf_append(out, start, (size_t)(p->at - start));
}

static int read_selector(struct parser *p, struct selector *selector)
{
	int r = read_fieldpath(p, selector);
	if (r == 0)
		r = read_operator(p, &selector->op);
	if (r < 0 || selector->op == PRESENT)
		return r;
	CLEANUP(lm_buf_done) struct lm_buf value = LM_BUF(LM_FILTER_MAX_BYTES);
	r = read_value(p, selector->op, &value);
	if (r < 0)
		return r;
	selector->value = strdup(lm_buf_cstr(&value));
	if (!selector->value)
		return -ENOMEM;
	r = selector->op == MATCHES ? lm_regex_compile(selector->value, &selector->regex, p->err) : 0;
	return r == -EINVAL ? lm_err_prefix(p->err, r, "filter") : r;
}

static int read_selectors(struct parser *p, struct lm_filter *filter)
{
	for (;;) {
		struct selector *selectors = reallocarray(filter->selectors, filter->count + 1, sizeof(*selectors));
		if (!selectors)
			return -ENOMEM;
		filter->selectors = selectors;
		selectors[filter->count] = (struct selector){0};
		int r = read_selector(p, &selectors[filter->count++]);
		if (r < 0)
			return r;
		if (*p->at == '\0')
			return 0;
		if (*p->at++ != ',')
			return syntax(p, "a comma is missing");
	}
}

int lm_filter_parse(const char *text, struct lm_filter **ret, struct lm_err *err)
{
	struct parser parser = {.text = text, .at = text, .err = err};
	if (strlen(text) > LM_FILTER_MAX_BYTES)
		return lm_err_set(err, -EINVAL, "filter of more than %d bytes", LM_FILTER_MAX_BYTES);
	CLEANUP(lm_filter_freep) struct lm_filter *filter = calloc(1, sizeof(*filter));
	if (!filter)
		return lm_err_oom(err);
	int r = *text ? read_selectors(&parser, filter) : 0;
	if (r == -EINVAL)
		return r;
	if (r < 0)
		return lm_err_sys(err, r, "filter");
	*ret = STEAL(filter);
	return 0;
}

void lm_filter_free(struct lm_filter *filter)
{
	if (!filter)
		return;
	for (size_t i = 0; i < filter->count; i++) {
		free(filter->selectors[i].label);
		free(filter->selectors[i].value);
		lm_regex_free(filter->selectors[i].regex);
	}
	free(filter->selectors);
	free(filter);
}

static const char *value_of(const struct selector *selector, const struct lm_snapshot *snapshot)
{
	switch (selector->field) {
	case KIND:
		return snapshot->kind == LM_VIEW ? "view" : snapshot->kind == LM_ACTIVE ? "active" : "committed";
	case NAME:
		return snapshot->key;
	case PARENT:
		return snapshot->parent ? snapshot->parent->key : "";
	case LABEL:
		return lm_labels_get(&snapshot->labels, selector->label);
	case UNKNOWN:
		break;
	}
	return NULL;
}

static int holds(const struct selector *selector, const struct lm_snapshot *snapshot, struct lm_err *err)
{
	const char *value = value_of(selector, snapshot);
	switch (selector->op) {
	case PRESENT:
		return value != NULL;
	case EQUAL:
		return value && strcmp(value, selector->value) == 0;
	case DIFFERENT:
		return strcmp(value ? value : "", selector->value) != 0;
	case MATCHES:
		return lm_regex_find(selector->regex, value ? value : "", err);
	}
	return false;
}

int lm_filter_match(const struct lm_filter *filter, const struct lm_snapshot *snapshot, struct lm_err *err)
{
	int r = 1;
	for (size_t i = 0; i < filter->count && r > 0; i++)
		r = holds(&filter->selectors[i], snapshot, err);
	return r < 0 ? lm_err_prefix(err, r, "filter") : r;
}
