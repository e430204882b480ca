/*
 * containerd, as far as a client has to speak with it to give a node an image: leases, content, snapshots, unpacking,
 * names.
 *
 *   lm_containerd_lease()     before all else: what is made from then on stays until the lease ends
 *   lm_containerd_put...()    manifest, config and blobs, by digest
 *   lm_containerd_prepare()   a layer, which the snapshotter has (1), or which is to be unpacked: lm_containerd_apply()
 *                             and lm_containerd_commit(), or lm_containerd_remove()
 *   lm_containerd_name()      the image's name, which keeps what it refers to
 *   lm_containerd_release()   what has no name by then goes
 *
 * One thread. -EAGAIN: nobody answers at the socket.
 */
#ifndef LM_TOOLS_CONTAINERD_H
#define LM_TOOLS_CONTAINERD_H

#include "oci/source.h"

#define LM_CONTAINERD_SOCKET "/run/containerd/containerd.sock"

struct lm_containerd;
struct lm_containerd_mounts;

struct lm_containerd_options { /* borrowed */
	const char *socket, *namespace, *snapshotter;
};
int lm_containerd_new(
	const struct lm_containerd_options *options, struct lm_containerd **ret, struct lm_err *err) MUST_CHECK;
void lm_containerd_free(struct lm_containerd *containerd);
LM_DEFINE_CLEANUP(struct lm_containerd, lm_containerd_free, lm_containerd_freep)

struct lm_containerd_label { /* borrowed */
	const char *key, *value;
};
struct lm_containerd_labels {
	const struct lm_containerd_label *items;
	size_t count;
};
struct lm_containerd_content { /* borrowed */
	const char *media_type, *digest;
	uint64_t size;
};

/* --- leases --- */

/* Ends by itself after seconds, whatever becomes of this program. */
int lm_containerd_lease(
	struct lm_containerd *containerd, const char *id, uint64_t seconds, struct lm_err *err) MUST_CHECK;
/* wait: until what only the lease held is gone. No lease: nothing is done. */
int lm_containerd_release(struct lm_containerd *containerd, bool wait, struct lm_err *err) MUST_CHECK;
/* The lease holds that snapshot, too, if it is there. */
int lm_containerd_hold(struct lm_containerd *containerd, const char *snapshot, struct lm_err *err) MUST_CHECK;

/* --- content --- */

/* Of at most 8 MiB. There already: it gets the labels. Both wait while another pull writes the same. */
int lm_containerd_put(struct lm_containerd *containerd, const struct lm_containerd_content *content, const void *data,
	const struct lm_containerd_labels *labels, struct lm_err *err) MUST_CHECK;
/* A blob that is read to its end; there already: nothing is read. wanted (may be NULL) is asked now and then: what it
 * returns other than 0 ends that. */
int lm_containerd_put_blob(struct lm_containerd *containerd, const struct lm_containerd_content *content,
	struct lm_blob *blob, const struct lm_containerd_labels *labels, int (*wanted)(void *arg, struct lm_err *err),
	void *arg, struct lm_err *err) MUST_CHECK;
/* Of content that is there. */
int lm_containerd_label(struct lm_containerd *containerd, const char *digest, const struct lm_containerd_labels *labels,
	struct lm_err *err) MUST_CHECK;

/* --- snapshots --- */

struct lm_containerd_snapshot {
	char layer[16];	  /* the label lamella.layer: "lazy", "ordinary"; "" where there is none */
	char reason[512]; /* and lamella.reason */
};
/* -ENOENT. */
int lm_containerd_stat(struct lm_containerd *containerd, const char *snapshot, struct lm_containerd_snapshot *ret,
	struct lm_err *err) MUST_CHECK;
/* 1: the snapshotter has it, by the name in the label containerd.io/snapshot.ref. 0: *ret_mounts is where it is to be
 * unpacked; lm_containerd_mounts_free(). */
int lm_containerd_prepare(struct lm_containerd *containerd, const char *key, const char *parent,
	const struct lm_containerd_labels *labels, struct lm_containerd_mounts **ret_mounts,
	struct lm_err *err) MUST_CHECK;
void lm_containerd_mounts_free(struct lm_containerd_mounts *mounts);
LM_DEFINE_CLEANUP(struct lm_containerd_mounts, lm_containerd_mounts_free, lm_containerd_mounts_freep)
/* Unpacks content that is there; -EBADMSG: not diff_id came out. */
int lm_containerd_apply(struct lm_containerd *containerd, const struct lm_containerd_content *content,
	const struct lm_containerd_mounts *mounts, const char *diff_id, struct lm_err *err) MUST_CHECK;
/* -EEXIST: there is one of that name. */
int lm_containerd_commit(struct lm_containerd *containerd, const char *key, const char *name,
	const struct lm_containerd_labels *labels, struct lm_err *err) MUST_CHECK;
int lm_containerd_remove(struct lm_containerd *containerd, const char *key, struct lm_err *err) MUST_CHECK;

/* --- names --- */

/* The name means that content from now on; a name that is there keeps its other labels. */
int lm_containerd_name(struct lm_containerd *containerd, const char *name, const struct lm_containerd_content *target,
	const struct lm_containerd_labels *labels, struct lm_err *err) MUST_CHECK;

#endif
