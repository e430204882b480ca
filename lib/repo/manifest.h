/*
 * The manifest .cvmfspublished: one letter and its value per line, "--", the hash of what stands above, a signature.
 *
 * Parsing checks form only; trust is trust.h's. Unknown letters are skipped, of duplicates the last one counts.
 */
#ifndef LM_REPO_MANIFEST_H
#define LM_REPO_MANIFEST_H

#include "base/buf.h"
#include "repo/hash.h"

enum {
	LM_MANIFEST_MAX = 64 << 10,
	LM_FQRN_MAX = 255,
	LM_TTL_MAX_S = 10 * 365 * 86400, /* a larger D is refused */
};
#define LM_MANIFEST_NAME ".cvmfspublished"
#define LM_MANIFEST_ROOT_PATH                                                                  \
	"d41d8cd98f00b204e9800998ecf8427e" /* md5 of the empty path, the only value R may have \
					    */

struct lm_manifest {
	struct lm_hash catalog;	    /* C, required */
	uint64_t catalog_size;	    /* B, 0 unknown */
	char root_path[33];	    /* R, required; written as LM_MANIFEST_ROOT_PATH where "" */
	uint64_t ttl_s;		    /* D, required */
	uint64_t revision;	    /* S, required */
	bool garbage_collectable;   /* G */
	bool alternative_catalogs;  /* A */
	char fqrn[LM_FQRN_MAX + 1]; /* N, "" when missing */
	struct lm_hash certificate; /* X */
	struct lm_hash history;	    /* H */
	struct lm_hash metainfo;    /* M */
	struct lm_hash reflog;	    /* Y */
	int64_t published_s;	    /* T, 0 unknown */
};

/* Where the signed part of a text ends, its printed hash and the signature (both point into the text). */
struct lm_signed_text {
	size_t body_len; /* bytes before "--", with their last newline */
	const char *hash_text;
	size_t hash_text_len;
	const uint8_t *signature;
	size_t signature_len;
};
/* Splits manifest or whitelist at the first line "--". -EPROTO: no such line, a NUL above it, no whole line below it.
 * The signature may be empty: whoever verifies it refuses that. */
int lm_signed_text_split(const char *text, size_t len, struct lm_signed_text *ret, struct lm_err *err) MUST_CHECK;

/* Also -EPROTO: larger than LM_MANIFEST_MAX, a required letter missing, a known letter with a malformed value. */
int lm_manifest_parse(const char *text, size_t len, struct lm_manifest *ret, struct lm_err *err) MUST_CHECK;
/* Appends the body, "--" and the hash line (hash algorithm: that of the root catalog); the signature comes after it.
 * -EINVAL: a required field is unset or a value could not be read back. */
int lm_manifest_format(const struct lm_manifest *manifest, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;

/* Appends "--" and the line with the hash of everything in text so far: how manifest and whitelist end. */
int lm_signed_text_close(struct lm_buf *text, enum lm_hash_algo algo, struct lm_err *err) MUST_CHECK;

/* A repository name that is safe in paths and URLs: dots, letters, digits, - and _, not starting with a dot or -. */
bool lm_fqrn_valid(const char *fqrn);

#endif
