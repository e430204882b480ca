/*
 * What registries send when something was pushed, understood as far as it matters: which tag of which repository.
 *
 *   distribution   {"events": [{"action": "push", "target": {"repository": "group/name", "tag": "1.0", …}, …}]}
 *                  (application/vnd.docker.distribution.events.v1+json; pushes of layers come without a tag)
 *   Harbor         {"type": "PUSH_ARTIFACT", "event_data": {"repository": {"repo_full_name": "group/name", …},
 *                   "resources": [{"tag": "1.0", …}]}}
 *
 * By which name the registry was spoken to is not looked at: behind a proxy it does not know. An event only makes us
 * look at what the wish list names anyway.
 */
#ifndef LM_TOOLS_EVENTS_H
#define LM_TOOLS_EVENTS_H

#include "base/err.h"

enum { LM_EVENTS_MAX = 1000 /* in one message */, LM_EVENTS_TEXT_MAX = 1 << 20 };

/* A valid repository name (no host) and tag, and the digest that it is to stand for; "": not said. Non-zero stops and
 * is returned. */
typedef int lm_event_fn(void *arg, const char *repository, const char *tag, const char *digest);

/* Calls fn for every tag that was pushed; *ret_others: events of other kinds. -EPROTO: neither of the two; fn may have
 * been called. */
int lm_events_parse(
	const char *json, size_t len, lm_event_fn *fn, void *arg, size_t *ret_others, struct lm_err *err) MUST_CHECK;

#endif
