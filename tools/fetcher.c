#include "fetcher.h"

#include "base/buf.h"
#include "common.h"
#include "rpc/json.h"
#include "rpc/rpc.h"

#include <stdio.h>

#define SERVICE "/lamella.fetcher.v1.Fetcher/"
enum { JSON_MAX = 64 << 20 };

int lm_fetcher_open(const char *socket, struct lm_rpc_client **ret, struct lm_err *err)
{
	const char *from_outside = getenv("LAMELLA_SOCKET");
	if (!socket)
		socket = from_outside && *from_outside ? from_outside : LM_FETCHER_SOCKET;
	if (access(socket, F_OK) < 0)
		return lm_err_sys(err, errno == ENOENT ? -EAGAIN : -errno,
			errno == ENOENT ? "lamella-fetcher is not running, or starting: %s is not there" : "%s",
			socket);
	return lm_rpc_client_new(socket, ret, err);
}

int lm_fetcher_call(struct lm_rpc_client *client, const char *method, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, unsigned timeout_ms, ProtobufCMessage **ret, struct lm_err *err)
{
	char path[64];
	snprintf(path, sizeof(path), SERVICE "%s", method);
	int r = lm_rpc_invoke(client, path, request, response, timeout_ms, false, ret, NULL, err);
	return r < 0 ? lm_err_prefix(err, r, "lamella-fetcher") : 0;
}

int lm_fetcher_print_json(const ProtobufCMessage *message)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(JSON_MAX);
	struct lm_err err = LM_ERR_INIT;
	int r = lm_rpc_json(message, &text);
	if (r < 0)
		return lm_cli_fail((lm_err_sys(&err, r, "JSON"), &err));
	puts(lm_buf_cstr(&text));
	return LM_EXIT_OK;
}
