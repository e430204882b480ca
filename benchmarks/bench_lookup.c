/*
 * bench-lookup --rounds N {MOUNT COPY SAMPLES}...: what stat() of a name costs that the kernel does not know yet, found
 * and absent, in each mount, and in a copy of the same tree on a disk. SAMPLES is what bench-catalog --make leaves
 * beside the mount's catalog. Prints two lines for each, the mount's and the copy's, in this order: microseconds found,
 * absent (medians of the rounds), and by how much each is more than in the first mount or copy (medians of the rounds'
 * own ratios).
 *
 * In each round the kernel forgets all names, then learns the directories, for nothing, and is asked for what they
 * hold: one request to the file system for each name, however large the tree is. Directories and names that are there
 * twice among the samples are left out, since the kernel would know them. Needs root.
 */
#include "base/macros.h"
#include "rounds.h"

#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TREES_MAX = 32, NAMES = 4000 };
enum kind { FOUND, ABSENT, KINDS };

struct tree {
	const char *dir;
	char *paths[KINDS][NAMES];
	double us[KINDS][ROUNDS_MAX];
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "bench-lookup: %s: %s\n", what, why);
	exit(1);
}

static char *below(const char *dir, const char *path)
{
	char *joined;
	if (asprintf(&joined, "%s%s", dir, path) < 0)
		die("memory", strerror(errno));
	return joined;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(a, b);
}

static bool is_new(void **known, const char *path)
{
	char **node = tsearch(path, known, by_name);
	if (!node)
		die("memory", strerror(errno));
	return *node == path;
}

static bool is_directory(const char *path)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		die(path, strerror(errno));
	return S_ISDIR(st.st_mode);
}

static void read_samples(struct tree *t, const char *file)
{
	char *found, *absent;
	void *known = NULL;
	size_t count = 0;
	FILE *f = fopen(file, "re");
	if (!f)
		die(file, strerror(errno));
	while (count < NAMES && fscanf(f, "%ms %ms %*u", &found, &absent) == 2) {
		char *path = below(t->dir, found);
		if (is_new(&known, path) && !is_directory(path)) {
			t->paths[FOUND][count] = path;
			t->paths[ABSENT][count++] = below(t->dir, absent);
		}
		free(found);
		free(absent);
	}
	fclose(f);
	if (count < NAMES)
		die(file, "too few samples");
}

static void forget_names(void)
{
	CLEANUP(lm_closep) int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "2", 1) != 1)
		die("/proc/sys/vm/drop_caches", strerror(errno));
}

static void learn_directories(const struct tree *t)
{
	for (size_t i = 0; i < NAMES; i++) {
		struct stat st;
		char *path = t->paths[FOUND][i], *slash = strrchr(path, '/');
		*slash = '\0';
		if (stat(path, &st) < 0)
			die(path, strerror(errno));
		*slash = '/';
	}
}

static double now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static double ask(char *const *paths, int expected)
{
	double begin = now_us();
	for (size_t i = 0; i < NAMES; i++) {
		struct stat st;
		int answer = lstat(paths[i], &st) < 0 ? errno : 0;
		if (answer != expected)
			die(paths[i], strerror(answer));
	}
	return (now_us() - begin) / NAMES;
}

int main(int argc, char **argv)
{
	static struct tree trees[TREES_MAX]; /* mount, copy, mount, copy... */
	unsigned rounds = argc > 2 && strcmp(argv[1], "--rounds") == 0 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
	unsigned count = (unsigned)(argc - 3) / 3 * 2;
	if (argc < 6 || argc % 3 != 0 || count > TREES_MAX || rounds == 0 || rounds > ROUNDS_MAX) {
		fputs("usage: bench-lookup --rounds N {MOUNT COPY SAMPLES}...\n", stderr);
		return 2;
	}
	for (unsigned n = 0; n < count; n++) {
		trees[n].dir = argv[3 + n / 2 * 3 + n % 2];
		read_samples(&trees[n], argv[3 + n / 2 * 3 + 2]);
	}
	for (unsigned round = 0; round < rounds; round++) {
		forget_names();
		for (unsigned n = 0; n < count; n++) {
			learn_directories(&trees[n]);
			trees[n].us[FOUND][round] = ask(trees[n].paths[FOUND], 0);
			trees[n].us[ABSENT][round] = ask(trees[n].paths[ABSENT], ENOENT);
		}
	}
	for (unsigned n = 0; n < count; n++) {
		for (unsigned k = 0; k < KINDS; k++)
			printf("%.2f ", rounds_median(trees[n].us[k], NULL, rounds));
		for (unsigned k = 0; k < KINDS; k++)
			printf("%.3f%c", rounds_median(trees[n].us[k], trees[n % 2].us[k], rounds),
				k + 1 < KINDS ? ' ' : '\n');
	}
	return 0;
}
