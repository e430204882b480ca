#define PCRE2_CODE_UNIT_WIDTH 8
#include "snapshotter/regex.h"

#include "base/buf.h"

#include <ctype.h>
#include <pcre2.h>
#include <stdbool.h>
#include <string.h>

/*
 * In each place of the subject every state of the matcher is compared with those before it, so that the steps are the
 * square of the states by the length. Two lists of states share the work space, three numbers each; fewer than
 * STATES_MIN would not do for ordinary expressions.
 */
#define STEPS_MAX 100000000.0
#define STATES_MIN 64
#define STATES_MAX 2048
#define WORKSPACE_PER_STATE 6

/* The expression has to begin somewhere: as a part of itself, since a loop around the matcher would be a square, too.
 */
#define BEFORE "(?s:.)*?(?:"
#define AFTER ")"

#define DEPTH_MAX 250 /* of groups; PCRE2's own limit */

struct lm_regex {
	pcre2_code *code;
};

struct scan {
	const char *at;
	struct lm_buf *out;
	struct lm_err *err;
	unsigned depth;		       /* of groups */
	bool multiline[DEPTH_MAX + 1]; /* flag m in each of them */
	bool repeatable;	       /* what is before `at` may be repeated */
};

static int refuse(const struct scan *s, const char *what)
{
	return lm_err_set(s->err, -EINVAL, "regular expression: %s", what);
}

static int copy(struct scan *s, size_t len)
{
	int r = lm_buf_append(s->out, s->at, len);
	s->at += len;
	return r;
}

static int copy_as(struct scan *s, size_t len, const char *text)
{
	s->at += len;
	return lm_buf_str(s->out, text);
}

/* \xHH or \x{H...}; at the x. */
static int scan_hex(struct scan *s)
{
	const char *c = s->at + 1;
	size_t len = 0;
	if (*c == '{') {
		len = strspn(c + 1, "0123456789abcdefABCDEF");
		if (len == 0 || c[1 + len] != '}')
			return refuse(s, "\\x{ without digits or an end");
		return copy(s, len + 3);
	}
	if (!isxdigit((unsigned char)c[0]) || !isxdigit((unsigned char)c[1]))
		return refuse(s, "\\x needs two hexadecimal digits");
	return copy(s, 3);
}

/* \Q...\E: everything in between stands for itself. At the Q. */
static int scan_literal(struct scan *s)
{
	const char *end = strstr(s->at, "\\E");
	int r = copy(s, end ? (size_t)(end - s->at) + 2 : strlen(s->at));
	return r < 0 || end ? r : lm_buf_str(s->out, "\\E");
}

static int scan_escape(struct scan *s, bool in_class)
{
	char c = s->at[1];
	if (c == 'v') /* PCRE2: any vertical space */
		return copy_as(s, 2, "\\x0b");
	int r = copy(s, 1);
	if (r < 0)
		return r;
	if (c == '\0')
		return refuse(s, "a backslash at the end");
	if (c == 'x')
		return scan_hex(s);
	if (c == 'Q' && !in_class)
		return scan_literal(s);
	if (strchr("dDsSwWpPafnrt0", c) || (!in_class && strchr("AbBz", c)))
		return copy(s, 1);
	if (isascii((unsigned char)c) && !isalnum((unsigned char)c))
		return copy(s, 1);
	return refuse(s, isdigit((unsigned char)c) ? "back-references are not there" : "unknown escape sequence");
}

/* [:name:] at the beginning of text: its length, or 0. */
static size_t class_name_length(const char *text)
{
	if (text[0] != '[' || text[1] != ':')
		return 0;
	size_t len = 2 + strspn(text + 2, "^abcdefghijklmnopqrstuvwxyz");
	return text[len] == ':' && text[len + 1] == ']' ? len + 2 : 0;
}

static int scan_class(struct scan *s)
{
	int r = copy(s, 1);
	if (r == 0 && *s->at == '^')
		r = copy(s, 1);
	if (r == 0 && *s->at == ']')
		r = copy(s, 1);
	while (r == 0 && *s->at != ']') {
		size_t name = class_name_length(s->at);
		if (*s->at == '\0')
			return refuse(s, "a class without an end");
		r = *s->at == '\\' ? scan_escape(s, true) : copy(s, name ? name : 1);
	}
	return r < 0 ? r : copy(s, 1);
}

static int open_group(struct scan *s, size_t len, bool multiline)
{
	if (s->depth == DEPTH_MAX)
		return refuse(s, "too many groups in each other");
	s->multiline[++s->depth] = multiline;
	return copy(s, len);
}

/* (?flags) or (?flags:...); at the first flag. */
static int scan_flags(struct scan *s, const char *c)
{
	bool multiline = s->multiline[s->depth], on = true;
	for (; *c && strchr("imsU-", *c); c++) {
		if (*c == '-' && !on)
			break;
		on = on && *c != '-';
		multiline = *c == 'm' ? on : multiline;
	}
	size_t len = (size_t)(c - s->at) + 1;
	if (*c == ':')
		return open_group(s, len, multiline);
	if (*c != ')')
		return refuse(s, "only groups with a name or with flags of i, m, s and U are there");
	s->multiline[s->depth] = multiline;
	return copy(s, len);
}

/* At the opening parenthesis. */
static int scan_group(struct scan *s)
{
	const char *c = s->at + 1;
	bool multiline = s->multiline[s->depth];
	s->repeatable = false;
	if (*c == '*')
		return refuse(s, "nothing to repeat before *");
	if (*c != '?')
		return open_group(s, 1, multiline);
	c++;
	const char *name = c[0] == 'P' && c[1] == '<'		       ? c + 2
			   : c[0] == '<' && c[1] != '=' && c[1] != '!' ? c + 1
								       : NULL;
	if (!name)
		return scan_flags(s, c);
	const char *end = strchr(name, '>');
	return end ? open_group(s, (size_t)(end - s->at) + 1, multiline) : refuse(s, "a name without an end");
}

/* {n}, {n,} or {n,m}: its length; 0 for a brace that stands for itself. */
static size_t count_length(const char *c, unsigned long *ret_highest)
{
	size_t low = strspn(c + 1, "0123456789");
	const char *at = c + 1 + low;
	if (low == 0)
		return 0;
	*ret_highest = strtoul(c + 1, NULL, 10);
	if (*at == ',') {
		size_t high = strspn(at + 1, "0123456789");
		if (high > 0)
			*ret_highest = LM_MAX(*ret_highest, strtoul(at + 1, NULL, 10));
		at += 1 + high;
	}
	return *at == '}' ? (size_t)(at - c) + 1 : 0;
}

static int scan_repetition(struct scan *s, size_t len)
{
	if (!s->repeatable)
		return refuse(s, "a repetition of nothing or of a repetition");
	s->repeatable = false;
	return copy(s, len + (s->at[len] == '?'));
}

static int scan_one(struct scan *s)
{
	unsigned long highest = 0;
	size_t count = *s->at == '{' ? count_length(s->at, &highest) : 0;
	if (highest > LM_REGEX_REPEAT_MAX)
		return refuse(s, "a count over 1000");
	if (count || strchr("*+?", *s->at))
		return scan_repetition(s, count ? count : 1);
	if (*s->at == '(')
		return scan_group(s);
	s->repeatable = *s->at != '|';
	if (*s->at == ')' && s->depth-- == 0)
		return refuse(s, "a closing parenthesis without an opening one");
	if (*s->at == '$' && !s->multiline[s->depth]) /* PCRE2: before a line feed at the end, too */
		return copy_as(s, 1, "\\z");
	return *s->at == '\\' ? scan_escape(s, false) : *s->at == '[' ? scan_class(s) : copy(s, 1);
}

static int translate(const char *text, struct lm_buf *out, struct lm_err *err)
{
	struct scan s = {.at = text, .out = out, .err = err};
	int r = lm_buf_str(out, BEFORE);
	while (r == 0 && *s.at)
		r = scan_one(&s);
	if (r == 0 && s.depth > 0)
		return refuse(&s, "a group without an end");
	if (r == 0)
		r = lm_buf_str(out, AFTER);
	return r == -EINVAL ? r : r < 0 ? lm_err_sys(err, r, "regular expression") : 0;
}

static int compile(const struct lm_buf *text, pcre2_code **ret, struct lm_err *err)
{
	int code;
	size_t at;
	pcre2_compile_context *context = pcre2_compile_context_create(NULL);
	if (!context)
		return lm_err_oom(err);
	pcre2_set_newline(context, PCRE2_NEWLINE_LF); /* whatever the library was built with */
	*ret = pcre2_compile(
		text->data, text->len, PCRE2_ANCHORED | PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &code, &at, context);
	pcre2_compile_context_free(context);
	if (*ret)
		return 0;
	char reason[160];
	pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof(reason));
	return code == PCRE2_ERROR_HEAP_FAILED ? lm_err_oom(err)
					       : lm_err_set(err, -EINVAL, "regular expression: %s", reason);
}

int lm_regex_compile(const char *text, struct lm_regex **ret, struct lm_err *err)
{
	if (strlen(text) > LM_REGEX_MAX_BYTES)
		return lm_err_set(err, -EINVAL, "regular expression of more than %d bytes", LM_REGEX_MAX_BYTES);
	CLEANUP(lm_buf_done) struct lm_buf translated = LM_BUF(4 * LM_REGEX_MAX_BYTES);
	CLEANUP(lm_regex_freep) struct lm_regex *regex = calloc(1, sizeof(*regex));
	if (!regex)
		return lm_err_oom(err);
	int r = translate(text, &translated, err);
	if (r == 0)
		r = compile(&translated, &regex->code, err);
	if (r < 0)
		return r;
	*ret = STEAL(regex);
	return 0;
}

void lm_regex_free(struct lm_regex *regex)
{
	if (!regex)
		return;
	pcre2_code_free(regex->code);
	free(regex);
}

/* The largest number of states whose square, by the length, is STEPS_MAX. */
static size_t states_for(size_t len)
{
	size_t states = STATES_MAX;
	while (states > STATES_MIN && (double)states * (double)states * (double)len > STEPS_MAX)
		states -= states / 8;
	return LM_MAX(states, (size_t)STATES_MIN);
}

static void match_data_freep(pcre2_match_data **data)
{
	pcre2_match_data_free(*data);
}

int lm_regex_find(const struct lm_regex *regex, const char *subject, struct lm_err *err)
{
	int workspace[STATES_MAX * WORKSPACE_PER_STATE + 8];
	size_t len = strlen(subject);
	CLEANUP(match_data_freep) pcre2_match_data *data = pcre2_match_data_create(1, NULL);
	if (!data)
		return lm_err_oom(err);
	int rc = pcre2_dfa_match(regex->code, (PCRE2_SPTR)subject, len, 0, PCRE2_DFA_SHORTEST, data, NULL, workspace,
		states_for(len) * WORKSPACE_PER_STATE + 2);
	if (rc >= 0)
		return 1;
	char reason[160];
	switch (rc) {
	case PCRE2_ERROR_NOMATCH:
		return 0;
	case PCRE2_ERROR_NOMEMORY:
		return lm_err_oom(err);
	case PCRE2_ERROR_DFA_WSSIZE:
	case PCRE2_ERROR_MATCHLIMIT:
	case PCRE2_ERROR_HEAPLIMIT:
	case PCRE2_ERROR_DEPTHLIMIT:
		return lm_err_set(err, -E2BIG,
			"regular expression: too many ways to match a text of %zu bytes; a simpler one will do", len);
	default:
		pcre2_get_error_message(rc, (PCRE2_UCHAR *)reason, sizeof(reason));
		return lm_err_set(err, -EINVAL, "regular expression: %s", reason);
	}
}
