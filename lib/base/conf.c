#include "base/conf_internal.h"

#include "base/file.h"
#include "base/str.h"

#include <string.h>
#include <strings.h>

enum { ENTRIES_MAX = 4096 };

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

struct lm_conf_entry *lm_conf_find(const struct lm_conf *conf, const char *key, size_t len)
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
	if (conf->template_count == LM_CONF_TEMPLATES_MAX)
		return lm_err_set(err, -EINVAL, "more than %d templates", LM_CONF_TEMPLATES_MAX);
	struct lm_conf_template *t =
		&conf->templates[conf->template_count++]; /* also when incomplete: freed with conf */
	t->mark = lm_str_printf("@%s@", name);
	t->text = strdup(text);
	return t->mark && t->text ? 0 : lm_err_oom(err);
}

static const struct lm_conf_template *template_at(const struct lm_conf *conf, const char *text)
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
		const struct lm_conf_template *t = *value == '@' ? template_at(conf, value) : NULL;
		r = t ? lm_buf_str(out, t->text) : lm_buf_append(out, value, 1);
		value += t ? strlen(t->mark) : 1;
	}
	return r;
}

int lm_conf_set_entry(struct lm_conf *conf, const char *key, size_t key_len, const char *value, const char *file,
	unsigned line, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf expanded = LM_BUF(LM_CONF_VALUE_MAX);
	int r = expand_templates(conf, value, &expanded);
	if (r < 0)
		return r == -EMSGSIZE ? lm_err_set(err, -EPROTO, "%s:%u: value too long", file, line) : lm_err_oom(err);
	value = lm_buf_cstr(&expanded);
	struct lm_conf_entry *old = lm_conf_find(conf, key, key_len);
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

int lm_conf_read(struct lm_conf *conf, const char *path, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_CONF_FILE_MAX);
	int r = lm_file_read(AT_FDCWD, path, &text, err);
	return r < 0 ? r : lm_conf_parse(conf, path, lm_buf_cstr(&text), text.len, err);
}

int lm_conf_set(struct lm_conf *conf, const char *key, const char *value, const char *origin, struct lm_err *err)
{
	size_t len = strlen(key);
	if (lm_conf_key_length(key, key + len) != len || len == 0 || len > LM_CONF_KEY_MAX)
		return lm_err_set(err, -EINVAL, "%s: \"%s\" is no name of a setting", origin, key);
	conf->sources++;
	return lm_conf_set_entry(conf, key, len, value, origin, 0, err);
}

int lm_conf_put(struct lm_conf *conf, const struct lm_conf_entry *entry, struct lm_err *err)
{
	size_t len = strlen(entry->key);
	if (lm_conf_key_length(entry->key, entry->key + len) != len || len == 0 || len > LM_CONF_KEY_MAX)
		return lm_err_set(err, -EINVAL, "%s: \"%s\" is no name of a setting", entry->file, entry->key);
	conf->sources = entry->source;
	return lm_conf_set_entry(conf, entry->key, len, entry->value, entry->file, entry->line, err);
}

const struct lm_conf_entry *lm_conf_entry(const struct lm_conf *conf, const char *key)
{
	return lm_conf_find(conf, key, strlen(key));
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
