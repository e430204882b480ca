#include "repo/listing.h"

#include "repo_test.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

static void assert_line(const struct lm_listing_line *line, const char *expected)
{
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(4096);
	assert_int_equal(lm_listing_append(&out, line), 0);
	assert_string_equal(lm_buf_cstr(&out), expected);
}

static void test_lines(void **state)
{
	struct lm_xattr xattrs[] = {{"user.b", 6, "\001\377", 2}, {"user.a", 6, "", 0}, {"user", 4, "x", 1}};
	assert_line(&(struct lm_listing_line){.mode = S_IFDIR | 01755, .size = 4096, .nlink = 3, .path = ""},
		"d 1755 0 0 4096 0.000000000 3 - - - - - /\n");
	assert_line(&(struct lm_listing_line){.mode = S_IFREG | 04644,
			    .uid = UINT32_MAX,
			    .gid = 7,
			    .size = 5,
			    .mtime_s = -1000,
			    .mtime_ns = 17,
			    .nlink = 2,
			    .group = 3,
			    .sha256 = "abc",
			    .xattrs = xattrs,
			    .xattr_count = 3,
			    .path = "/a b"},
		"f 4644 4294967295 7 5 -1000.000000017 2 3 - abc - user=78,user.a=,user.b=01ff /a%20b\n");
	assert_line(
		&(struct lm_listing_line){
			.mode = S_IFCHR | 0600, .nlink = 1, .rdev = makedev(1234, 99999), .path = "/c"},
		"c 0600 0 0 0 0.000000000 1 - 1234:99999 - - - /c\n");
	assert_line(
		&(struct lm_listing_line){.mode = S_IFLNK | 0777, .size = 1, .nlink = 1, .target = "%", .path = "/l"},
		"l 0777 0 0 1 0.000000000 1 - - - %25 - /l\n");
	assert_line(&(struct lm_listing_line){.mode = S_IFLNK | 0777, .nlink = 1, .target = "", .path = "/l"},
		"l 0777 0 0 0 0.000000000 1 - - - - - /l\n");
}

static void test_types(void **state)
{
	assert_int_equal(lm_listing_type(S_IFREG), 'f');
	assert_int_equal(lm_listing_type(S_IFIFO), 'p');
	assert_int_equal(lm_listing_type(S_IFBLK), 'b');
	assert_int_equal(lm_listing_type(S_IFSOCK), 's');
	for (uint32_t type = 0; type < 16; type++)
		assert_non_null(strchr("fdlpcbs?", lm_listing_type(type << 12 | 07777)));
	assert_int_equal(lm_listing_type(S_IFMT), '?');
}

static void test_escape(void **state)
{
	CLEANUP(lm_buf_done) struct lm_buf out = LM_BUF(1024);
	for (unsigned c = 1; c < 256; c++) {
		char byte = (char)c, code[4];
		bool plain = c > 0x20 && c < 0x7f && c != '%' && c != ',' && c != '=';
		lm_buf_clear(&out);
		assert_int_equal(lm_listing_escape(&out, &byte, 1), 0);
		snprintf(code, sizeof(code), plain ? "%c" : "%%%02x", c);
		assert_string_equal(lm_buf_cstr(&out), code);
	}
	lm_buf_clear(&out);
	assert_int_equal(lm_listing_escape(&out, "", 0), 0);
	assert_string_equal(lm_buf_cstr(&out), "-");
	CLEANUP(lm_buf_done) struct lm_buf little = LM_BUF(2);
	assert_int_equal(lm_listing_escape(&little, "abc", 3), -EMSGSIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_types),
		cmocka_unit_test(test_escape),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
