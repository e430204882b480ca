/*
 * Catalogs: SQLite databases that list a subtree of the repository (schema 2.5; 2.4 and older revisions are read).
 *
 * A catalog's paths are full paths inside the repository, its own root (the mountpoint) included; "" is the
 * repository's root. Rows are found by path hash or row id; the root row has row id 1.
 *
 * READER. An open catalog may be used by any thread; calls on one catalog take turns. Memory is bounded (SQLite's page
 * cache is capped). What is malformed is refused row by row with -EPROTO: the rest stays usable. The file must not
 * change while it is open (it is content-addressed).
 */
#ifndef LM_REPO_CATALOG_H
#define LM_REPO_CATALOG_H

#include "repo/hash.h"
#include "repo/object.h"
#include "repo/pathhash.h"

#include <stdbool.h>
#include <sys/types.h>

enum { LM_NAME_MAX = 255, LM_SYMLINK_MAX = 4095, LM_REPO_PATH_MAX = 8191 };

enum lm_row_flags {
	LM_ROW_DIR = 1,
	LM_ROW_MOUNTPOINT = 2, /* row in the parent: a nested catalog begins here */
	LM_ROW_FILE = 4,       /* whatever is no directory */
	LM_ROW_SYMLINK = 8,
	LM_ROW_SPECIAL = 16,
	LM_ROW_NESTED_ROOT = 32, /* row in the child */
	LM_ROW_CHUNKED = 64,
	LM_ROW_EXTERNAL = 128,
	LM_ROW_BIND = 0x4000,
	LM_ROW_HIDDEN = 0x8000,
	LM_ROW_DIRECT_IO = 0x10000,
};

/* One row. Strings are owned by the struct: lm_row_done(). Hash algorithm and compression bits are not in flags but in
 * hash.algo (of chunks: algo below) and compression. */
struct lm_row {
	uint64_t rowid;
	struct lm_path_hash path, parent;
	uint32_t flags; /* enum lm_row_flags */
	uint32_t mode;	/* full st_mode */
	uint32_t uid, gid;
	uint64_t size; /* content length; symlinks: of the raw target; devices: 0 (see rdev) */
	uint64_t rdev; /* glibc's 64-bit device number, devices only */
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint32_t link_group; /* 0: none */
	uint32_t link_count; /* as stored: for files 1 may still mean a group, see lm_catalog_group() */
	struct lm_hash hash; /* unset for directories, links, specials, chunked files without bulk object */
	uint8_t algo;	     /* enum lm_hash_algo of hash and chunks */
	uint8_t compression; /* enum lm_compression */
	char *name;	     /* never NULL; "" for the repository's root */
	char *symlink;	     /* raw target; NULL when not a symlink */
	uint8_t *xattr;	     /* blob for xattr.h, NULL for none */
	size_t xattr_len;
};
void lm_row_done(struct lm_row *row); /* frees what it owns and clears it; for CLEANUP */

struct lm_chunk {
	uint64_t offset, size; /* of content */
	struct lm_hash hash;
};

struct lm_nested {
	char *path;
	struct lm_hash hash;
	uint64_t size; /* of the database; 0 where not recorded */
};

struct lm_catalog;

/*
 * Opens the database file. mountpoint: where it is expected to sit ("" for a root catalog); another root_prefix inside
 * is -EPROTO (NULL: wherever it says, for those who only look at it), as are databases in WAL mode, missing tables,
 * unknown schemas.
 */
int lm_catalog_open(const char *path, const char *mountpoint, struct lm_catalog **ret, struct lm_err *err) MUST_CHECK;
void lm_catalog_close(struct lm_catalog *catalog);
LM_DEFINE_CLEANUP(struct lm_catalog, lm_catalog_close, lm_catalog_closep)

/* Bytes of the heap that SQLite holds for all databases of this process together. */
uint64_t lm_catalog_memory(void);
/* Sets memory aside for the pages of all catalogs, all of it at once: pages that come and go tear the heap apart. At
 * most once, before this process opens its first catalog (else -EALREADY), by one thread. Where it is full, pages lie
 * in the heap as they do without it. */
int lm_catalog_reserve(size_t bytes, struct lm_err *err) MUST_CHECK;

const char *lm_catalog_mountpoint(const struct lm_catalog *catalog);
uint64_t lm_catalog_revision(const struct lm_catalog *catalog);
unsigned lm_catalog_schema(const struct lm_catalog *catalog); /* revision of schema 2.5, at most the newest known */
uint64_t lm_catalog_ttl(const struct lm_catalog *catalog);    /* seconds; 240 where the catalog has none */

/* -ENOENT: no such row. A row whose name or fields make no sense (slash in the name, wrong types): -EPROTO. */
int lm_catalog_lookup(
	struct lm_catalog *catalog, struct lm_path_hash path, struct lm_row *ret, struct lm_err *err) MUST_CHECK;
/* By the first half of its path hash (struct lm_path_hash). -EPROTO: there are several, too. */
int lm_catalog_lookup_half(struct lm_catalog *catalog, int64_t half, struct lm_row *ret, struct lm_err *err) MUST_CHECK;
int lm_catalog_row(struct lm_catalog *catalog, uint64_t rowid, struct lm_row *ret, struct lm_err *err) MUST_CHECK;

/*
 * The rows of a directory with row id above `after` in row-id order, hidden ones included, up to the callback's stop
 * (non-zero return, which is then returned; the row is the callback's only during the call, but it may steal strings).
 * The callback may ask the catalog. Malformed rows are passed over; a list that reaches the end then returns -EPROTO
 * with what was wrong with the first one.
 */
typedef int lm_catalog_row_fn(void *arg, struct lm_row *row);
int lm_catalog_list(struct lm_catalog *catalog, struct lm_path_hash parent, uint64_t after, lm_catalog_row_fn *fn,
	void *arg, struct lm_err *err) MUST_CHECK;

/* The full path of a row, by walking up its parents inside this catalog. -EPROTO when they form no path. */
int lm_catalog_path_of(struct lm_catalog *catalog, uint64_t rowid, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;

/*
 * The chunks of a file that overlap [offset, offset + len) (cut at the file's end), in order; with offset 0 and len
 * UINT64_MAX all of them. -EPROTO where they leave a gap or overlap there. The caller frees *ret.
 */
int lm_catalog_chunks(struct lm_catalog *catalog, const struct lm_row *row, uint64_t offset, uint64_t len,
	struct lm_chunk **ret, size_t *ret_count, struct lm_err *err) MUST_CHECK;

/* A hard-link group: its lowest row id (one inode for all members) and its number of members in this catalog. -ENOENT
 * where there is no such group or its members do not agree in all but their names: they are then files of their own.
 * The first call reads through the catalog. */
int lm_catalog_group(struct lm_catalog *catalog, uint32_t group, uint64_t *ret_rowid, uint32_t *ret_members,
	struct lm_err *err) MUST_CHECK;

/* The nested catalog (or bind mountpoint) at exactly this path. -ENOENT. ret->path is owned by the caller. */
int lm_catalog_nested(
	struct lm_catalog *catalog, const char *path, struct lm_nested *ret, struct lm_err *err) MUST_CHECK;
/* All nested catalogs in the order of their paths, without bind mountpoints; and only those. */
typedef int lm_catalog_nested_fn(void *arg, const struct lm_nested *nested);
int lm_catalog_nested_each(
	struct lm_catalog *catalog, lm_catalog_nested_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;
int lm_catalog_binds_each(
	struct lm_catalog *catalog, lm_catalog_nested_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;

/*
 * The digest of every content and chunk object that any row names, one named twice twice, in no order. Whatever else
 * such a row says is not looked at, nor is the algorithm told: who keeps objects by this list keeps too many rather
 * than too few. The callback must not ask the catalog; what it returns other than 0 ends the list and is returned.
 * -EPROTO: something that is no hash stands in place of one.
 */
typedef int lm_catalog_object_fn(void *arg, enum lm_object_kind kind, const uint8_t digest[LM_HASH_BYTES]);
int lm_catalog_objects_each(
	struct lm_catalog *catalog, lm_catalog_object_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;

/* When this version was written (0: not said) and which one it replaced (unset: none that it names). */
int lm_catalog_origin(struct lm_catalog *catalog, int64_t *ret_modified_s, struct lm_hash *ret_previous,
	struct lm_err *err) MUST_CHECK;

/*
 * For those who look at a catalog rather than use it: every row in row-id order, whether a directory lists it or not,
 * up to the callback's stop. row is NULL where it is malformed, and bad says why. The callback may ask the catalog.
 */
typedef int lm_catalog_any_row_fn(void *arg, int64_t rowid, struct lm_row *row, const struct lm_err *bad);
int lm_catalog_each(struct lm_catalog *catalog, lm_catalog_any_row_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;
/* All properties as they are stored, in the order of their keys. The callback must not ask the catalog. */
typedef int lm_catalog_property_fn(void *arg, const char *key, const char *value);
int lm_catalog_properties_each(
	struct lm_catalog *catalog, lm_catalog_property_fn *fn, void *arg, struct lm_err *err) MUST_CHECK;

/* Statistics of one catalog. */
struct lm_counters {
	uint64_t regular, symlink, special, dir, nested, chunked, chunks, file_size, chunked_size, xattr, external,
		external_file_size;
};
int lm_catalog_counters(struct lm_catalog *catalog, struct lm_counters *ret_self, struct lm_counters *ret_subtree,
	struct lm_err *err) MUST_CHECK;
void lm_counters_add(struct lm_counters *sum, const struct lm_counters *more);

/*
 * WRITER. Makes a new database or changes a private copy of an existing one. One thread; nothing is valid
 * until lm_catalog_writer_finish() returned 0. The file is then a closed rollback-journal database with all six
 * tables, 24 counters, dense enough row ids and the root row first.
 */
struct lm_catalog_writer;

/* A new database file at path (which must not exist); root: the row of the mountpoint directory (its path, parent,
 * rowid and NESTED_ROOT/DIR flags are filled in here; name is the last component of mountpoint). */
int lm_catalog_create(const char *path, const char *mountpoint, const struct lm_row *root,
	struct lm_catalog_writer **ret, struct lm_err *err) MUST_CHECK;
/* An existing database file, changed in place: pass a copy. One of an older schema is first made anew with the current
 * one (other tables and columns than those of catalogs are then gone). */
int lm_catalog_edit(
	const char *path, const char *mountpoint, struct lm_catalog_writer **ret, struct lm_err *err) MUST_CHECK;
/* Without finish: the file is left half-made, for the caller to remove. */
void lm_catalog_writer_free(struct lm_catalog_writer *writer);
LM_DEFINE_CLEANUP(struct lm_catalog_writer, lm_catalog_writer_free, lm_catalog_writer_freep)

/*
 * Adds a row under full path (row->path, parent, rowid, name are filled in from it; flags'
 * DIR/FILE/SYMLINK/SPECIAL/CHUNKED bits from mode and chunks). -EEXIST when taken. Folders' link counts are set by
 * finish, not by the caller.
 */
int lm_catalog_insert(struct lm_catalog_writer *writer, const char *path, const struct lm_row *row,
	const struct lm_chunk *chunks, size_t chunk_count, struct lm_err *err) MUST_CHECK;
/* Inserts or replaces (row and chunks; the row id stays). Children of a directory that stays a directory stay; a
 * mountpoint that is to stay a directory is -EBUSY: its attributes are the nested catalog's. */
int lm_catalog_put(struct lm_catalog_writer *writer, const char *path, const struct lm_row *row,
	const struct lm_chunk *chunks, size_t chunk_count, struct lm_err *err) MUST_CHECK;
int lm_catalog_writer_lookup(
	struct lm_catalog_writer *writer, const char *path, struct lm_row *ret, struct lm_err *err) MUST_CHECK;
int lm_catalog_writer_nested(
	struct lm_catalog_writer *writer, const char *path, struct lm_nested *ret, struct lm_err *err) MUST_CHECK;
/* As lm_catalog_list(), but what is malformed ends it. The callback leaves the writer alone. */
int lm_catalog_writer_list(struct lm_catalog_writer *writer, const char *path, lm_catalog_row_fn *fn, void *arg,
	struct lm_err *err) MUST_CHECK;
/* As lm_catalog_chunks(). */
int lm_catalog_writer_chunks(struct lm_catalog_writer *writer, const struct lm_row *row, uint64_t offset, uint64_t len,
	struct lm_chunk **ret, size_t *ret_count, struct lm_err *err) MUST_CHECK;

/* A number for a hard-link group that no row has. */
int lm_catalog_writer_new_group(struct lm_catalog_writer *writer, uint32_t *ret, struct lm_err *err) MUST_CHECK;

/*
 * The subtree counters of an edited catalog follow its nested catalogs by differences. One that was there before the
 * edit and is replaced, removed or moved must be subtracted, and only its own database knows by how much: fn gives the
 * counters of that catalog. Needed only after lm_catalog_edit(), where such a change is -EINVAL without it. Where the
 * file was of an older schema, finish asks about all nested catalogs.
 */
typedef int lm_catalog_child_fn(void *arg, const struct lm_nested *child, struct lm_counters *ret_self,
	struct lm_counters *ret_subtree, struct lm_err *err);
void lm_catalog_writer_set_child_fn(struct lm_catalog_writer *writer, lm_catalog_child_fn *fn, void *arg);

/* Removes a row and, for a directory, everything below it, nested catalogs' entries included. Absent: 0. */
int lm_catalog_remove(struct lm_catalog_writer *writer, const char *path, struct lm_err *err) MUST_CHECK;
/* Names (or renames to another hash) the nested catalog at path, whose row becomes a mountpoint; what this catalog had
 * there or below is removed. root: attributes of the child's root row, copied; self, subtree: the child's counters, so
 * that this catalog's subtree counters come out right. */
int lm_catalog_set_nested(struct lm_catalog_writer *writer, const char *path, const struct lm_hash *hash, uint64_t size,
	const struct lm_row *root, const struct lm_counters *self, const struct lm_counters *subtree,
	struct lm_err *err) MUST_CHECK;

/*
 * A nested catalog made out of a directory of this one, or the other way round. Groups of hard links that would be in
 * two catalogs afterwards fall apart into one in each.
 */
/* Moves all below the mountpoint of child (a new catalog for an ordinary directory of writer) from writer to child. The
 * directory's row stays as it is until lm_catalog_set_nested(). -EBUSY: it is a mountpoint already. */
int lm_catalog_split(struct lm_catalog_writer *writer, struct lm_catalog_writer *child, struct lm_err *err) MUST_CHECK;
/* Moves all in child into writer, where its mountpoint becomes an ordinary directory with the attributes of child's
 * root; child is only to be freed then. Its marker must be removed before. */
int lm_catalog_fold(struct lm_catalog_writer *writer, struct lm_catalog_writer *child, struct lm_err *err) MUST_CHECK;

/*
 * Hard links. Rows with the same group number (above 0, within one catalog) and equal in all but their names are one
 * file. The column hardlinks is group << 32 | count:
 *
 *   a group within one directory     count is its number of members, which the stock checker verifies
 *   a group over several directories count is 1 in every member: the stock checker, which knows no such groups, then
 *                                    passes them over, and clients that go by the group (ours and the stock one) still
 *                                    see one inode; ours counts the members for st_nlink
 *   one row alone                    group 0, count 1
 *
 * Callers give group numbers only; finish makes the rest of it from the rows that are there. A member that differs from
 * the others undoes its group, since readers would not believe it.
 */

struct lm_catalog_props {
	uint64_t revision;
	int64_t last_modified_s;
	struct lm_hash previous; /* unset: none */
	uint64_t ttl_s;		 /* 0: no TTL property (nested catalogs) */
};
/* Checks that the rows form a tree; sets hard-link groups, folder link counts, statistics and properties; makes row ids
 * dense and a file that is mostly empty small; closes the database. */
int lm_catalog_writer_finish(struct lm_catalog_writer *writer, const struct lm_catalog_props *props,
	struct lm_counters *ret_self, struct lm_counters *ret_subtree, struct lm_err *err) MUST_CHECK;

#endif
