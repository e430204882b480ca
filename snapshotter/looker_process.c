#include "snapshotter/looker_process.h"

#include "base/clock.h"
#include "base/lock.h"
#include "snapshotter/looker.h"

#include "lamella/fetcher.pb-c.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 16, STOP_MS = 2000, BACKOFF_MS = 100, BACKOFF_MAX_MS = 10000, SHORT_LIFE_MS = 10000 };

struct lm_looker_process {
	/* constant */
	const char *socket, *source;
	enum lm_log_level level;
	pthread_t watcher;
	bool watched;

	struct lm_lock lock;
	struct lm_cond stopped;
	/* under lock */
	bool stopping;
	int pidfd; /* -1: there is none */
	int life;  /* its standard input ends with this; -1: there is none */
};

/* --- the child --- */

static void on_resolve(struct lm_rpc_call *call, void *arg)
{
	lm_looker_handle(arg, call);
}

static const struct lm_rpc_method methods[] = {
	{"/lamella.fetcher.v1.Fetcher/Resolve", &lamella__fetcher__v1__resolve_request__descriptor, on_resolve, 0},
};

static void wait_for_parent(void)
{
	char byte;
	ssize_t n;
	do {
		n = read(STDIN_FILENO, &byte, 1);
	} while (n > 0 || (n < 0 && errno == EINTR));
}

int lm_looker_process_run(const char *socket, const char *source)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_places places = {0};
	struct lm_looker *looker = NULL;
	struct lm_rpc_server *server = NULL;
	sigset_t signals;
	sigfillset(&signals); /* the parent is told, and ends this */
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	int r = lm_places_parse(source, &places, &err);
	if (r == 0 && places.count == 0)
		r = lm_err_set(&err, -EINVAL, "%s is no place to look", source);
	if (r == 0)
		r = lm_looker_new(&places, &lm_looker_ways, &looker, &err);
	if (r == 0)
		r = lm_rpc_server_new(socket, methods, ARRAY_LEN(methods), looker, WORKERS, &server, &err);
	if (r < 0) {
		lm_log(LM_LOG_ERROR, "mounts can't be looked into", LM_KV("reason", "%s", lm_err_text(&err)));
		return 1;
	}
	wait_for_parent();
	_exit(0); /* what hangs can't be waited for */
}

/* --- the parent --- */

static const char *level_name(enum lm_log_level level)
{
	static const char *const names[] = {
		[LM_LOG_ERROR] = "error", [LM_LOG_WARN] = "warn", [LM_LOG_INFO] = "info", [LM_LOG_DEBUG] = "debug"};
	return names[level];
}

static int spawn_with(const struct lm_looker_process *p, int input, pid_t *ret)
{
	char *const argv[] = {(char *)"lamella-snapshotter", (char *)"--look", (char *)p->source, (char *)"--address",
		(char *)p->socket, (char *)"--log-level", (char *)level_name(p->level), NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	int r = posix_spawn_file_actions_init(&files);
	if (r != 0)
		return -r;
	r = posix_spawnattr_init(&attributes);
	if (r == 0) {
		sigset_t none;
		sigemptyset(&none);
		(void)posix_spawnattr_setsigmask(&attributes, &none);
		(void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
		r = posix_spawn_file_actions_adddup2(&files, input, STDIN_FILENO);
		if (r == 0)
			r = posix_spawn(ret, "/proc/self/exe", &files, &attributes, argv, environ);
		posix_spawnattr_destroy(&attributes);
	}
	posix_spawn_file_actions_destroy(&files);
	return -r;
}

/* lock held. A child that a mount holds since an earlier run may listen at that name still. */
static int spawn(struct lm_looker_process *p, struct lm_err *err)
{
	int ends[2];
	pid_t pid;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return lm_err_sys(err, -errno, "make a pipe");
	CLEANUP(lm_closep) int input = ends[0];
	CLEANUP(lm_closep) int life = ends[1];
	(void)unlink(p->socket);
	int r = spawn_with(p, input, &pid);
	if (r < 0)
		return lm_err_sys(err, r, "start this program");
	p->pidfd = pidfd_open(pid, 0); /* nobody else waits for it */
	if (p->pidfd < 0) {
		r = -errno;
		kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
		return lm_err_sys(err, r, "watch it");
	}
	p->life = STEAL_FD(life);
	return 0;
}

/* Until the child has ended. */
static void await_end(struct lm_looker_process *p)
{
	siginfo_t info = {0};
	while (waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED) < 0 && errno == EINTR)
		;
	LM_LOCKED(&p->lock);
	lm_closep(&p->pidfd);
	lm_closep(&p->life);
	p->pidfd = p->life = -1;
	if (!p->stopping)
		lm_log(LM_LOG_WARN, "the process that looks into mounts ended",
			LM_KV("by", "%s", info.si_code == CLD_EXITED ? "exit code" : "signal"),
			LM_KV("number", "%d", info.si_status));
}

static void *watch(void *arg)
{
	struct lm_looker_process *p = arg;
	int64_t pause_ms = BACKOFF_MS;
	for (;;) {
		struct lm_err err = LM_ERR_INIT;
		int64_t began_ms = lm_now_ms();
		lm_lock_take(&p->lock);
		bool stopping = p->stopping;
		int r = stopping ? 0 : spawn(p, &err);
		lm_lock_release(&p->lock);
		if (stopping)
			return NULL;
		if (r < 0)
			lm_log(LM_LOG_ERROR, "mounts can't be looked into", LM_KV("reason", "%s", lm_err_text(&err)));
		else
			await_end(p);
		bool short_life = lm_now_ms() - began_ms < SHORT_LIFE_MS;
		pause_ms = short_life ? LM_MIN(2 * pause_ms, (int64_t)BACKOFF_MAX_MS) : BACKOFF_MS;
		int64_t until_ms = lm_now_ms() + pause_ms;
		LM_LOCKED(&p->lock);
		for (int64_t left; !p->stopping && (left = until_ms - lm_now_ms()) > 0;)
			(void)lm_cond_wait_ms(&p->stopped, &p->lock, left);
	}
}

int lm_looker_process_start(const char *socket, const char *source, enum lm_log_level level,
	struct lm_looker_process **ret, struct lm_err *err)
{
	struct lm_looker_process *p = calloc(1, sizeof(*p));
	if (!p)
		return lm_err_oom(err);
	*p = (struct lm_looker_process){.socket = socket, .source = source, .level = level, .pidfd = -1, .life = -1};
	lm_lock_init(&p->lock);
	lm_cond_init(&p->stopped);
	int r = -pthread_create(&p->watcher, NULL, watch, p);
	p->watched = r == 0;
	if (r < 0) {
		lm_looker_process_stop(p);
		return lm_err_sys(err, r, "start a thread");
	}
	*ret = p;
	return 0;
}

void lm_looker_process_stop(struct lm_looker_process *p)
{
	if (!p)
		return;
	lm_lock_take(&p->lock);
	p->stopping = true;
	if (p->pidfd >= 0)
		(void)pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0);
	lm_cond_broadcast(&p->stopped);
	(void)unlink(p->socket);
	lm_lock_release(&p->lock);
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += STOP_MS / 1000;
	if (p->watched && pthread_timedjoin_np(p->watcher, NULL, &until) != 0) {
		lm_log(LM_LOG_WARN, "left behind: a process that waits for a mount", LM_KV("source", "%s", p->source));
		return; /* with the thread that waits for it */
	}
	lm_cond_done(&p->stopped);
	lm_lock_done(&p->lock);
	free(p);
}
