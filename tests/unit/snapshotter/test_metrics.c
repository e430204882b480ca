/* The metrics of a snapshotter: Prometheus' form, each once, each with a sentence, and each in the manual. */
#include "base/file.h"
#include "base/str.h"
#include "snapshotter/metrics.h"
#include "snapshotter/report.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
	char dir[40];
	struct lm_snapshots *snapshots;
	Lamella__Snapshotter__V1__StatusResponse *report;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct lm_err err = LM_ERR_INIT;
	strcpy(f->dir, "/tmp/lm-metrics.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	const struct lm_service_options options = {.root = f->dir, .address = "/a", .fetcher = "/none/fetcher.sock"};
	if (lm_snapshots_open(&options, &f->snapshots, &err) < 0)
		fail_msg("%s", lm_err_text(&err));
	const struct lm_report_source source = {
		.snapshots = f->snapshots, .root = f->dir, .address = "/a", .fetcher = "/none/fetcher.sock"};
	f->report = lm_report_new(&source, true);
	assert_non_null(f->report);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_report_free(f->report);
	lm_snapshots_close(f->snapshots);
	assert_int_equal(lm_remove_tree(AT_FDCWD, f->dir, NULL), 0);
	free(f);
	return 0;
}

static void samples(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(1 << 20);
	f->report->lazy_layers = 7;
	f->report->fetcher->failed_questions = 3;
	f->report->counters[LM_COUNT_FALLBACK_ABSENT]->count = 5;
	assert_int_equal(lm_report_print_metrics(f->report, &out), 0);
	static const char *const lines[] = {"\nlamella_snapshotter_layers{state=\"lazy\"} 7\n",
		"\nlamella_snapshotter_layers{state=\"fallen_back\"} 0\n",
		"\nlamella_snapshotter_fetcher_failed_questions_total 3\n", "\nlamella_snapshotter_fetcher_answers 1\n",
		"\nlamella_snapshotter_merged_trees 0\n", "\nlamella_snapshotter_fallback_absent_total 5\n"};
	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		if (!strstr(lm_buf_cstr(&out), lines[i]))
			fail_msg("missing:%sin\n%s", lines[i], lm_buf_cstr(&out));
	f->report->fetcher->state = LAMELLA__SNAPSHOTTER__V1__FETCHER_STATE__FETCHER_SILENT;
	CLEANUP(lm_buf_done) struct lm_buf silent = LM_BUF(1 << 20);
	assert_int_equal(lm_report_print_metrics(f->report, &silent), 0);
	assert_non_null(strstr(lm_buf_cstr(&silent), "\nlamella_snapshotter_fetcher_answers 0\n"));
	for (size_t max = 0; max < 2000; max += 7) {
		CLEANUP(lm_buf_done) struct lm_buf small = LM_BUF(max);
		assert_int_equal(lm_report_print_metrics(f->report, &small), -EMSGSIZE);
	}
}

static void table(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(1 << 20);
	CLEANUP(lm_buf_done) struct lm_buf manual = LM_BUF(1 << 20);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/deploy/man/lamella-snapshotter.8", getenv("LM_SOURCE_ROOT"));
	assert_int_equal(lm_file_read(AT_FDCWD, path, &manual, NULL), 0);
	assert_int_equal(lm_report_print_metrics(f->report, &out), 0);
	char name[128], again[128], help[512], type[16];
	size_t count = 0;
	for (const char *at = lm_buf_cstr(&out); (at = strstr(at, "# HELP ")); at++, count++) {
		assert_int_equal(
			sscanf(at, "# HELP lamella_snapshotter_%127s %511[^\n]\n# TYPE lamella_snapshotter_%127s %15s",
				name, help, again, type),
			4);
		assert_string_equal(name, again);
		assert_int_equal(lm_str_ends(name, "_total"), strcmp(type, "counter") == 0);
		assert_true(isupper((unsigned char)help[0]) || isdigit((unsigned char)help[0]));
		assert_true(lm_str_ends(help, "."));
		CLEANUP(lm_freep) char *twice = lm_str_printf("# HELP lamella_snapshotter_%s ", name);
		assert_null(strstr(at + 1, twice));
		CLEANUP(lm_freep) char *item = lm_str_printf(".It Li lamella_snapshotter_%s\n", name);
		if (!strstr(lm_buf_cstr(&manual), item))
			fail_msg("not in lamella-snapshotter(8): %s", name);
	}
	assert_true(count > LM_COUNTERS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(samples, setup, teardown),
		cmocka_unit_test_setup_teardown(table, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
