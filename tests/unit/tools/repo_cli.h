/* Driving `lamella repo` from a test: a directory of its own, the arguments, what it said. */
#ifndef LM_TESTS_REPO_CLI_H
#define LM_TESTS_REPO_CLI_H

#include "base/file.h"
#include "base/str.h"
#include "commands.h"
#include "common.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define NAME "test.example.org"

static char dir[64], storage[80], keys[80];
static char output[64 << 10]; /* of the last run: standard output, then standard error */

static inline int make_dir(void **state)
{
	char conf[80];
	snprintf(dir, sizeof(dir), "/tmp/lamella-repo.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(conf, sizeof(conf), "%s/conf", dir);
	snprintf(storage, sizeof(storage), "%s/www", dir);
	snprintf(keys, sizeof(keys), "%s/keys", dir);
	return setenv("LAMELLA_CONFIG_DIR", conf, 1);
}

static inline int drop_dir(void **state)
{
	return lm_remove_tree(AT_FDCWD, dir, NULL);
}

/* The path of something below the test's directory. Valid until the next call. */
static inline const char *below(const char *path)
{
	static char text[512];
	snprintf(text, sizeof(text), "%s/%s", dir, path);
	return text;
}

static inline size_t collect(FILE *file, char *to, size_t size)
{
	rewind(file);
	size_t n = fread(to, 1, size - 1, file);
	to[n] = '\0';
	fclose(file);
	return n;
}

static inline int run(const char *const *args)
{
	char *argv[20] = {(char *)"lamella repo"};
	int argc = 1;
	for (; args[argc - 1]; argc++)
		argv[argc] = (char *)args[argc - 1];
	int saved_out = dup(STDOUT_FILENO), saved_err = dup(STDERR_FILENO);
	FILE *out = tmpfile(), *err = tmpfile();
	fflush(stdout);
	dup2(fileno(out), STDOUT_FILENO);
	dup2(fileno(err), STDERR_FILENO);
	optind = 0;
	int code = lm_cmd_repo(argc, argv);
	fflush(stdout);
	dup2(saved_out, STDOUT_FILENO);
	dup2(saved_err, STDERR_FILENO);
	close(saved_out);
	close(saved_err);
	size_t n = collect(out, output, sizeof(output));
	collect(err, output + n, sizeof(output) - n);
	return code;
}
#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static inline int init(void)
{
	return RUN("init", NAME, "--storage", storage, "--keys", keys);
}

static inline void assert_said(const char *text)
{
	if (!strstr(output, text))
		fail_msg("\"%s\" is not in:\n%s", text, output);
}

/* Whether a file below the test's directory is there. */
static inline bool there(const char *path)
{
	return access(below(path), F_OK) == 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_dir, drop_dir)

#endif
