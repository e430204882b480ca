#include "fetcher.h"

#include "base/buf.h"
#include "base/str.h"
#include "common.h"
#include "rpc/json.h"
#include "rpc/rpc.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define SERVICE "/lamella.fetcher.v1.Fetcher/"
enum { JSON_MAX = 64 << 20, STATUS_TIMEOUT_MS = 10000 };

char *lm_fetcher_program(void)
{
	static const char *const places[] = {"", "../sbin/", "../fetcher/"};
	char self[PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[LM_MAX(len, 0)] = '\0';
	const char *dir = dirname(self);
	for (size_t i = 0; i < ARRAY_LEN(places) && len > 0; i++) {
		CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s" LM_FETCHER_NAME, dir, places[i]);
		if (!path)
			return NULL;
		if (access(path, X_OK) == 0)
			return STEAL(path);
	}
	return strdup(LM_FETCHER_NAME);
}

int lm_fetcher_open(const char *socket, struct lm_rpc_client **ret, struct lm_err *err)
{
	if (!socket)
		socket = lm_cli_environment("LAMELLA_SOCKET", LM_FETCHER_SOCKET);
	int r = lm_cli_socket_check(socket, "lamella-fetcher is not running, or starting", err);
	return r < 0 ? r : lm_rpc_client_new(socket, ret, err);
}

int lm_fetcher_call(struct lm_rpc_client *client, const char *method, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, unsigned timeout_ms, ProtobufCMessage **ret, struct lm_err *err)
{
	char path[64];
	snprintf(path, sizeof(path), SERVICE "%s", method);
	int r = lm_rpc_invoke(client, path, request, response, timeout_ms, false, ret, NULL, err);
	return r < 0 ? lm_err_prefix(err, r, "lamella-fetcher") : 0;
}

int lm_fetcher_status(
	struct lm_rpc_client *client, bool layers, Lamella__Fetcher__V1__StatusResponse **ret, struct lm_err *err)
{
	Lamella__Fetcher__V1__StatusRequest request = LAMELLA__FETCHER__V1__STATUS_REQUEST__INIT;
	request.layers = layers;
	return lm_fetcher_call(client, "Status", &request.base, &lamella__fetcher__v1__status_response__descriptor,
		STATUS_TIMEOUT_MS, (ProtobufCMessage **)ret, err);
}

const char *lm_fetcher_state_name(Lamella__Fetcher__V1__RepositoryState state)
{
	switch (state) {
	case LAMELLA__FETCHER__V1__REPOSITORY_STATE__REPOSITORY_STARTING:
		return "starting";
	case LAMELLA__FETCHER__V1__REPOSITORY_STATE__REPOSITORY_FAILED:
		return "failed";
	case LAMELLA__FETCHER__V1__REPOSITORY_STATE__REPOSITORY_ONLINE:
		return "online";
	case LAMELLA__FETCHER__V1__REPOSITORY_STATE__REPOSITORY_OFFLINE:
		return "offline";
	case LAMELLA__FETCHER__V1__REPOSITORY_STATE__REPOSITORY_RECORDED:
		return "recorded";
	default: /* a fetcher newer than this program */
		return "unknown";
	}
}

struct lm_fetcher_duration_text lm_fetcher_duration(uint64_t ms)
{
	struct lm_fetcher_duration_text ret;
	unsigned long long s = ms / 1000, min = s / 60, h = min / 60;
	if (ms < 1000)
		snprintf(ret.s, sizeof(ret.s), "%llu ms", (unsigned long long)ms);
	else if (s < 60)
		snprintf(ret.s, sizeof(ret.s), "%llu s", s);
	else if (min < 60)
		snprintf(ret.s, sizeof(ret.s), "%llu min %llu s", min, s % 60);
	else if (h < 48)
		snprintf(ret.s, sizeof(ret.s), "%llu h %llu min", h, min % 60);
	else
		snprintf(ret.s, sizeof(ret.s), "%llu d %llu h", h / 24, h % 24);
	return ret;
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
