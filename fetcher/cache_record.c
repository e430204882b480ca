#include "fetcher/cache_internal.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/xattr.h>
#include <zlib.h>

#define ATTRIBUTE "user.lamella"

/* As it is on the disk, little-endian; followed by the keepers. Small enough to lie in the inode. */
struct disk_record {
	uint8_t version, zero[3];
	uint32_t checksum; /* crc32 of the content */
	uint64_t size, epoch, layer;
};
_Static_assert(sizeof(struct disk_record) == 32, "no padding");
enum { VERSION = 1, RECORD_MAX = sizeof(struct disk_record) + CACHE_RECORD_KEEPERS * sizeof(uint32_t) };

uint32_t cache_checksum(uint32_t so_far, const void *data, size_t len)
{
	return (uint32_t)crc32_z(so_far, data, len);
}

static int parse_record(const uint8_t *data, ssize_t len, struct cache_record *ret)
{
	struct disk_record disk;
	if (len < 0)
		return -errno;
	size_t keepers = (size_t)len - sizeof(disk);
	if ((size_t)len < sizeof(disk) || data[0] != VERSION || keepers % sizeof(uint32_t) != 0)
		return -ENODATA;
	memcpy(&disk, data, sizeof(disk));
	*ret = (struct cache_record){
		.epoch = le64toh(disk.epoch),
		.size = le64toh(disk.size),
		.layer = le64toh(disk.layer),
		.checksum = le32toh(disk.checksum),
		.keeper_count = (unsigned)(keepers / sizeof(uint32_t)),
	};
	for (size_t i = 0; i < ret->keeper_count; i++) {
		memcpy(&ret->keepers[i], data + sizeof(disk) + i * sizeof(uint32_t), sizeof(uint32_t));
		ret->keepers[i] = le32toh(ret->keepers[i]);
	}
	return 0;
}

int cache_record_read(int fd, struct cache_record *ret)
{
	uint8_t data[RECORD_MAX];
	return parse_record(data, fgetxattr(fd, ATTRIBUTE, data, sizeof(data)), ret);
}

int cache_record_read_at(const char *path, struct cache_record *ret)
{
	uint8_t data[RECORD_MAX];
	return parse_record(data, lgetxattr(path, ATTRIBUTE, data, sizeof(data)), ret);
}

int cache_record_write(int fd, const struct cache_record *record)
{
	uint8_t data[RECORD_MAX];
	const struct disk_record disk = {
		.version = VERSION,
		.checksum = htole32(record->checksum),
		.size = htole64(record->size),
		.epoch = htole64(record->epoch),
		.layer = htole64(record->layer),
	};
	memcpy(data, &disk, sizeof(disk));
	for (size_t i = 0; i < record->keeper_count; i++) {
		uint32_t keeper = htole32(record->keepers[i]);
		memcpy(data + sizeof(disk) + i * sizeof(keeper), &keeper, sizeof(keeper));
	}
	size_t len = sizeof(disk) + record->keeper_count * sizeof(uint32_t);
	return fsetxattr(fd, ATTRIBUTE, data, len, 0) < 0 ? -errno : 0;
}

static bool is_set(struct lm_cache *cache, uint32_t keeper)
{
	lm_lock_assert(&cache->lock);
	for (size_t i = 0; i < cache->keeper_count; i++)
		if (cache->keepers[i] == keeper)
			return true;
	return false;
}

bool cache_record_kept(struct lm_cache *cache, const struct cache_record *record)
{
	LM_LOCKED(&cache->lock);
	for (size_t i = 0; i < record->keeper_count; i++)
		if (is_set(cache, record->keepers[i]))
			return true;
	return false;
}

void cache_learn(struct lm_cache *cache, struct lm_index_key key, int fd, uint64_t size, struct lm_index_item *item)
{
	struct cache_record record;
	int r = cache->attributes ? cache_record_read(fd, &record) : -ENODATA;
	unsigned set = LM_INDEX_KNOWN;
	if (r == 0) {
		if (record.epoch == cache->epoch && record.size == size)
			set |= LM_INDEX_TRUSTED;
		if (cache_record_kept(cache, &record))
			set |= LM_INDEX_KEPT;
		if (item->layer == 0 && record.layer) {
			item->layer = lm_used_layers_number(cache->layers, record.layer);
			lm_index_set_layer(cache->index, key, item->layer);
		}
	} else if (!cache->attributes) {
		set |= LM_INDEX_TRUSTED; /* all that an unclean end may have torn was dropped */
	}
	item->flags |= (uint16_t)set;
	lm_index_flag(cache->index, key, set, 0);
}

static int checksum_of(int fd, uint64_t size, uint32_t *ret)
{
	enum { STEP = 128 << 10 };
	CLEANUP(lm_freep) uint8_t *data = malloc(STEP);
	if (!data)
		return -ENOMEM;
	*ret = cache_checksum(0, NULL, 0);
	for (uint64_t at = 0; at < size;) {
		ssize_t n = pread(fd, data, STEP, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EBADMSG;
		*ret = cache_checksum(*ret, data, (size_t)n);
		at += (uint64_t)n;
	}
	return 0;
}

int cache_verify(struct lm_cache *cache, int fd, uint64_t size)
{
	struct cache_record record;
	uint32_t checksum;
	int r = cache_record_read(fd, &record);
	if (r < 0)
		return r == -EOPNOTSUPP ? -ENODATA : r;
	if (record.size != size)
		return -EBADMSG;
	r = checksum_of(fd, size, &checksum);
	if (r < 0)
		return r;
	if (checksum != record.checksum)
		return -EBADMSG;
	atomic_fetch_add(&cache->verified, 1);
	if (record.epoch != cache->epoch) {
		record.epoch = cache->epoch;
		(void)!cache_record_write(fd, &record); /* else it is verified again by the next process */
	}
	return 0;
}

/* An object that is damaged, or of which nothing says that it is not. */
static void throw_away(
	struct lm_cache *cache, int folder_fd, const char *name, struct lm_index_key key, const char *why)
{
	unsigned missed;
	const char *slash = strrchr(name, '/');
	if (unlinkat(folder_fd, name, 0) == 0 || errno == ENOENT) {
		(void)lm_index_remove(cache->index, key, UINT64_MAX);
	} else { /* as absent, at least while this process lives */
		(void)cache_fault(cache, -errno, "delete a damaged object");
		lm_index_flag(cache->index, key, LM_INDEX_KNOWN, LM_INDEX_TRUSTED);
	}
	atomic_fetch_add(&cache->damaged, 1);
	if (lm_log_limit_pass(&cache->damage_log, CACHE_LOG_INTERVAL_MS, &missed))
		lm_log(LM_LOG_WARN, "damaged object deleted from the cache",
			LM_KV("object", "%02x/%s", key.folder, slash ? slash + 1 : name), LM_KV("cause", "%s", why),
			LM_KV("more", "%u", missed));
}

static const char *why_bad(int r)
{
	return r == -ENODATA   ? "no checksum after an unclean end"
	       : r == -EBADMSG ? "its checksum is wrong"
			       : strerror(-r);
}

int lm_cache_recover(struct lm_cache *cache, const struct lm_object_ref *ref)
{
	int found = lm_cache_open(cache, ref);
	if (found != -ENOENT || !atomic_load(&cache->unclean))
		return found;
	char buf[LM_OBJECT_PATH_MAX];
	struct stat st;
	const char *name = cache_object_name(ref, buf);
	CLEANUP(lm_closep) int fd = openat(cache->objects_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno == EMFILE || errno == ENFILE ? -errno : -ENOENT;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return -ENOENT;
	int r = cache_verify(cache, fd, (uint64_t)st.st_size);
	if (r == -ENOMEM)
		return r;
	if (r < 0) {
		throw_away(cache, cache->objects_fd, name, cache_key(ref), why_bad(r));
		return -ENOENT;
	}
	lm_index_flag(cache->index, cache_key(ref), LM_INDEX_KNOWN | LM_INDEX_TRUSTED, 0);
	return ref->size == LM_SIZE_UNKNOWN || (uint64_t)st.st_size == ref->size ? STEAL_FD(fd) : -ENOENT;
}

void lm_cache_drop(struct lm_cache *cache, const struct lm_object_ref *ref)
{
	char buf[LM_OBJECT_PATH_MAX];
	throw_away(cache, cache->objects_fd, cache_object_name(ref, buf), cache_key(ref), "it can't be read");
}

bool lm_cache_has_suspects(const struct lm_cache *cache)
{
	return atomic_load(&cache->unclean);
}

/* --- checking all --- */

struct checking {
	struct lm_cache *cache;
	lm_cache_check_fn *fn;
	void *arg;
	struct lm_cache_check sum;
};

static int check_one(void *arg, const struct cache_place *place)
{
	struct checking *checking = arg;
	struct lm_cache *cache = checking->cache;
	struct stat st;
	/* Looking is no use of it: not in the index, nor, where that is allowed, in its atime. */
	CLEANUP(lm_closep)
	int fd = openat(place->folder_fd, place->name, O_RDONLY | O_NOATIME | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno == EPERM)
		fd = openat(place->folder_fd, place->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fd < 0 && (errno == EMFILE || errno == ENFILE) ? -errno : 0; /* else evicted meanwhile */
	int r = cache_verify(cache, fd, (uint64_t)st.st_size);
	if (r == -ENOMEM)
		return r;
	checking->sum.objects++;
	checking->sum.bytes += (uint64_t)st.st_size;
	if (r == 0) {
		lm_index_flag(cache->index, place->key, LM_INDEX_KNOWN | LM_INDEX_TRUSTED, 0);
	} else if (cache->attributes || r != -ENODATA) {
		checking->sum.unknown += r == -ENODATA;
		checking->sum.damaged += r != -ENODATA;
		throw_away(cache, place->folder_fd, place->name, place->key, why_bad(r));
	} else {
		checking->sum.unknown++;
	}
	return checking->fn ? checking->fn(checking->arg, &checking->sum) : 0;
}

int lm_cache_check(struct lm_cache *cache, lm_cache_check_fn *fn, void *arg, struct lm_cache_check *ret)
{
	struct checking checking = {.cache = cache, .fn = fn, .arg = arg};
	const struct cache_walk walk = {.fn = check_one, .arg = &checking};
	int r = cache_walk(cache, &walk);
	*ret = checking.sum;
	if (r == 0 && cache->attributes) {
		atomic_store(&cache->unclean, false);
		(void)!cache_boot_write(cache, "open", NULL); /* else a later process is careful in vain */
	}
	return r;
}

/* --- durable pins --- */

int64_t lm_cache_keep(struct lm_cache *cache, const struct lm_object_ref *ref, uint32_t keeper, struct lm_err *err)
{
	struct cache_record record;
	struct stat st;
	CLEANUP(lm_closep) int fd = lm_cache_open(cache, ref);
	if (fd < 0)
		return lm_err_sys(err, fd, "cache: open %s", lm_hash_text(&ref->hash).s);
	if (fstat(fd, &st) < 0)
		return lm_err_sys(err, -errno, "cache: fstat");
	int r = cache_record_read(fd, &record);
	if (r < 0)
		return lm_err_set(err, r == -ENODATA ? -EOPNOTSUPP : r,
			"the cache's file system can't remember pins: %s", strerror(-r));
	unsigned count = 0;
	lm_lock_take(&cache->lock);
	for (unsigned i = 0; i < record.keeper_count; i++)
		if (record.keepers[i] != keeper && is_set(cache, record.keepers[i]))
			record.keepers[count++] = record.keepers[i];
	lm_lock_release(&cache->lock);
	if (count == CACHE_RECORD_KEEPERS)
		return lm_err_set(err, -ENOSPC, "an object can be held by %d pins", CACHE_RECORD_KEEPERS);
	record.keepers[count++] = keeper;
	record.keeper_count = count;
	r = cache_record_write(fd, &record);
	if (r < 0)
		return lm_err_sys(err, r, "cache: note a pin");
	lm_index_flag(cache->index, cache_key(ref), LM_INDEX_KNOWN | LM_INDEX_KEPT, 0);
	return (int64_t)cache_blocks(&st) * LM_INDEX_BLOCK;
}

static void forget_kept(void *arg, struct lm_index_item *item)
{
	item->flags &= (uint16_t) ~(LM_INDEX_KEPT | LM_INDEX_KNOWN); /* learned again from the file when it matters */
}

void lm_cache_set_keepers(struct lm_cache *cache, const uint32_t *keepers, size_t count)
{
	lm_lock_take(&cache->lock);
	cache->keeper_count = LM_MIN(count, (size_t)LM_CACHE_KEEPERS_MAX);
	if (cache->keeper_count)
		memcpy(cache->keepers, keepers, cache->keeper_count * sizeof(*keepers));
	lm_lock_release(&cache->lock);
	for (unsigned folder = 0; folder < LM_INDEX_FOLDERS; folder++)
		lm_index_each(cache->index, (uint8_t)folder, forget_kept, NULL);
	cache_wake(cache);
}

/* --- DIR/boot --- */

static const char boot_format[] = "lamella cache 1\nboot %s\nepoch %016llx\nsuspects %d\nstate %s\n";

static int read_boot_id(char ret[64], struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(63);
	int r = lm_file_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", &text, err);
	if (r < 0)
		return r;
	snprintf(ret, 64, "%.*s", (int)strcspn(lm_buf_cstr(&text), "\n"), lm_buf_cstr(&text));
	return 0;
}

int cache_boot_write(struct lm_cache *cache, const char *state, struct lm_err *err)
{
	char boot[64];
	int r = read_boot_id(boot, err);
	if (r < 0)
		return r;
	CLEANUP(lm_freep)
	char *text = lm_str_printf(
		boot_format, boot, (unsigned long long)cache->epoch, (int)atomic_load(&cache->unclean), state);
	if (!text)
		return lm_err_oom(err);
	return lm_file_replace(cache->dir_fd, "boot", text, strlen(text), 0600, LM_FILE_SYNC, err);
}

/* Whether the directory's last users left it well: its epoch then, and whether there are files of older ones. */
static bool read_boot(struct lm_cache *cache)
{
	char now[64], boot[64], state[16];
	unsigned long long epoch;
	int suspects;
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(256);
	if (lm_file_read(cache->dir_fd, "boot", &text, NULL) < 0 ||
		sscanf(lm_buf_cstr(&text), "lamella cache 1\nboot %63s\nepoch %16llx\nsuspects %d\nstate %15s", boot,
			&epoch, &suspects, state) != 4)
		return false;
	if (strcmp(state, "clean") != 0 && (read_boot_id(now, NULL) < 0 || strcmp(boot, now) != 0))
		return false;
	cache->epoch = epoch;
	atomic_store(&cache->unclean, suspects != 0);
	return true;
}

static int stop_at_first(void *arg, const struct cache_place *place)
{
	return 1;
}

static int unlink_one(void *arg, const struct cache_place *place)
{
	return unlinkat(place->folder_fd, place->name, 0) < 0 ? -errno : 0;
}

/*
 * A process that comes while others are there takes over their epoch: nobody draws a new one then. Where the marker
 * can't be written (read-only), the next start will draw another epoch: more is verified than must be, never less.
 */
int cache_boot_begin(struct lm_cache *cache, bool alone, struct lm_err *err)
{
	const struct cache_walk any = {.fn = stop_at_first};
	const struct cache_walk all = {.fn = unlink_one};
	bool believed = read_boot(cache);
	cache->attributes =
		fsetxattr(cache->objects_fd, ATTRIBUTE, "1", 1, 0) == 0 || (errno != EOPNOTSUPP && errno != EPERM);
	if (!believed && getrandom(&cache->epoch, sizeof(cache->epoch), 0) != sizeof(cache->epoch))
		return lm_err_sys(err, -errno, "random numbers");
	if (!believed && cache_walk(cache, &any) == 1) {
		lm_log(LM_LOG_WARN,
			cache->attributes
				? "the machine ended uncleanly: what is cached is verified before its next use"
				: "the machine ended uncleanly, and no checksums can be kept: the cache is emptied",
			LM_KV("cache", "%s", cache->dir));
		atomic_store(&cache->unclean, cache->attributes);
		if (!cache->attributes)
			(void)cache_walk(cache, &all);
	}
	struct lm_err why = LM_ERR_INIT;
	if (alone && cache_boot_write(cache, "open", &why) < 0)
		(void)cache_fault(cache, why.code, "mark the directory as being in use");
	return 0;
}

void cache_boot_end(struct lm_cache *cache)
{
	/* Nothing may be said to be on the disk before it is. Without anything written the promise holds as before. */
	if (atomic_load(&cache->wrote) && syncfs(cache->dir_fd) < 0)
		return;
	struct lm_err err = LM_ERR_INIT;
	if (cache_boot_write(cache, "clean", &err) < 0)
		lm_log(LM_LOG_WARN, "the cache can't be marked as complete", LM_KV("cause", "%s", lm_err_text(&err)));
}
