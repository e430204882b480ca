/*
 * forge: changes the databases of a repository past all that guards a publisher, and signs the outcome.
 *
 *   forge DIR FQRN KEYS [STEP MOUNTPOINT VALUE]...
 *
 * DIR is the repository itself; KEYS a directory of keys, made where it is absent. Steps, in their order:
 *
 *   sql MOUNTPOINT SQL        runs over the catalog at MOUNTPOINT ("" is the root). The functions path_1(text) and
 *                             path_2(text) give the halves of a path's hash.
 *   nest MOUNTPOINT FILE      a new catalog in a directory of the root catalog, with a symbolic link FILE in it
 *   algo MOUNTPOINT ALGO      the catalog is named by sha1, rmd160 or shake128
 *   database MOUNTPOINT FILE  FILE takes the place of the database
 *   stored MOUNTPOINT FILE    FILE takes the place of the stored object; nothing is packed
 *   tags "" SQL               runs over the history
 *   field "" LETTERVALUE      a field of the manifest: A, B, H or S
 *   fingerprint "" ALGO       one more on the whitelist, that of the certificate; by default sha1
 *
 * Then what was changed is stored, hashes are passed up to the root, and manifest and whitelist are written anew, as a
 * new revision. Exit code 0, or 1 (said).
 */
#include "base/file.h"
#include "base/str.h"
#include "repo/catalog.h"
#include "repo/manifest.h"
#include "repo/object_store.h"
#include "repo/pathhash.h"
#include "repo/repo_keys.h"
#include "repo/whitelist.h"

#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { PARTS_MAX = 64, DATABASE_MAX = 1 << 30, DAY_S = 86400 };

struct part { /* a database on its way */
	char mountpoint[1024];
	char path[1200];
	enum lm_hash_algo algo;
	const char *stored; /* the file whose bytes are the object; NULL: the database is packed */
	struct lm_hash hash;
	uint64_t size;
};

static struct lm_err err;
static struct lm_storage *storage;
static struct lm_manifest manifest;
static struct lm_repo_keys keys;
static char scratch[] = "/tmp/forge-XXXXXX";
static struct part parts[PARTS_MAX]; /* catalogs: those above come first */
static size_t part_count;
static struct part history;
static struct lm_whitelist whitelist;

static void remove_scratch(void)
{
	(void)!lm_remove_tree(AT_FDCWD, scratch, NULL);
}

static void die(const char *what, const char *why)
{
	fprintf(stderr, "forge: %s: %s\n", what, why);
	exit(1);
}

static void must(int r, const char *what)
{
	if (r < 0)
		die(what, lm_err_text(&err));
}

/* Databases. */

static void path_half(sqlite3_context *context, int count, sqlite3_value **values)
{
	const char *text = (const char *)sqlite3_value_text(values[0]);
	struct lm_path_hash hash = lm_path_hash(text ? text : "", text ? strlen(text) : 0);
	sqlite3_result_int64(context, sqlite3_user_data(context) ? hash.b : hash.a);
}

static sqlite3 *open_database(const struct part *part)
{
	sqlite3 *db = NULL;
	if (sqlite3_open_v2(part->path, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
		die(part->path, sqlite3_errmsg(db));
	sqlite3_create_function(db, "path_1", 1, SQLITE_UTF8, NULL, path_half, NULL, NULL);
	sqlite3_create_function(db, "path_2", 1, SQLITE_UTF8, db, path_half, NULL, NULL);
	return db;
}

static void run_sql(const struct part *part, const char *sql)
{
	sqlite3 *db = open_database(part);
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		die(sql, sqlite3_errmsg(db));
	sqlite3_close(db);
}

static struct part *new_part(const char *mountpoint, enum lm_hash_algo algo)
{
	if (part_count == PARTS_MAX)
		die(mountpoint, "too many catalogs");
	struct part *part = &parts[part_count++];
	snprintf(part->mountpoint, sizeof(part->mountpoint), "%s", mountpoint);
	snprintf(part->path, sizeof(part->path), "%s/%zu", scratch, part_count);
	part->algo = algo;
	return part;
}

static struct part *load(const char *mountpoint, const struct lm_hash *hash)
{
	struct part *part = new_part(mountpoint, hash->algo);
	must(lm_object_load_file(storage, hash, LM_OBJECT_CATALOG, DATABASE_MAX, part->path, &err), mountpoint);
	return part;
}

/* The nested catalog of `above` that is at mountpoint or above it. */
static struct part *load_towards(const struct part *above, const char *mountpoint)
{
	sqlite3 *db = open_database(above);
	sqlite3_stmt *stmt = NULL;
	struct lm_hash hash;
	if (sqlite3_prepare_v2(db,
		    "SELECT path, sha1 FROM nested_catalogs WHERE path = ?1 OR substr(?1, 1, length(path) + 1) = path "
		    "|| '/'",
		    -1, &stmt, NULL) != SQLITE_OK)
		die(above->mountpoint, sqlite3_errmsg(db));
	sqlite3_bind_text(stmt, 1, mountpoint, -1, SQLITE_STATIC);
	if (sqlite3_step(stmt) != SQLITE_ROW)
		die(mountpoint, "no catalog is there");
	const char *path = (const char *)sqlite3_column_text(stmt, 0),
		   *text = (const char *)sqlite3_column_text(stmt, 1);
	must(lm_hash_parse(text, strlen(text), &hash, &err), mountpoint);
	struct part *part = NULL;
	for (size_t i = 0; i < part_count && !part; i++)
		part = strcmp(parts[i].mountpoint, path) == 0 ? &parts[i] : NULL;
	part = part ? part : load(path, &hash);
	sqlite3_finalize(stmt);
	sqlite3_close(db);
	return part;
}

static struct part *part_at(const char *mountpoint)
{
	for (size_t i = 0; i < part_count; i++)
		if (strcmp(parts[i].mountpoint, mountpoint) == 0)
			return &parts[i];
	struct part *part = part_count ? &parts[0] : load("", &manifest.catalog);
	while (strcmp(part->mountpoint, mountpoint) != 0)
		part = load_towards(part, mountpoint);
	return part;
}

static struct part *history_part(void)
{
	if (!history.path[0]) {
		snprintf(history.path, sizeof(history.path), "%s/history", scratch);
		history.algo = manifest.history.algo;
		must(lm_object_load_file(
			     storage, &manifest.history, LM_OBJECT_HISTORY, DATABASE_MAX, history.path, &err),
			"history");
	}
	return &history;
}

/* Steps. */

static void nest(const char *mountpoint, const char *file)
{
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *writer = NULL;
	struct lm_row root = {.mode = S_IFDIR | 0755, .size = 4096, .mtime_s = 1700000000, .link_count = 2};
	struct lm_row link = {.mode = S_IFLNK | 0777, .symlink = (char *)"target"};
	struct lm_counters counters;
	const struct part *top = part_at("");
	struct part *part = new_part(mountpoint, LM_HASH_SHA1);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", mountpoint, file);
	must(lm_catalog_create(part->path, mountpoint, &root, &writer, &err), mountpoint);
	must(lm_catalog_insert(writer, path, &link, NULL, 0, &err), path);
	must(lm_catalog_writer_finish(writer, &(struct lm_catalog_props){.revision = 1}, &counters, &counters, &err),
		mountpoint);
	CLEANUP(lm_freep)
	char *sql =
		lm_str_printf("INSERT INTO catalog (md5path_1, md5path_2, parent_1, parent_2, hardlinks, size, mode, "
			      "mtime, flags, name, symlink, uid, gid) VALUES (path_1('%s'), path_2('%s'), "
			      "path_1('%.*s'), path_2('%.*s'), 2, 4096, %u, 1700000000, 3, '%s', '', 0, 0); "
			      "INSERT INTO nested_catalogs (path, sha1) VALUES ('%s', '')",
			mountpoint, mountpoint, (int)(strrchr(mountpoint, '/') - mountpoint), mountpoint,
			(int)(strrchr(mountpoint, '/') - mountpoint), mountpoint, root.mode,
			strrchr(mountpoint, '/') + 1, mountpoint);
	run_sql(top, sql);
}

static enum lm_hash_algo parse_algo(const char *text)
{
	static const char *const names[] = {"sha1", "rmd160", "shake128"};
	for (unsigned i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(text, names[i]) == 0)
			return (enum lm_hash_algo)i;
	die(text, "no such algorithm");
	return LM_HASH_SHA1;
}

static void read_file(const char *path, struct lm_buf *ret)
{
	*ret = LM_BUF(DATABASE_MAX);
	must(lm_file_read(AT_FDCWD, path, ret, &err), path);
}

static void replace_database(struct part *part, const char *file)
{
	CLEANUP(lm_buf_done) struct lm_buf data = {0};
	read_file(file, &data);
	must(lm_file_replace(AT_FDCWD, part->path, data.data, data.len, 0600, 0, &err), file);
}

static void set_field(const char *text)
{
	const char *value = text + 1;
	switch (text[0]) {
	case 'A':
		manifest.alternative_catalogs = strcmp(value, "yes") == 0;
		return;
	case 'B':
		must(lm_str_u64(value, strlen(value), &manifest.catalog_size), text);
		return;
	case 'H':
		manifest.history = (struct lm_hash){0};
		if (*value)
			must(lm_hash_parse(value, strlen(value), &manifest.history, &err), text);
		return;
	case 'S':
		must(lm_str_u64(value, strlen(value), &manifest.revision), text);
		manifest.revision--;
		return;
	default:
		die(text, "no such field");
	}
}

static void add_fingerprint(enum lm_hash_algo algo)
{
	if (whitelist.count == LM_FINGERPRINTS_MAX)
		die("whitelist", "too many fingerprints");
	must(lm_cert_fingerprint(keys.cert, algo, &whitelist.fingerprints[whitelist.count++], &err), "fingerprint");
}

static void take_step(const char *step, const char *mountpoint, const char *value)
{
	if (strcmp(step, "sql") == 0)
		run_sql(part_at(mountpoint), value);
	else if (strcmp(step, "nest") == 0)
		nest(mountpoint, value);
	else if (strcmp(step, "algo") == 0)
		part_at(mountpoint)->algo = parse_algo(value);
	else if (strcmp(step, "database") == 0)
		replace_database(part_at(mountpoint), value);
	else if (strcmp(step, "stored") == 0)
		part_at(mountpoint)->stored = value;
	else if (strcmp(step, "tags") == 0)
		run_sql(history_part(), value);
	else if (strcmp(step, "field") == 0)
		set_field(value);
	else if (strcmp(step, "fingerprint") == 0)
		add_fingerprint(parse_algo(value));
	else
		die(step, "no such step");
}

/* Storing. */

static void store_raw(struct part *part, enum lm_object_kind kind)
{
	CLEANUP(lm_buf_done) struct lm_buf data = {0};
	char name[LM_OBJECT_PATH_MAX];
	read_file(part->stored, &data);
	must(lm_hash_data(part->algo, data.data, data.len, &part->hash, &err), part->stored);
	must(storage->ops->put(storage, lm_object_path(&part->hash, kind, name), data.data, data.len, &err), name);
}

static void store(struct part *part, enum lm_object_kind kind)
{
	if (part->stored)
		store_raw(part, kind);
	else
		must(lm_object_store_file(storage, part->algo, kind, part->path, &part->hash, &part->size, &err),
			part->mountpoint);
}

/* Catalogs of old revisions have no sizes. */
static void name_in(const struct part *above, const struct part *part)
{
	CLEANUP(lm_freep)
	char *hash = lm_str_printf("UPDATE nested_catalogs SET sha1 = '%s' WHERE path = '%s'",
		lm_hash_text(&part->hash).s, part->mountpoint);
	CLEANUP(lm_freep)
	char *size = lm_str_printf("UPDATE nested_catalogs SET size = %llu WHERE path = '%s'",
		(unsigned long long)part->size, part->mountpoint);
	run_sql(above, hash);
	sqlite3 *db = open_database(above);
	(void)sqlite3_exec(db, size, NULL, NULL, NULL);
	sqlite3_close(db);
}

static const struct part *above(const struct part *part)
{
	const struct part *found = &parts[0];
	for (const struct part *p = parts; p < part; p++) {
		size_t len = strlen(p->mountpoint);
		if (strncmp(p->mountpoint, part->mountpoint, len) == 0 && part->mountpoint[len] == '/' &&
			len >= strlen(found->mountpoint))
			found = p;
	}
	return found;
}

static void store_parts(void)
{
	for (size_t i = part_count; i-- > 0;) {
		store(&parts[i], LM_OBJECT_CATALOG);
		if (i > 0)
			name_in(above(&parts[i]), &parts[i]);
	}
	if (part_count) {
		manifest.catalog = parts[0].hash;
		manifest.catalog_size = parts[0].size;
	}
	if (history.path[0]) {
		store(&history, LM_OBJECT_HISTORY);
		manifest.history = history.hash;
	}
}

/* Signing. */

typedef int sign_fn(const struct lm_key *key, const char *text, size_t len, struct lm_buf *ret, struct lm_err *err);

static void sign_and_put(struct lm_buf *text, sign_fn *sign, const struct lm_key *key, const char *name)
{
	CLEANUP(lm_buf_done) struct lm_buf signature = LM_BUF(LM_SIGNATURE_MAX);
	struct lm_signed_text split;
	must(lm_signed_text_split(lm_buf_cstr(text), text->len, &split, &err), name);
	must(sign(key, split.hash_text, split.hash_text_len, &signature, &err), name);
	must(lm_buf_append(text, signature.data, signature.len), name);
	must(storage->ops->put(storage, name, text->data, text->len, &err), name);
}

static void store_certificate(void)
{
	CLEANUP(lm_buf_done) struct lm_buf pem = LM_BUF(LM_PEM_MAX);
	CLEANUP(lm_packer_freep) struct lm_packer *packer = NULL;
	must(lm_cert_format(keys.cert, &pem, &err), "certificate");
	must(lm_packer_new(manifest.catalog.algo, &packer, &err), "certificate");
	must(lm_object_store(storage, packer, LM_OBJECT_CERTIFICATE, pem.data, pem.len, &manifest.certificate, &err),
		"certificate");
}

static void sign_manifest(void)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	manifest.revision++;
	manifest.published_s = LM_MAX(manifest.published_s, (int64_t)time(NULL));
	must(lm_manifest_format(&manifest, &text, &err), "manifest");
	sign_and_put(&text, lm_sign_manifest, keys.key, LM_MANIFEST_NAME);
}

static void sign_whitelist(const char *fqrn)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_WHITELIST_MAX);
	whitelist.created_s = time(NULL);
	whitelist.expires_s = whitelist.created_s + 30 * DAY_S;
	if (whitelist.count == 0)
		add_fingerprint(LM_HASH_SHA1);
	snprintf(whitelist.fqrn, sizeof(whitelist.fqrn), "%s", fqrn);
	must(lm_whitelist_format(&whitelist, &text, &err), "whitelist");
	sign_and_put(&text, lm_sign_whitelist, keys.master, LM_WHITELIST_NAME);
}

static void open_all(const char *dir, const char *fqrn, const char *key_dir)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LM_MANIFEST_MAX);
	if (!mkdtemp(scratch) || atexit(remove_scratch) != 0)
		die(scratch, strerror(errno));
	must(lm_storage_dir_open(dir, false, &storage, &err), dir);
	must(storage->ops->get(storage, LM_MANIFEST_NAME, &text, &err), dir);
	must(lm_manifest_parse(lm_buf_cstr(&text), text.len, &manifest, &err), dir);
	struct stat st;
	must(stat(key_dir, &st) < 0 ? lm_repo_keys_make(key_dir, fqrn, &keys, &err)
				    : lm_repo_keys_load(key_dir, fqrn, &keys, &err),
		key_dir);
}

int main(int argc, char **argv)
{
	if (argc < 4 || (argc - 4) % 3 != 0) {
		fputs("usage: forge DIR FQRN KEYS [STEP MOUNTPOINT VALUE]...\n", stderr);
		return 1;
	}
	open_all(argv[1], argv[2], argv[3]);
	for (int i = 4; i < argc; i += 3)
		take_step(argv[i], argv[i + 1], argv[i + 2]);
	store_parts();
	store_certificate();
	sign_manifest();
	sign_whitelist(argv[2]);
	lm_repo_keys_done(&keys);
	lm_storage_free(storage);
	return 0;
}
