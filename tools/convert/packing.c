#include "convert/packing.h"

#include "base/lock.h"
#include "base/work.h"

#include <openssl/evp.h>
#include <string.h>

enum { QUEUE_MAX = 1024, PACKED_MAX = 1 << 30 };

struct packer { /* one per thread of the pool */
	struct packer *next;
	struct lm_packer *packer;
	struct lm_ledger_reader *reader; /* NULL: no ledger */
	struct lm_buf out;
	struct lm_stage_clock clock;
};

struct job {
	struct lm_packing *packing;
	enum lm_object_kind kind;
	struct lm_hash *ret_hash;
	struct lm_packing_piece piece;
};

struct lm_packing {
	/* constant after new */
	struct lm_storage *storage;
	struct lm_ledger *ledger; /* NULL: none */
	struct lm_work *work;
	size_t in_flight_max;
	/* under lock */
	struct lm_lock lock;
	struct lm_cond less_in_flight;
	size_t in_flight;
	struct packer *idle;
	struct lm_packing_stats stats;
	int code; /* of the first failure */
	struct lm_err err;
};

static struct job *job_of(struct lm_packing_piece *piece)
{
	return (struct job *)((char *)piece - offsetof(struct job, piece));
}

static void packer_free(struct packer *packer)
{
	if (!packer)
		return;
	lm_packer_free(packer->packer);
	lm_ledger_reader_free(packer->reader);
	lm_buf_done(&packer->out);
	free(packer);
}
LM_DEFINE_CLEANUP(struct packer, packer_free, packer_freep)

static int add_packer(struct lm_packing *packing, enum lm_hash_algo algo, struct lm_err *err)
{
	CLEANUP(packer_freep) struct packer *packer = calloc(1, sizeof(*packer));
	if (!packer)
		return lm_err_oom(err);
	packer->out = LM_BUF(PACKED_MAX);
	int r = lm_packer_new(algo, &packer->packer, err);
	if (r < 0)
		return r;
	packer->next = packing->idle;
	packing->idle = STEAL(packer);
	return 0;
}

int lm_packing_new(struct lm_storage *storage, enum lm_hash_algo algo, unsigned threads, size_t in_flight_max,
	struct lm_packing **ret, struct lm_err *err)
{
	CLEANUP(lm_packing_freep) struct lm_packing *packing = calloc(1, sizeof(*packing));
	if (!packing)
		return lm_err_oom(err);
	lm_lock_init(&packing->lock);
	lm_cond_init(&packing->less_in_flight);
	packing->storage = storage;
	packing->in_flight_max = in_flight_max;
	for (unsigned i = 0; i < threads; i++) {
		int r = add_packer(packing, algo, err);
		if (r < 0)
			return r;
	}
	int r = lm_work_new("pack", threads, QUEUE_MAX, &packing->work, err);
	if (r < 0)
		return r;
	*ret = STEAL(packing);
	return 0;
}

int lm_packing_use(struct lm_packing *packing, struct lm_ledger *ledger, struct lm_err *err)
{
	LM_LOCKED(&packing->lock);
	int r = 0;
	for (struct packer *packer = packing->idle; packer && r == 0; packer = packer->next)
		r = lm_ledger_reader_new(ledger, &packer->reader, err);
	if (r == 0)
		packing->ledger = ledger;
	return r;
}

void lm_packing_free(struct lm_packing *packing)
{
	if (!packing)
		return;
	lm_work_free(packing->work);
	while (packing->idle) {
		struct packer *packer = packing->idle;
		packing->idle = packer->next;
		packer_free(packer);
	}
	lm_cond_done(&packing->less_in_flight);
	lm_lock_done(&packing->lock);
	free(packing);
}

/* lock held */
static int failure(const struct lm_packing *packing, struct lm_err *err)
{
	return packing->code < 0 ? lm_err_set(err, packing->code, "%s", lm_err_text(&packing->err)) : 0;
}

int lm_packing_piece(struct lm_packing *packing, size_t len, struct lm_packing_piece **ret, struct lm_err *err)
{
	struct job *job = malloc(sizeof(*job) + len);
	if (!job)
		return lm_err_oom(err);
	*job = (struct job){.packing = packing, .piece.len = len};
	LM_LOCKED(&packing->lock);
	int64_t begin_ns = 0;
	while (packing->in_flight > 0 && packing->in_flight + len > packing->in_flight_max && packing->code == 0) {
		begin_ns = begin_ns ? begin_ns : lm_now_ns();
		lm_cond_wait(&packing->less_in_flight, &packing->lock);
	}
	packing->stats.times.ns[LM_STAGE_BLOCKED] += begin_ns ? lm_now_ns() - begin_ns : 0;
	int r = failure(packing, err);
	if (r < 0) {
		free(job);
		return r;
	}
	packing->in_flight += len;
	*ret = &job->piece;
	return 0;
}

void lm_packing_drop(struct lm_packing *packing, struct lm_packing_piece *piece)
{
	if (!piece)
		return;
	lm_lock_take(&packing->lock);
	packing->in_flight -= piece->len;
	lm_cond_signal(&packing->less_in_flight);
	lm_lock_release(&packing->lock);
	free(job_of(piece));
}

int lm_content_hash(const void *data, size_t len, struct lm_hash *ret, struct lm_err *err)
{
	uint8_t digest[EVP_MAX_MD_SIZE];
	if (EVP_Digest(data, len, digest, NULL, EVP_sha256(), NULL) != 1)
		return lm_err_oom(err);
	*ret = (struct lm_hash){.set = true};
	memcpy(ret->bytes, digest, sizeof(ret->bytes));
	return 0;
}

struct outcome {       /* of one piece */
	size_t stored; /* bytes of the new object, 0 where the storage had it */
	bool spared;   /* it needed no packing */
};

static int pack_and_store(struct packer *packer, const struct job *job, struct outcome *ret, struct lm_err *err)
{
	struct lm_storage *storage = job->packing->storage;
	lm_buf_clear(&packer->out);
	lm_stage_enter(&packer->clock, LM_STAGE_COMPRESS);
	int r = lm_pack(
		packer->packer, LM_COMPRESSION_ZLIB, job->piece.data, job->piece.len, &packer->out, job->ret_hash, err);
	if (r < 0)
		return r;
	lm_stage_enter(&packer->clock, LM_STAGE_STORE);
	char path[LM_OBJECT_PATH_MAX];
	lm_object_path(job->ret_hash, job->kind, path);
	r = storage->ops->has(storage, path, err);
	if (r == 0) {
		r = storage->ops->put(storage, path, packer->out.data, packer->out.len, err);
		ret->stored = packer->out.len;
	}
	return LM_MIN(r, 0);
}

static int store_piece(struct packer *packer, const struct job *job, struct outcome *ret, struct lm_err *err)
{
	struct lm_ledger *ledger = job->packing->ledger;
	struct lm_content content;
	uint64_t packed;
	if (!job->packing->storage)
		return lm_content_hash(job->piece.data, job->piece.len, job->ret_hash, err);
	if (!ledger)
		return pack_and_store(packer, job, ret, err);
	lm_stage_enter(&packer->clock, LM_STAGE_STORE);
	int r = lm_content_of(job->piece.data, job->piece.len, &content, err);
	if (r < 0)
		return r;
	ret->spared = lm_ledger_find(packer->reader, &content, job->kind, job->ret_hash, &packed);
	if (ret->spared)
		return 0;
	r = pack_and_store(packer, job, ret, err);
	if (r == 0)
		lm_ledger_add(ledger, &content, job->kind, job->ret_hash, packer->out.len);
	return r;
}

/* NULL after a failure: nothing more needs packing. Else there is one for each thread. */
static struct packer *take_packer(struct lm_packing *packing)
{
	LM_LOCKED(&packing->lock);
	if (packing->code < 0)
		return NULL;
	struct packer *packer = packing->idle;
	packing->idle = packer->next;
	return packer;
}

static void give_packer(struct lm_packing *packing, struct packer *packer, int r, size_t len,
	const struct outcome *outcome, const struct lm_err *err)
{
	lm_stage_enter(&packer->clock, LM_STAGE_IDLE);
	LM_LOCKED(&packing->lock);
	packer->next = packing->idle;
	packing->idle = packer;
	if (r < 0 && packing->code == 0) {
		packing->code = r;
		packing->err = *err;
	}
	packing->stats.pieces++;
	packing->stats.objects += outcome->stored > 0;
	packing->stats.bytes += outcome->stored;
	packing->stats.content_bytes += len;
	packing->stats.known_bytes += outcome->stored > 0 ? 0 : len;
	packing->stats.spared_bytes += outcome->spared ? len : 0;
	lm_stage_empty(&packer->clock, &packing->stats.times);
}

static void run_job(void *arg)
{
	struct job *job = arg;
	struct packer *packer = take_packer(job->packing);
	if (packer) {
		struct lm_err err = LM_ERR_INIT;
		struct outcome outcome = {0};
		int r = store_piece(packer, job, &outcome, &err);
		give_packer(job->packing, packer, r, job->piece.len, &outcome, &err);
	}
	lm_packing_drop(job->packing, &job->piece);
}

void lm_packing_put(
	struct lm_packing *packing, struct lm_packing_piece *piece, enum lm_object_kind kind, struct lm_hash *ret_hash)
{
	struct job *job = job_of(piece);
	job->kind = kind;
	job->ret_hash = ret_hash;
	lm_work_submit(packing->work, run_job, job);
}

void lm_packing_cancel(struct lm_packing *packing, int code, const char *why)
{
	LM_LOCKED(&packing->lock);
	if (packing->code == 0)
		packing->code = lm_err_set(&packing->err, code, "%s", why);
	lm_cond_broadcast(&packing->less_in_flight);
}

int lm_packing_wait(struct lm_packing *packing, struct lm_err *err)
{
	int64_t begin_ns = lm_now_ns();
	lm_work_drain(packing->work);
	LM_LOCKED(&packing->lock);
	packing->stats.times.ns[LM_STAGE_BLOCKED] += lm_now_ns() - begin_ns;
	return failure(packing, err);
}

int lm_packing_data(struct lm_packing *packing, const void *data, size_t len, struct lm_hash *ret, struct lm_err *err)
{
	struct lm_packing_piece *piece = NULL;
	int r = lm_packing_piece(packing, len, &piece, err);
	if (r < 0)
		return r;
	memcpy(piece->data, data, len);
	lm_packing_put(packing, piece, LM_OBJECT_FILE, ret);
	return lm_packing_wait(packing, err);
}

void lm_packing_stats(struct lm_packing *packing, struct lm_packing_stats *ret)
{
	LM_LOCKED(&packing->lock);
	*ret = packing->stats;
}
