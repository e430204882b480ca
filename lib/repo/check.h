/*
 * Checking a repository: everything that the stock checker compares, the signatures, and that every object is there.
 *
 *   manifest    form, name, printed hash, signatures, whitelist, certificate, metainfo, alternative names
 *   history     tags and branches; reflog: its hash, and that it names what the manifest names
 *   catalogs    each reachable one: the database itself, every row and its place in the tree, chunks, links, markers,
 *               mountpoints against nested roots, all counters
 *   objects     that each one named is there; with options.objects that its hash is right and that it inflates to
 *               the size its catalog says
 *
 * What is wrong is a finding, and the check goes on wherever sense can be made of the rest. A finding is a problem (the
 * repository is not as it has to be), a warning (clients are served, something will go wrong later) or a note (an
 * oddity that stock tools tolerate, or a check that could not be made). Nothing of the repository is believed: memory
 * is bounded and everything ends, whatever the databases say. Catalogs that several revisions share are checked once.
 *
 * Only has, get and get_file of the storage are used, so it may be read-only. One thread calls lm_repo_check(); objects
 * are looked at on options.work, so the storage must then allow calls from several threads.
 */
#ifndef LM_REPO_CHECK_H
#define LM_REPO_CHECK_H

#include "repo/hash.h"
#include "repo/signature.h"
#include "repo/storage.h"

struct lm_work;

enum lm_check_level { LM_CHECK_PROBLEM, LM_CHECK_WARNING, LM_CHECK_NOTE, LM_CHECK_LEVEL_COUNT };

enum lm_check_kind {
	/* what the manifest is about */
	LM_CHECK_MANIFEST,
	LM_CHECK_SIGNATURE,
	LM_CHECK_WHITELIST,
	LM_CHECK_WHITELIST_EXPIRY,
	LM_CHECK_CERTIFICATE,
	LM_CHECK_METAINFO,
	LM_CHECK_ALTERNATIVE,
	LM_CHECK_HISTORY,
	LM_CHECK_TAG,
	LM_CHECK_BRANCH,
	LM_CHECK_TRUNK,
	LM_CHECK_REFLOG,
	LM_CHECK_REFLOG_OBJECT,
	LM_CHECK_UNVERIFIED,
	LM_CHECK_REPLICA,
	LM_CHECK_REPACKED,
	/* a catalog as a whole */
	LM_CHECK_CATALOG_MISSING,
	LM_CHECK_CATALOG_DAMAGED,
	LM_CHECK_CATALOG_REFUSED,
	LM_CHECK_CATALOG_SIZE,
	LM_CHECK_DATABASE,
	LM_CHECK_PROPERTY,
	LM_CHECK_SCHEMA,
	LM_CHECK_COUNTER,
	LM_CHECK_ROW_IDS,
	LM_CHECK_UNREACHABLE,
	LM_CHECK_STRAY_CHUNK,
	LM_CHECK_NESTED,
	LM_CHECK_NESTED_TWICE,
	LM_CHECK_BIND,
	LM_CHECK_MARKER,
	/* one row */
	LM_CHECK_ROW,
	LM_CHECK_NULL_TEXT,
	LM_CHECK_PATH_HASH,
	LM_CHECK_FLAGS,
	LM_CHECK_LINK_COUNT,
	LM_CHECK_HARD_LINK,
	LM_CHECK_SYMLINK_SIZE,
	LM_CHECK_STRAY_CONTENT,
	LM_CHECK_CHUNKS,
	LM_CHECK_XATTR,
	LM_CHECK_MOUNTPOINT,
	LM_CHECK_MOUNTPOINT_ROWS,
	LM_CHECK_TOLERATED,
	/* an object */
	LM_CHECK_OBJECT_MISSING,
	LM_CHECK_OBJECT_DAMAGED,
	LM_CHECK_OBJECT_UNREADABLE,
	LM_CHECK_KIND_COUNT
};

struct lm_check_kind_info {
	const char *name; /* stable, for programs: "link-count" */
	enum lm_check_level level;
	const char *advice; /* a sentence: what to do about it */
};
extern const struct lm_check_kind_info lm_check_kinds[LM_CHECK_KIND_COUNT];
extern const char *const lm_check_level_names[LM_CHECK_LEVEL_COUNT]; /* "problem", "warning", "note" */

/* Strings are valid during the call and hold foreign bytes; NULL where there is no such thing. */
struct lm_finding {
	enum lm_check_kind kind;
	const char *catalog; /* where it is mounted; "" is the root catalog */
	const char *path;    /* inside the repository */
	const char *object;  /* a file of the storage */
	const char *text;    /* what is wrong, and what would be right */
};
/* Called by one thread at a time, though not always by the same. */
typedef void lm_check_fn(void *arg, const struct lm_finding *finding);

struct lm_check_result {
	uint64_t levels[LM_CHECK_LEVEL_COUNT]; /* findings, those that were not reported any more included */
	uint64_t kinds[LM_CHECK_KIND_COUNT];
	uint64_t roots, catalogs, rows, chunks, objects; /* looked at, each once (objects: mostly) */
	uint64_t object_bytes;				 /* of content, with options.objects */
};

struct lm_check_options {
	const char *fqrn;	    /* the name the manifest must have; NULL: any */
	struct lm_key *const *keys; /* master public keys; none: signatures by them are a note, not checked */
	size_t key_count;
	int64_t now_s;		  /* for the whitelist's expiry */
	int64_t expiry_warning_s; /* a whitelist that expires within this is a warning */
	bool objects;		  /* read every object, check its hash and size */

	/* Which trees are walked: that of the newest revision, or one of these. */
	bool tags;		    /* also those of all tags */
	const char *tag;	    /* that of this tag (-ENOENT: no such tag) */
	const struct lm_hash *root; /* this root catalog's, and nothing of manifest and history is looked at */
	uint64_t root_size;	    /* of its database; 0 unknown */

	const char *scratch;  /* a directory on a local file system, for one directory of databases at a time */
	struct lm_work *work; /* NULL: the caller's thread does it all */
	uint64_t kind_max;    /* findings reported per kind, the rest are counted; 0: all */
	void (*progress)(void *arg, const struct lm_check_result *so_far); /* now and then; NULL */
	void *progress_arg;
};

/*
 * 0: the check came to its end, and *ret says with what. Negative: it could not be made or finished (*ret is filled in
 * as far as it came): -ENOENT no manifest there, -EIO the storage failed too often, -ENOSPC, -ENOMEM.
 */
int lm_repo_check(struct lm_storage *storage, const struct lm_check_options *options, lm_check_fn *fn, void *arg,
	struct lm_check_result *ret, struct lm_err *err) MUST_CHECK;

#endif
