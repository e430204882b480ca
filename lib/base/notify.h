/* Tells a service manager how a program is doing: sd_notify(3)'s protocol, a datagram to the socket in $NOTIFY_SOCKET.
 */
#ifndef LM_BASE_NOTIFY_H
#define LM_BASE_NOTIFY_H

#include "base/err.h"

/* state: "READY=1", "STOPPING=1", "STATUS=...", lines of these. Without $NOTIFY_SOCKET nothing happens, successfully.
 */
int lm_notify(const char *state, struct lm_err *err) MUST_CHECK;

/* The same with a descriptor, for FDSTORE=1. */
int lm_notify_fd(const char *state, int fd, struct lm_err *err) MUST_CHECK;

#endif
