/* `lamella mount`: starts a lamella-fetcher for one repository, with settings made of the options. */
#include "base/clock.h"
#include "base/conf.h"
#include "base/file.h"
#include "base/str.h"
#include "commands.h"
#include "common.h"
#include "fetcher.h"

#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

enum { MORE_MAX = 8, ARGS_MAX = 48, LOG_SHOWN_MAX = 64 << 10, START_TIMEOUT_MS = 180000, NOTIFY_MAX = 4096 };

struct options {
	const char *name, *url, *proxy;
	const char *tag, *date, *root; /* one of them at most */
	char *dir, *key, *cache;       /* absolute, owned */
	const char *more[MORE_MAX];
	size_t more_count;
	bool foreground;
};

static void options_done(struct options *o)
{
	free(o->dir);
	free(o->key);
	free(o->cache);
}

/* The daemon works in another directory. */
static int make_absolute(const char *path, char **ret, struct lm_err *err)
{
	char cwd[PATH_MAX];
	if (*path != '/' && !getcwd(cwd, sizeof(cwd)))
		return lm_err_sys(err, -errno, "current directory");
	free(*ret);
	*ret = *path == '/' ? strdup(path) : lm_str_printf("%s/%s", cwd, path);
	return *ret ? 0 : lm_err_oom(err);
}

static int take_key(void *arg, const char *value, struct lm_err *err)
{
	return make_absolute(value, &((struct options *)arg)->key, err);
}

static int take_cache(void *arg, const char *value, struct lm_err *err)
{
	return make_absolute(value, &((struct options *)arg)->cache, err);
}

static int take_setting(void *arg, const char *value, struct lm_err *err)
{
	struct options *o = arg;
	if (o->more_count == ARRAY_LEN(o->more))
		return lm_err_set(err, -EINVAL, "more than %zu --set options", ARRAY_LEN(o->more));
	o->more[o->more_count++] = value;
	return 0;
}

/* 0 go on, else -1 with *ret_code set. */
static int parse_options(int argc, char **argv, struct options *o, int *ret_code)
{
	const struct lm_cli_option options[] = {
		{"url", "URL", "servers, separated by \";\" (@fqrn@ stands for NAME)", .text = &o->url},
		{"proxy", "LIST", "proxies as in CVMFS_HTTP_PROXY; with --url and without this: DIRECT",
			.text = &o->proxy},
		{"key", "PATH",
			"master public key, or a directory of them (*.pub); default: that of a repository made here",
			.parse = take_key, .parse_arg = o},
		{"cache", "DIR", "default: /var/cache/lamella/NAME, or below ~/.cache for users", .parse = take_cache,
			.parse_arg = o},
		{"tag", "TAG", "the revision with this tag; or", .text = &o->tag},
		{"date", "TIME", "the newest tagged revision of that time, YYYY-MM-DDThh:mm:ssZ; or", .text = &o->date},
		{"root", "HASH", "the revision with this root catalog: it stays what is mounted", .text = &o->root},
		{"set", "K=V", "any other setting of lamella-fetcher", .parse = take_setting, .parse_arg = o},
		{"foreground", NULL, "stay in the foreground, log to standard error", .letter = 'f',
			.flag = &o->foreground},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "NAME DIR [OPTION]...",
		.about = "Mounts the CVMFS repository NAME at DIR, until it is unmounted (umount DIR, or fusermount3 "
			 "-u DIR).\n"
			 "What is not given is taken from the settings of lamella-fetcher (see lamella.conf(5)).",
		.options = options,
		.min_words = 2,
		.max_words = 2,
		.words = "NAME and DIR are expected",
	};
	struct lm_err err = LM_ERR_INIT;
	int at = lm_cli_parse(argc, argv, &syntax, ret_code);
	if (at < 0)
		return -1;
	if (!!o->tag + !!o->date + !!o->root > 1) {
		lm_cli_error("only one of --tag, --date and --root can be given");
		*ret_code = lm_cli_usage(argv[0]);
		return -1;
	}
	o->name = argv[at];
	if (make_absolute(argv[at + 1], &o->dir, &err) == 0)
		return 0;
	*ret_code = lm_cli_fail(&err);
	return -1;
}

static int default_cache(struct options *o, struct lm_err *err)
{
	const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	if (o->cache)
		return 0;
	if (geteuid() == 0)
		o->cache = lm_str_printf("/var/cache/lamella/%s", o->name);
	else if (xdg && *xdg == '/')
		o->cache = lm_str_printf("%s/lamella/%s", xdg, o->name);
	else if (home && *home == '/')
		o->cache = lm_str_printf("%s/.cache/lamella/%s", home, o->name);
	else
		return lm_err_set(err, -EINVAL, "--cache must be given: there is no home directory");
	return o->cache ? 0 : lm_err_oom(err);
}

/* A repository that was made on this machine has its public key here. */
static int default_key(struct options *o, struct lm_err *err)
{
	CLEANUP(lm_repo_record_done) struct lm_repo_record record = {0};
	if (o->key || lm_repo_record_load(o->name, NULL, NULL, &record, NULL) < 0 || !record.keys)
		return 0;
	o->key = lm_str_printf("%s/%s.pub", record.keys, o->name);
	return o->key ? 0 : lm_err_oom(err);
}

/* The arguments of lamella-fetcher. */
struct args {
	char *v[ARGS_MAX + 1];
	size_t count;
	int code;
};

static void args_done(struct args *args)
{
	for (size_t i = 0; i < args->count; i++)
		free(args->v[i]);
}

static void add(struct args *args, char *text)
{
	if (!text || args->count == ARGS_MAX) {
		args->code = -ENOMEM;
		free(text);
		return;
	}
	args->v[args->count++] = text;
}

static void set(struct args *args, const char *key, const char *value)
{
	if (!value)
		return;
	add(args, strdup("--set"));
	add(args, lm_str_printf("%s=%s", key, value));
}

static int make_args(const struct options *o, struct args *args, struct lm_err *err)
{
	struct stat st;
	bool key_dir = o->key && stat(o->key, &st) == 0 && S_ISDIR(st.st_mode);
	add(args, strdup(LM_FETCHER_NAME));
	add(args, strdup("--require-mounts"));
	set(args, "CVMFS_REPOSITORIES", o->name);
	set(args, "LAMELLA_MOUNTPOINT", o->dir);
	set(args, "LAMELLA_SOCKET", "");
	set(args, "CVMFS_CACHE_BASE", o->cache);
	set(args, "CVMFS_SERVER_URL", o->url);
	set(args, "CVMFS_HTTP_PROXY", o->proxy ? o->proxy : o->url ? "DIRECT" : NULL);
	set(args, "CVMFS_PUBLIC_KEY", key_dir ? "" : o->key);
	set(args, "CVMFS_KEYS_DIR", key_dir ? o->key : o->key ? "" : NULL);
	if (o->tag || o->date || o->root) { /* also against what a file of settings says */
		set(args, "CVMFS_REPOSITORY_TAG", o->tag ? o->tag : "");
		set(args, "CVMFS_REPOSITORY_DATE", o->date ? o->date : "");
		set(args, "CVMFS_ROOT_HASH", o->root ? o->root : "");
	}
	for (size_t i = 0; i < o->more_count; i++) {
		add(args, strdup("--set"));
		add(args, strdup(o->more[i]));
	}
	return args->code < 0 ? lm_err_oom(err) : 0;
}

/* Only returns after a failure. */
static int exec_fetcher(struct args *args, struct lm_err *err)
{
	CLEANUP(lm_freep) char *program = lm_fetcher_program();
	if (!program)
		return lm_err_oom(err);
	execvp(program, args->v);
	return lm_err_sys(err, -errno, "%s", program);
}

/* A socket whose name goes into NOTIFY_SOCKET: the daemon says there that it is ready. */
static int open_notify_socket(struct lm_err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char name[sizeof(address.sun_path) + 1] = "@";
	socklen_t len = sizeof(address);
	CLEANUP(lm_closep) int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	/* A name without bytes: the kernel finds a free one in the abstract name space. */
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 ||
		getsockname(fd, (struct sockaddr *)&address, &len) < 0)
		return lm_err_sys(err, -errno, "socket");
	memcpy(name + 1, address.sun_path + 1, len - offsetof(struct sockaddr_un, sun_path) - 1);
	if (setenv("NOTIFY_SOCKET", name, 1) < 0)
		return lm_err_oom(err);
	return STEAL_FD(fd);
}

/* In the child: leaves the terminal, logs into the file. */
static void become_daemon(struct args *args, int log_fd)
{
	struct lm_err err = LM_ERR_INIT;
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (setsid() < 0 || chdir("/") < 0 || null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 ||
		dup2(null_fd, STDOUT_FILENO) < 0 || dup2(log_fd, STDERR_FILENO) < 0)
		_exit(LM_EXIT_FAILED);
	(void)exec_fetcher(args, &err);
	lm_cli_fail(&err);
	_exit(LM_EXIT_FAILED);
}

/* Takes what the daemon says to a service manager, descriptors included, which go at once. */
static bool says_ready(int notify_fd)
{
	char text[NOTIFY_MAX];
	ssize_t len;
	bool ready = false;
	while ((len = recv(notify_fd, text, sizeof(text) - 1, MSG_DONTWAIT)) >= 0) {
		text[len] = '\0';
		ready |= strstr(text, "READY=1") != NULL;
	}
	return ready;
}

/* 0 when it is ready; else its log has said why not. */
static int wait_for_daemon(pid_t child, int notify_fd, struct lm_err *err)
{
	CLEANUP(lm_closep) int child_fd = pidfd_open(child, 0);
	if (child_fd < 0)
		return lm_err_sys(err, -errno, "pidfd_open");
	struct pollfd fds[] = {{.fd = notify_fd, .events = POLLIN}, {.fd = child_fd, .events = POLLIN}};
	int64_t end_ms = lm_now_ms() + START_TIMEOUT_MS;
	for (;;) {
		int r = poll(fds, ARRAY_LEN(fds), (int)LM_MAX(end_ms - lm_now_ms(), (int64_t)0));
		if (r < 0)
			continue;
		if (says_ready(notify_fd))
			return 0;
		if (fds[1].revents)
			return lm_err_set(err, -EIO, "%s did not start", LM_FETCHER_NAME);
		if (r > 0)
			continue;
		kill(child, SIGTERM);
		return lm_err_set(err, -ETIMEDOUT, "not mounted within %d s", START_TIMEOUT_MS / 1000);
	}
}

/* What the daemon wrote, for whoever called us. */
static void show_log(int log_fd)
{
	char text[LOG_SHOWN_MAX];
	ssize_t len = pread(log_fd, text, sizeof(text), 0);
	if (len > 0)
		(void)!fwrite(text, 1, (size_t)len, stderr);
}

static int run_in_background(const struct options *o, struct args *args, struct lm_err *err)
{
	CLEANUP(lm_freep) char *log = lm_str_printf("%s/mount.log", o->cache);
	if (!log)
		return lm_err_oom(err);
	int r = lm_mkdir_p(AT_FDCWD, o->cache, 0700, err);
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int log_fd = open(log, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (log_fd < 0)
		return lm_err_sys(err, -errno, "%s", log);
	CLEANUP(lm_closep) int notify_fd = open_notify_socket(err);
	if (notify_fd < 0)
		return notify_fd;
	pid_t child = fork();
	if (child < 0)
		return lm_err_sys(err, -errno, "fork");
	if (child == 0)
		become_daemon(args, log_fd);
	r = wait_for_daemon(child, notify_fd, err);
	if (r < 0)
		show_log(log_fd);
	else
		lm_cli_say("%s is mounted at %s; the log is %s", o->name, o->dir, log);
	return r;
}

static int mount_repository(struct options *o, struct lm_err *err)
{
	CLEANUP(args_done) struct args args = {.count = 0};
	int r = default_cache(o, err);
	if (r == 0)
		r = default_key(o, err);
	if (r == 0)
		r = make_args(o, &args, err);
	if (r < 0)
		return r;
	return o->foreground ? exec_fetcher(&args, err) : run_in_background(o, &args, err);
}

int lm_cmd_mount(int argc, char **argv)
{
	CLEANUP(options_done) struct options o = {0};
	struct lm_err err = LM_ERR_INIT;
	int code;
	if (parse_options(argc, argv, &o, &code) < 0)
		return code;
	return mount_repository(&o, &err) < 0 ? lm_cli_fail(&err) : LM_EXIT_OK;
}
