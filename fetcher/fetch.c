#include "fetcher/fetch.h"

#include "base/clock.h"
#include "base/lock.h"
#include "fetcher/failures.h"

#include <search.h>
#include <string.h>
#include <sys/queue.h>

enum {
	BATCH = 64 << 10,	/* bytes that are worth a job before the end of a body */
	RECEIVED_MAX = 2 << 20, /* the window, and what curl may hand over at once */
	AHEAD_SLOTS = 1024,	/* objects fetched ahead whose use is awaited */
};

struct waiter {
	TAILQ_ENTRY(waiter) entry, due_entry; /* of the download; of the fetch */
	struct download *download;	      /* NULL: its time is over */
	lm_fetch_fn *fn;		      /* NULL: only the object in the cache is wanted */
	void *arg;
	enum lm_http_priority priority;
	bool left;
	int64_t due_ms;
};
TAILQ_HEAD(waiters, waiter);

struct download {
	struct lm_fetch *fetch;
	struct lm_object_ref ref; /* constant: the key in the table */
	int64_t started_ms;	  /* constant */
	uint64_t ahead_bytes;	  /* constant: counted in fetch->ahead_bytes */
	_Atomic(unsigned) refs;	  /* the table's, the request's, the job's */
	_Atomic(uint64_t) bytes;
	_Atomic(int) priority; /* written under fetch->lock */

	/* under fetch->lock */
	TAILQ_ENTRY(download) entry;
	struct waiters waiters;
	unsigned waiter_count;

	struct lm_origin_request *request; /* set before `live`, valid until on_done() */

	/* under lock */
	struct lm_lock lock;
	bool live;    /* between on_begin() and on_done() */
	bool working; /* a job is queued or runs */
	bool paused;  /* the transfer waits until a job has taken what is there */
	bool resume;  /* ... which it has */
	bool ended;   /* the body is complete */
	bool judged;  /* the verdict on it is ready */
	unsigned attempt;
	struct lm_buf received;
	int code; /* of this attempt, with err: what the jobs met */
	struct lm_err err;

	/* the job's */
	struct lm_buf taken;
	unsigned worked; /* the attempt that the following belongs to */
	struct lm_cache_txn *txn;
	struct lm_unpack *unpack;

	/* the finishing job's */
	int result, fd; /* fd: of the cache, when somebody else was quicker; else -1 */
	struct lm_err result_err;
};

struct lm_fetch {
	struct lm_cache *cache; /* constant after new */
	struct lm_origin *origin;
	struct lm_work *work;
	uint64_t database_max;
	_Atomic(unsigned) timeout_ms;
	_Atomic(uint64_t) ahead_keys[AHEAD_SLOTS]; /* 0: none */
	_Atomic(uint64_t) ahead_used, ahead_wasted;

	struct lm_lock lock;
	/* under lock */
	void *table; /* tsearch tree of the downloads, which are in this list, too */
	TAILQ_HEAD(, download) downloads;
	struct waiters due; /* whoever has a callback, in the order of arrival */
	bool sweep_posted;
	int64_t sweep_ms; /* when it is due */
	uint64_t ahead_bytes;
	struct lm_failures failures;
	struct lm_fetch_stats stats;			/* last_failure.ago_ms holds when it was */
	struct lm_fetch_slow slowest[LM_FETCH_SLOWEST]; /* ago_ms holds when it ended; took_ms 0: none */
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
	atomic_init(&fetch->timeout_ms, LM_FETCH_TIMEOUT_MS);
	lm_lock_init(&fetch->lock);
	TAILQ_INIT(&fetch->downloads);
	TAILQ_INIT(&fetch->due);
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

void lm_fetch_set_timeout(struct lm_fetch *fetch, unsigned timeout_ms)
{
	atomic_store(&fetch->timeout_ms, timeout_ms);
}

void lm_fetch_recover(struct lm_fetch *fetch)
{
	LM_LOCKED(&fetch->lock);
	lm_failures_clear(&fetch->failures);
}

static struct download *new_download(
	struct lm_fetch *fetch, const struct lm_object_ref *ref, enum lm_http_priority priority)
{
	struct download *d = calloc(1, sizeof(*d));
	if (!d)
		return NULL;
	d->fetch = fetch;
	d->ref = *ref;
	d->started_ms = lm_now_ms();
	d->fd = -1;
	d->received = d->taken = LM_BUF(RECEIVED_MAX);
	atomic_init(&d->refs, 1);
	atomic_init(&d->priority, priority);
	TAILQ_INIT(&d->waiters);
	lm_lock_init(&d->lock);
	return d;
}

static void download_unref(struct download *d)
{
	if (!d || atomic_fetch_sub(&d->refs, 1) != 1)
		return;
	lm_unpack_free(d->unpack);
	lm_cache_txn_free(d->txn);
	lm_closep(&d->fd);
	lm_buf_done(&d->received);
	lm_buf_done(&d->taken);
	lm_lock_done(&d->lock);
	free(d);
}
LM_DEFINE_CLEANUP(struct download, download_unref, download_unrefp)

static struct download *download_ref(struct download *d)
{
	atomic_fetch_add(&d->refs, 1);
	return d;
}

/* Finishing: on the work queue. */

static unsigned latency_bucket(int64_t ms)
{
	unsigned bucket = 0;
	while (bucket < LM_FETCH_LATENCIES - 1 && ms >= (int64_t)1 << bucket)
		bucket++;
	return bucket;
}

/* fetch->lock held. The least of the slots gives way: an old one, or the quickest. */
static void note_slow(struct lm_fetch *fetch, const struct download *d, int64_t now_ms)
{
	struct lm_fetch_slow *least = &fetch->slowest[0];
	for (size_t i = 0; i < LM_FETCH_SLOWEST; i++) {
		struct lm_fetch_slow *slow = &fetch->slowest[i];
		if (now_ms - slow->ago_ms > LM_FETCH_LATELY_MS)
			slow->took_ms = 0;
		if (slow->took_ms < least->took_ms)
			least = slow;
	}
	int64_t took_ms = now_ms - d->started_ms;
	if (took_ms > least->took_ms)
		*least = (struct lm_fetch_slow){.ref = d->ref, .took_ms = took_ms, .ago_ms = now_ms, .code = d->result};
}

/* fetch->lock held */
static void note_end(struct lm_fetch *fetch, const struct download *d, uint64_t size)
{
	struct lm_fetch_stats *stats = &fetch->stats;
	int64_t now_ms = lm_now_ms();
	lm_lock_assert(&fetch->lock);
	fetch->ahead_bytes -= d->ahead_bytes;
	if (d->result < 0) {
		stats->failed++;
		stats->last_failure = (struct lm_fetch_failure){
			.ref = d->ref, .code = d->result, .err = d->result_err, .ago_ms = now_ms};
		lm_failures_add(&fetch->failures, &d->ref, d->result, &d->result_err, now_ms);
	} else {
		lm_failures_recover(&fetch->failures, &d->ref);
	}
	if (d->result == 0 && d->txn) {
		(*(lm_object_is_database(d->ref.kind) ? &stats->catalogs : &stats->files))++;
		stats->bytes += size;
	}
	stats->latency[latency_bucket(now_ms - d->started_ms)]++;
	stats->latency_ms += (uint64_t)(now_ms - d->started_ms);
	note_slow(fetch, d, now_ms);
}

static void take_waiters(struct download *d, uint64_t size, struct waiters *ret)
{
	struct lm_fetch *fetch = d->fetch;
	struct waiter *w;
	LM_LOCKED(&fetch->lock);
	tdelete(d, &fetch->table, cmp_download);
	TAILQ_REMOVE(&fetch->downloads, d, entry);
	TAILQ_FOREACH(w, &d->waiters, entry)
	TAILQ_REMOVE(&fetch->due, w, due_entry);
	TAILQ_CONCAT(ret, &d->waiters, entry);
	fetch->stats.waiters -= d->waiter_count;
	fetch->stats.downloads--;
	note_end(fetch, d, size);
}

/* Takes over the table's reference. */
static void finish(void *arg)
{
	CLEANUP(download_unrefp) struct download *d = arg;
	struct waiters waiters = TAILQ_HEAD_INITIALIZER(waiters);
	int fd = d->fd;
	if (d->result == 0 && fd < 0) {
		int r = lm_cache_commit(d->txn, &d->ref, &d->result_err);
		bool readable = r == 0 || (r == -ENOSPC && !lm_object_is_database(d->ref.kind));
		d->result = readable ? 0 : r;
		fd = lm_cache_txn_fd(d->txn);
	}
	take_waiters(d, d->ref.size == LM_SIZE_UNKNOWN ? 0 : d->ref.size, &waiters);
	for (struct waiter *w, *next = TAILQ_FIRST(&waiters); (w = next); free(w)) {
		next = TAILQ_NEXT(w, entry);
		w->fn(w->arg, d->result, d->result < 0 ? -1 : fd, &d->result_err);
	}
}

/* Memory too short for a job: run it here, late but complete. */
static void post(struct lm_fetch *fetch, lm_work_fn *fn, void *arg)
{
	if (lm_work_post(fetch->work, fn, arg) < 0)
		fn(arg);
}

static void finish_later(struct download *d, int code, const struct lm_err *err)
{
	d->result = code;
	if (code < 0 && err)
		d->result_err = *err;
	post(d->fetch, finish, d);
}

/* Working: what was received becomes content. */

static int sink(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct download *d = arg;
	return lm_cache_write(d->txn, data, len, err);
}

static int begin_content(struct download *d, unsigned attempt, struct lm_err *err)
{
	lm_unpack_free(STEAL(d->unpack));
	lm_cache_txn_free(STEAL(d->txn));
	uint64_t max = d->ref.size == LM_SIZE_UNKNOWN ? d->fetch->database_max : d->ref.size;
	int r = lm_cache_begin(d->fetch->cache, &d->txn, err);
	if (r == 0) {
		lm_cache_expect(d->txn, d->ref.size);
		r = lm_unpack_new(&d->ref.hash, d->ref.compression, max, sink, d, &d->unpack, err);
	}
	if (r == 0)
		d->worked = attempt;
	return r;
}

static int end_content(struct download *d, struct lm_err *err)
{
	uint64_t size;
	int r = lm_unpack_finish(d->unpack, &size, err);
	if (r == 0 && d->ref.size != LM_SIZE_UNKNOWN && size != d->ref.size)
		r = lm_err_set(err, -EPROTO, "%llu bytes of content, but its catalog says %llu",
			(unsigned long long)size, (unsigned long long)d->ref.size);
	return r;
}

struct task { /* what a job found to do */
	unsigned attempt;
	bool ended;
	int code; /* the attempt has failed already */
};

/* False: nothing, and the job is over. */
static bool take_task(struct download *d, struct task *ret)
{
	LM_LOCKED(&d->lock);
	*ret = (struct task){.attempt = d->attempt, .ended = d->ended && !d->judged, .code = d->code};
	lm_buf_clear(&d->taken);
	struct lm_buf received = d->received;
	d->received = d->taken;
	d->taken = received;
	d->working = d->taken.len > 0 || ret->ended;
	if (d->paused && d->live) {
		d->paused = false;
		d->resume = true;
		lm_origin_wake(d->request);
	}
	return d->working;
}

static int do_task(struct download *d, const struct task *task, struct lm_err *err)
{
	int r = task->code;
	if (r == 0 && d->worked != task->attempt)
		r = begin_content(d, task->attempt, err);
	if (r == 0 && d->taken.len > 0) {
		/* More content than the catalog says may be a damaged transfer as well as a wrong catalog: worth
		 * another try. */
		r = lm_unpack_feed(d->unpack, d->taken.data, d->taken.len, err);
		r = r == -EPROTO ? -EBADMSG : r;
	}
	return r == 0 && task->ended ? end_content(d, err) : r;
}

/* Whether there is more to do. An attempt that gave way to another meanwhile has nothing to say. */
static bool end_task(struct download *d, const struct task *task, int code, const struct lm_err *err)
{
	LM_LOCKED(&d->lock);
	bool current = task->attempt == d->attempt;
	if (current && code < 0 && d->code == 0) {
		d->code = code;
		d->err = *err;
	}
	if (current && task->ended) {
		d->judged = true;
		lm_origin_wake(d->request);
	}
	d->working = d->received.len > 0 || d->paused || (d->ended && !d->judged);
	return d->working;
}

/* One batch, then the next in line has its turn. Takes over the job's reference. */
static void work_on(void *arg)
{
	CLEANUP(download_unrefp) struct download *d = arg;
	struct lm_err err = LM_ERR_INIT;
	struct task task;
	if (!take_task(d, &task))
		return;
	int r = do_task(d, &task, &err);
	/* Waiters need not wait for the engine to hear of it: a body judged good ends with on_done(0). */
	if (r == 0 && task.ended) {
		d->result = 0;
		finish(d);
	}
	struct lm_fetch *fetch = d->fetch;
	if (end_task(d, &task, r, &err))
		post(fetch, work_on, STEAL(d));
}

/* lock held: whether the caller is to post work_on(), with a reference that was taken here. */
static bool claim_job(struct download *d)
{
	lm_lock_assert(&d->lock);
	if (d->working)
		return false;
	d->working = true;
	download_ref(d);
	return true;
}

/* Receiving: on the engine's thread. */

static int on_begin(void *arg, struct lm_err *err)
{
	struct download *d = arg;
	lm_lock_take(&d->lock);
	d->live = true;
	d->paused = d->resume = d->ended = d->judged = false;
	d->attempt++;
	d->code = 0;
	lm_buf_clear(&d->received);
	lm_lock_release(&d->lock);
	atomic_store(&d->bytes, 0);
	lm_origin_set_priority(d->request, (enum lm_http_priority)atomic_load(&d->priority));
	return 0;
}

/* lock held: 0, LM_ORIGIN_PAUSE or a failure of the attempt */
static int receive(struct download *d, const void *data, size_t len, struct lm_err *err)
{
	lm_lock_assert(&d->lock);
	if (d->code < 0) {
		*err = d->err;
		return d->code;
	}
	if (d->received.len > 0 && d->received.len + len > LM_FETCH_WINDOW) {
		d->paused = true;
		return LM_ORIGIN_PAUSE;
	}
	return lm_buf_append(&d->received, data, len) < 0 ? lm_err_oom(err) : 0;
}

static int on_data(void *arg, const void *data, size_t len, struct lm_err *err)
{
	struct download *d = arg;
	lm_lock_take(&d->lock);
	int r = receive(d, data, len, err);
	bool job = r == 0 && d->received.len >= BATCH && claim_job(d);
	lm_lock_release(&d->lock);
	if (r == 0)
		atomic_fetch_add_explicit(&d->bytes, len, memory_order_relaxed);
	if (job)
		post(d->fetch, work_on, d);
	return r;
}

static int on_end(void *arg, struct lm_err *err)
{
	struct download *d = arg;
	lm_lock_take(&d->lock);
	d->ended = true;
	bool job = claim_job(d);
	lm_lock_release(&d->lock);
	if (job)
		post(d->fetch, work_on, d);
	return LM_ORIGIN_LATER;
}

static void on_woken(void *arg)
{
	CLEANUP(download_unrefp) struct download *d = download_ref(arg);
	struct lm_err err = LM_ERR_INIT;
	lm_lock_take(&d->lock);
	bool judged = d->judged, resume = d->resume;
	int code = d->code;
	if (judged && code < 0)
		err = d->err;
	d->judged = d->resume = false;
	if (judged)
		d->ended = false;
	lm_lock_release(&d->lock);
	lm_origin_set_priority(d->request, (enum lm_http_priority)atomic_load(&d->priority));
	if (judged)
		lm_origin_verdict(d->request, code, &err);
	else if (resume)
		lm_origin_resume(d->request);
}

static void on_done(void *arg, int code, const struct lm_err *err)
{
	CLEANUP(download_unrefp) struct download *d = arg;
	lm_lock_take(&d->lock);
	d->live = false;
	lm_lock_release(&d->lock);
	if (code < 0)
		finish_later(d, code, err);
}

/* Descriptors that ran out say nothing about whether it is cached: fetching it would take more of them. */
static bool found_in_cache(struct download *d, int fd)
{
	struct lm_err err = LM_ERR_INIT;
	if (fd >= 0) {
		d->fd = fd;
		finish_later(d, 0, NULL);
	} else if (fd == -EMFILE || fd == -ENFILE) {
		finish_later(d, lm_err_sys(&err, fd, "open a cached object"), &err);
	} else {
		return false;
	}
	return true;
}

static void start_request(struct download *d)
{
	char path[LM_OBJECT_PATH_MAX];
	struct lm_err err = LM_ERR_INIT;
	const struct lm_origin_consumer consumer = {
		.begin = on_begin,
		.data = on_data,
		.end = on_end,
		.done = on_done,
		.woken = on_woken,
		.arg = download_ref(d),
	};
	(void)(d->ref.alternative ? lm_object_alternative_path : lm_object_path)(&d->ref.hash, d->ref.kind, path);
	int r = lm_origin_start(d->fetch->origin, path, (enum lm_http_priority)atomic_load(&d->priority), false,
		&consumer, &d->request, &err);
	if (r == 0)
		return;
	download_unref(d); /* the request's reference; the table has its own */
	finish_later(d, r, &err);
}

/* A job: it may lie in the cache from before the machine ended uncleanly, and is read then, to be verified. */
static void recover_or_request(void *arg)
{
	struct download *d = arg;
	if (!found_in_cache(d, lm_cache_recover(d->fetch->cache, &d->ref)))
		start_request(d);
}

static void start(struct download *d)
{
	/* It may have arrived between the caller's look into the cache and the entry in the table. */
	if (found_in_cache(d, lm_cache_open(d->fetch->cache, &d->ref)))
		return;
	if (lm_cache_has_suspects(d->fetch->cache))
		post(d->fetch, recover_or_request, d);
	else
		start_request(d);
}

/* Waiting. */

/* fetch->lock held */
static void set_priority(struct download *d, enum lm_http_priority priority)
{
	if (atomic_exchange(&d->priority, priority) == (int)priority)
		return;
	LM_LOCKED(&d->lock);
	if (d->live)
		lm_origin_wake(d->request);
}

/* fetch->lock held. Nobody left: read-ahead. */
static void lower_priority(struct download *d)
{
	enum lm_http_priority most = LM_MAX(LM_HTTP_READ_AHEAD, (enum lm_http_priority)atomic_load(&d->priority));
	struct waiter *w;
	TAILQ_FOREACH(w, &d->waiters, entry)
	if (!w->left)
		most = LM_MIN(most, w->priority);
	set_priority(d, most);
}

static void sweep(void *arg);

/* fetch->lock held. Where memory is short, a later waiter tries again. */
static void post_sweep(struct lm_fetch *fetch)
{
	struct waiter *first = TAILQ_FIRST(&fetch->due);
	if (!first || fetch->sweep_posted)
		return;
	int64_t now_ms = lm_now_ms(), delay_ms = LM_MAX(first->due_ms - now_ms, (int64_t)0);
	fetch->sweep_ms = now_ms + delay_ms;
	fetch->sweep_posted = lm_http_call(lm_origin_http(fetch->origin), (unsigned)delay_ms, sweep, fetch) == 0;
}

static void give_up(void *arg)
{
	CLEANUP(lm_freep) struct waiter *w = arg;
	struct lm_err err = LM_ERR_INIT;
	lm_err_set(&err, -ETIMEDOUT, "waited too long; its download goes on");
	w->fn(w->arg, -ETIMEDOUT, -1, &err);
}

/* fetch->lock held */
static struct waiter *take_overdue(struct lm_fetch *fetch, int64_t now_ms)
{
	struct waiter *w = TAILQ_FIRST(&fetch->due);
	if (!w || w->due_ms > now_ms)
		return NULL;
	TAILQ_REMOVE(&fetch->due, w, due_entry);
	TAILQ_REMOVE(&w->download->waiters, w, entry);
	w->download->waiter_count--;
	lower_priority(w->download);
	fetch->stats.waiters--;
	fetch->stats.timeouts++;
	return w;
}

/* On the engine's thread, when the first of those who wait may have waited too long; before that, if the engine ends,
 * and with it all waiting. */
static void sweep(void *arg)
{
	struct lm_fetch *fetch = arg;
	struct waiters overdue = TAILQ_HEAD_INITIALIZER(overdue);
	int64_t now_ms = lm_now_ms();
	lm_lock_take(&fetch->lock);
	for (struct waiter *w; (w = take_overdue(fetch, now_ms));)
		TAILQ_INSERT_TAIL(&overdue, w, entry);
	fetch->sweep_posted = now_ms < fetch->sweep_ms;
	post_sweep(fetch);
	lm_lock_release(&fetch->lock);
	for (struct waiter *w, *next = TAILQ_FIRST(&overdue); (w = next);) {
		next = TAILQ_NEXT(w, entry);
		post(fetch, give_up, w);
	}
}

/* fetch->lock held */
static void add_waiter(struct download *d, struct waiter *w)
{
	struct lm_fetch *fetch = d->fetch;
	w->download = d;
	w->due_ms = lm_now_ms() + atomic_load(&fetch->timeout_ms);
	TAILQ_INSERT_TAIL(&d->waiters, w, entry);
	TAILQ_INSERT_TAIL(&fetch->due, w, due_entry);
	d->waiter_count++;
	fetch->stats.waiters++;
	post_sweep(fetch);
}

static int refuse(struct lm_fetch *fetch, const struct lm_object_ref *ref, struct lm_err *err)
{
	lm_lock_assert(&fetch->lock);
	const struct lm_failure *failure = lm_failures_find(&fetch->failures, ref, lm_now_ms());
	if (!failure)
		return 0;
	fetch->stats.refused++;
	if (err)
		*err = failure->err;
	return failure->code;
}

/* Puts the waiter, if there is one, on the object's download; *ret_new is set when that is fresh and has to be started.
 */
static int join(
	struct lm_fetch *fetch, struct download *fresh, struct waiter *waiter, bool *ret_new, struct lm_err *err)
{
	LM_LOCKED(&fetch->lock);
	int r = refuse(fetch, &fresh->ref, err);
	if (r < 0)
		return r;
	struct download **at = tsearch(fresh, &fetch->table, cmp_download);
	if (!at)
		return lm_err_oom(err);
	*ret_new = *at == fresh;
	if (*ret_new) {
		TAILQ_INSERT_TAIL(&fetch->downloads, fresh, entry);
		fetch->stats.downloads++;
		fetch->ahead_bytes += fresh->ahead_bytes;
	} else {
		fetch->stats.merged++;
	}
	if (waiter)
		add_waiter(*at, waiter);
	if (atomic_load(&fresh->priority) < atomic_load(&(*at)->priority))
		set_priority(*at, (enum lm_http_priority)atomic_load(&fresh->priority));
	return 0;
}

static int join_or_start(struct lm_fetch *fetch, struct download *d, struct waiter *waiter, struct lm_err *err)
{
	CLEANUP(download_unrefp) struct download *fresh = d;
	bool is_new = false;
	int r = join(fetch, fresh, waiter, &is_new, err);
	if (r == 0 && is_new)
		start(STEAL(fresh));
	return r;
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
	struct download *d = new_download(fetch, ref, priority);
	CLEANUP(lm_freep) struct waiter *waiter = fn ? malloc(sizeof(*waiter)) : NULL;
	if (!d || (fn && !waiter)) {
		download_unref(d);
		return lm_err_oom(err);
	}
	if (fn)
		*waiter = (struct waiter){.fn = fn, .arg = arg, .priority = priority};
	int r = join_or_start(fetch, d, waiter, err);
	if (r < 0)
		return r;
	(void)STEAL(waiter);
	return LM_FETCH_LATER;
}

static struct download *find_download(struct lm_fetch *fetch, const struct lm_object_ref *ref)
{
	lm_lock_assert(&fetch->lock);
	struct download **at = tfind(&(const struct download){.ref = *ref}, &fetch->table, cmp_download);
	return at ? *at : NULL;
}

void lm_fetch_leave(struct lm_fetch *fetch, const struct lm_object_ref *ref, const void *arg)
{
	LM_LOCKED(&fetch->lock);
	struct download *d = find_download(fetch, ref);
	struct waiter *w = NULL;
	if (d)
		TAILQ_FOREACH(w, &d->waiters, entry)
	if (w->arg == arg && !w->left)
		break;
	if (!w)
		return;
	w->left = true;
	fetch->stats.left++;
	lower_priority(d);
}

/* Reading ahead. */

static uint64_t ahead_key(const struct lm_object_ref *ref)
{
	uint64_t key;
	memcpy(&key, ref->hash.bytes, sizeof(key));
	return key | 1;
}

static _Atomic(uint64_t) *ahead_slot(struct lm_fetch *fetch, uint64_t key)
{
	return &fetch->ahead_keys[(key >> 1) % AHEAD_SLOTS];
}

static void note_ahead(struct lm_fetch *fetch, const struct lm_object_ref *ref)
{
	uint64_t key = ahead_key(ref);
	uint64_t before = atomic_exchange(ahead_slot(fetch, key), key);
	if (before && before != key)
		atomic_fetch_add(&fetch->ahead_wasted, 1);
	LM_LOCKED(&fetch->lock);
	fetch->stats.ahead++;
}

void lm_fetch_used(struct lm_fetch *fetch, const struct lm_object_ref *ref)
{
	uint64_t key = ahead_key(ref);
	_Atomic(uint64_t) *slot = ahead_slot(fetch, key);
	if (atomic_load_explicit(slot, memory_order_relaxed) == key && atomic_compare_exchange_strong(slot, &key, 0))
		atomic_fetch_add(&fetch->ahead_used, 1);
}

/* Whether it needs no order, or can't have one: 0, -EAGAIN; 1 for neither. */
static int look_ahead(struct lm_fetch *fetch, const struct lm_object_ref *ref)
{
	int fd = lm_cache_open(fetch->cache, ref);
	if (fd >= 0) {
		close(fd);
		return 0;
	}
	LM_LOCKED(&fetch->lock);
	if (find_download(fetch, ref))
		return 0;
	return fetch->ahead_bytes > 0 && fetch->ahead_bytes + ref->size > LM_FETCH_AHEAD_MAX ? -EAGAIN : 1;
}

int lm_fetch_ahead(struct lm_fetch *fetch, const struct lm_object_ref *ref)
{
	int r = look_ahead(fetch, ref);
	if (r <= 0)
		return r;
	struct download *d = new_download(fetch, ref, LM_HTTP_READ_AHEAD);
	if (!d)
		return -EAGAIN;
	d->ahead_bytes = ref->size;
	note_ahead(fetch, ref);
	return join_or_start(fetch, d, NULL, NULL) < 0 ? -EAGAIN : 0;
}

/* Later. */

struct later {
	struct lm_fetch *fetch;
	lm_work_fn *fn;
	void *arg;
};

/* On the engine's thread. */
static void time_has_come(void *arg)
{
	CLEANUP(lm_freep) struct later *later = arg;
	post(later->fetch, later->fn, later->arg);
}

int lm_fetch_later(struct lm_fetch *fetch, unsigned delay_ms, lm_work_fn *fn, void *arg)
{
	struct later *later = malloc(sizeof(*later));
	if (!later)
		return -ENOMEM;
	*later = (struct later){.fetch = fetch, .fn = fn, .arg = arg};
	int r = lm_http_call(lm_origin_http(fetch->origin), delay_ms, time_has_come, later);
	if (r < 0)
		free(later);
	return r;
}

/* Telling. */

void lm_fetch_stats(struct lm_fetch *fetch, struct lm_fetch_stats *ret)
{
	LM_LOCKED(&fetch->lock);
	*ret = fetch->stats;
	ret->ahead_used = atomic_load(&fetch->ahead_used);
	ret->ahead_wasted = atomic_load(&fetch->ahead_wasted);
	if (ret->last_failure.code < 0)
		ret->last_failure.ago_ms = lm_now_ms() - ret->last_failure.ago_ms;
}

static size_t copy_downloads(struct lm_fetch *fetch, struct lm_fetch_download *ret, size_t max)
{
	size_t count = 0;
	struct download *d;
	int64_t now_ms = lm_now_ms();
	LM_LOCKED(&fetch->lock);
	TAILQ_FOREACH(d, &fetch->downloads, entry)
	{
		if (count == max)
			break;
		ret[count++] = (struct lm_fetch_download){
			.ref = d->ref,
			.age_ms = now_ms - d->started_ms,
			.bytes = atomic_load(&d->bytes),
			.waiters = d->waiter_count,
			.priority = (enum lm_http_priority)atomic_load(&d->priority),
		};
	}
	return count;
}

int lm_fetch_describe(
	struct lm_fetch *fetch, void (*fn)(void *arg, const struct lm_fetch_download *download), void *arg)
{
	struct lm_fetch_stats stats;
	lm_fetch_stats(fetch, &stats);
	CLEANUP(lm_freep) struct lm_fetch_download *list = calloc(stats.downloads + 1U, sizeof(*list));
	if (!list)
		return -ENOMEM;
	size_t count = copy_downloads(fetch, list, stats.downloads);
	for (size_t i = 0; i < count; i++)
		fn(arg, &list[i]);
	return 0;
}

static int cmp_slower_first(const void *a, const void *b)
{
	const struct lm_fetch_slow *x = a, *y = b;
	return (x->took_ms < y->took_ms) - (x->took_ms > y->took_ms);
}

size_t lm_fetch_slowest(struct lm_fetch *fetch, struct lm_fetch_slow ret[LM_FETCH_SLOWEST])
{
	size_t count = 0;
	int64_t now_ms = lm_now_ms();
	lm_lock_take(&fetch->lock);
	for (size_t i = 0; i < LM_FETCH_SLOWEST; i++) {
		const struct lm_fetch_slow *slow = &fetch->slowest[i];
		if (slow->took_ms == 0 || now_ms - slow->ago_ms > LM_FETCH_LATELY_MS)
			continue;
		ret[count] = *slow;
		ret[count++].ago_ms = now_ms - slow->ago_ms;
	}
	lm_lock_release(&fetch->lock);
	qsort(ret, count, sizeof(*ret), cmp_slower_first);
	return count;
}
