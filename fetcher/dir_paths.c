#include "fetcher/dir_paths.h"

#include "base/lock.h"

#include <string.h>

enum { SETS = LM_DIR_PATHS_MAX / LM_DIR_PATHS_WAYS };

struct slot {
	uint64_t node;
	char *path; /* NULL: nothing */
};

struct lm_dir_paths {
	struct lm_lock lock;
	struct slot sets[SETS][LM_DIR_PATHS_WAYS]; /* under lock; of each set the one used last comes first */
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
	for (size_t i = 0; i < SETS; i++)
		for (size_t way = 0; way < LM_DIR_PATHS_WAYS; way++)
			free(paths->sets[i][way].path);
	lm_lock_done(&paths->lock);
	free(paths);
}

static struct slot *set_of(struct lm_dir_paths *paths, uint64_t node)
{
	lm_lock_assert(&paths->lock);
	return paths->sets[(node * 0x9e3779b97f4a7c15ULL >> 32) % SETS];
}

static size_t find(const struct slot *set, uint64_t node)
{
	size_t way = 0;
	while (way < LM_DIR_PATHS_WAYS && !(set[way].path && set[way].node == node))
		way++;
	return way;
}

/* The slots before way move one back. */
static void put_first(struct slot *set, size_t way, struct slot slot)
{
	memmove(set + 1, set, way * sizeof(*set));
	set[0] = slot;
}

int lm_dir_paths_get(struct lm_dir_paths *paths, uint64_t node, struct lm_buf *ret)
{
	LM_LOCKED(&paths->lock);
	struct slot *set = set_of(paths, node);
	size_t way = find(set, node);
	if (way == LM_DIR_PATHS_WAYS)
		return -ENOENT;
	put_first(set, way, set[way]);
	return lm_buf_str(ret, set[0].path);
}

void lm_dir_paths_put(struct lm_dir_paths *paths, uint64_t node, const char *path)
{
	char *copy = strlen(path) <= LM_DIR_PATH_MAX ? strdup(path) : NULL;
	if (!copy)
		return;
	LM_LOCKED(&paths->lock);
	struct slot *set = set_of(paths, node);
	size_t way = find(set, node);
	if (way == LM_DIR_PATHS_WAYS)
		way--;
	free(set[way].path);
	put_first(set, way, (struct slot){node, copy});
}
