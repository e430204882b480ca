/* What a terminal shows of a conversion under way: a line for each layer being worked on, and one for all of it. */
#ifndef LM_TOOLS_DISPLAY_H
#define LM_TOOLS_DISPLAY_H

#include "base/buf.h"

#include <stdbool.h>

struct lm_display_layer {
	const char *image, *digest;
	size_t number, count;
	uint64_t fetched_bytes, size_bytes, files;
	double rate;	   /* bytes a second */
	const char *stage; /* a word: what is being done with it */
};

struct lm_display {
	const struct lm_display_layer *layers;
	size_t layer_count;
	uint64_t fetched_bytes, total_bytes; /* of all layers that are to be fetched, as far as images are known */
	uint64_t stored_bytes;		     /* new in the storage */
	size_t layers_done, layers_total;
	double rate;
};

/*
 * Appends lines of at most columns characters and at most rows of them, separated by newlines; the last one is the
 * total. Where there is little room, what matters less is left out. Foreign text is printable ASCII then, all else in
 * it
 * "?". color: with the sequences for it, which don't count.
 */
int lm_display_format(
	const struct lm_display *display, unsigned columns, unsigned rows, bool color, struct lm_buf *ret) MUST_CHECK;

#endif
