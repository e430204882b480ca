/* What an origin asks on its own account: addresses of its proxies, and which servers are near. */
#include "base/clock.h"
#include "base/str.h"
#include "net/origin_internal.h"

#include <string.h>

enum {
	GEO_ASKED_MAX = 3, /* servers */
	GEO_ANSWER_MAX = 4096,
	LOG_INTERVAL_MS = 10 * 1000,
};

/* One question. It keeps origin and setup. */
struct question {
	struct lm_origin *origin;
	struct lm_origin_setup *setup;
	unsigned proxy; /* whose name is looked up */
	/* of the Geo API */
	unsigned first, asked;
	struct lm_buf answer;
};

static struct question *question_new(struct lm_origin *origin, struct lm_origin_setup *setup)
{
	struct question *question = calloc(1, sizeof(*question));
	if (!question)
		return NULL;
	question->origin = lm_origin_ref(origin);
	question->setup = setup;
	question->answer = LM_BUF(GEO_ANSWER_MAX);
	return question;
}

static void question_free(struct question *question)
{
	struct lm_origin *origin = question->origin;
	lm_lock_take(&origin->lock);
	lm_origin_setup_unref(question->setup);
	lm_lock_release(&origin->lock);
	lm_buf_done(&question->answer);
	free(question);
	lm_origin_unref(origin);
}

static void found(struct lm_origin *origin, struct lm_origin_setup *setup, unsigned proxy, int code,
	const struct lm_addresses *addresses)
{
	LM_LOCKED(&origin->lock);
	lm_origin_setup_found(setup, proxy, code, addresses, lm_now_ms());
}

static void log_not_found(const struct question *question, int code)
{
	struct lm_origin *origin = question->origin;
	struct lm_err err = LM_ERR_INIT;
	unsigned missed = 0;
	if (!lm_log_limit_pass(&origin->log_limit, LOG_INTERVAL_MS, &missed))
		return;
	lm_err_sys(&err, code, "look up its name");
	lm_log(LM_LOG_WARN, "proxy not found, going on with what is known", LM_KV("repository", "%s", origin->fqrn),
		LM_KV("proxy", "%s", question->setup->lists->proxies[question->proxy].shown),
		LM_KV("error", "%s", err.msg), LM_KV("unlogged", "%u", missed));
}

static void on_addresses(void *arg, int code, const struct lm_addresses *addresses)
{
	struct question *question = arg;
	found(question->origin, question->setup, question->proxy, code, addresses);
	if (code < 0 && code != -ECANCELED)
		log_not_found(question, code);
	lm_origin_wait_over(question->origin);
	question_free(question);
}

void lm_origin_look_up(struct lm_origin *origin, struct lm_origin_setup *setup, unsigned proxy)
{
	struct question *question = question_new(origin, setup);
	if (!question) {
		found(origin, setup, proxy, -ENOMEM, NULL);
		LM_LOCKED(&origin->lock);
		lm_origin_setup_unref(setup);
		return;
	}
	question->proxy = proxy;
	lm_resolve(origin->http, setup->lists->proxies[proxy].host, &setup->dns, on_addresses, question);
}

static void sorted(struct lm_origin *origin, struct lm_origin_setup *setup, const struct lm_origin_order *order)
{
	LM_LOCKED(&origin->lock);
	lm_origin_setup_sorted(setup, order, lm_now_ms());
}

static bool ask_next(struct question *question);

static int on_geo_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct question *question = arg;
	return lm_buf_append(&question->answer, data, len);
}

static void on_geo_done(void *arg, const struct lm_http_result *result)
{
	struct question *question = arg;
	struct lm_origin *origin = question->origin;
	const struct lm_origin_setup *setup = question->setup;
	struct lm_origin_order order;
	bool good = result->code == 0 && result->status == 200 &&
		    lm_geo_answer(setup->lists, lm_buf_cstr(&question->answer), question->answer.len, &order) == 0;
	if (!good && result->code != -ECANCELED && ask_next(question))
		return;
	if (good)
		lm_log(LM_LOG_INFO, "servers sorted by distance", LM_KV("repository", "%s", origin->fqrn),
			LM_KV("nearest", "%s", setup->lists->servers[order.servers[0]]));
	else
		lm_log(LM_LOG_WARN, "servers could not be sorted by distance, going on with the order as written",
			LM_KV("repository", "%s", origin->fqrn), LM_KV("status", "%u", result->status),
			LM_KV("error", "%s", result->err.msg));
	sorted(origin, question->setup, good ? &order : NULL);
	question_free(question);
}

/* The proxy in use, which the server knows by its name or address; the caller frees. False when memory is short. */
static bool proxy_in_use(struct question *question, char **ret)
{
	struct lm_origin_try try;
	LM_LOCKED(&question->origin->lock);
	struct lm_origin_policy *policy = question->setup->policy;
	lm_origin_try_start(policy, &try, "geo", false, lm_now_ms());
	const char *proxy = lm_origin_policy_proxy(policy, try.proxy);
	return !proxy || (*ret = strdup(proxy));
}

static int ask(struct question *question, const char *server, struct lm_err *err)
{
	CLEANUP(lm_freep) char *proxy = NULL, *who = NULL, *path = NULL, *url = NULL;
	if (!proxy_in_use(question, &proxy))
		return lm_err_oom(err);
	who = proxy ? lm_url_host(proxy) : lm_str_printf("%08x%08x", arc4random(), arc4random());
	if (!who || !(path = lm_geo_question(question->setup->lists, who)) ||
		!(url = lm_str_printf("%s/%s", server, path)))
		return lm_err_oom(err);
	struct lm_http_request request = {
		.url = url, .proxy = proxy, .on_data = on_geo_data, .on_done = on_geo_done, .arg = question};
	lm_origin_fill_request(question->setup, proxy, &request);
	lm_buf_clear(&question->answer);
	return lm_http_start(question->origin->http, &request, NULL, err);
}

/* False: no further server is asked. */
static bool ask_next(struct question *question)
{
	const struct lm_origin_lists *lists = question->setup->lists;
	while (question->asked < LM_MIN(lists->n_servers, (unsigned)GEO_ASKED_MAX)) {
		unsigned server = (question->first + question->asked++) % lists->n_servers;
		if (ask(question, lists->servers[server], NULL) == 0)
			return true;
	}
	return false;
}

void lm_origin_ask_geo(struct lm_origin *origin, struct lm_origin_setup *setup)
{
	struct question *question = question_new(origin, setup);
	if (!question) {
		sorted(origin, setup, NULL);
		LM_LOCKED(&origin->lock);
		lm_origin_setup_unref(setup);
		return;
	}
	/* Not every node asks the same one first. */
	question->first = arc4random_uniform(setup->lists->n_servers);
	if (ask_next(question))
		return;
	sorted(origin, setup, NULL);
	question_free(question);
}
