/* Looks at directories, which may be on a file system that never answers. */
#include "base/clock.h"
#include "doctor/doctor.h"

#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

enum { LIMIT_S = 10 };

/* What it has begun it brings to its end, whatever happens to us; and who reads our output does not wait for it. */
static void run(void (*fn)(void *arg), void *arg)
{
	sigset_t all;
	sigfillset(&all);
	(void)sigprocmask(SIG_BLOCK, &all, NULL);
	(void)close_range(0, ~0U, 0);
	fn(arg);
	_exit(0);
}

/* 0, or a negative errno. */
static int wait_for_end(pid_t pid)
{
	int64_t deadline_ms = lm_now_ms() + LIMIT_S * 1000;
	CLEANUP(lm_closep) int pidfd = pidfd_open(pid, 0);
	if (pidfd < 0)
		return -errno;
	for (;;) {
		struct pollfd ended = {.fd = pidfd, .events = POLLIN};
		int n = poll(&ended, 1, (int)LM_MAX(deadline_ms - lm_now_ms(), (int64_t)0));
		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

static int gather(pid_t pid, struct lm_err *err)
{
	int status, r = wait_for_end(pid);
	if (r < 0)
		(void)kill(pid, SIGKILL);
	if (r == -ETIMEDOUT)
		return lm_err_set(err, r, "no answer within %d s", LIMIT_S);
	if (r < 0 || waitpid(pid, &status, 0) < 0)
		return lm_err_sys(err, r < 0 ? r : -errno, "wait for a process");
	return WIFEXITED(status) ? 0 : lm_err_set(err, -EIO, "a process of ours was killed");
}

int lm_doctor_apart(void (*fn)(void *arg), void *arg, size_t size, struct lm_err *err)
{
	void *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return lm_err_sys(err, -errno, "mmap");
	memcpy(shared, arg, size);
	pid_t pid = fork();
	if (pid == 0)
		run(fn, shared);
	int r = pid < 0 ? lm_err_sys(err, -errno, "fork") : gather(pid, err);
	if (r == 0)
		memcpy(arg, shared, size);
	(void)munmap(shared, size);
	return r;
}

int lm_doctor_existing(const char *path, char ret[PATH_MAX], struct lm_err *err)
{
	if (strlen(path) >= PATH_MAX)
		return lm_err_sys(err, -ENAMETOOLONG, "%s", path);
	strcpy(ret, path);
	while (access(ret, F_OK) < 0 && strcmp(ret, "/") != 0 && strcmp(ret, ".") != 0) {
		const char *above = dirname(ret); /* in ret, or "." */
		memmove(ret, above, strlen(above) + 1);
	}
	return 0;
}
