#include "fetcher/catalogs.h"

#include "base/file.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <zlib.h>

/*
 * A record of the table: this header, then the mountpoint's bytes. Numbers are consecutive from 1, so a record's place
 * is its number. crc: crc32 of all that follows it.
 */
struct disk_record {
	uint32_t crc; /* little-endian, like all below */
	uint32_t number;
	uint16_t path_len, prefix_len;
	uint8_t algo, view, zero[2];
	uint8_t digest[LM_HASH_BYTES];
};
_Static_assert(sizeof(struct disk_record) == 36, "no padding");

enum { FAMINE_CLOSE = 4 }; /* open catalogs that are closed at a time when descriptors ran out */

struct opened {
	struct lm_open_catalog open;
	struct record *record;
	struct lm_cache *cache; /* NULL: its object is not pinned */
	struct lm_object_ref ref;
	unsigned refs; /* under lock */
	TAILQ_ENTRY(opened) entry;
};
TAILQ_HEAD(opened_list, opened);

struct record { /* never freed or moved before the end: strings may be used without the lock */
	struct lm_hash hash;
	enum lm_view view;
	uint32_t number;
	uint16_t prefix_len;
	struct opened *opened; /* under lock; NULL: closed */
	char *mountpoint;
};

struct lm_catalogs {
	struct lm_cache *cache;
	size_t open_max;
	int fd; /* the table, for appending */

	struct lm_lock lock;
	/* under lock */
	struct record **records; /* [0] is number 1 */
	size_t count, room;
	void *by_key;		   /* tsearch tree of the same records */
	off_t end;		   /* of the table */
	struct opened_list recent; /* most recently used first */
	size_t open_count;
};

static int cmp_record(const void *a, const void *b)
{
	const struct record *x = a, *y = b;
	int r = lm_hash_cmp(&x->hash, &y->hash);
	if (r == 0)
		r = strcmp(x->mountpoint, y->mountpoint);
	if (r == 0)
		r = x->prefix_len - y->prefix_len;
	return r ? r : (int)x->view - (int)y->view;
}

static void record_free(struct record *record)
{
	if (record)
		free(record->mountpoint);
	free(record);
}
LM_DEFINE_CLEANUP(struct record, record_free, record_freep)

static struct record *record_new(
	const struct lm_hash *hash, const char *mountpoint, size_t len, size_t prefix_len, enum lm_view view)
{
	CLEANUP(record_freep) struct record *record = calloc(1, sizeof(*record));
	if (!record || !(record->mountpoint = lm_str_ndup(mountpoint, len)))
		return NULL;
	record->hash = *hash;
	record->prefix_len = (uint16_t)prefix_len;
	record->view = view;
	return STEAL(record);
}

/* Takes ownership of the record on success; 0 or -ENOMEM. */
static int add_record(struct lm_catalogs *catalogs, struct record *record)
{
	if (catalogs->count == catalogs->room) {
		size_t room = catalogs->room ? 2 * catalogs->room : 64;
		struct record **more = reallocarray(catalogs->records, room, sizeof(*more));
		if (!more)
			return -ENOMEM;
		catalogs->records = more;
		catalogs->room = room;
	}
	if (!tsearch(record, &catalogs->by_key, cmp_record))
		return -ENOMEM;
	record->number = (uint32_t)catalogs->count + 1;
	catalogs->records[catalogs->count++] = record;
	return 0;
}

/* One record at *at of the table's bytes: 0; -ENODATA nothing left; -EPROTO torn or damaged. */
static int parse_record(const uint8_t *data, size_t len, size_t *at, uint32_t number, struct record **ret)
{
	struct disk_record head;
	if (*at == len)
		return -ENODATA;
	if (len - *at < sizeof(head))
		return -EPROTO;
	memcpy(&head, data + *at, sizeof(head));
	size_t path_len = le16toh(head.path_len), total = sizeof(head) + path_len;
	if (len - *at < total || le32toh(head.number) != number || path_len > LM_REPO_PATH_MAX ||
		le16toh(head.prefix_len) > path_len || head.algo > LM_HASH_SHAKE128 || head.view >= LM_VIEW_COUNT)
		return -EPROTO;
	const uint8_t *path = data + *at + sizeof(head);
	uint32_t crc = (uint32_t)crc32(0, data + *at + sizeof(head.crc), (uInt)(total - sizeof(head.crc)));
	if (crc != le32toh(head.crc) || memchr(path, '\0', path_len))
		return -EPROTO;
	struct lm_hash hash = {.algo = head.algo, .set = true};
	memcpy(hash.bytes, head.digest, sizeof(hash.bytes));
	*ret = record_new(&hash, (const char *)path, path_len, le16toh(head.prefix_len), head.view);
	*at += total;
	return *ret ? 0 : -ENOMEM;
}

/* The file's lock is per open file, so it also keeps two users in one process apart. Nobody holds it for longer than it
 * takes to append a few bytes. */
static int lock_table(struct lm_catalogs *catalogs, short type, struct lm_err *err)
{
	struct flock whole = {.l_type = type, .l_whence = SEEK_SET};
	while (fcntl(catalogs->fd, F_OFD_SETLKW, &whole) < 0)
		if (errno != EINTR)
			return lm_err_sys(err, -errno, "lock the table of catalog numbers");
	return 0;
}

static void table_unlockp(struct lm_catalogs **catalogs)
{
	if (*catalogs)
		(void)!lock_table(*catalogs, F_UNLCK, NULL);
}

static int read_table(struct lm_catalogs *catalogs, size_t len, struct lm_buf *ret, struct lm_err *err)
{
	int r = lm_buf_reserve(ret, len);
	if (r < 0)
		return lm_err_oom(err);
	while (ret->len < len) {
		ssize_t n = pread(catalogs->fd, ret->data + ret->len, len - ret->len, catalogs->end + (off_t)ret->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return lm_err_sys(err, n < 0 ? -errno : -EIO, "read the table of catalog numbers");
		ret->len += (size_t)n;
	}
	return 0;
}

/* Takes in what the table has beyond what is known; with its lock held. What can't be read is cut off: whoever wrote it
 * died over it, since others can't be writing now. */
static int follow_table(struct lm_catalogs *catalogs, struct lm_err *err)
{
	struct stat st;
	if (fstat(catalogs->fd, &st) < 0)
		return lm_err_sys(err, -errno, "the table of catalog numbers");
	if (st.st_size == catalogs->end)
		return 0;
	if (st.st_size < catalogs->end)
		return lm_err_set(err, -EIO, "the table of catalog numbers has become shorter");
	CLEANUP(lm_buf_done)
	struct lm_buf data = LM_BUF((size_t)LM_CATALOG_NUMBER_MAX * (sizeof(struct disk_record) + 64));
	int r = read_table(catalogs, (size_t)(st.st_size - catalogs->end), &data, err);
	if (r < 0)
		return r;
	size_t at = 0;
	for (;;) {
		CLEANUP(record_freep) struct record *record = NULL;
		size_t next = at;
		r = parse_record(data.data, data.len, &next, (uint32_t)catalogs->count + 1, &record);
		if (r == 0)
			r = add_record(catalogs, record);
		if (r < 0)
			break;
		(void)STEAL(record);
		at = next;
	}
	catalogs->end += (off_t)at;
	if (r == -ENOMEM)
		return lm_err_oom(err);
	if (r == -EPROTO) {
		lm_log(LM_LOG_WARN, "table of catalog numbers is cut at its first bad record",
			LM_KV("kept", "%zu", catalogs->count), LM_KV("bytes_lost", "%zu", data.len - at));
		if (ftruncate(catalogs->fd, catalogs->end) < 0)
			return lm_err_sys(err, -errno, "truncate the table of catalog numbers");
	}
	return 0;
}

static int follow_table_locked(struct lm_catalogs *catalogs, struct lm_err *err)
{
	CLEANUP(table_unlockp) struct lm_catalogs *locked = NULL;
	int r = lock_table(catalogs, F_WRLCK, err);
	if (r < 0)
		return r;
	locked = catalogs;
	return follow_table(locked, err);
}

int lm_catalogs_new(
	struct lm_cache *cache, const char *table, size_t open_max, struct lm_catalogs **ret, struct lm_err *err)
{
	CLEANUP(lm_catalogs_freep) struct lm_catalogs *catalogs = calloc(1, sizeof(*catalogs));
	if (!catalogs)
		return lm_err_oom(err);
	catalogs->cache = cache;
	catalogs->open_max = open_max;
	lm_lock_init(&catalogs->lock);
	TAILQ_INIT(&catalogs->recent);
	catalogs->fd = open(table, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (catalogs->fd < 0)
		return lm_err_sys(err, -errno, "open %s", table);
	int r = follow_table_locked(catalogs, err);
	if (r < 0)
		return lm_err_prefix(err, r, "%s", table);
	*ret = STEAL(catalogs);
	return 0;
}

static void opened_free(struct opened *opened)
{
	if (!opened)
		return;
	lm_catalog_close(opened->open.catalog);
	if (opened->cache)
		lm_cache_unpin(opened->cache, &opened->ref);
	free(opened);
}
LM_DEFINE_CLEANUP(struct opened, opened_free, opened_freep)

static void keep_node(void *node)
{
	(void)node; /* the records array owns it */
}

void lm_catalogs_free(struct lm_catalogs *catalogs)
{
	if (!catalogs)
		return;
	struct opened *opened;
	while ((opened = TAILQ_FIRST(&catalogs->recent))) {
		TAILQ_REMOVE(&catalogs->recent, opened, entry);
		opened_free(opened);
	}
	tdestroy(catalogs->by_key, keep_node);
	for (size_t i = 0; i < catalogs->count; i++)
		record_free(catalogs->records[i]);
	free(catalogs->records);
	lm_closep(&catalogs->fd);
	lm_lock_done(&catalogs->lock);
	free(catalogs);
}

/* Appends a record; with the table's lock held. */
static int write_record(struct lm_catalogs *catalogs, const struct record *record, uint32_t number, struct lm_err *err)
{
	size_t path_len = strlen(record->mountpoint);
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(sizeof(struct disk_record) + LM_REPO_PATH_MAX);
	struct disk_record head = {
		.number = htole32(number),
		.path_len = htole16((uint16_t)path_len),
		.prefix_len = htole16(record->prefix_len),
		.algo = record->hash.algo,
		.view = (uint8_t)record->view,
	};
	memcpy(head.digest, record->hash.bytes, sizeof(head.digest));
	int r = lm_buf_append(&out, &head, sizeof(head));
	if (r == 0)
		r = lm_buf_append(&out, record->mountpoint, path_len);
	if (r < 0)
		return lm_err_set(err, r, "catalog at a path of %zu bytes", path_len);
	uint32_t crc = htole32((uint32_t)crc32(0, out.data + sizeof(crc), (uInt)(out.len - sizeof(crc))));
	memcpy(out.data, &crc, sizeof(crc));
	r = lm_pwrite_all(catalogs->fd, out.data, out.len, catalogs->end, err);
	if (r < 0)
		return lm_err_prefix(err, r, "catalog numbers");
	catalogs->end += (off_t)out.len;
	return 0;
}

/* Takes ownership of the record on success; with the table's lock held. */
static int give_number(struct lm_catalogs *catalogs, struct record *record, struct lm_err *err)
{
	if (catalogs->count == LM_CATALOG_NUMBER_MAX)
		return lm_err_set(err, -ENOSPC, "all %d catalog numbers are used", LM_CATALOG_NUMBER_MAX);
	off_t before = catalogs->end;
	int r = write_record(catalogs, record, (uint32_t)catalogs->count + 1, err);
	if (r == 0 && add_record(catalogs, record) < 0)
		r = lm_err_oom(err);
	if (r < 0) { /* what was written must not be taken for a number that was given out */
		catalogs->end = before;
		(void)!ftruncate(catalogs->fd, before);
	}
	return r;
}

static struct record *find_key(struct lm_catalogs *catalogs, const struct record *key)
{
	lm_lock_assert(&catalogs->lock);
	struct record *const *found = tfind(key, &catalogs->by_key, cmp_record);
	return found ? *found : NULL;
}

static int new_number(struct lm_catalogs *catalogs, const struct record *key, uint32_t *ret, struct lm_err *err)
{
	CLEANUP(table_unlockp) struct lm_catalogs *locked = NULL;
	int r = lock_table(catalogs, F_WRLCK, err);
	if (r < 0)
		return r;
	locked = catalogs;
	r = follow_table(locked, err);
	if (r < 0)
		return r;
	const struct record *found = find_key(locked, key); /* by the other process, meanwhile */
	if (found) {
		*ret = found->number;
		return 0;
	}
	CLEANUP(record_freep)
	struct record *record =
		record_new(&key->hash, key->mountpoint, strlen(key->mountpoint), key->prefix_len, key->view);
	if (!record)
		return lm_err_oom(err);
	r = give_number(locked, record, err);
	if (r < 0)
		return r;
	*ret = STEAL(record)->number;
	return 0;
}

int lm_catalogs_number(struct lm_catalogs *catalogs, const struct lm_hash *hash, const char *mountpoint,
	size_t prefix_len, enum lm_view view, uint32_t *ret, struct lm_err *err)
{
	const struct record key = {
		.hash = *hash, .mountpoint = (char *)mountpoint, .prefix_len = (uint16_t)prefix_len, .view = view};
	LM_LOCKED(&catalogs->lock);
	const struct record *found = find_key(catalogs, &key);
	if (!found)
		return new_number(catalogs, &key, ret, err);
	*ret = found->number;
	return 0;
}

/* A number that is not known here may be one that another process has given out. */
static struct record *find_record(struct lm_catalogs *catalogs, uint32_t number)
{
	lm_lock_assert(&catalogs->lock);
	if (number > catalogs->count && follow_table_locked(catalogs, NULL) < 0)
		return NULL;
	return number >= 1 && number <= catalogs->count ? catalogs->records[number - 1] : NULL;
}

/* A new reference on an open catalog, which becomes the most recently used one. */
static struct lm_open_catalog *use(struct lm_catalogs *catalogs, struct opened *opened)
{
	lm_lock_assert(&catalogs->lock);
	TAILQ_REMOVE(&catalogs->recent, opened, entry);
	TAILQ_INSERT_HEAD(&catalogs->recent, opened, entry);
	opened->refs++;
	return &opened->open;
}

static bool too_many_open(struct lm_catalogs *catalogs)
{
	lm_lock_assert(&catalogs->lock);
	return catalogs->open_count > catalogs->open_max ||
	       (catalogs->open_count > LM_CATALOGS_KEPT && lm_catalog_memory() > LM_CATALOGS_MEMORY);
}

/* Takes the least recently used catalog that nobody uses off the list; NULL: all are used. */
static struct opened *take_idle(struct lm_catalogs *catalogs)
{
	lm_lock_assert(&catalogs->lock);
	struct opened *opened;
	TAILQ_FOREACH_REVERSE(opened, &catalogs->recent, opened_list, entry)
	if (opened->refs == 0)
		break;
	if (!opened)
		return NULL;
	TAILQ_REMOVE(&catalogs->recent, opened, entry);
	catalogs->open_count--;
	opened->record->opened = NULL;
	return opened;
}

static void close_surplus(struct lm_catalogs *catalogs)
{
	for (;;) {
		lm_lock_take(&catalogs->lock);
		struct opened *surplus = too_many_open(catalogs) ? take_idle(catalogs) : NULL;
		lm_lock_release(&catalogs->lock);
		if (!surplus)
			return;
		opened_free(surplus);
	}
}

/* Gives descriptors back: whether there was anything to close. */
static bool close_some(struct lm_catalogs *catalogs)
{
	unsigned closed = 0;
	for (; closed < FAMINE_CLOSE; closed++) {
		lm_lock_take(&catalogs->lock);
		struct opened *idle = take_idle(catalogs);
		lm_lock_release(&catalogs->lock);
		if (!idle)
			break;
		opened_free(idle);
	}
	return closed > 0;
}

/* Opens a record's catalog from the cache, without the lock: LM_NEED when it is not there. */
static int open_record(struct lm_catalogs *catalogs, struct record *record, struct opened **ret,
	struct lm_object_ref *ret_need, struct lm_err *err)
{
	const struct lm_object_ref ref = {
		.hash = record->hash,
		.kind = LM_OBJECT_CATALOG,
		.compression = LM_COMPRESSION_ZLIB,
		.size = LM_SIZE_UNKNOWN,
		.layer = lm_cache_layer(catalogs->cache, record->mountpoint),
	};
	CLEANUP(opened_freep) struct opened *opened = calloc(1, sizeof(*opened));
	if (!opened || lm_cache_pin(catalogs->cache, &ref, NULL) < 0)
		return lm_err_oom(err);
	opened->cache = catalogs->cache; /* pinned before it is opened, so that it is still there by its name then */
	opened->ref = ref;
	CLEANUP(lm_closep) int fd = lm_cache_open(catalogs->cache, &ref);
	if (fd == -ENOENT) {
		*ret_need = ref;
		return LM_NEED;
	}
	if (fd < 0)
		return lm_err_sys(err, fd, "open catalog %s", lm_hash_text(&ref.hash).s);
	CLEANUP(lm_freep) char *path = lm_cache_path(catalogs->cache, &ref);
	if (!path)
		return lm_err_oom(err);
	opened->record = record;
	opened->open = (struct lm_open_catalog){
		.number = record->number,
		.mountpoint = record->mountpoint,
		.prefix_len = record->prefix_len,
		.view = record->view,
		.layer = ref.layer,
	};
	int r = lm_catalog_open(path, record->mountpoint + record->prefix_len, &opened->open.catalog, err);
	if (r == -EIO) { /* the disk does not give it back */
		lm_cache_drop(catalogs->cache, &ref);
		*ret_need = ref;
		return LM_NEED;
	}
	if (r < 0)
		return lm_err_prefix(err, r, "catalog %s", lm_hash_text(&ref.hash).s);
	*ret = STEAL(opened);
	return 0;
}

int lm_catalogs_get(struct lm_catalogs *catalogs, uint32_t number, struct lm_open_catalog **ret,
	struct lm_object_ref *ret_need, struct lm_err *err)
{
	lm_lock_take(&catalogs->lock);
	struct record *record = find_record(catalogs, number);
	if (record && record->opened) {
		*ret = use(catalogs, record->opened);
		lm_lock_release(&catalogs->lock);
		return 0;
	}
	lm_lock_release(&catalogs->lock);
	if (!record)
		return lm_err_set(err, -ESTALE, "no catalog has the number %u", number);

	CLEANUP(opened_freep) struct opened *opened = NULL;
	int r = open_record(catalogs, record, &opened, ret_need, err);
	while ((r == -EMFILE || r == -ENFILE) && close_some(catalogs))
		r = open_record(catalogs, record, &opened, ret_need, err);
	if (r != 0)
		return r;
	lm_lock_take(&catalogs->lock);
	if (!record->opened) { /* else another thread was quicker, and ours is closed */
		record->opened = STEAL(opened);
		TAILQ_INSERT_HEAD(&catalogs->recent, record->opened, entry);
		catalogs->open_count++;
	}
	*ret = use(catalogs, record->opened);
	lm_lock_release(&catalogs->lock);
	close_surplus(catalogs);
	return 0;
}

void lm_catalogs_put(struct lm_catalogs *catalogs, struct lm_open_catalog *open)
{
	if (!open)
		return;
	struct opened *opened = (struct opened *)((char *)open - offsetof(struct opened, open));
	lm_lock_take(&catalogs->lock);
	opened->refs--;
	bool surplus = too_many_open(catalogs);
	lm_lock_release(&catalogs->lock);
	if (surplus)
		close_surplus(catalogs);
}

int lm_catalogs_describe(
	struct lm_catalogs *catalogs, uint32_t number, struct lm_hash *ret_hash, const char **ret_mountpoint)
{
	LM_LOCKED(&catalogs->lock);
	const struct record *record = find_record(catalogs, number);
	if (!record)
		return -ESTALE;
	*ret_hash = record->hash;
	*ret_mountpoint = record->mountpoint;
	return 0;
}
