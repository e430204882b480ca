#include "base/notify.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

int lm_notify(const char *state, struct lm_err *err)
{
	const char *path = getenv("NOTIFY_SOCKET");
	if (!path || !*path)
		return 0;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t len = strlen(path);
	if ((path[0] != '/' && path[0] != '@') || len >= sizeof(address.sun_path))
		return lm_err_set(err, -EINVAL, "NOTIFY_SOCKET=%s: neither a path nor an abstract name", path);
	memcpy(address.sun_path, path, len);
	if (path[0] == '@')
		address.sun_path[0] = '\0';
	CLEANUP(lm_closep) int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return lm_err_sys(err, -errno, "socket");
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, size) < 0)
		return lm_err_sys(err, -errno, "tell the service manager at %s", path);
	return 0;
}
