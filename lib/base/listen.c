#include "base/listen.h"

#include "base/str.h"

#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

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

static int bind_and_listen(struct lm_listen *listener, struct lm_err *err)
{
	const char *path = listener->path;
	CLEANUP(lm_freep) char *tmp = lm_str_printf("%s.new", path);
	if (!tmp)
		return lm_err_oom(err);
	struct sockaddr_un address;
	int r = address_of(tmp, &address, err);
	if (r < 0)
		return r;
	(void)unlink(tmp);
	CLEANUP(lm_closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return lm_err_sys(err, -errno, "socket");
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return lm_err_sys(err, -errno, "%s: bind", path);
	if (listen(fd, SOMAXCONN) < 0 || lstat(tmp, &listener->identity) < 0 || rename(tmp, path) < 0) {
		r = -errno;
		(void)unlink(tmp);
		return lm_err_sys(err, r, "%s: listen", path);
	}
	listener->fd = STEAL_FD(fd);
	return 0;
}

int lm_listen_unix(const char *path, struct lm_listen *ret, struct lm_err *err)
{
	CLEANUP(lm_listen_done) struct lm_listen listener = LM_LISTEN_INIT;
	listener.path = strdup(path);
	if (!listener.path)
		return lm_err_oom(err);
	int r = check_stale(path, err);
	if (r == 0)
		r = bind_and_listen(&listener, err);
	if (r < 0)
		return r;
	*ret = listener;
	listener = (struct lm_listen)LM_LISTEN_INIT;
	return 0;
}

void lm_listen_done(struct lm_listen *listener)
{
	struct stat st;
	if (listener->fd >= 0 && lstat(listener->path, &st) == 0 && st.st_dev == listener->identity.st_dev &&
		st.st_ino == listener->identity.st_ino)
		(void)unlink(listener->path);
	lm_closep(&listener->fd);
	free(STEAL(listener->path));
}

/* ret_port is in text. */
static int split_address(const char *text, char *host, size_t size, const char **ret_port, struct lm_err *err)
{
	const char *colon = strrchr(text, ':'), *begin = text;
	uint64_t port;
	if (!colon || lm_str_u64(colon + 1, strlen(colon + 1), &port) < 0 || port > UINT16_MAX)
		return lm_err_set(err, -EINVAL, "%s: not ADDRESS:PORT", text);
	size_t len = (size_t)(colon - begin);
	if (len >= 2 && begin[0] == '[' && begin[len - 1] == ']') {
		begin++;
		len -= 2;
	} else if (memchr(begin, ':', len)) {
		return lm_err_set(err, -EINVAL, "%s: an IPv6 address goes into brackets", text);
	}
	if (len == 0 || len >= size)
		return lm_err_set(err, -EINVAL, "%s: no address, or one too long", text);
	memcpy(host, begin, len);
	host[len] = '\0';
	*ret_port = colon + 1;
	return 0;
}

int lm_listen_tcp(const char *text, struct lm_err *err)
{
	char host[NI_MAXHOST];
	const char *port = NULL;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list;
	int r = split_address(text, host, sizeof(host), &port, err), one = 1;
	if (r < 0)
		return r;
	r = getaddrinfo(host, port, &hints, &list);
	if (r)
		return lm_err_set(err, -EINVAL, "%s: %s", text, gai_strerror(r));
	CLEANUP(lm_closep) int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
		bind(fd, list->ai_addr, list->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0)
		r = -errno;
	freeaddrinfo(list);
	/* The words were right, the machine refuses: not a question of usage. */
	return r < 0 ? lm_err_sys(err, r == -EINVAL ? -EADDRNOTAVAIL : r, "%s: listen", text) : STEAL_FD(fd);
}

char *lm_listen_url(int fd)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	char host[NI_MAXHOST], port[NI_MAXSERV];
	if (getsockname(fd, (struct sockaddr *)&address, &len) < 0 ||
		getnameinfo((struct sockaddr *)&address, len, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return NULL;
	bool v6 = address.ss_family == AF_INET6;
	return lm_str_printf("http://%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "", port);
}
