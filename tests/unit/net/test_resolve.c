/* Names looked up on the engine's thread, asked of a name server of ours. */
#include "net/resolve.h"

#include "base/clock.h"
#include "base/lock.h"
#include "namer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* after the above */
#include <cmocka.h>

static struct lm_http *http;
static struct namer *namer;

static int set_up(void **state)
{
	namer = namer_start();
	return lm_http_new(NULL, &http, NULL);
}

static int tear_down(void **state)
{
	lm_http_freep(&http);
	namer_stop(namer);
	return 0;
}

struct look {
	const char *name;
	struct lm_resolve_rules rules;
	struct lm_lock lock;
	struct lm_cond cond;
	/* under lock */
	unsigned done;
	int code;
	struct lm_addresses addresses;
};

static void on_addresses(void *arg, int code, const struct lm_addresses *addresses)
{
	struct look *look = arg;
	LM_LOCKED(&look->lock);
	look->done++;
	look->code = code;
	look->addresses = *addresses;
	lm_cond_signal(&look->cond);
}

static void begin(void *arg)
{
	struct look *look = arg;
	lm_resolve(http, look->name, &look->rules, on_addresses, look);
}

static void start(struct look *look, const char *name, unsigned timeout_ms, unsigned retries)
{
	*look = (struct look){.name = name, .rules = {namer->address, timeout_ms, retries}};
	lm_lock_init(&look->lock);
	lm_cond_init(&look->cond);
	assert_int_equal(lm_http_call(http, 0, begin, look), 0);
}

static int end(struct look *look)
{
	lm_lock_take(&look->lock);
	while (!look->done)
		lm_cond_wait(&look->cond, &look->lock);
	assert_int_equal(look->done, 1);
	lm_lock_release(&look->lock);
	lm_cond_done(&look->cond);
	lm_lock_done(&look->lock);
	return look->code;
}

static bool has(const struct look *look, const char *text)
{
	for (unsigned i = 0; i < look->addresses.count; i++)
		if (strcmp(look->addresses.list[i].text, text) == 0)
			return look->addresses.list[i].v6 == (strchr(text, ':') != NULL);
	return false;
}

static void test_addresses(void **state)
{
	struct look look;
	namer_say(namer, "192.0.2.1 192.0.2.2 2001:db8::3", 120);
	start(&look, NAMER_NAME, 0, 0);
	assert_int_equal(end(&look), 0);
	assert_int_equal(look.addresses.count, 3);
	assert_int_equal(look.addresses.ttl_s, 120);
	assert_true(has(&look, "192.0.2.1") && has(&look, "192.0.2.2") && has(&look, "2001:db8::3"));
}

static void test_one_family(void **state)
{
	struct look look;
	namer_say(namer, "2001:db8::3", 7);
	start(&look, NAMER_NAME, 0, 0);
	assert_int_equal(end(&look), 0);
	assert_int_equal(look.addresses.count, 1);
	assert_true(has(&look, "2001:db8::3"));
}

static void test_many_addresses(void **state)
{
	struct look look;
	char list[512] = "";
	for (unsigned i = 0; i < 20; i++)
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "192.0.2.%u ", i + 1);
	namer_say(namer, list, 7);
	start(&look, NAMER_NAME, 0, 0);
	assert_int_equal(end(&look), 0);
	assert_int_equal(look.addresses.count, LM_RESOLVE_MAX);
}

static void test_no_such_name(void **state)
{
	struct look look;
	start(&look, "nobody.example", 0, 0);
	assert_int_equal(end(&look), -ENOENT);
	namer_say(namer, "", 7);
	start(&look, NAMER_NAME, 0, 0);
	assert_int_equal(end(&look), -ENOENT);
	static char endless[300];
	memset(endless, 'a', sizeof(endless) - 1);
	start(&look, endless, 0, 0);
	assert_true(end(&look) < 0);
}

static void test_silence(void **state)
{
	struct look look;
	namer->silent = true;
	int64_t before = lm_now_ms();
	start(&look, NAMER_NAME, 200, 1);
	assert_int_equal(end(&look), -ETIMEDOUT);
	assert_in_range(lm_now_ms() - before, 200, 3000);
	assert_true(atomic_load(&namer->questions) >= 2);
}

/* An answer to a later question is enough. */
static void test_lost_question(void **state)
{
	struct look look;
	namer->silent = true;
	namer_say(namer, "192.0.2.1", 7);
	start(&look, NAMER_NAME, 300, 3);
	while (atomic_load(&namer->questions) < 2)
		usleep(1000);
	namer->silent = false;
	assert_int_equal(end(&look), 0);
	assert_true(has(&look, "192.0.2.1"));
}

/* More than run at once; all end. */
static void test_many(void **state)
{
	enum { N = 60 };
	static struct look looks[N];
	namer_say(namer, "192.0.2.1", 7);
	for (unsigned i = 0; i < N; i++)
		start(&looks[i], NAMER_NAME, 0, 1);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(end(&looks[i]), 0);
}

static void test_engine_freed(void **state)
{
	enum { N = 40 };
	static struct look looks[N];
	namer->silent = true;
	for (unsigned i = 0; i < N; i++)
		start(&looks[i], NAMER_NAME, 60 * 1000, 0);
	while (atomic_load(&namer->questions) < 2)
		usleep(1000);
	lm_http_freep(&http);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(end(&looks[i]), -ECANCELED);
}

static void test_check(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(
		lm_resolve_check(&(struct lm_resolve_rules){.server = "192.0.2.53,[2001:db8::53]:5353"}, &err), 0);
	assert_int_equal(lm_resolve_check(&(struct lm_resolve_rules){.server = "not an address"}, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "not an address"));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_addresses),
		TEST(test_one_family),
		TEST(test_many_addresses),
		TEST(test_no_such_name),
		TEST(test_silence),
		TEST(test_lost_question),
		TEST(test_many),
		TEST(test_engine_freed),
		TEST(test_check),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
