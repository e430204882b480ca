#include "fetcher/dir_paths.h"

#include "base/lock.h"

#include <string.h>

/* Before each path; copied, since it lies where the one before it ends. */
struct __attribute__((packed)) head {
	uint64_t node;
	uint16_t len;
};

/* Paths one behind the other, the one used last first. */
struct block {
	uint16_t used;
	char bytes[510];
};
_Static_assert(sizeof(struct head) + LM_DIR_PATH_MAX <= sizeof(((struct block *)0)->bytes), "the longest fits");

enum { BLOCKS = LM_DIR_PATHS_BYTES / sizeof(struct block) };

struct lm_dir_paths {
	struct lm_lock lock;
	struct block blocks[BLOCKS]; /* under lock */
};

int lm_dir_paths_new(struct lm_dir_paths **ret, struct lm_err *err)
{
	struct lm_dir_paths *paths = calloc(1, sizeof(*paths));
	if (!paths)
		return lm_err_oom(err);
	lm_lock_init(&paths->lock);
	*ret = paths;
	return 0;
}

void lm_dir_paths_free(struct lm_dir_paths *paths)
{
	if (!paths)
		return;
	lm_lock_done(&paths->lock);
	free(paths);
}

static struct block *block_of(struct lm_dir_paths *paths, uint64_t node)
{
	lm_lock_assert(&paths->lock);
	return &paths->blocks[(node * 0x9e3779b97f4a7c15ULL >> 32) % BLOCKS];
}

/* Bytes of the record at `at`. */
static size_t taken(const struct block *block, size_t at, struct head *ret)
{
	memcpy(ret, block->bytes + at, sizeof(*ret));
	return sizeof(*ret) + ret->len;
}

/* Where the node's record is, *ret_bytes long; none: block->used, and 0 bytes. */
static size_t find(const struct block *block, uint64_t node, size_t *ret_bytes)
{
	struct head head;
	for (size_t at = 0; at < block->used; at += *ret_bytes) {
		*ret_bytes = taken(block, at, &head);
		if (head.node == node)
			return at;
	}
	*ret_bytes = 0;
	return block->used;
}

static void take_out(struct block *block, size_t at, size_t bytes)
{
	memmove(block->bytes + at, block->bytes + at + bytes, block->used - at - bytes);
	block->used -= (uint16_t)bytes;
}

/* Those at the end go as far as it needs their room. */
static void put_first(struct block *block, const struct head *head, const char *path)
{
	size_t bytes = sizeof(*head) + head->len, kept = 0;
	for (struct head next; kept < block->used;) {
		size_t more = taken(block, kept, &next);
		if (bytes + kept + more > sizeof(block->bytes))
			break;
		kept += more;
	}
	memmove(block->bytes + bytes, block->bytes, kept);
	memcpy(block->bytes, head, sizeof(*head));
	memcpy(block->bytes + sizeof(*head), path, head->len);
	block->used = (uint16_t)(bytes + kept);
}

int lm_dir_paths_get(struct lm_dir_paths *paths, uint64_t node, struct lm_buf *ret)
{
	LM_LOCKED(&paths->lock);
	struct block *block = block_of(paths, node);
	size_t bytes, at = find(block, node, &bytes);
	if (bytes == 0)
		return -ENOENT;
	char path[LM_DIR_PATH_MAX];
	struct head head;
	(void)taken(block, at, &head);
	memcpy(path, block->bytes + at + sizeof(head), head.len);
	if (at > 0) {
		take_out(block, at, bytes);
		put_first(block, &head, path);
	}
	return lm_buf_append(ret, path, head.len);
}

void lm_dir_paths_put(struct lm_dir_paths *paths, uint64_t node, const char *path)
{
	size_t len = strlen(path);
	if (len > LM_DIR_PATH_MAX)
		return;
	LM_LOCKED(&paths->lock);
	struct block *block = block_of(paths, node);
	size_t bytes, at = find(block, node, &bytes);
	take_out(block, at, bytes);
	put_first(block, &(struct head){node, (uint16_t)len}, path);
}
