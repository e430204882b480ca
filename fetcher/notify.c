#include "fetcher/notify.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

int lm_notify(const char *state, struct lm_err *err)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (!path || !*path)
		return 0;
	size_t len = strlen(path);
	if (len >= sizeof(address.sun_path) || (*path != '/' && *path != '@'))
		return lm_err_set(err, -EINVAL, "NOTIFY_SOCKET %s is no Unix socket", path);
	memcpy(address.sun_path, path, len);
	if (*path == '@') /* the abstract name space */
		address.sun_path[0] = '\0';
	CLEANUP(lm_closep) int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return lm_err_sys(err, -errno, "socket");
	socklen_t address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, address_len) < 0)
		return lm_err_sys(err, -errno, "NOTIFY_SOCKET %s", path);
	return 0;
}
