#include "fetcher/settings_internal.h"

#include "base/file.h"
#include "base/str.h"
#include "base/version.h"
#include "net/origin.h"
#include "repo/manifest.h"

#include <dirent.h>
#include <getopt.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { BLACKLIST_MAX = 1 << 20, FAILURE_PAUSE_MS = 2000 };
static const char date_format[] = "%Y-%m-%dT%H:%M:%SZ";
static const char stock_dir[] = "/etc/cvmfs", own_dir[] = "/etc/lamella";

static const char usage[] =
	"usage: lamella-fetcher [--config FILE]... [--config-dir DIR] [--set KEY=VALUE]... [--require-mounts]\n"
	"                       [--log-level LEVEL] [--check-config [--json]]\n"
	"\n"
	"Mounts the configured CVMFS repositories and serves the snapshotter's questions about them.\n"
	"\n"
	"  -c, --config FILE      read settings from FILE (may be repeated) instead of /etc/cvmfs and /etc/lamella\n"
	"      --config-dir DIR   read the files of the stock client from DIR instead of /etc/cvmfs\n"
	"      --config-repository DIR   a copy of the configuration repository's folder etc/cvmfs\n"
	"  -s, --set KEY=VALUE    one setting, stronger than any file\n"
	"      --require-mounts   end with code 1 where a repository can't be mounted at start, instead of trying on;\n"
	"                         end with code 0 when all were unmounted\n"
	"      --foreground       stay in the foreground (always the case)\n"
	"      --log-level LEVEL  error, warn, info (default) or debug: --set LAMELLA_LOG_LEVEL=LEVEL\n"
	"      --check-config     show each setting in force and where it comes from, and exit: 0 nothing is wrong,\n"
	"                         1 something is doubtful, 2 this can't be started\n"
	"      --json             the same for programs\n"
	"      --help-settings    list all settings\n"
	"      --help, --version\n";

/* Options. */

static int add_text(const char **list, size_t *count, size_t max, const char *text, struct lm_err *err)
{
	if (*count == max)
		return lm_err_set(err, -EINVAL, "more than %zu --config or --set options", max);
	list[(*count)++] = text;
	return 0;
}

static void print_setting(const struct lm_setting *s)
{
	printf("%s (%s%s%s%s%s%s%s)\n    %s\n", s->key, s->scope == LM_SCOPE_NODE ? "node" : "repository",
		s->unit ? ", " : "", s->unit ? s->unit : "", s->words ? ", " : "", s->words ? s->words : "",
		*s->fallback ? ", default " : "", s->fallback, s->help);
}

static int help_settings(void)
{
	for (const struct lm_setting *s = lm_settings_table; s->key; s++)
		print_setting(s);
	puts("\nOf the stock client, without effect here, or read by others:\n");
	for (const struct lm_setting_elsewhere *s = lm_settings_elsewhere; s->key; s++)
		printf("%s\n    %s\n", s->key, s->why);
	return 1;
}

static int answer(const char *text)
{
	fputs(text, stdout);
	return 1;
}

int lm_settings_parse_options(int argc, char **argv, struct lm_settings_options *o, struct lm_err *err)
{
	enum {
		FOREGROUND = 256,
		REQUIRE,
		LOG_LEVEL,
		CHECK,
		JSON,
		CONFIG_DIR,
		CONFIG_REPOSITORY,
		HELP_SETTINGS,
		HELP,
		VERSION
	};
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'},
		{"config-dir", required_argument, NULL, CONFIG_DIR},
		{"config-repository", required_argument, NULL, CONFIG_REPOSITORY},
		{"set", required_argument, NULL, 's'},
		{"foreground", no_argument, NULL, FOREGROUND},
		{"require-mounts", no_argument, NULL, REQUIRE},
		{"log-level", required_argument, NULL, LOG_LEVEL},
		{"check-config", no_argument, NULL, CHECK},
		{"json", no_argument, NULL, JSON},
		{"help-settings", no_argument, NULL, HELP_SETTINGS},
		{"help", no_argument, NULL, HELP},
		{"version", no_argument, NULL, VERSION},
		{0},
	};
	int r = 0, c;
	optind = 0;
	while (r == 0 && (c = getopt_long(argc, argv, "c:s:", options, NULL)) != -1) {
		switch (c) {
		case 'c':
			r = add_text(o->files, &o->file_count, ARRAY_LEN(o->files), optarg, err);
			break;
		case 's':
			r = add_text(o->sets, &o->set_count, ARRAY_LEN(o->sets), optarg, err);
			break;
		case CONFIG_DIR:
			o->config_dir = optarg;
			break;
		case CONFIG_REPOSITORY:
			o->repository_dir = optarg;
			break;
		case FOREGROUND:
			break;
		case REQUIRE:
			o->require_mounts = true;
			break;
		case LOG_LEVEL:
			o->log_level = optarg;
			break;
		case CHECK:
			o->check = true;
			break;
		case JSON:
			o->json = true;
			break;
		case HELP_SETTINGS:
			return help_settings();
		case HELP:
			return answer(usage);
		case VERSION:
			return answer("lamella-fetcher " LM_VERSION "\n");
		default:
			return lm_err_set(err, -EINVAL, "wrong usage (see lamella-fetcher --help)");
		}
	}
	if (r == 0 && optind < argc)
		return lm_err_set(err, -EINVAL, "unexpected argument %s", argv[optind]);
	return r;
}

static int set_option(struct lm_conf *conf, const char *text, struct lm_err *err)
{
	const char *equals = strchr(text, '=');
	if (!equals || equals == text)
		return lm_err_set(err, -EINVAL, "--set %s: KEY=VALUE is expected", text);
	CLEANUP(lm_freep) char *key = lm_str_ndup(text, (size_t)(equals - text));
	if (!key)
		return lm_err_oom(err);
	return lm_conf_set(conf, key, equals + 1, "command line", err);
}

/* Files. */

/* NULL: the stock client's files are not read. */
static const char *config_dir(const struct lm_settings_options *o)
{
	return o->config_dir ? o->config_dir : o->file_count == 0 ? stock_dir : NULL;
}

/* DIR/NAME if it is there; takes and frees path. */
static int read_if_there(struct lm_conf *conf, char *path, struct lm_err *err)
{
	if (!path)
		return lm_err_oom(err);
	int r = lm_conf_read(conf, path, err);
	free(path);
	return r == -ENOENT || r == -ENOTDIR ? 0 : r;
}

static int is_conf(const struct dirent *entry)
{
	return lm_str_ends(entry->d_name, ".conf") && entry->d_name[0] != '.';
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* All *.conf of a directory that may be missing, in the order of their names; takes and frees dir. */
static int read_dir(struct lm_conf *conf, char *dir, struct lm_err *err)
{
	struct dirent **names = NULL;
	int r = 0, count = dir ? scandir(dir, &names, is_conf, by_bytes) : -1;
	if (!dir)
		return lm_err_oom(err);
	if (count < 0 && errno != ENOENT && errno != ENOTDIR)
		r = lm_err_sys(err, -errno, "%s", dir);
	for (int i = 0; i < count; i++) {
		if (r == 0)
			r = read_if_there(conf, lm_str_printf("%s/%s", dir, names[i]->d_name), err);
		free(names[i]);
	}
	free(names);
	free(dir);
	return r;
}

/* A file of the configuration repository's copy, where there is one. */
static int read_of_repository(struct lm_conf *conf, const struct lm_settings_options *o, const char *kind,
	const char *name, struct lm_err *err)
{
	const char *dir = o->repository_dir;
	return dir ? read_if_there(conf, lm_str_printf("%s/%s%s.conf", dir, kind, name), err) : 0;
}

/* kind: "domain.d/" or "config.d/" */
static int read_special(struct lm_conf *conf, const struct lm_settings_options *o, const char *kind, const char *name,
	struct lm_err *err)
{
	const char *dir = config_dir(o);
	int r = read_of_repository(conf, o, kind, name, err);
	if (r == 0)
		r = read_if_there(conf, lm_str_printf("%s/%s%s.conf", dir, kind, name), err);
	if (r == 0)
		r = read_if_there(conf, lm_str_printf("%s/%s%s.local", dir, kind, name), err);
	return r;
}

/* In the stock client's order; fqrn: NULL for the node. */
static int read_stock(struct lm_conf *conf, const struct lm_settings_options *o, const char *fqrn, struct lm_err *err)
{
	const char *dir = config_dir(o);
	int r = read_if_there(conf, lm_str_printf("%s/default.conf", dir), err);
	if (r == 0)
		r = read_dir(conf, lm_str_printf("%s/default.d", dir), err);
	if (r == 0)
		r = read_of_repository(conf, o, "", "default", err);
	if (r == 0)
		r = read_if_there(conf, lm_str_printf("%s/default.local", dir), err);
	const char *dot = fqrn ? strchr(fqrn, '.') : NULL;
	if (r == 0 && dot)
		r = read_special(conf, o, "domain.d/", dot + 1, err);
	if (r == 0 && fqrn)
		r = read_special(conf, o, "config.d/", fqrn, err);
	return r;
}

static int read_own(struct lm_conf *conf, const char *fqrn, struct lm_err *err)
{
	int r = read_if_there(conf, strdup(LM_SETTINGS_DEFAULT_FILE), err);
	if (r == 0)
		r = read_dir(conf, lm_str_printf("%s/lamella.conf.d", own_dir), err);
	if (r == 0 && fqrn)
		r = read_if_there(conf, lm_str_printf("%s/config.d/%s.conf", own_dir, fqrn), err);
	return r;
}

/* @fqrn@ and @org@ in any value, and $CVMFS_FQRN, as the stock client has them. */
static int name_repository(struct lm_conf *conf, const char *fqrn, struct lm_err *err)
{
	CLEANUP(lm_freep) char *org = lm_str_ndup(fqrn, strcspn(fqrn, "."));
	int r = org ? lm_conf_template(conf, "fqrn", fqrn, err) : lm_err_oom(err);
	if (r == 0)
		r = lm_conf_template(conf, "org", org, err);
	return r < 0 ? r : lm_conf_set(conf, "CVMFS_FQRN", fqrn, "repository", err);
}

/* Everything in its order; fqrn: NULL for the node. */
static int read_all(const struct lm_settings_options *o, const char *fqrn, struct lm_conf **ret, struct lm_err *err)
{
	CLEANUP(lm_conf_freep) struct lm_conf *conf = NULL;
	int r = lm_conf_new(&conf, err);
	if (r == 0 && fqrn)
		r = name_repository(conf, fqrn, err);
	if (r == 0 && config_dir(o))
		r = read_stock(conf, o, fqrn, err);
	if (r == 0 && o->file_count == 0)
		r = read_own(conf, fqrn, err);
	for (size_t i = 0; i < o->file_count && r == 0; i++)
		r = lm_conf_read(conf, o->files[i], err);
	for (size_t i = 0; i < o->set_count && r == 0; i++)
		r = set_option(conf, o->sets[i], err);
	if (r == 0 && o->log_level)
		r = lm_conf_set(conf, "LAMELLA_LOG_LEVEL", o->log_level, "command line", err);
	if (r == 0)
		*ret = STEAL(conf);
	return r;
}

/* Values. */

/* KEY= takes back what an earlier file said; of a text or path, it says that there is none. */
static const char *value_of(const struct lm_conf *conf, const struct lm_setting *s)
{
	const char *value = lm_conf_get(conf, s->key);
	bool given = value && (*value || s->kind == LM_SETTING_TEXT || s->kind == LM_SETTING_PATH);
	return given ? value : s->fallback;
}

/* "FILE:LINE: KEY=VALUE is not WANTED" */
static int refuse(const struct lm_conf *conf, const struct lm_setting *s, struct lm_err *err, const char *wanted)
{
	const struct lm_conf_entry *entry = lm_conf_entry(conf, s->key);
	CLEANUP(lm_freep) char *shown = lm_setting_shown(conf, s);
	if (!entry)
		return lm_err_set(err, -EINVAL, "%s must be set", s->key);
	return lm_err_set(
		err, -EINVAL, "%s:%u: %s=%s is not %s", entry->file, entry->line, s->key, shown ? shown : "", wanted);
}

static int parse_number(const struct lm_conf *conf, const struct lm_setting *s, uint64_t *ret, struct lm_err *err)
{
	const char *text = value_of(conf, s);
	char wanted[96];
	uint64_t value;
	if (s->minus_one && strcmp(text, "-1") == 0) {
		*ret = LM_SETTINGS_UNLIMITED;
		return 0;
	}
	(void)snprintf(wanted, sizeof(wanted), "a number from %llu to %llu%s", (unsigned long long)s->min,
		(unsigned long long)s->max, s->minus_one ? ", or -1" : "");
	if (lm_str_u64(text, strlen(text), &value) < 0 || value < s->min || value > s->max)
		return refuse(conf, s, err, wanted);
	*ret = value * s->scale;
	return 0;
}

static int parse_choice(const struct lm_conf *conf, const struct lm_setting *s, unsigned *ret, struct lm_err *err)
{
	const char *text = value_of(conf, s);
	unsigned index = 0;
	for (const char *at = s->words; *at; index++) {
		size_t len = strcspn(at, " ");
		if (strlen(text) == len && memcmp(at, text, len) == 0) {
			*ret = index;
			return 0;
		}
		at += len + (at[len] == ' ');
	}
	CLEANUP(lm_freep) char *wanted = lm_str_printf("one of %s", s->words);
	return wanted ? refuse(conf, s, err, wanted) : lm_err_oom(err);
}

static int parse_bool(const struct lm_conf *conf, const struct lm_setting *s, bool *ret, struct lm_err *err)
{
	const char *text = value_of(conf, s);
	if (text != s->fallback)
		return lm_conf_bool(conf, s->key, false, ret, err);
	*ret = strcmp(text, "yes") == 0;
	return 0;
}

static int parse_setting(const struct lm_conf *conf, const struct lm_setting *s, void *field, struct lm_err *err)
{
	const char *text = value_of(conf, s);
	uint64_t number = 0;
	int r = 0;
	switch (s->kind) {
	case LM_SETTING_PATH:
		if (*text && *text != '/')
			return refuse(conf, s, err, "an absolute path");
		*(const char **)field = text;
		return 0;
	case LM_SETTING_TEXT:
		*(const char **)field = text;
		return 0;
	case LM_SETTING_BOOL:
		return parse_bool(conf, s, field, err);
	case LM_SETTING_CHOICE:
		return parse_choice(conf, s, field, err);
	case LM_SETTING_UNSIGNED:
		r = parse_number(conf, s, &number, err);
		*(unsigned *)field = (unsigned)number;
		return r;
	case LM_SETTING_U64:
		return parse_number(conf, s, field, err);
	}
	return lm_err_set(err, -EINVAL, "%s", s->key);
}

static int parse_scope(
	const struct lm_conf *conf, enum lm_setting_scope scope, void *fields, const char *of, struct lm_err *err)
{
	for (const struct lm_setting *s = lm_settings_table; s->key; s++) {
		if (s->scope != scope)
			continue;
		int r = parse_setting(conf, s, (char *)fields + s->offset, err);
		if (r < 0)
			return r;
		if (s->required && !*value_of(conf, s))
			return lm_err_set(err, -EINVAL, "%s must be set%s%s", s->key, *of ? " for " : "", of);
	}
	return 0;
}

/* Blanks only where a password is: "://USER:PASSWORD@". */
static int hide_passwords(const char *text, struct lm_buf *out)
{
	int r = 0;
	for (const char *url; r == 0 && (url = strstr(text, "://"));) {
		const char *user = url + 3, *end = user + strcspn(user, "/;|, "),
			   *at = memrchr(user, '@', (size_t)(end - user));
		const char *colon = at ? memchr(user, ':', (size_t)(at - user)) : NULL;
		const char *kept = colon ? colon + 1 : user;
		r = lm_buf_append(out, text, (size_t)(kept - text));
		if (r == 0 && colon)
			r = lm_buf_str(out, "***");
		text = colon ? at : user;
	}
	return r < 0 ? r : lm_buf_str(out, text);
}

char *lm_setting_shown(const struct lm_conf *conf, const struct lm_setting *s)
{
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(1 << 20);
	return hide_passwords(value_of(conf, s), &out) < 0 ? NULL : strdup(lm_buf_cstr(&out));
}

static int unknown_key(const struct lm_conf_entry *entry, struct lm_err *err)
{
	const char *nearest = lm_setting_nearest(entry->key);
	return lm_err_set(err, -EINVAL, "%s:%u: there is no setting %s%s%s%s", entry->file, entry->line, entry->key,
		nearest ? " (is " : "", nearest ? nearest : "", nearest ? " meant?)" : "");
}

/* A LAMELLA_ key that nobody knows. */
static int check_keys(const struct lm_conf *conf, struct lm_err *err)
{
	const struct lm_conf_entry *entry;
	for (size_t i = 0; (entry = lm_conf_at(conf, i)); i++)
		if (lm_str_starts(entry->key, "LAMELLA_") && !lm_setting_find(entry->key) &&
			!lm_setting_find_elsewhere(entry->key))
			return unknown_key(entry, err);
	return 0;
}

/* One repository. */

static int add_key(struct lm_repository_settings *s, const char *path, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_SETTINGS_KEY_FILE_MAX);
	if (s->key_count == LM_SETTINGS_KEYS_MAX)
		return lm_err_set(err, -EINVAL, "more than %d public keys", LM_SETTINGS_KEYS_MAX);
	int r = lm_file_read(AT_FDCWD, path, &pem, err);
	if (r == 0)
		r = lm_key_parse_public(lm_buf_cstr(&pem), pem.len, &s->keys[s->key_count], err);
	if (r < 0)
		return lm_err_prefix(err, r, "public key %s", path);
	s->key_count++;
	return 0;
}

static int add_key_list(struct lm_repository_settings *s, const char *list, struct lm_err *err)
{
	CLEANUP(lm_freep) char *copy = strdup(list);
	if (!copy)
		return lm_err_oom(err);
	char *save = NULL;
	int r = 0;
	for (char *path = strtok_r(copy, ":", &save); path && r == 0; path = strtok_r(NULL, ":", &save))
		r = add_key(s, path, err);
	return r;
}

static int is_pub(const struct dirent *entry)
{
	return lm_str_ends(entry->d_name, ".pub");
}

static int add_key_dir(struct lm_repository_settings *s, const char *dir, struct lm_err *err)
{
	struct dirent **names;
	int count = scandir(dir, &names, is_pub, by_bytes);
	if (count < 0)
		return lm_err_sys(err, -errno, "CVMFS_KEYS_DIR %s", dir);
	int r = 0;
	for (int i = 0; i < count; i++) {
		CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, names[i]->d_name);
		if (r == 0)
			r = path ? add_key(s, path, err) : lm_err_oom(err);
		free(names[i]);
	}
	free(names);
	return r;
}

/* The directory counts, as with the stock client, unless the list stands in a file that is read later. */
bool lm_settings_keys_by_list(const struct lm_repository_settings *s)
{
	const struct lm_conf_entry *list = lm_conf_entry(s->conf, "CVMFS_PUBLIC_KEY");
	const struct lm_conf_entry *dir = lm_conf_entry(s->conf, "CVMFS_KEYS_DIR");
	return *s->public_key && (!*s->keys_dir || list->source > dir->source);
}

static int load_keys(struct lm_repository_settings *s, struct lm_err *err)
{
	bool by_list = lm_settings_keys_by_list(s);
	if (!by_list && !*s->keys_dir)
		return lm_err_set(err, -EINVAL, "CVMFS_PUBLIC_KEY or CVMFS_KEYS_DIR must be set for %s", s->fqrn);
	int r = by_list ? add_key_list(s, s->public_key, err) : add_key_dir(s, s->keys_dir, err);
	if (r == 0 && s->key_count == 0)
		return lm_err_set(err, -EINVAL, "%s has no public key", by_list ? s->public_key : s->keys_dir);
	return r;
}

static int load_blacklist(struct lm_repository_settings *s, const char *dir, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(BLACKLIST_MAX);
	CLEANUP(lm_freep)
	char *path = *s->blacklist_path ? strdup(s->blacklist_path) : lm_str_printf("%s/blacklist", dir);
	if (!path)
		return lm_err_oom(err);
	int r = lm_file_read(AT_FDCWD, path, &text, err);
	if (r == -ENOENT && !*s->blacklist_path)
		return 0;
	if (r < 0)
		return lm_err_prefix(err, r, "CVMFS_BLACKLIST");
	s->blacklist = strdup(lm_buf_cstr(&text));
	return s->blacklist ? 0 : lm_err_oom(err);
}

static int parse_pinned_hash(struct lm_repository_settings *s, struct lm_err *err)
{
	if (lm_hash_parse(s->root_hash, strlen(s->root_hash), &s->pin.hash, NULL) < 0)
		return lm_err_set(err, -EINVAL, "CVMFS_ROOT_HASH: \"%s\" is no hash of a catalog", s->root_hash);
	s->pin.kind = LM_PIN_HASH;
	return 0;
}

/* What timegm() had to put right, such as the 30th of February, comes back as another text. */
static int parse_pinned_date(struct lm_repository_settings *s, struct lm_err *err)
{
	struct tm tm = {0};
	char again[64];
	const char *end = strptime(s->date, date_format, &tm);
	time_t time = timegm(&tm);
	if (!end || *end || !gmtime_r(&time, &tm) || !strftime(again, sizeof(again), date_format, &tm) ||
		strcmp(again, s->date) != 0)
		return lm_err_set(
			err, -EINVAL, "CVMFS_REPOSITORY_DATE: \"%s\" is no time like 2026-11-01T00:00:00Z", s->date);
	s->pin.kind = LM_PIN_DATE;
	s->pin.date_s = time;
	return 0;
}

static int load_pin(struct lm_repository_settings *s, struct lm_err *err)
{
	if (*s->root_hash)
		return parse_pinned_hash(s, err);
	if (*s->tag)
		s->pin = (struct lm_pin){.kind = LM_PIN_TAG, .tag = s->tag};
	else if (*s->date)
		return parse_pinned_date(s, err);
	return 0;
}

char *lm_pin_text(const struct lm_pin *pin)
{
	char date[64] = "";
	const time_t time = pin->date_s;
	struct tm tm;
	switch (pin->kind) {
	case LM_PIN_HASH:
		return lm_str_printf("root %s", lm_hash_text(&pin->hash).s);
	case LM_PIN_TAG:
		return lm_str_printf("tag %s", pin->tag);
	case LM_PIN_DATE:
		(void)!strftime(date, sizeof(date), date_format, gmtime_r(&time, &tm));
		return lm_str_printf("date %s", date);
	default:
		return strdup("");
	}
}

static int load_mountpoint(const struct lm_settings *node, struct lm_repository_settings *s, struct lm_err *err)
{
	const char *base = *node->mount_base ? node->mount_base : node->stock_mount_dir;
	bool named = *s->wanted_mountpoint != '\0';
	/* Only who asks the control service learns of it. */
	bool lean = node->lean_mounts && !named && *node->socket;
	s->mountpoint = named ? strdup(s->wanted_mountpoint) : lm_str_printf("%s/%s", base, s->fqrn);
	s->lean_mountpoint = lean ? lm_str_printf("%s/.lean/%s", base, s->fqrn) : strdup("");
	return s->mountpoint && s->lean_mountpoint ? 0 : lm_err_oom(err);
}

/* In the settings 0 means 0; to the origin it would be its default. */
void lm_settings_origin(const struct lm_repository_settings *s, struct lm_origin_config *ret)
{
	*ret = (struct lm_origin_config){
		.servers = s->servers,
		.proxies = s->proxies,
		.fallback_proxies = s->fallback_proxies,
		.fqrn = s->fqrn,
		.max_servers = s->max_servers,
		.use_geoapi = s->use_geoapi,
		.proxy_shard = s->proxy_shard,
		.ip_family = s->address_family,
		.max_proxy_ips = s->max_addresses,
		.dns_server = s->dns_server,
		.dns_timeout_ms = s->dns_timeout_ms,
		.dns_retries = s->dns_retries,
		.dns_min_ttl_s = s->dns_min_ttl_s,
		.dns_max_ttl_s = s->dns_max_ttl_s,
		.follow_redirects = s->follow_redirects,
		.send_info_header = s->send_info_header,
		.low_speed_limit = s->low_speed_limit ? s->low_speed_limit : 1,
		.ca_file = s->ca_file,
		.ca_path = s->ca_dir,
		.site_ca_only = !s->use_system_ca && (s->ca_dir[0] || s->ca_file[0]),
		.timeout_ms = s->timeout_ms,
		.timeout_direct_ms = s->timeout_direct_ms,
		.max_retries = s->max_retries,
		.backoff_init_ms = s->backoff_init_ms ? s->backoff_init_ms : 1,
		.backoff_max_ms = s->backoff_max_ms ? s->backoff_max_ms : 1,
		.proxy_reset_ms = s->proxy_reset_ms ? s->proxy_reset_ms : UINT_MAX,
		.host_reset_ms = s->host_reset_ms ? s->host_reset_ms : UINT_MAX,
		.failure_pause_max_ms = FAILURE_PAUSE_MS,
	};
}

static int check_origin(const struct lm_repository_settings *s, struct lm_err *err)
{
	struct lm_origin_config origin;
	lm_settings_origin(s, &origin);
	int r = lm_origin_check(&origin, err);
	return r < 0 ? lm_err_prefix(err, r, "%s", s->fqrn) : 0;
}

static int load_repository(const struct lm_settings_source *source, const struct lm_settings *node,
	struct lm_repository_settings *s, struct lm_err *err)
{
	int r = source->conf(source->arg, s->fqrn, &s->conf, err);
	if (r == 0)
		r = check_keys(s->conf, err);
	if (r == 0)
		r = parse_scope(s->conf, LM_SCOPE_REPOSITORY, s, s->fqrn, err);
	if (r == 0)
		r = check_origin(s, err);
	if (r == 0)
		r = load_mountpoint(node, s, err);
	if (r == 0)
		r = source->trust(source->arg, s, err);
	return r == 0 ? load_pin(s, err) : r;
}

/* The node. */

static int add_repository(struct lm_settings *s, const char *name, struct lm_err *err)
{
	bool complete = strchr(name, '.') || !*s->default_domain;
	CLEANUP(lm_freep) char *fqrn = complete ? strdup(name) : lm_str_printf("%s.%s", name, s->default_domain);
	if (!fqrn)
		return lm_err_oom(err);
	if (!lm_fqrn_valid(fqrn))
		return lm_err_set(err, -EINVAL, "CVMFS_REPOSITORIES: \"%s\" is no repository name", fqrn);
	if (lm_settings_find(s, fqrn))
		return lm_err_set(err, -EINVAL, "CVMFS_REPOSITORIES: %s is named twice", fqrn);
	if (s->repository_count == LM_SETTINGS_REPOSITORIES_MAX)
		return lm_err_set(
			err, -EINVAL, "CVMFS_REPOSITORIES: more than %d repositories", LM_SETTINGS_REPOSITORIES_MAX);
	s->repositories[s->repository_count++].fqrn = STEAL(fqrn);
	return 0;
}

static int list_repositories(struct lm_settings *s, struct lm_err *err)
{
	CLEANUP(lm_freep) char *copy = strdup(s->names);
	s->repositories = calloc(LM_SETTINGS_REPOSITORIES_MAX, sizeof(*s->repositories));
	if (!copy || !s->repositories)
		return lm_err_oom(err);
	char *save = NULL;
	int r = 0;
	for (char *name = strtok_r(copy, ", ", &save); name && r == 0; name = strtok_r(NULL, ", ", &save))
		r = add_repository(s, name, err);
	if (r == 0 && s->repository_count == 0)
		return lm_err_set(err, -EINVAL, "CVMFS_REPOSITORIES names no repository");
	return r;
}

/* What is one repository's can't be two's. */
static int compare(const struct lm_repository_settings *a, const struct lm_repository_settings *b, struct lm_err *err)
{
	const char *key = strcmp(a->mountpoint, b->mountpoint) == 0		     ? "LAMELLA_MOUNTPOINT"
			  : *a->root_hash && strcmp(a->root_hash, b->root_hash) == 0 ? "CVMFS_ROOT_HASH"
										     : NULL;
	return key ? lm_err_set(err, -EINVAL, "%s is for one repository, but set for %s and %s", key, a->fqrn, b->fqrn)
		   : 0;
}

static int load_repositories(const struct lm_settings_source *source, struct lm_settings *s, struct lm_err *err)
{
	int r = list_repositories(s, err);
	for (size_t i = 0; i < s->repository_count && r == 0; i++)
		r = load_repository(source, s, &s->repositories[i], err);
	for (size_t i = 0; i < s->repository_count; i++)
		for (size_t k = 0; k < i && r == 0; k++)
			r = compare(&s->repositories[k], &s->repositories[i], err);
	return r;
}

static int load(const struct lm_settings_source *source, struct lm_settings *s, struct lm_err *err)
{
	s->require_mounts = source->require_mounts;
	int r = source->conf(source->arg, NULL, &s->conf, err);
	if (r == 0)
		r = check_keys(s->conf, err);
	if (r == 0)
		r = parse_scope(s->conf, LM_SCOPE_NODE, s, "", err);
	return r == 0 ? load_repositories(source, s, err) : r;
}

int lm_settings_build(const struct lm_settings_source *source, struct lm_settings **ret, struct lm_err *err)
{
	CLEANUP(lm_settings_unrefp) struct lm_settings *s = calloc(1, sizeof(*s));
	if (!s)
		return lm_err_oom(err);
	s->refs = 1;
	int r = load(source, s, err);
	if (r == 0)
		*ret = STEAL(s);
	return r;
}

static int conf_of_files(void *arg, const char *fqrn, struct lm_conf **ret, struct lm_err *err)
{
	return read_all(arg, fqrn, ret, err);
}

static int trust_of_files(void *arg, struct lm_repository_settings *s, struct lm_err *err)
{
	const char *dir = config_dir(arg);
	int r = load_keys(s, err);
	return r == 0 ? load_blacklist(s, dir ? dir : stock_dir, err) : r;
}

int lm_settings_read(const struct lm_settings_options *options, struct lm_settings **ret, struct lm_err *err)
{
	const struct lm_settings_source files = {
		.arg = (void *)options,
		.require_mounts = options->require_mounts,
		.conf = conf_of_files,
		.trust = trust_of_files,
	};
	return lm_settings_build(&files, ret, err);
}

int lm_settings_load(int argc, char **argv, struct lm_settings **ret, struct lm_err *err)
{
	struct lm_settings_options options = {0};
	int r = lm_settings_parse_options(argc, argv, &options, err);
	if (r == 0 && options.check)
		return lm_settings_check(&options) + 1;
	return r ? r : lm_settings_read(&options, ret, err);
}

struct lm_settings *lm_settings_ref(struct lm_settings *settings)
{
	atomic_fetch_add(&settings->refs, 1);
	return settings;
}

static void repository_done(struct lm_repository_settings *s)
{
	for (size_t i = 0; i < s->key_count; i++)
		lm_key_free(s->keys[i]);
	free(s->blacklist);
	free(s->mountpoint);
	free(s->lean_mountpoint);
	lm_conf_free(s->conf);
	free((char *)s->fqrn);
}

void lm_settings_unref(struct lm_settings *settings)
{
	if (!settings || atomic_fetch_sub(&settings->refs, 1) > 1)
		return;
	for (size_t i = 0; i < settings->repository_count; i++)
		repository_done(&settings->repositories[i]);
	free(settings->repositories);
	lm_conf_free(settings->conf);
	free(settings);
}

const struct lm_repository_settings *lm_settings_find(const struct lm_settings *settings, const char *fqrn)
{
	for (size_t i = 0; i < settings->repository_count; i++)
		if (strcmp(settings->repositories[i].fqrn, fqrn) == 0)
			return &settings->repositories[i];
	return NULL;
}

/* Changes. */

struct diff {
	void (*fn)(void *arg, const struct lm_settings_change *change);
	void *arg;
};

static int diff_scope(const struct diff *diff, enum lm_setting_scope scope, const char *fqrn,
	const struct lm_conf *older, const struct lm_conf *newer, struct lm_err *err)
{
	for (const struct lm_setting *s = lm_settings_table; s->key; s++) {
		if (s->scope != scope || strcmp(value_of(older, s), value_of(newer, s)) == 0)
			continue;
		CLEANUP(lm_freep) char *from = lm_setting_shown(older, s);
		CLEANUP(lm_freep) char *to = lm_setting_shown(newer, s);
		if (!from || !to)
			return lm_err_oom(err);
		const struct lm_settings_change change = {.setting = s, .fqrn = fqrn, .from = from, .to = to};
		diff->fn(diff->arg, &change);
	}
	return 0;
}

int lm_settings_diff(const struct lm_settings *older, const struct lm_settings *newer,
	void (*fn)(void *arg, const struct lm_settings_change *change), void *arg, struct lm_err *err)
{
	const struct diff diff = {fn, arg};
	int r = diff_scope(&diff, LM_SCOPE_NODE, "", older->conf, newer->conf, err);
	for (size_t i = 0; i < newer->repository_count && r == 0; i++) {
		const struct lm_repository_settings *s = &newer->repositories[i],
						    *old = lm_settings_find(older, s->fqrn);
		if (old)
			r = diff_scope(&diff, LM_SCOPE_REPOSITORY, s->fqrn, old->conf, s->conf, err);
	}
	return r;
}
