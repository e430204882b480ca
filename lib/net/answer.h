/*
 * Answers of the programs' own web servers, by libmicrohttpd: never cached, and their bodies owned by it.
 *
 * Where memory is short they are MHD_NO, which ends the connection. On the server's thread.
 */
#ifndef LM_NET_ANSWER_H
#define LM_NET_ANSWER_H

#include "base/buf.h"

#include <microhttpd.h>

struct lm_answer_header {
	const char *name, *value; /* name NULL: none */
};

/* Takes the body's memory. */
enum MHD_Result lm_answer(struct MHD_Connection *connection, unsigned code, const char *type, struct lm_buf *body,
	struct lm_answer_header header);
/* The code and its name, as text. */
enum MHD_Result lm_answer_plain(struct MHD_Connection *connection, unsigned code, struct lm_answer_header header);

#endif
