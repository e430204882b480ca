/*
 * A web server for tests that answers as it is told: on 127.0.0.1 and, on the same port, on 127.0.0.2. One connection
 * at a time, closed after each answer. The handler writes the whole answer, status line included.
 */
#ifndef LM_TESTS_OCI_LIAR_H
#define LM_TESTS_OCI_LIAR_H

#include "base/file.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

struct liar;

struct liar_request {
	char path[1024];
	char head[4096]; /* all of it */
	bool elsewhere;	 /* came to 127.0.0.2 */
};

struct liar {
	void (*handler)(struct liar *liar, const struct liar_request *request, int fd);
	unsigned port;
	/* the server's thread only, and after liar_stop() */
	int listeners[2], stop[2];
	pthread_t thread;
};

static inline void liar_say(int fd, const char *head, const void *body, size_t len)
{
	char text[4096];
	snprintf(text, sizeof(text), "HTTP/1.1 %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", head, len);
	/* The client may have gone away in disgust. */
	if (lm_write_all(fd, text, strlen(text), NULL) == 0)
		(void)!lm_write_all(fd, body, len, NULL);
}

static inline void liar_serve(struct liar *liar, int fd, bool elsewhere)
{
	struct liar_request request = {.elsewhere = elsewhere};
	size_t len = 0;
	while (!strstr(request.head, "\r\n\r\n") && len + 1 < sizeof(request.head)) {
		ssize_t n = read(fd, request.head + len, sizeof(request.head) - 1 - len);
		if (n <= 0)
			return;
		len += (size_t)n;
	}
	if (sscanf(request.head, "GET %1023s", request.path) == 1)
		liar->handler(liar, &request, fd);
	/* An answer is lost when the socket is closed with bytes unread; there are none after a GET. */
}

static inline void *liar_main(void *arg)
{
	struct liar *liar = arg;
	for (;;) {
		struct pollfd fds[] = {
			{liar->stop[0], POLLIN, 0}, {liar->listeners[0], POLLIN, 0}, {liar->listeners[1], POLLIN, 0}};
		poll(fds, 3, -1);
		if (fds[0].revents)
			return NULL;
		for (int i = 0; i < 2; i++) {
			CLEANUP(lm_closep) int fd = fds[i + 1].revents ? accept(liar->listeners[i], NULL, NULL) : -1;
			if (fd >= 0)
				liar_serve(liar, fd, i == 1);
		}
	}
}

static inline int liar_listen(const char *address, unsigned port)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	inet_pton(AF_INET, address, &in.sin_addr);
	if (bind(fd, (struct sockaddr *)&in, sizeof(in)) < 0 || listen(fd, 16) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static inline int liar_start(struct liar *liar)
{
	struct sockaddr_in in;
	socklen_t len = sizeof(in);
	/* Another process may have the port on the other address: try again. */
	for (int tries = 0; tries < 20; tries++) {
		liar->listeners[0] = liar_listen("127.0.0.1", 0);
		if (liar->listeners[0] < 0 || getsockname(liar->listeners[0], (struct sockaddr *)&in, &len) < 0)
			return -1;
		liar->port = ntohs(in.sin_port);
		liar->listeners[1] = liar_listen("127.0.0.2", liar->port);
		if (liar->listeners[1] >= 0)
			return pipe(liar->stop) < 0 ? -1 : -pthread_create(&liar->thread, NULL, liar_main, liar);
		close(liar->listeners[0]);
	}
	return -1;
}

static inline void liar_stop(struct liar *liar)
{
	(void)!write(liar->stop[1], "", 1);
	pthread_join(liar->thread, NULL);
	for (int i = 0; i < 2; i++) {
		close(liar->listeners[i]);
		close(liar->stop[i]);
	}
}

#endif
