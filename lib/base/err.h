/*
 * Errors: a function returns 0 (or a count) or a negative errno; the sentence for people goes into a
 * struct lm_err on the caller's stack.
 *
 * Every function here accepts a NULL err, for callers to whom only the number matters.  On success an err
 * is never touched.  The meaning of the numbers across Lamella:
 *
 *   -ENOENT     absent: the thing asked for is not there, said by someone entitled to say so
 *   -EBADMSG    a hash or signature does not fit
 *   -EPROTO     malformed: bytes that do not follow their format
 *   -EIO, -ETIMEDOUT   transport: could not be had now, may work later
 *   -ENOSPC     no room
 *   -ENOMEM     out of memory
 *   -EINVAL     the caller's (usually the user's) words are wrong
 *   -EEXIST, -EBUSY    in the way: there already; held by someone else
 */
#ifndef LM_BASE_ERR_H
#define LM_BASE_ERR_H

#include "base/macros.h"

#include <errno.h>
#include <stdarg.h>

#define LM_ERR_MAX 768 /* bytes of a message with its NUL; longer ones are cut */

struct lm_err {
	int code; /* the negative errno of the last lm_err_set() */
	char msg[LM_ERR_MAX];
};

#define LM_ERR_INIT \
	{           \
		0   \
	}

/* Sets the message, cutting it to fit; returns code (which must be negative). */
int lm_err_set(struct lm_err *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
int lm_err_vset(struct lm_err *err, int code, const char *fmt, va_list args) PRINTF_LIKE(3, 0);

/* Like lm_err_set() with ": " and the text of errno number -code added. */
int lm_err_sys(struct lm_err *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts "PREFIX: " before the message that is there; returns code. */
int lm_err_prefix(struct lm_err *err, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* -ENOMEM with a plain message. */
int lm_err_oom(struct lm_err *err);

/* The message, or the errno text where none was set. */
const char *lm_err_text(const struct lm_err *err);

#endif
