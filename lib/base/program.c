#include "base/program.h"

#include "base/clock.h"
#include "base/file.h"

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

enum { INPUT_MAX = 1024 }; /* fits into a pipe, so that writing it before there is a reader does not block */

struct child {
	pid_t pid; /* 0: none; leader of a process group of its own */
	int out, pidfd;
};

/* Whatever it has started goes with it. */
static void child_done(struct child *child)
{
	if (child->pid > 0) {
		kill(-child->pid, SIGKILL);
		while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	lm_closep(&child->out);
	lm_closep(&child->pidfd);
}

/* errors -1: ours. */
static int spawn(const struct lm_program *program, int in, int out, int errors, pid_t *ret)
{
	extern char **environ;
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, defaults;
	sigemptyset(&none);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	if (errors >= 0)
		posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setpgroup(&attributes, 0);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &defaults);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	int e = posix_spawnp(ret, program->path ? program->path : program->argv[0], &actions, &attributes,
		(char *const *)program->argv, environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return -e;
}

static int start(const struct lm_program *program, int errors, struct child *ret, struct lm_err *err)
{
	const char *input = program->input ? program->input : "";
	int in[2], out[2];
	if (strlen(input) > INPUT_MAX)
		return lm_err_set(err, -EINVAL, "its input is too long");
	if (pipe2(in, O_CLOEXEC) < 0)
		return lm_err_sys(err, -errno, "pipe");
	CLEANUP(lm_closep) int in_read = in[0], in_write = in[1];
	if (pipe2(out, O_CLOEXEC) < 0)
		return lm_err_sys(err, -errno, "pipe");
	ret->out = out[0];
	CLEANUP(lm_closep) int out_write = out[1];
	int r = lm_write_all(in_write, input, strlen(input), err);
	if (r < 0)
		return r;
	r = spawn(program, in_read, out_write, errors, &ret->pid);
	if (r < 0) {
		ret->pid = 0;
		return lm_err_set(err, r, "%s", strerror(-r));
	}
	ret->pidfd = pidfd_open(ret->pid, 0);
	return ret->pidfd < 0 ? lm_err_sys(err, -errno, "pidfd_open") : 0;
}

static int wait_readable(int fd, int64_t deadline_ms)
{
	struct pollfd pfd = {fd, POLLIN, 0};
	for (;;) {
		int64_t left = deadline_ms - lm_now_ms();
		int n = poll(&pfd, 1, (int)LM_MAX(left, (int64_t)0));
		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/* Reads to the end, and waits for the process. */
static int gather(struct child *child, int64_t deadline_ms, struct lm_buf *output, int *ret_status)
{
	for (ssize_t n = 1; n > 0;) {
		uint8_t piece[4096];
		int r = wait_readable(child->out, deadline_ms);
		if (r < 0)
			return r;
		n = read(child->out, piece, sizeof(piece));
		if (n < 0 && errno != EINTR)
			return -errno;
		r = n > 0 ? lm_buf_append(output, piece, (size_t)n) : 0;
		explicit_bzero(piece, sizeof(piece));
		if (r < 0)
			return r;
		if (n < 0)
			n = 1;
	}
	int r = wait_readable(child->pidfd, deadline_ms);
	if (r < 0)
		return r;
	pid_t pid = waitpid(child->pid, ret_status, 0);
	if (pid < 0)
		return -errno;
	child->pid = 0;
	return 0;
}

static void read_errors(int fd, struct lm_buf *ret)
{
	char text[4096];
	ssize_t n = fd < 0 ? 0 : pread(fd, text, LM_MIN(sizeof(text), ret->max - ret->len), 0);
	if (n > 0)
		(void)!lm_buf_append(ret, text, (size_t)n);
}

int lm_program_run(const struct lm_program *program, struct lm_buf *output, int *ret_status, struct lm_err *err)
{
	CLEANUP(child_done) struct child child = {.out = -1, .pidfd = -1};
	CLEANUP(lm_closep) int errors = program->errors ? memfd_create("errors", MFD_CLOEXEC) : -1;
	int64_t deadline_ms = lm_now_ms() + program->limit_ms;
	if (program->errors && errors < 0)
		return lm_err_sys(err, -errno, "memfd_create");
	int r = start(program, errors, &child, err);
	if (r < 0)
		return r;
	r = gather(&child, deadline_ms, output, ret_status);
	if (program->errors)
		read_errors(errors, program->errors);
	if (r == -ETIMEDOUT)
		return lm_err_set(err, r, "no answer within %u ms", program->limit_ms);
	if (r == -EMSGSIZE)
		return lm_err_set(err, r, "an answer of more than %zu bytes", output->max);
	return r < 0 ? lm_err_sys(err, r, "its answer") : 0;
}
