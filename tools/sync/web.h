/*
 * What `lamella sync` listens for: registries' notifications; and what it shows to those who watch it.
 *
 *   POST /notify   notifications (events.h): 202 taken, whatever they are about; 400 not understood; 401 without the
 *                  secret; 404 where there is no secret; 413 larger than LM_EVENTS_TEXT_MAX; 429, 503 too many
 *
 *   GET /metrics   metrics.h
 *
 *   GET /healthz   200, or 503 when the wish list or a repository is wrong; as JSON, with all problems
 *
 * The secret is a text that stands in the Authorization header, after "Bearer " or alone. It is compared in constant
 * time and never shown; nothing of a request is read or kept before it fits.
 *
 * A thread of its own; converting never waits for it.
 */
#ifndef LM_TOOLS_SYNC_WEB_H
#define LM_TOOLS_SYNC_WEB_H

#include "sync/inbox.h"
#include "sync/syncer.h"

enum {
	LM_SYNC_CONNECTIONS = 64,
	LM_SYNC_IDLE_S = 10,
	LM_SYNC_BURST = 200,	 /* notifications at once */
	LM_SYNC_PER_S = 50,	 /* and as a rule */
	LM_SYNC_SECRET_MIN = 16, /* characters */
	LM_SYNC_SECRET_MAX = 1024,
};

struct lm_sync_web;

/* address: ADDRESS:PORT (port 0: a free one), or unix:PATH. secret: file whose first line it is, NULL: none. syncer and
 * inbox outlive the web. */
int lm_sync_web_new(const char *address, const char *secret, struct lm_syncer *syncer, struct lm_inbox *inbox,
	const struct lm_sync_state *state, struct lm_sync_web **ret, struct lm_err *err) MUST_CHECK;
void lm_sync_web_free(struct lm_sync_web *web);
LM_DEFINE_CLEANUP(struct lm_sync_web, lm_sync_web_free, lm_sync_web_freep)

/* Reads the secret again; where that fails the old one stays. The thread that made the web. */
int lm_sync_web_reload(struct lm_sync_web *web, struct lm_err *err) MUST_CHECK;
/* Where it listens, for people. */
const char *lm_sync_web_where(const struct lm_sync_web *web);

#endif
