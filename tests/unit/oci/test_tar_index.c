/* Members of tars that tar(1) made, found through links; damaged ones refused. */
#include "base/file.h"
#include "base/str.h"
#include "oci/tar_index.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

static int read_copy(const char *name, size_t keep, size_t flip, struct lm_tar_index **ret, struct lm_err *err)
{
	CLEANUP(lm_buf_done) struct lm_buf data = LM_BUF(1 << 20);
	CLEANUP(lm_closep) int fd = memfd_create("tar", MFD_CLOEXEC);
	CLEANUP(lm_freep)
	char *path = lm_str_printf("%s/tests/fuzz/corpus/tar_index/%s", getenv("LM_SOURCE_ROOT"), name);
	assert_int_equal(lm_file_read(AT_FDCWD, path, &data, NULL), 0);
	if (flip)
		data.data[flip] ^= 1;
	assert_int_equal(lm_write_all(fd, data.data, keep ? keep : data.len, NULL), 0);
	return lm_tar_index_read(fd, ret, err);
}

static void formats(void **state)
{
	static const char *const names[] = {"ustar", "gnu", "pax"};
	static const char *const same[] = {"manifest.json", "./manifest.json", "link", "hard", "sub/up", "sub/../link"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		CLEANUP(lm_tar_index_freep) struct lm_tar_index *index = NULL;
		struct lm_tar_place place, other;
		char longest[151];
		memset(longest, 'n', 150);
		longest[150] = '\0';
		assert_int_equal(read_copy(names[i], 0, 0, &index, NULL), 0);
		assert_int_equal(lm_tar_index_find(index, same[0], &place, NULL), 0);
		assert_int_equal(place.size, 3);
		for (size_t k = 1; k < ARRAY_LEN(same); k++) {
			if (lm_tar_index_find(index, same[k], &other, NULL) < 0 || other.offset != place.offset)
				fail_msg("%s: %s", names[i], same[k]);
		}
		assert_int_equal(lm_tar_index_find(index, longest, &other, NULL), i == 0 ? -ENOENT : 0);
		assert_int_equal(lm_tar_index_find(index, "loop", &other, NULL), -EPROTO);
		assert_int_equal(lm_tar_index_find(index, "sub", &other, NULL), -EPROTO);
		assert_int_equal(lm_tar_index_find(index, "none", &other, NULL), -ENOENT);
	}
}

static void damaged(void **state)
{
	struct lm_tar_index *index = NULL;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(read_copy("ustar", 0, 3, &index, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "no header"));
	assert_int_equal(read_copy("ustar", 514, 0, &index, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "ends in the middle"));
	assert_int_equal(read_copy("ustar", 1024 + 100, 0, &index, &err), -EPROTO);
	assert_null(index);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(formats), cmocka_unit_test(damaged)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
