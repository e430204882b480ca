/*
 * The layers that were asked for lately, and what was answered: for people who look at a node, nothing else depends on
 * it. The LM_LAYERS_KEPT that were asked for last are remembered. Any thread may call.
 */
#ifndef LM_FETCHER_LAYERS_H
#define LM_FETCHER_LAYERS_H

#include "fetcher/status.h"

enum { LM_LAYERS_KEPT = 256, LM_LAYERS_REASON_MAX = 192 };

struct lm_layers;

int lm_layers_new(struct lm_layers **ret, struct lm_err *err) MUST_CHECK;
void lm_layers_free(struct lm_layers *layers);
LM_DEFINE_CLEANUP(struct lm_layers, lm_layers_free, lm_layers_freep)

/* An answer went out. Longer reasons are cut. */
void lm_layers_note(struct lm_layers *layers, const Lamella__Fetcher__V1__LayerAnswer *answer);

/* The same of the merged tree of layers. */
void lm_layers_note_tree(struct lm_layers *layers, Lamella__Fetcher__V1__LayerState state);

/* Fills the status: how often each state was answered, and with list the layers, the one asked for last first. */
void lm_layers_describe(struct lm_layers *layers, bool list, struct lm_message_builder *builder,
	Lamella__Fetcher__V1__StatusResponse *status);

#endif
