/*
 * Places: directories where others have mounted repositories with images, and what is there of a layer.
 *
 * Which mount that is does not matter: of the stock client, of a fetcher that is not ours, of autofs that mounts it
 * when it is looked at. Layers are where repo/images.h says, and found by digest, chain id and diff id, in this order.
 * What is looked at are directories and links, one after the other, and no link is followed but an entry of the index.
 *
 * Functions that look wait as long as the file system does, for ever if need be: looker.h is for those who can't.
 */
#ifndef LM_SNAPSHOTTER_PLACES_H
#define LM_SNAPSHOTTER_PLACES_H

#include "repo/images.h"

#define LM_PLACES_MAX 16

struct lm_places {
	char *directories[LM_PLACES_MAX]; /* absolute, all different, without a slash at the end */
	size_t count;
};

/*
 * LAMELLA_SOURCE:
 *
 *   fetcher                      count is 0
 *   path:DIR[,path:DIR]...       the order in which they are looked through; a DIR has no comma
 *
 * -EINVAL: something else; ret is untouched.
 */
int lm_places_parse(const char *text, struct lm_places *ret, struct lm_err *err) MUST_CHECK;
void lm_places_done(struct lm_places *places);

enum lm_place_way { LM_PLACE_BY_DIGEST, LM_PLACE_BY_CHAIN_ID, LM_PLACE_BY_DIFF_ID, LM_PLACE_WAYS };

struct lm_place_names {
	struct lm_images_digest by[LM_PLACE_WAYS]; /* "": not said */
};

struct lm_place_layer {
	struct lm_images_digest digest; /* of the one that is there */
	char *path;			/* the directory to use */
	char *note;			/* what is lost; NULL: nothing */
	bool marks;			/* deletions may be marked by names: lm_place_marks() tells */
};
void lm_place_layer_done(struct lm_place_layer *layer);

/*
 * Finds a layer. -ENOENT: it is not there, and the message is what was looked at, "DIR" or "DIR revision N". -EAGAIN:
 * of this layer it can't be said now. Other errors are the place's: nothing is mounted there, it does not work.
 *
 * Whatever is cached, the file system's process is asked something that only it can answer: one that hangs hangs here,
 * and not in a container.
 */
int lm_place_find(const char *directory, const struct lm_place_names *names, struct lm_place_layer *ret,
	struct lm_err *err) MUST_CHECK;

/*
 * Does the layer hold files whose names mark deletions (.wh.NAME), as stock tools store them? overlayfs would show them
 * as files, and what they delete. There is no way to know but to list all directories. 1: yes, *ret the first one's
 * path in the layer; 0: no. alive is called after each directory; false ends the search: -ECANCELED.
 */
typedef bool lm_place_alive_fn(void *arg);
int lm_place_marks(const char *path, lm_place_alive_fn *alive, void *arg, char **ret, struct lm_err *err) MUST_CHECK;

#endif
