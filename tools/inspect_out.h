/*
 * What `lamella inspect` prints, as stable text or as JSON, from one series of calls.
 *
 *   lm_out_begin()                        text:  revision           3
 *   lm_out_number(out, "revision", 3)            self.dir           12
 *   lm_out_object(out, "self")                   tag name=trunk revision=3
 *   lm_out_number(out, "dir", 12)                tag name=old revision=1
 *   lm_out_close(out)                       note by=me
 *   lm_out_list(out, "tags", "tag")       JSON:  {"revision": 3, "self": {"dir": 12},
 *   lm_out_item(out)                              "tags": [{"name": "trunk", "revision": 3}, ...]}
 *   ...
 *
 * Text has one line per field ("KEY VALUE", objects as KEY.KEY), and one per item of a list ("ITEM KEY=VALUE ...",
 * lists inside items indented below it). JSON is one object. Nothing is held back in memory.
 *
 * FOREIGN TEXT (lm_out_text) never holds blanks or control bytes in text form: it is written as listings do
 * (repo/listing.h). In JSON, which must be UTF-8, every byte that is part of no valid UTF-8 sequence, and "%" itself,
 * is written %xx; and the document is pure ASCII.
 *
 * Not thread safe. Failures of writing are standard output's to keep.
 */
#ifndef LM_TOOLS_INSPECT_OUT_H
#define LM_TOOLS_INSPECT_OUT_H

#include "base/buf.h"
#include "repo/hash.h"

enum { LM_OUT_DEPTH_MAX = 8 };
enum lm_out_kind { LM_OUT_OBJECT, LM_OUT_LIST, LM_OUT_ITEM };

struct lm_out { /* private */
	bool json;
	unsigned depth, items; /* open ones; those of them that are items */
	bool in_line;	       /* text: an item's line is not ended yet */
	struct lm_out_level {
		enum lm_out_kind kind;
		bool any;	  /* something was printed in it */
		const char *name; /* of an object, or of a list's items; must stay valid */
	} levels[LM_OUT_DEPTH_MAX];
	struct lm_buf escaped;
};

void lm_out_begin(struct lm_out *out, bool json);
/* Closes what is open; with an error JSON gets a field "error" last. Frees what out holds. */
void lm_out_end(struct lm_out *out, const struct lm_err *error);

void lm_out_object(struct lm_out *out, const char *key);
void lm_out_list(struct lm_out *out, const char *key, const char *item);
void lm_out_item(struct lm_out *out); /* in a list */
void lm_out_close(struct lm_out *out);

void lm_out_number(struct lm_out *out, const char *key, uint64_t number);
void lm_out_flag(struct lm_out *out, const char *key, bool value); /* text: yes, no */
/* A word without blanks, quotes and backslashes, in ASCII. */
void lm_out_word(struct lm_out *out, const char *key, const char *fmt, ...) PRINTF_LIKE(3, 4);
void lm_out_hash(struct lm_out *out, const char *key, const struct lm_hash *hash); /* nothing where unset */
void lm_out_time(struct lm_out *out, const char *key, int64_t seconds);		   /* nothing where 0 */
void lm_out_text(struct lm_out *out, const char *key, const char *text, size_t len);
/* A sentence of ours, for people. */
void lm_out_sentence(struct lm_out *out, const char *key, const char *text);
/* A JSON value, as it is: in text form the lines of it follow the key. */
void lm_out_raw(struct lm_out *out, const char *key, const char *json);

#endif
