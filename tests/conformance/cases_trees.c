/* What is in snapshots: layers over layers, and what overlayfs makes of them. */
#include "conformance.h"

#include "base/str.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define LAYERS 128

/* Each list of steps becomes a layer; after each, everything is as in a plain directory. */
static int check_layers(struct lab *lab, const struct step *const *layers)
{
	CLEANUP(lm_freep) char *flat = lab_directory(lab, "flat");
	char parent[32] = "", active[32], look[32];
	if (!flat)
		return lab->err.code;
	for (unsigned i = 0; layers[i]; i++) {
		snprintf(active, sizeof(active), "active-%u", i);
		snprintf(look, sizeof(look), "view-%u", i);
		TRY(lab_write(lab, active, parent, layers[i]));
		TRY(trees_apply(flat, layers[i], &lab->err));
		TRY(lab_compare(lab, active, flat));
		snprintf(parent, sizeof(parent), "layer-%u", i);
		EXPECT(lab, LM_RPC_OK, commit(lab, parent, active));
		EXPECT(lab, LM_RPC_OK, view(lab, look, parent));
		TRY(lab_compare(lab, look, flat));
	}
	EXPECT(lab, LM_RPC_OK, prepare(lab, "on top", parent));
	return lab_compare(lab, "on top", flat);
}

#define STEPS(...) ((const struct step[]){__VA_ARGS__, {END}})
#define LAYERED(...) check_layers(lab, (const struct step *const[]){__VA_ARGS__, NULL})

static int files_change(struct lab *lab)
{
	return LAYERED(
		STEPS({DIRECTORY, "etc", .mode = 0700}, {FILE_OF, "etc/hosts", "mydomain 10.0.0.1", .mode = 0644},
			{FILE_OF, "etc/profile", "PATH=/usr/bin", .mode = 0644}),
		STEPS({FILE_OF, "etc/hosts", "mydomain 10.0.0.2", .mode = 0644},
			{FILE_OF, "etc/profile", "PATH=/usr/bin", .mode = 0666}, {DIRECTORY, "root", .mode = 0700},
			{FILE_OF, "root/.bashrc", "PATH=/usr/sbin:/usr/bin", .mode = 0644}),
		STEPS({APPEND, "etc/hosts", "\nmore"}, {APPEND, "root/.bashrc", ":/bin"}));
}

static int directories_are_replaced(struct lab *lab)
{
	return LAYERED(STEPS({DIRECTORY, "lib", .mode = 0700}, {FILE_OF, "lib/hidden", "", .mode = 0644},
			       {DIRECTORY, "lib/sub", .mode = 0755}, {FILE_OF, "lib/sub/hidden", "", .mode = 0644}),
		STEPS({REMOVE, "lib"}, {DIRECTORY, "lib", .mode = 0711}, {FILE_OF, "lib/not-hidden", "", .mode = 0644}),
		STEPS({FILE_OF, "lib/newfile", "", .mode = 0644}, {DIRECTORY, "lib/sub", .mode = 0700}),
		STEPS({REMOVE, "lib"}, {FILE_OF, "lib", "a file now", .mode = 0644}),
		STEPS({REMOVE, "lib"}, {DIRECTORY, "lib", .mode = 0755}, {DIRECTORY, "lib/sub", .mode = 0755}));
}

static int files_are_deleted(struct lab *lab)
{
	return LAYERED(STEPS({FILE_OF, "foo", "foo\n", .mode = 0777}, {FILE_OF, "foobar", "foobar\n", .mode = 0777},
			       {DIRECTORY, "d", .mode = 0755}, {FILE_OF, "d/f", "f", .mode = 0644}),
		STEPS({REMOVE, "foobar"}, {REMOVE, "d/f"}), STEPS({END}),
		STEPS({FILE_OF, "d/f", "again", .mode = 0600}), STEPS({REMOVE, "d"}), STEPS({REMOVE, "foo"}));
}

static int owners_change(struct lab *lab)
{
	return LAYERED(
		STEPS({DIRECTORY, "opt", .mode = 0700}, {DIRECTORY, "opt/a", .mode = 0700},
			{DIRECTORY, "opt/a/b", .mode = 0700}, {FILE_OF, "opt/a/b/file.txt", "hello", .mode = 0644}),
		STEPS({OWNER, "opt", .uid = 1, .gid = 1}, {OWNER, "opt/a", .uid = 1, .gid = 1},
			{OWNER, "opt/a/b", .uid = 1, .gid = 1}, {OWNER, "opt/a/b/file.txt", .uid = 1, .gid = 1}),
		STEPS({OWNER, "opt/a/b/file.txt", .uid = 100000, .gid = 4000000000U}));
}

static int directories_keep_their_owners(struct lab *lab)
{
	return LAYERED(STEPS({DIRECTORY, "dir1", .mode = 0700}, {DIRECTORY, "dir2", .mode = 0700},
			       {DIRECTORY, "dir3", .mode = 0700}, {DIRECTORY, "dir4", .mode = 0700},
			       {FILE_OF, "dir4/f1", "...", .mode = 0644}, {DIRECTORY, "dir5", .mode = 0700},
			       {FILE_OF, "dir5/f1", "...", .mode = 0644}, {OWNER, "dir1", .uid = 1, .gid = 1},
			       {OWNER, "dir2", .uid = 1, .gid = 1}, {OWNER, "dir3", .uid = 1, .gid = 1},
			       {OWNER, "dir5", .uid = 1, .gid = 1}, {OWNER, "dir5/f1", .uid = 1, .gid = 1}),
		STEPS({OWNER, "dir2"}, {REMOVE, "dir3"}, {OWNER, "dir4", .uid = 1, .gid = 1},
			{OWNER, "dir4/f1", .uid = 1, .gid = 1}),
		STEPS({DIRECTORY, "dir3", .mode = 0700}, {OWNER, "dir3", .uid = 1, .gid = 1}, {REMOVE, "dir5"},
			{DIRECTORY, "dir5", .mode = 0700}, {OWNER, "dir5", .uid = 1, .gid = 1}));
}

static int files_move_from_below(struct lab *lab)
{
	return LAYERED(STEPS({DIRECTORY, "dir1", .mode = 0700}, {FILE_OF, "dir1/f1", "Hello", .mode = 0644},
			       {DIRECTORY, "dir2", .mode = 0700}, {FILE_OF, "dir2/f2", "...", .mode = 0644}),
		STEPS({DIRECTORY, "dir3", .mode = 0700}, {FILE_OF, "dir3/f1", "Hello", .mode = 0644}, {REMOVE, "dir1"},
			{LINK, "dir2/f2", "dir3/f2"}, {REMOVE, "dir2/f2"}));
}

static int files_are_renamed(struct lab *lab)
{
	return LAYERED(STEPS({DIRECTORY, "somefiles", .mode = 0700},
			       {FILE_OF, "somefiles/f1", "was here first!", .mode = 0644},
			       {FILE_OF, "somefiles/f2", "nothing interesting", .mode = 0644}),
		STEPS({FILE_OF, "somefiles/f1-overwrite", "new content 1", .mode = 0644},
			{RENAME, "somefiles/f1-overwrite", "somefiles/f1"}, {RENAME, "somefiles/f2", "somefiles/f3"},
			{DIRECTORY, "new", .mode = 0755}, {FILE_OF, "new/f", "x", .mode = 0644},
			{RENAME, "new", "newer"}),
		STEPS({RENAME, "somefiles/f3", "newer/f2"}, {RENAME, "newer/f", "somefiles/f1"}));
}

/* The kernel can only rename a directory of a lower layer where redirect_dir is on, and mv copies instead. */
static int renaming_a_lower_directory(struct lab *lab)
{
	CLEANUP(mounts_done) struct mounts mounts = {0};
	CLEANUP(lm_freep) char *dir = lab_directory(lab, "top");
	CLEANUP(lm_freep) char *old = dir ? lm_str_printf("%s/dir1", dir) : NULL;
	CLEANUP(lm_freep) char *new = dir ? lm_str_printf("%s/dir2", dir) : NULL;
	if (!old || !new)
		return lm_err_oom(&lab->err);
	TRY(lab_write(lab, "a", "", STEPS({DIRECTORY, "dir1", .mode = 0700}, {FILE_OF, "dir1/f", "x", .mode = 0600})));
	EXPECT(lab, LM_RPC_OK, commit(lab, "base", "a"));
	EXPECT(lab, LM_RPC_OK, remote_make(&lab->remote, PREPARE, "b", "base", ROOTED, &mounts));
	TRY(mount_all(&mounts, dir, &lab->err));
	int r = rename(old, new) < 0 ? -errno : 0;
	TRY(unmount(dir, &lab->err));
	CHECK(lab, r == lab_value(lab, "rename of a lower directory"), "rename: %s", strerror(-r));
	return 0;
}

/* Everything that a copy-up has to carry. */
static int kinds_and_attributes(struct lab *lab)
{
	return LAYERED(
		STEPS({DIRECTORY, "d", .mode = 01777}, {FILE_OF, "d/setuid", "x", .mode = 04755},
			{FILE_OF, "d/setgid", "x", .mode = 02755}, {SYMLINK, "d/link", "../nowhere"},
			{OWNER, "d/link", .uid = 7, .gid = 8}, {DEVICE, "d/null", .mode = 0666},
			{PIPE, "d/pipe", .mode = 0600}, {FILE_OF, "d/attr", "x", .mode = 0644},
			{ATTRIBUTE, "d/attr", "user.comment=some words"}, {ATTRIBUTE, "d/attr", "trusted.other=secret"},
			{ATTRIBUTE, "d", "user.of=directory"}, {FILE_OF, "d/empty", "", .mode = 0},
			{FILE_OF, "d/uml\xc3\xa4ut b\\c\n", "x", .mode = 0644}),
		STEPS({MODE, "d/setuid", .mode = 04711}, {OWNER, "d/setgid", .uid = 5, .gid = 6},
			{MODE, "d/setgid", .mode = 02711}, {OWNER, "d/link", .uid = 9, .gid = 10},
			{MODE, "d/null", .mode = 0600}, {OWNER, "d/pipe", .uid = 1, .gid = 1},
			{APPEND, "d/attr", "more"}, {MODE, "d/empty", .mode = 0400}, {MODE, "d", .mode = 0700}),
		STEPS({ATTRIBUTE, "d/attr", "user.comment=other words"}, {REMOVE, "d/link"},
			{SYMLINK, "d/link", "elsewhere"}, {REMOVE, "d/null"}));
}

static int hard_links(struct lab *lab)
{
	return LAYERED(STEPS({FILE_OF, "one", "content", .mode = 0644}, {LINK, "one", "two"},
			       {DIRECTORY, "d", .mode = 0755}, {LINK, "two", "d/three"}),
		STEPS({FILE_OF, "other", "x", .mode = 0644}),
		STEPS({REMOVE, "other"}, {FILE_OF, "p", "y", .mode = 0600}, {LINK, "p", "d/q"}));
}

/* As containerd's own differ lays them down: straight into the upper directory. */
static int whiteouts_in_the_upper_directory(struct lab *lab)
{
	CLEANUP(mounts_done) struct mounts mounts = {0};
	TRY(lab_write(lab, "a", "",
		STEPS({FILE_OF, "gone", "x", .mode = 0644}, {DIRECTORY, "hidden", .mode = 0755},
			{FILE_OF, "hidden/old", "x", .mode = 0644}, {DIRECTORY, "joined", .mode = 0755},
			{FILE_OF, "joined/old", "x", .mode = 0644})));
	EXPECT(lab, LM_RPC_OK, commit(lab, "base", "a"));
	EXPECT(lab, LM_RPC_OK, remote_make(&lab->remote, PREPARE, "b", "base", ROOTED, &mounts));
	CLEANUP(lm_freep) char *upper = mount_upper(&mounts);
	CLEANUP(lm_freep) char *whiteout = upper ? lm_str_printf("%s/gone", upper) : NULL;
	if (!whiteout)
		return lab_fail(lab, __func__, __LINE__, "no upper directory");
	TRY(trees_apply(upper,
		STEPS({DIRECTORY, "hidden", .mode = 0755}, {FILE_OF, "hidden/new", "y", .mode = 0644},
			{ATTRIBUTE, "hidden", "trusted.overlay.opaque=y"}, {DIRECTORY, "joined", .mode = 0755},
			{FILE_OF, "joined/new", "y", .mode = 0644}),
		&lab->err));
	CHECK(lab, mknod(whiteout, S_IFCHR, 0) == 0, "whiteout: %s", strerror(errno));
	EXPECT(lab, LM_RPC_OK, commit(lab, "top", "b"));
	EXPECT(lab, LM_RPC_OK, view(lab, "look", "top"));
	CLEANUP(mounts_done) struct mounts seen = {0};
	CLEANUP(lm_freep) char *dir = lab_directory(lab, "look");
	if (!dir)
		return lab->err.code;
	EXPECT(lab, LM_RPC_OK, remote_mounts(&lab->remote, "look", &seen));
	TRY(mount_all(&seen, dir, &lab->err));
	static const struct {
		const char *path;
		bool there;
	} paths[] = {{"gone", false}, {"hidden", true}, {"hidden/old", false}, {"hidden/new", true},
		{"joined/old", true}, {"joined/new", true}};
	unsigned wrong = 0;
	for (unsigned i = 0; i < ARRAY_LEN(paths); i++) {
		CLEANUP(lm_freep) char *path = lm_str_printf("%s/%s", dir, paths[i].path);
		if (path && (access(path, F_OK) == 0) != paths[i].there)
			wrong |= 1U << i;
	}
	TRY(unmount(dir, &lab->err));
	CHECK(lab, wrong == 0, "not as it should be: %x", wrong);
	return 0;
}

/* The directory that becomes /. */
static int root_of(struct lab *lab, const char *key, struct stat *ret)
{
	CLEANUP(mounts_done) struct mounts mounts = {0};
	CLEANUP(lm_freep) char *dir = lab_directory(lab, key);
	if (!dir)
		return lab->err.code;
	EXPECT(lab, LM_RPC_OK, remote_mounts(&lab->remote, key, &mounts));
	TRY(mount_all(&mounts, dir, &lab->err));
	int r = stat(dir, ret) < 0 ? lm_err_sys(&lab->err, -errno, "stat %s", dir) : 0;
	TRY(unmount(dir, &lab->err));
	return r;
}

static int root_directory(struct lab *lab)
{
	struct stat st;
	EXPECT(lab, LM_RPC_OK, prepare(lab, "a", ""));
	TRY(root_of(lab, "a", &st));
	CHECK(lab, (st.st_mode & 07777) == 0755 && st.st_uid == 0 && st.st_gid == 0, "a new one is %o of %u:%u",
		st.st_mode & 07777, st.st_uid, st.st_gid);
	TRY(lab_write(lab, "b", "", STEPS({OWNER, ".", .uid = 11, .gid = 12}, {MODE, ".", .mode = 0711})));
	EXPECT(lab, LM_RPC_OK, commit(lab, "base", "b"));
	EXPECT(lab, LM_RPC_OK, view(lab, "look", "base"));
	TRY(root_of(lab, "look", &st));
	CHECK(lab, (st.st_mode & 07777) == 0711 && st.st_uid == 11 && st.st_gid == 12, "committed, it is %o of %u:%u",
		st.st_mode & 07777, st.st_uid, st.st_gid);
	EXPECT(lab, LM_RPC_OK, prepare(lab, "c", "base"));
	TRY(root_of(lab, "c", &st));
	CHECK(lab, st.st_uid == 11 && st.st_gid == 12, "above, it is of %u:%u", st.st_uid, st.st_gid);
	CHECK(lab, (st.st_mode & 07777) == (mode_t)lab_value(lab, "mode of / above a 0711 one"), "above, it is %o",
		st.st_mode & 07777);
	return 0;
}

static int many_layers(struct lab *lab)
{
	struct step steps[LAYERS][8] = {{{FILE_OF, "bottom", "way at the bottom\n", .mode = 0777},
		{FILE_OF, "overwriteme", "FIRST!\n", .mode = 0777}, {DIRECTORY, "addhere", .mode = 0755},
		{DIRECTORY, "onlyme", .mode = 0755}, {FILE_OF, "onlyme/bottom", "bye!\n", .mode = 0777}}};
	char texts[LAYERS][3][40], parent[32] = "", key[32];
	CLEANUP(lm_freep) char *flat = lab_directory(lab, "flat");
	if (!flat)
		return lab->err.code;
	for (int i = 1; i < LAYERS; i++) {
		snprintf(texts[i][0], sizeof(texts[i][0]), "%d WAS HERE!\n", i);
		snprintf(texts[i][1], sizeof(texts[i][1]), "addhere/file-%d", i);
		snprintf(texts[i][2], sizeof(texts[i][2]), "onlyme/file-%d", i);
		const struct step own[] = {{FILE_OF, "overwriteme", texts[i][0], .mode = 0777},
			{FILE_OF, texts[i][1], "same\n", .mode = 0755}, {REMOVE, "onlyme"},
			{DIRECTORY, "onlyme", .mode = 0755}, {FILE_OF, texts[i][2], "only me!\n", .mode = 0777}};
		memcpy(steps[i], own, sizeof(own));
	}
	for (int i = 0; i < LAYERS; i++) {
		snprintf(key, sizeof(key), "active-%d", i);
		TRY(lab_write(lab, key, parent, steps[i]));
		TRY(trees_apply(flat, steps[i], &lab->err));
		if (i % 16 == 15)
			TRY(lab_compare(lab, key, flat));
		snprintf(parent, sizeof(parent), "layer-%d", i);
		EXPECT(lab, LM_RPC_OK, commit(lab, parent, key));
	}
	EXPECT(lab, LM_RPC_OK, view(lab, "look", parent));
	TRY(lab_compare(lab, "look", flat));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "top", parent));
	return lab_compare(lab, "top", flat);
}

const struct test cases_trees[] = {
	{"files-change", files_change},
	{"directories-are-replaced", directories_are_replaced},
	{"files-are-deleted", files_are_deleted},
	{"owners-change", owners_change},
	{"directories-keep-their-owners", directories_keep_their_owners},
	{"files-move-from-below", files_move_from_below},
	{"files-are-renamed", files_are_renamed},
	{"renaming-a-lower-directory", renaming_a_lower_directory},
	{"kinds-and-attributes", kinds_and_attributes},
	{"hard-links", hard_links},
	{"whiteouts-in-the-upper-directory", whiteouts_in_the_upper_directory},
	{"root-directory", root_directory},
	{"128-layers", many_layers},
	{0},
};
