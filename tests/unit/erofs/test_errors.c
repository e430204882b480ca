/* What is refused, and by which words. */
#include "erofs_test.h"

static const struct lm_erofs_attr root = {.mode = S_IFDIR | 0755};

static void refused(const struct lm_erofs_attr *attr, int code, const char *message)
{
	CLEANUP(lm_erofs_freep) struct lm_erofs *erofs = NULL;
	struct lm_err err = LM_ERR_INIT;
	uint32_t number, after = 77;
	assert_ok(lm_erofs_new(&erofs, &err), &err);
	assert_ok(lm_erofs_inode(erofs, &root, &number, &err), &err);
	assert_int_equal(lm_erofs_inode(erofs, attr, &after, &err), code);
	assert_int_equal(after, 77);
	if (!strstr(err.msg, message))
		fail_msg("\"%s\" is not in \"%s\"", message, err.msg); /* cmocka */
	assert_int_equal(lm_erofs_inode(erofs, attr, &after, NULL), code);
	/* Nothing came of it. */
	assert_ok(lm_erofs_inode(erofs, &root, &after, &err), &err);
	assert_int_equal(after, 1);
}

static void test_inodes(void **state)
{
	char longest[LM_EROFS_TARGET_MAX + 2];
	memset(longest, 'x', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	char redirect[LM_EROFS_TARGET_MAX + 2] = "/";
	memcpy(redirect + 1, longest + 1, sizeof(longest) - 1);
	const struct {
		struct lm_erofs_attr attr;
		int code;
		const char *message;
	} cases[] = {
		{{.mode = 0644}, -EINVAL, "no type of a file"},
		{{.mode = S_IFMT | 0644}, -EINVAL, "no type of a file"},
		{{.mode = 0x10000 | S_IFDIR}, -EINVAL, "mode"},
		{{.mode = S_IFDIR, .mtime_ns = 1000000000}, -EINVAL, "1000000000 nanoseconds"},
		{{.mode = S_IFLNK}, -EINVAL, "no target"},
		{{.mode = S_IFLNK, .target = ""}, -EINVAL, "no target"},
		{{.mode = S_IFLNK, .target = longest}, -EINVAL, "target of more than 4095 bytes: xxx"},
		{{.mode = S_IFDIR, .target = "x"}, -EINVAL, "a target for what can have none"},
		{{.mode = S_IFREG, .size = 1}, -EINVAL, "no redirect"},
		{{.mode = S_IFREG, .size = 1, .redirect = ""}, -EINVAL, "no redirect"},
		{{.mode = S_IFREG, .size = 1, .redirect = redirect}, -EINVAL, "redirect of more than 4095 bytes: /xxx"},
		{{.mode = S_IFREG, .size = 1, .redirect = "ab/cd"}, -EINVAL, "not absolute or has empty parts: ab/cd"},
		{{.mode = S_IFREG, .size = 1, .redirect = "/ab/"}, -EINVAL, "empty parts"},
		{{.mode = S_IFREG, .size = 1, .redirect = "/"}, -EINVAL, "empty parts"},
		{{.mode = S_IFREG, .size = 1, .redirect = "/ab//cd"}, -EINVAL, "empty parts"},
		{{.mode = S_IFREG, .redirect = "/x"}, -EINVAL, "a redirect for what can have none"},
		{{.mode = S_IFDIR, .redirect = "/x"}, -EINVAL, "a redirect for what can have none"},
		{{.mode = S_IFREG, .size = LM_EROFS_SIZE_MAX + 1, .redirect = "/x"}, -EFBIG, "281474976710657 bytes"},
		{{.mode = S_IFDIR, .content = true}, -EINVAL, "content of what can have none"},
		{{.mode = S_IFLNK, .target = "x", .content = true}, -EINVAL, "content of what can have none"},
		{{.mode = S_IFREG, .content = true}, -EINVAL, "content of what can have none"},
		{{.mode = S_IFREG, .size = 1, .redirect = "/x", .content = true}, -EINVAL, "a redirect for what"},
		{{.mode = S_IFREG, .size = 1, .content = true, .content_at = 4095}, -EINVAL, "begin with a block"},
		{{.mode = S_IFREG, .size = 1, .content = true, .content_at = LM_EROFS_IMAGE_MAX}, -EFBIG, "16 TiB"},
		{{.mode = S_IFREG, .size = LM_EROFS_IMAGE_MAX + 1, .content = true}, -EFBIG, "16 TiB"},
		{{.mode = S_IFREG, .size = 1, .content = true, .content_at = -UINT64_C(4096)}, -EFBIG, "16 TiB"},
		{{.mode = S_IFCHR, .rdev = makedev(0x1000, 0)}, -EINVAL, "device 4096:0"},
		{{.mode = S_IFBLK, .rdev = makedev(0, 0x100000)}, -EINVAL, "device 0:1048576"},
		{{.mode = S_IFDIR, .xattr = "\2\0", .xattr_len = 2}, -EINVAL, "malformed extended attributes"},
		{{.mode = S_IFDIR, .xattr = "\1\1\6\1user.a", .xattr_len = 10}, -EINVAL, "malformed"},
		{{.mode = S_IFDIR, .xattr = "\1\1\5\1user.v", .xattr_len = 10}, -EINVAL, "user. can't be stored"},
		{{.mode = S_IFDIR, .xattr = "\1\1\7\1other.av", .xattr_len = 12}, -EINVAL, "other.a can't be stored"},
		{{.mode = S_IFDIR, .xattr = "\1\1\x11\0system.posix_acl_", .xattr_len = 21}, -EINVAL,
			"can't be stored"},
		{{.mode = S_IFDIR, .xattr = "\1\1\x18\0system.posix_acl_accessx", .xattr_len = 28}, -EINVAL,
			"system.posix_acl_accessx can't"},
		{{.mode = S_IFDIR, .xattr = "\1\2\6\1user.av\6\1user.aw", .xattr_len = 20}, -EINVAL,
			"user.a is there twice"},
		{{.mode = S_IFREG, .size = 1, .redirect = "/x", .xattr = "\1\1\x18\0" METACOPY_NAME, .xattr_len = 28},
			-EINVAL, METACOPY_NAME " is in the way"},
		{{.mode = S_IFREG,
			 .size = 1,
			 .redirect = "/x",
			 .xattr = "\1\1\x18\1" REDIRECT_NAME "y",
			 .xattr_len = 29},
			-EINVAL, REDIRECT_NAME " is in the way"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		refused(&cases[i].attr, cases[i].code, cases[i].message);
}

static void test_roots(void **state)
{
	CLEANUP(lm_erofs_freep) struct lm_erofs *erofs = NULL;
	CLEANUP(lm_closep) int fd = memfd_create("image", MFD_CLOEXEC);
	struct lm_err err = LM_ERR_INIT;
	uint32_t number;
	uint64_t size;
	assert_ok(lm_erofs_new(&erofs, &err), &err);
	assert_int_equal(lm_erofs_inode(erofs, &(struct lm_erofs_attr){.mode = S_IFREG}, &number, &err), -EINVAL);
	assert_string_equal(err.msg, "the root is no directory");
	assert_int_equal(lm_erofs_write(erofs, fd, &size, &err), -EINVAL);
	assert_string_equal(err.msg, "EROFS image: no root");
	lm_erofs_free(NULL);
}

static void test_links(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	char name[LM_EROFS_NAME_MAX + 2];
	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	tree_init(&tree);
	uint32_t dir = tree.items[add_dir(&tree, 0, "dir")].inode,
		 file = tree.items[add_file(&tree, 0, "file", 1)].inode;
	const struct {
		uint32_t directory;
		const char *name;
		uint32_t inode;
		const char *message;
	} cases[] = {
		{0, "", file, "\"\" can't be a name"},
		{0, ".", file, "\".\" can't be a name"},
		{0, "..", file, "\"..\" can't be a name"},
		{0, "a/b", file, "\"a/b\" can't be a name"},
		{0, name, file, "name of more than 255 bytes: nnn"},
		{0, "again", dir, "again: a directory that is dir already"},
		{dir, "top", 0, "top: the root can't have a name"},
		{file, "below", dir, "below: its parent is no directory"},
		{file, "below", file, "below: its parent is no directory"},
		{0, "none", 99, "none: no inode 99"},
		{99, "none", file, "none: no inode 99"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct lm_err err = LM_ERR_INIT;
		assert_int_equal(
			lm_erofs_link(tree.erofs, cases[i].directory, cases[i].name, cases[i].inode, &err), -EINVAL);
		if (!strstr(err.msg, cases[i].message))
			fail_msg("\"%s\" is not in \"%s\"", cases[i].message, err.msg); /* cmocka */
	}
	uint64_t size;
	close(image_of(&tree, &size));
	assert_int_equal(size, 8192);
}

static void test_twice(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(lm_closep) int fd = memfd_create("image", MFD_CLOEXEC);
	struct lm_err err = LM_ERR_INIT;
	uint64_t size = 1;
	tree_init(&tree);
	size_t inner = add_dir(&tree, add_dir(&tree, 0, "outer"), "inner");
	add_file(&tree, inner, "b", 1);
	add_file(&tree, inner, "a", 1);
	add_file(&tree, inner, "b", 2);
	assert_int_equal(lm_erofs_write(tree.erofs, fd, &size, &err), -EEXIST);
	assert_string_equal(err.msg, "EROFS image: /outer/inner/b is there twice");
	assert_int_equal(size, 1);
}

/* Each content is allowed, but not together with what is before it. */
static void test_too_large(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(lm_closep) int fd = memfd_create("image", MFD_CLOEXEC);
	struct lm_err err = LM_ERR_INIT;
	uint64_t size = 1;
	tree_init(&tree);
	add_content(&tree, 0, "last", 4096, LM_EROFS_IMAGE_MAX - 2 * 4096);
	assert_int_equal(lm_erofs_write(tree.erofs, fd, &size, &err), -EFBIG);
	assert_string_equal(err.msg, "EROFS image: more than 16 TiB");
}

static void test_after_writing(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	struct lm_err err = LM_ERR_INIT;
	uint64_t size;
	uint32_t number;
	tree_init(&tree);
	add_file(&tree, 0, "file", 1);
	CLEANUP(lm_closep) int fd = image_of(&tree, &size);
	assert_int_equal(lm_erofs_inode(tree.erofs, &root, &number, &err), -EINVAL);
	assert_int_equal(lm_erofs_link(tree.erofs, 0, "new", 1, &err), -EINVAL);
	assert_int_equal(lm_erofs_write(tree.erofs, fd, &size, &err), -EINVAL);
}

static void test_unwritable(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(lm_closep) int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	struct lm_err err = LM_ERR_INIT;
	uint64_t size = 1;
	assert_true(fd >= 0);
	tree_init(&tree);
	add_many(&tree, 20000); /* more than what is collected */
	assert_int_equal(lm_erofs_write(tree.erofs, fd, &size, &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "EROFS image: "));
	assert_int_equal(size, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inodes),
		cmocka_unit_test(test_roots),
		cmocka_unit_test(test_links),
		cmocka_unit_test(test_twice),
		cmocka_unit_test(test_too_large),
		cmocka_unit_test(test_after_writing),
		cmocka_unit_test(test_unwritable),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
