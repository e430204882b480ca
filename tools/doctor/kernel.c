/* What the kernel can: by its version where nothing else tells, else by trying. */
#include "base/file.h"
#include "base/str.h"
#include "doctor/doctor.h"

#include <pthread.h>
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
	return sscanf(release, "%3u.%3u", &major, &minor) == 2 && minor < 1000 ? major * 1000 + minor : 0;
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
	if (fd < 0)
		lm_doctor_found(doctor, LM_DOCTOR_FUSE, "/dev/fuse: %s", strerror(errno));
	else if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(10, 229))
		lm_doctor_found(doctor, LM_DOCTOR_FUSE, "/dev/fuse is not the device that it should be");
	else
		lm_doctor_saw(doctor, LM_DOCTOR_KERNEL, "/dev/fuse can be opened");
}

/* --- a trial overlay --- */

struct trial {
	const char *dir; /* in which it is made */
	char *own;	 /* the directory made there */
	struct lm_err err;
};

static int mount_trial(const char *own, struct lm_err *err)
{
	static const char *const parts[] = {"lower", "upper", "work", "root"};
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		CLEANUP(lm_freep) char *part = lm_str_printf("%s/%s", own, parts[i]);
		if (!part)
			return lm_err_oom(err);
		if (mkdir(part, 0700) < 0)
			return lm_err_sys(err, -errno, "%s", part);
	}
	CLEANUP(lm_freep) char *root = lm_str_printf("%s/root", own);
	CLEANUP(lm_freep)
	char *options = lm_str_printf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", own, own, own);
	if (!root || !options)
		return lm_err_oom(err);
	if (mount("overlay", root, "overlay", 0, options) < 0)
		return lm_err_sys(err, -errno, "mount an overlay in %s", own);
	(void)umount2(root, MNT_DETACH);
	return 0;
}

/* On a thread of its own, since a name space of mounts, once left, is not come back to. */
static void *try_overlay(void *arg)
{
	struct trial *trial = arg;
	struct lm_err late = LM_ERR_INIT;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		(void)lm_err_sys(&trial->err, -errno, "a name space of mounts");
		return NULL;
	}
	trial->own = lm_str_printf("%s/doctor.XXXXXX", trial->dir);
	if (!trial->own || !mkdtemp(trial->own)) {
		(void)lm_err_sys(&trial->err, -errno, "make a directory in %s", trial->dir);
		return NULL;
	}
	(void)!mount_trial(trial->own, &trial->err);
	if (lm_remove_tree(AT_FDCWD, trial->own, &late) < 0 && !trial->err.code)
		trial->err = late;
	return NULL;
}

static void look_at_overlay(struct lm_doctor *doctor)
{
	CLEANUP(lm_freep) char *dir = lm_doctor_existing(lm_doctor_root(doctor));
	struct trial trial = {.dir = dir};
	pthread_t thread;
	if (!dir || pthread_create(&thread, NULL, try_overlay, &trial) != 0) {
		doctor->incomplete = true;
		return;
	}
	pthread_join(thread, NULL);
	free(trial.own);
	if (trial.err.code)
		lm_doctor_found(doctor, LM_DOCTOR_OVERLAY, "%s", lm_err_text(&trial.err));
	else
		lm_doctor_saw(doctor, LM_DOCTOR_KERNEL, "an overlay can be made in %s", dir);
}

/* --- modules --- */

/* Whether the text has a line that ends so. */
static bool has_line(const char *file, const char *end)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LIST_MAX);
	CLEANUP(lm_freep) char *wanted = lm_str_printf("%s\n", end);
	return wanted && lm_file_read(AT_FDCWD, file, &text, NULL) == 0 && strstr(lm_buf_cstr(&text), wanted);
}

/* Part of the kernel or a module of it that can be loaded when it is wanted. */
static bool has_module(const struct utsname *system, const char *name)
{
	CLEANUP(lm_freep) char *builtin = lm_str_printf("/lib/modules/%s/modules.builtin", system->release);
	CLEANUP(lm_freep) char *dep = lm_str_printf("/lib/modules/%s/modules.dep", system->release);
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LIST_MAX);
	char file[64];
	snprintf(file, sizeof(file), "/%s.ko", name);
	if (builtin && has_line(builtin, file))
		return true;
	return dep && lm_file_read(AT_FDCWD, dep, &text, NULL) == 0 && strstr(lm_buf_cstr(&text), file);
}

static void look_at_trees(struct lm_doctor *doctor, const struct utsname *system)
{
	bool erofs = has_line("/proc/filesystems", "\terofs") || has_module(system, "erofs");
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
