/* Lists of servers and proxies as an administrator may have written them: a line of servers, a line of proxies, a line
 * of fallback proxies. */
#include "net/origin_policy.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t first(uint32_t bound)
{
	assert(bound > 0);
	return 0;
}

/* A policy that was accepted answers any row of faults with valid choices, and ends. */
static void walk(struct lm_origin_policy *policy, const uint8_t *faults, size_t n)
{
	struct lm_origin_try try;
	unsigned delay_ms, attempts = 1;
	lm_origin_try_start(policy, &try, "data/00/00", false, 0);
	for (;; attempts++) {
		assert(lm_origin_policy_server(policy, try.server));
		(void)lm_origin_policy_proxy(policy, try.proxy);
		enum lm_origin_fault fault =
			LM_ORIGIN_FINE + 1 + (n ? faults[attempts % n] : attempts) % (LM_ORIGIN_FAULTS - 1);
		if (!lm_origin_try_again(policy, &try, fault, attempts % 3 * 500, attempts, &delay_ms))
			break;
		assert(attempts < 4 * LM_ORIGIN_SERVERS_MAX * LM_ORIGIN_PROXIES_MAX + 4);
	}
	assert(lm_origin_try_code(&try) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lm_origin_rules rules = {.max_retries = 2,
		.backoff_init_ms = 1,
		.backoff_max_ms = 1000,
		.shard = size % 2,
		.random_below = first};
	CLEANUP(lm_freep) char *text = malloc(size + 1);
	CLEANUP(lm_origin_lists_freep) struct lm_origin_lists *lists = NULL;
	CLEANUP(lm_origin_policy_unrefp) struct lm_origin_policy *policy = NULL;
	struct lm_err err = LM_ERR_INIT;
	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	char *proxies = strchr(text, '\n'), *fallback = proxies ? strchr(proxies + 1, '\n') : NULL;
	if (proxies)
		*proxies++ = '\0';
	if (fallback)
		*fallback++ = '\0';
	int r = lm_origin_lists_parse(text, proxies, fallback, "repository.example.org", &lists, &err);
	if (r == 0 && lm_origin_policy_new(lists, NULL, NULL, &rules, NULL, &policy, &err) == 0)
		walk(policy, data, size);
	else
		assert(r == -EINVAL && err.msg[0]);
	return 0;
}
