/*
 * Shows a conversion as it goes on, in one of three ways:
 *
 *   lines    one for each layer that is done, by lm_cli_say()
 *   live     the same on a terminal, with a panel below that a thread redraws five times a second while there is
 *            something to see
 *   json     events on standard output, one object a line; see lamella(1), CONVERSION EVENTS
 *
 * The events of a layer under way come once a second. When an event is out, so are all before it.
 */
#ifndef LM_TOOLS_REPORTER_H
#define LM_TOOLS_REPORTER_H

#include "convert/progress.h"

#include <jansson.h>

struct lm_reporter;
/* json: that way; else live where standard error can show it. */
int lm_reporter_new(bool json, struct lm_reporter **ret, struct lm_err *err) MUST_CHECK;
/* Takes the panel away. */
void lm_reporter_free(struct lm_reporter *reporter);
LM_DEFINE_CLEANUP(struct lm_reporter, lm_reporter_free, lm_reporter_freep)

/* What a conversion is to tell; the reporter's. */
struct lm_progress *lm_reporter_progress(struct lm_reporter *reporter);

/* An event of the program's own; takes the reference. Nothing without json. NULL (no memory): said. */
void lm_reporter_event(struct lm_reporter *reporter, json_t *event);

#endif
