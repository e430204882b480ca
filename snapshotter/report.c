#include "snapshotter/report.h"

#include "base/clock.h"
#include "base/str.h"
#include "base/version.h"
#include "rpc/build.h"

#include <string.h>

typedef Lamella__Snapshotter__V1__StatusResponse StatusResponse;
typedef Lamella__Snapshotter__V1__Fetcher Fetcher;
typedef Lamella__Snapshotter__V1__Trees Trees;
typedef Lamella__Snapshotter__V1__Count Count;
typedef Lamella__Snapshotter__V1__Layer Layer;
typedef Lamella__Snapshotter__V1__Image Image;
typedef Lamella__Snapshotter__V1__Problem Problem;
typedef Lamella__Snapshotter__V1__Source Source;
#define TYPE(name) (&lamella__snapshotter__v1__##name##__descriptor)
#define LAYER(name) LAMELLA__SNAPSHOTTER__V1__LAYER_STATE__LAYER_##name
#define FETCHER(name) LAMELLA__SNAPSHOTTER__V1__FETCHER_STATE__FETCHER_##name
#define CHAIN_PREFIX "sha256:"

/* --- layers: which they are, what stands on them --- */

struct layer {
	const struct lm_snapshot *snapshot;
	const char *chain;
	Lamella__Snapshotter__V1__LayerState state;
	uint64_t containers;
	bool below; /* another layer of the same image is above it */
};

/* Of a container's: the topmost layer below it is its image's. */
struct container {
	const struct lm_snapshot *snapshot;
	struct layer *top; /* NULL: none */
};

struct gathered {
	struct lm_snapshot_list list;
	struct layer *layers; /* by id */
	size_t layer_count;
	struct container *containers; /* by the id of top; those without are first */
	size_t container_count;
};

static void gathered_done(struct gathered *g)
{
	free(g->layers);
	free(g->containers);
	lm_snapshot_list_done(&g->list);
}

/* What clients call a layer: the label; or the end of the name that containerd gave it, NAMESPACE/NUMBER/CHAIN. NULL:
 * it is something else that was committed. */
static const char *chain_of(const struct lm_snapshot *s)
{
	const char *ref = s->layer_ref ? s->layer_ref : lm_labels_get(&s->labels, LM_LABEL_REF);
	if (ref && *ref)
		return ref;
	const char *slash = strrchr(s->key, '/');
	const char *name = slash ? slash + 1 : s->key;
	return lm_str_starts(name, CHAIN_PREFIX) ? name : NULL;
}

static Lamella__Snapshotter__V1__LayerState state_of(const struct lm_snapshot *s)
{
	if (s->layer_digest)
		return lm_labels_get(&s->labels, LM_LABEL_REASON) ? LAYER(LOSSY) : LAYER(LAZY);
	return lm_labels_get(&s->labels, LM_LABEL_LAYER) ? LAYER(FALLEN_BACK) : LAYER(ORDINARY);
}

static int compare_layers(const void *a, const void *b)
{
	int64_t x = ((const struct layer *)a)->snapshot->id, y = ((const struct layer *)b)->snapshot->id;
	return x < y ? -1 : x > y;
}

static struct layer *find_layer(struct gathered *g, const struct lm_snapshot *snapshot)
{
	const struct layer key = {.snapshot = snapshot};
	return g->layer_count ? bsearch(&key, g->layers, g->layer_count, sizeof(key), compare_layers) : NULL;
}

static bool same_image(const struct lm_snapshot *a, const struct lm_snapshot *b)
{
	const char *x = lm_labels_get(&a->labels, LM_LABEL_CRI_IMAGE),
		   *y = lm_labels_get(&b->labels, LM_LABEL_CRI_IMAGE);
	return x && y ? strcmp(x, y) == 0 : x == y;
}

static void link_layers(struct gathered *g)
{
	for (size_t i = 0; i < g->layer_count; i++) {
		struct layer *parent =
			g->layers[i].snapshot->parent ? find_layer(g, g->layers[i].snapshot->parent) : NULL;
		if (parent && same_image(g->layers[i].snapshot, parent->snapshot))
			parent->below = true;
	}
}

/* One that is being unpacked is an active snapshot too, but says for which layer. */
static bool is_container(const struct lm_snapshot *s)
{
	return s->kind == LM_ACTIVE && !lm_labels_get(&s->labels, LM_LABEL_REF);
}

static void add_container(struct gathered *g, const struct lm_snapshot *snapshot)
{
	struct container *container = &g->containers[g->container_count++];
	*container = (struct container){.snapshot = snapshot};
	for (const struct lm_snapshot *at = snapshot->parent; at; at = at->parent) {
		struct layer *layer = find_layer(g, at);
		if (layer)
			layer->containers++;
		if (layer && !container->top)
			container->top = layer;
	}
}

static int compare_containers(const void *a, const void *b)
{
	const struct layer *x = ((const struct container *)a)->top, *y = ((const struct container *)b)->top;
	return x < y ? -1 : x > y;
}

static int gather(const struct lm_report_source *source, struct gathered *g)
{
	int r = lm_store_list(lm_snapshots_store(source->snapshots), NULL, &g->list, NULL);
	if (r < 0)
		return r;
	g->layers = calloc(g->list.count + 1, sizeof(*g->layers));
	g->containers = calloc(g->list.count + 1, sizeof(*g->containers));
	if (!g->layers || !g->containers)
		return -ENOMEM;
	for (size_t i = 0; i < g->list.count; i++) {
		const struct lm_snapshot *s = g->list.items[i];
		const char *chain = s->kind == LM_COMMITTED ? chain_of(s) : NULL;
		if (chain)
			g->layers[g->layer_count++] =
				(struct layer){.snapshot = s, .chain = chain, .state = state_of(s)};
	}
	qsort(g->layers, g->layer_count, sizeof(*g->layers), compare_layers);
	link_layers(g);
	for (size_t i = 0; i < g->list.count; i++)
		if (is_container(g->list.items[i]))
			add_container(g, g->list.items[i]);
	qsort(g->containers, g->container_count, sizeof(*g->containers), compare_containers);
	return 0;
}

/* --- messages --- */

static uint64_t seconds_of(int64_t ns)
{
	return ns > 0 ? (uint64_t)(ns / 1000000000) : 0;
}

static uint64_t age_ms(int64_t since_ms)
{
	return (uint64_t)LM_MAX(lm_now_ms() - since_ms, 0);
}

/* NULL: not served; "" of those that an earlier version has made. */
static const char *source_of(const struct lm_snapshot *s)
{
	const char *source = s->layer_digest ? lm_labels_get(&s->labels, LM_LABEL_SOURCE) : NULL;
	return s->layer_digest && !source ? "" : source;
}

static void put_layer(struct lm_message_builder *b, const struct layer *layer, StatusResponse *report)
{
	const struct lm_snapshot *s = layer->snapshot;
	Layer *m = lm_message_add(b, TYPE(layer), &report->layers, &report->n_layers);
	if (!m)
		return;
	m->id = (uint64_t)s->id;
	m->state = layer->state;
	m->created_s = seconds_of(s->created_ns);
	m->containers = layer->containers;
	m->bytes = (uint64_t)s->usage.size_bytes;
	m->inodes = (uint64_t)s->usage.inodes;
	lm_message_text(b, &m->plugin, s->plugin);
	lm_message_text(b, &m->snapshot, s->key);
	lm_message_text(b, &m->chain, layer->chain);
	lm_message_text(b, &m->digest, s->layer_digest ? s->layer_digest : lm_policy_digest(&s->labels));
	lm_message_text(b, &m->image, lm_labels_get(&s->labels, LM_LABEL_CRI_IMAGE));
	lm_message_text(b, &m->reason, lm_labels_get(&s->labels, LM_LABEL_REASON));
	lm_message_text(b, &m->cause, lm_labels_get(&s->labels, LM_LABEL_CAUSE));
	lm_message_text(b, &m->source, source_of(s));
}

static bool is_image(const struct layer *layer)
{
	const char *upwards = lm_labels_get(&layer->snapshot->labels, LM_LABEL_CRI_LAYERS);
	return upwards ? !strchr(upwards, ',') : !layer->below;
}

static void count_state(Image *m, const struct layer *layer)
{
	switch (layer->state) {
	case LAYER(LAZY):
		m->lazy++;
		break;
	case LAYER(LOSSY):
		m->lossy++;
		break;
	case LAYER(FALLEN_BACK):
		m->fallen_back++;
		break;
	default:
		m->ordinary++;
		break;
	}
}

/* From the topmost down, and put into the order in which they lie. */
static void put_image_layers(struct lm_message_builder *b, struct gathered *g, const struct layer *top, Image *m)
{
	const char *reason = NULL;
	size_t count = 0;
	for (const struct lm_snapshot *at = top->snapshot; at; at = at->parent)
		count++;
	m->layers = calloc(count, sizeof(*m->layers));
	b->failed |= !m->layers;
	for (const struct lm_snapshot *at = top->snapshot; at && m->layers; at = at->parent) {
		const struct layer *layer = find_layer(g, at);
		if (!layer)
			continue;
		const char *why = lm_labels_get(&layer->snapshot->labels, LM_LABEL_REASON);
		reason = why ? why : reason;
		count_state(m, layer);
		m->bytes += (uint64_t)layer->snapshot->usage.size_bytes;
		m->layers[m->n_layers++] = (uint64_t)at->id;
	}
	for (size_t i = 0; i < m->n_layers / 2; i++) {
		uint64_t swap = m->layers[i];
		m->layers[i] = m->layers[m->n_layers - 1 - i];
		m->layers[m->n_layers - 1 - i] = swap;
	}
	lm_message_text(b, &m->reason, reason);
}

static void put_image_containers(struct lm_message_builder *b, struct gathered *g, struct layer *top, Image *m)
{
	const struct container key = {.top = top};
	const struct container *end = g->containers + g->container_count;
	const struct container *at =
		g->container_count ? bsearch(&key, g->containers, g->container_count, sizeof(key), compare_containers)
				   : NULL;
	while (at && at > g->containers && at[-1].top == top)
		at--;
	for (; at && at < end && at->top == top; at++) {
		const char *tree = lm_labels_get(&at->snapshot->labels, LM_LABEL_TREE);
		m->containers++;
		if (tree && strcmp(tree, "used") == 0)
			m->on_trees++;
		else if (tree && !*m->no_tree)
			lm_message_text(b, &m->no_tree, lm_str_starts(tree, "not used: ") ? tree + 10 : tree);
	}
}

static void put_image(struct lm_message_builder *b, struct gathered *g, struct layer *top, StatusResponse *report)
{
	const struct lm_snapshot *s = top->snapshot;
	Image *m = lm_message_add(b, TYPE(image), &report->images, &report->n_images);
	if (!m)
		return;
	m->created_s = seconds_of(s->created_ns);
	lm_message_text(b, &m->reference, lm_labels_get(&s->labels, LM_LABEL_CRI_IMAGE));
	lm_message_text(b, &m->manifest, lm_labels_get(&s->labels, LM_LABEL_CRI_MANIFEST));
	lm_message_text(b, &m->plugin, s->plugin);
	lm_message_text(b, &m->chain, top->chain);
	put_image_layers(b, g, top, m);
	put_image_containers(b, g, top, m);
}

static int compare_images(const void *a, const void *b)
{
	const Image *x = *(const Image *const *)a, *y = *(const Image *const *)b;
	int order = (*x->reference == '\0') - (*y->reference == '\0');
	if (order == 0)
		order = strcmp(x->reference, y->reference);
	if (order == 0)
		order = strcmp(x->plugin, y->plugin);
	return order ? order : strcmp(x->chain, y->chain);
}

static void put_images(struct lm_message_builder *b, struct gathered *g, StatusResponse *report)
{
	for (size_t i = 0; i < g->layer_count; i++) {
		put_layer(b, &g->layers[i], report);
		if (is_image(&g->layers[i]))
			put_image(b, g, &g->layers[i], report);
	}
	if (report->n_images > 0)
		qsort(report->images, report->n_images, sizeof(*report->images), compare_images);
}

static void put_sums(const struct gathered *g, StatusResponse *report)
{
	report->snapshots = g->list.count;
	report->containers = g->container_count;
	for (size_t i = 0; i < g->layer_count; i++) {
		report->lazy_layers += g->layers[i].state == LAYER(LAZY);
		report->lossy_layers += g->layers[i].state == LAYER(LOSSY);
		report->fallen_back_layers += g->layers[i].state == LAYER(FALLEN_BACK);
		report->ordinary_layers += g->layers[i].state == LAYER(ORDINARY);
		report->bytes += (uint64_t)g->layers[i].snapshot->usage.size_bytes;
	}
}

static int compare_sources(const void *a, const void *b)
{
	return strcmp((*(const Source *const *)a)->name, (*(const Source *const *)b)->name);
}

/* Few: a repository or a mount each. */
static void put_sources(struct lm_message_builder *b, const struct gathered *g, StatusResponse *report)
{
	for (size_t i = 0; i < g->layer_count; i++) {
		const char *name = source_of(g->layers[i].snapshot);
		Source *m = NULL;
		for (size_t k = 0; k < report->n_sources && name && !m; k++)
			m = strcmp(report->sources[k]->name, name) == 0 ? report->sources[k] : NULL;
		if (name && !m && (m = lm_message_add(b, TYPE(source), &report->sources, &report->n_sources)))
			lm_message_text(b, &m->name, name);
		if (m)
			m->layers++;
	}
	if (report->n_sources > 0)
		qsort(report->sources, report->n_sources, sizeof(*report->sources), compare_sources);
}

static void put_fetcher(struct lm_message_builder *b, const struct lm_report_source *source, StatusResponse *report)
{
	static const Lamella__Snapshotter__V1__FetcherState states[] = {[LM_FETCHER_UNASKED] = FETCHER(UNASKED),
		[LM_FETCHER_ANSWERS] = FETCHER(ANSWERS),
		[LM_FETCHER_UNREACHABLE] = FETCHER(UNREACHABLE),
		[LM_FETCHER_SILENT] = FETCHER(SILENT),
		[LM_FETCHER_FAILS] = FETCHER(FAILS)};
	struct lm_policy *policy = lm_snapshots_policy(source->snapshots);
	struct lm_fetcher_seen seen = lm_policy_seen(policy);
	Fetcher *m = report->fetcher = lm_message_new(b, TYPE(fetcher));
	if (!m)
		return;
	lm_message_text(b, &m->socket, source->fetcher);
	m->state = states[seen.state];
	m->state_age_ms = age_ms(seen.since_ms);
	m->listens = lm_policy_listens(policy, NULL) == 0;
	m->questions = seen.questions;
	m->failed_questions = seen.failures;
	m->waiting_questions = seen.waiting;
	m->timeout_ms = source->timeout_ms;
	if (!seen.failure.code)
		return;
	lm_message_text(b, &m->last_error, lm_err_text(&seen.failure));
	m->last_error_age_ms = age_ms(seen.failed_ms);
}

static void put_trees(struct lm_message_builder *b, const struct lm_snapshots_state *state, StatusResponse *report)
{
	Trees *m = report->trees = lm_message_new(b, TYPE(trees));
	if (!m)
		return;
	m->used = !state->no_trees.code;
	lm_message_text(b, &m->reason, state->no_trees.code ? lm_err_text(&state->no_trees) : "");
	lm_message_text(b, &m->last_failure, state->tree_failure.code ? lm_err_text(&state->tree_failure) : "");
}

static void put_mount_options(
	struct lm_message_builder *b, const struct lm_mount_options *options, StatusResponse *report)
{
	const char *words[LM_MOUNT_OPTIONS_MAX];
	size_t count = lm_overlay_words(options, words);
	report->mount_options = calloc(count + 1, sizeof(char *));
	b->failed |= !report->mount_options;
	for (size_t i = 0; i < count && report->mount_options; i++) {
		report->mount_options[i] = strdup(words[i]);
		b->failed |= !report->mount_options[i];
		report->n_mount_options += report->mount_options[i] != NULL;
	}
}

static void put_counters(struct lm_message_builder *b, const struct lm_report_source *source, StatusResponse *report)
{
	for (unsigned i = 0; i < LM_COUNTERS; i++) {
		Count *m = lm_message_add(b, TYPE(count), &report->counters, &report->n_counters);
		if (!m)
			return;
		lm_message_text(b, &m->name, lm_counter_name((enum lm_counter)i));
		lm_message_text(b, &m->help, lm_counter_help((enum lm_counter)i));
		m->count = lm_snapshots_count(source->snapshots, (enum lm_counter)i);
	}
}

static void put_problem(struct lm_message_builder *b, StatusResponse *report, bool degraded, const char *what)
{
	Problem *m = lm_message_add(b, TYPE(problem), &report->problems, &report->n_problems);
	if (!m)
		return;
	m->degraded = degraded;
	lm_message_text(b, &m->what, what);
}

/* The last question tells; but a fetcher that is back may not be asked for long. */
static void put_problems(struct lm_message_builder *b, StatusResponse *report)
{
	const Fetcher *f = report->fetcher;
	bool went_well = f->state == FETCHER(ANSWERS) || f->state == FETCHER(UNASKED);
	bool long_ago = f->last_error_age_ms >= LM_REPORT_SILENCE_MS;
	if (!went_well && !(f->listens && (long_ago || f->state == FETCHER(UNREACHABLE))))
		put_problem(b, report, false, f->last_error);
	if (*report->trees->last_failure)
		put_problem(b, report, true, report->trees->last_failure);
}

StatusResponse *lm_report_new(const struct lm_report_source *source, bool images)
{
	struct lm_message_builder b = {0};
	CLEANUP(gathered_done) struct gathered g = {0};
	CLEANUP(lm_report_freep) StatusResponse *report = lm_message_new(&b, TYPE(status_response));
	if (!report || gather(source, &g) < 0)
		return NULL;
	struct lm_snapshots_state state;
	lm_snapshots_state(source->snapshots, &state);
	lm_message_text(&b, &report->version, LM_VERSION);
	report->process = (uint64_t)getpid();
	report->uptime_ms = age_ms(source->started_ms);
	report->started_s = (uint64_t)source->started_s;
	lm_message_text(&b, &report->root, source->root);
	lm_message_text(&b, &report->address, source->address);
	lm_message_text(&b, &report->source, source->from ? source->from : "fetcher");
	lm_message_text(&b, &report->on_miss, lm_on_miss_name(state.on_miss));
	lm_message_text(&b, &report->no_mapping, state.no_mapping.code ? lm_err_text(&state.no_mapping) : "");
	put_trees(&b, &state, report);
	put_mount_options(&b, &state.mount_options, report);
	put_fetcher(&b, source, report);
	put_counters(&b, source, report);
	put_sums(&g, report);
	put_sources(&b, &g, report);
	if (images)
		put_images(&b, &g, report);
	if (!b.failed)
		put_problems(&b, report);
	return b.failed ? NULL : STEAL(report);
}

void lm_report_free(StatusResponse *report)
{
	if (report)
		protobuf_c_message_free_unpacked(&report->base, NULL);
}

bool lm_report_is_healthy(const StatusResponse *report)
{
	bool healthy = true;
	for (size_t i = 0; i < report->n_problems; i++)
		healthy &= report->problems[i]->degraded;
	return healthy;
}
