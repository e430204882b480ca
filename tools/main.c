#include "base/log.h"
#include "base/macros.h"
#include "base/version.h"
#include "commands.h"
#include "common.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
};

static const struct command commands[] = {
	{"cache", lm_cmd_cache, "what the fetcher of this machine has cached, and what is to stay"},
	{"convert", lm_cmd_convert, "put a container image into a repository"},
	{"doctor", lm_cmd_doctor, "what is wrong with this node, and what to do about it"},
	{"images", lm_cmd_images, "what images a repository has, or this node"},
	{"inspect", lm_cmd_inspect, "show what a repository holds"},
	{"mount", lm_cmd_mount, "mount a repository"},
	{"pull", lm_cmd_pull, "register an image in containerd without fetching its layers"},
	{"registry", lm_cmd_registry, "be a registry for what repositories mounted here hold"},
	{"repo", lm_cmd_repo, "make a repository, show one"},
	{"rm", lm_cmd_rm, "take images out of a repository"},
	{"serve", lm_cmd_serve, "serve repositories over HTTP, for trials and tests"},
	{"status", lm_cmd_status, "what fetcher and snapshotter of this machine say of themselves"},
	{"sync", lm_cmd_sync, "keep repositories as a wish list wants them"},
	{"top", lm_cmd_top, "what it is doing right now"},
	{"update", lm_cmd_update, "have it look for a new revision now"},
	{"verify", lm_cmd_verify, "compare a published image with the registry's"},
	{NULL, NULL, NULL},
};

enum { FILES_MAX = 65536 };

static void print_help(void)
{
	printf("Usage: lamella COMMAND [OPTION]...\n"
	       "Makes and keeps CVMFS repositories of container images.\n\n"
	       "Commands:\n");
	for (const struct command *c = commands; c->name; c++)
		printf("  %-10s %s\n", c->name, c->summary);
	printf("\n`lamella help COMMAND` (or `lamella COMMAND --help`) says more about one of them.\n"
	       "`lamella --version` prints the version.\n");
}

static const struct command *find_command(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	lm_cli_error("no command \"%s\"; `lamella --help` lists them", name);
	return NULL;
}

static int run_command(const char *name, int argc, char **argv)
{
	const struct command *command = find_command(name);
	if (!command)
		return LM_EXIT_USAGE;
	char full_name[32];
	snprintf(full_name, sizeof(full_name), "lamella %s", command->name);
	argv[0] = full_name;
	optind = 0; /* glibc: start over, whatever was parsed before */
	return command->run(argc, argv);
}

/* `lamella help [COMMAND]` */
static int run_help(int argc, char **argv)
{
	if (argc > 1) {
		char option[] = "--help";
		char *help_argv[] = {argv[0], option, NULL};
		return run_command(argv[1], 2, help_argv);
	}
	print_help();
	return LM_EXIT_OK;
}

/* A publisher keeps the catalogs open that it has looked into: hundreds for the index of layers alone. A server has two
 * descriptors for each connection. */
static void raise_file_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = LM_MIN(limit.rlim_max, (rlim_t)FILES_MAX);
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

int main(int argc, char **argv)
{
	lm_log_init("lamella", LM_LOG_INFO);
	raise_file_limit();
	if (argc < 2) {
		lm_cli_error("no command given; `lamella --help` lists them");
		return LM_EXIT_USAGE;
	}
	const char *first = argv[1];
	if (strcmp(first, "--version") == 0) {
		printf("lamella %s\n", LM_VERSION);
		return lm_cli_flush(LM_EXIT_OK);
	}
	if (strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0 || strcmp(first, "help") == 0)
		return lm_cli_flush(run_help(argc - 1, argv + 1));
	return lm_cli_flush(run_command(first, argc - 1, argv + 1));
}
