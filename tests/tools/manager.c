/*
 * A service manager for one service, as far as sd_notify(3) goes: manager LOG PROGRAM [ARGUMENT...]
 *
 * Gives the program a NOTIFY_SOCKET and a watchdog (WATCHDOG_USEC from the environment, if set), writes each line that
 * it says to LOG, keeps the descriptors of FDSTORE=1, and starts it again with them when SIGKILL has ended it. Ends
 * with its exit status when it ends otherwise. TERM is passed on; USR1 kills the program.
 */
#include "base/macros.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

enum { STORE_MAX = 64, FIRST_FD = 3, SPARE_FD = 512 };

static struct {
	char name[256];
	int fd;
} store[STORE_MAX];
static int store_count;
static FILE *log_file;
static char socket_name[64];

static void die(const char *what)
{
	perror(what);
	exit(125);
}

static int open_socket(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(socket_name, sizeof(socket_name), "@lamella-test-manager-%d", (int)getpid());
	memcpy(address.sun_path + 1, socket_name + 1, strlen(socket_name) - 1);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(socket_name));
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) < 0)
		die("socket");
	return fd;
}

static void forget(const char *name)
{
	for (int i = 0; i < store_count; i++)
		if (strcmp(store[i].name, name) == 0) {
			close(store[i].fd);
			store[i--] = store[--store_count];
		}
}

static void take(char *text, int fd)
{
	bool keep = false, drop = false;
	const char *name = "";
	char *save = NULL;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		fprintf(log_file, "%s%s\n", line, fd >= 0 ? " (with a descriptor)" : "");
		keep |= strcmp(line, "FDSTORE=1") == 0;
		drop |= strcmp(line, "FDSTOREREMOVE=1") == 0;
		if (lm_str_starts(line, "FDNAME="))
			name = line + strlen("FDNAME=");
	}
	fflush(log_file);
	if (drop)
		forget(name);
	if (keep && fd >= 0 && store_count < STORE_MAX) {
		snprintf(store[store_count].name, sizeof(store[0].name), "%s", name);
		store[store_count++].fd = fcntl(fd, F_DUPFD_CLOEXEC, SPARE_FD);
	}
	if (fd >= 0)
		close(fd);
}

static void receive(int socket)
{
	char text[8192];
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = text, .iov_len = sizeof(text) - 1};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	ssize_t n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0)
		return;
	int fd = -1;
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	if (cmsg && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	text[n] = '\0';
	take(text, fd);
}

static void pass_store(void)
{
	char number[16], names[STORE_MAX * 256] = "";
	for (int i = 0; i < store_count; i++) {
		if (dup2(store[i].fd, FIRST_FD + i) < 0)
			die("dup2");
		strcat(names, i ? ":" : "");
		strcat(names, store[i].name);
	}
	snprintf(number, sizeof(number), "%d", store_count);
	setenv("LISTEN_FDS", number, 1);
	setenv("LISTEN_FDNAMES", names, 1);
	snprintf(number, sizeof(number), "%d", (int)getpid());
	setenv("LISTEN_PID", number, 1);
}

static pid_t start(char **argv, const sigset_t *mask)
{
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	setenv("NOTIFY_SOCKET", socket_name, 1);
	if (store_count)
		pass_store();
	execvp(argv[0], argv);
	die(argv[0]);
	return -1;
}

int main(int argc, char **argv)
{
	sigset_t set, old;
	if (argc < 3 || !(log_file = fopen(argv[1], "ae")))
		die("usage: manager LOG PROGRAM [ARGUMENT...]");
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &old);
	struct pollfd fds[] = {{.fd = open_socket(), .events = POLLIN},
		{.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .events = POLLIN}};
	pid_t pid = start(argv + 2, &old);
	for (;;) {
		int status;
		struct signalfd_siginfo info;
		if (poll(fds, ARRAY_LEN(fds), -1) < 0 && errno != EINTR)
			die("poll");
		if (fds[0].revents)
			receive(fds[0].fd);
		if (!fds[1].revents || read(fds[1].fd, &info, sizeof(info)) != sizeof(info))
			continue;
		if (info.ssi_signo != SIGCHLD)
			kill(pid, info.ssi_signo == SIGTERM ? SIGTERM : SIGKILL);
		if (waitpid(pid, &status, WNOHANG) != pid)
			continue;
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
		fprintf(log_file, "started again with %d descriptors\n", store_count);
		fflush(log_file);
		pid = start(argv + 2, &old);
	}
}
