#include "fetcher/control.h"

#include "base/file.h"
#include "fetcher/cache_control.h"
#include "fetcher/resolve.h"
#include "fetcher/status.h"
#include "rpc/rpc.h"

#include <stdatomic.h>
#include <string.h>

#define SERVICE "/lamella.fetcher.v1.Fetcher/"
enum { WORKERS = 4, LANE_WAITING = 1 };

typedef Lamella__Fetcher__V1__RepositoryStatus RepositoryStatus;
typedef Lamella__Fetcher__V1__StatusRequest StatusRequest;
typedef Lamella__Fetcher__V1__StatusResponse StatusResponse;
typedef Lamella__Fetcher__V1__UpdateRequest UpdateRequest;
typedef Lamella__Fetcher__V1__UpdateResponse UpdateResponse;
typedef Lamella__Fetcher__V1__UpdateResult UpdateResult;

struct lm_control {
	struct lm_control_config config;
	struct lm_rpc_server *server;
	struct lm_resolver *resolver;
};

/* Status and Update. */

static void handle_status(struct lm_rpc_call *call, void *service)
{
	struct lm_control *control = service;
	const StatusRequest *request = (const StatusRequest *)lm_rpc_request(call);
	CLEANUP(lm_status_freep) StatusResponse *status = lm_status_new(&control->config, request->layers);
	if (!status)
		lm_rpc_fail(call, LM_RPC_RESOURCE_EXHAUSTED, "out of memory");
	else
		lm_rpc_reply(call, &status->base);
}

/* An Update call: the repositories it is about look all at the same time. */
struct update {
	struct lm_control *control;
	struct lm_rpc_call *call;
	UpdateResponse *response;
	size_t *indices; /* of the repositories in response, in its order */
	_Atomic(unsigned) waiting;
};

static void update_free(struct update *update)
{
	if (!update)
		return;
	if (update->response)
		protobuf_c_message_free_unpacked(&update->response->base, NULL);
	free(update->indices);
	free(update);
}
LM_DEFINE_CLEANUP(struct update, update_free, update_freep)

static bool is_asked_for(const UpdateRequest *request, const struct lm_repository *repository)
{
	return !*request->fqrn || strcmp(request->fqrn, lm_repository_fqrn(repository)) == 0;
}

/* With the revisions as they are before. */
static struct update *update_new(struct lm_control *control, struct lm_rpc_call *call)
{
	const struct lm_control_config *config = &control->config;
	struct lm_message_builder b = {0};
	CLEANUP(update_freep) struct update *update = calloc(1, sizeof(*update));
	if (!update)
		return NULL;
	update->control = control;
	update->call = call;
	update->indices = calloc(config->repository_count + 1, sizeof(*update->indices));
	UpdateResponse *m = update->response = lm_message_new(&b, &lamella__fetcher__v1__update_response__descriptor);
	for (size_t i = 0; i < config->repository_count && !b.failed && update->indices; i++) {
		struct lm_repository *repository = config->repositories[i];
		if (!is_asked_for((const UpdateRequest *)lm_rpc_request(call), repository))
			continue;
		update->indices[m->n_results] = i;
		UpdateResult *result = lm_message_add(
			&b, &lamella__fetcher__v1__update_result__descriptor, &m->results, &m->n_results);
		if (!result)
			break;
		struct lm_repository_status status;
		lm_repository_status(repository, &status);
		result->old_revision = status.revision;
		lm_message_text(&b, &result->fqrn, lm_repository_fqrn(repository));
	}
	return b.failed || !update->indices ? NULL : STEAL(update);
}

/* The revisions as they are after. */
static bool finish_results(struct update *update)
{
	struct lm_message_builder b = {0};
	UpdateResponse *m = update->response;
	m->repositories = calloc(m->n_results + 1, sizeof(RepositoryStatus *));
	for (size_t i = 0; i < m->n_results && m->repositories; i++) {
		RepositoryStatus *r = lm_status_repository_new(&update->control->config, update->indices[i]);
		if (!r)
			return false;
		m->repositories[m->n_repositories++] = r;
		m->results[i]->new_revision = r->revision;
		lm_message_text(&b, &m->results[i]->error, r->last_error);
	}
	return m->repositories && !b.failed;
}

static void update_looked(void *arg)
{
	struct update *update = arg;
	if (atomic_fetch_sub(&update->waiting, 1) != 1)
		return;
	if (finish_results(update))
		lm_rpc_reply(update->call, &update->response->base);
	else
		lm_rpc_fail(update->call, LM_RPC_RESOURCE_EXHAUSTED, "out of memory");
	update_free(update);
}

static void handle_update(struct lm_rpc_call *call, void *service)
{
	struct lm_control *control = service;
	struct update *update = update_new(control, call);
	if (!update) {
		lm_rpc_fail(call, LM_RPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	size_t count = update->response->n_results;
	const char *fqrn = ((const UpdateRequest *)lm_rpc_request(call))->fqrn;
	if (count == 0 && *fqrn) {
		lm_rpc_fail(call, LM_RPC_NOT_FOUND, "no repository %s is configured", fqrn);
		update_free(update);
		return;
	}
	atomic_store(&update->waiting, (unsigned)count + 1); /* one is ours, until all looks are asked for */
	for (size_t i = 0; i < count; i++) {
		struct lm_repository *repository = control->config.repositories[update->indices[i]];
		if (lm_repository_look(repository, true, update_looked, update) < 0)
			update_looked(update);
	}
	update_looked(update);
}

/* The service. */

static void handle_resolve(struct lm_rpc_call *call, void *service)
{
	struct lm_control *control = service;
	lm_resolver_handle(control->resolver, call);
}

/* The cache: what may wait for the network or the disk is handled in a lane of its own. */

static void handle_pin(struct lm_rpc_call *call, void *service)
{
	lm_control_pin(call, ((struct lm_control *)service)->config.pins);
}

static void handle_unpin(struct lm_rpc_call *call, void *service)
{
	lm_control_unpin(call, ((struct lm_control *)service)->config.pins);
}

static void handle_pins(struct lm_rpc_call *call, void *service)
{
	const struct lm_control *control = service;
	lm_control_pins(call, control->config.pins, control->config.cache);
}

static void handle_clear(struct lm_rpc_call *call, void *service)
{
	lm_control_clear(call, ((struct lm_control *)service)->config.cache);
}

static void handle_verify(struct lm_rpc_call *call, void *service)
{
	lm_control_verify(call, ((struct lm_control *)service)->config.cache);
}

static const struct lm_rpc_method methods[] = {
	{SERVICE "Pin", &lamella__fetcher__v1__pin_request__descriptor, handle_pin, LANE_WAITING},
	{SERVICE "Unpin", &lamella__fetcher__v1__pin_request__descriptor, handle_unpin, LANE_WAITING},
	{SERVICE "Pins", &lamella__fetcher__v1__pins_request__descriptor, handle_pins, 0},
	{SERVICE "ClearCache", &lamella__fetcher__v1__clear_cache_request__descriptor, handle_clear, LANE_WAITING},
	{SERVICE "VerifyCache", &lamella__fetcher__v1__verify_cache_request__descriptor, handle_verify, LANE_WAITING},
	{SERVICE "Resolve", &lamella__fetcher__v1__resolve_request__descriptor, handle_resolve, 0},
	{SERVICE "Status", &lamella__fetcher__v1__status_request__descriptor, handle_status, 0},
	{SERVICE "Update", &lamella__fetcher__v1__update_request__descriptor, handle_update, 0},
};

int lm_control_new(const struct lm_control_config *config, struct lm_control **ret, struct lm_err *err)
{
	CLEANUP(lm_control_freep) struct lm_control *control = calloc(1, sizeof(*control));
	if (!control)
		return lm_err_oom(err);
	control->config = *config;
	int r = lm_resolver_new(&control->config, &control->resolver, err);
	if (r == 0)
		r = lm_mkdir_above(AT_FDCWD, config->socket, 0700, err);
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
