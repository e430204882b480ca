#include "convert/store.h"

#include "base/lock.h"
#include "base/work.h"

#include <string.h>

enum { QUEUE_MAX = 1024, PACKED_MAX = 1 << 30 };

struct packer { /* one per thread of the pool */
	struct packer *next;
	struct lm_packer *packer;
	struct lm_buf out;
};

struct job {
	struct lm_store *store;
	enum lm_object_kind kind;
	struct lm_hash *ret_hash;
	struct lm_store_piece piece;
};

struct lm_store {
	/* constant after new */
	struct lm_storage *storage;
	struct lm_work *work;
	size_t in_flight_max;
	/* under lock */
	struct lm_lock lock;
	struct lm_cond less_in_flight;
	size_t in_flight;
	struct packer *idle;
	struct lm_store_stats stats;
	int code; /* of the first failure */
	struct lm_err err;
};

static struct job *job_of(struct lm_store_piece *piece)
{
	return (struct job *)((char *)piece - offsetof(struct job, piece));
}

static void packer_free(struct packer *packer)
{
	if (!packer)
		return;
	lm_packer_free(packer->packer);
	lm_buf_done(&packer->out);
	free(packer);
}
LM_DEFINE_CLEANUP(struct packer, packer_free, packer_freep)

static int add_packer(struct lm_store *store, enum lm_hash_algo algo, struct lm_err *err)
{
	CLEANUP(packer_freep) struct packer *packer = calloc(1, sizeof(*packer));
	if (!packer)
		return lm_err_oom(err);
	packer->out = LM_BUF(PACKED_MAX);
	int r = lm_packer_new(algo, &packer->packer, err);
	if (r < 0)
		return r;
	packer->next = store->idle;
	store->idle = STEAL(packer);
	return 0;
}

int lm_store_new(struct lm_storage *storage, enum lm_hash_algo algo, unsigned threads, size_t in_flight_max,
	struct lm_store **ret, struct lm_err *err)
{
	CLEANUP(lm_store_freep) struct lm_store *store = calloc(1, sizeof(*store));
	if (!store)
		return lm_err_oom(err);
	lm_lock_init(&store->lock);
	lm_cond_init(&store->less_in_flight);
	store->storage = storage;
	store->in_flight_max = in_flight_max;
	for (unsigned i = 0; i < threads; i++) {
		int r = add_packer(store, algo, err);
		if (r < 0)
			return r;
	}
	int r = lm_work_new("pack", threads, QUEUE_MAX, &store->work, err);
	if (r < 0)
		return r;
	*ret = STEAL(store);
	return 0;
}

void lm_store_free(struct lm_store *store)
{
	if (!store)
		return;
	lm_work_free(store->work);
	while (store->idle) {
		struct packer *packer = store->idle;
		store->idle = packer->next;
		packer_free(packer);
	}
	lm_cond_done(&store->less_in_flight);
	lm_lock_done(&store->lock);
	free(store);
}

/* lock held */
static int failure(const struct lm_store *store, struct lm_err *err)
{
	return store->code < 0 ? lm_err_set(err, store->code, "%s", lm_err_text(&store->err)) : 0;
}

int lm_store_piece(struct lm_store *store, size_t len, struct lm_store_piece **ret, struct lm_err *err)
{
	struct job *job = malloc(sizeof(*job) + len);
	if (!job)
		return lm_err_oom(err);
	*job = (struct job){.store = store, .piece.len = len};
	LM_LOCKED(&store->lock);
	while (store->in_flight > 0 && store->in_flight + len > store->in_flight_max && store->code == 0)
		lm_cond_wait(&store->less_in_flight, &store->lock);
	int r = failure(store, err);
	if (r < 0) {
		free(job);
		return r;
	}
	store->in_flight += len;
	*ret = &job->piece;
	return 0;
}

void lm_store_drop(struct lm_store *store, struct lm_store_piece *piece)
{
	if (!piece)
		return;
	lm_lock_take(&store->lock);
	store->in_flight -= piece->len;
	lm_cond_signal(&store->less_in_flight);
	lm_lock_release(&store->lock);
	free(job_of(piece));
}

/* *ret_stored: bytes of the new object, 0 where the storage had it. */
static int pack_and_store(struct packer *packer, const struct job *job, size_t *ret_stored, struct lm_err *err)
{
	struct lm_storage *storage = job->store->storage;
	lm_buf_clear(&packer->out);
	int r = lm_pack(
		packer->packer, LM_COMPRESSION_ZLIB, job->piece.data, job->piece.len, &packer->out, job->ret_hash, err);
	if (r < 0)
		return r;
	char path[LM_OBJECT_PATH_MAX];
	lm_object_path(job->ret_hash, job->kind, path);
	r = storage->ops->has(storage, path, err);
	if (r == 0) {
		r = storage->ops->put(storage, path, packer->out.data, packer->out.len, err);
		*ret_stored = packer->out.len;
	}
	return LM_MIN(r, 0);
}

/* NULL after a failure: nothing more needs packing. Else there is one for each thread. */
static struct packer *take_packer(struct lm_store *store)
{
	LM_LOCKED(&store->lock);
	if (store->code < 0)
		return NULL;
	struct packer *packer = store->idle;
	store->idle = packer->next;
	return packer;
}

static void give_packer(struct lm_store *store, struct packer *packer, int r, size_t stored, const struct lm_err *err)
{
	LM_LOCKED(&store->lock);
	packer->next = store->idle;
	store->idle = packer;
	if (r < 0 && store->code == 0) {
		store->code = r;
		store->err = *err;
	}
	store->stats.pieces++;
	store->stats.objects += stored > 0;
	store->stats.bytes += stored;
}

static void run_job(void *arg)
{
	struct job *job = arg;
	struct packer *packer = take_packer(job->store);
	if (packer) {
		struct lm_err err = LM_ERR_INIT;
		size_t stored = 0;
		int r = pack_and_store(packer, job, &stored, &err);
		give_packer(job->store, packer, r, stored, &err);
	}
	lm_store_drop(job->store, &job->piece);
}

void lm_store_put(
	struct lm_store *store, struct lm_store_piece *piece, enum lm_object_kind kind, struct lm_hash *ret_hash)
{
	struct job *job = job_of(piece);
	job->kind = kind;
	job->ret_hash = ret_hash;
	lm_work_submit(store->work, run_job, job);
}

int lm_store_wait(struct lm_store *store, struct lm_err *err)
{
	lm_work_drain(store->work);
	LM_LOCKED(&store->lock);
	return failure(store, err);
}

int lm_store_data(struct lm_store *store, const void *data, size_t len, struct lm_hash *ret, struct lm_err *err)
{
	struct lm_store_piece *piece = NULL;
	int r = lm_store_piece(store, len, &piece, err);
	if (r < 0)
		return r;
	memcpy(piece->data, data, len);
	lm_store_put(store, piece, LM_OBJECT_FILE, ret);
	return lm_store_wait(store, err);
}

void lm_store_stats(struct lm_store *store, struct lm_store_stats *ret)
{
	LM_LOCKED(&store->lock);
	*ret = store->stats;
}
