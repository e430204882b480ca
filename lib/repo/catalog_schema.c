#include "repo/catalog_schema.h"

#include "base/str.h"
#include "repo/xattr.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

/* Names, order and constraints as stock publishers make them: they merge catalogs column by column. */
const char lm_catalog_tables[] =
	"CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));"
	"CREATE TABLE catalog (md5path_1 INTEGER, md5path_2 INTEGER, parent_1 INTEGER, parent_2 INTEGER, "
	"hardlinks INTEGER, hash BLOB, size INTEGER, mode INTEGER, mtime INTEGER, mtimens INTEGER, flags INTEGER, "
	"name TEXT, symlink TEXT, uid INTEGER, gid INTEGER, xattr BLOB, "
	"CONSTRAINT pk_catalog PRIMARY KEY (md5path_1, md5path_2));"
	"CREATE TABLE chunks (md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER, hash BLOB, "
	"CONSTRAINT pk_chunks PRIMARY KEY (md5path_1, md5path_2, offset, size), "
	"FOREIGN KEY (md5path_1, md5path_2) REFERENCES catalog(md5path_1, md5path_2));"
	"CREATE TABLE nested_catalogs (path TEXT, sha1 TEXT, size INTEGER, "
	"CONSTRAINT pk_nested_catalogs PRIMARY KEY (path));"
	"CREATE TABLE bind_mountpoints (path TEXT, sha1 TEXT, size INTEGER, "
	"CONSTRAINT pk_bind_mountpoints PRIMARY KEY (path));"
	"CREATE TABLE statistics (counter TEXT, value INTEGER, CONSTRAINT pk_statistics PRIMARY KEY (counter));";
const char lm_catalog_parent_index[] = "CREATE INDEX IF NOT EXISTS idx_catalog_parent ON catalog (parent_1, parent_2)";

const struct lm_counter_name lm_counter_names[LM_COUNTER_COUNT] = {
	{"regular", offsetof(struct lm_counters, regular), 0},
	{"symlink", offsetof(struct lm_counters, symlink), 0},
	{"special", offsetof(struct lm_counters, special), LM_SCHEMA_HAS_ALL_COUNTERS},
	{"dir", offsetof(struct lm_counters, dir), 0},
	{"nested", offsetof(struct lm_counters, nested), 0},
	{"chunked", offsetof(struct lm_counters, chunked), LM_SCHEMA_HAS_ALL_COUNTERS},
	{"chunks", offsetof(struct lm_counters, chunks), LM_SCHEMA_HAS_ALL_COUNTERS},
	{"file_size", offsetof(struct lm_counters, file_size), LM_SCHEMA_HAS_ALL_COUNTERS},
	{"chunked_size", offsetof(struct lm_counters, chunked_size), LM_SCHEMA_HAS_ALL_COUNTERS},
	{"xattr", offsetof(struct lm_counters, xattr), LM_SCHEMA_HAS_XATTR},
	{"external", offsetof(struct lm_counters, external), LM_SCHEMA_HAS_COMPRESSION},
	{"external_file_size", offsetof(struct lm_counters, external_file_size), LM_SCHEMA_HAS_COMPRESSION},
};

void *lm_grown(void *items, size_t count, size_t *cap, size_t item_size)
{
	if (count < *cap)
		return items;
	size_t more = *cap ? 2 * *cap : 16;
	void *grown = reallocarray(items, more, item_size);
	if (grown)
		*cap = more;
	return grown;
}

bool lm_name_valid(const char *name, size_t len)
{
	if (len == 0 || len > LM_NAME_MAX || memchr(name, '/', len) || memchr(name, '\0', len))
		return false;
	return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

bool lm_repo_path_valid(const char *path)
{
	if (strlen(path) > LM_REPO_PATH_MAX)
		return false;
	while (*path) {
		if (*path++ != '/')
			return false;
		size_t len = strcspn(path, "/");
		if (!lm_name_valid(path, len))
			return false;
		path += len;
	}
	return true;
}

bool lm_repo_path_below(const char *path, const char *dir)
{
	size_t len = strlen(dir);
	return strncmp(path, dir, len) == 0 && path[len] == '/';
}

size_t lm_repo_path_name(const char *path)
{
	return (size_t)(strrchr(path, '/') - path) + 1;
}

static int check_schema_version(struct lm_catalog_db *db, struct lm_err *err)
{
	CLEANUP(lm_freep) char *version = NULL;
	int r = lm_db_property(&db->db, "schema", &version, err);
	if (r < 0)
		return r == -ENOENT ? -EPROTO : r;
	uint64_t revision;
	r = lm_db_property_number(&db->db, "schema_revision", 0, &revision, err);
	if (r < 0)
		return r;
	if (strcmp(version, "2.4") == 0)
		db->revision = 0;
	else if (strcmp(version, LM_SCHEMA_VERSION) == 0)
		db->revision = (unsigned)LM_MIN(revision, LM_SCHEMA_REVISION); /* later ones only add */
	else
		return lm_err_set(err, -EPROTO, "unknown schema '%s'", version);
	return 0;
}

/* expected NULL: any place. */
static int check_root_prefix(struct lm_catalog_db *db, const char *expected, struct lm_err *err)
{
	CLEANUP(lm_freep) char *prefix = NULL;
	struct lm_err why = LM_ERR_INIT;
	int r = lm_db_property(&db->db, "root_prefix", &prefix, &why);
	if (r < 0 && r != -ENOENT)
		return lm_err_set(err, r, "%s", why.msg);
	if (expected && strcmp(prefix ? prefix : "", expected) != 0)
		return lm_err_set(err, -EPROTO, "it was made for '%s'", prefix ? prefix : "");
	if (prefix && !lm_repo_path_valid(prefix))
		return lm_err_set(err, -EPROTO, "it was made for '%s', which is no path", prefix);
	db->mountpoint = prefix ? STEAL(prefix) : strdup("");
	if (!db->mountpoint)
		return lm_err_oom(err);
	db->root = lm_path_hash(db->mountpoint, strlen(db->mountpoint));
	return 0;
}

/* The stock client hands out node numbers by row id and takes 1 for the root. */
static int check_root_row(struct lm_catalog_db *db, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_row_prepare(db, LM_ROW_BY_PATH, &stmt, err);
	if (r < 0)
		return r;
	lm_bind_path(stmt, db->root);
	r = lm_db_step(&db->db, stmt, err);
	if (r < 0)
		return r;
	CLEANUP(lm_row_done) struct lm_row row = {0};
	if (r == 0)
		return lm_err_set(err, -EPROTO, "no row for the root");
	r = lm_row_decode(db, stmt, &row, err);
	if (r < 0)
		return lm_err_prefix(err, r, "root");
	if (row.rowid != 1 || !S_ISDIR(row.mode) || !lm_path_hash_equal(row.path, db->root))
		return lm_err_set(err, -EPROTO, "the root is not a directory in row 1");
	if (!!(row.flags & LM_ROW_NESTED_ROOT) != (db->mountpoint[0] != '\0'))
		return lm_err_set(err, -EPROTO, "the root row's flags do not fit its place");
	return 0;
}

int lm_catalog_db_check(struct lm_catalog_db *db, const char *mountpoint, struct lm_err *err)
{
	static const char *const tables[] = {
		"properties", "catalog", "chunks", "nested_catalogs", "statistics", "bind_mountpoints"};

	if (mountpoint && !lm_repo_path_valid(mountpoint))
		return lm_err_set(err, -EINVAL, "'%s' is no path in a repository", mountpoint);
	for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
		int r = lm_db_check_table(&db->db, tables[i], err);
		if (r < 0)
			return r;
	}
	int r = check_schema_version(db, err);
	if (r == 0)
		r = check_root_prefix(db, mountpoint, err);
	return r < 0 ? r : check_root_row(db, err);
}

void lm_catalog_db_done(struct lm_catalog_db *db)
{
	free(db->mountpoint);
	lm_db_close(&db->db);
	*db = (struct lm_catalog_db){0};
}

int lm_row_prepare(struct lm_catalog_db *db, const char *where, sqlite3_stmt **ret, struct lm_err *err)
{
	char sql[512];
	snprintf(sql, sizeof(sql),
		"SELECT rowid, md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, mtime, %s, "
		"flags, name, "
		"symlink, uid, gid, %s FROM catalog %s",
		db->revision >= LM_SCHEMA_HAS_MTIME_NS ? "mtimens" : "NULL",
		db->revision >= LM_SCHEMA_HAS_XATTR ? "xattr" : "NULL", where);
	return lm_db_prepare(&db->db, sql, ret, err);
}

void lm_row_done(struct lm_row *row)
{
	free(row->name);
	free(row->symlink);
	free(row->xattr);
	*row = (struct lm_row){0};
}

static int column_i64(
	sqlite3_stmt *stmt, int column, int64_t min, int64_t max, const char *what, int64_t *ret, struct lm_err *err)
{
	if (sqlite3_column_type(stmt, column) != SQLITE_INTEGER)
		return lm_err_set(err, -EPROTO, "%s is no number", what);
	int64_t value = sqlite3_column_int64(stmt, column);
	if (value < min || value > max)
		return lm_err_set(err, -EPROTO, "%s %" PRId64 " is out of range", what, value);
	*ret = value;
	return 0;
}

/* Text of at most max bytes without NUL, copied. */
static int column_text(
	sqlite3_stmt *stmt, int column, size_t max, const char *what, char **ret, size_t *ret_len, struct lm_err *err)
{
	if (sqlite3_column_type(stmt, column) != SQLITE_TEXT)
		return lm_err_set(err, -EPROTO, "%s is no text", what);
	const char *text = (const char *)sqlite3_column_text(stmt, column);
	size_t len = (size_t)sqlite3_column_bytes(stmt, column);
	if (!text)
		return lm_err_oom(err);
	if (len > max || memchr(text, '\0', len))
		return lm_err_set(err, -EPROTO, "%s of %zu bytes is too long or holds a NUL byte", what, len);
	char *copy = lm_str_ndup(text, len);
	if (!copy)
		return lm_err_oom(err);
	*ret = copy;
	*ret_len = len;
	return 0;
}

static int column_hash(sqlite3_stmt *stmt, int column, uint8_t algo, struct lm_hash *ret, struct lm_err *err)
{
	int type = sqlite3_column_type(stmt, column);
	int len = sqlite3_column_bytes(stmt, column);
	if (type == SQLITE_NULL || (type == SQLITE_BLOB && len == 0)) {
		*ret = (struct lm_hash){0};
		return 0;
	}
	if (type != SQLITE_BLOB || len != LM_HASH_BYTES)
		return lm_err_set(err, -EPROTO, "hash of %d bytes", len);
	const void *bytes = sqlite3_column_blob(stmt, column);
	if (!bytes)
		return lm_err_oom(err);
	*ret = (struct lm_hash){.algo = algo, .set = true};
	memcpy(ret->bytes, bytes, LM_HASH_BYTES);
	return 0;
}

uint32_t lm_row_type_flags(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return LM_ROW_DIR;
	case S_IFREG:
		return LM_ROW_FILE;
	case S_IFLNK:
		return LM_ROW_FILE | LM_ROW_SYMLINK;
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
	case S_IFBLK:
		return LM_ROW_FILE | LM_ROW_SPECIAL;
	default:
		return 0;
	}
}

static const uint32_t row_fields = LM_ROW_FIELD_MASK << LM_ROW_ALGO_SHIFT | LM_ROW_FIELD_MASK
										    << LM_ROW_COMPRESSION_SHIFT;

uint32_t lm_schema_flags(unsigned revision)
{
	uint32_t flags = LM_ROW_TYPE_FLAGS | LM_ROW_MOUNTPOINT | LM_ROW_NESTED_ROOT | LM_ROW_CHUNKED |
			 LM_ROW_FIELD_MASK << LM_ROW_ALGO_SHIFT;
	if (revision >= LM_SCHEMA_HAS_COMPRESSION)
		flags |= LM_ROW_EXTERNAL | LM_ROW_FIELD_MASK << LM_ROW_COMPRESSION_SHIFT;
	if (revision >= LM_SCHEMA_HAS_BIND)
		flags |= LM_ROW_BIND | LM_ROW_HIDDEN;
	if (revision >= LM_SCHEMA_HAS_DIRECT_IO)
		flags |= LM_ROW_DIRECT_IO;
	return flags;
}

/* The type comes from the mode; of the flags the directory bit must agree, the others of the type are set to fit. */
static int decode_flags(const struct lm_catalog_db *db, int64_t flags, struct lm_row *row, struct lm_err *err)
{
	uint32_t type = lm_row_type_flags(row->mode);
	if (type == 0 || (type & LM_ROW_DIR) != (flags & LM_ROW_DIR))
		return lm_err_set(err, -EPROTO, "mode 0%o and flags 0x%" PRIx64 " do not fit", row->mode, flags);
	row->flags = type | ((uint32_t)flags & lm_schema_flags(db->revision) & ~row_fields & ~LM_ROW_TYPE_FLAGS);
	if (!S_ISDIR(row->mode) && row->flags & (LM_ROW_MOUNTPOINT | LM_ROW_NESTED_ROOT | LM_ROW_BIND))
		return lm_err_set(err, -EPROTO, "a mountpoint that is no directory");
	if (!S_ISREG(row->mode) && row->flags & (LM_ROW_CHUNKED | LM_ROW_EXTERNAL))
		return lm_err_set(err, -EPROTO, "chunks of something that is no file");
	row->algo = (uint8_t)(flags >> LM_ROW_ALGO_SHIFT & LM_ROW_FIELD_MASK);
	if (db->revision >= LM_SCHEMA_HAS_COMPRESSION)
		row->compression = (uint8_t)(flags >> LM_ROW_COMPRESSION_SHIFT & LM_ROW_FIELD_MASK);
	if (S_ISREG(row->mode) && (row->algo > LM_HASH_SHAKE128 || row->compression > LM_COMPRESSION_NONE))
		return lm_err_set(err, -EPROTO, "unknown hash or compression in flags 0x%" PRIx64, flags);
	return 0;
}

static int decode_numbers(const struct lm_catalog_db *db, sqlite3_stmt *stmt, struct lm_row *row, struct lm_err *err)
{
	int64_t hardlinks = 0, size = 0, mode = 0, mtime = 0, ns = 0, flags = 0, uid = 0, gid = 0;
	int r = column_i64(stmt, LM_COL_PATH_1, INT64_MIN, INT64_MAX, "path hash", &row->path.a, err);
	if (r == 0)
		r = column_i64(stmt, LM_COL_PATH_2, INT64_MIN, INT64_MAX, "path hash", &row->path.b, err);
	if (r == 0)
		r = column_i64(stmt, LM_COL_PARENT_1, INT64_MIN, INT64_MAX, "parent hash", &row->parent.a, err);
	if (r == 0)
		r = column_i64(stmt, LM_COL_PARENT_2, INT64_MIN, INT64_MAX, "parent hash", &row->parent.b, err);
	if (r == 0)
		r = column_i64(stmt, LM_COL_HARDLINKS, 0, INT64_MAX, "link count", &hardlinks, err);
	if (r == 0)
		r = column_i64(stmt, LM_COL_SIZE, 0, INT64_MAX, "size", &size, err);
	if (r == 0)
		r = column_i64(stmt, LM_COL_MODE, 0, 0177777, "mode", &mode, err);
	if (r == 0)
		r = column_i64(stmt, LM_COL_MTIME, INT64_MIN, INT64_MAX, "time", &mtime, err);
	if (r == 0 && sqlite3_column_type(stmt, LM_COL_MTIME_NS) != SQLITE_NULL)
		r = column_i64(stmt, LM_COL_MTIME_NS, 0, 999999999, "nanoseconds", &ns, err);
	if (r == 0)
		r = column_i64(stmt, LM_COL_FLAGS, 0, INT64_MAX, "flags", &flags, err);
	if (r == 0)
		r = column_i64(stmt, LM_COL_UID, 0, UINT32_MAX, "uid", &uid, err);
	if (r == 0)
		r = column_i64(stmt, LM_COL_GID, 0, UINT32_MAX, "gid", &gid, err);
	if (r < 0)
		return r;
	row->link_group = S_ISDIR(mode) ? 0 : (uint32_t)(hardlinks >> 32);
	row->link_count = (uint32_t)hardlinks;
	row->mode = (uint32_t)mode;
	row->size = S_ISREG(mode) || S_ISDIR(mode) ? (uint64_t)size : 0;
	row->rdev = S_ISCHR(mode) || S_ISBLK(mode) ? (uint64_t)size : 0;
	row->mtime_s = mtime;
	row->mtime_ns = (uint32_t)ns;
	row->uid = (uint32_t)uid;
	row->gid = (uint32_t)gid;
	return decode_flags(db, flags, row, err);
}

static int decode_name(sqlite3_stmt *stmt, struct lm_row *row, struct lm_err *err)
{
	size_t len;
	int r = column_text(stmt, LM_COL_NAME, LM_NAME_MAX, "name", &row->name, &len, err);
	if (r < 0)
		return r;
	/* Only the root of the repository has no name. */
	bool is_root = lm_path_hash_equal(row->path, lm_path_hash("", 0));
	if (is_root ? len > 0 : !lm_name_valid(row->name, len))
		return lm_err_set(err, -EPROTO, "'%s' is no name for a file", row->name);
	return 0;
}

static int decode_symlink(sqlite3_stmt *stmt, struct lm_row *row, struct lm_err *err)
{
	if (!S_ISLNK(row->mode))
		return 0;
	size_t len;
	int r = column_text(stmt, LM_COL_SYMLINK, LM_SYMLINK_MAX, "link target", &row->symlink, &len, err);
	if (r == 0 && len == 0)
		return lm_err_set(err, -EPROTO, "symbolic link without a target");
	row->size = len;
	return r;
}

static int decode_xattr(sqlite3_stmt *stmt, struct lm_row *row, struct lm_err *err)
{
	int type = sqlite3_column_type(stmt, LM_COL_XATTR);
	size_t len = (size_t)sqlite3_column_bytes(stmt, LM_COL_XATTR);
	if (type == SQLITE_NULL || len == 0)
		return 0;
	if (type != SQLITE_BLOB || len > LM_XATTR_BLOB_MAX)
		return lm_err_set(err, -EPROTO, "attributes of %zu bytes", len);
	const void *blob = sqlite3_column_blob(stmt, LM_COL_XATTR);
	row->xattr = blob ? malloc(len) : NULL;
	if (!row->xattr)
		return lm_err_oom(err);
	memcpy(row->xattr, blob, len);
	row->xattr_len = len;
	return 0;
}

static uint64_t digest_more(uint64_t digest, const void *data, size_t len)
{
	const uint8_t *at = data;
	for (size_t i = 0; i < len; i++)
		digest = (digest ^ at[i]) * 0x100000001b3u;
	return digest;
}

uint64_t lm_row_digest(const struct lm_row *row)
{
	const uint64_t numbers[] = {row->flags, row->mode, row->uid, row->gid, row->size, row->rdev,
		(uint64_t)row->mtime_s, row->mtime_ns, row->algo, row->compression, row->hash.set, row->xattr_len};
	uint64_t digest = digest_more(0xcbf29ce484222325u, numbers, sizeof(numbers));
	digest = digest_more(digest, row->hash.bytes, sizeof(row->hash.bytes));
	if (row->symlink)
		digest = digest_more(digest, row->symlink, strlen(row->symlink));
	return digest_more(digest, row->xattr, row->xattr_len);
}

uint64_t lm_chunk_digest(uint64_t digest, const struct lm_chunk *chunk)
{
	const uint64_t extent[] = {chunk->offset, chunk->size};
	digest = digest_more(digest, extent, sizeof(extent));
	return digest_more(digest, chunk->hash.bytes, sizeof(chunk->hash.bytes));
}

int lm_row_decode(const struct lm_catalog_db *db, sqlite3_stmt *stmt, struct lm_row *ret, struct lm_err *err)
{
	CLEANUP(lm_row_done) struct lm_row row = {.rowid = (uint64_t)sqlite3_column_int64(stmt, LM_COL_ROWID)};
	int r = sqlite3_column_int64(stmt, LM_COL_ROWID) > 0 ? decode_numbers(db, stmt, &row, err)
							     : lm_err_set(err, -EPROTO, "not above 0");
	if (r == 0)
		r = column_hash(stmt, LM_COL_HASH, row.algo, &row.hash, err);
	if (r == 0 && S_ISREG(row.mode) && !row.hash.set && !(row.flags & LM_ROW_CHUNKED))
		r = lm_err_set(err, -EPROTO, "file without a content hash");
	if (r == 0)
		r = decode_name(stmt, &row, err);
	if (r == 0)
		r = decode_symlink(stmt, &row, err);
	if (r == 0)
		r = decode_xattr(stmt, &row, err);
	if (r < 0)
		return lm_err_prefix(err, r, "row %" PRIu64, row.rowid);
	*ret = row;
	row = (struct lm_row){0};
	return 0;
}

static int decode_chunk(sqlite3_stmt *stmt, const struct lm_row *row, struct lm_chunk *ret, struct lm_err *err)
{
	int64_t offset = 0, size = 0;
	int r = column_i64(stmt, 0, 0, (int64_t)row->size, "offset of a chunk", &offset, err);
	if (r == 0)
		r = column_i64(stmt, 1, 1, (int64_t)row->size - offset, "size of a chunk", &size, err);
	if (r == 0)
		r = column_hash(stmt, 2, row->algo, &ret->hash, err);
	if (r == 0 && !ret->hash.set)
		r = lm_err_set(err, -EPROTO, "chunk without a hash");
	ret->offset = (uint64_t)offset;
	ret->size = (uint64_t)size;
	return r;
}

static int chunk_append(
	struct lm_chunk **chunks, size_t *count, size_t *cap, const struct lm_chunk *chunk, struct lm_err *err)
{
	if (*count == LM_CHUNKS_MAX)
		return lm_err_set(err, -EPROTO, "more than %d chunks", LM_CHUNKS_MAX);
	struct lm_chunk *grown = lm_grown(*chunks, *count, cap, sizeof(*grown));
	if (!grown)
		return lm_err_oom(err);
	*chunks = grown;
	(*chunks)[(*count)++] = *chunk;
	return 0;
}

int lm_chunks_read(struct lm_db *db, sqlite3_stmt *kept, const struct lm_row *row, uint64_t offset, uint64_t len,
	struct lm_chunk **ret, size_t *ret_count, struct lm_err *err)
{
	uint64_t end = LM_MIN(row->size, len > UINT64_MAX - offset ? UINT64_MAX : offset + len);
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	size_t count = 0, cap = 0;

	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = kept;
	lm_bind_path(stmt, row->path);
	sqlite3_bind_int64(stmt, 3, (int64_t)LM_MIN(offset, (uint64_t)INT64_MAX));
	uint64_t covered = offset; /* the content from offset to here is there */
	bool wanted = row->flags & LM_ROW_CHUNKED && offset < end;
	int r = 0;
	/* At the file's end one more step tells whether chunks go on. */
	while (wanted && (covered < end || covered == row->size) && (r = lm_db_step(db, stmt, err)) > 0) {
		struct lm_chunk chunk;
		r = decode_chunk(stmt, row, &chunk, err);
		if (r < 0)
			return r;
		if (count > 0 ? chunk.offset != covered : chunk.offset > offset || chunk.offset + chunk.size <= offset)
			return lm_err_set(err, -EPROTO, "the chunks leave a gap or overlap at %" PRIu64, covered);
		covered = chunk.offset + chunk.size;
		r = chunk_append(&chunks, &count, &cap, &chunk, err);
		if (r < 0)
			return r;
	}
	if (r < 0)
		return r;
	if (wanted && covered < end)
		return lm_err_set(err, -EPROTO, "the chunks end at %" PRIu64 " of %" PRIu64, covered, row->size);
	*ret = STEAL(chunks);
	*ret_count = count;
	return 0;
}

int lm_nested_prepare(
	struct lm_catalog_db *db, const char *table, const char *where, sqlite3_stmt **ret, struct lm_err *err)
{
	char sql[256];
	snprintf(sql, sizeof(sql), "SELECT path, sha1, %s FROM %s INDEXED BY sqlite_autoindex_%s_1 %s",
		db->revision >= LM_SCHEMA_HAS_NESTED_SIZE ? "size" : "NULL", table, table, where);
	return lm_db_prepare(&db->db, sql, ret, err);
}

int lm_nested_decode(const struct lm_catalog_db *db, sqlite3_stmt *stmt, struct lm_nested *ret, struct lm_err *err)
{
	CLEANUP(lm_freep) char *path = NULL;
	CLEANUP(lm_freep) char *hash = NULL;
	size_t len;
	struct lm_nested nested = {0};
	int64_t size = 0;
	int r = column_text(stmt, 0, LM_REPO_PATH_MAX, "path of a nested catalog", &path, &len, err);
	if (r < 0)
		return r;
	if (!lm_repo_path_valid(path) || !lm_repo_path_below(path, db->mountpoint))
		return lm_err_set(err, -EPROTO, "nested catalog at '%s'", path);
	r = column_text(stmt, 1, LM_HASH_TEXT_MAX, "hash", &hash, &len, err);
	if (r == 0)
		r = lm_hash_parse(hash, len, &nested.hash, err);
	if (r == 0 && sqlite3_column_type(stmt, 2) != SQLITE_NULL)
		r = column_i64(stmt, 2, 0, INT64_MAX, "size", &size, err);
	if (r < 0)
		return lm_err_prefix(err, r, "nested catalog at '%s'", path);
	nested.path = STEAL(path);
	nested.size = (uint64_t)size;
	*ret = nested;
	return 0;
}

static int read_counter(struct lm_catalog_db *db, sqlite3_stmt *kept, const char *prefix,
	const struct lm_counter_name *counter, uint64_t *ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_resetp) sqlite3_stmt *stmt = kept;
	char name[64];
	snprintf(name, sizeof(name), "%s_%s", prefix, counter->name);
	sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
	int r = lm_db_step(&db->db, stmt, err);
	if (r < 0)
		return r;
	if (r == 0 && counter->since <= db->revision)
		return lm_err_set(err, -EPROTO, "no counter %s", name);
	int64_t value = 0;
	r = r == 0 ? 0 : column_i64(stmt, 0, 0, INT64_MAX, name, &value, err);
	if (r == 0)
		*ret = (uint64_t)value;
	return r;
}

int lm_counters_read(
	struct lm_catalog_db *db, struct lm_counters *ret_self, struct lm_counters *ret_subtree, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	int r = lm_db_prepare(&db->db, "SELECT value FROM statistics WHERE counter = ?1", &stmt, err);
	struct lm_counters self = {0}, subtree = {0};
	for (size_t i = 0; i < LM_COUNTER_COUNT && r == 0; i++) {
		r = read_counter(db, stmt, "self", &lm_counter_names[i], lm_counter_at(&self, i), err);
		if (r == 0)
			r = read_counter(db, stmt, "subtree", &lm_counter_names[i], lm_counter_at(&subtree, i), err);
	}
	if (r < 0)
		return r;
	*ret_self = self;
	*ret_subtree = subtree;
	return 0;
}

int lm_counters_count(struct lm_catalog_db *db, struct lm_counters *ret, struct lm_err *err)
{
	CLEANUP(lm_stmt_finalizep) sqlite3_stmt *stmt = NULL;
	char sql[1024];
	/* In the order of lm_counter_names, then the mountpoints. 61440 is S_IFMT, 32768 a file, 40960 a link, 16384 a
	 * directory. */
	snprintf(sql, sizeof(sql),
		"SELECT sum(t = 32768), sum(t = 40960), sum(t NOT IN (32768, 40960, 16384)), sum(t = 16384), "
		"(SELECT count(*) FROM nested_catalogs), sum(flags & 64 <> 0), (SELECT count(*) FROM chunks), "
		"sum(iif(t = 32768, size, 0)), sum(iif(flags & 64, size, 0)), sum(xattr IS NOT NULL), "
		"sum(flags & 128 <> 0), sum(iif(flags & 128, size, 0)), sum(flags & 2 <> 0) "
		"FROM (SELECT mode & 61440 AS t, flags & %u AS flags, size, %s AS xattr FROM catalog)",
		lm_schema_flags(db->revision), db->revision >= LM_SCHEMA_HAS_XATTR ? "xattr" : "NULL");
	int r = lm_db_prepare(&db->db, sql, &stmt, err);
	if (r == 0)
		r = lm_db_step(&db->db, stmt, err);
	if (r < 0)
		return r;
	struct lm_counters self = {0};
	for (size_t i = 0; i < LM_COUNTER_COUNT; i++)
		*lm_counter_at(&self, i) = (uint64_t)sqlite3_column_int64(stmt, (int)i);
	if (self.nested != (uint64_t)sqlite3_column_int64(stmt, LM_COUNTER_COUNT))
		return lm_err_set(err, -EPROTO, "mountpoints and names of nested catalogs do not match");
	*ret = self;
	return 0;
}

void lm_counters_add(struct lm_counters *sum, const struct lm_counters *more)
{
	struct lm_counters copy = *more;
	for (size_t i = 0; i < LM_COUNTER_COUNT; i++)
		*lm_counter_at(sum, i) += *lm_counter_at(&copy, i);
}
