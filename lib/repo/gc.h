/*
 * Garbage collection: what no kept revision names goes out of the storage.
 *
 * KEPT are these root catalogs, with all that they lead to (nested and bound catalogs, content, chunks):
 *   - the current one, the one before it, and every tagged one;
 *   - every one that was current at keep_since_s or later, by the reflog and, where that does not go back so far,
 *     by the predecessors that kept roots name. It is the time of being replaced that counts: a root published long
 *     ago and replaced a minute ago may still be mounted somewhere;
 *   - the newest keep_revisions ones;
 * and the certificates, histories and metainfo that the manifest names or, by the reflog, were current at that time.
 *
 * SWEPT is every other object, whoever left it: dropped revisions, publishers that were killed, an earlier collection
 * that was. Files that are no object of a known kind stay and are counted.
 *
 * ORDER. All is marked before anything changes: a kept catalog that is missing or damaged ends it with the repository
 * as it was. Other collectors, and interrupted ones, account for some absences, which are passed over: that of a root
 * which only the reflog names (it then leaves the reflog), and that of anything of a root which only its successor or a
 * bind mountpoint names. Then the reflog without the dropped roots and a manifest signed anew for it are put; then
 * objects are removed. Killed anywhere, the repository is valid and the next collection finishes. Readers of kept
 * revisions are not disturbed at any time.
 *
 * COST. Each catalog is read once, whatever number of roots share it. Memory: the digests of all kept catalogs, and
 * twice 1/256 of those of all kept objects; the rest of them is in temporary files in the storage's scratch directory.
 */
#ifndef LM_REPO_GC_H
#define LM_REPO_GC_H

#include "repo/publish.h"

enum { LM_GC_KEEP_DAYS = 3 }; /* what to keep where the user does not say; clients come back within hours */

enum lm_gc_kind {
	LM_GC_CONTENT,
	LM_GC_CHUNK,
	LM_GC_CATALOG,
	LM_GC_CERTIFICATE,
	LM_GC_HISTORY,
	LM_GC_METAINFO,
	LM_GC_KINDS,
};
extern const char *const lm_gc_kind_names[LM_GC_KINDS]; /* "content", "chunks", ... */

struct lm_gc_count {
	uint64_t objects, bytes; /* as stored */
};

struct lm_gc_result {
	uint64_t roots_kept;
	uint64_t roots_dropped; /* that the reflog named until now */
	uint64_t roots_absent;	/* would have been kept, but another collector has removed them */
	uint64_t catalogs;	/* read: those of the kept roots */
	struct lm_gc_count kept[LM_GC_KINDS], swept[LM_GC_KINDS];
	struct lm_gc_count unknown;   /* files among the objects that are none, left alone */
	struct lm_gc_count leftovers; /* temporary files that nobody changed for a day, removed */
	uint64_t aliases;	      /* second names of swept objects, removed */
	bool resigned;		      /* the reflog changed, or the manifest named another one */
};

struct lm_gc_progress {
	bool sweeping;	      /* false: reading catalogs */
	uint64_t done, total; /* catalogs read and known of; or directories swept */
	uint64_t swept_bytes;
};

struct lm_gc_options {
	int64_t keep_since_s;
	uint64_t keep_revisions;
	bool dry_run; /* the same result, and nothing changed */
	/* May be NULL. note: a sentence for people; detail: one of many, for those who want to see each root and
	 * object. */
	void (*note)(void *arg, bool detail, const char *text);
	void (*progress)(void *arg, const struct lm_gc_progress *progress);
	void *arg;
};

/* Takes the publisher's lock (-EBUSY); errors as of lm_txn_begin(), and those of the kept catalog that can't be read,
 * which is then named. */
int lm_repo_gc(struct lm_storage *storage, const struct lm_repo_keys *keys, const char *fqrn,
	const struct lm_gc_options *options, struct lm_gc_result *ret, struct lm_err *err) MUST_CHECK;

#endif
