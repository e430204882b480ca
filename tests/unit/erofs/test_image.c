/* The bytes of images, read by erofs_reader.h. */
#include "erofs_reader.h"

static void check_attrs(const struct image *image, const struct node *node, const struct lm_erofs_attr *attr)
{
	struct attr_view view;
	struct lm_xattr want;
	size_t at = 0, wanted = 0, there = 0;
	if (attr->redirect) {
		assert_true(find_attr(image, node, REDIRECT_NAME, strlen(REDIRECT_NAME), &view));
		assert_int_equal(view.value_len, strlen(attr->redirect));
		assert_memory_equal(view.value, attr->redirect, view.value_len);
		assert_true(find_attr(image, node, METACOPY_NAME, strlen(METACOPY_NAME), &view));
		assert_int_equal(view.value_len, 0);
		wanted = 2;
	}
	while (attr->xattr && lm_xattr_next(attr->xattr, attr->xattr_len, &at, &want) > 0) {
		assert_true(find_attr(image, node, want.key, want.key_len, &view));
		assert_int_equal(view.value_len, want.value_len);
		assert_memory_equal(view.value, want.value, want.value_len);
		wanted++;
	}
	for (at = 0; next_attr(image, node, &at, &view);)
		there++;
	assert_int_equal(there, wanted);
}

static uint32_t device_of(uint64_t rdev)
{
	return (minor(rdev) & 0xff) | (major(rdev) << 8) | ((minor(rdev) & ~0xffU) << 12);
}

static void check_content(const struct image *image, const struct node *node, const struct lm_erofs_attr *attr)
{
	size_t len;
	if (S_ISLNK(attr->mode)) {
		assert_int_equal(node->size, strlen(attr->target));
		assert_memory_equal(content_block(image, node, 0, &len), attr->target, node->size);
	} else if (attr->content) {
		assert_int_equal(node->size, attr->size);
		assert_int_equal(node->layout, 0);
		assert_int_equal(node->content * UINT64_C(4096), image->len + attr->content_at);
	} else if (S_ISREG(attr->mode) && attr->size > 0) {
		assert_int_equal(node->size, attr->size);
		assert_int_equal(node->layout, 4);
		assert_true(node->content < 32);
		uint64_t chunk = UINT64_C(4096) << node->content, chunks = (node->size + chunk - 1) / chunk;
		assert_true(chunks == 1 || node->content == 31);
		for (uint64_t i = 0; i < chunks; i++)
			assert_int_equal(number_at(image, node->inline_at + 4 * i, 4), UINT32_MAX);
	} else if (!S_ISDIR(attr->mode)) {
		bool device = S_ISCHR(attr->mode) || S_ISBLK(attr->mode);
		assert_int_equal(node->size, 0);
		assert_int_equal(node->layout, 0);
		assert_int_equal(node->content, device ? device_of(attr->rdev) : 0);
	}
}

static void check_item(const struct image *image, struct tree *tree, size_t i)
{
	struct item *item = &tree->items[i], *first = &tree->items[item->shared];
	struct node parent = node_at(image, i ? tree->items[item->parent].nid : image->root);
	item->nid = i ? find_name(image, &parent, item->name) : image->root;
	assert_true(item->nid != 0);
	if (item != first) {
		assert_int_equal(item->nid, first->nid);
		return;
	}
	struct node node = node_at(image, item->nid);
	assert_int_equal(node.mode, item->attr.mode);
	assert_int_equal(node.uid, item->attr.uid);
	assert_int_equal(node.gid, item->attr.gid);
	assert_int_equal(node.mtime, item->attr.mtime_s);
	assert_int_equal(node.ns, item->attr.mtime_ns);
	assert_int_equal(node.links, item->links);
	assert_true(node.number >= 1 && node.number <= image->inodes);
	check_content(image, &node, &item->attr);
	check_attrs(image, &node, &item->attr);
}

static void check_tree(const struct image *image, struct tree *tree)
{
	size_t inodes = 0;
	CLEANUP(lm_freep) unsigned *names = calloc(tree->count, sizeof(*names));
	for (size_t i = 0; i < tree->count; i++) {
		check_item(image, tree, i);
		if (i > 0)
			names[tree->items[i].parent]++;
		inodes += tree->items[i].shared == i;
	}
	assert_int_equal(image->inodes, inodes);
	for (size_t i = 0; i < tree->count; i++) {
		if (tree->items[i].shared != i || !S_ISDIR(tree->items[i].attr.mode))
			continue;
		struct node dir = node_at(image, tree->items[i].nid);
		assert_int_equal(check_directory(image, &dir, tree->items[tree->items[i].parent].nid), names[i] + 2);
	}
}

static void test_empty(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(image_done) struct image image;
	tree_init(&tree);
	image_init(&image, &tree);
	assert_int_equal(image.len, 8192);
	assert_int_equal(image.inodes, 1);
	check_tree(&image, &tree);
	struct node root = node_at(&image, image.root);
	assert_int_equal(root.size, 27);
	assert_int_equal(root.layout, 2);
}

/* A file, byte by byte. */
static void test_bytes(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(image_done) struct image image;
	tree_init(&tree);
	add(&tree, 0, "f",
		&(struct lm_erofs_attr){
			.mode = S_IFREG | 0640,
			.uid = 0x01020304,
			.gid = 0x11121314,
			.size = 5000,
			.mtime_s = -2,
			.mtime_ns = 7,
			.redirect = "/ab/c",
			.xattr = "\1\1\6\3user.aXYZ",
			.xattr_len = 13,
		});
	image_init(&image, &tree);
	static const uint8_t shared[] = "\x10\x04\0\0overlay.metacopy";
	assert_memory_equal(image.data + 1152, shared, sizeof(shared) - 1);
	static const uint8_t names[] = "\x80\0\0\0\0\0\0\0\x24\0\2\0"
				       "\x80\0\0\0\0\0\0\0\x25\0\2\0"
				       "\x84\0\0\0\0\0\0\0\x27\0\1\0"
				       "...f";
	assert_int_equal(image.root, 128);
	assert_memory_equal(bytes_at(&image, 4096 + 64, sizeof(names) - 1), names, sizeof(names) - 1);
	static const uint8_t file[] = "\x09\0"				 /* extended, chunks */
				      "\x0b\0"				 /* 1 + (52 - 12) / 4 */
				      "\xa0\x81\0\0"			 /* mode */
				      "\x88\x13\0\0\0\0\0\0"		 /* size */
				      "\1\0\0\0"			 /* chunks of 8192 bytes */
				      "\2\0\0\0"			 /* the second inode */
				      "\4\3\2\1\x14\x13\x12\x11"	 /* uid, gid */
				      "\xfe\xff\xff\xff\xff\xff\xff\xff" /* mtime */
				      "\7\0\0\0\1\0\0\0"		 /* nanoseconds, links */
				      "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
				      "\0\0\0\0\1\0\0\0\0\0\0\0\x20\1\0\0" /* one shared: 1152 / 4 */
				      "\x10\4\5\0overlay.redirect/ab/c\0\0\0"
				      "\1\1\3\0aXYZ"
				      "\xff\xff\xff\xff";
	struct node top = node_at(&image, image.root);
	uint64_t nid = find_name(&image, &top, "f");
	assert_memory_equal(bytes_at(&image, nid * 32, sizeof(file) - 1), file, sizeof(file) - 1);
}

/* The same of one with content, behind a directory that takes a block. */
static void test_content_bytes(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(image_done) struct image image;
	tree_init(&tree);
	size_t dir = add_dir(&tree, 0, "d");
	add_names(&tree, dir, 'n', 4096 - 27);
	add_content(&tree, 0, "f", UINT64_C(0x123456789), UINT64_C(0xabcde000));
	image_init(&image, &tree);
	check_tree(&image, &tree);
	static const uint8_t file[] = "\x01\0"			  /* extended, plain */
				      "\0\0"			  /* no attributes */
				      "\xed\x81\0\0"		  /* mode */
				      "\x89\x67\x45\x23\1\0\0\0"; /* size */
	struct node top = node_at(&image, image.root);
	uint64_t nid = find_name(&image, &top, "f");
	assert_memory_equal(bytes_at(&image, nid * 32, sizeof(file) - 1), file, sizeof(file) - 1);
	assert_int_equal(number_at(&image, nid * 32 + 16, 4), image.len / 4096 + 0xabcde);
	assert_int_equal(number_at(&image, 1060, 4), image.len / 4096 + 0xabcde + 0x123457);
}

static void test_everything(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(image_done) struct image image;
	tree_init(&tree);
	add_everything(&tree);
	image_init(&image, &tree);
	check_tree(&image, &tree);
}

static struct node node_of(const struct image *image, struct tree *tree, const char *path)
{
	struct node node = node_at(image, image->root);
	CLEANUP(lm_freep) char *parts = strdup(path);
	for (char *save, *part = strtok_r(parts, "/", &save); part; part = strtok_r(NULL, "/", &save)) {
		uint64_t nid = find_name(image, &node, part);
		assert_true(nid != 0);
		node = node_at(image, nid);
	}
	return node;
}

/* What is inline, and what is not. */
static void test_boundaries(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(image_done) struct image image;
	tree_init(&tree);
	add_boundaries(&tree);
	add_names_and_targets(&tree);
	image_init(&image, &tree);
	check_tree(&image, &tree);
	for (size_t i = 0; i < ARRAY_LEN(directory_tails); i++) {
		char path[64];
		size_t tail = directory_tails[i];
		snprintf(path, sizeof(path), "boundaries/one%zu", tail);
		struct node node = node_of(&image, &tree, path);
		assert_int_equal(node.size, tail);
		assert_int_equal(node.layout, tail <= 4032 ? 2 : 0);
		snprintf(path, sizeof(path), "boundaries/two%zu", tail);
		node = node_of(&image, &tree, path);
		assert_int_equal(node.size, 4096 + tail);
		assert_int_equal(node.layout, tail <= 4032 ? 2 : 0);
	}
	assert_int_equal(node_of(&image, &tree, "targets/link4032").layout, 2);
	assert_int_equal(node_of(&image, &tree, "targets/link4033").layout, 0);
}

/* A directory's inodes lie one after the other, and so do trees. */
static void test_order(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(image_done) struct image image;
	tree_init(&tree);
	size_t b = add_dir(&tree, 0, "b"), a = add_dir(&tree, 0, "a");
	add_file(&tree, b, "4", 1);
	size_t in_a = add_dir(&tree, a, "2");
	add_file(&tree, a, "1", 1);
	add_file(&tree, in_a, "3", 1);
	add_file(&tree, 0, "c", 1);
	image_init(&image, &tree);
	check_tree(&image, &tree);
	static const char *const order[] = {"", "a", "b", "c", "a/1", "a/2", "a/2/3", "b/4"};
	uint64_t before = 0;
	for (size_t i = 0; i < ARRAY_LEN(order); i++) {
		struct node node = node_of(&image, &tree, order[i]);
		assert_true(node.nid > before);
		assert_int_equal(node.number, i + 1);
		before = node.nid;
	}
}

/* Inodes that no path leads to are left out, and so are their names for others. */
static void test_unreachable(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(image_done) struct image image;
	struct lm_err err = LM_ERR_INIT;
	struct lm_erofs_attr dir = {.mode = S_IFDIR}, file = {.mode = S_IFREG};
	uint32_t nameless, x, y, lost;
	tree_init(&tree);
	size_t there = add_file(&tree, 0, "there", 1);
	assert_ok(lm_erofs_inode(tree.erofs, &file, &nameless, &err), &err);
	assert_ok(lm_erofs_inode(tree.erofs, &dir, &x, &err), &err);
	assert_ok(lm_erofs_inode(tree.erofs, &dir, &y, &err), &err);
	assert_ok(lm_erofs_inode(tree.erofs, &dir, &lost, &err), &err);
	assert_ok(lm_erofs_link(tree.erofs, x, "y", y, &err), &err);
	assert_ok(lm_erofs_link(tree.erofs, y, "x", x, &err), &err); /* a circle */
	assert_ok(lm_erofs_link(tree.erofs, lost, "name", tree.items[there].inode, &err), &err);
	assert_ok(lm_erofs_link(tree.erofs, x, "name", tree.items[there].inode, &err), &err);
	image_init(&image, &tree);
	check_tree(&image, &tree);
	assert_int_equal(image.inodes, 2);
}

/* Directories may get their names before or after what is in them. */
static void test_bottom_up(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_erofs_attr dir = {.mode = S_IFDIR}, file = {.mode = S_IFREG};
	uint32_t numbers[4];
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(image_done) struct image image;
	tree_init(&tree);
	for (int i = 0; i < 4; i++)
		assert_ok(lm_erofs_inode(tree.erofs, i < 3 ? &dir : &file, &numbers[i], &err), &err);
	assert_ok(lm_erofs_link(tree.erofs, numbers[2], "file", numbers[3], &err), &err);
	assert_ok(lm_erofs_link(tree.erofs, numbers[1], "c", numbers[2], &err), &err);
	assert_ok(lm_erofs_link(tree.erofs, numbers[0], "b", numbers[1], &err), &err);
	assert_ok(lm_erofs_link(tree.erofs, 0, "a", numbers[0], &err), &err);
	image_init(&image, &tree);
	struct node b = node_of(&image, &tree, "a/b"), c = node_of(&image, &tree, "a/b/c");
	assert_int_equal(check_directory(&image, &c, b.nid), 3);
	assert_int_equal(b.links, 3);
	assert_true(S_ISREG(node_of(&image, &tree, "a/b/c/file").mode));
}

/* Where overlayfs says another number than there are names. */
static void test_links_said(void **state)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_erofs_attr dir = {.mode = S_IFDIR, .links = 1}, file = {.mode = S_IFREG, .links = 7};
	uint32_t below, number;
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(image_done) struct image image;
	tree_init(&tree);
	assert_ok(lm_erofs_inode(tree.erofs, &dir, &below, &err), &err);
	assert_ok(lm_erofs_inode(tree.erofs, &file, &number, &err), &err);
	assert_ok(lm_erofs_link(tree.erofs, 0, "d", below, &err), &err);
	assert_ok(lm_erofs_link(tree.erofs, below, "f", number, &err), &err);
	image_init(&image, &tree);
	assert_int_equal(node_of(&image, &tree, "d").links, 1);
	assert_int_equal(node_of(&image, &tree, "d/f").links, 7);
}

static void volume_is(const char *name)
{
	struct lm_err err = LM_ERR_INIT;
	struct lm_erofs_volume volume;
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(image_done) struct image image;
	tree_init(&tree);
	if (*name)
		assert_ok(lm_erofs_set_volume(tree.erofs, name, &err), &err);
	assert_int_equal(lm_erofs_set_volume(tree.erofs, "longer than allowed", &err), -EINVAL);
	image_init(&image, &tree);
	assert_int_equal(strncmp((const char *)image.data + 1024 + 64, name, 16), 0);
	assert_ok(lm_erofs_volume(image.data, &volume, &err), &err);
	assert_string_equal(volume.name, name);
	image.data[1024 + 64]++;
	assert_int_equal(lm_erofs_volume(image.data, &volume, &err), -EPROTO);
	image.data[1024]++;
	assert_int_equal(lm_erofs_volume(image.data, &volume, &err), -EPROTO);
}

static void test_volume(void **state)
{
	volume_is("");
	volume_is("some name");
	volume_is("0123456789abcdef");
}

static void test_equal(void **state)
{
	CLEANUP(image_done) struct image first = {0}, second = {0};
	for (int i = 0; i < 2; i++) {
		CLEANUP(tree_done) struct tree tree;
		tree_init(&tree);
		add_everything(&tree);
		image_init(i ? &second : &first, &tree);
	}
	assert_int_equal(first.len, second.len);
	assert_memory_equal(first.data, second.data, first.len);
}

static void test_many(void **state)
{
	CLEANUP(tree_done) struct tree tree;
	CLEANUP(image_done) struct image image;
	tree_init(&tree);
	size_t dir = 0;
	for (unsigned i = 0; i < 300000; i++) {
		char name[32];
		snprintf(name, sizeof(name), "%u", i);
		if (i % 30 == 0)
			dir = add_dir(&tree, i % 300 ? dir : 0, name);
		else
			add_file(&tree, dir, name, i);
	}
	image_init(&image, &tree);
	check_tree(&image, &tree);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_content_bytes),
		cmocka_unit_test(test_everything),
		cmocka_unit_test(test_boundaries),
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_unreachable),
		cmocka_unit_test(test_bottom_up),
		cmocka_unit_test(test_links_said),
		cmocka_unit_test(test_volume),
		cmocka_unit_test(test_equal),
		cmocka_unit_test(test_many),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
