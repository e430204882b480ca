#include "fetcher/settings.h"

#include "base/file.h"
#include "base/str.h"
#include "repo/manifest.h"

#include <dirent.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
	KEY_FILE_MAX = 64 << 10,
	BLACKLIST_MAX = 1 << 20,
	SECONDS_MAX = 86400,
	MINUTES_MAX = 525600,
	CATALOG_MIB = 1024,
	CATALOG_MIB_MAX = 1 << 20,
};
static const char date_format[] = "%Y-%m-%dT%H:%M:%SZ";

/* Every LAMELLA_ key there is; the file is shared with the snapshotter. */
static const char *const lamella_keys[] = {
	"LAMELLA_MOUNT_BASE",
	"LAMELLA_MOUNTPOINT",
	"LAMELLA_SOCKET",
	"LAMELLA_ON_MISS",
	"LAMELLA_RESOLVE_TIMEOUT",
	"LAMELLA_CATALOG_MAX",
};

static const char usage[] =
	"usage: lamella-fetcher [--config FILE]... [--set KEY=VALUE]... [--require-mounts] [--log-level LEVEL]\n"
	"                       [--check-config]\n"
	"\n"
	"Mounts the configured CVMFS repositories and serves the snapshotter's questions about them.\n"
	"\n"
	"  -c, --config FILE      read settings from FILE (may be repeated; default " LM_SETTINGS_DEFAULT_FILE ")\n"
	"  -s, --set KEY=VALUE    one setting, stronger than any file\n"
	"      --require-mounts   end with code 1 where a repository can't be mounted at start, instead of trying on;\n"
	"                         end with code 0 when all were unmounted\n"
	"      --foreground       stay in the foreground (always the case)\n"
	"      --log-level LEVEL  error, warn, info (default) or debug\n"
	"      --check-config     say what is wrong with the settings, if anything, and exit\n"
	"      --help, --version\n";

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

/* Two passes: files first, so that --set wins wherever it stands. */
static int read_options(int argc, char **argv, struct lm_settings *s, bool files, struct lm_err *err)
{
	enum { FOREGROUND = 256, REQUIRE, LOG_LEVEL, CHECK, HELP, VERSION };
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'},
		{"set", required_argument, NULL, 's'},
		{"foreground", no_argument, NULL, FOREGROUND},
		{"require-mounts", no_argument, NULL, REQUIRE},
		{"log-level", required_argument, NULL, LOG_LEVEL},
		{"check-config", no_argument, NULL, CHECK},
		{"help", no_argument, NULL, HELP},
		{"version", no_argument, NULL, VERSION},
		{0},
	};
	bool any_file = false;
	int r = 0, c;
	optind = 0;
	while (r == 0 && (c = getopt_long(argc, argv, "c:s:", options, NULL)) != -1) {
		switch (c) {
		case 'c':
			any_file = true;
			r = files ? lm_conf_read(s->conf, optarg, err) : 0;
			break;
		case 's':
			r = files ? 0 : set_option(s->conf, optarg, err);
			break;
		case FOREGROUND:
			break;
		case REQUIRE:
			s->require_mounts = true;
			break;
		case LOG_LEVEL:
			if (!lm_log_level_parse(optarg, &s->log_level))
				r = lm_err_set(err, -EINVAL, "--log-level %s: error, warn, info or debug", optarg);
			break;
		case CHECK:
			s->check_only = true;
			break;
		case HELP:
			fputs(usage, stdout);
			return 1;
		case VERSION:
			puts("lamella-fetcher " LM_VERSION);
			return 1;
		default:
			return lm_err_set(err, -EINVAL, "wrong usage (see lamella-fetcher --help)");
		}
	}
	if (r == 0 && optind < argc)
		return lm_err_set(err, -EINVAL, "unexpected argument %s", argv[optind]);
	if (r == 0 && files && !any_file) {
		r = lm_conf_read(s->conf, LM_SETTINGS_DEFAULT_FILE, err);
		r = r == -ENOENT ? 0 : r;
	}
	return r;
}

static int check_keys(const struct lm_conf *conf, struct lm_err *err)
{
	const struct lm_conf_entry *entry;
	for (size_t i = 0; (entry = lm_conf_at(conf, i)); i++) {
		bool known = !lm_str_starts(entry->key, "LAMELLA_");
		for (size_t k = 0; k < ARRAY_LEN(lamella_keys) && !known; k++)
			known = strcmp(entry->key, lamella_keys[k]) == 0;
		if (!known)
			return lm_err_set(
				err, -EINVAL, "%s:%u: there is no setting %s", entry->file, entry->line, entry->key);
	}
	return 0;
}

static int require(const struct lm_conf *conf, const char *key, const char **ret, struct lm_err *err)
{
	const char *value = lm_conf_get(conf, key);
	if (!value || !*value)
		return lm_err_set(err, -EINVAL, "%s must be set", key);
	*ret = value;
	return 0;
}

static int parse_repositories(struct lm_settings *s, struct lm_err *err)
{
	const char *list = NULL;
	int r = require(s->conf, "CVMFS_REPOSITORIES", &list, err);
	if (r < 0)
		return r;
	CLEANUP(lm_freep) char *copy = strdup(list);
	if (!copy)
		return lm_err_oom(err);
	char *save = NULL;
	for (char *name = strtok_r(copy, ", ", &save); name; name = strtok_r(NULL, ", ", &save)) {
		if (!lm_fqrn_valid(name))
			return lm_err_set(err, -EINVAL, "CVMFS_REPOSITORIES: \"%s\" is no repository name", name);
		for (size_t i = 0; i < s->repository_count; i++)
			if (strcmp(s->repositories[i], name) == 0)
				return lm_err_set(err, -EINVAL, "CVMFS_REPOSITORIES: %s is named twice", name);
		if (s->repository_count == LM_SETTINGS_REPOSITORIES_MAX)
			return lm_err_set(err, -EINVAL, "CVMFS_REPOSITORIES: more than %d repositories",
				LM_SETTINGS_REPOSITORIES_MAX);
		if (!(s->repositories[s->repository_count] = strdup(name)))
			return lm_err_oom(err);
		s->repository_count++;
	}
	return s->repository_count ? 0 : lm_err_set(err, -EINVAL, "CVMFS_REPOSITORIES names no repository");
}

static int add_key(struct lm_settings *s, const char *path, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(KEY_FILE_MAX);
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

static int add_key_list(struct lm_settings *s, const char *list, struct lm_err *err)
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

static int add_key_dir(struct lm_settings *s, const char *dir, struct lm_err *err)
{
	struct dirent **names;
	int count = scandir(dir, &names, is_pub, alphasort);
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

static int load_keys(struct lm_settings *s, struct lm_err *err)
{
	const char *list = lm_conf_get(s->conf, "CVMFS_PUBLIC_KEY"), *dir = lm_conf_get(s->conf, "CVMFS_KEYS_DIR");
	int r = 0;
	if (list && *list)
		r = add_key_list(s, list, err);
	else if (dir && *dir)
		r = add_key_dir(s, dir, err);
	else
		return lm_err_set(err, -EINVAL, "CVMFS_PUBLIC_KEY or CVMFS_KEYS_DIR must be set");
	if (r == 0 && s->key_count == 0)
		return lm_err_set(err, -EINVAL, "%s has no public key", list && *list ? list : dir);
	return r;
}

static int load_blacklist(struct lm_settings *s, struct lm_err *err)
{
	const char *set = lm_conf_get(s->conf, "CVMFS_BLACKLIST");
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(BLACKLIST_MAX);
	int r = lm_file_read(AT_FDCWD, set ? set : "/etc/cvmfs/blacklist", &text, err);
	if (r == -ENOENT && !set)
		return 0;
	if (r < 0)
		return lm_err_prefix(err, r, "CVMFS_BLACKLIST");
	s->blacklist = strdup(lm_buf_cstr(&text));
	return s->blacklist ? 0 : lm_err_oom(err);
}

static const char *get_nonempty(const struct lm_conf *conf, const char *key)
{
	const char *value = lm_conf_get(conf, key);
	return value && *value ? value : NULL;
}

static int parse_pinned_hash(struct lm_settings *s, const char *text, struct lm_err *err)
{
	if (s->repository_count > 1)
		return lm_err_set(err, -EINVAL, "CVMFS_ROOT_HASH is for one repository, but %zu are configured",
			s->repository_count);
	if (lm_hash_parse(text, strlen(text), &s->pin.hash, NULL) < 0)
		return lm_err_set(err, -EINVAL, "CVMFS_ROOT_HASH: \"%s\" is no hash of a catalog", text);
	s->pin.kind = LM_PIN_HASH;
	return 0;
}

/* What timegm() had to put right, such as the 30th of February, comes back as another text. */
static int parse_pinned_date(struct lm_settings *s, const char *text, struct lm_err *err)
{
	struct tm tm = {0};
	char again[64];
	const char *end = strptime(text, date_format, &tm);
	time_t time = timegm(&tm);
	if (!end || *end || !gmtime_r(&time, &tm) || !strftime(again, sizeof(again), date_format, &tm) ||
		strcmp(again, text) != 0)
		return lm_err_set(
			err, -EINVAL, "CVMFS_REPOSITORY_DATE: \"%s\" is no time like 2026-11-01T00:00:00Z", text);
	s->pin.kind = LM_PIN_DATE;
	s->pin.date_s = time;
	return 0;
}

static int load_pin(struct lm_settings *s, struct lm_err *err)
{
	const char *hash = get_nonempty(s->conf, "CVMFS_ROOT_HASH");
	const char *tag = get_nonempty(s->conf, "CVMFS_REPOSITORY_TAG");
	const char *date = get_nonempty(s->conf, "CVMFS_REPOSITORY_DATE");
	if (hash)
		return parse_pinned_hash(s, hash, err);
	if (tag)
		s->pin = (struct lm_pin){.kind = LM_PIN_TAG, .tag = tag};
	else if (date)
		return parse_pinned_date(s, date, err);
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

static int load_numbers(struct lm_settings *s, struct lm_err *err)
{
	/* 0 lets the origin take its own default. */
	const struct {
		const char *key;
		unsigned *ret_ms;
	} seconds[] = {
		{"CVMFS_TIMEOUT", &s->timeout_ms},
		{"CVMFS_TIMEOUT_DIRECT", &s->timeout_direct_ms},
		{"CVMFS_BACKOFF_INIT", &s->backoff_init_ms},
		{"CVMFS_BACKOFF_MAX", &s->backoff_max_ms},
		{"CVMFS_PROXY_RESET_AFTER", &s->proxy_reset_ms},
		{"CVMFS_HOST_RESET_AFTER", &s->host_reset_ms},
	};
	uint64_t value;
	for (size_t i = 0; i < ARRAY_LEN(seconds); i++) {
		int r = lm_conf_u64(s->conf, seconds[i].key, 0, SECONDS_MAX, &value, err);
		if (r < 0)
			return r;
		*seconds[i].ret_ms = (unsigned)value * 1000;
	}
	int r = lm_conf_u64(s->conf, "CVMFS_MAX_RETRIES", 1, 100, &value, err);
	if (r < 0)
		return r;
	s->max_retries = (unsigned)value;
	r = lm_conf_u64(s->conf, "CVMFS_MAX_TTL", 0, MINUTES_MAX, &value, err);
	if (r < 0)
		return r;
	s->max_ttl_s = value * 60;
	r = lm_conf_u64(s->conf, "LAMELLA_CATALOG_MAX", CATALOG_MIB, CATALOG_MIB_MAX, &value, err);
	if (r < 0)
		return r;
	s->catalog_max = (value ? value : CATALOG_MIB) << 20;
	return 0;
}

static const char *get_or(const struct lm_conf *conf, const char *key, const char *fallback)
{
	const char *value = lm_conf_get(conf, key);
	return value ? value : fallback;
}

static int load_places(struct lm_settings *s, struct lm_err *err)
{
	s->cache_base = get_or(s->conf, "CVMFS_CACHE_BASE", "/var/lib/cvmfs");
	s->mount_base = get_or(s->conf, "LAMELLA_MOUNT_BASE", "/cvmfs");
	s->socket = get_or(s->conf, "LAMELLA_SOCKET", "/run/lamella/fetcher.sock");
	s->mountpoint = lm_conf_get(s->conf, "LAMELLA_MOUNTPOINT");
	if (*s->cache_base != '/' || *s->mount_base != '/')
		return lm_err_set(err, -EINVAL, "CVMFS_CACHE_BASE and LAMELLA_MOUNT_BASE must be absolute paths");
	if (s->mountpoint && *s->mountpoint != '/')
		return lm_err_set(err, -EINVAL, "LAMELLA_MOUNTPOINT must be an absolute path");
	if (s->mountpoint && s->repository_count > 1)
		return lm_err_set(err, -EINVAL, "LAMELLA_MOUNTPOINT is for one repository, but %zu are configured",
			s->repository_count);
	return 0;
}

static int load(int argc, char **argv, struct lm_settings *s, struct lm_err *err)
{
	s->log_level = LM_LOG_INFO;
	int r = lm_conf_new(&s->conf, err);
	if (r == 0)
		r = read_options(argc, argv, s, true, err);
	if (r == 0)
		r = read_options(argc, argv, s, false, err);
	if (r == 0)
		r = check_keys(s->conf, err);
	if (r == 0)
		r = parse_repositories(s, err);
	if (r == 0)
		r = require(s->conf, "CVMFS_SERVER_URL", &s->servers, err);
	if (r == 0)
		r = require(s->conf, "CVMFS_HTTP_PROXY", &s->proxies, err);
	if (r == 0)
		r = load_places(s, err);
	if (r == 0)
		r = load_numbers(s, err);
	if (r == 0)
		r = load_keys(s, err);
	if (r == 0)
		r = load_pin(s, err);
	if (r == 0)
		r = load_blacklist(s, err);
	return r;
}

int lm_settings_load(int argc, char **argv, struct lm_settings *ret, struct lm_err *err)
{
	struct lm_settings s = {0};
	int r = load(argc, argv, &s, err);
	if (r != 0) {
		lm_settings_done(&s);
		return r;
	}
	*ret = s;
	return 0;
}

void lm_settings_done(struct lm_settings *settings)
{
	for (size_t i = 0; i < settings->repository_count; i++)
		free(settings->repositories[i]);
	for (size_t i = 0; i < settings->key_count; i++)
		lm_key_free(settings->keys[i]);
	free(settings->blacklist);
	lm_conf_free(settings->conf);
	*settings = (struct lm_settings){0};
}

char *lm_settings_mountpoint(const struct lm_settings *settings, const char *fqrn)
{
	return settings->mountpoint ? strdup(settings->mountpoint) : lm_str_printf("%s/%s", settings->mount_base, fqrn);
}
