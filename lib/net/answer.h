/*
 * Answers of the programs' own web servers, by libmicrohttpd, which owns their bodies then.
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

/* Takes the body's memory; an empty one will do. */
enum MHD_Result lm_answer_with(struct MHD_Connection *connection, unsigned code, const char *type, struct lm_buf *body,
	const struct lm_answer_header *headers, size_t count);
/* The same with at most one header of its own; never cached. */
enum MHD_Result lm_answer(struct MHD_Connection *connection, unsigned code, const char *type, struct lm_buf *body,
	struct lm_answer_header header);
/* The code and its name, as text. */
enum MHD_Result lm_answer_plain(struct MHD_Connection *connection, unsigned code, struct lm_answer_header header);

#endif
