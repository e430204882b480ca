/*
 * The log of a program: lines of key=value on standard error.
 *
 * Libraries return errors; the code that handles an error logs it, once.  A line is
 * `TIME LEVEL PROGRAM: event key=value key="quoted value"`.  Values are escaped, so bytes from network or
 * disk can neither forge nor break a line.  Under a service manager (JOURNAL_STREAM set) time and program
 * are left out and a `<N>` priority is put before the line.
 *
 *   lm_log(LM_LOG_WARN, "object refused", LM_KV("repository", "%s", fqrn), LM_KV("hash", "%s", hex));
 *
 * Any thread may log.
 */
#ifndef LM_BASE_LOG_H
#define LM_BASE_LOG_H

#include "base/macros.h"

#include <stdbool.h>

enum lm_log_level { LM_LOG_ERROR, LM_LOG_WARN, LM_LOG_INFO, LM_LOG_DEBUG };

/* program is kept, not copied. Call once, before the first thread; lines before that carry no name. */
void lm_log_init(const char *program, enum lm_log_level max_level);
void lm_log_set_level(enum lm_log_level max_level);		   /* any thread */
bool lm_log_level_parse(const char *text, enum lm_log_level *ret); /* "error", "warn", "info", "debug" */
bool lm_log_enabled(enum lm_log_level level);

struct lm_kv {
	const char *key;
	char *value; /* owned until logged; NULL when memory was short */
};

struct lm_kv lm_kv(const char *key, const char *fmt, ...) PRINTF_LIKE(2, 3);
#define LM_KV(key, ...) lm_kv((key), __VA_ARGS__)

void lm_log_line(enum lm_log_level level, const char *event, struct lm_kv *kvs, size_t count);
#define lm_log(level, event, ...)                                                                 \
	do {                                                                                      \
		if (lm_log_enabled(level)) {                                                      \
			struct lm_kv kvs_[] = {__VA_ARGS__};                                      \
			lm_log_line((level), (event), kvs_, sizeof(kvs_) / sizeof(struct lm_kv)); \
		}                                                                                 \
	} while (0)

/*
 * For events that can repeat thousands of times: true at most once per interval_ms for one limiter. The
 * number of suppressed calls since the last true is stored in *ret_missed (may be NULL).
 */
struct lm_log_limit {
	_Atomic(int64_t) next_ms;
	_Atomic(unsigned) missed;
};
bool lm_log_limit_pass(struct lm_log_limit *limit, int64_t interval_ms, unsigned *ret_missed);

#endif
