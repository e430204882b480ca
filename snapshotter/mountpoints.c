#include "snapshotter/mountpoints.h"

#include "base/file.h"
#include "base/str.h"

#include <dirent.h>
#include <linux/stat.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>

int lm_mountpoints_open(const char *dir, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX) < 0)
		return lm_err_sys(err, -errno, "open %s", dir);
	return STEAL_FD(fd);
}

bool lm_mountpoints_has(int fd, const char *name)
{
	struct statx st;
	return statx(fd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, 0, &st) == 0 &&
	       (st.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

static int detach(int fd, const char *dir, const char *name, struct lm_err *err)
{
	CLEANUP(lm_freep) char *mountpoint = lm_str_printf("%s/%s", dir, name);
	if (!mountpoint)
		return lm_err_oom(err);
	while (lm_mountpoints_has(fd, name))
		if (umount2(mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			return lm_err_sys(err, -errno, "detach %s", mountpoint);
	return rmdir(mountpoint) < 0 ? lm_err_sys(err, -errno, "remove %s", mountpoint) : 0;
}

int lm_mountpoints_detach(int fd, const char *dir, const char *prefix, struct lm_err *err)
{
	CLEANUP(lm_closep) int listed = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CLEANUP(lm_closedirp) DIR *names = listed < 0 ? NULL : fdopendir(listed);
	if (!names)
		return lm_err_sys(err, -errno, "list %s", dir);
	listed = -1;
	struct dirent *entry;
	for (errno = 0; (entry = readdir(names)); errno = 0) {
		int r = lm_str_starts(entry->d_name, prefix) ? detach(fd, dir, entry->d_name, err) : 0;
		if (r < 0)
			return r;
	}
	return errno ? lm_err_sys(err, -errno, "list %s", dir) : 0;
}
