/*
 * Resolve calls of the control service: where are these layers?
 *
 * All layers of a request are looked up at the same time, each a small struct that waits for catalogs like a parked
 * file operation does. A layer that is not there makes the repositories that were not asked for a while look for a new
 * revision, and is looked up once more. In each repository a layer is looked for by its digest, then by chain id and
 * diff id through the repository's index (repo/images.h), where it has one. The answer goes out when everything is
 * known, or at the deadline with what is.
 */
#ifndef LM_FETCHER_RESOLVE_H
#define LM_FETCHER_RESOLVE_H

#include "lamella/fetcher.pb-c.h"
#include "rpc/rpc.h"

struct lm_control_config;
struct lm_resolver;

/* config must outlive the resolver. */
int lm_resolver_new(const struct lm_control_config *config, struct lm_resolver **ret, struct lm_err *err) MUST_CHECK;

/* Answers the call, whose request is a ResolveRequest, now or later. */
void lm_resolver_handle(struct lm_resolver *resolver, struct lm_rpc_call *call);

/* Answers what is waiting, with what is known; later calls are refused. */
void lm_resolver_stop(struct lm_resolver *resolver);
/* After stop, and after all downloads and timers ended. */
void lm_resolver_free(struct lm_resolver *resolver);
LM_DEFINE_CLEANUP(struct lm_resolver, lm_resolver_free, lm_resolver_freep)

#endif
