#include "common.h"

#include "base/clock.h"
#include "base/conf.h"
#include "base/file.h"
#include "base/str.h"
#include "s3/config.h"

#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

enum { STATUS_EVERY_MS = 100, LINE_BYTES = 4096 };

static struct {
	pthread_mutex_t mutex;
	int64_t next_status_ms; /* under mutex */
	unsigned lines_shown;	/* of status or panel; under mutex */
} terminal = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* The length of the character at text, 0 where that is no UTF-8 or nothing that one would print: controls (C1 as well,
 * terminals obey those), what turns the direction of writing, what is invisible. */
static size_t printable(const unsigned char *text)
{
	if (text[0] < 0x80)
		return text[0] >= ' ' && text[0] != 0x7f;
	size_t len = text[0] >= 0xf0 ? 4 : text[0] >= 0xe0 ? 3 : text[0] >= 0xc2 ? 2 : 0;
	uint32_t code = text[0] & (0x7fU >> len);
	for (size_t i = 1; i < len; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (text[i] & 0x3f);
	}
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	bool ok = len > 0 && code >= least[len] && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff) &&
		  code >= 0xa0 && !(code >= 0x200b && code <= 0x200f) && !(code >= 0x2028 && code <= 0x202e) &&
		  !(code >= 0x2060 && code <= 0x206f) && code != 0xfeff;
	return ok ? len : 0;
}

/* Control characters would let a name from a registry move the cursor or forge a line. */
void lm_cli_defuse(char *text)
{
	for (unsigned char *c = (unsigned char *)text; *c;) {
		size_t len = printable(c);
		if (len == 0)
			*c = '?';
		c += LM_MAX(len, (size_t)1);
	}
}

/* What takes away the status or panel that is shown. Mutex held. */
struct erasure {
	char s[32];
};
static struct erasure erase(void)
{
	struct erasure text = {""};
	if (terminal.lines_shown > 1)
		snprintf(text.s, sizeof(text.s), "\r\033[%uA\033[J", terminal.lines_shown - 1);
	else if (terminal.lines_shown == 1)
		snprintf(text.s, sizeof(text.s), "\r\033[K");
	terminal.lines_shown = 0;
	return text;
}

static void print_line(const char *prefix, const char *fmt, va_list args)
{
	char line[LINE_BYTES];
	vsnprintf(line, sizeof(line), fmt, args);
	lm_cli_defuse(line);
	pthread_mutex_lock(&terminal.mutex);
	fprintf(stderr, "%s%s%s\n", erase().s, prefix, line);
	pthread_mutex_unlock(&terminal.mutex);
}

void lm_cli_error(const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	print_line("lamella: ", fmt, args);
	va_end(args);
}

int lm_cli_fail(const struct lm_err *err)
{
	lm_cli_error("%s", lm_err_text(err));
	return err && err->code == -EINVAL ? LM_EXIT_USAGE : LM_EXIT_FAILED;
}

int lm_cli_usage(const char *command)
{
	lm_cli_error("see `%s --help`", command);
	return LM_EXIT_USAGE;
}

void lm_cli_say(const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	print_line("", fmt, args);
	va_end(args);
}

bool lm_cli_live(void)
{
	const char *term = getenv("TERM");
	return isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0;
}

bool lm_cli_color(void)
{
	const char *no_color = getenv("NO_COLOR"); /* no-color.org */
	return lm_cli_live() && !(no_color && *no_color);
}

struct lm_cli_window lm_cli_window(void)
{
	struct winsize size;
	struct lm_cli_window window = {79, 24};
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0)
		return window;
	if (size.ws_col > 1)
		window.columns = size.ws_col - 1U; /* a full line would wrap */
	if (size.ws_row > 1)
		window.rows = size.ws_row;
	return window;
}

void lm_cli_panel(const char *text)
{
	unsigned lines = *text ? 1 : 0;
	for (const char *c = text; *c; c++)
		lines += *c == '\n';
	pthread_mutex_lock(&terminal.mutex);
	fprintf(stderr, "%s%s", erase().s, text);
	terminal.lines_shown = lines;
	pthread_mutex_unlock(&terminal.mutex);
}

void lm_cli_status(const char *fmt, ...)
{
	if (!lm_cli_live())
		return;
	char line[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	lm_cli_defuse(line);
	pthread_mutex_lock(&terminal.mutex);
	int64_t now = lm_now_ms();
	if (now >= terminal.next_status_ms) {
		fprintf(stderr, "%s%.*s", erase().s, (int)lm_cli_window().columns, line);
		terminal.next_status_ms = now + STATUS_EVERY_MS;
		terminal.lines_shown = 1;
	}
	pthread_mutex_unlock(&terminal.mutex);
}

int lm_cli_flush(int code)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return code;
	lm_cli_error("standard output: %s", strerror(errno));
	return LM_EXIT_FAILED;
}

struct lm_cli_size_text lm_cli_size(uint64_t bytes)
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
	struct lm_cli_size_text text;
	double value = (double)bytes;
	size_t unit = 0;
	/* 999.95 would be printed as 1000.0 */
	for (; value >= (unit ? 999.95 : 1000) && unit + 1 < ARRAY_LEN(units); unit++)
		value /= 1000;
	snprintf(text.s, sizeof(text.s), "%.*f %s", unit ? 1 : 0, value, units[unit]);
	return text;
}

struct lm_cli_time_text lm_cli_time(int64_t seconds)
{
	struct lm_cli_time_text text = {"unknown"};
	struct tm tm;
	time_t t = seconds;
	if (seconds != 0 && gmtime_r(&t, &tm))
		strftime(text.s, sizeof(text.s), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return text;
}

const char *lm_cli_environment(const char *variable, const char *otherwise)
{
	const char *value = getenv(variable);
	return value && *value ? value : otherwise;
}

int lm_cli_socket_check(const char *path, const char *meaning, struct lm_err *err)
{
	if (access(path, F_OK) == 0)
		return 0;
	return errno == ENOENT ? lm_err_set(err, -EAGAIN, "%s: %s is not there", meaning, path)
			       : lm_err_sys(err, -errno, "%s", path);
}

struct json_t *lm_cli_text_json(const char *text)
{
	CLEANUP(lm_buf_done) struct lm_buf quoted = LM_BUF(4 * strlen(text) + 2);
	json_t *string = json_string(text);
	if (!string && lm_str_quote(&quoted, text, strlen(text)) == 0)
		string = json_string(lm_buf_cstr(&quoted));
	return string;
}

int lm_cli_print_json(struct json_t *report)
{
	int r = report ? json_dumpf(report, stdout, JSON_INDENT(2)) : -1;
	json_decref(report);
	if (r < 0 && !ferror(stdout)) {
		lm_cli_error("the report can't be written as JSON");
		return LM_EXIT_FAILED;
	}
	printf("\n");
	return LM_EXIT_OK;
}

int lm_cli_time_parse(const char *text, int64_t *ret_s, struct lm_err *err)
{
	struct tm tm = {0};
	if (text[0] == '@' && lm_str_i64(text + 1, strlen(text + 1), ret_s) == 0)
		return 0;
	const char *end = strptime(text, "%Y-%m-%d", &tm);
	if (end && *end == 'T')
		end = strptime(end + 1, "%H:%M:%S", &tm);
	if (end && *end == 'Z')
		end++;
	if (!end || *end)
		return lm_err_set(err, -EINVAL,
			"\"%s\" is no date: 2026-01-31, 2026-01-31T23:59:59Z (UTC) or @SECONDS is wanted", text);
	*ret_s = timegm(&tm);
	return 0;
}

/* --- options --- */

enum { OPTIONS_MAX = 40, HELP_CODE = 1000, HELP_COLUMN_MAX = 24 };

static int option_label(const struct lm_cli_option *o, char *ret, size_t size)
{
	char letter[8] = "";
	if (o->letter)
		snprintf(letter, sizeof(letter), "-%c, ", o->letter);
	return snprintf(ret, size, "%s--%s%s%s", letter, o->name, o->arg ? " " : "", o->arg ? o->arg : "");
}

/* The further lines of a text stand below its first one. */
static void print_indented(const char *text, int column)
{
	for (size_t len; *text; text += len + (text[len] == '\n')) {
		len = strcspn(text, "\n");
		printf("%.*s\n", (int)len, text);
		if (text[len])
			printf("%*s", column, "");
	}
}

static void print_syntax(const char *command, const struct lm_cli_syntax *syntax)
{
	char label[80];
	int width = 0;
	printf("Usage: %s %s\n%s\n\n", command, syntax->synopsis, syntax->about);
	for (const struct lm_cli_option *o = syntax->options; o->name; o++) {
		int len = option_label(o, label, sizeof(label));
		width = len <= HELP_COLUMN_MAX ? LM_MAX(width, len) : width;
	}
	for (const struct lm_cli_option *o = syntax->options; o->name; o++) {
		bool fits = option_label(o, label, sizeof(label)) <= width;
		printf("  %-*s%s%*s", width, label, fits ? "  " : "\n", fits ? 0 : width + 4, "");
		print_indented(o->help, width + 4);
	}
}

static int take_number(const struct lm_cli_option *o, const char *value, struct lm_err *err)
{
	uint64_t number, max = o->max ? o->max : UINT64_MAX;
	if (lm_str_u64(value, strlen(value), &number) < 0 || number < o->min || number > max)
		return max == UINT64_MAX
			       ? lm_err_set(err, -EINVAL, "--%s: a number is wanted, not \"%s\"", o->name, value)
			       : lm_err_set(err, -EINVAL, "--%s: a number from %llu to %llu is wanted, not \"%s\"",
					 o->name, (unsigned long long)o->min, (unsigned long long)max, value);
	*o->number = number;
	return 0;
}

static int take_option(const struct lm_cli_option *o, const char *value, struct lm_err *err)
{
	if (o->flag)
		*o->flag = true;
	else if (o->text)
		*o->text = value;
	else if (o->number)
		return take_number(o, value, err);
	else
		return o->parse(o->parse_arg, value, err);
	return 0;
}

/* The table as getopt_long() wants it: the codes of options are their places in the table, from HELP_CODE + 1 on. */
static void fill_getopt(const struct lm_cli_option *options, struct option *longs, char *letters)
{
	size_t count = 0;
	for (; options[count].name && count < OPTIONS_MAX; count++) {
		const struct lm_cli_option *o = &options[count];
		longs[count] = (struct option){
			o->name, o->flag ? no_argument : required_argument, NULL, HELP_CODE + 1 + (int)count};
		if (o->letter)
			*letters++ = o->letter;
		if (o->letter && !o->flag)
			*letters++ = ':';
	}
	longs[count] = (struct option){"help", no_argument, NULL, HELP_CODE};
	*letters++ = 'h';
	*letters = '\0';
}

static const struct lm_cli_option *option_by_code(const struct lm_cli_option *options, int c)
{
	if (c > HELP_CODE)
		return &options[c - HELP_CODE - 1];
	while (options->letter != c)
		options++;
	return options;
}

int lm_cli_parse(int argc, char **argv, const struct lm_cli_syntax *syntax, int *ret_code)
{
	struct option longs[OPTIONS_MAX + 2] = {0};
	char letters[2 * OPTIONS_MAX + 2];
	struct lm_err err = LM_ERR_INIT;
	fill_getopt(syntax->options, longs, letters);
	*ret_code = LM_EXIT_USAGE;
	for (int c; (c = getopt_long(argc, argv, letters, longs, NULL)) != -1;) {
		if (c == HELP_CODE || c == 'h') {
			print_syntax(argv[0], syntax);
			*ret_code = LM_EXIT_OK;
			return -1;
		}
		if (c != '?' && take_option(option_by_code(syntax->options, c), optarg, &err) == 0)
			continue;
		if (err.msg[0])
			lm_cli_error("%s", err.msg);
		lm_cli_usage(argv[0]);
		return -1;
	}
	int words = argc - optind;
	if (words < syntax->min_words || (syntax->max_words >= 0 && words > syntax->max_words)) {
		lm_cli_error("%s", syntax->words);
		lm_cli_usage(argv[0]);
		return -1;
	}
	return optind;
}

/* --- records --- */

void lm_repo_record_done(struct lm_repo_record *record)
{
	free(record->name);
	free(record->storage);
	free(record->dir);
	free(record->keys);
	free(record->s3_config);
	*record = (struct lm_repo_record){0};
}

/* given: from the environment, or NULL; else that of root, or of this user by the base directory specification. */
static int base_dir(const char *given, const char *of_root, const char *xdg_name, const char *below_home, char **ret,
	struct lm_err *err)
{
	const char *xdg = getenv(xdg_name), *home = getenv("HOME");
	char *dir;
	if (given && *given)
		dir = strdup(given);
	else if (geteuid() == 0)
		dir = strdup(of_root);
	else if (xdg && xdg[0] == '/') /* the specification: relative values are to be ignored */
		dir = lm_str_printf("%s/lamella", xdg);
	else if (home && *home)
		dir = lm_str_printf("%s/%s/lamella", home, below_home);
	else
		return lm_err_set(err, -ENOENT, "no place for configuration and state: set HOME or LAMELLA_CONFIG_DIR");
	if (!dir)
		return lm_err_oom(err);
	*ret = dir;
	return 0;
}

static int config_dir(char **ret, struct lm_err *err)
{
	return base_dir(getenv("LAMELLA_CONFIG_DIR"), "/etc/lamella", "XDG_CONFIG_HOME", ".config", ret, err);
}

int lm_state_dir(char **ret, struct lm_err *err)
{
	const char *given = getenv("LAMELLA_STATE_DIR"), *config = getenv("LAMELLA_CONFIG_DIR");
	CLEANUP(lm_freep) char *beside = NULL;
	if (!(given && *given) && config && *config) {
		beside = lm_str_printf("%s/state", config);
		if (!beside)
			return lm_err_oom(err);
		given = beside;
	}
	return base_dir(given, "/var/lib/lamella", "XDG_STATE_HOME", ".local/state", ret, err);
}

/* The name becomes part of paths and URLs: the alphabet of repository names, and nothing hidden. */
static bool name_valid(const char *name)
{
	size_t len = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_");
	return len > 0 && len <= 255 && name[len] == '\0' && name[0] != '.' && name[0] != '-';
}

int lm_repo_record_path(const char *name, char **ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *dir = NULL;
	int r = config_dir(&dir, err);
	if (r < 0)
		return r;
	char *path = lm_str_printf("%s/repositories.d/%s.conf", dir, name);
	if (!path)
		return lm_err_oom(err);
	*ret = path;
	return 0;
}

/* A directory made absolute (it need not be there), without slashes at its end. */
static int absolute(const char *dir, char **ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *cwd = NULL;
	if (*dir == '\0')
		return lm_err_set(err, -EINVAL, "an empty name is no directory");
	if (*dir != '/') {
		cwd = getcwd(NULL, 0);
		if (!cwd)
			return lm_err_sys(err, -errno, "current directory");
	}
	char *path = lm_str_printf("%s%s%s", cwd ? cwd : "", cwd ? "/" : "", dir);
	if (!path)
		return lm_err_oom(err);
	for (size_t len = strlen(path); len > 1 && path[len - 1] == '/'; len--)
		path[len - 1] = '\0';
	*ret = path;
	return 0;
}

/* A storage in a bucket stays as it is, but for slashes at its end. */
static int complete_storage(const char *storage, char **ret, struct lm_err *err)
{
	if (!lm_s3_is_url(storage))
		return absolute(storage, ret, err);
	size_t len = strlen(storage);
	while (len > 0 && storage[len - 1] == '/')
		len--;
	char *copy = lm_str_ndup(storage, len);
	if (!copy)
		return lm_err_oom(err);
	*ret = copy;
	return 0;
}

bool lm_repo_record_remote(const struct lm_repo_record *record)
{
	return lm_s3_is_url(record->storage);
}

/* Recorded values; where there is no record, nothing. */
static int read_record(const char *name, struct lm_conf *conf, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = NULL;
	int r = lm_repo_record_path(name, &path, err);
	if (r < 0)
		return r;
	struct lm_err missing = LM_ERR_INIT;
	r = lm_conf_read(conf, path, &missing);
	return r < 0 && r != -ENOENT ? lm_err_set(err, r, "%s", missing.msg) : 0;
}

int lm_repo_record_load(
	const char *name, const char *storage, const char *keys, struct lm_repo_record *ret, struct lm_err *err)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record record = {0};
	CLEANUP(lm_conf_freep) struct lm_conf *conf = NULL;
	if (!name || !name_valid(name))
		return lm_err_set(err, -EINVAL, "\"%s\" is no name of a repository (letters, digits, dots, - and _)",
			name ? name : "");
	int r = lm_conf_new(&conf, err);
	if (r == 0 && !(storage && keys))
		r = read_record(name, conf, err);
	if (r < 0)
		return r;
	const char *s3_config = storage ? NULL : lm_conf_get(conf, "LAMELLA_S3_CONFIG");
	storage = storage ? storage : lm_conf_get(conf, "LAMELLA_STORAGE");
	keys = keys ? keys : lm_conf_get(conf, "LAMELLA_KEYS");
	if (!storage)
		return lm_err_set(
			err, -ENOENT, "no repository %s is recorded here: say where it is with --storage DIR", name);
	r = complete_storage(storage, &record.storage, err);
	if (r == 0 && keys)
		r = absolute(keys, &record.keys, err);
	if (r == 0 && s3_config)
		r = absolute(s3_config, &record.s3_config, err);
	if (r < 0)
		return r;
	record.name = strdup(name);
	record.dir = lm_str_printf("%s/cvmfs/%s", record.storage, name);
	if (!record.name || !record.dir)
		return lm_err_oom(err);
	*ret = record;
	record = (struct lm_repo_record){0};
	return 0;
}

/* KEY='VALUE', any quote in VALUE outside of the quotes. */
static int append_setting(struct lm_buf *text, const char *key, const char *value)
{
	int r = lm_buf_printf(text, "%s='", key);
	for (; *value && r == 0; value++)
		r = *value == '\'' ? lm_buf_str(text, "'\\''") : lm_buf_append(text, value, 1);
	return r < 0 ? r : lm_buf_str(text, "'\n");
}

int lm_repo_record_save(const struct lm_repo_record *record, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = NULL;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(9 * PATH_MAX);
	int r = lm_repo_record_path(record->name, &path, err);
	if (r < 0)
		return r;
	if (strchr(record->storage, '\n') || strchr(record->keys, '\n') ||
		(record->s3_config && strchr(record->s3_config, '\n')))
		return lm_err_set(err, -EINVAL, "a directory with a newline in its name cannot be recorded");
	if (append_setting(&text, "LAMELLA_STORAGE", record->storage) < 0 ||
		append_setting(&text, "LAMELLA_KEYS", record->keys) < 0 ||
		(record->s3_config && append_setting(&text, "LAMELLA_S3_CONFIG", record->s3_config) < 0))
		return lm_err_oom(err);
	r = lm_mkdir_above(AT_FDCWD, path, 0755, err);
	return r < 0 ? r : lm_file_replace(AT_FDCWD, path, text.data, text.len, 0644, LM_FILE_SYNC, err);
}
