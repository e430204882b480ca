/* What nobody should send: it is answered, clearly, and everybody else goes on. */
#include "conformance.h"

#include "base/str.h"

#include <string.h>

/* A text of that many bytes; the caller frees. */
static char *long_text(size_t len)
{
	char *text = malloc(len + 1);
	if (text) {
		memset(text, 'k', len);
		text[len] = '\0';
	}
	return text;
}

static int still_works(struct lab *lab)
{
	EXPECT(lab, LM_RPC_OK, prepare(lab, "afterwards", ""));
	EXPECT(lab, LM_RPC_OK, remote_stat(&lab->remote, "afterwards", NULL));
	EXPECT(lab, LM_RPC_OK, remote_remove(&lab->remote, "afterwards"));
	return 0;
}

static int odd_keys(struct lab *lab)
{
	static const char *const keys[] = {"with blanks and\ttabs", "a/b", "../../../../../tmp/x", "/etc/passwd", "..",
		".", "line\nfeed", "comma,colon:equals=\"quote\"\\", "uml\xc3\xa4ut \xf0\x9f\x90\x91", "@lamella/1/x",
		"extract-1-x sha256:0000", "%s%n", "~", "-rf"};
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		CLEANUP(lm_freep) char *name = lm_str_printf("%s committed", keys[i]);
		CLEANUP(mounts_done) struct mounts mounts = {0};
		CLEANUP(listing_done) struct listing listing = {0};
		if (!name)
			return lm_err_oom(&lab->err);
		EXPECT(lab, LM_RPC_OK, remote_make(&lab->remote, PREPARE, keys[i], "", ROOTED, &mounts));
		TRY(check_info(lab, keys[i], CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__ACTIVE, ""));
		CLEANUP(lm_freep) char *upper = mount_upper(&mounts);
		CHECK(lab, upper && !strstr(upper, "..") && !strstr(upper, "passwd") && strstr(upper, "/snapshots/"),
			"%s lies in %s", keys[i], upper ? upper : "nothing");
		EXPECT(lab, LM_RPC_OK, remote_list(&lab->remote, NULL, &listing));
		CHECK(lab, listing_find(&listing, keys[i]), "%s is not listed", keys[i]);
		EXPECT(lab, LM_RPC_OK, commit(lab, name, keys[i]));
		EXPECT(lab, LM_RPC_OK, view(lab, keys[i], name));
		TRY(check_info(lab, keys[i], CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__VIEW, name));
	}
	return still_works(lab);
}

static int no_keys(struct lab *lab)
{
	int64_t bytes, inodes;
	TRY(committed(lab, "base", ""));
	EXPECT_AS(lab, "an empty key", prepare(lab, "", ""));
	EXPECT_AS(lab, "an empty key", view(lab, "", "base"));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "a", "base"));
	EXPECT_AS(lab, "an empty key", commit(lab, "", "a"));
	EXPECT_AS(lab, "an empty key to look for", remote_stat(&lab->remote, "", NULL));
	EXPECT_AS(lab, "an empty key to look for", remote_usage(&lab->remote, "", &bytes, &inodes));
	EXPECT_AS(lab, "an empty key to look for", remote_mounts(&lab->remote, "", NULL));
	EXPECT_AS(lab, "an empty key to look for", remote_remove(&lab->remote, ""));
	EXPECT_AS(lab, "an empty key to update", remote_update(&lab->remote, "", "", ROOTED, NULL, NULL));
	TRY(check_info(lab, "a", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__ACTIVE, "base"));
	return still_works(lab);
}

static int long_keys(struct lab *lab)
{
	CLEANUP(lm_freep) char *good = long_text(4096), *bad = long_text(64 << 10), *worse = long_text(4 << 20);
	if (!good || !bad || !worse)
		return lm_err_oom(&lab->err);
	EXPECT(lab, LM_RPC_OK, prepare(lab, good, ""));
	TRY(check_info(lab, good, CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__ACTIVE, ""));
	EXPECT_AS(lab, "a key of 64 KiB", prepare(lab, bad, ""));
	EXPECT_AS(lab, "a name of 64 KiB", commit(lab, bad, good));
	EXPECT_AS(lab, "a key of 64 KiB, afterwards", remote_stat(&lab->remote, bad, NULL));
	EXPECT_AS(lab, "a parent of 4 MiB", prepare(lab, "child", worse));
	EXPECT_AS(lab, "a parent of 4 MiB", remote_remove(&lab->remote, worse));
	TRY(check_info(lab, good, CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__ACTIVE, ""));
	return still_works(lab);
}

static int long_labels(struct lab *lab)
{
	CLEANUP(lm_freep) char *good = long_text(4000), *bad = long_text(8 << 10), *worse = long_text(2 << 20);
	CLEANUP(info_done) struct info info = {0};
	if (!good || !bad || !worse)
		return lm_err_oom(&lab->err);
	EXPECT(lab, LM_RPC_OK, remote_make(&lab->remote, PREPARE, "a", "", LABELS("l", good), NULL));
	EXPECT(lab, LM_RPC_OK, remote_stat(&lab->remote, "a", &info));
	const char *kept = info_label(info.info, "l");
	CHECK(lab, kept && strcmp(kept, good) == 0, "a label of 4000 bytes is not kept");
	EXPECT(lab, LM_RPC_INVALID_ARGUMENT, remote_make(&lab->remote, PREPARE, "b", "", LABELS("l", bad), NULL));
	EXPECT(lab, LM_RPC_INVALID_ARGUMENT, remote_update(&lab->remote, "a", "", LABELS("l", bad), NULL, NULL));
	EXPECT(lab, LM_RPC_INVALID_ARGUMENT, remote_make(&lab->remote, PREPARE, "c", "", LABELS("l", worse), NULL));
	EXPECT(lab, LM_RPC_INVALID_ARGUMENT, remote_update(&lab->remote, "a", "", LABELS("l", worse), NULL, NULL));
	EXPECT(lab, LM_RPC_INVALID_ARGUMENT, remote_commit(&lab->remote, "d", "a", LABELS("l", worse)));
	EXPECT(lab, LM_RPC_NOT_FOUND, remote_stat(&lab->remote, "c", NULL));
	TRY(check_info(lab, "a", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__ACTIVE, ""));
	return still_works(lab);
}

static int broken_messages(struct lab *lab)
{
	/* Key is field 2 and parent field 3, and both are text: of all of it, not of what is before a NUL. */
	TRY(committed(lab, "base", ""));
	EXPECT_AS(lab, "a key with a NUL", remote_raw(&lab->remote, "Stat", 2, "base\0b", 6));
	EXPECT_AS(lab, "a key with a NUL", remote_raw(&lab->remote, "Remove", 2, "base\0b", 6));
	EXPECT_AS(lab, "a parent with a NUL", remote_raw(&lab->remote, "Prepare", 3, "base\0b", 6));
	EXPECT_AS(lab, "text that is not UTF-8", remote_raw(&lab->remote, "Stat", 2, "base\xff\xfe", 6));
	/* Labels are messages. */
	EXPECT_AS(lab, "a message that is none", remote_raw(&lab->remote, "Prepare", 4, "\xff\xff\xff", 3));
	EXPECT_AS(lab, "a message that is none", remote_raw(&lab->remote, "Update", 2, "\x0a\x7f", 2));
	EXPECT(lab, LM_RPC_UNIMPLEMENTED, remote_raw(&lab->remote, "Nothing", 2, "", 0));
	/* A field that nobody knows is for a later version. */
	EXPECT(lab, LM_RPC_OK, prepare(lab, "b", ""));
	EXPECT(lab, LM_RPC_NOT_FOUND, remote_raw(&lab->remote, "Stat", 99, "later", 5));
	if (lab_value(lab, "updates of nothing can be sent"))
		EXPECT(lab, LM_RPC_INVALID_ARGUMENT, remote_raw(&lab->remote, "Update", 99, "later", 5));
	TRY(check_info(lab, "b", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__ACTIVE, ""));
	return still_works(lab);
}

const struct test cases_limits[] = {
	{"odd-keys", odd_keys},
	{"no-keys", no_keys},
	{"long-keys", long_keys},
	{"long-labels", long_labels},
	{"broken-messages", broken_messages},
	{0},
};
