#include "snapshotter/mapped.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "snapshotter/mountpoints.h"

#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* --- ranges --- */

static int parse_number(const char **at, char end, uint32_t *ret)
{
	uint64_t number;
	size_t len = strcspn(*at, ":,");
	if ((*at)[len] != end || lm_str_u64(*at, len, &number) < 0 || number > UINT32_MAX)
		return -EINVAL;
	*ret = (uint32_t)number;
	*at += len + (end != '\0');
	return 0;
}

static int parse_range(const char **at, struct lm_mapped_range *ret)
{
	const char *comma = strchr(*at, ',');
	if (parse_number(at, ':', &ret->inside) < 0 || parse_number(at, ':', &ret->host) < 0 ||
		parse_number(at, comma ? ',' : '\0', &ret->length) < 0)
		return -EINVAL;
	bool fits = ret->length > 0 && ret->inside <= UINT32_MAX - ret->length && ret->host <= UINT32_MAX - ret->length;
	return fits ? 0 : -EINVAL;
}

int lm_mapped_parse(const char *text, struct lm_mapped_ranges *ret, struct lm_err *err)
{
	const char *at = text;
	ret->count = 0;
	for (bool more = true; more; more = at > text && at[-1] == ',') {
		if (ret->count == LM_MAPPED_RANGES_MAX)
			return lm_err_set(err, -EINVAL, "more than %d ranges of ids", LM_MAPPED_RANGES_MAX);
		if (parse_range(&at, &ret->items[ret->count++]) < 0)
			return lm_err_set(err, -EINVAL, "\"%.200s\" is no INSIDE:HOST:LENGTH[,...] of ids", text);
	}
	return 0;
}

bool lm_mapped_host(const struct lm_mapped_ranges *ranges, uint32_t inside, uint32_t *ret)
{
	for (size_t i = 0; i < ranges->count; i++) {
		const struct lm_mapped_range *range = &ranges->items[i];
		if (inside < range->inside || inside - range->inside >= range->length)
			continue;
		*ret = range->host + (inside - range->inside);
		return true;
	}
	return false;
}

/* --- the user namespace that says how --- */

/* In the child, which shares nothing but the program with us, and descriptors: a lock that is held would be its, too,
 * if it outlived us. */
static void __attribute__((noreturn)) hold_namespace(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == parent) /* else it died before that */
		pause();
	_exit(0);
}

static int write_map(pid_t pid, const char *file, const struct lm_mapped_ranges *ranges, struct lm_err *err)
{
	char path[64];
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(64 * LM_MAPPED_RANGES_MAX);
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	for (size_t i = 0; i < ranges->count; i++) {
		const struct lm_mapped_range *range = &ranges->items[i];
		int r = lm_buf_printf(
			&text, "%" PRIu32 " %" PRIu32 " %" PRIu32 "\n", range->inside, range->host, range->length);
		if (r < 0)
			return lm_err_sys(err, r, "%s", file);
	}
	CLEANUP(lm_closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : write(fd, text.data, text.len); /* the kernel wants it in one write */
	if (n == (ssize_t)text.len)
		return 0;
	if (n < 0 && errno == EINVAL) /* overlapping ranges, say */
		return lm_err_set(err, -EINVAL, "the kernel does not take these ranges of ids");
	return lm_err_sys(err, n < 0 ? -errno : -EIO, "write %s", path);
}

static int open_namespace(
	pid_t pid, const struct lm_mapped_ranges *uids, const struct lm_mapped_ranges *gids, struct lm_err *err)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
	int r = write_map(pid, "uid_map", uids, err);
	if (r == 0)
		r = write_map(pid, "gid_map", gids, err);
	if (r < 0)
		return r;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? lm_err_sys(err, -errno, "open %s", path) : fd;
}

/* A namespace comes into being with a process, and lasts as long as a descriptor. */
static int make_namespace(const struct lm_mapped_ranges *uids, const struct lm_mapped_ranges *gids, struct lm_err *err)
{
	/* By itself, since what libraries do at a fork() is not for a process that only waits. */
	pid_t parent = getpid();
	pid_t pid = (pid_t)syscall(SYS_clone, (unsigned long)(CLONE_NEWUSER | SIGCHLD), NULL, NULL, NULL, NULL);
	if (pid < 0)
		return lm_err_sys(err, -errno, "make a user namespace");
	if (pid == 0)
		hold_namespace(parent);
	int fd = open_namespace(pid, uids, gids, err);
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return fd;
}

/* --- mounting --- */

static int open_clone(int namespace, const char *source, struct lm_err *err)
{
	struct mount_attr attributes = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t) namespace};
	CLEANUP(lm_closep) int tree = open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (tree < 0)
		return lm_err_sys(err, -errno, "clone the mount of %s", source);
	if (mount_setattr(tree, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) == 0)
		return STEAL_FD(tree);
	return errno == EINVAL || errno == EOPNOTSUPP ? lm_err_set(err, -EBUSY,
								"the file system of %s can't have its ids mapped "
								"(of layers without a merged tree, only of "
								"those without extended attributes, with Linux "
								"6.12 or later)",
								source)
						      : lm_err_sys(err, -errno, "map the ids of %s", source);
}

static int mount_one(int namespace, const char *source, const char *target, struct lm_err *err)
{
	CLEANUP(lm_closep) int tree = open_clone(namespace, source, err);
	if (tree < 0)
		return tree;
	if (mkdir(target, 0700) < 0 && errno != EEXIST)
		return lm_err_sys(err, -errno, "make %s", target);
	if (move_mount(tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return lm_err_sys(err, -errno, "mount at %s", target);
	return 0;
}

static char *target_of(const char *dir, size_t number)
{
	return lm_str_printf("%s/" LM_MAPPED_PREFIX "%zu", dir, number);
}

/* A mount of a server that is gone has another device than the one that is there now. */
static bool is_clone_of(int fd, const char *name, const char *target, const char *source)
{
	struct stat ours, theirs;
	return lm_mountpoints_has(fd, name) && stat(target, &ours) == 0 && stat(source, &theirs) == 0 &&
	       ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

static int all_there(int fd, const char *dir, const char *const *sources, size_t count, struct lm_err *err)
{
	bool there = true;
	for (size_t i = 0; i < count && there; i++) {
		CLEANUP(lm_freep) char *target = target_of(dir, i);
		if (!target)
			return lm_err_oom(err);
		there = is_clone_of(fd, target + strlen(dir) + 1, target, sources[i]);
	}
	return there;
}

int lm_mapped_mount(const char *dir, const char *const *sources, size_t count, const struct lm_mapped_ranges *uids,
	const struct lm_mapped_ranges *gids, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = lm_mountpoints_open(dir, err);
	if (fd < 0)
		return fd;
	int r = all_there(fd, dir, sources, count, err);
	if (r != 0)
		return r < 0 ? r : 0;
	CLEANUP(lm_closep) int namespace = make_namespace(uids, gids, err);
	if (namespace < 0)
		return namespace;
	r = lm_mountpoints_detach(fd, dir, LM_MAPPED_PREFIX, err);
	for (size_t i = 0; i < count && r == 0; i++) {
		CLEANUP(lm_freep) char *target = target_of(dir, i);
		r = target ? mount_one(namespace, sources[i], target, err) : lm_err_oom(err);
	}
	if (r == 0)
		return 0;
	struct lm_err late = LM_ERR_INIT;
	if (lm_mountpoints_detach(fd, dir, LM_MAPPED_PREFIX, &late) < 0)
		lm_log(LM_LOG_WARN, "left behind", LM_KV("directory", "%s", dir),
			LM_KV("reason", "%s", lm_err_text(&late)));
	return r;
}

int lm_mapped_probe(const char *dir, struct lm_err *err)
{
	const struct lm_mapped_ranges ranges = {.items = {{.inside = 0, .host = 1, .length = 1}}, .count = 1};
	CLEANUP(lm_closep) int namespace = make_namespace(&ranges, &ranges, err);
	CLEANUP(lm_closep) int tree = namespace < 0 ? namespace : open_clone(namespace, dir, err);
	return tree < 0 ? tree : 0;
}
