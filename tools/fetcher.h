/*
 * Talking to a running lamella-fetcher: what the subcommands share that ask its control service
 * (proto/lamella/fetcher.proto). The socket is --socket, else $LAMELLA_SOCKET, else that of the service.
 */
#ifndef LM_TOOLS_FETCHER_H
#define LM_TOOLS_FETCHER_H

#include "base/err.h"
#include "lamella/fetcher.pb-c.h"

#include <stdbool.h>

#define LM_FETCHER_SOCKET "/run/lamella/fetcher.sock"
#define LM_FETCHER_SOCKET_HELP "control socket of lamella-fetcher; default: $LAMELLA_SOCKET, or\n" LM_FETCHER_SOCKET

#define LM_FETCHER_NAME "lamella-fetcher"

struct lm_rpc_client;

/* The program's file: beside this one, where an installation or a build folder has it, else its bare name, to be looked
 * for in PATH. The caller frees; NULL: no memory. */
char *lm_fetcher_program(void);

/* socket: the option's value; NULL: not given. */
int lm_fetcher_open(const char *socket, struct lm_rpc_client **ret, struct lm_err *err) MUST_CHECK;

/* One call, e.g. method "Status". *ret is freed by lm_fetcher_freep (or protobuf_c_message_free_unpacked()). -EAGAIN:
 * nobody answers at the socket. */
int lm_fetcher_call(struct lm_rpc_client *client, const char *method, const ProtobufCMessage *request,
	const ProtobufCMessageDescriptor *response, unsigned timeout_ms, ProtobufCMessage **ret,
	struct lm_err *err) MUST_CHECK;
static inline void lm_fetcher_freep(ProtobufCMessage **message)
{
	if (*message)
		protobuf_c_message_free_unpacked(*message, NULL);
	*message = NULL;
}

/* What Status answers. layers: with the layers that were asked for lately. */
int lm_fetcher_status(struct lm_rpc_client *client, bool layers, Lamella__Fetcher__V1__StatusResponse **ret,
	struct lm_err *err) MUST_CHECK;
static inline void lm_fetcher_status_freep(Lamella__Fetcher__V1__StatusResponse **status)
{
	lm_fetcher_freep((ProtobufCMessage **)status);
}

/* "online" and the like. */
const char *lm_fetcher_state_name(Lamella__Fetcher__V1__RepositoryState state);

/* "350 ms", "12 s", "3 min 20 s", "5 h 12 min", "3 d 4 h" */
struct lm_fetcher_duration_text {
	char s[32];
};
struct lm_fetcher_duration_text lm_fetcher_duration(uint64_t ms);

/* The message as one line of JSON (rpc/json.h) on standard output; returns the exit code: LM_EXIT_OK, or
 * LM_EXIT_FAILED (said). */
int lm_fetcher_print_json(const ProtobufCMessage *message);

#endif
