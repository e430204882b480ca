/*
 * alone: runs a command so that nothing of it stays behind, however it ends.
 *
 *   alone [--keep] WORK COMMAND [ARGUMENT...]
 *   alone --sweep DIR
 *
 * COMMAND is process 1 of its own PID namespace, with its own mounts (/proc new, /run empty), network (loopback only)
 * and IPC. WORK is a folder for its files; containers that it starts go into the control group lamella-<name of WORK>.
 * When COMMAND has ended, or `alone` got a signal or was killed, every process in there is killed, the mounts are gone,
 * the control groups and (without --keep) WORK are removed. The exit code is that of COMMAND, 128 + N after signal N.
 *
 * Three processes: the one that was called; a guardian in a session of its own, which learns of the first one's death
 * by the end of a pipe; and COMMAND, which dies with the guardian (PR_SET_PDEATHSIG). Whoever is left of the first two
 * cleans up. If both are killed at once only WORK and empty control groups stay; --sweep removes such leftovers from
 * the folder DIR in which WORKs are made. A lock on WORK/.alone tells the living from the dead.
 */
#include "base/file.h"
#include "base/str.h"

#include <dirent.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define CGROUPS "/sys/fs/cgroup"
#define CGROUP_TRIES 50 /* a group stays busy for a moment after its last process */

#define NOT_RUN 125 /* the exit code when COMMAND could not be started */

static int trouble(const char *what)
{
	fprintf(stderr, "alone: %s: %s\n", what, strerror(errno));
	return NOT_RUN;
}

/* --- cleaning up
 * ------------------------------------------------------------------------------------------------------ */

/* Removes a group and those below it; files in there go with their directory. */
static void remove_group(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir)
		return;
	for (const struct dirent *d; (d = readdir(dir));)
		if (d->d_type == DT_DIR && d->d_name[0] != '.')
			remove_group(fd, d->d_name);
	closedir(dir);
	for (int i = 0; unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno == EBUSY && i < CGROUP_TRIES; i++)
		usleep(20 * 1000);
}

/* Version 2 has the group at the top, version 1 in each hierarchy. */
static void remove_groups(const char *work)
{
	const char *slash = strrchr(work, '/');
	char name[NAME_MAX + 1];
	snprintf(name, sizeof(name), "lamella-%s", slash ? slash + 1 : work);
	CLEANUP(lm_closep) int fd = open(CGROUPS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = opendir(CGROUPS);
	if (fd >= 0 && dir) {
		remove_group(fd, name);
		for (const struct dirent *d; (d = readdir(dir));) {
			CLEANUP(lm_closep)
			int hierarchy = d->d_type == DT_DIR && d->d_name[0] != '.'
						? openat(fd, d->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
						: -1;
			if (hierarchy >= 0)
				remove_group(hierarchy, name);
		}
	}
	if (dir)
		closedir(dir);
}

static void clean_up(const char *work, bool keep)
{
	struct lm_err err = LM_ERR_INIT;
	remove_groups(work);
	if (!keep && lm_remove_tree(AT_FDCWD, work, &err) < 0)
		fprintf(stderr, "alone: %s\n", lm_err_text(&err));
}

/* The lock of a work folder, or -1 (EWOULDBLOCK: somebody lives there). */
static int lock_work(const char *work, int flags)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/.alone", work);
	CLEANUP(lm_closep) int fd = path ? open(path, O_RDONLY | O_CLOEXEC | flags, 0600) : -1;
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return -1;
	return STEAL_FD(fd);
}

static int sweep(const char *where)
{
	DIR *dir = opendir(where);
	if (!dir)
		return errno == ENOENT ? 0 : trouble(where);
	for (const struct dirent *d; (d = readdir(dir));) {
		if (d->d_name[0] == '.')
			continue;
		CLEANUP(lm_freep) char *work = lm_str_printf("%s/%s", where, d->d_name);
		CLEANUP(lm_closep) int lock = work ? lock_work(work, 0) : -1;
		if (lock >= 0)
			clean_up(work, false);
	}
	closedir(dir);
	return 0;
}

/* --- the command
 * ------------------------------------------------------------------------------------------------------ */

static int loopback_up(void)
{
	CLEANUP(lm_closep) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	return fd < 0 ? -1 : ioctl(fd, SIOCSIFFLAGS, &request);
}

/* In the new process: waits for the guardian's word, so that its death before PR_SET_PDEATHSIG is not missed. */
static void run_command(char **argv, int go)
{
	char word;
	sigset_t none;
	sigemptyset(&none);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || read(go, &word, 1) != 1)
		exit(NOT_RUN);
	if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC) < 0)
		trouble("namespaces");
	else if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		trouble("private mounts");
	else if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		trouble("/proc");
	else if (mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755") < 0)
		trouble("/run");
	else if (loopback_up() < 0)
		trouble("loopback");
	else if (sigprocmask(SIG_SETMASK, &none, NULL) < 0 || execvp(argv[0], argv) < 0)
		trouble(argv[0]);
	exit(NOT_RUN);
}

static int exit_code(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* alive: ends when the process that was called does. */
static int guard(const char *work, bool keep, char **argv, int alive)
{
	int go[2], status = 0;
	setsid();
	if (unshare(CLONE_NEWPID) < 0 || pipe2(go, O_CLOEXEC) < 0)
		return trouble("PID namespace");
	pid_t child = fork();
	if (child == 0) {
		close(alive);
		close(go[1]);
		run_command(argv, go[0]);
	}
	CLEANUP(lm_closep) int ended = child < 0 ? -1 : pidfd_open(child, 0);
	if (ended < 0 || write(go[1], "g", 1) != 1)
		return trouble("start"); /* the end of `go` ends the child */
	struct pollfd fds[] = {{.fd = alive, .events = POLLIN}, {.fd = ended, .events = POLLIN}};
	while (poll(fds, ARRAY_LEN(fds), -1) < 0 && errno == EINTR)
		;
	if (!fds[1].revents)
		kill(child, SIGKILL);
	waitpid(child, &status, 0); /* process 1 is waited for last: all others in there are gone then */
	clean_up(work, keep);
	return exit_code(status);
}

static int wait_guardian(pid_t guardian, int alive, const sigset_t *signals, const char *work, bool keep)
{
	int ending = 0, status = 0;
	while (waitpid(guardian, &status, WNOHANG) == 0) {
		int number = sigwaitinfo(signals, NULL);
		if (number > 0 && number != SIGCHLD && !ending) {
			ending = number;
			close(alive); /* tells the guardian */
		}
	}
	if (WIFSIGNALED(status))
		clean_up(work, keep);
	if (!ending)
		return exit_code(status);
	signal(ending, SIG_DFL);
	sigprocmask(SIG_UNBLOCK, signals, NULL);
	raise(ending);
	return 128 + ending;
}

int main(int argc, char **argv)
{
	bool keep = argc > 1 && strcmp(argv[1], "--keep") == 0;
	char **rest = argv + 1 + keep;
	if (argc == 3 && strcmp(argv[1], "--sweep") == 0)
		return sweep(argv[2]);
	if (argc - keep < 3 || rest[0][0] == '-') {
		fputs("usage: alone [--keep] WORK COMMAND [ARGUMENT...]\n       alone --sweep DIR\n", stderr);
		return 2;
	}
	CLEANUP(lm_closep) int lock = lock_work(rest[0], O_CREAT);
	if (lock < 0)
		return trouble(rest[0]);
	sigset_t signals;
	sigemptyset(&signals);
	const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD};
	for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
		sigaddset(&signals, numbers[i]);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	int alive[2];
	if (pipe2(alive, O_CLOEXEC) < 0)
		return trouble("pipe");
	pid_t guardian = fork();
	if (guardian < 0)
		return trouble("fork");
	if (guardian == 0) {
		close(alive[1]);
		/* Not exit(): a leak check at exit can't work in a process whose children are in another PID namespace.
		 */
		_exit(guard(rest[0], keep, rest + 1, alive[0]));
	}
	close(alive[0]);
	return wait_guardian(guardian, alive[1], &signals, rest[0], keep);
}
