#include "convert/reporter.h"

#include "base/lock.h"
#include "common.h"
#include "convert/display.h"
#include "convert/image.h"

#include <stdio.h>
#include <string.h>

enum {
	REDRAW_MS = 200,
	EVENT_MS = 1000,
	ACTIVE_MAX = 64, /* layers under way at a time */
	SHOWN_MAX = 8,
	PANEL_MAX = 64 << 10,
};
/* Rates are of about so many seconds. What is left is reckoned by that of all. */
#define RATE_MEMORY_S 3.0
#define TOTAL_MEMORY_S 15.0

/* A layer that is being worked on. */
struct active {
	struct lm_layer_meter *meter;
	uint64_t seen_bytes;
	double rate;
};

struct lm_reporter {
	struct lm_progress progress; /* first */

	/* constant after new */
	bool json, live, color;
	pthread_t thread;
	bool running;

	/* Under lock, which also keeps the order of what is shown. */
	struct lm_lock lock;
	struct lm_cond changed;
	bool stopping;
	struct active active[ACTIVE_MAX];
	size_t active_count;
	uint64_t done_bytes, total_bytes, stored_bytes;
	size_t layers_done, layers_total;
	uint64_t seen_bytes;
	double rate;
	int64_t seen_ns;
};

static struct lm_reporter *of(struct lm_progress *progress)
{
	return (struct lm_reporter *)progress;
}

/* --- events --- */

/* One write a line; whoever reads them meets whole lines. Lock held, or no thread running. */
static void print_event(json_t *event)
{
	char *text = event ? json_dumps(event, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
	if (text) {
		fprintf(stdout, "%s\n", text);
		fflush(stdout);
	} else {
		lm_cli_error("an event can't be written as JSON");
	}
	free(text);
	json_decref(event);
}

void lm_reporter_event(struct lm_reporter *reporter, json_t *event)
{
	LM_LOCKED(&reporter->lock);
	if (reporter->json)
		print_event(event);
	else
		json_decref(event);
}

static json_t *image_event(const struct lm_image_report *image, uint64_t bytes)
{
	return json_pack("{s:s, s:s, s:o, s:o, s:s, s:s?, s:I, s:I}", "event", "image", "state", "begin", "source",
		lm_cli_text_json(image->source), "name", lm_cli_text_json(image->name), "digest", image->digest,
		"platform", image->platform, "layers", (json_int_t)image->layer_count, "fetch_bytes",
		(json_int_t)bytes);
}

static const char *phase_name(const struct lm_layer_meter *meter)
{
	switch (atomic_load(&meter->phase)) {
	case LM_LAYER_READING:
		return atomic_load(&meter->fetched_bytes) < meter->size_bytes ? "fetch" : "unpack";
	case LM_LAYER_STORING:
		return "store";
	case LM_LAYER_CATALOGED:
		break;
	}
	return "catalogs";
}

static json_t *meter_event(const struct lm_layer_meter *meter, const char *state)
{
	return json_pack("{s:s, s:s, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "event", "layer", "state", state,
		"image", lm_cli_text_json(meter->image), "digest", meter->digest, "number", (json_int_t)meter->number,
		"count", (json_int_t)meter->count, "blob_bytes", (json_int_t)meter->size_bytes, "fetched_bytes",
		(json_int_t)atomic_load(&meter->fetched_bytes), "unpacked_bytes",
		(json_int_t)atomic_load(&meter->tar_bytes), "files", (json_int_t)atomic_load(&meter->files), "stage",
		phase_name(meter));
}

static json_t *layer_done_event(const struct lm_image_report *image, size_t index)
{
	const struct lm_layer_report *layer = &image->layers[index];
	return json_pack("{s:s, s:s, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "event", "layer", "state",
		lm_layer_state(layer), "image", lm_cli_text_json(image->name), "digest", layer->digest, "number",
		(json_int_t)index + 1, "count", (json_int_t)image->layer_count, "blob_bytes",
		(json_int_t)layer->blob_bytes, "unpacked_bytes", (json_int_t)layer->tar_bytes, "files",
		(json_int_t)layer->files, "bytes_stored", (json_int_t)layer->stored_bytes, "attributes_lost",
		(json_int_t)layer->losses, "seconds", (double)layer->ms / 1000);
}

/* --- the panel --- */

static double average(double rate, uint64_t bytes, double seconds, double memory_s)
{
	return (rate * memory_s + (double)bytes) / (memory_s + seconds);
}

/* Lock held: looks at all meters. */
static uint64_t sample(struct lm_reporter *r)
{
	int64_t now_ns = lm_now_ns();
	double seconds = (double)LM_MAX(now_ns - r->seen_ns, (int64_t)1000000) / 1e9;
	uint64_t fetched = r->done_bytes;
	for (size_t i = 0; i < r->active_count; i++) {
		struct active *a = &r->active[i];
		uint64_t bytes = atomic_load(&a->meter->fetched_bytes);
		a->rate = average(a->rate, bytes - a->seen_bytes, seconds, RATE_MEMORY_S);
		a->seen_bytes = bytes;
		fetched += bytes;
	}
	/* What a layer that failed had fetched is gone again. */
	r->rate = average(r->rate, fetched > r->seen_bytes ? fetched - r->seen_bytes : 0, seconds, TOTAL_MEMORY_S);
	r->seen_bytes = fetched;
	r->seen_ns = now_ns;
	return fetched;
}

static void draw(struct lm_reporter *r)
{
	struct lm_display_layer layers[SHOWN_MAX];
	struct lm_display display = {
		.layers = layers,
		.layer_count = LM_MIN(r->active_count, (size_t)SHOWN_MAX),
		.fetched_bytes = sample(r),
		.total_bytes = r->total_bytes,
		.stored_bytes = r->stored_bytes,
		.layers_done = r->layers_done,
		.layers_total = r->layers_total,
		.rate = r->rate,
	};
	for (size_t i = 0; i < display.layer_count; i++) {
		const struct lm_layer_meter *meter = r->active[i].meter;
		layers[i] = (struct lm_display_layer){
			.image = meter->image,
			.digest = meter->digest,
			.number = meter->number,
			.count = meter->count,
			.fetched_bytes = r->active[i].seen_bytes,
			.size_bytes = meter->size_bytes,
			.files = atomic_load(&meter->files),
			.rate = r->active[i].rate,
			.stage = phase_name(meter),
		};
	}
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(PANEL_MAX);
	struct lm_cli_window window = lm_cli_window();
	if (lm_display_format(&display, window.columns, window.rows, r->color, &text) == 0)
		lm_cli_panel(lm_buf_cstr(&text));
}

static void show(struct lm_reporter *r)
{
	if (r->live)
		draw(r);
	for (size_t i = 0; r->json && i < r->active_count; i++)
		print_event(meter_event(r->active[i].meter, "progress"));
}

/* Sleeps while nothing is under way. */
static void *thread_main(void *arg)
{
	struct lm_reporter *r = arg;
	pthread_setname_np(pthread_self(), "reporter");
	LM_LOCKED(&r->lock);
	while (!r->stopping) {
		if (r->active_count == 0)
			lm_cond_wait(&r->changed, &r->lock);
		else if (!lm_cond_wait_ms(&r->changed, &r->lock, r->json ? EVENT_MS : REDRAW_MS))
			show(r);
	}
	return NULL;
}

/* --- what the conversion tells --- */

static void on_waiting(struct lm_progress *progress, const char *holder)
{
	struct lm_reporter *r = of(progress);
	LM_LOCKED(&r->lock);
	if (r->json)
		print_event(json_pack(
			"{s:s, s:s, s:o}", "event", "lock", "state", "waiting", "holder", lm_cli_text_json(holder)));
	else
		lm_cli_say("%s; waiting for it to end", holder);
}

static void on_image(struct lm_progress *progress, const struct lm_image_report *image, uint64_t bytes)
{
	struct lm_reporter *r = of(progress);
	LM_LOCKED(&r->lock);
	r->total_bytes += bytes;
	r->layers_total += image->layer_count;
	if (r->json)
		print_event(image_event(image, bytes));
}

static void on_layer_begin(struct lm_progress *progress, struct lm_layer_meter *meter)
{
	struct lm_reporter *r = of(progress);
	LM_LOCKED(&r->lock);
	if (r->json)
		print_event(meter_event(meter, "begin"));
	if (r->active_count == ACTIVE_MAX)
		return;
	if (r->active_count == 0)
		(void)sample(r); /* rates begin here */
	r->active[r->active_count++] = (struct active){.meter = meter};
	lm_cond_signal(&r->changed);
}

static void on_loss(struct lm_progress *progress, const char *digest, const char *path, const char *what)
{
	struct lm_reporter *r = of(progress);
	LM_LOCKED(&r->lock);
	if (r->json)
		print_event(json_pack("{s:s, s:s, s:o, s:o}", "event", "loss", "digest", digest, "path",
			lm_cli_text_json(path), "what", lm_cli_text_json(what)));
	lm_cli_error("layer %s: %s: %s", digest, path, what);
}

static void on_layer_end(struct lm_progress *progress, struct lm_layer_meter *meter)
{
	struct lm_reporter *r = of(progress);
	LM_LOCKED(&r->lock);
	for (size_t i = 0; i < r->active_count; i++)
		if (r->active[i].meter == meter) {
			r->done_bytes += atomic_load(&meter->fetched_bytes);
			r->active_count--;
			memmove(&r->active[i], &r->active[i + 1], (r->active_count - i) * sizeof(r->active[0]));
			return;
		}
}

static void say_layer(const struct lm_image_report *image, size_t index)
{
	const struct lm_layer_report *layer = &image->layers[index];
	if (!layer->converted)
		lm_cli_say("%s: layer %zu of %zu, %.19s: is there", image->name, index + 1, image->layer_count,
			layer->digest);
	else if (layer->kept)
		lm_cli_say("%s: layer %zu of %zu, %.19s: kept from an earlier run, %llu files", image->name, index + 1,
			image->layer_count, layer->digest, (unsigned long long)layer->files);
	else
		lm_cli_say("%s: layer %zu of %zu, %.19s: %s, %llu files, %s new in storage, %s known before, %.1f s",
			image->name, index + 1, image->layer_count, layer->digest, lm_cli_size(layer->blob_bytes).s,
			(unsigned long long)layer->files, lm_cli_size(layer->stored_bytes).s,
			lm_cli_size(layer->spared_bytes).s, (double)layer->ms / 1000);
}

static void on_layer_done(struct lm_progress *progress, const struct lm_image_report *image, size_t index)
{
	struct lm_reporter *r = of(progress);
	LM_LOCKED(&r->lock);
	r->layers_done++;
	r->stored_bytes += image->layers[index].stored_bytes;
	if (r->json)
		print_event(layer_done_event(image, index));
	else
		say_layer(image, index);
}

static void on_publishing(struct lm_progress *progress)
{
	struct lm_reporter *r = of(progress);
	LM_LOCKED(&r->lock);
	if (r->json)
		print_event(json_pack("{s:s, s:s}", "event", "publish", "state", "begin"));
	else
		lm_cli_status("publishing");
}

static const struct lm_progress_ops ops = {
	.waiting = on_waiting,
	.image = on_image,
	.layer_begin = on_layer_begin,
	.loss = on_loss,
	.layer_end = on_layer_end,
	.layer_done = on_layer_done,
	.publishing = on_publishing,
};

/* --- life --- */

struct lm_progress *lm_reporter_progress(struct lm_reporter *reporter)
{
	return &reporter->progress;
}

int lm_reporter_new(bool json, struct lm_reporter **ret, struct lm_err *err)
{
	CLEANUP(lm_reporter_freep) struct lm_reporter *reporter = calloc(1, sizeof(*reporter));
	if (!reporter)
		return lm_err_oom(err);
	lm_lock_init(&reporter->lock);
	lm_cond_init(&reporter->changed);
	reporter->progress.ops = &ops;
	reporter->json = json;
	reporter->live = !json && lm_cli_live();
	reporter->color = lm_cli_color();
	reporter->seen_ns = lm_now_ns();
	if (json || reporter->live) {
		int r = pthread_create(&reporter->thread, NULL, thread_main, reporter);
		if (r)
			return lm_err_sys(err, -r, "start thread");
		reporter->running = true;
	}
	*ret = STEAL(reporter);
	return 0;
}

void lm_reporter_free(struct lm_reporter *reporter)
{
	if (!reporter)
		return;
	if (reporter->running) {
		lm_lock_take(&reporter->lock);
		reporter->stopping = true;
		lm_cond_signal(&reporter->changed);
		lm_lock_release(&reporter->lock);
		pthread_join(reporter->thread, NULL);
	}
	if (reporter->live)
		lm_cli_panel("");
	lm_cond_done(&reporter->changed);
	lm_lock_done(&reporter->lock);
	free(reporter);
}
