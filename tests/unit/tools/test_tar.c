#include "convert/tar.h"
#include "convert_test.h"

/* A tar being made, then read. */
struct fixture {
	struct lm_buf tar;
	struct tm_input input;
	struct lm_tar *reader;
	struct lm_tar_entry entry;
	struct lm_err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->tar = LM_BUF(64 << 20);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_tar_free(f->reader);
	lm_buf_done(&f->tar);
	free(f);
	return 0;
}

/* Starts reading; stretches of an odd size, so that everything is met in pieces. */
static void start(struct fixture *f)
{
	lm_tar_free(f->reader);
	f->input = (struct tm_input){&f->tar, 0, 97};
	assert_int_equal(lm_tar_new(tm_read, &f->input, &f->reader, &f->err), 0);
}

static void expect_entry(struct fixture *f, char type, const char *name)
{
	int r = lm_tar_next(f->reader, &f->entry, &f->err);
	if (r != 1)
		print_error("%s\n", f->err.msg);
	assert_int_equal(r, 1);
	assert_int_equal(f->entry.type, type);
	assert_string_equal(f->entry.name, name);
}

static void expect_end(struct fixture *f)
{
	assert_int_equal(lm_tar_next(f->reader, &f->entry, &f->err), 0);
}

static void expect_malformed(struct fixture *f, const char *message)
{
	assert_int_equal(lm_tar_next(f->reader, &f->entry, &f->err), -EPROTO);
	if (!strstr(f->err.msg, message))
		print_error("%s\n", f->err.msg);
	assert_non_null(strstr(f->err.msg, message));
}

static void expect_content(struct fixture *f, const void *want, size_t len)
{
	assert_int_equal(f->entry.size, len);
	CLEANUP(lm_buf_done) struct lm_buf got = LM_BUF(64 << 20);
	for (;;) {
		uint8_t piece[1000];
		ssize_t n = lm_tar_read(f->reader, piece, sizeof(piece), &f->err);
		if (n < 0)
			print_error("%s\n", f->err.msg);
		assert_true(n >= 0);
		if (n == 0)
			break;
		tm_append(&got, piece, (size_t)n);
	}
	assert_int_equal(got.len, len);
	if (len > 0)
		assert_memory_equal(got.data, want, len);
}

static void test_ustar_fields(void **state)
{
	struct fixture *f = *state;
	tm_file(&f->tar,
		(struct tm_header){.name = "dir/file", .mode = 04755, .uid = 1000, .gid = 100, .mtime = 1234567890},
		"hello", 5);
	tm_block(&f->tar, (struct tm_header){.name = "null", .type = '3', .major = 1, .minor = 3});
	tm_block(&f->tar, (struct tm_header){.name = "name", .prefix = "some/prefix", .type = '5'});
	tm_block(&f->tar, (struct tm_header){.name = "link", .link = "../target", .type = '2'});
	tm_end(&f->tar);
	start(f);
	expect_entry(f, '0', "dir/file");
	assert_int_equal(f->entry.mode, 04755);
	assert_int_equal(f->entry.uid, 1000);
	assert_int_equal(f->entry.gid, 100);
	assert_int_equal(f->entry.mtime_s, 1234567890);
	expect_content(f, "hello", 5);
	expect_entry(f, '3', "null");
	assert_int_equal(f->entry.dev_major, 1);
	assert_int_equal(f->entry.dev_minor, 3);
	expect_entry(f, '5', "some/prefix/name");
	expect_entry(f, '2', "link");
	assert_string_equal(f->entry.link, "../target");
	expect_end(f);
	assert_int_equal(lm_tar_drain(f->reader, &f->err), 0);
	assert_int_equal(f->input.at, f->tar.len);
}

/* Content that nobody read is passed over, also where only a part of it was read. */
static void test_unread_content(void **state)
{
	struct fixture *f = *state;
	char data[3000];
	memset(data, 'x', sizeof(data));
	tm_file(&f->tar, (struct tm_header){.name = "a"}, data, sizeof(data));
	tm_file(&f->tar, (struct tm_header){.name = "b"}, data, sizeof(data));
	tm_file(&f->tar, (struct tm_header){.name = "c"}, "c", 1);
	tm_end(&f->tar);
	start(f);
	expect_entry(f, '0', "a");
	expect_entry(f, '0', "b");
	uint8_t piece[10];
	assert_int_equal(lm_tar_read(f->reader, piece, sizeof(piece), &f->err), 10);
	expect_entry(f, '0', "c");
	expect_content(f, "c", 1);
	expect_end(f);
}

static void base256_uid(uint8_t *block)
{
	memset(block + 108, 0, 8);
	block[108] = 0x80;
	block[112] = 0x12;
	block[113] = 0x34;
	block[114] = 0x56;
	block[115] = 0x78;
}

static void negative_mtime(uint8_t *block)
{
	memset(block + 136, 0xff, 12);
	block[147] = 0xfe; /* -2 */
}

static void spaced_size(uint8_t *block)
{
	memcpy(block + 124, "         3 \0", 12);
}

static void bad_mode(uint8_t *block)
{
	memcpy(block + 100, "00x0644", 8);
}

static void test_numbers(void **state)
{
	struct fixture *f = *state;
	tm_block(&f->tar, (struct tm_header){.name = "a", .type = '5', .patch = base256_uid});
	tm_block(&f->tar, (struct tm_header){.name = "b", .type = '5', .patch = negative_mtime});
	tm_block(&f->tar, (struct tm_header){.name = "c", .patch = spaced_size});
	tm_append(&f->tar, "xyz", 3);
	tm_pad(&f->tar);
	tm_block(&f->tar, (struct tm_header){.name = "d", .type = '5', .patch = bad_mode});
	start(f);
	expect_entry(f, '5', "a");
	assert_int_equal(f->entry.uid, 0x12345678);
	expect_entry(f, '5', "b");
	assert_int_equal(f->entry.mtime_s, -2);
	expect_entry(f, '0', "c");
	expect_content(f, "xyz", 3);
	expect_malformed(f, "malformed number");
}

static void test_checksum(void **state)
{
	struct fixture *f = *state;
	tm_block(&f->tar, (struct tm_header){.name = "a", .type = '5'});
	f->tar.data[1] = 'x';
	start(f);
	expect_malformed(f, "checksum");
}

static void test_long_names(void **state)
{
	struct fixture *f = *state;
	char name[300], target[400];
	memset(name, 'n', sizeof(name));
	memset(target, 't', sizeof(target));
	name[sizeof(name) - 1] = target[sizeof(target) - 1] = '\0';
	name[150] = target[200] = '/';
	tm_file(&f->tar, (struct tm_header){.name = "././@LongLink", .type = 'L', .format = TM_GNU}, name,
		sizeof(name));
	tm_file(&f->tar, (struct tm_header){.name = "././@LongLink", .type = 'K', .format = TM_GNU}, target,
		sizeof(target));
	tm_block(&f->tar, (struct tm_header){.name = "short", .type = '2', .link = "l", .format = TM_GNU});
	tm_pax(&f->tar, "path", name);
	tm_block(&f->tar, (struct tm_header){.name = "short"});
	tm_block(&f->tar, (struct tm_header){.name = "next"}); /* extensions are for one entry only */
	tm_end(&f->tar);
	start(f);
	expect_entry(f, '2', name);
	assert_string_equal(f->entry.link, target);
	expect_entry(f, '0', name);
	expect_entry(f, '0', "next");
	expect_end(f);
}

/* Where both are there GNU's name wins, in any order. */
static void test_gnu_name_over_pax(void **state)
{
	struct fixture *f = *state;
	tm_file(&f->tar, (struct tm_header){.name = "L", .type = 'L', .format = TM_GNU}, "gnu", 4);
	tm_pax(&f->tar, "path", "pax");
	tm_block(&f->tar, (struct tm_header){.name = "header"});
	tm_end(&f->tar);
	start(f);
	expect_entry(f, '0', "gnu");
	expect_end(f);
}

static void old_go_prefix(uint8_t *block)
{
	strcpy((char *)block + 345, "a/prefix/where/times/belong");
}

static void gnu_times(uint8_t *block)
{
	memcpy(block + 345,
		"14654373777\0"
		"14654373777\0",
		24);
}

static void test_gnu_prefix_of_old_go(void **state)
{
	struct fixture *f = *state;
	tm_block(&f->tar, (struct tm_header){.name = "old", .format = TM_GNU, .patch = old_go_prefix});
	tm_block(&f->tar, (struct tm_header){.name = "new", .format = TM_GNU, .patch = gnu_times});
	tm_end(&f->tar);
	start(f);
	expect_entry(f, '0', "a/prefix/where/times/belong/old");
	expect_entry(f, '0', "new");
	expect_end(f);
}

static void star_trailer(uint8_t *block)
{
	memcpy(block + 508, "tar", 4);
	memcpy(block + 476, "14654373777 14654373777 ", 24);
}

static void test_star(void **state)
{
	struct fixture *f = *state;
	tm_block(&f->tar, (struct tm_header){.name = "file", .prefix = "star", .patch = star_trailer});
	tm_end(&f->tar);
	start(f);
	expect_entry(f, '0', "star/file");
	expect_end(f);
}

static void test_v7_directory(void **state)
{
	struct fixture *f = *state;
	tm_block(&f->tar, (struct tm_header){.name = "dir/", .format = TM_V7, .type_nul = true, .size = 5000});
	tm_block(&f->tar, (struct tm_header){.name = "file", .format = TM_V7, .type_nul = true});
	tm_block(&f->tar, (struct tm_header){.name = "slash/"}); /* type '0' stays what it is */
	tm_end(&f->tar);
	start(f);
	expect_entry(f, '5', "dir/");
	assert_int_equal(f->entry.size, 0);
	expect_entry(f, '0', "file");
	expect_entry(f, '0', "slash/");
	expect_end(f);
}

/* Links and the like have no body, also where the header gives them a size. */
static void test_sizes_without_bodies(void **state)
{
	struct fixture *f = *state;
	const char types[] = "123456";
	for (const char *t = types; *t; t++)
		tm_block(&f->tar, (struct tm_header){.name = "x", .type = *t, .link = "y", .size = 4096});
	tm_pax(&f->tar, "size", "9999");
	tm_block(&f->tar, (struct tm_header){.name = "x", .type = '1', .link = "y"});
	tm_end(&f->tar);
	start(f);
	for (const char *t = types; *t; t++)
		expect_entry(f, *t, "x");
	expect_entry(f, '1', "x");
	expect_end(f);
}

static void test_pax_fields(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_buf_done) struct lm_buf records = LM_BUF(1 << 20);
	tm_record(&records, "mtime", "1700000000.1234567899", 21);
	tm_record(&records, "uid", "3000000000", 10);
	tm_record(&records, "gid", "4000000000", 10);
	tm_record(&records, "path", "n\xff\xfe\xc3", 4); /* no UTF-8 */
	tm_record(&records, "linkpath", "t\xff", 2);
	tm_record(&records, "uname", "", 0);
	tm_record(&records, "SCHILY.xattr.user.a", "first", 5);
	tm_record(&records, "SCHILY.xattr.security.capability", "\0\1=\n\xff", 5);
	tm_record(&records, "SCHILY.xattr.user.a", "", 0);
	tm_record(&records, "LIBARCHIVE.xattr.user.b", "eA==", 4);
	tm_record(&records, "RHT.security.selinux", "s", 1);
	tm_record(&records, "SCHILY.acl.access", "user::---,group::---,other::---", 31);
	tm_extension(&f->tar, 'x', &records);
	tm_block(&f->tar,
		(struct tm_header){.name = "old", .type = '2', .link = "old", .uid = 7, .mtime = 7, .mode = 0751});
	tm_end(&f->tar);
	start(f);
	expect_entry(f, '2', "n\xff\xfe\xc3");
	assert_string_equal(f->entry.link, "t\xff");
	assert_int_equal(f->entry.mtime_s, 1700000000);
	assert_int_equal(f->entry.mtime_ns, 123456789);
	assert_int_equal(f->entry.uid, 3000000000);
	assert_int_equal(f->entry.gid, 4000000000);
	assert_int_equal(f->entry.mode, 0751);
	assert_int_equal(f->entry.xattr_count, 3);
	assert_string_equal(f->entry.xattrs[1].key, "security.capability");
	assert_int_equal(f->entry.xattrs[1].value_len, 5);
	assert_memory_equal(f->entry.xattrs[1].value, "\0\1=\n\xff", 5);
	assert_string_equal(f->entry.xattrs[2].key, "user.a");
	assert_int_equal(f->entry.xattrs[2].value_len, 0);
	expect_end(f);
}

static void test_pax_times(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *text;
		int64_t s;
		uint32_t ns;
	} good[] = {
		{"0", 0, 0}, {"1.5", 1, 500000000}, {"1.", 1, 0}, {"-1.25", -2, 750000000}, {"-0.5", -1, 500000000},
		{"-7", -7, 0}, {"9223372036854775807", INT64_MAX, 0}, {"+3.000000001", 3, 1},
		{"", 42, 0}, /* empty: the header's */
	};
	static const char *const bad[] = {
		"x", ".5", "1.5x", "1,5", "9223372036854775808", "-9223372036854775808.1", "1.-5"};
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		lm_buf_clear(&f->tar);
		tm_pax(&f->tar, "mtime", good[i].text);
		tm_block(&f->tar, (struct tm_header){.name = "x", .mtime = 42});
		start(f);
		expect_entry(f, '0', "x");
		assert_int_equal(f->entry.mtime_s, good[i].s);
		assert_int_equal(f->entry.mtime_ns, good[i].ns);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		lm_buf_clear(&f->tar);
		tm_pax(&f->tar, "mtime", bad[i]);
		tm_block(&f->tar, (struct tm_header){.name = "x"});
		start(f);
		expect_malformed(f, "malformed number");
	}
}

static void test_pax_malformed(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *text;
		size_t len;
	} bad[] = {
		{"x path=a\n", 9},
		{"4 a=\n", 5},
		{"99 path=a\n", 10},
		{"10 path=a\n", 9},
		{"9 path=ab\n", 10},
		{"8 patha\n", 8},
		{"5 =a\n", 5},
		{"9 path=a\0", 9},
		{"11 path=a\0b\n", 12},
		{"9 p\0th=a\n", 9},
		{"path=a\n", 7},
		{"18446744073709551620 path=a\n", 28},
		{"-9 path=a\n", 10},
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		lm_buf_clear(&f->tar);
		tm_file(&f->tar, (struct tm_header){.name = "x", .type = 'x'}, bad[i].text, bad[i].len);
		tm_block(&f->tar, (struct tm_header){.name = "y"});
		start(f);
		expect_malformed(f, "pax record");
	}
}

/* Of two headers before one entry the second alone counts; a global one applies to nothing. */
static void test_pax_several_headers(void **state)
{
	struct fixture *f = *state;
	CLEANUP(lm_buf_done) struct lm_buf global = LM_BUF(1 << 20);
	tm_record(&global, "mtime", "99", 2);
	tm_extension(&f->tar, 'g', &global);
	tm_pax(&f->tar, "path", "first");
	tm_pax(&f->tar, "uid", "5");
	tm_block(&f->tar, (struct tm_header){.name = "name", .mtime = 3});
	tm_end(&f->tar);
	start(f);
	expect_entry(f, 'g', "PaxHeaders/x");
	assert_int_equal(f->entry.size, 0);
	expect_entry(f, '0', "name");
	assert_int_equal(f->entry.uid, 5);
	assert_int_equal(f->entry.mtime_s, 3);
	expect_end(f);
}

static void test_ends(void **state)
{
	struct fixture *f = *state;
	static const uint8_t zeros[1024];
	tm_file(&f->tar, (struct tm_header){.name = "a"}, "abc", 3);
	const size_t whole = f->tar.len;
	/* At a header, inside the padding, after the last byte of content, after one zero block. */
	for (size_t len = 512 + 3; len <= whole; len += len == 512 + 3 ? 100 : 1) {
		f->tar.len = len;
		start(f);
		expect_entry(f, '0', "a");
		expect_content(f, "abc", 3);
		expect_end(f);
	}
	f->tar.len = whole;
	tm_append(&f->tar, zeros, 512);
	start(f);
	expect_entry(f, '0', "a");
	expect_end(f);
	/* One zero block and then something else is neither an end nor an entry. */
	tm_block(&f->tar, (struct tm_header){.name = "b"});
	start(f);
	expect_entry(f, '0', "a");
	expect_malformed(f, "zero block");
	f->tar.len = 0;
	start(f);
	expect_end(f);
}

static void test_cut_short(void **state)
{
	struct fixture *f = *state;
	tm_pax(&f->tar, "path", "name");
	const size_t header = f->tar.len;
	tm_file(&f->tar, (struct tm_header){.name = "a"}, "0123456789", 10);
	for (size_t len = 1; len < header + 512 + 10; len++) {
		f->tar.len = len;
		start(f);
		struct lm_tar_entry entry;
		int r = lm_tar_next(f->reader, &entry, &f->err);
		if (r == 1) /* the header is whole: its content is not */
			r = lm_tar_next(f->reader, &entry, &f->err);
		/* Between the extension and its entry, and in the extension's padding, Go sees an end. */
		bool boundary = len > 512 + 12 && len <= header;
		assert_int_equal(r, boundary ? 0 : -EPROTO);
	}
}

static void test_content_cut_short(void **state)
{
	struct fixture *f = *state;
	tm_file(&f->tar, (struct tm_header){.name = "a"}, "0123456789", 10);
	f->tar.len = 512 + 5;
	start(f);
	expect_entry(f, '0', "a");
	uint8_t piece[100];
	assert_int_equal(lm_tar_read(f->reader, piece, sizeof(piece), &f->err), 5);
	assert_int_equal(lm_tar_read(f->reader, piece, sizeof(piece), &f->err), -EPROTO);
	assert_non_null(strstr(f->err.msg, "cut short"));
}

/* --- sparse files: 2 bytes at 1000, 3 at 70000, 70100 in all --- */

static void make_sparse_content(uint8_t ret[70100])
{
	memset(ret, 0, 70100);
	memcpy(ret + 1000, "ab", 2);
	memcpy(ret + 70000, "cde", 3);
}

static void sparse_gnu_header(uint8_t *block)
{
	tm_octal(block + 386, 12, 1000);
	tm_octal(block + 398, 12, 2);
	block[482] = 1; /* an extension follows */
	tm_octal(block + 483, 12, 70100);
}

static void test_sparse_gnu(void **state)
{
	struct fixture *f = *state;
	uint8_t want[70100], extension[512] = {0};
	make_sparse_content(want);
	tm_block(&f->tar,
		(struct tm_header){.name = "s", .type = 'S', .format = TM_GNU, .size = 5, .patch = sparse_gnu_header});
	tm_octal(extension, 12, 70000);
	tm_octal(extension + 12, 12, 3);
	tm_octal(extension + 24, 12, 70100);
	tm_octal(extension + 36, 12, 0);
	tm_append(&f->tar, extension, 512);
	tm_append(&f->tar, "abcde", 5);
	tm_pad(&f->tar);
	tm_block(&f->tar, (struct tm_header){.name = "next"});
	tm_end(&f->tar);
	start(f);
	expect_entry(f, 'S', "s");
	expect_content(f, want, sizeof(want));
	expect_entry(f, '0', "next");
	expect_end(f);
}

static void add_sparse_pax(struct fixture *f, const char *const (*records)[2], size_t count, const char *body)
{
	CLEANUP(lm_buf_done) struct lm_buf pax = LM_BUF(1 << 20);
	for (size_t i = 0; i < count; i++)
		tm_record(&pax, records[i][0], records[i][1], strlen(records[i][1]));
	tm_extension(&f->tar, 'x', &pax);
	CLEANUP(lm_buf_done) struct lm_buf data = LM_BUF(1 << 20);
	if (body) {
		tm_append(&data, body, strlen(body));
		tm_pad(&data);
	}
	tm_append(&data, "abcde", 5);
	tm_file(&f->tar, (struct tm_header){.name = "GNUSparseFile.1/s"}, data.data, data.len);
}

static void test_sparse_pax(void **state)
{
	struct fixture *f = *state;
	uint8_t want[70100];
	make_sparse_content(want);
	static const char *const v00[][2] = {{"GNU.sparse.size", "70100"}, {"GNU.sparse.numblocks", "2"},
		{"GNU.sparse.offset", "1000"}, {"GNU.sparse.numbytes", "2"}, {"GNU.sparse.offset", "70000"},
		{"GNU.sparse.numbytes", "3"}, {"GNU.sparse.name", "s00"}};
	static const char *const v01[][2] = {{"GNU.sparse.major", "0"}, {"GNU.sparse.minor", "1"},
		{"GNU.sparse.name", "s01"}, {"GNU.sparse.size", "70100"}, {"GNU.sparse.numblocks", "2"},
		{"GNU.sparse.map", "1000,2,70000,3"}};
	static const char *const v10[][2] = {{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"},
		{"GNU.sparse.name", "s10"}, {"GNU.sparse.realsize", "70100"}};
	add_sparse_pax(f, v00, ARRAY_LEN(v00), NULL);
	add_sparse_pax(f, v01, ARRAY_LEN(v01), NULL);
	add_sparse_pax(f, v10, ARRAY_LEN(v10), "2\n1000\n2\n70000\n3\n");
	tm_end(&f->tar);
	start(f);
	expect_entry(f, '0', "s00");
	expect_content(f, want, sizeof(want));
	expect_entry(f, '0', "s01");
	expect_content(f, want, sizeof(want));
	expect_entry(f, '0', "s10");
	expect_content(f, want, sizeof(want));
	expect_end(f);
}

static void test_sparse_malformed(void **state)
{
	struct fixture *f = *state;
	static const char *const maps[] = {
		"2\n1000\n2\n70000\n",				      /* cut short */
		"2\n1000\n2\n1001\n3\n",			      /* overlap */
		"2\n70000\n3\n1000\n2\n",			      /* backwards */
		"2\n1000\n2\n70098\n3\n",			      /* beyond the end */
		"2\n1000\n2\n70000\n4\n",			      /* more than there is */
		"1\n1000\n2\n",					      /* less than there is */
		"2\n-1\n2\n70000\n3\n",				      /* negative */
		"99999999999\n1000\n2\n",			      /* huge */
		"x\n",						      /* no number */
		"111111111111111111111111111111111111111111111111\n", /* no end */
	};
	for (size_t i = 0; i < ARRAY_LEN(maps); i++) {
		lm_buf_clear(&f->tar);
		static const char *const v10[][2] = {
			{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.realsize", "70100"}};
		add_sparse_pax(f, v10, ARRAY_LEN(v10), maps[i]);
		start(f);
		expect_malformed(f, "sparse");
	}
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_ustar_fields),
		TEST(test_unread_content),
		TEST(test_numbers),
		TEST(test_checksum),
		TEST(test_long_names),
		TEST(test_gnu_name_over_pax),
		TEST(test_gnu_prefix_of_old_go),
		TEST(test_star),
		TEST(test_v7_directory),
		TEST(test_sizes_without_bodies),
		TEST(test_pax_fields),
		TEST(test_pax_times),
		TEST(test_pax_malformed),
		TEST(test_pax_several_headers),
		TEST(test_ends),
		TEST(test_cut_short),
		TEST(test_content_cut_short),
		TEST(test_sparse_gnu),
		TEST(test_sparse_pax),
		TEST(test_sparse_malformed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
