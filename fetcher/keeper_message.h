/*
 * What keeper and worker say to each other, each message a packet on a socket pair; and, message after message, the
 * state that a keeper leaves to the next version of itself.
 *
 * The two may be of different versions: numbers of kinds stay, unknown ones are ignored, fields are only ever added.
 */
#ifndef LM_FETCHER_KEEPER_MESSAGE_H
#define LM_FETCHER_KEEPER_MESSAGE_H

#include "base/buf.h"

enum lm_message_kind {
	/* keeper to worker */
	LM_MESSAGE_SESSION = 1, /* text: a mountpoint; descriptors: /dev/fuse, journal */
	LM_MESSAGE_START = 2, /* go on. numbers: worker, crashed worker, keeper's start (wall clock), restarts, interval
				 of ALIVE in ms; text: why the last worker ended */
	LM_MESSAGE_LEAVE = 3, /* end without unmounting: another worker is ready to go on */
	LM_MESSAGE_SETTINGS =
		4, /* before all others; numbers: enum lm_kept_settings; descriptor: as in KEEP_SETTINGS */

	/* worker to keeper */
	LM_MESSAGE_HELLO = 16,	/* the settings are right; waits for START */
	LM_MESSAGE_STORE = 17,	/* a session, as SESSION */
	LM_MESSAGE_DROP = 18,	/* text: a mountpoint whose session is over */
	LM_MESSAGE_NOTIFY = 19, /* text: for the service manager */
	LM_MESSAGE_ALIVE = 20,
	LM_MESSAGE_END =
		21, /* the worker ends because its work is done, and the keeper with it, with its exit status */
	LM_MESSAGE_KEEP_SETTINGS = 22, /* those in force; descriptor: packed settings (settings.h) */

	/* state of a keeper */
	LM_MESSAGE_STATE_WORKER =
		32, /* numbers: pid, descriptor, number, start (monotonic ms), flags, OOM kills before */
	LM_MESSAGE_STATE_SESSION = 33,	/* numbers: descriptors of /dev/fuse and journal; text: mountpoint */
	LM_MESSAGE_STATE_KEEPER = 34,	/* numbers: start (wall clock), workers, crashed, flags, restarts, whether
					 a HUP waits; text: reason */
	LM_MESSAGE_STATE_SETTINGS = 35, /* numbers: descriptor */
};

enum {
	LM_MESSAGE_NUMBERS = 6,
	LM_MESSAGE_TEXT_MAX = 4095,
	LM_MESSAGE_MAX = 8 + 8 * LM_MESSAGE_NUMBERS + LM_MESSAGE_TEXT_MAX
};

struct lm_message {
	uint32_t kind;
	uint64_t numbers[LM_MESSAGE_NUMBERS];
	char text[LM_MESSAGE_TEXT_MAX + 1]; /* cut to fit when it is encoded */
};

/* Returns the length. */
size_t lm_message_encode(const struct lm_message *message, uint8_t ret[LM_MESSAGE_MAX]);

/* Parses the message at the beginning of data: its length (a packet may hold just one), or -EPROTO. */
int lm_message_decode(const void *data, size_t len, struct lm_message *ret, struct lm_err *err) MUST_CHECK;

/*
 * Over a socket of type SOCK_SEQPACKET. Never blocks beyond the other side's buffer. receive: 1, 0 at the end of the
 * connection, -EAGAIN; unused ret_fds are -1, the others the caller's. -EPROTO: the packet is gone, the next may be
 * right. fds: NULL, two, or one and -1.
 */
int lm_message_send(int socket, const struct lm_message *message, const int fds[2], struct lm_err *err) MUST_CHECK;
int lm_message_receive(int socket, struct lm_message *ret, int ret_fds[2], struct lm_err *err) MUST_CHECK;

#endif
