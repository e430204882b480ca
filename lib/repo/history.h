/*
 * The history: the database of tags that name revisions, object H of a manifest.
 *
 *   properties   schema 1.0, schema_revision, fqrn, previous_revision (the history object before this one)
 *   tags         name, hash (of the root catalog), revision, timestamp, channel, description,
 *                size (of the root catalog's database; since revision 1), branch (since revision 3)
 *   branches     since revision 3; one row for the branch '' that all tags are on
 *   recycle_bin  since revision 2; empty
 *
 * Publishers move two tags: trunk is the newest revision, trunk-previous the one before. All others stay what they were
 * made as.
 *
 * These functions work on a private file with the unpacked database. Readers take any revision of schema 1.0 and change
 * nothing. Writers check the whole database first, make it revision 3, and refuse newer ones (-ENOTSUP); after a
 * failure of theirs the file is worthless. A database that is damaged, or a tag without name, hash or numbers is
 * -EPROTO. Memory is bounded whatever the file holds. Any thread may call, for files that no other one changes.
 */
#ifndef LM_REPO_HISTORY_H
#define LM_REPO_HISTORY_H

#include "repo/hash.h"

#define LM_TAG_TRUNK "trunk"
#define LM_TAG_PREVIOUS "trunk-previous"
enum { LM_TAG_NAME_MAX = 255, LM_TAG_DESCRIPTION_MAX = 4095 }; /* bytes; of tags we make, foreign ones may be longer */

/* What a tag names. */
struct lm_history_root {
	struct lm_hash hash; /* of the root catalog */
	uint64_t revision;
	int64_t modified_s; /* its last_modified */
	uint64_t size;	    /* of its database; 0: not recorded */
};

/*
 * Reading
 */

/* The root that the tag of that name names, whatever its branch. -ENOENT. */
int lm_history_find(const char *path, const char *name, struct lm_history_root *ret, struct lm_err *err) MUST_CHECK;
/* The newest revision with a tag whose timestamp is not after time_s, on the main branch. -ENOENT: all are later. */
int lm_history_at(const char *path, int64_t time_s, struct lm_history_root *ret, struct lm_err *err) MUST_CHECK;

struct lm_tag { /* strings valid during the call */
	const char *name, *description;
	const char *branch;  /* "" (or NULL for lm_history_set()): the main one */
	struct lm_hash hash; /* of the root catalog */
	uint64_t revision;
	int64_t time_s;
	uint64_t size; /* 0: not recorded */
};
typedef int lm_tag_fn(void *arg, const struct lm_tag *tag);
/* The tags, newest revision first, up to the callback's stop (non-zero return, which is then returned) or the first
 * malformed one. Names and descriptions are foreign text. */
int lm_history_each(const char *path, lm_tag_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;

/* Everything that must hold before the database is changed or passed on: SQLite's own checks, the schema, every tag,
 * and the property fqrn (not looked at where fqrn is NULL). */
int lm_history_check(const char *path, const char *fqrn, struct lm_err *err) MUST_CHECK;

/*
 * Writing
 */

/* An empty history in a new file (-EEXIST). */
int lm_history_create(const char *path, const char *fqrn, struct lm_err *err) MUST_CHECK;

/* Moves trunk to root and trunk-previous to where trunk was. previous: the history object that the file was unpacked
 * from, unset for a new one. */
int lm_history_advance(const char *path, const struct lm_history_root *root, const struct lm_hash *previous,
	struct lm_err *err) MUST_CHECK;

/* A new tag (-EEXIST), or one less (-ENOENT). previous as above. No name is special here. */
int lm_history_set(
	const char *path, const struct lm_tag *tag, const struct lm_hash *previous, struct lm_err *err) MUST_CHECK;
int lm_history_remove(
	const char *path, const char *name, const struct lm_hash *previous, struct lm_err *err) MUST_CHECK;

/* Whether a new tag may have this name: 1 to LM_TAG_NAME_MAX bytes without blanks, control bytes or slashes, not "."
 * or ".." or with a leading dash: it goes into command lines, URLs and paths. */
bool lm_tag_name_valid(const char *name);

#endif
