/*
 * The n-th allocation fails: the check ends with -ENOMEM, or, where that did not matter, finds nothing. For each n with
 * LM_ALL=1, else for a sample.
 */
#include "repo_memory.h"

#include "repo_forge.h"

#if !MEMORY_TESTED

int main(void)
{
	printf("skipped: the sanitizer owns malloc\n");
	return 77;
}

#else

/* Fails one allocation after the other until none is left to fail. foreign: libraries are asked, too, that report what
 * they like (OpenSSL, jansson). */
static void fail_each(struct place *place, const struct lm_check_options *options, bool foreign)
{
	const uint64_t allowed = foreign ? BIT(SIGNATURE) | BIT(CERTIFICATE) | BIT(WHITELIST) | BIT(METAINFO) : 0;
	unsigned ended = 0;
	const char *wish = getenv("LM_ALL"); /* the whole run sets it in any case, to nothing where it is not wanted */
	bool all = wish && *wish;
	CLEANUP(verdict_done) struct verdict v = {.text = LM_BUF(1 << 20)};
	assert_int_equal(lm_buf_reserve(&v.text, 1 << 19), 0);
	for (long n = 0; n == 0 || failed; n += all ? 1 : 1 + n / 50) {
		struct lm_err err = LM_ERR_INIT;
		v.kinds = 0;
		lm_buf_clear(&v.text);
		failed = false;
		allocations_left = n;
		int r = lm_repo_check(place->storage, options, verdict_add, &v, &v.result, &err);
		allocations_left = -1;
		if (r != -ENOMEM && r != 0 && !foreign)
			fail_msg("allocation %ld: %d: %s", n, r, err.msg);
		if (v.kinds & ~allowed || (v.kinds && !failed))
			fail_msg("allocation %ld: found: %s", n, lm_buf_cstr(&v.text));
		ended += r < 0;
	}
	print_message("%u failures\n", ended);
	assert_true(ended > 100);
}

static void test_check(void **state)
{
	CLEANUP(place_done) struct place place;
	CLEANUP(lm_txn_freep) struct lm_txn *txn = NULL;
	CLEANUP(lm_key_freep) struct lm_key *key = NULL;
	struct lm_manifest m;
	create(&place, &m);
	begin(&place, &txn);
	mkdirs(txn, "/n", true);
	put(txn, "/n/file", "content");
	commit(&txn, &m);
	load_public_key(&key);
	const struct lm_check_options tree = {.root = &m.catalog, .objects = true, .scratch = base};
	fail_each(&place, &tree, false);
	const struct lm_check_options all = {
		.keys = &key, .key_count = 1, .now_s = lm_wall_s(), .tags = true, .scratch = base};
	fail_each(&place, &all, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_check)};
	return cmocka_run_group_tests(tests, publish_setup, publish_teardown);
}

#endif
