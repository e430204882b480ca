#include "fetcher_test.h"

#include "fetcher/failures.h"

static struct lm_object_ref ref_of(uint8_t number)
{
	return (struct lm_object_ref){.hash = {.bytes = {number}, .set = true}, .kind = LM_OBJECT_FILE, .size = 1};
}

/* Each failure in a row doubles the pause, up to its maximum. */
static void test_pauses_grow(void **state)
{
	struct lm_failures failures = {0};
	const struct lm_object_ref ref = ref_of(1);
	struct lm_err err = LM_ERR_INIT;
	int64_t now = 1000000;
	lm_err_set(&err, -EIO, "no way");
	assert_null(lm_failures_find(&failures, &ref, now));
	for (int64_t pause = LM_FAILURES_PAUSE_MS; pause < 10 * LM_FAILURES_PAUSE_MAX_MS; pause *= 2) {
		int64_t expected = LM_MIN(pause, (int64_t)LM_FAILURES_PAUSE_MAX_MS);
		lm_failures_add(&failures, &ref, -EIO, &err, now);
		const struct lm_failure *failure = lm_failures_find(&failures, &ref, now + expected - 1);
		assert_non_null(failure);
		assert_int_equal(failure->code, -EIO);
		assert_string_equal(failure->err.msg, "no way");
		assert_null(lm_failures_find(&failures, &ref, now + expected));
		now += expected;
	}
	now += 60 * 1000;
	lm_failures_add(&failures, &ref, -EIO, &err, now);
	assert_null(lm_failures_find(&failures, &ref, now + LM_FAILURES_PAUSE_MS));
}

static void test_recovery(void **state)
{
	struct lm_failures failures = {0};
	const struct lm_object_ref network = ref_of(1), absent = ref_of(2), came = ref_of(3), other = ref_of(4);
	lm_failures_add(&failures, &network, -ETIMEDOUT, NULL, 0);
	lm_failures_add(&failures, &absent, -ENOENT, NULL, 0);
	lm_failures_add(&failures, &came, -EBADMSG, NULL, 0);
	lm_failures_recover(&failures, &came);
	assert_null(lm_failures_find(&failures, &network, 1));
	assert_null(lm_failures_find(&failures, &came, 1));
	assert_non_null(lm_failures_find(&failures, &absent, 1));
	lm_failures_add(&failures, &other, -ECANCELED, NULL, 0);
	lm_failures_add(&failures, &other, -ENOSPC, NULL, 0);
	assert_null(lm_failures_find(&failures, &other, 1));
	assert_int_equal(failures.count, 1);
	lm_failures_clear(&failures);
	assert_null(lm_failures_find(&failures, &absent, 1));
	assert_int_equal(failures.count, 0);
}

/* Few are remembered: the newer one pushes the older one out of its place, and is not mistaken for it. */
static void test_places(void **state)
{
	struct lm_failures failures = {0};
	struct lm_object_ref one = ref_of(1), two = ref_of(1);
	two.size = 2;
	lm_failures_add(&failures, &one, -ENOENT, NULL, 0);
	assert_null(lm_failures_find(&failures, &two, 1));
	lm_failures_add(&failures, &two, -EPROTO, NULL, 0);
	assert_null(lm_failures_find(&failures, &one, 1));
	assert_int_equal(lm_failures_find(&failures, &two, 1)->code, -EPROTO);
	assert_int_equal(failures.count, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pauses_grow),
		cmocka_unit_test(test_recovery),
		cmocka_unit_test(test_places),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
