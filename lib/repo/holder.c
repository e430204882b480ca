#include "repo/holder.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>

enum { WORDS_MAX = 3 };

static void own_host(char *ret, size_t size)
{
	ret[size - 1] = '\0';
	if (gethostname(ret, size - 1) < 0)
		*ret = '\0';
}

/* The program and the words of its subcommand: those before the first that could be an argument. */
static void own_command(char *ret, size_t size)
{
	char words[256] = "";
	CLEANUP(lm_closep) int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t len = fd >= 0 ? read(fd, words, sizeof(words) - 1) : 0;
	size_t at = 0;
	*ret = '\0';
	for (unsigned i = 0; i < WORDS_MAX && at < (size_t)LM_MAX(len, (ssize_t)0); i++) {
		const char *word = words + at;
		at += strlen(word) + 1;
		const char *slash = i == 0 ? strrchr(word, '/') : NULL;
		word = slash ? slash + 1 : word;
		if (i > 0 && word[strspn(word, "abcdefghijklmnopqrstuvwxyz")] != '\0')
			return;
		size_t used = strlen(ret);
		snprintf(ret + used, size - used, "%s%s", i > 0 ? " " : "", word);
	}
}

struct lm_holder lm_holder_self(void)
{
	struct lm_holder holder = {.pid = getpid(), .since_s = lm_wall_s()};
	own_command(holder.command, sizeof(holder.command));
	own_host(holder.host, sizeof(holder.host));
	return holder;
}

struct lm_holder_text lm_holder_format(const struct lm_holder *holder)
{
	struct lm_holder_text text;
	snprintf(text.s, sizeof(text.s), "pid=%lld\ncommand=%s\nhost=%s\nsince=%lld\n", (long long)holder->pid,
		holder->command, holder->host, (long long)holder->since_s);
	return text;
}

/* The value of the line NAME=…, cut to fit. */
static void find(const char *text, const char *name, char *ret, size_t size)
{
	size_t name_len = strlen(name);
	*ret = '\0';
	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		if (strncmp(line, name, name_len) != 0 || line[name_len] != '=')
			continue;
		const char *value = line + name_len + 1;
		snprintf(ret, size, "%.*s", (int)LM_MIN(strcspn(value, "\n"), size - 1), value);
		break;
	}
	for (; *ret; ret++)
		if (*ret < ' ' || *ret > '~')
			*ret = '?';
}

static int64_t find_number(const char *text, const char *name)
{
	char digits[24];
	int64_t number;
	find(text, name, digits, sizeof(digits));
	return lm_str_i64(digits, strlen(digits), &number) == 0 && number > 0 ? number : 0;
}

struct lm_holder lm_holder_parse(const char *text)
{
	struct lm_holder holder = {.pid = find_number(text, "pid"), .since_s = find_number(text, "since")};
	find(text, "command", holder.command, sizeof(holder.command));
	find(text, "host", holder.host, sizeof(holder.host));
	return holder;
}

static void describe_time(int64_t seconds, char *ret, size_t size)
{
	struct tm tm;
	time_t t = seconds;
	if (seconds == 0 || !gmtime_r(&t, &tm) || strftime(ret, size, "since %Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		*ret = '\0';
}

struct lm_holder_text lm_holder_describe(const struct lm_holder *holder)
{
	struct lm_holder_text text;
	char who[32] = "another process", since[48], here[sizeof(holder->host)];
	own_host(here, sizeof(here));
	describe_time(holder->since_s, since, sizeof(since));
	if (holder->pid > 0)
		snprintf(who, sizeof(who), "process %lld", (long long)holder->pid);
	bool elsewhere = holder->host[0] && strcmp(holder->host, here) != 0;
	bool more = holder->command[0] || since[0];
	snprintf(text.s, sizeof(text.s), "%s%s%s is publishing to this repository%s%s%s%s%s", who,
		elsewhere ? " on " : "", elsewhere ? holder->host : "", more ? " (" : "", holder->command,
		holder->command[0] && since[0] ? ", " : "", since, more ? ")" : "");
	return text;
}
