#include "convert/ledger.h"

#include "base/file.h"
#include "base/lock.h"
#include "base/str.h"
#include "common.h"

#include <inttypes.h>
#include <limits.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

/* VERSION is part of the secret too: rows of another form are not there, whatever the header says. */
#define VERSION "1"

enum {
	APPLICATION_ID = 0x4c4d4c44, /* "LMLD" */
	SHA256_BYTES = 32,
	CODE_BYTES = 16,
	WRITE_CACHE_KIB = 4 << 10,
	READ_CACHE_KIB = 512,
	BATCH = 512,	    /* rows of a transaction */
	PENDING_MAX = 4096, /* those that come while one is written; more are forgotten */
	RECENT = 4096,	    /* found without the database */
	BOOT_MAX = 64,
	LAYER_TEXT_MAX = 256,
	SIGNATURE_MAX = 4096,
};

struct row {
	struct lm_content content;
	struct lm_hash hash;
	uint64_t packed;
};

struct lm_ledger {
	/* constant after open */
	char *path, *damaged_path;
	int lock_fd; /* -1: only peeked into */
	enum lm_hash_algo algo;
	uint8_t secret[SHA256_BYTES];
	int64_t run;
	char boot[BOOT_MAX];
	struct lm_presence *presence;
	/* whoever has set `writing` */
	sqlite3 *db;
	sqlite3_stmt *insert;
	struct row *batch;
	/* under lock */
	struct lm_lock lock;
	struct lm_cond written;
	bool writing;
	enum { WORKING, STOPPED, DAMAGED } state;
	struct row *pending;
	size_t pending_count;
	struct row *recent; /* by the first bits of the digest; size 0 and no hash: none */
};

struct lm_ledger_reader {
	struct lm_ledger *ledger;
	sqlite3 *db;
	sqlite3_stmt *find;
};

/* --- SQLite --- */

static void finalizep(sqlite3_stmt **stmt)
{
	sqlite3_finalize(*stmt);
}

static bool is_damage(int rc)
{
	rc &= 0xff;
	return rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB || rc == SQLITE_ERROR || rc == SQLITE_CONSTRAINT ||
	       rc == SQLITE_MISMATCH || rc == SQLITE_SCHEMA || rc == SQLITE_TOOBIG;
}

static int exec(sqlite3 *db, const char *sql)
{
	return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

static int prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret)
{
	return sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL);
}

/* The only value of the only row; no row: absent. */
static int number(sqlite3 *db, const char *sql, int64_t absent, int64_t *ret)
{
	CLEANUP(finalizep) sqlite3_stmt *stmt = NULL;
	int rc = prepare(db, sql, &stmt);
	if (rc != SQLITE_OK)
		return rc;
	rc = sqlite3_step(stmt);
	*ret = rc == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : absent;
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static bool column_blob(sqlite3_stmt *stmt, int column, void *ret, size_t len)
{
	const void *data = sqlite3_column_blob(stmt, column);
	if (!data || (size_t)sqlite3_column_bytes(stmt, column) != len)
		return false;
	memcpy(ret, data, len);
	return true;
}

static int open_db(const char *path, int flags, unsigned cache_kib, sqlite3 **ret)
{
	char sql[128];
	int rc = sqlite3_open_v2(
		path, ret, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE | SQLITE_OPEN_EXRESCODE, NULL);
	if (rc != SQLITE_OK)
		return rc;
	sqlite3_limit(*ret, SQLITE_LIMIT_LENGTH, 1 << 20);
	sqlite3_limit(*ret, SQLITE_LIMIT_ATTACHED, 0);
	sqlite3_db_config(*ret, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	sqlite3_db_config(*ret, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	sqlite3_db_config(*ret, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
	sqlite3_db_config(*ret, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
	snprintf(sql, sizeof(sql), "PRAGMA cache_size = -%u; PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON",
		cache_kib);
	return exec(*ret, sql);
}

/* --- codes --- */

struct coded { /* what a code is over */
	uint8_t bytes[1024];
	size_t len;
};

static void code_add(struct coded *coded, const void *data, size_t len)
{
	memcpy(coded->bytes + coded->len, data, len);
	coded->len += len;
}

static void code_add_number(struct coded *coded, uint64_t value)
{
	for (int i = 0; i < 8; i++, value >>= 8)
		coded->bytes[coded->len++] = (uint8_t)value;
}

/* All zeros, which fits no row, where the library fails. */
static void code_finish(const struct lm_ledger *ledger, const struct coded *coded, uint8_t ret[CODE_BYTES])
{
	uint8_t full[EVP_MAX_MD_SIZE] = {0};
	unsigned len = 0;
	bool good = HMAC(EVP_sha256(), ledger->secret, sizeof(ledger->secret), coded->bytes, coded->len, full, &len);
	memset(ret, 0, CODE_BYTES);
	if (good)
		memcpy(ret, full, CODE_BYTES);
}

static bool code_fits(const struct lm_ledger *ledger, const struct coded *coded, sqlite3_stmt *stmt, int column)
{
	static const uint8_t none[CODE_BYTES];
	uint8_t there[CODE_BYTES], right[CODE_BYTES];
	code_finish(ledger, coded, right);
	return memcmp(right, none, CODE_BYTES) != 0 && column_blob(stmt, column, there, CODE_BYTES) &&
	       memcmp(there, right, CODE_BYTES) == 0;
}

static struct coded content_coded(const struct row *row, int64_t run)
{
	struct coded coded = {.len = 0};
	code_add(&coded, "content", 8);
	code_add(&coded, row->content.sha256, sizeof(row->content.sha256));
	code_add_number(&coded, row->content.size);
	code_add(&coded, row->hash.bytes, sizeof(row->hash.bytes));
	code_add_number(&coded, row->hash.algo);
	code_add_number(&coded, row->packed);
	code_add_number(&coded, (uint64_t)run);
	return coded;
}

static struct coded layer_coded(const uint8_t key[SHA256_BYTES], const char *text, int64_t run)
{
	struct coded coded = {.len = 0};
	code_add(&coded, "layer", 6);
	code_add(&coded, key, SHA256_BYTES);
	code_add(&coded, text, strlen(text) + 1);
	code_add_number(&coded, (uint64_t)run);
	return coded;
}

static int digest_of(const void *data, size_t len, uint8_t ret[SHA256_BYTES], struct lm_err *err)
{
	return EVP_Digest(data, len, ret, NULL, EVP_sha256(), NULL) == 1
		       ? 0
		       : lm_err_set(err, -EIO, "SHA-256 by the cryptographic library failed");
}

/* The signature of a text that no manifest's hash line can be: always the same, known to the owner of the key alone. */
static int make_secret(struct lm_ledger *ledger, const struct lm_ledger_owner *owner, struct lm_err *err)
{
	CLEANUP(lm_freep) char *text = lm_str_printf("lamella ledger " VERSION " of %s", owner->fqrn);
	CLEANUP(lm_buf_done) struct lm_buf signature = LM_BUF(SIGNATURE_MAX);
	if (!text)
		return lm_err_oom(err);
	int r = lm_sign_manifest(owner->key, text, strlen(text), &signature, err);
	if (r == 0)
		r = digest_of(signature.data, signature.len, ledger->secret, err);
	if (r == 0)
		explicit_bzero(signature.data, signature.len);
	return r;
}

/* --- stopping --- */

/* Lock not held. Says so the first time; the rest of the run goes on without. */
static void stop(struct lm_ledger *ledger, sqlite3 *db, int rc)
{
	if ((rc & 0xff) == SQLITE_BUSY)
		return;
	bool damage = is_damage(rc), first;
	{
		LM_LOCKED(&ledger->lock);
		first = ledger->state == WORKING;
		if (first || damage)
			ledger->state = damage ? DAMAGED : STOPPED;
		ledger->pending_count = 0;
	}
	if (first)
		lm_cli_error("ledger %s: %s: going on without it%s", ledger->path,
			db ? sqlite3_errmsg(db) : sqlite3_errstr(rc), damage ? ", it will begin anew" : "");
}

static bool working(struct lm_ledger *ledger)
{
	LM_LOCKED(&ledger->lock);
	return ledger->state == WORKING;
}

static void remove_beside(const char *path, const char *suffix)
{
	char name[PATH_MAX];
	if ((size_t)snprintf(name, sizeof(name), "%s%s", path, suffix) < sizeof(name))
		(void)unlink(name);
}

/* Nobody has it open. */
static int move_aside(struct lm_ledger *ledger, struct lm_err *err)
{
	remove_beside(ledger->path, "-wal");
	remove_beside(ledger->path, "-shm");
	if (rename(ledger->path, ledger->damaged_path) < 0 && errno != ENOENT)
		return lm_err_sys(err, -errno, "move %s aside", ledger->path);
	return 0;
}

/* --- open --- */

static const char schema[] =
	"PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; BEGIN IMMEDIATE;"
	"CREATE TABLE runs (id INTEGER PRIMARY KEY, boot TEXT NOT NULL, durable INTEGER NOT NULL);"
	"CREATE TABLE content (sha256 BLOB NOT NULL, algo INTEGER NOT NULL, size INTEGER NOT NULL, hash BLOB NOT NULL, "
	"packed INTEGER NOT NULL, run INTEGER NOT NULL, code BLOB NOT NULL, PRIMARY KEY (sha256, algo)) WITHOUT ROWID;"
	"CREATE TABLE layers (key BLOB NOT NULL PRIMARY KEY, value TEXT NOT NULL, run INTEGER NOT NULL, "
	"code BLOB NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE owner (code BLOB NOT NULL);"
	"PRAGMA application_id = 1280134212; PRAGMA user_version = " VERSION;
_Static_assert(APPLICATION_ID == 1280134212, "as in the schema");

static struct coded owner_coded(void)
{
	struct coded coded = {.len = 0};
	code_add(&coded, "owner", 6);
	return coded;
}

static int make_tables(struct lm_ledger *ledger)
{
	CLEANUP(finalizep) sqlite3_stmt *stmt = NULL;
	const struct coded coded = owner_coded();
	uint8_t code[CODE_BYTES];
	code_finish(ledger, &coded, code);
	int rc = exec(ledger->db, schema);
	if (rc == SQLITE_OK)
		rc = prepare(ledger->db, "INSERT INTO owner (code) VALUES (?1)", &stmt);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_blob(stmt, 1, code, sizeof(code), SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	return rc == SQLITE_DONE ? exec(ledger->db, "COMMIT") : rc;
}

/* SQLITE_NOTADB: made by something else. */
static int check_owner(struct lm_ledger *ledger)
{
	CLEANUP(finalizep) sqlite3_stmt *stmt = NULL;
	const struct coded coded = owner_coded();
	int64_t application = 0, version = 0;
	int rc = number(ledger->db, "PRAGMA application_id", 0, &application);
	if (rc == SQLITE_OK)
		rc = number(ledger->db, "PRAGMA user_version", 0, &version);
	if (rc == SQLITE_OK && (application != APPLICATION_ID || version != atoi(VERSION)))
		rc = SQLITE_NOTADB;
	if (rc == SQLITE_OK)
		rc = prepare(ledger->db, "SELECT code FROM owner", &stmt);
	if (rc != SQLITE_OK)
		return rc;
	rc = sqlite3_step(stmt);
	if (rc == SQLITE_DONE || (rc == SQLITE_ROW && !code_fits(ledger, &coded, stmt, 0)))
		return SQLITE_NOTADB;
	return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

/* What runs before the machine was restarted stored, and never made durable, may be empty files. */
static int forget_volatile(struct lm_ledger *ledger)
{
	static const char *const texts[] = {
		"DELETE FROM content WHERE run IN (SELECT id FROM runs WHERE NOT durable AND boot != ?1)",
		"DELETE FROM layers WHERE run IN (SELECT id FROM runs WHERE NOT durable AND boot != ?1)",
		"DELETE FROM runs WHERE NOT durable AND boot != ?1",
		"DELETE FROM runs WHERE id NOT IN (SELECT run FROM content UNION SELECT run FROM layers) AND ?1 != ''",
	};
	int64_t count = 0;
	CLEANUP(finalizep) sqlite3_stmt *stmt = NULL;
	int rc = prepare(ledger->db, "SELECT count(*) FROM runs WHERE NOT durable AND boot != ?1", &stmt);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_text(stmt, 1, ledger->boot, -1, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	if (rc != SQLITE_ROW)
		return rc;
	count = sqlite3_column_int64(stmt, 0);
	sqlite3_reset(stmt);
	rc = SQLITE_OK;
	for (size_t i = 0; i < ARRAY_LEN(texts) && count > 0 && rc == SQLITE_OK; i++) {
		CLEANUP(finalizep) sqlite3_stmt *change = NULL;
		rc = prepare(ledger->db, texts[i], &change);
		if (rc == SQLITE_OK)
			rc = sqlite3_bind_text(change, 1, ledger->boot, -1, SQLITE_STATIC);
		if (rc == SQLITE_OK)
			rc = sqlite3_step(change);
		rc = rc == SQLITE_DONE ? SQLITE_OK : rc;
	}
	return rc;
}

static int begin_run(struct lm_ledger *ledger)
{
	CLEANUP(finalizep) sqlite3_stmt *stmt = NULL;
	int rc = exec(ledger->db, "BEGIN IMMEDIATE");
	if (rc == SQLITE_OK)
		rc = forget_volatile(ledger);
	if (rc == SQLITE_OK)
		rc = prepare(ledger->db, "INSERT INTO runs (boot, durable) VALUES (?1, 0)", &stmt);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_text(stmt, 1, ledger->boot, -1, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	if (rc != SQLITE_DONE)
		return rc;
	sqlite3_reset(stmt);
	ledger->run = sqlite3_last_insert_rowid(ledger->db);
	return exec(ledger->db, "COMMIT");
}

/* A power cut costs the last rows. */
static int open_tables(struct lm_ledger *ledger)
{
	int64_t tables = 0;
	int rc = open_db(ledger->path, SQLITE_OPEN_READWRITE, WRITE_CACHE_KIB, &ledger->db);
	if (rc == SQLITE_OK)
		rc = exec(ledger->db, "PRAGMA synchronous = NORMAL");
	if (rc == SQLITE_OK)
		rc = number(ledger->db, "SELECT count(*) FROM sqlite_schema", 0, &tables);
	if (rc == SQLITE_OK)
		rc = tables == 0 ? make_tables(ledger) : check_owner(ledger);
	if (rc == SQLITE_OK)
		rc = begin_run(ledger);
	if (rc == SQLITE_OK)
		rc = prepare(ledger->db,
			"INSERT OR REPLACE INTO content (sha256, algo, size, hash, packed, run, code) "
			"VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
			&ledger->insert);
	return rc;
}

static void close_tables(struct lm_ledger *ledger)
{
	sqlite3_finalize(ledger->insert);
	sqlite3_close(ledger->db);
	ledger->insert = NULL;
	ledger->db = NULL;
}

static int touch(const char *path, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 ? lm_err_sys(err, -errno, "%s", path) : 0;
}

static int begin_anew(struct lm_ledger *ledger, const char *why, struct lm_err *err)
{
	close_tables(ledger);
	lm_cli_say("ledger %s: %s: moved to %s, and begun anew", ledger->path, why, ledger->damaged_path);
	int r = move_aside(ledger, err);
	if (r == 0)
		r = touch(ledger->path, err);
	if (r < 0)
		return r;
	int rc = open_tables(ledger);
	return rc == SQLITE_OK ? 0 : lm_err_set(err, -EIO, "ledger %s: %s", ledger->path, sqlite3_errstr(rc));
}

/* Of a ledger that is too large nothing is worth keeping aside. */
static int limit_size(struct lm_ledger *ledger, struct lm_err *err)
{
	struct stat st;
	if (stat(ledger->path, &st) < 0 || (uint64_t)st.st_size <= LM_LEDGER_BYTES_MAX)
		return 0;
	lm_cli_say("ledger %s: has grown to %s, and begins anew", ledger->path, lm_cli_size((uint64_t)st.st_size).s);
	int r = move_aside(ledger, err);
	(void)unlink(ledger->damaged_path);
	return r;
}

static int take_lock(struct lm_ledger *ledger, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s.lock", ledger->path);
	if (!path)
		return lm_err_oom(err);
	ledger->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (ledger->lock_fd < 0)
		return lm_err_sys(err, -errno, "%s", path);
	if (flock(ledger->lock_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	return errno == EWOULDBLOCK ? lm_err_set(err, -EBUSY, "ledger %s: another process uses it", ledger->path)
				    : lm_err_sys(err, -errno, "lock %s", path);
}

/* A system that does not say is restarted each time. */
static void read_boot(char ret[BOOT_MAX])
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(BOOT_MAX - 1);
	if (lm_file_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", &text, NULL) < 0)
		snprintf(ret, BOOT_MAX, "unknown, %d", (int)getpid());
	else
		snprintf(ret, BOOT_MAX, "%.*s", (int)strcspn(lm_buf_cstr(&text), "\n"), lm_buf_cstr(&text));
}

static int open_checked(struct lm_ledger *ledger, struct lm_err *err)
{
	int r = lm_mkdir_above(AT_FDCWD, ledger->path, 0700, err);
	if (r == 0)
		r = take_lock(ledger, err);
	if (r == 0)
		r = limit_size(ledger, err);
	if (r == 0)
		r = touch(ledger->path, err);
	if (r < 0)
		return r;
	int rc = open_tables(ledger);
	if (rc == SQLITE_OK)
		return 0;
	if (is_damage(rc))
		return begin_anew(ledger, sqlite3_errstr(rc), err);
	return lm_err_set(err, -EIO, "ledger %s: %s", ledger->path, sqlite3_errstr(rc));
}

/* All but the database. */
static int make_ledger(
	const char *path, const struct lm_ledger_owner *owner, struct lm_ledger **ret, struct lm_err *err)
{
	CLEANUP(lm_ledger_freep) struct lm_ledger *ledger = calloc(1, sizeof(*ledger));
	if (!ledger)
		return lm_err_oom(err);
	lm_lock_init(&ledger->lock);
	lm_cond_init(&ledger->written);
	ledger->lock_fd = -1;
	ledger->algo = owner->algo;
	ledger->path = strdup(path);
	ledger->damaged_path = lm_str_printf("%s.damaged", path);
	ledger->pending = calloc(PENDING_MAX, sizeof(struct row));
	ledger->batch = calloc(PENDING_MAX, sizeof(struct row));
	ledger->recent = calloc(RECENT, sizeof(struct row));
	if (!ledger->path || !ledger->damaged_path || !ledger->pending || !ledger->batch || !ledger->recent)
		return lm_err_oom(err);
	read_boot(ledger->boot);
	int r = make_secret(ledger, owner, err);
	if (r == 0)
		r = lm_presence_new(owner->storage, owner->remote, &ledger->presence, err);
	if (r == 0)
		*ret = STEAL(ledger);
	return r;
}

int lm_ledger_open(const char *path, const struct lm_ledger_owner *owner, struct lm_ledger **ret, struct lm_err *err)
{
	CLEANUP(lm_ledger_freep) struct lm_ledger *ledger = NULL;
	int r = make_ledger(path, owner, &ledger, err);
	if (r == 0)
		r = open_checked(ledger, err);
	if (r == 0)
		*ret = STEAL(ledger);
	return r;
}

int lm_ledger_peek(const char *path, const struct lm_ledger_owner *owner, struct lm_ledger **ret, struct lm_err *err)
{
	CLEANUP(lm_ledger_freep) struct lm_ledger *ledger = NULL;
	if (access(path, F_OK) < 0)
		return lm_err_sys(err, -errno, "ledger %s", path);
	int r = make_ledger(path, owner, &ledger, err);
	if (r < 0)
		return r;
	int rc = open_db(path, SQLITE_OPEN_READWRITE, READ_CACHE_KIB, &ledger->db);
	if (rc == SQLITE_OK)
		rc = exec(ledger->db, "PRAGMA query_only = ON");
	if (rc == SQLITE_OK)
		rc = check_owner(ledger);
	if (rc != SQLITE_OK)
		return lm_err_set(err, is_damage(rc) ? -EPERM : -EIO, "ledger %s: %s", path, sqlite3_errstr(rc));
	*ret = STEAL(ledger);
	return 0;
}

int lm_ledger_path(const char *fqrn, const char *dir, char **ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *state = NULL;
	struct lm_hash address;
	int r = lm_state_dir(&state, err);
	if (r == 0)
		r = lm_hash_data(LM_HASH_SHA1, dir, strlen(dir), &address, err);
	if (r < 0)
		return r;
	char *path = lm_str_printf("%s/ledger/%s-%.16s.db", state, fqrn, lm_hash_text(&address).s);
	if (!path)
		return lm_err_oom(err);
	*ret = path;
	return 0;
}

struct lm_presence *lm_ledger_presence(struct lm_ledger *ledger)
{
	return ledger->presence;
}

/* --- writing --- */

static int insert_row(struct lm_ledger *ledger, const struct row *row)
{
	sqlite3_stmt *stmt = ledger->insert;
	const struct coded coded = content_coded(row, ledger->run);
	uint8_t code[CODE_BYTES];
	code_finish(ledger, &coded, code);
	sqlite3_bind_blob(stmt, 1, row->content.sha256, sizeof(row->content.sha256), SQLITE_STATIC);
	sqlite3_bind_int(stmt, 2, row->hash.algo);
	sqlite3_bind_int64(stmt, 3, (int64_t)row->content.size);
	sqlite3_bind_blob(stmt, 4, row->hash.bytes, sizeof(row->hash.bytes), SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 5, (int64_t)row->packed);
	sqlite3_bind_int64(stmt, 6, ledger->run);
	sqlite3_bind_blob(stmt, 7, code, sizeof(code), SQLITE_STATIC);
	int rc = sqlite3_step(stmt);
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* Of whoever has set `writing`. */
static void write_rows(struct lm_ledger *ledger, const struct row *rows, size_t count)
{
	int rc = exec(ledger->db, "BEGIN IMMEDIATE");
	for (size_t i = 0; i < count && rc == SQLITE_OK; i++)
		rc = insert_row(ledger, &rows[i]);
	if (rc == SQLITE_OK)
		rc = exec(ledger->db, "COMMIT");
	if (rc == SQLITE_OK)
		return;
	stop(ledger, ledger->db, rc);
	(void)exec(ledger->db, "ROLLBACK");
}

/* lock held, and released for the writing */
static void write_pending(struct lm_ledger *ledger)
{
	lm_lock_assert(&ledger->lock);
	struct row *rows = ledger->pending;
	size_t count = ledger->pending_count;
	ledger->pending = ledger->batch;
	ledger->batch = rows;
	ledger->pending_count = 0;
	ledger->writing = true;
	lm_lock_release(&ledger->lock);
	if (count > 0)
		write_rows(ledger, rows, count);
	lm_lock_take(&ledger->lock);
	ledger->writing = false;
	lm_cond_broadcast(&ledger->written);
}

/* True: the database is the caller's, with everything written that was pending, until end_turn(). */
static bool begin_turn(struct lm_ledger *ledger)
{
	LM_LOCKED(&ledger->lock);
	while (ledger->writing)
		lm_cond_wait(&ledger->written, &ledger->lock);
	if (ledger->state != WORKING)
		return false;
	write_pending(ledger);
	while (ledger->writing)
		lm_cond_wait(&ledger->written, &ledger->lock);
	ledger->writing = ledger->state == WORKING;
	return ledger->writing;
}

static void end_turn(struct lm_ledger *ledger, int rc)
{
	if (rc != SQLITE_OK)
		stop(ledger, ledger->db, rc);
	LM_LOCKED(&ledger->lock);
	ledger->writing = false;
	lm_cond_broadcast(&ledger->written);
}

void lm_ledger_free(struct lm_ledger *ledger)
{
	if (!ledger)
		return;
	if (ledger->insert && begin_turn(ledger))
		end_turn(ledger, SQLITE_OK);
	close_tables(ledger);
	struct lm_err err = LM_ERR_INIT;
	if (ledger->state == DAMAGED && ledger->lock_fd >= 0 && move_aside(ledger, &err) < 0)
		lm_cli_error("ledger: %s", lm_err_text(&err));
	lm_presence_free(ledger->presence);
	lm_closep(&ledger->lock_fd);
	lm_cond_done(&ledger->written);
	lm_lock_done(&ledger->lock);
	explicit_bzero(ledger->secret, sizeof(ledger->secret));
	free(ledger->pending);
	free(ledger->batch);
	free(ledger->recent);
	free(ledger->damaged_path);
	free(ledger->path);
	free(ledger);
}

static int make_durable(struct lm_ledger *ledger)
{
	CLEANUP(finalizep) sqlite3_stmt *stmt = NULL;
	int rc = prepare(ledger->db, "UPDATE runs SET durable = 1 WHERE boot = ?1", &stmt);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_text(stmt, 1, ledger->boot, -1, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

void lm_ledger_published(struct lm_ledger *ledger)
{
	if (begin_turn(ledger))
		end_turn(ledger, make_durable(ledger));
}

/* --- content --- */

int lm_content_of(const void *data, size_t len, struct lm_content *ret, struct lm_err *err)
{
	ret->size = len;
	return digest_of(data, len, ret->sha256, err);
}

int lm_ledger_reader_new(struct lm_ledger *ledger, struct lm_ledger_reader **ret, struct lm_err *err)
{
	CLEANUP(lm_ledger_reader_freep) struct lm_ledger_reader *reader = calloc(1, sizeof(*reader));
	if (!reader)
		return lm_err_oom(err);
	reader->ledger = ledger;
	int rc = open_db(ledger->path, SQLITE_OPEN_READONLY, READ_CACHE_KIB, &reader->db);
	if (rc == SQLITE_OK)
		rc = prepare(reader->db,
			"SELECT size, hash, packed, run, code FROM content WHERE sha256 = ?1 AND algo = ?2",
			&reader->find);
	if (rc != SQLITE_OK) {
		stop(ledger, NULL, rc);
		return lm_err_set(err, -EIO, "ledger %s: %s", ledger->path, sqlite3_errstr(rc));
	}
	*ret = STEAL(reader);
	return 0;
}

void lm_ledger_reader_free(struct lm_ledger_reader *reader)
{
	if (!reader)
		return;
	sqlite3_finalize(reader->find);
	sqlite3_close(reader->db);
	free(reader);
}

static struct row *recent_place(struct lm_ledger *ledger, const struct lm_content *content)
{
	uint16_t number;
	memcpy(&number, content->sha256, sizeof(number));
	return &ledger->recent[number % RECENT];
}

static bool same_content(const struct lm_content *a, const struct lm_content *b)
{
	return a->size == b->size && memcmp(a->sha256, b->sha256, sizeof(a->sha256)) == 0;
}

static bool find_recent(struct lm_ledger *ledger, const struct lm_content *content, struct row *ret)
{
	LM_LOCKED(&ledger->lock);
	const struct row *row = recent_place(ledger, content);
	if (!row->hash.set || !same_content(&row->content, content))
		return false;
	*ret = *row;
	return true;
}

/* lock held */
static void make_recent(struct lm_ledger *ledger, const struct row *row)
{
	*recent_place(ledger, &row->content) = *row;
}

static bool decode(struct lm_ledger_reader *reader, const struct lm_content *content, struct row *ret)
{
	const struct lm_ledger *ledger = reader->ledger;
	struct row row = {.content = *content, .hash = {.algo = (uint8_t)ledger->algo, .set = true}};
	row.content.size = (uint64_t)sqlite3_column_int64(reader->find, 0);
	row.packed = (uint64_t)sqlite3_column_int64(reader->find, 2);
	if (!column_blob(reader->find, 1, row.hash.bytes, sizeof(row.hash.bytes)) || row.content.size != content->size)
		return false;
	const struct coded coded = content_coded(&row, sqlite3_column_int64(reader->find, 3));
	if (!code_fits(ledger, &coded, reader->find, 4))
		return false;
	*ret = row;
	return true;
}

static bool find_stored(struct lm_ledger_reader *reader, const struct lm_content *content, struct row *ret)
{
	struct lm_ledger *ledger = reader->ledger;
	if (!working(ledger))
		return false;
	sqlite3_bind_blob(reader->find, 1, content->sha256, sizeof(content->sha256), SQLITE_STATIC);
	sqlite3_bind_int(reader->find, 2, (int)ledger->algo);
	int rc = sqlite3_step(reader->find);
	bool found = rc == SQLITE_ROW && decode(reader, content, ret);
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		stop(ledger, reader->db, rc);
	sqlite3_reset(reader->find);
	sqlite3_clear_bindings(reader->find);
	return found;
}

bool lm_ledger_find(struct lm_ledger_reader *reader, const struct lm_content *content, enum lm_object_kind kind,
	struct lm_hash *ret, uint64_t *ret_packed)
{
	struct lm_ledger *ledger = reader->ledger;
	struct row row;
	if (!find_recent(ledger, content, &row) && !find_stored(reader, content, &row))
		return false;
	if (lm_presence_ask(ledger->presence, &row.hash, kind, NULL) <= 0)
		return false; /* what is the matter with the storage, storing the object will tell */
	*ret = row.hash;
	*ret_packed = row.packed;
	return true;
}

void lm_ledger_add(struct lm_ledger *ledger, const struct lm_content *content, enum lm_object_kind kind,
	const struct lm_hash *hash, uint64_t packed)
{
	const struct row row = {*content, *hash, packed};
	lm_presence_note(ledger->presence, hash, kind);
	LM_LOCKED(&ledger->lock);
	make_recent(ledger, &row);
	if (ledger->state != WORKING || ledger->pending_count == PENDING_MAX)
		return;
	ledger->pending[ledger->pending_count++] = row;
	if (ledger->pending_count >= BATCH && !ledger->writing)
		write_pending(ledger);
}

/* --- layers --- */

/* LAYER_TEXT_MAX holds it. */
static void format_layer(const struct lm_ledger_layer *layer, char ret[LAYER_TEXT_MAX])
{
	snprintf(ret, LAYER_TEXT_MAX, "%s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64,
		lm_hash_text(&layer->root).s, layer->size, layer->tar_bytes, layer->files, layer->file_bytes,
		layer->losses);
}

static bool parse_layer(const char *text, struct lm_ledger_layer *ret)
{
	size_t hash = strcspn(text, " ");
	return lm_hash_parse(text, hash, &ret->root, NULL) == 0 &&
	       sscanf(text + hash, " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, &ret->size,
		       &ret->tar_bytes, &ret->files, &ret->file_bytes, &ret->losses) == 5;
}

static int bind_layer_key(sqlite3_stmt *stmt, const char *key, uint8_t ret[SHA256_BYTES])
{
	if (digest_of(key, strlen(key), ret, NULL) < 0)
		return SQLITE_INTERNAL;
	return sqlite3_bind_blob(stmt, 1, ret, SHA256_BYTES, SQLITE_STATIC);
}

static int select_layer(struct lm_ledger *ledger, const char *key, struct lm_ledger_layer *ret, bool *ret_found)
{
	CLEANUP(finalizep) sqlite3_stmt *stmt = NULL;
	uint8_t digest[SHA256_BYTES];
	int rc = prepare(ledger->db,
		"SELECT value, run, code FROM layers JOIN runs ON id = run WHERE key = ?1 AND (durable OR boot = ?2)",
		&stmt);
	if (rc == SQLITE_OK)
		rc = bind_layer_key(stmt, key, digest);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_text(stmt, 2, ledger->boot, -1, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	if (rc != SQLITE_ROW)
		return rc == SQLITE_DONE ? SQLITE_OK : rc;
	const char *text = (const char *)sqlite3_column_text(stmt, 0);
	if (!text || strlen(text) >= LAYER_TEXT_MAX)
		return SQLITE_OK;
	const struct coded coded = layer_coded(digest, text, sqlite3_column_int64(stmt, 1));
	*ret_found = code_fits(ledger, &coded, stmt, 2) && parse_layer(text, ret) && ret->root.algo == ledger->algo;
	return SQLITE_OK;
}

bool lm_ledger_layer(struct lm_ledger *ledger, const char *key, struct lm_ledger_layer *ret)
{
	bool found = false;
	if (!begin_turn(ledger))
		return false;
	int rc = select_layer(ledger, key, ret, &found);
	end_turn(ledger, rc);
	return rc == SQLITE_OK && found;
}

static int insert_layer(struct lm_ledger *ledger, const char *key, const struct lm_ledger_layer *layer)
{
	CLEANUP(finalizep) sqlite3_stmt *stmt = NULL;
	uint8_t digest[SHA256_BYTES], code[CODE_BYTES];
	char text[LAYER_TEXT_MAX];
	format_layer(layer, text);
	int rc = prepare(
		ledger->db, "INSERT OR REPLACE INTO layers (key, value, run, code) VALUES (?1, ?2, ?3, ?4)", &stmt);
	if (rc == SQLITE_OK)
		rc = bind_layer_key(stmt, key, digest);
	if (rc != SQLITE_OK)
		return rc;
	const struct coded coded = layer_coded(digest, text, ledger->run);
	code_finish(ledger, &coded, code);
	sqlite3_bind_text(stmt, 2, text, -1, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 3, ledger->run);
	sqlite3_bind_blob(stmt, 4, code, sizeof(code), SQLITE_STATIC);
	rc = sqlite3_step(stmt);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

void lm_ledger_add_layer(struct lm_ledger *ledger, const char *key, const struct lm_ledger_layer *layer)
{
	if (begin_turn(ledger))
		end_turn(ledger, insert_layer(ledger, key, layer));
}

static int delete_layer(struct lm_ledger *ledger, const char *key)
{
	CLEANUP(finalizep) sqlite3_stmt *stmt = NULL;
	uint8_t digest[SHA256_BYTES];
	int rc = prepare(ledger->db, "DELETE FROM layers WHERE key = ?1", &stmt);
	if (rc == SQLITE_OK)
		rc = bind_layer_key(stmt, key, digest);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

void lm_ledger_drop_layer(struct lm_ledger *ledger, const char *key)
{
	if (begin_turn(ledger))
		end_turn(ledger, delete_layer(ledger, key));
}
