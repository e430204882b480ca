#include "convert/layer_tree.h"
#include "convert_test.h"
#include "repo/xattr.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

/* A tree, and what one entry may be. */
struct fixture {
	struct lm_layer_tree *tree;
	struct lm_layer_inode *file;
	struct lm_err err;
};

static int nothing(void *arg, size_t index, const char *path, struct lm_row *ret, struct lm_err *err)
{
	return -ENOENT;
}

/* A layer with an empty one below, where it does not matter. */
static int setup(void **state)
{
	const struct lm_layer_below below = {.lookup = nothing, .count = 1};
	struct fixture *f = calloc(1, sizeof(*f));
	*state = f;
	return lm_layer_tree_new(&below, &f->tree, &f->err);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	lm_layer_tree_free(f->tree);
	free(f);
	return 0;
}

static int try(struct fixture *f, struct lm_tar_entry entry)
{
	if (!entry.link)
		entry.link = "";
	return lm_layer_tree_apply(f->tree, &entry, &f->file, &f->err);
}

static void apply(struct fixture *f, struct lm_tar_entry entry)
{
	int r = try(f, entry);
	if (r < 0)
		print_error("%s\n", f->err.msg);
	assert_int_equal(r, 0);
}

static void refuse(struct fixture *f, struct lm_tar_entry entry, const char *message)
{
	assert_int_equal(try(f, entry), -EPROTO);
	if (!strstr(f->err.msg, message))
		print_error("%s\n", f->err.msg);
	assert_non_null(strstr(f->err.msg, message));
	assert_null(f->file);
}

static void dir(struct fixture *f, const char *name)
{
	apply(f, (struct lm_tar_entry){.type = '5', .name = name, .mode = 0755, .mtime_s = 1});
}

static void file(struct fixture *f, const char *name)
{
	apply(f, (struct lm_tar_entry){.type = '0', .name = name, .mode = 0644, .mtime_s = 1});
}

static void symlink_to(struct fixture *f, const char *name, const char *target)
{
	apply(f, (struct lm_tar_entry){.type = '2', .name = name, .link = target, .mode = 0777});
}

static void hardlink_to(struct fixture *f, const char *name, const char *target)
{
	apply(f, (struct lm_tar_entry){.type = '1', .name = name, .link = target, .mode = 0644});
}

static struct lm_layer_inode *at(struct fixture *f, const char *path)
{
	struct lm_layer_node *node = lm_layer_tree_find(f->tree, path);
	if (!node)
		print_error("%s is not there\n", path);
	assert_non_null(node);
	return node->inode;
}

static void absent(struct fixture *f, const char *path)
{
	assert_null(lm_layer_tree_find(f->tree, path));
}

static const struct lm_layer_xattr *xattr(const struct lm_layer_inode *inode, const char *key)
{
	const struct lm_layer_xattr *x = inode->xattrs;
	while (x && strcmp(x->key, key) != 0)
		x = x->next;
	return x;
}

static void test_plain(void **state)
{
	struct fixture *f = *state;
	apply(f, (struct lm_tar_entry){.type = '5',
			 .name = "./",
			 .mode = 0700,
			 .uid = 5,
			 .mtime_s = 77}); /* the root is passed over */
	dir(f, "./etc/");
	apply(f, (struct lm_tar_entry){.type = '0',
			 .name = "./etc/shadow",
			 .mode = 0100640,
			 .uid = 3000000000,
			 .gid = 42,
			 .size = 10,
			 .mtime_s = 5,
			 .mtime_ns = 6});
	assert_ptr_equal(f->file, at(f, "/etc/shadow"));
	assert_int_equal(f->file->mode, S_IFREG | 0640);
	assert_int_equal(f->file->uid, 3000000000);
	assert_int_equal(f->file->gid, 42);
	assert_int_equal(f->file->size, 10);
	assert_int_equal(f->file->mtime_s, 5);
	assert_int_equal(f->file->mtime_ns, 6);
	apply(f, (struct lm_tar_entry){.type = '3', .name = "tty", .mode = 06644, .dev_major = 5, .dev_minor = 300});
	assert_null(f->file);
	assert_int_equal(at(f, "/tty")->mode, S_IFCHR | 06644);
	assert_int_equal(at(f, "/tty")->rdev, makedev(5, 300));
	apply(f, (struct lm_tar_entry){.type = '4', .name = "disk", .dev_major = 0x1008, .dev_minor = 0x100001});
	assert_int_equal(at(f, "/disk")->rdev, makedev(8, 1)); /* mknod's 12 and 20 bits */
	apply(f, (struct lm_tar_entry){.type = '6', .name = "fifo", .mode = 01600});
	assert_int_equal(at(f, "/fifo")->mode, S_IFIFO | 01600);
	symlink_to(f, "sh", "bin/\xff");
	assert_int_equal(at(f, "/sh")->mode, S_IFLNK | 0777);
	assert_string_equal(at(f, "/sh")->target, "bin/\xff");
	assert_int_equal(lm_layer_tree_root(f->tree)->inode->mode, S_IFDIR | 0755);
	assert_int_equal(lm_layer_tree_root(f->tree)->inode->uid, 0);
	assert_int_equal(lm_layer_tree_finish(f->tree, &f->err), 0);
}

static void test_names_stay_inside(void **state)
{
	struct fixture *f = *state;
	file(f, "/absolute");
	file(f, "../../up");
	file(f, "a/../b/./c//d");
	file(f, "../x/../../y");
	at(f, "/absolute");
	at(f, "/up");
	at(f, "/b/c/d");
	at(f, "/y");
	absent(f, "/a");
	absent(f, "/x");
	const char *const roots[] = {"", ".", "/", "..", "a/..", "../..", "./", "//"};
	for (size_t i = 0; i < ARRAY_LEN(roots); i++) {
		apply(f, (struct lm_tar_entry){.type = '0', .name = roots[i], .mode = 0600});
		assert_null(f->file);
	}
}

static void test_parents_through_links(void **state)
{
	struct fixture *f = *state;
	dir(f, "usr");
	symlink_to(f, "bin", "usr/bin");
	symlink_to(f, "abs", "/usr");
	symlink_to(f, "out", "../../usr");
	symlink_to(f, "usr/self", ".");
	symlink_to(f, "usr/back", "../abs/lib");
	file(f, "bin/sh");
	file(f, "abs/a");
	file(f, "out/o");
	file(f, "usr/self/self/s");
	file(f, "usr/back/b");
	at(f, "/usr/bin/sh");
	at(f, "/usr/a");
	at(f, "/usr/o");
	at(f, "/usr/s");
	at(f, "/usr/lib/b");
	/* The name itself is not followed: the entry replaces the link. */
	file(f, "abs");
	assert_true(S_ISREG(at(f, "/abs")->mode));
	symlink_to(f, "l1", "l2");
	symlink_to(f, "l2", "l1");
	refuse(f, (struct lm_tar_entry){.type = '0', .name = "l1/x"}, "too many symbolic links");
	refuse(f, (struct lm_tar_entry){.type = '0', .name = "usr/a/x"}, "no directory");
	refuse(f, (struct lm_tar_entry){.type = '0', .name = "usr/a/x/y"}, "no directory");
}

static void test_missing_parents(void **state)
{
	struct fixture *f = *state;
	apply(f, (struct lm_tar_entry){.type = '5', .name = "sgid", .mode = 02775, .gid = 50});
	file(f, "sgid/new/x");
	file(f, "a/b/c");
	assert_int_equal(at(f, "/a")->mode, S_IFDIR | 0755);
	assert_int_equal(at(f, "/a/b")->mode, S_IFDIR | 0755);
	assert_int_equal(at(f, "/a")->gid, 0);
	/* The kernel passes the group on, and chmod takes the bit away. */
	assert_int_equal(at(f, "/sgid/new")->gid, 50);
	assert_int_equal(at(f, "/sgid/new")->mode, S_IFDIR | 0755);
}

static void test_again(void **state)
{
	struct fixture *f = *state;
	const struct lm_tar_xattr attr = {"user.a", "1", 1};
	apply(f, (struct lm_tar_entry){.type = '5', .name = "d", .mode = 0700, .xattrs = &attr, .xattr_count = 1});
	file(f, "d/child");
	apply(f, (struct lm_tar_entry){.type = '5', .name = "d", .mode = 01777, .uid = 9});
	at(f, "/d/child");
	assert_int_equal(at(f, "/d")->mode, S_IFDIR | 01777);
	assert_int_equal(at(f, "/d")->uid, 9);
	assert_non_null(xattr(at(f, "/d"), "user.a"));
	file(f, "d");
	absent(f, "/d/child");
	assert_true(S_ISREG(at(f, "/d")->mode));
	assert_null(at(f, "/d")->xattrs);
	dir(f, "d");
	absent(f, "/d/child");
	struct lm_layer_inode *first = at(f, "/d");
	symlink_to(f, "d", "x");
	assert_int_equal(first->names, 0);
	assert_ptr_equal(lm_layer_tree_root(f->tree)->children, lm_layer_tree_find(f->tree, "/d"));
	assert_ptr_equal(lm_layer_tree_root(f->tree)->last_child, lm_layer_tree_find(f->tree, "/d"));
	assert_null(lm_layer_tree_find(f->tree, "/d")->next);
}

static void test_whiteouts(void **state)
{
	struct fixture *f = *state;
	apply(f, (struct lm_tar_entry){
			 .type = '0', .name = "a/.wh.gone", .mode = 0644, .uid = 7, .gid = 8, .size = 0, .mtime_s = 3});
	assert_null(f->file);
	const struct lm_layer_inode *gone = at(f, "/a/gone");
	assert_int_equal(gone->mode, S_IFCHR);
	assert_int_equal(gone->rdev, 0);
	assert_int_equal(gone->uid, 7);
	assert_int_equal(gone->gid, 8);
	absent(f, "/a/.wh.gone");
	/* Whatever its type. */
	dir(f, "a/.wh.dir");
	symlink_to(f, "a/.wh.link", "x");
	assert_int_equal(at(f, "/a/dir")->mode, S_IFCHR);
	assert_int_equal(at(f, "/a/link")->mode, S_IFCHR);
	/* Made anew after its whiteout: the whiteout goes, and a directory is not opaque. */
	dir(f, "a/gone");
	assert_true(S_ISDIR(at(f, "/a/gone")->mode));
	assert_null(at(f, "/a/gone")->xattrs);
	/* What a layer has it can't remove. */
	refuse(f, (struct lm_tar_entry){.type = '0', .name = "a/.wh.gone"}, "same layer");
	refuse(f, (struct lm_tar_entry){.type = '0', .name = "a/.wh.dir"}, "same layer");
	refuse(f, (struct lm_tar_entry){.type = '0', .name = "a/.wh."}, "whiteout of nothing");
	refuse(f, (struct lm_tar_entry){.type = '0', .name = "a/.wh.."}, "whiteout of nothing");
	refuse(f, (struct lm_tar_entry){.type = '0', .name = "a/.wh..."}, "whiteout of nothing");
	/* Old AUFS metadata is nothing special to containerd. */
	dir(f, ".wh..wh.plnk");
	assert_int_equal(at(f, "/.wh.plnk")->mode, S_IFCHR);
	file(f, ".wh..wh.orph/1.2");
	assert_true(S_ISDIR(at(f, "/.wh..wh.orph")->mode));
}

static void test_opaque(void **state)
{
	struct fixture *f = *state;
	dir(f, "o");
	file(f, "o/before");
	file(f, "o/.wh..wh..opq");
	file(f, "o/after");
	at(f, "/o/before");
	at(f, "/o/after");
	absent(f, "/o/.wh..wh..opq");
	dir(f, "o"); /* stays opaque */
	const struct lm_layer_xattr *opaque = xattr(at(f, "/o"), LM_OVERLAY_OPAQUE);
	assert_non_null(opaque);
	assert_int_equal(opaque->value_len, 1);
	assert_memory_equal(opaque->value, "y", 1);
	file(f, "made/.wh..wh..opq");
	assert_non_null(xattr(at(f, "/made"), LM_OVERLAY_OPAQUE));
	file(f, ".wh..wh..opq");
	assert_non_null(xattr(lm_layer_tree_root(f->tree)->inode, LM_OVERLAY_OPAQUE));
}

/* The lowest layer has nothing to hide: whiteouts remove. */
static void test_lowest_layer(void **state)
{
	struct fixture *f = *state;
	lm_layer_tree_free(f->tree);
	assert_int_equal(lm_layer_tree_new(NULL, &f->tree, &f->err), 0);
	dir(f, "d");
	file(f, "d/x");
	file(f, ".wh.d");
	file(f, ".wh.d");
	file(f, "a/.wh.never");
	absent(f, "/d");
	absent(f, "/a/never");
	at(f, "/a");
	refuse(f, (struct lm_tar_entry){.type = '0', .name = "a/.wh.."}, "whiteout of nothing");
	dir(f, "o");
	file(f, "o/listed");
	dir(f, "o/dir");
	file(f, "o/dir/made/x");
	file(f, "o/made/x");
	file(f, "o/.wh..wh..opq");
	at(f, "/o/listed");
	at(f, "/o/dir");
	absent(f, "/o/dir/made");
	absent(f, "/o/made");
	assert_null(at(f, "/o")->xattrs);
	file(f, "o/made/x");
	at(f, "/o/made/x");
}

static void test_hard_links(void **state)
{
	struct fixture *f = *state;
	dir(f, "usr");
	symlink_to(f, "u", "usr");
	symlink_to(f, "usr/link", "a");
	file(f, "usr/a");
	hardlink_to(f, "b", "usr/a");
	hardlink_to(f, "x/c", "/u/./a");
	hardlink_to(f, "d", "../u/a");
	struct lm_layer_inode *a = at(f, "/usr/a");
	assert_int_equal(a->names, 4);
	assert_ptr_equal(at(f, "/b"), a);
	assert_ptr_equal(at(f, "/x/c"), a);
	assert_ptr_equal(at(f, "/d"), a);
	/* To a symbolic link: to it, not to where it leads. */
	hardlink_to(f, "e", "usr/link");
	assert_ptr_equal(at(f, "/e"), at(f, "/usr/link"));
	/* A replaced name leaves the others. */
	file(f, "usr/a");
	assert_int_equal(a->names, 3);
	assert_ptr_not_equal(at(f, "/usr/a"), a);
	/* The link's own entry changes what all names show. */
	apply(f, (struct lm_tar_entry){.type = '1', .name = "g", .link = "b", .mode = 04711, .uid = 3, .mtime_s = 9});
	assert_int_equal(a->mode, S_IFREG | 04711);
	assert_int_equal(a->uid, 3);
	assert_int_equal(a->mtime_s, 9);
	refuse(f, (struct lm_tar_entry){.type = '1', .name = "y", .link = "later"}, "not there");
	refuse(f, (struct lm_tar_entry){.type = '1', .name = "y", .link = "later/on"}, "not there");
	refuse(f, (struct lm_tar_entry){.type = '1', .name = "y", .link = "usr"}, "a directory");
	refuse(f, (struct lm_tar_entry){.type = '1', .name = "y", .link = "usr/.."}, "a directory");
	refuse(f, (struct lm_tar_entry){.type = '1', .name = "y", .link = ""}, "a directory");
	refuse(f, (struct lm_tar_entry){.type = '1', .name = "b", .link = "b"}, "not there"); /* b went first */
	refuse(f, (struct lm_tar_entry){.type = '1', .name = "y", .link = "d/z"}, "not there");
}

/* Owner rw, user 1000 rwx, group r, mask rwx, others r. */
static const char named_acl[] = "\2\0\0\0"
				"\1\0\6\0\xff\xff\xff\xff"
				"\2\0\7\0\xe8\3\0\0"
				"\4\0\4\0\xff\xff\xff\xff"
				"\x10\0\7\0\xff\xff\xff\xff"
				"\x20\0\4\0\xff\xff\xff\xff";

static void test_xattrs(void **state)
{
	struct fixture *f = *state;
	static const char v2[20] = {1, 0, 0, 2, 4}, v3[24] = {1, 0, 0, 3, 4};
	const struct lm_tar_xattr attrs[] = {
		{"user.a", "old", 3},
		{"user.a", "\0new", 4},
		{"user.empty", "", 0},
		{"trusted.overlay.opaque", "y", 1},
		{"trusted.x", "y", 1},
		{"security.capability", v2, sizeof(v2)},
		{"security.selinux", "label", 5},
		{"com.apple.quarantine", "q", 1},
		{"system.nfs4_acl", "q", 1},
		{"system.posix_acl_access", named_acl, sizeof(named_acl) - 1},
	};
	const struct lm_tar_entry entry = {.type = '0', .name = "f", .xattrs = attrs, .xattr_count = ARRAY_LEN(attrs)};
	apply(f, entry);
	const struct lm_layer_inode *inode = at(f, "/f");
	assert_int_equal(xattr(inode, "user.a")->value_len, 4);
	assert_memory_equal(xattr(inode, "user.a")->value, "\0new", 4);
	assert_int_equal(xattr(inode, "user.empty")->value_len, 0);
	assert_non_null(xattr(inode, "security.capability"));
	assert_non_null(xattr(inode, "security.selinux"));
	assert_non_null(xattr(inode, "system.posix_acl_access"));
	assert_null(xattr(inode, "trusted.overlay.opaque"));
	assert_null(xattr(inode, "trusted.x"));
	assert_null(xattr(inode, "com.apple.quarantine"));
	assert_null(xattr(inode, "system.nfs4_acl"));
	/* user.* is for files and directories, ACLs for all but links. */
	struct lm_tar_entry link = entry;
	link.type = '2';
	link.name = "l";
	link.link = "f";
	apply(f, link);
	assert_null(xattr(at(f, "/l"), "user.a"));
	assert_null(xattr(at(f, "/l"), "system.posix_acl_access"));
	assert_non_null(xattr(at(f, "/l"), "security.selinux"));

	const struct lm_tar_xattr bad[] = {
		{"", "x", 1},
		{"user.", "x", 1},
		{"security.", "x", 1},
		{"security.capability", v2, 19},
		{"security.capability", v3, 20},
		{"system.posix_acl_default", named_acl, sizeof(named_acl) - 1}, /* of a file */
		{"system.posix_acl_access", "acl", 3},
		{"system.posix_acl_access", named_acl, sizeof(named_acl) - 2},
		{"system.posix_acl_access", named_acl, 4 + 8},
		{"system.posix_acl_access", named_acl, 4 + 4 * 8},
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		refuse(f, (struct lm_tar_entry){.type = '0', .name = "bad", .xattrs = &bad[i], .xattr_count = 1},
			"attribute");
	const struct lm_tar_xattr good = {"security.capability", v3, sizeof(v3)};
	apply(f, (struct lm_tar_entry){.type = '0', .name = "v3", .xattrs = &good, .xattr_count = 1});
	assert_non_null(xattr(at(f, "/v3"), "security.capability"));
}

/* chown(2), which comes with each entry, drops capabilities: a link entry must bring them again. */
/* Permissions are those of the entry's mode, whatever the ACL had; named users keep theirs under the mask. */
static void test_acls(void **state)
{
	static const struct {
		const char *acl;
		size_t len;
		unsigned mode;
		int owner, mask, other; /* -1: no ACL is kept */
	} cases[] = {
		{named_acl, sizeof(named_acl) - 1, 0640, 6, 4, 0},
		{named_acl, sizeof(named_acl) - 1, 0757, 7, 5, 7},
		{"\2\0\0\0\1\0\6\0....\4\0\4\0....\x20\0\4\0....", 28, 0600, -1, 0, 0}, /* no more than a mode */
		{"\2\0\0\0", 4, 0600, -1, 0, 0},
		{"\3\0\0\0", 4, 0600, -1, 0, 0},
	};
	struct fixture *f = *state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct lm_tar_xattr attr = {"system.posix_acl_access", cases[i].acl, cases[i].len};
		apply(f, (struct lm_tar_entry){
				 .type = '0', .name = "f", .mode = cases[i].mode, .xattrs = &attr, .xattr_count = 1});
		const struct lm_layer_xattr *kept = xattr(at(f, "/f"), attr.key);
		if (cases[i].owner < 0) {
			assert_null(kept);
			continue;
		}
		const char *value = kept->value;
		assert_int_equal(value[4 + 2], cases[i].owner);
		assert_int_equal(value[4 + 8 + 2], 7);
		assert_int_equal(value[4 + 16 + 2], 4);
		assert_int_equal(value[4 + 24 + 2], cases[i].mask);
		assert_int_equal(value[4 + 32 + 2], cases[i].other);
	}
}

static void test_capability_of_linked_file(void **state)
{
	struct fixture *f = *state;
	static const char cap[20] = {1, 0, 0, 2, 4};
	const struct lm_tar_xattr attrs[] = {{"security.capability", cap, sizeof(cap)}, {"user.x", "1", 1}};
	apply(f, (struct lm_tar_entry){.type = '0', .name = "ping", .xattrs = attrs, .xattr_count = 2});
	hardlink_to(f, "ping4", "ping");
	assert_null(xattr(at(f, "/ping"), "security.capability"));
	assert_non_null(xattr(at(f, "/ping"), "user.x"));
	apply(f,
		(struct lm_tar_entry){.type = '1', .name = "ping6", .link = "ping", .xattrs = attrs, .xattr_count = 1});
	assert_non_null(xattr(at(f, "/ping"), "security.capability"));
	apply(f, (struct lm_tar_entry){.type = '5', .name = "d", .xattrs = attrs, .xattr_count = 1});
	dir(f, "d"); /* not of directories */
	assert_non_null(xattr(at(f, "/d"), "security.capability"));
}

static void test_owner_minus_one(void **state)
{
	struct fixture *f = *state;
	apply(f, (struct lm_tar_entry){.type = '0', .name = "f", .uid = UINT32_MAX, .gid = -1});
	assert_int_equal(at(f, "/f")->uid, 0);
	assert_int_equal(at(f, "/f")->gid, 0);
}

static void test_times(void **state)
{
	struct fixture *f = *state;
	static const struct {
		int64_t s;
		uint32_t ns;
		int64_t want_s;
		uint32_t want_ns;
	} cases[] = {
		{0, 1, 0, 1},
		{-1, 500000000, 0, 0},
		{INT64_MIN, 0, 0, 0},
		{9223372036, 854775807, 9223372036, 854775807},
		{9223372036, 854775808, 0, 0},
		{9223372037, 0, 0, 0},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		apply(f, (struct lm_tar_entry){
				 .type = '0', .name = "f", .mtime_s = cases[i].s, .mtime_ns = cases[i].ns});
		assert_int_equal(at(f, "/f")->mtime_s, cases[i].want_s);
		assert_int_equal(at(f, "/f")->mtime_ns, cases[i].want_ns);
	}
}

/* Times of directory entries are set once more at the end, by name, wherever the name leads by then. */
static void test_directory_times(void **state)
{
	struct fixture *f = *state;
	apply(f, (struct lm_tar_entry){.type = '5', .name = "a", .mode = 0755, .mtime_s = 10});
	apply(f, (struct lm_tar_entry){.type = '5', .name = "b", .mode = 0755, .mtime_s = 20});
	apply(f, (struct lm_tar_entry){.type = '2', .name = "b", .link = "a", .mtime_s = 30});
	assert_int_equal(lm_layer_tree_finish(f->tree, &f->err), 0);
	assert_int_equal(at(f, "/a")->mtime_s, 20);
	assert_int_equal(at(f, "/b")->mtime_s, 30);
	symlink_to(f, "b", "nowhere");
	assert_int_equal(lm_layer_tree_finish(f->tree, &f->err), -EPROTO);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	refuse(f, (struct lm_tar_entry){.type = '7', .name = "contiguous"}, "unknown type 0x37");
	refuse(f, (struct lm_tar_entry){.type = 'V', .name = "volume"}, "unknown type");
	refuse(f, (struct lm_tar_entry){.type = '2', .name = "l", .link = ""}, "0 bytes");
	CLEANUP(lm_freep) char *text = malloc(5001);
	memset(text, 'x', 5000);
	text[5000] = '\0';
	refuse(f, (struct lm_tar_entry){.type = '2', .name = "l", .link = text}, "5000 bytes");
	refuse(f, (struct lm_tar_entry){.type = '0', .name = text}, "path of over");
	text[256] = '\0';
	refuse(f, (struct lm_tar_entry){.type = '0', .name = text}, "name of over");
	text[255] = '\0';
	file(f, text);
	/* The longest name has a whiteout, too. */
	CLEANUP(lm_freep) char *whiteout = malloc(300);
	snprintf(whiteout, 300, "d/.wh.%s", text);
	file(f, whiteout);
	at(f, "/d");
}

static void test_global_header(void **state)
{
	struct fixture *f = *state;
	apply(f, (struct lm_tar_entry){.type = 'g', .name = "pax_global_header"});
	absent(f, "/pax_global_header");
	file(f, "f");
	apply(f, (struct lm_tar_entry){.type = 'g', .name = "f"}); /* containerd removes what has that name */
	absent(f, "/f");
}

/* A big directory, and names that come and go. */
static void test_many(void **state)
{
	struct fixture *f = *state;
	char name[64];
	for (int i = 0; i < 20000; i++) {
		snprintf(name, sizeof(name), "many/%d", i);
		file(f, name);
	}
	for (int i = 0; i < 20000; i += 2) {
		snprintf(name, sizeof(name), "many/%d", i);
		symlink_to(f, name, "x");
	}
	int links = 0, files = 0;
	for (struct lm_layer_node *node = lm_layer_tree_find(f->tree, "/many")->children; node; node = node->next)
		*(S_ISLNK(node->inode->mode) ? &links : &files) += 1;
	assert_int_equal(links, 10000);
	assert_int_equal(files, 10000);
	file(f, "many");
	absent(f, "/many/1");
	assert_null(lm_layer_tree_find(f->tree, "/many")->children);
}

/* --- layers below --- */

/* Layer 0 (the nearest) has /link -> /real and /file; layer 1 has /real (02750, 7:8), /real/sub and /file/. */
static int lookup(void *arg, size_t index, const char *path, struct lm_row *ret, struct lm_err *err)
{
	static const struct {
		size_t index;
		const char *path;
		uint32_t mode;
		const char *target;
	} rows[] = {
		{0, "/link", S_IFLNK | 0777, "/real"},
		{0, "/file", S_IFREG | 0600, NULL},
		{0, "/loop", S_IFLNK | 0777, "loop"},
		{1, "/real", S_IFDIR | 02750, NULL},
		{1, "/file", S_IFDIR | 0700, NULL},
		{1, "/l", S_IFLNK | 0777, "real"},
	};
	if (arg)
		return lm_err_set(err, -EIO, "no luck");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (rows[i].index != index || strcmp(rows[i].path, path) != 0)
			continue;
		struct lm_xattr attrs[] = {{"user.k", 6, "v", 1}, {"trusted.overlay.opaque", 22, "y", 1}};
		struct lm_buf blob = LM_BUF(1000);
		assert_int_equal(lm_xattr_encode(attrs, 2, &blob, NULL), 0);
		*ret = (struct lm_row){.mode = rows[i].mode, .uid = 7, .gid = 8, .mtime_s = 9, .mtime_ns = 10};
		ret->name = strdup("");
		ret->symlink = rows[i].target ? strdup(rows[i].target) : NULL;
		ret->xattr = lm_buf_steal(&blob, &ret->xattr_len);
		return 0;
	}
	return -ENOENT;
}

static void test_parents_from_below(void **state)
{
	struct fixture *f = *state;
	lm_layer_tree_free(f->tree);
	const struct lm_layer_below below = {.lookup = lookup, .count = 2};
	assert_int_equal(lm_layer_tree_new(&below, &f->tree, &f->err), 0);
	file(f, "real/x");
	const struct lm_layer_inode *real = at(f, "/real");
	assert_int_equal(real->mode, S_IFDIR | 02750);
	assert_int_equal(real->uid, 7);
	assert_int_equal(real->gid, 8);
	assert_int_equal(real->mtime_s, 9);
	assert_int_equal(real->mtime_ns, 10);
	assert_non_null(xattr(real, "user.k"));
	assert_null(xattr(real, "trusted.overlay.opaque"));
	file(f, "l/x"); /* a link in the layer below is followed there, not here */
	assert_int_equal(at(f, "/l")->mode, S_IFDIR | 02750);
	file(f, "link/x"); /* leads to what layer 0 does not have: layer 1 has no /link */
	assert_int_equal(at(f, "/link")->mode, S_IFDIR | 0755);
	file(f, "file/x"); /* no directory in the nearest layer that has it: nothing is copied */
	assert_int_equal(at(f, "/file")->mode, S_IFDIR | 0755);
	file(f, "loop/x");
	file(f, "new/x");
	assert_int_equal(at(f, "/new")->uid, 0);
}

static void test_below_fails(void **state)
{
	struct fixture *f = *state;
	lm_layer_tree_free(f->tree);
	const struct lm_layer_below below = {.lookup = lookup, .arg = f, .count = 1};
	assert_int_equal(lm_layer_tree_new(&below, &f->tree, &f->err), 0);
	assert_int_equal(try(f, (struct lm_tar_entry){.type = '0', .name = "a/b"}), -EIO);
	assert_string_equal(f->err.msg, "a/b: no luck");
}

static void test_chunks(void **state)
{
	struct fixture *f = *state;
	apply(f, (struct lm_tar_entry){.type = '0', .name = "big", .size = 100});
	struct lm_layer_inode *inode = f->file;
	struct lm_chunk *chunks[100];
	for (uint64_t i = 0; i < 100; i++)
		assert_int_equal(lm_layer_tree_add_chunk(f->tree, inode, i, 1, &chunks[i], &f->err), 0);
	uint64_t i = 0;
	for (struct lm_layer_chunks *c = inode->chunks; c; c = c->next)
		for (unsigned k = 0; k < c->count; k++, i++) {
			assert_ptr_equal(&c->chunks[k], chunks[i]);
			assert_int_equal(c->chunks[k].offset, i);
		}
	assert_int_equal(i, 100);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_plain),
		TEST(test_names_stay_inside),
		TEST(test_parents_through_links),
		TEST(test_missing_parents),
		TEST(test_again),
		TEST(test_whiteouts),
		TEST(test_opaque),
		TEST(test_lowest_layer),
		TEST(test_hard_links),
		TEST(test_xattrs),
		TEST(test_acls),
		TEST(test_capability_of_linked_file),
		TEST(test_owner_minus_one),
		TEST(test_times),
		TEST(test_directory_times),
		TEST(test_refused),
		TEST(test_global_header),
		TEST(test_many),
		TEST(test_parents_from_below),
		TEST(test_below_fails),
		TEST(test_chunks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
