#include "fetcher/read.h"

#include "base/clock.h"
#include "base/lock.h"
#include "fetcher/readahead.h"
#include "fetcher/session.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

enum {
	KNOWN = 256,	    /* files whose last piece is remembered */
	AHEAD_AT_ONCE = 64, /* chunks that one read orders ahead */
	VEC_ON_STACK = 8,
	SETTLED_S = 60, /* after which the kernel has written what is new, by its defaults */
};

/* Where the last read of a file found its bytes: most reads go on there, and need no catalog. */
struct known {
	struct lm_lock lock;
	uint64_t node; /* under lock, as is the rest; 0: none */
	uint64_t from; /* of the object's first byte in the file */
	struct lm_object_ref ref;
};

struct lm_reader {
	struct lm_tree *tree; /* constant after new */
	struct lm_fetch *fetch;
	struct lm_cache *cache;
	struct lm_streams *streams;
	struct known known[KNOWN];
};

struct reading;
struct awaited { /* one piece */
	struct reading *reading;
	struct lm_piece piece;
	int fd; /* -1: not there yet */
};

/* A read whose pieces are known. */
struct reading {
	struct lm_op op;
	struct lm_wait wait;
	_Atomic(size_t) missing;

	struct lm_lock lock;
	int code; /* under lock: of the first failure */
	size_t failed_piece;
	struct lm_err err;

	size_t count;
	struct awaited pieces[];
};

int lm_reader_new(struct lm_tree *tree, struct lm_fetch *fetch, struct lm_cache *cache, struct lm_reader **ret,
	struct lm_err *err)
{
	CLEANUP(lm_reader_freep) struct lm_reader *reader = calloc(1, sizeof(*reader));
	if (!reader)
		return lm_err_oom(err);
	for (size_t i = 0; i < KNOWN; i++)
		lm_lock_init(&reader->known[i].lock);
	reader->tree = tree;
	reader->fetch = fetch;
	reader->cache = cache;
	int r = lm_streams_new(&reader->streams, err);
	if (r < 0)
		return r;
	*ret = STEAL(reader);
	return 0;
}

void lm_reader_free(struct lm_reader *reader)
{
	if (!reader)
		return;
	for (size_t i = 0; i < KNOWN; i++)
		lm_lock_done(&reader->known[i].lock);
	lm_streams_free(reader->streams);
	free(reader);
}

static void reading_free(struct reading *reading)
{
	if (!reading)
		return;
	for (size_t i = 0; i < reading->count; i++)
		lm_closep(&reading->pieces[i].fd);
	lm_lock_done(&reading->lock);
	free(reading);
}
LM_DEFINE_CLEANUP(struct reading, reading_free, reading_freep)

static void leave(void *arg)
{
	struct reading *reading = arg;
	for (size_t i = 0; i < reading->count; i++)
		lm_fetch_leave(reading->op.reader->fetch, &reading->pieces[i].piece.ref, &reading->pieces[i]);
}

static struct reading *reading_new(const struct lm_op *op, const struct lm_piece *pieces, size_t count)
{
	struct reading *reading = calloc(1, sizeof(*reading) + count * sizeof(reading->pieces[0]));
	if (!reading)
		return NULL;
	lm_lock_init(&reading->lock);
	reading->op = *op;
	reading->wait = (struct lm_wait){.leave = leave, .arg = reading};
	reading->count = count;
	for (size_t i = 0; i < count; i++)
		reading->pieces[i] = (struct awaited){.reading = reading, .piece = pieces[i], .fd = -1};
	return reading;
}

/* Whether the kernel has surely written the file to the disk. */
static bool is_settled(int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 && st.st_mtim.tv_sec + SETTLED_S < lm_wall_s();
}

/*
 * The mount's own pages hold these bytes now, so those of the cache's files are only in the way. Dirty ones are left
 * alone: they can't be dropped, and the kernel would wait for all processors to find that out.
 */
static void drop_pages(const struct reading *reading)
{
	for (size_t i = 0; i < reading->count; i++) {
		const struct awaited *piece = &reading->pieces[i];
		if (is_settled(piece->fd))
			(void)posix_fadvise(
				piece->fd, (off_t)piece->piece.offset, (off_t)piece->piece.len, POSIX_FADV_DONTNEED);
	}
}

static bool is_readable(const struct awaited *piece)
{
	uint8_t data[16 << 10];
	ssize_t n = 1;
	for (size_t at = 0; at < piece->piece.len && n > 0; at += (size_t)n)
		n = pread(piece->fd, data, LM_MIN(sizeof(data), piece->piece.len - at),
			(off_t)(piece->piece.offset + at));
	return n > 0 || (n < 0 && errno != EIO);
}

/*
 * The disk does not give back what it took: such objects go, and are fetched when they are next asked for. That is at
 * once, as a rule: the kernel repeats a page's read by itself where it was part of its read-ahead.
 */
static void drop_unreadable(void *arg)
{
	const struct reading *reading = arg;
	for (size_t i = 0; i < reading->count; i++)
		if (!is_readable(&reading->pieces[i]))
			lm_cache_drop(reading->op.reader->cache, &reading->pieces[i].piece.ref);
}

/* All pieces are open: the kernel takes the bytes straight from the cache's files. */
static void reply_pieces(struct reading *reading)
{
	struct {
		struct fuse_bufvec vec; /* with one buffer */
		struct fuse_buf more[VEC_ON_STACK - 1];
	} on_stack;
	CLEANUP(lm_freep) struct fuse_bufvec *on_heap = NULL;
	struct fuse_bufvec *vec = &on_stack.vec;
	if (reading->count > VEC_ON_STACK)
		vec = on_heap = malloc(sizeof(*vec) + reading->count * sizeof(vec->buf[0]));
	if (!vec) {
		lm_op_fail(&reading->op, -ENOMEM, NULL);
		return;
	}
	*vec = (struct fuse_bufvec){.count = reading->count};
	for (size_t i = 0; i < reading->count; i++)
		vec->buf[i] = (struct fuse_buf){
			.flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK,
			.fd = reading->pieces[i].fd,
			.pos = (off_t)reading->pieces[i].piece.offset,
			.size = reading->pieces[i].piece.len,
		};
	lm_op_done(&reading->op);
	lm_session_reply_data(reading->op.req, reading->op.request, vec, drop_unreadable, reading);
	drop_pages(reading);
}

/* One piece less is missing; with the last one the request is answered. */
static void piece_done(struct reading *reading)
{
	if (atomic_fetch_sub(&reading->missing, 1) != 1)
		return;
	CLEANUP(reading_freep) struct reading *owned = reading;
	if (!lm_op_claim(owned->op.req, &owned->wait))
		return;
	if (owned->code < 0)
		lm_op_fail_object(&owned->op, &owned->pieces[owned->failed_piece].piece.ref, owned->code, &owned->err);
	else
		reply_pieces(owned);
}

static void piece_failed(struct awaited *piece, int code, const struct lm_err *err)
{
	struct reading *reading = piece->reading;
	LM_LOCKED(&reading->lock);
	if (reading->code < 0)
		return;
	reading->code = code;
	reading->failed_piece = (size_t)(piece - reading->pieces);
	if (err)
		reading->err = *err;
}

static void on_piece(void *arg, int code, int fd, const struct lm_err *err)
{
	struct awaited *piece = arg;
	if (code == 0) {
		piece->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (piece->fd < 0)
			piece_failed(piece, -errno, NULL);
	} else {
		piece_failed(piece, code, err);
	}
	piece_done(piece->reading);
}

static void order_piece(struct awaited *piece)
{
	struct lm_err err = LM_ERR_INIT;
	struct reading *reading = piece->reading;
	int fd = -1;
	int r = lm_fetch_object(
		reading->op.reader->fetch, &piece->piece.ref, LM_HTTP_BLOCKED_READ, on_piece, piece, &fd, &err);
	if (r == LM_FETCH_LATER)
		return;
	piece->fd = fd;
	if (r < 0)
		piece_failed(piece, r, &err);
	piece_done(reading);
}

/* Orders what is missing, all at once. The reading is not the caller's any more. */
static void order_pieces(struct reading *reading, size_t missing)
{
	/* One more than there are pieces, so that none of them is the last while others are still being ordered. */
	atomic_store(&reading->missing, missing + 1);
	lm_op_offer_interrupt(reading->op.req, &reading->wait);
	if (atomic_load(&reading->wait.answered)) { /* it was interrupted before it came here */
		reading_free(reading);
		return;
	}
	for (size_t i = 0; missing > 0; i++)
		if (reading->pieces[i].fd < 0) {
			missing--;
			order_piece(&reading->pieces[i]);
		}
	piece_done(reading);
}

static int answer(struct lm_op *op, const struct lm_piece *pieces, size_t count, struct lm_err *err)
{
	struct lm_reader *reader = op->reader;
	size_t missing = 0;
	CLEANUP(reading_freep) struct reading *reading = reading_new(op, pieces, count);
	if (!reading)
		return lm_err_oom(err);
	for (size_t i = 0; i < count; i++) {
		lm_fetch_used(reader->fetch, &pieces[i].ref);
		int fd = lm_cache_open(reader->cache, &pieces[i].ref);
		if (fd == -EMFILE || fd == -ENFILE)
			return lm_err_sys(err, fd, "open a cached object");
		reading->pieces[i].fd = fd;
		missing += fd < 0;
	}
	if (missing)
		order_pieces(STEAL(reading), missing);
	else
		reply_pieces(reading);
	return 0;
}

static struct known *known_of(struct lm_reader *reader, uint64_t node)
{
	return &reader->known[node * 0x9e3779b97f4a7c15ULL >> 56];
}

static bool look_up_known(struct lm_reader *reader, uint64_t node, uint64_t offset, size_t len, struct lm_piece *ret)
{
	struct known *known = known_of(reader, node);
	LM_LOCKED(&known->lock);
	if (known->node != node || offset < known->from || offset + len > known->from + known->ref.size)
		return false;
	*ret = (struct lm_piece){.ref = known->ref, .offset = offset - known->from, .len = len};
	return true;
}

/* Of a plan from offset on, the last piece. */
static void remember(struct lm_reader *reader, uint64_t node, uint64_t offset, const struct lm_read_plan *plan)
{
	struct known *known = known_of(reader, node);
	if (plan->count == 0)
		return;
	for (size_t i = 0; i + 1 < plan->count; i++)
		offset += plan->pieces[i].len;
	const struct lm_piece *last = &plan->pieces[plan->count - 1];
	LM_LOCKED(&known->lock);
	known->node = node;
	known->from = offset - last->offset;
	known->ref = last->ref;
}

/* Orders what the stream is going to want. Nobody waits, so nothing of it fails. */
static void read_ahead(struct lm_reader *reader, uint64_t node, uint64_t offset, size_t len)
{
	struct lm_span span;
	struct lm_object_ref chunks[AHEAD_AT_ONCE], need;
	size_t count = 0;
	uint64_t stop = 0;
	lm_streams_read(reader->streams, node, offset, len, &span);
	if (span.from >= span.to || lm_tree_chunks(reader->tree, node, span.from, span.to, chunks, ARRAY_LEN(chunks),
					    &count, &stop, &need, NULL))
		return;
	if (stop > 0)
		lm_streams_stop(reader->streams, node, offset, stop);
	for (size_t i = 0; i < count; i++)
		if (lm_fetch_ahead(reader->fetch, &chunks[i]) < 0)
			return;
}

int lm_read_run(struct lm_op *op, struct lm_object_ref *ret_need, struct lm_err *err)
{
	struct lm_reader *reader = op->reader;
	uint64_t node = op->ino, offset = (uint64_t)op->offset;
	struct lm_piece piece;
	CLEANUP(lm_read_plan_done) struct lm_read_plan plan = {0};
	int r;
	if (look_up_known(reader, node, offset, op->size, &piece)) {
		r = answer(op, &piece, 1, err);
	} else {
		r = lm_tree_read_plan(reader->tree, node, offset, op->size, &plan, ret_need, err);
		if (r != 0)
			return r;
		remember(reader, node, offset, &plan);
		r = answer(op, plan.pieces, plan.count, err);
	}
	if (r == 0)
		read_ahead(reader, node, offset, op->size);
	return r;
}
