/*
 * What happens in a conversion, told to whoever shows it: tools/convert/reporter.h shows it to people and programs.
 *
 * All calls come from the converter's thread, in this order:
 *
 *   waiting                          while another publisher is at work; once
 *   image                            once for each image, when its manifest is there
 *     layer_begin … loss* … layer_end    for each layer that the repository has not; the end comes on failure, too
 *     layer_done                         for each layer that the repository has now
 *   publishing
 *
 * Between layer_begin and layer_end the layer's meter may be looked at by any thread.
 */
#ifndef LM_TOOLS_PROGRESS_H
#define LM_TOOLS_PROGRESS_H

#include "convert/stages.h"
#include "oci/image.h"

#include <stdatomic.h>

struct lm_image_report; /* image.h */

/* What a layer's own thread is at. */
enum lm_layer_phase {
	LM_LAYER_READING,   /* fetched, unpacked, its files handed on to be stored */
	LM_LAYER_STORING,   /* all read; its last files are being stored */
	LM_LAYER_CATALOGED, /* its catalogs are written */
};

struct lm_layer_meter {
	/* constant */
	const char *image; /* its name */
	const char *digest;
	size_t number, count; /* the number-th of count in the image, from 1 on */
	uint64_t size_bytes;  /* of the blob */

	/* counted by the layer's threads */
	_Atomic(uint64_t) fetched_bytes, tar_bytes, files;
	_Atomic(enum lm_layer_phase) phase;

	/* the layer's own thread */
	struct lm_stage_clock clock;
	struct lm_stage_times times; /* of other threads, when they are over */
};

struct lm_progress {
	const struct lm_progress_ops *ops;
};

struct lm_progress_ops {
	void (*waiting)(struct lm_progress *progress, const char *holder);
	/* image has source, name, digests, platform, and its layers' digests and sizes; bytes: to be fetched. */
	void (*image)(struct lm_progress *progress, const struct lm_image_report *image, uint64_t bytes);
	void (*layer_begin)(struct lm_progress *progress, struct lm_layer_meter *meter);
	void (*loss)(struct lm_progress *progress, const char *digest, const char *path, const char *what);
	void (*layer_end)(struct lm_progress *progress, struct lm_layer_meter *meter);
	void (*layer_done)(struct lm_progress *progress, const struct lm_image_report *image, size_t index);
	void (*publishing)(struct lm_progress *progress);
};

/* For whom nobody looks at. */
extern struct lm_progress lm_no_progress;

#endif
