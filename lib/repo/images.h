/*
 * Where images lie in a repository: DUCC's layout, and ours beside it.
 *
 *   /.layers/xx/HEX/layerfs             the layer sha256:HEX, xx its first two digits
 *   /.lamella/trees/xx/HEX/tree         the merged tree of a chain of layers as an EROFS image (erofs/erofs.h) whose
 *                                       redirects (LM_IMAGES_ROW) are relative to /.layers, with the content of large
 *                                       files behind it.
 *                                       HEX names the chain
 *
 *   /.lamella/chains/xx/HEX             the index by chain id: the layer that ends the chain sha256:HEX
 *   /.lamella/diffs/xx/HEX              the index by diff id: the layer whose uncompressed tar is sha256:HEX
 *
 * A merged tree's chain is named by the layers' digests, the lowest first: HEX is the SHA-256 of them, each followed by
 * a newline.
 *
 * The chain id of the index is the OCI one: that of the lowest layer is its diff id, each further one the SHA-256 of
 * "CHAIN DIFF", the chain id below and the layer's diff id. It is the same however the layers are compressed, and all
 * that a client without annotations says of a layer. An entry is a relative link, "../../../.layers/xx/HEX", so it
 * costs one row and no object, and stock clients see an ordinary link. Several layers may have one diff id (gzip and
 * zstd of the same tar); the entry names one of them, the first that came. An entry whose layer is gone says nothing.
 *
 * chains and diffs are nested catalogs of their own. A folder xx becomes one, too, when it holds more than
 * LM_IMAGES_FOLDER_MAX entries: a few images have all of theirs in one small catalog, and where there are many no
 * catalog holds more than a thousand or a 256th of them.
 */
#ifndef LM_REPO_IMAGES_H
#define LM_REPO_IMAGES_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LM_IMAGES_LAYERS ".layers"
#define LM_IMAGES_LAYER_ROOT "layerfs"
#define LM_IMAGES_OURS ".lamella"
#define LM_IMAGES_TREES "trees" /* in LM_IMAGES_OURS, as the next two */
#define LM_IMAGES_CHAINS "chains"
#define LM_IMAGES_DIFFS "diffs"
#define LM_IMAGES_TREE "tree"

enum { LM_IMAGES_FOLDER_MAX = 4 };

struct lm_chain_hex {
	char s[65];
};

/* digests: "sha256:…", the lowest layer's first. -ENOMEM, or what OpenSSL failed with. */
int lm_images_chain(const char *const *digests, size_t count, struct lm_chain_hex *ret, struct lm_err *err) MUST_CHECK;

/*
 * By which name a merged tree calls a file of a layer, in a directory where a catalog begins, that of the file or one
 * above it: LM_IMAGES_ROW, and joined by dots, of each further catalog on the way and of the file itself, the first
 * half of the hash of its path (pathhash.h) in 16 digits. No directory lists it; a mount that knows such names
 * (fetcher/tree.h) finds the row at once, without the directories on the way.
 */
#define LM_IMAGES_ROW ".lamella-row."
enum { LM_IMAGES_ROW_MAX = 14 }; /* halves, of the 255 bytes that a name can have */
struct lm_images_row {
	char s[256];
};
/* count: 1 to LM_IMAGES_ROW_MAX. */
struct lm_images_row lm_images_row(const int64_t *halves, size_t count);
/* How many halves; 0: no such name. */
size_t lm_images_row_parse(const char *name, int64_t ret[LM_IMAGES_ROW_MAX]);

/* "sha256:HEX" */
struct lm_images_digest {
	char s[sizeof("sha256:") + 64];
};
/* Whether the text is one, in lower case; ret may be NULL. */
bool lm_images_digest_parse(const char *text, struct lm_images_digest *ret);

enum lm_images_index { LM_IMAGES_BY_CHAIN, LM_IMAGES_BY_DIFF, LM_IMAGES_INDEXES };

struct lm_images_path {
	char s[104];
};
/* id and layer: valid digests. The path of an entry, from the root on, and what it links to. */
struct lm_images_path lm_images_entry(enum lm_images_index index, const char *id);
struct lm_images_path lm_images_entry_target(const char *layer);
/* The other way round: the layer's digest. -EPROTO: no link to a layer, which the message shows. */
int lm_images_entry_parse(const char *target, struct lm_images_digest *ret, struct lm_err *err) MUST_CHECK;

#endif
