/*
 * The snapshots service: what containerd asks of a snapshotter, on a Unix socket.
 *
 * Methods that need the records alone, of which they make a change durable at most, those that look into directories
 * and those that make snapshots have threads of their own each (lanes of rpc.h), and of the last those that have to ask
 * the fetcher have others: what is wanted of a layer that it serves, or may serve. Stat, and Mounts over ordinary
 * layers, are answered from memory at once. So Stat, Usage, List, Remove, Commit, Cleanup and ordinary snapshots never
 * wait for a network.
 *
 * A second socket tells those who watch what the service does (watch.h).
 *
 * ROOT/store.db has the records, ROOT/snapshots the directories, ROOT/lock keeps a second process out. A killed process
 * leaves nothing that matters: a directory is on disk before its row in the store, a row is gone before its directory,
 * and directories without a row are dropped after the start and at each Cleanup. What a row names is never deleted, and
 * a damaged store is made again of what the directories say themselves: rebuild.h.
 */
#ifndef LM_SNAPSHOTTER_SERVICE_H
#define LM_SNAPSHOTTER_SERVICE_H

#include "snapshotter/policy.h"

struct lm_service;

struct lm_service_options {
	const char *root;
	const char *address; /* socket to listen on; its directory is made (0700) where missing, also of those below */
	const char *fetcher; /* socket of the fetcher, or of what is asked instead (looker_process.h) */
	const char *source;  /* as LAMELLA_SOURCE (places.h) says what that looks into; NULL: it is the fetcher */
	enum lm_on_miss on_miss;
	unsigned resolve_timeout_ms;
	const char *status;	     /* socket of the status service (watch.h); NULL: none */
	const char *metrics;	     /* socket of the metrics; NULL: none */
	const char *metrics_address; /* and "ADDRESS:PORT" beside it; NULL or "": none */
	bool trees;		     /* use merged trees of chains (trees.h) where there are any and the kernel can */
};

/*
 * Opens the state under root and serves. -EBUSY: another process has it. -EPROTO: it was made by a later version, and
 * nothing of it can be read. In both nothing was changed.
 */
int lm_service_start(const struct lm_service_options *options, struct lm_service **ret, struct lm_err *err) MUST_CHECK;
/* Mounts, directories and records stay as they are. */
void lm_service_stop(struct lm_service *service);
LM_DEFINE_CLEANUP(struct lm_service, lm_service_stop, lm_service_stopp)

/* What happened since the start. */
enum lm_counter {
	LM_COUNT_LAYERS_LAZY,	       /* layers answered as there already */
	LM_COUNT_LAYERS_SHARED,	       /* of these: had been provided before, for another client */
	LM_COUNT_LAYERS_LOSSY,	       /* of these: the publisher had dropped owners or attributes */
	LM_COUNT_FALLBACK_UNNAMED,     /* ordinary, because the client named no digest */
	LM_COUNT_FALLBACK_ABSENT,      /* ordinary, because no repository has the layer */
	LM_COUNT_FALLBACK_UNAVAILABLE, /* ordinary, because the fetcher said that it can't say or serve it now */
	LM_COUNT_FALLBACK_UNREACHABLE, /* ordinary, because nobody listened at the fetcher's socket */
	LM_COUNT_FALLBACK_TIMED_OUT,   /* ordinary, because the fetcher did not answer in time */
	LM_COUNT_FALLBACK_LOCAL,       /* ordinary, because of a failure here */
	LM_COUNT_PULLS_REFUSED,	       /* of the ordinary ones: refused instead, by LAMELLA_ON_MISS=fail */
	LM_COUNT_STARTS_REFUSED,       /* mounts refused because a layer is not being served */
	LM_COUNT_TREES_USED,	       /* mounts handed out over the merged tree of their layers */
	LM_COUNT_TREES_ABSENT,	       /* over the layers themselves, of which no repository has a tree */
	LM_COUNT_TREES_FAILED,	       /* over the layers themselves, because their tree could not be used */
	LM_COUNT_SNAPSHOTS_MADE,       /* active ones and views */
	LM_COUNT_REMOVED,
	LM_COUNT_DIRECTORIES_DROPPED,
	LM_COUNT_SNAPSHOTS_REBUILT, /* at the start, because the store was damaged */
	LM_COUNT_DIRECTORIES_KEPT,  /* at the start: named by nothing and deleted by nobody */
	LM_COUNTERS
};
uint64_t lm_service_count(const struct lm_service *service, enum lm_counter counter);
const char *lm_counter_name(enum lm_counter counter);
const char *lm_counter_help(enum lm_counter counter);
/* One line with all of them, and one of merged trees. */
void lm_service_log_counters(const struct lm_service *service);

#endif
