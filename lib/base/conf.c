#include "base/conf.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

enum { FILE_MAX = 1 << 20, VALUE_MAX = 64 << 10, KEY_MAX = 256, ENTRIES_MAX = 4096, TEMPLATES_MAX = 4 };

struct lm_conf {
	struct lm_conf_entry *entries; /* all strings owned */
	size_t count, cap;
	unsigned sources; /* read so far */
	struct template
	{
		char *mark, *text; /* "@NAME@" */
	}
	templates[TEMPLATES_MAX];
	size_t template_count;
};

int lm_conf_new(struct lm_conf **ret, struct lm_err *err)
{
	struct lm_conf *conf = calloc(1, sizeof(*conf));
	if (!conf)
		return lm_err_oom(err);
	*ret = conf;
	return 0;
}

static void entry_done(struct lm_conf_entry *entry)
{
	free((char *)entry->key);
	free((char *)entry->value);
	free((char *)entry->file);
}

void lm_conf_free(struct lm_conf *conf)
{
	if (!conf)
		return;
	for (size_t i = 0; i < conf->count; i++)
		entry_done(&conf->entries[i]);
	free(conf->entries);
	for (size_t i = 0; i < conf->template_count; i++) {
		free(conf->templates[i].mark);
		free(conf->templates[i].text);
	}
	free(conf);
}

static struct lm_conf_entry *find(const struct lm_conf *conf, const char *key, size_t len)
{
	for (size_t i = 0; i < conf->count; i++)
		if (strncmp(conf->entries[i].key, key, len) == 0 && conf->entries[i].key[len] == '\0')
			return &conf->entries[i];
	return NULL;
}

static int entry_make(
	struct lm_conf_entry *ret, const char *key, size_t key_len, const char *value, const char *file, unsigned line)
{
	*ret = (struct lm_conf_entry){lm_str_ndup(key, key_len), strdup(value), strdup(file), line, 0};
	if (ret->key && ret->value && ret->file)
		return 0;
	entry_done(ret);
	return -ENOMEM;
}

int lm_conf_template(struct lm_conf *conf, const char *name, const char *text, struct lm_err *err)
{
	if (conf->template_count == TEMPLATES_MAX)
		return lm_err_set(err, -EINVAL, "more than %d templates", TEMPLATES_MAX);
	struct template *t = &conf->templates[conf->template_count++]; /* also when incomplete: freed with conf */
	t->mark = lm_str_printf("@%s@", name);
	t->text = strdup(text);
	return t->mark && t->text ? 0 : lm_err_oom(err);
}

static const struct template *template_at(const struct lm_conf *conf, const char *text)
{
	for (size_t i = 0; i < conf->template_count; i++)
		if (lm_str_starts(text, conf->templates[i].mark))
			return &conf->templates[i];
	return NULL;
}

static int expand_templates(const struct lm_conf *conf, const char *value, struct lm_buf *out)
{
	int r = 0;
	while (*value && r == 0) {
		const struct template *t = *value == '@' ? template_at(conf, value) : NULL;
		r = t ? lm_buf_str(out, t->text) : lm_buf_append(out, value, 1);
		value += t ? strlen(t->mark) : 1;
	}
	return r;
}

static int set_entry(struct lm_conf *conf, const char *key, size_t key_len, const char *value, const char *file,
	unsigned line, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf expanded = LM_BUF(VALUE_MAX);
	int r = expand_templates(conf, value, &expanded);
	if (r < 0)
		return r == -EMSGSIZE ? lm_err_set(err, -EPROTO, "%s:%u: value too long", file, line) : lm_err_oom(err);
	value = lm_buf_cstr(&expanded);
	struct lm_conf_entry *old = find(conf, key, key_len);
	if (!old && conf->count >= ENTRIES_MAX)
		return lm_err_set(err, -EPROTO, "%s:%u: more than %d settings", file, line, ENTRIES_MAX);
	if (!old && conf->count == conf->cap) {
		size_t cap = conf->cap ? conf->cap * 2 : 32;
		struct lm_conf_entry *entries = reallocarray(conf->entries, cap, sizeof(*entries));
		if (!entries)
			return lm_err_oom(err);
		conf->entries = entries;
		conf->cap = cap;
	}
	struct lm_conf_entry entry;
	if (entry_make(&entry, key, key_len, value, file, line) < 0)
		return lm_err_oom(err);
	entry.source = conf->sources;
	if (old) {
		entry_done(old);
		*old = entry;
	} else {
		conf->entries[conf->count++] = entry;
	}
	return 0;
}

struct cursor {
	const struct lm_conf *conf;
	const char *file;
	unsigned line;
	const char *at, *end; /* of the current line */
};

static bool is_key_char(char c, bool first)
{
	return isalpha((unsigned char)c) || c == '_' || (!first && isdigit((unsigned char)c));
}

static size_t key_length(const char *at, const char *end)
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

/* At a '$': appends the value of the variable named there. An unset one is empty, as in a shell. */
static int expand_variable(struct cursor *c, struct lm_buf *value, struct lm_err *err)
{
	bool braced = c->at + 1 < c->end && c->at[1] == '{';
	const char *name = c->at + 1 + braced;
	size_t len = key_length(name, c->end);
	if (len == 0 || (braced && (name + len == c->end || name[len] != '}')))
		return malformed(c, err, "only $NAME and ${NAME} are understood after '$' (no shell is run)");
	c->at = name + len + braced;
	const struct lm_conf_entry *entry = find(c->conf, name, len);
	return entry && lm_buf_str(value, entry->value) < 0 ? malformed(c, err, "value too long") : 0;
}

/* Inside double quotes (quote '"') or bare (quote 0): appends up to the closing quote or the end of the word. */
static int parse_piece(struct cursor *c, char quote, struct lm_buf *value, struct lm_err *err)
{
	while (c->at < c->end) {
		char ch = *c->at;
		if (quote ? ch == quote : (isspace((unsigned char)ch) || ch == '\'' || ch == '"'))
			break;
		if (ch == '$' && quote != '\'') {
			int r = expand_variable(c, value, err);
			if (r < 0)
				return r;
			continue;
		}
		if (quote != '\'' && ch == '`')
			return malformed(c, err, "command substitution is not understood (no shell is run)");
		if (!quote && strchr(";&|<>()", ch))
			return malformed(c, err, "quote values that hold one of ; & | < > ( )");
		if (quote != '\'' && ch == '\\') {
			if (c->at + 1 == c->end)
				return malformed(c, err, "lines that go on after a backslash are not understood");
			if (!quote || strchr("$`\"\\", c->at[1]))
				ch = *++c->at;
		}
		if (lm_buf_append(value, &ch, 1) < 0)
			return malformed(c, err, "value too long");
		c->at++;
	}
	if (!quote)
		return 0;
	if (c->at == c->end)
		return malformed(c, err, "closing quote missing");
	c->at++;
	return 0;
}

static int parse_value(struct cursor *c, struct lm_buf *value, struct lm_err *err)
{
	while (c->at < c->end && !isspace((unsigned char)*c->at)) {
		char quote = *c->at == '\'' || *c->at == '"' ? *c->at++ : 0;
		int r = parse_piece(c, quote, value, err);
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

static void skip_word(struct cursor *c, const char *word)
{
	size_t n = strlen(word);
	if ((size_t)(c->end - c->at) > n && memcmp(c->at, word, n) == 0 && isspace((unsigned char)c->at[n])) {
		c->at += n;
		skip_blanks(c);
	}
}

static int parse_line(struct lm_conf *conf, struct cursor *c, struct lm_err *err)
{
	skip_blanks(c);
	if (c->at == c->end || *c->at == '#')
		return 0;
	skip_word(c, "export");
	skip_word(c, "readonly");
	const char *key = c->at;
	size_t key_len = key_length(c->at, c->end);
	if (key_len == 0 || key_len > KEY_MAX || key + key_len == c->end || key[key_len] != '=')
		return malformed(c, err, "expected KEY=VALUE");
	c->at = key + key_len + 1;
	CLEANUP(lm_buf_done) struct lm_buf value = LM_BUF(VALUE_MAX);
	int r = parse_value(c, &value, err);
	if (r < 0)
		return r;
	skip_blanks(c);
	if (c->at < c->end && *c->at != '#')
		return malformed(c, err, "unexpected text after the value (quote values with blanks)");
	return set_entry(conf, key, key_len, lm_buf_cstr(&value), c->file, c->line, err);
}

int lm_conf_parse(struct lm_conf *conf, const char *name, const char *text, size_t len, struct lm_err *err)
{
	struct cursor c = {.conf = conf, .file = name};
	conf->sources++;
	if (memchr(text, '\0', len))
		return lm_err_set(err, -EPROTO, "%s: a NUL byte in a configuration file", name);
	for (const char *at = text, *end = text + len; at < end;) {
		const char *eol = memchr(at, '\n', (size_t)(end - at));
		c.line++;
		c.at = at;
		c.end = eol ? eol : end;
		at = eol ? eol + 1 : end;
		int r = parse_line(conf, &c, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int lm_conf_read(struct lm_conf *conf, const char *path, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(FILE_MAX);
	int r = lm_file_read(AT_FDCWD, path, &text, err);
	return r < 0 ? r : lm_conf_parse(conf, path, lm_buf_cstr(&text), text.len, err);
}

int lm_conf_set(struct lm_conf *conf, const char *key, const char *value, const char *origin, struct lm_err *err)
{
	size_t len = strlen(key);
	if (key_length(key, key + len) != len || len == 0 || len > KEY_MAX)
		return lm_err_set(err, -EINVAL, "%s: \"%s\" is no name of a setting", origin, key);
	conf->sources++;
	return set_entry(conf, key, len, value, origin, 0, err);
}

const struct lm_conf_entry *lm_conf_entry(const struct lm_conf *conf, const char *key)
{
	return find(conf, key, strlen(key));
}

const struct lm_conf_entry *lm_conf_at(const struct lm_conf *conf, size_t index)
{
	return index < conf->count ? &conf->entries[index] : NULL;
}

const char *lm_conf_get(const struct lm_conf *conf, const char *key)
{
	const struct lm_conf_entry *entry = lm_conf_entry(conf, key);
	return entry ? entry->value : NULL;
}

static int bad_value(const struct lm_conf_entry *entry, const char *wanted, struct lm_err *err)
{
	return lm_err_set(
		err, -EINVAL, "%s:%u: %s=%s is not %s", entry->file, entry->line, entry->key, entry->value, wanted);
}

int lm_conf_u64(
	const struct lm_conf *conf, const char *key, uint64_t fallback, uint64_t max, uint64_t *ret, struct lm_err *err)
{
	const struct lm_conf_entry *entry = lm_conf_entry(conf, key);
	uint64_t value = fallback;
	if (entry && (lm_str_u64(entry->value, strlen(entry->value), &value) < 0 || value > max))
		return lm_err_set(err, -EINVAL, "%s:%u: %s=%s is not a number from 0 to %llu", entry->file, entry->line,
			key, entry->value, (unsigned long long)max);
	*ret = value;
	return 0;
}

int lm_conf_bool(const struct lm_conf *conf, const char *key, bool fallback, bool *ret, struct lm_err *err)
{
	static const char *const yes[] = {"yes", "on", "1", "true"}, *const no[] = {"no", "off", "0", "false"};
	const struct lm_conf_entry *entry = lm_conf_entry(conf, key);
	if (!entry) {
		*ret = fallback;
		return 0;
	}
	for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
		if (strcasecmp(entry->value, yes[i]) == 0 || strcasecmp(entry->value, no[i]) == 0) {
			*ret = strcasecmp(entry->value, yes[i]) == 0;
			return 0;
		}
	}
	return bad_value(entry, "yes or no", err);
}
