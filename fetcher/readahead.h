/*
 * Reading ahead: when, and how far.
 *
 * A stream is a run of reads of one file, each beginning about where the one before ended. Once it has read
 * LM_AHEAD_MIN bytes in a row, what follows is wanted, up to as many bytes as have been read so far and at most
 * LM_AHEAD_MAX: so it doubles, 2, 4, 8 … chunks, and what it fetches in vain is never more than what was read. Reads
 * elsewhere, as page faults of a mapped library are, begin a stream of their own and cause nothing; two readers of one
 * file are two streams. Where the file is many (tree.h), none reaches from one into the next: who reads on there has
 * crossed the border before anything behind it is ordered.
 *
 * Nothing here does I/O or waits. Any thread may call lm_streams_read(); the streams of a file share one of many locks.
 */
#ifndef LM_FETCHER_READAHEAD_H
#define LM_FETCHER_READAHEAD_H

#include "base/err.h"

#include <stdbool.h>

enum {
	LM_AHEAD_MIN = 512 << 10,   /* four times what the kernel reads around a page fault */
	LM_AHEAD_MAX = 32 << 20,    /* how far */
	LM_AHEAD_SLACK = 256 << 10, /* the kernel's requests of one stream overtake each other by that much */
};

struct lm_stream {
	uint64_t node;	 /* 0: none */
	uint64_t end;	 /* of the read that reached furthest */
	uint64_t length; /* how far it came */
	uint64_t ahead;	 /* what begins below was ordered */
	uint64_t stop;	 /* until a read ends behind it, nothing is; 0: nothing stops it */
	uint64_t used;	 /* when, to tell the oldest */
};

struct lm_span { /* of a file; empty: from >= to */
	uint64_t from, to;
};

/* Whether a read at offset goes on with the stream. */
bool lm_stream_follows(const struct lm_stream *stream, uint64_t node, uint64_t offset);

/* The stream has read [offset, offset + len): ret is where chunks may begin that are to be ordered now. */
void lm_stream_read(struct lm_stream *stream, uint64_t offset, uint64_t len, struct lm_span *ret);

struct lm_streams;
int lm_streams_new(struct lm_streams **ret, struct lm_err *err) MUST_CHECK;
void lm_streams_free(struct lm_streams *streams);
LM_DEFINE_CLEANUP(struct lm_streams, lm_streams_free, lm_streams_freep)

/* Finds the read's stream, or begins one in the place of the oldest, and answers as lm_stream_read(). */
void lm_streams_read(struct lm_streams *streams, uint64_t node, uint64_t offset, uint64_t len, struct lm_span *ret);

/* Of the span that a read at offset was answered with, only what is before stop was ordered: something else begins
 * there. */
void lm_streams_stop(struct lm_streams *streams, uint64_t node, uint64_t offset, uint64_t stop);

#endif
