/*
 * Tags of a repository: making and removing them, and going back to one. Each call is one change of the manifest, made
 * under the publisher's lock; when it fails the repository is as it was. Errors of lm_txn_begin() come up as they are.
 *
 * A tag names a root catalog, so that clients can mount the revision and garbage collection keeps it. Tagging makes no
 * new revision: only the history that the manifest names changes, and its time. Clients that have the revision learn of
 * its tags with the next one.
 *
 * GOING BACK makes a new revision with the content of an old one: clients never take a lower revision number. Its root
 * catalog is the tagged one with new revision, previous_revision and last_modified; trunk moves to it and
 * trunk-previous to the revision that was left, so that going back can be taken back. Nothing is lost: unlike with the
 * stock tools, the tags made since the tagged revision stay, and the tag itself goes on naming the revision it was made
 * for. (Stock tools remove the former and move the latter, since there the tags are the undo log. Here a tag never
 * changes its meaning below whoever mounts it, and what was tagged is not swept by the next garbage collection. Who
 * wants them gone removes them.)
 */
#ifndef LM_REPO_TAGS_H
#define LM_REPO_TAGS_H

#include "repo/history.h"
#include "repo/publish.h"

struct lm_tag_request {
	const char *name;
	const char *description; /* NULL: none; no control bytes, at most LM_TAG_DESCRIPTION_MAX */
	struct lm_hash root;	 /* of the revision to name; unset: see has_revision */
	bool has_revision;	 /* false, and root unset: the current one */
	uint64_t revision;
};
/*
 * -EINVAL: no valid name, a reserved one (trunk, trunk-previous), or a description that can't be shown. -EEXIST: the
 * name is taken. -ENOENT: no such revision. -EIO: its root catalog is not in the storage any more. A revision given by
 * its number is found by way of the other tags and the chain of previous revisions.
 */
int lm_repo_tag_add(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const struct lm_tag_request *request, struct lm_history_root *ret, struct lm_err *err) MUST_CHECK;

/* All of them or none. -ENOENT, -EINVAL (a reserved one). */
int lm_repo_tags_remove(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const char *const *names, size_t count, struct lm_err *err) MUST_CHECK;

/* ret: the manifest of the new revision; the current one where the tag names that already. name may be trunk-previous.
 * -ENOENT. */
int lm_repo_tag_rollback(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const char *name, struct lm_manifest *ret, struct lm_err *err) MUST_CHECK;

#endif
