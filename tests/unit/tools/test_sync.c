/* Wish lists, what is remembered, and notifications on their way; the rest is tests/e2e/sync.sh's. */
#include "sync/events.h"
#include "sync/inbox.h"
#include "sync/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define DIGEST "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static char notes[4096];

static void on_note(void *arg, const char *text)
{
	strncat(notes, text, sizeof(notes) - strlen(notes) - 1);
}

static struct lm_wishlist *parse(const char *text)
{
	struct lm_wishlist *list = NULL;
	struct lm_err err = LM_ERR_INIT;
	notes[0] = '\0';
	if (lm_wishlist_parse(text, strlen(text), on_note, NULL, &list, &err) < 0)
		fail_msg("%s", err.msg);
	return list;
}

static void refuse(const char *text, const char *why)
{
	struct lm_wishlist *list = NULL;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_wishlist_parse(text, strlen(text), NULL, NULL, &list, &err), -EINVAL);
	if (strncmp(err.msg, why, strlen(why)) != 0)
		fail_msg("\"%s\" instead of \"%s\"", err.msg, why);
	assert_null(list);
}

static void check_names(const struct lm_wish *wish, const char *tag, const char *source, const char *name)
{
	CLEANUP(lm_freep) char *seen_source = NULL, *seen_name = NULL;
	assert_int_equal(lm_wish_names(wish, tag, &seen_source, &seen_name, NULL), 0);
	assert_string_equal(seen_source, source);
	assert_string_equal(seen_name, name);
}

static void recipes(void **state)
{
	CLEANUP(lm_wishlist_freep)
	struct lm_wishlist *list =
		parse("version: 1\nuser: me\ncvmfs_repo: a.example.org\noutput_format: '$(scheme)://x/$(image)'\n"
		      "thin: yes\ninput:\n  - 'https://r.example.org/g/n:1*'\n  - r.example.org/g/n\n"
		      "  - 'Not An Image'\n  - 'https://r.example.org/g/n'\n");
	assert_int_equal(list->version, 1);
	assert_int_equal(list->count, 1);
	assert_int_equal(list->repos[0].count, 2);
	assert_int_equal(list->bad, 1);
	assert_non_null(strstr(notes, "5:1: unknown key \"thin\""));
	assert_non_null(strstr(notes, "9:5: "));
	assert_non_null(strstr(notes, "10:5: the same image"));
	const struct lm_wish *wishes = list->repos[0].wishes;
	assert_true(wishes[0].wildcard && wishes[0].flat && wishes[0].trees);
	assert_true(lm_wish_wants(&wishes[0], "1.2") && !lm_wish_wants(&wishes[0], "2"));
	check_names(&wishes[0], "1.2", "docker://r.example.org/g/n:1.2", "r.example.org/g/n:1.2");
	assert_string_equal(wishes[1].tag, "latest");
}

static void own_lists(void **state)
{
	CLEANUP(lm_wishlist_freep)
	struct lm_wishlist *list =
		parse("version: 2\ngrace: 2h\nplatform: all\nrepositories:\n"
		      "- {repository: a.org, grace: 0s, images: [x/y, {image: x/z, trees: no}]}\n"
		      "- repository: b.org\n  trees: no\n  images:\n"
		      "  - {image: 'http://h:5000/x/y:*', exclude: ['*-rc*', 'old*'], flat: no, trees: yes,\n"
		      "     platform: linux/arm/v7, name: 'm.org/$(repository):$(tag)'}\n");
	assert_int_equal(list->repos[0].grace_s, -1);
	assert_int_equal(list->repos[1].grace_s, 7200);
	assert_string_equal(list->repos[0].wishes[0].platform, "all");
	const struct lm_wish *wish = &list->repos[1].wishes[0];
	assert_string_equal(wish->platform, "linux/arm/v7");
	assert_true(!wish->flat && wish->trees);
	assert_true(list->repos[0].wishes[0].trees && !list->repos[0].wishes[1].trees);
	assert_true(lm_wish_wants(wish, "1") && !lm_wish_wants(wish, "1-rc2") && !lm_wish_wants(wish, "older"));
	check_names(wish, "1", "docker://h:5000/x/y:1", "m.org/x/y:1");
}

static void wrong_lists(void **state)
{
	refuse("", "1:1: the wish list is empty");
	refuse("version: 3\n", "1:10: version: 1 (DUCC's) and 2");
	refuse("cvmfs_repo: x\n", "1:1: key \"version\" is missing");
	refuse("version: 1\ncvmfs_repo: x\n", "1:1: key \"input\" is missing");
	refuse("version: 2\nrepositories:\n - images: []\n", "3:4: key \"repository\" is missing");
	refuse("version: 2\nrepositories:\n - repository: x\n   images: []\n   flat: maybe\n",
		"5:10: flat: true or false");
	refuse("version: 2\ngrace: 11y\nrepositories: []\n", "2:8: grace: a time");
	refuse("version: 2\ngrace: 99999999999999w\nrepositories: []\n", "2:8: grace: a time");
	refuse("version: 2\nversion: 2\nrepositories: []\n", "2:1: key \"version\" a second time");
	refuse("version: 2\nrepositories: &a [*a]\n", "2:15: a repository: keys");
	refuse("version: 1\ncvmfs_repo: x\ninput: []\n---\nversion: 1\n", "5:1: a second document");
	refuse("version: 1\noutput_format: '$(nothing)'\ncvmfs_repo: x\ninput: []\n", "2:16: output_format: ");
	refuse("version: 1\n\tinput: [\n", "2:1: ");
}

static void remembered(void **state)
{
	CLEANUP(lm_sync_closep) struct lm_sync_state *one = lm_sync_new("/list"), *two = lm_sync_new("/list");
	CLEANUP(lm_buf_done) struct lm_buf text = LM_BUF(1 << 20), again = LM_BUF(1 << 20);
	struct lm_sync_image *image;
	struct lm_sync_repo *repo;
	struct lm_err err = LM_ERR_INIT;
	assert_int_equal(lm_sync_repo(one, "a.org", &repo, NULL), 0);
	snprintf(repo->root, sizeof(repo->root), "abc");
	for (int i = 99; i >= 0; i--) {
		char name[32];
		snprintf(name, sizeof(name), "r/n:%02d", i);
		assert_int_equal(lm_sync_add(one, "a.org", name, &image, NULL), 0);
		image->source = strdup("docker://r/n");
		snprintf(image->digest, sizeof(image->digest), DIGEST);
	}
	image = lm_sync_find(one, "a.org", "r/n:07");
	const int64_t waits[] = {60, 120, 240, 480, 960, 1920, 3600, 3600};
	for (size_t i = 0; i < ARRAY_LEN(waits); i++) {
		lm_sync_failed(image, 1000, "no \"luck\"\n", false);
		assert_int_equal(image->next_s, 1000 + waits[i]);
	}
	assert_string_equal(lm_sync_at(one, 99)->name, "r/n:99");
	assert_null(lm_sync_find(one, "b.org", "r/n:07"));
	assert_int_equal(lm_sync_format(one, &text, NULL), 0);
	assert_int_equal(lm_sync_parse(lm_buf_cstr(&text), text.len, "/other", two, &err), -EEXIST);
	assert_int_equal(lm_sync_parse(lm_buf_cstr(&text), text.len, "/list", two, &err), 0);
	assert_int_equal(lm_sync_format(two, &again, NULL), 0);
	assert_string_equal(lm_buf_cstr(&text), lm_buf_cstr(&again));
	lm_sync_succeeded(image, 2000);
	assert_null(image->error);
	assert_int_equal(image->next_s, 0);
	lm_sync_drop(one, image);
	assert_int_equal(lm_sync_count(one), 99);
	assert_null(lm_sync_find(one, "a.org", "r/n:07"));
	assert_int_equal(lm_sync_parse("{\"format\": 1", 12, "/list", two, &err), -EPROTO);
}

static int put_event(void *arg, const char *repository, const char *tag, const char *digest)
{
	int r = lm_inbox_put(arg, repository, tag, digest);
	return r < 0 ? r : 0;
}

static void notified(void **state)
{
	static const char events[] =
		"{\"events\": [{\"action\": \"push\", \"target\": {\"repository\": \"x/y\", \"tag\": \"v1\", "
		"\"digest\": \"" DIGEST "\"}},"
		"{\"action\": \"push\", \"target\": {\"repository\": \"x/y\", \"tag\": \"v1\"}},"
		"{\"action\": \"push\", \"target\": {\"repository\": \"x/z\", \"tag\": \"v1\"}},"
		"{\"action\": \"push\", \"target\": {\"repository\": \"x/y\"}}, {\"action\": \"pull\"}]}";
	CLEANUP(lm_wishlist_freep)
	struct lm_wishlist *list = parse("version: 1\ncvmfs_repo: a\ninput: ['r.org/x/y:v*']\n");
	CLEANUP(lm_inbox_freep) struct lm_inbox *inbox = NULL;
	CLEANUP(lm_pushed_done) struct lm_pushed pushed = {0}, none = {0};
	size_t others = 0;
	int64_t due_ms;
	assert_int_equal(lm_inbox_new(&inbox, NULL), 0);
	assert_int_equal(lm_inbox_watch(inbox, list, NULL), 0);
	assert_int_equal(lm_events_parse(events, strlen(events), put_event, inbox, &others, NULL), 0);
	assert_int_equal(others, 2);
	assert_false(lm_inbox_empty(inbox, NULL));
	lm_inbox_take(inbox, &pushed);
	assert_int_equal(pushed.count, 1);
	assert_string_equal(pushed.items[0].tag, "v1");
	assert_true(lm_inbox_empty(inbox, &due_ms));
	assert_int_equal(due_ms, -1);
	pushed.items[0].early = true;
	lm_inbox_later(inbox, &pushed);
	assert_true(lm_inbox_empty(inbox, &due_ms) && due_ms > 0);
	lm_inbox_take(inbox, &none);
	assert_int_equal(none.count, 0);
	for (int i = 0; i < LM_INBOX_MAX; i++) {
		char tag[16];
		snprintf(tag, sizeof(tag), "v%d", i);
		assert_int_equal(lm_inbox_put(inbox, "x/y", tag, ""), 1);
	}
	assert_int_equal(lm_inbox_put(inbox, "x/y", "vmore", ""), -EAGAIN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(recipes),
		cmocka_unit_test(own_lists),
		cmocka_unit_test(wrong_lists),
		cmocka_unit_test(remembered),
		cmocka_unit_test(notified),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
