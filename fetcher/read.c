#include "fetcher/read.h"

#include "base/lock.h"

#include <fcntl.h>
#include <string.h>

enum {
	STREAMS = 256,		 /* files whose last read is remembered, to tell sequential reading */
	STREAM_WINDOW = 1 << 20, /* reads of one stream may overtake each other by that much */
};

struct stream { /* a hint, not a truth: the two fields may be of different files */
	_Atomic(uint64_t) ino, end;
};

struct lm_reader {
	struct lm_tree *tree; /* constant after new */
	struct lm_fetch *fetch;
	struct lm_cache *cache;
	struct stream streams[STREAMS];
};

int lm_reader_new(struct lm_tree *tree, struct lm_fetch *fetch, struct lm_cache *cache, struct lm_reader **ret,
	struct lm_err *err)
{
	struct lm_reader *reader = calloc(1, sizeof(*reader));
	if (!reader)
		return lm_err_oom(err);
	reader->tree = tree;
	reader->fetch = fetch;
	reader->cache = cache;
	*ret = reader;
	return 0;
}

void lm_reader_free(struct lm_reader *reader)
{
	free(reader);
}

struct reading {
	struct lm_op op;
	struct lm_read_plan plan;
	int *fds; /* of each piece; -1: not there yet */
	_Atomic(size_t) missing;
	_Atomic(bool) answered;

	struct lm_lock lock;
	int code; /* under lock: of the first failure */
	size_t failed_piece;
	struct lm_err err;
};

struct awaited { /* one missing piece of a reading */
	struct reading *reading;
	size_t index;
};

static void reading_free(struct reading *reading)
{
	if (!reading)
		return;
	for (size_t i = 0; i < reading->plan.count && reading->fds; i++)
		lm_closep(&reading->fds[i]);
	free(reading->fds);
	lm_read_plan_done(&reading->plan);
	lm_lock_done(&reading->lock);
	free(reading);
}
LM_DEFINE_CLEANUP(struct reading, reading_free, reading_freep)

static struct reading *reading_new(const struct lm_op *op, struct lm_read_plan *plan)
{
	CLEANUP(reading_freep) struct reading *reading = calloc(1, sizeof(*reading));
	if (!reading)
		return NULL;
	lm_lock_init(&reading->lock);
	reading->op = *op;
	reading->fds = malloc(LM_MAX(plan->count, 1U) * sizeof(*reading->fds));
	if (!reading->fds)
		return NULL;
	reading->plan = *plan;
	*plan = (struct lm_read_plan){0};
	for (size_t i = 0; i < reading->plan.count; i++)
		reading->fds[i] = -1;
	return STEAL(reading);
}

/* All pieces are open: the kernel takes the bytes straight from the cache's files. */
static void reply_pieces(struct reading *reading)
{
	size_t count = reading->plan.count;
	CLEANUP(lm_freep)
	struct fuse_bufvec *vec = calloc(1, sizeof(*vec) + LM_MAX(count, 1U) * sizeof(struct fuse_buf));
	if (!vec) {
		lm_op_fail(&reading->op, -ENOMEM, NULL);
		return;
	}
	vec->count = count;
	for (size_t i = 0; i < count; i++)
		vec->buf[i] = (struct fuse_buf){
			.flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK,
			.fd = reading->fds[i],
			.pos = (off_t)reading->plan.pieces[i].offset,
			.size = reading->plan.pieces[i].len,
		};
	fuse_reply_data(reading->op.req, vec, 0);
}

/* One piece less is missing; with the last one the request is answered. */
static void piece_done(struct reading *reading)
{
	if (atomic_fetch_sub(&reading->missing, 1) != 1)
		return;
	CLEANUP(reading_freep) struct reading *owned = reading;
	if (!lm_op_claim(owned->op.req, &owned->answered))
		return;
	if (owned->code < 0)
		lm_op_fail_object(&owned->op, &owned->plan.pieces[owned->failed_piece].ref, owned->code, &owned->err);
	else
		reply_pieces(owned);
}

static void piece_failed(struct reading *reading, size_t index, int code, const struct lm_err *err)
{
	LM_LOCKED(&reading->lock);
	if (reading->code < 0)
		return;
	reading->code = code;
	reading->failed_piece = index;
	if (err)
		reading->err = *err;
}

static void on_piece(void *arg, int code, int fd, const struct lm_err *err)
{
	CLEANUP(lm_freep) struct awaited *awaited = arg;
	struct reading *reading = awaited->reading;
	if (code == 0) {
		int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		reading->fds[awaited->index] = copy;
		if (copy < 0)
			piece_failed(reading, awaited->index, -errno, NULL);
	} else {
		piece_failed(reading, awaited->index, code, err);
	}
	piece_done(reading);
}

static void order_piece(struct reading *reading, size_t index)
{
	struct lm_err err = LM_ERR_INIT;
	int r = -ENOMEM;
	struct awaited *awaited = malloc(sizeof(*awaited));
	if (awaited) {
		*awaited = (struct awaited){.reading = reading, .index = index};
		r = lm_fetch_object(reading->op.reader->fetch, &reading->plan.pieces[index].ref, LM_HTTP_BLOCKED_READ,
			on_piece, awaited, &reading->fds[index], &err);
	}
	if (r == LM_FETCH_LATER)
		return;
	free(awaited);
	if (r < 0)
		piece_failed(reading, index, r, &err);
	piece_done(reading);
}

/* Orders what is missing, all at once. The reading is not the caller's any more. */
static void order_pieces(struct reading *reading, size_t missing)
{
	size_t count = reading->plan.count;
	/* One more than there are pieces, so that none of them is the last while others are still being ordered. */
	atomic_store(&reading->missing, missing + 1);
	lm_op_offer_interrupt(reading->op.req, &reading->answered);
	for (size_t i = 0; i < count && missing > 0; i++)
		if (reading->fds[i] < 0) {
			missing--;
			order_piece(reading, i);
		}
	piece_done(reading);
}

/* Whether this read goes on where an earlier one of the same file ended. */
static bool is_sequential(struct lm_reader *reader, fuse_ino_t ino, uint64_t offset, size_t size)
{
	struct stream *stream = &reader->streams[(ino * 0x9e3779b97f4a7c15ULL >> 32) % STREAMS];
	uint64_t end = atomic_load_explicit(&stream->end, memory_order_relaxed);
	bool same = atomic_exchange_explicit(&stream->ino, ino, memory_order_relaxed) == ino;
	atomic_store_explicit(&stream->end, offset + size, memory_order_relaxed);
	return same && offset > 0 && offset + STREAM_WINDOW >= end && offset <= end + STREAM_WINDOW;
}

int lm_read_run(struct lm_op *op, struct lm_object_ref *ret_need, struct lm_err *err)
{
	struct lm_reader *reader = op->reader;
	uint64_t offset = (uint64_t)op->offset;
	CLEANUP(lm_read_plan_done) struct lm_read_plan plan = {0};
	bool ahead = is_sequential(reader, op->ino, offset, op->size);
	int r = lm_tree_read_plan(reader->tree, op->ino, offset, op->size, ahead, &plan, ret_need, err);
	if (r != 0)
		return r;
	CLEANUP(reading_freep) struct reading *reading = reading_new(op, &plan);
	if (!reading)
		return lm_err_oom(err);
	size_t missing = 0, ahead_count = reading->plan.ahead_count;
	struct lm_object_ref follow[LM_READ_AHEAD_MAX];
	memcpy(follow, reading->plan.ahead, sizeof(follow));
	for (size_t i = 0; i < reading->plan.count; i++) {
		reading->fds[i] = lm_cache_open(reader->cache, &reading->plan.pieces[i].ref);
		missing += reading->fds[i] < 0;
	}
	if (missing)
		order_pieces(STEAL(reading), missing);
	else
		reply_pieces(reading);
	for (size_t i = 0; i < ahead_count; i++)
		(void)!lm_fetch_object(reader->fetch, &follow[i], LM_HTTP_READ_AHEAD, NULL, NULL, NULL, NULL);
	return 0;
}
