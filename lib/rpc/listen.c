#include "base/listen.h"
#include "base/log.h"
#include "rpc/rpc_internal.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define EXHAUSTED_PAUSE_MS 100

struct lm_rpc_listener {
	/* constant after lm_rpc_listen() */
	struct lm_listen socket;
	int wake_fd;
	bool started;
	pthread_t thread;
	void (*accepted)(void *arg, int fd);
	void *arg;
};

/* Returns false when there are no descriptors or memory left. */
static bool accept_all(struct lm_rpc_listener *listener)
{
	for (;;) {
		int fd = accept4(listener->socket.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			listener->accepted(listener->arg, fd);
		else if (errno == EAGAIN)
			return true;
		else if (errno != EINTR && errno != ECONNABORTED)
			return false;
	}
}

static void *accept_thread(void *arg)
{
	struct lm_rpc_listener *listener = arg;
	pthread_setname_np(pthread_self(), "rpc-accept");
	bool exhausted = false;
	for (;;) {
		/* Out of descriptors, the socket stays readable: look again a little later instead of spinning. */
		struct pollfd fds[] = {{listener->wake_fd, POLLIN, 0}, {listener->socket.fd, POLLIN, 0}};
		if (poll(fds, exhausted ? 1 : 2, exhausted ? EXHAUSTED_PAUSE_MS : -1) < 0 && errno != EINTR)
			return NULL;
		if (fds[0].revents)
			return NULL;
		exhausted = !accept_all(listener);
		static struct lm_log_limit limit;
		if (exhausted && lm_log_limit_pass(&limit, 60000, NULL))
			lm_log(LM_LOG_ERROR, "connection not accepted, trying again",
				LM_KV("socket", "%s", listener->socket.path), LM_KV("reason", "%m"));
	}
}

int lm_rpc_listen(const char *path, void (*accepted)(void *arg, int fd), void *arg, struct lm_rpc_listener **ret,
	struct lm_err *err)
{
	CLEANUP(lm_rpc_listener_freep) struct lm_rpc_listener *listener = calloc(1, sizeof(*listener));
	if (!listener)
		return lm_err_oom(err);
	listener->socket = (struct lm_listen)LM_LISTEN_INIT;
	listener->wake_fd = -1;
	listener->accepted = accepted;
	listener->arg = arg;
	int r = lm_listen_unix(path, &listener->socket, err);
	if (r < 0)
		return r;
	listener->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (listener->wake_fd < 0)
		return lm_err_sys(err, -errno, "eventfd");
	r = -pthread_create(&listener->thread, NULL, accept_thread, listener);
	if (r < 0)
		return lm_err_sys(err, r, "start the accepting thread");
	listener->started = true;
	*ret = STEAL(listener);
	return 0;
}

void lm_rpc_listener_free(struct lm_rpc_listener *listener)
{
	if (!listener)
		return;
	if (listener->started) {
		eventfd_write(listener->wake_fd, 1);
		pthread_join(listener->thread, NULL);
	}
	lm_listen_done(&listener->socket);
	lm_closep(&listener->wake_fd);
	free(listener);
}
