/*
 * The requests of one mount that were taken from the kernel and not yet answered, in memory that outlives the process.
 *
 * The kernel hands a request over once; a process that dies with it leaves its caller waiting for ever. So requests are
 * read straight into a slot of memory (a memfd) that the keeper holds too, and the slot is free again when the answer
 * has been written: the next process finds there exactly what is left, and answers it. A request that was answered
 * just before the death is answered twice, which the kernel refuses without harm.
 *
 * A slot is in use as long as the length in its request's header is not 0; nothing else has to be kept in step. The
 * kernel writes a request whole before read(2) returns, so that no slot is ever half filled when its process is gone.
 *
 * The beginning of the memory (magic and INIT request) is the same in all versions, so that a process which does not
 * understand the slots of another version can still resume the session and let the kernel send the rest again.
 *
 *   lm_journal_take() - (read into the buffer) - lm_journal_taken() - ... lm_journal_answered() - lm_journal_next() ...
 *
 * One slot at a time belongs to each thread that reads. Whoever answers a request later, from another thread, must have
 * copied what it needs of it.
 */
#ifndef LM_FETCHER_JOURNAL_H
#define LM_FETCHER_JOURNAL_H

#include "base/err.h"

#include <stdbool.h>

enum {
	LM_JOURNAL_SLOTS = 4096, /* a mount's requests in flight; memory is used only for what was in use at one time */
	LM_JOURNAL_SLOT_BYTES = 8192, /* the kernel's least, enough where nothing is written */
	LM_JOURNAL_INIT_MAX = 512,
	LM_JOURNAL_DEATHS_MAX = 3, /* a request that so many crashes had in hand is not tried again */
};

struct lm_journal;

/* New memory: a descriptor. Its size can't change any more, so whoever maps it is safe from its other holders. */
int lm_journal_create(struct lm_err *err) MUST_CHECK;

/*
 * Maps it; fd stays the caller's. worker: the number of this process, which is written beside each request taken.
 * -EPROTO where the memory is no journal, -EOPNOTSUPP where it is one of another version (lm_journal_read_init works).
 */
int lm_journal_open(int fd, uint64_t worker, struct lm_journal **ret, struct lm_err *err) MUST_CHECK;
void lm_journal_free(struct lm_journal *journal);
LM_DEFINE_CLEANUP(struct lm_journal, lm_journal_free, lm_journal_freep)

/* The session's INIT request, as it came. */
void lm_journal_save_init(struct lm_journal *journal, const void *request, size_t len);
const void *lm_journal_init(const struct lm_journal *journal, size_t *ret_len); /* NULL: none yet */
/* The same from a journal of any version: its length, or an error. */
int lm_journal_read_init(int fd, uint8_t ret[LM_JOURNAL_INIT_MAX], struct lm_err *err) MUST_CHECK;

/* A free slot for the caller, whose buffer is empty. Waits while there is none; -1 after lm_journal_stop(). */
int lm_journal_take(struct lm_journal *journal);
void *lm_journal_buffer(struct lm_journal *journal, int slot);

/* The buffer now holds a request that will be answered. */
void lm_journal_taken(struct lm_journal *journal, int slot);

/*
 * The request was answered, from any thread. hint: the caller's slot, -1 for none; when the request is in there, the
 * buffer stays the caller's until lm_journal_next(), else it may be overwritten at once. Requests unknown are fine.
 */
void lm_journal_answered(struct lm_journal *journal, uint64_t unique, int hint);

/* The slot to read the next request into, after the one in the caller's slot was worked on; as lm_journal_take(). */
int lm_journal_next(struct lm_journal *journal, int slot);
/* Gives the slot back, if it is the caller's and no unanswered request in it. */
void lm_journal_release(struct lm_journal *journal, int slot);
void lm_journal_stop(struct lm_journal *journal);

/* The caller of the request gives up; said again to who replays it. */
void lm_journal_interrupted(struct lm_journal *journal, uint64_t unique);

/*
 * Replaying, before any slot is taken. crashed: the number of the process that died of itself just now, 0 for none; the
 * deaths of the requests it had in hand are counted. Then each call hands out one request that is left, -1 at the end.
 */
void lm_journal_recover(struct lm_journal *journal, uint64_t crashed);
int lm_journal_left(struct lm_journal *journal);
unsigned lm_journal_deaths(const struct lm_journal *journal, int slot);
bool lm_journal_was_interrupted(const struct lm_journal *journal, int slot);
/* Instead of recover: forgets all requests, the kernel will send them again. */
void lm_journal_clear(struct lm_journal *journal);

struct lm_journal_stats {
	unsigned waiting, peak; /* requests now; slots ever in use */
};
void lm_journal_stats(struct lm_journal *journal, struct lm_journal_stats *ret);

#endif
