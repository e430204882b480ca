/*
 * Pages that a daemon shows to those who watch it (metrics, health, status), over HTTP (GET and HEAD): on a Unix
 * socket, and on a TCP address where one is wanted.
 *
 * One thread for each of the two; at most LM_PAGES_CONNECTIONS at once, of which one that is silent for LM_PAGES_IDLE_S
 * is closed. Nothing of the daemon waits for a client.
 */
#ifndef LM_NET_PAGES_H
#define LM_NET_PAGES_H

#include "base/buf.h"

enum { LM_PAGES_CONNECTIONS = 16, LM_PAGES_IDLE_S = 10, LM_PAGES_MAX = 16 << 20 };

#define LM_PAGES_UNAVAILABLE 503 /* for *ret_code of something that is not healthy */

struct lm_page {
	const char *path, *type; /* "/metrics", its content type */
	/* Fills the body, of LM_PAGES_MAX bytes at most; *ret_code is 200 before. Called on the server's threads. A
	 * negative result: the client gets an internal server error. */
	int (*fill)(void *arg, struct lm_buf *body, unsigned *ret_code);
};

struct lm_pages;

/* socket: the path of the Unix socket (mode 0600; its directory is made (0700) where missing; a stale one is replaced,
 * one that somebody answers on is -EADDRINUSE); address: "127.0.0.1:9100", "[::1]:9100"; NULL or "": none. pages (an
 * array that ends with a path of NULL) and arg must outlive it. */
int lm_pages_new(const char *socket, const char *address, const struct lm_page *pages, void *arg, struct lm_pages **ret,
	struct lm_err *err) MUST_CHECK;
void lm_pages_free(struct lm_pages *pages); /* removes the socket, joins the threads */
LM_DEFINE_CLEANUP(struct lm_pages, lm_pages_free, lm_pages_freep)

/* RUN/NAME.sock has another of the daemon's sockets beside it: RUN/NAME-SUFFIX.sock. The caller frees; NULL when out of
 * memory. */
char *lm_pages_socket_beside(const char *socket, const char *suffix);

#endif
