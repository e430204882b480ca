/*
 * Who holds the lock of publishers, as text that stands in the lock, for whoever finds it taken:
 *
 *   pid=1234
 *   command=lamella convert
 *   host=builder.example.org
 *   since=1763791200
 *
 * It says nothing that a web server must not show, since the lock lies beside what one serves: no arguments.
 */
#ifndef LM_REPO_HOLDER_H
#define LM_REPO_HOLDER_H

#include <stdint.h>

enum { LM_HOLDER_TEXT_MAX = 512 };

struct lm_holder {
	int64_t pid;	  /* 0: not known */
	char command[64]; /* "" not known */
	char host[72];
	int64_t since_s; /* 0: not known */
};

/* This process, from now on. */
struct lm_holder lm_holder_self(void);

struct lm_holder_text {
	char s[LM_HOLDER_TEXT_MAX];
};
struct lm_holder_text lm_holder_format(const struct lm_holder *holder);
/* Any text: lines that are missing or make no sense are not known, what is no printable ASCII becomes "?". */
struct lm_holder lm_holder_parse(const char *text);

/* "process 1234 on HOST is publishing to this repository (lamella convert, since 2026-11-22T06:00:00Z)"; without the
 * host where that is this machine. */
struct lm_holder_text lm_holder_describe(const struct lm_holder *holder);

#endif
