#include "convert/inflate.h"

#include "base/lock.h"
#include "base/str.h"

#include <openssl/evp.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

enum { SLOTS = 16, SLOT_BYTES = 256 << 10, INPUT_BYTES = 256 << 10 };

struct lm_inflate {
	/* constant after start */
	lm_inflate_read_fn *read;
	void *arg;
	pthread_t thread;
	bool running;

	/* the inflater's thread; the results also the reader's, after the end */
	uint8_t *input;
	size_t input_at, input_len;
	uint8_t *output; /* the slot being filled */
	size_t output_len;
	EVP_MD_CTX *sha256;
	uint64_t size;
	struct lm_stage_clock clock;
	char digest[LM_DIGEST_MAX];

	_Atomic(uint64_t) consumed;

	/* a ring of filled slots, under lock */
	struct lm_lock lock;
	struct lm_cond not_empty, not_full;
	uint8_t *slots[SLOTS];
	size_t lens[SLOTS];
	unsigned head, count; /* the first filled one, which the reader may be looking at */
	bool ended, stopping;
	int code;
	struct lm_err err;

	/* reader only */
	bool looking; /* at slot head */
};

/* --- the ring --- */

static int wait_for_slot(struct lm_inflate *flow)
{
	LM_LOCKED(&flow->lock);
	lm_stage_enter(&flow->clock, LM_STAGE_IDLE);
	while (flow->count == SLOTS && !flow->stopping)
		lm_cond_wait(&flow->not_full, &flow->lock);
	lm_stage_enter(&flow->clock, LM_STAGE_INFLATE);
	flow->output = flow->slots[(flow->head + flow->count) % SLOTS];
	flow->output_len = 0;
	return flow->stopping ? -ECANCELED : 0;
}

/* Hands the slot to the reader. */
static void push_slot(struct lm_inflate *flow)
{
	if (flow->output_len == 0)
		return;
	EVP_DigestUpdate(flow->sha256, flow->output, flow->output_len);
	flow->size += flow->output_len;
	LM_LOCKED(&flow->lock);
	flow->lens[(flow->head + flow->count) % SLOTS] = flow->output_len;
	flow->count++;
	lm_cond_signal(&flow->not_empty);
}

/* Room for output in the current slot or the next one. */
static int need_output(struct lm_inflate *flow)
{
	if (flow->output_len < SLOT_BYTES)
		return 0;
	push_slot(flow);
	return wait_for_slot(flow);
}

static ssize_t read_input(struct lm_inflate *flow, size_t at, struct lm_err *err)
{
	lm_stage_enter(&flow->clock, LM_STAGE_FETCH);
	ssize_t n = flow->read(flow->arg, flow->input + at, INPUT_BYTES - at, err);
	lm_stage_enter(&flow->clock, LM_STAGE_INFLATE);
	if (n > 0)
		atomic_fetch_add(&flow->consumed, (uint64_t)n);
	return n;
}

/* 1: input is there; 0: the compressed stream is over. */
static int need_input(struct lm_inflate *flow, struct lm_err *err)
{
	if (flow->input_at < flow->input_len)
		return 1;
	ssize_t n = read_input(flow, 0, err);
	if (n < 0)
		return (int)n;
	flow->input_at = 0;
	flow->input_len = (size_t)n;
	return n > 0;
}

/* --- formats --- */

static int copy_plain(struct lm_inflate *flow, struct lm_err *err)
{
	for (;;) {
		int r = need_input(flow, err);
		if (r <= 0)
			return r;
		r = need_output(flow);
		if (r < 0)
			return r;
		size_t n = LM_MIN(flow->input_len - flow->input_at, SLOT_BYTES - flow->output_len);
		memcpy(flow->output + flow->output_len, flow->input + flow->input_at, n);
		flow->input_at += n;
		flow->output_len += n;
	}
}

static void inflate_endp(z_stream **z)
{
	inflateEnd(*z);
}

static int inflate_gzip(struct lm_inflate *flow, struct lm_err *err)
{
	z_stream stream = {0};
	if (inflateInit2(&stream, 15 + 16) != Z_OK)
		return lm_err_oom(err);
	CLEANUP(inflate_endp) z_stream *z = &stream;
	for (bool between = true;;) {
		int r = need_input(flow, err);
		if (r == 0 && !between)
			return lm_err_set(err, -EPROTO, "gzip stream is cut short");
		if (r <= 0)
			return r;
		r = need_output(flow);
		if (r < 0)
			return r;
		z->next_in = flow->input + flow->input_at;
		z->avail_in = (unsigned)(flow->input_len - flow->input_at);
		z->next_out = flow->output + flow->output_len;
		z->avail_out = (unsigned)(SLOT_BYTES - flow->output_len);
		int zr = inflate(z, Z_NO_FLUSH);
		flow->input_at = flow->input_len - z->avail_in;
		flow->output_len = SLOT_BYTES - z->avail_out;
		between = zr == Z_STREAM_END;
		if (between)
			inflateReset(z);
		else if (zr != Z_OK && zr != Z_BUF_ERROR)
			return lm_err_set(err, -EPROTO, "gzip stream: %s", z->msg ? z->msg : "malformed");
	}
}

static void zstd_freep(ZSTD_DStream **z)
{
	ZSTD_freeDStream(*z);
}

static int inflate_zstd(struct lm_inflate *flow, struct lm_err *err)
{
	CLEANUP(zstd_freep) ZSTD_DStream *z = ZSTD_createDStream();
	if (!z)
		return lm_err_oom(err);
	size_t expected = 0; /* 0: between frames */
	for (bool flushing = false;;) {
		/* A full slot may mean that the decoder holds more output: ask it before asking for input. */
		int r = flushing ? 1 : need_input(flow, err);
		if (r == 0 && expected > 0)
			return lm_err_set(err, -EPROTO, "zstd stream is cut short");
		if (r <= 0)
			return r;
		r = need_output(flow);
		if (r < 0)
			return r;
		ZSTD_inBuffer in = {flow->input, flow->input_len, flow->input_at};
		ZSTD_outBuffer out = {flow->output, SLOT_BYTES, flow->output_len};
		expected = ZSTD_decompressStream(z, &out, &in);
		if (ZSTD_isError(expected))
			return lm_err_set(err, -EPROTO, "zstd stream: %s", ZSTD_getErrorName(expected));
		flow->input_at = in.pos;
		flow->output_len = out.pos;
		flushing = expected > 0 && out.pos == out.size;
	}
}

static bool is_gzip(const uint8_t *magic, size_t len)
{
	return len >= 3 && memcmp(magic, "\x1f\x8b\x08", 3) == 0;
}

/* A frame, or one that is to be skipped. */
static bool is_zstd(const uint8_t *magic, size_t len)
{
	return len >= 4 && (memcmp(magic, "\x28\xb5\x2f\xfd", 4) == 0 ||
				   ((magic[0] & 0xf0) == 0x50 && memcmp(magic + 1, "\x2a\x4d\x18", 3) == 0));
}

/* The first bytes decide; short reads are put together until there are enough of them. */
static int inflate_any(struct lm_inflate *flow, struct lm_err *err)
{
	while (flow->input_len < 4) {
		ssize_t n = read_input(flow, flow->input_len, err);
		if (n < 0)
			return (int)n;
		if (n == 0)
			break;
		flow->input_len += (size_t)n;
	}
	int r = wait_for_slot(flow);
	if (r < 0)
		return r;
	if (is_gzip(flow->input, flow->input_len))
		return inflate_gzip(flow, err);
	return is_zstd(flow->input, flow->input_len) ? inflate_zstd(flow, err) : copy_plain(flow, err);
}

static void finish_digest(struct lm_inflate *flow)
{
	uint8_t bytes[EVP_MAX_MD_SIZE];
	unsigned len = 0;
	EVP_DigestFinal_ex(flow->sha256, bytes, &len);
	memcpy(flow->digest, "sha256:", 7);
	lm_hex_format(bytes, len, flow->digest + 7);
}

static void *thread_main(void *arg)
{
	struct lm_inflate *flow = arg;
	pthread_setname_np(pthread_self(), "inflate");
	struct lm_err err = LM_ERR_INIT;
	int r = inflate_any(flow, &err);
	if (r == 0) {
		push_slot(flow);
		finish_digest(flow);
	}
	lm_stage_enter(&flow->clock, LM_STAGE_IDLE);
	LM_LOCKED(&flow->lock);
	flow->ended = true;
	flow->code = r;
	flow->err = err;
	lm_cond_signal(&flow->not_empty);
	return NULL;
}

/* --- what the reader calls --- */

int lm_inflate_start(lm_inflate_read_fn *read, void *arg, struct lm_inflate **ret, struct lm_err *err)
{
	CLEANUP(lm_inflate_freep) struct lm_inflate *flow = calloc(1, sizeof(*flow));
	if (!flow)
		return lm_err_oom(err);
	lm_lock_init(&flow->lock);
	lm_cond_init(&flow->not_empty);
	lm_cond_init(&flow->not_full);
	flow->read = read;
	flow->arg = arg;
	flow->input = malloc(INPUT_BYTES);
	flow->sha256 = EVP_MD_CTX_new();
	bool ok = flow->input && flow->sha256 && EVP_DigestInit_ex(flow->sha256, EVP_sha256(), NULL) == 1;
	for (unsigned i = 0; i < SLOTS; i++)
		ok = (flow->slots[i] = malloc(SLOT_BYTES)) && ok;
	if (!ok)
		return lm_err_oom(err);
	int r = pthread_create(&flow->thread, NULL, thread_main, flow);
	if (r)
		return lm_err_sys(err, -r, "start thread");
	flow->running = true;
	*ret = STEAL(flow);
	return 0;
}

void lm_inflate_free(struct lm_inflate *flow)
{
	if (!flow)
		return;
	if (flow->running) {
		lm_lock_take(&flow->lock);
		flow->stopping = true;
		lm_cond_signal(&flow->not_full);
		lm_lock_release(&flow->lock);
		pthread_join(flow->thread, NULL);
	}
	lm_cond_done(&flow->not_full);
	lm_cond_done(&flow->not_empty);
	lm_lock_done(&flow->lock);
	for (unsigned i = 0; i < SLOTS; i++)
		free(flow->slots[i]);
	EVP_MD_CTX_free(flow->sha256);
	free(flow->input);
	free(flow);
}

ssize_t lm_inflate_next(struct lm_inflate *flow, const uint8_t **ret, struct lm_err *err)
{
	LM_LOCKED(&flow->lock);
	if (flow->looking) {
		flow->head = (flow->head + 1) % SLOTS;
		flow->count--;
		flow->looking = false;
		lm_cond_signal(&flow->not_full);
	}
	while (flow->count == 0 && !flow->ended)
		lm_cond_wait(&flow->not_empty, &flow->lock);
	if (flow->count == 0)
		return flow->code < 0 ? lm_err_set(err, flow->code, "%s", lm_err_text(&flow->err)) : 0;
	flow->looking = true;
	*ret = flow->slots[flow->head];
	return (ssize_t)flow->lens[flow->head];
}

uint64_t lm_inflate_size(const struct lm_inflate *flow)
{
	return flow->size;
}

const char *lm_inflate_digest(const struct lm_inflate *flow)
{
	return flow->digest;
}

void lm_inflate_times(const struct lm_inflate *flow, struct lm_stage_times *sum)
{
	lm_stage_add(&flow->clock.times, sum);
}

uint64_t lm_inflate_consumed(const struct lm_inflate *flow)
{
	return atomic_load(&flow->consumed);
}
