#include "fetcher/status.h"

#include "base/clock.h"
#include "base/str.h"
#include "fetcher/control.h"
#include "fetcher/layers.h"

#include <inttypes.h>
#include <string.h>

typedef Lamella__Fetcher__V1__StatusResponse StatusResponse;
typedef Lamella__Fetcher__V1__RepositoryStatus RepositoryStatus;
typedef Lamella__Fetcher__V1__CacheStatus CacheStatus;
typedef Lamella__Fetcher__V1__Problem Problem;
#define TYPE(name) (&lamella__fetcher__v1__##name##__descriptor)
#define STATE(name) LAMELLA__FETCHER__V1__REPOSITORY_STATE__REPOSITORY_##name

enum { TEXT_MAX = 4096 };

/* Messages. */

void *lm_message_new(struct lm_message_builder *builder, const ProtobufCMessageDescriptor *type)
{
	ProtobufCMessage *message = calloc(1, type->sizeof_message);
	if (message)
		protobuf_c_message_init(type, message);
	builder->failed |= !message;
	return message;
}

void *lm_message_append(
	struct lm_message_builder *builder, const ProtobufCMessageDescriptor *type, void ***array, size_t *count)
{
	void *message = lm_message_new(builder, type);
	void **longer = message ? reallocarray(*array, *count + 1, sizeof(void *)) : NULL;
	if (!longer) {
		free(message);
		builder->failed = true;
		return NULL;
	}
	*array = longer;
	longer[(*count)++] = message;
	return message;
}

void lm_message_text(struct lm_message_builder *builder, char **field, const char *text)
{
	if (!text || !*text)
		return;
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(TEXT_MAX);
	int r = 0;
	for (const unsigned char *c = (const unsigned char *)text; *c && r == 0; c++)
		r = *c >= ' ' && *c < 0x7f ? lm_buf_append(&out, c, 1) : lm_buf_printf(&out, "\\x%02x", *c);
	char *copy = (char *)lm_buf_steal(&out, NULL); /* longer text is cut */
	builder->failed |= !copy;
	if (copy)
		*field = copy;
}

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

static void fill_network(RepositoryStatus *m, const struct lm_repository_status *s)
{
	m->requests = s->origin.requests;
	m->failed_requests = s->origin.failed;
	m->bytes_fetched = s->origin.bytes;
	m->files_fetched = s->fetch.files;
	m->catalogs_fetched = s->fetch.catalogs;
	m->failed_objects = s->fetch.failed;
}

static void fill_repository(
	struct lm_message_builder *b, const struct lm_control_config *config, size_t index, RepositoryStatus *m)
{
	const struct lm_control_repository *served = &config->repositories[index];
	struct lm_repository_status s;
	lm_repository_status(served->repository, &s);
	lm_message_text(b, &m->fqrn, lm_repository_fqrn(served->repository));
	if (config->is_mounted(config->arg, index))
		lm_message_text(b, &m->mountpoint, served->mountpoint);
	if (s.root.set)
		lm_message_text(b, &m->root_hash, lm_hash_text(&s.root).s);
	lm_message_text(b, &m->last_error, s.last_error.msg);
	lm_message_text(b, &m->fixed, s.pin);
	fill_looks(m, &s, lm_now_ms());
	fill_network(m, &s);
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
		CLEANUP(lm_freep) char *what = lm_str_printf("the cache's disk is %s: served from memory", cache->state);
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

StatusResponse *lm_status_new(const struct lm_control_config *config, bool layers)
{
	struct lm_message_builder b = {0};
	StatusResponse *m = lm_message_new(&b, TYPE(status_response));
	if (!m)
		return NULL;
	lm_message_text(&b, &m->version, LM_VERSION);
	m->process = (uint64_t)getpid();
	m->uptime_ms = age_ms(lm_now_ms(), config->started_ms);
	m->started_s = (uint64_t)lm_wall_s() - m->uptime_ms / 1000;
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
