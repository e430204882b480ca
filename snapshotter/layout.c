#include "snapshotter/layout.h"

#include "base/file.h"
#include "base/lock.h"
#include "base/str.h"
#include "snapshotter/mapped.h"
#include "snapshotter/mountpoints.h"
#include "snapshotter/record.h"
#include "snapshotter/trees.h"

#include <dirent.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#define RECORD "user.lamella.record"
enum { OPAQUE_DEPTH_MAX = 256 }; /* two descriptors each */

struct lm_layout {
	char *prefix;
	int fd;			/* of prefix */
	bool ordered;		/* the file system's changes get to the disk in the order in which they were made */
	struct lm_lock linking; /* held while a link is made anew */
	struct lm_lock copying; /* held while `opaque` is made, which may take as long as the layer's catalog */
};

struct name {
	char text[48];
};

static struct name name_of(int64_t id, const char *below)
{
	struct name name;
	snprintf(name.text, sizeof(name.text), "%" PRId64 "%s", id, below);
	return name;
}

/* A journal is written from its beginning to its end: whoever waits for the last change waits for all before it. */
static bool has_ordered_journal(int fd)
{
	struct statfs fs;
	return fstatfs(fd, &fs) == 0 && (fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC);
}

int lm_layout_open(const char *root, struct lm_layout **ret, struct lm_err *err)
{
	if (root[0] != '/' || strpbrk(root, ",:\\\"\n"))
		return lm_err_set(
			err, -EINVAL, "root \"%s\": must be absolute, without comma, colon, backslash or quote", root);
	CLEANUP(lm_layout_closep) struct lm_layout *layout = calloc(1, sizeof(*layout));
	if (!layout)
		return lm_err_oom(err);
	lm_lock_init(&layout->linking);
	lm_lock_init(&layout->copying);
	layout->fd = -1;
	layout->prefix = lm_str_printf("%s/snapshots", root);
	if (!layout->prefix)
		return lm_err_oom(err);
	int r = lm_mkdir_p(AT_FDCWD, layout->prefix, 0700, err);
	if (r < 0)
		return r;
	layout->fd = open(layout->prefix, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (layout->fd < 0)
		return lm_err_sys(err, -errno, "open %s", layout->prefix);
	layout->ordered = has_ordered_journal(layout->fd);
	*ret = STEAL(layout);
	return 0;
}

void lm_layout_close(struct lm_layout *layout)
{
	if (!layout)
		return;
	lm_closep(&layout->fd);
	lm_lock_done(&layout->linking);
	lm_lock_done(&layout->copying);
	free(layout->prefix);
	free(layout);
}

const char *lm_layout_prefix(const struct lm_layout *layout)
{
	return layout->prefix;
}

char *lm_layout_directory(const struct lm_layout *layout, int64_t id)
{
	return lm_str_printf("%s/%" PRId64, layout->prefix, id);
}

static int make_directory(struct lm_layout *layout, const char *name, mode_t mode, struct lm_err *err)
{
	if (mkdirat(layout->fd, name, 0700) < 0)
		return lm_err_sys(err, -errno, "make %s/%s", layout->prefix, name);
	/* Whatever the umask is. */
	if (fchmodat(layout->fd, name, mode, 0) < 0)
		return lm_err_sys(err, -errno, "chmod %s/%s", layout->prefix, name);
	return 0;
}

/* First what is inside, then the name in the directory above. */
static int sync_made(struct lm_layout *layout, int64_t id, struct lm_err *err)
{
	int r = lm_dir_sync(layout->fd, name_of(id, "").text, err);
	return r < 0 || layout->ordered ? r : lm_dir_sync(layout->fd, ".", err);
}

static int open_directory(struct lm_layout *layout, int64_t id, struct lm_err *err)
{
	struct name name = name_of(id, "");
	int fd = openat(layout->fd, name.text, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? lm_err_sys(err, -errno, "open %s/%s", layout->prefix, name.text) : fd;
}

/* Where attributes end differs: by the file system, by what else is there, and by what is compiled in. */
static bool no_room_for_attribute(int error)
{
	return error == E2BIG || error == ENOSPC || error == ERANGE || error == EOPNOTSUPP || error == EPERM;
}

/* Leaves one of the two. */
static int write_record(int dir, const struct lm_buf *record, unsigned flags, struct lm_err *err)
{
	if (fsetxattr(dir, RECORD, record->data, record->len, 0) == 0)
		return unlinkat(dir, "record", 0) < 0 && errno != ENOENT ? lm_err_sys(err, -errno, "remove a record")
									 : 0;
	if (!no_room_for_attribute(errno))
		return lm_err_sys(err, -errno, "set " RECORD);
	int r = lm_file_replace(dir, "record", record->data, record->len, 0600, flags, err);
	if (r < 0)
		return r;
	if (fremovexattr(dir, RECORD) < 0 && errno != ENODATA && !no_room_for_attribute(errno))
		return lm_err_sys(err, -errno, "remove " RECORD);
	return 0;
}

/* The record is the last change of all, so that an ordered journal is waited for once. */
static int finish(struct lm_layout *layout, int64_t id, const struct lm_buf *record, struct lm_err *err)
{
	CLEANUP(lm_closep) int dir = open_directory(layout, id, err);
	if (dir < 0)
		return dir;
	int r = write_record(dir, record, LM_FILE_SYNC, err);
	return r < 0 ? lm_err_prefix(err, r, "%s/%" PRId64, layout->prefix, id) : sync_made(layout, id, err);
}

int lm_layout_make(struct lm_layout *layout, int64_t id, const struct lm_root_attributes *attributes,
	const struct lm_buf *record, struct lm_err *err)
{
	struct name fs = name_of(id, "/fs");
	int r = make_directory(layout, name_of(id, "").text, 0700, err);
	if (r == 0)
		r = make_directory(layout, name_of(id, "/work").text, 0711, err);
	if (r == 0)
		r = make_directory(layout, fs.text, attributes->mode, err);
	if (r < 0)
		return r;
	if ((attributes->uid || attributes->gid) &&
		fchownat(layout->fd, fs.text, attributes->uid, attributes->gid, 0) < 0)
		return lm_err_sys(err, -errno, "chown %s/%s", layout->prefix, fs.text);
	r = layout->ordered ? 0 : lm_dir_sync(layout->fd, fs.text, err);
	return r < 0 ? r : finish(layout, id, record, err);
}

int lm_layout_make_link(
	struct lm_layout *layout, int64_t id, const char *target, const struct lm_buf *record, struct lm_err *err)
{
	struct name fs = name_of(id, "/fs");
	int r = make_directory(layout, name_of(id, "").text, 0700, err);
	if (r < 0)
		return r;
	if (symlinkat(target, layout->fd, fs.text) < 0)
		return lm_err_sys(err, -errno, "link %s/%s", layout->prefix, fs.text);
	return finish(layout, id, record, err);
}

/* Asked twice, since the size is not known before; it may change in between. */
static int read_attribute(int dir, struct lm_buf *ret, struct lm_err *err)
{
	for (;;) {
		ssize_t size = fgetxattr(dir, RECORD, NULL, 0);
		int r = size < 0 ? -errno : lm_buf_reserve(ret, (size_t)size);
		if (r == -ENODATA || r == -EOPNOTSUPP)
			return -ENOENT;
		if (r < 0)
			return lm_err_sys(err, r, "read " RECORD);
		ssize_t n = fgetxattr(dir, RECORD, ret->data + ret->len, (size_t)size);
		if (n < 0 && errno == ERANGE)
			continue;
		if (n < 0)
			return lm_err_sys(err, -errno, "read " RECORD);
		ret->len += (size_t)n;
		ret->data[ret->len] = '\0';
		return 0;
	}
}

static int read_record(int dir, struct lm_buf *ret, struct lm_err *err)
{
	int r = read_attribute(dir, ret, err);
	return r == -ENOENT ? lm_file_read(dir, "record", ret, err) : r;
}

int lm_layout_get_record(struct lm_layout *layout, int64_t id, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_closep) int dir = open_directory(layout, id, err);
	if (dir < 0)
		return dir;
	int r = read_record(dir, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "%s/%" PRId64, layout->prefix, id) : 0;
}

int lm_layout_put_record(struct lm_layout *layout, int64_t id, const struct lm_buf *record, struct lm_err *err)
{
	CLEANUP(lm_closep) int dir = open_directory(layout, id, err);
	if (dir < 0)
		return dir;
	CLEANUP(lm_buf_done) struct lm_buf old = LM_BUF(LM_RECORD_MAX_BYTES);
	if (read_record(dir, &old, NULL) == 0 && old.len == record->len &&
		memcmp(old.data, record->data, record->len) == 0)
		return 0;
	int r = write_record(dir, record, 0, err);
	return r < 0 ? lm_err_prefix(err, r, "%s/%" PRId64, layout->prefix, id) : 0;
}

int lm_layout_keep(struct lm_layout *layout, int64_t id, const char *why, struct lm_err *err)
{
	CLEANUP(lm_freep) char *text = lm_str_printf("%s\n", why);
	if (!text)
		return lm_err_oom(err);
	return lm_file_replace(layout->fd, name_of(id, "/kept").text, text, strlen(text), 0600, LM_FILE_SYNC, err);
}

bool lm_layout_is_kept(struct lm_layout *layout, int64_t id)
{
	return faccessat(layout->fd, name_of(id, "/kept").text, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int lm_layout_unkeep(struct lm_layout *layout, int64_t id, struct lm_err *err)
{
	struct name name = name_of(id, "/kept");
	return unlinkat(layout->fd, name.text, 0) < 0 && errno != ENOENT
		       ? lm_err_sys(err, -errno, "remove %s/%s", layout->prefix, name.text)
		       : 0;
}

/* 1: it points elsewhere than before. */
static int point(struct lm_layout *layout, int64_t id, const char *link, const char *target, struct lm_err *err)
{
	struct name name = name_of(id, link), tmp = name_of(id, "/link.new");
	char now[PATH_MAX];
	LM_LOCKED(&layout->linking);
	ssize_t len = readlinkat(layout->fd, name.text, now, sizeof(now));
	if (len == (ssize_t)strlen(target) && memcmp(now, target, (size_t)len) == 0)
		return 0;
	(void)unlinkat(layout->fd, tmp.text, 0);
	if (mkdirat(layout->fd, name_of(id, "").text, 0700) < 0 && errno != EEXIST)
		return lm_err_sys(err, -errno, "make %s/%" PRId64, layout->prefix, id);
	if (symlinkat(target, layout->fd, tmp.text) < 0 || renameat(layout->fd, tmp.text, layout->fd, name.text) < 0)
		return lm_err_sys(err, -errno, "link %s/%s", layout->prefix, name.text);
	return 1;
}

int lm_layout_relink(struct lm_layout *layout, int64_t id, const char *target, struct lm_err *err)
{
	int r = point(layout, id, "/fs", target, err);
	return r > 0 ? sync_made(layout, id, err) : r;
}

int lm_layout_relink_lean(struct lm_layout *layout, int64_t id, const char *target, struct lm_err *err)
{
	int r = point(layout, id, "/lean", target, err);
	return r > 0 ? 0 : r;
}

static int copy_whiteouts(int from, int to, unsigned depth, struct lm_err *err);

static int copy_directory(int from, int to, const char *name, unsigned depth, struct lm_err *err)
{
	if (depth == OPAQUE_DEPTH_MAX)
		return lm_err_set(err, -EPROTO, "%s: more than %d directories deep", name, OPAQUE_DEPTH_MAX);
	CLEANUP(lm_closep) int below = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (below < 0)
		return lm_err_sys(err, -errno, "open %s", name);
	if (mkdirat(to, name, 0755) < 0)
		return lm_err_sys(err, -errno, "make %s", name);
	CLEANUP(lm_closep) int made = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (made < 0)
		return lm_err_sys(err, -errno, "open %s", name);
	return copy_whiteouts(below, made, depth + 1, err);
}

static int copy_entry(int from, int to, const char *name, unsigned depth, struct lm_err *err)
{
	struct stat st;
	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return lm_err_sys(err, -errno, "stat %s", name);
	if (S_ISDIR(st.st_mode))
		return copy_directory(from, to, name, depth, err);
	if (!S_ISCHR(st.st_mode) || st.st_rdev != 0)
		return lm_err_set(err, -EPROTO, "%s is neither a directory nor a whiteout", name);
	return mknodat(to, name, S_IFCHR, 0) < 0 ? lm_err_sys(err, -errno, "make whiteout %s", name) : 0;
}

static int copy_whiteouts(int from, int to, unsigned depth, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = fcntl(from, F_DUPFD_CLOEXEC, 0);
	CLEANUP(lm_closedirp) DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir)
		return lm_err_sys(err, -errno, "list a directory");
	fd = -1;
	struct dirent *entry;
	for (errno = 0; (entry = readdir(dir)); errno = 0) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		int r = copy_entry(from, to, entry->d_name, depth, err);
		if (r < 0)
			return r;
	}
	return errno ? lm_err_sys(err, -errno, "list a directory") : 0;
}

int lm_layout_copy_opaque(struct lm_layout *layout, int64_t id, const char *tree, struct lm_err *err)
{
	struct name name = name_of(id, "/opaque"), tmp = name_of(id, "/opaque.new");
	LM_LOCKED(&layout->copying);
	if (faccessat(layout->fd, name.text, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	CLEANUP(lm_closep) int from = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (from < 0)
		return lm_err_sys(err, -errno, "open %s", tree);
	int r = lm_remove_tree(layout->fd, tmp.text, err);
	if (r == 0)
		r = make_directory(layout, tmp.text, 0755, err);
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int to = openat(layout->fd, tmp.text, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (to < 0)
		return lm_err_sys(err, -errno, "open %s/%s", layout->prefix, tmp.text);
	r = copy_whiteouts(from, to, 0, err);
	if (r < 0)
		return lm_err_prefix(err, r, "copy %s", tree);
	if (renameat(layout->fd, tmp.text, layout->fd, name.text) < 0)
		return lm_err_sys(err, -errno, "rename %s/%s", layout->prefix, tmp.text);
	return 0;
}

int lm_layout_root_attributes(struct lm_layout *layout, int64_t id, struct lm_root_attributes *ret, struct lm_err *err)
{
	struct stat st;
	struct name fs = name_of(id, "/fs");
	if (fstatat(layout->fd, fs.text, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return lm_err_sys(err, -errno, "stat %s/%s", layout->prefix, fs.text);
	if (!S_ISDIR(st.st_mode))
		return lm_err_sys(err, -ENOTDIR, "%s/%s", layout->prefix, fs.text);
	*ret = (struct lm_root_attributes){st.st_mode & 07777, st.st_uid, st.st_gid};
	return 0;
}

static int detach_all(const char *dir, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = lm_mountpoints_open(dir, err);
	int r = fd < 0 ? fd : lm_mountpoints_detach(fd, dir, LM_TREES_PREFIX, err);
	return r < 0 ? r : lm_mountpoints_detach(fd, dir, LM_MAPPED_PREFIX, err);
}

int lm_layout_remove(struct lm_layout *layout, int64_t id, struct lm_err *err)
{
	CLEANUP(lm_freep) char *dir = lm_layout_directory(layout, id);
	if (!dir)
		return lm_err_oom(err);
	struct lm_err why = LM_ERR_INIT;
	int r = detach_all(dir, &why);
	if (r == -ENOENT) /* also where somebody else has just removed it */
		return 0;
	return r < 0 ? lm_err_set(err, r, "%s", lm_err_text(&why))
		     : lm_remove_tree(layout->fd, name_of(id, "").text, err);
}

int lm_layout_open_fs(struct lm_layout *layout, int64_t id, struct lm_err *err)
{
	struct name fs = name_of(id, "/fs");
	int fd = openat(layout->fd, fs.text, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? lm_err_sys(err, -errno, "open %s/%s", layout->prefix, fs.text) : fd;
}

/* 1 or 0; negative: it can't be said. */
static int is_empty(struct lm_layout *layout, const char *name)
{
	CLEANUP(lm_closep) int fd = openat(layout->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	CLEANUP(lm_closedirp) DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir)
		return -errno;
	fd = -1;
	struct dirent *entry;
	errno = 0;
	while ((entry = readdir(dir)) && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0))
		;
	return entry ? 0 : errno ? -errno : 1;
}

bool lm_layout_is_unwritten(struct lm_layout *layout, int64_t id)
{
	return is_empty(layout, name_of(id, "/fs").text) > 0;
}

bool lm_layout_is_used(struct lm_layout *layout, int64_t id)
{
	return is_empty(layout, name_of(id, "/fs").text) == 0 || is_empty(layout, name_of(id, "/work").text) == 0;
}

bool lm_layout_is_whole(struct lm_layout *layout, int64_t id, bool link)
{
	struct stat st;
	return fstatat(layout->fd, name_of(id, "/fs").text, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       (link ? S_ISLNK(st.st_mode) : S_ISDIR(st.st_mode));
}

struct ids {
	int64_t *items;
	size_t count, cap;
};

static int ids_add(struct ids *ids, int64_t id)
{
	if (ids->count == ids->cap) {
		size_t cap = ids->cap ? 2 * ids->cap : 256;
		int64_t *items = reallocarray(ids->items, cap, sizeof(*items));
		if (!items)
			return -ENOMEM;
		ids->items = items;
		ids->cap = cap;
	}
	ids->items[ids->count++] = id;
	return 0;
}

static void ids_done(struct ids *ids)
{
	free(ids->items);
}

int lm_layout_ids(struct lm_layout *layout, int64_t **ret, size_t *ret_count, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = openat(layout->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CLEANUP(lm_closedirp) DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir)
		return lm_err_sys(err, -errno, "open %s", layout->prefix);
	fd = -1;
	CLEANUP(ids_done) struct ids ids = {0};
	struct dirent *entry;
	for (errno = 0; (entry = readdir(dir)); errno = 0) {
		int64_t id;
		size_t len = strlen(entry->d_name);
		/* Only names as we write them: "007" is somebody else's, and so is a file. */
		bool directory = entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN;
		if (!directory || lm_str_i64(entry->d_name, len, &id) < 0 || id <= 0 ||
			strcmp(entry->d_name, name_of(id, "").text) != 0)
			continue;
		if (ids_add(&ids, id) < 0)
			return lm_err_oom(err);
	}
	if (errno)
		return lm_err_sys(err, -errno, "list %s", layout->prefix);
	*ret = STEAL(ids.items);
	*ret_count = ids.count;
	return 0;
}
