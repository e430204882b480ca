/*
 * Tags that registries say were pushed, from the web server's thread to the one that converts.
 *
 * Only what the wish list in force may mean is taken; many pushes of one tag are one. Any thread.
 */
#ifndef LM_TOOLS_INBOX_H
#define LM_TOOLS_INBOX_H

#include "sync/wishlist.h"

enum { LM_INBOX_MAX = 4096, LM_INBOX_LOOKS_MAX = 6 };

struct lm_pushed_tag {
	char *repository, *tag;	    /* owned */
	char digest[LM_DIGEST_MAX]; /* that the tag is to stand for; "": not said */
	unsigned looks;		    /* that found something else */
	bool early;		    /* the last one did */
};
struct lm_pushed { /* owned */
	struct lm_pushed_tag *items;
	size_t count;
};
void lm_pushed_done(struct lm_pushed *pushed);

struct lm_inbox;
int lm_inbox_new(struct lm_inbox **ret, struct lm_err *err) MUST_CHECK;
void lm_inbox_free(struct lm_inbox *inbox);
LM_DEFINE_CLEANUP(struct lm_inbox, lm_inbox_free, lm_inbox_freep)

/* From now on this list counts; copies what it needs. */
int lm_inbox_watch(struct lm_inbox *inbox, const struct lm_wishlist *list, struct lm_err *err) MUST_CHECK;

/* 1: noted (or it was already); 0: nobody wishes for it; -EAGAIN: too many are waiting; -ENOMEM. */
int lm_inbox_put(struct lm_inbox *inbox, const char *repository, const char *tag, const char *digest) MUST_CHECK;
/* All that is there and due, in the order it came. */
void lm_inbox_take(struct lm_inbox *inbox, struct lm_pushed *ret);
/* Takes back, for later, those that are early: distribution (2.8) tells of a push before its tag can be seen. After a
 * quarter of a second, then a half, ...; LM_INBOX_LOOKS_MAX looks in all. */
void lm_inbox_later(struct lm_inbox *inbox, const struct lm_pushed *pushed);
/* Nothing is due. *ret_due_ms: when something is (lm_now_ms()); -1: never. May be NULL. */
bool lm_inbox_empty(struct lm_inbox *inbox, int64_t *ret_due_ms);
/* Readable while something is there or lm_inbox_wake() was called since the last take. */
int lm_inbox_fd(const struct lm_inbox *inbox);
void lm_inbox_wake(struct lm_inbox *inbox);

#endif
