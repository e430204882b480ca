/* One layer: from its blob to a nested catalog in a transaction. */
#ifndef LM_TOOLS_LAYER_H
#define LM_TOOLS_LAYER_H

#include "convert/image.h"
#include "convert/ledger.h"
#include "convert/packing.h"
#include "convert/progress.h"

/* In a layer's directory, beside LM_IMAGES_LAYER_ROOT. */
#define LM_LAYER_METADATA ".metadata"
#define LM_LAYER_JSON LM_LAYER_METADATA "/layers.json"
#define LM_LAYER_ORIGIN LM_LAYER_METADATA "/origin.json"

enum { LM_LAYER_PATH_TEXT_MAX = 96 };

/* "/.layers/xx/HEX" of a digest "sha256:HEX". */
struct lm_layer_path {
	char s[LM_LAYER_PATH_TEXT_MAX];
};
struct lm_layer_path lm_layer_path(const char *digest);

/* 1: the path is in the repository; 0: it is not. */
int lm_txn_has(struct lm_txn *txn, const char *path, struct lm_err *err) MUST_CHECK;

struct lm_layer_job {
	struct lm_txn *txn;
	struct lm_storage *storage;
	struct lm_packing *packing;
	struct lm_ledger *ledger; /* NULL: none */
	struct lm_source *source;
	const struct lm_image *image;
	size_t index; /* the layer; those below it are in the transaction already */
	struct lm_progress *progress;
	struct lm_layer_meter *meter;
};

/* The ledger (NULL: false) knows the layer from a run that has not published it, and its root catalog is stored. What
 * else it is made of may be gone nevertheless. */
bool lm_layer_kept(struct lm_ledger *ledger, const struct lm_image *image, size_t index);

/* Fetches, verifies (blob digest and diff id), converts and grafts it. One that an earlier run has kept is only
 * grafted, once more with this image's metadata, if all of it is still stored. Nothing is grafted on failure. */
int lm_layer_convert(const struct lm_layer_job *job, struct lm_layer_report *ret, struct lm_err *err) MUST_CHECK;

#endif
