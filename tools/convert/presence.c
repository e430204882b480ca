#include "convert/presence.h"

#include "base/lock.h"

#include <stdio.h>

enum {
	DIRS = 256,
	ASKED_MAX = 4,	     /* of one directory, before it is listed */
	LISTED_MAX = 2 << 20 /* objects in all: 44 MB */
};

struct item { /* no padding: compared as bytes */
	uint8_t digest[LM_HASH_BYTES], algo, kind;
};

struct dir {
	enum { ASKING, LISTING, LISTED } state;
	unsigned asked;
	struct item *items; /* sorted */
	size_t count, cap;
};

struct lm_presence {
	/* constant after new */
	struct lm_storage *storage;
	bool remote;
	/* under lock */
	struct lm_lock lock;
	size_t total;
	struct dir dirs[DIRS];
};

int lm_presence_new(struct lm_storage *storage, bool remote, struct lm_presence **ret, struct lm_err *err)
{
	struct lm_presence *presence = calloc(1, sizeof(*presence));
	if (!presence)
		return lm_err_oom(err);
	presence->storage = storage;
	presence->remote = remote;
	lm_lock_init(&presence->lock);
	*ret = presence;
	return 0;
}

void lm_presence_free(struct lm_presence *presence)
{
	if (!presence)
		return;
	for (unsigned i = 0; i < DIRS; i++)
		free(presence->dirs[i].items);
	lm_lock_done(&presence->lock);
	free(presence);
}

static struct item item_of(const struct lm_hash *hash, enum lm_object_kind kind)
{
	struct item item = {.algo = hash->algo, .kind = (uint8_t)kind};
	memcpy(item.digest, hash->bytes, sizeof(item.digest));
	return item;
}

static int compare(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct item));
}

/* Where the item is, or belongs. */
static size_t place(const struct dir *dir, const struct item *item)
{
	size_t low = 0, high = dir->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (compare(&dir->items[middle], item) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool is_listed(const struct dir *dir, const struct item *item)
{
	size_t at = place(dir, item);
	return at < dir->count && compare(&dir->items[at], item) == 0;
}

/* False: no memory. */
static bool make_room(struct dir *dir)
{
	if (dir->count < dir->cap)
		return true;
	size_t cap = LM_MAX(dir->cap * 2, (size_t)256);
	struct item *items = reallocarray(dir->items, cap, sizeof(*items));
	if (!items)
		return false;
	dir->items = items;
	dir->cap = cap;
	return true;
}

struct listing {
	unsigned number;
	size_t max;
	struct dir dir;
};

static int add_name(void *arg, const char *name, uint64_t size)
{
	struct listing *listing = arg;
	char path[LM_OBJECT_PATH_MAX];
	struct lm_hash hash;
	enum lm_object_kind kind;
	(void)size;
	int len = snprintf(path, sizeof(path), "data/%02x/%s", listing->number, name);
	if ((size_t)len >= sizeof(path) || lm_object_path_parse(path, &hash, &kind) < 0)
		return 0;
	if (listing->dir.count == listing->max || !make_room(&listing->dir))
		return -ENOMEM;
	listing->dir.items[listing->dir.count++] = item_of(&hash, kind);
	return 0;
}

/* One thread lists a directory, without the lock; what can't be listed goes on being asked for. */
static void list(struct lm_presence *presence, unsigned number, size_t max)
{
	struct listing listing = {.number = number, .max = max};
	struct dir *dir = &presence->dirs[number];
	char path[16];
	snprintf(path, sizeof(path), "data/%02x", number);
	int r = presence->storage->ops->list(presence->storage, path, add_name, &listing, NULL);
	if (r == 0 && listing.dir.count > 0)
		qsort(listing.dir.items, listing.dir.count, sizeof(*listing.dir.items), compare);
	LM_LOCKED(&presence->lock);
	if (r < 0) {
		free(listing.dir.items);
		return; /* LISTING for ever */
	}
	*dir = listing.dir;
	dir->state = LISTED;
	presence->total += dir->count;
}

/* By what is listed; -EAGAIN: it must be asked for. */
static int look(struct lm_presence *presence, unsigned number, const struct item *item)
{
	struct dir *dir = &presence->dirs[number];
	size_t room;
	{
		LM_LOCKED(&presence->lock);
		room = LISTED_MAX - LM_MIN(presence->total, (size_t)LISTED_MAX);
		if (dir->state == LISTED)
			return is_listed(dir, item);
		if (dir->state == LISTING || room == 0 || dir->asked++ < ASKED_MAX)
			return -EAGAIN;
		dir->state = LISTING;
	}
	list(presence, number, room);
	LM_LOCKED(&presence->lock);
	return dir->state == LISTED ? is_listed(dir, item) : -EAGAIN;
}

int lm_presence_ask(
	struct lm_presence *presence, const struct lm_hash *hash, enum lm_object_kind kind, struct lm_err *err)
{
	const struct item item = item_of(hash, kind);
	int r = presence->remote ? look(presence, hash->bytes[0], &item) : -EAGAIN;
	if (r != -EAGAIN)
		return r;
	char path[LM_OBJECT_PATH_MAX];
	return presence->storage->ops->has(presence->storage, lm_object_path(hash, kind, path), err);
}

void lm_presence_note(struct lm_presence *presence, const struct lm_hash *hash, enum lm_object_kind kind)
{
	const struct item item = item_of(hash, kind);
	struct dir *dir = &presence->dirs[hash->bytes[0]];
	LM_LOCKED(&presence->lock);
	if (dir->state != LISTED || presence->total >= LISTED_MAX)
		return;
	size_t at = place(dir, &item);
	if ((at < dir->count && compare(&dir->items[at], &item) == 0) || !make_room(dir))
		return;
	memmove(&dir->items[at + 1], &dir->items[at], (dir->count - at) * sizeof(item));
	dir->items[at] = item;
	dir->count++;
	presence->total++;
}
