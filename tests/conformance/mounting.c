#include "mounting.h"

#include "base/buf.h"
#include "base/str.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>

#define PAGE 4096
#define SPARE 512 /* containerd's: from here on it makes paths relative */

int mounting_begin(struct lm_err *err)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return lm_err_sys(err, -errno, "a mount namespace of its own (needs root)");
	return 0;
}

static const struct {
	const char *name;
	unsigned long set;
} flags[] = {
	{"rw", 0},
	{"ro", MS_RDONLY},
	{"bind", MS_BIND},
	{"rbind", MS_BIND | MS_REC},
	{"nosuid", MS_NOSUID},
	{"nodev", MS_NODEV},
	{"noexec", MS_NOEXEC},
};

static bool is_flag(const char *option, unsigned long *set)
{
	for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
		if (strcmp(option, flags[i].name) == 0) {
			*set |= flags[i].set;
			return true;
		}
	}
	return false;
}

struct job {
	const V1(Mount) * mount;
	const char *target;
	struct lm_err *err;
	int result;
};

/* How much of each lower directory is the same in all, up to and with a slash; 0: nothing worth while. */
static size_t common_prefix(const char *dirs)
{
	size_t common = strcspn(dirs, ":");
	for (const char *dir = dirs; dir; dir = strchr(dir, ':') ? strchr(dir, ':') + 1 : NULL) {
		size_t same = 0;
		while (same < common && dir[same] == dirs[same])
			same++;
		common = same;
	}
	while (common > 0 && dirs[common - 1] != '/')
		common--;
	return common > 1 ? common : 0;
}

static int append_lower(struct lm_buf *data, const char *dirs, size_t cut)
{
	int r = lm_buf_str(data, "lowerdir=");
	for (const char *dir = dirs; r == 0; dir += strcspn(dir, ":") + 1) {
		r = lm_buf_append(data, dir + cut, strcspn(dir, ":") - cut);
		if (!dir[strcspn(dir, ":")])
			break;
		if (r == 0)
			r = lm_buf_str(data, ":");
	}
	return r;
}

/* The options that are no flags, joined; cut bytes of each lower directory left out. */
static int join(const V1(Mount) * m, size_t cut, struct lm_buf *data, unsigned long *set)
{
	int r = 0;
	for (size_t i = 0; i < m->n_options && r == 0; i++) {
		if (is_flag(m->options[i], set))
			continue;
		if (data->len > 0)
			r = lm_buf_str(data, ",");
		if (r == 0)
			r = lm_str_starts(m->options[i], "lowerdir=") ? append_lower(data, m->options[i] + 9, cut)
								      : lm_buf_str(data, m->options[i]);
	}
	return r;
}

static int do_mount(const struct job *job)
{
	const V1(Mount) *m = job->mount;
	CLEANUP(lm_buf_done) struct lm_buf data = LM_BUF(1 << 20), relative = LM_BUF(1 << 20);
	CLEANUP(lm_freep) char *base = NULL;
	unsigned long set = 0;
	int r = join(m, 0, &data, &set);
	for (size_t i = 0; i < m->n_options && r == 0 && data.len >= PAGE - SPARE; i++) {
		const char *dirs = m->options[i] + 9;
		size_t cut = lm_str_starts(m->options[i], "lowerdir=") ? common_prefix(dirs) : 0;
		if (cut == 0)
			continue;
		base = lm_str_ndup(dirs, cut);
		r = base ? join(m, cut, &relative, &set) : -ENOMEM;
	}
	if (r < 0)
		return lm_err_sys(job->err, r, "mount options");
	if (base && chdir(base) < 0)
		return lm_err_sys(job->err, -errno, "chdir %s", base);
	const char *text = lm_buf_cstr(base ? &relative : &data);
	if (strlen(text) > PAGE)
		return lm_err_set(job->err, -E2BIG, "mount options of %zu bytes", strlen(text));
	if (mount(m->source, job->target, m->type, set, text) < 0)
		return lm_err_sys(job->err, -errno, "mount %s on %s, %s", m->type, job->target, text);
	if ((set & MS_BIND) && (set & MS_RDONLY) && mount(NULL, job->target, NULL, set | MS_REMOUNT, NULL) < 0)
		return lm_err_sys(job->err, -errno, "make %s read-only", job->target);
	return 0;
}

/* A thread of its own, because the current directory is one of the mount's arguments. */
static void *mount_thread(void *arg)
{
	struct job *job = arg;
	job->result = unshare(CLONE_FS) < 0 ? lm_err_sys(job->err, -errno, "unshare") : do_mount(job);
	return NULL;
}

int mount_all(const struct mounts *mounts, const char *target, struct lm_err *err)
{
	if (!mounts->answer || mounts->answer->n_mounts != 1)
		return lm_err_set(err, -EPROTO, "not one mount was answered");
	struct job job = {.mount = mounts->answer->mounts[0], .target = target, .err = err};
	pthread_t thread;
	int r = pthread_create(&thread, NULL, mount_thread, &job);
	if (r != 0)
		return lm_err_sys(err, -r, "a thread for mounting");
	pthread_join(thread, NULL);
	return job.result;
}

int unmount(const char *target, struct lm_err *err)
{
	return umount(target) < 0 ? lm_err_sys(err, -errno, "unmount %s", target) : 0;
}

char *mount_option(const struct mounts *mounts, const char *name)
{
	size_t len = strlen(name);
	const V1(Mount) *m = mounts->answer && mounts->answer->n_mounts == 1 ? mounts->answer->mounts[0] : NULL;
	for (size_t i = 0; m && i < m->n_options; i++)
		if (strncmp(m->options[i], name, len) == 0 && m->options[i][len] == '=')
			return strdup(m->options[i] + len + 1);
	return NULL;
}

char *mount_upper(const struct mounts *mounts)
{
	char *upper = mount_option(mounts, "upperdir");
	if (upper || !mounts->answer || mounts->answer->n_mounts != 1)
		return upper;
	const V1(Mount) *m = mounts->answer->mounts[0];
	return strcmp(m->type, "bind") == 0 ? strdup(m->source) : NULL;
}
