#include "base/clock.h"
#include "base/log.h"
#include "fetcher/keeper.h"
#include "fetcher/keeper_process.h"
#include "fetcher/node.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

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

enum end { IDLE, ASKED, LEAVE }; /* nothing is mounted any more; a signal; another worker goes on */

/* What was started, for reading the settings again. */
struct program {
	int argc;
	char **argv;
	struct lm_keeper *keeper;
};

static int reload(const struct program *program, struct lm_node *node, struct lm_err *err)
{
	CLEANUP(lm_settings_unrefp) struct lm_settings *settings = NULL;
	bool another_worker = false;
	int r = lm_settings_load(program->argc, program->argv, &settings, err);
	if (r == 0)
		r = lm_node_reload(node, settings, &another_worker, err);
	if (r < 0)
		return r;
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

static int serve(const struct program *program, struct lm_settings *settings, struct lm_err *err)
{
	struct lm_keeper *keeper = program->keeper;
	CLEANUP(lm_closep) int signal_fd = open_signals(err);
	if (signal_fd < 0)
		return signal_fd;
	raise_descriptor_limit(settings->descriptors);
	CLEANUP(lm_node_stopp) struct lm_node *node = NULL;
	int r = lm_node_start(settings, keeper, &node, err);
	if (r < 0)
		return r;
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

static int run(int argc, char **argv, struct lm_keeper *keeper)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_settings_unrefp) struct lm_settings *settings = NULL;
	int r = lm_settings_load(argc, argv, &settings, &err);
	if (r > 0)
		return r - 1;
	if (r < 0) {
		fprintf(stderr, "lamella-fetcher: %s\n", lm_err_text(&err));
		return EXIT_USAGE;
	}
	lm_log_init("lamella-fetcher", (enum lm_log_level)settings->log_level);
	r = lm_keeper_wait_for_start(keeper, &err);
	if (r == 0) {
		lm_settings_log(settings);
		r = serve(&(struct program){argc, argv, keeper}, settings, &err);
	}
	if (r < 0) {
		fprintf(stderr, "lamella-fetcher: %s\n", lm_err_text(&err));
		return EXIT_FAILED;
	}
	return 0;
}

/* What was started is the keeper; it starts this program again, as its worker. */
int main(int argc, char **argv)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_keeper_freep) struct lm_keeper *keeper = NULL;
	if (lm_keeper_connect(&keeper, &err) < 0) {
		fprintf(stderr, "lamella-fetcher: %s\n", lm_err_text(&err));
		return EXIT_FAILED;
	}
	return keeper ? run(argc, argv, keeper) : lm_keeper_run(argv);
}
