/*
 * Settings from one process to the next. Packed, they are texts, each ended by a NUL:
 *
 *   format, require_mounts, CONF of the node, then for each repository in the order of CVMFS_REPOSITORIES: name, CONF,
 *   public keys (PEM), "", blacklist or ""
 *   CONF: key, value, file, line, source of each entry, then ""
 */
#include "fetcher/settings_internal.h"

#include "base/str.h"

#include <stdio.h>
#include <string.h>

static const char format[] = "lamella-settings 1";

/* Packing. */

static int put(struct lm_buf *out, const char *text)
{
	return lm_buf_append(out, text, strlen(text) + 1);
}

static int put_number(struct lm_buf *out, unsigned number)
{
	char text[16];
	(void)snprintf(text, sizeof(text), "%u", number);
	return put(out, text);
}

static int put_entry(struct lm_buf *out, const struct lm_conf_entry *entry)
{
	int r = put(out, entry->key);
	if (r == 0)
		r = put(out, entry->value);
	if (r == 0)
		r = put(out, entry->file);
	if (r == 0)
		r = put_number(out, entry->line);
	return r == 0 ? put_number(out, entry->source) : r;
}

static bool needs_start(const struct lm_conf_entry *entry)
{
	const struct lm_setting *setting = lm_setting_find(entry->key);
	return setting && setting->reload == LM_RELOAD_START;
}

static int put_conf(struct lm_buf *out, const struct lm_conf *conf, const struct lm_conf *started)
{
	const struct lm_conf_entry *entry;
	int r = 0;
	for (size_t i = 0; r == 0 && (entry = lm_conf_at(conf, i)); i++)
		if (!started || !needs_start(entry))
			r = put_entry(out, entry);
	for (size_t i = 0; r == 0 && started && (entry = lm_conf_at(started, i)); i++)
		if (needs_start(entry))
			r = put_entry(out, entry);
	return r == 0 ? put(out, "") : r;
}

static int put_trust(struct lm_buf *out, const struct lm_repository_settings *s, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_SETTINGS_KEY_FILE_MAX);
	int r = 0;
	for (size_t i = 0; i < s->key_count && r == 0; i++) {
		lm_buf_clear(&pem);
		r = lm_key_format_public(s->keys[i], &pem, err);
		if (r < 0)
			return r;
		r = put(out, lm_buf_cstr(&pem));
	}
	if (r == 0)
		r = put(out, "");
	if (r == 0)
		r = put(out, s->blacklist ? s->blacklist : "");
	return r < 0 ? lm_err_set(err, r, "settings are too long to be kept") : 0;
}

int lm_settings_pack(
	const struct lm_settings *settings, const struct lm_settings *started, struct lm_buf *ret, struct lm_err *err)
{
	int r = put(ret, format);
	if (r == 0)
		r = put_number(ret, settings->require_mounts);
	if (r == 0)
		r = put_conf(ret, settings->conf, started ? started->conf : NULL);
	for (size_t i = 0; i < settings->repository_count && r == 0; i++) {
		const struct lm_repository_settings *s = &settings->repositories[i];
		const struct lm_repository_settings *old = started ? lm_settings_find(started, s->fqrn) : NULL;
		r = put(ret, s->fqrn);
		if (r == 0)
			r = put_conf(ret, s->conf, old ? old->conf : NULL);
		if (r == 0 && (r = put_trust(ret, s, err)) < 0)
			return r;
	}
	return r < 0 ? lm_err_set(err, r, "settings are too long to be kept") : 0;
}

/* Unpacking. */

struct packed {
	const char *at, *end;
};

static int get(struct packed *p, const char **ret, struct lm_err *err)
{
	const char *nul = memchr(p->at, '\0', (size_t)(p->end - p->at));
	if (!nul)
		return lm_err_set(err, -EPROTO, "kept settings are cut off");
	*ret = p->at;
	p->at = nul + 1;
	return 0;
}

static int expect(struct packed *p, const char *wanted, struct lm_err *err)
{
	const char *text = "";
	int r = get(p, &text, err);
	return r == 0 && strcmp(text, wanted) != 0
		       ? lm_err_set(err, -EPROTO, "kept settings have \"%s\" in place of \"%s\"", text, wanted)
		       : r;
}

static int get_number(struct packed *p, unsigned *ret, struct lm_err *err)
{
	const char *text = "";
	uint64_t number;
	int r = get(p, &text, err);
	if (r < 0)
		return r;
	if (lm_str_u64(text, strlen(text), &number) < 0 || number > UINT32_MAX)
		return lm_err_set(err, -EPROTO, "kept settings have \"%s\" in place of a number", text);
	*ret = (unsigned)number;
	return 0;
}

/* The rest of an entry. */
static int get_entry(struct packed *p, const char *key, struct lm_conf *conf, struct lm_err *err)
{
	struct lm_conf_entry entry = {.key = key};
	int r = get(p, &entry.value, err);
	if (r == 0)
		r = get(p, &entry.file, err);
	if (r == 0)
		r = get_number(p, &entry.line, err);
	if (r == 0)
		r = get_number(p, &entry.source, err);
	return r == 0 ? lm_conf_put(conf, &entry, err) : r;
}

static int conf_of_packed(void *arg, const char *fqrn, struct lm_conf **ret, struct lm_err *err)
{
	CLEANUP(lm_conf_freep) struct lm_conf *conf = NULL;
	const char *key = "";
	int r = lm_conf_new(&conf, err);
	if (r == 0 && fqrn)
		r = expect(arg, fqrn, err);
	while (r == 0 && (r = get(arg, &key, err)) == 0 && *key)
		r = get_entry(arg, key, conf, err);
	if (r == 0)
		*ret = STEAL(conf);
	return r;
}

static int trust_of_packed(void *arg, struct lm_repository_settings *s, struct lm_err *err)
{
	const char *text = "";
	int r;
	while ((r = get(arg, &text, err)) == 0 && *text) {
		if (s->key_count == LM_SETTINGS_KEYS_MAX)
			return lm_err_set(err, -EPROTO, "more than %d public keys", LM_SETTINGS_KEYS_MAX);
		r = lm_key_parse_public(text, strlen(text), &s->keys[s->key_count], err);
		if (r < 0)
			return lm_err_prefix(err, r, "kept public key");
		s->key_count++;
	}
	if (r == 0)
		r = get(arg, &text, err);
	if (r < 0 || !*text)
		return r;
	s->blacklist = strdup(text);
	return s->blacklist ? 0 : lm_err_oom(err);
}

int lm_settings_unpack(const struct lm_buf *packed, struct lm_settings **ret, struct lm_err *err)
{
	struct packed p = {.at = lm_buf_cstr(packed)};
	struct lm_settings_source source = {.arg = &p, .conf = conf_of_packed, .trust = trust_of_packed};
	CLEANUP(lm_settings_unrefp) struct lm_settings *settings = NULL;
	unsigned require_mounts = 0;
	p.end = p.at + packed->len;
	int r = expect(&p, format, err);
	if (r == 0)
		r = get_number(&p, &require_mounts, err);
	source.require_mounts = require_mounts != 0;
	if (r == 0)
		r = lm_settings_build(&source, &settings, err);
	if (r < 0)
		return r;
	if (p.at != p.end)
		return lm_err_set(err, -EPROTO, "kept settings have more than was expected");
	*ret = STEAL(settings);
	return 0;
}
