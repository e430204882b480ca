#include "snapshotter.h"

#include "common.h"
#include "rpc/rpc.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef Lamella__Snapshotter__V1__StatusResponse StatusResponse;
typedef Lamella__Snapshotter__V1__Fetcher Fetcher;
typedef Lamella__Snapshotter__V1__Image Image;
typedef Lamella__Snapshotter__V1__Layer Layer;
#define LAYER(name) LAMELLA__SNAPSHOTTER__V1__LAYER_STATE__LAYER_##name
#define FETCHER(name) LAMELLA__SNAPSHOTTER__V1__FETCHER_STATE__FETCHER_##name

enum { TIMEOUT_MS = 10000, DIGEST_SHOWN = sizeof("sha256:") - 1 + 12, NAME_MAX_WIDTH = 64 };

int lm_snapshotter_status(const char *socket, bool images, StatusResponse **ret, struct lm_err *err)
{
	CLEANUP(lm_rpc_client_freep) struct lm_rpc_client *client = NULL;
	if (!socket)
		socket = lm_cli_environment("LAMELLA_SNAPSHOTTER_SOCKET", LM_SNAPSHOTTER_SOCKET);
	int r = lm_cli_socket_check(socket, "lamella-snapshotter is not running", err);
	if (r == 0)
		r = lm_rpc_client_new(socket, &client, err);
	if (r < 0)
		return r;
	Lamella__Snapshotter__V1__StatusRequest request = LAMELLA__SNAPSHOTTER__V1__STATUS_REQUEST__INIT;
	request.images = images;
	r = lm_rpc_invoke(client, "/lamella.snapshotter.v1.Snapshotter/Status", &request.base,
		&lamella__snapshotter__v1__status_response__descriptor, TIMEOUT_MS, false, (ProtobufCMessage **)ret,
		NULL, err);
	return r < 0 ? lm_err_prefix(err, r, "lamella-snapshotter") : 0;
}

/* --- images --- */

static const char *state_name(Lamella__Snapshotter__V1__LayerState state)
{
	switch (state) {
	case LAYER(LAZY):
		return "lazy";
	case LAYER(LOSSY):
		return "lossy";
	case LAYER(FALLEN_BACK):
		return "fallen back";
	case LAYER(ORDINARY):
		return "ordinary";
	default: /* a snapshotter newer than this program */
		return "unknown";
	}
}

struct name_text {
	char s[DIGEST_SHOWN + 1 + 256];
};

/* An image without a name is called by its topmost layer. */
static struct name_text name_of(const Image *image)
{
	struct name_text name;
	if (*image->reference)
		snprintf(name.s, sizeof(name.s), "%s", image->reference);
	else
		snprintf(name.s, sizeof(name.s), "%.*s", DIGEST_SHOWN, image->chain);
	return name;
}

static const Layer *layer_by_id(const StatusResponse *status, uint64_t id)
{
	size_t low = 0, high = status->n_layers;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (status->layers[middle]->id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < status->n_layers && status->layers[low]->id == id ? status->layers[low] : NULL;
}

static void print_layer(const Layer *layer)
{
	const char *digest = *layer->digest ? layer->digest : layer->chain;
	printf("    %-*.*s  %-11s  %9s", DIGEST_SHOWN, DIGEST_SHOWN, digest, state_name(layer->state),
		lm_cli_size(layer->bytes).s);
	printf("  %10" PRIu64 "  %s", layer->containers, lm_cli_time((int64_t)layer->created_s).s);
	printf("%s%s", *layer->source ? "  from " : "", layer->source);
	printf("%s%s%s%s\n", *layer->cause ? "  " : "", layer->cause, *layer->reason ? ": " : "", layer->reason);
}

static void print_image(const StatusResponse *status, const Image *image, int width, bool layers)
{
	printf("%-*s  %6" PRIu64 "  %5" PRIu64 "  %6" PRIu64 "  %8" PRIu64 "  %9s  %10" PRIu64 "  %5" PRIu64
	       "  %s%s%s\n",
		width, name_of(image).s, image->lazy, image->lossy, image->fallen_back, image->ordinary,
		lm_cli_size(image->bytes).s, image->containers, image->on_trees,
		lm_cli_time((int64_t)image->created_s).s, *image->reason ? "  " : "", image->reason);
	for (size_t i = 0; i < image->n_layers && layers; i++) {
		const Layer *layer = layer_by_id(status, image->layers[i]);
		if (layer)
			print_layer(layer);
	}
}

static void print_images(const StatusResponse *status, bool layers)
{
	int width = (int)strlen("NAME");
	for (size_t i = 0; i < status->n_images; i++)
		width = LM_MAX(width, (int)strlen(name_of(status->images[i]).s));
	width = LM_MIN(width, NAME_MAX_WIDTH);
	printf("%-*s  %6s  %5s  %6s  %8s  %9s  %10s  %5s  %-20s  %s\n", width, "NAME", "LAZY", "LOSSY", "FALLEN",
		"ORDINARY", "DISK", "CONTAINERS", "TREES", "SINCE", "REASON");
	for (size_t i = 0; i < status->n_images; i++)
		print_image(status, status->images[i], width, layers);
}

int lm_snapshotter_images(const char *socket, bool layers, bool json)
{
	CLEANUP(lm_snapshotter_status_freep) StatusResponse *status = NULL;
	struct lm_err err = LM_ERR_INIT;
	if (lm_snapshotter_status(socket, true, &status, &err) < 0)
		return lm_cli_fail(&err);
	if (json)
		return lm_cli_flush(lm_fetcher_print_json(&status->base));
	print_images(status, layers);
	return lm_cli_flush(LM_EXIT_OK);
}

/* --- status --- */

bool lm_snapshotter_has_mounts(const StatusResponse *status)
{
	return *status->source && strcmp(status->source, "fetcher") != 0; /* "": of an earlier version */
}

static void print_fetcher(const StatusResponse *status)
{
	const Fetcher *f = status->fetcher;
	const char *state = f->state == FETCHER(UNASKED)       ? "was not asked yet"
			    : f->state == FETCHER(ANSWERS)     ? "answers"
			    : f->state == FETCHER(UNREACHABLE) ? "was not there when it was asked last"
			    : f->state == FETCHER(SILENT)      ? "did not answer when it was asked last"
			    : f->state == FETCHER(FAILS)       ? "failed when it was asked last"
							       : "?";
	printf("  %-9s %s, for %s; %" PRIu64 " questions", lm_snapshotter_has_mounts(status) ? "mounts" : "fetcher",
		state, lm_fetcher_duration(f->state_age_ms).s, f->questions);
	if (f->failed_questions)
		printf(", %" PRIu64 " failed", f->failed_questions);
	if (f->waiting_questions)
		printf(", %" PRIu64 " under way", f->waiting_questions);
	putchar('\n');
	if (*f->last_error)
		printf("            %s ago: %s\n", lm_fetcher_duration(f->last_error_age_ms).s, f->last_error);
}

/* What was counted under PREFIX..., as "3 absent, 1 timed out". */
static void print_counts(const StatusResponse *status, const char *prefix)
{
	const char *before = " ";
	for (size_t i = 0; i < status->n_counters; i++) {
		const char *name = status->counters[i]->name;
		if (strncmp(name, prefix, strlen(prefix)) != 0 || status->counters[i]->count == 0)
			continue;
		printf("%s%" PRIu64 " ", before, status->counters[i]->count);
		for (const char *c = name + strlen(prefix); *c; c++)
			putchar(*c == '_' ? ' ' : *c);
		before = ", ";
	}
	printf("%s\n", *before == ' ' ? " none" : "");
}

void lm_snapshotter_print(const StatusResponse *status)
{
	printf("\nlamella-snapshotter %s, process %" PRIu64 ", up %s\n", status->version, status->process,
		lm_fetcher_duration(status->uptime_ms).s);
	printf("  root      %s\n", status->root);
	printf("  layers    %" PRIu64 " lazy, %" PRIu64 " lossy, %" PRIu64 " fallen back, %" PRIu64
	       " ordinary: %s on this disk; %" PRIu64 " containers\n",
		status->lazy_layers, status->lossy_layers, status->fallen_back_layers, status->ordinary_layers,
		lm_cli_size(status->bytes).s, status->containers);
	printf("  on miss   %s; fallen back since the start:", status->on_miss);
	print_counts(status, "fallback_");
	if (lm_snapshotter_has_mounts(status))
		printf("  source    %s\n", status->source);
	if (status->fetcher)
		print_fetcher(status);
	if (status->trees)
		printf("  trees     %s%s\n", status->trees->used ? "used" : "not used: ", status->trees->reason);
	printf("  overlays ");
	for (size_t i = 0; i < status->n_mount_options; i++)
		printf(" %s", status->mount_options[i]);
	printf("%s\n", status->n_mount_options ? "" : " without options");
}
