#include "fetcher/status.h"

#include "base/clock.h"
#include "base/str.h"
#include "base/version.h"
#include "fetcher/control.h"
#include "fetcher/fuse.h"
#include "fetcher/keeper.h"
#include "fetcher/layers.h"
#include "fetcher/session.h"

#include <inttypes.h>
#include <string.h>

typedef Lamella__Fetcher__V1__StatusResponse StatusResponse;
typedef Lamella__Fetcher__V1__RepositoryStatus RepositoryStatus;
typedef Lamella__Fetcher__V1__CacheStatus CacheStatus;
typedef Lamella__Fetcher__V1__Problem Problem;
typedef Lamella__Fetcher__V1__Host Host;
typedef Lamella__Fetcher__V1__Download Download;
typedef Lamella__Fetcher__V1__SlowObject SlowObject;
typedef Lamella__Fetcher__V1__KernelRequests KernelRequests;
#define TYPE(name) (&lamella__fetcher__v1__##name##__descriptor)
#define STATE(name) LAMELLA__FETCHER__V1__REPOSITORY_STATE__REPOSITORY_##name

enum { WORKER_MASK = (1 << 24) - 1 };

/* A repository. */

static unsigned state_of(const struct lm_repository_status *s)
{
	switch (s->state) {
	case LM_REPOSITORY_STARTING:
		return STATE(STARTING);
	case LM_REPOSITORY_FAILED:
		return STATE(FAILED);
	case LM_REPOSITORY_ONLINE:
		return STATE(ONLINE);
	case LM_REPOSITORY_OFFLINE:
		return STATE(OFFLINE);
	case LM_REPOSITORY_RECORDED:
		return STATE(RECORDED);
	}
	return STATE(UNSPECIFIED);
}

static uint64_t age_ms(int64_t now_ms, int64_t then_ms)
{
	return (uint64_t)LM_MAX(now_ms - then_ms, 0);
}

static void fill_looks(RepositoryStatus *m, const struct lm_repository_status *s, int64_t now_ms)
{
	m->state = state_of(s);
	m->offline = s->offline;
	m->state_age_ms = age_ms(now_ms, s->state_since_ms);
	m->next_look_ms = s->next_look_ms ? age_ms(s->next_look_ms, now_ms) : 0;
	m->looks = s->looks;
	m->failed_looks = s->failed_looks;
	m->revision = s->revision;
	m->ttl_s = s->ttl_s;
}

struct filling { /* of one list, by callbacks */
	struct lm_message_builder *b;
	RepositoryStatus *m;
	int64_t now_ms;
};

static void add_host(void *arg, const struct lm_origin_place *place)
{
	static const Lamella__Fetcher__V1__HostState states[] = {
		[LM_ORIGIN_IN_USE] = LAMELLA__FETCHER__V1__HOST_STATE__HOST_IN_USE,
		[LM_ORIGIN_STANDBY] = LAMELLA__FETCHER__V1__HOST_STATE__HOST_STANDBY,
		[LM_ORIGIN_BURNED] = LAMELLA__FETCHER__V1__HOST_STATE__HOST_BURNED,
	};
	struct filling *f = arg;
	RepositoryStatus *m = f->m;
	Host *host = place->proxy ? lm_message_add(f->b, TYPE(host), &m->proxies, &m->n_proxies)
				  : lm_message_add(f->b, TYPE(host), &m->servers, &m->n_servers);
	if (!host)
		return;
	lm_message_text(f->b, &host->url, place->url);
	if (place->proxy && strcmp(place->name, place->url) != 0)
		lm_message_text(f->b, &host->name, place->name);
	host->group = place->group;
	host->fallback = place->fallback;
	host->state = states[place->state];
	host->burned_ms = place->state == LM_ORIGIN_BURNED ? place->burned_ms : 0;
	host->requests = place->requests;
	host->failed_requests = place->failed;
	host->bytes = place->bytes;
	if (!*place->error)
		return;
	lm_message_text(f->b, &host->last_error, place->error);
	host->last_error_age_ms = age_ms(f->now_ms, place->error_ms);
}

static void put_object(struct lm_message_builder *b, char **field, const struct lm_object_ref *ref)
{
	char path[LM_OBJECT_PATH_MAX];
	lm_message_text(b, field, lm_object_path(&ref->hash, ref->kind, path));
}

static void add_download(void *arg, const struct lm_fetch_download *download)
{
	struct filling *f = arg;
	Download *m = lm_message_add(f->b, TYPE(download), &f->m->downloads, &f->m->n_downloads);
	if (!m)
		return;
	put_object(f->b, &m->object, &download->ref);
	m->age_ms = (uint64_t)LM_MAX(download->age_ms, 0);
	m->bytes = download->bytes;
	m->waiters = download->waiters;
}

static int by_age(const void *a, const void *b)
{
	uint64_t x = (*(Download *const *)a)->age_ms, y = (*(Download *const *)b)->age_ms;
	return x < y ? 1 : x > y ? -1 : 0;
}

static void fill_lists(struct lm_message_builder *b, struct lm_repository *repository, RepositoryStatus *m)
{
	struct filling f = {.b = b, .m = m, .now_ms = lm_now_ms()};
	struct lm_fetch *fetch = lm_repository_fetch(repository);
	struct lm_fetch_slow slowest[LM_FETCH_SLOWEST];
	if (lm_origin_describe(lm_repository_origin(repository), add_host, &f) < 0 ||
		lm_fetch_describe(fetch, add_download, &f) < 0)
		b->failed = true;
	if (m->n_downloads > 1)
		qsort(m->downloads, m->n_downloads, sizeof(*m->downloads), by_age);
	size_t count = lm_fetch_slowest(fetch, slowest);
	for (size_t i = 0; i < count; i++) {
		SlowObject *slow = lm_message_add(b, TYPE(slow_object), &m->slowest, &m->n_slowest);
		if (!slow)
			return;
		put_object(b, &slow->object, &slowest[i].ref);
		slow->took_ms = (uint64_t)slowest[i].took_ms;
		slow->age_ms = (uint64_t)LM_MAX(slowest[i].ago_ms, 0);
		slow->failed = slowest[i].code < 0;
	}
}

static void fill_kernel(
	struct lm_message_builder *b, const struct lm_control_config *config, size_t index, RepositoryStatus *m)
{
	struct lm_fuse_stats s;
	struct lm_session_stats session;
	config->fuse_stats(config->arg, index, &s, &session);
	m->kernel_waiting = s.waiting;
	m->kernel_interrupted = s.interrupted;
	m->kernel_starved = s.famines;
	m->kernel_taken_over = session.replayed;
	for (unsigned kind = 0; kind < LM_REQUEST_KINDS; kind++) {
		KernelRequests *k =
			lm_message_add(b, TYPE(kernel_requests), &m->kernel_requests, &m->n_kernel_requests);
		if (!k)
			return;
		lm_message_text(b, &k->kind, lm_request_name(kind));
		k->answered = s.requests[kind].answered;
		k->failed = s.requests[kind].failed;
		k->time_us = s.requests[kind].ns / 1000;
	}
}

static void fill_fetch(struct lm_message_builder *b, RepositoryStatus *m, const struct lm_fetch_stats *s)
{
	m->files_fetched = s->files;
	m->catalogs_fetched = s->catalogs;
	m->failed_objects = s->failed;
	if (s->last_failure.code < 0) {
		put_object(b, &m->last_failed_object, &s->last_failure.ref);
		lm_message_text(b, &m->last_failure, lm_err_text(&s->last_failure.err));
		m->last_failure_age_ms = (uint64_t)LM_MAX(s->last_failure.ago_ms, 0);
	}
	m->content_bytes = s->bytes;
	m->joined_downloads = s->merged;
	m->refused_wishes = s->refused;
	m->timeouts = s->timeouts;
	m->ahead = s->ahead;
	m->ahead_used = s->ahead_used;
	m->fetch_time_ms = s->latency_ms;
	m->fetch_times = calloc(LM_FETCH_LATENCIES, sizeof(*m->fetch_times));
	b->failed |= !m->fetch_times;
	for (; m->fetch_times && m->n_fetch_times < LM_FETCH_LATENCIES; m->n_fetch_times++)
		m->fetch_times[m->n_fetch_times] = s->latency[m->n_fetch_times];
}

static void fill_network(RepositoryStatus *m, const struct lm_repository_status *s)
{
	m->requests = s->origin.requests;
	m->failed_requests = s->origin.failed;
	m->bytes_fetched = s->origin.bytes;
	m->given_up_requests = s->origin.given_up;
	m->failovers = s->origin.failovers;
	m->past_caches = s->origin.past_caches;
}

static void fill_repository(
	struct lm_message_builder *b, const struct lm_control_config *config, size_t index, RepositoryStatus *m)
{
	struct lm_repository *repository = config->repositories[index];
	const char *mountpoint = config->mounted_at(config->arg, index, false);
	struct lm_repository_status s;
	lm_repository_status(repository, &s);
	lm_message_text(b, &m->fqrn, lm_repository_fqrn(repository));
	if (mountpoint)
		lm_message_text(b, &m->mountpoint, mountpoint);
	if (s.root.set)
		lm_message_text(b, &m->root_hash, lm_hash_text(&s.root).s);
	lm_message_text(b, &m->last_error, s.last_error.msg);
	lm_message_text(b, &m->fixed, s.pin);
	fill_looks(m, &s, lm_now_ms());
	fill_network(m, &s);
	fill_fetch(b, m, &s.fetch);
	fill_kernel(b, config, index, m);
	fill_lists(b, repository, m);
}

RepositoryStatus *lm_status_repository_new(const struct lm_control_config *config, size_t index)
{
	struct lm_message_builder b = {0};
	RepositoryStatus *m = lm_message_new(&b, TYPE(repository_status));
	if (m)
		fill_repository(&b, config, index, m);
	if (m && b.failed) {
		protobuf_c_message_free_unpacked(&m->base, NULL);
		return NULL;
	}
	return m;
}

/* The node. */

static void fill_cache(struct lm_message_builder *b, const struct lm_control_config *config, StatusResponse *m)
{
	struct lm_cache_stats s;
	CacheStatus *cache = m->cache = lm_message_new(b, TYPE(cache_status));
	if (!cache)
		return;
	lm_cache_stats(config->cache, &s);
	m->cache_bytes = cache->bytes = s.bytes;
	m->cache_objects = cache->objects = s.objects;
	cache->counting = s.counting;
	cache->uncached = s.uncached;
	cache->quota = s.quota;
	cache->capacity = s.capacity;
	cache->reserve = s.reserve;
	cache->free = s.free;
	cache->running = s.running;
	cache->memory = s.memory;
	cache->index_memory = s.index_memory;
	cache->kept_bytes = s.kept_bytes;
	cache->pinned = s.pinned;
	cache->layers_in_use = s.layers_in_use;
	cache->hits = s.hits;
	cache->misses = s.misses;
	cache->commits = s.commits;
	cache->evicted = s.evicted;
	cache->evicted_bytes = s.evicted_bytes;
	cache->refetched = s.refetched;
	cache->refetched_bytes = s.refetched_bytes;
	cache->refetch_percent = s.refetch_percent;
	cache->thrashing = s.thrashing;
	cache->verified = s.verified;
	cache->damaged = s.damaged;
	cache->faults = s.faults;
	cache->leads = s.leads;
	cache->unclean = s.unclean;
	lm_message_text(b, &cache->state, lm_cache_state_text(s.state));
	lm_message_text(b, &cache->state_cause, s.state == LM_CACHE_WORKS ? "" : strerror(-s.state_errno));
	lm_message_text(b, &cache->directory, lm_cache_dir(config->cache));
}

static void add_problem(struct lm_message_builder *b, StatusResponse *m, const char *repository, bool degraded,
	const char *what, const char *cause)
{
	Problem *problem = lm_message_add(b, TYPE(problem), &m->problems, &m->n_problems);
	if (!problem)
		return;
	CLEANUP(lm_freep) char *text = lm_str_printf("%s%s%s", what, *cause ? ": " : "", cause);
	problem->degraded = degraded;
	lm_message_text(b, &problem->repository, repository);
	lm_message_text(b, &problem->what, text);
	b->failed |= !text;
}

static void find_cache_problems(struct lm_message_builder *b, StatusResponse *m, const CacheStatus *cache)
{
	if (*cache->state_cause) {
		CLEANUP(lm_freep)
		char *what = lm_str_printf("the cache's disk is %s: served from memory", cache->state);
		add_problem(b, m, "", true, what ? what : "the cache's disk fails", cache->state_cause);
	}
	if (cache->thrashing)
		add_problem(b, m, "", true, "the cache is too small: it evicts what is soon fetched again", "");
}

static void find_repository_problems(struct lm_message_builder *b, StatusResponse *m, const RepositoryStatus *r)
{
	switch (r->state) {
	case STATE(STARTING):
		add_problem(b, m, r->fqrn, false, "starting", "");
		return;
	case STATE(FAILED):
		add_problem(b, m, r->fqrn, false, "no trusted root", r->last_error);
		return;
	case STATE(OFFLINE):
		add_problem(b, m, r->fqrn, true, "offline", r->last_error);
		break;
	default:
		break;
	}
	if (!*r->mountpoint)
		add_problem(b, m, r->fqrn, false, "not mounted", "");
}

static void fill_worker(struct lm_message_builder *b, const struct lm_control_config *config, StatusResponse *m)
{
	struct lm_keeper_facts facts;
	lm_keeper_facts(config->keeper, &facts);
	m->process = (uint64_t)getpid();
	m->uptime_ms = age_ms(lm_now_ms(), config->started_ms);
	m->started_s = (uint64_t)lm_wall_s() - m->uptime_ms / 1000;
	m->worker = facts.worker & WORKER_MASK; /* above it is the keeper's start, in the same number */
	m->worker_restarts = facts.restarts;
	m->keeper_started_s = facts.worker ? (uint64_t)facts.keeper_start_s : m->started_s;
	lm_message_text(b, &m->worker_last_end, facts.last_end);
}

StatusResponse *lm_status_new(const struct lm_control_config *config, bool layers)
{
	struct lm_message_builder b = {0};
	StatusResponse *m = lm_message_new(&b, TYPE(status_response));
	if (!m)
		return NULL;
	lm_message_text(&b, &m->version, LM_VERSION);
	fill_worker(&b, config, m);
	fill_cache(&b, config, m);
	if (m->cache && !b.failed)
		find_cache_problems(&b, m, m->cache);
	lm_layers_describe(config->layers, layers, &b, m);
	for (size_t i = 0; i < config->repository_count; i++) {
		RepositoryStatus *r = lm_message_add(&b, TYPE(repository_status), &m->repositories, &m->n_repositories);
		if (!r)
			break;
		fill_repository(&b, config, i, r);
		find_repository_problems(&b, m, r);
	}
	if (b.failed)
		lm_status_freep(&m);
	return m;
}

void lm_status_free(StatusResponse *status)
{
	if (status)
		protobuf_c_message_free_unpacked(&status->base, NULL);
}

bool lm_status_is_healthy(const StatusResponse *status)
{
	for (size_t i = 0; i < status->n_problems; i++)
		if (!status->problems[i]->degraded)
			return false;
	return true;
}
