#include "fetcher/journal.h"

#include "base/lock.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { VERSION = 1, PAGE = 4096, NOTES_BYTES = LM_JOURNAL_SLOTS * 16, HEAD_BYTES = PAGE + NOTES_BYTES };
static const char magic[8] = "LMJOURN";

/* The memory: this head, a note per slot, the slots. The fields up to init are the same in all versions. */
struct head {
	char magic[8];
	uint32_t init_len;
	uint32_t version;
	uint8_t init[LM_JOURNAL_INIT_MAX];
	uint32_t slots, slot_bytes;
	_Atomic(uint32_t) peak; /* slots beyond were never used: to look into them would cost memory */
};

struct note {		 /* beside a request */
	uint64_t worker; /* that had it in hand last */
	uint32_t deaths;
	_Atomic(uint32_t) interrupted;
};
_Static_assert(sizeof(struct note) * LM_JOURNAL_SLOTS == NOTES_BYTES, "notes");
_Static_assert(sizeof(struct head) <= PAGE, "head");

/*
 * What a slot is to the threads of this process: free; held by a thread that reads, whose odd number it is; or the
 * unique number of a request, which is even.
 */
enum { FREE = 0 };

struct lm_journal {
	uint8_t *memory;
	uint64_t worker;
	_Atomic(uint64_t) state[LM_JOURNAL_SLOTS];
	_Atomic(unsigned) waiters; /* threads without a slot */
	_Atomic(bool) stopped;
	_Atomic(unsigned) left_next;
	unsigned left_count;
	uint16_t left[LM_JOURNAL_SLOTS]; /* constant after recover: slots with requests to replay */
	struct lm_lock lock;
	struct lm_cond freed;
};

static const size_t memory_bytes = HEAD_BYTES + (size_t)LM_JOURNAL_SLOTS * LM_JOURNAL_SLOT_BYTES;

static struct head *head_of(const struct lm_journal *journal)
{
	return (struct head *)journal->memory;
}

static int peak_of(const struct lm_journal *journal)
{
	return (int)LM_MIN(atomic_load(&head_of(journal)->peak), (uint32_t)LM_JOURNAL_SLOTS);
}

static struct note *note_of(const struct lm_journal *journal, int slot)
{
	return (struct note *)(journal->memory + PAGE) + slot;
}

static struct fuse_in_header *request_of(const struct lm_journal *journal, int slot)
{
	return (struct fuse_in_header *)(journal->memory + HEAD_BYTES + (size_t)slot * LM_JOURNAL_SLOT_BYTES);
}

int lm_journal_create(struct lm_err *err)
{
	CLEANUP(lm_closep) int fd = memfd_create("lamella-journal", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct head head = {.version = VERSION, .slots = LM_JOURNAL_SLOTS, .slot_bytes = LM_JOURNAL_SLOT_BYTES};
	memcpy(head.magic, magic, sizeof(head.magic));
	if (fd < 0 || ftruncate(fd, (off_t)memory_bytes) < 0 || pwrite(fd, &head, sizeof(head), 0) != sizeof(head) ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return lm_err_sys(err, -errno, "memory for requests");
	return STEAL_FD(fd);
}

static int read_head(int fd, struct head *ret, struct lm_err *err)
{
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || pread(fd, ret, sizeof(*ret), 0) != sizeof(*ret) ||
		memcmp(ret->magic, magic, sizeof(magic)) != 0 || ret->init_len > LM_JOURNAL_INIT_MAX)
		return lm_err_set(err, -EPROTO, "this is no memory of requests");
	return 0;
}

int lm_journal_open(int fd, uint64_t worker, struct lm_journal **ret, struct lm_err *err)
{
	struct head head;
	struct stat st;
	int r = read_head(fd, &head, err);
	if (r < 0)
		return r;
	if (head.version != VERSION || head.slots != LM_JOURNAL_SLOTS || head.slot_bytes != LM_JOURNAL_SLOT_BYTES ||
		fstat(fd, &st) < 0 || (size_t)st.st_size != memory_bytes)
		return lm_err_set(err, -EOPNOTSUPP, "requests were kept by another version (%u)", head.version);
	CLEANUP(lm_journal_freep) struct lm_journal *journal = calloc(1, sizeof(*journal));
	if (!journal)
		return lm_err_oom(err);
	lm_lock_init(&journal->lock);
	lm_cond_init(&journal->freed);
	journal->worker = worker;
	void *memory = mmap(NULL, memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return lm_err_sys(err, -errno, "memory of requests");
	journal->memory = memory;
	*ret = STEAL(journal);
	return 0;
}

void lm_journal_free(struct lm_journal *journal)
{
	if (!journal)
		return;
	if (journal->memory)
		munmap(journal->memory, memory_bytes);
	lm_cond_done(&journal->freed);
	lm_lock_done(&journal->lock);
	free(journal);
}

void lm_journal_save_init(struct lm_journal *journal, const void *request, size_t len)
{
	struct head *head = head_of(journal);
	if (len > LM_JOURNAL_INIT_MAX || head->init_len)
		return;
	memcpy(head->init, request, len);
	atomic_thread_fence(memory_order_release);
	head->init_len = (uint32_t)len;
}

const void *lm_journal_init(const struct lm_journal *journal, size_t *ret_len)
{
	const struct head *head = head_of(journal);
	*ret_len = LM_MIN(head->init_len, (uint32_t)LM_JOURNAL_INIT_MAX);
	return *ret_len ? head->init : NULL;
}

int lm_journal_read_init(int fd, uint8_t ret[LM_JOURNAL_INIT_MAX], struct lm_err *err)
{
	struct head head;
	int r = read_head(fd, &head, err);
	if (r < 0)
		return r;
	memcpy(ret, head.init, head.init_len);
	return (int)head.init_len;
}

/* Taking. */

static uint64_t self(void)
{
	static _Atomic(uint64_t) last;
	static _Thread_local uint64_t number;
	if (!number)
		number = atomic_fetch_add(&last, 2) + 1;
	return number;
}

static bool hold(struct lm_journal *journal, int slot)
{
	uint64_t state = FREE;
	return atomic_load_explicit(&journal->state[slot], memory_order_relaxed) == FREE &&
	       atomic_compare_exchange_strong(&journal->state[slot], &state, self());
}

/* Nothing of the slot's last request may be taken for the next one's if we die in between. */
static int prepare(struct lm_journal *journal, int slot)
{
	struct note *note = note_of(journal, slot);
	struct fuse_in_header *request = request_of(journal, slot);
	request->len = 0;
	request->unique = 0;
	note->worker = journal->worker;
	note->deaths = 0;
	atomic_store_explicit(&note->interrupted, 0, memory_order_relaxed);
	return slot;
}

/* The lowest that is free: memory is touched only up to what is in use at one time. */
static int find_free(struct lm_journal *journal)
{
	for (int slot = 0; slot < LM_JOURNAL_SLOTS; slot++) {
		if (!hold(journal, slot))
			continue;
		_Atomic(uint32_t) *shared = &head_of(journal)->peak;
		uint32_t peak = atomic_load(shared);
		while (peak <= (uint32_t)slot && !atomic_compare_exchange_weak(shared, &peak, (uint32_t)slot + 1))
			;
		return slot;
	}
	return -1;
}

int lm_journal_take(struct lm_journal *journal)
{
	int slot = find_free(journal);
	if (slot < 0) {
		LM_LOCKED(&journal->lock);
		atomic_fetch_add(&journal->waiters, 1);
		while ((slot = find_free(journal)) < 0 && !atomic_load(&journal->stopped))
			lm_cond_wait(&journal->freed, &journal->lock);
		atomic_fetch_sub(&journal->waiters, 1);
	}
	return slot < 0 ? -1 : prepare(journal, slot);
}

static void make_free(struct lm_journal *journal, int slot)
{
	atomic_store(&journal->state[slot], FREE);
	if (atomic_load(&journal->waiters) == 0)
		return;
	LM_LOCKED(&journal->lock);
	lm_cond_signal(&journal->freed);
}

void *lm_journal_buffer(struct lm_journal *journal, int slot)
{
	return request_of(journal, slot);
}

void lm_journal_taken(struct lm_journal *journal, int slot)
{
	atomic_store(&journal->state[slot], request_of(journal, slot)->unique);
}

static int find_request(struct lm_journal *journal, uint64_t unique)
{
	int end = peak_of(journal);
	for (int slot = 0; slot < end; slot++)
		if (atomic_load_explicit(&journal->state[slot], memory_order_relaxed) == unique)
			return slot;
	return -1;
}

void lm_journal_answered(struct lm_journal *journal, uint64_t unique, int hint)
{
	bool own = hint >= 0 && atomic_load_explicit(&journal->state[hint], memory_order_relaxed) == unique;
	int slot = own ? hint : find_request(journal, unique);
	if (slot < 0)
		return;
	request_of(journal, slot)->len = 0;
	if (own)
		atomic_store(&journal->state[slot], self());
	else
		make_free(journal, slot);
}

int lm_journal_next(struct lm_journal *journal, int slot)
{
	bool own = atomic_load_explicit(&journal->state[slot], memory_order_relaxed) == self();
	return own || hold(journal, slot) ? prepare(journal, slot) : lm_journal_take(journal);
}

void lm_journal_release(struct lm_journal *journal, int slot)
{
	if (slot < 0 || atomic_load_explicit(&journal->state[slot], memory_order_relaxed) != self())
		return;
	prepare(journal, slot);
	make_free(journal, slot);
}

void lm_journal_stop(struct lm_journal *journal)
{
	LM_LOCKED(&journal->lock);
	atomic_store(&journal->stopped, true);
	lm_cond_broadcast(&journal->freed);
}

void lm_journal_interrupted(struct lm_journal *journal, uint64_t unique)
{
	int slot = find_request(journal, unique);
	if (slot >= 0)
		atomic_store(&note_of(journal, slot)->interrupted, 1);
}

/* Replaying. */

static void recover_slot(struct lm_journal *journal, int slot, uint64_t crashed)
{
	struct fuse_in_header *request = request_of(journal, slot);
	struct note *note = note_of(journal, slot);
	if (request->unique <= 1 || (request->unique & 1) != 0) { /* written over: no answer would find its way */
		request->len = 0;
		return;
	}
	if (crashed && note->worker == crashed)
		note->deaths++;
	note->worker = journal->worker;
	if (request->len < sizeof(*request) || request->len > LM_JOURNAL_SLOT_BYTES)
		note->deaths = LM_JOURNAL_DEATHS_MAX;
	atomic_store(&journal->state[slot], request->unique);
	journal->left[journal->left_count++] = (uint16_t)slot;
}

/* An interrupt that was read and not yet said. */
static void recover_interrupt(struct lm_journal *journal, int slot)
{
	struct fuse_in_header *request = request_of(journal, slot);
	const struct fuse_interrupt_in *in = (const struct fuse_interrupt_in *)(request + 1);
	lm_journal_interrupted(journal, in->unique);
	request->len = 0;
}

void lm_journal_recover(struct lm_journal *journal, uint64_t crashed)
{
	int end = peak_of(journal);
	for (int slot = 0; slot < end; slot++)
		if (request_of(journal, slot)->len != 0 && request_of(journal, slot)->opcode != FUSE_INTERRUPT)
			recover_slot(journal, slot, crashed);
	for (int slot = 0; slot < end; slot++)
		if (request_of(journal, slot)->len != 0 && request_of(journal, slot)->opcode == FUSE_INTERRUPT)
			recover_interrupt(journal, slot);
}

int lm_journal_left(struct lm_journal *journal)
{
	unsigned next = atomic_load(&journal->left_next);
	while (next < journal->left_count && !atomic_compare_exchange_weak(&journal->left_next, &next, next + 1))
		;
	return next < journal->left_count ? journal->left[next] : -1;
}

unsigned lm_journal_deaths(const struct lm_journal *journal, int slot)
{
	return note_of(journal, slot)->deaths;
}

bool lm_journal_was_interrupted(const struct lm_journal *journal, int slot)
{
	return atomic_load(&note_of(journal, slot)->interrupted) != 0;
}

void lm_journal_clear(struct lm_journal *journal)
{
	int end = peak_of(journal);
	for (int slot = 0; slot < end; slot++)
		request_of(journal, slot)->len = 0;
}

void lm_journal_stats(struct lm_journal *journal, struct lm_journal_stats *ret)
{
	int end = peak_of(journal);
	*ret = (struct lm_journal_stats){.peak = (unsigned)end};
	for (int slot = 0; slot < end; slot++) {
		uint64_t state = atomic_load_explicit(&journal->state[slot], memory_order_relaxed);
		ret->waiting += state != FREE && (state & 1) == 0;
	}
}
