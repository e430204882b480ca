#include "fetcher/keeper_process.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Beside this program's file; where that was replaced since, beside the new one. */
static int worker_path(char ret[PATH_MAX])
{
	static const char gone[] = " (deleted)", suffix[] = "-worker";
	ssize_t len = readlink("/proc/self/exe", ret, PATH_MAX - sizeof(suffix));
	if (len <= 0)
		return -1;
	ret[len] = '\0';
	char *end = ret + len - (sizeof(gone) - 1);
	if (end > ret && strcmp(end, gone) == 0)
		*end = '\0';
	strcat(ret, suffix);
	return 0;
}

static int become_worker(char **argv)
{
	char path[PATH_MAX] = "/proc/self/exe";
	if (worker_path(path) == 0)
		execv(path, argv);
	fprintf(stderr, "lamella-fetcher: start %s: %s\n", path, strerror(errno));
	return EXIT_FAILURE;
}

/*
 * What is started is the keeper. It starts this program again for its worker, so that a worker of another version is
 * found by the one path that both know, whichever of the two is the older one.
 */
int main(int argc, char **argv)
{
	(void)argc;
	return getenv(LM_KEEPER_ENV) ? become_worker(argv) : lm_keeper_run(argv);
}
