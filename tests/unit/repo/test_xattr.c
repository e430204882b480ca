#include "repo/xattr.h"
#include "repo_test.h"

static int count(const void *blob, size_t len)
{
	struct lm_xattr attr;
	size_t at = 0;
	int n = 0, r;
	while ((r = lm_xattr_next(blob, len, &at, &attr)) > 0)
		n++;
	return r < 0 ? r : n;
}

static void test_encode(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_xattr attrs[] = {
		{"user.b", 6, "two", 3},
		{"user", 4, "", 0},
		{"security.capability", 19, "\0\1\2", 3},
		{"user.a", 6, NULL, 0},
	};
	static const char want[] = "\1\4"
				   "\x13\3security.capability\0\1\2"
				   "\4\0user"
				   "\6\0user.a"
				   "\6\3user.btwo";
	CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(LM_XATTR_BLOB_MAX);
	assert_ok(lm_xattr_encode(attrs, ARRAY_LEN(attrs), &blob, &err), &err);
	assert_int_equal(blob.len, sizeof(want) - 1);
	assert_memory_equal(blob.data, want, blob.len);
	assert_int_equal(count(blob.data, blob.len), 4);

	struct lm_xattr found;
	assert_int_equal(lm_xattr_find(blob.data, blob.len, "user.b", &found), 0);
	assert_int_equal(found.value_len, 3);
	assert_memory_equal(found.value, "two", 3);
	assert_int_equal(lm_xattr_find(blob.data, blob.len, "user.", &found), -ENODATA);
	assert_int_equal(lm_xattr_find(blob.data, blob.len, "user", &found), 0);
	assert_int_equal(found.value_len, 0);
}

/* 255 attributes with keys and values of 255 bytes: all the format can hold. */
static void test_largest(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	static char keys[LM_XATTR_COUNT_MAX][LM_XATTR_KEY_MAX];
	static struct lm_xattr attrs[LM_XATTR_COUNT_MAX + 1];
	char value[LM_XATTR_VALUE_MAX];
	memset(value, 'v', sizeof(value));
	for (int i = 0; i < LM_XATTR_COUNT_MAX; i++) {
		memset(keys[i], 'k', sizeof(keys[i]));
		keys[i][0] = (char)(LM_XATTR_COUNT_MAX - i);
		attrs[i] = (struct lm_xattr){keys[i], sizeof(keys[i]), value, sizeof(value)};
	}
	CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(LM_XATTR_BLOB_MAX);
	assert_ok(lm_xattr_encode(attrs, LM_XATTR_COUNT_MAX, &blob, &err), &err);
	assert_int_equal(blob.len, LM_XATTR_BLOB_MAX);
	assert_int_equal(count(blob.data, blob.len), LM_XATTR_COUNT_MAX);

	attrs[LM_XATTR_COUNT_MAX] = (struct lm_xattr){"zz.last", 7, "", 0};
	lm_buf_clear(&blob);
	assert_int_equal(lm_xattr_encode(attrs, LM_XATTR_COUNT_MAX + 1, &blob, &err), -E2BIG);
	assert_int_equal(blob.len, 0);
}

static void test_encode_refused(void **state)
{
	char big[300];
	memset(big, 'x', sizeof(big));
	const struct {
		struct lm_xattr attrs[2];
		size_t count;
		int code;
		const char *message;
	} cases[] = {
		{{{"user.long", 9, big, 256}}, 1, -E2BIG, "user.long: value of 256"},
		{{{big, 256, "", 0}}, 1, -E2BIG, "name of 256"},
		{{{"user.a", 6, "1", 1}, {"user.a", 6, "2", 1}}, 2, -EEXIST, "user.a is there twice"},
		{{{"", 0, "", 0}}, 1, -EINVAL, "empty name"},
		{{{"a\0b", 3, "", 0}}, 1, -EINVAL, "NUL"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_err err = LM_ERR_INIT;
		struct lm_xattr attrs[2] = {cases[i].attrs[0], cases[i].attrs[1]};
		CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(LM_XATTR_BLOB_MAX);
		assert_int_equal(lm_xattr_encode(attrs, cases[i].count, &blob, &err), cases[i].code);
		assert_non_null(strstr(err.msg, cases[i].message));
		assert_int_equal(blob.len, 0);
	}
	struct lm_xattr one = {"user.a", 6, "value", 5};
	CLEANUP(lm_buf_done) struct lm_buf small = LM_BUF(10);
	assert_int_equal(lm_xattr_encode(&one, 1, &small, NULL), -EMSGSIZE);
	assert_ok(lm_xattr_encode(NULL, 0, &small, NULL), NULL);
	assert_int_equal(small.len, 0);
}

static void test_damaged(void **state)
{
	static const char good[] = "\1\2\4\1userX\6\0user.a";
	size_t len = sizeof(good) - 1;
	assert_int_equal(count(good, len), 2);
	assert_int_equal(count(good, 0), 0);
	/* Cut anywhere the whole blob is refused, also for an attribute that is still there. */
	for (size_t cut = 1; cut < len; cut++) {
		struct lm_xattr attr;
		CLEANUP(lm_freep) char *exact = malloc(cut); /* so that a sanitizer sees a read beyond it */
		memcpy(exact, good, cut);
		assert_int_equal(count(exact, cut), -EPROTO);
		assert_int_equal(lm_xattr_find(exact, cut, "user", &attr), -EPROTO);
	}
	assert_int_equal(count("\1\0", 2), 0);
	assert_int_equal(count("\1\0trailing", 10), 0);
	assert_int_equal(count("\1\1\1\0atrailing", 13), 1);
	assert_int_equal(count("\2\0", 2), -EPROTO);
	assert_int_equal(count("\0\0", 2), -EPROTO);
	assert_int_equal(count("\1\1\0\1v", 5), -EPROTO);
	assert_int_equal(count("\1\1\1\0\0", 5), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_encode),
		cmocka_unit_test(test_largest),
		cmocka_unit_test(test_encode_refused),
		cmocka_unit_test(test_damaged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
