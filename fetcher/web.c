#include "fetcher/web.h"

#include "fetcher/metrics.h"
#include "fetcher/status.h"
#include "net/exposition.h"
#include "net/pages.h"
#include "rpc/json.h"

typedef Lamella__Fetcher__V1__StatusResponse StatusResponse;
typedef Lamella__Fetcher__V1__Health Health;

struct lm_web {
	const struct lm_control_config *status;
	struct lm_pages *pages;
};

static int metrics_page(void *arg, struct lm_buf *body, unsigned *ret_code)
{
	const struct lm_web *web = arg;
	CLEANUP(lm_status_freep) StatusResponse *status = lm_status_new(web->status, false);
	return status ? lm_metrics_print(status, body) : -ENOMEM;
}

static int status_page(void *arg, struct lm_buf *body, unsigned *ret_code)
{
	const struct lm_web *web = arg;
	CLEANUP(lm_status_freep) StatusResponse *status = lm_status_new(web->status, true);
	return status ? lm_rpc_json_line(&status->base, body) : -ENOMEM;
}

static int health_page(void *arg, struct lm_buf *body, unsigned *ret_code)
{
	const struct lm_web *web = arg;
	CLEANUP(lm_status_freep) StatusResponse *status = lm_status_new(web->status, false);
	if (!status)
		return -ENOMEM;
	Health health = LAMELLA__FETCHER__V1__HEALTH__INIT;
	health.healthy = lm_status_is_healthy(status);
	health.n_problems = status->n_problems;
	health.problems = status->problems;
	if (!health.healthy)
		*ret_code = LM_PAGES_UNAVAILABLE;
	return lm_rpc_json_line(&health.base, body);
}

static const struct lm_page pages[] = {
	{"/metrics", LM_EXPOSITION_TYPE, metrics_page},
	{"/healthz", "application/json", health_page},
	{"/status", "application/json", status_page},
	{0},
};

int lm_web_new(const char *socket, const char *address, const struct lm_control_config *status, struct lm_web **ret,
	struct lm_err *err)
{
	CLEANUP(lm_web_freep) struct lm_web *web = calloc(1, sizeof(*web));
	if (!web)
		return lm_err_oom(err);
	web->status = status;
	int r = lm_pages_new(socket, address, pages, web, &web->pages, err);
	if (r < 0)
		return r;
	*ret = STEAL(web);
	return 0;
}

void lm_web_free(struct lm_web *web)
{
	if (!web)
		return;
	lm_pages_free(web->pages);
	free(web);
}
