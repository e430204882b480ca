/*
 * The metrics of `lamella sync`, in Prometheus' text format (net/exposition.h): one table says name, type, help and
 * where the value stands.
 *
 * Names are lamella_sync_WHAT[_UNIT][_total]. Labels name repositories and images of the wish list, and nothing that
 * strangers can choose.
 */
#ifndef LM_TOOLS_SYNC_METRICS_H
#define LM_TOOLS_SYNC_METRICS_H

#include "sync/syncer.h"

#define LM_SYNC_METRICS_MAX ((size_t)512 << 20)

/* Counted by the web server. */
struct lm_notify_counters {
	uint64_t received, events, others, unwished, refused, limited, malformed;
};

/* Appends all of them; the caller holds the lock that guards state and counters. -ENOMEM, -EMSGSIZE. */
int lm_sync_metrics(const struct lm_sync_counters *counters, const struct lm_notify_counters *notify,
	const struct lm_sync_state *state, struct lm_buf *out) MUST_CHECK;

#endif
