/*
 * What a fetcher shows to those who watch it, over HTTP (GET and HEAD): on a Unix socket beside the control socket, and
 * on a TCP address where the settings name one.
 *
 *   /metrics   the metrics (metrics.h)
 *   /healthz   200 when everything configured is served, if only from the cache, else 503; a Health message as JSON,
 *              with all problems
 *   /status    the StatusResponse of the control service as JSON
 *
 * net/pages.h says how.
 */
#ifndef LM_FETCHER_WEB_H
#define LM_FETCHER_WEB_H

#include "base/err.h"

struct lm_control_config;
struct lm_web;

/* socket: the path of the Unix socket (mode 0600; its directory is made (0700) where missing; a stale one is replaced,
 * one that somebody answers on is -EADDRINUSE); address: "127.0.0.1:9100", "[::1]:9100"; NULL or "": none. status must
 * outlive the web. */
int lm_web_new(const char *socket, const char *address, const struct lm_control_config *status, struct lm_web **ret,
	struct lm_err *err) MUST_CHECK;
void lm_web_free(struct lm_web *web); /* removes the socket, joins the threads */
LM_DEFINE_CLEANUP(struct lm_web, lm_web_free, lm_web_freep)

#endif
