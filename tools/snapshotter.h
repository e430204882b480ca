/*
 * Talking to a running lamella-snapshotter: its status service (proto/lamella/snapshotter.proto). The socket is
 * --snapshotter, else $LAMELLA_SNAPSHOTTER_SOCKET, else that of the service.
 */
#ifndef LM_TOOLS_SNAPSHOTTER_H
#define LM_TOOLS_SNAPSHOTTER_H

#include "fetcher.h"
#include "lamella/snapshotter.pb-c.h"

#define LM_SNAPSHOTTER_SOCKET "/run/lamella/snapshotter-status.sock"
#define LM_SNAPSHOTTER_SOCKET_HELP \
	"status socket of lamella-snapshotter; default:\n$LAMELLA_SNAPSHOTTER_SOCKET, or\n" LM_SNAPSHOTTER_SOCKET

/* What Status answers. socket: the option's value; NULL: not given. images: with all images and layers. -EAGAIN: nobody
 * answers at the socket. */
int lm_snapshotter_status(
	const char *socket, bool images, Lamella__Snapshotter__V1__StatusResponse **ret, struct lm_err *err) MUST_CHECK;
static inline void lm_snapshotter_status_freep(Lamella__Snapshotter__V1__StatusResponse **status)
{
	lm_fetcher_freep((ProtobufCMessage **)status);
}

/* `lamella images --node`: all images of this node, as a table (layers: and what they are made of) or as JSON. Returns
 * the exit code. */
int lm_snapshotter_images(const char *socket, bool layers, bool json);

/* Layers come from mounts of others: there may be no fetcher. */
bool lm_snapshotter_has_mounts(const Lamella__Snapshotter__V1__StatusResponse *status);

/* Some lines on standard output, for `lamella status`. */
void lm_snapshotter_print(const Lamella__Snapshotter__V1__StatusResponse *status);

#endif
