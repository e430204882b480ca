/*
 * What a publisher remembers of its work on one repository, so that no byte is packed or fetched twice.
 *
 *   CONTENT   the SHA-256 and size of each piece ever packed, and the object it became: a piece whose content is known
 *             and whose object is in the storage is neither deflated nor stored again, whichever image and run it was
 *   LAYERS    each finished layer's root catalog: a run that dies, or fails over something else, leaves its layers in
 *             the storage, and the next one hangs them into its tree without fetching a byte
 *
 * An SQLite database (WAL) at STATE/ledger/NAME-HASH.db, HASH by the storage's address; lm_state_dir() in common.h says
 * what STATE is. It can be deleted at any time, which costs time and nothing else.
 *
 * WHAT IS BELIEVED. Nothing that the ledger says reaches the repository unless all of this is so:
 *
 *   - The row carries a code (HMAC-SHA-256, 128 bits) over all that it says, with a secret which only the owner of the
 *     repository's private key can compute. A row that rotted, that another wrote, or that belongs to another
 *     repository, is not there. So what a row says is what this program wrote when it had packed exactly that content;
 *     whoever could forge it could as well sign the repository.
 *   - The objects are in the storage now, see presence.h. Garbage collection does not know of the ledger and need not:
 *     it may sweep what an unfinished run left, and all it takes is that content or layer out of the ledger.
 *   - Objects that were stored were made durable by a publication since, or the machine has not been restarted since:
 *     a file that a power cut left empty may have its name.
 *   - For a layer, all its catalogs are read once more, by their hashes, and every object they name is asked for.
 *
 * That an object's bytes fit its name is `lamella repo check --objects` to judge, as of any other object.
 *
 * WHAT GOES WRONG with the file never fails a conversion: it is said, once, and the run goes on without. What is
 * damaged, of another version or made by another key is moved aside (PATH.damaged) and begins anew; what has grown past
 * LM_LEDGER_BYTES_MAX begins anew.
 *
 * THREADS. Open, free, layers: one thread, which holds the publisher's lock. Content: any; each thread looks up through
 * a reader of its own, so that none waits for another, and what is new is written in batches by whoever fills one.
 */
#ifndef LM_TOOLS_LEDGER_H
#define LM_TOOLS_LEDGER_H

#include "convert/presence.h"
#include "repo/signature.h"

/* About eight million pieces. */
#define LM_LEDGER_BYTES_MAX ((uint64_t)1 << 30)

struct lm_ledger;

struct lm_ledger_owner { /* all outlives the ledger */
	struct lm_storage *storage;
	bool remote;		  /* of presence.h */
	const struct lm_key *key; /* that signs manifests */
	const char *fqrn;
	enum lm_hash_algo algo; /* of new objects */
};

/* Where the ledger of a repository is: dir is the address of its storage. The caller frees *ret. */
int lm_ledger_path(const char *fqrn, const char *dir, char **ret, struct lm_err *err) MUST_CHECK;

/* Directories are made. -EBUSY: another process uses it. */
int lm_ledger_open(
	const char *path, const struct lm_ledger_owner *owner, struct lm_ledger **ret, struct lm_err *err) MUST_CHECK;
/*
 * For lm_ledger_layer() alone, beside whoever has it open; what the ledger says is not changed. Without any -ENOENT;
 * -EPERM: made by another key or version, or damaged, so that lm_ledger_open() would begin anew.
 */
int lm_ledger_peek(
	const char *path, const struct lm_ledger_owner *owner, struct lm_ledger **ret, struct lm_err *err) MUST_CHECK;
/* Writes what is not written yet; the readers are gone. */
void lm_ledger_free(struct lm_ledger *ledger);
LM_DEFINE_CLEANUP(struct lm_ledger, lm_ledger_free, lm_ledger_freep)

/* A revision was published: everything stored until now is durable. */
void lm_ledger_published(struct lm_ledger *ledger);

struct lm_presence *lm_ledger_presence(struct lm_ledger *ledger);

/* --- content --- */

struct lm_content {
	uint8_t sha256[32];
	uint64_t size;
};
int lm_content_of(const void *data, size_t len, struct lm_content *ret, struct lm_err *err) MUST_CHECK;

struct lm_ledger_reader;
int lm_ledger_reader_new(struct lm_ledger *ledger, struct lm_ledger_reader **ret, struct lm_err *err) MUST_CHECK;
void lm_ledger_reader_free(struct lm_ledger_reader *reader);
LM_DEFINE_CLEANUP(struct lm_ledger_reader, lm_ledger_reader_free, lm_ledger_reader_freep)

/* True: that object, in the storage now, holds this content as one zlib stream of *ret_packed bytes. */
bool lm_ledger_find(struct lm_ledger_reader *reader, const struct lm_content *content, enum lm_object_kind kind,
	struct lm_hash *ret, uint64_t *ret_packed);
/* It was packed and stored just now. */
void lm_ledger_add(struct lm_ledger *ledger, const struct lm_content *content, enum lm_object_kind kind,
	const struct lm_hash *hash, uint64_t packed);

/* --- layers --- */

struct lm_ledger_layer {
	struct lm_hash root; /* the catalog at its mountpoint */
	uint64_t size;	     /* of that database */
	uint64_t tar_bytes, files, file_bytes, losses;
};

/* key: text that says all that the layer's catalogs depend on. */
bool lm_ledger_layer(struct lm_ledger *ledger, const char *key, struct lm_ledger_layer *ret);
/* Written at once, and all content before it. */
void lm_ledger_add_layer(struct lm_ledger *ledger, const char *key, const struct lm_ledger_layer *layer);
void lm_ledger_drop_layer(struct lm_ledger *ledger, const char *key);

#endif
