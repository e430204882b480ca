#include "fetcher/layers.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/str.h"

#include <ctype.h>
#include <string.h>
#include <sys/queue.h>

typedef Lamella__Fetcher__V1__LayerAnswer LayerAnswer;
typedef Lamella__Fetcher__V1__LayerStatus LayerStatus;
typedef Lamella__Fetcher__V1__Count Count;
#define TYPE(name) (&lamella__fetcher__v1__##name##__descriptor)

enum {
	DIGEST_MAX = sizeof("sha256:") + 64,
	FQRN_MAX = 256,
	STATES = LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_UNAVAILABLE + 1
};

struct layer {
	TAILQ_ENTRY(layer) entry;
	char digest[DIGEST_MAX];
	Lamella__Fetcher__V1__LayerState state;
	char repository[FQRN_MAX];
	uint64_t revision, asked;
	char reason[LM_LAYERS_REASON_MAX];
	int64_t answered_ms;
};

struct lm_layers {
	struct lm_lock lock;
	/* under lock */
	TAILQ_HEAD(layer_list, layer) list; /* the one asked for last first; those never used at the end */
	uint64_t answers[STATES], tree_answers[STATES];
	struct layer layers[LM_LAYERS_KEPT];
};

int lm_layers_new(struct lm_layers **ret, struct lm_err *err)
{
	struct lm_layers *layers = calloc(1, sizeof(*layers));
	if (!layers)
		return lm_err_oom(err);
	lm_lock_init(&layers->lock);
	TAILQ_INIT(&layers->list);
	for (size_t i = 0; i < LM_LAYERS_KEPT; i++)
		TAILQ_INSERT_TAIL(&layers->list, &layers->layers[i], entry);
	*ret = layers;
	return 0;
}

void lm_layers_free(struct lm_layers *layers)
{
	if (!layers)
		return;
	lm_lock_done(&layers->lock);
	free(layers);
}

/* The layer's record, or that of the one that was not asked for for the longest time. */
static struct layer *find(struct lm_layers *layers, const char *digest)
{
	struct layer *layer;
	TAILQ_FOREACH(layer, &layers->list, entry)
	if (!*layer->digest || strcmp(layer->digest, digest) == 0)
		return layer;
	return TAILQ_LAST(&layers->list, layer_list);
}

static void copy(char *to, size_t size, const char *text)
{
	size_t len = strnlen(text, size - 1);
	memcpy(to, text, len);
	to[len] = '\0';
}

void lm_layers_note(struct lm_layers *layers, const LayerAnswer *answer)
{
	LM_LOCKED(&layers->lock);
	if ((unsigned)answer->state < STATES)
		layers->answers[answer->state]++;
	struct layer *layer = find(layers, answer->digest);
	if (strcmp(layer->digest, answer->digest) != 0) {
		copy(layer->digest, sizeof(layer->digest), answer->digest);
		layer->asked = 0;
	}
	layer->asked++;
	layer->state = answer->state;
	layer->revision = answer->revision;
	layer->answered_ms = lm_now_ms();
	copy(layer->repository, sizeof(layer->repository), answer->repository);
	copy(layer->reason, sizeof(layer->reason), answer->reason);
	TAILQ_REMOVE(&layers->list, layer, entry);
	TAILQ_INSERT_HEAD(&layers->list, layer, entry);
}

void lm_layers_note_tree(struct lm_layers *layers, Lamella__Fetcher__V1__LayerState state)
{
	LM_LOCKED(&layers->lock);
	if ((unsigned)state < STATES)
		layers->tree_answers[state]++;
}

static void add_layer(
	struct lm_message_builder *b, const struct layer *layer, Lamella__Fetcher__V1__StatusResponse *status)
{
	LayerStatus *m = lm_message_add(b, TYPE(layer_status), &status->layers, &status->n_layers);
	if (!m)
		return;
	lm_message_text(b, &m->digest, layer->digest);
	m->state = layer->state;
	lm_message_text(b, &m->repository, layer->repository);
	m->revision = layer->revision;
	lm_message_text(b, &m->reason, layer->reason);
	m->age_ms = (uint64_t)(lm_now_ms() - layer->answered_ms);
	m->asked = layer->asked;
}

/* "LAYER_FAITHFUL": "faithful" */
static void name_count(struct lm_message_builder *b, unsigned state, uint64_t count, Count *m)
{
	const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(TYPE(layer_state), (int)state);
	if (!m)
		return;
	lm_message_text(b, &m->name, value->name + strlen("LAYER_"));
	for (char *c = m->name; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	m->count = count;
}

void lm_layers_describe(struct lm_layers *layers, bool list, struct lm_message_builder *builder,
	Lamella__Fetcher__V1__StatusResponse *status)
{
	LM_LOCKED(&layers->lock);
	for (unsigned state = 1; state < STATES; state++) {
		name_count(builder, state, layers->answers[state],
			lm_message_add(builder, TYPE(count), &status->layer_answers, &status->n_layer_answers));
		if (state != LAMELLA__FETCHER__V1__LAYER_STATE__LAYER_LOSSY)
			name_count(builder, state, layers->tree_answers[state],
				lm_message_add(builder, TYPE(count), &status->tree_answers, &status->n_tree_answers));
	}
	const struct layer *layer;
	TAILQ_FOREACH(layer, &layers->list, entry)
	if (list && *layer->digest)
		add_layer(builder, layer, status);
}
