#include "repo/check_internal.h"

#include "base/file.h"
#include "base/str.h"
#include "repo/reflog.h"
#include "repo/trust.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define REPLICA_NAME ".cvmfs_master_replica"
enum { METAINFO_MAX = 1 << 20 };

const char *const lm_check_level_names[LM_CHECK_LEVEL_COUNT] = {"problem", "warning", "note"};

#define REPUBLISH "Publish what is below that catalog anew; `lamella repo tag rollback` goes back to a good revision."
#define RESTORE "Copy the file from a backup or another server of the repository; its name is its hash."

const struct lm_check_kind_info lm_check_kinds[LM_CHECK_KIND_COUNT] = {
	[LM_CHECK_MANIFEST] = {"manifest", LM_CHECK_PROBLEM,
		"Clients refuse it. Publish anew, or put an older manifest back from a backup."},
	[LM_CHECK_SIGNATURE] = {"signature", LM_CHECK_PROBLEM,
		"Clients refuse it. Sign with the key whose certificate is on the whitelist: `lamella repo sign`."},
	[LM_CHECK_WHITELIST] = {"whitelist", LM_CHECK_PROBLEM,
		"Clients refuse it. Renew it with the master key: `lamella repo sign`."},
	[LM_CHECK_WHITELIST_EXPIRY] = {"whitelist-expiry", LM_CHECK_WARNING,
		"Renew it with the master key before that: `lamella repo sign`."},
	[LM_CHECK_CERTIFICATE] = {"certificate", LM_CHECK_PROBLEM,
		"Clients refuse the repository. Publish anew, which stores the certificate."},
	[LM_CHECK_METAINFO] = {"metainfo", LM_CHECK_PROBLEM, RESTORE},
	[LM_CHECK_ALTERNATIVE] = {"alternative-name", LM_CHECK_PROBLEM,
		"Clients of this repository ask for these names. Publish anew, which makes them."},
	[LM_CHECK_HISTORY] = {"history", LM_CHECK_PROBLEM,
		"Mounting by tag fails. Copy the object from a backup, or publish anew."},
	[LM_CHECK_TAG] = {"tag", LM_CHECK_PROBLEM, "Remove the tag: `lamella repo tag remove`."},
	[LM_CHECK_BRANCH] = {"branch", LM_CHECK_PROBLEM, "Stock tools refuse such a history. Publish anew."},
	[LM_CHECK_TRUNK] = {"trunk", LM_CHECK_WARNING,
		"Rolling back and garbage collection go by this tag; the next publication sets it."},
	[LM_CHECK_REFLOG] = {"reflog", LM_CHECK_PROBLEM,
		"Stock checks and garbage collection refuse it. The next publication writes it anew."},
	[LM_CHECK_REFLOG_OBJECT] = {"reflog-object", LM_CHECK_WARNING,
		"Garbage collection passes it over; no client asks for it."},
	[LM_CHECK_UNVERIFIED] = {"unverified", LM_CHECK_NOTE, "What could not be checked is not known to be good."},
	[LM_CHECK_REPLICA] = {"master-replica", LM_CHECK_NOTE,
		"Without it stock servers do not copy the repository. An empty file is enough."},
	[LM_CHECK_REPACKED] = {"repacked", LM_CHECK_WARNING,
		"Stock servers pack certificate and metainfo anew when they copy a repository; the copy of this object "
		"fits "
		"its name no more, and clients refuse that replica."},
	[LM_CHECK_CATALOG_MISSING] = {"catalog-missing", LM_CHECK_PROBLEM, RESTORE},
	[LM_CHECK_CATALOG_DAMAGED] = {"catalog-damaged", LM_CHECK_PROBLEM, RESTORE},
	[LM_CHECK_CATALOG_REFUSED] = {"catalog-refused", LM_CHECK_PROBLEM,
		"Clients can't read what is below it. " REPUBLISH},
	[LM_CHECK_CATALOG_SIZE] = {"catalog-size", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_DATABASE] = {"database", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_PROPERTY] = {"property", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_SCHEMA] = {"schema", LM_CHECK_NOTE, "Clients read it; it is made new when something in it changes."},
	[LM_CHECK_COUNTER] = {"counter", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_ROW_IDS] = {"row-ids", LM_CHECK_WARNING, "Publish what is below that catalog anew."},
	[LM_CHECK_UNREACHABLE] = {"unreachable", LM_CHECK_PROBLEM, "No client sees these rows. " REPUBLISH},
	[LM_CHECK_STRAY_CHUNK] = {"stray-chunk", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_NESTED] = {"nested", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_NESTED_TWICE] = {"nested-twice", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_BIND] = {"bind", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_MARKER] = {"marker", LM_CHECK_PROBLEM,
		"Stock publishers go by markers: add it where a nested catalog begins, remove it elsewhere."},
	[LM_CHECK_ROW] = {"row", LM_CHECK_PROBLEM, "Clients do not show such a row. " REPUBLISH},
	[LM_CHECK_NULL_TEXT] = {"null-text", LM_CHECK_PROBLEM, "Stock clients and tools crash on it. " REPUBLISH},
	[LM_CHECK_PATH_HASH] = {"path-hash", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_FLAGS] = {"flags", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_LINK_COUNT] = {"link-count", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_HARD_LINK] = {"hard-link", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_SYMLINK_SIZE] = {"symlink-size", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_STRAY_CONTENT] = {"stray-content", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_CHUNKS] = {"chunks", LM_CHECK_PROBLEM, "Reading the file fails or gives wrong bytes. " REPUBLISH},
	[LM_CHECK_XATTR] = {"xattr", LM_CHECK_WARNING, "Publish the file anew to give it its attributes back."},
	[LM_CHECK_MOUNTPOINT] = {"mountpoint", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_MOUNTPOINT_ROWS] = {"mountpoint-rows", LM_CHECK_PROBLEM, REPUBLISH},
	[LM_CHECK_TOLERATED] = {"tolerated", LM_CHECK_NOTE, "Clients and stock tools take it as it is."},
	[LM_CHECK_OBJECT_MISSING] = {"object-missing", LM_CHECK_PROBLEM, RESTORE},
	[LM_CHECK_OBJECT_DAMAGED] = {"object-damaged", LM_CHECK_PROBLEM, RESTORE},
	[LM_CHECK_OBJECT_UNREADABLE] = {"object-unreadable", LM_CHECK_PROBLEM,
		"The storage failed. Look after the disk or server, then check again."},
};

void lm_check_found(struct lm_check *check, enum lm_check_kind kind, struct lm_place place, const char *fmt, ...)
{
	uint64_t max = check->options->kind_max;
	struct lm_err text = LM_ERR_INIT;
	va_list args;
	va_start(args, fmt);
	lm_err_vset(&text, -EPROTO, fmt, args);
	va_end(args);

	LM_LOCKED(&check->lock);
	check->result.levels[lm_check_kinds[kind].level]++;
	if (++check->result.kinds[kind] > max && max > 0)
		return;
	const struct lm_finding finding = {
		.kind = kind, .catalog = place.catalog, .path = place.path, .object = place.object, .text = text.msg};
	check->fn(check->fn_arg, &finding);
}

void lm_check_count(struct lm_check *check, uint64_t *counter, uint64_t more)
{
	LM_LOCKED(&check->lock);
	*counter += more;
}

void lm_check_tick(struct lm_check *check)
{
	if (!check->options->progress)
		return;
	lm_lock_take(&check->lock);
	struct lm_check_result copy = check->result;
	lm_lock_release(&check->lock);
	check->options->progress(check->options->progress_arg, &copy);
}

int lm_check_scratch(struct lm_check *check, char **ret, struct lm_err *err)
{
	char *path = lm_str_printf("%s/%u", check->dir, check->files++);
	if (!path)
		return lm_err_oom(err);
	*ret = path;
	return 0;
}

void lm_check_dropp(char **path)
{
	if (*path)
		unlink(*path);
	free(*path);
	*path = NULL;
}

static int write_content(void *arg, const void *data, size_t len, struct lm_err *err)
{
	int r = lm_write_all(*(int *)arg, data, len, err);
	return r == -EIO ? lm_err_set(err, -ENOSPC, "scratch can't be written") : r;
}

/* The storage's failures are findings, those of scratch are the end. */
static int unpack_database(struct lm_check *check, const struct lm_hash *hash, const char *name, int packed,
	const char *path, struct lm_err *why)
{
	uint64_t size;
	int r = check->storage->ops->get_file(check->storage, name, packed, why);
	if (r < 0)
		return r;
	CLEANUP(lm_closep) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return lm_err_sys(why, -ENOSPC, "create %s", path);
	return lm_unpack_fd(hash, LM_COMPRESSION_ZLIB, packed, LM_CHECK_DATABASE_MAX, write_content, &fd, &size, why);
}

int lm_check_database(struct lm_check *check, const struct lm_hash *hash, enum lm_object_kind kind,
	struct lm_place place, enum lm_check_kind missing, enum lm_check_kind damaged, char **ret_path,
	struct lm_err *err)
{
	CLEANUP(lm_check_dropp) char *path = NULL;
	char name[LM_OBJECT_PATH_MAX];
	struct lm_err why = LM_ERR_INIT;
	CLEANUP(lm_closep) int packed = lm_file_tmp(AT_FDCWD, check->dir, err);
	if (packed < 0)
		return packed;
	int r = lm_check_scratch(check, &path, err);
	if (r < 0)
		return r;
	r = unpack_database(check, hash, lm_object_path(hash, kind, name), packed, path, &why);
	if (r < 0)
		return lm_check_unavailable(check, r, lm_err_text(&why), missing, damaged, place, err);
	*ret_path = STEAL(path);
	return 1;
}

/* Lines up to *reported were findings before. */
static int integrity_lines(struct lm_check *check, struct lm_db *db, enum lm_check_kind kind, struct lm_place place,
	unsigned *reported, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(db, "PRAGMA integrity_check(5)", &stmt, err);
	for (unsigned n = 0; r == 0 && (r = lm_db_step(db, stmt, err)) > 0; n++) {
		const char *line = (const char *)sqlite3_column_text(stmt, 0);
		if (!line)
			return lm_err_oom(err);
		if (strcmp(line, "ok") != 0 && n >= *reported) {
			lm_check_found(check, kind, place, "%s", line);
			++*reported;
		}
		r = 0;
	}
	return r;
}

int lm_check_integrity(
	struct lm_check *check, struct lm_db *db, enum lm_check_kind kind, struct lm_place place, struct lm_err *err)
{
	struct lm_err why = LM_ERR_INIT;
	unsigned reported = 0;
	int r = lm_db_exec(db, "PRAGMA ignore_check_constraints = ON", &why);
	if (r == 0)
		r = integrity_lines(check, db, kind, place, &reported, &why);
	if (r == -ENOMEM && lm_db_memory_is_there())
		r = integrity_lines(check, db, kind, place, &reported, &why);
	if (r == -ENOMEM && lm_db_memory_is_there())
		r = lm_err_set(&why, -EPROTO, "the database is damaged beyond what can be checked");
	return r < 0 ? lm_err_set(err, r, "%s", why.msg) : 0;
}

/*
 * The manifest and what it is signed with.
 */

#define MANIFEST LM_PLACE(.object = LM_MANIFEST_NAME)
#define WHITELIST LM_PLACE(.object = LM_WHITELIST_NAME)

static int fetch_signed(void *arg, const struct lm_hash *certificate, struct lm_buf *ret, struct lm_err *err)
{
	struct lm_check *check = arg;
	char path[LM_OBJECT_PATH_MAX] = LM_WHITELIST_NAME;
	if (certificate && certificate->set)
		lm_object_path(certificate, LM_OBJECT_CERTIFICATE, path);
	return check->storage->ops->get(check->storage, path, ret, err);
}

/* The printed hash, and the signature by the certificate that the manifest names. */
static void check_manifest_text(struct lm_check *check, const struct lm_buf *text, const struct lm_cert *cert)
{
	struct lm_signed_text parts;
	struct lm_hash said, actual;
	struct lm_err why = LM_ERR_INIT;
	int r = lm_signed_text_split(lm_buf_cstr(text), text->len, &parts, &why);
	if (r == 0)
		r = lm_hash_parse(parts.hash_text, parts.hash_text_len, &said, &why);
	if (r == 0)
		r = lm_hash_data(said.algo, text->data, parts.body_len, &actual, &why);
	if (r == 0 && !lm_hash_equal(&said, &actual))
		r = lm_err_set(&why, -EBADMSG, "the printed hash is %s, that of the text is %s", lm_hash_text(&said).s,
			lm_hash_text(&actual).s);
	if (r == 0 && cert)
		r = lm_verify_manifest(
			cert, parts.hash_text, parts.hash_text_len, parts.signature, parts.signature_len, &why);
	if (r < 0)
		lm_check_found(check, LM_CHECK_SIGNATURE, MANIFEST, "%s", lm_err_text(&why));
}

/* Would these bytes come out again where stock replication packs the content anew? */
static int check_reproducible(struct lm_check *check, const struct lm_hash *hash, struct lm_place place,
	struct lm_buf *content, struct lm_err *err)
{
	CLEANUP(lm_packer_freep) struct lm_packer *packer = NULL;
	CLEANUP(lm_buf_done) struct lm_buf packed = LM_BUF(content->len + (64 << 10));
	struct lm_hash again;
	int r = lm_packer_new(hash->algo, &packer, err);
	if (r == 0)
		r = lm_pack_reproducible(packer, lm_buf_cstr(content), content->len, &packed, &again, err);
	if (r == 0 && !lm_hash_equal(hash, &again))
		lm_check_found(check, LM_CHECK_REPACKED, place, "it was not packed by zlib at its default level");
	return r;
}

/* NULL where there is none that can be read (reported). */
static int check_certificate(struct lm_check *check, struct lm_cert **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf stored = LM_BUF(LM_PEM_MAX);
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX);
	char name[LM_OBJECT_PATH_MAX];
	struct lm_err why = LM_ERR_INIT;
	const struct lm_hash *hash = &check->manifest.certificate;
	if (!hash->set) {
		lm_check_found(check, LM_CHECK_CERTIFICATE, MANIFEST, "it names no certificate (field X)");
		return 0;
	}
	const struct lm_place place = {.object = lm_object_path(hash, LM_OBJECT_CERTIFICATE, name)};
	int r = check->storage->ops->get(check->storage, name, &stored, &why);
	if (r == 0)
		r = lm_unpack_buf(hash, LM_COMPRESSION_ZLIB, lm_buf_cstr(&stored), stored.len, &pem, &why);
	if (r == 0)
		r = lm_cert_parse(lm_buf_cstr(&pem), pem.len, ret, &why);
	return r < 0 ? lm_check_unavailable(
			       check, r, lm_err_text(&why), LM_CHECK_CERTIFICATE, LM_CHECK_CERTIFICATE, place, err)
		     : check_reproducible(check, hash, place, &pem, err);
}

static void check_expiry(struct lm_check *check, const struct lm_whitelist *whitelist)
{
	const struct lm_check_options *o = check->options;
	char when[32] = "";
	time_t t = whitelist->expires_s;
	struct tm tm;
	if (gmtime_r(&t, &tm))
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
	if (lm_whitelist_expired(whitelist, o->now_s))
		lm_check_found(check, LM_CHECK_WHITELIST, WHITELIST, "it expired at %s", when);
	else if (o->expiry_warning_s > 0 && lm_whitelist_expired(whitelist, o->now_s + o->expiry_warning_s))
		lm_check_found(check, LM_CHECK_WHITELIST_EXPIRY, WHITELIST, "it expires at %s, in %" PRId64 " hours",
			when, (whitelist->expires_s - o->now_s) / 3600);
}

static bool is_listed(const struct lm_whitelist *whitelist, const struct lm_cert *cert)
{
	for (size_t i = 0; i < whitelist->count; i++) {
		struct lm_hash fingerprint;
		if (lm_cert_fingerprint(cert, whitelist->fingerprints[i].algo, &fingerprint, NULL) == 0 &&
			lm_hash_equal(&fingerprint, &whitelist->fingerprints[i]))
			return true;
	}
	return false;
}

/* With public keys also its signature. */
static int check_whitelist(struct lm_check *check, const struct lm_cert *cert, struct lm_err *err)
{
	const struct lm_check_options *o = check->options;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	const char *fqrn = o->fqrn ? o->fqrn : check->manifest.fqrn;
	const struct lm_trust trust = {.fqrn = fqrn, .keys = o->keys, .key_count = o->key_count, .now_s = o->now_s};
	struct lm_whitelist whitelist;
	struct lm_err why = LM_ERR_INIT;
	int r = check->storage->ops->get(check->storage, LM_WHITELIST_NAME, &text, &why);
	if (r == 0)
		r = lm_whitelist_parse(lm_buf_cstr(&text), text.len, &whitelist, &why);
	if (r < 0)
		return lm_check_unavailable(
			check, r, lm_err_text(&why), LM_CHECK_WHITELIST, LM_CHECK_WHITELIST, WHITELIST, err);
	if (*fqrn && strcmp(whitelist.fqrn, fqrn) != 0)
		lm_check_found(check, LM_CHECK_WHITELIST, WHITELIST, "it is that of repository '%s', not '%s'",
			whitelist.fqrn, fqrn);
	else if (o->key_count > 0)
		r = lm_trust_whitelist(&trust, lm_buf_cstr(&text), text.len, &whitelist, &why);
	if (r < 0 && r != -EKEYEXPIRED)
		lm_check_found(check, LM_CHECK_WHITELIST, WHITELIST, "%s", lm_err_text(&why));
	check_expiry(check, &whitelist);
	if (cert && !is_listed(&whitelist, cert))
		lm_check_found(check, LM_CHECK_WHITELIST, WHITELIST,
			"the fingerprint of the certificate that signed the manifest is not on it");
	if (o->key_count == 0)
		lm_check_found(check, LM_CHECK_UNVERIFIED, WHITELIST, "no public key was given to verify it with");
	return 0;
}

/* What lm_trust_manifest() would say to a client that comes by now; each reason by itself has been looked at before. */
static void check_trust(struct lm_check *check, const struct lm_buf *text)
{
	const struct lm_check_options *o = check->options;
	const char *fqrn = o->fqrn ? o->fqrn : check->manifest.fqrn;
	const struct lm_trust trust = {.fqrn = fqrn, .keys = o->keys, .key_count = o->key_count, .now_s = o->now_s};
	struct lm_manifest trusted;
	struct lm_err why = LM_ERR_INIT;
	const uint64_t *kinds = check->result.kinds;
	if (o->key_count == 0 || kinds[LM_CHECK_SIGNATURE] + kinds[LM_CHECK_WHITELIST] + kinds[LM_CHECK_CERTIFICATE] +
						 kinds[LM_CHECK_MANIFEST] + kinds[LM_CHECK_OBJECT_UNREADABLE] >
					 0)
		return;
	if (lm_trust_manifest(&trust, lm_buf_cstr(text), text->len, fetch_signed, check, &trusted, &why) < 0)
		lm_check_found(check, LM_CHECK_SIGNATURE, MANIFEST, "%s", lm_err_text(&why));
}

static void check_fields(struct lm_check *check)
{
	const struct lm_manifest *m = &check->manifest;
	const char *fqrn = check->options->fqrn;
	if (strcmp(m->root_path, LM_MANIFEST_ROOT_PATH) != 0)
		lm_check_found(check, LM_CHECK_MANIFEST, MANIFEST,
			"field R is %s; the root's is " LM_MANIFEST_ROOT_PATH, m->root_path);
	if (!m->fqrn[0])
		lm_check_found(check, LM_CHECK_MANIFEST, MANIFEST, "it names no repository (field N)");
	else if (fqrn && strcmp(m->fqrn, fqrn) != 0)
		lm_check_found(
			check, LM_CHECK_MANIFEST, MANIFEST, "it is that of repository '%s', not '%s'", m->fqrn, fqrn);
	if (m->published_s == 0)
		lm_check_found(check, LM_CHECK_TOLERATED, MANIFEST, "no time of publication (field T)");
}

static int check_metainfo(struct lm_check *check, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf stored = LM_BUF(METAINFO_MAX);
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(METAINFO_MAX);
	char name[LM_OBJECT_PATH_MAX];
	struct lm_err why = LM_ERR_INIT;
	json_error_t where;
	const struct lm_hash *hash = &check->manifest.metainfo;
	if (!hash->set)
		return 0;
	const struct lm_place place = {.object = lm_object_path(hash, LM_OBJECT_METAINFO, name)};
	int r = check->storage->ops->get(check->storage, name, &stored, &why);
	if (r == 0)
		r = lm_unpack_buf(hash, LM_COMPRESSION_ZLIB, lm_buf_cstr(&stored), stored.len, &text, &why);
	if (r < 0)
		return lm_check_unavailable(
			check, r, lm_err_text(&why), LM_CHECK_METAINFO, LM_CHECK_METAINFO, place, err);
	json_t *json = json_loadb(lm_buf_cstr(&text), text.len, 0, &where);
	if (!json && !where.text[0])
		return lm_err_oom(err); /* of mistakes in the text there is always something to say */
	if (!json_is_object(json))
		lm_check_found(check, LM_CHECK_METAINFO, place, "it is no JSON object%s%s", json ? "" : ": ",
			json ? "" : where.text);
	json_decref(json);
	return check_reproducible(check, hash, place, &text, err);
}

/* An alternative name leads to the same bytes. */
static int check_alternative(
	struct lm_check *check, const struct lm_hash *hash, enum lm_object_kind kind, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, check->dir, err);
	char name[LM_OBJECT_PATH_MAX];
	struct lm_hash actual;
	struct lm_err why = LM_ERR_INIT;
	if (fd < 0 || !hash->set)
		return LM_MIN(fd, 0);
	const struct lm_place place = {.object = lm_object_alternative_path(hash, kind, name)};
	int r = check->storage->ops->get_file(check->storage, name, fd, &why);
	if (r == 0)
		r = lm_hash_fd(hash->algo, fd, &actual, &why);
	if (r == 0 && !lm_hash_equal(hash, &actual))
		r = lm_err_set(&why, -EBADMSG, "it holds something else, of hash %s", lm_hash_text(&actual).s);
	return r < 0 ? lm_check_unavailable(
			       check, r, lm_err_text(&why), LM_CHECK_ALTERNATIVE, LM_CHECK_ALTERNATIVE, place, err)
		     : 0;
}

static int check_alternatives(struct lm_check *check, struct lm_err *err)
{
	const struct lm_manifest *m = &check->manifest;
	if (!m->alternative_catalogs)
		return 0;
	int r = check_alternative(check, &m->catalog, LM_OBJECT_CATALOG, err);
	if (r == 0)
		r = check_alternative(check, &m->certificate, LM_OBJECT_CERTIFICATE, err);
	if (r == 0)
		r = check_alternative(check, &m->history, LM_OBJECT_HISTORY, err);
	return r < 0 ? r : check_alternative(check, &m->metainfo, LM_OBJECT_METAINFO, err);
}

static int check_replica(struct lm_check *check, struct lm_err *err)
{
	const struct lm_place place = {.object = REPLICA_NAME};
	struct lm_err why = LM_ERR_INIT;
	int r = check->storage->ops->has(check->storage, REPLICA_NAME, &why);
	if (r > 0)
		return 0;
	return lm_check_unavailable(
		check, r == 0 ? -ENOENT : r, lm_err_text(&why), LM_CHECK_REPLICA, LM_CHECK_REPLICA, place, err);
}

/* 1: there is a manifest whose catalogs can be checked. */
static int check_manifest(struct lm_check *check, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	CLEANUP(lm_cert_freep) struct lm_cert *cert = NULL;
	struct lm_err why = LM_ERR_INIT;
	int r = check->storage->ops->get(check->storage, LM_MANIFEST_NAME, &text, err);
	if (r < 0)
		return lm_err_prefix(err, r, "manifest");
	r = lm_manifest_parse(lm_buf_cstr(&text), text.len, &check->manifest, &why);
	if (r < 0) {
		lm_check_found(check, LM_CHECK_MANIFEST, MANIFEST, "%s", why.msg);
		return 0;
	}
	check_fields(check);
	r = check_certificate(check, &cert, err);
	if (r == 0)
		check_manifest_text(check, &text, cert);
	if (r == 0)
		r = check_whitelist(check, cert, err);
	if (r == 0)
		check_trust(check, &text);
	if (r == 0)
		r = check_metainfo(check, err);
	if (r == 0)
		r = check_alternatives(check, err);
	if (r == 0)
		r = check_replica(check, err);
	return r < 0 ? r : 1;
}

/*
 * The order of things.
 */

static int add_newest(struct lm_check *check, struct lm_err *err)
{
	const struct lm_check_options *o = check->options;
	char path[] = "";
	struct lm_check_ref ref = {.path = path,
		.hash = check->manifest.catalog,
		.size = check->manifest.catalog_size,
		.revision = check->manifest.revision};
	if (o->tag && !o->tags)
		return 0;
	if (o->root) {
		ref.hash = *o->root;
		ref.size = o->root_size;
		ref.revision = UINT64_MAX;
	}
	return lm_check_tree_add(check->tree, &ref, err);
}

static int check_all(struct lm_check *check, struct lm_err *err)
{
	int r = 0;
	if (!check->options->root) {
		r = check_manifest(check, err);
		if (r <= 0)
			return r;
		r = lm_check_history(check, err);
		if (r == 0)
			r = lm_check_reflog(check, err);
	}
	if (r == 0)
		r = add_newest(check, err);
	return r < 0 ? r : lm_check_tree_run(check, err);
}

static int start(struct lm_check *check, struct lm_err *err)
{
	check->dir = lm_str_printf("%s/lamella-check-XXXXXX", check->options->scratch);
	if (!check->dir)
		return lm_err_oom(err);
	if (!mkdtemp(check->dir)) {
		int r = lm_err_sys(err, -errno, "scratch directory in %s", check->options->scratch);
		free(STEAL(check->dir));
		return r;
	}
	int r = lm_check_tree_new(check, &check->tree, err);
	return r < 0 ? r : lm_check_objects_new(check, &check->objects, err);
}

static void check_done(struct lm_check *check)
{
	lm_check_objects_free(check->objects);
	lm_check_tree_free(check->tree);
	if (check->dir)
		(void)!lm_remove_tree(AT_FDCWD, check->dir, NULL);
	free(check->dir);
	lm_lock_done(&check->lock);
}

int lm_repo_check(struct lm_storage *storage, const struct lm_check_options *options, lm_check_fn *fn, void *arg,
	struct lm_check_result *ret, struct lm_err *err)
{
	CLEANUP(check_done)
	struct lm_check check = {.storage = storage, .options = options, .fn = fn, .fn_arg = arg};
	lm_lock_init(&check.lock);
	int r = start(&check, err);
	if (r == 0)
		r = check_all(&check, err);
	if (check.objects) {
		int drained = lm_check_objects_drain(check.objects, r < 0 ? NULL : err);
		r = r < 0 ? r : drained;
	}
	*ret = check.result;
	return r;
}
