/*
 * bench-io LOOP ROOT LIST [SECONDS]
 *
 * Times one loop over a tree. LIST: names below ROOT, each ended by a NUL byte. The loop runs once, and again until
 * SECONDS (0) have passed; each pass is a line "NANOSECONDS OPERATIONS CPU-NANOSECONDS BLOCKS" on standard output: the
 * processor's time is this process's own, in the kernel too; blocks are what it had to wait for from a disk.
 *
 *   walk     list all directories, asking the attributes of every entry       (LIST is not looked at)
 *   stat     attributes of each name                open     open and close each
 *   read     open, read all of it, close            seq      read each from its beginning to its end, 128 KiB a time
 *   random   4096 reads of 4 KiB at random places, the same ones each time     mmap     touch every page of a mapping
 */
#include "base/macros.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, BUFFER = 128 << 10, RANDOM_READS = 4096 };

struct names {
	char *text;
	const char **items;
	size_t count;
};

static int root = -1;
static char buffer[BUFFER];
static uint64_t operations;
static volatile uint64_t sink; /* what is read must not be optimised away */

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	fputs("bench-io: ", stderr);
	vfprintf(stderr, fmt, args);
	fprintf(stderr, ": %m\n");
	va_end(args);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

struct moment {
	uint64_t ns, cpu_ns, blocks;
};

static struct moment moment(void)
{
	struct timespec cpu;
	struct rusage usage;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	getrusage(RUSAGE_SELF, &usage);
	return (struct moment){
		.ns = now_ns(),
		.cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec,
		.blocks = (uint64_t)usage.ru_inblock,
	};
}

static struct names read_names(const char *path)
{
	struct names names = {0};
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		die("%s", path);
	size_t size = (size_t)st.st_size;
	names.text = malloc(size + 1);
	if (!names.text || read(fd, names.text, size) != (ssize_t)size)
		die("%s", path);
	close(fd);
	for (size_t i = 0; i < size; i++)
		names.count += names.text[i] == '\0';
	names.items = calloc(names.count + 1, sizeof(*names.items));
	if (!names.items)
		die("%zu names", names.count);
	const char *at = names.text;
	for (size_t i = 0; i < names.count; i++, at += strlen(at) + 1)
		names.items[i] = at;
	return names;
}

static int open_name(const char *name)
{
	int fd = openat(root, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		die("open %s", name);
	operations++;
	return fd;
}

static void walk(int dir_fd)
{
	DIR *dir = fdopendir(dir_fd);
	if (!dir)
		die("list");
	for (const struct dirent *entry; (entry = readdir(dir));) {
		struct stat st;
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			die("stat %s", entry->d_name);
		operations++;
		if (!S_ISDIR(st.st_mode))
			continue;
		int fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			die("open %s", entry->d_name);
		walk(fd);
	}
	closedir(dir);
}

static void loop_walk(const struct names *names)
{
	(void)names;
	int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		die("open");
	walk(fd);
}

static void loop_stat(const struct names *names)
{
	for (size_t i = 0; i < names->count; i++) {
		struct stat st;
		if (fstatat(root, names->items[i], &st, AT_SYMLINK_NOFOLLOW) < 0)
			die("stat %s", names->items[i]);
		operations++;
	}
}

static void loop_open(const struct names *names)
{
	for (size_t i = 0; i < names->count; i++)
		close(open_name(names->items[i]));
}

static void loop_read(const struct names *names)
{
	for (size_t i = 0; i < names->count; i++) {
		int fd = open_name(names->items[i]);
		ssize_t n;
		while ((n = read(fd, buffer, sizeof(buffer))) > 0)
			;
		if (n < 0)
			die("read %s", names->items[i]);
		close(fd);
	}
}

static void loop_random(const struct names *names)
{
	uint64_t state = 0x9e3779b97f4a7c15u;
	for (size_t i = 0; i < names->count; i++) {
		int fd = open_name(names->items[i]);
		struct stat st;
		if (fstat(fd, &st) < 0 || st.st_size < BLOCK)
			die("%s is too small", names->items[i]);
		for (unsigned n = 0; n < RANDOM_READS; n++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			off_t block = (off_t)(state % (uint64_t)(st.st_size / BLOCK));
			if (pread(fd, buffer, BLOCK, block * BLOCK) != BLOCK)
				die("read %s", names->items[i]);
			operations++;
		}
		close(fd);
	}
}

static void loop_mmap(const struct names *names)
{
	for (size_t i = 0; i < names->count; i++) {
		int fd = open_name(names->items[i]);
		struct stat st;
		if (fstat(fd, &st) < 0)
			die("%s", names->items[i]);
		size_t size = (size_t)st.st_size;
		const char *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (map == MAP_FAILED)
			die("map %s", names->items[i]);
		for (size_t at = 0; at < size; at += BLOCK, operations++)
			sink += (uint64_t)map[at];
		munmap((void *)map, size);
		close(fd);
	}
}

static const struct {
	const char *name;
	void (*run)(const struct names *names);
} loops[] = {
	{"walk", loop_walk},
	{"stat", loop_stat},
	{"open", loop_open},
	{"read", loop_read},
	{"seq", loop_read},
	{"random", loop_random},
	{"mmap", loop_mmap},
};

int main(int argc, char **argv)
{
	void (*run)(const struct names *names) = NULL;
	if (argc != 4 && argc != 5) {
		fputs("usage: bench-io LOOP ROOT LIST [SECONDS]\n", stderr);
		return 2;
	}
	for (size_t i = 0; i < ARRAY_LEN(loops); i++)
		if (strcmp(argv[1], loops[i].name) == 0)
			run = loops[i].run;
	if (!run) {
		fprintf(stderr, "bench-io: no loop %s\n", argv[1]);
		return 2;
	}
	const struct names names = read_names(argv[3]);
	const uint64_t end = now_ns() + (uint64_t)(1e9 * (argc == 5 ? strtod(argv[4], NULL) : 0));
	root = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		die("%s", argv[2]);
	do {
		operations = 0;
		const struct moment begin = moment();
		run(&names);
		const struct moment end_of_pass = moment();
		printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", end_of_pass.ns - begin.ns, operations,
			end_of_pass.cpu_ns - begin.cpu_ns, end_of_pass.blocks - begin.blocks);
	} while (now_ns() < end);
	return 0;
}
