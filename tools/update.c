/* `lamella update`: has lamella-fetcher look for new revisions now, and waits for what it finds. */
#include "base/str.h"
#include "commands.h"
#include "common.h"
#include "fetcher.h"
#include "rpc/rpc.h"

#include <inttypes.h>
#include <stdio.h>

enum { LOOK_TIMEOUT_MS = 300000 };

typedef Lamella__Fetcher__V1__UpdateResponse UpdateResponse;
typedef Lamella__Fetcher__V1__UpdateResult UpdateResult;

static void print_result(const UpdateResult *result)
{
	if (*result->error)
		lm_cli_error("%s: %s", result->fqrn, result->error);
	else if (result->old_revision == result->new_revision)
		printf("%s: revision %" PRIu64 " is the newest\n", result->fqrn, result->new_revision);
	else if (result->old_revision == 0)
		printf("%s: revision %" PRIu64 "\n", result->fqrn, result->new_revision);
	else
		printf("%s: revision %" PRIu64 " -> %" PRIu64 "\n", result->fqrn, result->old_revision,
			result->new_revision);
}

static int update(const char *socket, const char *name, bool json)
{
	CLEANUP(lm_rpc_client_freep) struct lm_rpc_client *client = NULL;
	CLEANUP(lm_fetcher_freep) ProtobufCMessage *message = NULL;
	Lamella__Fetcher__V1__UpdateRequest request = LAMELLA__FETCHER__V1__UPDATE_REQUEST__INIT;
	struct lm_err err = LM_ERR_INIT;
	if (name)
		request.fqrn = (char *)name;
	int r = lm_fetcher_open(socket, &client, &err);
	if (r == 0)
		r = lm_fetcher_call(client, "Update", &request.base, &lamella__fetcher__v1__update_response__descriptor,
			LOOK_TIMEOUT_MS, &message, &err);
	if (r < 0)
		return lm_cli_fail(&err);
	const UpdateResponse *response = (const UpdateResponse *)message;
	int code = LM_EXIT_OK;
	for (size_t i = 0; i < response->n_results; i++) {
		if (*response->results[i]->error)
			code = LM_EXIT_FAILED;
		if (!json)
			print_result(response->results[i]);
	}
	if (json && lm_fetcher_print_json(message) != LM_EXIT_OK)
		code = LM_EXIT_FAILED;
	return code;
}

int lm_cmd_update(int argc, char **argv)
{
	const char *socket = NULL;
	bool json = false;
	const struct lm_cli_option options[] = {
		{"json", NULL, "for programs", .flag = &json},
		{"socket", "PATH", LM_FETCHER_SOCKET_HELP, .text = &socket},
		{0},
	};
	const struct lm_cli_syntax syntax = {
		.synopsis = "[NAME] [OPTION]...",
		.about =
			"Has lamella-fetcher look for a new revision of the repository NAME, or of all, without "
			"waiting for\n"
			"the time to live, past all caches, and waits for the end of that. Exit code 1: a look failed.",
		.options = options,
		.max_words = 1,
		.words = "one NAME at most is wanted",
	};
	int code, at = lm_cli_parse(argc, argv, &syntax, &code);
	return at < 0 ? code : update(socket, at < argc ? argv[at] : NULL, json);
}
