#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Standard error goes to a file between these two; what was written is left in `captured`. */
static int real_stderr = -1;
static FILE *file;
static char captured[256 << 10];

static void capture_begin(void)
{
	file = tmpfile();
	assert_non_null(file);
	real_stderr = dup(STDERR_FILENO);
	assert_int_equal(dup2(fileno(file), STDERR_FILENO), STDERR_FILENO);
}

static void capture_end(void)
{
	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	rewind(file);
	captured[fread(captured, 1, sizeof(captured) - 1, file)] = '\0';
	fclose(file);
}

/* What stands after "TIME LEVEL PROGRAM: ". */
static const char *event_part(void)
{
	const char *colon = strstr(captured, "test: ");
	assert_non_null(colon);
	return colon + strlen("test: ");
}

static void writes_a_line(void **state)
{
	capture_begin();
	lm_log(LM_LOG_WARN, "object refused", LM_KV("repository", "%s", "a.example.org"), LM_KV("bytes", "%d", 12));
	capture_end();
	assert_string_equal(event_part(), "object refused repository=a.example.org bytes=12\n");
	/* 2024-01-02T03:04:05.678Z warn test: */
	assert_int_equal(captured[10], 'T');
	assert_memory_equal(captured + 23, "Z warn test: ", 13);
}

static void values_cannot_forge(void **state)
{
	capture_begin();
	lm_log(LM_LOG_ERROR, "e", LM_KV("a", "%s", "x\n2024 error evil"), LM_KV("b", "%s", ""), LM_KV("c", "%s", "p=q"),
		LM_KV("d", "%s", "\"\\"), LM_KV("e", "%s", "\x1b[2J\xff"));
	capture_end();
	assert_string_equal(event_part(), "e a=\"x\\x0a2024 error evil\" b=\"\" c=\"p=q\" d=\"\\\"\\\\\" "
					  "e=\"\\x1b[2J\\xff\"\n");
}

static void without_values(void **state)
{
	capture_begin();
	lm_log_line(LM_LOG_INFO, "started", NULL, 0);
	capture_end();
	assert_string_equal(event_part(), "started\n");
}

static void lost_value_is_said(void **state)
{
	struct lm_kv kvs[] = {{.key = "k", .value = NULL}};
	capture_begin();
	lm_log_line(LM_LOG_INFO, "e", kvs, 1);
	capture_end();
	assert_string_equal(event_part(), "e k=?\n");
}

static void long_lines_keep_their_beginning(void **state)
{
	CLEANUP(lm_freep) char *big = malloc(100000);
	memset(big, '\x01', 99999);
	big[99999] = '\0';
	capture_begin();
	lm_log(LM_LOG_INFO, "e", LM_KV("a", "1"), LM_KV("big", "%s", big), LM_KV("z", "2"));
	capture_end();
	assert_memory_equal(event_part(), "e a=1", 5);
	assert_true(strlen(captured) <= (16 << 10) + 1);
	assert_ptr_equal(strchr(captured, '\n'), captured + strlen(captured) - 1);
}

static void levels(void **state)
{
	enum lm_log_level level;
	assert_true(lm_log_level_parse("debug", &level));
	assert_int_equal(level, LM_LOG_DEBUG);
	assert_false(lm_log_level_parse("loud", &level));
	assert_false(lm_log_level_parse("", &level));
	assert_true(lm_log_enabled(LM_LOG_INFO));
	assert_false(lm_log_enabled(LM_LOG_DEBUG));
	capture_begin();
	lm_log(LM_LOG_DEBUG, "hidden", LM_KV("a", "1"));
	capture_end();
	assert_string_equal(captured, "");
}

static void under_a_service_manager(void **state)
{
	char stream[64];
	struct stat st;
	capture_begin();
	fstat(STDERR_FILENO, &st);
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	lm_log_init("test", LM_LOG_INFO);
	lm_log(LM_LOG_ERROR, "e", LM_KV("a", "1"));
	/* The variable of a parent whose standard error is not ours any more. */
	setenv("JOURNAL_STREAM", "1:1", 1);
	lm_log_init("test", LM_LOG_INFO);
	lm_log(LM_LOG_ERROR, "f", LM_KV("a", "1"));
	unsetenv("JOURNAL_STREAM");
	capture_end();
	assert_memory_equal(captured, "<3>e a=1\n", 9);
	assert_string_equal(event_part(), "f a=1\n");
}

enum { THREADS = 4, LINES = 200 };

static void *log_many(void *arg)
{
	for (int i = 0; i < LINES; i++)
		lm_log(LM_LOG_INFO, "line", LM_KV("thread", "%d", *(int *)arg), LM_KV("text", "%s", "some more words"));
	return NULL;
}

static void lines_do_not_mix(void **state)
{
	pthread_t threads[THREADS];
	int numbers[THREADS];
	unsigned lines = 0;
	capture_begin();
	/* One open file description per write position: append. */
	fcntl(STDERR_FILENO, F_SETFL, O_APPEND);
	for (int i = 0; i < THREADS; i++) {
		numbers[i] = i;
		assert_int_equal(pthread_create(&threads[i], NULL, log_many, &numbers[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	capture_end();
	for (char *save, *line = strtok_r(captured, "\n", &save); line; line = strtok_r(NULL, "\n", &save), lines++)
		assert_string_equal(
			line + strlen(line) - strlen(" text=\"some more words\""), " text=\"some more words\"");
	assert_int_equal(lines, THREADS * LINES);
}

static void limiter_counts_what_it_held_back(void **state)
{
	struct lm_log_limit limit = {0};
	unsigned missed = 99;
	assert_true(lm_log_limit_pass(&limit, 3600000, &missed));
	assert_int_equal(missed, 0);
	for (int i = 0; i < 5; i++)
		assert_false(lm_log_limit_pass(&limit, 3600000, &missed));
	limit.next_ms = lm_now_ms(); /* an interval later */
	assert_true(lm_log_limit_pass(&limit, 3600000, &missed));
	assert_int_equal(missed, 5);
	assert_false(lm_log_limit_pass(&limit, 0, NULL));
	limit.next_ms = lm_now_ms();
	assert_true(lm_log_limit_pass(&limit, 0, NULL));
}

struct storm {
	struct lm_log_limit limit;
	_Atomic(unsigned) passed;
};

static void *press(void *arg)
{
	struct storm *storm = arg;
	for (int i = 0; i < 10000; i++)
		if (lm_log_limit_pass(&storm->limit, 3600000, NULL))
			storm->passed++;
	return NULL;
}

static void limiter_lets_one_thread_pass(void **state)
{
	pthread_t threads[THREADS];
	struct storm storm = {0};
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, press, &storm), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(storm.passed, 1);
	assert_true(storm.limit.missed >= THREADS * 10000 - THREADS);
}

int main(void)
{
	unsetenv("JOURNAL_STREAM");
	lm_log_init("test", LM_LOG_INFO);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_a_line),
		cmocka_unit_test(values_cannot_forge),
		cmocka_unit_test(without_values),
		cmocka_unit_test(lost_value_is_said),
		cmocka_unit_test(long_lines_keep_their_beginning),
		cmocka_unit_test(levels),
		cmocka_unit_test(under_a_service_manager),
		cmocka_unit_test(lines_do_not_mix),
		cmocka_unit_test(limiter_counts_what_it_held_back),
		cmocka_unit_test(limiter_lets_one_thread_pass),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
