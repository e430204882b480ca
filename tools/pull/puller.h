/*
 * Gives a containerd an image whose layers its snapshotter provides.
 *
 * Under a lease, as containerd's own client goes about it: index, manifest and config into the content store with the
 * labels that keep what they refer to; each layer offered to the snapshotter by its chain id, which answers that it has
 * it; the image's name at the end. Nothing is fetched of such layers. One that the snapshotter does not have is fetched
 * from the registry and unpacked by containerd; without a registry, or with only_lazy, that is -ENOENT. One that was
 * unpacked before will do, but with only_lazy it is -EEXIST.
 *
 * After a failure the lease is ended, and what was made goes with containerd's next collection of garbage; after a kill
 * it ends by itself (lease_s).
 */
#ifndef LM_TOOLS_PULLER_H
#define LM_TOOLS_PULLER_H

#include "pull/containerd.h"

enum lm_pull_state {
	LM_PULL_LAZY,	 /* the snapshotter provides it */
	LM_PULL_PRESENT, /* it was there, not lazily or nobody knows */
	LM_PULL_FETCHED, /* fetched and unpacked now */
};
const char *lm_pull_state_name(enum lm_pull_state state);

struct lm_pull_layer {
	const struct lm_layer *layer; /* the image's */
	enum lm_pull_state state;
	char reason[512]; /* why it is not lazy; "" */
};

struct lm_puller {
	struct lm_containerd *containerd;
	const struct lm_image *image;
	const struct lm_reference *reference; /* what the image is called: docker */
	struct lm_source *source;	      /* of layers; NULL: there is none, and why */
	const char *no_source;
	const char *snapshotter;
	uint64_t lease_s;
	bool kubernetes; /* the names and labels that CRI gives an image */
	bool only_lazy;
	/* After each layer; other than 0 ends the pull, as does wanted() in the middle of one. May be NULL. */
	int (*on_layer)(void *arg, const struct lm_pull_layer *layer, size_t number, struct lm_err *err);
	int (*wanted)(void *arg, struct lm_err *err);
	void *arg;
};

/* layers: room for as many as the image has. The image's name is *ret_name, which the caller frees. */
int lm_pull(
	const struct lm_puller *puller, struct lm_pull_layer *layers, char **ret_name, struct lm_err *err) MUST_CHECK;

#endif
