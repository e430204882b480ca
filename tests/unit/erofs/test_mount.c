/* Images as the kernel shows them, by themselves and below overlayfs. Needs root, loop devices, and EROFS. */
#include "erofs_test.h"

#include <dirent.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/utsname.h>
#include <sys/xattr.h>

enum { LOOP_TRIES = 20, DEEP = 1000 };

struct mounted {
	char dir[64]; /* empty: nothing is mounted */
};

static void mounted_done(struct mounted *mounted)
{
	if (!mounted->dir[0])
		return;
	assert_int_equal(umount2(mounted->dir, MNT_DETACH), 0);
	assert_int_equal(rmdir(mounted->dir), 0);
}

static void make_dir(char ret[64])
{
	const char *base = getenv("TMPDIR");
	snprintf(ret, 64, "%.40s/lamella-erofs-XXXXXX", base ? base : "/tmp");
	assert_non_null(mkdtemp(ret));
}

/* A loop device that shows the file and goes with its last user; -1 with errno. */
static int loop_open(int image, char *ret, size_t size)
{
	CLEANUP(lm_closep) int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return -1;
	struct loop_config config = {.fd = (uint32_t)image, .info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR};
	for (int i = 0; i < LOOP_TRIES; i++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0)
			return -1;
		snprintf(ret, size, "/dev/loop%d", number);
		CLEANUP(lm_closep) int loop = open(ret, O_RDONLY | O_CLOEXEC);
		if (loop < 0)
			return -1;
		if (ioctl(loop, LOOP_CONFIGURE, &config) == 0)
			return STEAL_FD(loop);
		if (errno != EBUSY) /* somebody else was faster */
			return -1;
	}
	return -1;
}

/* False, with a reason printed, where images can't be mounted. */
static bool mount_image(struct tree *tree, struct mounted *ret)
{
	uint64_t size;
	char device[32];
	CLEANUP(lm_closep) int image = image_of(tree, &size);
	put_contents(image, size, tree);
	CLEANUP(lm_closep) int loop = loop_open(image, device, sizeof(device));
	if (loop < 0) {
		printf("skipped: no loop device: %s\n", strerror(errno));
		return false;
	}
	struct mounted mounted;
	make_dir(mounted.dir);
	if (mount(device, mounted.dir, "erofs", MS_RDONLY, NULL) < 0) {
		int error = errno;
		assert_int_equal(rmdir(mounted.dir), 0);
		/* Only these say that there is no such file system; all else is about the image. */
		if (error != ENODEV && error != EPERM)
			fail_msg("mount: %s", strerror(error)); /* cmocka */
		printf("skipped: no EROFS: %s\n", strerror(error));
		return false;
	}
	*ret = mounted;
	return true;
}

/* Mounts of this program are its own. */
static bool isolated(void)
{
	static bool done;
	if (geteuid() != 0) {
		printf("skipped: not root\n");
		return false;
	}
	if (!done && (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)) {
		printf("skipped: no mount namespace: %s\n", strerror(errno));
		return false;
	}
	done = true;
	return true;
}

static bool is_listed(const char *list, ssize_t len, const char *name)
{
	for (const char *at = list; at < list + len; at += strlen(at) + 1)
		if (strcmp(at, name) == 0)
			return true;
	return false;
}

static void check_xattr(
	const char *path, const char *list, ssize_t listed, const char *name, const void *value, size_t len)
{
	char got[LM_EROFS_TARGET_MAX + 1];
	ssize_t r = lgetxattr(path, name, got, sizeof(got));
	if (r < 0)
		fail_msg("%s: %s: %s", path, name, strerror(errno)); /* cmocka */
	assert_int_equal(r, len);
	if (len > 0)
		assert_memory_equal(got, value, len);
	assert_true(is_listed(list, listed, name));
}

static void check_xattrs(const char *path, const struct lm_erofs_attr *attr)
{
	static char list[65536];
	struct lm_xattr want;
	size_t at = 0, wanted = 0, there = 0;
	ssize_t listed = llistxattr(path, list, sizeof(list));
	assert_true(listed >= 0);
	if (attr->redirect) {
		check_xattr(path, list, listed, METACOPY_NAME, NULL, 0);
		check_xattr(path, list, listed, REDIRECT_NAME, attr->redirect, strlen(attr->redirect));
		wanted += 2;
	}
	while (attr->xattr && lm_xattr_next(attr->xattr, attr->xattr_len, &at, &want) > 0) {
		char name[LM_XATTR_KEY_MAX + 1] = {0};
		memcpy(name, want.key, want.key_len);
		check_xattr(path, list, listed, name, want.value, want.value_len);
		wanted++;
	}
	for (const char *name = list; name < list + listed; name += strlen(name) + 1)
		there++;
	assert_int_equal(there, wanted);
}

/* The whole content by a mapping, its end by a read. */
static void check_content(const char *path, const struct lm_erofs_attr *attr)
{
	uint8_t want[4096], got[4096];
	CLEANUP(lm_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	uint8_t *mapped = mmap(NULL, attr->size, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(mapped, MAP_FAILED);
	for (uint64_t at = 0; at < attr->size; at += sizeof(want)) {
		content_bytes(attr->content_at + at, want, sizeof(want));
		assert_memory_equal(mapped + at, want, LM_MIN(attr->size - at, (uint64_t)sizeof(want)));
	}
	munmap(mapped, attr->size);
	uint64_t last = attr->size > 100 ? attr->size - 100 : 0;
	content_bytes(attr->content_at + last, want, sizeof(want));
	assert_int_equal(pread(fd, got, sizeof(got), (off_t)last), attr->size - last);
	assert_memory_equal(got, want, attr->size - last);
}

static void check_item(const char *top, struct tree *tree, size_t i)
{
	char path[PATH_MAX], target[LM_EROFS_TARGET_MAX + 1];
	int len = snprintf(path, sizeof(path), "%s/", top);
	path_into(tree, i, path + len, sizeof(path) - (size_t)len);
	struct item *item = &tree->items[i], *first = &tree->items[item->shared];
	struct stat st;
	if (lstat(path, &st) < 0)
		fail_msg("%s: %s", path, strerror(errno)); /* cmocka */
	item->nid = st.st_ino;
	if (item != first) {
		assert_int_equal(st.st_ino, first->nid);
		return;
	}
	const struct lm_erofs_attr *attr = &item->attr;
	assert_int_equal(st.st_mode, attr->mode);
	assert_int_equal(st.st_nlink, item->links);
	assert_int_equal(st.st_uid, attr->uid);
	assert_int_equal(st.st_gid, attr->gid);
	assert_int_equal(st.st_mtim.tv_sec, attr->mtime_s);
	assert_int_equal(st.st_mtim.tv_nsec, attr->mtime_ns);
	if (S_ISCHR(attr->mode) || S_ISBLK(attr->mode))
		assert_int_equal(st.st_rdev, attr->rdev);
	if (S_ISREG(attr->mode))
		assert_int_equal(st.st_size, attr->size);
	if (attr->content)
		check_content(path, attr);
	if (S_ISLNK(attr->mode)) {
		ssize_t got = readlink(path, target, sizeof(target));
		assert_int_equal(got, strlen(attr->target));
		assert_int_equal(st.st_size, got);
		assert_memory_equal(target, attr->target, (size_t)got);
	}
	check_xattrs(path, attr);
}

static int compare_items(const void *a, const void *b)
{
	const struct item *x = *(const struct item *const *)a, *y = *(const struct item *const *)b;
	if (x->parent != y->parent)
		return x->parent < y->parent ? -1 : 1;
	return strcmp(x->name, y->name);
}

/* sorted: the items but the root, by parent and name, which is the order in which they are listed. */
static size_t check_listing(const char *top, struct tree *tree, size_t dir, struct item *const *sorted, size_t left)
{
	char path[PATH_MAX];
	int len = snprintf(path, sizeof(path), "%s/", top);
	path_into(tree, dir, path + len, sizeof(path) - (size_t)len);
	DIR *listing = opendir(path);
	assert_non_null(listing);
	size_t count = 0, dots = 0;
	for (struct dirent *entry; (entry = readdir(listing));) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
			dots++;
			assert_int_equal(entry->d_type, DT_DIR);
			continue;
		}
		assert_true(count < left);
		assert_int_equal(sorted[count]->parent, dir);
		assert_string_equal(sorted[count]->name, entry->d_name);
		assert_int_equal(sorted[count]->nid, entry->d_ino);
		assert_int_equal(DTTOIF(entry->d_type), tree->items[sorted[count]->shared].attr.mode & (mode_t)S_IFMT);
		count++;
	}
	closedir(listing);
	assert_int_equal(dots, 2);
	return count;
}

static void test_everything(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(mounted_done) struct mounted mounted = {0};
	tree_init(&tree);
	add_everything(&tree);
	if (!isolated() || !mount_image(&tree, &mounted))
		skip();
	for (size_t i = 0; i < tree.count; i++)
		check_item(mounted.dir, &tree, i);

	CLEANUP(lm_freep) struct item **sorted = calloc(tree.count, sizeof(*sorted));
	for (size_t i = 1; i < tree.count; i++)
		sorted[i - 1] = &tree.items[i];
	qsort(sorted, tree.count - 1, sizeof(*sorted), compare_items);
	size_t at = 0, directories = 0;
	for (size_t i = 0; i < tree.count; i++)
		if (tree.items[i].shared == i && S_ISDIR(tree.items[i].attr.mode)) {
			at += check_listing(mounted.dir, &tree, i, sorted + at, tree.count - 1 - at);
			directories++;
		}
	assert_int_equal(at, tree.count - 1);
	assert_true(directories > 100);
}

static void test_absent(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(mounted_done) struct mounted mounted = {0};
	tree_init(&tree);
	add_many(&tree, 20000);
	if (!isolated() || !mount_image(&tree, &mounted))
		skip();
	for (unsigned i = 0; i < 20000; i += 10) {
		char path[256];
		struct stat st;
		snprintf(path, sizeof(path), "%s/many/%05u of a directory", mounted.dir, i);
		assert_int_equal(lstat(path, &st), -1);
		assert_int_equal(errno, ENOENT);
	}
}

/* Paths that are longer than PATH_MAX. */
static void test_deep(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(mounted_done) struct mounted mounted = {0};
	static const char name[] = "one of many directories inside of each other";
	tree_init(&tree);
	size_t dir = 0;
	for (int i = 0; i < DEEP; i++)
		dir = add_dir(&tree, dir, name);
	add_file(&tree, dir, "file", 4711);
	if (!isolated() || !mount_image(&tree, &mounted))
		skip();
	CLEANUP(lm_closep) int at = open(mounted.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < DEEP; i++) {
		int next = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close(at);
		at = next;
	}
	struct stat st;
	assert_int_equal(fstatat(at, "file", &st, 0), 0);
	assert_int_equal(st.st_size, 4711);
}

/* What there is of a file without the layer that has its content. */
static void test_holes(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(mounted_done) struct mounted mounted = {0};
	tree_init(&tree);
	add_file(&tree, 0, "file", (UINT64_C(1) << 43) + 10);
	if (!isolated() || !mount_image(&tree, &mounted))
		skip();
	char path[128], bytes[100];
	snprintf(path, sizeof(path), "%s/file", mounted.dir);
	CLEANUP(lm_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	static const off_t offsets[] = {0, 5000, (INT64_C(1) << 43) - 5, INT64_C(1) << 43};
	for (size_t i = 0; i < ARRAY_LEN(offsets); i++) {
		memset(bytes, 'x', sizeof(bytes));
		assert_int_equal(pread(fd, bytes, 10, offsets[i]), 10);
		for (int n = 0; n < 10; n++)
			assert_int_equal(bytes[n], 0);
	}
}

/*
 * Overlayfs
 */

static void remove_dir(char (*dir)[64])
{
	if ((*dir)[0])
		assert_int_equal(lm_remove_tree(AT_FDCWD, *dir, NULL), 0);
}

static void put_object(const char *dir, const char *name, const char *text)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/ab", dir);
	assert_int_equal(lm_mkdir_p(AT_FDCWD, path, 0755, NULL), 0);
	snprintf(path, sizeof(path), "%s/ab/%s", dir, name);
	assert_int_equal(lm_file_replace(AT_FDCWD, path, text, strlen(text), 0600, 0, NULL), 0);
}

/* Kernels before 6.13 at least want metacopy=on. False with errno. */
static bool mount_overlay(const char *meta, const char *data, struct mounted *ret)
{
	static const char *const options[] = {"", ",metacopy=on"};
	struct mounted mounted;
	make_dir(mounted.dir);
	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		char text[256];
		snprintf(text, sizeof(text), "lowerdir=%s::%s%s", meta, data, options[i]);
		if (mount("overlay", mounted.dir, "overlay", MS_RDONLY, text) == 0) {
			*ret = mounted;
			return true;
		}
	}
	int error = errno;
	assert_int_equal(rmdir(mounted.dir), 0);
	errno = error;
	return false;
}

/* Data-only layers are new in Linux 6.5. */
static bool data_only_layers(void)
{
	struct utsname uts;
	unsigned high, low;
	assert_int_equal(uname(&uts), 0);
	return sscanf(uts.release, "%u.%u", &high, &low) == 2 && (high > 6 || (high == 6 && low >= 5));
}

static void check_read(const char *dir, const char *name, const char *text)
{
	char path[128], got[64];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	CLEANUP(lm_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail_msg("%s: %s", path, strerror(errno)); /* cmocka */
	assert_int_equal(read(fd, got, sizeof(got)), strlen(text));
	assert_memory_equal(got, text, strlen(text));
}

static void test_overlay(void **state)
{
	static const char first[] = "content of the first", second[] = "of the second";
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(remove_dir) char data[64] = "";
	CLEANUP(mounted_done) struct mounted meta = {0};
	CLEANUP(mounted_done) struct mounted merged = {0};
	tree_init(&tree);
	size_t dir = add_dir(&tree, 0, "dir");
	struct lm_erofs_attr attr = {
		.mode = S_IFREG | 0640, .uid = 100000, .gid = 3, .mtime_s = -5, .mtime_ns = 6, .size = strlen(first)};
	attr.redirect = "/ab/first";
	size_t file = add(&tree, dir, "a file", &attr);
	add_link(&tree, 0, "a link", file);
	attr.size = strlen(second);
	attr.redirect = "/ab/second";
	add(&tree, 0, "another", &attr);
	attr.redirect = "/ab/none";
	add(&tree, 0, "lost", &attr);
	add_file(&tree, 0, "empty", 0);
	size_t inside = add_content(&tree, dir, "inside", 9000, 0);
	add_link(&tree, 0, "inside, too", inside);
	if (!isolated() || !mount_image(&tree, &meta))
		skip();
	if (!data_only_layers()) {
		printf("skipped: no data-only layers before Linux 6.5\n");
		skip();
	}
	make_dir(data);
	put_object(data, "first", first);
	put_object(data, "second", second);
	if (!mount_overlay(meta.dir, data, &merged)) {
		printf("skipped: no overlay with a data-only layer: %s\n", strerror(errno));
		skip();
	}

	check_read(merged.dir, "dir/a file", first);
	check_read(merged.dir, "a link", first);
	check_read(merged.dir, "another", second);
	check_read(merged.dir, "empty", "");
	char path[128], list[64];
	struct stat st;
	snprintf(path, sizeof(path), "%s/inside, too", merged.dir);
	check_content(path, &tree.items[inside].attr);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_nlink, 2);
	assert_int_equal(st.st_size, 9000);
	snprintf(path, sizeof(path), "%s/dir/a file", merged.dir);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0640);
	assert_int_equal(st.st_uid, 100000);
	assert_int_equal(st.st_gid, 3);
	assert_int_equal(st.st_size, strlen(first));
	assert_int_equal(st.st_nlink, 2);
	assert_int_equal(st.st_mtim.tv_sec, -5);
	assert_int_equal(st.st_mtim.tv_nsec, 6);
	assert_int_equal(llistxattr(path, list, sizeof(list)), 0);
	snprintf(path, sizeof(path), "%s/lost", merged.dir);
	assert_int_equal(open(path, O_RDONLY | O_CLOEXEC), -1);
	snprintf(path, sizeof(path), "%s/ab", merged.dir);
	assert_int_equal(lstat(path, &st), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_everything),
		cmocka_unit_test(test_absent),
		cmocka_unit_test(test_deep),
		cmocka_unit_test(test_holes),
		cmocka_unit_test(test_overlay),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
