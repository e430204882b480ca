/*
 * What a running snapshotter says of itself: one message (StatusResponse of proto/lamella/snapshotter.proto), gathered
 * from its records and counters, that everything else is made from: the status service, the metrics (metrics.h),
 * health.
 *
 * A layer is a committed snapshot that a client asked for by its chain id, or that is named by one. An image is what a
 * layer is the topmost of: cri.image-layers names those from a layer upwards, and nothing above its topmost; where a
 * client says no such thing, it is a layer without another of the same image above it.
 *
 * Gathering reads the store's mirror and takes short locks, and waits for nothing; any thread may do it.
 */
#ifndef LM_SNAPSHOTTER_REPORT_H
#define LM_SNAPSHOTTER_REPORT_H

#include "snapshotter/snapshots.h"

#include "lamella/snapshotter.pb-c.h"

struct lm_report_source { /* strings are the caller's */
	struct lm_snapshots *snapshots;
	const char *root, *address, *fetcher;
	const char *from; /* LAMELLA_SOURCE; NULL: the fetcher */
	unsigned timeout_ms;
	int64_t started_ms, started_s; /* by lm_now_ms(), and by the clock */
};

/* How long a question that was not answered makes the node unhealthy, while nobody asks another one. */
#define LM_REPORT_SILENCE_MS 60000

/* images: with all images and layers. NULL: out of memory. */
Lamella__Snapshotter__V1__StatusResponse *lm_report_new(const struct lm_report_source *source, bool images);
void lm_report_free(Lamella__Snapshotter__V1__StatusResponse *report);
LM_DEFINE_CLEANUP(Lamella__Snapshotter__V1__StatusResponse, lm_report_free, lm_report_freep)

/* No problem but such with which images still work. */
bool lm_report_is_healthy(const Lamella__Snapshotter__V1__StatusResponse *report);

#endif
