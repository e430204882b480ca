/* `lamella status`: what lamella-fetcher and lamella-snapshotter say of themselves, on one screen or as JSON. */
#include "base/buf.h"
#include "commands.h"
#include "common.h"
#include "fetcher.h"
#include "rpc/json.h"
#include "rpc/rpc.h"
#include "snapshotter.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef Lamella__Fetcher__V1__StatusResponse StatusResponse;
typedef Lamella__Fetcher__V1__RepositoryStatus RepositoryStatus;
typedef Lamella__Fetcher__V1__LayerStatus LayerStatus;
typedef Lamella__Fetcher__V1__Problem Problem;
typedef Lamella__Fetcher__V1__CacheStatus CacheStatus;
typedef Lamella__Fetcher__V1__Host Host;
typedef Lamella__Fetcher__V1__Count Count;

typedef Lamella__Snapshotter__V1__StatusResponse SnapshotterStatus;

enum { LISTED_MAX = 3, JSON_MAX = 64 << 20 };

struct options {
	const char *socket, *snapshotter, *name;
	bool json, layers;
};

static unsigned percent(uint64_t part, uint64_t whole)
{
	return whole ? (unsigned)((double)part * 100 / (double)whole) : 0;
}

static void print_cache(const CacheStatus *c)
{
	printf("  cache     %s: %s", *c->directory ? c->directory : "?", lm_cli_size(c->bytes).s);
	if (c->capacity != UINT64_MAX)
		printf(" of %s", lm_cli_size(c->capacity).s);
	printf(" in %" PRIu64 " objects%s", c->objects, c->counting ? " (still counting)" : "");
	if (c->kept_bytes)
		printf(", %s held by pins", lm_cli_size(c->kept_bytes).s);
	printf("\n            %u%% of %" PRIu64 " wishes were there; %" PRIu64 " objects evicted",
		percent(c->hits, c->hits + c->misses), c->hits + c->misses, c->evicted);
	if (c->refetched)
		printf(", %" PRIu64 " of them fetched again", c->refetched);
	if (c->memory)
		printf("; %s in memory", lm_cli_size(c->memory).s);
	putchar('\n');
}

static uint64_t sum(Count *const *counts, size_t n, const char *name)
{
	uint64_t all = 0;
	for (size_t i = 0; i < n; i++)
		all += !name || strcmp(counts[i]->name, name) == 0 ? counts[i]->count : 0;
	return all;
}

/* What containers were offered here; which of them took it, the snapshotter says. */
static void print_trees(const StatusResponse *status)
{
	uint64_t asked = sum(status->tree_answers, status->n_tree_answers, NULL),
		 absent = sum(status->tree_answers, status->n_tree_answers, "absent"),
		 unavailable = sum(status->tree_answers, status->n_tree_answers, "unavailable");
	if (sum(status->layer_answers, status->n_layer_answers, NULL) == 0)
		return;
	if (asked == 0)
		printf("  trees     the snapshotter has asked for none\n");
	else
		printf("  trees     %" PRIu64 " of %" PRIu64 " were there, %" PRIu64 " are not published, %" PRIu64
		       " could not be looked up\n",
			asked - absent - unavailable, asked, absent, unavailable);
}

static void print_node(const StatusResponse *status)
{
	printf("lamella-fetcher %s, process %" PRIu64 ", up %s\n", status->version, status->process,
		lm_fetcher_duration(status->uptime_ms).s);
	if (status->worker)
		printf("  worker    %" PRIu64 ", %" PRIu64 " ended unasked%s%s\n", status->worker,
			status->worker_restarts, *status->worker_last_end ? ": " : "", status->worker_last_end);
	if (status->cache)
		print_cache(status->cache);
	print_trees(status);
}

static void print_looks(const RepositoryStatus *r)
{
	printf("\n%s: %s for %s", r->fqrn, lm_fetcher_state_name(r->state), lm_fetcher_duration(r->state_age_ms).s);
	if (r->revision)
		printf(", revision %" PRIu64, r->revision);
	if (*r->fixed)
		printf(", fixed by %s", r->fixed);
	putchar('\n');
	printf("  mounted   %s\n", *r->mountpoint ? r->mountpoint : "no");
	if (*r->root_hash)
		printf("  root      %s\n", r->root_hash);
	if (*r->fixed && r->next_look_ms == 0)
		return;
	printf("  looks     %" PRIu64, r->looks);
	if (r->failed_looks)
		printf(" (%" PRIu64 " failed)", r->failed_looks);
	if (r->next_look_ms)
		printf(", the next in %s", lm_fetcher_duration(r->next_look_ms).s);
	else
		printf(", one under way");
	printf("; time to live %" PRIu64 " s\n", r->ttl_s);
}

static void print_host(const char *kind, const Host *host)
{
	printf("  %-9s %s", kind, host->url);
	if (*host->name)
		printf(" (%s)", host->name);
	if (host->fallback)
		printf(", fallback");
	switch (host->state) {
	case LAMELLA__FETCHER__V1__HOST_STATE__HOST_IN_USE:
		printf(", in use");
		break;
	case LAMELLA__FETCHER__V1__HOST_STATE__HOST_BURNED:
		printf(", failed, left alone for %s", lm_fetcher_duration(host->burned_ms).s);
		break;
	default:
		printf(", on standby");
	}
	printf("; %" PRIu64 " requests", host->requests);
	if (host->failed_requests)
		printf(", %" PRIu64 " failed", host->failed_requests);
	putchar('\n');
	if (*host->last_error)
		printf("            %s ago: %s\n", lm_fetcher_duration(host->last_error_age_ms).s, host->last_error);
}

static void print_kernel(const RepositoryStatus *r)
{
	uint64_t answered = 0, failed = 0;
	for (size_t i = 0; i < r->n_kernel_requests; i++) {
		answered += r->kernel_requests[i]->answered;
		failed += r->kernel_requests[i]->failed;
	}
	printf("  kernel    %" PRIu64 " requests", answered);
	const char *before = " (";
	for (size_t i = 0; i < r->n_kernel_requests; i++) {
		if (r->kernel_requests[i]->answered == 0)
			continue;
		printf("%s%" PRIu64 " %s", before, r->kernel_requests[i]->answered, r->kernel_requests[i]->kind);
		before = ", ";
	}
	printf("%s, %" PRIu64 " waiting", *before == ',' ? ")" : "", r->kernel_waiting);
	if (failed)
		printf(", %" PRIu64 " failed", failed);
	putchar('\n');
}

/* The longest-running and the slowest; --json has all of them. */
static void print_objects(const RepositoryStatus *r)
{
	for (size_t i = 0; i < r->n_downloads && i < LISTED_MAX; i++)
		printf("  fetching  %s for %s, %s so far, %" PRIu64 " wait\n", r->downloads[i]->object,
			lm_fetcher_duration(r->downloads[i]->age_ms).s, lm_cli_size(r->downloads[i]->bytes).s,
			r->downloads[i]->waiters);
	if (r->n_downloads > LISTED_MAX)
		printf("            and %zu more\n", r->n_downloads - LISTED_MAX);
	for (size_t i = 0; i < r->n_slowest && i < LISTED_MAX; i++)
		printf("  slowest   %s took %s%s, %s ago\n", r->slowest[i]->object,
			lm_fetcher_duration(r->slowest[i]->took_ms).s, r->slowest[i]->failed ? " and failed" : "",
			lm_fetcher_duration(r->slowest[i]->age_ms).s);
}

static void print_network(const RepositoryStatus *r)
{
	for (size_t i = 0; i < r->n_servers; i++)
		print_host("server", r->servers[i]);
	for (size_t i = 0; i < r->n_proxies; i++)
		print_host("proxy", r->proxies[i]);
	printf("  fetched   %" PRIu64 " files, %" PRIu64 " catalogs; %s in %" PRIu64 " requests", r->files_fetched,
		r->catalogs_fetched, lm_cli_size(r->bytes_fetched).s, r->requests);
	if (r->failed_requests)
		printf(", %" PRIu64 " failed", r->failed_requests);
	if (r->failed_objects)
		printf("; %" PRIu64 " objects could not be had", r->failed_objects);
	putchar('\n');
	if (*r->last_failed_object)
		printf("  failed    %s, %s ago: %s\n", r->last_failed_object,
			lm_fetcher_duration(r->last_failure_age_ms).s, r->last_failure);
}

static void print_layers(const StatusResponse *status, const char *name)
{
	printf("\nlayers asked for lately\n");
	for (size_t i = 0; i < status->n_layers; i++) {
		const LayerStatus *l = status->layers[i];
		static const char *const names[] = {"?", "faithful", "lossy", "absent", "unavailable"};
		if (name && *l->repository && strcmp(name, l->repository) != 0)
			continue;
		printf("  %s %s, %s ago", l->digest, (size_t)l->state < ARRAY_LEN(names) ? names[l->state] : "?",
			lm_fetcher_duration(l->age_ms).s);
		if (*l->repository)
			printf(", %s revision %" PRIu64, l->repository, l->revision);
		printf("%s%s\n", *l->reason ? ": " : "", l->reason);
	}
}

static void print_problems(const StatusResponse *status)
{
	if (status->n_problems > 0)
		printf("\nproblems\n");
	for (size_t i = 0; i < status->n_problems; i++) {
		const Problem *p = status->problems[i];
		printf("  %s%s%s\n", p->repository, *p->repository ? ": " : "", p->what);
	}
}

static void print_status(const StatusResponse *status, const struct options *o)
{
	print_node(status);
	for (size_t i = 0; i < status->n_repositories; i++) {
		print_looks(status->repositories[i]);
		print_network(status->repositories[i]);
		print_kernel(status->repositories[i]);
		print_objects(status->repositories[i]);
	}
	if (o->layers)
		print_layers(status, o->name);
	print_problems(status);
}

/* Leaves only what is about repository `name`, and about the node. -ENOENT: there is no such repository. */
static int pick(StatusResponse *status, const char *name, struct lm_err *err)
{
	size_t kept = 0, problems = 0;
	for (size_t i = 0; i < status->n_repositories; i++) {
		if (strcmp(status->repositories[i]->fqrn, name) == 0)
			status->repositories[kept++] = status->repositories[i];
		else
			protobuf_c_message_free_unpacked(&status->repositories[i]->base, NULL);
	}
	status->n_repositories = kept;
	for (size_t i = 0; i < status->n_problems; i++) {
		Problem *p = status->problems[i];
		if (!*p->repository || strcmp(p->repository, name) == 0)
			status->problems[problems++] = p;
		else
			protobuf_c_message_free_unpacked(&p->base, NULL);
	}
	status->n_problems = problems;
	return kept ? 0 : lm_err_set(err, -ENOENT, "no repository %s is configured", name);
}

/* What was found out about the two; one that did not answer is NULL, and says why. */
struct found {
	StatusResponse *fetcher;
	SnapshotterStatus *snapshotter;
	struct lm_err no_fetcher, no_snapshotter;
};

static void found_done(struct found *found)
{
	lm_fetcher_status_freep(&found->fetcher);
	lm_snapshotter_status_freep(&found->snapshotter);
}

static int ask_fetcher(const struct options *o, struct found *found)
{
	CLEANUP(lm_rpc_client_freep) struct lm_rpc_client *client = NULL;
	int r = lm_fetcher_open(o->socket, &client, &found->no_fetcher);
	if (r == 0)
		r = lm_fetcher_status(client, o->layers, &found->fetcher, &found->no_fetcher);
	return r;
}

/* The fetcher's message, with the snapshotter's as one field more. */
static int print_json(const struct found *found)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(JSON_MAX);
	struct lm_err err = LM_ERR_INIT;
	int r = found->fetcher ? lm_rpc_json(&found->fetcher->base, &text) : lm_buf_str(&text, "{}");
	if (r == 0) {
		text.len--; /* the brace at its end */
		r = lm_buf_str(&text, found->fetcher ? ", \"snapshotter\": " : "\"snapshotter\": ");
	}
	if (r == 0)
		r = found->snapshotter ? lm_rpc_json(&found->snapshotter->base, &text) : lm_buf_str(&text, "null");
	if (r == 0)
		r = lm_buf_str(&text, "}");
	if (r < 0)
		return lm_cli_fail((lm_err_sys(&err, r, "JSON"), &err));
	puts(lm_buf_cstr(&text));
	return LM_EXIT_OK;
}

static void print_snapshotter(const struct found *found)
{
	if (found->snapshotter)
		lm_snapshotter_print(found->snapshotter);
	else
		printf("\n%s\n", lm_err_text(&found->no_snapshotter));
	if (found->snapshotter && found->snapshotter->n_problems > 0)
		printf("\nproblems of the snapshotter\n");
	for (size_t i = 0; found->snapshotter && i < found->snapshotter->n_problems; i++)
		printf("  %s\n", found->snapshotter->problems[i]->what);
}

static int show(const struct options *o)
{
	CLEANUP(found_done) struct found found = {0};
	struct lm_err err = LM_ERR_INIT;
	int code = LM_EXIT_OK;
	bool away = ask_fetcher(o, &found) < 0;
	bool alone = !o->name && lm_snapshotter_status(o->snapshotter, false, &found.snapshotter,
					 &found.no_snapshotter) == 0; /* of no use to one repository */
	if (away && !(alone && lm_snapshotter_has_mounts(found.snapshotter)))
		code = lm_cli_fail(&found.no_fetcher);
	if (away && !alone)
		return code;
	if (found.fetcher && o->name && pick(found.fetcher, o->name, &err) < 0)
		return lm_cli_fail(&err);
	if (o->json && print_json(&found) != LM_EXIT_OK)
		return LM_EXIT_FAILED;
	if (!o->json && found.fetcher)
		print_status(found.fetcher, o);
	if (!o->json && !o->name)
		print_snapshotter(&found);
	bool problems = (found.fetcher && found.fetcher->n_problems > 0) ||
			(found.snapshotter && found.snapshotter->n_problems > 0);
	return problems ? LM_EXIT_FAILED : lm_cli_flush(code);
}

int lm_cmd_status(int argc, char **argv)
{
	struct options o = {0};
	const struct lm_cli_option options[] = {
		{"json", NULL,
			"for programs: the StatusResponse of proto/lamella/fetcher.proto, and as\n"
			"\"snapshotter\" that of proto/lamella/snapshotter.proto (null: not there)",
			.flag = &o.json},
		{"layers", NULL, "with the layers that were asked for lately", .flag = &o.layers},
		{"socket", "PATH", LM_FETCHER_SOCKET_HELP, .text = &o.socket},
		{"snapshotter", "PATH", LM_SNAPSHOTTER_SOCKET_HELP, .text = &o.snapshotter},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "[NAME] [OPTION]...",
		.about = "Shows how the lamella-fetcher of this machine and its repositories are, or just NAME, and\n"
			 "the lamella-snapshotter where there is one.\n"
			 "Exit code 0: all is well; 1: something is not (offline, failed, not mounted, the cache), or\n"
			 "no fetcher answers.",
		.options = options,
		.max_words = 1,
		.words = "one NAME at most is wanted",
	};
	int code, at = lm_cli_parse(argc, argv, &syntax, &code);
	if (at < 0)
		return code;
	o.name = at < argc ? argv[at] : NULL;
	return show(&o);
}
