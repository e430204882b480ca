#include "repo.h"

#include "base/macros.h"
#include "commands.h"
#include "common.h"

#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *usage;
} parts[] = {
	{"init", lm_cmd_repo_init, "NAME --storage DIR --keys DIR   make a repository"},
	{"info", lm_cmd_repo_info, "NAME                            verify a repository and show it"},
	{"check", lm_cmd_repo_check, "WHERE                          find what is wrong in a repository"},
	{"sign", lm_cmd_repo_sign, "NAME                            renew the whitelist, change the certificate"},
	{"tag", lm_cmd_repo_tag, "add|list|remove|rollback ...      name revisions, go back to one"},
	{"gc", lm_cmd_repo_gc, "NAME                              remove what no kept revision names"},
};

static int print_help(void)
{
	printf("Usage:\n");
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		printf("  lamella repo %s %s\n", parts[i].name, parts[i].usage);
	printf("\n`lamella repo PART --help` says more.\n");
	return LM_EXIT_OK;
}

int lm_cmd_repo(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
		return print_help();
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		if (strcmp(name, parts[i].name) != 0)
			continue;
		char full_name[32];
		snprintf(full_name, sizeof(full_name), "lamella repo %s", name);
		argv[1] = full_name;
		return parts[i].run(argc - 1, argv + 1);
	}
	lm_cli_error("repo: \"%s\" is none of its parts", name);
	return lm_cli_usage(argv[0]);
}
