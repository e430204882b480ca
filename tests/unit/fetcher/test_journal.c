/* What a journal still holds after its process has gone, in whatever state that left it. */
#include "fetcher/journal.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

struct request {
	struct fuse_in_header head;
	uint64_t body;
};

static struct lm_journal *open_journal(int fd, uint64_t worker)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_journal *journal = NULL;
	assert_int_equal(lm_journal_open(fd, worker, &journal, &err), 0);
	return journal;
}

static int create(void)
{
	int fd = lm_journal_create(NULL);
	assert_true(fd >= 0);
	return fd;
}

/* As the kernel does it: into the buffer of a slot. */
static int put(struct lm_journal *journal, int slot, uint64_t unique, uint32_t opcode)
{
	const struct request request = {
		.head = {.len = sizeof(request), .opcode = opcode, .unique = unique}, .body = unique};
	memcpy(lm_journal_buffer(journal, slot), &request, sizeof(request));
	return slot;
}

static int receive(struct lm_journal *journal, uint64_t unique)
{
	int slot = put(journal, lm_journal_take(journal), unique, FUSE_LOOKUP);
	lm_journal_taken(journal, slot);
	return slot;
}

static unsigned waiting(struct lm_journal *journal)
{
	struct lm_journal_stats stats;
	lm_journal_stats(journal, &stats);
	return stats.waiting;
}

static uint64_t unique_of(struct lm_journal *journal, int slot)
{
	return ((const struct fuse_in_header *)lm_journal_buffer(journal, slot))->unique;
}

static void answered_requests_are_gone(void **state)
{
	int fd = create();
	struct lm_journal *journal = open_journal(fd, 1);
	int slot = receive(journal, 10);
	assert_int_equal(waiting(journal), 1);
	lm_journal_answered(journal, 10, slot);
	assert_int_equal(waiting(journal), 0);
	assert_int_equal(lm_journal_next(journal, slot), slot);
	lm_journal_answered(journal, 12, -1); /* unknown */
	lm_journal_release(journal, slot);
	lm_journal_free(journal);

	journal = open_journal(fd, 2);
	lm_journal_recover(journal, 0);
	assert_int_equal(lm_journal_left(journal), -1);
	lm_journal_free(journal);
	close(fd);
}

static void what_is_left_is_replayed_once(void **state)
{
	int fd = create();
	struct lm_journal *journal = open_journal(fd, 1);
	int first = receive(journal, 10), second = lm_journal_next(journal, first);
	assert_int_not_equal(first, second);
	put(journal, second, 12, FUSE_READ); /* died before it could say that it was taken */
	lm_journal_free(journal);

	journal = open_journal(fd, 2);
	lm_journal_recover(journal, 0);
	int a = lm_journal_left(journal), b = lm_journal_left(journal);
	assert_int_equal(unique_of(journal, a), 10);
	assert_int_equal(unique_of(journal, b), 12);
	assert_int_equal(lm_journal_left(journal), -1);
	assert_int_equal(waiting(journal), 2);
	int other = lm_journal_take(journal);
	assert_true(other != a && other != b);
	lm_journal_answered(journal, 10, a);
	lm_journal_release(journal, a);
	lm_journal_answered(journal, 12, -1);
	assert_int_equal(waiting(journal), 0);
	lm_journal_free(journal);
	close(fd);
}

/* A request answered elsewhere frees its slot, which is then not the reader's any more. */
static void a_slot_is_lost_when_another_answers(void **state)
{
	int fd = create();
	struct lm_journal *journal = open_journal(fd, 1);
	int slot = receive(journal, 10);
	lm_journal_answered(journal, 10, -1);
	assert_int_equal(lm_journal_take(journal), slot); /* somebody else */
	lm_journal_release(journal, slot);
	slot = receive(journal, 14);
	lm_journal_release(journal, slot); /* not its to give: a request is in there */
	assert_int_equal(waiting(journal), 1);
	lm_journal_free(journal);
	close(fd);
}

static unsigned deaths_after(int fd, uint64_t worker, uint64_t crashed)
{
	struct lm_journal *journal = open_journal(fd, worker);
	lm_journal_recover(journal, crashed);
	int slot = lm_journal_left(journal);
	assert_true(slot >= 0);
	unsigned deaths = lm_journal_deaths(journal, slot);
	lm_journal_free(journal);
	return deaths;
}

static void only_crashes_of_who_had_it_count(void **state)
{
	int fd = create();
	struct lm_journal *journal = open_journal(fd, 1);
	receive(journal, 10);
	lm_journal_free(journal);
	assert_int_equal(deaths_after(fd, 2, 0), 0); /* killed */
	assert_int_equal(deaths_after(fd, 3, 2), 1); /* crashed with it */
	assert_int_equal(deaths_after(fd, 5, 4), 1); /* 4 crashed before it got to it */
	assert_int_equal(deaths_after(fd, 6, 5), 2);
	assert_int_equal(deaths_after(fd, 7, 6), LM_JOURNAL_DEATHS_MAX);
	close(fd);
}

static void interrupts_are_said_again(void **state)
{
	int fd = create();
	struct lm_journal *journal = open_journal(fd, 1);
	int slot = receive(journal, 10);
	slot = lm_journal_next(journal, slot);
	receive(journal, 12);
	lm_journal_interrupted(journal, 12);
	put(journal, slot, 11, FUSE_INTERRUPT); /* read, but not said: its body is the number of the request */
	memcpy((uint8_t *)lm_journal_buffer(journal, slot) + sizeof(struct fuse_in_header), &(uint64_t){10}, 8);
	lm_journal_free(journal);

	journal = open_journal(fd, 2);
	lm_journal_recover(journal, 0);
	for (int i = 0; i < 2; i++) {
		slot = lm_journal_left(journal);
		assert_true(slot >= 0);
		assert_true(lm_journal_was_interrupted(journal, slot));
	}
	assert_int_equal(lm_journal_left(journal), -1);
	/* The next request in the same slot was not. */
	lm_journal_answered(journal, 10, -1);
	lm_journal_answered(journal, 12, -1);
	slot = receive(journal, 14);
	assert_false(lm_journal_was_interrupted(journal, slot));
	lm_journal_free(journal);
	close(fd);
}

static void nonsense_is_not_replayed(void **state)
{
	int fd = create();
	struct lm_journal *journal = open_journal(fd, 1);
	struct fuse_in_header *request = lm_journal_buffer(journal, receive(journal, 10));
	request->len = UINT32_MAX; /* can't be processed, but be answered */
	request = lm_journal_buffer(journal, receive(journal, 12));
	request->unique = 13; /* can't even be answered */
	lm_journal_free(journal);

	journal = open_journal(fd, 2);
	lm_journal_recover(journal, 0);
	int slot = lm_journal_left(journal);
	assert_int_equal(unique_of(journal, slot), 10);
	assert_int_equal(lm_journal_deaths(journal, slot), LM_JOURNAL_DEATHS_MAX);
	assert_int_equal(lm_journal_left(journal), -1);
	lm_journal_free(journal);
	close(fd);
}

static void init_outlives_versions(void **state)
{
	int fd = create();
	uint8_t init[LM_JOURNAL_INIT_MAX];
	size_t len;
	struct lm_journal *journal = open_journal(fd, 1);
	assert_null(lm_journal_init(journal, &len));
	lm_journal_save_init(journal, "first", 5);
	lm_journal_save_init(journal, "second", 6); /* there is only one */
	assert_memory_equal(lm_journal_init(journal, &len), "first", 5);
	assert_int_equal(len, 5);
	lm_journal_free(journal);

	assert_int_equal(pwrite(fd, &(uint32_t){99}, 4, 12), 4); /* version */
	assert_int_equal(lm_journal_open(fd, 2, &journal, NULL), -EOPNOTSUPP);
	assert_int_equal(lm_journal_read_init(fd, init, NULL), 5);
	assert_memory_equal(init, "first", 5);
	assert_int_equal(pwrite(fd, &(uint32_t){LM_JOURNAL_INIT_MAX + 1}, 4, 8), 4);
	assert_int_equal(lm_journal_read_init(fd, init, NULL), -EPROTO);
	close(fd);
}

static void foreign_memory_is_refused(void **state)
{
	struct lm_journal *journal;
	int fd = memfd_create("test", MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	assert_int_equal(lm_journal_open(fd, 1, &journal, NULL), -EPROTO);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	assert_int_equal(lm_journal_open(fd, 1, &journal, NULL), -EPROTO);
	close(fd);
}

static void clearing_forgets(void **state)
{
	int fd = create();
	struct lm_journal *journal = open_journal(fd, 1);
	receive(journal, 10);
	lm_journal_free(journal);
	journal = open_journal(fd, 2);
	lm_journal_clear(journal);
	lm_journal_recover(journal, 0);
	assert_int_equal(lm_journal_left(journal), -1);
	lm_journal_free(journal);
	close(fd);
}

/* Readers that take more requests than there are slots, and somebody who answers them. */
enum { READERS = 4, REQUESTS = 20000 };

static struct lm_journal *shared;
static _Atomic(uint64_t) next_unique, answered_to;

static void *read_requests(void *arg)
{
	int slot = lm_journal_take(shared);
	for (int i = 0; i < REQUESTS && slot >= 0; i++) {
		uint64_t unique = atomic_fetch_add(&next_unique, 2);
		lm_journal_taken(shared, put(shared, slot, unique, FUSE_LOOKUP));
		if (unique % 8 == 2) /* by itself; the others are left to the answerer */
			lm_journal_answered(shared, unique, slot);
		slot = lm_journal_next(shared, slot);
	}
	lm_journal_release(shared, slot);
	return NULL;
}

static void *answer_requests(void *arg)
{
	uint64_t end = 2 + 2ULL * READERS * REQUESTS;
	for (uint64_t unique = 2; unique < end;) {
		if (unique % 8 != 2 && unique >= atomic_load(&next_unique))
			continue;
		lm_journal_answered(shared, unique, -1);
		unique += 2;
	}
	atomic_store(&answered_to, end);
	return NULL;
}

static void many_threads_share_the_slots(void **state)
{
	int fd = create();
	pthread_t readers[READERS], answerer;
	shared = open_journal(fd, 1);
	atomic_store(&next_unique, 2);
	for (int i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&readers[i], NULL, read_requests, NULL), 0);
	assert_int_equal(pthread_create(&answerer, NULL, answer_requests, NULL), 0);
	pthread_join(answerer, NULL);
	/* The answerer may have been quicker than a reader's lm_journal_taken(): those are still there. */
	for (int i = 0; i < READERS; i++) {
		for (uint64_t unique = 2; unique < answered_to && waiting(shared) > 0; unique += 2)
			lm_journal_answered(shared, unique, -1);
		pthread_join(readers[i], NULL);
	}
	for (uint64_t unique = 2; unique < answered_to && waiting(shared) > 0; unique += 2)
		lm_journal_answered(shared, unique, -1);
	assert_int_equal(waiting(shared), 0);
	lm_journal_free(shared);
	close(fd);
}

static void *take_all(void *arg)
{
	while (lm_journal_take(shared) >= 0)
		;
	return NULL;
}

static void stopping_wakes_who_waits_for_a_slot(void **state)
{
	int fd = create();
	pthread_t thread;
	shared = open_journal(fd, 1);
	assert_int_equal(pthread_create(&thread, NULL, take_all, NULL), 0);
	struct lm_journal_stats stats;
	do
		lm_journal_stats(shared, &stats);
	while (stats.peak < LM_JOURNAL_SLOTS);
	lm_journal_stop(shared);
	pthread_join(thread, NULL);
	lm_journal_free(shared);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answered_requests_are_gone),
		cmocka_unit_test(what_is_left_is_replayed_once),
		cmocka_unit_test(a_slot_is_lost_when_another_answers),
		cmocka_unit_test(only_crashes_of_who_had_it_count),
		cmocka_unit_test(interrupts_are_said_again),
		cmocka_unit_test(nonsense_is_not_replayed),
		cmocka_unit_test(init_outlives_versions),
		cmocka_unit_test(foreign_memory_is_refused),
		cmocka_unit_test(clearing_forgets),
		cmocka_unit_test(many_threads_share_the_slots),
		cmocka_unit_test(stopping_wakes_who_waits_for_a_slot),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
