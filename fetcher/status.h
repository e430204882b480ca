/*
 * What a running fetcher says of itself: one message (StatusResponse of proto/lamella/fetcher.proto), gathered from the
 * counters of all parts, that everything else is made from: `lamella status`, the metrics (metrics.h), /healthz.
 *
 * Gathering takes each part's lock for a moment, waits for nothing, and costs the same however much is cached or
 * mounted; any thread may do it.
 */
#ifndef LM_FETCHER_STATUS_H
#define LM_FETCHER_STATUS_H

#include "lamella/fetcher.pb-c.h"

#include "base/err.h"
#include "rpc/build.h"

#include <stdbool.h>

struct lm_control_config;

/* layers: with those that were asked for lately. NULL: out of memory. */
Lamella__Fetcher__V1__StatusResponse *lm_status_new(const struct lm_control_config *config, bool layers);
/* One repository's part of it. */
Lamella__Fetcher__V1__RepositoryStatus *lm_status_repository_new(const struct lm_control_config *config, size_t index);

void lm_status_free(Lamella__Fetcher__V1__StatusResponse *status);
LM_DEFINE_CLEANUP(Lamella__Fetcher__V1__StatusResponse, lm_status_free, lm_status_freep)

/* True when everything that is configured is served, if only from the cache. */
bool lm_status_is_healthy(const Lamella__Fetcher__V1__StatusResponse *status);

#endif
