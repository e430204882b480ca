#include "oci/members.h"

#include "base/file.h"
#include "base/str.h"
#include "oci/tar_index.h"

#include <archive.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { PIECE = 256 << 10 };

static const uint64_t spool_max_default = 64ull << 30;

struct lm_members {
	char *path;
	int fd;			    /* the directory, or the tar */
	struct lm_tar_index *index; /* NULL: a directory */
};

/* A stretch of a file; its own descriptor, no file position. */
struct range_blob {
	struct lm_blob blob;
	int fd;
	uint64_t at, left;
};

void lm_members_free(struct lm_members *members)
{
	if (!members)
		return;
	lm_tar_index_free(members->index);
	lm_closep(&members->fd);
	free(members->path);
	free(members);
}

const char *lm_members_path(const struct lm_members *members)
{
	return members->path;
}

static ssize_t range_read(struct lm_blob *blob, void *ret, size_t len, struct lm_err *err)
{
	struct range_blob *b = (struct range_blob *)blob;
	ssize_t n;
	len = (size_t)LM_MIN((uint64_t)len, b->left);
	do
		n = pread(b->fd, ret, len, (off_t)b->at);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return lm_err_sys(err, -errno, "read");
	b->at += (uint64_t)n;
	b->left -= (uint64_t)n;
	return n;
}

static void range_close(struct lm_blob *blob)
{
	lm_closep(&((struct range_blob *)blob)->fd);
	free(blob);
}

static const struct lm_blob_ops range_ops = {range_read, range_close};

static int open_range(int fd, uint64_t at, uint64_t len, struct lm_blob **ret, struct lm_err *err)
{
	struct range_blob *b = calloc(1, sizeof(*b));
	if (!b)
		return lm_err_oom(err);
	*b = (struct range_blob){.blob.ops = &range_ops, .fd = fd, .at = at, .left = len};
	*ret = &b->blob;
	return 0;
}

static int open_in_dir(
	const struct lm_members *m, const char *name, struct lm_blob **ret, uint64_t *ret_size, struct lm_err *err)
{
	struct stat st;
	/* Non-blocking: a fifo put there must not hold us. */
	CLEANUP(lm_closep) int fd = openat(m->fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		return lm_err_sys(err, -errno, "%s/%s", m->path, name);
	if (!S_ISREG(st.st_mode))
		return lm_err_set(err, -EPROTO, "%s/%s is no regular file", m->path, name);
	int r = open_range(fd, 0, (uint64_t)st.st_size, ret, err);
	if (r < 0)
		return r;
	(void)STEAL_FD(fd);
	*ret_size = (uint64_t)st.st_size;
	return 0;
}

static int open_in_archive(
	const struct lm_members *m, const char *name, struct lm_blob **ret, uint64_t *ret_size, struct lm_err *err)
{
	struct lm_tar_place place;
	int r = lm_tar_index_find(m->index, name, &place, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", m->path);
	CLEANUP(lm_closep) int fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return lm_err_sys(err, -errno, "%s", m->path);
	r = open_range(fd, place.offset, place.size, ret, err);
	if (r < 0)
		return r;
	(void)STEAL_FD(fd);
	*ret_size = place.size;
	return 0;
}

int lm_members_open(
	const struct lm_members *m, const char *name, struct lm_blob **ret, uint64_t *ret_size, struct lm_err *err)
{
	return m->index ? open_in_archive(m, name, ret, ret_size, err) : open_in_dir(m, name, ret, ret_size, err);
}

int lm_members_read(const struct lm_members *m, const char *name, struct lm_buf *ret, struct lm_err *err)
{
	CLEANUP(lm_blob_closep) struct lm_blob *blob = NULL;
	uint64_t size;
	int r = lm_members_open(m, name, &blob, &size, err);
	if (r < 0)
		return r;
	if (size > ret->max - ret->len)
		return lm_err_set(err, -EMSGSIZE, "%s: %s has more than %zu bytes", m->path, name, ret->max);
	if (lm_buf_reserve(ret, size) < 0)
		return lm_err_oom(err);
	for (uint64_t left = size; left > 0;) {
		ssize_t n = blob->ops->read(blob, ret->data + ret->len, left, err);
		if (n <= 0)
			return n < 0 ? (int)n : lm_err_set(err, -EIO, "%s: %s shrank", m->path, name);
		ret->len += (size_t)n;
		left -= (uint64_t)n;
	}
	if (ret->data)
		ret->data[ret->len] = '\0';
	return 0;
}

static struct lm_members *new_members(const char *path)
{
	struct lm_members *m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	m->fd = -1;
	m->path = strdup(path);
	if (!m->path) {
		free(m);
		return NULL;
	}
	return m;
}

int lm_members_dir(const char *path, struct lm_members **ret, struct lm_err *err)
{
	CLEANUP(lm_members_freep) struct lm_members *m = new_members(path);
	if (!m)
		return lm_err_oom(err);
	m->fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (m->fd < 0)
		return lm_err_sys(err, -errno, "%s", path);
	*ret = STEAL(m);
	return 0;
}

/* --- archives compressed as a whole --- */

static bool is_compressed(int fd)
{
	static const struct {
		const char *bytes;
		size_t len;
	} magics[] = {{"\x1f\x8b", 2}, {"\x28\xb5\x2f\xfd", 4}, {"BZh", 3},
		{"\xfd"
		 "7zXZ",
			5}};
	char head[8] = {0};
	if (pread(fd, head, sizeof(head), 0) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(magics); i++)
		if (memcmp(head, magics[i].bytes, magics[i].len) == 0)
			return true;
	return false;
}

LM_DEFINE_CLEANUP(struct archive, archive_read_free, archive_freep)

/* libarchive's inflaters alone: its "raw" format is the stream without its compression. */
static int open_raw(int fd, struct archive **ret, struct lm_err *err)
{
	CLEANUP(archive_freep) struct archive *a = archive_read_new();
	struct archive_entry *entry;
	if (!a)
		return lm_err_oom(err);
	archive_read_support_filter_gzip(a);
	archive_read_support_filter_zstd(a);
	archive_read_support_filter_bzip2(a);
	archive_read_support_filter_xz(a);
	archive_read_support_format_raw(a);
	if (archive_read_open_fd(a, fd, PIECE) != ARCHIVE_OK || archive_read_next_header(a, &entry) != ARCHIVE_OK)
		return lm_err_set(err, -EPROTO, "%s", archive_error_string(a) ? archive_error_string(a) : "damaged");
	*ret = STEAL(a);
	return 0;
}

static int inflate(int from, int to, uint64_t max, struct lm_err *err)
{
	CLEANUP(archive_freep) struct archive *a = NULL;
	CLEANUP(lm_freep) void *piece = malloc(PIECE);
	if (!piece)
		return lm_err_oom(err);
	int r = open_raw(from, &a, err);
	for (uint64_t sum = 0; r == 0;) {
		la_ssize_t n = archive_read_data(a, piece, PIECE);
		if (n < 0)
			return lm_err_set(err, -EPROTO, "unpacking: %s", archive_error_string(a));
		if (n == 0)
			return 0;
		sum += (uint64_t)n;
		if (sum > max)
			return lm_err_set(err, -EFBIG, "unpacked it has more than %llu bytes; unpack it beforehand",
				(unsigned long long)max);
		r = lm_write_all(to, piece, (size_t)n, err);
	}
	return r;
}

static int make_spool(const struct lm_access *access, struct lm_err *err)
{
	const char *dir = access->spool_dir ? access->spool_dir : getenv("TMPDIR");
	dir = dir && *dir ? dir : "/var/tmp";
	int fd = lm_file_tmp(AT_FDCWD, dir, err);
	if (fd != -EOPNOTSUPP)
		return fd;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/lamella-spool.XXXXXX", dir);
	fd = path ? mkostemp(path, O_CLOEXEC) : -1;
	if (fd < 0)
		return lm_err_sys(err, -errno, "a temporary file in %s", dir);
	unlink(path);
	return fd;
}

/* Replaces the archive's descriptor by that of its unpacked copy. */
static int spool(struct lm_members *m, const struct lm_access *access, struct lm_err *err)
{
	uint64_t max = access->spool_max_bytes ? access->spool_max_bytes : spool_max_default;
	CLEANUP(lm_closep) int fd = make_spool(access, err);
	if (fd < 0)
		return fd;
	if (access->note) {
		CLEANUP(lm_freep)
		char *text = lm_str_printf("%s is compressed as a whole: unpacking it to a temporary file", m->path);
		access->note(access->note_arg, text ? text : m->path);
	}
	int r = inflate(m->fd, fd, max, err);
	if (r < 0)
		return r;
	lm_closep(&m->fd);
	m->fd = STEAL_FD(fd);
	return 0;
}

int lm_members_archive(const char *path, const struct lm_access *access, struct lm_members **ret, struct lm_err *err)
{
	static const struct lm_access defaults = {0};
	CLEANUP(lm_members_freep) struct lm_members *m = new_members(path);
	if (!m)
		return lm_err_oom(err);
	m->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (m->fd < 0)
		return lm_err_sys(err, -errno, "%s", path);
	int r = is_compressed(m->fd) ? spool(m, access ? access : &defaults, err) : 0;
	if (r == 0)
		r = lm_tar_index_read(m->fd, &m->index, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", path);
	*ret = STEAL(m);
	return 0;
}
