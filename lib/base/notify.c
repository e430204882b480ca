#include "base/notify.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/* An address of $NOTIFY_SOCKET: its length, 0 where there is none. */
static int find_address(struct sockaddr_un *ret, struct lm_err *err)
{
	const char *path = getenv("NOTIFY_SOCKET");
	if (!path || !*path)
		return 0;
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	size_t len = strlen(path);
	if ((path[0] != '/' && path[0] != '@') || len >= sizeof(ret->sun_path))
		return lm_err_set(err, -EINVAL, "NOTIFY_SOCKET=%s: neither a path nor an abstract name", path);
	memcpy(ret->sun_path, path, len);
	if (path[0] == '@')
		ret->sun_path[0] = '\0';
	return (int)(offsetof(struct sockaddr_un, sun_path) + len);
}

int lm_notify_fd(const char *state, int fd, struct lm_err *err)
{
	struct sockaddr_un address;
	int size = find_address(&address, err);
	if (size <= 0)
		return size;
	CLEANUP(lm_closep) int to = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (to < 0)
		return lm_err_sys(err, -errno, "socket");
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr head;
	} control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	struct iovec iov = {.iov_base = (char *)state, .iov_len = strlen(state)};
	const struct msghdr msg = {.msg_name = &address,
		.msg_namelen = (socklen_t)size,
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = fd >= 0 ? control.bytes : NULL,
		.msg_controllen = fd >= 0 ? sizeof(control.bytes) : 0};
	/* A manager that does not read must not hold us up. */
	if (sendmsg(to, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return lm_err_sys(err, -errno, "tell the service manager at %s", getenv("NOTIFY_SOCKET"));
	return 0;
}

int lm_notify(const char *state, struct lm_err *err)
{
	return lm_notify_fd(state, -1, err);
}
