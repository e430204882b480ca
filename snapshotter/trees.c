#include "snapshotter/trees.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "snapshotter/mountpoints.h"

#include <inttypes.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

enum { LOOP_TRIES = 64, BLOCK = 4096, SECTOR = 512, NOTE_MAX = 64 << 10 };

/* --- probing --- */

static const char probe_content[] = "content";

struct probe {
	char *dir, *tree, *data, *root, *file, *object, *shown, *options;
	bool mounted;
};

static void probe_done(struct probe *p)
{
	struct lm_err err = LM_ERR_INIT;
	if (p->mounted)
		(void)umount2(p->root, MNT_DETACH);
	if (p->dir && lm_remove_tree(AT_FDCWD, p->dir, &err) < 0)
		lm_log(LM_LOG_WARN, "left behind", LM_KV("directory", "%s", p->dir),
			LM_KV("reason", "%s", lm_err_text(&err)));
	char *const all[] = {p->dir, p->tree, p->data, p->root, p->file, p->object, p->shown, p->options};
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		free(all[i]);
}

static int probe_names(struct probe *p, const char *dir, struct lm_err *err)
{
	char *made = lm_str_printf("%s/probe.XXXXXX", dir);
	if (!made)
		return lm_err_oom(err);
	if (!mkdtemp(made)) {
		int r = lm_err_sys(err, -errno, "make %s", made);
		free(made);
		return r;
	}
	p->dir = made;
	p->tree = lm_str_printf("%s/tree", made);
	p->data = lm_str_printf("%s/data", made);
	p->root = lm_str_printf("%s/root", made);
	p->file = lm_str_printf("%s/tree/file", made);
	p->object = lm_str_printf("%s/data/object", made);
	p->shown = lm_str_printf("%s/root/file", made);
	p->options = lm_str_printf("lowerdir=%s/tree::%s/data", made, made);
	bool all = p->tree && p->data && p->root && p->file && p->object && p->shown && p->options;
	return all ? 0 : lm_err_oom(err);
}

static int make_file(const char *path, const char *content, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ssize_t len = (ssize_t)strlen(content);
	return fd < 0 || write(fd, content, (size_t)len) != len ? lm_err_sys(err, -errno, "write %s", path) : 0;
}

static int probe_make(const struct probe *p, struct lm_err *err)
{
	static const char redirect[] = "/object";
	if (mkdir(p->tree, 0700) < 0 || mkdir(p->data, 0700) < 0 || mkdir(p->root, 0700) < 0)
		return lm_err_sys(err, -errno, "make directories in %s", p->dir);
	int r = make_file(p->object, probe_content, err);
	if (r == 0)
		r = make_file(p->file, "", err);
	if (r == 0 && (truncate(p->file, sizeof(probe_content) - 1) < 0 ||
			      setxattr(p->file, "trusted.overlay.metacopy", "", 0, 0) < 0 ||
			      setxattr(p->file, "trusted.overlay.redirect", redirect, strlen(redirect), 0) < 0))
		r = lm_err_sys(err, -errno, "set attributes of %s", p->file);
	return r;
}

static int probe_read(const struct probe *p, struct lm_err *err)
{
	char content[sizeof(probe_content)] = "";
	CLEANUP(lm_closep) int fd = open(p->shown, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? -1 : read(fd, content, sizeof(content) - 1);
	if (len < 0)
		return lm_err_set(err, -ENOTSUP,
			"this kernel's overlayfs does not follow redirects into data-only layers: %s", strerror(errno));
	if (strcmp(content, probe_content) != 0)
		return lm_err_set(err, -ENOTSUP, "this kernel's overlayfs shows no content of data-only layers");
	return 0;
}

int lm_trees_probe(const char *dir, struct lm_err *err)
{
	CLEANUP(probe_done) struct probe p = {0};
	int r = probe_names(&p, dir, err);
	if (r == 0)
		r = probe_make(&p, err);
	if (r < 0)
		return r;
	if (mount("overlay", p.root, "overlay", MS_RDONLY, p.options) < 0)
		return errno == EINVAL ? lm_err_set(err, -ENOTSUP, "this kernel's overlayfs has no data-only layers")
				       : lm_err_sys(err, -errno, "mount an overlay in %s", p.dir);
	p.mounted = true;
	return probe_read(&p, err);
}

/* --- mounting --- */

/* A loop device of the file, which vanishes with its last user. */
static int loop_open(int image, const char *name, char *ret_path, size_t size, struct lm_err *err)
{
	CLEANUP(lm_closep) int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return lm_err_sys(err, -errno, "open /dev/loop-control");
	for (unsigned i = 0; i < LOOP_TRIES; i++) {
		struct loop_config config = {.fd = (unsigned)image,
			.block_size = BLOCK,
			.info = {.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO}};
		int number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0)
			return lm_err_sys(err, -errno, "find a loop device");
		snprintf(ret_path, size, "/dev/loop%d", number);
		snprintf((char *)config.info.lo_file_name, sizeof(config.info.lo_file_name), "%s", name);
		CLEANUP(lm_closep) int fd = open(ret_path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return lm_err_sys(err, -errno, "open %s", ret_path);
		if (ioctl(fd, LOOP_CONFIGURE, &config) == 0)
			return STEAL_FD(fd);
		if (errno != EBUSY) /* somebody else was quicker */
			return lm_err_sys(err, -errno, "set up %s", ret_path);
	}
	return lm_err_set(err, -EBUSY, "no free loop device in %d tries", LOOP_TRIES);
}

static int mount_image(int image, const char *name, const char *mountpoint, struct lm_err *err)
{
	char device[32];
	CLEANUP(lm_closep) int loop = loop_open(image, name, device, sizeof(device), err);
	if (loop < 0)
		return loop;
	(void)ioctl(loop, BLKRASET, (unsigned long)LM_TREES_AHEAD / SECTOR); /* slower without */
	if (mkdir(mountpoint, 0700) < 0 && errno != EEXIST)
		return lm_err_sys(err, -errno, "make %s", mountpoint);
	if (mount(device, mountpoint, "erofs", MS_RDONLY, NULL) < 0)
		return errno == ENODEV ? lm_err_set(err, -ENOTSUP, "this kernel has no EROFS")
				       : lm_err_sys(err, -errno, "mount %s of %s", device, name);
	return 0;
}

int lm_trees_note(const char *dir, const char *image, const char *const *digests, size_t count, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(NOTE_MAX), there = LM_BUF(NOTE_MAX);
	CLEANUP(lm_freep) char *file = lm_str_printf("%s/layers", dir);
	int r = file ? lm_buf_printf(&text, "%s\n", image) : -ENOMEM;
	for (size_t i = 0; i < count && r == 0; i++)
		r = lm_buf_printf(&text, "%s\n", digests[i]);
	if (r < 0)
		return lm_err_sys(err, r, "note the layers of %s", image);
	if (lm_file_read(AT_FDCWD, file, &there, NULL) == 0 && there.len == text.len &&
		memcmp(there.data, text.data, text.len) == 0)
		return 0;
	return lm_file_replace(AT_FDCWD, file, text.data, text.len, 0600, 0, err);
}

int lm_trees_mount(const char *dir, const char *image, char **ret, struct lm_err *err)
{
	struct stat st;
	CLEANUP(lm_closep) int file = open(image, O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &st) < 0)
		return lm_err_sys(err, -errno, "open %s", image);
	CLEANUP(lm_freep)
	char *mountpoint = lm_str_printf(
		"%s/" LM_TREES_PREFIX "%u-%u.%" PRIu64, dir, major(st.st_dev), minor(st.st_dev), (uint64_t)st.st_ino);
	if (!mountpoint)
		return lm_err_oom(err);
	const char *name = mountpoint + strlen(dir) + 1;
	CLEANUP(lm_closep) int fd = lm_mountpoints_open(dir, err);
	if (fd < 0)
		return fd;
	int r = lm_mountpoints_has(fd, name) ? 0 : lm_mountpoints_detach(fd, dir, LM_TREES_PREFIX, err);
	if (r == 0 && !lm_mountpoints_has(fd, name))
		r = mount_image(file, image, mountpoint, err);
	if (r < 0)
		return r;
	*ret = STEAL(mountpoint);
	return 0;
}
