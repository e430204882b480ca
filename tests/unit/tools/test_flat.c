#include "base/file.h"
#include "base/str.h"
#include "convert/apptainer.h"
#include "convert/chain_image.h"
#include "convert/merge.h"
#include "convert/packing.h"
#include "convert_test.h"
#include "repo/xattr.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define ROOT "/.layers/xx/xx%zu/layerfs"
enum { LAYERS = 4 };

/* Layers as catalogs, the uppermost first; a nested one inside a layer hangs at its directory. */
struct fixture {
	char dir[64];
	char mountpoints[LAYERS][32], roots[LAYERS][40], paths[LAYERS][96];
	struct lm_catalog_writer *writers[LAYERS];
	struct lm_merge_layer layers[LAYERS];
	size_t count;
	char nested_path[96], nested_mountpoint[96];
	struct lm_catalog_writer *nested;
	unsigned opened;
	struct lm_layer_tree *tree;
	struct lm_buf losses;
	struct lm_err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	*state = f;
	f->losses = LM_BUF(1 << 16);
	strcpy(f->dir, "/tmp/lamella-test-XXXXXX");
	return mkdtemp(f->dir) ? 0 : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	for (size_t i = 0; i < LAYERS; i++) {
		lm_catalog_writer_free(f->writers[i]);
		lm_catalog_close(f->layers[i].catalog);
	}
	lm_catalog_writer_free(f->nested);
	lm_layer_tree_free(f->tree);
	lm_buf_done(&f->losses);
	int r = lm_remove_tree(AT_FDCWD, f->dir, NULL);
	free(f);
	return r;
}

static void ok(struct fixture *f, int r)
{
	if (r < 0)
		print_error("%s\n", lm_err_text(&f->err));
	assert_int_equal(r, 0);
}

static struct lm_row make_row(uint32_t mode, const char *content)
{
	struct lm_row row = {.mode = mode, .uid = 7, .mtime_s = 1000};
	if (S_ISREG(mode)) {
		row.size = content ? strlen(content) : 0;
		assert_int_equal(lm_hash_data(LM_HASH_SHA1, content, row.size, &row.hash, NULL), 0);
	} else if (S_ISLNK(mode)) {
		row.symlink = (char *)content;
	}
	return row;
}

static void insert(struct fixture *f, struct lm_catalog_writer *w, const char *path, const struct lm_row *row)
{
	ok(f, lm_catalog_insert(w, path, row, NULL, 0, &f->err));
}

static void begin_layer(struct fixture *f, size_t i)
{
	const struct lm_row root = make_row(S_IFDIR | 0755, NULL), top = make_row(S_IFDIR | 0510, NULL);
	snprintf(f->mountpoints[i], sizeof(f->mountpoints[i]), "/.layers/xx/xx%zu", i);
	snprintf(f->roots[i], sizeof(f->roots[i]), ROOT, i);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%zu", f->dir, i);
	memcpy(f->paths[i], path, strlen(path) + 1);
	ok(f, lm_catalog_create(f->paths[i], f->mountpoints[i], &root, &f->writers[i], &f->err));
	insert(f, f->writers[i], f->roots[i], &top);
	f->count = LM_MAX(f->count, i + 1);
}

/* Parents must be there. */
static void add_row(struct fixture *f, size_t i, const char *path, const struct lm_row *row)
{
	CLEANUP(lm_freep) char *full = lm_str_printf(ROOT "%s", i, path);
	insert(f, f->writers[i], full, row);
}

static void add(struct fixture *f, size_t i, const char *path, uint32_t mode, const char *content)
{
	const struct lm_row row = make_row(mode, content);
	add_row(f, i, path, &row);
}

static void add_linked(struct fixture *f, size_t i, const char *path, uint32_t group, const char *content)
{
	struct lm_row row = make_row(S_IFREG | 0644, content);
	row.link_group = group;
	add_row(f, i, path, &row);
}

static void add_with(struct fixture *f, size_t i, const char *path, uint32_t mode, const char *key, const char *value)
{
	CLEANUP(lm_buf_done) struct lm_buf blob = LM_BUF(1024);
	struct lm_xattr xattr[] = {{key, strlen(key), value, strlen(value)}, {"user.kept", 9, "1", 1}};
	struct lm_row row = make_row(mode, "with");
	assert_int_equal(lm_xattr_encode(xattr, 2, &blob, NULL), 0);
	row.xattr = blob.data;
	row.xattr_len = blob.len;
	add_row(f, i, path, &row);
}

static void finish_writer(struct fixture *f, struct lm_catalog_writer **writer, struct lm_counters *self)
{
	struct lm_counters subtree;
	const struct lm_catalog_props props = {.revision = 1, .last_modified_s = 1};
	ok(f, lm_catalog_writer_finish(*writer, &props, self, &subtree, &f->err));
	lm_catalog_writer_freep(writer);
}

static int open_nested(void *arg, const struct lm_nested *nested, struct lm_catalog **ret, struct lm_err *err)
{
	struct fixture *f = arg;
	assert_string_equal(nested->path, f->nested_mountpoint);
	f->opened++;
	return lm_catalog_open(f->nested_path, nested->path, ret, err);
}

static void open_layers(struct fixture *f)
{
	for (size_t i = 0; i < f->count; i++) {
		struct lm_counters self;
		finish_writer(f, &f->writers[i], &self);
		ok(f, lm_catalog_open(f->paths[i], f->mountpoints[i], &f->layers[i].catalog, &f->err));
		f->layers[i].root = f->roots[i];
	}
}

static void merge(struct fixture *f)
{
	open_layers(f);
	ok(f, lm_merge(f->layers, f->count, LM_MERGE_FLAT, open_nested, f, &f->tree, &f->err));
}

static void merge_for_container(struct fixture *f)
{
	open_layers(f);
	ok(f, lm_merge(f->layers, f->count, LM_MERGE_CONTAINER, open_nested, f, &f->tree, &f->err));
}

static struct lm_layer_inode *at(struct fixture *f, const char *path)
{
	struct lm_layer_node *node = lm_layer_tree_find(f->tree, path);
	if (!node)
		fail_msg("no %s", path);
	return node->inode;
}

static void absent(struct fixture *f, const char *path)
{
	if (lm_layer_tree_find(f->tree, path))
		fail_msg("%s is there", path);
}

static void has_content(struct fixture *f, const char *path, const char *content)
{
	struct lm_hash hash;
	assert_int_equal(lm_hash_data(LM_HASH_SHA1, content, strlen(content), &hash, NULL), 0);
	assert_true(S_ISREG(at(f, path)->mode));
	assert_true(lm_hash_equal(&at(f, path)->hash, &hash));
	assert_int_equal(at(f, path)->size, strlen(content));
}

static void test_upper_wins(void **state)
{
	struct fixture *f = *state;
	begin_layer(f, 0);
	begin_layer(f, 1);
	add(f, 0, "/file", S_IFREG | 04711, "upper");
	add(f, 1, "/file", S_IFREG | 0644, "lower");
	add(f, 1, "/other", S_IFREG | 0044, "other");
	add(f, 0, "/d", S_IFDIR | 01055, NULL);
	add(f, 0, "/d/a", S_IFREG | 0400, "a");
	add(f, 1, "/d", S_IFDIR | 0777, NULL);
	add(f, 1, "/d/b", S_IFLNK | 0777, "$(LAMELLA_NEVER_SET:-$)(X)/$");
	merge(f);
	has_content(f, "/file", "upper");
	assert_int_equal(at(f, "/file")->mode, S_IFREG | 04711);
	assert_int_equal(at(f, "/other")->mode, S_IFREG | 0644);
	assert_int_equal(at(f, "/d")->mode, S_IFDIR | 01755);
	assert_int_equal(at(f, "/d/a")->mode, S_IFREG | 0600);
	assert_string_equal(at(f, "/d/b")->target, "$(X)/$");
	assert_int_equal(at(f, "")->mode, S_IFDIR | 0710);
	assert_int_equal(at(f, "/other")->uid, 7);
	assert_int_equal(at(f, "/other")->mtime_s, 1000);
}

/* A file over a directory, a directory over a file, and what was below does not shine through a third layer. */
static void test_types(void **state)
{
	struct fixture *f = *state;
	for (size_t i = 0; i < 3; i++)
		begin_layer(f, i);
	add(f, 0, "/a", S_IFREG | 0644, "now a file");
	add(f, 1, "/a", S_IFDIR | 0755, NULL);
	add(f, 1, "/a/x", S_IFREG | 0644, "x");
	add(f, 0, "/b", S_IFDIR | 0755, NULL);
	add(f, 0, "/b/new", S_IFREG | 0644, "new");
	add(f, 1, "/b", S_IFLNK | 0777, "a");
	add(f, 2, "/b", S_IFDIR | 0755, NULL);
	add(f, 2, "/b/old", S_IFREG | 0644, "old");
	merge(f);
	has_content(f, "/a", "now a file");
	absent(f, "/a/x");
	has_content(f, "/b/new", "new");
	absent(f, "/b/old");
}

static void test_whiteouts(void **state)
{
	struct fixture *f = *state;
	for (size_t i = 0; i < 3; i++)
		begin_layer(f, i);
	add(f, 2, "/gone", S_IFREG | 0644, "1");
	add(f, 2, "/dir", S_IFDIR | 0755, NULL);
	add(f, 2, "/dir/old", S_IFREG | 0644, "2");
	add(f, 2, "/opaque", S_IFDIR | 0755, NULL);
	add(f, 2, "/opaque/old", S_IFREG | 0644, "3");
	add(f, 1, "/gone", S_IFCHR, NULL);
	add(f, 1, "/dir", S_IFCHR, NULL);
	add(f, 1, "/nothing", S_IFCHR, NULL);
	add_with(f, 1, "/opaque", S_IFDIR | 0755, "trusted.overlay.opaque", "y");
	add(f, 1, "/opaque/middle", S_IFREG | 0644, "4");
	add(f, 0, "/dir", S_IFDIR | 0755, NULL);
	add(f, 0, "/dir/new", S_IFREG | 0644, "5");
	add(f, 0, "/opaque", S_IFDIR | 0700, NULL);
	struct lm_row device = make_row(S_IFCHR | 0600, NULL);
	device.rdev = makedev(1, 3);
	add_row(f, 0, "/null", &device);
	merge(f);
	absent(f, "/gone");
	absent(f, "/nothing");
	absent(f, "/dir/old");
	absent(f, "/opaque/old");
	has_content(f, "/dir/new", "5");
	has_content(f, "/opaque/middle", "4");
	assert_int_equal(at(f, "/null")->rdev, makedev(1, 3));
}

static void test_attributes(void **state)
{
	struct fixture *f = *state;
	begin_layer(f, 0);
	add_with(f, 0, "/d", S_IFDIR | 0755, "trusted.overlay.opaque", "y");
	add_with(f, 0, "/f", S_IFREG | 0644, "security.capability", "12345678901234567890");
	merge(f);
	assert_string_equal(at(f, "/d")->xattrs->key, "user.kept");
	assert_null(at(f, "/d")->xattrs->next);
	assert_string_equal(at(f, "/f")->xattrs->key, "security.capability");
	assert_string_equal(at(f, "/f")->xattrs->next->key, "user.kept");
}

/* As archives, and stock tools, spell them. */
static void test_marks(void **state)
{
	struct fixture *f = *state;
	begin_layer(f, 0);
	begin_layer(f, 1);
	add(f, 1, "/gone", S_IFREG | 0644, "1");
	add(f, 1, "/again", S_IFDIR | 0755, NULL);
	add(f, 1, "/again/old", S_IFREG | 0644, "2");
	add(f, 1, "/opaque", S_IFDIR | 0755, NULL);
	add(f, 1, "/opaque/old", S_IFREG | 0644, "3");
	add(f, 1, "/.cvmfscatalog", S_IFREG | 0644, "");
	add(f, 0, "/.wh.gone", S_IFREG | 0644, "");
	add(f, 0, "/.wh..wh.plnk", S_IFREG | 0644, "");
	add(f, 0, "/.wh.again", S_IFREG | 0644, "");
	add(f, 0, "/again", S_IFDIR | 0755, NULL);
	add(f, 0, "/again/new", S_IFREG | 0644, "4");
	add(f, 0, "/opaque", S_IFDIR | 0755, NULL);
	add(f, 0, "/opaque/.wh..wh..opq", S_IFREG | 0644, "");
	add(f, 0, "/opaque/.cvmfscatalog", S_IFREG | 0644, "a file of the image");
	merge(f);
	absent(f, "/gone");
	absent(f, "/.wh.gone");
	absent(f, "/.wh..wh.plnk");
	absent(f, "/.wh.again");
	absent(f, "/again/old");
	absent(f, "/opaque/old");
	absent(f, "/opaque/.wh..wh..opq");
	absent(f, "/.cvmfscatalog");
	has_content(f, "/again/new", "4");
	has_content(f, "/opaque/.cvmfscatalog", "a file of the image");
}

static void test_links(void **state)
{
	struct fixture *f = *state;
	begin_layer(f, 0);
	begin_layer(f, 1);
	add(f, 1, "/d", S_IFDIR | 0755, NULL);
	add_linked(f, 1, "/a", 1, "linked");
	add_linked(f, 1, "/d/b", 1, "linked");
	add_linked(f, 1, "/c", 1, "linked");
	add_linked(f, 1, "/lone", 2, "lonely");
	add_linked(f, 1, "/lone2", 2, "lonely");
	add(f, 0, "/c", S_IFCHR, NULL);
	add(f, 0, "/lone2", S_IFREG | 0644, "lonely");
	add_linked(f, 0, "/x", 1, "linked"); /* the same number in another layer is another file */
	add_linked(f, 0, "/y", 1, "linked");
	merge(f);
	assert_ptr_equal(at(f, "/a"), at(f, "/d/b"));
	assert_int_equal(at(f, "/a")->names, 2);
	absent(f, "/c");
	assert_int_equal(at(f, "/lone")->names, 1);
	assert_int_equal(at(f, "/lone2")->names, 1);
	assert_ptr_equal(at(f, "/x"), at(f, "/y"));
	assert_ptr_not_equal(at(f, "/x"), at(f, "/a"));
	has_content(f, "/y", "linked");
}

/* A directory of the lower layer begins a catalog of its own. */
static void test_nested(void **state)
{
	struct fixture *f = *state;
	begin_layer(f, 0);
	begin_layer(f, 1);
	snprintf(f->nested_mountpoint, sizeof(f->nested_mountpoint), ROOT "/n", (size_t)1);
	CLEANUP(lm_freep) char *nested_path = lm_str_printf("%s/nested", f->dir);
	memcpy(f->nested_path, nested_path, strlen(nested_path) + 1);
	const struct lm_row root = make_row(S_IFDIR | 0755, NULL);
	struct lm_row marker = make_row(S_IFREG | 0644, ""), file = make_row(S_IFREG | 0644, "nested");
	marker.flags = LM_ROW_HIDDEN;
	file.link_group = 1;
	ok(f, lm_catalog_create(f->nested_path, f->nested_mountpoint, &root, &f->nested, &f->err));
	CLEANUP(lm_freep) char *marker_path = lm_str_printf("%s/.cvmfscatalog", f->nested_mountpoint);
	CLEANUP(lm_freep) char *a = lm_str_printf("%s/a", f->nested_mountpoint);
	CLEANUP(lm_freep) char *b = lm_str_printf("%s/b", f->nested_mountpoint);
	insert(f, f->nested, marker_path, &marker);
	insert(f, f->nested, a, &file);
	insert(f, f->nested, b, &file);
	struct lm_counters self = {0}, none = {0};
	finish_writer(f, &f->nested, &self);
	const struct lm_hash hash = file.hash;
	ok(f, lm_catalog_set_nested(f->writers[1], f->nested_mountpoint, &hash, 4096, &root, &self, &none, &f->err));
	add(f, 0, "/n", S_IFDIR | 0700, NULL);
	add(f, 0, "/n/a", S_IFREG | 0644, "upper");
	merge(f);
	assert_int_equal(f->opened, 1);
	has_content(f, "/n/a", "upper");
	has_content(f, "/n/b", "nested");
	assert_int_equal(at(f, "/n/b")->names, 1);
	absent(f, "/n/.cvmfscatalog");

	lm_layer_tree_free(STEAL(f->tree));
	ok(f, lm_merge(f->layers, f->count, LM_MERGE_CONTAINER, open_nested, f, &f->tree, &f->err));
	assert_int_equal(at(f, "/n/b")->begin->len, strlen(f->nested_mountpoint));
	assert_int_equal(at(f, "/n/b")->begin->up->len, strlen(f->mountpoints[1]));
	assert_null(at(f, "/n/b")->begin->up->up);
	assert_int_equal(at(f, "/n/a")->begin->len, strlen(f->mountpoints[0]));
}

static void test_nothing(void **state)
{
	struct fixture *f = *state;
	merge(f);
	assert_null(lm_layer_tree_root(f->tree)->children);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	begin_layer(f, 0);
	struct lm_row row = make_row(S_IFREG | 0644, "elsewhere");
	row.flags = LM_ROW_EXTERNAL;
	add_row(f, 0, "/external", &row);
	struct lm_counters self;
	finish_writer(f, &f->writers[0], &self);
	ok(f, lm_catalog_open(f->paths[0], f->mountpoints[0], &f->layers[0].catalog, &f->err));
	f->layers[0].root = f->roots[0];
	assert_int_equal(lm_merge(f->layers, 1, LM_MERGE_FLAT, open_nested, f, &f->tree, &f->err), -ENOTSUP);
	assert_int_equal(lm_merge(f->layers, 1, LM_MERGE_CONTAINER, open_nested, f, &f->tree, &f->err), -ENOTSUP);
	f->layers[0].root = "/.layers/xx/xx0/nothing";
	assert_int_equal(lm_merge(f->layers, 1, LM_MERGE_FLAT, open_nested, f, &f->tree, &f->err), -EPROTO);
}

/* --- as a container sees it --- */

static void test_container(void **state)
{
	struct fixture *f = *state;
	begin_layer(f, 0);
	begin_layer(f, 1);
	begin_layer(f, 2);
	add(f, 2, "/low", S_IFREG | 0044, "low");
	add(f, 2, "/gone", S_IFREG | 0644, "gone");
	add(f, 2, "/d", S_IFDIR | 0777, NULL);
	add(f, 2, "/d/hidden", S_IFREG | 0644, "hidden");
	add(f, 2, "/plain", S_IFDIR | 0070, NULL);
	add_linked(f, 2, "/plain/a", 1, "linked");
	add_linked(f, 2, "/b", 1, "linked");
	add(f, 1, "/gone", S_IFCHR, NULL);
	add_with(f, 1, "/d", S_IFDIR | 01055, "trusted.overlay.opaque", "y");
	add(f, 1, "/d/mid", S_IFREG | 04000, "mid");
	add(f, 1, "/link", S_IFLNK | 0777, "$(LAMELLA_NEVER_SET:-$)(X)/$");
	add_with(f, 0, "/top", S_IFREG | 0, "security.capability", "12345678901234567890");
	merge_for_container(f);
	assert_int_equal(at(f, "")->mode, S_IFDIR | 0510);
	assert_int_equal(at(f, "/low")->mode, S_IFREG | 0044);
	assert_int_equal(at(f, "/low")->layer, 2);
	absent(f, "/gone");
	absent(f, "/d/hidden");
	assert_int_equal(at(f, "/d")->mode, S_IFDIR | 01055);
	assert_string_equal(at(f, "/d")->xattrs->key, "user.kept");
	assert_null(at(f, "/d")->xattrs->next);
	assert_int_equal(at(f, "/d/mid")->mode, S_IFREG | 04000);
	assert_int_equal(at(f, "/d/mid")->layer, 1);
	assert_int_equal(at(f, "/plain")->mode, S_IFDIR | 0070);
	assert_ptr_equal(at(f, "/b"), at(f, "/plain/a"));
	assert_int_equal(at(f, "/b")->layer, 2);
	assert_int_equal(at(f, "/b")->size, strlen("linked"));
	assert_string_equal(at(f, "/link")->target, "$(X)/$");
	assert_int_equal(at(f, "/top")->mode, S_IFREG);
	assert_int_equal(at(f, "/top")->layer, 0);
	assert_string_equal(at(f, "/top")->xattrs->key, "security.capability");
}

static void not_for_containers(struct fixture *f, const char *path)
{
	begin_layer(f, 0);
	begin_layer(f, 1);
	add(f, 1, path, S_IFREG | 0644, "");
	open_layers(f);
	assert_int_equal(
		lm_merge(f->layers, f->count, LM_MERGE_CONTAINER, open_nested, f, &f->tree, &f->err), -ENOTSUP);
	assert_non_null(strstr(lm_err_text(&f->err), "/.layers/xx/xx1/layerfs"));
}

static void test_stock_whiteout(void **state)
{
	not_for_containers(*state, "/.wh.gone");
}

static void test_stock_marker(void **state)
{
	not_for_containers(*state, "/.cvmfscatalog");
}

static void write_image(struct fixture *f, const char *const *digests, const char *name, struct lm_buf *ret)
{
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", f->dir, name);
	CLEANUP(lm_closep) int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	struct lm_chain_image image;
	assert_true(fd >= 0);
	ok(f, lm_chain_image_write(f->tree, digests, 2, LM_HASH_SHA1, fd, &image, &f->err));
	ok(f, lm_file_read(AT_FDCWD, path, ret, &f->err));
	assert_int_equal(image.names, 5);
	assert_int_equal(image.bytes, ret->len);
	assert_int_equal(image.content.count, 0);
	lm_chain_image_done(&image);
}

static unsigned occurrences(const struct lm_buf *in, const char *what)
{
	const uint8_t *from = in->data, *end = in->data + in->len;
	unsigned count = 0;
	for (; (from = memmem(from, (size_t)(end - from), what, strlen(what))); from++)
		count++;
	return count;
}

/* How many there are that lead to a file, by catalogs that begin at so many bytes of its path, the layer's first. */
static unsigned redirects_by(
	const struct lm_buf *in, size_t layer, const char *file, const size_t *begins, size_t begin_count)
{
	int64_t halves[LM_IMAGES_ROW_MAX];
	CLEANUP(lm_freep) char *path = lm_str_printf(ROOT "%s", layer, file);
	const size_t top = strlen("/.layers");
	for (size_t i = 1; i < begin_count; i++)
		halves[i - 1] = lm_path_hash(path, begins[i]).a;
	halves[begin_count - 1] = lm_path_hash(path, strlen(path)).a;
	CLEANUP(lm_freep)
	char *redirect =
		lm_str_printf("%.*s/%s", (int)(begins[0] - top), path + top, lm_images_row(halves, begin_count).s);
	return occurrences(in, redirect);
}

/* The layer's catalog is the only one. */
static unsigned redirects(const struct lm_buf *in, size_t layer, const char *file)
{
	const size_t begin = strlen("/.layers/xx/xx0");
	return redirects_by(in, layer, file, &begin, 1);
}

/* The layers of the merge are counted from the uppermost, digests from the lowest. */
static void test_chain_image(void **state)
{
	struct fixture *f = *state;
	static const char *const digests[] = {"sha256:xx1", "sha256:xx0"};
	CLEANUP(lm_buf_done) struct lm_buf first = LM_BUF(1 << 20), second = LM_BUF(1 << 20);
	begin_layer(f, 0);
	begin_layer(f, 1);
	add(f, 0, "/d", S_IFDIR | 0755, NULL);
	add(f, 0, "/d/upper", S_IFREG | 0644, "upper");
	add(f, 1, "/d", S_IFDIR | 0755, NULL);
	add_linked(f, 1, "/d/one", 1, "linked");
	add_linked(f, 1, "/two", 1, "linked");
	add(f, 1, "/nothing", S_IFREG | 0644, "");
	merge_for_container(f);
	write_image(f, digests, "first", &first);
	lm_layer_tree_free(STEAL(f->tree));
	ok(f, lm_merge(f->layers, f->count, LM_MERGE_CONTAINER, open_nested, f, &f->tree, &f->err));
	write_image(f, digests, "second", &second);
	assert_int_equal(first.len, second.len);
	assert_memory_equal(first.data, second.data, first.len);
	assert_int_equal(redirects(&first, 0, "/d/upper"), 1);
	assert_int_equal(occurrences(&first, LM_IMAGES_ROW), 2);
	assert_int_equal(redirects(&first, 1, "/d/one") + redirects(&first, 1, "/two"), 1);
}

/* overlayfs shows the link count of the lower file, whatever an upper layer hides, and none of merged directories. */
static void test_container_links(void **state)
{
	struct fixture *f = *state;
	begin_layer(f, 0);
	begin_layer(f, 1);
	add(f, 0, "/both", S_IFDIR | 0755, NULL);
	add(f, 0, "/both/one", S_IFREG | 0644, "another");
	add(f, 1, "/both", S_IFDIR | 0755, NULL);
	add(f, 1, "/both/below", S_IFDIR | 0755, NULL);
	add_linked(f, 1, "/both/one", 1, "linked");
	add_linked(f, 1, "/both/two", 1, "linked");
	add_linked(f, 1, "/three", 1, "linked");
	merge_for_container(f);
	assert_ptr_equal(at(f, "/both/two"), at(f, "/three"));
	assert_int_equal(at(f, "/three")->links, 3);
	assert_int_equal(at(f, "/three")->names, 2);
	assert_int_equal(at(f, "/both/one")->links, 0);
	assert_int_equal(at(f, "/both")->links, 1);
	assert_int_equal(at(f, "/both/below")->links, 0);
	assert_int_equal(lm_layer_tree_root(f->tree)->inode->links, 1);
}

static void write_contents(struct fixture *f, struct lm_chain_image *ret, struct lm_buf *ret_bytes)
{
	static const char *const digests[] = {"sha256:xx0"};
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, f->dir, NULL);
	merge_for_container(f);
	ok(f, lm_chain_image_write(f->tree, digests, 1, LM_HASH_SHA1, fd, ret, &f->err));
	ok(f, lm_buf_reserve(ret_bytes, ret->bytes));
	ok(f, lm_pread_all(fd, ret_bytes->data, ret->bytes, 0, &f->err));
	ret_bytes->len = ret->bytes;
}

/* As long as the way to where its catalog begins is short, the path may have any length. */
static void test_chain_image_path(void **state)
{
	struct fixture *f = *state;
	static const char *const digests[] = {"sha256:xx0"};
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(LM_LAYER_PATH_MAX), bytes = LM_BUF(1 << 20);
	struct lm_chain_image image;
	begin_layer(f, 0);
	for (int i = 0; i < 17; i++) {
		assert_int_equal(lm_buf_printf(&path, "/%0239d", i), 0);
		add(f, 0, lm_buf_cstr(&path), S_IFDIR | 0755, NULL);
	}
	assert_int_equal(lm_buf_str(&path, "/file"), 0);
	add(f, 0, lm_buf_cstr(&path), S_IFREG | 0644, "f");
	write_contents(f, &image, &bytes);
	assert_int_equal(image.names, 18);
	assert_int_equal(redirects(&bytes, 0, lm_buf_cstr(&path)), 1);
	lm_chain_image_done(&image);

	const struct lm_layer_begin deep = {.len = strlen("/.layers/xx/xx0/layerfs") + path.len - strlen("/file")};
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, f->dir, NULL);
	lm_layer_tree_free(STEAL(f->tree));
	ok(f, lm_merge(f->layers, f->count, LM_MERGE_CONTAINER, open_nested, f, &f->tree, &f->err));
	at(f, lm_buf_cstr(&path))->begin = &deep;
	assert_int_equal(lm_chain_image_write(f->tree, digests, 1, LM_HASH_SHA1, fd, &image, &f->err), -ENOTSUP);
	assert_non_null(strstr(lm_err_text(&f->err), "too long"));
	lm_chain_image_done(&image);
}

/* Catalogs in catalogs, more of them than a name can hold, and one above all layers, which begins at no layer. */
static void test_chain_image_catalogs(void **state)
{
	enum { DEEP = LM_IMAGES_ROW_MAX + 2 };
	struct fixture *f = *state;
	static const char *const digests[] = {"sha256:xx0"};
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(LM_LAYER_PATH_MAX), bytes = LM_BUF(1 << 20);
	const struct lm_layer_begin above = {.len = strlen("/.layer")};
	struct lm_layer_begin begins[DEEP] = {{.up = &above, .len = strlen("/.layers/xx/xx0")}};
	size_t lens[DEEP] = {begins[0].len};
	struct lm_chain_image image;
	begin_layer(f, 0);
	for (size_t i = 1; i < DEEP; i++) {
		assert_int_equal(lm_buf_str(&path, "/d"), 0);
		add(f, 0, lm_buf_cstr(&path), S_IFDIR | 0755, NULL);
		lens[i] = strlen("/.layers/xx/xx0/layerfs") + path.len;
		begins[i] = (struct lm_layer_begin){&begins[i - 1], lens[i]};
	}
	add(f, 0, "/d/own", S_IFREG | 0644, "own");
	add(f, 0, "/d/nested", S_IFREG | 0644, "nested");
	add(f, 0, "/d/root", S_IFREG | 0644, "root");
	assert_int_equal(lm_buf_str(&path, "/deep"), 0);
	add(f, 0, lm_buf_cstr(&path), S_IFREG | 0644, "deep");
	merge_for_container(f);
	at(f, "/d/nested")->begin = &begins[1];
	at(f, "/d/root")->begin = &above;
	at(f, lm_buf_cstr(&path))->begin = &begins[DEEP - 1];
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, f->dir, NULL);
	ok(f, lm_chain_image_write(f->tree, digests, 1, LM_HASH_SHA1, fd, &image, &f->err));
	ok(f, lm_buf_reserve(&bytes, image.bytes));
	ok(f, lm_pread_all(fd, bytes.data, image.bytes, 0, &f->err));
	bytes.len = image.bytes;
	assert_int_equal(redirects(&bytes, 0, "/d/own"), 1);
	assert_int_equal(redirects_by(&bytes, 0, "/d/nested", lens, 2), 1);
	assert_int_equal(redirects_by(&bytes, 0, lm_buf_cstr(&path), &lens[2], LM_IMAGES_ROW_MAX), 1);
	assert_int_equal(occurrences(&bytes, "/xx/xx0/layerfs/d/root"), 1);
	assert_int_equal(occurrences(&bytes, LM_IMAGES_ROW), 3);
	lm_chain_image_done(&image);
}

/* A file in pieces whose hashes are first, first + 1, ... */
static void add_pieces(
	struct fixture *f, const char *path, uint64_t size, uint64_t piece, uint8_t first, struct lm_row row)
{
	CLEANUP(lm_freep) struct lm_chunk *chunks = calloc(size / piece + 1, sizeof(*chunks));
	size_t count = 0;
	assert_non_null(chunks);
	row.mode = S_IFREG | 0644;
	row.size = size;
	for (uint64_t at = 0; at < size; at += piece, count++) {
		chunks[count] = (struct lm_chunk){.offset = at, .size = LM_MIN(piece, size - at)};
		chunks[count].hash = (struct lm_hash){.algo = row.algo, .set = true};
		memset(chunks[count].hash.bytes, first + (int)count, LM_HASH_BYTES);
	}
	CLEANUP(lm_freep) char *full = lm_str_printf(ROOT "%s", (size_t)0, path);
	ok(f, lm_catalog_insert(f->writers[0], full, &row, chunks, count, &f->err));
}

/* What comes next in the content: a piece with that hash; 0: zeros. */
static void next_is(const struct lm_chain_image *image, size_t *i, uint64_t size, uint8_t hash)
{
	assert_true(*i < image->content.count);
	const struct lm_chunk *chunk = &image->content.chunks[*i];
	assert_int_equal(chunk->size, size);
	assert_int_equal(chunk->hash.set, hash != 0);
	assert_int_equal(chunk->hash.bytes[0], hash);
	if (*i > 0)
		assert_int_equal(chunk->offset, chunk[-1].offset + chunk[-1].size);
	++*i;
}

/* One after the other, zeros after each, the same pieces once. */
static void test_chain_content(void **state)
{
	enum { MIB = 1 << 20, PIECE = 256 << 10 };
	struct fixture *f = *state;
	struct lm_chain_image image;
	CLEANUP(lm_buf_done) struct lm_buf bytes = LM_BUF(MIB);
	const struct lm_row plain = {0}, linked = {.link_group = 1};
	begin_layer(f, 0);
	add_pieces(f, "/a", MIB + 1, PIECE, 10, plain);
	add_pieces(f, "/b", MIB, PIECE, 20, linked);
	add_pieces(f, "/c", MIB, PIECE, 20, linked);
	add_pieces(f, "/d", MIB, PIECE, 20, plain);
	add_pieces(f, "/e", MIB, PIECE, 21, plain);
	add_pieces(f, "/f", 4096 * 17 - 0x123, 4096 * 17, 30, plain);
	add(f, 0, "/small", S_IFREG | 0644, "small");
	write_contents(f, &image, &bytes);
	size_t i = 0;
	next_is(&image, &i, 4096, 0);
	for (uint8_t n = 10; n < 14; n++)
		next_is(&image, &i, PIECE, n);
	next_is(&image, &i, 1, 14);
	next_is(&image, &i, 0xf00, 0);
	next_is(&image, &i, 0xf0, 0);
	next_is(&image, &i, 0xf, 0);
	for (uint8_t n = 20; n < 24; n++)
		next_is(&image, &i, PIECE, n);
	next_is(&image, &i, 4096, 0);
	for (uint8_t n = 21; n < 25; n++)
		next_is(&image, &i, PIECE, n);
	next_is(&image, &i, 4096, 0);
	next_is(&image, &i, 4096 * 17 - 0x123, 30);
	next_is(&image, &i, 0x100, 0);
	next_is(&image, &i, 0x20, 0);
	next_is(&image, &i, 3, 0);
	assert_int_equal(i, image.content.count);
	assert_int_equal(image.content.bytes, 3 * (MIB + 4096) + 18 * 4096);
	assert_int_equal(occurrences(&bytes, LM_IMAGES_ROW), 1);
	assert_int_equal(occurrences(&bytes, "lamella form 3"), 1);
	assert_ptr_equal(at(f, "/b"), at(f, "/c"));
	lm_chain_image_done(&image);
}

/* Files that lead to their layer: their pieces are not like the tree's own, or they have none. */
static void test_chain_content_elsewhere(void **state)
{
	struct fixture *f = *state;
	struct lm_chain_image image;
	CLEANUP(lm_buf_done) struct lm_buf bytes = LM_BUF(1 << 20);
	begin_layer(f, 0);
	add_pieces(f, "/stored", 1 << 20, 256 << 10, 1, (struct lm_row){.compression = LM_COMPRESSION_NONE});
	add_pieces(f, "/other", 1 << 20, 256 << 10, 1, (struct lm_row){.algo = LM_HASH_SHAKE128});
	add(f, 0, "/whole", S_IFREG | 0644, "whole");
	add(f, 0, "/empty", S_IFREG | 0644, "");
	write_contents(f, &image, &bytes);
	assert_int_equal(image.content.count, 0);
	assert_int_equal(image.content.bytes, 0);
	assert_int_equal(occurrences(&bytes, LM_IMAGES_ROW), 3);
	lm_chain_image_done(&image);
}

/* As many small pieces as there is room for, in the order of the tree: what is too large leaves room for what comes
 * later. */
static void test_chain_content_small(void **state)
{
	enum { KIB = 1 << 10, MAX = LM_CHAIN_SMALL_MAX };
	struct fixture *f = *state;
	struct lm_chain_image image;
	CLEANUP(lm_buf_done) struct lm_buf bytes = LM_BUF(1 << 20);
	const struct lm_row plain = {0};
	begin_layer(f, 0);
	add_pieces(f, "/a", 8 * 32 * KIB, 32 * KIB, 1, plain);
	add_pieces(f, "/b", (MAX - 7) * 32ULL * KIB, 32 * KIB, 1, plain);
	add_pieces(f, "/c", 8 * 32 * KIB, 32 * KIB, 1, plain);
	add_pieces(f, "/d", (MAX - 8) * 32ULL * KIB, 32 * KIB, 1, plain);
	add_pieces(f, "/e", 32 * KIB, 32 * KIB, 1, plain);
	add_pieces(f, "/f", 64 * KIB, 64 * KIB, 1, plain);
	write_contents(f, &image, &bytes);
	assert_int_equal(image.content.small, MAX);
	assert_int_equal(image.content.count, 1 + 8 + 1 + (MAX - 8) + 1 + 1 + 1);
	assert_int_equal(redirects(&bytes, 0, "/b"), 1);
	assert_int_equal(redirects(&bytes, 0, "/e"), 1);
	assert_int_equal(occurrences(&bytes, LM_IMAGES_ROW), 2);
	lm_chain_image_done(&image);
}

/* --- Apptainer's files --- */

static void on_loss(void *arg, const char *path, const char *what)
{
	struct fixture *f = arg;
	assert_int_equal(lm_buf_printf(&f->losses, "%s: %s\n", path, what), 0);
}

static int add_apptainer(struct fixture *f, const char *config)
{
	struct lm_storage *storage = NULL;
	struct lm_packing *packing = NULL;
	struct lm_image image = {.config = LM_BUF(1 << 16)};
	const struct lm_layer_loss loss = {on_loss, f};
	assert_int_equal(lm_buf_str(&image.config, config), 0);
	ok(f, lm_storage_dir_open(f->dir, true, &storage, &f->err));
	ok(f, lm_packing_new(storage, LM_HASH_SHA1, 1, 1 << 20, &packing, &f->err));
	int r = lm_apptainer_add(f->tree, &image, packing, 5, &loss, &f->err);
	lm_packing_free(packing);
	lm_storage_free(storage);
	lm_buf_done(&image.config);
	return r;
}

static void test_apptainer(void **state)
{
	struct fixture *f = *state;
	begin_layer(f, 0);
	add(f, 0, "/var", S_IFLNK | 0777, "data/var");
	add(f, 0, "/data", S_IFDIR | 0755, NULL);
	add(f, 0, "/data/var", S_IFDIR | 0755, NULL);
	add(f, 0, "/tmp", S_IFDIR | 01777, NULL);
	add(f, 0, "/home", S_IFLNK | 0777, "tmp");
	add(f, 0, "/etc", S_IFDIR | 0755, NULL);
	add(f, 0, "/etc/hosts", S_IFREG | 0444, "127.0.0.1");
	add(f, 0, "/etc/resolv.conf", S_IFLNK | 0777, "../run/stub");
	add(f, 0, "/environment", S_IFREG | 0644, "the image's");
	merge(f);
	ok(f, add_apptainer(f, "{\"config\":{\"Entrypoint\":[\"a\",\"b c\"],\"Cmd\":null,\"Env\":[\"A=1\"]}}"));
	assert_string_equal(lm_buf_cstr(&f->losses), "");
	assert_int_equal(at(f, "/tmp")->mode, S_IFDIR | 01777);
	assert_true(S_ISLNK(at(f, "/home")->mode));
	assert_true(S_ISLNK(at(f, "/var")->mode));
	assert_true(S_ISDIR(at(f, "/data/var/tmp")->mode));
	assert_true(S_ISDIR(at(f, "/.singularity.d/libs")->mode));
	assert_int_equal(at(f, "/etc/hosts")->size, 0);
	assert_int_equal(at(f, "/etc/resolv.conf")->mode, S_IFREG | 0644);
	has_content(f, "/environment", "the image's");
	assert_string_equal(at(f, "/singularity")->target, ".singularity.d/runscript");
	assert_int_equal(at(f, "/.singularity.d/runscript")->mode, S_IFREG | 0755);
	assert_int_equal(at(f, "/.singularity.d/runscript")->size,
		strlen("#!/bin/sh\nset -- 'a' 'b c' \"$@\"\n[ $# -gt 0 ] || set -- /bin/sh\nexec \"$@\"\n"));
	assert_int_equal(at(f, "/.singularity.d/env/10-docker2singularity.sh")->size,
		strlen("#!/bin/sh\n[ -n \"${A:-}\" ] || A='1'\nexport A\n"));
	assert_int_equal(at(f, "/dev")->mtime_s, 5);
}

/* No place for some, and configs that make no sense. */
static void test_apptainer_odd(void **state)
{
	struct fixture *f = *state;
	begin_layer(f, 0);
	add(f, 0, "/etc", S_IFREG | 0644, "a file");
	merge(f);
	ok(f, add_apptainer(f, "{}"));
	assert_non_null(strstr(lm_buf_cstr(&f->losses), "etc/hosts: "));
	has_content(f, "/etc", "a file");
	assert_int_equal(add_apptainer(f, "{\"config\":{\"Env\":[1]}}"), -EPROTO);
	assert_int_equal(add_apptainer(f, "{\"config\":{\"Cmd\":\"text\"}}"), -EPROTO);
	assert_int_equal(add_apptainer(f, "{\"config\":[]}"), -EPROTO);
	assert_int_equal(add_apptainer(f, "no JSON"), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_upper_wins, setup, teardown),
		cmocka_unit_test_setup_teardown(test_types, setup, teardown),
		cmocka_unit_test_setup_teardown(test_whiteouts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_attributes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_marks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_links, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nested, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_container, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stock_whiteout, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stock_marker, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chain_image, setup, teardown),
		cmocka_unit_test_setup_teardown(test_container_links, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chain_image_path, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chain_image_catalogs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chain_content, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chain_content_elsewhere, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chain_content_small, setup, teardown),
		cmocka_unit_test_setup_teardown(test_apptainer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_apptainer_odd, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
