#include "base/log.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/lock.h"
#include "base/str.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { LINE_MAX_BYTES = 16 << 10 };

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const int syslog_priority[] = {3, 4, 6, 7};

static struct {
	const char *program; /* constant after lm_log_init() */
	_Atomic(enum lm_log_level) max_level;
	bool journal;
} logger = {.max_level = LM_LOG_INFO};

/* Standard error is the journal's own socket exactly when its device and inode are those of the variable. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;
	return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
	       st.st_dev == dev && st.st_ino == ino;
}

void lm_log_init(const char *program, enum lm_log_level max_level)
{
	logger.program = program;
	logger.max_level = max_level;
	logger.journal = stderr_is_journal();
}

void lm_log_set_level(enum lm_log_level max_level)
{
	logger.max_level = max_level;
}

bool lm_log_level_parse(const char *text, enum lm_log_level *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(level_names); i++)
		if (strcmp(text, level_names[i]) == 0) {
			*ret = (enum lm_log_level)i;
			return true;
		}
	return false;
}

bool lm_log_enabled(enum lm_log_level level)
{
	return level <= logger.max_level;
}

struct lm_kv lm_kv(const char *key, const char *fmt, ...)
{
	struct lm_kv kv = {.key = key};
	va_list args;
	va_start(args, fmt);
	if (vasprintf(&kv.value, fmt, args) < 0)
		kv.value = NULL;
	va_end(args);
	return kv;
}

static int append_header(struct lm_buf *line, enum lm_log_level level)
{
	if (logger.journal)
		return lm_buf_printf(line, "<%d>", syslog_priority[level]);
	struct timespec now;
	struct tm tm;
	char stamp[32];
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	return lm_buf_printf(line, "%s.%03ldZ %s %s: ", stamp, now.tv_nsec / 1000000, level_names[level],
		logger.program ? logger.program : "lamella");
}

static bool is_plain(const char *value)
{
	if (!*value)
		return false;
	for (const unsigned char *c = (const unsigned char *)value; *c; c++)
		if (*c <= ' ' || *c >= 0x7f || *c == '"' || *c == '=' || *c == '\\')
			return false;
	return true;
}

static int append_value(struct lm_buf *line, const char *value)
{
	return is_plain(value) ? lm_buf_str(line, value) : lm_str_quote(line, value, strlen(value));
}

void lm_log_line(enum lm_log_level level, const char *event, struct lm_kv *kvs, size_t count)
{
	CLEANUP(lm_buf_done) struct lm_buf line = LM_BUF(LINE_MAX_BYTES);
	int r = append_header(&line, level);
	if (r == 0)
		r = lm_buf_str(&line, event);
	for (size_t i = 0; i < count; i++) {
		/* A line that would get too long loses its last values, never its beginning. */
		if (r == 0)
			r = lm_buf_printf(&line, " %s=", kvs[i].key);
		if (r == 0)
			r = append_value(&line, kvs[i].value ? kvs[i].value : "?");
		free(kvs[i].value);
	}
	line.max = line.len + 1;
	(void)!lm_buf_str(&line, "\n");
	/* One write: lines of several threads do not mix. */
	(void)!write(STDERR_FILENO, line.data, line.len);
}

bool lm_log_limit_pass(struct lm_log_limit *limit, int64_t interval_ms, unsigned *ret_missed)
{
	int64_t now = lm_now_ms();
	int64_t next = atomic_load(&limit->next_ms);
	if (now < next || !atomic_compare_exchange_strong(&limit->next_ms, &next, now + interval_ms)) {
		atomic_fetch_add(&limit->missed, 1);
		return false;
	}
	unsigned missed = atomic_exchange(&limit->missed, 0);
	if (ret_missed)
		*ret_missed = missed;
	return true;
}
