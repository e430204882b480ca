/* `lamella pull`: an image for containerd, of which nothing is fetched but what it says of itself. */
#include "base/clock.h"
#include "base/str.h"
#include "commands.h"
#include "common.h"
#include "convert/access.h"
#include "fetcher.h"
#include "interrupt.h"
#include "oci/shelf.h"
#include "pull/puller.h"
#include "rpc/rpc.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

struct options {
	struct lm_containerd_options containerd;
	struct lm_access_options access;
	const char *platform, *mount_base, *socket, *image;
	const char *repositories[LM_SHELF_REPOSITORIES_MAX];
	size_t repository_count;
	uint64_t lease_s;
	bool offline, only_lazy, json;
};

struct work {
	const struct options *o;
	struct lm_http *http;
	struct lm_shelf *shelf; /* NULL until it is needed */
	struct lm_source *registry;
	struct lm_err registry_failed; /* why there is none */
	struct lm_image image;
	struct lm_pull_layer *layers;
	char *name;
	bool from_repository;
	int64_t ms;
	_Atomic(bool) stop;
};

static void work_done(struct work *w)
{
	lm_source_free(w->registry);
	lm_shelf_free(w->shelf);
	lm_http_free(w->http);
	free(w->layers);
	free(w->name);
	lm_image_done(&w->image);
}

static void options_done(struct options *o)
{
	lm_access_options_done(&o->access);
}

static int add_repository(void *arg, const char *value, struct lm_err *err)
{
	struct options *o = arg;
	if (o->repository_count == LM_SHELF_REPOSITORIES_MAX)
		return lm_err_set(err, -EINVAL, "more than %d repositories", LM_SHELF_REPOSITORIES_MAX);
	o->repositories[o->repository_count++] = value;
	return 0;
}

/* 0 go on, else -1 with *ret_code set. */
static int parse_options(int argc, char **argv, struct options *o, int *ret_code)
{
	o->containerd = (struct lm_containerd_options){
		.socket = lm_cli_environment("CONTAINERD_ADDRESS", LM_CONTAINERD_SOCKET),
		.namespace = lm_cli_environment("CONTAINERD_NAMESPACE", "default"),
		.snapshotter = lm_cli_environment("CONTAINERD_SNAPSHOTTER", "lamella"),
	};
	o->mount_base = "/cvmfs";
	o->lease_s = 3600;
	const struct lm_cli_option options[] = {
		{"namespace", "NAME",
			"of containerd; default: $CONTAINERD_NAMESPACE, or default. k8s.io is Kubernetes'",
			.letter = 'n', .text = &o->containerd.namespace},
		{"address", "SOCKET", "containerd's; default: $CONTAINERD_ADDRESS, or\n" LM_CONTAINERD_SOCKET,
			.letter = 'a', .text = &o->containerd.socket},
		{"snapshotter", "NAME",
			"as containerd's configuration calls it; default: $CONTAINERD_SNAPSHOTTER, or\nlamella",
			.text = &o->containerd.snapshotter},
		{"platform", "OS/ARCH[/VARIANT]", "which of an index's images (default: linux and this machine's)",
			.text = &o->platform},
		{"offline", NULL, "don't ask the registry: manifest and config come from the repository",
			.flag = &o->offline},
		{"repo", "REPO",
			"the repository for that, mounted here; may be given several times.\n"
			"Default: those of the running lamella-fetcher",
			.parse = add_repository, .parse_arg = o},
		{"mount-base", "DIR", "where REPO is mounted, at DIR/REPO; default: /cvmfs", .text = &o->mount_base},
		{"socket", "PATH", LM_FETCHER_SOCKET_HELP, .text = &o->socket},
		{"lazy-only", NULL, "fail where a layer is not provided by the snapshotter", .flag = &o->only_lazy},
		{"lease", "SECONDS", "what a killed pull has made stays for so long; default 3600",
			.number = &o->lease_s, .min = 1, .max = 86400},
		LM_ACCESS_OPTIONS(&o->access),
		{"json", NULL, "for programs", .flag = &o->json},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "REF [OPTION]...",
		.about = "Registers the image REF, HOST/NAME[:TAG][@DIGEST], in containerd with the layers that its "
			 "snapshotter\n"
			 "provides, without fetching these. Manifest and config come from the registry or, where that "
			 "can't "
			 "be\n"
			 "reached, from a signed repository that is mounted here.\n"
			 "A layer that the snapshotter does not provide is fetched from the registry and unpacked by "
			 "containerd,\n"
			 "and the reason is said; without the registry (or with --lazy-only) that is an error.\n"
			 "Then: ctr -n NAMESPACE run --snapshotter NAME REF ID",
		.options = options,
		.min_words = 1,
		.max_words = 1,
		.words = "one REF is wanted",
	};
	int at = lm_cli_parse(argc, argv, &syntax, ret_code);
	if (at < 0)
		return -1;
	o->image = argv[at];
	return 0;
}

/* --- where manifest and config come from --- */

/* Those that the fetcher has mounted. */
static int open_fetchers(const struct options *o, struct lm_shelf **ret, struct lm_err *err)
{
	CLEANUP(lm_rpc_client_freep) struct lm_rpc_client *client = NULL;
	CLEANUP(lm_fetcher_status_freep) Lamella__Fetcher__V1__StatusResponse *status = NULL;
	const char *mounts[LM_SHELF_REPOSITORIES_MAX];
	size_t count = 0;
	int r = lm_fetcher_open(o->socket, &client, err);
	if (r == 0)
		r = lm_fetcher_status(client, false, &status, err);
	if (r < 0)
		return lm_err_prefix(err, r, "no --repo is given, and");
	for (size_t i = 0; i < status->n_repositories && count < ARRAY_LEN(mounts); i++)
		if (*status->repositories[i]->mountpoint)
			mounts[count++] = status->repositories[i]->mountpoint;
	if (count == 0)
		return lm_err_set(err, -ENOENT, "no --repo is given, and lamella-fetcher has mounted none");
	const struct lm_shelf_options options = {.repositories = mounts, .count = count};
	return lm_shelf_new(&options, ret, err);
}

static int open_shelf(struct work *w, struct lm_err *err)
{
	const struct options *o = w->o;
	const struct lm_shelf_options options = {
		.base = o->mount_base, .repositories = o->repositories, .count = o->repository_count};
	return o->repository_count > 0 ? lm_shelf_new(&options, &w->shelf, err) : open_fetchers(o, &w->shelf, err);
}

static int from_registry(struct work *w, const struct lm_reference *ref, const struct lm_platform *platform,
	struct lm_access *access, struct lm_err *err)
{
	access->http = w->http;
	int r = lm_source_open(ref, access, &w->registry, err);
	return r < 0 ? r : lm_source_image(w->registry, platform, &w->image, err);
}

static int from_repository(
	struct work *w, const struct lm_reference *ref, const struct lm_platform *platform, struct lm_err *err)
{
	CLEANUP(lm_source_freep) struct lm_source *source = NULL;
	int r = open_shelf(w, err);
	if (r == 0)
		r = lm_shelf_source(w->shelf, ref, &source, err);
	if (r == 0)
		r = lm_source_image(source, platform, &w->image, err);
	w->from_repository = r == 0;
	return r;
}

/* The registry could not be reached; what it says itself is believed. */
static bool is_away(int r)
{
	return r == -EIO || r == -ETIMEDOUT || r == -EAGAIN;
}

static int find_image(struct work *w, const struct lm_reference *ref, struct lm_access *access, struct lm_err *err)
{
	CLEANUP(lm_freep) char *words = NULL;
	struct lm_platform wanted;
	struct lm_err away = LM_ERR_INIT;
	int r = lm_platform_option(w->o->platform, &words, &wanted, err);
	if (r < 0)
		return r;
	const struct lm_platform *platform = w->o->platform ? &wanted : NULL;
	if (w->o->offline) {
		lm_err_set(&w->registry_failed, -EIO, "--offline is given");
		return from_repository(w, ref, platform, err);
	}
	r = from_registry(w, ref, platform, access, &away);
	if (r == 0 || !is_away(r))
		return r < 0 ? lm_err_set(err, r, "%s", lm_err_text(&away)) : 0;
	lm_cli_say("the registry can't be reached: %s", lm_err_text(&away));
	lm_err_set(&w->registry_failed, r, "its registry can't be reached");
	lm_source_free(STEAL(w->registry));
	struct lm_err why = LM_ERR_INIT;
	r = from_repository(w, ref, platform, &why);
	return r < 0 ? lm_err_set(err, r, "%s; nor from a repository: %s", lm_err_text(&away), lm_err_text(&why)) : 0;
}

/* --- the pull --- */

static int wanted(void *arg, struct lm_err *err)
{
	const struct work *w = arg;
	return w->stop ? lm_err_set(err, -ECANCELED, "interrupted") : 0;
}

static void interrupt(void *arg)
{
	struct work *w = arg;
	w->stop = true;
	lm_http_stop(w->http);
}

static int on_layer(void *arg, const struct lm_pull_layer *layer, size_t number, struct lm_err *err)
{
	const struct work *w = arg;
	lm_cli_status("%s: %zu of %zu layers", w->o->image, number + 1, w->image.layer_count);
	if (layer->state == LM_PULL_FETCHED)
		lm_cli_say("layer %s (%zu of %zu): fetched, %s: %s", layer->layer->digest, number + 1,
			w->image.layer_count, lm_cli_size(layer->layer->size).s, layer->reason);
	return 0;
}

static int pull(struct work *w, const struct lm_reference *ref, struct lm_err *err)
{
	CLEANUP(lm_containerd_freep) struct lm_containerd *containerd = NULL;
	w->layers = calloc(w->image.layer_count + 1, sizeof(*w->layers));
	if (!w->layers)
		return lm_err_oom(err);
	int r = lm_containerd_new(&w->o->containerd, &containerd, err);
	if (r < 0)
		return r;
	const struct lm_puller puller = {
		.containerd = containerd,
		.image = &w->image,
		.reference = ref,
		.source = w->registry,
		.no_source = lm_err_text(&w->registry_failed),
		.snapshotter = w->o->containerd.snapshotter,
		.lease_s = w->o->lease_s,
		.kubernetes = strcmp(w->o->containerd.namespace, "k8s.io") == 0,
		.only_lazy = w->o->only_lazy,
		.on_layer = on_layer,
		.wanted = wanted,
		.arg = w,
	};
	return lm_pull(&puller, w->layers, &w->name, err);
}

static int run(struct options *o, struct work *w, struct lm_err *err)
{
	CLEANUP(lm_reference_done) struct lm_reference ref = {0};
	CLEANUP(lm_freep)
	char *text = lm_str_printf("%s%s", lm_str_starts(o->image, "docker://") ? "" : "docker://", o->image);
	const int64_t start_ms = lm_now_ms();
	int r = text ? lm_reference_parse(text, &ref, err) : lm_err_oom(err);
	if (r == 0)
		r = find_image(w, &ref, &o->access.access, err);
	if (r == 0)
		r = pull(w, &ref, err);
	w->ms = lm_now_ms() - start_ms;
	return r < 0 ? lm_err_prefix(err, r, "%s", o->image) : 0;
}

/* --- the report --- */

static size_t count_of(const struct work *w, enum lm_pull_state state)
{
	size_t count = 0;
	for (size_t i = 0; i < w->image.layer_count; i++)
		count += w->layers[i].state == state;
	return count;
}

static void print_report(const struct work *w)
{
	printf("%s (%s): %zu layers: %zu lazy", w->name, w->image.digest, w->image.layer_count,
		count_of(w, LM_PULL_LAZY));
	if (count_of(w, LM_PULL_PRESENT) > 0)
		printf(", %zu were there", count_of(w, LM_PULL_PRESENT));
	if (count_of(w, LM_PULL_FETCHED) > 0)
		printf(", %zu fetched", count_of(w, LM_PULL_FETCHED));
	printf("; by the %s, %.1f s\n", w->from_repository ? "repository" : "registry", (double)w->ms / 1000);
}

static json_t *layers_json(const struct work *w)
{
	json_t *list = json_array();
	for (size_t i = 0; i < w->image.layer_count; i++) {
		const struct lm_pull_layer *layer = &w->layers[i];
		if (json_array_append_new(
			    list, json_pack("{s:s, s:s, s:I, s:s, s:o?}", "digest", layer->layer->digest, "chain_id",
					  layer->layer->chain_id, "size", (json_int_t)layer->layer->size, "state",
					  lm_pull_state_name(layer->state), "reason",
					  *layer->reason ? lm_cli_text_json(layer->reason) : NULL)) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* NULL: no memory. */
static json_t *report_json(const struct work *w)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:f, s:o}", "name", w->name, "digest", w->image.digest,
		"config", w->image.config_digest, "namespace", w->o->containerd.namespace, "snapshotter",
		w->o->containerd.snapshotter, "from", w->from_repository ? "repository" : "registry", "seconds",
		(double)w->ms / 1000, "layers", layers_json(w));
}

int lm_cmd_pull(int argc, char **argv)
{
	CLEANUP(options_done) struct options options = {0};
	CLEANUP(lm_interrupt_freep) struct lm_interrupt *signals = NULL;
	struct lm_err err = LM_ERR_INIT;
	int code;
	if (parse_options(argc, argv, &options, &code) < 0)
		return code;
	lm_access_speak(&options.access);
	CLEANUP(work_done) struct work work = {.o = &options};
	int r = lm_interrupt_new(&signals, &err);
	if (r == 0)
		r = lm_http_new(&(struct lm_http_limits){0}, &work.http, &err);
	if (r == 0) {
		lm_interrupt_arm(signals, interrupt, &work);
		r = run(&options, &work, &err);
		int number = lm_interrupt_hold(signals);
		if (r < 0 && number) {
			lm_cli_error("interrupted; what was made goes with containerd's next collection of garbage");
			work_done(&work);
			lm_interrupt_die(number);
		}
	}
	if (r < 0)
		return lm_cli_fail(&err);
	if (options.json)
		return lm_cli_print_json(report_json(&work));
	print_report(&work);
	return LM_EXIT_OK;
}
