#include "trees.h"

#include "base/buf.h"
#include "base/file.h"

#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

extern char **environ;

static int write_file(int dir, const struct step *step, struct lm_err *err)
{
	int how = step->act == APPEND ? O_APPEND : O_CREAT | O_TRUNC;
	CLEANUP(lm_closep) int fd = openat(dir, step->path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC | how, 0600);
	if (fd < 0)
		return lm_err_sys(err, -errno, "open %s", step->path);
	int r = lm_write_all(fd, step->text, strlen(step->text), err);
	if (r == 0 && step->act == FILE_OF && fchmod(fd, step->mode) < 0)
		return lm_err_sys(err, -errno, "chmod %s", step->path);
	return r;
}

static int set_attribute(int dir, const struct step *step, struct lm_err *err)
{
	char name[64];
	size_t len = strcspn(step->text, "=");
	CLEANUP(lm_closep) int fd = openat(dir, step->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || len >= sizeof(name))
		return lm_err_sys(err, fd < 0 ? -errno : -ENAMETOOLONG, "open %s", step->path);
	memcpy(name, step->text, len);
	name[len] = '\0';
	const char *value = step->text + len + 1;
	return fsetxattr(fd, name, value, strlen(value), 0) < 0
		       ? lm_err_sys(err, -errno, "attribute %s of %s", name, step->path)
		       : 0;
}

static int do_step(int dir, const struct step *step, struct lm_err *err)
{
	int r = 0;
	const char *path = step->path;
	switch (step->act) {
	case FILE_OF:
	case APPEND:
		return write_file(dir, step, err);
	case ATTRIBUTE:
		return set_attribute(dir, step, err);
	case REMOVE:
		return lm_remove_tree(dir, path, err);
	case DIRECTORY:
		r = mkdirat(dir, path, 0700);
		if (r == 0)
			r = fchmodat(dir, path, step->mode, 0);
		break;
	case RENAME:
		r = renameat(dir, path, dir, step->text);
		break;
	case LINK:
		r = linkat(dir, path, dir, step->text, 0);
		break;
	case SYMLINK:
		r = symlinkat(step->text, dir, path);
		break;
	case OWNER:
		r = fchownat(dir, path, step->uid, step->gid, AT_SYMLINK_NOFOLLOW);
		break;
	case MODE:
		r = fchmodat(dir, path, step->mode, 0);
		break;
	case DEVICE:
		r = mknodat(dir, path, S_IFCHR | step->mode, makedev(1, 3));
		break;
	case PIPE:
		r = mkfifoat(dir, path, step->mode);
		break;
	case END:
		break;
	}
	return r < 0 ? lm_err_sys(err, -errno, "step on %s", path) : 0;
}

/* Of the path, if it is there, and of the directory above. */
static int set_times(int dir, const char *path, unsigned number, struct lm_err *err)
{
	struct timespec times[2] = {{.tv_sec = 1600000000 + number, .tv_nsec = 123456789}, {0}};
	times[1] = times[0];
	char above[512] = ".";
	const char *slash = strrchr(path, '/');
	if (slash && (size_t)(slash - path) < sizeof(above)) {
		memcpy(above, path, (size_t)(slash - path));
		above[slash - path] = '\0';
	}
	if (utimensat(dir, path, times, AT_SYMLINK_NOFOLLOW) < 0 && errno != ENOENT)
		return lm_err_sys(err, -errno, "times of %s", path);
	return utimensat(dir, above, times, AT_SYMLINK_NOFOLLOW) < 0 ? lm_err_sys(err, -errno, "times of %s", above)
								     : 0;
}

int trees_apply(const char *root, const struct step *steps, struct lm_err *err)
{
	CLEANUP(lm_closep) int dir = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return lm_err_sys(err, -errno, "open %s", root);
	for (unsigned i = 0; steps[i].act != END; i++) {
		int r = do_step(dir, &steps[i], err);
		if (r == 0)
			r = set_times(dir, steps[i].path, i, err);
		if (r == 0 && (steps[i].act == RENAME || steps[i].act == LINK))
			r = set_times(dir, steps[i].text, i, err);
		if (r < 0)
			return lm_err_prefix(err, r, "%s", root);
	}
	return 0;
}

static int run_quietly(char *const *argv, const char *output, int *ret_status, struct lm_err *err)
{
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	posix_spawn_file_actions_adddup2(&actions, 1, 2);
	pid_t pid;
	int r = posix_spawn(&pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (r != 0)
		return lm_err_sys(err, -r, "run %s", argv[0]);
	while (waitpid(pid, ret_status, 0) < 0)
		if (errno != EINTR)
			return lm_err_sys(err, -errno, "wait for %s", argv[0]);
	return 0;
}

int trees_compare(
	const char *treediff, const char *expected, const char *found, const char *scratch, struct lm_err *err)
{
	int status = -1;
	/* An upper directory is as old as its snapshot. */
	char *argv[] = {(char *)treediff, (char *)"--no-dir-nlink", (char *)"--ignore", (char *)"/:mtime",
		(char *)expected, (char *)found, NULL};
	int r = run_quietly(argv, scratch, &status, err);
	if (r < 0 || status == 0)
		return r;
	CLEANUP(lm_buf_done) struct lm_buf output = LM_BUF(1 << 20);
	(void)!lm_file_read(AT_FDCWD, scratch, &output, NULL);
	return lm_err_set(
		err, -EBUSY, "the tree is not as it should be (expected | found): %.600s", lm_buf_cstr(&output));
}
