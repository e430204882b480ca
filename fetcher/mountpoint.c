#include "fetcher/mountpoint.h"

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#include <libgen.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

enum { MOUNTINFO_MAX = 16 << 20, STACKED_MAX = 8 };

/* dir as the kernel lists it. The last component is not looked at: a dead mount there answers no question. */
static int canonical(const char *dir, char ret[PATH_MAX], struct lm_err *err)
{
	CLEANUP(lm_freep) char *copy = strdup(dir), *copy2 = strdup(dir);
	if (!copy || !copy2)
		return lm_err_oom(err);
	char parent[PATH_MAX];
	if (!realpath(dirname(copy), parent))
		return lm_err_sys(err, -errno, "%s", dir);
	const char *name = basename(copy2);
	if (snprintf(ret, PATH_MAX, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name) >= PATH_MAX)
		return lm_err_sys(err, -ENAMETOOLONG, "%s", dir);
	return 0;
}

/* mountinfo writes blank, tab, newline and backslash as \ooo. */
static void unescape(char *text)
{
	char *to = text;
	for (const char *from = text; *from; to++) {
		unsigned value;
		if (*from == '\\' && sscanf(from + 1, "%3o", &value) == 1) {
			*to = (char)value;
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

struct mount {
	char type[64], source[128]; /* "": nothing is mounted there */
};

/* The topmost mount at path (canonical): the one that is listed last. */
static int find_mount(const char *path, struct mount *ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf info = LM_BUF(MOUNTINFO_MAX);
	*ret = (struct mount){.type = ""};
	int r = lm_file_read(AT_FDCWD, "/proc/self/mountinfo", &info, err);
	if (r < 0 || !info.data)
		return r;
	char *save = NULL;
	for (char *line = strtok_r((char *)info.data, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		int at = 0;
		char *dash = strstr(line, " - ");
		(void)sscanf(line, "%*d %*d %*u:%*u %*s %n", &at);
		if (at == 0 || !dash)
			continue;
		char *where = line + at;
		where[strcspn(where, " ")] = '\0';
		unescape(where);
		if (strcmp(where, path) == 0)
			(void)sscanf(dash + 3, "%63s %127s", ret->type, ret->source);
	}
	return 0;
}

static bool is_dead(int code)
{
	return code == ENOTCONN || code == ECONNABORTED;
}

/*
 * Whether a FUSE mount has nobody behind it. Attributes may come from the kernel's memory, the list of extended ones is
 * asked for: a process that is just being killed does not answer it any more, and it fails when that process is gone.
 */
static bool mount_is_dead(const char *dir)
{
	struct stat st;
	if (stat(dir, &st) < 0 && is_dead(errno))
		return true;
	return llistxattr(dir, NULL, 0) < 0 && is_dead(errno);
}

static int refuse(const char *dir, const struct mount *mount, struct lm_err *err)
{
	if (strcmp(mount->type, LM_MOUNT_TYPE) == 0)
		return lm_err_set(err, -EBUSY, "mountpoint %s: a repository is mounted there already", dir);
	return lm_err_set(err, -EBUSY, "mountpoint %s: %s of type %s is mounted there by another program", dir,
		mount->source, mount->type);
}

/* 0: nothing is in the way; 1: a dead mount was, look again. */
static int take_away_dead(const char *dir, struct lm_err *err)
{
	char path[PATH_MAX];
	struct stat st;
	struct mount mount;
	bool lost = stat(dir, &st) < 0 && is_dead(errno);
	int r = lost ? 0 : lm_mkdir_p(AT_FDCWD, dir, 0755, err);
	if (r == 0)
		r = canonical(dir, path, err);
	if (r == 0)
		r = find_mount(path, &mount, err);
	if (r < 0)
		return r;
	if (!lm_str_starts(mount.type, "fuse"))
		return lost ? lm_err_set(err, -EBUSY, "mountpoint %s lies in a dead mount", dir) : 0;
	if (!mount_is_dead(dir))
		return refuse(dir, &mount, err);
	lm_log(LM_LOG_WARN, "taking away the mount of a process that died", LM_KV("mountpoint", "%s", dir),
		LM_KV("type", "%s", mount.type), LM_KV("source", "%s", mount.source));
	lm_mountpoint_unmount(dir);
	return 1;
}

int lm_mountpoint_prepare(const char *dir, struct lm_err *err)
{
	int r = 1;
	for (int i = 0; i < STACKED_MAX && r == 1; i++)
		r = take_away_dead(dir, err);
	if (r == 1)
		r = lm_err_set(err, -EBUSY, "%s: a dead mount can't be taken away", dir);
	return r < 0 ? lm_err_prefix(err, r, "mountpoint") : 0;
}

static int mount_as_root(const char *dir, const char *source, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return lm_err_sys(err, -errno, "open /dev/fuse");
	char options[128];
	snprintf(options, sizeof(options),
		"fd=%d,rootmode=40000,user_id=%u,group_id=%u,allow_other,default_permissions", fd, getuid(), getgid());
	if (mount(source, dir, LM_MOUNT_TYPE, MS_RDONLY, options) < 0)
		return lm_err_sys(err, -errno, "mount %s", dir);
	return STEAL_FD(fd);
}

/* fusermount3's answer: a descriptor beside one byte. */
static int receive_descriptor(int socket)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	char byte;
	int fd = -1;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	ssize_t n;
	while ((n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
		;
	struct cmsghdr *cmsg = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	return fd;
}

/* The environment with one variable more; only the array is the caller's. */
static char **environment_with(char *variable)
{
	size_t count = 0;
	while (environ[count])
		count++;
	char **copy = calloc(count + 2, sizeof(*copy));
	if (!copy)
		return NULL;
	copy[0] = variable;
	memcpy(copy + 1, environ, count * sizeof(*copy));
	return copy;
}

static pid_t start_fusermount(const char *dir, const char *source, int socket)
{
	char options[128], variable[32];
	const char *const argv[] = {"fusermount3", "-o", options, "--", dir, NULL};
	snprintf(options, sizeof(options), "ro,default_permissions,fsname=%s,subtype=lamella", source);
	posix_spawn_file_actions_t actions;
	pid_t child = -1;
	snprintf(variable, sizeof(variable), "_FUSE_COMMFD=%d", socket);
	CLEANUP(lm_freep) char **env = environment_with(variable);
	if (!env || posix_spawn_file_actions_init(&actions) != 0)
		return -1;
	/* Onto itself: it stays open there. */
	if (posix_spawn_file_actions_adddup2(&actions, socket, socket) != 0 ||
		posix_spawnp(&child, argv[0], &actions, NULL, (char *const *)argv, env) != 0)
		child = -1;
	posix_spawn_file_actions_destroy(&actions);
	return child;
}

/* It says itself what is wrong. */
static int mount_as_user(const char *dir, const char *source, struct lm_err *err)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return lm_err_sys(err, -errno, "socket");
	CLEANUP(lm_closep) int ours = pair[0], theirs = pair[1];
	pid_t child = start_fusermount(dir, source, theirs);
	if (child < 0)
		return lm_err_set(err, -EPERM, "mount %s: fusermount3 can't be started", dir);
	lm_closep(&theirs);
	int fd = receive_descriptor(ours);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	return fd < 0 ? lm_err_set(err, -EPERM, "mount %s: fusermount3 failed", dir) : fd;
}

int lm_mountpoint_mount(const char *dir, const char *source, struct lm_err *err)
{
	return geteuid() == 0 ? mount_as_root(dir, source, err) : mount_as_user(dir, source, err);
}

static int run_fusermount(const char *dir, bool lazy)
{
	const char *const argv[] = {"fusermount3", lazy ? "-uz" : "-u", "-q", "--", dir, NULL};
	pid_t child;
	int status = 0;
	if (posix_spawnp(&child, argv[0], NULL, NULL, (char *const *)argv, environ) != 0)
		return -EBUSY;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

bool lm_mountpoint_unmount(const char *dir)
{
	if (umount2(dir, UMOUNT_NOFOLLOW) == 0 || errno == EINVAL || errno == ENOENT)
		return false;
	if (errno != EPERM) {
		/* MNT_FORCE ends the connection, and with it all waiting, before MNT_DETACH takes away the name. */
		(void)umount2(dir, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW);
		return true;
	}
	if (run_fusermount(dir, false) == 0)
		return false;
	(void)run_fusermount(dir, true);
	return true;
}
