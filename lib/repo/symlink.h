/*
 * Targets of symbolic links as readers see them: $(NAME) is the environment's NAME or nothing, $(NAME:-text) its NAME
 * or text. Nothing is nested or escaped; what has no ")" stays as it is.
 */
#ifndef LM_REPO_SYMLINK_H
#define LM_REPO_SYMLINK_H

#include "base/buf.h"

/* Appends the target; -EMSGSIZE: more than ret->max. */
int lm_symlink_expand(const char *raw, struct lm_buf *ret) MUST_CHECK;

#endif
