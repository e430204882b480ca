/* What the files of garbage collection share. */
#ifndef LM_REPO_GC_INTERNAL_H
#define LM_REPO_GC_INTERNAL_H

#include "repo/gc.h"
#include "repo/publish_internal.h"

enum { LM_GC_PARTS = 256 }; /* by the first byte of the digest, as the directories data/00..ff */

/*
 * MARKS: a set of objects that is larger than memory. Digests go to 256 files by their first byte; looking something up
 * takes one of them at a time. The algorithm of a hash does not count: a row that tells it wrong loses no content.
 * What is few stays in memory. The files are in the given directory, which its owner removes.
 */
struct lm_marks;
int lm_marks_new(const char *dir, struct lm_marks **ret, struct lm_err *err) MUST_CHECK;
void lm_marks_free(struct lm_marks *marks);
LM_DEFINE_CLEANUP(struct lm_marks, lm_marks_free, lm_marks_freep)
int lm_marks_add(struct lm_marks *marks, enum lm_object_kind kind, const uint8_t digest[LM_HASH_BYTES],
	struct lm_err *err) MUST_CHECK;
/* Then lm_marks_has() knows all that was added of this part, and nothing of the others. */
int lm_marks_load(struct lm_marks *marks, unsigned part, struct lm_err *err) MUST_CHECK;
bool lm_marks_has(const struct lm_marks *marks, enum lm_object_kind kind, const uint8_t digest[LM_HASH_BYTES]);

/* A set of digests in memory. */
struct lm_digests {
	uint8_t (*slots)[LM_HASH_BYTES + 1]; /* the last byte: taken */
	size_t count, cap;		     /* cap: 0 or a power of two */
};
void lm_digests_done(struct lm_digests *set);
bool lm_digests_has(const struct lm_digests *set, const uint8_t digest[LM_HASH_BYTES]);
/* 1 added, 0 there already. */
int lm_digests_add(struct lm_digests *set, const uint8_t digest[LM_HASH_BYTES], struct lm_err *err) MUST_CHECK;

/* A kept root, and where it stands in the line of its predecessors. */
struct lm_gc_root {
	struct lm_hash hash, previous; /* unset: none is named */
	int64_t modified_s;
};

/* One collection. */
struct lm_gc {
	struct lm_txn *txn;
	const struct lm_gc_options *options;
	struct lm_gc_result *result;
	struct lm_marks *marks;
	struct lm_digests catalogs; /* kept ones */
	struct lm_gc_root *roots;
	size_t root_count, root_cap;
	struct lm_digests bound; /* roots that bind mountpoints lead to, */
	struct lm_hash *binds;	 /* and those in the order they were met */
	size_t bind_count, bind_cap;
	struct lm_hash *dropped; /* what leaves the reflog */
	size_t dropped_count, dropped_cap;
};
void lm_gc_note(const struct lm_gc *gc, bool detail, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Marks all that is kept, and finds what the reflog is to lose. */
int lm_gc_mark(struct lm_gc *gc, struct lm_err *err) MUST_CHECK;
/* Removes (or counts) all that is not marked. */
int lm_gc_sweep(struct lm_gc *gc, struct lm_err *err) MUST_CHECK;

#endif
