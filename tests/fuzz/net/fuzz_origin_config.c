/* Lists of servers and proxies as an administrator may have written them: a line of servers, a line of proxies. */
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
	lm_origin_try_start(policy, &try, false, 0);
	for (;; attempts++) {
		assert(lm_origin_policy_server(policy, try.server));
		(void)lm_origin_policy_proxy(policy, try.proxy);
		enum lm_origin_fault fault =
			LM_ORIGIN_TRANSFER + (n ? faults[attempts % n] : attempts) % (LM_ORIGIN_FAULTS - 1);
		if (!lm_origin_try_again(policy, &try, fault, attempts, &delay_ms))
			break;
		assert(attempts < 2 * LM_ORIGIN_SERVERS_MAX * LM_ORIGIN_PROXIES_MAX + 3);
	}
	assert(lm_origin_try_code(&try) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct lm_origin_rules rules = {
		.max_retries = 2, .backoff_init_ms = 1, .backoff_max_ms = 1, .random_below = first};
	CLEANUP(lm_freep) char *text = malloc(size + 1);
	CLEANUP(lm_origin_policy_freep) struct lm_origin_policy *policy = NULL;
	struct lm_err err = LM_ERR_INIT;
	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	char *proxies = strchr(text, '\n');
	if (proxies)
		*proxies++ = '\0';
	int r = lm_origin_policy_new(text, proxies, "repository.example.org", &rules, &policy, &err);
	if (r == 0)
		walk(policy, data, size);
	else
		assert(r == -EINVAL && err.msg[0]);
	return 0;
}
