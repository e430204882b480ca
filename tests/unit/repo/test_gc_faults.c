/*
 * Garbage collection that fails or is killed at every step, or runs beside readers: what is kept stays readable, and
 * the next collection finishes.
 */
#include "repo_faulty.h"
#include "repo_gc.h"

#include <signal.h>

/* The revisions that have to be readable whatever happens: the current one and the tagged ones. */
struct readable {
	unsigned revisions[4];
	size_t count;
	char *listings[4];
};

struct listed {
	struct lm_storage *storage;
	struct names names;
};

static void readable_init(struct readable *readable, struct past *past)
{
	for (size_t i = 0; i < readable->count; i++) {
		unsigned n = readable->revisions[i];
		readable->listings[i] = list_tree(past->p.storage, &past->roots[n], past->sizes[n]);
	}
}

static void readable_check(const struct readable *readable, struct past *past)
{
	struct lm_manifest m;
	current_manifest(past->p.storage, &m);
	assert_true(lm_hash_equal(&m.catalog, &past->roots[past->revision]));
	assert_int_equal(m.revision, past->revision);
	for (size_t i = 0; i < readable->count; i++) {
		unsigned n = readable->revisions[i];
		CLEANUP(lm_freep) char *listing = list_tree(past->p.storage, &past->roots[n], past->sizes[n]);
		assert_string_equal(listing, readable->listings[i]);
	}
}

static int add_ref_tree(void *arg, const struct lm_ref *ref)
{
	struct listed *listed = arg;
	if (ref->type == LM_REF_CATALOG)
		add_tree(listed->storage, &ref->hash, &listed->names);
	return 0;
}

/* Whatever the reflog names is whole: roots leave it before anything of theirs goes. */
static void assert_reflog_whole(struct past *past)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *reflog = copy_out(past->p.storage, LM_REFLOG_NAME);
	CLEANUP(names_done) struct names found = {0};
	struct listed listed = {.storage = past->p.storage};
	assert_ok(lm_reflog_each(reflog, add_ref_tree, &listed, &err), &err);
	names_sort(&listed.names);
	list_stored(past->p.storage, &found);
	assert_true(listed.names.count > 10);
	for (size_t i = 0; i < listed.names.count; i++)
		if (!bsearch(&listed.names.items[i], found.items, found.count, sizeof(*found.items), name_cmp))
			fail_msg("%s is gone, but the reflog leads to it", listed.names.items[i]);
	names_done(&listed.names);
	assert_int_equal(unlink(reflog), 0);
}

static void readable_done(struct readable *readable)
{
	for (size_t i = 0; i < readable->count; i++)
		free(readable->listings[i]);
}

/* Six revisions, the second of them tagged: the current one, the one before and that one are to stay. */
static void make_six(struct past *past, struct readable *ret)
{
	create_past(past);
	publish_some(past, 6);
	tag(past, "second", 2);
	*ret = (struct readable){.revisions = {6, 5, 2}, .count = 3};
	readable_init(ret, past);
}

enum { NEVER = FAULTY_CALLS_MAX };

static int collect_faulty(struct past *past, unsigned fail_at, bool kill, struct faulty *ret)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_gc_options options = {.keep_since_s = NOTHING_SINCE};
	*ret = (struct faulty){.storage.ops = &faulty_ops, .inner = past->p.storage, .fail_at = fail_at, .kill = kill};
	return lm_repo_gc(&ret->storage, &keys, FQRN, &options, NULL, &err);
}

/* What a collection without faults does and leaves. */
static void list_collected(struct past *all, struct names *ret, struct faulty *ret_calls)
{
	CLEANUP(past_done) struct past past;
	copy(all, &past);
	assert_int_equal(collect_faulty(&past, NEVER, false, ret_calls), 0);
	assert_true(ret_calls->change_count > 10);
	list_stored(past.p.storage, ret);
}

static void assert_collected(struct past *past, const struct names *expected)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(names_done) struct names found = {0};
	struct lm_gc_result result;
	assert_ok(collect(past, NOTHING_SINCE, 0, false, NULL, &err), &err);
	list_stored(past->p.storage, &found);
	assert_names(&found, expected);
	assert_ok(collect(past, NOTHING_SINCE, 0, false, &result, &err), &err);
	assert_false(result.resigned);
	assert_int_equal(total(result.swept), 0);
}

static void test_faults(void **state)
{
	CLEANUP(past_done) struct past all;
	CLEANUP(readable_done) struct readable readable;
	CLEANUP(names_done) struct names expected = {0};
	struct faulty faulty;
	unsigned failures = 0;
	int r;
	srand(4);
	make_six(&all, &readable);
	list_collected(&all, &expected, &faulty);
	/* One after the other fails in a repository of which always a bit more is gone; of the 256 directories some. */
	CLEANUP(past_done) struct past past;
	copy(&all, &past);
	for (unsigned n = 0; (r = collect_faulty(&past, n, false, &faulty)) < 0; n += n < 60 ? 1 : 20) {
		failures++;
		assert_int_equal(r, -EIO);
		if (faulty.change_count > 0)
			readable_check(&readable, &past);
	}
	assert_true(failures > 60);
	assert_collected(&past, &expected);
	readable_check(&readable, &past);
}

static void kill_at(struct past *all, unsigned n, const struct readable *readable, const struct names *expected)
{
	CLEANUP(past_done) struct past past;
	struct faulty faulty;
	copy(all, &past);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(collect_faulty(&past, n, true, &faulty) == 0 ? 0 : 1);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	readable_check(readable, &past);
	assert_reflog_whole(&past);
	assert_collected(&past, expected);
}

/* Before each call that changes something, which is also after the one before; of those that only read, some. */
static void test_killed(void **state)
{
	CLEANUP(past_done) struct past all;
	CLEANUP(readable_done) struct readable readable;
	CLEANUP(names_done) struct names expected = {0};
	struct faulty whole;
	unsigned killed = 0;
	srand(5);
	make_six(&all, &readable);
	/* The lock must be the child's. */
	lm_storage_freep(&all.p.storage);
	past_open(&all);
	list_collected(&all, &expected, &whole);
	for (unsigned n = 0; n < whole.calls; n++) {
		if (!whole.changes[n] && n % 32 != 0 && n != whole.calls - 1)
			continue;
		kill_at(&all, n, &readable, &expected);
		killed++;
	}
	printf("killed at %u of %u calls of the storage, %u of them changes\n", killed, whole.calls,
		whole.change_count);
}

/* A reader reads everything it may count on between any two removals. */
struct handshake {
	int ask, answer; /* the collector's ends of two pipes */
	unsigned count;
};

static void wait_for_reader(void *arg, const struct lm_gc_progress *progress)
{
	struct handshake *hands = arg;
	char byte = 'r';
	if (!progress->sweeping || progress->done % 32 != 31)
		return;
	if (write(hands->ask, &byte, 1) != 1 || read(hands->answer, &byte, 1) != 1)
		_exit(2);
}

static void test_reader(void **state)
{
	CLEANUP(past_done) struct past past;
	CLEANUP(readable_done) struct readable readable;
	struct lm_err err = LM_ERR_INIT;
	int asks[2], answers[2];
	srand(6);
	create_past(&past);
	publish_some(&past, 14);
	tag(&past, "second", 2);
	tag(&past, "seventh", 7);
	readable = (struct readable){.revisions = {14, 13, 2, 7}, .count = 4};
	readable_init(&readable, &past);
	lm_storage_freep(&past.p.storage);
	assert_int_equal(pipe2(asks, O_CLOEXEC), 0);
	assert_int_equal(pipe2(answers, O_CLOEXEC), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(asks[0]);
		close(answers[1]);
		struct handshake hands = {.ask = asks[1], .answer = answers[0]};
		struct lm_gc_options options = {
			.keep_since_s = NOTHING_SINCE, .progress = wait_for_reader, .arg = &hands};
		struct lm_gc_result result;
		int r = lm_storage_dir_open(past.p.dir, false, &past.p.storage, &err);
		if (r == 0)
			r = lm_repo_gc(past.p.storage, &keys, FQRN, &options, &result, &err);
		_exit(r == 0 && result.roots_dropped == 10 ? 0 : 1);
	}
	close(asks[1]);
	close(answers[0]);
	past_open(&past);
	unsigned walks = 0;
	for (char byte; read(asks[0], &byte, 1) == 1; walks++) {
		readable_check(&readable, &past);
		assert_int_equal(write(answers[1], &byte, 1), 1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	close(asks[0]);
	close(answers[1]);
	assert_true(walks >= 8);
	readable_check(&readable, &past);
	printf("%u walks over %zu revisions while they were swept around\n", walks, readable.count);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_killed),
		cmocka_unit_test(test_reader),
	};
	return cmocka_run_group_tests(tests, gc_setup, publish_teardown);
}
