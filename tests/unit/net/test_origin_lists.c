/* Lists of servers and proxies, and the words of the Geo API. */
#include "net/origin_lists.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

static struct lm_origin_lists *lists;
static struct lm_err err;

static int parse(const char *servers, const char *proxies, const char *fallback)
{
	err = (struct lm_err)LM_ERR_INIT;
	lm_origin_lists_freep(&lists);
	return lm_origin_lists_parse(servers, proxies, fallback, "repo.example.org", &lists, &err);
}

static int tear_down(void **state)
{
	lm_origin_lists_freep(&lists);
	return 0;
}

static void assert_proxy(unsigned at, const char *url, const char *host, unsigned group)
{
	const struct lm_origin_proxy *proxy = &lists->proxies[at];
	assert_true(at < lists->n_proxies);
	if (url)
		assert_string_equal(proxy->url, url);
	else
		assert_null(proxy->url);
	if (host)
		assert_string_equal(proxy->host, host);
	else
		assert_null(proxy->host);
	assert_int_equal(proxy->group, group);
}

static void test_names_and_addresses(void **state)
{
	assert_int_equal(
		parse("http://a", "p1:3128|192.0.2.1:3128|http://[2001:db8::1]:3128;[::1]:1|https://p2:1;DIRECT", NULL),
		0);
	assert_int_equal(lists->n_proxies, 6);
	assert_int_equal(lists->n_groups, 3);
	assert_int_equal(lists->first_fallback, 3);
	assert_proxy(0, "http://p1:3128", "p1", 0);
	assert_proxy(1, "http://192.0.2.1:3128", NULL, 0);
	assert_proxy(2, "http://[2001:db8::1]:3128", NULL, 0);
	assert_proxy(3, "http://[::1]:1", NULL, 1);
	assert_proxy(4, "https://p2:1", NULL, 1); /* called by its name, for its certificate */
	assert_proxy(5, NULL, NULL, 2);
}

static void test_fallback(void **state)
{
	assert_int_equal(parse("http://a", "http://p:1;DIRECT", "http://f1:1|DIRECT;DIRECT;http://f2:1"), 0);
	assert_int_equal(lists->n_proxies, 3);
	assert_int_equal(lists->first_fallback, 1);
	assert_int_equal(lists->n_groups, 3);
	assert_proxy(0, "http://p:1", "p", 0);
	assert_proxy(1, "http://f1:1", "f1", 1);
	assert_proxy(2, "http://f2:1", "f2", 2);
	assert_true(lists->direct_dropped);

	assert_int_equal(parse("http://a", "DIRECT", "http://f:1"), 0); /* only those, then */
	assert_int_equal(lists->n_proxies, 1);
	assert_int_equal(lists->first_fallback, 0);
	assert_true(lists->direct_dropped);

	assert_int_equal(parse("http://a", "http://p:1;DIRECT", " direct ; | "), 0); /* none, in fact */
	assert_int_equal(lists->n_proxies, 2);
	assert_false(lists->direct_dropped);

	assert_int_equal(parse("http://a", "", "http://f:1"), -EINVAL);
	assert_non_null(strstr(err.msg, "no proxy"));
	assert_int_equal(parse("http://a", "DIRECT", "nonsense://f"), -EINVAL);
}

static void test_no_programs(void **state)
{
	assert_int_equal(parse("http://a", "auto;DIRECT", NULL), -EINVAL);
	assert_non_null(strstr(err.msg, "\"auto\""));
	assert_non_null(strstr(err.msg, "PAC"));
}

/* Never in messages, never in what is shown. */
static void test_passwords(void **state)
{
	static const char *const bad[] = {"http://user:secret@p:99999", "ftp://user:secret@p:1", "user:secret@:1",
		"http://user:sec/ret@p:1x", "user:secret@p q:1"};
	assert_int_equal(parse("http://a", "user:secret@p:3128|http://u:secret@[::1]:1", NULL), 0);
	assert_proxy(0, "http://user:secret@p:3128", "p", 0);
	assert_string_equal(lists->proxies[0].shown, "http://p:3128");
	assert_string_equal(lists->proxies[1].shown, "http://[::1]:1");
	CLEANUP(lm_freep) char *at = lm_origin_proxy_at(lists->proxies[0].url, "192.0.2.7", false);
	CLEANUP(lm_freep) char *at6 = lm_origin_proxy_at(lists->proxies[0].shown, "2001:db8::7", true);
	assert_string_equal(at, "http://user:secret@192.0.2.7:3128");
	assert_string_equal(at6, "http://[2001:db8::7]:3128");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_int_equal(parse("http://a", bad[i], NULL), -EINVAL);
		assert_null(strstr(err.msg, "sec"));
		assert_null(strstr(err.msg, "user"));
	}
	assert_int_equal(parse("http://user:secret@a:99999/cvmfs/@fqrn@", "DIRECT", NULL), -EINVAL);
	assert_null(strstr(err.msg, "secret"));
	assert_non_null(strstr(err.msg, "a:99999/cvmfs/@fqrn@"));
}

static void test_geo_question(void **state)
{
	assert_int_equal(parse("http://a.example:8000/cvmfs/@fqrn@;http://b.example", "DIRECT", NULL), 0);
	CLEANUP(lm_freep) char *plain = lm_geo_question(lists, "here");
	assert_string_equal(plain, "api/v1.0/geo/here/a.example,b.example");
	assert_int_equal(parse("http://a;http://b", "http://p:1", "http://f1:1|http://f2:1;http://f3:1"), 0);
	CLEANUP(lm_freep) char *more = lm_geo_question(lists, "p");
	assert_string_equal(more, "api/v1.0/geo/p/a,b,+PXYSEP+,f1,f3");
}

static int answer(const char *text, struct lm_origin_order *order)
{
	return lm_geo_answer(lists, text, strlen(text), order);
}

static void test_geo_answer(void **state)
{
	static const char *const bad[] = {"", "\n", "1,2", "1,2,3,4", "0,1,2", "1,1,2", "1,2,3,", ",1,2,3", "1;2;3",
		"3,2,4", "+1,2,3", "1,2,3 x", "4294967297,2,3", "<html>"};
	struct lm_origin_order order, before;
	assert_int_equal(parse("http://a;http://b;http://c", "DIRECT", NULL), 0);
	assert_int_equal(answer("2,3,1\n", &order), 0);
	assert_int_equal(order.servers[0], 1);
	assert_int_equal(order.servers[1], 2);
	assert_int_equal(order.servers[2], 0);
	before = order;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		if (answer(bad[i], &order) != -EPROTO)
			fail_msg("%s", bad[i]);
		assert_memory_equal(&order, &before, sizeof(order));
	}
	assert_int_equal(parse("http://a;http://b", "DIRECT", "http://f1:1;http://f2:1"), 0);
	assert_int_equal(answer("2,1,3,5,4", &order), 0);
	assert_int_equal(order.servers[0], 1);
	assert_int_equal(order.fallback[0], 1);
	assert_int_equal(order.fallback[1], 0);
	assert_int_equal(answer("2,1", &order), -EPROTO);
}

#define TEST(fn) cmocka_unit_test_teardown(fn, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_names_and_addresses),
		TEST(test_fallback),
		TEST(test_no_programs),
		TEST(test_passwords),
		TEST(test_geo_question),
		TEST(test_geo_answer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
