/* Telling a service manager (or whoever set NOTIFY_SOCKET) how far we are; the protocol of sd_notify(3). */
#ifndef LM_FETCHER_NOTIFY_H
#define LM_FETCHER_NOTIFY_H

#include "base/err.h"

/* Sends e.g. "READY=1". 0 also when nobody asked to be told. */
int lm_notify(const char *state, struct lm_err *err) MUST_CHECK;

#endif
