#include "snapshotter/watch.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "net/exposition.h"
#include "net/pages.h"
#include "rpc/json.h"
#include "rpc/rpc.h"
#include "snapshotter/metrics.h"
#include "snapshotter/report.h"

#include <time.h>

typedef Lamella__Snapshotter__V1__StatusResponse StatusResponse;
typedef Lamella__Snapshotter__V1__Health Health;

enum { WORKERS = 2 };

struct lm_watch {
	struct lm_report_source source;
	struct lm_rpc_server *server; /* NULL: none */
	struct lm_pages *pages;	      /* the same */
};

static void on_status(struct lm_rpc_call *call, void *arg)
{
	const struct lm_watch *watch = arg;
	const Lamella__Snapshotter__V1__StatusRequest *request = (const void *)lm_rpc_request(call);
	CLEANUP(lm_report_freep) StatusResponse *report = lm_report_new(&watch->source, request->images);
	if (report)
		lm_rpc_reply(call, &report->base);
	else
		lm_rpc_fail(call, LM_RPC_RESOURCE_EXHAUSTED, "out of memory");
}

static const struct lm_rpc_method methods[] = {
	{"/lamella.snapshotter.v1.Snapshotter/Status", &lamella__snapshotter__v1__status_request__descriptor, on_status,
		0},
};

static int metrics_page(void *arg, struct lm_buf *body, unsigned *ret_code)
{
	const struct lm_watch *watch = arg;
	CLEANUP(lm_report_freep) StatusResponse *report = lm_report_new(&watch->source, false);
	return report ? lm_report_print_metrics(report, body) : -ENOMEM;
}

static int status_page(void *arg, struct lm_buf *body, unsigned *ret_code)
{
	const struct lm_watch *watch = arg;
	CLEANUP(lm_report_freep) StatusResponse *report = lm_report_new(&watch->source, true);
	return report ? lm_rpc_json_line(&report->base, body) : -ENOMEM;
}

static int health_page(void *arg, struct lm_buf *body, unsigned *ret_code)
{
	const struct lm_watch *watch = arg;
	CLEANUP(lm_report_freep) StatusResponse *report = lm_report_new(&watch->source, false);
	if (!report)
		return -ENOMEM;
	Health health = LAMELLA__SNAPSHOTTER__V1__HEALTH__INIT;
	health.healthy = lm_report_is_healthy(report);
	health.n_problems = report->n_problems;
	health.problems = report->problems;
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

static void missing(const char *what, const struct lm_err *err)
{
	lm_log(LM_LOG_ERROR, what, LM_KV("reason", "%s", lm_err_text(err)));
}

int lm_watch_new(const struct lm_service_options *options, struct lm_snapshots *snapshots, struct lm_watch **ret,
	struct lm_err *err)
{
	if (!options->status && !options->metrics)
		return 0;
	CLEANUP(lm_watch_freep) struct lm_watch *watch = calloc(1, sizeof(*watch));
	if (!watch)
		return lm_err_oom(err);
	watch->source = (struct lm_report_source){.snapshots = snapshots,
		.root = options->root,
		.address = options->address,
		.fetcher = options->fetcher,
		.from = options->source,
		.timeout_ms = options->resolve_timeout_ms,
		.started_ms = lm_now_ms(),
		.started_s = time(NULL)};
	struct lm_err why = LM_ERR_INIT;
	int r = options->status ? lm_mkdir_above(AT_FDCWD, options->status, 0700, &why) : 0;
	if (r == 0 && options->status)
		r = lm_rpc_server_new(
			options->status, methods, ARRAY_LEN(methods), watch, WORKERS, &watch->server, &why);
	if (r < 0)
		missing("no status service", &why);
	if (options->metrics &&
		lm_pages_new(options->metrics, options->metrics_address, pages, watch, &watch->pages, &why) < 0)
		missing("no metrics", &why);
	*ret = STEAL(watch);
	return 0;
}

void lm_watch_free(struct lm_watch *watch)
{
	if (!watch)
		return;
	lm_pages_free(watch->pages);
	lm_rpc_server_free(watch->server);
	free(watch);
}
