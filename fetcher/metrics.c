#include "fetcher/metrics.h"

#include "net/exposition.h"

#include <inttypes.h>

#define PREFIX "lamella_fetcher"

typedef Lamella__Fetcher__V1__StatusResponse StatusResponse;
typedef Lamella__Fetcher__V1__RepositoryStatus RepositoryStatus;
typedef Lamella__Fetcher__V1__CacheStatus CacheStatus;
typedef Lamella__Fetcher__V1__Count Count;
typedef Lamella__Fetcher__V1__Host Host;
typedef Lamella__Fetcher__V1__KernelRequests KernelRequests;
#define STATE(name) LAMELLA__FETCHER__V1__REPOSITORY_STATE__REPOSITORY_##name

/* What a metric is about: the message its value stands in, and the labels that tell its instances apart. */
enum scope { INFO, NODE, CACHE, REPOSITORY, KERNEL, SERVER, PROXY, LAYER_ANSWERS, TREE_ANSWERS };

struct metric {
	const char *name;
	enum lm_exposition_kind kind;
	enum scope scope;
	const char *help;
	enum form {
		NUMBER,
		FLAG,
		MS,
		US,
		ONE,
		ONLINE,
		OFFLINE_MS,
		MOUNTED,
		IN_USE,
		FETCH_TIMES,
		DOWNLOADS
	} form; /* of the value */
	size_t offset;
};

#define AT(message, field) offsetof(message, field)
static const struct metric metrics[] = {
	{"info", LM_GAUGE, INFO, "Always 1; the version is a label.", ONE, 0},
	{"start_time_seconds", LM_GAUGE, NODE, "When the worker started, in seconds since the epoch.", NUMBER,
		AT(StatusResponse, started_s)},
	{"keeper_start_time_seconds", LM_GAUGE, NODE,
		"When the keeper started, in seconds since the epoch; without one, when the worker did.", NUMBER,
		AT(StatusResponse, keeper_started_s)},
	{"worker_restarts_total", LM_COUNTER, NODE,
		"Workers that ended without being asked to, since the keeper's start.", NUMBER,
		AT(StatusResponse, worker_restarts)},

	{"repository_online", LM_GAUGE, REPOSITORY,
		"1 when the last look for a new revision succeeded, else 0 (starting, recorded, failed or offline).",
		ONLINE, 0},
	{"repository_offline_seconds", LM_GAUGE, REPOSITORY,
		"How long the repository has been offline or failed; 0 when it is not.", OFFLINE_MS, 0},
	{"repository_mounted", LM_GAUGE, REPOSITORY, "1 when the repository is mounted, else 0.", MOUNTED, 0},
	{"repository_revision", LM_GAUGE, REPOSITORY, "The revision that is served; 0 before the first.", NUMBER,
		AT(RepositoryStatus, revision)},
	{"repository_ttl_seconds", LM_GAUGE, REPOSITORY, "How long a revision is taken to be current.", NUMBER,
		AT(RepositoryStatus, ttl_s)},
	{"repository_looks_total", LM_COUNTER, REPOSITORY, "Looks for a new revision.", NUMBER,
		AT(RepositoryStatus, looks)},
	{"repository_failed_looks_total", LM_COUNTER, REPOSITORY, "Looks for a new revision that failed.", NUMBER,
		AT(RepositoryStatus, failed_looks)},

	{"kernel_requests_total", LM_COUNTER, KERNEL, "Requests of the kernel that were answered.", NUMBER,
		AT(KernelRequests, answered)},
	{"kernel_failed_requests_total", LM_COUNTER, KERNEL,
		"Requests of the kernel that were answered with EIO or ENOMEM.", NUMBER, AT(KernelRequests, failed)},
	{"kernel_request_seconds_total", LM_COUNTER, KERNEL,
		"From receiving requests of the kernel to answering them, together.", US, AT(KernelRequests, time_us)},
	{"kernel_requests_waiting", LM_GAUGE, REPOSITORY, "Requests of the kernel that are not answered yet.", NUMBER,
		AT(RepositoryStatus, kernel_waiting)},
	{"kernel_interrupted_requests_total", LM_COUNTER, REPOSITORY,
		"Requests of the kernel whose callers were ended while they waited.", NUMBER,
		AT(RepositoryStatus, kernel_interrupted)},
	{"kernel_starved_requests_total", LM_COUNTER, REPOSITORY,
		"Requests of the kernel that had to wait for file descriptors.", NUMBER,
		AT(RepositoryStatus, kernel_starved)},
	{"kernel_taken_over_requests_total", LM_COUNTER, REPOSITORY,
		"Requests of the kernel that an earlier worker had left unanswered.", NUMBER,
		AT(RepositoryStatus, kernel_taken_over)},

	{"http_requests_total", LM_COUNTER, REPOSITORY, "HTTP requests on the wire, repeated ones counted again.",
		NUMBER, AT(RepositoryStatus, requests)},
	{"http_failed_requests_total", LM_COUNTER, REPOSITORY,
		"HTTP requests that failed; the next server or proxy may have answered.", NUMBER,
		AT(RepositoryStatus, failed_requests)},
	{"http_received_bytes_total", LM_COUNTER, REPOSITORY, "Bytes of bodies received, compressed as they come.",
		NUMBER, AT(RepositoryStatus, bytes_fetched)},
	{"http_given_up_requests_total", LM_COUNTER, REPOSITORY, "Wishes that no server could fulfil.", NUMBER,
		AT(RepositoryStatus, given_up_requests)},
	{"http_failovers_total", LM_COUNTER, REPOSITORY, "Changes to another server or proxy after a failure.", NUMBER,
		AT(RepositoryStatus, failovers)},
	{"http_past_caches_total", LM_COUNTER, REPOSITORY,
		"Requests that were repeated past all caches, since what came was damaged.", NUMBER,
		AT(RepositoryStatus, past_caches)},
	{"server_in_use", LM_GAUGE, SERVER, "1 for the server in use, else 0.", IN_USE, 0},
	{"server_requests_total", LM_COUNTER, SERVER, "HTTP requests to the server.", NUMBER, AT(Host, requests)},
	{"server_failed_requests_total", LM_COUNTER, SERVER, "HTTP requests to the server that failed.", NUMBER,
		AT(Host, failed_requests)},
	{"server_received_bytes_total", LM_COUNTER, SERVER, "Bytes of bodies received from the server.", NUMBER,
		AT(Host, bytes)},
	{"proxy_in_use", LM_GAUGE, PROXY, "1 for the proxies in use, else 0 (on standby, or failed lately).", IN_USE,
		0},
	{"proxy_requests_total", LM_COUNTER, PROXY, "HTTP requests through the proxy.", NUMBER, AT(Host, requests)},
	{"proxy_failed_requests_total", LM_COUNTER, PROXY, "HTTP requests through the proxy that failed.", NUMBER,
		AT(Host, failed_requests)},
	{"proxy_received_bytes_total", LM_COUNTER, PROXY, "Bytes of bodies received through the proxy.", NUMBER,
		AT(Host, bytes)},

	{"fetched_files_total", LM_COUNTER, REPOSITORY, "Files and pieces of files that were fetched.", NUMBER,
		AT(RepositoryStatus, files_fetched)},
	{"fetched_catalogs_total", LM_COUNTER, REPOSITORY, "Catalogs and tag databases that were fetched.", NUMBER,
		AT(RepositoryStatus, catalogs_fetched)},
	{"fetched_content_bytes_total", LM_COUNTER, REPOSITORY, "Bytes of the content of what was fetched.", NUMBER,
		AT(RepositoryStatus, content_bytes)},
	{"fetch_duration_seconds", LM_HISTOGRAM, REPOSITORY, "From the first wish for an object to its being there.",
		FETCH_TIMES, 0},
	{"downloads_running", LM_GAUGE, REPOSITORY, "Objects that are being fetched.", DOWNLOADS, 0},
	{"joined_downloads_total", LM_COUNTER, REPOSITORY, "Wishes for objects that were being fetched already.",
		NUMBER, AT(RepositoryStatus, joined_downloads)},
	{"refused_wishes_total", LM_COUNTER, REPOSITORY,
		"Wishes that failed at once, since the object had failed a moment before.", NUMBER,
		AT(RepositoryStatus, refused_wishes)},
	{"timeouts_total", LM_COUNTER, REPOSITORY, "Readers that waited too long.", NUMBER,
		AT(RepositoryStatus, timeouts)},
	{"ahead_objects_total", LM_COUNTER, REPOSITORY, "Objects that were fetched ahead of their readers.", NUMBER,
		AT(RepositoryStatus, ahead)},
	{"ahead_used_objects_total", LM_COUNTER, REPOSITORY, "Objects fetched ahead that were read then.", NUMBER,
		AT(RepositoryStatus, ahead_used)},
	{"failed_objects_total", LM_COUNTER, REPOSITORY,
		"Objects that no server could give, which readers see as an input/output error.", NUMBER,
		AT(RepositoryStatus, failed_objects)},
	{"last_failed_object_age_seconds", LM_GAUGE, REPOSITORY,
		"Since an object could last not be had; 0 when there was none.", MS,
		AT(RepositoryStatus, last_failure_age_ms)},

	{"cache_bytes", LM_GAUGE, CACHE, "Bytes of cached objects.", NUMBER, AT(CacheStatus, bytes)},
	{"cache_objects", LM_GAUGE, CACHE, "Cached objects.", NUMBER, AT(CacheStatus, objects)},
	{"cache_counting", LM_GAUGE, CACHE, "1 while what was cached at the start is still being counted, else 0.",
		FLAG, AT(CacheStatus, counting)},
	{"cache_uncached_objects_total", LM_COUNTER, CACHE,
		"Objects that were served from memory because there was no room for them.", NUMBER,
		AT(CacheStatus, uncached)},
	{"cache_quota_bytes", LM_GAUGE, CACHE, "Quota of the cache; 0: none.", NUMBER, AT(CacheStatus, quota)},
	{"cache_capacity_bytes", LM_GAUGE, CACHE, "Bytes that the cache may use now, by quota and reserve.", NUMBER,
		AT(CacheStatus, capacity)},
	{"cache_file_system_free_bytes", LM_GAUGE, CACHE, "Free bytes of the cache's file system, when last looked at.",
		NUMBER, AT(CacheStatus, free)},
	{"cache_running_bytes", LM_GAUGE, CACHE, "Bytes of running downloads, as if they were complete.", NUMBER,
		AT(CacheStatus, running)},
	{"cache_memory_bytes", LM_GAUGE, CACHE, "Bytes of objects in memory, since the disk did not take them.", NUMBER,
		AT(CacheStatus, memory)},
	{"cache_index_bytes", LM_GAUGE, CACHE, "Bytes of memory that knowing the objects takes.", NUMBER,
		AT(CacheStatus, index_memory)},
	{"cache_kept_bytes", LM_GAUGE, CACHE, "Bytes held by pins.", NUMBER, AT(CacheStatus, kept_bytes)},
	{"cache_pinned_objects", LM_GAUGE, CACHE, "Objects that can't be evicted since the process uses them.", NUMBER,
		AT(CacheStatus, pinned)},
	{"cache_layers_in_use", LM_GAUGE, CACHE, "Layers that running containers had mounted at the last eviction.",
		NUMBER, AT(CacheStatus, layers_in_use)},
	{"cache_hits_total", LM_COUNTER, CACHE, "Objects asked for that were cached.", NUMBER, AT(CacheStatus, hits)},
	{"cache_misses_total", LM_COUNTER, CACHE, "Objects asked for that were not.", NUMBER, AT(CacheStatus, misses)},
	{"cache_commits_total", LM_COUNTER, CACHE, "Objects that came into the cache.", NUMBER,
		AT(CacheStatus, commits)},
	{"cache_evicted_objects_total", LM_COUNTER, CACHE, "Evicted objects.", NUMBER, AT(CacheStatus, evicted)},
	{"cache_evicted_bytes_total", LM_COUNTER, CACHE, "Bytes of evicted objects.", NUMBER,
		AT(CacheStatus, evicted_bytes)},
	{"cache_refetched_objects_total", LM_COUNTER, CACHE, "Objects fetched again within an hour of their eviction.",
		NUMBER, AT(CacheStatus, refetched)},
	{"cache_refetched_bytes_total", LM_COUNTER, CACHE,
		"Bytes of objects fetched again within an hour of their eviction.", NUMBER,
		AT(CacheStatus, refetched_bytes)},
	{"cache_thrashing", LM_GAUGE, CACHE, "1 while much of what is fetched was evicted shortly before, else 0.",
		FLAG, AT(CacheStatus, thrashing)},
	{"cache_verified_objects_total", LM_COUNTER, CACHE, "Objects read against their checksums.", NUMBER,
		AT(CacheStatus, verified)},
	{"cache_damaged_objects_total", LM_COUNTER, CACHE, "Objects deleted since they were damaged.", NUMBER,
		AT(CacheStatus, damaged)},
	{"cache_faults_total", LM_COUNTER, CACHE, "Operations of the cache's disk that failed.", NUMBER,
		AT(CacheStatus, faults)},

	{"layer_answers_total", LM_COUNTER, LAYER_ANSWERS, "Answers to the question where a layer is.", NUMBER,
		AT(Count, count)},
	{"tree_answers_total", LM_COUNTER, TREE_ANSWERS,
		"Answers to the question where the merged tree of an image's layers is.", NUMBER, AT(Count, count)},
};

/* Printing. */

struct printer {
	struct lm_buf *out;
	const struct metric *metric;
	int code;
};

static int put_us(struct lm_buf *out, uint64_t us)
{
	return lm_buf_printf(out, " %" PRIu64 ".%06" PRIu64 "\n", us / 1000000, us % 1000000);
}

static int put_ms(struct lm_buf *out, uint64_t ms)
{
	return lm_buf_printf(out, " %" PRIu64 ".%03" PRIu64 "\n", ms / 1000, ms % 1000);
}

static int put_value(const struct printer *p, const void *message)
{
	const char *at = (const char *)message + p->metric->offset;
	const RepositoryStatus *repository = message; /* where the form says so */
	bool is_online = false;
	switch (p->metric->form) {
	case NUMBER:
		return lm_buf_printf(p->out, " %" PRIu64 "\n", *(const uint64_t *)at);
	case FLAG:
		return lm_buf_printf(p->out, " %d\n", *(const protobuf_c_boolean *)at != 0);
	case MS:
		return put_ms(p->out, *(const uint64_t *)at);
	case US:
		return put_us(p->out, *(const uint64_t *)at);
	case ONE:
		return lm_buf_str(p->out, " 1\n");
	case MOUNTED:
		return lm_buf_printf(p->out, " %d\n", *repository->mountpoint != '\0');
	case DOWNLOADS:
		return lm_buf_printf(p->out, " %zu\n", repository->n_downloads);
	case IN_USE:
		return lm_buf_printf(p->out, " %d\n",
			((const Host *)message)->state == LAMELLA__FETCHER__V1__HOST_STATE__HOST_IN_USE);
	case FETCH_TIMES:
		return -EINVAL; /* a histogram's samples have names of their own: put_histogram() */
	case ONLINE:
	case OFFLINE_MS:
		is_online = repository->state == STATE(ONLINE);
		break;
	}
	if (p->metric->form == ONLINE)
		return lm_buf_printf(p->out, " %d\n", is_online);
	bool looking = repository->state == STATE(STARTING) || repository->state == STATE(RECORDED);
	return put_ms(p->out, is_online || looking ? 0 : repository->state_age_ms);
}

static void put(struct printer *p, const void *message, const char *label, const char *value, const char *label2,
	const char *value2)
{
	if (p->code == 0)
		p->code = lm_exposition_name(p->out, PREFIX, p->metric->name, label, value, label2, value2);
	if (p->code == 0)
		p->code = put_value(p, message);
}

static void put_hosts(struct printer *p, const RepositoryStatus *r, const char *label, Host *const *hosts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		put(p, hosts[i], "repository", r->fqrn, label, hosts[i]->url);
}

/* Bucket i has what took less than 2^i ms, the last one everything else. */
static int put_histogram(struct printer *p, const RepositoryStatus *r)
{
	const char *name = p->metric->name;
	CLEANUP(lm_buf_done) struct lm_buf label = LM_BUF(4096);
	uint64_t sum = 0;
	int code = lm_exposition_label(&label, "repository", r->fqrn);
	for (size_t i = 0; i < r->n_fetch_times && code == 0; i++) {
		sum += r->fetch_times[i];
		uint64_t ms = (uint64_t)1 << i;
		code = lm_buf_printf(p->out, "lamella_fetcher_%s_bucket{%s,le=\"", name, lm_buf_cstr(&label));
		if (code == 0 && i + 1 < r->n_fetch_times)
			code = lm_buf_printf(p->out, "%" PRIu64 ".%03" PRIu64, ms / 1000, ms % 1000);
		else if (code == 0)
			code = lm_buf_str(p->out, "+Inf");
		if (code == 0)
			code = lm_buf_printf(p->out, "\"} %" PRIu64 "\n", sum);
	}
	if (code == 0)
		code = lm_buf_printf(p->out, "lamella_fetcher_%s_sum{%s}", name, lm_buf_cstr(&label));
	if (code == 0)
		code = put_ms(p->out, r->fetch_time_ms);
	if (code == 0)
		code = lm_buf_printf(
			p->out, "lamella_fetcher_%s_count{%s} %" PRIu64 "\n", name, lm_buf_cstr(&label), sum);
	return code;
}

static void put_repository(struct printer *p, const RepositoryStatus *r)
{
	switch (p->metric->scope) {
	case KERNEL:
		for (size_t i = 0; i < r->n_kernel_requests; i++)
			put(p, r->kernel_requests[i], "repository", r->fqrn, "kind", r->kernel_requests[i]->kind);
		break;
	case SERVER:
		put_hosts(p, r, "server", r->servers, r->n_servers);
		break;
	case PROXY:
		put_hosts(p, r, "proxy", r->proxies, r->n_proxies);
		break;
	default:
		if (p->metric->kind != LM_HISTOGRAM)
			put(p, r, "repository", r->fqrn, NULL, NULL);
		else if (p->code == 0)
			p->code = put_histogram(p, r);
	}
}

static void put_counts(struct printer *p, Count *const *counts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		put(p, counts[i], "state", counts[i]->name, NULL, NULL);
}

static void put_instances(struct printer *p, const StatusResponse *status)
{
	switch (p->metric->scope) {
	case INFO:
		put(p, status, "version", status->version, NULL, NULL);
		break;
	case NODE:
		put(p, status, NULL, NULL, NULL, NULL);
		break;
	case CACHE:
		put(p, status->cache, NULL, NULL, NULL, NULL);
		break;
	case REPOSITORY:
	case KERNEL:
	case SERVER:
	case PROXY:
		for (size_t i = 0; i < status->n_repositories; i++)
			put_repository(p, status->repositories[i]);
		break;
	case LAYER_ANSWERS:
		put_counts(p, status->layer_answers, status->n_layer_answers);
		break;
	case TREE_ANSWERS:
		put_counts(p, status->tree_answers, status->n_tree_answers);
		break;
	}
}

int lm_metrics_print(const StatusResponse *status, struct lm_buf *out)
{
	struct printer p = {.out = out};
	for (size_t i = 0; i < ARRAY_LEN(metrics) && p.code == 0; i++) {
		p.metric = &metrics[i];
		p.code = lm_exposition_head(out, PREFIX, p.metric->name, p.metric->kind, p.metric->help);
		put_instances(&p, status);
	}
	return p.code;
}
