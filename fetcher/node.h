/*
 * Everything a running lamella-fetcher consists of, put together and taken apart in the right order.
 *
 *   lm_node_start() - lm_node_wait() - lm_node_stop()
 *
 * Repositories take their first looks at the same time; each is mounted when it has a root. One that has none then is
 * mounted as soon as a later look succeeds; until then the control service says why it is not.
 */
#ifndef LM_FETCHER_NODE_H
#define LM_FETCHER_NODE_H

#include "fetcher/settings.h"

struct lm_node;

/* Returns 0 when the first looks have ended and the control socket listens. With settings->require_mounts it is an
 * error, that of the first one, when a repository is not mounted then. */
int lm_node_start(struct lm_settings *settings, struct lm_node **ret, struct lm_err *err) MUST_CHECK;

/* Unmounts, ends downloads, joins all threads. NULL is fine. */
void lm_node_stop(struct lm_node *node);
LM_DEFINE_CLEANUP(struct lm_node, lm_node_stop, lm_node_stopp)

/* A descriptor that becomes readable when the last mount was taken away from outside. */
int lm_node_idle_fd(const struct lm_node *node);

#endif
