/* What the kernel can: by its version where nothing else tells, else by trying. */
#include "base/file.h"
#include "base/str.h"
#include "doctor/doctor.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>

enum { LEAST = 5006, LIST_MAX = 4 << 20 };

/* What comes with a version, in their order. What can be tried is not here. */
static const struct {
	unsigned version;
	const char *what;
} features[] = {
	{6001, "6.1 is the oldest that is tested"},
	{6009, "from 6.9 on a worker of another version finds the requests that the one before left unanswered"},
	{6012, "from 6.12 on pods with hostUsers: false can be had from layers without a merged tree"},
};

unsigned lm_doctor_version(const char *release)
{
	unsigned major, minor;
	return sscanf(release, "%3u.%3u", &major, &minor) == 2 ? major * 1000 + minor : 0;
}

static void look_at_version(struct lm_doctor *doctor, const struct utsname *system)
{
	unsigned version = lm_doctor_version(system->release);
	lm_doctor_saw(doctor, LM_DOCTOR_KERNEL, "%s %s, %s", system->sysname, system->release, system->machine);
	if (version < LEAST) {
		lm_doctor_found(doctor, LM_DOCTOR_KERNEL_OLD, "it is %s %s", system->sysname, system->release);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(features); i++)
		if (version < features[i].version)
			lm_doctor_found(
				doctor, LM_DOCTOR_KERNEL_FEATURES, "%s, this is %s", features[i].what, system->release);
}

static void look_at_fuse(struct lm_doctor *doctor)
{
	struct stat st;
	CLEANUP(lm_closep) int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno == EACCES && geteuid() != 0)
		return; /* it may be root's alone */
	if (fd < 0)
		lm_doctor_found(doctor, LM_DOCTOR_FUSE, "/dev/fuse: %s", strerror(errno));
	else if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(10, 229))
		lm_doctor_found(doctor, LM_DOCTOR_FUSE, "/dev/fuse is not the device that it should be");
	else
		lm_doctor_saw(doctor, LM_DOCTOR_KERNEL, "/dev/fuse can be opened");
}

/* --- a trial overlay --- */

struct trial {
	const char *wanted; /* where the snapshotter has its overlays */
	char dir[PATH_MAX]; /* that is there: itself, or the lowest one above it */
	struct lm_err err;  /* code 0: it can be made */
};

/* In the current directory: whatever is in its name, nothing has to be escaped. */
static int mount_overlay(struct lm_err *err)
{
	static const char *const parts[] = {"lower", "upper", "work", "root"};
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		if (mkdir(parts[i], 0700) < 0)
			return lm_err_sys(err, -errno, "make a directory");
	if (mount("overlay", "root", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work") < 0)
		return lm_err_sys(err, -errno, "mount an overlay");
	(void)umount2("root", MNT_DETACH);
	return 0;
}

/* In the current directory, too. */
static int try_here(struct lm_err *err)
{
	char own[] = "doctor.XXXXXX";
	struct lm_err late = LM_ERR_INIT;
	if (!mkdtemp(own))
		return lm_err_sys(err, -errno, "make a directory");
	int r = chdir(own) < 0 ? lm_err_sys(err, -errno, "enter a directory") : mount_overlay(err);
	if (chdir("..") < 0 || lm_remove_tree(AT_FDCWD, own, &late) < 0)
		return r < 0 ? r : lm_err_set(err, -EIO, "%s", late.code ? late.msg : "a directory can't be left");
	return r;
}

/* Apart: mounts and the current directory are that process' own. */
static void try_overlay(void *arg)
{
	struct trial *trial = arg;
	struct lm_err *err = &trial->err;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		(void)lm_err_sys(err, -errno, "a name space of mounts");
	else if (lm_doctor_existing(trial->wanted, trial->dir, err) == 0) {
		int r = chdir(trial->dir) < 0 ? lm_err_sys(err, -errno, "enter it") : try_here(err);
		if (r < 0)
			(void)lm_err_prefix(err, r, "%s", trial->dir);
	}
}

static void look_at_overlay(struct lm_doctor *doctor)
{
	struct trial trial = {.wanted = lm_doctor_root(doctor)};
	struct lm_err err = LM_ERR_INIT;
	int r = lm_doctor_apart(try_overlay, &trial, sizeof(trial), &err);
	if (r == -ETIMEDOUT)
		lm_doctor_found(doctor, LM_DOCTOR_OVERLAY, "%s: %s", trial.wanted, lm_err_text(&err));
	else if (r < 0)
		doctor->incomplete = true;
	else if (trial.err.code)
		lm_doctor_found(doctor, LM_DOCTOR_OVERLAY, "%s", lm_err_text(&trial.err));
	else
		lm_doctor_saw(doctor, LM_DOCTOR_KERNEL, "an overlay can be made in %s", trial.dir);
}

/* --- modules --- */

static bool has_text(const char *file, const char *wanted)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LIST_MAX);
	return lm_file_read(AT_FDCWD, file, &text, NULL) == 0 && strstr(lm_buf_cstr(&text), wanted);
}

/* Part of the kernel, or a module of it that can be loaded when it is wanted. */
static bool has_module(const struct utsname *system, const char *name)
{
	static const char *const lists[] = {"modules.builtin", "modules.dep"};
	char file[64], list[128 + sizeof(system->release)];
	snprintf(file, sizeof(file), "/%s.ko", name);
	bool found = false;
	for (size_t i = 0; i < ARRAY_LEN(lists) && !found; i++) {
		snprintf(list, sizeof(list), "/lib/modules/%s/%s", system->release, lists[i]);
		found = has_text(list, file);
	}
	return found;
}

static void look_at_trees(struct lm_doctor *doctor, const struct utsname *system)
{
	bool erofs = has_text("/proc/filesystems", "\terofs\n") || has_module(system, "erofs");
	bool loop = access("/dev/loop-control", F_OK) == 0 || has_module(system, "loop");
	if (!erofs)
		lm_doctor_found(doctor, LM_DOCTOR_EROFS, "neither /proc/filesystems nor /lib/modules/%s has it",
			system->release);
	if (!loop)
		lm_doctor_found(doctor, LM_DOCTOR_LOOP, "/dev/loop-control is not there, nor is there a module");
	if (erofs && loop)
		lm_doctor_saw(doctor, LM_DOCTOR_KERNEL, "there are EROFS and loop devices");
}

void lm_doctor_kernel(struct lm_doctor *doctor)
{
	struct utsname system;
	if (uname(&system) == 0) {
		look_at_version(doctor, &system);
		look_at_trees(doctor, &system);
	}
	look_at_fuse(doctor);
	if (geteuid() == 0)
		look_at_overlay(doctor);
	else
		lm_doctor_found(doctor, LM_DOCTOR_NOT_ROOT, "overlays, sockets and directories that are root's");
}
