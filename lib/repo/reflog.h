/*
 * The reflog: the database of everything a repository's manifests ever named, file .cvmfsreflog. Garbage collection and
 * checks start from it; clients do not read it. Field Y of the manifest is the hash of the file as it is.
 *
 * Works on private files: after a failure of a change the file is worthless. Where a publisher is killed between
 * replacing the reflog and the manifest, the reflog is ahead of Y: it names roots that were never published. That harms
 * nobody (they are stored, and what no manifest leads to may be swept), so a publisher takes it as it is and adds.
 */
#ifndef LM_REPO_REFLOG_H
#define LM_REPO_REFLOG_H

#include "repo/hash.h"

#define LM_REFLOG_NAME ".cvmfsreflog"

enum lm_ref_type {
	LM_REF_CATALOG = 0, /* root catalogs only */
	LM_REF_CERTIFICATE = 1,
	LM_REF_HISTORY = 2,
	LM_REF_METAINFO = 3,
};

struct lm_ref {
	struct lm_hash hash;
	enum lm_ref_type type;
	int64_t time_s; /* when it was added */
};

/* An empty one in a new file (-EEXIST). */
int lm_reflog_create(const char *path, const char *fqrn, struct lm_err *err) MUST_CHECK;
/* Those that are there already stay as they are. */
int lm_reflog_add(const char *path, const struct lm_ref *refs, size_t count, struct lm_err *err) MUST_CHECK;
/* Absent ones are passed over. */
int lm_reflog_remove(const char *path, const struct lm_hash *hashes, size_t count, struct lm_err *err) MUST_CHECK;

/* All in the order they were added, up to the callback's stop (non-zero return, which is then returned). Read only.
 * -EPROTO: no reflog of a known schema, or a row that makes no sense. */
typedef int lm_ref_fn(void *arg, const struct lm_ref *ref);
int lm_reflog_each(const char *path, lm_ref_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;

#endif
