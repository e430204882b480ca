#include "repo/gc_internal.h"

#include "base/file.h"

#include <stdio.h>

enum {
	MARK_BYTES = LM_HASH_BYTES + 1, /* digest, kind */
	BUFFERED = 400,			/* marks of a part that wait in memory */
	PART_MIN = 4 << 20,		/* bytes of a part's file before duplicates are looked for */
};

struct part {
	uint8_t *waiting;
	size_t count;
	uint64_t size; /* of the file */
	uint64_t squeeze_at;
};

struct lm_marks {
	int dirfd;
	struct part parts[LM_GC_PARTS];
	uint8_t *loaded; /* sorted, each once */
	size_t loaded_count;
};

int lm_marks_new(const char *dir, struct lm_marks **ret, struct lm_err *err)
{
	CLEANUP(lm_marks_freep) struct lm_marks *marks = calloc(1, sizeof(*marks));
	if (!marks)
		return lm_err_oom(err);
	marks->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (marks->dirfd < 0)
		return lm_err_sys(err, -errno, "open %s", dir);
	for (unsigned i = 0; i < LM_GC_PARTS; i++) {
		marks->parts[i].squeeze_at = PART_MIN;
		marks->parts[i].waiting = malloc((size_t)BUFFERED * MARK_BYTES);
		if (!marks->parts[i].waiting)
			return lm_err_oom(err);
	}
	*ret = STEAL(marks);
	return 0;
}

void lm_marks_free(struct lm_marks *marks)
{
	if (!marks)
		return;
	for (unsigned i = 0; i < LM_GC_PARTS; i++)
		free(marks->parts[i].waiting);
	lm_closep(&marks->dirfd);
	free(marks->loaded);
	free(marks);
}

static int part_open(const struct lm_marks *marks, unsigned i, struct lm_err *err)
{
	char name[16];
	snprintf(name, sizeof(name), "marks.%02x", i);
	int fd = openat(marks->dirfd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 ? lm_err_sys(err, -errno, "%s", name) : fd;
}

static int mark_cmp(const void *a, const void *b)
{
	return memcmp(a, b, MARK_BYTES);
}

/* All of a part, those that wait too, sorted, each once. fd: not looked at where the file is empty. */
static int part_read(const struct part *part, int fd, uint8_t **ret, size_t *ret_count, struct lm_err *err)
{
	size_t waiting = part->count * MARK_BYTES, kept = 0;
	CLEANUP(lm_freep) uint8_t *all = malloc(LM_MAX(part->size + waiting, 1u));
	if (!all)
		return lm_err_oom(err);
	int r = part->size > 0 ? lm_pread_all(fd, all, part->size, 0, err) : 0;
	if (r < 0)
		return r;
	memcpy(all + part->size, part->waiting, waiting);
	size_t count = (part->size + waiting) / MARK_BYTES;
	qsort(all, count, MARK_BYTES, mark_cmp);
	for (size_t i = 0; i < count; i++) {
		const uint8_t *mark = all + i * MARK_BYTES;
		if (kept == 0 || mark_cmp(mark, all + (kept - 1) * MARK_BYTES) != 0)
			memmove(all + kept++ * MARK_BYTES, mark, MARK_BYTES);
	}
	*ret = STEAL(all);
	*ret_count = kept;
	return 0;
}

/* Revisions name mostly the same objects: a file that only grew would be as long as all their lists together. */
static int part_squeeze(struct part *part, int fd, struct lm_err *err)
{
	CLEANUP(lm_freep) uint8_t *all = NULL;
	size_t count;
	int r = part_read(part, fd, &all, &count, err);
	if (r == 0)
		r = lm_pwrite_all(fd, all, count * MARK_BYTES, 0, err);
	if (r < 0)
		return r;
	part->size = count * MARK_BYTES;
	part->squeeze_at = LM_MAX(2 * part->size, (uint64_t)PART_MIN);
	return ftruncate(fd, (off_t)part->size) < 0 ? lm_err_sys(err, -errno, "truncate") : 0;
}

static int part_flush(struct part *part, int fd, struct lm_err *err)
{
	size_t len = part->count * MARK_BYTES;
	int r = lm_pwrite_all(fd, part->waiting, len, (off_t)part->size, err);
	if (r < 0)
		return r;
	part->size += len;
	part->count = 0;
	return part->size >= part->squeeze_at ? part_squeeze(part, fd, err) : 0;
}

static int flush(struct lm_marks *marks, unsigned i, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = part_open(marks, i, err);
	int r = fd < 0 ? fd : part_flush(&marks->parts[i], fd, err);
	return r < 0 ? lm_err_prefix(err, r, "list of kept objects") : 0;
}

int lm_marks_add(
	struct lm_marks *marks, enum lm_object_kind kind, const uint8_t digest[LM_HASH_BYTES], struct lm_err *err)
{
	struct part *part = &marks->parts[digest[0]];
	uint8_t *mark = part->waiting + part->count++ * MARK_BYTES;
	memcpy(mark, digest, LM_HASH_BYTES);
	mark[LM_HASH_BYTES] = (uint8_t)kind;
	return part->count == BUFFERED ? flush(marks, digest[0], err) : 0;
}

int lm_marks_load(struct lm_marks *marks, unsigned i, struct lm_err *err)
{
	struct part *part = &marks->parts[i];
	free(STEAL(marks->loaded));
	marks->loaded_count = 0;
	CLEANUP(lm_closep) int fd = part->size > 0 ? part_open(marks, i, err) : -1;
	int r = part->size > 0 && fd < 0 ? fd : part_read(part, fd, &marks->loaded, &marks->loaded_count, err);
	return r < 0 ? lm_err_prefix(err, r, "list of kept objects") : 0;
}

bool lm_marks_has(const struct lm_marks *marks, enum lm_object_kind kind, const uint8_t digest[LM_HASH_BYTES])
{
	uint8_t mark[MARK_BYTES];
	memcpy(mark, digest, LM_HASH_BYTES);
	mark[LM_HASH_BYTES] = (uint8_t)kind;
	return marks->loaded_count > 0 && bsearch(mark, marks->loaded, marks->loaded_count, MARK_BYTES, mark_cmp);
}

/*
 * Digests in memory: linear probing, at most three quarters full. Digests are as good as random, so some of their bytes
 * are the hash.
 */

enum { DIGESTS_MIN = 64 };

void lm_digests_done(struct lm_digests *set)
{
	free(set->slots);
	*set = (struct lm_digests){0};
}

/* Where the digest is or belongs. */
static uint8_t *find_slot(const struct lm_digests *set, const uint8_t digest[LM_HASH_BYTES])
{
	uint64_t hash;
	memcpy(&hash, digest + 1, sizeof(hash));
	for (size_t i = hash & (set->cap - 1);; i = (i + 1) & (set->cap - 1))
		if (!set->slots[i][LM_HASH_BYTES] || memcmp(set->slots[i], digest, LM_HASH_BYTES) == 0)
			return set->slots[i];
}

bool lm_digests_has(const struct lm_digests *set, const uint8_t digest[LM_HASH_BYTES])
{
	return set->cap > 0 && find_slot(set, digest)[LM_HASH_BYTES];
}

static int grow(struct lm_digests *set, struct lm_err *err)
{
	struct lm_digests grown = {.cap = set->cap ? 2 * set->cap : DIGESTS_MIN, .count = set->count};
	grown.slots = calloc(grown.cap, sizeof(*grown.slots));
	if (!grown.slots)
		return lm_err_oom(err);
	for (size_t i = 0; i < set->cap; i++)
		if (set->slots[i][LM_HASH_BYTES])
			memcpy(find_slot(&grown, set->slots[i]), set->slots[i], sizeof(*set->slots));
	lm_digests_done(set);
	*set = grown;
	return 0;
}

int lm_digests_add(struct lm_digests *set, const uint8_t digest[LM_HASH_BYTES], struct lm_err *err)
{
	if (lm_digests_has(set, digest))
		return 0;
	int r = set->count >= set->cap - set->cap / 4 ? grow(set, err) : 0;
	if (r < 0)
		return r;
	uint8_t *slot = find_slot(set, digest);
	memcpy(slot, digest, LM_HASH_BYTES);
	slot[LM_HASH_BYTES] = 1;
	set->count++;
	return 1;
}
