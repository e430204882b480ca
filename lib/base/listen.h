/*
 * Sockets to listen on. All descriptors are close-on-exec and never block; the queue is as long as may be (grpc's
 * client, 1.51, takes the EAGAIN of a full one for a connection under way, and fails).
 */
#ifndef LM_BASE_LISTEN_H
#define LM_BASE_LISTEN_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/stat.h>

/* A listening Unix socket and its file. */
struct lm_listen {
	int fd;
	char *path;
	struct stat identity; /* of the file: another server may have put its own there since */
};
#define LM_LISTEN_INIT   \
	{                \
		.fd = -1 \
	}

/*
 * Mode 0600 before it has its name, and the name only when it listens. A file that nobody listens at is replaced; one
 * with a server is -EADDRINUSE, one that is no socket -EEXIST. ret is set on success only.
 */
int lm_listen_unix(const char *path, struct lm_listen *ret, struct lm_err *err) MUST_CHECK;
/* Closes, and removes the file if it is still ours. For CLEANUP. */
void lm_listen_done(struct lm_listen *listener);

/* "ADDRESS:PORT", "[V6]:PORT"; port 0: a free one. Returns the descriptor; -EINVAL: the text is wrong. */
int lm_listen_tcp(const char *text, struct lm_err *err) MUST_CHECK;
/* Where that listens, "http://ADDRESS:PORT". The caller frees; NULL: it can't be told. */
char *lm_listen_url(int fd);

#endif
