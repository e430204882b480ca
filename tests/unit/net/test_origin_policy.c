/* The rules of choosing servers and proxies, step by step, with time and dice in our hands. */
#include "net/origin_policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

enum { PROXY_RESET_MS = 300000, HOST_RESET_MS = 1800000 };

/* The dice say this, cut to what is possible. */
static uint32_t dice;
static uint32_t roll(uint32_t bound)
{
	assert_true(bound > 0);
	return LM_MIN(dice, bound - 1);
}

static struct lm_origin_rules rules = {
	.max_retries = 1,
	.backoff_init_ms = 2000,
	.backoff_max_ms = 10000,
	.proxy_reset_ms = PROXY_RESET_MS,
	.host_reset_ms = HOST_RESET_MS,
	.random_below = roll,
};

static struct lm_origin_lists *lists;
static struct lm_origin_policy *policy;
static struct lm_origin_try try;
static unsigned delay_ms;

static void make_fallback(const char *servers, const char *proxies, const char *fallback)
{
	struct lm_err err = LM_ERR_INIT;
	lm_origin_lists_freep(&lists);
	lm_origin_policy_unrefp(&policy);
	if (lm_origin_lists_parse(servers, proxies, fallback, "repo.example.org", &lists, &err) < 0 ||
		lm_origin_policy_new(lists, NULL, NULL, &rules, NULL, &policy, &err) < 0)
		fail_msg("%s", err.msg);
}

static void make(const char *servers, const char *proxies)
{
	make_fallback(servers, proxies, NULL);
}

static int set_up(void **state)
{
	dice = 0;
	rules.max_retries = 1;
	rules.shard = false;
	rules.max_servers = 0;
	return 0;
}

static int tear_down(void **state)
{
	lm_origin_policy_unrefp(&policy);
	lm_origin_lists_freep(&lists);
	return 0;
}

static void start(int64_t now_ms)
{
	lm_origin_try_start(policy, &try, "path", false, now_ms);
}

static bool again(enum lm_origin_fault fault)
{
	return lm_origin_try_again(policy, &try, fault, 0, 1000, &delay_ms);
}

static bool again_after(enum lm_origin_fault fault, uint64_t retry_after_ms)
{
	return lm_origin_try_again(policy, &try, fault, retry_after_ms, 1000, &delay_ms);
}

static void assert_at(const char *server, const char *proxy, bool no_cache)
{
	const char *have = lm_origin_policy_proxy(policy, try.proxy);
	assert_string_equal(lm_origin_policy_server(policy, try.server), server);
	if (proxy)
		assert_string_equal(have, proxy);
	else
		assert_null(have);
	assert_int_equal(try.no_cache, no_cache);
}

static void test_lists(void **state)
{
	make(" http://a/cvmfs/@fqrn@/ ; https://b:1/@org@/@fqrn@,,http://c",
		"http://p1:3128|p2:3128; ;DIRECT|http://p3:1");
	assert_string_equal(lm_origin_policy_server(policy, 0), "http://a/cvmfs/repo.example.org");
	assert_string_equal(lm_origin_policy_server(policy, 1), "https://b:1/repo/repo.example.org");
	assert_string_equal(lm_origin_policy_server(policy, 2), "http://c");
	assert_string_equal(lm_origin_policy_proxy(policy, 0), "http://p1:3128");
	assert_string_equal(lm_origin_policy_proxy(policy, 1), "http://p2:3128");
	assert_null(lm_origin_policy_proxy(policy, 2));
	assert_string_equal(lm_origin_policy_proxy(policy, 3), "http://p3:1");
}

static void test_bad_lists(void **state)
{
	static const struct {
		const char *servers, *proxies, *named;
	} cases[] = {{"", "DIRECT", "no server"}, {" ; ,", "DIRECT", "no server"}, {NULL, "DIRECT", "no server"},
		{"http://a", "", "no proxy"}, {"http://a", " | ;", "no proxy"}, {"http://a", NULL, "no proxy"},
		{"ftp://a", "DIRECT", "ftp://a"}, {"a.example", "DIRECT", "a.example"},
		{"file:///srv", "DIRECT", "file:///srv"}, {"http://a b", "DIRECT", "a b"},
		{"http://a:99999", "DIRECT", "99999"}, {"http://", "DIRECT", "http://"},
		{"http://a", "socks5://p:1", "socks5"}, {"http://a", "auto", "auto"},
		{"http://a", "http://p:1|:", "proxy"}, {"http://a\x01", "DIRECT", "server"}};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_err err = LM_ERR_INIT;
		struct lm_origin_lists *none = NULL;
		assert_int_equal(lm_origin_lists_parse(
					 cases[i].servers, cases[i].proxies, NULL, "repo.example.org", &none, &err),
			-EINVAL);
		assert_null(none);
		assert_non_null(strstr(err.msg, cases[i].named));
		assert_non_null(strstr(err.msg, "repo.example.org"));
	}
}

static void test_too_many(void **state)
{
	char list[100 * 12] = "";
	struct lm_origin_lists *none = NULL;
	for (unsigned i = 0; i < 65; i++)
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "http://a%02u;", i);
	assert_int_equal(lm_origin_lists_parse(list, "DIRECT", NULL, "r", &none, NULL), -EINVAL);
	assert_int_equal(lm_origin_lists_parse("http://a", list, NULL, "r", &none, NULL), -EINVAL);
	list[64 * 11] = '\0';
	make(list, list);
	start(0);
	for (unsigned i = 1; i < 2 * 64; i++) /* through one proxy, and once more through a second one */
		assert_true(again(LM_ORIGIN_SERVER));
	assert_false(again(LM_ORIGIN_SERVER));
}

static void test_good_changes_nothing(void **state)
{
	make("http://a;http://b", "DIRECT");
	for (unsigned i = 0; i < 3; i++) {
		start(0);
		assert_at("http://a", NULL, false);
		lm_origin_try_good(policy, &try, 0);
	}
}

/* A server that fails is left, by the others, too; after the reset time the first one is asked again. */
static void test_server_sticks(void **state)
{
	make("http://a;http://b", "DIRECT");
	start(1000);
	assert_true(again(LM_ORIGIN_SERVER));
	assert_int_equal(delay_ms, 0);
	assert_at("http://b", NULL, false);
	lm_origin_try_good(policy, &try, 1000);
	start(1000 + HOST_RESET_MS - 1);
	assert_at("http://b", NULL, false);
	start(1000 + HOST_RESET_MS);
	assert_at("http://a", NULL, false);
}

static void test_all_servers_fail(void **state)
{
	make("http://a;http://b;http://c", "DIRECT");
	start(0);
	assert_true(again(LM_ORIGIN_SERVER));
	assert_true(again(LM_ORIGIN_ABSENT));
	assert_at("http://c", NULL, false);
	assert_false(again(LM_ORIGIN_DAMAGED) && again(LM_ORIGIN_DAMAGED));
	assert_int_equal(lm_origin_try_code(&try), -EIO);
}

/* Another request that left the server before does not make this one leave the next. */
static void test_server_is_left_once(void **state)
{
	struct lm_origin_try other;
	make("http://a;http://b;http://c", "DIRECT");
	start(0);
	lm_origin_try_start(policy, &other, "path", false, 0);
	assert_true(again(LM_ORIGIN_SERVER));
	assert_true(lm_origin_try_again(policy, &other, LM_ORIGIN_SERVER, 0, 0, &delay_ms));
	assert_string_equal(lm_origin_policy_server(policy, other.server), "http://b");
	start(0);
	assert_at("http://b", NULL, false);
}

/* One object that is absent says nothing about the server, unless the next one has it. */
static void test_absent(void **state)
{
	make("http://a;http://b", "DIRECT");
	start(0);
	assert_true(again(LM_ORIGIN_ABSENT));
	assert_at("http://b", NULL, false);
	assert_false(again(LM_ORIGIN_ABSENT));
	assert_int_equal(lm_origin_try_code(&try), -ENOENT);
	start(0);
	assert_at("http://a", NULL, false);
	assert_true(again(LM_ORIGIN_ABSENT));
	lm_origin_try_good(policy, &try, 0);
	start(0);
	assert_at("http://b", NULL, false);
	assert_true(again(LM_ORIGIN_ABSENT)); /* and around to the first */
	assert_at("http://a", NULL, false);
}

static void test_absent_beside_other_faults(void **state)
{
	make("http://a;http://b", "DIRECT");
	rules.max_retries = 0;
	make("http://a;http://b", "DIRECT");
	start(0);
	assert_true(again(LM_ORIGIN_TIMEOUT));
	assert_false(again(LM_ORIGIN_ABSENT)); /* the one that did not answer may have it */
	assert_int_equal(lm_origin_try_code(&try), -ETIMEDOUT);
	start(0);
	assert_true(again(LM_ORIGIN_TIMEOUT));
	assert_false(again(LM_ORIGIN_TRANSFER));
	assert_int_equal(lm_origin_try_code(&try), -EIO);
}

/* Past the caches first, then elsewhere, where caches may be asked again. */
static void test_damaged(void **state)
{
	make("http://a;http://b", "http://p:1");
	start(0);
	assert_true(again(LM_ORIGIN_DAMAGED));
	assert_int_equal(delay_ms, 0);
	assert_at("http://a", "http://p:1", true);
	assert_true(again(LM_ORIGIN_DAMAGED));
	assert_at("http://b", "http://p:1", false);
	assert_true(again(LM_ORIGIN_DAMAGED));
	assert_at("http://b", "http://p:1", true);
	assert_false(again(LM_ORIGIN_DAMAGED));
	assert_int_equal(lm_origin_try_code(&try), -EBADMSG);
	start(0);
	assert_at("http://a", "http://p:1", false);

	lm_origin_try_start(policy, &try, "path", true, 0); /* asked for fresh from the beginning */
	assert_at("http://a", "http://p:1", true);
	assert_true(again(LM_ORIGIN_DAMAGED));
	assert_at("http://b", "http://p:1", true);
	assert_false(again(LM_ORIGIN_DAMAGED));
}

/* What all servers are said to have damaged or refused, another proxy is asked for. */
static void test_witness(void **state)
{
	static const enum lm_origin_fault faults[] = {LM_ORIGIN_DAMAGED, LM_ORIGIN_SERVER, LM_ORIGIN_ABSENT};
	for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
		make("http://a", "http://p:1|http://q:1");
		start(0);
		assert_at("http://a", "http://p:1", false);
		if (faults[i] == LM_ORIGIN_DAMAGED)
			assert_true(again(faults[i]));
		assert_true(again(faults[i]));
		assert_int_equal(delay_ms, 0);
		assert_at("http://a", "http://q:1", false);
		lm_origin_try_good(policy, &try, 0);
		start(0);
		assert_at("http://a", faults[i] == LM_ORIGIN_ABSENT ? "http://p:1" : "http://q:1", false);

		/* Both say the same: it is true, and nobody is burned. */
		make("http://a", "http://p:1;http://q:1");
		start(0);
		if (faults[i] == LM_ORIGIN_DAMAGED)
			assert_true(again(faults[i]));
		assert_true(again(faults[i]));
		assert_at("http://a", "http://q:1", false);
		if (faults[i] == LM_ORIGIN_DAMAGED)
			assert_true(again(faults[i]));
		assert_false(again(faults[i]));
		start(0);
		assert_at("http://a", "http://p:1", false);
	}
}

static void test_damaged_and_absent(void **state)
{
	make("http://a;http://b", "DIRECT");
	start(0);
	assert_true(again(LM_ORIGIN_ABSENT));
	assert_true(again(LM_ORIGIN_DAMAGED));
	assert_false(again(LM_ORIGIN_DAMAGED));
	assert_int_equal(lm_origin_try_code(&try), -EBADMSG);
}

static void test_back_off(void **state)
{
	rules.max_retries = 5;
	make("http://a", "DIRECT");
	dice = 1500;
	start(0);
	static const unsigned expected[] = {1500, 3000, 6000, 10000, 10000};
	for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
		assert_true(again(i % 2 ? LM_ORIGIN_OVERLOAD : LM_ORIGIN_TRANSFER));
		assert_int_equal(delay_ms, expected[i]);
		assert_at("http://a", NULL, false);
	}
	assert_false(again(LM_ORIGIN_TRANSFER));
	dice = UINT32_MAX;
	start(0);
	assert_true(again(LM_ORIGIN_TIMEOUT));
	assert_int_equal(delay_ms, 2000);
}

/* Without a proxy it is the server's fault; retries belong to the request, not to the path. */
static void test_transfer_direct(void **state)
{
	make("http://a;http://b", "DIRECT");
	start(0);
	assert_true(again(LM_ORIGIN_TRANSFER));
	assert_at("http://a", NULL, false);
	assert_true(again(LM_ORIGIN_TRANSFER));
	assert_int_equal(delay_ms, 0);
	assert_at("http://b", NULL, false);
	assert_false(again(LM_ORIGIN_TRANSFER));
}

/* A refused connection costs no pause while there is another way; in the end all are tried once more, but only once. */
static void test_refused(void **state)
{
	make("http://a;http://b", "http://p1:1|http://p2:1");
	start(0);
	for (unsigned round = 0; round < 2; round++) {
		assert_at("http://a", "http://p1:1", false);
		assert_true(again(LM_ORIGIN_CONNECT));
		assert_int_equal(delay_ms, 0);
		assert_at("http://a", "http://p2:1", false);
		assert_true(again(LM_ORIGIN_CONNECT));
		assert_int_equal(delay_ms, 0);
		assert_at("http://b", "http://p1:1", false);
		assert_true(again(LM_ORIGIN_CONNECT));
		assert_int_equal(again(LM_ORIGIN_CONNECT), round == 0);
	}
	assert_int_equal(lm_origin_try_code(&try), -EIO);

	make("http://a", "DIRECT"); /* the only way */
	start(0);
	assert_true(again(LM_ORIGIN_CONNECT));
	assert_at("http://a", NULL, false);
	assert_false(again(LM_ORIGIN_CONNECT));

	make("http://a", "http://p1:1|http://p2:1"); /* not when it takes its time */
	start(0);
	assert_true(again(LM_ORIGIN_CONNECT));
	assert_true(again(LM_ORIGIN_TIMEOUT));
	assert_false(again(LM_ORIGIN_TIMEOUT));
}

/* One that was burned long ago may be well, and the last of its group fails: it is tried, and the group is not left to
 * the one that is known to fail. */
static void test_burned_one_is_well_again(void **state)
{
	make("http://a", "http://p1:1|http://p2:1");
	start(0);
	assert_true(again(LM_ORIGIN_CONNECT));
	for (dice = 0; dice < 2; dice++) {
		start(0);
		assert_at("http://a", dice ? "http://p1:1" : "http://p2:1", false);
		assert_true(again(LM_ORIGIN_CONNECT));
		assert_at("http://a", dice ? "http://p2:1" : "http://p1:1", false);
		lm_origin_try_good(policy, &try, 0);
	}
}

static void test_overload_is_the_servers(void **state)
{
	make("http://a;http://b", "http://p1:1;http://p2:1");
	start(0);
	assert_true(again(LM_ORIGIN_OVERLOAD));
	assert_at("http://a", "http://p1:1", false);
	assert_true(again(LM_ORIGIN_OVERLOAD));
	assert_at("http://b", "http://p1:1", false);
}

/* Groups: burned inside, then the next, then the next server with nothing burned. */
static void test_proxies(void **state)
{
	rules.max_retries = 0;
	make("http://a;http://b", "http://p1:1|http://p2:1;http://p3:1");
	start(0);
	assert_at("http://a", "http://p1:1", false);
	assert_true(again(LM_ORIGIN_TRANSFER));
	assert_at("http://a", "http://p2:1", false);
	assert_true(again(LM_ORIGIN_PROXY));
	assert_at("http://a", "http://p3:1", false);
	assert_true(again(LM_ORIGIN_TIMEOUT));
	assert_at("http://b", "http://p1:1", false);
	assert_true(again(LM_ORIGIN_PROXY));
	assert_true(again(LM_ORIGIN_PROXY));
	assert_at("http://b", "http://p3:1", false);
	assert_false(again(LM_ORIGIN_PROXY));
	assert_int_equal(lm_origin_try_code(&try), -EIO);
	start(0);
	assert_at("http://a", "http://p1:1", false);
}

static void test_proxy_balancing(void **state)
{
	dice = 1;
	make("http://a", "http://p1:1|http://p2:1|http://p3:1");
	start(0);
	assert_at("http://a", "http://p2:1", false); /* picked once, */
	dice = 2;
	start(0);
	assert_at("http://a", "http://p2:1", false); /* not for each request */
	assert_true(again(LM_ORIGIN_PROXY));
	assert_at("http://a", "http://p3:1", false);
	assert_true(again(LM_ORIGIN_PROXY));
	assert_at("http://a", "http://p1:1", false); /* the last that is not burned */
}

static void test_proxy_is_burned_once(void **state)
{
	struct lm_origin_try other;
	make("http://a", "http://p1:1|http://p2:1|http://p3:1");
	start(0);
	lm_origin_try_start(policy, &other, "path", false, 0);
	assert_true(again(LM_ORIGIN_PROXY));
	assert_true(lm_origin_try_again(policy, &other, LM_ORIGIN_PROXY, 0, 0, &delay_ms));
	assert_string_equal(lm_origin_policy_proxy(policy, other.proxy), "http://p2:1");
}

static void test_proxy_reset(void **state)
{
	make("http://a", "http://p1:1;http://p2:1");
	start(1000);
	assert_true(again(LM_ORIGIN_PROXY)); /* at 1000 */
	lm_origin_try_good(policy, &try, 1000);
	start(1000 + PROXY_RESET_MS - 1);
	assert_at("http://a", "http://p2:1", false);
	start(1000 + PROXY_RESET_MS);
	assert_at("http://a", "http://p1:1", false);
}

/* With DIRECT in the list the request goes there when the proxy is down, and faults there are the server's. */
static void test_direct_after_proxy(void **state)
{
	rules.max_retries = 0;
	make("http://a;http://b", "http://p1:1;DIRECT");
	start(0);
	assert_true(again(LM_ORIGIN_TRANSFER));
	assert_at("http://a", NULL, false);
	assert_true(again(LM_ORIGIN_TRANSFER));
	assert_at("http://b", NULL, false);
	assert_false(again(LM_ORIGIN_TRANSFER));
}

/* A proxy's answer without a proxy can't be; it does not loop either. */
static void test_proxy_fault_direct(void **state)
{
	make("http://a", "DIRECT");
	start(0);
	assert_false(again(LM_ORIGIN_PROXY));
}

/* Whatever happens, the number of attempts is bounded as the header of origin.h says. */
static void test_bound(void **state)
{
	enum { SERVERS = 3, PROXIES = 4, RETRIES = 2, ROUNDS = 20000 };
	unsigned seed = 1, most = 0;
	rules.max_retries = RETRIES;
	make("http://a;http://b;http://c", "http://p1:1|http://p2:1;DIRECT;http://p3:1;http://p1:1");
	for (unsigned round = 0; round < ROUNDS; round++) {
		int64_t now = (int64_t)round * 1000;
		unsigned attempts = 1;
		dice = (uint32_t)rand_r(&seed);
		lm_origin_try_start(policy, &try, "path", rand_r(&seed) % 4 == 0, now);
		for (; attempts < 1000; attempts++) {
			enum lm_origin_fault fault =
				LM_ORIGIN_FINE + 1 + (unsigned)rand_r(&seed) % (LM_ORIGIN_FAULTS - 1);
			if (rand_r(&seed) % 16 == 0) {
				lm_origin_try_good(policy, &try, now);
				break;
			}
			if (!lm_origin_try_again(policy, &try, fault, 0, now, &delay_ms)) {
				assert_true(lm_origin_try_code(&try) < 0);
				break;
			}
			assert_in_range(delay_ms, 0, 10000);
		}
		most = LM_MAX(most, attempts);
	}
	assert_in_range(most, SERVERS, 2 * SERVERS * 2 * PROXIES + RETRIES);
}

/* A server that says when to come back is asked then, or not at all. */
static void test_retry_after(void **state)
{
	rules.max_retries = 2;
	dice = 100;
	make("http://a;http://b", "http://p1:1");
	start(0);
	assert_true(again_after(LM_ORIGIN_OVERLOAD, 3000));
	assert_int_equal(delay_ms, 3000);
	assert_at("http://a", "http://p1:1", false);
	assert_true(again_after(LM_ORIGIN_OVERLOAD, 50)); /* sooner than the back-off */
	assert_int_equal(delay_ms, 200);
	start(0);
	assert_true(again_after(LM_ORIGIN_OVERLOAD, 10001)); /* later than any back-off */
	assert_int_equal(delay_ms, 0);
	assert_at("http://b", "http://p1:1", false);
}

/* While there is another server a busy one is not waited for. */
static void test_busy(void **state)
{
	make("http://a;http://b", "DIRECT");
	start(0);
	assert_true(again_after(LM_ORIGIN_BUSY, 2000));
	assert_int_equal(delay_ms, 0);
	assert_at("http://b", NULL, false);
	assert_true(again_after(LM_ORIGIN_BUSY, 3000));
	assert_int_equal(delay_ms, 3000);
	assert_at("http://b", NULL, false);
	assert_false(again_after(LM_ORIGIN_BUSY, 1));
	assert_int_equal(lm_origin_try_code(&try), -EIO);
	make("http://a", "DIRECT");
	start(0);
	assert_false(again_after(LM_ORIGIN_BUSY, 3600 * UINT64_C(1000)));
}

static void test_hasten(void **state)
{
	make("http://a;http://b", "DIRECT");
	start(0);
	lm_origin_try_hasten(&try);
	assert_true(again(LM_ORIGIN_TIMEOUT));
	assert_int_equal(delay_ms, 0);
	assert_at("http://b", NULL, false);
	assert_false(again(LM_ORIGIN_TIMEOUT));
}

static void test_fallback(void **state)
{
	rules.max_retries = 0;
	make_fallback("http://a", "http://p1:1|http://p2:1;DIRECT", "http://f1:1;DIRECT|http://f2:1");
	start(0);
	assert_at("http://a", "http://p1:1", false);
	assert_true(again(LM_ORIGIN_TRANSFER));
	assert_true(again(LM_ORIGIN_TRANSFER));
	assert_at("http://a", "http://f1:1", false);
	assert_true(again(LM_ORIGIN_TRANSFER));
	assert_at("http://a", "http://f2:1", false);
	assert_false(again(LM_ORIGIN_TRANSFER)); /* never directly */
}

static void test_max_servers(void **state)
{
	rules.max_servers = 2;
	make("http://a;http://b;http://c", "DIRECT");
	start(0);
	assert_true(again(LM_ORIGIN_SERVER));
	assert_at("http://b", NULL, false);
	assert_false(again(LM_ORIGIN_SERVER));
}

/* With another order, and what was in use before. */
static void test_order(void **state)
{
	struct lm_origin_order order;
	struct lm_origin_policy *sorted = NULL;
	rules.max_servers = 2;
	make_fallback("http://a;http://b;http://c", "http://p:1", "http://f1:1|http://f2:1;http://f3:1");
	lm_origin_order_init(&order);
	order.servers[0] = 2;
	order.servers[2] = 0;
	order.fallback[0] = 1;
	order.fallback[1] = 0;
	assert_int_equal(lm_origin_policy_new(lists, NULL, &order, &rules, policy, &sorted, NULL), 0);
	assert_string_equal(lm_origin_policy_server(sorted, 0), "http://c");
	assert_string_equal(lm_origin_policy_server(sorted, 1), "http://b");
	assert_string_equal(lm_origin_policy_proxy(sorted, 1), "http://f3:1");
	assert_string_equal(lm_origin_policy_proxy(sorted, 2), "http://f1:1");
	start(0);
	assert_at("http://a", "http://p:1", false);
	lm_origin_policy_unref(policy);
	policy = sorted;
	start(0);
	assert_at("http://c", "http://p:1", false);
}

static const char *shard_of(const char *path)
{
	lm_origin_try_start(policy, &try, path, false, 0);
	return lm_origin_policy_proxy(policy, try.proxy);
}

/* Each path has its proxy, all are used about as much, and only what a burned one had moves. */
static void test_shard(void **state)
{
	enum { PATHS = 3000 };
	static const char *before[PATHS];
	unsigned moved = 0, had = 0;
	char path[32];
	rules.shard = true;
	rules.max_retries = 0;
	make("http://a", "http://p1:1|http://p2:1|http://p3:1;http://p4:1");
	for (unsigned i = 0; i < PATHS; i++) {
		snprintf(path, sizeof(path), "data/%02x/%u", i % 256, i);
		before[i] = shard_of(path);
		assert_ptr_equal(shard_of(path), before[i]);
		had += strcmp(before[i], "http://p2:1") == 0;
		assert_string_not_equal(before[i], "http://p4:1");
	}
	assert_in_range(had, PATHS / 4, PATHS / 2);
	for (unsigned i = 0; strcmp(shard_of(path), "http://p2:1") != 0; i++)
		snprintf(path, sizeof(path), "other/%u", i);
	assert_true(again(LM_ORIGIN_PROXY));
	assert_string_not_equal(lm_origin_policy_proxy(policy, try.proxy), "http://p2:1");
	for (unsigned i = 0; i < PATHS; i++) {
		snprintf(path, sizeof(path), "data/%02x/%u", i % 256, i);
		const char *now = shard_of(path);
		assert_string_not_equal(now, "http://p2:1");
		moved += now != before[i];
	}
	assert_int_equal(moved, had);
	assert_true(again(LM_ORIGIN_PROXY));
	assert_true(again(LM_ORIGIN_PROXY));
	assert_at("http://a", "http://p4:1", false);
	assert_true(again(LM_ORIGIN_PROXY)); /* the fourth it tries: p2 was burned by another request */
	assert_false(again(LM_ORIGIN_PROXY));
}

static struct lm_addresses addresses_of(const char *a, const char *b)
{
	struct lm_addresses all = {.count = b ? 2 : 1};
	snprintf(all.list[0].text, sizeof(all.list[0].text), "%s", a);
	snprintf(all.list[1].text, sizeof(all.list[1].text), "%s", b ? b : "");
	all.list[0].v6 = strchr(a, ':');
	all.list[1].v6 = b && strchr(b, ':');
	return all;
}

static void go_on_with(const struct lm_addresses *addresses)
{
	struct lm_origin_policy *next = NULL;
	assert_int_equal(lm_origin_policy_new(lists, addresses, NULL, &rules, policy, &next, NULL), 0);
	lm_origin_policy_unref(policy);
	policy = next;
}

/* Every address counts; what was burned stays so, what was in use stays in use. */
static void test_addresses(void **state)
{
	struct lm_addresses addresses[2] = {addresses_of("192.0.2.1", "2001:db8::2"), {.count = 0}};
	rules.max_retries = 0;
	make("http://a", "http://u:secret@p:3128;http://q:1");
	go_on_with(addresses);
	start(0);
	assert_at("http://a", "http://u:secret@192.0.2.1:3128", false);
	assert_true(again(LM_ORIGIN_TRANSFER));
	assert_at("http://a", "http://u:secret@[2001:db8::2]:3128", false);
	addresses[0] = addresses_of("192.0.2.1", "192.0.2.3");
	go_on_with(addresses);
	start(0);
	assert_at("http://a", "http://u:secret@192.0.2.3:3128", false); /* the first is burned still */
	addresses[0] = addresses_of("192.0.2.4", "192.0.2.3");
	go_on_with(addresses);
	start(0);
	assert_at("http://a", "http://u:secret@192.0.2.3:3128", false);
	assert_true(again(LM_ORIGIN_TRANSFER));
	assert_at("http://a", "http://u:secret@192.0.2.4:3128", false);
	assert_true(again(LM_ORIGIN_TRANSFER));
	assert_at("http://a", "http://q:1", false);
	addresses[0] = addresses_of("192.0.2.5", NULL); /* a new one of the first group: back to that */
	go_on_with(addresses);
	start(0);
	assert_at("http://a", "http://u:secret@192.0.2.5:3128", false);
}

/* A request ends by the policy it began with; what it finds out counts for all. */
static void test_old_policy(void **state)
{
	struct lm_origin_policy *old;
	struct lm_origin_try of_old;
	rules.max_retries = 0;
	make("http://a;http://b", "http://p1:1|http://p2:1");
	lm_origin_try_start(policy, &of_old, "path", false, 0);
	old = lm_origin_policy_ref(policy);
	go_on_with(NULL);
	start(0);
	assert_at("http://a", "http://p1:1", false);
	assert_true(lm_origin_try_again(old, &of_old, LM_ORIGIN_PROXY, 0, 0, &delay_ms));
	assert_string_equal(lm_origin_policy_proxy(old, of_old.proxy), "http://p2:1");
	start(0);
	assert_at("http://a", "http://p2:1", false);
	lm_origin_policy_unref(old);
}

static struct lm_origin_place *places;
static unsigned n_places;

static const struct lm_origin_place *place(const char *url, int64_t now_ms)
{
	lm_origin_places_free(places, n_places);
	places = NULL;
	assert_int_equal(lm_origin_policy_places(policy, now_ms, &places, &n_places), 0);
	for (unsigned i = 0; i < n_places; i++)
		if (strcmp(places[i].url, url) == 0)
			return &places[i];
	fail_msg("no place %s", url);
	return NULL;
}

static void test_places(void **state)
{
	rules.max_retries = 0;
	make_fallback("http://u:secret@a/x;http://b", "http://u:secret@p1:1|http://p2:1", "http://f:1");
	start(0);
	lm_origin_policy_count(policy, &try, LM_ORIGIN_FINE, 1000, 3000, "", 5);
	lm_origin_policy_count(policy, &try, LM_ORIGIN_TIMEOUT, 10, 0, "too slow", 7);
	assert_true(lm_origin_try_again(policy, &try, LM_ORIGIN_TIMEOUT, 0, 1000, &delay_ms));
	const struct lm_origin_place *p = place("http://p1:1", 2000);
	assert_true(p->proxy && !p->fallback && p->group == 0);
	assert_int_equal(p->state, LM_ORIGIN_BURNED);
	assert_int_equal(p->burned_ms, PROXY_RESET_MS - 1000);
	assert_int_equal(p->requests, 2);
	assert_int_equal(p->failed, 1);
	assert_int_equal(p->bytes, 1010);
	assert_int_equal(p->latency[2], 1); /* below 4 ms */
	assert_string_equal(p->error, "too slow");
	assert_int_equal(p->error_ms, 7);
	assert_int_equal(place("http://p2:1", 2000)->state, LM_ORIGIN_IN_USE);
	assert_int_equal(place("http://f:1", 2000)->state, LM_ORIGIN_STANDBY);
	assert_true(place("http://f:1", 2000)->fallback && place("http://f:1", 2000)->group == 1);
	p = place("http://a/x", 2000);
	assert_false(p->proxy);
	assert_int_equal(p->state, LM_ORIGIN_IN_USE);
	assert_int_equal(p->requests, 2);
	assert_int_equal(p->failed, 0); /* the proxy's fault */
	lm_origin_policy_count(policy, &try, LM_ORIGIN_SERVER, 0, 50, "broken", 8);
	assert_true(lm_origin_try_again(policy, &try, LM_ORIGIN_SERVER, 0, 3000, &delay_ms));
	p = place("http://a/x", 4000);
	assert_int_equal(p->state, LM_ORIGIN_STANDBY);
	assert_int_equal(p->burned_ms, HOST_RESET_MS - 1000);
	assert_int_equal(p->failed, 1);
	assert_int_equal(p->latency[0], 1);
	lm_origin_places_free(places, n_places);
	places = NULL;
}

static void test_judge(void **state)
{
	static const struct {
		unsigned status;
		bool proxied, proxy_error;
		enum lm_origin_fault fault;
	} cases[] = {{200, false, false, LM_ORIGIN_FINE}, {206, true, true, LM_ORIGIN_FINE},
		{404, false, false, LM_ORIGIN_ABSENT}, {404, true, false, LM_ORIGIN_ABSENT},
		{404, true, true, LM_ORIGIN_PROXY}, {404, false, true, LM_ORIGIN_ABSENT},
		{500, true, false, LM_ORIGIN_SERVER}, {503, true, true, LM_ORIGIN_PROXY},
		{503, false, true, LM_ORIGIN_SERVER}, {400, true, false, LM_ORIGIN_SERVER},
		{403, true, false, LM_ORIGIN_PROXY}, {403, false, false, LM_ORIGIN_SERVER},
		{407, true, false, LM_ORIGIN_PROXY}, {429, true, false, LM_ORIGIN_OVERLOAD},
		{429, false, false, LM_ORIGIN_OVERLOAD}, {302, true, false, LM_ORIGIN_SERVER},
		{999, true, false, LM_ORIGIN_SERVER}};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		if (lm_origin_judge(cases[i].status, cases[i].proxied, cases[i].proxy_error, false) != cases[i].fault)
			fail_msg("case %zu", i);
	assert_int_equal(lm_origin_judge(503, true, false, true), LM_ORIGIN_BUSY);
	assert_int_equal(lm_origin_judge(503, true, true, true), LM_ORIGIN_PROXY);
	assert_int_equal(lm_origin_judge(500, true, false, true), LM_ORIGIN_SERVER);
	for (unsigned i = 0; i < LM_ORIGIN_FAULTS; i++)
		assert_non_null(lm_origin_fault_name(i));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_lists),
		TEST(test_bad_lists),
		TEST(test_too_many),
		TEST(test_good_changes_nothing),
		TEST(test_server_sticks),
		TEST(test_all_servers_fail),
		TEST(test_server_is_left_once),
		TEST(test_absent),
		TEST(test_absent_beside_other_faults),
		TEST(test_damaged),
		TEST(test_witness),
		TEST(test_damaged_and_absent),
		TEST(test_back_off),
		TEST(test_transfer_direct),
		TEST(test_refused),
		TEST(test_burned_one_is_well_again),
		TEST(test_overload_is_the_servers),
		TEST(test_proxies),
		TEST(test_proxy_balancing),
		TEST(test_proxy_is_burned_once),
		TEST(test_proxy_reset),
		TEST(test_direct_after_proxy),
		TEST(test_proxy_fault_direct),
		TEST(test_bound),
		TEST(test_retry_after),
		TEST(test_busy),
		TEST(test_hasten),
		TEST(test_fallback),
		TEST(test_max_servers),
		TEST(test_order),
		TEST(test_shard),
		TEST(test_addresses),
		TEST(test_old_policy),
		TEST(test_places),
		TEST(test_judge),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
