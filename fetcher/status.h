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

/*
 * Messages are trees on the heap, freed by protobuf_c_message_free_unpacked(). When memory is short, `failed` is set,
 * and what is missing stays empty.
 */
struct lm_message_builder {
	bool failed;
};
void *lm_message_new(struct lm_message_builder *builder, const ProtobufCMessageDescriptor *type);
/* A new element of a repeated field: lm_message_add(&builder, &type, &m->servers, &m->n_servers). NULL: no memory. */
#define lm_message_add(builder, type, array, count) lm_message_append((builder), (type), (void ***)(array), (count))
void *lm_message_append(
	struct lm_message_builder *builder, const ProtobufCMessageDescriptor *type, void ***array, size_t *count);
/* Strings may be of any origin, messages have UTF-8 only: bytes outside of printable ASCII become \xHH. */
void lm_message_text(struct lm_message_builder *builder, char **field, const char *text);

#endif
