/*
 * Looks for layers in places (places.h) on behalf of those who can't wait: answers what the fetcher's Resolve would, in
 * its words (proto/lamella/fetcher.proto), in bounded time whatever the mounts do.
 *
 * All places are asked at the same time, for all layers, by a few threads each. The answer is that of the first place
 * in order that has a layer; one that can't say is passed over. A place from which nothing has come for
 * LM_LOOKER_PATIENCE_MS, though it was asked, hangs: it is not waited for any more, and asked once in
 * LM_LOOKER_RETRY_MS, until something comes.
 *
 * A thread that has asked a mount that hangs can be ended by nobody, nor can its process: this belongs into one that
 * has nothing else to lose (looker_process.h). Threads are detached for that reason; at most LM_LOOKER_THREADS_MAX of a
 * place exist.
 *
 * Whether a layer of stock tools marks deletions is remembered; finding out goes on when the call that wanted to know
 * has been answered.
 */
#ifndef LM_SNAPSHOTTER_LOOKER_H
#define LM_SNAPSHOTTER_LOOKER_H

#include "rpc/rpc.h"
#include "snapshotter/places.h"

enum {
	LM_LOOKER_PATIENCE_MS = 10000,
	LM_LOOKER_RETRY_MS = 30000,
	LM_LOOKER_THREADS = 8,	    /* of a place, that work */
	LM_LOOKER_THREADS_MAX = 32, /* with those that hang */
	LM_LOOKER_KNOWN_MAX = 4096, /* layers of stock tools */
	LM_LOOKER_LAYERS_MAX = 512, /* asked for at once, as of the fetcher */
};

struct lm_looker;

/* How a place is looked at; tests have others. */
struct lm_looker_ways {
	int (*find)(const char *directory, const struct lm_place_names *names, struct lm_place_layer *ret,
		struct lm_err *err);
	int (*marks)(const char *path, lm_place_alive_fn *alive, void *arg, char **ret, struct lm_err *err);
	int64_t (*now_ms)(void);
};
extern const struct lm_looker_ways lm_looker_ways; /* those of places.h */

/* places and ways must outlive it. */
int lm_looker_new(const struct lm_places *places, const struct lm_looker_ways *ways, struct lm_looker **ret,
	struct lm_err *err) MUST_CHECK;
/* Waits for the threads; where some don't come back within a second, what they use stays. */
void lm_looker_free(struct lm_looker *looker);
LM_DEFINE_CLEANUP(struct lm_looker, lm_looker_free, lm_looker_freep)

/* Answers the call, whose request is a ResolveRequest, before it returns. Trees are never there. */
void lm_looker_handle(struct lm_looker *looker, struct lm_rpc_call *call);

#endif
