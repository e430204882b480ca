/*
 * killer.so: preloaded (LD_PRELOAD), kills the process at its N-th change of the files below a directory.
 *
 *   LM_KILL_DIR=DIR    the directory, as realpath gives it
 *   LM_KILL_AT=N       SIGKILL instead of the N-th change; a write is done by half first. 0 or unset: none
 *   LM_KILL_LOG=FILE   a line per change is appended: number, call, path
 *   LM_KILL_CLOCK=S    the wall clock stands still at second S: two runs of one command write the same bytes
 *
 * What counts: write and its kin, files that are made, renamed, linked, cut or removed, directories made and removed,
 * and the calls that make them durable. Threads are counted together. What stdio writes is not seen.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *dir; /* NULL: nothing is counted */
static size_t dir_len;
static long kill_at, clock_s;
static int log_fd = -1;
static _Atomic(long) count;

static long number(const char *name)
{
	const char *text = getenv(name);
	return text ? strtol(text, NULL, 10) : 0;
}

__attribute__((constructor)) static void begin(void)
{
	const char *log = getenv("LM_KILL_LOG");
	kill_at = number("LM_KILL_AT");
	clock_s = number("LM_KILL_CLOCK");
	if (log)
		log_fd = (int)syscall(
			SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, (mode_t)0644);
	dir = getenv("LM_KILL_DIR");
	dir_len = dir ? strlen(dir) : 0;
}

static void die(void)
{
	syscall(SYS_kill, getpid(), SIGKILL);
	for (;;)
		pause();
}

/* Counts a change of the file with that full path; true: it is the one to die at. */
static bool fatal(const char *call, const char *path)
{
	char line[PATH_MAX + 64];
	if (strncmp(path, dir, dir_len) != 0 || (path[dir_len] != '/' && path[dir_len] != '\0'))
		return false;
	long n = ++count;
	int len = snprintf(line, sizeof(line), "%ld %s %s\n", n, call, path + dir_len);
	if (log_fd >= 0 && len > 0)
		syscall(SYS_write, log_fd, line, (size_t)len < sizeof(line) ? (size_t)len : sizeof(line) - 1);
	return n == kill_at;
}

static bool fatal_fd(const char *call, int fd)
{
	char link[64], path[PATH_MAX];
	int before = errno;
	if (!dir)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	long len = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof(path) - 1);
	errno = before;
	if (len < 0)
		return false;
	path[len] = '\0';
	return fatal(call, path);
}

static void step_fd(const char *call, int fd)
{
	if (fatal_fd(call, fd))
		die();
}

static void step_at(const char *call, int dirfd, const char *path)
{
	char link[64], full[2 * PATH_MAX];
	long len = 0;
	int before = errno;
	if (!dir || !path)
		return;
	if (*path != '/') {
		snprintf(link, sizeof(link), dirfd == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dirfd);
		len = syscall(SYS_readlinkat, AT_FDCWD, link, full, (size_t)PATH_MAX);
		errno = before;
		if (len < 0)
			return;
		full[len++] = '/';
	}
	snprintf(full + len, sizeof(full) - (size_t)len, "%s", path);
	if (fatal(call, full))
		die();
}

/*
 * Content
 */

ssize_t write(int fd, const void *data, size_t len)
{
	if (fatal_fd("write", fd)) {
		syscall(SYS_write, fd, data, len / 2);
		die();
	}
	return syscall(SYS_write, fd, data, len);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset)
{
	if (fatal_fd("pwrite", fd)) {
		syscall(SYS_pwrite64, fd, data, len / 2, offset);
		die();
	}
	return syscall(SYS_pwrite64, fd, data, len, offset);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
	return pwrite64(fd, data, len, offset);
}

ssize_t writev(int fd, const struct iovec *iov, int n)
{
	step_fd("writev", fd);
	return syscall(SYS_writev, fd, iov, n);
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t len, unsigned flags)
{
	step_fd("copy_file_range", to);
	return syscall(SYS_copy_file_range, from, from_at, to, to_at, len, flags);
}

int ftruncate64(int fd, off64_t len)
{
	step_fd("ftruncate", fd);
	return (int)syscall(SYS_ftruncate, fd, len);
}

int ftruncate(int fd, off_t len)
{
	return ftruncate64(fd, len);
}

int fsync(int fd)
{
	step_fd("fsync", fd);
	return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	step_fd("fdatasync", fd);
	return (int)syscall(SYS_fdatasync, fd);
}

int syncfs(int fd)
{
	step_fd("syncfs", fd);
	return (int)syscall(SYS_syncfs, fd);
}

/*
 * Names
 */

static int open_at(int dirfd, const char *path, int flags, mode_t mode)
{
	if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE)
		step_at("create", dirfd, path);
	else if (flags & O_TRUNC)
		step_at("truncate", dirfd, path);
	return (int)syscall(SYS_openat, dirfd, path, flags, mode);
}

#define MODE_OF(last)                                                           \
	({                                                                      \
		va_list args_;                                                  \
		va_start(args_, last);                                          \
		mode_t mode_ = va_arg(args_, mode_t); /* garbage when unused */ \
		va_end(args_);                                                  \
		mode_;                                                          \
	})

int open(const char *path, int flags, ...)
{
	return open_at(AT_FDCWD, path, flags, MODE_OF(flags));
}

int open64(const char *path, int flags, ...)
{
	return open_at(AT_FDCWD, path, flags, MODE_OF(flags));
}

int openat(int dirfd, const char *path, int flags, ...)
{
	return open_at(dirfd, path, flags, MODE_OF(flags));
}

int openat64(int dirfd, const char *path, int flags, ...)
{
	return open_at(dirfd, path, flags, MODE_OF(flags));
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
	step_at("rename", to_dir, to);
	return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	return renameat2(from_dir, from, to_dir, to, 0);
}

int rename(const char *from, const char *to)
{
	return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	step_at("link", to_dir, to);
	return (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
}

int link(const char *from, const char *to)
{
	return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int symlinkat(const char *target, int dirfd, const char *path)
{
	step_at("symlink", dirfd, path);
	return (int)syscall(SYS_symlinkat, target, dirfd, path);
}

int symlink(const char *target, const char *path)
{
	return symlinkat(target, AT_FDCWD, path);
}

int unlinkat(int dirfd, const char *path, int flags)
{
	step_at("unlink", dirfd, path);
	return (int)syscall(SYS_unlinkat, dirfd, path, flags);
}

int unlink(const char *path)
{
	return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
	return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

int mkdirat(int dirfd, const char *path, mode_t mode)
{
	step_at("mkdir", dirfd, path);
	return (int)syscall(SYS_mkdirat, dirfd, path, mode);
}

int mkdir(const char *path, mode_t mode)
{
	return mkdirat(AT_FDCWD, path, mode);
}

/*
 * The clock
 */

int clock_gettime(clockid_t clock, struct timespec *ret)
{
	if (clock_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
		*ret = (struct timespec){.tv_sec = clock_s};
		return 0;
	}
	return (int)syscall(SYS_clock_gettime, clock, ret);
}

time_t time(time_t *ret)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (ret)
		*ret = now.tv_sec;
	return now.tv_sec;
}

int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
	struct timespec now;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &now);
	*ret = (struct timeval){.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
	return 0;
}
