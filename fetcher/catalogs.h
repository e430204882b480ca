/*
 * The catalogs of one repository: their numbers, and those that are open.
 *
 * NUMBERS. A catalog number (24 bits, from 1) stands for (catalog hash, where it hangs in the tree, how it is shown).
 * It is given out once and never means anything else, also not after a restart: the kernel remembers node numbers for
 * as long as a mount lives. The file TABLE holds one record per number, each with a checksum, and only grows; what a
 * crash tore off at its end is cut away (numbers lost by a power cut are lost together with the kernel that knew them).
 *
 * Two processes may use one table, as they do for a moment when a new one takes a mount over: whoever appends holds the
 * file's lock and has read first what the other appended, so that both mean the same by every number. A number that
 * one does not know is looked for in the file.
 *
 * Only catalogs that somebody looks into get a number: a new revision costs one for each catalog that changed, about
 * five for an image. At a revision every five minutes they last for 30 years. What they cost before is memory, about
 * 200 bytes each. Removing TABLE while nothing is mounted begins anew.
 *
 * VIEWS. LM_VIEW_LAYERS shows the same catalog with what stands for whiteouts in it turned into what overlayfs knows
 * (tree.h); it is a catalog of its own in all that follows.
 *
 * Catalogs are listings of full paths. Below a bind mountpoint hangs a root catalog whose paths begin at "" again:
 * there `prefix_len` bytes of the mountpoint belong to the tree only, the rest is what the catalog knows itself by.
 *
 * OPEN CATALOGS. lm_catalogs_get() opens what is in the cache, and keeps the most recently used ones open, as many as
 * it may and as fit into LM_CATALOGS_MEMORY together with those of other repositories, but always a few: some 30, whose
 * pages share LM_CATALOGS_PAGES that the program sets aside (lm_catalog_reserve()). Each reference is returned by
 * lm_catalogs_put(). No waiting for the network: a catalog that is not in the cache is named, for the caller to fetch
 * and ask again.
 *
 * Any thread may call.
 */
#ifndef LM_FETCHER_CATALOGS_H
#define LM_FETCHER_CATALOGS_H

#include "fetcher/cache.h"
#include "repo/catalog.h"

struct lm_catalogs;

enum { LM_CATALOG_NUMBER_MAX = (1 << 24) - 1 };
enum lm_view { LM_VIEW_PLAIN, LM_VIEW_LAYERS, LM_VIEW_COUNT };
enum { LM_CATALOGS_MEMORY = 3 << 19, LM_CATALOGS_PAGES = 3 << 20, LM_CATALOGS_KEPT = 8 };
enum { LM_NEED = 1 }; /* the result of operations that lack an object */

struct lm_open_catalog {
	struct lm_catalog *catalog;
	uint32_t number;
	const char *mountpoint; /* in the tree */
	size_t prefix_len;	/* the catalog's own paths are the tree's without that many bytes */
	enum lm_view view;
	uint16_t layer; /* that it lies in: lm_cache_layer() */
};

/* table: path of the file of numbers (made if absent; its directory must exist). open_max: catalogs kept open. */
int lm_catalogs_new(struct lm_cache *cache, const char *table, size_t open_max, struct lm_catalogs **ret,
	struct lm_err *err) MUST_CHECK;
void lm_catalogs_free(struct lm_catalogs *catalogs); /* all references must be back */
LM_DEFINE_CLEANUP(struct lm_catalogs, lm_catalogs_free, lm_catalogs_freep)

/* The number of this catalog at this place, a new one where it has none. -ENOSPC when all numbers are used. */
int lm_catalogs_number(struct lm_catalogs *catalogs, const struct lm_hash *hash, const char *mountpoint,
	size_t prefix_len, enum lm_view view, uint32_t *ret, struct lm_err *err) MUST_CHECK;

/*
 * 0; LM_NEED with *ret_need: fetch that and call again; -ESTALE no such number; -EPROTO the catalog is malformed.
 */
int lm_catalogs_get(struct lm_catalogs *catalogs, uint32_t number, struct lm_open_catalog **ret,
	struct lm_object_ref *ret_need, struct lm_err *err) MUST_CHECK;
void lm_catalogs_put(struct lm_catalogs *catalogs, struct lm_open_catalog *open); /* NULL is fine */

/* What a number stands for, without opening it: -ESTALE. The mountpoint stays valid as long as catalogs does. */
int lm_catalogs_describe(struct lm_catalogs *catalogs, uint32_t number, struct lm_hash *ret_hash,
	const char **ret_mountpoint) MUST_CHECK;

#endif
