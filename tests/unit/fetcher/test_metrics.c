#include "fetcher_test.h"

#include "fetcher/metrics.h"
#include "fetcher/status.h"

#include <ctype.h>

typedef Lamella__Fetcher__V1__StatusResponse StatusResponse;
typedef Lamella__Fetcher__V1__RepositoryStatus RepositoryStatus;

/* A status with one of everything that has a list. */
static StatusResponse *make_status(void)
{
	struct lm_message_builder b = {0};
	StatusResponse *s = lm_message_new(&b, &lamella__fetcher__v1__status_response__descriptor);
	lm_message_text(&b, &s->version, "1.2.3");
	s->started_s = 1234567890;
	s->cache = lm_message_new(&b, &lamella__fetcher__v1__cache_status__descriptor);
	s->cache->bytes = UINT64_MAX;
	s->cache->counting = true;
	RepositoryStatus *r = lm_message_add(
		&b, &lamella__fetcher__v1__repository_status__descriptor, &s->repositories, &s->n_repositories);
	lm_message_text(&b, &r->fqrn, "a\"b\\c\n.example.org\xff");
	r->state = LAMELLA__FETCHER__V1__REPOSITORY_STATE__REPOSITORY_OFFLINE;
	r->state_age_ms = 1005;
	r->requests = 17;
	lm_message_text(&b, &r->mountpoint, "/cvmfs/a");
	Lamella__Fetcher__V1__Host *h =
		lm_message_add(&b, &lamella__fetcher__v1__host__descriptor, &r->proxies, &r->n_proxies);
	lm_message_text(&b, &h->url, "http://p:3128");
	h->state = LAMELLA__FETCHER__V1__HOST_STATE__HOST_IN_USE;
	Lamella__Fetcher__V1__KernelRequests *k = lm_message_add(
		&b, &lamella__fetcher__v1__kernel_requests__descriptor, &r->kernel_requests, &r->n_kernel_requests);
	lm_message_text(&b, &k->kind, "read");
	k->time_us = 2000001;
	r->fetch_times = calloc(3, sizeof(*r->fetch_times));
	r->n_fetch_times = 3;
	r->fetch_times[0] = 1;
	r->fetch_times[2] = 4;
	r->fetch_time_ms = 12345;
	Lamella__Fetcher__V1__Count *c =
		lm_message_add(&b, &lamella__fetcher__v1__count__descriptor, &s->layer_answers, &s->n_layer_answers);
	lm_message_text(&b, &c->name, "faithful");
	c->count = 3;
	c = lm_message_add(&b, &lamella__fetcher__v1__count__descriptor, &s->tree_answers, &s->n_tree_answers);
	lm_message_text(&b, &c->name, "absent");
	c->count = 4;
	assert_false(b.failed);
	return s;
}

static void test_text(void **state)
{
	CLEANUP(lm_status_freep) StatusResponse *s = make_status();
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(1 << 20);
	assert_int_equal(lm_metrics_print(s, &out), 0);
	static const char *const lines[] = {
		"# TYPE lamella_fetcher_info gauge\nlamella_fetcher_info{version=\"1.2.3\"} 1\n",
		"\nlamella_fetcher_start_time_seconds 1234567890\n",
		"\nlamella_fetcher_http_requests_total{repository=\"a\\\"b\\\\c\\\\x0a.example.org\\\\xff\"} 17\n",
		"# HELP lamella_fetcher_http_requests_total ",
		"# TYPE lamella_fetcher_http_requests_total counter\n",
		"\nlamella_fetcher_cache_bytes 18446744073709551615\n",
		"\nlamella_fetcher_cache_counting 1\n",
		"lamella_fetcher_repository_online{repository=\"a\\\"b\\\\c\\\\x0a.example.org\\\\xff\"} 0\n",
		"_offline_seconds{repository=\"a\\\"b\\\\c\\\\x0a.example.org\\\\xff\"} 1.005\n",
		"lamella_fetcher_repository_mounted{repository=\"a\\\"b\\\\c\\\\x0a.example.org\\\\xff\"} 1\n",
		"\\xff\",proxy=\"http://p:3128\"} 1\n",
		"\\xff\",kind=\"read\"} 2.000001\n",
		"\\xff\",le=\"0.001\"} 1\n",
		"\\xff\",le=\"0.002\"} 1\n",
		"\\xff\",le=\"+Inf\"} 5\n",
		"\\xff\"} 12.345\n",
		"lamella_fetcher_layer_answers_total{state=\"faithful\"} 3\n",
		"lamella_fetcher_tree_answers_total{state=\"absent\"} 4\n",
	};
	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		if (!strstr(lm_buf_cstr(&out), lines[i]))
			fail_msg("not there: %s\nin: %s", lines[i], lm_buf_cstr(&out));
	assert_int_equal(out.data[out.len - 1], '\n');
}

static void test_bound(void **state)
{
	CLEANUP(lm_status_freep) StatusResponse *s = make_status();
	for (size_t max = 0; max < 2000; max += 7) {
		CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(max);
		assert_int_equal(lm_metrics_print(s, &out), -EMSGSIZE);
	}
}

/* "# HELP lamella_fetcher_NAME TEXT" at *at, which moves on to the next; false: there is none. */
static bool next_metric(const char **at, char name[128], char help[512], char type[16])
{
	const char *begin = strstr(*at, "# HELP ");
	if (!begin)
		return false;
	char again[128];
	if (sscanf(begin, "# HELP lamella_fetcher_%127s %511[^\n]\n# TYPE lamella_fetcher_%127s %15s\n", name, help,
		    again, type) != 4)
		fail_msg("not as expected: %.200s", begin);
	assert_string_equal(name, again);
	*at = begin + 1;
	return true;
}

/* Names by Prometheus' conventions, each once, each with a sentence, and each in the manual. */
static void test_table(void **state)
{
	CLEANUP(lm_status_freep) StatusResponse *s = make_status();
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(1 << 20);
	CLEANUP(lm_buf_done) struct lm_buf manual = LM_BUF(1 << 20);
	CLEANUP(lm_freep)
	char *path = lm_str_printf("%s/deploy/man/lamella-fetcher.8", getenv("LM_SOURCE_ROOT"));
	assert_int_equal(lm_file_read(AT_FDCWD, path, &manual, NULL), 0);
	assert_int_equal(lm_metrics_print(s, &out), 0);
	char name[128], help[512], type[16];
	size_t count = 0;
	for (const char *at = lm_buf_cstr(&out); next_metric(&at, name, help, type); count++) {
		bool counter = strcmp(type, "counter") == 0;
		assert_true(counter || strcmp(type, "gauge") == 0 || strcmp(type, "histogram") == 0);
		for (const char *c = name; *c; c++)
			assert_true(islower((unsigned char)*c) || *c == '_');
		if (lm_str_ends(name, "_total") != counter)
			fail_msg("%s: only counters end in _total", name);
		assert_true(isupper((unsigned char)help[0]) || isdigit((unsigned char)help[0]));
		assert_true(lm_str_ends(help, "."));
		assert_null(strchr(help, '\\'));
		CLEANUP(lm_freep) char *again = lm_str_printf("# HELP lamella_fetcher_%s ", name);
		if (strstr(at, again))
			fail_msg("twice: %s", name);
		CLEANUP(lm_freep) char *item = lm_str_printf(".It Li lamella_fetcher_%s\n", name);
		if (!strstr(lm_buf_cstr(&manual), item))
			fail_msg("not in lamella-fetcher(8): %s", name);
	}
	assert_true(count > 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_bound),
		cmocka_unit_test(test_table),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
