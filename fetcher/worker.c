#include "base/clock.h"
#include "base/log.h"
#include "fetcher/catalogs.h"
#include "fetcher/keeper.h"
#include "fetcher/keeper_process.h"
#include "fetcher/node.h"

#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };
enum { ARENAS = 2 };

/* Signals are blocked in all threads and read here; a write to a broken pipe is an error code, not an end. */
static int open_signals(struct lm_err *err)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	int fd = signalfd(-1, &set, SFD_CLOEXEC);
	return fd < 0 ? lm_err_sys(err, -errno, "signalfd") : fd;
}

/* Cached objects, catalogs and connections are descriptors; the soft limit is for programs that use select(2). */
static void raise_descriptor_limit(unsigned wanted)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = LM_MIN(limit.rlim_max, (rlim_t)wanted);
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* Otherwise each thread has its own, and keeps what it needed once: inflating, hashing, and looking into catalogs take
 * turns on all threads of the pools. */
static void share_arenas(void)
{
	(void)mallopt(M_ARENA_MAX, ARENAS);
}

enum end { IDLE, ASKED, LEAVE }; /* nothing is mounted any more; a signal; another worker goes on */

struct program {
	int argc;
	char **argv;
	struct lm_keeper *keeper;
	struct lm_settings *settings; /* by which the worker was started */
};

/* What a worker begins with. */
struct start {
	enum lm_kept_settings kept; /* of an earlier worker: there are some, or they are in force */
	struct lm_err trouble;	    /* with what was kept, or with the files where they are not used */
};

/* What needs a start of the program stays as it was then: the mounts that are taken over depend on it. */
static int keep_what_needs_start(const struct lm_settings *started, struct lm_settings **settings, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf packed = LM_BUF(LM_SETTINGS_PACKED_MAX);
	CLEANUP(lm_settings_unrefp) struct lm_settings *files = STEAL(*settings);
	int r = lm_settings_pack(files, started, &packed, err);
	return r == 0 ? lm_settings_unpack(&packed, settings, err) : r;
}

static int kept_settings(
	struct lm_keeper *keeper, enum lm_kept_settings *ret_kind, struct lm_settings **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf packed = LM_BUF(LM_SETTINGS_PACKED_MAX);
	int r = lm_keeper_settings(keeper, ret_kind, &packed, err);
	return r < 0 || *ret_kind == LM_KEPT_NONE ? r : lm_settings_unpack(&packed, ret, err);
}

/* Those that were kept for it, or the files. As lm_settings_load(). */
static int load_settings(struct program *program, struct start *start, struct lm_err *err)
{
	CLEANUP(lm_settings_unrefp) struct lm_settings *kept = NULL;
	if (kept_settings(program->keeper, &start->kept, &kept, &start->trouble) == 0 &&
		start->kept == LM_KEPT_IN_FORCE) {
		program->settings = STEAL(kept);
		return 0;
	}
	start->kept = LM_KEPT_NONE;
	int r = lm_settings_load(program->argc, program->argv, &program->settings, err);
	if (r == 0 && kept)
		r = keep_what_needs_start(kept, &program->settings, err);
	if (r >= 0 || !kept)
		return r;
	start->kept = LM_KEPT_SPARE;
	start->trouble = *err;
	program->settings = STEAL(kept);
	return 0;
}

static void log_start(const struct program *program, struct start *start)
{
	const char *trouble = start->trouble.code ? lm_err_text(&start->trouble) : "";
	if (start->kept == LM_KEPT_SPARE)
		lm_log(LM_LOG_ERROR, "settings in files are wrong: those in force stay", LM_KV("cause", "%s", trouble));
	else if (start->kept == LM_KEPT_IN_FORCE)
		lm_log(LM_LOG_INFO, "settings are those in force before: files are not read after a crash");
	else if (start->trouble.code)
		lm_log(LM_LOG_WARN, "settings in force are lost: files were read", LM_KV("cause", "%s", trouble));
	lm_settings_log(program->settings);
}

/* For the workers after this one. */
static void keep_settings(const struct program *program, const struct lm_settings *settings)
{
	CLEANUP(lm_buf_done) struct lm_buf packed = LM_BUF(LM_SETTINGS_PACKED_MAX);
	struct lm_err err = LM_ERR_INIT;
	int r = lm_settings_pack(settings, program->settings, &packed, &err);
	if (r == 0)
		r = lm_keeper_keep_settings(program->keeper, &packed, &err);
	if (r < 0)
		lm_log(LM_LOG_WARN, "settings can't be kept: the next worker reads the files",
			LM_KV("cause", "%s", lm_err_text(&err)));
}

static int reload(const struct program *program, struct lm_node *node, struct lm_err *err)
{
	CLEANUP(lm_settings_unrefp) struct lm_settings *settings = NULL;
	bool another_worker = false;
	int r = lm_settings_load(program->argc, program->argv, &settings, err);
	if (r == 0)
		r = lm_node_reload(node, settings, &another_worker, err);
	if (r < 0)
		return r;
	keep_settings(program, settings);
	lm_settings_log(settings);
	lm_log(LM_LOG_INFO, "settings read again", LM_KV("another_worker", "%s", another_worker ? "yes" : "no"));
	return another_worker ? lm_keeper_replace(program->keeper, err) : 0;
}

/* HUP. Settings that are wrong leave those in force as they are. */
static void on_reload(const struct program *program, struct lm_node *node)
{
	struct lm_err err = LM_ERR_INIT;
	char state[64];
	(void)snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)lm_now_ms() * 1000);
	lm_keeper_notify(program->keeper, state);
	if (reload(program, node, &err) < 0)
		lm_log(LM_LOG_ERROR, "settings not changed", LM_KV("cause", "%s", lm_err_text(&err)));
	lm_keeper_notify(program->keeper, "READY=1");
}

static enum end wait_for_end(struct lm_node *node, const struct program *program, int signal_fd)
{
	struct lm_keeper *keeper = program->keeper;
	struct pollfd fds[] = {{.fd = signal_fd, .events = POLLIN}, {.fd = lm_node_idle_fd(node), .events = POLLIN},
		{.fd = lm_keeper_fd(keeper), .events = POLLIN}};
	struct signalfd_siginfo info;
	for (;;) {
		int n = poll(fds, ARRAY_LEN(fds), lm_keeper_interval_ms(keeper));
		if (n < 0)
			continue;
		if (n == 0 && lm_node_progress(node))
			lm_keeper_alive(keeper);
		bool signalled = fds[0].revents && read(signal_fd, &info, sizeof(info)) == sizeof(info);
		if (signalled && info.ssi_signo == SIGHUP) {
			on_reload(program, node);
		} else if (signalled) {
			lm_log(LM_LOG_INFO, "stopping", LM_KV("signal", "%s", sigabbrev_np((int)info.ssi_signo)));
			return ASKED;
		}
		if (fds[1].revents)
			return IDLE;
		if (fds[2].revents && lm_keeper_wants_leave(keeper))
			return LEAVE;
	}
}

static int serve(const struct program *program, struct lm_err *err)
{
	struct lm_settings *settings = program->settings;
	struct lm_keeper *keeper = program->keeper;
	CLEANUP(lm_closep) int signal_fd = open_signals(err);
	if (signal_fd < 0)
		return signal_fd;
	raise_descriptor_limit(settings->descriptors);
	share_arenas();
	int r = lm_catalog_reserve(LM_CATALOGS_PAGES, err);
	if (r < 0)
		return r;
	CLEANUP(lm_node_stopp) struct lm_node *node = NULL;
	r = lm_node_start(settings, keeper, &node, err);
	if (r < 0)
		return r;
	keep_settings(program, settings);
	lm_keeper_notify(keeper, "READY=1");
	enum end end = wait_for_end(node, program, signal_fd);
	if (end == LEAVE) {
		/* Readers are waiting for the next worker: what remains to be taken apart goes with the process. */
		lm_node_leave(node);
		_exit(0);
	}
	lm_keeper_notify(keeper, "STOPPING=1");
	lm_keeper_end(keeper);
	/* A service is started again and mounts anew; a mount made by hand ends with its unmounting. */
	return end == ASKED || settings->require_mounts ? 0 : lm_err_set(err, -EIO, "all repositories were unmounted");
}

static void program_done(struct program *program)
{
	lm_settings_unref(program->settings);
}

static int run(int argc, char **argv, struct lm_keeper *keeper)
{
	struct lm_err err = LM_ERR_INIT;
	struct start start = {.trouble = LM_ERR_INIT};
	CLEANUP(program_done) struct program program = {argc, argv, keeper, NULL};
	int r = load_settings(&program, &start, &err);
	if (r > 0)
		return r - 1;
	if (r < 0) {
		fprintf(stderr, "lamella-fetcher: %s\n", lm_err_text(&err));
		return EXIT_USAGE;
	}
	lm_log_init("lamella-fetcher", (enum lm_log_level)program.settings->log_level);
	r = lm_keeper_wait_for_start(keeper, &err);
	if (r == 0) {
		log_start(&program, &start);
		r = serve(&program, &err);
	}
	if (r < 0) {
		fprintf(stderr, "lamella-fetcher: %s\n", lm_err_text(&err));
		return EXIT_FAILED;
	}
	return 0;
}

/* For targets of links that say $(CVMFS_ARCH), as stock clients have it, whatever the environment says. */
static int name_machine(void)
{
	struct utsname machine;
	return uname(&machine) < 0 ? -1 : setenv("CVMFS_ARCH", machine.machine, 1);
}

/* By hand, without a keeper, it serves as well, but nothing outlives it. */
int main(int argc, char **argv)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_keeper_freep) struct lm_keeper *keeper = NULL;
	if (name_machine() < 0) {
		perror("lamella-fetcher: CVMFS_ARCH");
		return EXIT_FAILED;
	}
	if (lm_keeper_connect(&keeper, &err) < 0) {
		fprintf(stderr, "lamella-fetcher: %s\n", lm_err_text(&err));
		return EXIT_FAILED;
	}
	return run(argc, argv, keeper);
}
