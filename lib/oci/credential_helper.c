/* docker-credential-NAME get: the server's address on its standard input, JSON on its standard output. */
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "oci/credentials.h"
#include "oci/json.h"
#include "oci/secret.h"

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

enum { ANSWER_MAX = 64 << 10 };

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

static int spawn(char *const argv[], int in, int out, pid_t *ret)
{
	extern char **environ;
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, defaults;
	sigemptyset(&none);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in, 0);
	posix_spawn_file_actions_adddup2(&actions, out, 1);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setpgroup(&attributes, 0);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &defaults);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	int e = posix_spawnp(ret, argv[0], &actions, &attributes, argv, environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return -e;
}

/* The server's name fits into a pipe, so writing it before there is a reader does not block. */
static int start(const struct lm_credential_helper *helper, struct child *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *program = lm_str_printf("docker-credential-%s", helper->name);
	if (!program)
		return lm_err_oom(err);
	int in[2], out[2];
	if (strlen(helper->server) > 1024)
		return lm_err_set(err, -EPROTO, "%s: too long a server name", program);
	if (pipe2(in, O_CLOEXEC) < 0)
		return lm_err_sys(err, -errno, "pipe");
	CLEANUP(lm_closep) int in_read = in[0], in_write = in[1];
	if (pipe2(out, O_CLOEXEC) < 0)
		return lm_err_sys(err, -errno, "pipe");
	ret->out = out[0];
	CLEANUP(lm_closep) int out_write = out[1];
	int r = lm_write_all(in_write, helper->server, strlen(helper->server), err);
	if (r < 0)
		return r;
	r = spawn((char *const[]){program, (char *)"get", NULL}, in_read, out_write, &ret->pid);
	if (r < 0) {
		ret->pid = 0;
		return lm_err_set(err, -EACCES, "%s: %s", program, strerror(-r));
	}
	ret->pidfd = pidfd_open(ret->pid, 0);
	return ret->pidfd < 0 ? lm_err_sys(err, -errno, "%s", program) : 0;
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
static int gather(struct child *child, int64_t deadline_ms, struct lm_buf *answer, int *ret_status)
{
	for (ssize_t n = 1; n > 0;) {
		uint8_t piece[4096];
		int r = wait_readable(child->out, deadline_ms);
		if (r < 0)
			return r;
		n = read(child->out, piece, sizeof(piece));
		if (n < 0 && errno != EINTR)
			return -errno;
		r = n > 0 ? lm_buf_append(answer, piece, (size_t)n) : 0;
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

static int parse_answer(const struct lm_buf *answer, struct lm_credential *ret, struct lm_err *err)
{
	CLEANUP(lm_json_freep) json_t *root = NULL;
	const char *user, *secret;
	int r = lm_json_load("answer", (const char *)answer->data, answer->len, &root, NULL);
	if (r < 0) /* the parser's message would show a piece of the text */
		return lm_err_set(err, r, "its answer is no JSON object");
	r = lm_json_string("answer", root, "Username", LM_JSON_REQUIRED, &user, err);
	if (r == 0)
		r = lm_json_string("answer", root, "Secret", LM_JSON_REQUIRED, &secret, err);
	if (r < 0)
		return r;
	bool token = strcmp(user, "<token>") == 0;
	CLEANUP(lm_credential_done) struct lm_credential c = {.user = strdup(user)};
	*(token ? &c.identity_token : &c.password) = strdup(secret);
	if (!c.user || !(token ? c.identity_token : c.password))
		return lm_err_oom(err);
	*ret = c;
	c = (struct lm_credential){0};
	return 1;
}

static int judge(const struct lm_buf *answer, int status, struct lm_credential *ret, struct lm_err *err)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return parse_answer(answer, ret, err);
	/* What Docker's own helpers say, and what others say after them. */
	if (answer->len > 0 && strcasestr((const char *)answer->data, "credentials not found"))
		return 0;
	if (WIFEXITED(status))
		return lm_err_set(err, -EACCES, "it failed with exit code %d", WEXITSTATUS(status));
	return lm_err_set(err, -EACCES, "it was killed by signal %d", WTERMSIG(status));
}

int lm_credential_helper_ask(
	const struct lm_credential_helper *helper, unsigned limit_ms, struct lm_credential *ret, struct lm_err *err)
{
	CLEANUP(child_done) struct child child = {.out = -1, .pidfd = -1};
	CLEANUP(lm_secret_buf_done) struct lm_buf answer = LM_BUF(ANSWER_MAX);
	int64_t deadline_ms = lm_now_ms() + limit_ms;
	int status = 0;
	if (lm_buf_reserve(&answer, ANSWER_MAX) < 0)
		return lm_err_oom(err);
	int r = start(helper, &child, err);
	if (r < 0)
		return r;
	r = gather(&child, deadline_ms, &answer, &status);
	if (r == -ETIMEDOUT)
		(void)lm_err_set(err, r, "no answer within %u ms", limit_ms);
	else if (r == -EMSGSIZE)
		r = lm_err_set(err, -EPROTO, "an answer of more than %d bytes", ANSWER_MAX);
	else if (r < 0)
		(void)lm_err_sys(err, r, "its answer");
	else
		r = judge(&answer, status, ret, err);
	return r < 0 ? lm_err_prefix(err, r, "docker-credential-%s", helper->name) : r;
}
