#include "fetcher/keeper_process.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/str.h"
#include "base/version.h"
#include "fetcher/keeper.h"
#include "fetcher/keeper_message.h"
#include "fetcher/mountpoint.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum {
	EXIT_FAILED = 1,
	PATIENCE_MS = 60000, /* without a sign of life from the worker */
	TICKS = 6,	     /* of the patience: each lasts so much less, and the worker speaks twice in each */
	START_PATIENCE = 10, /* times as long until it is ready: the first looks at servers may take their time */
	ABORT_MS = 5000,     /* from SIGABRT to SIGKILL: time for a core */
	STOP_MS = 60000,     /* from TERM to SIGKILL */
	LEAVE_MS = 10000,    /* for a worker that is replaced; what it did not answer is the next one's */
	SHORT_LIFE_MS = 10000,
	BACKOFF_MS = 100,
	BACKOFF_MAX_MS = 10000,
	SESSIONS_MAX = 1024,
	FIRST_PASSED_FD = 3, /* SD_LISTEN_FDS_START */
	FDNAME_MAX = 255,
};
#define STATE_ENV "LAMELLA_KEEPER_STATE"
static const char settings_fdname[] = "settings";

struct session {
	int fuse_fd, journal_fd;
	SLIST_ENTRY(session) entry;
	char mountpoint[];
};

struct worker {
	pid_t pid;  /* 0: there is none */
	int socket; /* -1: it has hung up */
	uint64_t number;
	int64_t start_ms;
	uint64_t oom_kills; /* of the machine, when it started */
	bool hello, started, ready, done, leaving;
	unsigned silent; /* ticks */
	int64_t kill_ms; /* SIGKILL is due; 0: no */
	const char *why; /* we end it; NULL: we don't */
};

struct keeper {
	char **argv;
	char program[PATH_MAX];
	sigset_t mask, old_mask; /* ours; that we were started with, which is the worker's */
	int signals;
	SLIST_HEAD(, session) sessions;
	unsigned session_count;
	int settings_fd;	    /* -1: none yet */
	struct worker worker, next; /* next: replaces worker when it has said hello */

	int64_t start_s;
	uint64_t workers, crashed, restarts; /* as in lm_keeper_facts */
	char last_end[256];
	bool was_ready, stopping;
	bool reload;	    /* a HUP waits until the worker is ready */
	bool upgrading;	    /* the keeper follows when the worker was replaced */
	unsigned failures;  /* in a row */
	int64_t restart_ms; /* when a worker is due; 0: not */
	int64_t tick_ms, patience_ms, watchdog_ms, watchdog_due_ms;
};

static int64_t earlier(int64_t a, int64_t b) /* of two times, where 0 is never */
{
	return a == 0 ? b : b == 0 ? a : LM_MIN(a, b);
}

static void tell_manager(const char *state, int fd)
{
	struct lm_err err = LM_ERR_INIT;
	int r = lm_notify_fd(state, fd, &err);
	/* Whoever started us may have wanted to know of the start only. */
	if (r < 0 && r != -ECONNREFUSED && r != -ENOENT)
		lm_log(LM_LOG_WARN, "service manager can't be told", LM_KV("cause", "%s", lm_err_text(&err)));
}

/* Sessions. */

static struct session *find_session(struct keeper *keeper, const char *mountpoint)
{
	struct session *session;
	SLIST_FOREACH(session, &keeper->sessions, entry)
	if (strcmp(session->mountpoint, mountpoint) == 0)
		return session;
	return NULL;
}

/* Names in the manager's store are printable, without ":", and short. */
static bool make_fdname(const char *kind, const char *mountpoint, char ret[FDNAME_MAX + 1])
{
	size_t len = (size_t)snprintf(ret, FDNAME_MAX + 1, "%s=", kind);
	for (const unsigned char *c = (const unsigned char *)mountpoint; *c; c++) {
		bool plain = isgraph(*c) && *c < 0x80 && *c != ':' && *c != '%';
		if (len + 3 > FDNAME_MAX)
			return false;
		len += (size_t)snprintf(ret + len, 4, plain ? "%c" : "%%%02x", *c);
	}
	return true;
}

static void tell_store(const struct session *session, bool keep)
{
	const struct {
		const char *kind;
		int fd;
	} parts[] = {{"journal", session->journal_fd}, {"fuse", session->fuse_fd}};
	char name[FDNAME_MAX + 1], state[FDNAME_MAX + 64];
	if (!getenv("NOTIFY_SOCKET"))
		return;
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		if (!make_fdname(parts[i].kind, session->mountpoint, name))
			return;
		/* Without FDPOLL=0 the manager would be woken by each request. */
		snprintf(state, sizeof(state), keep ? "FDSTORE=1\nFDPOLL=0\nFDNAME=%s" : "FDSTOREREMOVE=1\nFDNAME=%s",
			name);
		tell_manager(state, keep ? parts[i].fd : -1);
	}
}

static void forget_session(struct keeper *keeper, struct session *session)
{
	SLIST_REMOVE(&keeper->sessions, session, session, entry);
	keeper->session_count--;
	close(session->fuse_fd);
	close(session->journal_fd);
	free(session);
}

/* Takes the descriptors. */
static struct session *add_session(struct keeper *keeper, const char *mountpoint, int fuse_fd, int journal_fd)
{
	struct session *old = find_session(keeper, mountpoint);
	struct session *session = malloc(sizeof(*session) + strlen(mountpoint) + 1);
	if (old)
		forget_session(keeper, old);
	if (!session || fuse_fd < 0 || journal_fd < 0 || keeper->session_count == SESSIONS_MAX) {
		lm_log(LM_LOG_ERROR, "a mount can't be kept: it ends with the worker",
			LM_KV("mountpoint", "%s", mountpoint));
		free(session);
		lm_closep(&fuse_fd);
		lm_closep(&journal_fd);
		return NULL;
	}
	strcpy(session->mountpoint, mountpoint);
	session->fuse_fd = fuse_fd;
	session->journal_fd = journal_fd;
	SLIST_INSERT_HEAD(&keeper->sessions, session, entry);
	keeper->session_count++;
	return session;
}

static void store_session(struct keeper *keeper, const char *mountpoint, int fds[2])
{
	const struct session *old = find_session(keeper, mountpoint);
	if (old)
		tell_store(old, false);
	const struct session *session = add_session(keeper, mountpoint, STEAL_FD(fds[0]), STEAL_FD(fds[1]));
	if (session)
		tell_store(session, true);
}

static void drop_session(struct keeper *keeper, const char *mountpoint)
{
	struct session *session = find_session(keeper, mountpoint);
	if (!session)
		return;
	tell_store(session, false);
	forget_session(keeper, session);
}

/* Settings. */

static void forget_settings(struct keeper *keeper)
{
	char state[64];
	if (keeper->settings_fd < 0)
		return;
	lm_closep(&keeper->settings_fd);
	(void)snprintf(state, sizeof(state), "FDSTOREREMOVE=1\nFDNAME=%s", settings_fdname);
	tell_manager(state, -1);
}

/* Takes the descriptor. */
static void keep_settings(struct keeper *keeper, int fd)
{
	char state[64];
	forget_settings(keeper);
	if (fd < 0)
		return;
	keeper->settings_fd = fd;
	(void)snprintf(state, sizeof(state), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", settings_fdname);
	tell_manager(state, fd);
}

/* When no worker is left to do so. */
static void unmount_all(struct keeper *keeper)
{
	struct session *session;
	while ((session = SLIST_FIRST(&keeper->sessions))) {
		lm_log(LM_LOG_WARN, "unmounting what the worker left", LM_KV("mountpoint", "%s", session->mountpoint));
		(void)lm_mountpoint_unmount(session->mountpoint);
		tell_store(session, false);
		forget_session(keeper, session);
	}
	forget_settings(keeper);
}

/* Starting a worker. */

/* Only small pieces of free memory are kept for each thread: of a worker's many, each would hold some of all sizes,
 * here and there in pages that are otherwise free, which after all of a large image was read is two thirds of the heap.
 * This is taken from the environment alone (ld.so(8)); what is set there already stays. */
#define MALLOC_VARIABLE "GLIBC_TUNABLES"
static char malloc_variable[] = MALLOC_VARIABLE "=glibc.malloc.tcache_max=128";

/* Our environment, but for what the service manager said to us alone, and with what makes a worker of it. */
static char **worker_environment(char *variable)
{
	static const char *const ours[] = {"NOTIFY_SOCKET=", "WATCHDOG_USEC=", "WATCHDOG_PID=", "LISTEN_FDS=",
		"LISTEN_PID=", "LISTEN_FDNAMES=", LM_KEEPER_ENV "="};
	size_t count = 0, used = 0;
	while (environ[count])
		count++;
	char **copy = calloc(count + 3, sizeof(*copy));
	if (!copy)
		return NULL;
	copy[used++] = variable;
	if (!getenv(MALLOC_VARIABLE))
		copy[used++] = malloc_variable;
	for (size_t i = 0; i < count; i++) {
		bool pass = true;
		for (size_t k = 0; k < ARRAY_LEN(ours) && pass; k++)
			pass = !lm_str_starts(environ[i], ours[k]);
		if (pass)
			copy[used++] = environ[i];
	}
	return copy;
}

/* The program as it is installed now; this one's own file where there is none at the moment. */
static int spawn(struct keeper *keeper, int socket, pid_t *ret, struct lm_err *err)
{
	char variable[64];
	snprintf(variable, sizeof(variable), LM_KEEPER_ENV "=%d:%d", socket, (int)getpid());
	CLEANUP(lm_freep) char **env = worker_environment(variable);
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	if (!env || posix_spawn_file_actions_init(&actions) != 0)
		return lm_err_oom(err);
	if (posix_spawnattr_init(&attr) != 0) {
		posix_spawn_file_actions_destroy(&actions);
		return lm_err_oom(err);
	}
	/* Onto itself: it stays open there. */
	int r = posix_spawn_file_actions_adddup2(&actions, socket, socket);
	posix_spawnattr_setsigmask(&attr, &keeper->old_mask);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	if (r == 0)
		r = posix_spawn(ret, keeper->program, &actions, &attr, keeper->argv, env);
	if (r != 0)
		r = posix_spawn(ret, "/proc/self/exe", &actions, &attr, keeper->argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return r == 0 ? 0 : lm_err_sys(err, -r, "start %s", keeper->program);
}

/* The machine's count of processes killed for memory: tells such a SIGKILL from one that somebody sent. */
static uint64_t count_oom_kills(void)
{
	char text[16384];
	CLEANUP(lm_closep) int fd = open("/proc/vmstat", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	text[LM_MAX(n, 0)] = '\0';
	const char *line = strstr(text, "\noom_kill ");
	return line ? strtoull(line + strlen("\noom_kill "), NULL, 10) : 0;
}

/* The worker's first message; it looks for it once. */
static void send_settings(const struct keeper *keeper, int socket, enum lm_kept_settings kind)
{
	struct lm_err err = LM_ERR_INIT;
	const struct lm_message message = {.kind = LM_MESSAGE_SETTINGS, .numbers = {kind}};
	if (keeper->settings_fd < 0)
		return;
	if (lm_message_send(socket, &message, (const int[2]){keeper->settings_fd, -1}, &err) < 0)
		lm_log(LM_LOG_WARN, "the worker will read its settings anew", LM_KV("cause", "%s", lm_err_text(&err)));
}

static int start_worker(struct keeper *keeper, struct worker *ret, enum lm_kept_settings settings, struct lm_err *err)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return lm_err_sys(err, -errno, "socket");
	CLEANUP(lm_closep) int ours = pair[0], theirs = pair[1];
	pid_t pid;
	/* What is sent to a worker that does not read must not hold us up. */
	(void)fcntl(ours, F_SETFL, O_NONBLOCK);
	send_settings(keeper, ours, settings);
	int r = spawn(keeper, theirs, &pid, err);
	if (r < 0)
		return r;
	*ret = (struct worker){
		.pid = pid,
		.socket = STEAL_FD(ours),
		/* Not a number of an earlier keeper's worker, whose journals may have come back. */
		.number = ((uint64_t)keeper->start_s << 24) + ++keeper->workers,
		.start_ms = lm_now_ms(),
		.oom_kills = count_oom_kills(),
	};
	return 0;
}

static void restart_later(struct keeper *keeper)
{
	int64_t wait_ms = 0;
	if (keeper->failures > 1)
		wait_ms = LM_MIN((int64_t)BACKOFF_MS << LM_MIN(keeper->failures - 2, 20U), (int64_t)BACKOFF_MAX_MS);
	keeper->restart_ms = lm_now_ms() + wait_ms;
}

/* Where a worker died before it was ready, the settings may be the cause, and the files right again. */
static void restart(struct keeper *keeper)
{
	struct lm_err err = LM_ERR_INIT;
	keeper->restart_ms = 0;
	if (start_worker(keeper, &keeper->worker, keeper->failures > 1 ? LM_KEPT_SPARE : LM_KEPT_IN_FORCE, &err) == 0)
		return;
	lm_log(LM_LOG_ERROR, "worker can't be started", LM_KV("cause", "%s", lm_err_text(&err)));
	keeper->failures++;
	restart_later(keeper);
}

/* The worker may take over: all that is kept goes to it. */
static void let_start(struct keeper *keeper)
{
	struct worker *worker = &keeper->worker;
	struct lm_err err = LM_ERR_INIT;
	struct session *session;
	int r = 0;
	int64_t tick_ms = keeper->patience_ms / TICKS;
	struct lm_message message = {.kind = LM_MESSAGE_SESSION};
	SLIST_FOREACH(session, &keeper->sessions, entry)
	{
		snprintf(message.text, sizeof(message.text), "%s", session->mountpoint);
		if (r == 0)
			r = lm_message_send(
				worker->socket, &message, (const int[2]){session->fuse_fd, session->journal_fd}, &err);
	}
	message = (struct lm_message){
		.kind = LM_MESSAGE_START,
		.numbers = {worker->number, keeper->crashed, (uint64_t)keeper->start_s, keeper->restarts,
			(uint64_t)tick_ms / 2},
	};
	snprintf(message.text, sizeof(message.text), "%s", keeper->last_end);
	if (r == 0)
		r = lm_message_send(worker->socket, &message, NULL, &err);
	if (r < 0) {
		lm_log(LM_LOG_ERROR, "worker can't be told what to do", LM_KV("cause", "%s", lm_err_text(&err)));
		kill(worker->pid, SIGKILL);
	}
	worker->started = true;
	worker->silent = 0;
	keeper->tick_ms = lm_now_ms() + tick_ms;
}

/* The end of a worker. */

static bool is_fault(const struct worker *worker, int status)
{
	if (WIFEXITED(status))
		return WEXITSTATUS(status) != 0;
	switch (WTERMSIG(status)) {
	case SIGTERM:
	case SIGINT:
	case SIGHUP:
		return false; /* somebody wanted that */
	case SIGKILL:
		return worker->why || count_oom_kills() != worker->oom_kills;
	default:
		return true;
	}
}

static void describe_end(struct keeper *keeper, const struct worker *worker, int status)
{
	char *text = keeper->last_end;
	size_t size = sizeof(keeper->last_end);
	const char *why = worker->why ? worker->why : "";
	if (WIFEXITED(status))
		snprintf(text, size, "%s%sexit status %d", why, *why ? ": " : "", WEXITSTATUS(status));
	else
		snprintf(text, size, "%s%ssignal %s%s%s", why, *why ? ": " : "", sigabbrev_np(WTERMSIG(status)),
			WCOREDUMP(status) ? ", core dumped" : "",
			WTERMSIG(status) == SIGKILL && count_oom_kills() != worker->oom_kills ? ", out of memory" : "");
}

static int exit_status(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
}

static void hang_up(struct worker *worker)
{
	lm_closep(&worker->socket);
	*worker = (struct worker){.socket = -1};
}

static void receive(struct keeper *keeper, struct worker *worker);

/* Whether the keeper ends with it; *ret_code is then the exit status. */
static bool worker_ended(struct keeper *keeper, int status, int *ret_code)
{
	struct worker *worker = &keeper->worker;
	receive(keeper, worker); /* what it said before its end */
	describe_end(keeper, worker, status);
	bool left = worker->leaving, fault = !left && is_fault(worker, status), done = worker->done;
	uint64_t number = worker->number;
	bool lived = worker->ready || lm_now_ms() - worker->start_ms >= SHORT_LIFE_MS;
	hang_up(worker);
	*ret_code = exit_status(status);
	if (done || keeper->stopping) {
		unmount_all(keeper);
		return true;
	}
	if (!keeper->was_ready && !keeper->session_count) {
		if (!WIFEXITED(status))
			lm_log(LM_LOG_ERROR, "worker died at its start", LM_KV("cause", "%s", keeper->last_end));
		return true;
	}
	keeper->crashed = fault ? number : 0;
	if (keeper->next.pid) { /* it was to be replaced anyway */
		keeper->worker = keeper->next;
		keeper->next = (struct worker){.socket = -1};
		if (keeper->worker.hello)
			let_start(keeper);
	}
	if (!left) {
		keeper->restarts++;
		keeper->failures = lived ? 1 : keeper->failures + 1;
	}
	if (!keeper->worker.pid)
		restart_later(keeper);
	lm_log(left ? LM_LOG_INFO : LM_LOG_ERROR, left ? "worker was replaced" : "worker died: the next one goes on",
		LM_KV("cause", "%s", keeper->last_end), LM_KV("mounts", "%u", keeper->session_count),
		LM_KV("restarts", "%llu", (unsigned long long)keeper->restarts),
		LM_KV("wait_ms", "%lld", keeper->restart_ms ? (long long)(keeper->restart_ms - lm_now_ms()) : 0LL));
	return false;
}

/* The one that was to replace the other did not even start. */
static void next_ended(struct keeper *keeper, int status)
{
	lm_log(LM_LOG_ERROR, "worker is not replaced: the new one does not start",
		LM_KV("program", "%s", keeper->program),
		LM_KV(WIFEXITED(status) ? "status" : "signal", "%d",
			WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status)));
	hang_up(&keeper->next);
	keeper->upgrading = false;
}

static bool reap(struct keeper *keeper, int *ret_code)
{
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == keeper->next.pid)
			next_ended(keeper, status);
		else if (pid == keeper->worker.pid && worker_ended(keeper, status, ret_code))
			return true;
	}
	return false;
}

/* Ending and replacing. */

/* Tells it by a signal, and by SIGKILL when that does not help in time. */
static void end_worker(struct worker *worker, const char *why, int signal_number, int64_t patience_ms)
{
	worker->why = why;
	worker->kill_ms = earlier(worker->kill_ms, lm_now_ms() + patience_ms);
	if (signal_number)
		kill(worker->pid, signal_number);
}

static void leave(struct worker *worker)
{
	const struct lm_message message = {.kind = LM_MESSAGE_LEAVE};
	int r = lm_message_send(worker->socket, &message, NULL, NULL);
	worker->leaving = true;
	end_worker(worker, "replaced", r < 0 ? SIGKILL : 0, LEAVE_MS);
}

static void replace_worker(struct keeper *keeper)
{
	struct lm_err err = LM_ERR_INIT;
	if (keeper->stopping || keeper->next.pid || !keeper->worker.pid || keeper->worker.why)
		return; /* a new one comes, or none */
	lm_log(LM_LOG_INFO, "replacing the worker", LM_KV("program", "%s", keeper->program));
	if (start_worker(keeper, &keeper->next, LM_KEPT_SPARE, &err) < 0)
		lm_log(LM_LOG_ERROR, "worker is not replaced", LM_KV("cause", "%s", lm_err_text(&err)));
	else
		keeper->next.kill_ms = lm_now_ms() + keeper->patience_ms;
}

/* Whether the keeper ends at once. */
static bool stop(struct keeper *keeper, int signal_number)
{
	keeper->stopping = true;
	tell_manager("STOPPING=1", -1);
	if (keeper->next.pid)
		kill(keeper->next.pid, SIGKILL);
	if (keeper->worker.pid) {
		end_worker(&keeper->worker, "stopped", signal_number, STOP_MS);
		return false;
	}
	unmount_all(keeper);
	return true;
}

/* What the worker says. */

/* A worker that is not ready does not listen to HUP; one that follows may have read the files before it. */
static void pass_reload(struct keeper *keeper)
{
	const struct worker *worker = &keeper->worker;
	bool listens = worker->ready && !worker->leaving;
	if (listens)
		kill(worker->pid, SIGHUP);
	keeper->reload = !listens || keeper->next.pid;
}

static void take_message(struct keeper *keeper, struct worker *worker, const struct lm_message *message, int fds[2])
{
	worker->silent = 0;
	switch (message->kind) {
	case LM_MESSAGE_HELLO:
		worker->hello = true;
		worker->kill_ms = 0;
		if (worker == &keeper->worker)
			let_start(keeper);
		else if (!keeper->worker.leaving)
			leave(&keeper->worker);
		break;
	case LM_MESSAGE_STORE:
		store_session(keeper, message->text, fds);
		break;
	case LM_MESSAGE_DROP:
		drop_session(keeper, message->text);
		break;
	case LM_MESSAGE_NOTIFY:
		worker->ready |= strstr(message->text, "READY=1") != NULL;
		keeper->was_ready |= worker->ready;
		tell_manager(message->text, -1);
		if (keeper->reload && !keeper->next.pid)
			pass_reload(keeper);
		break;
	case LM_MESSAGE_KEEP_SETTINGS:
		keep_settings(keeper, STEAL_FD(fds[0]));
		break;
	case LM_MESSAGE_END:
		worker->done = true;
		break;
	default: /* ALIVE, or of a newer version */
		break;
	}
}

static void receive(struct keeper *keeper, struct worker *worker)
{
	struct lm_message message;
	int fds[2], r;
	while (worker->socket >= 0 && (r = lm_message_receive(worker->socket, &message, fds, NULL)) != -EAGAIN) {
		if (r == -EPROTO)
			continue;
		if (r <= 0) {
			lm_closep(&worker->socket); /* its end follows by SIGCHLD */
			return;
		}
		take_message(keeper, worker, &message, fds);
		lm_closep(&fds[0]);
		lm_closep(&fds[1]);
	}
}

/* From one version of the keeper to the next: messages in a file. */

static int add_state(int fd, const struct lm_message *message)
{
	uint8_t data[LM_MESSAGE_MAX];
	size_t len = lm_message_encode(message, data);
	return write(fd, data, len) == (ssize_t)len ? 0 : -EIO;
}

static int keep_open(int fd)
{
	return fcntl(fd, F_SETFD, 0) < 0 ? -errno : 0;
}

static int write_state(struct keeper *keeper, int fd)
{
	const struct worker *worker = &keeper->worker;
	struct session *session;
	struct lm_message message = {.kind = LM_MESSAGE_STATE_KEEPER,
		.numbers = {(uint64_t)keeper->start_s, keeper->workers, keeper->crashed, keeper->was_ready,
			keeper->restarts, keeper->reload}};
	snprintf(message.text, sizeof(message.text), "%s", keeper->last_end);
	int r = add_state(fd, &message);
	message = (struct lm_message){.kind = LM_MESSAGE_STATE_SETTINGS, .numbers = {(uint64_t)keeper->settings_fd}};
	if (r == 0 && keeper->settings_fd >= 0)
		r = keep_open(keeper->settings_fd);
	if (r == 0 && keeper->settings_fd >= 0)
		r = add_state(fd, &message);
	message = (struct lm_message){.kind = LM_MESSAGE_STATE_WORKER,
		.numbers = {(uint64_t)worker->pid, (uint64_t)worker->socket, worker->number, (uint64_t)worker->start_ms,
			worker->ready | worker->started << 1 | worker->hello << 2, worker->oom_kills}};
	if (r == 0 && worker->pid)
		r = worker->socket < 0 ? -EPIPE : keep_open(worker->socket);
	if (r == 0 && worker->pid)
		r = add_state(fd, &message);
	SLIST_FOREACH(session, &keeper->sessions, entry)
	{
		message = (struct lm_message){.kind = LM_MESSAGE_STATE_SESSION,
			.numbers = {(uint64_t)session->fuse_fd, (uint64_t)session->journal_fd}};
		snprintf(message.text, sizeof(message.text), "%s", session->mountpoint);
		if (r == 0)
			r = keep_open(session->fuse_fd);
		if (r == 0)
			r = keep_open(session->journal_fd);
		if (r == 0)
			r = add_state(fd, &message);
	}
	return r == 0 ? keep_open(fd) : r;
}

static void close_on_exec_again(struct keeper *keeper)
{
	struct session *session;
	if (keeper->worker.socket >= 0)
		(void)fcntl(keeper->worker.socket, F_SETFD, FD_CLOEXEC);
	if (keeper->settings_fd >= 0)
		(void)fcntl(keeper->settings_fd, F_SETFD, FD_CLOEXEC);
	SLIST_FOREACH(session, &keeper->sessions, entry)
	{
		(void)fcntl(session->fuse_fd, F_SETFD, FD_CLOEXEC);
		(void)fcntl(session->journal_fd, F_SETFD, FD_CLOEXEC);
	}
}

/* The same process becomes the new version; only returns when that does not work. */
static void replace_keeper(struct keeper *keeper)
{
	char text[32];
	keeper->upgrading = false;
	lm_log(LM_LOG_INFO, "replacing the keeper", LM_KV("program", "%s", keeper->program));
	CLEANUP(lm_closep) int fd = memfd_create("lamella-keeper", MFD_CLOEXEC);
	int r = fd < 0 ? -errno : write_state(keeper, fd);
	if (r == 0) {
		snprintf(text, sizeof(text), "%d:%d", fd, (int)getpid());
		setenv(STATE_ENV, text, 1);
		sigprocmask(SIG_SETMASK, &keeper->old_mask, NULL);
		execv(keeper->program, keeper->argv);
		r = -errno;
		sigprocmask(SIG_SETMASK, &keeper->mask, NULL);
		unsetenv(STATE_ENV);
	}
	close_on_exec_again(keeper);
	lm_log(LM_LOG_ERROR, "keeper is not replaced", LM_KV("program", "%s", keeper->program),
		LM_KV("cause", "%s", strerror(-r)));
}

static bool is_open(uint64_t fd)
{
	return fd <= INT_MAX && fcntl((int)fd, F_GETFD) >= 0 && fcntl((int)fd, F_SETFD, FD_CLOEXEC) == 0;
}

static void take_state(struct keeper *keeper, const struct lm_message *message)
{
	const uint64_t *n = message->numbers;
	switch (message->kind) {
	case LM_MESSAGE_STATE_KEEPER:
		keeper->start_s = (int64_t)n[0];
		keeper->workers = n[1];
		keeper->crashed = n[2];
		keeper->was_ready = n[3] != 0;
		keeper->restarts = n[4];
		keeper->reload = n[5] != 0;
		snprintf(keeper->last_end, sizeof(keeper->last_end), "%.255s", message->text);
		break;
	case LM_MESSAGE_STATE_WORKER:
		if (!is_open(n[1]) || n[0] == 0 || n[0] > INT_MAX)
			break;
		keeper->worker = (struct worker){
			.pid = (pid_t)n[0],
			.socket = (int)n[1],
			.number = n[2],
			.start_ms = (int64_t)n[3],
			.ready = n[4] & 1,
			.started = (n[4] & 2) != 0,
			.hello = (n[4] & 4) != 0,
			.oom_kills = n[5],
		};
		break;
	case LM_MESSAGE_STATE_SETTINGS:
		if (is_open(n[0]))
			keeper->settings_fd = (int)n[0];
		break;
	case LM_MESSAGE_STATE_SESSION:
		if (is_open(n[0]) && is_open(n[1]))
			(void)add_session(keeper, message->text, (int)n[0], (int)n[1]);
		break;
	default:
		break;
	}
}

/* What the version of the keeper before this one left, if there was one in this process. */
static void read_state(struct keeper *keeper)
{
	const char *text = getenv(STATE_ENV);
	int fd, pid;
	bool ours = text && sscanf(text, "%d:%d", &fd, &pid) == 2 && pid == (int)getpid();
	unsetenv(STATE_ENV);
	if (!ours)
		return;
	struct lm_message message;
	uint8_t data[LM_MESSAGE_MAX];
	off_t at = 0;
	ssize_t n;
	int len;
	while ((n = pread(fd, data, sizeof(data), at)) > 0 &&
		(len = lm_message_decode(data, (size_t)n, &message, NULL)) > 0) {
		take_state(keeper, &message);
		at += len;
	}
	close(fd);
	lm_log(LM_LOG_INFO, "keeper was replaced", LM_KV("version", "%s", LM_VERSION),
		LM_KV("mounts", "%u", keeper->session_count), LM_KV("worker", "%d", (int)keeper->worker.pid));
}

/* The manager's store. */

static bool parse_fdname(char *name, const char *kind, char ret_mountpoint[FDNAME_MAX + 1])
{
	size_t len = strlen(kind), used = 0;
	if (strncmp(name, kind, len) != 0 || name[len] != '=')
		return false;
	for (const char *c = name + len + 1; *c && used < FDNAME_MAX; c++) {
		unsigned value = (unsigned char)*c;
		if (*c == '%') {
			if (sscanf(c + 1, "%2x", &value) != 1 || value == 0 || !c[2])
				return false;
			c += 2;
		}
		ret_mountpoint[used++] = (char)value;
	}
	ret_mountpoint[used] = '\0';
	return used > 0;
}

/* Each journal with the descriptor of the same mountpoint; what is alone is of no use. */
static void pair_up(struct keeper *keeper, char **names, int count)
{
	char fuse[FDNAME_MAX + 1], journal[FDNAME_MAX + 1];
	for (int i = 0; i < count; i++) {
		if (!names[i] || !parse_fdname(names[i], "fuse", fuse))
			continue;
		for (int k = 0; k < count; k++) {
			if (!names[k] || !parse_fdname(names[k], "journal", journal) || strcmp(fuse, journal) != 0)
				continue;
			if (is_open((uint64_t)(FIRST_PASSED_FD + i)) && is_open((uint64_t)(FIRST_PASSED_FD + k)))
				(void)add_session(keeper, fuse, FIRST_PASSED_FD + i, FIRST_PASSED_FD + k);
			names[i] = names[k] = NULL;
			break;
		}
	}
}

/* They belong to mounts: without one everything is begun anew. */
static void find_settings(struct keeper *keeper, char **names, int count)
{
	for (int i = 0; i < count && keeper->session_count; i++) {
		if (!names[i] || strcmp(names[i], settings_fdname) != 0)
			continue;
		if (keeper->settings_fd < 0 && is_open((uint64_t)(FIRST_PASSED_FD + i)))
			keeper->settings_fd = FIRST_PASSED_FD + i;
		names[i] = NULL;
	}
}

static void drop_unpaired(char **names, int count)
{
	char state[FDNAME_MAX + 64];
	for (int i = 0; i < count; i++) {
		if (!names[i])
			continue;
		lm_log(LM_LOG_WARN, "descriptor from the service manager is of no use",
			LM_KV("name", "%.255s", names[i]));
		snprintf(state, sizeof(state), "FDSTOREREMOVE=1\nFDNAME=%.255s", names[i]);
		tell_manager(state, -1);
		close(FIRST_PASSED_FD + i);
	}
}

static void read_store(struct keeper *keeper)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS"), *list = getenv("LISTEN_FDNAMES");
	int count = fds ? atoi(fds) : 0;
	if (!pid || atoi(pid) != (int)getpid() || count <= 0 || count > 2 * SESSIONS_MAX || !list)
		return;
	CLEANUP(lm_freep) char *copy = strdup(list);
	CLEANUP(lm_freep) char **names = calloc((size_t)count, sizeof(*names));
	char *rest = copy;
	for (int i = 0; i < count && names && rest; i++)
		names[i] = strsep(&rest, ":");
	if (names) {
		pair_up(keeper, names, count);
		find_settings(keeper, names, count);
		drop_unpaired(names, count);
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	lm_log(LM_LOG_INFO, "mounts came back from the service manager", LM_KV("mounts", "%u", keeper->session_count));
}

static void read_watchdog(struct keeper *keeper)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	uint64_t value;
	if (!usec || (pid && atoi(pid) != (int)getpid()) || lm_str_u64(usec, strlen(usec), &value) < 0 || value < 2000)
		return;
	keeper->watchdog_ms = (int64_t)LM_MIN(value / 2000, (uint64_t)INT_MAX);
	keeper->watchdog_due_ms = lm_now_ms();
}

/* The main loop. */

/* A stopped or frozen keeper counts one silent tick, not many: a worker may have been frozen with it. */
static void tick(struct keeper *keeper)
{
	struct worker *worker = &keeper->worker;
	unsigned patience = worker->ready ? TICKS : TICKS * START_PATIENCE;
	keeper->tick_ms = lm_now_ms() + keeper->patience_ms / TICKS;
	if (!worker->pid || worker->why || ++worker->silent < patience)
		return;
	lm_log(LM_LOG_ERROR, "worker makes no progress", LM_KV("pid", "%d", (int)worker->pid),
		LM_KV("seconds", "%lld", (long long)(keeper->patience_ms / 1000 * (patience / TICKS))));
	end_worker(worker, "no progress", SIGABRT, ABORT_MS);
}

static void kill_if_due(struct worker *worker, int64_t now_ms)
{
	if (!worker->pid || !worker->kill_ms || now_ms < worker->kill_ms)
		return;
	worker->kill_ms = 0;
	kill(worker->pid, SIGKILL);
}

static void run_timers(struct keeper *keeper)
{
	int64_t now_ms = lm_now_ms();
	if (keeper->restart_ms && now_ms >= keeper->restart_ms)
		restart(keeper);
	if (now_ms >= keeper->tick_ms)
		tick(keeper);
	kill_if_due(&keeper->worker, now_ms);
	kill_if_due(&keeper->next, now_ms);
	if (keeper->watchdog_ms && now_ms >= keeper->watchdog_due_ms) {
		keeper->watchdog_due_ms = now_ms + keeper->watchdog_ms;
		tell_manager("WATCHDOG=1", -1);
	}
}

static int next_timer_ms(const struct keeper *keeper)
{
	int64_t due = earlier(keeper->restart_ms, keeper->watchdog_due_ms);
	if (keeper->worker.pid)
		due = earlier(earlier(due, keeper->tick_ms), keeper->worker.kill_ms);
	if (keeper->next.pid)
		due = earlier(due, keeper->next.kill_ms);
	return due == 0 ? -1 : (int)LM_MAX(LM_MIN(due - lm_now_ms(), (int64_t)INT_MAX), (int64_t)0);
}

/* Whether the keeper ends. */
static bool take_signal(struct keeper *keeper, int number, int *ret_code)
{
	switch (number) {
	case SIGCHLD:
		return reap(keeper, ret_code);
	case SIGTERM:
	case SIGINT:
		*ret_code = 0;
		return stop(keeper, number);
	case SIGHUP:
		pass_reload(keeper);
		return false;
	case SIGUSR1:
		keeper->upgrading = true;
		replace_worker(keeper);
		return false;
	case SIGUSR2:
		replace_worker(keeper);
		return false;
	default:
		return false;
	}
}

static bool take_signals(struct keeper *keeper, int *ret_code)
{
	struct signalfd_siginfo info;
	while (read(keeper->signals, &info, sizeof(info)) == sizeof(info))
		if (take_signal(keeper, (int)info.ssi_signo, ret_code))
			return true;
	return false;
}

/* The program has shown with the new worker that it can start. */
static bool may_replace_keeper(const struct keeper *keeper)
{
	return keeper->upgrading && !keeper->stopping && !keeper->next.pid && keeper->worker.pid &&
	       keeper->worker.started && !keeper->worker.why;
}

static int run(struct keeper *keeper)
{
	int code = EXIT_FAILED;
	for (;;) {
		struct pollfd fds[] = {{.fd = keeper->signals, .events = POLLIN},
			{.fd = keeper->worker.socket, .events = POLLIN}, {.fd = keeper->next.socket, .events = POLLIN}};
		if (poll(fds, ARRAY_LEN(fds), next_timer_ms(keeper)) < 0 && errno != EINTR)
			return EXIT_FAILED;
		receive(keeper, &keeper->worker);
		receive(keeper, &keeper->next);
		if (take_signals(keeper, &code))
			return code;
		run_timers(keeper);
		if (may_replace_keeper(keeper))
			replace_keeper(keeper);
	}
}

static int open_signals(struct keeper *keeper, struct lm_err *err)
{
	static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD};
	sigset_t set;
	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
		sigaddset(&set, numbers[i]);
	sigprocmask(SIG_BLOCK, &set, &keeper->old_mask);
	sigprocmask(SIG_BLOCK, NULL, &keeper->mask);
	keeper->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return keeper->signals < 0 ? lm_err_sys(err, -errno, "signalfd") : 0;
}

static int find_program(struct keeper *keeper, struct lm_err *err)
{
	ssize_t len = readlink("/proc/self/exe", keeper->program, sizeof(keeper->program) - 1);
	if (len <= 0)
		return lm_err_sys(err, -errno, "/proc/self/exe");
	keeper->program[len] = '\0';
	return 0;
}

static int open_keeper(struct keeper *keeper, struct lm_err *err)
{
	int r = open_signals(keeper, err);
	if (r == 0)
		r = find_program(keeper, err);
	if (r < 0)
		return r;
	const char *patience = getenv("LAMELLA_PATIENCE_MS"); /* tests have less */
	uint64_t value;
	keeper->patience_ms = PATIENCE_MS;
	if (patience && lm_str_u64(patience, strlen(patience), &value) == 0 && value >= 10 * TICKS && value <= INT_MAX)
		keeper->patience_ms = (int64_t)value;
	keeper->tick_ms = lm_now_ms() + keeper->patience_ms / TICKS;
	read_state(keeper);
	read_store(keeper);
	read_watchdog(keeper);
	return keeper->worker.pid ? 0 : start_worker(keeper, &keeper->worker, LM_KEPT_SPARE, err);
}

int lm_keeper_run(char **argv)
{
	struct lm_err err = LM_ERR_INIT;
	struct keeper keeper = {
		.argv = argv,
		.signals = -1,
		.settings_fd = -1,
		.start_s = lm_wall_s(),
		.worker = {.socket = -1},
		.next = {.socket = -1},
	};
	lm_log_init("lamella-fetcher", LM_LOG_INFO);
	SLIST_INIT(&keeper.sessions);
	int code = EXIT_FAILED;
	if (open_keeper(&keeper, &err) < 0)
		fprintf(stderr, "lamella-fetcher: %s\n", lm_err_text(&err));
	else
		code = run(&keeper);
	while (!SLIST_EMPTY(&keeper.sessions))
		forget_session(&keeper, SLIST_FIRST(&keeper.sessions));
	hang_up(&keeper.worker);
	hang_up(&keeper.next);
	lm_closep(&keeper.settings_fd);
	lm_closep(&keeper.signals);
	return code;
}
