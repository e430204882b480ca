/* Each check of a catalog is shown to fail: one corruption at a time, and exactly what it is must be named. */
#include "repo_forge.h"

#include "repo/xattr.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

static struct place place;
static struct lm_manifest clean;

static void store(enum lm_object_kind kind, const char *content, struct lm_hash *ret)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_packer_freep) struct lm_packer *packer = NULL;
	assert_ok(lm_packer_new(LM_HASH_SHA1, &packer, &err), &err);
	assert_ok(lm_object_store(place.storage, packer, kind, content, strlen(content), ret, &err), &err);
}

static void put_row(
	struct lm_txn *txn, const char *path, struct lm_row *row, const struct lm_chunk *chunks, size_t count)
{
	struct lm_err err = LM_ERR_INIT;
	assert_ok(lm_txn_put(txn, path, row, chunks, count, &err), &err);
}

static void put_links(struct lm_txn *txn)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_row row = lm_txn_new_row(S_IFREG | 0644);
	row.size = 6;
	store(LM_OBJECT_FILE, "linked", &row.hash);
	assert_ok(lm_txn_new_group(txn, "/d/h1", &row.link_group, &err), &err);
	put_row(txn, "/d/h1", &row, NULL, 0);
	put_row(txn, "/d/h2", &row, NULL, 0);
}

static void put_chunked(struct lm_txn *txn)
{
	struct lm_row row = lm_txn_new_row(S_IFREG | 0644);
	struct lm_chunk chunks[] = {{.offset = 0, .size = 3}, {.offset = 3, .size = 4}, {.offset = 7, .size = 5}};
	row.size = 12;
	store(LM_OBJECT_CHUNK, "abc", &chunks[0].hash);
	store(LM_OBJECT_CHUNK, "defg", &chunks[1].hash);
	store(LM_OBJECT_CHUNK, "hijkl", &chunks[2].hash);
	put_row(txn, "/d/big", &row, chunks, ARRAY_LEN(chunks));
}

static void put_others(struct lm_txn *txn)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_buf_done) struct lm_buf xattr = LM_BUF(256);
	struct lm_xattr attr = {.key = "user.a", .key_len = 6, .value = "value", .value_len = 5};
	struct lm_row fifo = lm_txn_new_row(S_IFIFO | 0600), device = lm_txn_new_row(S_IFCHR | 0600),
		      row = lm_txn_new_row(S_IFREG | 0644);
	device.rdev = makedev(1, 3);
	put_row(txn, "/d/fifo", &fifo, NULL, 0);
	put_row(txn, "/d/null", &device, NULL, 0);
	assert_ok(lm_xattr_encode(&attr, 1, &xattr, &err), &err);
	row.xattr = xattr.data;
	row.xattr_len = xattr.len;
	store(LM_OBJECT_FILE, "", &row.hash);
	put_row(txn, "/d/attr", &row, NULL, 0);
}

static int setup(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	publish_setup(state);
	create(&place, &clean);
	begin(&place, &txn);
	mkdirs(txn, "/d/sub", false);
	mkdirs(txn, "/n", true);
	mkdirs(txn, "/n/deep", true);
	put(txn, "/d/file", "content");
	put(txn, "/d/other", "other content");
	put(txn, "/n/below", "below");
	put(txn, "/n/deep/deeper", "deeper");
	assert_ok(lm_txn_put_symlink(txn, "/d/link", "file", &err), &err);
	put_links(txn);
	put_chunked(txn);
	put_others(txn);
	commit(&txn, &clean);
	/* Without history and reflog, which a forged root would contradict, too. */
	clean.history = clean.reflog = (struct lm_hash){0};
	CLEANUP(lm_freep) char *reflog = file_of(&place, LM_REFLOG_NAME);
	assert_int_equal(unlink(reflog), 0);
	return 0;
}

static int teardown(void **state)
{
	place_done(&place);
	return publish_teardown(state);
}

struct forgery {
	const char *what, *mountpoint;
	const char *sql;
	forge_fn *fn;
	uint64_t kinds;
	const char *text;
};

static void try(const struct forgery *f, bool objects)
{
	CLEANUP(verdict_done) struct verdict v;
	struct lm_check_options options = {.objects = objects};
	forge_catalog(&place, &clean, f->mountpoint, f->sql, f->fn);
	verdict_of(place.storage, &options, &v);
	assert_verdict(&v, f->what, f->kinds, f->text);
}

static void try_all(const struct forgery *list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		try(&list[i], false);
}

static void test_clean(void **state)
{
	const struct forgery none = {"nothing", "", "UPDATE catalog SET mode = mode", NULL, 0, NULL};
	try(&none, false);
	try(&none, true);
	const struct forgery nested = {"nothing below", "/n/deep", "UPDATE catalog SET mode = mode", NULL, 0, NULL};
	try(&nested, true);
}

#define PATH(p) "path1('" p "'), path2('" p "')"
/* A row like another one. Counters do not follow. */
#define COPY_ROW(path, parent, name, like)                                \
	"INSERT INTO catalog SELECT " PATH(path) ", " PATH(               \
		parent) ", hardlinks, hash, size, mode, mtime, mtimens, " \
			"flags, '" name "', symlink, uid, gid, xattr FROM catalog WHERE name = '" like "';"
#define COUNT(counter, n) "UPDATE statistics SET value = value + " #n " WHERE counter = 'self_" counter "';"

static void test_rows(void **state)
{
	static const struct forgery list[] = {
		{"mode is text", "", "UPDATE catalog SET mode = 'x' WHERE name = 'file'", NULL, BIT(ROW),
			"row |/d|-: in this directory"},
		{"size below 0", "", "UPDATE catalog SET size = -1 WHERE name = 'file'", NULL, BIT(ROW), "size -1"},
		{"nanoseconds", "", "UPDATE catalog SET mtimens = 1000000000 WHERE name = 'file'", NULL, BIT(ROW),
			"nanoseconds"},
		{"uid", "", "UPDATE catalog SET uid = 4294967296 WHERE name = 'file'", NULL, BIT(ROW), "uid"},
		{"no hash", "", "UPDATE catalog SET hash = NULL WHERE name = 'file'", NULL, BIT(ROW), "content hash"},
		{"short hash", "", "UPDATE catalog SET hash = x'aa' WHERE name = 'file'", NULL, BIT(ROW),
			"hash of 1 bytes"},
		{"name with a slash", "", "UPDATE catalog SET name = 'a/b' WHERE name = 'file'", NULL, BIT(ROW),
			"'a/b'"},
		{"name ..", "", "UPDATE catalog SET name = '..' WHERE name = 'file'", NULL, BIT(ROW), "'..'"},
		{"no target", "", "UPDATE catalog SET symlink = '' WHERE name = 'link'", NULL, BIT(ROW),
			"without a target"},
		{"root's name", "", "UPDATE catalog SET name = 'm' WHERE rowid = 1", NULL, BIT(CATALOG_REFUSED),
			"no name"},
		{"nested root's name", "/n", "UPDATE catalog SET name = 'm' WHERE rowid = 1", NULL, BIT(ROW),
			"another name than the mountpoint: 'm'"},
		{"NULL name", "", "UPDATE catalog SET name = NULL WHERE name = 'file'", NULL, BIT(ROW) | BIT(NULL_TEXT),
			"the name of row"},
		{"NULL target", "", "UPDATE catalog SET symlink = NULL WHERE name = 'file'", NULL, BIT(NULL_TEXT),
			"link target of row"},
		{"path hash", "", "UPDATE catalog SET md5path_1 = md5path_1 + 1 WHERE name = 'file'", NULL,
			BIT(PATH_HASH), "path-hash |/d/file"},
		{"other name", "", "UPDATE catalog SET name = 'renamed' WHERE name = 'file'", NULL, BIT(PATH_HASH),
			"path-hash |/d/renamed"},
		{"path hash of a directory", "", "UPDATE catalog SET md5path_2 = 5 WHERE name = 'd'", NULL,
			BIT(PATH_HASH) | BIT(UNREACHABLE) | BIT(STRAY_CHUNK), "its parent is not in this catalog"},
		{"parent of the root", "", "UPDATE catalog SET parent_1 = 5 WHERE rowid = 1", NULL, BIT(PATH_HASH),
			"not 0, 0"},
		{"parent of a nested root", "/n", "UPDATE catalog SET parent_1 = 5 WHERE rowid = 1", NULL,
			BIT(PATH_HASH), "directory above"},
		{"symlink size", "", "UPDATE catalog SET size = 3 WHERE name = 'link'", NULL, BIT(SYMLINK_SIZE),
			"its size is 3, its target has 4 bytes"},
		{"symlink size of stock ingestion", "", "UPDATE catalog SET size = 0 WHERE name = 'link'", NULL,
			BIT(TOLERATED), NULL},
		{"hash of a symlink", "", "UPDATE catalog SET hash = zeroblob(20) WHERE name = 'link'", NULL,
			BIT(STRAY_CONTENT), "a symbolic link with"},
		{"hash of a fifo", "", "UPDATE catalog SET hash = zeroblob(20) WHERE name = 'fifo'", NULL,
			BIT(STRAY_CONTENT), "a special file with"},
		{"hash of a directory", "", "UPDATE catalog SET hash = zeroblob(20) WHERE name = 'sub'", NULL,
			BIT(TOLERATED), "a directory with"},
		{"size of a fifo", "", "UPDATE catalog SET size = 1 WHERE name = 'fifo'", NULL, BIT(STRAY_CONTENT),
			"of size 1"},
		{"target of a device", "", "UPDATE catalog SET symlink = 'x' WHERE name = 'null'", NULL,
			BIT(STRAY_CONTENT), "no symbolic link"},
		{"target of a file", "", "UPDATE catalog SET symlink = 'x' WHERE name = 'file'", NULL, BIT(TOLERATED),
			"no symbolic link"},
		{"attributes", "", "UPDATE catalog SET xattr = x'0105' WHERE name = 'attr'", NULL, BIT(XATTR),
			"/d/attr"},
		{"marker in the root", "",
			COPY_ROW("/.cvmfscatalog", "", ".cvmfscatalog", "other") COUNT("regular", 1)
				COUNT("file_size", 13),
			NULL, BIT(TOLERATED), "marks nothing"},
	};
	try_all(list, ARRAY_LEN(list));
}

static void test_flags(void **state)
{
	static const struct forgery list[] = {
		{"a file that is a symlink", "", "UPDATE catalog SET flags = 12 WHERE name = 'file'", NULL, BIT(FLAGS),
			"flags |/d/file|-: flags 0xc do not fit mode 0100644 (the type would be 0x4)"},
		{"a special file that is none", "", "UPDATE catalog SET flags = 4 WHERE name = 'fifo'", NULL,
			BIT(FLAGS), NULL},
		{"a directory that is a file", "", "UPDATE catalog SET flags = 4 WHERE name = 'sub'", NULL, BIT(ROW),
			NULL},
		{"a root in the middle", "", "UPDATE catalog SET flags = 33 WHERE name = 'sub'", NULL, BIT(FLAGS),
			"in the middle"},
		{"a root that is a mountpoint", "/n", "UPDATE catalog SET flags = 35 WHERE rowid = 1", NULL, BIT(FLAGS),
			"its catalog's root"},
		{"nested and bind", "", "UPDATE catalog SET flags = flags | 0x4000 WHERE name = 'n'", NULL, BIT(FLAGS),
			"at once"},
		{"direct I/O", "", "UPDATE catalog SET flags = 0x10001 WHERE name = 'sub'", NULL, BIT(FLAGS),
			"direct I/O"},
		{"chunks of a directory", "", "UPDATE catalog SET flags = 65 WHERE name = 'sub'", NULL, BIT(ROW),
			"chunks"},
		{"unknown hash", "", "UPDATE catalog SET flags = 0x704 WHERE name = 'file'", NULL, BIT(ROW),
			"unknown hash"},
		{"unknown bit", "", "UPDATE catalog SET flags = 0x20004 WHERE name = 'file'", NULL, BIT(TOLERATED),
			"0x20004"},
		{"hash of a directory", "", "UPDATE catalog SET flags = 0x101 WHERE name = 'sub'", NULL, BIT(TOLERATED),
			"0x101"},
		{"hidden", "", "UPDATE catalog SET flags = flags | 0x8000 WHERE name IN ('file', 'sub', 'n')", NULL, 0,
			NULL},
	};
	try_all(list, ARRAY_LEN(list));
}

static void test_links(void **state)
{
	static const struct forgery list[] = {
		{"link count of a directory", "", "UPDATE catalog SET hardlinks = 9 WHERE name = 'd'", NULL,
			BIT(LINK_COUNT), "its link count is 9; with 1 subdirectories it would be 3"},
		{"link count of the root", "", "UPDATE catalog SET hardlinks = 2 WHERE rowid = 1", NULL,
			BIT(LINK_COUNT), "link-count ||-: its link count is 2"},
		{"link count of a nested root", "/n/deep", "UPDATE catalog SET hardlinks = 3 WHERE rowid = 1", NULL,
			BIT(LINK_COUNT) | BIT(MOUNTPOINT), "link count is 2 in the row of the catalog above and 3"},
		{"a group too small", "", "UPDATE catalog SET hardlinks = (1 << 32) + 3 WHERE name IN ('h1', 'h2')",
			NULL, BIT(HARD_LINK), "its link count is 3, its group 1 has 2 members"},
		{"one count", "", "UPDATE catalog SET hardlinks = (1 << 32) + 1 WHERE name = 'h2'", NULL,
			BIT(HARD_LINK), NULL},
		{"each for itself", "", "UPDATE catalog SET hardlinks = (1 << 32) + 1 WHERE name IN ('h1', 'h2')", NULL,
			0, NULL},
		{"no group", "", "UPDATE catalog SET hardlinks = 2 WHERE name = 'file'", NULL, BIT(HARD_LINK),
			"2 links in group 0"},
		{"no links", "", "UPDATE catalog SET hardlinks = 0 WHERE name = 'file'", NULL, BIT(HARD_LINK),
			"0 links"},
		{"a directory in a group", "", "UPDATE catalog SET hardlinks = (9 << 32) + 2 WHERE name = 'sub'", NULL,
			BIT(HARD_LINK), "a directory in"},
		{"members that differ", "", "UPDATE catalog SET mtime = mtime + 1 WHERE name = 'h2'", NULL,
			BIT(HARD_LINK), "hard-link |/d/h2|-: it differs"},
		{"members of other content", "",
			"UPDATE catalog SET hash = (SELECT hash FROM catalog WHERE name = 'attr') WHERE name = 'h2'",
			NULL, BIT(HARD_LINK), "it differs"},
	};
	try_all(list, ARRAY_LEN(list));
}

static void test_chunks(void **state)
{
	static const struct forgery list[] = {
		{"a gap", "", "UPDATE chunks SET offset = 8 WHERE offset = 7", NULL, BIT(CHUNKS),
			"chunks |/d/big|-: a chunk begins at 8, where the one before ends at 7"},
		{"an overlap", "", "UPDATE chunks SET offset = 2 WHERE offset = 3", NULL, BIT(CHUNKS), "begins at 2"},
		{"not from the beginning", "", "UPDATE chunks SET offset = 1 WHERE offset = 0", NULL, BIT(CHUNKS),
			"begins at 1"},
		{"sum", "", "UPDATE chunks SET size = 6 WHERE offset = 7", NULL, BIT(CHUNKS),
			"hold 13 bytes, its size is 12"},
		{"negative", "", "UPDATE chunks SET size = -6 WHERE offset = 7", NULL, BIT(CHUNKS), "-6 bytes at 7"},
		{"far", "", "UPDATE chunks SET size = 9223372036854775807 WHERE offset = 7", NULL, BIT(CHUNKS),
			"bytes at 7"},
		{"no hash", "", "UPDATE chunks SET hash = NULL WHERE offset = 7", NULL, BIT(CHUNKS),
			"at 7 has no hash"},
		{"one less", "", "DELETE FROM chunks WHERE offset = 7", NULL, BIT(CHUNKS) | BIT(COUNTER),
			"hold 7 bytes"},
		{"none", "", "DELETE FROM chunks", NULL, BIT(CHUNKS) | BIT(COUNTER), "has none"},
		{"of a file without", "",
			"INSERT INTO chunks SELECT md5path_1, md5path_2, 0, size, hash FROM catalog WHERE name = "
			"'file'",
			NULL, BIT(STRAY_CHUNK), "not said to be in chunks: file"},
		{"of nothing", "", "INSERT INTO chunks VALUES (1, 2, 0, 1, zeroblob(20))", NULL, BIT(STRAY_CHUNK),
			"none's"},
		{"not said", "",
			"UPDATE catalog SET flags = 4, hash = (SELECT hash FROM catalog WHERE name = 'attr') "
			"WHERE name = 'big'",
			NULL, BIT(STRAY_CHUNK) | BIT(COUNTER), "self_chunked is 1, counted 0"},
		{"only said", "", "UPDATE catalog SET flags = 68 WHERE name = 'other'", NULL,
			BIT(CHUNKS) | BIT(COUNTER), "/d/other|-: it is said to be in chunks"},
	};
	try_all(list, ARRAY_LEN(list));
}

static void test_tree(void **state)
{
	static const struct forgery list[] = {
		{"no parent", "", "UPDATE catalog SET parent_1 = 7 WHERE name = 'file'", NULL,
			BIT(UNREACHABLE) | BIT(COUNTER), "\"file\" is in no directory: its parent is not in"},
		{"below a file", "",
			"UPDATE catalog SET parent_1 = path1('/d/other'), parent_2 = path2('/d/other') WHERE name = "
			"'file'",
			NULL, BIT(UNREACHABLE) | BIT(COUNTER), "its parent is no directory"},
		{"below itself", "", "UPDATE catalog SET parent_1 = md5path_1, parent_2 = md5path_2 WHERE name = 'sub'",
			NULL, BIT(UNREACHABLE) | BIT(COUNTER) | BIT(LINK_COUNT), "in no directory, either"},
		{"a directory below its child", "",
			"UPDATE catalog SET parent_1 = path1('/d/sub'), parent_2 = path2('/d/sub') WHERE name = 'd'",
			NULL, BIT(UNREACHABLE) | BIT(COUNTER) | BIT(LINK_COUNT) | BIT(STRAY_CHUNK),
			"in no directory, either"},
		{"beside its path", "",
			"UPDATE catalog SET parent_1 = path1(''), parent_2 = path2('') WHERE name = 'file'", NULL,
			BIT(PATH_HASH), "path-hash |/file|"},
		{"row ids", "", "UPDATE catalog SET rowid = 1000000 WHERE name = 'file'", NULL, BIT(ROW_IDS),
			"up to 1000000"},
		{"far row ids and no parent", "",
			"UPDATE catalog SET rowid = 9000000000000 WHERE name = 'file'; UPDATE catalog SET parent_1 = 7 "
			"WHERE name = "
			"'other'",
			NULL, BIT(ROW_IDS) | BIT(UNREACHABLE) | BIT(COUNTER), "1 of its"},
		{"a row id below 0", "", "UPDATE catalog SET rowid = -5 WHERE name = 'file'", NULL,
			BIT(UNREACHABLE) | BIT(COUNTER), "row -5 \"file\""},
	};
	try_all(list, ARRAY_LEN(list));
}

static void test_nested(void **state)
{
	static const struct forgery list[] = {
		{"mode", "", "UPDATE catalog SET mode = 16832 WHERE name = 'n'", NULL, BIT(MOUNTPOINT),
			"the mode is 16832"},
		{"size", "", "UPDATE catalog SET size = 5 WHERE name = 'n'", NULL, BIT(MOUNTPOINT), "the size is 5"},
		{"time", "", "UPDATE catalog SET mtime = 5 WHERE name = 'n'", NULL, BIT(MOUNTPOINT), "the time is 5"},
		{"nanoseconds", "", "UPDATE catalog SET mtimens = 5 WHERE name = 'n'", NULL, BIT(MOUNTPOINT),
			"the nanoseconds"},
		{"uid", "", "UPDATE catalog SET uid = 5 WHERE name = 'n'", NULL, BIT(MOUNTPOINT), "the uid is 5"},
		{"gid", "", "UPDATE catalog SET gid = 5 WHERE name = 'n'", NULL, BIT(MOUNTPOINT), "the gid is 5"},
		{"attributes", "",
			"UPDATE catalog SET xattr = (SELECT xattr FROM catalog WHERE name = 'attr') WHERE name = 'n'",
			NULL, BIT(MOUNTPOINT) | BIT(COUNTER), "presence of attributes"},
		{"rows below", "", COPY_ROW("/n/x", "/n", "x", "other"), NULL, BIT(MOUNTPOINT_ROWS) | BIT(UNREACHABLE),
			"mountpoint-rows |/n|"},
		{"named nowhere", "", "DELETE FROM nested_catalogs", NULL, BIT(NESTED),
			"nested |/n|-: a mountpoint whose"},
		{"no hash", "", "UPDATE nested_catalogs SET sha1 = 'zz'", NULL, BIT(NESTED), "nested catalog at '/n'"},
		{"no number", "", "UPDATE nested_catalogs SET size = 'zz'", NULL, BIT(NESTED), "size is no number"},
		{"no mountpoint", "", "INSERT INTO nested_catalogs SELECT '/d', sha1, size FROM nested_catalogs", NULL,
			BIT(NESTED), "nested |/d|-: a catalog is named for this path, but its row is no mountpoint"},
		{"no row", "", "INSERT INTO nested_catalogs SELECT '/x', sha1, size FROM nested_catalogs", NULL,
			BIT(NESTED), "there is no such row"},
		{"size of the database", "", "UPDATE nested_catalogs SET size = size + 1", NULL, BIT(CATALOG_SIZE),
			"the catalog above says"},
		{"size deeper", "/n", "UPDATE nested_catalogs SET size = size + 1", NULL, BIT(CATALOG_SIZE),
			"catalog-size /n/deep|/n/deep|"},
		{"size unknown", "", "UPDATE nested_catalogs SET size = 0", NULL, 0, NULL},
		{"one catalog twice", "",
			"UPDATE catalog SET flags = 3 WHERE name = 'sub';"
			"INSERT INTO nested_catalogs SELECT '/d/sub', sha1, size FROM nested_catalogs;",
			NULL, BIT(NESTED_TWICE) | BIT(COUNTER), "/d/sub|-: its catalog"},
		{"not there", "", "UPDATE nested_catalogs SET sha1 = '0123456789012345678901234567890123456789'", NULL,
			BIT(CATALOG_MISSING), "catalog-missing /n|/n|data/01/"},
		{"no marker", "/n/deep", "DELETE FROM catalog WHERE name = '.cvmfscatalog'", NULL,
			BIT(MARKER) | BIT(COUNTER), "marker /n/deep|/n/deep|-: a nested catalog without"},
		{"a marker that is a link", "/n/deep",
			"UPDATE catalog SET mode = 41471, flags = 12, size = 1, hash = NULL, symlink = 'x' WHERE name "
			"= "
			"'.cvmfscatalog'",
			NULL, BIT(MARKER) | BIT(COUNTER), "no regular file"},
		{"a marker elsewhere", "",
			COPY_ROW("/d/.cvmfscatalog", "/d", ".cvmfscatalog", "attr") COUNT("regular", 1)
				COUNT("xattr", 1),
			NULL, BIT(MARKER), "where no nested catalog begins"},
		{"bind without a catalog", "", "UPDATE catalog SET flags = 0x4001 WHERE name = 'sub'", NULL, BIT(BIND),
			"bind |/d/sub|-: a mountpoint whose"},
		{"bind without a mountpoint", "",
			"INSERT INTO bind_mountpoints SELECT '/d', sha1, size FROM nested_catalogs", NULL, BIT(BIND),
			"bind |/d|-: a catalog is named"},
		{"bind", "",
			"UPDATE catalog SET flags = 0x4001 WHERE name = 'sub';"
			"INSERT INTO bind_mountpoints SELECT '/d/sub', sha1, size FROM nested_catalogs",
			NULL, 0, NULL},
		{"bind to what is gone", "",
			"UPDATE catalog SET flags = 0x4001 WHERE name = 'sub';"
			"INSERT INTO bind_mountpoints VALUES ('/d/sub', '0123456789012345678901234567890123456789', 0)",
			NULL, BIT(TOLERATED), "/d/sub|data/01/"},
	};
	try_all(list, ARRAY_LEN(list));
}

static void to_wal(const char *path)
{
	CLEANUP(lm_closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "\2\2", 2, 18), 2);
}

static void cut(const char *path)
{
	assert_int_equal(truncate(path, 50), 0);
}

/* Zeroes in the last page, which is that of the index made last. */
static void wipe(const char *path)
{
	static const uint8_t zero[4096];
	struct stat st;
	CLEANUP(lm_closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(pwrite(fd, zero, sizeof(zero), st.st_size - (off_t)sizeof(zero)), sizeof(zero));
}

static void test_databases(void **state)
{
	static const struct forgery list[] = {
		{"write-ahead log", "", NULL, to_wal, BIT(CATALOG_REFUSED), "not in rollback-journal mode"},
		{"write-ahead log below", "/n", NULL, to_wal, BIT(CATALOG_REFUSED), "catalog-refused /n|/n|"},
		{"no database", "/n", NULL, cut, BIT(CATALOG_REFUSED), "database of 50 bytes"},
		{"a view", "", "CREATE VIEW v AS SELECT 1", NULL, BIT(CATALOG_REFUSED), "neither table nor index"},
		{"unknown schema", "", "UPDATE properties SET value = '9.9' WHERE key = 'schema'", NULL,
			BIT(CATALOG_REFUSED), "unknown schema"},
		{"another place", "/n", "UPDATE properties SET value = '/d' WHERE key = 'root_prefix'", NULL,
			BIT(CATALOG_REFUSED), "it was made for '/d'"},
		{"a nested root as root", "", "INSERT INTO properties VALUES ('root_prefix', '/d')", NULL,
			BIT(CATALOG_REFUSED), "it was made for '/d'"},
		{"root not in row 1", "", "UPDATE catalog SET rowid = 77 WHERE rowid = 1", NULL, BIT(CATALOG_REFUSED),
			"row 1"},
		{"no root", "", "DELETE FROM catalog WHERE rowid = 1", NULL, BIT(CATALOG_REFUSED),
			"no row for the root"},
		{"root's flags", "/n", "UPDATE catalog SET flags = 1 WHERE rowid = 1", NULL, BIT(CATALOG_REFUSED),
			"flags"},
		{"no chunks table", "", "DROP TABLE chunks", NULL, BIT(DATABASE), "can't be checked"},
		{"no index", "", "DROP INDEX idx_catalog_parent", NULL, BIT(DATABASE), "idx_catalog_parent"},
		{"an index of something else", "",
			"PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE INDEX idx_catalog_parent "
			"ON "
			"catalog (parent_2, parent_1)' WHERE name = 'idx_catalog_parent'",
			NULL, BIT(DATABASE) | BIT(UNREACHABLE) | BIT(LINK_COUNT) | BIT(COUNTER) | BIT(STRAY_CHUNK),
			"missing from index idx_catalog_parent"},
		{"damaged pages", "", NULL, wipe, BIT(DATABASE), "database "},
		{"revision is no number", "", "UPDATE properties SET value = 'x' WHERE key = 'revision'", NULL,
			BIT(PROPERTY), "revision is no number: 'x'"},
		{"another revision", "", "UPDATE properties SET value = 77 WHERE key = 'revision'", NULL, BIT(PROPERTY),
			"revision is 77, what names this root says 2"},
		{"time is no number", "/n", "UPDATE properties SET value = '-' WHERE key = 'last_modified'", NULL,
			BIT(PROPERTY), "last_modified"},
		{"TTL is no number", "", "UPDATE properties SET value = 'x' WHERE key = 'TTL'", NULL, BIT(PROPERTY),
			"TTL"},
		{"another TTL", "", "UPDATE properties SET value = 7 WHERE key = 'TTL'", NULL, BIT(TOLERATED),
			"TTL is 7"},
		{"no revision", "", "DELETE FROM properties WHERE key = 'revision'", NULL, BIT(TOLERATED),
			"no property revision"},
		{"previous revision", "", "INSERT OR REPLACE INTO properties VALUES ('previous_revision', 'x')", NULL,
			BIT(PROPERTY), "previous_revision is no hash"},
		{"older schema", "", "UPDATE properties SET value = 6 WHERE key = 'schema_revision'", NULL, BIT(SCHEMA),
			"6 of 7"},
		{"no counter", "", "DELETE FROM statistics WHERE counter = 'self_dir'", NULL, BIT(COUNTER),
			"no counter self_dir"},
		{"counter is no number", "/n", "UPDATE statistics SET value = 'x' WHERE counter = 'subtree_dir'", NULL,
			BIT(COUNTER), "subtree_dir is no number"},
	};
	try_all(list, ARRAY_LEN(list));
}

/* Each of the 24, in the root and below. */
static void test_counters(void **state)
{
	static const char *const mountpoints[] = {"", "/n", "/n/deep"};
	for (size_t i = 0; i < 2 * LM_COUNTER_COUNT; i++) {
		CLEANUP(lm_freep)
		char *name = lm_str_printf("%s_%s", i % 2 ? "self" : "subtree", lm_counter_names[i / 2].name);
		CLEANUP(lm_freep)
		char *sql = lm_str_printf("UPDATE statistics SET value = value + 1 WHERE counter = '%s'", name);
		CLEANUP(lm_freep) char *text = lm_str_printf("%s is ", name);
		const struct forgery forgery = {name, mountpoints[i % 3], sql, NULL, BIT(COUNTER), text};
		try(&forgery, false);
	}
}

/* Content that is not what its row says is found only by reading it. */
static void test_content(void **state)
{
	const char *larger = "UPDATE catalog SET size = size + 1 WHERE name = 'other';" COUNT("file_size", 1);
	const char *smaller = "UPDATE catalog SET size = size - 1 WHERE name = 'other';" COUNT("file_size", -1);
	const char *plain = "UPDATE catalog SET flags = 0x804 WHERE name = 'other'";
	const char *chunk = "UPDATE chunks SET hash = (SELECT hash FROM chunks WHERE offset = 0) WHERE offset = 3";
	const char *none = "UPDATE catalog SET hash = x'0123456789012345678901234567890123456789' WHERE name = 'other'";
	try(&(struct forgery){"unread", "", larger, NULL, 0, NULL}, false);
	try(&(struct forgery){"larger", "", larger, NULL, BIT(OBJECT_DAMAGED), "holds 13 bytes, the catalog says 14"},
		true);
	try(&(struct forgery){"smaller", "", smaller, NULL, BIT(OBJECT_DAMAGED), "object-damaged |/d/other|data/"},
		true);
	try(&(struct forgery){"plain", "", plain, NULL, BIT(OBJECT_DAMAGED), "/d/other|data/"}, true);
	try(&(struct forgery){"chunk", "", chunk, NULL, BIT(OBJECT_DAMAGED), "/d/big|data/"}, true);
	try(&(struct forgery){"missing", "", none, NULL, BIT(OBJECT_MISSING), "object-missing |/d/other|data/01/"},
		false);
	try(&(struct forgery){"missing", "", none, NULL, BIT(OBJECT_MISSING), "not in the storage"}, true);
	const char *external =
		"UPDATE catalog SET flags = flags | 128, hash = zeroblob(20) WHERE name = 'other';" COUNT("external", 1)
			COUNT("external_file_size", 13);
	try(&(struct forgery){"elsewhere", "", external, NULL, 0, NULL}, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clean),
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_links),
		cmocka_unit_test(test_chunks),
		cmocka_unit_test(test_tree),
		cmocka_unit_test(test_nested),
		cmocka_unit_test(test_databases),
		cmocka_unit_test(test_counters),
		cmocka_unit_test(test_content),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
