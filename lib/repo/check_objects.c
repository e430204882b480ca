#include "repo/check_internal.h"

#include "base/file.h"
#include "base/str.h"
#include "base/work.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>

enum {
	BATCH = 16,	       /* objects per job */
	BATCH_BYTES = 8 << 20, /* of content, where objects are read: then the job is large enough */
	BATCH_TEXT = BATCH * 2 * (LM_REPO_PATH_MAX + 2),
	MEMORY_MAX = 8 << 20, /* a stored object up to here is read into memory, else into a file */
	SEEN_MIN = 1 << 12,   /* slots of the table of objects looked at, */
	SEEN_MAX = 1 << 20,   /* which grows as they come */
	PROBES = 4,
	FAILURES_MAX = 100, /* of the storage, before the check gives up */
};

struct item {
	struct lm_check_object object;
	size_t catalog, path; /* where their texts begin in the batch's; path 0: none */
};

struct batch {
	struct lm_check_objects *objects;
	size_t count;
	uint64_t bytes;
	struct lm_buf text;
	struct item items[BATCH];
};

/* One object looked at lately: a file that stands in many places is read once, mostly. */
struct seen {
	uint8_t bytes[LM_HASH_BYTES];
	uint8_t algo, kind, compression, set;
	uint64_t size;
};

struct lm_check_objects {
	struct lm_check *check;
	/* the caller's thread only */
	struct batch *open;
	struct seen *seen;
	size_t slots, used;
	/* any thread */
	_Atomic int failed;	   /* a negative errno: the check is over */
	_Atomic unsigned failures; /* of the storage */
	struct lm_lock lock;
	struct lm_err why; /* under lock: of failed */
};

static void batch_free(struct batch *batch)
{
	if (!batch)
		return;
	lm_buf_done(&batch->text);
	free(batch);
}
LM_DEFINE_CLEANUP(struct batch, batch_free, batch_freep)

int lm_check_objects_new(struct lm_check *check, struct lm_check_objects **ret, struct lm_err *err)
{
	struct lm_check_objects *objects = calloc(1, sizeof(*objects));
	struct seen *seen = calloc(SEEN_MIN, sizeof(*seen));
	if (!objects || !seen) {
		free(objects);
		free(seen);
		return lm_err_oom(err);
	}
	*objects = (struct lm_check_objects){.check = check, .seen = seen, .slots = SEEN_MIN};
	lm_lock_init(&objects->lock);
	*ret = objects;
	return 0;
}

void lm_check_objects_free(struct lm_check_objects *objects)
{
	if (!objects)
		return;
	if (objects->check->options->work)
		lm_work_drain(objects->check->options->work);
	batch_free(objects->open);
	lm_lock_done(&objects->lock);
	free(objects->seen);
	free(objects);
}

int lm_check_unavailable(struct lm_check *check, int code, const char *why, enum lm_check_kind missing,
	enum lm_check_kind damaged, struct lm_place place, struct lm_err *err)
{
	switch (code) {
	case -ENOMEM:
	case -ENOSPC:
		return lm_err_set(err, code, "%s", why);
	case -ENOENT:
		lm_check_found(check, missing, place, "it is not in the storage");
		return 0;
	case -EBADMSG:
	case -EPROTO:
	case -EMSGSIZE:
		lm_check_found(check, damaged, place, "%s", why);
		return 0;
	default:
		lm_check_found(check, LM_CHECK_OBJECT_UNREADABLE, place, "%s", why);
		if (check->objects && atomic_fetch_add(&check->objects->failures, 1) + 1 >= FAILURES_MAX)
			return lm_err_set(err, -EIO, "the storage failed %d times, last with: %s", FAILURES_MAX, why);
		return 0;
	}
}

static int ignore_content(void *arg, const void *data, size_t len, struct lm_err *err)
{
	return 0;
}

static int unpack_memory(
	const struct lm_check_object *object, const struct lm_buf *stored, uint64_t *ret_size, struct lm_err *err)
{
	CLEANUP(lm_unpack_freep) struct lm_unpack *unpack = NULL;
	int r = lm_unpack_new(&object->hash, object->compression, object->size, ignore_content, NULL, &unpack, err);
	if (r == 0)
		r = lm_unpack_feed(unpack, lm_buf_cstr(stored), stored->len, err);
	return r < 0 ? r : lm_unpack_finish(unpack, ret_size, err);
}

/* By way of a file, since it does not fit into memory. */
static int unpack_large(struct lm_check *check, const struct lm_check_object *object, const char *name,
	uint64_t *ret_size, struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, check->dir, err);
	if (fd < 0)
		return lm_err_prefix(err, -ENOSPC, "scratch");
	int r = check->storage->ops->get_file(check->storage, name, fd, err);
	return r < 0 ? r
		     : lm_unpack_fd(&object->hash, object->compression, fd, object->size, ignore_content, NULL,
			       ret_size, err);
}

/* Reads the object: its hash, that it inflates, that it gives what the catalog says. */
static int verify(struct lm_check *check, const struct lm_check_object *object, const char *name, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf stored = LM_BUF(MEMORY_MAX);
	uint64_t size = 0;
	int r = check->storage->ops->get(check->storage, name, &stored, err);
	if (r == 0)
		r = unpack_memory(object, &stored, &size, err);
	else if (r == -EMSGSIZE)
		r = unpack_large(check, object, name, &size, err);
	if (r < 0)
		return r;
	lm_check_count(check, &check->result.object_bytes, size);
	return size == object->size ? 0
				    : lm_err_set(err, -EPROTO, "it holds %" PRIu64 " bytes, the catalog says %" PRIu64,
					      size, object->size);
}

static int look_at(struct lm_check *check, const struct batch *batch, const struct item *item, struct lm_err *err)
{
	char name[LM_OBJECT_PATH_MAX];
	struct lm_err why = LM_ERR_INIT;
	const struct lm_check_object *object = &item->object;
	const char *text = lm_buf_cstr(&batch->text);
	lm_object_path(&object->hash, object->kind, name);
	int r;
	if (check->options->objects && !object->present_only) {
		r = verify(check, object, name, &why);
	} else {
		r = check->storage->ops->has(check->storage, name, &why);
		r = r == 0 ? -ENOENT : LM_MIN(r, 0);
	}
	lm_check_count(check, &check->result.objects, 1);
	if (r == 0)
		return 0;
	struct lm_place place = {.catalog = item->catalog ? text + item->catalog : NULL,
		.path = item->path ? text + item->path : NULL,
		.object = name};
	return lm_check_unavailable(check, r, lm_err_text(&why), object->missing, LM_CHECK_OBJECT_DAMAGED, place, err);
}

/* A job. */
static void run_batch(void *arg)
{
	CLEANUP(batch_freep) struct batch *batch = arg;
	struct lm_check_objects *objects = batch->objects;
	for (size_t i = 0; i < batch->count && atomic_load(&objects->failed) == 0; i++) {
		struct lm_err err = LM_ERR_INIT;
		int r = look_at(objects->check, batch, &batch->items[i], &err);
		if (r == 0)
			continue;
		LM_LOCKED(&objects->lock);
		objects->why = err;
		atomic_store(&objects->failed, r);
	}
}

static void submit(struct lm_check_objects *objects)
{
	struct batch *batch = STEAL(objects->open);
	struct lm_work *work = objects->check->options->work;
	if (!batch)
		return;
	if (work)
		lm_work_submit(work, run_batch, batch);
	else
		run_batch(batch);
}

/* The entry that is wanted, else one that is free, else one that must go. */
static struct seen *slot_of(struct seen *seen, size_t slots, const struct seen *wanted)
{
	uint32_t number;
	memcpy(&number, wanted->bytes, sizeof(number));
	struct seen *first = &seen[number % slots];
	for (unsigned i = 0; i < PROBES; i++) {
		struct seen *at = &seen[(number + i) % slots];
		if (!at->set || memcmp(at, wanted, sizeof(*at)) == 0)
			return at;
	}
	return first;
}

/* Without memory it stays as large as it is. */
static void grow_seen(struct lm_check_objects *objects)
{
	size_t slots = 2 * objects->slots;
	struct seen *grown = slots <= SEEN_MAX ? calloc(slots, sizeof(*grown)) : NULL;
	objects->used = 0;
	if (!grown)
		return;
	for (size_t i = 0; i < objects->slots; i++)
		if (objects->seen[i].set)
			*slot_of(grown, slots, &objects->seen[i]) = objects->seen[i];
	free(objects->seen);
	objects->seen = grown;
	objects->slots = slots;
}

/* Whether it was looked at lately; it is from now on. */
static bool known(struct lm_check_objects *objects, const struct lm_check_object *object)
{
	struct seen now = {.algo = object->hash.algo,
		.kind = (uint8_t)object->kind,
		.compression = (uint8_t)object->compression,
		.set = 1,
		.size = object->size};
	memcpy(now.bytes, object->hash.bytes, sizeof(now.bytes));
	struct seen *at = slot_of(objects->seen, objects->slots, &now);
	if (at->set && memcmp(at, &now, sizeof(now)) == 0)
		return true;
	*at = now;
	if (++objects->used > objects->slots / 4)
		grow_seen(objects);
	return false;
}

/* Position 0 of the text is a NUL that stands for "none". */
static int add_text(struct batch *batch, const char *text, size_t *ret)
{
	int r = batch->text.len == 0 ? lm_buf_append(&batch->text, "", 1) : 0;
	if (r < 0 || !text)
		return r;
	*ret = batch->text.len;
	return lm_buf_append(&batch->text, text, strlen(text) + 1);
}

int lm_check_objects_add(struct lm_check_objects *objects, const struct lm_check_object *object, const char *catalog,
	const char *path, struct lm_err *err)
{
	if (atomic_load(&objects->failed) < 0)
		return lm_check_objects_drain(objects, err);
	if (known(objects, object))
		return 0;
	if (!objects->open) {
		objects->open = calloc(1, sizeof(*objects->open));
		if (!objects->open)
			return lm_err_oom(err);
		objects->open->objects = objects;
		objects->open->text = LM_BUF(BATCH_TEXT);
	}
	struct batch *batch = objects->open;
	struct item *item = &batch->items[batch->count];
	item->object = *object;
	if (add_text(batch, catalog, &item->catalog) < 0 || add_text(batch, path, &item->path) < 0)
		return lm_err_oom(err);
	batch->count++;
	batch->bytes += object->size;
	if (batch->count == BATCH || (objects->check->options->objects && batch->bytes >= BATCH_BYTES))
		submit(objects);
	return 0;
}

int lm_check_objects_drain(struct lm_check_objects *objects, struct lm_err *err)
{
	submit(objects);
	if (objects->check->options->work)
		lm_work_drain(objects->check->options->work);
	LM_LOCKED(&objects->lock);
	int r = atomic_load(&objects->failed);
	return r < 0 ? lm_err_set(err, r, "%s", objects->why.msg) : 0;
}
