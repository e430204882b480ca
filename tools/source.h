/*
 * Where a repository is read from, and by which keys it is believed: for the commands that look at repositories.
 *
 * The user's word for it (WHERE) is one of
 *
 *   NAME        a repository recorded here (common.h), or with --storage DIR the one in DIR/cvmfs/NAME
 *   DIR         the directory that holds .cvmfspublished; has a slash in it ("./name")
 *   URL         http:// or https://, ending in the repository's name; several servers separated by ";"; or one s3://
 *
 * The name of the repository is NAME, or the last component of DIR or URL, or what --name says. Public keys are
 * --key FILE, else --keys DIR (DIR/NAME.pub where it is there, else all *.pub), else those recorded for that name.
 * No keys is no error: the verdict is then LM_UNCHECKED.
 */
#ifndef LM_TOOLS_SOURCE_H
#define LM_TOOLS_SOURCE_H

#include "common.h"
#include "public_keys.h"
#include "repo/catalog.h"
#include "repo/manifest.h"
#include "repo/storage.h"
#include "repo/trust.h"

struct lm_repo_source_options { /* NULL: not given */
	const char *storage, *s3_config, *keys, *key, *name, *proxy;
	const char *manifest, *whitelist; /* files that stand for the repository's own */
};
/* For the table of a command's options (common.h): struct lm_cli_option x[] = {..., LM_REPO_SOURCE_OPTIONS(&o.source),
 * {0}}
 */
#define LM_REPO_SOURCE_OPTIONS(o)                                                                                    \
	{"storage", "DIR", "NAME is DIR/cvmfs/NAME (default: as recorded by `lamella repo init`)",                   \
		.text = &(o)->storage},                                                                              \
		LM_S3_CONFIG_OPTION(&(o)->s3_config),                                                                \
		{"keys", "DIR", "directory of master public keys: NAME.pub, or all *.pub (default: as recorded)",    \
			.text = &(o)->keys},                                                                         \
		{"key", "FILE", "one master public key", .text = &(o)->key},                                         \
		{"name", "NAME", "name of the repository, where DIR or URL does not end in it", .text = &(o)->name}, \
	{                                                                                                            \
		"proxy", "LIST", "proxies as in CVMFS_HTTP_PROXY (default: DIRECT)", .text = &(o)->proxy             \
	}

/* A catalog or history unpacks to this much at most. */
#define LM_DATABASE_MAX ((uint64_t)4 << 30)

struct lm_repo_source {
	struct lm_storage *storage;
	char *fqrn;
	char *where;			  /* the directory, or the URLs, as text for people */
	bool remote;			  /* by HTTP */
	const char *manifest, *whitelist; /* as in the options, whose strings they are */
	struct lm_public_keys keys;
	struct lm_err keys_err; /* why there are none */
};

/* -EINVAL: no such word; -ENOENT: no such record or directory; a key file that is given and can't be read. */
int lm_repo_source_open(const char *where, const struct lm_repo_source_options *options, struct lm_repo_source *ret,
	struct lm_err *err) MUST_CHECK;
void lm_repo_source_done(struct lm_repo_source *source); /* for CLEANUP */

enum lm_verdict { LM_VALID, LM_INVALID, LM_UNCHECKED };
const char *lm_verdict_name(enum lm_verdict verdict); /* "valid", "invalid", "unchecked" */

struct lm_repo_source_manifest {
	struct lm_manifest manifest; /* to be believed only where the verdict is LM_VALID */
	enum lm_verdict verdict;
	struct lm_err reason; /* of a verdict that is not LM_VALID */
};

/* Appends the manifest's or the whitelist's text. */
int lm_repo_source_manifest_text(struct lm_repo_source *source, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;
int lm_repo_source_whitelist_text(struct lm_repo_source *source, struct lm_buf *ret, struct lm_err *err) MUST_CHECK;
/* Reads the manifest and judges it as a client would: name, hashes, signatures, whitelist. Fails only where there is
 * none or it can't be understood; then the verdict is set, too. */
int lm_repo_source_manifest(
	struct lm_repo_source *source, struct lm_repo_source_manifest *ret, struct lm_err *err) MUST_CHECK;
/* The same for a text that was read. */
int lm_repo_source_judge(struct lm_repo_source *source, const struct lm_buf *text, struct lm_repo_source_manifest *ret,
	struct lm_err *err) MUST_CHECK;
/* The keys and the clock, for lm_trust_manifest() and the like. */
struct lm_trust lm_repo_source_trust(const struct lm_repo_source *source);

/* What lm_trust_manifest() wants; arg is the struct lm_repo_source. */
int lm_repo_source_fetch_signed(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err);

/* A catalog or history object, verified and unpacked, in a temporary file of the caller's, to be removed by
 * lm_repo_source_dropp(). Bounded by LM_DATABASE_MAX. */
int lm_repo_source_database(struct lm_repo_source *source, const struct lm_hash *hash, enum lm_object_kind kind,
	char **ret_path, struct lm_err *err) MUST_CHECK;
void lm_repo_source_dropp(char **path); /* removes the file, frees the path; for CLEANUP */
/* The catalog, opened; nothing of it stays behind, however this process ends. */
int lm_repo_source_catalog(struct lm_repo_source *source, const struct lm_hash *hash, const char *mountpoint,
	struct lm_catalog **ret, struct lm_err *err) MUST_CHECK;

/* The storage of a recorded repository, to be changed: a directory, or a bucket with the configuration given, else
 * recorded (NULL: neither). create as in lm_storage_dir_open(). */
int lm_repo_record_open(const struct lm_repo_record *record, const char *s3_config, bool create,
	struct lm_storage **ret, struct lm_err *err) MUST_CHECK;
/* For the table of a command's options. */
#define LM_S3_CONFIG_OPTION(ret)                                                                                 \
	{                                                                                                        \
		"s3-config", "FILE", "settings and keys of the bucket, where the storage is s3://BUCKET/PREFIX", \
			.text = (ret)                                                                            \
	}

/* A new temporary file with a name, for lm_repo_source_dropp(); returns its descriptor. */
int lm_tmp_named(char **ret_path, struct lm_err *err) MUST_CHECK;
/* $TMPDIR, else /var/tmp: databases may be too large for a /tmp in memory. */
const char *lm_tmp_dir(void);

#endif
