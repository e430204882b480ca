/*
 * For those who watch the snapshotter: the status service (proto/lamella/snapshotter.proto) on a socket of its own, and
 * over HTTP on another, and on a TCP address where one is wanted,
 *
 *   /metrics   the metrics (metrics.h)
 *   /healthz   200 while the fetcher answers or nothing was asked of it, else 503; a Health message as JSON, with all
 *              problems
 *   /status    the StatusResponse with all images and layers as JSON
 *
 * All of it comes from memory (report.h), on threads of its own.
 */
#ifndef LM_SNAPSHOTTER_WATCH_H
#define LM_SNAPSHOTTER_WATCH_H

#include "snapshotter/service.h"

struct lm_snapshots;
struct lm_watch;

/* What the options name; *ret is NULL where that is nothing. The options' strings and snapshots must outlive it. One
 * socket that can't be had does not keep the other from being served: it is logged. */
int lm_watch_new(const struct lm_service_options *options, struct lm_snapshots *snapshots, struct lm_watch **ret,
	struct lm_err *err) MUST_CHECK;
void lm_watch_free(struct lm_watch *watch);
LM_DEFINE_CLEANUP(struct lm_watch, lm_watch_free, lm_watch_freep)

#endif
