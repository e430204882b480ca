#include "conformance.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"

#include <getopt.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

static const char *const target_names[TARGETS] = {[DIRECT] = "direct", [PROXY] = "proxy", [OVERLAYFS] = "overlayfs"};
static const struct test *const all_cases[] = {cases_state, cases_labels, cases_trees, cases_limits, cases_many};

static int usage(void)
{
	fputs("usage: snapshotter-conformance --socket SOCKET --target direct|proxy|overlayfs --snapshotter NAME\n"
	      "           --treediff PROGRAM --work DIR [--case REGEX] [--clients N] [--layer DIGEST --chain DIGEST]\n"
	      "       snapshotter-conformance --list\n",
		stderr);
	return 2;
}

static void list_cases(void)
{
	for (size_t i = 0; i < ARRAY_LEN(all_cases); i++)
		for (const struct test *test = all_cases[i]; test->name; test++)
			puts(test->name);
}

/* What a case that failed has left mounted. */
static void unmount_all(const char *dir)
{
	char line[4096];
	FILE *mounts = fopen("/proc/self/mounts", "re");
	while (mounts && fgets(line, sizeof(line), mounts)) {
		char *where = strchr(line, ' ');
		if (!where || !lm_str_starts(where + 1, dir))
			continue;
		where++;
		where[strcspn(where, " ")] = '\0';
		(void)umount2(where, MNT_DETACH);
	}
	if (mounts)
		fclose(mounts);
}

static int run_in(struct lab *lab, const struct test *test)
{
	if (mkdir(lab->dir, 0755) < 0)
		return lm_err_sys(&lab->err, -errno, "make %s", lab->dir);
	int r = test->run(lab);
	unmount_all(lab->dir);
	struct lab after = *lab;
	if (lab_empty(&after) < 0 && r == 0) {
		*lab = after;
		return lm_err_prefix(&lab->err, lab->err.code, "afterwards");
	}
	(void)!lm_remove_tree(AT_FDCWD, lab->dir, NULL);
	return r;
}

/* A namespace, or plugin, that no other case and no other run has. */
static int run_case(const struct options *o, const struct test *test, struct lm_err *err)
{
	CLEANUP(lm_rpc_client_freep) struct lm_rpc_client *client = NULL;
	CLEANUP(lm_freep) char *name = lm_str_printf("conformance-%ld-%s", (long)getpid(), test->name);
	CLEANUP(lm_freep) char *dir = lm_str_printf("%s/%s", o->work, test->name);
	if (!name || !dir)
		return lm_err_oom(err);
	int r = remote_connect(o->socket, o->target == DIRECT ? NULL : name, &client, err);
	if (r < 0)
		return r;
	struct lab lab = {.options = o,
		.dir = dir,
		.remote = {.client = client,
			.snapshotter = o->target == DIRECT ? name : o->snapshotter,
			.timeout_ms = 120000}};
	r = run_in(&lab, test);
	*err = lab.err;
	return r;
}

static int run_all(const struct options *o, const regex_t *selection)
{
	unsigned run = 0, failed = 0;
	for (size_t i = 0; i < ARRAY_LEN(all_cases); i++) {
		for (const struct test *test = all_cases[i]; test->name; test++) {
			struct lm_err err = LM_ERR_INIT;
			if (selection && regexec(selection, test->name, 0, NULL, 0) != 0)
				continue;
			int64_t begin = lm_now_ms();
			int r = run_case(o, test, &err);
			run++;
			failed += r < 0;
			if (r < 0)
				printf("FAILED %s: %s\n", test->name, lm_err_text(&err));
			else
				printf("ok %s, %d ms\n", test->name, (int)(lm_now_ms() - begin));
			fflush(stdout);
		}
	}
	printf("%s: %u cases, %u failed\n", target_names[o->target], run, failed);
	if (run == 0)
		fputs("snapshotter-conformance: no case of that name\n", stderr);
	return failed > 0 || run == 0;
}

static bool parse_target(const char *text, enum target *ret)
{
	for (unsigned i = 0; i < TARGETS; i++) {
		if (strcmp(text, target_names[i]) == 0) {
			*ret = (enum target)i;
			return true;
		}
	}
	return false;
}

enum option_code { SOCKET = 256, TARGET, SNAPSHOTTER, TREEDIFF, WORK, CASE, CLIENTS, LAYER, CHAIN, LIST };

static const struct option option_table[] = {
	{"socket", required_argument, NULL, SOCKET},
	{"target", required_argument, NULL, TARGET},
	{"snapshotter", required_argument, NULL, SNAPSHOTTER},
	{"treediff", required_argument, NULL, TREEDIFF},
	{"work", required_argument, NULL, WORK},
	{"case", required_argument, NULL, CASE},
	{"clients", required_argument, NULL, CLIENTS},
	{"layer", required_argument, NULL, LAYER},
	{"chain", required_argument, NULL, CHAIN},
	{"list", no_argument, NULL, LIST},
	{0},
};

static bool take_option(int option, struct options *o, bool *has_target, const char **selection)
{
	switch (option) {
	case SOCKET:
		o->socket = optarg;
		return true;
	case TARGET:
		return *has_target = parse_target(optarg, &o->target);
	case SNAPSHOTTER:
		o->snapshotter = optarg;
		return true;
	case TREEDIFF:
		o->treediff = optarg;
		return true;
	case WORK:
		o->work = optarg;
		return true;
	case CASE:
		*selection = optarg;
		return true;
	case CLIENTS:
		o->clients = (unsigned)strtoul(optarg, NULL, 10);
		return o->clients >= 2 && o->clients <= 1000;
	case LAYER:
		o->layer = optarg;
		return true;
	case CHAIN:
		o->chain = optarg;
		return true;
	default:
		return false;
	}
}

int main(int argc, char **argv)
{
	struct options o = {.clients = 100};
	const char *selection = NULL;
	bool has_target = false;
	regex_t regex;
	for (int option; (option = getopt_long(argc, argv, "", option_table, NULL)) != -1;) {
		if (option == LIST) {
			list_cases();
			return 0;
		}
		if (!take_option(option, &o, &has_target, &selection))
			return usage();
	}
	if (!o.socket || !has_target || !o.snapshotter || !o.treediff || !o.work || !o.layer != !o.chain ||
		optind < argc)
		return usage();
	if (selection && regcomp(&regex, selection, REG_EXTENDED | REG_NOSUB) != 0)
		return usage();
	struct lm_err err = LM_ERR_INIT;
	umask(0);
	if (mounting_begin(&err) < 0 || lm_mkdir_p(AT_FDCWD, o.work, 0755, &err) < 0) {
		fprintf(stderr, "snapshotter-conformance: %s\n", lm_err_text(&err));
		return 1;
	}
	int status = run_all(&o, selection ? &regex : NULL);
	if (selection)
		regfree(&regex);
	return status;
}
