#include "fetcher/settings_internal.h"

#include "base/str.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { KEY_MAX = 64, ALIKE_MAX = 3 };
enum { EXIT_FINE, EXIT_DOUBTFUL, EXIT_WRONG };

/* Likeness of names. */

/* Letters to change, put in or leave out; names are short. */
static unsigned distance(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	unsigned row[KEY_MAX + 1];
	if (n > KEY_MAX || m > KEY_MAX)
		return UINT_MAX;
	for (size_t k = 0; k <= m; k++)
		row[k] = (unsigned)k;
	for (size_t i = 1; i <= n; i++) {
		unsigned diagonal = row[0]++;
		for (size_t k = 1; k <= m; k++) {
			unsigned changed = diagonal + (a[i - 1] != b[k - 1]);
			diagonal = row[k];
			row[k] = LM_MIN(changed, LM_MIN(row[k], row[k - 1]) + 1);
		}
	}
	return row[m];
}

const char *lm_setting_nearest(const char *key)
{
	const char *nearest = NULL;
	unsigned least = ALIKE_MAX + 1;
	for (const struct lm_setting *s = lm_settings_table; s->key; s++) {
		unsigned d = distance(key, s->key);
		if (d < least) {
			least = d;
			nearest = s->key;
		}
	}
	for (const struct lm_setting_elsewhere *s = lm_settings_elsewhere; s->key; s++) {
		unsigned d = distance(key, s->key);
		if (d < least) {
			least = d;
			nearest = s->key;
		}
	}
	return nearest;
}

/* Remarks. */

struct remarks {
	void (*fn)(void *arg, const struct lm_settings_remark *remark);
	void *arg;
};

static void remark(
	const struct remarks *to, bool warning, const char *fqrn, const struct lm_conf_entry *entry, const char *text)
{
	const struct lm_settings_remark r = {.warning = warning, .fqrn = fqrn, .entry = entry, .text = text};
	to->fn(to->arg, &r);
}

static void remark_unknown(const struct remarks *to, const char *fqrn, const struct lm_conf_entry *entry)
{
	const char *nearest = lm_setting_nearest(entry->key);
	CLEANUP(lm_freep)
	char *text = nearest ? lm_str_printf("unknown, also to the stock client; is %s meant?", nearest) : NULL;
	remark(to, true, fqrn, entry, text ? text : "unknown, also to the stock client");
}

static void remark_on(const struct remarks *to, const char *fqrn, const struct lm_conf_entry *entry)
{
	const struct lm_setting *known = lm_setting_find(entry->key);
	const struct lm_setting_elsewhere *elsewhere = lm_setting_find_elsewhere(entry->key);
	if (known && known->scope == LM_SCOPE_NODE && *fqrn)
		remark(to, true, fqrn, entry, "has no effect here: this is a setting of the node, not of a repository");
	if (known)
		return;
	if (!elsewhere) {
		if (lm_str_starts(entry->key, "CVMFS_"))
			remark_unknown(to, fqrn, entry);
		return;
	}
	bool missed = lm_setting_is_missed(elsewhere, entry->value);
	CLEANUP(lm_freep) char *text = missed ? lm_str_printf("has no effect: %s", elsewhere->why) : NULL;
	remark(to, missed, fqrn, entry, text ? text : elsewhere->why);
}

static bool is_same_place(const struct lm_conf_entry *a, const struct lm_conf_entry *b)
{
	return b && a->line == b->line && strcmp(a->file, b->file) == 0;
}

/* What stands in the node's files, too, is said once. */
void lm_settings_remarks(
	const struct lm_settings *settings, void (*fn)(void *arg, const struct lm_settings_remark *remark), void *arg)
{
	const struct remarks to = {fn, arg};
	const struct lm_conf_entry *entry;
	for (size_t i = 0; (entry = lm_conf_at(settings->conf, i)); i++)
		remark_on(&to, "", entry);
	for (size_t k = 0; k < settings->repository_count; k++) {
		const struct lm_repository_settings *s = &settings->repositories[k];
		for (size_t i = 0; (entry = lm_conf_at(s->conf, i)); i++)
			if (entry->line && !is_same_place(entry, lm_conf_entry(settings->conf, entry->key)))
				remark_on(&to, s->fqrn, entry);
	}
}

static void log_remark(void *arg, const struct lm_settings_remark *r)
{
	if (r->warning)
		lm_log(LM_LOG_WARN, "setting", LM_KV("key", "%s", r->entry->key), LM_KV("file", "%s", r->entry->file),
			LM_KV("line", "%u", r->entry->line), LM_KV("repository", "%s", r->fqrn),
			LM_KV("remark", "%s", r->text));
}

void lm_settings_log(const struct lm_settings *settings)
{
	lm_settings_remarks(settings, log_remark, NULL);
}

/* Everything as text. */

static void print_settings(const struct lm_conf *conf, enum lm_setting_scope scope)
{
	for (const struct lm_setting *s = lm_settings_table; s->key; s++) {
		if (s->scope != scope)
			continue;
		const struct lm_conf_entry *entry = lm_conf_entry(conf, s->key);
		CLEANUP(lm_freep) char *value = lm_setting_shown(conf, s);
		bool number = value && *value && s->unit;
		printf("%s=%s%s%s  # ", s->key, value ? value : "", number ? " " : "", number ? s->unit : "");
		if (!entry)
			puts("default");
		else if (entry->line)
			printf("%s:%u\n", entry->file, entry->line);
		else
			puts(entry->file);
	}
}

struct text_remarks {
	bool warnings; /* which are printed */
	size_t count;
};

static void print_remark(void *arg, const struct lm_settings_remark *r)
{
	struct text_remarks *print = arg;
	if (r->warning != print->warnings)
		return;
	if (print->count++ == 0)
		puts(r->warning ? "\n# Warnings" : "\n# Without effect");
	if (r->entry->line)
		printf("%s:%u: ", r->entry->file, r->entry->line);
	else
		printf("%s: ", r->entry->file);
	printf("%s%s%s: %s\n", r->entry->key, *r->fqrn ? " of " : "", r->fqrn, r->text);
}

static int print_text(const struct lm_settings *settings)
{
	puts("# Node");
	print_settings(settings->conf, LM_SCOPE_NODE);
	for (size_t i = 0; i < settings->repository_count; i++) {
		const struct lm_repository_settings *s = &settings->repositories[i];
		printf("\n# Repository %s, to be mounted at %s, trusting %zu key%s%s\n", s->fqrn, s->mountpoint,
			s->key_count, s->key_count == 1 ? "" : "s", s->blacklist ? " and a blacklist" : "");
		print_settings(s->conf, LM_SCOPE_REPOSITORY);
	}
	struct text_remarks notes = {.warnings = false}, warnings = {.warnings = true};
	lm_settings_remarks(settings, print_remark, &notes);
	lm_settings_remarks(settings, print_remark, &warnings);
	return warnings.count ? EXIT_DOUBTFUL : EXIT_FINE;
}

/* Everything as JSON. jansson's constructors return NULL when memory is short, and its setters then fail. */

static const char *const reload_names[] = {"worker", "live", "start"};

static json_t *json_place(const struct lm_conf_entry *entry)
{
	return entry->line ? json_pack("{s:s, s:i}", "file", entry->file, "line", (int)entry->line)
			   : json_pack("{s:s, s:n}", "file", entry->file, "line");
}

static json_t *json_setting(const struct lm_conf *conf, const struct lm_setting *s)
{
	const struct lm_conf_entry *entry = lm_conf_entry(conf, s->key);
	CLEANUP(lm_freep) char *value = lm_setting_shown(conf, s);
	return json_pack("{s:s, s:s?, s:s?, s:o, s:s}", "key", s->key, "value", value, "unit", s->unit, "from",
		entry ? json_place(entry) : json_null(), "reload", reload_names[s->reload]);
}

static json_t *json_settings(const struct lm_conf *conf, enum lm_setting_scope scope)
{
	json_t *list = json_array();
	for (const struct lm_setting *s = lm_settings_table; s->key; s++)
		if (s->scope == scope)
			(void)json_array_append_new(list, json_setting(conf, s));
	return list;
}

struct json_remarks {
	json_t *list;
	size_t warnings;
};

static void add_remark(void *arg, const struct lm_settings_remark *r)
{
	struct json_remarks *to = arg;
	to->warnings += r->warning;
	(void)json_array_append_new(to->list,
		json_pack("{s:b, s:s?, s:s, s:o, s:s}", "warning", r->warning, "repository", *r->fqrn ? r->fqrn : NULL,
			"key", r->entry->key, "from", json_place(r->entry), "text", r->text));
}

static int print_json(const struct lm_settings *settings)
{
	struct json_remarks remarks = {.list = json_array()};
	json_t *repositories = json_array();
	for (size_t i = 0; i < settings->repository_count; i++) {
		const struct lm_repository_settings *s = &settings->repositories[i];
		(void)json_array_append_new(repositories,
			json_pack("{s:s, s:s, s:I, s:s, s:b, s:o}", "name", s->fqrn, "mountpoint", s->mountpoint,
				"keys", (json_int_t)s->key_count, "keys_from",
				lm_settings_keys_by_list(s) ? "CVMFS_PUBLIC_KEY" : "CVMFS_KEYS_DIR", "blacklist",
				s->blacklist != NULL, "settings", json_settings(s->conf, LM_SCOPE_REPOSITORY)));
	}
	lm_settings_remarks(settings, add_remark, &remarks);
	json_t *all = json_pack("{s:o, s:o, s:o}", "settings", json_settings(settings->conf, LM_SCOPE_NODE),
		"repositories", repositories, "remarks", remarks.list);
	bool printed = all && json_dumpf(all, stdout, JSON_INDENT(1)) == 0 && putchar('\n') != EOF;
	json_decref(all);
	return !printed ? EXIT_WRONG : remarks.warnings ? EXIT_DOUBTFUL : EXIT_FINE;
}

static void print_error(const struct lm_err *err, bool json)
{
	fprintf(stderr, "lamella-fetcher: %s\n", lm_err_text(err));
	if (!json)
		return;
	json_t *all = json_pack("{s:s}", "error", lm_err_text(err));
	if (all && json_dumpf(all, stdout, JSON_INDENT(1)) == 0)
		putchar('\n');
	json_decref(all);
}

int lm_settings_check(const struct lm_settings_options *options)
{
	CLEANUP(lm_settings_unrefp) struct lm_settings *settings = NULL;
	struct lm_err err = LM_ERR_INIT;
	if (lm_settings_read(options, &settings, &err) == 0)
		return options->json ? print_json(settings) : print_text(settings);
	print_error(&err, options->json);
	return EXIT_WRONG;
}
