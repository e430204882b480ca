#include "base/log.h"
#include "base/str.h"
#include "rpc/rpc_internal.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define EXHAUSTED_PAUSE_MS 100

struct lm_rpc_listener {
	/* constant after lm_rpc_listen() */
	char *path;
	int fd, wake_fd;
	struct stat identity; /* of the socket file: another server may have put its own there since */
	bool bound, started;
	pthread_t thread;
	void (*accepted)(void *arg, int fd);
	void *arg;
};

static int address_of(const char *path, struct sockaddr_un *ret, struct lm_err *err)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(ret->sun_path))
		return lm_err_set(
			err, -ENAMETOOLONG, "socket path of more than %zu bytes: %s", sizeof(ret->sun_path) - 1, path);
	strcpy(ret->sun_path, path);
	return 0;
}

/* A socket file without a server refuses connections; anything but a socket is not ours to replace. */
static int check_stale(const char *path, struct lm_err *err)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : lm_err_sys(err, -errno, "%s", path);
	if (!S_ISSOCK(st.st_mode))
		return lm_err_set(err, -EEXIST, "%s is there and is not a socket", path);
	struct sockaddr_un address;
	int r = address_of(path, &address, err);
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return lm_err_sys(err, -errno, "socket");
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno != EAGAIN)
		return 0;
	return lm_err_set(err, -EADDRINUSE, "%s: a server is listening there", path);
}

/*
 * The socket gets its mode before it has a name, and its final name only when it listens. The queue is as long as may
 * be: grpc's client (1.51) takes the EAGAIN of a full one for a connection under way, and fails.
 */
static int bind_and_listen(struct lm_rpc_listener *listener, struct lm_err *err)
{
	CLEANUP(lm_freep) char *tmp = lm_str_printf("%s.new", listener->path);
	if (!tmp)
		return lm_err_oom(err);
	struct sockaddr_un address;
	int r = address_of(tmp, &address, err);
	if (r < 0)
		return r;
	(void)unlink(tmp);
	listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener->fd < 0)
		return lm_err_sys(err, -errno, "socket");
	if (fchmod(listener->fd, 0600) < 0 || bind(listener->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return lm_err_sys(err, -errno, "%s: bind", listener->path);
	if (listen(listener->fd, SOMAXCONN) < 0 || lstat(tmp, &listener->identity) < 0 ||
		rename(tmp, listener->path) < 0) {
		r = -errno;
		(void)unlink(tmp);
		return lm_err_sys(err, r, "%s: listen", listener->path);
	}
	listener->bound = true;
	return 0;
}

/* Returns false when there are no descriptors or memory left. */
static bool accept_all(struct lm_rpc_listener *listener)
{
	for (;;) {
		int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
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
		struct pollfd fds[] = {{listener->wake_fd, POLLIN, 0}, {listener->fd, POLLIN, 0}};
		if (poll(fds, exhausted ? 1 : 2, exhausted ? EXHAUSTED_PAUSE_MS : -1) < 0 && errno != EINTR)
			return NULL;
		if (fds[0].revents)
			return NULL;
		exhausted = !accept_all(listener);
		static struct lm_log_limit limit;
		if (exhausted && lm_log_limit_pass(&limit, 60000, NULL))
			lm_log(LM_LOG_ERROR, "connection not accepted, trying again",
				LM_KV("socket", "%s", listener->path), LM_KV("reason", "%m"));
	}
}

int lm_rpc_listen(const char *path, void (*accepted)(void *arg, int fd), void *arg, struct lm_rpc_listener **ret,
	struct lm_err *err)
{
	CLEANUP(lm_rpc_listener_freep) struct lm_rpc_listener *listener = calloc(1, sizeof(*listener));
	if (!listener)
		return lm_err_oom(err);
	listener->fd = listener->wake_fd = -1;
	listener->accepted = accepted;
	listener->arg = arg;
	listener->path = strdup(path);
	if (!listener->path)
		return lm_err_oom(err);
	int r = check_stale(path, err);
	if (r == 0)
		r = bind_and_listen(listener, err);
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
	struct stat st;
	if (listener->bound && lstat(listener->path, &st) == 0 && st.st_dev == listener->identity.st_dev &&
		st.st_ino == listener->identity.st_ino)
		(void)unlink(listener->path);
	lm_closep(&listener->fd);
	lm_closep(&listener->wake_fd);
	free(listener->path);
	free(listener);
}
