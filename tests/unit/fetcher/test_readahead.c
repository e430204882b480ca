#include "fetcher_test.h"

#include "fetcher/readahead.h"

enum { REQUEST = 128 << 10 };

struct rig {
	struct lm_streams *streams;
};

static struct lm_span read_at(struct rig *rig, uint64_t node, uint64_t offset)
{
	struct lm_span span;
	lm_streams_read(rig->streams, node, offset, REQUEST, &span);
	return span;
}

static bool is_empty(struct lm_span span)
{
	return span.from >= span.to;
}

static int set_up(void **state)
{
	static struct rig rig;
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_streams_new(&rig.streams, &err), &err);
	*state = &rig;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *rig = *state;
	lm_streams_free(STEAL(rig->streams));
	return 0;
}

/* As far ahead as was read, never the same twice, never further than the limit, and nothing left out. */
static void test_grows(void **state)
{
	uint64_t ordered = 0;
	for (uint64_t offset = 0; offset < 4 * (uint64_t)LM_AHEAD_MAX; offset += REQUEST) {
		struct lm_span span = read_at(*state, 7, offset);
		uint64_t end = offset + REQUEST;
		if (end < LM_AHEAD_MIN) {
			assert_true(is_empty(span));
			continue;
		}
		assert_int_equal(span.from, LM_MAX(ordered, end));
		assert_int_equal(span.to, end + LM_MIN(end, (uint64_t)LM_AHEAD_MAX));
		ordered = span.to;
	}
}

/* The kernel's requests of one stream reach us in about their order. */
static void test_disorder(void **state)
{
	static const uint64_t order[] = {1, 0, 2, 4, 3, 5, 7, 6, 8, 9};
	struct lm_span span = {0, 0};
	for (size_t i = 0; i < ARRAY_LEN(order); i++)
		span = read_at(*state, 7, order[i] * REQUEST);
	assert_false(is_empty(span));
	assert_int_equal(span.to, 10 * REQUEST + 9 * REQUEST);
}

static void test_random_access(void **state)
{
	uint32_t random = 12345;
	for (unsigned i = 0; i < 100000; i++) {
		random = random * 1664525 + 1013904223;
		uint64_t offset = (uint64_t)(random >> 8) * 4096 % (1ULL << 36);
		if (!is_empty(read_at(*state, 7, offset)))
			fail_msg("read %u at %llu", i, (unsigned long long)offset);
	}
	/* The same few places again and again are no stream either. */
	for (unsigned i = 0; i < 1000; i++)
		assert_true(is_empty(read_at(*state, 7, i % 3 * REQUEST)));
}

/* Two readers of one file, and one of another, each with its own stream. */
static void test_streams_apart(void **state)
{
	const uint64_t far = 1ULL << 32;
	struct lm_span a = {0, 0}, b = {0, 0}, c = {0, 0};
	for (uint64_t i = 0; i < 8; i++) {
		a = read_at(*state, 7, i * REQUEST);
		b = read_at(*state, 7, far + i * REQUEST);
		c = read_at(*state, 8, i * REQUEST);
	}
	assert_int_equal(a.to, 16 * REQUEST);
	assert_int_equal(b.to, far + 16 * REQUEST);
	assert_int_equal(c.to, 16 * REQUEST);
}

/* A jump ends a stream: what follows has to prove itself anew. */
static void test_jump(void **state)
{
	for (uint64_t i = 0; i < 8; i++)
		read_at(*state, 7, i * REQUEST);
	for (uint64_t i = 0; i < LM_AHEAD_MIN / REQUEST - 1; i++)
		assert_true(is_empty(read_at(*state, 7, (1ULL << 30) + i * REQUEST)));
}

/* Of a file that is many: not before a read has gone beyond the stop, and then all behind it. */
static void test_stop(void **state)
{
	struct rig *rig = *state;
	const uint64_t stop = 16 * REQUEST;
	struct lm_span span = {0, 0};
	for (uint64_t offset = 0; offset < 12 * REQUEST; offset += REQUEST)
		span = read_at(rig, 7, offset);
	assert_true(span.to > stop);
	lm_streams_stop(rig->streams, 7, 11 * REQUEST, stop);
	for (uint64_t offset = 12 * REQUEST; offset < stop; offset += REQUEST)
		assert_true(is_empty(read_at(rig, 7, offset)));
	span = read_at(rig, 7, stop);
	assert_int_equal(span.from, stop + REQUEST);
	assert_int_equal(span.to, span.from + 17 * REQUEST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_grows, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_disorder, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_random_access, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_streams_apart, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_jump, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_stop, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
