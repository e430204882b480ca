#include "fetcher/pins.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>

enum { PROGRESS_MS = 500, LIST_MAX = LM_PINS_MAX * (LM_REPO_PATH_MAX + 300), STEP = 64 << 20 };

struct pin { /* under pins->lock */
	TAILQ_ENTRY(pin) entry;
	uint32_t number;
	char *fqrn, *path; /* constant; path: "" or "/..." */
	bool wanted;	   /* to be walked */
	bool walking, fresh, gone;
	unsigned users; /* who wait for it */
	uint64_t objects, bytes;
	bool complete;
	struct lm_err err;
};
TAILQ_HEAD(pin_list, pin);

struct lm_pins {
	struct lm_cache *cache; /* constant, as all up to the lock */
	char *dir;
	struct lm_repository **repositories;
	size_t repository_count;
	pthread_t thread;
	bool runs;

	struct lm_lock lock;
	struct lm_cond changed; /* of everything below */
	/* under lock */
	struct pin_list list;
	size_t count;
	struct walk *walk; /* under way */
	bool stop;
};

static void pin_free(struct pin *pin)
{
	if (!pin)
		return;
	free(pin->fqrn);
	free(pin->path);
	free(pin);
}
LM_DEFINE_CLEANUP(struct pin, pin_free, pin_freep)

static struct pin *pin_new(uint32_t number, const char *fqrn, const char *path)
{
	CLEANUP(pin_freep) struct pin *pin = calloc(1, sizeof(*pin));
	if (!pin || !(pin->fqrn = strdup(fqrn)) || !(pin->path = strdup(path)))
		return NULL;
	pin->number = number;
	return STEAL(pin);
}

static struct lm_repository *repository_named(const struct lm_pins *pins, const char *fqrn)
{
	for (size_t i = 0; i < pins->repository_count; i++)
		if (strcmp(lm_repository_fqrn(pins->repositories[i]), fqrn) == 0)
			return pins->repositories[i];
	return NULL;
}

/* --- the list: "NUMBER REPOSITORY PATH" a line --- */

/* What the cache has to hold, and how much that is. */
static void tell_cache(struct lm_pins *pins, bool numbers)
{
	lm_lock_assert(&pins->lock);
	uint32_t keepers[LM_PINS_MAX];
	size_t count = 0;
	uint64_t bytes = 0;
	struct pin *pin;
	TAILQ_FOREACH(pin, &pins->list, entry)
	{
		bytes += pin->bytes;
		if (!pin->gone && count < LM_PINS_MAX)
			keepers[count++] = pin->number;
	}
	if (numbers)
		lm_cache_set_keepers(pins->cache, keepers, count);
	lm_cache_keep_bytes(pins->cache, bytes);
}

static int write_list(struct lm_pins *pins, struct lm_err *err)
{
	lm_lock_assert(&pins->lock);
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LIST_MAX);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/pins", pins->dir);
	int r = path ? lm_buf_str(&text, "lamella pins 1\n") : -ENOMEM;
	struct pin *pin;
	TAILQ_FOREACH(pin, &pins->list, entry)
	if (r == 0 && !pin->gone)
		r = lm_buf_printf(&text, "%08x %s %s\n", pin->number, pin->fqrn, pin->path);
	if (r < 0)
		return lm_err_set(err, r, "list of pins");
	return lm_file_replace(AT_FDCWD, path, text.data, text.len, 0600, LM_FILE_SYNC, err);
}

static void add_line(struct lm_pins *pins, char *line)
{
	unsigned number;
	int at = 0;
	char fqrn[256];
	if (pins->count == LM_PINS_MAX || sscanf(line, "%8x %255s %n", &number, fqrn, &at) != 2 || at == 0 ||
		number == 0)
		return;
	struct pin *pin = pin_new(number, fqrn, line + at);
	if (!pin)
		return;
	TAILQ_INSERT_TAIL(&pins->list, pin, entry);
	pins->count++;
}

static int read_list(struct lm_pins *pins, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(LIST_MAX);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/pins", pins->dir);
	if (!path)
		return lm_err_oom(err);
	int r = lm_file_read(AT_FDCWD, path, &text, err);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	char *more, *line = text.len ? strtok_r((char *)text.data, "\n", &more) : NULL;
	if (!line || strcmp(line, "lamella pins 1") != 0)
		return lm_err_set(err, -EPROTO, "%s is no list of pins", path);
	while ((line = strtok_r(NULL, "\n", &more)))
		add_line(pins, line);
	return 0;
}

/* --- walking --- */

struct walk { /* the thread's, but for what wishes need; a wish that outlives the walk keeps it */
	struct lm_pins *pins;
	struct pin *pin;
	struct lm_repository *repository;
	uint64_t others, bytes_max; /* what other pins hold; what all may */
	uint64_t *nodes;	    /* directories and files still to be visited */
	size_t node_count, node_room;
	uint64_t *seen; /* objects that were counted: open addressing, 0 is free */
	size_t seen_count, seen_room;
	uint32_t catalog; /* the last one that was held */

	struct lm_lock lock;
	struct lm_cond changed;
	/* under lock */
	unsigned running;  /* wishes */
	bool stop, left;   /* waiting is over; the thread is gone */
	struct lm_err err; /* of the first wish that failed */
};

struct wish {
	struct walk *walk;
	struct lm_object_ref ref;
};

static struct walk *walk_new(struct lm_pins *pins, struct pin *pin, struct lm_repository *repository)
{
	struct walk *walk = calloc(1, sizeof(*walk));
	if (!walk)
		return NULL;
	walk->pins = pins;
	walk->pin = pin;
	walk->repository = repository;
	lm_lock_init(&walk->lock);
	lm_cond_init(&walk->changed);
	return walk;
}

static void walk_free(struct walk *walk)
{
	lm_cond_done(&walk->changed);
	lm_lock_done(&walk->lock);
	free(walk->nodes);
	free(walk->seen);
	free(walk);
}

static int push(struct walk *walk, uint64_t node)
{
	if (walk->node_count == walk->node_room) {
		size_t room = walk->node_room ? 2 * walk->node_room : 256;
		uint64_t *more = reallocarray(walk->nodes, room, sizeof(*more));
		if (!more)
			return -ENOMEM;
		walk->nodes = more;
		walk->node_room = room;
	}
	walk->nodes[walk->node_count++] = node;
	return 0;
}

static uint64_t *seen_slot(uint64_t *table, size_t room, uint64_t key)
{
	size_t at = key % room;
	while (table[at] && table[at] != key)
		at = (at + 1) % room;
	return &table[at];
}

/* 1: not seen before. An object may be in the subtree many times. */
static int see(struct walk *walk, const struct lm_object_ref *ref)
{
	uint64_t key;
	memcpy(&key, ref->hash.bytes, sizeof(key));
	key = (key ^ ref->kind) ? key ^ ref->kind : 1;
	if (2 * walk->seen_count >= walk->seen_room) {
		size_t room = walk->seen_room ? 2 * walk->seen_room : 1024;
		uint64_t *table = calloc(room, sizeof(*table));
		if (!table)
			return -ENOMEM;
		for (size_t i = 0; i < walk->seen_room; i++)
			if (walk->seen[i])
				*seen_slot(table, room, walk->seen[i]) = walk->seen[i];
		free(walk->seen);
		walk->seen = table;
		walk->seen_room = room;
	}
	uint64_t *slot = seen_slot(walk->seen, walk->seen_room, key);
	if (*slot)
		return 0;
	*slot = key;
	walk->seen_count++;
	return 1;
}

/* The object is cached: holds and counts it. */
static int hold(struct walk *walk, const struct lm_object_ref *ref, struct lm_err *err)
{
	struct lm_pins *pins = walk->pins;
	int64_t bytes = lm_cache_keep(pins->cache, ref, walk->pin->number, err);
	if (bytes < 0)
		return (int)bytes;
	LM_LOCKED(&pins->lock);
	walk->pin->objects++;
	walk->pin->bytes += (uint64_t)bytes;
	tell_cache(pins, false);
	if (pins->stop || walk->pin->gone)
		return lm_err_set(err, -ECANCELED, "given up");
	if (walk->others + walk->pin->bytes > walk->bytes_max)
		return lm_err_set(err, -ENOSPC, "pins may hold %llu bytes of the cache, all together, and this is more",
			(unsigned long long)walk->bytes_max);
	return 0;
}

static void end_wish(struct walk *walk, int code, const struct lm_err *err)
{
	lm_lock_take(&walk->lock);
	if (code < 0 && walk->err.code == 0) {
		walk->err = *err;
		walk->err.code = code;
	}
	bool last = --walk->running == 0 && walk->left;
	lm_cond_signal(&walk->changed);
	lm_lock_release(&walk->lock);
	if (last)
		walk_free(walk);
}

/* The thread is done with it. */
static void walk_leave(struct walk *walk)
{
	lm_lock_take(&walk->lock);
	walk->left = true;
	bool last = walk->running == 0;
	lm_lock_release(&walk->lock);
	if (last)
		walk_free(walk);
}

static void on_object(void *arg, int code, int fd, const struct lm_err *why)
{
	CLEANUP(lm_freep) struct wish *wish = arg;
	struct lm_err err = LM_ERR_INIT;
	if (code < 0)
		err = *why;
	else
		code = hold(wish->walk, &wish->ref, &err);
	end_wish(wish->walk, code, &err);
}

/* Waits until at most `running` wishes are under way: 0, or why one failed. */
static int await(struct walk *walk, unsigned running, struct lm_err *err)
{
	LM_LOCKED(&walk->lock);
	while (walk->running > running && !walk->stop)
		lm_cond_wait(&walk->changed, &walk->lock);
	if (walk->stop)
		return lm_err_set(err, -ECANCELED, "the fetcher is ending");
	if (walk->err.code < 0)
		*err = walk->err;
	return walk->err.code;
}

/* Sees to it that the object is cached and held, in time. */
static int want(struct walk *walk, const struct lm_object_ref *ref, struct lm_err *err)
{
	int r = see(walk, ref);
	if (r <= 0)
		return r < 0 ? lm_err_oom(err) : 0;
	r = await(walk, LM_PINS_FETCHES - 1, err);
	if (r < 0)
		return r;
	CLEANUP(lm_freep) struct wish *wish = malloc(sizeof(*wish));
	CLEANUP(lm_closep) int fd = -1;
	if (!wish)
		return lm_err_oom(err);
	*wish = (struct wish){.walk = walk, .ref = *ref};
	lm_lock_take(&walk->lock);
	walk->running++;
	lm_lock_release(&walk->lock);
	r = lm_fetch_object(
		lm_repository_fetch(walk->repository), &wish->ref, LM_HTTP_PREFETCH, on_object, wish, &fd, err);
	if (r == LM_FETCH_LATER) {
		(void)STEAL(wish);
		return 0;
	}
	struct lm_err none = LM_ERR_INIT;
	end_wish(walk, 0, &none);
	return r < 0 ? r : hold(walk, ref, err);
}

/* What an operation of the tree lacks: at once. */
static int need(struct walk *walk, const struct lm_object_ref *ref, struct lm_err *err)
{
	int r = want(walk, ref, err);
	return r == 0 ? await(walk, 0, err) : r;
}

/* The catalog that a node is in is part of what is held. */
static int want_catalog_of(struct walk *walk, uint64_t node, struct lm_err *err)
{
	struct lm_catalogs *catalogs = lm_repository_catalogs(walk->repository);
	uint32_t number =
		node == LM_NODE_ROOT ? lm_tree_root(lm_repository_tree(walk->repository)) : (uint32_t)(node >> 40);
	struct lm_object_ref ref = {.kind = LM_OBJECT_CATALOG, .size = LM_SIZE_UNKNOWN};
	const char *mountpoint;
	if (number == walk->catalog)
		return 0;
	walk->catalog = number;
	if (lm_catalogs_describe(catalogs, number, &ref.hash, &mountpoint) < 0)
		return 0;
	ref.layer = lm_cache_layer(walk->pins->cache, mountpoint);
	return want(walk, &ref, err);
}

struct listing {
	struct walk *walk;
	int code;
};

static int take_entry(void *arg, const char *name, const struct lm_entry *entry, uint64_t next)
{
	struct listing *listing = arg;
	bool matters = S_ISDIR(entry->attr.st_mode) || (S_ISREG(entry->attr.st_mode) && entry->attr.st_size > 0);
	if (!matters || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return 0;
	listing->code = push(listing->walk, entry->node);
	return listing->code;
}

static int visit_dir(struct walk *walk, uint64_t node, struct lm_err *err)
{
	for (;;) {
		struct lm_object_ref lacks;
		struct listing listing = {.walk = walk};
		size_t before = walk->node_count;
		int r = lm_tree_readdir(
			lm_repository_tree(walk->repository), node, 0, take_entry, &listing, &lacks, err);
		if (listing.code < 0)
			return lm_err_oom(err);
		if (r != LM_NEED)
			return r;
		walk->node_count = before;
		r = need(walk, &lacks, err);
		if (r < 0)
			return r;
	}
}

static int visit_file(struct walk *walk, uint64_t node, uint64_t size, struct lm_err *err)
{
	for (uint64_t at = 0; at < size;) {
		CLEANUP(lm_read_plan_done) struct lm_read_plan plan = {0};
		struct lm_object_ref lacks;
		int r = lm_tree_read_plan(lm_repository_tree(walk->repository), node, at,
			(size_t)LM_MIN(size - at, (uint64_t)STEP), &plan, &lacks, err);
		if (r == LM_NEED) {
			r = need(walk, &lacks, err);
			if (r < 0)
				return r;
			continue;
		}
		uint64_t before = at;
		for (size_t i = 0; i < plan.count && r == 0; i++) {
			r = want(walk, &plan.pieces[i].ref, err);
			at += plan.pieces[i].len;
		}
		if (r < 0 || at == before)
			return r;
	}
	return 0;
}

static int visit(struct walk *walk, uint64_t node, struct lm_err *err)
{
	struct stat st;
	int r = want_catalog_of(walk, node, err);
	while (r == 0) {
		struct lm_object_ref lacks;
		r = lm_tree_getattr(lm_repository_tree(walk->repository), node, &st, &lacks, err);
		if (r != LM_NEED)
			break;
		r = need(walk, &lacks, err);
	}
	if (r < 0)
		return r;
	return S_ISDIR(st.st_mode)   ? visit_dir(walk, node, err)
	       : S_ISREG(st.st_mode) ? visit_file(walk, node, (uint64_t)st.st_size, err)
				     : 0;
}

/* The node at the end of the path, with the catalogs on the way. */
static int find_node(struct walk *walk, const char *path, uint64_t *ret, struct lm_err *err)
{
	uint64_t node = LM_NODE_ROOT;
	while (*path) {
		path += strspn(path, "/");
		size_t len = strcspn(path, "/");
		char name[LM_NAME_MAX + 1];
		if (len == 0)
			break;
		if (len > LM_NAME_MAX)
			return lm_err_set(err, -ENAMETOOLONG, "a name is too long");
		snprintf(name, sizeof(name), "%.*s", (int)len, path);
		struct lm_object_ref lacks;
		struct lm_entry entry;
		int r = want_catalog_of(walk, node, err);
		if (r == 0)
			r = lm_tree_lookup(lm_repository_tree(walk->repository), node, name, &entry, &lacks, err);
		if (r == LM_NEED && (r = need(walk, &lacks, err)) == 0)
			continue;
		if (r == -ENOENT || r == -ENOTDIR)
			return lm_err_set(err, -ENOENT, "it is not in the repository");
		if (r < 0)
			return r;
		node = entry.node;
		path += len;
	}
	*ret = node;
	return 0;
}

static int walk_all(struct walk *walk, const char *path, struct lm_err *err)
{
	uint64_t node = LM_NODE_ROOT;
	int r = find_node(walk, path, &node, err);
	if (r == 0 && push(walk, node) < 0)
		r = lm_err_oom(err);
	while (r == 0 && walk->node_count > 0)
		r = visit(walk, walk->nodes[--walk->node_count], err);
	struct lm_err late = LM_ERR_INIT;
	int ended = await(walk, 0, &late);
	if (r == 0 && ended < 0) {
		r = ended;
		*err = late;
	}
	return r;
}

static uint64_t held_by_others(struct lm_pins *pins, const struct pin *but)
{
	lm_lock_assert(&pins->lock);
	uint64_t bytes = 0;
	struct pin *pin;
	TAILQ_FOREACH(pin, &pins->list, entry)
	bytes += pin == but ? 0 : pin->bytes;
	return bytes;
}

static int walk_pin(struct lm_pins *pins, struct pin *pin, struct lm_err *err)
{
	struct lm_repository *repository = repository_named(pins, pin->fqrn);
	if (!repository)
		return lm_err_set(err, -ENOENT, "the repository is not configured");
	struct walk *walk = walk_new(pins, pin, repository);
	if (!walk)
		return lm_err_oom(err);
	walk->bytes_max = lm_cache_keep_max(pins->cache);
	lm_lock_take(&pins->lock);
	walk->others = held_by_others(pins, pin);
	walk->stop = pins->stop;
	pins->walk = walk;
	pin->objects = pin->bytes = 0;
	lm_lock_release(&pins->lock);
	int r = walk_all(walk, pin->path, err);
	lm_lock_take(&pins->lock);
	pins->walk = NULL;
	lm_lock_release(&pins->lock);
	walk_leave(walk);
	return r;
}

/* --- the thread --- */

static void forget(struct lm_pins *pins, struct pin *pin)
{
	lm_lock_assert(&pins->lock);
	struct lm_err err = LM_ERR_INIT;
	pin->gone = true;
	pin->wanted = false;
	pin->bytes = 0;
	tell_cache(pins, true);
	if (write_list(pins, &err) < 0)
		lm_log(LM_LOG_WARN, "the list of pins can't be written", LM_KV("cause", "%s", lm_err_text(&err)));
}

/* Those that are gone and of use to nobody. */
static void sweep(struct lm_pins *pins)
{
	lm_lock_assert(&pins->lock);
	for (struct pin *pin = TAILQ_FIRST(&pins->list), *next; pin; pin = next) {
		next = TAILQ_NEXT(pin, entry);
		if (!pin->gone || pin->users || pin->walking)
			continue;
		TAILQ_REMOVE(&pins->list, pin, entry);
		pins->count--;
		pin_free(pin);
	}
}

static struct pin *next_pin(struct lm_pins *pins)
{
	lm_lock_assert(&pins->lock);
	struct pin *pin;
	TAILQ_FOREACH(pin, &pins->list, entry)
	if (pin->wanted)
		break;
	return pin;
}

static void end_walk(struct lm_pins *pins, struct pin *pin, int r, const struct lm_err *err)
{
	LM_LOCKED(&pins->lock);
	pin->walking = false;
	pin->complete = r == 0;
	pin->err = (struct lm_err)LM_ERR_INIT;
	if (r < 0) {
		pin->err = *err;
		pin->err.code = r;
		if (!pins->stop)
			lm_log(LM_LOG_WARN, pin->fresh ? "can't be pinned" : "a pin is not complete",
				LM_KV("repository", "%s", pin->fqrn), LM_KV("path", "%s", pin->path),
				LM_KV("cause", "%s", lm_err_text(err)));
		if (pin->fresh && !pin->gone)
			forget(pins, pin);
	} else if (!pin->gone) {
		lm_log(LM_LOG_INFO, "pinned", LM_KV("repository", "%s", pin->fqrn), LM_KV("path", "%s", pin->path),
			LM_KV("objects", "%llu", (unsigned long long)pin->objects),
			LM_KV("bytes", "%llu", (unsigned long long)pin->bytes));
	}
	pin->fresh = false;
	lm_cond_broadcast(&pins->changed);
}

static void *keep_pins(void *arg)
{
	struct lm_pins *pins = arg;
	lm_lock_take(&pins->lock);
	while (!pins->stop) {
		sweep(pins);
		struct pin *pin = next_pin(pins);
		if (!pin) {
			lm_cond_wait(&pins->changed, &pins->lock);
			continue;
		}
		pin->wanted = false;
		pin->walking = true;
		lm_lock_release(&pins->lock);
		struct lm_err err = LM_ERR_INIT;
		int r = walk_pin(pins, pin, &err);
		end_walk(pins, pin, r, &err);
		lm_lock_take(&pins->lock);
	}
	lm_lock_release(&pins->lock);
	return NULL;
}

int lm_pins_new(const struct lm_pins_config *config, struct lm_pins **ret, struct lm_err *err)
{
	CLEANUP(lm_pins_freep) struct lm_pins *pins = calloc(1, sizeof(*pins));
	if (!pins)
		return lm_err_oom(err);
	lm_lock_init(&pins->lock);
	lm_cond_init(&pins->changed);
	TAILQ_INIT(&pins->list);
	pins->cache = config->cache;
	pins->dir = strdup(config->dir);
	pins->repository_count = config->repository_count;
	pins->repositories = calloc(config->repository_count + 1, sizeof(*pins->repositories));
	if (!pins->dir || !pins->repositories)
		return lm_err_oom(err);
	memcpy(pins->repositories, config->repositories, config->repository_count * sizeof(*pins->repositories));
	int r = read_list(pins, err);
	if (r < 0)
		return lm_err_prefix(err, r, "pins");
	lm_lock_take(&pins->lock);
	tell_cache(pins, true);
	lm_lock_release(&pins->lock);
	r = -pthread_create(&pins->thread, NULL, keep_pins, pins);
	if (r < 0)
		return lm_err_sys(err, r, "pins: thread");
	pins->runs = true;
	pthread_setname_np(pins->thread, "pins");
	*ret = STEAL(pins);
	return 0;
}

void lm_pins_stop(struct lm_pins *pins)
{
	if (!pins || !pins->runs)
		return;
	lm_lock_take(&pins->lock);
	pins->stop = true;
	if (pins->walk) {
		LM_LOCKED(&pins->walk->lock);
		pins->walk->stop = true;
		lm_cond_broadcast(&pins->walk->changed);
	}
	lm_cond_broadcast(&pins->changed);
	lm_lock_release(&pins->lock);
	pthread_join(pins->thread, NULL);
	pins->runs = false;
}

void lm_pins_free(struct lm_pins *pins)
{
	if (!pins)
		return;
	lm_pins_stop(pins);
	struct pin *pin;
	while ((pin = TAILQ_FIRST(&pins->list))) {
		TAILQ_REMOVE(&pins->list, pin, entry);
		pin_free(pin);
	}
	lm_cond_done(&pins->changed);
	lm_lock_done(&pins->lock);
	free(pins->repositories);
	free(pins->dir);
	free(pins);
}

void lm_pins_root_changed(struct lm_pins *pins, const char *fqrn)
{
	LM_LOCKED(&pins->lock);
	struct pin *pin;
	TAILQ_FOREACH(pin, &pins->list, entry)
	if (!pin->gone && strcmp(pin->fqrn, fqrn) == 0)
		pin->wanted = true;
	lm_cond_broadcast(&pins->changed);
}

/* --- what people ask for --- */

static struct pin *find_pin(struct lm_pins *pins, const char *fqrn, const char *path)
{
	lm_lock_assert(&pins->lock);
	struct pin *pin;
	TAILQ_FOREACH(pin, &pins->list, entry)
	if (!pin->gone && (!*fqrn || strcmp(pin->fqrn, fqrn) == 0) && strcmp(pin->path, path) == 0)
		break;
	return pin;
}

static int check_path(const char *path, struct lm_err *err)
{
	size_t len = strlen(path);
	if (len > LM_REPO_PATH_MAX || (len && *path != '/') || strpbrk(path, "\n\r"))
		return lm_err_set(err, -EINVAL, "no path of a repository: it begins with / and has no line ends");
	return 0;
}

/* Whether the path may be there, by what can be said without fetching. */
static bool may_have(struct lm_repository *repository, const char *path)
{
	uint64_t node = LM_NODE_ROOT;
	while (*(path += strspn(path, "/"))) {
		char name[LM_NAME_MAX + 1];
		size_t len = strcspn(path, "/");
		struct lm_object_ref lacks;
		struct lm_entry entry;
		snprintf(name, sizeof(name), "%.*s", (int)LM_MIN(len, (size_t)LM_NAME_MAX), path);
		int r = lm_tree_lookup(lm_repository_tree(repository), node, name, &entry, &lacks, NULL);
		if (r != 0)
			return r == LM_NEED;
		node = entry.node;
		path += len;
	}
	return true;
}

/* The first one that has the path or may have it: then the walk will tell. */
static int find_repository(struct lm_pins *pins, const char *path, const char **ret, struct lm_err *err)
{
	for (size_t i = 0; i < pins->repository_count; i++)
		if (may_have(pins->repositories[i], path)) {
			*ret = lm_repository_fqrn(pins->repositories[i]);
			return 0;
		}
	return lm_err_set(err, -ENOENT, "no configured repository has %s", path);
}

static int make_pin(struct lm_pins *pins, const char *fqrn, const char *path, struct pin **ret, struct lm_err *err)
{
	lm_lock_assert(&pins->lock);
	struct pin *pin = find_pin(pins, fqrn, path);
	uint32_t number = 0;
	if (pin) {
		pin->wanted |= !pin->walking;
		*ret = pin;
		return 0;
	}
	if (pins->count == LM_PINS_MAX)
		return lm_err_set(err, -ENOSPC, "there are %d pins, no more are possible", LM_PINS_MAX);
	while (number == 0)
		if (getrandom(&number, sizeof(number), 0) != sizeof(number))
			return lm_err_sys(err, -errno, "random numbers");
	pin = pin_new(number, fqrn, path);
	if (!pin)
		return lm_err_oom(err);
	pin->fresh = pin->wanted = true;
	TAILQ_INSERT_TAIL(&pins->list, pin, entry);
	pins->count++;
	int r = write_list(pins, err);
	if (r < 0) {
		pin->gone = true; /* the thread frees it */
		return r;
	}
	tell_cache(pins, true);
	*ret = pin;
	return 0;
}

static struct lm_pin_status status_of(const struct pin *pin)
{
	return (struct lm_pin_status){
		.fqrn = pin->fqrn,
		.path = pin->path,
		.objects = pin->objects,
		.bytes = pin->bytes,
		.complete = pin->complete,
		.err = pin->err,
	};
}

int lm_pins_add(struct lm_pins *pins, const char *fqrn, const char *path, lm_pin_progress_fn *progress, void *arg,
	struct lm_err *err)
{
	struct pin *pin = NULL;
	int r = check_path(path, err);
	if (r == 0 && !*fqrn)
		r = find_repository(pins, path, &fqrn, err);
	if (r < 0)
		return r;
	if (!repository_named(pins, fqrn))
		return lm_err_set(err, -ENOENT, "no repository %s is configured", fqrn);
	LM_LOCKED(&pins->lock);
	r = make_pin(pins, fqrn, path, &pin, err);
	if (r < 0)
		return r;
	pin->users++;
	lm_cond_broadcast(&pins->changed);
	while ((pin->wanted || pin->walking) && !pins->stop) {
		bool event = lm_cond_wait_ms(&pins->changed, &pins->lock, PROGRESS_MS);
		struct lm_pin_status status = status_of(pin);
		if (event || !progress)
			continue;
		lm_lock_release(&pins->lock);
		r = progress(arg, &status);
		lm_lock_take(&pins->lock);
		if (r != 0)
			break;
	}
	if (r == 0 && pins->stop && (pin->wanted || pin->walking))
		r = lm_err_set(err, -ECANCELED, "the fetcher is ending");
	if (r == 0 && pin->err.code < 0) {
		r = pin->err.code;
		if (err)
			*err = pin->err;
	}
	if (r == 0 && progress) {
		struct lm_pin_status status = status_of(pin);
		lm_lock_release(&pins->lock);
		r = progress(arg, &status);
		lm_lock_take(&pins->lock);
	}
	pin->users--;
	return r;
}

int lm_pins_remove(struct lm_pins *pins, const char *fqrn, const char *path, uint64_t *ret_bytes, struct lm_err *err)
{
	LM_LOCKED(&pins->lock);
	struct pin *pin = find_pin(pins, fqrn, path);
	if (!pin)
		return lm_err_set(err, -ENOENT, "%s is not pinned", *path ? path : "/");
	*ret_bytes = pin->bytes;
	forget(pins, pin);
	lm_cond_broadcast(&pins->changed);
	return 0;
}

void lm_pins_each(struct lm_pins *pins, void (*fn)(void *arg, const struct lm_pin_status *status), void *arg)
{
	LM_LOCKED(&pins->lock);
	struct pin *pin;
	TAILQ_FOREACH(pin, &pins->list, entry)
	if (!pin->gone) {
		struct lm_pin_status status = status_of(pin);
		fn(arg, &status);
	}
}
