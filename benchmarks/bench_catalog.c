/*
 * bench-catalog --dir DIR [--json FILE] [--rows N,N...] [--rounds N]
 * bench-catalog --make FILE --rows N
 * bench-catalog --ask FILE --question found|absent|row --rounds N
 *
 * Makes a catalog per size in a temporary directory below DIR and measures what the reader (repo/catalog.h) needs for
 * each kind of question; the same questions go to SQLite as anybody would put them: default settings, one prepared
 * SELECT of all columns each. Both copy what they return. Rounds alternate between the two and between the sizes, so
 * what disturbs the machine disturbs all. Memory is measured in a process per size, so its figures are of that catalog
 * alone.
 *
 * A small catalog asked again and again lies in the processor's caches, whole; a large one can't. How much of the
 * growth that is, time does not tell: the second and third form make a catalog and ask it, for benchmarks/catalog to
 * count instructions and cache misses.
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "repo/catalog.h"
#include "repo/xattr.h"
#include "rounds.h"

#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>

enum {
	SIZES_MAX = 16,
	SAMPLES = 1 << 14, /* paths, row ids: each is asked for once in a round */
	DIRS = 1 << 10,
	SUBTREE_ROWS = 10000,
	CHUNKED = 1 << 10,
	COLD_OPENS = 5,
	WARM_OPENS = 50,
	COLD_LOOKUPS = 20,
	/* SQLite's memory of one open catalog: its page cache by the size of the file, and the rest. */
	MEMORY_CACHE_MIN_KIB = 96,
	MEMORY_CACHE_MAX_KIB = 2048,
	MEMORY_CACHE_PART = 72,
	MEMORY_REST_KIB = 160,
	/* System calls that read the file, in hundredths per look-up: the leaf of the index, and that of the table. */
	READS_ABSENT_MAX = 110,
	READS_FOUND_MAX = 210,
	/* What a question may cost at the largest size, in hundredths of what it costs at the smallest. */
	GROWTH_MAX = 200,
};

static void die(const char *what, const struct lm_err *err)
{
	fprintf(stderr, "bench-catalog: %s: %s\n", what, err ? lm_err_text(err) : strerror(errno));
	exit(1);
}

static void *checked(void *p)
{
	if (!p)
		die("memory", NULL);
	return p;
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Where a disk is waited for. */
static uint64_t wall_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* Of all else, which waits for nothing: what other processes take does not count. */
static uint64_t cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static uint64_t random64(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	return random_state ^= random_state << 17;
}

static unsigned below(unsigned bound)
{
	return (unsigned)(random64() % bound);
}

/*
 * Making a catalog: a tree as software installations have it. Directories hold a dozen entries, few of them thousands;
 * eight of a hundred files are links, one has attributes, one is cut into chunks, one is a pair of hard links. It has a
 * directory at the top for each SUBTREE_ROWS rows, so that paths are as long in catalogs of all sizes, and what grows
 * is the number of rows alone.
 */

struct maker {
	struct lm_catalog_writer *writer;
	char **dirs; /* to be filled, in this order */
	size_t dir_count, dir_cap, dir_next;
	uint64_t rows, rows_max;
	uint32_t groups;
	uint8_t xattr[128];
	size_t xattr_len;
	struct lm_chunk chunks[1000];
};

static void random_hash(struct lm_hash *ret)
{
	*ret = (struct lm_hash){.set = true};
	for (size_t i = 0; i < sizeof(ret->bytes); i++)
		ret->bytes[i] = (uint8_t)random64();
}

static const char *random_word(char *ret, size_t size)
{
	static const char *const syllables[] = {"lib", "core", "py", "test", "util", "data", "net", "io", "gen", "base",
		"ex", "con", "for", "mat", "er", "ing", "s", "_", "-", "x86", "2", "ui", "proc", "tion"};
	size_t len = 0;
	for (unsigned n = 2 + below(3); n > 0; n--)
		len += (size_t)snprintf(ret + len, size - len, "%s", syllables[below(ARRAY_LEN(syllables))]);
	return ret;
}

static void insert(struct maker *m, const char *path, const struct lm_row *row, size_t chunk_count)
{
	struct lm_err err = LM_ERR_INIT;
	if (lm_catalog_insert(m->writer, path, row, m->chunks, chunk_count, &err) < 0)
		die("insert", &err);
	m->rows++;
}

static void insert_dir(struct maker *m, const char *path)
{
	struct lm_row row = {.mode = S_IFDIR | 0755, .size = 4096, .mtime_s = 1700000000 + below(10000000)};
	insert(m, path, &row, 0);
	if (m->dir_count == m->dir_cap) {
		m->dir_cap = 2 * m->dir_cap + 64;
		m->dirs = checked(reallocarray(m->dirs, m->dir_cap, sizeof(*m->dirs)));
	}
	m->dirs[m->dir_count++] = checked(strdup(path));
}

static size_t cut(struct maker *m, struct lm_row *row)
{
	size_t count = below(20) == 0 ? 200 + below(800) : 2 + below(30);
	row->hash = (struct lm_hash){0};
	row->size = 0;
	for (size_t i = 0; i < count; i++) {
		m->chunks[i] = (struct lm_chunk){.offset = row->size, .size = 256 << 10};
		random_hash(&m->chunks[i].hash);
		row->size += m->chunks[i].size;
	}
	return count;
}

static void insert_file(struct maker *m, const char *path)
{
	struct lm_row row = {.mode = S_IFREG | 0644, .size = below(100000), .mtime_s = 1700000000 + below(10000000)};
	size_t chunk_count = 0;
	random_hash(&row.hash);
	unsigned kind = below(100);
	if (kind < 8) {
		row = (struct lm_row){.mode = S_IFLNK | 0777, .mtime_s = row.mtime_s};
		row.symlink = (char *)"../lib/libtarget.so.1.2.3";
	} else if (kind == 8) {
		row.xattr = m->xattr;
		row.xattr_len = m->xattr_len;
	} else if (kind == 9) {
		chunk_count = cut(m, &row);
	} else if (kind == 10) {
		CLEANUP(lm_freep) char *second = checked(lm_str_printf("%s.link", path));
		row.link_group = ++m->groups;
		insert(m, second, &row, 0);
	}
	insert(m, path, &row, chunk_count);
}

static void fill_dir(struct maker *m, const char *dir)
{
	static const char *const endings[] = {"", ".py", ".so", ".h", ".txt", ".pyc", ".html", ".json"};
	unsigned subdirs = 1 + below(4), files = below(400) == 0 ? 2000 : below(20);
	char path[LM_REPO_PATH_MAX], word[64];
	for (unsigned i = 0; i < subdirs && m->rows < m->rows_max; i++) {
		snprintf(path, sizeof(path), "%s/%s.%u", dir, random_word(word, sizeof(word)), i);
		insert_dir(m, path);
	}
	for (unsigned i = 0; i < files && m->rows < m->rows_max; i++) {
		snprintf(path, sizeof(path), "%s/%s.%u%s", dir, random_word(word, sizeof(word)), subdirs + i,
			endings[below(ARRAY_LEN(endings))]);
		insert_file(m, path);
	}
}

static void make_subtree(struct maker *m, unsigned number, uint64_t rows_max)
{
	char path[16];
	snprintf(path, sizeof(path), "/%u", number);
	m->rows_max = rows_max;
	m->dir_next = m->dir_count;
	insert_dir(m, path);
	for (; m->rows < rows_max; m->dir_next++)
		fill_dir(m, m->dirs[m->dir_next]);
}

static void make_xattr(struct maker *m)
{
	static const uint8_t capability[20] = {1, 0, 0, 2, 0x20};
	struct lm_xattr attrs[] = {
		{"security.capability", 19, capability, sizeof(capability)}, {"user.origin", 11, "debian", 6}};
	struct lm_buf blob = LM_BUF(sizeof(m->xattr));
	struct lm_err err = LM_ERR_INIT;
	if (lm_xattr_encode(attrs, ARRAY_LEN(attrs), &blob, &err) < 0)
		die("attributes", &err);
	memcpy(m->xattr, blob.data, blob.len);
	m->xattr_len = blob.len;
	lm_buf_done(&blob);
}

static void make_catalog(const char *file, uint64_t rows)
{
	struct lm_row root = {.mode = S_IFDIR | 0755, .size = 4096};
	struct lm_catalog_props props = {.revision = 1, .last_modified_s = 1700000000, .ttl_s = 240};
	struct lm_counters self, subtree;
	struct lm_err err = LM_ERR_INIT;
	struct maker *m = checked(calloc(1, sizeof(*m)));
	make_xattr(m);
	m->rows = 1;
	if (lm_catalog_create(file, "", &root, &m->writer, &err) < 0)
		die("create", &err);
	for (unsigned i = 0; m->rows < rows; i++)
		make_subtree(m, i, LM_MIN(rows, (i + 1) * (uint64_t)SUBTREE_ROWS));
	if (lm_catalog_writer_finish(m->writer, &props, &self, &subtree, &err) < 0)
		die("finish", &err);
	lm_catalog_writer_free(m->writer);
	for (size_t i = 0; i < m->dir_count; i++)
		free(m->dirs[i]);
	free(m->dirs);
	free(m);
}

/*
 * The two readers
 */

struct reader {
	const char *name;
	void *(*open)(const char *file);
	void (*close)(void *handle);
	bool (*lookup)(void *handle, struct lm_path_hash path); /* whether it is there */
	void (*row)(void *handle, uint64_t rowid);
	unsigned (*list)(void *handle, struct lm_path_hash dir); /* how many entries */
	unsigned (*chunks)(void *handle, const struct lm_row *row);
};

static void *lamella_open(const char *file)
{
	struct lm_catalog *catalog;
	struct lm_err err = LM_ERR_INIT;
	if (lm_catalog_open(file, "", &catalog, &err) < 0)
		die("open", &err);
	return catalog;
}

static void lamella_close(void *handle)
{
	lm_catalog_close(handle);
}

static bool lamella_lookup(void *handle, struct lm_path_hash path)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_row row;
	int r = lm_catalog_lookup(handle, path, &row, &err);
	if (r == -ENOENT)
		return false;
	if (r < 0)
		die("look-up", &err);
	lm_row_done(&row);
	return true;
}

static void lamella_row(void *handle, uint64_t rowid)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_row row;
	if (lm_catalog_row(handle, rowid, &row, &err) < 0)
		die("row", &err);
	lm_row_done(&row);
}

static int count_row(void *arg, struct lm_row *row)
{
	++*(unsigned *)arg;
	return 0;
}

static unsigned lamella_list(void *handle, struct lm_path_hash dir)
{
	struct lm_err err = LM_ERR_INIT;
	unsigned count = 0;
	if (lm_catalog_list(handle, dir, 0, count_row, &count, &err) < 0)
		die("list", &err);
	return count;
}

static unsigned lamella_chunks(void *handle, const struct lm_row *row)
{
	CLEANUP(lm_freep) struct lm_chunk *chunks = NULL;
	struct lm_err err = LM_ERR_INIT;
	size_t count;
	if (lm_catalog_chunks(handle, row, 0, UINT64_MAX, &chunks, &count, &err) < 0)
		die("chunks", &err);
	return (unsigned)count;
}

struct plain {
	sqlite3 *db;
	sqlite3_stmt *by_path, *by_rowid, *by_parent, *chunks;
};

static void plain_die(sqlite3 *db, const char *what)
{
	fprintf(stderr, "bench-catalog: %s: %s\n", what, sqlite3_errmsg(db));
	exit(1);
}

static sqlite3_stmt *plain_prepare(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *stmt;
	if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
		plain_die(db, sql);
	return stmt;
}

#define PLAIN_ROW                                                                                                     \
	"SELECT hash, hardlinks, size, mode, mtime, flags, name, symlink, md5path_1, md5path_2, parent_1, parent_2, " \
	"rowid, uid, gid, mtimens, xattr FROM catalog WHERE "

static void *plain_open(const char *file)
{
	struct plain *p = checked(calloc(1, sizeof(*p)));
	if (sqlite3_open_v2(file, &p->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
		plain_die(p->db, "open");
	p->by_path = plain_prepare(p->db, PLAIN_ROW "md5path_1 = ?1 AND md5path_2 = ?2");
	p->by_rowid = plain_prepare(p->db, PLAIN_ROW "rowid = ?1");
	p->by_parent = plain_prepare(p->db, PLAIN_ROW "parent_1 = ?1 AND parent_2 = ?2");
	p->chunks = plain_prepare(
		p->db, "SELECT offset, size, hash FROM chunks WHERE md5path_1 = ?1 AND md5path_2 = ?2 ORDER BY offset");
	return p;
}

static void plain_close(void *handle)
{
	struct plain *p = handle;
	sqlite3_stmt *stmts[] = {p->by_path, p->by_rowid, p->by_parent, p->chunks};
	for (size_t i = 0; i < ARRAY_LEN(stmts); i++)
		sqlite3_finalize(stmts[i]);
	sqlite3_close(p->db);
	free(p);
}

static void plain_bind(sqlite3_stmt *stmt, struct lm_path_hash path)
{
	sqlite3_bind_int64(stmt, 1, path.a);
	sqlite3_bind_int64(stmt, 2, path.b);
}

static volatile uint64_t plain_sum; /* so that nothing is left out as useless */

/* Looks at every column, as whoever wants the row must. */
static bool plain_step(sqlite3 *db, sqlite3_stmt *stmt)
{
	int rc = sqlite3_step(stmt);
	if (rc == SQLITE_DONE)
		return false;
	if (rc != SQLITE_ROW)
		plain_die(db, "step");
	for (int i = 0; i < sqlite3_column_count(stmt); i++) {
		CLEANUP(lm_freep) void *copy = NULL;
		const void *bytes;
		switch (sqlite3_column_type(stmt, i)) {
		case SQLITE_INTEGER:
			plain_sum += (uint64_t)sqlite3_column_int64(stmt, i);
			break;
		case SQLITE_TEXT:
		case SQLITE_BLOB:
			bytes = sqlite3_column_blob(stmt, i);
			copy = checked(malloc((size_t)sqlite3_column_bytes(stmt, i) + 1));
			if (bytes)
				memcpy(copy, bytes, (size_t)sqlite3_column_bytes(stmt, i));
			break;
		default:
			break;
		}
	}
	return true;
}

static bool plain_lookup(void *handle, struct lm_path_hash path)
{
	struct plain *p = handle;
	plain_bind(p->by_path, path);
	bool found = plain_step(p->db, p->by_path);
	sqlite3_reset(p->by_path);
	return found;
}

static void plain_row(void *handle, uint64_t rowid)
{
	struct plain *p = handle;
	sqlite3_bind_int64(p->by_rowid, 1, (int64_t)rowid);
	if (!plain_step(p->db, p->by_rowid))
		plain_die(p->db, "no such row");
	sqlite3_reset(p->by_rowid);
}

static unsigned plain_all(struct plain *p, sqlite3_stmt *stmt, struct lm_path_hash path)
{
	unsigned count = 0;
	plain_bind(stmt, path);
	while (plain_step(p->db, stmt))
		count++;
	sqlite3_reset(stmt);
	return count;
}

static unsigned plain_list(void *handle, struct lm_path_hash dir)
{
	return plain_all(handle, ((struct plain *)handle)->by_parent, dir);
}

static unsigned plain_chunks(void *handle, const struct lm_row *row)
{
	return plain_all(handle, ((struct plain *)handle)->chunks, row->path);
}

enum { LAMELLA, PLAIN, READERS };
static const struct reader readers[READERS] = {
	{"lamella", lamella_open, lamella_close, lamella_lookup, lamella_row, lamella_list, lamella_chunks},
	{"sqlite3", plain_open, plain_close, plain_lookup, plain_row, plain_list, plain_chunks},
};

/*
 * What is asked for
 */

struct samples {
	const char *file;
	uint64_t rows;
	char *paths[SAMPLES];  /* of rows by chance */
	char *absent[SAMPLES]; /* beside them */
	uint64_t rowids[SAMPLES];
	struct lm_path_hash dirs[DIRS];
	struct lm_row chunked[CHUNKED];
	struct lm_path_hash large; /* the largest directory met */
	unsigned large_entries;
};

static char *path_of(struct lm_catalog *catalog, uint64_t rowid)
{
	struct lm_buf path = LM_BUF(LM_REPO_PATH_MAX);
	struct lm_err err = LM_ERR_INIT;
	if (lm_catalog_path_of(catalog, rowid, &path, &err) < 0)
		die("path", &err);
	return checked(lm_buf_steal(&path, &(size_t){0}));
}

static uint64_t random_rowid(const struct samples *s)
{
	return 2 + random64() % (s->rows - 1);
}

static void sample_paths(struct samples *s, struct lm_catalog *catalog)
{
	for (size_t i = 0; i < SAMPLES; i++) {
		s->rowids[i] = random_rowid(s);
		s->paths[i] = path_of(catalog, random_rowid(s));
		char *slash = strrchr(s->paths[i], '/');
		s->absent[i] = checked(lm_str_printf("%.*s/absent%zu", (int)(slash - s->paths[i]), s->paths[i], i));
	}
}

/* Directories with what is in them, chunked files. */
static void sample_kinds(struct samples *s, struct lm_catalog *catalog)
{
	struct lm_err err = LM_ERR_INIT;
	for (size_t dirs = 0, chunked = 0; dirs < DIRS || chunked < CHUNKED;) {
		struct lm_row row;
		if (lm_catalog_row(catalog, random_rowid(s), &row, &err) < 0)
			die("row", &err);
		if (S_ISDIR(row.mode) && dirs < DIRS) {
			unsigned entries = lamella_list(catalog, row.path);
			if (entries > s->large_entries) {
				s->large_entries = entries;
				s->large = row.path;
			}
			if (entries > 0 && entries < 500)
				s->dirs[dirs++] = row.path;
		}
		if (row.flags & LM_ROW_CHUNKED && chunked < CHUNKED)
			s->chunked[chunked++] = row;
		lm_row_done(&row); /* path and size stay */
	}
}

static struct samples *samples_make(const char *file)
{
	struct samples *s = checked(calloc(1, sizeof(*s)));
	struct lm_counters self, subtree;
	struct lm_err err = LM_ERR_INIT;
	struct lm_catalog *catalog = lamella_open(file);
	if (lm_catalog_counters(catalog, &self, &subtree, &err) < 0)
		die("counters", &err);
	s->file = file;
	s->rows = self.regular + self.symlink + self.dir;
	sample_paths(s, catalog);
	sample_kinds(s, catalog);
	lm_catalog_close(catalog);
	return s;
}

static void samples_free(struct samples *s)
{
	for (size_t i = 0; i < SAMPLES; i++) {
		free(s->paths[i]);
		free(s->absent[i]);
	}
	free(s);
}

/* Drops the file from the page cache; false where that does nothing (tmpfs). */
static bool make_cold(const char *file)
{
	CLEANUP(lm_closep) int fd = open(file, O_RDONLY | O_CLOEXEC);
	char byte;
	struct iovec iov = {&byte, 1};
	if (fd < 0 || fdatasync(fd) < 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
		die(file, NULL);
	return preadv2(fd, &iov, 1, 0, RWF_NOWAIT) < 0 && errno == EAGAIN;
}

/* Reads the file through, so that it is in the page cache. */
static void make_warm(const char *file)
{
	CLEANUP(lm_closep) int fd = open(file, O_RDONLY | O_CLOEXEC);
	CLEANUP(lm_freep) char *block = checked(malloc(1 << 20));
	if (fd < 0)
		die(file, NULL);
	while (read(fd, block, 1 << 20) > 0)
		;
}

/*
 * Measurements: each returns nanoseconds per operation.
 */

typedef double measure_fn(const struct reader *reader, void *handle, const struct samples *s);

/* Until the first answer: an open that has read nothing yet is no use. */
static void *open_and_ask(const struct reader *reader, const struct samples *s)
{
	void *opened = reader->open(s->file);
	if (!reader->lookup(opened, lm_path_hash("", 0)))
		die(s->file, &(struct lm_err){.msg = "no root"});
	return opened;
}

static double open_cold(const struct reader *reader, void *handle, const struct samples *s)
{
	uint64_t sum = 0;
	for (int i = 0; i < COLD_OPENS; i++) {
		make_cold(s->file);
		uint64_t begin = wall_ns();
		void *opened = open_and_ask(reader, s);
		sum += wall_ns() - begin;
		reader->close(opened);
	}
	make_warm(s->file);
	return (double)sum / COLD_OPENS;
}

static double open_warm(const struct reader *reader, void *handle, const struct samples *s)
{
	uint64_t begin = cpu_ns();
	for (int i = 0; i < WARM_OPENS; i++)
		reader->close(open_and_ask(reader, s));
	return (double)(cpu_ns() - begin) / WARM_OPENS;
}

/* Few at a time, else those in a small catalog find the pages that others brought. */
static double lookup_cold(const struct reader *reader, void *handle, const struct samples *s)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < COLD_OPENS; i++) {
		void *opened = reader->open(s->file);
		make_cold(s->file);
		uint64_t begin = wall_ns();
		for (size_t k = 0; k < COLD_LOOKUPS; k++) {
			const char *path = s->paths[i * COLD_LOOKUPS + k];
			reader->lookup(opened, lm_path_hash(path, strlen(path)));
		}
		sum += wall_ns() - begin;
		reader->close(opened);
	}
	make_warm(s->file);
	return (double)sum / (COLD_OPENS * COLD_LOOKUPS);
}

static double lookup(const struct reader *reader, void *handle, char *const *paths, bool there)
{
	uint64_t begin = cpu_ns();
	for (size_t i = 0; i < SAMPLES; i++)
		if (reader->lookup(handle, lm_path_hash(paths[i], strlen(paths[i]))) != there)
			die(paths[i], &(struct lm_err){.msg = "a wrong answer"});
	return (double)(cpu_ns() - begin) / SAMPLES;
}

static double lookup_hit(const struct reader *reader, void *handle, const struct samples *s)
{
	return lookup(reader, handle, s->paths, true);
}

static double lookup_miss(const struct reader *reader, void *handle, const struct samples *s)
{
	return lookup(reader, handle, s->absent, false);
}

/* One path after the other of the same few: what a container does when it starts. */
static double lookup_again(const struct reader *reader, void *handle, const struct samples *s)
{
	uint64_t begin = cpu_ns();
	for (size_t i = 0; i < SAMPLES; i++) {
		const char *path = s->paths[i % 64];
		reader->lookup(handle, lm_path_hash(path, strlen(path)));
	}
	return (double)(cpu_ns() - begin) / SAMPLES;
}

static double row(const struct reader *reader, void *handle, const struct samples *s)
{
	uint64_t begin = cpu_ns();
	for (size_t i = 0; i < SAMPLES; i++)
		reader->row(handle, s->rowids[i]);
	return (double)(cpu_ns() - begin) / SAMPLES;
}

static double list(const struct reader *reader, void *handle, const struct samples *s)
{
	uint64_t begin = cpu_ns(), entries = 0;
	for (size_t i = 0; i < DIRS; i++)
		entries += reader->list(handle, s->dirs[i]);
	return (double)(cpu_ns() - begin) / (double)entries;
}

static double list_large(const struct reader *reader, void *handle, const struct samples *s)
{
	uint64_t begin = cpu_ns(), entries = 0;
	for (size_t i = 0; i < 10; i++)
		entries += reader->list(handle, s->large);
	return (double)(cpu_ns() - begin) / (double)entries;
}

static double chunks(const struct reader *reader, void *handle, const struct samples *s)
{
	uint64_t begin = cpu_ns(), count = 0;
	for (size_t i = 0; i < CHUNKED; i++)
		count += reader->chunks(handle, &s->chunked[i]);
	return (double)(cpu_ns() - begin) / (double)count;
}

/* What a look-up has the machine do, and nothing of its own: two pages of the file, by chance. The small file lies in a
 * cache of the processor, the large one does not. */
static double pages(const struct reader *reader, void *handle, const struct samples *s)
{
	char page[4096];
	struct stat st;
	CLEANUP(lm_closep) int fd = open(s->file, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		die(s->file, NULL);
	uint64_t count = (uint64_t)st.st_size / sizeof(page), begin = cpu_ns();
	for (size_t i = 0; i < 2 * SAMPLES; i++)
		if (pread(fd, page, sizeof(page), (off_t)(random64() % count * sizeof(page))) != sizeof(page))
			die(s->file, NULL);
	return (double)(cpu_ns() - begin) / SAMPLES;
}

static const struct measurement {
	const char *name, *per;
	measure_fn *run;
	const char *whose; /* growth it is; NULL: the reader's, by GROWTH_MAX */
} measurements[] = {
	{"open, look up root, cold", "catalog", open_cold, "the disk's"},
	{"open, look up root", "catalog", open_warm, NULL},
	{"look-up by path, cold", "look-up", lookup_cold, "the disk's"},
	{"look-up by path", "look-up", lookup_hit, NULL},
	{"look-up by path, absent", "look-up", lookup_miss, NULL},
	{"two pages of the file", "pair", pages, "the machine's"},
	{"look-up by path, 64 paths", "look-up", lookup_again, NULL},
	{"row by id", "row", row, NULL},
	{"list a directory", "entry", list, NULL},
	{"list a large directory", "entry", list_large, NULL},
	{"chunks of a file", "chunk", chunks, NULL},
};
enum { MEASUREMENTS = ARRAY_LEN(measurements) };

/*
 * Figures of a size; they come back from processes through shared memory.
 */

struct figures {
	uint64_t rows, file_bytes, make_ms;
	uint64_t sqlite_kib, resident_kib;		      /* memory of the open catalog after use */
	unsigned reads_found[READERS], reads_absent[READERS]; /* of the file, in hundredths per look-up */
	unsigned large_entries;
	bool never_cold;
	double ns[MEASUREMENTS][READERS][ROUNDS_MAX]; /* sorted in the end */
	double growth[MEASUREMENTS][READERS];	      /* by the first size: the median of the rounds' own ratios */
};

static uint64_t resident_kib(void)
{
	unsigned long total = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "re");
	if (!file || fscanf(file, "%lu %lu", &total, &resident) != 2)
		die("/proc/self/statm", NULL);
	fclose(file);
	return resident * (unsigned long)sysconf(_SC_PAGESIZE) / 1024;
}

/* Everything once, so that caches are as full as they get. */
static void measure_memory(const struct samples *s, struct figures *ret)
{
	const struct reader *reader = &readers[LAMELLA];
	malloc_trim(0);
	uint64_t resident = resident_kib();
	int64_t sqlite = sqlite3_memory_used();
	void *handle = reader->open(s->file);
	lookup_hit(reader, handle, s);
	lookup_miss(reader, handle, s);
	row(reader, handle, s);
	list(reader, handle, s);
	chunks(reader, handle, s);
	ret->sqlite_kib = (uint64_t)(sqlite3_memory_used() - sqlite) / 1024;
	ret->resident_kib = resident_kib() - resident;
	reader->close(handle);
}

/* System calls of this process that read. */
static uint64_t reads(void)
{
	uint64_t count = 0;
	FILE *file = fopen("/proc/self/io", "re");
	if (!file || fscanf(file, "%*s %*s %*s %*s %*s %" SCNu64, &count) != 1)
		die("/proc/self/io", NULL);
	fclose(file);
	return count;
}

/* What no processor's cache and no other load has a part in. */
static void measure_reads(const struct samples *s, struct figures *ret)
{
	for (size_t k = 0; k < READERS; k++) {
		void *handle = readers[k].open(s->file);
		lookup_hit(&readers[k], handle, s);
		uint64_t begin = reads();
		lookup_hit(&readers[k], handle, s);
		uint64_t between = reads();
		lookup_miss(&readers[k], handle, s);
		ret->reads_found[k] = (unsigned)((between - begin) * 100 / SAMPLES);
		ret->reads_absent[k] = (unsigned)((reads() - between) * 100 / SAMPLES);
		readers[k].close(handle);
	}
}

/* What is a catalog's alone, in a process of its own. */
static void measure_alone(const char *file, struct figures *ret)
{
	struct samples *s = samples_make(file);
	ret->large_entries = s->large_entries;
	measure_memory(s, ret);
	measure_reads(s, ret);
	ret->never_cold = !make_cold(file);
	make_warm(file);
	samples_free(s);
}

/* One catalog after the other in each round, so that what disturbs the machine for a while disturbs all sizes. */
static void measure_times(char *const *files, size_t count, unsigned rounds, struct figures *sizes)
{
	struct samples *samples[SIZES_MAX];
	void *handles[SIZES_MAX][READERS];
	for (size_t n = 0; n < count; n++) {
		samples[n] = samples_make(files[n]);
		for (size_t k = 0; k < READERS; k++)
			handles[n][k] = readers[k].open(files[n]);
	}
	for (unsigned round = 0; round < rounds; round++)
		for (size_t i = 0; i < MEASUREMENTS; i++)
			for (size_t n = 0; n < count; n++)
				for (size_t k = 0; k < READERS; k++)
					sizes[n].ns[i][k][round] =
						measurements[i].run(&readers[k], handles[n][k], samples[n]);
	for (size_t n = count; n-- > 0;) {
		for (size_t k = 0; k < READERS; k++) {
			readers[k].close(handles[n][k]);
			for (size_t i = 0; i < MEASUREMENTS; i++) {
				sizes[n].growth[i][k] = rounds_median(sizes[n].ns[i][k], sizes[0].ns[i][k], rounds);
				rounds_sort(sizes[n].ns[i][k], rounds);
			}
		}
		samples_free(samples[n]);
	}
}

/* Runs the rest of this function in a child and waits for its success. */
static bool in_child(void)
{
	int status = 0;
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0)
		return true;
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		die("fork", NULL);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		exit(1);
	return false;
}

static char *prepare_size(const char *dir, uint64_t rows, struct figures *ret)
{
	char *file = checked(lm_str_printf("%s/%" PRIu64, dir, rows));
	struct stat st;
	fprintf(stderr, "a catalog of %" PRIu64 " rows...\n", rows);
	int64_t begin = lm_now_ms();
	if (in_child()) {
		make_catalog(file, rows);
		_exit(0);
	}
	ret->make_ms = (uint64_t)(lm_now_ms() - begin);
	ret->rows = rows;
	if (stat(file, &st) < 0)
		die(file, NULL);
	ret->file_bytes = (uint64_t)st.st_size;
	if (in_child()) {
		measure_alone(file, ret);
		_exit(0);
	}
	return file;
}

/*
 * Reports
 */

static void print_triple(const double *sorted, unsigned rounds)
{
	printf("%12.0f %9.0f %9.0f", sorted[0], sorted[rounds / 2], sorted[rounds - 1]);
}

static void print_table(const struct figures *sizes, size_t count, unsigned rounds)
{
	printf("%-34s %9s %31s %31s %7s\n", "nanoseconds per", "rows", "lamella: min, median, max",
		"plain sqlite3: min, median, max", "ratio");
	for (size_t i = 0; i < MEASUREMENTS; i++) {
		for (size_t k = 0; k < count; k++) {
			const double(*ns)[ROUNDS_MAX] = sizes[k].ns[i];
			char what[64];
			snprintf(what, sizeof(what), "%s (per %s)", measurements[i].name, measurements[i].per);
			printf("%-34s %9" PRIu64, k == 0 ? what : "", sizes[k].rows);
			print_triple(ns[LAMELLA], rounds);
			print_triple(ns[PLAIN], rounds);
			printf(" %7.2f\n", ns[PLAIN][rounds / 2] / ns[LAMELLA][rounds / 2]);
		}
	}
	printf("\ncold: time, else processor time; ratio: median of plain sqlite3 by median of lamella, above 1 "
	       "lamella is "
	       "quicker\n");
}

static bool print_growth(const struct figures *sizes, size_t count, unsigned rounds)
{
	const struct figures *small = &sizes[0], *large = &sizes[count - 1];
	bool good = true;
	printf("\n%-34s %19s %19s\n", "the largest by the smallest", "lamella: min, median", "sqlite3: min, median");
	for (size_t i = 0; i < MEASUREMENTS; i++) {
		printf("%-34s", measurements[i].name);
		for (size_t k = 0; k < READERS; k++) {
			double min = large->ns[i][k][0] / small->ns[i][k][0];
			double median = large->growth[i][k];
			printf(" %10.2f %9.2f", min, median);
			if (k == LAMELLA && !measurements[i].whose)
				good = good && LM_MAX(min, median) * 100 <= GROWTH_MAX;
		}
		if (measurements[i].whose)
			printf("  (%s: no bound)", measurements[i].whose);
		putchar('\n');
	}
	printf("growth with the size: %s\n", good ? "within its bound" : "MORE THAN ITS BOUND");
	return good;
}

static bool print_reads(const struct figures *sizes, size_t count)
{
	bool good = true;
	printf("\n%9s %31s %31s\n", "rows", "found: lamella, sqlite3", "absent: lamella, sqlite3");
	for (size_t k = 0; k < count; k++) {
		const struct figures *f = &sizes[k];
		printf("%9" PRIu64 " %21.2f %9.2f %21.2f %9.2f\n", f->rows, f->reads_found[LAMELLA] / 100.0,
			f->reads_found[PLAIN] / 100.0, f->reads_absent[LAMELLA] / 100.0,
			f->reads_absent[PLAIN] / 100.0);
		good = good && f->reads_found[LAMELLA] <= READS_FOUND_MAX &&
		       f->reads_absent[LAMELLA] <= READS_ABSENT_MAX;
	}
	printf("reads of the file per look-up: %s\n", good ? "within their bound" : "MORE THAN THEIR BOUND");
	return good;
}

static uint64_t memory_max_kib(const struct figures *f)
{
	uint64_t cache = f->file_bytes / 1024 / MEMORY_CACHE_PART;
	return LM_MIN(LM_MAX(cache, (uint64_t)MEMORY_CACHE_MIN_KIB), (uint64_t)MEMORY_CACHE_MAX_KIB) + MEMORY_REST_KIB;
}

static bool print_memory(const struct figures *sizes, size_t count)
{
	bool good = true;
	printf("\n%9s %14s %14s %20s %20s\n", "rows", "file, KiB", "made in, ms", "SQLite memory, KiB",
		"resident, KiB");
	for (size_t k = 0; k < count; k++) {
		const struct figures *f = &sizes[k];
		printf("%9" PRIu64 " %14" PRIu64 " %14" PRIu64 " %20" PRIu64 " %20" PRIu64 " %20" PRIu64 "\n", f->rows,
			f->file_bytes / 1024, f->make_ms, f->sqlite_kib, memory_max_kib(f), f->resident_kib);
		if (f->never_cold)
			printf("%9s the page cache does not let go of files here: cold is warm\n", "");
		good = good && f->sqlite_kib <= memory_max_kib(f);
	}
	printf("memory of an open catalog: %s\n", good ? "within its bound" : "MORE THAN ITS BOUND");
	return good;
}

static void write_json(const char *file, const struct figures *sizes, size_t count, unsigned rounds)
{
	FILE *out = fopen(file, "we");
	if (!out)
		die(file, NULL);
	for (size_t k = 0; k < count; k++) {
		const struct figures *f = &sizes[k];
		fprintf(out,
			"{\"benchmark\": \"catalog\", \"rows\": %" PRIu64 ", \"file_bytes\": %" PRIu64
			", \"make_ms\": %" PRIu64 ", \"sqlite_kib\": %" PRIu64 ", \"resident_kib\": %" PRIu64
			", \"reads_found\": %.2f, \"reads_absent\": %.2f}\n",
			f->rows, f->file_bytes, f->make_ms, f->sqlite_kib, f->resident_kib,
			f->reads_found[LAMELLA] / 100.0, f->reads_absent[LAMELLA] / 100.0);
		for (size_t i = 0; i < MEASUREMENTS; i++)
			for (size_t r = 0; r < READERS; r++)
				fprintf(out,
					"{\"benchmark\": \"catalog\", \"rows\": %" PRIu64
					", \"what\": \"%s\", \"reader\": \"%s\", \"unit\": \"ns/%s\", \"rounds\": %u, "
					"\"min\": %.1f, \"median\": %.1f, \"max\": %.1f}\n",
					f->rows, measurements[i].name, readers[r].name, measurements[i].per, rounds,
					f->ns[i][r][0], f->ns[i][r][rounds / 2], f->ns[i][r][rounds - 1]);
	}
	if (fclose(out) != 0)
		die(file, NULL);
	printf("as JSON lines: %s\n", file);
}

/*
 * One kind of question alone
 */

/* The samples beside the catalog: choosing them costs more than asking. */
static FILE *samples_file(const char *file, const char *mode)
{
	CLEANUP(lm_freep) char *path = checked(lm_str_printf("%s.samples", file));
	FILE *f = fopen(path, mode);
	if (!f)
		die(path, NULL);
	return f;
}

static int make_samples(const char *file)
{
	struct samples *s = samples_make(file);
	FILE *f = samples_file(file, "we");
	for (size_t i = 0; i < SAMPLES; i++)
		fprintf(f, "%s %s %" PRIu64 "\n", s->paths[i], s->absent[i], s->rowids[i]);
	if (fclose(f) != 0)
		die(file, NULL);
	samples_free(s);
	return 0;
}

static struct samples *read_samples(const char *file)
{
	struct samples *s = checked(calloc(1, sizeof(*s)));
	FILE *f = samples_file(file, "re");
	for (size_t i = 0; i < SAMPLES; i++)
		if (fscanf(f, "%ms %ms %" SCNu64, &s->paths[i], &s->absent[i], &s->rowids[i]) != 3)
			die(file, &(struct lm_err){.msg = "its samples can't be read"});
	fclose(f);
	return s;
}

/* Asks all samples once, and then as often again as is said: the difference between runs is that of the questions. */
static int ask(const char *file, const char *question, unsigned rounds)
{
	static const struct {
		const char *name;
		measure_fn *run;
	} questions[] = {{"found", lookup_hit}, {"absent", lookup_miss}, {"row", row}};
	struct samples *s = read_samples(file);
	void *handle = lamella_open(file);
	bool known = false;
	for (size_t i = 0; i < ARRAY_LEN(questions); i++)
		for (unsigned round = 0; strcmp(questions[i].name, question) == 0 && round <= rounds;
			round++, known = true)
			questions[i].run(&readers[LAMELLA], handle, s);
	lamella_close(handle);
	samples_free(s);
	if (!known)
		die(question, &(struct lm_err){.msg = "not a question"});
	printf("%d\n", SAMPLES);
	return 0;
}

struct options {
	const char *dir, *json, *make, *ask, *question;
	uint64_t rows[SIZES_MAX];
	size_t count;
	unsigned rounds;
};

static void usage(void)
{
	fprintf(stderr, "usage: bench-catalog --dir DIR [--json FILE] [--rows N,N...] [--rounds N]\n"
			"       bench-catalog --make FILE --rows N\n"
			"       bench-catalog --ask FILE --question found|absent|row --rounds N\n");
	exit(2);
}

static void parse_rows(const char *text, struct options *o)
{
	for (o->count = 0; o->count < SIZES_MAX; o->count++) {
		size_t len = strcspn(text, ",");
		if (lm_str_u64(text, len, &o->rows[o->count]) < 0 || o->rows[o->count] < 5000)
			usage(); /* too small for the samples */
		text += len;
		if (*text++ == '\0') {
			o->count++;
			return;
		}
	}
	usage();
}

static void parse_options(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {{"dir", required_argument, NULL, 'd'},
		{"json", required_argument, NULL, 'j'}, {"rows", required_argument, NULL, 'n'},
		{"rounds", required_argument, NULL, 'r'}, {"make", required_argument, NULL, 'm'},
		{"ask", required_argument, NULL, 'a'}, {"question", required_argument, NULL, 'q'}, {0}};
	uint64_t number;
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'd')
			o->dir = optarg;
		else if (c == 'j')
			o->json = optarg;
		else if (c == 'm')
			o->make = optarg;
		else if (c == 'a')
			o->ask = optarg;
		else if (c == 'q')
			o->question = optarg;
		else if (c == 'n')
			parse_rows(optarg, o);
		else if (c == 'r' && lm_str_u64(optarg, strlen(optarg), &number) == 0 && number > 0 &&
			 number <= ROUNDS_MAX)
			o->rounds = (unsigned)number;
		else
			usage();
	}
	if (!o->dir + !o->make + !o->ask != 2 || !o->ask != !o->question || (o->make && o->count != 1) ||
		optind != argc)
		usage();
}

int main(int argc, char **argv)
{
	struct options o = {.rows = {10000, 100000, 1000000}, .count = 3, .rounds = 7};
	struct lm_err err = LM_ERR_INIT;
	parse_options(argc, argv, &o);
	if (o.make)
		make_catalog(o.make, o.rows[0]);
	if (o.make || o.ask)
		return o.ask ? ask(o.ask, o.question, o.rounds) : make_samples(o.make);
	size_t size = o.count * sizeof(struct figures);
	struct figures *sizes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CLEANUP(lm_freep) char *dir = checked(lm_str_printf("%s/bench-catalog.XXXXXX", o.dir));
	if (sizes == MAP_FAILED || !mkdtemp(dir))
		die(dir, NULL);
	char *files[SIZES_MAX];
	for (size_t i = 0; i < o.count; i++)
		files[i] = prepare_size(dir, o.rows[i], &sizes[i]);
	measure_times(files, o.count, o.rounds, sizes);
	for (size_t i = 0; i < o.count; i++)
		free(files[i]);
	if (lm_remove_tree(AT_FDCWD, dir, &err) < 0)
		die(dir, &err);
	print_table(sizes, o.count, o.rounds);
	bool good = print_growth(sizes, o.count, o.rounds);
	good = print_reads(sizes, o.count) && good;
	good = print_memory(sizes, o.count) && good;
	if (o.json)
		write_json(o.json, sizes, o.count, o.rounds);
	return good ? 0 : 1;
}
