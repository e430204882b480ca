/*
 * Memory that a burst of requests left free goes back to the kernel when it is over.
 *
 * What requests allocate and free between them is scattered over the heaps, and free() gives back only what is at their
 * ends: a daemon that has read everything would keep a third more than it needs, and more with each time.
 */
#ifndef LM_FETCHER_TRIM_H
#define LM_FETCHER_TRIM_H

#include "fetcher/fetch.h"

enum { LM_TRIM_AFTER_MS = 2000 };

/* With each request; any thread. The heaps are trimmed once, LM_TRIM_AFTER_MS after the first of them, by a job of
 * fetch. Nothing happens where nothing is asked. */
void lm_trim_soon(struct lm_fetch *fetch);

#endif
