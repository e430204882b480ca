#include "tree_test.h"

#include "repo/images.h"
#include "repo/manifest.h"

#include <sqlite3.h>

/* The catalog number of a published revision of fixture.cern.ch. */
static uint32_t root_of(struct tree_rig *rig, const char *published)
{
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest manifest;
	uint32_t number;
	read_fixture(published, &text);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, &manifest, &err), &err);
	assert_ok(lm_catalogs_number(rig->catalogs, &manifest.catalog, "", 0, LM_VIEW_PLAIN, &number, &err), &err);
	return number;
}

#define REV(n) "published/fixture.cern.ch.cvmfspublished.rev" #n

static bool open_rig(struct tree_rig *rig, const char *fqrn, const char *published)
{
	if (!fixtures_present())
		return false;
	tree_rig_open(rig, fqrn);
	lm_tree_set_root(rig->tree, root_of(rig, published));
	return true;
}

/* Looks a whole path up; the result of the last step. */
static int walk(struct tree_rig *rig, const char *path, struct lm_entry *ret)
{
	CLEANUP(lm_freep) char *copy = strdup(path);
	char *save = NULL;
	struct lm_object_ref need;
	*ret = (struct lm_entry){.node = LM_NODE_ROOT};
	for (char *name = strtok_r(copy, "/", &save); name; name = strtok_r(NULL, "/", &save)) {
		int r = PROVIDED(rig, lm_tree_lookup(rig->tree, ret->node, name, ret, &need, NULL));
		if (r < 0)
			return r;
	}
	return 0;
}

static uint64_t node_of(struct tree_rig *rig, const char *path)
{
	struct lm_entry entry;
	int r = walk(rig, path, &entry);
	if (r < 0)
		fail_msg("%s: %d", path, r);
	return entry.node;
}

static void test_no_root(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_object_ref need;
	struct stat st;
	tree_rig_open(&rig, NULL);
	assert_int_equal(lm_tree_getattr(rig.tree, LM_NODE_ROOT, &st, &need, NULL), -EIO);
	assert_int_equal(lm_tree_getattr(rig.tree, 7, &st, &need, NULL), -ESTALE);
	assert_int_equal(lm_tree_getattr(rig.tree, UINT64_MAX, &st, &need, NULL), -ESTALE);
}

static void test_lookup(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_entry entry;
	struct lm_object_ref need;
	if (!open_rig(&rig, "fixture.cern.ch", REV(3)))
		skip();
	/* The first question needs the root catalog, and says so without doing anything. */
	assert_int_equal(lm_tree_lookup(rig.tree, LM_NODE_ROOT, "files", &entry, &need, NULL), LM_NEED);
	assert_int_equal(need.kind, LM_OBJECT_CATALOG);
	assert_int_equal(walk(&rig, "/files/hello.txt", &entry), 0);
	assert_int_equal(rig.provided, 1);
	assert_int_equal(entry.attr.st_ino, entry.node);
	assert_int_equal(entry.attr.st_size, 19);
	assert_int_equal(entry.attr.st_uid, 1000);
	assert_int_equal(entry.attr.st_mtim.tv_sec, 1700000000);
	assert_int_equal(entry.attr.st_mtim.tv_nsec, 5);
	assert_int_equal(entry.attr.st_blocks, 1);
	assert_int_equal(walk(&rig, "/files/absent", &entry), -ENOENT);
	assert_int_equal(walk(&rig, "/files/hello.txt/below", &entry), -ENOENT);
	char name[1025];
	memset(name, 'n', sizeof(name) - 1);
	name[1024] = '\0';
	assert_int_equal(lm_tree_lookup(rig.tree, LM_NODE_ROOT, name, &entry, &need, NULL), -ENAMETOOLONG);
	name[256] = '\0';
	assert_int_equal(lm_tree_lookup(rig.tree, LM_NODE_ROOT, name, &entry, &need, NULL), -ENAMETOOLONG);
	name[255] = '\0';
	assert_int_equal(lm_tree_lookup(rig.tree, LM_NODE_ROOT, name, &entry, &need, NULL), -ENOENT);
}

/* A mountpoint is known by its parent; only what is inside needs the nested catalog. */
static void test_nested(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_entry entry;
	struct stat st;
	struct lm_object_ref need;
	if (!open_rig(&rig, "fixture.cern.ch", REV(3)))
		skip();
	assert_int_equal(walk(&rig, "/nested", &entry), 0);
	assert_int_equal(rig.provided, 1);
	assert_int_equal(PROVIDED(&rig, lm_tree_getattr(rig.tree, entry.node, &st, &need, NULL)), 0);
	assert_int_equal(rig.provided, 2);
	assert_memory_equal(&st, &entry.attr, sizeof(st)); /* the child's root row says the same as its parent's row */
	assert_int_equal(walk(&rig, "/nested/a/b/c/leaf", &entry), 0);
	assert_int_equal(rig.provided, 4);
	assert_int_equal(walk(&rig, "/nested-prefix/f", &entry), 0);
	assert_int_equal(rig.provided, 4);
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(LM_REPO_PATH_MAX);
	lm_tree_path(rig.tree, node_of(&rig, "/nested/a/b/c/leaf"), &path);
	assert_string_equal(lm_buf_cstr(&path), "/nested/a/b/c/leaf");
	lm_buf_clear(&path);
	lm_tree_path(rig.tree, LM_NODE_ROOT, &path);
	assert_string_equal(lm_buf_cstr(&path), "/");
}

static void test_hard_links(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_entry a, b, c;
	if (!open_rig(&rig, "fixture.cern.ch", REV(3)))
		skip();
	assert_int_equal(walk(&rig, "/hard/a", &a), 0);
	assert_int_equal(walk(&rig, "/hard/b", &b), 0);
	assert_int_equal(walk(&rig, "/hard/c", &c), 0);
	assert_int_equal(a.attr.st_nlink, 3);
	assert_int_equal(a.node, b.node);
	assert_int_equal(a.node, c.node);
	assert_int_not_equal(a.node, node_of(&rig, "/hard/pair1"));
	assert_int_equal(node_of(&rig, "/nested/a/hl1"), node_of(&rig, "/nested/a/hl2"));
	assert_int_not_equal(node_of(&rig, "/hard/d1/cross"), node_of(&rig, "/hard/d2/cross"));
}

/* Numbers mean the same in another process, and in a later revision where the catalog stayed the same. */
static void test_numbers_last(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_object_ref need;
	struct stat st;
	if (!open_rig(&rig, "fixture.cern.ch", REV(2)))
		skip();
	uint32_t second = lm_tree_root(rig.tree);
	uint64_t leaf = node_of(&rig, "/nested/a/b/c/leaf"), hello = node_of(&rig, "/files/hello.txt");
	lm_tree_set_root(rig.tree, root_of(&rig, REV(3)));
	assert_int_equal(node_of(&rig, "/nested/a/b/c/leaf"), leaf);
	uint64_t new_hello = node_of(&rig, "/files/hello.txt");
	assert_int_not_equal(new_hello, hello);
	/* The old number still is the old file. */
	assert_int_equal(lm_tree_getattr(rig.tree, hello, &st, &need, NULL), 0);
	assert_int_equal(st.st_uid, 0);
	assert_int_equal(lm_tree_getattr(rig.tree, new_hello, &st, &need, NULL), 0);
	assert_int_equal(st.st_uid, 1000);

	tree_rig_reopen(&rig, 16);
	assert_int_equal(lm_tree_getattr(rig.tree, new_hello, &st, &need, NULL), 0);
	assert_int_equal(st.st_uid, 1000);
	lm_tree_set_root(rig.tree, second);
	assert_int_equal(node_of(&rig, "/nested/a/b/c/leaf"), leaf);
	assert_int_equal(node_of(&rig, "/files/hello.txt"), hello);
}

static void note_name(void *arg, const char *name)
{
	struct lm_buf *names = arg;
	assert_int_equal(lm_buf_printf(names, "%s ", name), 0);
}

static void test_root_changes(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	CLEANUP(lm_buf_done) struct lm_buf names = LM_BUF(10000);
	struct lm_object_ref need;
	struct lm_err err = LM_ERR_INIT;
	if (!open_rig(&rig, "fixture.cern.ch", REV(1)))
		skip();
	uint32_t one = root_of(&rig, REV(1)), three = root_of(&rig, REV(3));
	assert_int_equal(lm_tree_root_changes(rig.tree, one, three, note_name, &names, &need, &err), LM_NEED);
	assert_ok(PROVIDED(&rig, lm_tree_root_changes(rig.tree, one, three, note_name, &names, &need, &err)), &err);
	/* Rows of the root catalog have new nodes; nested catalogs only where they were rewritten. */
	assert_non_null(strstr(lm_buf_cstr(&names), "files "));
	assert_non_null(strstr(lm_buf_cstr(&names), "nested "));
	lm_buf_clear(&names);
	assert_ok(lm_tree_root_changes(rig.tree, three, three, note_name, &names, &need, &err), &err);
	assert_int_equal(names.len, 0);

	uint32_t two = root_of(&rig, REV(2));
	assert_ok(PROVIDED(&rig, lm_tree_root_changes(rig.tree, two, three, note_name, &names, &need, &err)), &err);
	assert_non_null(strstr(lm_buf_cstr(&names), "files "));
	assert_null(strstr(lm_buf_cstr(&names), "nested ")); /* revision 3 left it alone */
	lm_buf_clear(&names);
	assert_ok(lm_tree_root_changes(rig.tree, 0, three, note_name, &names, &need, &err), &err);
	assert_non_null(strstr(lm_buf_cstr(&names), "files "));
	assert_non_null(strstr(lm_buf_cstr(&names), "nested ")); /* whatever it was before */
}

static void test_links(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_object_ref need;
	struct lm_entry entry;
	if (!open_rig(&rig, "fixture.cern.ch", REV(3)))
		skip();
	setenv("FIXTURE_ARCH", "x86_64", 1);
	CLEANUP(lm_buf_done) struct lm_buf target = LM_BUF(LM_SYMLINK_MAX);
	assert_int_equal(walk(&rig, "/links/variant", &entry), 0);
	assert_int_equal(lm_tree_readlink(rig.tree, entry.node, &target, &need, NULL), 0);
	assert_string_equal(lm_buf_cstr(&target), "arch-x86_64/lib");
	assert_int_equal(entry.attr.st_size, target.len);
	unsetenv("FIXTURE_ARCH");
	assert_int_equal(walk(&rig, "/links/variant", &entry), 0);
	assert_int_equal(entry.attr.st_size, strlen("arch-/lib"));
	assert_int_equal(lm_tree_readlink(rig.tree, node_of(&rig, "/files"), &target, &need, NULL), -EINVAL);
}

/* Directories, one entry per call, so that every cursor is resumed from. */
struct one {
	char name[256];
	struct lm_entry entry;
	uint64_t next;
	bool taken;
};

static int take_one(void *arg, const char *name, const struct lm_entry *entry, uint64_t next)
{
	struct one *one = arg;
	if (one->taken)
		return 1;
	snprintf(one->name, sizeof(one->name), "%s", name);
	one->entry = *entry;
	one->next = next;
	one->taken = true;
	return 0;
}

/* Goes on to the end. */
static int take_none(void *arg, const char *name, const struct lm_entry *entry, uint64_t next)
{
	return 0;
}

static unsigned list_dir(struct tree_rig *rig, uint64_t node, struct lm_buf *names)
{
	struct lm_object_ref need;
	struct lm_err err = LM_ERR_INIT;
	unsigned count = 0;
	for (uint64_t cursor = 0;; count++) {
		struct one one = {.taken = false};
		assert_ok(PROVIDED(rig, lm_tree_readdir(rig->tree, node, cursor, take_one, &one, &need, &err)), &err);
		if (!one.taken)
			return count;
		assert_true(one.next > cursor);
		cursor = one.next;
		assert_int_equal(lm_buf_printf(names, "%s\n", one.name), 0);
		if (strcmp(one.name, ".") == 0) {
			assert_int_equal(one.entry.node, node);
		} else if (strcmp(one.name, "..") != 0) {
			struct lm_entry looked_up;
			assert_int_equal(lm_tree_lookup(rig->tree, node, one.name, &looked_up, &need, NULL), 0);
			assert_memory_equal(&looked_up, &one.entry, sizeof(looked_up));
		}
	}
}

static void test_readdir(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	CLEANUP(lm_buf_done) struct lm_buf names = LM_BUF(1 << 20);
	struct lm_object_ref need;
	struct one one = {.taken = false};
	if (!open_rig(&rig, "fixture.cern.ch", REV(3)))
		skip();
	assert_int_equal(list_dir(&rig, node_of(&rig, "/many"), &names), 2 + 299);
	assert_int_equal(strncmp(lm_buf_cstr(&names), ".\n..\n", 5), 0);
	lm_buf_clear(&names);
	list_dir(&rig, LM_NODE_ROOT, &names);
	assert_non_null(strstr(lm_buf_cstr(&names), "\nnested\n"));
	lm_buf_clear(&names);
	list_dir(&rig, node_of(&rig, "/nested/a"), &names);
	assert_non_null(strstr(lm_buf_cstr(&names), "\nhl1\n"));
	assert_non_null(strstr(lm_buf_cstr(&names), "\n.cvmfscatalog\n"));
	assert_int_equal(
		lm_tree_readdir(rig.tree, node_of(&rig, "/files/hello.txt"), 0, take_one, &one, &need, NULL), -ENOTDIR);
}

/* Hidden folders are found by name only; inside, tags of old revisions hang as whole trees. */
static void test_hidden_and_bound(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	CLEANUP(lm_buf_done) struct lm_buf names = LM_BUF(1 << 20);
	struct lm_entry entry;
	struct lm_object_ref need;
	if (!fixtures_present())
		skip();
	tree_rig_open(&rig, "options.fixture.cern.ch");
	lm_tree_set_root(rig.tree, root_of(&rig, "published/options.fixture.cern.ch.cvmfspublished.rev2"));
	CLEANUP(lm_freep) char *current = lm_str_printf("%s/options.fixture.cern.ch/.cvmfspublished", rig.dir);
	CLEANUP(lm_buf_done) struct lm_buf text = {0};
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest manifest;
	uint32_t number;
	read_whole(current, &text);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, &manifest, &err), &err);
	assert_ok(lm_catalogs_number(rig.catalogs, &manifest.catalog, "", 0, LM_VIEW_PLAIN, &number, &err), &err);
	lm_tree_set_root(rig.tree, number);

	list_dir(&rig, LM_NODE_ROOT, &names);
	assert_null(strstr(lm_buf_cstr(&names), ".cvmfs\n"));
	assert_int_equal(walk(&rig, "/.cvmfs/snapshots/one/gone-in-2", &entry), 0);
	assert_int_equal(walk(&rig, "/gone-in-2", &entry), -ENOENT);
	assert_int_equal(walk(&rig, "/.cvmfs/snapshots/one/nested/deeper/g", &entry), 0);
	uint64_t inside = entry.node;
	assert_int_not_equal(inside, node_of(&rig, "/nested/deeper/g"));
	CLEANUP(lm_buf_done) struct lm_buf path = LM_BUF(LM_REPO_PATH_MAX);
	lm_tree_path(rig.tree, inside, &path);
	assert_string_equal(lm_buf_cstr(&path), "/.cvmfs/snapshots/one/nested/deeper/g");
	/* The same directory in two places must not be one node: the kernel would move it to and fro. */
	assert_int_not_equal(node_of(&rig, "/.cvmfs/snapshots/two/dir"), node_of(&rig, "/dir"));
	assert_int_equal(PROVIDED(&rig, lm_tree_getattr(rig.tree, inside, &entry.attr, &need, NULL)), 0);
}

static void check_plan(const struct lm_read_plan *plan, uint64_t len)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < plan->count; i++) {
		assert_true(plan->pieces[i].len > 0);
		assert_true(plan->pieces[i].offset + plan->pieces[i].len <= plan->pieces[i].ref.size);
		sum += plan->pieces[i].len;
	}
	assert_int_equal(sum, len);
}

static void test_read_plan(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_object_ref need;
	struct lm_err err = LM_ERR_INIT;
	struct lm_read_plan plan;
	if (!open_rig(&rig, "fixture.cern.ch", REV(3)))
		skip();
	uint64_t large = node_of(&rig, "/chunked/large.bin"), hello = node_of(&rig, "/files/hello.txt");
	const uint64_t size = 1500000;

	assert_ok(lm_tree_read_plan(rig.tree, large, 0, size, &plan, &need, &err), &err);
	assert_true(plan.count > 5);
	check_plan(&plan, size);
	uint64_t first = plan.pieces[0].ref.size;
	struct lm_hash second = plan.pieces[1].ref.hash, third = plan.pieces[2].ref.hash;
	assert_int_equal(plan.pieces[0].ref.kind, LM_OBJECT_CHUNK);
	lm_read_plan_done(&plan);

	/* Over a chunk's end, one byte each side; and what follows. */
	assert_ok(lm_tree_read_plan(rig.tree, large, first - 1, 2, &plan, &need, &err), &err);
	assert_int_equal(plan.count, 2);
	assert_int_equal(plan.pieces[0].offset, first - 1);
	assert_int_equal(plan.pieces[1].offset, 0);
	check_plan(&plan, 2);
	lm_read_plan_done(&plan);
	struct lm_object_ref chunks[4];
	size_t count;
	uint64_t stop = 1;
	assert_ok(lm_tree_chunks(rig.tree, large, first, size, chunks, ARRAY_LEN(chunks), &count, &stop, &need, &err),
		&err);
	assert_int_equal(count, ARRAY_LEN(chunks));
	assert_int_equal(stop, 0);
	assert_true(lm_hash_equal(&chunks[0].hash, &second));
	assert_true(lm_hash_equal(&chunks[1].hash, &third));
	/* What begins in there, not what reaches into it; nothing beyond the end, nor of a file without chunks. */
	assert_ok(lm_tree_chunks(rig.tree, large, 1, first + 1, chunks, ARRAY_LEN(chunks), &count, &stop, &need, &err),
		&err);
	assert_int_equal(count, 1);
	assert_true(lm_hash_equal(&chunks[0].hash, &second));
	assert_ok(lm_tree_chunks(rig.tree, large, size, 2 * size, chunks, 1, &count, &stop, &need, &err), &err);
	assert_int_equal(count, 0);
	assert_ok(lm_tree_chunks(rig.tree, hello, 0, size, chunks, 1, &count, &stop, &need, &err), &err);
	assert_int_equal(count, 0);

	/* Around the end of the file. */
	assert_ok(lm_tree_read_plan(rig.tree, large, size - 10, 4096, &plan, &need, &err), &err);
	check_plan(&plan, 10);
	lm_read_plan_done(&plan);
	assert_ok(lm_tree_read_plan(rig.tree, large, size, 4096, &plan, &need, &err), &err);
	assert_int_equal(plan.count, 0);
	lm_read_plan_done(&plan);
	assert_ok(lm_tree_read_plan(rig.tree, large, UINT64_MAX - 5, 4096, &plan, &need, &err), &err);
	assert_int_equal(plan.count, 0);
	lm_read_plan_done(&plan);

	assert_ok(lm_tree_read_plan(rig.tree, hello, 5, 4096, &plan, &need, &err), &err);
	assert_int_equal(plan.count, 1);
	assert_int_equal(plan.pieces[0].ref.kind, LM_OBJECT_FILE);
	assert_int_equal(plan.pieces[0].offset, 5);
	check_plan(&plan, 14);
	lm_read_plan_done(&plan);
	assert_int_equal(lm_tree_read_plan(rig.tree, LM_NODE_ROOT, 0, 1, &plan, &need, &err), -EISDIR);
	uint64_t link = node_of(&rig, "/links/rel");
	assert_int_equal(lm_tree_read_plan(rig.tree, link, 0, 1, &plan, &need, &err), -EINVAL);
}

static bool has_name(const struct lm_buf *names, const char *name)
{
	for (size_t at = 0; at < names->len; at += strlen((char *)names->data + at) + 1)
		if (strcmp((char *)names->data + at, name) == 0)
			return true;
	return false;
}

static void test_attributes(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	CLEANUP(lm_buf_done) struct lm_buf value = LM_BUF(65536);
	struct lm_object_ref need;
	struct lm_err err = LM_ERR_INIT;
	if (!open_rig(&rig, "fixture.cern.ch", REV(3)))
		skip();
	uint64_t user = node_of(&rig, "/xattr/user"), trusted = node_of(&rig, "/xattr/trusted");
	assert_ok(lm_tree_getxattr(rig.tree, user, "user.one", &value, &need, &err), &err);
	assert_string_equal(lm_buf_cstr(&value), "changed");
	lm_buf_clear(&value);
	assert_ok(lm_tree_getxattr(rig.tree, user, "user.empty", &value, &need, &err), &err);
	assert_int_equal(value.len, 0);
	assert_int_equal(lm_tree_getxattr(rig.tree, user, "user.two", &value, &need, &err), -ENODATA);
	assert_int_equal(lm_tree_getxattr(rig.tree, LM_NODE_ROOT, "user.one", &value, &need, &err), -ENODATA);
	assert_ok(lm_tree_listxattr(rig.tree, user, false, &value, &need, &err), &err);
	assert_true(has_name(&value, "user.binary") && has_name(&value, "user.empty") && has_name(&value, "user.one"));
	lm_buf_clear(&value);
	assert_ok(lm_tree_listxattr(rig.tree, trusted, false, &value, &need, &err), &err);
	assert_int_equal(value.len, 0);
	assert_ok(lm_tree_listxattr(rig.tree, trusted, true, &value, &need, &err), &err);
	assert_true(has_name(&value, "trusted.fixture"));
}

/* Into the cache as `hash`, whatever its content. */
static void put_catalog(struct tree_rig *rig, const struct lm_hash *hash, const char *path)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_cache_txn_freep) struct lm_cache_txn *txn = NULL;
	CLEANUP(lm_buf_done) struct lm_buf data = {0};
	const struct lm_object_ref ref = {.hash = *hash, .kind = LM_OBJECT_CATALOG, .size = LM_SIZE_UNKNOWN};
	read_whole(path, &data);
	assert_int_equal(unlink(path), 0);
	assert_ok(lm_cache_begin(rig->cache, &txn, &err), &err);
	assert_ok(lm_cache_write(txn, data.data, data.len, &err), &err);
	assert_ok(lm_cache_commit(txn, &ref, &err), &err);
}

/* The directories on the way to path, and path. */
static void insert_dirs(struct lm_catalog_writer *w, const char *path)
{
	const struct lm_row dir = {.mode = S_IFDIR | 0755};
	struct lm_err err = LM_ERR_INIT;
	for (size_t len = 1; len <= strlen(path); len++) {
		CLEANUP(lm_freep) char *part = lm_str_ndup(path, len);
		if (path[len] == '/' || path[len] == '\0')
			assert_ok(lm_catalog_insert(w, part, &dir, NULL, 0, &err), &err);
	}
}

/* A root catalog with /d, /d/f and /d/link, and the directories of deep (NULL: none), changed by SQL past all that
 * guards the writer; in the cache, as `hash`. */
static void put_forged_deep(struct tree_rig *rig, const struct lm_hash *hash, const char *deep, const char *sql)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/forged", rig->dir);
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	const struct lm_row dir = {.mode = S_IFDIR | 0755};
	const struct lm_row link = {.mode = S_IFLNK | 0777, .symlink = (char *)"target"};
	const struct lm_catalog_props props = {.revision = 1};
	struct lm_counters counters;
	sqlite3 *db = NULL;
	assert_ok(lm_catalog_create(path, "", &dir, &w, &err), &err);
	assert_ok(lm_catalog_insert(w, "/d", &dir, NULL, 0, &err), &err);
	assert_ok(lm_catalog_insert(w, "/d/f", &link, NULL, 0, &err), &err);
	assert_ok(lm_catalog_insert(w, "/d/link", &link, NULL, 0, &err), &err);
	if (deep)
		insert_dirs(w, deep);
	assert_ok(lm_catalog_writer_finish(w, &props, &counters, &counters, &err), &err);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	put_catalog(rig, hash, path);
}

static void put_forged(struct tree_rig *rig, const struct lm_hash *hash, const char *sql)
{
	put_forged_deep(rig, hash, NULL, sql);
}

static void use_forged_deep(struct tree_rig *rig, uint8_t seed, const char *deep, const char *sql)
{
	const struct lm_hash hash = {.bytes = {seed}, .set = true};
	struct lm_err err = LM_ERR_INIT;
	uint32_t number;
	put_forged_deep(rig, &hash, deep, sql);
	assert_ok(lm_catalogs_number(rig->catalogs, &hash, "", 0, LM_VIEW_PLAIN, &number, &err), &err);
	lm_tree_set_root(rig->tree, number);
}

static void use_forged(struct tree_rig *rig, uint8_t seed, const char *sql)
{
	use_forged_deep(rig, seed, NULL, sql);
}

/* Such catalogs can't be made as long as hashes hold: here their names are lies, which the cache does not notice. */
static void test_circles(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_entry entry;
	struct one one = {.taken = false};
	struct lm_object_ref need;
	struct lm_err err = LM_ERR_INIT;
	tree_rig_open(&rig, NULL);

	/* It hangs in itself, bound; or as a nested catalog. */
	use_forged(&rig, 1,
		"UPDATE catalog SET flags = 16385 WHERE name = 'd'; INSERT INTO bind_mountpoints VALUES "
		"('/d', '0100000000000000000000000000000000000000', 0)");
	assert_int_equal(lm_tree_lookup(rig.tree, LM_NODE_ROOT, "d", &entry, &need, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "names itself"));
	assert_int_equal(lm_tree_readdir(rig.tree, LM_NODE_ROOT, 2, take_one, &one, &need, &err), -EPROTO);
	assert_false(one.taken);
	use_forged(&rig, 2,
		"UPDATE catalog SET flags = 3 WHERE name = 'd'; INSERT INTO nested_catalogs VALUES "
		"('/d', '0200000000000000000000000000000000000000', 0)");
	assert_int_equal(lm_tree_lookup(rig.tree, LM_NODE_ROOT, "d", &entry, &need, &err), -EPROTO);

	/* Two that name each other as nested: neither was made for where it hangs. */
	use_forged(&rig, 3,
		"UPDATE catalog SET flags = 3 WHERE name = 'd'; INSERT INTO nested_catalogs VALUES "
		"('/d', '0400000000000000000000000000000000000000', 0)");
	put_forged(&rig, &(const struct lm_hash){.bytes = {4}, .set = true},
		"UPDATE catalog SET flags = 3 WHERE name = 'd'; INSERT INTO nested_catalogs VALUES "
		"('/d', '0300000000000000000000000000000000000000', 0)");
	assert_ok(lm_tree_lookup(rig.tree, LM_NODE_ROOT, "d", &entry, &need, &err), &err);
	assert_int_equal(lm_tree_lookup(rig.tree, entry.node, "d", &entry, &need, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "made for ''"));

	/* Bound to each other they go round, until the path is as long as paths get. */
	use_forged(&rig, 5,
		"UPDATE catalog SET flags = 16385 WHERE name = 'd'; INSERT INTO bind_mountpoints VALUES "
		"('/d', '0600000000000000000000000000000000000000', 0)");
	put_forged(&rig, &(const struct lm_hash){.bytes = {6}, .set = true},
		"UPDATE catalog SET flags = 16385 WHERE name = 'd'; INSERT INTO bind_mountpoints VALUES "
		"('/d', '0500000000000000000000000000000000000000', 0)");
	unsigned depth = 0;
	int r;
	entry.node = LM_NODE_ROOT;
	while ((r = lm_tree_lookup(rig.tree, entry.node, "d", &entry, &need, &err)) == 0)
		depth++;
	assert_int_equal(r, -ENAMETOOLONG);
	assert_int_equal(depth, LM_REPO_PATH_MAX / 2);
}

/* What the hashes of a row say must fit its name and its directory, in a listing as well as by name. */
static void test_misplaced_rows(void **state)
{
	static const struct {
		const char *sql;
		int by_name; /* of /d/f */
	} cases[] = {
		{"UPDATE catalog SET name = 'g' WHERE name = 'f'", -EPROTO},
		{"UPDATE catalog SET md5path_1 = 4711 WHERE name = 'f'", -ENOENT},
		{"UPDATE catalog SET name = 'link' WHERE name = 'f'", -EPROTO}, /* two of one name */
		{"UPDATE catalog SET name = NULL WHERE name = 'f'", -EPROTO},
		{"UPDATE catalog SET name = 'a/b' WHERE name = 'f'", -EPROTO},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(tree_rig_close) struct tree_rig rig = {0};
		struct lm_entry entry, dir;
		struct lm_object_ref need;
		struct lm_err err = LM_ERR_INIT;
		tree_rig_open(&rig, NULL);
		use_forged(&rig, 1, cases[i].sql);
		assert_ok(lm_tree_lookup(rig.tree, LM_NODE_ROOT, "d", &dir, &need, &err), &err);
		assert_int_equal(lm_tree_lookup(rig.tree, dir.node, "f", &entry, &need, &err), cases[i].by_name);
		struct one one = {.taken = false};
		int r = lm_tree_readdir(rig.tree, dir.node, 2, take_one, &one, &need, &err);
		assert_true(r == 0 || r == -EPROTO);
		assert_string_equal(one.name, "link");
		assert_ok(lm_tree_lookup(rig.tree, dir.node, "link", &entry, &need, &err), &err);
		assert_int_equal(one.entry.node, entry.node);
		/* Nothing comes after it, and that something was left out is told. */
		uint64_t next = one.next;
		one.taken = false;
		r = lm_tree_readdir(rig.tree, dir.node, 2, take_none, &one, &need, &err);
		assert_int_equal(r, -EPROTO);
		assert_ok(lm_tree_readdir(rig.tree, dir.node, next, take_none, &one, &need, &err), &err);
	}
	/* In another directory's list: its path hash is not from there. */
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_entry entry;
	struct lm_object_ref need;
	struct lm_err err = LM_ERR_INIT;
	struct one one = {.taken = false};
	tree_rig_open(&rig, NULL);
	use_forged(&rig, 1,
		"UPDATE catalog SET (parent_1, parent_2) = (SELECT md5path_1, md5path_2 FROM catalog WHERE rowid = 1) "
		"WHERE name = 'f'");
	assert_int_equal(lm_tree_readdir(rig.tree, LM_NODE_ROOT, 2, take_none, &one, &need, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "/f"));
	assert_ok(lm_tree_lookup(rig.tree, LM_NODE_ROOT, "d", &entry, &need, &err), &err);
	assert_int_equal(lm_tree_lookup(rig.tree, entry.node, "f", &entry, &need, &err), -EPROTO);
	assert_int_equal(lm_tree_lookup(rig.tree, LM_NODE_ROOT, "f", &entry, &need, &err), -ENOENT);
}

/* Of a directory that the kernel knows since before this process: its path is found by its parents. */
static void test_known_directories(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_entry leaf, entry;
	struct lm_object_ref need;
	if (!open_rig(&rig, "fixture.cern.ch", REV(3)))
		skip();
	const uint64_t dirs[] = {
		node_of(&rig, "/nested/a/b/c"), node_of(&rig, "/nested/a/b"), node_of(&rig, "/nested/a")};
	const char *const names[] = {"leaf", "c", "b"};
	for (size_t first = 0; first < ARRAY_LEN(dirs); first++) {
		const uint32_t root = lm_tree_root(rig.tree);
		tree_rig_reopen(&rig, 16);
		lm_tree_set_root(rig.tree, root);
		for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
			size_t k = (first + i) % ARRAY_LEN(dirs);
			assert_int_equal(
				PROVIDED(&rig, lm_tree_lookup(rig.tree, dirs[k], names[k], &entry, &need, NULL)), 0);
			assert_int_equal(
				PROVIDED(&rig, lm_tree_lookup(rig.tree, dirs[k], "none", &leaf, &need, NULL)), -ENOENT);
			assert_true(k == 0 || entry.node == dirs[k - 1]);
		}
	}
}

static void test_forged_parents(void **state)
{
	static const char *const forged[] = {
		"UPDATE catalog SET name = 'e' WHERE name = 'd'",
		"UPDATE catalog SET parent_1 = 4711 WHERE name = 'd'",				  /* none */
		"UPDATE catalog SET parent_1 = md5path_1, parent_2 = md5path_2 WHERE name = 'd'", /* itself */
	};
	for (size_t i = 0; i < ARRAY_LEN(forged); i++) {
		CLEANUP(tree_rig_close) struct tree_rig rig = {0};
		struct lm_entry dir, entry;
		struct lm_object_ref need;
		struct lm_err err = LM_ERR_INIT;
		tree_rig_open(&rig, NULL);
		use_forged(&rig, 1, "SELECT 1");
		assert_ok(lm_tree_lookup(rig.tree, LM_NODE_ROOT, "d", &dir, &need, &err), &err);
		assert_ok(lm_tree_lookup(rig.tree, dir.node, "f", &entry, &need, &err), &err);
		const uint64_t row = dir.node - lm_tree_node(lm_tree_root(rig.tree), 0);
		use_forged(&rig, 2, forged[i]);
		dir.node = lm_tree_node(lm_tree_root(rig.tree), row);
		assert_int_equal(lm_tree_lookup(rig.tree, dir.node, "f", &entry, &need, &err), -EPROTO);
		assert_non_null(strstr(err.msg, "row"));
		assert_int_equal(lm_tree_lookup(rig.tree, dir.node, "none", &entry, &need, &err), -EPROTO);
	}
}

/* A row that hangs in a directory whose path is as long as paths get. */
static void test_too_long_path(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	struct lm_entry dir, entry;
	struct lm_object_ref need;
	struct lm_err err = LM_ERR_INIT;
	char deep[LM_REPO_PATH_MAX + 1];
	for (size_t i = 0; i < LM_REPO_PATH_MAX; i++)
		deep[i] = i % (LM_NAME_MAX + 1) == 0 ? '/' : 'x';
	deep[LM_REPO_PATH_MAX - 1] = 'z'; /* the only one of that name */
	deep[LM_REPO_PATH_MAX] = '\0';
	tree_rig_open(&rig, NULL);
	use_forged_deep(&rig, 1, deep, "SELECT 1");
	assert_ok(lm_tree_lookup(rig.tree, LM_NODE_ROOT, "d", &dir, &need, &err), &err);
	assert_ok(lm_tree_lookup(rig.tree, dir.node, "f", &entry, &need, &err), &err);
	const uint64_t row = entry.node - lm_tree_node(lm_tree_root(rig.tree), 0);
	use_forged_deep(&rig, 2, deep,
		"UPDATE catalog SET (parent_1, parent_2) = (SELECT md5path_1, md5path_2 FROM catalog WHERE name LIKE "
		"'%z') "
		"WHERE name = 'f'");
	entry.node = lm_tree_node(lm_tree_root(rig.tree), row);
	assert_int_equal(lm_tree_lookup(rig.tree, entry.node, "x", &entry, &need, &err), -EPROTO);
	assert_non_null(strstr(err.msg, "its parents form no path"));
}

/* The layers' view. */

static bool has_line(const struct lm_buf *names, const char *name)
{
	CLEANUP(lm_freep) char *line = lm_str_printf("\n%s\n", name);
	return strstr(lm_buf_cstr(names), line) != NULL;
}

static void check_opaque(struct tree_rig *rig, uint64_t node, bool opaque)
{
	CLEANUP(lm_buf_done) struct lm_buf value = LM_BUF(1000), names = LM_BUF(1000);
	struct lm_object_ref need;
	struct lm_err err = LM_ERR_INIT;
	int r = lm_tree_getxattr(rig->tree, node, "trusted.overlay.opaque", &value, &need, NULL);
	assert_int_equal(r, opaque ? 0 : -ENODATA);
	if (opaque)
		assert_string_equal(lm_buf_cstr(&value), "y");
	assert_int_equal(lm_tree_getxattr(rig->tree, node, "user.other", &value, &need, NULL), -ENODATA);
	assert_ok(lm_tree_listxattr(rig->tree, node, true, &names, &need, &err), &err);
	assert_int_equal(has_name(&names, "trusted.overlay.opaque"), opaque);
	lm_buf_clear(&names);
	assert_ok(lm_tree_listxattr(rig->tree, node, false, &names, &need, &err), &err);
	assert_int_equal(names.len, 0);
}

/* Path of the name in dir by which merged trees call the last of the paths; the others are the catalogs on the way. */
static char *row_name(const char *dir, const char *const *paths, size_t count)
{
	int64_t halves[LM_IMAGES_ROW_MAX];
	for (size_t i = 0; i < count; i++)
		halves[i] = lm_path_hash(paths[i], strlen(paths[i])).a;
	return lm_str_printf("%s/%s", dir, lm_images_row(halves, count).s);
}

static void row_leads(struct tree_rig *rig, const char *dir, const char *const *paths, size_t count, int expected)
{
	CLEANUP(lm_freep) char *name = row_name(dir, paths, count);
	struct lm_entry entry, plain;
	assert_int_equal(walk(rig, name, &entry), expected);
	if (expected < 0)
		return;
	assert_int_equal(walk(rig, paths[count - 1], &plain), 0);
	assert_memory_equal(&entry, &plain, sizeof(entry));
}

/* From where a catalog begins to files of those below it, each catalog on the way named. */
static void test_row_names(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	CLEANUP(lm_buf_done) struct lm_buf names = LM_BUF(1 << 20);
#define IN_NESTED "/nested", "/nested/a", "/nested/a/b/c"
	static const char *const all[] = {IN_NESTED, "/nested/a/b/c/leaf"},
				 *const directory[] = {IN_NESTED, "/nested/a/b/c"},
				 *const nothing[] = {IN_NESTED, "/nested/a/b/c/nothing"},
				 *const no_catalog[] = {"/files", "/files/hello.txt"},
				 *const file[] = {"/files/hello.txt", "/files/hello.txt"},
				 *const passed_over[] = {"/nested/a", "/nested/a/b/c", "/nested/a/b/c/leaf"};
	struct lm_entry entry;
	if (!open_rig(&rig, "fixture.cern.ch", REV(3)))
		skip();
	/* The catalogs on the way are fetched one after the other. */
	CLEANUP(lm_freep) char *name = row_name("", all, 4);
	assert_int_equal(walk(&rig, name, &entry), 0);
	assert_int_equal(rig.provided, 4);
	for (int again = 0; again < 2; again++) {
		row_leads(&rig, "", all, 4, 0);
		row_leads(&rig, "/nested", &all[1], 3, 0);
		row_leads(&rig, "/nested/a", &all[2], 2, 0);
		row_leads(&rig, "/nested/a/b/c", &all[3], 1, 0);
		row_leads(&rig, "", &file[1], 1, 0);
		row_leads(&rig, "", directory, 4, -ENOENT);
		row_leads(&rig, "", directory, 1, -ENOENT);
		row_leads(&rig, "", nothing, 4, -ENOENT);
		row_leads(&rig, "", no_catalog, 2, -ENOENT);
		row_leads(&rig, "", file, 2, -ENOENT);
		row_leads(&rig, "", passed_over, 3, -ENOENT);
		row_leads(&rig, "/nested/a/b", &all[2], 2, -ENOENT);
		row_leads(&rig, "/files", &file[1], 1, -ENOENT);
	}
	assert_int_equal(rig.provided, 4);
	list_dir(&rig, LM_NODE_ROOT, &names);
	assert_false(has_line(&names, name + 1));
}

#define LAYER "/cb/cb0010e88df5e7f422a78ce1207d7d6d51bb3cd8f3c8d8ac0be77eb69975fbc2/layerfs"

static void leads_to(struct tree_rig *rig, const char *dir, const char *file, int expected)
{
	CLEANUP(lm_freep) char *own = lm_str_printf("/.layers" LAYER "%s", file);
	CLEANUP(lm_freep) char *name = row_name(dir, (const char *const *)&own, 1);
	CLEANUP(lm_freep) char *path = lm_str_printf("/.lamella-layers" LAYER "%s", file);
	struct lm_entry entry, plain;
	assert_int_equal(walk(rig, name, &entry), expected);
	if (expected < 0)
		return;
	assert_int_equal(walk(rig, path, &plain), 0);
	assert_memory_equal(&entry, &plain, sizeof(entry));
}

/* Regular files, where their catalog begins. */
static void check_rows(struct tree_rig *rig)
{
#define LAYERS "/.lamella-layers"
	leads_to(rig, LAYERS LAYER, "/app/main", 0);
	leads_to(rig, LAYERS LAYER, "/etc/passwd", 0);
	leads_to(rig, LAYERS LAYER, "/etc", -ENOENT);
	leads_to(rig, LAYERS LAYER, "/etc/.wh.removed-later", -ENOENT);
	leads_to(rig, LAYERS LAYER, "/etc/removed-later", -ENOENT);
	leads_to(rig, LAYERS LAYER, "/.cvmfscatalog", -ENOENT);
	leads_to(rig, LAYERS LAYER, "/nothing", -ENOENT);
	leads_to(rig, LAYERS LAYER "/app", "/app/main", -ENOENT);
	leads_to(rig, LAYERS, "/app/main", -ENOENT);
	static const char *const file = "/.layers" LAYER "/app/main";
	CLEANUP(lm_freep) char *name = row_name("/.layers" LAYER, &file, 1);
	assert_int_equal(node_of(rig, name), node_of(rig, "/.layers" LAYER "/app/main"));
}

/* What stock tools wrote. */
static void test_stock_layers(void **state)
{
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	CLEANUP(lm_buf_done) struct lm_buf names = LM_BUF(1 << 20), text = LM_BUF(1 << 20);
	struct lm_entry entry;
	struct lm_err err = LM_ERR_INIT;
	struct lm_manifest manifest;
	uint32_t root;
	if (!fixtures_present())
		skip();
	tree_rig_open(&rig, "unpacked.fixture.cern.ch");
	CLEANUP(lm_freep) char *current = lm_str_printf("%s/unpacked.fixture.cern.ch/.cvmfspublished", rig.dir);
	read_whole(current, &text);
	assert_ok(lm_manifest_parse(lm_buf_cstr(&text), text.len, &manifest, &err), &err);
	assert_ok(lm_catalogs_number(rig.catalogs, &manifest.catalog, "", 0, LM_VIEW_PLAIN, &root, &err), &err);
	assert_int_equal(walk(&rig, "/.lamella-layers", &entry), -EIO);
	lm_tree_set_root(rig.tree, root);

	list_dir(&rig, LM_NODE_ROOT, &names);
	assert_true(has_line(&names, ".layers"));
	assert_false(has_line(&names, ".lamella-layers"));
	assert_int_equal(walk(&rig, "/.layers/.lamella-layers", &entry), -ENOENT);
	assert_int_equal(walk(&rig, "/.lamella-layers/.layers", &entry), -ENOENT);

	assert_int_equal(walk(&rig, "/.lamella-layers" LAYER "/etc/removed-later", &entry), 0);
	assert_int_equal(entry.attr.st_mode, S_IFCHR);
	assert_int_equal(entry.attr.st_rdev, 0);
	struct stat again;
	struct lm_object_ref need;
	assert_ok(lm_tree_getattr(rig.tree, entry.node, &again, &need, &err), &err);
	assert_memory_equal(&again, &entry.attr, sizeof(again));
	assert_int_equal(walk(&rig, "/.lamella-layers" LAYER "/etc/.wh.removed-later", &entry), -ENOENT);
	assert_int_equal(walk(&rig, "/.layers" LAYER "/etc/removed-later", &entry), -ENOENT);
	assert_int_equal(walk(&rig, "/.layers" LAYER "/etc/.wh.removed-later", &entry), 0);
	lm_buf_clear(&names);
	list_dir(&rig, node_of(&rig, "/.lamella-layers" LAYER "/etc"), &names);
	assert_string_equal(lm_buf_cstr(&names), ".\n..\nremoved-later\npasswd\n");

	check_opaque(&rig, node_of(&rig, "/.lamella-layers" LAYER "/opt/old"), true);
	check_opaque(&rig, node_of(&rig, "/.lamella-layers" LAYER "/opt"), false);
	check_opaque(&rig, node_of(&rig, "/.lamella-layers" LAYER), false);
	check_opaque(&rig, node_of(&rig, "/.layers" LAYER "/opt/old"), false);
	lm_buf_clear(&names);
	list_dir(&rig, node_of(&rig, "/.lamella-layers" LAYER "/opt/old"), &names);
	assert_string_equal(lm_buf_cstr(&names), ".\n..\nnew\n");
	lm_buf_clear(&names);
	list_dir(&rig, node_of(&rig, "/.lamella-layers" LAYER), &names);
	assert_false(has_line(&names, ".cvmfscatalog"));
	assert_int_equal(walk(&rig, "/.lamella-layers" LAYER "/.cvmfscatalog", &entry), -ENOENT);
	assert_int_equal(walk(&rig, "/.layers" LAYER "/.cvmfscatalog", &entry), 0);

	check_rows(&rig);

	/* Nodes of their own, the same in the next process; content is the same. */
	uint64_t shown = node_of(&rig, "/.lamella-layers" LAYER "/app/main");
	uint64_t plain = node_of(&rig, "/.layers" LAYER "/app/main");
	assert_int_not_equal(shown, plain);
	struct lm_read_plan plans[2];
	assert_ok(lm_tree_read_plan(rig.tree, shown, 0, 100, &plans[0], &need, &err), &err);
	assert_ok(lm_tree_read_plan(rig.tree, plain, 0, 100, &plans[1], &need, &err), &err);
	assert_true(lm_hash_equal(&plans[0].pieces[0].ref.hash, &plans[1].pieces[0].ref.hash));
	for (int i = 0; i < 2; i++)
		lm_read_plan_done(&plans[i]);
	tree_rig_reopen(&rig, 16);
	lm_tree_set_root(rig.tree, root);
	assert_int_equal(node_of(&rig, "/.lamella-layers" LAYER "/app/main"), shown);
}

/* What no stock tool would write, in an ordinary directory of the root catalog. */
/* The chunks that begin in [from, to) are those of the first bytes of their hashes, and that is where they stop. */
static void chunks_are(struct tree_rig *rig, uint64_t from, uint64_t to, const char *hashes, uint64_t stop)
{
	struct lm_object_ref chunks[16], need;
	struct lm_err err = LM_ERR_INIT;
	size_t count;
	uint64_t got;
	uint64_t node = node_of(rig, "/file");
	assert_ok(
		lm_tree_chunks(rig->tree, node, from, to, chunks, ARRAY_LEN(chunks), &count, &got, &need, &err), &err);
	assert_int_equal(count, strlen(hashes));
	for (size_t i = 0; i < count; i++)
		assert_int_equal(chunks[i].hash.bytes[0], hashes[i]);
	assert_int_equal(got, stop);
}

/* A file that is many, as those of merged trees are. */
static void test_files_in_a_file(void **state)
{
	static const uint64_t sizes[] = {8192, 8192, 3840, 240, 16, 8192, 100, 3840, 156, 8192, 4096};
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	const struct lm_hash hash = {.bytes = {1}, .set = true};
	const struct lm_row dir = {.mode = S_IFDIR | 0755};
	struct lm_row file = {.mode = S_IFREG | 0644};
	struct lm_chunk chunks[ARRAY_LEN(sizes)];
	const struct lm_catalog_props props = {.revision = 1};
	struct lm_counters counters;
	struct lm_err err = LM_ERR_INIT;
	uint32_t root;
	tree_rig_open(&rig, NULL);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/new", rig.dir);
	for (size_t i = 0; i < ARRAY_LEN(sizes); file.size += sizes[i++])
		chunks[i] = (struct lm_chunk){file.size, sizes[i], {.bytes = {(uint8_t)('a' + i)}, .set = true}};
	assert_ok(lm_catalog_create(path, "", &dir, &w, &err), &err);
	assert_ok(lm_catalog_insert(w, "/file", &file, chunks, ARRAY_LEN(sizes), &err), &err);
	assert_ok(lm_catalog_writer_finish(w, &props, &counters, &counters, &err), &err);
	put_catalog(&rig, &hash, path);
	assert_ok(lm_catalogs_number(rig.catalogs, &hash, "", 0, LM_VIEW_PLAIN, &root, &err), &err);
	lm_tree_set_root(rig.tree, root);

	const uint64_t first = 20480, second = first + 8192 + 4096;
	chunks_are(&rig, 0, file.size, "abcde", first);
	chunks_are(&rig, 1, 2 * 8192 + 1, "bcde", first);
	chunks_are(&rig, 0, 2 * 8192, "ab", 0);
	chunks_are(&rig, 2 * 8192 + 1, file.size, "de", first);
	chunks_are(&rig, first, file.size, "fghi", second);
	chunks_are(&rig, first, first + 8192 + 1, "fghi", second);
	chunks_are(&rig, second, file.size, "jk", 0);
	chunks_are(&rig, second, second + 1, "j", 0);
}

static void test_odd_layers(void **state)
{
	static const char *const files[] = {".wh.gone", ".wh.kept", "kept", ".wh..wh..opq", ".wh..wh.plnk", ".wh..",
		".cvmfscatalog", ".wh..cvmfscatalog", "d/.cvmfsautocatalog", ".wh.folder/inside"};
	CLEANUP(tree_rig_close) struct tree_rig rig = {0};
	CLEANUP(lm_buf_done) struct lm_buf names = LM_BUF(1 << 20);
	CLEANUP(lm_catalog_writer_freep) struct lm_catalog_writer *w = NULL;
	const struct lm_hash hash = {.bytes = {1}, .set = true};
	const struct lm_row dir = {.mode = S_IFDIR | 0755}, file = {.mode = S_IFREG | 0644, .hash = hash};
	const struct lm_catalog_props props = {.revision = 1};
	struct lm_counters counters;
	struct lm_entry entry;
	struct lm_err err = LM_ERR_INIT;
	uint32_t root;
	tree_rig_open(&rig, NULL);
	CLEANUP(lm_freep) char *path = lm_str_printf("%s/new", rig.dir);
	assert_ok(lm_catalog_create(path, "", &dir, &w, &err), &err);
	static const char *const dirs[] = {"/.layers", "/.layers/d", "/.layers/.wh.folder", "/.lamella-layers"};
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		assert_ok(lm_catalog_insert(w, dirs[i], &dir, NULL, 0, &err), &err);
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		CLEANUP(lm_freep) char *name = lm_str_printf("/.layers/%s", files[i]);
		assert_ok(lm_catalog_insert(w, name, &file, NULL, 0, &err), &err);
	}
	/* As long as a name may be: nothing can be deleted by it, nor is there room to look for a deletion. */
	char longest[LM_NAME_MAX + 1] = {0};
	memset(longest, 'x', LM_NAME_MAX);
	assert_ok(lm_catalog_writer_finish(w, &props, &counters, &counters, &err), &err);
	put_catalog(&rig, &hash, path);
	assert_ok(lm_catalogs_number(rig.catalogs, &hash, "", 0, LM_VIEW_PLAIN, &root, &err), &err);
	lm_tree_set_root(rig.tree, root);

	uint64_t layers = node_of(&rig, "/.lamella-layers");
	list_dir(&rig, layers, &names); /* each entry is looked up as well */
	assert_true(has_line(&names, "gone") && has_line(&names, "kept") && has_line(&names, "d"));
	assert_true(has_line(&names, ".wh..") && has_line(&names, ".wh.folder"));
	assert_true(has_line(&names, ".cvmfscatalog")); /* the marker is hidden, so the deletion is seen */
	assert_int_equal(walk(&rig, "/.lamella-layers/.cvmfscatalog", &entry), 0);
	assert_int_equal(entry.attr.st_mode, S_IFCHR);
	assert_int_equal(walk(&rig, "/.lamella-layers/kept", &entry), 0);
	assert_int_equal(entry.attr.st_mode, S_IFREG | 0644);
	unsigned lines = 0;
	for (const char *at = lm_buf_cstr(&names); (at = strchr(at, '\n')); at++)
		lines++;
	assert_int_equal(lines, 2 + 6);
	struct lm_object_ref need;
	assert_int_equal(lm_tree_lookup(rig.tree, layers, longest, &entry, &need, NULL), -ENOENT);
	assert_int_equal(walk(&rig, "/.lamella-layers/.wh.folder/inside", &entry), 0);
	assert_int_equal(walk(&rig, "/.lamella-layers/d/.cvmfsautocatalog", &entry), -ENOENT);
	check_opaque(&rig, layers, true);
	check_opaque(&rig, node_of(&rig, "/.lamella-layers/d"), false);

	/* Another revision: whoever was told about the one name is told about the other, too. */
	use_forged(&rig, 2, "SELECT 1");
	lm_buf_clear(&names);
	assert_ok(PROVIDED(&rig,
			  lm_tree_root_changes(rig.tree, root, lm_tree_root(rig.tree), note_name, &names, &need, &err)),
		&err);
	assert_non_null(strstr(lm_buf_cstr(&names), ".lamella-layers "));
	assert_int_equal(walk(&rig, "/.lamella-layers", &entry), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_root),
		cmocka_unit_test(test_lookup),
		cmocka_unit_test(test_nested),
		cmocka_unit_test(test_row_names),
		cmocka_unit_test(test_hard_links),
		cmocka_unit_test(test_numbers_last),
		cmocka_unit_test(test_root_changes),
		cmocka_unit_test(test_links),
		cmocka_unit_test(test_readdir),
		cmocka_unit_test(test_hidden_and_bound),
		cmocka_unit_test(test_read_plan),
		cmocka_unit_test(test_attributes),
		cmocka_unit_test(test_circles),
		cmocka_unit_test(test_misplaced_rows),
		cmocka_unit_test(test_known_directories),
		cmocka_unit_test(test_forged_parents),
		cmocka_unit_test(test_too_long_path),
		cmocka_unit_test(test_stock_layers),
		cmocka_unit_test(test_files_in_a_file),
		cmocka_unit_test(test_odd_layers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
