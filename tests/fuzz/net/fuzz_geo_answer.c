/* What a server says to the question of the Geo API: two bytes choose how much was asked about, the rest is the answer.
 */
#include "base/str.h"
#include "net/origin_lists.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct lm_origin_lists *make_lists(unsigned servers, unsigned fallback)
{
	struct lm_origin_lists *lists = NULL;
	CLEANUP(lm_buf_done) struct lm_buf a = LM_BUF(1 << 16);
	CLEANUP(lm_buf_done) struct lm_buf b = LM_BUF(1 << 16);
	for (unsigned i = 0; i < servers; i++)
		assert(lm_buf_printf(&a, "http://s%u;", i) == 0);
	for (unsigned i = 0; i < fallback; i++)
		assert(lm_buf_printf(&b, "http://p%u:3128;", i) == 0);
	assert(lm_origin_lists_parse(
		       lm_buf_cstr(&a), "http://p:3128", lm_buf_cstr(&b), "r.example.org", &lists, NULL) == 0);
	return lists;
}

static void assert_all_there(const uint8_t *order, unsigned n)
{
	uint64_t seen = 0;
	for (unsigned i = 0; i < n; i++) {
		assert(order[i] < n && !(seen >> order[i] & 1));
		seen |= UINT64_C(1) << order[i];
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	unsigned servers = data[0] % LM_ORIGIN_SERVERS_MAX + 1, fallback = data[1] % LM_ORIGIN_PROXIES_MAX;
	CLEANUP(lm_origin_lists_freep) struct lm_origin_lists *lists = make_lists(servers, fallback);
	CLEANUP(lm_freep) char *question = lm_geo_question(lists, "here");
	struct lm_origin_order order;
	assert(question && lm_str_starts(question, "api/v1.0/geo/here/s0"));
	if (lm_geo_answer(lists, (const char *)data + 2, size - 2, &order) == 0) {
		assert_all_there(order.servers, servers);
		assert_all_there(order.fallback, fallback);
	}
	return 0;
}
