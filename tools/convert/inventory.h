/*
 * What images a repository has, by the files beside them.
 *
 * The images are the directories below /.metadata with a manifest.json, whoever wrote it: each is one name, and several
 * names may be one image (the same config). An image's flat tree is /.flat/xx/CONFIGDIGEST, and /NAME, or /NAME:DIGEST
 * where the name has no tag, is the public link to it.
 */
#ifndef LM_TOOLS_INVENTORY_H
#define LM_TOOLS_INVENTORY_H

#include "convert/image_json.h"
#include "convert/published.h"
#include "repo/publish.h"

#include <jansson.h>

/* A revision to look at. All paths are absolute; errors are those of the functions they stand for. */
struct lm_view {
	void *arg;
	int (*row)(void *arg, const char *path, struct lm_row *ret, struct lm_err *err);
	int (*list)(void *arg, const char *dir, lm_catalog_row_fn *fn, void *fn_arg, struct lm_err *err);
	int (*read)(void *arg, const char *path, struct lm_buf *ret, struct lm_err *err);
};
/* As the transaction has it now. */
struct lm_view lm_txn_view(struct lm_txn *txn);
/* A published revision. */
struct lm_published_root {
	struct lm_published *published;
	struct lm_published_top top;
};
struct lm_view lm_published_view(struct lm_published_root *root);
/* 1: the path is there; 0: it is not. *ret (may be NULL) is its row. */
int lm_view_has(const struct lm_view *view, const char *path, struct lm_row *ret, struct lm_err *err) MUST_CHECK;

struct lm_inventory_image {
	char *name;
	int64_t when_s; /* of its manifest.json */
	struct lm_image_parts parts;
	struct lm_buf text; /* of its manifest.json */
	struct lm_err why;  /* code not 0: that makes no sense, and parts is empty */
	char *link;	    /* path of its public link; NULL: none */
	char **platforms;   /* the names of an image for several platforms, see metadata.h */
	size_t platform_count;
};
struct lm_inventory {
	struct lm_inventory_image *images; /* sorted by name */
	size_t count, cap;
};

int lm_inventory_read(const struct lm_view *view, struct lm_inventory *ret, struct lm_err *err) MUST_CHECK;
void lm_inventory_done(struct lm_inventory *inventory); /* for CLEANUP */
/* NULL: no image has that name. */
struct lm_inventory_image *lm_inventory_find(const struct lm_inventory *inventory, const char *name);

/*
 * /.metadata/remove-schedule.json: a list of manifests, as in manifest.json, of images that have no name any more,
 * whose layers and flat trees are still there. Ours have two members more, which DUCC passes over:
 *
 *   RemoveAfter   "2026-01-31T23:59:59Z"; whoever changes the repository after that takes the image's remains away
 *   Name          what it was called
 */
struct lm_schedule {
	json_t *list; /* NULL: empty */
	bool changed; /* since it was read */
};
void lm_schedule_done(struct lm_schedule *schedule); /* for CLEANUP */

struct lm_schedule_item {
	struct lm_image_parts parts;
	const char *name; /* NULL: not said; in the schedule's memory */
	int64_t after_s;  /* INT64_MAX: not said */
};
void lm_schedule_item_done(struct lm_schedule_item *item); /* for CLEANUP */

int lm_schedule_read(const struct lm_view *view, struct lm_schedule *ret, struct lm_err *err) MUST_CHECK;
size_t lm_schedule_count(const struct lm_schedule *schedule);
int lm_schedule_item(
	const struct lm_schedule *schedule, size_t i, struct lm_schedule_item *ret, struct lm_err *err) MUST_CHECK;
/* The image of that manifest.json, instead of one with the same config. */
int lm_schedule_add(struct lm_schedule *schedule, const struct lm_buf *manifest, const char *name, int64_t after_s,
	struct lm_err *err) MUST_CHECK;
/* The image with that config is not to be removed. */
void lm_schedule_drop(struct lm_schedule *schedule, const char *config);
/* Says of those of DUCC's, which have no time, when. */
int lm_schedule_date(struct lm_schedule *schedule, int64_t after_s, struct lm_err *err) MUST_CHECK;
/* Where it has changed. */
int lm_schedule_write(struct lm_schedule *schedule, struct lm_txn *txn, struct lm_err *err) MUST_CHECK;

#endif
