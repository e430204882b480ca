/* Mounts, word for word as containerd gets them. */
#include "snapshotter/overlay.h"

#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct lm_mount_options plain = {0};

/* "type source option option ..." */
static char *mount_text(
	const struct lm_mount_options *options, const struct lm_snapshot *snapshot, struct lm_lower lower)
{
	struct lm_mount mount = {0};
	assert_int_equal(lm_overlay_mount("/r/snapshots", options, snapshot, &lower, &mount, NULL), 0);
	char *text = NULL;
	assert_true(asprintf(&text, "%s %s", mount.type, mount.source) > 0);
	for (size_t i = 0; i < mount.n_options; i++) {
		char *longer = NULL;
		assert_true(asprintf(&longer, "%s %s", text, mount.options[i]) > 0);
		free(text);
		text = longer;
	}
	lm_mount_done(&mount);
	return text;
}

#define EXPECT_OF(options, snapshot, lower, text)                                    \
	do {                                                                         \
		CLEANUP(lm_freep) char *got_ = mount_text(options, snapshot, lower); \
		assert_string_equal(got_, text);                                     \
	} while (0)
#define EXPECT(options, snapshot, text) EXPECT_OF(options, snapshot, (struct lm_lower){0}, text)

static const struct lm_lower lean_lower = {.lean = true}, no_lower = {0};

static void shapes(void **state)
{
	struct lm_snapshot one = {.id = 1, .kind = LM_COMMITTED}, two = {.id = 2, .kind = LM_COMMITTED, .parent = &one};
	struct lm_snapshot s = {.id = 9, .kind = LM_ACTIVE};
	EXPECT(&plain, &s, "bind /r/snapshots/9/fs rw rbind");
	s.parent = &one;
	EXPECT(&plain, &s,
		"overlay overlay workdir=/r/snapshots/9/work upperdir=/r/snapshots/9/fs lowerdir=/r/snapshots/1/fs");
	s.parent = &two;
	EXPECT(&plain, &s,
		"overlay overlay workdir=/r/snapshots/9/work upperdir=/r/snapshots/9/fs "
		"lowerdir=/r/snapshots/2/fs:/r/snapshots/1/fs");
	s.kind = LM_VIEW;
	EXPECT(&plain, &s, "overlay overlay lowerdir=/r/snapshots/2/fs:/r/snapshots/1/fs");
	EXPECT_OF(&plain, &s, (struct lm_lower){.padded = true},
		"overlay overlay lowerdir=/r/snapshots/2/fs:/r/snapshots/1/fs:/r/snapshots/9/fs");
	s.parent = &one;
	EXPECT(&plain, &s, "bind /r/snapshots/1/fs ro rbind");
	s.parent = NULL;
	EXPECT(&plain, &s, "bind /r/snapshots/9/fs ro rbind");
	struct lm_mount mount = {0};
	s.kind = LM_COMMITTED;
	assert_int_equal(lm_overlay_mount("/r", &plain, &s, &no_lower, &mount, NULL), -EINVAL);
}

/* Only what is served remotely has a second link, and only overlays take it. */
static void lean(void **state)
{
	struct lm_snapshot one = {.id = 1, .kind = LM_COMMITTED, .layer_path = (char *)"/m"},
			   two = {.id = 2, .kind = LM_COMMITTED, .parent = &one},
			   three = {.id = 3, .kind = LM_COMMITTED, .parent = &two, .layer_path = (char *)"/n"};
	struct lm_snapshot s = {.id = 9, .kind = LM_VIEW, .parent = &three};
	EXPECT_OF(&plain, &s, lean_lower,
		"overlay overlay lowerdir=/r/snapshots/3/lean:/r/snapshots/2/fs:/r/snapshots/1/lean");
	s.parent = &one;
	EXPECT_OF(&plain, &s, lean_lower, "bind /r/snapshots/1/fs ro rbind");
}

/* Instead of all layers. */
static void tree(void **state)
{
	struct lm_snapshot one = {.id = 1, .kind = LM_COMMITTED, .layer_path = (char *)"/m"},
			   two = {.id = 2, .kind = LM_COMMITTED, .parent = &one, .layer_path = (char *)"/n"};
	struct lm_snapshot s = {.id = 9, .kind = LM_ACTIVE, .parent = &two};
	EXPECT_OF(&plain, &s, ((struct lm_lower){.tree = "/r/snapshots/2/tree.1.2", .data = "/d"}),
		"overlay overlay workdir=/r/snapshots/9/work upperdir=/r/snapshots/9/fs "
		"lowerdir=/r/snapshots/2/tree.1.2::/d");
}

/* What belongs right below a lean layer is taken where it is, but for the lowest layer, which has nothing to hide. */
static void opaque(void **state)
{
	char dir[] = "/tmp/lamella-test-XXXXXX", path[64], expected[256];
	struct lm_snapshot one = {.id = 1, .kind = LM_COMMITTED, .layer_path = (char *)"/m"},
			   two = {.id = 2, .kind = LM_COMMITTED, .parent = &one, .layer_path = (char *)"/n"},
			   three = {.id = 3, .kind = LM_COMMITTED, .parent = &two, .layer_path = (char *)"/o"};
	struct lm_snapshot s = {.id = 9, .kind = LM_VIEW, .parent = &three};
	assert_non_null(mkdtemp(dir));
	for (int id = 1; id <= 3; id += 2) {
		snprintf(path, sizeof(path), "%s/%d/opaque", dir, id);
		assert_int_equal(lm_mkdir_p(AT_FDCWD, path, 0700, NULL), 0);
	}
	for (int lean = 0; lean < 2; lean++) {
		struct lm_mount mount = {0};
		assert_int_equal(lm_overlay_mount(dir, &plain, &s, lean ? &lean_lower : &no_lower, &mount, NULL), 0);
		if (lean)
			snprintf(expected, sizeof(expected), "lowerdir=%s/3/lean:%s/3/opaque:%s/2/lean:%s/1/lean", dir,
				dir, dir, dir);
		else
			snprintf(expected, sizeof(expected), "lowerdir=%s/3/fs:%s/2/fs:%s/1/fs", dir, dir, dir);
		assert_int_equal(mount.n_options, 1);
		assert_string_equal(mount.options[0], expected);
		lm_mount_done(&mount);
	}
	assert_int_equal(lm_remove_tree(AT_FDCWD, dir, NULL), 0);
}

static void options(void **state)
{
	struct lm_snapshot one = {.id = 1, .kind = LM_COMMITTED}, s = {.id = 9, .kind = LM_ACTIVE, .parent = &one};
	struct lm_mount_options all = {.index_off = true, .xino_on = true, .user_xattr = true};
	EXPECT(&all, &s,
		"overlay overlay index=off xino=on userxattr workdir=/r/snapshots/9/work "
		"upperdir=/r/snapshots/9/fs lowerdir=/r/snapshots/1/fs");
	/* Whatever this machine says, it is said without failing. */
	struct lm_mount_options here = lm_overlay_probe();
	assert_int_equal(here.index_off, access("/sys/module/overlay/parameters/index", F_OK) == 0);
	assert_int_equal(here.xino_on, access("/sys/module/overlay/parameters/xino_auto", F_OK) == 0);
}

static void mapped(void **state)
{
	struct lm_snapshot one = {.id = 1, .kind = LM_COMMITTED}, two = {.id = 2, .kind = LM_COMMITTED, .parent = &one};
	struct lm_snapshot s = {.id = 9, .kind = LM_ACTIVE, .parent = &two};
	struct lm_snapshot view = {.id = 8, .kind = LM_VIEW, .parent = &one};
	const struct lm_lower clones = {.mapped = true};
	const struct lm_lower tree = {.tree = "/r/snapshots/2/tree.1", .data = "/cvmfs/r/.layers", .mapped = true};
	const struct {
		const struct lm_snapshot *snapshot;
		const struct lm_lower *lower;
		const char *expected;
	} cases[] = {
		{&s, &clones,
			"overlay overlay workdir=/r/snapshots/9/work upperdir=/r/snapshots/9/fs "
			"lowerdir=/r/snapshots/9/mapped.0:/r/snapshots/9/mapped.1"},
		{&s, &tree,
			"overlay overlay workdir=/r/snapshots/9/work upperdir=/r/snapshots/9/fs "
			"lowerdir=/r/snapshots/9/mapped.0::/cvmfs/r/.layers"},
		{&view, &clones, "bind /r/snapshots/8/mapped.0 ro rbind"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		CLEANUP(lm_freep) char *text = mount_text(&plain, cases[i].snapshot, *cases[i].lower);
		assert_string_equal(text, cases[i].expected);
	}
	CLEANUP(lm_lowers_done) struct lm_lowers lowers = {0};
	assert_int_equal(lm_overlay_lowers("/r", &s, &clones, &lowers, NULL), 0);
	assert_int_equal(lowers.count, 2);
	assert_string_equal(lowers.paths[0], "/r/2/fs");
	assert_string_equal(lowers.paths[1], "/r/1/fs");
	lm_lowers_done(&lowers);
	assert_int_equal(lm_overlay_lowers("/r", &s, &tree, &lowers, NULL), 0);
	assert_int_equal(lowers.count, 1);
	assert_string_equal(lowers.paths[0], tree.tree);
}

/* The kernel's limit of a mount's options is containerd's affair: it uses relative paths. Ours is the full list. */
static void many_layers(void **state)
{
	static struct lm_snapshot layers[128];
	for (int i = 0; i < 128; i++)
		layers[i] =
			(struct lm_snapshot){.id = i + 1, .kind = LM_COMMITTED, .parent = i ? &layers[i - 1] : NULL};
	struct lm_snapshot s = {.id = 500, .kind = LM_ACTIVE, .parent = &layers[127]};
	CLEANUP(lm_freep) char *text = mount_text(&plain, &s, no_lower);
	const char *lower = strstr(text, "lowerdir=/r/snapshots/128/fs:/r/snapshots/127/fs:");
	assert_non_null(lower);
	assert_string_equal(text + strlen(text) - strlen(":/r/snapshots/1/fs"), ":/r/snapshots/1/fs");
	unsigned colons = 0;
	for (const char *c = lower; *c; c++)
		colons += *c == ':';
	assert_int_equal(colons, 127);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(shapes), cmocka_unit_test(lean), cmocka_unit_test(tree),
		cmocka_unit_test(opaque), cmocka_unit_test(options), cmocka_unit_test(mapped),
		cmocka_unit_test(many_layers)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
