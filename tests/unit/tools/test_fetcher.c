#include "fetcher.h"

#include "base/buf.h"
#include "rpc/json.h"

#include <jansson.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void assert_duration(uint64_t ms, const char *text)
{
	assert_string_equal(lm_fetcher_duration(ms).s, text);
}

static void test_durations(void **state)
{
	assert_duration(0, "0 ms");
	assert_duration(999, "999 ms");
	assert_duration(1000, "1 s");
	assert_duration(59999, "59 s");
	assert_duration(200000, "3 min 20 s");
	assert_duration(3600000, "1 h 0 min");
	assert_duration(48 * 3600000ull - 1, "47 h 59 min");
	assert_duration(76 * 3600000ull, "3 d 4 h");
	assert_true(strlen(lm_fetcher_duration(UINT64_MAX).s) < sizeof(lm_fetcher_duration(0).s) - 1);
}

/* A status with everything that JSON must be careful with. */
static void test_json(void **state)
{
	Lamella__Fetcher__V1__StatusResponse status = LAMELLA__FETCHER__V1__STATUS_RESPONSE__INIT;
	Lamella__Fetcher__V1__RepositoryStatus repository = LAMELLA__FETCHER__V1__REPOSITORY_STATUS__INIT;
	Lamella__Fetcher__V1__RepositoryStatus *repositories[] = {&repository, &repository};
	status.n_repositories = 2;
	status.repositories = repositories;
	status.uptime_ms = INT64_MAX;
	repository.fqrn = (char *)"a \"b\" \\ \n\t\x7f \xc3\xa9";
	repository.state = LAMELLA__FETCHER__V1__REPOSITORY_STATE__REPOSITORY_OFFLINE;
	repository.offline = true;
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(1 << 20);
	assert_int_equal(lm_rpc_json(&status.base, &out), 0);
	json_t *json = json_loads(lm_buf_cstr(&out), JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(json);
	assert_int_equal(json_integer_value(json_object_get(json, "uptime_ms")), INT64_MAX);
	assert_true(json_is_null(json_object_get(json, "cache")));
	assert_int_equal(json_array_size(json_object_get(json, "problems")), 0);
	const json_t *r = json_array_get(json_object_get(json, "repositories"), 1);
	assert_string_equal(json_string_value(json_object_get(r, "fqrn")), repository.fqrn);
	assert_string_equal(json_string_value(json_object_get(r, "state")), "offline");
	assert_string_equal(json_string_value(json_object_get(r, "mountpoint")), "");
	assert_true(json_is_true(json_object_get(r, "offline")));
	assert_int_equal(json_object_size(r), lamella__fetcher__v1__repository_status__descriptor.n_fields);
	json_decref(json);

	repository.state = (Lamella__Fetcher__V1__RepositoryState)77; /* of a newer fetcher */
	lm_buf_clear(&out);
	assert_int_equal(lm_rpc_json(&repository.base, &out), 0);
	assert_non_null(strstr(lm_buf_cstr(&out), "\"state\":77,"));
	for (size_t max = 0; max < 300; max++) {
		CLEANUP(lm_buf_done) struct lm_buf small = LM_BUF(max);
		assert_int_equal(lm_rpc_json(&repository.base, &small), -EMSGSIZE);
	}
}

static void test_nobody_there(void **state)
{
	struct lm_rpc_client *client = NULL;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_fetcher_open("/nonexistent/socket", &client, &err), -EAGAIN);
	assert_non_null(strstr(err.msg, "/nonexistent/socket"));
	assert_null(client);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_durations),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_nobody_there),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
