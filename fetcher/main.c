#include "base/log.h"
#include "base/notify.h"
#include "fetcher/node.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

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
static void raise_descriptor_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* True when a signal said so; false when nothing is mounted any more. */
static bool wait_for_end(int signal_fd, int idle_fd)
{
	struct pollfd fds[] = {{.fd = signal_fd, .events = POLLIN}, {.fd = idle_fd, .events = POLLIN}};
	while (poll(fds, ARRAY_LEN(fds), -1) < 0 && errno == EINTR)
		;
	struct signalfd_siginfo info;
	if (!fds[0].revents || read(signal_fd, &info, sizeof(info)) != sizeof(info))
		return false;
	lm_log(LM_LOG_INFO, "stopping", LM_KV("signal", "%s", sigabbrev_np((int)info.ssi_signo)));
	return true;
}

static void tell_ready(void)
{
	struct lm_err err = LM_ERR_INIT;
	if (lm_notify("READY=1", &err) < 0)
		lm_log(LM_LOG_WARN, "service manager can't be told", LM_KV("cause", "%s", err.msg));
}

static int serve(struct lm_settings *settings, struct lm_err *err)
{
	CLEANUP(lm_closep) int signal_fd = open_signals(err);
	if (signal_fd < 0)
		return signal_fd;
	raise_descriptor_limit();
	CLEANUP(lm_node_stopp) struct lm_node *node = NULL;
	int r = lm_node_start(settings, &node, err);
	if (r < 0)
		return r;
	tell_ready();
	bool asked = wait_for_end(signal_fd, lm_node_idle_fd(node));
	(void)!lm_notify("STOPPING=1", NULL); /* whoever started us may have wanted to know of the start only */
	/* A service is started again and mounts anew; a mount made by hand ends with its unmounting. */
	return asked || settings->require_mounts ? 0 : lm_err_set(err, -EIO, "all repositories were unmounted");
}

int main(int argc, char **argv)
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
	lm_settings_log(settings);
	r = serve(settings, &err);
	if (r < 0) {
		fprintf(stderr, "lamella-fetcher: %s\n", lm_err_text(&err));
		return EXIT_FAILED;
	}
	return 0;
}
