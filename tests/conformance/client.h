/*
 * The snapshots service as a client sees it: containerd's own API or a proxy plugin's socket, which speak the same
 * messages. Each function is one call and returns its status; what went wrong is in remote's err. A remote belongs to
 * one thread; several may share one connection.
 */
#ifndef LM_CONFORMANCE_CLIENT_H
#define LM_CONFORMANCE_CLIENT_H

#include "base/err.h"
#include "rpc/rpc.h"

#include "containerd/snapshots.pb-c.h"

#define V1(name) Containerd__Services__Snapshots__V1__##name

struct remote {
	struct lm_rpc_client *client;
	const char *snapshotter;
	unsigned timeout_ms;
	struct lm_err err; /* of the last call */
};

/* namespace: NULL for a proxy plugin's socket, which needs none. */
int remote_connect(
	const char *socket, const char *namespace, struct lm_rpc_client **ret, struct lm_err *err) MUST_CHECK;

/* Labels are lists of texts, key, value, key, value..., with NULL at the end; NULL is none, too. */
typedef const char *const *label_list;

struct mounts {
	V1(MountsResponse) * answer;
};
void mounts_done(struct mounts *mounts);

enum make { PREPARE, VIEW };
/* ret may be NULL, here and below. */
enum lm_rpc_code remote_make(struct remote *remote, enum make how, const char *key, const char *parent,
	label_list labels, struct mounts *ret);
enum lm_rpc_code remote_mounts(struct remote *remote, const char *key, struct mounts *ret);
enum lm_rpc_code remote_commit(struct remote *remote, const char *name, const char *key, label_list labels);
enum lm_rpc_code remote_remove(struct remote *remote, const char *key);
enum lm_rpc_code remote_cleanup(struct remote *remote);
enum lm_rpc_code remote_usage(struct remote *remote, const char *key, int64_t *ret_bytes, int64_t *ret_inodes);

struct info {
	V1(StatSnapshotResponse) * answer;
	const V1(Info) * info; /* of the answer; never NULL after success */
};
void info_done(struct info *info);
const char *info_label(const V1(Info) * info, const char *key); /* NULL: not there */
int64_t time_ns(const V1(Timestamp) * time);

enum lm_rpc_code remote_stat(struct remote *remote, const char *key, struct info *ret);
/* paths: of the mask, NULL at the end; NULL: no mask. parent is sent as well: it must not matter. */
enum lm_rpc_code remote_update(struct remote *remote, const char *key, const char *parent, label_list labels,
	const char *const *paths, struct info *ret);

struct listing {
	V1(ListSnapshotsResponse) * *answers;
	size_t n_answers;
	const V1(Info) * *infos;
	size_t count;
};
void listing_done(struct listing *listing);
const V1(Info) * listing_find(const struct listing *listing, const char *name);
/* filters: NULL at the end; NULL: none. */
enum lm_rpc_code remote_list(struct remote *remote, const char *const *filters, struct listing *ret);

/* A method with one more field, whose bytes are sent as they are, and no other but snapshotter. */
enum lm_rpc_code remote_raw(struct remote *remote, const char *method, unsigned field, const void *bytes, size_t len);

#endif
