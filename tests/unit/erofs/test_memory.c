/* The n-th allocation fails: the call says so, and what is there can be freed. */
#include "../repo/repo_memory.h"

#include "erofs_test.h"

#if !MEMORY_TESTED

int main(void)
{
	printf("skipped: the sanitizer owns malloc\n");
	return 77;
}

#else

/* Enough for a second piece of memory and a second size of each table. */
static int make(struct lm_erofs *erofs, int fd, uint64_t *ret_size, struct lm_err *err)
{
	uint32_t dir, file;
	char name[] = "000 with a name of some length", target[4000];
	memset(target, 't', sizeof(target));
	target[sizeof(target) - 1] = '\0';
	struct lm_erofs_attr attr = {.mode = S_IFDIR};
	int r = lm_erofs_inode(erofs, &attr, &dir, err);
	attr = (struct lm_erofs_attr){
		.mode = S_IFLNK, .target = target, .xattr = "\1\1\11\3trusted.aabc", .xattr_len = 16};
	for (int i = 0; r == 0 && i < 300; i++) {
		snprintf(name, 4, "%03d", i);
		name[3] = ' ';
		r = lm_erofs_inode(erofs, &attr, &file, err);
		if (r == 0)
			r = lm_erofs_link(erofs, dir, name, file, err);
	}
	return r == 0 ? lm_erofs_write(erofs, fd, ret_size, err) : r;
}

static void test_each(void **state)
{
	unsigned ended = 0;
	uint64_t size = 0;
	for (long n = 0; n == 0 || failed; n++) {
		struct lm_err err = LM_ERR_INIT;
		CLEANUP(lm_closep) int fd = memfd_create("image", MFD_CLOEXEC);
		CLEANUP(lm_erofs_freep) struct lm_erofs *erofs = NULL;
		failed = false;
		allocations_left = n;
		int r = lm_erofs_new(&erofs, &err);
		if (r == 0)
			r = make(erofs, fd, &size, &err);
		allocations_left = -1;
		if (r != 0 && r != -ENOMEM)
			fail_msg("allocation %ld: %d: %s", n, r, err.msg); /* cmocka */
		ended += r < 0;
	}
	print_message("%u failures\n", ended);
	assert_true(ended > 8);
	assert_true(size > 300 * 4000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_each)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
