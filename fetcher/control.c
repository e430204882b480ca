#include "fetcher/control.h"

#include "base/file.h"
#include "fetcher/resolve.h"
#include "lamella/fetcher.pb-c.h"
#include "rpc/rpc.h"

#include <libgen.h>
#include <stdatomic.h>
#include <string.h>

#define SERVICE "/lamella.fetcher.v1.Fetcher/"
enum { WORKERS = 4 };

typedef Lamella__Fetcher__V1__RepositoryStatus RepositoryStatus;

struct lm_control {
	struct lm_control_config config;
	struct lm_rpc_server *server;
	struct lm_resolver *resolver;
};

/* Status and Update. */

struct report {
	size_t count;
	RepositoryStatus *messages, **pointers;
	struct lm_repository_status *statuses;
	struct lm_hash_text *roots;
};

static void report_done(struct report *report)
{
	free(report->messages);
	free(report->pointers);
	free(report->statuses);
	free(report->roots);
}

/* fqrn: "" for all repositories. */
static int fill_report(const struct lm_control *control, const char *fqrn, struct report *ret)
{
	const struct lm_control_config *config = &control->config;
	ret->messages = calloc(config->repository_count, sizeof(*ret->messages));
	ret->pointers = calloc(config->repository_count, sizeof(*ret->pointers));
	ret->statuses = calloc(config->repository_count, sizeof(*ret->statuses));
	ret->roots = calloc(config->repository_count, sizeof(*ret->roots));
	if (!ret->messages || !ret->pointers || !ret->statuses || !ret->roots)
		return -ENOMEM;
	for (size_t i = 0; i < config->repository_count; i++) {
		const char *name = lm_repository_fqrn(config->repositories[i].repository);
		if (*fqrn && strcmp(fqrn, name) != 0)
			continue;
		struct lm_repository_status *s = &ret->statuses[ret->count];
		RepositoryStatus *m = ret->pointers[ret->count] = &ret->messages[ret->count];
		lm_repository_status(config->repositories[i].repository, s);
		ret->roots[ret->count] = s->root.set ? lm_hash_text(&s->root) : (struct lm_hash_text){""};
		lamella__fetcher__v1__repository_status__init(m);
		m->fqrn = (char *)name;
		m->mountpoint =
			config->is_mounted(config->arg, i) ? (char *)config->repositories[i].mountpoint : (char *)"";
		m->revision = s->revision;
		m->root_hash = ret->roots[ret->count].s;
		m->ttl_s = s->ttl_s;
		m->offline = s->offline;
		m->last_error = s->last_error.msg;
		m->fixed = (char *)s->pin;
		m->requests = s->origin.requests;
		m->failed_requests = s->origin.failed;
		m->bytes_fetched = s->origin.bytes;
		m->files_fetched = s->fetch.files;
		m->catalogs_fetched = s->fetch.catalogs;
		ret->count++;
	}
	return 0;
}

static void handle_status(struct lm_rpc_call *call, void *service)
{
	struct lm_control *control = service;
	CLEANUP(report_done) struct report report = {0};
	if (fill_report(control, "", &report) < 0) {
		lm_rpc_fail(call, LM_RPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	struct lm_cache_stats cache;
	lm_cache_stats(control->config.cache, &cache);
	Lamella__Fetcher__V1__StatusResponse response = LAMELLA__FETCHER__V1__STATUS_RESPONSE__INIT;
	response.n_repositories = report.count;
	response.repositories = report.pointers;
	response.version = (char *)LM_VERSION;
	response.cache_bytes = cache.bytes;
	response.cache_objects = cache.objects;
	lm_rpc_reply(call, &response.base);
}

struct update {
	struct lm_control *control;
	struct lm_rpc_call *call;
	_Atomic(unsigned) waiting;
};

static void update_looked(void *arg)
{
	struct update *update = arg;
	if (atomic_fetch_sub(&update->waiting, 1) != 1)
		return;
	const Lamella__Fetcher__V1__UpdateRequest *request =
		(const Lamella__Fetcher__V1__UpdateRequest *)lm_rpc_request(update->call);
	CLEANUP(report_done) struct report report = {0};
	Lamella__Fetcher__V1__UpdateResponse response = LAMELLA__FETCHER__V1__UPDATE_RESPONSE__INIT;
	if (fill_report(update->control, request->fqrn, &report) < 0) {
		lm_rpc_fail(update->call, LM_RPC_RESOURCE_EXHAUSTED, "out of memory");
	} else {
		response.n_repositories = report.count;
		response.repositories = report.pointers;
		lm_rpc_reply(update->call, &response.base);
	}
	free(update);
}

static void handle_update(struct lm_rpc_call *call, void *service)
{
	struct lm_control *control = service;
	const struct lm_control_config *config = &control->config;
	const Lamella__Fetcher__V1__UpdateRequest *request =
		(const Lamella__Fetcher__V1__UpdateRequest *)lm_rpc_request(call);
	struct update *update = malloc(sizeof(*update));
	if (!update) {
		lm_rpc_fail(call, LM_RPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	*update = (struct update){.control = control, .call = call};
	atomic_store(&update->waiting, 1);
	bool any = !*request->fqrn;
	for (size_t i = 0; i < config->repository_count; i++) {
		struct lm_repository *repository = config->repositories[i].repository;
		if (*request->fqrn && strcmp(request->fqrn, lm_repository_fqrn(repository)) != 0)
			continue;
		any = true;
		atomic_fetch_add(&update->waiting, 1);
		if (lm_repository_look(repository, true, update_looked, update) < 0)
			update_looked(update);
	}
	if (any) {
		update_looked(update);
	} else {
		lm_rpc_fail(call, LM_RPC_NOT_FOUND, "no repository %s is configured", request->fqrn);
		free(update);
	}
}

/* The service. */

static void handle_resolve(struct lm_rpc_call *call, void *service)
{
	struct lm_control *control = service;
	lm_resolver_handle(control->resolver, call);
}

static const struct lm_rpc_method methods[] = {
	{SERVICE "Resolve", &lamella__fetcher__v1__resolve_request__descriptor, handle_resolve, 0},
	{SERVICE "Status", &lamella__fetcher__v1__status_request__descriptor, handle_status, 0},
	{SERVICE "Update", &lamella__fetcher__v1__update_request__descriptor, handle_update, 0},
};

static int make_socket_dir(const char *socket, struct lm_err *err)
{
	CLEANUP(lm_freep) char *copy = strdup(socket);
	return copy ? lm_mkdir_p(AT_FDCWD, dirname(copy), 0700, err) : lm_err_oom(err);
}

int lm_control_new(const struct lm_control_config *config, struct lm_control **ret, struct lm_err *err)
{
	CLEANUP(lm_control_freep) struct lm_control *control = calloc(1, sizeof(*control));
	if (!control)
		return lm_err_oom(err);
	control->config = *config;
	int r = lm_resolver_new(&control->config, &control->resolver, err);
	if (r == 0)
		r = make_socket_dir(config->socket, err);
	if (r == 0)
		r = lm_rpc_server_new(
			config->socket, methods, ARRAY_LEN(methods), control, WORKERS, &control->server, err);
	if (r < 0)
		return lm_err_prefix(err, r, "control socket");
	*ret = STEAL(control);
	return 0;
}

void lm_control_stop(struct lm_control *control)
{
	if (!control || !control->server)
		return;
	lm_resolver_stop(control->resolver);
	lm_rpc_server_free(STEAL(control->server));
}

void lm_control_free(struct lm_control *control)
{
	if (!control)
		return;
	lm_control_stop(control);
	lm_resolver_free(control->resolver);
	free(control);
}
