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
#include <sys/stat.h>
#include <sys/wait.h>

enum { MOUNTINFO_MAX = 16 << 20 };

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

/* Whether the topmost mount at path (canonical) is one of ours. */
static bool ours_is_mounted(const char *path)
{
	CLEANUP(lm_buf_done) struct lm_buf info = LM_BUF(MOUNTINFO_MAX);
	bool ours = false;
	if (lm_file_read(AT_FDCWD, "/proc/self/mountinfo", &info, NULL) < 0 || !info.data)
		return false;
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
		if (strcmp(where, path) != 0)
			continue;
		ours = lm_str_starts(dash + 3, LM_MOUNT_TYPE " ");
	}
	return ours;
}

int lm_mountpoint_prepare(const char *dir, struct lm_err *err)
{
	char path[PATH_MAX];
	struct stat st;
	bool dead = stat(dir, &st) < 0 && errno == ENOTCONN;
	int r = dead ? 0 : lm_mkdir_p(AT_FDCWD, dir, 0755, err);
	if (r == 0)
		r = canonical(dir, path, err);
	if (r < 0)
		return lm_err_prefix(err, r, "mountpoint");
	if (!ours_is_mounted(path))
		return dead ? lm_err_set(err, -EBUSY, "mountpoint %s: a dead mount of another program is there", dir)
			    : 0;
	if (!dead)
		return lm_err_set(err, -EBUSY, "mountpoint %s: a repository is mounted there already", dir);
	lm_log(LM_LOG_WARN, "taking away the mount of a process that died", LM_KV("mountpoint", "%s", dir));
	lm_mountpoint_unmount(dir);
	return stat(dir, &st) < 0 ? lm_err_sys(err, -errno, "mountpoint %s", dir) : 0;
}

int lm_mountpoint_mount(const char *dir, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return lm_err_sys(err, -errno, "open /dev/fuse");
	char options[128];
	snprintf(options, sizeof(options),
		"fd=%d,rootmode=40000,user_id=%u,group_id=%u,allow_other,default_permissions", fd, getuid(), getgid());
	if (mount(LM_MOUNT_SOURCE, dir, LM_MOUNT_TYPE, MS_RDONLY, options) < 0)
		return lm_err_sys(err, -errno, "mount %s", dir);
	return STEAL_FD(fd);
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
