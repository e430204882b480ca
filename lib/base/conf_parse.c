#include "base/conf_internal.h"

#include "base/file.h"
#include "base/str.h"

#include <ctype.h>
#include <regex.h>
#include <string.h>
#include <sys/stat.h>

enum { BLOCKS_MAX = 16, NESTING_MAX = 16, FILES_MAX = 8, PATTERN_MAX = 256 };

struct block {	     /* if ... fi */
	bool outer;  /* lines around it count */
	bool active; /* lines of this branch count */
	bool taken;  /* a branch was */
	bool awaits_then, in_else;
	unsigned line;
};

struct cursor {
	struct lm_conf *conf;
	const char *file;
	unsigned line;
	const char *at, *end; /* of the current line */
	bool in_condition;    /* ; & | end a bare word */
	unsigned nesting;     /* of ${A:-${B...}} */
	struct block blocks[BLOCKS_MAX];
	size_t block_count;
};

static bool is_key_char(char c, bool first)
{
	return isalpha((unsigned char)c) || c == '_' || (!first && isdigit((unsigned char)c));
}

size_t lm_conf_key_length(const char *at, const char *end)
{
	size_t n = 0;
	while (at + n < end && is_key_char(at[n], n == 0))
		n++;
	return n;
}

static int malformed(const struct cursor *c, struct lm_err *err, const char *what)
{
	return lm_err_set(err, -EPROTO, "%s:%u: %s", c->file, c->line, what);
}

static int too_long(const struct cursor *c, struct lm_err *err)
{
	return malformed(c, err, "value too long");
}

/* Words. */

static int expand_variable(struct cursor *c, bool quoted, struct lm_buf *value, struct lm_err *err);

/* Appends one character of a word outside single quotes, or what stands for it. */
static int take_char(struct cursor *c, bool quoted, struct lm_buf *value, struct lm_err *err)
{
	if (*c->at == '$')
		return expand_variable(c, quoted, value, err);
	if (*c->at == '`')
		return malformed(c, err, "command substitution is not understood (no shell is run)");
	if (*c->at == '\\') {
		if (c->at + 1 == c->end)
			return malformed(c, err, "nothing follows the backslash");
		if (!quoted || strchr("$`\"\\", c->at[1]))
			c->at++;
	}
	return lm_buf_append(value, c->at++, 1) < 0 ? too_long(c, err) : 0;
}

/* After the opening quote; up to and with the closing one. */
static int parse_quoted(struct cursor *c, char quote, struct lm_buf *value, struct lm_err *err)
{
	while (c->at < c->end && *c->at != quote) {
		int r = 0;
		if (quote == '"')
			r = take_char(c, true, value, err);
		else if (lm_buf_append(value, c->at++, 1) < 0)
			r = too_long(c, err);
		if (r < 0)
			return r;
	}
	if (c->at == c->end)
		return malformed(c, err, "closing quote missing");
	c->at++;
	return 0;
}

/* The word after the operator in ${NAME:-WORD}, up to and with the brace. */
static int parse_braced_word(struct cursor *c, bool quoted, struct lm_buf *value, struct lm_err *err)
{
	while (c->at < c->end && *c->at != '}') {
		char quote = *c->at == '"' || (*c->at == '\'' && !quoted) ? *c->at++ : 0;
		int r = quote ? parse_quoted(c, quote, value, err) : take_char(c, quoted, value, err);
		if (r < 0)
			return r;
	}
	if (c->at == c->end)
		return malformed(c, err, "closing brace missing");
	c->at++;
	return 0;
}

static int append_value(
	const struct cursor *c, const struct lm_conf_entry *entry, struct lm_buf *value, struct lm_err *err)
{
	return entry && lm_buf_str(value, entry->value) < 0 ? too_long(c, err) : 0;
}

/* After the name in ${NAME: "}", or an operator, a word and "}". */
static int expand_braced(
	struct cursor *c, const char *name, size_t len, bool quoted, struct lm_buf *value, struct lm_err *err)
{
	const struct lm_conf_entry *entry = lm_conf_find(c->conf, name, len);
	bool colon = c->at < c->end && *c->at == ':', set = entry && !(colon && !*entry->value);
	c->at += colon;
	char op = c->at < c->end ? *c->at++ : 0;
	if (op == '}' && !colon)
		return append_value(c, entry, value, err);
	if (!op || !strchr("-=+", op))
		return malformed(c, err, "only ${NAME}, ${NAME:-WORD}, ${NAME:=WORD} and ${NAME:+WORD} are understood");
	if (++c->nesting > NESTING_MAX)
		return malformed(c, err, "too many braces in one another");
	CLEANUP(lm_buf_done) struct lm_buf word = LM_BUF(LM_CONF_VALUE_MAX);
	int r = parse_braced_word(c, quoted, &word, err);
	c->nesting--;
	if (r < 0)
		return r;
	entry = lm_conf_find(c->conf, name, len); /* the word may have set it */
	if (op == '=' && !set)
		r = lm_conf_set_entry(c->conf, name, len, lm_buf_cstr(&word), c->file, c->line, err);
	if (r < 0)
		return r;
	if (set == (op == '+'))
		return lm_buf_append(value, word.data, word.len) < 0 ? too_long(c, err) : 0;
	return op == '+' ? 0 : append_value(c, entry, value, err);
}

/* At a '$': appends the value of the variable named there. An unset one is empty, as in a shell. */
static int expand_variable(struct cursor *c, bool quoted, struct lm_buf *value, struct lm_err *err)
{
	bool braced = c->at + 1 < c->end && c->at[1] == '{';
	const char *name = c->at + 1 + braced;
	size_t len = lm_conf_key_length(name, c->end);
	if (len == 0)
		return malformed(c, err, "only $NAME and ${NAME} are understood after '$' (no shell is run)");
	c->at = name + len;
	return braced ? expand_braced(c, name, len, quoted, value, err)
		      : append_value(c, lm_conf_find(c->conf, name, len), value, err);
}

static bool ends_word(const struct cursor *c)
{
	return c->at == c->end || isspace((unsigned char)*c->at) || (c->in_condition && strchr(";&|", *c->at));
}

static int parse_word(struct cursor *c, struct lm_buf *value, struct lm_err *err)
{
	while (!ends_word(c)) {
		int r;
		char quote = *c->at == '\'' || *c->at == '"' ? *c->at++ : 0;
		if (!quote && *c->at == ';' && (c->at + 1 == c->end || isspace((unsigned char)c->at[1])))
			return 0;
		if (quote)
			r = parse_quoted(c, quote, value, err);
		else if (strchr(";&|<>()", *c->at))
			r = malformed(c, err, "quote values that hold one of ; & | < > ( )");
		else
			r = take_char(c, false, value, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static void skip_blanks(struct cursor *c)
{
	while (c->at < c->end && isspace((unsigned char)*c->at))
		c->at++;
}

/* Whether text stands here, as a word of its own; goes past it and the blanks that follow. */
static bool skip_word(struct cursor *c, const char *text)
{
	size_t n = strlen(text), left = (size_t)(c->end - c->at);
	if (left < n || memcmp(c->at, text, n) != 0 ||
		(left > n && !isspace((unsigned char)c->at[n]) && !strchr(";&|", c->at[n])))
		return false;
	c->at += n;
	skip_blanks(c);
	return true;
}

static bool skip_char(struct cursor *c, char ch)
{
	if (c->at == c->end || *c->at != ch)
		return false;
	c->at++;
	skip_blanks(c);
	return true;
}

static int expect_end(struct cursor *c, struct lm_err *err, const char *what)
{
	skip_blanks(c);
	(void)skip_char(c, ';');
	return c->at < c->end && *c->at != '#' ? malformed(c, err, what) : 0;
}

/* Conditions. */

static bool is_kind(const char *path, char op)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return false;
	return op == 'f' ? S_ISREG(st.st_mode) : op == 'd' ? S_ISDIR(st.st_mode) : true;
}

static int next_word(struct cursor *c, struct lm_buf *word, struct lm_err *err)
{
	if (ends_word(c))
		return malformed(c, err, "condition incomplete");
	lm_buf_clear(word);
	int r = parse_word(c, word, err);
	skip_blanks(c);
	return r;
}

/* After "[", up to and with "]": -z W, -n W, -e W, -f W, -d W, W = W, W == W, W != W, W. */
static int eval_brackets(struct cursor *c, bool *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf left = LM_BUF(LM_CONF_VALUE_MAX), op = LM_BUF(LM_CONF_VALUE_MAX);
	CLEANUP(lm_buf_done) struct lm_buf right = LM_BUF(LM_CONF_VALUE_MAX);
	bool negated = skip_word(c, "!"), unary = c->at < c->end && *c->at == '-';
	int r = next_word(c, unary ? &op : &left, err);
	if (r == 0 && !unary && !(c->at < c->end && *c->at == ']'))
		r = next_word(c, &op, err);
	if (r == 0 && op.len)
		r = next_word(c, &right, err);
	if (r < 0)
		return r;
	const char *l = lm_buf_cstr(&left), *o = lm_buf_cstr(&op), *w = lm_buf_cstr(&right);
	if (!op.len)
		*ret = *l;
	else if (!unary && (strcmp(o, "=") == 0 || strcmp(o, "==") == 0 || strcmp(o, "!=") == 0))
		*ret = (strcmp(l, w) == 0) == (*o == '=');
	else if (unary && o[1] && !o[2] && strchr("zn", o[1]))
		*ret = !*w == (o[1] == 'z');
	else if (unary && o[1] && !o[2] && strchr("efd", o[1]))
		*ret = is_kind(w, o[1]);
	else
		return malformed(c, err, "only =, ==, !=, -z, -n, -e, -f and -d are understood in [ ]");
	*ret ^= negated;
	return skip_word(c, "]") ? 0 : malformed(c, err, "\"]\" expected");
}

/* Whether a line of a regular file matches; a file that can't be read has none. */
static int match_lines(const char *pattern, const char *path, bool *ret)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_CONF_FILE_MAX);
	regex_t regex;
	*ret = false;
	/* Repetition counts multiply: a short pattern can take all memory. */
	if (strlen(pattern) > PATTERN_MAX || strstr(pattern, "\\{") ||
		regcomp(&regex, pattern, REG_NOSUB | REG_NEWLINE) != 0)
		return -EPROTO;
	if (is_kind(path, 'f') && lm_file_read(AT_FDCWD, path, &text, NULL) == 0)
		*ret = regexec(&regex, lm_buf_cstr(&text), 0, NULL, 0) == 0;
	regfree(&regex);
	return 0;
}

/* After "grep": -q PATTERN FILE. */
static int eval_grep(struct cursor *c, bool *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf pattern = LM_BUF(LM_CONF_VALUE_MAX), path = LM_BUF(LM_CONF_VALUE_MAX);
	if (!skip_word(c, "-q"))
		return malformed(c, err, "of grep, only -q PATTERN FILE is understood");
	int r = next_word(c, &pattern, err);
	if (r == 0)
		r = next_word(c, &path, err);
	if (r == 0 && match_lines(lm_buf_cstr(&pattern), lm_buf_cstr(&path), ret) < 0)
		r = malformed(c, err, "pattern not understood");
	return r;
}

static int eval_test(struct cursor *c, bool *ret, struct lm_err *err)
{
	bool negated = skip_word(c, "!");
	int r;
	if (skip_word(c, "["))
		r = eval_brackets(c, ret, err);
	else if (skip_word(c, "grep"))
		r = eval_grep(c, ret, err);
	else
		r = malformed(c, err, "only [ ] and grep -q are understood as conditions (no shell is run)");
	*ret ^= negated;
	return r;
}

/* Tests joined by && and ||, from left to right. All are evaluated: none changes anything. */
static int eval_condition(struct cursor *c, bool *ret, struct lm_err *err)
{
	int r = eval_test(c, ret, err);
	while (r == 0 && c->at + 1 < c->end && (*c->at == '&' || *c->at == '|') && c->at[1] == *c->at) {
		bool and = *c->at == '&', next = false;
		c->at += 2;
		skip_blanks(c);
		r = eval_test(c, &next, err);
		*ret = and? *ret && next : *ret || next;
	}
	return r;
}

/* Blocks. */

static bool is_active(const struct cursor *c)
{
	return c->block_count == 0 || c->blocks[c->block_count - 1].active;
}

/* Where a condition is not looked at: whether the line ends with "then". */
static void skip_to_then(struct cursor *c)
{
	const char *end = c->end;
	while (end > c->at && isspace((unsigned char)end[-1]))
		end--;
	c->at = end - c->at > 4 && memcmp(end - 4, "then", 4) == 0 ? end - 4 : c->end;
}

/* After "if" or "elif". */
static int begin_branch(struct cursor *c, struct block *block, struct lm_err *err)
{
	bool holds = false;
	int r = 0;
	if (block->outer && !block->taken) {
		c->in_condition = true;
		r = eval_condition(c, &holds, err);
		c->in_condition = false;
		(void)skip_char(c, ';');
	} else {
		skip_to_then(c);
	}
	if (r < 0)
		return r;
	block->active = holds;
	block->taken |= holds;
	block->awaits_then = !skip_word(c, "then");
	return expect_end(c, err, "\"then\" expected, and nothing after it");
}

static int begin_block(struct cursor *c, struct lm_err *err)
{
	if (c->block_count == BLOCKS_MAX)
		return malformed(c, err, "too many ifs in one another");
	struct block *block = &c->blocks[c->block_count];
	*block = (struct block){.outer = is_active(c), .line = c->line};
	c->block_count++;
	return begin_branch(c, block, err);
}

/* A line inside an if that is about the if: 1; another: 0. */
static int parse_inner_keyword(struct cursor *c, struct lm_err *err)
{
	struct block *block = &c->blocks[c->block_count - 1];
	int r = 0;
	if (block->awaits_then) {
		if (!skip_word(c, "then"))
			return malformed(c, err, "\"then\" expected");
		block->awaits_then = false;
	} else if (skip_word(c, "fi")) {
		c->block_count--;
	} else if (!block->in_else && skip_word(c, "else")) {
		block->active = block->outer && !block->taken;
		block->in_else = true;
	} else if (!block->in_else && skip_word(c, "elif")) {
		r = begin_branch(c, block, err);
	} else {
		return 0;
	}
	if (r == 0)
		r = expect_end(c, err, "a line of its own expected");
	return r < 0 ? r : 1;
}

/* Lines. */

/* After ".": another file, beside this one where its name is relative. */
static int include(struct cursor *c, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf name = LM_BUF(LM_CONF_VALUE_MAX);
	int r = parse_word(c, &name, err);
	if (r == 0)
		r = expect_end(c, err, "one file is expected after \".\"");
	if (r < 0)
		return r;
	const char *text = lm_buf_cstr(&name), *slash = strrchr(c->file, '/');
	int dir = *text == '/' || !slash ? 0 : (int)(slash - c->file) + 1;
	CLEANUP(lm_freep) char *path = lm_str_printf("%.*s%s", dir, c->file, text);
	if (!path)
		return lm_err_oom(err);
	if (!is_kind(path, 'f') || c->conf->depth == FILES_MAX)
		return malformed(c, err,
			c->conf->depth == FILES_MAX ? "too many files read by one another"
						    : "the file to be read is not there");
	r = lm_conf_read(c->conf, path, err);
	return r == -ENOENT ? -EPROTO : r;
}

static int assign(struct cursor *c, struct lm_err *err)
{
	bool exported = skip_word(c, "export");
	exported = skip_word(c, "readonly") || exported;
	const char *key = c->at;
	size_t key_len = lm_conf_key_length(c->at, c->end);
	if (exported && key_len && key + key_len == c->end)
		return 0; /* "export KEY": a value is not needed for that */
	if (key_len == 0 || key_len > LM_CONF_KEY_MAX || key + key_len == c->end || key[key_len] != '=')
		return malformed(c, err, "expected KEY=VALUE (no shell is run)");
	c->at = key + key_len + 1;
	CLEANUP(lm_buf_done) struct lm_buf value = LM_BUF(LM_CONF_VALUE_MAX);
	int r = parse_word(c, &value, err);
	if (r == 0)
		r = expect_end(c, err, "unexpected text after the value (quote values with blanks)");
	return r < 0 ? r : lm_conf_set_entry(c->conf, key, key_len, lm_buf_cstr(&value), c->file, c->line, err);
}

static int parse_line(struct cursor *c, struct lm_err *err)
{
	skip_blanks(c);
	if (c->at == c->end || *c->at == '#')
		return 0;
	int r = c->block_count ? parse_inner_keyword(c, err) : 0;
	if (r != 0)
		return LM_MIN(r, 0);
	if (skip_word(c, "if"))
		return begin_block(c, err);
	if (!is_active(c))
		return 0;
	if (skip_word(c, ":"))
		return expect_end(c, err, "nothing is expected after \":\"");
	if (skip_word(c, ".") || skip_word(c, "source"))
		return include(c, err);
	return assign(c, err);
}

static bool is_continued(const char *at, const char *end)
{
	const char *last = end;
	while (at < end && isspace((unsigned char)*at))
		at++;
	while (last > at && last[-1] == '\\')
		last--;
	return at < end && *at != '#' && (end - last) % 2 == 1;
}

/* Takes the next line from *text, put together in joined where it goes on after a backslash. */
static int take_line(struct cursor *c, const char **text, const char *end, struct lm_buf *joined, struct lm_err *err)
{
	unsigned count = 0;
	bool more = true;
	lm_buf_clear(joined);
	while (more && *text < end) {
		const char *eol = memchr(*text, '\n', (size_t)(end - *text));
		c->at = *text;
		c->end = eol ? eol : end;
		*text = eol ? eol + 1 : end;
		count++;
		more = eol && *text < end && is_continued(c->at, c->end);
		if ((more || count > 1) && lm_buf_append(joined, c->at, (size_t)(c->end - c->at) - more) < 0)
			return lm_err_oom(err);
	}
	c->line++;
	if (count > 1) {
		c->at = lm_buf_cstr(joined);
		c->end = c->at + joined->len;
	}
	return (int)count;
}

int lm_conf_parse(struct lm_conf *conf, const char *name, const char *text, size_t len, struct lm_err *err)
{
	struct cursor c = {.conf = conf, .file = name};
	CLEANUP(lm_buf_done) struct lm_buf joined = LM_BUF(LM_CONF_FILE_MAX);
	if (memchr(text, '\0', len))
		return lm_err_set(err, -EPROTO, "%s: a NUL byte in a configuration file", name);
	conf->sources++;
	conf->depth++;
	int r = 0;
	for (const char *at = text, *end = text + len; at < end && r == 0;) {
		int lines = take_line(&c, &at, end, &joined, err);
		r = lines < 0 ? lines : parse_line(&c, err);
		c.line += lines > 1 ? (unsigned)lines - 1 : 0;
	}
	conf->depth--;
	if (r == 0 && c.block_count)
		return lm_err_set(err, -EPROTO, "%s:%u: \"fi\" is missing", name, c.blocks[c.block_count - 1].line);
	return r;
}
