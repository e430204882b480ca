/*
 * Which layer does a client want, and can the fetcher serve it?
 *
 * The fetcher is asked over its control socket, for all layers of an image with the first one, because containerd
 * prepares them one after another. Its answers are kept for seconds, so that the other layers cost no round trip, and a
 * fetcher that is away costs its time-out once per image. Several threads that want one layer share one question.
 * No lock is held while the fetcher thinks. All functions may be called from any thread.
 */
#ifndef LM_SNAPSHOTTER_POLICY_H
#define LM_SNAPSHOTTER_POLICY_H

#include "snapshotter/labels.h"

/*
 * What names a layer: the digest of its blob, in order of preference; else the chain id, LM_LABEL_REF, which all
 * clients send, or the diff id: for these the fetcher has an index, and they are the same for all compressions of an
 * image. With the digest comes a list: of the layers from this one upwards, cut at a limit.
 */
#define LM_LABEL_CRI_LAYER "containerd.io/snapshot/cri.layer-digest"
#define LM_LABEL_CRI_LAYERS "containerd.io/snapshot/cri.image-layers"
#define LM_LABEL_STARGZ_LAYER "containerd.io/snapshot/remote/stargz.digest"
#define LM_LABEL_STARGZ_LAYERS "containerd.io/snapshot/remote/stargz.layers"
#define LM_LABEL_DIFF_ID "containerd.io/snapshot/diff-id"
#define LM_LABEL_CRI_IMAGE "containerd.io/snapshot/cri.image-ref" /* and the image that they are of */
#define LM_LABEL_CRI_MANIFEST "containerd.io/snapshot/cri.manifest-digest"

/* How old an answer may be. What is served stays served, as layers do not change; but a fetcher can stop. */
#define LM_POLICY_SERVED_MS 30000 /* while an image is pulled */
#define LM_POLICY_ABSENT_MS 10000
#define LM_POLICY_UNAVAILABLE_MS 5000
#define LM_POLICY_CHECK_MS 3000 /* before a container is started on it */
#define LM_POLICY_CHECK_FAILED_MS 1000

#define LM_POLICY_CACHE_MAX 4096 /* answers kept */
#define LM_POLICY_ASK_MAX 512	 /* layers asked for at once */

enum lm_on_miss { LM_ON_MISS_PULL, LM_ON_MISS_WARN, LM_ON_MISS_FAIL };
bool lm_on_miss_parse(const char *text, enum lm_on_miss *ret); /* "pull", "warn", "fail" */
const char *lm_on_miss_name(enum lm_on_miss on_miss);

struct lm_policy;

/* who: what listens at the socket, as messages call it; must outlive the policy. */
int lm_policy_new(const char *socket, const char *who, unsigned timeout_ms, struct lm_policy **ret,
	struct lm_err *err) MUST_CHECK;
void lm_policy_free(struct lm_policy *policy);
LM_DEFINE_CLEANUP(struct lm_policy, lm_policy_free, lm_policy_freep)

/* By what the labels name the layer: the first of digest, chain id and diff id. NULL: the client says nothing, or not
 * in the form sha256:<64 digits>. */
const char *lm_policy_wanted(const struct lm_labels *labels);
/* Of these, the digest of the blob only. */
const char *lm_policy_digest(const struct lm_labels *labels);

struct lm_layer {
	char digest[72]; /* which one it is: of the same content as the one that was asked for */
	char *path;	 /* of the directory to use */
	char *lean;   /* the same by a mount on which nobody asks for attributes, for overlays all of whose layers have
			 one; or NULL */
	char *opaque; /* what belongs right below `lean`, where opaque directories have no attributes; or NULL */
	char *note;   /* what the publisher lost; NULL for a faithful layer */
	char *source; /* the repository that it is of, or the directory of a mount of others */
};
void lm_layer_done(struct lm_layer *layer);

/*
 * Finds the layer that the labels name, by all that they say of it. err says why not: -ENOENT absent, and of which
 * revisions that is said; can't be said or served now: -EAGAIN by the fetcher's word, -ECONNREFUSED since nobody
 * listens at its socket, -ETIMEDOUT since it did not answer in time. timeout_ms: of the caller, who waits no longer
 * for what others have asked; what it asks itself is everybody's question, and has the policy's time.
 */
int lm_policy_find(struct lm_policy *policy, const struct lm_labels *labels, unsigned timeout_ms, struct lm_layer *ret,
	struct lm_err *err) MUST_CHECK;

/*
 * Are these layers (all different, at most LM_POLICY_ASK_MAX) being served, and where? ret gets count layers (all or,
 * on failure, none). -EAGAIN, with the first one that is not.
 */
int lm_policy_check(struct lm_policy *policy, const char *const *digests, size_t count, unsigned timeout_ms,
	struct lm_layer *ret, struct lm_err *err) MUST_CHECK;

/* How the fetcher looked when it was last asked something. */
enum lm_fetcher_state {
	LM_FETCHER_UNASKED,
	LM_FETCHER_ANSWERS,
	LM_FETCHER_UNREACHABLE, /* nobody listens at its socket */
	LM_FETCHER_SILENT,	/* it did not answer in time */
	LM_FETCHER_FAILS,	/* it answered with an error, or not to the question, or of mounts that do not work */
};
struct lm_fetcher_seen {
	enum lm_fetcher_state state;
	int64_t since_ms;      /* this state; by lm_now_ms() */
	int64_t answered_ms;   /* a question last; 0: never */
	struct lm_err failure; /* of the last question that failed; code 0: none did */
	int64_t failed_ms;
	uint64_t questions, failures;
	unsigned waiting; /* questions that are not answered yet */
};
struct lm_fetcher_seen lm_policy_seen(struct lm_policy *policy);
/* Does anybody listen at its socket now? 0, or -ECONNREFUSED; -ETIMEDOUT: connections are not taken. Never waits. */
int lm_policy_listens(struct lm_policy *policy, struct lm_err *err) MUST_CHECK;

struct lm_chain_tree {
	char *image; /* to be mounted: trees.h */
	char *data;  /* the directory that is its data-only layer */
};
void lm_chain_tree_done(struct lm_chain_tree *tree);

/* The merged tree of a whole chain of layers, the lowest first (at most LM_POLICY_ASK_MAX). Asks each time. -ENOENT:
 * there is none; -EAGAIN: can't be said. */
int lm_policy_tree(struct lm_policy *policy, const char *const *digests, size_t count, struct lm_chain_tree *ret,
	struct lm_err *err) MUST_CHECK;

#endif
