/* What snapshots are, and what may become of them. */
#include "conformance.h"

#include "base/buf.h"
#include "base/str.h"

#include <string.h>
#include <sys/stat.h>
#include <time.h>

static int64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static const struct step first_steps[] = {
	{FILE_OF, "foo", "foo\n", .mode = 0777},
	{DIRECTORY, "a", .mode = 0755},
	{DIRECTORY, "a/b", .mode = 0755},
	{DIRECTORY, "a/b/c", .mode = 0755},
	{END},
};

static const struct step second_steps[] = {
	{FILE_OF, "bar", "bar\n", .mode = 0777},
	{FILE_OF, "foo", "bar\n", .mode = 0777},
	{REMOVE, "a/b"},
	{END},
};

/* The life of two layers and a view of both. */
static int basic(struct lab *lab)
{
	CLEANUP(lm_freep) char *flat = lab_directory(lab, "flat");
	if (!flat)
		return lab->err.code;
	TRY(lab_write(lab, "first-active", "", first_steps));
	TRY(check_info(lab, "first-active", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__ACTIVE, ""));
	EXPECT(lab, LM_RPC_OK, commit(lab, "first", "first-active"));
	EXPECT(lab, LM_RPC_NOT_FOUND, remote_stat(&lab->remote, "first-active", NULL));
	TRY(check_info(lab, "first", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__COMMITTED, ""));
	TRY(trees_apply(flat, first_steps, &lab->err));
	TRY(lab_write(lab, "second-active", "first", second_steps));
	TRY(trees_apply(flat, second_steps, &lab->err));
	TRY(check_info(lab, "second-active", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__ACTIVE, "first"));
	TRY(lab_compare(lab, "second-active", flat));
	EXPECT(lab, LM_RPC_OK, commit(lab, "second", "second-active"));
	TRY(check_info(lab, "second", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__COMMITTED, "first"));
	EXPECT(lab, LM_RPC_OK, view(lab, "look", "second"));
	TRY(check_info(lab, "look", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__VIEW, "second"));
	TRY(lab_compare(lab, "look", flat));
	EXPECT(lab, LM_RPC_FAILED_PRECONDITION, remote_remove(&lab->remote, "first"));
	EXPECT(lab, LM_RPC_FAILED_PRECONDITION, remote_remove(&lab->remote, "second"));
	EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, "look"));
	EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, "second"));
	EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, "first"));
	return 0;
}

static int stat_missing(struct lab *lab)
{
	int64_t bytes, inodes;
	EXPECT(lab, LM_RPC_NOT_FOUND, remote_stat(&lab->remote, "nothing", NULL));
	EXPECT(lab, LM_RPC_NOT_FOUND, remote_mounts(&lab->remote, "nothing", NULL));
	EXPECT(lab, LM_RPC_NOT_FOUND, remote_usage(&lab->remote, "nothing", &bytes, &inodes));
	EXPECT(lab, LM_RPC_NOT_FOUND, remote_remove(&lab->remote, "nothing"));
	EXPECT(lab, LM_RPC_NOT_FOUND, commit(lab, "something", "nothing"));
	EXPECT(lab, LM_RPC_NOT_FOUND, remote_update(&lab->remote, "nothing", "", ROOTED, NULL, NULL));
	EXPECT(lab, LM_RPC_NOT_FOUND, remote_stat(&lab->remote, "something", NULL));
	return 0;
}

static int times(struct lab *lab)
{
	CLEANUP(info_done) struct info active = {0}, done = {0}, updated = {0};
	int64_t before = now_ns();
	EXPECT(lab, LM_RPC_OK, prepare(lab, "a", ""));
	EXPECT(lab, LM_RPC_OK, remote_stat(&lab->remote, "a", &active));
	int64_t made = time_ns(active.info->created_at);
	CHECK(lab, made >= before && made <= now_ns(), "made at %ld, not between", (long)made);
	CHECK(lab, made == time_ns(active.info->updated_at), "updated before it was");
	EXPECT(lab, LM_RPC_OK, commit(lab, "c", "a"));
	EXPECT(lab, LM_RPC_OK, remote_stat(&lab->remote, "c", &done));
	CHECK(lab, time_ns(done.info->created_at) > made, "a commit is no new time");
	CHECK(lab, time_ns(done.info->created_at) == time_ns(done.info->updated_at), "updated before it was committed");
	before = now_ns();
	EXPECT(lab, LM_RPC_OK, remote_update(&lab->remote, "c", "", LABELS("l", "1"), NULL, &updated));
	CHECK(lab, time_ns(updated.info->created_at) == time_ns(done.info->created_at), "an update made it anew");
	CHECK(lab, time_ns(updated.info->updated_at) >= before, "an update without a time");
	return 0;
}

static int transitivity(struct lab *lab)
{
	CLEANUP(info_done) struct info second = {0}, below = {0};
	TRY(committed(lab, "first", ""));
	TRY(committed(lab, "second", "first"));
	EXPECT(lab, LM_RPC_OK, remote_stat(&lab->remote, "second", &second));
	CHECK(lab, strcmp(second.info->parent, "first") == 0, "parent %s", second.info->parent);
	EXPECT(lab, LM_RPC_OK, remote_stat(&lab->remote, second.info->parent, &below));
	CHECK(lab, *below.info->parent == '\0', "parent of the first: %s", below.info->parent);
	return 0;
}

/* Active ones, views and committed ones share their names. */
static int keys_are_unique(struct lab *lab)
{
	TRY(committed(lab, "base", ""));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "active", "base"));
	EXPECT(lab, LM_RPC_OK, view(lab, "look", "base"));
	static const char *const taken[] = {"base", "active", "look"};
	for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
		EXPECT(lab, LM_RPC_ALREADY_EXISTS, prepare(lab, taken[i], "base"));
		EXPECT(lab, LM_RPC_ALREADY_EXISTS, prepare(lab, taken[i], ""));
		EXPECT(lab, LM_RPC_ALREADY_EXISTS, view(lab, taken[i], "base"));
		EXPECT(lab, LM_RPC_ALREADY_EXISTS, commit(lab, taken[i], "active"));
	}
	TRY(check_info(lab, "active", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__ACTIVE, "base"));
	TRY(check_info(lab, "look", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__VIEW, "base"));
	return 0;
}

static int parents_are_committed(struct lab *lab)
{
	TRY(committed(lab, "base", ""));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "active", "base"));
	EXPECT(lab, LM_RPC_OK, view(lab, "look", "base"));
	EXPECT(lab, LM_RPC_NOT_FOUND, prepare(lab, "a", "nothing"));
	EXPECT(lab, LM_RPC_NOT_FOUND, view(lab, "a", "nothing"));
	EXPECT(lab, LM_RPC_INVALID_ARGUMENT, prepare(lab, "a", "active"));
	EXPECT(lab, LM_RPC_INVALID_ARGUMENT, prepare(lab, "a", "look"));
	EXPECT(lab, LM_RPC_INVALID_ARGUMENT, view(lab, "a", "active"));
	/* A failure leaves nothing behind. */
	EXPECT(lab, LM_RPC_NOT_FOUND, remote_stat(&lab->remote, "a", NULL));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "a", "base"));
	return 0;
}

static int only_active_ones_commit(struct lab *lab)
{
	TRY(committed(lab, "base", ""));
	EXPECT(lab, LM_RPC_OK, view(lab, "look", "base"));
	EXPECT(lab, LM_RPC_FAILED_PRECONDITION, commit(lab, "x", "look"));
	EXPECT(lab, LM_RPC_FAILED_PRECONDITION, commit(lab, "x", "base"));
	EXPECT(lab, LM_RPC_NOT_FOUND, remote_stat(&lab->remote, "x", NULL));
	/* Nor twice. */
	EXPECT(lab, LM_RPC_OK, prepare(lab, "active", "base"));
	EXPECT(lab, LM_RPC_OK, commit(lab, "x", "active"));
	EXPECT(lab, LM_RPC_NOT_FOUND, commit(lab, "y", "active"));
	EXPECT(lab, LM_RPC_ALREADY_EXISTS, commit(lab, "x", "active"));
	EXPECT(lab, LM_RPC_ALREADY_EXISTS, commit(lab, "x", "never there"));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "active", "x"));
	return 0;
}

static int same_mounts(struct lab *lab, const char *key, const struct mounts *first)
{
	CLEANUP(mounts_done) struct mounts again = {0};
	EXPECT(lab, LM_RPC_OK, remote_mounts(&lab->remote, key, &again));
	CHECK(lab, again.answer->n_mounts == 1 && first->answer->n_mounts == 1, "%s has not one mount", key);
	const V1(Mount) *a = first->answer->mounts[0], *b = again.answer->mounts[0];
	CHECK(lab, strcmp(a->type, b->type) == 0 && strcmp(a->source, b->source) == 0, "%s: %s of %s, then %s of %s",
		key, a->type, a->source, b->type, b->source);
	CHECK(lab, a->n_options == b->n_options, "%s: other options", key);
	for (size_t i = 0; i < a->n_options; i++)
		CHECK(lab, strcmp(a->options[i], b->options[i]) == 0, "%s: %s, then %s", key, a->options[i],
			b->options[i]);
	CHECK(lab, *a->target == '\0', "%s has a target: %s", key, a->target);
	return 0;
}

static int mounts_stay_the_same(struct lab *lab)
{
	static const char *const parents[] = {"", "one", "two"};
	TRY(committed(lab, "one", ""));
	TRY(committed(lab, "two", "one"));
	for (size_t i = 0; i < ARRAY_LEN(parents); i++) {
		for (int how = PREPARE; how <= VIEW; how++) {
			char key[16] = {how == PREPARE ? 'a' : 'v', (char)('0' + i)};
			CLEANUP(mounts_done) struct mounts mounts = {0};
			EXPECT(lab, LM_RPC_OK,
				remote_make(&lab->remote, (enum make)how, key, parents[i], ROOTED, &mounts));
			TRY(same_mounts(lab, key, &mounts));
			TRY(same_mounts(lab, key, &mounts));
			CLEANUP(lm_freep) char *upper = mount_option(&mounts, "upperdir");
			CLEANUP(lm_freep) char *lower = mount_option(&mounts, "lowerdir");
			bool overlay = how == PREPARE ? i > 0 : i > 1;
			CHECK(lab, strcmp(mounts.answer->mounts[0]->type, overlay ? "overlay" : "bind") == 0,
				"%s is mounted as %s", key, mounts.answer->mounts[0]->type);
			CHECK(lab, (upper != NULL) == (overlay && how == PREPARE), "%s: upper directory %s", key,
				upper ? upper : "missing");
			CHECK(lab, (lower != NULL) == overlay, "%s: lower directories %s", key,
				lower ? lower : "missing");
		}
	}
	EXPECT_AS(lab, "mounts of a committed one", remote_mounts(&lab->remote, "one", NULL));
	return 0;
}

static int views_are_read_only(struct lab *lab)
{
	static const char *const parents[] = {"", "one", "two"};
	TRY(lab_write(lab, "a", "", first_steps));
	EXPECT(lab, LM_RPC_OK, commit(lab, "one", "a"));
	TRY(lab_write(lab, "b", "one", second_steps));
	EXPECT(lab, LM_RPC_OK, commit(lab, "two", "b"));
	for (size_t i = 0; i < ARRAY_LEN(parents); i++) {
		CLEANUP(mounts_done) struct mounts mounts = {0};
		char key[] = {'v', (char)('0' + i), '\0'};
		CLEANUP(lm_freep) char *dir = lab_directory(lab, key);
		CLEANUP(lm_freep) char *file = dir ? lm_str_printf("%s/new", dir) : NULL;
		if (!file)
			return lm_err_oom(&lab->err);
		EXPECT(lab, LM_RPC_OK, remote_make(&lab->remote, VIEW, key, parents[i], ROOTED, &mounts));
		TRY(mount_all(&mounts, dir, &lab->err));
		int r = mkdir(file, 0755) < 0 ? -errno : 0;
		int changed = chmod(dir, 0700) < 0 ? -errno : 0;
		TRY(unmount(dir, &lab->err));
		CHECK(lab, r == -EROFS && changed == -EROFS, "a view on \"%s\" can be written to: %d, %d", parents[i],
			r, changed);
	}
	return 0;
}

static int remove_and_use_again(struct lab *lab)
{
	TRY(committed(lab, "base", ""));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "again", "base"));
	EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, "again"));
	EXPECT(lab, LM_RPC_NOT_FOUND, remote_remove(&lab->remote, "again"));
	EXPECT(lab, LM_RPC_OK, view(lab, "again", "base"));
	EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, "again"));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "again", ""));
	EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, "base"));
	EXPECT(lab, LM_RPC_OK, commit(lab, "base", "again"));
	TRY(check_info(lab, "base", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__COMMITTED, ""));
	return 0;
}

static int remove_in_order(struct lab *lab)
{
	TRY(committed(lab, "base", ""));
	TRY(committed(lab, "middle", "base"));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "top", "middle"));
	EXPECT(lab, LM_RPC_FAILED_PRECONDITION, remote_remove(&lab->remote, "middle"));
	EXPECT(lab, LM_RPC_FAILED_PRECONDITION, remote_remove(&lab->remote, "base"));
	EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, "top"));
	EXPECT(lab, LM_RPC_FAILED_PRECONDITION, remote_remove(&lab->remote, "base"));
	EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, "middle"));
	EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, "base"));
	return 0;
}

/* What is mounted outlives its snapshot for as long as it is mounted. */
static int remove_while_mounted(struct lab *lab)
{
	CLEANUP(mounts_done) struct mounts mounts = {0};
	CLEANUP(lm_freep) char *dir = lab_directory(lab, "mounted");
	if (!dir)
		return lab->err.code;
	TRY(lab_write(lab, "a", "", first_steps));
	EXPECT(lab, LM_RPC_OK, commit(lab, "base", "a"));
	EXPECT(lab, LM_RPC_OK, remote_make(&lab->remote, PREPARE, "busy", "base", ROOTED, &mounts));
	TRY(mount_all(&mounts, dir, &lab->err));
	enum lm_rpc_code code = remote_remove(&lab->remote, "busy");
	enum lm_rpc_code after = remote_stat(&lab->remote, "busy", NULL);
	TRY(unmount(dir, &lab->err));
	CHECK(lab, code == LM_RPC_OK && after == LM_RPC_NOT_FOUND, "remove: status %d, then stat %d", code, after);
	EXPECT(lab, LM_RPC_OK, prepare(lab, "busy", "base"));
	return 0;
}

static int cleanup(struct lab *lab)
{
	TRY(committed(lab, "base", ""));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "kept", "base"));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "gone", "base"));
	EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, "gone"));
	EXPECT_AS(lab, "cleanup", remote_cleanup(&lab->remote));
	EXPECT_AS(lab, "cleanup", remote_cleanup(&lab->remote));
	TRY(lab_write(lab, "written", "base", first_steps));
	TRY(check_info(lab, "kept", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__ACTIVE, "base"));
	return 0;
}

/* Bytes and inodes of a snapshot alone. */
static int usage(struct lab *lab)
{
	CLEANUP(lm_freep) char *large = malloc((1 << 20) + 1);
	if (!large)
		return lm_err_oom(&lab->err);
	memset(large, 'x', 1 << 20);
	large[1 << 20] = '\0';
	const struct step many[] = {{FILE_OF, "large", large, .mode = 0644}, {DIRECTORY, "d", .mode = 0755},
		{FILE_OF, "d/f", "small", .mode = 0644}, {LINK, "large", "d/also", .mode = 0}, {END}};
	int64_t bytes[5], inodes[5];
	EXPECT(lab, LM_RPC_OK, prepare(lab, "empty", ""));
	EXPECT(lab, LM_RPC_OK, remote_usage(&lab->remote, "empty", &bytes[0], &inodes[0]));
	CHECK(lab, inodes[0] <= 1 && bytes[0] < 65536, "empty: %ld bytes", (long)bytes[0]);
	TRY(lab_write(lab, "a", "", many));
	EXPECT(lab, LM_RPC_OK, remote_usage(&lab->remote, "a", &bytes[1], &inodes[1]));
	CHECK(lab, bytes[1] >= bytes[0] + (1 << 20) && bytes[1] < bytes[0] + (3 << 19),
		"a megabyte with two names counts as %ld", (long)(bytes[1] - bytes[0]));
	CHECK(lab, inodes[1] == inodes[0] + 3, "three more are %ld inodes", (long)(inodes[1] - inodes[0]));
	EXPECT(lab, LM_RPC_OK, commit(lab, "base", "a"));
	EXPECT(lab, LM_RPC_OK, remote_usage(&lab->remote, "base", &bytes[2], &inodes[2]));
	CHECK(lab, bytes[2] == bytes[1] && inodes[2] == inodes[1], "committed: %ld bytes instead of %ld",
		(long)bytes[2], (long)bytes[1]);
	EXPECT(lab, LM_RPC_OK, prepare(lab, "b", "base"));
	EXPECT(lab, LM_RPC_OK, remote_usage(&lab->remote, "b", &bytes[3], &inodes[3]));
	CHECK(lab, bytes[3] < 65536, "the parent counts: %ld bytes", (long)bytes[3]);
	EXPECT(lab, LM_RPC_OK, view(lab, "look", "base"));
	EXPECT(lab, LM_RPC_OK, remote_usage(&lab->remote, "look", &bytes[4], &inodes[4]));
	CHECK(lab, bytes[4] == 0 && inodes[4] == 0, "a view of %ld bytes", (long)bytes[4]);
	return 0;
}

const struct test cases_state[] = {
	{"basic", basic},
	{"stat-missing", stat_missing},
	{"times", times},
	{"transitivity", transitivity},
	{"keys-are-unique", keys_are_unique},
	{"parents-are-committed", parents_are_committed},
	{"only-active-ones-commit", only_active_ones_commit},
	{"mounts-stay-the-same", mounts_stay_the_same},
	{"views-are-read-only", views_are_read_only},
	{"remove-and-use-again", remove_and_use_again},
	{"remove-in-order", remove_in_order},
	{"remove-while-mounted", remove_while_mounted},
	{"cleanup", cleanup},
	{"usage", usage},
	{0},
};
