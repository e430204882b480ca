/*
 * What the files of the checker share. check.c is the manifest and the order of things, check_history.c tags and
 * reflog, check_tree.c which catalogs are checked and what a catalog must say of those below it, check_catalog.c one
 * database, check_objects.c the objects.
 *
 * Functions return 0 to go on, whatever they found, or a negative errno that ends the whole check (no memory, no room,
 * a storage that fails too often). Those that say so return 1 where they have something to show for it.
 */
#ifndef LM_REPO_CHECK_INTERNAL_H
#define LM_REPO_CHECK_INTERNAL_H

#include "base/lock.h"
#include "repo/catalog_schema.h"
#include "repo/check.h"
#include "repo/manifest.h"

#define LM_CHECK_DATABASE_MAX ((uint64_t)4 << 30) /* bytes of an unpacked catalog or history */
enum { LM_CHECK_TICK = 4096 };			  /* rows between two calls of options.progress */

struct lm_check_tree;
struct lm_check_objects;

struct lm_check {
	/* constant once the check runs */
	struct lm_storage *storage;
	const struct lm_check_options *options;
	lm_check_fn *fn;
	void *fn_arg;
	char *dir; /* scratch of our own */
	struct lm_manifest manifest;
	/* the caller's thread only */
	unsigned files;
	struct lm_check_tree *tree;
	struct lm_check_objects *objects;

	struct lm_lock lock;
	/* under lock */
	struct lm_check_result result;
};

/* Where something was found; see struct lm_finding. */
struct lm_place {
	const char *catalog, *path, *object;
};
#define LM_PLACE(...) ((struct lm_place){__VA_ARGS__})

/* Any thread. */
void lm_check_found(struct lm_check *check, enum lm_check_kind kind, struct lm_place place, const char *fmt, ...)
	PRINTF_LIKE(4, 5);
/* Adds to one of the numbers of check->result. Any thread. */
void lm_check_count(struct lm_check *check, uint64_t *counter, uint64_t more);
void lm_check_tick(struct lm_check *check); /* shows progress */

/*
 * A catalog, a history or another packed database into a file of its own, removed by lm_check_dropp(). 1: there it is;
 * 0: it was reported that it is missing or damaged.
 */
int lm_check_database(struct lm_check *check, const struct lm_hash *hash, enum lm_object_kind kind,
	struct lm_place place, enum lm_check_kind missing, enum lm_check_kind damaged, char **ret_path,
	struct lm_err *err) MUST_CHECK;
/* SQLite's own checks: that pages, tables and indexes belong together, which everything else takes for granted. A
 * finding of this kind for each of its first complaints. Constraints that the file itself asks for are not evaluated.
 */
int lm_check_integrity(struct lm_check *check, struct lm_db *db, enum lm_check_kind kind, struct lm_place place,
	struct lm_err *err) MUST_CHECK;
/* A name in our scratch for a new file. */
int lm_check_scratch(struct lm_check *check, char **ret, struct lm_err *err) MUST_CHECK;
void lm_check_dropp(char **path);

/* The row of a mountpoint, as the catalog above shows it and the one below must, too. */
struct lm_check_mount {
	uint64_t size;
	int64_t mtime_s;
	uint32_t mtime_ns, mode, uid, gid, link_count;
	struct lm_hash xattr; /* of the attributes; unset: none */
};
int lm_check_mount_of(const struct lm_row *row, struct lm_check_mount *ret, struct lm_err *err) MUST_CHECK;

/* A catalog that something names. */
struct lm_check_ref {
	unsigned depth; /* 0: the root of a revision */
	char *path;
	struct lm_hash hash;
	uint64_t size;		     /* of the database, 0 unknown */
	uint64_t revision;	     /* roots: what manifest or tag say; UINT64_MAX unknown */
	struct lm_check_mount mount; /* depth > 0 */
};
void lm_check_ref_done(struct lm_check_ref *ref);

/* What was seen in a catalog. */
struct lm_check_facts {
	bool complete; /* all of it could be read, so that the sums mean something */
	uint64_t size; /* of the database */
	struct lm_check_mount root;
	struct lm_counters self;    /* counted */
	struct lm_counters subtree; /* as it says itself */
	unsigned schema;	    /* revision */
	bool counters;		    /* subtree could be read */
};

/* check_catalog.c: checks one database; the nested catalogs in it are handed to lm_check_tree_add(). 1: it is a catalog
 * and *ret is set; 0: it is none, which was reported. */
int lm_check_catalog(struct lm_check *check, const struct lm_check_ref *ref, const char *db_path,
	struct lm_check_facts *ret, struct lm_err *err) MUST_CHECK;

/* check_tree.c: catalogs to do and done, on disk. */
int lm_check_tree_new(struct lm_check *check, struct lm_check_tree **ret, struct lm_err *err) MUST_CHECK;
void lm_check_tree_free(struct lm_check_tree *tree);
int lm_check_tree_add(struct lm_check_tree *tree, const struct lm_check_ref *ref, struct lm_err *err) MUST_CHECK;
int lm_check_tree_run(struct lm_check *check, struct lm_err *err) MUST_CHECK; /* until nothing is left to do */

/* check_history.c */
int lm_check_history(
	struct lm_check *check, struct lm_err *err) MUST_CHECK; /* adds the roots options.tag, tags ask for */
int lm_check_reflog(struct lm_check *check, struct lm_err *err) MUST_CHECK;

/* check_objects.c: looks at objects in batches on options.work. The caller's thread adds and drains. */
int lm_check_objects_new(struct lm_check *check, struct lm_check_objects **ret, struct lm_err *err) MUST_CHECK;
void lm_check_objects_free(struct lm_check_objects *objects); /* waits for what runs */
struct lm_check_object {
	struct lm_hash hash;
	enum lm_object_kind kind;
	enum lm_compression compression;
	uint64_t size;		    /* of its content */
	bool present_only;	    /* it is never read, only asked for */
	enum lm_check_kind missing; /* how its absence is reported */
};
int lm_check_objects_add(struct lm_check_objects *objects, const struct lm_check_object *object, const char *catalog,
	const char *path, struct lm_err *err) MUST_CHECK;
int lm_check_objects_drain(struct lm_check_objects *objects, struct lm_err *err) MUST_CHECK;

/* Reports why a file of the storage could not be had: missing (-ENOENT), damaged (-EBADMSG, -EPROTO, -EMSGSIZE) or
 * not readable. Negative: no reason to go on. Any thread. */
int lm_check_unavailable(struct lm_check *check, int code, const char *why, enum lm_check_kind missing,
	enum lm_check_kind damaged, struct lm_place place, struct lm_err *err) MUST_CHECK;

#endif
