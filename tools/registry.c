/* `lamella registry`: what mounted repositories hold, as a registry on loopback. */
#include "base/notify.h"
#include "commands.h"
#include "common.h"
#include "registry/web.h"

#include <signal.h>
#include <stdio.h>

/* Until SIGTERM or SIGINT. */
static int serve(const char *address, struct lm_shelf *shelf, struct lm_err *err)
{
	CLEANUP(lm_registry_web_freep) struct lm_registry_web *web = NULL;
	sigset_t ends;
	int number;
	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	pthread_sigmask(SIG_BLOCK, &ends, NULL); /* the threads inherit it */
	signal(SIGPIPE, SIG_IGN);
	int r = lm_registry_web_new(address, shelf, &web, err);
	if (r < 0)
		return r;
	printf("listening on %s\n", lm_registry_web_where(web));
	if (lm_cli_flush(LM_EXIT_OK) != LM_EXIT_OK)
		return lm_err_set(err, -EIO, "standard output can't be written");
	struct lm_err why = LM_ERR_INIT;
	if (lm_notify("READY=1", &why) < 0)
		lm_cli_error("the service manager is not told: %s", lm_err_text(&why));
	sigwait(&ends, &number);
	return 0;
}

int lm_cmd_registry(int argc, char **argv)
{
	struct lm_shelf_options shelf_options = {.base = "/cvmfs"};
	const char *address = "127.0.0.1:5050";
	const struct lm_cli_option options[] = {
		{"listen", "ADDRESS:PORT", "default 127.0.0.1:5050; port 0 takes a free one; [V6]:PORT",
			.text = &address},
		{"mount-base", "DIR", "repositories are mounted at DIR/REPO; default: /cvmfs",
			.text = &shelf_options.base},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "REPO... [OPTION]...",
		.about =
			"Serves the manifests and configs of all images that the repositories hold as an OCI registry, "
			"for reading,\n"
			"until it is ended by SIGTERM or SIGINT, so that a node's containerd pulls by name or digest "
			"while "
			"the\n"
			"registry itself is away. The repositories are mounted here (lamella-fetcher, or a stock "
			"client), "
			"and looked at\n"
			"in this order. Layers are not served: the snapshotter provides them.\n"
			"For containerd, in certs.d/HOST/hosts.toml:\n\n"
			"  server = \"https://HOST\"\n"
			"  [host.\"http://127.0.0.1:5050\"]\n"
			"    capabilities = [\"pull\", \"resolve\"]\n\n"
			"When it is ready it prints one line: listening on http://ADDRESS:PORT",
		.options = options,
		.min_words = 1,
		.max_words = -1,
		.words = "at least one REPO is wanted",
	};
	struct lm_err err = LM_ERR_INIT;
	int code, at = lm_cli_parse(argc, argv, &syntax, &code);
	if (at < 0)
		return code;
	CLEANUP(lm_shelf_freep) struct lm_shelf *shelf = NULL;
	shelf_options.repositories = (const char *const *)&argv[at];
	shelf_options.count = (size_t)(argc - at);
	int r = lm_shelf_new(&shelf_options, &shelf, &err);
	if (r == 0)
		r = serve(address, shelf, &err);
	return r < 0 ? lm_cli_fail(&err) : LM_EXIT_OK;
}
