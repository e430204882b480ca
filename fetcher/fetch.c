#include "fetcher/fetch.h"

#include "base/lock.h"
#include "base/log.h"

#include <search.h>
#include <string.h>

struct waiter {
	struct waiter *next;
	lm_fetch_fn *fn;
	void *arg;
};

struct download {
	struct lm_fetch *fetch;
	struct lm_object_ref ref; /* constant: the key in the table */
	struct waiter *waiters;	  /* under fetch->lock until it left the table */

	/* engine's thread until ended, then the finishing job's */
	struct lm_cache_txn *txn;
	struct lm_unpack *unpack;
	int fd; /* of the cache, when somebody else was quicker; else -1 */
	int code;
	struct lm_err err;
};

struct lm_fetch {
	struct lm_cache *cache;
	struct lm_origin *origin;
	struct lm_work *work;
	uint64_t database_max;
	_Atomic(uint64_t) files, catalogs, failed;

	struct lm_lock lock;
	void *table; /* under lock: tsearch tree of running downloads */
};

static int cmp_number(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

/* Size and compression belong to the key: catalogs that disagree about them must not spoil each other's download. */
static int cmp_download(const void *a, const void *b)
{
	const struct lm_object_ref *x = &((const struct download *)a)->ref, *y = &((const struct download *)b)->ref;
	int r = lm_hash_cmp(&x->hash, &y->hash);
	if (r == 0)
		r = cmp_number(x->kind, y->kind);
	if (r == 0)
		r = cmp_number(x->compression, y->compression);
	if (r == 0)
		r = cmp_number(x->alternative, y->alternative);
	return r ? r : cmp_number(x->size, y->size);
}

int lm_fetch_new(struct lm_cache *cache, struct lm_origin *origin, struct lm_work *work, uint64_t database_max,
	struct lm_fetch **ret, struct lm_err *err)
{
	struct lm_fetch *fetch = calloc(1, sizeof(*fetch));
	if (!fetch)
		return lm_err_oom(err);
	fetch->cache = cache;
	fetch->origin = origin;
	fetch->work = work;
	fetch->database_max = database_max;
	lm_lock_init(&fetch->lock);
	*ret = fetch;
	return 0;
}

void lm_fetch_free(struct lm_fetch *fetch)
{
	if (!fetch)
		return;
	lm_lock_done(&fetch->lock);
	free(fetch);
}

static void download_free(struct download *d)
{
	if (!d)
		return;
	lm_unpack_free(d->unpack);
	lm_cache_txn_free(d->txn);
	lm_closep(&d->fd);
	free(d);
}
LM_DEFINE_CLEANUP(struct download, download_free, download_freep)

/* Finishing: on the work queue. */
static void finish(void *arg)
{
	CLEANUP(download_freep) struct download *d = arg;
	struct lm_fetch *fetch = d->fetch;
	int fd = d->fd;
	if (d->code == 0 && fd < 0) {
		int r = lm_cache_commit(d->txn, &d->ref, &d->err);
		bool readable = r == 0 || (r == -ENOSPC && !lm_object_is_database(d->ref.kind));
		d->code = readable ? 0 : r;
		fd = lm_cache_txn_fd(d->txn);
		atomic_fetch_add(lm_object_is_database(d->ref.kind) ? &fetch->catalogs : &fetch->files, 1);
	}
	if (d->code < 0) {
		fd = -1;
		atomic_fetch_add(&fetch->failed, 1);
	}

	lm_lock_take(&fetch->lock);
	tdelete(d, &fetch->table, cmp_download);
	struct waiter *waiters = STEAL(d->waiters);
	lm_lock_release(&fetch->lock);

	while (waiters) {
		CLEANUP(lm_freep) struct waiter *w = waiters;
		waiters = w->next;
		if (w->fn)
			w->fn(w->arg, d->code, fd, &d->err);
	}
}

/* The end of the running state, on whichever thread. Memory too short for a job: finish here, late but complete. */
static void end_download(struct download *d, int code, const struct lm_err *err)
{
	d->code = code;
	if (code < 0 && err)
		d->err = *err;
	if (lm_work_post(d->fetch->work, finish, d) < 0)
		finish(d);
}

static int sink(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct download *d = arg;
	return lm_cache_write(d->txn, data, len, err);
}

static int on_begin(void *arg, struct lm_err *err)
{
	struct download *d = arg;
	lm_unpack_free(STEAL(d->unpack));
	lm_cache_txn_free(STEAL(d->txn));
	uint64_t max = d->ref.size == LM_SIZE_UNKNOWN ? d->fetch->database_max : d->ref.size;
	int r = lm_cache_begin(d->fetch->cache, &d->txn, err);
	if (r == 0)
		r = lm_unpack_new(&d->ref.hash, d->ref.compression, max, sink, d, &d->unpack, err);
	return r;
}

static int on_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct download *d = arg;
	/* More content than the catalog says may be a damaged transfer as well as a wrong catalog: worth another try.
	 */
	int r = lm_unpack_feed(d->unpack, data, len, err);
	return r == -EPROTO ? -EBADMSG : r;
}

static int on_end(void *arg, struct lm_err *err)
{
	struct download *d = arg;
	uint64_t size;
	int r = lm_unpack_finish(d->unpack, &size, err);
	if (r == 0 && d->ref.size != LM_SIZE_UNKNOWN && size != d->ref.size)
		r = lm_err_set(err, -EPROTO, "%llu bytes of content, but its catalog says %llu",
			(unsigned long long)size, (unsigned long long)d->ref.size);
	return r;
}

static void on_done(void *arg, int code, const struct lm_err *err)
{
	end_download(arg, code, err);
}

static void start(struct download *d, enum lm_http_priority priority)
{
	/* It may have arrived between the caller's look into the cache and the entry in the table. */
	d->fd = lm_cache_open(d->fetch->cache, &d->ref);
	if (d->fd >= 0) {
		end_download(d, 0, NULL);
		return;
	}
	char path[LM_OBJECT_PATH_MAX];
	struct lm_err err = LM_ERR_INIT;
	const struct lm_origin_consumer consumer = {
		.begin = on_begin, .data = on_data, .end = on_end, .done = on_done, .arg = d};
	(void)(d->ref.alternative ? lm_object_alternative_path : lm_object_path)(&d->ref.hash, d->ref.kind, path);
	int r = lm_origin_get(d->fetch->origin, path, priority, false, &consumer, &err);
	if (r < 0)
		end_download(d, r, &err);
}

static struct download *new_download(struct lm_fetch *fetch, const struct lm_object_ref *ref)
{
	struct download *d = calloc(1, sizeof(*d));
	if (!d)
		return NULL;
	d->fetch = fetch;
	d->ref = *ref;
	d->fd = -1;
	return d;
}

/* Puts the waiter on the object's download; *ret_new is set when that has to be started. */
static int join(struct lm_fetch *fetch, struct download *fresh, struct waiter *waiter, bool *ret_new)
{
	LM_LOCKED(&fetch->lock);
	struct download **at = tsearch(fresh, &fetch->table, cmp_download);
	if (!at)
		return -ENOMEM;
	waiter->next = (*at)->waiters;
	(*at)->waiters = waiter;
	*ret_new = *at == fresh;
	return 0;
}

int lm_fetch_object(struct lm_fetch *fetch, const struct lm_object_ref *ref, enum lm_http_priority priority,
	lm_fetch_fn *fn, void *arg, int *ret_fd, struct lm_err *err)
{
	int fd = lm_cache_open(fetch->cache, ref);
	if (fd >= 0) {
		if (ret_fd)
			*ret_fd = fd;
		else
			close(fd);
		return 0;
	}
	CLEANUP(download_freep) struct download *d = new_download(fetch, ref);
	CLEANUP(lm_freep) struct waiter *waiter = malloc(sizeof(*waiter));
	if (!d || !waiter)
		return lm_err_oom(err);
	*waiter = (struct waiter){.fn = fn, .arg = arg};
	bool fresh;
	int r = join(fetch, d, waiter, &fresh);
	if (r < 0)
		return lm_err_oom(err);
	(void)STEAL(waiter);
	if (fresh)
		start(STEAL(d), priority);
	return LM_FETCH_LATER;
}

void lm_fetch_stats(struct lm_fetch *fetch, struct lm_fetch_stats *ret)
{
	*ret = (struct lm_fetch_stats){
		.files = atomic_load(&fetch->files),
		.catalogs = atomic_load(&fetch->catalogs),
		.failed = atomic_load(&fetch->failed),
	};
}
